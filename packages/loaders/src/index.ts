// Guest loaders: a file's bytes go into guest memory, the boot processor's state comes out. No files, no VM.

export type { SetupData } from './boot-params.ts';
export { type BootRom, bootRom } from './bootrom.ts';
export {
  type DecompressKernel,
  type KernelCompression,
  kernelPayload,
  type LinuxOptions,
  loadLinux,
  type UnpackedKernels,
  unpackKernel,
} from './linux.ts';
export { isMultiboot, loadMultiboot, type MultibootModule, type MultibootOptions } from './multiboot.ts';
export type { E820Entry, GuestRam, Placement } from './ram.ts';
export { type EntryState, type FlatEntry, longModeState, powerOnState, protectedModeState } from './state.ts';
export { loadVmlinux, type VmlinuxOptions } from './vmlinux.ts';
