// The NVM command set (NVMe 1.4 §6) over one back end. Every command is a request from a fixed pool; a request takes as many
// steps in the back end as its work needs, one after the other, and ends in one status.
import type { BlockBackend, BlockStatus, DmaMemory, Segments } from '@hyve/core';
import {
  DNR,
  DSM_DEALLOCATE,
  IO_COMPARE,
  IO_DSM,
  IO_FLUSH,
  IO_READ,
  IO_VERIFY,
  IO_WRITE,
  IO_WRITE_ZEROES,
  NSID_ALL,
  PAGE,
  RW_FUA,
  SC_COMPARE,
  SC_INTERNAL,
  SC_INVALID_FIELD,
  SC_INVALID_NAMESPACE,
  SC_INVALID_OPCODE,
  SC_LBA_RANGE,
  SC_READ_ERROR,
  SC_SUCCESS,
  SC_WRITE_FAULT,
  SC_WRITE_PROTECTED,
  SQE_CDW10,
  SQE_CDW11,
  SQE_CDW12,
  SQE_DPTR,
  SQE_NSID,
  WZ_DEAC,
} from './bits.ts';
import { mapPrp, mapSgl } from './data-pointer.ts';
import { MDTS } from './identify.ts';
import {
  OP_COMPARE,
  OP_DISCARD,
  OP_FLUSH,
  OP_FORMAT,
  OP_READ,
  OP_SHUTDOWN,
  OP_VERIFY,
  OP_WRITE,
  OP_ZERO,
  Request,
} from './queues.ts';

/** A status meaning: not yet. */
export const PENDING = -1;

const MAX_TRANSFER = 2 ** MDTS * PAGE;
/** Bytes read at once to verify, into one buffer for all, and to compare, into one for each request. */
const VERIFY_BYTES = 64 << 10;
const COMPARE_BYTES = 16 << 10;
/** Bytes zeroed at once by FORMAT. */
const FORMAT_STEP = 2 ** 30;
const MAX_RANGES = 256;
const RANGE_BYTES = 16;
const TWO_32 = 0x1_0000_0000;

/** What the engine needs of its controller. @internal */
export interface IoHost {
  readonly dma: DmaMemory;
  /** Whether writes need a flush each. */
  readonly writeThrough: boolean;
  /** A request that returned {@link PENDING} is over. */
  requestDone(r: Request, status: number): void;
  /** A cancelled request has left the back end. */
  orphanDone(r: Request): void;
}

/** Executes I/O commands. @internal */
export class IoEngine {
  readonly backend: BlockBackend;
  /** log2 of the block size. */
  readonly shift: number;
  readonly dsm: boolean;
  /** Blocks of the namespace. */
  blocks: number;
  /** Requests that the back end has. */
  inFlight = 0;
  /** Requests in flight that nobody waits for. */
  orphans = 0;
  bytesRead = 0;
  bytesWritten = 0;
  readCommands = 0;
  writeCommands = 0;
  flushes = 0;
  discards = 0;
  mediaErrors = 0;

  private readonly host: IoHost;
  private readonly all: Request[] = [];
  private readonly free: Request[] = [];
  private verifyBuffer: Uint8Array | null = null;
  private readonly rangeList: Uint8Array = new Uint8Array(MAX_RANGES * RANGE_BYTES);

  constructor(o: { host: IoHost; backend: BlockBackend; blockSize: number; dsm: boolean; slots: number }) {
    this.host = o.host;
    this.backend = o.backend;
    this.shift = Math.log2(o.blockSize);
    this.dsm = o.dsm;
    this.blocks = 0;
    this.measure();
    for (let i = 0; i < o.slots; i++) this.free.push(this.make());
  }

  /** A request of the owner's, outside the pool. */
  make(): Request {
    const r = new Request((x, status) => this.stepDone(x, status));
    this.all.push(r);
    return r;
  }

  /** Takes the size from the back end; true if it has changed. */
  measure(): boolean {
    const before = this.blocks;
    this.blocks = Math.floor(this.backend.size / 2 ** this.shift);
    return this.blocks !== before;
  }

  /** A request to use, or null while all are in use. */
  take(): Request | null {
    return this.free.pop() ?? null;
  }

  /** Gives a request back to the pool. */
  release(r: Request): void {
    r.sq = null;
    r.segments.clear();
    this.free.push(r);
  }

  /** Takes all requests away from their queues. */
  cancelAll(): void {
    for (const r of this.all) {
      if (r.busy && !r.cancelled) {
        r.cancelled = true;
        this.orphans++;
      }
    }
  }

  // ---- Commands ----------------------------------------------------------------------------------------------------

  /** Starts the command at `sqe` of guest memory: a status, or {@link PENDING}. `dw0` is its first doubleword. */
  execute(r: Request, sqe: number, dw0: number): number {
    const dma = this.host.dma;
    const opcode = dw0 & 0xff;
    const nsid = dma.read32(sqe + SQE_NSID);
    if ((dw0 & 0x300) !== 0) return SC_INVALID_FIELD | DNR; // no fused commands
    if (nsid !== 1 && !(opcode === IO_FLUSH && nsid === NSID_ALL)) return SC_INVALID_NAMESPACE | DNR;
    r.durable = false;
    r.unmap = false;
    r.cancelled = false;
    r.start = 0;
    switch (opcode) {
      case IO_READ:
        return this.range(r, sqe, dw0, OP_READ);
      case IO_WRITE:
        return this.range(r, sqe, dw0, OP_WRITE);
      case IO_FLUSH:
        this.flushes++;
        return this.begin(r, OP_FLUSH, 0, 0);
      case IO_COMPARE:
        return this.range(r, sqe, dw0, OP_COMPARE);
      case IO_WRITE_ZEROES:
        return this.range(r, sqe, dw0, OP_ZERO);
      case IO_VERIFY:
        return this.range(r, sqe, dw0, OP_VERIFY);
      case IO_DSM:
        return this.dsm ? this.deallocate(r, sqe, dw0) : SC_INVALID_OPCODE | DNR;
      default:
        return SC_INVALID_OPCODE | DNR;
    }
  }

  /** Commands with an LBA range: SLBA in CDW10-11, zero-based count in CDW12. */
  private range(r: Request, sqe: number, dw0: number, op: number): number {
    const dma = this.host.dma;
    const slba = dma.read32(sqe + SQE_CDW11) * TWO_32 + dma.read32(sqe + SQE_CDW10);
    const dw12 = dma.read32(sqe + SQE_CDW12);
    const count = (dw12 & 0xffff) + 1;
    const size = 2 ** this.shift;
    const length = count * size;
    const writing = op === OP_WRITE || op === OP_ZERO;
    r.start = slba * size;
    if (slba + count > this.blocks) return SC_LBA_RANGE | DNR;
    if (writing) {
      if (this.backend.readOnly) return SC_WRITE_PROTECTED | DNR;
      r.durable = (dw12 & RW_FUA) !== 0 || this.host.writeThrough;
      r.unmap = (dw12 & WZ_DEAC) !== 0;
    }
    if (op === OP_READ || op === OP_WRITE || op === OP_COMPARE) {
      if (length > MAX_TRANSFER) return SC_INVALID_FIELD | DNR;
      const status = this.map(r.segments, sqe, dw0, length, op === OP_READ);
      if (status !== SC_SUCCESS) return status;
    }
    if (writing) this.writeCommands++;
    else this.readCommands++;
    return this.begin(r, op, slba * size, length);
  }

  /** Maps a command's data pointer, whichever kind it is. */
  map(s: Segments, sqe: number, dw0: number, length: number, toGuest: boolean): number {
    const dma = this.host.dma;
    switch ((dw0 >>> 14) & 3) {
      case 0:
        return mapPrp(s, dma, sqe + SQE_DPTR, length, toGuest);
      case 1:
      case 2:
        return mapSgl(s, dma, sqe + SQE_DPTR, length, toGuest);
      default:
        return SC_INVALID_FIELD | DNR;
    }
  }

  private deallocate(r: Request, sqe: number, dw0: number): number {
    if (this.backend.readOnly) return SC_WRITE_PROTECTED | DNR;
    const dma = this.host.dma;
    const count = (dma.read32(sqe + SQE_CDW10) & 0xff) + 1;
    const status = this.map(r.segments, sqe, dw0, count * RANGE_BYTES, false);
    if (status !== SC_SUCCESS) return status;
    const list = this.rangeList;
    r.ranges ??= new Float64Array(MAX_RANGES * 2);
    r.segments.copyOut(list);
    r.segments.clear();
    r.rangeCount = 0;
    r.rangeNext = 0;
    if ((dma.read32(sqe + SQE_CDW11) & DSM_DEALLOCATE) === 0) return SC_SUCCESS;
    const size = 2 ** this.shift;
    for (let i = 0; i < count; i++) {
      const o = i * RANGE_BYTES;
      const length = le32(list, o + 4);
      const slba = le32(list, o + 12) * TWO_32 + le32(list, o + 8);
      if (slba + length > this.blocks) return SC_LBA_RANGE | DNR;
      if (length === 0) continue;
      r.ranges[r.rangeCount * 2] = slba * size;
      r.ranges[r.rangeCount * 2 + 1] = length * size;
      r.rangeCount++;
    }
    if (r.rangeCount === 0) return SC_SUCCESS;
    this.discards++;
    return this.begin(r, OP_DISCARD, 0, 0);
  }

  // ---- Steps -------------------------------------------------------------------------------------------------------

  /** Starts a request's first step. */
  begin(r: Request, op: number, offset: number, length: number): number {
    r.op = op;
    r.offset = offset;
    r.start = offset;
    r.left = length;
    r.cancelled = false;
    return this.step(r);
  }

  /** One request to the back end: {@link PENDING}, or what came of it at once. */
  private step(r: Request): number {
    const b = this.backend;
    let request: Promise<BlockStatus>;
    r.chunk = r.left;
    switch (r.op) {
      case OP_READ: {
        const now = b.readNow?.(r.offset, r.segments.views) ?? null;
        if (now !== null) return this.ended(r, now);
        request = b.read(r.offset, r.segments.views);
        break;
      }
      case OP_WRITE: {
        const now = b.writeNow?.(r.offset, r.segments.views) ?? null;
        if (now !== null) return this.ended(r, now);
        request = b.write(r.offset, r.segments.views);
        break;
      }
      case OP_VERIFY:
        this.verifyBuffer ??= new Uint8Array(VERIFY_BYTES);
        request = this.readScratch(r, this.verifyBuffer);
        break;
      case OP_COMPARE:
        r.scratch ??= new Uint8Array(COMPARE_BYTES);
        request = this.readScratch(r, r.scratch);
        break;
      case OP_ZERO:
        request = b.writeZeroes(r.offset, r.left, r.unmap);
        break;
      case OP_FORMAT:
        r.chunk = Math.min(r.left, FORMAT_STEP);
        request = b.writeZeroes(r.offset, r.chunk, true);
        break;
      case OP_DISCARD: {
        const ranges = r.ranges as Float64Array;
        r.offset = ranges[r.rangeNext * 2] as number;
        r.chunk = 0;
        request = b.discard(r.offset, ranges[r.rangeNext * 2 + 1] as number);
        r.rangeNext++;
        break;
      }
      default: // OP_FLUSH, OP_SHUTDOWN
        request = b.flush();
        break;
    }
    r.busy = true;
    this.inFlight++;
    request.then(r.done, r.failed);
    return PENDING;
  }

  /** The back end is done with a step: what comes of it. */
  private ended(r: Request, status: BlockStatus): number {
    if (status !== 'ok') return this.failure(r, status);
    if (r.op === OP_READ) r.segments.dirty(this.host.dma);
    return this.advance(r);
  }

  private readScratch(r: Request, scratch: Uint8Array): Promise<BlockStatus> {
    r.chunk = Math.min(r.left, scratch.length);
    r.scratchViews.length = 0;
    r.scratchViews.push(scratch.subarray(0, r.chunk));
    return this.backend.read(r.offset, r.scratchViews);
  }

  private stepDone(r: Request, status: BlockStatus): void {
    r.busy = false;
    this.inFlight--;
    if (r.cancelled) {
      if (r.op === OP_READ && status === 'ok') r.segments.dirty(this.host.dma);
      this.orphans--;
      this.host.orphanDone(r);
      return;
    }
    const result = this.ended(r, status);
    if (result !== PENDING) this.host.requestDone(r, result);
  }

  private advance(r: Request): number {
    if (r.op === OP_READ) this.bytesRead += r.chunk;
    else if (r.op === OP_WRITE) this.bytesWritten += r.chunk;
    else if (r.op === OP_COMPARE && !r.segments.equals(r.offset - r.start, r.scratch as Uint8Array, r.chunk))
      return SC_COMPARE | DNR;
    r.offset += r.chunk;
    r.left -= r.chunk;
    if (r.left > 0 || (r.op === OP_DISCARD && r.rangeNext < r.rangeCount)) {
      return this.step(r);
    }
    if (r.durable) {
      r.durable = false;
      r.op = OP_FLUSH;
      return this.step(r);
    }
    return SC_SUCCESS;
  }

  private failure(r: Request, status: BlockStatus): number {
    switch (status) {
      case 'out-of-range':
        return SC_LBA_RANGE | DNR;
      case 'read-only':
        return SC_WRITE_PROTECTED | DNR;
      case 'unsupported':
        return r.op === OP_DISCARD ? SC_SUCCESS : SC_INVALID_OPCODE | DNR; // deallocating is a hint
      case 'cancelled':
        return SC_INTERNAL;
      default:
        this.mediaErrors++;
        return r.op === OP_READ || r.op === OP_VERIFY || r.op === OP_COMPARE ? SC_READ_ERROR : SC_WRITE_FAULT;
    }
  }

  /** Has the back end flushed for a shutdown. */
  flushForShutdown(r: Request): void {
    r.durable = false;
    this.begin(r, OP_SHUTDOWN, 0, 0);
  }

  /** Zeroes the whole namespace. */
  format(r: Request): number {
    r.durable = true;
    return this.begin(r, OP_FORMAT, 0, this.blocks * 2 ** this.shift);
  }
}

function le32(b: Uint8Array, o: number): number {
  return (
    ((b[o] as number) | ((b[o + 1] as number) << 8) | ((b[o + 2] as number) << 16) | ((b[o + 3] as number) << 24)) >>> 0
  );
}
