// Repeated string instructions beside a model that goes element by element: overlaps, both directions, page ends.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, flat32 } from './machine.ts';

const RAM = 1 << 16;
const CODE = 0x1000;
const CF = 1;
const ZF = 0x40;

interface Case {
  readonly op: 'movs' | 'stos' | 'scas' | 'cmps';
  readonly size: 1 | 2 | 4;
  readonly down: boolean;
  readonly rep: 0xf2 | 0xf3;
  readonly count: number;
  readonly src: number;
  readonly dst: number;
  readonly ax: number;
}

interface Result {
  readonly cx: number;
  readonly si: number;
  readonly di: number;
  /** CF and ZF, or null where the instruction leaves flags alone. */
  readonly flags: number | null;
}

/** What the instruction does to `ram`. */
function model(ram: Uint8Array, t: Case): Result {
  const view = new DataView(ram.buffer, ram.byteOffset);
  const at = (a: number): number =>
    t.size === 1 ? view.getUint8(a) : t.size === 2 ? view.getUint16(a, true) : view.getUint32(a, true);
  const put = (a: number, v: number): void => {
    if (t.size === 1) view.setUint8(a, v);
    else if (t.size === 2) view.setUint16(a, v, true);
    else view.setUint32(a, v, true);
  };
  const ax = t.size === 4 ? t.ax >>> 0 : t.ax & ((1 << (8 * t.size)) - 1);
  const d = t.down ? -t.size : t.size;
  let { src: si, dst: di, count: cx } = t;
  let flags: number | null = null;
  while (cx > 0) {
    if (t.op === 'movs') put(di, at(si));
    else if (t.op === 'stos') put(di, ax);
    const a = t.op === 'cmps' ? at(si) : ax;
    const b = at(di);
    if (t.op === 'movs' || t.op === 'cmps') si += d;
    di += d;
    cx--;
    if (t.op === 'scas' || t.op === 'cmps') {
      flags = (a < b ? CF : 0) | (a === b ? ZF : 0);
      if ((a === b) !== (t.rep === 0xf3)) break;
    }
  }
  return { cx, si, di, flags };
}

const OPCODE = { movs: 0xa4, cmps: 0xa6, stos: 0xaa, scas: 0xae } as const;

/** 500 cases from a small generator: runs of few different bytes, so that comparisons get far. */
function cases(): Case[] {
  let s = 12345;
  const below = (n: number): number => {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    return (s >>> 0) % n;
  };
  return Array.from({ length: 500 }, () => {
    const size = ([1, 2, 4] as const)[below(3)] as 1 | 2 | 4;
    const count = below(4) === 0 ? below(2000) : below(90);
    const src = 0x8000 + below(0x2000);
    const far = below(2) === 0;
    return {
      op: (['movs', 'movs', 'stos', 'scas', 'cmps'] as const)[below(5)] as Case['op'],
      size,
      down: below(4) === 0,
      rep: below(2) === 0 ? 0xf2 : 0xf3,
      count,
      src,
      dst: far ? 0xb800 + below(0x1000) : src - 70 + below(140),
      ax: below(2) === 0 ? 0x01010101 : 0x01020304,
    };
  });
}

describe.each([
  ['interpreted', 0],
  ['translated', 1],
] as const)('repeated string instructions, %s', (_name, threshold) => {
  it('do what the same elements one after the other do', () => {
    const { vm, vcpu } = createMachine({ cpu: { threshold }, ram: RAM });
    const start = flat32(vcpu, CODE);
    for (const t of cases()) {
      const op = OPCODE[t.op] + (t.size === 1 ? 0 : 1);
      const code = [t.down ? 0xfd : 0xfc, ...(t.size === 2 ? [0x66] : []), t.rep, op, 0xfc, 0xf4];
      const ram = new Uint8Array(RAM);
      for (let i = 0x7000; i < 0xe000; i++) ram[i] = (i * 7) % 997 === 0 ? 2 : 1;
      if (t.op === 'movs') for (let i = 0x7000; i < 0xe000; i++) ram[i] = i * 31 + (i >> 8);
      ram.set(code, CODE);
      vm.memory.load(0, ram);
      const regs = start.gpr.slice();
      regs[0] = BigInt(t.ax);
      regs[1] = BigInt(t.count);
      regs[6] = BigInt(t.src);
      regs[7] = BigInt(t.dst);
      vcpu.setState({ ...start, gpr: regs });
      let why = vcpu.run(1e9).reason;
      for (let i = 0; i < 100 && why !== Exit.Halt; i++) why = vcpu.run(1e9).reason;
      expect(why, JSON.stringify(t)).toBe(Exit.Halt);
      const want = model(ram, t);
      const after = vcpu.getState();
      expect(
        {
          cx: Number(after.gpr[1]),
          si: Number(after.gpr[6]),
          di: Number(after.gpr[7]),
          flags: want.flags === null ? null : Number(after.rflags) & (CF | ZF),
        },
        JSON.stringify(t),
      ).toEqual(want);
      const got = vm.memory.readView(0, RAM);
      let wrong = -1;
      for (let i = 0; i < RAM && wrong < 0; i++) if (got?.[i] !== ram[i]) wrong = i;
      expect(wrong, JSON.stringify(t)).toBe(-1);
    }
  });
});
