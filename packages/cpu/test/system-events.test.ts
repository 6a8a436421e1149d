import { describe, expect, it } from 'vitest';
import * as S from '../src/state.ts';
import { DEBUG_FAULT, DELIVERED, EventSource, hasErrorCode, SHUTDOWN } from '../src/system/events.ts';
import { CODE, fault, GDT, HANDLER, IDT, JUMP, Rig, SEL, STACK0, STACK3, TSS, TSS2 } from './system-rig.ts';

const exception = (r: Rig, vector: number, code = 0): number =>
  r.unit.deliver(vector, EventSource.Exception, hasErrorCode(vector), code);
const external = (r: Rig, vector: number): number => r.unit.deliver(vector, EventSource.External, false, 0);
const words = (r: Rig, n: number): number[] => Array.from({ length: n }, (_v, i) => r.r32(r.sp + i * 4));
const quads = (r: Rig, n: number): bigint[] => Array.from({ length: n }, (_v, i) => r.r64(r.sp + i * 8));

describe('which exceptions have error codes', () => {
  it('is 8, 10–14, 17, 21', () => {
    const list = Array.from({ length: 256 }, (_v, i) => i).filter(hasErrorCode);
    expect(list).toEqual([8, 10, 11, 12, 13, 14, 17, 21]);
  });
});

describe('real mode', () => {
  it('pushes FLAGS, CS, IP; clears IF, TF, AC; no error code', () => {
    const r = new Rig().real();
    r.cpu.setFlags(0x40302);
    expect(exception(r, 13, 0)).toBe(DELIVERED);
    expect([r.cpu.segBase(S.CS), r.rip, r.cpu.flags(), r.sp]).toEqual([0x1000, 13 * 4, 2, 0x7ffa]);
    expect([r.r16(0x7ffa), r.r16(0x7ffc), r.r16(0x7ffe)]).toEqual([CODE, 0, 0x0302]);
  });
  it('INT n returns behind itself', () => {
    const r = new Rig().real();
    expect(r.run(0xcd, 0x10)).toEqual(JUMP);
    expect([r.rip, r.r16(0x7ffa)]).toEqual([0x40, CODE + 2]);
  });
  it('shuts down when the table has no entries', () => {
    const r = new Rig().real();
    r.cpu.set(S.IDT_LIMIT, 0);
    expect(external(r, 8)).toBe(SHUTDOWN);
  });
});

describe('protected mode', () => {
  it('to the same ring pushes flags, CS, EIP and the error code', () => {
    const r = new Rig().protected();
    r.cpu.setFlags(0x4302);
    expect(exception(r, 13, 0x18)).toBe(DELIVERED);
    expect(words(r, 4)).toEqual([0x18, CODE, SEL.code32, 0x14302]);
    expect([r.rip, r.cpu.flags()]).toEqual([HANDLER + 13 * 16, 2]);
  });
  it('to an inner ring switches to the stack of the TSS', () => {
    const r = new Rig().protected(3);
    r.cpu.setFlags(0x202);
    expect(external(r, 0x20)).toBe(DELIVERED);
    expect([r.cpu.cpl, r.cpu.sel(S.SS), r.sp]).toEqual([0, SEL.data32, STACK0 - 20]);
    expect(words(r, 5)).toEqual([CODE, SEL.ucode32, 0x202, STACK3, SEL.udata32]);
  });
  it('a trap gate leaves IF', () => {
    const r = new Rig().protected();
    r.gate(IDT + 0x20 * 8, SEL.code32, HANDLER, 0x8f);
    r.cpu.setFlags(0x202);
    external(r, 0x20);
    expect(r.cpu.flags()).toBe(0x202);
  });
  it('a 16-bit gate pushes words', () => {
    const r = new Rig().protected();
    r.gate(IDT + 13 * 8, SEL.code32, 0x12345678, 0x86);
    const sp = r.sp;
    exception(r, 13, 0x5678);
    expect([r.sp, r.rip]).toEqual([sp - 8, 0x5678]);
    expect([0, 2, 4].map((o) => r.r16(r.sp + o))).toEqual([0x5678, CODE, SEL.code32]);
  });
  it('sets RF in the image for faults, not for traps, interrupts, #BP', () => {
    const flags = (vector: number, source: EventSource, code = 0): number => {
      const r = new Rig().protected();
      r.unit.deliver(vector, source, false, code);
      return r.r32(r.sp + 8);
    };
    expect(flags(6, EventSource.Exception)).toBe(0x10002);
    expect(flags(1, EventSource.Exception, 0x4000)).toBe(2);
    expect(flags(1, EventSource.Exception, 1 | DEBUG_FAULT)).toBe(0x10002);
    expect(flags(3, EventSource.Exception)).toBe(2);
    expect(flags(0x20, EventSource.External)).toBe(2);
    expect(flags(2, EventSource.Nmi)).toBe(2);
  });
  it('#DB sets DR6 and clears DR7.GD; #PF sets CR2', () => {
    const r = new Rig().protected();
    r.cpu.set(S.DR + 56, 0x2400);
    exception(r, 1, 0x4001);
    expect([r.cpu.get(S.DR + 48), r.cpu.get(S.DR + 56)]).toEqual([0xffff4ff1, 0x400]);
    // Breakpoint conditions are those of the last #DB, all else is sticky.
    exception(r, 1, 4);
    expect(r.cpu.get(S.DR + 48)).toBe(0xffff4ff4);
    r.cpu.setAddr(S.FAULT_ADDR, 0x12345);
    exception(r, 14, 2);
    expect(r.cpu.getAddr(S.CR2)).toBe(0x12345);
    expect(r.r32(r.sp)).toBe(2);
  });
  it('INT n checks the gate’s DPL, exceptions do not', () => {
    const r = new Rig().protected(3);
    const before = r.digest();
    expect(r.run(0xcd, 0x30)).toEqual(fault(S.EXC_GP, 0x30 * 8 + 2));
    expect(r.run(0xcc)).toEqual(fault(S.EXC_GP, 3 * 8 + 2));
    expect(r.digest()).toBe(before);
    r.gate(IDT + 0x30 * 8, SEL.code32, HANDLER, 0xee);
    expect(r.run(0xcd, 0x30)).toEqual(JUMP);
    expect(r.r32(r.sp)).toBe(CODE + 2);
    const i = new Rig().protected(3);
    expect(i.run(0xf1)).toEqual(JUMP);
    expect([i.cpu.cpl, i.rip, i.r32(i.sp)]).toEqual([0, HANDLER + 16, CODE + 1]);
  });
  it('INTO only with OF', () => {
    const r = new Rig().protected();
    expect(r.run(0xce).status).toBe(S.ST_NEXT);
    r.cpu.setFlags(0x802);
    expect(r.run(0xce)).toEqual(JUMP);
    expect(r.rip).toBe(HANDLER + 64);
  });
  it.each([
    ['beyond the IDT', (r: Rig) => r.cpu.set(S.IDT_LIMIT, 0x2ff), fault(S.EXC_GP, 0x402)],
    ['not a gate', (r: Rig) => r.gate(IDT + 0x400, SEL.code32, 0, 0xec), fault(S.EXC_GP, 0x402)],
    ['not present', (r: Rig) => r.gate(IDT + 0x400, SEL.code32, 0, 0x6e), fault(S.EXC_NP, 0x402)],
    ['null code selector', (r: Rig) => r.gate(IDT + 0x400, 0, 0, 0xee), fault(S.EXC_GP)],
    ['data selector', (r: Rig) => r.gate(IDT + 0x400, SEL.data32, 0, 0xee), fault(S.EXC_GP, SEL.data32)],
    ['handler beyond its limit', (r: Rig) => r.gate(IDT + 0x400, SEL.code16, 0x10000, 0xee), fault(S.EXC_GP)],
    ['outer handler', (r: Rig) => r.gate(IDT + 0x400, SEL.ucode32, 0, 0xee), fault(S.EXC_GP, SEL.ucode32 & ~3)],
  ])('INT n: %s', (_n, spoil, want) => {
    const r = new Rig().protected();
    spoil(r);
    const before = r.digest();
    expect(r.run(0xcd, 0x80)).toEqual(want);
    expect(r.digest()).toBe(before);
  });
  it('sets the EXT bit in faults met while delivering interrupts and exceptions', () => {
    const r = new Rig().protected();
    r.gate(IDT + 0x20 * 8, SEL.np, 0, 0x8e);
    r.desc(SEL.np, 0, 0xfffff, 0x1b, 0xc);
    expect(external(r, 0x20)).toBe(DELIVERED);
    expect([r.rip, r.r32(r.sp)]).toEqual([HANDLER + S.EXC_NP * 16, SEL.np | 1]);
  });
});

describe('virtual-8086 mode', () => {
  it('enters ring 0 with all segments pushed and cleared', () => {
    const r = new Rig().v86();
    r.rip = 0x12;
    expect(exception(r, 13)).toBe(DELIVERED);
    expect(r.sp).toBe(STACK0 - 40);
    expect(words(r, 10)).toEqual([0, 0x12, CODE >> 4, 0x30202, 0x100, 0x900, 0x600, 0x603, 0x604, 0x605]);
    expect([r.cpu.v86, r.cpu.cpl]).toEqual([false, 0]);
    for (const n of [S.ES, S.DS, S.FS, S.GS]) expect([r.cpu.sel(n), r.cpu.attr(n)]).toEqual([0, S.ATTR_UNUSABLE]);
  });
  it('INT n needs IOPL 3; INT3 does not', () => {
    expect(new Rig().v86(0).run(0xcd, 0x80)).toEqual(fault(S.EXC_GP));
    const r = new Rig().v86(0);
    r.gate(IDT + 3 * 8, SEL.code32, HANDLER, 0xee);
    expect(r.run(0xcc)).toEqual(JUMP);
    const i = new Rig().v86(3);
    i.gate(IDT + 0x80 * 8, SEL.code32, HANDLER, 0xee);
    expect(i.run(0xcd, 0x80)).toEqual(JUMP);
  });
  it('handlers must be ring 0, nonconforming', () => {
    const r = new Rig().v86(3);
    r.gate(IDT + 0x80 * 8, SEL.conf32, HANDLER, 0xee);
    expect(r.run(0xcd, 0x80)).toEqual(fault(S.EXC_GP, SEL.conf32));
  });
});

describe('long mode', () => {
  it('aligns RSP and always pushes SS:RSP', () => {
    const r = new Rig().long();
    r.sp = STACK0 - 0x103;
    r.cpu.setFlags(0x202);
    expect(external(r, 0x20)).toBe(DELIVERED);
    expect(r.sp).toBe(STACK0 - 0x110 - 40);
    expect(quads(r, 5)).toEqual([CODE, SEL.code64, 0x202, STACK0 - 0x103, SEL.data32].map(BigInt));
    expect([r.cpu.sel(S.SS), r.rip]).toEqual([SEL.data32, HANDLER + 0x200]);
  });
  it('from a program takes RSP0 and a null SS', () => {
    const r = new Rig().long(3);
    expect(exception(r, 14, 7)).toBe(DELIVERED);
    expect([r.cpu.cpl, r.cpu.sel(S.SS), r.cpu.attr(S.SS), r.sp]).toEqual([0, 0, S.ATTR_UNUSABLE, STACK0 - 48]);
    expect(quads(r, 6)).toEqual([7, CODE, SEL.ucode64, 0x10002, STACK3, SEL.udata32].map(BigInt));
  });
  it('uses an IST stack even in the same ring', () => {
    const r = new Rig().long();
    r.gate64(IDT + 2 * 16, SEL.code64, 0xffff800000005000n, 0x8e, 3);
    expect(r.unit.deliver(2, EventSource.Nmi, false, 0)).toBe(DELIVERED);
    expect([r.sp, r.rip]).toEqual([0xe000 - 40, -0x8000_0000_0000 + 0x5000]);
    expect(r.cpu.sel(S.SS)).toBe(SEL.data32);
  });
  it('enters 64-bit code from compatibility mode', () => {
    const r = new Rig().long(3, true);
    expect(external(r, 0x20)).toBe(DELIVERED);
    expect([r.cpu.code64, r.cpu.cpl]).toEqual([true, 0]);
    expect(quads(r, 2)).toEqual([BigInt(CODE), BigInt(SEL.ucode32)]);
  });
  it.each([
    ['32-bit handler', (r: Rig) => r.gate64(IDT + 0x300, SEL.code32, 0n, 0xee), fault(S.EXC_GP, SEL.code32)],
    ['offset not canonical', (r: Rig) => r.gate64(IDT + 0x300, SEL.code64, 0x0000800000000000n, 0xee), fault(S.EXC_GP)],
    ['RSP0 not canonical', (r: Rig) => r.w64(TSS + 4, 0x0000800000000000n), fault(S.EXC_SS)],
    ['16-bit gate', (r: Rig) => r.gate64(IDT + 0x300, SEL.code64, 0n, 0xe6), fault(S.EXC_GP, 0x182)],
    ['beyond the IDT', (r: Rig) => r.cpu.set(S.IDT_LIMIT, 0x30e), fault(S.EXC_GP, 0x182)],
    ['TSS too short', (r: Rig) => r.cpu.setSeg(S.TR, SEL.tss, TSS, 0, 10, 0x8b), fault(S.EXC_TS, SEL.tss)],
    ['stack not writable', (r: Rig) => r.readOnly.add((STACK0 - 1) >> 12), fault(S.EXC_PF, 3)],
  ])('INT n: %s', (_n, spoil, want) => {
    const r = new Rig().long(3);
    r.gate64(IDT + 0x300, SEL.code64, 0n, 0xee);
    spoil(r);
    const before = r.digest();
    expect(r.run(0xcd, 0x30)).toEqual(want);
    expect(r.digest()).toBe(before);
  });
});

describe('nested faults (SDM vol. 3A table 6-5)', () => {
  const broken = (r: Rig, ...vectors: number[]): Rig => {
    for (const v of vectors) r.gate(IDT + v * 8, SEL.code32, 0, 0x0e);
    return r;
  };
  const entered = (r: Rig): number => (r.rip - HANDLER) / 16;

  it('a benign event whose delivery faults leads to that fault', () => {
    const r = broken(new Rig().protected(), 6);
    expect(exception(r, 6)).toBe(DELIVERED);
    expect([entered(r), r.r32(r.sp)]).toEqual([S.EXC_NP, 6 * 8 + 3]);
  });
  it('two contributory exceptions make a double fault with error code 0', () => {
    const r = broken(new Rig().protected(), 13);
    expect(exception(r, 13)).toBe(DELIVERED);
    expect([entered(r), r.r32(r.sp)]).toEqual([S.EXC_DF, 0]);
  });
  it('a page fault while delivering a page fault makes a double fault; CR2 is the second’s', () => {
    const r = new Rig().protected();
    r.gate(IDT + 14 * 8, SEL.code32, HANDLER + 14 * 16, 0x8e);
    r.desc(SEL.code32, 0, 0xfffff, 0x9a, 0xc);
    r.gate(IDT + 8 * 8, SEL.conf32, HANDLER + 8 * 16, 0x8e);
    r.readOnly.add(GDT >> 12);
    r.cpu.setAddr(S.FAULT_ADDR, 0x1234);
    expect(exception(r, 14)).toBe(DELIVERED);
    expect(entered(r)).toBe(S.EXC_DF);
    expect(r.cpu.get(S.CR2)).toBe(GDT + SEL.code32 + 5);
  });
  it('a contributory exception then a page fault is handled in turn', () => {
    const r = new Rig().protected();
    r.gate(IDT + 13 * 8, SEL.code16, HANDLER, 0x8e);
    r.desc(SEL.code16, 0, 0xffff, 0x9a, 0);
    r.readOnly.add(GDT >> 12);
    expect(exception(r, 13)).toBe(DELIVERED);
    expect(entered(r)).toBe(S.EXC_PF);
  });
  it('a page fault then a contributory exception makes a double fault', () => {
    const r = broken(new Rig().protected(), 14);
    expect(exception(r, 14)).toBe(DELIVERED);
    expect(entered(r)).toBe(S.EXC_DF);
  });
  it('a fault while delivering a double fault shuts down', () => {
    expect(exception(broken(new Rig().protected(), 13, 8), 13)).toBe(SHUTDOWN);
    const r = broken(new Rig().protected(), 8, 11);
    expect(external(broken(r, 0x20), 0x20)).toBe(SHUTDOWN);
  });
  it('a software interrupt that faults is no exception: its fault counts as first', () => {
    const r = broken(new Rig().protected(), 0x80);
    expect(r.run(0xcd, 0x80)).toEqual(fault(S.EXC_NP, 0x402));
    expect(exception(r, S.EXC_NP, 0x402)).toBe(DELIVERED);
    expect(entered(r)).toBe(S.EXC_NP);
  });
  it('every vector with an empty IDT ends in shutdown, never in a throw', () => {
    for (let v = 0; v < 32; v++) {
      for (const r of [
        new Rig().protected(),
        new Rig().long(),
        new Rig().protected(3),
        new Rig().long(3),
        new Rig().v86(),
      ]) {
        r.cpu.set(S.IDT_LIMIT, 0);
        expect(exception(r, v)).toBe(SHUTDOWN);
      }
    }
  });
});

describe('task gates in the IDT', () => {
  it('switch to the task, nested, with the error code on its stack', () => {
    const r = new Rig().protected();
    r.gate(IDT + 8 * 8, SEL.tss2, 0, 0x85);
    r.w32(TSS2 + 0x20, 0x7777);
    r.w32(TSS2 + 0x24, 2);
    r.w32(TSS2 + 0x38, 0x8000);
    for (const [o, sel] of [
      [0x48, SEL.data32],
      [0x4c, SEL.code32],
      [0x50, SEL.data32],
      [0x54, SEL.data32],
    ] as const)
      r.w32(TSS2 + o, sel);
    expect(exception(r, 8)).toBe(DELIVERED);
    expect([r.rip, r.sp, r.r32(0x7ffc), r.cpu.sel(S.TR)]).toEqual([0x7777, 0x7ffc, 0, SEL.tss2]);
    expect([r.r16(TSS2), r.cpu.flags() & S.FLAG_NT]).toEqual([SEL.tss, S.FLAG_NT]);
    expect(r.r32(TSS + 0x20)).toBe(CODE);
    expect([r.mem[GDT + SEL.tss + 5], r.mem[GDT + SEL.tss2 + 5]]).toEqual([0x8b, 0x8b]);
    // IRET goes back and frees the inner task
    expect(r.run(0xcf)).toEqual(JUMP);
    expect([r.rip, r.cpu.sel(S.TR), r.mem[GDT + SEL.tss2 + 5]]).toEqual([CODE, SEL.tss, 0x89]);
  });
});
