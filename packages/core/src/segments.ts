// Pieces of guest memory that one transfer touches, as views to hand to a back end: neighbouring pieces joined, pages
// marked dirty when the data has arrived. Nothing is copied.
import type { DmaMemory } from './memory.ts';
import type { PhysAddr } from './types.ts';

const PAGE = 4096;

/**
 * The guest memory of one transfer, in order. Reusable; it grows to what its largest transfer needed.
 * @example
 * segments.begin(true);
 * if (segments.add(dma, 0x1000, 512) && segments.add(dma, 0x1200, 512) && segments.end(dma))
 *   backend.read(0, segments.views).then(() => segments.dirty(dma));
 */
export class Segments {
  /** Views in order, for the back end. Complete after {@link Segments.end}. */
  readonly views: Uint8Array[] = [];
  /** Guest-physical address of each view; -1 for bytes of {@link Segments.addHost}. */
  readonly addrs: PhysAddr[] = [];
  /** Bytes of everything added, whether it is in a view yet or not. */
  bytes = 0;
  private openAddr = 0;
  private openBytes = 0;
  private toGuest = false;

  /** Starts over. `toGuest`: the transfer writes guest memory. */
  begin(toGuest: boolean): void {
    this.clear();
    this.toGuest = toGuest;
  }

  /** Adds `n` bytes at `addr`, any values. False if an earlier piece is not memory. */
  add(dma: DmaMemory, addr: PhysAddr, n: number): boolean {
    this.bytes += n;
    if (this.openBytes > 0) {
      if (this.openAddr + this.openBytes === addr) {
        this.openBytes += n;
        return true;
      }
      if (!this.close(dma)) return false;
    }
    this.openAddr = addr;
    this.openBytes = n;
    return true;
  }

  /** Adds bytes that are no guest memory. False if an earlier piece is not memory. */
  addHost(dma: DmaMemory, view: Uint8Array): boolean {
    if (!this.end(dma)) return false;
    this.views.push(view);
    this.addrs.push(-1);
    this.bytes += view.length;
    return true;
  }

  /** Ends the list. False if a piece is not memory, or not writable; the list is of no use then. */
  end(dma: DmaMemory): boolean {
    return this.openBytes === 0 || this.close(dma);
  }

  private close(dma: DmaMemory): boolean {
    let a = this.openAddr;
    let left = this.openBytes;
    this.openBytes = 0;
    if (this.push(dma, a, left)) return true;
    // Regions that touch: one view cannot span them, but each page lies in one of them. The longest view that begins here
    // is found by halving, so that an absurd length costs steps, not views.
    while (left > 0) {
      const first = Math.min(left, PAGE - (a % PAGE));
      if (this.view(dma, a, first) === null) return false;
      let low = 0;
      let high = Math.ceil((left - first) / PAGE);
      while (low < high) {
        const middle = Math.ceil((low + high) / 2);
        if (this.view(dma, a, Math.min(left, first + middle * PAGE)) === null) high = middle - 1;
        else low = middle;
      }
      const n = Math.min(left, first + low * PAGE);
      this.push(dma, a, n);
      a += n;
      left -= n;
    }
    return true;
  }

  private view(dma: DmaMemory, a: PhysAddr, n: number): Uint8Array | null {
    return this.toGuest ? dma.writeView(a, n) : dma.readView(a, n);
  }

  private push(dma: DmaMemory, a: PhysAddr, n: number): boolean {
    const view = this.view(dma, a, n);
    if (view === null) return false;
    this.views.push(view);
    this.addrs.push(a);
    return true;
  }

  /** Marks everything written. Call when the data has arrived: somebody may have translated these pages since. */
  dirty(dma: DmaMemory): void {
    if (!this.toGuest) return;
    for (let i = 0; i < this.views.length; i++) {
      const a = this.addrs[i] as number;
      if (a >= 0) dma.markDirty(a, (this.views[i] as Uint8Array).length);
    }
  }

  /** Lets go of the views. */
  clear(): void {
    this.views.length = 0;
    this.addrs.length = 0;
    this.bytes = 0;
    this.openBytes = 0;
  }

  /** Whether `n` bytes from `offset` on are those of `other`. */
  equals(offset: number, other: Uint8Array, n: number): boolean {
    let skip = offset;
    let at = 0;
    for (const v of this.views) {
      if (skip >= v.length) {
        skip -= v.length;
        continue;
      }
      for (let i = skip; i < v.length && at < n; i++) if (v[i] !== other[at++]) return false;
      skip = 0;
      if (at === n) break;
    }
    return at === n;
  }

  /** Copies the bytes out, at most as many as `into` holds; returns how many. */
  copyOut(into: Uint8Array): number {
    let at = 0;
    for (const v of this.views) {
      const n = Math.min(v.length, into.length - at);
      into.set(v.subarray(0, n), at);
      at += n;
    }
    return at;
  }

  /** Copies the first `length` bytes of `source` in, as many as fit; returns how many. */
  fill(source: Uint8Array, length: number): number {
    let done = 0;
    for (const v of this.views) {
      if (done >= length) break;
      const n = Math.min(v.length, length - done);
      v.set(source.subarray(done, done + n));
      done += n;
    }
    return done;
  }
}
