// #AC in user mode with CR0.AM and EFLAGS.AC. Intel SDM vol. 3A §6.15, interrupt 17; vol. 2 §2.4 and the instructions' pages.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, flat32, runOn } from './machine.ts';

/** Whether code at CPL 3, EBX holding an address, faults: there is no IDT, so that any exception ends in shutdown. */
function faults(threshold: number, code: readonly number[], address: number, ac: boolean): boolean {
  const { vm, vcpu } = createMachine({ cpu: { threshold } });
  vm.memory.load(0x1000, Uint8Array.from([...code, 0xeb, 0xfe])); // jmp $
  const s = flat32(vcpu, 0x1000, 3);
  vcpu.setState({
    ...s,
    cr0: 0x40031n,
    cr4: 0x40600n,
    xcr0: 7n,
    rflags: ac ? 0x40002n : 2n,
    idtr: { base: 0n, limit: 0 },
    gpr: s.gpr.map((_, n) => (n === 3 ? BigInt(address) : n === 4 ? 0x8000n : 0n)),
  });
  const reason = runOn(vcpu, 100);
  expect([Exit.Shutdown, Exit.Budget]).toContain(reason);
  return reason === Exit.Shutdown;
}

describe.each([
  ['interpreter', 0],
  ['translator', 1],
])('#AC, %s', (_, threshold) => {
  it.each<[string, number[], number, boolean]>([
    ['MOV of 4 bytes', [0x8b, 0x03], 0x8002, true],
    ['MOV of 4 bytes, aligned', [0x8b, 0x03], 0x8004, false],
    ['MOVQ', [0xf3, 0x0f, 0x7e, 0x03], 0x8004, true],
    ['MOVUPS, not at a multiple of 8', [0x0f, 0x10, 0x03], 0x8004, true],
    ['MOVUPS at a multiple of 8', [0x0f, 0x10, 0x03], 0x8008, false],
    ['MOVDQU, a store', [0xf3, 0x0f, 0x7f, 0x03], 0x8001, true],
    ['VMASKMOVPS: never', [0xc4, 0xe2, 0x71, 0x2c, 0x03], 0x8001, false],
    ['VPMASKMOVD, a store: never', [0xc4, 0xe2, 0x71, 0x8e, 0x03], 0x8001, false],
    ['VPGATHERDD: never', [0xc4, 0xe2, 0x69, 0x90, 0x04, 0x0b], 0x8001, false], // xmm0, [ebx + xmm1], xmm2
  ])('%s', (_name, code, address, want) => {
    // All lanes of the masks are on.
    const setUp = [0x66, 0x0f, 0x76, 0xd2, 0x66, 0x0f, 0x76, 0xc9]; // pcmpeqd xmm2, xmm2; pcmpeqd xmm1, xmm1
    const body = [...setUp, ...(code[0] === 0xc4 && code[3] === 0x90 ? [0x66, 0x0f, 0xef, 0xc9] : []), ...code];
    expect(faults(threshold, body, address, true)).toBe(want);
    expect(faults(threshold, body, address, false)).toBe(false);
  });

  it('comes back after an instruction that never raises it', () => {
    const code = [0xc4, 0xe2, 0x71, 0x2c, 0x03, 0x8b, 0x03]; // vmaskmovps xmm0, xmm1, [ebx]; mov eax, [ebx]
    expect(faults(threshold, code, 0x8001, true)).toBe(true);
  });
});
