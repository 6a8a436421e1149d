// Uncompressed ELF kernels: PVH entry (Xen's direct boot ABI, docs/misc/pvh.pandoc and arch-x86/hvm/start_info.h) where a
// note offers it, else Linux's 64-bit entry with a zero page. bhyve has no such loader.
import { HyveError, hi32, lo32 } from '@hyve/core';
import {
  BP,
  fillBootParams,
  type LinuxHandover,
  placeCmdline,
  placeInitrd,
  placeSetupData,
  placeZeroPage,
} from './boot-params.ts';
import { type Elf, findNote, loadSegments, parseElf } from './elf.ts';
import { hex, Image } from './image.ts';
import { CMDLINE, GDT, GIB4, PAGE_TABLES, ZERO_PAGE } from './layout.ts';
import { RamPlan } from './ram.ts';
import {
  type EntryState,
  FLAT_GDT_BYTES,
  IDENTITY_TABLE_BYTES,
  longModeState,
  protectedModeState,
  writeFlatGdt,
  writeIdentityTables,
} from './state.ts';

/** XEN_ELFNOTE_PHYS32_ENTRY. */
const NOTE_PHYS32_ENTRY = 18;
const START_MAGIC = 0x336ec578;
const START_BYTES = 56;
const MODULE_BYTES = 32;
const MAP_ENTRY_BYTES = 24;
/** Start info, one module and the map share the page of the zero page. */
const MAP_MAX = Math.floor((4096 - START_BYTES - 8 - MODULE_BYTES) / MAP_ENTRY_BYTES);
const VMLINUX_CMDLINE_MAX = 2047;

/** What {@link loadVmlinux} needs. */
export interface VmlinuxOptions extends LinuxHandover {
  /** The ELF file. */
  readonly kernel: Uint8Array;
  /** `pvh`: 32-bit PVH entry (has no place for `setupData`, which is left out); `64`: Linux 64-bit entry; `auto`: PVH where a note offers it. Default `auto`. */
  readonly entry?: 'pvh' | '64' | 'auto';
}

/** The PVH entry point, or null. */
function pvhEntry(img: Image, elf: Elf): number | null {
  const d = findNote(img, elf, 'Xen', NOTE_PHYS32_ENTRY);
  if (d === null || d.length < 4) return null;
  const v = new DataView(d.buffer, d.byteOffset, d.byteLength);
  return v.getUint32(0, true); // four or eight bytes long; always below 4 GiB
}

function startInfo(o: VmlinuxOptions, initrdAt: number): Uint8Array {
  if (o.e820.length > MAP_MAX)
    throw new HyveError(
      'LINUX_E820',
      `${o.e820.length} ranges in the memory map; PVH start info has room for ${MAP_MAX}`,
    );
  const page = new Uint8Array(4096);
  const v = new DataView(page.buffer);
  const set64 = (at: number, n: number): void => {
    v.setUint32(at, lo32(n), true);
    v.setUint32(at + 4, hi32(n), true);
  };
  const modules = START_BYTES + 8;
  const map = modules + MODULE_BYTES;
  v.setUint32(0, START_MAGIC, true);
  v.setUint32(4, 1, true);
  v.setUint32(12, initrdAt === 0 ? 0 : 1, true);
  set64(16, initrdAt === 0 ? 0 : ZERO_PAGE + modules);
  set64(24, CMDLINE);
  set64(32, o.rsdp ?? 0);
  set64(40, ZERO_PAGE + map);
  v.setUint32(48, o.e820.length, true);
  if (initrdAt !== 0) {
    set64(modules, initrdAt);
    set64(modules + 8, o.initrd?.length ?? 0);
  }
  o.e820.forEach((e, i) => {
    set64(map + MAP_ENTRY_BYTES * i, e.base);
    set64(map + MAP_ENTRY_BYTES * i + 8, e.size);
    v.setUint32(map + MAP_ENTRY_BYTES * i + 16, e.type, true);
  });
  return page;
}

/** A zero page for a kernel that has no setup header in its file. */
function zeroPage(o: VmlinuxOptions, initrdAt: number, setupData: number): Uint8Array {
  const page = new Uint8Array(4096);
  const v = new DataView(page.buffer);
  fillBootParams(v, o, initrdAt, { rsdp: true });
  v.setUint16(BP.bootFlag, 0xaa55, true);
  v.setUint32(BP.magic, 0x53726448, true); // "HdrS"
  v.setUint16(BP.version, 0x20f, true);
  v.setUint8(BP.loadflags, 1);
  v.setUint32(BP.kernelAlignment, 0x200000, true);
  v.setUint32(BP.setupData, setupData, true);
  return page;
}

/**
 * Puts an uncompressed ELF kernel into guest memory and says how to start it.
 * @throws HyveError `ELF_IMAGE` for files it cannot load, `LINUX_ENTRY` for an entry the file lacks, and `LINUX_CMDLINE`,
 * `LINUX_INITRD`, `LINUX_E820`, `LINUX_SETUP_DATA`, `LINUX_MEMORY` as `loadLinux`
 */
export function loadVmlinux(o: VmlinuxOptions): EntryState {
  const img = new Image(o.kernel, 'ELF_IMAGE', 'ELF kernel');
  const elf = parseElf(img, 'ELF_IMAGE');
  const wanted = o.entry ?? 'auto';
  const pvh = wanted === '64' ? null : pvhEntry(img, elf);
  if (wanted === 'pvh' && pvh === null)
    throw new HyveError('LINUX_ENTRY', 'the ELF file has no Xen PHYS32_ENTRY note: no PVH entry');
  if (pvh === null && (elf.bits !== 64 || elf.entry >= GIB4))
    throw new HyveError(
      'LINUX_ENTRY',
      elf.bits !== 64
        ? 'a 32-bit ELF file without a PVH note: no entry known'
        : `entry ${hex(elf.entry)} is above 4 GiB, outside the first page tables`,
    );
  const plan = new RamPlan(o);
  plan.reserve('gdt', GDT, FLAT_GDT_BYTES, 'LINUX_MEMORY');
  placeCmdline(plan, o.cmdline ?? '', VMLINUX_CMDLINE_MAX);
  if (pvh === null) plan.reserve('page tables', PAGE_TABLES, IDENTITY_TABLE_BYTES, 'LINUX_MEMORY');
  loadSegments(img, elf, plan, 'ELF_IMAGE');
  const initrdAt = placeInitrd(plan, o.initrd, GIB4 - 1, true);
  if (pvh !== null) {
    plan.put('start info', ZERO_PAGE, startInfo(o, initrdAt), 'LINUX_MEMORY');
    writeFlatGdt(o.memory, GDT, '32');
    const state = protectedModeState({ entry: pvh, gdt: GDT, rbx: ZERO_PAGE });
    return { state, mode: '32', entry: pvh, placed: plan.placed };
  }
  const setupData = placeSetupData(plan, o.memory, o.setupData ?? []);
  placeZeroPage(plan, zeroPage(o, initrdAt, setupData));
  writeFlatGdt(o.memory, GDT, '64');
  writeIdentityTables(o.memory, PAGE_TABLES);
  const state = longModeState({ entry: elf.entry, gdt: GDT, rsi: ZERO_PAGE, cr3: PAGE_TABLES });
  return { state, mode: '64', entry: elf.entry, placed: plan.placed };
}
