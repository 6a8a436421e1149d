// Pieces of guest memory that one transfer touches, as views to hand to a back end: neighbouring pieces joined, pages
// marked dirty when the data has arrived. Nothing is copied.
import type { DmaMemory } from '@hyve/core';

const PAGE = 4096;

/** A list of guest memory ranges, reused from one transfer to the next. @internal */
export class Segments {
  /** Views in order, for the back end. */
  readonly views: Uint8Array[] = [];
  /** Bytes in all views, the open piece included. */
  bytes = 0;
  private readonly addrs: number[] = [];
  private openAddr = 0;
  private openBytes = 0;
  private toGuest = false;

  /** Starts over. `toGuest`: the transfer writes guest memory. */
  begin(toGuest: boolean): void {
    this.views.length = 0;
    this.addrs.length = 0;
    this.bytes = 0;
    this.openBytes = 0;
    this.toGuest = toGuest;
  }

  /** Adds `n` bytes at `addr`, any value. False if an earlier piece is not memory. */
  add(dma: DmaMemory, addr: number, n: number): boolean {
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

  /** Ends the list. False if a piece is not memory; the list is of no use then. */
  end(dma: DmaMemory): boolean {
    return this.openBytes === 0 || this.close(dma);
  }

  private close(dma: DmaMemory): boolean {
    const a = this.openAddr;
    const n = this.openBytes;
    this.openBytes = 0;
    if (this.push(dma, a, n)) return true;
    // Regions that touch: one view cannot span them, but each page lies in one of them.
    for (let done = 0; done < n; ) {
      const step = Math.min(n - done, PAGE - ((a + done) % PAGE));
      if (!this.push(dma, a + done, step)) return false;
      done += step;
    }
    return true;
  }

  private push(dma: DmaMemory, a: number, n: number): boolean {
    const view = this.toGuest ? dma.writeView(a, n) : dma.readView(a, n);
    if (view === null) return false;
    this.views.push(view);
    this.addrs.push(a);
    return true;
  }

  /** Marks everything written. Call when the data has arrived. */
  dirty(dma: DmaMemory): void {
    if (!this.toGuest) return;
    for (let i = 0; i < this.views.length; i++)
      dma.markDirty(this.addrs[i] as number, (this.views[i] as Uint8Array).length);
  }

  /** Lets go of the views. */
  clear(): void {
    this.views.length = 0;
    this.addrs.length = 0;
    this.bytes = 0;
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

  /** Copies the ranges out, at most as much as `into` holds; returns how much. */
  copyOut(into: Uint8Array): number {
    let at = 0;
    for (const v of this.views) {
      const n = Math.min(v.length, into.length - at);
      into.set(v.subarray(0, n), at);
      at += n;
    }
    return at;
  }

  /** Copies `source` into the ranges, as much as fits; returns how much. */
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
