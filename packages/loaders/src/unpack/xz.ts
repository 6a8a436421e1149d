// The xz file format 1.1.0 as far as kernels use it: blocks of LZMA2, with or without the x86 branch filter; checks none,
// CRC-32 and CRC-64, of which CRC-32, the kernels' own, is verified. Internal.
import { LzmaDecoder } from './lzma.ts';

const FILTER_X86 = 4;
const FILTER_LZMA2 = 0x21;
const CHECK_CRC32 = 1;

/** A number of 7 bits a byte, or null; `end` becomes the place behind it. */
function number(src: Uint8Array, at: number): { value: number; end: number } | null {
  let value = 0;
  for (let i = 0; i < 7; i++) {
    const b = src[at + i];
    if (b === undefined) return null;
    value += (b & 0x7f) * 2 ** (7 * i);
    if (b < 0x80) return { value, end: at + i + 1 };
  }
  return null;
}

/** LZMA2: chunks up to an end mark. @returns where input and output end, or null */
function lzma2(src: Uint8Array, at: number, out: Uint8Array, from: number): { at: number; to: number } | null {
  const decoder = new LzmaDecoder(src, out);
  let s = at;
  let d = from;
  let ready = false;
  for (;;) {
    const control = src[s++];
    if (control === undefined) return null;
    if (control === 0) return { at: s, to: d };
    if (control < 0x80) {
      if (control > 2 || s + 2 > src.length) return null;
      const length = (((src[s] as number) << 8) | (src[s + 1] as number)) + 1;
      s += 2;
      if (length > src.length - s || length > out.length - d) return null;
      out.set(src.subarray(s, s + length), d);
      s += length;
      d += length;
      continue;
    }
    if (s + 5 > src.length) return null;
    const unpacked = (((control & 31) << 16) | ((src[s] as number) << 8) | (src[s + 1] as number)) + 1;
    const packed = (((src[s + 2] as number) << 8) | (src[s + 3] as number)) + 1;
    s += 4;
    const reset = (control >> 5) & 3;
    if (reset >= 2) {
      if (!decoder.setProperties(src[s++] as number)) return null;
      ready = true;
    } else if (reset === 1) decoder.resetState();
    if (!ready || packed > src.length - s || !decoder.run(s, s + packed, d, d + unpacked, from)) return null;
    s += packed;
    d += unpacked;
  }
}

/** Turns absolute targets of near calls and jumps back into distances (the x86 filter), from `from` to `to`. */
export function undoX86Filter(out: Uint8Array, from: number, to: number): void {
  const extreme = (b: number): boolean => b === 0 || b === 0xff;
  // Bit n of `mask`: the byte n + 1 places back could have begun an instruction that was not converted.
  let mask = 0;
  let last = from - 1;
  const stop = to - 4;
  for (let i = from; i < stop; i++) {
    if (((out[i] as number) & 0xfe) !== 0xe8) continue;
    const gap = i - last;
    last = i;
    mask = gap > 3 ? 0 : (mask << (gap - 1)) & 7;
    // Which of the operand's bytes belongs to the nearest of those.
    const byte = mask === 0 ? 0 : mask < 2 ? 1 : mask < 4 ? 2 : 3;
    if (mask !== 0) {
      const unlikely = mask === 3 || mask > 4;
      if (unlikely || extreme(out[i + 4 - byte] as number)) {
        mask = (mask << 1) | 1;
        continue;
      }
    }
    if (!extreme(out[i + 4] as number)) {
      mask = (mask << 1) | 1;
      continue;
    }
    let v =
      (out[i + 1] as number) |
      ((out[i + 2] as number) << 8) |
      ((out[i + 3] as number) << 16) |
      ((out[i + 4] as number) << 24);
    const next = i - from + 5;
    for (;;) {
      v = (v - next) | 0;
      if (mask === 0) break;
      if (!extreme((v >>> (24 - 8 * byte)) & 0xff)) break;
      v ^= byte === 0 ? -1 : (1 << (32 - 8 * byte)) - 1;
    }
    out[i + 1] = v;
    out[i + 2] = v >> 8;
    out[i + 3] = v >> 16;
    out[i + 4] = (v >> 24) & 1 ? 0xff : 0;
    i += 4;
    last = i - 4;
    mask = 0;
  }
}

/** CRC-32 (IEEE 802.3), eight bytes at a time. */
export function crc32(bytes: Uint8Array, from: number, to: number): number {
  const t = new Uint32Array(8 * 256);
  for (let i = 0; i < 256; i++) {
    let c = i;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
    t[i] = c;
  }
  for (let k = 1; k < 8; k++)
    for (let i = 0; i < 256; i++) {
      const c = t[(k - 1) * 256 + i] as number;
      t[k * 256 + i] = (c >>> 8) ^ (t[c & 255] as number);
    }
  let c = -1;
  let i = from;
  for (; i + 8 <= to; i += 8) {
    const a =
      c ^
      ((bytes[i] as number) |
        ((bytes[i + 1] as number) << 8) |
        ((bytes[i + 2] as number) << 16) |
        ((bytes[i + 3] as number) << 24));
    c =
      (t[0x700 + (a & 255)] as number) ^
      (t[0x600 + ((a >>> 8) & 255)] as number) ^
      (t[0x500 + ((a >>> 16) & 255)] as number) ^
      (t[0x400 + (a >>> 24)] as number) ^
      (t[0x300 + (bytes[i + 4] as number)] as number) ^
      (t[0x200 + (bytes[i + 5] as number)] as number) ^
      (t[0x100 + (bytes[i + 6] as number)] as number) ^
      (t[bytes[i + 7] as number] as number);
  }
  for (; i < to; i++) c = (c >>> 8) ^ (t[(c ^ (bytes[i] as number)) & 255] as number);
  return ~c >>> 0;
}

/** Unpacks an xz stream to exactly `size` bytes; null if it is broken or uses what is not here. */
export function unpackXz(src: Uint8Array, size: number): Uint8Array | null {
  const magic = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0];
  if (src.length < 24 || !magic.every((b, i) => src[i] === b) || src[6] !== 0) return null;
  const check = src[7] as number;
  const checkBytes = check === 0 ? 0 : check === CHECK_CRC32 ? 4 : check === 4 ? 8 : -1;
  if (checkBytes < 0) return null;
  const out = new Uint8Array(size);
  let s = 12;
  let d = 0;
  while (src[s] !== 0) {
    const first = src[s];
    if (first === undefined) return null;
    const header = s + (first + 1) * 4;
    const flags = src[s + 1] as number;
    if (header > src.length || (flags & 0x3c) !== 0) return null;
    let at = s + 2;
    for (const bit of [0x40, 0x80])
      if (flags & bit) {
        const n = number(src, at);
        if (n === null) return null;
        at = n.end;
      }
    let x86 = false;
    for (let i = 0; i <= (flags & 3); i++) {
      const id = number(src, at);
      const bytes = id === null ? null : number(src, id.end);
      if (id === null || bytes === null) return null;
      const last = i === (flags & 3);
      if (last ? id.value !== FILTER_LZMA2 : id.value !== FILTER_X86 || bytes.value !== 0) return null;
      if (!last) x86 = true;
      at = bytes.end + bytes.value;
    }
    const done = lzma2(src, header, out, d);
    if (done === null) return null;
    if (x86) undoX86Filter(out, d, done.to);
    s += Math.ceil((done.at - s) / 4) * 4;
    if (check === CHECK_CRC32) {
      if (s + 4 > src.length) return null;
      const stored = new DataView(src.buffer, src.byteOffset + s).getUint32(0, true);
      if (stored !== crc32(out, d, done.to)) return null;
    }
    s += checkBytes;
    d = done.to;
  }
  return d === size ? out : null;
}
