// Ratios of speed, their means, and the bars they are to reach.
import type { EngineName } from './engines.ts';
import type { Bits } from './guests.ts';

/** One figure of one engine in one round. */
export interface Figure {
  readonly engine: EngineName;
  readonly bits: Bits;
  readonly round: number;
  /** `int`, `boot`, … */
  readonly group: string;
  /** Unique within the group. */
  readonly name: string;
  /** Less is better: nanoseconds, or bytes. */
  readonly value: number;
  /** Of the first repetition, before anything is warm; the same as `value` where there is only one. */
  readonly first: number;
  /** What must be equal on every engine with the same bits; empty where nothing is to compare. */
  readonly checksum: string;
}

/** What a group is called, and the least ratio it must reach against each peer. Null: no bar. */
export const BARS: Readonly<
  Record<string, { readonly title: string; readonly qemu: number | null; readonly v86: number | null }>
> = {
  boot64: { title: 'boot to /init, 64-bit cloud kernel', qemu: 0.8, v86: null },
  'boot64-first': { title: 'the same, first start on a host', qemu: null, v86: null },
  boottiny: { title: 'boot to /init, tinycore kernel', qemu: 0.8, v86: null },
  boot32: { title: 'boot to /init, 32-bit Debian kernel', qemu: 0.8, v86: 2 },
  'boot32-first': { title: 'the same, first start on a host', qemu: null, v86: null },
  int: { title: 'integer loops', qemu: 1, v86: 2 },
  call: { title: 'calls, indirect branches, interpreters', qemu: 1, v86: 2.5 },
  float: { title: 'SSE2, x87, SIMD', qemu: 3, v86: 4 },
  rep: { title: 'REP, libc copies', qemu: 20, v86: 0.8 },
  mem: { title: 'loads, stores, TLB', qemu: 1, v86: 1 },
  kernel: { title: 'kernel paths', qemu: 0.7, v86: 5 },
  rewrite: { title: 'rewritten code', qemu: 0.3, v86: 1 },
};

/** Bars of the geometric mean over all groups. */
export const OVERALL: { readonly qemu: number; readonly v86: number } = { qemu: 1.5, v86: 2 };

/** The lower of the two in the middle, or the one. NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[(sorted.length - 1) >> 1] ?? Number.NaN;
}

/** Geometric mean. NaN of nothing. */
export function geomean(values: readonly number[]): number {
  return Math.exp(values.reduce((s, v) => s + Math.log(v), 0) / values.length);
}

/** One comparison of a workload. */
export interface Ratio {
  readonly group: string;
  readonly name: string;
  readonly bits: Bits;
  readonly peer: EngineName;
  /** Medians over the rounds. */
  readonly hyve: number;
  readonly other: number;
  /** Peer's figure over ours: above 1 is in our favour. Median of the rounds' ratios. */
  readonly ratio: number;
  /** The same of first repetitions. */
  readonly firstRatio: number;
}

/** All comparisons for which both engines have figures of the same round. */
export function ratios(figures: readonly Figure[]): Ratio[] {
  const out: Ratio[] = [];
  const keys = new Map<string, Figure>();
  for (const f of figures) keys.set(`${f.group} ${f.name} ${f.bits}`, f);
  for (const { group, name, bits } of keys.values()) {
    const of = (engine: EngineName): Figure[] =>
      figures.filter((f) => f.engine === engine && f.group === group && f.name === name && f.bits === bits);
    const ours = of('hyve');
    for (const peer of ['qemu', 'v86'] as const) {
      const pairs = of(peer).flatMap((other) => {
        const mine = ours.find((f) => f.round === other.round);
        return mine === undefined ? [] : [{ mine, other }];
      });
      if (pairs.length === 0) continue;
      out.push({
        group,
        name,
        bits,
        peer,
        hyve: median(pairs.map((p) => p.mine.value)),
        other: median(pairs.map((p) => p.other.value)),
        ratio: median(pairs.map((p) => p.other.value / p.mine.value)),
        firstRatio: median(pairs.map((p) => p.other.first / p.mine.first)),
      });
    }
  }
  return out;
}

/** Workloads whose checksums differ between engines, rounds or repetitions, as lines. */
export function disagreements(figures: readonly Figure[]): string[] {
  const byName = new Map<string, Map<string, Set<string>>>();
  for (const f of figures) {
    if (f.checksum === '') continue;
    const key = `${f.group}/${f.name} (${f.bits}-bit)`;
    const sums = byName.get(key) ?? new Map<string, Set<string>>();
    byName.set(key, sums);
    for (const sum of f.checksum.split(' ')) {
      const who = sums.get(sum) ?? new Set<string>();
      sums.set(sum, who);
      who.add(f.engine);
    }
  }
  return [...byName]
    .filter(([, sums]) => sums.size > 1)
    .map(([key, sums]) => `${key}: ${[...sums].map(([sum, who]) => `${sum} by ${[...who].join(', ')}`).join('; ')}`);
}

const cell = (text: string, width: number): string => text.padStart(width);
const time = (ns: number): string => (ns >= 1e9 ? `${(ns / 1e9).toFixed(2)} s` : `${(ns / 1e6).toFixed(2)} ms`);

/** The table: workloads, means of groups beside their bars, the overall means. */
export function report(figures: readonly Figure[], detail: boolean): string {
  const all = ratios(figures);
  const lines: string[] = [];
  const groups = Object.keys(BARS).filter((g) => all.some((r) => r.group === g));
  const means: Record<string, number[]> = { 'qemu 64': [], 'qemu 32': [], 'v86 32': [] };
  for (const pair of [
    { peer: 'qemu', bits: 64 },
    { peer: 'v86', bits: 32 },
    { peer: 'qemu', bits: 32 },
  ] as const) {
    const here = all.filter((r) => r.peer === pair.peer && r.bits === pair.bits);
    if (here.length === 0) continue;
    lines.push(
      `\nagainst ${pair.peer === 'qemu' ? 'QEMU TCG' : 'v86'}, ${pair.bits}-bit guest (speed of Hyve / speed of the other)`,
    );
    for (const group of groups) {
      const rows = here.filter((r) => r.group === group);
      if (rows.length === 0) continue;
      const bar = BARS[group]?.[pair.peer] ?? null;
      // The bars against QEMU are for 64-bit guests, but for the boot of the 32-bit kernel.
      const counts = bar !== null && (pair.peer === 'v86' || pair.bits === 64 || group === 'boot32');
      const mean = geomean(rows.map((r) => r.ratio));
      if (!group.endsWith('-first')) means[`${pair.peer} ${pair.bits}`]?.push(mean);
      const verdict = counts ? (mean >= bar ? `  bar ${bar}` : `  bar ${bar}  MISSED`) : '';
      lines.push(
        `${cell(mean.toFixed(2), 8)}  (first ${geomean(rows.map((r) => r.firstRatio)).toFixed(2)})  ${BARS[group]?.title}${verdict}`,
      );
      if (!detail) continue;
      for (const r of rows)
        lines.push(
          `      ${r.name.padEnd(14)}${cell(r.ratio.toFixed(2), 8)}${cell(`first ${r.firstRatio.toFixed(2)}`, 14)}${cell(time(r.hyve), 12)}${cell(time(r.other), 12)}`,
        );
    }
    const list = means[`${pair.peer} ${pair.bits}`] ?? [];
    if (list.length > 1) {
      const mean = geomean(list);
      const bar = OVERALL[pair.peer];
      const counts = pair.peer === 'v86' || pair.bits === 64;
      lines.push(
        `${cell(mean.toFixed(2), 8)}  geometric mean of ${list.length} groups${counts ? `  bar ${bar}${mean >= bar ? '' : '  MISSED'}` : ''}`,
      );
    }
  }
  return lines.join('\n');
}
