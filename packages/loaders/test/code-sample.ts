// Bytes that look like x86 code to a compressor: repeated text, and calls to a few places from everywhere.

/** `n` bytes, always the same. */
export function codeSample(n: number): Uint8Array {
  const out = new Uint8Array(n);
  const v = new DataView(out.buffer);
  let x = 12345;
  const next = (below: number): number => {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    return (x >>> 8) % below;
  };
  let at = 0;
  while (at < n) {
    if (next(4) === 0 && at + 5 <= n) {
      out[at] = 0xe8 + next(2);
      v.setInt32(at + 1, 256 * next(3) - at - 5, true);
      at += 5;
    } else {
      const length = Math.min(n - at, 3 + next(12));
      for (let i = 0; i < length; i++) out[at + i] = 0x40 + ((next(3) * 7 + i) & 31);
      at += length;
    }
  }
  return out;
}
