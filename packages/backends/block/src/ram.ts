// A disk in memory, made of pieces that exist once they are written.
import type { BlockStatus } from '@hyve/core';
import { checkRange, gather, scatter, totalLength, zeroFill } from './buffers.ts';
import { type BlockCounters, Counters, type DiskImage, type Extent } from './image.ts';

const PIECE = 65536;

/** @internal Bytes by piece; pieces never written are zeros. */
export class SparseBytes {
  private readonly pieces = new Map<number, Uint8Array>();

  /** Bytes held. */
  get held(): number {
    return this.pieces.size * PIECE;
  }

  /** Fills the buffers' `length` bytes from `start` on with those at `offset`. */
  read(offset: number, buffers: readonly Uint8Array[], start: number, length: number): void {
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const inPiece = at % PIECE;
      const n = Math.min(PIECE - inPiece, length - done);
      const p = this.pieces.get((at - inPiece) / PIECE);
      if (p === undefined) zeroFill(buffers, start + done, n);
      else scatter(buffers, start + done, p.subarray(inPiece, inPiece + n));
      done += n;
    }
  }

  /** Keeps the buffers' bytes. */
  write(offset: number, buffers: readonly Uint8Array[]): void {
    const length = totalLength(buffers);
    for (let done = 0; done < length; ) {
      const at = offset + done;
      const inPiece = at % PIECE;
      const n = Math.min(PIECE - inPiece, length - done);
      const index = (at - inPiece) / PIECE;
      let p = this.pieces.get(index);
      if (p === undefined) {
        p = new Uint8Array(PIECE);
        this.pieces.set(index, p);
      }
      gather(buffers, done, p.subarray(inPiece, inPiece + n));
      done += n;
    }
  }

  /** Makes a range zero, and gives whole pieces back. */
  clear(offset: number, length: number): void {
    // A range of many pieces that mostly do not exist: look at those that do.
    const first = Math.ceil(offset / PIECE);
    const last = Math.floor((offset + length) / PIECE);
    if (last - first > this.pieces.size) {
      for (const index of [...this.pieces.keys()]) if (index >= first && index < last) this.pieces.delete(index);
    } else for (let i = first; i < last; i++) this.pieces.delete(i);
    const edge = (from: number, to: number): void => {
      if (from < to) this.pieces.get(Math.floor(from / PIECE))?.fill(0, from % PIECE, ((to - 1) % PIECE) + 1);
    };
    const end = offset + length;
    if (first > last) edge(offset, end);
    else {
      edge(offset, Math.min(end, first * PIECE));
      edge(Math.max(offset, last * PIECE), end);
    }
  }

  /** Whether the piece around `offset` exists, and where it ends. */
  region(offset: number): { readonly data: boolean; readonly end: number } {
    const index = Math.floor(offset / PIECE);
    return { data: this.pieces.has(index), end: (index + 1) * PIECE };
  }
}

/** Options of {@link RamDisk}. */
export interface RamDiskOptions {
  /** Bytes, whole sectors. */
  readonly size: number;
  /** 512 (default) or 4096. */
  readonly sectorSize?: number;
  /** For messages. Default `ram`. */
  readonly identity?: string;
  /** Refuse writes. */
  readonly readOnly?: boolean;
}

/**
 * A disk in memory; it takes room as it is written and is gone when closed.
 * @example
 * const disk = new RamDisk({ size: 64 << 20 });
 * await disk.write(0, [bootSector]);
 */
export class RamDisk implements DiskImage {
  readonly format: string = 'ram';
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean = true;
  readonly discardZeroes: boolean = true;
  readonly identity: string;
  size: number;
  private bytes: SparseBytes = new SparseBytes();
  private readonly count: Counters = new Counters();

  constructor(o: RamDiskOptions) {
    this.size = o.size;
    this.sectorSize = o.sectorSize ?? 512;
    this.physicalSectorSize = this.sectorSize;
    this.identity = o.identity ?? 'ram';
    this.readOnly = o.readOnly ?? false;
  }

  readNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    this.count.reads++;
    this.count.readBytes += length;
    this.bytes.read(offset, buffers, 0, length);
    return 'ok';
  }

  async read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    return this.readNow(offset, buffers);
  }

  async write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    return this.writeNow(offset, buffers);
  }

  writeNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    this.count.writes++;
    this.count.writtenBytes += length;
    try {
      this.bytes.write(offset, buffers);
    } catch {
      return 'no-space'; // the host has no memory left
    }
    return 'ok';
  }

  async flush(): Promise<BlockStatus> {
    this.count.flushes++;
    return 'ok';
  }

  async discard(offset: number, length: number): Promise<BlockStatus> {
    this.count.discards++;
    return this.clear(offset, length);
  }

  async writeZeroes(offset: number, length: number, _mayUnmap: boolean): Promise<BlockStatus> {
    this.count.zeroes++;
    return this.clear(offset, length);
  }

  private clear(offset: number, length: number): BlockStatus {
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    this.bytes.clear(offset, length);
    return 'ok';
  }

  async extentAt(offset: number): Promise<Extent | null> {
    if (!(offset >= 0 && offset < this.size)) return null;
    const r = this.bytes.region(offset);
    return {
      offset,
      length: Math.min(r.end, this.size) - offset,
      present: r.data,
      zero: !r.data,
      data: r.data,
      compressed: false,
      depth: 0,
      fileOffset: null,
      file: null,
    };
  }

  async resize(size: number): Promise<void> {
    if (size < this.size) this.bytes.clear(size, this.size - size);
    this.size = size;
  }

  counters(): BlockCounters {
    return this.count.list({ heldBytes: this.bytes.held });
  }

  async close(): Promise<void> {
    this.bytes = new SparseBytes();
  }
}
