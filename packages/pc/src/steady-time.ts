// A clock for guests that passes over the time in which the host did not let the machine's thread run: a guest that is sent
// away for three milliseconds would find three ticks gone. What was passed over is made up for by a faster clock afterwards.

/** Time that may go by between two looks at the clock, or after the end of a rest, as it does: host ns. */
export const STALL_NS = 200_000;
/** Most that the clock may be behind, ns: what goes beyond, such as the sleep of a laptop, the guest sees go by at once. */
export const MOST_BEHIND_NS = 20_000_000;
/** While it is behind, it makes up for a nanosecond in so many. */
export const CATCH_UP = 8;

/** Nanoseconds of the host's clock, without its stalls. */
export class SteadyTime {
  private readonly source: () => number;
  private readonly processor: (() => number) | null;
  /** The source's value at the last look. */
  private last: number;
  private behindNs = 0;
  /** Nobody is to look before this, by the source; before `last` when it is over. */
  private restUntil = Number.NEGATIVE_INFINITY;
  /** What this clock is to show at the end of the rest. */
  private restGoal = 0;
  /** Source and processor time when both were last taken. */
  private markedAt: number;
  private markedUsed = 0;

  /**
   * @param source nanoseconds, never going back
   * @param processor processor time that the calling thread has used, ns; null if the host does not tell: then only what
   *   comes after a rest is passed over
   */
  constructor(source: () => number, processor: (() => number) | null) {
    this.source = source;
    this.processor = processor;
    this.last = source();
    this.markedAt = this.last;
    if (processor !== null) this.markedUsed = processor();
  }

  /** How far it is behind the source, ns. */
  get behind(): number {
    return this.behindNs;
  }

  /** Nanoseconds; never goes back. */
  now(): number {
    const now = this.source();
    const { last } = this;
    this.last = now;
    const from = Math.max(this.restUntil, last);
    if (now - from > STALL_NS) this.stall(now, now - from);
    else if (this.behindNs > 0) this.behindNs -= Math.min(this.behindNs, (now - last) / CATCH_UP);
    return now - this.behindNs;
  }

  /**
   * Nobody looks for `ns` on this clock; gives what that is on the host's, ns: as much less as the clock is behind, for
   * nobody sees how it makes up for that meanwhile. {@link SteadyTime.wake} ends it.
   */
  rest(ns: number): number {
    const host = Math.max(0, ns - this.behindNs);
    this.restGoal = this.last - this.behindNs + ns;
    this.restUntil = this.last + host;
    return host;
  }

  /** The rest is over. */
  wake(): void {
    const short = this.restGoal - this.now();
    // Woken early, it has to go on from where it is.
    if (short > 0 && this.last >= this.restUntil) this.behindNs -= Math.min(this.behindNs, short);
    this.restUntil = Number.NEGATIVE_INFINITY;
    this.mark(this.last);
  }

  /** Time that has gone by until now has gone by: the clock is not behind. */
  settle(): void {
    this.last = this.source();
    this.behindNs = 0;
    this.restUntil = Number.NEGATIVE_INFINITY;
    this.mark(this.last);
  }

  /** `gap` went by that nobody asked for. */
  private stall(now: number, gap: number): void {
    const rested = Math.max(0, Math.min(this.restUntil, now) - this.markedAt);
    const elapsed = now - this.markedAt - rested;
    const used = this.markedUsed;
    this.mark(now);
    // Its own work may have taken the thread long: that time was the guest's.
    if (this.processor === null && rested === 0) return;
    const away = this.processor === null ? gap - STALL_NS : elapsed - (this.markedUsed - used);
    this.behindNs += Math.max(0, Math.min(gap, away, MOST_BEHIND_NS - this.behindNs));
  }

  private mark(now: number): void {
    this.markedAt = now;
    if (this.processor !== null) this.markedUsed = this.processor();
  }
}
