// Numbers of the ACPI power management timer (ACPI 6.5 §4.8.2.1, PM_TMR).

/** Rate of the timer, Hz. */
export const PM_TIMER_HZ = 3579545;
/** Port that the FADT names, as in bhyve. */
export const PM_TIMER_PORT = 0x408;
/** Ticks between changes of the top bit of the 32-bit counter, which set TMR_STS. */
export const PM_TIMER_HALF = 0x8000_0000;
