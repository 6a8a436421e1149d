// Floating-point vector instructions: SSE to SSE4.1 and their AVX forms. Intel SDM volume 1 chapters 10 to 12 and 14.
//
// Each has a fast path in plain WebAssembly arithmetic, taken when nothing can be seen of the difference: rounding to
// nearest, the precision flag already set and masked, operands and results normal numbers (or zero where that is exact).
// Everything else goes through softfloat.ts, which knows all flags, DAZ and FTZ.
import { Kind, OP, type OpName } from '@hyve/x86';
import type { Semantic, SemCtx } from '../ctx.ts';
import * as S from '../state.ts';
import {
  c32,
  c64,
  c64hl,
  call,
  cF32,
  cF64,
  cV128,
  F32,
  F64,
  type Fn,
  type FnRef,
  f32,
  f64,
  I32,
  I64,
  i32,
  i64,
  ld,
  type Module,
  type Node,
  select,
  simd,
  V128,
} from '../wasm/builder.ts';
import { imm8 } from './simd-int.ts';
import { FL, param, type SoftFns } from './softfloat.ts';
import {
  checkPending,
  clearUpper,
  isVex,
  lane,
  laneCount,
  laneF,
  lanes,
  legacyAlign,
  mmxState,
  readLane,
  v,
  v32,
  v64,
  vf32,
  vf64,
  withLane,
  withLaneF,
  writeLanes,
  writeMmx,
} from './vec.ts';

/** MXCSR bits. */
const MX_DAZ = 1 << 6;
const MX_RESERVED = 0xffff0000;
/** PE and PM. */
const MX_FAST = 0x1020;

type Size = 4 | 8;
const letter = (size: Size): string => (size === 4 ? 's' : 'd');
const bitsOf = (size: Size): 32 | 64 => (size === 4 ? 32 : 64);

// --- functions of the main module --------------------------------------------------------------------------------------

const BINARY = ['add', 'sub', 'mul', 'div', 'min', 'max'] as const;
type Binary = (typeof BINARY)[number];

/** The control word of softfloat.ts from MXCSR. */
function control(base: Node): Node {
  const mx = ld.i32(base, S.MXCSR);
  return i32.or(
    i32.or(i32.and(i32.shr_u(mx, c32(7)), c32(0x3f)), i32.and(i32.shr_u(mx, c32(3)), c32(0xc00))),
    i32.and(mx, c32(0x8000 | MX_DAZ)),
  );
}

/** Emits the functions that SSE semantics call; their names start with `sse_`. */
export function emitSse(m: Module, soft: SoftFns): Record<string, FnRef> {
  const out: Record<string, FnRef> = {};
  const fn = (name: string): FnRef => soft.named[name] as FnRef;

  // (base): flags in FL to MXCSR; raises #XM (or #UD without CR4.OSXMMEXCPT) if one of them is not masked.
  const end = m.fn([I32], 0);
  {
    const f = end;
    const b = param(f, 0);
    const fl = f.local(I32);
    f.set(fl, i32.and(ld.i32(b, FL), c32(0x3f)));
    const open = f.tmp(i32.and(fl.get, i32.xor(i32.shr_u(ld.i32(b, S.MXCSR), c32(7)), c32(-1))));
    // Unmasked invalid, denormal and divide exceptions come before computation: no others are reported with them.
    f.if(i32.and(open, c32(7)), () => f.set(fl, i32.and(fl.get, c32(7))));
    f.st32(b, i32.or(ld.i32(b, S.MXCSR), fl.get), S.MXCSR);
    f.if(open, () => {
      f.st32(b, select(i32.and(ld.i32(b, S.CR4), c32(1 << 10)), c32(S.EXC_XM + 1), c32(S.EXC_UD + 1)), S.FAULT);
      f.st32(b, c32(0), S.FAULT_CODE);
    });
  }
  // The last parameter of functions on vectors: 0 adds to the flags only, for one lane of several; 1 starts and ends.
  const begin = (f: Fn, phased = false): { b: Node; ctl: Node } => {
    const b = param(f, 0);
    if (phased) f.if(param(f, f.params.length - 1), () => f.st32(b, c32(0), FL));
    else f.st32(b, c32(0), FL);
    return { b, ctl: f.tmp(control(b)) };
  };
  const finish = (f: Fn, b: Node): void => f.if(param(f, f.params.length - 1), () => f.do(call(end.ref, b)));
  const ty = (size: Size): typeof I32 | typeof I64 => (size === 4 ? I32 : I64);
  const count = (size: Size): number => 16 / size;
  /** A function on all lanes from one on bits. */
  const packed = (
    name: string,
    size: Size,
    operands: 1 | 2,
    extra: number,
    each: (f: Fn, b: Node, ctl: Node, a: Node, y: Node, n: number) => Node,
  ): void => {
    const f = m.fn([I32, ...Array<typeof V128>(operands).fill(V128), ...Array<typeof I32>(extra + 1).fill(I32)], V128);
    const { b, ctl } = begin(f, true);
    const r = f.local(V128);
    for (let n = 0; n < count(size); n++) {
      const a = f.tmp(lane(param(f, 1), size, n));
      const y = operands === 2 ? f.tmp(lane(param(f, 2), size, n)) : a;
      f.set(r, withLane(r.get, size, n, each(f, b, ctl, a, y, n)));
    }
    finish(f, b);
    f.emit(r.get);
    out[name] = f.ref;
  };
  const scalar = (
    name: string,
    size: Size,
    operands: 1 | 2,
    extra: number,
    each: (f: Fn, b: Node, ctl: Node, a: Node, y: Node) => Node,
    result: typeof I32 | typeof I64 = ty(size),
    first?: (f: Fn) => void,
  ): void => {
    const f = m.fn(
      [I32, ...Array<typeof I32 | typeof I64>(operands).fill(ty(size)), ...Array<typeof I32>(extra).fill(I32)],
      result,
    );
    first?.(f);
    const { b, ctl } = begin(f);
    const a = param(f, 1);
    const r = f.tmp(each(f, b, ctl, a, operands === 2 ? param(f, 2) : a));
    f.do(call(end.ref, b));
    f.emit(r);
    out[name] = f.ref;
  };
  for (const size of [4, 8] as const) {
    const B = bitsOf(size);
    const t = letter(size);
    for (const op of [...BINARY, 'sqrt'] as const) {
      const run = (_f: Fn, b: Node, ctl: Node, a: Node, y: Node): Node => call(fn(`${op}${B}`), b, ctl, a, y);
      const n = op === 'sqrt' ? 1 : 2;
      packed(`sse_p${t}_${op}`, size, n, 0, run);
      scalar(
        `sse_s${t}_${op}`,
        size,
        n,
        0,
        run,
        ty(size),
        op === 'min' || op === 'max' ? undefined : (f) => withZeros(f, size, op),
      );
    }
    packed(`sse_p${t}_addsub`, size, 2, 0, (_f, b, ctl, a, y, n) =>
      call(fn(`${n & 1 ? 'add' : 'sub'}${B}`), b, ctl, a, y),
    );
    // (base, x, y, z, signs): fused; signs of even lanes in bits 0 and 1, of odd ones in bits 2 and 3.
    {
      const f = m.fn([I32, V128, V128, V128, I32, I32], V128);
      const { b, ctl } = begin(f, true);
      const r = f.local(V128);
      for (let n = 0; n < count(size); n++) {
        const signs = i32.and(n & 1 ? i32.shr_u(param(f, 4), c32(2)) : param(f, 4), c32(3));
        const at = (k: number): Node => lane(param(f, k), size, n);
        f.set(r, withLane(r.get, size, n, call(fn(`fma${B}`), b, ctl, at(1), at(2), at(3), signs)));
      }
      finish(f, b);
      f.emit(r.get);
      out[`sse_p${t}_fma`] = f.ref;
    }
    {
      const f = m.fn([I32, ty(size), ty(size), ty(size), I32], ty(size));
      const { b, ctl } = begin(f);
      const r = f.tmp(call(fn(`fma${B}`), b, ctl, param(f, 1), param(f, 2), param(f, 3), param(f, 4)));
      f.do(call(end.ref, b));
      f.emit(r);
      out[`sse_s${t}_fma`] = f.ref;
    }
    // Comparison by predicate (all 32 of AVX; SSE has the first eight): all ones or zero.
    const compare = (f: Fn, b: Node, ctl: Node, a: Node, y: Node): Node => {
      const imm = param(f, 3);
      const rel = call(fn(`compare${B}`), b, ctl, a, y, signals(imm));
      const hit = i32.sub(c32(0), i32.ne(i32.and(rel, predicate(imm)), c32(0)));
      return size === 4 ? hit : i64.extend_s(hit);
    };
    packed(`sse_p${t}_cmp`, size, 2, 1, compare);
    scalar(`sse_s${t}_cmp`, size, 2, 1, compare);
    // (base, a, b, QNaNs are invalid) → relation.
    scalar(`sse_s${t}_comi`, size, 2, 1, (f, b, ctl, a, y) => call(fn(`compare${B}`), b, ctl, a, y, param(f, 3)), I32);
    // (base, value, immediate)
    const round = (f: Fn, b: Node, ctl: Node, a: Node): Node => {
      const imm = param(f, 2);
      const mode = select(
        i32.and(imm, c32(4)),
        ctl,
        i32.or(i32.and(ctl, c32(~0xc00)), i32.shl(i32.and(imm, c32(3)), c32(10))),
      );
      const r = f.tmp(call(fn(`rint${B}`), b, mode, a));
      f.if(i32.and(imm, c32(8)), () => f.st32(b, i32.and(ld.i32(b, FL), c32(~0x20)), FL));
      return r;
    };
    packed(`sse_p${t}_round`, size, 1, 1, round);
    scalar(`sse_s${t}_round`, size, 1, 1, round);
    // (base, bits, width, rounding bits to set) → integer
    scalar(
      `sse_s${t}_int`,
      size,
      1,
      2,
      (f, b, ctl, a) => call(fn(`toInt${B}`), b, i32.or(ctl, param(f, 3)), a, param(f, 2)),
      I64,
    );
    // (base, integer) → bits
    {
      const f = m.fn([I32, I64], ty(size));
      const { b, ctl } = begin(f);
      const r = f.tmp(call(fn(`fromInt${B}`), b, ctl, param(f, 1)));
      f.do(call(end.ref, b));
      f.emit(r);
      out[`sse_int_s${t}`] = f.ref;
    }
  }
  scalar('sse_ss_sd', 4, 1, 0, (_f, b, ctl, a) => call(fn('widen'), b, ctl, a), I64);
  scalar('sse_sd_ss', 8, 1, 0, (_f, b, ctl, a) => call(fn('narrow'), b, ctl, a), I32);
  /** Conversions whose lanes change width: `n` lanes. */
  const convert = (
    name: string,
    extra: number,
    n: number,
    from: 2 | 4 | 8,
    to: 2 | 4 | 8,
    each: (f: Fn, b: Node, ctl: Node, a: Node) => Node,
  ): void => {
    const f = m.fn([I32, V128, ...Array<typeof I32>(extra + 1).fill(I32)], V128);
    const { b, ctl } = begin(f, true);
    const r = f.local(V128);
    for (let k = 0; k < n; k++) f.set(r, withLane(r.get, to, k, each(f, b, ctl, lane(param(f, 1), from, k))));
    finish(f, b);
    f.emit(r.get);
    out[name] = f.ref;
  };
  convert('sse_ps_pd', 0, 2, 4, 8, (_f, b, ctl, a) => call(fn('widen'), b, ctl, a));
  convert('sse_pd_ps', 0, 2, 8, 4, (_f, b, ctl, a) => call(fn('narrow'), b, ctl, a));
  convert('sse_dq_ps', 0, 4, 4, 4, (_f, b, ctl, a) => call(fn('fromInt32'), b, ctl, i64.extend_s(a)));
  // Two lanes only, for CVTPI2PS, CVTPS2PI.
  convert('sse_pi_ps', 0, 2, 4, 4, (_f, b, ctl, a) => call(fn('fromInt32'), b, ctl, i64.extend_s(a)));
  const toInt =
    (B: 32 | 64) =>
    (f: Fn, b: Node, ctl: Node, a: Node): Node =>
      i32.wrap(call(fn(`toInt${B}`), b, i32.or(ctl, param(f, 2)), a, c32(32)));
  convert('sse_ps_dq', 1, 4, 4, 4, toInt(32));
  convert('sse_ps_pi', 1, 2, 4, 4, toInt(32));
  convert('sse_pd_dq', 1, 2, 8, 4, toInt(64));

  // Four halves in the low quadword to singles; back with (immediate).
  convert('sse_ph_ps', 0, 4, 2, 4, (_f, b, ctl, a) => call(fn('fromHalf'), b, ctl, a));
  convert('sse_ps_ph', 1, 4, 4, 2, (f, b, ctl, a) => {
    const imm = param(f, 2);
    const mode = select(
      i32.and(imm, c32(4)),
      ctl,
      i32.or(i32.and(ctl, c32(~0xc00)), i32.shl(i32.and(imm, c32(3)), c32(10))),
    );
    return call(fn('toHalf'), b, mode, a);
  });

  // Dot products in two steps, so that the products' exceptions are taken before the sums are made: (base, a, b, imm)
  // multiplies the chosen lanes, (base, products, imm) adds them up and distributes the sum.
  for (const size of [4, 8] as const) {
    const B = bitsOf(size);
    const t = letter(size);
    packed(`sse_p${t}_dotmul`, size, 2, 1, (f, b, ctl, a, y, n) => {
      const r = f.local(ty(size));
      f.if(i32.and(param(f, 3), c32(16 << n)), () => f.set(r, call(fn(`mul${B}`), b, ctl, a, y)));
      return r.get;
    });
    const f = m.fn([I32, V128, I32, I32], V128);
    const { b, ctl } = begin(f, true);
    const add = (x: Node, y: Node): Node => f.tmp(call(fn(`add${B}`), b, ctl, x, y));
    const at = (n: number): Node => lane(param(f, 1), size, n);
    const sum = size === 8 ? add(at(0), at(1)) : add(add(at(0), at(1)), add(at(2), at(3)));
    finish(f, b);
    const r = f.local(V128);
    for (let n = 0; n < count(size); n++)
      f.set(r, withLane(r.get, size, n, select(i32.and(param(f, 2), c32(1 << n)), sum, size === 4 ? c32(0) : c64(0))));
    f.emit(r.get);
    out[`sse_p${t}_dotsum`] = f.ref;
  }
  out['sse_end'] = end.ref;
  out['sse_rcp'] = emitEstimate(m, false);
  out['sse_rsqrt'] = emitEstimate(m, true);
  return out;
}

/** Returns at once from a function on scalars where the host's result will do: zeros, mostly; the rest is done in line. */
function withZeros(f: Fn, size: Size, op: Exclude<Binary, 'min' | 'max'> | 'sqrt'): void {
  const k = KIT[size];
  const x = (i: number): Node => {
    const l = f.temp(k.fty);
    f.set(l, k.n.reinterpret(param(f, i)));
    return l.get;
  };
  f.if(i32.eq(i32.and(ld.i32(param(f, 0), S.MXCSR), c32(0x7020)), c32(0x1020)), () => {
    const a = x(1);
    const zero = (y: Node): Node => k.n.eq(y, k.zero());
    if (op === 'sqrt') {
      f.if(zero(a), () => f.ret(param(f, 1)));
      return;
    }
    const b = x(2);
    const r = f.temp(k.fty);
    f.set(r, k.n[op](a, b));
    const z = zeroOk(op, zero, a, b, r.get, i32);
    f.if(i32.and(i32.and(plain(size, a), plain(size, b)), i32.or(inRange(size, r.get), z)), () => f.ret(k.bits(r.get)));
  });
}

/** For each predicate, which of less (1), equal (2), greater (4), unordered (8) make it true: SDM table of CMPPD. */
function predicate(imm: Node): Node {
  // Nibbles 0–7: EQ LT LE UNORD NEQ NLT NLE ORD; 8–15: EQ_UQ NGE NGT FALSE NEQ_OQ GE GT TRUE; 16–31 repeat them.
  const table = c64hl(0xf4650b9a, 0x7ced8312);
  return i32.and(i32.wrap(i64.shr_u(table, i64.extend_u(i32.shl(i32.and(imm, c32(15)), c32(2))))), c32(15));
}
/** Whether QNaNs are invalid for a predicate: the upper sixteen are the other way round. */
function signals(imm: Node): Node {
  return i32.and(i32.xor(i32.shr_u(c32(0x6666), i32.and(imm, c32(15))), i32.shr_u(imm, c32(4))), c32(1));
}

/**
 * (single) → single: 1/x or 1/√x to 12 bits. Real processors differ from each other within an error of 1.5·2^-12; here
 * the correctly rounded single result is rounded to 12 significant bits, half up. Denormals count as zero, denormal
 * results become zero, and no exception is raised.
 */
function emitEstimate(m: Module, root: boolean): FnRef {
  const f = m.fn([I32], I32);
  const x = param(f, 0);
  const mag = f.tmp(i32.and(x, c32(0x7fffffff)));
  const s = f.tmp(i32.and(x, c32(0x80000000)));
  f.if(i32.gt_u(mag, c32(0x7f800000)), () => f.ret(i32.or(x, c32(0x00400000))));
  f.if(i32.lt_u(mag, c32(0x00800000)), () => f.ret(i32.or(s, c32(0x7f800000))));
  if (root) f.if(s, () => f.ret(c32(0xffc00000)));
  const one = cF64(0x3ff00000, 0);
  const d = f64.promote(f32.reinterpret(x));
  const r = f.tmp(i32.reinterpret(f32.demote(f64.div(one, root ? f64.sqrt(d) : d))));
  const cut = f.tmp(i32.and(i32.add(r, c32(0x400)), c32(~0x7ff)));
  f.emit(select(i32.lt_u(i32.and(cut, c32(0x7fffffff)), c32(0x00800000)), i32.and(cut, c32(0x80000000)), cut));
  return f.ref;
}

// --- fast paths --------------------------------------------------------------------------------------------------------

/** Scalar arithmetic of one size; values travel as integer bits so that NaNs stay as they are. */
const KIT = {
  4: {
    n: f32,
    ty: I32,
    fty: F32,
    bits: (x: Node): Node => i32.reinterpret(x),
    min: (): Node => cF32(0x00800000),
    max: (): Node => cF32(0x7f7fffff),
    zero: (): Node => cF32(0),
    vec: vf32,
    splat: (w: number): Node => cV128(w, w, w, w),
    vmin: (): Node => cV128(0x00800000, 0x00800000, 0x00800000, 0x00800000),
    vmax: (): Node => cV128(0x7f7fffff, 0x7f7fffff, 0x7f7fffff, 0x7f7fffff),
  },
  8: {
    n: f64,
    ty: I64,
    fty: F64,
    bits: (x: Node): Node => i64.reinterpret(x),
    min: (): Node => cF64(0x00100000, 0),
    max: (): Node => cF64(0x7fefffff, 0xffffffff),
    zero: (): Node => cF64(0, 0),
    vec: vf64,
    splat: (w: number): Node => cV128(0, w, 0, w),
    vmin: (): Node => cV128(0, 0x00100000, 0, 0x00100000),
    vmax: (): Node => cV128(-1, 0x7fefffff, -1, 0x7fefffff),
  },
} as const;

/** Neither a NaN nor denormal, of a source. */
function plainIn(size: Size, s: { x: Node; normal: boolean }): Node {
  return s.normal ? KIT[size].n.eq(s.x, s.x) : plain(size, s.x);
}
/** Not a NaN, not denormal. */
function plain(size: Size, x: Node): Node {
  const k = KIT[size];
  return i32.or(k.n.ge(k.n.abs(x), k.min()), k.n.eq(x, k.zero()));
}
function plainV(size: Size, x: Node): Node {
  const k = KIT[size];
  return v.or(k.vec.ge(k.vec.abs(x), k.vmin()), k.vec.eq(x, v.zero()));
}
/** Finite and not small: no overflow, no underflow. */
function inRange(size: Size, r: Node): Node {
  const k = KIT[size];
  return i32.and(k.n.gt(k.n.abs(r), k.min()), k.n.le(k.n.abs(r), k.max()));
}
function inRangeV(size: Size, r: Node): Node {
  const k = KIT[size];
  return v.and(k.vec.gt(k.vec.abs(r), k.vmin()), k.vec.le(k.vec.abs(r), k.vmax()));
}

/**
 * Whether all lanes are of moderate size, which needs no constants: the two highest bits of an exponent differ in doubles from
 * 2^-511 to below 2^513 and singles from 2^-63 to below 2^65. The sum of two of them is exact if it is small.
 */
function moderateV(size: Size, xs: readonly Node[]): Node {
  const w = size === 4 ? v32 : v64;
  const differ = xs.map((x) => v.xor(x, w.shl(x, c32(1)))).reduce(v.and);
  return i32.eq(w.bitmask(w.shl(differ, c32(1))), c32(size === 4 ? 15 : 3));
}
/** The same of scalars, from their bits. */
function moderate(size: Size, bits: readonly Node[]): Node {
  if (size === 4)
    return i32.lt_s(bits.map((b) => i32.xor(i32.shl(b, c32(1)), i32.shl(b, c32(2)))).reduce(i32.and), c32(0));
  return i64.lt_s(bits.map((b) => i64.xor(i64.shl(b, c64(1)), i64.shl(b, c64(2)))).reduce(i64.and), c64(0));
}

/** Operand `i` as integer bits of a scalar, and as a float. */
function scalarIn(c: SemCtx, i: number, size: Size): { bits: Node; x: Node; normal: boolean } {
  const k = KIT[size];
  const { x, normal } = floatIn(c, i, size);
  return { bits: k.bits(x), x, normal };
}
/** Writes a scalar to operand 0; the rest of the register stays (SSE) or comes from operand 1 (AVX). */
function scalarOut(c: SemCtx, size: Size, bits: Node): void {
  if (isVex(c)) writeLanes(c, [withLane(c.getX(1), size, 0, bits)]);
  else c.setXLow(0, size, bits);
}

/** Tries a fast result; when `ok` is false, takes the slow one, which may fault. Gives the result. */
function fastOr(
  c: SemCtx,
  ty: typeof I32 | typeof I64 | typeof F32 | typeof F64 | typeof V128,
  mode: Node | null,
  fast: () => { r: Node; quick?: (r: Node) => Node; ok: (r: Node) => Node },
  slow: () => Node,
): Node {
  const f = c.f;
  const r = f.temp(ty);
  f.block((done) => {
    f.block((otherwise) => {
      if (mode !== null) f.brUnlikely(otherwise, i32.eqz(mode));
      const t = fast();
      f.set(r, t.r);
      const { quick } = t;
      if (quick !== undefined)
        f.block((look) => {
          f.brUnlikely(look, i32.eqz(quick(r.get)));
          f.br(done);
        });
      f.brUnlikely(otherwise, i32.eqz(t.ok(r.get)));
      f.br(done);
    });
    f.set(r, slow());
    c.checkFault();
    c.mxcsrChanged();
  });
  return r.get;
}

/** Whether a result of zero is exact: a factor or the dividend was zero; a sum always is. Else it may be an underflow. */
const zeroOk = (
  op: Binary,
  isZero: (x: Node) => Node,
  a: Node,
  b: Node,
  r: Node,
  { and, or }: { and(x: Node, y: Node): Node; or(x: Node, y: Node): Node },
): Node => {
  const z = isZero(r);
  return op === 'mul' ? and(z, or(isZero(a), isZero(b))) : op === 'div' ? and(z, isZero(a)) : z;
};

/** Arguments of a vector function with its phase: several lanes share one set of flags. */
function phase(c: SemCtx): Node {
  return c32(laneCount(c) === 1 ? 1 : 0);
}
/**
 * Computes all lanes of a floating-point instruction and writes operand 0. Every operand must have been loaded before;
 * exceptions of both lanes are taken together.
 */
export function floatLanes(c: SemCtx, one: (n: number) => Node): Node[] {
  const n = laneCount(c);
  if (n === 2) c.f.st32(c.base, c32(0), FL);
  const r = Array.from({ length: n }, (_, k) => c.f.tmp(one(k)));
  if (n === 2) {
    c.f.do(call(c.env.fn('sse_end'), c.base));
    c.checkFault();
  }
  return r;
}
/** A packed floating-point instruction with two sources. */
function floats2(compute: (c: SemCtx, a: Node, b: Node) => Node): Semantic {
  return (c) => {
    legacyAlign(c);
    const vex = isVex(c);
    const n = laneCount(c);
    const b = Array.from({ length: n }, (_, k) => readLane(c, vex ? 2 : 1, k));
    const a = Array.from({ length: n }, (_, k) => readLane(c, vex ? 1 : 0, k));
    writeLanes(
      c,
      floatLanes(c, (k) => compute(c, a[k] as Node, b[k] as Node)),
    );
  };
}

/** Packed arithmetic on one lane pair. */
function packedArith(c: SemCtx, size: Size, op: Binary, a: Node, b: Node): Node {
  const k = KIT[size];
  const slow = (): Node => call(c.env.fn(`sse_p${letter(size)}_${op}`), c.base, a, b, phase(c));
  if (op === 'min' || op === 'max')
    return fastOr(
      c,
      V128,
      null,
      () => ({
        r: op === 'min' ? k.vec.pmin(b, a) : k.vec.pmax(b, a),
        quick: () => moderateV(size, [a, b]),
        ok: () => k.vec.allTrue(v.and(plainV(size, a), plainV(size, b))),
      }),
      slow,
    );
  return fastOr(
    c,
    V128,
    c.fastFloat(),
    () => ({
      r: k.vec[op](a, b),
      // Most often nothing is small.
      quick: (r) => moderateV(size, op === 'add' || op === 'sub' ? [a, b] : [a, b, r]),
      ok: (r) => {
        const isZero = (x: Node): Node => k.vec.eq(x, v.zero());
        const z = zeroOk(op, isZero, a, b, r, v);
        return k.vec.allTrue(v.and(v.and(plainV(size, a), plainV(size, b)), v.or(inRangeV(size, r), z)));
      },
    }),
    slow,
  );
}
const packedOp = (size: Size, op: Binary): Semantic => floats2((c, a, b) => packedArith(c, size, op, a, b));

/** A scalar source: the float, and whether it is known not to be denormal. */
interface Scalar {
  readonly x: Node;
  readonly normal: boolean;
  /** Operand number of a register, or -1. */
  readonly reg: number;
}
function floatIn(c: SemCtx, i: number, size: Size): Scalar {
  if (c.isMem(i)) return { x: c.loadFloat(c.ea(), size), normal: false, reg: -1 };
  return { x: c.f.tmp(c.getXFloat(i, size)), normal: c.notDenormal(i, size), reg: i };
}
function floatOut(c: SemCtx, size: Size, x: Node, fma = false): void {
  if (fma) {
    c.setXFloat(0, size, x);
    clearUpper(c);
  } else if (isVex(c)) writeLanes(c, [withLaneF(c.getX(1), size, 0, x)]);
  else c.setXFloat(0, size, x);
}
function denormal(size: Size, x: Node): Node {
  const k = KIT[size];
  return i32.and(k.n.lt(k.n.abs(x), k.min()), k.n.ne(x, k.zero()));
}
/**
 * A scalar operation: on the host's floats unless `wrong` says of one of its conditions that the result would show it, else
 * by the function `name` on bits. Writes operand 0. The host's result counts only if it is finite and not small, unless
 * `any`. With a backend that can leave after an instruction, what goes on is sure that neither sources nor result are
 * denormal, and need not look again.
 */
function scalarCompute(
  c: SemCtx,
  size: Size,
  name: string,
  sources: readonly Scalar[],
  extra: readonly Node[],
  o: { compute: () => Node; wrong: () => readonly Node[]; any?: boolean; fma?: boolean },
): void {
  const k = KIT[size];
  const f = c.f;
  const r = f.temp(k.fty);
  f.block((done) => {
    f.block((slow) => {
      for (const w of o.wrong()) f.brUnlikely(slow, w);
      f.set(r, o.compute());
      if (o.any !== true) f.brUnlikely(slow, i32.eqz(moderate(size, [f.tmp(k.bits(r.get))])));
      f.br(done);
    });
    f.set(r, k.n.reinterpret(call(c.env.fn(name), c.base, ...sources.map((s) => k.bits(s.x)), ...extra)));
    c.checkFault();
    c.mxcsrChanged();
    if (c.leaveAfter !== null)
      f.if([...sources.map((s) => s.x), r.get].map((x) => denormal(size, x)).reduce(i32.or), () => {
        floatOut(c, size, r.get, o.fma);
        c.leaveAfter?.();
      });
  });
  floatOut(c, size, r.get, o.fma);
  if (c.leaveAfter === null) return;
  for (const s of sources) if (s.reg > 0) c.setNotDenormal(s.reg, size);
  c.setNotDenormal(0, size);
}
/** Sources below the normal range, zero among them, that nothing is known of. */
function small(size: Size, sources: readonly Scalar[]): Node[] {
  const k = KIT[size];
  return sources.filter((s) => !s.normal).map((s) => k.n.lt(k.n.abs(s.x), k.min()));
}

const scalarOp =
  (size: Size, op: Binary): Semantic =>
  (c) => {
    const k = KIT[size];
    const vex = isVex(c);
    const b = floatIn(c, vex ? 2 : 1, size);
    const a = floatIn(c, vex ? 1 : 0, size);
    const name = `sse_s${letter(size)}_${op}`;
    if (op === 'min' || op === 'max') {
      const wins = op === 'min' ? k.n.lt : k.n.gt;
      scalarCompute(c, size, name, [a, b], [], {
        any: true,
        wrong: () => [a, b].map((s) => i32.eqz(s.normal ? k.n.eq(s.x, s.x) : plain(size, s.x))),
        compute: () => select(wins(a.x, b.x), a.x, b.x),
      });
      return;
    }
    scalarCompute(c, size, name, [a, b], [], {
      wrong: () => [i32.eqz(c.fastFloat()), ...small(size, [a, b])],
      compute: () => k.n[op](a.x, b.x),
    });
  };

/**
 * A fused multiply-add of scalars where the host has one. `signs` negates the product (bit 0) and the addend (bit 1).
 * False where it has none.
 */
export function scalarFma(c: SemCtx, size: 4 | 8, sources: readonly [number, number, number], signs: number): boolean {
  if (!c.env.fused) return false;
  const k = KIT[size];
  // Memory first: it is always operand 2.
  const read = new Map([2, 1, 0].map((i) => [i, floatIn(c, i, size)]));
  const [a, b, z] = sources.map((i) => read.get(i)) as [Scalar, Scalar, Scalar];
  const signed = (x: Node, minus: number): Node => (minus ? k.n.neg(x) : x);
  scalarCompute(c, size, `sse_s${letter(size)}_fma`, [a, b, z], [c32(signs)], {
    fma: true,
    wrong: () => [i32.eqz(c.fastFloat()), ...small(size, [a, b, z])],
    compute: () =>
      laneF(
        simd(size === 4 ? 0x105 : 0x107, [
          k.vec.splat(signed(a.x, signs & 1)),
          k.vec.splat(b.x),
          k.vec.splat(signed(z.x, signs & 2)),
        ]),
        size,
        0,
      ),
  });
  return true;
}

const packedSqrt =
  (size: Size): Semantic =>
  (c) => {
    const k = KIT[size];
    legacyAlign(c);
    const src = Array.from({ length: laneCount(c) }, (_, n) => readLane(c, 1, n));
    const r = floatLanes(c, (n) => {
      const a = src[n] as Node;
      return fastOr(
        c,
        V128,
        c.fastFloat(),
        () => ({
          r: k.vec.sqrt(a),
          ok: () => k.vec.allTrue(v.or(v.and(k.vec.ge(a, k.vmin()), k.vec.le(a, k.vmax())), k.vec.eq(a, v.zero()))),
        }),
        () => call(c.env.fn(`sse_p${letter(size)}_sqrt`), c.base, a, phase(c)),
      );
    });
    writeLanes(c, r);
  };
const scalarSqrt =
  (size: Size): Semantic =>
  (c) => {
    const k = KIT[size];
    const a = floatIn(c, isVex(c) ? 2 : 1, size);
    scalarCompute(c, size, `sse_s${letter(size)}_sqrt`, [a], [], {
      any: true,
      wrong: () => [i32.eqz(c.fastFloat()), i32.eqz(k.n.ge(a.x, k.min())), k.n.gt(a.x, k.max())],
      compute: () => k.n.sqrt(a.x),
    });
  };

/** One lane of a fused multiply-add; `signs` as {@link scalarFma} has them, and the same for odd lanes in bits 2 and 3. */
export function packedFma(c: SemCtx, size: 4 | 8, a: Node, b: Node, z: Node, signs: number, last: Node): Node {
  const k = KIT[size];
  const general = (): Node => call(c.env.fn(`sse_p${letter(size)}_fma`), c.base, a, b, z, c32(signs), last);
  if (!c.env.fused) {
    const r = c.f.tmp(general());
    c.checkFault();
    return r;
  }
  const signed = (x: Node, even: number, odd: number): Node => {
    const [e, o] = [signs & even ? 1 << 31 : 0, signs & odd ? 1 << 31 : 0];
    return (e | o) === 0 ? x : v.xor(x, size === 4 ? cV128(e, o, e, o) : cV128(0, e, 0, o));
  };
  return fastOr(
    c,
    V128,
    c.fastFloat(),
    () => ({
      r: k.vec.madd(signed(a, 1, 4), b, signed(z, 2, 8)),
      quick: (r) => moderateV(size, [a, b, z, r]),
      ok: (r) => {
        const size1 = c.f.tmp(k.vec.abs(r));
        const least = [a, b, z].reduce((m, x) => k.vec.pmin(m, k.vec.abs(x)), size1);
        return k.vec.allTrue(v.and(k.vec.gt(least, k.vmin()), k.vec.le(size1, k.vmax())));
      },
    }),
    general,
  );
}

/** Predicate of a comparison: three bits in SSE, five in AVX; the others are ignored. */
function predicateOf(c: SemCtx): Node {
  return c.f.tmp(i32.and(c.imm32(), c32(isVex(c) ? 31 : 7)));
}

const packedCompare = (size: Size): Semantic =>
  floats2((c, a, b) => {
    const k = KIT[size];
    const imm = predicateOf(c);
    return fastOr(
      c,
      V128,
      null,
      () => {
        const p = c.f.tmp(predicate(imm));
        const m = (n: number): Node => v32.splat(i32.sub(c32(0), i32.and(i32.shr_u(p, c32(n)), c32(1))));
        return {
          r: v.or(v.or(v.and(k.vec.lt(a, b), m(0)), v.and(k.vec.eq(a, b), m(1))), v.and(k.vec.gt(a, b), m(2))),
          ok: () => k.vec.allTrue(v.and(plainV(size, a), plainV(size, b))),
        };
      },
      () => call(c.env.fn(`sse_p${letter(size)}_cmp`), c.base, a, b, imm, phase(c)),
    );
  });
const scalarCompare =
  (size: Size): Semantic =>
  (c) => {
    const k = KIT[size];
    const vex = isVex(c);
    const b = scalarIn(c, vex ? 2 : 1, size);
    const a = scalarIn(c, vex ? 1 : 0, size);
    const imm = predicateOf(c);
    const r = fastOr(
      c,
      k.ty,
      null,
      () => {
        const rel = i32.or(
          k.n.lt(a.x, b.x),
          i32.or(i32.shl(k.n.eq(a.x, b.x), c32(1)), i32.shl(k.n.gt(a.x, b.x), c32(2))),
        );
        const hit = i32.sub(c32(0), i32.ne(i32.and(rel, predicate(imm)), c32(0)));
        return {
          r: size === 4 ? hit : i64.extend_s(hit),
          ok: () => i32.and(plainIn(size, a), plainIn(size, b)),
        };
      },
      () => call(c.env.fn(`sse_s${letter(size)}_cmp`), c.base, a.bits, b.bits, imm),
    );
    scalarOut(c, size, r);
  };

/** COMISS and its like: ZF, PF, CF. */
const comi =
  (size: Size, signaling: boolean): Semantic =>
  (c) => {
    const k = KIT[size];
    const b = scalarIn(c, 1, size);
    const a = scalarIn(c, 0, size);
    const flags = fastOr(
      c,
      I32,
      null,
      () => ({
        // CF and ZF of numbers, with comparisons that need no look at NaNs: 1 if less, 2 if equal, 0 if greater.
        r: i32.sub(c32(2), i32.add(k.n.lt(a.x, b.x), i32.shl(k.n.gt(a.x, b.x), c32(1)))),
        quick: () => moderate(size, [a.bits, b.bits]),
        ok: () => i32.and(plainIn(size, a), plainIn(size, b)),
      }),
      () => {
        const name = `sse_s${letter(size)}_comi`;
        const rel = c.f.tmp(call(c.env.fn(name), c.base, a.bits, b.bits, c32(signaling ? 1 : 0)));
        return select(i32.and(rel, c32(8)), c32(7), i32.and(rel, c32(3)));
      },
    );
    c.flagsCompared(flags);
  };

// --- conversions -------------------------------------------------------------------------------------------------------

/** CVT(T)SS2SI and CVT(T)SD2SI. */
const toInteger =
  (size: Size, truncate: boolean): Semantic =>
  (c) => {
    const k = KIT[size];
    const f = c.f;
    const to = c.sizeOf(0) as Size;
    const a = scalarIn(c, 1, size);
    const r = fastOr(
      c,
      I64,
      truncate ? null : i32.eqz(i32.and(ld.i32(c.base, S.MXCSR), c32(0x6000))),
      () => {
        const y = f.temp(k.fty);
        f.set(y, truncate ? k.n.trunc(a.x) : k.n.nearest(a.x));
        const d = size === 4 ? f64.promote(y.get) : y.get;
        // 2^31 - 1 or 2^62: well inside the range, exactly represented.
        const limit = to === 4 ? cF64(0x41dfffff, 0xffc00000) : cF64(0x43d00000, 0);
        return {
          // Not of what is rounded towards zero: that would have to be waited for.
          r: i64.trunc_sat_f64_s(truncate ? (size === 4 ? f64.promote(a.x) : a.x) : d),
          ok: () =>
            i32.and(
              f64.le(f64.abs(size === 4 ? f64.promote(y.get) : y.get), limit),
              i32.or(k.n.eq(y.get, a.x), i32.eq(i32.and(ld.i32(c.base, S.MXCSR), c32(MX_FAST)), c32(MX_FAST))),
            ),
        };
      },
      () => call(c.env.fn(`sse_s${letter(size)}_int`), c.base, a.bits, c32(to * 8), c32(truncate ? 0xc00 : 0)),
    );
    c.write(0, to === 8 ? r : i32.wrap(r), to);
  };

/** CVTSI2SS and CVTSI2SD. */
const fromInteger =
  (size: Size): Semantic =>
  (c) => {
    const k = KIT[size];
    const f = c.f;
    const i = isVex(c) ? 2 : 1;
    const from = c.sizeOf(i);
    const raw = c.read(i);
    const x = f.tmp(from === 8 ? raw : i64.extend_s(raw));
    const fast = (): Node => (size === 8 ? f64.convert_i64_s(x) : f32.convert_i64_s(x));
    if (size === 8 && from === 4) {
      floatOut(c, 8, f.tmp(fast()));
      c.setNotDenormal(0, 8);
      return;
    }
    // Exact up to 2^53 or 2^24.
    const bound = size === 8 ? 2 ** 53 : 2 ** 24;
    const r = fastOr(
      c,
      k.fty,
      null,
      () => ({
        r: fast(),
        ok: () => i32.or(i64.le_u(i64.add(x, c64(bound)), c64(2 * bound - 1)), c.fastFloat()),
      }),
      () => k.n.reinterpret(call(c.env.fn(`sse_int_s${letter(size)}`), c.base, x)),
    );
    floatOut(c, size, r);
    c.setNotDenormal(0, size);
  };

const singleToDouble: Semantic = (c) => {
  const a = scalarIn(c, isVex(c) ? 2 : 1, 4);
  const r = fastOr(
    c,
    F64,
    null,
    () => ({ r: f64.promote(a.x), ok: () => plain(4, a.x) }),
    () => f64.reinterpret(call(c.env.fn('sse_ss_sd'), c.base, a.bits)),
  );
  floatOut(c, 8, r);
  c.setNotDenormal(0, 8);
};
const doubleToSingle: Semantic = (c) => {
  const a = scalarIn(c, isVex(c) ? 2 : 1, 8);
  const r = fastOr(
    c,
    F32,
    c.fastFloat(),
    () => ({
      r: f32.demote(a.x),
      ok: (r) => i32.or(inRange(4, r), f64.eq(a.x, KIT[8].zero())),
    }),
    () => f32.reinterpret(call(c.env.fn('sse_sd_ss'), c.base, a.bits)),
  );
  floatOut(c, 4, r);
};

/** Halves of a 256-bit result from two 64-bit halves. */
function join(parts: readonly Node[]): Node {
  return parts.length === 1 ? (parts[0] as Node) : lanes(parts[0] as Node, parts[1] as Node, 8, [0, 2]);
}
/** A conversion that widens 64 bits to 128: each lane of the result comes from half a lane of the source. */
const widening =
  (one: (c: SemCtx, half: Node) => Node): Semantic =>
  (c) => {
    const n = laneCount(c);
    const src = readLane(c, 1, 0, n === 1 ? 8 : 16);
    const halves = [src, n === 1 ? src : c.f.tmp(lanes(src, src, 8, [1, 1]))];
    writeLanes(
      c,
      floatLanes(c, (k) => one(c, halves[k] as Node)),
    );
  };
/** A conversion that narrows 128 bits to 64. */
const narrowing =
  (one: (c: SemCtx, a: Node) => Node): Semantic =>
  (c) => {
    legacyAlign(c);
    const src = Array.from({ length: laneCount(c) }, (_, n) => readLane(c, 1, n, 16));
    writeLanes(c, [join(floatLanes(c, (n) => one(c, src[n] as Node)))]);
  };
/** A conversion between lanes of the same width. */
const sameWidth =
  (one: (c: SemCtx, a: Node) => Node): Semantic =>
  (c) => {
    legacyAlign(c);
    const src = Array.from({ length: laneCount(c) }, (_, n) => readLane(c, 1, n, 16));
    writeLanes(
      c,
      floatLanes(c, (n) => one(c, src[n] as Node)),
    );
  };
/** Calls a function that may fault; leaves then. */
export function slow(c: SemCtx, name: string, ...args: Node[]): Node {
  const r = c.f.tmp(call(c.env.fn(name), c.base, ...args));
  c.checkFault();
  return r;
}
const psToPd = widening((c, a) =>
  fastOr(
    c,
    V128,
    null,
    () => {
      const both = c.f.tmp(lanes(a, a, 8, [0, 0]));
      return { r: vf64.promoteLow(a), ok: () => vf32.allTrue(plainV(4, both)) };
    },
    () => call(c.env.fn('sse_ps_pd'), c.base, a, phase(c)),
  ),
);
const psToDq = (truncate: boolean): Semantic =>
  sameWidth((c, a) =>
    fastOr(
      c,
      V128,
      truncate ? i32.eq(i32.and(ld.i32(c.base, S.MXCSR), c32(MX_FAST)), c32(MX_FAST)) : c.fastFloat(),
      () => ({
        r: vf32.truncSat(truncate ? a : vf32.nearest(a)),
        ok: () => vf32.allTrue(vf32.lt(vf32.abs(a), cV128(0x4f000000, 0x4f000000, 0x4f000000, 0x4f000000))),
      }),
      () => call(c.env.fn('sse_ps_dq'), c.base, a, c32(truncate ? 0xc00 : 0), phase(c)),
    ),
  );
const dqToPs = sameWidth((c, a) =>
  fastOr(
    c,
    V128,
    c.fastFloat(),
    () => ({ r: vf32.fromI32(a), ok: () => c32(1) }),
    () => call(c.env.fn('sse_dq_ps'), c.base, a, phase(c)),
  ),
);

/** Conversions to an MMX register: the x87 is switched to MMX use even if the source is memory. */
const toMmx =
  (name: string, size: 8 | 16, truncate: boolean): Semantic =>
  (c) => {
    checkPending(c);
    if (size === 16) c.requireAligned(16);
    const a = readLane(c, 1, 0, size);
    // The change of state stands even if the conversion faults.
    mmxState(c);
    const r = slow(c, name, a, c32(truncate ? 0xc00 : 0), c32(1));
    writeMmx(c, 0, r);
  };
// A memory source leaves the x87 alone: both here, whatever the SDM says of CVTPI2PS, and for doubles.
const mmxToPs: Semantic = (c) => {
  const mmx = c.kind(1) === Kind.Mmx;
  if (mmx) checkPending(c);
  const a = c.readV(1, 8);
  if (mmx) mmxState(c);
  const r = slow(c, 'sse_pi_ps', a, c32(1));
  c.setXLow(0, 8, lane(r, 8, 0));
};
const mmxToPd: Semantic = (c) => {
  const mmx = c.kind(1) === Kind.Mmx;
  if (mmx) checkPending(c);
  writeLanes(c, [vf64.fromLowI32(c.readV(1, 8))]);
  if (mmx) mmxState(c);
};

// --- the rest ----------------------------------------------------------------------------------------------------------

/** What the host's rounding to integers needs of MXCSR besides, for an immediate that is known: all nonzero when it is well. */
function mayRound(c: SemCtx, imm: number): Node {
  // Inexact results count unless bit 3 is set; the rounding is MXCSR's with bit 2.
  if ((imm & 8) === 0) return c.fastFloat();
  return (imm & 4) === 0 ? c32(1) : i32.eqz(i32.and(ld.i32(c.base, S.MXCSR), c32(0x6000)));
}
const ROUNDINGS = ['nearest', 'floor', 'ceil', 'trunc'] as const;
const rounding = (imm: number): (typeof ROUNDINGS)[number] => (imm & 4 ? 'nearest' : (ROUNDINGS[imm & 3] ?? 'nearest'));

const roundPacked =
  (size: Size): Semantic =>
  (c) => {
    const imm = imm8(c);
    const k = KIT[size];
    sameWidth((cc, a) => {
      const general = (): Node => call(cc.env.fn(`sse_p${letter(size)}_round`), cc.base, a, imm, phase(cc));
      if (!imm.isConst) return slow(cc, `sse_p${letter(size)}_round`, a, imm, phase(cc));
      const fast = (): { r: Node; ok: () => Node } => ({
        r: k.vec[rounding(imm.lo)](a),
        ok: () => k.vec.allTrue(plainV(size, a)),
      });
      return fastOr(cc, V128, mayRound(cc, imm.lo), fast, general);
    })(c);
  };
const roundScalar =
  (size: Size): Semantic =>
  (c) => {
    const imm = imm8(c);
    const k = KIT[size];
    const a = floatIn(c, isVex(c) ? 2 : 1, size);
    const name = `sse_s${letter(size)}_round`;
    if (!imm.isConst) {
      floatOut(c, size, k.n.reinterpret(slow(c, name, k.bits(a.x), imm)));
      return;
    }
    scalarCompute(c, size, name, [a], [imm], {
      any: true,
      wrong: () => [i32.eqz(mayRound(c, imm.lo)), i32.eqz(plainIn(size, a))],
      compute: () => k.n[rounding(imm.lo)](a.x),
    });
  };
const dot =
  (size: Size): Semantic =>
  (c) => {
    legacyAlign(c);
    const t = letter(size);
    const imm = imm8(c);
    const vex = isVex(c);
    const n = laneCount(c);
    const b = Array.from({ length: n }, (_, k) => readLane(c, vex ? 2 : 1, k));
    const a = Array.from({ length: n }, (_, k) => readLane(c, vex ? 1 : 0, k));
    const p = floatLanes(c, (k) => slow(c, `sse_p${t}_dotmul`, a[k] as Node, b[k] as Node, imm, phase(c)));
    writeLanes(
      c,
      floatLanes(c, (k) => slow(c, `sse_p${t}_dotsum`, p[k] as Node, imm, phase(c))),
    );
  };
const horizontal = (size: Size, op: 'add' | 'sub'): Semantic =>
  floats2((c, a, b) => {
    const n = 16 / size;
    const even = c.f.tmp(
      lanes(
        a,
        b,
        size,
        Array.from({ length: n }, (_, i) => 2 * i),
      ),
    );
    const odd = c.f.tmp(
      lanes(
        a,
        b,
        size,
        Array.from({ length: n }, (_, i) => 2 * i + 1),
      ),
    );
    return packedArith(c, size, op, even, odd);
  });
const addSub = (size: Size): Semantic =>
  floats2((c, a, b) => {
    const k = KIT[size];
    return fastOr(
      c,
      V128,
      c.fastFloat(),
      () => ({
        // The even lanes subtract. A NaN would lose its sign here, but none comes this way.
        quick: () => moderateV(size, [a, b]),
        r: k.vec.add(a, v.xor(b, size === 4 ? cV128(1 << 31, 0, 1 << 31, 0) : cV128(0, 1 << 31, 0, 0))),
        ok: (r) =>
          k.vec.allTrue(v.and(v.and(plainV(size, a), plainV(size, b)), v.or(inRangeV(size, r), k.vec.eq(r, v.zero())))),
      }),
      () => call(c.env.fn(`sse_p${letter(size)}_addsub`), c.base, a, b, phase(c)),
    );
  });
const estimatePacked = (name: string): Semantic =>
  sameWidth((c, a) => {
    let r: Node = a;
    for (let n = 0; n < 4; n++) r = c.f.tmp(withLane(r, 4, n, call(c.env.fn(name), lane(a, 4, n))));
    return r;
  });
const estimateScalar =
  (name: string): Semantic =>
  (c) => {
    const a = scalarIn(c, isVex(c) ? 2 : 1, 4);
    scalarOut(c, 4, c.f.tmp(call(c.env.fn(name), a.bits)));
  };

const ldmxcsr: Semantic = (c) => {
  const x = c.read(0, 4);
  c.f.if(i32.and(x, c32(MX_RESERVED)), () => c.raise(S.EXC_GP));
  c.f.st32(c.base, x, S.MXCSR);
  c.mxcsrChanged();
};

/** Semantics of floating-point vector instructions. */
export function sseFloatSemantics(): Map<number, Semantic> {
  const m = new Map<number, Semantic>();
  const ops = OP as Readonly<Record<string, number>>;
  const def = (name: OpName, s: Semantic): void => {
    m.set(OP[name], s);
    const vex = ops[`V${name}`];
    if (vex !== undefined) m.set(vex, s);
  };
  for (const [op, name] of [
    ['add', 'ADD'],
    ['sub', 'SUB'],
    ['mul', 'MUL'],
    ['div', 'DIV'],
    ['min', 'MIN'],
    ['max', 'MAX'],
  ] as const) {
    def(`${name}PS`, packedOp(4, op));
    def(`${name}PD`, packedOp(8, op));
    def(`${name}SS`, scalarOp(4, op));
    def(`${name}SD`, scalarOp(8, op));
  }
  def('SQRTPS', packedSqrt(4));
  def('SQRTPD', packedSqrt(8));
  def('SQRTSS', scalarSqrt(4));
  def('SQRTSD', scalarSqrt(8));
  def('CMPPS', packedCompare(4));
  def('CMPPD', packedCompare(8));
  def('CMPSS', scalarCompare(4));
  def('CMPSD', scalarCompare(8));
  def('COMISS', comi(4, true));
  def('COMISD', comi(8, true));
  def('UCOMISS', comi(4, false));
  def('UCOMISD', comi(8, false));
  def('CVTSI2SS', fromInteger(4));
  def('CVTSI2SD', fromInteger(8));
  def('CVTSS2SI', toInteger(4, false));
  def('CVTTSS2SI', toInteger(4, true));
  def('CVTSD2SI', toInteger(8, false));
  def('CVTTSD2SI', toInteger(8, true));
  def('CVTSS2SD', singleToDouble);
  def('CVTSD2SS', doubleToSingle);
  def('CVTPS2PD', psToPd);
  def(
    'CVTPD2PS',
    narrowing((c, a) =>
      fastOr(
        c,
        V128,
        c.fastFloat(),
        () => ({
          r: vf32.demote(a),
          ok: (x) => {
            const low = c.f.tmp(lanes(x, x, 8, [0, 0]));
            return vf32.allTrue(inRangeV(4, low));
          },
        }),
        () => call(c.env.fn('sse_pd_ps'), c.base, a, phase(c)),
      ),
    ),
  );
  def(
    'CVTDQ2PD',
    widening((_c, a) => vf64.fromLowI32(a)),
  );
  def('CVTDQ2PS', dqToPs);
  def('CVTPS2DQ', psToDq(false));
  def('CVTTPS2DQ', psToDq(true));
  def(
    'CVTPD2DQ',
    narrowing((c, a) => slow(c, 'sse_pd_dq', a, c32(0), phase(c))),
  );
  def(
    'CVTTPD2DQ',
    narrowing((c, a) =>
      fastOr(
        c,
        V128,
        c.fastFloat(),
        () => ({
          r: vf64.truncSatZero(a),
          ok: () => vf64.allTrue(vf64.lt(vf64.abs(a), cV128(0, 0x41e00000, 0, 0x41e00000))),
        }),
        () => call(c.env.fn('sse_pd_dq'), c.base, a, c32(0xc00), phase(c)),
      ),
    ),
  );
  def('CVTPI2PS', mmxToPs);
  def('CVTPI2PD', mmxToPd);
  def('CVTPS2PI', toMmx('sse_ps_pi', 8, false));
  def('CVTTPS2PI', toMmx('sse_ps_pi', 8, true));
  def('CVTPD2PI', toMmx('sse_pd_dq', 16, false));
  def('CVTTPD2PI', toMmx('sse_pd_dq', 16, true));
  def('ROUNDPS', roundPacked(4));
  def('ROUNDPD', roundPacked(8));
  def('ROUNDSS', roundScalar(4));
  def('ROUNDSD', roundScalar(8));
  def('DPPS', dot(4));
  def('DPPD', dot(8));
  def('HADDPS', horizontal(4, 'add'));
  def('HADDPD', horizontal(8, 'add'));
  def('HSUBPS', horizontal(4, 'sub'));
  def('HSUBPD', horizontal(8, 'sub'));
  def('ADDSUBPS', addSub(4));
  def('ADDSUBPD', addSub(8));
  def('RCPPS', estimatePacked('sse_rcp'));
  def('RSQRTPS', estimatePacked('sse_rsqrt'));
  def('RCPSS', estimateScalar('sse_rcp'));
  def('RSQRTSS', estimateScalar('sse_rsqrt'));
  def('LDMXCSR', ldmxcsr);
  def('STMXCSR', (c) => c.write(0, ld.i32(c.base, S.MXCSR), 4));
  return m;
}
