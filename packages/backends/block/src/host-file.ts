// Files and block devices of the host: positional, asynchronous, many requests in flight. Formats sit on the HostFile
// interface, so that tests can put a recording or failing file under them. Mirrors the I/O half of bhyve's block_if.c.
import * as fs from 'node:fs';
import { readFile, realpath } from 'node:fs/promises';
import process from 'node:process';
import { HyveError, type Logger } from '@hyve/core';
import { breathe, Gate } from './async.ts';
import { slice, totalLength, zeroFill } from './buffers.ts';
import { BlockFault, errorCode } from './fault.ts';
import { type HostCalls, loadHostCalls } from './libc.ts';
import { type FileLock, lockImage } from './lock.ts';
import type { ReadHelper } from './read-helper.ts';
import { readWhole } from './read-words.ts';

/** @internal Bytes under an image format. Failures reject with the system's error. */
export interface HostFile {
  /** For messages. */
  readonly path: string;
  /** Resolved path, device and inode: the same for every name of one file. */
  readonly identity: string;
  /** Whether writes are possible. */
  readonly writable: boolean;
  /** Bytes, kept up to date by writes. */
  readonly length: number;
  /** Whether {@link HostFile.punch} gives space back. */
  readonly canPunch: boolean;
  /** Fills the buffers; what is beyond the end reads as zeros. */
  read(offset: number, buffers: readonly Uint8Array[]): Promise<void>;
  /** Writes the buffers, all of them or an error. */
  write(offset: number, buffers: readonly Uint8Array[]): Promise<void>;
  /** {@link HostFile.read} without waiting for a device; false: nothing done. Absent: never. */
  readNow?(offset: number, buffers: readonly Uint8Array[], length: number): boolean;
  /** {@link HostFile.write} into the host's cache; false: nothing done, or not all. Absent: never. */
  writeNow?(offset: number, buffers: readonly Uint8Array[], length: number): boolean;
  /** Everything written before the call is on stable storage afterwards. Once it fails it keeps failing. */
  sync(): Promise<void>;
  /** Sets the length. */
  truncate(length: number): Promise<void>;
  /** Gives blocks back; the range reads as zeros. False: not possible, nothing has changed. */
  punch(offset: number, length: number): Promise<boolean>;
  /** Makes a range read as zeros and keeps its blocks. False: not possible, nothing has changed. */
  zero(offset: number, length: number): Promise<boolean>;
  /** Whether the byte at `offset` is stored, and where that changes next (at most `limit`). */
  region(offset: number, limit: number): { readonly data: boolean; readonly end: number };
  /** Waits for requests under way and closes. */
  close(): Promise<void>;
}

/** Node takes lengths below 2^31; whole pages of that. */
const MAX_IO = 0x7ffff000;
/** Buffers in one readv or writev: IOV_MAX. */
const MAX_VECTORS = 1024;
/** Hole punching is a blocking call: so much at a time. */
const PUNCH_STEP = 1 << 30;
/** What O_DIRECT asks of offsets and lengths at least. */
const DIRECT_UNIT = 512;
/**
 * Requests up to this size are tried in the host's cache first. That is a copy at memory speed on this thread, a few
 * hundred microseconds for the largest; through the thread pool a MiB takes longer to hand over and back than to copy
 * (bench/devices: sequential reads of 1 MiB at 0.8 GB/s with 256 KiB here, at 4.8 GB/s with 2 MiB).
 */
const MAX_CACHED = 2 << 20;
/**
 * Writes into the host's cache are copies too, unless the host has too much to write back and holds up the writer. One
 * that took so long, in ms, sends those of the next while to the thread pool.
 */
const SLOW_WRITE_MS = 2;
const SLOW_WRITE_PAUSE_MS = 500;
/** File systems without a device below: nothing there is ever waited for (Linux, statfs(2)). */
const TMPFS = 0x01021994;
const RAMFS = 0x858458f6;
/** Misses in a row after which only every so many-th read is tried there. */
const CACHE_MISSES = 16;
/** Refusals (EINVAL) after which O_DIRECT is given up. */
const DIRECT_TRIES = 16;

const DONE: Promise<void> = Promise.resolve();

/** @internal How to open a file. */
export interface OpenFileOptions {
  /** Open for reading only. */
  readonly readOnly: boolean;
  /** Every write is on stable storage when it completes (O_SYNC). */
  readonly sync: boolean;
  /** Go around the host's page cache where requests are aligned (O_DIRECT). */
  readonly noCache: boolean;
  /** Take a lock; off for tools that were told so. */
  readonly lock: boolean;
  /** Open for writing or not at all. */
  readonly mustWrite: boolean;
  /** Takes part in large reads. */
  readonly helper?: ReadHelper | null;
  readonly logger: Logger;
}

/** @internal What the host says of a file. */
export interface FileFacts {
  /** Sector size a block device asks for, or 512. */
  readonly logicalSector: number;
  /** Best I/O size of the file system, or a device's physical sector. */
  readonly blockSize: number;
  readonly isDevice: boolean;
  /** Bytes the host has allocated, or null for devices. */
  readonly allocated: number | null;
}

function flagsOf(o: OpenFileOptions, writable: boolean): number {
  let flags = writable ? fs.constants.O_RDWR : fs.constants.O_RDONLY;
  if (o.sync && writable) flags |= fs.constants.O_SYNC;
  // A FIFO or terminal given by mistake must not hold up the program.
  return flags | fs.constants.O_NONBLOCK;
}

/**
 * @internal Opens a regular file or block device. One that cannot be written is opened for reading, with a warning, as
 * bhyve does.
 * @throws HyveError `BLOCK_FILE`, `BLOCK_LOCKED`
 */
export async function openHostFile(path: string, o: OpenFileOptions): Promise<NodeFile> {
  let fd = -1;
  let writable = !o.readOnly;
  if (writable) {
    try {
      fd = fs.openSync(path, flagsOf(o, true));
    } catch (e) {
      const code = errorCode(e);
      const refused = code === 'EACCES' || code === 'EPERM' || code === 'EROFS' || code === 'ETXTBSY';
      if (!refused || o.mustWrite) throw cannotOpen(path, e);
      writable = false;
      o.logger.warn(`${path}: cannot be opened for writing (${code}); the disk is read-only`);
    }
  }
  try {
    if (fd < 0) fd = fs.openSync(path, flagsOf(o, false));
  } catch (e) {
    throw cannotOpen(path, e);
  }
  try {
    const stat = fs.fstatSync(fd);
    if (!stat.isFile() && !stat.isBlockDevice()) {
      const what = stat.isDirectory() ? 'a directory' : stat.isCharacterDevice() ? 'a character device' : 'no file';
      throw new HyveError('BLOCK_FILE', `${path} is ${what}; a disk is a regular file or a block device`);
    }
    if (stat.isBlockDevice() && writable) {
      const own = claimDevice(path, o);
      fs.closeSync(fd);
      fd = own;
    }
    const calls = loadHostCalls();
    const real = await realpath(path);
    const lock = o.lock
      ? await lockImage(
          { fd, path: real, dev: stat.dev, ino: stat.ino, rdev: stat.rdev, isDevice: stat.isBlockDevice() },
          writable,
          calls,
        )
      : null;
    const sizes = stat.isBlockDevice() ? await deviceSizes(fd, stat.rdev) : null;
    let directFd = -1;
    const direct = fs.constants.O_DIRECT as number | undefined;
    if (o.noCache) {
      try {
        if (direct !== undefined) directFd = fs.openSync(path, flagsOf(o, writable) | direct);
      } catch {
        directFd = -1;
      }
      if (directFd < 0) o.logger.warn(`${path}: nocache is not possible here; the host's cache is used`);
    }
    return new NodeFile({
      path,
      identity: stat.isBlockDevice() ? `device ${stat.rdev}` : `${stat.dev}:${stat.ino}`,
      realPath: real,
      fd,
      directFd,
      writable,
      length: sizes?.size ?? stat.size,
      facts: {
        logicalSector: sizes?.logical ?? 512,
        blockSize: sizes?.physical ?? stat.blksize,
        isDevice: sizes !== null,
        allocated: sizes === null ? stat.blocks * 512 : null,
      },
      calls,
      lock,
      inMemory: sizes === null && isInMemory(path),
      cachedWrites: sizes === null && !o.sync,
      helper: o.helper ?? null,
    });
  } catch (e) {
    fs.closeSync(fd);
    throw e;
  }
}

function isInMemory(path: string): boolean {
  if (process.platform !== 'linux') return false;
  try {
    const { type } = fs.statfsSync(path);
    return type === TMPFS || type === RAMFS;
  } catch {
    return false;
  }
}

/** On Linux O_EXCL on a device is refused while it is mounted, and keeps it from being mounted meanwhile. */
function claimDevice(path: string, o: OpenFileOptions): number {
  const exclusive = process.platform === 'linux' && o.lock ? fs.constants.O_EXCL : 0;
  try {
    return fs.openSync(path, flagsOf(o, true) | exclusive);
  } catch (e) {
    if (errorCode(e) !== 'EBUSY') throw cannotOpen(path, e);
    throw new HyveError('BLOCK_LOCKED', `${path} is mounted or in use by the host; two users would destroy it`, e);
  }
}

function cannotOpen(path: string, e: unknown): HyveError {
  const code = errorCode(e);
  const why = code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'it is a directory' : code;
  return new HyveError('BLOCK_FILE', `cannot open ${path}: ${why}`, e);
}

async function deviceSizes(fd: number, rdev: number): Promise<{ size: number; logical: number; physical: number }> {
  const major = (rdev >>> 8) & 0xfff;
  const minor = (rdev & 0xff) | (Math.floor(rdev / 0x100000) << 8);
  const base = `/sys/dev/block/${major}:${minor}`;
  const number = async (...names: readonly string[]): Promise<number | null> => {
    for (const n of names) {
      const v = Number(await readFile(`${base}/${n}`, 'utf8').catch(() => 'x'));
      if (Number.isSafeInteger(v) && v > 0) return v;
    }
    return null;
  };
  const sectors = await number('size');
  const logical = (await number('queue/logical_block_size', '../queue/logical_block_size')) ?? 512;
  const physical = (await number('queue/physical_block_size', '../queue/physical_block_size')) ?? logical;
  return { size: sectors === null ? probeSize(fd) : sectors * 512, logical, physical };
}

/** Finds the end of a device by reading: doubling, then halving. */
function probeSize(fd: number): number {
  const one = new Uint8Array(512);
  const readable = (sector: number): boolean => {
    try {
      return fs.readSync(fd, one, 0, 512, sector * 512) === 512;
    } catch {
      return false;
    }
  };
  if (!readable(0)) return 0;
  let good = 0;
  let bad = 1;
  while (bad < 2 ** 43 && readable(bad)) {
    good = bad;
    bad *= 2;
  }
  while (bad - good > 1) {
    const mid = Math.floor((good + bad) / 2);
    if (readable(mid)) good = mid;
    else bad = mid;
  }
  return (good + 1) * 512;
}

/** @internal {@link HostFile} on a file descriptor. */
export class NodeFile implements HostFile {
  readonly path: string;
  readonly identity: string;
  readonly realPath: string;
  readonly writable: boolean;
  readonly facts: FileFacts;
  readonly canPunch: boolean;
  length: number;
  private readonly fd: number;
  private readonly calls: HostCalls | null;
  private readonly lock: FileLock | null;
  private readonly syncs: Gate;
  private readonly directFd: number;
  private directTries = DIRECT_TRIES;
  private misses = 0;
  private readonly inMemory: boolean;
  private readonly cachedWrites: boolean;
  private readonly helper: ReadHelper | null;
  /** Until then, ms, writes go to the thread pool. */
  private slowUntil = 0;
  private syncError: unknown = null;
  private busy = 0;
  private idle: (() => void) | null = null;
  private closed = false;

  constructor(o: {
    path: string;
    identity: string;
    realPath: string;
    fd: number;
    directFd: number;
    writable: boolean;
    length: number;
    facts: FileFacts;
    calls: HostCalls | null;
    lock: FileLock | null;
    /** Whether the file lies in the host's memory. */
    inMemory: boolean;
    /** Whether a write may end in the host's cache. */
    cachedWrites: boolean;
    helper: ReadHelper | null;
  }) {
    this.path = o.path;
    this.identity = o.identity;
    this.realPath = o.realPath;
    this.fd = o.fd;
    this.directFd = o.directFd;
    this.writable = o.writable;
    this.length = o.length;
    this.facts = o.facts;
    this.calls = o.calls;
    this.lock = o.lock;
    this.inMemory = o.inMemory;
    this.cachedWrites = o.cachedWrites && o.writable && o.directFd < 0;
    this.helper = o.helper;
    this.canPunch = o.writable && o.calls?.linux === true;
    this.syncs = new Gate(() => this.syncNow());
  }

  private leave(): void {
    if (--this.busy === 0 && this.idle !== null) this.idle();
  }

  private fdFor(offset: number, length: number): number {
    return this.directFd >= 0 && this.directTries > 0 && offset % DIRECT_UNIT === 0 && length % DIRECT_UNIT === 0
      ? this.directFd
      : this.fd;
  }

  /** One system call; resolves to the bytes it moved. */
  private once(write: boolean, fd: number, offset: number, buffers: readonly Uint8Array[]): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.closed) {
        reject(new BlockFault('cancelled', `${this.path} is closed`));
        return;
      }
      this.busy++;
      const done = (e: NodeJS.ErrnoException | null, n: number): void => {
        this.leave();
        if (e !== null) reject(e);
        else resolve(n);
      };
      const first = buffers[0]!;
      try {
        if (buffers.length === 1 || first.length >= MAX_IO) {
          const n = Math.min(first.length, MAX_IO);
          if (write) fs.write(fd, first, 0, n, offset, done);
          else fs.read(fd, first, 0, n, offset, done);
        } else {
          const some = buffers.length > MAX_VECTORS ? buffers.slice(0, MAX_VECTORS) : buffers;
          if (write) fs.writev(fd, some, offset, done);
          else fs.readv(fd, some, offset, done);
        }
      } catch (e) {
        this.leave();
        reject(e); // Node refuses some arguments before it begins
      }
    });
  }

  /** Like {@link NodeFile.once}, around the cache when that is asked for and the kernel takes it. */
  private async step(write: boolean, offset: number, buffers: readonly Uint8Array[], length: number): Promise<number> {
    const fd = this.fdFor(offset, length);
    if (fd === this.fd) return this.once(write, fd, offset, buffers);
    try {
      return await this.once(write, fd, offset, buffers);
    } catch (e) {
      // Unaligned memory, or a file system without direct I/O: the kernel keeps both ways coherent.
      if (errorCode(e) !== 'EINVAL') throw e;
      this.directTries--;
      return this.once(write, this.fd, offset, buffers);
    }
  }

  read(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    const length = totalLength(buffers);
    const beside = this.readBeside(offset, buffers, length);
    if (beside !== null) return beside.then((ok) => (ok ? undefined : this.readLater(offset, buffers, length)));
    return this.readAtOnce(offset, buffers, length) ? DONE : this.readLater(offset, buffers, length);
  }

  /**
   * Reads what the host has in its cache without the thread pool (measured, 4 KiB: 2.6 µs instead of 23 µs). False:
   * not all of it is there.
   */
  readNow(offset: number, buffers: readonly Uint8Array[], length: number): boolean {
    return !this.mayReadBeside(length) && this.readAtOnce(offset, buffers, length);
  }

  private readAtOnce(offset: number, buffers: readonly Uint8Array[], length: number): boolean {
    const c = this.calls;
    if (length > MAX_CACHED || length === 0 || this.directFd >= 0 || this.closed) return false;
    if (this.inMemory)
      return this.readTogether(false, offset, buffers, length) ?? this.moveNow(false, offset, buffers, length);
    if (c === null) return false;
    if (this.misses >= CACHE_MISSES && this.misses++ % CACHE_MISSES !== 0) return false;
    // With help only where the last read found everything.
    const together = this.misses === 0 ? this.readTogether(true, offset, buffers, length) : null;
    if (!(together ?? c.readCached(this.fd, offset, buffers) === length)) {
      this.misses++;
      return false;
    }
    this.misses = 0;
    return true;
  }

  /** A write that the host takes into its cache without the thread pool (measured, 4 KiB: 8 µs instead of 50 to 65 µs). */
  writeNow(offset: number, buffers: readonly Uint8Array[], length: number): boolean {
    if (!this.cachedWrites || length > MAX_CACHED || length === 0 || this.closed) return false;
    if (this.inMemory) return this.wrote(offset, length, this.moveNow(true, offset, buffers, length));
    const before = performance.now();
    if (before < this.slowUntil) return false;
    const all = this.moveNow(true, offset, buffers, length);
    const after = performance.now();
    if (after - before > SLOW_WRITE_MS) this.slowUntil = after + SLOW_WRITE_PAUSE_MS;
    return this.wrote(offset, length, all);
  }

  private wrote(offset: number, length: number, all: boolean): boolean {
    if (all && offset + length > this.length) this.length = offset + length;
    return all;
  }

  /** On two threads, when it is over. Null: not possible, nothing was done. */
  private readTogether(
    cached: boolean,
    offset: number,
    buffers: readonly Uint8Array[],
    length: number,
  ): boolean | null {
    return this.helper?.now(this.fd, cached, offset, buffers, length) ?? null;
  }

  /** On two threads, beside the guest; resolves to false when another way has to be tried. Null: nothing was done. */
  private readBeside(offset: number, buffers: readonly Uint8Array[], length: number): Promise<boolean> | null {
    if (this.helper === null || !this.mayReadBeside(length)) return null;
    const p = this.helper.later(this.fd, !this.inMemory, offset, buffers, length);
    if (p === null) return null;
    this.busy++;
    return p.then((ok) => {
      this.misses = ok ? 0 : this.misses + 1;
      this.leave();
      return ok;
    });
  }

  private mayReadBeside(length: number): boolean {
    return (
      this.helper?.takes(length) === true &&
      this.directFd < 0 &&
      !this.closed &&
      (this.inMemory || (this.calls !== null && this.misses === 0))
    );
  }

  /** A system call on this thread. False: not all of it was done; the way through the thread pool tells why. */
  private moveNow(write: boolean, offset: number, buffers: readonly Uint8Array[], length: number): boolean {
    if (buffers.length > MAX_VECTORS) return false;
    if (!write) return readWhole(this.fd, offset, buffers, length);
    try {
      const one = buffers.length === 1 ? (buffers[0] as Uint8Array) : null;
      return (
        length ===
        (one !== null
          ? fs.writeSync(this.fd, one, 0, length, offset)
          : fs.writevSync(this.fd, buffers as Uint8Array[], offset))
      );
    } catch {
      return false;
    }
  }

  private async readLater(offset: number, buffers: readonly Uint8Array[], length: number): Promise<void> {
    let done = 0;
    while (done < length) {
      const rest = done === 0 ? withoutEmpty(buffers) : slice(buffers, done, length - done);
      const n = await this.step(false, offset + done, rest, length - done);
      if (n === 0) {
        zeroFill(buffers, done, length - done);
        return;
      }
      done += n;
    }
  }

  write(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    const length = totalLength(buffers);
    return this.writeNow(offset, buffers, length) ? DONE : this.writeLater(offset, buffers, length);
  }

  private async writeLater(offset: number, buffers: readonly Uint8Array[], length: number): Promise<void> {
    let done = 0;
    while (done < length) {
      const rest = done === 0 ? withoutEmpty(buffers) : slice(buffers, done, length - done);
      const n = await this.step(true, offset + done, rest, length - done);
      if (n === 0) throw new BlockFault('no-space', `${this.path}: nothing more can be written at ${offset + done}`);
      done += n;
      if (offset + done > this.length) this.length = offset + done;
    }
  }

  sync(): Promise<void> {
    return this.syncs.run();
  }

  private syncNow(): Promise<void> {
    return new Promise((resolve, reject) => {
      // After a failed sync the kernel may have dropped the pages it could not write: no later sync can vouch for them.
      if (this.syncError !== null || this.closed) {
        reject(this.syncError ?? new BlockFault('cancelled', `${this.path} is closed`));
        return;
      }
      if (!this.writable) {
        resolve();
        return;
      }
      this.busy++;
      fs.fdatasync(this.fd, (e) => {
        this.leave();
        if (e === null) resolve();
        else {
          this.syncError = e;
          reject(e);
        }
      });
    });
  }

  truncate(length: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.busy++;
      fs.ftruncate(this.fd, length, (e) => {
        this.leave();
        if (e !== null) reject(e);
        else {
          this.length = length;
          resolve();
        }
      });
    });
  }

  private async inSteps(offset: number, length: number, act: (at: number, n: number) => boolean): Promise<boolean> {
    for (let done = 0; done < length; done += PUNCH_STEP) {
      if (done > 0) await breathe();
      if (this.closed || !act(offset + done, Math.min(PUNCH_STEP, length - done))) {
        if (done === 0) return false;
        throw new BlockFault('io-error', `${this.path}: giving back bytes at ${offset + done} failed midway`);
      }
    }
    return true;
  }

  async punch(offset: number, length: number): Promise<boolean> {
    if (!this.canPunch) return false;
    return this.inSteps(offset, length, (at, n) => (this.calls as HostCalls).punchHole(this.fd, at, n));
  }

  async zero(offset: number, length: number): Promise<boolean> {
    if (!this.canPunch || offset + length > this.length) return false;
    return this.inSteps(offset, length, (at, n) => (this.calls as HostCalls).zeroRange(this.fd, at, n));
  }

  /** Allocates blocks for a range. False: not possible. */
  async allocate(offset: number, length: number): Promise<boolean> {
    if (this.calls === null || !this.calls.allocate(this.fd, offset, length)) return false;
    this.length = Math.max(this.length, offset + length);
    return true;
  }

  region(offset: number, limit: number): { readonly data: boolean; readonly end: number } {
    const c = this.calls;
    if (offset >= this.length && !this.facts.isDevice) return { data: false, end: limit };
    if (c === null || this.facts.isDevice || this.closed) return { data: true, end: limit };
    const data = c.nextData(this.fd, offset);
    if (data === null) return { data: true, end: limit };
    if (data > offset) return { data: false, end: Math.min(limit, data) };
    const hole = c.nextHole(this.fd, offset);
    if (hole === null || hole <= offset) return { data: true, end: limit };
    return { data: true, end: Math.min(limit, hole) };
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    while (this.busy > 0)
      await new Promise<void>((resolve) => {
        this.idle = resolve;
      });
    await this.lock?.release();
    if (this.directFd >= 0) fs.closeSync(this.directFd);
    fs.closeSync(this.fd);
  }
}

function withoutEmpty(buffers: readonly Uint8Array[]): readonly Uint8Array[] {
  for (const b of buffers) if (b.length === 0) return buffers.filter((x) => x.length > 0);
  return buffers;
}
