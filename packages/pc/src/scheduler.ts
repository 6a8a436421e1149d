// The default host scheduler: timers and message channels, which Node and browsers both have.
import type { HostScheduler, WakeSignal } from '@hyve/vmm';
import type { Alarm } from './alarm.ts';

interface Globals {
  setTimeout(f: () => void, ms: number): unknown;
  clearTimeout(t: unknown): void;
  setImmediate?(f: () => void): void;
  readonly performance: { now(): number };
  MessageChannel: new () => {
    port1: { onmessage: (() => void) | null; postMessage(v: null): void };
    port2: { postMessage(v: null): void };
  };
}

/** Longest setTimeout that does not overflow, ms. */
const LONGEST_MS = 0x7fffffff;

/** Sleeps that an alarm is for, ns: shorter ones are over before it rings, longer ones may be a millisecond late. */
const SHORTEST_ALARM_NS = 200_000;
const LONGEST_ALARM_NS = 4_000_000;
/** It is set this much too early, ns: what a thread needs to wake another. The event loop does the rest. */
const LEAD_NS = 100_000;
/** It is set this much later as well, ms, should the alarm fail. */
const LATE_MS = 2;
/** Rounds of the event loop in place of sleep within a second that make an alarm worth its thread: some 5 to 20 µs each. */
const MANY_ROUNDS = 10_000;

/**
 * A scheduler on setTimeout. Timers are a millisecond coarse: shorter sleeps go round the event loop instead, and the run
 * loop looks at the clock again. A guest that has many of them gets an alarm, if there is one: its thread sleeps then.
 * @param alarm starts one; called once
 */
export function hostScheduler(alarm: (() => Alarm) | null = null): HostScheduler {
  const g = globalThis as unknown as Globals;
  const soon = (f: () => void): void => {
    if (g.setImmediate !== undefined) g.setImmediate(f);
    else {
      const c = new g.MessageChannel();
      c.port1.onmessage = f;
      c.port2.postMessage(null);
    }
  };
  let start = alarm;
  let bell: Alarm | null = null;
  let rounds = 0;
  let since = 0;
  /** One more round of the event loop. */
  const count = (): void => {
    if (start === null) return;
    if (++rounds < MANY_ROUNDS) return;
    const now = g.performance.now();
    if (now - since < 1000) {
      bell = start();
      start = null;
    }
    since = now;
    rounds = 0;
  };
  const yieldToHost = (): Promise<void> => new Promise((resolve) => soon(resolve));
  return {
    yieldToHost,
    sleep(ns: number, signal: WakeSignal): Promise<void> {
      if (signal.woken) return Promise.resolve();
      return new Promise((resolve) => {
        const ms = ns / 1e6;
        const set = bell?.ready === true && ns >= SHORTEST_ALARM_NS && ns < LONGEST_ALARM_NS ? bell : null;
        const round = set === null && ms < 1;
        const timer = round ? null : g.setTimeout(done, Math.min(set === null ? ms : ms + LATE_MS, LONGEST_MS));
        function done(): void {
          // Woken early, this comes a second time, when the signal may be another sleep's.
          if (signal.onWake === done) signal.onWake = null;
          if (timer !== null) g.clearTimeout(timer);
          set?.clear();
          resolve();
        }
        signal.onWake = done;
        set?.set(ns - LEAD_NS, done);
        if (round) {
          count();
          soon(done);
        }
      });
    },
  };
}
