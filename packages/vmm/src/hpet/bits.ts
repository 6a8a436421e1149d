// Numbers of the high precision event timers (IA-PC HPET Specification 1.0a, §2.3).

/** Where the ACPI table of a PC puts the block. */
export const HPET_BASE = 0xfed00000;
/** Bytes it takes. */
export const HPET_SIZE = 0x400;

/** Rate of the main counter, Hz; 100 ns is the longest period the specification allows, and bhyve's first choice. */
export const HPET_HZ = 10_000_000;
/** Nanoseconds in one tick. */
export const HPET_TICK_NS = 100;
/** One tick in femtoseconds, as COUNTER_CLK_PERIOD gives it. */
export const HPET_PERIOD_FS = 100_000_000;
/** Timers in the block. */
export const HPET_TIMERS = 8;

/** General Capabilities and ID, 64 bit, RO: low half here, the period in the high half (§2.3.4). */
export const GCAP_ID = 0x000;
/** High half: COUNTER_CLK_PERIOD. */
export const GCAP_PERIOD = 0x004;
/** Revision. */
export const GCAP_REV = 0x01;
/** Number of timers less one. */
export const GCAP_NUM_TIM_SHIFT = 8;
/** The main counter has 64 bits. */
export const GCAP_COUNT_SIZE: number = 1 << 13;
/** Legacy replacement routing exists. */
export const GCAP_LEG_RT: number = 1 << 15;
/** Vendor id field. */
export const GCAP_VENDOR_SHIFT = 16;
/** Intel. */
export const GCAP_VENDOR = 0x8086;

/** General Configuration, 64 bit, RW (§2.3.5). */
export const GEN_CONF = 0x010;
/** The counter runs and interrupts are on. */
export const GEN_ENABLE: number = 1 << 0;
/** Timers 0 and 1 replace the PIT on IRQ 0 and the RTC on IRQ 8. */
export const GEN_LEG_RT: number = 1 << 1;

/** General Interrupt Status, 64 bit, W1C: one bit per level-triggered timer (§2.3.6). */
export const GINTR_STA = 0x020;

/** Main Counter Value, 64 bit, RW (§2.3.7). */
export const MAIN_CNT = 0x0f0;

/** First timer's registers (§2.3.8). */
export const TIM0 = 0x100;
/** Bytes between timers. */
export const TIM_STRIDE_SHIFT = 5;
/** Offsets in a timer: Configuration and Capabilities, 64 bit; the high half is INT_ROUTE_CAP, RO. */
export const TN_CONF = 0x00;
/** Interrupt pins the timer may be routed to, RO. */
export const TN_ROUTE_CAP = 0x04;
/** Comparator Value, 64 bit, RW. */
export const TN_COMP = 0x08;
/** High half. */
export const TN_COMP_HI = 0x0c;
/** FSB Interrupt Route, 64 bit, RW: data of the message. */
export const TN_FSB_VAL = 0x10;
/** High half: its address. */
export const TN_FSB_ADDR = 0x14;

/** Level-triggered. */
export const TN_INT_TYPE: number = 1 << 1;
/** Interrupts on. */
export const TN_INT_ENB: number = 1 << 2;
/** Periodic. */
export const TN_PERIODIC: number = 1 << 3;
/** Periodic mode exists, RO. */
export const TN_PER_CAP: number = 1 << 4;
/** The timer has 64 bits, RO. */
export const TN_SIZE_CAP: number = 1 << 5;
/** The next comparator write sets the accumulator of a periodic timer; clears itself. */
export const TN_VAL_SET: number = 1 << 6;
/** Use the low 32 bits only. */
export const TN_32MODE: number = 1 << 8;
/** Interrupt pin. */
export const TN_ROUTE_SHIFT = 9;
/** Unshifted. */
export const TN_ROUTE_MASK = 0x1f;
/** Send messages instead of using a pin. */
export const TN_FSB_EN: number = 1 << 14;
/** Messages exist, RO. */
export const TN_FSB_CAP: number = 1 << 15;
/** Capabilities of every timer. */
export const TN_CAPS: number = TN_PER_CAP | TN_SIZE_CAP | TN_FSB_CAP;
/** Writable bits of TN_CONF. */
export const TN_WRITABLE: number =
  TN_INT_TYPE | TN_INT_ENB | TN_PERIODIC | TN_VAL_SET | TN_32MODE | (TN_ROUTE_MASK << TN_ROUTE_SHIFT) | TN_FSB_EN;

/** Pins bhyve lets timers use: 16-23. */
export const DEFAULT_ROUTES = 0x00ff0000;
