// All semantics together.
import { OP } from '@hyve/x86';
import type { Semantic } from '../ctx.ts';
import * as S from '../state.ts';
import { c32, type FnRef, i32, ld, type Module } from '../wasm/builder.ts';
import { integerSemantics } from './integer.ts';

/** Every operation with a WebAssembly semantic; all others run in TypeScript. */
export function allSemantics(): Map<number, Semantic> {
  const m = integerSemantics();
  m.set(OP.FNINIT, (c) => {
    c.f.st32(c.base, c32(0x37f), S.FCW);
    c.f.st32(c.base, c32(0), S.FSW);
    c.f.st32(c.base, c32(0), S.FTW);
    c.f.st32(c.base, c32(0), S.FTOP);
  });
  m.set(OP.FNSTSW, (c) => c.write(0, i32.or(ld.i32(c.base, S.FSW), i32.shl(ld.i32(c.base, S.FTOP), c32(11))), 2));
  m.set(OP.FNSTCW, (c) => c.write(0, ld.i32(c.base, S.FCW), 2));
  m.set(OP.FNCLEX, (c) => c.f.st32(c.base, i32.and(ld.i32(c.base, S.FSW), c32(0x7f00)), S.FSW));
  m.set(OP.FWAIT, () => {});
  return m;
}

/** Functions that semantics call, emitted into the main module. */
export function emitHelpers(_m: Module): Record<string, FnRef> {
  return {};
}
