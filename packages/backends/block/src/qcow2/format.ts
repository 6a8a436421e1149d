// qcow2 on disk: header, extensions, entries, snapshot table (QEMU's docs/interop/qcow2.txt). All numbers are
// big-endian. Nothing here does I/O; every check a hostile header needs before its numbers are used is here.
import { HyveError } from '@hyve/core';

/** `QFI\xfb`. */
export const MAGIC = 0x514649fb;

// Incompatible features: an image with one that we do not know must not be opened.
/** Refcounts may be wrong until repaired. */
export const INCOMPAT_DIRTY: number = 1 << 0;
/** Some table is damaged; no writes until repaired. */
export const INCOMPAT_CORRUPT: number = 1 << 1;
/** Guest data is in another file. */
export const INCOMPAT_DATA_FILE: number = 1 << 2;
/** The compression type field counts. */
export const INCOMPAT_COMPRESSION: number = 1 << 3;
/** L2 entries of 16 bytes with subclusters. */
export const INCOMPAT_EXTENDED_L2: number = 1 << 4;
/** Compatible feature: refcounts may be written lazily. */
export const COMPAT_LAZY_REFCOUNTS: number = 1 << 0;
/** Autoclear feature: dirty bitmaps are consistent. */
export const AUTOCLEAR_BITMAPS: number = 1 << 0;

const EXT_END = 0;
const EXT_BACKING_FORMAT = 0xe2792aca;
const EXT_FEATURE_NAMES = 0x6803f857;
const EXT_BITMAPS = 0x23852875;
const EXT_ENCRYPTION = 0x0537be77;
const EXT_DATA_FILE = 0x44415441;

const V2_HEADER_BYTES = 72;
const V3_HEADER_BYTES = 104;
/** The header we write: version 3 with a compression type. */
const OUR_HEADER_BYTES = 112;

/** Bytes; L1 tables beyond this are refused. */
export const MAX_L1_BYTES: number = 32 << 20;
/** Bytes; refcount tables beyond this are refused. */
export const MAX_REFCOUNT_TABLE_BYTES: number = 8 << 20;
/** Snapshots beyond this are refused. */
export const MAX_SNAPSHOTS = 65536;
const MAX_BACKING_NAME = 1023;

/** Bit 63: the cluster's refcount is exactly one. In the upper half of an entry. */
export const COPIED_HI = 0x80000000;
/** Bit 62: compressed. In the upper half of an L2 entry. */
export const COMPRESSED_HI = 0x40000000;
/** Bit 0: reads as zeros (version 3). In the lower half of an L2 entry. */
export const ZERO_LO = 1;

const TWO32 = 0x1_0000_0000;

/** A decoded header. */
export interface Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** Bytes of the disk. */
  readonly size: number;
  readonly l1Size: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly incompatible: number;
  readonly compatible: number;
  /** Whether any autoclear bit is set; and whether that of bitmaps is. */
  readonly autoclear: boolean;
  readonly bitmapsValid: boolean;
  /** Refcounts are 2^order bits wide. */
  readonly refcountOrder: number;
  readonly headerLength: number;
  readonly compression: 'zlib' | 'zstd';
  /** As the image says it, or null. */
  readonly backingFile: string | null;
  readonly backingFormat: string | null;
  /** Bitmap directory, or null. */
  readonly bitmaps: { readonly count: number; readonly offset: number; readonly bytes: number } | null;
}

/** Whether the bytes begin as a qcow2 image does. */
export function looksLikeQcow2(bytes: Uint8Array): boolean {
  return bytes.length >= 8 && bytes[0] === 0x51 && bytes[1] === 0x46 && bytes[2] === 0x49 && bytes[3] === 0xfb;
}

/** Upper-half bits of an entry's offset (bits 32 to 55) as a number of bytes. Exact, for its low nine bits are zero. */
export function entryOffset(hi: number, lo: number): number {
  return (hi & 0x00ffffff) * TWO32 + ((lo & 0xfffffe00) >>> 0);
}

/** Reads an unsigned 64-bit number; what is above 2^53 comes back as Infinity. */
export function getU64(view: DataView, at: number): number {
  const hi = view.getUint32(at);
  return hi > 0x1fffff ? Number.POSITIVE_INFINITY : hi * TWO32 + view.getUint32(at + 4);
}

/** Writes an unsigned 64-bit number below 2^53. */
export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO32));
  view.setUint32(at + 4, value >>> 0);
}

/** The view over an array's own bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Where a compressed cluster's bytes are. */
export interface CompressedRun {
  readonly offset: number;
  readonly length: number;
}

/** Decodes the L2 entry of a compressed cluster; null when its offset is beyond anything. */
export function compressedRun(hi: number, lo: number, clusterBits: number): CompressedRun | null {
  const shift = 62 - (clusterBits - 8) - 32;
  const offsetHi = hi & ((1 << shift) - 1);
  if (offsetHi > 0x1fffff) return null;
  const offset = offsetHi * TWO32 + lo;
  const sectors = ((hi >>> shift) & ((1 << (clusterBits - 8)) - 1)) + 1;
  return { offset, length: sectors * 512 - (offset % 512) };
}

/** Encodes the L2 entry of a compressed cluster, upper and lower half; null when it does not fit. */
export function compressedEntry(
  offset: number,
  length: number,
  clusterBits: number,
): { readonly hi: number; readonly lo: number } | null {
  const shift = 62 - (clusterBits - 8) - 32;
  const sectors = Math.floor((offset + length - 1) / 512) - Math.floor(offset / 512);
  const offsetHi = Math.floor(offset / TWO32);
  if (sectors >= 1 << (clusterBits - 8) || offsetHi >= 1 << shift) return null;
  return { hi: (COMPRESSED_HI | (sectors << shift) | offsetHi) >>> 0, lo: offset >>> 0 };
}

function bad(name: string, why: string): HyveError {
  return new HyveError('BLOCK_FORMAT', `${name}: ${why}`);
}

function unsupported(name: string, why: string): HyveError {
  return new HyveError('BLOCK_UNSUPPORTED', `${name}: ${why}`);
}

const hex = (n: number): string => `0x${n.toString(16)}`;

/**
 * Decodes and checks a header.
 * @param first the image's first bytes: a whole cluster, or as much as there is
 * @param fileLength bytes of the file
 * @throws HyveError `BLOCK_FORMAT` for damage, `BLOCK_UNSUPPORTED` for features by name
 */
export function parseHeader(name: string, first: Uint8Array, fileLength: number): Header {
  if (!looksLikeQcow2(first)) throw bad(name, 'is no qcow2 image (the magic number is missing)');
  if (first.length < V2_HEADER_BYTES) throw bad(name, `the file ends within the header, after ${first.length} bytes`);
  const v = viewOf(first);
  const version = v.getUint32(4);
  if (version !== 2 && version !== 3)
    throw unsupported(name, `qcow2 version ${version} is not known; there are 2 and 3`);
  const clusterBits = v.getUint32(20);
  if (clusterBits < 9 || clusterBits > 21)
    throw bad(name, `clusters of 2^${clusterBits} bytes; 2^9 to 2^21 were expected`);
  const cluster = 2 ** clusterBits;
  let headerLength = V2_HEADER_BYTES;
  let incompatible = 0;
  let compatible = 0;
  let autoclearHi = 0;
  let autoclearLo = 0;
  let refcountOrder = 4;
  let compressionType = 0;
  if (version === 3) {
    if (first.length < V3_HEADER_BYTES) throw bad(name, `the file ends within the header, after ${first.length} bytes`);
    headerLength = v.getUint32(100);
    if (headerLength < V3_HEADER_BYTES || headerLength > cluster || headerLength > first.length)
      throw bad(name, `a header of ${headerLength} bytes; ${V3_HEADER_BYTES} to one cluster were expected`);
    autoclearHi = v.getUint32(88);
    autoclearLo = v.getUint32(92);
    refcountOrder = v.getUint32(96);
    compatible = v.getUint32(84);
    incompatible = v.getUint32(76);
    if (headerLength > V3_HEADER_BYTES) compressionType = v.getUint8(104);
  }
  const extensions = parseExtensions(name, first, headerLength, v.getUint32(8) === 0 ? getU64(v, 8) : 0, cluster);
  if (version === 3) refuseFeatures(name, v.getUint32(72), incompatible, extensions.featureNames);
  const crypt = v.getUint32(32);
  if (crypt !== 0 || extensions.encrypted)
    throw unsupported(name, `is encrypted (${crypt === 1 ? 'AES' : crypt === 2 ? 'LUKS' : `method ${crypt}`})`);
  if (refcountOrder > 6) throw bad(name, `refcounts of 2^${refcountOrder} bits; at most 64 were expected`);
  const withType = (incompatible & INCOMPAT_COMPRESSION) !== 0;
  if (compressionType > 1) throw unsupported(name, `compression type ${compressionType} is not known`);
  if (withType !== (compressionType !== 0))
    throw bad(name, `compression type ${compressionType} and its feature bit contradict each other`);
  const size = getU64(v, 24);
  if (!Number.isSafeInteger(size)) throw bad(name, 'the disk is larger than 2^53 bytes');
  const l1Size = v.getUint32(36);
  const perL1 = cluster * (cluster / 8);
  if (l1Size * 8 > MAX_L1_BYTES) throw bad(name, `an L1 table of ${l1Size} entries; at most ${MAX_L1_BYTES / 8}`);
  if (l1Size < Math.ceil(size / perL1))
    throw bad(name, `an L1 table of ${l1Size} entries is too small for ${size} bytes`);
  const table = (what: string, offset: number, bytes: number): number => {
    if (bytes === 0 && offset === 0) return 0;
    if (!Number.isSafeInteger(offset) || offset % cluster !== 0 || offset === 0)
      throw bad(name, `the ${what} at ${hex(offset)} is not at a cluster of its own`);
    if (offset + bytes > fileLength)
      throw bad(name, `the ${what} at ${hex(offset)} lies beyond the end of the file at ${hex(fileLength)}`);
    return offset;
  };
  const l1Offset = table('L1 table', getU64(v, 40), l1Size * 8);
  const refcountTableClusters = v.getUint32(56);
  if (refcountTableClusters === 0) throw bad(name, 'there is no refcount table');
  if (refcountTableClusters * cluster > MAX_REFCOUNT_TABLE_BYTES)
    throw bad(name, `a refcount table of ${refcountTableClusters} clusters; at most ${MAX_REFCOUNT_TABLE_BYTES} bytes`);
  const refcountTableOffset = table('refcount table', getU64(v, 48), 8);
  if (refcountTableOffset === 0) throw bad(name, 'there is no refcount table');
  const snapshotCount = v.getUint32(60);
  if (snapshotCount > MAX_SNAPSHOTS) throw bad(name, `${snapshotCount} snapshots; at most ${MAX_SNAPSHOTS}`);
  const snapshotsOffset = snapshotCount === 0 ? 0 : table('snapshot table', getU64(v, 64), snapshotCount * 40);
  if (snapshotCount > 0 && snapshotsOffset === 0) throw bad(name, 'the snapshot table is missing');
  return {
    version,
    clusterBits,
    size,
    l1Size,
    l1Offset,
    refcountTableOffset,
    refcountTableClusters,
    snapshotCount,
    snapshotsOffset,
    incompatible,
    compatible,
    autoclear: autoclearHi !== 0 || autoclearLo !== 0,
    bitmapsValid: (autoclearLo & AUTOCLEAR_BITMAPS) !== 0,
    refcountOrder,
    headerLength,
    compression: compressionType === 1 ? 'zstd' : 'zlib',
    backingFile: backingName(name, v, first, cluster),
    backingFormat: extensions.backingFormat,
    bitmaps: extensions.bitmaps,
  };
}

function backingName(name: string, v: DataView, first: Uint8Array, cluster: number): string | null {
  const offset = getU64(v, 8);
  const length = v.getUint32(16);
  if (offset === 0) return null;
  if (length > MAX_BACKING_NAME || length === 0)
    throw bad(name, `a backing file name of ${length} bytes; 1 to ${MAX_BACKING_NAME}`);
  if (offset + length > cluster || offset + length > first.length)
    throw bad(name, `the backing file name at ${hex(offset)} is outside the first cluster`);
  const text = new TextDecoder().decode(first.subarray(offset, offset + length));
  if (text.includes('\0')) throw bad(name, 'the backing file name holds a NUL byte');
  return text;
}

interface Extensions {
  backingFormat: string | null;
  featureNames: Map<number, string>;
  bitmaps: Header['bitmaps'];
  encrypted: boolean;
}

function parseExtensions(
  name: string,
  first: Uint8Array,
  start: number,
  backingAt: number,
  cluster: number,
): Extensions {
  const v = viewOf(first);
  const out: Extensions = { backingFormat: null, featureNames: new Map(), bitmaps: null, encrypted: false };
  const end = Math.min(first.length, cluster, backingAt > 0 ? backingAt : cluster);
  let at = start;
  while (at + 8 <= end) {
    const type = v.getUint32(at);
    const length = v.getUint32(at + 4);
    at += 8;
    if (type === EXT_END) break;
    if (at + length > end)
      throw bad(name, `header extension ${hex(type)} of ${length} bytes runs out of the first cluster`);
    switch (type) {
      case EXT_BACKING_FORMAT:
        if (length > 15) throw bad(name, `a backing format name of ${length} bytes; at most 15`);
        out.backingFormat = new TextDecoder().decode(first.subarray(at, at + length));
        break;
      case EXT_FEATURE_NAMES:
        for (let i = at; i + 48 <= at + length; i += 48) {
          if (v.getUint8(i) !== 0) continue; // only incompatible ones are ever named in messages
          const text = first.subarray(i + 2, i + 48);
          const nul = text.indexOf(0);
          out.featureNames.set(v.getUint8(i + 1), printable(text.subarray(0, nul < 0 ? 46 : nul)));
        }
        break;
      case EXT_BITMAPS:
        if (length >= 24)
          out.bitmaps = { count: v.getUint32(at), bytes: getU64(v, at + 8), offset: getU64(v, at + 16) };
        break;
      case EXT_ENCRYPTION:
        out.encrypted = true;
        break;
      case EXT_DATA_FILE:
        break; // the feature bit decides
    }
    at += Math.ceil(length / 8) * 8;
  }
  return out;
}

function printable(bytes: Uint8Array): string {
  return new TextDecoder('latin1').decode(bytes).replace(/[^ -~]/g, '?');
}

function refuseFeatures(name: string, hi: number, lo: number, names: ReadonlyMap<number, string>): void {
  if ((lo & INCOMPAT_DATA_FILE) !== 0) throw unsupported(name, 'its data is in an external data file');
  if ((lo & INCOMPAT_EXTENDED_L2) !== 0) throw unsupported(name, 'it has extended L2 entries (subclusters)');
  const unknown: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    const set = bit < 32 ? (lo >>> bit) & 1 : (hi >>> (bit - 32)) & 1;
    if (set === 1 && bit > 4) unknown.push(`${names.get(bit) ?? 'unnamed'} (bit ${bit})`);
  }
  if (unknown.length > 0) throw unsupported(name, `needs features that are not known: ${unknown.join(', ')}`);
}

/** What {@link buildHeader} writes. */
export interface NewHeader {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly size: number;
  readonly l1Size: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly refcountOrder: number;
  readonly lazyRefcounts: boolean;
  readonly compression: 'zlib' | 'zstd';
  readonly backingFile: string | null;
  readonly backingFormat: string | null;
}

const FEATURE_NAMES: readonly (readonly [number, number, string])[] = [
  [0, 0, 'dirty bit'],
  [0, 1, 'corrupt bit'],
  [0, 2, 'external data file'],
  [0, 3, 'compression type'],
  [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'],
  [2, 0, 'bitmaps'],
  [2, 1, 'raw external data'],
];

/**
 * Lays out a header with its extensions in one cluster.
 * @throws HyveError `BLOCK_FORMAT` when it does not fit
 */
export function buildHeader(name: string, h: NewHeader): Uint8Array {
  const cluster = 2 ** h.clusterBits;
  const out = new Uint8Array(cluster);
  const v = viewOf(out);
  v.setUint32(0, MAGIC);
  v.setUint32(4, h.version);
  v.setUint32(20, h.clusterBits);
  putU64(v, 24, h.size);
  v.setUint32(36, h.l1Size);
  putU64(v, 40, h.l1Offset);
  putU64(v, 48, h.refcountTableOffset);
  v.setUint32(56, h.refcountTableClusters);
  let at = V2_HEADER_BYTES;
  if (h.version === 3) {
    if (h.compression === 'zstd') v.setUint32(76, INCOMPAT_COMPRESSION);
    if (h.lazyRefcounts) v.setUint32(84, COMPAT_LAZY_REFCOUNTS);
    v.setUint32(96, h.refcountOrder);
    v.setUint32(100, OUR_HEADER_BYTES);
    if (h.compression === 'zstd') v.setUint8(104, 1);
    at = OUR_HEADER_BYTES;
  }
  const text = new TextEncoder();
  const backing = h.backingFile === null ? null : text.encode(h.backingFile);
  const room = cluster - (backing?.length ?? 0) - 8;
  const extension = (type: number, data: Uint8Array, optional: boolean): void => {
    const bytes = 8 + Math.ceil(data.length / 8) * 8;
    if (at + bytes > room) {
      if (optional) return;
      throw bad(name, `header and backing file name do not fit a cluster of ${cluster} bytes`);
    }
    v.setUint32(at, type);
    v.setUint32(at + 4, data.length);
    out.set(data, at + 8);
    at += bytes;
  };
  if (h.backingFormat !== null && backing !== null) extension(EXT_BACKING_FORMAT, text.encode(h.backingFormat), false);
  if (h.version === 3) {
    const names = new Uint8Array(FEATURE_NAMES.length * 48);
    FEATURE_NAMES.forEach(([type, bit, label], i) => {
      names[i * 48] = type;
      names[i * 48 + 1] = bit;
      names.set(text.encode(label), i * 48 + 2);
    });
    extension(EXT_FEATURE_NAMES, names, true);
  }
  at += 8; // the end marker is zeros
  if (backing !== null) {
    if (backing.length > MAX_BACKING_NAME)
      throw bad(name, `a backing file name of ${backing.length} bytes; at most ${MAX_BACKING_NAME}`);
    if (at + backing.length > cluster)
      throw bad(name, `header and backing file name do not fit a cluster of ${cluster} bytes`);
    out.set(backing, at);
    putU64(v, 8, at);
    v.setUint32(16, backing.length);
  }
  return out;
}

/** An internal snapshot. */
export interface Snapshot {
  readonly id: string;
  readonly name: string;
  readonly l1Offset: number;
  readonly l1Size: number;
  /** Seconds and nanoseconds since 1970. */
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  /** Guest's running time. */
  readonly clockNanoseconds: number;
  /** Bytes of saved machine state. */
  readonly stateBytes: number;
  /** Bytes of the disk then, or null. */
  readonly diskSize: number | null;
}

/** Bytes of the snapshot table's entry at `at`, or 0 when it runs out of the bytes. */
export function snapshotEntryBytes(bytes: Uint8Array, at: number): number {
  if (at + 40 > bytes.length) return 0;
  const v = viewOf(bytes);
  const n = 40 + v.getUint32(at + 36) + v.getUint16(at + 12) + v.getUint16(at + 14);
  return Math.ceil(n / 8) * 8;
}

/** Decodes one entry of the snapshot table; the caller knows that all of it is there. */
export function parseSnapshot(bytes: Uint8Array, at: number): Snapshot {
  const v = viewOf(bytes);
  const extra = v.getUint32(at + 36);
  const idLength = v.getUint16(at + 12);
  const nameLength = v.getUint16(at + 14);
  const text = new TextDecoder();
  const id = at + 40 + extra;
  return {
    l1Offset: getU64(v, at),
    l1Size: v.getUint32(at + 8),
    dateSeconds: v.getUint32(at + 16),
    dateNanoseconds: v.getUint32(at + 20),
    clockNanoseconds: getU64(v, at + 24),
    stateBytes: extra >= 8 ? getU64(v, at + 40) : v.getUint32(at + 32),
    diskSize: extra >= 16 ? getU64(v, at + 48) : null,
    id: text.decode(bytes.subarray(id, id + idLength)),
    name: text.decode(bytes.subarray(id + idLength, id + idLength + nameLength)),
  };
}
