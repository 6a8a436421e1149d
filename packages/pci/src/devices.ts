// Devices that belong to the bus itself: host bridges, PCI-to-PCI bridge, ISA bridge with the PIRQ registers, serial port
// card and test device (bhyve: pci_hostbridge.c, pci_lpc.c, pci_uart.c, pci_emul.c's dummy).
import { allOnes, type Device, HyveError, type IoHandler, type IrqLine, type PciContext, type Width } from '@hyve/core';
import { REG_PIRQA_ROUT, REG_PIRQE_ROUT } from './bits.ts';
import type { PirqRouter } from './router.ts';
import type { PciFunctionDevice, PciFunctionSpec } from './spec.ts';

/** Options of {@link HostBridge}. */
export interface HostBridgeOptions {
  /** `hostbridge` is bhyve's own 1275:1275, `amd_hostbridge` AMD's 1022:7432. Default `hostbridge`. */
  readonly model?: 'hostbridge' | 'amd_hostbridge';
}

/** The host bridge, as bhyve has it: a type 0 header with a PCI Express root port capability. Usually at 0:0:0. */
export class HostBridge implements PciFunctionDevice {
  readonly name: string;
  readonly spec: PciFunctionSpec;

  constructor(o: HostBridgeOptions = {}) {
    this.name = o.model ?? 'hostbridge';
    const amd = this.name === 'amd_hostbridge';
    this.spec = {
      vendor: amd ? 0x1022 : 0x1275,
      device: amd ? 0x7432 : 0x1275,
      classCode: 0x06_00_00,
      bars: [],
      intx: false,
      express: 'root-port',
    };
  }
  attach(_ctx: PciContext): void {}
  barRead(_bar: number, _offset: number, width: Width): number {
    return allOnes(width);
  }
  barWrite(_bar: number, _offset: number, _width: Width, _value: number): void {}
  reset(): void {}
}

/** Options of {@link PciBridge}. */
export interface PciBridgeOptions {
  /** Bus number behind the bridge at reset, 1–255. */
  readonly secondary: number;
  /** A PCI Express root port (one slot behind it) instead of a conventional bridge. Default false. */
  readonly rootPort?: boolean;
}

/** A PCI-to-PCI bridge (1B36:0001) or PCI Express root port (1B36:000C); devices attach to its secondary bus. */
export class PciBridge implements PciFunctionDevice {
  readonly name: string;
  readonly spec: PciFunctionSpec;

  constructor(o: PciBridgeOptions) {
    this.name = o.rootPort === true ? 'pcie-root-port' : 'pci-bridge';
    const base = { vendor: 0x1b36, classCode: 0x06_04_00, bars: [], intx: false, bridge: { secondary: o.secondary } };
    this.spec = o.rootPort === true ? { ...base, device: 0x000c, express: 'root-port' } : { ...base, device: 0x0001 };
  }
  attach(_ctx: PciContext): void {}
  barRead(_bar: number, _offset: number, width: Width): number {
    return allOnes(width);
  }
  barWrite(_bar: number, _offset: number, _width: Width, _value: number): void {}
  reset(): void {}
}

/** Options of {@link LpcBridge}. */
export interface LpcBridgeOptions {
  /** Owner of the PIRQ route registers. */
  readonly router: PirqRouter;
}

/** PIRQ of a configuration offset, or -1. */
function pirqAt(offset: number): number {
  if (offset >= REG_PIRQA_ROUT && offset < REG_PIRQA_ROUT + 4) return offset - REG_PIRQA_ROUT;
  if (offset >= REG_PIRQE_ROUT && offset < REG_PIRQE_ROUT + 4) return offset - REG_PIRQE_ROUT + 4;
  return -1;
}

/**
 * The ISA bridge 8086:7000, at 0:31:0 by the firmware tables: PIRQ route registers at 0x60–0x63 and 0x68–0x6B.
 * Chips on the low pin count bus are its children: they follow its reset.
 */
export class LpcBridge implements PciFunctionDevice {
  readonly name: string = 'lpc';
  readonly spec: PciFunctionSpec = {
    vendor: 0x8086,
    device: 0x7000,
    classCode: 0x06_01_00,
    bars: [],
    intx: false,
    reserved: [{ offset: REG_PIRQA_ROUT, length: 12 }],
  };
  private readonly router: PirqRouter;
  private readonly list: Device[] = [];

  constructor(o: LpcBridgeOptions) {
    this.router = o.router;
  }
  /** Puts a chip on the low pin count bus; it is reset with the bridge. @throws HyveError `LPC_OCCUPIED` for a name taken */
  add(child: Device): void {
    if (this.list.some((c) => c.name === child.name))
      throw new HyveError('LPC_OCCUPIED', `lpc: there is a ${child.name} already`);
    this.list.push(child);
  }
  /** The chips, in the order they were added. */
  get children(): readonly Device[] {
    return this.list;
  }
  attach(_ctx: PciContext): void {}
  barRead(_bar: number, _offset: number, width: Width): number {
    return allOnes(width);
  }
  barWrite(_bar: number, _offset: number, _width: Width, _value: number): void {}

  configRead(offset: number, width: Width): number {
    let v = 0;
    for (let i = 0; i < width; i++) {
      const p = pirqAt(offset + i);
      if (p >= 0) v |= this.router.readRegister(p) << (8 * i);
    }
    return v >>> 0;
  }

  configWrite(offset: number, width: Width, value: number): boolean {
    let took = false;
    for (let i = 0; i < width; i++) {
      const p = pirqAt(offset + i);
      if (p < 0) continue;
      this.router.writeRegister(p, (value >>> (8 * i)) & 0xff);
      took = true;
    }
    return took;
  }

  reset(): void {
    for (const c of this.list) c.reset();
  }
}

/** What {@link PciUart} drives: a 16550 with eight byte registers. */
export interface UartChip extends IoHandler {
  /** Back to power-on state. */
  reset?(): void;
  /** Plain data for {@link UartChip.load}. */
  save?(): unknown;
  /** Restores what {@link UartChip.save} gave. */
  load?(state: unknown): void;
  /** Lets go of host resources. */
  close?(): Promise<void>;
}

/** Options of {@link PciUart}. */
export interface PciUartOptions {
  /** For messages. Default `uart`. */
  readonly name?: string;
  /** Builds the chip on its interrupt line; called once, at construction. */
  readonly chip: (irq: IrqLine) => UartChip;
}

/** bhyve's serial port card, 131F:2000: a 16550 at I/O BAR 0 (8 ports), level-triggered INTx. */
export class PciUart implements PciFunctionDevice {
  readonly name: string;
  readonly spec: PciFunctionSpec = {
    vendor: 0x131f,
    device: 0x2000,
    classCode: 0x07_00_02,
    bars: [{ bar: 0, kind: 'io', size: 8, widths: 1 }],
    intx: true,
  };
  private readonly chip: UartChip;
  private ctx: PciContext | null = null;

  constructor(o: PciUartOptions) {
    this.name = o.name ?? 'uart';
    // The bus saves the line's level, so that a restored chip has nothing to say here.
    this.chip = o.chip({ set: (v) => this.ctx?.intx(v), restore: () => {} });
  }
  attach(ctx: PciContext): void {
    this.ctx = ctx;
  }
  barRead(_bar: number, offset: number, width: Width): number {
    return this.chip.read(offset, width);
  }
  barWrite(_bar: number, offset: number, width: Width, value: number): void {
    this.chip.write(offset, width, value);
  }
  reset(): void {
    this.chip.reset?.();
  }
  save(): unknown {
    return this.chip.save?.() ?? null;
  }
  load(state: unknown): void {
    this.chip.load?.(state);
  }
  async close(): Promise<void> {
    await this.chip.close?.();
  }
}

/** Saved state of {@link DummyDevice}. */
export interface DummyStateV1 {
  /** Version of this format. */
  readonly v: 1;
  /** The 8 bytes of I/O space. */
  readonly io: readonly number[];
  /** Twice 4096 bytes of memory. */
  readonly mem: readonly (readonly number[])[];
}

const DUMMY_MESSAGES = 4;
const DUMMY_FIRE_ALL = 0xab_cdef;

/**
 * bhyve's test device, 10DD:0001: 8 ports and two 4 KiB memories that hold what is written. A doubleword written to
 * port 4 sends MSI message `value mod 4`; 0xABCDEF written to any port sends all four.
 */
export class DummyDevice implements PciFunctionDevice {
  readonly name: string = 'dummy';
  readonly spec: PciFunctionSpec = {
    vendor: 0x10dd,
    device: 0x0001,
    classCode: 0x02_00_00,
    bars: [
      { bar: 0, kind: 'io', size: 8 },
      { bar: 1, kind: 'mem32', size: 4096 },
      { bar: 2, kind: 'mem32', size: 4096 },
    ],
    msi: DUMMY_MESSAGES,
    intx: false,
  };
  private readonly space: Uint8Array[] = [new Uint8Array(8), new Uint8Array(4096), new Uint8Array(4096)];
  private ctx: PciContext | null = null;

  attach(ctx: PciContext): void {
    this.ctx = ctx;
  }
  barRead(bar: number, offset: number, width: Width): number {
    const bytes = this.space[bar] as Uint8Array;
    let v = 0;
    for (let i = 0; i < width; i++) v |= (bytes[offset + i] as number) << (8 * i);
    return v >>> 0;
  }
  barWrite(bar: number, offset: number, width: Width, value: number): void {
    const bytes = this.space[bar] as Uint8Array;
    for (let i = 0; i < width; i++) bytes[offset + i] = (value >>> (8 * i)) & 0xff;
    if (bar !== 0) return;
    if (offset === 4 && width === 4) this.ctx?.msi(value % DUMMY_MESSAGES);
    if (value === DUMMY_FIRE_ALL) for (let n = 0; n < DUMMY_MESSAGES; n++) this.ctx?.msi(n);
  }
  reset(): void {
    for (const s of this.space) s.fill(0);
  }
  save(): DummyStateV1 {
    const [io, ...mem] = this.space.map((s) => [...s]);
    return { v: 1, io: io as number[], mem };
  }
  load(state: unknown): void {
    const s = state as DummyStateV1 | null;
    if (typeof s !== 'object' || s === null || s.v !== 1)
      throw new HyveError('STATE_VERSION', 'dummy: expected state version 1');
    const parts = [s.io, ...(Array.isArray(s.mem) ? s.mem : [])];
    if (parts.length !== 3 || parts.some((p, i) => !Array.isArray(p) || p.length !== this.space[i]?.length))
      throw new HyveError('STATE_FORMAT', 'dummy: expected 8, 4096 and 4096 bytes');
    parts.forEach((p, i) => {
      (this.space[i] as Uint8Array).set(p);
    });
  }
}
