// SMBIOS 2.8 (DMTF DSP0134 2.8.0): 32-bit entry point at 0xF1000 and its structures. Mirrors bhyve's smbiostbl.c; strings
// carry the names of bhyve_config.5 (bios.*, system.*, board.*, chassis.*).
import { HyveError } from '@hyve/core';
import { asciiCode, ByteWriter, checksum, hex, type TableImage } from '../bytes.ts';

/** bios.* */
export interface BiosStrings {
  /** bios.vendor. Default `HYVE`. */
  readonly vendor?: string;
  /** bios.version. Default `1.0`. */
  readonly version?: string;
  /** bios.release_date, mm/dd/yyyy. Default 01/01/2026. */
  readonly releaseDate?: string;
}

/** system.* */
export interface SystemStrings {
  /** system.manufacturer. Default `Hyve`. */
  readonly manufacturer?: string;
  /** system.product_name. Default `HYVE`. */
  readonly productName?: string;
  /** system.version. Default `1.0`. */
  readonly version?: string;
  /** system.serial_number. Default `None`. */
  readonly serialNumber?: string;
  /** system.sku. Default `None`. */
  readonly sku?: string;
  /** system.family_name. Default `Virtual Machine`. */
  readonly familyName?: string;
}

/** board.* */
export interface BoardStrings {
  /** board.manufacturer. Default `Hyve`. */
  readonly manufacturer?: string;
  /** board.product_name. Default `HYVE`. */
  readonly productName?: string;
  /** board.version. Default `1.0`. */
  readonly version?: string;
  /** board.serial_number. Default `None`. */
  readonly serialNumber?: string;
  /** board.asset_tag. Default `None`. */
  readonly assetTag?: string;
  /** board.location. Default `None`. */
  readonly location?: string;
}

/** chassis.* */
export interface ChassisStrings {
  /** chassis.manufacturer. Default `Hyve`. */
  readonly manufacturer?: string;
  /** chassis.version. Default `1.0`. */
  readonly version?: string;
  /** chassis.serial_number. Default `None`. */
  readonly serialNumber?: string;
  /** chassis.asset_tag. Default `None`. */
  readonly assetTag?: string;
  /** chassis.sku. Default `None`. */
  readonly sku?: string;
}

/** What {@link buildSmbios} needs. */
export interface SmbiosConfig {
  /** Where the entry point goes, a multiple of 16 in 0xF0000–0xFFFFF. Default 0xF1000. */
  readonly base?: number;
  /** First address the structures must stay below. Default `base` + 0x1400, where ACPI begins. */
  readonly limit?: number;
  /** RAM below 4 GiB in bytes, from 0. */
  readonly lowmem: number;
  /** RAM from 4 GiB up in bytes. Default 0. */
  readonly highmem?: number;
  /** Sockets. Default 1. */
  readonly sockets?: number;
  /** Cores of each socket. Default 1. */
  readonly cores?: number;
  /** Threads of each core. Default 1. */
  readonly threads?: number;
  /** Processor signature (CPUID leaf 1 EAX). Default family 6, model 0x1A, stepping 5. */
  readonly cpuSignature?: number;
  /** Processor features (CPUID leaf 1 EDX). Default 0xBFEBFBFF. */
  readonly cpuFeatures?: number;
  /** Clock speed in MHz; 0: not known. Default 0. */
  readonly cpuMhz?: number;
  /** Machine UUID in text form; absent: the all-zero "not set". */
  readonly uuid?: string;
  /** bios.* */
  readonly bios?: BiosStrings;
  /** system.* */
  readonly system?: SystemStrings;
  /** board.* */
  readonly board?: BoardStrings;
  /** chassis.* */
  readonly chassis?: ChassisStrings;
}

const BASE = 0xf1000;
const AREA = 0x1400;
const ENTRY_BYTES = 31;
const TABLE_OFFSET = 0x20;
const GIB4 = 2 ** 32;
const MIB = 0x100000;

// Handles: type in the high byte, number in the low.
const HANDLE_BOARD = 0x0200;
const HANDLE_CHASSIS = 0x0300;
const HANDLE_ARRAY = 0x1000;

function handle(type: number, n: number): number {
  return (type << 8) | n;
}

/** Builds structures one after the other and remembers what the entry point says about them. */
class Structures {
  readonly out: ByteWriter = new ByteWriter();
  count = 0;
  largest = 0;

  /** One structure: `fill` writes what follows the 4-byte header and names strings by number through `text`. */
  add(type: number, id: number, fill: (w: ByteWriter, text: (s: string) => number) => void): void {
    const w = new ByteWriter();
    const strings: string[] = [];
    fill(w, (s) => {
      if (s === '') return 0;
      strings.push(s);
      return strings.length;
    });
    const begin = this.out.length;
    this.out
      .u8(type)
      .u8(4 + w.length)
      .u16(id)
      .raw(w.finish());
    for (const s of strings) {
      for (let i = 0; i < s.length; i++) this.out.u8(asciiCode(s, i));
      this.out.u8(0);
    }
    this.out.u8(0);
    if (strings.length === 0) this.out.u8(0);
    this.count++;
    this.largest = Math.max(this.largest, this.out.length - begin);
  }
}

/** The 16 bytes of type 1: first three groups little-endian (§7.2.1). @throws HyveError `SMBIOS_UUID` */
function uuidBytes(text: string | undefined): Uint8Array {
  if (text === undefined) return new Uint8Array(16);
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text))
    throw new HyveError('SMBIOS_UUID', `${JSON.stringify(text)} is not a UUID; 8-4-4-4-12 hexadecimal digits expected`);
  const h = text.replaceAll('-', '');
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return Uint8Array.from(order, (i) => Number.parseInt(h.slice(2 * i, 2 * i + 2), 16));
}

function bios(t: Structures, s: BiosStrings): void {
  t.add(0, handle(0, 0), (w, text) => {
    w.u8(text(s.vendor ?? 'HYVE')).u8(text(s.version ?? '1.0'));
    w.u16(0xf000)
      .u8(text(s.releaseDate ?? '01/01/2026'))
      .u8(0); // segment; 64 KiB of ROM
    w.u32(1 << 7).u32(0); // characteristics: PCI
    w.u8(1).u8((1 << 4) | (1 << 2)); // extension: ACPI; virtual machine, targeted content distribution
    w.u8(1).u8(0).u8(0xff).u8(0xff); // release 1.0; no embedded controller
  });
}

function system(t: Structures, s: SystemStrings, uuid: string | undefined): void {
  t.add(1, handle(1, 0), (w, text) => {
    w.u8(text(s.manufacturer ?? 'Hyve'))
      .u8(text(s.productName ?? 'HYVE'))
      .u8(text(s.version ?? '1.0'));
    w.u8(text(s.serialNumber ?? 'None'))
      .raw(uuidBytes(uuid))
      .u8(6); // woken by the power switch
    w.u8(text(s.sku ?? 'None')).u8(text(s.familyName ?? 'Virtual Machine'));
  });
}

function board(t: Structures, s: BoardStrings): void {
  t.add(2, HANDLE_BOARD, (w, text) => {
    w.u8(text(s.manufacturer ?? 'Hyve'))
      .u8(text(s.productName ?? 'HYVE'))
      .u8(text(s.version ?? '1.0'));
    w.u8(text(s.serialNumber ?? 'None'))
      .u8(text(s.assetTag ?? 'None'))
      .u8(1); // a hosting board
    w.u8(text(s.location ?? 'None'))
      .u16(HANDLE_CHASSIS)
      .u8(0x0a)
      .u8(0); // motherboard, no contained objects
  });
}

function chassis(t: Structures, s: ChassisStrings): void {
  t.add(3, HANDLE_CHASSIS, (w, text) => {
    w.u8(text(s.manufacturer ?? 'Hyve'))
      .u8(1)
      .u8(text(s.version ?? '1.0')); // type other
    w.u8(text(s.serialNumber ?? 'None')).u8(text(s.assetTag ?? 'None'));
    w.u8(3).u8(3).u8(3).u8(3).u32(0).u8(0).u8(0).u8(0).u8(0); // states safe, security none; no height, cords, elements
    w.u8(text(s.sku ?? 'None'));
  });
}

function processors(t: Structures, c: SmbiosConfig): void {
  const sockets = c.sockets ?? 1;
  const cores = c.cores ?? 1;
  const threads = cores * (c.threads ?? 1);
  for (let i = 0; i < sockets; i++)
    t.add(4, handle(4, i), (w, text) => {
      w.u8(text(`CPU #${i}`))
        .u8(3)
        .u8(1)
        .u8(text('Hyve')); // central processor, family other
      w.u32(c.cpuSignature ?? 0x106a5)
        .u32(c.cpuFeatures ?? 0xbfebfbff)
        .u8(text(''))
        .u8(0);
      w.u16(0)
        .u16(c.cpuMhz ?? 0)
        .u16(c.cpuMhz ?? 0)
        .u8(0x41)
        .u8(6); // populated and enabled; no upgrade
      w.u16(0xffff).u16(0xffff).u16(0xffff).u8(0).u8(0).u8(0); // no caches described, no strings
      w.u8(Math.min(cores, 255)).u8(Math.min(cores, 255)).u8(Math.min(threads, 255));
      const many = (cores > 1 ? 1 << 3 : 0) | (threads > cores ? 1 << 4 : 0);
      w.u16((1 << 2) | many | (1 << 5)).u16(1); // 64-bit, execute protection; family 2
    });
}

/** Range of one type 19 structure in KiB, or in bytes where the 32-bit KiB fields do not hold it (§7.20). */
function mappedRange(t: Structures, n: number, base: number, size: number): void {
  t.add(19, handle(19, n), (w) => {
    const lastKb = (base + size) / 1024 - 1;
    if (lastKb < 0xffffffff)
      w.u32(base / 1024)
        .u32(lastKb)
        .u16(HANDLE_ARRAY)
        .u8(1)
        .u64(0)
        .u64(0);
    else
      w.u32(0xffffffff)
        .u32(0xffffffff)
        .u16(HANDLE_ARRAY)
        .u8(1)
        .u64(base)
        .u64(base + size - 1);
  });
}

function memory(t: Structures, c: SmbiosConfig): void {
  const high = c.highmem ?? 0;
  const total = c.lowmem + high;
  const kib = total / 1024;
  t.add(16, HANDLE_ARRAY, (w) => {
    w.u8(1).u8(3).u8(3); // location other, use system memory, no error correction
    w.u32(Math.min(kib, 0x80000000))
      .u16(0xfffe)
      .u16(1)
      .u64(kib < 0x80000000 ? 0 : total);
  });
  t.add(17, handle(17, 0), (w, text) => {
    const mib = Math.floor(total / MIB);
    w.u16(HANDLE_ARRAY).u16(0xfffe).u16(64).u16(64);
    w.u16(Math.min(mib, 0x7fff)).u8(1).u8(0).u8(text('Slot 0')).u8(text('Bank 0')); // form factor other
    w.u8(7).u16(0x80).u16(0).u8(0).u8(0).u8(0).u8(0).u8(0); // RAM, synchronous; speed not known, no strings
    w.u32(mib < 0x7fff ? 0 : mib)
      .u16(0)
      .u16(0)
      .u16(0)
      .u16(0);
  });
  mappedRange(t, 0, 0, c.lowmem);
  if (high > 0) mappedRange(t, 1, GIB4, high);
}

/**
 * Builds the entry point and types 0, 1, 2, 3, 4 (one for each socket), 16, 17, 19, 32 and 127.
 * @throws HyveError `SMBIOS_SPACE` when the structures pass `limit`, `SMBIOS_UUID`, `SMBIOS_CONFIG`, `TABLE_TEXT`
 */
export function buildSmbios(c: SmbiosConfig): TableImage {
  const base = c.base ?? BASE;
  const limit = c.limit ?? base + AREA;
  if (base % 16 !== 0 || base < 0xf0000 || base > 0xfffff)
    throw new HyveError(
      'SMBIOS_CONFIG',
      `entry point at ${hex(base)}: guests look at multiples of 16 in 0xf0000-0xfffff`,
    );
  if (c.lowmem % 1024 !== 0 || (c.highmem ?? 0) % 1024 !== 0)
    throw new HyveError(
      'SMBIOS_CONFIG',
      `memory of ${hex(c.lowmem)} and ${hex(c.highmem ?? 0)} bytes is not whole KiB`,
    );
  const t = new Structures();
  bios(t, c.bios ?? {});
  system(t, c.system ?? {}, c.uuid);
  board(t, c.board ?? {});
  chassis(t, c.chassis ?? {});
  processors(t, c);
  memory(t, c);
  t.add(32, handle(32, 0), (w) => w.zeros(6).u8(0)); // booted without error
  t.add(127, handle(127, 0), () => {});
  const table = t.out.finish();
  const end = base + TABLE_OFFSET + table.length;
  if (end > limit || table.length > 0xffff)
    throw new HyveError('SMBIOS_SPACE', `SMBIOS structures end at ${hex(end)}, past ${hex(limit)}; give fewer sockets`);

  const e = new ByteWriter().ascii('_SM_', 4).u8(0).u8(ENTRY_BYTES).u8(2).u8(8).u16(t.largest).u8(0).zeros(5);
  e.ascii('_DMI_', 5)
    .u8(0)
    .u16(table.length)
    .u32(base + TABLE_OFFSET)
    .u16(t.count)
    .u8(0x28);
  const entry = e.finish();
  entry[0x15] = checksum(entry.subarray(0x10));
  entry[4] = checksum(entry);
  const bytes = new Uint8Array(TABLE_OFFSET + table.length);
  bytes.set(entry);
  bytes.set(table, TABLE_OFFSET);
  return { name: 'smbios', addr: base, bytes };
}
