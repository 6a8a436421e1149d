// Legacy ports of an LPC bridge (Intel ICH10 datasheet 319973-003, §13.7 and §13.9). All 8 bits.

/** System control port A: fast A20 gate and fast reset. §13.7.3 PORT92 */
export const PORT92 = 0x92;
export const PORT92_INIT: number = 1 << 0;
export const PORT92_A20: number = 1 << 1;
/** Reset control. §13.7.5 RST_CNT */
export const RST_CNT = 0xcf9;
export const RST_CNT_SYS: number = 1 << 1;
export const RST_CNT_CPU: number = 1 << 2;
export const RST_CNT_FULL: number = 1 << 3;
export const RST_CNT_WRITABLE = 0x0e;
/** POST code; also what Linux writes to wait a microsecond. */
export const POST = 0x80;
/** POST code of other firmware. */
export const POST2 = 0x84;
/** Delay port of some guests (Linux `io_delay=0xed`). */
export const DELAY = 0xed;
/** Advanced power management control: raises an SMI. §13.9.1 APM_CNT */
export const APM_CNT = 0xb2;
/** Advanced power management status: a scratch byte for the SMI handler. §13.9.2 APM_STS */
export const APM_STS = 0xb3;
