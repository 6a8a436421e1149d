// Tools for image files, and the `xhyve disk` command over them.
export type { CheckResult } from '../qcow2/check.ts';
export { checkJson, DISK_HELP, type DiskCommandHost, diskCommand, infoJson, mapJson } from './command.ts';
export { type ConvertOptions, convertDisk } from './convert.ts';
export { type CreateOptions, createDisk } from './create.ts';
export {
  checkDisk,
  type DiskInfo,
  diskChainInfo,
  diskInfo,
  type InspectOptions,
  mapDisk,
  resizeDisk,
} from './inspect.ts';
