// The PC board. The machine's description is plain data (spec.ts).
export { Alarm } from './alarm.ts';
export {
  boardSupport,
  type CharRequest,
  createPc,
  type DiskRequest,
  hasTranslatorThread,
  type OpenedDisk,
  Pc,
  type PcHost,
  type StopReason,
} from './board.ts';
export type { DriveInfo, DrivePorts, Drives, DrivesOptions, OpenImage } from './drives.ts';
export { hostScheduler } from './scheduler.ts';
export {
  type BoardSupport,
  type BootromBootSpec,
  type BootSpec,
  type ClockSpec,
  type CpuTopologySpec,
  type EngineName,
  type FirmwareConfigSpec,
  type FwCfgItemSpec,
  type GdbSpec,
  type KexecBootSpec,
  type LpcDeviceSpec,
  type LpcExtraSpec,
  MAX_VCPUS,
  type MachineSpec,
  MIN_MEMORY_BYTES,
  type MultibootBootSpec,
  type MultibootModuleSpec,
  machineSpec,
  type NumaDomainSpec,
  type PciSlotSpec,
  pciSlot,
  type SerialPortSpec,
  type TablesSpec,
  type UserbootBootSpec,
  VIRTUAL_INSTRUCTIONS_PER_SECOND,
  VIRTUAL_START_SECONDS,
} from './spec.ts';
export type { DeviceEntry, MachineStateV1, MemoryPiece } from './state.ts';
export type { ThreadHost, VcpuWorker } from './threads.ts';
