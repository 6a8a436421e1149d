import { isHyveError, TimerQueue, type Width } from '@hyve/core';
import { createRig, type ManualClock, RecordingIrq, type Rig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { nsOfTick, ticksAt } from '../src/chip/ticks.ts';
import * as api from '../src/pit/index.ts';
import { claimPit, PIT_HZ, Pit8254 } from '../src/pit/index.ts';

interface Bench {
  rig: Rig;
  pit: Pit8254;
  irq: RecordingIrq;
}

function bench(): Bench {
  const rig = createRig();
  const irq = rig.irq(0);
  const pit = new Pit8254({ clock: rig.clock, irq });
  claimPit(rig.pio, pit);
  return { rig, pit, irq };
}

/** Moves to the first nanosecond of an input clock tick. */
function toTick(clock: ManualClock, tick: number): void {
  clock.advance(nsOfTick(tick, PIT_HZ) - clock.now());
}

/** Programs a counter: both bytes, LSB first. */
function program(rig: Rig, counter: number, mode: number, count: number, bcd = 0): void {
  rig.cpu.out8(0x43, (counter << 6) | 0x30 | (mode << 1) | bcd);
  rig.cpu.out8(0x40 + counter, count & 0xff);
  rig.cpu.out8(0x40 + counter, count >>> 8);
}

/** Counter latch command and two reads. */
function latched(rig: Rig, counter: number): number {
  rig.cpu.out8(0x43, counter << 6);
  const low = rig.cpu.in8(0x40 + counter);
  return (rig.cpu.in8(0x40 + counter) << 8) | low;
}

/** OUT of a counter through the read-back command. */
function status(rig: Rig, counter: number): number {
  rig.cpu.out8(0x43, 0xe0 | (2 << counter));
  return rig.cpu.in8(0x40 + counter);
}

const out = (rig: Rig, counter: number): number => status(rig, counter) >>> 7;

describe('tick arithmetic', () => {
  it('is exact for years: 1,193,182 ticks in every second', () => {
    for (const s of [0, 1, 7, 3600, 86_400 * 100]) {
      expect(ticksAt(s * 1e9, PIT_HZ)).toBe(s * PIT_HZ);
      if (s > 0) expect(ticksAt(s * 1e9 - 1, PIT_HZ)).toBe(s * PIT_HZ - 1);
    }
  });

  it('inverts: the first nanosecond of a tick', () => {
    fc.assert(
      fc.property(fc.nat({ max: 10 ** 13 }), fc.constantFrom(32768, PIT_HZ, 3579545), (tick, hz) => {
        const ns = nsOfTick(tick, hz);
        if (ns > 2 ** 53) return;
        expect(ticksAt(ns, hz)).toBe(tick);
        expect(ticksAt(ns - 1, hz)).toBe(tick - 1);
      }),
    );
  });

  it('agrees with exact integers', () => {
    fc.assert(
      fc.property(fc.nat({ max: 2 ** 53 - 1 }), fc.constantFrom(32768, PIT_HZ, 3579545), (ns, hz) => {
        expect(ticksAt(ns, hz)).toBe(Number((BigInt(ns) * BigInt(hz)) / 1_000_000_000n));
      }),
    );
  });
});

describe('reset', () => {
  it('leaves counters unprogrammed with OUT low, port 0x61 with the gate off', () => {
    const { rig, irq } = bench();
    for (let c = 0; c < 3; c++) expect(status(rig, c)).toBe(0x70);
    expect(rig.cpu.in8(0x61) & 0x2f).toBe(0);
    expect(rig.cpu.in8(0x43)).toBe(0xff);
    rig.clock.advance(1e9);
    expect(irq.edges).toBe(0);
  });
});

describe('mode 0, interrupt on terminal count', () => {
  // Linux (quick_pit_calibrate) reads right after writing and counts on a port access taking a microsecond.
  it('shows a new count before the tick that loads it; null count stays set until then', () => {
    const { rig } = bench();
    rig.cpu.out8(0x61, 1);
    toTick(rig.clock, 100);
    program(rig, 2, 0, 0xffff);
    expect([latched(rig, 2), status(rig, 2) & 0x40]).toEqual([0xffff, 0x40]);
    toTick(rig.clock, 101);
    expect([latched(rig, 2), status(rig, 2) & 0x40]).toEqual([0xffff, 0]);
    toTick(rig.clock, 102);
    expect(latched(rig, 2)).toBe(0xfffe);
  });

  it('raises OUT exactly N + 1 ticks after the count is written', () => {
    const { rig, irq } = bench();
    toTick(rig.clock, 100);
    program(rig, 0, 0, 1000);
    expect(irq.high).toBe(false);
    rig.clock.advance(nsOfTick(1101, PIT_HZ) - 1 - rig.clock.now()); // the last nanosecond of tick 1100
    expect(irq.high).toBe(false);
    rig.clock.advance(1);
    expect(irq.high).toBe(true);
    rig.clock.advance(1e9);
    expect(irq.edges).toBe(1);
  });

  it('loads on the next tick, counts down and wraps', () => {
    const { rig } = bench();
    program(rig, 0, 0, 5);
    expect(status(rig, 0)).toBe(0x70); // null count
    toTick(rig.clock, 1);
    expect(status(rig, 0)).toBe(0x30);
    expect(latched(rig, 0)).toBe(5);
    toTick(rig.clock, 4);
    expect(latched(rig, 0)).toBe(2);
    toTick(rig.clock, 7);
    expect(latched(rig, 0)).toBe(0xffff);
    expect(out(rig, 0)).toBe(1);
  });

  it('stops at the first byte of a new count and starts over with the second', () => {
    const { rig, irq } = bench();
    program(rig, 0, 0, 100);
    toTick(rig.clock, 50);
    rig.cpu.out8(0x40, 200);
    toTick(rig.clock, 1000);
    expect(irq.edges).toBe(0);
    rig.cpu.out8(0x40, 0);
    toTick(rig.clock, 1201);
    expect(irq.edges).toBe(1);
  });

  it('takes 0 for 65536', () => {
    const { rig, irq } = bench();
    program(rig, 0, 0, 0);
    toTick(rig.clock, 65536);
    expect(irq.high).toBe(false);
    toTick(rig.clock, 65537);
    expect(irq.high).toBe(true);
  });
});

describe('mode 1, one-shot on counter 2', () => {
  it('waits for a gate edge, keeps OUT low for N ticks, and triggers again', () => {
    const { rig } = bench();
    program(rig, 2, 1, 10);
    toTick(rig.clock, 100);
    expect(out(rig, 2)).toBe(1);
    rig.cpu.out8(0x61, 1);
    toTick(rig.clock, 101);
    expect(out(rig, 2)).toBe(0);
    toTick(rig.clock, 106);
    rig.cpu.out8(0x61, 0);
    rig.cpu.out8(0x61, 1);
    expect(out(rig, 2)).toBe(0);
    toTick(rig.clock, 116);
    expect(out(rig, 2)).toBe(0);
    toTick(rig.clock, 117);
    expect(out(rig, 2)).toBe(1);
  });

  it('uses a new count from the next trigger on', () => {
    const { rig } = bench();
    program(rig, 2, 1, 10);
    rig.cpu.out8(0x61, 1);
    toTick(rig.clock, 5);
    rig.cpu.out8(0x42, 20);
    rig.cpu.out8(0x42, 0);
    toTick(rig.clock, 11);
    expect(out(rig, 2)).toBe(1);
    rig.cpu.out8(0x61, 0);
    rig.cpu.out8(0x61, 1);
    toTick(rig.clock, 31);
    expect(out(rig, 2)).toBe(0);
    toTick(rig.clock, 32);
    expect(out(rig, 2)).toBe(1);
  });
});

describe('mode 2, rate generator', () => {
  it('gives one edge every N ticks, none lost and none late, for a minute', () => {
    const { rig, irq } = bench();
    program(rig, 0, 2, 11932);
    const first = irq.edges; // OUT goes high with the control word
    toTick(rig.clock, 1 + 11932 - 1);
    expect(irq.edges - first).toBe(0);
    toTick(rig.clock, 1 + 11932);
    expect(irq.edges - first).toBe(1);
    rig.clock.advance(60e9 - rig.clock.now());
    expect(irq.edges - first).toBe(Math.floor((60 * PIT_HZ - 1) / 11932));
  });

  it('counts N to 1, OUT low in the last tick', () => {
    const { rig } = bench();
    program(rig, 0, 2, 4);
    const seen: [number, number][] = [];
    for (let t = 1; t <= 9; t++) {
      toTick(rig.clock, t);
      seen.push([latched(rig, 0), out(rig, 0)]);
    }
    expect(seen.map(([v]) => v)).toEqual([4, 3, 2, 1, 4, 3, 2, 1, 4]);
    expect(seen.map(([, o]) => o)).toEqual([1, 1, 1, 0, 1, 1, 1, 0, 1]);
  });

  it('takes a new count over at the end of the period', () => {
    const { rig, irq } = bench();
    program(rig, 0, 2, 1000);
    const first = irq.edges;
    toTick(rig.clock, 1500);
    rig.cpu.out8(0x40, 100);
    rig.cpu.out8(0x40, 0);
    expect(status(rig, 0) & 0x40).toBe(0x40);
    toTick(rig.clock, 2000);
    expect(irq.edges - first).toBe(1);
    toTick(rig.clock, 2001);
    expect(irq.edges - first).toBe(2);
    toTick(rig.clock, 2401);
    expect(irq.edges - first).toBe(6);
  });

  it('stops at gate low with OUT high and reloads at gate high', () => {
    const { rig } = bench();
    rig.cpu.out8(0x61, 1);
    program(rig, 2, 2, 100);
    toTick(rig.clock, 31);
    rig.cpu.out8(0x61, 0);
    toTick(rig.clock, 500);
    expect(latched(rig, 2)).toBe(70);
    expect(out(rig, 2)).toBe(1);
    rig.cpu.out8(0x61, 1);
    toTick(rig.clock, 511);
    expect(latched(rig, 2)).toBe(90);
  });
});

describe('mode 3, square wave', () => {
  it.each([
    [6, [6, 4, 2, 6, 4, 2, 6], [1, 1, 1, 0, 0, 0, 1]],
    [5, [4, 2, 0, 4, 2, 4, 2], [1, 1, 1, 0, 0, 1, 1]],
  ])('counts %i by twos', (n, values, levels) => {
    const { rig } = bench();
    program(rig, 0, 3, n);
    for (let t = 1; t <= 7; t++) {
      toTick(rig.clock, t);
      expect([latched(rig, 0), out(rig, 0)]).toEqual([values[t - 1], levels[t - 1]]);
    }
  });

  it('drives the line up and down with one edge per period', () => {
    const { rig, irq } = bench();
    program(rig, 0, 3, 0);
    const first = irq.edges;
    toTick(rig.clock, 1 + 32768);
    expect(irq.high).toBe(false);
    toTick(rig.clock, 1 + 65536);
    expect(irq.high).toBe(true);
    rig.clock.advance(100e9);
    expect(irq.edges - first).toBe(Math.floor((ticksAt(rig.clock.now(), PIT_HZ) - 1) / 65536));
  });

  it('takes a new count over at the end of the half-period', () => {
    const { rig } = bench();
    program(rig, 0, 3, 100);
    toTick(rig.clock, 20);
    rig.cpu.out8(0x40, 20);
    rig.cpu.out8(0x40, 0);
    const levels: number[] = [];
    for (const t of [50, 51, 60, 61, 70, 71]) {
      toTick(rig.clock, t);
      levels.push(out(rig, 0));
    }
    expect(levels).toEqual([1, 0, 0, 1, 1, 0]);
  });
});

describe('modes 4 and 5, strobes', () => {
  it('mode 4 lowers OUT for one tick when the count ends, once', () => {
    const { rig, irq } = bench();
    program(rig, 0, 4, 50);
    const first = irq.edges;
    toTick(rig.clock, 51);
    expect(out(rig, 0)).toBe(0);
    toTick(rig.clock, 52);
    expect(out(rig, 0)).toBe(1);
    rig.clock.advance(1e9);
    expect(irq.edges - first).toBe(1);
  });

  it('mode 5 does so after a gate edge', () => {
    const { rig } = bench();
    program(rig, 2, 5, 50);
    toTick(rig.clock, 200);
    rig.cpu.out8(0x61, 1);
    toTick(rig.clock, 250);
    expect(out(rig, 2)).toBe(1);
    toTick(rig.clock, 251);
    expect(out(rig, 2)).toBe(0);
    toTick(rig.clock, 252);
    expect(out(rig, 2)).toBe(1);
  });

  it('treats mode fields 6 and 7 as 2 and 3', () => {
    const { rig } = bench();
    rig.cpu.out8(0x43, 0x3c);
    expect(status(rig, 0) & 0x3f).toBe(0x34);
    rig.cpu.out8(0x43, 0x3e);
    expect(status(rig, 0) & 0x3f).toBe(0x36);
  });
});

describe('reading and writing', () => {
  it('counts in BCD', () => {
    const { rig } = bench();
    program(rig, 0, 2, 0x1000, 1);
    toTick(rig.clock, 2);
    expect(latched(rig, 0)).toBe(0x0999);
    program(rig, 1, 0, 0x0000, 1);
    toTick(rig.clock, 4);
    expect(latched(rig, 1)).toBe(0x9999); // 10000 loaded at tick 3, one counted
  });

  it('takes one byte only as the RW field says', () => {
    const { rig } = bench();
    rig.cpu.out8(0x43, 0x10 | (2 << 1)); // LSB
    rig.cpu.out8(0x40, 200);
    toTick(rig.clock, 1);
    expect(rig.cpu.in8(0x40)).toBe(200);
    expect(rig.cpu.in8(0x40)).toBe(200);
    rig.cpu.out8(0x43, 0x20 | (2 << 1)); // MSB
    rig.cpu.out8(0x40, 3);
    toTick(rig.clock, 2);
    expect(rig.cpu.in8(0x40)).toBe(3);
    toTick(rig.clock, 3);
    expect(rig.cpu.in8(0x40)).toBe(2);
  });

  it('holds a latched count until it is read, and ignores a second latch', () => {
    const { rig } = bench();
    program(rig, 0, 2, 5000);
    toTick(rig.clock, 101);
    rig.cpu.out8(0x43, 0x00);
    toTick(rig.clock, 201);
    rig.cpu.out8(0x43, 0x00);
    const low = rig.cpu.in8(0x40);
    expect((rig.cpu.in8(0x40) << 8) | low).toBe(4900);
    expect(latched(rig, 0)).toBe(4800);
  });

  it('reads back status first, then the count, of several counters', () => {
    const { rig } = bench();
    program(rig, 0, 2, 5000);
    program(rig, 1, 3, 600);
    toTick(rig.clock, 11);
    rig.cpu.out8(0x43, 0xc0 | 2 | 4);
    toTick(rig.clock, 100);
    expect(rig.cpu.in8(0x40)).toBe(0xb4);
    expect(rig.cpu.in8(0x40) | (rig.cpu.in8(0x40) << 8)).toBe(4990);
    expect(rig.cpu.in8(0x41)).toBe(0xb6);
    expect(rig.cpu.in8(0x41) | (rig.cpu.in8(0x41) << 8)).toBe(580);
  });
});

describe('port 0x61', () => {
  it('lets a guest time 10 ms with counter 2 in mode 0, to the tick', () => {
    const { rig } = bench();
    rig.cpu.out8(0x61, (rig.cpu.in8(0x61) & ~2) | 1);
    const count = Math.floor(PIT_HZ / 100);
    program(rig, 2, 0, count);
    let polls = 0;
    while ((rig.cpu.in8(0x61) & 0x20) === 0 && polls < 200_000) {
      rig.clock.advance(100);
      polls++;
    }
    // count + 1 ticks, and at most one poll more
    const wanted = nsOfTick(count + 1, PIT_HZ);
    expect(polls * 100 - wanted).toBeGreaterThanOrEqual(0);
    expect(polls * 100 - wanted).toBeLessThan(100);
  });

  it('pauses mode 0 while the gate is low', () => {
    const { rig } = bench();
    program(rig, 2, 0, 100); // gate low: loaded, not counting
    toTick(rig.clock, 500);
    expect(rig.cpu.in8(0x61) & 0x20).toBe(0);
    rig.cpu.out8(0x61, 1);
    toTick(rig.clock, 540);
    rig.cpu.out8(0x61, 0);
    toTick(rig.clock, 900);
    expect(latched(rig, 2)).toBe(60);
    rig.cpu.out8(0x61, 1);
    toTick(rig.clock, 959);
    expect(rig.cpu.in8(0x61) & 0x20).toBe(0);
    toTick(rig.clock, 960);
    expect(rig.cpu.in8(0x61) & 0x20).toBe(0x20);
  });

  it('keeps bits 0-3, and toggles bit 4 every 18 ticks', () => {
    const { rig } = bench();
    rig.cpu.out8(0x61, 0xff);
    expect(rig.cpu.in8(0x61)).toBe(0x0f);
    toTick(rig.clock, 18);
    expect(rig.cpu.in8(0x61) & 0x10).toBe(0x10);
    toTick(rig.clock, 36);
    expect(rig.cpu.in8(0x61) & 0x10).toBe(0);
  });
});

describe('late host', () => {
  /** A clock that jumps, as a host does that was busy. */
  function jumpy(): { queue: TimerQueue; irq: RecordingIrq; rig: Rig; jump(ns: number): void } {
    let now = 0;
    const queue = new TimerQueue(() => now);
    const rig = createRig();
    const irq = new RecordingIrq();
    const pit = new Pit8254({ clock: queue, irq });
    claimPit(rig.pio, pit);
    return {
      queue,
      irq,
      rig,
      jump: (ns) => {
        now += ns;
        queue.runDue();
      },
    };
  }

  it('delivers a few missed ticks one by one and loses none', () => {
    const b = jumpy();
    program(b.rig, 0, 2, 1193); // about 1 ms
    const first = b.irq.edges;
    for (let ms = 0; ms < 1000; ) {
      b.jump(7e6);
      ms += 7;
      for (let i = 0; i < 8; i++) b.jump(20_000);
    }
    b.jump(0);
    const now = b.queue.now();
    expect(b.irq.edges - first).toBe(Math.floor((ticksAt(now, PIT_HZ) - 1) / 1193));
  });

  it('merges into one after a long gap', () => {
    const b = jumpy();
    program(b.rig, 0, 2, 1193);
    const first = b.irq.edges;
    b.jump(3600e9);
    for (let i = 0; i < 20; i++) b.jump(20_000);
    expect(b.irq.edges - first).toBeLessThanOrEqual(2);
    expect(b.irq.edges - first).toBeGreaterThanOrEqual(1);
  });

  it('bounds the work of a guest that asks for 600 kHz', () => {
    const { rig, irq } = bench();
    program(rig, 0, 2, 2);
    rig.clock.advance(10e6);
    expect(irq.edges).toBeLessThanOrEqual(1002);
    expect(irq.edges).toBeGreaterThan(900);
  });
});

it('yields IRQ 0 to the HPET and takes it back', () => {
  const { rig, pit, irq } = bench();
  program(rig, 0, 2, 1193);
  pit.setIrqEnabled(false);
  const edges = irq.edges;
  rig.clock.advance(50e6);
  expect(irq.edges).toBe(edges);
  expect(irq.high).toBe(false);
  pit.setIrqEnabled(true);
  rig.clock.advance(50e6);
  expect(irq.edges).toBeGreaterThan(edges + 40);
});

type Step = [kind: number, port: number, width: Width, value: number];
const script: fc.Arbitrary<Step[]> = fc.array(
  fc.tuple(fc.nat(4), fc.nat(4), fc.constantFrom<Width>(1, 2, 4), fc.nat(0xff)),
  { maxLength: 60 },
);
const PORTS = [0x40, 0x41, 0x42, 0x43, 0x61];

function play(b: Bench, steps: readonly Step[]): number[] {
  const seen: number[] = [];
  for (const [kind, port, width, value] of steps) {
    if (kind <= 1) b.rig.cpu.out8(PORTS[port] as number, value);
    else if (kind === 2) seen.push(b.rig.cpu.in(PORTS[port] as number, width));
    else if (kind === 3) b.rig.clock.advance(value * 997);
    else seen.push(b.irq.high ? 1 : 0);
  }
  return seen;
}

describe('hostile guest', () => {
  it('never throws and resets to the reset values', () => {
    fc.assert(
      fc.property(script, (steps) => {
        const b = bench();
        play(b, steps);
        b.pit.reset();
        for (let c = 0; c < 3; c++) expect(status(b.rig, c)).toBe(0x70);
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
        copy.pit.load(JSON.parse(JSON.stringify(b.pit.save())));
        expect(copy.irq.edges).toBe(0);
        const edges = b.irq.edges;
        expect(play(copy, after)).toEqual(play(b, after));
        expect(copy.irq.edges).toBe(b.irq.edges - edges);
      }),
      { numRuns: 150 },
    );
  });
});

it('loads on a clock that shows another time, and rejects other versions', () => {
  const { rig, pit } = bench();
  toTick(rig.clock, 1000);
  program(rig, 0, 2, 10000);
  toTick(rig.clock, 1501);
  const copy = bench();
  copy.pit.load(pit.save());
  expect(latched(copy.rig, 0)).toBe(9500);
  let error: unknown;
  try {
    copy.pit.load({ ...pit.save(), v: 9 });
  } catch (e) {
    error = e;
  }
  expect(isHyveError(error, 'STATE_VERSION')).toBe(true);
});

it('exports', () => {
  expect(Object.keys(api).sort()).toEqual(['PIT_HZ', 'Pit8254', 'claimPit']);
});
