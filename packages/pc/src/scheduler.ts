// The default host scheduler: timers and message channels, which Node and browsers both have.
import type { HostScheduler, WakeSignal } from '@hyve/vmm';

interface Globals {
  setTimeout(f: () => void, ms: number): unknown;
  clearTimeout(t: unknown): void;
  setImmediate?(f: () => void): void;
  MessageChannel: new () => {
    port1: { onmessage: (() => void) | null; postMessage(v: null): void };
    port2: { postMessage(v: null): void };
  };
}

/** Longest setTimeout that does not overflow, ms. */
const LONGEST_MS = 0x7fffffff;

/**
 * A scheduler on setTimeout. Sleeps shorter than a millisecond yield to the event loop instead, since timers are that
 * coarse: the run loop looks at the clock again.
 */
export function hostScheduler(): HostScheduler {
  const g = globalThis as unknown as Globals;
  const soon = (f: () => void): void => {
    if (g.setImmediate !== undefined) g.setImmediate(f);
    else {
      const c = new g.MessageChannel();
      c.port1.onmessage = f;
      c.port2.postMessage(null);
    }
  };
  const yieldToHost = (): Promise<void> => new Promise((resolve) => soon(resolve));
  return {
    yieldToHost,
    sleep(ns: number, signal: WakeSignal): Promise<void> {
      if (signal.woken) return Promise.resolve();
      return new Promise((resolve) => {
        const ms = ns / 1e6;
        const timer = ms < 1 ? null : g.setTimeout(done, Math.min(ms, LONGEST_MS));
        function done(): void {
          // Woken early, this comes a second time, when the signal may be another sleep's.
          if (signal.onWake === done) signal.onWake = null;
          if (timer !== null) g.clearTimeout(timer);
          resolve();
        }
        signal.onWake = done;
        if (timer === null) soon(done);
      });
    },
  };
}
