// IEEE 754 arithmetic in integers, for SSE and, with f80.ts, for the x87. Intel SDM volume 1 chapter 4 (formats, NaNs),
// 11.5 (SSE exceptions), 8.5 (x87 exceptions).
//
// An operand is unpacked to a sign, an exponent with the bias of the 80-bit format (any integer; E_SPECIAL for
// infinities and NaNs) and a 64-bit significand with the leading 1 on top; 0 for zeros. Results are computed to 128 bits
// (the last bit stands for all below it), then rounded once.
//
// Control word of all functions (`ctl`), in the x87 layout: bits 0–5 masks, 6 DAZ, 8–9 precision, 10–11 rounding, 15 FTZ.
import * as S from '../state.ts';
import {
  c32,
  c64,
  c64hl,
  call,
  type Fn,
  type FnRef,
  f32,
  f64,
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

/** Exception flags. */
export const IE = 1;
export const DE = 2;
export const ZE = 4;
export const OE = 8;
export const UE = 16;
export const PE = 32;
/** Stack fault of the x87. */
export const SF = 64;
/** C1 of the x87: the last rounding was upwards in magnitude. */
export const C1 = 0x200;
/** State offset of the flags that functions on singles and doubles add to. */
export const FL: number = S.SCRATCH + 32;
/** Exponent of unpacked infinities and NaNs. */
export const E_SPECIAL = 0x7fff;
/** Exponent bias of the 80-bit format and of unpacked operands. */
export const BIAS = 16383;

/** Rounding modes, as in control words. */
export const RC_NEAREST = 0;
export const RC_DOWN = 1;
export const RC_UP = 2;
export const RC_ZERO = 3;

/** An unpacked operand. */
export interface U {
  readonly s: Local;
  readonly e: Local;
  readonly m: Local;
}
/** A number of 128 bits. */
export interface Wide {
  readonly hi: Local;
  readonly lo: Local;
}

/** Bit 63. */
export const TOP = (): Node => c64hl(0x80000000, 0);

/** Parameter `n` of a function. */
export const param = (f: Fn, n: number): Node => (f.params[n] as Local).get;

/** New unpacked operand. */
export function newU(f: Fn): U {
  return { s: f.local(I32), e: f.local(I32), m: f.local(I64) };
}
/** Whether an unpacked operand is a NaN. */
export function isNan(u: U): Node {
  return i32.and(i32.eq(u.e.get, c32(E_SPECIAL)), i64.ne(i64.shl(u.m.get, c64(1)), c64(0)));
}
/** Rounding mode of a control word. */
export function rcOf(ctl: Node): Node {
  return i32.and(i32.shr_u(ctl, c32(10)), c32(3));
}

/**
 * Whether to round up in magnitude: `keep` is the result so far, `rem` what follows it, as a fraction of 2^64.
 */
export function roundUp(f: Fn, ctl: Node, s: Node, keep: Node, rem: Node): Node {
  const rc = f.tmp(rcOf(ctl));
  const near = i32.or(i64.gt_u(rem, TOP()), i32.and(i64.eq(rem, TOP()), i32.wrap(i64.and(keep, c64(1)))));
  // Down rounds away from zero for negative numbers, up for positive ones.
  const directed = i32.and(i64.ne(rem, c64(0)), i32.eq(rc, i32.sub(c32(2), s)));
  return f.tmp(select(rc, directed, near));
}

/** A format narrower than 80 bits. */
export interface Fmt {
  readonly name: 'f16' | 'f32' | 'f64';
  readonly ty: typeof I32 | typeof I64;
  readonly bits: 16 | 32 | 64;
  /** Significand bits with the leading one. */
  readonly p: 11 | 24 | 53;
  readonly bias: number;
  readonly maxExp: number;
}
/** Half, single and double precision. */
export const F16F: Fmt = { name: 'f16', ty: I32, bits: 16, p: 11, bias: 15, maxExp: 0x1f };
export const F32F: Fmt = { name: 'f32', ty: I32, bits: 32, p: 24, bias: 127, maxExp: 0xff };
export const F64F: Fmt = { name: 'f64', ty: I64, bits: 64, p: 53, bias: 1023, maxExp: 0x7ff };

/** Bits of a format as i64. */
function wide(fmt: Fmt, v: Node): Node {
  return fmt.ty === I64 ? v : i64.extend_u(v);
}
function narrow(fmt: Fmt, v: Node): Node {
  return fmt.ty === I64 ? v : i32.wrap(v);
}
/** Constants of a format by what they are, as nodes of its type. */
export function special(fmt: Fmt, kind: 'inf' | 'zero' | 'nan' | 'max', s: Node): Node {
  const sign = i64.shl(i64.extend_u(s), c64(fmt.bits - 1));
  const inf = fmt.bits === 64 ? c64hl(0x7ff00000, 0) : c64(fmt.bits === 32 ? 0x7f800000 : 0x7c00);
  if (kind === 'inf') return narrow(fmt, i64.or(sign, inf));
  if (kind === 'max') return narrow(fmt, i64.or(sign, i64.sub(inf, c64(1))));
  if (kind === 'zero') return narrow(fmt, sign);
  return narrow(fmt, fmt.bits === 64 ? c64hl(0xfff80000, 0) : c64(fmt.bits === 32 ? 0xffc00000 : 0xfe00));
}

/** Unpacks bits of a format (a node used several times). Denormals set DE in `dn`, or become zero with DAZ. */
export function unpack(f: Fn, fmt: Fmt, bits: Node, u: U, dn: Local | null, ctl: Node): void {
  const x = f.tmp(wide(fmt, bits));
  const frac = fmt.p - 1;
  f.set(u.s, i32.wrap(i64.shr_u(x, c64(fmt.bits - 1))));
  f.set(u.e, i32.and(i32.wrap(i64.shr_u(x, c64(frac))), c32(fmt.maxExp)));
  f.set(u.m, i64.and(i64.shl(x, c64(63 - frac)), c64hl(0x7fffffff, -1)));
  f.if(
    u.e.get,
    () => {
      f.set(u.m, i64.or(u.m.get, TOP()));
      f.set(u.e, select(i32.eq(u.e.get, c32(fmt.maxExp)), c32(E_SPECIAL), i32.add(u.e.get, c32(BIAS - fmt.bias))));
    },
    () => {
      f.if(i64.ne(u.m.get, c64(0)), () => {
        f.if(
          i32.and(ctl, c32(0x40)),
          () => f.set(u.m, c64(0)),
          () => {
            if (dn !== null) f.set(dn, c32(DE));
            normalize(f, u, BIAS - fmt.bias + 1);
          },
        );
      });
    },
  );
}
/** Shifts a non-zero significand up to bit 63; `e` is the exponent of a value whose bit 63 is the integer bit. */
export function normalize(f: Fn, u: U, e: number): void {
  const z = f.tmp(i64.clz(u.m.get));
  f.set(u.m, i64.shl(u.m.get, z));
  f.set(u.e, i32.sub(c32(e), i32.wrap(z)));
}

/** Adds to the flags in memory. */
export function flag(f: Fn, base: Node, v: Node): void {
  f.st32(base, i32.or(ld.i32(base, FL), v), FL);
}

/** Shifts hi:lo right by `n` ≥ 0 (i32); bits that fall out are kept in the last one. */
export function shiftRightJam(f: Fn, w: Wide, n: Node): void {
  const k = f.tmp(i64.extend_u(n));
  f.if(n, () => {
    f.if(
      i64.lt_u(k, c64(64)),
      () => {
        const out = f.tmp(i64.shl(w.lo.get, i64.sub(c64(64), k)));
        f.set(w.lo, i64.or(i64.shr_u(w.lo.get, k), i64.shl(w.hi.get, i64.sub(c64(64), k))));
        f.set(w.lo, i64.or(w.lo.get, i64.extend_u(i64.ne(out, c64(0)))));
        f.set(w.hi, i64.shr_u(w.hi.get, k));
      },
      () => {
        f.if(
          i64.lt_u(k, c64(128)),
          () => {
            // k & 63 may be 0: then nothing of hi falls out.
            const out = f.tmp(select(i64.eq(k, c64(64)), c64(0), i64.shl(w.hi.get, i64.sub(c64(128), k))));
            f.set(
              w.lo,
              i64.or(i64.shr_u(w.hi.get, i64.sub(k, c64(64))), i64.extend_u(i64.ne(i64.or(out, w.lo.get), c64(0)))),
            );
          },
          () => f.set(w.lo, i64.extend_u(i64.ne(i64.or(w.hi.get, w.lo.get), c64(0)))),
        );
        f.set(w.hi, c64(0));
      },
    );
  });
}

/** Normalizes hi:lo (not zero) and adjusts the exponent. */
export function normalizeWide(f: Fn, w: Wide, e: Local): void {
  f.if(i64.eqz(w.hi.get), () => {
    f.set(w.hi, w.lo.get);
    f.set(w.lo, c64(0));
    f.set(e, i32.sub(e.get, c32(64)));
  });
  const z = f.tmp(i64.clz(w.hi.get));
  f.if(i64.ne(z, c64(0)), () => {
    f.set(w.hi, i64.or(i64.shl(w.hi.get, z), i64.shr_u(w.lo.get, i64.sub(c64(64), z))));
    f.set(w.lo, i64.shl(w.lo.get, z));
    f.set(e, i32.sub(e.get, i32.wrap(z)));
  });
}

/** Full product of two 64-bit numbers. */
export function mul128(f: Fn, a: Node, b: Node, out: Wide): void {
  const mask = c64hl(0, -1);
  const al = f.tmp(i64.and(a, mask));
  const ah = f.tmp(i64.shr_u(a, c64(32)));
  const bl = f.tmp(i64.and(b, mask));
  const bh = f.tmp(i64.shr_u(b, c64(32)));
  const mid = f.tmp(i64.add(i64.mul(ah, bl), i64.shr_u(i64.mul(al, bl), c64(32))));
  const mid2 = f.tmp(i64.add(i64.mul(al, bh), i64.and(mid, mask)));
  const lo = f.tmp(i64.mul(a, b));
  f.set(out.hi, i64.add(i64.add(i64.mul(ah, bh), i64.shr_u(mid, c64(32))), i64.shr_u(mid2, c64(32))));
  f.set(out.lo, lo);
}

/** Puts the one of larger magnitude first. */
export function largerFirst(f: Fn, a: U, b: U): void {
  const t32 = f.temp(I32);
  const t64 = f.temp(I64);
  const less = i32.or(i32.lt_s(a.e.get, b.e.get), i32.and(i32.eq(a.e.get, b.e.get), i64.lt_u(a.m.get, b.m.get)));
  f.if(less, () => {
    for (const [x, y, t] of [
      [a.s, b.s, t32],
      [a.e, b.e, t32],
      [a.m, b.m, t64],
    ] as const) {
      f.set(t, x.get);
      f.set(x, y.get);
      f.set(y, t.get);
    }
  });
}

/** Adds to the upper half of a significand; a carry comes back as its top bit, with the exponent one up. */
export function addUpper(f: Fn, w: Wide, m: Node, e: Local): void {
  f.set(w.hi, i64.add(w.hi.get, m));
  f.if(i64.lt_u(w.hi.get, m), () => {
    f.set(w.lo, i64.or(i64.or(i64.shr_u(w.lo.get, c64(1)), i64.and(w.lo.get, c64(1))), i64.shl(w.hi.get, c64(63))));
    f.set(w.hi, i64.or(i64.shr_u(w.hi.get, c64(1)), TOP()));
    f.set(e, i32.add(e.get, c32(1)));
  });
}

/** Sum of two non-zero numbers; sets `s`, `e`, `w` normalized; w is 0 for exact cancellation. Changes a and b. */
export function coreAdd(f: Fn, a: U, b: U, s: Local, e: Local, w: Wide): void {
  largerFirst(f, a, b);
  f.set(s, a.s.get);
  f.set(e, a.e.get);
  f.set(w.hi, b.m.get);
  f.set(w.lo, c64(0));
  shiftRightJam(f, w, f.tmp(i32.sub(a.e.get, b.e.get)));
  f.if(
    i32.eq(a.s.get, b.s.get),
    () => addUpper(f, w, a.m.get, e),
    () => {
      f.set(w.hi, i64.sub(i64.sub(a.m.get, w.hi.get), i64.extend_u(i64.ne(w.lo.get, c64(0)))));
      f.set(w.lo, i64.sub(c64(0), w.lo.get));
      f.if(i64.ne(i64.or(w.hi.get, w.lo.get), c64(0)), () => normalizeWide(f, w, e));
    },
  );
}

/** Product of two non-zero numbers. */
export function coreMul(f: Fn, a: U, b: U, e: Local, w: Wide): void {
  mul128(f, a.m.get, b.m.get, w);
  f.set(e, i32.sub(i32.add(a.e.get, b.e.get), c32(BIAS)));
  f.if(
    i64.lt_s(w.hi.get, c64(0)),
    () => f.set(e, i32.add(e.get, c32(1))),
    () => {
      f.set(w.hi, i64.or(i64.shl(w.hi.get, c64(1)), i64.shr_u(w.lo.get, c64(63))));
      f.set(w.lo, i64.shl(w.lo.get, c64(1)));
    },
  );
}

/** Quotient of two non-zero numbers. */
export function coreDiv(f: Fn, div128: FnRef, a: U, b: U, e: Local, w: Wide): void {
  const n = { hi: f.local(I64), lo: f.local(I64) };
  f.set(e, i32.add(i32.sub(a.e.get, b.e.get), c32(BIAS)));
  f.set(n.hi, a.m.get);
  f.set(n.lo, c64(0));
  f.if(
    i64.ge_u(a.m.get, b.m.get),
    () => {
      f.set(n.lo, i64.shl(n.hi.get, c64(63)));
      f.set(n.hi, i64.shr_u(n.hi.get, c64(1)));
    },
    () => f.set(e, i32.sub(e.get, c32(1))),
  );
  f.set(w.hi, call(div128, n.hi.get, n.lo.get, b.m.get));
  const r = f.tmp(i64.sub(n.lo.get, i64.mul(w.hi.get, b.m.get)));
  // What follows the 64 bits is never exactly one half: only below, above or nothing matter.
  f.set(
    w.lo,
    select(i64.eqz(r), c64(0), select(i64.gt_u(r, i64.sub(b.m.get, r)), c64hl(0xc0000000, 0), c64hl(0x40000000, 0))),
  );
}

/** Square root of a positive number. */
export function coreSqrt(f: Fn, a: U, e: Local, w: Wide): void {
  const R = { hi: f.local(I64), lo: f.local(I64) };
  const t = { hi: f.local(I64), lo: f.local(I64) };
  const x = f.tmp(i32.sub(a.e.get, c32(BIAS)));
  // The radicand gets an even exponent and 128 bits.
  f.set(R.hi, a.m.get);
  f.set(R.lo, c64(0));
  f.if(i32.eqz(i32.and(x, c32(1))), () => {
    f.set(R.lo, i64.shl(R.hi.get, c64(63)));
    f.set(R.hi, i64.shr_u(R.hi.get, c64(1)));
  });
  f.set(e, i32.add(i32.shr_s(x, c32(1)), c32(BIAS)));
  // Upper 32 bits of the root from the double square root, put right by one if need be.
  const q = f.local(I64);
  const r = f.local(I64);
  f.set(q, i64.trunc_sat_f64_u(f64.sqrt(f64.convert_i64_u(R.hi.get))));
  f.if(i64.gt_u(q.get, c64(0xffffffff)), () => f.set(q, c64(0xffffffff)));
  f.if(i64.gt_u(i64.mul(q.get, q.get), R.hi.get), () => f.set(q, i64.sub(q.get, c64(1))));
  f.set(r, i64.sub(R.hi.get, i64.mul(q.get, q.get)));
  f.if(i64.gt_u(r.get, i64.shl(q.get, c64(1))), () => {
    f.set(r, i64.sub(r.get, i64.add(i64.shl(q.get, c64(1)), c64(1))));
    f.set(q, i64.add(q.get, c64(1)));
  });
  // Lower 32 bits by division; the estimate is at most a little too large.
  f.set(r, i64.div_u(i64.or(i64.shl(r.get, c64(31)), i64.shr_u(R.lo.get, c64(33))), q.get));
  f.if(i64.gt_u(r.get, c64(0xffffffff)), () => f.set(r, c64(0xffffffff)));
  f.set(q, i64.or(i64.shl(q.get, c64(32)), r.get));
  mul128(f, q.get, q.get, t);
  // t = R - q²
  f.set(t.hi, i64.sub(i64.sub(R.hi.get, t.hi.get), i64.extend_u(i64.lt_u(R.lo.get, t.lo.get))));
  f.set(t.lo, i64.sub(R.lo.get, t.lo.get));
  f.block((done) => {
    f.loop((again) => {
      f.brIf(done, i64.ge_s(t.hi.get, c64(0)));
      f.set(q, i64.sub(q.get, c64(1)));
      // t += 2q + 1
      const add = f.tmp(i64.or(i64.shl(q.get, c64(1)), c64(1)));
      f.set(t.lo, i64.add(t.lo.get, add));
      f.set(t.hi, i64.add(i64.add(t.hi.get, i64.shr_u(q.get, c64(63))), i64.extend_u(i64.lt_u(t.lo.get, add))));
      f.br(again);
    });
  });
  f.set(w.hi, q.get);
  // (q + ½)² = q² + q + ¼: above one half exactly when the remainder exceeds q.
  f.set(
    w.lo,
    select(
      i64.eqz(i64.or(t.hi.get, t.lo.get)),
      c64(0),
      select(i32.or(i64.ne(t.hi.get, c64(0)), i64.gt_u(t.lo.get, q.get)), c64hl(0xc0000000, 0), c64hl(0x40000000, 0)),
    ),
  );
}

/** Emits (hi, lo, d) → quotient of hi:lo / d, for d with bit 63 set and above hi. */
export function emitDiv128(m: Module): FnRef {
  const f = m.fn([I64, I64, I64], I64);
  const [hi, lo, d] = [param(f, 0), param(f, 1), param(f, 2)] as const;
  const d1 = f.tmp(i64.shr_u(d, c64(32)));
  const d0 = f.tmp(i64.and(d, c64hl(0, -1)));
  const q = f.local(I64);
  const r = f.local(I64);
  const over = (): Node => i64.gt_u(i64.mul(q.get, d0), r.get);
  const digit = (num: Node, next: Node): void => {
    f.set(q, i64.div_u(num, d1));
    f.unlikely(i64.gt_u(q.get, c64(0xffffffff)), () => f.set(q, c64(0xffffffff)));
    f.set(r, i64.sub(num, i64.mul(q.get, d1)));
    f.likely(i64.lt_u(r.get, c64(0x100000000)), () => {
      f.set(r, i64.or(i64.shl(r.get, c64(32)), next));
      // One digit too many, in one case of three or so, and nobody can tell in which: no branch. Twice is rare.
      const one = f.tmp(over());
      f.set(q, i64.sub(q.get, i64.extend_u(one)));
      const sum = f.tmp(i64.add(r.get, i64.shl(d1, c64(32))));
      const twice = i64.gt_u(i64.mul(q.get, d0), sum);
      f.unlikely(i32.and(one, i32.and(i64.ge_u(sum, r.get), twice)), () => f.set(q, i64.sub(q.get, c64(1))));
    });
  };
  const top = f.tmp(i64.shr_u(lo, c64(32)));
  const low = f.tmp(i64.and(lo, c64hl(0, -1)));
  digit(hi, top);
  const q1 = f.tmp(q.get);
  const rest = f.tmp(i64.sub(i64.or(i64.shl(hi, c64(32)), top), i64.mul(q1, d)));
  digit(rest, low);
  f.emit(i64.or(i64.shl(q1, c64(32)), q.get));
  return f.ref;
}

/**
 * Emits rounding to a format: (base, ctl, s, e, m) → bits. `m` has bit 63 set; its last bit is sticky. Flags go to FL.
 */
function emitRoundPack(m: Module, fmt: Fmt): FnRef {
  const f = m.fn([I32, I32, I32, I32, I64], fmt.ty);
  const [base, ctl, s, e, sig] = [0, 1, 2, 3, 4].map((n) => param(f, n)) as [Node, Node, Node, Node, Node];
  const drop = 64 - fmt.p;
  const keep = f.local(I64);
  const rem = f.local(I64);
  const E = f.local(I32);
  const E0 = f.tmp(i32.sub(e, c32(BIAS - fmt.bias)));
  const put = (v: Node): void => f.ret(narrow(fmt, v));
  const sign = f.tmp(i64.shl(i64.extend_u(s), c64(fmt.bits - 1)));
  f.set(E, E0);
  f.set(keep, i64.shr_u(sig, c64(drop)));
  f.set(rem, i64.shl(sig, c64(fmt.p)));
  const up = f.tmp(roundUp(f, ctl, s, keep.get, rem.get));
  f.set(keep, i64.add(keep.get, i64.extend_u(up)));
  f.if(i64.ne(i64.shr_u(keep.get, c64(fmt.p)), c64(0)), () => {
    f.set(keep, i64.shr_u(keep.get, c64(1)));
    f.set(E, i32.add(E.get, c32(1)));
  });
  const inexact = (): Node => i32.shl(i64.ne(rem.get, c64(0)), c32(5));
  const c1 = (u: Node): Node => i32.shl(u, c32(9));
  f.if(i32.and(i32.gt_s(E.get, c32(0)), i32.lt_s(E.get, c32(fmt.maxExp))), () => {
    f.if(i64.ne(rem.get, c64(0)), () => flag(f, base, i32.or(c32(PE), c1(up))));
    // The leading one of `keep` adds 1 to the exponent field.
    put(i64.or(sign, i64.add(i64.shl(i64.extend_u(i32.sub(E.get, c32(1))), c64(fmt.p - 1)), keep.get)));
  });
  f.if(i32.gt_s(E.get, c32(0)), () => {
    // Overflow. Masked: infinity, or the largest number where rounding is towards zero.
    const rc = f.tmp(rcOf(ctl));
    const toInf = f.tmp(i32.or(i32.eqz(rc), i32.eq(rc, i32.sub(c32(2), s))));
    flag(f, base, i32.or(c32(OE), i32.or(c1(toInf), select(i32.and(ctl, c32(OE)), c32(PE), inexact()))));
    f.ret(select(toInf, special(fmt, 'inf', s), special(fmt, 'max', s)));
  });
  // Tiny after rounding.
  f.if(i32.eqz(i32.and(ctl, c32(UE))), () => {
    flag(f, base, i32.or(c32(UE), inexact()));
    put(sign);
  });
  f.if(i32.and(ctl, c32(0x8000)), () => {
    flag(f, base, c32(UE | PE));
    put(sign);
  });
  const sh = f.tmp(i32.sub(c32(drop + 1), E0));
  const sh64 = f.tmp(i64.extend_u(sh));
  f.if(
    i32.lt_u(sh, c32(64)),
    () => {
      f.set(keep, i64.shr_u(sig, sh64));
      f.set(rem, i64.shl(sig, i64.sub(c64(64), sh64)));
    },
    () => {
      f.set(keep, c64(0));
      f.set(rem, select(i32.eq(sh, c32(64)), sig, c64(1)));
    },
  );
  const up2 = f.tmp(roundUp(f, ctl, s, keep.get, rem.get));
  f.if(i64.ne(rem.get, c64(0)), () => flag(f, base, i32.or(c32(UE | PE), c1(up2))));
  f.emit(narrow(fmt, i64.or(sign, i64.add(keep.get, i64.extend_u(up2)))));
  return f.ref;
}

/** Quiet bit of a format. */
function quietBit(fmt: Fmt): Node {
  return fmt.bits === 64 ? c64hl(0x00080000, 0) : c32(0x00400000);
}
/** Whether bits (a temporary) are a NaN. */
function nanBits(fmt: Fmt, x: Node): Node {
  return fmt.bits === 64
    ? i64.gt_u(i64.shl(x, c64(1)), c64hl(0xffe00000, 0))
    : i32.gt_u(i32.shl(x, c32(1)), c32(0xff000000));
}
/** Whether bits are a NaN that does not have the quiet bit. */
function signalingBits(fmt: Fmt, x: Node): Node {
  return fmt.bits === 64
    ? i32.and(nanBits(fmt, x), i64.eqz(i64.and(x, quietBit(fmt))))
    : i32.and(nanBits(fmt, x), i32.eqz(i32.and(x, quietBit(fmt))));
}
function orBits(fmt: Fmt, a: Node, b: Node): Node {
  return fmt.bits === 64 ? i64.or(a, b) : i32.or(a, b);
}

/** (base, a, b) → the NaN that SSE gives for operands of which at least one is a NaN: the first one, made quiet. */
function emitNan(m: Module, fmt: Fmt): FnRef {
  const f = m.fn([I32, fmt.ty, fmt.ty], fmt.ty);
  const [base, a, b] = [param(f, 0), param(f, 1), param(f, 2)] as const;
  f.if(i32.or(signalingBits(fmt, a), signalingBits(fmt, b)), () => flag(f, base, c32(IE)));
  f.emit(orBits(fmt, select(nanBits(fmt, a), a, b), quietBit(fmt)));
  return f.ref;
}

/** The operations that {@link arithBody} knows. */
export type Arith = 'add' | 'sub' | 'mul' | 'div' | 'sqrt';

/** How a function gets its operands and leaves, by format. All but `unpack` return from the function. */
export interface Ends {
  /** Rounding mode. */
  readonly rc: Node;
  /** Unpacks the operands; DE goes to `dn`. */
  unpack(a: U, b: U | null, dn: Local): void;
  /** At least one operand is a NaN. */
  nan(): void;
  fin(kind: 'inf' | 'zero' | 'nan', s: Node, flags: Node): void;
  round(s: Node, e: Node, w: Wide, flags: Node): void;
}

/** Whether an unpacked operand is an infinity or a NaN. */
export function isSpecial(u: U): Node {
  return i32.eq(u.e.get, c32(E_SPECIAL));
}
/** Whether an unpacked operand is zero. */
export function isZero(u: U): Node {
  return i64.eqz(u.m.get);
}

/** Body of a function that does one operation. */
export function arithBody(f: Fn, op: Arith, ends: Ends, div128: FnRef): void {
  const a = newU(f);
  const b = newU(f);
  const dn = f.local(I32);
  const s = f.local(I32);
  const e = f.local(I32);
  const w = { hi: f.local(I64), lo: f.local(I64) };
  const invalid = (): void => ends.fin('nan', c32(0), c32(IE));
  const round = (): void => ends.round(s.get, e.get, w, dn.get);
  ends.unpack(a, op === 'sqrt' ? null : b, dn);
  if (op === 'sqrt') {
    f.if(isSpecial(a), () => {
      f.if(isNan(a), () => ends.nan());
      f.if(a.s.get, invalid);
      ends.fin('inf', c32(0), c32(0));
    });
    f.if(isZero(a), () => ends.fin('zero', a.s.get, c32(0)));
    f.if(a.s.get, invalid);
    coreSqrt(f, a, e, w);
    round();
    f.unreachable();
    return;
  }
  if (op === 'sub') f.set(b.s, i32.xor(b.s.get, c32(1)));
  const sx = (): Node => i32.xor(a.s.get, b.s.get);
  f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
    f.if(i32.or(isNan(a), isNan(b)), () => ends.nan());
    if (op === 'mul') {
      f.if(i32.or(isZero(a), isZero(b)), invalid);
      ends.fin('inf', sx(), dn.get);
    } else if (op === 'div') {
      f.if(i32.and(isSpecial(a), isSpecial(b)), invalid);
      f.if(isSpecial(a), () => ends.fin('inf', sx(), dn.get));
      ends.fin('zero', sx(), dn.get);
    } else {
      f.if(i32.and(i32.and(isSpecial(a), isSpecial(b)), sx()), invalid);
      ends.fin('inf', select(isSpecial(a), a.s.get, b.s.get), dn.get);
    }
  });
  f.if(i32.or(isZero(a), isZero(b)), () => {
    if (op === 'mul') ends.fin('zero', sx(), dn.get);
    else if (op === 'div') {
      f.if(i32.and(isZero(a), isZero(b)), invalid);
      f.if(isZero(b), () => ends.fin('inf', sx(), c32(ZE)));
      ends.fin('zero', sx(), dn.get);
    } else {
      f.if(i32.and(isZero(a), isZero(b)), () =>
        ends.fin('zero', i32.or(i32.and(a.s.get, b.s.get), i32.and(sx(), i32.eq(ends.rc, c32(RC_DOWN)))), c32(0)),
      );
      f.set(s, select(isZero(a), b.s.get, a.s.get));
      f.set(e, select(isZero(a), b.e.get, a.e.get));
      f.set(w.hi, i64.or(a.m.get, b.m.get));
      round();
    }
  });
  if (op === 'mul' || op === 'div') {
    f.set(s, sx());
    if (op === 'mul') coreMul(f, a, b, e, w);
    else coreDiv(f, div128, a, b, e, w);
  } else {
    coreAdd(f, a, b, s, e, w);
    f.if(i64.eqz(i64.or(w.hi.get, w.lo.get)), () => ends.fin('zero', i32.eq(ends.rc, c32(RC_DOWN)), dn.get));
  }
  round();
  f.unreachable();
}

/** (base, ctl, a, b) → bits; flags go to FL. Square root ignores `b`. */
function emitArith(m: Module, fmt: Fmt, op: Arith, fns: { round: FnRef; nan: FnRef; div128: FnRef }): FnRef {
  const f = m.fn([I32, I32, fmt.ty, fmt.ty], fmt.ty);
  const [base, ctl, x, y] = [0, 1, 2, 3].map((n) => param(f, n)) as [Node, Node, Node, Node];
  const ends: Ends = {
    rc: f.tmp(rcOf(ctl)),
    unpack: (a, b, dn) => {
      unpack(f, fmt, x, a, dn, ctl);
      if (b !== null) unpack(f, fmt, y, b, dn, ctl);
    },
    nan: () => f.ret(call(fns.nan, base, x, op === 'sqrt' ? x : y)),
    fin: (kind, sign, flags) => {
      flag(f, base, flags);
      f.ret(special(fmt, kind, sign));
    },
    round: (s, e, w, flags) => {
      flag(f, base, flags);
      f.ret(call(fns.round, base, ctl, s, e, i64.or(w.hi.get, i64.extend_u(i64.ne(w.lo.get, c64(0))))));
    },
  };
  arithBody(f, op, ends, fns.div128);
  return f.ref;
}

/**
 * (base, ctl, x, y, z, signs) → x·y + z with one rounding; bit 0 of `signs` negates the product, bit 1 the addend. NaNs
 * are taken in the order x, y, z.
 */
function emitFma(m: Module, fmt: Fmt, fns: { round: FnRef; nan: FnRef }): FnRef {
  const f = m.fn([I32, I32, fmt.ty, fmt.ty, fmt.ty, I32], fmt.ty);
  const [base, ctl, x, y, z, signs] = [0, 1, 2, 3, 4, 5].map((n) => param(f, n)) as [
    Node,
    Node,
    Node,
    Node,
    Node,
    Node,
  ];
  const a = newU(f);
  const b = newU(f);
  const c = newU(f);
  const dn = f.local(I32);
  const s = f.local(I32);
  const e = f.local(I32);
  const w = { hi: f.local(I64), lo: f.local(I64) };
  const fin = (kind: 'inf' | 'zero' | 'nan', sign: Node, flags: Node): void => {
    flag(f, base, flags);
    f.ret(special(fmt, kind, sign));
  };
  const invalid = (): void => fin('nan', c32(0), c32(IE));
  const round = (): void => {
    flag(f, base, dn.get);
    f.ret(call(fns.round, base, ctl, s.get, e.get, i64.or(w.hi.get, i64.extend_u(i64.ne(w.lo.get, c64(0))))));
  };
  unpack(f, fmt, x, a, dn, ctl);
  unpack(f, fmt, y, b, dn, ctl);
  unpack(f, fmt, z, c, dn, ctl);
  f.if(i32.or(isNan(a), i32.or(isNan(b), isNan(c))), () => {
    // An SNaN anywhere counts; then the first NaN.
    f.if(isNan(c), () => f.if(signalingBits(fmt, z), () => flag(f, base, c32(IE))));
    f.if(i32.or(isNan(a), isNan(b)), () => f.ret(call(fns.nan, base, x, y)));
    // ∞ · 0 raises nothing when the addend is a NaN already.
    f.ret(call(fns.nan, base, z, z));
  });
  f.set(s, i32.xor(i32.xor(a.s.get, b.s.get), i32.and(signs, c32(1))));
  f.set(c.s, i32.xor(c.s.get, i32.shr_u(signs, c32(1))));
  f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
    f.if(i32.or(isZero(a), isZero(b)), invalid);
    f.if(i32.and(isSpecial(c), i32.ne(c.s.get, s.get)), invalid);
    fin('inf', s.get, dn.get);
  });
  f.if(isSpecial(c), () => fin('inf', c.s.get, dn.get));
  f.if(i32.or(isZero(a), isZero(b)), () => {
    f.if(isZero(c), () =>
      fin(
        'zero',
        i32.or(i32.and(s.get, c.s.get), i32.and(i32.xor(s.get, c.s.get), i32.eq(rcOf(ctl), c32(RC_DOWN)))),
        dn.get,
      ),
    );
    f.set(s, c.s.get);
    f.set(e, c.e.get);
    f.set(w.hi, c.m.get);
    round();
  });
  coreMul(f, a, b, e, w);
  f.if(isZero(c), round);
  // Add the 64-bit addend to the 128-bit product: the larger one stays, the other is shifted.
  const t = { hi: f.local(I64), lo: f.local(I64) };
  f.set(t.hi, c.m.get);
  f.set(t.lo, c64(0));
  // With equal upper halves the product is the larger one: the addend has nothing below.
  const less = i32.or(i32.lt_s(e.get, c.e.get), i32.and(i32.eq(e.get, c.e.get), i64.lt_u(w.hi.get, t.hi.get)));
  f.if(less, () => {
    for (const [p, q] of [
      [w.hi, t.hi],
      [w.lo, t.lo],
      [e, c.e],
      [s, c.s],
    ] as const) {
      const k = f.tmp(p.get);
      f.set(p, q.get);
      f.set(q, k);
    }
  });
  shiftRightJam(f, t, f.tmp(i32.sub(e.get, c.e.get)));
  f.if(
    i32.eq(s.get, c.s.get),
    () => {
      f.set(w.lo, i64.add(w.lo.get, t.lo.get));
      const carry = f.tmp(i64.extend_u(i64.lt_u(w.lo.get, t.lo.get)));
      const sum = f.tmp(i64.add(w.hi.get, t.hi.get));
      const all = f.tmp(i64.add(sum, carry));
      const over = f.tmp(i32.or(i64.lt_u(sum, w.hi.get), i64.lt_u(all, sum)));
      f.set(w.hi, all);
      f.if(over, () => {
        f.set(w.lo, i64.or(i64.or(i64.shr_u(w.lo.get, c64(1)), i64.and(w.lo.get, c64(1))), i64.shl(w.hi.get, c64(63))));
        f.set(w.hi, i64.or(i64.shr_u(w.hi.get, c64(1)), TOP()));
        f.set(e, i32.add(e.get, c32(1)));
      });
    },
    () => {
      const borrow = f.tmp(i64.extend_u(i64.lt_u(w.lo.get, t.lo.get)));
      f.set(w.lo, i64.sub(w.lo.get, t.lo.get));
      f.set(w.hi, i64.sub(i64.sub(w.hi.get, t.hi.get), borrow));
      f.if(i64.eqz(i64.or(w.hi.get, w.lo.get)), () => fin('zero', i32.eq(rcOf(ctl), c32(RC_DOWN)), dn.get));
      normalizeWide(f, w, e);
    },
  );
  round();
  f.unreachable();
  return f.ref;
}

/** (base, ctl, single) → half, DAZ but no FTZ; and half → single. */
function emitHalf(m: Module): { to: FnRef; from: FnRef } {
  const round = emitRoundPack(m, F16F);
  const to = m.fn([I32, I32, I32], I32);
  {
    const f = to;
    const [base, ctl, x] = [param(f, 0), param(f, 1), param(f, 2)] as const;
    const u = newU(f);
    const dn = f.local(I32);
    unpack(f, F32F, x, u, dn, ctl);
    f.if(i32.eq(u.e.get, c32(E_SPECIAL)), () => {
      f.if(i32.eqz(isNan(u)), () => f.ret(special(F16F, 'inf', u.s.get)));
      f.if(signalingBits(F32F, x), () => flag(f, base, c32(IE)));
      f.ret(i32.or(i32.or(i32.shl(u.s.get, c32(15)), c32(0x7e00)), i32.and(i32.shr_u(x, c32(13)), c32(0x1ff))));
    });
    f.if(i64.eqz(u.m.get), () => f.ret(special(F16F, 'zero', u.s.get)));
    flag(f, base, dn.get);
    f.emit(call(round, base, i32.and(ctl, c32(~0x8000)), u.s.get, u.e.get, u.m.get));
  }
  const from = m.fn([I32, I32, I32], I32);
  {
    const f = from;
    const [base, x] = [param(f, 0), param(f, 2)] as const;
    const s = f.tmp(i32.shl(i32.shr_u(x, c32(15)), c32(31)));
    const e = f.tmp(i32.and(i32.shr_u(x, c32(10)), c32(31)));
    const frac = f.tmp(i32.and(x, c32(0x3ff)));
    f.if(i32.eq(e, c32(31)), () => {
      f.if(i32.eqz(frac), () => f.ret(i32.or(s, c32(0x7f800000))));
      f.if(i32.eqz(i32.and(frac, c32(0x200))), () => flag(f, base, c32(IE)));
      f.ret(i32.or(i32.or(s, c32(0x7fc00000)), i32.shl(frac, c32(13))));
    });
    // Denormal halves are normal singles: scaled by 2^-24.
    f.if(i32.eqz(e), () =>
      f.ret(i32.or(s, i32.reinterpret(f32.mul(f32.convert_i32_s(frac), f32.reinterpret(c32(0x33800000)))))),
    );
    f.emit(i32.or(s, i32.or(i32.shl(i32.add(e, c32(112)), c32(23)), i32.shl(frac, c32(13)))));
  }
  return { to: to.ref, from: from.ref };
}

/** The operand with denormals made zero under DAZ, else with DE noted: sets `x`. Not for NaNs. */
function denormal(f: Fn, fmt: Fmt, base: Node, ctl: Node, x: Local): void {
  const mag = fmt.bits === 64 ? i64.shl(x.get, c64(1)) : i64.shl(i64.extend_u(x.get), c64(33));
  // Magnitude, top-aligned: denormals lie between 0 and the smallest normal.
  const t = f.tmp(mag);
  const min = fmt.bits === 64 ? c64hl(0x00200000, 0) : c64hl(0x01000000, 0);
  f.if(i64.lt_u(i64.sub(t, c64(1)), i64.sub(min, c64(1))), () =>
    f.if(
      i32.and(ctl, c32(0x40)),
      () => f.set(x, fmt.bits === 64 ? i64.and(x.get, TOP()) : i32.and(x.get, c32(0x80000000))),
      () => flag(f, base, c32(DE)),
    ),
  );
}

/** (base, ctl, a, b, quietIsInvalid) → 1 less, 2 equal, 4 greater, 8 unordered. */
function emitCompare(m: Module, fmt: Fmt): FnRef {
  const f = m.fn([I32, I32, fmt.ty, fmt.ty, I32], I32);
  const [base, ctl] = [param(f, 0), param(f, 1)] as const;
  const x = f.params[2] as Local;
  const y = f.params[3] as Local;
  f.if(i32.or(nanBits(fmt, x.get), nanBits(fmt, y.get)), () => {
    f.if(i32.or(param(f, 4), i32.or(signalingBits(fmt, x.get), signalingBits(fmt, y.get))), () =>
      flag(f, base, c32(IE)),
    );
    f.ret(c32(8));
  });
  denormal(f, fmt, base, ctl, x);
  denormal(f, fmt, base, ctl, y);
  const n = fmt.bits === 64 ? f64 : f32;
  const [p, q] = [n.reinterpret(x.get), n.reinterpret(y.get)] as const;
  f.emit(i32.or(n.lt(p, q), i32.or(i32.shl(n.eq(p, q), c32(1)), i32.shl(n.gt(p, q), c32(2)))));
  return f.ref;
}

/** (base, ctl, a, b) → minimum or maximum in the SSE way: the second operand for NaNs and equal operands. */
function emitMinMax(m: Module, fmt: Fmt, max: boolean): FnRef {
  const f = m.fn([I32, I32, fmt.ty, fmt.ty], fmt.ty);
  const [base, ctl] = [param(f, 0), param(f, 1)] as const;
  const x = f.params[2] as Local;
  const y = f.params[3] as Local;
  f.if(i32.or(nanBits(fmt, x.get), nanBits(fmt, y.get)), () => {
    flag(f, base, c32(IE));
    // The second operand, to which DAZ applies even here.
    f.if(i32.and(i32.ne(i32.and(ctl, c32(0x40)), c32(0)), i32.eqz(nanBits(fmt, y.get))), () =>
      denormal(f, fmt, base, ctl, y),
    );
    f.ret(y.get);
  });
  denormal(f, fmt, base, ctl, x);
  denormal(f, fmt, base, ctl, y);
  const n = fmt.bits === 64 ? f64 : f32;
  const [p, q] = [n.reinterpret(x.get), n.reinterpret(y.get)] as const;
  f.emit(select(max ? n.gt(p, q) : n.lt(p, q), x.get, y.get));
  return f.ref;
}

/**
 * Emits (base, ctl, s, e, m, bits) → integer of 16, 32 or 64 bits, sign-extended, from an unpacked number; out of range
 * (infinities and NaNs too) gives the smallest integer and IE. Flags go to FL.
 */
function emitToInt(m: Module): FnRef {
  const f = m.fn([I32, I32, I32, I32, I64, I32], I64);
  const [base, ctl, s, e, sig, bits] = [0, 1, 2, 3, 4, 5].map((n) => param(f, n)) as [
    Node,
    Node,
    Node,
    Node,
    Node,
    Node,
  ];
  f.if(i64.eqz(sig), () => f.ret(c64(0)));
  const sh = f.tmp(i32.sub(c32(BIAS + 63), e));
  const keep = f.local(I64);
  const rem = f.local(I64);
  const limit = f.tmp(i64.shl(c64(1), i64.extend_u(i32.sub(bits, c32(1)))));
  const sh64 = f.tmp(i64.extend_u(sh));
  f.block((bad) => {
    f.brIf(bad, i32.lt_s(sh, c32(0)));
    f.set(keep, sig);
    f.if(sh, () => {
      f.if(
        i32.lt_u(sh, c32(64)),
        () => {
          f.set(keep, i64.shr_u(sig, sh64));
          f.set(rem, i64.shl(sig, i64.sub(c64(64), sh64)));
        },
        () => {
          f.set(keep, c64(0));
          f.set(rem, select(i32.eq(sh, c32(64)), sig, c64(1)));
        },
      );
    });
    const up = f.tmp(roundUp(f, ctl, s, keep.get, rem.get));
    f.set(keep, i64.add(keep.get, i64.extend_u(up)));
    f.brIf(bad, i64.gt_u(keep.get, i64.sub(limit, i64.extend_u(i32.xor(s, c32(1))))));
    f.if(i64.ne(rem.get, c64(0)), () => flag(f, base, i32.or(c32(PE), i32.shl(up, c32(9)))));
    f.ret(select(s, i64.sub(c64(0), keep.get), keep.get));
  });
  flag(f, base, c32(IE));
  f.emit(i64.sub(c64(0), limit));
  return f.ref;
}

/** (base, ctl, bits, width) → integer. */
function emitFmtToInt(m: Module, fmt: Fmt, toInt: FnRef): FnRef {
  const f = m.fn([I32, I32, fmt.ty, I32], I64);
  const u = newU(f);
  unpack(f, fmt, param(f, 2), u, null, param(f, 1));
  f.emit(call(toInt, param(f, 0), param(f, 1), u.s.get, u.e.get, u.m.get, param(f, 3)));
  return f.ref;
}

/** (base, ctl, integer) → bits. */
function emitFromInt(m: Module, fmt: Fmt, round: FnRef): FnRef {
  const f = m.fn([I32, I32, I64], fmt.ty);
  const v = f.params[2] as Local;
  const s = f.local(I32);
  f.if(i64.eqz(v.get), () => f.ret(fmt.ty === I64 ? c64(0) : c32(0)));
  f.if(i64.lt_s(v.get, c64(0)), () => {
    f.set(s, c32(1));
    f.set(v, i64.sub(c64(0), v.get));
  });
  const z = f.tmp(i64.clz(v.get));
  f.emit(call(round, param(f, 0), param(f, 1), s.get, i32.sub(c32(BIAS + 63), i32.wrap(z)), i64.shl(v.get, z)));
  return f.ref;
}

/** (base, ctl, double) → single. */
function emitNarrow(m: Module, round: FnRef): FnRef {
  const f = m.fn([I32, I32, I64], I32);
  const [base, ctl, x] = [param(f, 0), param(f, 1), param(f, 2)] as const;
  const u = newU(f);
  const dn = f.local(I32);
  unpack(f, F64F, x, u, dn, ctl);
  f.if(i32.eq(u.e.get, c32(E_SPECIAL)), () => {
    f.if(i32.eqz(isNan(u)), () => f.ret(special(F32F, 'inf', u.s.get)));
    f.if(signalingBits(F64F, x), () => flag(f, base, c32(IE)));
    f.ret(
      i32.or(
        i32.or(i32.shl(u.s.get, c32(31)), c32(0x7fc00000)),
        i32.wrap(i64.and(i64.shr_u(x, c64(29)), c64(0x3fffff))),
      ),
    );
  });
  f.if(i64.eqz(u.m.get), () => f.ret(special(F32F, 'zero', u.s.get)));
  flag(f, base, dn.get);
  f.emit(call(round, base, ctl, u.s.get, u.e.get, u.m.get));
  return f.ref;
}

/** (base, ctl, single) → double. */
function emitWiden(m: Module): FnRef {
  const f = m.fn([I32, I32, I32], I64);
  const [base, ctl] = [param(f, 0), param(f, 1)] as const;
  const x = f.params[2] as Local;
  f.if(nanBits(F32F, x.get), () => {
    f.if(signalingBits(F32F, x.get), () => flag(f, base, c32(IE)));
    const bits = i64.extend_u(x.get);
    f.ret(
      i64.or(
        i64.or(i64.shl(i64.and(bits, c64(0x80000000)), c64(32)), c64hl(0x7ff80000, 0)),
        i64.shl(i64.and(bits, c64(0x3fffff)), c64(29)),
      ),
    );
  });
  denormal(f, F32F, base, ctl, x);
  f.emit(i64.reinterpret(f64.promote(f32.reinterpret(x.get))));
  return f.ref;
}

/** (base, ctl, bits) → the number rounded to an integer by the mode in `ctl`; PE if that changed it. */
function emitRint(m: Module, fmt: Fmt): FnRef {
  const f = m.fn([I32, I32, fmt.ty], fmt.ty);
  const [base, ctl] = [param(f, 0), param(f, 1)] as const;
  const x = f.params[2] as Local;
  const n = fmt.bits === 64 ? f64 : f32;
  const bits = (v: Node): Node => (fmt.bits === 64 ? i64.reinterpret(v) : i32.reinterpret(v));
  f.if(nanBits(fmt, x.get), () => {
    f.if(signalingBits(fmt, x.get), () => flag(f, base, c32(IE)));
    f.ret(orBits(fmt, x.get, quietBit(fmt)));
  });
  // Denormals raise nothing here, but DAZ applies.
  f.if(i32.and(ctl, c32(0x40)), () => {
    const v = n.reinterpret(x.get);
    const min = fmt.bits === 64 ? f64.reinterpret(c64hl(0x00100000, 0)) : f32.reinterpret(c32(0x00800000));
    f.if(n.lt(n.abs(v), min), () =>
      f.set(x, fmt.bits === 64 ? i64.and(x.get, TOP()) : i32.and(x.get, c32(0x80000000))),
    );
  });
  const rc = f.tmp(rcOf(ctl));
  const v = n.reinterpret(x.get);
  const r = f.tmp(
    bits(
      select(
        i32.eqz(rc),
        n.nearest(v),
        select(i32.eq(rc, c32(RC_DOWN)), n.floor(v), select(i32.eq(rc, c32(RC_UP)), n.ceil(v), n.trunc(v))),
      ),
    ),
  );
  f.if(n.ne(n.reinterpret(r), v), () => flag(f, base, c32(PE)));
  f.emit(r);
  return f.ref;
}

/** Functions of this file by name; those with `32` or `64` in their name exist for both. */
export interface SoftFns {
  readonly div128: FnRef;
  /** (base, ctl, s, e, m, bits) → integer. */
  readonly toInt: FnRef;
  /** (base, ctl, s, e, m) → bits. */
  readonly round32: FnRef;
  readonly round64: FnRef;
  /** All others: `add64` and so on. */
  readonly named: Readonly<Record<string, FnRef>>;
}

/** Emits the functions on singles and doubles. */
export function emitSoftFloat(m: Module): SoftFns {
  const div128 = emitDiv128(m);
  const toInt = emitToInt(m);
  const named: Record<string, FnRef> = {};
  const rounds: Record<string, FnRef> = {};
  for (const fmt of [F32F, F64F]) {
    const round = emitRoundPack(m, fmt);
    const nan = emitNan(m, fmt);
    rounds[fmt.name] = round;
    for (const op of ['add', 'sub', 'mul', 'div', 'sqrt'] as const)
      named[`${op}${fmt.bits}`] = emitArith(m, fmt, op, { round, nan, div128 });
    named[`nan${fmt.bits}`] = nan;
    named[`fma${fmt.bits}`] = emitFma(m, fmt, { round, nan });
    named[`compare${fmt.bits}`] = emitCompare(m, fmt);
    named[`min${fmt.bits}`] = emitMinMax(m, fmt, false);
    named[`max${fmt.bits}`] = emitMinMax(m, fmt, true);
    named[`toInt${fmt.bits}`] = emitFmtToInt(m, fmt, toInt);
    named[`fromInt${fmt.bits}`] = emitFromInt(m, fmt, round);
    named[`rint${fmt.bits}`] = emitRint(m, fmt);
  }
  const [round32, round64] = [rounds['f32'] as FnRef, rounds['f64'] as FnRef];
  named['narrow'] = emitNarrow(m, round32);
  named['widen'] = emitWiden(m);
  const half = emitHalf(m);
  named['toHalf'] = half.to;
  named['fromHalf'] = half.from;
  return { div128, toInt, round32, round64, named };
}
