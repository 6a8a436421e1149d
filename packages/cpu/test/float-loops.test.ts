// Floating point in loops: regions keep XMM registers in locals and know of some that they are not denormal. The interpreter,
// which keeps nothing, must come to the same registers and flags.
import { mem8, mem32, mem64, mem128, ref } from '@hyve/x86/asm';
import { describe, expect, it } from 'vitest';
import { DATA, Machine } from './float-rig.ts';

const bits = (...v: number[]): Uint8Array => new Uint8Array(Float64Array.from(v).buffer);
const low = (x: number): bigint => new DataView(bits(x).buffer).getBigUint64(0, true);

/** Multiplier, addend, start: growth, decay into denormals, zeros, infinities, NaNs, exact and inexact results. */
const CASES: readonly (readonly [number, number, number])[] = [
  [1.0000001, 0.1, 1],
  [0.5, 0, 1],
  [0.25, 5e-324, 3],
  [0.5, 1e-310, 1],
  [0.75, -1e-308, 1e-300],
  [2, 1, 1e300],
  [-2, 0.5, 1],
  [0, 0, 1],
  [-0, 0, 1],
  [Number.POSITIVE_INFINITY, 1, 1],
  [Number.NaN, 1, 1],
  [1, 1, 0],
  [0.3, 2 ** -1022, 2 ** -1000],
];

describe('floating point in loops', () => {
  const interpreted = new Machine(0);
  const translated = new Machine(1);
  for (const mxcsr of [0x1f80, 0x1fa0, 0x9fc0, 0x7fa0])
    it(`comes to the same with MXCSR ${mxcsr.toString(16)}`, () => {
      for (const [mul, add, start] of CASES) {
        const run = (m: Machine) =>
          m.run(
            (a) =>
              a
                .label('again')
                .op('MULSD', 'xmm0', mem64(DATA))
                .op('ADDSD', 'xmm0', mem64(DATA + 8))
                .op('MOVAPD', 'xmm1', 'xmm0')
                .op('SUBSD', 'xmm1', 'xmm2')
                .op('MAXSD', 'xmm2', 'xmm1')
                .op('CVTSD2SS', 'xmm3', 'xmm0')
                .op('CVTSS2SD', 'xmm4', 'xmm3')
                .op('DIVSD', 'xmm4', 'xmm0')
                .op('SQRTSD', 'xmm5', 'xmm4')
                .op('ADDPD', 'xmm6', 'xmm5')
                .op('UNPCKLPD', 'xmm6', 'xmm0')
                .op('MOVUPD', mem128(DATA + 32), 'xmm6')
                .op('MOVHPD', 'xmm7', mem64(DATA + 32))
                .op('LOOP', ref('again')),
            {
              gpr: [0, 1200, 0, 0, 0x7000],
              xmm: { 0: low(start), 2: low(0.5) },
              mxcsr,
              data: bits(mul, add),
            },
          );
        const a = run(interpreted);
        const b = run(translated);
        const what = `${mul} ${add} ${start}`;
        expect(b.mxcsr, what).toBe(a.mxcsr);
        for (let n = 0; n < 8; n++) expect(b.xmm(n), `xmm${n}, ${what}`).toBe(a.xmm(n));
        expect(b.data(DATA + 32, 16), what).toEqual(a.data(DATA + 32, 16));
        expect(b.gpr(1)).toBe(0);
      }
    });
  it('knows of a float after a branch only what is so on both ways', () => {
    // Rounds with an even count take one float from memory, the others another one, and make the one that they do not take.
    // What is taken is denormal only in the last rounds, when a region runs that has seen no denormal.
    const rounds = 400;
    for (const [even, odd, where] of [
      [1.5, 2.5, 0],
      [5e-324, 2.5, 0],
      [5e-324, 2.5, 1],
      [1.5, -1e-310, 0],
      [1.5, -1e-310, 1],
      [0, 3, 1],
      [5e-324, 2.5, 2],
      [5e-324, 2.5, 3],
    ] as const) {
      const values = Array.from({ length: 4 * (rounds + 1) }, () => 1.5);
      for (let k = 1; k <= 100; k++) values[where * (rounds + 1) + k] = k % 2 === 0 ? even : odd;
      const run = (m: Machine) =>
        m.run(
          (a) => {
            a.label('again');
            // Twice the same: where two ways meet may be where a region begins, but not both times.
            for (const n of [0, 1]) {
              const taken = mem64({ index: 'ecx', scale: 8, disp: DATA + 8 * n * (rounds + 1) });
              a.op('MOVAPD', 'xmm3', 'xmm2')
                .op('ADDSD', 'xmm3', 'xmm2')
                .op('MOVSD', 'xmm4', mem64({ index: 'ecx', scale: 8, disp: DATA + 8 * (n + 2) * (rounds + 1) }))
                .op('TEST', 'cl', 1)
                .j('nz', `made${n}`)
                .op('MOVSD', 'xmm0', taken)
                .op('ADDSD', 'xmm1', 'xmm4')
                .op('JMP', ref(`both${n}`))
                .label(`made${n}`)
                .op('MOVSD', 'xmm3', taken)
                .op('MOVAPD', 'xmm4', 'xmm2')
                .op('ADDSD', 'xmm4', 'xmm2')
                .op('MOVAPD', 'xmm0', 'xmm2')
                .op('ADDSD', 'xmm0', 'xmm2')
                .label(`both${n}`)
                .op('ADDSD', 'xmm1', 'xmm0')
                .op('DIVSD', 'xmm1', 'xmm2')
                .op('ADDSD', 'xmm1', 'xmm3');
            }
            return a.op('DEC', 'ecx').j('nz', 'again');
          },
          {
            gpr: [0, rounds, 0, 0, 0x7000],
            xmm: { 0: low(1), 1: low(2), 2: low(1.25) },
            mxcsr: 0x1fa0,
            data: bits(...values),
          },
        );
      const a = run(interpreted);
      const b = run(translated);
      const what = `${even} ${odd} ${where}`;
      expect(a.mxcsr & 2, what).toBe([even, odd].some((x) => x !== 0 && Math.abs(x) < 1e-300) ? 2 : 0);
      expect(b.mxcsr, what).toBe(a.mxcsr);
      for (let n = 0; n < 5; n++) expect(b.xmm(n), `xmm${n}, ${what}`).toBe(a.xmm(n));
    }
  });
  it('computes at the edges of what the quick look at exponents takes', () => {
    // Factors of two around where two bits of an exponent begin and cease to differ, and where products leave the range.
    const doubles = [-1022, -1021, -512, -511, -510, -1, 0, 1, 511, 512, 513, 1023].flatMap((e) => [
      2 ** e,
      -1.75 * 2 ** e,
    ]);
    for (const x of [...doubles, 0, 5e-324, Number.POSITIVE_INFINITY, Number.NaN])
      for (const y of [...doubles, 0, -5e-324, Number.NEGATIVE_INFINITY]) {
        const run = (m: Machine) =>
          m.run(
            (a) => {
              for (const [i, op] of (['ADD', 'SUB', 'MUL', 'DIV'] as const).entries()) {
                a.op('MOVUPD', 'xmm4', mem128(DATA)).op(`${op}PD`, 'xmm4', mem128(DATA + 16));
                a.op('MOVUPD', mem128(DATA + 64 + 16 * i), 'xmm4');
                a.op('MOVSD', 'xmm5', mem64(DATA)).op(`${op}SD`, 'xmm5', mem64(DATA + 16));
                a.op('MOVSD', mem64(DATA + 128 + 8 * i), 'xmm5').op('STMXCSR', mem32(DATA + 160 + 4 * i));
              }
              return a
                .op('CVTSD2SS', 'xmm6', mem64(DATA))
                .op('CVTSD2SS', 'xmm7', mem64(DATA + 16))
                .op('MULPS', 'xmm6', 'xmm7');
            },
            {
              mxcsr: 0x1fa0,
              data: bits(x, 1.5, y, 3),
              xmm: { 7: 0x3f8000003f8000003f8000003f800000n, 6: 0x3f8000003f8000003f8000003f800000n },
            },
          );
        const a = run(interpreted);
        const b = run(translated);
        const what = `${x} ${y}`;
        expect(b.data(DATA + 64, 112), what).toEqual(a.data(DATA + 64, 112));
        expect(b.xmm(6), what).toBe(a.xmm(6));
        expect(b.mxcsr, what).toBe(a.mxcsr);
        const got = new Float64Array(b.data(DATA + 128, 32).slice().buffer);
        expect([...got], what).toEqual([x + y, x - y, x * y, x / y]);
      }
  });
  it('leaves registers as they were where a load in a loop faults', () => {
    // In the eighth round the address is no multiple of 16.
    const run = (m: Machine) =>
      m.run(
        (a) =>
          a
            .label('again')
            .op('ADDSD', 'xmm0', 'xmm1')
            .op('MULSD', 'xmm1', 'xmm0')
            .op('PADDD', 'xmm2', 'xmm3')
            .op('ADDPS', 'xmm4', mem128({ base: 'edx', disp: DATA }))
            .op('SHR', 'edx', 1)
            .op('JMP', ref('again')),
        { gpr: [0, 0, 0x400, 0, 0x7000], xmm: { 0: low(1.5), 1: low(0.7), 3: 0x100000002n }, mxcsr: 0x1fa0 },
      );
    const a = run(interpreted);
    const b = run(translated);
    expect([a.vector, b.vector]).toEqual([13, 13]);
    expect(b.eip).toBe(a.eip);
    for (let n = 0; n < 5; n++) expect(b.xmm(n)).toBe(a.xmm(n));
  });
  it('gives every condition after a comparison, and the flags themselves', () => {
    const values = [0, -0, 1, -1, 2, 5e-324, Number.NaN, Number.POSITIVE_INFINITY];
    const conditions = [
      'o',
      'no',
      'b',
      'nb',
      'z',
      'nz',
      'be',
      'nbe',
      's',
      'ns',
      'p',
      'np',
      'l',
      'nl',
      'le',
      'nle',
    ] as const;
    for (const x of values)
      for (const y of values) {
        const run = (m: Machine) =>
          m.run(
            (a) => {
              a.op('COMISD', 'xmm0', 'xmm1');
              for (const [i, cc] of conditions.entries()) a.set(cc, mem8(DATA + i));
              return a.op('INC', 'ecx').op('UCOMISD', 'xmm1', 'xmm0').op('PUSHF').op('ADC', 'edx', 0);
            },
            { xmm: { 0: low(x), 1: low(y) } },
          );
        const un = Number.isNaN(x) || Number.isNaN(y);
        const [b, z, p] = [un || x < y, un || x === y, un];
        const after = run(translated);
        const direct = [false, b, z, b || z, false, p, false, z];
        const want = direct.flatMap((v) => [v ? 1 : 0, v ? 0 : 1]);
        expect([...after.data(DATA, 16)], `${x} ${y}`).toEqual(want);
        const other = run(interpreted);
        expect([...other.data(DATA, 16)]).toEqual(want);
        expect(after.data(0x6ffc, 4), `${x} ${y}`).toEqual(other.data(0x6ffc, 4));
        expect(after.gpr(2)).toBe(un || y < x ? 1 : 0);
      }
  });

  it('counts down by LOOPE and LOOPNE after a comparison, whose flags stay pending', () => {
    for (const [op, other, rounds] of [
      ['LOOPE', 1, 1200],
      ['LOOPE', 2, 1],
      ['LOOPNE', 2, 1200],
      ['LOOPNE', 1, 1],
    ] as const)
      for (const m of [interpreted, translated]) {
        const end = m.run(
          (a) =>
            a
              .label('again')
              .op('LEA', 'ebx', mem32({ base: 'ebx', disp: 1 }))
              .op('UCOMISD', 'xmm0', 'xmm1')
              .op(op, ref('again')),
          { gpr: [0, 1200, 0, 0, 0x7000], xmm: { 0: low(1), 1: low(other) }, mxcsr: 0x1f80, data: bits() },
        );
        expect([op, other, end.gpr(3)]).toEqual([op, other, rounds]);
      }
  });
});
