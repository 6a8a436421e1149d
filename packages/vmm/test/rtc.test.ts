import { isHyveError, type Width } from '@hyve/core';
import { createRig, type RecordingIrq, type Rig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { daysFromDate, daysInMonth, yearOfDay } from '../src/rtc/calendar.ts';
import * as api from '../src/rtc/index.ts';
import { claimRtc, Rtc, type RtcOptions } from '../src/rtc/index.ts';

/** Sunday 2026-11-22 10:30:45.250 UTC. */
const START = Date.UTC(2026, 10, 22, 10, 30, 45, 250);
const MIB = 1 << 20;

interface Bench {
  rig: Rig;
  rtc: Rtc;
  irq: RecordingIrq;
  masks: boolean[];
}

function bench(o: Partial<RtcOptions> = {}): Bench {
  const rig = createRig();
  const irq = rig.irq(8);
  const masks: boolean[] = [];
  const rtc = new Rtc({
    clock: rig.clock,
    irq,
    wallClock: () => START,
    lowmem: 256 * MIB,
    onNmiMask: (m) => masks.push(m),
    ...o,
  });
  claimRtc(rig.pio, rtc);
  return { rig, rtc, irq, masks };
}

function get(rig: Rig, index: number): number {
  rig.cpu.out8(0x70, index);
  return rig.cpu.in8(0x71);
}

function put(rig: Rig, index: number, value: number): void {
  rig.cpu.out8(0x70, index);
  rig.cpu.out8(0x71, value);
}

const word = (rig: Rig, index: number): number => get(rig, index) | (get(rig, index + 1) << 8);

/** Century, year, month, day, weekday, hour, minute, second: raw, as hexadecimal digits. */
const stamp = (rig: Rig): string =>
  [0x32, 9, 8, 7, 6, 4, 2, 0].map((r) => get(rig, r).toString(16).padStart(2, '0')).join(' ');

function setTime(rig: Rig, values: readonly (readonly [number, number])[]): void {
  put(rig, 0x0b, get(rig, 0x0b) | 0x80);
  for (const [r, v] of values) put(rig, r, v);
  put(rig, 0x0b, get(rig, 0x0b) & 0x7f);
}

const RESET: [string, number, number][] = [
  ['A', 0x0a, 0x26],
  ['B: BCD, 24 hours', 0x0b, 0x02],
  ['C', 0x0c, 0],
  ['D: valid', 0x0d, 0x80],
  ['diagnostic status', 0x0e, 0],
  ['shutdown status', 0x0f, 0],
];

describe('reset', () => {
  it.each(RESET)('%s', (_name, index, value) => {
    expect(get(bench().rig, index)).toBe(value);
  });

  it('shows the wall clock in BCD', () => {
    expect(stamp(bench().rig)).toBe('20 26 11 22 01 10 30 45');
  });

  it("takes the wall clock as the time at the clock's zero", () => {
    const rig = createRig();
    rig.clock.advance(3600e9);
    claimRtc(rig.pio, new Rtc({ clock: rig.clock, irq: rig.irq(8), wallClock: () => START, lowmem: MIB }));
    expect(stamp(rig)).toBe('20 26 11 22 01 11 30 45');
  });

  it('shows local time when asked to', () => {
    const { rig } = bench({ time: 'local' });
    const d = new Date(START);
    expect(get(rig, 4)).toBe(Number.parseInt(String(d.getHours()), 16));
    expect(get(rig, 2)).toBe(Number.parseInt(String(d.getMinutes()), 16));
  });

  it('turns interrupts off and keeps time, date format and memory', () => {
    const { rig, rtc, irq } = bench();
    put(rig, 0x0b, 0x7e);
    put(rig, 0x0f, 0x0a);
    put(rig, 0x34, 0x55);
    rig.clock.advance(1e9);
    expect(irq.high).toBe(true);
    rtc.reset();
    expect(irq.high).toBe(false);
    expect(get(rig, 0x0b)).toBe(0x06);
    expect(get(rig, 0x0c)).toBe(0);
    expect(get(rig, 0x0f)).toBe(0x0a);
    expect(word(rig, 0x34)).toBe(240 * 16);
    expect(get(rig, 0)).toBe(46);
  });
});

describe('calendar', () => {
  it('agrees with Date over the years 0-9999', () => {
    fc.assert(
      fc.property(fc.integer({ min: -719_528, max: 2_932_896 }), (days) => {
        const d = new Date(days * 86_400_000);
        const y = d.getUTCFullYear();
        expect(yearOfDay(days)).toBe(y);
        expect(daysFromDate(y, d.getUTCMonth() + 1, d.getUTCDate())).toBe(days);
      }),
    );
  });

  it('knows the lengths of months', () => {
    expect(Array.from({ length: 12 }, (_, m) => daysInMonth(2024, m + 1))).toEqual([
      31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31,
    ]);
    expect([1900, 2000, 2023].map((y) => daysInMonth(y, 2))).toEqual([28, 29, 28]);
  });
});

describe('time', () => {
  it('advances on whole seconds of the wall clock', () => {
    const { rig } = bench();
    rig.clock.advance(750e6 - 1);
    expect(get(rig, 0)).toBe(0x45);
    rig.clock.advance(1);
    expect(get(rig, 0)).toBe(0x46);
    rig.clock.advance(86_400e9 * 40);
    expect(stamp(rig)).toBe('20 27 01 01 06 10 30 46');
  });

  it('rolls over the century and leap days', () => {
    const { rig } = bench({ wallClock: () => Date.UTC(2099, 11, 31, 23, 59, 59) });
    rig.clock.advance(1e9);
    expect(stamp(rig)).toBe('21 00 01 01 06 00 00 00');
    const leap = bench({ wallClock: () => Date.UTC(2028, 1, 28, 23, 59, 59) });
    leap.rig.clock.advance(1e9);
    expect(stamp(leap.rig)).toBe('20 28 02 29 03 00 00 00');
  });

  it('shows binary and 12 hours as B says', () => {
    const { rig } = bench();
    put(rig, 0x0b, 0x06);
    expect(stamp(rig)).toBe('14 1a 0b 16 01 0a 1e 2d');
    rig.clock.advance(5 * 3600e9);
    put(rig, 0x0b, 0x04);
    expect(get(rig, 4)).toBe(0x83);
    put(rig, 0x0b, 0x00);
    expect(get(rig, 4)).toBe(0x83);
    rig.clock.advance(9 * 3600e9);
    expect(get(rig, 4)).toBe(0x12); // midnight
    rig.clock.advance(12 * 3600e9);
    expect(get(rig, 4)).toBe(0x92); // noon
  });

  it('takes the time the guest sets, in each format, and goes on from it', () => {
    for (const [b, regs] of [
      [0x02, [0x59, 0x59, 0x23, 0x31, 0x12, 0x99, 0x19]],
      [0x06, [59, 59, 23, 31, 12, 99, 19]],
      [0x00, [0x59, 0x59, 0x91, 0x31, 0x12, 0x99, 0x19]],
      [0x04, [59, 59, 0x8b, 31, 12, 99, 19]],
    ] as const) {
      const { rig } = bench();
      put(rig, 0x0b, b);
      setTime(
        rig,
        [0, 2, 4, 7, 8, 9, 0x32].map((r, i) => [r, regs[i] as number] as const),
      );
      expect(get(rig, 0)).toBe(regs[0]);
      rig.clock.advance(1e9);
      put(rig, 0x0b, 0x02);
      expect(stamp(rig).replace(/^(.{11}) .. /, '$1 ')).toBe('20 00 01 01 00 00 00');
    }
  });

  it('stands still while SET is on, and keeps the phase of its seconds', () => {
    const { rig } = bench();
    put(rig, 0x0b, 0x82);
    rig.clock.advance(10e9);
    expect(get(rig, 0)).toBe(0x45);
    put(rig, 0x0b, 0x02);
    expect(get(rig, 0)).toBe(0x45);
    rig.clock.advance(750e6);
    expect(get(rig, 0)).toBe(0x46);
  });

  it('starts half a second after the divider leaves reset', () => {
    const { rig } = bench();
    put(rig, 0x0a, 0x70);
    rig.clock.advance(3.1e9);
    expect(get(rig, 0)).toBe(0x45);
    put(rig, 0x0a, 0x26);
    rig.clock.advance(500e6 - 1);
    expect(get(rig, 0)).toBe(0x45);
    rig.clock.advance(1);
    expect(get(rig, 0)).toBe(0x46);
  });

  it('counts the day of the week from what the guest set', () => {
    const { rig } = bench();
    setTime(rig, [[6, 5]]);
    rig.clock.advance(3 * 86_400e9);
    expect(get(rig, 6)).toBe(1);
  });

  it('stands still on a date that does not exist, until it is mended', () => {
    const { rig } = bench();
    put(rig, 8, 0x13);
    rig.clock.advance(5e9);
    expect([get(rig, 8), get(rig, 0)]).toEqual([0x13, 0x45]);
    put(rig, 8, 0x12);
    rig.clock.advance(1e9);
    expect([get(rig, 8), get(rig, 0)]).toEqual([0x12, 0x46]);
  });

  it('has the PS/2 century byte too', () => {
    const { rig } = bench();
    expect(get(rig, 0x37)).toBe(0x20);
    put(rig, 0x37, 0x19);
    expect(get(rig, 0x32)).toBe(0x19);
  });

  it('shows UIP for the 2228 µs before each new second, not while SET', () => {
    const { rig } = bench();
    rig.clock.advance(750e6 - 2_228_000 - 1);
    expect(get(rig, 0x0a)).toBe(0x26);
    rig.clock.advance(1);
    expect(get(rig, 0x0a)).toBe(0xa6);
    put(rig, 0x0b, 0x82);
    expect(get(rig, 0x0a)).toBe(0x26);
    put(rig, 0x0b, 0x02);
    rig.clock.advance(2_228_000 - 1);
    expect([get(rig, 0x0a), get(rig, 0)]).toEqual([0xa6, 0x45]);
    rig.clock.advance(1);
    expect([get(rig, 0x0a), get(rig, 0)]).toEqual([0x26, 0x46]);
  });

  it('ignores writes to C, D and UIP', () => {
    const { rig } = bench();
    put(rig, 0x0a, 0xa6);
    put(rig, 0x0c, 0xff);
    put(rig, 0x0d, 0x00);
    expect([0x0a, 0x0c, 0x0d].map((r) => get(rig, r))).toEqual([0x26, 0, 0x80]);
  });
});

describe('interrupts', () => {
  it.each([
    [1, 256],
    [2, 128],
    [3, 8192],
    [6, 1024],
    [15, 2],
  ])('rate %i is %i Hz, with no drift', (rs, hz) => {
    const { rig, irq } = bench();
    put(rig, 0x0a, 0x20 | rs);
    put(rig, 0x0b, 0x42);
    get(rig, 0x0c);
    let n = 0;
    const end = rig.clock.now() + 2e9;
    while (rig.clock.nextDeadline() <= end) {
      rig.clock.advance(rig.clock.nextDeadline() - rig.clock.now());
      expect(irq.high).toBe(true);
      expect(get(rig, 0x0c) & 0xc0).toBe(0xc0);
      expect(irq.high).toBe(false);
      n++;
    }
    expect(n).toBe(hz * 2);
  });

  it('sets flags without raising the line when they are not enabled', () => {
    const { rig, irq } = bench();
    get(rig, 0x0c);
    rig.clock.advance(1e9);
    expect(get(rig, 0x0c)).toBe(0x50);
    expect(get(rig, 0x0c)).toBe(0);
    expect(irq.edges).toBe(0);
    expect(rig.clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
  });

  it('raises the line when an enable meets a flag that is already set', () => {
    const { rig, irq } = bench();
    rig.clock.advance(1e9);
    put(rig, 0x0b, 0x12);
    expect(irq.high).toBe(true);
    put(rig, 0x0b, 0x02);
    expect(irq.high).toBe(false);
  });

  it('raises nothing more until C is read', () => {
    const { rig, irq } = bench();
    put(rig, 0x0a, 0x23);
    put(rig, 0x0b, 0x42);
    rig.clock.advance(1e9);
    expect(rig.clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
    rig.clock.advance(100e9);
    expect(irq.edges).toBe(1);
  });

  it('ends each update with UF', () => {
    const { rig, irq } = bench();
    put(rig, 0x0b, 0x12);
    get(rig, 0x0c);
    rig.clock.advance(750e6 - 1);
    expect(irq.high).toBe(false);
    rig.clock.advance(1);
    expect(irq.high).toBe(true);
    expect(get(rig, 0x0c) & 0x90).toBe(0x90);
    put(rig, 0x0b, 0x92); // SET takes UIE away
    expect(get(rig, 0x0b)).toBe(0x82);
  });

  it.each([
    ['exact, later today', [0x00, 0x00, 0x12], 5355e9 - 250e6],
    ['exact, tomorrow', [0x45, 0x30, 0x10], 86_400e9 - 250e6],
    ['every minute at :10', [0x10, 0xff, 0xff], 25e9 - 250e6],
    ['every hour at 15:00', [0x00, 0x15, 0xff], 2655e9 - 250e6],
    ['any second of 09:05', [0xc0, 0x05, 0x09], 81_255e9 - 250e6],
    ['every second', [0xff, 0xff, 0xff], 1e9 - 250e6],
  ])('alarm: %s', (_name, alarm, after) => {
    const { rig, irq } = bench();
    for (const [i, r] of [1, 3, 5].entries()) put(rig, r, alarm[i] as number);
    put(rig, 0x0b, 0x22);
    get(rig, 0x0c);
    rig.clock.advance(after - 1);
    expect(irq.edges).toBe(0);
    rig.clock.advance(1);
    expect(irq.high).toBe(true);
    expect(get(rig, 0x0c) & 0xa0).toBe(0xa0);
  });

  it('never rings an alarm that no time matches', () => {
    const { rig, irq } = bench();
    put(rig, 1, 0x7a);
    put(rig, 0x0b, 0x22);
    rig.clock.advance(86_400e9 * 3);
    expect(irq.edges).toBe(0);
    expect(get(rig, 0x0c) & 0x20).toBe(0);
  });

  it('finds an alarm that passed unwatched', () => {
    const { rig } = bench();
    for (const [r, v] of [
      [1, 0x00],
      [3, 0x31],
      [5, 0x10],
    ] as const)
      put(rig, r, v);
    get(rig, 0x0c);
    rig.clock.advance(10e9);
    expect(get(rig, 0x0c) & 0x20).toBe(0);
    rig.clock.advance(10e9);
    expect(get(rig, 0x0c) & 0x20).toBe(0x20);
  });

  it('yields IRQ 8 to the HPET and takes it back', () => {
    const { rig, rtc, irq } = bench();
    put(rig, 0x0b, 0x12);
    rtc.setIrqEnabled(false);
    rig.clock.advance(1e9);
    expect(irq.high).toBe(false);
    rtc.setIrqEnabled(true);
    expect(irq.high).toBe(true);
  });
});

describe('memory', () => {
  const sizes = (lowmem: number, highmem = 0): number[] => {
    const { rig } = bench({ lowmem, highmem });
    const high = get(rig, 0x5b) | (get(rig, 0x5c) << 8) | (get(rig, 0x5d) << 16);
    return [word(rig, 0x15), word(rig, 0x17), word(rig, 0x30), word(rig, 0x34), high];
  };

  it.each([
    ['64 KiB', 65_536, 0, [64, 0, 0, 0, 0]],
    ['8 MiB', 8 * MIB, 0, [640, 7168, 7168, 0, 0]],
    ['16 MiB', 16 * MIB, 0, [640, 15_360, 15_360, 0, 0]],
    ['17 MiB', 17 * MIB, 0, [640, 16_384, 16_384, 16, 0]],
    ['3 GiB and 2 GiB', 3072 * MIB, 2048 * MIB, [640, 65_535, 65_535, 3056 * 16, 32_768]],
    ['3 GiB and 2 TiB', 3072 * MIB, 2 ** 41, [640, 65_535, 65_535, 3056 * 16, 0xffffff]],
  ])('tells firmware of %s', (_name, low, high, expected) => {
    expect(sizes(low, high)).toEqual(expected);
  });

  it('has a valid checksum over 0x10-0x2D', () => {
    const { rig } = bench();
    let sum = 0;
    for (let i = 0x10; i <= 0x2d; i++) sum += get(rig, i);
    expect((get(rig, 0x2e) << 8) | get(rig, 0x2f)).toBe(sum);
  });

  it('keeps what the guest writes, in both banks', () => {
    const { rig } = bench();
    put(rig, 0x7f, 0xaa);
    rig.cpu.out8(0x72, 0xff);
    expect(rig.cpu.in8(0x72)).toBe(0x7f);
    expect(rig.cpu.in8(0x73)).toBe(0);
    rig.cpu.out8(0x73, 0x55);
    expect([get(rig, 0x7f), rig.cpu.in8(0x73)]).toEqual([0xaa, 0x55]);
  });

  it('takes index and data in one 16-bit write', () => {
    const { rig } = bench();
    rig.cpu.out16(0x70, 0x5a40);
    expect(get(rig, 0x40)).toBe(0x5a);
  });

  it('lets the host write plain bytes only', () => {
    const { rig, rtc } = bench();
    rtc.setNvram(0x3d, 0x21);
    rtc.setNvram(0x0b, 0xff);
    rtc.setNvram(0x200, 1);
    expect([get(rig, 0x3d), get(rig, 0x0b)]).toEqual([0x21, 0x02]);
  });

  it('shows the NMI mask and hides the index', () => {
    const { rig, rtc, masks } = bench();
    rig.cpu.out8(0x70, 0x8f);
    rig.cpu.out8(0x70, 0x8e);
    expect(rtc.nmiMasked).toBe(true);
    expect(rig.cpu.in8(0x70)).toBe(0xff);
    rig.cpu.out8(0x70, 0x0f);
    expect(masks).toEqual([true, false]);
  });

  it('refuses sizes that are none', () => {
    let error: unknown;
    try {
      bench({ lowmem: Number.NaN });
    } catch (e) {
      error = e;
    }
    expect(isHyveError(error, 'RTC_MEMORY')).toBe(true);
  });
});

type Step = [kind: number, index: number, width: Width, value: number];
const script: fc.Arbitrary<Step[]> = fc.array(
  fc.tuple(
    fc.nat(3),
    fc.oneof(fc.nat(0x0f), fc.constantFrom(0x0a, 0x0b, 0x0c, 0x32), fc.nat(0xff)),
    fc.constantFrom<Width>(1, 2, 4),
    fc.nat(0xff),
  ),
  { maxLength: 60 },
);

function play(b: Bench, steps: readonly Step[]): number[] {
  const seen: number[] = [];
  for (const [kind, index, width, value] of steps) {
    if (kind === 0) put(b.rig, index, value);
    else if (kind === 1) seen.push(get(b.rig, index));
    else if (kind === 2) seen.push(b.rig.cpu.in(0x70 + (value & 3), width));
    else b.rig.clock.advance(value * 9_876_543);
    seen.push(b.irq.high ? 1 : 0);
  }
  return seen;
}

describe('hostile guest', () => {
  it('never throws, and reset ends every interrupt', () => {
    fc.assert(
      fc.property(script, (steps) => {
        const b = bench();
        play(b, steps);
        b.rtc.reset();
        expect(b.irq.high).toBe(false);
        expect(get(b.rig, 0x0b) & 0x78).toBe(0);
        expect(get(b.rig, 0x0c)).toBe(0);
        b.rig.clock.advance(5e9);
        expect(b.irq.high).toBe(false);
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
        copy.rtc.load(JSON.parse(JSON.stringify(b.rtc.save())));
        expect(copy.irq.edges).toBe(0);
        expect(play(copy, after)).toEqual(play(b, after));
      }),
      { numRuns: 150 },
    );
  });
});

it('loads on a clock that shows another time, and rejects other versions', () => {
  const { rig, rtc } = bench();
  rig.clock.advance(400e6);
  const copy = bench({ wallClock: () => 0 });
  copy.rig.clock.advance(77e9);
  copy.rtc.load(rtc.save());
  expect(stamp(copy.rig)).toBe('20 26 11 22 01 10 30 45');
  copy.rig.clock.advance(350e6);
  expect(get(copy.rig, 0)).toBe(0x46);
  let error: unknown;
  try {
    rtc.load({ ...rtc.save(), v: 0 });
  } catch (e) {
    error = e;
  }
  expect(isHyveError(error, 'STATE_VERSION')).toBe(true);
});

it('exports', () => {
  expect(Object.keys(api).sort()).toEqual(['Rtc', 'claimRtc']);
});
