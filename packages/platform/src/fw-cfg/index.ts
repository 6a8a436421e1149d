// QEMU's firmware configuration device.
export { claimFwCfg, FwCfg, type FwCfgFile, type FwCfgOptions, type FwCfgStateV1 } from './device.ts';
