import { describe, expect, it } from 'vitest';
import * as S from '../src/state.ts';
import { DATA, fault, GDT, JUMP, LDT, NEXT, Rig, SEL, TSS } from './system-rig.ts';

const MOV_DS_AX = [0x8e, 0xd8];
const MOV_SS_AX = [0x8e, 0xd0];

describe('segment registers', () => {
  it('loads a data segment and sets its accessed bit (SDM vol. 3A §3.4.5.1)', () => {
    const r = new Rig().protected();
    r.desc(SEL.data16, 0x12345678, 0xabc, 0x92, 0);
    r.cpu.setR32(0, SEL.data16);
    expect(r.run(...MOV_DS_AX)).toEqual(JUMP);
    expect(r.cpu.segBase(S.DS)).toBe(0x12345678);
    expect(r.cpu.limit(S.DS)).toBe(0xabc);
    expect(r.cpu.attr(S.DS)).toBe(0x93);
    expect(r.mem[GDT + SEL.data16 + 5]).toBe(0x93);
    expect(r.rip).toBe(0x4002);
  });

  it.each([
    ['null selector into SS', 0, MOV_SS_AX, 3, fault(S.EXC_GP)],
    ['beyond the table', 0xf000, MOV_DS_AX, 0, fault(S.EXC_GP, 0xf000)],
    ['LDT selector without an LDT', 0x0c, MOV_DS_AX, 0, fault(S.EXC_GP, 0x0c)],
    ['system descriptor', SEL.tss, MOV_DS_AX, 0, fault(S.EXC_GP, SEL.tss)],
    ['execute-only code', SEL.execOnly, MOV_DS_AX, 0, fault(S.EXC_GP, SEL.execOnly)],
    ['DPL below CPL', SEL.data32, MOV_DS_AX, 3, fault(S.EXC_GP, SEL.data32)],
    ['DPL below RPL', SEL.data32 | 3, MOV_DS_AX, 0, fault(S.EXC_GP, SEL.data32)],
    ['not present', SEL.np, MOV_DS_AX, 0, fault(S.EXC_NP, SEL.np)],
    ['SS not present', SEL.np, MOV_SS_AX, 0, fault(S.EXC_SS, SEL.np)],
    ['SS read-only', SEL.ro, MOV_SS_AX, 0, fault(S.EXC_GP, SEL.ro)],
    ['SS RPL other than CPL', SEL.udata32, MOV_SS_AX, 0, fault(S.EXC_GP, SEL.udata32 & ~3)],
    ['conforming code into DS whatever RPL', SEL.conf32 | 3, MOV_DS_AX, 3, JUMP],
  ])('MOV Sreg: %s', (_name, sel, code, cpl, want) => {
    const r = new Rig().protected(cpl);
    r.cpu.setR32(0, sel);
    const before = r.digest();
    const got = r.run(...code);
    expect(got).toEqual(want);
    if (got.status < 0) expect(r.digest()).toBe(before);
  });

  it('makes a segment unusable for a null selector', () => {
    const r = new Rig().protected();
    r.cpu.setR32(0, 3);
    expect(r.run(...MOV_DS_AX)).toEqual(JUMP);
    expect(r.cpu.attr(S.DS)).toBe(S.ATTR_UNUSABLE);
    expect(r.cpu.sel(S.DS)).toBe(3);
  });

  it('takes a null SS in 64-bit mode below CPL 3 with matching RPL only', () => {
    const r = new Rig().long();
    r.cpu.setR32(0, 0);
    expect(r.run(...MOV_SS_AX)).toEqual(JUMP);
    expect(r.shadows).toBe(1);
    r.cpu.setR32(0, 1);
    expect(r.run(...MOV_SS_AX)).toEqual(fault(S.EXC_GP));
    const u = new Rig().long(3);
    u.cpu.setR32(0, 3);
    expect(u.run(...MOV_SS_AX)).toEqual(fault(S.EXC_GP));
  });

  it('in real mode sets the base only, keeping a large limit', () => {
    const r = new Rig().real();
    r.cpu.setSeg(S.DS, 0, 0, 0, 0xffffffff, 0xc093);
    r.cpu.setR32(0, 0x1234);
    expect(r.run(...MOV_DS_AX)).toEqual(JUMP);
    expect(r.cpu.segBase(S.DS)).toBe(0x12340);
    expect(r.cpu.limit(S.DS)).toBe(0xffffffff);
  });

  it('in virtual-8086 mode sets base, limit and rights', () => {
    const r = new Rig().v86();
    r.cpu.setR32(0, 0x2000);
    expect(r.run(...MOV_DS_AX)).toEqual(JUMP);
    expect([r.cpu.segBase(S.DS), r.cpu.limit(S.DS), r.cpu.attr(S.DS)]).toEqual([0x20000, 0xffff, 0xf3]);
  });

  it('stores a selector: 16 bits to memory, zero-extended to a 32-bit register', () => {
    const r = new Rig().protected();
    r.cpu.setR32(0, 0xffffffff);
    expect(r.run(0x8c, 0xd8)).toEqual(NEXT);
    expect(r.cpu.r32(0)).toBe(SEL.data32);
    r.cpu.setR32(0, 0xffffffff);
    expect(r.run(0x66, 0x8c, 0xd8)).toEqual(NEXT);
    expect(r.cpu.r32(0)).toBe(0xffff0000 + SEL.data32);
    r.w32(DATA, 0xffffffff);
    expect(r.run(0x8c, 0x1d, 0, 0x60, 0, 0)).toEqual(NEXT);
    expect(r.r32(DATA)).toBe(0xffff0000 + SEL.data32);
  });

  it('PUSH and POP of segment registers move the stack pointer by the operand size', () => {
    const r = new Rig().protected();
    const sp = r.sp;
    expect(r.run(0x1e)).toEqual(NEXT);
    expect(r.sp).toBe(sp - 4);
    expect(r.r32(sp - 4)).toBe(SEL.data32);
    expect(r.run(0x07)).toEqual(JUMP);
    expect(r.sp).toBe(sp);
    expect(r.run(0x66, 0x1e)).toEqual(NEXT);
    expect(r.sp).toBe(sp - 2);
    expect(r.run(0x66, 0x17)).toEqual(JUMP);
    expect(r.shadows).toBe(1);
  });

  it('POP SS that faults leaves the stack pointer', () => {
    const r = new Rig().protected();
    r.w32(r.sp, SEL.ro);
    const before = r.digest();
    expect(r.run(0x17)).toEqual(fault(S.EXC_GP, SEL.ro));
    expect(r.digest()).toBe(before);
  });

  it('LDS loads register and segment, or nothing', () => {
    const r = new Rig().protected();
    r.w32(DATA, 0xcafebabe);
    r.w16(DATA + 4, SEL.data16);
    expect(r.run(0xc5, 0x05, 0, 0x60, 0, 0)).toEqual(JUMP);
    expect(r.cpu.r32(0)).toBe(0xcafebabe);
    expect(r.cpu.sel(S.DS)).toBe(SEL.data16);
    r.w16(DATA + 4, SEL.np);
    r.cpu.setR32(0, 1);
    expect(r.run(0xc4, 0x05, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_NP, SEL.np));
    expect(r.cpu.r32(0)).toBe(1);
  });

  it('LSS with REX.W loads 64 bits of offset', () => {
    const r = new Rig().long();
    r.w64(DATA, 0x0123456789abcdefn);
    r.w16(DATA + 8, SEL.data32);
    expect(r.run(0x48, 0x0f, 0xb2, 0x04, 0x25, 0, 0x60, 0, 0)).toEqual(JUMP);
    expect(r.reg(0)).toBe(0x0123456789abcdefn);
  });

  it('MOV to CS is #UD', () => {
    const r = new Rig().protected();
    r.run(...MOV_DS_AX);
    r.insn.reg0 = S.CS;
    expect(r.exec()).toEqual(fault(S.EXC_UD));
  });
});

describe('LDTR, TR, GDTR, IDTR', () => {
  it('LLDT loads, and LDT selectors then work', () => {
    const r = new Rig().protected();
    r.cpu.setR32(0, SEL.ldt);
    expect(r.run(0x0f, 0x00, 0xd0)).toEqual(NEXT);
    expect(r.cpu.segBase(S.LDTR)).toBe(LDT);
    r.desc(0x08, 0x7000, 0xfff, 0x93, 0, LDT);
    r.cpu.setR32(0, 0x0c);
    expect(r.run(...MOV_DS_AX)).toEqual(JUMP);
    expect(r.cpu.segBase(S.DS)).toBe(0x7000);
    r.cpu.setR32(0, 0);
    expect(r.run(0x0f, 0x00, 0xd0)).toEqual(NEXT);
    expect(r.cpu.attr(S.LDTR)).toBe(S.ATTR_UNUSABLE);
  });

  it.each([
    ['a data descriptor', SEL.data32, fault(S.EXC_GP, SEL.data32)],
    ['an LDT selector', SEL.ldt | 4, fault(S.EXC_GP, SEL.ldt | 4)],
    ['a TSS', SEL.tss2, fault(S.EXC_GP, SEL.tss2)],
  ])('LLDT of %s', (_n, sel, want) => {
    const r = new Rig().protected();
    r.cpu.setR32(0, sel);
    expect(r.run(0x0f, 0x00, 0xd0)).toEqual(want);
  });

  it('LTR marks the TSS busy and refuses a busy one', () => {
    const r = new Rig().protected();
    r.cpu.setR32(0, SEL.tss2);
    expect(r.run(0x0f, 0x00, 0xd8)).toEqual(NEXT);
    expect(r.mem[GDT + SEL.tss2 + 5]).toBe(0x8b);
    expect(r.cpu.attr(S.TR)).toBe(0x8b);
    expect(r.run(0x0f, 0x00, 0xd8)).toEqual(fault(S.EXC_GP, SEL.tss2));
    r.cpu.setR32(0, 0);
    expect(r.run(0x0f, 0x00, 0xd8)).toEqual(fault(S.EXC_GP));
  });

  it('LTR in long mode takes 16 bytes and a 64-bit base', () => {
    const r = new Rig().long();
    r.desc(SEL.tss, TSS, 0x67, 0x89, 0);
    r.w32(GDT + SEL.tss + 8, 0xffff8000);
    r.w32(GDT + SEL.tss + 12, 0);
    r.cpu.setR32(0, SEL.tss);
    expect(r.run(0x0f, 0x00, 0xd8)).toEqual(NEXT);
    expect(r.cpu.segBase(S.TR)).toBe(-0x8000_0000_0000 + TSS);
    r.desc(SEL.tss, TSS, 0x67, 0x89, 0);
    r.w32(GDT + SEL.tss + 8, 0x00008000);
    expect(r.run(0x0f, 0x00, 0xd8)).toEqual(fault(S.EXC_GP, SEL.tss));
    r.w32(GDT + SEL.tss + 8, 0);
    r.w32(GDT + SEL.tss + 12, 0x1f00);
    expect(r.run(0x0f, 0x00, 0xd8)).toEqual(fault(S.EXC_GP, SEL.tss));
  });

  it('SLDT, STR, LLDT, LTR, LAR are #UD outside protected mode; LLDT is #GP at CPL 3', () => {
    for (const r of [new Rig().real(), new Rig().v86()]) {
      expect(r.run(0x0f, 0x00, 0xc0)).toEqual(fault(S.EXC_UD));
      expect(r.run(0x0f, 0x00, 0xc8)).toEqual(fault(S.EXC_UD));
      expect(r.run(0x0f, 0x00, 0xd0)).toEqual(fault(S.EXC_UD));
      expect(r.run(0x0f, 0x02, 0xc0)).toEqual(fault(S.EXC_UD));
      expect(r.run(0x63, 0xc0)).toEqual(fault(S.EXC_UD));
    }
    expect(new Rig().protected(3).run(0x0f, 0x00, 0xd0)).toEqual(fault(S.EXC_GP));
  });

  it('LGDT and SGDT: 24-bit base with 16-bit operands, 10 bytes in 64-bit mode, canonical base', () => {
    const r = new Rig().protected();
    r.w16(DATA, 0x3ff);
    r.w32(DATA + 2, 0x12345678);
    expect(r.run(0x0f, 0x01, 0x15, 0, 0x60, 0, 0)).toEqual(NEXT);
    expect([r.cpu.get(S.GDT_BASE), r.cpu.get(S.GDT_LIMIT)]).toEqual([0x12345678, 0x3ff]);
    expect(r.run(0x66, 0x0f, 0x01, 0x15, 0, 0x60, 0, 0)).toEqual(NEXT);
    expect(r.cpu.get(S.GDT_BASE)).toBe(0x345678);
    const l = new Rig().long();
    l.w16(DATA, 0xfff);
    l.w64(DATA + 2, 0xffff800000001000n);
    expect(l.run(0x0f, 0x01, 0x1c, 0x25, 0, 0x60, 0, 0)).toEqual(NEXT);
    expect(l.cpu.getAddr(S.IDT_BASE)).toBe(-0x8000_0000_0000 + 0x1000);
    expect(l.run(0x0f, 0x01, 0x0c, 0x25, 0, 0x61, 0, 0)).toEqual(NEXT);
    expect(l.r64(0x6102)).toBe(0xffff800000001000n);
    l.w64(DATA + 2, 0x0000800000001000n);
    expect(l.run(0x0f, 0x01, 0x1c, 0x25, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_GP));
  });

  it('CR4.UMIP hides the table registers from programs', () => {
    const r = new Rig().protected(3);
    expect(r.run(0x0f, 0x01, 0xe0)).toEqual(NEXT);
    r.cpu.set(S.CR4, 1 << 11);
    expect(r.run(0x0f, 0x01, 0xe0)).toEqual(fault(S.EXC_GP));
    expect(r.run(0x0f, 0x00, 0xc8)).toEqual(fault(S.EXC_GP));
    expect(r.run(0x0f, 0x01, 0x05, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_GP));
  });
});

describe('asking about descriptors', () => {
  const zf = (r: Rig): boolean => (r.cpu.flags() & S.FLAG_ZF) !== 0;
  it.each([
    ['code', SEL.code32, 0, true, 0xc09b00],
    ['null', 0, 0, false, 0],
    ['beyond', 0xf000, 0, false, 0],
    ['inner data at CPL 3', SEL.data32, 3, false, 0],
    ['conforming at CPL 3', SEL.conf32, 3, true, 0xc09f00],
    ['TSS', SEL.tss2, 0, true, 0x008900],
  ])('LAR of %s', (_n, sel, cpl, ok, value) => {
    const r = new Rig().protected(cpl);
    r.cpu.setR32(0, sel);
    r.cpu.setR32(3, 0);
    expect(r.run(0x0f, 0x02, 0xd8)).toEqual(NEXT);
    expect(zf(r)).toBe(ok);
    expect(r.cpu.r32(3) & 0xf0ff00).toBe(value & 0xf0ff00);
  });

  it('LSL gives byte limits; gates have none', () => {
    const r = new Rig().protected();
    r.cpu.setR32(0, SEL.code32);
    r.run(0x0f, 0x03, 0xd8);
    expect(r.cpu.r32(3)).toBe(0xffffffff);
    r.cpu.setR32(0, SEL.taskGate);
    r.run(0x0f, 0x03, 0xd8);
    expect(zf(r)).toBe(false);
    r.run(0x0f, 0x02, 0xd8);
    expect(zf(r)).toBe(true);
  });

  it('VERR and VERW', () => {
    const r = new Rig().protected();
    const ask = (sel: number): string => {
      r.cpu.setR32(0, sel);
      r.run(0x0f, 0x00, 0xe0);
      const read = zf(r);
      r.run(0x0f, 0x00, 0xe8);
      return (read ? 'r' : '-') + (zf(r) ? 'w' : '-');
    };
    expect([SEL.data32, SEL.ro, SEL.code32, SEL.execOnly, SEL.tss, 0].map(ask)).toEqual([
      'rw',
      'r-',
      'r-',
      '--',
      '--',
      '--',
    ]);
  });

  it('ARPL raises RPL and keeps other flags', () => {
    const r = new Rig().protected();
    r.cpu.setFlags(0x8d7 & ~0x40);
    r.cpu.setR32(0, 0x10);
    r.cpu.setR32(3, 3);
    expect(r.run(0x63, 0xd8)).toEqual(NEXT);
    expect(r.cpu.r16(0)).toBe(0x13);
    expect(r.cpu.flags()).toBe(0x8d7);
    r.run(0x63, 0xd8);
    expect(r.cpu.flags()).toBe(0x8d7 & ~0x40);
  });
});
