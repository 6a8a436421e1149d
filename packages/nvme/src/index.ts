// An NVMe controller with one namespace.
export type { NvmeAdminStateV1 } from './admin.ts';
export type { ErrorEntry as NvmeErrorEntry } from './identify.ts';
export { NvmeController, type NvmeOptions, type NvmeQueueStateV1, type NvmeStateV1 } from './nvme.ts';
