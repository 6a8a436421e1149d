// A disk on an NBD server: TCP, UNIX sockets, TLS. Many requests in flight; a lost server is looked for again and gets
// every request that it has not answered. A server that breaks the protocol is treated as lost.
import { readFileSync } from 'node:fs';
import { isIP, connect as netConnect, type Socket } from 'node:net';
import process from 'node:process';
import { connect as tlsConnect } from 'node:tls';
import { type BlockStatus, HyveError, type Logger } from '@hyve/core';
import { Jobs } from './async.ts';
import { checkRange, slice, totalLength } from './buffers.ts';
import { BlockFault, errorCode, FaultLog } from './fault.ts';
import { type BlockCounters, Counters, type DiskImage, type Extent } from './image.ts';
import {
  CMD_DISC,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  FLAG_READ_ONLY,
  FLAG_SEND_FLUSH,
  FLAG_SEND_FUA,
  FLAG_SEND_TRIM,
  FLAG_SEND_WRITE_ZEROES,
  handshake,
  type NbdAddress,
  type NbdExport,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
} from './nbd-protocol.ts';

/** Bytes of data in one request at most, whatever the server allows. */
const MAX_REQUEST = 8 << 20;
/** Bytes of one trim or write of zeros at most. */
const MAX_RANGE = 1 << 30;
const REPLY_BYTES = 16;
const REQUEST_BYTES = 28;
/** How often one request is sent before it fails: one that makes the server die must not do so for ever. */
const MOST_TRIES = 5;
/** After so many lost connections the requests go one at a time, so that the guilty one is found. */
const TRIES_TOGETHER = 2;
const FIRST_RETRY_MS = 50;
const LAST_RETRY_MS = 1000;

/** TLS material, PEM. */
export interface NbdTls {
  /** Authorities; null: those of the system. */
  readonly ca: string | Uint8Array | null;
  readonly cert: string | Uint8Array | null;
  readonly key: string | Uint8Array | null;
  /** The name the server's certificate must have; null: the host. */
  readonly hostname: string | null;
}

/** Options of {@link NbdDisk.open}. */
export interface NbdOptions {
  readonly address: NbdAddress;
  readonly tls: NbdTls;
  readonly readOnly: boolean;
  readonly noDelete: boolean;
  /** Every completed write is on stable storage. */
  readonly sync: boolean;
  /** 512 or 4096; null: the server's smallest, at least 512. */
  readonly sectorSize: number | null;
  readonly physicalSectorSize: number | null;
  /** Seconds a lost server is waited for before requests fail; it is looked for even then. Default 20. */
  readonly reconnectSeconds?: number | null;
  /** Seconds a connected server may take for an answer. Default 30. */
  readonly answerSeconds?: number;
  readonly logger: Logger;
}

interface Request {
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** Data to send, or to be filled; null for neither. */
  readonly buffers: readonly Uint8Array[] | null;
  readonly resolve: (status: BlockStatus) => void;
  tries: number;
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
const ESHUTDOWN = 108;

/** One connection: sends requests, takes replies apart. */
class Connection {
  readonly socket: Socket;
  readonly waiting = new Map<number, Request>();
  private readonly onLost: (why: string, c: Connection) => void;
  private readonly onAnswer: () => void;
  private readonly header = new Uint8Array(REPLY_BYTES);
  private readonly headerView = new DataView(this.header.buffer);
  private headerFill = 0;
  private current: Request | null = null;
  private filled = 0;
  private bufferIndex = 0;
  private bufferAt = 0;
  private nextHandle = 1;
  private corked = false;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private heard = false;
  private readonly answerMs: number;
  private lost = false;

  constructor(o: {
    socket: Socket;
    answerMs: number;
    onLost: (why: string, c: Connection) => void;
    onAnswer: () => void;
  }) {
    this.socket = o.socket;
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
    this.socket.on('error', () => {});
    this.socket.end(this.encode(CMD_DISC, 0, 0, 0, 0));
    this.socket.setTimeout(1000, () => this.socket.destroy());
  }

  private encode(command: number, flags: number, handle: number, offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(REQUEST_BYTES);
    const v = new DataView(bytes.buffer);
    v.setUint32(0, REQUEST_MAGIC);
    v.setUint16(4, flags);
    v.setUint16(6, command);
    v.setUint32(12, handle);
    v.setUint32(16, Math.floor(offset / 0x1_0000_0000));
    v.setUint32(20, offset >>> 0);
    v.setUint32(24, length);
    return bytes;
  }

  send(r: Request): void {
    const handle = this.nextHandle;
    this.nextHandle = (this.nextHandle + 1) >>> 0 || 1;
    r.tries++;
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

  /** Nothing heard for a whole period with requests waiting: the server hangs. */
  private watch(): void {
    this.heard = false;
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.waiting.size === 0) return;
      if (this.heard) this.watch();
      else this.fail(`no answer for ${this.answerMs / 1000} seconds`);
    }, this.answerMs);
  }

  private take(bytes: Uint8Array): void {
    this.heard = true;
    let at = 0;
    while (at < bytes.length && !this.lost) {
      if (this.current === null) {
        const n = Math.min(REPLY_BYTES - this.headerFill, bytes.length - at);
        this.header.set(bytes.subarray(at, at + n), this.headerFill);
        this.headerFill += n;
        at += n;
        if (this.headerFill === REPLY_BYTES) {
          this.headerFill = 0;
          this.reply();
        }
        continue;
      }
      at += this.fill(this.current, bytes, at);
    }
  }

  private reply(): void {
    const v = this.headerView;
    if (v.getUint32(0) !== SIMPLE_REPLY_MAGIC) {
      this.fail(`a reply with the magic number 0x${v.getUint32(0).toString(16)}`);
      return;
    }
    const handle = v.getUint32(12);
    const r = v.getUint32(8) === 0 ? this.waiting.get(handle) : undefined;
    if (r === undefined) {
      this.fail('a reply to no request');
      return;
    }
    const errno = v.getUint32(4);
    if (errno === ESHUTDOWN) {
      this.fail('the server is shutting down');
      return;
    }
    if (errno === 0 && r.command === CMD_READ && r.length > 0) {
      // The request stays in `waiting` until its data has come.
      this.current = r;
      this.filled = 0;
      this.bufferIndex = 0;
      this.bufferAt = 0;
      v.setUint32(12, handle);
      return;
    }
    this.waiting.delete(handle);
    this.onAnswer();
    r.resolve(statusOfErrno(errno));
  }

  private fill(r: Request, bytes: Uint8Array, at: number): number {
    const buffers = r.buffers as readonly Uint8Array[];
    let used = 0;
    while (at + used < bytes.length && this.filled < r.length) {
      const b = buffers[this.bufferIndex] as Uint8Array;
      const n = Math.min(b.length - this.bufferAt, bytes.length - at - used);
      b.set(bytes.subarray(at + used, at + used + n), this.bufferAt);
      this.bufferAt += n;
      this.filled += n;
      used += n;
      if (this.bufferAt === b.length) {
        this.bufferIndex++;
        this.bufferAt = 0;
      }
    }
    if (this.filled === r.length) {
      this.current = null;
      this.waiting.delete(this.headerView.getUint32(12));
      this.onAnswer();
      r.resolve('ok');
    }
    return used;
  }
}

/** A disk on an NBD server. */
export class NbdDisk implements DiskImage {
  readonly format: string = 'nbd';
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  readonly discardZeroes: boolean = false;
  readonly identity: string;
  readonly size: number;
  private readonly o: NbdOptions;
  private readonly faults: FaultLog;
  private readonly count: Counters = new Counters();
  private readonly reconnectMs: number;
  private readonly maxRequest: number;
  private flags: number;
  private link: Connection | null = null;
  private readonly exportSize: number;
  /** Requests without a connection. */
  private parked: Request[] = [];
  /** When the server was last known to be well, or null while it is. */
  private lostAt: number | null = null;
  private givenUp = false;
  /** One request at a time, until all parked ones have been answered. */
  private careful = false;
  private retryTimer: ReturnType<typeof setTimeout> | null = null;
  private retryMs = FIRST_RETRY_MS;
  private closed = false;
  private reconnects = 0;

  private constructor(o: NbdOptions, socket: Socket, info: NbdExport) {
    this.o = o;
    this.identity = describe(o.address);
    this.faults = new FaultLog(o.logger, this.identity);
    this.flags = info.flags;
    this.sectorSize = o.sectorSize ?? (info.minBlock > 512 ? 4096 : 512);
    if (this.sectorSize < info.minBlock)
      throw new HyveError(
        'BLOCK_NBD',
        `${this.identity}: the server's blocks of ${info.minBlock} bytes exceed a sector`,
      );
    this.physicalSectorSize = Math.max(this.sectorSize, o.physicalSectorSize ?? 4096);
    this.exportSize = info.size;
    this.size = info.size - (info.size % this.sectorSize);
    this.readOnly = o.readOnly || (info.flags & FLAG_READ_ONLY) !== 0;
    this.canDiscard = !this.readOnly && !o.noDelete && (info.flags & FLAG_SEND_TRIM) !== 0;
    const most = Math.min(MAX_REQUEST, info.maxBlock);
    this.maxRequest = Math.max(this.sectorSize, most - (most % this.sectorSize));
    this.reconnectMs = (o.reconnectSeconds ?? 20) * 1000;
    this.adopt(socket);
  }

  /** @throws HyveError `BLOCK_NBD` when the export cannot be had */
  static async open(o: NbdOptions): Promise<NbdDisk> {
    let got: Awaited<ReturnType<typeof connect>>;
    try {
      got = await connect(o);
    } catch (e) {
      throw new HyveError('BLOCK_NBD', `${describe(o.address)}: ${connectReason(e)}`, e);
    }
    try {
      if (got.info.size === 0) throw new HyveError('BLOCK_NBD', `${describe(o.address)}: the export is empty`);
      return new NbdDisk(o, got.socket, got.info);
    } catch (e) {
      got.socket.destroy();
      throw e;
    }
  }

  private adopt(socket: Socket): void {
    this.link = new Connection({
      socket,
      answerMs: (this.o.answerSeconds ?? 30) * 1000,
      onLost: (why, c) => this.onLost(why, c),
      onAnswer: () => {
        this.lostAt = null;
        this.retryMs = FIRST_RETRY_MS;
        if (this.careful) this.sendParked();
      },
    });
    this.careful = this.parked.some((r) => r.tries >= TRIES_TOGETHER);
    this.sendParked();
  }

  private sendParked(): void {
    const link = this.link;
    if (link === null) return;
    if (this.careful) {
      const next = this.parked.shift();
      if (next === undefined) this.careful = false;
      else link.send(next);
      return;
    }
    const all = this.parked;
    this.parked = [];
    for (const r of all) link.send(r);
  }

  private onLost(why: string, c: Connection): void {
    const unanswered = [...c.waiting.values()];
    c.waiting.clear();
    if (c !== this.link) return;
    this.link = null;
    if (this.closed) {
      for (const r of unanswered) r.resolve('cancelled');
      return;
    }
    this.faults.note('connection', new Error(why));
    this.lostAt ??= Date.now();
    for (const r of unanswered) {
      if (r.tries >= MOST_TRIES) r.resolve('io-error');
      else this.parked.push(r);
    }
    this.retryLater();
  }

  private retryLater(): void {
    if (this.closed || this.retryTimer !== null) return;
    const left = (this.lostAt ?? 0) + this.reconnectMs - Date.now();
    if (left <= 0) this.giveUp();
    const wait = this.givenUp ? LAST_RETRY_MS : Math.min(this.retryMs, Math.max(1, left));
    this.retryMs = Math.min(LAST_RETRY_MS, this.retryMs * 2);
    this.retryTimer = setTimeout(() => {
      this.retryTimer = null;
      void this.retry();
    }, wait);
    if (this.givenUp) this.retryTimer.unref();
  }

  /** Requests fail from here on until the server is back. */
  private giveUp(): void {
    this.givenUp = true;
    const failed = this.parked;
    this.parked = [];
    for (const r of failed) r.resolve('io-error');
  }

  private async retry(): Promise<void> {
    try {
      const left = this.givenUp ? LAST_RETRY_MS : Math.max(100, (this.lostAt ?? 0) + this.reconnectMs - Date.now());
      const { socket, info } = await connect(this.o, left);
      if (this.closed) {
        socket.destroy();
        return;
      }
      const missing = this.flags & ~info.flags & (FLAG_SEND_FLUSH | FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES);
      if (info.size !== this.exportSize || missing !== 0 || (!this.readOnly && (info.flags & FLAG_READ_ONLY) !== 0)) {
        socket.destroy();
        throw new Error(`the export has changed: ${info.size} bytes now, ${this.exportSize} before`);
      }
      this.flags = info.flags;
      this.givenUp = false;
      this.reconnects++;
      this.o.logger.info(`${this.identity}: connected again`);
      this.adopt(socket);
    } catch (e) {
      this.faults.note('reconnection', e);
      this.retryLater();
    }
  }

  private request(
    command: number,
    flags: number,
    offset: number,
    length: number,
    buffers: readonly Uint8Array[] | null,
  ): Promise<BlockStatus> {
    return new Promise((resolve) => {
      if (this.closed) resolve('cancelled');
      else if (this.link === null && this.givenUp) resolve('io-error');
      else {
        const r: Request = { command, flags, offset, length, buffers, resolve, tries: 0 };
        if (this.link === null || this.careful) this.parked.push(r);
        else this.link.send(r);
      }
    });
  }

  /** Sends a range in pieces that the server takes; the worst answer counts. */
  private async pieces(
    offset: number,
    length: number,
    most: number,
    send: (at: number, n: number) => Promise<BlockStatus>,
  ): Promise<BlockStatus> {
    if (length <= most) return this.noted(await send(offset, length));
    const jobs = new Jobs();
    for (let done = 0; done < length; done += most) {
      const n = Math.min(most, length - done);
      jobs.add(
        send(offset + done, n).then((s) => {
          if (s !== 'ok') throw new BlockFault(s, s);
        }),
      );
    }
    try {
      await jobs.end();
      return 'ok';
    } catch (e) {
      return this.noted((e as BlockFault).status);
    }
  }

  private noted(status: BlockStatus): BlockStatus {
    if (status !== 'ok') this.count.failures++;
    return status;
  }

  async read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    this.count.reads++;
    this.count.readBytes += length;
    if (length === 0) return 'ok';
    return this.pieces(offset, length, this.maxRequest, (at, n) =>
      this.request(CMD_READ, 0, at, n, nonEmpty(slice(buffers, at - offset, n))),
    );
  }

  async write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    const length = totalLength(buffers);
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    this.count.writes++;
    this.count.writtenBytes += length;
    if (length === 0) return 'ok';
    const fua = this.o.sync && (this.flags & FLAG_SEND_FUA) !== 0 ? CMD_FLAG_FUA : 0;
    const status = await this.pieces(offset, length, this.maxRequest, (at, n) =>
      this.request(CMD_WRITE, fua, at, n, nonEmpty(slice(buffers, at - offset, n))),
    );
    return status === 'ok' && this.o.sync && fua === 0 ? this.flush() : status;
  }

  async flush(): Promise<BlockStatus> {
    this.count.flushes++;
    // A server that offers no flush has nothing to flush.
    if ((this.flags & FLAG_SEND_FLUSH) === 0 || this.readOnly) return 'ok';
    return this.noted(await this.request(CMD_FLUSH, 0, 0, 0, null));
  }

  async discard(offset: number, length: number): Promise<BlockStatus> {
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    if (!this.canDiscard) return 'unsupported';
    this.count.discards++;
    if (length === 0) return 'ok';
    return this.pieces(offset, length, MAX_RANGE, (at, n) => this.request(CMD_TRIM, 0, at, n, null));
  }

  async writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<BlockStatus> {
    const range = checkRange(this, offset, length);
    if (range !== 'ok') return range;
    if (this.readOnly) return 'read-only';
    this.count.zeroes++;
    if (length === 0) return 'ok';
    if ((this.flags & FLAG_SEND_WRITE_ZEROES) !== 0) {
      const flags = mayUnmap && this.canDiscard ? 0 : CMD_FLAG_NO_HOLE;
      const status = await this.pieces(offset, length, MAX_RANGE, (at, n) =>
        this.request(CMD_WRITE_ZEROES, flags, at, n, null),
      );
      if (status !== 'unsupported') return status;
    }
    const zeros = new Uint8Array(Math.min(length, this.maxRequest, 1 << 20));
    for (let done = 0; done < length; done += zeros.length) {
      const n = Math.min(zeros.length, length - done);
      const status = await this.request(CMD_WRITE, 0, offset + done, n, [zeros.subarray(0, n)]);
      if (status !== 'ok') return this.noted(status);
    }
    return 'ok';
  }

  async extentAt(offset: number): Promise<Extent | null> {
    if (!(offset >= 0 && offset < this.size)) return null;
    return {
      offset,
      length: this.size - offset,
      present: true,
      zero: false,
      data: true,
      compressed: false,
      depth: 0,
      fileOffset: offset,
      file: this.identity,
    };
  }

  async resize(): Promise<void> {
    throw new HyveError('BLOCK_RESIZE', `${this.identity}: the server decides the size`);
  }

  counters(): BlockCounters {
    return this.count.list({ reconnects: this.reconnects });
  }

  async close(): Promise<void> {
    if (this.closed) return;
    if (!this.givenUp && this.link !== null) await this.flush();
    this.closed = true;
    if (this.retryTimer !== null) clearTimeout(this.retryTimer);
    for (const r of this.parked) r.resolve('cancelled');
    this.parked = [];
    const link = this.link;
    this.link = null;
    if (link === null) return;
    for (const r of link.waiting.values()) r.resolve('cancelled');
    link.waiting.clear();
    link.leave();
  }
}

function nonEmpty(buffers: readonly Uint8Array[]): readonly Uint8Array[] {
  for (const b of buffers) if (b.length === 0) return buffers.filter((x) => x.length > 0);
  return buffers;
}

function describe(a: NbdAddress): string {
  const scheme = a.tls ? 'nbds' : 'nbd';
  if (a.socket !== null) return `${scheme}+unix:///${a.exportName}?socket=${a.socket}`;
  return `${scheme}://${isIP(a.host) === 6 ? `[${a.host}]` : a.host}:${a.port}/${a.exportName}`;
}

function connect(o: NbdOptions, withinMs = 10_000): Promise<{ socket: Socket; info: NbdExport }> {
  const a = o.address;
  const plain = a.socket !== null ? netConnect(a.socket) : netConnect(a.port, a.host);
  plain.setNoDelay(true);
  let live: Socket = plain;
  const upgrade = (socket: Socket): Promise<Socket> =>
    new Promise((resolve, reject) => {
      const name = o.tls.hostname ?? a.host;
      const secure = tlsConnect({
        socket,
        ...(o.tls.ca === null ? {} : { ca: asPem(o.tls.ca) }),
        ...(o.tls.cert === null ? {} : { cert: asPem(o.tls.cert) }),
        ...(o.tls.key === null ? {} : { key: asPem(o.tls.key) }),
        ...(name === '' || isIP(name) !== 0 ? {} : { servername: name }),
        host: name,
      });
      live = secure;
      secure.once('secureConnect', () => resolve(secure));
      secure.once('error', reject);
      secure.once('close', () => reject(new Error('the server closed the connection during TLS')));
    });
  return new Promise((resolve, reject) => {
    let over = false;
    const timer = setTimeout(() => fail(new Error(`no answer within ${withinMs / 1000} seconds`)), withinMs);
    const fail = (e: unknown): void => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      live.on('error', () => {});
      live.destroy();
      plain.destroy();
      reject(e);
    };
    plain.on('error', fail);
    plain.once('connect', () => {
      handshake(plain, a.exportName, a.tls ? upgrade : null).then(({ socket, info, early }) => {
        if (over) return;
        over = true;
        clearTimeout(timer);
        if (early !== null && early.length > 0) {
          socket.destroy();
          reject(new Error('the server answers before it is asked'));
          return;
        }
        resolve({ socket, info });
      }, fail);
    });
  });
}

function asPem(x: string | Uint8Array): string | Buffer {
  return typeof x === 'string' ? x : Buffer.from(x);
}

/** @internal Reads the files that a disk string names. @throws HyveError `BLOCK_FILE` */
export function loadTls(files: {
  readonly ca: string | null;
  readonly cert: string | null;
  readonly key: string | null;
  readonly hostname: string | null;
}): NbdTls {
  const load = (path: string | null): Uint8Array | null => {
    if (path === null) return null;
    try {
      return readFileSync(path);
    } catch (e) {
      throw new HyveError('BLOCK_FILE', `cannot read ${path}: ${errorCode(e)}`, e);
    }
  };
  return { ca: load(files.ca), cert: load(files.cert), key: load(files.key), hostname: files.hostname };
}

/** Why a connection did not come about, for people. */
function connectReason(e: unknown): string {
  if (e instanceof Error && !('code' in e)) return e.message;
  const code = errorCode(e);
  if (code === 'ENOENT' || code === 'ECONNREFUSED') return `no server listens there (${code})`;
  return code === 'ENOTFOUND' ? `no such host (${code})` : code;
}
