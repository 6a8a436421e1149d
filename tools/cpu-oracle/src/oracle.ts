// Runs programs on both sides and collects what differs.
import { ROWS, type Row } from '@hyve/x86';
import { FEATURES } from '../../../packages/cpu/src/features.ts';
import { compare, operation, report } from './compare.ts';
import { EXCLUDED_OPS, EXCLUSIONS } from './exclusions.ts';
import { Generator, type Program, rowsOf, type Step } from './generate.ts';
import * as L from './layout.ts';
import { hostFeatures, hostVendor, Native } from './native.ts';
import { Random } from './random.ts';
import { Soft } from './soft.ts';

/** What to run. */
export interface OracleOptions {
  /** First seed; each program has its own, counted up from seed × 2^32. */
  readonly seed: number;
  /** Families of rows: int, x87, mmx, sse, avx. */
  readonly families: readonly string[];
  /** Only rows of this operation. */
  readonly op?: string;
  /** Most instructions per program. */
  readonly longest?: number;
  /** Programs per exchange; default 4000. */
  readonly batch?: number;
  /**
   * Executions after which the software CPU translates a block; default 0, never. `random`: 1 to 4, another one every
   * 80000 programs, and each program runs up to that often before the run that counts.
   */
  readonly threshold?: number | 'random';
  /** For tests of the oracle: a byte of code that the processor gets as another one. */
  readonly tamper?: readonly [from: number, to: number];
  /** Operations to leave out, besides the documented exclusions. */
  readonly skip?: readonly string[];
}

/** A program that differs, shrunk. */
export interface Finding {
  readonly seed: number;
  /** Operation of the last instruction of the shrunk program. */
  readonly op: string;
  /** What differs, e.g. `ADC flags`. */
  readonly kind: string;
  /** The whole story. */
  readonly text: string;
}

/** What every x86-64 processor has: not all of it is named in /proc/cpuinfo. */
const ALWAYS: ReadonlySet<string> = new Set(['cx8', 'fxsr', 'mmx', 'sse', 'sse2', 'syscall', 'sysenter', 'clflush']);

/** Compares. */
export class Oracle {
  private readonly native = new Native();
  private soft: Soft;
  private readonly generator: Generator;
  private readonly rows: readonly Row[];
  private readonly batch: number;
  private readonly input: Uint8Array;
  private readonly fromNative: Uint8Array;
  private readonly fromSoft: Uint8Array;
  private seed: number;
  /** Programs and instructions run. */
  programs = 0;
  instructions = 0;
  /** Programs that differed. */
  differing = 0;
  /** Times each row was run, by row, operand size and register or memory form. */
  readonly coverage: Map<string, number> = new Map();
  /** Programs by trap number on the processor. */
  readonly traps: Map<number, number> = new Map();
  /** First finding of each kind. */
  readonly findings: Map<string, Finding> = new Map();
  /** How often each kind came up. */
  readonly kinds: Map<string, number> = new Map();
  private nextRow = 0;
  private readonly tamper: readonly [from: number, to: number] | null;
  /** Features that both have. */
  readonly features: ReadonlySet<string>;
  /** Nanoseconds spent generating, on the processor, on the software CPU, comparing. */
  readonly times: number[] = [0, 0, 0, 0];

  private readonly randomThreshold: boolean;
  private readonly dice = new Random(0);
  private exchanges = 0;

  constructor(o: OracleOptions) {
    this.randomThreshold = o.threshold === 'random';
    this.dice.seed(o.seed + 99);
    this.soft = this.randomThreshold ? this.randomSoft() : new Soft(Number(o.threshold ?? 0));
    const host = hostFeatures();
    this.features = new Set(FEATURES.filter((f) => host.has(f) || ALWAYS.has(f)));
    const skip = new Set(o.skip ?? []);
    this.rows = rowsOf(o.families).filter((r) => (o.op === undefined || r.mnemonic === o.op) && !skip.has(r.mnemonic));
    this.generator = new Generator({
      rows: this.rows,
      features: this.features,
      vendor: hostVendor(),
      ...(o.longest === undefined ? {} : { longest: o.longest }),
    });
    this.tamper = o.tamper ?? null;
    this.batch = o.batch ?? 4000;
    this.seed = o.seed * 0x1_0000_0000;
    this.input = new Uint8Array(this.batch * L.REC_SIZE);
    this.fromNative = new Uint8Array(this.batch * L.REC_SIZE);
    this.fromSoft = new Uint8Array(this.batch * L.REC_SIZE);
  }

  private randomSoft(): Soft {
    const threshold = 1 + this.dice.int(4);
    return new Soft(threshold, () => this.dice.int(threshold + 2));
  }

  /** Runs about so many more instructions. */
  run(instructions: number): void {
    const end = this.instructions + instructions;
    while (this.instructions < end) this.exchange();
  }

  private exchange(): void {
    if (this.randomThreshold && ++this.exchanges % 20 === 0) this.soft = this.randomSoft();
    const programs: Program[] = [];
    const seeds: number[] = [];
    const usable = this.rows.filter((r) => r.feature === '' || this.features.has(r.feature));
    if (usable.length === 0) throw new Error('no rows to run');
    let t = performance.now();
    let misses = 0;
    while (programs.length < this.batch && misses < 20000) {
      const row = usable[this.nextRow % usable.length] as Row;
      this.nextRow++;
      const at = programs.length * L.REC_SIZE;
      const seed = this.seed++;
      const p = this.generator.make(seed, this.input.subarray(at, at + L.REC_SIZE), row);
      if (p === null) {
        misses++;
        continue;
      }
      programs.push(p);
      seeds.push(seed);
    }
    const n = programs.length;
    if (n === 0) throw new Error('no program could be made of these rows');
    const lap = (i: number): void => {
      const now = performance.now();
      this.times[i] = (this.times[i] as number) + now - t;
      t = now;
    };
    lap(0);
    let got = this.runNative(this.input, this.fromNative, n);
    while (got < n) {
      // A program took the runner down: leave it out.
      console.error(
        `the runner died of:\n${report(programs[got] as Program, this.record(this.input, got), this.record(this.input, got), this.record(this.input, got), seeds[got] as number)}`,
      );
      this.fromNative.fill(0, got * L.REC_SIZE, (got + 1) * L.REC_SIZE);
      const from = got + 1;
      got =
        from +
        this.runNative(this.input.subarray(from * L.REC_SIZE), this.fromNative.subarray(from * L.REC_SIZE), n - from);
    }
    lap(1);
    this.soft.run(this.input, this.fromSoft, n);
    lap(2);
    const bad: number[] = [];
    for (let i = 0; i < n; i++) {
      const p = programs[i] as Program;
      const a = this.record(this.fromNative, i);
      const trap = new DataView(a.buffer, a.byteOffset).getUint32(L.REC.trap, true);
      this.traps.set(trap, (this.traps.get(trap) ?? 0) + 1);
      this.instructions += p.steps.length;
      for (const s of p.steps) {
        const key = `${s.row},${s.opSize},${s.memory ? 'm' : 'r'}`;
        this.coverage.set(key, (this.coverage.get(key) ?? 0) + 1);
      }
      if (compare(p, a, this.record(this.fromSoft, i)).length > 0) bad.push(i);
    }
    this.programs += n;
    lap(3);
    this.differing += bad.length;
    const kept = bad.map((i) => ({
      native: this.record(this.fromNative, i).slice(),
      soft: this.record(this.fromSoft, i).slice(),
    }));
    bad.forEach((i, k) => {
      this.examine(programs[i] as Program, seeds[i] as number, this.record(this.input, i).slice(), kept[k] as Outcome);
    });
  }

  private runNative(input: Uint8Array, output: Uint8Array, count: number): number {
    if (this.tamper === null) return this.native.run(input, output, count);
    const [from, to] = this.tamper;
    const changed = input.slice();
    for (let i = 0; i < count; i++) {
      const at = i * L.REC_SIZE + L.REC.code;
      for (let k = 0; k < L.CODE_BYTES; k++) if (changed[at + k] === from) changed[at + k] = to;
    }
    return this.native.run(changed, output, count);
  }

  private record(all: Uint8Array, i: number): Uint8Array {
    return all.subarray(i * L.REC_SIZE, (i + 1) * L.REC_SIZE);
  }

  /** Runs one program alone. */
  single(input: Uint8Array): { native: Uint8Array; soft: Uint8Array } {
    const native = new Uint8Array(L.REC_SIZE);
    const soft = new Uint8Array(L.REC_SIZE);
    this.runNative(input, native, 1);
    this.soft.run(input, soft, 1);
    return { native, soft };
  }

  private several(tries: readonly Attempt[]): Outcome[] {
    const input = new Uint8Array(tries.length * L.REC_SIZE);
    tries.forEach((t, i) => {
      input.set(t.record, i * L.REC_SIZE);
    });
    const native = new Uint8Array(input.length);
    const soft = new Uint8Array(input.length);
    this.runNative(input, native, tries.length);
    this.soft.run(input, soft, tries.length);
    return tries.map((_, i) => ({ native: this.record(native, i).slice(), soft: this.record(soft, i).slice() }));
  }

  private examine(p: Program, seed: number, input: Uint8Array, first: Outcome): void {
    // Shrinking is slow: only programs that may show something new.
    const last = operation((p.steps[p.steps.length - 1] as { bytes: Uint8Array }).bytes, p.mode);
    const rough = `${last} ${p.steps.length}`;
    const seen = this.kinds.get(rough) ?? 0;
    if (seen > (p.steps.length > 1 ? 3 : 30)) return;
    this.kinds.set(rough, seen + 1);
    let best = p;
    let bestInput = input;
    let result = this.single(input);
    if (compare(p, result.native, result.soft).length === 0) {
      this.note(seed, 'only after others: ', p, input, first, 'differs only after other programs; ');
      return;
    }
    // One instruction alone, or else ever fewer of them.
    for (let keepOne = true; best.steps.length > 1; ) {
      const tries = best.steps.map((_, i) => (keepOne ? only(best, bestInput, i) : without(best, bestInput, i)));
      const results = this.several(tries);
      const hit = tries.findIndex(
        (t, i) => compare(t.program, (results[i] as Outcome).native, (results[i] as Outcome).soft).length > 0,
      );
      if (hit >= 0) {
        const { program, record } = tries[hit] as Attempt;
        best = program;
        bestInput = record;
        result = results[hit] as Outcome;
      } else if (!keepOne) break;
      keepOne = false;
    }
    this.note(seed, '', best, bestInput, result, '');
  }

  private note(
    seed: number,
    prefix: string,
    p: Program,
    input: Uint8Array,
    r: { native: Uint8Array; soft: Uint8Array },
    remark: string,
  ): void {
    const diffs = compare(p, r.native, r.soft);
    const first = diffs[0]?.what ?? '';
    const lastStep = p.steps[p.steps.length - 1] as { bytes: Uint8Array; row: number };
    const name = ROWS[lastStep.row]?.mnemonic ?? '?';
    const what = first
      .replace(/\+.*/, '')
      .replace(/^(r|e)[a-z0-9]+$/, (t) => (t === 'rip' || t === 'error code' ? t : 'register'))
      .replace(/^(xmm|st)\d+/, '$1');
    const trap = first === 'trap' ? ` ${diffs[0]?.native}/${diffs[0]?.soft}` : '';
    const kind = `${prefix}${name} ${what}${trap}${p.steps.length > 1 ? ` (${p.steps.length} instructions)` : ''}`;
    this.kinds.set(`= ${kind}`, (this.kinds.get(`= ${kind}`) ?? 0) + 1);
    const crash =
      new DataView(r.soft.buffer).getUint32(L.REC.trap, true) >= L.TRAP_HANG ? `\n  ${this.soft.lastError}` : '';
    if (!this.findings.has(kind))
      this.findings.set(kind, {
        seed,
        op: name,
        kind,
        text: `${remark}${report(p, input, r.native, r.soft, seed)}${crash}`,
      });
  }

  /** Ends the runner's files. */
  close(): void {
    this.native.close();
  }

  /** How often a kind of finding came up. */
  countOf(kind: string): number {
    return this.kinds.get(`= ${kind}`) ?? 0;
  }

  /** Rows that were never run, with the reason if it is known. */
  uncovered(): Row[] {
    const run = new Set([...this.coverage.keys()].map((k) => Number(k.split(',')[0])));
    return this.rows.filter((r) => !run.has(r.id));
  }

  /** Why a row was not run; '' if it could have been. */
  whyNot(r: Row): string {
    const named = EXCLUDED_OPS[r.mnemonic];
    if (named !== undefined) return named;
    if (r.feature !== '' && !FEATURES.includes(r.feature) && !ALWAYS.has(r.feature))
      return `the software CPU does not offer ${r.feature}`;
    if (r.feature !== '' && !this.features.has(r.feature)) return `this processor has no ${r.feature}`;
    const name = this.generator.alwaysExcluded(r);
    return name === '' ? '' : `${name} (${EXCLUSIONS.find((e) => e.name === name)?.why})`;
  }

  /** Rows that were not run, by reason. */
  notRun(): string[] {
    const by = new Map<string, string[]>();
    for (const r of this.uncovered()) {
      const why = this.whyNot(r) || 'CHANCE: run more instructions';
      const name = `${r.mnemonic} ${r.spec.operands}`.trimEnd();
      by.set(why, [...(by.get(why) ?? []), name]);
    }
    return [...by].map(([why, names]) => `  ${why}: ${names.join('; ')}`);
  }

  /** Whether a row can be run here: both sides have its feature, and no exclusion leaves the whole of it out. */
  runnable(r: Row): boolean {
    return this.whyNot(r) === '';
  }

  /** Rows in question. */
  get rowCount(): number {
    return this.rows.length;
  }

  /** One line a row: encoding, operation, and how often each operand size ran with registers and with memory. */
  coverageTable(): string[] {
    const out: string[] = [];
    for (const r of this.rows) {
      const parts: string[] = [];
      for (const size of [1, 2, 4, 8])
        for (const form of ['r', 'm']) {
          const n = this.coverage.get(`${r.id},${size},${form}`);
          if (n !== undefined) parts.push(`${size * 8}${form} ${n}`);
        }
      const name = `${r.mnemonic} ${r.spec.operands}`.trimEnd();
      out.push(
        `${r.spec.encoding.padEnd(28)} ${name.padEnd(28)} ${parts.length > 0 ? parts.join('  ') : `- ${this.whyNot(r)}`}`,
      );
    }
    return out;
  }

  /** Exclusions that applied, with counts. */
  get exclusions(): ReadonlyMap<string, number> {
    return this.generator.excluded;
  }
}

interface Outcome {
  readonly native: Uint8Array;
  readonly soft: Uint8Array;
}
interface Attempt {
  readonly program: Program;
  readonly record: Uint8Array;
}

/** A program with all instructions but one replaced by NOPs. */
function only(p: Program, input: Uint8Array, index: number): Attempt {
  let now: Attempt = { program: p, record: input };
  for (let i = p.steps.length - 1; i >= 0; i--) if (i !== index) now = without(now.program, now.record, i);
  return now;
}

/** A program with one instruction replaced by NOPs; addresses and jumps stay as they are. */
function without(p: Program, input: Uint8Array, index: number): Attempt {
  const record = input.slice();
  const code = p.start - Number(new DataView(input.buffer, input.byteOffset).getBigUint64(L.REC.codeAt, true));
  const at = L.REC.code + code;
  const steps = p.steps;
  let offset = 0;
  const kept: Step[] = [];
  for (let i = 0; i < steps.length; i++) {
    const step = steps[i] as Step;
    offset += step.skip ?? 0;
    if (i === index) record.fill(0x90, at + offset, at + offset + step.bytes.length);
    offset += step.bytes.length;
  }
  let gap = 0;
  for (let i = 0; i < steps.length; i++) {
    const step = steps[i] as Step;
    gap += step.skip ?? 0;
    if (i === index) gap += step.bytes.length;
    else {
      kept.push({ ...step, skip: gap });
      gap = 0;
    }
  }
  return { program: { ...p, steps: kept }, record };
}
