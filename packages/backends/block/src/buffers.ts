// Scatter-gather lists: parts, fills and copies without joining them.
import type { BlockBackend, BlockStatus } from '@hyve/core';

/** @internal Bytes in all buffers. */
export function totalLength(buffers: readonly Uint8Array[]): number {
  let n = 0;
  for (const b of buffers) n += b.length;
  return n;
}

/** @internal Views of `length` bytes from `start` on; the list itself when that is all of it. */
export function slice(buffers: readonly Uint8Array[], start: number, length: number): readonly Uint8Array[] {
  const out: Uint8Array[] = [];
  let at = start;
  let left = length;
  let whole = start === 0;
  for (const b of buffers) {
    if (left <= 0) {
      if (b.length > 0) whole = false;
      break;
    }
    if (at >= b.length) {
      at -= b.length;
      continue;
    }
    const n = Math.min(b.length - at, left);
    if (n !== b.length) whole = false;
    out.push(at === 0 && n === b.length ? b : b.subarray(at, at + n));
    at = 0;
    left -= n;
  }
  return whole ? buffers : out;
}

/** @internal Zeros `length` bytes from `start` on. */
export function zeroFill(buffers: readonly Uint8Array[], start: number, length: number): void {
  let at = start;
  let left = length;
  for (const b of buffers) {
    if (left <= 0) return;
    if (at >= b.length) {
      at -= b.length;
      continue;
    }
    const n = Math.min(b.length - at, left);
    b.fill(0, at, at + n);
    at = 0;
    left -= n;
  }
}

/** @internal Copies `source` into the list from `start` on. */
export function scatter(buffers: readonly Uint8Array[], start: number, source: Uint8Array): void {
  let at = start;
  let done = 0;
  for (const b of buffers) {
    if (done >= source.length) return;
    if (at >= b.length) {
      at -= b.length;
      continue;
    }
    const n = Math.min(b.length - at, source.length - done);
    b.set(source.subarray(done, done + n), at);
    at = 0;
    done += n;
  }
}

/** @internal Copies the list's bytes from `start` on into `target`. */
export function gather(buffers: readonly Uint8Array[], start: number, target: Uint8Array): void {
  let at = start;
  let done = 0;
  for (const b of buffers) {
    if (done >= target.length) return;
    if (at >= b.length) {
      at -= b.length;
      continue;
    }
    const n = Math.min(b.length - at, target.length - done);
    target.set(b.subarray(at, at + n), done);
    at = 0;
    done += n;
  }
}

/** @internal Whether all bytes are zero. */
export function isZero(bytes: Uint8Array): boolean {
  const n = bytes.length;
  let i = 0;
  // Eight bytes at a time where alignment allows: a convert run spends most of its time here.
  if (bytes.byteOffset % 8 === 0) {
    const halves = new Int32Array(bytes.buffer, bytes.byteOffset, (n >>> 3) * 2);
    for (let w = 0; w < halves.length; w += 2) if ((halves[w]! | halves[w + 1]!) !== 0) return false;
    i = halves.length * 4;
  }
  for (; i < n; i++) if (bytes[i] !== 0) return false;
  return true;
}

/** @internal `ok` when a request of `length` bytes at `offset` is made of whole sectors on the disk. */
export function checkRange(
  disk: Pick<BlockBackend, 'size' | 'sectorSize'>,
  offset: number,
  length: number,
): BlockStatus {
  if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(length) || offset < 0 || length < 0) return 'out-of-range';
  if (offset + length > disk.size) return 'out-of-range';
  return offset % disk.sectorSize === 0 && length % disk.sectorSize === 0 ? 'ok' : 'out-of-range';
}
