// Flags that one instruction sets in part and another sets under a condition: translated code keeps them beside the operation
// that the others follow from, the interpreter in memory. Both must agree at every point where flags are looked at.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, flat32, le32, numbers, runOn } from './machine.ts';

const CODE = 0x1000;
const OUT = 0x20000;
const END = 0x40000;

/**
 * One instruction on EAX, EBX, EDX or EBP. Operations whose flags all follow from operands, some that set CF, OF or ZF alone,
 * some that set none when CL says so, and some that look.
 */
function instruction(r: (n: number) => number): number[] {
  const reg = [0, 3, 2, 5][r(4)] as number;
  const from = [0, 3, 2, 5][r(4)] as number;
  const modrm = 0xc0 | (from << 3) | reg;
  const one = 0xc0 | reg;
  // Counts of zero and of more than the width among them.
  const count = [0, 1, 3, 7, 31, 32, 33][r(7)] as number;
  switch (r(17)) {
    case 0:
      return [[0x01, 0x29, 0x21, 0x09, 0x31, 0x11, 0x19, 0x39, 0x85][r(9)] as number, modrm]; // add … test
    case 1:
      return [r(2) ? 0x40 + reg : 0x48 + reg]; // inc, dec
    case 2:
      return [0xc1, one | (r(4) << 3), count]; // rol, ror, rcl, rcr by a number
    case 3:
      return [0xd3, one | (r(4) << 3)]; // the same by cl
    case 4:
      return [0xc1, one | (([4, 5, 7][r(3)] as number) << 3), count]; // shl, shr, sar
    case 5:
      return [0xd3, one | (([4, 5, 7][r(3)] as number) << 3)];
    case 6:
      return [0x0f, r(2) ? 0xa5 : 0xad, modrm]; // shld, shrd by cl
    case 7:
      return [0x0f, 0xba, one | ((4 + r(4)) << 3), r(32)]; // bt, bts, btr, btc
    case 8:
      return [[0xf5, 0xf8, 0xf9][r(3)] as number]; // cmc, clc, stc
    case 9:
      return [0xf3, 0x0f, r(2) ? 0xbc : 0xbd, 0xc0 | (reg << 3) | from]; // tzcnt, lzcnt
    case 10:
      return [0x0f, r(2) ? 0xbc : 0xbd, 0xc0 | (reg << 3) | from]; // bsf, bsr
    case 11:
      return [0x0f, 0xaf, 0xc0 | (reg << 3) | from]; // imul
    case 12:
      return [0xf7, one | (3 << 3)]; // neg
    case 13:
      return [0x0f, 0x90 + r(16), 0xc0 | ([0, 3, 2][r(3)] as number)]; // setcc al, bl, dl
    case 14:
      return [0x70 + r(16), 2, 0xff, 0xc0 | reg]; // jcc over an inc
    case 15:
      return [0x9c, 0x8f, 0x07, 0x83, 0xc7, 0x04]; // pushf; pop [edi]; add edi, 4
    default:
      return [0x66, 0xc1, one | (r(2) << 3), r(20)]; // rol, ror of 16 bits
  }
}

/** A machine that tells what a program leaves in registers, flags and at OUT. */
function bench(threshold: number): (program: readonly number[]) => unknown {
  const { vm, vcpu } = createMachine({ cpu: { threshold } });
  const first = flat32(vcpu, CODE);
  const start = [0x12345678, 0, 0x80000001, 0xffffffff, END, 7, 12, OUT];
  return (program) => {
    vm.memory.load(OUT, new Uint8Array(END - OUT));
    vm.memory.load(CODE, Uint8Array.from(program));
    vcpu.setState({ ...first, gpr: first.gpr.map((_, n) => BigInt(start[n] ?? 0)), rflags: 2n });
    expect(runOn(vcpu)).toBe(Exit.Halt);
    const { gpr, rflags } = vcpu.getState();
    const looks: number[] = [];
    for (let at = OUT; at < Number(gpr[7]); at += 4) looks.push(vm.memory.read32(at));
    return { gpr, rflags, looks };
  };
}

describe('flags set in part', () => {
  it('are the same in both tiers wherever they are looked at', () => {
    const interpreted = bench(0);
    const translated = bench(1);
    for (let seed = 1; seed <= 150; seed++) {
      const r = numbers(seed * 977);
      const body: number[] = [];
      const length = 4 + r(24);
      for (let n = 0; n < length; n++) body.push(...instruction(r));
      // ESI passes, with another CL in each; the end of each pass keeps all flags: pushf; pop [edi]; add edi, 4; add ecx, 5; dec esi; jnz
      body.push(0x9c, 0x8f, 0x07, 0x83, 0xc7, 0x04, 0x83, 0xc1, 0x05, 0x4e);
      const program = [...body, 0x0f, 0x85, ...le32(-(body.length + 6)), 0xf4];
      expect(translated(program), `seed ${seed}`).toEqual(interpreted(program));
    }
  });
});
