// The parts of Linux's boot_params ("zero page", Documentation/arch/x86/zero-page.rst) that both ways of starting Linux
// share: memory map, RSDP pointer, command line, initrd, setup_data.
import { type GuestMemory, HyveError, hi32, lo32 } from '@hyve/core';
import { cString, hex } from './image.ts';
import { CMDLINE, CMDLINE_ROOM, GIB4, MIB, SETUP_DATA, SETUP_DATA_END, ZERO_PAGE } from './layout.ts';
import type { GuestRam, RamPlan } from './ram.ts';

/** Offsets in boot_params. */
export const BP = {
  extMemK: 0x002,
  acpiRsdp: 0x070,
  extRamdiskImage: 0x0c0,
  extRamdiskSize: 0x0c4,
  altMemK: 0x1e0,
  e820Entries: 0x1e8,
  header: 0x1f1,
  vidMode: 0x1fa,
  bootFlag: 0x1fe,
  magic: 0x202,
  version: 0x206,
  typeOfLoader: 0x210,
  loadflags: 0x211,
  code32Start: 0x214,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  cmdLinePtr: 0x228,
  kernelAlignment: 0x230,
  setupData: 0x250,
  e820Table: 0x2d0,
} as const;

const E820_MAX = 128;
const PAGE = 4096;

/** One node for Linux's setup_data list (boot.rst, protocol 2.09). Type 9 is a random seed. */
export interface SetupData {
  /** SETUP_* number. */
  readonly type: number;
  /** Payload. */
  readonly data: Uint8Array;
}

/** Things both Linux entries hand over. */
export interface LinuxHandover extends GuestRam {
  /** Initial RAM disk. */
  readonly initrd?: Uint8Array;
  /** Kernel command line. Default empty. */
  readonly cmdline?: string;
  /** Address of the ACPI RSDP, given to kernels that take it (protocol 2.14). */
  readonly rsdp?: number;
  /** Nodes for the setup_data list, in order (protocol 2.09). */
  readonly setupData?: readonly SetupData[];
}

/** Takes and fills the command line. @param max bytes the kernel takes, without NUL @throws HyveError `LINUX_CMDLINE` */
export function placeCmdline(plan: RamPlan, text: string, max: number): void {
  const bytes = cString(text, 'LINUX_CMDLINE', 'the command line');
  const most = Math.min(max, CMDLINE_ROOM - 1);
  if (bytes.length - 1 > most)
    throw new HyveError('LINUX_CMDLINE', `a command line of ${bytes.length - 1} bytes; this kernel takes ${most}`);
  plan.put('cmdline', CMDLINE, bytes, 'LINUX_MEMORY');
}

/**
 * Puts the initrd at the top of what the kernel allows, page-aligned: below `max`, else (if `anywhere`) as high as RAM
 * below 4 GiB goes, else above 4 GiB. Returns its address, 0 for an empty one.
 * @throws HyveError `LINUX_INITRD`
 */
export function placeInitrd(plan: RamPlan, initrd: Uint8Array | undefined, max: number, anywhere: boolean): number {
  if (initrd === undefined || initrd.length === 0) return 0;
  let at = plan.highest(initrd.length, PAGE, MIB, Math.min(max + 1, GIB4));
  if (at < 0 && anywhere) at = plan.highest(initrd.length, PAGE, MIB, GIB4);
  if (at < 0 && anywhere) at = plan.highest(initrd.length, PAGE, GIB4, Number.MAX_SAFE_INTEGER);
  if (at < 0) {
    const fits = plan.highest(initrd.length, PAGE, MIB, Number.MAX_SAFE_INTEGER) >= 0;
    throw new HyveError(
      'LINUX_INITRD',
      fits
        ? `an initrd of ${hex(initrd.length)} bytes fits only above this kernel's initrd_addr_max, ${hex(max)}`
        : `an initrd of ${hex(initrd.length)} bytes does not fit the guest's memory beside the kernel`,
    );
  }
  plan.put('initrd', at, initrd, 'LINUX_INITRD');
  return at;
}

/** Fills a zero page with what does not come from the kernel file. @throws HyveError `LINUX_E820`, `LINUX_SETUP_DATA` */
export function fillBootParams(
  page: DataView,
  o: LinuxHandover,
  initrdAt: number,
  features: { readonly rsdp: boolean },
): void {
  if (o.e820.length > E820_MAX)
    throw new HyveError('LINUX_E820', `${o.e820.length} ranges in the memory map; the zero page holds ${E820_MAX}`);
  const kib = Math.max(0, Math.floor((o.lowmem - MIB) / 1024));
  page.setUint16(BP.extMemK, Math.min(kib, 0xffff), true);
  page.setUint32(BP.altMemK, kib, true);
  page.setUint8(BP.e820Entries, o.e820.length);
  o.e820.forEach((e, i) => {
    const at = BP.e820Table + 20 * i;
    set64(page, at, e.base);
    set64(page, at + 8, e.size);
    page.setUint32(at + 16, e.type, true);
  });
  page.setUint16(BP.vidMode, 0xffff, true); // the normal mode
  page.setUint8(BP.typeOfLoader, 0xff); // no assigned id
  page.setUint32(BP.cmdLinePtr, CMDLINE, true);
  const size = initrdAt === 0 ? 0 : (o.initrd?.length ?? 0);
  page.setUint32(BP.ramdiskImage, lo32(initrdAt), true);
  page.setUint32(BP.ramdiskSize, lo32(size), true);
  page.setUint32(BP.extRamdiskImage, hi32(initrdAt), true);
  page.setUint32(BP.extRamdiskSize, hi32(size), true);
  if (o.rsdp !== undefined && features.rsdp) set64(page, BP.acpiRsdp, o.rsdp);
}

/** Lays down the setup_data list and returns its first address, 0 if there is none. @throws HyveError `LINUX_SETUP_DATA` */
export function placeSetupData(plan: RamPlan, memory: GuestMemory, nodes: readonly SetupData[]): number {
  if (nodes.length === 0) return 0;
  let at = SETUP_DATA;
  const starts = nodes.map((n) => {
    const here = at;
    at += 16 + Math.ceil(n.data.length / 16) * 16;
    return here;
  });
  if (at > SETUP_DATA_END)
    throw new HyveError(
      'LINUX_SETUP_DATA',
      `setup_data of ${hex(at - SETUP_DATA)} bytes; ${hex(SETUP_DATA_END - SETUP_DATA)} fit`,
    );
  plan.reserve('setup_data', SETUP_DATA, at - SETUP_DATA, 'LINUX_MEMORY');
  nodes.forEach((n, i) => {
    const here = starts[i] as number;
    memory.write32(here, starts[i + 1] ?? 0);
    memory.write32(here + 4, 0);
    memory.write32(here + 8, n.type);
    memory.write32(here + 12, n.data.length);
    memory.load(here + 16, n.data);
  });
  return SETUP_DATA;
}

function set64(v: DataView, at: number, n: number): void {
  v.setUint32(at, lo32(n), true);
  v.setUint32(at + 4, hi32(n), true);
}

/** Writes a finished zero page. @throws HyveError `LINUX_MEMORY` */
export function placeZeroPage(plan: RamPlan, page: Uint8Array): void {
  plan.put('zero page', ZERO_PAGE, page, 'LINUX_MEMORY');
}
