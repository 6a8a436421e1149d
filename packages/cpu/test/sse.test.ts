// SSE to SSE4.1 instructions: results, MXCSR, alignment, #XM; fast paths against the exact model.

import { OP, OP_NAMES, type OpName, ROWS } from '@hyve/x86';
import { mem, mem32, mem64, mem128 } from '@hyve/x86/asm';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { allSemantics } from '../src/sem/index.ts';
import { DATA, Machine, operands } from './float-rig.ts';
import { arith, F32, F64, type Format, IE, type Mode, type Op } from './ieee-model.ts';

const m = new Machine();
const hex = (v: bigint): string => v.toString(16);
const bytesOf = (v: bigint, n: number): Uint8Array =>
  Uint8Array.from({ length: n }, (_, i) => Number((v >> BigInt(8 * i)) & 0xffn));
const lanesOf = (v: bigint, bits: number): bigint[] =>
  Array.from({ length: 128 / bits }, (_, i) => (v >> BigInt(i * bits)) & ((1n << BigInt(bits)) - 1n));
const join = (l: readonly bigint[], bits: number): bigint =>
  l.reduce((v, x, i) => v | (BigInt.asUintN(bits, x) << BigInt(i * bits)), 0n);
const vector = fc.bigInt({ min: 0n, max: (1n << 128n) - 1n });
const f64 = (v: number): bigint => {
  const d = new DataView(new ArrayBuffer(8));
  d.setFloat64(0, v);
  return d.getBigUint64(0);
};
const f32 = (v: number): bigint => {
  const d = new DataView(new ArrayBuffer(4));
  d.setFloat32(0, v);
  return BigInt(d.getUint32(0));
};
/** MXCSR with the precision flag set: the fast paths are open. */
const FAST = 0x1fa0;
const two = (op: OpName, a: bigint, b: bigint, mxcsr = 0x1f80): bigint =>
  m.run((c) => c.op(op, 'xmm0', 'xmm1'), { xmm: { 0: a, 1: b }, mxcsr }).xmm(0);

describe('every row', () => {
  it('of MMX, SSE to SSE4.2 has a semantic here', () => {
    const have = allSemantics();
    const sets = new Set(['mmx', 'sse', 'sse2', 'sse3', 'ssse3', 'sse4_1', 'sse4_2']);
    // These run in TypeScript.
    const elsewhere = new Set(['FXSAVE', 'FXRSTOR', 'MONITOR', 'MWAIT']);
    const missing = ROWS.filter((r) => sets.has(r.feature) && !have.has(r.op) && !elsewhere.has(r.mnemonic)).map(
      (r) => r.mnemonic,
    );
    expect(missing).toEqual([]);
    expect(OP_NAMES.filter((n) => /^F[A-Z]/.test(n) && n !== 'FXSAVE' && n !== 'FXRSTOR' && !have.has(OP[n]))).toEqual(
      [],
    );
  });
});

describe('packed and scalar arithmetic', () => {
  const kinds: readonly (readonly [string, Op])[] = [
    ['ADD', 'add'],
    ['SUB', 'sub'],
    ['MUL', 'mul'],
    ['DIV', 'div'],
    ['SQRT', 'sqrt'],
  ];
  const check = (f: Format, bits: 32 | 64, name: string, op: Op, suffix: 'S' | 'D'): void => {
    it(`${name}P${suffix}, ${name}S${suffix}: exact results and flags, fast path open or closed`, () => {
      const n = 128 / bits;
      const all = fc.array(operands(f), { minLength: n, maxLength: n });
      fc.assert(
        fc.property(
          all,
          all,
          fc.constantFrom<Mode>(0, 0, 0, 1, 2, 3),
          fc.boolean(),
          fc.boolean(),
          fc.boolean(),
          (a, b, mode, daz, ftz, sticky) => {
            const mxcsr = 0x1f80 | (mode << 13) | (daz ? 0x40 : 0) | (ftz ? 0x8000 : 0) | (sticky ? 0x20 : 0);
            // SQRT has one operand, the source.
            const want = a.map((x, i) =>
              arith(f, op, op === 'sqrt' ? (b[i] as bigint) : x, b[i] as bigint, { mode, masks: 63, ftz }, daz),
            );
            const packed = m.run((c) => c.op(`${name}P${suffix}` as OpName, 'xmm0', 'xmm1'), {
              xmm: { 0: join(a, bits), 1: join(b, bits) },
              mxcsr,
            });
            expect(lanesOf(packed.xmm(0), bits).map(hex)).toEqual(want.map((w) => hex(w.bits)));
            expect(packed.mxcsr & 63).toBe(want.reduce((fl, w) => fl | w.flags, mxcsr) & 63);
            const scalar = m.run((c) => c.op(`${name}S${suffix}` as OpName, 'xmm0', 'xmm1'), {
              xmm: { 0: join(a, bits), 1: join(b, bits) },
              mxcsr,
            });
            expect(lanesOf(scalar.xmm(0), bits).map(hex)).toEqual(
              [(want[0] as { bits: bigint }).bits, ...a.slice(1)].map(hex),
            );
            expect(scalar.mxcsr & 63).toBe((mxcsr | (want[0] as { flags: number }).flags) & 63);
          },
        ),
        { numRuns: 60 },
      );
    });
  };
  for (const [name, op] of kinds) {
    check(F32, 32, name, op, 'S');
    check(F64, 64, name, op, 'D');
  }
  it('zeros, infinities and signs through the fast path', () => {
    expect(two('SUBPD', join([f64(1.5), f64(-0)], 64), join([f64(1.5), f64(0)], 64), FAST)).toBe(
      join([f64(0), f64(-0)], 64),
    );
    expect(two('MULPD', join([f64(-0), f64(3)], 64), join([f64(5), f64(7)], 64), FAST)).toBe(
      join([f64(-0), f64(21)], 64),
    );
    expect(
      two('DIVPS', join([f32(1), f32(0), f32(-6), f32(1)], 32), join([f32(4), f32(2), f32(3), f32(-2)], 32), FAST),
    ).toBe(join([f32(0.25), f32(0), f32(-2), f32(-0.5)], 32));
  });
  it('HADDPD, HSUBPS, ADDSUBPS', () => {
    const a = join([1, 2, 3, 4].map(f32), 32);
    const b = join([10, 20, 30, 40].map(f32), 32);
    expect(two('HADDPD', join([1, 2].map(f64), 64), join([10, 20].map(f64), 64))).toBe(join([3, 30].map(f64), 64));
    expect(two('HSUBPS', a, b)).toBe(join([-1, -1, -10, -10].map(f32), 32));
    expect(two('ADDSUBPS', a, b)).toBe(join([-9, 22, -27, 44].map(f32), 32));
    expect(two('ADDSUBPS', a, b, FAST)).toBe(join([-9, 22, -27, 44].map(f32), 32));
  });
  it('DPPS, DPPD choose factors and destinations', () => {
    const a = join([1, 2, 3, 4].map(f32), 32);
    const b = join([10, 20, 30, 40].map(f32), 32);
    const dot = (imm: number): bigint =>
      m.run((c) => c.op('DPPS', 'xmm0', 'xmm1', imm), { xmm: { 0: a, 1: b } }).xmm(0);
    expect(dot(0xff)).toBe(join([300, 300, 300, 300].map(f32), 32));
    expect(dot(0x35)).toBe(join([50, 0, 50, 0].map(f32), 32));
  });
});

describe('exceptions', () => {
  const one = join([f64(1), f64(1)], 64);
  it('#XM for an unmasked exception, with the flag set and the register unchanged; #UD without OSXMMEXCPT', () => {
    const a = m.run((c) => c.op('DIVPD', 'xmm0', 'xmm1'), { xmm: { 0: one, 1: 0n }, mxcsr: 0x1d80 });
    expect([a.vector, a.eip, a.mxcsr, a.xmm(0)]).toEqual([19, 0x1000, 0x1d84, one]);
    expect(
      m.run((c) => c.op('DIVPD', 'xmm0', 'xmm1'), { xmm: { 0: one, 1: 0n }, mxcsr: 0x1d80, cr4: 0x200n }).vector,
    ).toBe(6);
  });
  it('an unmasked invalid operation hides what computing would have reported', () => {
    // Lane 0 is inexact, lane 1 invalid.
    const a = m.run((c) => c.op('DIVPD', 'xmm0', 'xmm1'), {
      xmm: { 0: join([f64(1), 0n], 64), 1: join([f64(3), 0n], 64) },
      mxcsr: 0x1f00,
    });
    expect([a.vector, a.mxcsr]).toEqual([19, 0x1f01]);
  });
  it('#GP for misaligned 16-byte operands, but not for unaligned moves', () => {
    expect(m.run((c) => c.op('ADDPS', 'xmm0', mem128(DATA + 4))).vector).toBe(13);
    expect(m.run((c) => c.op('MOVAPS', mem128(DATA + 8), 'xmm0')).vector).toBe(13);
    expect(m.run((c) => c.op('PADDB', 'xmm0', mem128(DATA + 1))).vector).toBe(13);
    const data = bytesOf(0x112233445566778899aabbccddeeff00n, 24);
    for (const op of ['MOVUPS', 'MOVUPD', 'MOVDQU', 'LDDQU'] as const)
      expect(hex(m.run((c) => c.op(op, 'xmm0', mem128(DATA + 1)), { data }).xmm(0))).toBe(
        '112233445566778899aabbccddeeff',
      );
    expect(m.run((c) => c.op('CVTPS2PD', 'xmm0', mem64(DATA + 1))).vector).toBe(-1);
  });
  it('LDMXCSR refuses reserved bits', () => {
    expect(m.run((c) => c.op('LDMXCSR', mem32(DATA)), { data: bytesOf(0x10000n, 4) }).vector).toBe(13);
    const a = m.run((c) => c.op('LDMXCSR', mem32(DATA)).op('STMXCSR', mem32(DATA + 4)), { data: bytesOf(0xffbfn, 4) });
    expect([a.vector, a.mxcsr, ...a.data(DATA + 4, 2)]).toEqual([-1, 0xffbf, 0xbf, 0xff]);
  });
});

describe('comparison', () => {
  it('CMPSD by all eight predicates', () => {
    const nan = 0x7ff8000000000000n;
    const cases: readonly (readonly [bigint, bigint])[] = [
      [f64(1), f64(2)],
      [f64(2), f64(2)],
      [f64(3), f64(2)],
      [nan, f64(2)],
    ];
    const truth = (a: bigint, b: bigint): number =>
      Array.from(
        { length: 8 },
        (_, imm) =>
          Number(m.run((c) => c.op('CMPSD', 'xmm0', 'xmm1', imm), { xmm: { 0: a, 1: b } }).xmm(0) & 1n) << imm,
      ).reduce((x, y) => x | y, 0);
    // Bits: EQ LT LE UNORD NEQ NLT NLE ORD.
    expect(cases.map(([a, b]) => truth(a, b))).toEqual([0b10010110, 0b10100101, 0b11110000, 0b01111000]);
  });
  it('QNaNs are invalid for the ordering predicates only', () => {
    const qnan = 0x7fc00000n;
    const flags = (imm: number): number =>
      m.run((c) => c.op('CMPSS', 'xmm0', 'xmm1', imm), { xmm: { 0: qnan, 1: f32(1) } }).mxcsr & 63;
    expect(Array.from({ length: 8 }, (_, i) => flags(i))).toEqual([0, IE, IE, 0, 0, IE, IE, 0]);
  });
  it('COMISS and UCOMISD: ZF, PF, CF', () => {
    const run = (op: 'UCOMISD' | 'COMISD', a: bigint, b: bigint): number =>
      m.run((c) => c.op(op, 'xmm0', 'xmm1'), { xmm: { 0: a, 1: b } }).flags & 0x8d5;
    expect([run('UCOMISD', f64(2), f64(1)), run('UCOMISD', f64(1), f64(2)), run('COMISD', f64(0), f64(-0))]).toEqual([
      0, 1, 0x40,
    ]);
    expect(run('UCOMISD', 0x7ff8000000000000n, f64(1))).toBe(0x45);
    expect(m.run((c) => c.op('COMISD', 'xmm0', 'xmm1'), { xmm: { 0: 0x7ff8000000000000n } }).mxcsr & 63).toBe(IE);
  });
  it('MINPS and MAXPS give the second operand for NaNs and equal zeros', () => {
    const a = join([0x7fc00001n, f32(0), f32(1), f32(-5)], 32);
    const b = join([f32(3), f32(-0), 0x7fc00002n, f32(-4)], 32);
    expect(two('MINPS', a, b)).toBe(join([f32(3), f32(-0), 0x7fc00002n, f32(-5)], 32));
    expect(two('MAXPS', a, b)).toBe(join([f32(3), f32(-0), 0x7fc00002n, f32(-4)], 32));
  });
});

describe('conversions', () => {
  it('between integers and floats, at the edges', () => {
    const si = (op: 'CVTTSD2SI' | 'CVTSD2SI', v: number, mxcsr = 0x1f80): [number, number] => {
      const a = m.run((c) => c.op(op, 'eax', 'xmm0'), { xmm: { 0: f64(v) }, mxcsr });
      return [a.gpr(0) | 0, a.mxcsr & 63];
    };
    expect(si('CVTTSD2SI', -2.7)).toEqual([-2, 32]);
    expect(si('CVTSD2SI', 2.5)).toEqual([2, 32]);
    expect(si('CVTSD2SI', 2.5, 0x5f80)).toEqual([3, 32]);
    expect(si('CVTTSD2SI', 2147483647.9)).toEqual([2147483647, 32]);
    expect(si('CVTTSD2SI', 2147483648)).toEqual([-2147483648, IE]);
    expect(si('CVTTSD2SI', -2147483648)).toEqual([-2147483648, 0]);
    expect(si('CVTTSD2SI', 7)).toEqual([7, 0]);
    const ss = m.run((c) => c.op('CVTSI2SS', 'xmm0', 'eax'), { gpr: { 0: 16777217 }, xmm: { 0: 1n << 100n } });
    expect([ss.xmm(0), ss.mxcsr & 63]).toEqual([(1n << 100n) | f32(16777216), 32]);
  });
  it('packed', () => {
    expect(two('CVTDQ2PD', 0n, join([-1n, 5n, 9n, 9n], 32))).toBe(join([-1, 5].map(f64), 64));
    expect(two('CVTDQ2PS', 0n, join([-1n, 5n, 16777217n, 0n], 32))).toBe(join([-1, 5, 16777216, 0].map(f32), 32));
    expect(two('CVTTPS2DQ', 0n, join([1.9, -1.9, 3e9, 0.5].map(f32), 32))).toBe(join([1n, -1n, -(1n << 31n), 0n], 32));
    expect(two('CVTPS2DQ', 0n, join([1.5, 2.5, -0.5, 1e6].map(f32), 32), FAST)).toBe(join([2n, 2n, 0n, 1000000n], 32));
    expect(two('CVTPD2PS', 0n, join([1.5, -3].map(f64), 64))).toBe(join([f32(1.5), f32(-3), 0n, 0n], 32));
    expect(two('CVTPS2PD', 0n, join([1.5, -3, 0, 0].map(f32), 32))).toBe(join([1.5, -3].map(f64), 64));
    expect(two('CVTPD2DQ', 0n, join([1.5, -3].map(f64), 64))).toBe(join([2n, -3n, 0n, 0n], 32));
  });
  it('ROUNDSD by immediate and by MXCSR, with and without PE', () => {
    const run = (imm: number, mxcsr = 0x1f80): [bigint, number] => {
      const a = m.run((c) => c.op('ROUNDSD', 'xmm0', 'xmm1', imm), { xmm: { 1: f64(-2.5) }, mxcsr });
      return [a.xmm(0), a.mxcsr & 63];
    };
    expect([0, 1, 2, 3].map((i) => run(i)[0])).toEqual([-2, -3, -2, -2].map(f64));
    expect(run(4, 0x3f80)).toEqual([f64(-3), 32]);
    expect(run(9)).toEqual([f64(-3), 0]);
  });
  it('CVTPS2PI switches the x87 to MMX use', () => {
    const a = m.run((c) => c.op('CVTPS2PI', 'mm1', 'xmm0'), { xmm: { 0: join([2.5, -7].map(f32), 32) }, fsw: 0x3800 });
    expect([a.mmx(1), a.ftw, a.fsw]).toEqual([join([2n, -7n], 32), 0xff, 0]);
  });
  it('CVTPI2PS and CVTPI2PD do so from a register, not from memory', () => {
    for (const name of ['CVTPI2PS', 'CVTPI2PD'] as const) {
      const data = bytesOf(join([2n, -7n], 32), 16);
      const before = { fsw: 0x3800 };
      const a = m.run((c) => c.op(name, 'xmm0', mem64(DATA)), { ...before, data });
      expect([a.ftw, a.fsw]).toEqual([0, 0x3800]);
      expect(a.xmm(0)).toBe(name === 'CVTPI2PS' ? join([2, -7].map(f32), 32) : join([2, -7].map(f64), 64));
      const b = m.run((c) => c.op(name, 'xmm0', 'mm1'), before);
      expect([b.ftw, b.fsw]).toEqual([0xff, 0]);
    }
  });
  it('RCPPS and RSQRTPS: 12 bits, denormals as zero, no flags', () => {
    const a = m.run((c) => c.op('RCPPS', 'xmm0', 'xmm1').op('RSQRTPS', 'xmm2', 'xmm1'), {
      xmm: { 1: join([f32(3), f32(4), 1n, f32(-1)], 32) },
    });
    const r = lanesOf(a.xmm(0), 32);
    expect(r.slice(1).map(hex)).toEqual([f32(0.25), 0x7f800000n, f32(-1)].map(hex));
    const third = new DataView(bytesOf(r[0] as bigint, 4).buffer).getFloat32(0, true);
    expect(Math.abs(third * 3 - 1)).toBeLessThan(1.5 / 4096);
    expect(lanesOf(a.xmm(2), 32).slice(1).map(hex)).toEqual([f32(0.5), 0x7f800000n, 0xffc00000n].map(hex));
    expect(a.mxcsr).toBe(0x1f80);
  });
});

describe('moves', () => {
  const a = 0x0123456789abcdef_fedcba9876543210n;
  const b = 0xaaaaaaaabbbbbbbb_ccccccccddddddddn;
  it('scalar loads clear, register moves merge', () => {
    const data = bytesOf(b, 16);
    expect(m.run((c) => c.op('MOVSS', 'xmm0', mem32(DATA)), { xmm: { 0: a }, data }).xmm(0)).toBe(0xddddddddn);
    expect(m.run((c) => c.op('MOVSD', 'xmm0', mem64(DATA)), { xmm: { 0: a }, data }).xmm(0)).toBe(0xccccccccddddddddn);
    expect(two('MOVSS', a, b)).toBe((a & ~0xffffffffn) | 0xddddddddn);
    expect(two('MOVQ', a, b)).toBe(0xccccccccddddddddn);
    expect(m.run((c) => c.op('MOVD', 'xmm0', 'eax'), { xmm: { 0: a }, gpr: { 0: -2 } }).xmm(0)).toBe(0xfffffffen);
  });
  it('halves and duplicates', () => {
    expect(two('MOVHLPS', a, b)).toBe((a & ~0xffffffffffffffffn) | (b >> 64n));
    expect(two('MOVLHPS', a, b)).toBe((a & 0xffffffffffffffffn) | ((b & 0xffffffffffffffffn) << 64n));
    expect(two('MOVDDUP', 0n, b)).toBe(join([b & 0xffffffffffffffffn, b & 0xffffffffffffffffn], 64));
    expect(two('MOVSHDUP', 0n, join([1n, 2n, 3n, 4n], 32))).toBe(join([2n, 2n, 4n, 4n], 32));
  });
  it('MASKMOVDQU stores the chosen bytes at EDI', () => {
    const r = m.run((c) => c.db(0x66, 0x0f, 0xf7, 0xc1), {
      xmm: { 0: a, 1: 0x80n | (0x80n << 16n) },
      gpr: { 7: DATA },
      data: new Uint8Array(16),
    });
    expect([...r.data(DATA, 4)]).toEqual([0x10, 0, 0x54, 0]);
  });
});

// One lane of each integer operation, written out.
const sx = (v: bigint, n: number): bigint => BigInt.asIntN(n, v);
const clampS = (v: bigint, n: number): bigint => {
  const top = (1n << BigInt(n - 1)) - 1n;
  return v > top ? top : v < -top - 1n ? -top - 1n : v;
};
const clampU = (v: bigint, n: number): bigint =>
  v < 0n ? 0n : v > (1n << BigInt(n)) - 1n ? (1n << BigInt(n)) - 1n : v;
type Lane = (a: bigint, b: bigint, n: number) => bigint;
const LANES: Readonly<Record<string, readonly [bits: number, op: Lane]>> = {};
const lane = (names: string, op: Lane): void => {
  for (const name of names.split(' ')) {
    const size = { B: 8, W: 16, D: 32, Q: 64 }[name[name.length - 1] as 'B' | 'W' | 'D' | 'Q'];
    (LANES as Record<string, readonly [number, Lane]>)[name] = [size, op];
  }
};
lane('PADDB PADDW PADDD PADDQ', (a, b) => a + b);
lane('PSUBB PSUBW PSUBD PSUBQ', (a, b) => a - b);
lane('PADDSB PADDSW', (a, b, n) => clampS(sx(a, n) + sx(b, n), n));
lane('PSUBSB PSUBSW', (a, b, n) => clampS(sx(a, n) - sx(b, n), n));
lane('PADDUSB PADDUSW', (a, b, n) => clampU(a + b, n));
lane('PSUBUSB PSUBUSW', (a, b, n) => clampU(a - b, n));
lane('PCMPEQB PCMPEQW PCMPEQD PCMPEQQ', (a, b) => (a === b ? -1n : 0n));
lane('PCMPGTB PCMPGTW PCMPGTD PCMPGTQ', (a, b, n) => (sx(a, n) > sx(b, n) ? -1n : 0n));
// biome-ignore lint/complexity/useMathMinMax: these are bigints
lane('PMINUB PMINUW PMINUD', (a, b) => (a < b ? a : b));
// biome-ignore lint/complexity/useMathMinMax: these are bigints
lane('PMAXUB PMAXUW PMAXUD', (a, b) => (a > b ? a : b));
lane('PMINSB PMINSW PMINSD', (a, b, n) => (sx(a, n) < sx(b, n) ? a : b));
lane('PMAXSB PMAXSW PMAXSD', (a, b, n) => (sx(a, n) > sx(b, n) ? a : b));
lane('PAVGB PAVGW', (a, b) => (a + b + 1n) >> 1n);
lane('PMULLW PMULLD', (a, b) => a * b);
lane('PMULHW', (a, b, n) => (sx(a, n) * sx(b, n)) >> 16n);
lane('PMULHUW', (a, b) => (a * b) >> 16n);
lane('PMULHRSW', (a, b, n) => (((sx(a, n) * sx(b, n)) >> 14n) + 1n) >> 1n);
lane('PSIGNB PSIGNW PSIGND', (a, b, n) => (sx(b, n) < 0n ? -a : b === 0n ? 0n : a));
lane('PABSB PABSW PABSD', (_a, b, n) => (sx(b, n) < 0n ? -b : b));

describe('integer vectors', () => {
  it('lane by lane', () => {
    for (const [name, [bits, op]] of Object.entries(LANES))
      fc.assert(
        fc.property(vector, vector, fc.boolean(), (x, y, equal) => {
          const b = equal ? x : y;
          const want = join(
            lanesOf(x, bits).map((a, i) => op(a, lanesOf(b, bits)[i] as bigint, bits)),
            bits,
          );
          expect(`${name} ${hex(two(name as OpName, x, b))}`).toBe(`${name} ${hex(want)}`);
        }),
        { numRuns: 12 },
      );
    // The corner where the WebAssembly operation differs.
    expect(two('PMULHRSW', 0x8000n, 0x8000n)).toBe(0x8000n);
  });
  it('across lanes', () => {
    fc.assert(
      fc.property(vector, vector, fc.integer({ min: 0, max: 255 }), (a, b, imm) => {
        const w = (v: bigint, n: number): bigint[] => lanesOf(v, n);
        const s = (v: bigint, n: number): bigint[] => w(v, n).map((x) => sx(x, n));
        const pairs = (v: readonly bigint[], op: (x: bigint, y: bigint) => bigint): bigint[] =>
          Array.from({ length: v.length / 2 }, (_, i) => op(v[2 * i] as bigint, v[2 * i + 1] as bigint));
        const both = (n: number, op: (x: bigint, y: bigint) => bigint): bigint =>
          join([...pairs(s(a, n), op), ...pairs(s(b, n), op)], n);
        const at = (v: readonly bigint[], i: number): bigint => v[i] as bigint;
        const imm2 = (op: OpName): bigint =>
          m.run((c) => c.op(op, 'xmm0', 'xmm1', imm), { xmm: { 0: a, 1: b } }).xmm(0);
        const f = (i: number): number => (imm >> (2 * i)) & 3;
        const expected: Record<string, [bigint, bigint]> = {
          PMADDWD: [
            two('PMADDWD', a, b),
            join(
              pairs(
                s(a, 16).map((x, i) => x * at(s(b, 16), i)),
                (x, y) => x + y,
              ),
              32,
            ),
          ],
          PMADDUBSW: [
            two('PMADDUBSW', a, b),
            join(
              pairs(
                w(a, 8).map((x, i) => x * at(s(b, 8), i)),
                (x, y) => clampS(x + y, 16),
              ),
              16,
            ),
          ],
          PHADDW: [two('PHADDW', a, b), both(16, (x, y) => x + y)],
          PHSUBD: [two('PHSUBD', a, b), both(32, (x, y) => x - y)],
          PHADDSW: [two('PHADDSW', a, b), both(16, (x, y) => clampS(x + y, 16))],
          PSADBW: [
            two('PSADBW', a, b),
            join(
              [0, 8].map((o) =>
                w(a, 8)
                  .slice(o, o + 8)
                  .reduce(
                    (t, x, i) => t + (x > at(w(b, 8), o + i) ? x - at(w(b, 8), o + i) : at(w(b, 8), o + i) - x),
                    0n,
                  ),
              ),
              64,
            ),
          ],
          PMULUDQ: [
            two('PMULUDQ', a, b),
            join(
              [0, 2].map((i) => at(w(a, 32), i) * at(w(b, 32), i)),
              64,
            ),
          ],
          PMULDQ: [
            two('PMULDQ', a, b),
            join(
              [0, 2].map((i) => at(s(a, 32), i) * at(s(b, 32), i)),
              64,
            ),
          ],
          PACKSSWB: [
            two('PACKSSWB', a, b),
            join(
              [...s(a, 16), ...s(b, 16)].map((x) => clampS(x, 8)),
              8,
            ),
          ],
          PACKUSDW: [
            two('PACKUSDW', a, b),
            join(
              [...s(a, 32), ...s(b, 32)].map((x) => clampU(x, 16)),
              16,
            ),
          ],
          PUNPCKHBW: [
            two('PUNPCKHBW', a, b),
            join(
              Array.from({ length: 16 }, (_, i) => at(w(i & 1 ? b : a, 8), 8 + (i >> 1))),
              8,
            ),
          ],
          PUNPCKLWD: [
            two('PUNPCKLWD', a, b),
            join(
              Array.from({ length: 8 }, (_, i) => at(w(i & 1 ? b : a, 16), i >> 1)),
              16,
            ),
          ],
          PSHUFB: [
            two('PSHUFB', a, b),
            join(
              w(b, 8).map((x) => (x & 0x80n ? 0n : at(w(a, 8), Number(x & 15n)))),
              8,
            ),
          ],
          PSHUFD: [
            imm2('PSHUFD'),
            join(
              [0, 1, 2, 3].map((i) => at(w(b, 32), f(i))),
              32,
            ),
          ],
          PSHUFLW: [imm2('PSHUFLW'), join([...[0, 1, 2, 3].map((i) => at(w(b, 16), f(i))), ...w(b, 16).slice(4)], 16)],
          PSHUFHW: [
            imm2('PSHUFHW'),
            join([...w(b, 16).slice(0, 4), ...[0, 1, 2, 3].map((i) => at(w(b, 16), 4 + f(i)))], 16),
          ],
          SHUFPS: [
            imm2('SHUFPS'),
            join([at(w(a, 32), f(0)), at(w(a, 32), f(1)), at(w(b, 32), f(2)), at(w(b, 32), f(3))], 32),
          ],
          SHUFPD: [imm2('SHUFPD'), join([at(w(a, 64), imm & 1), at(w(b, 64), (imm >> 1) & 1)], 64)],
          PALIGNR: [imm2('PALIGNR'), (((a << 128n) | b) >> BigInt(8 * Math.min(imm, 32))) & ((1n << 128n) - 1n)],
          PBLENDW: [
            imm2('PBLENDW'),
            join(
              w(a, 16).map((x, i) => (imm & (1 << i) ? at(w(b, 16), i) : x)),
              16,
            ),
          ],
          BLENDPS: [
            imm2('BLENDPS'),
            join(
              w(a, 32).map((x, i) => (imm & (1 << i) ? at(w(b, 32), i) : x)),
              32,
            ),
          ],
          INSERTPS: [
            imm2('INSERTPS'),
            join(
              w(a, 32).map((x, i) => (imm & (1 << i) ? 0n : i === ((imm >> 4) & 3) ? at(w(b, 32), imm >> 6) : x)),
              32,
            ),
          ],
          MPSADBW: [
            imm2('MPSADBW'),
            join(
              Array.from({ length: 8 }, (_, j) =>
                [0, 1, 2, 3].reduce((t, k) => {
                  const p = at(w(a, 8), ((imm >> 2) & 1) * 4 + j + k);
                  const q = at(w(b, 8), (imm & 3) * 4 + k);
                  return t + (p > q ? p - q : q - p);
                }, 0n),
              ),
              16,
            ),
          ],
          PHMINPOSUW: [
            two('PHMINPOSUW', a, b),
            w(b, 16).reduce((best, x, i) => (x < (best & 0xffffn) ? x | (BigInt(i) << 16n) : best), at(w(b, 16), 0)),
          ],
          PMOVSXBD: [two('PMOVSXBD', a, b), join(s(b, 8).slice(0, 4), 32)],
          PMOVZXWQ: [two('PMOVZXWQ', a, b), join(w(b, 16).slice(0, 2), 64)],
        };
        for (const [name, [got, want]] of Object.entries(expected))
          expect(`${name} ${imm} ${hex(got)}`).toBe(`${name} ${imm} ${hex(want)}`);
      }),
      { numRuns: 15 },
    );
  });
  it('shifts: counts from an immediate or the low quadword, large ones empty the lanes', () => {
    const a = 0x8001800180018001_7fff7fff7fff7fffn;
    expect(two('PSLLW', a, 1n)).toBe(0x0002000200020002_fffefffefffefffen);
    expect(two('PSRLD', a, 32n)).toBe(0n);
    expect(two('PSRAW', a, 1n << 40n)).toBe(0xffffffffffffffff_0000000000000000n);
    expect(two('PSRLQ', a, (7n << 64n) | 4n)).toBe(0x0800180018001800_07fff7fff7fff7ffn);
    const imm = (op: OpName, n: number): bigint => m.run((c) => c.op(op, 'xmm0', n), { xmm: { 0: a } }).xmm(0);
    expect(imm('PSRAD', 255)).toBe(0xffffffffffffffff_0000000000000000n);
    expect(imm('PSLLDQ', 3)).toBe((a << 24n) & ((1n << 128n) - 1n));
    expect(imm('PSRLDQ', 15)).toBe(a >> 120n);
    expect(imm('PSRLDQ', 200)).toBe(0n);
  });
  it('PTEST, PMOVMSKB, PEXTR, PINSR', () => {
    const flags = (a: bigint, b: bigint): number =>
      m.run((c) => c.op('PTEST', 'xmm0', 'xmm1'), { xmm: { 0: a, 1: b } }).flags & 0x8d5;
    expect([flags(0xf0n, 0x0fn), flags(0xffn, 0x0fn), flags(0x10n, 0x30n), flags(0n, 0n)]).toEqual([0x40, 1, 0, 0x41]);
    const v = 0x80ff00000000000000000000000000_81n & ((1n << 128n) - 1n);
    expect(m.run((c) => c.op('PMOVMSKB', 'eax', 'xmm0'), { xmm: { 0: v }, gpr: { 0: -1 } }).gpr(0)).toBe(
      Number(lanesOf(v, 8).reduce((t, x, i) => t | ((x >> 7n) << BigInt(i)), 0n)),
    );
    const x = 0x0f0e0d0c0b0a0908_0706050403020100n;
    expect(m.run((c) => c.op('PEXTRB', 'eax', 'xmm0', 0x1b), { xmm: { 0: x } }).gpr(0)).toBe(0x0b);
    expect(m.run((c) => c.op('PEXTRW', 'eax', 'xmm0', 3), { xmm: { 0: x } }).gpr(0)).toBe(0x0706);
    expect(hex(m.run((c) => c.op('PINSRD', 'xmm0', 'eax', 2), { xmm: { 0: x }, gpr: { 0: 0x12345678 } }).xmm(0))).toBe(
      'f0e0d0c123456780706050403020100',
    );
    expect([...m.run((c) => c.op('EXTRACTPS', mem(DATA), 'xmm0', 1), { xmm: { 0: x } }).data(DATA, 4)]).toEqual([
      4, 5, 6, 7,
    ]);
  });
  it('variable blends by XMM0', () => {
    const r = m.run((c) => c.op('PBLENDVB', 'xmm1', 'xmm2', 'xmm0'), {
      xmm: { 0: 0x80n | (0xffn << 64n), 1: 0n, 2: (1n << 128n) - 1n },
    });
    expect(hex(r.xmm(1))).toBe(hex(0xffn | (0xffn << 64n)));
  });
});
