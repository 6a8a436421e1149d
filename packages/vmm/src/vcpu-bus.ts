// One vCPU's way out: ports and memory to the VM's buses, its own APIC page, CR8 and MSRs.
import type { IoBus, MsrValue, PhysAddr, VcpuBus, Width } from '@hyve/core';
import type { LocalApic } from './lapic/lapic.ts';
import type { MsrPolicy } from './msr.ts';

/** The part of a bus that a vCPU uses. */
export type Accesses = Pick<IoBus, 'read' | 'write'>;

/** Options of {@link vcpuBus}. */
export interface VcpuBusOptions {
  /** The port bus. */
  readonly pio: Accesses;
  /** The memory bus, for what is neither RAM nor this vCPU's APIC page. */
  readonly mmio: Accesses;
  /** This vCPU's local APIC. */
  readonly lapic: LocalApic;
  /** This vCPU's MSRs. */
  readonly msrs: MsrPolicy;
  /** What FERR# is connected to; default nothing. */
  readonly ferr?: () => void;
}

class Wiring implements VcpuBus {
  private readonly pio: Accesses;
  private readonly mmio: Accesses;
  private readonly lapic: LocalApic;
  private readonly msrs: MsrPolicy;
  private readonly onFerr: (() => void) | null;

  constructor(o: VcpuBusOptions) {
    this.pio = o.pio;
    this.mmio = o.mmio;
    this.lapic = o.lapic;
    this.msrs = o.msrs;
    this.onFerr = o.ferr ?? null;
  }

  ioRead(port: number, width: Width): number {
    return this.pio.read(port, width);
  }

  ioWrite(port: number, width: Width, value: number): void {
    this.pio.write(port, width, value);
  }

  mmioRead(addr: PhysAddr, width: Width): number {
    const offset = addr - this.lapic.mmioBase;
    if (offset >= 0 && offset < 0x1000) return this.lapic.mmioRead(offset, width);
    return this.mmio.read(addr, width);
  }

  mmioWrite(addr: PhysAddr, width: Width, value: number): void {
    const offset = addr - this.lapic.mmioBase;
    if (offset >= 0 && offset < 0x1000) this.lapic.mmioWrite(offset, width, value);
    else this.mmio.write(addr, width, value);
  }

  rdmsr(index: number, out: MsrValue): boolean {
    return this.msrs.rdmsr(index, out);
  }

  wrmsr(index: number, lo: number, hi: number): boolean {
    return this.msrs.wrmsr(index, lo, hi);
  }

  readCr8(): number {
    return this.lapic.readCr8();
  }

  writeCr8(value: number): void {
    this.lapic.writeCr8(value);
  }

  ferr(): void {
    this.onFerr?.();
  }
}

/** Wires one vCPU; for `VmOptions.bus`. The APIC page is per vCPU and follows IA32_APIC_BASE. */
export function vcpuBus(o: VcpuBusOptions): VcpuBus {
  return new Wiring(o);
}
