import type { Logger } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { PciBridge } from '../src/index.ts';
import { bdf, createPci, Fake } from './kit.ts';

const F = bdf(0, 3);
const BARS = [
  { bar: 0, kind: 'io', size: 32 },
  { bar: 1, kind: 'mem32', size: 4096 },
  { bar: 2, kind: 'mem64', size: 1 << 20, prefetchable: true },
  { bar: 4, kind: 'mem64', size: 2 ** 33 },
] as const;

function withBars(): ReturnType<typeof createPci> & { d: Fake } {
  const r = createPci();
  const d = new Fake({ bars: BARS });
  r.pci.attach(d, { slot: 3 });
  r.pci.assign();
  return { ...r, d };
}

describe('BAR registers (PCI 3.0 §6.2.5.1)', () => {
  it('report type bits and the assigned address', () => {
    const r = withBars();
    expect([0x10, 0x14, 0x18, 0x1c, 0x20, 0x24].map((o) => r.cfgRead(F + o))).toEqual([
      0x2001, 0xc010_0000, 0xc000_000c, 0, 0x0000_0004, 0xd0,
    ]);
    expect(r.cfgRead(F + 4, 2)).toBe(0x0007);
  });

  it('answer sizing with all address bits above the size', () => {
    const r = withBars();
    r.cfgWrite(F + 4, 0, 2);
    const sized = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24].map((o) => {
      const before = r.cfgRead(F + o);
      r.cfgWrite(F + o, 0xffff_ffff);
      const v = r.cfgRead(F + o);
      r.cfgWrite(F + o, before);
      expect(r.cfgRead(F + o)).toBe(before);
      return v;
    });
    expect(sized).toEqual([0xffff_ffe1, 0xffff_f000, 0xfff0_000c, 0xffff_ffff, 0x0000_0004, 0xffff_fffe]);
  });

  it.each([
    ['io', 4, 0xffff_fffd],
    ['io', 256, 0xffff_ff01],
    ['mem32', 16, 0xffff_fff0],
    ['mem32', 128, 0xffff_ff80],
    ['mem32', 256, 0xffff_ff00],
    ['mem32', 65536, 0xffff_0000],
    ['mem32', 2 ** 31, 0x8000_0000],
  ] as const)('%s of %i bytes sizes as %i', (kind, size, value) => {
    const r = createPci();
    r.pci.attach(new Fake({ bars: [{ bar: 0, kind, size }] }), { slot: 0 });
    r.cfgWrite(0x10, 0xffff_ffff);
    expect(r.cfgRead(0x10)).toBe(value);
    // Byte by byte comes to the same.
    r.cfgWrite(0x10, 0);
    for (let i = 0; i < 4; i++) r.cfgWrite(0x10 + i, 0xff, 1);
    expect(r.cfgRead(0x10)).toBe(value);
  });
});

describe('decoding', () => {
  it('reaches the device with its own offsets and widths', () => {
    const r = withBars();
    expect(r.cpu.in16(0x2002)).toBe(0xee00);
    r.cpu.out8(0x201f, 0x55);
    r.cpu.write32(0xc010_0ffc, 0x1234);
    r.cpu.write(0xd0_0000_0000 + 2 ** 33 - 2, 2, 7);
    expect(r.cpu.in8(0x2020)).toBe(0xff);
    expect(r.d.log).toEqual(['r0+2/2', 'w0+1f/1=55', 'w1+ffc/4=1234', 'w4+1fffffffe/2=7']);
  });

  it('splits what the BAR does not take', () => {
    const r = createPci();
    const d = new Fake({ bars: [{ bar: 0, kind: 'mem32', size: 4096, widths: 4 }] });
    r.pci.attach(d, { slot: 3 });
    r.pci.assign();
    expect(r.cpu.read(0xc000_0001, 1)).toBe(0xee);
    expect(d.log).toEqual(['r0+0/4']);
  });

  it('follows the Command register', () => {
    const r = withBars();
    r.cfgWrite(F + 4, 1, 2);
    expect(r.cpu.read32(0xc010_0000)).toBe(0xffff_ffff);
    expect(r.cpu.in8(0x2000)).toBe(0);
    r.cfgWrite(F + 4, 2, 2);
    expect(r.cpu.read32(0xc010_0000)).toBe(0xc0ffee01);
    expect(r.cpu.in8(0x2000)).toBe(0xff);
    r.cfgWrite(F + 4, 0, 1);
    expect(r.cpu.read32(0xc010_0000)).toBe(0xffff_ffff);
  });

  it('moves with the BAR, at once and while decoding is on', () => {
    const r = withBars();
    r.cfgWrite(F + 0x14, 0xc800_0000);
    expect(r.cpu.read32(0xc010_0000)).toBe(0xffff_ffff);
    expect(r.cpu.read32(0xc800_0000)).toBe(0xc0ffee01);
    r.cfgWrite(F + 0x10, 0x3001);
    expect(r.cpu.in8(0x3000)).toBe(0);
    expect(r.cpu.in8(0x2000)).toBe(0xff);
    // A 64-bit BAR moves by halves.
    r.cfgWrite(F + 0x1c, 0x12);
    expect(r.cpu.read32(0x12_c000_0000)).toBe(0xc0ffee02);
    r.cfgWrite(F + 0x18, 0x8000_0000);
    expect(r.cpu.read32(0x12_8000_0000)).toBe(0xc0ffee02);
    expect(r.cpu.read32(0x12_c000_0000)).toBe(0xffff_ffff);
  });

  it('sizes while decoding is on, and comes back', () => {
    const r = withBars();
    for (const o of [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24]) {
      const before = r.cfgRead(F + o);
      r.cfgWrite(F + o, 0xffff_ffff);
      r.cfgWrite(F + o, before);
    }
    expect(r.cpu.read32(0xc010_0000)).toBe(0xc0ffee01);
    expect(r.cpu.read32(0xc000_0000)).toBe(0xc0ffee02);
    expect(r.cpu.read32(0xd0_0000_0000)).toBe(0xc0ffee04);
    expect(r.cpu.in8(0x2000)).toBe(0);
  });

  it('does not decode address zero, ports past 64 KiB or memory past 2^52', () => {
    const r = withBars();
    r.cfgWrite(F + 0x10, 1);
    expect(r.cpu.in8(0)).toBe(0xff);
    r.cfgWrite(F + 0x10, 0x1_3001);
    expect(r.cfgRead(F + 0x10)).toBe(0x1_3001);
    expect(r.cpu.in8(0x3000)).toBe(0xff);
    r.cfgWrite(F + 0x12, 0, 2);
    expect(r.cpu.in8(0x3000)).toBe(0);
    r.cfgWrite(F + 0x24, 0xffff_fffe);
    expect(r.cpu.read32(0xd0_0000_0000)).toBe(0xffff_ffff);
    expect(r.pci.counters()).toEqual({ barConflicts: 0, msiDropped: 0 });
  });

  it('leaves a BAR out that lies over something else, says so once, and decodes it when there is room', () => {
    const said: string[] = [];
    const log: Logger = { on: false, debug: () => {}, info: () => {}, warn: (m) => void said.push(m) };
    const r = createPci({ log });
    const a = new Fake({
      bars: [
        { bar: 0, kind: 'mem32', size: 4096 },
        { bar: 1, kind: 'io', size: 16 },
      ],
    });
    const b = new Fake({ bars: [{ bar: 0, kind: 'mem32', size: 4096 }] });
    r.pci.attach(a, { slot: 1 });
    r.pci.attach(b, { slot: 2 });
    r.pci.assign();
    // Over the other one's BAR, over ECAM, over the configuration ports.
    r.cfgWrite(bdf(0, 1) + 0x10, 0xc000_1000);
    expect(r.pci.counters()['barConflicts']).toBe(1);
    r.cpu.read32(0xc000_1000);
    expect([a.log, b.log]).toEqual([[], ['r0+0/4']]);
    r.cfgWrite(bdf(0, 2) + 0x10, 0xc000_8000);
    r.cpu.read32(0xc000_1000);
    expect([a.log, b.log]).toEqual([['r0+0/4'], ['r0+0/4']]);
    r.cfgWrite(bdf(0, 1) + 0x10, 0xe000_0000);
    r.cfgWrite(bdf(0, 1) + 0x14, 0xcf0);
    expect(r.cfgRead(bdf(0, 1) + 0x14)).toBe(0xcf1);
    r.cfgWrite(bdf(0, 1) + 0x14, 0x4000);
    expect(r.cpu.in8(0x4000)).toBe(1);
    expect(r.pci.counters()['barConflicts']).toBe(3);
    expect(said.length).toBe(1);
    expect(said[0]).toContain('0xc0001000');
  });

  it('takes part of a swap of two BARs of one device', () => {
    const r = createPci();
    const d = new Fake({
      bars: [
        { bar: 0, kind: 'mem32', size: 4096 },
        { bar: 1, kind: 'mem32', size: 4096 },
      ],
    });
    r.pci.attach(d, { slot: 3 });
    r.pci.assign();
    r.cfgWrite(F + 0x10, 0xc000_1000);
    r.cfgWrite(F + 0x14, 0xc000_0000);
    expect(r.cpu.read32(0xc000_0000)).toBe(0xc0ffee01);
    expect(r.cpu.read32(0xc000_1000)).toBe(0xc0ffee00);
  });
});

describe('assignment', () => {
  it("packs largest first, aligned, inside bhyve's windows", () => {
    const r = createPci();
    const sizes = [4096, 1 << 24, 16, 65536, 1 << 24];
    sizes.forEach((size, i) => {
      r.pci.attach(
        new Fake({
          bars: [
            { bar: 0, kind: 'mem32', size },
            { bar: 1, kind: 'io', size: 4 << i },
          ],
        }),
        { slot: i + 1 },
      );
    });
    r.pci.attach(
      new Fake({
        bars: [
          { bar: 0, kind: 'mem64', size: 32 << 20 },
          { bar: 2, kind: 'mem64', size: 64 << 20 },
        ],
      }),
      { slot: 9 },
    );
    r.pci.assign();
    const bars = r.pci
      .functions()
      .flatMap((f) => f.bars.map((b) => ({ io: b.kind === 'io', base: b.base, size: b.size, now: b.current })));
    for (const b of bars) {
      expect(b.base % b.size).toBe(0);
      expect(b.now).toBe(b.base);
      for (const c of bars)
        if (c !== b && c.io === b.io) expect(b.base + b.size <= c.base || c.base + c.size <= b.base).toBe(true);
    }
    expect(bars.filter((b) => b.io).map((b) => b.base)).toEqual([0x2078, 0x2070, 0x2060, 0x2040, 0x2000]);
    expect(bars.filter((b) => !b.io).map((b) => b.base)).toEqual([
      0xc401_0000, 0xc200_0000, 0xc401_1000, 0xc400_0000, 0xc300_0000, 0xc000_0000, 0xd0_0000_0000,
    ]);
    expect(r.pci.windows()).toEqual([
      {
        bus: 0,
        lastBus: 255,
        io: { base: 0x2000, size: 0xe000 },
        mem32: { base: 0xc000_0000, size: 0x2000_0000 },
        mem64: { base: 0xd0_0000_0000, size: 0x2d_0000_0000 },
      },
    ]);
  });

  it('presets Command by the BARs there are', () => {
    const r = createPci();
    r.pci.attach(new Fake(), { slot: 0 });
    r.pci.attach(new Fake({ bars: [{ bar: 0, kind: 'io', size: 4 }] }), { slot: 1 });
    r.pci.attach(new Fake({ bars: [{ bar: 0, kind: 'mem64', size: 4096 }] }), { slot: 2 });
    r.pci.assign();
    expect([0, 1, 2].map((s) => r.cfgRead(bdf(0, s) + 4, 2))).toEqual([4, 5, 6]);
  });

  it('gives every root bus windows of its own, with the BARs in them', () => {
    const r = createPci();
    for (const bus of [0, 4, 9])
      r.pci.attach(
        new Fake({
          bars: [
            { bar: 0, kind: 'io', size: 64 },
            { bar: 1, kind: 'mem32', size: 1 << 22 },
            { bar: 2, kind: 'mem64', size: 2 ** 30 },
          ],
        }),
        { bus, slot: 0 },
      );
    r.pci.assign();
    const w = r.pci.windows();
    expect(w.map((x) => [x.bus, x.lastBus])).toEqual([
      [0, 3],
      [4, 8],
      [9, 255],
    ]);
    for (const f of r.pci.functions()) {
      const mine = w.find((x) => x.bus === f.bus);
      for (const b of f.bars) {
        const range = b.kind === 'io' ? mine?.io : b.kind === 'mem32' ? mine?.mem32 : mine?.mem64;
        expect(b.base).toBeGreaterThanOrEqual(range?.base ?? Number.NaN);
        expect(b.base + b.size).toBeLessThanOrEqual((range?.base ?? 0) + (range?.size ?? 0));
      }
    }
    for (const k of ['io', 'mem32', 'mem64'] as const) {
      const s = w.map((x) => x[k]).sort((x, y) => x.base - y.base);
      for (let i = 1; i < s.length; i++)
        expect((s[i - 1]?.base ?? 0) + (s[i - 1]?.size ?? 0)).toBeLessThanOrEqual(s[i]?.base ?? 0);
    }
    expect(r.cfgRead(bdf(4, 0))).toBe(0x5678_1234);
    expect(r.cpu.read32(w[2]?.mem32.base ?? 0)).toBe(0xc0ffee01);
  });
});

describe('bridges (PCI-to-PCI Bridge 1.2)', () => {
  const behind = (): ReturnType<typeof createPci> & { d: Fake } => {
    const r = createPci();
    const d = new Fake({
      bars: [
        { bar: 0, kind: 'mem32', size: 4096 },
        { bar: 1, kind: 'io', size: 16 },
        { bar: 2, kind: 'mem64', size: 64 << 20, prefetchable: true },
      ],
      intx: true,
    });
    r.pci.attach(new PciBridge({ secondary: 1 }), { slot: 2 });
    r.pci.attach(new PciBridge({ secondary: 2 }), { bus: 1, slot: 3 });
    r.pci.attach(d, { bus: 2, slot: 6 });
    r.pci.assign();
    return { ...r, d };
  };

  it('have a type 1 header with bus numbers and windows set', () => {
    const r = behind();
    const b = bdf(0, 2);
    expect(r.cfgRead(b + 0x0e, 1)).toBe(1);
    expect(r.cfgRead(b + 0x18)).toBe(0x00_02_01_00);
    expect(r.cfgRead(bdf(1, 3) + 0x18)).toBe(0x00_02_02_01);
    expect(r.cfgRead(b + 0x20)).toBe(0xc000_c000);
    expect(r.cfgRead(b + 0x1c, 2)).toBe(0x2020);
    expect(r.cfgRead(b + 0x24)).toBe(0x03f1_0001);
    expect([r.cfgRead(b + 0x28), r.cfgRead(b + 0x2c)]).toEqual([0xd0, 0xd0]);
    expect(r.cfgRead(b + 4, 2)).toBe(7);
  });

  it('forward configuration accesses by the numbers the guest sets', () => {
    const r = behind();
    expect(r.cfgRead(bdf(2, 6))).toBe(0x5678_1234);
    r.cfgWrite(bdf(1, 3) + 0x18, 0x00_08_07_01);
    expect(r.cfgRead(bdf(2, 6))).toBe(0xffff_ffff);
    expect(r.cfgRead(bdf(7, 6))).toBe(0xffff_ffff); // outside what the upper bridge forwards
    r.cfgWrite(bdf(0, 2) + 0x1a, 7, 1);
    expect(r.cfgRead(bdf(7, 6))).toBe(0x5678_1234);
    r.cfgWrite(bdf(0, 2) + 0x18, 0);
    expect(r.cfgRead(bdf(1, 3))).toBe(0xffff_ffff);
    expect(r.cfgRead(bdf(7, 6))).toBe(0xffff_ffff);
  });

  it('gate decoding by their windows and Command, and DMA by theirs', () => {
    const r = behind();
    expect(r.cpu.read32(0xc000_0000)).toBe(0xc0ffee00);
    expect(r.cpu.in8(0x2000)).toBe(1);
    expect(r.cpu.read32(0xd0_0000_0000)).toBe(0xc0ffee02);
    r.cfgWrite(bdf(0, 2) + 0x20, 0xc010_c010);
    expect(r.cpu.read32(0xc000_0000)).toBe(0xffff_ffff);
    r.cfgWrite(bdf(0, 2) + 0x20, 0xc000_c000);
    expect(r.cpu.read32(0xc000_0000)).toBe(0xc0ffee00);
    r.cfgWrite(bdf(1, 3) + 4, 2, 2);
    expect(r.cpu.in8(0x2000)).toBe(0xff);
    expect(r.cpu.read32(0xc000_0000)).toBe(0xc0ffee00);
    r.ram.write32(0x100, 5);
    expect(r.d.ctx.dma.read32(0x100)).toBe(0xffff_ffff);
    r.cfgWrite(bdf(1, 3) + 4, 7, 2);
    expect(r.d.ctx.dma.read32(0x100)).toBe(5);
  });

  it('swizzle INTx: pin and slot added at each bridge (§9.1)', () => {
    const r = behind();
    // INTA# of slot 6 on bus 2 -> pin 2 of slot 3 on bus 1 -> pin (2+3) mod 4 = 1 of slot 2.
    expect(r.pci.routing()).toEqual([{ bus: 0, slot: 2, pin: 1, pirq: 0, gsi: 16, irq: 3 }]);
    r.d.ctx.intx(true);
    expect(r.ioapic.high()).toEqual([16]);
  });

  it('reset what is behind on Secondary Bus Reset', () => {
    const r = behind();
    const base = r.cfgRead(bdf(2, 6) + 0x10);
    r.d.ctx.intx(true);
    r.cfgWrite(bdf(2, 6) + 0x10, 0xc000_1000);
    r.cfgWrite(bdf(0, 2) + 0x3e, 0x40, 2);
    expect(r.d.resets).toBe(1);
    expect(r.ioapic.high()).toEqual([]);
    expect(r.cfgRead(bdf(1, 3) + 4, 2)).toBe(0);
    r.cfgWrite(bdf(0, 2) + 0x3e, 0x40, 2);
    expect(r.d.resets).toBe(1);
    r.cfgWrite(bdf(0, 2) + 0x3e, 0, 2);
    r.cfgWrite(bdf(1, 3) + 4, 7, 2);
    expect(r.cfgRead(bdf(2, 6) + 0x10)).toBe(base);
  });

  it('that claim one bus number: the first has it', () => {
    const r = createPci();
    r.pci.attach(new PciBridge({ secondary: 1 }), { slot: 1 });
    r.pci.attach(new PciBridge({ secondary: 2 }), { slot: 2 });
    r.pci.attach(new Fake({ device: 1 }), { bus: 1, slot: 0 });
    r.pci.attach(new Fake({ device: 2 }), { bus: 2, slot: 0 });
    r.pci.assign();
    expect([r.cfgRead(bdf(1, 0) + 2, 2), r.cfgRead(bdf(2, 0) + 2, 2)]).toEqual([1, 2]);
    r.cfgWrite(bdf(0, 2) + 0x19, 0x0101, 2);
    expect([r.cfgRead(bdf(1, 0) + 2, 2), r.cfgRead(bdf(2, 0) + 2, 2)]).toEqual([1, 0xffff]);
  });

  it('with nothing behind have closed windows', () => {
    const r = createPci();
    r.pci.attach(new PciBridge({ secondary: 3, rootPort: true }), { slot: 1 });
    r.pci.assign();
    const b = bdf(0, 1);
    expect(r.cfgRead(b + 0x1c, 2)).toBe(0x00f0);
    expect(r.cfgRead(b + 0x20)).toBe(0x0000_fff0);
    expect(r.cfgRead(b + 0x24)).toBe(0x0001_fff1);
  });
});
