// vCPUs on threads of their own.
export { type AccessTarget, type Orders, Switchboard } from './switchboard.ts';
export { type ProcessorState, sharedNow, type ThreadEnd, type VcpuPlan, VcpuThread } from './vcpu-thread.ts';
