// Interrupt controllers in the kernel, as core's EngineInterrupts: local APICs with our I/O APIC, 8259 and PIT (split), or all
// of them. Linux api.rst, KVM_CAP_SPLIT_IRQCHIP, KVM_CREATE_IRQCHIP; Intel SDM vol. 3 §11.11 for the form of messages.
import { type EngineChip, type EngineInterruptKind, type EngineInterrupts, HyveError, type PhysAddr } from '@hyve/core';
import * as K from './bits.ts';
import { loadIoApic, loadPic, loadPit, maskIoApic, saveIoApic, savePic, savePit } from './chips.ts';
import type { Native, VcpuHandle, VmHandle } from './native.ts';

const MSI_BASE = 0xfee00000;
const MSI_END = 0xfef00000;
const PINS = 24;
const RTE_LOGICAL = 1 << 11;
const RTE_LEVEL = 1 << 15;
const MODE_SMI = 2;
const MODE_STARTUP = 6;
const MODE_EXTINT = 7;

/** The PIT's line: input 0 of the 8259 pair and 2 of the I/O APIC. */
const GSI_PIT = 0;
const PIC_CASCADE = 2;
const IOAPIC_PIT = 2;
/** Numbers of the other inputs, each on its own, so that whoever drives the two controllers can tell them apart. */
const GSI_PIC = 32;
const GSI_IOAPIC = 64;
const PIC_INPUTS = 16;

/** A vCPU as its interrupt controller needs it. */
export interface ApicOwner {
  readonly handle: VcpuHandle;
  saveLocalApic(): unknown;
  loadLocalApic(state: unknown): void;
  resetLocalApic(): void;
}

/** One VM's. */
export class KvmInterrupts implements EngineInterrupts {
  readonly kind: EngineInterruptKind;
  private readonly native: Native;
  private readonly vm: VmHandle;
  private readonly vcpus: number;
  private readonly vcpu: (index: number) => ApicOwner;
  /** The controllers and the PIT as they were made (`kind` `all`). */
  private readonly fresh: ReadonlyMap<EngineChip, unknown>;
  private readonly levels: { pic: number; ioapic: number } = { pic: 0, ioapic: 0 };
  private readonly listeners: { eoi(vector: number): void }[] = [];
  /** Data and destination of each level-triggered pin as the kernel knows it; 0: none. Kept while a pin is masked: its EOI may be due. */
  private readonly data: Uint32Array = new Uint32Array(PINS);
  private readonly address: Uint32Array = new Uint32Array(PINS);
  private acknowledge: (() => number) | null = null;
  private asserted = false;

  constructor(
    native: Native,
    vm: VmHandle,
    kind: EngineInterruptKind,
    vcpus: number,
    vcpu: (index: number) => ApicOwner,
  ) {
    this.vcpus = vcpus;
    this.native = native;
    this.vm = vm;
    this.kind = kind;
    this.vcpu = vcpu;
    if (kind === 'all') this.routeInputs();
    const chips: EngineChip[] = kind === 'all' ? ['pic', 'ioapic', 'pit'] : [];
    this.fresh = new Map(chips.map((c) => [c, this.saveChip(c)]));
  }

  private routeInputs(): void {
    const rows: number[] = [];
    const input = (gsi: number, chip: number, pin: number): void => void rows.push(gsi, K.ROUTE_INPUT, chip, pin, 0);
    input(GSI_PIT, K.CHIP_MASTER, 0);
    input(GSI_PIT, K.CHIP_IOAPIC, IOAPIC_PIT);
    for (let n = 1; n < PIC_INPUTS; n++)
      if (n !== PIC_CASCADE) input(GSI_PIC + n, n < 8 ? K.CHIP_MASTER : K.CHIP_SLAVE, n & 7);
    for (let n = 0; n < PINS; n++) if (n !== IOAPIC_PIT) input(GSI_IOAPIC + n, K.CHIP_IOAPIC, n);
    const r = this.native.setRoutes(this.vm, Uint32Array.from(rows));
    if (r < 0)
      throw new HyveError('ENGINE_UNAVAILABLE', `KVM does not take the routes of interrupt lines (error ${-r})`);
  }

  send(address: PhysAddr, data: number): void {
    if (address < MSI_BASE || address >= MSI_END || ((data >>> 8) & 7) === MODE_STARTUP) return;
    this.native.signalMsi(this.vm, address, data >>> 0);
  }

  deliver(dest: number, logical: boolean, wide: boolean, mode: number, vector: number, level: boolean): boolean {
    // 32-bit destinations come from x2APIC commands, which the kernel handles itself.
    if (wide || mode === MODE_SMI || mode === MODE_STARTUP || mode === MODE_EXTINT) return false;
    return this.native.signalMsi(this.vm, addressOf(dest, logical), dataOf(mode, vector, level)) > 0;
  }

  route(pin: number, lo: number, hi: number): void {
    if (this.kind === 'all') return;
    const level = (lo & RTE_LEVEL) !== 0;
    const address = level ? addressOf(hi >>> 24, (lo & RTE_LOGICAL) !== 0) : 0;
    const data = level ? dataOf((lo >>> 8) & 7, lo & 0xff, true) : 0;
    if (pin >= PINS || (this.address[pin] === address && this.data[pin] === data)) return;
    this.address[pin] = address;
    this.data[pin] = data;
    const rows: number[] = [];
    for (let i = 0; i < PINS; i++)
      if (this.data[i] !== 0) rows.push(i, K.ROUTE_MESSAGE, 0, this.address[i] as number, this.data[i] as number);
    this.native.setRoutes(this.vm, Uint32Array.from(rows));
  }

  addEoiListener(listener: { eoi(vector: number): void }): void {
    this.listeners.push(listener);
  }

  /** @internal KVM_EXIT_IOAPIC_EOI */
  eoi(vector: number): void {
    for (let i = 0; i < this.listeners.length; i++) (this.listeners[i] as { eoi(v: number): void }).eoi(vector);
  }

  setExtInt(asserted: boolean, acknowledge: () => number): void {
    this.acknowledge = acknowledge;
    if (asserted === this.asserted) return;
    this.asserted = asserted;
    this.native.external(this.vcpu(0).handle, asserted);
  }

  /** @internal The boot processor takes the 8259's interrupt now: its vector, or EXTERNAL_NONE. */
  takeExternal(): number {
    return this.asserted && this.acknowledge !== null ? this.acknowledge() : K.EXTERNAL_NONE;
  }

  setPin(chip: 'pic' | 'ioapic', pin: number, asserted: boolean): void {
    const gsi = gsiOf(chip, pin);
    const r = gsi < 0 || this.kind !== 'all' ? -1 : this.native.irqLine(this.vm, gsi, asserted);
    if (r < 0) throw new HyveError('IRQ_PIN', `KVM has no input ${pin} of a ${chip} here (error ${-r})`);
    const bit = 1 << pin;
    this.levels[chip] = asserted ? this.levels[chip] | bit : this.levels[chip] & ~bit;
  }

  setPitIrq(on: boolean): void {
    const bytes = this.read(K.VM_PART_PIT, K.SIZE_PIT);
    const view = new DataView(bytes.buffer);
    const flags = view.getUint32(K.PIT_FLAGS, true);
    if (((flags & K.PIT_FLAG_HPET) === 0) === on) return;
    view.setUint32(K.PIT_FLAGS, flags ^ K.PIT_FLAG_HPET, true);
    this.write(K.VM_PART_PIT, bytes);
  }

  reset(): void {
    for (const [chip, state] of this.fresh) this.loadChip(chip, state, chip === 'pit' ? 0 : this.levels[chip]);
    this.address.fill(0);
    this.data.fill(0);
    if (this.kind === 'local') this.native.setRoutes(this.vm, new Uint32Array(0));
    for (let i = 0; i < this.vcpus; i++) this.vcpu(i).resetLocalApic();
  }

  saveLocalApic(vcpu: number): unknown {
    return this.vcpu(vcpu).saveLocalApic();
  }

  loadLocalApic(vcpu: number, state: unknown): void {
    this.vcpu(vcpu).loadLocalApic(state);
  }

  saveChip(chip: EngineChip): unknown {
    switch (chip) {
      case 'pic':
        return savePic([this.readChip(K.CHIP_MASTER), this.readChip(K.CHIP_SLAVE)]);
      case 'ioapic':
        return saveIoApic(this.readChip(K.CHIP_IOAPIC));
      default:
        // KVM's times are CLOCK_MONOTONIC, as this clock of Node's.
        return savePit(this.read(K.VM_PART_PIT, K.SIZE_PIT), process.hrtime.bigint());
    }
  }

  loadChip(chip: EngineChip, state: unknown, lines: number): void {
    switch (chip) {
      case 'pic': {
        const pair = [this.readChip(K.CHIP_MASTER), this.readChip(K.CHIP_SLAVE)];
        loadPic(state, lines, pair);
        this.setLevels('pic', lines);
        for (const p of pair) this.write(K.VM_PART_IRQCHIP, p);
        break;
      }
      case 'ioapic': {
        const bytes = this.readChip(K.CHIP_IOAPIC);
        loadIoApic(state, lines, bytes);
        const masked = bytes.slice();
        maskIoApic(masked);
        this.write(K.VM_PART_IRQCHIP, masked);
        this.setLevels('ioapic', lines);
        this.write(K.VM_PART_IRQCHIP, bytes);
        break;
      }
      default: {
        const bytes = this.read(K.VM_PART_PIT, K.SIZE_PIT);
        loadPit(state, bytes);
        this.write(K.VM_PART_PIT, bytes);
      }
    }
  }

  /** Tells the kernel the levels; what edges they make is overwritten by the state that is set next. */
  private setLevels(chip: 'pic' | 'ioapic', lines: number): void {
    for (let n = 0; n < (chip === 'pic' ? PIC_INPUTS : PINS); n++) {
      const gsi = gsiOf(chip, n);
      // The PIT's line is the kernel's own.
      if (gsi !== GSI_PIT && gsi >= 0) this.native.irqLine(this.vm, gsi, ((lines >>> n) & 1) !== 0);
    }
    this.levels[chip] = lines;
  }

  private readChip(chip: number): Uint8Array {
    const bytes = new Uint8Array(K.SIZE_IRQCHIP);
    bytes[0] = chip;
    return this.read(K.VM_PART_IRQCHIP, K.SIZE_IRQCHIP, bytes);
  }

  private read(kind: number, size: number, bytes: Uint8Array = new Uint8Array(size)): Uint8Array {
    const r = this.native.getVm(this.vm, kind, bytes);
    if (r < 0) throw new HyveError('KVM', `reading interrupt controllers failed with error ${-r}`);
    return bytes;
  }

  private write(kind: number, bytes: Uint8Array): void {
    const r = this.native.setVm(this.vm, kind, bytes);
    if (r < 0)
      throw new HyveError('STATE_FORMAT', `KVM does not take this state of interrupt controllers (error ${-r})`);
  }
}

/** The number under which KVM knows an input, or -1. */
function gsiOf(chip: 'pic' | 'ioapic', pin: number): number {
  if (chip === 'pic')
    return pin === 0 ? GSI_PIT : pin > 0 && pin < PIC_INPUTS && pin !== PIC_CASCADE ? GSI_PIC + pin : -1;
  return pin === IOAPIC_PIT ? GSI_PIT : pin >= 0 && pin < PINS ? GSI_IOAPIC + pin : -1;
}

function addressOf(dest: number, logical: boolean): number {
  return (MSI_BASE | ((dest & 0xff) << 12) | (logical ? 4 : 0)) >>> 0;
}

function dataOf(mode: number, vector: number, level: boolean): number {
  return vector | (mode << 8) | (1 << 14) | (level ? 1 << 15 : 0);
}
