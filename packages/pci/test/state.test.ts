import { type Device, type IrqLine, isHyveError, type Width } from '@hyve/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DummyDevice, HostBridge, LpcBridge, PciBridge, PciUart } from '../src/index.ts';
import { bdf, createPci, ECAM, ecam, Fake, findCap, type PciRig } from './kit.ts';

interface Machine extends PciRig {
  readonly a: Fake;
  readonly b: Fake;
}

function machine(): Machine {
  const r = createPci({ reserved: [3, 4, 9, 12] });
  const a = new Fake({
    bars: [
      { bar: 0, kind: 'io', size: 64 },
      { bar: 2, kind: 'mem64', size: 0x8000, prefetchable: true },
    ],
    msix: { vectors: 40, bar: 2 },
    msixOffset: 0x1000,
    msi: 32,
    msiMaskable: true,
    intx: true,
    express: 'endpoint',
    powerManagement: true,
    capabilities: [{ id: 9, body: Uint8Array.of(4, 1), writable: Uint8Array.of(0, 0xff) }],
  });
  const b = new Fake({ bars: [{ bar: 0, kind: 'mem32', size: 4096 }], intx: true, msi: 1 });
  r.pci.attach(new HostBridge(), { slot: 0 });
  r.pci.attach(new PciBridge({ secondary: 1 }), { slot: 1 });
  r.pci.attach(a, { slot: 3 });
  r.pci.attach(new DummyDevice(), { slot: 3, func: 1 });
  r.pci.attach(b, { bus: 1, slot: 0 });
  r.pci.attach(new LpcBridge({ router: r.router }), { slot: 31 });
  r.pci.assign();
  return { ...r, a, b };
}

/** Everything the guest can read of configuration space, with bus 0 and what bridges show. */
function picture(r: PciRig): number[] {
  const v: number[] = [];
  for (const f of [bdf(0, 0), bdf(0, 1), bdf(0, 3), bdf(0, 3, 1), bdf(1, 0), bdf(0, 31)])
    for (let o = 0; o < 256; o += 4) v.push(r.cpu.read32(ecam(f, o)));
  return v;
}

type Step =
  | {
      readonly op: 'cfg' | 'ecam';
      readonly fn: number;
      readonly reg: number;
      readonly width: Width;
      readonly value: number;
      readonly write: boolean;
    }
  | {
      readonly op: 'port' | 'mem';
      readonly at: number;
      readonly width: Width;
      readonly value: number;
      readonly write: boolean;
    }
  | { readonly op: 'irq'; readonly n: number; readonly on: boolean };

const width = fc.constantFrom<Width>(1, 2, 4);
const fn = fc.constantFrom(bdf(0, 0), bdf(0, 1), bdf(0, 3), bdf(0, 3, 1), bdf(1, 0), bdf(0, 31), bdf(0, 7), bdf(5, 3));
const value = fc.oneof(
  fc.constantFrom(0, 0xffff_ffff, 0x8000_0000, 7, 0xc000_0000, 0xe000_0000, 0xfee0_0000, 0x2001, 0xcf9),
  fc.nat(0xffff_ffff),
);
const reg = fc.oneof(fc.constantFrom(4, 0x10, 0x14, 0x18, 0x19, 0x1a, 0x1c, 0x20, 0x24, 0x3c, 0x3e), fc.nat(255));
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ op: fc.constantFrom('cfg' as const, 'ecam' as const), fn, reg, width, value, write: fc.boolean() }),
  fc.record({
    op: fc.constant('port' as const),
    at: fc.oneof(fc.integer({ min: 0xcf4, max: 0xd02 }), fc.integer({ min: 0x2000, max: 0x2100 })),
    width,
    value,
    write: fc.boolean(),
  }),
  fc.record({
    op: fc.constant('mem' as const),
    at: fc.oneof(fc.integer({ min: 0xbfff_fff0, max: 0xc020_0000 }), fc.integer({ min: ECAM, max: ECAM + (2 << 20) })),
    width,
    value,
    write: fc.boolean(),
  }),
  fc.record({ op: fc.constant('irq' as const), n: fc.nat(40), on: fc.boolean() }),
);

function run(r: Machine, s: Step): number {
  switch (s.op) {
    case 'irq':
      r.a.ctx.intx(s.on);
      r.b.ctx.intx(!s.on);
      r.a.ctx.msi(s.n);
      r.a.ctx.msix(s.n);
      r.b.ctx.msi(s.n);
      return 0;
    case 'cfg': {
      const reg = s.reg - (s.reg % s.width);
      if (s.write) r.cfgWrite(s.fn + reg, s.value % 2 ** (8 * s.width), s.width);
      return r.cfgRead(s.fn + reg, s.width);
    }
    case 'ecam':
      if (s.write) r.cpu.write(ecam(s.fn, s.reg), s.width, s.value % 2 ** (8 * s.width));
      return r.cpu.read(ecam(s.fn, s.reg), s.width);
    case 'port':
      if (s.write) r.cpu.out(s.at, s.width, s.value % 2 ** (8 * s.width));
      return r.cpu.in(s.at, s.width);
    case 'mem':
      if (s.write) r.cpu.write(s.at, s.width, s.value % 2 ** (8 * s.width));
      return r.cpu.read(s.at, s.width);
  }
}

describe('a hostile guest', () => {
  it('gets unsigned answers, never an exception, and a machine that resets', () => {
    const r = machine();
    const fresh = picture(r);
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 60 }), (steps) => {
        for (const s of steps) run(r, s);
        r.msis.length = 0;
        r.a.log.length = 0;
        r.b.log.length = 0;
        r.pci.reset();
        expect(picture(r)).toEqual(fresh);
        expect([r.ioapic.high(), r.pic.high()]).toEqual([[], []]);
        for (const f of r.pci.functions()) for (const b of f.bars) expect(b.current).toBe(b.base);
      }),
      { numRuns: 150 },
    );
  });

  it('sees the same through ECAM as through mechanism 1, whatever it wrote', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const r = machine();
        for (const s of steps) run(r, s);
        for (const f of [bdf(0, 1), bdf(0, 3), bdf(1, 0), bdf(5, 3)])
          for (let o = 0; o < 256; o += 4) expect(r.cpu.read32(ecam(f, o))).toBe(r.cfgRead(f + o));
      }),
      { numRuns: 30 },
    );
  });
});

describe('save and load', () => {
  it('a fresh machine that loads answers as the saved one does', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.array(step, { maxLength: 25 }), (before, after) => {
        const r = machine();
        for (const s of before) run(r, s);
        const state = JSON.parse(JSON.stringify(r.pci.save())) as unknown;
        const t = machine();
        t.pci.load(state);
        expect([t.ioapic.high(), t.pic.high()]).toEqual([r.ioapic.high(), r.pic.high()]);
        expect(t.ioapic.edges).toEqual([]);
        expect(t.msis).toEqual([]);
        r.msis.length = 0;
        expect(picture(t)).toEqual(picture(r));
        expect(t.pci.functions().map((f) => f.bars.map((b) => b.current))).toEqual(
          r.pci.functions().map((f) => f.bars.map((b) => b.current)),
        );
        expect(t.pci.save()).toEqual(state);
        for (const s of after) {
          // The dummy's own memory is its own state.
          if (s.op !== 'mem' && s.op !== 'port') expect(run(t, s)).toBe(run(r, s));
        }
        expect(t.msis).toEqual(r.msis);
      }),
      { numRuns: 60 },
    );
  });

  it('leaves the addresses to the BAR that had them', () => {
    const build = (): PciRig => {
      const r = createPci();
      for (const slot of [1, 2]) r.pci.attach(new Fake({ bars: [{ bar: 0, kind: 'mem32', size: 4096 }] }), { slot });
      r.pci.assign();
      return r;
    };
    const r = build();
    r.cfgWrite(bdf(0, 1) + 0x10, r.cfgRead(bdf(0, 2) + 0x10));
    const current = (x: PciRig): (number | null | undefined)[] => x.pci.functions().map((f) => f.bars[0]?.current);
    expect(current(r)).toEqual([null, 0xc000_1000]);
    const t = build();
    t.pci.load(r.pci.save());
    expect(current(t)).toEqual([null, 0xc000_1000]);
    t.cfgWrite(bdf(0, 2) + 4, 0, 2);
    expect(current(t)).toEqual([0xc000_1000, null]);
  });

  it('refuses what it cannot take', () => {
    const r = machine();
    const s = r.pci.save();
    const codeOf = (state: unknown): string => {
      try {
        r.pci.load(state);
      } catch (e) {
        return isHyveError(e) ? e.code : String(e);
      }
      return 'loaded';
    };
    expect(codeOf(null)).toBe('STATE_VERSION');
    expect(codeOf({ ...s, v: 2 })).toBe('STATE_VERSION');
    expect(codeOf({ ...s, functions: 3 })).toBe('STATE_FORMAT');
    expect(codeOf({ ...s, functions: s.functions.slice(1) })).toBe('STATE_FORMAT');
    expect(codeOf({ ...s, pirq: [1] })).toBe('STATE_FORMAT');
    const change = (c: object): unknown => ({
      ...s,
      functions: s.functions.map((f, i) => (i === 2 ? { ...f, ...c } : f)),
    });
    expect(codeOf(change({ at: '0:9.0' }))).toBe('STATE_FORMAT');
    expect(codeOf(change({ config: [1, 2] }))).toBe('STATE_FORMAT');
    expect(codeOf(change({ config: new Array(256).fill(0) }))).toBe('STATE_FORMAT');
    expect(codeOf(change({ msixTable: [] }))).toBe('STATE_FORMAT');
    expect(codeOf(change({ msixPending: [1] }))).toBe('STATE_FORMAT');
    expect(codeOf(change({ decoded: 1 }))).toBe('STATE_FORMAT');
    expect(codeOf(change({ intx: 1 }))).toBe('STATE_FORMAT');
    expect(codeOf(s)).toBe('loaded');
  });

  it('of the dummy keeps its memory', () => {
    const d = new DummyDevice();
    d.barWrite(1, 4, 4, 0xdeadbeef);
    const e = new DummyDevice();
    e.load(JSON.parse(JSON.stringify(d.save())));
    expect(e.barRead(1, 4, 4)).toBe(0xdeadbeef);
    expect(() => e.load({ v: 1, io: [], mem: [] })).toThrow(/8, 4096/);
    expect(() => e.load({ v: 3 })).toThrow(/version/);
  });
});

describe('reset', () => {
  it('puts BARs, Command, MSI-X and lines back and resets devices', () => {
    const r = machine();
    const f = bdf(0, 3);
    const cap = f + findCap(r, f, 0x11);
    r.cfgWrite(f + 0x10, 0x9001);
    r.cfgWrite(cap + 2, 0x8000, 2);
    r.a.ctx.msix(3);
    r.b.ctx.intx(true);
    expect(r.ioapic.high().length).toBe(1);
    r.pci.reset();
    expect(r.cpu.in32(0xcf8)).toBe(0);
    expect(r.a.resets).toBe(1);
    expect(r.cfgRead(f + 0x10)).toBe((r.pci.functions()[2]?.bars[0]?.base ?? 0) + 1);
    expect(r.a.ctx.msix(3)).toBe(false);
    expect(r.ioapic.high()).toEqual([]);
  });

  it('of the LPC bridge resets its children', () => {
    const r = createPci();
    const lpc = new LpcBridge({ router: r.router });
    let resets = 0;
    const com: Device = { name: 'com1', reset: () => void resets++ };
    lpc.add(com);
    expect(() => lpc.add(com)).toThrow(/com1/);
    r.pci.attach(lpc, { slot: 31 });
    r.pci.assign();
    r.pci.reset();
    expect([resets, lpc.children]).toEqual([1, [com]]);
  });
});

describe('devices', () => {
  it("hostbridge and amd_hostbridge have bhyve's ids and a root port capability", () => {
    const r = createPci();
    r.pci.attach(new HostBridge(), { slot: 0 });
    r.pci.attach(new HostBridge({ model: 'amd_hostbridge' }), { slot: 1 });
    r.pci.assign();
    expect([r.cfgRead(0), r.cfgRead(bdf(0, 1))]).toEqual([0x1275_1275, 0x7432_1022]);
    expect(r.cfgRead(8)).toBe(0x0600_0000);
    expect(r.cfgRead(0x3d, 1)).toBe(0);
    expect(r.cfgRead(findCap(r, 0, 0x10) + 2, 2)).toBe(0x42);
  });

  it('uart puts any 16550 behind an I/O BAR and level INTx', () => {
    const r = createPci();
    const seen: string[] = [];
    let irq: IrqLine | null = null;
    const uart = new PciUart({
      chip: (line) => {
        irq = line;
        return {
          read: (o, w) => o * 16 + w,
          write: (o, w, v) => void seen.push(`${o}/${w}=${v}`),
          reset: () => void seen.push('reset'),
          save: () => 42,
          load: (s) => void seen.push(`load ${s}`),
        };
      },
    });
    r.pci.attach(uart, { slot: 3 });
    r.pci.assign();
    expect([r.cfgRead(bdf(0, 3)), r.cfgRead(bdf(0, 3) + 8)]).toEqual([0x2000_131f, 0x0700_0200]);
    r.cpu.out16(0x2000, 0x1234);
    expect(r.cpu.in8(0x2007)).toBe(0x71);
    expect(seen).toEqual(['0/1=52', '1/1=18']);
    (irq as unknown as IrqLine).set(true);
    expect(r.ioapic.high()).toEqual([16]);
    (irq as unknown as IrqLine).restore(false);
    expect(r.ioapic.high()).toEqual([16]);
    (irq as unknown as IrqLine).set(false);
    expect(r.ioapic.high()).toEqual([]);
    uart.load(uart.save());
    r.pci.reset();
    expect(seen.slice(2)).toEqual(['load 42', 'reset']);
  });
});
