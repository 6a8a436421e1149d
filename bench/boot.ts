// Boots the same kernel and initrd on Hyve's software CPU (both tiers, and the interpreter alone) and on QEMU's TCG, in
// turn, and prints the median time to /init with the ratio of speeds. Usage, from the repository's root:
//
//   pnpm exec node bench/boot.ts [RUNS] [IMAGE]
//
// IMAGE is a name of `xhyve images` (default debian-cloud). QEMU comes from Debian's qemu-system-x86; without it only
// Hyve is timed. Run nothing else on the machine meanwhile.
import { spawn, spawnSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { pullImage } from '../apps/xhyve-cli/src/images/index.ts';
import { SoftCpu } from '../packages/cpu/src/index.ts';
import { createPc, type MachineSpec } from '../packages/pc/src/index.ts';

const MARK = 'Run /init as init process';
const LIMIT_MS = 180_000;
const MEMORY_MIB = 512;

/** One timed boot: milliseconds to the mark, and peak resident MiB where it can be told. */
interface Sample {
  readonly ms: number;
  readonly instructions: number;
}

function spec(kernel: string, initrd: string | null): MachineSpec {
  return {
    v: 1,
    name: 'bench',
    memoryBytes: MEMORY_MIB * 2 ** 20,
    memoryWired: false,
    cpus: { count: 1, sockets: 1, cores: 1, threads: 1 },
    numa: [],
    boot: { loader: 'kexec', kernel, initrd, cmdline: 'console=ttyS0' },
    pci: [
      { bus: 0, slot: 0, func: 0, device: 'hostbridge', options: {}, conf: null },
      { bus: 0, slot: 31, func: 0, device: 'lpc', options: {}, conf: null },
    ],
    lpc: [{ device: 'com1', backend: 'stdio' }],
    fwcfg: { kind: 'bhyve', items: [] },
    tables: { acpi: true, acpiInMemory: true, mptable: true, smbios: true, smbiosStrings: {} },
    uuid: null,
    clock: { rtc: 'utc', mode: 'real', startSeconds: null, instructionsPerSecond: 1e9 },
    x2apic: false,
    strictIo: false,
    strictMsr: true,
    verboseMsr: false,
    hltExit: true,
    pauseExit: false,
    bvmcons: false,
    bvmDebugPort: null,
    gdb: null,
    virtioMsi: false,
    pciEnableBars: null,
    keyboardLayout: null,
    engine: 'soft',
    pidfile: null,
  };
}

/** Boots in a process of its own, so that every run starts cold. */
function hyve(kernel: string, initrd: string | null, threshold: number): Promise<Sample> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [import.meta.filename, '--child', kernel, initrd ?? '', String(threshold)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    child.stdout.on('data', (d: Buffer) => {
      out += d.toString();
    });
    child.on('exit', () => {
      const m = /^RESULT (\S+) (\S+)$/m.exec(out);
      if (m === null) reject(new Error(`no result: ${out.slice(-500)}`));
      else resolve({ ms: Number(m[1]), instructions: Number(m[2]) });
    });
  });
}

async function child(kernel: string, initrd: string, threshold: string): Promise<void> {
  const t0 = performance.now() - process.uptime() * 1000;
  const decoder = new TextDecoder();
  let seen = '';
  const pc = await createPc(spec(kernel, initrd === '' ? null : initrd), {
    openChar: async () => ({
      write(bytes) {
        seen = (seen + decoder.decode(bytes)).slice(-4096);
        if (seen.includes(MARK)) {
          console.log(`RESULT ${(performance.now() - t0).toFixed(0)} ${pc.vm.counters()['instructions']}`);
          process.exit(0);
        }
        return true;
      },
      onData: null,
      onDrain: null,
      setFlow() {},
      close: async () => {},
    }),
    readFile: (path) => readFile(path),
    log: { on: false, debug() {}, info() {}, warn() {} },
    wallClock: { nowMs: () => Date.now(), offsetMinutes: () => 0 },
    engines: { soft: () => new SoftCpu(threshold === '' ? {} : { threshold: Number(threshold) }) },
  });
  setTimeout(() => process.exit(1), LIMIT_MS).unref();
  await pc.run();
}

function qemu(kernel: string, initrd: string | null): Promise<Sample> {
  return new Promise((resolve, reject) => {
    const t0 = performance.now();
    const args = ['-accel', 'tcg', '-cpu', 'max', '-m', String(MEMORY_MIB), '-nographic', '-no-reboot', '-nic', 'none'];
    args.push('-kernel', kernel, '-append', 'console=ttyS0');
    if (initrd !== null) args.push('-initrd', initrd);
    const child = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'ignore'] });
    let seen = '';
    const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
    child.stdout.on('data', (d: Buffer) => {
      seen = (seen + d.toString()).slice(-4096);
      if (!seen.includes(MARK)) return;
      resolve({ ms: performance.now() - t0, instructions: 0 });
      child.kill('SIGKILL');
    });
    child.on('exit', () => {
      clearTimeout(timer);
      reject(new Error('QEMU ended early'));
    });
  });
}

const median = (v: readonly number[]): number => [...v].sort((a, b) => a - b)[v.length >> 1] ?? Number.NaN;

async function main(): Promise<void> {
  const runs = Number(process.argv[2] ?? 3);
  const name = process.argv[3] ?? 'debian-cloud';
  const { paths } = await pullImage(name, {});
  const kernel = paths.kernel ?? '';
  const initrd = paths.initrd ?? null;
  const hasQemu = spawnSync('qemu-system-x86_64', ['--version']).status === 0;
  const engines: [string, () => Promise<Sample>][] = [
    ['hyve', () => hyve(kernel, initrd, Number.NaN)],
    ['hyve, interpreter', () => hyve(kernel, initrd, 0)],
  ];
  if (hasQemu) engines.push(['qemu tcg', () => qemu(kernel, initrd)]);
  else console.log('qemu-system-x86_64 is not installed: Hyve alone');
  const samples = new Map<string, Sample[]>(engines.map(([n]) => [n, []]));
  for (let i = 0; i < runs; i++)
    for (const [n, boot] of engines) {
      const s = await boot();
      samples.get(n)?.push(s);
      console.log(`${n}: ${(s.ms / 1000).toFixed(2)} s`);
    }
  const peer = median((samples.get('qemu tcg') ?? []).map((s) => s.ms));
  console.log(`\n${name} to /init, median of ${runs}`);
  for (const [n, list] of samples) {
    const ms = median(list.map((s) => s.ms));
    const mips = median(list.map((s) => s.instructions / s.ms / 1000));
    const ratio = Number.isNaN(peer) ? '' : `  ${(peer / ms).toFixed(2)} of qemu's speed`;
    console.log(`${n.padEnd(20)} ${(ms / 1000).toFixed(2)} s${mips > 0 ? `  ${mips.toFixed(0)} MIPS` : ''}${ratio}`);
  }
}

if (process.argv[2] === '--child')
  await child(process.argv[3] ?? '', process.argv[4] ?? '', process.argv[5] === 'NaN' ? '' : (process.argv[5] ?? ''));
else await main();
