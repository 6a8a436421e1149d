// Where a loader may put things: the RAM of the memory map, minus what is taken already.
import { type GuestMemory, HyveError } from '@hyve/core';
import { alignDown, alignUp, hex } from './image.ts';

/** One range of the memory map, as INT 15h E820h types it: 1 is RAM. */
export interface E820Entry {
  /** First byte, guest-physical. */
  readonly base: number;
  /** Length in bytes. */
  readonly size: number;
  /** 1 RAM, 2 reserved, 3 ACPI reclaimable, 4 ACPI NVS, … */
  readonly type: number;
}

/** The guest's memory, for every loader. */
export interface GuestRam {
  /** Guest memory to fill. */
  readonly memory: GuestMemory;
  /** RAM below 4 GiB in bytes, from 0; at least 1 MiB. */
  readonly lowmem: number;
  /** RAM from 4 GiB up in bytes. Default 0. */
  readonly highmem?: number;
  /** Memory map given to the guest, sorted; things are put into its RAM only. */
  readonly e820: readonly E820Entry[];
}

/** Something a loader put into memory. */
export interface Placement {
  /** `kernel`, `initrd`, `cmdline`, … */
  readonly name: string;
  /** First byte, guest-physical. */
  readonly base: number;
  /** Length in bytes. */
  readonly size: number;
}

const GIB4 = 2 ** 32;

/** RAM ranges and what was placed in them. */
export class RamPlan {
  readonly placed: Placement[] = [];
  private readonly ram: { base: number; end: number }[] = [];
  private readonly memory: GuestMemory;

  constructor(r: GuestRam) {
    this.memory = r.memory;
    const highEnd = GIB4 + (r.highmem ?? 0);
    for (const e of r.e820) {
      if (e.type !== 1) continue;
      const end = Math.min(e.base + e.size, e.base < GIB4 ? r.lowmem : highEnd);
      if (end <= e.base) continue;
      const last = this.ram.at(-1);
      if (last !== undefined && last.end === e.base) last.end = end;
      else this.ram.push({ base: e.base, end });
    }
  }

  /** Whether all of the range is RAM. */
  isRam(base: number, size: number): boolean {
    return this.ram.some((r) => base >= r.base && base + size <= r.end);
  }

  /** What already lies in the range, if anything. */
  taken(base: number, size: number): Placement | undefined {
    return this.placed.find((p) => base < p.base + p.size && p.base < base + size);
  }

  /** Takes a range. @throws HyveError with `code` unless it is free RAM */
  reserve(name: string, base: number, size: number, code: string): void {
    if (!this.isRam(base, size))
      throw new HyveError(code, `${name}: ${hex(base)}-${hex(base + size)} is not RAM of the guest`);
    const other = this.taken(base, size);
    if (other !== undefined)
      throw new HyveError(
        code,
        `${name}: ${hex(base)}-${hex(base + size)} overlaps ${other.name} at ${hex(other.base)}`,
      );
    this.placed.push({ name, base, size });
  }

  /** Takes a range and fills it: `bytes`, then zeros up to `size`. @throws HyveError with `code` */
  put(name: string, base: number, bytes: Uint8Array, code: string, size: number = bytes.length): void {
    this.reserve(name, base, size, code);
    this.fillPart(base, bytes, size);
  }

  /** Fills a part of a range that {@link RamPlan.reserve} has taken: `bytes`, then zeros up to `size`. */
  fillPart(base: number, bytes: Uint8Array, size: number): void {
    this.memory.load(base, bytes);
    if (size > bytes.length) this.memory.fill(base + bytes.length, size - bytes.length, 0);
  }

  /** Highest free aligned place for `size` bytes in `min` to `end`, or -1. */
  highest(size: number, align: number, min: number, end: number): number {
    for (let i = this.ram.length - 1; i >= 0; i--) {
      const r = this.ram[i] as { base: number; end: number };
      const low = Math.max(r.base, min);
      let at = alignDown(Math.min(r.end, end) - size, align);
      while (at >= low) {
        const hit = this.taken(at, size);
        if (hit === undefined) return at;
        at = alignDown(hit.base - size, align);
      }
    }
    return -1;
  }

  /** Lowest free aligned place for `size` bytes in `min` to `end`, or -1. */
  lowest(size: number, align: number, min: number, end: number): number {
    for (const r of this.ram) {
      const stop = Math.min(r.end, end);
      let at = alignUp(Math.max(r.base, min), align);
      while (at + size <= stop) {
        const hit = this.taken(at, size);
        if (hit === undefined) return at;
        at = alignUp(hit.base + hit.size, align);
      }
    }
    return -1;
  }
}
