// When the run loop hears of a kick: right after the instruction that caused it, whatever surrounds it.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, flat32 } from './machine.ts';

/** Runs `code` in 32-bit mode at 0x1000; writes to 0x800000 and ports kick. */
function kicking(code: readonly number[], threshold: number) {
  const writes: number[] = [];
  const { vm, vcpu } = createMachine({
    cpu: { threshold },
    bus: {
      ioWrite: () => vcpu.kick(),
      mmioWrite: (_addr, _width, value) => {
        writes.push(value);
        vcpu.kick();
      },
    },
  });
  vm.memory.load(0x1000, Uint8Array.from(code));
  vcpu.setState(flat32(vcpu, 0x1000));
  return { vcpu, writes };
}

// inc ebx; mov [0x800000], ebx; inc ecx; add [0x800000], ebx; inc ecx; out 0x80, al; inc ecx; jmp back
const LOOP = [
  0x43, 0x89, 0x1d, 0x00, 0x00, 0x80, 0x00, 0x41, 0x01, 0x1d, 0x00, 0x00, 0x80, 0x00, 0x41, 0xe6, 0x80, 0x41, 0xeb,
  0xec,
];
const AFTER = [0x1007n, 0x100en, 0x1011n];

describe('a kick from within an instruction', () => {
  for (const [tier, threshold] of [
    ['interpreter', 0],
    ['translator', 5],
  ] as const)
    it(`ends run() right after that instruction, ${tier}`, () => {
      const { vcpu, writes } = kicking(LOOP, threshold);
      for (let n = 0; n < 600; n++) {
        expect(vcpu.run(1e9).reason).toBe(Exit.Kicked);
        expect([n, vcpu.getState().rip]).toEqual([n, AFTER[n % 3]]);
      }
      const state = vcpu.getState();
      expect([state.gpr[3], state.gpr[1]]).toEqual([200n, 599n]);
      expect(writes.length).toBe(400);
    });

  it('does not disturb the code: the next pass runs through', () => {
    const { vcpu } = kicking(LOOP, 0);
    vcpu.run(1e9);
    const before = vcpu.getState();
    vcpu.setState({ ...before, rip: 0x1007n });
    // From the record that stood in for the leave: inc ecx, then the add.
    expect(vcpu.run(1e9).reason).toBe(Exit.Kicked);
    expect([vcpu.getState().rip, vcpu.getState().gpr[1]]).toEqual([0x100en, 1n]);
  });
  it('goes on in the function that was called when the call itself kicks, its stack being a device', () => {
    const stack = new Map<number, number>();
    const { vm, vcpu } = createMachine({
      cpu: { threshold: 5 },
      bus: {
        mmioRead: (addr) => stack.get(addr) ?? 0,
        mmioWrite: (addr, _width, value) => {
          stack.set(addr, value);
          vcpu.kick();
        },
      },
    });
    // inc ebx; call 0x1010; jmp back. At 0x1010: inc eax; mov [0x5000], eax; ret
    vm.memory.load(0x1000, Uint8Array.of(0x43, 0xe8, 0x0a, 0x00, 0x00, 0x00, 0xeb, 0xf8));
    vm.memory.load(0x1010, Uint8Array.of(0x40, 0xa3, 0x00, 0x50, 0x00, 0x00, 0xc3));
    const s = flat32(vcpu, 0x1000);
    vcpu.setState({ ...s, gpr: s.gpr.map((_, n) => (n === 4 ? 0x800100n : 0n)) });
    for (let n = 0; n < 600; n++) {
      expect(vcpu.run(1e9).reason).toBe(Exit.Kicked);
      const [eax, , , ebx, esp] = vcpu.getState().gpr as [bigint, bigint, bigint, bigint, bigint];
      expect(esp).toBe(0x8000fcn);
      expect([0n, 1n]).toContain(ebx - eax);
    }
    expect(vm.counters()['regions']).toBeGreaterThan(0);
  });

  it('leaves nothing of a store undone, whatever kind of store', () => {
    const at = [0x05, 0x00, 0x00, 0x80, 0x00];
    // fninit; fld1; inc ebx; then MOVQ and (after FNINIT, FLD1 again) MOVD of MM0, SETZ, MOVSS, MOVAPS, MOVNTI, PUSH
    const x87 = [0xdb, 0xe3, 0xd9, 0xe8];
    const code = [
      ...x87, 0x43, 0x0f, 0x7f, ...at, ...x87, 0x0f, 0x7e, ...at, 0x0f, 0x94, ...at, 0xf3, 0x0f, 0x11, ...at,
      0x0f, 0x29, ...at, 0x0f, 0xc3, ...at, 0xbc, 0x10, 0x00, 0x80, 0x00, 0x50,
    ]; // biome-ignore format: a list
    code.push(0xeb, 256 - code.length - 2);
    const [wanted, got] = [0, 5].map((threshold) => {
      const { vcpu } = kicking(code, threshold);
      vcpu.setState({ ...vcpu.getState(), cr4: 0x600n });
      return Array.from({ length: 300 }, () => {
        expect(vcpu.run(1e9).reason).toBe(Exit.Kicked);
        const { gpr, rip, rflags, xsave } = vcpu.getState();
        return { gpr, rip, rflags, xsave };
      });
    });
    expect(wanted?.length).toBe(300);
    for (let n = 0; n < 300; n++) expect([n, got?.[n]]).toEqual([n, wanted?.[n]]);
  });
});
