// Disk back ends for Node: raw files and block devices, qcow2, NBD, RAM disks, overlays, rate limits.
export type { BlockCounters, DiskImage, Extent } from './image.ts';
export { type OpenBlockOptions, openBlock } from './open.ts';
export { OverlayDisk, type OverlayOptions } from './overlay.ts';
export { RamDisk, type RamDiskOptions } from './ram.ts';
export { ReadHelper, type ReadHelperMessage, type ReadHelperOptions, type ReadHelperThread } from './read-helper.ts';
export {
  type BlockFormat,
  type BlockSpec,
  blockSpec,
  type ParseBlockOptions,
  parseBlockSpec,
  parseSize,
} from './spec.ts';
export { type RateLimits, ThrottledDisk } from './throttle.ts';
