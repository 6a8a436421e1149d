// All semantics together.
import type { Semantic } from '../ctx.ts';
import type { FnRef, Module } from '../wasm/builder.ts';
import { integerSemantics } from './integer.ts';

/** Every operation with a WebAssembly semantic; all others run in TypeScript. */
export function allSemantics(): Map<number, Semantic> {
  return integerSemantics();
}

/** Functions that semantics call, emitted into the main module. */
export function emitHelpers(_m: Module): Record<string, FnRef> {
  return {};
}
