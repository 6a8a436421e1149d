// The software floating point against exact integer arithmetic.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ctlOf, FloatFns, FORMATS, operands, SLOT_R, SLOT_R2 } from './float-rig.ts';
import {
  arith,
  C1,
  DE,
  decode,
  defaultNan,
  F32,
  F64,
  F80,
  IE,
  infinity,
  type Mode,
  nanOf,
  type Op,
  PE,
  relation,
  rint,
  round,
  toInt,
  zero,
} from './ieee-model.ts';

const fns = new FloatFns();
const modes = fc.constantFrom<Mode>(0, 1, 2, 3);
const hex = (v: bigint): string => v.toString(16);
const RUNS = { numRuns: 1500 };

describe('arithmetic', () => {
  for (const [name, f] of FORMATS.slice(0, 2))
    for (const op of ['add', 'sub', 'mul', 'div', 'sqrt'] as Op[])
      it(`${op}${name}: result and flags in all modes, DAZ, FTZ, masks (SDM 11.5)`, () => {
        fc.assert(
          fc.property(
            operands(f),
            operands(f),
            modes,
            fc.boolean(),
            fc.boolean(),
            fc.constantFrom(63, 63, 47, 55, 0),
            (a, b, mode, daz, ftz, masks) => {
              const want = arith(f, op, a, b, { mode, masks, ftz }, daz);
              const got = fns.call(f, `${op}${name}`, ctlOf({ mode, masks, daz, ftz }), a, b);
              expect(got.flags & 63).toBe(want.flags & 63);
              // Unmasked overflow and underflow deliver nothing.
              if ((want.flags & ~masks & 24) === 0) expect(hex(got.bits)).toBe(hex(want.bits));
            },
          ),
          RUNS,
        );
      });
  for (const op of ['add', 'sub', 'mul', 'div', 'sqrt'] as Op[])
    it(`${op}80: result, flags and C1 in all modes and precisions, masked or not (SDM 8.5)`, () => {
      fc.assert(
        fc.property(
          operands(F80),
          operands(F80),
          modes,
          fc.constantFrom(0, 2, 3),
          fc.constantFrom(63, 63, 47, 55, 0),
          (a, b, mode, pc, masks) => {
            const precision = pc === 0 ? 24 : pc === 2 ? 53 : 64;
            const want = arith(F80, op, a, b, { mode, masks, precision });
            const got = fns.call80(`${op}80`, ctlOf({ mode, masks, pc }), a, b);
            expect([got.flags & 0x23f, hex(got.bits)]).toEqual([want.flags, hex(want.bits)]);
          },
        ),
        RUNS,
      );
    });
  it('rounds ties to even, and only ties', () => {
    // 1 + 2^-24 is halfway between 1 and its successor.
    expect(hex(fns.call(F32, 'add32', ctlOf({ mode: 0 }), 0x3f800000n, 0x33800000n).bits)).toBe('3f800000');
    expect(hex(fns.call(F32, 'add32', ctlOf({ mode: 0 }), 0x3f800001n, 0x33800000n).bits)).toBe('3f800002');
    expect(hex(fns.call(F32, 'add32', ctlOf({ mode: 0 }), 0x3f800000n, 0x33800001n).bits)).toBe('3f800001');
  });
});

describe('comparison, minimum, maximum', () => {
  for (const [name, f] of FORMATS.slice(0, 2)) {
    it(`compare${name}: relation, IE for SNaN or any NaN, DE`, () => {
      fc.assert(
        fc.property(operands(f), operands(f), fc.boolean(), fc.boolean(), (a, b, daz, strict) => {
          const [x, y] = [decode(f, a, daz), decode(f, b, daz)];
          const rel = relation(x, y);
          const flags = rel === 8 ? (strict || x.signaling || y.signaling ? IE : 0) : x.denormal || y.denormal ? DE : 0;
          const got = fns.call(f, `compare${name}`, ctlOf({ mode: 0, daz }), a, b, strict ? 1 : 0);
          expect([Number(got.bits), got.flags]).toEqual([rel, flags]);
        }),
        RUNS,
      );
    });
    it(`min${name}, max${name}: the second operand for NaNs and for equal operands`, () => {
      fc.assert(
        fc.property(operands(f), fc.option(operands(f), { nil: undefined }), fc.boolean(), (a, other, max) => {
          const b = other ?? a;
          const [x, y] = [decode(f, a), decode(f, b)];
          const rel = relation(x, y);
          const wins = max ? rel === 4 : rel === 1;
          const got = fns.call(f, `${max ? 'max' : 'min'}${name}`, ctlOf({ mode: 0 }), a, b);
          expect(hex(got.bits)).toBe(hex(wins ? a : b));
          expect(got.flags).toBe(rel === 8 ? IE : x.denormal || y.denormal ? DE : 0);
        }),
        RUNS,
      );
    });
  }
  it('compare80: condition codes', () => {
    fc.assert(
      fc.property(operands(F80), fc.option(operands(F80), { nil: undefined }), fc.boolean(), (a, other, strict) => {
        const b = other ?? a;
        const [x, y] = [decode(F80, a), decode(F80, b)];
        const rel = relation(x, y);
        const cc = { 1: 0x100, 2: 0x4000, 4: 0, 8: 0x4500 }[rel] as number;
        const bad = x.kind === 'unsupported' || y.kind === 'unsupported' || x.signaling || y.signaling;
        const flags = rel === 8 ? (strict || bad ? IE : 0) : x.denormal || y.denormal ? DE : 0;
        expect(Number(fns.raw('compare80', fns.base, strict ? 1 : 0, fns.slotA(a), fns.slotB(b), 0))).toBe(cc | flags);
      }),
      RUNS,
    );
  });
});

describe('conversions', () => {
  for (const [name, f] of FORMATS.slice(0, 2)) {
    it(`toInt${name}: 32 and 64 bits, out of range gives the indefinite integer`, () => {
      fc.assert(
        fc.property(operands(f), modes, fc.constantFrom(32, 64), (a, mode, bits) => {
          const want = toInt(decode(f, a), bits, mode);
          const got = fns.call(f, `toInt${name}`, ctlOf({ mode }), a, bits);
          expect([got.flags & 63, BigInt.asIntN(64, got.bits)]).toEqual([want.flags & 63, want.bits]);
        }),
        RUNS,
      );
    });
    it(`fromInt${name}`, () => {
      fc.assert(
        fc.property(
          fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }),
          fc.integer({ min: 0, max: 63 }),
          modes,
          (big, shift, mode) => {
            const v = big >> BigInt(shift);
            const got = fns.raw(`fromInt${name}`, fns.base, ctlOf({ mode }), v);
            const bits = typeof got === 'bigint' ? BigInt.asUintN(64, got) : BigInt(got >>> 0);
            const want =
              v === 0n
                ? { bits: 0n, flags: 0 }
                : round(f, v < 0n ? 1n : 0n, v < 0n ? -v : v, 0, false, { mode, masks: 63 });
            expect([hex(bits), fns.flags() & 63]).toEqual([hex(want.bits), want.flags & 63]);
          },
        ),
        RUNS,
      );
    });
    it(`rint${name}: no DE, DAZ makes zeros`, () => {
      fc.assert(
        fc.property(operands(f), modes, fc.boolean(), (a, mode, daz) => {
          const want = rint(f, decode(f, a, daz), mode);
          const got = fns.call(f, `rint${name}`, ctlOf({ mode, daz }), a);
          expect([hex(got.bits), got.flags & 63]).toEqual([hex(want.bits), want.flags & 63]);
        }),
        RUNS,
      );
    });
    it(`store${name}, expand${name}: to and from 80 bits`, () => {
      fc.assert(
        fc.property(operands(F80), modes, fc.constantFrom(63, 47, 55), (a, mode, masks) => {
          const o = decode(F80, a);
          const r = fns.raw(`store${name}`, fns.base, ctlOf({ mode, masks }), fns.slotA(a));
          const bits = typeof r === 'bigint' ? BigInt.asUintN(64, r) : BigInt(r >>> 0);
          const flags = fns.flags();
          if (o.kind === 'unsupported') expect([bits, flags]).toEqual([defaultNan(f), IE]);
          else if (o.kind === 'nan') {
            const frac = ((o.bits & ((1n << 63n) - 1n)) >> BigInt(64 - f.p)) | (1n << BigInt(f.p - 2));
            expect([hex(bits), flags]).toEqual([hex(infinity(f, o.s) | frac), o.signaling ? IE : 0]);
          } else if (o.kind !== 'number')
            expect([bits, flags]).toEqual([o.kind === 'inf' ? infinity(f, o.s) : zero(f, o.s), 0]);
          else {
            const want = round(f, o.s, o.m, o.e, false, { mode, masks });
            const delivered = (want.flags & ~masks & 24) === 0;
            expect(flags & (delivered ? 0x23f : 63)).toBe(want.flags & (delivered ? 0x23f : 63));
            if (delivered) expect(hex(bits)).toBe(hex(want.bits));
          }
        }),
        RUNS,
      );
      fc.assert(
        fc.property(operands(f), (a) => {
          const o = decode(f, a);
          const at = fns.slotA(0n);
          const arg = f === F32 ? Number(BigInt.asIntN(32, a)) : BigInt.asIntN(64, a);
          const flags = Number(fns.raw(`expand${name}`, at, arg));
          const got = decode(F80, fns.get(at));
          expect(flags).toBe(o.kind === 'nan' ? (o.signaling ? IE : 0) : o.denormal ? DE : 0);
          expect([got.kind, got.s, got.signaling]).toEqual([o.kind, o.s, o.signaling]);
          if (o.kind === 'number') expect(got.m << 200n).toBe((o.m << 200n) >> BigInt(got.e - o.e));
        }),
        RUNS,
      );
    });
  }
  it('narrow, widen: between singles and doubles', () => {
    fc.assert(
      fc.property(operands(F64), modes, fc.boolean(), fc.boolean(), (a, mode, daz, ftz) => {
        const o = decode(F64, a, daz);
        const r = BigInt(Number(fns.raw('narrow', fns.base, ctlOf({ mode, daz, ftz }), BigInt.asIntN(64, a))) >>> 0);
        const flags = fns.flags() & 63;
        if (o.kind === 'nan') {
          expect(flags).toBe(o.signaling ? IE : 0);
          expect(hex(r)).toBe(hex((o.s << 31n) | 0x7fc00000n | ((a >> 29n) & 0x3fffffn)));
        } else if (o.kind !== 'number')
          expect([r, flags]).toEqual([o.kind === 'inf' ? infinity(F32, o.s) : zero(F32, o.s), 0]);
        else {
          const want = round(F32, o.s, o.m, o.e, false, { mode, masks: 63, ftz });
          expect([hex(r), flags]).toEqual([hex(want.bits), (want.flags & 63) | (o.denormal ? DE : 0)]);
        }
      }),
      RUNS,
    );
    fc.assert(
      fc.property(operands(F32), fc.boolean(), (a, daz) => {
        const o = decode(F32, a, daz);
        const r = BigInt.asUintN(
          64,
          fns.raw('widen', fns.base, ctlOf({ mode: 0, daz }), Number(BigInt.asIntN(32, a))) as bigint,
        );
        const got = decode(F64, r);
        expect(fns.flags()).toBe(o.kind === 'nan' ? (o.signaling ? IE : 0) : o.denormal ? DE : 0);
        expect([got.kind, got.s]).toEqual([o.kind, o.s]);
        if (o.kind === 'number') expect((got.m << 100n) >> BigInt(o.e - got.e + 0)).toBe(o.m << 100n);
        if (o.kind === 'nan') expect(got.signaling).toBe(false);
      }),
      RUNS,
    );
  });
  it('toInt80: 16, 32 and 64 bits, with C1', () => {
    fc.assert(
      fc.property(operands(F80), modes, fc.constantFrom(16, 32, 64), (a, mode, bits) => {
        const want = toInt(decode(F80, a), bits, mode);
        const got = fns.raw('toInt80', fns.base, ctlOf({ mode }), fns.slotA(a), bits);
        expect([got, fns.flags()]).toEqual([want.bits, want.flags]);
      }),
      RUNS,
    );
  });
  it('toBcd, fromBcd: 18 digits and a sign (SDM 4.7)', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(10n ** 18n) + 1n, max: 10n ** 18n - 1n }), (v) => {
        const mag = v < 0n ? -v : v;
        const packed = BigInt(`0x${mag.toString()}`);
        fns.raw('fromBcd', fns.base, BigInt.asIntN(64, packed), Number(packed >> 64n) | (v < 0n ? 0x8000 : 0));
        const x = fns.get(SLOT_R);
        const lo = fns.raw('toBcd', fns.base, ctlOf({ mode: 0 }), fns.slotA(x));
        expect(BigInt.asUintN(64, lo as bigint)).toBe(packed & ((1n << 64n) - 1n));
        expect(fns.get(SLOT_R) & 0xffffn).toBe((packed >> 64n) | (v < 0n ? 0x8000n : 0n));
        expect(fns.flags()).toBe(0);
      }),
      { numRuns: 300 },
    );
    // 10^18 has 19 digits.
    const big = round(F80, 0n, 10n ** 18n, 0, false, { mode: 0, masks: 63 }).bits;
    expect(BigInt.asUintN(64, fns.raw('toBcd', fns.base, ctlOf({ mode: 0 }), fns.slotA(big)) as bigint)).toBe(
      0xc000000000000000n,
    );
    expect(fns.flags()).toBe(IE);
  });
});

describe('the rest of the 80-bit functions', () => {
  it('rint80', () => {
    fc.assert(
      fc.property(operands(F80), modes, (a, mode) => {
        const o = decode(F80, a);
        const want = rint(F80, o, mode);
        const got = fns.call80('rint80', ctlOf({ mode }), a);
        expect([hex(got.bits), got.flags]).toEqual([
          hex(want.bits),
          want.flags | (o.kind === 'number' && o.denormal ? DE : 0),
        ]);
      }),
      RUNS,
    );
  });
  it('rem80, rem1_80: exact remainders, quotient bits, C2 while incomplete (SDM FPREM, FPREM1)', () => {
    fc.assert(
      fc.property(operands(F80), operands(F80), fc.boolean(), (a, b, nearest) => {
        const [x, y] = [decode(F80, a), decode(F80, b)];
        const got = fns.call80(nearest ? 'rem1_80' : 'rem80', ctlOf({ mode: 0 }), a, b);
        const invalid = (): void => {
          expect([got.flags, got.bits]).toEqual([IE, defaultNan(F80)]);
        };
        if (x.kind === 'unsupported' || y.kind === 'unsupported') return invalid();
        if (x.kind === 'nan' || y.kind === 'nan') {
          const n = nanOf(F80, [x, y]);
          expect([got.flags, hex(got.bits)]).toEqual([n.flags, hex(n.bits)]);
          return;
        }
        if (x.kind === 'inf' || y.kind === 'zero') return invalid();
        const de = x.denormal || y.denormal ? DE : 0;
        if (x.kind === 'zero') {
          expect([got.flags, got.bits]).toEqual([de, a]);
          return;
        }
        if (y.kind === 'inf') {
          expect(got.flags).toBe(de);
          expect(decode(F80, got.bits).m << 100n).toBe((x.m << 100n) >> BigInt(decode(F80, got.bits).e - x.e));
          return;
        }
        const e = Math.min(x.e, y.e);
        const A = x.m << BigInt(x.e - e);
        const B = y.m << BigInt(y.e - e);
        const size = (v: bigint): number => v.toString(2).length;
        const D = size(A) - size(B);
        const r = decode(F80, got.bits);
        const value = r.kind === 'zero' ? 0n : ((r.s === 1n ? -1n : 1n) * (r.m << 20000n)) >> BigInt(e - r.e + 20000);
        if (D >= 64) {
          // Partial: congruent, smaller by 32 to 63 bits, same sign.
          expect(got.flags & 0x400).toBe(0x400);
          const mag = value < 0n ? -value : value;
          expect((A - mag) % B).toBe(0n);
          const n = (D & 31) | 32;
          expect(mag < B << BigInt(D - n)).toBe(true);
          return;
        }
        let q = A / B;
        let rest = A - q * B;
        if (nearest && (2n * rest > B || (2n * rest === B && q % 2n === 1n))) {
          q++;
          rest -= B;
        }
        const want = x.s === 1n ? -rest : rest;
        expect(value).toBe(want);
        if (want === 0n) expect(r.s).toBe(x.s);
        const cc = (q & 1n ? C1 : 0) | (q & 2n ? 0x4000 : 0) | (q & 4n ? 0x100 : 0);
        expect(got.flags).toBe(cc | de);
      }),
      { numRuns: 4000 },
    );
  });
  it('scale80: a·2^trunc(b), with overflow and underflow', () => {
    fc.assert(
      fc.property(
        operands(F80),
        fc.integer({ min: -40000, max: 40000 }),
        fc.integer({ min: 0, max: 7 }),
        modes,
        (a, n, fraction, mode) => {
          const o = decode(F80, a);
          if (o.kind !== 'number') return;
          // n plus some eighths, away from zero, so that truncation shows.
          const eighths = BigInt(Math.abs(n)) * 8n + BigInt(fraction);
          if (eighths === 0n) return;
          const b = round(F80, n < 0 ? 1n : 0n, eighths, -3, false, { mode: 0, masks: 63 }).bits;
          const want = round(F80, o.s, o.m, o.e + n, false, { mode, masks: 63 });
          const got = fns.call80('scale80', ctlOf({ mode }), a, b);
          expect([hex(got.bits), got.flags]).toEqual([hex(want.bits), want.flags | (o.denormal ? DE : 0)]);
        },
      ),
      RUNS,
    );
  });
  it('scale80: infinite scale (SDM table of FSCALE)', () => {
    const [inf, one, nil] = [infinity(F80, 0n), (0x3fffn << 64n) | (1n << 63n), 0n];
    const ctl = ctlOf({ mode: 0 });
    expect(fns.call80('scale80', ctl, one, inf).bits).toBe(inf);
    expect(fns.call80('scale80', ctl, one, infinity(F80, 1n)).bits).toBe(0n);
    expect(fns.call80('scale80', ctl, nil, inf)).toEqual({ bits: defaultNan(F80), flags: IE });
    expect(fns.call80('scale80', ctl, inf, infinity(F80, 1n))).toEqual({ bits: defaultNan(F80), flags: IE });
  });
  it('extract80: significand and exponent', () => {
    fc.assert(
      fc.property(operands(F80), (a) => {
        const o = decode(F80, a);
        if (o.kind !== 'number') return;
        const got = fns.call80('extract80', ctlOf({ mode: 0 }), a);
        const exp = decode(F80, fns.get(SLOT_R2));
        const sig = decode(F80, got.bits);
        const e = o.e + o.m.toString(2).length - 1;
        expect(sig.e).toBe(-63);
        expect(sig.m).toBe(o.m << BigInt(64 - o.m.toString(2).length));
        expect(toInt(exp, 64, 0).bits).toBe(BigInt(e));
        expect(got.flags).toBe(o.denormal ? DE : 0);
      }),
      RUNS,
    );
    expect(fns.call80('extract80', ctlOf({ mode: 0 }), 0n)).toEqual({ bits: 0n, flags: 4 });
    expect(fns.get(SLOT_R2)).toBe(infinity(F80, 1n));
  });
});

// --- transcendental ----------------------------------------------------------------------------------------------------

const BITS = 260n;
const ONE = 1n << BITS;
const mulF = (a: bigint, b: bigint): bigint => (a * b) >> BITS;
const divF = (a: bigint, b: bigint): bigint => (a << BITS) / b;
/** Value of an operand as a fraction of ONE. */
function value(a: bigint): bigint {
  const o = decode(F80, a);
  const v = o.e >= -Number(BITS) ? o.m << (BITS + BigInt(o.e)) : o.m >> BigInt(-o.e - Number(BITS));
  return o.s === 1n ? -v : v;
}
function sum(first: bigint, next: (term: bigint, k: bigint) => bigint): bigint {
  let total = first;
  let term = first;
  for (let k = 1n; term !== 0n && k < 2000n; k++) {
    term = next(term, k);
    total += term;
  }
  return total;
}
const sinOf = (x: bigint): bigint => sum(x, (t, k) => -mulF(mulF(t, x), x) / (2n * k * (2n * k + 1n)));
const cosOf = (x: bigint): bigint => sum(ONE, (t, k) => -mulF(mulF(t, x), x) / (2n * k * (2n * k - 1n)));
const expOf = (x: bigint): bigint => sum(ONE, (t, k) => mulF(t, x) / k);
/** atanh(s) of a small s. */
function atanh(s: bigint): bigint {
  let total = 0n;
  let power = s;
  for (let n = 1n; power !== 0n; n += 2n) {
    total += power / n;
    power = mulF(mulF(power, s), s);
  }
  return total;
}
function atanOf(t: bigint): bigint {
  // Halve the angle a few times, then the series.
  let x = t;
  for (let i = 0; i < 6; i++) x = divF(x, ONE + isqrtF(ONE + mulF(x, x)));
  let total = 0n;
  let power = x;
  for (let n = 1n, s = 1n; power !== 0n; n += 2n, s = -s) {
    total += (s * power) / n;
    power = mulF(mulF(power, x), x);
  }
  return total << 6n;
}
function isqrtF(v: bigint): bigint {
  let x = v > ONE ? v : ONE;
  for (;;) {
    const y = (x + divF(v, x)) >> 1n;
    if (y >= x) return x;
    x = y;
  }
}
const LN2 = 2n * atanh(ONE / 3n);
const PI = 4n * atanOf(ONE);
const PI_66 = (0x3243f6a8885a308d3n << BITS) >> 64n;
/** The correctly rounded result. */
const rounded = (v: bigint, mode: Mode): bigint =>
  round(F80, v < 0n ? 1n : 0n, v < 0n ? -v : v, -Number(BITS), true, { mode, masks: 63 }).bits;
/** Operands with exponents from 2^lo to 2^hi. */
const between = (lo: number, hi: number, signed = true): fc.Arbitrary<bigint> =>
  fc
    .tuple(
      fc.bigInt({ min: 0n, max: signed ? 1n : 0n }),
      fc.integer({ min: lo, max: hi }),
      fc.bigInt({ min: 0n, max: (1n << 63n) - 1n }),
    )
    .map(([s, e, m]) => (s << 79n) | (BigInt(e + 16383) << 64n) | (1n << 63n) | m);

describe('transcendental functions', () => {
  const N = { numRuns: 300 };
  it('sin80, cos80, tan80: correctly rounded after reduction by the 66-bit π (SDM 8.3.8)', () => {
    fc.assert(
      fc.property(between(-20, 62), modes, (a, mode) => {
        const half = PI_66 / 2n;
        const x = value(a);
        const mag = x < 0n ? -x : x;
        let q = mag / half;
        let r = mag - q * half;
        if (2n * r > half) {
          q++;
          r -= half;
        }
        const [s, c] = [sinOf(r), cosOf(r)];
        const turn = Number(q & 3n);
        const sin = [s, c, -s, -c][turn] as bigint;
        const cos = [c, -s, -c, s][turn] as bigint;
        const sign = x < 0n ? -1n : 1n;
        const ctl = ctlOf({ mode });
        expect(hex(fns.call80('sin80', ctl, a).bits)).toBe(hex(rounded(sign * sin, mode)));
        expect(hex(fns.call80('cos80', ctl, a).bits)).toBe(hex(rounded(cos, mode)));
        expect(hex(fns.call80('tan80', ctl, a).bits)).toBe(hex(rounded(sign * divF(sin, cos), mode)));
        expect(hex(fns.call80('sincos80', ctl, a).bits)).toBe(hex(rounded(sign * sin, mode)));
        expect(hex(fns.get(SLOT_R2))).toBe(hex(rounded(cos, mode)));
      }),
      N,
    );
  });
  it('small operands: just below x for the sine, just above for the tangent, normalized at the edge of the range', () => {
    const x = (0x3f00n << 64n) | (1n << 63n);
    expect(hex(fns.call80('sin80', ctlOf({ mode: 3 }), x).bits)).toBe(hex((0x3effn << 64n) | ((1n << 64n) - 1n)));
    expect(fns.call80('sin80', ctlOf({ mode: 0 }), x)).toEqual({ bits: x, flags: PE | C1 });
    expect(hex(fns.call80('tan80', ctlOf({ mode: 2 }), x).bits)).toBe(hex(x + 1n));
    const least = (1n << 64n) | (1n << 63n);
    expect(hex(fns.call80('sin80', ctlOf({ mode: 3 }), least).bits)).toBe('7fffffffffffffff');
  });
  it('C2 from 2^63 on', () => {
    const a = (BigInt(16383 + 63) << 64n) | (1n << 63n);
    for (const name of ['sin80', 'cos80', 'tan80', 'sincos80'])
      expect(fns.call80(name, ctlOf({ mode: 0 }), a).flags).toBe(0x400);
  });
  it('atan80 in all quadrants', () => {
    fc.assert(
      fc.property(between(-12, 12), between(-12, 12), modes, (x, y, mode) => {
        const [vx, vy] = [value(x), value(y)];
        const [mx, my] = [vx < 0n ? -vx : vx, vy < 0n ? -vy : vy];
        let t = my <= mx ? atanOf(divF(my, mx)) : PI / 2n - atanOf(divF(mx, my));
        if (vx < 0n) t = PI - t;
        const got = fns.call80('atan80', ctlOf({ mode }), x, y);
        expect(hex(got.bits)).toBe(hex(rounded(vy < 0n ? -t : t, mode)));
      }),
      N,
    );
  });
  it('atan80 of special operands (SDM table of FPATAN)', () => {
    const ctl = ctlOf({ mode: 0 });
    const [inf, ninf, one] = [infinity(F80, 0n), infinity(F80, 1n), (0x3fffn << 64n) | (1n << 63n)];
    const at = (x: bigint, y: bigint): string => hex(fns.call80('atan80', ctl, x, y).bits);
    expect(at(inf, inf)).toBe(hex(rounded(PI / 4n, 0)));
    expect(at(ninf, inf)).toBe(hex(rounded((3n * PI) / 4n, 0)));
    expect(at(one, ninf)).toBe(hex(rounded(-PI / 2n, 0)));
    expect(at(ninf, one)).toBe(hex(rounded(PI, 0)));
    expect(at(inf, one)).toBe('0');
    expect(at(1n << 79n, 1n << 79n)).toBe(hex(rounded(-PI, 0)));
    expect(at(0n, one)).toBe(hex(rounded(PI / 2n, 0)));
  });
  it('f2xm1 on its whole range', () => {
    fc.assert(
      fc.property(between(-60, -1), modes, (a, mode) => {
        const v = expOf(mulF(value(a), LN2)) - ONE;
        expect(hex(fns.call80('f2xm1', ctlOf({ mode }), a).bits)).toBe(hex(rounded(v, mode)));
      }),
      N,
    );
    const one = (0x3fffn << 64n) | (1n << 63n);
    expect(fns.call80('f2xm1', ctlOf({ mode: 0 }), one).bits).toBe(one);
    expect(hex(fns.call80('f2xm1', ctlOf({ mode: 0 }), one | (1n << 79n)).bits)).toBe(
      hex((0xbffen << 64n) | (1n << 63n)),
    );
  });
  it('yl2x, yl2xp1', () => {
    fc.assert(
      fc.property(between(-40, 40, false), between(-30, 30), modes, (x, y, mode) => {
        const o = decode(F80, x);
        // log2 x = e + log2 m
        const e = BigInt(o.e + 63);
        const m = o.m << (BITS - 63n);
        const log = e * ONE + divF(2n * atanh(divF(m - ONE, m + ONE)), LN2);
        // Powers of two have exact logarithms; they are tested below.
        if ((x & ((1n << 63n) - 1n)) === 0n) return;
        expect(hex(fns.call80('yl2x', ctlOf({ mode }), x, y).bits)).toBe(hex(rounded(mulF(value(y), log), mode)));
      }),
      N,
    );
    fc.assert(
      fc.property(between(-60, -3), between(-10, 10), modes, (x, y, mode) => {
        const v = value(x);
        const log = divF(2n * atanh(divF(v, 2n * ONE + v)), LN2);
        expect(hex(fns.call80('yl2xp1', ctlOf({ mode }), x, y).bits)).toBe(hex(rounded(mulF(value(y), log), mode)));
      }),
      N,
    );
  });
  it('yl2x of powers of two is exact, of special operands as the table says', () => {
    const num = (v: number): bigint =>
      v === 0 ? 0n : round(F80, v < 0 ? 1n : 0n, BigInt(Math.abs(v) * 1024), -10, false, { mode: 0, masks: 63 }).bits;
    const ctl = ctlOf({ mode: 0 });
    expect(fns.call80('yl2x', ctl, num(8), num(-2.5))).toEqual({ bits: num(-7.5), flags: 0 });
    expect(fns.call80('yl2x', ctl, num(1), num(-3))).toEqual({ bits: 1n << 79n, flags: 0 });
    expect(fns.call80('yl2x', ctl, 0n, num(3))).toEqual({ bits: infinity(F80, 1n), flags: 4 });
    expect(fns.call80('yl2x', ctl, num(-1), num(3)).flags).toBe(IE);
    expect(fns.call80('yl2x', ctl, infinity(F80, 0n), num(-3)).bits).toBe(infinity(F80, 1n));
    expect(fns.call80('yl2x', ctl, num(1), infinity(F80, 0n)).flags).toBe(IE);
  });
});
