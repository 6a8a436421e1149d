// The run loop of a machine whose engine runs the vCPUs itself, on threads of its own (core's VcpuThreads): timers fire here,
// the host's other work goes on, and what ends a vCPU's run ends the machine. RunLoop's counterpart, with its face.
import { Exit, HyveError, type Logger, silentLogger, type Vcpu, type VcpuThreads, type VmExit } from '@hyve/core';
import type { HostScheduler, Outcome, OutcomeKind, RunClock, SliceResult } from './run-loop.ts';

/** Options of {@link EngineLoop}; as in RunLoopOptions. */
export interface EngineLoopOptions {
  /** The VM's vCPUs, for a look at those that sleep. */
  readonly vcpus: readonly Vcpu[];
  /** Their threads. */
  readonly threads: VcpuThreads;
  /** Guest time. */
  readonly clock: RunClock;
  /** Needed for {@link EngineLoop.run}. */
  readonly host?: HostScheduler;
  /** Whether a halted guest with interrupts off may still get an NMI. Default: never. */
  readonly nmiPossible?: () => boolean;
  /** Called on a debug exit; usually pauses the loop. Without it a debug exit is an error. */
  readonly onDebug?: (vcpu: number) => void;
  /** Default silent. */
  readonly log?: Logger;
}

/** How long nothing happens before somebody looks whether anything can, ns; doubles up to the second. */
const QUIET_NS = 100e6;
const QUIET_MOST_NS = 3.2e9;

/**
 * Runs a VM whose vCPUs have threads of the engine's. Their device accesses come between the calls of this loop, from the
 * host's event loop.
 *
 * Not modelled: virtual time.
 */
export class EngineLoop {
  private readonly vcpus: readonly Vcpu[];
  private readonly threads: VcpuThreads;
  private readonly clock: RunClock;
  private readonly host: HostScheduler | null;
  private readonly nmiPossible: () => boolean;
  private readonly onDebug: ((vcpu: number) => void) | null;
  private readonly log: Logger;
  private readonly result: { kind: SliceResult['kind']; idleUntilNs: number; outcome: Outcome | null };
  private readonly signal: { woken: boolean; onWake: (() => void) | null };
  private outcome: Outcome | null = null;
  private started = false;
  private going = false;
  private pausedFlag = false;
  private inRun = false;
  private quietNs = QUIET_NS;
  private lookAt = 0;
  private nWakes = 0;
  private nSleeps = 0;
  private sleptNs = 0;
  private nTimers = 0;
  private nLooks = 0;

  constructor(o: EngineLoopOptions) {
    this.vcpus = o.vcpus;
    this.threads = o.threads;
    this.clock = o.clock;
    this.host = o.host ?? null;
    this.nmiPossible = o.nmiPossible ?? (() => false);
    this.onDebug = o.onDebug ?? null;
    this.log = o.log ?? silentLogger;
    this.result = { kind: 'idle', idleUntilNs: 0, outcome: null };
    this.signal = { woken: false, onWake: null };
    o.clock.onEarlier = () => this.wake();
  }

  /** Ends a sleep. */
  wake(): void {
    this.nWakes++;
    this.signal.woken = true;
    const f = this.signal.onWake;
    if (f === null) return;
    this.signal.onWake = null;
    f();
  }

  /** Ends the run: the guest asked for a reset. */
  requestReset(detail: string = ''): void {
    this.end('reset', -1, detail);
  }

  /** Ends the run: the guest switched the power off. */
  requestPoweroff(detail: string = ''): void {
    this.end('poweroff', -1, detail);
  }

  /** Ends the run: the guest stopped for good. */
  requestHalt(detail: string = ''): void {
    this.end('halt', -1, detail);
  }

  /** Ends the run: something in the machine cannot go on. */
  fail(detail: string): void {
    this.end('error', -1, detail);
  }

  /** Ends the run because the host wants it to end. */
  stop(detail: string = ''): void {
    this.end('stopped', -1, detail);
  }

  private end(kind: OutcomeKind, vcpu: number, detail: string): void {
    if (this.outcome === null) this.outcome = { kind, vcpu, detail };
    this.wake();
  }

  /** How the run ended, or null while it goes on. */
  get ended(): Outcome | null {
    return this.outcome;
  }

  /** Makes another run possible after an outcome, once the owner has reset vCPUs and devices. */
  restart(): void {
    this.outcome = null;
  }

  /** Stops vCPUs and timers before it returns: states can be read then. */
  pause(): void {
    this.pausedFlag = true;
    this.halt();
    this.wake();
  }

  /** Goes on after {@link EngineLoop.pause}. */
  resume(): void {
    this.pausedFlag = false;
    this.wake();
  }

  /** Whether it is paused. */
  get paused(): boolean {
    return this.pausedFlag;
  }

  /** Virtual time's; without effect here. */
  hold(_when: 'now' | 'after-this-turn' = 'now'): void {}

  /** Virtual time's; without effect here. */
  release(): void {}

  /** Counters by name since construction. */
  counters(): Readonly<Record<string, number>> {
    return {
      wakes: this.nWakes,
      sleeps: this.nSleeps,
      sleptNs: this.sleptNs,
      timersFired: this.nTimers,
      looksAtSleepers: this.nLooks,
    };
  }

  private go(): void {
    if (this.going) return;
    this.going = true;
    this.lookAt = this.clock.now() + this.quietNs;
    if (this.started) this.threads.resume();
    else {
      this.started = true;
      this.threads.start((vcpu, exit) => this.exited(vcpu, exit));
    }
  }

  private halt(): void {
    if (!this.going) return;
    this.going = false;
    if (!this.threads.pause()) this.log.warn('a vCPU does not come out of the kernel');
  }

  private exited(vcpu: number, exit: VmExit): void {
    switch (exit.reason) {
      case Exit.Shutdown:
        this.end('triple-fault', vcpu, '');
        break;
      case Exit.Debug:
        if (this.onDebug !== null) this.onDebug(vcpu);
        else this.end('error', vcpu, 'debug exit that nobody asked for');
        break;
      default:
        this.end('error', vcpu, exit.detail);
    }
  }

  /** Fires due timers, with the vCPUs under way: never `busy`. Synchronous; never throws. */
  runSlice(): SliceResult {
    if (this.outcome !== null) return this.give('ended', 0);
    if (this.pausedFlag) return this.give('paused', 0);
    const { clock } = this;
    try {
      this.go();
      for (let i = 0; i < 4 && clock.nextDeadline() <= clock.now(); i++) this.nTimers += clock.runDue();
      if (clock.now() >= this.lookAt) this.look();
    } catch (e) {
      const text = e instanceof Error ? e.message : String(e);
      this.log.warn(text);
      this.end('error', -1, text);
    }
    if (this.outcome !== null) return this.give('ended', 0);
    if (this.pausedFlag) return this.give('paused', 0);
    return this.give('idle', Math.min(clock.nextDeadline(), this.lookAt));
  }

  /**
   * All vCPUs asleep with interrupts off never wake: the kernel does not say so. Each look stops them for a moment, so that
   * it comes more and more seldom.
   */
  private look(): void {
    this.nLooks++;
    this.quietNs = Math.min(2 * this.quietNs, QUIET_MOST_NS);
    this.halt();
    const stuck = !this.nmiPossible() && this.vcpus.every((v) => v.waitingForSipi || (v.halted && !interruptible(v)));
    if (stuck) this.end('halt', -1, 'all vCPUs halted with interrupts off');
    else this.go();
  }

  private give(kind: SliceResult['kind'], idleUntilNs: number): SliceResult {
    const r = this.result;
    r.kind = kind;
    r.idleUntilNs = idleUntilNs;
    r.outcome = this.outcome;
    return r;
  }

  /** Runs until there is an outcome. @throws HyveError `RUN_LOOP` without a host scheduler or when it runs already */
  async run(): Promise<Outcome> {
    const { host } = this;
    if (host === null) throw new HyveError('RUN_LOOP', 'run() needs a host scheduler');
    if (this.inRun) throw new HyveError('RUN_LOOP', 'run() is under way already');
    this.inRun = true;
    try {
      for (;;) {
        this.signal.woken = false;
        const r = this.runSlice();
        if (r.kind === 'ended') return r.outcome as Outcome;
        const before = this.clock.now();
        const ns = r.kind === 'paused' ? Number.POSITIVE_INFINITY : r.idleUntilNs - before;
        if (ns <= 0) {
          await host.yieldToHost();
          continue;
        }
        this.nSleeps++;
        await host.sleep(ns, this.signal);
        this.signal.onWake = null;
        this.sleptNs += this.clock.now() - before;
      }
    } finally {
      this.halt();
      this.inRun = false;
    }
  }
}

/** IF. */
function interruptible(v: Vcpu): boolean {
  return (v.getState().rflags & 0x200n) !== 0n;
}
