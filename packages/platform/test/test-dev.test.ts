import { createRig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/test-dev/index.ts';
import { claimPcTestDev, PcTestDev } from '../src/test-dev/index.ts';

function bench() {
  const rig = createRig();
  const exits: [number, number][] = [];
  const irqs = Array.from({ length: 24 }, (_, n) => (n === 7 ? null : rig.irq(n)));
  const dev = new PcTestDev({ irqs, onExit: (value, width) => exits.push([value, width]) });
  claimPcTestDev(rig.pio, rig.mmio, dev);
  return { rig, dev, exits };
}

describe('pc-testdev', () => {
  it('exports what the README says', () => {
    expect(Object.keys(api).sort()).toEqual(['PcTestDev', 'claimPcTestDev']);
  });

  it('keeps a 32-bit latch at 0xE0, by any width', () => {
    const { rig, dev } = bench();
    expect(rig.cpu.in32(0xe0)).toBe(0);
    rig.cpu.out32(0xe0, 0x89abcdef);
    expect([rig.cpu.in8(0xe0), rig.cpu.in16(0xe2), rig.cpu.in8(0xe3)]).toEqual([0xef, 0x89ab, 0x89]);
    rig.cpu.out16(0xe1, 0x1234);
    expect(rig.cpu.in32(0xe0)).toBe(0x891234ef);
    rig.cpu.out8(0xe3, 0xff);
    expect(rig.cpu.in32(0xe0)).toBe(0xff1234ef);
    dev.reset();
    expect(rig.cpu.in32(0xe0)).toBe(0);
  });

  it('shows the same latch byte by byte at 0xE8', () => {
    const { rig } = bench();
    rig.cpu.out32(0xe8, 0x04030201);
    expect(rig.cpu.in32(0xe0)).toBe(0x04030201);
    expect(rig.cpu.in16(0xea)).toBe(0x0403);
  });

  it('takes flush requests and does nothing', () => {
    const { rig } = bench();
    rig.cpu.out32(0xe4, 0x1000);
    expect(rig.cpu.in32(0xe4)).toBe(0xffffffff);
  });

  it('drives interrupt line n from port 0x2000 + n', () => {
    const { rig, dev } = bench();
    rig.cpu.out8(0x2000 + 14, 1);
    rig.cpu.out8(0x2000 + 23, 0x80);
    rig.cpu.out8(0x2000 + 7, 1); // not connected
    expect([rig.irq(14).high, rig.irq(23).high, rig.irq(14).edges]).toEqual([true, true, 1]);
    rig.cpu.out8(0x2000 + 14, 0);
    expect(rig.irq(14).high).toBe(false);
    dev.reset();
    expect(rig.irq(23).high).toBe(false);
  });

  it('reports the value written to the exit port', () => {
    const { rig, exits, dev } = bench();
    rig.cpu.out32(0xf4, 0x12345678);
    rig.cpu.out8(0xf4, 3);
    expect(exits).toEqual([
      [0x12345678, 4],
      [3, 1],
    ]);
    expect(rig.cpu.in32(0xf4)).toBe(0xffffffff);
    expect(dev.counters()).toEqual({ exits: 2 });
  });

  it('has 64 KiB of memory at 0xFF000000', () => {
    const { rig } = bench();
    rig.cpu.write32(0xff000000, 0xdeadbeef);
    rig.cpu.write(0xff00ffff, 1, 0x5a);
    expect([rig.cpu.read(0xff000001, 2), rig.cpu.read(0xff00ffff, 1)]).toEqual([0xadbe, 0x5a]);
    expect(rig.cpu.read32(0xff00fffc)).toBe(0x5a000000);
  });

  it('refuses a 25th line', () => {
    expect(() => new PcTestDev({ irqs: new Array(25).fill(null) })).toThrow(/25 interrupt lines/);
  });

  it('comes back from saved state without edges', () => {
    const a = bench();
    a.rig.cpu.out8(0x2003, 1);
    a.rig.cpu.out32(0xe0, 0x11223344);
    a.rig.cpu.write(0xff000010, 1, 9);
    const saved = JSON.parse(JSON.stringify(a.dev.save()));
    expect(saved.memory.length).toBe(17);
    const b = bench();
    b.dev.load(saved);
    expect([b.rig.irq(3).high, b.rig.irq(3).edges]).toEqual([true, 0]);
    expect([b.rig.cpu.in32(0xe0), b.rig.cpu.read(0xff000010, 1)]).toEqual([0x11223344, 9]);
    expect(() => b.dev.load(null)).toThrow(/version/);
  });

  it('stands any access a guest makes', () => {
    const { rig, dev } = bench();
    const width = fc.constantFrom(1 as const, 2 as const, 4 as const);
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(
            fc.boolean(),
            fc.oneof(fc.integer({ min: 0xde, max: 0xf8 }), fc.integer({ min: 0x1ffe, max: 0x2019 })),
            width,
            fc.nat(),
          ),
          { maxLength: 60 },
        ),
        fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 0xff000000, max: 0xff00ffff }), width, fc.nat()), {
          maxLength: 60,
        }),
        (ports, memory) => {
          for (const [write, port, w, v] of ports) {
            if (write) rig.cpu.out(port, w, v % 2 ** (8 * w));
            else rig.cpu.in(port, w);
          }
          for (const [write, at, w, v] of memory) {
            if (write) rig.cpu.write(at, w, v % 2 ** (8 * w));
            else rig.cpu.read(at, w);
          }
          dev.reset();
          expect(dev.save()).toEqual({ v: 1, latch: 0, lines: 0, memory: [] });
        },
      ),
      { numRuns: 100 },
    );
  });
});
