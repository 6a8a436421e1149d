// The NBD protocol's numbers, addresses and handshake (newstyle, fixed; the NBD project's doc/proto.md).
import type { Socket } from 'node:net';
import { HyveError } from '@hyve/core';

/** "NBDMAGIC" and "IHAVEOPT". */
const MAGIC_HI = 0x4e42444d;
const MAGIC_LO = 0x41474943;
const OPTION_HI = 0x49484156;
const OPTION_LO = 0x454f5054;
const REPLY_HI = 0x0003e889;
const REPLY_LO = 0x045565a9;

const FLAG_FIXED_NEWSTYLE = 1 << 0;
const FLAG_NO_ZEROES = 1 << 1;
const OPT_EXPORT_NAME = 1;
const OPT_STARTTLS = 5;
const OPT_GO = 7;
const OPT_STRUCTURED_REPLY = 8;
const OPT_SET_META_CONTEXT = 10;
const OPT_EXTENDED_HEADERS = 11;
const REP_ACK = 1;
const REP_INFO = 3;
const REP_META_CONTEXT = 4;
const REP_ERROR = 0x80000000;
const REP_ERR_UNSUP = REP_ERROR + 1;
const INFO_EXPORT = 0;
const INFO_BLOCK_SIZE = 3;

/** Transmission flags. */
export const FLAG_READ_ONLY: number = 1 << 1;
export const FLAG_SEND_FLUSH: number = 1 << 2;
export const FLAG_SEND_FUA: number = 1 << 3;
export const FLAG_SEND_TRIM: number = 1 << 5;
export const FLAG_SEND_WRITE_ZEROES: number = 1 << 6;

/** Commands. */
export const CMD_READ = 0;
export const CMD_WRITE = 1;
export const CMD_DISC = 2;
export const CMD_FLUSH = 3;
export const CMD_TRIM = 4;
export const CMD_WRITE_ZEROES = 6;
export const CMD_BLOCK_STATUS = 7;
/** Command flags. */
export const CMD_FLAG_FUA: number = 1 << 0;
export const CMD_FLAG_NO_HOLE: number = 1 << 1;
/** With extended headers: the length is that of the data behind the request. */
export const CMD_FLAG_PAYLOAD_LENGTH: number = 1 << 5;

export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Chunks of structured replies. */
export const REPLY_FLAG_DONE: number = 1 << 0;
export const REPLY_NONE = 0;
export const REPLY_OFFSET_DATA = 1;
export const REPLY_OFFSET_HOLE = 2;
export const REPLY_BLOCK_STATUS = 5;
export const REPLY_BLOCK_STATUS_EXTENDED = 6;
/** Set in the types of chunks that are errors; a 32-bit errno comes first in them. */
export const REPLY_ERROR_BIT: number = 1 << 15;

/** Flags of an extent in the metadata context `base:allocation`. */
export const STATE_HOLE: number = 1 << 0;
export const STATE_ZERO: number = 1 << 1;
/** That context. */
const ALLOCATION = 'base:allocation';

/** Bytes of one option reply that are taken. */
const MAX_OPTION_BYTES = 65536;
/** Option replies to one option that are taken. */
const MAX_OPTION_REPLIES = 256;

/** Where an export is. */
export interface NbdAddress {
  readonly tls: boolean;
  /** Path of a UNIX socket, or null. */
  readonly socket: string | null;
  readonly host: string;
  readonly port: number;
  readonly exportName: string;
}

/** Whether a disk's path is an NBD address. */
export function isNbdAddress(path: string): boolean {
  return /^nbds?(\+unix)?:/i.test(path);
}

/**
 * Takes an NBD address apart.
 * @throws HyveError `BLOCK_SPEC`
 */
export function parseNbdAddress(text: string): NbdAddress {
  const bad = (why: string): HyveError =>
    new HyveError('BLOCK_SPEC', `"${text}": ${why}; say nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH`);
  let url: URL;
  let exportName: string;
  try {
    url = new URL(text);
    exportName = decodeURIComponent(url.pathname.replace(/^\//, ''));
  } catch {
    throw bad('is no address');
  }
  const scheme = url.protocol.slice(0, -1).toLowerCase();
  const unix = scheme.endsWith('+unix');
  const tls = scheme.startsWith('nbds');
  for (const key of url.searchParams.keys())
    if (key !== 'socket' || !unix) throw bad(`there is no parameter "${key}"${unix ? '' : ' for TCP'}`);
  if (new TextEncoder().encode(exportName).length > 4096) throw bad('the export name is longer than 4096 bytes');
  if (unix) {
    const socket = url.searchParams.get('socket');
    if (socket === null || socket === '') throw bad('the socket is missing');
    return { tls, socket, host: url.hostname, port: 0, exportName };
  }
  const host = url.hostname.replace(/^\[|\]$/g, '');
  if (host === '') throw bad('the host is missing');
  return { tls, socket: null, host, port: url.port === '' ? 10809 : Number(url.port), exportName };
}

/** What the server says of the export. */
export interface NbdExport {
  /** Bytes. */
  readonly size: number;
  readonly flags: number;
  /** Smallest request, bytes. */
  readonly minBlock: number;
  /** Largest request, bytes. */
  readonly maxBlock: number;
  /** What both sides speak. */
  readonly mode: NbdMode;
}

/** What a handshake agreed on beyond the plain protocol. */
export interface NbdMode {
  /** Replies to reads come in chunks. */
  readonly structured: boolean;
  /** Requests and replies have 64-bit lengths. */
  readonly extended: boolean;
  /** The server's number for `base:allocation`, or null if it has no such thing. */
  readonly allocation: number | null;
}

/** Collects bytes of a socket until there are enough. */
export class ByteReader {
  private readonly socket: Socket;
  private chunks: Uint8Array[] = [];
  private length = 0;
  private wanted = 0;
  private wake: ((e: Error | null) => void) | null = null;
  private readonly onData = (b: Uint8Array): void => {
    this.chunks.push(b);
    this.length += b.length;
    if (this.length > 4 * MAX_OPTION_BYTES) this.socket.destroy(); // it was not asked for so much
    if (this.length >= this.wanted) this.wake?.(null);
  };
  private readonly onEnd = (): void => this.wake?.(new Error('the server closed the connection'));
  private readonly onError = (e: Error): void => this.wake?.(e);

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', this.onData);
    socket.on('close', this.onEnd);
    socket.on('error', this.onError);
  }

  /** The next `n` bytes. */
  async take(n: number): Promise<DataView> {
    if (this.length < n) {
      if (this.socket.destroyed) throw new Error('the server closed the connection');
      this.wanted = n;
      await new Promise<void>((resolve, reject) => {
        this.wake = (e) => (e === null ? resolve() : reject(e));
      });
      this.wake = null;
    }
    const all = new Uint8Array(this.length);
    let at = 0;
    for (const c of this.chunks) {
      all.set(c, at);
      at += c.length;
    }
    this.length -= n;
    this.chunks = this.length > 0 ? [all.subarray(n)] : [];
    return new DataView(all.buffer, 0, n);
  }

  /** Lets go of the socket; what came too much is handed over. */
  finish(): Uint8Array | null {
    this.socket.off('data', this.onData);
    this.socket.off('close', this.onEnd);
    this.socket.off('error', this.onError);
    return this.chunks[0] ?? null;
  }
}

function option(code: number, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(16 + data.length);
  const v = new DataView(out.buffer);
  v.setUint32(0, OPTION_HI);
  v.setUint32(4, OPTION_LO);
  v.setUint32(8, code);
  v.setUint32(12, data.length);
  out.set(data, 16);
  return out;
}

function u64(v: DataView, at: number): number {
  const n = v.getUint32(at) * 0x1_0000_0000 + v.getUint32(at + 4);
  if (!Number.isSafeInteger(n)) throw new Error('the export is larger than 2^53 bytes');
  return n;
}

const OPTION_ERRORS: Readonly<Record<number, string>> = {
  2: 'the server forbids it',
  3: 'the server calls the request invalid',
  4: 'the server cannot do it',
  5: 'the server wants TLS: say nbds://',
  6: 'there is no such export',
  7: 'the server is shutting down',
  8: 'the server wants block sizes to be asked for',
  9: 'the request is too big',
};

async function optionReply(r: ByteReader, code: number): Promise<{ type: number; data: DataView }> {
  const h = await r.take(20);
  if (h.getUint32(0) !== REPLY_HI || h.getUint32(4) !== REPLY_LO)
    throw new Error('an option reply without its magic number');
  if (h.getUint32(8) !== code) throw new Error(`a reply to option ${h.getUint32(8)}, not ${code}`);
  const length = h.getUint32(16);
  if (length > MAX_OPTION_BYTES) throw new Error(`an option reply of ${length} bytes`);
  return { type: h.getUint32(12), data: await r.take(length) };
}

/** Asks for an option without data. False: the server has none of it. */
async function offers(socket: Socket, r: ByteReader, code: number): Promise<boolean> {
  socket.write(option(code, new Uint8Array(0)));
  const { type } = await optionReply(r, code);
  if (type !== REP_ACK && type < REP_ERROR) throw new Error(`a reply of type ${type} to option ${code}`);
  return type === REP_ACK;
}

/** Agrees on the best form of replies that the server has, and asks for the map of holes. */
async function agree(socket: Socket, r: ByteReader, name: Uint8Array): Promise<NbdMode> {
  const extended = await offers(socket, r, OPT_EXTENDED_HEADERS);
  const structured = extended || (await offers(socket, r, OPT_STRUCTURED_REPLY));
  let allocation: number | null = null;
  if (!structured) return { structured, extended, allocation };
  const query = new TextEncoder().encode(ALLOCATION);
  const ask = new Uint8Array(4 + name.length + 8 + query.length);
  const v = new DataView(ask.buffer);
  v.setUint32(0, name.length);
  ask.set(name, 4);
  v.setUint32(4 + name.length, 1);
  v.setUint32(8 + name.length, query.length);
  ask.set(query, 12 + name.length);
  socket.write(option(OPT_SET_META_CONTEXT, ask));
  for (let i = 0; ; i++) {
    if (i > MAX_OPTION_REPLIES) throw new Error('the server does not come to the point');
    const { type, data } = await optionReply(r, OPT_SET_META_CONTEXT);
    // Without the context there is no map; whether there is such an export is asked next.
    if (type >= REP_ERROR) return { structured, extended, allocation: null };
    if (type === REP_ACK) return { structured, extended, allocation };
    if (type !== REP_META_CONTEXT || data.byteLength < 4) throw new Error(`a reply of type ${type} to option 10`);
    const told = new TextDecoder().decode(new Uint8Array(data.buffer, data.byteOffset + 4, data.byteLength - 4));
    if (told === ALLOCATION) allocation = data.getUint32(0);
  }
}

/**
 * Greets the server and, with `upgrade`, changes to TLS; then asks for the export.
 * @param upgrade wraps the socket in TLS and resolves once that is secured
 * @returns the socket to go on with, the export, and bytes that came early
 */
export async function handshake(
  plain: Socket,
  exportName: string,
  upgrade: ((socket: Socket) => Promise<Socket>) | null,
): Promise<{ socket: Socket; info: NbdExport; early: Uint8Array | null }> {
  let socket = plain;
  let r = new ByteReader(socket);
  const hello = await r.take(18);
  if (hello.getUint32(0) !== MAGIC_HI || hello.getUint32(4) !== MAGIC_LO) throw new Error('this is no NBD server');
  if (hello.getUint32(8) !== OPTION_HI || hello.getUint32(12) !== OPTION_LO)
    throw new Error('the server speaks the oldstyle protocol');
  const offered = hello.getUint16(16);
  if ((offered & FLAG_FIXED_NEWSTYLE) === 0) throw new Error('the server lacks the fixed newstyle protocol');
  const flags = offered & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
  const mine = new Uint8Array(4);
  new DataView(mine.buffer).setUint32(0, flags);
  socket.write(mine);
  if (upgrade !== null) {
    socket.write(option(OPT_STARTTLS, new Uint8Array(0)));
    const reply = await optionReply(r, OPT_STARTTLS);
    if (reply.type !== REP_ACK) throw new Error('the server has no TLS');
    if (r.finish() !== null) throw new Error('the server spoke on before TLS began');
    socket = await upgrade(socket);
    r = new ByteReader(socket);
  }
  const name = new TextEncoder().encode(exportName);
  const mode = await agree(socket, r, name);
  const ask = new Uint8Array(4 + name.length + 4);
  const v = new DataView(ask.buffer);
  v.setUint32(0, name.length);
  ask.set(name, 4);
  v.setUint16(4 + name.length, 1);
  v.setUint16(6 + name.length, INFO_BLOCK_SIZE);
  socket.write(option(OPT_GO, ask));
  let size = -1;
  let exportFlags = 0;
  let minBlock = 1;
  let maxBlock = 32 << 20;
  for (let i = 0; ; i++) {
    if (i > MAX_OPTION_REPLIES) throw new Error('the server does not come to the point');
    const { type, data } = await optionReply(r, OPT_GO);
    if (type === REP_ACK) break;
    if (type === REP_INFO && data.byteLength >= 2) {
      const what = data.getUint16(0);
      if (what === INFO_EXPORT && data.byteLength >= 12) {
        size = u64(data, 2);
        exportFlags = data.getUint16(10);
      } else if (what === INFO_BLOCK_SIZE && data.byteLength >= 14) {
        minBlock = data.getUint32(2);
        maxBlock = data.getUint32(10);
      }
      continue;
    }
    if (type === REP_ERR_UNSUP) {
      socket.write(option(OPT_EXPORT_NAME, name));
      const e = await r.take((flags & FLAG_NO_ZEROES) !== 0 ? 10 : 134);
      size = u64(e, 0);
      exportFlags = e.getUint16(8);
      break;
    }
    if (type >= REP_ERROR) {
      const text = OPTION_ERRORS[type - REP_ERROR] ?? `error ${type - REP_ERROR}`;
      throw new Error(`export "${exportName}": ${text}`);
    }
  }
  if (size < 0) throw new Error('the server does not say how large the export is');
  if (minBlock > 65536 || maxBlock < minBlock) throw new Error(`block sizes ${minBlock} to ${maxBlock}`);
  return { socket, info: { size, flags: exportFlags, minBlock, maxBlock, mode }, early: r.finish() };
}
