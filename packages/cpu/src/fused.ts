// Whether the host multiplies and adds with one rounding. WebAssembly's relaxed SIMD leaves it open, but answers the same
// for all code of a process; hosts with FMA units round once.
import { laneF, vf64 } from './sem/vec.ts';
import { cF64, F64, type Local, Module, simd } from './wasm/builder.ts';

/** Whether f32x4.relaxed_madd and f64x2.relaxed_madd round once here. False where there is no such instruction. */
export function fusedMultiplyAdd(): boolean {
  const m = new Module({ min: 1, max: 1, shared: true });
  const f = m.fn([F64], F64, 'fused');
  const x = vf64.splat((f.params[0] as Local).get);
  // (1 + 2^-52)² - (1 + 2^-51) is 2^-104, or 0 if the product is rounded first.
  f.emit(laneF(simd(0x107, [x, x, vf64.splat(cF64(-0x40100000, 2))]), 8, 0));
  try {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    const instance = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), { env: { memory } });
    return (instance.exports as { fused(x: number): number }).fused(1 + 2 ** -52) === 2 ** -104;
  } catch {
    return false;
  }
}
