// x87 instructions other than control: loads, stores, arithmetic, comparison, transcendental. Intel SDM volume 1
// chapter 8. Each handler checks for a pending exception, does its memory access, and leaves the rest to functions of the
// main module, which are shared by all operand forms.
import { Kind, OP } from '@hyve/x86';
import { is64Bit, NUM, type Num, type Semantic, type SemCtx } from '../ctx.ts';
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
import { CC_UNORDERED, type F80Fns, putIndefinite, putSlot, R, R2, T0 } from './f80.ts';
import { probeWrite, setZpc } from './simd-int.ts';
import { C1, DE, FL, IE, PE, param, SF } from './softfloat.ts';
import { checkPending } from './vec.ts';
import { x87ControlSemantics } from './x87-control.ts';
import {
  clearC1,
  compareNormal,
  emitX87Fast,
  floatNormal,
  inlinePop,
  inlinePut,
  integerNormal,
  registerOf,
} from './x87-fast.ts';

/** Address of ST(i) (i32 node). */
function st(base: Node, i: Node): Node {
  return i32.add(base, i32.shl(registerOf(base, i), c32(4)));
}
/** Whether ST(i) is in use: 0 or 1. */
function used(base: Node, i: Node): Node {
  return i32.and(i32.shr_u(ld.i32(base, S.FTW), registerOf(base, i)), c32(1));
}
/** Control word for the functions of f80.ts. */
function control(base: Node): Node {
  return i32.and(ld.i32(base, S.FCW), c32(0xf3f));
}

const CC_ALL = 0x4700;

/** Helper functions that x87 semantics call by name (x87_…). */
function emitCore(m: Module): Record<string, FnRef> {
  // (base, flags) → flags that are not masked. Sets C1 as in `flags`, ES and B when something is not masked.
  const signal = m.fn([I32, I32], I32);
  {
    const f = signal;
    const b = param(f, 0);
    const fl = f.params[1] as Local;
    const open = f.tmp(i32.and(i32.and(fl.get, i32.xor(ld.i32(b, S.FCW), c32(-1))), c32(0x3f)));
    // Unmasked IE, DE and ZE stop the operation before there is a result: nothing else is reported.
    f.if(i32.and(open, c32(7)), () =>
      f.set(fl, i32.and(fl.get, select(i32.and(fl.get, c32(SF)), c32(7 | SF | C1), c32(7)))),
    );
    f.st32(
      b,
      i32.or(
        i32.or(i32.and(ld.i32(b, S.FSW), c32(~C1)), i32.and(fl.get, c32(0x7f | C1))),
        select(open, c32(0x8080), c32(0)),
      ),
      S.FSW,
    );
    f.emit(open);
  }
  // (base)
  const pop = m.fn([I32], 0);
  {
    const f = pop;
    inlinePop(f, param(f, 0));
  }
  // (base, i, sig, se): writes ST(i) and marks it used.
  const put = m.fn([I32, I32, I64, I32], 0);
  {
    const f = put;
    const b = param(f, 0);
    inlinePut(f, b, f.tmp(registerOf(b, param(f, 1))), param(f, 2), param(f, 3));
  }
  // (base, sig, se): pushes; the register must be empty or may be lost.
  const pushRaw = m.fn([I32, I64, I32], 0);
  {
    const f = pushRaw;
    const b = param(f, 0);
    const top = f.tmp(registerOf(b, c32(-1)));
    f.st32(b, top, S.FTOP);
    inlinePut(f, b, top, param(f, 1), param(f, 2));
  }
  const indefinite = [c64hl(0xc0000000, 0), c32(0xffff)] as const;
  const full = (b: Node): Node => used(b, c32(-1));

  // (base, slot address, flags): pushes what is in the slot, unless the stack is full or an unmasked IE says no.
  const load = m.fn([I32, I32, I32], 0);
  {
    const f = load;
    const [b, slot, fl] = [param(f, 0), param(f, 1), param(f, 2)] as const;
    f.likely(i32.eqz(i32.or(full(b), fl)), () => {
      clearC1(f, b);
      f.do(call(pushRaw.ref, b, ld.i64(slot), ld.i32_16u(slot, 8)));
      f.ret();
    });
    f.if(full(b), () => {
      f.if(i32.eqz(call(signal.ref, b, c32(IE | SF | C1))), () => f.do(call(pushRaw.ref, b, ...indefinite)));
      f.ret();
    });
    // An unmasked denormal exception still lets the value through.
    f.if(i32.and(call(signal.ref, b, fl), c32(IE)), () => f.ret());
    // An invalid operand is an SNaN: it becomes quiet.
    const quiet = select(i32.and(fl, c32(IE)), c64hl(0x40000000, 0), c64(0));
    f.do(call(pushRaw.ref, b, i64.or(ld.i64(slot), quiet), ld.i32_16u(slot, 8)));
  }
  // (base, i): FLD ST(i)
  const loadSt = m.fn([I32, I32], 0);
  {
    const f = loadSt;
    const [b, i] = [param(f, 0), param(f, 1)] as const;
    f.if(used(b, i), () => {
      const from = f.tmp(st(b, i));
      f.likely(i32.eqz(full(b)), () => {
        clearC1(f, b);
        f.do(call(pushRaw.ref, b, ld.i64(from, S.FPR), ld.i32_16u(from, S.FPR + 8)));
        f.ret();
      });
      f.do(call(load.ref, b, i32.add(from, c32(S.FPR)), c32(0)));
      f.ret();
    });
    f.if(i32.eqz(call(signal.ref, b, c32(IE | SF))), () => f.do(call(pushRaw.ref, b, ...indefinite)));
  }
  // (base, i, pops): stack underflow with destination ST(i).
  const under = m.fn([I32, I32, I32], 0);
  {
    const f = under;
    const [b, i, pops] = [param(f, 0), param(f, 1), param(f, 2)] as const;
    f.if(call(signal.ref, b, c32(IE | SF)), () => f.ret());
    f.do(call(put.ref, b, i, ...indefinite));
    f.if(pops, () => f.do(call(pop.ref, b)));
  }
  // (base, i, pops, flags): result R to ST(i).
  const finish = m.fn([I32, I32, I32, I32], 0);
  {
    const f = finish;
    const [b, i, pops, fl] = [0, 1, 2, 3].map((n) => param(f, n)) as [Node, Node, Node, Node];
    // Unmasked IE, DE and ZE leave the operands alone; the others deliver a result.
    f.if(i32.and(call(signal.ref, b, fl), c32(7)), () => f.ret());
    f.do(call(put.ref, b, i, ld.i64(b, R), ld.i32(b, R + 8)));
    f.if(pops, () => f.do(call(pop.ref, b)));
  }
  // (base, i, pops, opcode): FST ST(i)
  const storeSt = m.fn([I32, I32, I32, I32], 0);
  {
    const f = storeSt;
    const [b, i, pops] = [param(f, 0), param(f, 1), param(f, 2)] as const;
    f.if(i32.eqz(used(b, c32(0))), () => {
      // D9 D8+i only pops an empty register, without an exception.
      f.if(i32.eq(i32.and(param(f, 3), c32(0x7f8)), c32(0x1d8)), () => {
        clearC1(f, b);
        f.do(call(pop.ref, b));
        f.ret();
      });
      f.do(call(under.ref, b, i, pops));
      f.ret();
    });
    clearC1(f, b);
    const a = f.tmp(st(b, c32(0)));
    inlinePut(f, b, f.tmp(registerOf(b, i)), ld.i64(a, S.FPR), ld.i32_16u(a, S.FPR + 8));
    f.if(pops, () => inlinePop(f, b));
  }
  // (base, i): FXCH
  const exchange = m.fn([I32, I32], 0);
  {
    const f = exchange;
    const [b, i] = [param(f, 0), param(f, 1)] as const;
    f.if(
      i32.and(used(b, c32(0)), used(b, i)),
      () => clearC1(f, b),
      () => {
        f.if(call(signal.ref, b, c32(IE | SF)), () => f.ret());
        for (const k of [c32(0), i]) f.if(i32.eqz(used(b, k)), () => f.do(call(put.ref, b, k, ...indefinite)));
      },
    );
    const x = f.tmp(st(b, c32(0)));
    const y = f.tmp(st(b, i));
    const sig = f.tmp(ld.i64(x, S.FPR));
    const se = f.tmp(ld.i32_16u(x, S.FPR + 8));
    f.st64(x, ld.i64(y, S.FPR), S.FPR);
    f.st16(x, ld.i32_16u(y, S.FPR + 8), S.FPR + 8);
    f.st64(y, sig, S.FPR);
    f.st16(y, se, S.FPR + 8);
  }
  // (base, i, condition): FCMOVcc
  const cmov = m.fn([I32, I32, I32], 0);
  {
    const f = cmov;
    const [b, i] = [param(f, 0), param(f, 1)] as const;
    f.if(i32.eqz(i32.and(used(b, c32(0)), used(b, i))), () => {
      f.do(call(under.ref, b, c32(0), c32(0)));
      f.ret();
    });
    f.if(param(f, 2), () => {
      const y = f.tmp(st(b, i));
      f.do(call(put.ref, b, c32(0), ld.i64(y, S.FPR), ld.i32_16u(y, S.FPR + 8)));
    });
  }
  // (base, and mask, xor mask): FCHS, FABS
  const signBit = m.fn([I32, I32, I32], 0);
  {
    const f = signBit;
    const b = param(f, 0);
    f.if(i32.eqz(used(b, c32(0))), () => {
      f.do(call(under.ref, b, c32(0), c32(0)));
      f.ret();
    });
    clearC1(f, b);
    const a = f.tmp(st(b, c32(0)));
    f.st16(a, i32.xor(i32.and(ld.i32_16u(a, S.FPR + 8), param(f, 1)), param(f, 2)), S.FPR + 8);
  }
  // (base, flags, pops): after a store to memory; pops unless an unmasked exception prevented the store.
  const stored = m.fn([I32, I32, I32], 0);
  {
    const f = stored;
    const b = param(f, 0);
    const fl = f.params[1] as Local;
    // The usual case: exact, or inexact and masked.
    f.likely(i32.eqz(i32.and(fl.get, i32.xor(i32.and(ld.i32(b, S.FCW), c32(PE)), c32(~C1)))), () => {
      f.st32(b, i32.or(i32.and(ld.i32(b, S.FSW), c32(~C1)), fl.get), S.FSW);
      f.if(param(f, 2), () => f.do(call(pop.ref, b)));
      f.ret();
    });
    // Nothing was rounded if unmasked overflow or underflow prevented the store.
    f.if(i32.and(i32.and(fl.get, i32.xor(ld.i32(b, S.FCW), c32(-1))), c32(0x18)), () =>
      f.set(fl, i32.and(fl.get, c32(0x1f))),
    );
    f.if(i32.and(call(signal.ref, b, fl.get), c32(0x1f)), () => f.ret());
    f.if(param(f, 2), () => f.do(call(pop.ref, b)));
  }
  // (base, linear address, segment number): pointer to the operand.
  const operand = m.fn([I32, I64, I32], 0);
  {
    const f = operand;
    const b = param(f, 0);
    const seg = i32.add(b, i32.mul(param(f, 2), c32(S.SEG_STRIDE)));
    const is64 = is64Bit(b);
    const segBase = select(i32.and(is64, i32.lt_u(param(f, 2), c32(S.FS))), c64(0), ld.i64(seg, S.SEG + S.SEG_BASE));
    const offset = f.tmp(i64.sub(param(f, 1), segBase));
    f.st64(b, select(is64, offset, i64.and(offset, c64(0xffffffff))), S.FDP);
  }
  const refs: Record<string, Fn> = {
    signal,
    pop,
    put,
    pushRaw,
    load,
    loadSt,
    under,
    finish,
    storeSt,
    exchange,
    cmov,
    signBit,
    stored,
    operand,
  };
  return Object.fromEntries(Object.entries(refs).map(([k, f]) => [k, f.ref]));
}

/** Numbers of the arithmetic operations: the reg field of D8. */
const ARITH = { add: 0, mul: 1, sub: 4, subr: 5, div: 6, divr: 7 } as const;

/** Two operands, one result, in both orders for subtraction and division. */
function emitOps(m: Module, core: Record<string, FnRef>, f80: F80Fns): Record<string, FnRef> {
  const fn = (n: string): FnRef => (core[n] ?? f80.named[n]) as FnRef;
  // (base, op, dst, source address, source in use, dn, pops)
  const op = m.fn([I32, I32, I32, I32, I32, I32, I32], 0);
  {
    const f = op;
    const [b, which, dst, src, ok, dn, pops] = [0, 1, 2, 3, 4, 5, 6].map((n) => param(f, n)) as [
      Node,
      Node,
      Node,
      Node,
      Node,
      Node,
      Node,
    ];
    f.if(i32.eqz(i32.and(used(b, dst), ok)), () => {
      f.do(call(fn('under'), b, dst, pops));
      f.ret();
    });
    const a = f.tmp(i32.add(st(b, dst), c32(S.FPR)));
    const ctl = f.tmp(control(b));
    const fl = f.local(I32);
    const arms: readonly (readonly [number, string, boolean])[] = [
      [ARITH.add, 'add80', false],
      [ARITH.mul, 'mul80', false],
      [ARITH.sub, 'sub80', false],
      [ARITH.subr, 'sub80', true],
      [ARITH.div, 'div80', false],
      [ARITH.divr, 'div80', true],
    ];
    for (const [n, name, reverse] of arms)
      f.if(i32.eq(which, c32(n)), () => f.set(fl, call(fn(name), b, ctl, reverse ? src : a, reverse ? a : src, dn)));
    f.do(call(fn('finish'), b, dst, pops, fl.get));
  }
  // (base, source address, source in use, dn, quiet NaNs are invalid, pops, to EFLAGS) → condition codes.
  const compare = m.fn([I32, I32, I32, I32, I32, I32, I32], I32);
  {
    const f = compare;
    const [b, src, ok, dn, strict, pops, eflags] = [0, 1, 2, 3, 4, 5, 6].map((n) => param(f, n)) as [
      Node,
      Node,
      Node,
      Node,
      Node,
      Node,
      Node,
    ];
    const fl = f.local(I32);
    f.if(i32.and(i32.and(used(b, c32(0)), ok), i32.eqz(dn)), () =>
      compareNormal(f, f.tmp(i32.add(st(b, c32(0)), c32(S.FPR))), src, (cc) => {
        f.if(i32.eqz(eflags), () => f.st32(b, i32.or(i32.and(ld.i32(b, S.FSW), c32(~CC_ALL)), cc), S.FSW));
        f.if(pops, () => f.do(call(fn('pop'), b)));
        f.if(i32.gt_u(pops, c32(1)), () => f.do(call(fn('pop'), b)));
        f.ret(cc);
      }),
    );
    f.if(
      i32.and(used(b, c32(0)), ok),
      () => f.set(fl, call(fn('compare80'), b, strict, i32.add(st(b, c32(0)), c32(S.FPR)), src, dn)),
      () => f.set(fl, c32(IE | SF | CC_UNORDERED)),
    );
    const cc = f.tmp(i32.and(fl.get, c32(CC_UNORDERED)));
    // FCOMI leaves C1 alone unless the stack is at fault.
    const c1 = f.tmp(i32.and(ld.i32(b, S.FSW), c32(C1)));
    const open = f.tmp(i32.and(call(fn('signal'), b, i32.and(fl.get, c32(0x7f))), c32(3)));
    f.if(
      eflags,
      () => f.if(i32.eqz(i32.and(fl.get, c32(SF))), () => f.st32(b, i32.or(ld.i32(b, S.FSW), c1), S.FSW)),
      () => f.st32(b, i32.or(i32.and(ld.i32(b, S.FSW), c32(~CC_ALL)), cc), S.FSW),
    );
    // The result is there even when an exception is not masked, but nothing is popped.
    f.if(open, () => f.ret(cc));
    f.if(pops, () => f.do(call(fn('pop'), b)));
    f.if(i32.gt_u(pops, c32(1)), () => f.do(call(fn('pop'), b)));
    f.emit(cc);
  }
  // (base): FXAM
  const exam = m.fn([I32], 0);
  {
    const f = exam;
    const b = param(f, 0);
    const a = f.tmp(i32.add(st(b, c32(0)), c32(S.FPR)));
    const cc = f.local(I32);
    f.if(
      used(b, c32(0)),
      () => f.set(cc, call(fn('exam80'), a)),
      () => f.set(cc, i32.or(c32(0x4100), i32.shl(i32.shr_u(ld.i32_16u(a, 8), c32(15)), c32(9)))),
    );
    f.st32(b, i32.or(i32.and(ld.i32(b, S.FSW), c32(~CC_ALL)), cc.get), S.FSW);
  }
  const out: Record<string, FnRef> = { op: op.ref, compare: compare.ref, exam: exam.ref };

  // ST(0) = f(ST(0)): name → whether C2 is part of the result.
  for (const [name, c2] of [
    ['sqrt80', false],
    ['rint80', false],
    ['f2xm1', false],
    ['sin80', true],
    ['cos80', true],
  ] as const) {
    const target = f80.named[name];
    if (target === undefined) continue;
    const f = m.fn([I32], 0);
    const b = param(f, 0);
    f.if(i32.eqz(used(b, c32(0))), () => {
      // Software loops on C2: it must not stay set.
      if (c2) f.st32(b, i32.and(ld.i32(b, S.FSW), c32(~0x400)), S.FSW);
      f.do(call(fn('under'), b, c32(0), c32(0)));
      f.ret();
    });
    const a = f.tmp(i32.add(st(b, c32(0)), c32(S.FPR)));
    const fl = f.tmp(call(target, b, control(b), a, a, c32(0)));
    if (c2) {
      f.st32(b, i32.or(i32.and(ld.i32(b, S.FSW), c32(~0x600)), i32.and(fl, c32(0x400))), S.FSW);
      f.if(i32.and(fl, c32(0x400)), () => f.ret());
    }
    f.do(call(fn('finish'), b, c32(0), c32(0), fl));
    out[name] = f.ref;
  }
  // ST(0) = f(ST(0), ST(1)): remainders (with condition codes) and scaling.
  for (const name of ['rem80', 'rem1_80', 'scale80'] as const) {
    const f = m.fn([I32], 0);
    const b = param(f, 0);
    const a = f.tmp(i32.add(st(b, c32(0)), c32(S.FPR)));
    f.if(i32.eqz(i32.and(used(b, c32(0)), used(b, c32(1)))), () => {
      if (name !== 'scale80') f.st32(b, i32.and(ld.i32(b, S.FSW), c32(~0x400)), S.FSW);
      f.do(call(fn('under'), b, c32(0), c32(0)));
      f.ret();
    });
    const fl = f.tmp(call(fn(name), b, control(b), a, i32.add(st(b, c32(1)), c32(S.FPR)), c32(0)));
    // Condition codes go with a numeric result only, but software loops on C2: it must not stay set.
    const unmasked = i32.and(i32.and(fl, c32(7)), i32.xor(ld.i32(b, S.FCW), c32(-1)));
    const nan = i32.eq(i32.and(ld.i32(b, R + 8), c32(0x7fff)), c32(0x7fff));
    if (name !== 'scale80')
      f.if(
        i32.or(unmasked, nan),
        () => f.st32(b, i32.and(ld.i32(b, S.FSW), c32(~0x400)), S.FSW),
        () => f.st32(b, i32.or(i32.and(ld.i32(b, S.FSW), c32(~CC_ALL)), i32.and(fl, c32(0x4500))), S.FSW),
      );
    f.do(call(fn('finish'), b, c32(0), c32(0), fl));
    out[name] = f.ref;
  }
  // ST(1) = f(ST(0), ST(1)), pop.
  for (const name of ['atan80', 'yl2x', 'yl2xp1'] as const) {
    const target = f80.named[name];
    if (target === undefined) continue;
    const f = m.fn([I32], 0);
    const b = param(f, 0);
    f.if(i32.eqz(i32.and(used(b, c32(0)), used(b, c32(1)))), () => {
      f.do(call(fn('under'), b, c32(1), c32(1)));
      f.ret();
    });
    const at = (i: number): Node => i32.add(st(b, c32(i)), c32(S.FPR));
    f.do(call(fn('finish'), b, c32(1), c32(1), call(target, b, control(b), at(0), at(1), c32(0))));
    out[name] = f.ref;
  }
  // ST(0) = first result, push the second: FXTRACT (R2, then R), FSINCOS and FPTAN (R, then R2).
  for (const name of ['extract80', 'sincos80', 'tan80'] as const) {
    const target = f80.named[name];
    if (target === undefined) continue;
    const f = m.fn([I32], 0);
    const b = param(f, 0);
    const both = (): void => {
      f.do(call(fn('put'), b, c32(0), c64hl(0xc0000000, 0), c32(0xffff)));
      f.do(call(fn('pushRaw'), b, c64hl(0xc0000000, 0), c32(0xffff)));
    };
    const trig = name !== 'extract80';
    if (trig) f.st32(b, i32.and(ld.i32(b, S.FSW), c32(~0x600)), S.FSW);
    f.if(i32.eqz(used(b, c32(0))), () => {
      f.if(i32.eqz(call(fn('signal'), b, c32(IE | SF))), both);
      f.ret();
    });
    f.if(used(b, c32(-1)), () => {
      f.if(i32.eqz(call(fn('signal'), b, c32(IE | SF | C1))), both);
      f.ret();
    });
    const a = f.tmp(i32.add(st(b, c32(0)), c32(S.FPR)));
    const fl = f.tmp(call(target, b, control(b), a, a, c32(0)));
    if (trig)
      f.if(i32.and(fl, c32(0x400)), () => {
        f.st32(b, i32.or(ld.i32(b, S.FSW), c32(0x400)), S.FSW);
        f.ret();
      });
    f.if(i32.and(call(fn('signal'), b, fl), c32(7)), () => f.ret());
    const [first, second] = trig ? [R, R2] : [R2, R];
    f.do(call(fn('put'), b, c32(0), ld.i64(b, first), ld.i32(b, first + 8)));
    f.do(call(fn('pushRaw'), b, ld.i64(b, second), ld.i32(b, second + 8)));
    out[name] = f.ref;
  }

  // Values to store, from ST(0) at `a`; flags in FL. An empty register gives the indefinite value with IE and SF.
  const value = (name: string, f: Fn, indefinite: (b: Node) => Node, ofNumber: (b: Node, a: Node) => Node): void => {
    const b = param(f, 0);
    f.st32(b, c32(0), FL);
    f.if(i32.eqz(used(b, c32(0))), () => {
      f.st32(b, c32(IE | SF), FL);
      f.ret(indefinite(b));
    });
    f.emit(ofNumber(b, f.tmp(i32.add(st(b, c32(0)), c32(S.FPR)))));
    out[name] = f.ref;
  };
  {
    const f = m.fn([I32], I32);
    value(
      'get32',
      f,
      () => c32(0xffc00000),
      (b, a) => {
        floatNormal(f, a, 4, FL);
        return call(fn('store32'), b, control(b), a);
      },
    );
  }
  {
    const f = m.fn([I32], I64);
    value(
      'get64',
      f,
      () => c64hl(0xfff80000, 0),
      (b, a) => {
        floatNormal(f, a, 8, FL);
        return call(fn('store64'), b, control(b), a);
      },
    );
  }
  {
    // (base, bits, rounding bits to set in the control word)
    const f = m.fn([I32, I32, I32], I64);
    const bits = param(f, 1);
    value(
      'getInt',
      f,
      () => i64.sub(c64(0), i64.shl(c64(1), i64.extend_u(i32.sub(bits, c32(1))))),
      (b, a) => {
        const ctl = f.tmp(i32.or(control(b), param(f, 2)));
        integerNormal(f, a, ctl, FL);
        return call(fn('toInt80'), b, ctl, a, bits);
      },
    );
  }
  {
    const f = m.fn([I32], I64);
    value(
      'getBcd',
      f,
      (b) => {
        f.st32(b, c32(0xffff), R);
        return c64hl(0xc0000000, 0);
      },
      (b, a) => call(fn('toBcd'), b, control(b), a),
    );
  }
  {
    // m80: the register as it is; its upper 16 bits go to R + 8.
    const f = m.fn([I32], I64);
    const b = param(f, 0);
    f.st32(b, c32(0), FL);
    f.if(i32.eqz(used(b, c32(0))), () => {
      f.st32(b, c32(IE | SF), FL);
      putIndefinite(f, b, R);
      f.ret(ld.i64(b, R));
    });
    const a = f.tmp(st(b, c32(0)));
    f.st32(b, ld.i32_16u(a, S.FPR + 8), R + 8);
    f.emit(ld.i64(a, S.FPR));
    out['get80'] = f.ref;
  }
  {
    // (base, constant number): FLD1 and its like, rounded by the control word.
    const f = m.fn([I32, I32], 0);
    const [b, n] = [param(f, 0), param(f, 1)] as const;
    const rc = f.tmp(i32.and(i32.shr_u(ld.i32(b, S.FCW), c32(10)), c32(3)));
    const sig = f.local(I64);
    const exp = f.local(I32);
    CONSTANTS.forEach(([, hi, lo, e, direction], k) => {
      f.if(i32.eq(n, c32(k)), () => {
        // The table holds the value rounded down; `direction` says whether nearest is one above it.
        const up = i32.or(i32.eq(rc, c32(2)), direction === 'up' ? i32.eqz(rc) : c32(0));
        f.set(sig, direction === 'exact' ? c64hl(hi, lo) : i64.add(c64hl(hi, lo), i64.extend_u(up)));
        f.set(exp, c32(e));
      });
    });
    putSlot(f, b, T0, sig.get, exp.get);
    f.do(call(fn('load'), b, i32.add(b, c32(T0)), c32(0)));
    out['constant'] = f.ref;
  }
  return out;
}

/** Constants rounded down: op, significand, exponent, where nearest rounding goes. */
const CONSTANTS: readonly (readonly [
  op: number,
  hi: number,
  lo: number,
  exp: number,
  direction: 'exact' | 'up' | 'down',
])[] = [
  [OP.FLD1, 0x80000000, 0, 0x3fff, 'exact'],
  [OP.FLDL2T, 0xd49a784b, 0xcd1b8afe, 0x4000, 'down'],
  [OP.FLDL2E, 0xb8aa3b29, 0x5c17f0bb, 0x3fff, 'up'],
  [OP.FLDPI, 0xc90fdaa2, 0x2168c234, 0x4000, 'up'],
  [OP.FLDLG2, 0x9a209a84, 0xfbcff798, 0x3ffd, 'up'],
  [OP.FLDLN2, 0xb17217f7, 0xd1cf79ab, 0x3ffe, 'up'],
  [OP.FLDZ, 0, 0, 0, 'exact'],
];

/** Emits the x87's helper functions; their names start with `x87_`. */
export function emitX87(m: Module, f80: F80Fns, div128: FnRef): Record<string, FnRef> {
  const core = emitCore(m);
  const ops = emitOps(m, core, f80);
  const fast = emitX87Fast(m, (n) => (n === 'op' ? ops['op'] : (core[n] ?? f80.named[n])) as FnRef, div128);
  const all = { ...core, ...ops, ...fast };
  return Object.fromEntries(Object.entries(all).map(([k, r]) => [`x87_${k}`, r]));
}

// --- semantics ---------------------------------------------------------------------------------------------------------

function x(c: SemCtx, name: string, ...args: Node[]): Node {
  return call(c.env.fn(`x87_${name}`), c.base, ...args);
}
function doX(c: SemCtx, name: string, ...args: Node[]): void {
  c.f.do(x(c, name, ...args));
}

/** Records where the instruction is, and its memory operand; no selectors (CPUID.7:EBX bit 13). The record's spare fields hold opcode and segment. */
function pointers(c: SemCtx): void {
  c.f.st64(c.base, c.rip(), S.FIP);
  c.f.st32(c.base, c.imm2(), S.FOP);
  if (c.memIndex() < 0) return;
  const seg = c.imm32();
  // Where the segment is known to have no base, the operand's offset is its address.
  if (seg.isConst && seg.lo < S.FS && c.mode.bits === 64) c.f.st64(c.base, c.ea(), S.FDP);
  else if (seg.isConst && seg.lo < S.FS && c.mode.flat) c.f.st64(c.base, i64.and(c.ea(), c64(0xffffffff)), S.FDP);
  else doX(c, 'operand', c.ea(), seg);
}

const slot = (c: SemCtx): Node => i32.add(c.base, c32(T0));

/** Brings memory operand `i` into slot T0; gives its flags (DE, and IE for an SNaN). Leaves on a fault. */
function fetch(c: SemCtx, i: number, integer: boolean): Node {
  const f = c.f;
  const size = c.sizeOf(i);
  if (size === 10) {
    const lo = c.read(i, 8);
    const hi = c.load(f.tmp(i64.add(c.ea(), c64(8))), 2);
    putSlot(f, c.base, T0, lo, hi);
    return c32(0);
  }
  const v = c.read(i, size);
  if (integer) {
    f.do(call(c.env.fn('fromInt80'), slot(c), (NUM[size] as Num).sext64(v)));
    return c32(0);
  }
  return f.tmp(call(c.env.fn(size === 4 ? 'expand32' : 'expand64'), slot(c), v));
}

const arith =
  (op: keyof typeof ARITH, o: { pop?: boolean; integer?: boolean } = {}): Semantic =>
  (c) => {
    checkPending(c);
    if (!c.isMem(1)) {
      pointers(c);
      doX(c, `${op}_st`, c.regNum(0), c.regNum(1), c32(o.pop === true ? 1 : 0));
      return;
    }
    const size = c.sizeOf(1);
    const v = c.read(1, size);
    pointers(c);
    if (o.integer === true) doX(c, `${op}_int`, (NUM[size] as Num).sext64(v));
    else doX(c, size === 4 ? `${op}_f32` : `${op}_f64`, v);
  };

const compare =
  (o: { pops?: number; integer?: boolean; unordered?: boolean; eflags?: boolean }): Semantic =>
  (c) => {
    const f = c.f;
    checkPending(c);
    const mem = c.isMem(1);
    const fl = mem ? fetch(c, 1, o.integer === true) : c32(0);
    pointers(c);
    // Without operands the other one is ST(1).
    const src = c.insn.operandCount === 0 ? c32(1) : mem ? c32(0) : f.tmp(c.regNum(1));
    const cc = f.tmp(
      x(
        c,
        'compare',
        mem ? slot(c) : i32.add(st(c.base, src), c32(S.FPR)),
        mem ? c32(1) : used(c.base, src),
        mem ? i32.and(fl, c32(DE)) : c32(0),
        c32(o.unordered === true ? 0 : 1),
        c32(o.pops ?? 0),
        c32(o.eflags === true ? 1 : 0),
      ),
    );
    if (o.eflags !== true) return;
    const bit = (n: number): Node => i32.and(i32.shr_u(cc, c32(n)), c32(1));
    setZpc(c, f.tmp(bit(14)), f.tmp(bit(10)), f.tmp(bit(8)));
  };

const load =
  (integer: boolean): Semantic =>
  (c) => {
    checkPending(c);
    if (c.kind(1) === Kind.St) {
      pointers(c);
      doX(c, 'loadSt', c.regNum(1));
      return;
    }
    const size = c.sizeOf(1);
    if (size === 10) {
      fetch(c, 1, integer);
      pointers(c);
      doX(c, 'load', slot(c), c32(0));
      return;
    }
    const v = c.read(1, size);
    pointers(c);
    if (integer) doX(c, 'ldInt', (NUM[size] as Num).sext64(v));
    else doX(c, size === 4 ? 'ld32' : 'ld64', v);
  };

/** Stores to memory. Nothing changes if the store faults. */
const store =
  (o: { pop: boolean; integer?: boolean; truncate?: boolean }): Semantic =>
  (c) => {
    const f = c.f;
    checkPending(c);
    const pop = c32(o.pop ? 1 : 0);
    if (c.kind(0) === Kind.St) {
      pointers(c);
      doX(c, 'storeSt', c.regNum(0), pop, c.imm2());
      return;
    }
    const size = c.sizeOf(0);
    const value = f.tmp(
      o.integer === true
        ? x(c, 'getInt', c32(size * 8), c32(o.truncate === true ? 0xc00 : 0))
        : x(c, size === 4 ? 'get32' : size === 8 ? 'get64' : 'get80'),
    );
    const top = size === 10 ? f.tmp(ld.i32_16u(c.base, R + 8)) : null;
    keepOrStore(c, size, value, top);
    pointers(c);
    doX(c, 'stored', ld.i32(c.base, FL), pop);
  };

/** Stores a value of ST(0) unless an unmasked exception forbids it. */
function keepOrStore(c: SemCtx, size: number, value: Node, top: Node | null): void {
  const f = c.f;
  const la = f.tmp(c.ea());
  const fl = f.tmp(ld.i32(c.base, FL));
  const open = i32.and(i32.and(fl, i32.xor(ld.i32(c.base, S.FCW), c32(-1))), c32(0x1f));
  const put = (): void => {
    if (top !== null) {
      probeWrite(c, la, 10);
      c.store(la, 8, value);
      c.store(f.tmp(i64.add(la, c64(8))), 2, top);
    } else c.store(la, size, value.ty === I64 && size < 8 ? i32.wrap(value) : value);
  };
  // A store that does not happen can fault all the same.
  f.if(open, () => probeWrite(c, la, size), put);
  // A store may have run into a device whose code used the scratch space: put the flags back.
  f.st32(c.base, fl, FL);
}

const simple =
  (name: string, ...args: readonly number[]): Semantic =>
  (c) => {
    checkPending(c);
    pointers(c);
    doX(c, name, ...args.map(c32));
  };

/** Semantics of all x87 instructions. */
export function x87Semantics(): Map<number, Semantic> {
  const m = x87ControlSemantics();
  const def = (op: number, s: Semantic): void => {
    m.set(op, s);
  };
  def(OP.FADD, arith('add'));
  def(OP.FMUL, arith('mul'));
  def(OP.FSUB, arith('sub'));
  def(OP.FSUBR, arith('subr'));
  def(OP.FDIV, arith('div'));
  def(OP.FDIVR, arith('divr'));
  def(OP.FIADD, arith('add', { integer: true }));
  def(OP.FIMUL, arith('mul', { integer: true }));
  def(OP.FISUB, arith('sub', { integer: true }));
  def(OP.FISUBR, arith('subr', { integer: true }));
  def(OP.FIDIV, arith('div', { integer: true }));
  def(OP.FIDIVR, arith('divr', { integer: true }));
  def(OP.FADDP, arith('add', { pop: true }));
  def(OP.FMULP, arith('mul', { pop: true }));
  def(OP.FSUBP, arith('sub', { pop: true }));
  def(OP.FSUBRP, arith('subr', { pop: true }));
  def(OP.FDIVP, arith('div', { pop: true }));
  def(OP.FDIVRP, arith('divr', { pop: true }));

  def(OP.FCOM, compare({}));
  def(OP.FCOMP, compare({ pops: 1 }));
  def(OP.FCOMPP, compare({ pops: 2 }));
  def(OP.FICOM, compare({ integer: true }));
  def(OP.FICOMP, compare({ integer: true, pops: 1 }));
  def(OP.FUCOM, compare({ unordered: true }));
  def(OP.FUCOMP, compare({ unordered: true, pops: 1 }));
  def(OP.FUCOMPP, compare({ unordered: true, pops: 2 }));
  def(OP.FCOMI, compare({ eflags: true }));
  def(OP.FCOMIP, compare({ eflags: true, pops: 1 }));
  def(OP.FUCOMI, compare({ eflags: true, unordered: true }));
  def(OP.FUCOMIP, compare({ eflags: true, unordered: true, pops: 1 }));
  def(OP.FTST, (c) => {
    checkPending(c);
    pointers(c);
    putSlot(c.f, c.base, T0, c64(0), c32(0));
    doX(c, 'compare', slot(c), c32(1), c32(0), c32(1), c32(0), c32(0));
  });
  def(OP.FXAM, simple('exam'));

  def(OP.FLD, load(false));
  def(OP.FILD, load(true));
  def(OP.FBLD, (c) => {
    checkPending(c);
    const lo = c.read(1, 8);
    const hi = c.load(c.f.tmp(i64.add(c.ea(), c64(8))), 2);
    c.f.do(call(c.env.fn('fromBcd'), c.base, lo, hi));
    pointers(c);
    doX(c, 'load', i32.add(c.base, c32(R)), c32(0));
  });
  CONSTANTS.forEach(([op], n) => {
    def(op, simple('constant', n));
  });
  def(OP.FST, store({ pop: false }));
  def(OP.FSTP, store({ pop: true }));
  def(OP.FIST, store({ pop: false, integer: true }));
  def(OP.FISTP, store({ pop: true, integer: true }));
  def(OP.FISTTP, store({ pop: true, integer: true, truncate: true }));
  def(OP.FBSTP, (c) => {
    checkPending(c);
    const lo = c.f.tmp(x(c, 'getBcd'));
    const hi = c.f.tmp(ld.i32_16u(c.base, R));
    keepOrStore(c, 10, lo, hi);
    pointers(c);
    doX(c, 'stored', ld.i32(c.base, FL), c32(1));
  });

  def(OP.FXCH, (c) => {
    checkPending(c);
    pointers(c);
    doX(c, 'exchange', c.regNum(1));
  });
  for (const [op, cc] of [
    [OP.FCMOVB, 2],
    [OP.FCMOVNB, 3],
    [OP.FCMOVE, 4],
    [OP.FCMOVNE, 5],
    [OP.FCMOVBE, 6],
    [OP.FCMOVNBE, 7],
    [OP.FCMOVU, 10],
    [OP.FCMOVNU, 11],
  ] as const)
    def(op, (c) => {
      checkPending(c);
      pointers(c);
      doX(c, 'cmov', c.regNum(1), c.cond(cc));
    });
  def(OP.FCHS, simple('signBit', 0xffff, 0x8000));
  def(OP.FABS, simple('signBit', 0x7fff, 0));
  const turn =
    (n: number): Semantic =>
    (c) => {
      checkPending(c);
      pointers(c);
      c.f.st32(c.base, i32.and(i32.add(ld.i32(c.base, S.FTOP), c32(n)), c32(7)), S.FTOP);
      clearC1(c.f, c.base);
    };
  def(OP.FINCSTP, turn(1));
  def(OP.FDECSTP, turn(-1));
  const free =
    (pop: boolean): Semantic =>
    (c) => {
      checkPending(c);
      pointers(c);
      const r = registerOf(c.base, c.regNum(0));
      c.f.st32(c.base, i32.and(ld.i32(c.base, S.FTW), i32.xor(i32.shl(c32(1), r), c32(-1))), S.FTW);
      if (pop) doX(c, 'pop');
      clearC1(c.f, c.base);
    };
  def(OP.FFREE, free(false));
  def(OP.FFREEP, free(true));

  def(OP.FSQRT, simple('sqrt80'));
  def(OP.FRNDINT, simple('rint80'));
  def(OP.FXTRACT, simple('extract80'));
  def(OP.FPREM, simple('rem80'));
  def(OP.FPREM1, simple('rem1_80'));
  def(OP.FSCALE, simple('scale80'));
  def(OP.F2XM1, simple('f2xm1'));
  def(OP.FSIN, simple('sin80'));
  def(OP.FCOS, simple('cos80'));
  def(OP.FSINCOS, simple('sincos80'));
  def(OP.FPTAN, simple('tan80'));
  def(OP.FPATAN, simple('atan80'));
  def(OP.FYL2X, simple('yl2x'));
  def(OP.FYL2XP1, simple('yl2xp1'));
  return m;
}
