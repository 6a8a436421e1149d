// vCPUs on threads of their own, as thread 0 sees them: starting, serving, ending. The other side is vcpu-worker.ts.
import type { Logger } from '@hyve/core';
import type { HostScheduler, Outcome, RunLoop, WakeSignal } from '@hyve/vmm';
import type { LocalApic } from '@hyve/vmm/lapic';
import type { AccessTarget, Orders, Switchboard, VcpuPlan } from '@hyve/vmm/threads';

/** A thread that runs {@link serveVcpu} of `@hyve/pc/vcpu-worker`. */
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
  /** A new thread. */
  start(name: string): VcpuWorker;
}

/** @internal What a thread says. */
export type FromWorker =
  | { readonly kind: 'end'; readonly outcome: Outcome | null; readonly counters: Readonly<Record<string, number>> }
  | { readonly kind: 'log'; readonly level: 'info' | 'warn'; readonly text: string };

/** How long threads get to stop by themselves, ms. */
const GRACE_MS = 1000;

interface Timers {
  setTimeout(f: () => void, ms: number): unknown;
  clearTimeout(t: unknown): void;
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
}

/** @internal The threads of vCPUs 1 and up. */
export class VcpuThreads {
  private readonly o: VcpuThreadsOptions;
  private readonly orders: Orders = { leave: false, pause: null };
  private readonly workers: { worker: VcpuWorker; ended: boolean }[] = [];
  private ending: Promise<void> | null = null;
  private allEnded: (() => void) | null = null;
  /** Counters of each thread, once it has ended. */
  readonly counters: Readonly<Record<string, number>>[] = [];

  constructor(o: VcpuThreadsOptions) {
    this.o = o;
  }

  /** Starts them. They may come up late: what is sent to them waits. */
  start(): void {
    for (let i = 1; i < this.o.board.threads; i++) {
      const worker = this.o.host.start(`vcpu${i}`);
      const entry = { worker, ended: false };
      this.workers.push(entry);
      worker.onMessage = (m) => this.hear(i, entry, m as FromWorker);
      worker.onDeath = (reason) => {
        if (entry.ended) return;
        this.done(entry);
        this.o.loop.fail(`vCPU ${i}: its thread has ended: ${reason}`);
        this.o.loop.wake();
      };
      worker.post(this.o.plan(i));
    }
  }

  private hear(i: number, entry: { ended: boolean }, m: FromWorker): void {
    if (m.kind === 'log') {
      if (m.level === 'warn') this.o.log.warn(`vCPU ${i}: ${m.text}`);
      else this.o.log.info(`vCPU ${i}: ${m.text}`);
      return;
    }
    this.counters[i - 1] = m.counters;
    if (m.outcome !== null) {
      this.o.loop.adopt(m.outcome);
      this.o.loop.wake();
    }
    this.done(entry);
  }

  private done(entry: { ended: boolean }): void {
    entry.ended = true;
    if (this.workers.every((w) => w.ended)) this.allEnded?.();
  }

  /** Does what other threads want; the loop calls it before each slice. */
  poll(): void {
    this.o.board.take(this.o.lapic, this.orders, this.o.devices);
  }

  /** Stops and ends them all. */
  end(): Promise<void> {
    this.ending ??= this.endAll();
    return this.ending;
  }

  private async endAll(): Promise<void> {
    this.o.board.order('leave');
    if (!this.workers.every((w) => w.ended))
      await new Promise<void>((resolve) => {
        const t = timers.setTimeout(resolve, GRACE_MS);
        this.allEnded = () => {
          timers.clearTimeout(t);
          resolve();
        };
      });
    for (const w of this.workers) w.ended = true;
    await Promise.all(this.workers.map((w) => w.worker.close()));
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
