// Hardware virtualization for Hyve: the engines that need native code. Linux KVM for now.
export { guardSignal } from './guard.ts';
export { KvmHypervisor, type KvmOptions } from './kvm.ts';
export { type KvmProbe, type KvmProbeOptions, probeKvm } from './probe.ts';
