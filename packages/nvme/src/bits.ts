// Numbers of the NVMe 1.4 interface: registers, commands, status codes, features, log pages. This file imports nothing.

// ---- Controller registers, NVMe 1.4 §3.1. Offsets in BAR 0; 64-bit registers are two doublewords. ---------------------

/** Controller Capabilities, RO, 64 bit. */
export const REG_CAP_LO = 0x00;
export const REG_CAP_HI = 0x04;
export const CAP_CQR: number = 1 << 16;
export const CAP_TO_SHIFT = 24;
/** Upper half: NVM subsystem reset supported, NVM command set. */
export const CAP_HI_NSSRS: number = 1 << 4;
export const CAP_HI_CSS_NVM: number = 1 << 5;
/** Version, RO: 1.4.0. */
export const REG_VS = 0x08;
export const VS_VALUE = 0x0001_0400;
/** Interrupt Mask Set and Clear, RW1S and RW1C, for INTx. */
export const REG_INTMS = 0x0c;
export const REG_INTMC = 0x10;
/** Controller Configuration, RW. */
export const REG_CC = 0x14;
export const CC_EN: number = 1 << 0;
export const CC_CSS_SHIFT = 4;
export const CC_CSS_MASK = 7;
export const CC_MPS_SHIFT = 7;
export const CC_MPS_MASK = 0xf;
export const CC_AMS_SHIFT = 11;
export const CC_AMS_MASK = 7;
export const CC_SHN_SHIFT = 14;
export const CC_SHN_MASK = 3;
export const CC_IOSQES_SHIFT = 16;
export const CC_IOCQES_SHIFT = 20;
export const CC_WRITABLE = 0x00ff_fff1;
/** Controller Status, RO except NSSRO (W1C). */
export const REG_CSTS = 0x1c;
export const CSTS_RDY: number = 1 << 0;
export const CSTS_CFS: number = 1 << 1;
export const CSTS_SHST_MASK: number = 3 << 2;
export const CSTS_SHST_OCCURRING: number = 1 << 2;
export const CSTS_SHST_COMPLETE: number = 2 << 2;
export const CSTS_NSSRO: number = 1 << 4;
/** NVM Subsystem Reset, WO: the letters "NVMe". */
export const REG_NSSR = 0x20;
export const NSSR_MAGIC = 0x4e56_4d65;
/** Admin Queue Attributes, RW: ASQS bits 11:0, ACQS 27:16, both zero-based. */
export const REG_AQA = 0x24;
export const AQA_WRITABLE = 0x0fff_0fff;
/** Admin queue base addresses, RW, 4 KiB aligned. */
export const REG_ASQ_LO = 0x28;
export const REG_ASQ_HI = 0x2c;
export const REG_ACQ_LO = 0x30;
export const REG_ACQ_HI = 0x34;
/** Doorbells: submission tail of queue n at 8n, completion head at 8n + 4. Writes only. */
export const DOORBELLS = 0x1000;

/** The one memory page size. */
export const PAGE = 4096;
/** Bytes of a submission entry and of a completion entry, and their logarithms. */
export const SQE_BYTES = 64;
export const CQE_BYTES = 16;
export const SQES = 6;
export const CQES = 4;

// ---- Submission entry, §4.2: offsets in bytes -------------------------------------------------------------------------

/**
 * DW0  31:16 CID  15:14 PSDT  9:8 FUSE  7:0 OPC;  DW1 NSID;  DW4-5 MPTR;  DW6-9 data pointer;  DW10-15 by command
 */
export const SQE_NSID = 4;
export const SQE_DPTR = 24;
export const SQE_CDW10 = 40;
export const SQE_CDW11 = 44;
export const SQE_CDW12 = 48;

// ---- Admin commands, §5 -----------------------------------------------------------------------------------------------

export const ADMIN_DELETE_SQ = 0x00;
export const ADMIN_CREATE_SQ = 0x01;
export const ADMIN_GET_LOG_PAGE = 0x02;
export const ADMIN_DELETE_CQ = 0x04;
export const ADMIN_CREATE_CQ = 0x05;
export const ADMIN_IDENTIFY = 0x06;
export const ADMIN_ABORT = 0x08;
export const ADMIN_SET_FEATURES = 0x09;
export const ADMIN_GET_FEATURES = 0x0a;
export const ADMIN_ASYNC_EVENT = 0x0c;
export const ADMIN_FORMAT = 0x80;

// ---- I/O commands, §6 -------------------------------------------------------------------------------------------------

export const IO_FLUSH = 0x00;
export const IO_WRITE = 0x01;
export const IO_READ = 0x02;
export const IO_COMPARE = 0x05;
export const IO_WRITE_ZEROES = 0x08;
export const IO_DSM = 0x09;
export const IO_VERIFY = 0x0c;
/** CDW12 of commands with an LBA range. */
export const RW_FUA: number = 1 << 30;
export const WZ_DEAC: number = 1 << 25;
/** CDW11 of dataset management. */
export const DSM_DEALLOCATE: number = 1 << 2;

// ---- Status: type << 8 | code, §4.6.1 ---------------------------------------------------------------------------------

/** Do Not Retry, in the 15-bit status field. */
export const DNR = 0x4000;
export const SC_SUCCESS = 0x000;
export const SC_INVALID_OPCODE = 0x001;
export const SC_INVALID_FIELD = 0x002;
export const SC_DATA_TRANSFER = 0x004;
export const SC_INTERNAL = 0x006;
export const SC_INVALID_NAMESPACE = 0x00b;
export const SC_SEQUENCE = 0x00c;
export const SC_SGL_SEGMENT = 0x00d;
export const SC_SGL_COUNT = 0x00e;
export const SC_SGL_LENGTH = 0x00f;
export const SC_SGL_TYPE = 0x011;
export const SC_PRP_OFFSET = 0x013;
export const SC_WRITE_PROTECTED = 0x020;
export const SC_LBA_RANGE = 0x080;
export const SC_CQ_INVALID = 0x100;
export const SC_QUEUE_ID = 0x101;
export const SC_QUEUE_SIZE = 0x102;
export const SC_AER_LIMIT = 0x105;
export const SC_VECTOR = 0x108;
export const SC_LOG_PAGE = 0x109;
export const SC_FORMAT = 0x10a;
export const SC_QUEUE_DELETION = 0x10c;
export const SC_NOT_SAVEABLE = 0x10d;
export const SC_WRITE_FAULT = 0x280;
export const SC_READ_ERROR = 0x281;
export const SC_COMPARE = 0x285;

// ---- SGL descriptors, §4.4: type in the high nibble of byte 15 --------------------------------------------------------

export const SGL_DATA_BLOCK = 0;
export const SGL_SEGMENT = 2;
export const SGL_LAST_SEGMENT = 3;

// ---- Identify, features, logs, events ---------------------------------------------------------------------------------

export const CNS_NAMESPACE = 0x00;
export const CNS_CONTROLLER = 0x01;
export const CNS_ACTIVE_LIST = 0x02;
export const CNS_DESCRIPTORS = 0x03;
export const NSID_ALL = 0xffff_ffff;

export const FEATURE_ARBITRATION = 0x01;
export const FEATURE_POWER = 0x02;
export const FEATURE_TEMPERATURE = 0x04;
export const FEATURE_ERROR_RECOVERY = 0x05;
export const FEATURE_WRITE_CACHE = 0x06;
export const FEATURE_QUEUES = 0x07;
export const FEATURE_COALESCING = 0x08;
export const FEATURE_VECTOR = 0x09;
export const FEATURE_ATOMICITY = 0x0a;
export const FEATURE_EVENTS = 0x0b;

export const LOG_ERROR = 0x01;
export const LOG_SMART = 0x02;
export const LOG_FIRMWARE = 0x03;
export const LOG_CHANGED_NAMESPACES = 0x04;
export const LOG_EFFECTS = 0x05;

/** Asynchronous event types and information, §5.2. */
export const EVENT_ERROR = 0;
export const EVENT_SMART = 1;
export const EVENT_NOTICE = 2;
export const EVENT_ERROR_DOORBELL_REGISTER = 0;
export const EVENT_ERROR_DOORBELL_VALUE = 1;
export const EVENT_SMART_TEMPERATURE = 1;
export const EVENT_NOTICE_NAMESPACE = 0;
/** Asynchronous Event Configuration: which critical warnings and notices count. */
export const AEC_TEMPERATURE: number = 1 << 1;
export const AEC_NAMESPACE: number = 1 << 8;

/** Composite temperature that SMART shows, kelvin. */
export const TEMPERATURE_K = 300;
