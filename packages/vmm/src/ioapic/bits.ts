// I/O APIC numbers: Intel 82093AA datasheet (290566-001) §3; EOI register as in the ICH data sheets.

/** Index register, 8 bit, at offset 0 of the page. */
export const IOREGSEL = 0x00;
/** Data window, 32 bit. */
export const IOWIN = 0x10;
/** EOI register, WO, 32 bit; version 0x20 only. */
export const IOEOI = 0x40;

/** Indirect registers, 32 bit each. */
export const IOAPICID = 0x00;
/** RO. */
export const IOAPICVER = 0x01;
/** RO. */
export const IOAPICARB = 0x02;
/** Two registers for each pin from here. */
export const IOREDTBL = 0x10;

/** Input pins. */
export const PINS = 24;
/** Where the page is on a PC. */
export const IOAPIC_BASE = 0xfec00000;
/** The id field. */
export const ID_MASK = 0x0f000000;

/** Redirection entry, low half, §3.2.4. Bits 12 (delivery status) and 14 (remote IRR) are RO. */
export const RTE_DELIVERY_SHIFT = 8;
export const RTE_LOGICAL: number = 1 << 11;
export const RTE_REMOTE_IRR: number = 1 << 14;
export const RTE_LEVEL: number = 1 << 15;
export const RTE_MASKED: number = 1 << 16;
export const RTE_LO_WRITABLE = 0x1afff;
/** High half: destination in bits 31:24. */
export const RTE_HI_WRITABLE = 0xff000000;
