import { describe, expect, it } from 'vitest';
import * as S from '../src/state.ts';
import { CODE, DATA, fault, GDT, JUMP, NEXT, Rig, SEL, STACK0, STACK3, TSS } from './system-rig.ts';

const far32 = (sel: number, off: number): number[] => [
  off & 255,
  (off >> 8) & 255,
  (off >> 16) & 255,
  off >>> 24,
  sel & 255,
  sel >> 8,
];
const jmp = (sel: number, off: number): number[] => [0xea, ...far32(sel, off)];
const call = (sel: number, off: number): number[] => [0x9a, ...far32(sel, off)];

describe('far JMP and CALL', () => {
  it('in real mode change CS and push 16-bit return addresses', () => {
    const r = new Rig().real();
    expect(r.run(0xea, 0x34, 0x12, 0x00, 0xf0)).toEqual(JUMP);
    expect([r.cpu.sel(S.CS), r.cpu.segBase(S.CS), r.rip]).toEqual([0xf000, 0xf0000, 0x1234]);
    expect(r.run(0x9a, 0x10, 0x00, 0x00, 0x20)).toEqual(JUMP);
    expect([r.sp, r.r16(0x7ffe), r.r16(0x7ffc)]).toEqual([0x7ffc, 0xf000, 0x1239]);
    expect(r.run(0xcb)).toEqual(JUMP);
    expect([r.cpu.sel(S.CS), r.rip, r.sp]).toEqual([0xf000, 0x1239, 0x8000]);
  });

  it.each([
    ['null', 0, 0, fault(S.EXC_GP)],
    ['data segment', SEL.data32, 0, fault(S.EXC_GP, SEL.data32)],
    ['not present', SEL.np, 0, fault(S.EXC_GP, SEL.np)],
    ['other privilege', SEL.ucode32, 0, fault(S.EXC_GP, SEL.ucode32 & ~3)],
    ['beyond the limit', SEL.code16, 0x10000, fault(S.EXC_GP)],
    ['same privilege', SEL.code16, 0x1234, JUMP],
    ['conforming', SEL.conf32, 0x1234, JUMP],
  ])('JMP in protected mode: %s', (_n, sel, off, want) => {
    const r = new Rig().protected();
    const before = r.digest();
    expect(r.run(...jmp(sel, off))).toEqual(want);
    if (want.status < 0) expect(r.digest()).toBe(before);
    else expect([r.cpu.sel(S.CS), r.rip]).toEqual([sel, off]);
  });

  it('returns from 64-bit to compatibility mode look at all 64 bits of the offset', () => {
    for (const code of [
      [0x48, 0xcb], // retfq
      [0x48, 0xcf], // iretq
    ]) {
      for (const [offset, want] of [
        [0x1234n, JUMP],
        [0x1_0000_1234n, fault(S.EXC_GP)],
      ] as const) {
        const r = new Rig().long(3);
        [offset, BigInt(SEL.ucode32), 0x202n, BigInt(STACK3), BigInt(SEL.udata32)].forEach((v, i) => {
          r.w64(r.sp + 8 * i, v);
        });
        expect(r.run(...code)).toEqual(want);
      }
    }
  });

  it('keeps CPL in CS when a program enters a conforming segment', () => {
    const r = new Rig().protected(3);
    expect(r.run(...jmp(SEL.conf32, 0x20))).toEqual(JUMP);
    expect([r.cpu.sel(S.CS), r.cpu.cpl]).toEqual([SEL.conf32 | 3, 3]);
  });

  it('CALL pushes CS and EIP, and nothing when the push would fault', () => {
    const r = new Rig().protected();
    const sp = r.sp;
    expect(r.run(...call(SEL.code16, 0x40))).toEqual(JUMP);
    expect([r.sp, r.r32(sp - 4), r.r32(sp - 8)]).toEqual([sp - 8, SEL.code32, CODE + 7]);
    const f = new Rig().protected();
    f.readOnly.add((f.sp - 8) >> 12);
    const before = f.digest();
    expect(f.run(...call(SEL.code16, 0x40))).toEqual(fault(S.EXC_PF, 3));
    expect(f.digest()).toBe(before);
  });

  it('enters 64-bit code from compatibility mode, and back through memory', () => {
    const r = new Rig().long(0, true);
    expect(r.cpu.code64).toBe(false);
    expect(r.run(...jmp(SEL.code64, 0x4100))).toEqual(JUMP);
    expect(r.cpu.code64).toBe(true);
    r.w32(DATA, 0x4200);
    r.w16(DATA + 4, SEL.code32);
    expect(r.run(0xff, 0x2c, 0x25, 0, 0x60, 0, 0)).toEqual(JUMP);
    expect([r.cpu.code64, r.rip]).toEqual([false, 0x4200]);
  });

  it('REX.W reads a 64-bit offset, which has to be canonical', () => {
    const r = new Rig().long();
    r.w64(DATA, 0xffff800000001234n);
    r.w16(DATA + 8, SEL.code64);
    expect(r.run(0x48, 0xff, 0x1c, 0x25, 0, 0x60, 0, 0)).toEqual(JUMP);
    expect(r.rip).toBe(-0x8000_0000_0000 + 0x1234);
    expect(r.r64(r.sp)).toBe(BigInt(CODE + 8));
    expect(r.r64(r.sp + 8)).toBe(BigInt(SEL.code64));
    r.w64(DATA, 0x0000800000001234n);
    expect(r.run(0x48, 0xff, 0x2c, 0x25, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_GP));
  });

  it('code with both L and D is refused in long mode', () => {
    const r = new Rig().long(0, true);
    r.desc(SEL.code64, 0, 0xfffff, 0x9b, 0xe);
    expect(r.run(...jmp(SEL.code64, 0))).toEqual(fault(S.EXC_GP, SEL.code64));
  });
});

describe('call gates', () => {
  const gate = (r: Rig, target: number, type: number, params = 0): void =>
    r.gate(GDT + SEL.gate, target, 0x5678, type, params);

  it('to the same ring use the gate’s offset', () => {
    const r = new Rig().protected();
    gate(r, SEL.code32, 0x8c);
    expect(r.run(...jmp(SEL.gate, 0xffff))).toEqual(JUMP);
    expect([r.cpu.sel(S.CS), r.rip]).toEqual([SEL.code32, 0x5678]);
  });

  it('to an inner ring switch stacks and copy parameters (SDM vol. 3A §5.8.5)', () => {
    const r = new Rig().protected(3);
    gate(r, SEL.code32, 0xec, 2);
    r.w32(STACK3, 0x11111111);
    r.w32(STACK3 + 4, 0x22222222);
    expect(r.run(...call(SEL.gate, 0))).toEqual(JUMP);
    expect([r.cpu.cpl, r.cpu.sel(S.CS), r.cpu.sel(S.SS), r.rip]).toEqual([0, SEL.code32, SEL.data32, 0x5678]);
    expect(r.sp).toBe(STACK0 - 24);
    const words = [0, 4, 8, 12, 16, 20].map((o) => r.r32(r.sp + o));
    expect(words).toEqual([CODE + 7, SEL.ucode32, 0x11111111, 0x22222222, STACK3, SEL.udata32]);
    // and RETF 8 goes back, dropping them from both stacks
    r.cpu.setSeg(S.DS, SEL.data32, 0, 0, 0xffffffff, 0xc093);
    expect(r.run(0xca, 8, 0)).toEqual(JUMP);
    expect([r.cpu.cpl, r.cpu.sel(S.CS), r.cpu.sel(S.SS), r.rip, r.sp]).toEqual([
      3,
      SEL.ucode32,
      SEL.udata32,
      CODE + 7,
      STACK3 + 8,
    ]);
    expect([r.cpu.sel(S.DS), r.cpu.attr(S.DS)]).toEqual([0, S.ATTR_UNUSABLE]);
    expect(r.cpu.sel(S.ES)).toBe(SEL.udata32);
  });

  it('of 16 bits copy words', () => {
    const r = new Rig().protected(3);
    gate(r, SEL.code32, 0xe4, 1);
    r.w16(STACK3, 0x4242);
    expect(r.run(...call(SEL.gate, 0))).toEqual(JUMP);
    expect(r.sp).toBe(STACK0 - 10);
    expect([0, 2, 4, 6, 8].map((o) => r.r16(r.sp + o))).toEqual([CODE + 7, SEL.ucode32, 0x4242, STACK3, SEL.udata32]);
  });

  it.each([
    ['DPL below CPL', (r: Rig) => gate(r, SEL.code32, 0x8c), fault(S.EXC_GP, SEL.gate)],
    ['not present', (r: Rig) => gate(r, SEL.code32, 0x6c), fault(S.EXC_NP, SEL.gate)],
    ['null target', (r: Rig) => gate(r, 0, 0xec), fault(S.EXC_GP)],
    ['data target', (r: Rig) => gate(r, SEL.data32, 0xec), fault(S.EXC_GP, SEL.data32)],
    ['null stack in the TSS', (r: Rig) => r.w32(TSS + 8, 0), fault(S.EXC_TS)],
    ['read-only stack', (r: Rig) => r.w32(TSS + 8, SEL.ro), fault(S.EXC_TS, SEL.ro)],
    ['stack not present', (r: Rig) => r.w32(TSS + 8, SEL.np), fault(S.EXC_SS, SEL.np)],
    ['TSS too short', (r: Rig) => r.cpu.setSeg(S.TR, SEL.tss, TSS, 0, 8, 0x8b), fault(S.EXC_TS, SEL.tss)],
    [
      'stack too small',
      (r: Rig) => {
        r.desc(SEL.data32, 0, STACK0 - 9, 0x93, 4);
      },
      fault(S.EXC_SS, SEL.data32),
    ],
    ['stack not mapped', (r: Rig) => r.absent.add((STACK0 - 4) >> 12), fault(S.EXC_PF, 2)],
  ])('fault without a trace: %s', (_n, spoil, want) => {
    const r = new Rig().protected(3);
    gate(r, SEL.code32, 0xec);
    spoil(r);
    const before = r.digest();
    expect(r.run(...call(SEL.gate, 0))).toEqual(want);
    expect(r.digest()).toBe(before);
  });

  it('JMP through a gate to an inner nonconforming segment is #GP', () => {
    const r = new Rig().protected(3);
    gate(r, SEL.code32, 0xec);
    expect(r.run(...jmp(SEL.gate, 0))).toEqual(fault(S.EXC_GP, SEL.code32));
  });

  it('of 64 bits take RSP from the TSS and load a null SS', () => {
    const r = new Rig().long(3);
    r.gate64(GDT + SEL.gate, SEL.code64, 0xffff800000000010n, 0xec);
    r.w32(DATA, 0);
    r.w16(DATA + 4, SEL.gate);
    expect(r.run(0xff, 0x1c, 0x25, 0, 0x60, 0, 0)).toEqual(JUMP);
    expect([r.cpu.cpl, r.cpu.sel(S.SS), r.cpu.attr(S.SS), r.rip]).toEqual([
      0,
      0,
      S.ATTR_UNUSABLE,
      -0x8000_0000_0000 + 0x10,
    ]);
    expect(r.sp).toBe(STACK0 - 32);
    expect([0, 8, 16, 24].map((o) => r.r64(r.sp + o))).toEqual(
      [CODE + 7, SEL.ucode64, STACK3, SEL.udata32].map(BigInt),
    );
    expect(r.run(0x48, 0xcb)).toEqual(JUMP);
    expect([r.cpu.cpl, r.sp, r.rip, r.cpu.sel(S.SS)]).toEqual([3, STACK3, CODE + 7, SEL.udata32]);
  });

  it('of 64 bits need 64-bit code and a clear upper type', () => {
    const r = new Rig().long(3);
    r.w16(DATA + 4, SEL.gate);
    r.gate64(GDT + SEL.gate, SEL.code32, 0n, 0xec);
    expect(r.run(0xff, 0x1c, 0x25, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_GP, SEL.code32));
    r.gate64(GDT + SEL.gate, SEL.code64, 0n, 0xec);
    r.w32(GDT + SEL.gate + 12, 0x100);
    expect(r.run(0xff, 0x1c, 0x25, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_GP, SEL.gate));
    r.gate64(GDT + SEL.gate, SEL.code64, 0n, 0xe4);
    expect(r.run(0xff, 0x1c, 0x25, 0, 0x60, 0, 0)).toEqual(fault(S.EXC_GP, SEL.gate));
  });
});

describe('far RET', () => {
  const frame = (r: Rig, ...words: number[]): void => {
    for (const [n, w] of words.entries()) r.w32(r.sp + n * 4, w);
  };
  it.each([
    ['null CS', [0, 0], fault(S.EXC_GP)],
    ['inward', [0, SEL.code32], fault(S.EXC_GP, SEL.code32)],
    ['to data', [0, SEL.udata32], fault(S.EXC_GP, SEL.udata32 & ~3)],
  ])('from CPL 3: %s', (_n, words, want) => {
    const r = new Rig().protected(3);
    frame(r, ...words);
    const before = r.digest();
    expect(r.run(0xcb)).toEqual(want);
    expect(r.digest()).toBe(before);
  });
  it.each([
    ['null SS', [0, SEL.ucode32, 0, 0], fault(S.EXC_GP)],
    ['SS of another ring', [0, SEL.ucode32, 0, SEL.data32], fault(S.EXC_GP, SEL.data32)],
    ['SS not writable', [0, SEL.ucode32, 0, SEL.ro | 3], fault(S.EXC_GP, SEL.ro)],
  ])('outward: %s', (_n, words, want) => {
    const r = new Rig().protected();
    frame(r, ...words);
    const before = r.digest();
    expect(r.run(0xcb)).toEqual(want);
    expect(r.digest()).toBe(before);
  });
});

describe('IRET', () => {
  const frame = (r: Rig, ...words: number[]): void => {
    for (const [n, w] of words.entries()) r.w32(r.sp + n * 4, w);
  };
  const frame64 = (r: Rig, ...words: number[]): void => {
    for (const [n, w] of words.entries()) r.w64(r.sp + n * 8, BigInt(w));
  };

  it('in real mode loads 16 bits of flags, IOPL and NT included', () => {
    const r = new Rig().real();
    r.w16(0x8000, 0x1234);
    r.w16(0x8002, 0x2000);
    r.w16(0x8004, 0x7fd7);
    expect(r.run(0xcf)).toEqual(JUMP);
    expect([r.rip, r.cpu.sel(S.CS), r.cpu.flags(), r.sp]).toEqual([0x1234, 0x2000, 0x7fd7, 0x8006]);
    expect([r.attentions, r.nmis]).toEqual([1, 1]);
  });

  it('to the same ring: IOPL stays for CPL above 0, IF for CPL above IOPL', () => {
    const r = new Rig().protected(3);
    frame(r, 0x4444, SEL.ucode32, 0x3202 | 1);
    expect(r.run(0xcf)).toEqual(JUMP);
    expect([r.rip, r.cpu.flags(), r.sp]).toEqual([0x4444, 3, STACK3 + 12]);
    const k = new Rig().protected();
    frame(k, 0x4444, SEL.code32, 0x3f7fd7 & ~S.FLAG_VM & ~S.FLAG_NT);
    expect(k.run(0xcf)).toEqual(JUMP);
    expect(k.cpu.flags()).toBe(0x3c3fd7);
  });

  it('loads RF only while there are breakpoints that it could hold off', () => {
    const r = new Rig().protected();
    for (const [dr7, rf] of [
      [0x400, 0],
      [0x402, S.FLAG_RF],
    ] as const) {
      r.cpu.set(S.DR + 56, dr7);
      r.sp = STACK0;
      frame(r, 0x4444, SEL.code32, 0x10002);
      expect(r.run(0xcf)).toEqual(JUMP);
      expect(r.cpu.flags()).toBe(2 | rf);
    }
  });

  it('to an outer ring loads SS:ESP and drops data segments', () => {
    const r = new Rig().protected();
    frame(r, 0x4444, SEL.ucode32, 0x202, STACK3, SEL.udata32);
    expect(r.run(0xcf)).toEqual(JUMP);
    expect([r.cpu.cpl, r.rip, r.sp, r.cpu.sel(S.SS)]).toEqual([3, 0x4444, STACK3, SEL.udata32]);
    for (const n of [S.DS, S.ES, S.FS, S.GS]) expect(r.cpu.attr(n)).toBe(S.ATTR_UNUSABLE);
  });

  it('to a 16-bit stack changes SP only (SDM vol. 3A §24.31.2)', () => {
    const r = new Rig().protected();
    r.desc(SEL.down, 0, 0xffff, 0xf3, 0);
    const high = r.sp & 0xffff0000;
    frame(r, 0x4444, SEL.ucode32, 2, 0x12345678, SEL.down | 3);
    r.cpu.setR32(4, r.sp);
    expect(r.run(0xcf)).toEqual(JUMP);
    expect(r.cpu.r32(4)).toBe((high | 0x5678) >>> 0);
  });

  it('to virtual-8086 mode loads all segments', () => {
    const r = new Rig().protected();
    frame(r, 0x100, 0x2000, S.FLAG_VM | 0x202, 0xfffe, 0x3000, 1, 2, 3, 4);
    expect(r.run(0xcf)).toEqual(JUMP);
    expect([r.cpu.v86, r.cpu.cpl, r.rip, r.sp]).toEqual([true, 3, 0x100, 0xfffe]);
    expect([S.CS, S.SS, S.ES, S.DS, S.FS, S.GS].map((n) => r.cpu.segBase(n))).toEqual([
      0x20000, 0x30000, 16, 32, 48, 64,
    ]);
    expect(r.cpu.attr(S.CS)).toBe(0xf3);
  });

  it('ignores VM in the image above CPL 0', () => {
    const r = new Rig().protected(3);
    frame(r, 0x100, SEL.ucode32, S.FLAG_VM | 2);
    expect(r.run(0xcf)).toEqual(JUMP);
    expect(r.cpu.v86).toBe(false);
  });

  it('in virtual-8086 mode needs IOPL 3, and keeps IOPL and VM', () => {
    expect(new Rig().v86(0).run(0xcf)).toEqual(fault(S.EXC_GP));
    const r = new Rig().v86(3);
    r.w16(0x9100, 0x22);
    r.w16(0x9102, 0x700);
    r.w16(0x9104, 0x0003);
    expect(r.run(0xcf)).toEqual(JUMP);
    expect([r.rip, r.cpu.segBase(S.CS), r.cpu.flags()]).toEqual([0x22, 0x7000, S.FLAG_VM | 0x3003]);
  });

  it('IRETQ always pops SS:RSP, and takes a null SS for ring 0', () => {
    const r = new Rig().long();
    frame64(r, 0x4444, SEL.code64, 0x246, 0x7000, 0);
    expect(r.run(0x48, 0xcf)).toEqual(JUMP);
    expect([r.rip, r.sp, r.cpu.sel(S.SS), r.cpu.flags()]).toEqual([0x4444, 0x7000, 0, 0x246]);
  });

  it('IRETQ to 64-bit and compatibility programs', () => {
    for (const [cs, code64] of [
      [SEL.ucode64, true],
      [SEL.ucode32, false],
    ] as const) {
      const r = new Rig().long();
      r.cpu.set64(S.SEG + S.GS * S.SEG_STRIDE, 0x1000, 0xffff8000);
      r.cpu.set(S.SEG + S.GS * S.SEG_STRIDE + S.SEG_ATTR, S.ATTR_UNUSABLE);
      frame64(r, 0x4444, cs, 0x202, STACK3, SEL.udata32);
      expect(r.run(0x48, 0xcf)).toEqual(JUMP);
      expect([r.cpu.cpl, r.cpu.code64, r.rip, r.sp]).toEqual([3, code64, 0x4444, STACK3]);
      expect(r.cpu.segBase(S.GS)).toBe(-0x8000_0000_0000 + 0x1000);
    }
  });

  it.each([
    ['NT set', (r: Rig) => r.cpu.setFlags(2 | S.FLAG_NT), fault(S.EXC_GP)],
    ['RIP not canonical', (r: Rig) => r.w64(r.sp, 0x0000800000000000n), fault(S.EXC_GP)],
    ['null SS for ring 3', (r: Rig) => r.w64(r.sp + 32, 3n), fault(S.EXC_GP)],
    ['RSP not canonical', (r: Rig) => r.setReg(4, 0x8000000000000000n), fault(S.EXC_SS)],
    ['CS beyond the table', (r: Rig) => r.w64(r.sp + 8, 0xfff3n), fault(S.EXC_GP, 0xfff0)],
  ])('IRETQ faults without a trace: %s', (_n, spoil, want) => {
    const r = new Rig().long();
    frame64(r, 0x4444, SEL.ucode64, 0x202, STACK3, SEL.udata32);
    spoil(r);
    const before = r.digest();
    expect(r.run(0x48, 0xcf)).toEqual(want);
    expect(r.digest()).toBe(before);
  });
});

describe('PUSHF, POPF, CLI, STI, STAC, CLAC', () => {
  it('PUSHF clears RF and VM in the image', () => {
    const r = new Rig().protected();
    r.cpu.setFlags(0x3f7fd7 & ~S.FLAG_VM);
    expect(r.run(0x9c)).toEqual(NEXT);
    expect(r.r32(r.sp)).toBe(0x3c7fd7);
  });
  it.each([
    [0, 0, 0x7fd7, 0x7fd7],
    [3, 0, 0x7fd7, 0x4dd7],
    [3, 3, 0x4fd7, 0x7fd7],
  ])('POPF at CPL %i, IOPL %i', (cpl, iopl, image, want) => {
    const r = new Rig().protected(cpl);
    r.cpu.setFlags(2 | (iopl << 12));
    r.w32(r.sp, image);
    expect(r.run(0x9d)).toEqual(JUMP);
    expect(r.cpu.flags()).toBe(want);
  });
  it('PUSHF and POPF in virtual-8086 mode need IOPL 3', () => {
    expect(new Rig().v86().run(0x9c)).toEqual(fault(S.EXC_GP));
    expect(new Rig().v86().run(0x9d)).toEqual(fault(S.EXC_GP));
    const r = new Rig().v86(3);
    expect(r.run(0x9c)).toEqual(NEXT);
    expect(r.r16(0x90fe)).toBe(0x3202);
  });
  it('CLI and STI are IOPL-sensitive; STI shadows the next instruction only when IF was clear', () => {
    expect(new Rig().protected(3).run(0xfa)).toEqual(fault(S.EXC_GP));
    expect(new Rig().v86(0).run(0xfb)).toEqual(fault(S.EXC_GP));
    expect(new Rig().v86(3).run(0xfa)).toEqual(NEXT);
    const r = new Rig().protected();
    expect(r.run(0xfb)).toEqual(JUMP);
    expect(r.run(0xfb)).toEqual(NEXT);
    expect([r.shadows, r.attentions]).toEqual([1, 1]);
  });
  it('STAC and CLAC at CPL 0 with SMAP only', () => {
    const r = new Rig().long();
    expect(r.run(0x0f, 0x01, 0xcb)).toEqual(JUMP);
    expect(r.cpu.flags() & S.FLAG_AC).toBe(S.FLAG_AC);
    expect(r.run(0x0f, 0x01, 0xca)).toEqual(JUMP);
    expect(r.cpu.flags() & S.FLAG_AC).toBe(0);
    expect(new Rig().long(3).run(0x0f, 0x01, 0xcb)).toEqual(fault(S.EXC_UD));
    const n = new Rig();
    n.without.add('7.ebx.20');
    expect(n.long().run(0x0f, 0x01, 0xcb)).toEqual(fault(S.EXC_UD));
  });
});

describe('fast system calls', () => {
  const star = (r: Rig): void => {
    r.cpu.set64(S.STAR, 0, 0x00330010);
    r.cpu.set64(S.LSTAR, 0x1000, 0xffff8000);
    r.cpu.set64(S.FMASK, 0x4700, 0);
  };
  it('SYSCALL and SYSRET', () => {
    const r = new Rig().long(3);
    star(r);
    r.cpu.setFlags(0x247);
    expect(r.run(0x0f, 0x05)).toEqual(JUMP);
    expect([r.cpu.cpl, r.cpu.sel(S.CS), r.cpu.sel(S.SS), r.rip]).toEqual([0, 0x10, 0x18, -0x8000_0000_0000 + 0x1000]);
    expect([r.reg(1), r.reg(11), r.cpu.flags()]).toEqual([BigInt(CODE + 2), 0x247n, 0x47]);
    expect([r.cpu.attr(S.CS), r.cpu.attr(S.SS)]).toEqual([0xa09b, 0xc093]);
    expect(r.run(0x48, 0x0f, 0x07)).toEqual(JUMP);
    expect([r.cpu.cpl, r.cpu.sel(S.CS), r.cpu.sel(S.SS), r.rip]).toEqual([3, 0x43, 0x3b, CODE + 2]);
    expect([r.cpu.attr(S.CS), r.cpu.attr(S.SS), r.cpu.flags()]).toEqual([0xa0fb, 0xc0f3, 0x247]);
    expect(r.attentions).toBe(1);
  });
  it('SYSRET without REX.W goes to compatibility mode', () => {
    const r = new Rig().long();
    star(r);
    r.setReg(1, 0xffffffff00005000n);
    expect(r.run(0x0f, 0x07)).toEqual(JUMP);
    expect([r.cpu.sel(S.CS), r.rip, r.cpu.code64]).toEqual([0x33, 0x5000, false]);
  });
  it('SYSRET to a non-canonical RCX is #GP in ring 0 (Intel)', () => {
    const r = new Rig().long();
    star(r);
    r.setReg(1, 0x0000800000000000n);
    const before = r.digest();
    expect(r.run(0x48, 0x0f, 0x07)).toEqual(fault(S.EXC_GP));
    expect(r.digest()).toBe(before);
    expect(new Rig().long(3).run(0x48, 0x0f, 0x07)).toEqual(fault(S.EXC_GP));
  });
  it('SYSCALL is #UD without EFER.SCE and outside 64-bit mode', () => {
    const r = new Rig().long(3);
    r.cpu.set(S.EFER, 0xd00);
    expect(r.run(0x0f, 0x05)).toEqual(fault(S.EXC_UD));
    expect(new Rig().long(3, true).run(0x0f, 0x05)).toEqual(fault(S.EXC_UD));
    expect(new Rig().protected().run(0x0f, 0x05)).toEqual(fault(S.EXC_UD));
  });
  it('SYSRET that sets TF traps before the next instruction; IRET after it', () => {
    const r = new Rig().long();
    star(r);
    r.setReg(1, 0x5000n);
    r.setReg(11, 0x302n);
    expect(r.run(0x48, 0x0f, 0x07)).toEqual(JUMP);
    expect([r.traps, r.cpu.flags()]).toEqual([[1 << 14], 0x302]);
  });
  it('on AMD, SYSCALL and SYSRET work in compatibility and protected mode too (APM vol. 3)', () => {
    const r = new Rig().long(3, true);
    r.vendor = 0x68747541;
    star(r);
    r.cpu.set64(S.CSTAR, 0x2000, 0xffff8000);
    r.cpu.setFlags(0x247);
    expect(r.run(0x0f, 0x05)).toEqual(JUMP);
    expect([r.cpu.code64, r.rip, r.reg(1), r.cpu.flags()]).toEqual([
      true,
      -0x8000_0000_0000 + 0x2000,
      BigInt(CODE + 2),
      0x47,
    ]);
    // A non-canonical RCX is for the fetch to find.
    r.setReg(1, 0x0000800000000000n);
    expect(r.run(0x48, 0x0f, 0x07)).toEqual(JUMP);
    expect([r.cpu.cpl, r.rip]).toEqual([3, 0x8000_0000_0000]);

    const p = new Rig().protected(3);
    p.vendor = 0x68747541;
    p.cpu.set(S.EFER, 1);
    p.cpu.set64(S.STAR, 0x7000, 0x00330010);
    p.cpu.setFlags(0x202);
    expect(p.run(0x0f, 0x05)).toEqual(JUMP);
    expect([p.cpu.cpl, p.rip, p.cpu.r32(1), p.cpu.flags(), p.cpu.sel(S.SS)]).toEqual([0, 0x7000, CODE + 2, 2, 0x18]);
    expect(p.run(0x0f, 0x07)).toEqual(JUMP);
    expect([p.cpu.cpl, p.rip, p.cpu.flags(), p.cpu.sel(S.CS)]).toEqual([3, CODE + 2, 0x202, 0x33]);
  });
  it('VMCALL and VMMCALL are #UD unless somebody answers and the vendor is right', () => {
    const r = new Rig().long();
    expect(r.run(0x0f, 0x01, 0xc1)).toEqual(fault(S.EXC_UD));
    r.hypercall = (...a) => {
      r.io.push(a.join(' '));
      return -2;
    };
    for (const [n, v] of [
      [0, 5n],
      [3, 0xfffffffff1n],
      [1, 2n],
      [2, 3n],
      [6, 4n],
    ] as const)
      r.setReg(n, v);
    expect(r.run(0x0f, 0x01, 0xc1)).toEqual(NEXT);
    expect([r.io, r.reg(0)]).toEqual([['5 4294967281 2 3 4'], 0xfffffffffffffffen]);
    expect(r.run(0x0f, 0x01, 0xd9)).toEqual(fault(S.EXC_UD));
    const user = new Rig().protected(3);
    user.hypercall = () => 0;
    expect(user.run(0x0f, 0x01, 0xc1)).toEqual(fault(S.EXC_GP));
    const amd = new Rig().protected();
    amd.vendor = 0x68747541;
    amd.hypercall = () => -2;
    expect(amd.run(0x0f, 0x01, 0xc1)).toEqual(fault(S.EXC_UD));
    expect(amd.run(0x0f, 0x01, 0xd9)).toEqual(NEXT);
    expect(amd.reg(0)).toBe(0xfffffffen);
  });
  it('SYSENTER and SYSEXIT in protected mode', () => {
    const r = new Rig().protected(3);
    expect(r.run(0x0f, 0x34)).toEqual(fault(S.EXC_GP));
    r.cpu.set64(S.SYSENTER_CS, 0x100, 0);
    r.cpu.set64(S.SYSENTER_ESP, 0x8000, 0);
    r.cpu.set64(S.SYSENTER_EIP, 0x5000, 0);
    r.cpu.setFlags(0x202);
    expect(r.run(0x0f, 0x34)).toEqual(JUMP);
    expect([r.cpu.cpl, r.cpu.sel(S.CS), r.cpu.sel(S.SS), r.rip, r.sp]).toEqual([0, 0x100, 0x108, 0x5000, 0x8000]);
    expect(r.cpu.flags()).toBe(2);
    r.cpu.setR32(1, 0xa000);
    r.cpu.setR32(2, 0x4000);
    expect(r.run(0x0f, 0x35)).toEqual(JUMP);
    expect([r.cpu.cpl, r.cpu.sel(S.CS), r.cpu.sel(S.SS), r.rip, r.sp]).toEqual([3, 0x113, 0x11b, 0x4000, 0xa000]);
    expect(r.run(0x0f, 0x35)).toEqual(fault(S.EXC_GP));
  });
  it('SYSENTER and SYSEXIT in long mode', () => {
    const r = new Rig().long(3);
    r.cpu.set64(S.SYSENTER_CS, 0x100, 0);
    r.cpu.set64(S.SYSENTER_ESP, 0x8000, 0xffff8000);
    r.cpu.set64(S.SYSENTER_EIP, 0x5000, 0xffff8000);
    expect(r.run(0x0f, 0x34)).toEqual(JUMP);
    expect([r.cpu.code64, r.rip, r.sp]).toEqual([true, -0x8000_0000_0000 + 0x5000, -0x8000_0000_0000 + 0x8000]);
    r.setReg(1, 0xa000n);
    r.setReg(2, 0x4000n);
    expect(r.run(0x48, 0x0f, 0x35)).toEqual(JUMP);
    expect([r.cpu.sel(S.CS), r.cpu.sel(S.SS), r.cpu.code64]).toEqual([0x123, 0x12b, true]);
  });
});

describe('ENTER, BOUND, HLT, PAUSE, undefined', () => {
  it('ENTER 16, 0', () => {
    const r = new Rig().protected();
    const sp = r.sp;
    r.cpu.setR32(5, 0x12345678);
    expect(r.run(0xc8, 16, 0, 0)).toEqual(NEXT);
    expect([r.r32(sp - 4), r.cpu.r32(5), r.sp]).toEqual([0x12345678, sp - 4, sp - 20]);
  });
  it('ENTER with nesting copies the display', () => {
    const r = new Rig().long();
    const sp = r.sp;
    r.setReg(5, BigInt(DATA + 64));
    for (let n = 1; n <= 3; n++) r.w64(DATA + 64 - n * 8, BigInt(0x100 + n));
    expect(r.run(0xc8, 8, 0, 3)).toEqual(NEXT);
    expect([r.r64(sp - 8), r.r64(sp - 16), r.r64(sp - 24), r.r64(sp - 32)]).toEqual([
      BigInt(DATA + 64),
      0x101n,
      0x102n,
      BigInt(sp - 8),
    ]);
    expect([r.cpu.getAddr(S.GPR + 40), r.sp]).toEqual([sp - 8, sp - 40]);
  });
  it('ENTER that cannot have its frame changes nothing', () => {
    const r = new Rig().protected();
    r.absent.add((r.sp - 0x1000) >> 12);
    const before = r.digest();
    const word = r.r32(r.sp - 4);
    r.cpu.setR32(5, 77);
    const after = r.digest();
    expect(r.run(0xc8, 0xfc, 0x0f, 0)).toEqual(fault(S.EXC_PF, 2));
    expect([before === after, r.digest() === after, r.r32(r.sp - 4)]).toEqual([false, true, word]);
  });
  it('BOUND compares as signed', () => {
    const r = new Rig().protected();
    r.w32(DATA, -5);
    r.w32(DATA + 4, 5);
    for (const [v, ok] of [
      [0, true],
      [-5, true],
      [5, true],
      [-6, false],
      [6, false],
    ] as const) {
      r.cpu.setR32(0, v);
      expect(r.run(0x62, 0x05, 0, 0x60, 0, 0)).toEqual(ok ? NEXT : fault(S.EXC_BR));
    }
  });
  it('HLT leaves with RIP behind it, at CPL 0 only', () => {
    const r = new Rig().protected();
    expect(r.run(0xf4).status).toBe(S.ST_EXIT);
    expect([r.cpu.get(S.EXIT_CODE), r.rip]).toEqual([S.EX_HLT, CODE + 1]);
    expect(new Rig().protected(3).run(0xf4)).toEqual(fault(S.EXC_GP));
    expect(new Rig().v86(3).run(0xf4)).toEqual(fault(S.EXC_GP));
  });
  it('PAUSE leaves only where asked to', () => {
    const r = new Rig().protected();
    expect(r.run(0xf3, 0x90)).toEqual(NEXT);
    r.exitOnPause = true;
    expect(r.run(0xf3, 0x90).status).toBe(S.ST_EXIT);
    expect(r.cpu.get(S.EXIT_CODE)).toBe(S.EX_PAUSE);
  });
  it.each([
    ['VMCALL', [0x0f, 0x01, 0xc1]],
    ['VMMCALL', [0x0f, 0x01, 0xd9]],
    ['MONITOR', [0x0f, 0x01, 0xc8]],
    ['MWAIT', [0x0f, 0x01, 0xc9]],
    ['RSM', [0x0f, 0xaa]],
    ['UD2', [0x0f, 0x0b]],
    ['UD1', [0x0f, 0xb9, 0xc0]],
    ['UD0', [0x0f, 0xff, 0xc0]],
    ['XSAVES', [0x0f, 0xc7, 0x2b]],
  ])('%s is #UD', (_n, code) => {
    expect(new Rig().protected().run(...code)).toEqual(fault(S.EXC_UD));
  });
});
