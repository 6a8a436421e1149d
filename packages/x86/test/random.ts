// Deterministic random numbers and small helpers of the tests.

/** xorshift32: returns a function giving uint32 values. */
export function generator(seed: number): () => number {
  let s = seed | 1;
  return () => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return s >>> 0;
  };
}

/** Bytes from hex digits; blanks are ignored. */
export function fromHex(text: string): Uint8Array {
  return Uint8Array.from(text.replace(/ /g, '').match(/../g) ?? [], (h) => parseInt(h, 16));
}

/** Lower-case hex digits. */
export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
}
