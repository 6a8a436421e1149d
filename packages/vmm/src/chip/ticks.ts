// Exact conversion between a Clock's nanoseconds and the ticks of a fixed-rate counter, for the timer chips of this
// package. Multiplying whole nanoseconds by a rate overflows a double's 53 bits after seconds; splitting off whole seconds
// first keeps every product below 2^52 for rates up to 4 MHz, so the results are exact and never drift.

const NS_PER_S = 1_000_000_000;

/** Whole ticks of a counter of `hz` (integer, at most 4 MHz) that started at 0 ns, at `ns`. Exact for |ns| < 2^53. */
export function ticksAt(ns: number, hz: number): number {
  const whole = Math.floor(ns);
  const s = Math.floor(whole / NS_PER_S);
  return s * hz + Math.floor(((whole - s * NS_PER_S) * hz) / NS_PER_S);
}

/** The first whole nanosecond at which {@link ticksAt} gives `tick`. Infinity gives Infinity. */
export function nsOfTick(tick: number, hz: number): number {
  if (tick === Number.POSITIVE_INFINITY) return tick;
  const s = Math.floor(tick / hz);
  return s * NS_PER_S + Math.ceil(((tick - s * hz) * NS_PER_S) / hz);
}
