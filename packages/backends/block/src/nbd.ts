// A disk on an NBD server: TCP, UNIX sockets, TLS. Many requests in flight; a lost server is looked for again and gets
// every request that it has not answered. A server that breaks the protocol is treated as lost.
import { readFileSync } from 'node:fs';
import { isIP, connect as netConnect, type Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import { type BlockStatus, HyveError, type Logger } from '@hyve/core';
import { Jobs } from './async.ts';
import { checkRange, slice, totalLength } from './buffers.ts';
import { BlockFault, errorCode, FaultLog } from './fault.ts';
import { type BlockCounters, Counters, type DiskImage, type Extent } from './image.ts';
import { NbdConnection, type NbdExtent, type NbdRequest, newRequest } from './nbd-connection.ts';
import {
  CMD_BLOCK_STATUS,
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
  type NbdMode,
  STATE_HOLE,
  STATE_ZERO,
} from './nbd-protocol.ts';

/** Bytes of data in one request at most, whatever the server allows. */
const MAX_REQUEST = 8 << 20;
/** Bytes of one trim or write of zeros at most. */
const MAX_RANGE = 1 << 30;
/** Bytes that one question after the server's holes covers, where lengths have 32 bits. */
const MAX_STATUS = 0x8000_0000;
/** How long an answer to it is used, ms: others may write to the export. */
const STATUS_AGE_MS = 2000;
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
  /** The server's, as far as it is used. */
  private readonly maxBlock: number;
  private readonly maxRequest: number;
  private flags: number;
  private link: NbdConnection | null = null;
  private readonly exportSize: number;
  /** Requests without a connection. */
  private parked: NbdRequest[] = [];
  /** When the server was last known to be well, or null while it is. */
  private lostAt: number | null = null;
  private givenUp = false;
  /** One request at a time, until all parked ones have been answered. */
  private careful = false;
  private retryTimer: ReturnType<typeof setTimeout> | null = null;
  private retryMs = FIRST_RETRY_MS;
  private closed = false;
  private reconnects = 0;
  /** Counts beginnings and ends of requests that change the disk. */
  private changes = 0;
  /** What the server last said of its holes, from `offset` on; a cursor into it. */
  private known: {
    readonly offset: number;
    readonly extents: readonly NbdExtent[];
    readonly until: number;
    at: number;
    index: number;
  } | null = null;

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
    if (this.size === 0) throw new HyveError('BLOCK_NBD', `${this.identity}: the export is empty`);
    this.readOnly = o.readOnly || (info.flags & FLAG_READ_ONLY) !== 0;
    this.canDiscard = !this.readOnly && !o.noDelete && (info.flags & FLAG_SEND_TRIM) !== 0;
    this.maxBlock = Math.min(MAX_REQUEST, info.maxBlock);
    this.maxRequest = Math.max(this.sectorSize, this.maxBlock - (this.maxBlock % this.sectorSize));
    this.reconnectMs = (o.reconnectSeconds ?? 20) * 1000;
    this.adopt(socket, info.mode);
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
      return new NbdDisk(o, got.socket, got.info);
    } catch (e) {
      got.socket.destroy();
      throw e;
    }
  }

  private adopt(socket: Socket, mode: NbdMode): void {
    this.known = null;
    this.link = new NbdConnection({
      socket,
      mode,
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
      else this.resend(link, next);
      return;
    }
    const all = this.parked;
    this.parked = [];
    for (const r of all) this.resend(link, r);
  }

  private resend(link: NbdConnection, r: NbdRequest): void {
    // A server may have come back that knows less than before.
    if (r.command !== CMD_BLOCK_STATUS || link.mode.allocation !== null) link.send(r);
    else r.resolve('unsupported');
  }

  private onLost(why: string, c: NbdConnection): void {
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
      const change = this.changeTo(info);
      if (change !== '') {
        socket.destroy();
        throw new Error(`the export has changed: ${change}`);
      }
      this.flags = info.flags;
      this.givenUp = false;
      this.reconnects++;
      this.o.logger.info(`${this.identity}: connected again`);
      this.adopt(socket, info.mode);
    } catch (e) {
      this.faults.note('reconnection', e);
      this.retryLater();
    }
  }

  /** What a server that is back has less of than before: requests were made for that. Empty if nothing. */
  private changeTo(info: NbdExport): string {
    if (info.size !== this.exportSize) return `${info.size} bytes now, ${this.exportSize} before`;
    if (!this.readOnly && (info.flags & FLAG_READ_ONLY) !== 0) return 'it is read-only now';
    if (info.minBlock > this.sectorSize) return `it has blocks of ${info.minBlock} bytes now`;
    if (info.maxBlock < this.maxBlock) return `it takes ${info.maxBlock} bytes at a time now`;
    const fua = this.o.sync ? FLAG_SEND_FUA : 0;
    const needed = FLAG_SEND_FLUSH | FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | fua;
    return (this.flags & ~info.flags & needed) !== 0 ? 'it can do less now' : '';
  }

  private request(
    command: number,
    flags: number,
    offset: number,
    length: number,
    buffers: readonly Uint8Array[] | null,
  ): Promise<BlockStatus> {
    return new Promise((resolve) => {
      if (command === CMD_READ || command === CMD_FLUSH) {
        this.submit(newRequest({ command, flags, offset, length, buffers, resolve }));
        return;
      }
      this.forgetMap();
      const changed = (status: BlockStatus): void => {
        this.forgetMap();
        resolve(status);
      };
      this.submit(newRequest({ command, flags, offset, length, buffers, resolve: changed }));
    });
  }

  /** What was said of holes is about what was there before a change; what is said during one, too. */
  private forgetMap(): void {
    this.known = null;
    this.changes++;
  }

  private submit(r: NbdRequest): void {
    if (this.closed) r.resolve('cancelled');
    else if (this.link === null && this.givenUp) r.resolve('io-error');
    else if (this.link === null || this.careful) this.parked.push(r);
    else this.link.send(r);
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
    const { fua } = this;
    return this.stable(
      await this.pieces(offset, length, this.maxRequest, (at, n) =>
        this.request(CMD_WRITE, fua, at, n, nonEmpty(slice(buffers, at - offset, n))),
      ),
    );
  }

  /** The flag of writes that are to be on stable storage, if they are and the server has one. */
  private get fua(): number {
    return this.o.sync && (this.flags & FLAG_SEND_FUA) !== 0 ? CMD_FLAG_FUA : 0;
  }

  /** The end of a write with {@link NbdDisk.fua}. */
  private stable(status: BlockStatus): BlockStatus | Promise<BlockStatus> {
    return status === 'ok' && this.o.sync && this.fua === 0 ? this.flush() : status;
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
      const flags = this.fua | (mayUnmap && this.canDiscard ? 0 : CMD_FLAG_NO_HOLE);
      const status = await this.pieces(offset, length, MAX_RANGE, (at, n) =>
        this.request(CMD_WRITE_ZEROES, flags, at, n, null),
      );
      if (status !== 'unsupported') return this.stable(status);
    }
    const zeros = new Uint8Array(Math.min(length, this.maxRequest, 1 << 20));
    for (let done = 0; done < length; done += zeros.length) {
      const n = Math.min(zeros.length, length - done);
      const status = await this.request(CMD_WRITE, this.fua, offset + done, n, [zeros.subarray(0, n)]);
      if (status !== 'ok') return this.noted(status);
    }
    return this.stable('ok');
  }

  async extentAt(offset: number): Promise<Extent | null> {
    if (!(offset >= 0 && offset < this.size)) return null;
    let found = this.lookUp(offset);
    if (found === null && (this.link?.mode.allocation ?? null) !== null) {
      await this.askExtents(offset);
      found = this.lookUp(offset);
    }
    // A server that does not say, or says it wrongly: all of it may be data.
    const { length, flags } = found ?? { length: this.size - offset, flags: 0 };
    return {
      offset,
      length,
      present: true,
      zero: (flags & STATE_ZERO) !== 0,
      data: (flags & STATE_HOLE) === 0,
      compressed: false,
      depth: 0,
      fileOffset: offset,
      file: this.identity,
    };
  }

  /** The extent at `offset` from there on, as far as it is known. */
  private lookUp(offset: number): NbdExtent | null {
    const k = this.known;
    if (k === null || offset < k.offset || Date.now() > k.until) return null;
    // Questions go upwards: the walk goes on where the last one ended.
    if (offset < k.at) {
      k.at = k.offset;
      k.index = 0;
    }
    for (; k.index < k.extents.length; k.index++) {
      const e = k.extents[k.index] as NbdExtent;
      if (offset < k.at + e.length) return { length: k.at + e.length - offset, flags: e.flags };
      k.at += e.length;
    }
    return null;
  }

  private async askExtents(offset: number): Promise<void> {
    const unit = this.sectorSize;
    const from = offset - (offset % unit);
    const length = Math.min(this.size - from, this.link?.mode.extended === true ? Number.MAX_SAFE_INTEGER : MAX_STATUS);
    const before = this.changes;
    let extents: readonly NbdExtent[] = [];
    const status = await new Promise<BlockStatus>((resolve) => {
      const r = newRequest({
        command: CMD_BLOCK_STATUS,
        flags: 0,
        offset: from,
        length,
        buffers: null,
        resolve: (s) => {
          extents = r.extents;
          resolve(s);
        },
      });
      this.submit(r);
    });
    this.known =
      status === 'ok' && extents.length > 0 && before === this.changes
        ? { offset: from, extents, until: Date.now() + STATUS_AGE_MS, at: from, index: 0 }
        : null;
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
