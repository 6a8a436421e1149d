// Port and MMIO buses (bhyve: inout.c, mem.c). One instance each for ports and MMIO.
import { HyveError } from './errors.ts';
import { allOnes, type PhysAddr, type Width } from './types.ts';

/** The guest's side of a device's registers. Never throws, never blocks. */
export interface IoHandler {
  /** Reads `width` bytes at `offset` from the claim's base; the result is unsigned and below 2^(8·width). */
  read(offset: number, width: Width): number;
  /** Writes `width` bytes at `offset`; `value` is unsigned and below 2^(8·width). */
  write(offset: number, width: Width, value: number): void;
}

/**
 * A register whose writes only say "look": an engine may run on past the write and tell the handler a little later, once
 * for several. Writes that the engine does not know of go to the handler as always.
 */
export interface DoorbellSpec {
  /** From the claim's base. */
  readonly offset: number;
  /** Width of the writes meant. */
  readonly width: Width;
  /** The value written. Others than this one are plain writes; with `any` it is what the handler is given. */
  readonly value: number;
  /** Whatever is written is the same. */
  readonly any?: boolean;
}

/** Where doorbells can be hung up: an engine that runs vCPUs beside this thread. */
export interface DoorbellHost {
  /**
   * Hangs one up. `ring` is called on the VM's thread.
   * @param value only writes of this; null: any
   * @returns how to take it down, or null if there is no room for another
   */
  add(
    space: 'port' | 'memory',
    addr: PhysAddr,
    width: Width,
    value: number | null,
    ring: () => void,
  ): (() => void) | null;
}

/** Options of {@link IoBus.claim}. */
export interface ClaimOptions {
  /** For messages: the device or register block, such as `com1`. */
  readonly name: string;
  /**
   * Widths the handler takes, ORed: 1, 2, 4; default 7. The bus splits wider accesses into the widest allowed ones, low
   * bytes first; a narrower access than any allowed one is a read of the enclosing unit (writes are dropped).
   */
  readonly widths?: number;
  /** Registers in the range that are doorbells. */
  readonly doorbells?: readonly DoorbellSpec[];
}

/** One claimed range. */
export interface Claim {
  /** Moves the range; null takes it off the bus until moved again. @throws HyveError `BUS_OVERLAP` */
  moveTo(base: number | null): void;
  /** Gives the range back for good. */
  release(): void;
}

/** A bus of address ranges. */
export interface IoBus {
  /** Claims `[base, base + length)`; a null base claims nothing yet. @throws HyveError `BUS_OVERLAP`, `BUS_RANGE` */
  claim(base: number | null, length: number, handler: IoHandler, options: ClaimOptions): Claim;
  /** Whether nothing but `except` claims any byte of the range, and the range lies on the bus. */
  isFree(base: number, length: number, except?: Claim | null): boolean;
  /** Reads; unclaimed addresses give all ones. */
  read(addr: PhysAddr, width: Width): number;
  /** Writes; unclaimed addresses ignore it. */
  write(addr: PhysAddr, width: Width, value: number): void;
}

/** Told of accesses that nothing claims; `value` is null for reads. May throw to stop the VM (bhyve's strict `-e`). */
export type UnclaimedAccess = (addr: number, width: Width, value: number | null) => void;

class Range implements Claim {
  base = -1;
  end = -1;
  readonly length: number;
  readonly handler: IoHandler;
  readonly name: string;
  readonly widths: number;
  readonly doorbells: readonly DoorbellSpec[];
  /** How to take down those that hang. */
  hung: (() => void)[] = [];
  private readonly bus: Bus;
  constructor(bus: Bus, length: number, handler: IoHandler, o: ClaimOptions) {
    this.bus = bus;
    this.length = length;
    this.handler = handler;
    this.name = o.name;
    this.widths = o.widths ?? 7;
    this.doorbells = o.doorbells ?? [];
  }
  moveTo(base: number | null): void {
    this.bus.place(this, base);
  }
  release(): void {
    this.bus.place(this, null);
  }
}

/**
 * The {@link IoBus} everybody uses: sorted ranges, binary search, last-hit cache.
 * A BAR that a guest moves onto another range is a mistake the caller must look for first (see {@link Bus.isFree}).
 */
export class Bus implements IoBus {
  private readonly name: string;
  private readonly size: number;
  private readonly unclaimed: UnclaimedAccess | null;
  private readonly nobody: Range;
  private ranges: Range[] = [];
  private last: Range;
  private bells: DoorbellHost | null = null;
  private space: 'port' | 'memory' = 'memory';

  /** @param o.size first address past the bus: 0x10000 for ports, 2^52 for memory */
  constructor(o: { name: string; size: number; onUnclaimed?: UnclaimedAccess }) {
    this.name = o.name;
    this.size = o.size;
    this.unclaimed = o.onUnclaimed ?? null;
    this.nobody = new Range(this, 0, { read: () => 0xffffffff, write: () => {} }, { name: 'unclaimed' });
    this.last = this.nobody;
  }

  /** Hangs up the doorbells of all claims, present and future, with an engine. */
  useDoorbells(host: DoorbellHost, space: 'port' | 'memory'): void {
    this.bells = host;
    this.space = space;
    for (const r of this.ranges) this.hang(r);
  }

  private hang(r: Range): void {
    if (this.bells === null) return;
    for (const d of r.doorbells) {
      const ring = (): void => r.handler.write(d.offset, d.width, d.value);
      const down = this.bells.add(this.space, r.base + d.offset, d.width, d.any === true ? null : d.value, ring);
      if (down !== null) r.hung.push(down);
    }
  }

  claim(base: number | null, length: number, handler: IoHandler, options: ClaimOptions): Claim {
    if (!Number.isInteger(length) || length <= 0)
      throw new HyveError('BUS_RANGE', `${options.name}: length ${length} on the ${this.name} bus`);
    const r = new Range(this, length, handler, options);
    this.place(r, base);
    return r;
  }

  /** @internal Puts a range at `base`, or takes it off. */
  place(r: Range, base: number | null): void {
    if (base !== null) {
      if (!Number.isInteger(base) || base < 0 || base + r.length > this.size)
        throw new HyveError(
          'BUS_RANGE',
          `${r.name}: 0x${base.toString(16)}+0x${r.length.toString(16)} is off the ${this.name} bus`,
        );
      for (const q of this.ranges) {
        if (q !== r && base < q.end && q.base < base + r.length)
          throw new HyveError(
            'BUS_OVERLAP',
            `${r.name} at 0x${base.toString(16)} overlaps ${q.name} at 0x${q.base.toString(16)}`,
          );
      }
    }
    this.ranges = this.ranges.filter((q) => q !== r);
    this.last = this.nobody;
    for (const down of r.hung.splice(0)) down();
    if (base === null) {
      r.base = -1;
      r.end = -1;
      return;
    }
    r.base = base;
    r.end = base + r.length;
    this.ranges.push(r);
    this.ranges.sort((x, y) => x.base - y.base);
    this.hang(r);
  }

  /** Whether nothing but `except` claims any byte of the range and it lies on the bus. */
  isFree(base: number, length: number, except: Claim | null = null): boolean {
    if (!(base >= 0) || base + length > this.size) return false;
    return this.ranges.every((q) => q === except || base >= q.end || q.base >= base + length);
  }

  /** Name of the claim that holds `addr`, or null. For messages and tests. */
  claimedBy(addr: number): string | null {
    const r = this.find(addr);
    return r === this.nobody ? null : r.name;
  }

  private find(addr: number): Range {
    const l = this.last;
    if (addr >= l.base && addr < l.end) return l;
    const ranges = this.ranges;
    let lo = 0;
    let hi = ranges.length - 1;
    while (lo <= hi) {
      const mid = (lo + hi) >> 1;
      const r = ranges[mid] as Range;
      if (addr < r.base) hi = mid - 1;
      else if (addr >= r.end) lo = mid + 1;
      else {
        this.last = r;
        return r;
      }
    }
    return this.nobody;
  }

  read(addr: PhysAddr, width: Width): number {
    const r = this.find(addr);
    if ((r.widths & width) !== 0 && addr + width <= r.end) return r.handler.read(addr - r.base, width);
    return this.readSplit(r, addr, width);
  }

  private readSplit(r: Range, addr: number, width: Width): number {
    if (r === this.nobody) {
      if (this.unclaimed !== null) this.unclaimed(addr, width, null);
      return allOnes(width);
    }
    if (width > 1 && ((r.widths & (width - 1)) !== 0 || addr + width > r.end)) {
      const half = (width >> 1) as Width;
      return (this.read(addr, half) | (this.read(addr + half, half) << (half * 8))) >>> 0;
    }
    // Narrower than anything the handler takes: read the enclosing unit.
    const unit = r.widths & 2 && width < 2 ? 2 : 4;
    const offset = addr - r.base;
    const start = offset - (offset % unit);
    const whole = r.handler.read(start, unit);
    return (whole >>> ((offset - start) * 8)) & allOnes(width);
  }

  write(addr: PhysAddr, width: Width, value: number): void {
    const r = this.find(addr);
    if ((r.widths & width) !== 0 && addr + width <= r.end) r.handler.write(addr - r.base, width, value);
    else this.writeSplit(r, addr, width, value);
  }

  private writeSplit(r: Range, addr: number, width: Width, value: number): void {
    if (r === this.nobody) {
      if (this.unclaimed !== null) this.unclaimed(addr, width, value);
      return;
    }
    if (width > 1 && ((r.widths & (width - 1)) !== 0 || addr + width > r.end)) {
      const half = (width >> 1) as Width;
      this.write(addr, half, value & allOnes(half));
      this.write(addr + half, half, value >>> (half * 8));
    }
  }
}
