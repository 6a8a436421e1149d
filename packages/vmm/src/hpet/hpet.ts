// High precision event timers: a 10 MHz 64-bit counter and eight comparators. IA-PC HPET Specification 1.0a; mirrors
// bhyve's vhpet.c, with 64-bit timers and legacy replacement routing.
import {
  type Clock,
  type Device,
  HyveError,
  type InterruptController,
  type IoBus,
  type IoHandler,
  type IrqLine,
  type MsiSink,
  StateReader,
  type Timer,
  unconnectedLine,
  type Width,
} from '@hyve/core';
import {
  DEFAULT_ROUTES,
  GCAP_COUNT_SIZE,
  GCAP_ID,
  GCAP_LEG_RT,
  GCAP_NUM_TIM_SHIFT,
  GCAP_PERIOD,
  GCAP_REV,
  GCAP_VENDOR,
  GCAP_VENDOR_SHIFT,
  GEN_CONF,
  GEN_ENABLE,
  GEN_LEG_RT,
  GINTR_STA,
  HPET_BASE,
  HPET_PERIOD_FS,
  HPET_SIZE,
  HPET_TICK_NS,
  HPET_TIMERS,
  MAIN_CNT,
  TIM_STRIDE_SHIFT,
  TIM0,
  TN_32MODE,
  TN_CAPS,
  TN_COMP,
  TN_COMP_HI,
  TN_CONF,
  TN_FSB_ADDR,
  TN_FSB_EN,
  TN_FSB_VAL,
  TN_INT_ENB,
  TN_INT_TYPE,
  TN_PERIODIC,
  TN_ROUTE_CAP,
  TN_ROUTE_MASK,
  TN_ROUTE_SHIFT,
  TN_VAL_SET,
  TN_WRITABLE,
} from './bits.ts';

const TWO32 = 0x1_0000_0000;
const NEVER = Number.POSITIVE_INFINITY;
/** Matches further away than this are not worth a timer: 2^50 ticks are over three years. */
const HORIZON = 2 ** 50;
/** Shortest time between two interrupts of one timer, ns: bounds what a guest with a period of 1 can cost. */
const MIN_GAP_NS = 10_000;
/** Late matches delivered one by one when the host lagged; more merge into one. */
const MAX_OWED = 32;

/** Saved state of one timer. */
export interface HpetTimerStateV1 {
  /** Writable configuration bits. */
  readonly conf: number;
  /** Comparator, low half. */
  readonly compLo: number;
  /** Comparator, high half. */
  readonly compHi: number;
  /** Period, low half. */
  readonly periodLo: number;
  /** Period, high half. */
  readonly periodHi: number;
  /** Message data. */
  readonly fsbVal: number;
  /** Message address. */
  readonly fsbAddr: number;
  /** Late matches still to deliver. */
  readonly owed: number;
}

/** Saved state of {@link Hpet}. */
export interface HpetStateV1 {
  /** Version. */
  readonly v: 1;
  /** General configuration. */
  readonly conf: number;
  /** General interrupt status. */
  readonly status: number;
  /** Main counter, low half. */
  readonly counterLo: number;
  /** Main counter, high half. */
  readonly counterHi: number;
  /** The timers. */
  readonly timers: readonly HpetTimerStateV1[];
}

/** The lines that legacy replacement routing drives, and who must yield them. */
export interface HpetLegacy {
  /** IRQ 0: input 0 of the 8259, input 2 of the IO-APIC. */
  readonly irq0: IrqLine;
  /** IRQ 8, on both controllers. */
  readonly irq8: IrqLine;
  /** The guest switched the routing: while on, the PIT and the RTC must not drive IRQ 0 and IRQ 8. */
  readonly onRoute: (on: boolean) => void;
}

/** What {@link Hpet} needs. */
export interface HpetOptions {
  /** Guest time. */
  readonly clock: Clock;
  /** Where messages go. */
  readonly msi: MsiSink;
  /** The IO-APIC. */
  readonly interrupts: InterruptController;
  /** Legacy replacement routing; absent: LEG_RT_CAP reads 0. */
  readonly legacy?: HpetLegacy;
  /** Pins of `interrupts` that timers may use, one bit each. Default 0x00FF0000 (16-23), as bhyve. */
  readonly routes?: number;
  /** Name in messages and saved state. Default `hpet`. */
  readonly name?: string;
}

/** One comparator. Its arithmetic is on the 64-bit counter that the block hands in as two halves. */
class Comparator {
  conf = 0;
  compLo = 0xffffffff;
  compHi = 0xffffffff;
  periodLo = 0;
  periodHi = 0;
  fsbVal = 0;
  fsbAddr = 0;
  owed = 0;
  /** Clock tick of the next match while the counter runs. */
  due = NEVER;
  /** The pin in use and the level on it. */
  line: IrqLine = unconnectedLine;
  level = false;
  readonly timer: Timer;
  /** Handles by pin. */
  readonly pins: readonly IrqLine[];

  constructor(timer: Timer, pins: readonly IrqLine[]) {
    this.timer = timer;
    this.pins = pins;
  }

  reset(): void {
    this.conf = 0;
    this.compLo = 0xffffffff;
    this.compHi = 0xffffffff;
    this.periodLo = 0;
    this.periodHi = 0;
    this.fsbVal = 0;
    this.fsbAddr = 0;
    this.owed = 0;
    this.due = NEVER;
    this.timer.disarm();
  }

  /** Works out the next match when the counter is `lo`, `hi` at tick `now`. A comparator equal to the counter waits for the wrap. */
  plan(now: number, lo: number, hi: number): void {
    const d = this.compLo - lo;
    let ahead = d >>> 0;
    if ((this.conf & TN_32MODE) === 0) ahead += ((this.compHi - hi - (d < 0 ? 1 : 0)) >>> 0) * TWO32;
    else if (ahead === 0) ahead = TWO32;
    this.due = ahead !== 0 && ahead < HORIZON ? now + ahead : NEVER;
  }

  /** Passes every match up to tick `now`; returns how many there were. */
  settle(now: number): number {
    if (now < this.due) return 0;
    const wide = (this.conf & TN_32MODE) === 0;
    const period = (this.conf & TN_PERIODIC) === 0 ? 0 : this.periodLo + (wide ? this.periodHi * TWO32 : 0);
    if (period === 0) {
      this.due = wide ? NEVER : this.due + TWO32 * (Math.floor((now - this.due) / TWO32) + 1);
      return 1;
    }
    // A period beyond the horizon is never due again; the comparator still moves by exactly that much.
    const n = period < HORIZON ? Math.floor((now - this.due) / period) + 1 : 1;
    const lo = this.compLo + (n > 1 ? (n * period) % TWO32 : this.periodLo);
    const hi = n > 1 ? Math.floor((n * period) / TWO32) : this.periodHi;
    this.compLo = lo >>> 0;
    if (wide) this.compHi = (this.compHi + hi + (lo >= TWO32 ? 1 : 0)) >>> 0;
    this.due = period < HORIZON ? this.due + n * period : NEVER;
    return n;
  }

  /** Whether anybody would notice a match. */
  get wanted(): boolean {
    return (this.conf & (TN_INT_ENB | TN_INT_TYPE)) !== 0;
  }

  save(): HpetTimerStateV1 {
    return {
      conf: this.conf,
      compLo: this.compLo,
      compHi: this.compHi,
      periodLo: this.periodLo,
      periodHi: this.periodHi,
      fsbVal: this.fsbVal,
      fsbAddr: this.fsbAddr,
      owed: this.owed,
    };
  }

  load(s: StateReader): void {
    this.conf = s.u32('conf') & TN_WRITABLE;
    this.compLo = s.u32('compLo');
    this.compHi = s.u32('compHi');
    this.periodLo = s.u32('periodLo');
    this.periodHi = s.u32('periodHi');
    this.fsbVal = s.u32('fsbVal');
    this.fsbAddr = s.u32('fsbAddr');
    this.owed = s.int('owed', 0, MAX_OWED);
  }
}

/**
 * The HPET block. Every register takes 32-bit accesses; the bus splits 64-bit ones, and the high half of the counter read
 * right after the low half belongs to it, so that such a read never tears.
 *
 * All eight timers are 64-bit, periodic-capable and can send messages. A periodic timer that the host serves late delivers
 * up to 32 missed matches one after the other, and a single one after a longer gap.
 *
 * Not modelled: accesses narrower than 32 bits (reads give their part of the register, writes vanish). A one-shot
 * comparator set to a time already past matches when the counter comes round again, as in hardware.
 * @example
 * const hpet = new Hpet({ clock, msi, interrupts: ioapic, legacy: { irq0, irq8, onRoute: (on) => pit.setIrqEnabled(!on) } });
 * claimHpet(mmio, hpet);
 */
export class Hpet implements Device, IoHandler {
  readonly name: string;
  private readonly clock: Clock;
  private readonly msi: MsiSink;
  private readonly legacy: HpetLegacy | null;
  private readonly routes: number;
  private readonly timers: readonly Comparator[];
  private conf = 0;
  private status = 0;
  /** Counter value at tick `since` (running) or now (halted). */
  private baseLo = 0;
  private baseHi = 0;
  private since = 0;
  /** Where {@link Hpet.sample} leaves the counter. */
  private nowLo = 0;
  private nowHi = 0;
  /** The previous access read the counter's low half. */
  private highLatched = false;
  /** The timer whose accumulator the next high-half write completes, or -1. */
  private openHigh = -1;

  /** @throws HyveError `IRQ_PIN` from the controller for a pin of `routes` that does not exist, `HPET_ROUTES` */
  constructor(o: HpetOptions) {
    this.name = o.name ?? 'hpet';
    this.clock = o.clock;
    this.msi = o.msi;
    this.legacy = o.legacy ?? null;
    const routes = o.routes ?? DEFAULT_ROUTES;
    if (!Number.isInteger(routes) || routes < 0 || routes >= TWO32)
      throw new HyveError('HPET_ROUTES', `${this.name}: routes ${routes}, expected a 32-bit mask of pins`);
    this.routes = routes;
    const timers: Comparator[] = [];
    for (let n = 0; n < HPET_TIMERS; n++) {
      const pins: IrqLine[] = [];
      for (let pin = 0; pin < 32; pin++) {
        const usable = ((routes >>> pin) & 1) !== 0;
        pins.push(usable ? o.interrupts.connect(pin, `${this.name} timer ${n}`) : unconnectedLine);
      }
      timers.push(
        new Comparator(
          o.clock.timer(() => this.fire(n)),
          pins,
        ),
      );
    }
    this.timers = timers;
  }

  private tick(): number {
    return Math.floor(this.clock.now() / HPET_TICK_NS);
  }

  private get running(): boolean {
    return (this.conf & GEN_ENABLE) !== 0;
  }

  /** Puts the main counter at tick `t` into nowLo and nowHi. */
  private sample(t: number): void {
    if (!this.running) {
      this.nowLo = this.baseLo;
      this.nowHi = this.baseHi;
      return;
    }
    const lo = this.baseLo + (t - this.since);
    this.nowLo = lo >>> 0;
    this.nowHi = (this.baseHi + Math.floor(lo / TWO32)) >>> 0;
  }

  /** Passes timer `n`'s matches up to tick `t`: level-triggered ones into the status register, others into `owed`. */
  private sync(n: number, t: number): void {
    const c = this.timers[n] as Comparator;
    const matches = c.settle(t);
    if (matches === 0) return;
    if ((c.conf & TN_INT_TYPE) !== 0) this.status |= 1 << n;
    const pulses = (c.conf & TN_INT_TYPE) === 0 || (c.conf & TN_FSB_EN) !== 0;
    if (pulses && (c.conf & TN_INT_ENB) !== 0) c.owed = c.owed + matches > MAX_OWED ? 1 : c.owed + matches;
    this.updateLine(n);
  }

  private syncAll(t: number): void {
    for (let n = 0; n < HPET_TIMERS; n++) this.sync(n, t);
  }

  private fire(n: number): void {
    const now = this.clock.now();
    const t = Math.floor(now / HPET_TICK_NS);
    const c = this.timers[n] as Comparator;
    this.sync(n, t);
    if (c.owed > 0) {
      c.owed--;
      this.pulse(n, c);
    }
    this.arm(n, now + MIN_GAP_NS);
  }

  private pulse(n: number, c: Comparator): void {
    if ((c.conf & TN_FSB_EN) !== 0) {
      this.msi.send(c.fsbAddr, c.fsbVal);
      return;
    }
    const line = this.lineOf(n, c);
    line.set(true);
    line.set(false);
  }

  /** Arms or disarms a settled timer, not before `earliest` ns. */
  private arm(n: number, earliest: number): void {
    const c = this.timers[n] as Comparator;
    // A level that is up stays up until the guest clears it; nothing to do before that.
    const up = (this.status & (1 << n)) !== 0 && (c.conf & TN_FSB_EN) === 0;
    if (!this.running || !c.wanted || up) c.timer.disarm();
    else if (c.owed > 0) c.timer.arm(earliest);
    else if (c.due === NEVER) c.timer.disarm();
    else c.timer.arm(Math.max(c.due * HPET_TICK_NS, earliest));
  }

  /** Recomputes the next match of timer `n` from the counter at tick `t`. */
  private replan(n: number, t: number): void {
    const c = this.timers[n] as Comparator;
    if (this.running) {
      this.sample(t);
      c.plan(t, this.nowLo, this.nowHi);
    } else c.due = NEVER;
    this.arm(n, 0);
  }

  private lineOf(n: number, c: Comparator): IrqLine {
    const legacy = this.legacy;
    if (legacy !== null && (this.conf & GEN_LEG_RT) !== 0 && n < 2) return n === 0 ? legacy.irq0 : legacy.irq8;
    return c.pins[(c.conf >>> TN_ROUTE_SHIFT) & TN_ROUTE_MASK] as IrqLine;
  }

  /** Puts the level of a level-triggered timer on its line. */
  private updateLine(n: number): void {
    const c = this.timers[n] as Comparator;
    const line = this.lineOf(n, c);
    const level =
      this.running &&
      (this.status & (1 << n)) !== 0 &&
      (c.conf & (TN_INT_TYPE | TN_INT_ENB | TN_FSB_EN)) === (TN_INT_TYPE | TN_INT_ENB);
    if (line !== c.line) {
      if (c.level) c.line.set(false);
      c.line = line;
      c.level = false;
    }
    if (level === c.level) return;
    c.level = level;
    line.set(level);
  }

  read(offset: number, _width: Width): number {
    const latched = this.highLatched;
    this.highLatched = false;
    const reg = offset & ~3;
    switch (reg) {
      case GCAP_ID:
        return (
          ((GCAP_VENDOR << GCAP_VENDOR_SHIFT) |
            (this.legacy !== null ? GCAP_LEG_RT : 0) |
            GCAP_COUNT_SIZE |
            ((HPET_TIMERS - 1) << GCAP_NUM_TIM_SHIFT) |
            GCAP_REV) >>>
          0
        );
      case GCAP_PERIOD:
        return HPET_PERIOD_FS;
      case GEN_CONF:
        return this.conf;
      case GINTR_STA:
        if (this.running) this.syncAll(this.tick());
        return this.status;
      case MAIN_CNT:
        this.sample(this.tick());
        this.highLatched = true;
        return this.nowLo;
      case MAIN_CNT + 4:
        if (!latched) this.sample(this.tick());
        return this.nowHi;
      default:
        return reg < TIM0 ? 0 : this.readTimer(reg - TIM0);
    }
  }

  private readTimer(offset: number): number {
    const n = offset >>> TIM_STRIDE_SHIFT;
    if (n >= HPET_TIMERS) return 0;
    const c = this.timers[n] as Comparator;
    switch (offset & 0x1c) {
      case TN_CONF:
        return c.conf | TN_CAPS;
      case TN_ROUTE_CAP:
        return this.routes;
      case TN_COMP:
        if (this.running) this.sync(n, this.tick());
        return c.compLo;
      case TN_COMP_HI:
        if (this.running) this.sync(n, this.tick());
        return c.compHi;
      case TN_FSB_VAL:
        return c.fsbVal;
      case TN_FSB_ADDR:
        return c.fsbAddr;
      default:
        return 0;
    }
  }

  write(offset: number, _width: Width, value: number): void {
    const open = this.openHigh;
    this.openHigh = -1;
    this.highLatched = false;
    const reg = offset & ~3;
    switch (reg) {
      case GEN_CONF:
        this.writeConf(value);
        break;
      case GINTR_STA:
        this.syncAll(this.tick());
        for (let n = 0; n < HPET_TIMERS; n++) {
          if ((this.status & value & (1 << n)) === 0) continue;
          this.status &= ~(1 << n);
          this.updateLine(n);
          this.arm(n, 0);
        }
        break;
      case MAIN_CNT:
      case MAIN_CNT + 4:
        this.writeCounter(reg === MAIN_CNT, value);
        break;
      default:
        if (reg >= TIM0) this.writeTimer(reg - TIM0, value, open);
    }
  }

  private writeConf(value: number): void {
    const t = this.tick();
    this.syncAll(t);
    this.sample(t);
    const old = this.conf;
    const conf = value & (this.legacy !== null ? GEN_ENABLE | GEN_LEG_RT : GEN_ENABLE);
    // Whether it starts, halts or goes on, the counter goes on from what it shows now.
    this.baseLo = this.nowLo;
    this.baseHi = this.nowHi;
    this.since = t;
    this.conf = conf;
    const routed = (conf & GEN_LEG_RT) !== 0;
    const changed = ((old ^ conf) & GEN_LEG_RT) !== 0;
    // Whoever held IRQ 0 and 8 lets go before the next one takes them.
    if (changed && routed && this.legacy !== null) this.legacy.onRoute(true);
    for (let n = 0; n < HPET_TIMERS; n++) {
      if (((old ^ conf) & GEN_ENABLE) !== 0) {
        (this.timers[n] as Comparator).owed = 0;
        this.replan(n, t);
      }
      this.updateLine(n);
    }
    if (changed && !routed && this.legacy !== null) this.legacy.onRoute(false);
  }

  private writeCounter(low: boolean, value: number): void {
    const t = this.tick();
    this.syncAll(t);
    this.sample(t);
    this.baseLo = low ? value : this.nowLo;
    this.baseHi = low ? this.nowHi : value;
    this.since = t;
    for (let n = 0; n < HPET_TIMERS; n++) this.replan(n, t);
  }

  private writeTimer(offset: number, value: number, open: number): void {
    const n = offset >>> TIM_STRIDE_SHIFT;
    if (n >= HPET_TIMERS) return;
    const c = this.timers[n] as Comparator;
    const t = this.tick();
    this.sync(n, t);
    switch (offset & 0x1c) {
      case TN_CONF:
        this.writeTimerConf(n, c, value, t);
        break;
      case TN_COMP:
        if ((c.conf & TN_PERIODIC) !== 0) c.periodLo = value;
        if ((c.conf & (TN_PERIODIC | TN_VAL_SET)) === TN_PERIODIC) break;
        c.compLo = value;
        if ((c.conf & TN_VAL_SET) !== 0) {
          // The bus splits a 64-bit write: its high half belongs to the same setting.
          c.conf &= ~TN_VAL_SET;
          this.openHigh = n;
        }
        this.replan(n, t);
        break;
      case TN_COMP_HI:
        if ((c.conf & TN_PERIODIC) !== 0) c.periodHi = value;
        if ((c.conf & (TN_PERIODIC | TN_VAL_SET)) === TN_PERIODIC && open !== n) break;
        c.compHi = value;
        c.conf &= ~TN_VAL_SET;
        this.replan(n, t);
        break;
      case TN_FSB_VAL:
        c.fsbVal = value;
        break;
      case TN_FSB_ADDR:
        c.fsbAddr = value;
    }
  }

  private writeTimerConf(n: number, c: Comparator, value: number, t: number): void {
    let conf = value & TN_WRITABLE;
    // A pin the timer cannot use is not taken: software reads the field back to find out (§2.3.8.1).
    if (((this.routes >>> ((conf >>> TN_ROUTE_SHIFT) & TN_ROUTE_MASK)) & 1) === 0)
      conf &= ~(TN_ROUTE_MASK << TN_ROUTE_SHIFT);
    const changed = c.conf ^ conf;
    c.conf = conf;
    if ((changed & (TN_INT_ENB | TN_INT_TYPE | TN_FSB_EN)) !== 0) c.owed = 0;
    // Edge-triggered timers have no status (§2.3.6).
    if ((conf & TN_INT_TYPE) === 0) this.status &= ~(1 << n);
    if ((changed & TN_32MODE) !== 0) this.replan(n, t);
    else this.arm(n, 0);
    this.updateLine(n);
  }

  reset(): void {
    const routed = (this.conf & GEN_LEG_RT) !== 0;
    this.conf = 0;
    this.status = 0;
    this.baseLo = 0;
    this.baseHi = 0;
    this.highLatched = false;
    this.openHigh = -1;
    for (let n = 0; n < HPET_TIMERS; n++) {
      (this.timers[n] as Comparator).reset();
      this.updateLine(n);
    }
    if (routed && this.legacy !== null) this.legacy.onRoute(false);
  }

  save(): HpetStateV1 {
    const t = this.tick();
    this.syncAll(t);
    this.sample(t);
    return {
      v: 1,
      conf: this.conf,
      status: this.status,
      counterLo: this.nowLo,
      counterHi: this.nowHi,
      timers: this.timers.map((c) => c.save()),
    };
  }

  load(state: unknown): void {
    const s = new StateReader(this.name, state, 1);
    const conf = s.u32('conf') & (this.legacy !== null ? GEN_ENABLE | GEN_LEG_RT : GEN_ENABLE);
    const status = s.u8('status');
    const counterLo = s.u32('counterLo');
    const counterHi = s.u32('counterHi');
    const timers = s.items('timers', HPET_TIMERS);
    const t = this.tick();
    this.conf = conf;
    this.status = status;
    this.baseLo = counterLo;
    this.baseHi = counterHi;
    this.since = t;
    this.highLatched = false;
    this.openHigh = -1;
    for (let n = 0; n < HPET_TIMERS; n++) {
      const c = this.timers[n] as Comparator;
      c.load(timers[n] as StateReader);
      if (c.level) c.line.restore(false);
      c.line = this.lineOf(n, c);
      c.level =
        this.running &&
        (status & (1 << n)) !== 0 &&
        (c.conf & (TN_INT_TYPE | TN_INT_ENB | TN_FSB_EN)) === (TN_INT_TYPE | TN_INT_ENB);
      c.line.restore(c.level);
      this.replan(n, t);
    }
  }
}

/** Claims the HPET's 1 KiB of MMIO. @param base default 0xFED00000 @throws HyveError `BUS_OVERLAP` */
export function claimHpet(mmio: IoBus, hpet: Hpet, base: number = HPET_BASE): void {
  mmio.claim(base, HPET_SIZE, hpet, { name: hpet.name, widths: 4 });
}
