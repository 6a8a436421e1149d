// Direct loading of a bzImage: what the kernel's own decompressor does (arch/x86/boot/compressed: extract_kernel,
// parse_elf, handle_relocations, choose_random_location) done here, so that the guest begins at vmlinux's entry.
import { type Elf, type ElfSegment, parseElf } from './elf.ts';
import { alignUp, Image } from './image.ts';
import { GIB4, MIB } from './layout.ts';
import type { RamPlan } from './ram.ts';

const PT_LOAD = 1;
/** KERNEL_IMAGE_SIZE of a 64-bit kernel that can move, counted from its map's first byte. */
const IMAGE_ROOM_64 = 2 ** 30;
/** The same of a 32-bit one, which cannot move apart from its physical place. */
const IMAGE_ROOM_32 = 2 ** 29;

/** What {@link placeVmlinux} needs to know of the bzImage around the kernel. */
export interface DirectKernel {
  /** The unpacked payload: ELF file, then relocations. It is changed in place. */
  readonly vmlinux: Uint8Array;
  /** Mode the processor is to start in. */
  readonly mode: '32' | '64';
  /** kernel_alignment. */
  readonly alignment: number;
  /** Bytes the kernel needs from its first byte on. */
  readonly initSize: number;
  /** pref_address: where it was linked to run. */
  readonly prefAddress: number;
  /** 32 random bits, or null to leave the kernel where it was linked (`nokaslr`). */
  readonly random: (() => number) | null;
}

/** The words behind the ELF file: addresses to adjust, in three groups. 32 bits each, as signed numbers. */
interface Relocations {
  readonly add64: Int32Array;
  readonly sub32: Int32Array;
  readonly add32: Int32Array;
}

/** Where the ELF file ends: behind its section headers, which come last. Numbers past 2^53 have become 2^53. */
function elfEnd(img: Image, elf: Elf): number {
  const wide = elf.bits === 64;
  const headers = wide ? img.u64(40) : img.u32(32);
  return headers + img.u16(wide ? 58 : 46) * img.u16(wide ? 60 : 48);
}

/**
 * Reads the relocations: each group has a zero before it. 64-bit kernels have 64-bit places, places to subtract from
 * (dropped in Linux 6.15) and 32-bit places; 32-bit kernels only the last. Null: there are none, or another form.
 */
function relocations(img: Image, elf: Elf): Relocations | null {
  const from = elfEnd(img, elf);
  const bytes = img.length - from;
  if (bytes < 8 || bytes % 4 !== 0) return null;
  const words = new Int32Array(img.bytes.slice(from).buffer);
  if (words[0] !== 0) return null;
  const groups: Int32Array[] = [];
  let start = 1;
  for (let i = 1; i <= words.length; i++)
    if (i === words.length || words[i] === 0) {
      groups.push(words.subarray(start, i));
      start = i + 1;
      if (groups.length > 3) return null;
    }
  const none = new Int32Array(0);
  const [a, b, c] = groups;
  if (elf.bits === 32) return groups.length === 1 ? { add64: none, sub32: none, add32: a as Int32Array } : null;
  if (groups.length === 2) return { add64: a as Int32Array, sub32: none, add32: b as Int32Array };
  if (groups.length === 3) return { add64: a as Int32Array, sub32: b as Int32Array, add32: c as Int32Array };
  return null;
}

/** Offset in the file of `n` bytes at a linked physical address below 2 GiB, or -1. */
function offsetOf(loads: readonly ElfSegment[], paddr: number, n: number): number {
  for (const s of loads) if (paddr >= s.paddr && paddr + n <= s.paddr + s.fileBytes) return paddr - s.paddr + s.offset;
  return -1;
}

/** Adjusts a kernel to run `by` bytes above where it was linked. False if a place lies outside it; nothing is lost then. */
function relocate(img: Image, loads: readonly ElfSegment[], r: Relocations, by: number): boolean {
  const first = loads[0] as ElfSegment;
  // Relocations name virtual addresses by their low halves, all in the one map that the first segment is in.
  const map = (first.vaddr32 - first.paddr) | 0;
  const v = new DataView(img.bytes.buffer, img.bytes.byteOffset, img.bytes.byteLength);
  for (const [places, n] of [
    [r.add64, 8],
    [r.sub32, 4],
    [r.add32, 4],
  ] as const)
    for (let i = 0; i < places.length; i++) if (offsetOf(loads, ((places[i] as number) - map) | 0, n) < 0) return false;
  for (let i = 0; i < r.add64.length; i++) {
    const at = offsetOf(loads, ((r.add64[i] as number) - map) | 0, 8);
    const lo = v.getUint32(at, true) + by;
    v.setUint32(at, lo >>> 0, true);
    if (lo >= GIB4) v.setUint32(at + 4, (v.getUint32(at + 4, true) + 1) >>> 0, true);
  }
  for (let i = 0; i < r.sub32.length; i++) {
    const at = offsetOf(loads, ((r.sub32[i] as number) - map) | 0, 4);
    v.setUint32(at, (v.getUint32(at, true) - by) >>> 0, true);
  }
  for (let i = 0; i < r.add32.length; i++) {
    const at = offsetOf(loads, ((r.add32[i] as number) - map) | 0, 4);
    v.setUint32(at, (v.getUint32(at, true) + by) >>> 0, true);
  }
  return true;
}

/** A random one of the aligned free places for `size` bytes in `from` to `end`, or -1. */
function randomPlace(
  plan: RamPlan,
  size: number,
  align: number,
  from: number,
  end: number,
  random: () => number,
): number {
  const places: number[] = [];
  for (let at = plan.lowest(size, align, from, end); at >= 0; at = plan.lowest(size, align, at + align, end))
    places.push(at);
  return places.length === 0 ? -1 : (places[random() % places.length] as number);
}

/**
 * Loads an unpacked kernel, at a random place if it can move. Everything else must have its place already.
 * @returns its entry, linear and physical, and whether its place was chosen at random; null, and nothing loaded, if the file is not what a
 * decompressor would take
 */
export function placeVmlinux(plan: RamPlan, k: DirectKernel): { entry: number; random: boolean } | null {
  let img: Image;
  let elf: Elf;
  let found: Relocations | null;
  try {
    img = new Image(k.vmlinux, 'ELF_IMAGE', 'vmlinux');
    elf = parseElf(img, 'ELF_IMAGE');
    found = relocations(img, elf);
  } catch {
    return null;
  }
  if (elf.bits !== (k.mode === '64' ? 64 : 32)) return null;
  const loads = elf.segments.filter((s) => s.type === PT_LOAD && s.memBytes > 0);
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  for (const s of loads) {
    if (s.fileBytes > s.memBytes || s.offset + s.fileBytes > img.length) return null;
    low = Math.min(low, s.paddr);
    high = Math.max(high, s.paddr + s.memBytes);
  }
  // The decompressor counts from pref_address, so a kernel linked elsewhere is none of those it knows.
  if (loads.length === 0 || low !== k.prefAddress || loads[0]?.paddr !== low || high > GIB4) return null;
  if (elf.entry < low || elf.entry >= high || k.alignment === 0) return null;
  const size = Math.max(k.initSize, high - low);
  let base = low;
  let shift = 0;
  let random = false;
  if (k.random !== null && found !== null) {
    const end = k.mode === '64' ? GIB4 : IMAGE_ROOM_32;
    const place = randomPlace(plan, size, k.alignment, Math.max(low, MIB), end, k.random);
    if (place >= 0) {
      random = true;
      base = place;
      // A 64-bit kernel's virtual address is a second die.
      const slots = Math.floor((IMAGE_ROOM_64 - low - size) / k.alignment) + 1;
      shift = k.mode === '64' ? (slots > 1 ? (k.random() % slots) * k.alignment : 0) : base - low;
    }
  } else if (!plan.isRam(base, size) || plan.taken(base, size) !== undefined) {
    // A 64-bit kernel runs from any aligned place without changes.
    if (k.mode === '32') return null;
    base = plan.lowest(size, k.alignment, alignUp(low, k.alignment), GIB4);
  }
  if (base < 0 || !plan.isRam(base, size) || plan.taken(base, size) !== undefined) return null;
  if (shift !== 0 && (found === null || !relocate(img, loads, found, shift))) return null;
  plan.reserve('vmlinux', base, size, 'LINUX_TOO_LARGE');
  for (const s of loads) plan.fillPart(base + s.paddr - low, img.slice(s.offset, s.fileBytes), s.memBytes);
  return { entry: base + elf.entry - low, random };
}
