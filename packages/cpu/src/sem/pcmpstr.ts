// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM. Intel SDM volume 2B §4.1 "Imm8 control byte operation".
import { OP } from '@hyve/x86';
import type { Semantic, SemCtx } from '../ctx.ts';
import * as S from '../state.ts';
import {
  c32,
  c64,
  call,
  type Fn,
  type FnRef,
  I32,
  i32,
  i64,
  type Local,
  ld,
  type Module,
  type Node,
  select,
} from '../wasm/builder.ts';
import { v, withLane } from './vec.ts';

const A = S.SCRATCH + 64;
const B = S.SCRATCH + 80;

/**
 * Emits `pcmpstr` (base, control byte, length of the first operand, of the second; -1: up to the first zero element)
 * → IntRes2. The operands lie at SCRATCH + 64 and + 80. Sets all flags.
 */
export function emitPcmpstr(m: Module): Record<string, FnRef> {
  const f: Fn = m.fn([I32, I32, I32, I32], I32);
  const p = (n: number): Node => (f.params[n] as Local).get;
  const base = p(0);
  const imm = p(1);
  const la = f.params[2] as Local;
  const lb = f.params[3] as Local;
  const n = f.local(I32);
  const i = f.local(I32);
  const j = f.local(I32);
  const res = f.local(I32);
  const ok = f.local(I32);
  const all = f.local(I32);
  const words = i32.and(imm, c32(1));
  f.set(n, select(words, c32(8), c32(16)));
  f.set(all, select(words, c32(0xff), c32(0xffff)));
  /** Element `k` of the operand at `at`, extended as the control byte says. */
  const el = (at: number, k: Node): Node => {
    const w = i32.add(base, i32.shl(k, c32(1)));
    const b = i32.add(base, k);
    const signed = i32.and(imm, c32(2));
    return select(
      words,
      select(signed, ld.i32_16s(w, at), ld.i32_16u(w, at)),
      select(signed, ld.i32_8s(b, at), ld.i32_8u(b, at)),
    );
  };
  for (const [len, at] of [
    [la, A],
    [lb, B],
  ] as const) {
    f.if(
      i32.lt_s(len.get, c32(0)),
      () => {
        f.set(len, c32(0));
        f.block((out) => {
          f.loop((again) => {
            f.brIf(out, i32.ge_u(len.get, n.get));
            f.brIf(out, i32.eqz(el(at, len.get)));
            f.set(len, i32.add(len.get, c32(1)));
            f.br(again);
          });
        });
      },
      () => f.if(i32.gt_u(len.get, n.get), () => f.set(len, n.get)),
    );
  }
  const kind = f.tmp(i32.and(i32.shr_u(imm, c32(2)), c32(3)));
  const forEach = (v: Local, limit: Node, body: () => void): void => {
    f.set(v, c32(0));
    f.block((out) => {
      f.loop((again) => {
        f.brIf(out, i32.ge_u(v.get, limit));
        body();
        f.set(v, i32.add(v.get, c32(1)));
        f.br(again);
      });
    });
  };
  forEach(j, n.get, () => {
    f.set(ok, c32(0));
    f.if(i32.eqz(kind), () => {
      f.if(i32.lt_u(j.get, lb.get), () =>
        forEach(i, la.get, () => f.set(ok, i32.or(ok.get, i32.eq(el(A, i.get), el(B, j.get))))),
      );
    });
    f.if(i32.eq(kind, c32(1)), () => {
      f.if(i32.lt_u(j.get, lb.get), () =>
        forEach(i, i32.shr_u(la.get, c32(1)), () => {
          const low = el(A, i32.shl(i.get, c32(1)));
          const high = el(A, i32.or(i32.shl(i.get, c32(1)), c32(1)));
          f.set(ok, i32.or(ok.get, i32.and(i32.ge_s(el(B, j.get), low), i32.le_s(el(B, j.get), high))));
        }),
      );
    });
    f.if(i32.eq(kind, c32(2)), () => {
      const va = i32.lt_u(j.get, la.get);
      const vb = i32.lt_u(j.get, lb.get);
      f.set(ok, i32.and(i32.eq(va, vb), i32.or(i32.eqz(va), i32.eq(el(A, j.get), el(B, j.get)))));
    });
    f.if(i32.eq(kind, c32(3)), () => {
      f.set(ok, c32(1));
      forEach(i, select(i32.lt_u(la.get, i32.sub(n.get, j.get)), la.get, i32.sub(n.get, j.get)), () => {
        const k = i32.add(i.get, j.get);
        f.set(ok, i32.and(ok.get, i32.and(i32.lt_u(k, lb.get), i32.eq(el(A, i.get), el(B, i32.and(k, c32(15)))))));
      });
    });
    f.set(res, i32.or(res.get, i32.shl(ok.get, j.get)));
  });
  // Polarity: 1 negates all, 3 only where the second operand is valid.
  const valid = i32.and(i32.sub(i32.shl(c32(1), lb.get), c32(1)), all.get);
  f.if(i32.and(imm, c32(0x10)), () => f.set(res, i32.xor(res.get, select(i32.and(imm, c32(0x20)), valid, all.get))));
  // CF: any match; ZF, SF: an operand ended early; OF: bit 0; AF, PF clear.
  const cf = f.tmp(i32.ne(res.get, c32(0)));
  const of = f.tmp(i32.and(res.get, c32(1)));
  f.st32(base, i32.or(i32.shl(cf, c32(31)), i32.shl(i32.xor(cf, of), c32(30))), S.FC);
  f.st64(base, i64.extend_u(i32.ge_u(lb.get, n.get)), S.FZ);
  f.st64(base, select(i32.lt_u(la.get, n.get), c64(-255), c64(1)), S.FR);
  f.st32(base, c32(0), S.FX);
  f.emit(res.get);
  return { pcmpstr: f.ref };
}

/** Lengths from EAX and EDX (RAX, RDX with REX.W): their magnitudes, saturated. */
function explicitLength(c: SemCtx, reg: number): Node {
  const wide = c.size === 8;
  const v = c.f.tmp(wide ? c.getGpr64(reg) : i64.extend_s(c.getGpr32(reg)));
  const m = c.f.tmp(select(i64.lt_s(v, c64(0)), i64.sub(c64(0), v), v));
  return select(i64.gt_u(m, c64(16)), c32(16), i32.wrap(m));
}

function compare(explicit: boolean, mask: boolean): Semantic {
  return (c) => {
    const f = c.f;
    const b = c.readV(1, 16);
    f.stV(c.base, b, B);
    f.stV(c.base, c.readV(0, 16), A);
    const imm = f.tmp(i32.and(c.imm32(), c32(0xff)));
    c.flagsReplaced();
    const none = c32(-1);
    const res = f.tmp(
      call(
        c.env.fn('pcmpstr'),
        c.base,
        imm,
        explicit ? explicitLength(c, 0) : none,
        explicit ? explicitLength(c, 2) : none,
      ),
    );
    if (mask && c.insn.vex !== 0) c.clearUpper0();
    const words = i32.and(imm, c32(1));
    const n = select(words, c32(8), c32(16));
    if (!mask) {
      const index = select(i32.and(imm, c32(0x40)), i32.sub(c32(31), i32.clz(res)), i32.ctz(res));
      c.setGpr(1, 4, select(res, index, n));
      return;
    }
    f.if(
      i32.and(imm, c32(0x40)),
      () => {
        // One element of all ones for each bit.
        let r: Node = v.zero();
        for (let k = 0; k < 16; k++) {
          const bit = i32.and(i32.shr_u(res, select(words, c32(k >> 1), c32(k))), c32(1));
          r = f.tmp(withLane(r, 1, k, i32.sub(c32(0), bit)));
        }
        c.setXmm(0, r);
      },
      () => c.setXmm(0, withLane(v.zero(), 4, 0, res)),
    );
  };
}

/** The four string comparisons, legacy and VEX. */
export function pcmpstrSemantics(): Map<number, Semantic> {
  return new Map([
    [OP.PCMPESTRI, compare(true, false)],
    [OP.PCMPESTRM, compare(true, true)],
    [OP.PCMPISTRI, compare(false, false)],
    [OP.PCMPISTRM, compare(false, true)],
    [OP.VPCMPESTRI, compare(true, false)],
    [OP.VPCMPESTRM, compare(true, true)],
    [OP.VPCMPISTRI, compare(false, false)],
    [OP.VPCMPISTRM, compare(false, true)],
  ]);
}
