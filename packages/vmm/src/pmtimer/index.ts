// The ACPI PM timer.
export { PM_TIMER_HZ, PM_TIMER_PORT } from './bits.ts';
export { claimPmTimer, PmTimer, type PmTimerOptions, type PmTimerStateV1 } from './pm-timer.ts';
