// The high precision event timers.
export { HPET_BASE, HPET_HZ, HPET_SIZE } from './bits.ts';
export { claimHpet, Hpet, type HpetLegacy, type HpetOptions, type HpetStateV1, type HpetTimerStateV1 } from './hpet.ts';
