import type { MsrValue } from '@hyve/core';
import { ManualClock } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/lapic/index.ts';
import { ApicBus, LocalApic, type LocalApicOptions } from '../src/lapic/index.ts';

const ID = 0x20;
const VERSION = 0x30;
const TPR = 0x80;
const APR = 0x90;
const PPR = 0xa0;
const EOI = 0xb0;
const LDR = 0xd0;
const DFR = 0xe0;
const SVR = 0xf0;
const ISR = 0x100;
const TMR = 0x180;
const IRR = 0x200;
const ESR = 0x280;
const ICR = 0x300;
const ICR_HI = 0x310;
const TIMER = 0x320;
const LINT0 = 0x350;
const LINT1 = 0x360;
const ERROR = 0x370;
const INIT = 0x380;
const CCR = 0x390;
const DCR = 0x3e0;
const ENABLE = 1 << 11;
const EXTD = 1 << 10;
const BASE = 0xfee00000;

function setup(n = 1, o: Partial<LocalApicOptions> = {}) {
  const clock = new ManualClock();
  const bus = new ApicBus();
  const attention: number[] = [];
  bus.onAttention = (i) => attention.push(i);
  const apics = Array.from(
    { length: n },
    (_, index) => new LocalApic({ bus, index, clock, tscHz: 2_000_000_000, physBits: 40, ...o }),
  );
  const msr: MsrValue = { lo: 0, hi: 0 };
  return {
    clock,
    bus,
    apics,
    attention,
    rd: (r: number, i = 0) => (apics[i] as LocalApic).mmioRead(r, 4),
    wr: (r: number, v: number, i = 0) => (apics[i] as LocalApic).mmioWrite(r, 4, v >>> 0),
    on: (i?: number) => {
      for (const [k, a] of apics.entries()) if (i === undefined || i === k) a.mmioWrite(SVR, 4, 0x1ff);
    },
    rdx: (m: number, i = 0) => ((apics[i] as LocalApic).readX2(m, msr) ? { ...msr } : null),
    wrx: (m: number, lo: number, hi = 0, i = 0) => (apics[i] as LocalApic).writeX2(m, lo >>> 0, hi >>> 0),
    base: (i = 0) => {
      (apics[i] as LocalApic).readApicBase(msr);
      return { ...msr };
    },
    x2: (i?: number) => {
      for (const [k, a] of apics.entries()) if (i === undefined || i === k) a.writeApicBase(BASE | ENABLE | EXTD, 0);
    },
    bit: (r: number, v: number, i = 0) =>
      (((apics[i] as LocalApic).mmioRead(r + (v >> 5) * 16, 4) >>> (v & 31)) & 1) === 1,
    deadline: (a: LocalApic) => {
      a.readTscDeadline(msr);
      return { ...msr };
    },
  };
}
const get = (s: ReturnType<typeof setup>, i = 0): LocalApic => s.apics[i] as LocalApic;

const RESET: [string, number, number][] = [
  ['id', ID, 0],
  ['version', VERSION, 0x60014],
  ['TPR', TPR, 0],
  ['APR', APR, 0],
  ['PPR', PPR, 0],
  ['LDR', LDR, 0],
  ['DFR', DFR, 0xffffffff],
  ['SVR', SVR, 0xff],
  ['ESR', ESR, 0],
  ['CMCI', 0x2f0, 0x10000],
  ['ICR', ICR, 0],
  ['ICR high', ICR_HI, 0],
  ['timer', TIMER, 0x10000],
  ['thermal', 0x330, 0x10000],
  ['perf', 0x340, 0x10000],
  ['LINT0', LINT0, 0x10000],
  ['LINT1', LINT1, 0x10000],
  ['error', ERROR, 0x10000],
  ['initial count', INIT, 0],
  ['current count', CCR, 0],
  ['divide', DCR, 0],
];

describe('local APIC registers', () => {
  it('exports what the README lists', () => {
    expect(Object.keys(api).sort()).toEqual(['APIC_TIMER_HZ', 'ApicBus', 'LocalApic']);
  });

  it.each(RESET)('%s has its reset value (SDM 11.4.7.1)', (_n, r, v) => {
    const s = setup();
    expect(s.rd(r)).toBe(v);
    for (const [, q] of RESET) s.wr(q, 0xffffffff);
    get(s).reset();
    expect(s.rd(r)).toBe(v);
  });

  it('keeps only the writable bits', () => {
    const s = setup();
    s.on();
    for (const [r, expected] of [
      [TPR, 0xff],
      [LDR, 0xff000000],
      [SVR, 0x3ff],
      [0x2f0, 0x107ff],
      [TIMER, 0x700ff],
      [LINT0, 0x1a7ff],
      [ERROR, 0x100ff],
      [DCR, 0xb],
      [ICR_HI, 0xff000000],
      [VERSION, 0x60014],
    ] as const) {
      s.wr(r, 0xffffffff);
      expect([r, s.rd(r)]).toEqual([r, expected]);
    }
    s.wr(DFR, 0);
    expect(s.rd(DFR)).toBe(0x0fffffff);
  });

  it('takes only aligned 32-bit writes, reads bytes of a register', () => {
    const s = setup();
    get(s).mmioWrite(TPR, 1, 0x20);
    get(s).mmioWrite(TPR + 4, 4, 0x20);
    expect(s.rd(TPR)).toBe(0);
    expect(get(s).mmioRead(VERSION + 2, 1)).toBe(6);
    expect(get(s).mmioRead(VERSION + 4, 4)).toBe(0);
  });

  it('masks the table while software-disabled (SDM 11.4.7.2)', () => {
    const s = setup();
    s.on();
    s.wr(LINT1, 0x400);
    expect(s.rd(LINT1)).toBe(0x400);
    s.wr(SVR, 0xff);
    expect(s.rd(LINT1)).toBe(0x10400);
    s.wr(LINT1, 0x400);
    expect(s.rd(LINT1)).toBe(0x10400);
    expect(get(s).accept(0x30, false)).toBe(false);
  });

  it('reports an illegal register in ESR, once until ESR is written (SDM 11.5.3)', () => {
    const s = setup();
    s.on();
    s.wr(ERROR, 0xfe);
    expect(s.rd(0x40)).toBe(0);
    expect(s.rd(ESR)).toBe(0);
    expect(get(s).acknowledge()).toBe(0xfe);
    s.wr(EOI, 0);
    s.wr(0x50, 1);
    expect(get(s).hasInterrupt()).toBe(false);
    s.wr(ESR, 0);
    expect(s.rd(ESR)).toBe(0x80);
    s.wr(ESR, 0);
    expect(s.rd(ESR)).toBe(0);
    s.rd(0x40);
    expect(get(s).hasInterrupt()).toBe(true);
  });

  it('reports illegal vectors on both sides, an illegal error vector included', () => {
    const s = setup();
    s.on();
    s.wr(ERROR, 3);
    s.wr(ICR, 0x4000 | 5);
    s.bus.send(BASE, 0x4);
    s.wr(ESR, 0);
    expect(s.rd(ESR)).toBe(0x60);
    expect(get(s).hasInterrupt()).toBe(false);
  });
});

describe('local APIC priorities', () => {
  it('gives the highest vector, holds equal classes until EOI (SDM 11.8.3)', () => {
    const s = setup();
    s.on();
    const a = get(s);
    for (const v of [0x31, 0x35, 0x52]) a.accept(v, false);
    expect(a.acknowledge()).toBe(0x52);
    expect(s.rd(PPR)).toBe(0x50);
    expect(s.bit(ISR, 0x52)).toBe(true);
    expect(a.hasInterrupt()).toBe(false);
    expect(a.acknowledge()).toBe(0xff); // spurious, nothing in service
    a.accept(0x5f, false);
    expect(a.hasInterrupt()).toBe(false);
    a.accept(0x60, false);
    expect(a.acknowledge()).toBe(0x60);
    s.wr(EOI, 0);
    expect(a.hasInterrupt()).toBe(false);
    s.wr(EOI, 0);
    expect([a.acknowledge(), s.wr(EOI, 0), a.acknowledge(), s.wr(EOI, 0), a.acknowledge()]).toEqual([
      0x5f,
      undefined,
      0x35,
      undefined,
      0x31,
    ]);
  });

  it('asks for attention when TPR or CR8 drop', () => {
    const s = setup();
    s.on();
    const a = get(s);
    a.writeCr8(4);
    expect(s.rd(TPR)).toBe(0x40);
    a.accept(0x42, false);
    expect(s.attention).toEqual([]);
    expect(a.hasInterrupt()).toBe(false);
    a.writeCr8(3);
    expect(s.attention).toEqual([0]);
    expect(a.hasInterrupt()).toBe(true);
    s.wr(TPR, 0xff);
    expect(a.readCr8()).toBe(15);
    expect(s.rd(PPR)).toBe(0xff);
  });

  it('broadcasts EOI for level-triggered vectors only, and clears TMR on an edge', () => {
    const s = setup();
    s.on();
    const ended: number[] = [];
    s.bus.addEoiListener({ eoi: (v) => ended.push(v) });
    const a = get(s);
    a.accept(0x41, true);
    expect(s.bit(TMR, 0x41)).toBe(true);
    expect(s.bit(IRR, 0x41)).toBe(true);
    a.acknowledge();
    expect(s.bit(IRR, 0x41)).toBe(false);
    s.wr(EOI, 0);
    expect(ended).toEqual([0x41]);
    a.accept(0x41, false);
    a.acknowledge();
    s.wr(EOI, 0);
    expect(ended).toEqual([0x41]);
    expect(s.bit(TMR, 0x41)).toBe(false);
    s.wr(EOI, 0); // nothing in service
    expect(ended).toEqual([0x41]);
  });
});

describe('IA32_APIC_BASE (SDM figure 11-27)', () => {
  it('starts as the boot processor in xAPIC mode', () => {
    const s = setup(2);
    expect(s.base(0)).toEqual({ lo: BASE + 0x900, hi: 0 });
    expect(s.base(1).lo).toBe((BASE | 0x800) >>> 0);
    expect(get(s).mmioBase).toBe(BASE);
  });

  it.each([
    ['off', EXTD, false],
    ['off', ENABLE | EXTD, false],
    ['off', ENABLE, true],
    ['off', 0, true],
    ['xapic', EXTD, false],
    ['xapic', ENABLE | EXTD, true],
    ['xapic', 0, true],
    ['xapic', ENABLE | 1, false],
    ['xapic', ENABLE | 0x200, false],
    ['x2apic', ENABLE, false],
    ['x2apic', EXTD, false],
    ['x2apic', 0, true],
    ['x2apic', ENABLE | EXTD, true],
  ] as const)('from %s to 0x%s: %s', (from, flags, ok) => {
    const s = setup();
    if (from === 'off') get(s).writeApicBase(BASE, 0);
    if (from === 'x2apic') s.x2();
    const before = s.base();
    expect(get(s).writeApicBase(BASE | flags, 0)).toBe(ok);
    if (!ok) expect(s.base()).toEqual(before);
  });

  it('refuses address bits that do not exist, moves the page otherwise', () => {
    const s = setup();
    expect(get(s).writeApicBase(BASE | ENABLE, 0x100)).toBe(false);
    expect(get(s).writeApicBase(0xfed40000 | ENABLE, 0xff)).toBe(true);
    expect(get(s).mmioBase).toBe(0xfffed40000);
    expect(s.base()).toEqual({ lo: 0xfed40900, hi: 0xff });
  });

  it('decodes nothing while off or in x2APIC mode, keeps CR8, forgets the rest', () => {
    const s = setup();
    s.on();
    s.wr(ID, 0x05000000);
    get(s).accept(0x30, false);
    get(s).writeCr8(9);
    get(s).writeApicBase(BASE, 0);
    expect(get(s).mmioBase).toBe(Number.POSITIVE_INFINITY);
    expect(get(s).readCr8()).toBe(9);
    expect(get(s).hasInterrupt()).toBe(false);
    expect(s.bus.deliver(0, false, false, 0, 0x40, false)).toBe(false);
    get(s).writeApicBase(BASE | ENABLE, 0);
    expect(s.rd(ID)).toBe(0);
    expect(s.rd(SVR)).toBe(0xff);
    expect(s.rd(TPR)).toBe(0x90);
    s.x2();
    expect(get(s).mmioBase).toBe(Number.POSITIVE_INFINITY);
  });

  it('has no x2APIC where it is absent, starts in it with -x', () => {
    const a = setup(1, { x2apic: 'absent' });
    expect(get(a).writeApicBase(BASE | ENABLE | EXTD, 0)).toBe(false);
    const b = setup(1, { x2apic: 'on' });
    expect(b.base().lo).toBe((BASE | 0xd00) >>> 0);
    expect(b.rdx(0x803)).toEqual({ lo: 0x60014, hi: 0 });
  });
});

describe('x2APIC MSRs (SDM 11.12.1)', () => {
  it('exist in x2APIC mode only, with the access the table gives', () => {
    const s = setup();
    for (let m = 0x800; m < 0x900; m++) {
      expect(s.rdx(m)).toBe(null);
      expect(s.wrx(m, 0)).toBe(false);
    }
    s.x2();
    const readable: number[] = [];
    const writable: number[] = [];
    for (let m = 0x7ff; m <= 0x901; m++) {
      if (s.rdx(m) !== null) readable.push(m);
      if (s.wrx(m, 0)) writable.push(m);
    }
    const span = (a: number, b: number): number[] => Array.from({ length: b - a + 1 }, (_, i) => a + i);
    expect(readable).toEqual([
      0x802,
      0x803,
      0x808,
      0x80a,
      0x80d,
      0x80f,
      ...span(0x810, 0x828),
      0x82f,
      0x830,
      ...span(0x832, 0x839),
      0x83e,
    ]);
    expect(writable).toEqual([0x808, 0x80b, 0x80f, 0x828, 0x82f, 0x830, ...span(0x832, 0x838), 0x83e, 0x83f]);
  });

  it('faults on reserved bits', () => {
    const s = setup();
    s.x2();
    for (const [m, lo, hi] of [
      [0x808, 0x100, 0],
      [0x808, 0, 1],
      [0x80b, 1, 0],
      [0x80f, 0x1000, 0],
      [0x828, 1, 0],
      [0x830, 0x100000, 0],
      [0x832, 0x80000, 0],
      [0x83e, 4, 0],
      [0x83f, 0x100, 0],
    ] as const)
      expect([m, s.wrx(m, lo, hi)]).toEqual([m, false]);
  });

  it('has a 32-bit id, a logical id from it, a 64-bit ICR and self-IPI', () => {
    const s = setup(1, { id: 0x123 });
    expect(s.rd(ID)).toBe(0x23000000);
    s.x2();
    expect(s.rdx(0x802)).toEqual({ lo: 0x123, hi: 0 });
    expect(s.rdx(0x80d)).toEqual({ lo: (0x12 << 16) | 8, hi: 0 });
    expect(s.wrx(0x80f, 0x1ff)).toBe(true);
    expect(s.wrx(0x830, 0x40 | 0x4000, 0x123)).toBe(true);
    expect(s.rdx(0x830)).toEqual({ lo: 0x4040, hi: 0x123 });
    expect(get(s).acknowledge()).toBe(0x40);
    expect(s.wrx(0x83f, 0x91)).toBe(true);
    expect(get(s).acknowledge()).toBe(0x91);
  });
});

describe('destinations', () => {
  const who = (s: ReturnType<typeof setup>): number[] => {
    const hit = s.apics.filter((a) => a.hasInterrupt()).map((a) => a.index);
    for (const a of s.apics)
      while (a.hasInterrupt()) {
        a.acknowledge();
        if (a.x2apicMode) a.writeX2(0x80b, 0, 0);
        else a.mmioWrite(EOI, 4, 0);
      }
    return hit;
  };

  it('physical, broadcast and shorthands', () => {
    const s = setup(4);
    s.on();
    s.wr(ICR_HI, 2 << 24, 1);
    s.wr(ICR, 0x4040, 1);
    expect(who(s)).toEqual([2]);
    s.wr(ICR_HI, 0xff000000, 1);
    s.wr(ICR, 0x4040, 1);
    expect(who(s)).toEqual([0, 1, 2, 3]);
    for (const [sh, hit] of [
      [1, [1]],
      [2, [0, 1, 2, 3]],
      [3, [0, 2, 3]],
    ] as const) {
      s.wr(ICR, (sh << 18) | 0x4040, 1);
      expect(who(s)).toEqual(hit);
    }
    s.wr(ICR_HI, 9 << 24, 1);
    s.wr(ICR, 0x4040, 1);
    expect(who(s)).toEqual([]);
  });

  it('follows a rewritten xAPIC id', () => {
    const s = setup(2);
    s.on();
    s.wr(ID, 7 << 24, 1);
    s.bus.send(BASE + (7 << 12), 0x40);
    expect(who(s)).toEqual([1]);
  });

  it('logical flat and cluster (SDM 11.6.2.2)', () => {
    const s = setup(4);
    s.on();
    for (let i = 0; i < 4; i++) s.wr(LDR, (1 << i) << 24, i);
    s.bus.send(BASE + ((0b0101 << 12) | 4), 0x40);
    expect(who(s)).toEqual([0, 2]);
    s.bus.send(BASE + ((0xff << 12) | 4), 0x40);
    expect(who(s)).toEqual([0, 1, 2, 3]);
    for (let i = 0; i < 4; i++) {
      s.wr(DFR, 0, i);
      s.wr(LDR, (((i >> 1) << 4) | (1 << (i & 1))) << 24, i);
    }
    s.bus.send(BASE + ((0x13 << 12) | 4), 0x40);
    expect(who(s)).toEqual([2, 3]);
    s.bus.send(BASE + ((0xf2 << 12) | 4), 0x40);
    expect(who(s)).toEqual([1, 3]);
  });

  it('x2APIC clusters, and mixes of both modes', () => {
    const s = setup(18);
    s.on();
    s.x2();
    for (let i = 0; i < 18; i++) s.wrx(0x80f, 0x1ff, 0, i);
    s.wrx(0x830, 0x4840, 0x10003);
    expect(who(s)).toEqual([16, 17]);
    s.wrx(0x830, 0x4040, 0xffffffff);
    expect(who(s).length).toBe(18);
    const m = setup(3);
    m.on();
    m.x2(1);
    m.wrx(0x80f, 0x1ff, 0, 1);
    m.bus.send(BASE + (1 << 12), 0x40);
    expect(who(m)).toEqual([1]);
    m.bus.send(BASE + (0xff << 12), 0x40);
    expect(who(m)).toEqual([0, 1, 2]);
    m.bus.send(BASE + ((2 << 12) | 4), 0x40); // logical 2: bit 1 of cluster 0
    expect(who(m)).toEqual([1]);
    m.wrx(0x830, 0x4040, 2, 1);
    expect(who(m)).toEqual([2]);
  });

  it('lowest priority goes to the lowest, then round', () => {
    const s = setup(3);
    s.on();
    s.wr(TPR, 0x20, 0);
    const hits: number[] = [];
    for (let i = 0; i < 4; i++) {
      s.bus.deliver(0xff, false, false, 1, 0x40, false);
      hits.push(...who(s));
    }
    expect(hits).toEqual([1, 2, 1, 2]);
    s.wr(SVR, 0xff, 1);
    s.wr(SVR, 0xff, 2);
    s.bus.deliver(0xff, false, false, 1, 0x40, false);
    expect(who(s)).toEqual([0]);
  });
});

describe('MSI', () => {
  it('carries NMI, INIT and ExtINT, drops SMI, deassertion and other addresses', () => {
    const s = setup(2);
    s.on();
    s.bus.send(BASE, 0x400);
    expect(get(s).takeNmi()).toBe(true);
    expect(get(s).takeNmi()).toBe(false);
    s.bus.send(BASE + (1 << 12), 0x500);
    expect(get(s, 1).takeInit()).toBe(true);
    s.bus.send(BASE, 0x700);
    expect(get(s).takesExtInt()).toBe(true);
    get(s).extIntTaken(true);
    expect(get(s).takesExtInt()).toBe(true);
    get(s).extIntTaken(false);
    expect(get(s).takesExtInt()).toBe(false);
    s.attention.length = 0;
    s.bus.send(BASE, 0x200);
    s.bus.send(BASE, 0x8040);
    s.bus.send(BASE + 0x100000, 0x40);
    s.bus.send(0x1_fee0_0000, 0x40);
    s.bus.send(BASE, 0x605);
    expect(s.attention).toEqual([]);
    s.bus.send(BASE, 0xc041);
    expect(s.bit(TMR, 0x41)).toBe(true);
  });

  it('follows the destination-mode bit without the redirection hint, as Linux sends it', () => {
    const s = setup(2);
    s.on();
    s.wr(LDR, 1 << 24, 0);
    s.wr(LDR, 2 << 24, 1);
    s.bus.send(BASE + ((2 << 12) | 4), 0x55);
    expect(get(s, 1).acknowledge()).toBe(0x55);
  });
});

describe('INIT and SIPI', () => {
  it('latches INIT then SIPI, forgets an earlier SIPI, resets the registers', () => {
    const s = setup(2);
    s.on();
    s.wr(TPR, 0x30, 1);
    s.wr(ICR_HI, 1 << 24);
    s.wr(ICR, 0x4605);
    s.wr(ICR, 0x4500);
    s.wr(ICR, 0x8500); // level de-assert
    expect(get(s, 1).hasEvents).toBe(true);
    s.wr(ICR, 0x469f);
    expect(get(s, 1).takeInit()).toBe(true);
    expect(get(s, 1).takeSipi()).toBe(0x9f);
    expect(get(s, 1).takeSipi()).toBe(-1);
    expect(get(s, 1).hasEvents).toBe(false);
    expect(s.rd(TPR, 1)).toBe(0);
    expect(s.rd(SVR, 1)).toBe(0xff);
    expect(s.rd(ID, 1)).toBe(1 << 24);
    s.wr(ICR, 0xc4500);
    expect(get(s, 1).takeInit()).toBe(true);
    expect(get(s, 0).hasEvents).toBe(false);
  });

  it('counts NMIs up to two: one to take, one behind it', () => {
    const s = setup();
    for (let i = 0; i < 5; i++) get(s).nmi();
    expect([get(s).takeNmi(), get(s).takeNmi(), get(s).takeNmi()]).toEqual([true, true, false]);
  });
});

describe('LINT pins', () => {
  it('deliver NMI, fixed edge, fixed level with remote IRR, ExtINT', () => {
    const s = setup();
    const a = get(s);
    a.setLint(1, true); // masked: lost
    a.setLint(1, false);
    s.on();
    s.wr(LINT1, 0x400);
    expect(a.takeNmi()).toBe(false);
    a.setLint(1, true);
    expect(a.takeNmi()).toBe(true);
    s.wr(LINT1, 0x8000 | 0x44); // level, still asserted
    expect(s.rd(LINT1)).toBe(0xc044);
    expect(a.acknowledge()).toBe(0x44);
    s.wr(EOI, 0);
    expect(a.acknowledge()).toBe(0x44); // asserted yet
    a.setLint(1, false);
    s.wr(EOI, 0);
    expect(s.rd(LINT1)).toBe(0x8044);
    expect(a.hasInterrupt()).toBe(false);
    expect(a.takesExtInt()).toBe(false);
    s.wr(LINT0, 0x700);
    expect(a.takesExtInt()).toBe(true);
    s.wr(LINT0, 0x45);
    s.bus.setExtInt(true);
    s.bus.setExtInt(true);
    expect(a.acknowledge()).toBe(0x45);
    expect(a.hasInterrupt()).toBe(false);
  });

  it('are INTR and NMI of the processor while the APIC is off', () => {
    const s = setup(2);
    for (const a of s.apics) a.writeApicBase(BASE, 0);
    expect(get(s, 0).takesExtInt()).toBe(true);
    expect(get(s, 1).takesExtInt()).toBe(false);
    s.bus.setNmi(true);
    expect(get(s, 0).takeNmi()).toBe(true);
  });

  it('are as firmware leaves them after enterVirtualWire', () => {
    const s = setup(2);
    for (const a of s.apics) a.enterVirtualWire();
    expect([s.rd(SVR), s.rd(LINT0), s.rd(LINT1)]).toEqual([0x1ff, 0x700, 0x400]);
    expect(get(s, 0).takesExtInt()).toBe(true);
    expect(get(s, 1).takesExtInt()).toBe(false);
  });
});

describe('APIC timer (SDM 11.5.4)', () => {
  it('counts down once, undivided 1 GHz', () => {
    const s = setup();
    s.on();
    s.wr(TIMER, 0x40);
    s.wr(DCR, 0xb);
    s.wr(INIT, 1000);
    expect(s.rd(CCR)).toBe(1000);
    s.clock.advance(999);
    expect(s.rd(CCR)).toBe(1);
    expect(get(s).hasInterrupt()).toBe(false);
    s.clock.advance(1);
    expect(s.rd(CCR)).toBe(0);
    expect(get(s).acknowledge()).toBe(0x40);
    s.clock.advance(10_000);
    expect(get(s).hasInterrupt()).toBe(false);
  });

  it.each([
    [0b0000, 2],
    [0b0001, 4],
    [0b0010, 8],
    [0b0011, 16],
    [0b1000, 32],
    [0b1001, 64],
    [0b1010, 128],
    [0b1011, 1],
  ])('divide configuration %i divides by %i', (dcr, by) => {
    const s = setup();
    s.wr(DCR, dcr);
    s.wr(INIT, 100);
    s.clock.advance(10 * by);
    expect(s.rd(CCR)).toBe(90);
    s.clock.advance(1);
    expect(s.rd(CCR)).toBe(by === 1 ? 89 : 90);
  });

  it('misses no tick at 1 kHz and does not drift, however unevenly it is served', () => {
    const s = setup();
    s.on();
    s.wr(DCR, 0xb);
    s.wr(TIMER, 0x20040);
    s.wr(INIT, 1_000_000);
    let ticks = 0;
    const serve = (): void => {
      while (get(s).hasInterrupt()) {
        get(s).acknowledge();
        s.wr(EOI, 0);
        ticks++;
      }
    };
    const lags = [100, 7_300_000, 900_000, 99_000_000, 1, 333_333];
    let t = 0;
    for (let i = 0; i < 600; i++) {
      const ns = lags[i % lags.length] as number;
      t += ns;
      s.clock.advance(ns);
      serve();
      expect(ticks).toBe(Math.floor(t / 1_000_000));
    }
    expect(get(s).lostTicks).toBe(0);
  });

  it('catches up when the host itself comes late, in one firing, within a bound', () => {
    // A queue over a time that jumps: one call for many periods.
    let now = 0;
    let fires = 0;
    let fire = (): void => {};
    let at = Number.POSITIVE_INFINITY;
    const clock = {
      now: () => now,
      timer: (f: () => void) => {
        fire = f;
        return {
          arm: (t: number) => {
            at = t;
          },
          disarm: () => {
            at = Number.POSITIVE_INFINITY;
          },
          get armed() {
            return at !== Number.POSITIVE_INFINITY;
          },
        };
      },
    };
    const bus = new ApicBus();
    const a = new LocalApic({ bus, index: 0, clock, tscHz: 1e9 });
    a.mmioWrite(SVR, 4, 0x1ff);
    a.mmioWrite(DCR, 4, 0xb);
    a.mmioWrite(TIMER, 4, 0x20040);
    a.mmioWrite(INIT, 4, 1_000_000);
    const poll = (): void => {
      while (at <= now) {
        at = Number.POSITIVE_INFINITY;
        fires++;
        fire();
      }
    };
    const count = (): number => {
      let n = 0;
      while (a.hasInterrupt()) {
        a.acknowledge();
        a.mmioWrite(EOI, 4, 0);
        n++;
      }
      return n;
    };
    now = 50_700_000;
    poll();
    expect([fires, count()]).toEqual([1, 50]);
    expect(at).toBe(51_000_000);
    now = 3_600_000_000_000;
    poll();
    expect(fires).toBe(2);
    expect(count()).toBe(1001);
    expect(a.lostTicks).toBe(3_600_000 - 50 - 1001);
  });

  it('arms the host no more often than every 10 µs, yet counts every tick', () => {
    const s = setup();
    s.on();
    s.wr(DCR, 0xb);
    s.wr(TIMER, 0x20040);
    s.wr(INIT, 100);
    expect(s.clock.nextDeadline()).toBeGreaterThanOrEqual(10_000);
    s.clock.advance(20_000);
    let n = 0;
    while (get(s).hasInterrupt()) {
      get(s).acknowledge();
      s.wr(EOI, 0);
      n++;
    }
    expect(n).toBeGreaterThanOrEqual(100);
  });

  it('goes on counting across a change between one-shot and periodic', () => {
    const s = setup();
    s.wr(DCR, 0xb);
    s.wr(TIMER, 0x10000);
    s.wr(INIT, 1000);
    s.clock.advance(600);
    s.wr(TIMER, 0x30000);
    expect(s.rd(CCR)).toBe(400);
    s.clock.advance(500);
    expect(s.rd(CCR)).toBe(900);
    s.wr(TIMER, 0x10000);
    expect(s.rd(CCR)).toBe(900);
    s.clock.advance(2000);
    expect(s.rd(CCR)).toBe(0);
    s.wr(TIMER, 0x30000);
    expect(s.rd(CCR)).toBe(0); // ended: does not start again
    expect(s.rd(INIT)).toBe(1000);
  });

  it('loses what expires while masked, and what was owed', () => {
    const s = setup();
    s.on();
    s.wr(DCR, 0xb);
    s.wr(TIMER, 0x30040);
    s.wr(INIT, 100_000);
    expect(s.clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
    s.clock.advance(250_000);
    s.wr(TIMER, 0x20040);
    expect(get(s).hasInterrupt()).toBe(false);
    s.clock.advance(350_000);
    get(s).acknowledge();
    s.wr(TIMER, 0x30040);
    s.wr(EOI, 0);
    expect(get(s).acknowledge()).toBe(0x40); // was requested already
    s.wr(EOI, 0);
    expect(get(s).hasInterrupt()).toBe(false);
    s.wr(INIT, 0);
    expect(s.rd(CCR)).toBe(0);
  });

  it('has TSC-deadline mode: fires at the deadline, reads 0 after (SDM 11.5.4.1)', () => {
    const s = setup();
    s.on();
    const a = get(s);
    const deadline = (): { lo: number; hi: number } => s.deadline(a);
    a.writeTscDeadline(1000, 0); // not in the mode: ignored
    expect(deadline()).toEqual({ lo: 0, hi: 0 });
    s.wr(TIMER, 0x40041);
    s.wr(INIT, 5);
    expect(s.rd(INIT)).toBe(0);
    a.writeTscDeadline(2_000_001, 0); // 2 GHz: 1 ms and half a ns
    expect(deadline()).toEqual({ lo: 2_000_001, hi: 0 });
    expect(s.rd(CCR)).toBe(0);
    s.clock.advance(1_000_000);
    expect(a.hasInterrupt()).toBe(false);
    s.clock.advance(2);
    expect(a.acknowledge()).toBe(0x41);
    s.wr(EOI, 0);
    expect(deadline()).toEqual({ lo: 0, hi: 0 });
    a.writeTscDeadline(1, 0); // past: at once
    expect(a.acknowledge()).toBe(0x41);
    s.wr(EOI, 0);
    a.writeTscDeadline(0xffffffff, 0xffffffff);
    s.clock.advance(1e9);
    expect(a.hasInterrupt()).toBe(false);
    a.writeTscDeadline(0, 0);
    expect(s.clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
    a.writeTscDeadline(0xfffffff0, 0);
    s.wr(TIMER, 0x41);
    expect(deadline()).toEqual({ lo: 0, hi: 0 });
  });

  it('hides TSC-deadline mode when told', () => {
    const s = setup(1, { tscDeadline: false });
    s.on();
    s.wr(TIMER, 0x40041);
    expect(s.rd(TIMER)).toBe(0x41);
    s.x2();
    expect(s.wrx(0x832, 0x40041)).toBe(false);
  });
});

describe('save and load', () => {
  it('goes on where it was', () => {
    const s = setup();
    s.on();
    s.wr(DCR, 0xb);
    s.wr(TIMER, 0x20040);
    s.wr(INIT, 1_000_000);
    s.clock.advance(2_400_000);
    s.wr(LINT1, 0x400);
    get(s).accept(0x77, true);
    get(s).acknowledge();
    const state = JSON.parse(JSON.stringify(get(s).save()));
    const t = setup();
    t.clock.advance(123_456_789);
    get(t).load(state);
    for (const [, r] of RESET) expect([r, t.rd(r)]).toEqual([r, s.rd(r)]);
    expect(t.attention).toEqual([]);
    for (const x of [s, t]) {
      x.clock.advance(700_000);
      x.wr(EOI, 0);
    }
    expect(get(t).save()).toEqual(get(s).save());
    expect(() => get(t).load({ v: 9 })).toThrow(expect.objectContaining({ code: 'STATE_VERSION' }));
    for (const wrong of [
      { irr: [1] },
      { timerDueInNs: 5, timerInit: 0 },
      { sipi: 256 },
      { lvt: [0, 0, 0, 0, 0, 0, -1] },
    ])
      expect(() => get(t).load({ ...state, ...wrong })).toThrow(expect.objectContaining({ code: 'STATE_FORMAT' }));
  });
});

describe('hostile guest', () => {
  it('never throws, stays unsigned, resets clean', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(
            fc.nat(9),
            fc.integer({ min: 0, max: 0xfff }),
            fc.oneof(fc.nat(0xffffffff), fc.constantFrom(0x1ff, 0x20040, 0x40041, 0x4040, 0, 1)),
          ),
          { maxLength: 120 },
        ),
        (ops) => {
          const s = setup(3);
          for (const [op, reg, v] of ops) {
            const i = v % 3;
            const a = get(s, i);
            const m: MsrValue = { lo: 0, hi: 0 };
            if (op < 3) a.mmioWrite(reg & 0xff0, 4, v >>> 0);
            else if (op === 3) a.mmioWrite(reg, ([1, 2, 4] as const)[v % 3] as 1 | 2 | 4, v & 0xff);
            else if (op === 4) a.writeX2(0x800 + (reg & 0xff), v >>> 0, reg & 1 ? v >>> 0 : 0);
            else if (op === 5) a.writeApicBase(((v & 0xfffff000) | (reg & 0xc00)) >>> 0, 0);
            else if (op === 6) s.bus.send(BASE + (reg << 4), v);
            else if (op === 7) s.clock.advance((v % 10_000) + 1);
            else if (op === 8) a.writeTscDeadline(v >>> 0, reg & 1);
            else {
              const x = a.acknowledge();
              expect(x).toBeGreaterThanOrEqual(0);
              expect(x).toBeLessThan(256);
            }
            const r = a.mmioRead(reg & 0xff0, 4);
            expect(r >>> 0).toBe(r);
            if (a.readX2(0x800 + (reg & 0xff), m)) {
              expect(m.lo >>> 0).toBe(m.lo);
              expect(m.hi >>> 0).toBe(m.hi);
            }
            expect(a.readCr8()).toBeLessThan(16);
          }
          for (const a of s.apics) a.reset();
          for (const [, r, v] of RESET) expect(s.rd(r)).toBe(v);
        },
      ),
      { numRuns: 150 },
    );
  });
});
