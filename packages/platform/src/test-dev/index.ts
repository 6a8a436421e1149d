// Test device for bare-metal test programs.
export { claimPcTestDev, PcTestDev, type PcTestDevOptions, type PcTestDevStateV1 } from './device.ts';
