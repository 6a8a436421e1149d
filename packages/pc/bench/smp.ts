// vCPUs on threads of their own: how much more two do than one, and how long an interrupt from one to another takes.
// Usage: node packages/pc/bench/smp.ts [ROUNDS]
import { runSmp } from '../test/smp-guest.ts';
import { BUSY_TICKS, busy, PING_TICKS, pingPong } from '../test/smp-programs.ts';

const TSC_HZ = 2e9;
const WORK = 60_000_000;
const PINGS = 5000;
const rounds = Number(process.argv[2] ?? 3);

const median = (v: number[]): number => v.sort((a, b) => a - b)[v.length >> 1] as number;

/** Seconds by the guest's clock. */
async function seconds(o: Parameters<typeof runSmp>[0], at: number): Promise<number> {
  const r = await runSmp({ limitMs: 120_000, ...o });
  if (r.detail !== '') throw new Error(`${r.reason}: ${r.detail}`);
  return (r.word(at) + r.word(at + 4) * 2 ** 32) / TSC_HZ;
}

const one: number[] = [];
const two: number[] = [];
const spin: number[] = [];
const halted: number[] = [];
for (let i = 0; i < rounds; i++) {
  one.push(await seconds({ cpus: 2, program: busy(WORK, 1) }, BUSY_TICKS));
  two.push(await seconds({ cpus: 2, program: busy(WORK, 2) }, BUSY_TICKS));
  spin.push(await seconds({ cpus: 2, ...pingPong(PINGS, false) }, PING_TICKS));
  halted.push(await seconds({ cpus: 2, ...pingPong(PINGS, true) }, PING_TICKS));
}
const us = (s: number): string => `${((s / PINGS / 2) * 1e6).toFixed(1)} µs`;
console.log(`one busy vCPU of two   ${median(one).toFixed(2)} s`);
console.log(
  `two busy vCPUs         ${median(two).toFixed(2)} s, together ${((2 * median(one)) / median(two)).toFixed(2)} times the work`,
);
console.log(`interrupt to a vCPU that spins   ${us(median(spin))}`);
console.log(`interrupt to a vCPU in HLT       ${us(median(halted))}`);
