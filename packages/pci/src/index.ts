// The PCI bus and the devices that belong to it.
export type { PciRange } from './assign.ts';
export {
  PciBus,
  type PciBusOptions,
  type PciBusStateV1,
  type PciFunctionInfo,
  type PciRootWindows,
  type PciRoute,
} from './bus.ts';
export {
  DummyDevice,
  type DummyStateV1,
  HostBridge,
  type HostBridgeOptions,
  LpcBridge,
  type LpcBridgeOptions,
  PciBridge,
  type PciBridgeOptions,
  PciUart,
  type PciUartOptions,
  type UartChip,
} from './devices.ts';
export type { PciFunctionStateV1 } from './function.ts';
export { PirqRouter, type PirqRouterOptions } from './router.ts';
export type { PciBridgeSpec, PciFunctionDevice, PciFunctionSpec, PciLocation } from './spec.ts';
