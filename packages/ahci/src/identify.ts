// What a drive says of itself: IDENTIFY data, SMART data and logs (ACS-3 §7.12, §7.13, annex A; ATA8-ACS §7.53 for SMART).
// Pure functions from facts to 512-byte pages.

/** Puts 16 bits at word `word`. */
function put(page: Uint8Array, word: number, value: number): void {
  page[word * 2] = value & 0xff;
  page[word * 2 + 1] = (value >>> 8) & 0xff;
}

/** Puts an ATA string: two characters a word, the first in the high byte, padded with spaces. */
function putString(page: Uint8Array, word: number, words: number, text: string): void {
  for (let i = 0; i < words * 2; i++) {
    const c = i < text.length ? text.charCodeAt(i) : 0x20;
    page[word * 2 + (i ^ 1)] = c >= 0x20 && c < 0x7f ? c : 0x20;
  }
}

/** Puts the byte that makes the page's sum zero. */
export function putChecksum(page: Uint8Array): void {
  let sum = 0;
  for (let i = 0; i < 511; i++) sum += page[i] as number;
  page[511] = -sum & 0xff;
}

/** Puts a non-negative integer below 2^53, `bytes` wide, little-endian. */
export function putNumber(page: Uint8Array, offset: number, bytes: number, value: number): void {
  let rest = value;
  for (let i = 0; i < bytes; i++) {
    page[offset + i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
}

/** Facts for {@link identifyDisk} and {@link identifyPacket}. */
export interface DriveFacts {
  readonly serial: string;
  readonly revision: string;
  readonly model: string;
  /** Nominal media rotation rate, ACS-3 table 52: 0 not reported, 1 not rotating, else rpm. */
  readonly nmrr: number;
  /** Link generation, 1–3. */
  readonly speed: number;
}

/** Facts that only disks have. */
export interface DiskFacts extends DriveFacts {
  /** Logical sectors. */
  readonly sectors: number;
  /** Bytes. */
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly trim: boolean;
  /** Sectors of READ MULTIPLE, 0 while not set. */
  readonly multiple: number;
  readonly writeCache: boolean;
  readonly readAhead: boolean;
  readonly smart: boolean;
  /** Ultra DMA mode the host has selected, 0–6. */
  readonly udmaMode: number;
}

/** Most sectors the host may ask of READ MULTIPLE. */
export const MAX_MULTIPLE = 128;
/** Most 512-byte blocks of TRIM ranges in one command. */
export const MAX_TRIM_BLOCKS = 8;

/** Both kinds of drive have these. */
function common(page: Uint8Array, f: DriveFacts): void {
  putString(page, 10, 10, f.serial);
  putString(page, 23, 4, f.revision);
  putString(page, 27, 20, f.model);
  put(page, 53, 0x0006); // words 64-70 and 88 are valid
  put(page, 63, 0x0007); // multiword DMA 0-2
  put(page, 64, 0x0003); // PIO 3 and 4
  for (let w = 65; w <= 68; w++) put(page, w, 120); // cycle times, ns
  put(page, 77, f.speed << 1);
  put(page, 80, 0x03f0); // ATA/ATAPI-4 to ACS-2
  put(page, 81, 0x0028);
  put(page, 222, 0x1020); // Serial ATA, revision 2.6
}

function integrity(page: Uint8Array): void {
  page[510] = 0xa5;
  putChecksum(page);
}

/** IDENTIFY DEVICE data of a disk, 512 bytes. */
export function identifyDisk(page: Uint8Array, f: DiskFacts): void {
  page.fill(0);
  common(page, f);
  const total = f.sectors;
  const cylinders = Math.min(16383, Math.floor(total / (16 * 63)));
  put(page, 0, 0x0040); // fixed
  put(page, 1, cylinders);
  put(page, 3, 16);
  put(page, 6, 63);
  put(page, 47, 0x8000 | MAX_MULTIPLE);
  put(page, 49, 0x2b00); // standby timer, IORDY, LBA, DMA
  put(page, 50, 0x4000);
  put(page, 54, cylinders);
  put(page, 55, 16);
  put(page, 56, 63);
  putNumber(page, 57 * 2, 4, cylinders * 16 * 63);
  page[53 * 2] = 0x07; // words 54-58 are valid too
  if (f.multiple > 0) put(page, 59, 0x0100 | f.multiple);
  putNumber(page, 60 * 2, 4, Math.min(total, 0x0fff_ffff));
  put(page, 75, 31); // queue depth - 1
  put(page, 76, 0x010e); // NCQ, generations 1 to 3
  put(page, 77, (f.trim ? 0x0040 : 0) | (f.speed << 1)); // SEND FPDMA QUEUED for TRIM
  put(page, 82, 0x4069); // NOP, look-ahead, write cache, power management, SMART
  put(page, 83, 0x7400); // FLUSH CACHE (EXT), 48-bit
  put(page, 84, 0x4063); // WRITE DMA FUA EXT, general purpose logging, self-test, error log
  put(page, 85, 0x4008 | (f.smart ? 1 : 0) | (f.writeCache ? 0x20 : 0) | (f.readAhead ? 0x40 : 0));
  put(page, 86, 0xb400); // as word 83; words 119-120 are valid
  put(page, 87, 0x4063);
  put(page, 88, 0x007f | (0x0100 << f.udmaMode));
  putNumber(page, 100 * 2, 8, total);
  if (f.trim) put(page, 105, MAX_TRIM_BLOCKS);
  const ratio = Math.log2(f.physicalSectorSize / f.sectorSize);
  if (ratio > 0 || f.sectorSize > 512) {
    put(page, 106, 0x4000 | (ratio > 0 ? 0x2000 | ratio : 0) | (f.sectorSize > 512 ? 0x1000 : 0));
    if (f.sectorSize > 512) putNumber(page, 117 * 2, 4, f.sectorSize / 2);
  }
  put(page, 119, 0x4008); // READ LOG DMA EXT
  put(page, 120, 0x4008);
  if (f.trim) put(page, 169, 1);
  put(page, 209, 0x4000); // logical sector 0 starts a physical one
  put(page, 217, f.nmrr);
  integrity(page);
}

/** IDENTIFY PACKET DEVICE data of a CD/DVD drive, 512 bytes. */
export function identifyPacket(page: Uint8Array, f: DriveFacts): void {
  page.fill(0);
  common(page, f);
  put(page, 0, 0x85c0); // ATAPI, CD-ROM, removable, DRQ within 50 us, 12-byte packets
  put(page, 49, 0x0b00);
  put(page, 50, 0x4000);
  put(page, 71, 120);
  put(page, 72, 120);
  put(page, 76, 0x000e);
  put(page, 82, 0x4210); // NOP, DEVICE RESET, PACKET
  put(page, 83, 0x4000);
  put(page, 84, 0x4000);
  put(page, 85, 0x4210);
  put(page, 87, 0x4000);
  put(page, 88, 0x407f);
  integrity(page);
}

/** A SMART attribute: id, flags, raw value. Current and worst are 100, or less where the raw value says so. */
type Attribute = readonly [id: number, flags: number, raw: number, threshold: number];

/** Counters that SMART and the statistics log show. */
export interface DiskHistory {
  readonly powerCycles: number;
  readonly readCommands: number;
  readonly writeCommands: number;
  readonly sectorsRead: number;
  readonly sectorsWritten: number;
  readonly readErrors: number;
}

const TEMPERATURE_C = 30;

function attributes(h: DiskHistory): readonly Attribute[] {
  return [
    [1, 0x000f, h.readErrors, 6],
    [5, 0x0033, 0, 10],
    [9, 0x0032, 0, 0],
    [12, 0x0032, h.powerCycles, 0],
    [194, 0x0022, TEMPERATURE_C, 0],
    [197, 0x0012, 0, 0],
    [198, 0x0010, 0, 0],
    [199, 0x003e, 0, 0],
    [241, 0x0032, h.sectorsWritten, 0],
    [242, 0x0032, h.sectorsRead, 0],
  ];
}

/** SMART READ DATA, 512 bytes. */
export function smartData(page: Uint8Array, h: DiskHistory): void {
  page.fill(0);
  put(page, 0, 0x0010);
  attributes(h).forEach(([id, flags, raw], i) => {
    const o = 2 + i * 12;
    page[o] = id;
    putNumber(page, o + 1, 2, flags);
    page[o + 3] = id === 194 ? 100 - TEMPERATURE_C : 100;
    page[o + 4] = id === 194 ? 100 - TEMPERATURE_C : 100;
    putNumber(page, o + 5, 6, raw);
  });
  page[367] = 0x11; // offline immediate, self-test
  page[368] = 0x03; // saves attributes, autosave
  page[370] = 0x01; // error logging
  page[372] = 1; // minutes of a short self-test
  page[373] = 1;
  putChecksum(page);
}

/** SMART READ THRESHOLDS, 512 bytes. */
export function smartThresholds(page: Uint8Array, h: DiskHistory): void {
  page.fill(0);
  put(page, 0, 0x0010);
  attributes(h).forEach(([id, , , threshold], i) => {
    page[2 + i * 12] = id;
    page[3 + i * 12] = threshold;
  });
  putChecksum(page);
}

/** Device statistics log, page `n` (ACS-3 §A.5): 0 list, 1 general. */
export function statisticsPage(page: Uint8Array, n: number, h: DiskHistory): void {
  page.fill(0);
  putNumber(page, 0, 4, 1 | (n << 16));
  if (n === 0) {
    page[8] = 2;
    page[10] = 1;
    return;
  }
  const values = [h.powerCycles, 0, h.sectorsWritten, h.writeCommands, h.sectorsRead, h.readCommands];
  values.forEach((v, i) => {
    putNumber(page, 8 + i * 8, 6, v);
    page[8 + i * 8 + 7] = 0xc0; // supported, valid
  });
}

/** SMART self-test log (ATA8-ACS §7.53.6.8.4); `tests` are subcommand codes, oldest first, at most 21. */
export function selfTestLog(page: Uint8Array, tests: readonly number[]): void {
  page.fill(0);
  put(page, 0, 1);
  tests.forEach((t, i) => {
    page[2 + i * 24] = t;
  });
  page[508] = tests.length;
  putChecksum(page);
}

/**
 * A serial number for a disk whose owner gave none: stable for one identity, and of bhyve's form. FNV-1a over the
 * characters, twice with different starts, for 48 bits.
 */
export function serialFrom(identity: string): string {
  let a = 0x811c_9dc5;
  let b = 0x9747_b28c;
  for (let i = 0; i < identity.length; i++) {
    const c = identity.charCodeAt(i);
    a = Math.imul(a ^ c, 0x0100_0193);
    b = Math.imul(b ^ c ^ (a >>> 24), 0x0100_0193);
  }
  const hex = (a >>> 0).toString(16).padStart(8, '0') + ((b >>> 16) & 0xffff).toString(16).padStart(4, '0');
  const h = hex.toUpperCase();
  return `BHYVE-${h.slice(0, 4)}-${h.slice(4, 8)}-${h.slice(8)}`;
}
