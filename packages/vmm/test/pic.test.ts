import { isHyveError, type Width } from '@hyve/core';
import { createRig, type Rig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/pic/index.ts';
import { claimPic, Pic8259 } from '../src/pic/index.ts';

interface Bench {
  rig: Rig;
  pic: Pic8259;
  intr: boolean[];
}

function bench(): Bench {
  const rig = createRig();
  const intr: boolean[] = [];
  const pic = new Pic8259({ onIntr: (high) => intr.push(high) });
  claimPic(rig.pio, pic);
  return { rig, pic, intr };
}

/** The usual initialization: master at 0x20, slave at 0x28, all unmasked. */
function init(rig: Rig, icw4Master = 1, icw4Slave = 1): void {
  const { cpu } = rig;
  cpu.out8(0x20, 0x11);
  cpu.out8(0xa0, 0x11);
  cpu.out8(0x21, 0x20);
  cpu.out8(0xa1, 0x28);
  cpu.out8(0x21, 4);
  cpu.out8(0xa1, 2);
  cpu.out8(0x21, icw4Master);
  cpu.out8(0xa1, icw4Slave);
  cpu.out8(0x21, 0);
  cpu.out8(0xa1, 0);
}

function ready(icw4Master = 1, icw4Slave = 1): Bench {
  const b = bench();
  init(b.rig, icw4Master, icw4Slave);
  return b;
}

function isr(rig: Rig, port = 0x20): number {
  rig.cpu.out8(port, 0x0b);
  return rig.cpu.in8(port);
}

function irr(rig: Rig, port = 0x20): number {
  rig.cpu.out8(port, 0x0a);
  return rig.cpu.in8(port);
}

const RESET: [string, number, number][] = [
  ['master IRR', 0x20, 0],
  ['master IMR', 0x21, 0],
  ['slave IRR', 0xa0, 0],
  ['slave IMR', 0xa1, 0],
  ['ELCR 1', 0x4d0, 0],
  ['ELCR 2', 0x4d1, 0],
];

describe('reset', () => {
  it.each(RESET)('%s', (_name, port, value) => {
    expect(bench().rig.cpu.in8(port)).toBe(value);
  });

  it('asks for nothing before it is initialized', () => {
    const { rig, pic, intr } = bench();
    pic.connect(4, 'com1').set(true);
    expect(pic.hasInterrupt).toBe(false);
    expect(intr).toEqual([]);
    expect(irr(rig)).toBe(0x10);
    init(rig);
    expect(pic.hasInterrupt).toBe(false); // ICW1 drops edge requests
  });
});

describe('edge-triggered requests', () => {
  it('delivers vector base + level once per edge and holds equal and lower levels until EOI', () => {
    const { rig, pic } = ready();
    const irq = pic.connect(4, 'com1');
    const low = pic.connect(5, 'lpt2');
    irq.set(true);
    expect(pic.hasInterrupt).toBe(true);
    expect(pic.acknowledge()).toBe(0x24);
    expect(isr(rig)).toBe(0x10);
    expect(irr(rig)).toBe(0);
    expect(pic.hasInterrupt).toBe(false);
    irq.set(false);
    irq.set(true);
    low.set(true);
    expect(irr(rig)).toBe(0x30);
    expect(pic.hasInterrupt).toBe(false);
    rig.cpu.out8(0x20, 0x20);
    expect(pic.acknowledge()).toBe(0x24);
    rig.cpu.out8(0x20, 0x20);
    expect(pic.acknowledge()).toBe(0x25);
    rig.cpu.out8(0x20, 0x20);
    expect(pic.hasInterrupt).toBe(false);
  });

  it('lets a higher level in while a lower one is in service', () => {
    const { rig, pic } = ready();
    pic.connect(4, 'com1').set(true);
    pic.acknowledge();
    pic.connect(1, 'kbd').set(true);
    expect(pic.acknowledge()).toBe(0x21);
    expect(isr(rig)).toBe(0x12);
    rig.cpu.out8(0x20, 0x20);
    expect(isr(rig)).toBe(0x10);
  });

  it('keeps a latched edge when the line drops, and ignores a restored level', () => {
    const { rig, pic } = ready();
    const irq = pic.connect(3, 'com2');
    irq.set(true);
    irq.set(false);
    expect(pic.acknowledge()).toBe(0x23);
    rig.cpu.out8(0x20, 0x20);
    irq.restore(true);
    expect(pic.hasInterrupt).toBe(false);
  });

  it('wires handles on one pin OR', () => {
    const { rig, pic } = ready();
    const x = pic.connect(4, 'x');
    const y = pic.connect(4, 'y');
    x.set(true);
    pic.acknowledge();
    rig.cpu.out8(0x20, 0x20);
    y.set(true);
    expect(pic.hasInterrupt).toBe(false);
  });

  it('holds masked requests in the IRR and reads the mask back', () => {
    const { rig, pic } = ready();
    rig.cpu.out8(0x21, 0x10);
    expect(rig.cpu.in8(0x21)).toBe(0x10);
    pic.connect(4, 'com1').set(true);
    expect(pic.hasInterrupt).toBe(false);
    expect(irr(rig)).toBe(0x10);
    rig.cpu.out8(0x21, 0);
    expect(pic.hasInterrupt).toBe(true);
  });

  it('drops INTR during INTA, so that an edge input sees one edge for each interrupt', () => {
    const { pic, intr } = ready(3);
    pic.connect(4, 'x').set(true);
    pic.connect(5, 'y').set(true);
    pic.acknowledge();
    expect(intr).toEqual([true, false, true]);
  });
});

describe('level-triggered requests (ELCR)', () => {
  it('keeps IRQ 0, 1, 2, 8 and 13 edge-triggered', () => {
    const { rig, pic } = ready();
    rig.cpu.out16(0x4d0, 0xffff);
    expect(rig.cpu.in8(0x4d0)).toBe(0xf8);
    expect(rig.cpu.in8(0x4d1)).toBe(0xde);
    expect([0, 1, 2, 8, 13].some((n) => pic.isLevel(n))).toBe(false);
    expect(pic.isLevel(9)).toBe(true);
  });

  it('forgets a latched edge when the input becomes level-triggered', () => {
    const { rig, pic } = ready();
    const irq = pic.connect(5, 'nic');
    irq.set(true);
    irq.set(false);
    rig.cpu.out8(0x4d0, 0x20);
    rig.cpu.out8(0x4d0, 0);
    expect(pic.hasInterrupt).toBe(false);
  });

  it('asks again after EOI while the line is high, and stops when it drops', () => {
    const { rig, pic } = ready();
    rig.cpu.out8(0x4d0, 0x20);
    const irq = pic.connect(5, 'nic');
    irq.set(true);
    expect(pic.acknowledge()).toBe(0x25);
    expect(irr(rig)).toBe(0x20);
    rig.cpu.out8(0x20, 0x20);
    expect(pic.acknowledge()).toBe(0x25);
    irq.set(false);
    rig.cpu.out8(0x20, 0x20);
    expect(pic.hasInterrupt).toBe(false);
    rig.cpu.out8(0x4d0, 0);
    expect(irr(rig)).toBe(0);
  });

  it('gives spurious IRQ 7 without a service bit when the request went away', () => {
    const { rig, pic } = ready();
    rig.cpu.out8(0x4d0, 0x20);
    const irq = pic.connect(5, 'nic');
    irq.set(true);
    irq.set(false);
    expect(pic.acknowledge()).toBe(0x27);
    expect(isr(rig)).toBe(0);
  });

  it('gives spurious IRQ 15 with the cascade in service when a slave request went away', () => {
    const { rig, pic } = ready();
    rig.cpu.out8(0x4d1, 0x02);
    const irq = pic.connect(9, 'sci');
    irq.set(true);
    irq.set(false);
    expect(pic.acknowledge()).toBe(0x2f);
    expect(isr(rig)).toBe(0x04);
    expect(isr(rig, 0xa0)).toBe(0);
  });

  it('restores level lines after load without an edge request', () => {
    const { rig, pic } = ready();
    rig.cpu.out8(0x4d0, 0x20);
    pic.connect(5, 'nic').set(true);
    const fresh = bench();
    fresh.pic.load(pic.save());
    expect(fresh.pic.hasInterrupt).toBe(false);
    fresh.pic.connect(5, 'nic').restore(true);
    expect(fresh.pic.hasInterrupt).toBe(true);
  });
});

describe('cascade', () => {
  it('delivers slave vectors through master level 2, and EOI goes to both', () => {
    const { rig, pic } = ready();
    pic.connect(8, 'rtc').set(true);
    expect(irr(rig)).toBe(4);
    expect(pic.acknowledge()).toBe(0x28);
    expect([isr(rig), isr(rig, 0xa0)]).toEqual([4, 1]);
    pic.connect(12, 'mouse').set(true);
    rig.cpu.out8(0x20, 0x20);
    expect(pic.hasInterrupt).toBe(false); // the slave still serves 8
    rig.cpu.out8(0xa0, 0x20);
    expect(pic.acknowledge()).toBe(0x2c);
  });

  it('nests slave levels only in special fully nested mode', () => {
    for (const nested of [false, true]) {
      const { pic } = ready(nested ? 0x11 : 1);
      pic.connect(12, 'mouse').set(true);
      pic.acknowledge();
      pic.connect(3, 'com2').set(true);
      expect(pic.hasInterrupt).toBe(false); // lower than the cascade in service
      pic.connect(8, 'rtc').set(true);
      expect(pic.hasInterrupt).toBe(nested);
      if (nested) expect(pic.acknowledge()).toBe(0x28);
    }
  });

  it('hands on a further slave request when both end interrupts by themselves', () => {
    const { pic } = ready(3, 3);
    pic.connect(8, 'rtc').set(true);
    pic.connect(9, 'sci').set(true);
    expect(pic.acknowledge()).toBe(0x28);
    expect(pic.acknowledge()).toBe(0x29);
    expect(pic.hasInterrupt).toBe(false);
  });

  it('has no free input 2', () => {
    const { pic } = bench();
    for (const pin of [2, 16, -1]) {
      let error: unknown;
      try {
        pic.connect(pin, 'x');
      } catch (e) {
        error = e;
      }
      expect(isHyveError(error, 'IRQ_PIN')).toBe(true);
    }
  });
});

describe('end of interrupt and rotation (OCW2)', () => {
  /** Levels in the order they are acknowledged when all of them ask. */
  function order(b: Bench): number[] {
    const seen: number[] = [];
    for (let n = 0; n < 8; n++) {
      if (n === 2) continue;
      const line = b.pic.connect(n, 'x');
      line.set(true);
      line.set(false);
    }
    while (b.pic.hasInterrupt) {
      const level = b.pic.acknowledge() - 0x20;
      b.rig.cpu.out8(0x20, 0x60 | level);
      seen.push(level);
    }
    return seen;
  }

  it('serves 0 first after initialization', () => {
    expect(order(ready())).toEqual([0, 1, 3, 4, 5, 6, 7]);
  });

  it('sets the lowest priority by command', () => {
    const b = ready();
    b.rig.cpu.out8(0x20, 0xc3);
    expect(order(b)).toEqual([4, 5, 6, 7, 0, 1, 3]);
  });

  it('rotates on non-specific and specific EOI', () => {
    for (const eoi of [0xa0, 0xe4]) {
      const b = ready();
      const line = b.pic.connect(4, 'x');
      line.set(true);
      line.set(false);
      b.pic.acknowledge();
      b.rig.cpu.out8(0x20, eoi);
      expect(isr(b.rig)).toBe(0);
      expect(order(b)).toEqual([5, 6, 7, 0, 1, 3, 4]);
    }
  });

  it('ends interrupts by itself in AEOI, rotating when told', () => {
    const b = ready(3);
    b.pic.connect(4, 'x').set(true);
    b.pic.acknowledge();
    expect(isr(b.rig)).toBe(0);
    expect(order(b)[0]).toBe(0);
    b.rig.cpu.out8(0x20, 0x80);
    const line = b.pic.connect(5, 'y');
    line.set(true);
    b.pic.acknowledge();
    b.rig.cpu.out8(0x20, 0x00);
    expect(order(b)[0]).toBe(6);
  });

  it('ignores a non-specific EOI when nothing is in service', () => {
    const b = ready();
    b.rig.cpu.out8(0x20, 0xa0);
    expect(order(b)[0]).toBe(0);
  });
});

describe('special mask and poll (OCW3)', () => {
  it('lets lower levels in while a masked level is in service', () => {
    const { rig, pic } = ready();
    pic.connect(1, 'kbd').set(true);
    pic.acknowledge();
    pic.connect(6, 'fdc').set(true);
    rig.cpu.out8(0x21, 0x02);
    expect(pic.hasInterrupt).toBe(false);
    rig.cpu.out8(0x20, 0x68);
    expect(pic.acknowledge()).toBe(0x26);
    rig.cpu.out8(0x20, 0x20); // leaves masked level 1 alone
    expect(isr(rig)).toBe(0x02);
    rig.cpu.out8(0x20, 0x48);
    rig.cpu.out8(0x20, 0x20);
    expect(isr(rig)).toBe(0);
  });

  it('acknowledges through a poll on either register, once', () => {
    const { rig, pic } = ready();
    pic.connect(6, 'fdc').set(true);
    rig.cpu.out8(0x20, 0x0c);
    expect(rig.cpu.in8(0x20)).toBe(0x86);
    expect(pic.hasInterrupt).toBe(false);
    expect(isr(rig)).toBe(0x40);
    rig.cpu.out8(0x20, 0x0c);
    expect(rig.cpu.in8(0x21)).toBe(0);
    expect(rig.cpu.in8(0x21)).toBe(0); // the mask again
  });

  it('asks for the cascade once per slave edge when the master is polled', () => {
    const { rig, pic } = ready();
    pic.connect(10, 'x').set(true);
    rig.cpu.out8(0x20, 0x0c);
    expect(rig.cpu.in8(0x20)).toBe(0x82);
    rig.cpu.out8(0xa1, 0);
    expect([irr(rig), isr(rig)]).toEqual([0, 4]);
  });

  it('takes the request back from the master when the slave is polled', () => {
    const { rig, pic } = ready();
    pic.connect(10, 'x').set(true);
    rig.cpu.out8(0xa0, 0x0c);
    expect(rig.cpu.in8(0xa0)).toBe(0x82);
    expect(pic.hasInterrupt).toBe(false);
    expect(irr(rig)).toBe(0);
  });
});

describe('initialization', () => {
  it('skips ICW3 and ICW4 as ICW1 says', () => {
    const { rig, pic } = bench();
    rig.cpu.out8(0x20, 0x12); // single, no ICW4
    rig.cpu.out8(0x21, 0x47); // low bits of the base do not count
    rig.cpu.out8(0x21, 0xef); // the mask already
    expect(rig.cpu.in8(0x21)).toBe(0xef);
    pic.connect(4, 'com1').set(true);
    expect(pic.acknowledge()).toBe(0x44);
  });

  it('clears mask, service, priorities and read selection', () => {
    const { rig, pic } = ready();
    pic.connect(4, 'x').set(true);
    pic.acknowledge();
    rig.cpu.out8(0x21, 0xff);
    rig.cpu.out8(0x20, 0x0b);
    init(rig);
    expect(rig.cpu.in8(0x20)).toBe(0);
    expect(isr(rig)).toBe(0);
    expect(rig.cpu.in8(0x21)).toBe(0);
  });
});

type Step = [kind: number, port: number, width: Width, value: number];
const PORTS = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
const script: fc.Arbitrary<Step[]> = fc.array(
  fc.tuple(fc.nat(3), fc.nat(5), fc.constantFrom<Width>(1, 2, 4), fc.nat(0xff)),
  { maxLength: 60 },
);

function play(b: Bench, steps: readonly Step[]): number[] {
  const lines = Array.from({ length: 16 }, (_, pin) => (pin === 2 ? null : b.pic.connect(pin, 'fuzz')));
  const out: number[] = [];
  for (const [kind, port, width, value] of steps) {
    if (kind === 0) b.rig.cpu.out(PORTS[port] as number, width, value);
    else if (kind === 1) out.push(b.rig.cpu.in(PORTS[port] as number, width));
    else if (kind === 2) lines[value & 15]?.set((value & 16) !== 0);
    else out.push(b.pic.acknowledge());
    out.push(b.pic.hasInterrupt ? 1 : 0);
  }
  for (const line of lines) line?.set(false);
  return out;
}

describe('hostile guest', () => {
  it('never throws, gives vectors of 8 bits, and resets to the reset table', () => {
    fc.assert(
      fc.property(script, (steps) => {
        const b = ready();
        const out = play(b, steps);
        expect(out.every((v) => v >= 0)).toBe(true);
        // INTR follows the callback.
        expect(b.intr.at(-1) ?? false).toBe(b.pic.hasInterrupt);
        b.pic.reset();
        for (const [, port, value] of RESET) expect(b.rig.cpu.in8(port)).toBe(value);
        expect(b.pic.hasInterrupt).toBe(false);
      }),
      { numRuns: 150 },
    );
  });

  it('answers the same after save and load', () => {
    fc.assert(
      fc.property(script, script, (before, after) => {
        const b = ready();
        play(b, before);
        const copy = bench();
        copy.pic.load(JSON.parse(JSON.stringify(b.pic.save())));
        expect(play(copy, after)).toEqual(play(b, after));
      }),
      { numRuns: 150 },
    );
  });
});

it('rejects state of another version or shape', () => {
  const { pic } = bench();
  const code = (state: unknown): string => {
    try {
      pic.load(state);
    } catch (e) {
      return isHyveError(e) ? e.code : 'other';
    }
    return 'none';
  };
  expect(code({ ...pic.save(), v: 2 })).toBe('STATE_VERSION');
  expect(code(null)).toBe('STATE_FORMAT');
  expect(code({ ...pic.save(), chips: [] })).toBe('STATE_FORMAT');
});

it('exports', () => {
  expect(Object.keys(api).sort()).toEqual(['Pic8259', 'claimPic']);
});
