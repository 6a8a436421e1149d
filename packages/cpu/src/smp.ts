// What threads that run vCPUs on one memory tell each other: writes to code, pages that must be watched, "stand still".
// Docs: docs/decisions on vCPU threads. Each thread is either parked (it touches nothing of the guest's until it has read
// its messages) or running (it reads them at the next block or back edge, see ATTN).
import { HyveError } from '@hyve/core';
import { type Layout, SMP_STRIDE, threadLayout } from './layout.ts';
import * as S from './state.ts';

// Words before the first thread's area.
/** 1 + thread that all others stand still for, or 0. */
const G_STOPPED = 0;
/** Held while the masks and flags of a page change. */
const G_LOCK = 64;
// Words of each thread's area, each in a cache line of its own.
const T_STATE = 0;
/** Not zero: run() should return. */
const T_KICK = 64;
/** Host address of the page that is being decoded, READING_ANY, or -1. */
const T_READING = 128;
/** Messages read, messages written. */
const T_HEAD = 192;
const T_TAIL = 256;
/** Held by the one who writes a message. */
const T_WRITER = 320;
/** Messages that found no room, and how many of those have been made good: all code and all TLBs dropped. */
const T_LOST = 384;
const T_MADE_GOOD = 576;
/** Counts what somebody might wait for, and how many wait. */
const T_BELL = 448;
const T_WAITERS = 512;
/** Messages: host address, bytes that were written there; 0 bytes: give up fast writes to the page. */
const T_RING = 8192;
const RING = 1024;

const PARKED = 0;
const RUNNING = 1;
/** Any page may be read just now. */
export const READING_ANY = -2;
const ATTENTION = 0x7fffffff;
/** Looks before a wait goes to sleep. */
const SPINS = 300;
/** A sleeper looks again after this at the latest, ms: what wakes it may come from a thread that has died. */
const NAP_MS = 2;
/** So many naps, 20 s, and the other thread is dead: a live one comes to a safe point in less than a millisecond of its time. */
const MOST_NAPS = 10_000;

/** What a thread does for others. */
export interface PeerDuties {
  /** Code was overwritten: own blocks of these bytes are stale. May come in the middle of a block. */
  invalidate(host: number, size: number): void;
  /** Own TLBs must not let stores to this page through any more. */
  protect(host: number): void;
  /** The same of all pages. */
  protectAll(): void;
}

/** One thread's end. */
export class Peers {
  private readonly i32: Int32Array;
  private readonly u8: Uint8Array;
  private readonly L: Layout;
  private readonly me: number;
  private readonly bit: number;
  private readonly global: number;
  private readonly own: number;
  private readonly ownAttn: number;
  private readonly pageInfos: readonly number[];
  private readonly duties: PeerDuties;
  /** Times this thread stopped all others; messages sent; waits for them to be read. */
  stops = 0;
  posts = 0;
  handshakes = 0;

  /** @param whole the layout as thread 0 sees it: where the others' code is marked follows from it */
  constructor(whole: Layout, buffer: ArrayBufferLike, me: number, duties: PeerDuties) {
    const L = threadLayout(whole, me);
    this.L = L;
    this.i32 = new Int32Array(buffer);
    this.u8 = new Uint8Array(buffer);
    this.me = me;
    this.bit = 1 << me;
    this.global = L.smp >> 2;
    this.own = this.area(me);
    this.ownAttn = this.attnOf(me);
    this.duties = duties;
    this.pageInfos = Array.from({ length: L.threads }, (_, t) => threadLayout(whole, t).pageInfo >> 2);
    this.i32[this.own + (T_READING >> 2)] = -1;
    this.i32[(L.vcpu0 + me * L.vcpuStride + S.THREAD_BIT) >> 2] = this.bit;
  }

  private area(t: number): number {
    return (this.L.smp + (t + 1) * SMP_STRIDE) >> 2;
  }
  private attnOf(t: number): number {
    return (this.L.vcpu0 + t * this.L.vcpuStride + S.ATTN) >> 2;
  }

  // --- parked and running --------------------------------------------------------------------------------------------

  /** From here to {@link unpark} the thread may block: nobody waits for it. */
  park(): void {
    this.running = false;
    Atomics.store(this.i32, this.own + (T_STATE >> 2), PARKED);
    this.ring(this.own);
  }

  private running = false;

  /** Back to running, with all messages read. Waits while others must stand still. */
  unpark(): void {
    const i = this.i32;
    for (let naps = 0; ; naps++) {
      Atomics.store(i, this.own + (T_STATE >> 2), RUNNING);
      const s = Atomics.load(i, this.global + (G_STOPPED >> 2));
      if (s === 0 || s === this.me + 1) break;
      this.park();
      if (naps > MOST_NAPS) this.dead(s - 1);
      Atomics.wait(i, this.global + (G_STOPPED >> 2), s, NAP_MS);
    }
    this.running = true;
    this.serve();
  }

  private dead(t: number): never {
    throw new HyveError('VCPU_THREAD', `the thread of vCPU ${t} does not answer`);
  }

  /** Wakes those who wait for something of a thread. */
  private ring(area: number): void {
    if (Atomics.load(this.i32, area + (T_WAITERS >> 2)) === 0) return;
    Atomics.add(this.i32, area + (T_BELL >> 2), 1);
    Atomics.notify(this.i32, area + (T_BELL >> 2));
  }

  /** At a safepoint of the run loop: does what others want. Returns whether run() was asked to return. */
  attend(): boolean {
    const i = this.i32;
    if (i[this.ownAttn] !== 0) {
      Atomics.store(i, this.ownAttn, 0);
      this.safepoint();
    }
    const k = this.own + (T_KICK >> 2);
    if (i[k] === 0) return false;
    Atomics.store(i, k, 0);
    return true;
  }

  /** Within an instruction that TypeScript runs; such instructions order memory like a fence. */
  instruction(): void {
    Atomics.add(this.i32, this.own + (T_READING >> 2), 0);
    if (this.i32[this.ownAttn] !== 0) this.serve();
  }

  private safepoint(): void {
    const s = Atomics.load(this.i32, this.global + (G_STOPPED >> 2));
    if (s !== 0 && s !== this.me + 1) {
      this.park();
      this.unpark();
    } else this.serve();
  }

  /** Makes thread `t` return from run() soon. */
  kick(t: number): void {
    Atomics.store(this.i32, this.area(t) + (T_KICK >> 2), 1);
    Atomics.store(this.i32, this.attnOf(t), ATTENTION);
  }

  // --- messages ------------------------------------------------------------------------------------------------------

  private serve(): void {
    const i = this.i32;
    const head = this.own + (T_HEAD >> 2);
    const tail = this.own + (T_TAIL >> 2);
    let n = i[head] as number;
    if (n !== Atomics.load(i, tail)) {
      do {
        const at = this.own + (T_RING >> 2) + (n & (RING - 1)) * 2;
        const host = (i[at] as number) >>> 0;
        const size = i[at + 1] as number;
        if (size === 0) {
          this.duties.protect(host);
          Atomics.and(i, (this.L.writers >> 2) + ((host - this.L.ram) >>> 12), ~this.bit);
        } else this.duties.invalidate(host, size);
        n = (n + 1) | 0;
        Atomics.store(i, head, n);
      } while (n !== Atomics.load(i, tail));
      this.ring(this.own);
    }
    const lost = Atomics.load(i, this.own + (T_LOST >> 2));
    if (lost !== i[this.own + (T_MADE_GOOD >> 2)]) {
      this.duties.protectAll();
      for (let p = 0; p < this.L.pages; p++)
        if (((i[(this.L.owners >> 2) + p] as number) & this.bit) !== 0)
          this.duties.invalidate(this.L.ram + p * 4096, 4096);
      Atomics.store(i, this.own + (T_MADE_GOOD >> 2), lost);
      this.ring(this.own);
    }
  }

  private spinLock(word: number): void {
    for (let n = 0; Atomics.compareExchange(this.i32, word, 0, 1) !== 0; n++)
      if (n > SPINS) {
        Atomics.wait(this.i32, word, 1, NAP_MS / 20);
        if (n > 20 * MOST_NAPS) throw new HyveError('VCPU_THREAD', 'a vCPU thread died while it held a lock');
      }
  }

  /** Leaves `t` a message; `posted` and `lost` say how to know when it has been read. */
  private post(t: number, host: number, size: number): void {
    const i = this.i32;
    const a = this.area(t);
    this.spinLock(a + (T_WRITER >> 2));
    const n = i[a + (T_TAIL >> 2)] as number;
    this.lost = ((n - Atomics.load(i, a + (T_HEAD >> 2))) | 0) >= RING;
    if (this.lost) this.posted = (Atomics.add(i, a + (T_LOST >> 2), 1) + 1) | 0;
    else {
      const at = a + (T_RING >> 2) + (n & (RING - 1)) * 2;
      i[at] = host;
      i[at + 1] = size;
      this.posted = (n + 1) | 0;
      Atomics.store(i, a + (T_TAIL >> 2), this.posted);
    }
    Atomics.store(i, a + (T_WRITER >> 2), 0);
    Atomics.store(i, this.attnOf(t), ATTENTION);
    this.posts++;
  }
  /** The last message's number, and whether that counts those without room. */
  private posted = 0;
  private lost = false;

  /** Waits, parked, until `done()` says so of thread `t`, which rings its bell then. */
  private await(t: number, done: () => boolean): void {
    const i = this.i32;
    const a = this.area(t);
    for (let n = 0; n < SPINS; n++) if (done()) return;
    Atomics.add(i, a + (T_WAITERS >> 2), 1);
    for (let naps = 0; ; naps++) {
      const bell = Atomics.load(i, a + (T_BELL >> 2));
      if (done()) break;
      if (naps > MOST_NAPS) this.dead(t);
      Atomics.wait(i, a + (T_BELL >> 2), bell, NAP_MS);
    }
    Atomics.sub(i, a + (T_WAITERS >> 2), 1);
  }

  private isParked(t: number): boolean {
    return Atomics.load(this.i32, this.area(t) + (T_STATE >> 2)) === PARKED;
  }

  // --- code ----------------------------------------------------------------------------------------------------------

  /** This thread is about to have code in the page at `host`: afterwards nobody writes there unnoticed. */
  claim(host: number): void {
    const i = this.i32;
    const page = (host - this.L.ram) >>> 12;
    const flags = this.L.pageFlags + page;
    this.spinLock(this.global + (G_LOCK >> 2));
    Atomics.or(i, (this.L.owners >> 2) + page, this.bit);
    const settled = ((this.u8[flags] as number) & S.PF_SETTLED) !== 0;
    Atomics.or(this.u8, flags, S.PF_CODE);
    Atomics.store(i, this.global + (G_LOCK >> 2), 0);
    if (settled) return;
    const writers = Atomics.load(i, (this.L.writers >> 2) + page);
    if (writers & this.bit) {
      this.duties.protect(host);
      Atomics.and(i, (this.L.writers >> 2) + page, ~this.bit);
    }
    if (writers & ~this.bit) {
      this.handshakes++;
      // Outside run(), where translations are taken in, the thread is parked and stays so.
      const { running } = this;
      if (running) this.park();
      for (let t = 0; t < this.L.threads; t++) if (writers & ~this.bit & (1 << t)) this.protectAt(t, host);
      if (running) this.unpark();
    }
    this.spinLock(this.global + (G_LOCK >> 2));
    Atomics.or(this.u8, flags, S.PF_SETTLED);
    Atomics.store(i, this.global + (G_LOCK >> 2), 0);
  }

  private protectAt(t: number, host: number): void {
    this.post(t, host, 0);
    const word = this.area(t) + ((this.lost ? T_MADE_GOOD : T_HEAD) >> 2);
    const seq = this.posted;
    this.await(t, () => ((Atomics.load(this.i32, word) - seq) | 0) >= 0 || this.isParked(t));
  }

  /** There is no code of this thread in the page any more. */
  release(host: number): void {
    const i = this.i32;
    const page = (host - this.L.ram) >>> 12;
    this.spinLock(this.global + (G_LOCK >> 2));
    const others = Atomics.and(i, (this.L.owners >> 2) + page, ~this.bit) & ~this.bit;
    if (others === 0) Atomics.and(this.u8, this.L.pageFlags + page, ~(S.PF_CODE | S.PF_SETTLED) & 0xff);
    Atomics.store(i, this.global + (G_LOCK >> 2), 0);
  }

  /** What was stored before is seen by others before what is loaded afterwards is looked at. */
  fence(): void {
    Atomics.add(this.i32, this.own + (T_READING >> 2), 0);
  }

  /** See FetchPort.reading. */
  reading(host: number): void {
    Atomics.store(this.i32, this.own + (T_READING >> 2), host);
  }

  /** Bytes have changed: tells those who have code there. */
  written(host: number, size: number): void {
    const i = this.i32;
    const end = host + size;
    for (let from = host; from < end; ) {
      const pageHost = from - (from % 4096);
      const to = Math.min(end, pageHost + 4096);
      const page = (pageHost - this.L.ram) >>> 12;
      const others = Atomics.load(i, (this.L.owners >> 2) + page) & ~this.bit;
      if (others !== 0)
        for (let t = 0; t < this.L.threads; t++)
          if (others & (1 << t) && this.hasCode(t, pageHost, page, from, to)) this.post(t, from, to - from);
      from = to;
    }
  }

  private hasCode(t: number, pageHost: number, page: number, from: number, to: number): boolean {
    const i = this.i32;
    // In this order: what is no longer being read is marked.
    const reading = Atomics.load(i, this.area(t) + (T_READING >> 2));
    if (reading === READING_ANY || reading >>> 0 === pageHost) return true;
    const mask = (this.pageInfos[t] as number) + page * 4 + 2;
    for (let c = (from & 4095) >> 6; c <= ((to - 1) & 4095) >> 6; c++)
      if (((i[mask + (c >> 5)] as number) & (1 << (c & 31))) !== 0) return true;
    return false;
  }

  // --- standing still ------------------------------------------------------------------------------------------------

  /** All other threads are parked, or wait, when this returns; until {@link go}. */
  stop(): void {
    const i = this.i32;
    const word = this.global + (G_STOPPED >> 2);
    this.stops++;
    for (let naps = 0; ; naps++) {
      const s = Atomics.compareExchange(i, word, 0, this.me + 1);
      if (s === 0) break;
      if (naps > MOST_NAPS) this.dead(s - 1);
      this.park();
      Atomics.wait(i, word, s, NAP_MS);
      this.unpark();
    }
    for (let t = 0; t < this.L.threads; t++) {
      if (t === this.me || this.isParked(t)) continue;
      Atomics.store(i, this.attnOf(t), ATTENTION);
      this.await(t, () => this.isParked(t));
    }
  }

  /** Ends {@link stop}. */
  go(): void {
    const word = this.global + (G_STOPPED >> 2);
    Atomics.store(this.i32, word, 0);
    Atomics.notify(this.i32, word);
  }
}
