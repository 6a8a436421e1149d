// What an image is and what it holds: info, check, map, resize.
import { HyveError, type Logger, silentLogger } from '@hyve/core';
import { type NodeFile, openHostFile } from '../host-file.ts';
import type { DiskImage, Extent } from '../image.ts';
import { isNbdAddress } from '../nbd-protocol.ts';
import { backingPath, openBlock, openImage, readHeaderBytes } from '../open.ts';
import { type CheckResult, checkQcow2, readSnapshots } from '../qcow2/check.ts';
import {
  COMPAT_LAZY_REFCOUNTS,
  type Header,
  INCOMPAT_CORRUPT,
  INCOMPAT_DIRTY,
  looksLikeQcow2,
  parseHeader,
  type Snapshot,
} from '../qcow2/format.ts';
import { type BlockFormat, parseBlockSpec } from '../spec.ts';

/** Options that all of these take. */
export interface InspectOptions {
  /** Null: told by the contents. */
  readonly format?: BlockFormat | null;
  /** Look even though somebody is writing; what is seen may be half a change. */
  readonly forceShare?: boolean;
  /** Where warnings go. Default: nowhere. */
  readonly logger?: Logger;
}

/** What {@link diskInfo} says. */
export interface DiskInfo {
  /** As it was given. */
  readonly filename: string;
  /** `raw`, `qcow2` or `nbd`. */
  readonly format: string;
  /** Bytes the guest sees. */
  readonly virtualSize: number;
  /** Bytes the host has allocated, or null. */
  readonly actualSize: number | null;
  /** qcow2 only, else null. */
  readonly qcow2: {
    readonly clusterSize: number;
    readonly compat: '0.10' | '1.1';
    readonly refcountBits: number;
    readonly lazyRefcounts: boolean;
    readonly compression: 'zlib' | 'zstd';
    readonly corrupt: boolean;
    readonly dirty: boolean;
    readonly backingFile: string | null;
    readonly fullBackingFile: string | null;
    readonly backingFormat: string | null;
    readonly snapshots: readonly Snapshot[];
  } | null;
}

async function openFile(path: string, o: InspectOptions, write: boolean): Promise<NodeFile> {
  return openHostFile(path, {
    readOnly: !write,
    sync: false,
    noCache: false,
    lock: !(o.forceShare ?? false),
    mustWrite: write,
    logger: o.logger ?? silentLogger,
  });
}

/**
 * Describes an image from its header; the backing file is not opened.
 * @throws HyveError `BLOCK_FILE`, `BLOCK_FORMAT`, `BLOCK_UNSUPPORTED`, `BLOCK_LOCKED`
 */
export async function diskInfo(path: string, o: InspectOptions = {}): Promise<DiskInfo> {
  if (isNbdAddress(path)) {
    const disk = await openBlock(`${path},ro`);
    const info = { filename: path, format: disk.format, virtualSize: disk.size, actualSize: null, qcow2: null };
    await disk.close();
    return info;
  }
  const file = await openFile(path, o, false);
  try {
    const first = await readHeaderBytes(file);
    const format = o.format ?? (looksLikeQcow2(first) ? 'qcow2' : 'raw');
    const base = { filename: path, format, actualSize: file.facts.allocated };
    if (format === 'raw') return { ...base, virtualSize: Math.ceil(file.length / 512) * 512, qcow2: null };
    const h = parseHeader(path, first, file.length);
    const snapshots = await readSnapshots(file, h);
    return {
      ...base,
      virtualSize: h.size,
      qcow2: {
        clusterSize: 2 ** h.clusterBits,
        compat: h.version === 2 ? '0.10' : '1.1',
        refcountBits: 1 << h.refcountOrder,
        lazyRefcounts: (h.compatible & COMPAT_LAZY_REFCOUNTS) !== 0,
        compression: h.compression,
        corrupt: (h.incompatible & INCOMPAT_CORRUPT) !== 0,
        dirty: (h.incompatible & INCOMPAT_DIRTY) !== 0,
        backingFile: h.backingFile,
        fullBackingFile: fullName(path, h),
        backingFormat: h.backingFormat,
        snapshots: snapshots.list,
      },
    };
  } finally {
    await file.close();
  }
}

function fullName(path: string, h: Header): string | null {
  if (h.backingFile === null) return null;
  try {
    return backingPath(path, h.backingFile);
  } catch {
    return h.backingFile;
  }
}

/** Describes an image and everything behind it, in order. A chain that loops ends where it would repeat. */
export async function diskChainInfo(path: string, o: InspectOptions = {}): Promise<readonly DiskInfo[]> {
  const chain: DiskInfo[] = [];
  let next: string | null = path;
  let format = o.format ?? null;
  while (next !== null && chain.length < 64) {
    if (chain.some((i) => i.filename === next)) break;
    const info: DiskInfo = await diskInfo(next, { ...o, format });
    chain.push(info);
    next = info.qcow2?.fullBackingFile ?? null;
    const f = info.qcow2?.backingFormat;
    format = f === 'raw' || f === 'qcow2' ? f : null;
  }
  return chain;
}

/**
 * Checks a qcow2 image, and repairs it when that is asked for.
 * @throws HyveError `BLOCK_UNSUPPORTED` for other formats
 */
export async function checkDisk(
  path: string,
  o: InspectOptions & {
    readonly repair?: 'none' | 'leaks' | 'all';
    readonly onProgress?: (done: number) => void;
  } = {},
): Promise<CheckResult> {
  const repair = o.repair ?? 'none';
  const file = await openFile(path, o, repair !== 'none');
  try {
    const first = await readHeaderBytes(file);
    if ((o.format ?? (looksLikeQcow2(first) ? 'qcow2' : 'raw')) !== 'qcow2')
      throw new HyveError('BLOCK_UNSUPPORTED', `${path}: a raw image has nothing that could be checked`);
    const header = parseHeader(path, first, file.length);
    return await checkQcow2(file, header, {
      repair,
      ...(o.onProgress === undefined ? {} : { onProgress: o.onProgress }),
    });
  } finally {
    await file.close();
  }
}

/** @internal Opens any disk of the host for a tool: files by contents or format, addresses as they are. */
export async function openForTool(
  path: string,
  o: InspectOptions & { readonly readOnly: boolean },
): Promise<DiskImage> {
  const logger = o.logger ?? silentLogger;
  if (isNbdAddress(path) || path.startsWith('ram:'))
    return openBlock(parseBlockSpec(o.readOnly ? `${path},ro` : path), { logger });
  return openImage(path, {
    format: o.format ?? null,
    readOnly: o.readOnly,
    mustWrite: !o.readOnly,
    lock: !(o.forceShare ?? false),
    sectorSize: 512,
    logger,
  });
}

function joins(a: Extent, b: Extent): boolean {
  if (a.present !== b.present || a.zero !== b.zero || a.data !== b.data || a.compressed !== b.compressed) return false;
  if (a.depth !== b.depth || a.file !== b.file) return false;
  return a.fileOffset === null ? b.fileOffset === null : b.fileOffset === a.fileOffset + a.length;
}

/** @internal All extents of a disk in order, those that belong together as one. */
export async function* extentsOf(disk: DiskImage): AsyncGenerator<Extent> {
  let last = null as Extent | null; // widened: it changes across yields
  for (let at = 0; at < disk.size; ) {
    const e = await disk.extentAt(at);
    if (e === null || e.length <= 0)
      throw new HyveError('BLOCK_FORMAT', `${disk.identity}: what is stored at 0x${at.toString(16)} cannot be told`);
    if (last !== null && joins(last, e)) last = { ...last, length: last.length + e.length };
    else {
      if (last !== null) yield last;
      last = e;
    }
    at = e.offset + e.length;
  }
  if (last !== null) yield last;
}

/** What is stored where, through all backing files. */
export async function* mapDisk(path: string, o: InspectOptions = {}): AsyncGenerator<Extent> {
  const disk = await openForTool(path, { ...o, readOnly: true });
  try {
    yield* extentsOf(disk);
  } finally {
    await disk.close();
  }
}

/**
 * Makes an image larger, or smaller when that is allowed.
 * @param size bytes, or a change such as `{ by: 1 << 30 }`
 * @returns the new size
 * @throws HyveError `BLOCK_RESIZE`
 */
export async function resizeDisk(
  path: string,
  size: number | { readonly by: number },
  o: InspectOptions & { readonly shrink?: boolean } = {},
): Promise<number> {
  const disk = await openForTool(path, { ...o, readOnly: false });
  try {
    const target = typeof size === 'number' ? size : disk.size + size.by;
    await disk.resize(Math.ceil(target / 512) * 512, { shrink: o.shrink ?? false });
    return disk.size;
  } finally {
    await disk.close();
  }
}
