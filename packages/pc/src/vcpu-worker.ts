// What a vCPU's thread runs. The host's part is to make the thread and to carry messages: see ThreadHost.
import { type Hypervisor, HyveError, type Logger } from '@hyve/core';
import { SoftCpu } from '@hyve/cpu';
import { VcpuThread } from '@hyve/vmm/threads';
import type { FromWorker, ToWorker } from './threads.ts';

/** The thread's end of its connection to the board. */
export interface VcpuPort {
  /** Sends a message to the board. */
  post(message: unknown): void;
  /** Calls back for every message from the board. */
  listen(f: (message: unknown) => void): void;
}

/**
 * Runs one vCPU on this thread, which it blocks for as long as the machine runs.
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
  let thread: VcpuThread | null = null;
  let index = 0;
  port.listen((message) => {
    const m = message as ToWorker;
    try {
      switch (m.kind) {
        case 'plan': {
          const name = m.plan.share.engine;
          index = m.plan.index;
          const make = engines[name] ?? (name === 'soft' ? () => new SoftCpu() : undefined);
          if (make === undefined) throw new HyveError('ENGINE_UNAVAILABLE', `no engine ${name} on this thread`);
          thread = new VcpuThread(m.plan, make(), log);
          break;
        }
        case 'go': {
          if (thread === null) return; // it said why
          if (m.from === 'reset') thread.reset();
          else if (m.from !== 'here') thread.load(m.from);
          thread.timeFrom(m.startMs);
          const end = thread.run();
          const outcome = end === 'left' || end === 'paused' ? null : end;
          post({ kind: 'stop', outcome, state: end === 'left' ? null : thread.save(), counters: thread.counters() });
          break;
        }
      }
    } catch (e) {
      const detail = `vCPU ${index}: ${e instanceof Error ? e.message : String(e)}`;
      const counters = thread?.counters() ?? {};
      thread = null;
      post({ kind: 'stop', outcome: { kind: 'error', vcpu: index, detail }, state: null, counters });
    }
  });
}
