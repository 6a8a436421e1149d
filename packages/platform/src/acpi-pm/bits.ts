// ACPI fixed hardware registers (ACPI 6.5 §4.8.3) at the places that bhyve's FADT gives. 16 bits unless said.

/** PM1 status, offset in the block; W1C. §4.8.3.1.1 */
export const PM1_STS = 0;
export const PM1_TMR: number = 1 << 0;
export const PM1_GBL: number = 1 << 5;
export const PM1_PWRBTN: number = 1 << 8;
export const PM1_SLPBTN: number = 1 << 9;
export const PM1_RTC: number = 1 << 10;
export const PM1_WAK: number = 1 << 15;
export const PM1_EVENTS: number = PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC;
/** PM1 enable; the event bits as in PM1_STS. §4.8.3.1.2 */
export const PM1_EN = 2;
/** PM1 control. §4.8.3.2.1 */
export const PM1_CNT = 4;
export const PM1_SCI_EN: number = 1 << 0;
export const PM1_BM_RLD: number = 1 << 1;
export const PM1_GBL_RLS: number = 1 << 2;
export const PM1_SLP_TYP_SHIFT = 10;
export const PM1_SLP_TYP_MASK = 0x7;
export const PM1_SLP_EN: number = 1 << 13;
/** Bits that stay as written; GBL_RLS and SLP_EN read zero. */
export const PM1_CNT_STORED: number = PM1_SCI_EN | PM1_BM_RLD | (PM1_SLP_TYP_MASK << PM1_SLP_TYP_SHIFT);
/** Bytes of the block: status, enable, control. */
export const PM1_LENGTH = 6;

/** SMI commands of the FADT: hand the hardware to the OS, and back. */
export const ACPI_ENABLE = 0xa0;
export const ACPI_DISABLE = 0xa1;

/** First port of the PM1 event block; control follows at 0x404, the PM timer at 0x408 belongs to another chip. */
export const PM1_BASE = 0x400;
/** Where bhyve guests may notify the host; nothing listens. */
export const GUEST_NOTIFY = 0x488;
/** SLP_TYP of \_S5 in the DSDT. */
export const SLP_TYP_S5 = 5;
