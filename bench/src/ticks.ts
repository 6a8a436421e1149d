// A 1 kHz timer in a guest that is busy with other things.
import { type EngineName, type EngineOptions, followGuest, type Guest } from './engines.ts';
import { guestInitrd } from './guests.ts';

/** What the guest counted, and how long the host's clock says it took. */
export interface Ticks {
  /** Periods of a millisecond that the timer ran out. */
  readonly expirations: number;
  /** Of these, such as went by before the guest's process had seen the one before. */
  readonly missed: number;
  /** Longest time from expiry to the process, by the guest's clock, milliseconds. */
  readonly worstMs: number;
  /** Guest and host clocks, from the timer's start to the last expiry, milliseconds. */
  readonly guestMs: number;
  readonly hostMs: number;
}

/**
 * Counts for some seconds. `loads`: 0 arithmetic, 1 system calls, 2 REP MOVSB of a MiB, 3 fork and wait; each digit is a
 * process that does nothing else. @throws if the guest does not come to an end.
 */
export function ticks(
  engine: EngineName,
  kernel: string,
  seconds: number,
  loads: string,
  o: EngineOptions,
): Promise<Ticks> {
  const guest: Guest = {
    bits: 64,
    kernel,
    initrd: guestInitrd('tick', 64),
    cmdline: `console=ttyS0 quiet panic=-1 tsc=reliable cryptomgr.notests=1 seconds=${seconds} loads=${loads}`,
    memoryMib: 256,
  };
  let said = '';
  let from = 0;
  return followGuest(engine, guest, o, {
    limitMs: seconds * 5000 + 120_000,
    read(text) {
      said += text;
      if (from === 0 && said.includes('@S')) from = performance.now();
      const m = /^@T (\d+) (\d+) (\d+) (\d+) (\d+)\r?\n/m.exec(said);
      if (m === null) return null;
      const [expirations = 0, , missed = 0, worst = 0, elapsed = 0] = m.slice(1).map(Number);
      // The timer starts a tenth of a second after the line.
      const hostMs = performance.now() - from - 100;
      return { expirations, missed, worstMs: worst / 1e6, guestMs: elapsed / 1e6, hostMs };
    },
  });
}
