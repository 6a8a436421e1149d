// Vector instructions in general: names for the WebAssembly SIMD operations, and how MMX, SSE and AVX operands are read
// and written. An AVX register is two 16-byte lanes, the upper one in YMMH; most operations work lane by lane.
import { Kind } from '@hyve/x86';
import type { Semantic, SemCtx } from '../ctx.ts';
import * as S from '../state.ts';
import {
  c32,
  c64,
  cV128,
  F32,
  F64,
  I32,
  I64,
  i32,
  i64,
  ld,
  type Node,
  select,
  shuffle,
  simd,
  simdLane,
  type Ty,
  V128,
} from '../wasm/builder.ts';

type Bin = (a: Node, b: Node) => Node;
type Un = (a: Node) => Node;
type Tern = (a: Node, b: Node, c: Node) => Node;
const bin =
  (op: number): Bin =>
  (a, b) =>
    simd(op, [a, b]);
const un =
  (op: number): Un =>
  (a) =>
    simd(op, [a]);
const test =
  (op: number): Un =>
  (a) =>
    simd(op, [a], I32);

/** Whole-vector operations. Shift counts are i32 nodes. */
export const v = {
  not: un(77) as Un,
  and: bin(78) as Bin,
  /** `a & ~b` (x86's ANDN has the operands the other way round). */
  andnot: bin(79) as Bin,
  or: bin(80) as Bin,
  xor: bin(81) as Bin,
  /** Bits of `a` where `mask` is 1, of `b` elsewhere. */
  bitselect: (a: Node, b: Node, mask: Node): Node => simd(82, [a, b, mask]),
  anyTrue: test(83) as Un,
  swizzle: bin(14) as Bin,
  zero: (): Node => cV128(0, 0, 0, 0),
  ones: (): Node => cV128(-1, -1, -1, -1),
} as const;
/** Operations on sixteen bytes. */
export const v8 = {
  splat: un(15) as Un,
  eq: bin(35) as Bin,
  gt_s: bin(39) as Bin,
  le_u: bin(42) as Bin,
  ge_u: bin(44) as Bin,
  le_s: bin(41) as Bin,
  ge_s: bin(43) as Bin,
  abs: un(96) as Un,
  allTrue: test(99) as Un,
  bitmask: test(100) as Un,
  narrow_s: bin(101) as Bin,
  narrow_u: bin(102) as Bin,
  shl: bin(107) as Bin,
  shr_s: bin(108) as Bin,
  shr_u: bin(109) as Bin,
  add: bin(110) as Bin,
  add_sat_s: bin(111) as Bin,
  add_sat_u: bin(112) as Bin,
  sub: bin(113) as Bin,
  sub_sat_s: bin(114) as Bin,
  sub_sat_u: bin(115) as Bin,
  min_s: bin(118) as Bin,
  min_u: bin(119) as Bin,
  max_s: bin(120) as Bin,
  max_u: bin(121) as Bin,
  avgr_u: bin(123) as Bin,
} as const;
/** Operations on eight words. */
export const v16 = {
  splat: un(16) as Un,
  eq: bin(45) as Bin,
  ne: bin(46) as Bin,
  gt_s: bin(49) as Bin,
  le_u: bin(52) as Bin,
  ge_u: bin(54) as Bin,
  le_s: bin(51) as Bin,
  ge_s: bin(53) as Bin,
  extaddU8: un(125) as Un,
  abs: un(128) as Un,
  bitmask: test(132) as Un,
  narrow_s: bin(133) as Bin,
  narrow_u: bin(134) as Bin,
  extendLowS: un(135) as Un,
  extendHighS: un(136) as Un,
  extendLowU: un(137) as Un,
  extendHighU: un(138) as Un,
  shl: bin(139) as Bin,
  shr_s: bin(140) as Bin,
  shr_u: bin(141) as Bin,
  add: bin(142) as Bin,
  add_sat_s: bin(143) as Bin,
  add_sat_u: bin(144) as Bin,
  sub: bin(145) as Bin,
  sub_sat_s: bin(146) as Bin,
  sub_sat_u: bin(147) as Bin,
  q15mulr: bin(130) as Bin,
  mul: bin(149) as Bin,
  min_s: bin(150) as Bin,
  min_u: bin(151) as Bin,
  max_s: bin(152) as Bin,
  max_u: bin(153) as Bin,
  avgr_u: bin(155) as Bin,
} as const;
/** Operations on four double words. */
export const v32 = {
  splat: un(17) as Un,
  eq: bin(55) as Bin,
  ne: bin(56) as Bin,
  gt_s: bin(59) as Bin,
  extaddU16: un(127) as Un,
  abs: un(160) as Un,
  bitmask: test(164) as Un,
  extendLowS: un(167) as Un,
  extendLowU: un(169) as Un,
  shl: bin(171) as Bin,
  shr_s: bin(172) as Bin,
  shr_u: bin(173) as Bin,
  add: bin(174) as Bin,
  sub: bin(177) as Bin,
  mul: bin(181) as Bin,
  min_s: bin(182) as Bin,
  min_u: bin(183) as Bin,
  max_s: bin(184) as Bin,
  max_u: bin(185) as Bin,
  dot: bin(186) as Bin,
  mulLowS: bin(188) as Bin,
  mulHighS: bin(189) as Bin,
  mulLowU: bin(190) as Bin,
  mulHighU: bin(191) as Bin,
} as const;
/** Operations on two quad words. */
export const v64 = {
  splat: un(18) as Un,
  bitmask: test(196) as Un,
  extendLowS: un(199) as Un,
  extendLowU: un(201) as Un,
  shl: bin(203) as Bin,
  shr_s: bin(204) as Bin,
  shr_u: bin(205) as Bin,
  add: bin(206) as Bin,
  sub: bin(209) as Bin,
  mul: bin(213) as Bin,
  eq: bin(214) as Bin,
  gt_s: bin(217) as Bin,
  allTrue: test(195) as Un,
} as const;
/** Relaxed multiply-add: a · b + c, rounded once where {@link Env.fused} says so. */
const fused =
  (op: number) =>
  (a: Node, b: Node, c: Node): Node =>
    simd(op, [a, b, c]);
/** Operations on four singles. */
export const vf32 = {
  ceil: un(103) as Un,
  floor: un(104) as Un,
  trunc: un(105) as Un,
  madd: fused(0x105) as Tern,
  /** From two doubles; zero above. */
  demote: un(94) as Un,
  splat: un(19) as Un,
  eq: bin(65) as Bin,
  ne: bin(66) as Bin,
  lt: bin(67) as Bin,
  gt: bin(68) as Bin,
  le: bin(69) as Bin,
  ge: bin(70) as Bin,
  abs: un(224) as Un,
  sqrt: un(227) as Un,
  add: bin(228) as Bin,
  sub: bin(229) as Bin,
  mul: bin(230) as Bin,
  div: bin(231) as Bin,
  pmin: bin(234) as Bin,
  pmax: bin(235) as Bin,
  nearest: un(106) as Un,
  truncSat: un(248) as Un,
  allTrue: test(163) as Un,
  fromI32: un(250) as Un,
} as const;
/** Operations on two doubles. */
export const vf64 = {
  ceil: un(116) as Un,
  floor: un(117) as Un,
  trunc: un(122) as Un,
  nearest: un(148) as Un,
  madd: fused(0x107) as Tern,
  /** To two signed double words; zero above. */
  truncSatZero: un(252) as Un,
  splat: un(20) as Un,
  eq: bin(71) as Bin,
  ne: bin(72) as Bin,
  lt: bin(73) as Bin,
  gt: bin(74) as Bin,
  le: bin(75) as Bin,
  ge: bin(76) as Bin,
  abs: un(236) as Un,
  sqrt: un(239) as Un,
  add: bin(240) as Bin,
  sub: bin(241) as Bin,
  mul: bin(242) as Bin,
  div: bin(243) as Bin,
  pmin: bin(246) as Bin,
  pmax: bin(247) as Bin,
  allTrue: test(195) as Un,
  fromLowI32: un(254) as Un,
  promoteLow: un(95) as Un,
} as const;

const EXTRACT: Readonly<Record<number, readonly [op: number, ty: Ty]>> = {
  1: [22, I32],
  2: [25, I32],
  4: [27, I32],
  8: [29, I64],
};
const REPLACE: Readonly<Record<number, number>> = { 1: 23, 2: 26, 4: 28, 8: 30 };
/** Lane `n` of `size` bytes, zero-extended to i32 (i64 for 8). */
export function lane(a: Node, size: 1 | 2 | 4 | 8, n: number): Node {
  const [op, ty] = EXTRACT[size] as readonly [number, Ty];
  return simdLane(op, n, [a], ty);
}
/** `a` with lane `n` replaced. */
export function withLane(a: Node, size: 1 | 2 | 4 | 8, n: number, x: Node): Node {
  return simdLane(REPLACE[size] as number, n, [a, x], V128);
}
/** A lane as f32 (4) or f64 (8). */
export function laneF(a: Node, size: 4 | 8, n: number): Node {
  return simdLane(size === 4 ? 31 : 33, n, [a], size === 4 ? F32 : F64);
}
/** `a` with a float lane replaced. */
export function withLaneF(a: Node, size: 4 | 8, n: number, x: Node): Node {
  return simdLane(size === 4 ? 32 : 34, n, [a, x], V128);
}
/** The vector that repeats a 16-bit value. */
export function words(...w: readonly number[]): Node {
  const at = (i: number): number => w[i % w.length] as number;
  const two = (i: number): number => (at(2 * i) & 0xffff) | (at(2 * i + 1) << 16);
  return cV128(two(0), two(1), two(2), two(3));
}
/** The vector of these bytes, repeated to sixteen. */
export function bytes(...b: readonly number[]): Node {
  const at = (i: number): number => b[i % b.length] as number;
  const four = (i: number): number =>
    (at(4 * i) & 255) | ((at(4 * i + 1) & 255) << 8) | ((at(4 * i + 2) & 255) << 16) | (at(4 * i + 3) << 24);
  return cV128(four(0), four(1), four(2), four(3));
}
/** Byte numbers 0–15. */
export function iota(): Node {
  return cV128(0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c);
}
/** Shuffle of lanes of `size` bytes; lane numbers count through `a`, then `b`. */
export function lanes(a: Node, b: Node, size: number, order: readonly number[]): Node {
  return shuffle(
    a,
    b,
    order.flatMap((n) => Array.from({ length: size }, (_, k) => n * size + k)),
  );
}
/** Low eight bytes of `a`, then those of `b`. */
export function join64(a: Node, b: Node): Node {
  return lanes(a, b, 8, [0, 2]);
}

// --- operands ----------------------------------------------------------------------------------------------------------

/** 2 for a 256-bit instruction, else 1. */
export function laneCount(c: SemCtx): 1 | 2 {
  for (let i = 0; i < c.insn.operandCount; i++) if (c.kind(i) === Kind.Ymm || c.sizeOf(i) === 32) return 2;
  return 1;
}
/** Whether the instruction is VEX-encoded. */
export function isVex(c: SemCtx): boolean {
  return c.insn.vex !== 0;
}
/** Raises #GP(0) for a misaligned 16-byte memory operand of a legacy instruction. */
export function legacyAlign(c: SemCtx): void {
  const m = c.memIndex();
  if (!isVex(c) && m >= 0 && c.sizeOf(m) === 16) c.requireAligned(16);
}
/** Reads one lane of operand `i`: a temporary. Fewer than 16 bytes are zero-extended. */
export function readLane(c: SemCtx, i: number, n: number, size: number = Math.min(16, c.sizeOf(i))): Node {
  if (c.kind(i) === Kind.Mem) {
    if (n === 0 && c.sizeOf(i) === 32 && size === 16) {
      // One access for both lanes: whoever wants the lower one wants the other next.
      const [lo, hi] = c.loadPair(c.ea());
      c.upperLane = hi;
      return lo;
    }
    if (n === 0) return c.readV(i, size);
    return c.upperLane ?? c.load(c.f.tmp(i64.add(c.ea(), c64(16 * n))), 16);
  }
  if (c.kind(i) === Kind.Mmx || size < 16) return c.readV(i, Math.max(4, size));
  return c.f.tmp(n === 0 ? c.getX(i) : c.getUpper(i));
}
/** Writes register operand 0: all lanes; a VEX instruction clears what lies above. */
export function writeLanes(c: SemCtx, r: readonly Node[]): void {
  const values = r.map((x) => c.f.tmp(x));
  c.setX(0, values[0] as Node);
  if (values.length > 1) c.setUpper(0, values[1] as Node);
  else clearUpper(c);
}
/** Clears the upper lane of operand 0 if the instruction is VEX-encoded. */
export function clearUpper(c: SemCtx): void {
  if (isVex(c)) c.clearUpper(0);
}

// --- MMX ---------------------------------------------------------------------------------------------------------------

/** If an unmasked x87 exception is pending, raises #MF or, with CR0.NE clear, FERR#. SDM vol. 1 §8.7. */
export function checkPending(c: SemCtx): void {
  c.f.if(i32.and(ld.i32(c.base, S.FSW), c32(0x80)), () => {
    c.f.if(i32.and(ld.i32(c.base, S.CR0), c32(0x20)), () => c.raise(S.EXC_MF));
    c.f.if(i32.eqz(ld.i32(c.base, S.IGNNE)), () => c.raise(S.EXC_FERR));
  });
}
/** The x87 state after any MMX instruction: TOP 0, all registers in use. SDM volume 3A 12.2. */
export function mmxState(c: SemCtx): void {
  c.f.st32(c.base, c32(0), S.FTOP);
  c.f.st32(c.base, c32(0xff), S.FTW);
}
/** Writes MMX register operand `i`; the exponent becomes all ones. */
export function writeMmx(c: SemCtx, i: number, x: Node): void {
  const a = c.regAddr(i);
  c.f.st64(a, x.ty === V128 ? lane(x, 8, 0) : x);
  c.f.st16(a, c32(0xffff), 8);
}

// --- instruction shapes ------------------------------------------------------------------------------------------------

/** Computes one lane (or the low eight bytes for MMX, when `mmx`). */
export type Lane2 = (c: SemCtx, a: Node, b: Node, mmx: boolean, n: number) => Node;

/** dst = op(a, b): two operands in MMX and SSE, three in AVX. A further operand is the caller's business. */
export function packed2(compute: Lane2): Semantic {
  return (c) => {
    if (c.kind(0) === Kind.Mmx) {
      checkPending(c);
      const b = c.readV(1);
      const a = c.readV(0);
      const r = c.f.tmp(compute(c, a, b, true, 0));
      writeMmx(c, 0, r);
      mmxState(c);
      return;
    }
    legacyAlign(c);
    const vex = isVex(c);
    const r: Node[] = [];
    for (let n = 0; n < laneCount(c); n++) {
      const b = readLane(c, vex ? 2 : 1, n);
      const a = readLane(c, vex ? 1 : 0, n);
      r.push(c.f.tmp(compute(c, a, b, false, n)));
    }
    writeLanes(c, r);
  };
}

/** dst = op(source), maybe with an immediate. */
export function packed1(compute: (c: SemCtx, a: Node, mmx: boolean) => Node): Semantic {
  return (c) => {
    if (c.kind(0) === Kind.Mmx) {
      checkPending(c);
      const a = c.readV(1);
      writeMmx(c, 0, c.f.tmp(compute(c, a, true)));
      mmxState(c);
      return;
    }
    legacyAlign(c);
    const r: Node[] = [];
    for (let n = 0; n < laneCount(c); n++) r.push(c.f.tmp(compute(c, readLane(c, 1, n), false)));
    writeLanes(c, r);
  };
}

/** `cond ? a : b` for vectors. */
export function pick(cond: Node, a: Node, b: Node): Node {
  return select(cond, a, b);
}
