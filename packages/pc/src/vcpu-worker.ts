// What a vCPU's thread runs. The host's part is to make the thread and to carry messages: see ThreadHost.
import { type Hypervisor, HyveError, type Logger } from '@hyve/core';
import { SoftCpu } from '@hyve/cpu';
import { type VcpuPlan, VcpuThread } from '@hyve/vmm/threads';
import type { FromWorker } from './threads.ts';

/** The thread's end of its connection to the board. */
export interface VcpuPort {
  /** Sends a message to the board. */
  post(message: unknown): void;
  /** Calls back for every message from the board. */
  listen(f: (message: unknown) => void): void;
}

/**
 * Runs one vCPU on this thread, which it blocks until the machine ends.
 * @param engines engines besides the software CPU, by the name that their shares carry
 * @example
 * // A Node worker
 * serveVcpu({ post: (m) => parentPort.postMessage(m), listen: (f) => parentPort.on('message', f) });
 */
export function serveVcpu(port: VcpuPort, engines: Readonly<Record<string, () => Hypervisor>> = {}): void {
  const post = (m: FromWorker): void => port.post(m);
  const log: Logger = {
    on: false,
    debug: () => {},
    info: (text) => post({ kind: 'log', level: 'info', text }),
    warn: (text) => post({ kind: 'log', level: 'warn', text }),
  };
  port.listen((message) => {
    const plan = message as VcpuPlan;
    let thread: VcpuThread | null = null;
    try {
      const name = plan.share.engine;
      const make = engines[name] ?? (name === 'soft' ? () => new SoftCpu() : undefined);
      if (make === undefined) throw new HyveError('ENGINE_UNAVAILABLE', `no engine ${name} on this thread`);
      thread = new VcpuThread(plan, make(), log);
      const outcome = thread.run();
      post({ kind: 'end', outcome, counters: thread.counters() });
    } catch (e) {
      const detail = `vCPU ${plan.index}: ${e instanceof Error ? e.message : String(e)}`;
      post({ kind: 'end', outcome: { kind: 'error', vcpu: plan.index, detail }, counters: thread?.counters() ?? {} });
    }
  });
}
