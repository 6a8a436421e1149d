// snapshot=on: writes go beside the disk and are gone when it is closed; the disk itself is only read. What differs is
// kept in memory or in an unnamed temporary file, in blocks of 4 KiB, with one bit per block.
import { mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BlockStatus, HyveError, type Logger } from '@hyve/core';
import { ignore, settle } from './async.ts';
import { checkRange, slice, totalLength } from './buffers.ts';
import { BlockFault, errorCode, FaultLog } from './fault.ts';
import { type HostFile, NodeFile } from './host-file.ts';
import { type BlockCounters, Counters, type DiskImage, type Extent } from './image.ts';
import { loadHostCalls } from './libc.ts';
import { SparseBytes } from './ram.ts';

const BLOCK = 4096;
/** Bits are kept in pages of this many bytes, so that a huge disk costs nothing until it is written. */
const BIT_PAGE = 4096;

/** One bit per block. */
class BlockBits {
  private readonly pages = new Map<number, Uint8Array>();
  get(block: number): boolean {
    const page = this.pages.get(Math.floor(block / (BIT_PAGE * 8)));
    const bit = block % (BIT_PAGE * 8);
    return page !== undefined && (page[bit >>> 3]! & (1 << (bit & 7))) !== 0;
  }
  set(block: number): void {
    const index = Math.floor(block / (BIT_PAGE * 8));
    let page = this.pages.get(index);
    if (page === undefined) {
      page = new Uint8Array(BIT_PAGE);
      this.pages.set(index, page);
    }
    const bit = block % (BIT_PAGE * 8);
    page[bit >>> 3]! |= 1 << (bit & 7);
  }
}

/** What holds the differences: a file, or memory. */
interface Store {
  read(offset: number, buffers: readonly Uint8Array[], start: number, length: number): Promise<void>;
  write(offset: number, buffers: readonly Uint8Array[]): Promise<void>;
  zero(offset: number, length: number): Promise<void>;
  close(): Promise<void>;
}

function memoryStore(limit: number): Store {
  const bytes = new SparseBytes();
  return {
    read: async (offset, buffers, start, length) => bytes.read(offset, buffers, start, length),
    write: async (offset, buffers) => {
      if (bytes.held >= limit) throw new BlockFault('no-space', `the overlay's ${limit} bytes of memory are used up`);
      bytes.write(offset, buffers);
    },
    zero: async (offset, length) => bytes.clear(offset, length),
    close: async () => {},
  };
}

function fileStore(file: HostFile): Store {
  const zeros = new Uint8Array(BLOCK * 16);
  return {
    read: (offset, buffers, start, length) => file.read(offset, slice(buffers, start, length)),
    write: (offset, buffers) => file.write(offset, buffers),
    zero: async (offset, length) => {
      if (await file.punch(offset, length)) return;
      for (let done = 0; done < length; done += zeros.length)
        await file.write(offset + done, [zeros.subarray(0, Math.min(zeros.length, length - done))]);
    },
    close: () => file.close(),
  };
}

/** A file that nobody else can find and that the system removes when it is closed, however the process ends. */
function unnamedFile(): NodeFile {
  const dir = mkdtempSync(join(tmpdir(), 'hyve-'));
  try {
    const path = join(dir, 'overlay');
    const fd = openSync(path, 'wx+', 0o600);
    return new NodeFile({
      path,
      identity: path,
      realPath: path,
      fd,
      directFd: -1,
      writable: true,
      length: 0,
      facts: { logicalSector: 512, blockSize: BLOCK, isDevice: false, allocated: 0 },
      inMemory: false,
      cachedWrites: true,
      helper: null,
      calls: loadHostCalls(),
      lock: null,
    });
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** Options of {@link OverlayDisk}. */
export interface OverlayOptions {
  /** The disk that is read; closed with the overlay. */
  readonly base: DiskImage;
  /** Where the differences go. Default `file`. */
  readonly store?: 'file' | 'memory';
  /** Bytes of differences that memory may hold. Default 1 GiB. */
  readonly memoryLimit?: number;
  /** Told of the first failure of each kind. */
  readonly logger: Logger;
}

/** A disk whose changes are forgotten when it is closed. */
export class OverlayDisk implements DiskImage {
  readonly format: string = 'overlay';
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean = false;
  readonly canDiscard: boolean = true;
  readonly discardZeroes: boolean = true;
  readonly identity: string;
  readonly size: number;
  private readonly base: DiskImage;
  private readonly store: Store;
  private readonly own: BlockBits = new BlockBits();
  /** Blocks being written for the first time, and when that is over. */
  private readonly becoming = new Map<number, Promise<void>>();
  private readonly faults: FaultLog;
  private readonly count: Counters = new Counters();

  /** @throws HyveError `BLOCK_FILE` when there is no temporary file to be had */
  constructor(o: OverlayOptions) {
    this.base = o.base;
    this.size = o.base.size;
    this.sectorSize = o.base.sectorSize;
    this.physicalSectorSize = o.base.physicalSectorSize;
    this.identity = o.base.identity;
    this.faults = new FaultLog(o.logger, `${o.base.identity} (snapshot)`);
    if (o.store === 'memory') this.store = memoryStore(o.memoryLimit ?? 2 ** 30);
    else {
      try {
        this.store = fileStore(unnamedFile());
      } catch (e) {
        throw new HyveError('BLOCK_FILE', `snapshot=on needs a temporary file in ${tmpdir()}: ${errorCode(e)}`, e);
      }
    }
  }

  /** End of the run of blocks from the one at `offset` on that are alike. */
  private runEnd(offset: number, end: number): number {
    const mine = this.own.get(Math.floor(offset / BLOCK));
    let at = Math.min(end, (Math.floor(offset / BLOCK) + 1) * BLOCK);
    while (at < end && this.own.get(at / BLOCK) === mine) at = Math.min(end, at + BLOCK);
    return at;
  }

  async read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    this.count.reads++;
    this.count.readBytes += length;
    const jobs: Promise<void>[] = [];
    for (let at = offset; at < offset + length; ) {
      const end = this.runEnd(at, offset + length);
      if (this.own.get(Math.floor(at / BLOCK))) jobs.push(this.store.read(at, buffers, at - offset, end - at));
      else jobs.push(this.readBase(at, slice(buffers, at - offset, end - at)));
      at = end;
    }
    try {
      await settle(jobs);
      return 'ok';
    } catch (e) {
      return this.failed('read', e);
    }
  }

  private failed(what: string, e: unknown): BlockStatus {
    this.count.failures++;
    return this.faults.note(what, e);
  }

  private async readBase(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    const status = await this.base.read(offset, buffers);
    if (status !== 'ok') throw new BlockFault(status, `reading ${this.base.identity} at ${offset}: ${status}`);
  }

  /** Copies a block that will be written in part. */
  private async fill(block: number): Promise<void> {
    const at = block * BLOCK;
    const bytes = new Uint8Array(Math.min(BLOCK, this.size - at));
    await this.readBase(at, [bytes]);
    await this.store.write(at, [bytes]);
  }

  /**
   * Carries out a change of a range. While blocks become ours, other changes of them wait: they would copy the disk
   * below over what is being written.
   */
  private async change(offset: number, length: number, act: () => Promise<void>): Promise<void> {
    const end = offset + length;
    const first = Math.floor(offset / BLOCK);
    const last = Math.floor((end - 1) / BLOCK);
    for (let b = first; b <= last; b++) {
      let under = this.becoming.get(b);
      while (under !== undefined) {
        await under.then(ignore, ignore);
        b = first; // start over: others may have come meanwhile
        under = this.becoming.get(b);
      }
    }
    const fresh: number[] = [];
    for (let b = first; b <= last; b++) if (!this.own.get(b)) fresh.push(b);
    if (fresh.length === 0) return act();
    const partly = (b: number): boolean => b * BLOCK < offset || Math.min((b + 1) * BLOCK, this.size) > end;
    const job = (async (): Promise<void> => {
      for (const b of first === last ? [first] : [first, last]) if (partly(b) && !this.own.get(b)) await this.fill(b);
      await act();
      this.mark(offset, length);
    })();
    for (const b of fresh) this.becoming.set(b, job);
    try {
      await job;
    } finally {
      for (const b of fresh) this.becoming.delete(b);
    }
  }

  private mark(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / BLOCK);
    for (let b = Math.floor(offset / BLOCK); b <= last; b++) this.own.set(b);
  }

  async write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    this.count.writes++;
    this.count.writtenBytes += length;
    if (length === 0) return 'ok';
    try {
      await this.change(offset, length, () => this.store.write(offset, buffers));
      return 'ok';
    } catch (e) {
      return this.failed('write', e);
    }
  }

  async flush(): Promise<BlockStatus> {
    this.count.flushes++;
    return 'ok'; // nothing here is meant to last
  }

  async discard(offset: number, length: number): Promise<BlockStatus> {
    this.count.discards++;
    return this.zero(offset, length);
  }

  async writeZeroes(offset: number, length: number, _mayUnmap: boolean): Promise<BlockStatus> {
    this.count.zeroes++;
    return this.zero(offset, length);
  }

  private async zero(offset: number, length: number): Promise<BlockStatus> {
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (length === 0) return 'ok';
    try {
      await this.change(offset, length, () => this.store.zero(offset, length));
      return 'ok';
    } catch (e) {
      return this.failed('write of zeros', e);
    }
  }

  async extentAt(offset: number): Promise<Extent | null> {
    if (!(offset >= 0 && offset < this.size)) return null;
    const end = this.runEnd(offset, Math.min(this.size, offset + BLOCK * 4096));
    if (!this.own.get(Math.floor(offset / BLOCK))) {
      const e = await this.base.extentAt(offset);
      return e === null ? null : { ...e, length: Math.min(e.length, end - offset), depth: e.depth + 1 };
    }
    return {
      offset,
      length: end - offset,
      present: true,
      zero: false,
      data: true,
      compressed: false,
      depth: 0,
      fileOffset: null,
      file: null,
    };
  }

  async resize(): Promise<void> {
    throw new HyveError('BLOCK_RESIZE', `${this.identity}: a snapshot=on disk keeps its size`);
  }

  counters(): BlockCounters {
    return this.count.list();
  }

  async close(): Promise<void> {
    await this.store.close();
    await this.base.close();
  }
}
