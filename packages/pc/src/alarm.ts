// A thread that says when a time has come: the event loop's own timers are a millisecond coarse.
import type { VcpuWorker } from './threads.ts';
import type { VcpuPort } from './vcpu-worker.ts';

/** Words shared with the thread: number of the last order, and its time in microseconds ({@link END}: end). */
const ORDER = 0;
const TIME = 1;
const END = -1;
/** What the thread says first. */
const BEGUN = 'begun';

const clock = (globalThis as unknown as { performance: { now(): number } }).performance;

/** The thread as whoever wants to be woken sees it. One time at once. */
export class Alarm {
  private readonly thread: VcpuWorker;
  private readonly words: Int32Array = new Int32Array(new SharedArrayBuffer(8));
  private ring: (() => void) | null = null;
  /** Whether the thread has begun, which takes it some 70 ms, and has not ended: nothing rings otherwise. */
  ready = false;

  /** @param thread runs {@link serveAlarm} */
  constructor(thread: VcpuWorker) {
    this.thread = thread;
    thread.onMessage = (order) => {
      if (order === BEGUN) {
        this.ready = true;
        return;
      }
      const f = this.ring;
      // The answer to an order that another has replaced comes late.
      if (f === null || order !== this.words[ORDER]) return;
      this.ring = null;
      f();
    };
    thread.onDeath = () => {
      this.ready = false;
    };
    thread.post(this.words);
  }

  /** Calls `f` on this thread in about `ns`, once, in place of what was to be called. */
  set(ns: number, f: () => void): void {
    this.ring = f;
    this.order(Math.max(1, Math.round(ns / 1000)));
  }

  /** Nothing is to be called. */
  clear(): void {
    this.ring = null;
  }

  /** Ends the thread. */
  async close(): Promise<void> {
    this.ready = false;
    this.ring = null;
    this.order(END);
    await this.thread.close();
  }

  private order(us: number): void {
    Atomics.store(this.words, TIME, us);
    Atomics.add(this.words, ORDER, 1);
    Atomics.notify(this.words, ORDER);
  }
}

/** The program of an alarm's thread, which it blocks until the alarm is closed. */
export function serveAlarm(port: VcpuPort): void {
  port.listen((message) => {
    const words = message as Int32Array;
    port.post(BEGUN);
    for (let seen = 0; ; ) {
      // Until there is another order than the last.
      Atomics.wait(words, ORDER, seen);
      seen = Atomics.load(words, ORDER);
      const us = Atomics.load(words, TIME);
      if (us === END) return;
      // Being notified of the order that it has already ends a wait too.
      const until = clock.now() + us / 1000;
      let left = us / 1000;
      while (left > 0 && Atomics.load(words, ORDER) === seen) {
        Atomics.wait(words, ORDER, seen, left);
        left = until - clock.now();
      }
      if (left <= 0) port.post(seen);
    }
  });
}
