// vCPUs on threads of their own (core's VcpuThreads) and doorbells. The library's threads run the guest; what leaves it comes
// here through one wake-up of the event loop for however many exits there are, and is answered on this thread.
import { availableParallelism } from 'node:os';
import type { DoorbellHost, PhysAddr, VcpuThreads, VmExit, Width } from '@hyve/core';
import { BELLS_FROM, MOST_BELLS } from './bits.ts';
import type { Native, VmHandle } from './native.ts';

/** What KvmThreads asks of a vCPU. */
export interface ThreadedVcpu {
  readonly index: number;
  /** Answers what its thread came back with; null, or what ends its run. `going`: it goes on at once. */
  answer(going: boolean): VmExit | null;
  /** Finishes the instruction that was answered, on this thread. */
  settle(): VmExit | null;
  startThread(): void;
  resume(): void;
}

/** How long to look for the next exit before the event loop gets its turn, ns. A wake-up costs more. */
const LOOK_NS = 15_000;
/** How many exits in a row before the event loop gets its turn anyhow. */
const IN_A_ROW = 256;
const STOP_NS = 1e9;

/** One VM's doorbells: ioeventfd. */
export class KvmDoorbells implements DoorbellHost {
  private readonly native: Native;
  private readonly vm: VmHandle;
  private readonly rings: ((() => void) | null)[] = [];

  constructor(native: Native, vm: VmHandle) {
    this.native = native;
    this.vm = vm;
  }

  add(
    space: 'port' | 'memory',
    addr: PhysAddr,
    width: Width,
    value: number | null,
    ring: () => void,
  ): (() => void) | null {
    let n = this.rings.indexOf(null);
    if (n < 0) n = this.rings.length;
    if (n >= MOST_BELLS) return null;
    if (this.native.addBell(this.vm, n, space === 'port', addr, width, value === null, value ?? 0) < 0) return null;
    this.rings[n] = ring;
    return () => {
      if (this.rings[n] !== ring) return;
      this.rings[n] = null;
      this.native.removeBell(this.vm, n);
    };
  }

  /** @internal */
  ring(n: number): void {
    this.rings[n]?.();
  }
}

/** One VM's threads. */
export class KvmThreads implements VcpuThreads {
  private readonly native: Native;
  private readonly vm: VmHandle;
  private readonly vcpus: readonly ThreadedVcpu[];
  private readonly byId: ReadonlyMap<number, ThreadedVcpu>;
  private readonly bells: KvmDoorbells;
  private readonly lookNs: number;
  private onExit: ((vcpu: number, exit: VmExit) => void) | null = null;
  private running = false;
  private open = true;
  /** The one whose exit is being answered: it goes on when that is done. */
  private answering: ThreadedVcpu | null = null;
  /** Times that the event loop was woken, and exits of doorbells. */
  wakeUps = 0;
  rung = 0;

  constructor(native: Native, vm: VmHandle, vcpus: ReadonlyMap<number, ThreadedVcpu>, bells: KvmDoorbells) {
    this.native = native;
    this.vm = vm;
    this.byId = vcpus;
    this.vcpus = [...vcpus.values()];
    this.bells = bells;
    // Looking takes a processor: there must be one that no vCPU wants.
    this.lookNs = availableParallelism() > this.vcpus.length ? LOOK_NS : 0;
  }

  start(onExit: (vcpu: number, exit: VmExit) => void): void {
    if (this.onExit !== null || !this.open) return;
    this.onExit = onExit;
    this.native.listen(this.vm, () => {
      this.wakeUps++;
      this.fetch();
    });
    for (const v of this.vcpus) v.startThread();
    this.resume();
  }

  resume(): void {
    if (this.onExit === null || this.running || !this.open) return;
    this.running = true;
    for (const v of this.vcpus) if (v !== this.answering) v.resume();
  }

  pause(): boolean {
    if (!this.running || !this.open) return true;
    this.running = false;
    const stopped = this.native.stopThreads(this.vm, STOP_NS) === 0;
    // What came out at the same time is answered now, so that states are between two instructions.
    for (let n = this.native.next(this.vm, 0); n >= 0 && this.open; n = this.native.next(this.vm, 0)) this.take(n);
    return stopped;
  }

  /** @internal No call may come any more. */
  close(): void {
    this.open = false;
  }

  private fetch(): void {
    for (let i = 0; i < IN_A_ROW; i++) {
      if (!this.open) return;
      const n = this.native.next(this.vm, this.lookNs);
      if (n < 0) return;
      this.take(n);
    }
    setImmediate(() => this.fetch());
  }

  private take(n: number): void {
    if (n >= BELLS_FROM) {
      this.rung++;
      this.bells.ring(n - BELLS_FROM);
      return;
    }
    const v = this.byId.get(n);
    if (v === undefined) return;
    const outer = this.answering;
    this.answering = v;
    const end = v.answer(this.running) ?? (this.running ? null : v.settle());
    this.answering = outer;
    if (!this.open) return;
    if (end !== null) this.onExit?.(v.index, end);
    else if (this.running) v.resume();
  }
}
