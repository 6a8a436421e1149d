// Calls that Node's fs module lacks, through node:ffi where there is one (Node 26 and later): holes, data maps and locks.
// Everything here has a plain fallback in its callers. Not on macOS: its fcntl is variadic, which node:ffi cannot call
// on arm64; only flock is used there.
import process from 'node:process';

interface RawCalls {
  flock(fd: number, operation: number): number;
  getpid(): number;
  fallocate?(fd: number, mode: number, offset: bigint, length: bigint): number;
  lseek?(fd: number, offset: bigint, whence: number): bigint;
  fcntl?(fd: number, command: number, lock: Uint8Array): number;
  __errno_location?(): bigint;
}

interface ReadCalls {
  preadv2(fd: number, vectors: Uint8Array, count: number, offset: bigint, flags: number): bigint;
}

interface Ffi {
  dlopen(path: string | null, definitions: object): { functions: object };
  getInt32(pointer: bigint, offset?: number): number;
  getRawPointer(bytes: Uint8Array): bigint;
}

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
/** struct flock of 64-bit Linux: i16 type, i16 whence, pad, i64 start, i64 length, i32 pid, pad. */
const FLOCK_BYTES = 32;
const RWF_NOWAIT = 8;
/** Buffers in one {@link HostCalls.readCached}. */
const MAX_CACHED_VECTORS = 512;
const ENXIO = 6;
const EAGAIN = 11;
const EACCES = 13;

/** @internal What became of a lock call: taken, in use by another, or not possible on this file system. */
export type LockResult = 'taken' | 'busy' | 'unsupported';

/** @internal The calls, bound to this process. */
export interface HostCalls {
  /** Whether {@link HostCalls.punchHole} and the other Linux calls are there. */
  readonly linux: boolean;
  /** Gives back the range's blocks; it reads as zeros. False: this file cannot. */
  punchHole(fd: number, offset: number, length: number): boolean;
  /** Makes the range read as zeros and keeps its blocks. False: this file cannot. */
  zeroRange(fd: number, offset: number, length: number): boolean;
  /** Allocates blocks for the range; it reads as zeros where it was a hole. False: cannot. */
  allocate(fd: number, offset: number, length: number): boolean;
  /** First byte at or after `offset` that is data, Infinity when there is none, null when unknown. */
  nextData(fd: number, offset: number): number | null;
  /** First byte at or after `offset` that is in a hole (the end of file counts), null when unknown. */
  nextHole(fd: number, offset: number): number | null;
  /** Locks the whole file, shared or exclusive, for this open file description (BSD semantics). */
  flock(fd: number, exclusive: boolean): boolean;
  /** Locks one byte, shared, for this open file description. */
  lockByte(fd: number, at: number): LockResult;
  /** Gives one byte back. */
  unlockByte(fd: number, at: number): void;
  /** Whether another open file description holds a lock on the byte. */
  byteIsLocked(fd: number, at: number): boolean;
  /**
   * Fills the buffers from the host's page cache without ever waiting for a device (preadv2 with RWF_NOWAIT).
   * @returns bytes read, which may be fewer than there is room for; -1 when it would have to wait or cannot be done
   */
  readCached(fd: number, offset: number, buffers: readonly Uint8Array[]): number;
}

function signature(args: readonly string[], result: string): object {
  // The names of these properties changed between releases of Node 26.
  return { arguments: args, parameters: args, return: result, result };
}

/** @internal Loads the calls; null where Node has no node:ffi or it does not work. */
export function loadHostCalls(): HostCalls | null {
  const linux = process.platform === 'linux' && (process.arch === 'x64' || process.arch === 'arm64');
  if (!linux && process.platform !== 'darwin' && process.platform !== 'freebsd') return null;
  const emitWarning = process.emitWarning;
  try {
    process.emitWarning = () => {}; // node:ffi announces itself on the terminal otherwise
    const ffi = process.getBuiltinModule('node:ffi') as Ffi | undefined;
    if (ffi === undefined) return null;
    const definitions: Record<string, object> = {
      flock: signature(['i32', 'i32'], 'i32'),
      getpid: signature([], 'i32'),
    };
    if (linux) {
      definitions['fallocate'] = signature(['i32', 'i32', 'i64', 'i64'], 'i32');
      definitions['lseek'] = signature(['i32', 'i64', 'i32'], 'i64');
      // Variadic in C; on 64-bit Linux a pointer goes into the same register either way.
      definitions['fcntl'] = signature(['i32', 'i32', 'buffer'], 'i32');
      definitions['__errno_location'] = signature([], 'pointer');
    }
    const functions = ffi.dlopen(null, definitions).functions as RawCalls;
    if (functions.getpid() !== process.pid) return null;
    return new Calls(functions, ffi, linux, linux ? loadReadCalls(ffi) : null);
  } catch {
    return null;
  } finally {
    process.emitWarning = emitWarning;
  }
}

/** Not every C library has it. */
function loadReadCalls(ffi: Ffi): ReadCalls | null {
  try {
    const definition = { preadv2: signature(['i32', 'buffer', 'i32', 'i64', 'i32'], 'i64') };
    return ffi.dlopen(null, definition).functions as ReadCalls;
  } catch {
    return null;
  }
}

class Calls implements HostCalls {
  readonly linux: boolean;
  private readonly raw: RawCalls;
  private readonly ffi: Ffi;
  private readonly lock = new Uint8Array(FLOCK_BYTES);
  private readonly lockView: DataView = new DataView(this.lock.buffer);
  private readonly reader: ReadCalls | null;
  /** struct iovec of 64-bit systems: address and length, 64 bits each, as halves. */
  private readonly vectors: Uint32Array = new Uint32Array(MAX_CACHED_VECTORS * 4);
  private readonly vectorBytes: Uint8Array = new Uint8Array(this.vectors.buffer);
  /** Where buffers are in memory; they do not move while they exist. */
  private readonly addresses = new WeakMap<ArrayBufferLike, number>();

  constructor(raw: RawCalls, ffi: Ffi, linux: boolean, reader: ReadCalls | null) {
    this.raw = raw;
    this.reader = reader;
    this.ffi = ffi;
    this.linux = linux;
  }

  private errno(): number {
    const at = this.raw.__errno_location;
    return at === undefined ? 0 : this.ffi.getInt32(at(), 0);
  }

  private fall(fd: number, mode: number, offset: number, length: number): boolean {
    if (this.raw.fallocate === undefined || length <= 0) return false;
    return this.raw.fallocate(fd, mode, BigInt(offset), BigInt(length)) === 0;
  }

  punchHole(fd: number, offset: number, length: number): boolean {
    return this.fall(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
  }

  zeroRange(fd: number, offset: number, length: number): boolean {
    return this.fall(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
  }

  allocate(fd: number, offset: number, length: number): boolean {
    return this.fall(fd, 0, offset, length);
  }

  nextData(fd: number, offset: number): number | null {
    if (this.raw.lseek === undefined) return null;
    const at = Number(this.raw.lseek(fd, BigInt(offset), SEEK_DATA));
    if (at >= 0) return at;
    return this.errno() === ENXIO ? Number.POSITIVE_INFINITY : null;
  }

  nextHole(fd: number, offset: number): number | null {
    if (this.raw.lseek === undefined) return null;
    const at = Number(this.raw.lseek(fd, BigInt(offset), SEEK_HOLE));
    return at >= 0 ? at : null;
  }

  flock(fd: number, exclusive: boolean): boolean {
    return this.raw.flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) === 0;
  }

  private prepare(type: number, at: number): void {
    this.lock.fill(0);
    this.lockView.setInt16(0, type, true);
    this.lockView.setUint32(8, at, true);
    this.lockView.setUint32(16, 1, true);
  }

  lockByte(fd: number, at: number): LockResult {
    if (this.raw.fcntl === undefined) return 'unsupported';
    this.prepare(F_RDLCK, at);
    if (this.raw.fcntl(fd, F_OFD_SETLK, this.lock) === 0) return 'taken';
    const e = this.errno();
    return e === EAGAIN || e === EACCES ? 'busy' : 'unsupported';
  }

  unlockByte(fd: number, at: number): void {
    if (this.raw.fcntl === undefined) return;
    this.prepare(F_UNLCK, at);
    this.raw.fcntl(fd, F_OFD_SETLK, this.lock);
  }

  byteIsLocked(fd: number, at: number): boolean {
    if (this.raw.fcntl === undefined) return false;
    this.prepare(F_WRLCK, at);
    if (this.raw.fcntl(fd, F_OFD_GETLK, this.lock) !== 0) return false;
    return this.lockView.getInt16(0, true) !== F_UNLCK;
  }

  private addressOf(bytes: Uint8Array): number {
    let base = this.addresses.get(bytes.buffer);
    if (base === undefined) {
      base = Number(this.ffi.getRawPointer(new Uint8Array(bytes.buffer)));
      this.addresses.set(bytes.buffer, base);
    }
    return base + bytes.byteOffset;
  }

  readCached(fd: number, offset: number, buffers: readonly Uint8Array[]): number {
    if (this.reader === null || buffers.length > MAX_CACHED_VECTORS) return -1;
    const v = this.vectors;
    let i = 0;
    for (const b of buffers) {
      const address = this.addressOf(b);
      v[i++] = address >>> 0;
      v[i++] = Math.floor(address / 0x1_0000_0000);
      v[i++] = b.length;
      v[i++] = 0;
    }
    // The one bigint here is what node:ffi asks for; the call is still ten times faster than a trip to the thread pool.
    return Number(this.reader.preadv2(fd, this.vectorBytes, buffers.length, BigInt(offset), RWF_NOWAIT));
  }
}
