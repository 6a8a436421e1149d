import { isHyveError, type Width } from '@hyve/core';
import { createRig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/pmtimer/index.ts';
import { claimPmTimer, PM_TIMER_HZ, PM_TIMER_PORT, PmTimer } from '../src/pmtimer/index.ts';

function bench(onOverflow?: () => void) {
  const rig = createRig();
  const timer = new PmTimer(onOverflow === undefined ? { clock: rig.clock } : { clock: rig.clock, onOverflow });
  claimPmTimer(rig.pio, timer);
  return { rig, timer };
}

describe('count', () => {
  it('starts at 0 and gains 3,579,545 in every second', () => {
    const { rig } = bench();
    expect(rig.cpu.in32(PM_TIMER_PORT)).toBe(0);
    for (let s = 1; s <= 5; s++) {
      rig.clock.advance(1e9);
      expect(rig.cpu.in32(PM_TIMER_PORT)).toBe(s * PM_TIMER_HZ);
    }
  });

  it('wraps at 32 bits and stays exact after days', () => {
    const { rig } = bench();
    rig.clock.advance(86_400e9 * 30);
    expect(rig.cpu.in32(PM_TIMER_PORT)).toBe(Number((86_400n * 30n * BigInt(PM_TIMER_HZ)) % (1n << 32n)));
  });

  it('gives narrow reads their part of the register', () => {
    const { rig } = bench();
    rig.clock.advance(500e9);
    const v = rig.cpu.in32(PM_TIMER_PORT);
    for (let i = 0; i < 4; i++) expect(rig.cpu.in8(PM_TIMER_PORT + i)).toBe((v >>> (8 * i)) & 0xff);
    for (let i = 0; i < 3; i++) expect(rig.cpu.in16(PM_TIMER_PORT + i)).toBe((v >>> (8 * i)) & 0xffff);
  });

  it('ignores writes and reset', () => {
    const { rig, timer } = bench();
    rig.clock.advance(1e9);
    rig.cpu.out32(PM_TIMER_PORT, 0);
    timer.reset();
    expect(rig.cpu.in32(PM_TIMER_PORT)).toBe(PM_TIMER_HZ);
  });
});

describe('TMR_STS', () => {
  it('tells each change of bit 31, and schedules nothing without a listener', () => {
    let n = 0;
    const { rig } = bench(() => n++);
    rig.clock.advance((2 ** 31 / PM_TIMER_HZ) * 1e9 - 1000);
    expect(n).toBe(0);
    rig.clock.advance(2000);
    expect([n, rig.cpu.in32(PM_TIMER_PORT) >>> 31]).toEqual([1, 1]);
    rig.clock.advance((2 ** 31 / PM_TIMER_HZ) * 1e9);
    expect([n, rig.cpu.in32(PM_TIMER_PORT) >>> 31]).toEqual([2, 0]);
    expect(bench().rig.clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
  });
});

describe('state', () => {
  it('goes on from the saved count whatever the new clock shows', () => {
    fc.assert(
      fc.property(fc.nat({ max: 10 ** 13 }), fc.nat({ max: 10 ** 13 }), (before, other) => {
        const a = bench();
        a.rig.clock.advance(before);
        const b = bench();
        b.rig.clock.advance(other);
        b.timer.load(a.timer.save());
        const count = a.rig.cpu.in32(PM_TIMER_PORT);
        expect(b.rig.cpu.in32(PM_TIMER_PORT)).toBe(count);
        b.rig.clock.advance(1e9);
        expect(b.rig.cpu.in32(PM_TIMER_PORT)).toBe((count + PM_TIMER_HZ) % 2 ** 32);
      }),
    );
  });

  it('tells the next change of bit 31 by the loaded count', () => {
    let n = 0;
    const { rig, timer } = bench(() => n++);
    rig.clock.advance(123e9);
    timer.load({ v: 1, count: 0x8000_0000 - PM_TIMER_HZ });
    rig.clock.advance(1e9 - 1000);
    expect(n).toBe(0);
    rig.clock.advance(2000);
    expect([n, rig.cpu.in32(PM_TIMER_PORT) >>> 31]).toEqual([1, 1]);
  });

  it('refuses other versions and bad counts', () => {
    const { timer } = bench();
    for (const [state, code] of [
      [{ v: 2, count: 0 }, 'STATE_VERSION'],
      [{ v: 1, count: -1 }, 'STATE_FORMAT'],
      [{ v: 1 }, 'STATE_FORMAT'],
    ] as const) {
      let error: unknown;
      try {
        timer.load(state);
      } catch (e) {
        error = e;
      }
      expect(isHyveError(error, code)).toBe(true);
    }
  });
});

it('takes any access', () => {
  fc.assert(
    fc.property(fc.nat(3), fc.constantFrom<Width>(1, 2, 4), fc.nat(255), fc.nat(10 ** 12), (at, width, value, ns) => {
      const { rig } = bench();
      rig.clock.advance(ns);
      rig.cpu.out(PM_TIMER_PORT + at, width, value);
      rig.cpu.in(PM_TIMER_PORT + at, width); // the rig checks the range
    }),
  );
});

it('exports', () => {
  expect(Object.keys(api).sort()).toEqual(['PM_TIMER_HZ', 'PM_TIMER_PORT', 'PmTimer', 'claimPmTimer']);
});
