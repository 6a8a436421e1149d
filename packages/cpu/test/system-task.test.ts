import { describe, expect, it } from 'vitest';
import * as S from '../src/state.ts';
import { CODE, fault, GDT, HANDLER, IDT, JUMP, LDT, NEXT, Rig, SEL, TSS, TSS2 } from './system-rig.ts';

const JMP_TSS = [0xea, 0, 0, 0, 0, SEL.tss2, 0];
const CALL_TSS = [0x9a, 0, 0, 0, 0, SEL.tss2, 0];
const CALL_GATE = [0x9a, 0, 0, 0, 0, SEL.taskGate, 0];

/** Protected mode with a second task at 0x7777 with all registers filled. */
function tasks(cpl = 0): Rig {
  const r = new Rig().protected(cpl);
  r.w32(TSS2 + 0x20, 0x7777);
  r.w32(TSS2 + 0x24, 0x202);
  for (let n = 0; n < 8; n++) r.w32(TSS2 + 0x28 + n * 4, 0x100 + n);
  r.w32(TSS2 + 0x38, 0x8000);
  const segs = [SEL.data32, SEL.code32, SEL.data32, SEL.udata32, 0, SEL.conf32];
  for (const [n, sel] of segs.entries()) r.w32(TSS2 + 0x48 + n * 4, sel);
  r.w32(TSS2 + 0x60, SEL.ldt);
  r.w32(TSS2 + 0x64, 0);
  return r;
}

describe('task switches (SDM vol. 3A §8.3)', () => {
  it('JMP saves the old task, frees it, and loads the new one', () => {
    const r = tasks();
    r.cpu.setFlags(0x4006 & ~0x4000);
    for (let n = 0; n < 8; n++) if (n !== 4) r.cpu.setR32(n, 0xa00 + n);
    expect(r.run(...JMP_TSS)).toEqual(JUMP);
    expect([r.rip, r.cpu.flags(), r.cpu.sel(S.TR)]).toEqual([0x7777, 0x202, SEL.tss2]);
    expect([0, 1, 2, 3, 5, 6, 7].map((n) => r.cpu.r32(n))).toEqual([0, 1, 2, 3, 5, 6, 7].map((n) => 0x100 + n));
    expect([0, 1, 2, 3, 4, 5].map((n) => r.cpu.sel(n))).toEqual([
      SEL.data32,
      SEL.code32,
      SEL.data32,
      SEL.udata32,
      0,
      SEL.conf32,
    ]);
    expect([r.cpu.segBase(S.LDTR), r.cpu.attr(S.FS)]).toEqual([LDT, S.ATTR_UNUSABLE]);
    expect([r.r32(TSS + 0x20), r.r32(TSS + 0x24), r.r32(TSS + 0x28), r.r32(TSS + 0x4c)]).toEqual([
      CODE + 7,
      6,
      0xa00,
      SEL.code32,
    ]);
    expect([r.mem[GDT + SEL.tss + 5], r.mem[GDT + SEL.tss2 + 5]]).toEqual([0x89, 0x8b]);
    expect(r.cpu.get(S.CR0) & 8).toBe(8);
    expect(r.attentions).toBe(1);
  });
  it('CALL links and sets NT; IRET follows the link', () => {
    for (const call of [CALL_TSS, CALL_GATE]) {
      const r = tasks();
      expect(r.run(...call)).toEqual(JUMP);
      expect([r.r16(TSS2), r.cpu.flags()]).toEqual([SEL.tss, 0x4202]);
      expect(r.run(0xcf)).toEqual(JUMP);
      expect([r.rip, r.cpu.flags(), r.cpu.sel(S.TR)]).toEqual([CODE + 7, 2, SEL.tss]);
      expect(r.r32(TSS2 + 0x24)).toBe(0x202);
      expect(r.mem[GDT + SEL.tss2 + 5]).toBe(0x89);
    }
  });
  it('into a program and into virtual-8086 mode', () => {
    const r = tasks();
    r.w32(TSS2 + 0x24, S.FLAG_VM | 2);
    r.w32(TSS2 + 0x4c, 0x2000);
    r.w32(TSS2 + 0x50, 0x3000);
    expect(r.run(...JMP_TSS)).toEqual(JUMP);
    expect([r.cpu.v86, r.cpu.cpl, r.cpu.segBase(S.CS), r.cpu.segBase(S.SS)]).toEqual([true, 3, 0x20000, 0x30000]);
  });
  it('clears the local breakpoints and loads CR3 when paging is on', () => {
    const r = tasks();
    r.cpu.set(S.DR + 56, 0x7ff);
    r.w32(TSS2 + 0x1c, 0x9000);
    expect(r.run(...JMP_TSS)).toEqual(JUMP);
    expect([r.cpu.get(S.DR + 56), r.cpu.get(S.CR3)]).toEqual([0x6aa, 0]);
    const p = tasks();
    p.cpu.set(S.CR0, 0x80000011);
    p.w32(TSS2 + 0x1c, 0x9000);
    p.flushes.length = 0;
    expect(p.run(...JMP_TSS)).toEqual(JUMP);
    expect([p.cpu.get(S.CR3), p.flushes]).toEqual([0x9000, [0]]);
  });
  it('16-bit TSS', () => {
    const r = new Rig().protected();
    r.desc(SEL.tss2, TSS2, 0x2b, 0x81, 0);
    r.w16(TSS2 + 0x0e, 0x1234);
    r.w16(TSS2 + 0x10, 2);
    for (let n = 0; n < 8; n++) r.w16(TSS2 + 0x12 + n * 2, 0x500 + n);
    for (const [n, sel] of [SEL.data32, SEL.code32, SEL.data32, SEL.data32].entries()) r.w16(TSS2 + 0x22 + n * 2, sel);
    expect(r.run(...CALL_TSS)).toEqual(JUMP);
    expect([r.rip, r.cpu.r16(0), r.cpu.r16(7), r.cpu.sel(S.DS), r.cpu.sel(S.GS)]).toEqual([
      0x1234,
      0x500,
      0x507,
      SEL.data32,
      0,
    ]);
    expect(r.run(0xcf)).toEqual(JUMP);
    expect([r.r16(TSS2 + 0x0e), r.r16(TSS2 + 0x12), r.rip]).toEqual([0x1235, 0x500, CODE + 7]);
  });
  it('the T flag raises #DB in the new task', () => {
    const r = tasks();
    r.w16(TSS2 + 0x64, 1);
    expect(r.run(...JMP_TSS)).toEqual(JUMP);
    expect([r.rip, r.cpu.sel(S.TR), r.cpu.get(S.DR + 48) & 0xf00f]).toEqual([HANDLER + 16, SEL.tss2, 0x8000]);
    expect([r.r32(r.sp), r.r32(r.sp + 8)]).toEqual([0x7777, 0x202]);
  });

  it.each([
    ['TSS DPL', 3, () => {}, fault(S.EXC_GP, SEL.tss2)],
    [
      'busy',
      0,
      (r: Rig) => {
        r.mem[GDT + SEL.tss2 + 5] = 0x8b;
      },
      fault(S.EXC_GP, SEL.tss2),
    ],
    [
      'not present',
      0,
      (r: Rig) => {
        r.mem[GDT + SEL.tss2 + 5] = 0x09;
      },
      fault(S.EXC_NP, SEL.tss2),
    ],
    ['too short', 0, (r: Rig) => r.desc(SEL.tss2, TSS2, 0x66, 0x89, 0), fault(S.EXC_TS, SEL.tss2)],
    [
      'new TSS absent',
      0,
      (r: Rig) => {
        r.desc(SEL.tss2, 0xf000, 0x67, 0x89, 0);
        r.absent.add(15);
      },
      fault(S.EXC_PF, 0),
    ],
    ['old TSS read-only', 0, (r: Rig) => r.readOnly.add(TSS >> 12), fault(S.EXC_PF, 3)],
  ] as const)('fault in the old task, without a trace: %s', (_n, cpl, spoil, want) => {
    const r = tasks(cpl);
    spoil(r);
    const before = r.digest();
    const image = r.mem.slice();
    expect(r.run(...CALL_TSS)).toEqual(want);
    expect(r.digest()).toBe(before);
    expect(r.mem.every((b, at) => b === image[at])).toBe(true);
  });

  it.each([
    ['CS null', 0x4c, 0, fault(S.EXC_TS)],
    ['CS data', 0x4c, SEL.data32, fault(S.EXC_TS, SEL.data32)],
    ['CS of another ring', 0x4c, SEL.code32 | 1, fault(S.EXC_TS, SEL.code32)],
    ['SS null', 0x50, 0, fault(S.EXC_TS)],
    ['SS of another ring', 0x50, SEL.udata32, fault(S.EXC_TS, SEL.udata32 & ~3)],
    ['SS not present', 0x50, SEL.np, fault(S.EXC_SS, SEL.np)],
    ['DS system', 0x54, SEL.tss, fault(S.EXC_TS, SEL.tss)],
    ['DS not present', 0x54, SEL.np, fault(S.EXC_NP, SEL.np)],
    ['LDT is no LDT', 0x60, SEL.data32, fault(S.EXC_TS, SEL.data32)],
    ['LDT in the LDT', 0x60, SEL.ldt | 4, fault(S.EXC_TS, SEL.ldt | 4)],
    ['EIP beyond the limit', 0x20, 0x10000, fault(S.EXC_GP)],
  ])('fault in the new task: %s', (_n, at, value, want) => {
    const r = tasks();
    if (at === 0x20) r.w32(TSS2 + 0x4c, SEL.code16);
    r.w32(TSS2 + at, value);
    // Through a task gate the handler runs in the old task, which the JMP has freed.
    r.gate(IDT + want.vector * 8, SEL.tss, 0, 0x85);
    expect(r.run(...JMP_TSS)).toEqual(JUMP);
    expect([r.cpu.sel(S.TR), r.rip, r.r16(TSS), r.r32(r.sp)]).toEqual([SEL.tss, CODE + 7, SEL.tss2, want.code]);
    expect([r.r32(TSS2 + 0x20), r.r32(TSS2 + 0x28)]).toEqual([at === 0x20 ? value : 0x7777, 0x100]);
  });
  it('a fault in the new task that cannot be delivered there shuts down', () => {
    const r = tasks();
    r.w32(TSS2 + 0x50, 0);
    expect(r.run(...JMP_TSS).status).toBe(S.ST_EXIT);
    expect(r.cpu.get(S.EXIT_CODE)).toBe(S.EX_SHUTDOWN);
  });

  it('IRET with NT and a bad link is #TS', () => {
    const r = tasks();
    r.cpu.setFlags(2 | S.FLAG_NT);
    r.w16(TSS, SEL.tss2);
    expect(r.run(0xcf)).toEqual(fault(S.EXC_TS, SEL.tss2));
    r.w16(TSS, SEL.ldt | 4);
    expect(r.run(0xcf)).toEqual(fault(S.EXC_TS, SEL.ldt | 4));
  });

  it('there is no task switching in long mode', () => {
    const r = new Rig().long(0, true);
    r.desc(SEL.tss2, TSS2, 0x67, 0x89, 0);
    expect(r.run(...JMP_TSS)).toEqual(fault(S.EXC_GP, SEL.tss2));
    expect(r.run(0x9a, 0, 0, 0, 0, SEL.taskGate, 0)).toEqual(fault(S.EXC_GP, SEL.taskGate));
  });
});

describe('ports', () => {
  it('IN and OUT of all widths', () => {
    const r = new Rig().protected();
    r.ioValue = 0x89abcdef;
    r.cpu.setR32(0, 0x11223344);
    r.cpu.setR32(2, 0x3f8);
    expect(r.run(0xee)).toEqual(NEXT);
    expect(r.run(0x66, 0xef)).toEqual(NEXT);
    expect(r.run(0xe7, 0x80)).toEqual(NEXT);
    expect(r.run(0xec)).toEqual(NEXT);
    expect(r.cpu.r32(0)).toBe(0x112233ef);
    expect(r.run(0x66, 0xed)).toEqual(NEXT);
    expect(r.cpu.r32(0)).toBe(0x1122cdef);
    expect(r.run(0xe5, 0x40)).toEqual(NEXT);
    expect(r.cpu.r32(0)).toBe(0x89abcdef);
    expect(r.io).toEqual(['out8 3f8 44', 'out16 3f8 3344', 'out32 80 11223344', 'in8 3f8', 'in16 3f8', 'in32 40']);
  });
  it('IN EAX clears the upper half in 64-bit mode', () => {
    const r = new Rig().long();
    r.setReg(0, -1n);
    r.ioValue = 5;
    r.run(0xe5, 0x40);
    expect(r.reg(0)).toBe(5n);
  });
  it('above IOPL the bitmap in the TSS decides, byte by byte (SDM vol. 1 §19.5.2)', () => {
    const r = new Rig().protected(3);
    r.cpu.setR32(2, 0x3f8);
    r.mem[TSS + 0x68 + 0x7f] = 0xf0; // 3f8–3fb free
    expect(r.run(0xec)).toEqual(NEXT);
    expect(r.run(0xed)).toEqual(NEXT);
    r.cpu.setR32(2, 0x3f9);
    expect(r.run(0xed)).toEqual(fault(S.EXC_GP));
    r.cpu.setR32(2, 0x3fc);
    expect(r.run(0xee)).toEqual(fault(S.EXC_GP));
    expect(r.io.length).toBe(2);
    r.cpu.setFlags(0x3002);
    expect(r.run(0xee)).toEqual(NEXT);
  });
  it('the bitmap ends at the limit, and 16-bit TSSs have none', () => {
    const r = new Rig().protected(3);
    r.cpu.setR32(2, 0xcb0); // byte 0x68 + 0x196 = 0x1fe, and the next, 0x1ff
    expect(r.run(0xec)).toEqual(NEXT);
    r.cpu.setR32(2, 0xcb8);
    expect(r.run(0xec)).toEqual(fault(S.EXC_GP));
    r.cpu.setSeg(S.TR, SEL.tss, TSS, 0, 0x1ff, 0x83);
    r.cpu.setR32(2, 0);
    expect(r.run(0xec)).toEqual(fault(S.EXC_GP));
  });
  it('virtual-8086 mode uses the bitmap whatever IOPL', () => {
    const r = new Rig().v86(3);
    r.mem[TSS + 0x68 + 0x10] = 1;
    expect(r.run(0xe4, 0x80)).toEqual(fault(S.EXC_GP));
    expect(r.run(0xe4, 0x81)).toEqual(NEXT);
  });
  it('REP INSD fills memory and stops at the count', () => {
    const r = new Rig().protected();
    r.ioValue = 0x01020304;
    r.cpu.setR32(7, 0x6000);
    r.cpu.setR32(1, 3);
    expect(r.run(0xf3, 0x6d)).toEqual(NEXT);
    expect([r.cpu.r32(7), r.cpu.r32(1), r.r32(0x6008), r.r32(0x600c)]).toEqual([0x600c, 0, 0x01020304, 0]);
    expect(r.run(0xf3, 0x6d)).toEqual(NEXT);
    expect(r.io.length).toBe(3);
  });
  it('REP OUTSB backwards with a segment override, 16-bit addresses', () => {
    const r = new Rig().real();
    r.cpu.setSeg(S.ES, 0x600, 0x6000, 0, 0xffff, 0x93);
    r.mem.set([1, 2, 3], 0x6010);
    r.cpu.setR32(2, 0);
    r.cpu.setR32(6, 0xffff0012);
    r.cpu.setR32(1, 0x50003);
    r.cpu.setFlags(0x402);
    expect(r.run(0x26, 0xf3, 0x6e)).toEqual(NEXT);
    expect(r.io).toEqual(['out8 0 3', 'out8 0 2', 'out8 0 1']);
    expect([r.cpu.r32(6), r.cpu.r32(1)]).toEqual([0xffff000f, 0x50000]);
  });
  it('a long repetition comes back to itself', () => {
    const r = new Rig().long();
    r.setReg(7, 0x10000n);
    r.setReg(1, 0x1_0000_0000n + 130n);
    expect(r.run(0xf3, 0x6c)).toEqual(JUMP);
    expect([r.rip, r.reg(1), r.reg(7)]).toEqual([CODE, 0x1_0000_0002n, 0x10080n]);
  });
  it('a page fault in the middle leaves what was done, and reads no port for nothing', () => {
    const r = new Rig().protected();
    r.absent.add(7);
    r.cpu.setR32(7, 0x6ffe);
    r.cpu.setR32(1, 5);
    expect(r.run(0xf3, 0x6c)).toEqual(fault(S.EXC_PF, 2));
    expect([r.cpu.r32(7), r.cpu.r32(1), r.rip, r.io.length]).toEqual([0x7000, 3, CODE, 2]);
  });
  it('a repetition of none looks at the port, and at nothing else', () => {
    const r = new Rig().protected(3);
    r.cpu.setR32(1, 0);
    r.cpu.setR32(2, 0xcb8); // beyond the bitmap
    for (const op of [0x6c, 0x6d, 0x6e, 0x6f]) expect(r.run(0xf3, op)).toEqual(fault(S.EXC_GP));
    const k = new Rig().protected();
    k.absent.add(7);
    k.cpu.setR32(1, 0);
    k.cpu.setR32(7, 0x7000);
    expect(k.run(0xf3, 0x6c)).toEqual(NEXT);
    expect(k.io).toEqual([]);
  });
  it('INS respects limits and write rights; OUTS from SS raises #SS', () => {
    const r = new Rig().protected();
    r.cpu.setSeg(S.ES, SEL.ro, 0, 0, 0xffffffff, 0xc091);
    expect(r.run(0x6c)).toEqual(fault(S.EXC_GP));
    r.cpu.setSeg(S.SS, SEL.data16, 0, 0, 0xffff, 0x93);
    r.cpu.setR32(6, 0x10000);
    expect(r.run(0x36, 0x6e)).toEqual(fault(S.EXC_SS));
    r.cpu.setSeg(S.DS, SEL.down, 0, 0, 0xfff, 0x4097);
    r.cpu.setR32(6, 0xfff);
    expect(r.run(0x6e)).toEqual(fault(S.EXC_GP));
    r.cpu.setR32(6, 0x1000);
    expect(r.run(0x6e)).toEqual(NEXT);
    const l = new Rig().long();
    l.setReg(7, 0x0000800000000000n);
    expect(l.run(0x6c)).toEqual(fault(S.EXC_GP));
  });
});
