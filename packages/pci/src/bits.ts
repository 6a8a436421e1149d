// Numbers of PCI Local Bus 3.0 §6 (configuration space), PCI-to-PCI Bridge 1.2 §3.2, PCI Power Management 1.2 §3.2 and
// PCI Express Base 3.0 §7.8 (capability structure). Offsets are bytes from the start of the function's or capability's space.

/** Configuration space of one function, bytes, and with PCI Express. */
export const CONFIG_SIZE = 0x100;
export const CONFIG_SIZE_EXPRESS = 0x1000;

/** Configuration mechanism 1, §3.2.2.3.2. */
export const CONFIG_ADDRESS = 0xcf8;
export const CONFIG_DATA = 0xcfc;
export const CONFIG_ADDRESS_ENABLE = 0x8000_0000;
/** Bits of CONFIG_ADDRESS that exist: enable, bus, device, function, doubleword. */
export const CONFIG_ADDRESS_MASK = 0x80ff_fffc;

/** Common header, both types. */
export const REG_VENDOR = 0x00;
export const REG_DEVICE = 0x02;
export const REG_COMMAND = 0x04;
export const REG_STATUS = 0x06;
export const REG_REVISION = 0x08;
export const REG_CLASS = 0x09;
export const REG_CACHE_LINE = 0x0c;
export const REG_LATENCY = 0x0d;
export const REG_HEADER_TYPE = 0x0e;
export const REG_BAR0 = 0x10;
export const REG_CAP_POINTER = 0x34;
export const REG_INT_LINE = 0x3c;
export const REG_INT_PIN = 0x3d;
/** First byte that no header defines. */
export const REG_FIRST_FREE = 0x40;

/** Type 0 only. */
export const REG_SUBSYSTEM_VENDOR = 0x2c;
export const REG_SUBSYSTEM = 0x2e;

/** Type 1 only. */
export const REG_PRIMARY_BUS = 0x18;
export const REG_SECONDARY_BUS = 0x19;
export const REG_SUBORDINATE_BUS = 0x1a;
export const REG_SECONDARY_LATENCY = 0x1b;
export const REG_IO_BASE = 0x1c;
export const REG_IO_LIMIT = 0x1d;
export const REG_SECONDARY_STATUS = 0x1e;
export const REG_MEM_BASE = 0x20;
export const REG_MEM_LIMIT = 0x22;
export const REG_PREF_BASE = 0x24;
export const REG_PREF_LIMIT = 0x26;
export const REG_PREF_BASE_HI = 0x28;
export const REG_PREF_LIMIT_HI = 0x2c;
export const REG_BRIDGE_CONTROL = 0x3e;

/** Command, 16 bit RW. */
export const CMD_IO: number = 1 << 0;
export const CMD_MEM: number = 1 << 1;
export const CMD_MASTER: number = 1 << 2;
export const CMD_PARITY: number = 1 << 6;
export const CMD_SERR: number = 1 << 8;
export const CMD_INTX_DISABLE: number = 1 << 10;
export const CMD_WRITABLE: number = CMD_IO | CMD_MEM | CMD_MASTER | CMD_PARITY | CMD_SERR | CMD_INTX_DISABLE;

/** Status, 16 bit; the error bits are W1C. */
export const STATUS_INTX: number = 1 << 3;
export const STATUS_CAP_LIST: number = 1 << 4;
export const STATUS_W1C = 0xf900;

/** Header Type. */
export const HEADER_BRIDGE = 1;
export const HEADER_MULTI_FUNCTION = 0x80;

/** Base address registers, §6.2.5.1. */
export const BAR_IO = 1;
export const BAR_MEM64 = 4;
export const BAR_PREFETCH = 8;

/** Bridge Control, 16 bit RW. */
export const BRIDGE_CTL_RESET: number = 1 << 6;
export const BRIDGE_CTL_WRITABLE = 0x0b7f;

/** Capability ids. */
export const CAP_PM = 0x01;
export const CAP_MSI = 0x05;
export const CAP_EXPRESS = 0x10;
export const CAP_MSIX = 0x11;

/** Message Signalled Interrupts, §6.8.1, 64-bit form: control +2, address +4/+8, data +12, mask +16, pending +20. */
export const MSI_CONTROL = 2;
export const MSI_ADDR_LO = 4;
export const MSI_ADDR_HI = 8;
export const MSI_DATA = 12;
export const MSI_MASK_BITS = 16;
export const MSI_PENDING_BITS = 20;
export const MSI_CTL_ENABLE: number = 1 << 0;
export const MSI_CTL_MMC_SHIFT = 1;
export const MSI_CTL_MME_SHIFT = 4;
export const MSI_CTL_MM_MASK = 7;
export const MSI_CTL_64BIT: number = 1 << 7;
export const MSI_CTL_MASKABLE: number = 1 << 8;
export const MSI_LENGTH = 14;
export const MSI_LENGTH_MASKABLE = 24;

/** MSI-X, §6.8.2: control +2, table offset|BIR +4, pending offset|BIR +8. */
export const MSIX_CONTROL = 2;
export const MSIX_TABLE = 4;
export const MSIX_PBA = 8;
export const MSIX_LENGTH = 12;
export const MSIX_CTL_ENABLE: number = 1 << 15;
export const MSIX_CTL_FUNCTION_MASK: number = 1 << 14;
export const MSIX_ENTRY_BYTES = 16;
export const MSIX_VECTOR_MASKED = 1;
export const MSIX_MAX_VECTORS = 2048;

/** Power management: PMC +2, PMCSR +4. */
export const PM_CAPABILITIES = 2;
export const PM_CONTROL = 4;
export const PM_LENGTH = 8;
/** Version 3 (specification 1.2), no PME, no D1, no D2. */
export const PM_CAPABILITIES_VALUE = 3;
export const PM_CTL_NO_SOFT_RESET: number = 1 << 3;

/** PCI Express capability structure, version 2. */
export const EXP_CAPABILITIES = 0x02;
export const EXP_DEVICE_CAP = 0x04;
export const EXP_DEVICE_CTL = 0x08;
export const EXP_DEVICE_STATUS = 0x0a;
export const EXP_LINK_CAP = 0x0c;
export const EXP_LINK_CTL = 0x10;
export const EXP_LINK_STATUS = 0x12;
export const EXP_ROOT_CTL = 0x1c;
export const EXP_LINK_CAP2 = 0x2c;
export const EXP_LINK_CTL2 = 0x30;
export const EXP_LENGTH = 0x3c;
export const EXP_VERSION = 2;
export const EXP_TYPE_SHIFT = 4;
export const EXP_TYPE_ENDPOINT = 0;
export const EXP_TYPE_ROOT_PORT = 4;
export const EXP_TYPE_INTEGRATED = 9;
/** Device Capabilities: role-based error reporting; Function Level Reset. */
export const EXP_DEVCAP_RBER: number = 1 << 15;
export const EXP_DEVCAP_FLR: number = 1 << 28;
/** Device Control: error reporting, relaxed ordering, payload, no snoop, read request size; bit 15 starts an FLR. */
export const EXP_DEVCTL_RESET_VALUE = 0x2810;
export const EXP_DEVCTL_WRITABLE = 0x78ff;
export const EXP_DEVCTL_FLR_HIGH_BYTE = 0x80;
export const EXP_DEVSTA_W1C = 0x000f;
/** Link: 2.5 GT/s, x1, L0s. */
export const EXP_LINKCAP_VALUE = 0x411;
export const EXP_LINKSTA_VALUE = 0x11;
export const EXP_LINKCTL_WRITABLE = 0x00cb;
export const EXP_ROOTCTL_WRITABLE = 0x000f;
export const EXP_LINKCAP2_VALUE = 0x2;
export const EXP_LINKCTL2_VALUE = 0x1;

/** PIRQ route control of the ICH10 LPC bridge (§13.1.14, 13.1.16): A–D, then E–H. */
export const REG_PIRQA_ROUT = 0x60;
export const REG_PIRQE_ROUT = 0x68;
export const PIRQ_DISABLED = 0x80;
export const PIRQ_IRQ_MASK = 0x0f;
/** IRQs that a PIRQ may use: 3–7, 9–12, 14, 15. */
export const PIRQ_PERMITTED = 0xdef8;
