// Numbers of the Intel 8259A (datasheet 231468-003) and of the edge/level control registers (Intel 82378, ICH §13.6).

/** Port of the master's first register; the second follows. */
export const PIC_MASTER_PORT = 0x20;
/** Port of the slave's first register; the second follows. */
export const PIC_SLAVE_PORT = 0xa0;
/** Port of the master's edge/level control register; the slave's follows. */
export const ELCR_PORT = 0x4d0;

/** Register offsets in each pair of ports: A0 = 0 (ICW1, OCW2, OCW3; reads IRR, ISR or poll) and A0 = 1 (ICW2-4, OCW1). */
export const CMD = 0;
/** A0 = 1. */
export const DATA = 1;

/** Initialization command word 1, 8 bit, written to A0 = 0 with bit 4 set. */
export const ICW1_INIT: number = 1 << 4;
/** An ICW4 follows. */
export const ICW1_IC4: number = 1 << 0;
/** Single: no ICW3. */
export const ICW1_SNGL: number = 1 << 1;

/** Initialization command word 2: bits 7-3 of the vector. */
export const ICW2_BASE_MASK = 0xf8;

/** Initialization command word 4, 8 bit. Automatic end of interrupt. */
export const ICW4_AEOI: number = 1 << 1;
/** Special fully nested mode. */
export const ICW4_SFNM: number = 1 << 4;

/** Operation command word 2, 8 bit, A0 = 0 with bits 4-3 clear. Rotate. */
export const OCW2_R: number = 1 << 7;
/** Level bits 2-0 count. */
export const OCW2_SL: number = 1 << 6;
/** End of interrupt. */
export const OCW2_EOI: number = 1 << 5;
/** Level. */
export const OCW2_LEVEL_MASK = 7;

/** Operation command word 3, 8 bit, A0 = 0 with bit 3 set and bit 4 clear. */
export const OCW3_SELECT: number = 1 << 3;
/** Which register reads give: 2 = IRR, 3 = ISR, others leave it. */
export const OCW3_READ_MASK = 3;
/** Poll command. */
export const OCW3_POLL: number = 1 << 2;
/** Special mask mode, taken when ESMM is set. */
export const OCW3_SMM: number = 1 << 5;
/** Enable the SMM bit. */
export const OCW3_ESMM: number = 1 << 6;

/** Bit 7 of a poll answer: there was a request; bits 2-0 are its level. */
export const POLL_PENDING: number = 1 << 7;

/** The level that spurious interrupts use. */
export const SPURIOUS_LEVEL = 7;
/** The master's input that the slave drives. */
export const CASCADE = 2;

/** Writable bits of both ELCRs as one 16-bit word: IRQ 0, 1, 2, 8 and 13 are always edge-triggered. */
export const ELCR_WRITABLE = 0xdef8;
