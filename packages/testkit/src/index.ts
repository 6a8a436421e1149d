// Test parts for every Hyve package; a development dependency only. The conformance suite for CPU engines is a subpath,
// @hyve/testkit/conformance.
export { codeOf } from './error-code.ts';
export { MemoryDisk, type MemoryDiskOptions, NullDisk, settle } from './memory-disk.ts';
export { PciSocket, type PciSocketOptions } from './pci-socket.ts';
export { checkRegisters, type RegisterBank, type RegisterRow } from './registers.ts';
export { createRig, ManualClock, MockCpu, RecordingIrq, type Rig } from './rig.ts';
export {
  DESC_INDIRECT,
  DESC_NEXT,
  DESC_WRITE,
  type PushedChain,
  RingDriver,
  type RingDriverOptions,
  type Segment,
  type UsedChain,
} from './ring.ts';
export {
  cli,
  hlt,
  input,
  jump,
  mmioRead,
  mmioWrite,
  out,
  pause,
  type ScriptedHypervisor,
  ScriptedVcpu,
  type ScriptedVcpuOptions,
  type Step,
  scriptedHypervisor,
  sti,
  tripleFault,
} from './scripted-vcpu.ts';
