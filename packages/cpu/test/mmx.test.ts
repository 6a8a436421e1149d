// MMX instructions: the x87 registers they live in, and the forms that differ from SSE.
import type { OpName } from '@hyve/x86';
import { mem32, mem64 } from '@hyve/x86/asm';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DATA, Machine } from './float-rig.ts';

const m = new Machine();
const hex = (v: bigint): string => v.toString(16);
const A = 0x8001_7fff_1234_fedcn;
const B = 0x0102_0304_8506_f708n;
const two = (op: OpName, a: bigint, b: bigint): bigint =>
  m.run((c) => c.op(op, 'mm0', 'mm1'), { mmx: { 0: a, 1: b } }).mmx(0);

describe('MMX state (SDM volume 3A 12.2)', () => {
  it('any instruction sets TOP to 0 and marks all registers in use; a written one gets exponent FFFF', () => {
    const a = m.run((c) => c.op('MOVQ', 'mm2', mem64(DATA)), { fsw: 0x2800, data: new Uint8Array(8).fill(0x11) });
    expect([a.fsw, a.ftw]).toEqual([0, 0xff]);
    expect(hex(a.st(2))).toBe('ffff1111111111111111');
  });
  it('EMMS empties the stack', () => {
    expect(m.run((c) => c.op('EMMS'), { mmx: { 0: A } }).ftw).toBe(0);
  });
  it('a faulting load changes nothing', () => {
    const a = m.run((c) => c.op('PADDB', 'mm0', mem64(DATA)), { cr0: 0x39n, fsw: 0x2800 });
    expect([a.vector, a.fsw]).toEqual([7, 0x2800]);
  });
});

describe('eight-byte forms', () => {
  it('unpacking, packing, horizontal operations', () => {
    expect(hex(two('PUNPCKLBW', A, B))).toBe(hex(0x85_12_06_34_f7_fe_08_dcn));
    expect(hex(two('PUNPCKHWD', A, B))).toBe(hex(0x0102_8001_0304_7fffn));
    expect(hex(two('PACKSSWB', A, B))).toBe(hex(0x7f_7f_80_80_80_7f_7f_80n));
    expect(hex(two('PHADDW', A, B))).toBe(hex(0x0406_7c0e_0000_1110n));
    expect(hex(two('PSADBW', 0x0102030405060708n, 0x0807060504030201n))).toBe(hex(32n));
    expect(hex(two('PSHUFB', 0x0706050403020100n, 0x8001_0c0f_0001_0203n))).toBe(hex(0x0001_0407_0001_0203n));
    expect(hex(m.run((c) => c.op('PALIGNR', 'mm0', 'mm1', 3), { mmx: { 0: A, 1: B } }).mmx(0))).toBe(
      hex((((A << 64n) | B) >> 24n) & ((1n << 64n) - 1n)),
    );
    expect(hex(m.run((c) => c.op('PSHUFW', 'mm0', 'mm1', 0x1b), { mmx: { 1: B } }).mmx(0))).toBe(
      hex(0xf708_8506_0304_0102n),
    );
  });
  it('PUNPCKL reads four bytes of memory only', () => {
    // Eight bytes would reach past the end of memory.
    const at = (1 << 20) - 4;
    expect(m.run((c) => c.op('PUNPCKLBW', 'mm0', mem32(at))).vector).toBe(-1);
  });
  it('shifts', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), fc.integer({ min: 0, max: 70 }), (a, n) => {
        const lanes = (op: (x: bigint) => bigint): bigint =>
          [0, 1, 2, 3].reduce(
            (v, i) => v | (BigInt.asUintN(16, op((a >> BigInt(16 * i)) & 0xffffn)) << BigInt(16 * i)),
            0n,
          );
        expect(two('PSLLW', a, BigInt(n))).toBe(n > 15 ? 0n : lanes((x) => x << BigInt(n)));
        expect(two('PSRAW', a, BigInt(n))).toBe(lanes((x) => BigInt.asIntN(16, x) >> BigInt(Math.min(n, 15))));
        expect(two('PSRLQ', a, BigInt(n))).toBe(n > 63 ? 0n : a >> BigInt(n));
      }),
      { numRuns: 40 },
    );
  });
  it('to and from other registers', () => {
    expect(
      m.run((c) => c.op('MOVD', 'mm0', 'eax').op('PMOVMSKB', 'ecx', 'mm1'), { gpr: { 0: -5 }, mmx: { 1: A } }).gpr(1),
    ).toBe(0b10010011);
    expect(m.run((c) => c.op('MOVD', 'mm0', 'eax'), { gpr: { 0: -5 } }).mmx(0)).toBe(0xfffffffbn);
    expect(
      m.run((c) => c.op('MOVQ2DQ', 'xmm0', 'mm1'), { mmx: { 1: A }, xmm: { 0: -1n & ((1n << 128n) - 1n) } }).xmm(0),
    ).toBe(A);
    expect(m.run((c) => c.op('MOVDQ2Q', 'mm1', 'xmm0'), { xmm: { 0: (7n << 64n) | B } }).mmx(1)).toBe(B);
    expect(m.run((c) => c.op('PINSRW', 'mm0', 'eax', 6), { mmx: { 0: 0n }, gpr: { 0: 0x4321 } }).mmx(0)).toBe(
      0x4321_0000_0000n,
    );
  });
});
