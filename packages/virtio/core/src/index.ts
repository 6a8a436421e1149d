// Virtio: queues, the status machine and the transports. A device implements VirtioDevice.
export { DescriptorChain } from './chain.ts';
export type { VirtioRingOptions, VirtioStateV1 } from './core.ts';
export type { VirtioDevice, VirtioLink } from './device.ts';
export { VirtioMmio, type VirtioMmioOptions } from './mmio.ts';
export { VirtioPci, type VirtioPciOptions } from './pci.ts';
export type { VirtQueue, VirtQueueStateV1 } from './queue.ts';
