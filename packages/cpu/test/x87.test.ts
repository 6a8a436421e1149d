// x87 instructions: stack, tags, exceptions, environments. Intel SDM volume 1 chapter 8.
import { mem, mem16, mem32, mem64 } from '@hyve/x86/asm';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DATA, Machine, operands } from './float-rig.ts';
import { arith, defaultNan, F32, F64, F80, infinity, type Mode, round } from './ieee-model.ts';

const m = new Machine();
const num = (v: number): bigint => {
  if (v === 0) return Object.is(v, -0) ? 1n << 79n : 0n;
  const d = new DataView(new ArrayBuffer(8));
  d.setFloat64(0, v);
  const bits = d.getBigUint64(0);
  const e = Number((bits >> 52n) & 0x7ffn);
  return (
    ((bits >> 63n) << 79n) | (BigInt(e - 1023 + 16383) << 64n) | (1n << 63n) | ((bits & ((1n << 52n) - 1n)) << 11n)
  );
};
const hex = (v: bigint): string => v.toString(16);
const INDEFINITE = defaultNan(F80);
const bytesOf = (v: bigint, n: number): Uint8Array =>
  Uint8Array.from({ length: n }, (_, i) => Number((v >> BigInt(8 * i)) & 0xffn));
const TOP = (fsw: number): number => (fsw >> 11) & 7;
const IE = 1;
const SF = 0x40;
const ES = 0x8080;

describe('stack', () => {
  it('loads decrement TOP and mark the register; stores with pop give it back', () => {
    const a = m.run((c) => c.op('FLD1').op('FLDZ').op('FLDPI'));
    expect([TOP(a.fsw), a.ftw]).toEqual([5, 0xe0]);
    expect([a.st(0), a.st(1), a.st(2)].map(hex)).toEqual(['4000c90fdaa22168c235', '0', '3fff8000000000000000']);
    const b = m.run((c) => c.op('FLD1').op('FSTP', mem64(DATA), 'st0'));
    expect([TOP(b.fsw), b.ftw]).toEqual([0, 0]);
    expect([...b.data(DATA, 8)]).toEqual([0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
  });
  it('overflow: IE, SF, C1 and the indefinite value when masked; nothing moves when not (8.5.1.1)', () => {
    const full = Array.from({ length: 8 }, () => num(1));
    const masked = m.run((c) => c.op('FLD1'), { st: full });
    expect(masked.fsw & 0x3ff).toBe(IE | SF | 0x200);
    expect([TOP(masked.fsw), hex(masked.st(0))]).toEqual([7, hex(INDEFINITE)]);
    const open = m.run((c) => c.op('FLD1'), { st: full, fcw: 0x37e });
    expect(open.fsw & 0x3ff).toBe(IE | SF | 0x200 | 0x80);
    expect([TOP(open.fsw), open.st(0)]).toEqual([0, num(1)]);
  });
  it('underflow: IE, SF, C1 clear; FADD gives the indefinite value', () => {
    const a = m.run((c) => c.op('FADD', 'st0', 'st1'), { st: [num(1)] });
    expect([a.fsw & 0x3ff, hex(a.st(0))]).toEqual([IE | SF, hex(INDEFINITE)]);
  });
  it('FXCH, FINCSTP, FDECSTP, FFREE', () => {
    const a = m.run((c) => c.op('FXCH', 'st0', 'st2'), { st: [num(1), num(2), num(3)] });
    expect([a.st(0), a.st(1), a.st(2)]).toEqual([num(3), num(2), num(1)]);
    const b = m.run((c) => c.op('FINCSTP'), { st: [num(1), num(2)] });
    expect([TOP(b.fsw), b.ftw, b.st(0)]).toEqual([1, 3, num(2)]);
    expect(TOP(m.run((c) => c.op('FDECSTP')).fsw)).toBe(7);
    expect(m.run((c) => c.op('FFREE', 'st1'), { st: [num(1), num(2)] }).ftw).toBe(1);
  });
  it('FCMOVcc by EFLAGS', () => {
    const st = [num(1), num(2)];
    expect(m.run((c) => c.op('STC').op('FCMOVB', 'st0', 'st1'), { st }).st(0)).toBe(num(2));
    expect(m.run((c) => c.op('CLC').op('FCMOVB', 'st0', 'st1'), { st }).st(0)).toBe(num(1));
    expect(m.run((c) => c.op('CLC').op('FCMOVNBE', 'st0', 'st1'), { st }).st(0)).toBe(num(2));
  });
});

describe('arithmetic', () => {
  it('all operand orders of subtraction and division', () => {
    const st = [num(10), num(4)];
    const top = (op: 'FSUB' | 'FSUBR' | 'FDIV' | 'FDIVR'): bigint => m.run((c) => c.op(op, 'st0', 'st1'), { st }).st(0);
    const twoFifths = arith(F80, 'div', num(4), num(10), { mode: 0, masks: 63 }).bits;
    expect([top('FSUB'), top('FSUBR'), top('FDIV'), top('FDIVR')]).toEqual([num(6), num(-6), num(2.5), twoFifths]);
    const other = (op: 'FSUB' | 'FSUBR'): bigint => m.run((c) => c.op(op, 'st1', 'st0'), { st }).st(1);
    expect([other('FSUB'), other('FSUBR')]).toEqual([num(-6), num(6)]);
    const popped = (op: 'FSUBP' | 'FSUBRP' | 'FDIVP'): bigint => m.run((c) => c.op(op, 'st1', 'st0'), { st }).st(0);
    expect([popped('FSUBP'), popped('FSUBRP'), popped('FDIVP')]).toEqual([num(-6), num(6), twoFifths]);
  });
  it('memory operands of all kinds', () => {
    const st = [num(10)];
    const data = (v: bigint, n: number): { st: bigint[]; data: Uint8Array } => ({ st, data: bytesOf(v, n) });
    expect(m.run((c) => c.op('FADD', 'st0', mem32(DATA)), data(0x40200000n, 4)).st(0)).toBe(num(12.5));
    expect(m.run((c) => c.op('FMUL', 'st0', mem64(DATA)), data(0x4004000000000000n, 8)).st(0)).toBe(num(25));
    expect(m.run((c) => c.op('FIADD', 'st0', mem16(DATA)), data(0xfffdn, 2)).st(0)).toBe(num(7));
    expect(m.run((c) => c.op('FIDIVR', 'st0', mem32(DATA)), data(0xffffffecn, 4)).st(0)).toBe(num(-2));
  });
  it('takes rounding and precision from the control word', () => {
    fc.assert(
      fc.property(
        operands(F80),
        operands(F80),
        fc.constantFrom<Mode>(0, 1, 2, 3),
        fc.constantFrom(0, 2, 3),
        fc.constantFrom('add', 'sub', 'mul', 'div'),
        (a, b, mode, pc, op) => {
          const precision = pc === 0 ? 24 : pc === 2 ? 53 : 64;
          const want = arith(F80, op, a, b, { mode, masks: 63, precision });
          const name = ({ add: 'FADD', sub: 'FSUB', mul: 'FMUL', div: 'FDIV' } as const)[op];
          const got = m.run((c) => c.op(name, 'st0', 'st1'), { st: [a, b], fcw: 0x3f | (pc << 8) | (mode << 10) });
          expect([op, hex(got.st(0)), got.fsw & 0x23f]).toEqual([op, hex(want.bits), want.flags]);
        },
      ),
      { numRuns: 600 },
    );
  });
  it('a denormal memory operand raises DE though its 80-bit form is normal', () => {
    const a = m.run((c) => c.op('FADD', 'st0', mem64(DATA)), { st: [num(1)], data: bytesOf(5n, 8) });
    expect(a.fsw & 0x3f).toBe(2 | 32);
    expect(m.run((c) => c.op('FLD', 'st0', mem64(DATA)), { data: bytesOf(5n, 8) }).fsw & 0x3f).toBe(2);
  });
});

describe('exceptions', () => {
  it('unmasked: ES and B at once, #MF at the next waiting instruction (8.7.1)', () => {
    const a = m.run((c) => c.op('FDIV', 'st0', 'st1').op('NOP').op('FNOP'), { st: [num(1), 0n], fcw: 0x37b });
    expect([a.vector, a.eip]).toEqual([16, 0x1003]);
    expect([a.fsw & 0xffff, a.st(0)]).toEqual([ES | 4, num(1)]);
    // FNINIT, FNCLEX, FNSTSW do not wait.
    const b = m.run((c) => c.op('FDIV', 'st0', 'st1').op('FNSTSW', 'ax').op('FNCLEX').op('FWAIT'), {
      st: [num(1), 0n],
      fcw: 0x37b,
    });
    expect([b.vector, b.gpr(0), b.fsw]).toEqual([-1, ES | 4, 0]);
  });
  it('MMX instructions wait too', () => {
    const a = m.run((c) => c.op('FDIV', 'st0', 'st1').op('EMMS'), { st: [num(1), 0n], fcw: 0x37b });
    expect(a.vector).toBe(16);
  });
  it('FLDCW that unmasks a pending flag sets ES', () => {
    const a = m.run((c) => c.op('FLDCW', mem16(DATA)), { fsw: 4, data: bytesOf(0x37bn, 2) });
    expect([a.fcw, a.fsw]).toEqual([0x37b, ES | 4]);
  });
  it('an unmasked overflow into a register delivers the result with a biased exponent (8.5.4)', () => {
    const big = (0x7ffen << 64n) | (1n << 63n);
    const a = m.run((c) => c.op('FMUL', 'st0', 'st1'), { st: [big, big], fcw: 0x377 });
    expect(hex(a.st(0))).toBe(hex((BigInt(0x7ffe + 0x3fff - 24576) << 64n) | (1n << 63n)));
    expect(a.fsw & 0x3f).toBe(8);
  });
  it('an unmasked overflow into memory stores and pops nothing', () => {
    const big = (0x7ffen << 64n) | (1n << 63n);
    const a = m.run((c) => c.op('FSTP', mem64(DATA), 'st0'), { st: [big], fcw: 0x377, data: bytesOf(0x1234n, 8) });
    expect([a.data(DATA, 2)[0], a.ftw, a.fsw & 0x3f]).toEqual([0x34, 1, 8]);
  });
  it('FWAIT raises #NM with TS and MP', () => {
    expect(m.run((c) => c.op('FWAIT'), { cr0: 0x3bn }).vector).toBe(7);
    expect(m.run((c) => c.op('FWAIT'), { cr0: 0x39n }).vector).toBe(-1);
  });
});

describe('comparison', () => {
  const cc = (fsw: number): number => fsw & 0x4500;
  it('FCOM, FUCOM, FTST set C3, C2, C0', () => {
    const run = (a: number, b: number): number =>
      cc(m.run((c) => c.op('FCOM', 'st0', 'st1'), { st: [num(a), num(b)] }).fsw);
    expect([run(2, 1), run(1, 2), run(1, 1)]).toEqual([0, 0x100, 0x4000]);
    const q = m.run((c) => c.op('FUCOM', 'st0', 'st1'), { st: [INDEFINITE, num(1)] });
    expect([cc(q.fsw), q.fsw & 0x3f]).toEqual([0x4500, 0]);
    expect(m.run((c) => c.op('FCOM', 'st0', 'st1'), { st: [INDEFINITE, num(1)] }).fsw & 0x3f).toBe(IE);
    expect(cc(m.run((c) => c.op('FTST'), { st: [num(-1)] }).fsw)).toBe(0x100);
  });
  it('FCOMI sets ZF, PF, CF and clears OF, SF, AF', () => {
    const flags = (a: bigint, b: bigint): number =>
      m.run((c) => c.op('FUCOMI', 'st0', 'st1'), { st: [a, b] }).flags & 0x8d5;
    expect([flags(num(2), num(1)), flags(num(1), num(2)), flags(num(1), num(1)), flags(INDEFINITE, num(1))]).toEqual([
      0, 1, 0x40, 0x45,
    ]);
  });
  it('FCOMPP pops twice', () => {
    expect(m.run((c) => c.op('FCOMPP'), { st: [num(1), num(2)] }).ftw).toBe(0);
  });
  it('FXAM tells classes apart', () => {
    const run = (v: bigint): number => m.run((c) => c.op('FXAM'), { st: [v] }).fsw & 0x4700;
    expect(run(num(-1))).toBe(0x600);
    expect(run(0n)).toBe(0x4000);
    expect(run(infinity(F80, 0n))).toBe(0x500);
    expect(run(INDEFINITE)).toBe(0x300);
    expect(run(5n)).toBe(0x4400);
    expect(run(0x3fffn << 64n)).toBe(0);
    expect(m.run((c) => c.op('FXAM')).fsw & 0x4500).toBe(0x4100);
  });
});

describe('loads and stores', () => {
  it('FILD and FISTP of all sizes; FISTTP truncates', () => {
    const a = m.run((c) => c.op('FILD', 'st0', mem64(DATA)).op('FISTP', mem64(DATA + 16), 'st0'), {
      data: bytesOf(0xfedcba9876543210n, 8),
    });
    expect([...a.data(DATA + 16, 8)]).toEqual([...bytesOf(0xfedcba9876543210n, 8)]);
    expect([...m.run((c) => c.op('FISTP', mem16(DATA), 'st0'), { st: [num(2.5)] }).data(DATA, 2)]).toEqual([2, 0]);
    expect([...m.run((c) => c.op('FISTTP', mem32(DATA), 'st0'), { st: [num(-3.99)] }).data(DATA, 4)]).toEqual([
      0xfd, 0xff, 0xff, 0xff,
    ]);
    const bad = m.run((c) => c.op('FIST', mem16(DATA), 'st0'), { st: [num(40000)] });
    expect([[...bad.data(DATA, 2)], bad.fsw & 0x3f, bad.ftw]).toEqual([[0, 0x80], IE, 1]);
  });
  it('FBSTP and FBLD', () => {
    const a = m.run((c) => c.op('FBSTP', mem(DATA), 'st0').op('FBLD', 'st0', mem(DATA)), { st: [num(-12345678)] });
    expect([...a.data(DATA, 10)]).toEqual([0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 0, 0x80]);
    expect(a.st(0)).toBe(num(-12345678));
  });
  it('FST m32 and m64 round as the control word says, also where the range of normal numbers begins and ends', () => {
    const exponents = [
      0x3c00, 0x3c01, 0x3c02, 0x3f80, 0x3f81, 0x3f82, 0x3fff, 0x4005, 0x407d, 0x407e, 0x407f, 0x43fd, 0x43fe,
    ];
    const fractions = fc.oneof(
      fc.bigInt({ min: 0n, max: (1n << 63n) - 1n }),
      // Ties, and carries into the exponent.
      fc.constantFrom(
        0n,
        0x400n,
        0xc00n,
        1n << 39n,
        3n << 39n,
        (1n << 63n) - 1n,
        (1n << 63n) - 0x400n,
        (1n << 63n) - (1n << 39n),
      ),
    );
    fc.assert(
      fc.property(
        fractions,
        fc.constantFrom<Mode>(0, 1, 2, 3),
        fc.constantFrom(...exponents),
        fc.constantFrom(0n, 1n),
        fc.constantFrom(4, 8),
        (frac, mode, e, s, size) => {
          const v = (s << 79n) | (BigInt(e) << 64n) | (1n << 63n) | frac;
          const want = round(size === 8 ? F64 : F32, s, (1n << 63n) | frac, e - 16383 - 63, false, { mode, masks: 63 });
          const a = m.run((c) => c.op('FST', size === 8 ? mem64(DATA) : mem32(DATA), 'st0'), {
            st: [v],
            fcw: 0x33f | (mode << 10),
          });
          const what = `${size} ${v.toString(16)} ${mode}`;
          expect([what, ...a.data(DATA, size)]).toEqual([what, ...bytesOf(want.bits, size)]);
          expect([what, a.fsw & 0x23f]).toEqual([what, want.flags]);
        },
      ),
      { numRuns: 1000 },
    );
  });
  it('constants follow the rounding mode (SDM FLD1)', () => {
    const run = (op: 'FLDPI' | 'FLDL2E' | 'FLDL2T' | 'FLDLG2' | 'FLDLN2', mode: number): number =>
      Number(m.run((c) => c.op(op), { fcw: 0x33f | (mode << 10) }).st(0) & 0xfffn);
    expect([0, 1, 2, 3].map((r) => run('FLDPI', r).toString(16))).toEqual(['235', '234', '235', '234']);
    expect([0, 1, 2, 3].map((r) => run('FLDL2T', r).toString(16))).toEqual(['afe', 'afe', 'aff', 'afe']);
    expect([0, 2, 3].map((r) => run('FLDL2E', r).toString(16))).toEqual(['bc', 'bc', 'bb']);
    expect([0, 3].map((r) => run('FLDLG2', r).toString(16))).toEqual(['799', '798']);
    expect([0, 3].map((r) => run('FLDLN2', r).toString(16))).toEqual(['9ac', '9ab']);
  });
});

describe('environment', () => {
  it('FNSTENV, 32-bit protected format: words, tags, pointers; all exceptions masked afterwards', () => {
    const a = m.run((c) => c.op('FLD', 'st0', mem32(DATA)).op('FNSTENV', mem(DATA + 64)), {
      st: [num(1), 0n, infinity(F80, 0n)],
      fcw: 0x372,
      data: bytesOf(0x3f800000n, 4),
    });
    const d = new DataView(a.data(DATA + 64, 28).buffer);
    expect(d.getUint32(0, true)).toBe(0xffff0372);
    expect(d.getUint32(4, true)).toBe(0xffff3800);
    // R7 valid, R0 valid, R1 zero, R2 special, the rest empty.
    expect(d.getUint32(8, true)).toBe(0xffff0000 + 0b00_11_11_11_11_10_01_00);
    expect(d.getUint32(12, true)).toBe(0x1000);
    expect(d.getUint32(16, true) >>> 16).toBe(0x105);
    expect(d.getUint32(20, true)).toBe(DATA);
    expect(a.fcw).toBe(0x37f);
  });
  it('FNSAVE and FRSTOR bring everything back; FNSAVE initializes', () => {
    const st = [num(3), num(-7), INDEFINITE];
    const a = m.run((c) => c.op('FNSAVE', mem(DATA)), { st, fcw: 0x27f, fsw: 0x1900 });
    expect([a.fcw, a.fsw, a.ftw]).toEqual([0x37f, 0, 0]);
    const b = m.run((c) => c.op('FNSAVE', mem(DATA)).op('FRSTOR', mem(DATA)), { st, fcw: 0x27f, fsw: 0x1900 });
    expect([b.fcw, b.fsw, b.ftw]).toEqual([0x27f, 0x1900, 0b00111000]);
    expect([0, 1, 2].map((n) => b.st(n))).toEqual(st);
  });
  it('FNINIT', () => {
    const a = m.run((c) => c.op('FNINIT'), { st: [num(1)], fcw: 0, fsw: 0x3f });
    expect([a.fcw, a.fsw, a.ftw, a.fop, a.fip]).toEqual([0x37f, 0, 0, 0, 0]);
  });
  it('records FIP, FOP and FDP; control instructions leave them', () => {
    const a = m.run((c) => c.op('NOP').op('FLD', 'st0', mem64(DATA)).op('FNSTCW', mem16(DATA)));
    expect([a.fip, a.fop, a.fdp]).toEqual([0x1001, 0x505, DATA]);
  });
});

describe('the rest', () => {
  it('FPREM reduces, FSCALE scales, FXTRACT splits, FSQRT, FRNDINT', () => {
    expect(m.run((c) => c.op('FPREM'), { st: [num(17), num(5)] }).st(0)).toBe(num(2));
    expect(m.run((c) => c.op('FPREM1'), { st: [num(18), num(5)] }).st(0)).toBe(num(-2));
    expect(m.run((c) => c.op('FSCALE'), { st: [num(1.5), num(3.7)] }).st(0)).toBe(num(12));
    const x = m.run((c) => c.op('FXTRACT'), { st: [num(-24)] });
    expect([x.st(0), x.st(1), TOP(x.fsw)]).toEqual([num(-1.5), num(4), 7]);
    expect(m.run((c) => c.op('FSQRT'), { st: [num(6.25)] }).st(0)).toBe(num(2.5));
    expect(m.run((c) => c.op('FRNDINT'), { st: [num(2.5)] }).st(0)).toBe(num(2));
  });
  it('FCHS and FABS touch the sign of anything', () => {
    expect(hex(m.run((c) => c.op('FCHS'), { st: [INDEFINITE] }).st(0))).toBe(hex(INDEFINITE ^ (1n << 79n)));
    expect(m.run((c) => c.op('FABS'), { st: [num(-0)] }).st(0)).toBe(0n);
  });
  it('FSINCOS pushes the cosine, FPTAN 1.0; C2 for large operands leaves the stack', () => {
    const a = m.run((c) => c.op('FSINCOS'), { st: [num(0)] });
    expect([a.st(0), a.st(1)]).toEqual([num(1), 0n]);
    const b = m.run((c) => c.op('FPTAN'), { st: [num(2 ** 63)] });
    expect([b.fsw & 0x400, b.st(0), TOP(b.fsw)]).toEqual([0x400, num(2 ** 63), 0]);
  });
  it('random instruction bytes D8–DF never do harm', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0xd8, max: 0xdf }),
        fc.integer({ min: 0xc0, max: 0xff }),
        operands(F80),
        operands(F80),
        (op, rm, a, b) => {
          const r = m.run((c) => c.db(op, rm), { st: [a, b] });
          expect([-1, 6, 16]).toContain(r.vector);
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('a pending error and a segment that faults', () => {
  it.each([
    ['FLD', [0x64, 0xd9, 0x05, 0, 0, 0, 0], 16],
    ['PADDB', [0x64, 0x0f, 0xfc, 0x05, 0, 0, 0, 0], 16],
    ['CVTPS2PI', [0x64, 0x0f, 0x2d, 0x05, 0, 0, 0, 0], 16],
    ['FNSTENV, which does not wait', [0x64, 0xd9, 0x35, 0, 0, 0, 0], 13],
  ])('%s', (_, code, vector) => {
    const noFs = [0x31, 0xc0, 0x8e, 0xe0]; // xor eax, eax; mov fs, ax
    const divide = [0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9]; // fld1; fldz; fdivp
    const r = new Machine().run((a) => a.db(...noFs, ...divide, ...code), { fcw: 0x37b });
    expect(r.vector).toBe(vector);
  });
});
