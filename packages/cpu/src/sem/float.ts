// All floating-point and vector semantics in one map, and the functions they call.
import type { Semantic } from '../ctx.ts';
import type { FnRef, Module } from '../wasm/builder.ts';
import { avxSemantics } from './avx.ts';
import { bmiSemantics, emitBmi } from './bmi.ts';
import { cryptoSemantics, emitCrypto } from './crypto.ts';
import { emitF80 } from './f80.ts';
import { simdIntSemantics } from './simd-int.ts';
import { emitSoftFloat } from './softfloat.ts';
import { emitSse, sseFloatSemantics } from './sse.ts';
import { emitTranscendental } from './transcendental.ts';
import { emitX87, x87Semantics } from './x87.ts';

/** Semantics of x87, MMX, SSE and AVX instructions by OP id. */
export function floatSemantics(): Map<number, Semantic> {
  return new Map([
    ...x87Semantics(),
    ...simdIntSemantics(),
    ...sseFloatSemantics(),
    ...cryptoSemantics(),
    ...avxSemantics(),
    ...bmiSemantics(),
  ]);
}

/** Emits the functions that the semantics call by name. */
export function emitFloat(m: Module): Record<string, FnRef> {
  const soft = emitSoftFloat(m);
  const basic = emitF80(m, soft);
  const f80 = { ...basic, named: { ...basic.named, ...emitTranscendental(m, basic) } };
  return {
    ...soft.named,
    ...f80.named,
    ...emitX87(m, f80, soft.div128),
    ...emitSse(m, soft),
    ...emitCrypto(m),
    ...emitBmi(m),
  };
}
