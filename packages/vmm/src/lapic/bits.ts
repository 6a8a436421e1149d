// Local APIC numbers: Intel SDM vol. 3, chapter 11 (APIC); AMD APM vol. 2, chapter 16. Offsets are of the xAPIC page;
// an x2APIC MSR is 0x800 + offset / 16.

/** Register offsets in the 4 KiB page, 32 bit each, SDM table 11-1. RW unless said. */
export const APIC_ID = 0x020;
/** RO. */
export const APIC_VERSION = 0x030;
export const APIC_TPR = 0x080;
/** RO, xAPIC only. */
export const APIC_APR = 0x090;
/** RO. */
export const APIC_PPR = 0x0a0;
/** WO. */
export const APIC_EOI = 0x0b0;
/** RO, xAPIC only; reads 0. */
export const APIC_RRD = 0x0c0;
/** RW in xAPIC, RO in x2APIC. */
export const APIC_LDR = 0x0d0;
/** xAPIC only. */
export const APIC_DFR = 0x0e0;
export const APIC_SVR = 0x0f0;
/** RO, eight registers each. */
export const APIC_ISR = 0x100;
export const APIC_TMR = 0x180;
export const APIC_IRR = 0x200;
export const APIC_ESR = 0x280;
export const APIC_LVT_CMCI = 0x2f0;
/** 64 bit in x2APIC. */
export const APIC_ICR_LO = 0x300;
/** xAPIC only. */
export const APIC_ICR_HI = 0x310;
export const APIC_LVT_TIMER = 0x320;
export const APIC_LVT_THERMAL = 0x330;
export const APIC_LVT_PERF = 0x340;
export const APIC_LVT_LINT0 = 0x350;
export const APIC_LVT_LINT1 = 0x360;
export const APIC_LVT_ERROR = 0x370;
export const APIC_TIMER_ICR = 0x380;
/** RO. */
export const APIC_TIMER_CCR = 0x390;
export const APIC_TIMER_DCR = 0x3e0;
/** WO, x2APIC only. */
export const APIC_SELF_IPI = 0x3f0;

/** Version 0x14 (integrated xAPIC), highest LVT index 6 (CMCI), no directed EOI, SDM 11.4.8. */
export const VERSION_VALUE: number = 0x14 | (6 << 16);

/** Spurious-interrupt vector register, SDM figure 11-23. */
export const SVR_ENABLE: number = 1 << 8;
export const SVR_WRITABLE = 0x3ff;

/** Local vector table fields, SDM figure 11-8. */
export const LVT_VECTOR_MASK = 0xff;
export const LVT_DELIVERY_SHIFT = 8;
export const LVT_DELIVERY_MASK = 7;
export const LVT_REMOTE_IRR: number = 1 << 14;
export const LVT_LEVEL: number = 1 << 15;
export const LVT_MASKED: number = 1 << 16;
export const LVT_TIMER_MODE_SHIFT = 17;
export const LVT_TIMER_MODE_MASK = 3;

/** Index of each entry in the table that {@link LVT_WRITABLE} and the device keep. */
export const LVT_CMCI = 0;
export const LVT_TIMER = 1;
export const LVT_THERMAL = 2;
export const LVT_PERF = 3;
export const LVT_LINT0 = 4;
export const LVT_LINT1 = 5;
export const LVT_ERROR = 6;
/** Writable bits of each entry, in index order; the timer's bit 18 needs TSC-deadline support. */
export const LVT_WRITABLE: readonly number[] = [0x107ff, 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];

/** Timer modes, SDM 11.5.4. */
export const TIMER_ONE_SHOT = 0;
export const TIMER_PERIODIC = 1;
export const TIMER_TSC_DEADLINE = 2;

/** Error status bits, SDM figure 11-9. */
export const ESR_SEND_ILLEGAL_VECTOR: number = 1 << 5;
export const ESR_RECEIVE_ILLEGAL_VECTOR: number = 1 << 6;
export const ESR_ILLEGAL_REGISTER: number = 1 << 7;

/** Delivery modes of the ICR, LVT, MSI data and I/O APIC entries, SDM 11.6.1. */
export const DELIVERY_FIXED = 0;
export const DELIVERY_LOWEST = 1;
export const DELIVERY_SMI = 2;
export const DELIVERY_NMI = 4;
export const DELIVERY_INIT = 5;
export const DELIVERY_STARTUP = 6;
export const DELIVERY_EXTINT = 7;

/** Interrupt command register, SDM figure 11-12 (xAPIC) and 11-28 (x2APIC). */
export const ICR_LOGICAL: number = 1 << 11;
export const ICR_BUSY: number = 1 << 12;
export const ICR_ASSERT: number = 1 << 14;
export const ICR_LEVEL: number = 1 << 15;
export const ICR_SHORTHAND_SHIFT = 18;
export const ICR_SHORTHAND_MASK = 3;
export const ICR_LO_WRITABLE = 0xccfff;
export const SHORTHAND_NONE = 0;
export const SHORTHAND_SELF = 1;
export const SHORTHAND_ALL = 2;
export const SHORTHAND_OTHERS = 3;

/** IA32_APIC_BASE, SDM figure 11-26. */
export const BASE_BSP: number = 1 << 8;
export const BASE_X2APIC: number = 1 << 10;
export const BASE_ENABLE: number = 1 << 11;
/** Where the page is after reset. */
export const BASE_DEFAULT = 0xfee00000;

/** MSI address and data, SDM figures 11-14 and 11-15. */
export const MSI_ADDRESS_BASE = 0xfee00000;
export const MSI_ADDRESS_LOGICAL: number = 1 << 2;
export const MSI_ADDRESS_DEST_SHIFT = 12;
export const MSI_DATA_DELIVERY_SHIFT = 8;
export const MSI_DATA_ASSERT: number = 1 << 14;
export const MSI_DATA_LEVEL: number = 1 << 15;
