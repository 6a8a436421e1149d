// All semantics together.
import { OP } from '@hyve/x86';
import type { Semantic } from '../ctx.ts';
import type { MemFns } from '../mem.ts';
import * as S from '../state.ts';
import { type FnRef, ld, type Module } from '../wasm/builder.ts';
import { emitFloat, floatSemantics } from './float.ts';
import { integerSemantics } from './integer.ts';
import { emitPcmpstr, pcmpstrSemantics } from './pcmpstr.ts';
import { emitString, stringSemantics } from './string.ts';
import { systemMove, TRANSITIONS } from './transitions.ts';
import { emitXstate, XSTATE } from './xstate.ts';

/** Every operation with a WebAssembly semantic; all others run in TypeScript. */
export function allSemantics(): Map<number, Semantic> {
  const m = new Map([
    ...integerSemantics(),
    ...stringSemantics(),
    ...floatSemantics(),
    ...pcmpstrSemantics(),
    ...TRANSITIONS,
    ...XSTATE,
  ]);
  for (const op of [OP.MOV, OP.PUSH, OP.POP]) {
    const plain = m.get(op) as Semantic;
    m.set(op, (c) => (systemMove(c.insn) ?? plain)(c));
  }
  if (!m.has(OP.LDMXCSR)) {
    m.set(OP.LDMXCSR, (c) => c.f.st32(c.base, c.read(0, 4), S.MXCSR));
    m.set(OP.STMXCSR, (c) => c.write(0, ld.i32(c.base, S.MXCSR), 4));
  }
  return m;
}

/** Functions that semantics call, emitted into the main module. */
export function emitHelpers(m: Module, mem: MemFns): Record<string, FnRef> {
  return { ...emitFloat(m), ...emitPcmpstr(m), ...emitString(m, mem), ...emitXstate(m, mem) };
}
