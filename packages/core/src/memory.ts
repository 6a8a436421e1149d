// Guest memory as devices, loaders and engines see it (bhyve: mem.c, vm_map_gpa in libvmmapi).
import { HyveError } from './errors.ts';
import type { PhysAddr } from './types.ts';
import { Views } from './views.ts';

/**
 * What a device sees of guest memory. Nothing here throws on a guest-given address: reads of unmapped memory give all
 * ones, writes to unmapped or read-only memory vanish. Values are unsigned and little-endian; any alignment is allowed.
 */
export interface DmaMemory {
  /** Reads one byte. */
  read8(a: PhysAddr): number;
  /** Reads two bytes. */
  read16(a: PhysAddr): number;
  /** Reads four bytes, unsigned. */
  read32(a: PhysAddr): number;
  /** Writes the low byte of `v`. */
  write8(a: PhysAddr, v: number): void;
  /** Writes the low two bytes of `v`. */
  write16(a: PhysAddr, v: number): void;
  /** Writes the low four bytes of `v`. */
  write32(a: PhysAddr, v: number): void;
  /** A live view of `n` bytes for reading, or null unless all of it lies in one region. Hold it for one operation only. */
  readView(a: PhysAddr, n: number): Uint8Array | null;
  /** A live view for writing, its pages marked dirty now; null unless all of it lies in one writable region. */
  writeView(a: PhysAddr, n: number): Uint8Array | null;
  /** Marks bytes dirty again, for writers that fill a {@link DmaMemory.writeView} later than they took it. */
  markDirty(a: PhysAddr, n: number): void;
}

/** One contiguous range of guest-physical memory. Base and size are multiples of 4096. */
export interface RegionSpec {
  /** First guest-physical address. */
  readonly base: PhysAddr;
  /** Length in bytes. */
  readonly size: number;
  /** `ram` is writable; `rom` ignores guest and device writes (the host fills it through {@link GuestMemory.load}). */
  readonly kind: 'ram' | 'rom';
  /** For messages and the memory map, such as `lowmem`. */
  readonly name: string;
}

/** All of a VM's memory: what {@link DmaMemory} offers, and the host's own access. */
export interface GuestMemory extends DmaMemory {
  /** The regions, sorted by base. */
  readonly regions: readonly RegionSpec[];
  /**
   * Copies host bytes into guest memory, read-only regions included (loaders, firmware).
   * @throws HyveError `MEMORY_RANGE` unless all of it lies in one region.
   */
  load(a: PhysAddr, bytes: Uint8Array): void;
  /** Fills with one byte value. @throws HyveError `MEMORY_RANGE` unless all of it lies in one region. */
  fill(a: PhysAddr, n: number, byte: number): void;
}

/** Told of writes into pages that somebody watches (translated code, a display, a dirty log). */
export interface PageWatch {
  /** One byte for each 4 KiB page, all regions in order; non-zero means: call {@link PageWatch.written}. */
  readonly flags: Uint8Array;
  /** Bytes of a flagged page are being written. */
  written(a: PhysAddr, n: number): void;
}

/** One region and where its bytes live, for {@link RegionMemory}. */
export interface BackedRegion extends RegionSpec {
  /** Offset of the region's first byte in the buffer, a multiple of 4096. */
  readonly offset: number;
}

/**
 * {@link GuestMemory} over slices of one buffer, shared or not.
 * @example
 * const mem = RegionMemory.allocate([{ base: 0, size: 1 << 20, kind: 'ram', name: 'lowmem' }]);
 * mem.write32(0x1000, 0xdeadbeef);
 */
export class RegionMemory implements GuestMemory {
  readonly regions: readonly BackedRegion[];
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private readonly watch: PageWatch | null;
  private readonly firstPage: number[];
  private readonly views: Views;
  private last: BackedRegion;
  private lastIndex = 0;

  /**
   * @param buffer holds every region at its offset
   * @param regions non-overlapping, page-aligned
   * @param watch told of writes into flagged pages; flags are indexed by page over all regions in base order
   * @throws HyveError `MEMORY_LAYOUT` for overlaps, misalignment or a region outside the buffer
   */
  constructor(buffer: ArrayBufferLike, regions: readonly BackedRegion[], watch: PageWatch | null = null) {
    this.regions = [...regions].sort((x, y) => x.base - y.base);
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
    this.views = new Views(this.bytes);
    this.watch = watch;
    this.firstPage = [];
    let end = -1;
    let pages = 0;
    for (const r of this.regions) {
      if (r.base % 4096 !== 0 || r.size % 4096 !== 0 || r.size <= 0)
        throw new HyveError(
          'MEMORY_LAYOUT',
          `${r.name} at 0x${r.base.toString(16)}: base and size must be whole pages`,
        );
      if (r.base < end)
        throw new HyveError('MEMORY_LAYOUT', `${r.name} at 0x${r.base.toString(16)} overlaps the region below`);
      if (r.offset + r.size > buffer.byteLength)
        throw new HyveError(
          'MEMORY_LAYOUT',
          `${r.name} needs ${r.size} bytes at 0x${r.offset.toString(16)} of its buffer`,
        );
      end = r.base + r.size;
      this.firstPage.push(pages);
      pages += r.size / 4096;
    }
    const first = this.regions[0];
    if (first === undefined) throw new HyveError('MEMORY_LAYOUT', 'a guest needs at least one memory region');
    if (watch !== null && watch.flags.length < pages)
      throw new HyveError('MEMORY_LAYOUT', `page watch has ${watch.flags.length} flags for ${pages} pages`);
    this.last = first;
  }

  /** Lays regions out one after the other in a buffer of its own. */
  static allocate(specs: readonly RegionSpec[]): RegionMemory {
    let offset = 0;
    const backed: BackedRegion[] = [];
    for (const s of specs) {
      backed.push({ ...s, offset });
      offset += s.size;
    }
    return new RegionMemory(new ArrayBuffer(offset), backed);
  }

  /** Offset in the buffer of `n` bytes at `a`, or -1 unless all lie in one region. Leaves that region in `this.last`. */
  private find(a: PhysAddr, n: number): number {
    const l = this.last;
    if (a >= l.base && a + n <= l.base + l.size) return a - l.base + l.offset;
    for (let i = 0; i < this.regions.length; i++) {
      const r = this.regions[i] as BackedRegion;
      if (a >= r.base && a + n <= r.base + r.size) {
        this.last = r;
        this.lastIndex = i;
        return a - r.base + r.offset;
      }
    }
    return -1;
  }

  private findWritable(a: PhysAddr, n: number): number {
    const o = this.find(a, n);
    if (o < 0 || this.last.kind !== 'ram') return -1;
    if (this.watch !== null) this.touch(a, n);
    return o;
  }

  /** Tells the watcher; the region of `a` is `this.last`. */
  private touch(a: PhysAddr, n: number): void {
    const w = this.watch as PageWatch;
    const r = this.last;
    const base = this.firstPage[this.lastIndex] as number;
    const from = base + Math.floor((a - r.base) / 4096);
    const to = base + Math.floor((a - r.base + n - 1) / 4096);
    for (let p = from; p <= to; p++) {
      if (w.flags[p] !== 0) {
        w.written(a, n);
        return;
      }
    }
  }

  read8(a: PhysAddr): number {
    const o = this.find(a, 1);
    return o < 0 ? 0xff : (this.bytes[o] as number);
  }

  read16(a: PhysAddr): number {
    const o = this.find(a, 2);
    return o < 0 ? this.read8(a) | (this.read8(a + 1) << 8) : this.view.getUint16(o, true);
  }

  read32(a: PhysAddr): number {
    const o = this.find(a, 4);
    return o < 0 ? (this.read16(a) | (this.read16(a + 2) << 16)) >>> 0 : this.view.getUint32(o, true);
  }

  write8(a: PhysAddr, v: number): void {
    const o = this.findWritable(a, 1);
    if (o >= 0) this.bytes[o] = v;
  }

  write16(a: PhysAddr, v: number): void {
    const o = this.findWritable(a, 2);
    if (o >= 0) this.view.setUint16(o, v, true);
    else if (this.find(a, 2) < 0) {
      this.write8(a, v);
      this.write8(a + 1, v >>> 8);
    }
  }

  write32(a: PhysAddr, v: number): void {
    const o = this.findWritable(a, 4);
    if (o >= 0) this.view.setUint32(o, v, true);
    else if (this.find(a, 4) < 0) {
      this.write16(a, v);
      this.write16(a + 2, v >>> 16);
    }
  }

  readView(a: PhysAddr, n: number): Uint8Array | null {
    if (!(n >= 0)) return null;
    const o = this.find(a, n);
    return o < 0 ? null : this.views.of(o, n);
  }

  writeView(a: PhysAddr, n: number): Uint8Array | null {
    if (!(n >= 0)) return null;
    const o = n === 0 ? this.find(a, 0) : this.findWritable(a, n);
    return o < 0 || this.last.kind !== 'ram' ? null : this.views.of(o, n);
  }

  markDirty(a: PhysAddr, n: number): void {
    if (n > 0) this.findWritable(a, n);
  }

  load(a: PhysAddr, bytes: Uint8Array): void {
    this.bytes.set(bytes, this.hostOffset(a, bytes.length));
  }

  fill(a: PhysAddr, n: number, byte: number): void {
    const o = this.hostOffset(a, n);
    this.bytes.fill(byte, o, o + n);
  }

  private hostOffset(a: PhysAddr, n: number): number {
    const o = this.find(a, n);
    if (o < 0)
      throw new HyveError('MEMORY_RANGE', `0x${n.toString(16)} bytes at 0x${a.toString(16)} are not in one region`);
    if (this.watch !== null && n > 0) this.touch(a, n);
    return o;
  }
}
