import { describe, expect, it } from 'vitest';
import * as S from '../src/state.ts';
import { DATA, fault, JUMP, NEXT, Rig } from './system-rig.ts';

const mem = (op: number, rm: number, ...prefix: number[]): number[] => [
  ...prefix,
  0x0f,
  op,
  (rm << 3) | 4,
  0x25,
  0,
  0x60,
  0,
  0,
];
const FXSAVE = mem(0xae, 0);
const FXRSTOR = mem(0xae, 1);
const FXSAVE64 = mem(0xae, 0, 0x48);
const XSAVE = mem(0xae, 4);
const XRSTOR = mem(0xae, 5);
const XSAVEOPT = mem(0xae, 6);
const XSAVEC = mem(0xc7, 4);

function machine(cpl = 0): Rig {
  const r = new Rig().long(cpl);
  r.cpu.set(S.CR4, 0x40620);
  r.cpu.set(S.XCR0, 7);
  return r;
}

function fill(r: Rig): void {
  const c = r.cpu;
  c.set(S.FTOP, 5);
  c.set(S.FCW, 0x27f);
  c.set(S.FSW, 0x4100);
  c.set(S.FTW, 0xe0);
  c.set(S.FOP, 0x123);
  c.set64(S.FIP, 0x11223344, 0xffff8000);
  c.set64(S.FDP, 0x55667788, 0x1);
  c.set(S.FCS, 0x33);
  c.set(S.FDS, 0x2b);
  for (let n = 0; n < 8; n++) {
    c.set64(S.FPR + n * 16, 0x1000 + n, 0x80000000);
    c.set(S.FPR + n * 16 + 8, 0x3fff + n);
  }
  for (let o = 0; o < 256; o += 4) {
    c.set(S.XMM + o, 0xabc00000 + o);
    c.set(S.YMMH + o, 0xdef00000 + o);
  }
  c.set(S.UPPERS_ZERO, 0);
  c.set(S.MXCSR, 0x1fa0);
}
const fpu = (r: Rig): number[] => {
  const v: number[] = [];
  for (let o = S.FPR; o < S.YMMH + 256; o += 4) v.push(r.cpu.get(o));
  return v;
};
const request = (r: Rig, mask: number): void => {
  r.cpu.setR32(0, mask);
  r.cpu.setR32(2, 0);
};

describe('FXSAVE and FXRSTOR', () => {
  it('write registers relative to TOP, tags per physical register', () => {
    const r = machine();
    fill(r);
    expect(r.run(...FXSAVE)).toEqual(NEXT);
    expect([r.r16(DATA), r.r16(DATA + 2), r.r16(DATA + 4), r.r16(DATA + 6)]).toEqual([
      0x27f,
      0x4100 | (5 << 11),
      0xe0,
      0x123,
    ]);
    expect([r.r32(DATA + 8), r.r32(DATA + 12), r.r32(DATA + 16), r.r32(DATA + 20)]).toEqual([
      0x11223344, 0x33, 0x55667788, 0x2b,
    ]);
    expect([r.r32(DATA + 24), r.r32(DATA + 28)]).toEqual([0x1fa0, 0xffff]);
    expect([r.r32(DATA + 32), r.r16(DATA + 40), r.r32(DATA + 32 + 48)]).toEqual([0x1005, 0x4004, 0x1000]);
    expect([r.r32(DATA + 160), r.r32(DATA + 412)]).toEqual([0xabc00000, 0xabc000fc]);
    expect(r.run(...FXSAVE64)).toEqual(NEXT);
    expect([r.r64(DATA + 8), r.r64(DATA + 16)]).toEqual([0xffff800011223344n, 0x155667788n]);
  });
  it('round trip through another machine', () => {
    const a = machine();
    fill(a);
    a.run(...FXSAVE64);
    const b = machine();
    b.mem.set(a.mem.subarray(DATA, DATA + 512), DATA);
    expect(b.run(...mem(0xae, 1, 0x48))).toEqual(JUMP);
    const want = machine();
    fill(want);
    for (let o = 0; o < 256; o += 4) want.cpu.set(S.YMMH + o, 0);
    want.cpu.set(S.FCS, 0);
    want.cpu.set(S.FDS, 0);
    expect(fpu(b)).toEqual(fpu(want));
  });
  it.each([
    ['CR0.TS', (r: Rig) => r.cpu.set(S.CR0, 0x80000019), fault(S.EXC_NM)],
    ['CR0.EM', (r: Rig) => r.cpu.set(S.CR0, 0x80000015), fault(S.EXC_NM)],
    ['MXCSR reserved', (r: Rig) => r.w32(DATA + 24, 0x10000), fault(S.EXC_GP)],
    ['absent', (r: Rig) => r.absent.add(6), fault(S.EXC_PF, 0)],
  ])('FXRSTOR: %s', (_n, spoil, want) => {
    const r = machine();
    fill(r);
    spoil(r);
    const before = fpu(r);
    expect(r.run(...FXRSTOR)).toEqual(want);
    expect(fpu(r)).toEqual(before);
  });
  it('FXRSTOR and XRSTOR work out ES and B from the exceptions that are not masked', () => {
    for (const load of [FXRSTOR, XRSTOR])
      for (const [fcw, fsw, want] of [
        [0x37f, 0x8080, 0],
        [0x37f, 0x80bf, 0x3f],
        [0x37e, 0x0001, 0x8081],
        [0x37b, 0x0004, 0x8084],
      ] as const) {
        const r = machine();
        r.w32(DATA, fcw | (fsw << 16));
        r.w32(DATA + 24, 0x1f80);
        r.w32(DATA + 512, 1);
        request(r, 7);
        expect(r.run(...load)).toEqual(JUMP);
        expect(r.cpu.get(S.FSW)).toBe(want);
      }
  });
  it('needs 16-byte alignment', () => {
    expect(machine().run(0x0f, 0xae, 0x04, 0x25, 8, 0x60, 0, 0)).toEqual(fault(S.EXC_GP));
  });
  it('saves eight XMM registers outside 64-bit mode', () => {
    const r = new Rig().protected();
    r.cpu.set(S.CR4, 0x200);
    fill(r);
    r.w32(DATA + 160 + 128, 0x5555);
    expect(r.run(0x0f, 0xae, 0x05, 0, 0x60, 0, 0)).toEqual(NEXT);
    expect([r.r32(DATA + 160 + 124), r.r32(DATA + 160 + 128)]).toEqual([0xabc0007c, 0x5555]);
  });
});

describe('XSAVE family', () => {
  it('XSAVE writes what is asked for and merges XSTATE_BV', () => {
    const r = machine(3);
    fill(r);
    r.w32(DATA + 512, 2);
    request(r, 5);
    expect(r.run(...XSAVE)).toEqual(NEXT);
    expect([r.r32(DATA + 512), r.r32(DATA + 520)]).toEqual([7, 0]);
    expect([r.r32(DATA + 160), r.r32(DATA + 576), r.r32(DATA + 24)]).toEqual([0, 0xdef00000, 0x1fa0]);
  });
  it('XSAVEOPT leaves out initial components', () => {
    const r = machine();
    fill(r);
    for (let o = 0; o < 256; o += 4) r.cpu.set(S.XMM + o, 0);
    r.w32(DATA + 160, 0x77);
    request(r, 7);
    expect(r.run(...XSAVEOPT)).toEqual(NEXT);
    expect([r.r32(DATA + 512), r.r32(DATA + 160)]).toEqual([5, 0x77]);
  });
  it('XSAVEC writes the compacted format, and XRSTOR reads it', () => {
    const r = machine();
    fill(r);
    request(r, 6);
    expect(r.run(...XSAVEC)).toEqual(NEXT);
    expect([r.r64(DATA + 512), r.r64(DATA + 520)]).toEqual([6n, 0x8000000000000006n]);
    const b = machine();
    b.mem.set(r.mem.subarray(DATA, DATA + 832), DATA);
    request(b, 7);
    expect(b.run(...XRSTOR)).toEqual(JUMP);
    expect([b.cpu.get(S.XMM), b.cpu.get(S.YMMH + 252), b.cpu.get(S.MXCSR), b.cpu.get(S.FCW)]).toEqual([
      0xabc00000, 0xdef000fc, 0x1fa0, 0x37f,
    ]);
  });
  it('XRSTOR initialises what the image lacks and loads MXCSR from the standard format', () => {
    const r = machine();
    fill(r);
    r.w32(DATA + 24, 0x1f00);
    request(r, 7);
    expect(r.run(...XRSTOR)).toEqual(JUMP);
    expect([r.cpu.get(S.FCW), r.cpu.get(S.FTW), r.cpu.get(S.XMM), r.cpu.get(S.YMMH), r.cpu.get(S.MXCSR)]).toEqual([
      0x37f, 0, 0, 0, 0x1f00,
    ]);
  });
  it('XRSTOR touches only what is asked for', () => {
    const r = machine();
    fill(r);
    request(r, 1);
    expect(r.run(...XRSTOR)).toEqual(JUMP);
    expect([r.cpu.get(S.FCW), r.cpu.get(S.XMM), r.cpu.get(S.MXCSR)]).toEqual([0x37f, 0xabc00000, 0x1fa0]);
  });
  it.each([
    ['OSXSAVE off', (r: Rig) => r.cpu.set(S.CR4, 0x620), fault(S.EXC_UD)],
    ['TS', (r: Rig) => r.cpu.set(S.CR0, 0x80000019), fault(S.EXC_NM)],
    ['component not in XCR0', (r: Rig) => r.cpu.set(S.XCR0, 3), fault(S.EXC_GP)],
    ['reserved header bytes', (r: Rig) => r.w32(DATA + 528, 1), fault(S.EXC_GP)],
    ['XCOMP_BV in the standard format', (r: Rig) => r.w32(DATA + 520, 1), fault(S.EXC_GP)],
    ['compacted without the component', (r: Rig) => r.w64(DATA + 520, 0x8000000000000003n), fault(S.EXC_GP)],
    ['compacted with an unknown component', (r: Rig) => r.w64(DATA + 520, 0x800000000000000fn), fault(S.EXC_GP)],
    ['MXCSR', (r: Rig) => r.w32(DATA + 24, 0xffff0000), fault(S.EXC_GP)],
  ])('XRSTOR checks: %s', (_n, spoil, want) => {
    const r = machine();
    fill(r);
    request(r, 7);
    r.run(...XSAVE);
    spoil(r);
    const before = fpu(r);
    expect(r.run(...XRSTOR)).toEqual(want);
    expect(fpu(r)).toEqual(before);
  });
  it('faults on the AVX part alone before anything is loaded', () => {
    const r = machine();
    fill(r);
    request(r, 7);
    const at = [0xc0, 0x6d, 0, 0];
    expect(r.run(0x0f, 0xae, 0x24, 0x25, ...at)).toEqual(NEXT);
    r.absent.add(7);
    const before = fpu(r);
    expect(r.run(0x0f, 0xae, 0x2c, 0x25, ...at)).toEqual(fault(S.EXC_PF, 0));
    expect(fpu(r)).toEqual(before);
    request(r, 3);
    expect(r.run(0x0f, 0xae, 0x2c, 0x25, ...at)).toEqual(JUMP);
  });
  it('needs 64-byte alignment', () => {
    expect(machine().run(0x0f, 0xae, 0x24, 0x25, 0x10, 0x60, 0, 0)).toEqual(fault(S.EXC_GP));
  });
});

describe('XCR0', () => {
  it('XSETBV checks (SDM vol. 2, XSETBV)', () => {
    const r = machine();
    const set = (v: number, index = 0): ReturnType<Rig['run']> => {
      r.cpu.setR32(0, v);
      r.cpu.setR32(1, index);
      r.cpu.setR32(2, 0);
      return r.run(0x0f, 0x01, 0xd1);
    };
    for (const bad of [0, 2, 5, 8, 15]) expect(set(bad)).toEqual(fault(S.EXC_GP));
    expect(set(1, 1)).toEqual(fault(S.EXC_GP));
    for (const good of [1, 3, 7]) expect(set(good)).toEqual(JUMP);
    expect(r.cpu.get(S.XCR0)).toBe(7);
    r.cpu.set(S.CR4, 0x20);
    expect(set(1)).toEqual(fault(S.EXC_UD));
    expect(machine(3).run(0x0f, 0x01, 0xd1)).toEqual(fault(S.EXC_GP));
  });
  it('XGETBV gives XCR0, and with ECX = 1 what is in use', () => {
    const r = machine(3);
    const get = (index: number): number => {
      r.cpu.setR32(1, index);
      const got = r.run(0x0f, 0x01, 0xd0);
      return got.status < 0 ? -got.vector : r.cpu.r32(0);
    };
    r.cpu.set(S.FCW, 0x37f);
    r.cpu.set(S.FTW, 0);
    r.cpu.set(S.YMMH, 1);
    expect([get(0), get(1), get(2)]).toEqual([7, 4, -13]);
  });
});
