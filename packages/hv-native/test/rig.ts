// A small KVM guest for tests: 1 MiB of RAM, real mode at 0x8000, a bus that notes accesses.
import {
  type EngineInterruptKind,
  type ExitReason,
  type Hypervisor,
  TimerQueue,
  type Vcpu,
  type VcpuBus,
  type Vm,
} from '@hyve/core';

/** Where programs start. */
export const CODE = 0x8000;

/** A VM with one program in real mode. */
export class Rig {
  readonly vm: Vm;
  readonly vcpu: Vcpu;
  readonly log: string[] = [];
  onWrite: (port: number, value: number) => void = () => {};

  constructor(engine: Hypervisor, code: readonly number[], vcpus = 1, interrupts: EngineInterruptKind | null = null) {
    const bus: VcpuBus = {
      ioRead: () => 0,
      ioWrite: (port, width, value) => {
        this.log.push(`out ${port.toString(16)}/${width} ${value.toString(16)}`);
        this.onWrite(port, value);
      },
      mmioRead: () => 0,
      mmioWrite: (addr, width, value) =>
        void this.log.push(`write ${addr.toString(16)}/${width} ${value.toString(16)}`),
      rdmsr: () => false,
      wrmsr: () => false,
      readCr8: () => 0,
      writeCr8: () => {},
    };
    this.vm = engine.createVm({
      memory: [{ base: 0, size: 1 << 20, kind: 'ram', name: 'ram' }],
      vcpus,
      bus: () => bus,
      cpuid: () => engine.supportedCpuid(),
      clock: new TimerQueue(() => performance.now() * 1e6),
      tscHz: 2e9,
      ...(interrupts === null ? {} : { interrupts: { kind: interrupts, apicId: (i: number) => i } }),
    });
    this.vcpu = this.vm.vcpus[0] as Vcpu;
    this.vm.memory.load(CODE, Uint8Array.from(code));
    this.start(this.vcpu);
  }

  /** Puts a vCPU at the program's start. */
  start(vcpu: Vcpu): void {
    const s = vcpu.getState();
    s.segments[1] = { selector: 0, base: 0n, limit: 0xffff, attr: 0x9b };
    vcpu.setState({ ...s, rip: BigInt(CODE), activity: 'running' });
  }

  /** Runs with short budgets until something else than Budget comes back. */
  finish(): ExitReason {
    for (let i = 0; i < 2000; i++) {
      const { reason, detail } = this.vcpu.run(2e6);
      if (reason === 7) throw new Error(detail);
      if (reason !== 0) return reason;
    }
    throw new Error('does not end');
  }
}
