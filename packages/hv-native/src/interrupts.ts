// Interrupt controllers in the kernel, as core's EngineInterrupts: local APICs with our I/O APIC, 8259 and PIT (split), or all
// of them. Linux api.rst, KVM_CAP_SPLIT_IRQCHIP, KVM_CREATE_IRQCHIP; Intel SDM vol. 3 §11.11 for the form of messages.
import { type EngineInterruptKind, type EngineInterrupts, HyveError, type PhysAddr } from '@hyve/core';
import { EXTERNAL_NONE } from './bits.ts';
import type { Native, VcpuHandle, VmHandle } from './native.ts';

const MSI_BASE = 0xfee00000;
const MSI_END = 0xfef00000;
const PINS = 24;
const RTE_LOGICAL = 1 << 11;
const RTE_LEVEL = 1 << 15;
const MODE_SMI = 2;
const MODE_STARTUP = 6;
const MODE_EXTINT = 7;

/** One VM's. */
export class KvmInterrupts implements EngineInterrupts {
  readonly kind: EngineInterruptKind;
  private readonly native: Native;
  private readonly vm: VmHandle;
  private readonly boot: () => VcpuHandle;
  private readonly listeners: { eoi(vector: number): void }[] = [];
  /** Data and destination of each level-triggered pin as the kernel knows it; 0: none. Kept while a pin is masked: its EOI may be due. */
  private readonly data: Uint32Array = new Uint32Array(PINS);
  private readonly address: Uint32Array = new Uint32Array(PINS);
  private acknowledge: (() => number) | null = null;
  private asserted = false;

  constructor(native: Native, vm: VmHandle, kind: EngineInterruptKind, boot: () => VcpuHandle) {
    this.native = native;
    this.vm = vm;
    this.kind = kind;
    this.boot = boot;
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
    const level = (lo & RTE_LEVEL) !== 0;
    const address = level ? addressOf(hi >>> 24, (lo & RTE_LOGICAL) !== 0) : 0;
    const data = level ? dataOf((lo >>> 8) & 7, lo & 0xff, true) : 0;
    if (pin >= PINS || (this.address[pin] === address && this.data[pin] === data)) return;
    this.address[pin] = address;
    this.data[pin] = data;
    const rows: number[] = [];
    for (let i = 0; i < PINS; i++)
      if (this.data[i] !== 0) rows.push(i, 0, this.address[i] as number, this.data[i] as number);
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
    this.native.external(this.boot(), asserted);
  }

  /** @internal The boot processor takes the 8259's interrupt now: its vector, or EXTERNAL_NONE. */
  takeExternal(): number {
    return this.asserted && this.acknowledge !== null ? this.acknowledge() : EXTERNAL_NONE;
  }

  setPin(pin: number, asserted: boolean): void {
    const r = this.native.irqLine(this.vm, pin, asserted);
    if (r < 0) throw new HyveError('IRQ_PIN', `KVM has no interrupt input ${pin} (error ${-r})`);
  }
}

function addressOf(dest: number, logical: boolean): number {
  return (MSI_BASE | ((dest & 0xff) << 12) | (logical ? 4 : 0)) >>> 0;
}

function dataOf(mode: number, vector: number, level: boolean): number {
  return vector | (mode << 8) | (1 << 14) | (level ? 1 << 15 : 0);
}
