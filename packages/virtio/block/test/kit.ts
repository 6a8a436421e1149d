// A bench for the block device: a disk in memory, the device behind MMIO, and a driver.
import { createRig, MemoryDisk, type Rig, settle } from '@hyve/testkit';
import { VirtioMmio } from '@hyve/virtio';
import { MmioGuest, PackedRing, type RingDriver, SplitRing, startDriver } from '@hyve/virtio/testing';
import { VirtioBlock, type VirtioBlockOptions } from '../src/index.ts';

export const MMIO = 0xd000_0000;
export const IN = 0;
export const OUT = 1;
export const FLUSH = 4;
export const GET_ID = 8;
export const DISCARD = 11;
export const ZEROES = 13;
/** Feature bits 31:0. */
export const F = { ro: 1 << 5, flush: 1 << 9, wce: 1 << 11, mq: 1 << 12, discard: 1 << 13, zeroes: 1 << 14 };
export const INDIRECT = 2 ** 28;
export const EVENT_IDX = 2 ** 29;

export class Bench {
  readonly rig: Rig = createRig({ ramBytes: 8 << 20 });
  readonly disk: MemoryDisk;
  readonly block: VirtioBlock;
  readonly mmio: VirtioMmio;
  readonly guest: MmioGuest;
  rings: RingDriver[] = [];
  private next = 0x20_0000;

  constructor(disk: MemoryDisk = new MemoryDisk(), o: Partial<VirtioBlockOptions> = {}, version: 1 | 2 = 2) {
    this.disk = disk;
    this.block = new VirtioBlock({ backend: disk, ...o });
    this.mmio = new VirtioMmio({ device: this.block, dma: this.rig.ram, irq: this.rig.irq(1), packed: true, version });
    this.rig.mmio.claim(MMIO, 0x200, this.mmio, { name: 'virtio0' });
    this.guest = new MmioGuest(this.rig.mmio, MMIO);
  }

  /** Brings the driver up. */
  up(o: { packed?: boolean; indirect?: boolean; lo?: number; size?: number } = {}): this {
    const size = o.size ?? 64;
    this.rings = this.block.queueSizes.map((_n, i) => {
      const ring = { mem: this.rig.ram, base: 0x8_0000 + i * 0x4_0000, size, indirect: o.indirect === true };
      return o.packed === true ? new PackedRing(ring) : new SplitRing(ring);
    });
    const lo = ((o.lo ?? 0x0fff_ffff) & ~(INDIRECT | EVENT_IDX)) + (o.indirect === true ? INDIRECT : 0);
    startDriver(this.guest, [lo >>> 0, o.packed === true ? 0x105 : 0x101], this.rings);
    return this;
  }

  /** A place for `n` bytes. */
  alloc(n: number): number {
    const a = this.next;
    this.next += Math.ceil(n / 16) * 16 + 16;
    return a;
  }

  /** Starts a request; `data` are the sizes of its data buffers, or bytes. Notifies. */
  submit(
    type: number,
    sector: number,
    data: (number | Uint8Array)[],
    o: { queue?: number; notify?: boolean } = {},
  ): Pending {
    const { ram } = this.rig;
    const header = this.alloc(16);
    ram.write32(header, type);
    ram.write32(header + 4, 0);
    ram.write32(header + 8, sector % 2 ** 32);
    ram.write32(header + 12, Math.floor(sector / 2 ** 32));
    const buffers = data.map((d) => {
      const len = typeof d === 'number' ? d : d.length;
      const addr = this.alloc(len);
      if (typeof d !== 'number') ram.load(addr, d);
      return { addr, len };
    });
    const status = this.alloc(1);
    ram.write8(status, 0xee);
    const write = type === IN || type === GET_ID;
    const queue = o.queue ?? 0;
    const ring = this.rings[queue]!;
    const id = ring.add(
      [{ addr: header, len: 16 }, ...(write ? [] : buffers)],
      [...(write ? buffers : []), { addr: status, len: 1 }],
    );
    if (id < 0) throw new Error('ring full');
    if (o.notify !== false && ring.kick()) this.guest.notify(queue);
    return { id, buffers, status, queue };
  }

  /** Status byte of a request; 0xEE while there is none. */
  status(p: Pending): number {
    return this.rig.ram.read8(p.status);
  }

  /** Data of a request. */
  data(p: Pending): number[] {
    return p.buffers.flatMap((b) => [...this.rig.ram.readView(b.addr, b.len)!]);
  }

  /** One request from start to end: status, used length, data. */
  async run(
    type: number,
    sector: number,
    data: (number | Uint8Array)[],
  ): Promise<{ status: number; len: number; data: number[] }> {
    const p = this.submit(type, sector, data);
    await settle();
    const used = this.rings[0]!.poll();
    if (used?.id !== p.id) throw new Error('not used');
    return { status: this.status(p), len: used.len, data: this.data(p) };
  }
}

export interface Pending {
  readonly id: number;
  readonly buffers: { addr: number; len: number }[];
  readonly status: number;
  readonly queue: number;
}

/** A discard or write zeroes segment. */
export function range(sector: number, count: number, flags = 0): Uint8Array {
  const b = new Uint8Array(16);
  const v = new DataView(b.buffer);
  v.setUint32(0, sector % 2 ** 32, true);
  v.setUint32(4, Math.floor(sector / 2 ** 32), true);
  v.setUint32(8, count, true);
  v.setUint32(12, flags, true);
  return b;
}

export function join(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(parts.flatMap((p) => [...p]));
}
