// A bench for PCI: the rig's buses, a router on recording controllers, a bus, and a five-line fake device.
import type { IrqLine, PciContext, Width } from '@hyve/core';
import { SharedPin } from '@hyve/core';
import { createRig, type Rig } from '@hyve/testkit';
import { PciBus, type PciBusOptions, type PciFunctionDevice, type PciFunctionSpec, PirqRouter } from '../src/index.ts';

export class Pins {
  readonly levels: boolean[] = [];
  readonly edges: number[] = [];
  readonly names: string[] = [];
  private readonly pins: SharedPin[] = [];
  connect(pin: number, name: string): IrqLine {
    this.names[pin] = name;
    this.pins[pin] ??= new SharedPin((on, edge) => {
      this.levels[pin] = on;
      if (on && edge) this.edges[pin] = (this.edges[pin] ?? 0) + 1;
    });
    return this.pins[pin].connect();
  }
  high(): number[] {
    return this.levels.flatMap((v, i) => (v ? [i] : []));
  }
}

export class Fake implements PciFunctionDevice {
  ctx!: PciContext;
  resets = 0;
  readonly name: string = 'fake';
  readonly spec: PciFunctionSpec;
  readonly log: string[] = [];
  constructor(spec: Partial<PciFunctionSpec> = {}) {
    this.spec = { vendor: 0x1234, device: 0x5678, classCode: 0xff0000, bars: [], intx: false, ...spec };
  }
  attach(ctx: PciContext): void {
    this.ctx = ctx;
  }
  barRead(bar: number, offset: number, width: Width): number {
    this.log.push(`r${bar}+${offset.toString(16)}/${width}`);
    return width === 4 ? 0xc0ffee00 + bar : width === 2 ? 0xee00 + bar : bar;
  }
  barWrite(bar: number, offset: number, width: Width, value: number): void {
    this.log.push(`w${bar}+${offset.toString(16)}/${width}=${value.toString(16)}`);
  }
  reset(): void {
    this.resets++;
  }
}

export interface PciRig extends Rig {
  readonly pci: PciBus;
  readonly router: PirqRouter;
  readonly pic: Pins;
  readonly ioapic: Pins;
  /** Configuration access by mechanism 1; `at` is bus << 16 | slot << 11 | func << 8 | register. */
  cfgRead(at: number, width?: Width): number;
  cfgWrite(at: number, value: number, width?: Width): void;
}

/** Configuration address of a function. */
export function bdf(bus: number, slot: number, func = 0): number {
  return bus * 0x10000 + slot * 0x800 + func * 0x100;
}

export const ECAM = 0xe000_0000;
/** ECAM address of a register. */
export function ecam(at: number, reg = 0): number {
  return ECAM + (at >>> 8) * 4096 + reg;
}

export function createPci(o: Partial<PciBusOptions> & { reserved?: number[] } = {}): PciRig {
  const rig = createRig();
  const pic = new Pins();
  const ioapic = new Pins();
  const router = new PirqRouter({ pic, ioapic, reserved: o.reserved ?? [] });
  const pci = new PciBus({ pio: rig.pio, mmio: rig.mmio, dma: rig.ram, msi: rig.msiSink, router, ...o });
  return {
    ...rig,
    pci,
    router,
    pic,
    ioapic,
    cfgRead: (at, width = 4) => {
      rig.cpu.out32(0xcf8, (0x8000_0000 + (at & 0xfffffc)) >>> 0);
      return rig.cpu.in(0xcfc + (at & 3), width);
    },
    cfgWrite: (at, value, width = 4) => {
      rig.cpu.out32(0xcf8, (0x8000_0000 + (at & 0xfffffc)) >>> 0);
      rig.cpu.out(0xcfc + (at & 3), width, value);
    },
  };
}

/** Offset of the capability with this id by walking the list, or 0. */
export function findCap(rig: PciRig, fn: number, id: number): number {
  if ((rig.cfgRead(fn + 6, 2) & 0x10) === 0) return 0;
  let at = rig.cfgRead(fn + 0x34, 1);
  for (let n = 0; at !== 0 && n < 48; n++) {
    if (rig.cfgRead(fn + at, 1) === id) return at;
    at = rig.cfgRead(fn + at + 1, 1);
  }
  return 0;
}
