// Debian on a disk of its own, used as its owner would: boot, log in, look around, restart, power off.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import type { PulledImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { Guest, plain } from '../../../apps/xhyve-cli/src/testing/guest.ts';
import { checkDisk, convertDisk, createDisk } from '../../../packages/backends/block/src/disk/index.ts';

/** Devices that the disk may hang on. */
export const DEBIAN_DEVICES = ['virtio-blk', 'ahci-hd', 'nvme'] as const;

/** One of {@link DEBIAN_DEVICES}. */
export type DebianDevice = (typeof DEBIAN_DEVICES)[number];

/** Options of {@link debianSession}. */
export interface DebianOptions {
  /** Directory for the disk; must be empty. */
  readonly dir: string;
  /** Device. */
  readonly device: DebianDevice;
  /** Whether it is restarted in between, and looked at again. Default true. */
  readonly restart?: boolean;
  /** Told how it goes. */
  readonly say: (line: string) => void;
}

const PROMPT = /root@debian:\S*# /u;

/**
 * A disk of its own over the image's, booted and restarted; then the host looks at the disk.
 * @throws when anything is not as it should be
 */
export async function debianSession(image: PulledImage, o: DebianOptions): Promise<void> {
  const { disk } = image.paths;
  if (disk === null) throw new Error('the image has no disk');
  const path = join(o.dir, 'debian.qcow2');
  await createDisk(path, { format: 'qcow2', size: null, backing: disk, backingFormat: 'qcow2' });
  const first = await session(image, o, path, async (g) => {
    const state = await shell(g, 'systemctl is-system-running --wait', 240);
    const failed = await shell(g, 'systemctl --failed --no-legend --plain --no-pager');
    o.say(`is-system-running: ${state}${failed === '' ? '' : `; failed: ${failed}`}`);
    if (state !== 'running') throw new Error(`systemd is ${state}:\n${failed}`);
    o.say(await shell(g, 'systemd-analyze time | head -1'));
    const root = await shell(g, 'findmnt -no SOURCE,FSTYPE,OPTIONS /');
    if (!/ ext4 +rw/u.test(root)) throw new Error(`/ is ${root}`);
    o.say(`/ is ${root}`);
    const errors = await shell(g, 'journalctl -b -p err -q --no-pager | cut -c1-150');
    if (errors !== '') o.say(`errors in the journal:\n${errors}`);
    await shell(g, 'echo kept >/root/kept; sync');
    return o.restart === false ? 'systemctl poweroff' : 'reboot';
  });
  if (o.restart !== false) {
    if (first !== 0) throw new Error(`after reboot the program ended with ${first}, not 0`);
    await again(image, o, path);
  } else if (first !== 1) throw new Error(`after power off the program ended with ${first}, not 1`);
  const r = await checkDisk(path);
  if (r.corruptions > 0 || r.leaks > 0) throw new Error(`the image: ${r.corruptions} corruptions, ${r.leaks} leaks`);
  const raw = join(o.dir, 'converted.img');
  await convertDisk(path, raw);
  const fsck = spawnSync('e2fsck', ['-fn', raw], { encoding: 'utf8' });
  if (fsck.error === undefined && fsck.status !== 0) throw new Error(`e2fsck: ${fsck.stdout}${fsck.stderr}`);
  if (fsck.error === undefined) o.say('e2fsck -f: clean');
}

/** The boot after the restart. */
async function again(image: PulledImage, o: DebianOptions, path: string): Promise<void> {
  const second = await session(image, o, path, async (g) => {
    const kept = await shell(g, 'cat /root/kept');
    if (kept !== 'kept') throw new Error(`what was written before the reboot is: ${kept}`);
    const state = await shell(g, 'systemctl is-system-running --wait', 240);
    if (state !== 'running') throw new Error(`after the reboot systemd is ${state}`);
    return 'systemctl poweroff';
  });
  if (second !== 1) throw new Error(`after power off the program ended with ${second}, not 1`);
}

/** One boot. @param use what is done at the shell; returns the command that ends it @returns the program's exit status */
async function session(
  image: PulledImage,
  o: DebianOptions,
  path: string,
  use: (g: Guest) => Promise<string>,
): Promise<number | string> {
  const { kernel, initrd } = image.paths;
  const from = performance.now();
  const g = Guest.start([
    ...['--engine', 'soft', '-A', '-u', '-m', image.manifest.memory, '-c', '2', '-s', '0,hostbridge', '-s', '31,lpc'],
    ...['-s', `3,${o.device},${path}`, '-s', '4,virtio-rnd', '-l', 'com1,stdio'],
    ...['-f', `kexec,${kernel},${initrd},${image.manifest.cmdline}`],
  ]);
  try {
    await g.expect(/debian login: $/u, 900);
    o.say(`login prompt after ${((performance.now() - from) / 1000).toFixed(1)} s`);
    g.send('root\n');
    await g.expect(PROMPT, 60);
    // bash's line editor would dress up what is echoed.
    g.send('stty cols 999; bind "set enable-bracketed-paste off"; export SYSTEMD_PAGER= SYSTEMD_COLORS=0\n');
    await g.expect(PROMPT, 60);
    g.send(`${await use(g)}\n`);
    return await g.status(180);
  } catch (e) {
    throw new Error(`${e instanceof Error ? e.message : String(e)}\nthe screen:\n${g.tail(60)}`);
  } finally {
    await g.end();
  }
}

/** Runs a line at bash's prompt. @returns what it printed */
async function shell(g: Guest, line: string, seconds = 60): Promise<string> {
  const before = g.text.length;
  g.send(`${line}\n`);
  await g.expect(PROMPT, seconds);
  return plain(g.text.slice(before)).split('\n').slice(1, -1).join('\n').trim();
}
