// Numbers of Virtual I/O Device 1.2 (chapters 2 and 4) and of the 0.9.5 draft ("legacy"). Offsets are bytes.

/** PCI vendor of every virtio device. */
export const PCI_VENDOR = 0x1af4;
/** Modern PCI device id of virtio device 0, §4.1.2. */
export const PCI_DEVICE_MODERN = 0x1040;

/** Device status, 8 bit RW, §2.1. Writing 0 resets. */
export const STATUS_ACKNOWLEDGE: number = 1 << 0;
export const STATUS_DRIVER: number = 1 << 1;
export const STATUS_DRIVER_OK: number = 1 << 2;
export const STATUS_FEATURES_OK: number = 1 << 3;
export const STATUS_NEEDS_RESET: number = 1 << 6;
export const STATUS_FAILED: number = 1 << 7;

/** Feature bit numbers that belong to rings and transport, §6. */
export const F_ANY_LAYOUT = 27;
export const F_RING_INDIRECT_DESC = 28;
export const F_RING_EVENT_IDX = 29;
export const F_VERSION_1 = 32;
export const F_RING_PACKED = 34;
export const F_IN_ORDER = 35;
export const F_NOTIFICATION_DATA = 38;
export const F_RING_RESET = 40;

/** Interrupt causes, §4.1.4.5 and §4.2.2. */
export const ISR_QUEUE: number = 1 << 0;
export const ISR_CONFIG: number = 1 << 1;

/** "No MSI-X vector", §4.1.4.3. */
export const NO_VECTOR = 0xffff;

/** Most descriptors in a queue, §2.6. */
export const QUEUE_SIZE_MAX = 32768;

/*
 * Split descriptor, 16 bytes, §2.7.5, and packed descriptor, §2.8.13:
 *   split   addr:64 | len:32 | flags:16 | next:16
 *   packed  addr:64 | len:32 | id:16    | flags:16
 */
export const DESC_BYTES = 16;
export const DESC_NEXT: number = 1 << 0;
export const DESC_WRITE: number = 1 << 1;
export const DESC_INDIRECT: number = 1 << 2;
export const DESC_AVAIL: number = 1 << 7;
export const DESC_USED: number = 1 << 15;

/** Split driver area: flags:16 idx:16 ring[size]:16 used_event:16, §2.7.6. */
export const AVAIL_IDX = 2;
export const AVAIL_RING = 4;
export const AVAIL_NO_INTERRUPT: number = 1 << 0;
/** Split device area: flags:16 idx:16 ring[size]:{id:32 len:32} avail_event:16, §2.7.8. */
export const USED_IDX = 2;
export const USED_RING = 4;
export const USED_ELEM_BYTES = 8;

/** Packed event suppression: off:15 wrap:1 | flags:16 (two bits used), §2.8.14. */
export const EVENT_OFF_WRAP = 0;
export const EVENT_FLAGS = 2;
export const EVENT_FLAGS_DISABLE = 1;
export const EVENT_FLAGS_DESC = 2;

/** Legacy layout: page of the queue frame number and alignment of the used ring, §2.7.2. */
export const LEGACY_PAGE = 4096;

/** Legacy PCI registers in BAR 0, §4.1.4.8. Device configuration follows at 20, or at 24 while MSI-X is on. */
export const LEGACY_DEVICE_FEATURES = 0;
export const LEGACY_DRIVER_FEATURES = 4;
export const LEGACY_QUEUE_PFN = 8;
export const LEGACY_QUEUE_SIZE = 12;
export const LEGACY_QUEUE_SELECT = 14;
export const LEGACY_QUEUE_NOTIFY = 16;
export const LEGACY_STATUS = 18;
export const LEGACY_ISR = 19;
export const LEGACY_CONFIG_VECTOR = 20;
export const LEGACY_QUEUE_VECTOR = 22;
export const LEGACY_CONFIG = 20;
export const LEGACY_CONFIG_MSIX = 24;

/** Vendor-specific capability, §4.1.4, offsets in its body (after id and next pointer). */
export const CAP_VENDOR = 0x09;
export const CAP_LEN = 0;
export const CAP_TYPE = 1;
export const CAP_BAR = 2;
export const CAP_OFFSET = 6;
export const CAP_LENGTH = 10;
export const CAP_EXTRA = 14;
export const CAP_TYPE_COMMON = 1;
export const CAP_TYPE_NOTIFY = 2;
export const CAP_TYPE_ISR = 3;
export const CAP_TYPE_DEVICE = 4;
export const CAP_TYPE_PCI = 5;

/** Common configuration, §4.1.4.3. */
export const COMMON_DEVICE_FEATURE_SELECT = 0x00;
export const COMMON_DEVICE_FEATURE = 0x04;
export const COMMON_DRIVER_FEATURE_SELECT = 0x08;
export const COMMON_DRIVER_FEATURE = 0x0c;
export const COMMON_CONFIG_VECTOR = 0x10;
export const COMMON_NUM_QUEUES = 0x12;
export const COMMON_STATUS = 0x14;
export const COMMON_GENERATION = 0x15;
export const COMMON_QUEUE_SELECT = 0x16;
export const COMMON_QUEUE_SIZE = 0x18;
export const COMMON_QUEUE_VECTOR = 0x1a;
export const COMMON_QUEUE_ENABLE = 0x1c;
export const COMMON_QUEUE_NOTIFY_OFF = 0x1e;
export const COMMON_QUEUE_DESC = 0x20;
export const COMMON_QUEUE_DRIVER = 0x28;
export const COMMON_QUEUE_DEVICE = 0x30;
export const COMMON_QUEUE_NOTIFY_DATA = 0x38;
export const COMMON_QUEUE_RESET = 0x3a;
export const COMMON_BYTES = 0x3c;

/** Where the modern structures lie in their BAR; a page each, so that an embedder can treat them apart. */
export const MODERN_BAR = 4;
export const MODERN_COMMON = 0x0000;
export const MODERN_ISR = 0x1000;
export const MODERN_DEVICE = 0x2000;
export const MODERN_NOTIFY = 0x3000;
export const MODERN_BAR_BYTES = 0x4000;
export const NOTIFY_MULTIPLIER = 4;

/** MMIO registers, §4.2.2 (version 2) and §4.2.4 (version 1), 32 bit each. */
export const MMIO_MAGIC = 0x000;
export const MMIO_VERSION = 0x004;
export const MMIO_DEVICE_ID = 0x008;
export const MMIO_VENDOR_ID = 0x00c;
export const MMIO_DEVICE_FEATURES = 0x010;
export const MMIO_DEVICE_FEATURES_SEL = 0x014;
export const MMIO_DRIVER_FEATURES = 0x020;
export const MMIO_DRIVER_FEATURES_SEL = 0x024;
export const MMIO_GUEST_PAGE_SIZE = 0x028;
export const MMIO_QUEUE_SEL = 0x030;
export const MMIO_QUEUE_NUM_MAX = 0x034;
export const MMIO_QUEUE_NUM = 0x038;
export const MMIO_QUEUE_ALIGN = 0x03c;
export const MMIO_QUEUE_PFN = 0x040;
export const MMIO_QUEUE_READY = 0x044;
export const MMIO_QUEUE_NOTIFY = 0x050;
export const MMIO_INTERRUPT_STATUS = 0x060;
export const MMIO_INTERRUPT_ACK = 0x064;
export const MMIO_STATUS = 0x070;
export const MMIO_QUEUE_DESC = 0x080;
export const MMIO_QUEUE_DRIVER = 0x090;
export const MMIO_QUEUE_DEVICE = 0x0a0;
export const MMIO_SHM_LEN = 0x0b0;
export const MMIO_SHM_BASE = 0x0b8;
export const MMIO_QUEUE_RESET = 0x0c0;
export const MMIO_CONFIG_GENERATION = 0x0fc;
export const MMIO_CONFIG = 0x100;
/** "virt", little-endian. */
export const MMIO_MAGIC_VALUE = 0x7472_6976;
/** "HYVE", little-endian. */
export const MMIO_VENDOR_VALUE = 0x4556_5948;
