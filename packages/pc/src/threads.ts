// vCPUs on threads of their own, as thread 0 sees them: starting, serving, ending. The other side is vcpu-worker.ts.
import { HyveError, type Logger, type VcpuStateV1 } from '@hyve/core';
import type { TranslatorThread } from '@hyve/cpu/translator';
import type { HostScheduler, MsrPolicyStateV1, Outcome, RunLoop, WakeSignal } from '@hyve/vmm';
import type { LocalApic, LocalApicStateV1 } from '@hyve/vmm/lapic';
import type { AccessTarget, Orders, ProcessorState, Switchboard, VcpuPlan } from '@hyve/vmm/threads';

/** A thread that runs `serveVcpu` of `@hyve/pc/vcpu-worker`. */
export interface VcpuWorker {
  /** Sends it a message (structured clone). */
  post(message: unknown): void;
  /** Set by the board: gets its messages. */
  onMessage: ((message: unknown) => void) | null;
  /** Set by the board: it has ended or failed by itself. */
  onDeath: ((reason: string) => void) | null;
  /** Ends the thread, whatever it does. */
  close(): Promise<void>;
}

/** Where threads come from; a host that has any gives it to the board. */
export interface ThreadHost {
  /** Threads that can run at the same time, this one included. */
  readonly cores: number;
  /** Whether threads see each other's loads and stores in x86's order, as on x86 hosts; else `auto` does not use them. */
  readonly x86Order: boolean;
  /** A new thread. */
  start(name: string): VcpuWorker;
  /** A new thread that runs `serveTranslator` of `@hyve/cpu`; absent: the software CPU translates where it runs. */
  readonly translator?: () => TranslatorThread;
  /** {@link ThreadHost.translator} has translations of an earlier run of this guest, and is wanted from the start. */
  readonly translatorAtOnce?: boolean;
  /** A new thread that runs `serveAlarm` of `@hyve/pc/alarm-worker`; absent: sleeps of less than a millisecond keep this one busy. */
  readonly alarm?: () => VcpuWorker;
}

/** @internal What a thread is told. */
export type ToWorker =
  | { readonly kind: 'plan'; readonly plan: VcpuPlan }
  | {
      readonly kind: 'go';
      /** See VcpuPlan. */
      readonly startMs: number;
      /** The state to go on with: its own, that after power-on, or another. */
      readonly from: 'here' | 'reset' | ProcessorState;
    };

/** @internal What a thread says. */
export type FromWorker =
  | {
      readonly kind: 'stop';
      /** Null: as ordered. */
      readonly outcome: Outcome | null;
      /** Null: it is over for good. */
      readonly state: ProcessorState | null;
      readonly counters: Readonly<Record<string, number>>;
    }
  | { readonly kind: 'log'; readonly level: 'info' | 'warn'; readonly text: string };

/** How long threads get to stop by themselves, ms. */
const GRACE_MS = 1000;
/** How long until one that does not stop counts as dead, ms. */
const PATIENCE_MS = 20_000;
/** How often thread 0 looks while it waits for that, ms. */
const LOOK_MS = 1;

interface Timers {
  setTimeout(f: () => void, ms: number): unknown;
  clearTimeout(t: unknown): void;
  setInterval(f: () => void, ms: number): unknown;
  clearInterval(t: unknown): void;
}
const timers = globalThis as unknown as Timers;

/** @internal Options of {@link VcpuThreads}. */
export interface VcpuThreadsOptions {
  readonly host: ThreadHost;
  readonly board: Switchboard;
  readonly lapic: LocalApic;
  readonly loop: RunLoop;
  readonly log: Logger;
  readonly devices: AccessTarget;
  readonly plan: (index: number) => VcpuPlan;
  /** VcpuPlan's startMs as of now. */
  readonly startMs: () => number;
}

/** @internal One processor on another thread, at rest: its state can be read and replaced, and goes there with the next resume. */
export class RemoteProcessor {
  private worker: VcpuWorker | null = null;
  private readonly index: number;
  private readonly o: VcpuThreadsOptions;
  private readonly stopped: () => void;
  private state: ProcessorState | null = null;
  private from: 'here' | 'reset' | ProcessorState = 'here';
  /** Whether its thread stands still, or there is none. */
  still = true;
  counters: Readonly<Record<string, number>> = {};

  constructor(index: number, o: VcpuThreadsOptions, stopped: () => void) {
    this.index = index;
    this.o = o;
    this.stopped = stopped;
  }

  /** Starts or goes on. */
  go(): void {
    this.still = false;
    this.announce();
    if (this.worker !== null) {
      this.tell({ kind: 'go', startMs: this.o.startMs(), from: this.from });
      this.from = 'here';
      return;
    }
    const worker = this.o.host.start(`vcpu${this.index}`);
    this.worker = worker;
    worker.onMessage = (m) => this.hear(m as FromWorker);
    worker.onDeath = (reason) => {
      if (this.worker !== worker) return;
      this.worker = null;
      this.o.loop.fail(`vCPU ${this.index}: its thread has ended: ${reason}`);
      this.halted();
    };
    this.tell({ kind: 'plan', plan: { ...this.o.plan(this.index), startMs: this.o.startMs() } });
    this.tell({ kind: 'go', startMs: this.o.startMs(), from: this.from });
    this.from = 'here';
  }

  /** What others may send from now on must find the state that the thread will have. */
  private announce(): void {
    const { board, plan } = this.o;
    if (this.from === 'here') return;
    board.forget(this.index);
    if (this.from === 'reset') {
      const p = plan(this.index);
      board.publishReset(this.index, p.apicIds[this.index] as number, p.x2apic === 'on');
      return;
    }
    const { mode, xapicId, ldr, dfr, svr } = this.from.lapic;
    board.publishRouting(
      { mode, xapicId, ldr, dfr, enabled: mode !== 0 && (svr & 0x100) !== 0, lintOpen: 3 },
      this.index,
    );
  }

  private tell(m: ToWorker): void {
    this.worker?.post(m);
  }

  private hear(m: FromWorker): void {
    if (m.kind === 'log') {
      if (m.level === 'warn') this.o.log.warn(`vCPU ${this.index}: ${m.text}`);
      else this.o.log.info(`vCPU ${this.index}: ${m.text}`);
      return;
    }
    this.counters = m.counters;
    this.state = m.state;
    if (m.outcome !== null) this.o.loop.adopt(m.outcome);
    if (m.state === null) void this.close();
    this.halted();
  }

  private halted(): void {
    this.still = true;
    this.stopped();
    this.o.loop.wake();
  }

  /** Ends the thread. */
  async close(): Promise<void> {
    const w = this.worker;
    this.worker = null;
    this.still = true;
    await w?.close();
  }

  private get current(): ProcessorState {
    const s = typeof this.from === 'object' ? this.from : this.state;
    if (s === null || this.from === 'reset')
      throw new HyveError('STATE_BUSY', `vCPU ${this.index} has no state before it has run`);
    return s;
  }

  /** A part of the state to go on with; loadParts sets all three. */
  private set(part: Partial<ProcessorState>): void {
    this.from = { ...((typeof this.from === 'object' ? this.from : {}) as ProcessorState), ...part };
  }

  /** The three parts as MachineParts wants them. */
  readonly vcpu = {
    getState: (): VcpuStateV1 => this.current.vcpu,
    setState: (vcpu: VcpuStateV1): void => this.set({ vcpu }),
  };
  /** See vcpu. */
  readonly lapic = {
    save: (): LocalApicStateV1 => this.current.lapic,
    load: (lapic: unknown): void => this.set({ lapic: lapic as LocalApicStateV1 }),
  };
  /** See vcpu. */
  readonly msrs = {
    save: (): MsrPolicyStateV1 => this.current.msrs,
    load: (msrs: unknown): void => this.set({ msrs: msrs as MsrPolicyStateV1 }),
  };

  /** Power-on reset. */
  reset(): void {
    this.from = 'reset';
  }
}

/** @internal The threads of vCPUs 1 and up. */
export class VcpuThreads {
  private readonly o: VcpuThreadsOptions;
  private readonly orders: Orders = { leave: false, pause: false };
  /** By index, from vCPU 1 on. */
  readonly processors: readonly RemoteProcessor[];
  private ending: Promise<void> | null = null;
  private whenStill: (() => void) | null = null;

  constructor(o: VcpuThreadsOptions) {
    this.o = o;
    this.processors = Array.from(
      { length: o.board.threads - 1 },
      (_, n) =>
        new RemoteProcessor(n + 1, o, () => {
          if (this.still) this.whenStill?.();
        }),
    );
  }

  private get still(): boolean {
    return this.processors.every((p) => p.still);
  }

  /** Starts them, or lets them go on. They may come up late: what is sent to them waits. */
  go(): void {
    for (const p of this.processors) if (p.still) p.go();
  }

  /** Stops them; resolves when all stand still. @throws HyveError `PC_THREADS` when one does not */
  async pause(): Promise<void> {
    if (this.still) return;
    this.o.board.order('pause');
    await this.standStill(PATIENCE_MS);
    const running = this.processors.findIndex((p) => !p.still);
    if (running >= 0) throw new HyveError('PC_THREADS', `the thread of vCPU ${running + 1} does not stop`);
  }

  /** Resolves when all stand still, or after `ms`. What they want meanwhile they get. */
  private async standStill(ms: number): Promise<void> {
    const look = timers.setInterval(() => this.poll(), LOOK_MS);
    let late: unknown = null;
    try {
      await new Promise<void>((resolve) => {
        this.whenStill = resolve;
        if (this.still) resolve();
        late = timers.setTimeout(resolve, ms);
      });
    } finally {
      this.whenStill = null;
      timers.clearInterval(look);
      timers.clearTimeout(late);
    }
  }

  /** Does what other threads want; the loop calls it before each slice. */
  poll(): void {
    this.o.board.take(this.o.lapic, this.orders, this.o.devices);
  }

  /** Power-on reset of the processors here, and of what was on its way to any. */
  reset(): void {
    this.o.board.forget(0);
    for (const p of this.processors) p.reset();
  }

  /** Ends the threads. */
  end(): Promise<void> {
    this.ending ??= this.endAll();
    return this.ending;
  }

  private async endAll(): Promise<void> {
    this.o.board.order('leave');
    if (!this.still) await this.standStill(GRACE_MS);
    await Promise.all(this.processors.map((p) => p.close()));
  }
}

/** A sleep begins by blocking this long, ms: what other threads want in that time is answered much sooner. */
const DOZE_MS = 0.1;
/** The event loop gets its turn at least this often, ms. */
const DOZING_MS = 1;
const { performance } = globalThis as unknown as { performance: { now(): number } };

/** @internal A scheduler whose sleeps end when other threads want something. */
export function withBell(scheduler: HostScheduler, board: Switchboard, wake: () => void): HostScheduler {
  let lastTurn = 0;
  const yieldToHost = async (): Promise<void> => {
    await scheduler.yieldToHost();
    lastTurn = performance.now();
  };
  return {
    yieldToHost,
    async sleep(ns: number, signal: WakeSignal): Promise<void> {
      if (performance.now() - lastTurn >= DOZING_MS) {
        await yieldToHost();
        if (signal.woken) return;
      }
      board.sleep(Math.min(ns / 1e6, DOZE_MS));
      if (board.pending) return;
      if (ns < DOZING_MS * 1e6) return; // timers of the host are too coarse for the rest
      const quiet = board.onBell(wake);
      try {
        await scheduler.sleep(ns - DOZE_MS * 1e6, signal);
      } finally {
        quiet();
      }
      lastTurn = performance.now();
    },
  };
}
