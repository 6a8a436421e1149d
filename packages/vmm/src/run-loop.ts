// The run loop: all vCPUs of one VM take turns on one thread; timers fire, interrupts are injected, sleep is exact
// (bhyve: vm_run in vmm.c and the loop in bhyverun.c; the outcomes are bhyve's exit statuses).
import { Exit, HyveError, type Logger, silentLogger, type Vcpu } from '@hyve/core';
import type { ApicBus } from './lapic/apic-bus.ts';
import type { LocalApic } from './lapic/lapic.ts';
import type { InstructionCounter } from './virtual-clock.ts';

/** How a machine's run ended. bhyve's exit status: reset 0, poweroff 1, halt 2, triple-fault 3, error 4. */
export type OutcomeKind = 'reset' | 'poweroff' | 'halt' | 'triple-fault' | 'error' | 'stopped';

/** The end of a run. */
export interface Outcome {
  /** What happened. `stopped`: the host asked for it. */
  readonly kind: OutcomeKind;
  /** The vCPU that was running, or -1. */
  readonly vcpu: number;
  /** For people; empty where the kind says everything. */
  readonly detail: string;
}

/** The 8259 pair as the run loop needs it. */
export interface ExtIntSource {
  /** Whether INTR is asserted. */
  readonly hasInterrupt: boolean;
  /** The interrupt-acknowledge cycle: the vector. */
  acknowledge(): number;
}

/** Guest time as the run loop needs it: a TimerQueue, or a VirtualClock (which has the optional members). */
export interface RunClock {
  /** ns. */
  now(): number;
  /** When the earliest timer is due, or Infinity. */
  nextDeadline(): number;
  /** Fires what is due. */
  runDue(): number;
  /** Set by the run loop: the earliest deadline moved forward. */
  onEarlier: (() => void) | null;
  /** Virtual time only: the vCPU that time comes from. */
  enter?(counter: InstructionCounter): void;
  /** Virtual time only. */
  leave?(): void;
  /** Virtual time only: sleep ends at `ns` at once. */
  skipTo?(ns: number): void;
}

/** A clock that knows when nobody looks at it. */
export interface RestingClock {
  /** Nobody looks for `ns`; gives how long the host is to sleep for that, ns. */
  rest(ns: number): number;
  /** That is over. */
  wake(): void;
}

/** How a sleeping {@link HostScheduler.sleep} hears that it should end. */
export interface WakeSignal {
  /** Whether the sleep should not start, or end. */
  readonly woken: boolean;
  /** Set by `sleep`; called once when it should end early. */
  onWake: (() => void) | null;
}

/** The host's event loop. Sleeps that end early or late are fine; time is read from the clock. */
export interface HostScheduler {
  /** Lets the host's other work run, and resolves soon (setImmediate). */
  yieldToHost(): Promise<void>;
  /** Resolves after about `ns` (Infinity: not by itself), or when the signal's `onWake` is called. */
  sleep(ns: number, signal: WakeSignal): Promise<void>;
}

/** What the host does for a machine beside its guest, such as copies on another thread: whoever began it waits to be told. */
export interface HostWork {
  /** How much is under way; 0 costs nothing. */
  readonly pending: number;
  /** Told once, before the first {@link HostWork.poll}. */
  attach(): void;
  /** Ends what is over. True if there was any: its promises want a turn of the event loop. */
  poll(): boolean;
  /** The guest waits: does some of it, or blocks until some is done, for not much longer than `ns`. */
  help(ns: number): void;
}

/** Options of {@link RunLoop}. */
export interface RunLoopOptions {
  /** The VM's vCPUs. */
  readonly vcpus: readonly Vcpu[];
  /** The fabric that holds their local APICs, one for each vCPU. */
  readonly apics: ApicBus;
  /** Looks what other threads want; called before each slice. May do anything that devices may. */
  readonly poll?: () => void;
  /** With vCPUs on other threads: whether none of those can ever run again by itself. */
  readonly peersStuck?: () => boolean;
  /** A vCPU spins (PAUSE); the slice is over. */
  readonly onPause?: () => void;
  /** Looked after by {@link RunLoop.run}. Without effect in virtual time. */
  readonly work?: HostWork;
  /** Guest time. */
  readonly clock: RunClock;
  /** What is behind it, if it is to be told of sleeps. */
  readonly resting?: RestingClock;
  /** The 8259 pair, if there is one. */
  readonly pic?: ExtIntSource;
  /** Needed for {@link RunLoop.run}. */
  readonly host?: HostScheduler;
  /** Longest slice while one vCPU runs alone, guest ns. Default 1 ms. */
  readonly sliceNs?: number;
  /** Longest slice while several want to run. Default 200 µs. */
  readonly sharedSliceNs?: number;
  /** Whether a halted guest with interrupts off may still get an NMI (a watchdog). Default: never. */
  readonly nmiPossible?: () => boolean;
  /** Called on a debug exit; usually pauses the loop. Without it a debug exit is an error. */
  readonly onDebug?: (vcpu: number) => void;
  /** Default silent. */
  readonly log?: Logger;
}

/** What {@link RunLoop.runSlice} did. The loop's own record, valid until the next call. */
export interface SliceResult {
  /** `busy`: call again; `idle`: nothing to do until `idleUntilNs`; `paused`; `ended`: there is an outcome. */
  readonly kind: 'busy' | 'idle' | 'paused' | 'ended';
  /** For `idle`: clock time, ns; Infinity when only the host can wake the guest. */
  readonly idleUntilNs: number;
  /** For `ended`. */
  readonly outcome: Outcome | null;
}

/** Slices between returns to the host, however short they are. */
const SLICES_PER_YIELD = 64;
/** A slice for a vCPU that jumped the queue because an interrupt came for it. ns */
const URGENT_SLICE_NS = 50_000;
/** How many may jump in a row before somebody takes a plain turn. */
const URGENT_IN_A_ROW = 8;
/** The guest gets at least this much between timers that are always overdue. ns */
const OVERDUE_SLICE_NS = 10_000;
/** Longest slice while the host has work under way that nobody else would look at. ns */
const WORK_SLICE_NS = 50_000;
/** Longest time that a waiting guest's thread gives to that work before the event loop gets a turn. ns */
const WORK_HELP_NS = 500_000;
const SHORTEST_SLICE_NS = 1000;

/**
 * Runs a VM. A machine's owner either calls {@link RunLoop.runSlice} itself, or {@link RunLoop.run} with a
 * {@link HostScheduler}. Devices end the run with {@link RunLoop.requestReset} and the like, from wherever they are.
 *
 * With one thread an interrupt for another vCPU, raised by the one that runs, ends the running slice: the other goes
 * next. Nothing is allocated per slice.
 *
 * vCPUs that run at the same time have a loop each, on threads of their own: see @hyve/vmm/threads.
 *
 * Not modelled: SMM.
 */
export class RunLoop {
  private readonly vcpus: readonly Vcpu[];
  private readonly lapics: readonly LocalApic[];
  /** Index of the first vCPU here among all of the VM. */
  private readonly firstIndex: number;
  private readonly poll: (() => void) | null;
  private readonly work: HostWork | null;
  private readonly peersStuck: (() => boolean) | null;
  private readonly onPause: (() => void) | null;
  private readonly clock: RunClock;
  private readonly resting: RestingClock | null;
  private readonly virtual: boolean;
  private readonly pic: ExtIntSource | null;
  private readonly host: HostScheduler | null;
  private readonly sliceNs: number;
  private readonly sharedSliceNs: number;
  private readonly nmiPossible: () => boolean;
  private readonly onDebug: ((vcpu: number) => void) | null;
  private readonly log: Logger;

  private readonly urgent: Uint8Array;
  private readonly result: { kind: SliceResult['kind']; idleUntilNs: number; outcome: Outcome | null };
  private readonly signal: { woken: boolean; onWake: (() => void) | null };
  private outcome: Outcome | null = null;
  private pausedFlag = false;
  private inRun = false;
  /** vCPU inside run(), or -1. */
  private running = -1;
  private sliceEnd = 0;
  /** vCPU that had the last plain turn. */
  private turn: number;
  private inARow = 0;
  private holds = 0;
  /** Set by pick(). */
  private runnable = 0;
  private urgentPick = false;

  private nSlices = 0;
  private nKicks = 0;
  private nInjected = 0;
  private nExtInts = 0;
  private nNmis = 0;
  private nWindows = 0;
  private nUrgent = 0;
  private nHostYields = 0;
  private nSleeps = 0;
  private sleptNs = 0;
  private nTimers = 0;
  private readonly exits: Float64Array = new Float64Array(8);

  /** @throws HyveError `RUN_LOOP` unless there is one local APIC for each vCPU */
  constructor(o: RunLoopOptions) {
    this.lapics = o.apics.lapics;
    if (o.vcpus.length === 0 || o.vcpus.length !== this.lapics.length)
      throw new HyveError('RUN_LOOP', `${o.vcpus.length} vCPUs with ${this.lapics.length} local APICs`);
    this.vcpus = o.vcpus;
    this.firstIndex = (this.lapics[0] as LocalApic).index;
    this.poll = o.poll ?? null;
    this.work = o.clock.skipTo === undefined ? (o.work ?? null) : null;
    this.work?.attach();
    this.peersStuck = o.peersStuck ?? null;
    this.onPause = o.onPause ?? null;
    this.resting = o.resting ?? null;
    this.clock = o.clock;
    this.virtual = o.clock.skipTo !== undefined;
    this.pic = o.pic ?? null;
    this.host = o.host ?? null;
    this.sliceNs = o.sliceNs ?? 1_000_000;
    this.sharedSliceNs = o.sharedSliceNs ?? 200_000;
    if (!(this.sliceNs > 0) || !(this.sharedSliceNs > 0))
      throw new HyveError('RUN_LOOP', `slices of ${this.sliceNs} and ${this.sharedSliceNs} ns, expected positive`);
    this.nmiPossible = o.nmiPossible ?? (() => false);
    this.onDebug = o.onDebug ?? null;
    this.log = o.log ?? silentLogger;
    this.urgent = new Uint8Array(o.vcpus.length);
    this.turn = o.vcpus.length - 1;
    this.result = { kind: 'busy', idleUntilNs: 0, outcome: null };
    this.signal = { woken: false, onWake: null };
    o.apics.onAttention = (i) => this.attention(i - this.firstIndex);
    o.clock.onEarlier = () => this.earlier();
  }

  // --- What may happen at any time --------------------------------------------------------------------------------

  /** Something for vCPU `i` has arrived. */
  private attention(i: number): void {
    this.urgent[i] = 1;
    this.interrupt();
  }

  /** A timer was set before all others. */
  private earlier(): void {
    if (this.running < 0) this.wake();
    else if (this.clock.nextDeadline() < this.sliceEnd) this.interrupt();
  }

  /** Cuts the running slice short, or ends the sleep. */
  private interrupt(): void {
    if (this.running >= 0) {
      this.nKicks++;
      (this.vcpus[this.running] as Vcpu).kick();
    } else this.wake();
  }

  /** Ends a sleep. Interrupts do this by themselves; call it for anything else the loop should look at. */
  wake(): void {
    this.signal.woken = true;
    const f = this.signal.onWake;
    if (f === null) return;
    this.signal.onWake = null;
    f();
  }

  /** Ends the run: the guest asked for a reset (0xCF9, port 0x92, 8042, triple fault by design). */
  requestReset(detail: string = ''): void {
    this.end('reset', detail);
  }

  /** Ends the run: the guest switched the power off. */
  requestPoweroff(detail: string = ''): void {
    this.end('poweroff', detail);
  }

  /** Ends the run: the guest stopped for good. */
  requestHalt(detail: string = ''): void {
    this.end('halt', detail);
  }

  /** Ends the run: something in the machine cannot go on. */
  fail(detail: string): void {
    this.end('error', detail);
  }

  /** Ends the run because the host wants it to end. */
  stop(detail: string = ''): void {
    this.end('stopped', detail);
  }

  /** The first outcome counts. */
  private end(kind: OutcomeKind, detail: string): void {
    if (this.outcome === null)
      this.outcome = { kind, vcpu: this.running < 0 ? -1 : this.running + this.firstIndex, detail };
    this.interrupt();
  }

  /** How the run ended, or null while it goes on. */
  get ended(): Outcome | null {
    return this.outcome;
  }

  /** Makes another run possible after an outcome, once the owner has reset vCPUs and devices. */
  restart(): void {
    this.outcome = null;
    this.urgent.fill(0);
    this.turn = this.vcpus.length - 1;
    this.inARow = 0;
  }

  /** Stops running vCPUs and timers from the next slice on. */
  pause(): void {
    this.pausedFlag = true;
    this.interrupt();
  }

  /** Goes on after {@link RunLoop.pause}. */
  resume(): void {
    this.pausedFlag = false;
    this.wake();
  }

  /** Whether it is paused. */
  get paused(): boolean {
    return this.pausedFlag;
  }

  /**
   * In virtual time: host work is in flight whose result the guest will see (a disk read). The guest stands still until
   * every hold is released, so that the work takes no guest time and lands at the same instruction in every run.
   * Without effect in real time.
   * @param when `after-this-turn`: the running slice goes on to its end. For work whose moment the guest must not see.
   */
  hold(when: 'now' | 'after-this-turn' = 'now'): void {
    this.holds++;
    if (this.virtual && when === 'now') this.interrupt();
  }

  /** Ends one {@link RunLoop.hold}. */
  release(): void {
    if (this.holds > 0) this.holds--;
    if (this.holds === 0) this.wake();
  }

  /** Counters by name since construction. */
  counters(): Readonly<Record<string, number>> {
    return {
      slices: this.nSlices,
      kicks: this.nKicks,
      injected: this.nInjected,
      extInts: this.nExtInts,
      nmis: this.nNmis,
      irqWindows: this.nWindows,
      urgentTurns: this.nUrgent,
      hostYields: this.nHostYields,
      sleeps: this.nSleeps,
      sleptNs: this.sleptNs,
      timersFired: this.nTimers,
      exitBudget: this.exits[Exit.Budget] as number,
      exitKicked: this.exits[Exit.Kicked] as number,
      exitHalt: this.exits[Exit.Halt] as number,
      exitIrqWindow: this.exits[Exit.IrqWindow] as number,
      exitPause: this.exits[Exit.Pause] as number,
    };
  }

  // --- Slices -----------------------------------------------------------------------------------------------------

  /** Fires due timers and gives one vCPU a turn. Synchronous; never throws. */
  runSlice(): SliceResult {
    if (this.outcome !== null) return this.give('ended', 0);
    if (this.poll !== null) {
      try {
        this.poll();
      } catch (e) {
        this.broken('a device', e);
      }
      if (this.outcome !== null) return this.give('ended', 0);
    }
    if (this.pausedFlag) return this.give('paused', 0);
    if (this.virtual && this.holds > 0) return this.give('idle', Number.POSITIVE_INFINITY);
    const clock = this.clock;
    // A few rounds, for timers that re-arm into the past to catch up; a bound, for those that always do.
    try {
      for (let i = 0; i < 4 && clock.nextDeadline() <= clock.now(); i++) this.nTimers += clock.runDue();
    } catch (e) {
      this.broken('a timer', e);
    }
    if (this.outcome !== null) return this.give('ended', 0);
    if (this.pausedFlag) return this.give('paused', 0);
    const i = this.pick();
    if (i < 0) return this.allIdle();
    const untilTimer = clock.nextDeadline() - clock.now();
    let budget = this.runnable > 1 ? this.sharedSliceNs : this.sliceNs;
    if (this.urgentPick && this.runnable > 1 && budget > URGENT_SLICE_NS) budget = URGENT_SLICE_NS;
    if (this.work !== null && this.work.pending > 0 && budget > WORK_SLICE_NS) budget = WORK_SLICE_NS;
    if (untilTimer <= 0) budget = OVERDUE_SLICE_NS;
    else if (untilTimer < budget) budget = this.virtual ? untilTimer : Math.max(untilTimer, SHORTEST_SLICE_NS);
    try {
      this.step(i, budget);
    } catch (e) {
      this.broken(`vCPU ${i}`, e);
    }
    return this.outcome !== null ? this.give('ended', 0) : this.give('busy', 0);
  }

  private give(kind: SliceResult['kind'], idleUntilNs: number): SliceResult {
    const r = this.result;
    r.kind = kind;
    r.idleUntilNs = idleUntilNs;
    r.outcome = this.outcome;
    return r;
  }

  /** A thrown error is a broken invariant of the host program: the VM stops with it. */
  private broken(where: string, e: unknown): void {
    const vcpu = this.running;
    if (vcpu >= 0) {
      this.running = -1;
      this.clock.leave?.();
    }
    const text = e instanceof Error ? e.message : String(e);
    this.log.warn(`${where}: ${text}`);
    this.endBy(vcpu, 'error', `${where}: ${text}`);
  }

  private extIntFor(i: number): boolean {
    return this.pic !== null && (this.lapics[i] as LocalApic).takesExtInt() && this.pic.hasInterrupt;
  }

  /** Whether a turn of vCPU `i` would do anything. */
  private wantsTurn(i: number): boolean {
    const v = this.vcpus[i] as Vcpu;
    const l = this.lapics[i] as LocalApic;
    if (l.hasEvents) return true;
    if (v.waitingForSipi) return false;
    if (!v.halted) return true;
    return (l.hasInterrupt() || this.extIntFor(i)) && v.canInject();
  }

  /** The vCPU whose turn it is, or -1. Those that something has arrived for come first, within limits. */
  private pick(): number {
    const n = this.vcpus.length;
    let next = -1;
    let urgent = -1;
    this.runnable = 0;
    for (let k = 1; k <= n; k++) {
      let i = this.turn + k;
      if (i >= n) i -= n;
      if (!this.wantsTurn(i)) {
        this.urgent[i] = 0;
        continue;
      }
      this.runnable++;
      if (next < 0) next = i;
      if (urgent < 0 && this.urgent[i] !== 0) urgent = i;
    }
    this.urgentPick = urgent >= 0 && urgent !== next && this.inARow < URGENT_IN_A_ROW;
    if (this.urgentPick) {
      this.inARow++;
      this.nUrgent++;
      return urgent;
    }
    this.inARow = 0;
    if (next >= 0) this.turn = next;
    return next;
  }

  private allIdle(): SliceResult {
    if (this.stuck && (this.peersStuck === null || this.peersStuck())) {
      this.end('halt', 'all vCPUs halted with interrupts off');
      return this.give('ended', 0);
    }
    const at = this.clock.nextDeadline();
    if (this.virtual && at !== Number.POSITIVE_INFINITY) {
      this.sleptNs += Math.max(0, at - this.clock.now());
      this.nSleeps++;
      this.clock.skipTo?.(at);
      return this.give('busy', 0);
    }
    return this.give('idle', at);
  }

  /** Whether no vCPU here can ever run again by itself: each waits for a SIPI that nobody can send, or halted with IF clear. */
  get stuck(): boolean {
    for (let i = 0; i < this.vcpus.length; i++) {
      const v = this.vcpus[i] as Vcpu;
      if (!v.waitingForSipi && (!v.halted || v.canInject())) return false;
    }
    return !this.nmiPossible();
  }

  private step(i: number, budgetNs: number): void {
    const v = this.vcpus[i] as Vcpu;
    const l = this.lapics[i] as LocalApic;
    let budget = budgetNs;
    this.urgent[i] = 0;
    if (l.hasEvents) {
      if (l.takeInit()) v.init();
      const sipi = l.takeSipi();
      if (sipi >= 0 && v.waitingForSipi) v.startup(sipi);
      if (l.takeNmi()) {
        v.injectNmi();
        this.nNmis++;
        // The one behind it can be latched once this one is being handled.
        if (l.hasEvents) {
          this.urgent[i] = 1;
          budget = Math.min(budget, SHORTEST_SLICE_NS);
        }
      }
      if (v.waitingForSipi) return;
    }
    this.deliver(i, v, l);
    this.nSlices++;
    this.sliceEnd = this.clock.now() + budget;
    this.clock.enter?.(v);
    this.running = i;
    const exit = v.run(budget);
    this.running = -1;
    this.clock.leave?.();
    this.exits[exit.reason] = (this.exits[exit.reason] as number) + 1;
    switch (exit.reason) {
      case Exit.Budget:
      case Exit.Kicked:
      case Exit.Halt:
      case Exit.IrqWindow:
        return;
      case Exit.Pause: // the turn is over; whoever it waits for comes first
        this.onPause?.();
        return;
      case Exit.Shutdown:
        this.endBy(i, 'triple-fault', '');
        return;
      case Exit.Debug:
        if (this.onDebug !== null) this.onDebug(i);
        else this.endBy(i, 'error', 'debug exit that nobody asked for');
        return;
      default:
        this.endBy(i, 'error', exit.detail);
    }
  }

  private endBy(slot: number, kind: OutcomeKind, detail: string): void {
    if (this.outcome === null) this.outcome = { kind, vcpu: slot < 0 ? slot : slot + this.firstIndex, detail };
  }

  /** Ends the run as a loop on another thread has ended. */
  adopt(outcome: Outcome): void {
    if (this.outcome === null) this.outcome = outcome;
    this.interrupt();
  }

  /** Injects the highest interrupt, the local APIC's before the 8259's, or asks to hear when that is possible. */
  private deliver(i: number, v: Vcpu, l: LocalApic): void {
    const apic = l.hasInterrupt();
    if (!apic && !this.extIntFor(i)) return;
    if (!v.canInject()) {
      this.nWindows++;
      v.requestIrqWindow();
      return;
    }
    if (apic) {
      v.inject(l.acknowledge());
      this.nInjected++;
    } else {
      const pic = this.pic as ExtIntSource;
      v.inject(pic.acknowledge());
      l.extIntTaken(pic.hasInterrupt);
      this.nExtInts++;
    }
    if (l.hasInterrupt() || this.extIntFor(i)) {
      this.nWindows++;
      v.requestIrqWindow();
    }
  }

  // --- Driving itself ---------------------------------------------------------------------------------------------

  /**
   * Runs until there is an outcome, returning to the host's event loop about every slice and sleeping while the guest
   * does. @throws HyveError `RUN_LOOP` without a host scheduler or when it runs already
   */
  async run(): Promise<Outcome> {
    const host = this.host;
    if (host === null) throw new HyveError('RUN_LOOP', 'run() needs a host scheduler');
    if (this.inRun) throw new HyveError('RUN_LOOP', 'run() is under way already');
    this.inRun = true;
    try {
      for (;;) {
        this.signal.woken = false;
        const start = this.clock.now();
        let r = this.runSlice();
        for (
          let n = 1;
          r.kind === 'busy' && n < SLICES_PER_YIELD && this.clock.now() - start < this.sliceNs && !this.workEnded();
          n++
        )
          r = this.runSlice();
        switch (r.kind) {
          case 'ended':
            return r.outcome as Outcome;
          case 'busy':
            this.nHostYields++;
            await host.yieldToHost();
            break;
          case 'paused':
            await this.wait(host, Number.POSITIVE_INFINITY);
            break;
          case 'idle':
            await this.wait(host, r.idleUntilNs);
            break;
        }
      }
    } finally {
      this.inRun = false;
    }
  }

  private workEnded(): boolean {
    return this.work !== null && this.work.pending > 0 && this.work.poll();
  }

  /** Until a timer or somebody wakes the guest; the host's work first, for that is what it most likely waits for. */
  private wait(host: HostScheduler, until: number): Promise<void> {
    const work = this.work;
    if (work === null || work.pending === 0) return this.sleep(host, until);
    const end = Math.min(until, this.clock.now() + WORK_HELP_NS);
    this.resting?.rest(end - this.clock.now());
    for (let left = end - this.clock.now(); left > 0 && !work.poll(); left = end - this.clock.now()) work.help(left);
    this.resting?.wake();
    this.nHostYields++;
    return host.yieldToHost();
  }

  private async sleep(host: HostScheduler, until: number): Promise<void> {
    // A wake during the last slice was for that slice: it has seen whatever there was to see.
    this.signal.woken = false;
    const before = this.clock.now();
    const ns = until - before;
    if (ns <= 0) {
      // A timer that is always overdue and wakes nobody must not starve the host.
      this.nHostYields++;
      await host.yieldToHost();
      return;
    }
    this.nSleeps++;
    await host.sleep(this.resting === null ? ns : this.resting.rest(ns), this.signal);
    this.resting?.wake();
    this.signal.onWake = null;
    this.sleptNs += this.clock.now() - before;
  }
}
