// Addresses of QEMU's pc-testdev and isa-debug-exit, as test programs use them.

/** 32-bit latch, any width. */
export const LATCH = 0xe0;
/** Writes ask for a page to be flushed; without effect. */
export const FLUSH = 0xe4;
/** The latch again, taken byte by byte whatever the width of the access. */
export const LATCH_BYTES = 0xe8;
/** isa-debug-exit: the value written ends the machine. */
export const EXIT = 0xf4;
/** Interrupt lines: byte n drives line n, 0 low, else high. */
export const IRQ = 0x2000;
/** Interrupt lines that there are. */
export const IRQ_LINES = 24;
/** Plain memory behind MMIO. */
export const MEMORY = 0xff000000;
/** Its bytes. */
export const MEMORY_BYTES = 0x10000;
