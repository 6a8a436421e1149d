// `node tools/guest-lab/src/main.ts COMMAND`: acceptance runs that take longer than the test suite may.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pullImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { DEBIAN_DEVICES, type DebianDevice, debianSession } from './debian.ts';
import { checkDevices, INTERRUPTS, type Interrupts } from './devices.ts';
import { DISK_KINDS, type DiskKind, missing } from './disks.ts';
import { hostConditions } from './host.ts';
import { labImage, soakImage } from './image.ts';
import { soak } from './soak.ts';
import { growTree } from './tree.ts';
import { LAB_DEVICES, verify } from './verify.ts';

const USAGE = `usage: node tools/guest-lab/src/main.ts COMMAND
  verify [KIND…]   the verifying workload on every device over these back ends: ${DISK_KINDS.join(', ')}
  devices [HOW…]   lspci, smartctl, hdparm, nvme and the drivers on every device, interrupting by ${INTERRUPTS.join(', ')}
  tree [FILES [FORMAT]]
                   a tree of so many files (50000) on raw and qcow2 disks, and e2fsck on the host
  host [NAME]      a full disk, a lost NBD server, an image in use, a missing backing file (parts need root); those whose name has NAME in it
  debian [DEVICE…] Debian with systemd on a qcow2 disk: boot, log in, reboot, power off; virtio-blk, ahci-hd, nvme
  soak [MINUTES [CPUS [WORD…]]]
                   stress-ng, which verifies what it computed, for so long (120) on so many processors (2); WORDs go to the
                   kernel's command line, those with a leading - to the program`;

/** Where disks go: HYVE_LAB_DIR, or the system's place for temporary files. */
async function inPlace<T>(run: (dir: string) => Promise<T>): Promise<T> {
  const base = process.env['HYVE_LAB_DIR'] ?? tmpdir();
  mkdirSync(base, { recursive: true });
  const dir = mkdtempSync(join(base, 'guest-lab-'));
  try {
    return await run(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

async function verifyCommand(words: readonly string[]): Promise<number> {
  const kinds = words.length === 0 ? DISK_KINDS : (words as readonly DiskKind[]);
  const unknown = words.find((w) => !DISK_KINDS.some((k) => k === w));
  if (unknown !== undefined) throw new Error(`no back end '${unknown}'; there are ${DISK_KINDS.join(', ')}`);
  const image = await labImage();
  const cells = new Map<string, string>();
  let failed = 0;
  for (const kind of kinds) {
    const why = missing(kind);
    if (why !== null) {
      console.log(`${kind}: skipped, ${why}`);
      continue;
    }
    await inPlace((dir) =>
      verify(image, {
        dir,
        kind,
        onVerdict: (v) => {
          const text = v.problem === '' ? `ok ${v.seconds.toFixed(0)} s` : 'FAILED';
          console.log(`${v.device} on ${v.kind}: ${text}${v.problem === '' ? '' : `\n${v.problem}`}`);
          cells.set(`${v.device}/${v.kind}`, text);
          if (v.problem !== '') failed++;
        },
      }),
    );
  }
  console.log(`\n| | ${kinds.join(' | ')} |\n|---|${kinds.map(() => '---|').join('')}`);
  for (const d of LAB_DEVICES)
    console.log(`| ${d.name} | ${kinds.map((k) => cells.get(`${d.name}/${k}`) ?? '–').join(' | ')} |`);
  return failed === 0 ? 0 : 1;
}

async function devicesCommand(words: readonly string[]): Promise<number> {
  const ways = words.length === 0 ? INTERRUPTS : (words as readonly Interrupts[]);
  const unknown = words.find((w) => !INTERRUPTS.some((k) => k === w));
  if (unknown !== undefined) throw new Error(`no interrupts '${unknown}'; there are ${INTERRUPTS.join(', ')}`);
  const image = await labImage();
  let wrong = 0;
  for (const way of ways) {
    const lines = await inPlace((dir) => checkDevices(image, dir, way, (line) => console.log(line)));
    for (const l of lines) console.log(l);
    wrong += lines.length;
  }
  console.log(`${wrong} wrong`);
  return wrong === 0 ? 0 : 1;
}

async function treeCommand(words: readonly string[]): Promise<number> {
  const files = Number(words[0] ?? 50000);
  if (!Number.isInteger(files) || files < 1) throw new Error(`${words[0]}: a number of files expected`);
  if (words[1] !== undefined && words[1] !== 'raw' && words[1] !== 'qcow2')
    throw new Error(`${words[1]}: raw or qcow2 expected`);
  const image = await labImage();
  let wrong = 0;
  for (const [kind, device] of [
    ['raw', 'virtio-blk'],
    ['qcow2', 'nvme'],
  ] as const) {
    if (words[1] !== undefined && words[1] !== kind) continue;
    const problem = await inPlace((dir) => growTree(image, { dir, kind, device, files, say: (t) => console.log(t) }));
    console.log(`${files} files, ${device} on ${kind}: ${problem === '' ? 'clean' : problem}`);
    if (problem !== '') wrong++;
  }
  return wrong === 0 ? 0 : 1;
}

async function hostCommand(words: readonly string[]): Promise<number> {
  const image = await labImage();
  const verdicts = await inPlace((dir) =>
    hostConditions(image, dir, words.join(' '), (v) =>
      console.log(
        `${v.name}: ${v.skipped !== null ? `skipped, ${v.skipped}` : v.problem === '' ? 'ok' : `FAILED\n${v.problem}`}`,
      ),
    ),
  );
  return verdicts.every((v) => v.problem === '') ? 0 : 1;
}

async function debianCommand(words: readonly string[]): Promise<number> {
  const devices = words.length === 0 ? DEBIAN_DEVICES : (words as readonly DebianDevice[]);
  const unknown = words.find((w) => !DEBIAN_DEVICES.some((k) => k === w));
  if (unknown !== undefined) throw new Error(`no device '${unknown}'; there are ${DEBIAN_DEVICES.join(', ')}`);
  const image = await pullImage('debian-disk');
  for (const device of devices) {
    await inPlace((dir) => debianSession(image, { dir, device, say: (line) => console.log(`${device}: ${line}`) }));
    console.log(`${device}: ok`);
  }
  return 0;
}

async function soakCommand(words: readonly string[]): Promise<number> {
  const [minutes, cpus] = [Number(words[0] ?? 120), Number(words[1] ?? 2)];
  if (!(minutes > 0)) throw new Error(`${words[0]}: minutes expected`);
  if (!Number.isInteger(cpus) || cpus < 1) throw new Error(`${words[1]}: a number of processors expected`);
  const more = words.slice(2);
  const wrong = await soak(await soakImage(), {
    seconds: Math.ceil(minutes * 60),
    cpus,
    each: 10,
    append: more.filter((w) => !w.startsWith('-')).join(' '),
    flags: more.filter((w) => w.startsWith('-')).flatMap((w) => w.split(/\s+/u)),
    say: (line) => console.log(line),
  });
  for (const line of wrong) console.log(`wrong: ${line}`);
  return wrong.length === 0 ? 0 : 1;
}

const COMMANDS: Readonly<Record<string, (words: readonly string[]) => Promise<number>>> = {
  verify: verifyCommand,
  devices: devicesCommand,
  tree: treeCommand,
  host: hostCommand,
  debian: debianCommand,
  soak: soakCommand,
};

const [word = '', ...rest] = process.argv.slice(2);
const command = COMMANDS[word];
if (command === undefined) {
  console.error(USAGE);
  process.exitCode = 2;
} else process.exitCode = await command(rest);
