// A bench for virtio: an echo device with two queues behind each transport, and the matching driver.
import type { Width } from '@hyve/core';
import { HostBridge, PciBus, PirqRouter } from '@hyve/pci';
import { createRig, RecordingIrq, type Rig } from '@hyve/testkit';
import {
  DescriptorChain,
  type VirtioDevice,
  type VirtioLink,
  VirtioMmio,
  VirtioPci,
  type VirtioPciOptions,
  type VirtQueue,
} from '../src/index.ts';
import {
  type GuestDevice,
  type GuestFunction,
  LegacyGuest,
  MmioGuest,
  ModernGuest,
  PackedRing,
  type RingDriver,
  SplitRing,
  startDriver,
} from '../src/testing/index.ts';

/** Copies what it reads into what it may write, reversed. Queue 1 keeps chains until `release`. */
export class Echo implements VirtioDevice {
  readonly name: string = 'echo';
  readonly deviceId: number;
  readonly classCode: number = 0xff_00_00;
  readonly queueSizes: readonly number[] = [16, 16];
  readonly features: number = 0b101;
  readonly configSize: number = 12;
  readonly config: Uint8Array = new Uint8Array(12);
  readonly chain: DescriptorChain = new DescriptorChain(64);
  link!: VirtioLink;
  notified = 0;
  popped = 0;
  starts = 0;
  resets = 0;
  queueResets: number[] = [];
  held: { token: number; generation: number }[] = [];
  busyFlag = false;
  mark = 0;
  constructor(deviceId = 2) {
    this.deviceId = deviceId;
  }
  attach(link: VirtioLink): void {
    this.link = link;
  }
  configRead(offset: number, width: Width): number {
    let v = 0;
    for (let i = 0; i < width; i++) v |= (this.config[offset + i] ?? 0) << (8 * i);
    return v >>> 0;
  }
  configWrite(offset: number, width: Width, value: number): void {
    for (let i = 0; i < width && offset + i < 12; i++) this.config[offset + i] = (value >>> (8 * i)) & 0xff;
  }
  started(): void {
    this.starts++;
  }
  queueNotify(queue: VirtQueue): void {
    this.notified++;
    while (queue.pop(this.chain)) {
      this.popped++;
      if (this.popped > 1_000_000) throw new Error('endless');
      if (queue.index === 1) {
        this.held.push({ token: this.chain.token, generation: queue.generation });
        continue;
      }
      const bytes = new Uint8Array(Math.min(this.chain.readableBytes, 4096));
      this.chain.copyOut(this.link.dma, 0, bytes);
      bytes.reverse();
      queue.push(this.chain, Math.max(0, this.chain.copyIn(this.link.dma, 0, bytes)));
    }
    queue.flush();
  }
  /** Pushes the held chains at these positions, as one batch. */
  release(order: number[]): void {
    const q = this.link.queue(1);
    for (const i of order) {
      const h = this.held[i];
      if (h !== undefined && h.generation === q.generation) q.pushToken(h.token, i + 1);
    }
    q.flush();
  }
  reset(): void {
    this.resets++;
    this.held = [];
  }
  queueReset(q: VirtQueue): void {
    this.queueResets.push(q.index);
    this.held = [];
  }
  busy(): boolean {
    return this.busyFlag;
  }
  save(): unknown {
    return { mark: this.mark };
  }
  load(s: unknown): void {
    this.mark = (s as { mark: number }).mark;
  }
  counters(): Record<string, number> {
    return { popped: this.popped };
  }
}

export const MMIO = 0xd000_0000;
export const IRQ = 5;

export interface Bench {
  readonly rig: Rig;
  readonly echo: Echo;
  readonly guest: GuestDevice;
  readonly transport: VirtioPci | VirtioMmio;
  /** Level of the interrupt line, wherever it ends. */
  line(): boolean;
  /** Rising edges of it. */
  edges(): number;
  readonly fn: GuestFunction;
}

export const SLOT = 3;

export function pciBench(o: Partial<VirtioPciOptions> = {}, legacyDriver = o.transport === 'legacy'): Bench {
  const rig = createRig();
  const pins = new Map<number, RecordingIrq>();
  const controller = {
    connect: (n: number): RecordingIrq => {
      const p = pins.get(n) ?? new RecordingIrq();
      pins.set(n, p);
      return p;
    },
  };
  const nowhere = { connect: (): RecordingIrq => new RecordingIrq() };
  const router = new PirqRouter({ pic: nowhere, ioapic: controller, reserved: [] });
  const pci = new PciBus({ pio: rig.pio, mmio: rig.mmio, dma: rig.ram, msi: rig.msiSink, router });
  const echo = new Echo();
  const transport = new VirtioPci({ device: echo, ...o });
  pci.attach(new HostBridge(), { slot: 0 });
  pci.attach(transport, { slot: SLOT });
  pci.assign();
  const fn = { pio: rig.pio, mmio: rig.mmio, slot: SLOT };
  return {
    rig,
    echo,
    transport,
    fn,
    guest: legacyDriver ? new LegacyGuest(fn) : new ModernGuest(fn),
    line: () => [...pins.values()].some((p) => p.high),
    edges: () => [...pins.values()].reduce((n, p) => n + p.edges, 0),
  };
}

export function mmioBench(version: 1 | 2 = 2, o: Partial<VirtioPciOptions> = {}): Bench {
  const rig = createRig();
  const echo = new Echo();
  const { transport: _t, interrupts: _i, ...rings } = o;
  const transport = new VirtioMmio({ device: echo, dma: rig.ram, irq: rig.irq(IRQ), version, ...rings });
  rig.mmio.claim(MMIO, 0x200, transport, { name: 'virtio0' });
  return {
    rig,
    echo,
    transport,
    guest: new MmioGuest(rig.mmio, MMIO),
    line: () => rig.irq(IRQ).high,
    edges: () => rig.irq(IRQ).edges,
    fn: { pio: rig.pio, mmio: rig.mmio, slot: SLOT },
  };
}

export const RING0 = 0x10000;
export const RING1 = 0x20000;
export const DATA = 0x40000;
export const INDIRECT = 2 ** 28;
export const EVENT_IDX = 2 ** 29;
/** High feature word. */
export const VERSION_1 = 1;
export const PACKED = 4;
export const IN_ORDER = 8;
export const RING_RESET = 0x100;

export interface RingKind {
  readonly packed: boolean;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
}

/** Brings the driver up with rings of the given kind. */
export function up(b: Bench, k: RingKind, vectors?: number[], size = 16): RingDriver[] {
  const rings = [RING0, RING1].map((base) =>
    k.packed
      ? new PackedRing({ mem: b.rig.ram, base, size, indirect: k.indirect, eventIdx: k.eventIdx })
      : new SplitRing({ mem: b.rig.ram, base, size, indirect: k.indirect, eventIdx: k.eventIdx }),
  );
  const lo = 5 + (k.indirect ? INDIRECT : 0) + (k.eventIdx ? EVENT_IDX : 0);
  startDriver(b.guest, [lo, VERSION_1 + (k.packed ? PACKED : 0) + RING_RESET + IN_ORDER], rings, vectors);
  return rings;
}

/** Sends bytes through queue 0 and gives what came back, or null when nothing was used. */
export function echoOnce(b: Bench, ring: RingDriver, bytes: number[]): number[] | null {
  const half = Math.floor(bytes.length / 2);
  bytes.forEach((v, i) => {
    b.rig.ram.write8(DATA + (i < half ? i : 0x1000 + i), v);
  });
  const id = ring.add(
    [
      { addr: DATA, len: half },
      { addr: DATA + 0x1000 + half, len: bytes.length - half },
    ],
    [
      { addr: DATA + 0x8000, len: 3 },
      { addr: DATA + 0x9000, len: 64 },
    ],
  );
  if (id < 0) return null;
  if (ring.kick()) b.guest.notify(0);
  const used = ring.poll();
  if (used === null || used.id !== id) return null;
  return Array.from({ length: used.len }, (_, i) => b.rig.ram.read8(i < 3 ? DATA + 0x8000 + i : DATA + 0x9000 + i - 3));
}
