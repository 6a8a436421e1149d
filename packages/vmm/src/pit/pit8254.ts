// Intel 8254 programmable interval timer and the PC's port 0x61. Intel 8254 datasheet 231164-005; port 0x61 as in ICH
// §13.7.1. Mirrors bhyve's vatpit.c, with all six modes.
import {
  type Clock,
  type Device,
  type IoBus,
  type IoHandler,
  type IrqLine,
  StateReader,
  type Timer,
  type Width,
} from '@hyve/core';
import { nsOfTick, ticksAt } from '../chip/ticks.ts';
import {
  CONTROL,
  CW_READ_BACK,
  CW_RW_MASK,
  CW_RW_SHIFT,
  CW_SC_SHIFT,
  NMISC_GATE2,
  NMISC_OUT2,
  NMISC_PORT,
  NMISC_REFRESH,
  NMISC_WRITABLE,
  PIT_HZ,
  PIT_PORT,
  RB_COUNTER0,
  RB_NO_COUNT,
  RB_NO_STATUS,
  REFRESH_TICKS,
  RW_LATCH,
} from './bits.ts';
import { Counter, type PitCounterStateV1 } from './counter.ts';

/** Shortest time between two interrupts of our own making, ns: bounds what a guest with a count of 2 can cost. */
const MIN_GAP_NS = 10_000;
/** Late edges delivered one by one when the host lagged; beyond it they merge into one, as an edge line merges them. */
const MAX_OWED = 32;

/** Saved state of {@link Pit8254}. */
export interface PitStateV1 {
  /** Version. */
  readonly v: 1;
  /** The three counters. */
  readonly counters: readonly PitCounterStateV1[];
  /** Writable bits of port 0x61. */
  readonly nmisc: number;
  /** Late edges of counter 0 still to deliver. */
  readonly owed: number;
  /** Whether counter 0 drives its line (off while the HPET replaces it). */
  readonly irqEnabled: boolean;
}

/** What {@link Pit8254} needs. */
export interface PitOptions {
  /** Guest time. */
  readonly clock: Clock;
  /** OUT of counter 0: IRQ 0, on the 8259 input 0 and the IO-APIC input 2. */
  readonly irq: IrqLine;
  /** Name in messages and saved state. Default `pit`. */
  readonly name?: string;
}

/**
 * The three counters at 1,193,182 Hz, ports 0x40-0x43, and port 0x61 with counter 2's gate and output.
 *
 * Counts and outputs are computed from the clock at the moment of the access, so a guest that polls counts exactly. IRQ 0
 * deadlines come from the time the count was loaded: lateness never adds up. When the host runs late, up to 32 missed
 * edges are delivered one after the other, 10 µs or more apart; after a longer gap a single one.
 *
 * Not modelled: GATE of counters 0 and 1 (tied high on a PC), the speaker's sound, NMI sources of port 0x61; a count of 1
 * in modes 2 and 3 (illegal) counts as 2.
 * @example
 * const pit = new Pit8254({ clock, irq: irq0 });
 * claimPit(pio, pit);
 */
export class Pit8254 implements Device, IoHandler {
  readonly name: string;
  /** Port 0x61. */
  readonly nmisc: IoHandler;
  private readonly clock: Clock;
  private readonly irq: IrqLine;
  private readonly timer: Timer;
  private readonly counter0: Counter = new Counter(true);
  private readonly counter1: Counter = new Counter(true);
  private readonly counter2: Counter = new Counter(false);
  private control61 = 0;
  private owed = 0;
  private irqEnabled = true;
  private level = false;

  constructor(o: PitOptions) {
    this.name = o.name ?? 'pit';
    this.clock = o.clock;
    this.irq = o.irq;
    this.timer = o.clock.timer(() => this.fire());
    this.nmisc = {
      read: () => this.readNmisc(),
      write: (_offset, _width, value) => this.writeNmisc(value),
    };
    this.reset();
  }

  private tick(): number {
    return ticksAt(this.clock.now(), PIT_HZ);
  }

  private counter(index: number): Counter {
    return index === 0 ? this.counter0 : index === 1 ? this.counter1 : this.counter2;
  }

  /** Brings one counter to `t`, and keeps counter 0's edges for the line. */
  private sync(index: number, t: number): Counter {
    const c = this.counter(index);
    const edges = c.take(t);
    if (index === 0) this.owed = this.owed + edges > MAX_OWED ? 1 : this.owed + edges;
    return c;
  }

  read(offset: number, _width: Width): number {
    if (offset === CONTROL) return 0xff; // not readable: the data pins float
    const t = this.tick();
    return this.sync(offset, t).read(t);
  }

  write(offset: number, _width: Width, value: number): void {
    const t = this.tick();
    if (offset !== CONTROL) {
      this.sync(offset, t).write(t, value);
      if (offset === 0) this.reschedule(t);
      return;
    }
    const select = value >>> CW_SC_SHIFT;
    if (select === CW_READ_BACK) {
      for (let i = 0; i < 3; i++) {
        if ((value & (RB_COUNTER0 << i)) === 0) continue;
        const c = this.sync(i, t);
        if ((value & RB_NO_COUNT) === 0) c.latch(t);
        if ((value & RB_NO_STATUS) === 0) c.latchStatus(t);
      }
      return;
    }
    const c = this.sync(select, t);
    if (((value >>> CW_RW_SHIFT) & CW_RW_MASK) === RW_LATCH) {
      c.latch(t);
      return;
    }
    c.control(t, value);
    if (select !== 0) return;
    this.owed = 0;
    this.reschedule(t);
  }

  /** After a guest write to counter 0: the line follows OUT, and the timer waits for the next change. */
  private reschedule(t: number): void {
    this.drive(this.counter0.out(t));
    const next = this.counter0.nextEvent(t);
    if (this.owed > 0) this.timer.arm(this.clock.now());
    else if (next === Number.POSITIVE_INFINITY) this.timer.disarm();
    else this.timer.arm(nsOfTick(next, PIT_HZ));
  }

  private fire(): void {
    const now = this.clock.now();
    const t = ticksAt(now, PIT_HZ);
    this.sync(0, t);
    if (this.owed > 0) {
      this.owed--;
      this.drive(false);
      this.drive(true);
    }
    this.drive(this.counter0.out(t));
    const next = this.owed > 0 ? now : nsOfTick(this.counter0.nextEvent(t), PIT_HZ);
    if (next !== Number.POSITIVE_INFINITY) this.timer.arm(Math.max(next, now + MIN_GAP_NS));
  }

  private drive(level: boolean): void {
    const v = level && this.irqEnabled;
    if (v === this.level) return;
    this.level = v;
    this.irq.set(v);
  }

  /** Connects or cuts counter 0's interrupt line: the HPET's legacy replacement route takes it over (HPET 1.0a §2.3.4). */
  setIrqEnabled(on: boolean): void {
    this.irqEnabled = on;
    this.drive(this.counter0.out(this.tick()));
  }

  private readNmisc(): number {
    const t = this.tick();
    let v = this.control61;
    if ((Math.floor(t / REFRESH_TICKS) & 1) !== 0) v |= NMISC_REFRESH;
    if (this.sync(2, t).out(t)) v |= NMISC_OUT2;
    return v;
  }

  private writeNmisc(value: number): void {
    this.control61 = value & NMISC_WRITABLE;
    const t = this.tick();
    this.sync(2, t).setGate(t, (value & NMISC_GATE2) !== 0);
  }

  reset(): void {
    const t = this.tick();
    this.counter0.reset(t);
    this.counter1.reset(t);
    this.counter2.reset(t);
    this.control61 = 0;
    this.owed = 0;
    this.irqEnabled = true;
    this.timer.disarm();
    this.drive(false);
  }

  save(): PitStateV1 {
    const t = this.tick();
    return {
      v: 1,
      counters: [this.sync(0, t).save(t), this.sync(1, t).save(t), this.sync(2, t).save(t)],
      nmisc: this.control61,
      owed: this.owed,
      irqEnabled: this.irqEnabled,
    };
  }

  load(state: unknown): void {
    const s = new StateReader(this.name, state, 1);
    const counters = s.items('counters', 3);
    const nmisc = s.int('nmisc', 0, NMISC_WRITABLE);
    const owed = s.int('owed', 0, MAX_OWED);
    const irqEnabled = s.bool('irqEnabled');
    const t = this.tick();
    for (let i = 0; i < 3; i++) this.counter(i).load(t, counters[i] as StateReader);
    this.control61 = nmisc;
    this.owed = owed;
    this.irqEnabled = irqEnabled;
    this.level = irqEnabled && this.counter0.out(t);
    this.irq.restore(this.level);
    this.reschedule(t);
  }
}

/** Claims the PC's ports for a PIT: 0x40-0x43 and 0x61. @throws HyveError `BUS_OVERLAP` */
export function claimPit(pio: IoBus, pit: Pit8254): void {
  pio.claim(PIT_PORT, 4, pit, { name: pit.name, widths: 1 });
  pio.claim(NMISC_PORT, 1, pit.nmisc, { name: `${pit.name} port 61`, widths: 1 });
}
