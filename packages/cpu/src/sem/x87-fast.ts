// The x87's commonest operations on normal numbers, with all exceptions masked, rounding to nearest and full precision:
// what f80.ts does in general, for every operand and mode, in fewer steps. Whatever does not fit goes there.
import * as S from '../state.ts';
import {
  c32,
  c64,
  call,
  type Fn,
  type FnRef,
  I32,
  I64,
  i32,
  i64,
  type Label,
  type Local,
  ld,
  type Module,
  type Node,
  select,
} from '../wasm/builder.ts';
import { T0 } from './f80.ts';
import { addUpper, BIAS, C1, coreDiv, coreMul, DE, largerFirst, newU, PE, param, TOP, type U } from './softfloat.ts';

/** How much larger exponents are than in a double. */
const REBIAS = BIAS - 1023;

/** Whether an exponent is that of a normal number. */
function finiteNormal(e: Node): Node {
  return i32.lt_u(i32.sub(e, c32(1)), c32(0x7ffe));
}

/** Where the second operand of an operation comes from: a register, or memory as a single, a double or an integer. */
const SOURCES = ['st', 'f32', 'f64', 'int'] as const;
export type Source = (typeof SOURCES)[number];

/** Number of the register that is ST(i). */
export function registerOf(base: Node, i: Node): Node {
  return i32.and(i32.add(ld.i32(base, S.FTOP), i), c32(7));
}

/** C1 is cleared by what raises no exception; exceptions that a program unmasks afterwards stay pending as they are. */
export function clearC1(f: Fn, base: Node): void {
  f.st32(base, i32.and(ld.i32(base, S.FSW), c32(~C1)), S.FSW);
}

/** Writes register `r`, a temporary, and marks it used. */
export function inlinePut(f: Fn, base: Node, r: Node, sig: Node, se: Node): void {
  const at = f.tmp(i32.add(base, i32.shl(r, c32(4))));
  f.st64(at, sig, S.FPR);
  f.st16(at, se, S.FPR + 8);
  f.st32(base, i32.or(ld.i32(base, S.FTW), i32.shl(c32(1), r)), S.FTW);
}

/** Takes the register at the top of the stack off it. */
export function inlinePop(f: Fn, base: Node): void {
  const top = f.tmp(ld.i32(base, S.FTOP));
  f.st32(base, i32.and(ld.i32(base, S.FTW), i32.rotl(c32(-2), top)), S.FTW);
  f.st32(base, i32.and(i32.add(top, c32(1)), c32(7)), S.FTOP);
}

/** Takes the number of the register at `at` apart; leaves for `slow` unless it is normal. */
function takeApart(f: Fn, x: U, at: Node, slow: Label): void {
  f.set(x.s, ld.i32_16u(at, S.FPR + 8));
  f.set(x.e, i32.and(x.s.get, c32(0x7fff)));
  f.set(x.s, i32.shr_u(x.s.get, c32(15)));
  f.set(x.m, ld.i64(at, S.FPR));
  f.brUnlikely(slow, i32.eqz(finiteNormal(x.e.get)));
  f.brUnlikely(slow, i64.ge_s(x.m.get, c64(0)));
}

/** Takes a double (i64) or a single (i32) apart; leaves for `slow` unless it is normal. */
function expand(f: Fn, x: U, bits: Node, slow: Label): void {
  const double = bits.ty === I64;
  const top = double ? f.tmp(i32.wrap(i64.shr_u(bits, c64(32)))) : bits;
  f.set(x.e, i32.and(i32.shr_u(top, c32(double ? 20 : 23)), c32(double ? 0x7ff : 0xff)));
  f.brUnlikely(slow, i32.ge_u(i32.sub(x.e.get, c32(1)), c32(double ? 0x7fe : 0xfe)));
  f.set(x.e, i32.add(x.e.get, c32(double ? REBIAS : BIAS - 127)));
  f.set(x.s, i32.shr_u(top, c32(31)));
  f.set(x.m, i64.or(i64.shl(double ? bits : i64.extend_u(bits), c64(double ? 11 : 40)), TOP()));
}

/**
 * Emits `add_st`, `sub_st`, `subr_st`, `mul_st`, `div_st`, `divr_st`: (base, dst, src, pops), on registers; with `_f32`,
 * `_f64` and `_int` in place of `_st`: (base, bits), on ST(0) and what was loaded from memory, an integer as 64 bits; and
 * `ld32`, `ld64`, `ldInt`: (base, bits), which push a value from memory. What does not fit goes on in `core.op`.
 */
export function emitX87Fast(m: Module, fn: (name: string) => FnRef, div128: FnRef): Record<string, FnRef> {
  const out: Record<string, FnRef> = {};
  const slot = (f: Fn): Node => i32.add(param(f, 0), c32(T0));
  const arith = (name: string, number: number, compute: (f: Fn, a: U, b: U, slow: Label) => Rounding): void => {
    for (const source of SOURCES) out[`${name}_${source}`] = arithOn(source, number, compute);
  };
  const arithOn = (source: Source, number: number, compute: (f: Fn, a: U, b: U, slow: Label) => Rounding): FnRef => {
    const register = source === 'st';
    const f = m.fn(register ? [I32, I32, I32, I32] : [I32, source === 'f32' ? I32 : I64], 0);
    const base = param(f, 0);
    const bits = param(f, 1);
    const dst = register ? bits : c32(0);
    const top = f.tmp(ld.i32(base, S.FTOP));
    const place = (n: Node): Node => f.tmp(i32.and(i32.add(top, n), c32(7)));
    const addr = (r: Node): Node => f.tmp(i32.add(base, i32.shl(r, c32(4))));
    const inUse = (r: Node): Node => i32.shr_u(ld.i32(base, S.FTW), r);
    const r = register ? place(dst) : top;
    const from = register ? place(param(f, 2)) : top;
    const at = addr(r);
    const src = register ? addr(from) : at;
    f.block((slow) => {
      const both = register ? i32.and(inUse(r), inUse(from)) : inUse(r);
      f.brUnlikely(slow, i32.eqz(i32.and(both, c32(1))));
      // Nearest, everything masked, 53 or 64 bits.
      const fcw = f.tmp(ld.i32(base, S.FCW));
      f.brUnlikely(slow, i32.ne(i32.and(fcw, c32(0xe3f)), c32(0x23f)));
      const [a, b] = [newU(f), newU(f)];
      takeApart(f, a, at, slow);
      if (register) takeApart(f, b, src, slow);
      if (source === 'int') {
        f.brUnlikely(slow, i64.eqz(bits));
        const sign = f.tmp(i64.shr_s(bits, c64(63)));
        f.set(b.m, i64.sub(i64.xor(bits, sign), sign));
        const zeros = f.tmp(i64.clz(b.m.get));
        f.set(b.m, i64.shl(b.m.get, zeros));
        f.set(b.e, i32.sub(c32(BIAS + 63), i32.wrap(zeros)));
        f.set(b.s, i32.and(i32.wrap(sign), c32(1)));
      } else if (!register) expand(f, b, bits, slow);
      const { s, e, hi, lo } = compute(f, a, b, slow);
      const one = f.local(I32);
      /** Makes `hi` the nearest of what its bits can be. */
      const round = (): void => {
        const odd = i32.and(i32.wrap(hi.get), c32(1));
        const up = i32.or(i64.ne(i64.shl(lo.get, c64(1)), c64(0)), odd);
        f.set(one, i32.and(i64.lt_s(lo.get, c64(0)), up));
        f.set(hi, i64.add(hi.get, i64.extend_u(one.get)));
      };
      f.unlikely(
        i32.eqz(i32.and(fcw, c32(0x100))),
        () => {
          // 53 bits: eleven more are rounded off.
          f.set(lo, i64.or(i64.shl(hi.get, c64(53)), i64.extend_u(i64.ne(lo.get, c64(0)))));
          f.set(hi, i64.shr_u(hi.get, c64(11)));
          round();
          f.set(hi, i64.shl(hi.get, c64(11)));
        },
        round,
      );
      f.if(i64.eqz(hi.get), () => {
        f.set(hi, TOP());
        f.set(e, i32.add(e.get, c32(1)));
      });
      f.brUnlikely(slow, i32.eqz(finiteNormal(e.get)));
      f.st64(at, hi.get, S.FPR);
      f.st16(at, i32.or(i32.shl(s.get, c32(15)), e.get), S.FPR + 8);
      f.st32(
        base,
        i32.or(
          i32.and(ld.i32(base, S.FSW), c32(~C1)),
          select(i64.eqz(lo.get), c32(0), i32.or(c32(PE), i32.shl(one.get, c32(9)))),
        ),
        S.FSW,
      );
      if (register) f.if(param(f, 3), () => inlinePop(f, base));
      f.ret();
    });
    if (register)
      f.do(
        call(
          fn('op'),
          base,
          c32(number),
          dst,
          i32.add(src, c32(S.FPR)),
          i32.and(inUse(from), c32(1)),
          c32(0),
          param(f, 3),
        ),
      );
    else {
      const flags = f.local(I32);
      if (source === 'int') f.do(call(fn('fromInt80'), slot(f), bits));
      else f.set(flags, call(fn(source === 'f32' ? 'expand32' : 'expand64'), slot(f), bits));
      f.do(call(fn('op'), base, c32(number), c32(0), slot(f), c32(1), i32.and(flags.get, c32(DE)), c32(0)));
    }
    return f.ref;
  };
  arith('mul', 1, (f, a, b) => {
    const w = { hi: f.local(I64), lo: f.local(I64) };
    f.set(a.s, i32.xor(a.s.get, b.s.get));
    coreMul(f, a, b, a.e, w);
    return { s: a.s, e: a.e, hi: w.hi, lo: w.lo };
  });
  for (const [name, number] of [
    ['div', 6],
    ['divr', 7],
  ] as const)
    arith(name, number, (f, a, b) => {
      const w = { hi: f.local(I64), lo: f.local(I64) };
      const e = f.local(I32);
      f.set(a.s, i32.xor(a.s.get, b.s.get));
      if (number === 6) coreDiv(f, div128, a, b, e, w);
      else coreDiv(f, div128, b, a, e, w);
      return { s: a.s, e, hi: w.hi, lo: w.lo };
    });
  for (const [name, number, negate] of [
    ['add', 0, null],
    ['sub', 4, 'b'],
    ['subr', 5, 'a'],
  ] as const)
    arith(name, number, (f, a, b, slow) => {
      if (negate !== null) {
        const x = negate === 'a' ? a : b;
        f.set(x.s, i32.xor(x.s.get, c32(1)));
      }
      largerFirst(f, a, b);
      const d = f.tmp(i32.sub(a.e.get, b.e.get));
      f.brUnlikely(slow, i32.gt_u(d, c32(63)));
      const shift = f.tmp(i64.extend_u(d));
      const lo = f.local(I64);
      f.set(lo, select(d, i64.shl(b.m.get, i64.sub(c64(64), shift)), c64(0)));
      f.set(b.m, i64.shr_u(b.m.get, shift));
      const hi = a.m;
      f.if(
        i32.eq(a.s.get, b.s.get),
        () => addUpper(f, { hi, lo }, b.m.get, a.e),
        () => {
          f.set(hi, i64.sub(i64.sub(hi.get, b.m.get), i64.extend_u(i64.ne(lo.get, c64(0)))));
          f.set(lo, i64.sub(c64(0), lo.get));
          f.brUnlikely(slow, i64.eqz(hi.get));
          const zeros = f.tmp(i64.clz(hi.get));
          f.if(i32.wrap(zeros), () => {
            f.set(hi, i64.or(i64.shl(hi.get, zeros), i64.shr_u(lo.get, i64.sub(c64(64), zeros))));
            f.set(lo, i64.shl(lo.get, zeros));
            f.set(a.e, i32.sub(a.e.get, i32.wrap(zeros)));
          });
        },
      );
      return { s: a.s, e: a.e, hi, lo };
    });

  /** Pushes a number unless the stack is full. */
  const push = (f: Fn, sig: Node, se: Node): void => {
    const base = param(f, 0);
    const top = f.tmp(registerOf(base, c32(-1)));
    f.likely(i32.eqz(i32.and(i32.shr_u(ld.i32(base, S.FTW), top), c32(1))), () => {
      f.st32(base, top, S.FTOP);
      inlinePut(f, base, top, sig, se);
      clearC1(f, base);
      f.ret();
    });
  };
  {
    const f = m.fn([I32, I64], 0);
    const bits = param(f, 1);
    const e = f.tmp(i32.and(i32.wrap(i64.shr_u(bits, c64(52))), c32(0x7ff)));
    const s = f.tmp(i32.and(i32.wrap(i64.shr_u(bits, c64(48))), c32(0x8000)));
    f.if(i32.lt_u(i32.sub(e, c32(1)), c32(0x7fe)), () =>
      push(f, f.tmp(i64.or(i64.shl(bits, c64(11)), TOP())), f.tmp(i32.or(s, i32.add(e, c32(REBIAS))))),
    );
    f.if(i64.eqz(i64.shl(bits, c64(1))), () => push(f, c64(0), s));
    f.do(call(fn('load'), param(f, 0), slot(f), call(fn('expand64'), slot(f), bits)));
    out['ld64'] = f.ref;
  }
  {
    const f = m.fn([I32, I32], 0);
    const bits = param(f, 1);
    const e = f.tmp(i32.and(i32.shr_u(bits, c32(23)), c32(0xff)));
    const s = f.tmp(i32.and(i32.shr_u(bits, c32(16)), c32(0x8000)));
    f.if(i32.lt_u(i32.sub(e, c32(1)), c32(0xfe)), () =>
      push(
        f,
        f.tmp(i64.or(i64.shl(i64.extend_u(bits), c64(40)), TOP())),
        f.tmp(i32.or(s, i32.add(e, c32(BIAS - 127)))),
      ),
    );
    f.if(i32.eqz(i32.shl(bits, c32(1))), () => push(f, c64(0), s));
    f.do(call(fn('load'), param(f, 0), slot(f), call(fn('expand32'), slot(f), bits)));
    out['ld32'] = f.ref;
  }
  {
    const f = m.fn([I32, I64], 0);
    f.do(call(fn('fromInt80'), slot(f), param(f, 1)));
    push(f, ld.i64(slot(f)), ld.i32_16u(slot(f), 8));
    f.do(call(fn('load'), param(f, 0), slot(f), c32(0)));
    out['ldInt'] = f.ref;
  }
  return out;
}

/** A result before rounding: `hi` has bit 63 set, `lo` is the exact rest or sticky. */
interface Rounding {
  readonly s: Local;
  readonly e: Local;
  readonly hi: Local;
  readonly lo: Local;
}

/**
 * In a function that compares: the condition codes of two slots if both are zeros or normal numbers, not both zeros, given to
 * `done`; goes on otherwise.
 */
export function compareNormal(f: Fn, x: Node, y: Node, done: (cc: Node) => void): void {
  const [a, b] = [x, y].map((slot) => {
    const se = f.tmp(ld.i32_16u(slot, 8));
    const sig = f.tmp(ld.i64(slot));
    const e = f.tmp(i32.and(se, c32(0x7fff)));
    const normal = i32.and(finiteNormal(e), i64.lt_s(sig, c64(0)));
    return { se, sig, e, ok: f.tmp(i32.or(normal, i64.eqz(i64.or(sig, i64.extend_u(e))))) };
  }) as [Side, Side];
  f.if(i32.and(i32.and(a.ok, b.ok), i64.ne(i64.or(a.sig, b.sig), c64(0))), () => {
    const same = f.tmp(i32.and(i32.eq(a.se, b.se), i64.eq(a.sig, b.sig)));
    const smaller = i32.or(i32.lt_u(a.e, b.e), i32.and(i32.eq(a.e, b.e), i64.lt_u(a.sig, b.sig)));
    const negative = f.tmp(i32.shr_u(a.se, c32(15)));
    const less = select(i32.and(i32.xor(a.se, b.se), c32(0x8000)), negative, i32.xor(smaller, negative));
    done(f.tmp(select(same, c32(0x4000), i32.shl(less, c32(8)))));
  });
}
interface Side {
  readonly se: Node;
  readonly sig: Node;
  readonly e: Node;
  readonly ok: Node;
}

/**
 * In a function (base): returns the double or single nearest to the number at `x`, with PE and C1 in the flags, if it is zero
 * or normal before and after and the control word rounds to nearest; goes on otherwise.
 */
export function floatNormal(f: Fn, x: Node, size: 4 | 8, flags: number): void {
  const base = param(f, 0);
  const [drop, digits, bias, most] = size === 8 ? [11, 52, REBIAS, 2045] : [40, 23, BIAS - 127, 253];
  const se = f.tmp(ld.i32_16u(x, 8));
  const sig = f.tmp(ld.i64(x));
  const e = f.tmp(i32.sub(i32.and(se, c32(0x7fff)), c32(bias)));
  const sign = f.tmp(i64.shl(i64.extend_u(i32.shr_u(se, c32(15))), c64(size === 8 ? 63 : 31)));
  const give = (bits: Node): void => f.ret(size === 8 ? bits : i32.wrap(bits));
  const near = i32.eqz(i32.and(ld.i32(base, S.FCW), c32(0xc00)));
  // An exponent that rounding cannot take out of the range.
  f.if(i32.and(i32.and(near, i64.lt_s(sig, c64(0))), i32.lt_u(i32.sub(e, c32(1)), c32(most))), () => {
    const keep = f.tmp(i64.shr_u(sig, c64(drop)));
    const rest = f.tmp(i64.shl(sig, c64(64 - drop)));
    const tie = i64.or(i64.shl(rest, c64(1)), i64.and(keep, c64(1)));
    const up = f.tmp(i32.and(i64.lt_s(rest, c64(0)), i64.ne(tie, c64(0))));
    f.st32(base, select(i64.eqz(rest), c32(0), i32.or(c32(PE), i32.shl(up, c32(9)))), flags);
    // The leading bit of the significand adds one to the exponent, as a carry does.
    const whole = i64.add(i64.shl(i64.extend_u(i32.sub(e, c32(1))), c64(digits)), i64.add(keep, i64.extend_u(up)));
    give(i64.or(sign, whole));
  });
  f.if(i64.eqz(i64.or(sig, i64.extend_u(i32.and(se, c32(0x7fff))))), () => give(sign));
}

/**
 * In a function (base, bits, rounding bits): returns the integer nearest to the normal number at `x`, or with the bits 0xc00
 * the one towards zero, with PE and C1 in the flags; goes on if another rounding is asked for, or it does not fit.
 */
export function integerNormal(f: Fn, x: Node, ctl: Node, flags: number): void {
  const [base, bits] = [param(f, 0), param(f, 1)] as const;
  const se = f.tmp(ld.i32_16u(x, 8));
  const sig = f.tmp(ld.i64(x));
  const sh = f.tmp(i32.sub(c32(BIAS + 63), i32.and(se, c32(0x7fff))));
  const rc = f.tmp(i32.and(ctl, c32(0xc00)));
  const known = i32.or(i32.eqz(rc), i32.eq(rc, c32(0xc00)));
  f.if(i32.and(i32.and(i32.lt_u(i32.sub(sh, c32(1)), c32(63)), i64.lt_s(sig, c64(0))), known), () => {
    const keep = f.local(I64);
    f.set(keep, i64.shr_u(sig, i64.extend_u(sh)));
    const rest = f.tmp(i64.shl(sig, i64.sub(c64(64), i64.extend_u(sh))));
    const over = i32.or(i64.ne(i64.shl(rest, c64(1)), c64(0)), i32.and(i32.wrap(keep.get), c32(1)));
    const up = f.tmp(i32.and(i32.and(i64.lt_s(rest, c64(0)), over), i32.eqz(rc)));
    f.set(keep, i64.add(keep.get, i64.extend_u(up)));
    const negative = f.tmp(i64.extend_u(i32.shr_u(se, c32(15))));
    const limit = i64.shl(c64(1), i64.extend_u(i32.sub(bits, c32(1))));
    f.if(i64.lt_u(keep.get, i64.add(limit, negative)), () => {
      f.st32(base, select(i64.eqz(rest), c32(0), i32.or(c32(PE), i32.shl(up, c32(9)))), flags);
      f.ret(i64.sub(i64.xor(keep.get, i64.sub(c64(0), negative)), i64.sub(c64(0), negative)));
    });
  });
}
