// A vCPU that runs a list of steps instead of instructions, for tests of run loops and boards. Each step takes
// `nsPerStep` and retires one instruction; interrupt handlers are functions that run in one piece, interrupts off.
import {
  allOnes,
  Exit,
  type ExitReason,
  type Hypervisor,
  type MsrValue,
  RegionMemory,
  type Vcpu,
  type VcpuBus,
  type VcpuStateV1,
  type Vm,
  type VmExit,
  type VmOptions,
  type Width,
} from '@hyve/core';

/** One instruction of a script. */
export type Step = (cpu: ScriptedVcpu) => void;

/** Options of {@link ScriptedVcpu}. */
export interface ScriptedVcpuOptions {
  /** 0 is the boot processor; others wait for SIPI. Default 0. */
  readonly index?: number;
  /** Where its accesses go. May be set later through {@link ScriptedVcpu.bus}. */
  readonly bus?: VcpuBus | null;
  /** Nanoseconds each step takes of the budget. Default 1000. */
  readonly nsPerStep?: number;
  /** Told of time that passes; moves a clock. */
  readonly onTime?: (ns: number) => void;
}

/**
 * A {@link Vcpu} that follows a script. It checks what callers do as well: budgets above 0, no run() inside run(), no
 * run() of a vCPU that waits for SIPI, vectors of 8 bits, unsigned values of the right width from the bus.
 * Past the end of the script it spins, one empty step after the other.
 * @example
 * const cpu = new ScriptedVcpu([out(0x80, 1, 3), mmioRead(0xfee00030, 4), hlt()], { bus });
 * cpu.run(1e6).reason === Exit.Halt;
 */
export class ScriptedVcpu implements Vcpu {
  readonly index: number;
  halted = false;
  waitingForSipi: boolean;
  /** RFLAGS.IF. */
  interruptsOn = false;
  /** The steps. */
  program: Step[];
  /** Index of the next step. */
  pc = 0;
  /** Where accesses go. */
  bus: VcpuBus | null;
  /** The last value read. */
  acc = 0;
  /** What happened, oldest first: `irq 0x30`, `nmi`, `init`, `sipi 0x9f`, `reset`. */
  readonly log: string[] = [];
  /** Runs for each interrupt, with interrupts off; returning is IRET. */
  handler: (vector: number, cpu: ScriptedVcpu) => void = () => {};
  /** Runs for each NMI. */
  nmiHandler: (cpu: ScriptedVcpu) => void = () => {};
  /** Whether NMIs wait. */
  nmiBlocked = false;
  /** Nanoseconds each step takes. */
  nsPerStep: number;
  /** The budgets of all runs so far, in ns. */
  readonly budgets: number[] = [];
  /** What {@link ScriptedVcpu.setState} was given last, or null. */
  state: VcpuStateV1 | null = null;
  private readonly onTime: (ns: number) => void;
  private leave: ExitReason | -1 = -1;
  private readonly exit: VmExit = { reason: Exit.Budget, detail: '' };
  private readonly msr: MsrValue = { lo: 0, hi: 0 };
  private kicked = false;
  private pending = -1;
  private window = false;
  private nmiPending = false;
  private count = 0;
  private inRun = false;
  private down = false;

  constructor(program: Step[] = [], o: ScriptedVcpuOptions = {}) {
    this.index = o.index ?? 0;
    this.waitingForSipi = this.index !== 0;
    this.program = program;
    this.bus = o.bus ?? null;
    this.nsPerStep = o.nsPerStep ?? 1000;
    this.onTime = o.onTime ?? (() => {});
  }

  run(budgetNs: number): VmExit {
    if (this.inRun) throw new Error('run() inside run()');
    if (!(budgetNs > 0)) throw new Error(`budget of ${budgetNs} ns`);
    if (this.waitingForSipi) throw new Error(`vCPU ${this.index} waits for SIPI and was run`);
    this.inRun = true;
    this.budgets.push(budgetNs);
    this.exit.detail = '';
    try {
      this.exit.reason = this.loop(budgetNs);
    } finally {
      this.inRun = false;
    }
    return this.exit;
  }

  private loop(budgetNs: number): ExitReason {
    let used = 0;
    this.leave = -1;
    for (;;) {
      if (this.leave >= 0) return this.leave as ExitReason;
      if (this.down) return Exit.Shutdown;
      if (this.kicked) {
        this.kicked = false;
        return Exit.Kicked;
      }
      if (this.nmiPending && !this.nmiBlocked) {
        this.nmiPending = false;
        this.halted = false;
        this.log.push('nmi');
        this.nmiBlocked = true;
        this.nmiHandler(this);
        this.nmiBlocked = false;
        continue;
      }
      if (this.pending >= 0) {
        const v = this.pending;
        this.pending = -1;
        this.halted = false;
        this.log.push(`irq 0x${v.toString(16)}`);
        this.interruptsOn = false;
        this.handler(v, this);
        this.interruptsOn = true;
        continue;
      }
      if (this.window && this.canInject()) {
        this.window = false;
        return Exit.IrqWindow;
      }
      if (this.halted) return Exit.Halt;
      if (used >= budgetNs) return Exit.Budget;
      const step = this.program[this.pc];
      if (step !== undefined) this.pc++;
      this.count++;
      used += this.nsPerStep;
      this.onTime(this.nsPerStep);
      step?.(this);
    }
  }

  /** Makes run() return once the running step ends. `Exit.Shutdown` stays until reset. */
  stopWith(reason: ExitReason, detail: string = ''): void {
    this.leave = reason;
    this.exit.detail = detail;
    if (reason === Exit.Shutdown) this.down = true;
  }

  /** MMIO load. */
  read(addr: number, width: Width = 4): number {
    this.acc = checked(this.vbus().mmioRead(addr, width), width, `mmioRead(0x${addr.toString(16)})`);
    return this.acc;
  }
  /** MMIO store. */
  write(addr: number, value: number, width: Width = 4): void {
    this.vbus().mmioWrite(addr, width, checked(value, width, 'mmioWrite value'));
  }
  /** IN. */
  in(port: number, width: Width = 1): number {
    this.acc = checked(this.vbus().ioRead(port, width), width, `ioRead(0x${port.toString(16)})`);
    return this.acc;
  }
  /** OUT. */
  out(port: number, value: number, width: Width = 1): void {
    this.vbus().ioWrite(port, width, checked(value, width, 'ioWrite value'));
  }
  /** RDMSR, or null for #GP. */
  rdmsr(index: number): { lo: number; hi: number } | null {
    if (!this.vbus().rdmsr(index, this.msr)) return null;
    checked(this.msr.lo, 4, 'rdmsr low');
    checked(this.msr.hi, 4, 'rdmsr high');
    return { ...this.msr };
  }
  /** WRMSR; false for #GP. */
  wrmsr(index: number, lo: number, hi: number = 0): boolean {
    return this.vbus().wrmsr(index, lo, hi);
  }
  private vbus(): VcpuBus {
    if (this.bus === null) throw new Error('this ScriptedVcpu has no bus');
    return this.bus;
  }

  kick(): void {
    this.kicked = true;
  }
  canInject(): boolean {
    return this.interruptsOn && this.pending < 0 && !this.waitingForSipi;
  }
  inject(vector: number): boolean {
    if (!Number.isInteger(vector) || vector < 0 || vector > 255) throw new Error(`inject(${vector})`);
    if (!this.canInject()) return false;
    this.pending = vector;
    return true;
  }
  requestIrqWindow(): void {
    this.window = true;
  }
  injectNmi(): void {
    this.nmiPending = true;
  }
  init(): void {
    this.log.push('init');
    this.restart();
  }
  startup(vector: number): void {
    if (!this.waitingForSipi) return;
    this.log.push(`sipi 0x${vector.toString(16)}`);
    this.waitingForSipi = false;
    this.pc = 0;
  }
  reset(): void {
    this.log.push('reset');
    this.nmiPending = false;
    this.nmiBlocked = false;
    this.count = 0;
    this.restart();
  }
  private restart(): void {
    this.halted = false;
    this.down = false;
    this.interruptsOn = false;
    this.pending = -1;
    this.waitingForSipi = this.index !== 0;
    this.pc = 0;
  }
  retired(): number {
    return this.count;
  }
  getState(): VcpuStateV1 {
    if (this.state === null) throw new Error('a ScriptedVcpu has only the state it was given');
    return this.state;
  }
  setState(s: VcpuStateV1): void {
    this.state = s;
    this.halted = s.activity === 'halted';
    this.waitingForSipi = s.activity === 'wait-for-sipi';
  }
}

function checked(v: number, width: Width, what: string): number {
  if (!Number.isInteger(v) || v < 0 || v > allOnes(width))
    throw new Error(`${what}: ${v} is not an unsigned ${8 * width}-bit value`);
  return v;
}

/** OUT `value` of `width` bytes. */
export function out(port: number, width: Width, value: number): Step {
  return (c) => c.out(port, value, width);
}
/** IN into `acc`. */
export function input(port: number, width: Width): Step {
  return (c) => void c.in(port, width);
}
/** MMIO load into `acc`. */
export function mmioRead(addr: number, width: Width): Step {
  return (c) => void c.read(addr, width);
}
/** MMIO store. */
export function mmioWrite(addr: number, width: Width, value: number): Step {
  return (c) => c.write(addr, value, width);
}
/** HLT. */
export function hlt(): Step {
  return (c) => {
    c.halted = true;
  };
}
/** STI. */
export function sti(): Step {
  return (c) => {
    c.interruptsOn = true;
  };
}
/** CLI. */
export function cli(): Step {
  return (c) => {
    c.interruptsOn = false;
  };
}
/** PAUSE, with the exit. */
export function pause(): Step {
  return (c) => c.stopWith(Exit.Pause);
}
/** A triple fault. */
export function tripleFault(): Step {
  return (c) => c.stopWith(Exit.Shutdown);
}
/** Goes on at step `to`. */
export function jump(to: number): Step {
  return (c) => {
    c.pc = to;
  };
}

/** What {@link scriptedHypervisor} makes. */
export interface ScriptedHypervisor extends Hypervisor {
  /** A VM whose vCPUs are scripts. */
  createVm(o: VmOptions): Vm & { readonly vcpus: readonly ScriptedVcpu[] };
}

/**
 * An engine of {@link ScriptedVcpu}s, for tests of whatever is built on a `Hypervisor`.
 * @param program gives each vCPU its steps
 */
export function scriptedHypervisor(program: (vcpu: number) => Step[]): ScriptedHypervisor {
  return {
    name: 'scripted',
    supportedCpuid: () => [
      { leaf: 0, eax: 1, ebx: 0x756e6547, ecx: 0x6c65746e, edx: 0x49656e69 },
      { leaf: 1, eax: 0x000306c3, ebx: 0, ecx: 0, edx: 0 },
    ],
    createVm: (o) => {
      const vcpus = Array.from(
        { length: o.vcpus },
        (_, index) => new ScriptedVcpu(program(index), { index, bus: o.bus(index) }),
      );
      return {
        memory: RegionMemory.allocate(o.memory),
        vcpus,
        counters: () => ({ instructions: vcpus.reduce((n, v) => n + v.retired(), 0) }),
        close: () => {},
      };
    },
  };
}
