// Linux bzImage, boot protocol 2.06 and later (Documentation/arch/x86/boot.rst), 32-bit and 64-bit entry. memtest86+ uses
// the same format. Mirrors xhyve's kexec.c, and adds 64-bit entry, init_size, setup_data, RSDP and initrds above 4 GiB.
import { HyveError, isHyveError } from '@hyve/core';
import {
  BP,
  fillBootParams,
  type LinuxHandover,
  placeCmdline,
  placeInitrd,
  placeSetupData,
  placeZeroPage,
} from './boot-params.ts';
import { placeVmlinux } from './direct.ts';
import { alignUp, hex, Image } from './image.ts';
import { GDT, GIB4, MIB, PAGE_TABLES, ZERO_PAGE } from './layout.ts';
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
import { unpackLz4 } from './unpack/lz4.ts';
import { unpackLzma } from './unpack/lzma.ts';
import { unpackXz } from './unpack/xz.ts';

// Setup header fields that are read from the file only.
const SETUP_SECTS = 0x1f1;
const SYSSIZE = 0x1f4;
const JUMP_LENGTH = 0x201;
const INITRD_ADDR_MAX = 0x22c;
const RELOCATABLE = 0x234;
const XLOADFLAGS = 0x236;
const CMDLINE_SIZE = 0x238;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const PREF_ADDRESS = 0x258;
const INIT_SIZE = 0x260;

const LOADED_HIGH = 1;
/** What the decompressor leaves in loadflags when it has chosen a random place. */
const KASLR_FLAG = 1 << 1;
const XLF_KERNEL_64 = 1 << 0;
const XLF_ABOVE_4G = 1 << 1;

const OLDEST = 0x206;
const V2_08 = 0x208;
const V2_09 = 0x209;
const V2_10 = 0x20a;
const V2_12 = 0x20c;
const V2_14 = 0x20e;

/** Where the zero page's own fields resume behind the setup header. */
const HEADER_END = 0x290;
const SECTOR = 512;
const ENTRY_64 = 0x200;

/** What {@link loadLinux} needs. */
export interface LinuxOptions extends LinuxHandover {
  /** The bzImage file. */
  readonly kernel: Uint8Array;
  /** Entry to use; `auto`: 64-bit where the kernel offers it (XLF_KERNEL_64), else 32-bit. Default `auto`. */
  readonly entry?: '32' | '64' | 'auto';
  /**
   * The kernel's payload as {@link unpackKernel} gives it: the guest then starts behind its own decompressor. It is changed
   * in place. A payload that cannot be started that way is left alone, and the guest unpacks for itself.
   */
  readonly vmlinux?: Uint8Array | null;
  /** 32 random bits for the place of a kernel started from `vmlinux`; without it, or with `nokaslr`, none is taken. */
  readonly random?: () => number;
}

/** How a kernel's payload is packed. */
export type KernelCompression = 'gzip' | 'bzip2' | 'lzma' | 'xz' | 'lzo' | 'lz4' | 'zstd';

/**
 * A host's own decompressor for kernel payloads: gets the packed bytes and the size of what is in them, gives the ELF file,
 * or null if it cannot. What throws has failed, no more.
 */
export type DecompressKernel = (payload: Uint8Array, format: KernelCompression, size: number) => Uint8Array | null;

/** Kernels that were unpacked before, found by the packed bytes. Neither function may throw. */
export interface UnpackedKernels {
  /** The payload in memory that is the caller's own, null if there is none. */
  get(packed: Uint8Array): Uint8Array | null;
  /** Keeps a payload; the caller changes it afterwards. */
  put(packed: Uint8Array, unpacked: Uint8Array): void;
}

interface Header {
  version: number;
  setupBytes: number;
  payload: Uint8Array;
  relocatable: boolean;
  alignment: number;
  xloadflags: number;
  initrdMax: number;
  cmdlineMax: number;
  prefAddress: number;
  initSize: number;
}

function versionText(v: number): string {
  return `${v >> 8}.${String(v & 0xff).padStart(2, '0')}`;
}

/** Reads and checks the setup header. @throws HyveError `LINUX_*` */
function parseHeader(img: Image): Header {
  if (img.length < HEADER_END && !img.has(BP.magic, 'HdrS'))
    throw new HyveError('LINUX_NOT_BZIMAGE', `not a bzImage: ${img.length} bytes are too few for a setup header`);
  const flag = img.u16(BP.bootFlag);
  if (flag !== 0xaa55)
    throw new HyveError('LINUX_NOT_BZIMAGE', `not a bzImage: boot flag ${hex(flag)} at offset 0x1fe; 0xaa55 expected`);
  if (!img.has(BP.magic, 'HdrS')) throw new HyveError('LINUX_NOT_BZIMAGE', `not a bzImage: no "HdrS" at offset 0x202`);
  const version = img.u16(BP.version);
  if (version < OLDEST)
    throw new HyveError(
      'LINUX_PROTOCOL',
      `boot protocol ${versionText(version)} at offset 0x206; 2.06 or later is needed`,
    );
  if ((img.u8(BP.loadflags) & LOADED_HIGH) === 0)
    throw new HyveError('LINUX_NOT_HIGH', 'loadflags at offset 0x211 lack LOADED_HIGH: a zImage; a bzImage is needed');
  const setupSects = img.u8(SETUP_SECTS) || 4; // 0 stands for 4
  const setupBytes = (setupSects + 1) * SECTOR;
  if (setupBytes >= img.length)
    throw new HyveError(
      'LINUX_TRUNCATED',
      `truncated: the kernel begins at ${hex(setupBytes)} behind ${setupSects} setup sectors, the file ends at ${hex(img.length)}`,
    );
  // syssize counts 16-byte paragraphs, the last of which a file need not fill (memtest86+ does not).
  const paragraphs = img.u32(SYSSIZE);
  if (alignUp(img.length - setupBytes, 16) < paragraphs * 16)
    throw new HyveError(
      'LINUX_TRUNCATED',
      `truncated: syssize at offset 0x1f4 says ${hex(paragraphs * 16)} bytes of kernel, the file has ${hex(img.length - setupBytes)}`,
    );
  const alignment = img.u32(BP.kernelAlignment);
  const relocatable = img.u8(RELOCATABLE) !== 0;
  if (relocatable && (alignment === 0 || (alignment & (alignment - 1)) !== 0))
    throw new HyveError('LINUX_ALIGNMENT', `kernel_alignment ${hex(alignment)} at offset 0x230 is not a power of two`);
  return {
    version,
    setupBytes,
    payload: img.slice(setupBytes, img.length - setupBytes),
    relocatable,
    alignment,
    xloadflags: version >= V2_12 ? img.u16(XLOADFLAGS) : 0,
    initrdMax: img.u32(INITRD_ADDR_MAX),
    cmdlineMax: img.u32(CMDLINE_SIZE) || 255,
    prefAddress: version >= V2_10 ? img.u64(PREF_ADDRESS) : MIB,
    initSize: version >= V2_10 ? img.u32(INIT_SIZE) : 0,
  };
}

/**
 * Where the kernel goes: its preferred address, else, if it is relocatable, the first place above with the right
 * alignment (a kernel loaded below its preferred address moves itself up to it, so lower places gain nothing).
 */
function placeKernel(plan: RamPlan, h: Header): number {
  const size = Math.max(h.payload.length, h.initSize);
  const first = h.relocatable ? alignUp(Math.max(h.prefAddress, MIB), h.alignment) : h.prefAddress;
  let at = first;
  if (at < MIB || at + size > GIB4 || !plan.isRam(at, size)) at = -1;
  if (at < 0 && h.relocatable && first < GIB4) at = plan.lowest(size, h.alignment, first, GIB4);
  if (at < 0)
    throw new HyveError(
      'LINUX_TOO_LARGE',
      `the kernel needs ${hex(size)} bytes (init_size) of RAM from ${hex(h.prefAddress)} up; the guest has too little there`,
    );
  plan.put('kernel', at, h.payload, 'LINUX_TOO_LARGE', size);
  return at;
}

function chooseEntry(h: Header, wanted: '32' | '64' | 'auto'): '32' | '64' {
  const offers64 = (h.xloadflags & XLF_KERNEL_64) !== 0;
  if (wanted === 'auto') return offers64 ? '64' : '32';
  if (wanted === '64' && !offers64)
    throw new HyveError(
      'LINUX_ENTRY',
      'xloadflags at offset 0x236 lack XLF_KERNEL_64: this kernel has no 64-bit entry',
    );
  return wanted;
}

/**
 * Puts a Linux kernel into guest memory and says how to start it.
 * @throws HyveError `LINUX_NOT_BZIMAGE`, `LINUX_TRUNCATED`, `LINUX_PROTOCOL`, `LINUX_NOT_HIGH`, `LINUX_ALIGNMENT`,
 * `LINUX_ENTRY`, `LINUX_TOO_LARGE`, `LINUX_CMDLINE`, `LINUX_INITRD`, `LINUX_E820`, `LINUX_SETUP_DATA`, `LINUX_MEMORY`
 * @example
 * const { state } = loadLinux({ kernel, initrd, cmdline: 'console=ttyS0', memory, lowmem, e820, rsdp: 0xf2400 });
 * vm.vcpus[0].setState(state);
 */
export function loadLinux(o: LinuxOptions): EntryState {
  const img = new Image(o.kernel, 'LINUX_TRUNCATED', 'Linux kernel');
  const h = parseHeader(img);
  const mode = chooseEntry(h, o.entry ?? 'auto');
  const page = new Uint8Array(4096);
  const headerEnd = Math.min(BP.magic + img.u8(JUMP_LENGTH), HEADER_END, img.length);
  page.set(img.slice(BP.header, headerEnd - BP.header), BP.header);
  const view = new DataView(page.buffer);

  let plan = new RamPlan(o);
  reserveLow(plan, o, h, mode);
  let initrdAt = 0;
  let direct: { entry: number; random: boolean } | null = null;
  if (o.vmlinux != null) {
    try {
      initrdAt = placeInitrd(plan, o.initrd, h.initrdMax, (h.xloadflags & XLF_ABOVE_4G) !== 0);
      direct = placeVmlinux(plan, {
        vmlinux: o.vmlinux,
        mode,
        alignment: h.alignment,
        initSize: h.initSize,
        prefAddress: h.prefAddress,
        random: o.random === undefined || /(?:^|\s)nokaslr(?:\s|$)/u.test(o.cmdline ?? '') ? null : o.random,
      });
    } catch (e) {
      if (!isHyveError(e, 'LINUX_INITRD')) throw e;
    }
    if (direct === null) {
      plan = new RamPlan(o);
      reserveLow(plan, o, h, mode);
    }
  }
  let base = h.prefAddress;
  if (direct === null) {
    base = placeKernel(plan, h);
    initrdAt = placeInitrd(plan, o.initrd, h.initrdMax, (h.xloadflags & XLF_ABOVE_4G) !== 0);
  } else if (direct.random) page[BP.loadflags] = (page[BP.loadflags] as number) | KASLR_FLAG;
  fillBootParams(view, o, initrdAt, { rsdp: h.version >= V2_14 });
  view.setUint32(BP.code32Start, base, true);
  if (h.version >= V2_09) view.setUint32(BP.setupData, placeSetupData(plan, o.memory, o.setupData ?? []), true);
  placeZeroPage(plan, page);
  writeFlatGdt(o.memory, GDT, mode);
  const start = direct?.entry ?? (mode === '64' ? base + ENTRY_64 : base);
  if (mode === '64') writeIdentityTables(o.memory, PAGE_TABLES);
  const state =
    mode === '64'
      ? longModeState({ entry: start, gdt: GDT, rsi: ZERO_PAGE, cr3: PAGE_TABLES })
      : protectedModeState({ entry: start, gdt: GDT, rsi: ZERO_PAGE });
  return { state, mode, entry: start, placed: plan.placed };
}

/** Takes what lies below 1 MiB: descriptors, page tables, command line; setup_data and zero page follow later. */
function reserveLow(plan: RamPlan, o: LinuxOptions, h: Header, mode: '32' | '64'): void {
  plan.reserve('gdt', GDT, FLAT_GDT_BYTES, 'LINUX_MEMORY');
  if (mode === '64') plan.reserve('page tables', PAGE_TABLES, IDENTITY_TABLE_BYTES, 'LINUX_MEMORY');
  placeCmdline(plan, o.cmdline ?? '', h.cmdlineMax);
}

const MAGICS: readonly [KernelCompression, readonly number[]][] = [
  ['gzip', [0x1f, 0x8b]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['lzma', [0x5d, 0x00, 0x00]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['lzo', [0x89, 0x4c, 0x5a, 0x4f]],
  ['lz4', [0x02, 0x21, 0x4c, 0x18]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
];

/**
 * The packed kernel inside a bzImage, for {@link DecompressKernel}; null where the header names none or its form is unknown.
 * @throws HyveError like {@link loadLinux} for a file that is no bzImage
 */
export function kernelPayload(kernel: Uint8Array): { format: KernelCompression; bytes: Uint8Array } | null {
  const img = new Image(kernel, 'LINUX_TRUNCATED', 'Linux kernel');
  const h = parseHeader(img);
  if (h.version < V2_08) return null;
  const length = img.u32(PAYLOAD_LENGTH);
  if (length === 0) return null;
  const bytes = img.slice(h.setupBytes + img.u32(PAYLOAD_OFFSET), length);
  for (const [format, magic] of MAGICS) if (magic.every((b, i) => bytes[i] === b)) return { format, bytes };
  return null;
}

/** Payloads that say they are larger are left to the guest. */
const UNPACKED_MAX = 1 << 30;

/**
 * Unpacks the kernel inside a bzImage for {@link LinuxOptions.vmlinux}: LZ4, xz and LZMA here, other forms by the host's
 * decompressor. Null: no payload, a form nobody knows, or not what its header says.
 * @param kept where it may have been unpacked before, and is kept if it was not
 * @throws HyveError like {@link loadLinux} for a file that is no bzImage
 */
export function unpackKernel(
  kernel: Uint8Array,
  host: DecompressKernel = () => null,
  kept: UnpackedKernels | null = null,
): Uint8Array | null {
  const packed = kernelPayload(kernel);
  if (packed === null || packed.bytes.length < 8) return null;
  const known = kept?.get(packed.bytes) ?? null;
  if (known !== null) return known;
  const unpacked = unpack(packed, host);
  if (unpacked !== null) kept?.put(packed.bytes, unpacked);
  return unpacked;
}

function unpack(packed: NonNullable<ReturnType<typeof kernelPayload>>, host: DecompressKernel): Uint8Array | null {
  // The last four bytes are the unpacked size: gzip's own trailer, in other forms added to the file.
  const end = packed.bytes.length - 4;
  const size = new DataView(packed.bytes.buffer, packed.bytes.byteOffset + end, 4).getUint32(0, true);
  if (size > UNPACKED_MAX) return null;
  const body = packed.format === 'gzip' ? packed.bytes : packed.bytes.subarray(0, end);
  try {
    switch (packed.format) {
      case 'lz4':
        return unpackLz4(body, size);
      case 'xz':
        return unpackXz(body, size);
      case 'lzma':
        return unpackLzma(body, size);
      default: {
        const out = host(body, packed.format, size);
        return out?.length === size ? out : null;
      }
    }
  } catch {
    return null;
  }
}
