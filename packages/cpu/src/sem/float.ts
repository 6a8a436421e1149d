// All floating-point and vector semantics in one map, and the functions they call.
import type { Semantic } from '../ctx.ts';
import type { FnRef, Module } from '../wasm/builder.ts';
import { simdIntSemantics } from './simd-int.ts';
import { x87ControlSemantics } from './x87-control.ts';

/** Semantics of x87, MMX, SSE and AVX instructions by OP id. */
export function floatSemantics(): Map<number, Semantic> {
  return new Map([...simdIntSemantics(), ...x87ControlSemantics()]);
}

/** Emits the functions that the semantics call by name. */
export function emitFloat(_m: Module): Record<string, FnRef> {
  return {};
}
