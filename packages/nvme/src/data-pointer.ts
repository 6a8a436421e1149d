// From a command's data pointer to pieces of guest memory: PRP entries and lists (NVMe 1.4 §4.3) and SGLs (§4.4). Walks are
// bounded by the transfer's length or by a count of descriptors, whatever memory holds.
import type { DmaMemory, Segments } from '@hyve/core';
import {
  DNR,
  PAGE,
  SC_DATA_TRANSFER,
  SC_PRP_OFFSET,
  SC_SGL_COUNT,
  SC_SGL_LENGTH,
  SC_SGL_SEGMENT,
  SC_SGL_TYPE,
  SC_SUCCESS,
  SGL_DATA_BLOCK,
  SGL_LAST_SEGMENT,
  SGL_SEGMENT,
} from './bits.ts';

const TWO_32 = 0x1_0000_0000;
/** SGL descriptors looked at for one command. */
const MAX_DESCRIPTORS = 4096;

/**
 * Maps `length` bytes of the PRPs at `pointer` (PRP1, PRP2). Returns a status code; on success the segments are complete.
 * @internal
 */
export function mapPrp(s: Segments, dma: DmaMemory, pointer: number, length: number, toGuest: boolean): number {
  s.begin(toGuest);
  const lo = dma.read32(pointer);
  if ((lo & 3) !== 0) return SC_PRP_OFFSET | DNR;
  const first = Math.min(length, PAGE - (lo & (PAGE - 1)));
  if (!s.add(dma, dma.read32(pointer + 4) * TWO_32 + lo, first)) return SC_DATA_TRANSFER | DNR;
  let rest = length - first;
  if (rest > 0) {
    const lo2 = dma.read32(pointer + 8);
    const second = dma.read32(pointer + 12) * TWO_32 + lo2;
    if (rest <= PAGE) {
      if ((lo2 & (PAGE - 1)) !== 0) return SC_PRP_OFFSET | DNR;
      if (!s.add(dma, second, rest)) return SC_DATA_TRANSFER | DNR;
    } else {
      if ((lo2 & 7) !== 0) return SC_PRP_OFFSET | DNR;
      let list = second;
      let left = (PAGE - (lo2 & (PAGE - 1))) / 8;
      while (rest > 0) {
        const entryLo = dma.read32(list);
        // The first of a list may have an offset, nothing in it may.
        if ((entryLo & (PAGE - 1)) !== 0) return SC_PRP_OFFSET | DNR;
        const entry = dma.read32(list + 4) * TWO_32 + entryLo;
        if (left === 1 && rest > PAGE) {
          // The last entry of a page that does not end the list points to its next page, which has 512 entries.
          list = entry;
          left = PAGE / 8;
          continue;
        }
        const n = Math.min(rest, PAGE);
        if (!s.add(dma, entry, n)) return SC_DATA_TRANSFER | DNR;
        rest -= n;
        list += 8;
        left--;
      }
    }
  }
  return s.end(dma) ? SC_SUCCESS : SC_DATA_TRANSFER | DNR;
}

/**
 * Maps `length` bytes of the SGL whose first descriptor is at `pointer`. Returns a status code.
 * @internal
 */
export function mapSgl(s: Segments, dma: DmaMemory, pointer: number, length: number, toGuest: boolean): number {
  s.begin(toGuest);
  let at = pointer;
  let left = 1;
  let last = false;
  for (let i = 0; i < MAX_DESCRIPTORS && left > 0; i++) {
    const addr = dma.read32(at + 4) * TWO_32 + dma.read32(at);
    const size = dma.read32(at + 8);
    const id = dma.read8(at + 15);
    // Subtype 0 is an address; offsets and transport-specific ones belong to fabrics.
    if ((id & 0xf) !== 0) return SC_SGL_TYPE | DNR;
    const type = id >> 4;
    if (type === SGL_DATA_BLOCK) {
      const n = Math.min(size, length - s.bytes);
      if (n > 0 && !s.add(dma, addr, n)) return SC_DATA_TRANSFER | DNR;
      // Longer than the transfer is allowed (SGLS bit 18).
      if (s.bytes === length) return s.end(dma) ? SC_SUCCESS : SC_DATA_TRANSFER | DNR;
      at += 16;
      left--;
    } else if (type === SGL_SEGMENT || type === SGL_LAST_SEGMENT) {
      if (left !== 1 || last || size === 0 || size % 16 !== 0) return SC_SGL_SEGMENT | DNR;
      last = type === SGL_LAST_SEGMENT;
      at = addr;
      left = size / 16;
    } else return SC_SGL_TYPE | DNR;
  }
  return (left > 0 ? SC_SGL_COUNT : SC_SGL_LENGTH) | DNR;
}
