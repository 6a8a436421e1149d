// What options of KVM that the engine does not use, or only asks for, would give: node bench/kvm-options.ts [writes] [rounds].
// Rounds take turns, as in kvm-exits.ts.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildNative } from '../scripts/native-build.ts';
import { KvmHypervisor } from '../src/index.ts';

const writes = Number(process.argv[2] ?? 20_000);
const rounds = Number(process.argv[3] ?? 9);
const built = buildNative();
if (!built.ok) throw new Error(built.detail);

const median = (a: readonly number[]): number => [...a].sort((x, y) => x - y)[a.length >> 1] as number;

function exits(folder: string): void {
  const program = join(folder, 'loop');
  const sources = [join(import.meta.dirname, 'kvm-exits.cc'), join(import.meta.dirname, '../src/native/kvm.cc')];
  const made = spawnSync('g++', ['-std=c++17', '-O2', '-fno-rtti', ...sources, '-o', program], { encoding: 'utf8' });
  if (made.status !== 0) throw new Error(made.stderr);
  const names = {
    plain: 'a port write that exits',
    sync: 'with KVM_CAP_SYNC_REGS, all registers',
    get: 'with KVM_GET_REGS at the exit',
    coalesced: 'coalesced, 63 of 64',
  };
  const took = new Map<string, number[]>(Object.keys(names).map((n) => [n, []]));
  for (let i = 0; i < rounds; i++)
    for (const [mode, list] of took)
      list.push(Number(execFileSync(program, [String(writes), mode], { encoding: 'utf8' }).split(' ')[0]));
  for (const [mode, list] of took)
    console.log(
      `${names[mode as keyof typeof names].padEnd(38)} median ${median(list).toFixed(0).padStart(6)} ns   least ${Math.min(
        ...list,
      )
        .toFixed(0)
        .padStart(6)} ns`,
    );
}

const MIB = 2 ** 20;
const RAM = 256 * MIB;

/** Kibibytes of this process in large pages. */
const largeKib = (): number =>
  Number(/^AnonHugePages:\s*(\d+)/m.exec(readFileSync('/proc/self/smaps_rollup', 'utf8'))?.[1]);

function touched(name: string, bytes: Uint8Array): void {
  const before = largeKib();
  const start = performance.now();
  for (let at = 0; at < bytes.length; at += 4096) bytes[at] = 1;
  const ms = performance.now() - start;
  console.log(
    `${name.padEnd(38)} ${((largeKib() - before) / 1024).toFixed(0)} of 256 MiB in large pages, touched in ${ms.toFixed(0)} ms`,
  );
}

function memory(): void {
  const pages = RAM / 65536;
  touched(
    'memory as V8 gives it',
    new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer),
  );
  const engine = new KvmHypervisor();
  const vm = engine.createVm({
    memory: [{ base: 0, size: RAM, kind: 'ram', name: 'ram' }],
    vcpus: 1,
    bus: () => ({ readCr8: () => 0, writeCr8: () => {} }) as never,
    cpuid: () => [],
    clock: { now: () => 0, timer: () => ({ arm: () => {}, disarm: () => {}, armed: false }) },
    tscHz: 2e9,
  });
  touched('guest memory: MADV_HUGEPAGE', vm.memory.writeView(0, RAM) as Uint8Array);
  vm.close();
  engine.close();
}

const folder = mkdtempSync(join(tmpdir(), 'hyve-bench-'));
try {
  exits(folder);
  memory();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
