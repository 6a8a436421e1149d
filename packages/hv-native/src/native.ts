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
  supportedCpuid(system: SystemHandle, rows: Uint32Array): number;
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
}

/** Added to a slot's number in {@link Native.setMemory}. */
export const READ_ONLY_SLOT = 0x10000;

const require = createRequire(import.meta.url);

/** Where this package's own build puts the addon. */
export function localBuild(): string {
  return fileURLToPath(new URL(`../npm/${process.platform}-${process.arch}/hyve-native.node`, import.meta.url));
}

/**
 * Loads the addon: the platform's package, else this package's own build.
 * @throws HyveError `ENGINE_UNAVAILABLE` if there is none for this machine
 */
export function loadNative(): Native {
  const target = `${process.platform}-${process.arch}`;
  let cause: unknown;
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
    `no native engine for ${target}${why}; build it: pnpm --filter @hyve/hv-native build:native in a checkout, else node-gyp rebuild -C in this package's src/native`,
    cause,
  );
}

/** Where node-gyp puts it. */
function gypBuild(): string {
  return fileURLToPath(new URL('../src/native/build/Release/hyve_native.node', import.meta.url));
}
