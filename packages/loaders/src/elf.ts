// ELF executables, 32 and 64 bit, little-endian x86: program headers, loading by physical address, notes. Internal.
// System V ABI chapter 5; used by the vmlinux and Multiboot loaders.
import { HyveError } from '@hyve/core';
import { hex, type Image } from './image.ts';
import type { RamPlan } from './ram.ts';

const EM_386 = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;
/** No kernel has more; keeps the work on a broken file small. */
const MAX_SEGMENTS = 256;
const MAX_NOTE_BYTES = 1 << 20;

/** One program header. */
export interface ElfSegment {
  type: number;
  offset: number;
  /** Low half of the virtual address. */
  vaddr32: number;
  paddr: number;
  fileBytes: number;
  memBytes: number;
}

/** What matters of an ELF file. */
export interface Elf {
  bits: 32 | 64;
  entry: number;
  segments: ElfSegment[];
}

/** Whether the file begins as an ELF file. */
export function isElf(img: Image): boolean {
  return img.has(0, '\x7fELF');
}

/** Reads the headers. @throws HyveError with `code` */
export function parseElf(img: Image, code: string): Elf {
  if (!isElf(img)) throw new HyveError(code, 'not an ELF file: no "\\x7fELF" at its beginning');
  const cls = img.u8(4);
  if ((cls !== 1 && cls !== 2) || img.u8(5) !== 1)
    throw new HyveError(code, `ELF class ${cls}, data ${img.u8(5)}; 32 or 64 bit little-endian expected`);
  const wide = cls === 2;
  const machine = img.u16(18);
  if (machine !== EM_386 && machine !== EM_X86_64)
    throw new HyveError(code, `ELF machine ${machine} at offset 0x12; 3 (i386) or 62 (x86-64) expected`);
  const entry = wide ? img.u64(24) : img.u32(24);
  const phoff = wide ? img.u64(32) : img.u32(28);
  const phentsize = img.u16(wide ? 54 : 42);
  const phnum = img.u16(wide ? 56 : 44);
  if (phnum > MAX_SEGMENTS) throw new HyveError(code, `${phnum} ELF program headers; at most ${MAX_SEGMENTS} expected`);
  if (phnum > 0 && phentsize < (wide ? 56 : 32))
    throw new HyveError(code, `ELF program headers of ${phentsize} bytes; ${wide ? 56 : 32} expected`);
  const segments: ElfSegment[] = [];
  for (let i = 0; i < phnum; i++) {
    const at = phoff + i * phentsize;
    const s = wide
      ? {
          type: img.u32(at),
          offset: img.u64(at + 8),
          vaddr32: img.u32(at + 16),
          paddr: img.u64(at + 24),
          fileBytes: img.u64(at + 32),
          memBytes: img.u64(at + 40),
        }
      : {
          type: img.u32(at),
          offset: img.u32(at + 4),
          vaddr32: img.u32(at + 8),
          paddr: img.u32(at + 12),
          fileBytes: img.u32(at + 16),
          memBytes: img.u32(at + 20),
        };
    if (s.type === PT_LOAD || s.type === PT_NOTE) segments.push(s);
  }
  return { bits: wide ? 64 : 32, entry, segments };
}

/** Puts every loadable segment at its physical address; returns the end of the highest. @throws HyveError with `code` */
export function loadSegments(img: Image, elf: Elf, plan: RamPlan, code: string): number {
  let end = 0;
  for (const s of elf.segments) {
    if (s.type !== PT_LOAD || s.memBytes === 0) continue;
    if (s.fileBytes > s.memBytes)
      throw new HyveError(
        code,
        `ELF segment at ${hex(s.paddr)}: ${hex(s.fileBytes)} bytes in the file, ${hex(s.memBytes)} in memory`,
      );
    plan.put('kernel', s.paddr, img.slice(s.offset, s.fileBytes), code, s.memBytes);
    end = Math.max(end, s.paddr + s.memBytes);
  }
  if (end === 0) throw new HyveError(code, 'the ELF file has no loadable segment');
  return end;
}

/** First descriptor of the note with this owner and type, or null. @throws HyveError for notes past the file's end */
export function findNote(img: Image, elf: Elf, owner: string, type: number): Uint8Array | null {
  for (const s of elf.segments) {
    if (s.type !== PT_NOTE || s.fileBytes > MAX_NOTE_BYTES) continue;
    const notes = img.slice(s.offset, s.fileBytes);
    const v = new DataView(notes.buffer, notes.byteOffset, notes.byteLength);
    let at = 0;
    while (at + 12 <= notes.length) {
      const nameBytes = v.getUint32(at, true);
      const descBytes = v.getUint32(at + 4, true);
      const noteType = v.getUint32(at + 8, true);
      const nameAt = at + 12;
      const descAt = nameAt + Math.ceil(nameBytes / 4) * 4;
      if (descAt + descBytes > notes.length) break;
      let same = nameBytes === owner.length + 1;
      for (let i = 0; same && i < owner.length; i++) same = notes[nameAt + i] === owner.charCodeAt(i);
      if (same && noteType === type) return notes.subarray(descAt, descAt + descBytes);
      at = descAt + Math.ceil(descBytes / 4) * 4;
    }
  }
  return null;
}
