// One request as the driver laid it out: device-readable buffers, then device-writable ones (virtio 1.2 §2.6.4), and the
// way from those buffers to bytes. Parsing a ring fills a chain; nothing here reads the ring.
import type { DmaMemory, PhysAddr, Segments } from '@hyve/core';

const PAGE = 4096;

/**
 * A descriptor chain, a scratch that {@link VirtQueue.pop} fills. Segments with no bytes are left out.
 * @example
 * const chain = new DescriptorChain();
 * while (queue.pop(chain)) { chain.copyIn(dma, 0, answer); queue.push(chain, answer.length); }
 * queue.flush();
 */
export class DescriptorChain {
  /** Guest-physical address of each segment: first {@link readableCount} readable ones, then writable ones. */
  readonly addr: Float64Array;
  /** Bytes of each segment. */
  readonly length: Uint32Array;
  /** Most segments it can hold. */
  readonly capacity: number;
  /** Segments the device may only read. */
  readableCount = 0;
  /** Segments the device may only write, after the readable ones. */
  writableCount = 0;
  /** Sum of the readable segments' bytes. */
  readableBytes = 0;
  /** Sum of the writable segments' bytes. */
  writableBytes = 0;
  /** What {@link VirtQueue.pushToken} needs to give the chain back: ring slots in bits 31:16, id in bits 15:0. */
  token = 0;

  /** @param capacity most segments of a chain, indirect ones included; longer chains break the device. Default 1024 */
  constructor(capacity = 1024) {
    this.capacity = capacity;
    this.addr = new Float64Array(capacity);
    this.length = new Uint32Array(capacity);
  }

  /** @internal Empties the chain. */
  begin(): void {
    this.readableCount = 0;
    this.writableCount = 0;
    this.readableBytes = 0;
    this.writableBytes = 0;
    this.token = 0;
  }

  /** @internal Appends a segment; null, or what is wrong with it. */
  append(lo: number, hi: number, length: number, write: boolean): string | null {
    if (length === 0) return null;
    const n = this.readableCount + this.writableCount;
    if (n >= this.capacity) return 'chain with too many buffers';
    // Physical addresses have 52 bits; nothing a driver can own lies above.
    if (hi > 0xf_ffff) return 'buffer address over 2^52';
    if (write) {
      this.writableCount++;
      this.writableBytes += length;
    } else {
      if (this.writableCount > 0) return 'readable buffer after a writable one';
      this.readableCount++;
      this.readableBytes += length;
    }
    this.addr[n] = hi * 0x1_0000_0000 + lo;
    this.length[n] = length;
    return null;
  }

  /**
   * Copies readable bytes from `offset` on into `into`. Returns how many there were (less than asked when the chain is
   * shorter), or -1 when guest memory is missing.
   */
  copyOut(dma: DmaMemory, offset: number, into: Uint8Array): number {
    let done = 0;
    let skip = offset;
    for (let i = 0; i < this.readableCount && done < into.length; i++) {
      const n = this.length[i] as number;
      if (skip >= n) {
        skip -= n;
        continue;
      }
      const a = (this.addr[i] as number) + skip;
      const take = Math.min(n - skip, into.length - done);
      skip = 0;
      for (let k = 0; k < take; ) {
        const piece = Math.min(take - k, PAGE - ((a + k) % PAGE));
        const view = dma.readView(a + k, piece);
        if (view === null) return -1;
        into.set(view, done + k);
        k += piece;
      }
      done += take;
    }
    return done;
  }

  /** Reads a little-endian 32-bit number from the readable bytes; 0 for bytes past the end. Allocates nothing. */
  readable32(dma: DmaMemory, offset: number): number {
    const first = this.length[0] as number;
    if (this.readableCount > 0 && offset + 4 <= first) return dma.read32((this.addr[0] as number) + offset);
    let v = 0;
    for (let i = 0; i < 4; i++) {
      const a = this.addressOf(0, this.readableCount, offset + i);
      if (a >= 0) v |= dma.read8(a) << (8 * i);
    }
    return v >>> 0;
  }

  /** Copies `from` into the writable bytes from `offset` on. Returns how many fitted, or -1 when guest memory is missing. */
  copyIn(dma: DmaMemory, offset: number, from: Uint8Array): number {
    let done = 0;
    let skip = offset;
    const end = this.readableCount + this.writableCount;
    for (let i = this.readableCount; i < end && done < from.length; i++) {
      const n = this.length[i] as number;
      if (skip >= n) {
        skip -= n;
        continue;
      }
      const a = (this.addr[i] as number) + skip;
      const take = Math.min(n - skip, from.length - done);
      skip = 0;
      for (let k = 0; k < take; ) {
        const piece = Math.min(take - k, PAGE - ((a + k) % PAGE));
        const view = dma.writeView(a + k, piece);
        if (view === null) return -1;
        view.set(from.subarray(done + k, done + k + piece));
        k += piece;
      }
      done += take;
    }
    return done;
  }

  /**
   * Adds `n` readable bytes from `offset` on to a list begun for reading, and ends it. False when chain or guest memory
   * ends before.
   */
  readViews(dma: DmaMemory, offset: number, n: number, into: Segments): boolean {
    return this.collect(dma, 0, this.readableCount, offset, n, into);
  }

  /** The same for writable bytes and a list begun for writing. */
  writeViews(dma: DmaMemory, offset: number, n: number, into: Segments): boolean {
    return this.collect(dma, this.readableCount, this.readableCount + this.writableCount, offset, n, into);
  }

  /** Guest-physical address of writable byte `offset`, or -1 past the end. */
  writableAddress(offset: number): PhysAddr {
    return this.addressOf(this.readableCount, this.readableCount + this.writableCount, offset);
  }

  private addressOf(from: number, to: number, offset: number): number {
    let skip = offset;
    for (let i = from; i < to; i++) {
      const n = this.length[i] as number;
      if (skip < n) return (this.addr[i] as number) + skip;
      skip -= n;
    }
    return -1;
  }

  private collect(dma: DmaMemory, from: number, to: number, offset: number, n: number, into: Segments): boolean {
    let skip = offset;
    let left = n;
    for (let i = from; i < to && left > 0; i++) {
      const length = this.length[i] as number;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const take = Math.min(length - skip, left);
      if (!into.add(dma, (this.addr[i] as number) + skip, take)) return false;
      skip = 0;
      left -= take;
    }
    return left === 0 && into.end(dma);
  }
}
