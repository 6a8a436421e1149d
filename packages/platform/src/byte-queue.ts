// Two byte containers without per-byte allocation: a ring between a host stream and a slow guest, and an outbox that
// turns a guest's single-byte writes into few large ones.

/** @internal A ring of bytes. It grows only when the host hands over more than fits, never past `limit`. */
export class ByteQueue {
  private ring: Uint8Array;
  private head = 0;
  private count = 0;
  private readonly limit: number;

  /** @param initial first capacity in bytes, a power of two; `limit` the largest one, a power of two */
  constructor(initial: number, limit: number) {
    this.ring = new Uint8Array(initial);
    this.limit = limit;
  }

  /** Bytes waiting. */
  get length(): number {
    return this.count;
  }

  /** Appends one byte; false when the queue is at its limit. */
  push(byte: number): boolean {
    if (this.count === this.ring.length && !this.grow(this.count + 1)) return false;
    this.ring[(this.head + this.count) & (this.ring.length - 1)] = byte;
    this.count++;
    return true;
  }

  /** Appends what fits; returns how many bytes did. */
  pushAll(bytes: Uint8Array): number {
    if (this.count + bytes.length > this.ring.length) this.grow(this.count + bytes.length);
    const room = this.ring.length - this.count;
    const n = Math.min(bytes.length, room);
    const mask = this.ring.length - 1;
    for (let i = 0; i < n; i++) this.ring[(this.head + this.count + i) & mask] = bytes[i] as number;
    this.count += n;
    return n;
  }

  /** Takes the oldest byte, or -1. */
  shift(): number {
    if (this.count === 0) return -1;
    const b = this.ring[this.head] as number;
    this.head = (this.head + 1) & (this.ring.length - 1);
    this.count--;
    return b;
  }

  /** The oldest byte without taking it, or -1. */
  peek(): number {
    return this.count === 0 ? -1 : (this.ring[this.head] as number);
  }

  /** Forgets everything. */
  clear(): void {
    this.head = 0;
    this.count = 0;
  }

  /** The bytes in order, for saved state. */
  toArray(): number[] {
    const out: number[] = [];
    for (let i = 0; i < this.count; i++) out.push(this.ring[(this.head + i) & (this.ring.length - 1)] as number);
    return out;
  }

  private grow(need: number): boolean {
    let size = this.ring.length;
    while (size < need && size < this.limit) size *= 2;
    if (size === this.ring.length) return false;
    const bytes = this.toArray();
    this.ring = new Uint8Array(size);
    this.ring.set(bytes);
    this.head = 0;
    return true;
  }
}

/** @internal Runs `task` once the current run-loop turn is over, unless told otherwise. */
export type Defer = (task: () => void) => void;

/** @internal The default {@link Defer}: a microtask. */
export const afterThisTurn: Defer = (task) => {
  Promise.resolve().then(task);
};

/**
 * @internal Gathers single bytes and hands them on in batches: when full, on {@link Outbox.flush}, and at the end of the
 * turn in which the first byte came.
 */
export class Outbox {
  private readonly buffer: Uint8Array;
  private used = 0;
  private scheduled = false;
  private readonly sink: (bytes: Uint8Array) => boolean;
  private readonly defer: Defer;
  private readonly turnEnded: () => void;
  /** Bytes handed on so far. */
  sent = 0;
  /** Whether the sink asked for a pause. The owner clears it. */
  held = false;

  constructor(size: number, defer: Defer, sink: (bytes: Uint8Array) => boolean) {
    this.buffer = new Uint8Array(size);
    this.defer = defer;
    this.sink = sink;
    this.turnEnded = () => {
      this.scheduled = false;
      if (!this.held) this.flush();
    };
  }

  /** Bytes waiting here. */
  get length(): number {
    return this.used;
  }

  /** Adds a byte. The owner sees to it that there is room when `held`. */
  push(byte: number): void {
    if (this.used === this.buffer.length) return;
    this.buffer[this.used++] = byte;
    if (this.held) return;
    if (this.used === this.buffer.length) this.flush();
    else if (!this.scheduled) {
      this.scheduled = true;
      this.defer(this.turnEnded);
    }
  }

  /** Hands everything on, held or not. Sets `held` when the sink asks for a pause. */
  flush(): void {
    const n = this.used;
    if (n === 0) return;
    this.used = 0;
    this.sent += n;
    // The sink may not keep the view, so one batch may follow the other in the same buffer.
    if (!this.sink(this.buffer.subarray(0, n))) this.held = true;
  }

  /** Forgets what waits. */
  clear(): void {
    this.used = 0;
  }

  /** What waits, for saved state. */
  toArray(): number[] {
    return [...this.buffer.subarray(0, this.used)];
  }
}
