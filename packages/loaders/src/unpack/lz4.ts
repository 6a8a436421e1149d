// LZ4 as Linux kernels are packed with it: the legacy frame (lz4_Frame_format.md, "Legacy frame"), blocks of at most 8 MiB
// that know nothing of each other; block format as in lz4_Block_format.md. Internal.

const BLOCK_MAX = 8 << 20;

/** Unpacks one block from `src[at…end)` to `out[to…)`; returns where the output ends, or -1 for a broken block. */
function block(src: Uint8Array, at: number, end: number, out: Uint8Array, to: number): number {
  const stop = Math.min(out.length, to + BLOCK_MAX);
  const first = to;
  let s = at;
  let d = to;
  while (s < end) {
    const token = src[s++] as number;
    let literals = token >> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255 && s < end) {
        more = src[s++] as number;
        literals += more;
      }
    }
    if (literals > end - s || literals > stop - d) return -1;
    if (literals < 32) for (let i = 0; i < literals; i++) out[d++] = src[s++] as number;
    else {
      out.set(src.subarray(s, s + literals), d);
      s += literals;
      d += literals;
    }
    if (s === end) return d; // the last sequence is literals alone
    if (s + 2 > end) return -1;
    const distance = (src[s] as number) | ((src[s + 1] as number) << 8);
    s += 2;
    let length = (token & 15) + 4;
    if (length === 19) {
      let more = 255;
      while (more === 255 && s < end) {
        more = src[s++] as number;
        length += more;
      }
    }
    if (distance === 0 || distance > d - first || length > stop - d) return -1;
    let from = d - distance;
    if (distance >= length && length >= 32) {
      out.copyWithin(d, from, from + length);
      d += length;
    } else for (let i = 0; i < length; i++) out[d++] = out[from++] as number;
  }
  return d;
}

/** Unpacks a legacy frame to exactly `size` bytes; null if it is anything else. */
export function unpackLz4(src: Uint8Array, size: number): Uint8Array | null {
  const v = new DataView(src.buffer, src.byteOffset, src.byteLength);
  if (src.length < 8 || v.getUint32(0, true) !== 0x184c2102) return null;
  const out = new Uint8Array(size);
  let s = 4;
  let d = 0;
  while (s + 4 <= src.length && d < size) {
    const packed = v.getUint32(s, true);
    s += 4;
    if (packed > src.length - s) return null;
    d = block(src, s, s + packed, out, d);
    if (d < 0) return null;
    s += packed;
  }
  return d === size ? out : null;
}
