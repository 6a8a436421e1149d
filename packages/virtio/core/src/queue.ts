// A virtqueue from the device's side: split rings (virtio 1.2 §2.7, and the legacy layout) and packed rings (§2.8), with
// indirect descriptors and event suppression. Mirrors the queue half of bhyve's virtio.c.
// Everything in the rings is the guest's to fake: indices are checked before use and every walk has a bound.
import { type DmaMemory, HyveError } from '@hyve/core';
import {
  AVAIL_IDX,
  AVAIL_NO_INTERRUPT,
  AVAIL_RING,
  DESC_AVAIL,
  DESC_BYTES,
  DESC_INDIRECT,
  DESC_NEXT,
  DESC_USED,
  DESC_WRITE,
  EVENT_FLAGS,
  EVENT_FLAGS_DESC,
  EVENT_FLAGS_DISABLE,
  EVENT_OFF_WRAP,
  LEGACY_PAGE,
  NO_VECTOR,
  QUEUE_SIZE_MAX,
  USED_ELEM_BYTES,
  USED_IDX,
  USED_RING,
} from './bits.ts';
import type { DescriptorChain } from './chain.ts';

/** What a queue asks of its transport. @internal */
export interface QueueHost {
  readonly dma: DmaMemory;
  /** The ring makes no sense: stop the device. */
  fail(reason: string): void;
  /** Tell the driver that `queue` has used buffers. */
  queueInterrupt(queue: VirtQueue): void;
}

/** Ring features in force. @internal */
export interface RingMode {
  readonly packed: boolean;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
}

/** One queue in {@link VirtioStateV1}. Addresses are bytes. */
export interface VirtQueueStateV1 {
  /** Descriptors. */
  readonly size: number;
  /** Whether the driver enabled it. */
  readonly enabled: boolean;
  /** Whether it was enabled through a legacy interface. */
  readonly legacy: boolean;
  /** MSI-X vector, 0xFFFF for none. */
  readonly vector: number;
  /** Address registers, low and high halves: descriptors, driver area, device area. */
  readonly registers: readonly number[];
  /** Addresses in force: descriptors, driver area, device area; zeros unless enabled. */
  readonly areas: readonly number[];
  /** Legacy queue frame number. */
  readonly pfn: number;
  /** Legacy alignment of the used ring (MMIO version 1), bytes. */
  readonly align: number;
  /** Next available index (split) or slot (packed). */
  readonly lastAvail: number;
  /** Next used index (split) or slot (packed). */
  readonly usedIdx: number;
  /** Packed: wrap counter of the available side. */
  readonly availWrap: boolean;
  /** Packed: wrap counter of the used side. */
  readonly usedWrap: boolean;
}

/**
 * A virtqueue. Devices pop chains, push them back in any order, and flush once per batch: flush makes what was pushed
 * visible and interrupts the driver if it wants that.
 */
export class VirtQueue {
  /** Number within the device. */
  readonly index: number;
  /** Most descriptors the device allows. */
  readonly maxSize: number;
  /** Descriptors. */
  size: number;
  /** @internal The driver enabled it. */
  enabled = false;
  /** Whether chains can be popped: enabled, and the device is running. */
  ready = false;
  /** @internal Enabled through a legacy interface: no DRIVER_OK needed. */
  legacy = false;
  /** @internal MSI-X vector. */
  vector: number = NO_VECTOR;
  /** @internal Address registers as the driver wrote them. */
  descLo = 0;
  /** @internal */
  descHi = 0;
  /** @internal */
  driverLo = 0;
  /** @internal */
  driverHi = 0;
  /** @internal */
  deviceLo = 0;
  /** @internal */
  deviceHi = 0;
  /** @internal Legacy queue frame number. */
  pfn = 0;
  /** @internal Legacy used ring alignment. */
  align: number = LEGACY_PAGE;
  /** @internal The driver asked for a ring reset that waits for memory to be left alone. */
  resetting = false;
  /** Goes up with each reset of queue or device. A completion that remembers another number belongs to nobody. */
  generation = 0;
  /** Chains popped so far. */
  chains = 0;
  /** Interrupts the driver did not want. */
  suppressed = 0;

  private readonly host: QueueHost;
  private readonly dma: DmaMemory;
  private packed = false;
  private indirect = false;
  private eventIdx = false;
  private inOrder = false;
  private mask = 0;
  private desc = 0;
  private driver = 0;
  private device = 0;
  private lastAvail = 0;
  /** Split: the driver's index as last read. */
  private seenAvail = 0;
  private availWrap = true;
  private usedIdx = 0;
  private usedWrap = true;
  /** Used entries (split) or slots (packed) that the driver was not told of. */
  private pending = 0;
  /** Ring slots popped and not pushed. */
  private outstanding = 0;
  /** What we last asked to be notified at, or -1. */
  private armedAt = -1;
  /** In-order mode: tokens in the order they were popped, and bytes written or -1. */
  private order: Float64Array = new Float64Array(0);
  private orderWritten: Float64Array = new Float64Array(0);
  private orderHead = 0;
  private orderCount = 0;
  /** Rings live in memory that other threads' vCPUs write: an atomic operation is the only fence there is. */
  private readonly fenceWord: Int32Array = new Int32Array(1);

  /** @internal */
  constructor(host: QueueHost, index: number, maxSize: number) {
    if (!(Number.isInteger(maxSize) && maxSize >= 1 && maxSize <= QUEUE_SIZE_MAX && (maxSize & (maxSize - 1)) === 0))
      throw new HyveError('VIRTIO_QUEUE', `queue ${index}: size ${maxSize}, expected a power of two up to 32768`);
    this.host = host;
    this.dma = host.dma;
    this.index = index;
    this.maxSize = maxSize;
    this.size = maxSize;
  }

  // ---- The device's side -------------------------------------------------------------------------------------------

  /** Takes the next chain into `chain`. False when there is none (the driver will notify) or the ring is broken. */
  pop(chain: DescriptorChain): boolean {
    if (!this.ready) return false;
    if (!(this.packed ? this.popPacked(chain) : this.popSplit(chain))) return false;
    this.chains++;
    if (this.inOrder) {
      const at = (this.orderHead + this.orderCount) % this.size;
      this.order[at] = chain.token;
      this.orderWritten[at] = -1;
      this.orderCount++;
    }
    return true;
  }

  /** Gives a chain back with `written` bytes at the front of its writable part. Seen by the driver after {@link flush}. */
  push(chain: DescriptorChain, written: number): void {
    this.pushToken(chain.token, written);
  }

  /** {@link push} for a device that kept only {@link DescriptorChain.token}. */
  pushToken(token: number, written: number): void {
    if (!this.ready) return;
    if (!this.inOrder) {
      this.put(token, written);
      return;
    }
    for (let i = 0; i < this.orderCount; i++) {
      const at = (this.orderHead + i) % this.size;
      if (this.order[at] !== token || (this.orderWritten[at] as number) >= 0) continue;
      this.orderWritten[at] = written;
      break;
    }
    while (this.orderCount > 0 && (this.orderWritten[this.orderHead] as number) >= 0) {
      this.put(this.order[this.orderHead] as number, this.orderWritten[this.orderHead] as number);
      this.orderHead = (this.orderHead + 1) % this.size;
      this.orderCount--;
    }
  }

  /** Makes pushed chains visible and interrupts the driver unless it asked not to be. Once per batch. */
  flush(): void {
    const pending = this.pending;
    if (pending === 0 || !this.ready) return;
    this.pending = 0;
    if (this.packed ? this.wantsInterruptPacked(pending) : this.publishSplit(pending)) this.host.queueInterrupt(this);
    else this.suppressed++;
  }

  // ---- Split -------------------------------------------------------------------------------------------------------

  private popSplit(chain: DescriptorChain): boolean {
    if (this.lastAvail === this.seenAvail && !this.lookForMore()) return false;
    const dma = this.dma;
    const head = dma.read16(this.driver + AVAIL_RING + (this.lastAvail & this.mask) * 2);
    chain.begin();
    const wrong = this.walkSplit(chain, head);
    if (wrong !== null) return this.broken(wrong);
    chain.token = 0x1_0000 + head;
    this.lastAvail = (this.lastAvail + 1) & 0xffff;
    this.outstanding++;
    return true;
  }

  /** Reads the driver's index; when there is nothing new, asks to be told. */
  private lookForMore(): boolean {
    const dma = this.dma;
    let idx = dma.read16(this.driver + AVAIL_IDX);
    if (idx === this.lastAvail) {
      if (!this.eventIdx || this.armedAt === idx) return false;
      this.armedAt = idx;
      dma.write16(this.device + USED_RING + this.size * USED_ELEM_BYTES, idx);
      this.fence();
      idx = dma.read16(this.driver + AVAIL_IDX);
      if (idx === this.lastAvail) return false;
    }
    // A driver never has more chains with the device than the queue has descriptors.
    if (((idx - this.usedIdx) & 0xffff) > this.size) return this.broken('available index jumped');
    this.seenAvail = idx;
    return true;
  }

  /** Follows a chain from `head`; null, or what is wrong with it. */
  private walkSplit(chain: DescriptorChain, head: number): string | null {
    const dma = this.dma;
    let table = this.desc;
    let entries = this.size;
    let at = head;
    let left = this.size;
    let inTable = false;
    for (;;) {
      if (at >= entries) return inTable ? 'index outside an indirect table' : 'descriptor index outside the queue';
      if (left-- === 0) return 'descriptor chain longer than its table';
      const d = table + at * DESC_BYTES;
      const lo = dma.read32(d);
      const hi = dma.read32(d + 4);
      const length = dma.read32(d + 8);
      const flagsNext = dma.read32(d + 12);
      if ((flagsNext & DESC_INDIRECT) !== 0) {
        const wrong = this.checkIndirect(chain, inTable, hi, length);
        if (wrong !== null) return wrong;
        if ((flagsNext & DESC_NEXT) !== 0) return 'indirect descriptor with a successor';
        inTable = true;
        table = hi * 0x1_0000_0000 + lo;
        entries = length / DESC_BYTES;
        left = entries;
        at = 0;
        continue;
      }
      const wrong = chain.append(lo, hi, length, (flagsNext & DESC_WRITE) !== 0);
      if (wrong !== null) return wrong;
      if ((flagsNext & DESC_NEXT) === 0) return null;
      at = flagsNext >>> 16;
    }
  }

  private checkIndirect(chain: DescriptorChain, inTable: boolean, hi: number, length: number): string | null {
    if (!this.indirect) return 'indirect descriptor without the feature';
    if (inTable) return 'indirect descriptor in an indirect table';
    if (length === 0 || length % DESC_BYTES !== 0) return 'indirect table of a broken size';
    if (length / DESC_BYTES > chain.capacity) return 'indirect table too large';
    if (hi > 0xf_ffff) return 'indirect table over 2^52';
    return null;
  }

  private publishSplit(pending: number): boolean {
    const dma = this.dma;
    this.fence();
    dma.write16(this.device + USED_IDX, this.usedIdx);
    this.fence();
    if (!this.eventIdx) return (dma.read16(this.driver) & AVAIL_NO_INTERRUPT) === 0;
    // §2.7.7.2: interrupt when the entry at used_event is among the new ones.
    const event = dma.read16(this.driver + AVAIL_RING + this.size * 2);
    return ((this.usedIdx - event - 1) & 0xffff) < pending;
  }

  // ---- Packed ------------------------------------------------------------------------------------------------------

  private isAvailable(flags: number): boolean {
    return ((flags & DESC_AVAIL) !== 0) === this.availWrap && ((flags & DESC_USED) !== 0) !== this.availWrap;
  }

  private popPacked(chain: DescriptorChain): boolean {
    const dma = this.dma;
    const first = this.desc + this.lastAvail * DESC_BYTES;
    if (!this.isAvailable(dma.read16(first + 14))) {
      const event = this.lastAvail | (this.availWrap ? 0x8000 : 0);
      if (!this.eventIdx || this.armedAt === event) return false;
      this.armedAt = event;
      dma.write16(this.device + EVENT_OFF_WRAP, event);
      dma.write16(this.device + EVENT_FLAGS, EVENT_FLAGS_DESC);
      this.fence();
      if (!this.isAvailable(dma.read16(first + 14))) return false;
    }
    chain.begin();
    const room = this.size - this.outstanding;
    let at = this.lastAvail;
    let slots = 0;
    for (;;) {
      if (slots === room) return this.broken('descriptor chain longer than its ring');
      slots++;
      const d = this.desc + at * DESC_BYTES;
      const lo = dma.read32(d);
      const hi = dma.read32(d + 4);
      const length = dma.read32(d + 8);
      const idFlags = dma.read32(d + 12);
      const flags = idFlags >>> 16;
      if (++at === this.size) at = 0;
      let wrong: string | null;
      if ((flags & DESC_INDIRECT) !== 0) {
        wrong =
          slots > 1 || (flags & DESC_NEXT) !== 0
            ? 'indirect descriptor inside a chain'
            : this.walkPackedTable(chain, lo, hi, length);
      } else wrong = chain.append(lo, hi, length, (flags & DESC_WRITE) !== 0);
      if (wrong !== null) return this.broken(wrong);
      if ((flags & DESC_NEXT) === 0) {
        chain.token = slots * 0x1_0000 + (idFlags & 0xffff);
        break;
      }
    }
    if (at <= this.lastAvail) this.availWrap = !this.availWrap;
    this.lastAvail = at;
    this.outstanding += slots;
    return true;
  }

  /** An indirect table of a packed ring: all of it, in order; only the direction flag counts (§2.8.7). */
  private walkPackedTable(chain: DescriptorChain, lo: number, hi: number, length: number): string | null {
    const dma = this.dma;
    const wrong = this.checkIndirect(chain, false, hi, length);
    if (wrong !== null) return wrong;
    const table = hi * 0x1_0000_0000 + lo;
    for (let o = 0; o < length; o += DESC_BYTES) {
      const d = table + o;
      const flags = dma.read16(d + 14);
      if ((flags & DESC_INDIRECT) !== 0) return 'indirect descriptor in an indirect table';
      const bad = chain.append(dma.read32(d), dma.read32(d + 4), dma.read32(d + 8), (flags & DESC_WRITE) !== 0);
      if (bad !== null) return bad;
    }
    return null;
  }

  private wantsInterruptPacked(pending: number): boolean {
    const dma = this.dma;
    this.fence();
    const flags = dma.read16(this.driver + EVENT_FLAGS) & 3;
    if (flags === EVENT_FLAGS_DISABLE) return false;
    if (flags !== EVENT_FLAGS_DESC || !this.eventIdx) return true;
    // §2.8.10: interrupt when the slot at `off` of that lap is among the new ones.
    const offWrap = dma.read16(this.driver + EVENT_OFF_WRAP);
    const off = (offWrap & 0x7fff) - (((offWrap & 0x8000) !== 0) === this.usedWrap ? 0 : this.size);
    return off >= this.usedIdx - pending && off < this.usedIdx;
  }

  // ---- Both --------------------------------------------------------------------------------------------------------

  private put(token: number, written: number): void {
    const dma = this.dma;
    const id = token & 0xffff;
    if (!this.packed) {
      const e = this.device + USED_RING + (this.usedIdx & this.mask) * USED_ELEM_BYTES;
      dma.write32(e, id);
      dma.write32(e + 4, written);
      this.usedIdx = (this.usedIdx + 1) & 0xffff;
      this.pending++;
      this.outstanding--;
      return;
    }
    const slots = token >>> 16;
    const d = this.desc + this.usedIdx * DESC_BYTES;
    dma.write32(d + 8, written);
    dma.write16(d + 12, id);
    this.fence();
    dma.write16(d + 14, (this.usedWrap ? DESC_AVAIL | DESC_USED : 0) | (written > 0 ? DESC_WRITE : 0));
    this.usedIdx += slots;
    if (this.usedIdx >= this.size) {
      this.usedIdx -= this.size;
      this.usedWrap = !this.usedWrap;
    }
    this.pending += slots;
    this.outstanding -= slots;
  }

  private fence(): void {
    Atomics.add(this.fenceWord, 0, 1);
  }

  private broken(reason: string): false {
    this.host.fail(`queue ${this.index}: ${reason}`);
    return false;
  }

  // ---- The transport's side ----------------------------------------------------------------------------------------

  /** @internal Back to nothing. */
  reset(): void {
    this.generation++;
    this.size = this.maxSize;
    this.enabled = false;
    this.ready = false;
    this.legacy = false;
    this.resetting = false;
    this.vector = NO_VECTOR;
    this.descLo = 0;
    this.descHi = 0;
    this.driverLo = 0;
    this.driverHi = 0;
    this.deviceLo = 0;
    this.deviceHi = 0;
    this.pfn = 0;
    this.align = LEGACY_PAGE;
    this.clearIndices();
  }

  private clearIndices(): void {
    this.lastAvail = 0;
    this.seenAvail = 0;
    this.availWrap = true;
    this.usedIdx = 0;
    this.usedWrap = true;
    this.pending = 0;
    this.outstanding = 0;
    this.armedAt = -1;
    this.orderHead = 0;
    this.orderCount = 0;
  }

  /** @internal Enables the queue at the registers' addresses. Null, or what is wrong with them. */
  enable(mode: RingMode): string | null {
    if (this.descHi > 0xf_ffff || this.driverHi > 0xf_ffff || this.deviceHi > 0xf_ffff) return 'ring over 2^52';
    if (!mode.packed && (this.size & (this.size - 1)) !== 0) return 'split queue size is no power of two';
    this.clearIndices();
    this.enabled = true;
    this.legacy = false;
    this.place(
      this.descHi * 0x1_0000_0000 + this.descLo,
      this.driverHi * 0x1_0000_0000 + this.driverLo,
      this.deviceHi * 0x1_0000_0000 + this.deviceLo,
      mode,
    );
    return null;
  }

  /** @internal Enables the queue in the legacy layout at `pfn` pages. Null, or what is wrong. */
  enableLegacy(pfn: number, pageSize: number, mode: RingMode): string | null {
    const desc = pfn * pageSize;
    const driver = desc + this.size * DESC_BYTES;
    const end = driver + AVAIL_RING + this.size * 2 + 2;
    const device = Math.ceil(end / this.align) * this.align;
    if (device >= 2 ** 52) return 'ring over 2^52';
    this.clearIndices();
    this.pfn = pfn;
    this.enabled = true;
    this.legacy = true;
    this.place(desc, driver, device, mode);
    return null;
  }

  private place(desc: number, driver: number, device: number, mode: RingMode): void {
    this.desc = desc;
    this.driver = driver;
    this.device = device;
    this.setMode(mode);
  }

  /** @internal Features may become final after a legacy queue was enabled. */
  setMode(mode: RingMode): void {
    this.mask = this.size - 1;
    this.packed = mode.packed && !this.legacy;
    this.indirect = mode.indirect;
    this.eventIdx = mode.eventIdx;
    this.inOrder = mode.inOrder && !this.legacy;
    if (this.inOrder && this.order.length < this.size) {
      this.order = new Float64Array(this.size);
      this.orderWritten = new Float64Array(this.size);
    }
  }

  /** @internal @throws HyveError `STATE_BUSY` while chains are with the device */
  save(): VirtQueueStateV1 {
    if (this.ready && (this.outstanding !== 0 || this.pending !== 0))
      throw new HyveError('STATE_BUSY', `queue ${this.index}: ${this.outstanding} slots in flight, pause first`);
    return {
      size: this.size,
      enabled: this.enabled,
      legacy: this.legacy,
      vector: this.vector,
      registers: [this.descLo, this.descHi, this.driverLo, this.driverHi, this.deviceLo, this.deviceHi],
      areas: this.enabled ? [this.desc, this.driver, this.device] : [0, 0, 0],
      pfn: this.pfn,
      align: this.align,
      lastAvail: this.lastAvail,
      usedIdx: this.usedIdx,
      availWrap: this.availWrap,
      usedWrap: this.usedWrap,
    };
  }

  /** @internal @throws HyveError `STATE_FORMAT` */
  load(s: VirtQueueStateV1, mode: RingMode): void {
    const whole = (v: unknown, limit: number): boolean =>
      typeof v === 'number' && Number.isInteger(v) && v >= 0 && v < limit;
    const list = (v: unknown, n: number, limit: number): boolean =>
      Array.isArray(v) && v.length === n && v.every((x) => whole(x, limit));
    const packed = mode.packed && s.legacy !== true;
    const slots = packed ? s.size : 0x1_0000;
    if (
      !whole(s.size, this.maxSize + 1) ||
      s.size === 0 ||
      (!packed && (s.size & (s.size - 1)) !== 0) ||
      typeof s.enabled !== 'boolean' ||
      typeof s.legacy !== 'boolean' ||
      typeof s.availWrap !== 'boolean' ||
      typeof s.usedWrap !== 'boolean' ||
      !whole(s.vector, 0x1_0000) ||
      !list(s.registers, 6, 2 ** 32) ||
      !list(s.areas, 3, 2 ** 53) ||
      !whole(s.pfn, 2 ** 32) ||
      !whole(s.align, 2 ** 32) ||
      s.align === 0 ||
      !whole(s.lastAvail, slots) ||
      !whole(s.usedIdx, slots)
    )
      throw new HyveError('STATE_FORMAT', `virtio queue ${this.index}: state out of range`);
    this.reset();
    this.size = s.size;
    this.enabled = s.enabled;
    this.legacy = s.legacy;
    this.vector = s.vector;
    const [descLo, descHi, driverLo, driverHi, deviceLo, deviceHi] = s.registers as [
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    this.descLo = descLo;
    this.descHi = descHi;
    this.driverLo = driverLo;
    this.driverHi = driverHi;
    this.deviceLo = deviceLo;
    this.deviceHi = deviceHi;
    this.pfn = s.pfn;
    this.align = s.align;
    const [desc, driver, device] = s.areas as [number, number, number];
    if (s.enabled) this.place(desc, driver, device, mode);
    this.lastAvail = s.lastAvail;
    this.seenAvail = s.lastAvail;
    this.usedIdx = s.usedIdx;
    this.availWrap = s.availWrap;
    this.usedWrap = s.usedWrap;
  }
}
