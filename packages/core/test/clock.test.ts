import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Timer, TimerQueue } from '../src/index.ts';

function setup(): {
  queue: TimerQueue;
  at(ns: number): number;
  fired: string[];
  timer(name: string, then?: () => void): Timer;
} {
  let now = 0;
  const fired: string[] = [];
  const queue = new TimerQueue(() => now);
  return {
    queue,
    fired,
    at: (ns) => {
      now = ns;
      return queue.runDue();
    },
    timer: (name, then = () => {}) =>
      queue.timer(() => {
        fired.push(name);
        then();
      }),
  };
}

describe('TimerQueue', () => {
  it('fires what is due, in order of time, then of arming', () => {
    const { timer, at, fired, queue } = setup();
    const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((n) => timer(n)) as [Timer, Timer, Timer, Timer];
    c.arm(20);
    b.arm(10);
    a.arm(10);
    d.arm(30);
    expect(queue.nextDeadline()).toBe(10);
    expect([at(9), at(20)]).toEqual([0, 3]);
    expect(fired).toEqual(['b', 'a', 'c']);
    expect([a.armed, d.armed, queue.nextDeadline()]).toEqual([false, true, 30]);
  });

  it('forgets what is disarmed, and replaces what is armed again', () => {
    const { timer, at, fired, queue } = setup();
    const a = timer('a');
    a.arm(10);
    a.arm(50);
    expect(at(20)).toBe(0);
    a.disarm();
    a.disarm();
    expect([at(100), a.armed, queue.nextDeadline()]).toEqual([0, false, Number.POSITIVE_INFINITY]);
    expect(fired).toEqual([]);
  });

  it('fires a timer that re-arms itself into the past once per call', () => {
    const { timer, at } = setup();
    const a = timer('a', () => a.arm(0));
    a.arm(5);
    expect([at(10), at(10), at(11)]).toEqual([1, 1, 1]);
  });

  it('lets a timer disarm another that is due', () => {
    const { timer, at, fired } = setup();
    const b = timer('b');
    const a = timer('a', () => b.disarm());
    a.arm(1);
    b.arm(1);
    expect([at(1), fired]).toEqual([1, ['a']]);
  });

  it('tells of an earlier deadline, and of no later one', () => {
    const { timer, queue } = setup();
    let told = 0;
    queue.onEarlier = () => told++;
    const a = timer('a');
    const b = timer('b');
    a.arm(100);
    b.arm(200);
    expect(told).toBe(1);
    b.arm(50);
    expect(told).toBe(2);
    b.arm(60);
    a.arm(55);
    expect(told).toBe(3);
  });

  it('goes on after a timer that throws', () => {
    const { timer, at, fired } = setup();
    const a = timer('a', () => {
      throw new Error('a');
    });
    const b = timer('b');
    a.arm(1);
    b.arm(2);
    expect(() => at(5)).toThrow('a');
    expect([at(5), fired, a.armed]).toEqual([1, ['a', 'b'], false]);
  });

  it('agrees with a sorted list over any script', () => {
    const step = fc.oneof(
      fc.record({ op: fc.constant('arm' as const), i: fc.nat(9), ns: fc.nat(100) }),
      fc.record({ op: fc.constant('disarm' as const), i: fc.nat(9), ns: fc.constant(0) }),
      fc.record({ op: fc.constant('run' as const), i: fc.constant(0), ns: fc.nat(20) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (script) => {
        const { timer, at, fired, queue } = setup();
        const timers = Array.from({ length: 10 }, (_, i) => timer(`${i}`));
        let model: { i: number; ns: number; seq: number }[] = [];
        let now = 0;
        let seq = 0;
        for (const { op, i, ns } of script) {
          if (op !== 'run') model = model.filter((t) => t.i !== i);
          if (op === 'arm') {
            timers[i]?.arm(now + ns);
            model.push({ i, ns: now + ns, seq: seq++ });
          } else if (op === 'disarm') timers[i]?.disarm();
          else {
            now += ns;
            const due = model.filter((t) => t.ns <= now).sort((x, y) => x.ns - y.ns || x.seq - y.seq);
            model = model.filter((t) => t.ns > now);
            fired.length = 0;
            expect(at(now)).toBe(due.length);
            expect(fired).toEqual(due.map((t) => `${t.i}`));
          }
          expect(queue.nextDeadline()).toBe(Math.min(Number.POSITIVE_INFINITY, ...model.map((t) => t.ns)));
          expect(timers.map((t) => t.armed)).toEqual(timers.map((_, k) => model.some((t) => t.i === k)));
        }
      }),
      { numRuns: 200 },
    );
  });
});
