// Time derived from retired instructions, so that a run with the same input is the same to the last bit.
import { type Clock, HyveError, type Timer, TimerQueue } from '@hyve/core';

/** What the clock needs of a vCPU. */
export interface InstructionCounter {
  /** Instructions retired so far; may start again from 0. */
  retired(): number;
}

/**
 * A {@link Clock} that moves only as instructions retire (of all vCPUs together, which take turns) and when everybody
 * sleeps and the run loop skips to the next timer.
 *
 * An engine that finds {@link VirtualClock.nsPerInstruction} on its clock must run exactly
 * `ceil(budgetNs / nsPerInstruction)` instructions unless something else ends the run, and keep `retired()` exact inside
 * bus calls.
 * @example
 * const clock = new VirtualClock({ nsPerInstruction: 1 }); // a 1000 MIPS processor
 */
export class VirtualClock implements Clock {
  /** Nanoseconds that one instruction takes. */
  readonly nsPerInstruction: number;
  private readonly queue: TimerQueue;
  private current: InstructionCounter | null = null;
  private entered = 0;
  private instructions: number;
  private skipped: number;
  private floor = 0;

  /** @throws HyveError `CLOCK_OPTIONS` */
  constructor(o: { nsPerInstruction: number; start?: { instructions: number; skippedNs: number } }) {
    if (!(o.nsPerInstruction > 0 && Number.isFinite(o.nsPerInstruction)))
      throw new HyveError('CLOCK_OPTIONS', `${o.nsPerInstruction} ns per instruction, expected a positive number`);
    this.nsPerInstruction = o.nsPerInstruction;
    this.instructions = o.start?.instructions ?? 0;
    this.skipped = o.start?.skippedNs ?? 0;
    this.queue = new TimerQueue(() => this.now());
  }

  now(): number {
    let n = this.instructions;
    if (this.current !== null) n += this.sinceEntry(this.current);
    const t = n * this.nsPerInstruction + this.skipped;
    return Math.max(t, this.floor);
  }

  private sinceEntry(c: InstructionCounter): number {
    const r = c.retired();
    return r >= this.entered ? r - this.entered : r; // it was reset on the way
  }

  timer(fire: () => void): Timer {
    return this.queue.timer(fire);
  }

  /** When the earliest timer is due, or Infinity. */
  nextDeadline(): number {
    return this.queue.nextDeadline();
  }

  /** Fires what is due; see TimerQueue.runDue. */
  runDue(): number {
    return this.queue.runDue();
  }

  /** See TimerQueue.onEarlier. */
  get onEarlier(): (() => void) | null {
    return this.queue.onEarlier;
  }

  /** See TimerQueue.onEarlier. */
  set onEarlier(f: (() => void) | null) {
    this.queue.onEarlier = f;
  }

  /** From now on time comes from `counter`. The run loop calls this before each run. */
  enter(counter: InstructionCounter): void {
    this.leave();
    this.current = counter;
    this.entered = counter.retired();
  }

  /** The vCPU stopped; time stands still. */
  leave(): void {
    if (this.current === null) return;
    this.instructions += this.sinceEntry(this.current);
    this.current = null;
  }

  /** Everybody sleeps: makes it `ns` now, unless it is later already. Not between enter and leave. */
  skipTo(ns: number): void {
    const now = this.now();
    if (!(ns > now)) return;
    this.skipped += ns - now;
    this.floor = ns; // the sum above may round down
  }

  /** Makes it a {@link VirtualClock.position} of before, or of another clock of this rate. Not between enter and leave. */
  restore(position: { readonly instructions: number; readonly skippedNs: number }): void {
    const { instructions, skippedNs } = position;
    if (!(instructions >= 0 && skippedNs >= 0 && Number.isFinite(instructions + skippedNs)))
      throw new HyveError('STATE_FORMAT', `clock: ${instructions} instructions and ${skippedNs} ns skipped`);
    this.instructions = instructions;
    this.skipped = skippedNs;
    this.floor = 0;
  }

  /** Instructions counted and nanoseconds skipped, for {@link VirtualClock}'s `start`. */
  position(): { instructions: number; skippedNs: number } {
    return { instructions: this.instructions, skippedNs: this.skipped };
  }
}
