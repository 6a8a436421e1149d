// The 8254 and port 0x61.
export { PIT_HZ } from './bits.ts';
export type { PitCounterStateV1 } from './counter.ts';
export { claimPit, Pit8254, type PitOptions, type PitStateV1 } from './pit8254.ts';
