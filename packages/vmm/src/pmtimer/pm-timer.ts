// ACPI power management timer: a free-running 32-bit counter at 3.579545 MHz. ACPI 6.5 §4.8.2.1; mirrors bhyve's vpmtmr.c.
import {
  allOnes,
  type Clock,
  type Device,
  type IoBus,
  type IoHandler,
  StateReader,
  type Timer,
  type Width,
} from '@hyve/core';
import { nsOfTick, ticksAt } from '../chip/ticks.ts';
import { PM_TIMER_HALF, PM_TIMER_HZ, PM_TIMER_PORT } from './bits.ts';

const WRAP = 0x1_0000_0000;

/** Saved state of {@link PmTimer}. */
export interface PmTimerStateV1 {
  /** Version. */
  readonly v: 1;
  /** The 32-bit count. */
  readonly count: number;
}

/** What {@link PmTimer} needs. */
export interface PmTimerOptions {
  /** Guest time. */
  readonly clock: Clock;
  /**
   * Called each time bit 31 changes, about every 600 s, for an owner that models TMR_STS (ACPI 6.5 §4.8.3.1.1). Without
   * it nothing is ever scheduled.
   */
  readonly onOverflow?: () => void;
  /** Name in messages and saved state. Default `pmtimer`. */
  readonly name?: string;
}

/**
 * The PM timer: reads are a pure function of the clock, writes do nothing. Narrow reads give the bytes at their offset.
 * A reset does not disturb the count.
 * @example
 * claimPmTimer(pio, new PmTimer({ clock }));   // IN EAX from port 0x408
 */
export class PmTimer implements Device, IoHandler {
  readonly name: string;
  private readonly clock: Clock;
  private readonly onOverflow: (() => void) | null;
  private readonly timer: Timer | null;
  private offset = 0;

  constructor(o: PmTimerOptions) {
    this.name = o.name ?? 'pmtimer';
    this.clock = o.clock;
    this.onOverflow = o.onOverflow ?? null;
    this.timer = this.onOverflow === null ? null : o.clock.timer(() => this.overflowed());
    this.arm();
  }

  private ticks(): number {
    return ticksAt(this.clock.now(), PM_TIMER_HZ) + this.offset;
  }

  private arm(): void {
    if (this.timer === null) return;
    const next = (Math.floor(this.ticks() / PM_TIMER_HALF) + 1) * PM_TIMER_HALF;
    this.timer.arm(nsOfTick(next - this.offset, PM_TIMER_HZ));
  }

  private overflowed(): void {
    this.arm();
    if (this.onOverflow !== null) this.onOverflow();
  }

  read(offset: number, width: Width): number {
    // >>> 0 takes the count modulo 2^32 for any integer below 2^53.
    return ((this.ticks() >>> (offset * 8)) & allOnes(width)) >>> 0;
  }

  write(_offset: number, _width: Width, _value: number): void {}

  reset(): void {}

  save(): PmTimerStateV1 {
    return { v: 1, count: this.ticks() >>> 0 };
  }

  load(state: unknown): void {
    const s = new StateReader(this.name, state, 1);
    const count = s.u32('count');
    const t = ticksAt(this.clock.now(), PM_TIMER_HZ);
    // Kept small and positive, so that ticks() stays positive.
    this.offset = (((count - (t % WRAP)) % WRAP) + WRAP) % WRAP;
    this.arm();
  }
}

/** Claims four ports for a PM timer. @param port default 0x408 @throws HyveError `BUS_OVERLAP` */
export function claimPmTimer(pio: IoBus, timer: PmTimer, port: number = PM_TIMER_PORT): void {
  pio.claim(port, 4, timer, { name: timer.name });
}
