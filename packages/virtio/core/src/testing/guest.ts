// The driver's side of each transport, for tests and examples: the same few steps over MMIO registers, the legacy PCI
// port block and the modern PCI structures, found as a driver finds them.
import type { Width } from '@hyve/core';
import type { RingDriver } from './ring.ts';

/** What a driver reaches registers through; core's Bus is one. */
export interface GuestBus {
  /** A load or IN. */
  read(addr: number, width: Width): number;
  /** A store or OUT. */
  write(addr: number, width: Width, value: number): void;
}

/** One virtio device as its driver sees it. */
export interface GuestDevice {
  /** Whether the interface is a legacy one: 32 feature bits, no FEATURES_OK. */
  readonly legacy: boolean;
  /** Offered features, bits 31:0 and 63:32. */
  features(): [number, number];
  /** Accepts features. */
  accept(lo: number, hi: number): void;
  /** The status register. */
  status(): number;
  /** Writes the status register. */
  setStatus(value: number): void;
  /** Most descriptors of queue `n`, 0 for none. */
  queueMax(n: number): number;
  /** Sets up queue `n`, with MSI-X vector `vector` where there is such a thing. */
  setQueue(n: number, ring: RingDriver, vector?: number): void;
  /** Whether queue `n` is enabled. */
  queueEnabled(n: number): boolean;
  /** Starts a ring reset; {@link queueResetting} tells when it is done. */
  resetQueue(n: number): void;
  /** The ring reset register. */
  queueResetting(n: number): boolean;
  /** Notifies queue `n`. */
  notify(n: number): void;
  /** Reads and clears the interrupt causes. */
  ackInterrupt(): number;
  /** Reads device configuration. */
  config(offset: number, width: Width): number;
  /** Writes device configuration. */
  setConfig(offset: number, width: Width, value: number): void;
  /** Configuration generation; 0 on legacy interfaces. */
  generation(): number;
}

/** Driver of a VirtioMmio register block. */
export class MmioGuest implements GuestDevice {
  readonly legacy: boolean;
  private readonly bus: GuestBus;
  private readonly base: number;
  constructor(bus: GuestBus, base: number) {
    this.bus = bus;
    this.base = base;
    this.legacy = this.get(0x004) === 1;
  }
  /** Reads a register. */
  get(offset: number): number {
    return this.bus.read(this.base + offset, 4);
  }
  /** Writes a register. */
  set(offset: number, value: number): void {
    this.bus.write(this.base + offset, 4, value);
  }
  private pair(offset: number, value: number): void {
    this.set(offset, value % 2 ** 32);
    this.set(offset + 4, Math.floor(value / 2 ** 32));
  }
  features(): [number, number] {
    this.set(0x014, 0);
    const lo = this.get(0x010);
    this.set(0x014, 1);
    return [lo, this.get(0x010)];
  }
  accept(lo: number, hi: number): void {
    this.set(0x024, 0);
    this.set(0x020, lo);
    this.set(0x024, 1);
    this.set(0x020, hi);
  }
  status(): number {
    return this.get(0x070);
  }
  setStatus(value: number): void {
    this.set(0x070, value);
  }
  queueMax(n: number): number {
    this.set(0x030, n);
    return this.get(0x034);
  }
  setQueue(n: number, ring: RingDriver): void {
    this.set(0x030, n);
    this.set(0x038, ring.size);
    if (this.legacy) {
      this.set(0x028, 4096);
      this.set(0x03c, 4096);
      this.set(0x040, ring.desc / 4096);
      return;
    }
    this.pair(0x080, ring.desc);
    this.pair(0x090, ring.driver);
    this.pair(0x0a0, ring.device);
    this.set(0x044, 1);
  }
  queueEnabled(n: number): boolean {
    this.set(0x030, n);
    return this.get(this.legacy ? 0x040 : 0x044) !== 0;
  }
  resetQueue(n: number): void {
    this.set(0x030, n);
    if (this.legacy) this.set(0x040, 0);
    else this.set(0x0c0, 1);
  }
  queueResetting(n: number): boolean {
    this.set(0x030, n);
    return this.get(0x0c0) !== 0;
  }
  notify(n: number): void {
    this.set(0x050, n);
  }
  ackInterrupt(): number {
    const v = this.get(0x060);
    this.set(0x064, v);
    return v;
  }
  config(offset: number, width: Width): number {
    return this.bus.read(this.base + 0x100 + offset, width);
  }
  setConfig(offset: number, width: Width, value: number): void {
    this.bus.write(this.base + 0x100 + offset, width, value);
  }
  generation(): number {
    return this.legacy ? 0 : this.get(0x0fc);
  }
}

/** A PCI function's buses and place, for {@link LegacyGuest} and {@link ModernGuest}. */
export interface GuestFunction {
  /** The port bus, with configuration mechanism 1. */
  readonly pio: GuestBus;
  /** The MMIO bus. */
  readonly mmio: GuestBus;
  /** Slot on bus 0. */
  readonly slot: number;
}

/** Reads configuration space through ports 0xCF8 and 0xCFC. */
export function pciRead(f: GuestFunction, reg: number, width: Width): number {
  f.pio.write(0xcf8, 4, 0x8000_0000 + f.slot * 0x800 + (reg & 0xfc));
  return f.pio.read(0xcfc + (reg & 3), width);
}

/** Writes configuration space. */
export function pciWrite(f: GuestFunction, reg: number, width: Width, value: number): void {
  f.pio.write(0xcf8, 4, 0x8000_0000 + f.slot * 0x800 + (reg & 0xfc));
  f.pio.write(0xcfc + (reg & 3), width, value);
}

/** Offsets of all capabilities with this id, in list order. */
export function pciCapabilities(f: GuestFunction, id: number): number[] {
  const found: number[] = [];
  for (let at = pciRead(f, 0x34, 1), n = 0; at !== 0 && n < 48; at = pciRead(f, at + 1, 1), n++)
    if (pciRead(f, at, 1) === id) found.push(at);
  return found;
}

/** Switches MSI-X on and gives each of the `n` first vectors address 0xFEE00000 and its own number plus `data`. */
export function enableMsix(f: GuestFunction, n: number, data: number): void {
  const [cap] = pciCapabilities(f, 0x11);
  if (cap === undefined) throw new Error('no MSI-X capability');
  const table = pciRead(f, cap + 4, 4);
  const base = (pciRead(f, 0x10 + (table & 7) * 4, 4) & ~0xf) >>> 0;
  for (let v = 0; v < n; v++) {
    const e = base + (table & ~7) + v * 16;
    f.mmio.write(e, 4, 0xfee0_0000);
    f.mmio.write(e + 4, 4, 0);
    f.mmio.write(e + 8, 4, data + v);
    f.mmio.write(e + 12, 4, 0);
  }
  pciWrite(f, cap + 2, 2, 0x8000);
}

function msixOn(f: GuestFunction): boolean {
  const [cap] = pciCapabilities(f, 0x11);
  return cap !== undefined && (pciRead(f, cap + 2, 2) & 0x8000) !== 0;
}

/** Driver of the legacy port block. */
export class LegacyGuest implements GuestDevice {
  readonly legacy: boolean = true;
  private readonly f: GuestFunction;
  private readonly base: number;
  constructor(f: GuestFunction) {
    this.f = f;
    const bar = pciRead(f, 0x10, 4);
    if ((bar & 1) === 0) throw new Error('BAR 0 is no I/O BAR');
    this.base = bar & 0xfffc;
  }
  /** Reads a register. */
  get(offset: number, width: Width): number {
    return this.f.pio.read(this.base + offset, width);
  }
  /** Writes a register. */
  set(offset: number, width: Width, value: number): void {
    this.f.pio.write(this.base + offset, width, value);
  }
  private select(n: number): void {
    this.set(14, 2, n);
  }
  features(): [number, number] {
    return [this.get(0, 4), 0];
  }
  accept(lo: number, _hi: number): void {
    this.set(4, 4, lo);
  }
  status(): number {
    return this.get(18, 1);
  }
  setStatus(value: number): void {
    this.set(18, 1, value);
  }
  queueMax(n: number): number {
    this.select(n);
    return this.get(12, 2);
  }
  setQueue(n: number, ring: RingDriver, vector?: number): void {
    this.select(n);
    this.set(8, 4, ring.desc / 4096);
    if (vector !== undefined) this.set(22, 2, vector);
  }
  queueEnabled(n: number): boolean {
    this.select(n);
    return this.get(8, 4) !== 0;
  }
  resetQueue(n: number): void {
    this.select(n);
    this.set(8, 4, 0);
  }
  queueResetting(_n: number): boolean {
    return false;
  }
  notify(n: number): void {
    this.set(16, 2, n);
  }
  ackInterrupt(): number {
    return this.get(19, 1);
  }
  private configBase(): number {
    return msixOn(this.f) ? 24 : 20;
  }
  config(offset: number, width: Width): number {
    return this.get(this.configBase() + offset, width);
  }
  setConfig(offset: number, width: Width, value: number): void {
    this.set(this.configBase() + offset, width, value);
  }
  generation(): number {
    return 0;
  }
}

/** Driver of the modern structures. */
export class ModernGuest implements GuestDevice {
  readonly legacy: boolean = false;
  private readonly f: GuestFunction;
  /** Bus addresses of the structures by capability type: 1 common, 2 notify, 3 ISR, 4 device. */
  private readonly at: number[] = [];
  private readonly multiplier: number = 0;
  constructor(f: GuestFunction) {
    this.f = f;
    for (const cap of pciCapabilities(f, 0x09)) {
      const type = pciRead(f, cap + 3, 1);
      const bar = pciRead(f, cap + 4, 1);
      const base = (pciRead(f, 0x10 + bar * 4, 4) & ~0xf) >>> 0;
      this.at[type] = base + pciRead(f, cap + 8, 4);
      if (type === 2) this.multiplier = pciRead(f, cap + 16, 4);
    }
    if ([1, 2, 3, 4].some((t) => this.at[t] === undefined)) throw new Error('a virtio capability is missing');
  }
  /** Reads the common structure. */
  get(offset: number, width: Width): number {
    return this.f.mmio.read((this.at[1] as number) + offset, width);
  }
  /** Writes the common structure. */
  set(offset: number, width: Width, value: number): void {
    this.f.mmio.write((this.at[1] as number) + offset, width, value);
  }
  private pair(offset: number, value: number): void {
    this.set(offset, 4, value % 2 ** 32);
    this.set(offset + 4, 4, Math.floor(value / 2 ** 32));
  }
  features(): [number, number] {
    this.set(0, 4, 0);
    const lo = this.get(4, 4);
    this.set(0, 4, 1);
    return [lo, this.get(4, 4)];
  }
  accept(lo: number, hi: number): void {
    this.set(8, 4, 0);
    this.set(0xc, 4, lo);
    this.set(8, 4, 1);
    this.set(0xc, 4, hi);
  }
  status(): number {
    return this.get(0x14, 1);
  }
  setStatus(value: number): void {
    this.set(0x14, 1, value);
  }
  queueMax(n: number): number {
    this.set(0x16, 2, n);
    return this.get(0x18, 2);
  }
  setQueue(n: number, ring: RingDriver, vector?: number): void {
    this.set(0x16, 2, n);
    this.set(0x18, 2, ring.size);
    if (vector !== undefined) this.set(0x1a, 2, vector);
    this.pair(0x20, ring.desc);
    this.pair(0x28, ring.driver);
    this.pair(0x30, ring.device);
    this.set(0x1c, 2, 1);
  }
  queueEnabled(n: number): boolean {
    this.set(0x16, 2, n);
    return this.get(0x1c, 2) === 1;
  }
  resetQueue(n: number): void {
    this.set(0x16, 2, n);
    this.set(0x3a, 2, 1);
  }
  queueResetting(n: number): boolean {
    this.set(0x16, 2, n);
    return this.get(0x3a, 2) === 1;
  }
  notify(n: number): void {
    this.set(0x16, 2, n);
    this.f.mmio.write((this.at[2] as number) + this.get(0x1e, 2) * this.multiplier, 2, n);
  }
  ackInterrupt(): number {
    return this.f.mmio.read(this.at[3] as number, 1);
  }
  config(offset: number, width: Width): number {
    return this.f.mmio.read((this.at[4] as number) + offset, width);
  }
  setConfig(offset: number, width: Width, value: number): void {
    this.f.mmio.write((this.at[4] as number) + offset, width, value);
  }
  generation(): number {
    return this.get(0x15, 1);
  }
}

/**
 * Brings a device up as §3.1 says: reset, acknowledge, features, queues, DRIVER_OK.
 * @param want features the driver would like, bits 31:0 and 63:32; what is not offered is left out
 * @param rings one for each queue, in order
 * @returns the features accepted
 */
export function startDriver(
  g: GuestDevice,
  want: readonly [number, number],
  rings: readonly RingDriver[],
  vectors?: readonly number[],
): [number, number] {
  g.setStatus(0);
  if (g.status() !== 0) throw new Error(`status 0x${g.status().toString(16)} after reset`);
  g.setStatus(1);
  g.setStatus(3);
  const [lo, hi] = g.features();
  const accepted: [number, number] = [(lo & want[0]) >>> 0, g.legacy ? 0 : (hi & want[1]) >>> 0];
  g.accept(...accepted);
  if (!g.legacy) {
    g.setStatus(0xb);
    if ((g.status() & 8) === 0) throw new Error('the device refused the features');
  }
  rings.forEach((r, n) => {
    g.setQueue(n, r, vectors?.[n]);
  });
  g.setStatus(g.legacy ? 7 : 0xf);
  return accepted;
}
