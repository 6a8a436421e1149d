// Indirect jumps and calls within regions: their targets are learned while the code is interpreted, and later when they miss.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { spread } from '../src/jit.ts';
import { createMachine, flat32, le32, runOn } from './machine.ts';

describe('spread', () => {
  it('gives each value a place of its own', () => {
    for (let count = 1; count <= 40; count++) {
      const values = Array.from({ length: count }, (_, n) => (Math.imul(n * n + 3 * n, 0x2f1) - count * 5) | 0);
      const { multiplier, shift, places } = spread(values);
      expect(places.length).toBe(2 ** (32 - shift));
      expect(places.length).toBeLessThanOrEqual(1024);
      expect(places.filter((n) => n >= 0).toSorted((a, b) => a - b)).toEqual(values.map((_, n) => n));
      values.forEach((v, n) => {
        expect(places[Math.imul(v, multiplier) >>> shift]).toBe(n);
      });
    }
  });
});

const CODE = 0x1000;
const TABLE = 0x4000;
const PROGRAM = 0x5000;
const STACK = 0x8000;
/** Bytes from one operation to the next. */
const STEP = 64;

/**
 * A machine with operations that each add a number of their own to EBX and turn it, and a loop of `loops` passes over
 * `program`, numbers of operations. How it goes from one to the next is `next`, code that goes to TABLE[EAX]; `back` is what
 * operations end with.
 */
function interpreter(o: {
  readonly operations: number;
  readonly program: readonly number[];
  readonly loops: number;
  readonly called: boolean;
  readonly threshold: number;
}) {
  const { vm, vcpu } = createMachine({ cpu: { threshold: o.threshold }, ram: 1 << 16 });
  // lodsd; jmp [TABLE + eax*4], or a call of the same and a jump back to the start
  const dispatch = [0xad, 0xff, o.called ? 0x14 : 0x24, 0x85, ...le32(TABLE)];
  const start = CODE + STEP * (o.operations + 1);
  for (let n = 0; n < o.operations; n++) {
    // add ebx, 7n+1; rol ebx, 3
    const code = [0x81, 0xc3, ...le32(7 * n + 1), 0xc1, 0xc3, 3, ...(o.called ? [0xc3] : dispatch)];
    vm.memory.load(CODE + STEP * n, Uint8Array.from(code));
    vm.memory.load(TABLE + 4 * n, Uint8Array.from(le32(CODE + STEP * n)));
  }
  // The last one begins anew: mov esi, PROGRAM; dec edi; jz to HLT
  const last = [0xbe, ...le32(PROGRAM), 0x4f, 0x74, o.called ? 0x01 : dispatch.length];
  const end = CODE + STEP * o.operations;
  vm.memory.load(end, Uint8Array.from([...last, ...(o.called ? [0xc3, 0xf4] : [...dispatch, 0xf4])]));
  vm.memory.load(TABLE + 4 * o.operations, Uint8Array.from(le32(end)));
  vm.memory.load(PROGRAM, Uint8Array.from([...o.program, o.operations].flatMap(le32)));
  // call …; jmp start
  vm.memory.load(start, Uint8Array.from([...dispatch, 0xeb, 256 - dispatch.length - 2]));
  const s = flat32(vcpu, start);
  const gpr = s.gpr.slice();
  gpr[4] = BigInt(STACK);
  gpr[6] = BigInt(PROGRAM);
  gpr[7] = BigInt(o.loops);
  vcpu.setState({ ...s, gpr });
  return { vm, vcpu };
}

/** EBX after `loops` passes over a program. */
function model(program: readonly number[], loops: number, from = 0): number {
  let ebx = from;
  for (let i = 0; i < loops; i++)
    for (const n of program) {
      ebx = (ebx + 7 * n + 1) | 0;
      ebx = (ebx << 3) | (ebx >>> 29);
    }
  return ebx >>> 0;
}

/** Runs until HLT. */
function finish({ vcpu }: ReturnType<typeof interpreter>): number {
  expect(runOn(vcpu)).toBe(Exit.Halt);
  return Number(vcpu.getState().gpr[3]);
}

describe('an interpreter in the guest', () => {
  const program = [3, 0, 1, 9, 4, 4, 2, 8, 5, 6, 7, 0, 9, 1];
  for (const threshold of [0, 1, 100])
    for (const called of [false, true])
      it(`whose operations are ${called ? 'called' : 'jumped to'} comes to the same, threshold ${threshold}`, () => {
        const m = interpreter({ operations: 10, program, loops: 4999, called, threshold });
        expect(finish(m)).toBe(model(program, 4999));
      });

  it('that begins to use other operations has its regions made anew, a few times', () => {
    const m = interpreter({ operations: 10, program: [0, 1, 0, 1], loops: 99_991, called: true, threshold: 100 });
    const first = finish(m);
    expect(first).toBe(model([0, 1, 0, 1], 99_991));
    expect(m.vm.counters()['regions']).toBeGreaterThan(0);
    expect(m.vm.counters()['regionsRenewed']).toBe(0);
    m.vm.memory.load(PROGRAM, Uint8Array.from([...program, 10].flatMap(le32)));
    const s = m.vcpu.getState();
    const gpr = s.gpr.slice();
    gpr[6] = BigInt(PROGRAM);
    gpr[7] = 99_991n;
    gpr[4] = BigInt(STACK);
    m.vcpu.setState({ ...s, gpr, activity: 'running', rip: BigInt(CODE + STEP * 11) });
    expect(finish(m)).toBe(model(program, 99_991, first));
    const { regionsRenewed } = m.vm.counters();
    expect(regionsRenewed).toBeGreaterThan(0);
    expect(regionsRenewed).toBeLessThan(12);
  });
});
