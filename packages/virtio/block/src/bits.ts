// Numbers of the block device, virtio 1.2 §5.2. Offsets are bytes.

/** Bytes of a protocol sector, whatever the disk's block size. */
export const SECTOR = 512;

/** Feature bit numbers, §5.2.3. */
export const F_SIZE_MAX = 1;
export const F_SEG_MAX = 2;
export const F_GEOMETRY = 4;
export const F_RO = 5;
export const F_BLK_SIZE = 6;
export const F_FLUSH = 9;
export const F_TOPOLOGY = 10;
export const F_CONFIG_WCE = 11;
export const F_MQ = 12;
export const F_DISCARD = 13;
export const F_WRITE_ZEROES = 14;

/** Configuration, §5.2.4. RO but for writeback. */
export const CFG_CAPACITY = 0;
export const CFG_SIZE_MAX = 8;
export const CFG_SEG_MAX = 12;
export const CFG_CYLINDERS = 16;
export const CFG_HEADS = 18;
export const CFG_SECTORS = 19;
export const CFG_BLK_SIZE = 20;
export const CFG_PHYSICAL_BLOCK_EXP = 24;
export const CFG_ALIGNMENT_OFFSET = 25;
export const CFG_MIN_IO_SIZE = 26;
export const CFG_OPT_IO_SIZE = 28;
export const CFG_WRITEBACK = 32;
export const CFG_NUM_QUEUES = 34;
export const CFG_MAX_DISCARD_SECTORS = 36;
export const CFG_MAX_DISCARD_SEG = 40;
export const CFG_DISCARD_ALIGNMENT = 44;
export const CFG_MAX_WRITE_ZEROES_SECTORS = 48;
export const CFG_MAX_WRITE_ZEROES_SEG = 52;
export const CFG_WRITE_ZEROES_MAY_UNMAP = 56;
export const CFG_BYTES = 60;

/** Request header: type:32 reserved:32 sector:64, §5.2.6. */
export const HEADER_BYTES = 16;
export const T_IN = 0;
export const T_OUT = 1;
export const T_FLUSH = 4;
/** Older drafts' name for a flush that follows writes. */
export const T_FLUSH_OUT = 5;
export const T_GET_ID = 8;
export const T_DISCARD = 11;
export const T_WRITE_ZEROES = 13;
/** Legacy: "everything before this first"; completed writes are flushed by flush anyway. */
export const T_BARRIER = 0x8000_0000;

/** Length of the identification, padded with zeros. */
export const ID_BYTES = 20;

/** Discard and write zeroes segment: sector:64 count:32 flags:32. */
export const RANGE_BYTES = 16;
export const RANGE_UNMAP = 1;

/** Status byte. */
export const S_OK = 0;
export const S_IOERR = 1;
export const S_UNSUPP = 2;
