// Words in shared memory through which the threads of one VM reach each other's vCPUs: interrupts, device accesses, orders.
// Thread 0 runs vCPU 0 and the devices, thread n runs vCPU n. See ARCHITECTURE.md, Threads.
import { HyveError, type Width } from '@hyve/core';
import type { ApicTarget } from '../lapic/apic-bus.ts';
import {
  DELIVERY_EXTINT,
  DELIVERY_FIXED,
  DELIVERY_INIT,
  DELIVERY_LOWEST,
  DELIVERY_NMI,
  DELIVERY_STARTUP,
} from '../lapic/bits.ts';
import { type ApicRouting, destinationNames, type LocalApic } from '../lapic/lapic.ts';

/** Words per thread. */
const AREA = 256;
// Word numbers in a thread's area. What different threads write often is in different cache lines.
/** EVENT_ bits: what there is to take. */
const EVENTS = 0;
/** Counts up with every event; what a sleeping thread waits on. */
const BELL = 16;
/** The thread sleeps, or is about to. */
const SLEEPING = 17;
/** Requested vectors, edge-triggered and level-triggered, eight words each. */
const EDGE = 32;
const LEVEL = 40;
const NMIS = 48;
/** 1 + vector of a startup message. */
const SIPI = 49;
/** Levels of local pins 0 and 1. */
const LINT = 50;
/** To thread 0: level-triggered vectors ended, eight words. */
const ENDED_VECTORS = 56;
// What senders read: see ApicRouting.
const MODE = 64;
const XAPIC_ID = 65;
const APIC_ID = 66;
const LDR = 67;
const DFR = 68;
const ENABLED = 69;
const LINT_OPEN = 70;
const PRIORITY = 71;
/** The vCPU can never run again by itself. */
const STUCK = 72;
// A device access. SLOT_ states.
const SLOT = 96;
const SLOT_OP = 97;
const SLOT_LOW = 98;
const SLOT_HIGH = 99;
const SLOT_WIDTH = 100;
const SLOT_VALUE = 101;
/** Of thread 0's area: the machine is being taken down. */
const CLOSED = 112;

const EVENT_VECTOR = 1 << 0;
const EVENT_NMI = 1 << 1;
const EVENT_INIT = 1 << 2;
const EVENT_SIPI = 1 << 3;
const EVENT_EXTINT = 1 << 4;
const EVENT_LINT = 1 << 5;
const EVENT_ILLEGAL = 1 << 6;
/** To thread 0: some slot has a request. */
const EVENT_ACCESS = 1 << 8;
/** To thread 0: ENDED_VECTORS. */
const EVENT_EOI = 1 << 9;
/** To thread 0: a vCPU has become stuck, or other reasons to look. */
const EVENT_LOOK = 1 << 10;
/** To the others: leave the run loop. */
const EVENT_LEAVE = 1 << 11;
/** To the others: leave it for now. */
const EVENT_PAUSE = 1 << 12;

/** To thread 0: a vCPU has an x87 error that nobody but IRQ 13 is told of. */
const EVENT_FERR = 1 << 13;

const SLOT_IDLE = 0;
const SLOT_REQUEST = 1;
const SLOT_ANSWER = 2;

const OP_IO_READ = 1;
const OP_IO_WRITE = 2;
const OP_MEM_READ = 3;
const OP_MEM_WRITE = 4;
/** The 8259's acknowledge cycle. */
const OP_PIC_ACK = 5;

/** Looks at a slot before the thread goes to sleep over it. */
const SPINS = 4000;
const SIPI_NONE = 0;

/** Orders that thread 0 gave, as {@link Switchboard.take} found them. */
export interface Orders {
  /** Leave the run loop for good. */
  leave: boolean;
  /** Stop until told to go on. */
  pause: boolean;
}

/** What thread 0 answers accesses with. */
export interface AccessTarget {
  /** IN. */
  ioRead(port: number, width: Width): number;
  /** OUT. */
  ioWrite(port: number, width: Width, value: number): void;
  /** Load. */
  mmioRead(addr: number, width: Width): number;
  /** Store. */
  mmioWrite(addr: number, width: Width, value: number): void;
  /** The 8259's acknowledge cycle: a vector. */
  acknowledgePic(): number;
  /** EOI of a level-triggered vector. */
  eoi(vector: number): void;
  /** FERR# of some vCPU goes active. */
  ferr(): void;
}

/**
 * One thread's view of the words. Nothing here blocks but `sleep` and `access`.
 * @example
 * const words = Switchboard.allocate(4);            // thread 0; post `words` to the others
 * const board = new Switchboard(words, 0, (i) => vm.kick?.(i));
 */
export class Switchboard {
  /** The words themselves, for other threads. */
  readonly words: SharedArrayBuffer;
  private readonly w: Int32Array;
  private readonly me: number;
  private readonly own: number;
  private readonly kick: (index: number) => void;
  /** Threads in all. */
  readonly threads: number;
  /** Accesses answered (thread 0) or made (others). */
  accesses = 0;
  /** Of those made, how many were slept over. */
  accessSleeps = 0;

  /**
   * @param words from {@link Switchboard.allocate}
   * @param me this thread's vCPU
   * @param kick makes a vCPU of any thread return from run() soon
   */
  constructor(words: SharedArrayBuffer, me: number, kick: (index: number) => void) {
    this.words = words;
    this.w = new Int32Array(words);
    this.threads = this.w.length / AREA;
    if (!Number.isInteger(this.threads) || me >= this.threads)
      throw new HyveError('THREADS', `${words.byteLength} bytes of words for vCPU ${me}`);
    this.me = me;
    this.own = me * AREA;
    this.kick = kick;
  }

  /** Words for `threads` threads. */
  static allocate(threads: number): SharedArrayBuffer {
    return new SharedArrayBuffer(threads * AREA * 4);
  }

  // --- sending -------------------------------------------------------------------------------------------------------

  private send(to: number, events: number): void {
    const a = to * AREA;
    const before = Atomics.or(this.w, a + EVENTS, events);
    if ((before & events) === events) return; // told already, and not taken yet
    this.ringBell(to);
    if (to !== this.me) this.kick(to);
  }

  private ringBell(to: number): void {
    const a = to * AREA;
    Atomics.add(this.w, a + BELL, 1);
    if (Atomics.load(this.w, a + SLEEPING) !== 0) Atomics.notify(this.w, a + BELL);
  }

  /** @internal A fixed interrupt for another thread's vCPU. */
  sendVector(to: number, vector: number, level: boolean): void {
    Atomics.or(this.w, to * AREA + (level ? LEVEL : EDGE) + (vector >> 5), 1 << (vector & 31));
    this.send(to, EVENT_VECTOR);
  }

  /** @internal Any other message. @returns whether it was one that exists */
  sendMessage(to: number, mode: number, vector: number): boolean {
    switch (mode) {
      case DELIVERY_NMI:
        Atomics.add(this.w, to * AREA + NMIS, 1);
        this.send(to, EVENT_NMI);
        return true;
      case DELIVERY_INIT:
        // What startup messages came before it is void.
        Atomics.store(this.w, to * AREA + SIPI, SIPI_NONE);
        this.send(to, EVENT_INIT);
        return true;
      case DELIVERY_STARTUP:
        Atomics.store(this.w, to * AREA + SIPI, 1 + (vector & 0xff));
        this.send(to, EVENT_SIPI);
        return true;
      case DELIVERY_EXTINT:
        this.send(to, EVENT_EXTINT);
        return true;
      case DELIVERY_FIXED:
        this.send(to, EVENT_ILLEGAL);
        return true;
      default:
        return false;
    }
  }

  /** @internal Level of a local pin of another thread's vCPU. */
  sendLint(to: number, n: 0 | 1, asserted: boolean): void {
    const a = to * AREA;
    const bit = 1 << n;
    const before = asserted ? Atomics.or(this.w, a + LINT, bit) : Atomics.and(this.w, a + LINT, ~bit);
    if (((before & bit) !== 0) !== asserted && (this.word(to, LINT_OPEN) & bit) !== 0) this.send(to, EVENT_LINT);
  }

  /** EOI of a level-triggered vector, for the I/O APIC on thread 0. */
  sendEoi(vector: number): void {
    Atomics.or(this.w, ENDED_VECTORS + (vector >> 5), 1 << (vector & 31));
    this.send(0, EVENT_EOI);
  }

  /** FERR# of this thread's vCPU, which waits for the interrupt. */
  sendFerr(): void {
    this.send(0, EVENT_FERR);
  }

  /** Makes thread 0's loop look again. */
  sendLook(): void {
    this.send(0, EVENT_LOOK);
  }

  /** Orders from thread 0 to all others. */
  order(what: 'leave' | 'pause'): void {
    if (what === 'leave') Atomics.store(this.w, CLOSED, 1);
    for (let t = 1; t < this.threads; t++) {
      this.send(t, what === 'leave' ? EVENT_LEAVE : EVENT_PAUSE);
      if (what === 'leave') Atomics.notify(this.w, t * AREA + SLOT);
    }
  }

  /** Whether `order('leave')` was given. */
  get closed(): boolean {
    return Atomics.load(this.w, CLOSED) !== 0;
  }

  // --- receiving -----------------------------------------------------------------------------------------------------

  /**
   * Takes what has come for this thread: messages go to `lapic`.
   * @param devices on thread 0: accesses of others are answered, ended vectors passed on
   */
  take(lapic: LocalApic, orders: Orders, devices: AccessTarget | null): void {
    const w = this.w;
    if (w[this.own + EVENTS] === 0) return;
    const e = Atomics.exchange(w, this.own + EVENTS, 0);
    if (e & EVENT_LEAVE) orders.leave = true;
    if (e & EVENT_PAUSE) orders.pause = true;
    if (e & EVENT_INIT) lapic.receive(DELIVERY_INIT, 0, false);
    if (e & EVENT_SIPI) {
      const v = Atomics.exchange(w, this.own + SIPI, SIPI_NONE);
      if (v !== SIPI_NONE) lapic.receive(DELIVERY_STARTUP, v - 1, false);
    }
    if (e & EVENT_NMI) {
      const n = Atomics.exchange(w, this.own + NMIS, 0);
      for (let i = 0; i < Math.min(n, 2); i++) lapic.receive(DELIVERY_NMI, 0, false);
    }
    if (e & EVENT_LINT) {
      const levels = Atomics.load(w, this.own + LINT);
      lapic.setLint(0, (levels & 1) !== 0);
      lapic.setLint(1, (levels & 2) !== 0);
    }
    if (e & EVENT_EXTINT) lapic.receive(DELIVERY_EXTINT, 0, false);
    if (e & EVENT_ILLEGAL) lapic.receive(DELIVERY_FIXED, 0, false);
    if (e & EVENT_VECTOR) {
      this.takeVectors(lapic, EDGE, false);
      this.takeVectors(lapic, LEVEL, true);
    }
    if (devices === null) return;
    if (e & EVENT_FERR) devices.ferr();
    if (e & EVENT_EOI)
      for (let i = 0; i < 8; i++) {
        let bits = Atomics.exchange(w, ENDED_VECTORS + i, 0);
        while (bits !== 0) {
          const n = 31 - Math.clz32(bits);
          bits &= ~(1 << n);
          devices.eoi(i * 32 + n);
        }
      }
    if (e & EVENT_ACCESS)
      for (let t = 1; t < this.threads; t++)
        if (Atomics.load(w, t * AREA + SLOT) === SLOT_REQUEST) this.answer(t * AREA, devices);
  }

  private takeVectors(lapic: LocalApic, set: number, level: boolean): void {
    for (let i = 0; i < 8; i++) {
      if (this.w[this.own + set + i] === 0) continue;
      let bits = Atomics.exchange(this.w, this.own + set + i, 0);
      while (bits !== 0) {
        const n = 31 - Math.clz32(bits);
        bits &= ~(1 << n);
        lapic.receive(DELIVERY_FIXED, i * 32 + n, level);
      }
    }
  }

  private answer(a: number, devices: AccessTarget): void {
    const w = this.w;
    const addr = (w[a + SLOT_HIGH] as number) * 0x1_0000_0000 + ((w[a + SLOT_LOW] as number) >>> 0);
    const width = w[a + SLOT_WIDTH] as Width;
    const value = (w[a + SLOT_VALUE] as number) >>> 0;
    this.accesses++;
    switch (w[a + SLOT_OP]) {
      case OP_IO_READ:
        w[a + SLOT_VALUE] = devices.ioRead(addr, width);
        break;
      case OP_IO_WRITE:
        devices.ioWrite(addr, width, value);
        break;
      case OP_MEM_READ:
        w[a + SLOT_VALUE] = devices.mmioRead(addr, width);
        break;
      case OP_MEM_WRITE:
        devices.mmioWrite(addr, width, value);
        break;
      case OP_PIC_ACK:
        w[a + SLOT_VALUE] = devices.acknowledgePic();
        break;
    }
    Atomics.store(w, a + SLOT, SLOT_ANSWER);
    Atomics.notify(w, a + SLOT);
  }

  /**
   * Drops what has come for a thread that stands still: its processor was reset, or gets another state. Levels of pins stay.
   * For thread 0, before it lets the others go on: they may be sent something at once.
   */
  forget(thread: number): void {
    const a = thread * AREA;
    for (let i = 0; i < 8; i++) {
      Atomics.store(this.w, a + EDGE + i, 0);
      Atomics.store(this.w, a + LEVEL + i, 0);
    }
    Atomics.store(this.w, a + NMIS, 0);
    Atomics.store(this.w, a + SIPI, SIPI_NONE);
    Atomics.and(this.w, a + EVENTS, EVENT_LEAVE | EVENT_LINT | EVENT_ACCESS);
    Atomics.store(this.w, a + STUCK, thread === 0 ? 0 : 1);
  }

  /** Whether something waits to be taken. */
  get pending(): boolean {
    return Atomics.load(this.w, this.own + EVENTS) !== 0;
  }

  /** Blocks until something has come for this thread, at most `ms` (Infinity: as long as it takes). */
  sleep(ms: number): void {
    const w = this.w;
    Atomics.store(w, this.own + SLEEPING, 1);
    const bell = Atomics.load(w, this.own + BELL);
    if (Atomics.load(w, this.own + EVENTS) === 0) Atomics.wait(w, this.own + BELL, bell, ms);
    Atomics.store(w, this.own + SLEEPING, 0);
  }

  /** What {@link Switchboard.onBell} calls. */
  private bellCallback: (() => void) | null = null;
  private bellWaits = false;

  /**
   * Calls back once something has come for this thread; for threads with an event loop. At once, if it has already. One
   * call at a time.
   * @returns ends the wait; `f` is not called any more
   */
  onBell(f: () => void): () => void {
    const w = this.w;
    this.bellCallback = f;
    Atomics.store(w, this.own + SLEEPING, 1);
    // A wait that has not ended yet serves again: what rings from now on wakes it.
    if (!this.bellWaits) {
      const r = Atomics.waitAsync(w, this.own + BELL, Atomics.load(w, this.own + BELL));
      if (r.async) {
        this.bellWaits = true;
        r.value.then(() => {
          this.bellWaits = false;
          this.bellCallback?.();
        });
      }
    }
    if (Atomics.load(w, this.own + EVENTS) !== 0) f();
    return () => {
      this.bellCallback = null;
      Atomics.store(w, this.own + SLEEPING, 0);
    };
  }

  // --- accesses of other threads to devices --------------------------------------------------------------------------

  /** One access, made on thread 0; blocks until it is done. All ones when the machine is being taken down. */
  private access(op: number, addr: number, width: number, value: number): number {
    const w = this.w;
    const a = this.own;
    w[a + SLOT_OP] = op;
    w[a + SLOT_LOW] = addr % 0x1_0000_0000;
    w[a + SLOT_HIGH] = Math.floor(addr / 0x1_0000_0000);
    w[a + SLOT_WIDTH] = width;
    w[a + SLOT_VALUE] = value;
    this.accesses++;
    Atomics.store(w, a + SLOT, SLOT_REQUEST);
    this.send(0, EVENT_ACCESS);
    for (let n = 0; n < SPINS && Atomics.load(w, a + SLOT) === SLOT_REQUEST; n++);
    if (Atomics.load(w, a + SLOT) === SLOT_REQUEST) {
      this.accessSleeps++;
      while (Atomics.load(w, a + SLOT) === SLOT_REQUEST) {
        if (this.closed) return 0xffffffff;
        Atomics.wait(w, a + SLOT, SLOT_REQUEST, 50);
      }
    }
    const v = (w[a + SLOT_VALUE] as number) >>> 0;
    Atomics.store(w, a + SLOT, SLOT_IDLE);
    return v;
  }
  /** IN, on thread 0. */
  ioRead(port: number, width: Width): number {
    return this.access(OP_IO_READ, port, width, 0);
  }
  /** OUT. */
  ioWrite(port: number, width: Width, value: number): void {
    this.access(OP_IO_WRITE, port, width, value);
  }
  /** Load from a device. */
  mmioRead(addr: number, width: Width): number {
    return this.access(OP_MEM_READ, addr, width, 0);
  }
  /** Store to a device. */
  mmioWrite(addr: number, width: Width, value: number): void {
    this.access(OP_MEM_WRITE, addr, width, value);
  }
  /** The 8259's acknowledge cycle. */
  acknowledgePic(): number {
    return this.access(OP_PIC_ACK, 0, 1, 0) & 0xff;
  }

  // --- what others know of a vCPU ------------------------------------------------------------------------------------

  /** @internal */
  word(thread: number, n: number): number {
    return Atomics.load(this.w, thread * AREA + n);
  }

  /** Publishes this thread's local APIC's routing, for LocalApicOptions; or another's that stands still. */
  publishRouting(r: ApicRouting, thread: number = this.me): void {
    const w = this.w;
    const a = thread * AREA;
    w[a + XAPIC_ID] = r.xapicId;
    w[a + LDR] = r.ldr;
    w[a + DFR] = r.dfr;
    w[a + LINT_OPEN] = r.lintOpen;
    w[a + ENABLED] = r.enabled ? 1 : 0;
    Atomics.store(w, a + MODE, r.mode);
  }

  /** Publishes the arbitration priority. */
  publishPriority(priority: number): void {
    this.w[this.own + PRIORITY] = priority;
  }

  /** Says what a thread that has not come up yet would: the state after reset. For thread 0, before it starts the others. */
  publishReset(thread: number, apicId: number, x2apic: boolean): void {
    const w = this.w;
    const a = thread * AREA;
    w[a + XAPIC_ID] = apicId & 0xff;
    w[a + APIC_ID] = apicId;
    w[a + LDR] = x2apic ? ((apicId >>> 4) << 16) | (1 << (apicId & 15)) : 0;
    w[a + DFR] = -1;
    w[a + STUCK] = 1;
    Atomics.store(w, a + MODE, x2apic ? 2 : 1);
  }

  /** Whether pin `n` of this thread's local APIC is high. */
  lint(n: 0 | 1): boolean {
    return (this.word(this.me, LINT) & (1 << n)) !== 0;
  }

  /** Publishes whether this thread's vCPU can never run again by itself; tells thread 0 when it becomes so. */
  publishStuck(stuck: boolean): void {
    const before = Atomics.exchange(this.w, this.own + STUCK, stuck ? 1 : 0);
    if (stuck && before === 0) this.sendLook();
  }

  /** Whether all other threads are stuck and nothing is on its way to them. */
  othersStuck(): boolean {
    for (let t = 0; t < this.threads; t++)
      if (t !== this.me && (this.word(t, STUCK) === 0 || this.word(t, EVENTS) !== 0)) return false;
    return true;
  }

  /** The stand-in for thread `index`'s local APIC. */
  target(index: number): ApicTarget {
    return new RemoteApic(this, index);
  }
}

/** A local APIC of another thread, for this thread's ApicBus. */
class RemoteApic implements ApicTarget {
  readonly index: number;
  private readonly board: Switchboard;

  constructor(board: Switchboard, index: number) {
    this.board = board;
    this.index = index;
  }

  get softwareEnabled(): boolean {
    return this.board.word(this.index, ENABLED) !== 0 && this.board.word(this.index, MODE) !== 0;
  }

  matches(dest: number, logical: boolean, wide: boolean): boolean {
    const b = this.board;
    const i = this.index;
    return destinationNames(
      b.word(i, MODE),
      b.word(i, APIC_ID) >>> 0,
      b.word(i, XAPIC_ID),
      b.word(i, LDR) >>> 0,
      b.word(i, DFR) >>> 0,
      dest,
      logical,
      wide,
    );
  }

  receive(mode: number, vector: number, level: boolean): boolean {
    if (this.board.word(this.index, MODE) === 0) return false;
    if (mode !== DELIVERY_FIXED && mode !== DELIVERY_LOWEST) {
      // SMI is accepted and ignored.
      return this.board.sendMessage(this.index, mode, vector) || mode === 2;
    }
    if (!this.softwareEnabled) return false;
    if (vector < 16) {
      this.board.sendMessage(this.index, DELIVERY_FIXED, vector);
      return false;
    }
    this.board.sendVector(this.index, vector, level);
    return true;
  }

  setLint(n: 0 | 1, asserted: boolean): void {
    this.board.sendLint(this.index, n, asserted);
  }

  arbitrationPriority(): number {
    return this.board.word(this.index, PRIORITY);
  }
}
