// AVX, AVX2, FMA and F16C instructions that have no SSE counterpart. The others are the SSE semantics of sse.ts and
// simd-int.ts. Intel SDM volume 1 chapter 14, volume 2.
import { Kind, OP, type OpName } from '@hyve/x86';
import { is64Bit, type Semantic, type SemCtx } from '../ctx.ts';
import * as S from '../state.ts';
import { c32, c64, cV128, I32, I64, i32, i64, ld, type Node, select } from '../wasm/builder.ts';
import { imm8, probeWrite } from './simd-int.ts';
import { floatLanes, packedFma, scalarFma, slow } from './sse.ts';
import {
  clearUpper,
  lane,
  laneCount,
  lanes,
  pick,
  readLane,
  v,
  v8,
  v16,
  v32,
  v64,
  withLane,
  writeLanes,
} from './vec.ts';

const UPPER = S.YMMH - S.XMM;

/** Byte indices from four double words of element numbers (0–3). */
function fromElements(n: Node): Node {
  return v32.add(
    v32.mul(v.and(n, cV128(3, 3, 3, 3)), cV128(0x04040404, 0x04040404, 0x04040404, 0x04040404)),
    cV128(0x03020100, 0x03020100, 0x03020100, 0x03020100),
  );
}
const each = (c: SemCtx, f: (n: number) => Node): void =>
  writeLanes(
    c,
    Array.from({ length: laneCount(c) }, (_, n) => c.f.tmp(f(n))),
  );

/** VPERMILPS: by a vector of element numbers, or an immediate. */
const permilPs: Semantic = (c) =>
  each(c, (n) => {
    if (c.kind(2) === Kind.Imm) {
      const a = readLane(c, 1, n, 16);
      const fields = v32.shr_u(v32.mul(v32.splat(imm8(c)), cV128(64, 16, 4, 1)), c32(6));
      return v.swizzle(a, fromElements(fields));
    }
    const b = readLane(c, 2, n, 16);
    const a = readLane(c, 1, n, 16);
    return v.swizzle(a, fromElements(b));
  });
/** VPERMILPD: bit 1 of each element, or one immediate bit each. */
const permilPd: Semantic = (c) =>
  each(c, (n) => {
    const b = c.kind(2) === Kind.Imm ? null : readLane(c, 2, n, 16);
    const a = readLane(c, 1, n, 16);
    const q = (k: number): Node =>
      select(
        b === null ? i32.and(imm8(c), c32(1 << (2 * n + k))) : i32.wrap(i64.and(lane(b, 8, k), c64(2))),
        lane(a, 8, 1),
        lane(a, 8, 0),
      );
    return withLane(v64.splat(q(0)), 8, 1, q(1));
  });

/** VPERMD and VPERMPS: any of eight double words. */
const permd: Semantic = (c) => {
  const f = c.f;
  const lo = readLane(c, 2, 0, 16);
  const hi = readLane(c, 2, 1, 16);
  each(c, (n) => {
    const i = readLane(c, 1, n, 16);
    const bytes = f.tmp(fromElements(i));
    // Bit 2 of the number chooses the source lane.
    const upper = v32.shr_s(v32.shl(i, c32(29)), c32(31));
    return v.bitselect(v.swizzle(hi, bytes), v.swizzle(lo, bytes), upper);
  });
};
/** VPERMQ and VPERMPD: any of four quad words, by immediate. */
const permq: Semantic = (c) => {
  const imm = imm8(c);
  const lo = readLane(c, 1, 0, 16);
  const hi = readLane(c, 1, 1, 16);
  const q = (k: number): Node => {
    const field = i32.shr_u(imm, c32(2 * k));
    const part = pick(i32.and(field, c32(2)), hi, lo);
    return select(i32.and(field, c32(1)), lane(c.f.tmp(part), 8, 1), lane(c.f.tmp(part), 8, 0));
  };
  each(c, (n) => withLane(v64.splat(q(2 * n)), 8, 1, q(2 * n + 1)));
};
/** VPERM2F128, VPERM2I128: lanes of both sources, or zero. */
const perm2: Semantic = (c) => {
  const imm = imm8(c);
  const b0 = readLane(c, 2, 0, 16);
  const b1 = readLane(c, 2, 1, 16);
  const a0 = readLane(c, 1, 0, 16);
  const a1 = readLane(c, 1, 1, 16);
  each(c, (n) => {
    const field = c.f.tmp(i32.shr_u(imm, c32(4 * n)));
    const bit = (k: number): Node => i32.and(field, c32(k));
    const r = pick(bit(2), pick(bit(1), b1, b0), pick(bit(1), a1, a0));
    return pick(bit(8), v.zero(), r);
  });
};
const insert128: Semantic = (c) => {
  const x = readLane(c, 2, 0, 16);
  const a0 = readLane(c, 1, 0, 16);
  const a1 = readLane(c, 1, 1, 16);
  const high = c.f.tmp(i32.and(c.imm32(), c32(1)));
  writeLanes(c, [pick(high, a0, x), pick(high, x, a1)]);
};
const extract128: Semantic = (c) => {
  const x = c.f.tmp(pick(i32.and(c.imm32(), c32(1)), c.getUpper(1), c.getX(1)));
  if (c.isMem(0)) c.store(c.ea(), 16, x);
  else writeLanes(c, [x]);
};

/** Broadcasts of one element of a register or of memory. */
const broadcast =
  (size: 1 | 2 | 4 | 8): Semantic =>
  (c) => {
    const x = c.isMem(1) ? c.read(1, size) : c.f.tmp(c.getElement(1, size, c32(0)));
    const wide = (size === 1 ? v8 : size === 2 ? v16 : size === 4 ? v32 : v64).splat(x);
    each(c, () => wide);
  };
const broadcast128: Semantic = (c) => {
  const x = c.load(c.ea(), 16);
  writeLanes(c, [x, x]);
};

/** Turns alignment checks off meanwhile: gathers and masked moves never raise #AC. A fault puts them on again. */
const unaligned =
  (body: Semantic): Semantic =>
  (c) => {
    const f = c.f;
    const checks = f.tmp(ld.i32(c.base, S.ALIGN_CHECK));
    f.st32(c.base, c32(0), S.ALIGN_CHECK);
    body(c);
    f.st32(c.base, checks, S.ALIGN_CHECK);
  };

/** VMASKMOVPS and its like: elements whose mask has its top bit set; the others are neither read nor written. */
const maskMove =
  (size: 4 | 8): Semantic =>
  (c) => {
    const f = c.f;
    const la = f.tmp(c.ea());
    const n = laneCount(c);
    const perLane = 16 / size;
    const store = c.isMem(0);
    const masks = Array.from({ length: n }, (_, k) => readLane(c, 1, k, 16));
    const bit = (k: number, j: number): Node =>
      size === 4 ? i32.lt_s(lane(masks[k] as Node, 4, j), c32(0)) : i64.lt_s(lane(masks[k] as Node, 8, j), c64(0));
    const at = (k: number, j: number): Node => f.tmp(i64.add(la, c64(16 * k + size * j)));
    if (store) {
      // All faults before the first store.
      for (let k = 0; k < n; k++)
        for (let j = 0; j < perLane; j++) f.if(bit(k, j), () => probeWrite(c, at(k, j), size));
      for (let k = 0; k < n; k++) {
        const x = readLane(c, 2, k, 16);
        for (let j = 0; j < perLane; j++) f.if(bit(k, j), () => c.store(at(k, j), size, lane(x, size, j)));
      }
      return;
    }
    const values: Node[] = [];
    for (let k = 0; k < n; k++) {
      let r: Node = v.zero();
      for (let j = 0; j < perLane; j++) {
        const x = f.temp(size === 4 ? I32 : I64);
        f.set(x, size === 4 ? c32(0) : c64(0));
        f.if(bit(k, j), () => f.set(x, c.load(at(k, j), size)));
        r = f.tmp(withLane(r, size, j, x.get));
      }
      values.push(r);
    }
    writeLanes(c, values);
  };

/**
 * Gathers: element by element; each one's mask is cleared as it arrives, so that a fault in the middle can be resumed.
 * Operand 1's register field is the index register, the immediate the scale.
 */
const gather =
  (index: 4 | 8, size: 4 | 8): Semantic =>
  (c) => {
    const f = c.f;
    const dst = c.regAddr(0);
    const mask = c.regAddr(2);
    const idx = c.regAddr(1);
    const wide = laneCount(c) === 2 || c.insn.vexL !== 0;
    const total = (wide ? 32 : 16) / Math.max(index, size);
    const place = (i: number, s: number): number => (i * s < 16 ? i * s : UPPER + i * s - 16);
    const base = f.tmp(c.ea());
    const scale = f.tmp(i64.extend_u(c.imm32()));
    const cut = f.tmp(select(is64Bit(c.base), c64(-1), c64(0xffffffff)));
    f.st32(c.base, c32(0), S.UPPERS_ZERO);
    // Every mask element becomes all ones or zero first.
    for (let i = 0; i < total; i++) {
      const p = place(i, size);
      if (size === 4) f.st32(mask, i32.shr_s(ld.i32(mask, p), c32(31)), p);
      else f.st64(mask, i64.shr_s(ld.i64(mask, p), c64(63)), p);
    }
    for (let i = 0; i < total; i++) {
      const p = place(i, size);
      f.if(ld.i32(mask, p), () => {
        const k = index === 4 ? i64.extend_s(ld.i32(idx, place(i, 4))) : ld.i64(idx, place(i, 8));
        const la = f.tmp(i64.and(i64.add(base, i64.shl(k, scale)), cut));
        const x = c.load(la, size);
        if (size === 4) {
          f.st32(dst, x, p);
          f.st32(mask, c32(0), p);
        } else {
          f.st64(dst, x, p);
          f.st64(mask, c64(0), p);
        }
      });
    }
    // The mask ends up zero; what lies above the elements is cleared in both.
    const used = total * size;
    for (const r of [dst, mask]) {
      if (used <= 8) f.st64(r, c64(0), 8);
      if (used <= 16) f.stV(r, v.zero(), UPPER);
    }
  };

// --- FMA ---------------------------------------------------------------------------------------------------------------

/** Operands in the order of the digits: 132 is a·c + b, 213 b·a + c, 231 b·c + a (a, b, c: operands 0, 1, 2). */
const ORDER = { 132: [0, 2, 1], 213: [1, 0, 2], 231: [1, 2, 0] } as const;
function fma(order: keyof typeof ORDER, size: 4 | 8, signs: number, scalar: boolean): Semantic {
  const [x, y, z] = ORDER[order];
  const t = size === 4 ? 's' : 'd';
  return (c) => {
    if (scalar) {
      if (scalarFma(c, size, [x, y, z], signs & 3)) return;
      const at = (i: number): Node => (c.isMem(i) ? c.read(i, size) : c.f.tmp(c.getXLow(i, size)));
      // Memory first: it is always operand 2.
      const last = at(2);
      const value = (i: number): Node => (i === 2 ? last : at(i));
      const r = slow(c, `sse_s${t}_fma`, value(x), value(y), value(z), c32(signs & 3));
      c.setXLow(0, size, r);
      clearUpper(c);
      return;
    }
    const n = laneCount(c);
    // Memory is always operand 2.
    const v3 = [0, 1, 2].map((i) => Array.from({ length: n }, (_, k) => (i === 2 ? readLane(c, 2, k, 16) : null)));
    const value = (i: number, k: number): Node => v3[i]?.[k] ?? readLane(c, i, k, 16);
    const phase = c32(n === 1 ? 1 : 0);
    writeLanes(
      c,
      floatLanes(c, (k) => packedFma(c, size, value(x, k), value(y, k), value(z, k), signs, phase)),
    );
  };
}

/** Semantics of AVX, AVX2, FMA and F16C instructions without an SSE counterpart. */
export function avxSemantics(): Map<number, Semantic> {
  const m = new Map<number, Semantic>();
  const ops = OP as Readonly<Record<string, number>>;
  const def = (name: OpName, s: Semantic): void => {
    m.set(OP[name], s);
  };
  const zeroUpper = (all: boolean): Semantic => {
    return (c) => {
      c.clearUppers();
      if (!all) return;
      // Outside 64-bit mode there are eight registers; MODE tells.
      const clear = (from: number): void => {
        for (let n = from; n < from + 8; n++) c.setXmm(n, v.zero());
      };
      clear(0);
      c.f.if(is64Bit(c.base), () => clear(8));
    };
  };
  def('VZEROUPPER', zeroUpper(false));
  def('VZEROALL', zeroUpper(true));
  def('VPERMILPS', permilPs);
  def('VPERMILPD', permilPd);
  def('VPERMD', permd);
  def('VPERMPS', permd);
  def('VPERMQ', permq);
  def('VPERMPD', permq);
  def('VPERM2F128', perm2);
  def('VPERM2I128', perm2);
  def('VINSERTF128', insert128);
  def('VINSERTI128', insert128);
  def('VEXTRACTF128', extract128);
  def('VEXTRACTI128', extract128);
  def('VPBROADCASTB', broadcast(1));
  def('VPBROADCASTW', broadcast(2));
  def('VPBROADCASTD', broadcast(4));
  def('VPBROADCASTQ', broadcast(8));
  def('VBROADCASTSS', broadcast(4));
  def('VBROADCASTSD', broadcast(8));
  def('VBROADCASTF128', broadcast128);
  def('VBROADCASTI128', broadcast128);
  def('VMASKMOVPS', unaligned(maskMove(4)));
  def('VMASKMOVPD', unaligned(maskMove(8)));
  def('VPMASKMOVD', unaligned(maskMove(4)));
  def('VPMASKMOVQ', unaligned(maskMove(8)));
  for (const [name, index, size] of [
    ['VPGATHERDD', 4, 4],
    ['VGATHERDPS', 4, 4],
    ['VPGATHERDQ', 4, 8],
    ['VGATHERDPD', 4, 8],
    ['VPGATHERQD', 8, 4],
    ['VGATHERQPS', 8, 4],
    ['VPGATHERQQ', 8, 8],
    ['VGATHERQPD', 8, 8],
  ] as const)
    def(name, unaligned(gather(index, size)));
  // Signs: bit 0 negates the product, bit 1 the addend; bits 2 and 3 the same for odd lanes.
  for (const order of [132, 213, 231] as const)
    for (const [name, signs] of [
      ['FMADD', 0b0000],
      ['FMSUB', 0b1010],
      ['FNMADD', 0b0101],
      ['FNMSUB', 0b1111],
      ['FMADDSUB', 0b0010],
      ['FMSUBADD', 0b1000],
    ] as const)
      for (const [suffix, size, scalar] of [
        ['PS', 4, false],
        ['PD', 8, false],
        ['SS', 4, true],
        ['SD', 8, true],
      ] as const) {
        const op = ops[`V${name}${order}${suffix}`];
        if (op !== undefined) m.set(op, fma(order, size, signs, scalar));
      }
  def('VCVTPH2PS', (c) => {
    const n = laneCount(c);
    const src = readLane(c, 1, 0, n === 1 ? 8 : 16);
    const phase = c32(n === 1 ? 1 : 0);
    const halves = [src, c.f.tmp(lanes(src, src, 8, [1, 1]))];
    writeLanes(
      c,
      floatLanes(c, (k) => slow(c, 'sse_ph_ps', halves[k] as Node, phase)),
    );
  });
  def('VCVTPS2PH', (c) => {
    const f = c.f;
    const wide = c.kind(1) === Kind.Ymm;
    const imm = imm8(c);
    // A store may fault: flags change only when it cannot any more.
    if (c.isMem(0)) probeWrite(c, c.ea(), wide ? 16 : 8);
    const phase = c32(wide ? 0 : 1);
    const parts = floatLanes(c, (k) => slow(c, 'sse_ps_ph', readLane(c, 1, k, 16), imm, phase));
    const lo = parts[0] as Node;
    const hi = wide ? (parts[1] as Node) : null;
    if (c.isMem(0)) {
      if (hi === null) c.store(c.ea(), 8, lane(lo, 8, 0));
      else c.store(c.ea(), 16, lanes(lo, hi, 8, [0, 2]));
      return;
    }
    const r = f.tmp(hi === null ? withLane(v.zero(), 8, 0, lane(lo, 8, 0)) : lanes(lo, hi, 8, [0, 2]));
    c.setX(0, r);
    clearUpper(c);
  });
  return m;
}
