// What switches AVX on and off, its registers' upper halves, and what CPUID says of its state. Intel SDM vol. 1 §13.2,
// §14.3; vol. 2 §2.4, §2.8.
import { Exit } from '@hyve/core';
import type { Asm } from '@hyve/x86/asm';
import { describe, expect, it } from 'vitest';
import { DATA, Machine } from './float-rig.ts';
import { createMachine, realMode } from './machine.ts';

const machine = new Machine();
const bytes =
  (...code: number[]) =>
  (a: Asm): Asm =>
    a.db(...code);
const VADDPS = bytes(0xc5, 0xf0, 0x58, 0xc2); // xmm0, xmm1, xmm2
const VZEROUPPER = bytes(0xc5, 0xf8, 0x77);
const VLDMXCSR = bytes(0xc5, 0xf8, 0xae, 0x14, 0x25, 0x00, 0x80, 0x00, 0x00); // [0x8000]
const ANDN = bytes(0xc4, 0xe2, 0x70, 0xf2, 0xc2); // eax, ecx, edx
const AESENC = bytes(0x66, 0x0f, 0x38, 0xdc, 0xc1);
const OSXSAVE = 0x40600n;
const NONE = -1;
const UD = 6;
const NM = 7;

describe('the switches of AVX', () => {
  it.each<[string, (a: Asm) => Asm, bigint, bigint, bigint, number]>([
    ['VADDPS', VADDPS, 0x31n, OSXSAVE, 7n, NONE],
    ['VADDPS without OSXSAVE', VADDPS, 0x31n, 0x600n, 7n, UD],
    ['VADDPS without XCR0.AVX', VADDPS, 0x31n, OSXSAVE, 3n, UD],
    ['VADDPS with TS', VADDPS, 0x39n, OSXSAVE, 7n, NM],
    ['VADDPS with TS, without OSXSAVE', VADDPS, 0x39n, 0x600n, 7n, UD],
    ['VADDPS with EM, which it does not know', VADDPS, 0x35n, OSXSAVE, 7n, NONE],
    ['VADDPS without OSFXSR, which it does not know', VADDPS, 0x31n, 0x40000n, 7n, NONE],
    ['VZEROUPPER without XCR0.AVX', VZEROUPPER, 0x31n, OSXSAVE, 3n, UD],
    ['VZEROUPPER with TS', VZEROUPPER, 0x39n, OSXSAVE, 7n, NM],
    ['VLDMXCSR without XCR0.AVX', VLDMXCSR, 0x31n, OSXSAVE, 3n, UD],
    ['ANDN without OSXSAVE, with TS', ANDN, 0x39n, 0x600n, 1n, NONE],
    ['AESENC with TS', AESENC, 0x39n, 0x600n, 1n, NM],
    ['AESENC with EM', AESENC, 0x35n, 0x600n, 1n, UD],
  ])('%s', (_, code, cr0, cr4, xcr0, vector) => {
    expect(machine.run(code, { cr0, cr4, xcr0 }).vector).toBe(vector);
  });

  it.each([
    ['VZEROUPPER', [0xc5, 0xf8, 0x77], UD],
    ['ANDN', [0xc4, 0xe2, 0x70, 0xf2, 0xc2], UD],
    ['LZCNT', [0xf3, 0x0f, 0xbd, 0xc1], NONE],
  ] as const)('%s in real mode', (_, code, vector) => {
    expect(inRealMode(Uint8Array.from(code))).toBe(vector);
  });
});

describe('registers', () => {
  /** YMM1 after an instruction, as eight double words; it was ones all over, as were YMM2 and memory. */
  const after = (...code: number[]): number[] => {
    const data = new Uint8Array(64).fill(0xff);
    const a = machine.run(
      (asm) =>
        asm
          .db(0xc5, 0xfc, 0x10, 0x0d, 0x00, 0x80, 0x00, 0x00) // vmovups ymm1, [0x8000]
          .db(0xc5, 0xfc, 0x28, 0xd1) // vmovaps ymm2, ymm1
          .db(...code)
          .db(0xc5, 0xfc, 0x11, 0x0d, 0x00, 0x80, 0x00, 0x00), // vmovups [0x8000], ymm1
      { cr4: OSXSAVE, xcr0: 7n, data },
    );
    expect(a.vector).toBe(NONE);
    const d = a.data(DATA, 32);
    return Array.from({ length: 8 }, (_, i) => new DataView(d.buffer, d.byteOffset).getUint32(4 * i, true));
  };
  const all = 0xffffffff;

  it('VEX.128 clears the upper half, legacy SSE leaves it alone (SDM vol. 1 §14.4.1)', () => {
    expect(after(0xc5, 0xf1, 0xef, 0xca)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]); // vpxor xmm1, xmm1, xmm2
    expect(after(0x66, 0x0f, 0xef, 0xca)).toEqual([0, 0, 0, 0, all, all, all, all]); // pxor xmm1, xmm2
    expect(after(0xc5, 0xf5, 0xef, 0xca)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]); // vpxor ymm1, ymm1, ymm2
    expect(after(0xc5, 0xf8, 0x77)).toEqual([all, all, all, all, 0, 0, 0, 0]); // vzeroupper
    expect(after(0xc5, 0xfc, 0x77)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]); // vzeroall
    expect(after(0xc5, 0xf9, 0x6e, 0xc8)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]); // vmovd xmm1, eax
  });

  it('XSAVE and XRSTOR carry them', () => {
    const data = Uint8Array.from({ length: 64 }, (_, i) => i);
    const save = [0x0f, 0xae, 0x25, 0x00, 0x50, 0x00, 0x00]; // xsave [0x5000]
    const restore = [0x0f, 0xae, 0x2d, 0x00, 0x50, 0x00, 0x00]; // xrstor [0x5000]
    const a = machine.run(
      (asm) =>
        asm
          .db(0xc5, 0xfc, 0x10, 0x0d, 0x00, 0x80, 0x00, 0x00)
          .db(0xc5, 0xfc, 0x10, 0x3d, 0x20, 0x80, 0x00, 0x00) // vmovups ymm7, [0x8020]
          .db(...save)
          .db(0xc5, 0xfc, 0x77)
          .db(...restore)
          .db(0xc5, 0xfc, 0x11, 0x0d, 0x40, 0x80, 0x00, 0x00)
          .db(0xc5, 0xfc, 0x11, 0x3d, 0x60, 0x80, 0x00, 0x00),
      { cr4: OSXSAVE, xcr0: 7n, data, gpr: [7, 0, 0, 0, 0x7000] },
    );
    expect(a.vector).toBe(NONE);
    expect(a.data(DATA + 64, 64)).toEqual(data);
    expect(a.data(0x5000 + 512, 4)).toEqual(Uint8Array.of(6, 0, 0, 0)); // x87 is as after FNINIT
    // Upper halves at 576, sixteen bytes each.
    expect(a.data(0x5000 + 576 + 16, 16)).toEqual(data.slice(16, 32));
    expect(a.data(0x5000 + 576 + 7 * 16, 16)).toEqual(data.slice(48, 64));
  });
});

describe('CPUID', () => {
  const leaf = (eax: number, ecx: number, xcr0: bigint): number[] => {
    const a = machine.run((asm) => asm.op('CPUID'), {
      cr4: OSXSAVE,
      xcr0,
      gpr: [eax, ecx, 0, 0, 0x7000],
    });
    return [0, 3, 1, 2].map((n) => a.gpr(n) >>> 0); // EAX EBX ECX EDX
  };

  it('sizes the XSAVE area by XCR0 (SDM vol. 2, leaf 0DH)', () => {
    expect(leaf(0xd, 0, 1n)).toEqual([7, 576, 832, 0]);
    expect(leaf(0xd, 0, 3n)).toEqual([7, 576, 832, 0]);
    expect(leaf(0xd, 0, 7n)).toEqual([7, 832, 832, 0]);
    expect(leaf(0xd, 1, 7n)).toEqual([3, 832, 0, 0]);
    expect(leaf(0xd, 2, 7n)).toEqual([256, 576, 0, 0]);
    expect(leaf(0xd, 3, 7n)).toEqual([0, 0, 0, 0]);
  });

  it('offers x86-64-v3 and the instructions for cryptography', () => {
    const [, , c1] = leaf(1, 0, 1n) as [number, number, number, number];
    const [, b7] = leaf(7, 0, 1n) as [number, number];
    const [, , cx] = leaf(0x80000001, 0, 1n) as [number, number, number];
    const has = (v: number, ...n: number[]): boolean[] => n.map((i) => ((v >>> i) & 1) !== 0);
    // PCLMULQDQ FMA MOVBE AES XSAVE OSXSAVE AVX F16C
    expect(has(c1, 1, 12, 22, 25, 26, 27, 28, 29)).not.toContain(false);
    // BMI1 AVX2 BMI2 ADX SHA
    expect(has(b7, 3, 5, 8, 19, 29)).not.toContain(false);
    // LZCNT; neither SSE4a nor XOP nor FMA4
    expect(has(cx, 5)).toEqual([true]);
    expect(has(cx, 6, 11, 16)).not.toContain(true);
    // No AVX-512.
    expect(has(b7, 16, 17, 21, 28, 30, 31)).not.toContain(true);
  });
});

/** Runs an instruction and HLT in real mode with AVX enabled; the vector that came, or -1. */
function inRealMode(code: Uint8Array): number {
  const { vm, vcpu } = createMachine();
  for (let v = 0; v < 32; v++) {
    vm.memory.write32(4 * v, 0x600 + v);
    vm.memory.write8(0x600 + v, 0xf4);
  }
  vm.memory.load(0x1000, code);
  vm.memory.write8(0x1000 + code.length, 0xf4);
  vcpu.setState({ ...realMode(vcpu, 0x1000), cr4: OSXSAVE, xcr0: 7n, rflags: 2n });
  expect(vcpu.run(1e9).reason).toBe(Exit.Halt);
  const rip = Number(vcpu.getState().rip);
  return rip >= 0x600 && rip < 0x640 ? rip - 0x601 : -1;
}
