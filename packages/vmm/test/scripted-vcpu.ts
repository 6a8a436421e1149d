// A vCPU that runs a list of steps instead of instructions, for tests of the run loop. Each step takes `nsPerStep` and
// retires one instruction. Interrupt handlers are functions that run in one piece, with interrupts off.
import {
  Exit,
  type ExitReason,
  type MsrValue,
  type Vcpu,
  type VcpuBus,
  type VcpuStateV1,
  type VmExit,
  type Width,
} from '@hyve/core';

export type Step = (cpu: ScriptedVcpu) => void;

export class ScriptedVcpu implements Vcpu {
  readonly index: number;
  halted = false;
  waitingForSipi: boolean;
  /** RFLAGS.IF. */
  interruptsOn = false;
  program: Step[] = [];
  pc = 0;
  bus: VcpuBus | null = null;
  /** Last value read. */
  acc = 0;
  /** What happened, oldest first: `irq 0x30`, `nmi`, `init`, `sipi 0x9f`. */
  readonly log: string[] = [];
  /** Called for each interrupt; by default nothing. */
  handler: (vector: number, cpu: ScriptedVcpu) => void = () => {};
  nmiHandler: (cpu: ScriptedVcpu) => void = () => {};
  nmiBlocked = false;
  nsPerStep = 1000;
  /** Moves the clock in real-time tests. */
  onTime: (ns: number) => void = () => {};
  readonly budgets: number[] = [];
  runs = 0;
  /** Set by a step to leave run(). */
  private leave: ExitReason | -1 = -1;
  private readonly exit: VmExit = { reason: Exit.Budget, detail: '' };
  private readonly msr: MsrValue = { lo: 0, hi: 0 };
  private kicked = false;
  private pending = -1;
  private window = false;
  private nmiPending = false;
  private count = 0;
  private inRun = false;

  constructor(index: number, program: Step[] = []) {
    this.index = index;
    this.waitingForSipi = index !== 0;
    this.program = program;
  }

  run(budgetNs: number): VmExit {
    if (this.inRun) throw new Error('run() inside run()');
    if (!(budgetNs > 0)) throw new Error(`budget of ${budgetNs} ns`);
    if (this.waitingForSipi) throw new Error(`vCPU ${this.index} waits for SIPI and was run`);
    this.inRun = true;
    this.runs++;
    this.budgets.push(budgetNs);
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
      if (this.kicked) {
        this.kicked = false;
        return Exit.Kicked;
      }
      if (this.nmiPending && !this.nmiBlocked) {
        this.nmiPending = false;
        this.halted = false;
        this.log.push('nmi');
        this.nmiHandler(this);
        continue;
      }
      if (this.pending >= 0) {
        const v = this.pending;
        this.pending = -1;
        this.halted = false;
        this.log.push(`irq 0x${v.toString(16)}`);
        this.interruptsOn = false;
        this.handler(v, this);
        this.interruptsOn = true; // IRET
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
      step?.(this); // past the end: spins
    }
  }

  stopWith(reason: ExitReason, detail: string = ''): void {
    this.leave = reason;
    this.exit.detail = detail;
  }

  read(addr: number, width: Width = 4): number {
    const v = this.vbus().mmioRead(addr, width);
    if (!Number.isInteger(v) || v < 0 || v >= 2 ** (8 * width)) throw new Error(`mmioRead gave ${v}`);
    this.acc = v;
    return v;
  }
  write(addr: number, value: number): void {
    this.vbus().mmioWrite(addr, 4, value);
  }
  out(port: number, value: number): void {
    this.vbus().ioWrite(port, 1, value);
  }
  /** RDMSR, or null for #GP. */
  rdmsr(index: number): { lo: number; hi: number } | null {
    return this.vbus().rdmsr(index, this.msr) ? { ...this.msr } : null;
  }
  wrmsr(index: number, lo: number, hi: number = 0): boolean {
    return this.vbus().wrmsr(index, lo, hi);
  }
  private vbus(): VcpuBus {
    if (this.bus === null) throw new Error('no bus');
    return this.bus;
  }

  kick(): void {
    this.kicked = true;
  }
  canInject(): boolean {
    return this.interruptsOn && this.pending < 0 && !this.waitingForSipi;
  }
  inject(vector: number): boolean {
    if (!this.canInject()) return false;
    if (!Number.isInteger(vector) || vector < 0 || vector > 255) throw new Error(`inject(${vector})`);
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
    this.halted = false;
    this.interruptsOn = false;
    this.pending = -1;
    this.waitingForSipi = this.index !== 0;
    this.pc = 0;
  }
  startup(vector: number): void {
    if (!this.waitingForSipi) return;
    this.log.push(`sipi 0x${vector.toString(16)}`);
    this.waitingForSipi = false;
    this.pc = 0;
  }
  reset(): void {
    this.halted = false;
    this.interruptsOn = false;
    this.pending = -1;
    this.nmiPending = false;
    this.waitingForSipi = this.index !== 0;
    this.pc = 0;
    this.count = 0;
  }
  retired(): number {
    return this.count;
  }
  getState(): VcpuStateV1 {
    throw new Error('not scripted');
  }
  setState(): void {
    throw new Error('not scripted');
  }
}

/** Steps. */
export const hlt: Step = (c) => {
  c.halted = true;
};
export const sti: Step = (c) => {
  c.interruptsOn = true;
};
export const cli: Step = (c) => {
  c.interruptsOn = false;
};
export const nop: Step = () => {};
export const pause: Step = (c) => c.stopWith(Exit.Pause);
export const jump =
  (to: number): Step =>
  (c) => {
    c.pc = to;
  };
export const store =
  (addr: number, value: number): Step =>
  (c) =>
    c.write(addr, value);
