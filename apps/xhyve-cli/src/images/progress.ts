// What long work reports, and how it is shown: one rewritten line on a terminal, sparse plain lines elsewhere.
import { formatBytes } from '../sizes.ts';

/** One report. */
export interface Progress {
  /** What is being done, such as `download`. */
  readonly phase: 'index' | 'download' | 'unpack' | 'assemble';
  /** To what, for people. */
  readonly what: string;
  /** Bytes so far. */
  readonly done: number;
  /** Bytes in all, or null when nobody knows. */
  readonly total: number | null;
}

/** Takes reports; called often. */
export type OnProgress = (p: Progress) => void;

const VERBS: Readonly<Record<Progress['phase'], string>> = {
  index: 'reading the package index',
  download: 'fetching',
  unpack: 'unpacking',
  assemble: 'assembling',
};

/** A report as one line: `fetching linux-image: 12.5 MiB of 25.4 MiB (49%)`. */
export function progressLine(p: Progress): string {
  const head = `${VERBS[p.phase]} ${p.what}`.trimEnd();
  if (p.total !== null && p.total > 0) {
    const percent = Math.min(100, Math.floor((p.done / p.total) * 100));
    return `${head}: ${formatBytes(Math.min(p.done, p.total))} of ${formatBytes(p.total)} (${percent}%)`;
  }
  return p.done > 0 ? `${head}: ${formatBytes(p.done)}` : head;
}

/** Where progress goes. */
export interface ProgressSink {
  /** Whether one line may be rewritten in place. */
  readonly isTTY: boolean;
  /** Columns of the terminal. */
  readonly columns: number;
  /** Writes text as it is. */
  write(text: string): void;
  /** Milliseconds, monotonic. */
  now(): number;
}

const TTY_INTERVAL_MS = 100;
const PLAIN_INTERVAL_MS = 2000;

/** Shows reports. Quick work (under a second) shows nothing on a plain stream. */
export class ProgressDisplay {
  private readonly sink: ProgressSink;
  private readonly started: number;
  private lastAt = Number.NEGATIVE_INFINITY;
  private lastHead = '';
  private pending: string | null = null;
  private dirty = false;

  constructor(sink: ProgressSink) {
    this.sink = sink;
    this.started = sink.now();
  }

  /** One report. */
  report(p: Progress): void {
    const now = this.sink.now();
    const line = progressLine(p);
    const head = `${p.phase} ${p.what}`;
    if (this.sink.isTTY) {
      if (head === this.lastHead && now - this.lastAt < TTY_INTERVAL_MS && p.done !== p.total) return;
      this.sink.write(`\r\x1b[K${line.slice(0, Math.max(20, this.sink.columns - 1))}`);
      this.dirty = true;
    } else {
      this.pending = line;
      const quick = now - this.started < 1000;
      if (quick || (head === this.lastHead && now - this.lastAt < PLAIN_INTERVAL_MS)) {
        if (head !== this.lastHead) this.lastHead = head;
        return;
      }
      this.sink.write(`${line}\n`);
      this.pending = null;
    }
    this.lastHead = head;
    this.lastAt = now;
  }

  /** Ends the line in place, so that other output starts clean. */
  finish(): void {
    if (this.dirty) this.sink.write('\r\x1b[K');
    else if (this.pending !== null && this.sink.now() - this.started >= 1000) this.sink.write(`${this.pending}\n`);
    this.dirty = false;
    this.pending = null;
  }
}
