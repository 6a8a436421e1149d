// A thread that runs one vCPU: its local APIC, MSRs and timers are here, devices are on thread 0.
import {
  type CpuidEntry,
  type Hypervisor,
  HyveError,
  type Logger,
  TimerQueue,
  type Vcpu,
  type VcpuStateV1,
  type Vm,
  type VmShare,
} from '@hyve/core';
import { ApicBus } from '../lapic/apic-bus.ts';
import { LocalApic, type LocalApicStateV1, type X2ApicSupport } from '../lapic/lapic.ts';
import { MsrPolicy, type MsrPolicyStateV1 } from '../msr.ts';
import { type Outcome, RunLoop } from '../run-loop.ts';
import { vcpuBus } from '../vcpu-bus.ts';
import { type Orders, Switchboard } from './switchboard.ts';

/** What a thread is told to run: data that can be posted. */
export interface VcpuPlan {
  /** The VM. */
  readonly share: VmShare;
  /** vCPU, 1 or more. */
  readonly index: number;
  /** From {@link Switchboard.allocate}. */
  readonly words: SharedArrayBuffer;
  /** The vCPU's CPUID table. */
  readonly cpuid: readonly CpuidEntry[];
  /** APIC ids of all vCPUs. */
  readonly apicIds: readonly number[];
  /** See LocalApicOptions. */
  readonly x2apic: X2ApicSupport;
  /** Whether the local APIC starts as firmware leaves it. */
  readonly virtualWire: boolean;
  /** Physical address bits. */
  readonly physBits: number;
  /** TSC frequency, Hz. */
  readonly tscHz: number;
  /** `performance.timeOrigin` of thread 0, ms. */
  readonly timeOrigin: number;
  /** When guest time was 0, by thread 0's `performance.now()`, ms. */
  readonly startMs: number;
  /** See MsrPolicyOptions. */
  readonly vendor: 'amd' | 'intel';
  /** See MsrPolicyOptions. */
  readonly ignoreUnknownMsrs: boolean;
  /** There are more vCPUs than the host has processors: a vCPU that spins gives way. */
  readonly crowded: boolean;
}

/**
 * How a thread's run ended: what the machine ends with, or by thread 0's order: `left` for good, `paused` until it runs
 * again.
 */
export type ThreadEnd = Outcome | 'left' | 'paused';

/** One processor at rest. */
export interface ProcessorState {
  /** The vCPU. */
  readonly vcpu: VcpuStateV1;
  /** Its local APIC. */
  readonly lapic: LocalApicStateV1;
  /** Its MSRs. */
  readonly msrs: MsrPolicyStateV1;
}

/** @internal The platform's monotonic clock. */
interface Performance {
  readonly timeOrigin: number;
  now(): number;
}
const platform = globalThis as unknown as { performance: Performance };

/**
 * Milliseconds on a scale that is the same in all threads of the process: `performance.now()` of the thread whose
 * `timeOrigin` is given. Exact where threads have the same origin (Node); elsewhere to some microseconds.
 */
export function sharedNow(timeOrigin: number): () => number {
  const p = platform.performance;
  const shift = p.timeOrigin - timeOrigin;
  return shift === 0 ? () => p.now() : () => p.now() + shift;
}

/** How long a spinning vCPU gives way, ms. */
const PAUSE_MS = 0.02;
/** Longest sleep without a timer, ms: what wakes it may have died. */
const LONG_MS = 1000;

/** Runs one vCPU until the machine ends. Blocks the thread for all that time. */
export class VcpuThread {
  private readonly vm: Vm;
  private readonly vcpu: Vcpu;
  private readonly board: Switchboard;
  private readonly loop: RunLoop;
  private readonly clock: TimerQueue;
  private readonly orders: Orders = { leave: false, pause: false };
  private readonly lapic: LocalApic;
  private readonly msrs: MsrPolicy;
  private readonly virtualWire: boolean;
  private startMs: number;

  /** @throws HyveError `VM_SHARE` unless the engine can run vCPUs on threads of their own */
  constructor(plan: VcpuPlan, engine: Hypervisor, log: Logger) {
    const now = sharedNow(plan.timeOrigin);
    this.startMs = plan.startMs;
    this.virtualWire = plan.virtualWire;
    const clock = new TimerQueue(() => (now() - this.startMs) * 1e6);
    this.clock = clock;
    if (engine.attach === undefined)
      throw new HyveError('VM_SHARE', `engine ${engine.name} runs all vCPUs on one thread`);
    // The bus is needed to make the vCPU, and the vCPU to make what the bus leads to.
    let vcpu: (Vcpu & { tscNow?(): number }) | null = null;
    let vm: Vm | null = null;
    const board = new Switchboard(plan.words, plan.index, (i) => vm?.kick?.(i));
    this.board = board;
    const apics = new ApicBus();
    const tscPerNs = plan.tscHz / 1e9;
    const tscNow = (): number => vcpu?.tscNow?.() ?? Math.floor(clock.now() * tscPerNs);
    for (let i = 0; i < plan.index; i++) apics.attachRemote(board.target(i));
    const lapic = new LocalApic({
      bus: apics,
      index: plan.index,
      id: plan.apicIds[plan.index] as number,
      clock,
      tscHz: plan.tscHz,
      x2apic: plan.x2apic,
      physBits: plan.physBits,
      tsc: { read: tscNow, nsAt: (t) => clock.now() + (t - tscNow()) / tscPerNs },
      onRouting: (r) => board.publishRouting(r),
      onPriority: (p) => board.publishPriority(p),
    });
    for (let i = plan.index + 1; i < plan.apicIds.length; i++) apics.attachRemote(board.target(i));
    apics.addEoiListener({ eoi: (v) => board.sendEoi(v) });
    if (plan.virtualWire) lapic.enterVirtualWire();
    const msrs = new MsrPolicy({
      lapic,
      vendor: plan.vendor,
      tscHz: plan.tscHz,
      physBits: plan.physBits,
      ignoreUnknown: plan.ignoreUnknownMsrs,
      log,
    });
    // While a device access waits for thread 0, nobody must wait for this vCPU.
    const parked = <T>(access: () => T): T => {
      vcpu?.park?.();
      try {
        return access();
      } finally {
        vcpu?.unpark?.();
      }
    };
    const pio = {
      read: (a: number, w: 1 | 2 | 4) => parked(() => board.ioRead(a, w)),
      write: (a: number, w: 1 | 2 | 4, v: number) => parked(() => board.ioWrite(a, w, v)),
    };
    const mmio = {
      read: (a: number, w: 1 | 2 | 4) => parked(() => board.mmioRead(a, w)),
      write: (a: number, w: 1 | 2 | 4, v: number) => parked(() => board.mmioWrite(a, w, v)),
    };
    vm = engine.attach(plan.share, plan.index, {
      bus: vcpuBus({ pio, mmio, lapic, msrs, ferr: () => board.sendFerr() }),
      cpuid: plan.cpuid,
      clock,
      tscHz: plan.tscHz,
      exitOnPause: plan.crowded,
    });
    this.vm = vm;
    vcpu = vm.vcpus[0] as Vcpu;
    this.vcpu = vcpu;
    this.lapic = lapic;
    this.msrs = msrs;
    this.loop = new RunLoop({
      vcpus: vm.vcpus,
      apics,
      clock,
      pic: {
        get hasInterrupt() {
          return board.lint(0);
        },
        acknowledge: () => board.acknowledgePic(),
      },
      poll: () => board.take(lapic, this.orders, null),
      peersStuck: () => false,
      onPause: () => board.sleep(PAUSE_MS),
      log,
    });
  }

  /** Runs until the machine ends, or thread 0 orders it. */
  run(): ThreadEnd {
    for (;;) {
      const r = this.loop.runSlice();
      if (this.orders.leave || this.board.closed) return 'left';
      if (this.orders.pause) {
        this.orders.pause = false;
        return 'paused';
      }
      switch (r.kind) {
        case 'ended':
          return this.explain(r.outcome as Outcome);
        case 'idle':
          this.idle(r.idleUntilNs);
          break;
        default:
          break;
      }
    }
  }

  /** The processor's state; while it does not run. */
  save(): ProcessorState {
    return { vcpu: this.vcpu.getState(), lapic: this.lapic.save(), msrs: this.msrs.save() };
  }

  /** Restores {@link VcpuThread.save}. @throws HyveError `STATE_VERSION`, `STATE_FORMAT`, `VCPU_STATE` */
  load(s: ProcessorState): void {
    this.vcpu.setState(s.vcpu);
    this.msrs.load(s.msrs);
    this.lapic.load(s.lapic);
    this.loop.restart();
  }

  /** Power-on reset. */
  reset(): void {
    this.vcpu.reset();
    this.msrs.reset();
    this.lapic.reset();
    if (this.virtualWire) this.lapic.enterVirtualWire();
    this.loop.restart();
  }

  /** Guest time goes on: `startMs` as in the plan. */
  timeFrom(startMs: number): void {
    this.startMs = startMs;
  }

  private idle(until: number): void {
    this.board.publishStuck(this.loop.stuck);
    const ms = (until - this.clock.now()) / 1e6;
    if (ms > 0) this.board.sleep(Math.min(ms, LONG_MS));
    this.board.publishStuck(false);
  }

  private explain(o: Outcome): Outcome {
    if (o.kind !== 'triple-fault' || o.detail !== '') return o;
    const { rip, segments } = this.vcpu.getState();
    return { ...o, detail: `vCPU ${o.vcpu} at ${segments[1]?.selector.toString(16)}:${rip.toString(16)}` };
  }

  /** Counters of this thread's part of the engine and of its loop. */
  counters(): Readonly<Record<string, number>> {
    return {
      ...this.vm.counters(),
      ...this.loop.counters(),
      deviceAccesses: this.board.accesses,
      deviceWaits: this.board.accessSleeps,
    };
  }
}
