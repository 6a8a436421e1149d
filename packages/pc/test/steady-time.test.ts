// The clock that passes over the host's stalls: what it hides, what it does not, and how it makes up for it.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CATCH_UP, MOST_BEHIND_NS, STALL_NS, SteadyTime } from '../src/steady-time.ts';

const MS = 1_000_000;

/** A host: its clock, and the processor time of the machine's thread. */
function host(tellsProcessor = true) {
  const h = { now: 5 * MS, used: 3 * MS };
  const clock = new SteadyTime(() => h.now, tellsProcessor ? () => h.used : null);
  const start = clock.now();
  return {
    clock,
    shown: () => clock.now() - start,
    /** The thread runs. */
    works(ns: number): void {
      h.now += ns;
      h.used += ns;
    },
    /** It does not. */
    waits(ns: number): void {
      h.now += ns;
    },
  };
}

describe('SteadyTime', () => {
  it('is the host’s clock while nothing holds the thread up', () => {
    const h = host();
    for (let n = 1; n <= 50; n++) {
      h.works(STALL_NS);
      expect(h.shown()).toBe(n * STALL_NS);
    }
  });

  it('passes over time in which the thread did not run, and makes up for it', () => {
    const h = host();
    h.works(100_000);
    h.waits(3 * MS);
    expect(h.shown()).toBe(100_000);
    expect(h.clock.behind).toBe(3 * MS);
    h.works(80_000);
    expect(h.shown()).toBe(190_000);
    for (let n = 0; n < 3000; n++) {
      h.works(10_000);
      h.clock.now();
    }
    expect(h.clock.behind).toBe(0);
    expect(h.shown()).toBe(100_000 + 3 * MS + 80_000 + 30 * MS);
  });

  it('does not pass over the thread’s own work, however long that takes', () => {
    const h = host();
    h.works(7 * MS);
    expect(h.shown()).toBe(7 * MS);
    h.works(2 * MS);
    h.waits(MS);
    expect(h.shown()).toBe(9 * MS);
  });

  it('rests as long as it is told to, and passes over a late end', () => {
    const h = host();
    expect(h.clock.rest(4 * MS)).toBe(4 * MS);
    h.waits(4 * MS);
    h.clock.wake();
    expect(h.shown()).toBe(4 * MS);
    h.clock.rest(MS);
    h.waits(3 * MS);
    h.clock.wake();
    expect(h.shown()).toBe(5 * MS);
    expect(h.clock.behind).toBe(2 * MS);
  });

  it('makes up in a rest for all that it can, but not when it is woken early', () => {
    const h = host();
    h.waits(3 * MS);
    h.clock.now();
    expect(h.clock.rest(10 * MS)).toBe(7 * MS);
    h.waits(7 * MS);
    h.clock.wake();
    expect(h.shown()).toBe(10 * MS);
    expect(h.clock.behind).toBe(0);
    h.waits(2 * MS);
    h.clock.now();
    expect(h.clock.rest(MS)).toBe(0);
    h.clock.wake();
    expect(h.shown()).toBe(11 * MS);
    expect(h.clock.behind).toBe(MS);
    h.clock.rest(100 * MS);
    h.waits(CATCH_UP * 1000);
    h.clock.wake();
    expect(h.shown()).toBe(11 * MS + (CATCH_UP + 1) * 1000);
  });

  it('looks during a rest change nothing about its end', () => {
    const h = host();
    h.clock.rest(5 * MS);
    for (let n = 0; n < 5; n++) {
      h.waits(MS);
      h.clock.now();
    }
    h.waits(2 * MS);
    h.clock.wake();
    expect(h.shown()).toBe(5 * MS);
  });

  it('passes over no more than its bound, and nothing that was settled', () => {
    const h = host();
    h.waits(3600e9);
    expect(h.shown()).toBe(3600e9 - MOST_BEHIND_NS);
    h.waits(MS);
    expect(h.shown()).toBe(3600e9 - MOST_BEHIND_NS + MS);
    h.waits(60e9);
    h.clock.settle();
    expect(h.clock.behind).toBe(0);
    expect(h.shown()).toBe(3660e9 + MS);
  });

  it('passes over late ends of rests alone where the host tells no processor time', () => {
    const h = host(false);
    h.waits(3 * MS);
    expect(h.shown()).toBe(3 * MS);
    h.clock.rest(MS);
    h.waits(3 * MS);
    h.clock.wake();
    expect(h.shown()).toBe(4 * MS + STALL_NS);
  });

  it('never goes back, is never ahead, and never further behind than its bound', () => {
    const step = fc.record({ kind: fc.constantFrom('work', 'wait', 'rest'), ns: fc.integer({ min: 0, max: 40 * MS }) });
    fc.assert(
      fc.property(fc.boolean(), fc.array(step, { maxLength: 60 }), (tells, steps) => {
        const h = host(tells);
        let real = 0;
        let last = 0;
        for (const { kind, ns } of steps) {
          if (kind === 'work') h.works(ns);
          else if (kind === 'wait') h.waits(ns);
          else {
            const goal = h.shown() + ns;
            const sleep = h.clock.rest(ns);
            expect(sleep).toBeLessThanOrEqual(ns);
            h.waits(sleep);
            h.clock.wake();
            expect(h.shown()).toBeCloseTo(goal, -1);
            real += sleep;
          }
          if (kind !== 'rest') real += ns;
          const t = h.shown();
          expect(t).toBeGreaterThanOrEqual(last);
          expect(t).toBeLessThanOrEqual(real + 1);
          expect(real - t).toBeLessThanOrEqual(MOST_BEHIND_NS + 1);
          last = t;
        }
      }),
    );
  });
});
