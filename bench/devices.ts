// Storage and entropy devices of one Linux guest, on Hyve and on QEMU's TCG in turn: sequential and random I/O on virtio-blk,
// AHCI and NVMe over raw files, and virtio-rnd. Prints medians and ratios, and checks every byte that a test vouches for.
// Usage, from the repository's root:
//
//   pnpm exec node bench/devices.ts [--runs 3] [--only virtio,ahci,nvme,rnd] [--passes 3] [--cold] [--scale 1] [--dir DIR]
//     [--stats] [--append WORDS]
//
// A guest goes through all loads of all devices --passes times, on either engine: the last pass is what counts, so that
// the device that comes first is not measured with code that no other device has warmed up; ratios of the first pass stand
// in parentheses. Before the runs that count Hyve starts the guest once, as it would have on a host where it ran before;
// --cold leaves that out.
//
// Needs gcc (with a static C library) and qemu-system-x86; without QEMU Hyve runs alone. Images take 128 MiB each under
// DIR (default: /dev/shm, so that the host's disk takes no part). Times are the host's, between two marks on the guest's console. Run nothing else on
// the machine meanwhile; where that cannot be had, "by CPU" compares how long each engine's busiest thread ran.
import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CpioWriter } from '../apps/xhyve-cli/src/images/cpio.ts';
import { pullImage } from '../apps/xhyve-cli/src/images/index.ts';

const DISK_BYTES = 128 << 20;
const SECTOR = 512;
const LIMIT_MS = 120_000;
const XHYVE = join(import.meta.dirname, '../apps/xhyve-cli/bin/xhyve.js');

/** A load: what `guests/disk.c` takes. */
interface Load {
  readonly name: string;
  readonly kind: 'rs' | 'ws' | 'rr' | 'wr' | 'en';
  readonly block: number;
  readonly depth: number;
  readonly count: number;
}

const LOADS: readonly Load[] = [
  { name: 'read', kind: 'rs', block: 1 << 20, depth: 4, count: 1024 },
  { name: 'read4k-1', kind: 'rr', block: 4096, depth: 1, count: 6000 },
  { name: 'read4k-32', kind: 'rr', block: 4096, depth: 32, count: 20000 },
  { name: 'write', kind: 'ws', block: 1 << 20, depth: 4, count: 1024 },
  { name: 'write4k-1', kind: 'wr', block: 4096, depth: 1, count: 6000 },
  { name: 'write4k-32', kind: 'wr', block: 4096, depth: 32, count: 20000 },
];
const ENTROPY: Load = { name: 'rnd', kind: 'en', block: 4096, depth: 1, count: 512 };

/** What the guest has to reach, as a multiple of QEMU's speed. */
const BARS: Readonly<Record<string, number>> = { read: 1, write: 1, rnd: 5 };

interface Disk {
  readonly name: string;
  /** As the guest sees it. */
  readonly device: string;
  readonly randomBar: number;
  readonly hyve: (file: string) => string;
  readonly qemu: (file: string) => readonly string[];
}

const drive = (id: string, file: string): string =>
  `file=${file},format=raw,if=none,id=${id},cache=writeback,discard=unmap`;
const DISKS: readonly Disk[] = [
  {
    name: 'virtio',
    device: '/dev/vda',
    randomBar: 1.5,
    hyve: (f) => `3,virtio-blk,${f}`,
    qemu: (f) => ['-drive', drive('v', f), '-device', 'virtio-blk-pci,drive=v'],
  },
  {
    name: 'ahci',
    device: '/dev/sda',
    randomBar: 1,
    hyve: (f) => `4,ahci-hd,${f}`,
    qemu: (f) => ['-device', 'ich9-ahci,id=ahci', '-drive', drive('a', f), '-device', 'ide-hd,drive=a,bus=ahci.0'],
  },
  {
    name: 'nvme',
    device: '/dev/nvme0n1',
    randomBar: 1,
    hyve: (f) => `5,nvme,${f}`,
    qemu: (f) => ['-drive', drive('n', f), '-device', 'nvme,drive=n,serial=bench'],
  },
];

const { values: args } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    only: { type: 'string', default: 'virtio,ahci,nvme,rnd' },
    loads: { type: 'string', default: '' },
    scale: { type: 'string', default: '1' },
    passes: { type: 'string', default: '3' },
    cold: { type: 'boolean', default: false },
    dir: { type: 'string' },
    stats: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
    'no-qemu': { type: 'boolean', default: false },
    prof: { type: 'string' },
    append: { type: 'string', default: '' },
  },
});
const only = new Set(args.only.split(','));
const loads = args.loads === '' ? LOADS : LOADS.filter((l) => args.loads.split(',').includes(l.name));
const disks = DISKS.filter((d) => only.has(d.name));
const scale = Number(args.scale);
const runs = Number(args.runs);
const passes = Number(args.passes);

/** As in guests/disk.c. */
function word(sector: number, generation: number, which: number): number {
  let x = (Math.imul(sector, 0x9e3779b1) + Math.imul(generation, 0x85ebca6b) + Math.imul(which, 0xc2b2ae35)) >>> 0;
  x ^= x >>> 15;
  x = Math.imul(x, 0x2c1b3c6d) >>> 0;
  return (x ^ (x >>> 13)) >>> 0;
}

function blankImage(): Uint8Array {
  const image = new Uint8Array(DISK_BYTES).fill(0xa5);
  const v = new DataView(image.buffer);
  for (let s = 0; s < DISK_BYTES / SECTOR; s++) {
    v.setUint32(s * SECTOR, word(s, 0, 0), true);
    v.setUint32(s * SECTOR + 4, word(s, 0, 1), true);
  }
  return image;
}

/** Sectors of an image that are neither as they were nor as the loads write them. */
function wrongSectors(file: string): number {
  const written = new Uint8Array(DISK_BYTES / SECTOR);
  for (const l of loads) {
    if (l.kind[0] !== 'w') continue;
    const blocks = DISK_BYTES / l.block;
    const per = l.block / SECTOR;
    let seed = 1;
    for (let i = 0; i < countOf(l); i++) {
      let block = i % blocks;
      if (l.kind === 'wr') {
        seed ^= seed << 13;
        seed ^= seed >>> 17;
        seed ^= seed << 5;
        block = (seed >>> 0) % blocks;
      }
      written.fill(1, block * per, (block + 1) * per);
    }
  }
  const bytes = readFileSync(file);
  const v = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let wrong = 0;
  for (let s = 0; s < written.length; s++) {
    const g = written[s] as number;
    const at = s * SECTOR;
    const filler = g === 1 ? 0x5a5a5a5a : 0xa5a5a5a5;
    let right = v.getUint32(at, true) === word(s, g, 0) && v.getUint32(at + 4, true) === word(s, g, 1);
    for (let i = 8; i < SECTOR; i += 4) right &&= v.getUint32(at + i, true) === filler;
    if (!right) wrong++;
  }
  return wrong;
}

function countOf(l: Load): number {
  return Math.max(l.depth, Math.round(l.count * scale));
}

/** Of one load. */
interface Figure {
  /** Bytes per second of the host's clock. */
  readonly rate: number;
  /** Bytes per second that the engine's busiest thread ran: what an idle machine would give where that thread is the limit. */
  readonly busy: number;
}

/** By `DEVICE LOAD`. */
type Sample = Map<string, Figure>;

/** ns that each thread of a process has run, by thread (Linux); empty elsewhere. */
function threadTimes(pid: number): Map<string, number> {
  const times = new Map<string, number>();
  try {
    for (const t of readdirSync(`/proc/${pid}/task`))
      times.set(t, Number(readFileSync(`/proc/${pid}/task/${t}/schedstat`, 'latin1').split(' ')[0]));
  } catch {
    // Threads end meanwhile, and other systems have no such file.
  }
  return times;
}

/** ns of the thread that ran longest since `before`. */
function busiest(before: ReadonlyMap<string, number>, now: ReadonlyMap<string, number>): number {
  let most = 0;
  for (const [t, ns] of now) most = Math.max(most, ns - (before.get(t) ?? 0));
  return most;
}

/** Runs a guest to its end and times what stands between its marks. */
function measure(command: string, words: readonly string[]): Promise<Sample> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, words, { stdio: ['ignore', 'pipe', 'pipe'] });
    const sample: Sample = new Map();
    let rest = '';
    let tail = '';
    let began = 0;
    let times = new Map<string, number>();
    let done = false;
    let failed = '';
    const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
    child.stderr.on('data', (d: Buffer) => {
      tail = (tail + d.toString()).slice(-20000);
      if (args.verbose) process.stderr.write(d);
    });
    child.stdout.on('data', (d: Buffer) => {
      const at = performance.now();
      const lines = (rest + d.toString('latin1')).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (args.verbose) console.log(line.trimEnd());
        tail = `${tail}${line}\n`.slice(-20000);
        if (/^BEGIN /.test(line)) {
          began = at;
          times = threadTimes(child.pid as number);
        }
        const m = /^END (\S+) pass=(\d+) ns=(\d+) bytes=(\d+) errors=(\d+)(.*)/.exec(line);
        if (m !== null) {
          if (m[5] !== '0') failed += `${line.trim()}; `;
          const ran = busiest(times, threadTimes(child.pid as number));
          const bytes = Number(m[4]);
          const pass = Number(m[2]);
          const key = (m[1] as string).replace(':', ' ');
          // What is neither first nor last is only there to warm up.
          sample.set(pass === passes ? key : pass === 1 ? `first ${key}` : `between ${key}`, {
            rate: bytes / ((at - began) / 1000),
            busy: ran > 0 ? bytes / (ran / 1e9) : Number.NaN,
          });
        }
        if (/^DONE/.test(line)) done = true;
      }
    });
    child.on('exit', (code, signal) => {
      clearTimeout(timer);
      if (args.stats && command === process.execPath) console.log(tail);
      if (!done || failed !== '') reject(new Error(`${command}: ${failed} status ${code ?? signal}\n${tail}`));
      else resolve(sample);
    });
  });
}

// Always the same place: what Hyve keeps of a guest's translations is found by the guest's disks.
const dir = join(args.dir ?? (existsSync('/dev/shm') ? '/dev/shm' : tmpdir()), 'hyve-devices');
try {
  mkdirSync(dir);
} catch {
  throw new Error(`${dir} cannot be made: another run is under way, or one was killed and left it behind`);
}
try {
  await main();
} finally {
  rmSync(dir, { recursive: true, force: true });
}

async function main(): Promise<void> {
  const guest = join(dir, 'disk');
  const cc = spawnSync('gcc', ['-static', '-O2', '-o', guest, join(import.meta.dirname, 'guests/disk.c')], {
    stdio: 'inherit',
  });
  if (cc.status !== 0) throw new Error('gcc (with a static C library) is needed for the guest program');
  const { paths } = await pullImage('debian-full', {});
  if (paths.kernel === null || paths.initrd === null) throw new Error('debian-full has no kernel and initrd');
  const extra = new CpioWriter();
  extra.file('bin/hyve-disk', readFileSync(guest), 0o755);
  extra.file(
    'etc/inittab',
    '::sysinit:/bin/sh -c "modprobe -a virtio_rng; /bin/hyve-disk; /bin/busybox poweroff -f"\n',
  );
  const initrd = join(dir, 'initrd');
  writeFileSync(initrd, Buffer.concat([readFileSync(paths.initrd), extra.finish()]));

  const tests: string[] = [];
  for (const d of disks)
    for (const l of loads) tests.push(`${d.name}:${l.name},${d.device},${l.kind},${l.block},${l.depth},${countOf(l)}`);
  if (only.has('rnd')) tests.push(`rnd:rnd,/dev/hwrng,en,${ENTROPY.block},1,${countOf(ENTROPY)}`);
  const cmdline = `console=ttyS0 quiet hyve.passes=${passes} ${args.append} ${tests.map((t) => `hyve.test=${t}`).join(' ')}`;
  if (cmdline.length > 2000) throw new Error(`a kernel command line of ${cmdline.length} bytes`);

  const files = new Map(disks.map((d) => [d.name, join(dir, `${d.name}.img`)]));
  const file = (d: Disk): string => files.get(d.name) as string;
  const hyve = ['-m', '512M', '-s', '0,hostbridge', '-s', '31,lpc', '-l', 'com1,stdio', '-A'];
  for (const d of disks) hyve.push('-s', d.hyve(file(d)));
  if (only.has('rnd')) hyve.push('-s', '6,virtio-rnd');
  if (args.stats) hyve.push('--stats');
  hyve.push('-f', `kexec,${paths.kernel},${initrd},${cmdline}`);
  const qemu = [
    '-accel',
    'tcg',
    '-cpu',
    'max',
    '-m',
    '512',
    '-nographic',
    '-no-reboot',
    '-nic',
    'none',
    '-machine',
    'q35',
  ];
  for (const d of disks) qemu.push(...d.qemu(file(d)));
  if (only.has('rnd')) qemu.push('-device', 'virtio-rng-pci');
  qemu.push('-kernel', paths.kernel as string, '-initrd', initrd, '-append', cmdline);

  const nodeFlags = args.prof === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${args.prof}`];
  const engines: [string, string, readonly string[]][] = [['hyve', process.execPath, [...nodeFlags, XHYVE, ...hyve]]];
  if (args['no-qemu'] || spawnSync('qemu-system-x86_64', ['--version']).status !== 0) console.log('Hyve alone');
  else engines.push(['qemu', 'qemu-system-x86_64', qemu]);
  const samples = new Map<string, Sample[]>(engines.map(([n]) => [n, []]));
  const blank = blankImage();
  // Run 0 is Hyve's first start of this guest, which leaves translations behind, and is not counted.
  for (let i = args.cold ? 1 : 0; i <= runs; i++)
    for (const [name, command, words] of i === 0 ? engines.slice(0, 1) : engines) {
      for (const d of disks) {
        writeFileSync(file(d), blank);
        // Both find the image in the host's cache.
        const fd = openSync(file(d), 'r');
        readSync(fd, blank.slice(0, 4096));
        closeSync(fd);
      }
      const sample = await measure(command, words);
      for (const d of disks) {
        const wrong = wrongSectors(file(d));
        if (wrong > 0) throw new Error(`${name}: ${wrong} sectors of the ${d.name} image are wrong`);
      }
      if (i > 0) samples.get(name)?.push(sample);
      console.log(`${name}, run ${i}: all sectors right`);
    }
  report(samples);
}

function median(v: readonly number[]): number {
  return [...v].sort((a, b) => a - b)[v.length >> 1] ?? Number.NaN;
}

function report(samples: ReadonlyMap<string, readonly Sample[]>): void {
  const of = (engine: string, key: string, what: keyof Figure = 'rate'): number =>
    median((samples.get(engine) ?? []).map((s) => s.get(key)?.[what] ?? Number.NaN));
  console.log(
    `\n${'load'.padEnd(20)}${'hyve'.padStart(14)}${'qemu tcg'.padStart(14)}   ratio  bar  by CPU (first)    medians of ${runs}`,
  );
  const rows: [string, Load, number][] = disks.flatMap((d) =>
    loads.map((l): [string, Load, number] => [d.name, l, BARS[l.name] ?? d.randomBar]),
  );
  if (only.has('rnd')) rows.push(['rnd', ENTROPY, BARS['rnd'] as number]);
  for (const [device, l, bar] of rows) {
    const key = `${device} ${l.name}`;
    const text = (v: number): string =>
      Number.isNaN(v)
        ? '-'
        : l.block === 4096 && l.kind !== 'en'
          ? `${Math.round(v / 4096)} /s`
          : `${(v / 1e6).toFixed(2)} MB/s`;
    const ratio = of('hyve', key) / of('qemu', key);
    const byCpu = of('hyve', key, 'busy') / of('qemu', key, 'busy');
    const first = of('hyve', `first ${key}`) / of('qemu', `first ${key}`);
    const verdict = Number.isNaN(ratio)
      ? `   busiest thread alone: ${text(of('hyve', key, 'busy'))}`
      : `${ratio.toFixed(2).padStart(8)}  ${String(bar).padEnd(3)}${byCpu.toFixed(2).padStart(8)}  (${first.toFixed(2)})  ${ratio >= bar ? '' : 'below'}`;
    console.log(
      `${key.padEnd(20)}${text(of('hyve', key)).padStart(14)}${text(of('qemu', key)).padStart(14)}${verdict}`,
    );
  }
}
