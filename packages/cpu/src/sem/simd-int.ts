// Integer vector instructions, once for MMX, SSE and AVX: names with a V in front are the same operation with three
// operands and a cleared upper lane. Intel SDM volume 2.
import { Kind, OP, type OpName } from '@hyve/x86';
import type { Semantic, SemCtx } from '../ctx.ts';
import * as S from '../state.ts';
import { c32, c64, call, cV128, I32, i32, i64, type Node, select } from '../wasm/builder.ts';
import {
  bytes,
  checkPending,
  clearUpper,
  iota,
  isVex,
  join64,
  type Lane2,
  lane,
  laneCount,
  lanes,
  legacyAlign,
  mmxState,
  packed1,
  packed2,
  pick,
  readLane,
  v,
  v8,
  v16,
  v32,
  v64,
  withLane,
  withLaneF,
  words,
  writeLanes,
  writeMmx,
} from './vec.ts';

/** Eight-bit immediate as an i32 temporary. */
export function imm8(c: SemCtx): Node {
  return c.f.tmp(i32.and(c.imm32(), c32(0xff)));
}

const even = (n: number): number[] => Array.from({ length: n }, (_, i) => 2 * i);
const odd = (n: number): number[] => Array.from({ length: n }, (_, i) => 2 * i + 1);

/** Horizontal operations: pairs of `a`, then pairs of `b`. */
function horizontal(size: 2 | 4, op: (a: Node, b: Node) => Node): Lane2 {
  const n = 16 / size;
  return (c, a, b, mmx) => {
    if (!mmx) return op(lanes(a, b, size, even(n)), lanes(a, b, size, odd(n)));
    const t = c.f.tmp(join64(a, b));
    const half = (o: readonly number[]): number[] => [...o.slice(0, n / 2), ...o.slice(0, n / 2)];
    return op(lanes(t, t, size, half(even(n))), lanes(t, t, size, half(odd(n))));
  };
}

/** Packs lanes of `a`, then of `b`. */
function pack(narrow: (a: Node, b: Node) => Node): Lane2 {
  return (c, a, b, mmx) => {
    if (!mmx) return narrow(a, b);
    const t = c.f.tmp(join64(a, b));
    return narrow(t, t);
  };
}

function unpack(size: number, high: boolean): Lane2 {
  const order = (count: number, from: number, stride: number): number[] =>
    Array.from({ length: count }, (_, i) => from + (i >> 1) + (i & 1 ? stride : 0));
  const n = 16 / size;
  return (_c, a, b, mmx) => {
    // Eight bytes of MMX: the high half starts at lane n/4 of the 16-byte value.
    if (mmx) {
      const o = order(n / 2, high ? n / 4 : 0, n);
      return lanes(a, b, size, [...o, ...o]);
    }
    return lanes(a, b, size, order(n, high ? n / 2 : 0, n));
  };
}

/** Negates lanes of `a` where `b` is negative, clears them where it is zero. */
function sign(
  shift: number,
  shr: (a: Node, n: Node) => Node,
  sub: (a: Node, b: Node) => Node,
  eq: (a: Node, b: Node) => Node,
): Lane2 {
  return (c, a, b) => {
    const s = c.f.tmp(shr(b, c32(shift)));
    return v.andnot(sub(v.xor(a, s), s), eq(b, v.zero()));
  };
}

const mulHigh =
  (signed: boolean): Lane2 =>
  (_c, a, b) => {
    const lo = signed ? v32.mulLowS(a, b) : v32.mulLowU(a, b);
    const hi = signed ? v32.mulHighS(a, b) : v32.mulHighU(a, b);
    return lanes(lo, hi, 2, [1, 3, 5, 7, 9, 11, 13, 15]);
  };

const mulRound: Lane2 = (_c, a, b) => {
  // Only -1 × -1 differs: the WebAssembly operation saturates it.
  const min = words(0x8000);
  return v.xor(v16.q15mulr(a, b), v.and(v16.eq(a, min), v16.eq(b, min)));
};

const maddUbs: Lane2 = (c, a, b) => {
  const lo = c.f.tmp(v16.mul(v16.extendLowU(a), v16.extendLowS(b)));
  const hi = c.f.tmp(v16.mul(v16.extendHighU(a), v16.extendHighS(b)));
  return v16.add_sat_s(lanes(lo, hi, 2, even(8)), lanes(lo, hi, 2, odd(8)));
};

const sad: Lane2 = (c, a, b) => {
  const d = v.or(v8.sub_sat_u(a, b), v8.sub_sat_u(b, a));
  const s = c.f.tmp(v32.extaddU16(v16.extaddU8(d)));
  return v64.add(v.and(s, cV128(-1, 0, -1, 0)), v64.shr_u(s, c32(32)));
};

const mulEven =
  (signed: boolean): Lane2 =>
  (_c, a, b) => {
    const ext = (x: Node): Node => (signed ? v64.shr_s(v64.shl(x, c32(32)), c32(32)) : v.and(x, cV128(-1, 0, -1, 0)));
    return v64.mul(ext(a), ext(b));
  };

const shuffleBytes: Lane2 = (_c, a, b, mmx) =>
  // An index with bit 7 set is out of range for swizzle too, and gives 0.
  v.swizzle(a, v.and(b, mmx ? bytes(0x87) : bytes(0x8f)));

const absolute = { b: v8.abs, w: v16.abs, d: v32.abs } as const;

// --- shifts ------------------------------------------------------------------------------------------------------------

type Shift = (a: Node, n: Node) => Node;

/** A shift by one count for all lanes: past the lane width the result is 0, or the sign for arithmetic shifts. */
function shiftAll(bits: number, op: Shift, arithmetic: boolean): Semantic {
  return (c) => {
    const f = c.f;
    const mmx = c.kind(0) === Kind.Mmx;
    if (mmx) checkPending(c);
    const vex = isVex(c);
    const last = c.insn.operandCount - 1;
    const src = vex ? 1 : 0;
    let count: Node;
    let over: Node | null = null;
    if (c.kind(last) === Kind.Imm) {
      count = imm8(c);
      if (!arithmetic) over = f.tmp(i32.gt_u(count, c32(bits - 1)));
    } else {
      legacyAlign(c);
      const n = f.tmp(lane(readLane(c, last, 0), 8, 0));
      over = f.tmp(i64.gt_u(n, c64(bits - 1)));
      count = f.tmp(i32.wrap(n));
      if (arithmetic) count = f.tmp(select(over, c32(bits - 1), count));
    }
    if (arithmetic) count = f.tmp(select(i32.gt_u(count, c32(bits - 1)), c32(bits - 1), count));
    const one = (a: Node): Node => {
      const r = op(a, count);
      return arithmetic || over === null ? r : pick(over, v.zero(), r);
    };
    if (mmx) {
      writeMmx(c, 0, f.tmp(one(c.readV(0, 8))));
      mmxState(c);
      return;
    }
    const r: Node[] = [];
    for (let n = 0; n < laneCount(c); n++) r.push(f.tmp(one(readLane(c, src, n, 16))));
    writeLanes(c, r);
  };
}

/** PSLLDQ and PSRLDQ: bytes, by an immediate. */
function shiftBytes(left: boolean): Semantic {
  return (c) => {
    const f = c.f;
    const raw = imm8(c);
    const n = f.tmp(v8.splat(select(i32.gt_u(raw, c32(16)), c32(16), raw)));
    // Indices outside 0–15 select 0; 240–255 are the negative ones.
    const index = f.tmp(left ? v8.sub(iota(), n) : v8.add(iota(), n));
    const r: Node[] = [];
    for (let k = 0; k < laneCount(c); k++) r.push(f.tmp(v.swizzle(readLane(c, isVex(c) ? 1 : 0, k, 16), index)));
    writeLanes(c, r);
  };
}

/** Variable shifts of AVX2: one count per lane. */
function shiftEach(bits: 32 | 64, kind: 'l' | 'r' | 'a'): Semantic {
  return packed2((c, a, b) => {
    const f = c.f;
    let r: Node = a;
    for (let n = 0; n < 128 / bits; n++) {
      if (bits === 64) {
        const k = f.tmp(lane(b, 8, n));
        const x = lane(a, 8, n);
        const y = kind === 'l' ? i64.shl(x, k) : i64.shr_u(x, k);
        r = f.tmp(withLane(r, 8, n, select(i64.gt_u(k, c64(63)), c64(0), y)));
      } else {
        const k = f.tmp(lane(b, 4, n));
        const x = lane(a, 4, n);
        const big = i32.gt_u(k, c32(31));
        const y =
          kind === 'a'
            ? i32.shr_s(x, select(big, c32(31), k))
            : select(big, c32(0), kind === 'l' ? i32.shl(x, k) : i32.shr_u(x, k));
        r = f.tmp(withLane(r, 4, n, y));
      }
    }
    return r;
  });
}

// --- shuffles by immediate ---------------------------------------------------------------------------------------------

/** Byte indices for a shuffle of four double words by four two-bit fields. */
function dwordIndices(c: SemCtx, imm: Node): Node {
  // Multiplying by 64, 16, 4, 1 brings each field to bits 6 and 7.
  const field = v.and(v32.shr_u(v32.mul(v32.splat(imm), cV128(64, 16, 4, 1)), c32(6)), cV128(3, 3, 3, 3));
  return c.f.tmp(
    v32.add(
      v32.mul(field, cV128(0x04040404, 0x04040404, 0x04040404, 0x04040404)),
      cV128(0x03020100, 0x03020100, 0x03020100, 0x03020100),
    ),
  );
}
/** The same for words: fields for the four low words (`low`) or the four high ones; the others stay. */
function wordIndices(c: SemCtx, imm: Node, low: boolean): Node {
  const factor = low ? words(64, 16, 4, 1, 0, 0, 0, 0) : words(0, 0, 0, 0, 64, 16, 4, 1);
  const base = low ? words(0, 0, 0, 0, 4, 5, 6, 7) : words(0, 1, 2, 3, 4, 4, 4, 4);
  const field = v.or(v.and(v16.shr_u(v16.mul(v16.splat(imm), factor), c32(6)), words(3)), base);
  return c.f.tmp(v16.add(v16.mul(field, words(0x0202)), words(0x0100)));
}
const pshufd = packed1((c, a) => v.swizzle(a, dwordIndices(c, imm8(c))));
const pshuflw = packed1((c, a) => v.swizzle(a, wordIndices(c, imm8(c), true)));
const pshufhw = packed1((c, a) => v.swizzle(a, wordIndices(c, imm8(c), false)));
const shufps = packed2((c, a, b) => {
  const i = dwordIndices(c, imm8(c));
  return lanes(v.swizzle(a, i), v.swizzle(b, i), 8, [0, 3]);
});
/** SHUFPD: bit 0 chooses from `a`, bit 1 from `b`; the upper lane of AVX uses bits 2 and 3. */
const shufpd = packed2((c, a, b, _mmx, n) => {
  const imm = imm8(c);
  const bit = (k: number): Node => i32.and(imm, c32(1 << (2 * n + k)));
  const q = (x: Node, k: number): Node => select(bit(k), lane(x, 8, 1), lane(x, 8, 0));
  return withLane(v64.splat(q(a, 0)), 8, 1, q(b, 1));
});
const palignr = packed2((c, a, b, mmx) => {
  const imm = imm8(c);
  const index = c.f.tmp(v8.add(iota(), v8.splat(select(i32.gt_u(imm, c32(32)), c32(32), imm))));
  if (mmx) return v.swizzle(join64(b, a), index);
  return v.or(v.swizzle(b, index), v.swizzle(a, v8.sub(index, bytes(16))));
});

/** A mask of lanes from immediate bits starting at `shift`. */
export function immMask(c: SemCtx, size: 2 | 4 | 8, shift = 0): Node {
  const imm = shift === 0 ? imm8(c) : c.f.tmp(i32.shr_u(imm8(c), c32(shift)));
  if (size === 2) {
    const bits = words(1, 2, 4, 8, 16, 32, 64, 128);
    return c.f.tmp(v16.eq(v.and(v16.splat(imm), bits), bits));
  }
  const bits = size === 4 ? cV128(1, 2, 4, 8) : cV128(1, 1, 2, 2);
  return c.f.tmp(v32.eq(v.and(v32.splat(imm), bits), bits));
}
const blend = (size: 2 | 4 | 8): Semantic =>
  packed2((c, a, b, _mmx, n) => v.bitselect(b, a, immMask(c, size, size === 2 ? 0 : n * (16 / size))));

/** BLENDV: by the top bits of XMM0, or of a fourth operand. */
const blendv = (top: (m: Node) => Node): Semantic =>
  packed2((c, a, b, _mmx, n) => {
    const m = readLane(c, isVex(c) ? 3 : 2, n, 16);
    return v.bitselect(b, a, top(m));
  });

// --- moves between register files, insertion, extraction ---------------------------------------------------------------

/** Byte position of element `imm` (of `size` bytes) in a register of `total` bytes. */
function element(c: SemCtx, size: number, total: number): Node {
  const n = i32.and(c.imm32(), c32(total / size - 1));
  return size === 1 ? n : i32.shl(n, c32(Math.log2(size)));
}
const extract =
  (size: number): Semantic =>
  (c) => {
    const mmx = c.kind(1) === Kind.Mmx;
    if (mmx) checkPending(c);
    const x = c.f.tmp(c.getElement(1, size, element(c, size, mmx ? 8 : 16)));
    if (c.isMem(0)) c.write(0, x, size);
    else c.write(0, c.sizeOf(0) === 8 && x.ty === I32 ? i64.extend_u(x) : x, c.sizeOf(0));
    if (mmx) mmxState(c);
  };
const insert =
  (size: number): Semantic =>
  (c) => {
    const f = c.f;
    const mmx = c.kind(0) === Kind.Mmx;
    if (mmx) checkPending(c);
    const vex = isVex(c);
    const x = c.read(vex ? 2 : 1, size);
    if (vex) {
      c.setX(0, c.getX(1));
      clearUpper(c);
    }
    c.setElement(0, size, element(c, size, mmx ? 8 : 16), x);
    if (mmx) {
      f.st16(c.regAddr(0), c32(0xffff), 8);
      mmxState(c);
    }
  };
const insertps: Semantic = (c) => {
  const f = c.f;
  const vex = isVex(c);
  const s = vex ? 2 : 1;
  const imm = imm8(c);
  // A register source is indexed by bits 6 and 7, a memory source is the element itself.
  const x = c.isMem(s) ? c.read(s, 4) : f.tmp(c.getElement(s, 4, i32.and(i32.shr_u(imm, c32(4)), c32(12))));
  const a = readLane(c, vex ? 1 : 0, 0, 16);
  const which = i32.and(i32.shr_u(imm, c32(4)), c32(3));
  const put = f.tmp(v32.eq(v32.splat(which), cV128(0, 1, 2, 3)));
  writeLanes(c, [v.andnot(v.bitselect(v32.splat(x), a, put), immMask(c, 4))]);
};

/** MOVMSK and PMOVMSKB: sign bits to a general register. */
const signMask = (size: 1 | 4 | 8): Semantic => {
  const mask = size === 1 ? v8.bitmask : size === 4 ? v32.bitmask : v64.bitmask;
  return (c) => {
    const mmx = c.kind(1) === Kind.Mmx;
    if (mmx) checkPending(c);
    let r: Node = mask(readLane(c, 1, 0, mmx ? 8 : 16));
    if (mmx) r = i32.and(r, c32(0xff));
    else if (laneCount(c) === 2) r = i32.or(r, i32.shl(mask(readLane(c, 1, 1, 16)), c32(16 / size)));
    c.write(0, c.sizeOf(0) === 8 ? i64.extend_u(r) : r, c.sizeOf(0));
    if (mmx) mmxState(c);
  };
};

/** PMOVSX and PMOVZX. */
function extend(from: 1 | 2 | 4, to: 2 | 4 | 8, signed: boolean): Semantic {
  const step = (size: number): ((a: Node) => Node) =>
    size === 1
      ? signed ? v16.extendLowS : v16.extendLowU
      : size === 2
        ? signed ? v32.extendLowS : v32.extendLowU
        : signed ? v64.extendLowS : v64.extendLowU; // biome-ignore format: a table
  return (c) => {
    const f = c.f;
    const n = laneCount(c);
    const bytesPerLane = (16 * from) / to;
    const src = readLane(c, 1, 0, n === 1 ? bytesPerLane : Math.max(4, bytesPerLane * 2));
    const r: Node[] = [];
    for (let k = 0; k < n; k++) {
      let x = k === 0 ? src : v.swizzle(src, v8.add(iota(), bytes(bytesPerLane)));
      for (let s: number = from; s < to; s *= 2) x = step(s)(x);
      r.push(f.tmp(x));
    }
    writeLanes(c, r);
  };
}

/** PTEST: ZF from `b & a`, CF from `b & ~a`. VTESTPS and VTESTPD look at sign bits only. */
const ptest = (signs: 0 | 4 | 8): Semantic => {
  return (c) => {
    const f = c.f;
    legacyAlign(c);
    let and: Node | null = null;
    let andn: Node | null = null;
    for (let n = 0; n < laneCount(c); n++) {
      const b = readLane(c, 1, n, 16);
      const a = readLane(c, 0, n, 16);
      const x = f.tmp(v.and(b, a));
      const y = f.tmp(v.andnot(b, a));
      and = and === null ? x : f.tmp(v.or(and, x));
      andn = andn === null ? y : f.tmp(v.or(andn, y));
    }
    const any = (x: Node): Node =>
      signs === 0
        ? v.anyTrue(x)
        : v.anyTrue(v.and(x, signs === 4 ? cV128(1 << 31, 1 << 31, 1 << 31, 1 << 31) : cV128(0, 1 << 31, 0, 1 << 31)));
    const zf = f.tmp(i32.eqz(any(and as Node)));
    const cf = f.tmp(i32.eqz(any(andn as Node)));
    setZpc(c, zf, c32(0), cf);
  };
};

/** Sets ZF, PF and CF from 0 or 1 and clears OF, SF and AF: the results of PTEST, COMISS, FCOMI. */
export function setZpc(c: SemCtx, zf: Node, pf: Node, cf: Node): void {
  c.flagsCompared(c.f.tmp(i32.or(cf, i32.or(i32.shl(zf, c32(1)), i32.shl(pf, c32(2))))));
}

const phminposuw: Semantic = (c) => {
  const f = c.f;
  legacyAlign(c);
  const a = readLane(c, 1, 0, 16);
  const best = f.temp(I32);
  f.set(best, i32.shl(lane(a, 2, 0), c32(3)));
  for (let n = 1; n < 8; n++) {
    const key = f.tmp(i32.or(i32.shl(lane(a, 2, n), c32(3)), c32(n)));
    f.set(best, select(i32.lt_u(key, best.get), key, best.get));
  }
  const r = withLane(v.zero(), 4, 0, i32.or(i32.shr_u(best.get, c32(3)), i32.shl(i32.and(best.get, c32(7)), c32(16))));
  writeLanes(c, [r]);
};

const mpsadbw = packed2((c, a, b, _mmx, n) => {
  const f = c.f;
  const imm = f.tmp(i32.shr_u(imm8(c), c32(3 * n)));
  const from = f.tmp(i32.and(imm, c32(4)));
  const other = f.tmp(i32.shl(i32.and(imm, c32(3)), c32(2)));
  let sum: Node | null = null;
  for (let k = 0; k < 4; k++) {
    const x = f.tmp(v.swizzle(a, v8.add(iota(), v8.splat(i32.add(from, c32(k))))));
    const y = f.tmp(v.swizzle(b, v8.splat(i32.add(other, c32(k)))));
    const d = v16.extendLowU(v.or(v8.sub_sat_u(x, y), v8.sub_sat_u(y, x)));
    sum = f.tmp(sum === null ? d : v16.add(sum, d));
  }
  return sum as Node;
});

/** MASKMOVQ and MASKMOVDQU: bytes whose mask has bit 7 set go to seg:rDI. */
const maskmov: Semantic = (c) => {
  const f = c.f;
  const mmx = c.kind(1) === Kind.Mmx;
  if (mmx) checkPending(c);
  const total = mmx ? 8 : 16;
  const data = readLane(c, 1, 0, total);
  const mask = readLane(c, 2, 0, total);
  const bits = f.tmp(mmx ? i32.and(v8.bitmask(mask), c32(0xff)) : v8.bitmask(mask));
  if (mmx) mmxState(c);
  // The whole range is checked before the first byte is stored, even if none is.
  const la = f.tmp(c.ea());
  probeWrite(c, la, total);
  f.if(bits, () => {
    for (let n = 0; n < total; n++)
      f.if(i32.and(bits, c32(1 << n)), () => {
        const at = f.tmp(i64.add(la, c64(n)));
        c.store(at, 1, lane(data, 1, n));
      });
  });
};
/** Leaves with a fault unless `size` bytes at `la` can be written. */
export function probeWrite(c: SemCtx, la: Node, size: number): void {
  c.sync();
  c.f.do(call(c.env.mem.probe, c.base, la, c32(size), c32(S.ACC_WRITE)));
  c.checkFault();
}

// --- moves -------------------------------------------------------------------------------------------------------------

/** Whole-register moves; `aligned` ones fault on misaligned memory, with 32-byte alignment for 256 bits. */
const move =
  (aligned: boolean): Semantic =>
  (c) => {
    const n = laneCount(c);
    if (aligned) c.requireAligned(16 * n);
    const r: Node[] = [];
    for (let k = 0; k < n; k++) r.push(readLane(c, 1, k, 16));
    if (!c.isMem(0)) {
      writeLanes(c, r);
      if (!c.isMem(1)) c.copied(1);
      return;
    }
    if (n === 2) c.storePair(c.ea(), r[0] as Node, r[1] as Node);
    else c.store(c.ea(), 16, r[0] as Node);
  };

/** MOVSS, MOVSD: a load clears the rest of the register, a register move keeps it. */
const moveScalar =
  (size: 4 | 8): Semantic =>
  (c) => {
    const f = c.f;
    if (c.isMem(0)) {
      c.write(0, c.getXLow(1, size), size);
      return;
    }
    if (c.isMem(1)) {
      writeLanes(c, [c.readV(1, size)]);
      return;
    }
    const last = isVex(c) ? 2 : 1;
    const x = f.tmp(c.getXFloat(last, size));
    if (isVex(c)) writeLanes(c, [withLaneF(c.getX(1), size, 0, x)]);
    else c.setXFloat(0, size, x);
  };

/** MOVD, MOVQ between memory, general, MMX and XMM registers; also MOVQ2DQ and MOVDQ2Q. */
const moveQuad: Semantic = (c) => {
  const f = c.f;
  const mmx = c.kind(0) === Kind.Mmx || c.kind(1) === Kind.Mmx;
  if (mmx) checkPending(c);
  const vector = (k: number): boolean => k === Kind.Xmm || k === Kind.Mmx;
  // The narrower side decides: MOVD moves 4 bytes, everything else 8.
  const size = Math.min(c.sizeOf(0), c.sizeOf(1), 8) === 4 ? 4 : 8;
  const x = vector(c.kind(1)) ? f.tmp(c.getXLow(1, size)) : c.read(1, size);
  if (c.kind(0) === Kind.Mmx) writeMmx(c, 0, size === 4 ? i64.extend_u(x) : x);
  else if (c.kind(0) === Kind.Xmm) writeLanes(c, [withLane(v.zero(), size, 0, x)]);
  else c.write(0, x, size);
  if (mmx) mmxState(c);
};

/** A 64-bit half of operand 0 from memory or a register's half; or the half stored to memory. */
const moveHalf =
  (to: 0 | 1, from: 0 | 1): Semantic =>
  (c) => {
    if (c.isMem(0)) {
      c.write(0, c.getXLow(1, 8, 8 * to), 8);
      return;
    }
    const vex = isVex(c);
    const s = vex ? 2 : 1;
    const x = c.isMem(s) ? c.read(s, 8) : c.f.tmp(c.getXLow(s, 8, 8 * from));
    if (vex) writeLanes(c, [withLane(c.getX(1), 8, to, x)]);
    else c.setXLow(0, 8, x, 8 * to);
  };
const movddup: Semantic = (c) => {
  if (laneCount(c) === 2) {
    writeLanes(
      c,
      [0, 1].map((n) => {
        const x = readLane(c, 1, n, 16);
        return c.f.tmp(lanes(x, x, 8, [0, 0]));
      }),
    );
    return;
  }
  writeLanes(c, [v64.splat(c.isMem(1) ? c.read(1, 8) : c.getXLow(1, 8))]);
};

// --- the list ----------------------------------------------------------------------------------------------------------

const l2 =
  (op: (a: Node, b: Node) => Node): Lane2 =>
  (_c, a, b) =>
    op(a, b);

/** Semantics of integer vector instructions and vector moves: legacy and, where an operation of that name exists, VEX. */
export function simdIntSemantics(): Map<number, Semantic> {
  const m = new Map<number, Semantic>();
  const ops = OP as Readonly<Record<string, number>>;
  const def = (name: OpName, s: Semantic): void => {
    m.set(OP[name], s);
    const vex = ops[`V${name}`];
    if (vex !== undefined) m.set(vex, s);
  };
  const two = (name: OpName, op: Lane2): void => def(name, packed2(op));
  const simple: readonly (readonly [OpName, (a: Node, b: Node) => Node])[] = [
    ['PADDB', v8.add],
    ['PADDW', v16.add],
    ['PADDD', v32.add],
    ['PADDQ', v64.add],
    ['PSUBB', v8.sub],
    ['PSUBW', v16.sub],
    ['PSUBD', v32.sub],
    ['PSUBQ', v64.sub],
    ['PADDSB', v8.add_sat_s],
    ['PADDSW', v16.add_sat_s],
    ['PADDUSB', v8.add_sat_u],
    ['PADDUSW', v16.add_sat_u],
    ['PSUBSB', v8.sub_sat_s],
    ['PSUBSW', v16.sub_sat_s],
    ['PSUBUSB', v8.sub_sat_u],
    ['PSUBUSW', v16.sub_sat_u],
    ['PCMPEQB', v8.eq],
    ['PCMPEQW', v16.eq],
    ['PCMPEQD', v32.eq],
    ['PCMPEQQ', v64.eq],
    ['PCMPGTB', v8.gt_s],
    ['PCMPGTW', v16.gt_s],
    ['PCMPGTD', v32.gt_s],
    ['PCMPGTQ', v64.gt_s],
    ['PMINUB', v8.min_u],
    ['PMINSB', v8.min_s],
    ['PMINUW', v16.min_u],
    ['PMINSW', v16.min_s],
    ['PMINUD', v32.min_u],
    ['PMINSD', v32.min_s],
    ['PMAXUB', v8.max_u],
    ['PMAXSB', v8.max_s],
    ['PMAXUW', v16.max_u],
    ['PMAXSW', v16.max_s],
    ['PMAXUD', v32.max_u],
    ['PMAXSD', v32.max_s],
    ['PAVGB', v8.avgr_u],
    ['PAVGW', v16.avgr_u],
    ['PMULLW', v16.mul],
    ['PMULLD', v32.mul],
    ['PMADDWD', v32.dot],
  ];
  for (const [name, op] of simple) two(name, l2(op));
  for (const name of ['PAND', 'ANDPS', 'ANDPD'] as const) two(name, l2(v.and));
  for (const name of ['PANDN', 'ANDNPS', 'ANDNPD'] as const) two(name, (_c, a, b) => v.andnot(b, a));
  for (const name of ['POR', 'ORPS', 'ORPD'] as const) two(name, l2(v.or));
  for (const name of ['PXOR', 'XORPS', 'XORPD'] as const) two(name, l2(v.xor));
  two('PMULHW', mulHigh(true));
  two('PMULHUW', mulHigh(false));
  two('PMULHRSW', mulRound);
  two('PMADDUBSW', maddUbs);
  two('PSADBW', sad);
  two('PMULUDQ', mulEven(false));
  two('PMULDQ', mulEven(true));
  two('PSHUFB', shuffleBytes);
  two('PHADDW', horizontal(2, v16.add));
  two('PHADDD', horizontal(4, v32.add));
  two('PHADDSW', horizontal(2, v16.add_sat_s));
  two('PHSUBW', horizontal(2, v16.sub));
  two('PHSUBD', horizontal(4, v32.sub));
  two('PHSUBSW', horizontal(2, v16.sub_sat_s));
  two('PSIGNB', sign(7, v8.shr_s, v8.sub, v8.eq));
  two('PSIGNW', sign(15, v16.shr_s, v16.sub, v16.eq));
  two('PSIGND', sign(31, v32.shr_s, v32.sub, v32.eq));
  two('PACKSSWB', pack(v8.narrow_s));
  two('PACKUSWB', pack(v8.narrow_u));
  two('PACKSSDW', pack(v16.narrow_s));
  two('PACKUSDW', pack(v16.narrow_u));
  two('PUNPCKLBW', unpack(1, false));
  two('PUNPCKLWD', unpack(2, false));
  two('PUNPCKLDQ', unpack(4, false));
  two('PUNPCKLQDQ', unpack(8, false));
  two('PUNPCKHBW', unpack(1, true));
  two('PUNPCKHWD', unpack(2, true));
  two('PUNPCKHDQ', unpack(4, true));
  two('PUNPCKHQDQ', unpack(8, true));
  two('UNPCKLPS', unpack(4, false));
  two('UNPCKLPD', unpack(8, false));
  two('UNPCKHPS', unpack(4, true));
  two('UNPCKHPD', unpack(8, true));
  def(
    'PABSB',
    packed1((_c, a) => absolute.b(a)),
  );
  def(
    'PABSW',
    packed1((_c, a) => absolute.w(a)),
  );
  def(
    'PABSD',
    packed1((_c, a) => absolute.d(a)),
  );

  def('PSLLW', shiftAll(16, v16.shl, false));
  def('PSLLD', shiftAll(32, v32.shl, false));
  def('PSLLQ', shiftAll(64, v64.shl, false));
  def('PSRLW', shiftAll(16, v16.shr_u, false));
  def('PSRLD', shiftAll(32, v32.shr_u, false));
  def('PSRLQ', shiftAll(64, v64.shr_u, false));
  def('PSRAW', shiftAll(16, v16.shr_s, true));
  def('PSRAD', shiftAll(32, v32.shr_s, true));
  def('PSLLDQ', shiftBytes(true));
  def('PSRLDQ', shiftBytes(false));
  m.set(OP.VPSLLVD, shiftEach(32, 'l'));
  m.set(OP.VPSLLVQ, shiftEach(64, 'l'));
  m.set(OP.VPSRLVD, shiftEach(32, 'r'));
  m.set(OP.VPSRLVQ, shiftEach(64, 'r'));
  m.set(OP.VPSRAVD, shiftEach(32, 'a'));

  def('PSHUFD', pshufd);
  def('PSHUFLW', pshuflw);
  def('PSHUFW', pshuflw);
  def('PSHUFHW', pshufhw);
  def('SHUFPS', shufps);
  def('SHUFPD', shufpd);
  def('PALIGNR', palignr);
  def('PBLENDW', blend(2));
  def('BLENDPS', blend(4));
  def('BLENDPD', blend(8));
  m.set(OP.VPBLENDD, blend(4));
  def(
    'PBLENDVB',
    blendv((x) => v8.shr_s(x, c32(7))),
  );
  def(
    'BLENDVPS',
    blendv((x) => v32.shr_s(x, c32(31))),
  );
  def(
    'BLENDVPD',
    blendv((x) => v64.shr_s(x, c32(63))),
  );

  def('PEXTRB', extract(1));
  def('PEXTRW', extract(2));
  def('PEXTRD', extract(4));
  def('PEXTRQ', extract(8));
  def('EXTRACTPS', extract(4));
  def('PINSRB', insert(1));
  def('PINSRW', insert(2));
  def('PINSRD', insert(4));
  def('PINSRQ', insert(8));
  def('INSERTPS', insertps);
  def('PMOVMSKB', signMask(1));
  def('MOVMSKPS', signMask(4));
  def('MOVMSKPD', signMask(8));
  const widths = [
    ['BW', 1, 2],
    ['BD', 1, 4],
    ['BQ', 1, 8],
    ['WD', 2, 4],
    ['WQ', 2, 8],
    ['DQ', 4, 8],
  ] as const;
  for (const [name, from, to] of widths) {
    def(`PMOVSX${name}`, extend(from, to, true));
    def(`PMOVZX${name}`, extend(from, to, false));
  }
  def('PTEST', ptest(0));
  m.set(OP.VTESTPS, ptest(4));
  m.set(OP.VTESTPD, ptest(8));
  def('PHMINPOSUW', phminposuw);
  def('MPSADBW', mpsadbw);
  def('MASKMOVQ', maskmov);
  def('MASKMOVDQU', maskmov);

  for (const name of ['MOVAPS', 'MOVAPD', 'MOVDQA', 'MOVNTPS', 'MOVNTPD', 'MOVNTDQ', 'MOVNTDQA'] as const)
    def(name, move(true));
  for (const name of ['MOVUPS', 'MOVUPD', 'MOVDQU', 'LDDQU'] as const) def(name, move(false));
  def('MOVSS', moveScalar(4));
  def('MOVSD', moveScalar(8));
  for (const name of ['MOVD', 'MOVQ', 'MOVQ2DQ', 'MOVDQ2Q', 'MOVNTQ'] as const) def(name, moveQuad);
  def('MOVLPS', moveHalf(0, 0));
  def('MOVLPD', moveHalf(0, 0));
  def('MOVHPS', moveHalf(1, 0));
  def('MOVHPD', moveHalf(1, 0));
  def('MOVHLPS', moveHalf(0, 1));
  def('MOVLHPS', moveHalf(1, 0));
  def('MOVDDUP', movddup);
  def(
    'MOVSLDUP',
    packed1((_c, a) => lanes(a, a, 4, [0, 0, 2, 2])),
  );
  def(
    'MOVSHDUP',
    packed1((_c, a) => lanes(a, a, 4, [1, 1, 3, 3])),
  );
  def('EMMS', (c) => {
    checkPending(c);
    c.f.st32(c.base, c32(0), S.FTW);
    c.f.st32(c.base, c32(0), S.FTOP);
  });
  return m;
}
