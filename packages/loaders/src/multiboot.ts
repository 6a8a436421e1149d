// Multiboot 1 (specification 0.6.96): ELF32 files and the address fields of the header ("a.out kludge"), modules, memory
// map. Mirrors HyperKit's `-f multiboot`. Modules are loaded page-aligned behind the kernel.
import { HyveError, hi32, lo32 } from '@hyve/core';
import { isElf, loadSegments, parseElf } from './elf.ts';
import { alignUp, cString, hex, Image } from './image.ts';
import { GIB4, MIB } from './layout.ts';
import { type GuestRam, RamPlan } from './ram.ts';
import { type EntryState, FLAT_GDT_BYTES, protectedModeState, writeFlatGdt } from './state.ts';

const HEADER_MAGIC = 0x1badb002;
const LOADER_MAGIC = 0x2badb002;
/** The header lies in the first 8 KiB, 4-aligned (§3.1). */
const HEADER_SEARCH = 8192;

const NEEDS_UNKNOWN = 0xfff8;
const HAS_ADDRESSES = 1 << 16;

// Flags of the information structure (§3.3).
const INFO_MEMORY = 1 << 0;
const INFO_CMDLINE = 1 << 2;
const INFO_MODULES = 1 << 3;
const INFO_MMAP = 1 << 6;
const INFO_LOADER_NAME = 1 << 9;
const INFO_BYTES = 120;

const PAGE = 4096;
const LOW_BLOCK = 0x10000;
const CODE = 'MULTIBOOT';

/** One boot module. */
export interface MultibootModule {
  /** Contents. */
  readonly data: Uint8Array;
  /** Its string. Default empty. */
  readonly cmdline?: string;
}

/** What {@link loadMultiboot} needs. */
export interface MultibootOptions extends GuestRam {
  /** The kernel file. */
  readonly kernel: Uint8Array;
  /** Kernel command line. Default empty. */
  readonly cmdline?: string;
  /** Modules, in order. */
  readonly modules?: readonly MultibootModule[];
}

/** Offset of the header, or -1. */
function findHeader(img: Image): number {
  const end = Math.min(img.length, HEADER_SEARCH) - 12;
  for (let at = 0; at <= end; at += 4)
    if (img.u32(at) === HEADER_MAGIC && (HEADER_MAGIC + img.u32(at + 4) + img.u32(at + 8)) >>> 0 === 0) return at;
  return -1;
}

/** Whether a file holds a Multiboot 1 header. */
export function isMultiboot(kernel: Uint8Array): boolean {
  return findHeader(new Image(kernel, CODE, 'Multiboot kernel')) >= 0;
}

/** Loads by the header's address fields; gives the entry and the end. */
function loadFlat(img: Image, header: number, plan: RamPlan): { entry: number; end: number } {
  const headerAddr = img.u32(header + 12);
  const loadAddr = img.u32(header + 16);
  const loadEnd = img.u32(header + 20);
  const bssEnd = img.u32(header + 24);
  const entry = img.u32(header + 28);
  const offset = header - (headerAddr - loadAddr);
  if (loadAddr > headerAddr || offset < 0)
    throw new HyveError(
      CODE,
      `header_addr ${hex(headerAddr)} and load_addr ${hex(loadAddr)} name no place in the file`,
    );
  const size = loadEnd === 0 ? img.length - offset : loadEnd - loadAddr;
  if (size <= 0) throw new HyveError(CODE, `load_end_addr ${hex(loadEnd)} is not above load_addr ${hex(loadAddr)}`);
  const total = Math.max(size, bssEnd - loadAddr);
  plan.put('kernel', loadAddr, img.slice(offset, size), CODE, total);
  return { entry, end: loadAddr + total };
}

/** Information structure, memory map, module list, strings and GDT in one block. */
function infoBlock(
  o: MultibootOptions,
  at: number,
  modules: readonly { base: number; size: number; cmdline: Uint8Array }[],
  cmdline: Uint8Array,
): { bytes: Uint8Array; gdt: number } {
  const name = cString('Hyve', CODE, 'the loader name');
  const map = INFO_BYTES;
  const list = map + 24 * o.e820.length;
  const gdt = alignUp(list + 16 * modules.length, 8);
  let text = gdt + FLAT_GDT_BYTES;
  const strings = [cmdline, name, ...modules.map((m) => m.cmdline)];
  const bytes = new Uint8Array(text + strings.reduce((n, s) => n + s.length, 0));
  const v = new DataView(bytes.buffer);
  const places = strings.map((s) => {
    const here = text;
    bytes.set(s, here);
    text += s.length;
    return at + here;
  });
  const u32 = (offset: number, value: number): void => v.setUint32(offset, value, true);
  u32(0, INFO_MEMORY | INFO_CMDLINE | (modules.length > 0 ? INFO_MODULES : 0) | INFO_MMAP | INFO_LOADER_NAME);
  const first = o.e820[0];
  u32(
    4,
    first !== undefined && first.base === 0 && first.type === 1 ? Math.min(640, Math.floor(first.size / 1024)) : 0,
  );
  u32(8, Math.floor((o.lowmem - MIB) / 1024));
  u32(16, places[0] as number);
  u32(20, modules.length);
  u32(24, modules.length > 0 ? at + list : 0);
  u32(44, 24 * o.e820.length);
  u32(48, at + map);
  u32(64, places[1] as number);
  o.e820.forEach((e, i) => {
    const row = map + 24 * i;
    u32(row, 20); // size of the rest
    u32(row + 4, lo32(e.base));
    u32(row + 8, hi32(e.base));
    u32(row + 12, lo32(e.size));
    u32(row + 16, hi32(e.size));
    u32(row + 20, e.type);
  });
  modules.forEach((m, i) => {
    const row = list + 16 * i;
    u32(row, m.base);
    u32(row + 4, m.base + m.size);
    u32(row + 8, places[2 + i] as number);
  });
  return { bytes, gdt: at + gdt };
}

/**
 * Puts a Multiboot 1 kernel and its modules into guest memory and says how to start it: flat 32-bit protected mode with
 * EAX 0x2BADB002 and EBX at the information structure.
 * @throws HyveError `MULTIBOOT` for files it cannot load and modules that do not fit
 */
export function loadMultiboot(o: MultibootOptions): EntryState {
  const img = new Image(o.kernel, CODE, 'Multiboot kernel');
  const header = findHeader(img);
  if (header < 0)
    throw new HyveError(CODE, 'not a Multiboot 1 kernel: no header with magic 0x1badb002 in the first 8 KiB');
  const flags = img.u32(header + 4);
  if ((flags & NEEDS_UNKNOWN) !== 0)
    throw new HyveError(CODE, `header flags ${hex(flags)} ask for features that Multiboot 1 does not have`);
  const plan = new RamPlan(o);
  let entry: number;
  let end: number;
  if ((flags & HAS_ADDRESSES) !== 0) ({ entry, end } = loadFlat(img, header, plan));
  else {
    if (!isElf(img)) throw new HyveError(CODE, 'neither an ELF file nor address fields in the Multiboot header');
    const elf = parseElf(img, CODE);
    if (elf.entry >= GIB4) throw new HyveError(CODE, `entry ${hex(elf.entry)} is above 4 GiB; entry is in 32-bit mode`);
    end = loadSegments(img, elf, plan, CODE);
    entry = elf.entry;
  }
  const modules = (o.modules ?? []).map((m, i) => {
    const base = plan.lowest(Math.max(m.data.length, 1), PAGE, Math.max(alignUp(end, PAGE), MIB), GIB4);
    if (base < 0)
      throw new HyveError(
        CODE,
        `module ${i} of ${hex(m.data.length)} bytes does not fit behind the kernel, which ends at ${hex(end)}`,
      );
    plan.put(`module ${i}`, base, m.data, CODE, Math.max(m.data.length, 1));
    return { base, size: m.data.length, cmdline: cString(m.cmdline ?? '', CODE, `the string of module ${i}`) };
  });
  const cmdline = cString(o.cmdline ?? '', CODE, 'the command line');
  // Conventional memory, out of the way of kernels that use what lies behind their image as heap.
  const size = infoBlock(o, 0, modules, cmdline).bytes.length;
  let at = plan.lowest(size, 16, LOW_BLOCK, MIB);
  if (at < 0) at = plan.highest(size, 16, 0x1000, GIB4);
  if (at < 0) throw new HyveError(CODE, `no room for the information structure of ${hex(size)} bytes`);
  const info = infoBlock(o, at, modules, cmdline);
  plan.put('multiboot info', at, info.bytes, CODE);
  writeFlatGdt(o.memory, info.gdt, '32');
  const state = protectedModeState({ entry, gdt: info.gdt, rax: LOADER_MAGIC, rbx: at });
  return { state, mode: '32', entry, placed: plan.placed };
}
