// The virtio entropy device.
export { VirtioRnd, type VirtioRndOptions, type VirtioRndRate, type VirtioRndStateV1 } from './device.ts';
