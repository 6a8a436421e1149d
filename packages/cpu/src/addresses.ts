// Arithmetic on linear addresses that every generator of code needs.
import * as S from './state.ts';
import { c32, c64, i32, i64, type Node } from './wasm/builder.ts';

/** The entry for a linear address (i64) in the direct-mapped part of a TLB bank (i32). */
export function tlbSlot(la: Node, bank: Node): Node {
  return i32.add(i32.and(i32.shr_u(i32.wrap(la), c32(7)), c32((S.TLB_ENTRIES - 1) << 5)), bank);
}

/** Whether a 64-bit address is canonical, 48 bits; `v` is evaluated twice. SDM volume 1, 3.3.7.1. */
export function isCanonical(v: Node): Node {
  return i64.eq(i64.shr_s(i64.shl(v, c64(16)), c64(16)), v);
}
