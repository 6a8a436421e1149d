// 16550A registers (National Semiconductor PC16550D, June 1995, §8). All are 8 bits wide.

/** Receiver buffer, read with DLAB clear. §8.0 */
export const RBR = 0;
/** Transmitter holding register, write with DLAB clear. §8.0 */
export const THR = 0;
/** Divisor latch low, with DLAB set. §8.3 */
export const DLL = 0;
/** Interrupt enable, with DLAB clear. §8.7 */
export const IER = 1;
export const IER_ERBFI: number = 1 << 0;
export const IER_ETBEI: number = 1 << 1;
export const IER_ELSI: number = 1 << 2;
export const IER_EDSSI: number = 1 << 3;
export const IER_WRITABLE = 0x0f;
/** Divisor latch high, with DLAB set. §8.3 */
export const DLM = 1;
/** Interrupt identification, read. §8.6 */
export const IIR = 2;
export const IIR_NONE = 0x01;
export const IIR_MODEM = 0x00;
export const IIR_THRE = 0x02;
export const IIR_RX = 0x04;
export const IIR_LINE = 0x06;
export const IIR_TIMEOUT = 0x0c;
export const IIR_FIFO = 0xc0;
/** FIFO control, write. §8.5 */
export const FCR = 2;
export const FCR_ENABLE: number = 1 << 0;
export const FCR_RX_RESET: number = 1 << 1;
export const FCR_TX_RESET: number = 1 << 2;
export const FCR_DMA: number = 1 << 3;
export const FCR_TRIGGER_SHIFT = 6;
export const FCR_TRIGGER_MASK = 0x3;
/** Line control. §8.1 */
export const LCR = 3;
export const LCR_WLS_MASK = 0x3;
export const LCR_STB: number = 1 << 2;
export const LCR_PEN: number = 1 << 3;
export const LCR_DLAB: number = 1 << 7;
/** Modem control. §8.8 */
export const MCR = 4;
export const MCR_DTR: number = 1 << 0;
export const MCR_RTS: number = 1 << 1;
export const MCR_OUT1: number = 1 << 2;
export const MCR_OUT2: number = 1 << 3;
export const MCR_LOOP: number = 1 << 4;
export const MCR_WRITABLE = 0x1f;
/** Line status; reading clears the error bits. §8.4 */
export const LSR = 5;
export const LSR_DR: number = 1 << 0;
export const LSR_OE: number = 1 << 1;
export const LSR_THRE: number = 1 << 5;
export const LSR_TEMT: number = 1 << 6;
/** Modem status; reading clears the delta bits. §8.9 */
export const MSR = 6;
export const MSR_DCTS: number = 1 << 0;
export const MSR_DDSR: number = 1 << 1;
export const MSR_TERI: number = 1 << 2;
export const MSR_DDCD: number = 1 << 3;
export const MSR_DELTAS = 0x0f;
export const MSR_CTS: number = 1 << 4;
export const MSR_DSR: number = 1 << 5;
export const MSR_RI: number = 1 << 6;
export const MSR_DCD: number = 1 << 7;
export const MSR_LINES = 0xf0;
/** Scratch. §8.10 */
export const SCR = 7;

/** Depth of each FIFO in bytes. */
export const FIFO_SIZE = 16;
