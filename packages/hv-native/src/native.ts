// The addon: its functions as TypeScript sees them, and how it is found.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { HyveError } from '@hyve/core';

declare const handle: unique symbol;
/** An opened /dev/kvm. */
export type SystemHandle = { readonly [handle]: 'system' };
/** A virtual machine of the kernel. */
export type VmHandle = { readonly [handle]: 'vm' };
/** A virtual processor of the kernel. */
export type VcpuHandle = { readonly [handle]: 'vcpu' };

/**
 * The addon's functions. Wrong arguments throw with the code `ERR_ARGUMENT`, closed handles with `ERR_CLOSED`. Numbers that
 * come back are results of system calls: negative ones are errors.
 */
export interface Native {
  /** Throws with the error's name as `code`. */
  open(path: string): SystemHandle;
  closeSystem(system: SystemHandle): void;
  checkExtension(system: SystemHandle, cap: number): number;
  /** Fills in rows of ten words; gives how many. */
  supportedCpuid(system: SystemHandle, rows: Uint32Array, hyperv: boolean): number;
  createVm(system: SystemHandle): VmHandle;
  /** Its vCPUs are closed with it. */
  closeVm(vm: VmHandle): void;
  enableCap(vm: VmHandle, cap: number, argument: number): number;
  /** A slot plus {@link READ_ONLY_SLOT} is read-only. The bytes must be shared memory, whole pages. */
  setMemory(vm: VmHandle, slot: number, base: number, bytes: Uint8Array): number;
  /** Guest accesses to all MSRs but these leave the engine. */
  keepMsrs(vm: VmHandle, indices: Uint32Array): number;
  createVcpu(system: SystemHandle, vm: VmHandle, id: number): VcpuHandle;
  /** Also takes the run page away. */
  closeVcpu(vcpu: VcpuHandle): void;
  /** struct kvm_run, the same buffer each time. */
  runPage(vcpu: VcpuHandle): ArrayBuffer;
  /** Until the next exit; with `ns` > 0 asks the vCPU to stop after that time, until {@link Native.disarm}. */
  run(vcpu: VcpuHandle, ns: number): number;
  disarm(vcpu: VcpuHandle): void;
  interrupt(vcpu: VcpuHandle, vector: number): number;
  nmi(vcpu: VcpuHandle): number;
  /** Part of the state; `bytes` has exactly its size. */
  get(vcpu: VcpuHandle, part: number, bytes: Uint8Array): number;
  set(vcpu: VcpuHandle, part: number, bytes: Uint8Array): number;
  /** All controllers and the PIT; before the first vCPU. */
  createIrqchip(vm: VmHandle): number;
  irqLine(vm: VmHandle, gsi: number, asserted: boolean): number;
  /** 1: somebody took it. */
  signalMsi(vm: VmHandle, address: number, data: number): number;
  /** Rows of five words: gsi, then `ROUTE_INPUT`, controller, input, 0, or `ROUTE_MESSAGE`, address high, low, data. */
  setRoutes(vm: VmHandle, rows: Uint32Array): number;
  /** A file descriptor, the VM's own, that raises a gsi when it is written to. */
  irqEvent(vm: VmHandle, gsi: number): number;
  /** Writes of `width` bytes there ring bell `n`, 0–255, and do not leave the guest. */
  addBell(vm: VmHandle, n: number, port: boolean, address: number, width: number, any: boolean, value: number): number;
  removeBell(vm: VmHandle, n: number): number;
  logDirty(vm: VmHandle, slot: number, on: boolean): number;
  /** A bit for each of the slot's `pages`, in whole 64-bit words. */
  dirtyLog(vm: VmHandle, slot: number, bits: Uint8Array, pages: number): number;
  /** State of what the kernel has beside the vCPUs, by `VM_PART_`; `bytes` has exactly its size. */
  getVm(vm: VmHandle, part: number, bytes: Uint8Array): number;
  setVm(vm: VmHandle, part: number, bytes: Uint8Array): number;
  /** kvmclock's time. */
  setClock(vm: VmHandle, ns: number): number;
  /** Bytes past a multiple of 2 MiB. */
  misalignment(bytes: Uint8Array): number;
  /** Once per VM. The callback is told that {@link Native.next} has something, again after that gave -1. */
  listen(vm: VmHandle, callback: () => void): void;
  /** A vCPU's id whose turn is over, 256 + the number of a bell that rang, or -1 after looking for `ns`. */
  next(vm: VmHandle, ns: number): number;
  /** Ends the guest's turns; waits for at most `ns`. */
  stopThreads(vm: VmHandle, ns: number): number;
  /** From here on the vCPU's turns are its own thread's. */
  startThread(vcpu: VcpuHandle): number;
  /** The guest's turn. Until it is over most functions give EBUSY. */
  resume(vcpu: VcpuHandle): number;
  /** How it ended: 0 (an exit), an error, or a TURN_ value. */
  result(vcpu: VcpuHandle): number;
  /** Ends a turn soon. */
  stop(vcpu: VcpuHandle): void;
  /** Whether turns are to end by TURN_EXTERNAL when an interrupt can be taken. */
  external(vcpu: VcpuHandle, asserted: boolean): void;
  /** See guardSignal. */
  guard(signal: number): number;
  answered(): void;
}

/** Added to a slot's number in {@link Native.setMemory}. */
export const READ_ONLY_SLOT = 0x10000;

const require = createRequire(import.meta.url);

/** Where this package's own build puts the addon. */
export function localBuild(): string {
  return fileURLToPath(new URL(`../npm/${process.platform}-${process.arch}/hyve-native.node`, import.meta.url));
}

/**
 * Loads the addon: what the environment variable HYVE_NATIVE_LIBRARY names, else the platform's package, else this
 * package's own build.
 * @throws HyveError `ENGINE_UNAVAILABLE` if there is none for this machine
 */
export function loadNative(): Native {
  const target = `${process.platform}-${process.arch}`;
  let cause: unknown;
  const named = process.env['HYVE_NATIVE_LIBRARY'];
  if (named !== undefined && named !== '') {
    try {
      return require(named) as Native;
    } catch (e) {
      const why = e instanceof Error ? e.message : String(e);
      throw new HyveError('ENGINE_UNAVAILABLE', `HYVE_NATIVE_LIBRARY=${named}: ${why}`, e);
    }
  }
  for (const from of [`@hyve/hv-native-${target}`, localBuild(), gypBuild()]) {
    if (from.endsWith('.node') && !existsSync(from)) continue;
    try {
      return require(from) as Native;
    } catch (e) {
      if ((e as { code?: unknown }).code !== 'MODULE_NOT_FOUND') cause = e;
    }
  }
  const why = cause instanceof Error ? `: ${cause.message}` : '';
  throw new HyveError(
    'ENGINE_UNAVAILABLE',
    `no native engine for ${target}${why}; build it with a C++ compiler: pnpm --filter @hyve/hv-native build:native in a checkout, else node-gyp rebuild -C in this package's src/native`,
    cause,
  );
}

/** Where node-gyp puts it. */
function gypBuild(): string {
  return fileURLToPath(new URL('../src/native/build/Release/hyve_native.node', import.meta.url));
}
