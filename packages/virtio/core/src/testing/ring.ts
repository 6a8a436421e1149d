// The driver's side of a virtqueue, for tests and examples: split and packed, direct and indirect, with or without event
// index. It checks what it reads: a device that answers what nobody asked makes it throw.
import type { DmaMemory } from '@hyve/core';

/** A buffer of the driver's. */
export interface GuestBuffer {
  /** Guest-physical address. */
  readonly addr: number;
  /** Bytes. */
  readonly len: number;
}

/** A used chain. */
export interface UsedBuffer {
  /** What {@link RingDriver.add} gave. */
  readonly id: number;
  /** Bytes the device says it wrote. */
  readonly len: number;
}

/** Options of {@link SplitRing} and {@link PackedRing}. */
export interface RingOptions {
  /** Guest memory. */
  readonly mem: DmaMemory;
  /** Where ring and indirect tables may live, a multiple of 4096; {@link ringBytes} bytes. */
  readonly base: number;
  /** Descriptors. */
  readonly size: number;
  /** Puts each chain into an indirect table. Default false. */
  readonly indirect?: boolean;
  /** Event index was negotiated. Default false. */
  readonly eventIdx?: boolean;
}

/** A ring as a driver uses it. */
export interface RingDriver {
  /** Descriptors. */
  readonly size: number;
  /** Descriptor table or packed ring. */
  readonly desc: number;
  /** Available ring or driver event suppression. */
  readonly driver: number;
  /** Used ring or device event suppression. */
  readonly device: number;
  /** Makes a chain available; its id, or -1 when the ring is full. Seen by the device after {@link kick}. */
  add(readable: readonly GuestBuffer[], writable: readonly GuestBuffer[]): number;
  /** Publishes added chains; true if the device wants a notification. */
  kick(): boolean;
  /** The next used chain, or null. */
  poll(): UsedBuffer | null;
  /** Asks for interrupts or not; with event index: at the next used chain only. */
  wantInterrupts(on: boolean): void;
}

const TABLE_ENTRIES = 64;
const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 0x80;
const USED = 0x8000;

/** Bytes a ring of `size` descriptors and its indirect tables take. */
export function ringBytes(size: number): number {
  return splitBytes(size) + size * TABLE_ENTRIES * 16;
}

function splitBytes(size: number): number {
  return Math.ceil((size * 18 + 6) / 4096) * 4096 + Math.ceil((size * 8 + 6) / 4096) * 4096;
}

function need(from: number, to: number, event: number): boolean {
  return ((to - event - 1) & 0xffff) < ((to - from) & 0xffff);
}

class Descriptors {
  readonly mem: DmaMemory;
  constructor(mem: DmaMemory) {
    this.mem = mem;
  }
  put(at: number, addr: number, len: number, low: number, high: number): void {
    this.mem.write32(at, addr % 2 ** 32);
    this.mem.write32(at + 4, Math.floor(addr / 2 ** 32));
    this.mem.write32(at + 8, len);
    this.mem.write16(at + 12, low);
    this.mem.write16(at + 14, high);
  }
}

/** A split ring in the legacy layout (used ring on the next page), which modern devices take too. */
export class SplitRing implements RingDriver {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  private readonly mem: DmaMemory;
  private readonly out: Descriptors;
  private readonly tables: number;
  private readonly indirect: boolean;
  private readonly eventIdx: boolean;
  private readonly free: number[];
  private readonly chains: Map<number, number[]> = new Map();
  private avail = 0;
  private published = 0;
  private used = 0;

  constructor(o: RingOptions) {
    this.mem = o.mem;
    this.out = new Descriptors(o.mem);
    this.size = o.size;
    this.desc = o.base;
    this.driver = o.base + o.size * 16;
    this.device = o.base + Math.ceil((o.size * 18 + 6) / 4096) * 4096;
    this.tables = o.base + splitBytes(o.size);
    this.indirect = o.indirect === true;
    this.eventIdx = o.eventIdx === true;
    this.free = Array.from({ length: o.size }, (_, i) => i);
    for (let a = o.base; a < this.tables; a += 4) this.mem.write32(a, 0);
  }

  add(readable: readonly GuestBuffer[], writable: readonly GuestBuffer[]): number {
    const all = [...readable, ...writable];
    const slots = this.indirect ? 1 : all.length;
    if (this.free.length < slots || all.length === 0) return -1;
    const taken = this.free.splice(0, slots);
    const head = taken[0] as number;
    const table = this.indirect ? this.tables + head * TABLE_ENTRIES * 16 : this.desc;
    all.forEach((b, i) => {
      const at = this.indirect ? i : (taken[i] as number);
      const last = i === all.length - 1;
      const next = last ? 0 : this.indirect ? i + 1 : (taken[i + 1] as number);
      this.out.put(table + at * 16, b.addr, b.len, (last ? 0 : NEXT) | (i < readable.length ? 0 : WRITE), next);
    });
    if (this.indirect) this.out.put(this.desc + head * 16, table, all.length * 16, INDIRECT, 0);
    this.chains.set(head, taken);
    this.mem.write16(this.driver + 4 + (this.avail & (this.size - 1)) * 2, head);
    this.avail = (this.avail + 1) & 0xffff;
    return head;
  }

  kick(): boolean {
    const from = this.published;
    this.mem.write16(this.driver + 2, this.avail);
    this.published = this.avail;
    if (from === this.avail) return false;
    if (this.eventIdx) return need(from, this.avail, this.mem.read16(this.device + 4 + this.size * 8));
    return (this.mem.read16(this.device) & 1) === 0;
  }

  poll(): UsedBuffer | null {
    if (this.mem.read16(this.device + 2) === this.used) return null;
    const e = this.device + 4 + (this.used & (this.size - 1)) * 8;
    const id = this.mem.read32(e);
    const chain = this.chains.get(id);
    if (chain === undefined) throw new Error(`device used chain ${id}, which it does not have`);
    this.chains.delete(id);
    this.free.push(...chain);
    this.used = (this.used + 1) & 0xffff;
    return { id, len: this.mem.read32(e + 4) };
  }

  wantInterrupts(on: boolean): void {
    this.mem.write16(this.driver, on ? 0 : 1);
    this.mem.write16(this.driver + 4 + this.size * 2, on ? this.used : this.used + 0x8000);
  }
}

/** A packed ring. */
export class PackedRing implements RingDriver {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  private readonly mem: DmaMemory;
  private readonly out: Descriptors;
  private readonly tables: number;
  private readonly indirect: boolean;
  private readonly eventIdx: boolean;
  private readonly ids: number[];
  private readonly chains: Map<number, number> = new Map();
  private room: number;
  private next = 0;
  private wrap = true;
  private added = 0;
  private firstFlags: number[] = [];
  private usedAt = 0;
  private usedWrap = true;

  constructor(o: RingOptions) {
    this.mem = o.mem;
    this.out = new Descriptors(o.mem);
    this.size = o.size;
    this.desc = o.base;
    this.driver = o.base + o.size * 16;
    this.device = this.driver + 4;
    this.tables = o.base + splitBytes(o.size);
    this.indirect = o.indirect === true;
    this.eventIdx = o.eventIdx === true;
    this.ids = Array.from({ length: o.size }, (_, i) => i);
    this.room = o.size;
    for (let a = o.base; a < this.tables; a += 4) this.mem.write32(a, 0);
  }

  add(readable: readonly GuestBuffer[], writable: readonly GuestBuffer[]): number {
    const all = [...readable, ...writable];
    const slots = this.indirect ? 1 : all.length;
    if (this.room < slots || all.length === 0) return -1;
    const id = this.ids.shift() as number;
    this.chains.set(id, slots);
    this.room -= slots;
    const table = this.tables + id * TABLE_ENTRIES * 16;
    if (this.indirect)
      all.forEach((b, i) => {
        this.out.put(table + i * 16, b.addr, b.len, 0, i < readable.length ? 0 : WRITE);
      });
    const list = this.indirect ? [{ addr: table, len: all.length * 16 }] : all;
    list.forEach((b, i) => {
      const mark = this.wrap ? AVAIL : USED;
      const kind = this.indirect ? INDIRECT : (i < readable.length ? 0 : WRITE) | (i < all.length - 1 ? NEXT : 0);
      const d = this.desc + this.next * 16;
      // The first descriptor of all that are being added becomes available last, in kick.
      const hold = this.firstFlags.length === 0;
      this.out.put(d, b.addr, b.len, id, hold ? this.mem.read16(d + 14) : mark | kind);
      if (hold) this.firstFlags = [d + 14, mark | kind];
      if (++this.next === this.size) {
        this.next = 0;
        this.wrap = !this.wrap;
      }
    });
    this.added += slots;
    return id;
  }

  kick(): boolean {
    const [at, flags] = this.firstFlags;
    if (at === undefined || flags === undefined) return false;
    this.mem.write16(at, flags);
    this.firstFlags = [];
    const added = this.added;
    this.added = 0;
    const mode = this.mem.read16(this.device + 2) & 3;
    if (mode === 1) return false;
    if (mode !== 2 || !this.eventIdx) return true;
    const event = this.mem.read16(this.device);
    const off = (event & 0x7fff) - (((event & 0x8000) !== 0) === this.wrap ? 0 : this.size);
    return off >= this.next - added && off < this.next;
  }

  poll(): UsedBuffer | null {
    const d = this.desc + this.usedAt * 16;
    const flags = this.mem.read16(d + 14);
    if (((flags & USED) !== 0) !== this.usedWrap || ((flags & AVAIL) !== 0) !== this.usedWrap) return null;
    const id = this.mem.read16(d + 12);
    const slots = this.chains.get(id);
    if (slots === undefined) throw new Error(`device used chain ${id}, which it does not have`);
    const len = this.mem.read32(d + 8);
    this.chains.delete(id);
    this.ids.push(id);
    this.room += slots;
    this.usedAt += slots;
    if (this.usedAt >= this.size) {
      this.usedAt -= this.size;
      this.usedWrap = !this.usedWrap;
    }
    return { id, len };
  }

  wantInterrupts(on: boolean): void {
    this.mem.write16(this.driver, this.usedAt | (this.usedWrap ? 0x8000 : 0));
    this.mem.write16(this.driver + 2, on ? (this.eventIdx ? 2 : 0) : 1);
  }
}
