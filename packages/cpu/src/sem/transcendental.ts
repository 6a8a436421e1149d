// FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1. Intel SDM volume 1 8.3.7 to 8.3.9, volume 2 for special
// operands.
//
// All is computed to about 115 bits and rounded once to 64, so results are correctly rounded but for about one case in
// 2^50. Trigonometric operands are reduced with the 66-bit π that processors use, which is part of what the instructions
// mean for large operands. A number is a 128-bit significand with bit 127 set and an exponent; polynomials run in fixed
// point: Q0.128 below 1, Q1.127 below 2.
import * as S from '../state.ts';
import {
  c32,
  c64,
  c64hl,
  call,
  type Fn,
  type FnRef,
  I32,
  I64,
  i32,
  i64,
  type Local,
  ld,
  type Module,
  type Node,
  select,
} from '../wasm/builder.ts';
import { type F80Fns, putIndefinite, putSlot, R, R2, signExp, unpack80 } from './f80.ts';
import {
  BIAS,
  E_SPECIAL,
  IE,
  isNan,
  isSpecial,
  isZero,
  mul128,
  newU,
  normalizeWide,
  PE,
  param,
  shiftRightJam,
  TOP,
  type U,
  type Wide,
  ZE,
} from './softfloat.ts';

/** Low half of a 128-bit result. */
const LOW: number = S.SCRATCH + 112;
/** Sine and cosine of the reduced operand: high, low, exponent. */
const SIN: number = S.SCRATCH + 128;
const COS: number = S.SCRATCH + 160;
/** Logarithm: high, low, exponent, sign. */
const LOG: number = S.SCRATCH + 192;
const C2 = 0x400;

// --- constants, made once ----------------------------------------------------------------------------------------------

const ONE = 1n << 300n;
/** 1/1! … as fractions of ONE: atan and atanh of 1/n. */
function series(n: bigint, alternate: boolean): bigint {
  let sum = 0n;
  let power = ONE / n;
  for (let k = 0n; power !== 0n; k++) {
    const term = power / (2n * k + 1n);
    sum += alternate && k % 2n === 1n ? -term : term;
    power /= n * n;
  }
  return sum;
}
const PI = 4n * (4n * series(5n, true) - series(239n, true));
const LN2 = 2n * series(3n, false);
/** atan(k/8) by its series around 0, with k/8 halved first: atan(t) = 2·atan(t / (1 + √(1 + t²))). */
function atanOf(k: bigint): bigint {
  let t = (ONE * k) / 8n;
  for (let i = 0; i < 3; i++) t = (t * ONE) / (ONE + sqrt(ONE * ONE + t * t));
  let sum = 0n;
  let power = t;
  for (let n = 0n; power !== 0n; n++) {
    const term = power / (2n * n + 1n);
    sum += n % 2n === 1n ? -term : term;
    power = (((power * t) / ONE) * t) / ONE;
  }
  return sum * 8n;
}
function sqrt(v: bigint): bigint {
  let x = 1n << BigInt(Math.ceil(v.toString(2).length / 2));
  for (;;) {
    const y = (x + v / x) / 2n;
    if (y >= x) return x;
    x = y;
  }
}
/** `v` (a fraction of ONE) with `bits` bits after the point. */
const fixed = (v: bigint, bits: bigint): bigint => v >> (300n - bits);
const factorial = (n: number): bigint => (n < 2 ? 1n : BigInt(n) * factorial(n - 1));
/** Coefficients in Q1.127. */
const table = (count: number, divisor: (k: number) => bigint): bigint[] =>
  Array.from({ length: count }, (_, k) => (1n << 127n) / divisor(k));

const word = (v: bigint, n: bigint): number => Number((v >> (32n * n)) & 0xffffffffn) | 0;
const hiOf = (v: bigint): Node => c64hl(word(v, 3n), word(v, 2n));
const loOf = (v: bigint): Node => c64hl(word(v, 1n), word(v, 0n));

/** π/2 as processors have it, times 2^65: 66 bits. */
const HALF_PI_66 = 0x3243f6a8885a308d3n;

// --- building blocks ---------------------------------------------------------------------------------------------------

interface Fns {
  /** (base, ah, al, bh, bl) → high 64 bits of the upper half of the product; the next 64 at LOW. */
  readonly mul: FnRef;
  /** (base, nh, nl, dh, dl) → n / d as Q0.128 for n below d. */
  readonly div: FnRef;
  readonly f80: F80Fns;
}

function wide(f: Fn): Wide {
  return { hi: f.local(I64), lo: f.local(I64) };
}
function setW(f: Fn, w: Wide, hi: Node, lo: Node): void {
  f.set(w.hi, hi);
  f.set(w.lo, lo);
}
/** dst = a · b / 2^128. */
function mulW(f: Fn, fns: Fns, base: Node, dst: Wide, ah: Node, al: Node, bh: Node, bl: Node): void {
  f.set(dst.hi, call(fns.mul, base, ah, al, bh, bl));
  f.set(dst.lo, ld.i64(base, LOW));
}
function divW(f: Fn, fns: Fns, base: Node, dst: Wide, n: Wide, d: Wide): void {
  f.set(dst.hi, call(fns.div, base, n.hi.get, n.lo.get, d.hi.get, d.lo.get));
  f.set(dst.lo, ld.i64(base, LOW));
}
/** dst += b; the nodes must not depend on dst. */
function addW(f: Fn, dst: Wide, bh: Node, bl: Node): void {
  f.set(dst.lo, i64.add(dst.lo.get, bl));
  f.set(dst.hi, i64.add(i64.add(dst.hi.get, bh), i64.extend_u(i64.lt_u(dst.lo.get, bl))));
}
/** dst = a - b, where a may not depend on dst but b may. */
function subFrom(f: Fn, dst: Wide, ah: Node, al: Node): void {
  const borrow = f.tmp(i64.extend_u(i64.lt_u(al, dst.lo.get)));
  f.set(dst.lo, i64.sub(al, dst.lo.get));
  f.set(dst.hi, i64.sub(i64.sub(ah, dst.hi.get), borrow));
}
/** Whether a ≥ b. */
function geW(a: Wide, b: Wide): Node {
  return i32.or(i64.gt_u(a.hi.get, b.hi.get), i32.and(i64.eq(a.hi.get, b.hi.get), i64.ge_u(a.lo.get, b.lo.get)));
}

/** Both halves of a factor, 32 bits each, for {@link above}. */
type Halves = readonly [high: Node, low: Node];
function halves(f: Fn, v: Node): Halves {
  return [f.tmp(i64.shr_u(v, c64(32))), f.tmp(i64.and(v, c64(0xffffffff)))];
}
/** Upper 64 bits of a product, or up to two below them: for what is added to lower halves only. 0 if a factor is. */
function above(a: Halves, b: Halves): Node {
  const high = (v: Node): Node => i64.shr_u(v, c64(32));
  return i64.add(i64.mul(a[0], b[0]), i64.add(high(i64.mul(a[0], b[1])), high(i64.mul(a[1], b[0]))));
}
/** dst = a · b / 2^128, at most 7 units of the last place too small; exact in the upper halves' product. */
function product128(f: Fn, dst: Wide, ah: Node, al: Node, bh: Node, bl: Node, b?: readonly [Halves, Halves]): void {
  const m = f.mark();
  const p = { hi: f.temp(I64), lo: f.temp(I64) };
  mul128(f, ah, bh, p);
  const [xh, xl] = [halves(f, ah), halves(f, al)];
  const [yh, yl] = b ?? [halves(f, bh), halves(f, bl)];
  const q = f.tmp(above(xh, yl));
  const r = f.tmp(above(xl, yh));
  const sum = f.tmp(i64.add(p.lo.get, q));
  f.set(dst.lo, i64.add(sum, r));
  f.set(dst.hi, i64.add(p.hi.get, i64.add(i64.extend_u(i64.lt_u(sum, q)), i64.extend_u(i64.lt_u(dst.lo.get, r)))));
  f.release(m);
}

/** One of the polynomials that are computed together: c0 ± z·(c1 ± z·(c2 …)) in Q1.127. */
interface Polynomial {
  readonly acc: Wide;
  readonly c: readonly bigint[];
}
/**
 * Computes polynomials of the same z (Q0.128, at most 2^-`zBits`) to about 117 bits. What the last terms add is small, so that
 * 64 bits of it are enough.
 */
function polynomials(f: Fn, z: Wide, zBits: number, subtract: boolean, ...all: readonly Polynomial[]): void {
  const before = f.mark();
  const zh = f.tmp(z.hi.get);
  const split = [halves(f, z.hi.get), halves(f, z.lo.get)] as const;
  const state = all.map(({ acc, c }) => {
    /** How many bits a coefficient is below ½: with that many more, the tail from it on is a number in Q1.63. */
    const below = (k: number): number => 127 - (c[k] as bigint).toString(2).length;
    let from = 0;
    while (from < c.length - 1 && (below(from) < 1 || below(from) + from * zBits < 55)) from++;
    const shift = BigInt(below(from));
    const t = f.temp(I64);
    const scaled = (k: number): Node => {
      const v = (c[k] as bigint) >> (64n - shift);
      return c64hl(word(v, 1n), word(v, 0n));
    };
    f.set(t, scaled(c.length - 1));
    return { acc, c, from, shift, t, scaled, k: c.length - 2 };
  });
  while (state.some((p) => p.k >= 0))
    for (const p of state) {
      const k = p.k--;
      if (k < 0) continue;
      const m = f.mark();
      const { acc, t } = p;
      if (k >= p.from) {
        const w = { hi: f.temp(I64), lo: f.temp(I64) };
        mul128(f, t.get, zh, w);
        f.set(t, subtract ? i64.sub(p.scaled(k), w.hi.get) : i64.add(p.scaled(k), w.hi.get));
      } else {
        const v = p.c[k] as bigint;
        if (k === p.from - 1)
          setW(f, acc, i64.shr_u(t.get, c64(Number(p.shift))), i64.shl(t.get, c64(64 - Number(p.shift))));
        product128(f, acc, acc.hi.get, acc.lo.get, z.hi.get, z.lo.get, split);
        if (subtract) subFrom(f, acc, hiOf(v), loOf(v));
        else addW(f, acc, hiOf(v), loOf(v));
      }
      f.release(m);
    }
  f.release(before);
}

/** z = square in Q0.128 of a number below 1, given its significand and exponent. */
function square(f: Fn, fns: Fns, base: Node, z: Wide, a: Wide, e: Node): void {
  mulW(f, fns, base, z, a.hi.get, a.lo.get, a.hi.get, a.lo.get);
  shiftRightJam(f, z, f.tmp(i32.sub(i32.shl(i32.sub(c32(BIAS), e), c32(1)), c32(2))));
}
/** Number a (significand, exponent) in Q0.128; it must be below 1. */
function toFixed(f: Fn, w: Wide, e: Node): void {
  shiftRightJam(f, w, f.tmp(i32.sub(c32(BIAS - 1), e)));
}

function emitMul(m: Module): FnRef {
  const f = m.fn([I32, I64, I64, I64, I64], I64);
  const [base, ah, al, bh, bl] = [0, 1, 2, 3, 4].map((n) => param(f, n)) as [Node, Node, Node, Node, Node];
  const p = wide(f);
  product128(f, p, ah, al, bh, bl);
  f.st64(base, p.lo.get, LOW);
  f.emit(p.hi.get);
  return f.ref;
}

/** Knuth's algorithm D with four digits of 32 bits; d has bit 127 set. */
function emitDiv(m: Module): FnRef {
  const f = m.fn([I32, I64, I64, I64, I64], I64);
  const base = param(f, 0);
  const n: Wide = { hi: f.params[1] as Local, lo: f.params[2] as Local };
  const d: Wide = { hi: f.params[3] as Local, lo: f.params[4] as Local };
  const q = wide(f);
  const k = f.local(I32);
  const digit = f.local(I64);
  const over = f.local(I64);
  const low = (v: Node): Node => i64.and(v, c64(0xffffffff));
  const high = (v: Node): Node => i64.shr_u(v, c64(32));
  /** Bits 64 to 95 of digit · v. */
  const above = (v: Node): Node => high(i64.add(i64.mul(digit.get, high(v)), high(i64.mul(digit.get, low(v)))));
  f.set(k, c32(4));
  f.loop((again) => {
    // At most two more than the digit, as the divisor's first digit has its top bit set.
    f.set(digit, i64.div_u(n.hi.get, high(d.hi.get)));
    f.if(i64.gt_u(digit.get, c64(0xffffffff)), () => f.set(digit, c64(0xffffffff)));
    const p0 = f.tmp(i64.mul(digit.get, d.lo.get));
    const t = f.tmp(i64.mul(digit.get, d.hi.get));
    const p1 = f.tmp(i64.add(t, above(d.lo.get)));
    const p2 = f.tmp(i64.add(above(d.hi.get), i64.extend_u(i64.lt_u(p1, t))));
    // n · 2^32 - digit · d: 160 bits, the top ones and the sign in `over`.
    f.set(over, i64.sub(high(n.hi.get), p2));
    f.set(n.hi, i64.or(i64.shl(n.hi.get, c64(32)), high(n.lo.get)));
    f.set(n.lo, i64.shl(n.lo.get, c64(32)));
    const borrow = f.tmp(i64.extend_u(i64.lt_u(n.lo.get, p0)));
    f.set(n.lo, i64.sub(n.lo.get, p0));
    f.set(over, i64.sub(over.get, i64.extend_u(i64.lt_u(n.hi.get, p1))));
    f.set(n.hi, i64.sub(n.hi.get, p1));
    f.set(over, i64.sub(over.get, i64.extend_u(i64.lt_u(n.hi.get, borrow))));
    f.set(n.hi, i64.sub(n.hi.get, borrow));
    /** Takes one from the digit, as the remainder is below 0. */
    const back = (dh: Node, dl: Node, one: Node): void => {
      f.set(digit, i64.sub(digit.get, one));
      f.set(n.lo, i64.add(n.lo.get, dl));
      const carry = f.tmp(i64.extend_u(i64.lt_u(n.lo.get, dl)));
      f.set(n.hi, i64.add(n.hi.get, carry));
      f.set(over, i64.add(over.get, i64.extend_u(i64.lt_u(n.hi.get, carry))));
      f.set(n.hi, i64.add(n.hi.get, dh));
      f.set(over, i64.add(over.get, i64.extend_u(i64.lt_u(n.hi.get, dh))));
    };
    // Once without a branch, as nobody can tell when; twice is rare.
    const sign = f.tmp(i64.shr_s(over.get, c64(63)));
    const [dh, dl] = [f.tmp(i64.and(d.hi.get, sign)), f.tmp(i64.and(d.lo.get, sign))];
    back(dh, dl, i64.sub(c64(0), sign));
    f.block((right) =>
      f.loop((more) => {
        f.brIf(right, i64.ge_s(over.get, c64(0)));
        back(d.hi.get, d.lo.get, c64(1));
        f.br(more);
      }),
    );
    f.set(q.hi, i64.or(i64.shl(q.hi.get, c64(32)), high(q.lo.get)));
    f.set(q.lo, i64.or(i64.shl(q.lo.get, c64(32)), digit.get));
    f.set(k, i32.sub(k.get, c32(1)));
    f.brIf(again, k.get);
  });
  f.st64(base, q.lo.get, LOW);
  f.emit(q.hi.get);
  return f.ref;
}

/** Normalized quotient n / d of two normalized numbers, and its exponent: changes n. */
function quotient(f: Fn, fns: Fns, base: Node, dst: Wide, e: Local, n: Wide, ne: Node, d: Wide, de: Node): void {
  f.set(e, i32.add(i32.sub(ne, de), c32(BIAS - 1)));
  f.if(geW(n, d), () => {
    f.set(n.lo, i64.or(i64.shr_u(n.lo.get, c64(1)), i64.shl(n.hi.get, c64(63))));
    f.set(n.hi, i64.shr_u(n.hi.get, c64(1)));
    f.set(e, i32.add(e.get, c32(1)));
  });
  divW(f, fns, base, dst, n, d);
}

// --- sine and cosine ---------------------------------------------------------------------------------------------------

/**
 * (base, e, m): sine and cosine of m·2^(e - BIAS - 63), reduced to at most π/4, go to SIN and COS (their magnitudes).
 * Gives the quadrant in bits 0 and 1, and in bit 2 whether the reduced operand is negative.
 */
function emitTrig(m: Module, fns: Fns): FnRef {
  const f = m.fn([I32, I32, I64], I32);
  const [base, e, sig] = [param(f, 0), param(f, 1), param(f, 2)] as const;
  const r = wide(f);
  const re = f.local(I32);
  const q = f.local(I32);
  const neg = f.local(I32);
  const p = wide(f);
  f.set(r.hi, sig);
  f.set(re, e);
  f.if(i32.ge_s(e, c32(BIAS - 1)), () => {
    // Remainder of m·2^n by the 66-bit divisor, in units of 2^-65.
    const n = f.local(I32);
    setW(f, p, hiOf(HALF_PI_66), loOf(HALF_PI_66));
    setW(f, r, c64(0), sig);
    f.set(n, i32.sub(e, c32(BIAS - 2)));
    f.loop((again) => {
      f.set(r.hi, i64.or(i64.shl(r.hi.get, c64(1)), i64.shr_u(r.lo.get, c64(63))));
      f.set(r.lo, i64.shl(r.lo.get, c64(1)));
      f.set(q, i32.shl(q.get, c32(1)));
      f.if(geW(r, p), () => {
        const borrow = f.tmp(i64.extend_u(i64.lt_u(r.lo.get, p.lo.get)));
        f.set(r.lo, i64.sub(r.lo.get, p.lo.get));
        f.set(r.hi, i64.sub(i64.sub(r.hi.get, p.hi.get), borrow));
        f.set(q, i32.or(q.get, c32(1)));
      });
      f.set(n, i32.sub(n.get, c32(1)));
      f.brIf(again, n.get);
    });
    // More than half the divisor: take the next multiple.
    const twice = wide(f);
    setW(f, twice, i64.or(i64.shl(r.hi.get, c64(1)), i64.shr_u(r.lo.get, c64(63))), i64.shl(r.lo.get, c64(1)));
    f.if(geW(twice, p), () => {
      subFrom(f, r, p.hi.get, p.lo.get);
      f.set(neg, c32(4));
      f.set(q, i32.add(q.get, c32(1)));
    });
    // r · 2^-65 = r / 2^127 · 2^62
    f.set(re, c32(BIAS + 62));
    normalizeWide(f, r, re);
  });
  const z = wide(f);
  const acc = wide(f);
  const ae = f.local(I32);
  square(f, fns, base, z, r, re.get);
  const tiny = f.tmp(i64.eqz(i64.or(z.hi.get, i64.shr_u(z.lo.get, c64(1)))));
  // sin r = r·(1 - z/3! + …), cos r = 1 - z/2! + …
  const cos = wide(f);
  f.if(
    tiny,
    () => {
      // The value just below r.
      setW(f, acc, i64.sub(r.hi.get, i64.extend_u(i64.eqz(r.lo.get))), i64.sub(r.lo.get, c64(1)));
      f.set(ae, re.get);
      normalizeWide(f, acc, ae);
      setW(f, cos, c64hl(0x7fffffff, -1), c64(-1));
    },
    () => {
      // z is at most (π/4)².
      const odd = table(14, (k) => factorial(2 * k + 1));
      const even = table(14, (k) => factorial(2 * k));
      polynomials(f, z, 0.69, true, { acc, c: odd }, { acc: cos, c: even });
      mulW(f, fns, base, acc, acc.hi.get, acc.lo.get, r.hi.get, r.lo.get);
      f.set(ae, i32.add(re.get, c32(1)));
      normalizeWide(f, acc, ae);
    },
  );
  const put = (at: number, w: Wide): void => {
    f.st64(base, w.hi.get, at);
    f.st64(base, w.lo.get, at + 8);
    f.st32(base, ae.get, at + 16);
  };
  put(SIN, acc);
  f.set(ae, c32(BIAS));
  normalizeWide(f, cos, ae);
  put(COS, cos);
  f.emit(i32.or(i32.and(q.get, c32(3)), neg.get));
  return f.ref;
}

// --- shared frame ------------------------------------------------------------------------------------------------------

interface Frame {
  readonly f: Fn;
  readonly base: Node;
  readonly ctl: Node;
  readonly dn: Local;
  nan(x: Node, y: Node): void;
  invalid(): void;
  inf(s: Node, flags: Node): void;
  zero(s: Node, flags: Node): void;
  /** Rounds and returns; the result is taken for inexact if `inexact`. */
  round(s: Node, e: Node, w: Wide, inexact: boolean): void;
  /** The same, but goes on; gives flags. */
  rounded(s: Node, e: Node, hi: Node, lo: Node): Node;
}

function frame(m: Module, fns: Fns): Frame {
  const f = m.fn([I32, I32, I32, I32, I32], I32);
  const base = param(f, 0);
  const ctl = f.tmp(i32.or(param(f, 1), c32(0x300)));
  const dn = f.local(I32);
  const rounded = (s: Node, e: Node, hi: Node, lo: Node): Node => call(fns.f80.round, base, ctl, s, e, hi, lo, dn.get);
  return {
    f,
    base,
    ctl,
    dn,
    nan: (x, y) => f.ret(call(fns.f80.nan, base, x, y)),
    invalid: () => {
      putIndefinite(f, base, R);
      f.ret(c32(IE));
    },
    inf: (s, flags) => {
      putSlot(f, base, R, TOP(), signExp(s, c32(E_SPECIAL)));
      f.ret(flags);
    },
    zero: (s, flags) => {
      putSlot(f, base, R, c64(0), signExp(s, c32(0)));
      f.ret(flags);
    },
    round: (s, e, w, inexact) => f.ret(rounded(s, e, w.hi.get, inexact ? i64.or(w.lo.get, c64(1)) : w.lo.get)),
    rounded,
  };
}

/** Unpacks the operand of a unary function; returns for NaNs and unsupported encodings. */
function unary(t: Frame, a: U): void {
  const { f } = t;
  const x = param(f, 2);
  const uns = f.local(I32);
  unpack80(f, x, a, t.dn, uns);
  f.if(uns.get, t.invalid);
  f.if(isNan(a), () => t.nan(x, x));
}
function binary(t: Frame, a: U, b: U): void {
  const { f } = t;
  const [x, y] = [param(f, 2), param(f, 3)] as const;
  const uns = f.local(I32);
  unpack80(f, x, a, t.dn, uns);
  unpack80(f, y, b, t.dn, uns);
  f.if(uns.get, t.invalid);
  f.if(i32.or(isNan(a), isNan(b)), () => t.nan(x, y));
}
function loadNumber(f: Fn, base: Node, at: number, w: Wide, e: Local): void {
  setW(f, w, ld.i64(base, at), ld.i64(base, at + 8));
  f.set(e, ld.i32(base, at + 16));
}

/** FSIN, FCOS, FSINCOS (sine in R, cosine in R2), FPTAN (tangent in R, 1 in R2). C2 for operands of 2^63 and more. */
function emitTrigOp(m: Module, fns: Fns, trig: FnRef, which: 'sin' | 'cos' | 'both' | 'tan'): FnRef {
  const t = frame(m, fns);
  const { f, base } = t;
  const a = newU(f);
  const x = param(f, 2);
  {
    const uns = f.local(I32);
    unpack80(f, x, a, t.dn, uns);
    // Two results: both are the same NaN.
    const two = (): void => {
      if (which === 'both' || which === 'tan') putSlot(f, base, R2, ld.i64(base, R), ld.i32(base, R + 8));
    };
    f.if(i32.or(uns.get, i32.and(isSpecial(a), i32.eqz(isNan(a)))), () => {
      putIndefinite(f, base, R);
      two();
      f.ret(c32(IE));
    });
    f.if(isNan(a), () => {
      const fl = f.tmp(call(fns.f80.nan, base, x, x));
      two();
      f.ret(fl);
    });
  }
  const one = (slot: number): void => putSlot(f, base, slot, TOP(), c32(BIAS));
  f.if(i32.ge_s(a.e.get, c32(BIAS + 63)), () => f.ret(c32(C2)));
  f.if(isZero(a), () => {
    if (which === 'cos') {
      one(R);
      f.ret(c32(0));
    }
    if (which === 'both' || which === 'tan') one(R2);
    t.zero(a.s.get, c32(0));
  });
  const q = f.tmp(call(trig, base, a.e.get, a.m.get));
  const odd = f.tmp(i32.and(q, c32(1)));
  const w = wide(f);
  const e = f.local(I32);
  const neg = i32.shr_u(q, c32(2));
  const half = (k: Node): Node => i32.and(i32.shr_u(k, c32(1)), c32(1));
  // sin: S C -S -C by quadrant, S odd in the reduced operand; cos: C -S -C S.
  const sinSign = f.tmp(i32.xor(i32.xor(a.s.get, half(q)), select(odd, c32(0), neg)));
  const cosSign = f.tmp(i32.xor(half(i32.add(q, c32(1))), select(odd, neg, c32(0))));
  const choose = (ifOdd: number, ifEven: number): void =>
    f.if(
      odd,
      () => loadNumber(f, base, ifOdd, w, e),
      () => loadNumber(f, base, ifEven, w, e),
    );
  if (which === 'sin' || which === 'both') {
    if (which === 'both') {
      choose(SIN, COS);
      f.do(t.rounded(cosSign, e.get, w.hi.get, i64.or(w.lo.get, c64(1))));
      putSlot(f, base, R2, ld.i64(base, R), ld.i32(base, R + 8));
    }
    choose(COS, SIN);
    t.round(sinSign, e.get, w, true);
  } else if (which === 'cos') {
    choose(SIN, COS);
    t.round(cosSign, e.get, w, true);
  } else {
    const d = wide(f);
    const de = f.local(I32);
    const r = wide(f);
    const re = f.local(I32);
    choose(COS, SIN);
    f.if(
      odd,
      () => loadNumber(f, base, SIN, d, de),
      () => loadNumber(f, base, COS, d, de),
    );
    one(R2);
    quotient(f, fns, base, r, re, w, e.get, d, de.get);
    // Below 2^-66 both factors are one unit short in the last place; the tangent is above its operand.
    f.if(i32.and(i32.eqz(odd), i32.lt_s(a.e.get, c32(BIAS - 66))), () => {
      setW(f, r, a.m.get, c64(1));
      f.set(re, a.e.get);
    });
    t.round(i32.xor(sinSign, cosSign), re.get, r, true);
  }
  f.unreachable();
  return f.ref;
}

// --- arc tangent -------------------------------------------------------------------------------------------------------

/** FPATAN: atan2(ST(1), ST(0)); `a` is ST(0). */
function emitAtan(m: Module, fns: Fns): FnRef {
  const t = frame(m, fns);
  const { f, base } = t;
  const a = newU(f);
  const b = newU(f);
  binary(t, a, b);
  const w = wide(f);
  const e = f.local(I32);
  /** Multiple of π: value = v · 2^(exp) with v's top bit at 2^127. */
  const constant = (numerator: bigint, denominator: bigint, flags: Node): void => {
    const v = (PI * numerator) / denominator;
    const bits = v.toString(2).length;
    const sig = v >> BigInt(bits - 128);
    f.set(t.dn, flags);
    setW(f, w, hiOf(sig), loOf(sig));
    t.round(b.s.get, c32(BIAS + bits - 301), w, true);
  };
  f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
    f.if(isSpecial(b), () => {
      f.if(isSpecial(a), () => {
        f.if(a.s.get, () => constant(3n, 4n, c32(0)));
        constant(1n, 4n, c32(0));
      });
      constant(1n, 2n, t.dn.get);
    });
    f.if(a.s.get, () => constant(1n, 1n, t.dn.get));
    t.zero(b.s.get, t.dn.get);
  });
  f.if(isZero(b), () => {
    f.if(a.s.get, () => constant(1n, 1n, t.dn.get));
    t.zero(b.s.get, t.dn.get);
  });
  f.if(isZero(a), () => constant(1n, 2n, t.dn.get));
  // t = smaller / larger
  const n = wide(f);
  const d = wide(f);
  const ne = f.local(I32);
  const de = f.local(I32);
  const swap = f.tmp(i32.or(i32.gt_s(b.e.get, a.e.get), i32.and(i32.eq(b.e.get, a.e.get), i64.gt_u(b.m.get, a.m.get))));
  f.set(n.hi, select(swap, a.m.get, b.m.get));
  f.set(ne, select(swap, a.e.get, b.e.get));
  f.set(d.hi, select(swap, b.m.get, a.m.get));
  f.set(de, select(swap, b.e.get, a.e.get));
  const u = wide(f);
  const ue = f.local(I32);
  const k = f.local(I32);
  const negative = f.local(I32);
  f.if(
    i32.and(i64.eq(n.hi.get, d.hi.get), i32.eq(ne.get, de.get)),
    () => {
      setW(f, u, TOP(), c64(0));
      f.set(ue, c32(BIAS));
    },
    () => quotient(f, fns, base, u, ue, n, ne.get, d, de.get),
  );
  // From 1/16 on: atan t = atan(k/8) + atan((t - k/8) / (1 + t·k/8)) with the nearest k.
  f.if(i32.ge_s(ue.get, c32(BIAS - 4)), () => {
    // t in Q1.127
    shiftRightJam(f, u, f.tmp(i32.sub(c32(BIAS), ue.get)));
    f.set(k, i32.wrap(i64.shr_u(i64.add(u.hi.get, c64hl(0x08000000, 0)), c64(60))));
    const kk = f.tmp(i64.extend_u(k.get));
    // 1 + t·k/8 in Q2.126: k·t first, in Q5.123.
    const low = f.tmp(i64.or(i64.shl(u.hi.get, c64(60)), i64.shr_u(u.lo.get, c64(4))));
    setW(f, d, i64.mul(i64.shr_u(u.hi.get, c64(4)), kk), c64(0));
    const p = wide(f);
    mul128(f, low, kk, p);
    addW(f, d, p.hi.get, p.lo.get);
    // Q5.123 · 1/8 = Q2.126
    addW(f, d, c64hl(0x40000000, 0), c64(0));
    f.set(de, c32(BIAS + 1));
    normalizeWide(f, d, de);
    // t - k/8 in Q1.127
    setW(f, n, u.hi.get, u.lo.get);
    addW(f, n, i64.sub(c64(0), i64.shl(kk, c64(60))), c64(0));
    f.if(i64.lt_s(n.hi.get, c64(0)), () => {
      f.set(negative, c32(1));
      subFrom(f, n, c64(0), c64(0));
    });
    f.if(
      i64.eqz(i64.or(n.hi.get, n.lo.get)),
      () => setW(f, u, c64(0), c64(0)),
      () => {
        f.set(ne, c32(BIAS));
        normalizeWide(f, n, ne);
        quotient(f, fns, base, u, ue, n, ne.get, d, de.get);
      },
    );
  });
  // atan u = u·(1 - z/3 + z²/5 …), |u| ≤ 1/16
  const z = wide(f);
  const acc = wide(f);
  f.if(i64.ne(u.hi.get, c64(0)), () => {
    square(f, fns, base, z, u, ue.get);
    f.if(
      i64.eqz(i64.or(z.hi.get, i64.shr_u(z.lo.get, c64(1)))),
      () => {
        setW(f, u, i64.sub(u.hi.get, i64.extend_u(i64.eqz(u.lo.get))), i64.sub(u.lo.get, c64(1)));
        normalizeWide(f, u, ue);
      },
      () => {
        polynomials(f, z, 8, true, { acc, c: table(14, (i) => BigInt(2 * i + 1)) });
        mulW(f, fns, base, u, acc.hi.get, acc.lo.get, u.hi.get, u.lo.get);
        f.set(ue, i32.add(ue.get, c32(1)));
        normalizeWide(f, u, ue);
      },
    );
  });
  // The plain case: no table, no reflection.
  f.if(i32.eqz(i32.or(k.get, i32.or(swap, a.s.get))), () => t.round(b.s.get, ue.get, u, true));
  // Everything else in Q2.126.
  f.if(i64.ne(u.hi.get, c64(0)), () => shiftRightJam(f, u, f.tmp(i32.sub(c32(BIAS + 1), ue.get))));
  f.if(negative.get, () => subFrom(f, u, c64(0), c64(0)));
  for (let i = 1n; i <= 8n; i++) {
    const v = fixed(atanOf(i), 126n);
    f.if(i32.eq(k.get, c32(Number(i))), () => addW(f, u, hiOf(v), loOf(v)));
  }
  const halfPi = fixed(PI / 2n, 126n);
  const pi = fixed(PI, 126n);
  f.if(swap, () => subFrom(f, u, hiOf(halfPi), loOf(halfPi)));
  f.if(a.s.get, () => subFrom(f, u, hiOf(pi), loOf(pi)));
  f.set(e, c32(BIAS + 1));
  normalizeWide(f, u, e);
  t.round(b.s.get, e.get, u, true);
  f.unreachable();
  return f.ref;
}

// --- exponential and logarithm -----------------------------------------------------------------------------------------

/** F2XM1: 2^x - 1 for |x| ≤ 1; other operands come back as they are, with PE, as on AMD processors. */
function emitExp(m: Module, fns: Fns): FnRef {
  const t = frame(m, fns);
  const { f, base } = t;
  const a = newU(f);
  const x = param(f, 2);
  unary(t, a);
  f.if(isSpecial(a), () => {
    // 2^-∞ - 1 = -1
    f.if(a.s.get, () => {
      putSlot(f, base, R, TOP(), signExp(c32(1), c32(BIAS)));
      f.ret(c32(0));
    });
    t.inf(c32(0), c32(0));
  });
  f.if(isZero(a), () => t.zero(a.s.get, c32(0)));
  f.if(i32.ge_s(a.e.get, c32(BIAS)), () => {
    f.if(i32.and(i32.eq(a.e.get, c32(BIAS)), i64.eq(a.m.get, TOP())), () => {
      putSlot(f, base, R, TOP(), select(a.s.get, c32(0x8000 | (BIAS - 1)), c32(BIAS)));
      f.ret(c32(PE));
    });
    putSlot(f, base, R, ld.i64(x), ld.i32_16u(x, 8));
    f.ret(c32(PE));
  });
  // y = x·ln 2; the result is y·(1 ± y/2! + y²/3! …).
  const ln2 = fixed(LN2, 128n);
  const y = wide(f);
  const ye = f.local(I32);
  const z = wide(f);
  const acc = wide(f);
  mulW(f, fns, base, y, hiOf(ln2), loOf(ln2), a.m.get, c64(0));
  f.set(ye, a.e.get);
  normalizeWide(f, y, ye);
  setW(f, z, y.hi.get, y.lo.get);
  toFixed(f, z, ye.get);
  const c = table(26, (k) => factorial(k + 1));
  f.if(
    a.s.get,
    () => polynomials(f, z, 0.52, true, { acc, c }),
    () => polynomials(f, z, 0.52, false, { acc, c }),
  );
  mulW(f, fns, base, acc, acc.hi.get, acc.lo.get, y.hi.get, y.lo.get);
  f.set(ye, i32.add(ye.get, c32(1)));
  normalizeWide(f, acc, ye);
  t.round(a.s.get, ye.get, acc, true);
  f.unreachable();
  return f.ref;
}

/** (base, s hi, s lo, exponent of s) : (2 / ln 2)·atanh(s), normalized, to LOG; |s| ≤ 0.18. */
function emitAtanh(m: Module, fns: Fns): FnRef {
  const f = m.fn([I32, I64, I64, I32], 0);
  const base = param(f, 0);
  const s: Wide = { hi: f.params[1] as Local, lo: f.params[2] as Local };
  const e = f.params[3] as Local;
  const z = wide(f);
  const acc = wide(f);
  square(f, fns, base, z, s, e.get);
  polynomials(f, z, 4.9, false, { acc, c: table(24, (k) => BigInt(2 * k + 1)) });
  mulW(f, fns, base, acc, acc.hi.get, acc.lo.get, s.hi.get, s.lo.get);
  f.set(e, i32.add(e.get, c32(1)));
  normalizeWide(f, acc, e);
  // 2 / ln 2 = 2.885 in Q2.126
  const k = fixed((2n * ONE * ONE) / LN2, 126n);
  mulW(f, fns, base, acc, acc.hi.get, acc.lo.get, hiOf(k), loOf(k));
  f.set(e, i32.add(e.get, c32(2)));
  normalizeWide(f, acc, e);
  f.st64(base, acc.hi.get, LOG);
  f.st64(base, acc.lo.get, LOG + 8);
  f.st32(base, e.get, LOG + 16);
  return f.ref;
}

/** (base, m hi, m lo, e): log2 of a positive number to LOG with its sign; gives 0 when the logarithm is exactly 0. */
function emitLog2(m: Module, fns: Fns, atanh: FnRef): FnRef {
  const f = m.fn([I32, I64, I64, I32], I32);
  const base = param(f, 0);
  const x: Wide = { hi: f.params[1] as Local, lo: f.params[2] as Local };
  const e = f.params[3] as Local;
  const n = f.local(I32);
  const sign = f.local(I32);
  const num = wide(f);
  const den = wide(f);
  const ne = f.local(I32);
  const de = f.local(I32);
  const w = wide(f);
  const we = f.local(I32);
  f.set(n, i32.sub(e.get, c32(BIAS)));
  // f = x / 2^n in [√½, √2): halve significands from √2 on.
  const root = sqrt(1n << 255n);
  const r = wide(f);
  setW(f, r, hiOf(root), loOf(root));
  // Significands in Q2.126 so that sums fit.
  const half = (): void => {
    f.set(x.lo, i64.or(i64.shr_u(x.lo.get, c64(1)), i64.shl(x.hi.get, c64(63))));
    f.set(x.hi, i64.shr_u(x.hi.get, c64(1)));
  };
  const big = f.tmp(geW(x, r));
  half();
  f.if(
    big,
    () => {
      f.set(n, i32.add(n.get, c32(1)));
      // (1 - f) with f = x/2: 2 - x over 2 + x.
      setW(f, num, x.hi.get, x.lo.get);
      subFrom(f, num, TOP(), c64(0));
      setW(f, den, x.hi.get, x.lo.get);
      addW(f, den, TOP(), c64(0));
      f.set(sign, c32(1));
    },
    () => {
      setW(f, num, x.hi.get, x.lo.get);
      addW(f, num, c64hl(0xc0000000, 0), c64(0));
      setW(f, den, x.hi.get, x.lo.get);
      addW(f, den, c64hl(0x40000000, 0), c64(0));
    },
  );
  f.if(
    i64.eqz(i64.or(num.hi.get, num.lo.get)),
    () => {
      // A power of two: the exponent itself.
      f.if(i32.eqz(n.get), () => f.ret(c32(0)));
      f.set(sign, i32.shr_u(n.get, c32(31)));
      setW(f, w, i64.extend_u(select(sign.get, i32.sub(c32(0), n.get), n.get)), c64(0));
      f.set(we, c32(BIAS + 63));
      normalizeWide(f, w, we);
    },
    () => {
      f.set(ne, c32(BIAS));
      f.set(de, c32(BIAS));
      normalizeWide(f, num, ne);
      normalizeWide(f, den, de);
      quotient(f, fns, base, w, we, num, ne.get, den, de.get);
      f.do(call(atanh, base, w.hi.get, w.lo.get, we.get));
      loadNumber(f, base, LOG, w, we);
      f.if(n.get, () => {
        // n + log2 f in Q16.112, |log2 f| ≤ ½.
        shiftRightJam(f, w, f.tmp(i32.sub(c32(BIAS + 15), we.get)));
        f.if(sign.get, () => subFrom(f, w, c64(0), c64(0)));
        addW(f, w, i64.shl(i64.extend_s(n.get), c64(48)), c64(0));
        f.set(sign, i32.wrap(i64.shr_u(w.hi.get, c64(63))));
        f.if(sign.get, () => subFrom(f, w, c64(0), c64(0)));
        f.set(we, c32(BIAS + 15));
        normalizeWide(f, w, we);
      });
    },
  );
  f.st64(base, w.hi.get, LOG);
  f.st64(base, w.lo.get, LOG + 8);
  f.st32(base, we.get, LOG + 16);
  f.st32(base, sign.get, LOG + 20);
  f.emit(c32(1));
  return f.ref;
}

/** FYL2X: ST(1)·log2(ST(0)). */
function emitYl2x(m: Module, fns: Fns, log2: FnRef): FnRef {
  const t = frame(m, fns);
  const { f, base } = t;
  const a = newU(f);
  const b = newU(f);
  binary(t, a, b);
  f.if(i32.and(a.s.get, i32.eqz(isZero(a))), t.invalid);
  const isOne = i32.and(i32.eq(a.e.get, c32(BIAS)), i64.eq(a.m.get, TOP()));
  const below = f.tmp(i32.lt_s(a.e.get, c32(BIAS)));
  f.if(isSpecial(a), () => {
    f.if(isZero(b), t.invalid);
    t.inf(b.s.get, t.dn.get);
  });
  f.if(isSpecial(b), () => {
    f.if(isZero(a), () => t.inf(i32.xor(b.s.get, c32(1)), c32(0)));
    f.if(isOne, t.invalid);
    t.inf(i32.xor(b.s.get, below), t.dn.get);
  });
  f.if(isZero(a), () => {
    f.if(isZero(b), t.invalid);
    t.inf(i32.xor(b.s.get, c32(1)), c32(ZE));
  });
  f.if(isZero(b), () => t.zero(i32.xor(b.s.get, below), t.dn.get));
  f.if(i32.eqz(call(log2, base, a.m.get, c64(0), a.e.get)), () => t.zero(b.s.get, t.dn.get));
  product(t, fns, b, i64.ne(i64.shl(a.m.get, c64(1)), c64(0)));
  return f.ref;
}
/** Returns b · LOG; inexact if `inexact`, else as the product is. */
function product(t: Frame, fns: Fns, b: U, inexact: Node): void {
  const { f, base } = t;
  const w = wide(f);
  const e = f.local(I32);
  loadNumber(f, base, LOG, w, e);
  mulW(f, fns, base, w, w.hi.get, w.lo.get, b.m.get, c64(0));
  f.set(e, i32.add(i32.sub(i32.add(e.get, b.e.get), c32(BIAS)), c32(1)));
  normalizeWide(f, w, e);
  f.set(w.lo, i64.or(w.lo.get, i64.extend_u(inexact)));
  t.round(i32.xor(b.s.get, ld.i32(base, LOG + 20)), e.get, w, false);
  f.unreachable();
}

/** FYL2XP1: ST(1)·log2(1 + ST(0)). Operands outside the documented range work too, down to -1. */
function emitYl2xp1(m: Module, fns: Fns, atanh: FnRef, log2: FnRef): FnRef {
  const t = frame(m, fns);
  const { f, base } = t;
  const a = newU(f);
  const b = newU(f);
  binary(t, a, b);
  const sx = (): Node => i32.xor(a.s.get, b.s.get);
  f.if(i32.and(isSpecial(a), a.s.get), t.invalid);
  f.if(isSpecial(a), () => {
    f.if(isZero(b), t.invalid);
    t.inf(b.s.get, t.dn.get);
  });
  f.if(isSpecial(b), () => {
    f.if(isZero(a), t.invalid);
    t.inf(sx(), t.dn.get);
  });
  f.if(i32.or(isZero(a), isZero(b)), () => t.zero(sx(), t.dn.get));
  f.if(i32.and(a.s.get, i32.ge_s(a.e.get, c32(BIAS))), () => {
    // -1 and below: undefined; the operand comes back.
    putSlot(f, base, R, ld.i64(param(f, 2)), ld.i32_16u(param(f, 2), 8));
    f.ret(i32.or(t.dn.get, c32(PE)));
  });
  const n = wide(f);
  const d = wide(f);
  const ne = f.local(I32);
  const de = f.local(I32);
  f.if(
    i32.lt_s(a.e.get, c32(BIAS - 2)),
    () => {
      // |x| below 1/4: s = x / (2 + x).
      setW(f, n, a.m.get, c64(0));
      f.set(ne, a.e.get);
      setW(f, d, a.m.get, c64(0));
      // x in Q2.126
      shiftRightJam(f, d, f.tmp(i32.sub(c32(BIAS + 1), a.e.get)));
      f.if(a.s.get, () => subFrom(f, d, c64(0), c64(0)));
      addW(f, d, TOP(), c64(0));
      f.set(de, c32(BIAS + 1));
      normalizeWide(f, d, de);
      const s = wide(f);
      const se = f.local(I32);
      quotient(f, fns, base, s, se, n, ne.get, d, de.get);
      f.do(call(atanh, base, s.hi.get, s.lo.get, se.get));
      f.st32(base, a.s.get, LOG + 20);
    },
    () => {
      // 1 + x to 128 bits.
      f.if(
        i32.lt_s(a.e.get, c32(BIAS + 62)),
        () => {
          setW(f, n, a.m.get, c64(0));
          const up = f.tmp(select(i32.gt_s(a.e.get, c32(BIAS)), a.e.get, c32(BIAS)));
          f.set(ne, i32.add(up, c32(1)));
          shiftRightJam(f, n, f.tmp(i32.sub(ne.get, a.e.get)));
          f.if(a.s.get, () => subFrom(f, n, c64(0), c64(0)));
          setW(f, d, TOP(), c64(0));
          shiftRightJam(f, d, f.tmp(i32.sub(ne.get, c32(BIAS))));
          addW(f, n, d.hi.get, d.lo.get);
          normalizeWide(f, n, ne);
        },
        () => {
          setW(f, n, a.m.get, c64(0));
          f.set(ne, a.e.get);
        },
      );
      f.do(call(log2, base, n.hi.get, n.lo.get, ne.get));
    },
  );
  product(t, fns, b, c32(1));
  return f.ref;
}

/** Emits the transcendental functions; signature (base, ctl, a, b, dn) → flags like those of f80.ts. */
export function emitTranscendental(m: Module, f80: F80Fns): Record<string, FnRef> {
  const fns: Fns = { mul: emitMul(m), div: emitDiv(m), f80 };
  const trig = emitTrig(m, fns);
  const atanh = emitAtanh(m, fns);
  const log2 = emitLog2(m, fns, atanh);
  return {
    sin80: emitTrigOp(m, fns, trig, 'sin'),
    cos80: emitTrigOp(m, fns, trig, 'cos'),
    sincos80: emitTrigOp(m, fns, trig, 'both'),
    tan80: emitTrigOp(m, fns, trig, 'tan'),
    atan80: emitAtan(m, fns),
    f2xm1: emitExp(m, fns),
    yl2x: emitYl2x(m, fns, log2),
    yl2xp1: emitYl2xp1(m, fns, atanh, log2),
  };
}
