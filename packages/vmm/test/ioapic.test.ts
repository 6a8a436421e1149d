import { createRig, ManualClock } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/ioapic/index.ts';
import { claimIoApic, IoApic } from '../src/ioapic/index.ts';
import { ApicBus, LocalApic } from '../src/lapic/index.ts';

const BASE = 0xfec00000;

function setup(version: 0x11 | 0x20 = 0x11) {
  const rig = createRig();
  const bus = new ApicBus();
  const clock = new ManualClock();
  const apics = [0, 1].map((index) => new LocalApic({ bus, index, clock, tscHz: 1e9 }));
  for (const a of apics) a.mmioWrite(0xf0, 4, 0x1ff);
  const ioapic = new IoApic({ bus, version });
  claimIoApic(rig.mmio, ioapic);
  const rd = (i: number): number => {
    rig.cpu.write(BASE, 1, i);
    return rig.cpu.read32(BASE + 0x10);
  };
  const wr = (i: number, v: number): void => {
    rig.cpu.write(BASE, 1, i);
    rig.cpu.write32(BASE + 0x10, v >>> 0);
  };
  const a = apics[0] as LocalApic;
  /** Takes everything, ending each; the vectors. */
  const take = (x: LocalApic = a, most = 20): number[] => {
    const out: number[] = [];
    while (x.hasInterrupt() && out.length < most) {
      out.push(x.acknowledge());
      x.mmioWrite(0xb0, 4, 0);
    }
    return out;
  };
  return {
    rig,
    bus,
    apics,
    a,
    b: apics[1] as LocalApic,
    ioapic,
    rd,
    wr,
    take,
    rte: (p: number, v: number) => wr(0x10 + 2 * p, v),
  };
}
const LEVEL = 0x8000;
const MASK = 0x10000;

describe('I/O APIC', () => {
  it('exports what the README lists', () => {
    expect(Object.keys(api).sort()).toEqual(['IoApic', 'claimIoApic']);
  });

  it('has its reset values, and again after reset (82093AA §3.2)', () => {
    const s = setup();
    const check = (): void => {
      expect([s.rd(0), s.rd(1), s.rd(2), s.rd(3)]).toEqual([0, 0x170011, 0, 0]);
      for (let p = 0; p < 24; p++) expect([s.rd(0x10 + 2 * p), s.rd(0x11 + 2 * p)]).toEqual([MASK, 0]);
      expect(s.rd(0x40)).toBe(0);
    };
    check();
    for (let i = 0; i < 256; i++) s.wr(i, 0xffffffff);
    s.ioapic.reset();
    check();
  });

  it('keeps the writable bits of id and entries; version and arbitration id are read-only', () => {
    const s = setup();
    for (let i = 0; i < 0x12; i++) s.wr(i, 0xffffffff);
    expect([s.rd(0), s.rd(1), s.rd(2)]).toEqual([0x0f000000, 0x170011, 0x0f000000]);
    expect([s.rd(0x10), s.rd(0x11)]).toEqual([0x1afff, 0xff000000]);
  });

  it('takes an 8-bit index of any access width, and 32-bit data only', () => {
    const s = setup();
    s.rig.cpu.write32(BASE, 0xffffff01);
    expect(s.rig.cpu.read32(BASE)).toBe(1);
    expect(s.rig.cpu.read(BASE + 0x12, 1)).toBe(0x17);
    s.wr(0, 0);
    s.rig.cpu.write(BASE + 0x13, 1, 5);
    s.rig.cpu.write(BASE + 0x10, 2, 5);
    expect(s.rd(0)).toBe(0);
    expect(s.rig.cpu.read32(BASE + 0x20)).toBe(0);
  });

  it('delivers an edge once; a masked edge is lost', () => {
    const s = setup();
    const line = s.ioapic.connect(4, 'com1');
    s.rte(4, 0x34);
    line.set(true);
    line.set(true);
    expect(s.take()).toEqual([0x34]);
    line.set(false);
    s.rte(4, 0x34 | MASK);
    line.set(true);
    s.rte(4, 0x34);
    expect(s.take()).toEqual([]);
    line.set(false);
    line.set(true);
    expect(s.take()).toEqual([0x34]);
  });

  it('delivers a level until the pin falls, with remote IRR in between', () => {
    const s = setup();
    const line = s.ioapic.connect(16, 'nic');
    s.rte(16, 0x50 | LEVEL);
    line.set(true);
    expect(s.rd(0x30)).toBe(0x50 | LEVEL | 0x4000);
    line.set(false);
    line.set(true);
    s.a.acknowledge();
    expect(s.a.hasInterrupt()).toBe(false);
    s.a.mmioWrite(0xb0, 4, 0); // still asserted: again
    expect(s.take(s.a, 3)).toEqual([0x50, 0x50, 0x50]);
    line.set(false);
    expect(s.take()).toEqual([0x50]);
    expect(s.rd(0x30)).toBe(0x50 | LEVEL);
  });

  it('looks at a level again when unmasked, and when a pin shared by two falls half', () => {
    const s = setup();
    const x = s.ioapic.connect(17, 'x');
    const y = s.ioapic.connect(17, 'y');
    s.rte(17, 0x51 | LEVEL | MASK);
    x.set(true);
    y.set(true);
    s.rte(17, 0x51 | LEVEL);
    s.a.acknowledge();
    x.set(false);
    s.a.mmioWrite(0xb0, 4, 0);
    expect(s.a.hasInterrupt()).toBe(true);
    y.set(false);
    expect(s.take()).toEqual([0x51]);
  });

  it('clears remote IRR by a detour through edge, as Linux does on version 0x11', () => {
    const s = setup();
    const line = s.ioapic.connect(18, 'z');
    s.rte(18, 0x52 | LEVEL);
    line.set(true);
    s.rte(18, 0x52 | MASK);
    expect(s.rd(0x34)).toBe(0x52 | MASK);
    s.rte(18, 0x52 | LEVEL | MASK);
    expect(s.rd(0x34)).toBe(0x52 | LEVEL | MASK);
  });

  it('keeps remote IRR clear when nobody takes the message', () => {
    const s = setup();
    const line = s.ioapic.connect(19, 'w');
    s.wr(0x11 + 38, 9 << 24);
    s.rte(19, 0x53 | LEVEL);
    line.set(true);
    expect(s.rd(0x10 + 38)).toBe(0x53 | LEVEL);
    s.wr(0x11 + 38, 1 << 24);
    s.rte(19, 0x53 | LEVEL);
    expect(s.b.hasInterrupt()).toBe(true);
  });

  it('sends ExtINT, NMI, INIT and lowest priority; SMI goes nowhere', () => {
    const s = setup();
    const line = s.ioapic.connect(0, 'pic');
    const pulse = (rte: number): void => {
      s.rte(0, rte);
      line.set(true);
      line.set(false);
    };
    pulse(0x700);
    expect(s.a.takesExtInt()).toBe(true);
    pulse(0x400 | LEVEL); // an edge however it is programmed
    expect(s.a.takeNmi()).toBe(true);
    s.wr(0x11, 1 << 24);
    pulse(0x500);
    expect(s.b.takeInit()).toBe(true);
    s.b.mmioWrite(0xf0, 4, 0x1ff);
    pulse(0x200);
    s.a.mmioWrite(0x80, 4, 0x40);
    s.wr(0x11, 0xff000000);
    pulse(0x161);
    expect([s.a.hasInterrupt(), s.take(s.b)]).toEqual([false, [0x61]]);
    expect(s.a.hasEvents || s.b.hasEvents).toBe(false);
  });

  it('has an EOI register only as version 0x20', () => {
    for (const version of [0x11, 0x20] as const) {
      const s = setup(version);
      const line = s.ioapic.connect(20, 'v');
      s.rte(20, 0x54 | LEVEL);
      line.set(true);
      line.set(false);
      s.rig.cpu.write32(BASE + 0x40, 0x54);
      expect((s.rd(0x38) & 0x4000) === 0).toBe(version === 0x20);
      expect(s.rd(1)).toBe(0x170000 | version);
    }
  });

  it('refuses pins that it does not have', () => {
    const s = setup();
    expect(() => s.ioapic.connect(24, 'x')).toThrow(expect.objectContaining({ code: 'IRQ_PIN' }));
  });

  it('loads what it saved without making an edge', () => {
    const s = setup();
    s.ioapic.connect(21, 'u').set(true);
    s.rte(21, 0x55 | LEVEL);
    s.wr(0, 3 << 24);
    const t = setup();
    t.ioapic.connect(21, 'u').restore(true);
    t.ioapic.load(JSON.parse(JSON.stringify(s.ioapic.save())));
    expect(t.ioapic.save()).toEqual(s.ioapic.save());
    expect(t.a.hasInterrupt()).toBe(false);
    expect(t.rd(0x3a)).toBe(0x55 | LEVEL | 0x4000);
    expect(() => t.ioapic.load({ v: 2 })).toThrow(expect.objectContaining({ code: 'STATE_VERSION' }));
    expect(() => t.ioapic.load({ ...s.ioapic.save(), lo: [1] })).toThrow(
      expect.objectContaining({ code: 'STATE_FORMAT' }),
    );
  });

  it('survives a hostile guest', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(fc.nat(5), fc.nat(255), fc.oneof(fc.nat(0xffffffff), fc.constantFrom(0x8050, 0x40, 0x1c050))),
        ),
        (ops) => {
          const s = setup(0x20);
          const lines = Array.from({ length: 24 }, (_, p) => s.ioapic.connect(p, `p${p}`));
          for (const [op, i, v] of ops) {
            if (op === 0) s.wr(i, v);
            else if (op === 1) s.rte(i % 24, v);
            else if (op === 2) lines[i % 24]?.set((v & 1) !== 0);
            else if (op === 3) s.rig.cpu.write32(BASE + ((i * 16) & 0xff0), v >>> 0);
            else if (op === 4) s.rig.cpu.read(BASE + i, 1);
            else s.take(s.apics[i & 1], 2);
            s.rd(i);
          }
          s.ioapic.reset();
          for (let p = 0; p < 24; p++) expect(s.rd(0x10 + 2 * p)).toBe(MASK);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('tells local APICs of another kind about every entry, as it changes and when it is restored', () => {
    const told: string[] = [];
    const rig = createRig();
    const ioapic = new IoApic({
      bus: {
        deliver: () => true,
        addEoiListener: () => {},
        route: (pin, lo, hi) => void told.push(`${pin} ${lo.toString(16)} ${hi.toString(16)}`),
      },
    });
    claimIoApic(rig.mmio, ioapic);
    const wr = (i: number, v: number): void => {
      rig.cpu.write(BASE, 1, i);
      rig.cpu.write32(BASE + 0x10, v >>> 0);
    };
    expect(told.length).toBe(24);
    told.length = 0;
    wr(0x10 + 2 * 5 + 1, 0x03000000);
    wr(0x10 + 2 * 5, 0x8051);
    expect(told).toEqual(['5 10000 3000000', '5 8051 3000000']);
    const saved = ioapic.save();
    ioapic.reset();
    told.length = 0;
    ioapic.load(saved);
    expect([told.length, told[5]]).toEqual([24, '5 8051 3000000']);
  });
});
