// One connection to an NBD server after the handshake: requests out, replies taken apart. Replies are simple, structured
// (chunks, holes, errors with a place) or structured with extended headers, as the handshake agreed. Nothing a server sends
// makes it throw, write outside a request's buffers, or keep more than a few KiB of its own.
import type { Socket } from 'node:net';
import process from 'node:process';
import type { BlockStatus } from '@hyve/core';
import { zeroFill } from './buffers.ts';
import { errorCode } from './fault.ts';
import {
  CMD_BLOCK_STATUS,
  CMD_DISC,
  CMD_FLAG_PAYLOAD_LENGTH,
  CMD_READ,
  CMD_WRITE,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_MAGIC,
  type NbdMode,
  REPLY_BLOCK_STATUS,
  REPLY_BLOCK_STATUS_EXTENDED,
  REPLY_ERROR_BIT,
  REPLY_FLAG_DONE,
  REPLY_NONE,
  REPLY_OFFSET_DATA,
  REPLY_OFFSET_HOLE,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './nbd-protocol.ts';

const MAGIC_BYTES = 4;
const SIMPLE_BYTES = 16;
const STRUCTURED_BYTES = 20;
const EXTENDED_BYTES = 32;
/** The offset in front of a chunk's data. */
const OFFSET_BYTES = 8;
const REQUEST_BYTES = 28;
const EXTENDED_REQUEST_BYTES = 32;
/** Bytes of a chunk other than data that are looked at; what follows is passed over. */
const SMALL_BYTES = 16384;
/** Bytes of a chunk other than data at most: a server that describes more than that does not mean to end. */
const MAX_SMALL = 64 << 20;
/** Separate runs of bytes that the chunks of one read may have filled at any time: servers send them in order, or nearly. */
const MAX_RUNS = 256;
/** How long a server that we leave may take to take note, ms. */
const LEAVE_MS = 1000;
const ESHUTDOWN = 108;

/** A run of bytes as the server describes it. */
export interface NbdExtent {
  readonly length: number;
  /** NBD_STATE_HOLE in bit 0, NBD_STATE_ZERO in bit 1. */
  readonly flags: number;
}

/** A request from its making to its answer. */
export interface NbdRequest {
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** Data to send, or to be filled; null for neither. */
  readonly buffers: readonly Uint8Array[] | null;
  readonly resolve: (status: BlockStatus) => void;
  /** How often it was sent. */
  tries: number;
  /** Bytes that have come, of a read. */
  got: number;
  /** Where they are: start and end of each run, as offsets on the disk. */
  runs: number[];
  /** The first error of its chunks, or 0. */
  errno: number;
  /** For CMD_BLOCK_STATUS: the answer. */
  extents: NbdExtent[];
}

/** A request that has not been sent. */
export function newRequest(
  o: Pick<NbdRequest, 'command' | 'flags' | 'offset' | 'length' | 'buffers' | 'resolve'>,
): NbdRequest {
  return { ...o, tries: 0, got: 0, runs: [], errno: 0, extents: [] };
}

function statusOfErrno(errno: number): BlockStatus {
  switch (errno) {
    case 0:
      return 'ok';
    case 1: // EPERM
    case 30: // EROFS
      return 'read-only';
    case 28: // ENOSPC
    case 27: // EFBIG
      return 'no-space';
    case 95: // ENOTSUP
      return 'unsupported';
    default:
      return 'io-error';
  }
}

/** A connection. Every request in `waiting` is either answered or handed to `onLost`, by leaving it there. */
export class NbdConnection {
  readonly socket: Socket;
  readonly mode: NbdMode;
  readonly waiting: Map<number, NbdRequest> = new Map();
  private readonly onLost: (why: string, c: NbdConnection) => void;
  private readonly onAnswer: () => void;
  private readonly header = new Uint8Array(EXTENDED_BYTES + OFFSET_BYTES);
  private readonly headerView = new DataView(this.header.buffer);
  private headerFill = 0;
  private headerNeed = MAGIC_BYTES;
  /** Whose reply or chunk it is, while its payload comes. */
  private current: NbdRequest | null = null;
  private handle = 0;
  private type = 0;
  private done = false;
  /** Bytes of the payload to come; they go into the request's buffers, or into `small`. */
  private payloadLeft = 0;
  private intoBuffers = false;
  private bufferIndex = 0;
  private bufferAt = 0;
  private readonly small = new Uint8Array(SMALL_BYTES);
  private readonly smallView = new DataView(this.small.buffer);
  private smallFill = 0;
  private nextHandle = 1;
  private corked = false;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private heard = false;
  private readonly answerMs: number;
  private lost = false;

  constructor(o: {
    socket: Socket;
    mode: NbdMode;
    answerMs: number;
    onLost: (why: string, c: NbdConnection) => void;
    onAnswer: () => void;
  }) {
    this.socket = o.socket;
    this.mode = o.mode;
    this.answerMs = o.answerMs;
    this.onLost = o.onLost;
    this.onAnswer = o.onAnswer;
    this.socket.on('data', (b: Uint8Array) => this.take(b));
    this.socket.on('error', (e) => this.fail(errorCode(e)));
    this.socket.on('close', () => this.fail('the server closed the connection'));
  }

  fail(why: string): void {
    if (this.lost) return;
    this.lost = true;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    this.socket.destroy();
    this.onLost(why, this);
  }

  /** Says goodbye. */
  leave(): void {
    this.lost = true;
    if (this.timer !== null) clearTimeout(this.timer);
    this.socket.end(this.encode(CMD_DISC, 0, 0, 0, 0));
    // However much it still has to say.
    setTimeout(() => this.socket.destroy(), LEAVE_MS).unref();
  }

  private encode(command: number, flags: number, handle: number, offset: number, length: number): Uint8Array {
    const wide = this.mode.extended;
    const bytes = new Uint8Array(wide ? EXTENDED_REQUEST_BYTES : REQUEST_BYTES);
    const v = new DataView(bytes.buffer);
    v.setUint32(0, wide ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
    v.setUint16(4, wide && command === CMD_WRITE ? flags | CMD_FLAG_PAYLOAD_LENGTH : flags);
    v.setUint16(6, command);
    v.setUint32(12, handle);
    v.setUint32(16, Math.floor(offset / 0x1_0000_0000));
    v.setUint32(20, offset >>> 0);
    if (wide) v.setUint32(24, Math.floor(length / 0x1_0000_0000));
    v.setUint32(wide ? 28 : 24, length >>> 0);
    return bytes;
  }

  send(r: NbdRequest): void {
    const handle = this.nextHandle;
    this.nextHandle = (this.nextHandle + 1) >>> 0 || 1;
    r.tries++;
    r.got = 0;
    r.runs = [];
    r.errno = 0;
    r.extents = [];
    this.waiting.set(handle, r);
    if (!this.corked) {
      this.corked = true;
      this.socket.cork();
      process.nextTick(() => {
        this.corked = false;
        this.socket.uncork();
      });
    }
    this.socket.write(this.encode(r.command, r.flags, handle, r.offset, r.length));
    if (r.command === CMD_WRITE && r.buffers !== null) for (const b of r.buffers) this.socket.write(b);
    if (this.timer === null) this.watch();
  }

  /** No answer, nor a part of one, for a whole period with requests waiting: the server hangs. */
  private watch(): void {
    this.heard = false;
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.waiting.size === 0) return;
      if (this.heard) this.watch();
      else this.fail(`no answer for ${this.answerMs / 1000} seconds`);
    }, this.answerMs);
  }

  // ---- Replies -----------------------------------------------------------------------------------------------------

  private take(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length && !this.lost) {
      if (this.payloadLeft > 0) {
        at += this.intoBuffers ? this.fill(bytes, at) : this.keep(bytes, at);
        if (this.payloadLeft === 0) this.payloadOver();
        continue;
      }
      const n = Math.min(this.headerNeed - this.headerFill, bytes.length - at);
      this.header.set(bytes.subarray(at, at + n), this.headerFill);
      this.headerFill += n;
      at += n;
      if (this.headerFill === this.headerNeed) this.headerGrown();
    }
  }

  /** As much of a header is there as was asked for. */
  private headerGrown(): void {
    const v = this.headerView;
    const magic = v.getUint32(0);
    if (this.headerNeed === MAGIC_BYTES) {
      const { structured, extended } = this.mode;
      if (extended && magic === EXTENDED_REPLY_MAGIC) this.headerNeed = EXTENDED_BYTES;
      else if (structured && !extended && magic === STRUCTURED_REPLY_MAGIC) this.headerNeed = STRUCTURED_BYTES;
      else if (!extended && magic === SIMPLE_REPLY_MAGIC) this.headerNeed = SIMPLE_BYTES;
      else this.fail(`a reply with the magic number 0x${magic.toString(16)}`);
      return;
    }
    const wide = magic === EXTENDED_REPLY_MAGIC;
    const base = wide ? EXTENDED_BYTES : STRUCTURED_BYTES;
    if (this.headerNeed === base + OFFSET_BYTES) {
      this.chunkData(u64(v, base));
      return;
    }
    this.handle = v.getUint32(12);
    const r = v.getUint32(8) === 0 ? this.waiting.get(this.handle) : undefined;
    if (r === undefined) {
      this.fail('a reply to no request');
      return;
    }
    this.current = r;
    if (magic === SIMPLE_REPLY_MAGIC) this.simple(r, v.getUint32(4));
    else this.chunk(r, v.getUint16(4), v.getUint16(6), wide ? u64(v, 24) : v.getUint32(16), base);
  }

  private simple(r: NbdRequest, errno: number): void {
    r.errno = errno;
    this.done = true;
    if (errno !== 0 || r.command !== CMD_READ) {
      if (errno === 0 && r.command === CMD_BLOCK_STATUS) this.fail('a block status without one');
      else this.chunkOver();
    } else if (this.mode.structured) this.fail('a read answered without its chunks');
    else if (!this.refuses(r, r.offset, r.length)) this.beginFill(0, r.length);
  }

  private chunk(r: NbdRequest, flags: number, type: number, length: number, base: number): void {
    this.type = type;
    this.done = (flags & REPLY_FLAG_DONE) !== 0;
    if (type === REPLY_OFFSET_DATA) {
      if (r.command !== CMD_READ || length <= OFFSET_BYTES || length - OFFSET_BYTES > r.length)
        this.fail(`a chunk of ${length} bytes for a request of ${r.length}`);
      else {
        this.payloadLeft = 0;
        this.headerNeed = base + OFFSET_BYTES;
      }
      return;
    }
    if (type === REPLY_NONE) {
      if (length !== 0 || !this.done) this.fail('an empty chunk that is not the last');
      else this.chunkOver();
      return;
    }
    const known =
      (type === REPLY_OFFSET_HOLE && r.command === CMD_READ && length === OFFSET_BYTES + 4) ||
      ((type === REPLY_BLOCK_STATUS || type === REPLY_BLOCK_STATUS_EXTENDED) && r.command === CMD_BLOCK_STATUS) ||
      (type & REPLY_ERROR_BIT) !== 0;
    if (!known || length < 4 || length > MAX_SMALL) {
      this.fail(`a chunk of type ${type} and ${length} bytes`);
      return;
    }
    this.smallFill = 0;
    this.intoBuffers = false;
    this.payloadLeft = length;
  }

  /** The offset of a data chunk is there; its data follows. */
  private chunkData(offset: number): void {
    const r = this.current as NbdRequest;
    const base = this.headerNeed - OFFSET_BYTES;
    const v = this.headerView;
    const n = (base === EXTENDED_BYTES ? u64(v, 24) : v.getUint32(16)) - OFFSET_BYTES;
    if (!this.refuses(r, offset, n)) this.beginFill(offset - r.offset, n);
  }

  /** Whether a chunk of a read is none of its bytes, or has come before. Else it counts as there. */
  private refuses(r: NbdRequest, offset: number, n: number): boolean {
    const end = offset + n;
    if (offset >= r.offset && end <= r.offset + r.length && n > 0 && addRun(r.runs, offset, end)) {
      r.got += n;
      return false;
    }
    this.fail(`bytes ${offset} to ${end} for a read of ${r.length} at ${r.offset}`);
    return true;
  }

  private beginFill(start: number, n: number): void {
    const r = this.current as NbdRequest;
    const buffers = r.buffers as readonly Uint8Array[];
    let skip = start;
    this.bufferIndex = 0;
    while (this.bufferIndex < buffers.length && skip >= (buffers[this.bufferIndex] as Uint8Array).length)
      skip -= (buffers[this.bufferIndex++] as Uint8Array).length;
    this.bufferAt = skip;
    this.type = REPLY_OFFSET_DATA;
    this.intoBuffers = true;
    this.payloadLeft = n;
  }

  private fill(bytes: Uint8Array, at: number): number {
    const buffers = (this.current as NbdRequest).buffers as readonly Uint8Array[];
    let used = 0;
    this.heard = true;
    while (at + used < bytes.length && this.payloadLeft > 0) {
      const b = buffers[this.bufferIndex] as Uint8Array;
      const n = Math.min(b.length - this.bufferAt, bytes.length - at - used, this.payloadLeft);
      b.set(bytes.subarray(at + used, at + used + n), this.bufferAt);
      this.bufferAt += n;
      this.payloadLeft -= n;
      used += n;
      if (this.bufferAt === b.length) {
        this.bufferIndex++;
        this.bufferAt = 0;
      }
    }
    return used;
  }

  private keep(bytes: Uint8Array, at: number): number {
    const n = Math.min(bytes.length - at, this.payloadLeft);
    const kept = Math.min(n, SMALL_BYTES - this.smallFill);
    this.small.set(bytes.subarray(at, at + kept), this.smallFill);
    this.smallFill += kept;
    this.payloadLeft -= n;
    return n;
  }

  private payloadOver(): void {
    const r = this.current as NbdRequest;
    const v = this.smallView;
    if (!this.intoBuffers) {
      if (this.type === REPLY_OFFSET_HOLE) {
        const offset = u64(v, 0);
        const n = v.getUint32(8);
        if (this.refuses(r, offset, n)) return;
        zeroFill(r.buffers as readonly Uint8Array[], offset - r.offset, n);
        this.heard = true;
      } else if ((this.type & REPLY_ERROR_BIT) !== 0) r.errno ||= v.getUint32(0) || 5;
      else this.describe(r, this.type === REPLY_BLOCK_STATUS_EXTENDED);
    }
    this.chunkOver();
  }

  /** Takes the extents of a block status chunk, as many as were kept, up to the end of what was asked for. */
  private describe(r: NbdRequest, wide: boolean): void {
    const v = this.smallView;
    if (v.getUint32(0) !== this.mode.allocation || r.extents.length > 0) return;
    const each = wide ? 16 : 8;
    let left = r.length;
    for (let at = wide ? 8 : 4; at + each <= this.smallFill && left > 0; at += each) {
      const length = wide ? u64(v, at) : v.getUint32(at);
      if (length === 0) return;
      const taken = Math.min(length, left);
      r.extents.push({ length: taken, flags: v.getUint32(at + (wide ? 12 : 4)) });
      left -= taken;
    }
  }

  /** A chunk is complete; with the last one, so is the request. */
  private chunkOver(): void {
    const r = this.current as NbdRequest;
    this.current = null;
    this.headerFill = 0;
    this.headerNeed = MAGIC_BYTES;
    if (r.errno === ESHUTDOWN) {
      this.fail('the server is shutting down');
      return;
    }
    if (!this.done) return;
    if (r.errno === 0 && r.command === CMD_READ && r.got !== r.length) {
      this.fail(`a read of ${r.length} bytes that ends with ${r.got}`);
      return;
    }
    this.heard = true;
    this.waiting.delete(this.handle);
    this.onAnswer();
    r.resolve(statusOfErrno(r.errno));
  }
}

/** Adds a run to a list of disjoint ones. False: part of it is in the list already, or the list is too long. */
function addRun(runs: number[], start: number, end: number): boolean {
  let before = -1;
  let after = -1;
  for (let i = 0; i < runs.length; i += 2) {
    const s = runs[i] as number;
    const e = runs[i + 1] as number;
    if (start < e && s < end) return false;
    if (e === start) before = i;
    if (s === end) after = i;
  }
  if (before >= 0 && after >= 0) {
    runs[before + 1] = runs[after + 1] as number;
    runs.splice(after, 2);
  } else if (before >= 0) runs[before + 1] = end;
  else if (after >= 0) runs[after] = start;
  else if (runs.length >= 2 * MAX_RUNS) return false;
  else runs.push(start, end);
  return true;
}

/** A 64-bit number; what is above 2^53 becomes inexact, and is out of range wherever it is used. */
function u64(v: DataView, at: number): number {
  return v.getUint32(at) * 0x1_0000_0000 + v.getUint32(at + 4);
}
