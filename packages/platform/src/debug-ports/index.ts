// bhyve's console and debug ports, and the one-way debug console.
export {
  BvmPort,
  claimBvmPort,
  claimDebugCon,
  DebugCon,
  type DebugPortOptions,
  type DebugPortStateV1,
} from './device.ts';
