// Numbers of the Intel 8254 (datasheet 231164-005) and of the PC's port 0x61 (ICH §13.7.1, NMI Status and Control).

/** Input clock of all three counters, Hz: 14.31818 MHz / 12, rounded to whole hertz as operating systems have it. */
export const PIT_HZ = 1193182;

/** Port of counter 0; counters 1 and 2 and the control word follow. */
export const PIT_PORT = 0x40;
/** NMI Status and Control port. */
export const NMISC_PORT = 0x61;

/** Offset of the control word, 8 bit, write-only. */
export const CONTROL = 3;

/**
 * Control word, 8254 "Programming":
 * ```text
 *   7 6 | 5 4 | 3 2 1 | 0
 *   SC  | RW  | mode  | BCD
 * ```
 */
export const CW_SC_SHIFT = 6;
/** SC value that makes the word a read-back command. */
export const CW_READ_BACK = 3;
/** Read/write field; 0 is the counter latch command. */
export const CW_RW_SHIFT = 4;
/** Unshifted. */
export const CW_RW_MASK = 3;
/** RW: counter latch command. */
export const RW_LATCH = 0;
/** RW: least significant byte only. */
export const RW_LSB = 1;
/** RW: most significant byte only. */
export const RW_MSB = 2;
/** RW: least, then most significant byte. */
export const RW_BOTH = 3;
/** Mode field; 6 and 7 mean 2 and 3. */
export const CW_MODE_SHIFT = 1;
/** Unshifted. */
export const CW_MODE_MASK = 7;
/** Count in four decades instead of binary. */
export const CW_BCD: number = 1 << 0;

/** Read-back command: do not latch the count. */
export const RB_NO_COUNT: number = 1 << 5;
/** Read-back command: do not latch the status. */
export const RB_NO_STATUS: number = 1 << 4;
/** Read-back command: bit of counter 0; 1 and 2 follow. */
export const RB_COUNTER0: number = 1 << 1;

/** Status byte: level of OUT; bits 5-0 are the control word's. */
export const STATUS_OUT: number = 1 << 7;
/** Status byte: the count written last is not in the counter yet. */
export const STATUS_NULL: number = 1 << 6;

/** Port 0x61: GATE of counter 2, RW. */
export const NMISC_GATE2: number = 1 << 0;
/** Port 0x61: speaker data enable, RW. */
export const NMISC_SPEAKER: number = 1 << 1;
/** Port 0x61: the writable bits; 2 and 3 disable NMI sources and do nothing here. */
export const NMISC_WRITABLE = 0x0f;
/** Port 0x61: toggles with each memory refresh, RO. */
export const NMISC_REFRESH: number = 1 << 4;
/** Port 0x61: OUT of counter 2, RO. */
export const NMISC_OUT2: number = 1 << 5;
/** Ticks of the input clock between refreshes, about 15.1 µs. */
export const REFRESH_TICKS = 18;
