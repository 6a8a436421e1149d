// What a port write costs when JavaScript handles it, beside the same loop in C++: node bench/kvm-exits.ts [writes] [rounds].
// Rounds take turns, so that other programs disturb both alike.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildNative } from '../scripts/native-build.ts';
import { KvmHypervisor } from '../src/index.ts';
import { Rig } from '../test/rig.ts';

const writes = Number(process.argv[2] ?? 20_000);
const rounds = Number(process.argv[3] ?? 15);
const built = buildNative();
if (!built.ok) throw new Error(built.detail);

const folder = mkdtempSync(join(tmpdir(), 'hyve-bench-'));
try {
  const program = join(folder, 'loop');
  const native = join(import.meta.dirname, '../src/native/kvm.cc');
  const source = join(import.meta.dirname, 'kvm-exits.cc');
  const made = spawnSync('g++', ['-std=c++17', '-O2', '-fno-rtti', source, native, '-o', program], {
    encoding: 'utf8',
  });
  if (made.status !== 0) throw new Error(made.stderr);

  const engine = new KvmHypervisor();
  const rig = new Rig(engine, [0xe6, 0x80, 0xeb, 0xfc]);
  let left = 0;
  rig.onWrite = () => {
    rig.log.length = 0;
    if (--left === 0) rig.vcpu.kick();
  };
  const inJs = (): number => {
    left = writes;
    const start = performance.now();
    while (left > 0) rig.vcpu.run(1e9);
    return ((performance.now() - start) * 1e6) / writes;
  };
  const inC = (): number => Number(execFileSync(program, [String(writes)], { encoding: 'utf8' }).split(' ')[0]);

  inJs(); // compiled by now
  const js: number[] = [];
  const c: number[] = [];
  for (let i = 0; i < rounds; i++) {
    c.push(inC());
    js.push(inJs());
  }
  const median = (a: number[]): number => [...a].sort((x, y) => x - y)[a.length >> 1] as number;
  const least = (a: number[]): number => Math.min(...a);
  const line = (name: string, a: number[]): void =>
    console.log(
      `${name.padEnd(12)} median ${median(a).toFixed(0).padStart(7)} ns   least ${least(a).toFixed(0).padStart(7)} ns`,
    );
  line('C++', c);
  line('JavaScript', js);
  console.log(
    `added        median ${(median(js) - median(c)).toFixed(0).padStart(7)} ns   least ${(least(js) - least(c)).toFixed(0).padStart(7)} ns`,
  );
  rig.vm.close();
  engine.close();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
