import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type PageWatch, RegionMemory, type RegionSpec } from '../src/index.ts';
import { code } from './helpers.ts';

const SPECS: readonly RegionSpec[] = [
  { base: 0, size: 0x2000, kind: 'ram', name: 'low' },
  { base: 0x2000, size: 0x1000, kind: 'rom', name: 'rom' },
  { base: 2 ** 32, size: 0x1000, kind: 'ram', name: 'high' },
];
const HIGH = 2 ** 32;
const make = (): RegionMemory => RegionMemory.allocate(SPECS);

describe('scalars', () => {
  it('are little-endian and unsigned, at any alignment, above 4 GiB too', () => {
    const m = make();
    for (const base of [1, HIGH + 3]) {
      m.write32(base, 0x89abcdef);
      expect([m.read8(base), m.read16(base + 1), m.read32(base)]).toEqual([0xef, 0xabcd, 0x89abcdef]);
      m.write16(base, 0x1fffe);
      m.write8(base + 3, 0x1ff);
      expect(m.read32(base)).toBe(0xffabfffe);
    }
  });

  it('read all ones and write nothing where there is no memory', () => {
    const m = make();
    for (const a of [0x3000, HIGH - 16, HIGH + 0x1000, 2 ** 51]) {
      m.write32(a + 4, 0);
      expect([m.read8(a), m.read16(a + 4), m.read32(a + 8)]).toEqual([0xff, 0xffff, 0xffffffff]);
    }
  });

  it('cross from one region into the next, or into nothing, byte by byte', () => {
    const m = make();
    m.write32(0x1ffe, 0x44332211); // two bytes RAM, two ROM
    expect(m.read32(0x1ffe)).toBe(0x00002211);
    m.load(0x2ffe, Uint8Array.of(0x55, 0x66));
    expect(m.read32(0x2ffe)).toBe(0xffff6655);
    m.write32(HIGH + 0xffe, 0x44332211);
    expect(m.read32(HIGH + 0xffe)).toBe(0xffff2211);
    m.write16(HIGH + 0xfff, 0xbbaa);
    expect(m.read8(HIGH + 0xfff)).toBe(0xaa);
  });

  it('leave ROM alone; the host may fill it', () => {
    const m = make();
    m.load(0x2000, Uint8Array.of(1, 2, 3, 4));
    m.write8(0x2000, 9);
    m.write16(0x2000, 0x9999);
    m.write32(0x2000, 0x99999999);
    expect(m.read32(0x2000)).toBe(0x04030201);
    m.fill(0x2000, 2, 0xee);
    expect(m.read32(0x2000)).toBe(0x0403eeee);
  });
});

describe('views', () => {
  it('are live, and lie in one region', () => {
    const m = make();
    const v = m.writeView(0x1000, 4) as Uint8Array;
    v[0] = 7;
    expect([m.read8(0x1000), m.readView(0x1000, 1)?.[0]]).toEqual([7, 7]);
    expect(m.readView(0x1fff, 2)).toBeNull();
    expect(m.readView(0x3000, 1)).toBeNull();
    expect(m.readView(0x2000, 16)?.length).toBe(16);
    expect(m.writeView(0x2000, 16)).toBeNull();
    expect(m.readView(HIGH, 0x1000)?.length).toBe(0x1000);
  });

  it.each([-1, Number.NaN, 2 ** 40, Number.POSITIVE_INFINITY])('of %d bytes are null', (n) => {
    expect([make().readView(0, n), make().writeView(0, n)]).toEqual([null, null]);
  });

  it('of no bytes are empty', () => {
    expect([make().readView(0x1000, 0)?.length, make().writeView(0x1000, 0)?.length]).toEqual([0, 0]);
  });
});

describe('the host', () => {
  it('hears of ranges that are not memory', () => {
    const m = make();
    expect(code(() => m.load(0x1fff, new Uint8Array(2)))).toBe('MEMORY_RANGE');
    expect(code(() => m.fill(0x3000, 1, 0))).toBe('MEMORY_RANGE');
    expect(() => m.load(0x3000, new Uint8Array(1))).toThrow(/0x1 bytes at 0x3000/);
  });

  it.each([
    ['misaligned', [{ base: 1, size: 4096 }]],
    ['a broken page', [{ base: 0, size: 100 }]],
    [
      'overlapping',
      [
        { base: 0, size: 8192 },
        { base: 4096, size: 4096 },
      ],
    ],
    ['nothing', []],
  ])('hears of %s regions', (_, list) => {
    const specs = list.map((r) => ({ ...r, kind: 'ram' as const, name: 'x' }));
    expect(code(() => RegionMemory.allocate(specs))).toBe('MEMORY_LAYOUT');
  });

  it('hears of a buffer or a watch that is too small', () => {
    const region = { base: 0, size: 8192, kind: 'ram' as const, name: 'x', offset: 4096 };
    expect(code(() => new RegionMemory(new ArrayBuffer(8192), [region]))).toBe('MEMORY_LAYOUT');
    const watch = { flags: new Uint8Array(1), written: () => {} };
    expect(code(() => new RegionMemory(new ArrayBuffer(12288), [region], watch))).toBe('MEMORY_LAYOUT');
  });

  it('sorts regions by base', () => {
    expect(RegionMemory.allocate([...SPECS].reverse()).regions.map((r) => r.name)).toEqual(['low', 'rom', 'high']);
  });
});

describe('page watch', () => {
  function watched(): { m: RegionMemory; watch: PageWatch; seen: [number, number][] } {
    const seen: [number, number][] = [];
    const watch: PageWatch = { flags: new Uint8Array(4), written: (a, n) => seen.push([a, n]) };
    const backed = [
      { ...SPECS[0]!, offset: 0 },
      { ...SPECS[1]!, offset: 0x2000 },
      { ...SPECS[2]!, offset: 0x3000 },
    ];
    return { m: new RegionMemory(new SharedArrayBuffer(0x4000), backed, watch), watch, seen };
  }

  it('is told of every kind of write into a flagged page, and of no other', () => {
    const { m, watch, seen } = watched();
    watch.flags[1] = 1;
    watch.flags[3] = 1;
    m.write8(0x0fff, 1);
    m.write8(0x1000, 1);
    m.write16(0x0fff, 1);
    m.write32(HIGH + 8, 1);
    m.writeView(0x800, 0x1000);
    m.markDirty(0x1ff0, 0x10);
    m.load(0x1100, Uint8Array.of(1));
    m.fill(HIGH, 16, 0);
    m.read32(0x1000);
    m.readView(0x1000, 4);
    m.markDirty(0x1000, 0);
    expect(seen).toEqual([
      [0x1000, 1],
      [0x0fff, 2],
      [HIGH + 8, 4],
      [0x800, 0x1000],
      [0x1ff0, 0x10],
      [0x1100, 1],
      [HIGH, 16],
    ]);
  });

  it('sees the host fill ROM, but no guest write to it', () => {
    const { m, watch, seen } = watched();
    watch.flags.fill(1);
    m.write32(0x2000, 1);
    expect(seen).toEqual([]);
    m.load(0x2000, Uint8Array.of(1));
    expect(seen).toEqual([[0x2000, 1]]);
  });

  it('is told once of a write over several flagged pages', () => {
    const { m, watch, seen } = watched();
    watch.flags.fill(1);
    m.writeView(0, 0x2000);
    expect(seen).toEqual([[0, 0x2000]]);
  });
});

describe('any script of accesses', () => {
  it('agrees with a map of bytes', () => {
    const address = fc.oneof(
      fc.integer({ min: 0, max: 0x3010 }),
      fc.integer({ min: 0x1ff8, max: 0x2008 }),
      fc.integer({ min: HIGH - 8, max: HIGH + 0x1008 }),
    );
    const step = fc.tuple(address, fc.constantFrom(1, 2, 4), fc.option(fc.nat(0xffffffff)));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (script) => {
        const m = make();
        const bytes = new Map<number, number>();
        const kind = (a: number): string | undefined => SPECS.find((r) => a >= r.base && a < r.base + r.size)?.kind;
        for (const [a, width, value] of script) {
          if (value !== null) {
            if (width === 1) m.write8(a, value);
            else if (width === 2) m.write16(a, value);
            else m.write32(a, value);
            for (let i = 0; i < width; i++)
              if (kind(a + i) === 'ram') bytes.set(a + i, Math.floor(value / 256 ** i) & 0xff);
          } else {
            let want = 0;
            for (let i = width - 1; i >= 0; i--)
              want = want * 256 + (kind(a + i) === undefined ? 0xff : (bytes.get(a + i) ?? 0));
            expect(width === 1 ? m.read8(a) : width === 2 ? m.read16(a) : m.read32(a)).toBe(want);
          }
        }
      }),
      { numRuns: 200 },
    );
  });
});
