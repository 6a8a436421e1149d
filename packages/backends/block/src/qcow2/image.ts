// A qcow2 image as a disk: versions 2 and 3, read and write. Data goes to its cluster at once; tables change in memory
// and reach the file with the next flush, in this order: data and refcounts, a sync, L2 and L1, a sync, and only in the
// flush after that are the clusters given back that these tables no longer name. So a crash at any point leaves what was
// last flushed, and at worst leaked clusters.
import { type BlockStatus, HyveError, type Logger } from '@hyve/core';
import { Gate, Jobs, Mutex } from '../async.ts';
import { checkRange, scatter, slice, totalLength, zeroFill } from '../buffers.ts';
import { BlockFault, damage, errorCode, FaultLog } from '../fault.ts';
import type { HostFile } from '../host-file.ts';
import { type BlockCounters, Counters, type DiskImage, type Extent } from '../image.ts';
import { compress, expand } from './compress.ts';
import {
  COMPAT_LAZY_REFCOUNTS,
  COMPRESSED_HI,
  COPIED_HI,
  compressedEntry,
  compressedRun,
  entryOffset,
  type Header,
  INCOMPAT_COMPRESSION,
  INCOMPAT_CORRUPT,
  INCOMPAT_DIRTY,
  MAX_L1_BYTES,
  putU64,
  viewOf,
  ZERO_LO,
} from './format.ts';
import { Refcounts } from './refcounts.ts';
import { type Slice, SliceCache } from './tables.ts';

const NOTHING = 0;
const DATA = 1;
const ZERO = 2;
/** Reads as zeros and has a cluster of its own. */
const ZERO_KEPT = 3;
const COMPRESSED = 4;
const DAMAGED = 5;

const TWO32 = 0x1_0000_0000;
/** Bytes of expanded clusters kept; at least four clusters. */
const EXPANDED_BYTES = 4 << 20;
/** Zeros are written in pieces of this size where no flag can say it. */
const ZERO_PIECE = 1 << 20;
/** Clusters waiting to be given back after which a commit is started. */
const MANY_FREED = 8192;

/** An L1 entry whose table is not where it is said to be; like any offset that is no cluster's. */
const NO_TABLE = 1;

/** Requests that began between two commits, and what the second one freed. */
interface Generation {
  active: number;
  freed: number[];
  /** The tables on disk no longer name what was freed. */
  durable: boolean;
}

function generation(): Generation {
  return { active: 0, freed: [], durable: false };
}

/** @internal How a range is given up. */
type Unmap = 'discard' | 'zero' | 'zero-unmap' | 'cut';

/** Tables up to this size have their holes filled. */
const MAX_FILL = 1 << 20;

/**
 * Tables that others left as holes take their space now: a flush must not fail on a full disk for want of eight bytes.
 * What cannot be had now is tried again by the flush.
 */
async function fillHoles(file: HostFile, offset: number, length: number): Promise<void> {
  if (length > MAX_FILL) return;
  for (let at = offset; at < offset + length; ) {
    const r = file.region(at, offset + length);
    if (!r.data) await file.write(at, [new Uint8Array(r.end - at)]).catch(() => {});
    at = Math.max(r.end, at + 1);
  }
}

/** @internal Options of {@link Qcow2Image.open}. */
export interface Qcow2Options {
  readonly file: HostFile;
  readonly header: Header;
  readonly backing: DiskImage | null;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly noDelete: boolean;
  /** Every completed write is on stable storage. */
  readonly sync: boolean;
  readonly logger: Logger;
}

/** @internal A qcow2 image. */
export class Qcow2Image implements DiskImage {
  readonly format: string = 'qcow2';
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  readonly discardZeroes: boolean;
  readonly identity: string;
  readonly header: Header;
  readonly backing: DiskImage | null;
  size: number;
  private readonly file: HostFile;
  private readonly faults: FaultLog;
  private readonly logger: Logger;
  private readonly count: Counters = new Counters();
  private readonly alwaysSync: boolean;
  private readonly clusterBytes: number;
  private readonly perTable: number;
  private readonly perSlice: number;
  private readonly tableSpan: number;
  private readonly hasZeroFlag: boolean;
  private readonly lazy: boolean;
  private readonly refcounts: Refcounts;
  private readonly slices: SliceCache;
  /** Clusters that hold the header and tables in use: guest data never goes there. */
  private readonly meta: Set<number>;
  private readonly mutex: Mutex = new Mutex();
  private readonly commits: Gate;
  /** Guest clusters being allocated, and when that is over. */
  private readonly pending = new Map<number, Promise<void>>();
  private readonly expanded = new Map<number, Promise<Uint8Array>>();
  private readonly expandedMost: number;
  private l1: Float64Array;
  private l1Copied: Uint8Array;
  private l1Offset: number;
  private readonly l1Dirty = new Set<number>();
  /** L2 tables that the L1 table on disk does not name yet. */
  private readonly unlinked = new Set<number>();
  private now: Generation = generation();
  private readonly past: Generation[] = [];
  private releasable: number[] = [];
  private active = 0;
  private idle: (() => void) | null = null;
  private broken: string | null = null;
  /** The header says that refcounts may be behind. */
  private dirtyBit = false;
  private closed = false;
  private allocated = 0;
  private commitCount = 0;
  // What lookup() found.
  private foundKind = NOTHING;
  private foundHost = 0;
  private foundLength = 0;
  private foundCopied = false;
  private foundHi = 0;
  private foundLo = 0;
  private missingKey = 0;
  private missingTable = 0;
  /** Where the next compressed cluster goes, within a cluster begun by the last one. */
  private packAt = 0;
  private packEnd = 0;

  private constructor(
    o: Qcow2Options,
    l1: Float64Array,
    l1Copied: Uint8Array,
    refcounts: Refcounts,
    meta: Set<number>,
  ) {
    const h = o.header;
    this.file = o.file;
    this.header = h;
    this.backing = o.backing;
    this.sectorSize = o.sectorSize;
    this.physicalSectorSize = o.physicalSectorSize;
    this.size = h.size - (h.size % o.sectorSize);
    this.readOnly = !o.file.writable;
    this.canDiscard = !this.readOnly && !o.noDelete;
    this.discardZeroes = false;
    this.identity = o.file.path;
    this.logger = o.logger;
    this.faults = new FaultLog(o.logger, o.file.path);
    this.alwaysSync = o.sync;
    this.clusterBytes = 2 ** h.clusterBits;
    this.perTable = this.clusterBytes / 8;
    this.tableSpan = this.perTable * this.clusterBytes;
    this.hasZeroFlag = h.version === 3;
    this.lazy = (h.compatible & COMPAT_LAZY_REFCOUNTS) !== 0;
    this.slices = new SliceCache(o.file, this.clusterBytes);
    this.perSlice = this.slices.sliceBytes / 8;
    this.expandedMost = Math.max(4, Math.floor(EXPANDED_BYTES / this.clusterBytes));
    this.l1 = l1;
    this.l1Copied = l1Copied;
    this.l1Offset = h.l1Offset;
    this.refcounts = refcounts;
    this.meta = meta;
    this.commits = new Gate(() => this.commit());
  }

  /** Opens an image whose header has been checked. It takes the file and the backing disk over. */
  static async open(o: Qcow2Options): Promise<Qcow2Image> {
    const h = o.header;
    const cluster = 2 ** h.clusterBits;
    const bytes = new Uint8Array(h.l1Size * 8);
    await o.file.read(h.l1Offset, [bytes]);
    const v = viewOf(bytes);
    const l1 = new Float64Array(h.l1Size);
    const copied = new Uint8Array(h.l1Size);
    const meta = new Set<number>([0]);
    const note = (offset: number, length: number): void => {
      for (let c = Math.floor(offset / cluster); c * cluster < offset + length; c++) meta.add(c);
    };
    note(h.l1Offset, h.l1Size * 8);
    if (h.snapshotCount > 0) note(h.snapshotsOffset, h.snapshotCount * 40);
    const refcounts = await Refcounts.load(o.file, h, { meta });
    for (let i = 0; i < h.l1Size; i++) {
      const hi = v.getUint32(i * 8);
      const offset = entryOffset(hi, v.getUint32(i * 8 + 4));
      copied[i] = hi >>> 31;
      // Two tables in one place: neither can be trusted, and writing one would destroy the other.
      const clash = offset > 0 && offset % cluster === 0 && meta.has(offset / cluster);
      l1[i] = clash ? NO_TABLE : offset;
      if (offset > 0 && offset % cluster === 0) meta.add(offset / cluster);
    }
    const image = new Qcow2Image(o, l1, copied, refcounts, meta);
    if (!image.readOnly) {
      await fillHoles(o.file, h.l1Offset, h.l1Size * 8);
      await fillHoles(o.file, h.refcountTableOffset, h.refcountTableClusters * cluster);
    }
    if (!image.readOnly && h.autoclear) {
      // What these features promise is not kept up here, and the bits say so.
      await o.file.write(88, [new Uint8Array(8)]);
      await o.file.sync();
    }
    return image;
  }

  // ---- Requests in flight

  private enter(): Generation {
    const g = this.now;
    g.active++;
    this.active++;
    return g;
  }

  private leave(g: Generation): void {
    g.active--;
    if (--this.active === 0 && this.idle !== null) this.idle();
  }

  private async quiesce(): Promise<void> {
    while (this.active > 0)
      await new Promise<void>((resolve) => {
        this.idle = resolve;
      });
  }

  private failed(what: string, e: unknown): BlockStatus {
    this.count.failures++;
    if (e instanceof BlockFault && e.fatal && !this.readOnly && this.broken === null) this.breakDown(e.message);
    return this.faults.note(what, e);
  }

  /** No more writes: going on would make it worse. */
  private breakDown(why: string): void {
    this.broken = why;
    this.logger.warn(`${this.identity}: the image is damaged and takes no more writes: ${why}`);
    if (this.header.version === 3) this.writeFeatures(INCOMPAT_CORRUPT).catch(() => {});
  }

  private writeFeatures(more: number): Promise<void> {
    const bytes = new Uint8Array(8);
    const keep = this.header.incompatible & INCOMPAT_COMPRESSION;
    viewOf(bytes).setUint32(4, keep | more | (this.dirtyBit ? INCOMPAT_DIRTY : 0));
    return this.file.write(72, [bytes]);
  }

  private writable(): void {
    if (this.broken !== null) throw new BlockFault('io-error', `the image is damaged: ${this.broken}`);
    if (this.closed) throw new BlockFault('cancelled', 'the image is closed');
  }

  // ---- Where things are

  /**
   * Finds how `most` bytes from `offset` on are stored, as far as they are stored alike and in a row: `found…`. False
   * when a slice has to be loaded first: `missing…`.
   */
  private lookup(offset: number, most: number): boolean {
    const cluster = this.clusterBytes;
    const index = Math.floor(offset / this.tableSpan);
    const table = this.l1[index]!;
    const inTable = offset - index * this.tableSpan;
    if (table === 0 || table % cluster !== 0 || table >= this.file.length) {
      this.foundKind = table === 0 ? NOTHING : DAMAGED;
      this.foundLength = Math.min(most, this.tableSpan - inTable);
      this.foundCopied = false;
      return true;
    }
    const entry = Math.floor(inTable / cluster);
    const sliceIndex = Math.floor(entry / this.perSlice);
    const key = table + sliceIndex * this.slices.sliceBytes;
    const s = this.slices.peek(key);
    if (s === undefined) {
      this.missingKey = key;
      this.missingTable = table;
      return false;
    }
    const v = s.view;
    let at = (entry - sliceIndex * this.perSlice) * 8;
    const hi = v.getUint32(at);
    const lo = v.getUint32(at + 4);
    const kind = this.kindOf(hi, lo);
    const skip = inTable - entry * cluster;
    this.foundKind = kind;
    this.foundCopied = hi >>> 31 === 1;
    this.foundHi = hi;
    this.foundLo = lo;
    const host = entryOffset(hi, lo);
    this.foundHost = host + skip;
    let length = cluster - skip;
    if (kind !== COMPRESSED && kind !== DAMAGED) {
      let next = host + cluster;
      while (length < most) {
        at += 8;
        if (at >= this.slices.sliceBytes) break;
        const h = v.getUint32(at);
        const l = v.getUint32(at + 4);
        if (this.kindOf(h, l) !== kind || h >>> 31 !== hi >>> 31) break;
        if (kind === DATA || kind === ZERO_KEPT) {
          if (entryOffset(h, l) !== next) break;
          next += cluster;
        }
        length += cluster;
      }
    }
    this.foundLength = Math.min(length, most);
    return true;
  }

  private kindOf(hi: number, lo: number): number {
    if ((hi & COMPRESSED_HI) !== 0) return COMPRESSED;
    const zero = this.hasZeroFlag && (lo & ZERO_LO) !== 0;
    if ((hi & 0x00ffffff) === 0 && lo >>> 9 === 0) return zero ? ZERO : NOTHING;
    // Within a cluster, or beyond 2^52 where no file reaches.
    if (((lo & 0xfffffe00) >>> 0) % this.clusterBytes !== 0 || (hi & 0x00f00000) !== 0) return DAMAGED;
    return zero ? ZERO_KEPT : DATA;
  }

  /** Brings the slice that {@link lookup} missed. What lookup found is only good until the next await. */
  private missing(): Promise<void> {
    return this.slices.load(this.missingKey, this.missingTable);
  }

  private damagedAt(offset: number): BlockFault {
    return damage(`${this.identity}: the tables for guest offset 0x${offset.toString(16)} are damaged`);
  }

  // ---- Reading

  async read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    this.count.reads++;
    this.count.readBytes += length;
    if (length === 0) return 'ok';
    const g = this.enter();
    try {
      if (this.lookup(offset, length) && this.foundKind === DATA && this.foundLength === length)
        await this.file.read(this.foundHost, buffers);
      else await this.readRange(offset, buffers, length);
      return 'ok';
    } catch (e) {
      this.count.failures++;
      return this.faults.note('read', e); // a damaged cluster does not keep others from being written
    } finally {
      this.leave(g);
    }
  }

  readNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null {
    const length = totalLength(buffers);
    if (length === 0 || this.closed || checkRange(this, offset, length) !== 'ok') return null;
    if (!this.lookup(offset, length) || this.foundLength !== length) return null;
    const { foundKind } = this;
    if (foundKind === DATA) {
      if (this.file.readNow?.(this.foundHost, buffers, length) !== true) return null;
    } else if (foundKind === ZERO || foundKind === ZERO_KEPT || (foundKind === NOTHING && this.backing === null))
      zeroFill(buffers, 0, length);
    else return null;
    this.count.reads++;
    this.count.readBytes += length;
    return 'ok';
  }

  /** Only over clusters that are there already: everything else changes tables. */
  writeNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null {
    const length = totalLength(buffers);
    if (length === 0 || this.readOnly || this.closed || this.alwaysSync || this.broken !== null) return null;
    if (checkRange(this, offset, length) !== 'ok' || !this.lookup(offset, length)) return null;
    if (this.foundKind !== DATA || !this.foundCopied || this.foundLength !== length) return null;
    const last = Math.floor((this.foundHost + length - 1) / this.clusterBytes);
    for (let c = Math.floor(this.foundHost / this.clusterBytes); c <= last; c++) if (this.meta.has(c)) return null;
    if (this.file.writeNow?.(this.foundHost, buffers, length) !== true) return null;
    this.count.writes++;
    this.count.writtenBytes += length;
    return 'ok';
  }

  private async readRange(offset: number, buffers: readonly Uint8Array[], length: number): Promise<void> {
    const jobs = new Jobs();
    let failure: unknown = null;
    try {
      for (let done = 0; done < length; ) {
        const at = offset + done;
        if (!this.lookup(at, length - done)) {
          await this.missing();
          continue;
        }
        const n = this.foundLength;
        switch (this.foundKind) {
          case DATA:
            jobs.add(this.file.read(this.foundHost, slice(buffers, done, n)));
            break;
          case NOTHING:
            if (this.backing === null) zeroFill(buffers, done, n);
            else jobs.add(this.readBacking(at, slice(buffers, done, n), n));
            break;
          case COMPRESSED:
            jobs.add(
              this.readCompressed(this.foundHi, this.foundLo, at % this.clusterBytes, slice(buffers, done, n), n),
            );
            break;
          case DAMAGED:
            throw this.damagedAt(at);
          default:
            zeroFill(buffers, done, n);
        }
        done += n;
      }
    } catch (e) {
      failure = e;
    }
    await jobs.end();
    if (failure !== null) throw failure;
  }

  private async readBacking(offset: number, buffers: readonly Uint8Array[], length: number): Promise<void> {
    const backing = this.backing as DiskImage;
    const n = Math.max(0, Math.min(length, backing.size - offset));
    if (n < length) zeroFill(buffers, n, length - n);
    if (n === 0) return;
    const status = await backing.read(offset, n === length ? buffers : slice(buffers, 0, n));
    if (status !== 'ok') throw new BlockFault(status, `backing file ${backing.identity}: ${status}`);
  }

  private async readCompressed(
    hi: number,
    lo: number,
    skip: number,
    buffers: readonly Uint8Array[],
    length: number,
  ): Promise<void> {
    const run = compressedRun(hi, lo, this.header.clusterBits);
    if (run === null || run.offset >= this.file.length)
      throw new BlockFault('io-error', 'a compressed cluster lies beyond the end of the file');
    let cluster = this.expanded.get(run.offset);
    if (cluster === undefined) {
      cluster = this.expandRun(run.offset, run.length);
      this.expanded.set(run.offset, cluster);
      if (this.expanded.size > this.expandedMost) {
        const oldest = this.expanded.keys().next();
        if (!oldest.done) this.expanded.delete(oldest.value);
      }
    }
    const bytes = await cluster;
    scatter(buffers, 0, bytes.subarray(skip, skip + length));
  }

  private async expandRun(offset: number, length: number): Promise<Uint8Array> {
    try {
      const input = new Uint8Array(length);
      await this.file.read(offset, [input]);
      return await expand(input, this.header.compression, this.clusterBytes);
    } catch (e) {
      this.expanded.delete(offset);
      throw e;
    }
  }

  // ---- Writing

  async write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    this.count.writes++;
    this.count.writtenBytes += length;
    if (length === 0) return 'ok';
    const g = this.enter();
    try {
      this.writable();
      if (this.lookup(offset, length) && this.foundKind === DATA && this.foundCopied && this.foundLength === length) {
        this.guard(this.foundHost, length);
        await this.file.write(this.foundHost, buffers);
      } else {
        if (this.slices.crowded || this.now.freed.length > MANY_FREED) await this.commits.run();
        await this.writeRange(offset, buffers, length);
      }
      if (this.alwaysSync) await this.commits.run();
      return 'ok';
    } catch (e) {
      return this.failed('write', e);
    } finally {
      this.leave(g);
    }
  }

  /** A damaged image may say that guest data is where a table is. */
  private guard(host: number, length: number): void {
    const last = Math.floor((host + length - 1) / this.clusterBytes);
    for (let c = Math.floor(host / this.clusterBytes); c <= last; c++)
      if (this.meta.has(c)) throw damage(`guest data is said to be at cluster ${c}, where a table is`);
  }

  private async writeRange(offset: number, buffers: readonly Uint8Array[], length: number): Promise<void> {
    const jobs = new Jobs();
    let failure: unknown = null;
    const cluster = this.clusterBytes;
    try {
      for (let done = 0; done < length; ) {
        const at = offset + done;
        if (!this.lookup(at, length - done)) {
          await this.missing();
          continue;
        }
        let n = this.foundLength;
        if (this.foundKind === DAMAGED) throw this.damagedAt(at);
        if (this.foundKind === DATA && this.foundCopied) {
          this.guard(this.foundHost, n);
          jobs.add(this.file.write(this.foundHost, slice(buffers, done, n)));
          done += n;
          continue;
        }
        const first = Math.floor(at / cluster);
        const under = this.pending.get(first);
        if (under !== undefined) {
          await under;
          continue;
        }
        // An L1 entry without a table spans many slices; an allocation stays within one.
        n = Math.min(n, (Math.floor(first / this.perSlice) + 1) * this.perSlice * cluster - at);
        let clusters = 1;
        while (first + clusters <= Math.floor((at + n - 1) / cluster) && !this.pending.has(first + clusters))
          clusters++;
        n = Math.min(n, (first + clusters) * cluster - at);
        const reuse = this.foundKind === ZERO_KEPT && this.foundCopied ? this.foundHost - (at % cluster) : 0;
        const job = this.place(first, clusters, at, n, slice(buffers, done, n), reuse);
        this.reserve(first, clusters, job);
        jobs.add(job);
        done += n;
      }
    } catch (e) {
      failure = e;
    }
    await jobs.end();
    if (failure !== null) throw failure;
  }

  /** Keeps others from allocating the same clusters until the job has ended. */
  private reserve(first: number, clusters: number, job: Promise<void>): void {
    const done = (): void => {
      for (let c = first; c < first + clusters; c++) this.pending.delete(c);
    };
    const over = job.then(done, done);
    for (let c = first; c < first + clusters; c++) this.pending.set(c, over);
  }

  /** Waits until nobody allocates in these clusters. True if it had to wait. */
  private async settled(first: number, count: number): Promise<boolean> {
    if (this.pending.size === 0) return false;
    let waited = false;
    if (this.pending.size < count) {
      for (const [c, under] of this.pending) {
        if (c < first || c >= first + count) continue;
        await under;
        return true;
      }
      return false;
    }
    for (let c = first; c < first + count; c++) {
      const under = this.pending.get(c);
      if (under === undefined) continue;
      await under;
      waited = true;
    }
    return waited;
  }

  /**
   * Writes into guest clusters that have no cluster of their own yet, or only one kept behind a zero flag (`reuse`).
   * The bytes around the write are brought along.
   */
  private async place(
    first: number,
    clusters: number,
    start: number,
    length: number,
    buffers: readonly Uint8Array[],
    reuse: number,
  ): Promise<void> {
    await null; // the caller reserves the clusters first
    const cluster = this.clusterBytes;
    const end = start + length;
    for (let done = 0; done < clusters; ) {
      let host = reuse + done * cluster;
      let got = clusters - done;
      let fresh = false;
      if (reuse === 0) {
        const run = await this.mutex.run(async () => {
          await this.ownTable(Math.floor(((first + done) * cluster) / this.tableSpan));
          await this.release();
          return this.refcounts.allocate(clusters - done);
        });
        host = run.first * cluster;
        got = run.count;
        fresh = run.fresh;
        this.allocated += got;
      } else {
        await this.mutex.run(() => this.ownTable(Math.floor(((first + done) * cluster) / this.tableSpan)));
        this.guard(host, got * cluster);
      }
      const from = Math.max(start, (first + done) * cluster);
      const to = Math.min(end, (first + done + got) * cluster);
      try {
        const head = await this.around((first + done) * cluster, from, fresh);
        const tail = await this.around(to, (first + done + got) * cluster, fresh);
        const body = slice(buffers, from - start, to - from);
        const at = head === null ? host + (from - (first + done) * cluster) : host;
        const all = head === null && tail === null ? body : [...(head ?? []), ...body, ...(tail ?? [])];
        await this.file.write(at, all);
        await this.link(first + done, got, host);
      } catch (e) {
        if (reuse === 0) await this.unallocate(host / cluster, got);
        throw e;
      }
      done += got;
    }
  }

  /** The old bytes of a range within one cluster, or null when nothing has to be written there. */
  private async around(from: number, to: number, fresh: boolean): Promise<Uint8Array[] | null> {
    if (from === to) return null;
    const end = Math.min(to, this.size);
    if (end > from) {
      while (!this.lookup(from, end - from)) await this.missing();
      const none =
        this.foundKind === ZERO ||
        this.foundKind === ZERO_KEPT ||
        (this.foundKind === NOTHING && (this.backing === null || from >= this.backing.size));
      if (!none || this.foundLength < end - from) {
        const bytes = new Uint8Array(to - from);
        await this.readRange(from, [bytes.subarray(0, end - from)], end - from);
        return [bytes];
      }
    }
    return fresh ? null : [new Uint8Array(to - from)];
  }

  /** Gives back clusters that no table has named. */
  private async unallocate(first: number, count: number): Promise<void> {
    await this.mutex
      .run(async () => {
        for (let c = first; c < first + count; c++) await this.refcounts.drop(c);
      })
      .catch(() => {}); // a leak
  }

  /** Makes the L2 entries name `count` clusters at `host`. They lie in one slice, so it is all or nothing. */
  private async link(first: number, count: number, host: number): Promise<void> {
    const s = await this.sliceOf(first);
    for (let i = 0; i < count; i++) {
      const at = ((first + i) % this.perSlice) * 8;
      const offset = host + i * this.clusterBytes;
      this.freeEntry(s.view.getUint32(at), s.view.getUint32(at + 4), offset);
      s.view.setUint32(at, (COPIED_HI | Math.floor(offset / TWO32)) >>> 0);
      s.view.setUint32(at + 4, offset >>> 0);
    }
    this.slices.touch(s);
  }

  /** The slice of a guest cluster whose L2 table exists. Change it before awaiting anything. */
  private async sliceOf(guestCluster: number): Promise<Slice> {
    for (;;) {
      const table = this.l1[Math.floor(guestCluster / this.perTable)]!;
      const key = table + Math.floor((guestCluster % this.perTable) / this.perSlice) * this.slices.sliceBytes;
      const s = this.slices.peek(key);
      if (s !== undefined) return s;
      await this.slices.load(key, table);
    }
  }

  /** What an overwritten entry named goes back once the disk no longer names it; `keep` is used on. */
  private freeEntry(hi: number, lo: number, keep: number): void {
    if ((hi & COMPRESSED_HI) !== 0) {
      const run = compressedRun(hi, lo, this.header.clusterBits);
      if (run === null) return;
      this.expanded.delete(run.offset);
      const last = Math.floor((run.offset + run.length - 1) / this.clusterBytes);
      for (let c = Math.floor(run.offset / this.clusterBytes); c <= last; c++) this.now.freed.push(c);
      return;
    }
    const offset = entryOffset(hi, lo);
    if (offset === 0 || offset === keep || offset % this.clusterBytes !== 0) return;
    this.now.freed.push(offset / this.clusterBytes);
  }

  /** Makes sure that an L1 entry has an L2 table that no snapshot shares. Under the mutex. */
  private async ownTable(index: number): Promise<void> {
    const old = this.l1[index]!;
    if (old !== 0 && this.l1Copied[index] === 1) return;
    if (old % this.clusterBytes !== 0 || old >= this.file.length) throw this.damagedAt(index * this.tableSpan);
    const { first } = await this.refcounts.allocate(1);
    const offset = first * this.clusterBytes;
    try {
      const bytes = new Uint8Array(this.clusterBytes);
      if (old !== 0) await this.file.read(old, [bytes]);
      await this.file.write(offset, [bytes]); // takes its space now, so that a flush need not
    } catch (e) {
      await this.refcounts.drop(first);
      throw e;
    }
    this.slices.forget(offset, this.clusterBytes);
    this.meta.add(first);
    this.unlinked.add(offset);
    this.l1[index] = offset;
    this.l1Copied[index] = 1;
    this.l1Dirty.add(index);
    if (old !== 0) this.now.freed.push(old / this.clusterBytes);
  }

  // ---- Flushing

  async flush(): Promise<BlockStatus> {
    this.count.flushes++;
    if (this.readOnly) return 'ok';
    try {
      this.writable();
      await this.commits.run();
      return 'ok';
    } catch (e) {
      return this.failed('flush', e);
    }
  }

  /** Lowers the counts of clusters that nothing names and nobody reads any more. Under the mutex. */
  private async release(): Promise<void> {
    while (this.past.length > 0 && this.past[0]!.durable && this.past[0]!.active === 0) {
      const g = this.past.shift() as Generation;
      for (const c of g.freed) this.releasable.push(c);
    }
    if (this.releasable.length === 0) return;
    const list = this.releasable.sort((a, b) => a - b);
    this.releasable = [];
    let from = -1;
    let to = -1;
    for (const c of list) {
      if ((await this.refcounts.drop(c)) > 0) continue;
      this.meta.delete(c);
      if (c === to) to++;
      else {
        if (from >= 0) await this.giveBack(from, to);
        from = c;
        to = c + 1;
      }
    }
    if (from >= 0) await this.giveBack(from, to);
  }

  private async giveBack(from: number, to: number): Promise<void> {
    if (!this.file.canPunch) return;
    await this.file.punch(from * this.clusterBytes, (to - from) * this.clusterBytes).catch(() => {});
  }

  private async commit(): Promise<void> {
    this.writable();
    this.commitCount++;
    let taken: readonly Slice[] = [];
    let later: { at: number; bytes: Uint8Array }[] = [];
    let links: number[] = [];
    try {
      await this.mutex.run(async () => {
        await this.release();
        const changes = this.slices.dirtyCount > 0 || this.l1Dirty.size > 0 || this.refcounts.dirty;
        if (this.lazy && changes && !this.dirtyBit) {
          this.dirtyBit = true;
          await this.writeFeatures(0);
          await this.file.sync();
        }
        // From here to the next await: what is written is the state of this moment.
        taken = this.slices.take();
        links = [...this.l1Dirty];
        this.l1Dirty.clear();
        later = links.map((i) => ({ at: this.l1Offset + i * 8, bytes: this.l1Entry(i) }));
        const fresh: { at: number; bytes: Uint8Array }[] = [];
        for (const s of taken) (this.unlinked.has(s.table) ? fresh : later).push({ at: s.key, bytes: s.bytes.slice() });
        if (this.now.freed.length > 0) {
          this.past.push(this.now);
          this.now = generation();
        }
        const jobs = new Jobs();
        for (const w of fresh) jobs.add(this.file.write(w.at, [w.bytes]));
        if (!this.lazy) jobs.add(this.refcounts.writeBack());
        await jobs.end();
      });
      if (later.length > 0) {
        await this.file.sync();
        for (const i of links) this.unlinked.delete(this.l1[i]!);
        const jobs = new Jobs();
        for (const w of later) jobs.add(this.file.write(w.at, [w.bytes]));
        await jobs.end();
      }
      await this.file.sync();
    } catch (e) {
      this.slices.failed(taken);
      for (const i of links) this.l1Dirty.add(i);
      throw e;
    }
    this.slices.written(taken);
    // A commit holds all that earlier, failed ones held.
    for (const g of this.past) g.durable = true;
  }

  private l1Entry(index: number): Uint8Array {
    const bytes = new Uint8Array(8);
    const v = viewOf(bytes);
    putU64(v, 0, this.l1[index]!);
    if (this.l1Copied[index] === 1 && this.l1[index] !== 0) v.setUint32(0, (v.getUint32(0) | COPIED_HI) >>> 0);
    return bytes;
  }

  // ---- Giving up ranges

  async discard(offset: number, length: number): Promise<BlockStatus> {
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    if (!this.canDiscard) return 'unsupported';
    this.count.discards++;
    return this.givingUp('discard', offset, length, 'discard');
  }

  async writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<BlockStatus> {
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    this.count.zeroes++;
    return this.givingUp('write of zeros', offset, length, mayUnmap && this.canDiscard ? 'zero-unmap' : 'zero');
  }

  private async givingUp(what: string, offset: number, length: number, how: Unmap): Promise<BlockStatus> {
    if (length === 0) return 'ok';
    const g = this.enter();
    try {
      this.writable();
      await this.unmap(offset, offset + length, how);
      if (this.alwaysSync) await this.commits.run();
      return 'ok';
    } catch (e) {
      return this.failed(what, e);
    } finally {
      this.leave(g);
    }
  }

  private async unmap(start: number, end: number, how: Unmap): Promise<void> {
    const cluster = this.clusterBytes;
    const first = Math.ceil(start / cluster);
    // The last cluster may reach beyond the end of the disk.
    const last = end === this.size ? Math.ceil(end / cluster) : Math.floor(end / cluster);
    if (how !== 'discard') {
      if (first > last) {
        await this.zeroPart(start, end);
        return;
      }
      await this.zeroPart(start, Math.min(end, first * cluster));
      await this.zeroPart(Math.max(start, last * cluster), end);
    }
    for (let c = first; c < last; ) {
      const index = Math.floor(c / this.perTable);
      const inTable = c % this.perTable;
      // One slice at a time.
      let n = Math.min(last - c, this.perSlice - (inTable % this.perSlice));
      if (this.l1[index] === 0) {
        const toNext = Math.min(last - c, this.perTable - inTable);
        if (await this.settled(c, toNext)) continue;
        const nothing = this.backing === null || c * cluster >= this.backing.size;
        if ((how === 'discard' && !this.hasZeroFlag) || how === 'cut' || nothing) {
          c += toNext;
          continue;
        }
      }
      if (how !== 'discard' && how !== 'cut' && !this.hasZeroFlag && !this.canDrop(c)) {
        // Version 2 has no zero flag: only zeros hide what the backing file has.
        n = Math.min(n, Math.max(1, Math.floor(ZERO_PIECE / cluster)));
        await this.zeroPart(c * cluster, Math.min(end, (c + n) * cluster));
        c += n;
        continue;
      }
      for (;;) {
        if (await this.settled(c, n)) continue;
        if (this.l1[index] === 0 || this.l1Copied[index] === 0) {
          await this.mutex.run(() => this.ownTable(index));
          continue;
        }
        const key = this.l1[index]! + Math.floor(inTable / this.perSlice) * this.slices.sliceBytes;
        const s = this.slices.peek(key);
        if (s !== undefined) {
          this.unmapIn(s, c, n, how);
          break;
        }
        await this.slices.load(key, this.l1[index]!);
      }
      if (this.slices.crowded || this.now.freed.length > MANY_FREED) await this.commits.run();
      c += n;
    }
  }

  /** Whether a cluster without an entry reads as zeros. */
  private canDrop(guestCluster: number): boolean {
    return this.backing === null || guestCluster * this.clusterBytes >= this.backing.size;
  }

  /** Gives up `n` clusters of one slice; nothing is awaited. */
  private unmapIn(s: Slice, first: number, n: number, how: Unmap): void {
    for (let c = first; c < first + n; c++) {
      const at = (c % this.perSlice) * 8;
      const hi = s.view.getUint32(at);
      const lo = s.view.getUint32(at + 4);
      const kind = this.kindOf(hi, lo);
      if (kind === DAMAGED) throw this.damagedAt(c * this.clusterBytes);
      const bare = this.canDrop(c);
      let newHi = 0;
      let newLo = 0;
      if (how === 'zero' && (kind === DATA || kind === ZERO_KEPT) && hi >>> 31 === 1 && this.hasZeroFlag) {
        newHi = hi;
        newLo = (lo | ZERO_LO) >>> 0;
      } else if (how === 'zero' || how === 'zero-unmap') {
        if (!bare) newLo = ZERO_LO;
      } else if (how === 'discard') {
        // What is given up reads as zeros, be it in this image or below. A version 2 image cannot say so; there it stays.
        if (!bare && !this.hasZeroFlag) continue;
        if (!bare) newLo = ZERO_LO;
      }
      if (newHi === hi && newLo === lo) continue;
      if (newHi === 0) this.freeEntry(hi, lo, 0);
      s.view.setUint32(at, newHi);
      s.view.setUint32(at + 4, newLo);
      this.slices.touch(s);
    }
  }

  /** Writes zeros over a range, unless it reads as zeros already. */
  private async zeroPart(start: number, end: number): Promise<void> {
    for (let at = start; at < end; ) {
      while (!this.lookup(at, end - at)) await this.missing();
      const n = Math.min(this.foundLength, ZERO_PIECE);
      const none =
        this.foundKind === ZERO ||
        this.foundKind === ZERO_KEPT ||
        (this.foundKind === NOTHING && (this.backing === null || at >= this.backing.size));
      if (none && (await this.settled(Math.floor(at / this.clusterBytes), Math.ceil(n / this.clusterBytes) + 1)))
        continue;
      if (!none) await this.writeRange(at, [new Uint8Array(n)], n);
      at += n;
    }
  }

  // ---- Whole image

  /**
   * Writes one whole cluster compressed. For images that are being filled: the cluster must have no entry yet.
   * @returns false when it does not get smaller; it is not written then
   */
  async writeCompressed(offset: number, bytes: Uint8Array): Promise<boolean> {
    const packed = await compress(bytes, this.header.compression);
    if (packed === null) return false;
    const cluster = this.clusterBytes;
    const c = offset / cluster;
    const place = await this.mutex.run(async () => {
      await this.ownTable(Math.floor(c / this.perTable));
      // Streams follow each other without gaps; one that would need two clusters where the second cannot be had in a
      // row begins a new one.
      let start = this.packAt;
      const inside = Math.min(packed.length, this.packEnd - start);
      if (inside < packed.length) {
        const { first } = await this.refcounts.allocate(1);
        if (inside > 0 && first * cluster === this.packEnd) {
          if (!(await this.refcounts.raise(Math.floor(start / cluster)))) start = first * cluster;
        } else start = first * cluster;
        this.packEnd = (first + 1) * cluster;
      } else if (!(await this.refcounts.raise(Math.floor(start / cluster)))) {
        const { first } = await this.refcounts.allocate(1);
        start = first * cluster;
        this.packEnd = (first + 1) * cluster;
      }
      this.packAt = start + packed.length;
      return start;
    });
    const entry = compressedEntry(place, packed.length, this.header.clusterBits);
    if (entry === null) throw new BlockFault('io-error', 'a compressed cluster does not fit its entry');
    await this.file.write(place, [packed]);
    const s = await this.sliceOf(c);
    s.view.setUint32((c % this.perSlice) * 8, entry.hi);
    s.view.setUint32((c % this.perSlice) * 8 + 4, entry.lo);
    this.slices.touch(s);
    if (this.slices.crowded) await this.commits.run();
    return true;
  }

  async extentAt(offset: number): Promise<Extent | null> {
    if (!(offset >= 0 && offset < this.size)) return null;
    try {
      while (!this.lookup(offset, this.size - offset)) await this.missing();
    } catch (e) {
      this.faults.note('map', e);
      return null;
    }
    const length = this.foundLength;
    const base = { offset, length, depth: 0, compressed: false, fileOffset: null, file: null };
    switch (this.foundKind) {
      case DATA: {
        // A cluster written in part is a hole of the file in the rest.
        const host = this.foundHost;
        const r = this.file.region(host, host + length);
        const at = { fileOffset: host, file: this.identity };
        return { ...base, ...at, length: r.end - host, present: true, zero: !r.data, data: true };
      }
      case ZERO_KEPT:
        return { ...base, present: true, zero: true, data: false, fileOffset: this.foundHost, file: this.identity };
      case ZERO:
        return { ...base, present: true, zero: true, data: false };
      case COMPRESSED:
        return { ...base, present: true, zero: false, data: true, compressed: true };
      case DAMAGED:
        return null;
    }
    const b = this.backing;
    if (b === null || offset >= b.size) return { ...base, present: false, zero: true, data: false };
    const below = await b.extentAt(offset);
    if (below === null) return null;
    return { ...below, length: Math.min(length, below.length), depth: below.depth + 1 };
  }

  async resize(size: number, o: { readonly shrink?: boolean } = {}): Promise<void> {
    const refuse = (why: string, cause?: unknown): HyveError =>
      new HyveError('BLOCK_RESIZE', `${this.identity}: ${why}`, cause);
    if (this.readOnly) throw refuse('is read-only');
    if (!Number.isSafeInteger(size) || size <= 0 || size % this.sectorSize !== 0)
      throw refuse(`${size} bytes are not whole sectors of ${this.sectorSize}`);
    if (size < this.size && o.shrink !== true)
      throw refuse(`shrinking to ${size} bytes loses data; it must be asked for`);
    if (this.header.snapshotCount > 0 && (size < this.size || this.header.version === 2))
      throw refuse('has internal snapshots, which keep its size');
    try {
      this.writable();
      await this.quiesce();
      if (size < this.size) await this.shrink(size);
      else if (size > this.size) await this.grow(size);
    } catch (e) {
      throw refuse(`cannot become ${size} bytes: ${errorCode(e)}`, e);
    }
  }

  private async writeSize(size: number): Promise<void> {
    const bytes = new Uint8Array(8);
    putU64(viewOf(bytes), 0, size);
    await this.file.write(24, [bytes]);
    await this.file.sync();
    this.size = size;
  }

  private async shrink(size: number): Promise<void> {
    // What is cut off must not come back when the disk grows again.
    const edge = Math.min(this.size, Math.ceil(size / this.clusterBytes) * this.clusterBytes);
    await this.zeroPart(size, edge);
    if (edge < this.size) await this.unmap(edge, this.size, 'cut');
    await this.commits.run();
    await this.writeSize(size);
    await this.mutex.run(() => this.release());
    await this.commits.run();
  }

  private async grow(size: number): Promise<void> {
    const old = this.size;
    const entries = Math.ceil(size / this.tableSpan);
    if (entries * 8 > MAX_L1_BYTES)
      throw new BlockFault(
        'no-space',
        `clusters of ${this.clusterBytes} bytes allow ${(MAX_L1_BYTES / 8) * this.tableSpan} bytes`,
      );
    if (entries > this.l1.length) {
      await this.commits.run();
      await this.mutex.run(() => this.growL1(entries));
    }
    await this.writeSize(size);
    // The backing file may be longer than the disk was: what it has there must not show.
    const below = this.backing === null ? 0 : Math.min(size, this.backing.size);
    if (below > old) await this.unmap(old, below, 'zero');
    await this.commits.run();
    await this.mutex.run(() => this.release());
    await this.commits.run();
  }

  private async growL1(entries: number): Promise<void> {
    const cluster = this.clusterBytes;
    const clusters = Math.ceil((entries * 8) / cluster);
    const first = await this.refcounts.allocateAtEnd(clusters);
    const l1 = new Float64Array(entries);
    l1.set(this.l1);
    const copied = new Uint8Array(entries);
    copied.set(this.l1Copied);
    const oldFirst = Math.floor(this.l1Offset / cluster);
    const oldClusters = Math.ceil((this.l1.length * 8) / cluster);
    this.l1 = l1;
    this.l1Copied = copied;
    const bytes = new Uint8Array(clusters * cluster);
    for (let i = 0; i < entries; i++) bytes.set(this.l1Entry(i), i * 8);
    await this.file.write(first * cluster, [bytes]);
    await this.refcounts.writeBack();
    await this.file.sync();
    const pointer = new Uint8Array(12);
    viewOf(pointer).setUint32(0, entries);
    putU64(viewOf(pointer), 4, first * cluster);
    await this.file.write(36, [pointer]);
    await this.file.sync();
    this.l1Offset = first * cluster;
    for (let i = 0; i < oldClusters; i++) {
      this.meta.delete(oldFirst + i);
      await this.refcounts.drop(oldFirst + i);
    }
    for (let i = 0; i < clusters; i++) this.meta.add(first + i);
  }

  counters(): BlockCounters {
    return this.count.list({ allocatedClusters: this.allocated, commits: this.commitCount });
  }

  async close(): Promise<void> {
    if (this.closed) return;
    await this.quiesce();
    try {
      if (!this.readOnly && this.broken === null) {
        await this.commits.run();
        await this.mutex.run(async () => {
          await this.release();
          await this.refcounts.writeBack();
        });
        await this.file.sync();
        if (this.dirtyBit) {
          this.dirtyBit = false;
          await this.writeFeatures(0);
          await this.file.sync();
        }
      }
    } catch (e) {
      this.failed('closing', e);
    } finally {
      this.closed = true;
      await this.file.close();
      await this.backing?.close();
    }
  }
}
