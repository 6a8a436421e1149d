// Which libraries a program needs: the dynamic section of ELF64 little-endian files (System V ABI, chapter 5).

/** What a file asks the dynamic linker for. */
export interface Needs {
  /** Library names, DT_NEEDED. */
  readonly libraries: readonly string[];
  /** The dynamic linker's path, PT_INTERP; null for libraries and static programs. */
  readonly interpreter: string | null;
}

const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1;
const DT_STRTAB = 5;

/** Reads what a file needs; null when it is no whole ELF64 file. */
export function elfNeeds(elf: Uint8Array): Needs | null {
  if (elf.length < 64 || elf[0] !== 0x7f || elf[1] !== 0x45 || elf[2] !== 0x4c || elf[3] !== 0x46 || elf[4] !== 2)
    return null;
  const view = new DataView(elf.buffer, elf.byteOffset, elf.byteLength);
  const wide = (at: number): number => view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  const table = wide(0x20);
  const size = view.getUint16(0x36, true);
  const count = view.getUint16(0x38, true);
  if (size < 56 || table + size * count > elf.length) return null;
  const segments = Array.from({ length: count }, (_, i) => {
    const at = table + i * size;
    return { type: view.getUint32(at, true), offset: wide(at + 8), address: wide(at + 16), bytes: wide(at + 32) };
  });
  const text = (at: number): string => {
    const end = elf.indexOf(0, at);
    return new TextDecoder().decode(elf.subarray(at, end < 0 ? elf.length : end));
  };
  const interp = segments.find((s) => s.type === PT_INTERP);
  const dynamic = segments.find((s) => s.type === PT_DYNAMIC);
  const names: number[] = [];
  let strings = 0;
  if (dynamic !== undefined && dynamic.offset + dynamic.bytes <= elf.length) {
    for (let at = dynamic.offset; at + 16 <= dynamic.offset + dynamic.bytes; at += 16) {
      const tag = wide(at);
      if (tag === DT_NEEDED) names.push(wide(at + 8));
      else if (tag === DT_STRTAB) strings = wide(at + 8);
      else if (tag === 0) break;
    }
  }
  const home = segments.find((s) => s.type === PT_LOAD && strings >= s.address && strings < s.address + s.bytes);
  if (names.length > 0 && home === undefined) return null;
  const base = home === undefined ? 0 : strings - home.address + home.offset;
  return {
    libraries: names.map((n) => text(base + n)),
    interpreter: interp === undefined ? null : text(interp.offset),
  };
}
