import { type InterruptController, isHyveError, TimerQueue, type Width } from '@hyve/core';
import { createRig, type RecordingIrq, type Rig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/hpet/index.ts';
import { claimHpet, HPET_BASE, Hpet } from '../src/hpet/index.ts';
import { claimPic, Pic8259 } from '../src/pic/index.ts';
import { claimPit, Pit8254 } from '../src/pit/index.ts';
import { claimRtc, Rtc } from '../src/rtc/index.ts';

const CONF = HPET_BASE + 0x10;
const STATUS = HPET_BASE + 0x20;
const COUNT = HPET_BASE + 0xf0;
const T = (n: number): number => HPET_BASE + 0x100 + 0x20 * n;
const COMP = 8;
const FSB = 0x10;
const LEVEL = 2;
const ENB = 4;
const PERIODIC = 8;
const VAL_SET = 0x40;
const BITS32 = 0x100;
const ROUTE = (pin: number): number => pin << 9;
const FSB_EN = 0x4000;
const TICK = 100;

interface Bench {
  rig: Rig;
  hpet: Hpet;
  routed: boolean[];
}

/** Pins are rig lines 0-31; the legacy lines are 100 and 108. Handles are not ORed: one timer at a time uses a pin. */
function bench(legacy = true): Bench {
  const rig = createRig();
  const interrupts: InterruptController = { connect: (pin) => rig.irq(pin) };
  const routed: boolean[] = [];
  const common = { clock: rig.clock, msi: rig.msiSink, interrupts };
  const hpet = new Hpet(
    legacy
      ? { ...common, legacy: { irq0: rig.irq(100), irq8: rig.irq(108), onRoute: (on) => routed.push(on) } }
      : common,
  );
  claimHpet(rig.mmio, hpet);
  return { rig, hpet, routed };
}

/** 64-bit guest accesses, as the bus splits them. */
function write64(rig: Rig, addr: number, lo: number, hi: number): void {
  rig.cpu.write32(addr, lo);
  rig.cpu.write32(addr + 4, hi);
}

const RESET: [string, number, number][] = [
  ['capabilities', 0, 0x8086a701],
  ['period, 100 ns in fs', 4, 100_000_000],
  ['configuration', 0x10, 0],
  ['status', 0x20, 0],
  ['counter', 0xf0, 0],
  ['counter high', 0xf4, 0],
  ['timer 0 capabilities', 0x100, 0x8030],
  ['timer 0 routes', 0x104, 0x00ff0000],
  ['timer 0 comparator', 0x108, 0xffffffff],
  ['timer 0 comparator high', 0x10c, 0xffffffff],
  ['timer 0 message data', 0x110, 0],
  ['timer 0 message address', 0x114, 0],
  ['timer 7 capabilities', 0x1e0, 0x8030],
  ['behind the last timer', 0x200, 0],
  ['reserved', 0x08, 0],
];

describe('reset', () => {
  it.each(RESET)('%s', (_name, offset, value) => {
    expect(bench().rig.cpu.read32(HPET_BASE + offset)).toBe(value);
  });

  it('has no legacy routing without lines for it', () => {
    const { rig } = bench(false);
    expect(rig.cpu.read32(HPET_BASE)).toBe(0x80862701);
    rig.cpu.write32(CONF, 3);
    expect(rig.cpu.read32(CONF)).toBe(1);
  });

  it('keeps read-only bits', () => {
    const { rig } = bench();
    rig.cpu.write32(HPET_BASE, 0xffffffff);
    rig.cpu.write32(HPET_BASE + 4, 0xffffffff);
    expect(rig.cpu.read32(HPET_BASE)).toBe(0x8086a701);
    rig.cpu.write32(T(3), 0xffffffff);
    rig.cpu.write32(T(3) + 4, 0);
    // Pin 31 is not available, so the field reads 0 (§2.3.8.1).
    expect(rig.cpu.read32(T(3))).toBe(0x8030 | 0x414e);
    expect(rig.cpu.read32(T(3) + 4)).toBe(0x00ff0000);
    rig.cpu.write32(T(3), ROUTE(20));
    expect(rig.cpu.read32(T(3))).toBe(0x8030 | ROUTE(20));
  });
});

describe('main counter', () => {
  it('runs at 10 MHz while enabled, halts and goes on', () => {
    const { rig } = bench();
    rig.clock.advance(1e6);
    expect(rig.cpu.read32(COUNT)).toBe(0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(1e9);
    expect(rig.cpu.read32(COUNT)).toBe(10_000_000);
    rig.cpu.write32(CONF, 0);
    rig.clock.advance(1e9);
    expect(rig.cpu.read32(COUNT)).toBe(10_000_000);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(TICK);
    expect(rig.cpu.read32(COUNT)).toBe(10_000_001);
  });

  it('carries into the high half and wraps at 64 bits', () => {
    const { rig } = bench();
    write64(rig, COUNT, 0xfffffffe, 0xffffffff);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(TICK);
    expect([rig.cpu.read32(COUNT), rig.cpu.read32(COUNT + 4)]).toEqual([0xffffffff, 0xffffffff]);
    rig.clock.advance(TICK);
    expect([rig.cpu.read32(COUNT), rig.cpu.read32(COUNT + 4)]).toEqual([0, 0]);
  });

  it('does not tear a 64-bit read, and gives the live high half otherwise', () => {
    const { rig } = bench();
    write64(rig, COUNT, 0xffffffff, 7);
    rig.cpu.write32(CONF, 1);
    expect(rig.cpu.read32(COUNT)).toBe(0xffffffff);
    rig.clock.advance(TICK);
    expect(rig.cpu.read32(COUNT + 4)).toBe(7);
    expect(rig.cpu.read32(COUNT + 4)).toBe(8);
  });

  it('gives narrow reads their part and drops narrow writes', () => {
    const { rig } = bench();
    expect(rig.cpu.read(HPET_BASE + 2, 2)).toBe(0x8086);
    rig.cpu.write(CONF, 1, 1);
    expect(rig.cpu.read32(CONF)).toBe(0);
  });
});

describe('one-shot', () => {
  it('pulses its pin once when the counter reaches the comparator', () => {
    const { rig } = bench();
    rig.cpu.write32(T(2), ENB | ROUTE(18));
    write64(rig, T(2) + COMP, 1000, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(1000 * TICK - 1);
    expect(rig.irq(18).edges).toBe(0);
    rig.clock.advance(1);
    expect(rig.irq(18)).toMatchObject({ edges: 1, high: false });
    rig.clock.advance(1000e9);
    expect(rig.irq(18).edges).toBe(1);
    expect(rig.cpu.read32(STATUS)).toBe(0);
  });

  it('matches again after the wrap in 32-bit mode, and a comparator just missed waits for it', () => {
    const { rig } = bench();
    rig.cpu.write32(T(0), ENB | ROUTE(16) | BITS32);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(1000 * TICK);
    rig.cpu.write32(T(0) + COMP, 999);
    rig.clock.advance((2 ** 32 - 2) * TICK);
    expect(rig.irq(16).edges).toBe(0);
    rig.clock.advance(TICK);
    expect(rig.irq(16).edges).toBe(1);
    rig.clock.advance(2 ** 32 * TICK);
    expect(rig.irq(16).edges).toBe(2);
  });

  it('follows a counter that the guest sets', () => {
    const { rig } = bench();
    rig.cpu.write32(T(0), ENB | ROUTE(16));
    write64(rig, T(0) + COMP, 0x10, 5);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(1e9);
    write64(rig, COUNT, 0, 5);
    rig.clock.advance(15 * TICK);
    expect(rig.irq(16).edges).toBe(0);
    rig.clock.advance(TICK);
    expect(rig.irq(16).edges).toBe(1);
  });

  it('says nothing while disabled or halted', () => {
    const { rig } = bench();
    rig.cpu.write32(T(0), ROUTE(16));
    write64(rig, T(0) + COMP, 100, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(1e6);
    expect(rig.irq(16).edges).toBe(0);
    expect(rig.clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
    rig.cpu.write32(T(0), ENB | ROUTE(16));
    write64(rig, T(0) + COMP, 20_000, 0);
    rig.cpu.write32(CONF, 0);
    rig.clock.advance(1e9);
    expect(rig.irq(16).edges).toBe(0);
  });
});

describe('level-triggered', () => {
  it('holds the pin until the status bit is written', () => {
    const { rig } = bench();
    rig.cpu.write32(T(1), ENB | LEVEL | ROUTE(17));
    write64(rig, T(1) + COMP, 100, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(100 * TICK);
    expect(rig.irq(17).high).toBe(true);
    expect(rig.cpu.read32(STATUS)).toBe(2);
    rig.cpu.write32(STATUS, 0xfd);
    expect(rig.irq(17).high).toBe(true);
    rig.cpu.write32(STATUS, 2);
    expect(rig.irq(17).high).toBe(false);
    expect(rig.cpu.read32(STATUS)).toBe(0);
  });

  it('raises the pin again each period', () => {
    const { rig } = bench();
    rig.cpu.write32(T(1), ENB | LEVEL | PERIODIC | VAL_SET | BITS32 | ROUTE(17));
    rig.cpu.write32(T(1) + COMP, 1000);
    rig.cpu.write32(CONF, 1);
    for (let n = 1; n <= 5; n++) {
      rig.clock.advance(1000 * TICK);
      expect(rig.irq(17)).toMatchObject({ high: true, edges: n });
      rig.cpu.write32(STATUS, 2);
    }
  });

  it('shows status without an interrupt when the interrupt is off (§2.3.8.1)', () => {
    const { rig } = bench();
    rig.cpu.write32(T(1), LEVEL | ROUTE(17));
    write64(rig, T(1) + COMP, 100, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(1e6);
    expect(rig.cpu.read32(STATUS)).toBe(2);
    expect(rig.irq(17).edges).toBe(0);
    rig.cpu.write32(T(1), LEVEL | ENB | ROUTE(17));
    expect(rig.irq(17).high).toBe(true);
    rig.cpu.write32(T(1), LEVEL | ENB | ROUTE(19));
    expect([rig.irq(17).high, rig.irq(19).high]).toEqual([false, true]);
    rig.cpu.write32(CONF, 0);
    expect(rig.irq(19).high).toBe(false);
  });
});

describe('periodic', () => {
  it('runs as Linux sets it up: comparator with VAL_SET, then the period', () => {
    const { rig } = bench();
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(12_345 * TICK);
    rig.cpu.write32(CONF, 0);
    rig.cpu.write32(T(0), ENB | PERIODIC | VAL_SET | BITS32 | ROUTE(16));
    expect(rig.cpu.read32(T(0)) & VAL_SET).toBe(VAL_SET);
    rig.cpu.write32(T(0) + COMP, 12_345 + 40_000);
    expect(rig.cpu.read32(T(0)) & VAL_SET).toBe(0);
    rig.cpu.write32(T(0) + COMP, 10_000);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(40_000 * TICK - 1);
    expect(rig.irq(16).edges).toBe(0);
    rig.clock.advance(1);
    expect(rig.irq(16).edges).toBe(1);
    rig.clock.advance(60e9);
    expect(rig.irq(16).edges).toBe(1 + 60_000);
    expect(rig.cpu.read32(T(0) + COMP)).toBe((12_345 + 40_000 + 60_001 * 10_000) >>> 0);
  });

  it('takes a 64-bit accumulator write in two halves', () => {
    const { rig } = bench();
    write64(rig, COUNT, 0, 3);
    rig.cpu.write32(T(0), ENB | PERIODIC | VAL_SET | ROUTE(16));
    write64(rig, T(0) + COMP, 500, 3);
    write64(rig, T(0) + COMP, 2000, 0);
    expect([rig.cpu.read32(T(0) + COMP), rig.cpu.read32(T(0) + COMP + 4)]).toEqual([500, 3]);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(500 * TICK);
    expect(rig.irq(16).edges).toBe(1);
    rig.clock.advance(20_000 * TICK);
    expect(rig.irq(16).edges).toBe(11);
    expect([rig.cpu.read32(T(0) + COMP), rig.cpu.read32(T(0) + COMP + 4)]).toEqual([500 + 22_000, 3]);
  });

  it('carries the accumulator into the high half, one match or many at a time', () => {
    for (const enable of [ENB, 0]) {
      const { rig } = bench();
      write64(rig, COUNT, 0xfffff000, 3);
      rig.cpu.write32(T(0), enable | PERIODIC | VAL_SET | ROUTE(16));
      write64(rig, T(0) + COMP, 0xfffffff0, 3);
      write64(rig, T(0) + COMP, 0x800, 0);
      rig.cpu.write32(CONF, 1);
      rig.clock.advance(0x2000 * TICK);
      expect([rig.cpu.read32(T(0) + COMP), rig.cpu.read32(T(0) + COMP + 4)]).toEqual([0x17f0, 4]);
      expect(rig.irq(16).edges).toBe(enable === 0 ? 0 : 3);
    }
  });

  it('keeps accumulating while nobody listens', () => {
    const { rig } = bench();
    rig.cpu.write32(T(0), PERIODIC | VAL_SET | ROUTE(16));
    rig.cpu.write32(T(0) + COMP, 1000);
    rig.cpu.write32(T(0) + COMP + 4, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(10_500 * TICK);
    rig.cpu.write32(T(0), ENB | PERIODIC | ROUTE(16));
    expect(rig.irq(16).edges).toBe(0);
    rig.clock.advance(500 * TICK);
    expect(rig.irq(16).edges).toBe(1);
  });

  it('bounds the work of a period of one tick, and takes none for a period of 0', () => {
    for (const period of [0, 1]) {
      const { rig } = bench();
      rig.cpu.write32(T(0), ENB | PERIODIC | VAL_SET | BITS32 | ROUTE(16));
      rig.cpu.write32(T(0) + COMP, 100);
      rig.cpu.write32(T(0) + COMP, period);
      rig.cpu.write32(CONF, 1);
      rig.clock.advance(10e6);
      expect(rig.irq(16).edges).toBeLessThanOrEqual(1002);
      expect(rig.irq(16).edges).toBeGreaterThanOrEqual(1);
    }
  });

  it('delivers a few late matches one by one, many as one', () => {
    let now = 0;
    const queue = new TimerQueue(() => now);
    const rig = createRig();
    const irq = rig.irq(16);
    const hpet = new Hpet({ clock: queue, msi: rig.msiSink, interrupts: { connect: (pin) => rig.irq(pin) } });
    claimHpet(rig.mmio, hpet);
    const jump = (ns: number): void => {
      now += ns;
      queue.runDue();
    };
    rig.cpu.write32(T(0), ENB | PERIODIC | VAL_SET | BITS32 | ROUTE(16));
    rig.cpu.write32(T(0) + COMP, 10_000);
    rig.cpu.write32(CONF, 1);
    jump(5.5e6);
    expect(irq.edges).toBe(1);
    for (let i = 0; i < 10; i++) jump(20_000);
    expect(irq.edges).toBe(5);
    jump(3600e9);
    for (let i = 0; i < 10; i++) jump(10_000);
    expect(irq.edges).toBe(6);
  });
});

describe('messages (FSB)', () => {
  it('sends address and data as UEFI programs them, and no pin moves', () => {
    const { rig } = bench();
    rig.cpu.write32(T(0), ENB | FSB_EN | ROUTE(16));
    write64(rig, T(0) + FSB, 0x140, 0xfee01000);
    write64(rig, T(0) + COMP, 100_000, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(100_000 * TICK);
    expect(rig.msis).toEqual([{ address: 0xfee01000, data: 0x140 }]);
    expect(rig.irq(16).edges).toBe(0);
    // Its handler: status, counter off, next comparator, counter on.
    rig.cpu.write32(STATUS, 1);
    rig.cpu.write32(CONF, 0);
    const next = rig.cpu.read32(COUNT) + 100_000;
    write64(rig, T(0) + COMP, next, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(10e6);
    expect(rig.msis.length).toBe(2);
  });

  it('sends in level mode too', () => {
    const { rig } = bench();
    rig.cpu.write32(T(0), ENB | FSB_EN | LEVEL | ROUTE(16));
    write64(rig, T(0) + COMP, 100, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(1e6);
    expect(rig.msis.length).toBe(1);
    expect(rig.irq(16).high).toBe(false);
  });
});

describe('legacy replacement (§2.3.4)', () => {
  it('routes timers 0 and 1 to IRQ 0 and 8 and tells the owners', () => {
    const { rig, routed } = bench();
    for (const n of [0, 1, 2]) {
      rig.cpu.write32(T(n), ENB | ROUTE(16 + n));
      write64(rig, T(n) + COMP, 1000, 0);
    }
    rig.cpu.write32(CONF, 3);
    expect(routed).toEqual([true]);
    rig.clock.advance(1e6);
    const edges = (n: number): number => rig.irq(n).edges;
    expect([edges(100), edges(108), edges(16), edges(17), edges(18)]).toEqual([1, 1, 0, 0, 1]);
    rig.cpu.write32(CONF, 3);
    rig.cpu.write32(CONF, 1);
    expect(routed).toEqual([true, false]);
  });

  it('moves a level from pin to line', () => {
    const { rig } = bench();
    rig.cpu.write32(T(0), ENB | LEVEL | ROUTE(16));
    write64(rig, T(0) + COMP, 10, 0);
    rig.cpu.write32(CONF, 1);
    rig.clock.advance(1e6);
    expect([rig.irq(16).high, rig.irq(100).high]).toEqual([true, false]);
    rig.cpu.write32(CONF, 3);
    expect([rig.irq(16).high, rig.irq(100).high]).toEqual([false, true]);
  });

  it('ends with reset', () => {
    const { rig, hpet, routed } = bench();
    rig.cpu.write32(CONF, 3);
    hpet.reset();
    expect(routed).toEqual([true, false]);
  });
});

it('takes IRQ 0 from the PIT and IRQ 8 from the RTC on a real 8259', () => {
  const rig = createRig();
  const pic = new Pic8259({ onIntr: () => {} });
  claimPic(rig.pio, pic);
  const pit = new Pit8254({ clock: rig.clock, irq: pic.connect(0, 'pit') });
  claimPit(rig.pio, pit);
  const rtc = new Rtc({ clock: rig.clock, irq: pic.connect(8, 'rtc'), wallClock: () => 0, lowmem: 1 << 20 });
  claimRtc(rig.pio, rtc);
  const onRoute = (on: boolean): void => {
    pit.setIrqEnabled(!on);
    rtc.setIrqEnabled(!on);
  };
  const legacy = { irq0: pic.connect(0, 'hpet'), irq8: pic.connect(8, 'hpet'), onRoute };
  claimHpet(
    rig.mmio,
    new Hpet({ clock: rig.clock, msi: rig.msiSink, interrupts: { connect: (pin) => rig.irq(pin) }, legacy }),
  );
  for (const [port, value] of [
    [0x20, 0x13], // edge, no ICW3, ICW4
    [0x21, 0x20],
    [0x21, 0x03], // ends interrupts by itself
    [0x21, 0x00],
    [0xa0, 0x13],
    [0xa1, 0x28],
    [0xa1, 0x03],
    [0xa1, 0x00],
    [0x43, 0x34], // PIT: 100 Hz
    [0x40, 11932 & 0xff],
    [0x40, 11932 >>> 8],
    [0x70, 0x0b], // RTC: update-ended interrupt
    [0x71, 0x12],
  ] as const)
    rig.cpu.out8(port, value);
  const vectors = (seconds: number): Record<number, number> => {
    const seen: Record<number, number> = {};
    for (let i = 0; i < seconds * 2000; i++) {
      rig.clock.advance(500_000);
      while (pic.hasInterrupt) {
        const v = pic.acknowledge();
        seen[v] = (seen[v] ?? 0) + 1;
        if (v === 0x28) {
          rig.cpu.out8(0x70, 0x0c);
          rig.cpu.in8(0x71);
        }
      }
    }
    return seen;
  };
  vectors(0.1); // the edge of OUT going high with the control word
  expect(vectors(2)).toEqual({ 32: 200, 40: 2 });
  rig.cpu.write32(T(0), ENB | PERIODIC | VAL_SET | BITS32);
  rig.cpu.write32(T(0) + COMP, 40_000);
  rig.cpu.write32(CONF, 3);
  expect(vectors(2)).toEqual({ 32: 500 });
  rig.cpu.write32(CONF, 0);
  vectors(0.1);
  expect(vectors(2)).toEqual({ 32: 200, 40: 2 });
});

type Step = [kind: number, offset: number, width: Width, value: number];
const interesting = fc.oneof(
  fc.constantFrom(0x10, 0x20, 0xf0, 0xf4, 0x100, 0x108, 0x10c, 0x120, 0x128, 0x12c, 0x110, 0x114),
  fc.nat(0x3ff),
);
const script: fc.Arbitrary<Step[]> = fc.array(
  fc.tuple(
    fc.nat(3),
    interesting,
    fc.constantFrom<Width>(1, 2, 4, 4, 4),
    fc.oneof(fc.nat(0x7fff), fc.nat({ max: 0xffffffff })),
  ),
  { maxLength: 50 },
);

function play(b: Bench, steps: readonly Step[]): unknown[] {
  const seen: unknown[] = [];
  for (const [kind, offset, width, value] of steps) {
    if (kind <= 1) {
      if (offset % width === 0) b.rig.cpu.write(HPET_BASE + offset, width, width === 4 ? value : value & 0xff);
    } else if (kind === 2) seen.push(b.rig.cpu.read(HPET_BASE + offset - (offset % width), width));
    else b.rig.clock.advance((value & 0xfff) * TICK);
  }
  const lines: RecordingIrq[] = [16, 17, 18, 20, 23, 100, 108].map((n) => b.rig.irq(n));
  seen.push(lines.map((l) => l.high));
  return seen;
}

describe('hostile guest', () => {
  it('never throws, lets go of its lines on reset and shows the reset values', () => {
    fc.assert(
      fc.property(script, (steps) => {
        const b = bench();
        play(b, steps);
        b.hpet.reset();
        for (const [, offset, value] of RESET) expect(b.rig.cpu.read32(HPET_BASE + offset)).toBe(value);
        for (const n of [16, 17, 18, 19, 20, 21, 22, 23, 100, 108]) expect(b.rig.irq(n).high).toBe(false);
        expect(b.rig.clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
      }),
      { numRuns: 150 },
    );
  });

  it('answers the same after save and load', () => {
    fc.assert(
      fc.property(script, script, (before, after) => {
        const b = bench();
        play(b, before);
        const copy = bench();
        copy.rig.clock.advance(b.rig.clock.now());
        copy.hpet.load(JSON.parse(JSON.stringify(b.hpet.save())));
        expect(copy.hpet.save()).toEqual(b.hpet.save());
        b.rig.msis.length = 0;
        expect(play(copy, [[3, 0, 4, 5], ...after])).toEqual(play(b, [[3, 0, 4, 5], ...after]));
        expect(copy.rig.msis).toEqual(b.rig.msis);
      }),
      { numRuns: 150 },
    );
  });
});

it('rejects other state versions and route masks', () => {
  const { hpet } = bench();
  const code = (f: () => void): string => {
    try {
      f();
    } catch (e) {
      return isHyveError(e) ? e.code : 'other';
    }
    return 'none';
  };
  expect(code(() => hpet.load({ ...hpet.save(), v: 3 }))).toBe('STATE_VERSION');
  expect(code(() => hpet.load({ ...hpet.save(), timers: [] }))).toBe('STATE_FORMAT');
  const rig = createRig();
  const o = { clock: rig.clock, msi: rig.msiSink, interrupts: { connect: (pin: number) => rig.irq(pin) } };
  expect(code(() => void new Hpet({ ...o, routes: -1 }))).toBe('HPET_ROUTES');
});

it('exports', () => {
  expect(Object.keys(api).sort()).toEqual(['HPET_BASE', 'HPET_HZ', 'HPET_SIZE', 'Hpet', 'claimHpet']);
});
