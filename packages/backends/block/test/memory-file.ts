// A host file in memory that remembers every write and sync with the moments they began and ended, so that a power cut
// can be made at any moment; and that fails when it is told to.
import type { HostFile } from '../src/host-file.ts';

interface Written {
  readonly begun: number;
  ended: number;
  readonly offset: number;
  readonly bytes: Uint8Array;
}
interface Synced {
  readonly begun: number;
  readonly ended: number;
}

/** A pseudo-random number from 0 to 1, the same sequence for the same seed. */
export function random(seed: number): () => number {
  let s = seed >>> 0 || 1;
  return () => {
    s = (s + 0x6d2b79f5) >>> 0;
    let t = s;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class MemoryFile implements HostFile {
  readonly path = 'memory.qcow2';
  readonly identity = 'memory';
  readonly writable: boolean;
  readonly canPunch: boolean;
  bytes: Uint8Array;
  length: number;
  moment = 0;
  readonly writes: Written[] = [];
  readonly syncs: Synced[] = [];
  readonly lengths: { readonly at: number; readonly length: number }[] = [];
  record = false;
  /** Bytes that the file may grow to. */
  room = Number.POSITIVE_INFINITY;
  /** Called before each write; may throw. */
  onWrite: ((offset: number, length: number) => void) | null = null;
  /** Called before each sync; may throw. */
  onSync: (() => void) | null = null;
  reads = 0;

  constructor(bytes: Uint8Array = new Uint8Array(0), o: { writable?: boolean; canPunch?: boolean } = {}) {
    this.bytes = bytes;
    this.length = bytes.length;
    this.writable = o.writable ?? true;
    this.canPunch = o.canPunch ?? true;
  }

  private grow(to: number): void {
    if (to > 256 << 20) throw Object.assign(new Error('test file too large'), { code: 'EFBIG' });
    if (to > this.bytes.length) {
      const more = new Uint8Array(Math.max(to, this.bytes.length * 2, 65536));
      more.set(this.bytes.subarray(0, this.length));
      this.bytes = more;
    }
    this.length = Math.max(this.length, to);
  }

  /** The file's bytes now. */
  image(): Uint8Array {
    return this.bytes.slice(0, this.length);
  }

  async read(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    this.reads++;
    await null;
    let at = offset;
    for (const b of buffers) {
      const n = Math.max(0, Math.min(b.length, this.length - at));
      if (n > 0) b.set(this.bytes.subarray(at, at + n));
      b.fill(0, n);
      at += b.length;
    }
  }

  async write(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    const length = buffers.reduce((n, b) => n + b.length, 0);
    this.onWrite?.(offset, length);
    const all = new Uint8Array(length);
    let done = 0;
    for (const b of buffers) {
      all.set(b, done);
      done += b.length;
    }
    const w: Written = { begun: ++this.moment, ended: Number.POSITIVE_INFINITY, offset, bytes: all };
    if (this.record) this.writes.push(w);
    await null;
    if (offset + length > Math.max(this.length, this.room)) {
      // What fits is written, as a full disk does.
      const fits = Math.max(0, Math.min(length, this.room - offset));
      if (fits > 0) {
        this.grow(offset + fits);
        this.bytes.set(all.subarray(0, fits), offset);
      }
      throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    }
    this.grow(offset + length);
    this.bytes.set(all, offset);
    await null;
    w.ended = ++this.moment;
  }

  async sync(): Promise<void> {
    this.onSync?.();
    const begun = ++this.moment;
    await null;
    await null;
    this.syncs.push({ begun, ended: ++this.moment });
  }

  async truncate(length: number): Promise<void> {
    this.grow(length);
    if (length < this.length) this.bytes.fill(0, length, this.length);
    this.length = length;
    this.lengths.push({ at: ++this.moment, length });
  }

  async punch(offset: number, length: number): Promise<boolean> {
    if (!this.canPunch) return false;
    const n = Math.min(length, this.length - offset);
    if (n > 0) await this.write(offset, [new Uint8Array(n)]);
    return true;
  }

  async zero(): Promise<boolean> {
    return false;
  }

  region(_offset: number, limit: number): { readonly data: boolean; readonly end: number } {
    return { data: true, end: limit };
  }

  async close(): Promise<void> {}

  /**
   * What a power cut at `moment` leaves: everything that a sync vouches for, and of the rest whatever `keep` picks,
   * sector by sector.
   */
  cut(start: Uint8Array, moment: number, keep: () => boolean): Uint8Array {
    let synced = 0;
    for (const s of this.syncs) if (s.ended <= moment) synced = Math.max(synced, s.begun);
    let end = start.length;
    for (const l of this.lengths) if (l.at <= synced) end = Math.max(end, l.length);
    const parts: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
    for (const w of this.writes) {
      if (w.begun > moment) continue;
      if (w.ended <= synced) {
        parts.push(w);
        continue;
      }
      for (let at = 0; at < w.bytes.length; ) {
        const n = Math.min(512 - ((w.offset + at) % 512), w.bytes.length - at);
        if (keep()) parts.push({ offset: w.offset + at, bytes: w.bytes.subarray(at, at + n) });
        at += n;
      }
    }
    for (const p of parts) end = Math.max(end, p.offset + p.bytes.length);
    const out = new Uint8Array(end);
    out.set(start);
    for (const p of parts) out.set(p.bytes, p.offset);
    return out;
  }
}
