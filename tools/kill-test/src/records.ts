// What guest/writer.c writes, read back: whether every record that was called safe is there.

/** Bytes of a record. */
export const RECORD = 4096;
/** Places for records; number n goes to place n modulo this. */
export const PLACES = 1021;
/** Bytes a writer uses. */
export const AREA: number = RECORD * PLACES;

const WORDS = RECORD / 4;

/** A record's words. */
export function record(n: number): Uint32Array {
  const w = new Uint32Array(WORDS);
  let x = (Math.imul(n, 0x9e3779b1) | 1) >>> 0;
  let sum = n >>> 0;
  for (let i = 2; i < WORDS; i++) {
    x = (x ^ (x << 13)) >>> 0;
    x ^= x >>> 17;
    x = (x ^ (x << 5)) >>> 0;
    w[i] = x;
    sum = (((sum << 1) | (sum >>> 31)) ^ x) >>> 0;
  }
  w[0] = n;
  w[1] = sum;
  return w;
}

/**
 * Compares a writer's area with what it said. The record after the last safe one was under way: its place may hold
 * anything. @param first the first number that was written @param safe the last one that was called safe
 * @returns what is wrong, a line for each record
 */
export function missingRecords(area: Uint8Array, first: number, safe: number): string[] {
  const wrong: string[] = [];
  const view = new DataView(area.buffer, area.byteOffset, area.byteLength);
  const torn = (safe + 1) % PLACES;
  for (let n = Math.max(first, safe - PLACES + 1); n <= safe; n++) {
    const place = n % PLACES;
    if (place === torn) continue;
    const want = record(n);
    for (let i = 0; i < WORDS; i++) {
      const got = view.getUint32(place * RECORD + i * 4, true);
      if (got === want[i]) continue;
      wrong.push(`record ${n} is safe, but word ${i} of place ${place} is 0x${got.toString(16)}`);
      break;
    }
  }
  return wrong;
}
