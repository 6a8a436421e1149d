// The guest's side of a split virtqueue in guest RAM: what a driver does, for tests of virtio devices.
// Virtual I/O Device (VIRTIO) 1.2 §2.7; with the default alignment it fits the legacy layout (§2.7.2) as well.
import { type GuestMemory, hi32, type PhysAddr } from '@hyve/core';

/** Descriptor flag: another descriptor follows. §2.7.5 */
export const DESC_NEXT = 1;
/** Descriptor flag: the device writes this buffer. */
export const DESC_WRITE = 2;
/** Descriptor flag: the buffer is a table of descriptors. */
export const DESC_INDIRECT = 4;

/** A stretch of guest memory. */
export interface Segment {
  /** First byte. */
  readonly addr: PhysAddr;
  /** Bytes. */
  readonly len: number;
}

/** A chain that was pushed. */
export interface PushedChain {
  /** Index of its first descriptor, as it appears in both rings. */
  readonly head: number;
  /** What the device may read, in order. */
  readonly readable: readonly Segment[];
  /** What the device may write, in order. */
  readonly writable: readonly Segment[];
  /** The descriptors it holds in the main table. */
  readonly slots: readonly number[];
}

/** A chain that came back. */
export interface UsedChain extends PushedChain {
  /** Bytes the device says it wrote. */
  readonly written: number;
}

/** Options of {@link RingDriver}. */
export interface RingDriverOptions {
  /** Guest RAM. */
  readonly ram: GuestMemory;
  /** Where the queue's three parts start, a multiple of `align`. */
  readonly base: PhysAddr;
  /** Entries, a power of two up to 32768. */
  readonly size: number;
  /** Where buffers and indirect tables are made; all of `heap` is the driver's. */
  readonly heap: Segment;
  /** Alignment of the used ring. Default 4096, as legacy devices want it. */
  readonly align?: number;
  /** VIRTIO_F_EVENT_IDX was negotiated. Default false. */
  readonly eventIdx?: boolean;
  /** First index of both rings, 0–65535, to test wrapping. The device must be told to start there too. Default 0. */
  readonly startIndex?: number;
}

/**
 * A driver for one split virtqueue.
 * @example
 * const ring = new RingDriver({ ram: rig.ram, base: 0x10000, size: 8, heap: { addr: 0x20000, len: 0x10000 } });
 * device.setQueue(0, ring.size, ring.desc, ring.avail, ring.used);
 * const { head, writable } = ring.push([Uint8Array.of(1, 2, 3)], [512]);
 * ring.publish();
 * device.notify(0);
 * const done = ring.pop(); // done.head === head, done.written, ring.bytes(writable[0])
 */
export class RingDriver {
  /** Entries. */
  readonly size: number;
  /** Address of the descriptor table. */
  readonly desc: PhysAddr;
  /** Address of the available ring: flags, index, entries, used_event. */
  readonly avail: PhysAddr;
  /** Address of the used ring: flags, index, entries of 8 bytes, avail_event. */
  readonly used: PhysAddr;
  /** First byte after the queue. */
  readonly end: PhysAddr;
  private readonly ram: GuestMemory;
  private readonly heap: Segment;
  private readonly eventIdx: boolean;
  private heapUsed = 0;
  private readonly free: number[] = [];
  private readonly inFlight: Map<number, PushedChain> = new Map();
  private availIndex: number;
  private published: number;
  private usedIndex: number;

  constructor(o: RingDriverOptions) {
    if (!(o.size >= 1 && o.size <= 32768) || (o.size & (o.size - 1)) !== 0)
      throw new Error(`a queue of ${o.size} entries: a power of two up to 32768 it must be`);
    const align = o.align ?? 4096;
    if (o.base % align !== 0) throw new Error(`queue at 0x${o.base.toString(16)}: not a multiple of ${align}`);
    this.ram = o.ram;
    this.size = o.size;
    this.heap = o.heap;
    this.eventIdx = o.eventIdx ?? false;
    this.desc = o.base;
    this.avail = o.base + 16 * o.size;
    this.used = Math.ceil((this.avail + 6 + 2 * o.size) / align) * align;
    this.end = this.used + 6 + 8 * o.size;
    this.ram.fill(this.desc, this.end - this.desc, 0);
    this.availIndex = o.startIndex ?? 0;
    this.published = this.availIndex;
    this.usedIndex = this.availIndex;
    this.ram.write16(this.avail + 2, this.availIndex);
    this.ram.write16(this.used + 2, this.usedIndex);
    for (let i = o.size - 1; i >= 0; i--) this.free.push(i);
  }

  /** Descriptors not in use. */
  get freeDescriptors(): number {
    return this.free.length;
  }

  /** Takes `n` bytes of the heap, aligned to 16; `n` may be 0. Never given back: tests are short. */
  alloc(n: number): PhysAddr {
    const at = this.heap.addr + this.heapUsed;
    if (this.heapUsed + n > this.heap.len) throw new Error(`the ring's heap of ${this.heap.len} bytes is used up`);
    this.heapUsed += Math.ceil(n / 16) * 16;
    return at;
  }

  /** Takes heap and fills it. */
  place(bytes: Uint8Array): Segment {
    const addr = this.alloc(bytes.length);
    if (bytes.length > 0) this.ram.load(addr, bytes);
    return { addr, len: bytes.length };
  }

  /** A copy of what is in a segment now. */
  bytes(s: Segment, length: number = s.len): Uint8Array {
    const view = this.ram.readView(s.addr, length);
    if (view === null) throw new Error(`0x${s.addr.toString(16)}+${length} is not RAM`);
    return view.slice();
  }

  /** Writes one descriptor of a table, by default the main one. Nothing is checked: hostile chains are made with it. */
  writeDescriptor(
    index: number,
    d: { addr: PhysAddr; len: number; flags: number; next: number },
    table: PhysAddr = this.desc,
  ): void {
    const at = table + 16 * index;
    this.ram.write32(at, d.addr % 0x1_0000_0000);
    this.ram.write32(at + 4, hi32(d.addr));
    this.ram.write32(at + 8, d.len);
    this.ram.write16(at + 12, d.flags);
    this.ram.write16(at + 14, d.next);
  }

  /**
   * Builds a chain and puts it into the available ring; the device sees it after {@link RingDriver.publish}.
   * @param readable buffers for the device to read: bytes (placed in the heap) or segments
   * @param writable buffers for the device to write: lengths (allocated) or segments
   * @param o.indirect one descriptor in the main table, the chain in a table of its own
   */
  push(
    readable: readonly (Uint8Array | Segment)[],
    writable: readonly (number | Segment)[],
    o: { indirect?: boolean } = {},
  ): PushedChain {
    const ro = readable.map((r) => (r instanceof Uint8Array ? this.place(r) : r));
    const rw = writable.map((w) => (typeof w === 'number' ? { addr: this.alloc(w), len: w } : w));
    const parts = [...ro.map((s) => ({ ...s, flags: 0 })), ...rw.map((s) => ({ ...s, flags: DESC_WRITE }))];
    if (parts.length === 0) throw new Error('a chain needs a buffer (VIRTIO 1.2 §2.7.5)');
    const indirect = o.indirect ?? false;
    const need = indirect ? 1 : parts.length;
    if (need > this.free.length) throw new Error(`${need} descriptors wanted, ${this.free.length} free`);
    const slots = Array.from({ length: need }, () => this.free.pop() as number);
    if (indirect) {
      const table = this.alloc(16 * parts.length);
      this.writeChain(parts, Array.from(parts.keys()), table);
      this.writeDescriptor(slots[0] as number, { addr: table, len: 16 * parts.length, flags: DESC_INDIRECT, next: 0 });
    } else this.writeChain(parts, slots, this.desc);
    const chain: PushedChain = { head: slots[0] as number, readable: ro, writable: rw, slots };
    this.inFlight.set(chain.head, chain);
    this.offer(chain.head);
    return chain;
  }

  private writeChain(parts: readonly (Segment & { flags: number })[], slots: readonly number[], table: PhysAddr): void {
    parts.forEach((p, i) => {
      const next = slots[i + 1];
      const flags = p.flags | (next === undefined ? 0 : DESC_NEXT);
      this.writeDescriptor(slots[i] as number, { addr: p.addr, len: p.len, flags, next: next ?? 0 }, table);
    });
  }

  /** Puts any head into the available ring, also one that no {@link RingDriver.push} made. */
  offer(head: number): void {
    this.ram.write16(this.avail + 4 + 2 * (this.availIndex & (this.size - 1)), head);
    this.availIndex = (this.availIndex + 1) & 0xffff;
  }

  /** Makes what was pushed visible by moving avail.idx; true if the device wants to be notified (§2.7.13). */
  publish(): boolean {
    const before = this.published;
    this.published = this.availIndex;
    this.ram.write16(this.avail + 2, this.availIndex);
    if (!this.eventIdx) return (this.ram.read16(this.used) & 1) === 0;
    const event = this.ram.read16(this.used + 4 + 8 * this.size);
    return ((this.availIndex - event - 1) & 0xffff) < ((this.availIndex - before) & 0xffff);
  }

  /** Asks for no interrupts (VIRTQ_AVAIL_F_NO_INTERRUPT), or for them again. */
  suppressInterrupts(on: boolean): void {
    this.ram.write16(this.avail, on ? 1 : 0);
  }

  /** With event indices: asks for an interrupt once used.idx passes `index`. Default: at the next buffer. */
  setUsedEvent(index: number = this.usedIndex): void {
    this.ram.write16(this.avail + 4 + 2 * this.size, index & 0xffff);
  }

  /** Chains the device has returned and {@link RingDriver.pop} has not taken. */
  get pending(): number {
    return (this.ram.read16(this.used + 2) - this.usedIndex) & 0xffff;
  }

  /**
   * Takes the next returned chain, or null. Throws for what no device may do: return a chain that is not in flight, or
   * claim more bytes than the chain can take.
   */
  pop(): UsedChain | null {
    if (this.pending === 0) return null;
    if (this.pending > this.size) throw new Error(`used.idx is ${this.pending} ahead on a queue of ${this.size}`);
    const at = this.used + 4 + 8 * (this.usedIndex & (this.size - 1));
    const head = this.ram.read32(at);
    const written = this.ram.read32(at + 4);
    this.usedIndex = (this.usedIndex + 1) & 0xffff;
    const chain = this.inFlight.get(head);
    if (chain === undefined) throw new Error(`the device returned chain ${head}, which is not in flight`);
    const room = chain.writable.reduce((n, s) => n + s.len, 0);
    if (written > room) throw new Error(`the device says it wrote ${written} bytes into ${room}`);
    this.inFlight.delete(head);
    this.free.push(...[...chain.slots].reverse());
    return { ...chain, written };
  }
}
