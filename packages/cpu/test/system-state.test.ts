import { OP } from '@hyve/x86';
import { describe, expect, it } from 'vitest';
import * as S from '../src/state.ts';
import { SystemUnit } from '../src/system/system.ts';
import { Rig } from './system-rig.ts';

const RUN = { activity: 'running', interruptShadow: false, nmiBlocked: false, nmiPending: false } as const;

describe('reset (SDM vol. 3A table 10-1)', () => {
  it('power-on', () => {
    const r = new Rig();
    const c = r.cpu;
    expect([r.rip, c.sel(S.CS), c.segBase(S.CS), c.limit(S.CS), c.attr(S.CS)]).toEqual([
      0xfff0, 0xf000, 0xffff0000, 0xffff, 0x9b,
    ]);
    expect([c.get(S.CR0), c.get(S.CR4), c.get(S.EFER), c.flags(), c.cpl]).toEqual([0x60000010, 0, 0, 2, 0]);
    expect([c.r32(0), c.r32(2)]).toEqual([0, r.signature]);
    expect([c.get(S.DR + 48), c.get(S.DR + 56), c.get(S.XCR0)]).toEqual([0xffff0ff0, 0x400, 1]);
    expect([c.get(S.FCW), c.get(S.MXCSR), c.get(S.PAT), c.getHi(S.PAT)]).toEqual([
      0x40, 0x1f80, 0x00070406, 0x00070406,
    ]);
    expect([c.limit(S.TR), c.attr(S.TR), c.attr(S.LDTR), c.get(S.IDT_LIMIT)]).toEqual([0xffff, 0x8b, 0x82, 0xffff]);
  });
  it('INIT keeps FPU, MSRs, XCR0, TSC and the cache bits', () => {
    const r = new Rig().long();
    const c = r.cpu;
    c.set(S.FCW, 0x37f);
    c.set(S.XMM, 5);
    c.set(S.XCR0, 7);
    c.set(S.LSTAR, 9);
    c.set(S.CR0, 0xc0000011);
    c.set(S.TSC_OFFSET, 99);
    r.unit.reset('init');
    expect([c.get(S.CR0), r.rip, c.get(S.EFER), c.longMode]).toEqual([0x40000010, 0xfff0, 0, false]);
    expect([c.get(S.FCW), c.get(S.XMM), c.get(S.XCR0), c.get(S.LSTAR), c.get(S.TSC_OFFSET)]).toEqual([
      0x37f, 5, 7, 9, 99,
    ]);
    r.unit.startup(0x9a);
    expect([r.rip, c.sel(S.CS), c.segBase(S.CS)]).toEqual([0, 0x9a00, 0x9a000]);
  });
});

describe('saving and loading', () => {
  function busy(): Rig {
    const r = new Rig().long(3);
    for (let n = 0; n < 16; n++) r.setReg(n, 0x0123456789abcdefn * BigInt(n + 1));
    for (let o = S.XMM; o < S.YMMH + 256; o += 4) r.cpu.set(o, o * 77777);
    r.cpu.set64(S.LSTAR, 0x1234, 0xffff8000);
    r.cpu.set(S.XCR0, 7);
    r.cpu.setFlags(0x8d7);
    r.cpu.set(S.FTOP, 3);
    r.cpu.set(S.FTW, 0x18);
    r.cpu.set(S.FSW, 0x100);
    r.cpu.set64(S.FPR + 48, 0x11, 0x22);
    r.cpu.set(S.FPR + 56, 0x4001);
    r.cpu.set64(S.SEG + S.FS * S.SEG_STRIDE, 0x5000, 0xffff8000);
    r.cpu.set64(S.CR2, 0xdead, 0xffff8000);
    r.tsc = 500n;
    r.cpu.set64(S.TSC_OFFSET, 1000, 0);
    return r;
  }
  it('loading what was saved gives the same state', () => {
    const a = busy();
    const s = a.unit.getState(RUN);
    expect([s.rip, s.rflags, s.segments[S.FS].base]).toEqual([0x4000n, 0x8d7n, 0xffff800000005000n]);
    expect(s.msrs.find(([i]) => i === 0x10)).toEqual([0x10, 1500n]);
    const b = new Rig();
    b.tsc = 77n;
    b.unit.setState(structuredClone(s));
    expect(b.unit.getState(RUN)).toEqual(s);
    expect([b.cpu.cpl, b.cpu.code64, b.cpu.get(S.FTOP), b.cpu.get(S.FPR + 48)]).toEqual([3, true, 3, 0x11]);
  });
  it('keeps the selectors of the last x87 instruction, which older states do not have', () => {
    const a = busy();
    a.cpu.set(S.FCS, 0x23);
    a.cpu.set(S.FDS, 0x2b);
    const s = a.unit.getState(RUN);
    expect([s.v, s.x87Selectors]).toEqual([3, [0x23, 0x2b]]);
    const b = new Rig();
    b.unit.setState(structuredClone(s));
    expect([b.cpu.get(S.FCS), b.cpu.get(S.FDS)]).toEqual([0x23, 0x2b]);
    const { x87Selectors: _, ...old } = s;
    b.unit.setState({ ...old, v: 2 });
    expect([b.cpu.get(S.FCS), b.cpu.get(S.FDS)]).toEqual([0, 0]);
    expect(() => b.unit.setState({ ...s, x87Selectors: [0x10000, 0] })).toThrow('x87 selectors');
  });
  it('an image with an empty XSTATE_BV gives initial components; no image leaves them', () => {
    const r = busy();
    const s = r.unit.getState(RUN);
    r.unit.setState({ ...s, xsave: new Uint8Array(576) });
    expect([r.cpu.get(S.FCW), r.cpu.get(S.XMM), r.cpu.get(S.MXCSR)]).toEqual([0x37f, 0, 0x1f80]);
    r.cpu.set(S.XMM, 6);
    r.unit.setState({ ...s, xsave: new Uint8Array(0) });
    expect(r.cpu.get(S.XMM)).toBe(6);
  });
  it('rereads PDPTEs', () => {
    const r = new Rig().protected();
    r.w64(0xc000, 0x10001n);
    const s = r.unit.getState(RUN);
    r.unit.setState({ ...s, cr0: 0x80000011n, cr3: 0xc000n, cr4: 0x20n });
    expect(r.cpu.get(S.PDPTE)).toBe(0x10001);
  });
  it.each([
    ['PG without PE', { cr0: 0x80000000n }],
    ['LMA without PG', { efer: 0x500n }],
    ['unknown CR4 bit', { cr4: 1n << 30n }],
    ['XCR0 without x87', { xcr0: 2n }],
    ['too few registers', { gpr: [] }],
    ['short image', { xsave: new Uint8Array(100) }],
  ])('refuses %s', (_n, part) => {
    const r = new Rig().protected();
    const s = r.unit.getState(RUN);
    const before = r.digest();
    expect(() => r.unit.setState({ ...s, ...part })).toThrow(/cannot be in this state/);
    expect(r.digest()).toBe(before);
  });
});

describe('dispatch', () => {
  it('knows what it handles', () => {
    const names = Object.entries(OP)
      .filter(([, op]) => SystemUnit.handles(op))
      .map(([name]) => name)
      .sort();
    expect(names.join(' ')).toBe(
      'ARPL BOUND CALLF CLAC CLFLUSH CLFLUSHOPT CLI CLTS CLWB CPUID ENTER FXRSTOR FXSAVE HLT IN INS INT INT1 INT3 INTO INVD ' +
        'INVLPG INVPCID IRET JMPF LAR LDS LES LFS LGDT LGS LIDT LLDT LMSW LSL LSS LTR MOV OUT OUTS PAUSE POP POPF PUSH PUSHF ' +
        'RDFSBASE RDGSBASE RDMSR RDPID RDPMC RDRAND RDSEED RDTSC RDTSCP RETF SERIALIZE SGDT SIDT SLDT SMSW STAC STI STR SWAPGS ' +
        'SYSCALL SYSENTER SYSEXIT SYSRET VERR VERW VMCALL VMMCALL WBINVD WBNOINVD WRFSBASE WRGSBASE WRMSR XGETBV XRSTOR XSAVE ' +
        'XSAVEC XSAVEOPT XSETBV',
    );
  });
});
