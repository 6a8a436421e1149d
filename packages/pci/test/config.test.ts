import { isHyveError, type Width } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { DummyDevice, HostBridge, PciBridge } from '../src/index.ts';
import { bdf, createPci, ECAM, ecam, Fake, findCap } from './kit.ts';

const code = (f: () => void): string => {
  try {
    f();
  } catch (e) {
    return isHyveError(e) ? e.code : `not a HyveError: ${e}`;
  }
  return 'no error';
};

describe('exports', () => {
  it('are these names', () => {
    expect(Object.keys(api).sort()).toEqual([
      'DummyDevice',
      'HostBridge',
      'LpcBridge',
      'PciBridge',
      'PciBus',
      'PciUart',
      'PirqRouter',
    ]);
  });
});

describe('configuration mechanism 1 (PCI 3.0 §3.2.2.3.2)', () => {
  it('latches doublewords only, with the bits that exist', () => {
    const r = createPci();
    r.cpu.out32(0xcf8, 0xffff_ffff);
    expect(r.cpu.in32(0xcf8)).toBe(0x80ff_fffc);
    r.cpu.out8(0xcf8, 0x12);
    r.cpu.out16(0xcfa, 0x1234);
    r.cpu.out8(0xcfb, 0x01);
    expect(r.cpu.in32(0xcf8)).toBe(0x80ff_fffc);
    expect(r.cpu.in8(0xcf8)).toBe(0xff);
  });

  it('passes byte accesses at 0xCF9 to reset control', () => {
    const writes: number[] = [];
    const r = createPci({ resetControl: { read: () => 0x02, write: (o, w, v) => void writes.push(o, w, v) } });
    r.cpu.out8(0xcf9, 0x06);
    r.cpu.out16(0xcf8, 0x0e55);
    expect(writes).toEqual([0, 1, 0x06, 0, 1, 0x0e]);
    expect(r.cpu.in8(0xcf9)).toBe(2);
    expect(r.cpu.in16(0xcf8)).toBe(0x02ff);
    expect(r.cpu.in16(0xcf9)).toBe(0xff02);
    expect(r.cpu.in8(0xcf8)).toBe(0xff);
    expect(r.cpu.in8(0xcfa)).toBe(0xff);
    r.cpu.out8(0xcfa, 6);
    expect(writes.length).toBe(6);
    expect(r.cpu.in32(0xcf8)).toBe(0);
  });

  it('reads all ones without the enable bit, for absent functions and absent buses', () => {
    const r = createPci();
    r.pci.attach(new Fake(), { slot: 1 });
    r.cpu.out32(0xcf8, bdf(0, 1));
    expect(r.cpu.in32(0xcfc)).toBe(0xffff_ffff);
    expect(r.cfgRead(bdf(0, 1))).toBe(0x5678_1234);
    expect(r.cfgRead(bdf(0, 2))).toBe(0xffff_ffff);
    expect(r.cfgRead(bdf(0, 1, 1), 2)).toBe(0xffff);
    expect(r.cfgRead(bdf(1, 1), 1)).toBe(0xff);
    r.cfgWrite(bdf(9, 1), 0);
    expect(r.cpu.read32(ecam(bdf(0, 2)))).toBe(0xffff_ffff);
    expect(r.cpu.read(ecam(bdf(200, 0)), 2)).toBe(0xffff);
  });

  it('takes bytes and words at 0xCFC-0xCFF', () => {
    const r = createPci();
    r.pci.attach(new Fake({ classCode: 0x010802, revision: 7 }), { slot: 3 });
    const f = bdf(0, 3);
    expect([0, 1, 2, 3].map((i) => r.cfgRead(f + i, 1))).toEqual([0x34, 0x12, 0x78, 0x56]);
    expect(r.cfgRead(f + 2, 2)).toBe(0x5678);
    expect(r.cfgRead(f + 8)).toBe(0x01080207);
    r.cfgWrite(f + 0x3c, 0x0b, 1);
    expect(r.cfgRead(f + 0x3c)).toBe(0x0000_000b);
  });
});

describe('header registers', () => {
  it.each([
    ['vendor and device', 0x00, 4, 0x56781234],
    ['command: bus master (no BARs)', 0x04, 2, 0x0004],
    ['status', 0x06, 2, 0],
    ['class, revision', 0x08, 4, 0xff000009],
    ['cache line', 0x0c, 1, 0],
    ['latency', 0x0d, 1, 0],
    ['header type', 0x0e, 1, 0],
    ['BIST', 0x0f, 1, 0],
    ['BAR 0', 0x10, 4, 0],
    ['subsystem', 0x2c, 4, 0x22221111],
    ['ROM BAR', 0x30, 4, 0],
    ['capability pointer', 0x34, 1, 0],
    ['interrupt line', 0x3c, 1, 0xff],
    ['interrupt pin', 0x3d, 1, 0],
    ['min_gnt, max_lat', 0x3e, 2, 0],
    ['undefined', 0x40, 4, 0],
  ] as const)('%s resets to its value', (_n, reg, width, value) => {
    const r = createPci();
    r.pci.attach(new Fake({ revision: 9, subsystemVendor: 0x1111, subsystem: 0x2222 }), { slot: 0 });
    r.pci.assign();
    expect(r.cfgRead(reg, width as Width)).toBe(value);
  });

  it('has the writable bits of the specification and no others', () => {
    const r = createPci();
    r.pci.attach(new Fake(), { slot: 0 });
    r.pci.assign();
    const image = (): number[] => Array.from({ length: 64 }, (_, i) => r.cfgRead(i * 4));
    const before = image();
    for (let i = 0; i < 64; i++) r.cfgWrite(i * 4, 0xffff_ffff);
    const after = image();
    const changed = after.flatMap((v, i) => (v === before[i] ? [] : [[i * 4, (v ^ (before[i] as number)) >>> 0]]));
    // Command (master is on already): I/O, memory, parity, SERR, INTx disable. Cache line and latency. Line was 0xFF.
    expect(changed).toEqual([
      [0x04, 0x0543],
      [0x0c, 0x0000_ffff],
    ]);
  });

  it('has no latency timer with PCI Express', () => {
    const r = createPci();
    r.pci.attach(new Fake({ express: 'endpoint' }), { slot: 0 });
    r.cfgWrite(0x0d, 0xff, 1);
    expect(r.cfgRead(0x0d, 1)).toBe(0);
  });

  it('sets the multi-function bit on every function of a shared slot', () => {
    const r = createPci();
    r.pci.attach(new Fake(), { slot: 1 });
    r.pci.attach(new Fake(), { slot: 1, func: 7 });
    r.pci.attach(new Fake(), { slot: 2 });
    r.pci.assign();
    expect(r.cfgRead(bdf(0, 1) + 0x0e, 1)).toBe(0x80);
    expect(r.cfgRead(bdf(0, 1, 7) + 0x0e, 1)).toBe(0x80);
    expect(r.cfgRead(bdf(0, 2) + 0x0e, 1)).toBe(0);
  });
});

describe('ECAM (PCIe 3.0 §7.2.2)', () => {
  it('agrees with mechanism 1 for every byte, word and doubleword', () => {
    const r = createPci();
    r.pci.attach(new HostBridge(), { slot: 0 });
    r.pci.attach(new DummyDevice(), { bus: 0, slot: 5, func: 0 });
    r.pci.attach(new Fake({ msix: { vectors: 4, bar: 2 }, express: 'endpoint', intx: true }), {
      bus: 7,
      slot: 31,
      func: 0,
    });
    r.pci.assign();
    for (const f of [bdf(0, 0), bdf(0, 5), bdf(7, 31)]) {
      for (const w of [1, 2, 4] as const)
        for (let reg = 0; reg < 256; reg += w) expect(r.cpu.read(ecam(f, reg), w)).toBe(r.cfgRead(f + reg, w));
    }
    r.cpu.write(ecam(bdf(0, 5), 0x3c), 1, 0x77);
    expect(r.cfgRead(bdf(0, 5) + 0x3c, 1)).toBe(0x77);
  });

  it('reads zero in extended space and takes any alignment', () => {
    const r = createPci();
    r.pci.attach(new Fake(), { slot: 1 });
    const f = ecam(bdf(0, 1));
    expect(r.cpu.read32(f + 0x100)).toBe(0);
    expect(r.cpu.read32(f + 0xffc)).toBe(0);
    expect(r.cpu.read32(f + 1)).toBe(0x0056_7812);
    r.cpu.write32(f + 0x100, 0xffff_ffff);
    r.cpu.write32(f + 0xfe, 0xffff_ffff);
    expect(r.cpu.read32(f + 0xfe)).toBe(0);
    expect(r.cpu.read32(f + 0xffe)).toBe(0);
    expect(r.cpu.read32(ECAM + (256 << 20) - 4)).toBe(0xffff_ffff);
  });
});

describe('capabilities', () => {
  it('form a list that ends, with every capability asked for', () => {
    const r = createPci();
    r.pci.attach(
      new Fake({
        powerManagement: true,
        msix: { vectors: 3, bar: 4 },
        msi: 8,
        msiMaskable: true,
        express: 'endpoint',
        capabilities: [
          { id: 9, body: Uint8Array.of(6, 1, 2, 3), writable: Uint8Array.of(0, 0xf0, 0, 0xff) },
          { id: 9, body: Uint8Array.of(5, 9, 8) },
        ],
      }),
      { slot: 0 },
    );
    const ids: number[] = [];
    for (let at = r.cfgRead(0x34, 1); at !== 0; at = r.cfgRead(at + 1, 1)) {
      expect(at % 4).toBe(0);
      ids.push(r.cfgRead(at, 1));
      expect(ids.length).toBeLessThan(10);
    }
    expect(ids).toEqual([1, 0x11, 5, 0x10, 9, 9]);
  });

  it('lets the guest write what a body marks writable, and tells the device', () => {
    const r = createPci();
    const told: number[][] = [];
    const d = new Fake({
      capabilities: [{ id: 9, body: Uint8Array.of(6, 1, 2, 3), writable: Uint8Array.of(0, 0xf0, 0, 0xff) }],
    });
    Object.assign(d, { capabilityWritten: (...a: number[]) => told.push(a) });
    r.pci.attach(d, { slot: 0 });
    const c = findCap(r, 0, 9);
    r.cfgWrite(c + 2, 0xaaaa, 2);
    r.cfgWrite(c + 4, 0x5555, 2);
    expect(r.cfgRead(c + 2, 2)).toBe(0xa106);
    expect(r.cfgRead(c + 4, 2)).toBe(0x5502);
    expect(told).toEqual([
      [0, 0, 0x06],
      [0, 1, 0xa1],
      [0, 2, 0x02],
      [0, 3, 0x55],
    ]);
    d.ctx.setCapabilityByte(0, 2, 0x99);
    expect(r.cfgRead(c + 4, 1)).toBe(0x99);
    expect(code(() => d.ctx.setCapabilityByte(0, 4, 0))).toBe('PCI_SPEC');
    Object.assign(d, { capabilityRead: (_i: number, o: number, w: number) => (o === 2 ? 0x70 + w : undefined) });
    expect(r.cfgRead(c + 4, 1)).toBe(0x71);
    expect(r.cfgRead(c + 4, 2)).toBe(0x72);
    expect(r.cfgRead(c + 2, 2)).toBe(0xa106);
  });

  it('gives undefined bytes to a device that serves them, around the capabilities', () => {
    const r = createPci();
    const d = new Fake({ msi: 1, reserved: [{ offset: 0x40, length: 6 }] });
    const seen: string[] = [];
    Object.assign(d, {
      configRead: (o: number) => (o < 0x48 ? o * 0x01010101 : undefined) as number,
      configWrite: (o: number, w: number, v: number) => {
        seen.push(`${o.toString(16)}/${w}=${v.toString(16)}`);
        return true;
      },
    });
    r.pci.attach(d, { slot: 0 });
    expect(r.cfgRead(0x34, 1)).toBe(0x48);
    expect(r.cfgRead(0x40)).toBe(0x40404040);
    expect(r.cfgRead(0x42, 2)).toBe(0x4242);
    expect(r.cfgRead(0xf0)).toBe(0);
    r.cfgWrite(0x40, 0x12345678);
    r.cfgWrite(0xf3, 0x9a, 1);
    expect(seen).toEqual(['40/4=12345678', 'f3/1=9a']);
    // A doubleword that straddles capability and device bytes (only ECAM can do that).
    r.cpu.write32(ecam(0, 0x46), 0x0001_1234);
    expect(seen.slice(2)).toEqual(['46/2=1234']);
  });

  it('PCI Express: type, link and reset values per device/port type (§7.8)', () => {
    const r = createPci();
    r.pci.attach(new HostBridge(), { slot: 0 });
    r.pci.attach(new Fake({ express: 'endpoint' }), { slot: 1 });
    r.pci.attach(new Fake({ express: 'root-complex-integrated' }), { slot: 2 });
    const read = (slot: number, o: number, w: Width): number => {
      const f = bdf(0, slot);
      return r.cfgRead(f + findCap(r, f, 0x10) + o, w);
    };
    expect([0, 1, 2].map((s) => read(s, 2, 2))).toEqual([0x42, 0x02, 0x92]);
    expect([0, 1, 2].map((s) => read(s, 0x0c, 4))).toEqual([0x411, 0x411, 0]);
    expect([0, 1, 2].map((s) => read(s, 0x12, 2))).toEqual([0x11, 0x11, 0]);
    expect([0, 1, 2].map((s) => read(s, 8, 2))).toEqual([0x2810, 0x2810, 0x2810]);
    expect([0, 1, 2].map((s) => read(s, 4, 4) >>> 28)).toEqual([0, 1, 1]);
  });

  it('resets one function by Initiate Function Level Reset', () => {
    const r = createPci();
    const d = new Fake({ express: 'endpoint', bars: [{ bar: 0, kind: 'mem32', size: 4096 }], intx: true });
    r.pci.attach(d, { slot: 1 });
    r.pci.assign();
    const f = bdf(0, 1);
    const base = r.cfgRead(f + 0x10);
    d.ctx.intx(true);
    r.cfgWrite(f + 0x10, 0xc100_0000);
    const ctl = f + findCap(r, f, 0x10) + 8;
    r.cfgWrite(ctl, 0xa810, 2);
    expect(d.resets).toBe(1);
    expect(r.cfgRead(ctl, 2)).toBe(0x2810);
    expect(r.cfgRead(f + 4)).toBe(0x0010_0000);
    expect(r.cfgRead(f + 0x10)).toBe(base);
    expect(r.cpu.read32(base)).toBe(0xffff_ffff);
    expect(r.ioapic.high()).toEqual([]);
    r.cfgWrite(ctl, 0x2810, 2);
    expect(d.resets).toBe(1);
  });

  it('makes room for a BAR that waited, when a function is reset', () => {
    const r = createPci();
    for (const slot of [1, 2])
      r.pci.attach(new Fake({ express: 'endpoint', bars: [{ bar: 0, kind: 'mem32', size: 4096 }] }), { slot });
    r.pci.assign();
    r.cfgWrite(bdf(0, 2) + 0x10, 0xc000_0000);
    const current = (): unknown => r.pci.functions().map((f) => f.bars[0]?.current);
    expect(current()).toEqual([0xc000_0000, null]);
    r.cfgWrite(bdf(0, 1) + findCap(r, bdf(0, 1), 0x10) + 8, 0x8000, 2);
    expect(current()).toEqual([null, 0xc000_0000]);
  });
});

describe('host mistakes', () => {
  it.each([
    ['PCI_ADDRESS', { slot: 32 }, {}],
    ['PCI_ADDRESS', { slot: -1 }, {}],
    ['PCI_ADDRESS', { slot: 0, func: 8 }, {}],
    ['PCI_ADDRESS', { bus: 256, slot: 0 }, {}],
    ['PCI_ADDRESS', { bus: 3, slot: 0 }, { bridge: { secondary: 2 } }],
    ['PCI_ADDRESS', { slot: 0 }, { bridge: { secondary: 0 } }],
    ['PCI_SPEC', { slot: 0 }, { bridge: { secondary: 300 } }],
    ['PCI_SPEC', { slot: 0 }, { bars: [{ bar: 0, kind: 'mem32', size: 100 }] }],
    ['PCI_SPEC', { slot: 0 }, { bars: [{ bar: 0, kind: 'mem32', size: 8 }] }],
    ['PCI_SPEC', { slot: 0 }, { bars: [{ bar: 0, kind: 'io', size: 512 }] }],
    ['PCI_SPEC', { slot: 0 }, { bars: [{ bar: 5, kind: 'mem64', size: 4096 }] }],
    ['PCI_SPEC', { slot: 0 }, { bars: [{ bar: 6, kind: 'io', size: 4 }] }],
    [
      'PCI_SPEC',
      { slot: 0 },
      {
        bars: [
          { bar: 0, kind: 'mem64', size: 16 },
          { bar: 1, kind: 'io', size: 4 },
        ],
      },
    ],
    ['PCI_SPEC', { slot: 0 }, { msi: 3 }],
    ['PCI_SPEC', { slot: 0 }, { msi: 64 }],
    ['PCI_SPEC', { slot: 0 }, { msix: { vectors: 0, bar: 0 } }],
    ['PCI_SPEC', { slot: 0 }, { msix: { vectors: 2049, bar: 0 } }],
    ['PCI_SPEC', { slot: 0 }, { msix: { vectors: 1, bar: 0 }, bars: [{ bar: 0, kind: 'mem32', size: 4096 }] }],
    ['PCI_SPEC', { slot: 0 }, { msix: { vectors: 1, bar: 0 }, msixOffset: 12 }],
    ['PCI_CAP_SPACE', { slot: 0 }, { express: 'endpoint', capabilities: [{ id: 9, body: { length: 140 } as never }] }],
  ] as const)('throws %s (%j %j)', (expected, at, spec) => {
    const r = createPci();
    expect(code(() => r.pci.attach(new Fake(spec as never), at))).toBe(expected);
  });

  it('refuses occupied places and devices after assignment', () => {
    const r = createPci();
    r.pci.attach(new Fake(), { slot: 3 });
    expect(code(() => r.pci.attach(new Fake(), { slot: 3 }))).toBe('PCI_OCCUPIED');
    r.pci.attach(new PciBridge({ secondary: 1 }), { slot: 4 });
    expect(code(() => r.pci.attach(new PciBridge({ secondary: 1 }), { slot: 5 }))).toBe('PCI_ADDRESS');
    r.pci.assign();
    expect(code(() => r.pci.attach(new Fake(), { slot: 6 }))).toBe('PCI_ASSIGNED');
    expect(code(() => r.pci.assign())).toBe('PCI_ASSIGNED');
  });

  it('refuses BARs that do not fit the windows', () => {
    const r = createPci({ ioWindow: { base: 0x2000, size: 0x40 } });
    for (let s = 1; s < 4; s++) r.pci.attach(new Fake({ bars: [{ bar: 0, kind: 'io', size: 32 }] }), { slot: s });
    expect(code(() => r.pci.assign())).toBe('PCI_NO_SPACE');
  });
});
