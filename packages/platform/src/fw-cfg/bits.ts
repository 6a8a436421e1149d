// Numbers of QEMU's firmware configuration device: selector and data port, well-known keys (QEMU docs/specs/fw_cfg.rst).

/** Selector port, 16 bit, write-only. The data port, 8 bit, read-only here, is the one after it. */
export const FW_CFG_BASE = 0x510;

/** "QEMU". */
export const KEY_SIGNATURE = 0x00;
/** 32 bit: interface revision; bit 0 traditional ports, bit 1 DMA. */
export const KEY_ID = 0x01;
/** 16 bytes, all zero for none. */
export const KEY_UUID = 0x02;
/** 64 bit: bytes of RAM. */
export const KEY_RAM_SIZE = 0x03;
/** 16 bit: 1 without a display. */
export const KEY_NOGRAPHIC = 0x04;
/** 16 bit: CPUs present at power-on. */
export const KEY_NB_CPUS = 0x05;
/** 16 bit: non-zero for a boot menu. */
export const KEY_BOOT_MENU = 0x0e;
/** 16 bit: one past the highest APIC ID that may ever be. */
export const KEY_MAX_CPUS = 0x0f;
/** File directory: u32 count, then entries; all big-endian. */
export const KEY_FILE_DIR = 0x19;
/** First key of a file. */
export const KEY_FILE_FIRST = 0x20;
/** Keys have 14 bits; bit 14 asked for writing in old revisions, bit 15 marks keys of the architecture. */
export const KEY_WRITE_CHANNEL = 0x4000;
/** 32 bit: 1 if the timer's IRQ 0 is wired to I/O APIC pin 2. */
export const KEY_IRQ0_OVERRIDE = 0x8002;

/** Revision: ports, no DMA. */
export const ID_TRADITIONAL = 1;

/** Directory entry: u32 size, u16 key, u16 reserved, NUL-terminated name. */
export const ENTRY_BYTES = 64;
export const ENTRY_KEY = 4;
export const ENTRY_NAME = 8;
/** Longest name, without its NUL. */
export const NAME_MAX = 55;
/** Most files: keys 0x20 to 0x3FFF. */
export const FILES_MAX: number = 0x4000 - 0x20;
