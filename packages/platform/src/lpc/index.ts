// Legacy ports of an LPC bridge.
export {
  claimLpcPorts,
  claimReserved,
  LpcPorts,
  type LpcPortsOptions,
  type LpcPortsStateV1,
  type ResetKind,
} from './device.ts';
