// One counter of an 8254 as a pure function of time: it stores when counting began and computes count, OUT and edges.
// Intel 8254 datasheet 231164-005, "Mode definitions". Times are ticks of the counter's input clock.
import type { StateReader } from '@hyve/core';
import {
  CW_BCD,
  CW_MODE_MASK,
  CW_MODE_SHIFT,
  CW_RW_MASK,
  CW_RW_SHIFT,
  RW_BOTH,
  RW_LSB,
  RW_MSB,
  STATUS_NULL,
  STATUS_OUT,
} from './bits.ts';

/** Saved state of one counter; times are ticks relative to the moment of saving. */
export interface PitCounterStateV1 {
  /** Control word bits 5-0. */
  readonly control: number;
  /** Level of GATE. */
  readonly gate: boolean;
  /** Whether a count is loaded and, in modes 1 and 5, was triggered. */
  readonly running: boolean;
  /** Count in effect, 1-65536. 0: none. */
  readonly count: number;
  /** When the count entered the counter. */
  readonly start: number;
  /** Ticks counted when GATE stopped it, or -1. */
  readonly held: number;
  /** Count that waits for its turn, or 0. */
  readonly nextCount: number;
  /** When it takes over (modes 2 and 3). */
  readonly switchAt: number;
  /** The `start` it takes over with. */
  readonly nextStart: number;
  /** What the counter reads while nothing is loaded. */
  readonly idle: number;
  /** OUT until a mode 1 trigger takes effect. */
  readonly outBefore: boolean;
  /** First byte of a two-byte write, or -1. */
  readonly writeLow: number;
  /** The next read of a two-byte pair gives the high byte. */
  readonly readHigh: boolean;
  /** Latched count, or -1. */
  readonly latched: number;
  /** Latched status, or -1. */
  readonly status: number;
}

const FAR = Number.MAX_SAFE_INTEGER;

function toBcd(v: number): number {
  return (
    ((Math.floor(v / 1000) % 10) << 12) |
    ((Math.floor(v / 100) % 10) << 8) |
    ((Math.floor(v / 10) % 10) << 4) |
    (v % 10)
  );
}

function fromBcd(v: number): number {
  return ((v >>> 12) * 1000 + ((v >>> 8) & 15) * 100 + ((v >>> 4) & 15) * 10 + (v & 15)) % 10000;
}

/** @internal One counter. Call {@link Counter.take} before anything else at a new time. */
export class Counter {
  private mode = 0;
  private rw = RW_BOTH;
  private bcd = false;
  private gate: boolean;
  private readonly gateAtReset: boolean;
  private running = false;
  private count = 0;
  private start = 0;
  private held = -1;
  private nextCount = 0;
  private switchAt = FAR;
  private nextStart = 0;
  private idle = 0;
  private outBefore = true;
  private writeLow = -1;
  private readHigh = false;
  private latched = -1;
  private status = -1;
  private seen = 0;

  /** @param gate level of GATE after reset */
  constructor(gate: boolean) {
    this.gateAtReset = gate;
    this.gate = gate;
  }

  reset(now: number): void {
    this.mode = 0;
    this.rw = RW_BOTH;
    this.bcd = false;
    this.gate = this.gateAtReset;
    this.running = false;
    this.count = 0;
    this.start = 0;
    this.held = -1;
    this.nextCount = 0;
    this.switchAt = FAR;
    this.nextStart = 0;
    this.idle = 0;
    this.outBefore = true;
    this.writeLow = -1;
    this.readHigh = false;
    this.latched = -1;
    this.status = -1;
    this.seen = now;
  }

  /** Whether the count repeats (modes 2 and 3). */
  get periodic(): boolean {
    return this.mode === 2 || this.mode === 3;
  }

  private elapsed(t: number): number {
    return this.held >= 0 ? this.held : t - this.start;
  }

  /** Rising edges of OUT in `(from, to]` by the count in effect. */
  private rises(from: number, to: number): number {
    if (!this.running || this.held >= 0) return 0;
    const a = Math.max(from - this.start, 0);
    const b = to - this.start;
    if (b < 0) return 0;
    switch (this.mode) {
      case 0:
      case 1:
        return a < this.count && b >= this.count ? 1 : 0;
      case 2:
      case 3:
        return Math.floor(b / this.count) - Math.floor(a / this.count);
      default: // The strobe of modes 4 and 5 lasts one tick.
        return a <= this.count && b > this.count ? 1 : 0;
    }
  }

  /** Brings the counter to `now` and returns how many rising edges of OUT the passing of time made since the last call. */
  take(now: number): number {
    let edges = 0;
    if (this.nextCount !== 0 && now >= this.switchAt) {
      edges = this.rises(this.seen, this.switchAt);
      this.seen = this.switchAt;
      this.count = this.nextCount;
      this.start = this.nextStart;
      this.nextCount = 0;
      this.switchAt = FAR;
    }
    edges += this.rises(this.seen, now);
    this.seen = now;
    return edges;
  }

  /** When OUT next changes in a way that {@link Counter.take} or {@link Counter.out} shows, or Infinity. */
  nextEvent(now: number): number {
    if (!this.running || this.held >= 0) return Number.POSITIVE_INFINITY;
    const e = Math.max(now - this.start, 0);
    const n = this.count;
    switch (this.mode) {
      case 0:
      case 1:
        return e < n ? this.start + n : Number.POSITIVE_INFINITY;
      case 2:
        return this.start + (Math.floor(e / n) + 1) * n;
      case 3: {
        const whole = Math.floor(e / n) * n;
        const high = (n + 1) >> 1;
        return this.start + whole + (e - whole < high ? high : n);
      }
      default:
        return e <= n ? this.start + n + 1 : Number.POSITIVE_INFINITY;
    }
  }

  /** Level of OUT. */
  out(now: number): boolean {
    if (!this.running) return this.mode !== 0;
    const e = this.elapsed(now);
    const n = this.count;
    switch (this.mode) {
      case 0:
        return e >= n;
      case 1:
        return e < 0 ? this.outBefore : e >= n;
      case 2:
        return this.held >= 0 || e < 0 || e % n !== n - 1;
      case 3:
        return this.held >= 0 || e < 0 || e % n < (n + 1) >> 1;
      default:
        return this.held >= 0 || e !== n;
    }
  }

  /** The counting element as the bus reads it: 16 bits, binary or BCD. */
  private value(now: number): number {
    if (!this.running) return this.idle;
    // A new count enters with the next tick. Linux's quick calibration takes a port access to last longer than that; ours
    // do not, so the count shows from the moment it is written.
    const e = Math.max(this.elapsed(now), 0);
    const n = this.count;
    const modulus = this.bcd ? 10000 : 0x10000;
    let v: number;
    switch (this.mode) {
      case 2:
        v = n - (e % n);
        break;
      case 3: {
        // Counts down by two from n, or from n - 1 when n is odd; the high half of an odd count is one tick longer.
        const high = (n + 1) >> 1;
        const p = e % n;
        v = n - (n & 1) - 2 * (p < high ? p : p - high);
        break;
      }
      default:
        v = (n - e) % modulus;
        if (v < 0) v += modulus;
    }
    return this.bcd ? toBcd(v % modulus) : v & 0xffff;
  }

  private loaded(now: number): boolean {
    return this.running && this.nextCount === 0 && (this.held >= 0 || now >= this.start);
  }

  /** A control word with RW other than 0. */
  control(now: number, word: number): void {
    this.idle = this.value(now);
    const mode = (word >>> CW_MODE_SHIFT) & CW_MODE_MASK;
    this.mode = mode > 5 ? mode - 4 : mode;
    this.rw = (word >>> CW_RW_SHIFT) & CW_RW_MASK;
    this.bcd = (word & CW_BCD) !== 0;
    this.running = false;
    this.count = 0;
    this.held = -1;
    this.nextCount = 0;
    this.switchAt = FAR;
    this.outBefore = true;
    this.writeLow = -1;
    this.readHigh = false;
    this.latched = -1;
    this.status = -1;
  }

  /** Counter latch command; a second one before the first is read does nothing. */
  latch(now: number): void {
    if (this.latched < 0) this.latched = this.value(now);
  }

  /** Status part of the read-back command. */
  latchStatus(now: number): void {
    if (this.status >= 0) return;
    this.status =
      (this.out(now) ? STATUS_OUT : 0) |
      (this.loaded(now) ? 0 : STATUS_NULL) |
      (this.rw << CW_RW_SHIFT) |
      (this.mode << CW_MODE_SHIFT) |
      (this.bcd ? CW_BCD : 0);
  }

  read(now: number): number {
    if (this.status >= 0) {
      const s = this.status;
      this.status = -1;
      return s;
    }
    const v = this.latched >= 0 ? this.latched : this.value(now);
    const high = this.rw === RW_MSB || (this.rw === RW_BOTH && this.readHigh);
    if (this.rw === RW_BOTH) this.readHigh = !this.readHigh;
    if (high || this.rw === RW_LSB) this.latched = -1;
    return high ? v >>> 8 : v & 0xff;
  }

  write(now: number, byte: number): void {
    if (this.rw === RW_LSB) this.loadCount(now, byte);
    else if (this.rw === RW_MSB) this.loadCount(now, byte << 8);
    else if (this.writeLow < 0) {
      this.writeLow = byte;
      if (this.mode === 0) {
        // The first byte stops a mode 0 count and takes OUT low.
        this.idle = this.value(now);
        this.running = false;
      }
    } else {
      const v = (byte << 8) | this.writeLow;
      this.writeLow = -1;
      this.loadCount(now, v);
    }
  }

  private loadCount(now: number, raw: number): void {
    let n = this.bcd ? fromBcd(raw) || 10000 : raw || 0x10000;
    // A count of 1 is illegal in modes 2 and 3; the nearest legal one keeps periods above zero.
    if (this.periodic && n < 2) n = 2;
    switch (this.mode) {
      case 1:
      case 5:
        this.nextCount = n; // waits for a trigger
        return;
      case 2:
      case 3:
        if (this.running && (this.held >= 0 || now >= this.start)) {
          this.nextCount = n;
          this.planSwitch(now, n);
          return;
        }
    }
    this.begin(now, n);
  }

  /** Loads a count with the next tick. */
  private begin(now: number, n: number): void {
    this.outBefore = this.out(now);
    this.idle = this.value(now);
    this.count = n;
    this.nextCount = 0;
    this.switchAt = FAR;
    this.start = now + 1;
    this.held = this.gate || this.mode === 1 || this.mode === 5 ? -1 : 0;
    this.running = true;
  }

  /** A new count in mode 2 takes over after the period, in mode 3 after the half-period. */
  private planSwitch(now: number, n: number): void {
    if (this.held >= 0) {
      this.switchAt = FAR;
      return;
    }
    const e = now - this.start;
    const whole = Math.floor(e / this.count) * this.count;
    const high = (this.count + 1) >> 1;
    if (this.mode === 3 && e - whole < high) {
      this.switchAt = this.start + whole + high;
      this.nextStart = this.switchAt - ((n + 1) >> 1); // goes on with the low half of the new count
    } else {
      this.switchAt = this.start + whole + this.count;
      this.nextStart = this.switchAt;
    }
  }

  /** Drives GATE. */
  setGate(now: number, level: boolean): void {
    if (level === this.gate) return;
    this.gate = level;
    const triggered = this.mode === 1 || this.mode === 5;
    if (!level) {
      if (!triggered && this.running) {
        this.held = Math.max(now - this.start, 0);
        this.switchAt = FAR;
      }
      return;
    }
    if (triggered || this.periodic) {
      const n = this.nextCount !== 0 ? this.nextCount : this.count;
      if (n !== 0) this.begin(now, n);
    } else if (this.running && this.held >= 0) {
      this.start = now - this.held;
      this.held = -1;
    }
  }

  save(now: number): PitCounterStateV1 {
    return {
      control: (this.rw << CW_RW_SHIFT) | (this.mode << CW_MODE_SHIFT) | (this.bcd ? CW_BCD : 0),
      gate: this.gate,
      running: this.running,
      count: this.count,
      start: this.running ? this.start - now : 0,
      held: this.held,
      nextCount: this.nextCount,
      switchAt: this.switchAt === FAR ? FAR : this.switchAt - now,
      nextStart: this.switchAt === FAR ? 0 : this.nextStart - now,
      idle: this.idle,
      outBefore: this.outBefore,
      writeLow: this.writeLow,
      readHigh: this.readHigh,
      latched: this.latched,
      status: this.status,
    };
  }

  load(now: number, s: StateReader): void {
    const control = s.int('control', 0, 0x3f);
    const mode = (control >>> CW_MODE_SHIFT) & CW_MODE_MASK;
    this.mode = mode > 5 ? mode - 4 : mode;
    this.rw = (control >>> CW_RW_SHIFT) & CW_RW_MASK || RW_BOTH;
    this.bcd = (control & CW_BCD) !== 0;
    this.gate = s.bool('gate');
    this.count = s.int('count', 0, 0x10000);
    this.running = s.bool('running') && this.count > 0;
    this.start = s.span('start') + now;
    this.held = s.int('held', -1, FAR);
    this.nextCount = s.int('nextCount', 0, 0x10000);
    const switchAt = s.span('switchAt');
    this.switchAt = switchAt === FAR ? FAR : switchAt + now;
    this.nextStart = s.span('nextStart') + now;
    this.idle = s.int('idle', 0, 0xffff);
    this.outBefore = s.bool('outBefore');
    this.writeLow = s.int('writeLow', -1, 0xff);
    this.readHigh = s.bool('readHigh');
    this.latched = s.int('latched', -1, 0xffff);
    this.status = s.int('status', -1, 0xff);
    this.seen = now;
  }
}
