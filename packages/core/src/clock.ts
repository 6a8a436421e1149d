// Time as devices see it. All guest time comes from one Clock, so that it can be the host's, a test's or derived from
// retired instructions.

/** A monotonic clock with timers. Nanoseconds as doubles (exact to 1 ns for 104 days). */
export interface Clock {
  /** Nanoseconds since an arbitrary start; never goes back. */
  now(): number;
  /** A new disarmed timer that calls `fire` once its time has come. */
  timer(fire: () => void): Timer;
}

/** A one-shot timer. */
export interface Timer {
  /** Fires once at or after `atNs` on the clock's scale; replaces an earlier setting. Times in the past fire soon. */
  arm(atNs: number): void;
  /** Forgets the setting. */
  disarm(): void;
  /** Whether it is waiting to fire. */
  readonly armed: boolean;
}

class QueuedTimer implements Timer {
  at = 0;
  slot = -1;
  seq = 0;
  readonly fire: () => void;
  private readonly queue: TimerQueue;
  constructor(queue: TimerQueue, fire: () => void) {
    this.queue = queue;
    this.fire = fire;
  }
  get armed(): boolean {
    return this.slot >= 0;
  }
  arm(atNs: number): void {
    this.queue.insert(this, atNs);
  }
  disarm(): void {
    this.queue.remove(this);
  }
}

/**
 * A {@link Clock} over any time source: a binary heap of timers that the owner polls with {@link TimerQueue.runDue}.
 * Timers due at the same time fire in the order they were armed.
 */
export class TimerQueue implements Clock {
  private readonly source: () => number;
  private readonly heap: QueuedTimer[] = [];
  private seq = 0;
  /** Called when the earliest deadline becomes earlier than it was, so that a sleeping owner can wake sooner. */
  onEarlier: (() => void) | null = null;

  /** @param source nanoseconds, never going back */
  constructor(source: () => number) {
    this.source = source;
  }

  now(): number {
    return this.source();
  }

  timer(fire: () => void): Timer {
    return new QueuedTimer(this, fire);
  }

  /** When the earliest armed timer is due, or Infinity. */
  nextDeadline(): number {
    const t = this.heap[0];
    return t === undefined ? Number.POSITIVE_INFINITY : t.at;
  }

  /** Fires every timer due by now, each once; a timer re-armed into the past waits for the next call. Returns how many. */
  runDue(): number {
    const now = this.source();
    const limit = this.seq;
    let fired = 0;
    for (;;) {
      const t = this.heap[0];
      if (t === undefined || t.at > now || t.seq > limit) return fired;
      this.remove(t);
      fired++;
      t.fire();
    }
  }

  /** @internal */
  insert(t: QueuedTimer, at: number): void {
    const before = this.nextDeadline();
    this.remove(t);
    t.at = at;
    t.seq = ++this.seq;
    t.slot = this.heap.length;
    this.heap.push(t);
    this.up(t.slot);
    if (at < before && this.onEarlier !== null) this.onEarlier();
  }

  /** @internal */
  remove(t: QueuedTimer): void {
    const i = t.slot;
    if (i < 0) return;
    t.slot = -1;
    const last = this.heap.pop() as QueuedTimer;
    if (last === t) return;
    this.heap[i] = last;
    last.slot = i;
    this.up(i);
    this.down(last.slot);
  }

  private before(x: QueuedTimer, y: QueuedTimer): boolean {
    return x.at < y.at || (x.at === y.at && x.seq < y.seq);
  }

  private swap(i: number, j: number): void {
    const h = this.heap;
    const x = h[i] as QueuedTimer;
    const y = h[j] as QueuedTimer;
    h[i] = y;
    h[j] = x;
    y.slot = i;
    x.slot = j;
  }

  private up(start: number): void {
    let i = start;
    while (i > 0) {
      const p = (i - 1) >> 1;
      if (!this.before(this.heap[i] as QueuedTimer, this.heap[p] as QueuedTimer)) return;
      this.swap(i, p);
      i = p;
    }
  }

  private down(start: number): void {
    const h = this.heap;
    let i = start;
    for (;;) {
      let m = 2 * i + 1;
      if (m >= h.length) return;
      if (m + 1 < h.length && this.before(h[m + 1] as QueuedTimer, h[m] as QueuedTimer)) m++;
      if (!this.before(h[m] as QueuedTimer, h[i] as QueuedTimer)) return;
      this.swap(i, m);
      i = m;
    }
  }
}
