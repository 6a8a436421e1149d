// Run loop, CPUID and MSR policy. The chipset parts are subpaths: ./lapic ./ioapic ./pic ./pit ./hpet ./rtc ./pmtimer.
export {
  apicIdOf,
  buildCpuid,
  type CpuidOptions,
  type CpuTopology,
  type CpuVendor,
  cpuVendor,
  packageOf,
  physBitsOf,
  tscRatio,
} from './cpuid.ts';
export { EngineLoop, type EngineLoopOptions } from './engine-loop.ts';
export { MsrPolicy, type MsrPolicyOptions, type MsrPolicyStateV1 } from './msr.ts';
export {
  type ExtIntSource,
  type HostScheduler,
  type HostWork,
  type Outcome,
  type OutcomeKind,
  type RestingClock,
  type RunClock,
  RunLoop,
  type RunLoopOptions,
  type SliceResult,
  type WakeSignal,
} from './run-loop.ts';
export { type Accesses, type VcpuBusOptions, vcpuBus } from './vcpu-bus.ts';
export { type InstructionCounter, VirtualClock } from './virtual-clock.ts';
