// Pages the controller tells of itself with (NVMe 1.4 §5.14, §5.15). Pure functions from facts to bytes.
import { TEMPERATURE_K, VS_VALUE } from './bits.ts';

/** Most bytes of one transfer as a power of two of pages: 2 MiB, as bhyve has. */
export const MDTS = 9;
/** Entries of the error log. */
export const ERROR_ENTRIES = 16;
/** Asynchronous event requests that may be outstanding. */
export const MAX_EVENT_REQUESTS = 4;

/** Facts about the controller. */
export interface ControllerFacts {
  readonly vendor: number;
  readonly serial: string;
  readonly model: string;
  readonly firmware: string;
  /** Bytes of the namespace. */
  readonly capacity: number;
  readonly dsm: boolean;
}

/** Facts about the namespace. */
export interface NamespaceFacts {
  /** Logical blocks. */
  readonly blocks: number;
  /** log2 of the block size. */
  readonly shift: number;
  /** Blocks of a physical sector. */
  readonly physicalBlocks: number;
  readonly readOnly: boolean;
  readonly dsm: boolean;
  /** 8 bytes, most significant first. */
  readonly eui64: Uint8Array;
}

/** Numbers of the SMART / health log. */
export interface Health {
  readonly temperatureWarning: boolean;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly readCommands: number;
  readonly writeCommands: number;
  readonly powerCycles: number;
  readonly unsafeShutdowns: number;
  readonly mediaErrors: number;
  readonly errorEntries: number;
}

/** One entry of the error log. */
export interface ErrorEntry {
  /** Errors since power-on, this one included. */
  readonly count: number;
  /** Submission queue of the command. */
  readonly sqid: number;
  /** Command identifier. */
  readonly cid: number;
  /** Status field with the phase bit position, as in a completion entry. */
  readonly status: number;
  /** First block of the command that failed. */
  readonly lba: number;
  /** Namespace. */
  readonly nsid: number;
}

/** Puts a non-negative integer below 2^53, little-endian. */
export function put(page: Uint8Array, offset: number, bytes: number, value: number): void {
  let rest = value;
  for (let i = 0; i < bytes; i++) {
    page[offset + i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
}

function text(page: Uint8Array, offset: number, bytes: number, s: string): void {
  for (let i = 0; i < bytes; i++) page[offset + i] = i < s.length ? s.charCodeAt(i) & 0x7f : 0x20;
}

/** Identify Controller, 4096 bytes, figure 251. */
export function identifyController(page: Uint8Array, f: ControllerFacts): void {
  page.fill(0);
  put(page, 0, 2, f.vendor);
  put(page, 2, 2, f.vendor);
  text(page, 4, 20, f.serial);
  text(page, 24, 40, f.model);
  text(page, 64, 8, f.firmware);
  page[72] = 4; // recommended arbitration burst
  page.set([0xfc, 0x9c, 0x58], 73); // IEEE OUI, as bhyve's
  page[77] = MDTS;
  put(page, 80, 4, VS_VALUE);
  put(page, 92, 4, 0x100); // namespace attribute notices
  page[111] = 1; // I/O controller
  put(page, 256, 2, 0x0002); // Format NVM
  page[258] = 3; // abort limit, zero-based
  page[259] = MAX_EVENT_REQUESTS - 1;
  page[260] = 0x03; // one firmware slot, read-only
  page[261] = 0x06; // effects log, extended log page offsets
  page[262] = ERROR_ENTRIES - 1;
  put(page, 266, 2, 0x0157); // 70 and 85 degrees Celsius
  put(page, 268, 2, 0x0166);
  put(page, 280, 8, f.capacity);
  page[512] = 0x66;
  page[513] = 0x44;
  put(page, 516, 4, 1); // namespaces
  // Compare, write zeroes, select in features, verify, dataset management.
  put(page, 520, 2, 0x0001 | 0x0008 | 0x0010 | 0x0080 | (f.dsm ? 0x0004 : 0));
  page[525] = 0x07; // volatile write cache; flush takes all namespaces
  put(page, 536, 4, 0x0004_0001); // SGLs, any alignment, may be longer than the transfer
  const nqn = `nqn.2014.08.org.nvmexpress:hyve:${f.serial}`;
  for (let i = 0; i < nqn.length; i++) page[768 + i] = nqn.charCodeAt(i) & 0x7f;
  put(page, 2048, 2, 900); // power state 0: 9 W
}

/** Identify Namespace, 4096 bytes, figure 249. */
export function identifyNamespace(page: Uint8Array, f: NamespaceFacts): void {
  page.fill(0);
  put(page, 0, 8, f.blocks);
  put(page, 8, 8, f.blocks);
  put(page, 16, 8, f.blocks);
  const physical = Math.min(f.physicalBlocks, 0x1_0000) - 1;
  page[24] = 0x10; // the preferences in bytes 64-73 hold
  put(page, 48, 8, f.blocks * 2 ** f.shift);
  put(page, 64, 2, physical);
  put(page, 66, 2, physical);
  if (f.dsm) {
    put(page, 68, 2, physical);
    put(page, 70, 2, physical);
  }
  page[99] = f.readOnly ? 1 : 0;
  page.set(f.eui64, 120);
  page[130] = f.shift; // format 0: no metadata, best performance
}

/** Namespace Identification Descriptor list, 4096 bytes, figure 253. */
export function identifyDescriptors(page: Uint8Array, eui64: Uint8Array): void {
  page.fill(0);
  page[0] = 1;
  page[1] = 8;
  page.set(eui64, 4);
}

/** SMART / Health log, 512 bytes, figure 196. */
export function smartLog(page: Uint8Array, h: Health): void {
  page.fill(0);
  page[0] = h.temperatureWarning ? 2 : 0;
  put(page, 1, 2, TEMPERATURE_K);
  page[3] = 100; // spare, percent
  page[4] = 10;
  put(page, 32, 8, Math.ceil(h.bytesRead / 512_000));
  put(page, 48, 8, Math.ceil(h.bytesWritten / 512_000));
  put(page, 64, 8, h.readCommands);
  put(page, 80, 8, h.writeCommands);
  put(page, 112, 8, h.powerCycles);
  put(page, 144, 8, h.unsafeShutdowns);
  put(page, 160, 8, h.mediaErrors);
  put(page, 176, 8, h.errorEntries);
  put(page, 200, 2, TEMPERATURE_K);
}

/** Error Information log: 64 bytes an entry, newest first, figure 195. */
export function errorLog(page: Uint8Array, entries: readonly ErrorEntry[]): void {
  page.fill(0, 0, ERROR_ENTRIES * 64);
  entries.forEach((e, i) => {
    const o = i * 64;
    put(page, o, 8, e.count);
    put(page, o + 8, 2, e.sqid);
    put(page, o + 10, 2, e.cid);
    put(page, o + 12, 2, e.status);
    put(page, o + 14, 2, 0xffff); // no parameter singled out
    put(page, o + 16, 8, e.lba);
    put(page, o + 24, 4, e.nsid);
  });
}

/** Hash of an identity, 48 bits as 12 hexadecimal digits: FNV-1a, twice with different starts. */
export function hash48(identity: string): string {
  let a = 0x811c_9dc5;
  let b = 0x9747_b28c;
  for (let i = 0; i < identity.length; i++) {
    const c = identity.charCodeAt(i);
    a = Math.imul(a ^ c, 0x0100_0193);
    b = Math.imul(b ^ c ^ (a >>> 24), 0x0100_0193);
  }
  return ((a >>> 0).toString(16).padStart(8, '0') + ((b >>> 16) & 0xffff).toString(16).padStart(4, '0')).toUpperCase();
}
