// Interfaces and small shared parts of Hyve. This package imports nothing.
export type {
  BlockBackend,
  BlockStatus,
  CharBackend,
  EntropySource,
  NetBackend,
} from './backends.ts';
export {
  Bus,
  type Claim,
  type ClaimOptions,
  type DoorbellHost,
  type DoorbellSpec,
  type IoBus,
  type IoHandler,
  type UnclaimedAccess,
} from './bus.ts';
export { type Clock, type Timer, TimerQueue } from './clock.ts';
export { type Device, type Logger, silentLogger } from './device.ts';
export { HyveError, isHyveError } from './errors.ts';
export {
  type AttachOptions,
  type CpuidEntry,
  type CpuidResult,
  type DebugBreakpoint,
  type DebugRequest,
  type DirtyLog,
  type EngineChip,
  type EngineInterruptKind,
  type EngineInterruptOptions,
  type EngineInterrupts,
  Exit,
  type ExitReason,
  type Hypervisor,
  type MsrValue,
  type SegmentState,
  type TableRegister,
  type Vcpu,
  type VcpuBus,
  type VcpuStateV1,
  type VcpuThreads,
  type Vm,
  type VmExit,
  type VmOptions,
  type VmShare,
} from './hypervisor.ts';
export { type InterruptController, type IrqLine, type MsiSink, SharedPin, unconnectedLine } from './irq.ts';
export {
  type BackedRegion,
  type DmaMemory,
  type GuestMemory,
  type PageWatch,
  RegionMemory,
  type RegionSpec,
} from './memory.ts';
export type { PciBarSpec, PciCapabilitySpec, PciContext, PciDevice, PciSpec } from './pci.ts';
export { StateReader } from './saved-state.ts';
export { Segments } from './segments.ts';
export { allOnes, hi32, join64, lo32, type PhysAddr, type Width } from './types.ts';
export { Views } from './views.ts';
