// Numbers of the AHCI register interface (Serial ATA AHCI 1.3.1) and of the frames in memory (Serial ATA 3.2 §10.5).
// This file imports nothing.

// ---- Generic host control, 32 bit, AHCI 1.3.1 §3.1. Offsets from the start of BAR 5. ----------------------------------

/** Host Capabilities, RO. */
export const REG_CAP = 0x00;
export const CAP_NP_MASK = 0x1f;
export const CAP_SXS: number = 1 << 5;
export const CAP_NCS_SHIFT = 8;
export const CAP_PSC: number = 1 << 13;
export const CAP_SSC: number = 1 << 14;
export const CAP_PMD: number = 1 << 15;
export const CAP_ISS_SHIFT = 20;
export const CAP_SCLO: number = 1 << 24;
export const CAP_SAL: number = 1 << 25;
export const CAP_SALP: number = 1 << 26;
export const CAP_SSS: number = 1 << 27;
export const CAP_SMPS: number = 1 << 28;
export const CAP_SSNTF: number = 1 << 29;
export const CAP_SNCQ: number = 1 << 30;
export const CAP_S64A = 0x8000_0000;
/** Global Host Control. HR is set-only and clears itself; IE is RW; AE stays set. */
export const REG_GHC = 0x04;
export const GHC_HR: number = 1 << 0;
export const GHC_IE: number = 1 << 1;
export const GHC_AE = 0x8000_0000;
/** Interrupt Status, one bit for each port, W1C. */
export const REG_IS = 0x08;
/** Ports Implemented, RO. */
export const REG_PI = 0x0c;
/** Version, RO. */
export const REG_VS = 0x10;
export const VS_VALUE = 0x0001_0300;
/** Host Capabilities Extended, RO. */
export const REG_CAP2 = 0x24;
export const CAP2_APST: number = 1 << 2;

/** Where the port registers start, and how far apart the ports are. */
export const PORT_BASE = 0x100;
export const PORT_STRIDE = 0x80;

// ---- Port registers, 32 bit, §3.3. Offsets from the port's start. -----------------------------------------------------

/** Command List Base Address, RW, 1 KiB aligned; upper half. */
export const REG_CLB = 0x00;
export const REG_CLBU = 0x04;
/** FIS Base Address, RW, 256 byte aligned; upper half. */
export const REG_FB = 0x08;
export const REG_FBU = 0x0c;
/** Interrupt Status, W1C except PCS and PRCS, which follow SERR. */
export const REG_PXIS = 0x10;
export const IS_DHRS: number = 1 << 0;
export const IS_PSS: number = 1 << 1;
export const IS_DSS: number = 1 << 2;
export const IS_SDBS: number = 1 << 3;
export const IS_UFS: number = 1 << 4;
export const IS_DPS: number = 1 << 5;
export const IS_PCS: number = 1 << 6;
export const IS_PRCS: number = 1 << 22;
export const IS_OFS: number = 1 << 24;
export const IS_IFS: number = 1 << 27;
export const IS_HBDS: number = 1 << 28;
export const IS_HBFS: number = 1 << 29;
export const IS_TFES: number = 1 << 30;
/** Bits of PxIS that a written 1 clears. */
export const IS_W1C = 0xfd80_00af;
/** Interrupt Enable, RW. */
export const REG_PXIE = 0x14;
export const IE_WRITABLE = 0xfdc0_00ff;
/** Command and Status. */
export const REG_CMD = 0x18;
export const CMD_ST: number = 1 << 0;
export const CMD_SUD: number = 1 << 1;
export const CMD_POD: number = 1 << 2;
export const CMD_CLO: number = 1 << 3;
export const CMD_FRE: number = 1 << 4;
export const CMD_CCS_SHIFT = 8;
export const CMD_CCS_MASK = 0x1f;
export const CMD_FR: number = 1 << 14;
export const CMD_CR: number = 1 << 15;
export const CMD_ATAPI: number = 1 << 24;
export const CMD_DLAE: number = 1 << 25;
export const CMD_ALPE: number = 1 << 26;
export const CMD_ASP: number = 1 << 27;
/** RW bits of PxCMD that only hold what is written. ICC reads zero: every transition completes at once. */
export const CMD_PLAIN: number = CMD_ATAPI | CMD_DLAE | CMD_ALPE | CMD_ASP;
/** Task File Data, RO: status in bits 7:0, error in bits 15:8. */
export const REG_TFD = 0x20;
export const TFD_NO_DEVICE = 0x7f;
/** Signature, RO. */
export const REG_SIG = 0x24;
export const SIG_ATA = 0x0000_0101;
export const SIG_ATAPI = 0xeb14_0101;
/** Serial ATA Status, RO: DET bits 3:0, SPD 7:4, IPM 11:8. */
export const REG_SSTS = 0x28;
export const SSTS_DET_PRESENT = 3;
export const SSTS_DET_NO_PHY = 1;
export const SSTS_DET_OFFLINE = 4;
export const SSTS_SPD_SHIFT = 4;
export const SSTS_IPM_ACTIVE: number = 1 << 8;
/** Fastest link: third generation, 6 Gb/s. */
export const SPEED_GEN3 = 3;
/** Serial ATA Control, RW: DET bits 3:0, SPD 7:4, IPM 11:8. */
export const REG_SCTL = 0x2c;
export const SCTL_DET_MASK = 0xf;
export const SCTL_DET_RESET = 1;
export const SCTL_DET_OFFLINE = 4;
export const SCTL_SPD_SHIFT = 4;
export const SCTL_SPD_MASK = 0xf;
export const SCTL_WRITABLE = 0xfff;
/** Serial ATA Error, W1C. */
export const REG_SERR = 0x30;
export const SERR_DIAG_N: number = 1 << 16;
export const SERR_DIAG_X: number = 1 << 26;
/** Serial ATA Active, write 1 to set. */
export const REG_SACT = 0x34;
/** Command Issue, write 1 to set. */
export const REG_CI = 0x38;
/** Serial ATA Notification, bits 15:0, W1C. */
export const REG_SNTF = 0x3c;

// ---- Command list and command table, §4.2 -----------------------------------------------------------------------------

/**
 * Command header, four doublewords:
 *   DW0  31:16 PRDTL  15:12 PMP  10 C  9 B  8 R  7 P  6 W  5 A  4:0 CFL (doublewords)
 *   DW1  PRDBC        DW2  CTBA (128 byte aligned)        DW3  CTBAU
 */
export const HEADER_BYTES = 32;
export const HDR_CFL_MASK = 0x1f;
export const HDR_ATAPI: number = 1 << 5;
export const HDR_CLEAR_BUSY: number = 1 << 10;
export const HDR_PRDTL_SHIFT = 16;
/** ATAPI command and PRDT, from the start of the command table. */
export const TABLE_ACMD = 0x40;
export const TABLE_PRDT = 0x80;
/** A PRDT entry: DBA, DBAU, reserved, DBC (bits 21:0, byte count - 1, bit 0 always 1; bit 31 interrupt). */
export const PRD_BYTES = 16;
export const PRD_COUNT_MASK = 0x3f_ffff;

// ---- Received FIS area, §4.2.1 ----------------------------------------------------------------------------------------

export const RX_DMA_SETUP = 0x00;
export const RX_PIO_SETUP = 0x20;
export const RX_D2H = 0x40;
export const RX_SDB = 0x58;

export const FIS_H2D = 0x27;
export const FIS_D2H = 0x34;
export const FIS_DMA_SETUP = 0x41;
export const FIS_PIO_SETUP = 0x5f;
export const FIS_SDB = 0xa1;
/** Byte 1 of a host to device FIS: it carries a command, not a device control write. */
export const H2D_COMMAND = 0x80;
/** Byte 1 of FISes to the host. */
export const FIS_INTERRUPT = 0x40;
export const FIS_TO_HOST = 0x20;
/** Device control byte, offset 15: software reset. */
export const CONTROL_SRST: number = 1 << 2;

// ---- Task file, ACS-3 §6 ----------------------------------------------------------------------------------------------

export const ST_ERR: number = 1 << 0;
export const ST_DRQ: number = 1 << 3;
export const ST_DSC: number = 1 << 4;
export const ST_DF: number = 1 << 5;
export const ST_DRDY: number = 1 << 6;
export const ST_BSY: number = 1 << 7;
/** Status of a command that went well. */
export const ST_GOOD: number = ST_DRDY | ST_DSC;
export const ER_ABRT: number = 1 << 2;
export const ER_IDNF: number = 1 << 4;
export const ER_UNC: number = 1 << 6;
/** Device register: LBA addressing; forced unit access in FPDMA commands. */
export const DEV_LBA: number = 1 << 6;
export const DEV_FUA: number = 1 << 7;

// Command codes, ACS-3 §7 (some from ATA-7).
export const ATA_NOP = 0x00;
export const ATA_DATA_SET_MANAGEMENT = 0x06;
export const ATA_DEVICE_RESET = 0x08;
export const ATA_RECALIBRATE = 0x10;
export const ATA_READ_SECTORS = 0x20;
export const ATA_READ_SECTORS_NORETRY = 0x21;
export const ATA_READ_SECTORS_EXT = 0x24;
export const ATA_READ_DMA_EXT = 0x25;
export const ATA_READ_NATIVE_MAX_EXT = 0x27;
export const ATA_READ_MULTIPLE_EXT = 0x29;
export const ATA_READ_LOG_EXT = 0x2f;
export const ATA_WRITE_SECTORS = 0x30;
export const ATA_WRITE_SECTORS_NORETRY = 0x31;
export const ATA_WRITE_SECTORS_EXT = 0x34;
export const ATA_WRITE_DMA_EXT = 0x35;
export const ATA_WRITE_MULTIPLE_EXT = 0x39;
export const ATA_WRITE_DMA_FUA_EXT = 0x3d;
export const ATA_READ_VERIFY = 0x40;
export const ATA_READ_VERIFY_NORETRY = 0x41;
export const ATA_READ_VERIFY_EXT = 0x42;
export const ATA_READ_LOG_DMA_EXT = 0x47;
export const ATA_READ_FPDMA = 0x60;
export const ATA_WRITE_FPDMA = 0x61;
export const ATA_SEND_FPDMA = 0x64;
export const ATA_SEEK = 0x70;
export const ATA_DIAGNOSTIC = 0x90;
export const ATA_INIT_PARAMETERS = 0x91;
export const ATA_STANDBY_IMMEDIATE_OLD = 0x94;
export const ATA_IDLE_IMMEDIATE_OLD = 0x95;
export const ATA_STANDBY_OLD = 0x96;
export const ATA_IDLE_OLD = 0x97;
export const ATA_CHECK_POWER_OLD = 0x98;
export const ATA_SLEEP_OLD = 0x99;
export const ATA_PACKET = 0xa0;
export const ATA_IDENTIFY_PACKET = 0xa1;
export const ATA_SMART = 0xb0;
export const ATA_READ_MULTIPLE = 0xc4;
export const ATA_WRITE_MULTIPLE = 0xc5;
export const ATA_SET_MULTIPLE = 0xc6;
export const ATA_READ_DMA = 0xc8;
export const ATA_READ_DMA_NORETRY = 0xc9;
export const ATA_WRITE_DMA = 0xca;
export const ATA_WRITE_DMA_NORETRY = 0xcb;
export const ATA_WRITE_MULTIPLE_FUA_EXT = 0xce;
export const ATA_STANDBY_IMMEDIATE = 0xe0;
export const ATA_IDLE_IMMEDIATE = 0xe1;
export const ATA_STANDBY = 0xe2;
export const ATA_IDLE = 0xe3;
export const ATA_CHECK_POWER = 0xe5;
export const ATA_SLEEP = 0xe6;
export const ATA_FLUSH_CACHE = 0xe7;
export const ATA_FLUSH_CACHE_EXT = 0xea;
export const ATA_IDENTIFY = 0xec;
export const ATA_SET_FEATURES = 0xef;
export const ATA_SECURITY_FREEZE_LOCK = 0xf5;
export const ATA_READ_NATIVE_MAX = 0xf8;

/** SET FEATURES subcommands, ACS-3 §7.45. */
export const SETF_ENABLE_WRITE_CACHE = 0x02;
export const SETF_TRANSFER_MODE = 0x03;
export const SETF_ENABLE_APM = 0x05;
export const SETF_ENABLE_SATA = 0x10;
export const SETF_DISABLE_READ_AHEAD = 0x55;
export const SETF_DISABLE_REVERT = 0x66;
export const SETF_DISABLE_WRITE_CACHE = 0x82;
export const SETF_DISABLE_APM = 0x85;
export const SETF_DISABLE_SATA = 0x90;
export const SETF_ENABLE_READ_AHEAD = 0xaa;
export const SETF_ENABLE_REVERT = 0xcc;

/** SMART subcommands, ATA8-ACS §7.53. */
export const SMART_READ_DATA = 0xd0;
export const SMART_READ_THRESHOLDS = 0xd1;
export const SMART_AUTOSAVE = 0xd2;
export const SMART_SAVE_VALUES = 0xd3;
export const SMART_OFFLINE = 0xd4;
export const SMART_READ_LOG = 0xd5;
export const SMART_WRITE_LOG = 0xd6;
export const SMART_ENABLE = 0xd8;
export const SMART_DISABLE = 0xd9;
export const SMART_STATUS = 0xda;
export const SMART_AUTO_OFFLINE = 0xdb;

/** Log addresses, ACS-3 annex A. */
export const LOG_DIRECTORY = 0x00;
export const LOG_SUMMARY_ERROR = 0x01;
export const LOG_EXT_ERROR = 0x03;
export const LOG_STATISTICS = 0x04;
export const LOG_SELF_TEST = 0x06;
export const LOG_EXT_SELF_TEST = 0x07;
export const LOG_NCQ_ERROR = 0x10;
export const LOG_NCQ_SEND_RECEIVE = 0x13;
export const LOG_IDENTIFY = 0x30;

// ---- ATAPI: MMC-6, SPC-3 ----------------------------------------------------------------------------------------------

export const CD_SECTOR = 2048;

export const SCSI_TEST_UNIT_READY = 0x00;
export const SCSI_REQUEST_SENSE = 0x03;
export const SCSI_INQUIRY = 0x12;
export const SCSI_START_STOP = 0x1b;
export const SCSI_PREVENT_ALLOW = 0x1e;
export const SCSI_READ_CAPACITY = 0x25;
export const SCSI_READ_10 = 0x28;
export const SCSI_SEEK_10 = 0x2b;
export const SCSI_SYNCHRONIZE_CACHE = 0x35;
export const SCSI_READ_SUBCHANNEL = 0x42;
export const SCSI_READ_TOC = 0x43;
export const SCSI_GET_CONFIGURATION = 0x46;
export const SCSI_GET_EVENT_STATUS = 0x4a;
export const SCSI_READ_DISC_INFO = 0x51;
export const SCSI_READ_TRACK_INFO = 0x52;
export const SCSI_MODE_SENSE_10 = 0x5a;
export const SCSI_REPORT_LUNS = 0xa0;
export const SCSI_READ_12 = 0xa8;
export const SCSI_SET_CD_SPEED = 0xbb;
export const SCSI_MECHANISM_STATUS = 0xbd;
export const SCSI_READ_CD = 0xbe;

export const SENSE_NONE = 0;
export const SENSE_NOT_READY = 2;
export const SENSE_MEDIUM_ERROR = 3;
export const SENSE_ILLEGAL_REQUEST = 5;
export const SENSE_UNIT_ATTENTION = 6;

/** Additional sense code << 8 | qualifier. */
export const ASC_LUN_BECOMING_READY = 0x0401;
export const ASC_UNRECOVERED_READ = 0x1100;
export const ASC_INVALID_OPCODE = 0x2000;
export const ASC_LBA_OUT_OF_RANGE = 0x2100;
export const ASC_INVALID_FIELD = 0x2400;
export const ASC_SAVING_NOT_SUPPORTED = 0x3900;
export const ASC_MEDIUM_CHANGED = 0x2800;
export const ASC_NO_MEDIUM = 0x3a00;
export const ASC_NO_MEDIUM_TRAY_OPEN = 0x3a02;
export const ASC_REMOVAL_PREVENTED = 0x5302;

/** Media events of GET EVENT STATUS NOTIFICATION, MMC-6 table 289. */
export const EVENT_NONE = 0;
export const EVENT_EJECT_REQUEST = 1;
export const EVENT_NEW_MEDIA = 2;
export const EVENT_MEDIA_REMOVAL = 3;
