// BMI1 and BMI2. Intel SDM volume 2.
import { OP } from '@hyve/x86';
import { NUM, type Num, type Semantic, type SemCtx } from '../ctx.ts';
import {
  c32,
  c64,
  call,
  type FnRef,
  I64,
  i32,
  i64,
  type Local,
  type Module,
  type Node,
  select,
} from '../wasm/builder.ts';
import { param } from './softfloat.ts';

const DX = 2;
const num = (c: SemCtx): Num => NUM[c.sizeOf(0)] as Num;

/** ZF and SF of the result, OF clear, CF as given (0 or 1). */
function flags(c: SemCtx, r: Node, cf: Node): void {
  const carry = c.f.tmp(cf);
  c.flagsReplaced();
  c.flagsSzp(c.sizeOf(0), r);
  c.setAf(c32(0));
  c.setCfOf(carry, c32(0));
}

/** One of BLSR, BLSMSK, BLSI. */
const lowest =
  (op: (n: Num, x: Node) => Node, carry: (n: Num, x: Node) => Node): Semantic =>
  (c) => {
    const n = num(c);
    const x = c.read(1);
    const r = c.f.tmp(op(n, x));
    c.write(0, r);
    flags(c, r, carry(n, x));
  };
const shift =
  (op: (n: Num, x: Node, k: Node) => Node): Semantic =>
  (c) => {
    const n = num(c);
    const x = c.read(1);
    // WebAssembly takes counts modulo the width, as these instructions do.
    c.write(0, op(n, x, c.read(2)));
  };
const andn: Semantic = (c) => {
  const n = num(c);
  const b = c.read(2);
  const r = c.f.tmp(n.and(n.not(c.read(1)), b));
  c.write(0, r);
  flags(c, r, c32(0));
};
const bzhi: Semantic = (c) => {
  const n = num(c);
  const f = c.f;
  const x = c.read(1);
  const k = f.tmp(i32.and(n.to32(c.read(2)), c32(0xff)));
  const over = f.tmp(i32.gt_u(k, c32(n.bits - 1)));
  const mask = n.sub(n.shl(n.c(1), n.from32(k)), n.c(1));
  const r = f.tmp(select(over, x, n.and(x, mask)));
  c.write(0, r);
  flags(c, r, over);
};
const bextr: Semantic = (c) => {
  const n = num(c);
  const f = c.f;
  const x = c.read(1);
  const control = f.tmp(n.to32(c.read(2)));
  const start = f.tmp(i32.and(control, c32(0xff)));
  const length = f.tmp(i32.and(i32.shr_u(control, c32(8)), c32(0xff)));
  const moved = f.tmp(select(i32.gt_u(start, c32(n.bits - 1)), n.c(0), n.shr_u(x, n.from32(start))));
  const mask = n.sub(n.shl(n.c(1), n.from32(length)), n.c(1));
  const r = f.tmp(select(i32.gt_u(length, c32(n.bits - 1)), moved, n.and(moved, mask)));
  c.write(0, r);
  c.flagsReplaced();
  c.flagsSzp(c.sizeOf(0), r);
  c.setAf(c32(0));
  c.setCfOf(c32(0), c32(0));
};
const mulx: Semantic = (c) => {
  // The high half goes to operand 0, the low half to operand 1; the same register gets the high half.
  const f = c.f;
  const b = c.read(2);
  if (c.sizeOf(0) === 8) {
    const a = f.tmp(c.getGpr64(DX));
    const lo = f.tmp(i64.mul(a, b));
    const hi = f.tmp(call(c.env.fn('mulhiU'), a, b));
    c.write(1, lo, 8);
    c.write(0, hi, 8);
    return;
  }
  const p = f.tmp(i64.mul(i64.extend_u(c.getGpr32(DX)), i64.extend_u(b)));
  c.write(1, i32.wrap(p), 4);
  c.write(0, i32.wrap(i64.shr_u(p, c64(32))), 4);
};
/** PDEP and PEXT, by way of 64 bits. */
const scatter =
  (name: 'bmi_pdep' | 'bmi_pext'): Semantic =>
  (c) => {
    const n = num(c);
    const mask = c.f.tmp(n.zext64(c.read(2)));
    const x = c.f.tmp(n.zext64(c.read(1)));
    c.write(0, n.from64(c.f.tmp(call(c.env.fn(name), x, mask))));
  };

/** Emits PDEP and PEXT: one step per set bit of the mask. */
export function emitBmi(m: Module): Record<string, FnRef> {
  const make = (deposit: boolean): FnRef => {
    const f = m.fn([I64, I64], I64);
    const x = param(f, 0);
    const mask = f.params[1] as Local;
    const bit = f.local(I64);
    const r = f.local(I64);
    f.set(bit, c64(1));
    f.block((done) => {
      f.loop((again) => {
        f.brIf(done, i64.eqz(mask.get));
        const low = f.tmp(i64.and(mask.get, i64.sub(c64(0), mask.get)));
        const [from, to] = deposit ? [bit.get, low] : [low, bit.get];
        f.if(i64.ne(i64.and(x, from), c64(0)), () => f.set(r, i64.or(r.get, to)));
        f.set(bit, i64.shl(bit.get, c64(1)));
        f.set(mask, i64.and(mask.get, i64.sub(mask.get, c64(1))));
        f.br(again);
      });
    });
    f.emit(r.get);
    return f.ref;
  };
  return { bmi_pdep: make(true), bmi_pext: make(false) };
}

/** Semantics of BMI1 and BMI2 (TZCNT and LZCNT are in integer.ts). */
export function bmiSemantics(): Map<number, Semantic> {
  const m = new Map<number, Semantic>();
  m.set(OP.ANDN, andn);
  m.set(
    OP.BLSR,
    lowest(
      (n, x) => n.and(x, n.sub(x, n.c(1))),
      (n, x) => n.eqz(x),
    ),
  );
  m.set(
    OP.BLSMSK,
    lowest(
      (n, x) => n.xor(x, n.sub(x, n.c(1))),
      (n, x) => n.eqz(x),
    ),
  );
  m.set(
    OP.BLSI,
    lowest(
      (n, x) => n.and(x, n.sub(n.c(0), x)),
      (n, x) => i32.eqz(n.eqz(x)),
    ),
  );
  m.set(OP.BZHI, bzhi);
  m.set(OP.BEXTR, bextr);
  m.set(OP.MULX, mulx);
  m.set(OP.PDEP, scatter('bmi_pdep'));
  m.set(OP.PEXT, scatter('bmi_pext'));
  m.set(
    OP.SHLX,
    shift((n, x, k) => n.shl(x, k)),
  );
  m.set(
    OP.SHRX,
    shift((n, x, k) => n.shr_u(x, k)),
  );
  m.set(
    OP.SARX,
    shift((n, x, k) => n.shr_s(x, k)),
  );
  m.set(OP.RORX, (c) => {
    const n = num(c);
    const x = c.read(1);
    c.write(0, n.bits === 64 ? i64.rotr(x, i64.extend_u(i32.and(c.imm32(), c32(63)))) : i32.rotr(x, c.imm32()));
  });
  return m;
}
