// Upper halves of YMM registers: translated code has those it needs in locals and knows when all are zero, so that VZEROUPPER
// and leaving a region have nothing to do; the interpreter has them in memory. Both must leave the same, whatever mode the
// code is of and whatever registers the other mode left behind. Intel SDM vol. 1 §14.1, vol. 2 VZEROUPPER.
import { Exit, type VcpuStateV1 } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import type { SoftVcpu, SoftVm } from '../src/index.ts';
import { createMachine, flat32, le32, numbers, runOn } from './machine.ts';

const CODE = 0x1000;
const DATA = 0x8000;
const TABLES = 0x10000;

/** VEX.256 or VEX.128 of `66.0F` or `0F`, operands reg, vvvv, rm: all register numbers below 8. */
const vex = (wide: boolean, pp: number, op: number, reg: number, v: number, rm: number): number[] => [
  0xc5,
  0x80 | ((~v & 15) << 3) | (wide ? 4 : 0) | pp,
  op,
  0xc0 | (reg << 3) | rm,
];
/** The same with [edi + disp8] or [rdi + disp8] as its last operand. */
const vexMem = (wide: boolean, pp: number, op: number, reg: number, v: number, disp: number): number[] => [
  0xc5,
  0x80 | ((~v & 15) << 3) | (wide ? 4 : 0) | pp,
  op,
  0x47 | (reg << 3),
  disp,
];

function instruction(r: (n: number) => number): number[] {
  const [a, b, c] = [r(8), r(8), r(8)];
  const wide = r(3) > 0;
  switch (r(12)) {
    case 0:
      return [0xc5, 0xf8, 0x77]; // vzeroupper
    case 1:
      return vex(wide, 1, [0xfe, 0xef, 0xdb, 0x74][r(4)] as number, a, b, c); // vpaddd, vpxor, vpand, vpcmpeqb
    case 2:
      return vexMem(wide, 2, 0x6f, a, 0, 32 * r(3)); // vmovdqu from memory
    case 3:
      return vexMem(wide, 2, 0x7f, a, 0, 32 * r(3)); // to memory
    case 4:
      return [0xc4, 0xe2, wide ? 0x7d : 0x79, 0x78, 0xc0 | (a << 3) | b]; // vpbroadcastb
    case 5:
      return [0xc4, 0xe3, 0x7d, 0x39, 0xc0 | (a << 3) | b, r(2)]; // vextracti128
    case 6:
      return [0xc4, 0xe3, 0x45 | ((~b & 7) << 3), 0x38, 0xc0 | (a << 3) | c, r(2)]; // vinserti128
    case 7:
      return [0x66, 0x0f, 0xfe, 0xc0 | (a << 3) | b]; // paddd, which keeps upper halves
    case 8:
      return vex(false, 3, 0x58, a, b, c); // vaddsd
    case 9:
      return [0xc5, 0x7d - (wide ? 0 : 4), 0xd7, 0xc0 | b].map((x, n) => (n === 1 ? x | 0x80 : x)); // vpmovmskb eax
    case 10:
      return [0x74 + r(2), 3, 0xc5, 0xf8, 0x77]; // jz or jnz over a vzeroupper
    default:
      return r(6) === 0 ? [0xc5, 0xfc, 0x77] : [0x85, 0xc0]; // vzeroall; test eax, eax
  }
}

/** Runs programs one after the other, each from the registers that the last one left, in one of the two modes. */
function bench(threshold: number): (bits: number, program: readonly number[], end?: number) => unknown {
  const { vm, vcpu } = createMachine({ cpu: { threshold } });
  vm.memory.write32(TABLES, (TABLES + 0x1000) | 7);
  vm.memory.write32(TABLES + 0x1000, (TABLES + 0x2000) | 7);
  vm.memory.write32(TABLES + 0x2000, 0x87);
  const flat = { ...flat32(vcpu, CODE), cr4: 0x40620n, xcr0: 7n };
  // Both modes have paging, so that only the code's size is another.
  const modes: Record<number, VcpuStateV1> = {};
  for (const bits of [32, 64])
    modes[bits] = {
      ...flat,
      cr0: 0x80000031n,
      cr3: BigInt(TABLES),
      efer: 0x500n,
      segments: flat.segments.map((g, n) => (n === 1 ? { ...g, attr: bits === 64 ? 0xa09b : 0xc09b } : g)),
    };
  return (bits, program, end = Exit.Halt) =>
    run(vm, vcpu, { ...(modes[bits] as VcpuStateV1), xsave: vcpu.getState().xsave }, program, end);
}
function run(vm: SoftVm, vcpu: SoftVcpu, state: VcpuStateV1, program: readonly number[], end: number): unknown {
  vm.memory.load(CODE, Uint8Array.from(program));
  vm.memory.load(
    DATA,
    Uint8Array.from({ length: 128 }, (_, n) => (n * 37) ^ 0x5a),
  );
  vcpu.setState({ ...state, gpr: state.gpr.map((_, n) => BigInt([1, 0, 0, 0, 0x7000, 0, 9, DATA][n] ?? 0)) });
  expect(runOn(vcpu)).toBe(end);
  const { xsave } = vcpu.getState();
  return { xsave: Array.from(xsave), data: Array.from({ length: 32 }, (_, n) => vm.memory.read32(DATA + 4 * n)) };
}

describe('upper halves of YMM registers', () => {
  it('are the same in both tiers', () => {
    const interpreted = bench(0);
    const translated = bench(1);
    for (let seed = 1; seed <= 120; seed++) {
      const r = numbers(seed * 977);
      const bits = r(4) === 0 ? 32 : 64;
      const body: number[] = [];
      // YMM15, which 32-bit code neither has nor clears, holds something now and then.
      if (bits === 64 && r(3) === 0) body.push(0xc5, 0x7e, 0x6f, 0x3f); // vmovdqu ymm15, [rdi]
      const length = 2 + r(20);
      for (let n = 0; n < length; n++) body.push(...instruction(r));
      body.push(0x83, 0xee, 0x01); // sub esi, 1; jnz
      const program = [...body, 0x0f, 0x85, ...le32(-(body.length + 6)), 0xf4];
      expect(translated(bits, program), `seed ${seed}`).toEqual(interpreted(bits, program));
    }
  });

  it.each([32, 64])('are cleared by code that does nothing else to them, %i-bit', (bits) => {
    const after = (threshold: number): unknown => {
      // CPUID and a jump, since no region has CPUID, keep apart: vmovdqu ymm2, [rdi]; and vextracti128 xmm2, ymm2, 0; sub esi, 1; jnz.
      const cpuid = [0x0f, 0xa2, 0xeb, 0];
      const body = [
        ...cpuid,
        ...vexMem(true, 2, 0x6f, 2, 0, 0),
        ...cpuid,
        0xc4,
        0xe3,
        0x7d,
        0x39,
        0xd2,
        0,
        0x83,
        0xee,
        1,
      ];
      return bench(threshold)(bits, [...body, 0x75, 256 - body.length - 2, 0xf4]);
    };
    const got = after(1) as { xsave: number[] };
    expect(got).toEqual(after(0));
    expect(got.xsave.slice(608, 624)).toEqual(new Array(16).fill(0));
  });

  it('are stored when a fault leaves the region', () => {
    const after = (threshold: number): unknown => {
      // vpaddd ymm1, ymm1, ymm2; vmovdqu ymm3, [rdi]; add edi, 4096; sub esi, 1; jnz: nothing is mapped at 2 MiB, and nobody
      // handles that.
      const body = [
        ...vex(true, 1, 0xfe, 1, 1, 2),
        ...vexMem(true, 2, 0x6f, 3, 0, 0),
        0x81,
        0xc7,
        ...le32(4096),
        0x83,
        0xee,
        1,
      ];
      const before = [0xbe, ...le32(1000), ...vexMem(true, 2, 0x6f, 2, 0, 0)];
      const program = [...before, ...body, 0x75, 256 - body.length - 2, 0xf4];
      return bench(threshold)(64, program, Exit.Shutdown);
    };
    const got = after(1) as { xsave: number[] };
    expect(got).toEqual(after(0));
    // 505 times what the first byte of the upper half is.
    expect(got.xsave[592]).toBe((((16 * 37) ^ 0x5a) * 505) & 255);
  });

  it.each([
    ['within a page', DATA + 0x400],
    ['across two', DATA + 0xe00],
  ])('that XRSTOR brings, %s, are cleared by the next VZEROUPPER', (_name, at) => {
    // vzeroupper; vmovdqu ymm1, [rdi]; mov eax, 7; xsave [at]; vzeroupper; xrstor [at]; vmovdqu [rdi+32], ymm1; vzeroupper;
    // vmovdqu [rdi+64], ymm1; sub esi, 1; jnz
    const image = [0x24, 0x25, ...le32(at)]; // /4
    const zero = [0xc5, 0xf8, 0x77];
    const body = [
      ...[...zero, ...vexMem(true, 2, 0x6f, 1, 0, 0), 0xb8, ...le32(7), 0x0f, 0xae, ...image],
      ...[...zero, 0x0f, 0xae, 0x2c, 0x25, ...le32(at), ...vexMem(true, 2, 0x7f, 1, 0, 32)],
      ...[...zero, ...vexMem(true, 2, 0x7f, 1, 0, 64), 0x31, 0xd2, 0x83, 0xee, 0x01],
    ];
    for (const threshold of [0, 1]) {
      const { data } = bench(threshold)(64, [0x31, 0xd2, ...body, 0x75, 256 - body.length - 2, 0xf4]) as {
        data: number[];
      };
      expect(data.slice(8, 16)).toEqual(data.slice(0, 8));
      expect(data.slice(16, 24)).toEqual([...data.slice(0, 4), 0, 0, 0, 0]);
    }
  });
});
