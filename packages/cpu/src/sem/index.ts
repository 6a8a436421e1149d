// All semantics together.
import type { Semantic } from '../ctx.ts';
import type { FnRef, Module } from '../wasm/builder.ts';
import { emitFloat, floatSemantics } from './float.ts';
import { integerSemantics } from './integer.ts';

/** Every operation with a WebAssembly semantic; all others run in TypeScript. */
export function allSemantics(): Map<number, Semantic> {
  return new Map([...integerSemantics(), ...floatSemantics()]);
}

/** Functions that semantics call, emitted into the main module. */
export function emitHelpers(m: Module): Record<string, FnRef> {
  return emitFloat(m);
}
