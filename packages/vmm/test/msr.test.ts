import type { Logger, MsrValue } from '@hyve/core';
import { ManualClock } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MsrPolicy, type MsrPolicyOptions } from '../src/index.ts';
import { ApicBus, LocalApic } from '../src/lapic/index.ts';

function setup(o: Partial<MsrPolicyOptions> = {}, tscDeadline = true) {
  const bus = new ApicBus();
  const clock = new ManualClock();
  const lapic = new LocalApic({ bus, index: 0, clock, tscHz: 2.5e9, tscDeadline });
  const msrs = new MsrPolicy({ lapic, vendor: 'intel', tscHz: 2_500_000_000, physBits: 40, ...o });
  const v: MsrValue = { lo: 0, hi: 0 };
  return {
    lapic,
    clock,
    msrs,
    rd: (i: number): string => (msrs.rdmsr(i, v) ? `${v.hi.toString(16)}:${v.lo.toString(16)}` : '#GP'),
    wr: (i: number, lo: number, hi = 0): boolean => msrs.wrmsr(i, lo >>> 0, hi >>> 0),
  };
}

const INTEL_RESET: [number, string][] = [
  [0x17, '0:0'],
  [0x1b, '0:fee00900'],
  [0x34, '0:0'],
  [0x3a, '0:1'],
  [0x8b, '1:0'],
  [0xce, '1900:1900'],
  [0xfe, '0:508'],
  [0x179, '0:0'],
  [0x17a, '0:0'],
  [0x1a0, '0:1801'],
  [0x1ad, '19191919:19191919'],
  [0x200, '0:0'],
  [0x20f, '0:0'],
  [0x250, '0:0'],
  [0x2ff, '0:0'],
  [0x606, '0:a1003'],
  [0x611, '0:0'],
  [0x6e0, '0:0'],
];

describe('MSR policy', () => {
  it.each(INTEL_RESET)('0x%s is %s after reset, and again', (i, value) => {
    const s = setup();
    expect(s.rd(i)).toBe(value);
    if (i === 0x1b) return; // the local APIC's own
    s.wr(i, 1);
    s.wr(i, 6);
    s.msrs.reset();
    expect(s.rd(i)).toBe(value);
  });

  it('faults on everything else: machine-check banks, KVM, Hyper-V, PMU, unoffered features', () => {
    const s = setup();
    for (const i of [0x48, 0x10a, 0x10b, 0x122, 0x186, 0x200 + 16, 0x400, 0x47f, 0x480, 0xda0, 0xc0000104, 0xc0010015])
      expect([i, s.rd(i), s.wr(i, 0)]).toEqual([i, '#GP', false]);
    for (const i of [0x40000000, 0x4b564d00, 0x800, 0x8ff, 0x570])
      expect([i, s.rd(i), s.wr(i, 0)]).toEqual([i, '#GP', false]);
    expect(s.msrs.unknownReads).toBe(15); // the x2APIC two are known, only not there
    expect(s.wr(0xfe, 0x508)).toBe(false);
    expect(s.wr(0x179, 0)).toBe(false);
    expect(s.wr(0xce, 0)).toBe(false);
    expect(s.wr(0x3a, 5)).toBe(false);
    expect(s.wr(0x49, 1)).toBe(false);
  });

  it('ignores unknown ones with -w, and says so once each', () => {
    const lines: string[] = [];
    const log: Logger = { on: true, debug: (m) => lines.push(m), info: () => {}, warn: () => {} };
    const s = setup({ ignoreUnknown: true, log });
    for (let k = 0; k < 3; k++) {
      expect(s.rd(0x1234)).toBe('0:0');
      expect(s.wr(0x1235, 7)).toBe(true);
    }
    expect([s.msrs.unknownReads, s.msrs.unknownWrites, lines.length]).toEqual([3, 3, 2]);
    for (let i = 0; i < 5000; i++) s.rd(0x20000 + i);
    expect(lines.length).toBe(256);
    expect(s.wr(0x2ff, 0x1000)).toBe(false); // known ones still fault
  });

  it('checks memory types and reserved bits of MTRRs (SDM vol. 3 §12.11)', () => {
    const s = setup();
    expect([2, 3, 7, 8, 0xff].map((t) => s.wr(0x2ff, t))).toEqual([false, false, false, false, false]);
    expect([s.wr(0x2ff, 0x1006), s.wr(0x2ff, 0xc06, 1), s.wr(0x2ff, 0xc06)]).toEqual([false, false, true]);
    expect(s.rd(0x2ff)).toBe('0:c06');
    expect([s.wr(0x250, 0x06060603), s.wr(0x250, 0x06060606, 0x02000000), s.wr(0x250, 0x01040506, 0x06060606)]).toEqual(
      [false, false, true],
    );
    expect(s.rd(0x250)).toBe('6060606:1040506');
    for (const i of [0x258, 0x259, 0x268, 0x26f]) {
      expect(s.wr(i, 0x06060606, 0x05050505)).toBe(true);
      expect(s.rd(i)).toBe('5050505:6060606');
    }
    for (const i of [0x251, 0x25a, 0x267, 0x270]) expect(s.rd(i)).toBe('#GP');
    expect([s.wr(0x202, 0x80000006), s.wr(0x202, 0x80000106), s.wr(0x202, 6, 0x100), s.wr(0x202, 6, 0xff)]).toEqual([
      true,
      false,
      false,
      true,
    ]);
    expect([s.wr(0x203, 0x80000800, 0xff), s.wr(0x203, 0x80000400)]).toEqual([true, false]);
    expect([s.rd(0x202), s.rd(0x203)]).toEqual(['ff:6', 'ff:80000800']);
  });

  it('keeps MISC_ENABLE’s switches and its read-only bits', () => {
    const s = setup();
    expect(s.wr(0x1a0, 0x00c50809, 4)).toBe(true);
    expect(s.rd(0x1a0)).toBe('4:c51809');
    expect(s.wr(0x1a0, 2)).toBe(false);
    expect(s.wr(0x1a0, 0, 8)).toBe(false);
  });

  it('takes the microcode dance: write 0, CPUID, read', () => {
    const s = setup({ microcode: 0xf4 });
    expect([s.wr(0x8b, 0), s.wr(0x79, 0x1000), s.rd(0x8b), s.rd(0x79)]).toEqual([true, true, 'f4:0', '#GP']);
    const a = setup({ vendor: 'amd' });
    expect([a.rd(0x8b), a.wr(0xc0010020, 0)]).toEqual(['0:1000065', true]);
  });

  it('has AMD’s registers for AMD only', () => {
    const s = setup({ vendor: 'amd' });
    expect(s.rd(0xc0010015)).toBe('0:1000000');
    expect([s.wr(0xc0010015, 0x1000010), s.wr(0xc0010015, 1)]).toEqual([true, false]);
    expect([s.rd(0xc0011029), s.wr(0xc0011029, 0), s.rd(0xc0011029)]).toEqual(['0:2', true, '0:2']);
    expect(s.rd(0xc0010114)).toBe('0:18');
    expect([s.rd(0xc0010010), s.rd(0xc001001a), s.rd(0xc0010016)]).toEqual(['0:0', '0:0', '0:0']);
    // Performance counters stand still; Intel processors have none there.
    for (const i of [0xc0010000, 0xc0010003, 0xc0010004, 0xc0010007])
      expect([s.wr(i, 0x530076), s.rd(i), setup().rd(i)]).toEqual([true, '0:0', '#GP']);
    expect([s.rd(0xc0010008), s.wr(0xc0010008, 0)]).toEqual(['#GP', false]);
    for (const i of [0x1a0, 0x3a, 0xce, 0x606]) expect(s.rd(i)).toBe('#GP');
  });

  it('offers SPEC_CTRL when told', () => {
    const s = setup({ specCtrl: true });
    expect([s.wr(0x48, 1), s.rd(0x48), s.wr(0x48, 8), s.wr(0x49, 1), s.wr(0x49, 2), s.rd(0x49)]).toEqual([
      true,
      '0:1',
      false,
      true,
      false,
      '#GP',
    ]);
  });

  it('hands the APIC its own', () => {
    const s = setup();
    expect(s.wr(0x1b, 0xfee00d00)).toBe(true);
    expect(s.rd(0x803)).toBe('0:60014');
    s.wr(0x80f, 0x1ff);
    s.wr(0x832, 0x40041);
    expect(s.wr(0x6e0, 2500)).toBe(true);
    expect(s.rd(0x6e0)).toBe('0:9c4');
    s.clock.advance(1001);
    expect(s.lapic.acknowledge()).toBe(0x41);
    expect(setup({}, false).rd(0x6e0)).toBe('#GP');
  });

  it('loads what it saved', () => {
    const s = setup();
    s.wr(0x2ff, 0xc06);
    s.wr(0x203, 0x800, 0xf);
    s.wr(0x268, 0x05050505);
    const t = setup();
    t.msrs.load(JSON.parse(JSON.stringify(s.msrs.save())));
    for (const i of [0x2ff, 0x203, 0x268]) expect(t.rd(i)).toBe(s.rd(i));
    expect(() => t.msrs.load({})).toThrow(expect.objectContaining({ code: 'STATE_VERSION' }));
    expect(() => setup({ physBits: 60 })).toThrow(expect.objectContaining({ code: 'MSR_OPTIONS' }));
  });

  it('never throws, stays unsigned', () => {
    const index = fc.oneof(fc.nat(0x900), fc.integer({ min: 0xc0010000, max: 0xc0012000 }), fc.nat(0xffffffff));
    fc.assert(
      fc.property(
        fc.constantFrom('intel' as const, 'amd' as const),
        fc.array(fc.tuple(index, fc.nat(0xffffffff), fc.nat(0xff))),
        (vendor, ops) => {
          const s = setup({ vendor });
          for (const [i, lo, hi] of ops) {
            s.wr(i, lo, hi);
            expect(s.rd(i)).not.toContain('-');
          }
        },
      ),
    );
  });
});
