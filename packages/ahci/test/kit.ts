// A guest's AHCI driver in small.
import { createRig, PciSocket, type Rig, settle } from '@hyve/testkit';
import { AhciController, type AhciOptions } from '../src/index.ts';

export const BAR = 0xc000_0000;
/** Where the driver keeps a port's structures: command list, received FISes, then a table for each slot. */
const AREA = 0x1_0000;
const LIST = 0;
const FIS = 0x400;
const TABLES = 0x1000;
const TABLE = 0x400;
/** First byte of RAM that tests may use for data. */
export const DATA = 0x8_0000;

/** One piece of memory of a transfer. */
export type Piece = readonly [addr: number, bytes: number];

export interface Request {
  readonly slot?: number;
  readonly command: number;
  readonly features?: number;
  readonly lba?: number;
  readonly count?: number;
  readonly device?: number;
  readonly auxiliary?: number;
  readonly write?: boolean;
  readonly packet?: readonly number[];
  readonly pieces?: readonly Piece[];
}

export class Guest {
  readonly rig: Rig;
  readonly dev: AhciController;
  readonly socket: PciSocket;

  constructor(o: AhciOptions, ramBytes = 2 << 20) {
    this.rig = createRig({ ramBytes });
    this.dev = new AhciController(o);
    const size = this.dev.spec.bars[0]?.size ?? 0;
    this.socket = new PciSocket({ rig: this.rig, device: this.dev, bar: 5, base: BAR, size, irq: 11 });
  }

  r(offset: number): number {
    return this.rig.cpu.read32(BAR + offset);
  }
  w(offset: number, value: number): void {
    this.rig.cpu.write32(BAR + offset, value >>> 0);
  }
  /** Port register. */
  pr(port: number, reg: number): number {
    return this.r(0x100 + port * 0x80 + reg);
  }
  pw(port: number, reg: number, value: number): void {
    this.w(0x100 + port * 0x80 + reg, value);
  }
  area(port: number): number {
    return AREA * (port + 1);
  }
  fis(port: number, at: number): number[] {
    const a = this.area(port) + FIS + at;
    return Array.from({ length: 20 }, (_, i) => this.rig.ram.read8(a + i));
  }

  /** Brings a port up as a driver does. */
  start(port = 0): void {
    const a = this.area(port);
    this.pw(port, 0x00, a + LIST);
    this.pw(port, 0x04, 0);
    this.pw(port, 0x08, a + FIS);
    this.pw(port, 0x0c, 0);
    this.pw(port, 0x14, 0x7dc0_00ff);
    this.pw(port, 0x18, 0x16);
    this.pw(port, 0x10, 0xffff_ffff);
    this.pw(port, 0x18, 0x17);
    this.w(0x04, 0x8000_0002);
    this.w(0x08, 0xffff_ffff);
  }

  /** Lays a command out in memory without issuing it. */
  lay(port: number, q: Request): void {
    const { ram } = this.rig;
    const slot = q.slot ?? 0;
    const pieces = q.pieces ?? [];
    const table = this.area(port) + TABLES + slot * TABLE;
    const header = this.area(port) + LIST + slot * 32;
    ram.write32(
      header,
      5 | (q.packet !== undefined ? 0x20 : 0) | (q.write === true ? 0x40 : 0) | (pieces.length << 16),
    );
    ram.write32(header + 4, 0);
    ram.write32(header + 8, table);
    ram.write32(header + 12, 0);
    const lba = q.lba ?? 0;
    const features = q.features ?? 0;
    const count = q.count ?? 0;
    const high = Math.floor(lba / 0x100_0000);
    const ext = q.device === undefined;
    const fis = [
      0x27,
      0x80,
      q.command,
      features & 0xff,
      lba & 0xff,
      (lba >>> 8) & 0xff,
      (lba >>> 16) & 0xff,
      q.device ?? 0x40,
      ext ? high & 0xff : 0,
      ext ? (high >>> 8) & 0xff : 0,
      ext ? (high >>> 16) & 0xff : 0,
      features >>> 8,
      count & 0xff,
      count >>> 8,
      0,
      0,
      q.auxiliary ?? 0,
      0,
      0,
      0,
    ];
    fis.forEach((b, i) => {
      ram.write8(table + i, b);
    });
    for (let i = 0; i < 16; i++) ram.write8(table + 0x40 + i, q.packet?.[i] ?? 0);
    pieces.forEach(([addr, bytes], i) => {
      const e = table + 0x80 + i * 16;
      ram.write32(e, addr % 2 ** 32);
      ram.write32(e + 4, Math.floor(addr / 2 ** 32));
      ram.write32(e + 8, 0);
      ram.write32(e + 12, bytes - 1);
    });
  }

  /** Lays a command out and issues it. */
  issue(port: number, q: Request): void {
    this.lay(port, q);
    this.pw(port, 0x38, 1 << (q.slot ?? 0));
  }

  /** Issues and waits; returns the task file. */
  async run(port: number, q: Request): Promise<number> {
    this.issue(port, q);
    await settle();
    return this.pr(port, 0x20);
  }

  /** A queued read or write; the tag is the slot. */
  queue(
    port: number,
    o: { tag: number; write?: boolean; lba: number; count: number; pieces: readonly Piece[]; fua?: boolean },
  ): void {
    this.lay(port, {
      slot: o.tag,
      command: o.write === true ? 0x61 : 0x60,
      features: o.count & 0xffff,
      lba: o.lba,
      count: o.tag << 3,
      write: o.write === true,
      pieces: o.pieces,
    });
    if (o.fua === true) this.rig.ram.write8(this.area(port) + TABLES + o.tag * TABLE + 7, 0xc0);
    this.pw(port, 0x34, 1 << o.tag);
    this.pw(port, 0x38, 1 << o.tag);
  }

  /** An ATAPI command with one buffer at DATA. */
  packet(port: number, packet: readonly number[], bytes: number, dma = true): Promise<number> {
    return this.run(port, {
      command: 0xa0,
      features: dma ? 1 : 0,
      packet,
      pieces: bytes === 0 ? [] : [[DATA, bytes]],
    });
  }

  /** Stops and starts the port after an error, as a driver's error handler does. */
  recover(port = 0): void {
    this.pw(port, 0x18, 0x16);
    this.pw(port, 0x10, 0xffff_ffff);
    this.w(0x08, 0xffff_ffff);
    this.pw(port, 0x18, 0x17);
  }

  bytes(addr: number, n: number): number[] {
    return Array.from({ length: n }, (_, i) => this.rig.ram.read8(addr + i));
  }
  text(addr: number, n: number): string {
    return String.fromCharCode(...this.bytes(addr, n));
  }
  /** A word of IDENTIFY data at DATA. */
  word(n: number): number {
    return this.rig.ram.read16(DATA + n * 2);
  }
  /** An ATA string of IDENTIFY data at DATA. */
  ataText(word: number, words: number): string {
    let s = '';
    for (let i = 0; i < words; i++) {
      const v = this.word(word + i);
      s += String.fromCharCode(v >> 8, v & 0xff);
    }
    return s.trim();
  }
}
