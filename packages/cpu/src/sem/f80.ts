// The 80-bit format of the x87 on top of softfloat.ts: arithmetic, comparison, conversions, remainder, scaling.
// Intel SDM volume 1 chapter 8; exception rules in 8.5 and 4.9.
//
// Operands are addresses of 16-byte slots: significand (64 bits), then sign and exponent (16 bits). Results go to the
// result slot R; functions return exception flags, with C1 and condition codes at their places in the status word.
// `dn` is DE if an operand came from a denormal single or double, which its 80-bit form no longer shows.
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
import {
  type Arith,
  arithBody,
  BIAS,
  C1,
  DE,
  E_SPECIAL,
  type Ends,
  F32F,
  F64F,
  FL,
  type Fmt,
  flag,
  IE,
  isNan,
  isSpecial,
  isZero,
  newU,
  normalize,
  OE,
  PE,
  param,
  rcOf,
  roundUp,
  type SoftFns,
  shiftRightJam,
  special,
  TOP,
  type U,
  UE,
  unpack,
  type Wide,
  ZE,
} from './softfloat.ts';

/** State offset of the result slot. */
export const R: number = S.SCRATCH + 16;
/** State offset of a second result (the exponent of FXTRACT, the cosine of FSINCOS). */
export const R2: number = S.SCRATCH + 48;
/** State offset of a slot for an operand from memory. */
export const T0: number = S.SCRATCH + 64;
/** More slots for temporary values. */
export const T1: number = S.SCRATCH + 80;
export const T2: number = S.SCRATCH + 96;
/** Condition codes of an unordered comparison. */
export const CC_UNORDERED = 0x4500;
const CC_LESS = 0x100;
const CC_EQUAL = 0x4000;

/** Unpacks the slot at `addr` (a temporary). Sets `uns` for encodings that the processor does not support. */
export function unpack80(f: Fn, addr: Node, u: U, dn: Local | null, uns: Local): void {
  const se = f.tmp(ld.i32_16u(addr, 8));
  f.set(u.s, i32.shr_u(se, c32(15)));
  f.set(u.e, i32.and(se, c32(0x7fff)));
  f.set(u.m, ld.i64(addr));
  f.if(
    u.e.get,
    () => f.set(uns, i32.or(uns.get, i64.ge_s(u.m.get, c64(0)))),
    () => {
      f.if(i64.ne(u.m.get, c64(0)), () => {
        if (dn !== null) f.set(dn, c32(DE));
        // Pseudo-denormals have bit 63 set and count as exponent 1, like denormals.
        normalize(f, u, 1);
      });
    },
  );
}

/** Stores to a slot. */
export function putSlot(f: Fn, base: Node, slot: number, sig: Node, se: Node): void {
  f.st64(base, sig, slot);
  f.st32(base, se, slot + 8);
}
/** The indefinite QNaN. */
export function putIndefinite(f: Fn, base: Node, slot: number): void {
  putSlot(f, base, slot, c64hl(0xc0000000, 0), c32(0xffff));
}
/** Sign and exponent together. */
export function signExp(s: Node, e: Node): Node {
  return i32.or(i32.shl(s, c32(15)), e);
}

/**
 * Rounding to 80 bits: (base, ctl, s, e, hi, lo, flags) → flags; result in R. hi has bit 63 set; lo is exact or sticky.
 * Precision control takes effect here, with the exponent range of the 80-bit format.
 */
function emitRound80(m: Module): FnRef {
  const f = m.fn([I32, I32, I32, I32, I64, I64, I32], I32);
  const [base, ctl, s, e] = [0, 1, 2, 3].map((n) => param(f, n)) as [Node, Node, Node, Node];
  const w: Wide = { hi: f.params[4] as Local, lo: f.params[5] as Local };
  const flags = f.params[6] as Local;
  const E = f.local(I32);
  const keep = f.local(I64);
  const rem = f.local(I64);
  const up = f.local(I32);
  // Bits below the precision: 40, 11 or none. The reserved setting 1 acts as 3.
  const pc = f.tmp(i32.and(i32.shr_u(ctl, c32(8)), c32(3)));
  const drop = f.tmp(select(i32.eqz(pc), c64(40), select(i32.eq(pc, c32(2)), c64(11), c64(0))));
  const ulp = f.tmp(i64.shl(c64(1), drop));
  /** Rounds w to `keep`; whether it wrapped is for the caller to see. */
  const round = (): void => {
    f.set(keep, i64.and(w.hi.get, i64.sub(c64(0), ulp)));
    f.if(
      i64.eqz(drop),
      () => f.set(rem, w.lo.get),
      () => f.set(rem, i64.or(i64.shl(w.hi.get, i64.sub(c64(64), drop)), i64.extend_u(i64.ne(w.lo.get, c64(0))))),
    );
    f.set(up, roundUp(f, ctl, s, i64.shr_u(keep.get, drop), rem.get));
    f.if(up.get, () => f.set(keep, i64.add(keep.get, ulp)));
  };
  const inexact = (): Node => select(i64.eqz(rem.get), c32(0), i32.or(c32(PE), i32.shl(up.get, c32(9))));
  const done = (exp: Node, extra: Node): void => {
    putSlot(f, base, R, keep.get, signExp(s, exp));
    f.ret(i32.or(flags.get, extra));
  };
  f.set(E, e);
  round();
  f.if(i32.and(up.get, i64.eqz(keep.get)), () => {
    f.set(keep, TOP());
    f.set(E, i32.add(E.get, c32(1)));
  });
  f.if(i32.and(i32.gt_s(E.get, c32(0)), i32.lt_s(E.get, c32(E_SPECIAL))), () => done(E.get, inexact()));
  const infinity = (extra: Node): void => {
    putSlot(f, base, R, TOP(), signExp(s, c32(E_SPECIAL)));
    f.ret(i32.or(flags.get, extra));
  };
  f.if(i32.gt_s(E.get, c32(0)), () => {
    f.if(i32.eqz(i32.and(ctl, c32(OE))), () => {
      // Unmasked: the exponent is biased; results of FSCALE may be out of reach even so.
      f.if(i32.ge_s(E.get, c32(E_SPECIAL + 24576)), () => infinity(c32(OE | PE | C1)));
      done(i32.sub(E.get, c32(24576)), i32.or(c32(OE), inexact()));
    });
    const rc = f.tmp(rcOf(ctl));
    f.if(i32.or(i32.eqz(rc), i32.eq(rc, i32.sub(c32(2), s))), () => infinity(c32(OE | PE | C1)));
    f.set(keep, i64.sub(c64(0), ulp));
    done(c32(E_SPECIAL - 1), c32(OE | PE));
  });
  f.if(i32.eqz(i32.and(ctl, c32(UE))), () => {
    f.if(i32.le_s(E.get, c32(-24576)), () => {
      putSlot(f, base, R, c64(0), signExp(s, c32(0)));
      f.ret(i32.or(flags.get, c32(UE | PE)));
    });
    done(i32.add(E.get, c32(24576)), i32.or(c32(UE), inexact()));
  });
  shiftRightJam(f, w, f.tmp(i32.sub(c32(1), e)));
  round();
  // A carry into bit 63 makes the smallest normal number.
  done(i32.wrap(i64.shr_u(keep.get, c64(63))), select(i64.eqz(rem.get), c32(0), i32.or(c32(UE), inexact())));
  f.unreachable();
  return f.ref;
}

/**
 * NaN results: (base, a, b) → flags, result in R. A QNaN wins over an SNaN, then the larger significand, then the
 * positive one; the result is quiet. SDM table 4-7.
 */
function emitNan80(m: Module): FnRef {
  const f = m.fn([I32, I32, I32], I32);
  const [base, x, y] = [0, 1, 2].map((n) => param(f, n)) as [Node, Node, Node];
  const nan = (p: Node): Node =>
    i32.and(i32.eq(i32.and(ld.i32_16u(p, 8), c32(0x7fff)), c32(0x7fff)), i64.ne(i64.shl(ld.i64(p), c64(1)), c64(0)));
  const quiet = (p: Node): Node => i32.wrap(i64.and(i64.shr_u(ld.i64(p), c64(62)), c64(1)));
  const na = f.tmp(nan(x));
  const nb = f.tmp(nan(y));
  const qa = f.tmp(i32.and(na, quiet(x)));
  const qb = f.tmp(i32.and(nb, quiet(y)));
  const win = f.local(I32);
  f.set(win, x);
  f.if(
    i32.and(na, nb),
    () => {
      f.if(
        i32.ne(qa, qb),
        () => f.set(win, select(qa, x, y)),
        () => {
          f.if(
            i64.eq(ld.i64(x), ld.i64(y)),
            () => f.set(win, select(i32.lt_u(ld.i32_16u(y, 8), ld.i32_16u(x, 8)), y, x)),
            () => f.set(win, select(i64.gt_u(ld.i64(x), ld.i64(y)), x, y)),
          );
        },
      );
    },
    () => f.set(win, select(na, x, y)),
  );
  putSlot(f, base, R, i64.or(ld.i64(win.get), c64hl(0x40000000, 0)), ld.i32_16u(win.get, 8));
  // IE when one of them is an SNaN.
  f.emit(i32.or(i32.ne(na, qa), i32.ne(nb, qb)));
  return f.ref;
}

/** What the functions below share: parameters (base, ctl, a, b, dn), and ways to leave. */
interface Ctx80 {
  readonly f: Fn;
  readonly base: Node;
  readonly ctl: Node;
  readonly x: Node;
  readonly y: Node;
  readonly ends: Ends;
}
interface Core80 {
  readonly round: FnRef;
  readonly nan: FnRef;
}

function start(m: Module, core: Core80, unary: boolean, fullPrecision: boolean): Ctx80 {
  const f = m.fn([I32, I32, I32, I32, I32], I32);
  const [base, ctl0, x, y, dn0] = [0, 1, 2, 3, 4].map((n) => param(f, n)) as [Node, Node, Node, Node, Node];
  const ctl = fullPrecision ? f.tmp(i32.or(ctl0, c32(0x300))) : ctl0;
  const second = unary ? x : y;
  const fin: Ends['fin'] = (kind, s, flags) => {
    if (kind === 'nan') putIndefinite(f, base, R);
    else if (kind === 'inf') putSlot(f, base, R, TOP(), signExp(s, c32(E_SPECIAL)));
    else putSlot(f, base, R, c64(0), signExp(s, c32(0)));
    f.ret(flags);
  };
  const ends: Ends = {
    rc: f.tmp(rcOf(ctl)),
    unpack: (a, b, dn) => {
      const uns = f.local(I32);
      f.set(dn, dn0);
      unpack80(f, x, a, dn, uns);
      if (b !== null) unpack80(f, y, b, dn, uns);
      f.if(uns.get, () => fin('nan', c32(0), c32(IE)));
    },
    nan: () => f.ret(call(core.nan, base, x, second)),
    fin,
    round: (s, e, w, flags) => f.ret(call(core.round, base, ctl, s, e, w.hi.get, w.lo.get, flags)),
  };
  return { f, base, ctl, x, y, ends };
}

function emitArith80(m: Module, core: Core80, op: Arith, div128: FnRef): FnRef {
  const t = start(m, core, op === 'sqrt', false);
  arithBody(t.f, op, t.ends, div128);
  return t.f.ref;
}

/** (base, quietToo, a, b, dn) → flags with condition codes; `quietToo`: a QNaN is invalid as well. */
function emitCompare80(m: Module): FnRef {
  const f = m.fn([I32, I32, I32, I32, I32], I32);
  const [x, y] = [param(f, 2), param(f, 3)] as const;
  const dn = f.params[4] as Local;
  const a = newU(f);
  const b = newU(f);
  const uns = f.local(I32);
  unpack80(f, x, a, dn, uns);
  unpack80(f, y, b, dn, uns);
  f.if(uns.get, () => f.ret(c32(IE | CC_UNORDERED)));
  f.if(i32.or(isNan(a), isNan(b)), () => {
    const signaling = (u: U): Node => i32.and(isNan(u), i64.eqz(i64.and(u.m.get, c64hl(0x40000000, 0))));
    f.ret(i32.or(c32(CC_UNORDERED), select(i32.or(param(f, 1), i32.or(signaling(a), signaling(b))), c32(IE), c32(0))));
  });
  const ret = (cc: Node): void => f.ret(i32.or(dn.get, cc));
  f.if(i32.and(isZero(a), isZero(b)), () => ret(c32(CC_EQUAL)));
  // A zero has exponent and significand 0 here, so magnitudes compare as they are; its sign must not count.
  const sa = f.tmp(i32.and(a.s.get, i64.ne(a.m.get, c64(0))));
  const sb = f.tmp(i32.and(b.s.get, i64.ne(b.m.get, c64(0))));
  f.if(i32.ne(sa, sb), () => ret(select(sa, c32(CC_LESS), c32(0))));
  // Signs are equal now, or one is zero and the other positive, whose exponent may be below 0 after normalization.
  f.if(isZero(a), () => ret(c32(CC_LESS)));
  f.if(isZero(b), () => ret(c32(0)));
  const less = i32.or(i32.lt_s(a.e.get, b.e.get), i32.and(i32.eq(a.e.get, b.e.get), i64.lt_u(a.m.get, b.m.get)));
  const same = i32.and(i32.eq(a.e.get, b.e.get), i64.eq(a.m.get, b.m.get));
  f.if(same, () => ret(c32(CC_EQUAL)));
  ret(select(i32.xor(less, sa), c32(CC_LESS), c32(0)));
  f.unreachable();
  return f.ref;
}

/**
 * FPREM and FPREM1: flags, C2 while incomplete, the quotient's low bits in C0, C3, C1. An incomplete step takes away
 * between 32 and 63 bits of the exponent difference.
 */
function emitRem80(m: Module, core: Core80, nearest: boolean): FnRef {
  const { f, base, ctl, ends } = start(m, core, false, true);
  const a = newU(f);
  const b = newU(f);
  const dn = f.local(I32);
  ends.unpack(a, b, dn);
  f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
    f.if(i32.or(isNan(a), isNan(b)), () => ends.nan());
    f.if(isSpecial(a), () => ends.fin('nan', c32(0), c32(IE)));
    // The divisor is infinite: the dividend stays.
    f.if(isZero(a), () => ends.fin('zero', a.s.get, dn.get));
    f.ret(call(core.round, base, ctl, a.s.get, a.e.get, a.m.get, c64(0), dn.get));
  });
  f.if(isZero(b), () => ends.fin('nan', c32(0), c32(IE)));
  f.if(isZero(a), () => ends.fin('zero', a.s.get, dn.get));
  const d = f.tmp(i32.sub(a.e.get, b.e.get));
  const q = f.local(I64);
  const r = f.local(I64);
  const n = f.local(I32);
  const carry = f.local(I32);
  const e = f.local(I32);
  const flags = f.local(I32);
  const s = f.local(I32);
  f.set(flags, dn.get);
  f.set(s, a.s.get);
  f.set(r, a.m.get);
  const finish = (): void => {
    f.if(i64.eqz(r.get), () => ends.fin('zero', a.s.get, flags.get));
    const z = f.tmp(i64.clz(r.get));
    f.ret(call(core.round, base, ctl, s.get, i32.sub(e.get, i32.wrap(z)), i64.shl(r.get, z), c64(0), flags.get));
  };
  const bits = (): void => {
    const qq = f.tmp(i32.wrap(q.get));
    f.set(
      flags,
      i32.or(
        flags.get,
        i32.or(
          i32.shl(i32.and(qq, c32(1)), c32(9)),
          i32.or(i32.shl(i32.and(qq, c32(2)), c32(13)), i32.shl(i32.and(qq, c32(4)), c32(6))),
        ),
      ),
    );
  };
  // Below the divisor: nothing to take away, but FPREM1 may round the quotient up to 1.
  f.if(i32.lt_s(d, c32(nearest ? -1 : 0)), () => {
    f.ret(call(core.round, base, ctl, a.s.get, a.e.get, a.m.get, c64(0), dn.get));
  });
  f.set(e, b.e.get);
  if (nearest) {
    f.if(i32.eq(d, c32(-1)), () => {
      // a = r/2 in units of b's last place: above b/2 exactly when r > b.
      f.if(i64.le_u(r.get, b.m.get), () =>
        f.ret(call(core.round, base, ctl, a.s.get, a.e.get, a.m.get, c64(0), dn.get)),
      );
      f.set(flags, i32.or(flags.get, c32(C1)));
      f.set(s, i32.xor(s.get, c32(1)));
      // b - a with one more bit below: 2b - r.
      f.set(r, i64.sub(i64.shl(b.m.get, c64(1)), r.get));
      f.set(e, i32.sub(e.get, c32(1)));
      finish();
    });
  }
  f.set(n, d);
  const partial = f.local(I32);
  f.if(i32.gt_s(d, c32(63)), () => {
    f.set(partial, c32(1));
    f.set(n, i32.or(i32.and(d, c32(31)), c32(32)));
    f.set(e, i32.sub(a.e.get, n.get));
  });
  // Long division, one bit at a time; r ends up in units of 2^(e - 63).
  f.block((out) => {
    f.loop((again) => {
      f.set(q, i64.shl(q.get, c64(1)));
      f.if(i32.or(carry.get, i64.ge_u(r.get, b.m.get)), () => {
        f.set(r, i64.sub(r.get, b.m.get));
        f.set(q, i64.or(q.get, c64(1)));
      });
      f.brIf(out, i32.eqz(n.get));
      f.set(n, i32.sub(n.get, c32(1)));
      f.set(carry, i32.wrap(i64.shr_u(r.get, c64(63))));
      f.set(r, i64.shl(r.get, c64(1)));
      f.br(again);
    });
  });
  f.if(partial.get, () => {
    f.set(flags, i32.or(flags.get, c32(0x400)));
    finish();
  });
  if (nearest) {
    // r < b: compare 2r with b.
    const over = f.tmp(i64.sub(b.m.get, r.get));
    f.if(i32.or(i64.gt_u(r.get, over), i32.and(i64.eq(r.get, over), i32.wrap(i64.and(q.get, c64(1))))), () => {
      f.set(r, over);
      f.set(s, i32.xor(s.get, c32(1)));
      f.set(q, i64.add(q.get, c64(1)));
    });
  }
  bits();
  finish();
  f.unreachable();
  return f.ref;
}

/** FRNDINT. */
function emitRint80(m: Module, core: Core80): FnRef {
  const { f, base, ctl, x, ends } = start(m, core, true, true);
  const a = newU(f);
  const dn = f.local(I32);
  ends.unpack(a, null, dn);
  const same = (flags: Node): void => {
    putSlot(f, base, R, ld.i64(x), ld.i32_16u(x, 8));
    f.ret(flags);
  };
  f.if(isSpecial(a), () => {
    f.if(isNan(a), () => ends.nan());
    same(c32(0));
  });
  f.if(isZero(a), () => same(c32(0)));
  const sh = f.tmp(i32.sub(c32(BIAS + 63), a.e.get));
  f.if(i32.le_s(sh, c32(0)), () => same(dn.get));
  const up = f.local(I32);
  const keep = f.local(I64);
  const rem = f.local(I64);
  const sh64 = f.tmp(i64.extend_u(sh));
  f.if(
    i32.lt_u(sh, c32(64)),
    () => {
      f.set(keep, i64.shr_u(a.m.get, sh64));
      f.set(rem, i64.shl(a.m.get, i64.sub(c64(64), sh64)));
    },
    () => f.set(rem, select(i32.eq(sh, c32(64)), a.m.get, c64(1))),
  );
  f.set(up, roundUp(f, ctl, a.s.get, keep.get, rem.get));
  const flags = f.tmp(i32.or(dn.get, select(i64.eqz(rem.get), c32(0), i32.or(c32(PE), i32.shl(up.get, c32(9))))));
  f.set(keep, i64.add(keep.get, i64.extend_u(up.get)));
  f.if(i64.eqz(keep.get), () => ends.fin('zero', a.s.get, flags));
  const z = f.tmp(i64.clz(keep.get));
  putSlot(f, base, R, i64.shl(keep.get, z), signExp(a.s.get, i32.sub(c32(BIAS + 63), i32.wrap(z))));
  f.emit(flags);
  return f.ref;
}

/** FSCALE: a · 2^trunc(b). */
function emitScale80(m: Module, core: Core80): FnRef {
  const { f, base, ctl, x, ends } = start(m, core, false, true);
  const a = newU(f);
  const b = newU(f);
  const dn = f.local(I32);
  ends.unpack(a, b, dn);
  const same = (flags: Node): void => {
    putSlot(f, base, R, ld.i64(x), ld.i32_16u(x, 8));
    f.ret(flags);
  };
  f.if(i32.or(isSpecial(a), isSpecial(b)), () => {
    f.if(i32.or(isNan(a), isNan(b)), () => ends.nan());
    f.if(isSpecial(b), () => {
      f.if(
        b.s.get,
        () => {
          f.if(isSpecial(a), () => ends.fin('nan', c32(0), c32(IE)));
          ends.fin('zero', a.s.get, dn.get);
        },
        () => {
          f.if(isZero(a), () => ends.fin('nan', c32(0), c32(IE)));
          ends.fin('inf', a.s.get, dn.get);
        },
      );
    });
    same(dn.get);
  });
  f.if(isZero(a), () => ends.fin('zero', a.s.get, dn.get));
  const n = f.local(I32);
  const sh = f.tmp(i32.sub(b.e.get, c32(BIAS)));
  f.if(i32.and(i64.ne(b.m.get, c64(0)), i32.ge_s(sh, c32(0))), () => {
    f.if(
      i32.gt_s(sh, c32(16)),
      () => f.set(n, c32(0x20000)),
      () => f.set(n, i32.wrap(i64.shr_u(b.m.get, i64.extend_u(i32.sub(c32(63), sh))))),
    );
    f.if(b.s.get, () => f.set(n, i32.sub(c32(0), n.get)));
  });
  f.emit(call(core.round, base, ctl, a.s.get, i32.add(a.e.get, n.get), a.m.get, c64(0), dn.get));
  return f.ref;
}

/** FXTRACT: the significand goes to R, the exponent as a number to R2. */
function emitExtract80(m: Module, core: Core80): FnRef {
  const { f, base, ends } = start(m, core, true, true);
  const a = newU(f);
  const dn = f.local(I32);
  const uns = f.local(I32);
  const x = param(f, 2);
  unpack80(f, x, a, dn, uns);
  f.if(uns.get, () => {
    putIndefinite(f, base, R2);
    ends.fin('nan', c32(0), c32(IE));
  });
  f.if(isSpecial(a), () => {
    f.if(isNan(a), () => {
      const fl = f.tmp(call(core.nan, base, x, x));
      putSlot(f, base, R2, ld.i64(base, R), ld.i32(base, R + 8));
      f.ret(fl);
    });
    putSlot(f, base, R2, TOP(), c32(0x7fff));
    ends.fin('inf', a.s.get, c32(0));
  });
  f.if(isZero(a), () => {
    putSlot(f, base, R2, TOP(), c32(0xffff));
    ends.fin('zero', a.s.get, c32(ZE));
  });
  putSlot(f, base, R, a.m.get, signExp(a.s.get, c32(BIAS)));
  const n = f.tmp(i32.sub(a.e.get, c32(BIAS)));
  const s = f.tmp(i32.shr_u(n, c32(31)));
  const mag = f.tmp(i64.extend_u(select(s, i32.sub(c32(0), n), n)));
  f.if(
    i64.eqz(mag),
    () => putSlot(f, base, R2, c64(0), c32(0)),
    () => {
      const z = f.tmp(i64.clz(mag));
      putSlot(f, base, R2, i64.shl(mag, z), signExp(s, i32.sub(c32(BIAS + 63), i32.wrap(z))));
    },
  );
  f.emit(dn.get);
  return f.ref;
}

/**
 * In a function (base, ctl, slot address): returns the double or single nearest to a normal number whose result is one, with
 * PE and C1 added to `flags`; goes on otherwise.
 */
function storeNormal(f: Fn, bits: 32 | 64, addFlags: (v: Node) => void): void {
  const [ctl, x] = [param(f, 1), param(f, 2)] as const;
  const drop = bits === 64 ? 11 : 40;
  const maxE = bits === 64 ? 2045 : 253;
  const se = f.tmp(ld.i32_16u(x, 8));
  const sig = f.tmp(ld.i64(x));
  const e = f.tmp(i32.sub(i32.and(se, c32(0x7fff)), c32(bits === 64 ? BIAS - 1023 : BIAS - 127)));
  const fits = i32.and(i32.lt_u(i32.sub(e, c32(1)), c32(maxE)), i64.lt_s(sig, c64(0)));
  f.if(i32.and(fits, i32.eqz(i32.and(ctl, c32(0xc00)))), () => {
    const rest = f.tmp(i64.shl(sig, c64(64 - drop)));
    const kept = f.tmp(i64.shr_u(sig, c64(drop)));
    const up = f.tmp(
      i32.and(i64.lt_s(rest, c64(0)), i32.or(i64.ne(i64.shl(rest, c64(1)), c64(0)), i32.and(i32.wrap(kept), c32(1)))),
    );
    f.if(i64.ne(rest, c64(0)), () => addFlags(i32.or(c32(PE), i32.shl(up, c32(9)))));
    // A carry out of the fraction goes into the exponent.
    const width = bits === 64 ? 52 : 23;
    const fraction = i64.and(kept, bits === 64 ? c64hl(0xfffff, -1) : c64(0x7fffff));
    const r = i64.add(
      i64.or(i64.shl(i64.extend_u(e), c64(width)), fraction),
      i64.or(i64.extend_u(up), i64.shl(i64.extend_u(i32.shr_u(se, c32(15))), c64(bits - 1))),
    );
    f.ret(bits === 64 ? r : i32.wrap(r));
  });
}

/** (base, ctl, a) → bits of a narrower format; flags to FL. */
function emitStore(m: Module, fmt: Fmt, round: FnRef): FnRef {
  const f = m.fn([I32, I32, I32], fmt.ty);
  const [base, ctl, x] = [0, 1, 2].map((n) => param(f, n)) as [Node, Node, Node];
  storeNormal(f, fmt.bits === 64 ? 64 : 32, (v) => flag(f, base, v));
  const a = newU(f);
  const uns = f.local(I32);
  unpack80(f, x, a, null, uns);
  f.if(uns.get, () => {
    flag(f, base, c32(IE));
    f.ret(special(fmt, 'nan', c32(1)));
  });
  f.if(isSpecial(a), () => {
    f.if(i32.eqz(isNan(a)), () => f.ret(special(fmt, 'inf', a.s.get)));
    f.if(i64.eqz(i64.and(a.m.get, c64hl(0x40000000, 0))), () => flag(f, base, c32(IE)));
    if (fmt.bits === 64)
      f.ret(
        i64.or(
          i64.or(i64.shl(i64.extend_u(a.s.get), c64(63)), c64hl(0x7ff80000, 0)),
          i64.and(i64.shr_u(a.m.get, c64(11)), c64hl(0x0007ffff, -1)),
        ),
      );
    else
      f.ret(
        i32.or(
          i32.or(i32.shl(a.s.get, c32(31)), c32(0x7fc00000)),
          i32.and(i32.wrap(i64.shr_u(a.m.get, c64(40))), c32(0x3fffff)),
        ),
      );
  });
  f.if(isZero(a), () => f.ret(special(fmt, 'zero', a.s.get)));
  f.emit(call(round, base, ctl, a.s.get, a.e.get, a.m.get));
  return f.ref;
}

/** (dst slot address, bits) → DE for a denormal, IE for an SNaN (which stays one); the slot receives the value. */
function emitExpand(m: Module, fmt: Fmt): FnRef {
  const f = m.fn([I32, fmt.ty], I32);
  const dst = param(f, 0);
  const u = newU(f);
  const dn = f.local(I32);
  unpack(f, fmt, param(f, 1), u, dn, c32(0));
  f.st64(dst, u.m.get);
  f.st16(dst, signExp(u.s.get, u.e.get), 8);
  f.emit(i32.or(dn.get, i32.and(isNan(u), i64.eqz(i64.and(u.m.get, c64hl(0x40000000, 0))))));
  return f.ref;
}

/** (dst slot address, integer). */
function emitFromInt80(m: Module): FnRef {
  const f = m.fn([I32, I64], 0);
  const dst = param(f, 0);
  const v = f.params[1] as Local;
  const s = f.tmp(i32.wrap(i64.shr_u(v.get, c64(63))));
  f.if(i64.eqz(v.get), () => {
    f.st64(dst, c64(0));
    f.st16(dst, c32(0), 8);
    f.ret();
  });
  f.if(s, () => f.set(v, i64.sub(c64(0), v.get)));
  const z = f.tmp(i64.clz(v.get));
  f.st64(dst, i64.shl(v.get, z));
  f.st16(dst, signExp(s, i32.sub(c32(BIAS + 63), i32.wrap(z))), 8);
  return f.ref;
}

/** (base, ctl, a, bits) → integer; flags to FL. */
function emitToInt80(m: Module, toInt: FnRef): FnRef {
  const f = m.fn([I32, I32, I32, I32], I64);
  const [base, ctl, x, bits] = [0, 1, 2, 3].map((n) => param(f, n)) as [Node, Node, Node, Node];
  const a = newU(f);
  const uns = f.local(I32);
  unpack80(f, x, a, null, uns);
  f.emit(
    call(
      toInt,
      base,
      ctl,
      a.s.get,
      // Unsupported encodings are invalid like NaNs.
      select(uns.get, c32(E_SPECIAL), a.e.get),
      select(uns.get, TOP(), a.m.get),
      bits,
    ),
  );
  return f.ref;
}

/** (base, lo, hi): packed decimal of 18 digits and a sign → R. Digits above 9 give some number, as on processors. */
function emitFromBcd(m: Module, fromInt: FnRef): FnRef {
  const f = m.fn([I32, I64, I32], 0);
  const [base, lo, hi] = [0, 1, 2].map((n) => param(f, n)) as [Node, Node, Node];
  const v = f.local(I64);
  const n = f.local(I32);
  const digit = (d: Node): void => f.set(v, i64.add(i64.mul(v.get, c64(10)), d));
  digit(i64.extend_u(i32.and(i32.shr_u(hi, c32(4)), c32(15))));
  digit(i64.extend_u(i32.and(hi, c32(15))));
  f.set(n, c32(60));
  f.loop((again) => {
    digit(i64.and(i64.shr_u(lo, i64.extend_u(n.get)), c64(15)));
    f.set(n, i32.sub(n.get, c32(4)));
    f.brIf(again, i32.ge_s(n.get, c32(0)));
  });
  f.do(call(fromInt, i32.add(base, c32(R)), v.get));
  f.st32(base, i32.or(ld.i32_16u(base, R + 8), i32.and(hi, c32(0x8000))), R + 8);
  return f.ref;
}

/** (base, ctl, a) → low 64 bits of the packed decimal; the top 16 at R. Flags to FL. */
function emitToBcd(m: Module, toInt: FnRef): FnRef {
  const f = m.fn([I32, I32, I32], I64);
  const [base, ctl, x] = [0, 1, 2].map((n) => param(f, n)) as [Node, Node, Node];
  const before = f.tmp(ld.i32(base, FL));
  const s = f.tmp(i32.and(ld.i32_16u(x, 8), c32(0x8000)));
  const v = f.local(I64);
  f.set(v, call(toInt, base, ctl, x, c32(64)));
  f.if(i64.lt_s(v.get, c64(0)), () => f.set(v, i64.sub(c64(0), v.get)));
  f.if(i32.or(i32.and(ld.i32(base, FL), c32(IE)), i64.gt_u(v.get, c64hl(0x0de0b6b3, 0xa763ffff))), () => {
    f.st32(base, i32.or(before, c32(IE)), FL);
    f.st32(base, c32(0xffff), R);
    f.ret(c64hl(0xc0000000, 0));
  });
  const out = f.local(I64);
  const n = f.local(I64);
  f.loop((again) => {
    f.set(out, i64.or(out.get, i64.shl(i64.rem_u(v.get, c64(10)), n.get)));
    f.set(v, i64.div_u(v.get, c64(10)));
    f.set(n, i64.add(n.get, c64(4)));
    f.brIf(again, i64.lt_u(n.get, c64(64)));
  });
  const top = i32.wrap(i64.or(i64.rem_u(v.get, c64(10)), i64.shl(i64.div_u(v.get, c64(10)), c64(4))));
  f.st32(base, i32.or(s, top), R);
  f.emit(out.get);
  return f.ref;
}

/** (base, a) → class and sign as condition codes of FXAM, for a register that is not empty. */
function emitExam(m: Module): FnRef {
  const f = m.fn([I32], I32);
  const x = param(f, 0);
  const se = f.tmp(ld.i32_16u(x, 8));
  const e = f.tmp(i32.and(se, c32(0x7fff)));
  const sig = f.tmp(ld.i64(x));
  const sign = f.tmp(i32.shl(i32.shr_u(se, c32(15)), c32(9)));
  const ret = (cc: number): void => f.ret(i32.or(sign, c32(cc)));
  f.if(i32.eqz(e), () => {
    f.if(i64.eqz(sig), () => ret(0x4000));
    ret(0x4400);
  });
  f.if(i64.ge_s(sig, c64(0)), () => ret(0));
  f.if(i32.eq(e, c32(0x7fff)), () => {
    f.if(i64.eqz(i64.shl(sig, c64(1))), () => ret(0x500));
    ret(0x100);
  });
  ret(0x400);
  f.unreachable();
  return f.ref;
}

/** Functions on 80-bit numbers, by name. */
export interface F80Fns {
  /** (base, ctl, s, e, hi, lo, flags) → flags. */
  readonly round: FnRef;
  /** (base, a, b) → flags. */
  readonly nan: FnRef;
  /** (dst, integer). */
  readonly fromInt: FnRef;
  readonly named: Readonly<Record<string, FnRef>>;
}

/** Emits the functions on 80-bit numbers. */
export function emitF80(m: Module, soft: SoftFns): F80Fns {
  const core: Core80 = { round: emitRound80(m), nan: emitNan80(m) };
  const fromInt = emitFromInt80(m);
  const toInt = emitToInt80(m, soft.toInt);
  const named: Record<string, FnRef> = {};
  for (const op of ['add', 'sub', 'mul', 'div', 'sqrt'] as const)
    named[`${op}80`] = emitArith80(m, core, op, soft.div128);
  named['compare80'] = emitCompare80(m);
  named['rem80'] = emitRem80(m, core, false);
  named['rem1_80'] = emitRem80(m, core, true);
  named['rint80'] = emitRint80(m, core);
  named['scale80'] = emitScale80(m, core);
  named['extract80'] = emitExtract80(m, core);
  named['store32'] = emitStore(m, F32F, soft.round32);
  named['store64'] = emitStore(m, F64F, soft.round64);
  named['expand32'] = emitExpand(m, F32F);
  named['expand64'] = emitExpand(m, F64F);
  named['fromInt80'] = fromInt;
  named['toInt80'] = toInt;
  named['fromBcd'] = emitFromBcd(m, fromInt);
  named['toBcd'] = emitToBcd(m, toInt);
  named['exam80'] = emitExam(m);
  return { ...core, fromInt, named };
}
