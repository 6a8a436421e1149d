// Meanings of the integer instructions. Intel SDM volume 2; undefined flags are left as the comments say.
// Order inside a semantic: faults first (loads, stores), then registers, then flags.
import { Kind, OP } from '@hyve/x86';
import { isCanonical } from '../addresses.ts';
import { NUM, type Num, type Semantic, type SemCtx } from '../ctx.ts';
import * as S from '../state.ts';
import { c32, c64, call, I32, I64, i32, i64, ld, type Node, select } from '../wasm/builder.ts';
import { strReg } from './string.ts';

const AX = 0;
const CX = 1;
const DX = 2;
const BX = 3;
const SP = 4;
const BP = 5;

const N = (size: number): Num => NUM[size] as Num;

type Alu = (c: SemCtx, n: Num, a: Node, b: Node) => Node;

/** Two-operand ALU with flags; `store` false for CMP and TEST. */
function alu(compute: Alu, flags: 'add' | 'sub' | 'logic', store = true, carryIn = false): Semantic {
  return (c) => {
    const size = c.sizeOf(0);
    const n = N(size);
    // The source is read first: a register source cannot fault, and at most one operand is memory.
    const b = c.read(1, size);
    // What a locked operand's loop repeats must not move flags about.
    const early = carryIn && c.locked ? c.f.tmp(c.cf()) : null;
    const a = store ? c.rmwRead(0, size) : c.read(0, size);
    let r = compute(c, n, a, b);
    if (carryIn) {
      const cf = n.from32(early ?? c.cf());
      r = flags === 'add' ? n.add(r, cf) : n.sub(r, cf);
    }
    r = c.f.tmp(n.trunc(r));
    if (store) c.rmwWrite(0, r, size);
    if (flags === 'add') c.flagsAdd(size, a, b, r, carryIn);
    else if (flags === 'sub') c.flagsSub(size, a, b, r, carryIn);
    else c.flagsLogic(size, r);
  };
}

const incDec =
  (sub: boolean): Semantic =>
  (c) => {
    const size = c.sizeOf(0);
    const n = N(size);
    const a = c.rmwRead(0);
    const r = c.f.tmp(n.trunc(sub ? n.sub(a, n.c(1)) : n.add(a, n.c(1))));
    c.rmwWrite(0, r);
    c.flagsIncDec(size, a, r, sub);
  };

/** Most significant bit as 0 or 1 (i32). */
function msb(n: Num, v: Node): Node {
  return n.bits === 64 ? i32.wrap(i64.shr_u(v, c64(63))) : i32.and(i32.shr_u(v, c32(n.bits - 1)), c32(1));
}
/** Bit below the most significant one. */
function msb2(n: Num, v: Node): Node {
  return n.bits === 64
    ? i32.and(i32.wrap(i64.shr_u(v, c64(62))), c32(1))
    : i32.and(i32.shr_u(v, c32(n.bits - 2)), c32(1));
}
function bit0(n: Num, v: Node): Node {
  return i32.and(n.to32(v), c32(1));
}

/** Masked shift count as an i32 temporary. */
function shiftCount(c: SemCtx, operand: number, size: number): Node {
  return c.f.tmp(i32.and(c.kind(operand) === Kind.Gpr ? c.gpr(CX, 1) : c.imm32(), c32(size === 8 ? 63 : 31)));
}

type ShiftFn = (n: Num, a: Node, count: Node) => { r: Node; cf: Node; of: (r: Node, cf: Node) => Node };

/** Shifts: no flag changes for a masked count of 0. */
function shift(compute: ShiftFn): Semantic {
  return (c) => {
    const size = c.sizeOf(0);
    const n = N(size);
    const count = shiftCount(c, 1, size);
    const a = c.rmwRead(0);
    const parts = compute(n, a, count);
    const r = c.f.tmp(n.trunc(parts.r));
    const cf = c.f.tmp(parts.cf);
    c.rmwWrite(0, select(count, r, a));
    c.flagsWhen(count, () => c.flagsShift(size, r, cf, parts.of(r, cf)));
  };
}

const shl = shift((n, a, count) => {
  if (n.bits === 64) {
    return {
      r: i64.shl(a, i64.extend_u(count)),
      cf: i32.and(i32.wrap(i64.shr_u(a, i64.extend_u(i32.sub(c32(64), count)))), c32(1)),
      of: (r, cf) => i32.xor(msb(n, r), cf),
    };
  }
  const wide = i64.shl(n.zext64(a), i64.extend_u(count));
  return {
    r: i32.wrap(wide),
    cf: i32.and(i32.wrap(i64.shr_u(wide, c64(n.bits))), c32(1)),
    of: (r, cf) => i32.xor(msb(n, r), cf),
  };
});

const shr = shift((n, a, count) => ({
  r: n.shr_u(a, n.from32(count)),
  cf: i32.and(n.to32(n.shr_u(a, n.from32(i32.sub(count, c32(1))))), c32(1)),
  of: () => msb(n, a),
}));

const sar = shift((n, a, count) => {
  const s = n.sext(a);
  return {
    r: n.shr_s(s, n.from32(count)),
    cf: i32.and(n.to32(n.shr_s(s, n.from32(i32.sub(count, c32(1))))), c32(1)),
    of: () => c32(0),
  };
});

/** ROL and ROR: CF is a bit of the result; a count that is a multiple of the width still sets it. */
function rotate(left: boolean): Semantic {
  return (c) => {
    const size = c.sizeOf(0);
    const n = N(size);
    const f = c.f;
    const count = shiftCount(c, 1, size);
    const a = c.rmwRead(0);
    let r: Node;
    if (size === 8) r = (left ? i64.rotl : i64.rotr)(a, i64.extend_u(count));
    else if (size === 4) r = (left ? i32.rotl : i32.rotr)(a, count);
    else {
      const k = f.tmp(i32.and(count, c32(n.bits - 1)));
      const back = i32.sub(c32(n.bits), k);
      r = left ? i32.or(i32.shl(a, k), i32.shr_u(a, back)) : i32.or(i32.shr_u(a, k), i32.shl(a, back));
    }
    const result = f.tmp(n.trunc(r));
    c.rmwWrite(0, result);
    c.flagsWhen(count, () => {
      const cf = f.tmp(left ? bit0(n, result) : msb(n, result));
      c.setCfOf(cf, i32.xor(msb(n, result), left ? cf : msb2(n, result)));
    });
  };
}

const rcl: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const f = c.f;
  let count = shiftCount(c, 1, size);
  const a = c.rmwRead(0);
  const cfIn = f.tmp(c.cf());
  let r: Node;
  let cf: Node;
  if (size === 8) {
    const k = i64.extend_u(count);
    // Bits that leave at the top come back below the old carry.
    r = f.tmp(
      i64.or(
        i64.or(i64.shl(a, k), i64.shl(i64.extend_u(cfIn), i64.sub(k, c64(1)))),
        i64.shr_u(i64.shr_u(a, c64(1)), i64.sub(c64(64), k)),
      ),
    );
    cf = i32.and(i32.wrap(i64.shr_u(a, i64.sub(c64(64), k))), c32(1));
  } else {
    const w = n.bits + 1;
    if (size < 4) count = f.tmp(i32.rem_u(count, c32(w)));
    const v = f.tmp(i64.or(n.zext64(a), i64.shl(i64.extend_u(cfIn), c64(n.bits))));
    const k = i64.extend_u(count);
    const rot = f.tmp(i64.or(i64.shl(v, k), i64.shr_u(v, i64.sub(c64(w), k))));
    r = f.tmp(n.from64(rot));
    cf = i32.and(i32.wrap(i64.shr_u(rot, c64(n.bits))), c32(1));
  }
  const out = f.tmp(cf);
  c.rmwWrite(0, select(count, r, a));
  c.flagsWhen(count, () => c.setCfOf(out, i32.xor(msb(n, r), out)));
};

const rcr: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const f = c.f;
  let count = shiftCount(c, 1, size);
  const a = c.rmwRead(0);
  const cfIn = f.tmp(c.cf());
  let r: Node;
  let cf: Node;
  if (size === 8) {
    const k = i64.extend_u(count);
    r = f.tmp(
      i64.or(
        i64.or(i64.shr_u(a, k), i64.shl(i64.extend_u(cfIn), i64.sub(c64(64), k))),
        i64.shl(i64.shl(a, c64(1)), i64.sub(c64(64), k)),
      ),
    );
    cf = i32.and(i32.wrap(i64.shr_u(a, i64.sub(k, c64(1)))), c32(1));
  } else {
    const w = n.bits + 1;
    if (size < 4) count = f.tmp(i32.rem_u(count, c32(w)));
    const v = f.tmp(i64.or(n.zext64(a), i64.shl(i64.extend_u(cfIn), c64(n.bits))));
    const k = i64.extend_u(count);
    const rot = f.tmp(i64.or(i64.shr_u(v, k), i64.shl(v, i64.sub(c64(w), k))));
    r = f.tmp(n.from64(rot));
    cf = i32.and(i32.wrap(i64.shr_u(rot, c64(n.bits))), c32(1));
  }
  const out = f.tmp(cf);
  c.rmwWrite(0, select(count, r, a));
  c.flagsWhen(count, () => c.setCfOf(out, i32.xor(msb(n, r), msb2(n, r))));
};

/** SHLD and SHRD. 16-bit counts over 16 are undefined; here the operand triple a:b:a is shifted, as processors do. */
function doubleShift(left: boolean): Semantic {
  return (c) => {
    const size = c.sizeOf(0);
    const n = N(size);
    const f = c.f;
    const count = shiftCount(c, 2, size);
    const b = c.read(1);
    const a = c.rmwRead(0);
    let r: Node;
    let cf: Node;
    if (size === 8) {
      const k = i64.extend_u(count);
      const back = i64.sub(c64(64), k);
      r = left ? i64.or(i64.shl(a, k), i64.shr_u(b, back)) : i64.or(i64.shr_u(a, k), i64.shl(b, back));
      cf = left ? i64.shr_u(a, back) : i64.shr_u(a, i64.sub(k, c64(1)));
      cf = i32.and(i32.wrap(cf), c32(1));
    } else if (size === 4) {
      const k = i64.extend_u(count);
      const v = left
        ? i64.or(i64.shl(i64.extend_u(a), c64(32)), i64.extend_u(b))
        : i64.or(i64.shl(i64.extend_u(b), c64(32)), i64.extend_u(a));
      const t = f.tmp(v);
      r = left ? i32.wrap(i64.shr_u(i64.shl(t, k), c64(32))) : i32.wrap(i64.shr_u(t, k));
      cf = i32.and(i32.wrap(i64.shr_u(t, left ? i64.sub(c64(64), k) : i64.sub(k, c64(1)))), c32(1));
    } else {
      const k = i64.extend_u(count);
      const t = f.tmp(
        i64.or(i64.or(i64.shl(i64.extend_u(a), c64(32)), i64.shl(i64.extend_u(b), c64(16))), i64.extend_u(a)),
      );
      r = left ? i32.wrap(i64.shr_u(i64.shl(t, k), c64(32))) : i32.wrap(i64.shr_u(t, k));
      cf = i32.and(i32.wrap(i64.shr_u(t, left ? i64.sub(c64(48), k) : i64.sub(k, c64(1)))), c32(1));
    }
    const result = f.tmp(n.trunc(r));
    const carry = f.tmp(cf);
    c.rmwWrite(0, select(count, result, a));
    c.flagsWhen(count, () => c.flagsShift(size, result, carry, i32.xor(msb(n, result), msb(n, a))));
  };
}

const mul =
  (signed: boolean): Semantic =>
  (c) => {
    const size = c.sizeOf(0);
    const f = c.f;
    const n = N(size);
    const b = c.read(0);
    const a = f.tmp(c.gpr(AX, size));
    c.flagsReplaced();
    let over: Node;
    if (size === 8) {
      const lo = f.tmp(i64.mul(a, b));
      const hi = f.tmp(call(c.env.fn(signed ? 'mulhiS' : 'mulhiU'), a, b));
      c.setGpr64(AX, lo);
      c.setGpr64(DX, hi);
      over = signed ? i64.ne(hi, i64.shr_s(lo, c64(63))) : i64.ne(hi, c64(0));
      c.flagsSzp(8, lo);
    } else {
      const p = f.tmp(signed ? i64.mul(n.sext64(a), n.sext64(b)) : i64.mul(n.zext64(a), n.zext64(b)));
      const lo = f.tmp(n.from64(p));
      if (size === 1) c.setGpr(AX, 2, i32.and(i32.wrap(p), c32(0xffff)));
      else {
        c.setGpr(AX, size, lo);
        c.setGpr(DX, size, n.from64(i64.shr_u(p, c64(n.bits))));
      }
      over = signed ? i64.ne(p, n.sext64(lo)) : i64.ne(i64.shr_u(p, c64(n.bits)), c64(0));
      c.flagsSzp(size, lo);
    }
    const o = f.tmp(over);
    c.setAf(c32(0));
    c.setCfOf(o, o);
  };

const imulMany: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const f = c.f;
  const three = c.insn.operandCount === 3;
  const a = three ? c.read(1, size) : c.read(0, size);
  const b = three ? c.read(2, size) : c.read(1, size);
  const x = f.tmp(a);
  const y = f.tmp(b);
  const r = f.tmp(size === 8 ? i64.mul(x, y) : n.trunc(i32.mul(x, y)));
  c.write(0, r, size);
  c.flagsImul(size, x, y, r);
};

const div =
  (signed: boolean): Semantic =>
  (c) => {
    const size = c.sizeOf(0);
    const n = N(size);
    const f = c.f;
    const d = c.read(0);
    f.if(n.eqz(d), () => c.raise(S.EXC_DE));
    if (size === 8) {
      if (!signed) {
        const hi = f.tmp(c.getGpr64(DX));
        f.if(i64.ge_u(hi, d), () => c.raise(S.EXC_DE));
        const q = f.tmp(call(c.env.fn('divU'), c.base, hi, c.getGpr64(AX), d));
        c.setGpr64(AX, q);
        c.setGpr64(DX, ld.i64(c.base, S.SCRATCH));
        return;
      }
      // Magnitudes, then signs: the quotient's sign is that of both XORed, the remainder's that of the dividend.
      const lo = f.temp(I64);
      const hi = f.temp(I64);
      const sd = f.tmp(i64.shr_s(d, c64(63)));
      const ad = f.tmp(i64.sub(i64.xor(d, sd), sd));
      f.set(lo, c.getGpr64(AX));
      f.set(hi, c.getGpr64(DX));
      const sn = f.tmp(i64.shr_s(hi.get, c64(63)));
      f.if(i64.lt_s(hi.get, c64(0)), () => {
        f.set(hi, i64.sub(i64.xor(hi.get, c64(-1)), c64(0)));
        f.set(lo, i64.sub(c64(0), lo.get));
        f.if(i64.eqz(lo.get), () => f.set(hi, i64.add(hi.get, c64(1))));
      });
      f.if(i64.ge_u(hi.get, ad), () => c.raise(S.EXC_DE));
      const q = f.tmp(call(c.env.fn('divU'), c.base, hi.get, lo.get, ad));
      const sq = f.tmp(i64.xor(sn, sd));
      const qs = f.tmp(i64.sub(i64.xor(q, sq), sq));
      // |q| may be 2^63 only when the quotient is negative.
      f.if(i32.and(i64.ne(q, c64(0)), i64.ne(i64.shr_s(qs, c64(63)), sq)), () => c.raise(S.EXC_DE));
      c.setGpr64(AX, qs);
      c.setGpr64(DX, i64.sub(i64.xor(ld.i64(c.base, S.SCRATCH), sn), sn));
      return;
    }
    const num = f.temp(I64);
    if (size === 1) f.set(num, signed ? i64.extend16_s(c.getGpr64(AX)) : i64.and(c.getGpr64(AX), c64(0xffff)));
    else if (size === 2) {
      const v = i32.or(i32.shl(c.gpr(DX, 2), c32(16)), c.gpr(AX, 2));
      f.set(num, signed ? i64.extend_s(v) : i64.extend_u(v));
    } else f.set(num, i64.or(i64.shl(i64.extend_u(c.getGpr32(DX)), c64(32)), i64.extend_u(c.getGpr32(AX))));
    const dd = f.tmp(signed ? n.sext64(d) : n.zext64(d));
    // i64.div_s traps on -2^63 / -1, which overflows anyway.
    if (signed && size === 4) f.if(i32.and(i64.eq(num.get, c64hl63()), i64.eq(dd, c64(-1))), () => c.raise(S.EXC_DE));
    const q = f.tmp(signed ? i64.div_s(num.get, dd) : i64.div_u(num.get, dd));
    f.if(signed ? i64.ne(q, n.sext64(n.from64(q))) : i64.ne(i64.shr_u(q, c64(n.bits)), c64(0)), () =>
      c.raise(S.EXC_DE),
    );
    const r = f.tmp(signed ? i64.rem_s(num.get, dd) : i64.rem_u(num.get, dd));
    if (size === 1)
      c.setGpr(AX, 2, i32.or(i32.and(i32.wrap(q), c32(0xff)), i32.shl(i32.and(i32.wrap(r), c32(0xff)), c32(8))));
    else {
      c.setGpr(AX, size, n.from64(q));
      c.setGpr(DX, size, n.from64(r));
    }
  };

function c64hl63(): Node {
  return i64.shl(c64(1), c64(63));
}

const mov: Semantic = (c) => {
  const size = c.sizeOf(0);
  c.write(0, c.read(1, size), size);
};

const extend =
  (signed: boolean): Semantic =>
  (c) => {
    const from = N(c.sizeOf(1));
    const size = c.sizeOf(0);
    const v = c.read(1);
    const wide = signed ? from.sext64(v) : from.zext64(v);
    c.write(0, N(size).from64(wide), size);
  };

const bitTest =
  (op: 'none' | 'set' | 'reset' | 'complement'): Semantic =>
  (c) => {
    const size = c.sizeOf(0);
    const n = N(size);
    const f = c.f;
    const bits = n.bits;
    const index = c.read(1, size);
    const k = f.tmp(n.and(index, n.c(bits - 1)));
    if (c.isMem(0) && c.kind(1) === Kind.Gpr) {
      // A register bit number reaches beyond the operand: move the address by whole operands.
      const shiftBy = size === 8 ? 6 : size === 4 ? 5 : 4;
      const delta = i64.shl(i64.shr_s(n.sext64(index), c64(shiftBy)), c64(size === 8 ? 3 : size === 4 ? 2 : 1));
      const moved = i64.add(c.ea(), delta);
      const la = f.tmp(c.mode.bits === 64 ? moved : i64.and(moved, c64(0xffffffff)));
      const old = c.ea;
      c.ea = () => la;
      bitOp(c, n, op, size, k);
      c.ea = old;
      return;
    }
    bitOp(c, n, op, size, k);
  };

function bitOp(c: SemCtx, n: Num, op: string, size: number, k: Node): void {
  const a = op === 'none' ? c.read(0, size) : c.rmwRead(0, size);
  const cf = c.f.tmp(i32.and(n.to32(n.shr_u(a, k)), c32(1)));
  if (op !== 'none') {
    const m = n.shl(n.c(1), k);
    c.rmwWrite(0, op === 'set' ? n.or(a, m) : op === 'reset' ? n.and(a, n.not(m)) : n.xor(a, m), size);
  }
  c.setCf(cf);
}

const bsf: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const v = c.read(1);
  const zero = c.f.tmp(n.eqz(v));
  // Source 0 leaves the destination alone, upper half included.
  c.f.if(i32.eqz(zero), () => c.write(0, size === 8 ? i64.ctz(v) : i32.ctz(v)));
  c.setZf(zero);
};
const bsr: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const v = c.read(1);
  const zero = c.f.tmp(n.eqz(v));
  c.f.if(i32.eqz(zero), () => c.write(0, size === 8 ? i64.sub(c64(63), i64.clz(v)) : i32.sub(c32(31), i32.clz(v))));
  c.setZf(zero);
};
const tzcnt: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const v = c.read(1);
  const r = c.f.tmp(size === 8 ? i64.ctz(v) : size === 4 ? i32.ctz(v) : select(v, i32.ctz(v), c32(16)));
  c.write(0, r);
  const cf = c.f.tmp(n.eqz(v));
  c.setCfOf(cf, c32(0));
  c.setZf(n.eqz(r));
};
const lzcnt: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const v = c.read(1);
  const r = c.f.tmp(size === 8 ? i64.clz(v) : size === 4 ? i32.clz(v) : i32.sub(i32.clz(v), c32(16)));
  c.write(0, r);
  const cf = c.f.tmp(n.eqz(v));
  c.setCfOf(cf, c32(0));
  c.setZf(n.eqz(r));
};
const popcnt: Semantic = (c) => {
  const size = c.sizeOf(0);
  const v = c.read(1);
  const r = c.f.tmp(size === 8 ? i64.popcnt(v) : i32.popcnt(v));
  c.write(0, r);
  // ZF from the source, which is zero exactly when the count is; all others cleared.
  c.flagsReplaced();
  c.flagsSzp(size, r);
  c.setAf(c32(0));
  c.setCfOf(c32(0), c32(0));
  c.f.st64(c.base, c64(1), S.FR);
};

const bswap: Semantic = (c) => {
  const size = c.sizeOf(0);
  const v = c.read(0);
  c.write(0, size === 8 ? swap64(c, v) : size === 4 ? swap32(v) : c32(0));
};
function swap32(v: Node): Node {
  return i32.or(i32.and(i32.rotl(v, c32(8)), c32(0x00ff00ff)), i32.and(i32.rotr(v, c32(8)), c32(0xff00ff00)));
}
function swap64(c: SemCtx, v: Node): Node {
  const lo = c.f.tmp(i32.wrap(v));
  const hi = c.f.tmp(i32.wrap(i64.shr_u(v, c64(32))));
  return i64.or(i64.shl(i64.extend_u(swap32(lo)), c64(32)), i64.extend_u(swap32(hi)));
}
const movbe: Semantic = (c) => {
  const size = c.sizeOf(0);
  const v = c.read(1, size);
  const r =
    size === 8
      ? swap64(c, v)
      : size === 4
        ? swap32(v)
        : i32.or(i32.shr_u(v, c32(8)), i32.and(i32.shl(v, c32(8)), c32(0xff00)));
  c.write(0, r, size);
};

const crc32: Semantic = (c) => {
  // Polynomial 11EDC6F41h, reflected 82F63B78h; eight steps a byte.
  const f = c.f;
  const size = c.sizeOf(1);
  const v = f.tmp(N(size).zext64(c.read(1)));
  const crc = f.temp(I32);
  const n = f.temp(I32);
  const left = f.temp(I64);
  f.set(crc, c.readReg(0, 4));
  f.set(left, v);
  f.set(n, c32(size));
  f.loop((again) => {
    f.set(crc, i32.xor(crc.get, i32.and(i32.wrap(left.get), c32(0xff))));
    for (let i = 0; i < 8; i++)
      f.set(
        crc,
        i32.xor(i32.shr_u(crc.get, c32(1)), i32.and(i32.sub(c32(0), i32.and(crc.get, c32(1))), c32(0x82f63b78))),
      );
    f.set(left, i64.shr_u(left.get, c64(8)));
    f.set(n, i32.sub(n.get, c32(1)));
    f.brIf(again, n.get);
  });
  c.writeReg(0, c.sizeOf(0), c.sizeOf(0) === 8 ? i64.extend_u(crc.get) : crc.get);
};

const xchg: Semantic = (c) => {
  // The memory operand may be either one in encoding order; the table puts E first.
  const m = c.isMem(1) ? 1 : 0;
  const o = 1 - m;
  const size = c.sizeOf(0);
  const b = c.read(o, size);
  const a = c.rmwRead(m, size);
  c.rmwWrite(m, b, size);
  c.writeReg(o, size, a);
};
const xadd: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const b = c.read(1);
  const a = c.rmwRead(0);
  const r = c.f.tmp(n.trunc(n.add(a, b)));
  if (c.isMem(0)) {
    c.rmwWrite(0, r);
    c.writeReg(1, size, a);
  } else {
    c.writeReg(1, size, a);
    c.writeReg(0, size, r);
  }
  c.flagsAdd(size, a, b, r);
};
const cmpxchg: Semantic = (c) => {
  const size = c.sizeOf(0);
  const n = N(size);
  const b = c.read(1);
  const a = c.rmwRead(0);
  const acc = c.f.tmp(c.gpr(AX, size));
  const equal = c.f.tmp(n.eq(acc, a));
  const r = c.f.tmp(n.trunc(n.sub(acc, a)));
  if (c.isMem(0)) c.rmwWrite(0, select(equal, b, a));
  c.f.if(
    equal,
    () => {
      if (!c.isMem(0)) c.writeReg(0, size, b);
    },
    () => c.setGpr(AX, size, a),
  );
  c.flagsSub(size, acc, a, r);
};
/**
 * With LOCK: nothing that WebAssembly has is atomic on 16 bytes, so that all other vCPUs stand still meanwhile. The
 * operand is writable.
 */
function cmpxchg16bLocked(c: SemCtx): void {
  const f = c.f;
  c.sync();
  const equal = f.tmp(
    call(c.env.mem.lock16, c.base, c.ea(), c.getGpr64(AX), c.getGpr64(DX), c.getGpr64(BX), c.getGpr64(CX)),
  );
  c.checkFault();
  f.if(i32.eqz(equal), () => {
    c.setGpr64(AX, ld.i64(c.base, S.RMW_DATA));
    c.setGpr64(DX, ld.i64(c.base, S.RMW_DATA + 8));
  });
  c.setZf(equal);
}
const cmpxchg8b: Semantic = (c) => {
  const f = c.f;
  if (c.sizeOf(0) === 16) {
    f.if(i32.and(i32.wrap(c.ea()), c32(15)), () => c.raise(S.EXC_GP));
    f.do(call(c.env.mem.probe, c.base, c.ea(), c32(16), c32(S.ACC_WRITE)));
    c.checkFault();
    if (c.locked) {
      cmpxchg16bLocked(c);
      return;
    }
    const la = f.tmp(c.ea());
    const hiAt = f.tmp(i64.add(la, c64(8)));
    const lo = c.load(la, 8);
    const hi = c.load(hiAt, 8);
    const eq = f.tmp(i32.and(i64.eq(lo, c.getGpr64(AX)), i64.eq(hi, c.getGpr64(DX))));
    c.store(la, 8, select(eq, c.getGpr64(BX), lo));
    c.store(hiAt, 8, select(eq, c.getGpr64(CX), hi));
    f.if(i32.eqz(eq), () => {
      c.setGpr64(AX, lo);
      c.setGpr64(DX, hi);
    });
    c.setZf(eq);
    return;
  }
  const pair = (hi: number, lo: number): Node =>
    i64.or(i64.shl(i64.extend_u(c.getGpr32(hi)), c64(32)), i64.extend_u(c.getGpr32(lo)));
  const old = c.rmwRead(0, 8);
  const eq = f.tmp(i64.eq(old, pair(DX, AX)));
  c.rmwWrite(0, select(eq, pair(CX, BX), old), 8);
  f.if(i32.eqz(eq), () => {
    c.setGpr(AX, 4, i32.wrap(old));
    c.setGpr(DX, 4, i32.wrap(i64.shr_u(old, c64(32))));
  });
  c.setZf(eq);
};

const push: Semantic = (c) => {
  const size = c.size;
  c.push(size, c.read(0, size));
};
const pop: Semantic = (c) => {
  const size = c.size;
  const v = c.peek(size);
  if (c.isMem(0)) {
    c.write(0, v, size);
    c.addSp(size);
  } else {
    c.addSp(size);
    c.write(0, v, size);
  }
};
const pusha: Semantic = (c) => {
  const f = c.f;
  const size = c.size;
  const sp = f.tmp(c.sp());
  for (let i = 0; i < 8; i++) {
    const at = f.tmp(c.spCut(i64.sub(sp, c64(size * (i + 1)))));
    c.store(c.linear(S.SS, at, size, true), size, i === 4 ? N(size).from64(sp) : c.gpr(i, size));
  }
  c.setSp(c.spCut(i64.sub(sp, c64(8 * size))));
};
const popa: Semantic = (c) => {
  const size = c.size;
  const values: Node[] = [];
  for (let i = 0; i < 8; i++) values.push(c.peek(size, i * size));
  for (let i = 0; i < 8; i++) {
    const reg = 7 - i;
    if (reg !== SP) c.setGpr(reg, size, values[i] as Node);
  }
  c.addSp(8 * size);
};
const leave: Semantic = (c) => {
  const f = c.f;
  const size = c.size;
  const s = c.stackSize;
  const bp = f.tmp(s === 8 ? c.getGpr64(BP) : i64.extend_u(c.gpr(BP, s)));
  const v = c.load(c.linear(S.SS, bp, size, false), size);
  c.setSp(c.spCut(i64.add(bp, c64(size))));
  c.setGpr(BP, size, v);
};
const lea: Semantic = (c) => {
  const size = c.sizeOf(0);
  c.write(0, N(size).from64(c.ea()), size);
};

/** #GP for a jump to an address that is not canonical; the jump itself raises it. */
function requireCanonical(c: SemCtx, target: Node): void {
  if (c.mode.bits === 64) c.f.if(i32.eqz(isCanonical(target)), () => c.raise(S.EXC_GP));
}
const callNear: Semantic = (c) => {
  const size = c.size;
  const n = N(size);
  if (c.kind(0) === Kind.Rel) {
    c.push(size, n.from64(c.nextRip()));
    c.jumpRelative();
    return;
  }
  const target = c.f.tmp(n.zext64(c.read(0, size)));
  requireCanonical(c, target);
  c.push(size, n.from64(c.nextRip()));
  c.jumpIndirect(target);
};
const jmpNear: Semantic = (c) => {
  if (c.kind(0) === Kind.Rel) {
    c.jumpRelative();
    return;
  }
  const target = c.f.tmp(N(c.size).zext64(c.read(0, c.size)));
  requireCanonical(c, target);
  c.jumpIndirect(target);
};
const ret: Semantic = (c) => {
  const size = c.size;
  const target = c.f.tmp(N(size).zext64(c.peek(size)));
  requireCanonical(c, target);
  c.addSp(size);
  if (c.insn.operandCount > 0) c.setSp(c.spCut(i64.add(c.sp(), c.imm64())));
  c.jumpIndirect(target);
};

/** Count register by address size. */
function countDown(c: SemCtx): Node {
  const a = c.insn.addrSize;
  const n = N(a);
  const r = c.f.tmp(n.trunc(n.sub(c.gpr(CX, a), n.c(1))));
  c.setGpr(CX, a, r);
  return n.ne(r, n.c(0));
}

const setcc: Semantic = (c) => c.write(0, i32.ne(c.cond(c.insn.cc), c32(0)), 1);
const cmovcc: Semantic = (c) => {
  const size = c.sizeOf(0);
  const v = c.read(1, size);
  c.write(0, select(c.cond(c.insn.cc), v, c.readReg(0, size)), size);
};

const iopl = (c: SemCtx): Node => i32.and(i32.shr_u(ld.i32(c.base, S.EFL), c32(S.FLAG_IOPL_SHIFT)), c32(3));
/** #GP unless CPL is at most IOPL (virtual-8086 mode has CPL 3). */
function requireIopl(c: SemCtx): void {
  c.f.if(i32.gt_u(ld.i32(c.base, S.CPL), iopl(c)), () => c.raise(S.EXC_GP));
}
const efl = (c: SemCtx): Node => ld.i32(c.base, S.EFL);
/** Looks at events after the next block boundary if the run loop waits for interrupts to be possible. */
export function attention(c: SemCtx): void {
  c.f.if(ld.i32(c.base, S.IRQ_WINDOW), () => c.f.st32(c.base, c32(-1), S.BUDGET));
}
const cli: Semantic = (c) => {
  requireIopl(c);
  c.f.st32(c.base, i32.and(efl(c), c32(~S.FLAG_IF)), S.EFL);
};
const sti: Semantic = (c) => {
  requireIopl(c);
  c.f.if(i32.eqz(i32.and(efl(c), c32(S.FLAG_IF))), () => {
    c.f.st32(c.base, i32.or(efl(c), c32(S.FLAG_IF)), S.EFL);
    c.f.st64(c.base, c.countHere(), S.SHADOW_AT);
    attention(c);
  });
};
const pushf: Semantic = (c) => {
  c.f.if(i32.and(efl(c), c32(S.FLAG_VM)), () => requireIopl(c));
  const v = c.f.tmp(i32.and(c.getFlags(), c32(~(S.FLAG_VM | S.FLAG_RF))));
  const size = c.size;
  c.push(size, size === 8 ? i64.extend_u(v) : N(size).trunc(v));
};
const popf: Semantic = (c) => {
  const f = c.f;
  const size = c.size;
  // Anything that changes how code runs (TF, AC, NT, virtual-8086 mode) goes the long way.
  f.if(i32.and(efl(c), c32(S.FLAG_VM)), () => sys(c));
  const v = c.peek(size);
  const image = f.temp(I32);
  f.set(image, N(size).to32(v));
  const old = f.tmp(c.getFlags());
  if (size === 2) f.set(image, i32.or(image.get, i32.and(old, c32(0xffff0000))));
  f.if(i32.and(i32.xor(image.get, old), c32(S.FLAG_TF | S.FLAG_AC | S.FLAG_NT)), () => sys(c));
  const keep = f.temp(I32);
  f.set(keep, c32(S.FLAG_VM | S.FLAG_VIF | S.FLAG_VIP));
  f.if(ld.i32(c.base, S.CPL), () => f.set(keep, i32.or(keep.get, c32(3 << S.FLAG_IOPL_SHIFT))));
  f.if(i32.gt_u(ld.i32(c.base, S.CPL), iopl(c)), () => f.set(keep, i32.or(keep.get, c32(S.FLAG_IF))));
  f.set(image, i32.or(i32.and(image.get, i32.xor(keep.get, c32(-1))), i32.and(old, keep.get)));
  c.addSp(size);
  c.setFlags(i32.and(image.get, c32(~S.FLAG_RF)));
  f.if(i32.and(image.get, c32(S.FLAG_IF)), () => attention(c));
};

/** Runs the instruction in TypeScript. */
export const sys: Semantic = (c) => {
  c.sync();
  if (c.memIndex() >= 0) {
    c.f.st64(c.base, c.ea(), S.EA);
  }
  c.leaveStatus(call(c.env.sys, c.base, c.record()));
};

// --- BCD ---------------------------------------------------------------------------------------------------------------
const af = (c: SemCtx): Node => i32.and(i32.shr_u(ld.i32(c.base, S.FX), c32(4)), c32(1));
const decimalAdjust =
  (sub: boolean): Semantic =>
  (c) => {
    const f = c.f;
    c.flagsInMemory();
    const al = f.tmp(c.gpr(AX, 1));
    const cf = f.tmp(c.cf());
    const lowAdj = f.tmp(i32.or(i32.gt_u(i32.and(al, c32(15)), c32(9)), af(c)));
    const highAdj = f.tmp(i32.or(i32.gt_u(al, c32(0x99)), cf));
    const adj = i32.add(i32.mul(lowAdj, c32(6)), i32.mul(highAdj, c32(0x60)));
    const r = f.tmp(i32.and(sub ? i32.sub(al, adj) : i32.add(al, adj), c32(0xff)));
    // DAS: a borrow out of AL - 6 sets CF too.
    const borrow = sub ? i32.and(lowAdj, i32.lt_u(al, c32(6))) : c32(0);
    const carry = f.tmp(i32.or(highAdj, borrow));
    c.setGpr(AX, 1, r);
    c.flagsSzp(1, r);
    c.setAf(lowAdj);
    c.setCfOf(carry, c32(0));
  };
const asciiAdjust =
  (sub: boolean): Semantic =>
  (c) => {
    const f = c.f;
    c.flagsInMemory();
    const ax = f.tmp(c.gpr(AX, 2));
    const adj = f.tmp(i32.or(i32.gt_u(i32.and(ax, c32(15)), c32(9)), af(c)));
    const delta = c32(0x106);
    const moved = f.tmp(i32.and(select(adj, sub ? i32.sub(ax, delta) : i32.add(ax, delta), ax), c32(0xff0f)));
    c.setGpr(AX, 2, moved);
    c.flagsSzp(1, i32.and(moved, c32(0xff)));
    c.setAf(adj);
    c.setCfOf(adj, c32(0));
  };
const aam: Semantic = (c) => {
  const f = c.f;
  const d = f.tmp(i32.and(c.imm32(), c32(0xff)));
  f.if(i32.eqz(d), () => c.raise(S.EXC_DE));
  const al = f.tmp(c.gpr(AX, 1));
  const r = f.tmp(i32.rem_u(al, d));
  c.setGpr(AX, 2, i32.or(i32.shl(i32.div_u(al, d), c32(8)), r));
  c.flagsLogic(1, r);
};
const aad: Semantic = (c) => {
  const f = c.f;
  const ax = f.tmp(c.gpr(AX, 2));
  const r = f.tmp(
    i32.and(i32.add(i32.mul(i32.shr_u(ax, c32(8)), i32.and(c.imm32(), c32(0xff))), i32.and(ax, c32(0xff))), c32(0xff)),
  );
  c.setGpr(AX, 2, r);
  c.flagsLogic(1, r);
};

// --- the rest ----------------------------------------------------------------------------------------------------------
const xlat: Semantic = (c) => {
  const a = c.insn.addrSize;
  const off = i64.add(strReg(c, BX), i64.extend_u(c.gpr(AX, 1)));
  const cut = c.f.tmp(a === 8 ? off : i64.and(off, c64(a === 4 ? 0xffffffff : 0xffff)));
  c.setGpr(AX, 1, c.load(c.linear(c.insn.seg, cut, 1, false), 1));
};

const rdtsc: Semantic = (c) => {
  const f = c.f;
  // CR4.TSD: only at CPL 0.
  f.if(i32.and(i32.ne(i32.and(ld.i32(c.base, S.CR4), c32(4)), c32(0)), ld.i32(c.base, S.CPL)), () => c.raise(S.EXC_GP));
  c.sync();
  f.do(call(c.env.tsc, c.base));
  c.setGpr(AX, 4, ld.i32(c.base, S.SCRATCH));
  c.setGpr(DX, 4, ld.i32(c.base, S.SCRATCH + 4));
};

const rdtscp: Semantic = (c) => {
  c.f.if(i32.eqz(ld.i32(c.base, S.HAS_RDTSCP)), () => c.raise(S.EXC_UD));
  rdtsc(c);
  c.setGpr(CX, 4, ld.i32(c.base, S.TSC_AUX));
};

const nothing: Semantic = () => {};

/** Semantics by operation number; operations that are missing run in TypeScript. */
export function integerSemantics(): Map<number, Semantic> {
  const m = new Map<number, Semantic>();
  const def = (op: number, s: Semantic): void => {
    m.set(op, s);
  };
  def(
    OP.ADD,
    alu((_c, n, a, b) => n.add(a, b), 'add'),
  );
  def(
    OP.ADC,
    alu((_c, n, a, b) => n.add(a, b), 'add', true, true),
  );
  def(
    OP.SUB,
    alu((_c, n, a, b) => n.sub(a, b), 'sub'),
  );
  def(
    OP.SBB,
    alu((_c, n, a, b) => n.sub(a, b), 'sub', true, true),
  );
  def(
    OP.CMP,
    alu((_c, n, a, b) => n.sub(a, b), 'sub', false),
  );
  def(
    OP.AND,
    alu((_c, n, a, b) => n.and(a, b), 'logic'),
  );
  def(
    OP.OR,
    alu((_c, n, a, b) => n.or(a, b), 'logic'),
  );
  def(
    OP.XOR,
    alu((_c, n, a, b) => n.xor(a, b), 'logic'),
  );
  def(
    OP.TEST,
    alu((_c, n, a, b) => n.and(a, b), 'logic', false),
  );
  def(OP.INC, incDec(false));
  def(OP.DEC, incDec(true));
  def(OP.NEG, (c) => {
    const size = c.sizeOf(0);
    const n = N(size);
    const a = c.rmwRead(0);
    const r = c.f.tmp(n.trunc(n.sub(n.c(0), a)));
    c.rmwWrite(0, r);
    c.flagsSub(size, n.c(0), a, r);
  });
  def(OP.NOT, (c) => {
    const n = N(c.sizeOf(0));
    const a = c.rmwRead(0);
    c.rmwWrite(0, n.trunc(n.not(a)));
  });
  def(OP.SHL, shl);
  def(OP.SHR, shr);
  def(OP.SAR, sar);
  def(OP.ROL, rotate(true));
  def(OP.ROR, rotate(false));
  def(OP.RCL, rcl);
  def(OP.RCR, rcr);
  def(OP.SHLD, doubleShift(true));
  def(OP.SHRD, doubleShift(false));
  def(OP.MUL, mul(false));
  def(OP.IMUL, (c) => (c.insn.operandCount === 1 ? mul(true)(c) : imulMany(c)));
  def(OP.DIV, div(false));
  def(OP.IDIV, div(true));
  def(OP.MOV, mov);
  def(OP.MOVNTI, mov);
  def(OP.MOVZX, extend(false));
  def(OP.MOVSX, extend(true));
  def(OP.MOVSXD, extend(true));
  def(OP.LEA, lea);
  def(OP.XCHG, xchg);
  def(OP.XADD, xadd);
  def(OP.CMPXCHG, cmpxchg);
  def(OP.CMPXCHG8B, cmpxchg8b);
  def(OP.CMPXCHG16B, cmpxchg8b);
  def(OP.BT, bitTest('none'));
  def(OP.BTS, bitTest('set'));
  def(OP.BTR, bitTest('reset'));
  def(OP.BTC, bitTest('complement'));
  def(OP.BSF, bsf);
  def(OP.BSR, bsr);
  def(OP.TZCNT, tzcnt);
  def(OP.LZCNT, lzcnt);
  def(OP.POPCNT, popcnt);
  def(OP.BSWAP, bswap);
  def(OP.MOVBE, movbe);
  def(OP.CRC32, crc32);
  def(OP.PUSH, push);
  def(OP.POP, pop);
  def(OP.PUSHA, pusha);
  def(OP.POPA, popa);
  def(OP.LEAVE, leave);
  def(OP.CALL, callNear);
  def(OP.JMP, jmpNear);
  def(OP.RET, ret);
  def(OP.JCC, (c) => c.branch(c.cond(c.insn.cc)));
  def(OP.LOOP, (c) => c.branch(countDown(c)));
  def(OP.LOOPE, (c) => {
    const z = c.f.tmp(c.cond(4));
    c.branch(i32.and(countDown(c), z));
  });
  def(OP.LOOPNE, (c) => {
    const nz = c.f.tmp(c.cond(5));
    c.branch(i32.and(countDown(c), nz));
  });
  def(OP.JCXZ, (c) => c.branch(N(c.insn.addrSize).eqz(c.gpr(CX, c.insn.addrSize))));
  def(OP.SETCC, setcc);
  def(OP.CMOVCC, cmovcc);
  def(OP.CBW, (c) => {
    // CBW, CWDE, CDQE by operand size.
    const size = c.size;
    const half = N(size / 2);
    c.setGpr(AX, size, N(size).from64(half.sext64(c.f.tmp(c.gpr(AX, size / 2)))));
  });
  def(OP.CWD, (c) => {
    const size = c.size;
    const n = N(size);
    c.setGpr(DX, size, n.trunc(n.shr_s(n.sext(c.gpr(AX, size)), n.c(n.bits - 1))));
  });
  def(OP.CLC, (c) => c.setCf(c32(0)));
  def(OP.STC, (c) => c.setCf(c32(1)));
  def(OP.CMC, (c) => c.setCf(i32.xor(c.cf(), c32(1))));
  def(OP.CLD, (c) => c.f.st32(c.base, i32.and(efl(c), c32(~S.FLAG_DF)), S.EFL));
  def(OP.STD, (c) => c.f.st32(c.base, i32.or(efl(c), c32(S.FLAG_DF)), S.EFL));
  def(OP.CLI, cli);
  def(OP.STI, sti);
  def(OP.PUSHF, pushf);
  def(OP.POPF, popf);
  def(OP.LAHF, (c) => {
    const v = i32.and(c.getFlags(), c32(0xff));
    c.setGpr(AX, 2, i32.or(i32.shl(v, c32(8)), c.gpr(AX, 1)));
  });
  def(OP.SAHF, (c) => {
    const ah = i32.and(i32.shr_u(c.gpr(AX, 2), c32(8)), c32(0xd5));
    c.setFlags(i32.or(i32.and(c.getFlags(), c32(~0xd5)), ah));
  });
  def(OP.SALC, (c) => c.setGpr(AX, 1, i32.and(i32.sub(c32(0), c.cf()), c32(0xff))));
  def(OP.DAA, decimalAdjust(false));
  def(OP.DAS, decimalAdjust(true));
  def(OP.AAA, asciiAdjust(false));
  def(OP.AAS, asciiAdjust(true));
  def(OP.AAM, aam);
  def(OP.AAD, aad);
  def(OP.XLAT, xlat);
  def(OP.RDTSC, rdtsc);
  def(OP.RDTSCP, rdtscp);
  for (const op of [OP.NOP, OP.PREFETCH, OP.PREFETCHW, OP.PREFETCHNTA, OP.PREFETCHT0, OP.PREFETCHT1, OP.PREFETCHT2])
    def(op, nothing);
  for (const op of [OP.ENDBR64, OP.ENDBR32, OP.LFENCE, OP.SFENCE]) def(op, nothing);
  // The only order that x86 leaves open is a load before an earlier store.
  def(OP.MFENCE, (c) => {
    if (c.env.shared) c.f.fence();
  });
  // Cache control on memory that is always coherent: only the access check is left.
  for (const op of [OP.CLFLUSH, OP.CLFLUSHOPT, OP.CLWB])
    def(op, (c) => {
      c.sync();
      c.f.do(call(c.env.mem.probe, c.base, c.ea(), c32(1), c32(0)));
      c.checkFault();
    });
  for (const [op, overflow] of [
    [OP.ADCX, false],
    [OP.ADOX, true],
  ] as const)
    def(op, (c) => {
      const size = c.sizeOf(0);
      const n = N(size);
      const f = c.f;
      const b = c.read(1);
      const a = c.read(0);
      const cf = f.tmp(c.cf());
      const of = f.tmp(c.of());
      const r = f.tmp(n.add(n.add(a, b), n.from32(overflow ? of : cf)));
      c.write(0, r);
      const carry = msb(n, f.tmp(n.or(n.and(a, b), n.and(n.or(a, b), n.not(r)))));
      if (overflow) c.setCfOf(cf, carry);
      else c.setCfOf(carry, of);
    });
  return m;
}
