// A guest's NVMe driver in small.
import { createRig, PciSocket, type Rig, settle } from '@hyve/testkit';
import { NvmeController, type NvmeOptions } from '../src/index.ts';

export const BAR = 0xc000_0000;
const ADMIN_SQ = 0x1_0000;
const ADMIN_CQ = 0x1_1000;
/** Entries of the driver's admin queues. */
const ADMIN_ENTRIES = 16;
/** Page for replies of admin commands. */
export const REPLY = 0x1_2000;
/** Where I/O queue n has its rings: submission, then completion 32 KiB on. */
const RINGS = 0x2_0000;
/** First byte of RAM that tests may use for data. */
export const DATA = 0x10_0000;

export interface Command {
  readonly opcode: number;
  readonly cid?: number;
  readonly nsid?: number;
  /** Bits 15:8 of DW0: PSDT and FUSE. */
  readonly flags?: number;
  readonly prp1?: number;
  readonly prp2?: number;
  /** Sixteen bytes instead of the PRPs. */
  readonly sgl?: readonly number[];
  readonly dw10?: number;
  readonly dw11?: number;
  readonly dw12?: number;
  readonly dw13?: number;
}

export interface Completion {
  readonly result: number;
  readonly sqHead: number;
  readonly sqid: number;
  readonly cid: number;
  /** Type << 8 | code. */
  readonly status: number;
  readonly dnr: boolean;
}

class Queue {
  tail = 0;
  head = 0;
  phase = 1;
  nextCid = 0;
  readonly id: number;
  readonly sq: number;
  readonly cq: number;
  readonly entries: number;
  constructor(id: number, sq: number, cq: number, entries: number) {
    this.id = id;
    this.sq = sq;
    this.cq = cq;
    this.entries = entries;
  }
}

export class Guest {
  readonly rig: Rig;
  readonly dev: NvmeController;
  readonly socket: PciSocket;
  private queues: Queue[] = [];

  constructor(o: NvmeOptions, ramBytes = 8 << 20) {
    this.rig = createRig({ ramBytes });
    this.dev = new NvmeController(o);
    const size = this.dev.spec.bars[0]?.size ?? 0;
    this.socket = new PciSocket({ rig: this.rig, device: this.dev, bar: 0, base: BAR, size, irq: 11 });
  }

  r(offset: number): number {
    return this.rig.cpu.read32(BAR + offset);
  }
  w(offset: number, value: number): void {
    this.rig.cpu.write32(BAR + offset, value >>> 0);
  }

  /** Clears what earlier queues left and enables the controller. */
  enable(cc = 0x0046_0001): void {
    this.rig.ram.fill(ADMIN_SQ, 0x2000, 0);
    this.w(0x24, ((ADMIN_ENTRIES - 1) << 16) | (ADMIN_ENTRIES - 1));
    this.w(0x28, ADMIN_SQ);
    this.w(0x2c, 0);
    this.w(0x30, ADMIN_CQ);
    this.w(0x34, 0);
    this.w(0x14, cc);
    this.queues = [new Queue(0, ADMIN_SQ, ADMIN_CQ, ADMIN_ENTRIES)];
  }
  disable(): void {
    this.w(0x14, 0);
  }

  private queue(id: number): Queue {
    const q = this.queues[id];
    if (q === undefined) throw new Error(`no queue ${id}`);
    return q;
  }

  /** Puts a command into a ring; `ring` also rings the doorbell. */
  submit(id: number, c: Command, ring = true): number {
    const q = this.queue(id);
    const { ram } = this.rig;
    const a = q.sq + q.tail * 64;
    const cid = c.cid ?? q.nextCid++ & 0xffff;
    for (let i = 0; i < 64; i += 4) ram.write32(a + i, 0);
    ram.write32(a, (c.opcode | ((c.flags ?? 0) << 8) | (cid << 16)) >>> 0);
    ram.write32(a + 4, c.nsid ?? (id === 0 ? 0 : 1));
    const put64 = (o: number, v: number): void => {
      ram.write32(a + o, v % 2 ** 32);
      ram.write32(a + o + 4, Math.floor(v / 2 ** 32));
    };
    put64(24, c.prp1 ?? 0);
    put64(32, c.prp2 ?? 0);
    c.sgl?.forEach((b, i) => {
      ram.write8(a + 24 + i, b);
    });
    ram.write32(a + 40, c.dw10 ?? 0);
    ram.write32(a + 44, c.dw11 ?? 0);
    ram.write32(a + 48, c.dw12 ?? 0);
    ram.write32(a + 52, c.dw13 ?? 0);
    q.tail = (q.tail + 1) % q.entries;
    if (ring) this.ring(id);
    return cid;
  }
  ring(id: number): void {
    this.w(0x1000 + id * 8, this.queue(id).tail);
  }

  /** Takes a completion, or null; `ack` writes the head doorbell. */
  poll(id: number, ack = true): Completion | null {
    const q = this.queue(id);
    const { ram } = this.rig;
    const a = q.cq + q.head * 16;
    const dw3 = ram.read32(a + 12);
    if (((dw3 >>> 16) & 1) !== q.phase) return null;
    const dw2 = ram.read32(a + 8);
    const field = dw3 >>> 17;
    q.head++;
    if (q.head === q.entries) {
      q.head = 0;
      q.phase ^= 1;
    }
    if (ack) this.ack(id);
    return {
      result: ram.read32(a),
      sqHead: dw2 & 0xffff,
      sqid: dw2 >>> 16,
      cid: dw3 & 0xffff,
      status: field & 0x7ff,
      dnr: (field & 0x4000) !== 0,
    };
  }
  ack(id: number): void {
    const q = this.queue(id);
    this.w(0x1000 + id * 8 + 4, q.head);
  }

  /** Submits and waits; there must be exactly this completion. */
  async run(id: number, c: Command): Promise<Completion> {
    const cid = this.submit(id, c);
    await settle();
    const done = this.poll(id);
    if (done === null || done.cid !== cid) throw new Error(`command ${cid} of queue ${id} did not complete`);
    return done;
  }
  admin(c: Command): Promise<Completion> {
    return this.run(0, c);
  }
  async status(id: number, c: Command): Promise<number> {
    return (await this.run(id, c)).status;
  }

  /** Creates I/O queue pair `id`. */
  async pair(id = 1, entries = 64, vector = id): Promise<void> {
    const sq = RINGS + id * 0x1_0000;
    const cq = sq + 0x8000;
    this.rig.ram.fill(sq, 0x1_0000, 0);
    const dw10 = (((entries - 1) << 16) | id) >>> 0;
    if ((await this.status(0, { opcode: 5, prp1: cq, dw10, dw11: ((vector << 16) | 3) >>> 0 })) !== 0)
      throw new Error('create completion queue failed');
    if ((await this.status(0, { opcode: 1, prp1: sq, dw10, dw11: ((id << 16) | 1) >>> 0 })) !== 0)
      throw new Error('create submission queue failed');
    this.queues[id] = new Queue(id, sq, cq, entries);
  }

  /** A read or write of `blocks` blocks at `lba`, all of it at `prp1` (and `prp2`). */
  rw(write: boolean, lba: number, blocks: number, prp1: number, prp2 = 0): Command {
    return {
      opcode: write ? 1 : 2,
      prp1,
      prp2,
      dw10: lba % 2 ** 32,
      dw11: Math.floor(lba / 2 ** 32),
      dw12: blocks - 1,
    };
  }

  bytes(addr: number, n: number): number[] {
    return Array.from({ length: n }, (_, i) => this.rig.ram.read8(addr + i));
  }
  text(addr: number, n: number): string {
    return String.fromCharCode(...this.bytes(addr, n));
  }
  put64(a: number, v: number): void {
    this.rig.ram.write32(a, v % 2 ** 32);
    this.rig.ram.write32(a + 4, Math.floor(v / 2 ** 32));
  }
}

/** An SGL descriptor's sixteen bytes. */
export function sgl(type: number, addr: number, length: number): number[] {
  const b = new DataView(new ArrayBuffer(16));
  b.setUint32(0, addr % 2 ** 32, true);
  b.setUint32(4, Math.floor(addr / 2 ** 32), true);
  b.setUint32(8, length, true);
  b.setUint8(15, type << 4);
  return [...new Uint8Array(b.buffer)];
}
