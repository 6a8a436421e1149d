import { createRig } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/fw-cfg/index.ts';
import { claimFwCfg, FwCfg, type FwCfgFile } from '../src/fw-cfg/index.ts';

const text = (s: string): Uint8Array => new TextEncoder().encode(s);

function bench(files: readonly FwCfgFile[] = []) {
  const rig = createRig();
  const fwCfg = new FwCfg({ cpus: 3, maxCpus: 8, ramBytes: 5 * 2 ** 30, files });
  claimFwCfg(rig.pio, fwCfg);
  const take = (n: number): number[] => Array.from({ length: n }, () => rig.cpu.in8(0x511));
  const item = (key: number, n: number): number[] => {
    rig.cpu.out16(0x510, key);
    return take(n);
  };
  return { rig, fwCfg, take, item };
}

describe('fw_cfg', () => {
  it('exports what the README says', () => {
    expect(Object.keys(api).sort()).toEqual(['FwCfg', 'claimFwCfg']);
  });

  const fixed: [string, number, number[]][] = [
    ['signature', 0x00, [0x51, 0x45, 0x4d, 0x55]],
    ['revision: ports, no DMA', 0x01, [1, 0, 0, 0]],
    ['UUID', 0x02, new Array<number>(16).fill(0)],
    ['RAM size, 64 bit', 0x03, [0, 0, 0, 0x40, 1, 0, 0, 0]],
    ['no display', 0x04, [1, 0]],
    ['CPUs', 0x05, [3, 0]],
    ['boot menu', 0x0e, [0, 0]],
    ['CPU limit', 0x0f, [8, 0]],
    ['empty directory', 0x19, [0, 0, 0, 0]],
    ['IRQ 0 on pin 2', 0x8002, [1, 0, 0, 0]],
  ];
  for (const [what, key, bytes] of fixed)
    it(`has the ${what} under key 0x${key.toString(16)}, then zeros (fw_cfg.rst)`, () => {
      const { item, take } = bench();
      expect(item(key, bytes.length)).toEqual(bytes);
      expect(take(3)).toEqual([0, 0, 0]);
      // Selecting again starts over; the write channel bit does not matter.
      expect(item(key | 0x4000, bytes.length)).toEqual(bytes);
    });

  it('selects the signature at reset', () => {
    const { fwCfg, take, item } = bench();
    expect(take(2)).toEqual([0x51, 0x45]);
    item(5, 1);
    fwCfg.reset();
    expect(take(4)).toEqual([0x51, 0x45, 0x4d, 0x55]);
  });

  it('reads zeros for keys that do not exist', () => {
    const { item, fwCfg } = bench();
    for (const key of [0x06, 0x1a, 0x20, 0x7fff, 0x8000, 0xffff]) expect(item(key, 2)).toEqual([0, 0]);
    expect(fwCfg.counters()['missing']).toBe(6);
  });

  it('ignores bytes to the selector and writes to the data port; the selector cannot be read', () => {
    const { rig, item, take } = bench();
    item(5, 0);
    rig.cpu.out8(0x510, 1);
    rig.cpu.out8(0x511, 1);
    expect([rig.cpu.in8(0x510), rig.cpu.in16(0x510)]).toEqual([0xff, 0xffff]);
    expect(take(2)).toEqual([3, 0]);
  });

  it('lists files by name, sizes and keys big-endian', () => {
    const { item } = bench([
      { name: 'opt/b', data: text('bee') },
      { name: 'etc/a', data: text('a'.repeat(300)) },
    ]);
    const dir = item(0x19, 4 + 2 * 64);
    expect(dir.slice(0, 4)).toEqual([0, 0, 0, 2]);
    expect(dir.slice(4, 12)).toEqual([0, 0, 1, 44, 0, 0x20, 0, 0]);
    expect(dir.slice(12, 18)).toEqual([...text('etc/a'), 0]);
    expect(dir.slice(68, 76)).toEqual([0, 0, 0, 3, 0, 0x21, 0, 0]);
    expect(dir.slice(76, 82)).toEqual([...text('opt/b'), 0]);
    expect(item(0x21, 4)).toEqual([...text('bee'), 0]);
    expect(item(0x20, 301).slice(298)).toEqual([0x61, 0x61, 0]);
  });

  it('refuses names that do not fit, names twice, and counts out of range', () => {
    const make = (name: string) => () => new FwCfg({ cpus: 1, ramBytes: 0, files: [{ name, data: text('') }] });
    expect(make('a'.repeat(55))).not.toThrow();
    for (const bad of ['', 'a'.repeat(56), 'a b', 'é']) expect(make(bad)).toThrow(/file name/);
    const twice = { name: 'x', data: text('') };
    expect(() => new FwCfg({ cpus: 1, ramBytes: 0, files: [twice, twice] })).toThrow(/two files named x/);
    expect(() => new FwCfg({ cpus: 0, ramBytes: 0 })).toThrow(/0 CPUs/);
    expect(() => new FwCfg({ cpus: 1, ramBytes: -1 })).toThrow(/-1 bytes/);
    expect(() => new FwCfg({ cpus: 1, ramBytes: 0, uuid: new Uint8Array(4) })).toThrow(/UUID/);
  });

  it('goes on where it was after save and load', () => {
    const a = bench();
    a.item(0, 2);
    const saved = JSON.parse(JSON.stringify(a.fwCfg.save()));
    const b = bench();
    b.fwCfg.load(saved);
    expect(b.take(3)).toEqual([0x4d, 0x55, 0]);
    b.fwCfg.load({ v: 1, key: 0, offset: 1e9 });
    expect(b.take(1)).toEqual([0]);
    expect(() => b.fwCfg.load({ v: 2 })).toThrow(/version/);
  });

  it('stands any access a guest makes', () => {
    const { rig, fwCfg, take } = bench([{ name: 'opt/x', data: text('x') }]);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), fc.constantFrom(0x510, 0x511), fc.constantFrom(1, 2, 4), fc.nat()), {
          maxLength: 100,
        }),
        (script) => {
          for (const [write, port, w, value] of script) {
            const width = w as 1 | 2 | 4;
            if (write) rig.cpu.out(port, width, value % 2 ** (8 * width));
            else rig.cpu.in(port, width);
          }
          fwCfg.reset();
          expect(take(4)).toEqual([0x51, 0x45, 0x4d, 0x55]);
        },
      ),
      { numRuns: 200 },
    );
  });
});
