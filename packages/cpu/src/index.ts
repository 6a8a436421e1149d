// Software x86-64 CPU.
export { SoftCpu, type SoftCpuOptions, SoftVcpu, SoftVm } from './soft.ts';
