// A machine of the software CPU for tests that run code: memory, processors, and a bus on which nobody answers.
import {
  type Clock,
  type CpuidEntry,
  Exit,
  type ExitReason,
  TimerQueue,
  type VcpuBus,
  type VcpuStateV1,
} from '@hyve/core';
import { SoftCpu, type SoftCpuOptions, type SoftVcpu, type SoftVm } from '../src/index.ts';

/** Options of {@link createMachine}. */
export interface MachineOptions {
  /** Of the software CPU. */
  readonly cpu?: SoftCpuOptions;
  /** Bytes of RAM from address 0 on. Default 1 MiB. */
  readonly ram?: number;
  /** Default 1. */
  readonly vcpus?: number;
  /** What is on the bus. Default nothing: reads give 0, writes vanish, there is no MSR. */
  readonly bus?: Partial<VcpuBus>;
  /** Changes a record of CPUID. */
  readonly cpuid?: (record: CpuidEntry) => CpuidEntry;
  /** Default the host's time. */
  readonly clock?: Clock;
}

/** A machine whose processors are as after power-on; `vcpu` is the first. */
export function createMachine(o: MachineOptions = {}): { vm: SoftVm; vcpu: SoftVcpu } {
  const bus: VcpuBus = {
    ioRead: () => 0,
    ioWrite: () => {},
    mmioRead: () => 0,
    mmioWrite: () => {},
    rdmsr: () => false,
    wrmsr: () => false,
    readCr8: () => 0,
    writeCr8: () => {},
    ...o.bus,
  };
  const cpu = new SoftCpu(o.cpu);
  const vm = cpu.createVm({
    memory: [{ base: 0, size: o.ram ?? 1 << 20, kind: 'ram', name: 'ram' }],
    vcpus: o.vcpus ?? 1,
    bus: () => bus,
    cpuid: () => cpu.supportedCpuid().map(o.cpuid ?? ((r) => r)),
    clock: o.clock ?? new TimerQueue(() => performance.now() * 1e6),
    tscHz: 1e9,
  });
  return { vm, vcpu: vm.vcpus[0] as SoftVcpu };
}

/**
 * Runs until the processor stops by itself or has retired `most` instructions, and gives why: {@link Exit.Budget} in the
 * latter case. On a busy host a slice of time may go by before its first instruction.
 */
export function runOn(vcpu: SoftVcpu, most: number = Number.POSITIVE_INFINITY): ExitReason {
  const start = vcpu.retired();
  let why: ExitReason = Exit.Budget;
  for (let n = 0; n < 10_000 && why === Exit.Budget && vcpu.retired() - start < most; n++) why = vcpu.run(1e6).reason;
  return why;
}

/** The state of a processor that is about to run 32-bit code at `rip`: flat segments, no paging, no IDT to speak of. */
export function flat32(vcpu: SoftVcpu, rip: number, ring: 0 | 3 = 0): VcpuStateV1 {
  const s = vcpu.getState();
  const flat = { base: 0n, limit: 0xffffffff };
  return {
    ...s,
    rip: BigInt(rip),
    cr0: 0x11n,
    segments: s.segments.map((g, n) => {
      if (n >= 6) return g;
      const [selector, attr] = n === 1 ? [8, 0xc09b] : [16, 0xc093];
      return { ...g, ...flat, selector: selector | ring, attr: attr | (ring << 5) };
    }),
  };
}

/** The state of a processor that is about to run real-mode code in segment 0, with a stack that ends at 0x8000. */
export function realMode(vcpu: SoftVcpu, ip: number): VcpuStateV1 {
  const s = vcpu.getState();
  return {
    ...s,
    rip: BigInt(ip),
    gpr: s.gpr.map((_, n) => (n === 4 ? 0x8000n : 0n)),
    segments: s.segments.map((g, n) => (n === 1 ? { ...g, selector: 0, base: 0n } : g)),
  };
}

/** Numbers from 0 to below `n` that are the same each time: a linear congruential generator. */
export function numbers(seed: number): (n: number) => number {
  let x = seed;
  return (n) => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return Math.floor((x / 2 ** 32) * n);
  };
}

/** The four bytes of an immediate or a displacement. */
export function le32(v: number): number[] {
  return [v & 255, (v >> 8) & 255, (v >> 16) & 255, v >>> 24];
}
