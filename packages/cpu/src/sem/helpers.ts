// Arithmetic that WebAssembly has no instruction for: 128-bit products and quotients.

import { SCRATCH } from '../state.ts';
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
  type Local,
  type Module,
  type Node,
} from '../wasm/builder.ts';

/** Names of the functions made here. */
export interface ArithFns {
  /** (a, b) → high 64 bits of the unsigned product. */
  readonly mulhiU: FnRef;
  /** (a, b) → high 64 bits of the signed product. */
  readonly mulhiS: FnRef;
  /** (base, hi, lo, d) → quotient of hi:lo / d, remainder at SCRATCH; hi must be below d. */
  readonly divU: FnRef;
}

const p = (f: Fn, n: number): Node => (f.params[n] as Local).get;

/** Emits the functions into a module. */
export function emitArith(m: Module): ArithFns {
  const mulhiU = m.fn([I64, I64], I64);
  {
    const f = mulhiU;
    const lo = (v: Node): Node => i64.and(v, c64(0xffffffff));
    const hi = (v: Node): Node => i64.shr_u(v, c64(32));
    const t = f.local(I64);
    const u = f.local(I64);
    // Schoolbook with 32-bit halves; no partial sum overflows 64 bits.
    f.set(t, i64.add(i64.mul(hi(p(f, 0)), lo(p(f, 1))), hi(i64.mul(lo(p(f, 0)), lo(p(f, 1))))));
    f.set(u, i64.add(i64.mul(lo(p(f, 0)), hi(p(f, 1))), lo(t.get)));
    f.emit(i64.add(i64.add(i64.mul(hi(p(f, 0)), hi(p(f, 1))), hi(t.get)), hi(u.get)));
  }
  const mulhiS = m.fn([I64, I64], I64);
  {
    const f = mulhiS;
    const sign = (v: Node): Node => i64.shr_s(v, c64(63));
    f.emit(
      i64.sub(
        i64.sub(call(mulhiU.ref, p(f, 0), p(f, 1)), i64.and(sign(p(f, 0)), p(f, 1))),
        i64.and(sign(p(f, 1)), p(f, 0)),
      ),
    );
  }
  const divU = m.fn([I32, I64, I64, I64], I64);
  {
    const f = divU;
    const hi = f.params[1] as Local;
    const lo = f.params[2] as Local;
    const d = p(f, 3);
    const n = f.local(I32);
    const carry = f.local(I64);
    f.if(i64.eqz(hi.get), () => {
      f.st64(p(f, 0), i64.rem_u(lo.get, d), SCRATCH);
      f.ret(i64.div_u(lo.get, d));
    });
    f.set(n, c32(64));
    f.loop((again) => {
      f.set(carry, i64.shr_s(hi.get, c64(63)));
      f.set(hi, i64.or(i64.shl(hi.get, c64(1)), i64.shr_u(lo.get, c64(63))));
      f.set(lo, i64.shl(lo.get, c64(1)));
      f.if(i32.or(i64.ne(carry.get, c64(0)), i64.ge_u(hi.get, d)), () => {
        f.set(hi, i64.sub(hi.get, d));
        f.set(lo, i64.or(lo.get, c64(1)));
      });
      f.set(n, i32.sub(n.get, c32(1)));
      f.brIf(again, n.get);
    });
    f.st64(p(f, 0), hi.get, SCRATCH);
    f.emit(lo.get);
  }
  return { mulhiU: mulhiU.ref, mulhiS: mulhiS.ref, divU: divU.ref };
}
