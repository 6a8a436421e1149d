// A whole machine at rest: its time, its processors and devices as plain versioned data, and its memory piece by piece.
// The order of restoring is the chipset's: time, then interrupt controllers, then the buses, then what sits on them.
import {
  type BlockBackend,
  type Device,
  type GuestMemory,
  HyveError,
  type PhysAddr,
  type Vcpu,
  type VcpuStateV1,
  type Vm,
} from '@hyve/core';
import type { MsrPolicy, VirtualClock } from '@hyve/vmm';

/** Guest time from the host's clock, with a switch: while it is off no guest time passes. */
export class HostTime {
  private readonly source: () => number;
  private readonly settle: () => void;
  private offset: number;
  private stopped: number | null = null;

  /**
   * @param source nanoseconds, never going back
   * @param origin its value when guest time is 0; default now
   * @param settle called before time goes on: what went by meanwhile was no stall
   */
  constructor(source: () => number, origin: number = source(), settle: () => void = () => {}) {
    this.source = source;
    this.settle = settle;
    this.offset = origin;
  }

  /** The source's value at which guest time is, or would have been, 0; while time goes on. */
  get origin(): number {
    return this.offset;
  }

  /** Nanoseconds of guest time. */
  now(): number {
    return this.stopped ?? this.source() - this.offset;
  }

  /** Stops time. */
  stop(): void {
    this.stopped ??= this.now();
  }

  /** Lets it go on from where it stopped. */
  go(): void {
    if (this.stopped === null) return;
    this.settle();
    this.offset = this.source() - this.stopped;
    this.stopped = null;
  }

  /** While stopped: makes it `ns`. */
  set(ns: number): void {
    if (this.stopped !== null) this.stopped = ns;
  }
}

/** One device's part of {@link MachineStateV1}. */
export interface DeviceEntry {
  /** As the device calls itself. */
  readonly name: string;
  /** What its `save` gave; null for devices that keep nothing. */
  readonly state: unknown;
}

/** A machine without its memory: plain data, bigints and byte arrays included. */
export interface MachineStateV1 {
  /** Version of this format. */
  readonly v: 1;
  /** Guest memory, bytes. */
  readonly memoryBytes: number;
  /** Guest time, ns since the machine began. */
  readonly timeNs: number;
  /** Virtual time: what it is made of. Null on host time. */
  readonly virtual: { readonly instructions: number; readonly skippedNs: number } | null;
  /** What the engine's para-virtual clock shows, ns; absent where there is none. */
  readonly engineClockNs?: number;
  /** Processors by index, each with its local APIC and model-specific registers. */
  readonly processors: readonly { readonly vcpu: VcpuStateV1; readonly lapic: unknown; readonly msrs: unknown }[];
  /** Devices in the board's order. */
  readonly devices: readonly DeviceEntry[];
}

/** A piece of guest memory that is not all zeros. */
export interface MemoryPiece {
  /** Guest-physical address, a multiple of 4096. */
  readonly addr: PhysAddr;
  /** Whole pages; a live view where it comes from a machine. */
  readonly bytes: Uint8Array;
}

/** What a board is made of, for saving and restoring. @internal */
export interface MachineParts {
  readonly memory: GuestMemory;
  readonly memoryBytes: number;
  readonly vcpus: readonly Pick<Vcpu, 'getState' | 'setState'>[];
  readonly lapics: readonly { save(): unknown; load(state: unknown): void }[];
  readonly msrs: readonly Pick<MsrPolicy, 'save' | 'load'>[];
  /** Interrupt controllers first, the PCI bus before its functions. */
  readonly devices: readonly Device[];
  readonly disks: readonly BlockBackend[];
  readonly time: HostTime;
  readonly virtual: VirtualClock | null;
  readonly now: () => number;
  /** The engine's own clock beside the TSC. */
  readonly engine: Pick<Vm, 'clockNs'>;
  /** Called when all devices have restored the levels of their lines. */
  readonly settle: () => void;
}

const PAGE = 4096;
/** Most bytes of one piece. */
const PIECE = 1 << 20;

/** @internal Everything but memory. The machine is paused. */
export function saveParts(m: MachineParts): MachineStateV1 {
  return {
    v: 1,
    memoryBytes: m.memoryBytes,
    timeNs: m.now(),
    virtual: m.virtual?.position() ?? null,
    ...(m.engine.clockNs === undefined ? {} : { engineClockNs: m.engine.clockNs }),
    processors: m.vcpus.map((vcpu, i) => ({
      vcpu: vcpu.getState(),
      lapic: (m.lapics[i] as MachineParts['lapics'][number]).save(),
      msrs: (m.msrs[i] as MachineParts['msrs'][number]).save(),
    })),
    devices: m.devices.map((d) => ({ name: d.name, state: d.save?.() ?? null })),
  };
}

/** @internal Restores {@link saveParts}. The machine is paused. @throws HyveError `STATE_VERSION`, `STATE_FORMAT` */
export function loadParts(m: MachineParts, state: unknown): void {
  const s = state as MachineStateV1 | null;
  if (typeof s !== 'object' || s === null || s.v !== 1)
    throw new HyveError('STATE_VERSION', 'machine: expected state version 1');
  const bad = (what: string): HyveError => new HyveError('STATE_FORMAT', `machine: ${what}`);
  if (!Array.isArray(s.processors) || !Array.isArray(s.devices)) throw bad('expected processors and devices');
  if (s.memoryBytes !== m.memoryBytes)
    throw bad(`state of a machine with ${s.memoryBytes} bytes of memory, not ${m.memoryBytes}`);
  if (s.processors.length !== m.vcpus.length)
    throw bad(`state of ${s.processors.length} processors, not ${m.vcpus.length}`);
  const names = m.devices.map((d) => d.name).join(', ');
  if (s.devices.map((d: DeviceEntry) => d.name).join(', ') !== names)
    throw bad(`state of other devices than this machine's: ${names}`);
  if (!(Number.isFinite(s.timeNs) && s.timeNs >= 0)) throw bad(`time is ${s.timeNs}`);
  if ((s.virtual === null) !== (m.virtual === null)) throw bad('one has virtual time and the other has not');
  if (m.virtual !== null && s.virtual !== null) m.virtual.restore(s.virtual);
  else m.time.set(s.timeNs);
  const clockNs = s.engineClockNs ?? s.timeNs;
  if (!(Number.isFinite(clockNs) && clockNs >= 0)) throw bad(`the engine's clock is ${clockNs}`);
  if (m.engine.clockNs !== undefined) m.engine.clockNs = Math.floor(clockNs);
  s.processors.forEach((p, i) => {
    (m.vcpus[i] as MachineParts['vcpus'][number]).setState(p.vcpu);
    (m.msrs[i] as MachineParts['msrs'][number]).load(p.msrs);
    (m.lapics[i] as MachineParts['lapics'][number]).load(p.lapic);
  });
  m.devices.forEach((d, i) => {
    d.load?.((s.devices[i] as DeviceEntry).state);
  });
  m.settle();
}

/** @internal Pages of RAM that are not all zeros, in order of address, neighbours joined. Views are live. */
export function* memoryPieces(memory: GuestMemory): Generator<MemoryPiece> {
  for (const r of memory.regions) {
    if (r.kind !== 'ram') continue;
    let from = -1;
    for (let at = 0; at <= r.size; at += PAGE) {
      const used = at < r.size && !isZero(memory.readView(r.base + at, PAGE) as Uint8Array);
      if (from >= 0 && (!used || at - from >= PIECE)) {
        yield { addr: r.base + from, bytes: memory.readView(r.base + from, at - from) as Uint8Array };
        from = -1;
      }
      if (used && from < 0) from = at;
    }
  }
}

/** @internal Takes pieces in order of address; whatever lies between them becomes zeros. */
export class MemoryLoader {
  private readonly memory: GuestMemory;
  private region = 0;
  /** Offset in the region up to which all is done. */
  private done = 0;

  constructor(memory: GuestMemory) {
    this.memory = memory;
  }

  /** @throws HyveError `STATE_FORMAT` for pieces out of order or where there is no RAM */
  put(piece: MemoryPiece): void {
    const { addr, bytes } = piece;
    for (; this.region < this.memory.regions.length; this.nextRegion()) {
      const r = this.memory.regions[this.region] as GuestMemory['regions'][number];
      if (r.kind !== 'ram' || addr >= r.base + r.size) continue;
      if (addr < r.base + this.done || addr + bytes.length > r.base + r.size || addr % PAGE !== 0) break;
      this.clear(addr - r.base);
      this.memory.load(addr, bytes);
      this.done = addr - r.base + bytes.length;
      return;
    }
    throw new HyveError('STATE_FORMAT', `machine: ${bytes.length} bytes of memory at 0x${addr.toString(16)}`);
  }

  /** Ends it: the rest becomes zeros. */
  end(): void {
    while (this.region < this.memory.regions.length) this.nextRegion();
  }

  private nextRegion(): void {
    const r = this.memory.regions[this.region] as GuestMemory['regions'][number];
    if (r.kind === 'ram') this.clear(r.size);
    this.region++;
    this.done = 0;
  }

  /** Zeros up to `end`. Pages that are zero stay untouched: writing would make the host allocate them. */
  private clear(end: number): void {
    const r = this.memory.regions[this.region] as GuestMemory['regions'][number];
    for (let at = this.done; at < end; at += PAGE)
      if (!isZero(this.memory.readView(r.base + at, PAGE) as Uint8Array)) this.memory.fill(r.base + at, PAGE, 0);
    this.done = end;
  }
}

/** Whether a page of memory, aligned as pages are, is all zeros. */
function isZero(bytes: Uint8Array): boolean {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
  for (let i = 0; i < words.length; i++) if (words[i] !== 0) return false;
  return true;
}
