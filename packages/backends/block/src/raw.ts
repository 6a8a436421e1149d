// Raw images: the disk's bytes are the file's bytes. Mirrors bhyve's block_if.c, with holes, discard and many requests
// in flight on top.
import { type BlockStatus, HyveError, type Logger } from '@hyve/core';
import { checkRange, totalLength } from './buffers.ts';
import { errorCode, FaultLog } from './fault.ts';
import type { HostFile } from './host-file.ts';
import { type BlockCounters, Counters, type DiskImage, type Extent } from './image.ts';

/** Zeros are written in pieces of this size where the host cannot do it alone. */
const ZERO_PIECE = 1 << 20;

/** @internal Options of {@link RawImage}. */
export interface RawOptions {
  readonly file: HostFile;
  /** Bytes of the disk; the file may end earlier. */
  readonly size: number;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  /** Refuse discards (`nodelete`). */
  readonly noDelete: boolean;
  readonly logger: Logger;
}

/** @internal Writes zeros over a range of a file. */
export async function writeZeros(file: HostFile, offset: number, length: number): Promise<void> {
  const zeros = new Uint8Array(Math.min(length, ZERO_PIECE));
  for (let done = 0; done < length; done += zeros.length)
    await file.write(offset + done, [zeros.subarray(0, Math.min(zeros.length, length - done))]);
}

/** @internal A raw file or block device as a disk. */
export class RawImage implements DiskImage {
  readonly format: string = 'raw';
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  readonly discardZeroes: boolean;
  readonly identity: string;
  size: number;
  private readonly file: HostFile;
  private readonly faults: FaultLog;
  private readonly count: Counters = new Counters();

  constructor(o: RawOptions) {
    this.file = o.file;
    this.size = o.size;
    this.sectorSize = o.sectorSize;
    this.physicalSectorSize = o.physicalSectorSize;
    this.readOnly = !o.file.writable;
    this.canDiscard = o.file.canPunch && !o.noDelete;
    this.discardZeroes = this.canDiscard;
    this.identity = o.file.path;
    this.faults = new FaultLog(o.logger, o.file.path);
  }

  private failed(what: string, e: unknown): BlockStatus {
    this.count.failures++;
    return this.faults.note(what, e);
  }

  async read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    this.count.reads++;
    this.count.readBytes += length;
    try {
      await this.file.read(offset, buffers);
      return 'ok';
    } catch (e) {
      return this.failed('read', e);
    }
  }

  async write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    this.count.writes++;
    this.count.writtenBytes += length;
    try {
      await this.file.write(offset, buffers);
      return 'ok';
    } catch (e) {
      return this.failed('write', e);
    }
  }

  readNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null {
    const length = totalLength(buffers);
    if (checkRange(this, offset, length) !== 'ok' || this.file.readNow?.(offset, buffers, length) !== true) return null;
    this.count.reads++;
    this.count.readBytes += length;
    return 'ok';
  }

  writeNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null {
    const length = totalLength(buffers);
    if (this.readOnly || checkRange(this, offset, length) !== 'ok') return null;
    if (this.file.writeNow?.(offset, buffers, length) !== true) return null;
    this.count.writes++;
    this.count.writtenBytes += length;
    return 'ok';
  }

  async flush(): Promise<BlockStatus> {
    this.count.flushes++;
    try {
      await this.file.sync();
      return 'ok';
    } catch (e) {
      return this.failed('flush', e);
    }
  }

  async discard(offset: number, length: number): Promise<BlockStatus> {
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    if (!this.canDiscard) return 'unsupported';
    this.count.discards++;
    if (length === 0) return 'ok';
    try {
      return (await this.file.punch(offset, length)) ? 'ok' : 'unsupported';
    } catch (e) {
      return this.failed('discard', e);
    }
  }

  async writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<BlockStatus> {
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    this.count.zeroes++;
    if (length === 0) return 'ok';
    try {
      if (mayUnmap && this.canDiscard && (await this.file.punch(offset, length))) return 'ok';
      if (await this.file.zero(offset, length)) return 'ok';
      await writeZeros(this.file, offset, length);
      return 'ok';
    } catch (e) {
      return this.failed('write of zeros', e);
    }
  }

  async extentAt(offset: number): Promise<Extent | null> {
    if (!(offset >= 0 && offset < this.size)) return null;
    const r = this.file.region(offset, this.size);
    return {
      offset,
      length: r.end - offset,
      present: true,
      zero: !r.data,
      data: r.data,
      compressed: false,
      depth: 0,
      fileOffset: offset,
      file: this.file.path,
    };
  }

  async resize(size: number, o: { readonly shrink?: boolean } = {}): Promise<void> {
    if (this.readOnly) throw new HyveError('BLOCK_RESIZE', `${this.identity} is read-only`);
    if (!Number.isSafeInteger(size) || size <= 0 || size % this.sectorSize !== 0)
      throw new HyveError(
        'BLOCK_RESIZE',
        `${this.identity}: ${size} bytes are not whole sectors of ${this.sectorSize}`,
      );
    if (size < this.size && o.shrink !== true)
      throw new HyveError(
        'BLOCK_RESIZE',
        `${this.identity}: shrinking to ${size} bytes loses data; it must be asked for`,
      );
    try {
      await this.file.truncate(size);
      await this.file.sync();
    } catch (e) {
      throw new HyveError('BLOCK_RESIZE', `${this.identity} cannot become ${size} bytes: ${errorCode(e)}`, e);
    }
    this.size = size;
  }

  counters(): BlockCounters {
    return this.count.list();
  }

  async close(): Promise<void> {
    await this.flush();
    await this.file.close();
  }
}
