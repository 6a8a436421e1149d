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
import { addUpper, BIAS, C1, coreDiv, coreMul, largerFirst, newU, PE, param, TOP, type U } from './softfloat.ts';

/** How much larger exponents are than in a double. */
const REBIAS = BIAS - 1023;

/** Whether an exponent is that of a normal number. */
function finiteNormal(e: Node): Node {
  return i32.lt_u(i32.sub(e, c32(1)), c32(0x7ffe));
}

/**
 * Emits `op_add`, `op_sub`, `op_subr`, `op_mul`, `op_div`, `op_divr`: (base, dst, source address, source in use, dn, pops), which go on in
 * `core.op`; and `ld32`, `ld64`, `ldInt`: (base, bits), which push a value from memory.
 */
export function emitX87Fast(m: Module, fn: (name: string) => FnRef, div128: FnRef): Record<string, FnRef> {
  const out: Record<string, FnRef> = {};
  const arith = (name: string, number: number, compute: (f: Fn, a: U, b: U, slow: Label) => Rounding): void => {
    const f = m.fn([I32, I32, I32, I32, I32, I32], 0);
    const [base, dst, src, ok, dn, pops] = [0, 1, 2, 3, 4, 5].map((n) => param(f, n)) as [
      Node,
      Node,
      Node,
      Node,
      Node,
      Node,
    ];
    const r = f.tmp(i32.and(i32.add(ld.i32(base, S.FTOP), dst), c32(7)));
    const at = f.tmp(i32.add(base, i32.shl(r, c32(4))));
    f.block((slow) => {
      f.brUnlikely(slow, i32.eqz(i32.and(i32.and(i32.shr_u(ld.i32(base, S.FTW), r), c32(1)), ok)));
      f.brUnlikely(slow, dn);
      f.brUnlikely(slow, i32.ne(i32.and(ld.i32(base, S.FCW), c32(0xf3f)), c32(0x33f)));
      const [a, b] = [newU(f), newU(f)];
      for (const [x, se, sig] of [
        [a, ld.i32_16u(at, S.FPR + 8), ld.i64(at, S.FPR)],
        [b, ld.i32_16u(src, 8), ld.i64(src)],
      ] as const) {
        f.set(x.s, se);
        f.set(x.e, i32.and(x.s.get, c32(0x7fff)));
        f.set(x.s, i32.shr_u(x.s.get, c32(15)));
        f.set(x.m, sig);
        f.brUnlikely(slow, i32.eqz(finiteNormal(x.e.get)));
        f.brUnlikely(slow, i64.ge_s(x.m.get, c64(0)));
      }
      const { s, e, hi, lo } = compute(f, a, b, slow);
      const up = f.tmp(
        i32.and(i64.lt_s(lo.get, c64(0)), i32.or(i64.ne(i64.shl(lo.get, c64(1)), c64(0)), i32.wrap(hi.get))),
      );
      const one = f.tmp(i32.and(up, c32(1)));
      f.set(hi, i64.add(hi.get, i64.extend_u(one)));
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
          select(i64.eqz(lo.get), c32(0), i32.or(c32(PE), i32.shl(one, c32(9)))),
        ),
        S.FSW,
      );
      f.if(pops, () => f.do(call(fn('pop'), base)));
      f.ret();
    });
    f.do(call(fn('op'), base, c32(number), dst, src, ok, dn, pops));
    out[name] = f.ref;
  };
  arith('op_mul', 1, (f, a, b) => {
    const w = { hi: f.local(I64), lo: f.local(I64) };
    f.set(a.s, i32.xor(a.s.get, b.s.get));
    coreMul(f, a, b, a.e, w);
    return { s: a.s, e: a.e, hi: w.hi, lo: w.lo };
  });
  for (const [name, number] of [
    ['op_div', 6],
    ['op_divr', 7],
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
    ['op_add', 0, null],
    ['op_sub', 4, 'b'],
    ['op_subr', 5, 'a'],
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
    const top = f.tmp(i32.and(i32.sub(ld.i32(base, S.FTOP), c32(1)), c32(7)));
    f.likely(i32.eqz(i32.and(i32.shr_u(ld.i32(base, S.FTW), top), c32(1))), () => {
      const at = f.tmp(i32.add(base, i32.shl(top, c32(4))));
      f.st64(at, sig, S.FPR);
      f.st16(at, se, S.FPR + 8);
      f.st32(base, top, S.FTOP);
      f.st32(base, i32.or(ld.i32(base, S.FTW), i32.shl(c32(1), top)), S.FTW);
      f.st32(base, i32.and(ld.i32(base, S.FSW), c32(~C1)), S.FSW);
      f.ret();
    });
  };
  const slot = (f: Fn): Node => i32.add(param(f, 0), c32(T0));
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
