// The virtio block device.
export { blockIdentity, VirtioBlock, type VirtioBlockOptions, type VirtioBlockStateV1 } from './device.ts';
