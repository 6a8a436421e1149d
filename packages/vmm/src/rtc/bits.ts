// Numbers of the Motorola MC146818A real-time clock (data sheet ADI1164) and of the PC's use of its memory (IBM PC/AT
// technical reference; SeaBIOS and edk2 for the memory-size bytes of virtual machines).

/** First port: index, data, extended index, extended data. */
export const RTC_PORT = 0x70;
/** Ports taken. */
export const RTC_PORTS = 4;

/** Bits 6-0 of port 0x70 and 0x72: the register. */
export const INDEX_MASK = 0x7f;
/** Bit 7 of port 0x70: mask NMI. */
export const INDEX_NMI_MASK: number = 1 << 7;

/** Time registers, 8 bit, BCD or binary as B says. */
export const SECONDS = 0x00;
/** Alarm second; 0xC0 and up: any. */
export const SECONDS_ALARM = 0x01;
/** Minutes. */
export const MINUTES = 0x02;
/** Alarm minute. */
export const MINUTES_ALARM = 0x03;
/** Hours; bit 7 is PM in 12-hour mode. */
export const HOURS = 0x04;
/** Alarm hour. */
export const HOURS_ALARM = 0x05;
/** 1 = Sunday. */
export const DAY_OF_WEEK = 0x06;
/** 1-31. */
export const DAY_OF_MONTH = 0x07;
/** 1-12. */
export const MONTH = 0x08;
/** 0-99. */
export const YEAR = 0x09;
/** Both bits set: an alarm field that matches anything. */
export const ALARM_ANY = 0xc0;
/** PM. */
export const HOURS_PM: number = 1 << 7;

/** Register A: update in progress, RO. */
export const REG_A = 0x0a;
/** Update in progress. */
export const A_UIP: number = 1 << 7;
/** Divider bits that tell running (0x20) from held in reset (0x60). */
export const A_DV_RUN_MASK = 0x60;
/** The divider counts the 32.768 kHz crystal. */
export const A_DV_RUN = 0x20;
/** Rate select. */
export const A_RS_MASK = 0x0f;
/** 32.768 kHz and 1024 Hz, as firmware leaves it. */
export const A_DEFAULT = 0x26;

/** Register B, RW. */
export const REG_B = 0x0b;
/** Updates stop, for setting the time. */
export const B_SET: number = 1 << 7;
/** Periodic interrupt enable. */
export const B_PIE: number = 1 << 6;
/** Alarm interrupt enable. */
export const B_AIE: number = 1 << 5;
/** Update-ended interrupt enable. */
export const B_UIE: number = 1 << 4;
/** Square wave enable; the pin is not connected. */
export const B_SQWE: number = 1 << 3;
/** Binary instead of BCD. */
export const B_DM: number = 1 << 2;
/** 24-hour mode. */
export const B_24H: number = 1 << 1;
/** Register B after power-on: BCD, 24 hours. */
export const B_DEFAULT: number = B_24H;

/** Register C, RO, cleared by reading: the flags sit where B has their enables. */
export const REG_C = 0x0c;
/** Any enabled flag. */
export const C_IRQF: number = 1 << 7;
/** Periodic flag. */
export const C_PF: number = 1 << 6;
/** Alarm flag. */
export const C_AF: number = 1 << 5;
/** Update-ended flag. */
export const C_UF: number = 1 << 4;

/** Register D, RO. */
export const REG_D = 0x0d;
/** Valid RAM and time: the battery is good. */
export const D_VRT: number = 1 << 7;

/** First byte of plain memory. */
export const NVRAM = 0x0e;
/** Shutdown status byte. */
export const CMOS_SHUTDOWN = 0x0f;
/** Base memory, KiB, low byte first. */
export const CMOS_BASE_KIB = 0x15;
/** Memory from 1 MiB, KiB up to 65535. */
export const CMOS_EXT_KIB = 0x17;
/** First and last byte under the checksum. */
export const CMOS_SUM_FIRST = 0x10;
/** Last. */
export const CMOS_SUM_LAST = 0x2d;
/** Checksum, high byte first. */
export const CMOS_SUM = 0x2e;
/** Memory from 1 MiB again, as the power-on test found it. */
export const CMOS_EXT_KIB2 = 0x30;
/** Century, in the format of the time registers; the FADT names this byte. */
export const CENTURY = 0x32;
/** The PS/2's place for the century; the same byte. */
export const CENTURY_PS2 = 0x37;
/** Memory from 16 MiB to 4 GiB, in 64 KiB. */
export const CMOS_MEM16M = 0x34;
/** Memory from 4 GiB, in 64 KiB, three bytes. */
export const CMOS_HIGHMEM = 0x5b;

/** Rate of the crystal, Hz. */
export const CRYSTAL_HZ = 32768;
/** The update cycle: UIP rises 244 µs before it, and it takes 1984 µs (data sheet, "Update cycle"). */
export const UIP_NS = 2_228_000;
