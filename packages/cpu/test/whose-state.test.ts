// Whose state translated code works on: it has the address as a constant where a thread runs one processor, and is told it
// where several take turns.
import { Exit } from '@hyve/core';
import { expect, it } from 'vitest';
import { createMachine, flat32, le32, runOn } from './machine.ts';

const CODE = 0x1000;
const RUNS = 50;

it.each([0, 1, 20])('processors that take turns share code, but no registers (threshold %i)', (threshold) => {
  const { vm, vcpu } = createMachine({ cpu: { threshold }, vcpus: 3, ram: 1 << 16 });
  // add eax, ebx; xor edx, eax; dec ecx; jnz; hlt
  vm.memory.load(CODE, Uint8Array.of(0x01, 0xd8, 0x31, 0xc2, 0x49, 0x75, 0xf9, 0xf4));
  // The others wait for a start-up message.
  const start = flat32(vcpu, CODE);
  for (let round = 0; round < 4; round++) {
    for (const [n, v] of vm.vcpus.entries())
      v.setState({ ...start, gpr: start.gpr.map((_, r) => BigInt(r === 1 ? RUNS : r === 3 ? n + 1 + round : 0)) });
    for (const v of vm.vcpus) expect(runOn(v)).toBe(Exit.Halt);
    const got = vm.vcpus.map((v) => v.getState().gpr.slice(0, 4).map(Number));
    expect(got).toEqual(
      vm.vcpus.map((_, n) => {
        const step = n + 1 + round;
        let edx = 0;
        for (let i = 1; i <= RUNS; i++) edx ^= step * i;
        return [step * RUNS, 0, edx, step];
      }),
    );
  }
  if (threshold > 0) expect(vm.counters()['regions']).toBe(1);
});

it.each([0, 1, 20])('a jump that cuts RIP leaves the code, whatever its registers hold (threshold %i)', (threshold) => {
  const { vm, vcpu } = createMachine({ cpu: { threshold }, ram: 1 << 16 });
  // mov eax, -14; jmp to the next, with 16-bit operands; dec ecx; jnz; hlt
  const body = [0xb8, ...le32(-14), 0x66, 0xeb, 0x00, 0x49];
  vm.memory.load(CODE, Uint8Array.from([...body, 0x75, 256 - body.length - 2, 0xf4]));
  const s = flat32(vcpu, CODE);
  vcpu.setState({ ...s, gpr: s.gpr.map((_, r) => BigInt(r === 1 ? RUNS : 0)) });
  expect(runOn(vcpu)).toBe(Exit.Halt);
  expect(vcpu.getState().gpr.slice(0, 2)).toEqual([0xfffffff2n, 0n]);
});
