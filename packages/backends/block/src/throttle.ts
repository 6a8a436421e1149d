// Rate limits: token buckets for bytes and operations, in both directions together or apart. Requests wait in the order
// they came; one that is larger than the bucket goes once the bucket is full and leaves a debt behind.
import type { BlockStatus, Clock, Timer } from '@hyve/core';
import { totalLength } from './buffers.ts';
import type { BlockCounters, DiskImage, Extent } from './image.ts';

/** Limits of one disk; absent or 0: none. Bytes or operations per second. */
export interface RateLimits {
  /** Bytes, reads and writes together. */
  readonly bps?: number;
  /** Bytes read. */
  readonly bpsRead?: number;
  /** Bytes written. */
  readonly bpsWrite?: number;
  /** Operations, all together. */
  readonly iops?: number;
  /** Reads. */
  readonly iopsRead?: number;
  /** Writes, flushes and discards. */
  readonly iopsWrite?: number;
  /** Bytes that may pass at once after a pause. Default: a tenth of a second's worth. */
  readonly bpsBurst?: number;
  /** Operations that may pass at once after a pause. Default: a tenth of a second's worth, at least one. */
  readonly iopsBurst?: number;
}

class Bucket {
  private level: number;
  private at: number;
  private readonly perNs: number;
  private readonly size: number;
  constructor(perSecond: number, size: number, now: number) {
    this.perNs = perSecond / 1e9;
    this.size = Math.max(1, size);
    this.level = this.size;
    this.at = now;
  }
  /** When `amount` may pass: 0 for now. */
  readyAt(amount: number, now: number): number {
    this.level = Math.min(this.size, this.level + (now - this.at) * this.perNs);
    this.at = now;
    const need = Math.min(amount, this.size);
    // A hair's breadth of tolerance: waiting to the computed time must be enough despite rounding.
    return this.level >= need - 1e-6 ? 0 : now + Math.ceil((need - this.level) / this.perNs);
  }
  take(amount: number): void {
    this.level -= amount;
  }
}

interface Waiting {
  readonly write: boolean;
  readonly bytes: number;
  readonly go: () => void;
}

/**
 * A disk whose requests pass at a limited rate. Flushes and discards count as one operation each.
 */
export class ThrottledDisk implements DiskImage {
  readonly format: string;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  readonly discardZeroes: boolean;
  readonly identity: string;
  private readonly disk: DiskImage;
  private readonly clock: Clock;
  private readonly timer: Timer;
  private readonly bytes: readonly (Bucket | null)[];
  private readonly operations: readonly (Bucket | null)[];
  private queue: Waiting[] = [];
  private delayed = 0;
  private closed = false;

  /** @param o.clock measures the rates; its timers wake waiting requests */
  constructor(o: { disk: DiskImage; limits: RateLimits; clock: Clock }) {
    this.disk = o.disk;
    this.clock = o.clock;
    this.format = o.disk.format;
    this.sectorSize = o.disk.sectorSize;
    this.physicalSectorSize = o.disk.physicalSectorSize;
    this.readOnly = o.disk.readOnly;
    this.canDiscard = o.disk.canDiscard;
    this.discardZeroes = o.disk.discardZeroes;
    this.identity = o.disk.identity;
    const now = o.clock.now();
    const l = o.limits;
    const make = (rate: number | undefined, burst: number | undefined): Bucket | null =>
      rate === undefined || rate <= 0 ? null : new Bucket(rate, burst ?? rate / 10, now);
    // Together, reads, writes.
    this.bytes = [make(l.bps, l.bpsBurst), make(l.bpsRead, l.bpsBurst), make(l.bpsWrite, l.bpsBurst)];
    this.operations = [make(l.iops, l.iopsBurst), make(l.iopsRead, l.iopsBurst), make(l.iopsWrite, l.iopsBurst)];
    this.timer = o.clock.timer(() => this.wake());
  }

  get size(): number {
    return this.disk.size;
  }

  private readyAt(write: boolean, bytes: number): number {
    const now = this.clock.now();
    const side = write ? 2 : 1;
    let at = 0;
    for (const i of [0, side]) {
      at = Math.max(at, this.operations[i]?.readyAt(1, now) ?? 0);
      if (bytes > 0) at = Math.max(at, this.bytes[i]?.readyAt(bytes, now) ?? 0);
    }
    return at;
  }

  private take(write: boolean, bytes: number): void {
    for (const i of [0, write ? 2 : 1]) {
      this.operations[i]?.take(1);
      this.bytes[i]?.take(bytes);
    }
  }

  /** Null when the request may pass at once. */
  private admit(write: boolean, bytes: number): Promise<void> | null {
    if (this.closed) return null;
    if (this.queue.length === 0 && this.readyAt(write, bytes) === 0) {
      this.take(write, bytes);
      return null;
    }
    this.delayed++;
    return new Promise((resolve) => {
      this.queue.push({ write, bytes, go: resolve });
      if (!this.timer.armed) this.wake();
    });
  }

  private wake(): void {
    let passed = 0;
    for (const w of this.queue) {
      const at = this.readyAt(w.write, w.bytes);
      if (at > 0) {
        this.timer.arm(at);
        break;
      }
      this.take(w.write, w.bytes);
      passed++;
      w.go();
    }
    if (passed > 0) this.queue = this.queue.slice(passed);
  }

  async read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const wait = this.admit(false, totalLength(buffers));
    if (wait !== null) await wait;
    return this.disk.read(offset, buffers);
  }

  async write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const wait = this.admit(true, totalLength(buffers));
    if (wait !== null) await wait;
    return this.disk.write(offset, buffers);
  }

  readNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null {
    return this.now(false, totalLength(buffers), () => this.disk.readNow?.(offset, buffers) ?? null);
  }

  writeNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null {
    return this.now(true, totalLength(buffers), () => this.disk.writeNow?.(offset, buffers) ?? null);
  }

  private now(write: boolean, bytes: number, work: () => BlockStatus | null): BlockStatus | null {
    if (this.closed || this.queue.length > 0 || this.readyAt(write, bytes) > 0) return null;
    const status = work();
    if (status !== null) this.take(write, bytes);
    return status;
  }

  async flush(): Promise<BlockStatus> {
    const wait = this.admit(true, 0);
    if (wait !== null) await wait;
    return this.disk.flush();
  }

  async discard(offset: number, length: number): Promise<BlockStatus> {
    const wait = this.admit(true, 0);
    if (wait !== null) await wait;
    return this.disk.discard(offset, length);
  }

  async writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<BlockStatus> {
    const wait = this.admit(true, 0);
    if (wait !== null) await wait;
    return this.disk.writeZeroes(offset, length, mayUnmap);
  }

  extentAt(offset: number): Promise<Extent | null> {
    return this.disk.extentAt(offset);
  }

  resize(size: number, o?: { readonly shrink?: boolean }): Promise<void> {
    return this.disk.resize(size, o ?? {});
  }

  counters(): BlockCounters {
    return { ...this.disk.counters(), delayed: this.delayed };
  }

  async close(): Promise<void> {
    this.closed = true;
    this.timer.disarm();
    for (const w of this.queue) w.go();
    this.queue = [];
    await this.disk.close();
  }
}
