// What a guest's kernel complains about here and not under QEMU: `node apps/xhyve-cli/bench/dmesg.ts [IMAGE…|FILE…] [-c N]`
// boots each kernel twice, reads `dmesg` at level warn and worse, and prints the lines that only Hyve's has (`+`) and those
// that only QEMU's has (`-`). All kernels get the initrd of debian-full or debian-i386, whose shell answers. Exit status 1
// if there is a `+`.
import { existsSync } from 'node:fs';
import { bootArgs, Guest, image, plain } from '../test/guest.ts';
import { complaints } from '../test/kernel-log.ts';

const args = process.argv.slice(2);
const at = args.indexOf('-c');
const counts = at < 0 ? [1, 4] : [Number(args.splice(at, 2)[1])];
const wanted =
  args.length > 0 ? args : ['debian-cloud', 'debian-full', 'debian-netboot', 'debian-i386', 'debian-netboot-i386'];

async function log(g: Guest): Promise<Map<string, string>> {
  try {
    await g.prompt(240);
    await g.run('stty cols 1000; echo 1 1 1 1 >/proc/sys/kernel/printk', 30);
    return complaints(plain(await g.run('dmesg -r | grep "^<[0-4]>"; true', 60)));
  } finally {
    await g.end();
  }
}

let worse = false;
for (const name of wanted) {
  const file = existsSync(name) ? name : null;
  const shell = await image(/i386/u.test(name) ? 'debian-i386' : 'debian-full');
  const own = file === null ? await image(name) : shell;
  if (typeof own === 'string' || typeof shell === 'string') throw new Error(`${name}: no image`);
  const kernel = file ?? (own.paths['kernel'] as string);
  const initrd = (/netboot/u.test(name) ? shell : own).paths['initrd'] as string;
  const guest = { manifest: { ...own.manifest, memory: '512M' }, paths: { ...own.paths, kernel, initrd } };
  for (const cpus of counts) {
    const ours = await log(Guest.start(bootArgs(guest as typeof own, { cpus, append: 'quiet' })));
    const theirs = await log(
      new Guest('qemu-system-x86_64', [
        ...['-M', 'q35', '-cpu', 'max', '-m', '512M', '-smp', String(cpus), '-nographic', '-no-reboot', '-nodefaults'],
        ...['-serial', 'stdio', '-kernel', kernel, '-initrd', initrd, '-append', 'console=ttyS0 quiet'],
      ]),
    );
    const more = [...ours].filter(([key]) => !theirs.has(key));
    const less = [...theirs].filter(([key]) => !ours.has(key));
    console.log(`${name} -c ${cpus}: ${ours.size} complaints here, ${theirs.size} under QEMU`);
    for (const [, line] of more) console.log(`  + ${line}`);
    for (const [, line] of less) console.log(`  - ${line}`);
    if (more.length > 0) worse = true;
  }
}
process.exitCode = worse ? 1 : 0;
