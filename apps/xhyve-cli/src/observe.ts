// What a running machine can be asked: rates by second, a profile of guest addresses, a trace of guest blocks.
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { runError } from './errors.ts';
import type { RunnablePc } from './run.ts';

type Counters = Readonly<Record<string, number>>;

/** Milliseconds between samples of a profile; a prime, so that the guest's ticks do not beat with it. */
const SAMPLE_MS = 7;
/** Different addresses that a profile keeps; further ones are counted together. */
const ADDRESSES_MAX = 1 << 20;

/** One line of what happened between two readings of the counters. */
export function ratesLine(before: Counters, now: Counters, seconds: number, at: number): string {
  const since = (name: string): number => (now[name] ?? 0) - (before[name] ?? 0);
  const rate = (name: string): string => Math.round(since(name) / seconds).toString();
  const of = (prefix: string): number =>
    Object.keys(now)
      .filter((k) => k.startsWith(prefix))
      .reduce((n, k) => n + since(k), 0);
  return [
    `stats ${at.toFixed(1)} s`,
    `${(since('cpu.instructions') / seconds / 1e6).toFixed(1)} MIPS`,
    `decoded ${rate('cpu.blocksDecoded')} blocks/s`,
    `regions ${rate('cpu.regions')}/s (${now['cpu.regions'] ?? 0}, ${Math.round(since('cpu.regionMs') / seconds)} ms/s)`,
    `lookups ${rate('cpu.blockLookups')}/s`,
    `TLB fills ${rate('cpu.tlbFills')}/s`,
    `slow accesses ${rate('cpu.slowAccesses')}/s`,
    `exits ${Math.round(of('loop.exit') / seconds)}/s`,
    `interrupts ${rate('loop.injected')}/s`,
  ].join(', ');
}

/** Prints a line of rates every so often until it is stopped. @param seconds 0: never */
export function watchRates(pc: RunnablePc, seconds: number, note: (line: string) => void): { stop(): void } {
  if (seconds === 0) return { stop: () => {} };
  const start = performance.now();
  let last = start;
  let before = pc.stats();
  const timer = setInterval(() => {
    const now = performance.now();
    const counters = pc.stats();
    note(ratesLine(before, counters, (now - last) / 1000, (now - start) / 1000));
    last = now;
    before = counters;
  }, seconds * 1000);
  return { stop: () => clearInterval(timer) };
}

/** Symbols by address. */
export class Symbols {
  private readonly addresses: BigUint64Array;
  private readonly names: readonly string[];

  private constructor(rows: readonly (readonly [bigint, string])[]) {
    this.addresses = BigUint64Array.from(rows, ([a]) => a);
    this.names = rows.map(([, n]) => n);
  }

  /** Reads lines of `address type name`, as System.map and /proc/kallsyms have them; others are skipped. */
  static parse(text: string): Symbols {
    const rows: [bigint, string][] = [];
    for (const line of text.split('\n')) {
      const m = /^([0-9a-f]{8,16}) [a-zA-Z] (\S+)/u.exec(line);
      if (m !== null && m[1] !== undefined && m[2] !== undefined) rows.push([BigInt(`0x${m[1]}`), m[2]]);
    }
    return new Symbols(rows.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)));
  }

  /** How many there are. */
  get size(): number {
    return this.names.length;
  }

  /** The last symbol at or below an address, or null; nothing is more than 1 MiB long. */
  at(address: bigint): { name: string; offset: number } | null {
    let lo = 0;
    let hi = this.addresses.length;
    while (lo < hi) {
      const mid = (lo + hi) >>> 1;
      if ((this.addresses[mid] as bigint) <= address) lo = mid + 1;
      else hi = mid;
    }
    if (lo === 0) return null;
    const offset = address - (this.addresses[lo - 1] as bigint);
    return offset < 0x100000n ? { name: this.names[lo - 1] as string, offset: Number(offset) } : null;
  }
}

/** Samples of where the guest's processors are. */
export class Profile {
  private readonly counts = new Map<bigint, number>();
  private samples = 0;
  private idle = 0;
  private other = 0;

  /** Takes one sample of each processor: linear RIP, or null where it sleeps. */
  add(positions: readonly (bigint | null)[]): void {
    for (const p of positions) {
      this.samples++;
      if (p === null) this.idle++;
      else if (this.counts.has(p) || this.counts.size < ADDRESSES_MAX)
        this.counts.set(p, (this.counts.get(p) ?? 0) + 1);
      else this.other++;
    }
  }

  /** The report: functions first, if there are symbols, then addresses; at most `lines` of each. */
  report(symbols: Symbols | null, lines = 60): string {
    const busy = this.samples - this.idle;
    const percent = (n: number): string =>
      `${((100 * n) / Math.max(1, busy)).toFixed(2).padStart(6)} % ${String(n).padStart(7)}`;
    const out = [`${this.samples} samples, ${this.idle} of them asleep; shares are of the other ${busy}`];
    if (this.other > 0) out.push(`${this.other} at addresses past the first ${ADDRESSES_MAX}`);
    const name = (a: bigint): string => {
      const s = symbols?.at(a) ?? null;
      return s === null ? '' : ` ${s.name}+0x${s.offset.toString(16)}`;
    };
    const top = <K>(m: ReadonlyMap<K, number>): [K, number][] => [...m].sort((a, b) => b[1] - a[1]).slice(0, lines);
    if (symbols !== null) {
      const functions = new Map<string, number>();
      for (const [a, n] of this.counts) {
        const key = symbols.at(a)?.name ?? '(no symbol)';
        functions.set(key, (functions.get(key) ?? 0) + n);
      }
      out.push('', 'functions');
      for (const [key, n] of top(functions)) out.push(`${percent(n)}  ${key}`);
    }
    out.push('', 'addresses');
    for (const [a, n] of top(this.counts)) out.push(`${percent(n)}  ${a.toString(16).padStart(16, '0')}${name(a)}`);
    return `${out.join('\n')}\n`;
  }
}

/** Takes samples until it is stopped, which writes the report. @throws CLI_RUN for a symbol file that cannot be read */
export function startProfile(pc: RunnablePc, file: string, symbolFile: string | null): { stop(): void } {
  let symbols: Symbols | null = null;
  if (symbolFile !== null) {
    try {
      symbols = Symbols.parse(readFileSync(symbolFile, 'utf8'));
    } catch (e) {
      throw runError(`--symbols ${symbolFile}: ${e instanceof Error ? e.message : String(e)}`, e);
    }
    if (symbols.size === 0) throw runError(`--symbols ${symbolFile}: no line is 'address type name'`);
  }
  const profile = new Profile();
  // The timer's turn comes between two slices of the guest.
  const timer = setInterval(() => profile.add(pc.positions?.() ?? []), SAMPLE_MS);
  return {
    stop: () => {
      clearInterval(timer);
      writeFileSync(file, profile.report(symbols));
    },
  };
}

/** A file for the text of guest blocks, written in large pieces. */
export class TraceFile {
  private readonly fd: number;
  private pending: string[] = [];
  private bytes = 0;

  /** @throws CLI_RUN when the file cannot be written */
  constructor(path: string) {
    try {
      this.fd = openSync(path, 'w');
    } catch (e) {
      throw runError(`--trace ${path}: ${e instanceof Error ? e.message : String(e)}`, e);
    }
  }

  /** Adds a block. */
  add(text: string): void {
    this.pending.push(text);
    this.bytes += text.length;
    if (this.bytes > 1 << 20) this.flush();
  }

  private flush(): void {
    if (this.pending.length > 0) writeSync(this.fd, `${this.pending.join('\n')}\n`);
    this.pending = [];
    this.bytes = 0;
  }

  /** Writes the rest. */
  close(): void {
    this.flush();
    closeSync(this.fd);
  }
}
