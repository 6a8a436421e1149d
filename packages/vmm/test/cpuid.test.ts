import type { CpuidEntry } from '@hyve/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { apicIdOf, buildCpuid, type CpuidOptions, cpuVendor, packageOf, physBitsOf, tscRatio } from '../src/index.ts';

const row = (leaf: number, eax: number, ebx = 0, ecx = 0, edx = 0, subleaf?: number): CpuidEntry => ({
  leaf,
  ...(subleaf === undefined ? {} : { subleaf }),
  eax: eax >>> 0,
  ebx: ebx >>> 0,
  ecx: ecx >>> 0,
  edx: edx >>> 0,
});
const ALL = 0xffffffff;
const INTEL: CpuidEntry[] = [
  row(0, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69),
  row(1, 0x000306a9, 0x12345678, ALL, ALL),
  row(2, 0x76035a01, 0, 0, 0),
  row(4, 0x1c004121, 0x01c0003f, 0x3f, 0, 0),
  row(4, 0x1c03c163, 0x03c0003f, 0xfff, 0, 1),
  row(5, 0x40, 0x40, 3, 0),
  row(6, ALL, ALL, ALL, ALL),
  row(7, 2, ALL, ALL, ALL, 0),
  row(7, ALL, ALL, ALL, ALL, 1),
  row(7, ALL, ALL, ALL, ALL, 2),
  row(0xa, 0x07300403, 0, 0, 0x603),
  row(0xd, 7, 0x340, 0x340, 0, 0),
  row(0xd, ALL, 0x340, ALL, ALL, 1),
  row(0xd, 0x100, 0x240, 0, 0, 2),
  row(0xd, 0x10, 0, 1, 0, 11),
  row(0x80000000, 0x80000008),
  row(0x80000001, 0, 0, ALL, 0x2c100800),
  row(0x80000002, 0x65746e49),
  row(0x80000008, 0x3028, ALL, 0, 0),
];
const AMD: CpuidEntry[] = [
  row(0, 0x10, 0x68747541, 0x444d4163, 0x69746e65),
  row(1, 0x00870f10, 0, ALL, 0x178bfbff),
  row(4, 0x1c004121, 0, 0, 0, 0),
  row(0x80000000, 0x80000020, 0x68747541, 0x444d4163, 0x69746e65),
  row(0x80000001, 0, 0, ALL, 0x2fd3fbff),
  row(0x80000008, 0x3030, ALL, 0x7007, 0),
  row(0x8000000a, 1, 8, 0, ALL),
  row(0x8000001d, 0x4121, 0x1c0003f, 0x3f, 0, 0),
  row(0x8000001d, 0x4163, 0x3c0003f, 0x3fff, 1, 3),
  row(0x8000001e, 0, 0, 0, 0),
];
const make = (o: Partial<CpuidOptions> = {}) => {
  const rows = buildCpuid({ supported: INTEL, vcpu: 0, topology: packageOf(1), tscHz: 2_000_000_000, ...o });
  return {
    rows,
    get: (leaf: number, sub?: number): CpuidEntry => {
      const r = rows.find((x) => x.leaf === leaf && (x.subleaf === undefined || x.subleaf === (sub ?? 0)));
      if (r === undefined) throw new Error(`no row for 0x${leaf.toString(16)}`);
      return r;
    },
  };
};
const bit = (v: number, n: number): boolean => ((v >>> n) & 1) === 1;

describe('topology', () => {
  it('gives APIC ids with fields of their own (SDM vol. 3 §9.9.1)', () => {
    const t = { sockets: 2, cores: 3, threads: 2 };
    expect(Array.from({ length: 12 }, (_, i) => apicIdOf(i, t))).toEqual([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    expect([0, 1, 2, 3].map((i) => apicIdOf(i, packageOf(4)))).toEqual([0, 1, 2, 3]);
    expect([0, 1, 2].map((i) => apicIdOf(i, { sockets: 3, cores: 1, threads: 1 }))).toEqual([0, 1, 2]);
  });

  it('tells it in leaves 1, 4, 0xB (one package by default)', () => {
    const c = make({ vcpu: 2, topology: packageOf(4) });
    expect(c.get(1).ebx).toBe(0x02045678);
    expect(bit(c.get(1).edx, 28)).toBe(true);
    expect(c.get(4, 0).eax).toBe(((3 << 26) | 0x121) >>> 0); // level 1: this core only
    expect(c.get(4, 1).eax).toBe(((3 << 26) | (3 << 14) | 0x163) >>> 0); // level 3: all
    expect(c.get(0xb, 0)).toMatchObject({ eax: 0, ebx: 1, ecx: 0x100, edx: 2 });
    expect(c.get(0xb, 1)).toMatchObject({ eax: 2, ebx: 4, ecx: 0x201, edx: 2 });
    expect(c.get(0xb, 2)).toMatchObject({ eax: 0, ebx: 0, ecx: 2, edx: 2 });
    const one = make();
    expect(one.get(1).ebx).toBe(0x00015678);
    expect(bit(one.get(1).edx, 28)).toBe(false);
  });

  it('tells threads and sockets, and leaf 0x1F where the engine reaches it', () => {
    const c = make({
      supported: INTEL.map((r) => (r.leaf === 0 ? { ...r, eax: 0x24 } : r)),
      vcpu: 11,
      topology: { sockets: 2, cores: 3, threads: 2 },
    });
    expect(c.get(0).eax).toBe(0x1f);
    expect(c.get(0x1f, 0)).toMatchObject({ eax: 1, ebx: 2, edx: 13 });
    expect(c.get(0x1f, 1)).toMatchObject({ eax: 3, ebx: 6, edx: 13 });
    expect(c.get(1).ebx >>> 16).toBe((13 << 8) | 8);
  });

  it('tells it AMD’s way', () => {
    const c = make({ supported: AMD, vcpu: 5, topology: { sockets: 1, cores: 3, threads: 2 } });
    expect(c.get(1).ebx >>> 16).toBe((5 << 8) | 6);
    expect(c.get(4)).toMatchObject({ eax: 0 });
    expect(bit(c.get(0x80000001).ecx, 1)).toBe(true); // CmpLegacy
    expect(bit(c.get(0x80000001).ecx, 22)).toBe(true); // TopologyExtensions
    expect(c.get(0x80000008).ecx).toBe((3 << 12) | 5);
    expect(c.get(0x8000001e)).toMatchObject({ eax: 5, ebx: 0x102, ecx: 0 });
    expect(c.get(0x8000001d, 0).eax).toBe(0x121 | (1 << 14));
    expect(c.get(0x8000001d, 3).eax).toBe(0x163 | (7 << 14));
  });

  it('refuses what does not fit', () => {
    for (const topology of [
      { sockets: 0, cores: 1, threads: 1 },
      { sockets: 1, cores: 1.5, threads: 1 },
      { sockets: 1, cores: 256, threads: 1 },
    ])
      expect(() => make({ topology })).toThrow(expect.objectContaining({ code: 'CPU_TOPOLOGY' }));
    expect(() => make({ vcpu: 1 })).toThrow(expect.objectContaining({ code: 'CPU_TOPOLOGY' }));
  });
});

describe('features', () => {
  it('hides what nothing stands behind', () => {
    const c = make();
    for (const n of [2, 4, 5, 6, 7, 8, 11, 14, 15, 18, 27]) expect([n, bit(c.get(1).ecx, n)]).toEqual([n, false]);
    for (const n of [18, 21, 22, 29, 30, 31]) expect([n, bit(c.get(1).edx, n)]).toEqual([n, false]);
    for (const n of [2, 12, 15, 25]) expect([n, bit(c.get(7).ebx, n)]).toEqual([n, false]);
    for (const n of [26, 27, 28, 29, 30, 31]) expect([n, bit(c.get(7).edx, n)]).toEqual([n, false]);
    expect(c.get(7).eax).toBe(1);
    expect(c.rows.some((r) => r.leaf === 7 && r.subleaf === 2)).toBe(false);
    expect(c.get(6)).toMatchObject({ eax: 4, ebx: 0, ecx: 0, edx: 0 });
    expect(c.get(0xa)).toMatchObject({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
    expect(c.get(0xd, 1).eax).toBe(7);
    expect(c.rows.some((r) => r.leaf === 0xd && r.subleaf === 11)).toBe(false);
    expect(c.get(0xd, 2).eax).toBe(0x100);
    const a = make({ supported: AMD });
    expect(bit(a.get(0x80000001).ecx, 2)).toBe(false); // SVM
    expect(a.get(0x8000000a)).toMatchObject({ eax: 0, edx: 0 });
  });

  it('shows what the platform has whatever the engine says, MCA with MCE', () => {
    const bare = INTEL.map((r) => (r.leaf === 1 ? { ...r, ecx: 0, edx: 0 } : r));
    const e = make({ supported: bare }).get(1);
    expect([9, 12].map((n) => bit(e.edx, n))).toEqual([true, true]);
    expect([7, 14].map((n) => bit(e.edx, n))).toEqual([false, false]);
    expect([21, 24, 31].map((n) => bit(e.ecx, n))).toEqual([true, true, true]);
    expect(bit(make().get(1).edx, 14)).toBe(true);
    expect(bit(e.ecx, 3)).toBe(false);
    expect(make({ supported: bare }).get(5).eax).toBe(0);
    expect(make().get(5).eax).toBe(0x40);
    expect(make().get(0x80000007).edx).toBe(0x100);
  });

  it('follows its options', () => {
    const c = make({ x2apic: 'absent', tscDeadline: false, hideHypervisor: true });
    expect([21, 24, 31].map((n) => bit(c.get(1).ecx, n))).toEqual([false, false, false]);
    expect(c.rows.some((r) => r.leaf >= 0x40000000 && r.leaf < 0x50000000)).toBe(false);
    expect(bit(make({ specCtrl: true }).get(7).edx, 26)).toBe(true);
    expect(make({ supported: AMD, specCtrl: true }).get(0x80000008).ebx).toBe(0x5205);
    expect(make({ supported: AMD }).get(0x80000008).ebx).toBe(0x205);
  });

  it('names itself like bhyve', () => {
    const c = make();
    const r = c.get(0x40000000);
    const b = new DataView(new ArrayBuffer(12));
    [r.ebx, r.ecx, r.edx].forEach((v, i) => {
      b.setUint32(i * 4, v, true);
    });
    expect(new TextDecoder().decode(b)).toBe('bhyve bhyve ');
    expect(r.eax).toBe(0x40000010);
    expect(c.get(0x40000010)).toMatchObject({ eax: 2_000_000, ebx: 1_000_000 });
  });
});

describe('frequencies', () => {
  it('leaf 0x15 is exact for whole MHz and survives Linux’s 32-bit product', () => {
    fc.assert(
      fc.property(fc.integer({ min: 100, max: 4200 }), (mhz) => {
        const r = make({ tscHz: mhz * 1e6 }).get(0x15);
        expect((r.ecx * r.ebx) / r.eax).toBeCloseTo(mhz * 1e6, 3);
        expect((r.ecx / 1000) * r.ebx).toBeLessThan(2 ** 32);
      }),
    );
    expect(make({ tscHz: 2_400_000_000 }).get(0x15)).toMatchObject({ eax: 5, ebx: 12, ecx: 1_000_000_000 });
    expect(make({ tscHz: 2_400_000_000 }).get(0x16)).toMatchObject({ eax: 2400, ebx: 2400, ecx: 100 });
  });

  it('is right to 3 ppm for any other rate, as Linux computes it, with a crystal within 0.05 %', () => {
    fc.assert(
      fc.property(fc.integer({ min: 500_000_000, max: 4_200_000_000 }), (hz) => {
        const r = make({ tscHz: hz }).get(0x15);
        const kHz = Math.floor((Math.floor(r.ecx / 1000) * r.ebx) / r.eax);
        expect(Math.abs((kHz * 1000) / hz - 1)).toBeLessThan(3e-6);
        expect(Math.floor(r.ecx / 1000) * r.ebx).toBeLessThan(2 ** 32);
        expect(Math.abs(r.ecx / 1e9 - 1)).toBeLessThan(5e-4);
      }),
    );
    expect(tscRatio(5, 7, 1)).toEqual({ numerator: 1, denominator: 2 });
    expect(tscRatio(1e12, 1, 1000)).toEqual({ numerator: 1000, denominator: 1 });
  });
});

describe('table', () => {
  it('has every leaf of each range, sorted, unsigned, for both vendors', () => {
    for (const supported of [INTEL, AMD, []]) {
      const c = make({ supported, vcpu: 1, topology: packageOf(3) });
      let last = -1;
      for (const r of c.rows) {
        const key = r.leaf * 64 + (r.subleaf ?? 0);
        expect(key).toBeGreaterThan(last);
        last = key;
        for (const v of [r.eax, r.ebx, r.ecx, r.edx]) expect(v >>> 0).toBe(v);
      }
      for (let l = 0; l <= c.get(0).eax; l++) c.get(l);
      for (let l = 0x80000000; l <= c.get(0x80000000).eax; l++) c.get(l);
      expect(c.get(0).eax).toBeGreaterThanOrEqual(0x16);
    }
  });

  it('knows vendor and address width', () => {
    expect([cpuVendor(INTEL), cpuVendor(AMD), cpuVendor([])]).toEqual(['intel', 'amd', 'intel']);
    expect([physBitsOf(INTEL), physBitsOf(AMD), physBitsOf([])]).toEqual([40, 48, 36]);
  });
});
