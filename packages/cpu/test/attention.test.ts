// When the run loop hears of a kick: right after the instruction that caused it, whatever surrounds it.
import { Exit, TimerQueue, type VcpuBus } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { SoftCpu } from '../src/index.ts';

/** A machine of 1 MiB that runs `code` in 32-bit mode at 0x1000; writes to 0x800000 and ports kick. */
function machine(code: readonly number[], threshold: number) {
  const clock = new TimerQueue(() => performance.now() * 1e6);
  const writes: number[] = [];
  const bus: VcpuBus = {
    ioRead: () => 0,
    ioWrite: () => vcpu.kick(),
    mmioRead: () => 0,
    mmioWrite: (_addr, _width, value) => {
      writes.push(value);
      vcpu.kick();
    },
    rdmsr: () => false,
    wrmsr: () => false,
    readCr8: () => 0,
    writeCr8: () => {},
  };
  const cpu = new SoftCpu({ threshold });
  const vm = cpu.createVm({
    memory: [{ base: 0, size: 1 << 20, kind: 'ram', name: 'ram' }],
    vcpus: 1,
    bus: () => bus,
    cpuid: () => cpu.supportedCpuid(),
    clock,
    tscHz: 1e9,
  });
  const vcpu = vm.vcpus[0] as (typeof vm.vcpus)[number];
  vm.memory.load(0x1000, Uint8Array.from(code));
  const s = vcpu.getState();
  const flat = { base: 0n, limit: 0xffffffff };
  vcpu.setState({
    ...s,
    rip: 0x1000n,
    cr0: 0x11n,
    segments: s.segments.map((g, n) =>
      n === 1
        ? { ...g, ...flat, selector: 8, attr: 0xc09b }
        : n < 6
          ? { ...g, ...flat, selector: 16, attr: 0xc093 }
          : g,
    ),
  });
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
      const { vcpu, writes } = machine(LOOP, threshold);
      for (let n = 0; n < 600; n++) {
        expect(vcpu.run(1e9).reason).toBe(Exit.Kicked);
        expect([n, vcpu.getState().rip]).toEqual([n, AFTER[n % 3]]);
      }
      const state = vcpu.getState();
      expect([state.gpr[3], state.gpr[1]]).toEqual([200n, 599n]);
      expect(writes.length).toBe(400);
    });

  it('does not disturb the code: the next pass runs through', () => {
    const { vcpu } = machine(LOOP, 0);
    vcpu.run(1e9);
    const before = vcpu.getState();
    vcpu.setState({ ...before, rip: 0x1007n });
    // From the record that stood in for the leave: inc ecx, then the add.
    expect(vcpu.run(1e9).reason).toBe(Exit.Kicked);
    expect([vcpu.getState().rip, vcpu.getState().gpr[1]]).toEqual([0x100en, 1n]);
  });
});
