// What the processor tells a clock: exact counts of instructions, and one time stamp counter for all processors.
import { type Clock, type CpuidEntry, Exit, TimerQueue } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, flat32 } from './machine.ts';

/** Runs `code` in flat 32-bit mode at 0x1000; `seen` gets the count of retired instructions at every device access. */
function counting(code: readonly number[], o: { threshold?: number; cpuid?: (r: CpuidEntry) => CpuidEntry } = {}) {
  const seen: number[] = [];
  let counter: { retired(): number } | null = null;
  const count = (): number => counter?.retired() ?? 0;
  const clock: Clock = new TimerQueue(count);
  // Nothing is translated in virtual time.
  if (o.threshold === undefined) Object.assign(clock, { nsPerInstruction: 1 });
  const note = (): number => seen.push(count()) & 0;
  const { vm, vcpu } = createMachine({
    cpu: o.threshold === undefined ? {} : { threshold: o.threshold },
    bus: { ioRead: note, ioWrite: note, mmioRead: note, mmioWrite: note },
    clock,
    ...(o.cpuid === undefined ? {} : { cpuid: o.cpuid }),
  });
  counter = vcpu;
  vm.memory.load(0x1000, Uint8Array.from(code));
  vcpu.setState(flat32(vcpu, 0x1000));
  return { vm, vcpu, seen };
}

describe('virtual time', () => {
  it('counts exactly inside every kind of device access, in the middle of a block too', () => {
    const { vcpu, seen } = counting([
      0x43, 0x43, // inc ebx; inc ebx
      0xe6, 0x80, // out 0x80, al          after 2
      0x43, // inc ebx
      0x89, 0x1d, 0, 0, 0x80, 0, // mov [0x800000], ebx    after 4
      0xa1, 0, 0, 0x80, 0, // mov eax, [0x800000]          after 5
      0x43, // inc ebx
      0xff, 0x05, 0, 0, 0x80, 0, // inc dword [0x800000]   after 7: read, then write
      0xe4, 0x80, // in al, 0x80           after 8
      0xeb, 0x00, // jmp +0
      0xe6, 0x80, // out 0x80, al          after 10
      0xeb, 0xfe, // jmp $
    ]); // biome-ignore format: code
    expect(vcpu.run(1000).reason).toBe(Exit.Budget);
    expect(seen).toEqual([2, 4, 5, 7, 7, 8, 10]);
  });

  it('reads the time stamp counter as of the instruction itself', () => {
    const { vcpu } = counting([0x43, 0x43, 0x0f, 0x31, 0x43, 0x89, 0xc6, 0x0f, 0x31, 0x43, 0xeb, 0xfe]);
    vcpu.run(100);
    const { gpr } = vcpu.getState();
    expect([gpr[6], gpr[0]]).toEqual([2n, 5n]); // rdtsc; inc ebx; mov esi, eax; rdtsc
  });

  it('gives RDTSCP the number of the processor, where CPUID has it', () => {
    // mov ecx, IA32_TSC_AUX; mov eax, 0x55; xor edx, edx; wrmsr; rdtscp; mov esi, ecx; jmp $
    const code = [0xb9, 3, 1, 0, 0xc0, 0xb8, 0x55, 0, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0x0f, 0x01, 0xf9, 0x89, 0xce];
    const { vcpu } = counting([...code, 0xeb, 0xfe]);
    vcpu.run(100);
    const { gpr } = vcpu.getState();
    expect([gpr[0], gpr[1], gpr[2], gpr[6]]).toEqual([4n, 0x55n, 0n, 0x55n]);
    const without = counting([0x0f, 0x01, 0xf9, 0xeb, 0xfe], {
      cpuid: (r) => (r.leaf === 0x80000001 ? { ...r, edx: r.edx & ~(1 << 27) } : r),
    });
    // #UD finds no IDT.
    expect(without.vcpu.run(100).reason).toBe(Exit.Shutdown);
    expect(without.vcpu.getState().rip).toBe(0x1000n);
  });

  it('reads the counters in translated code too', () => {
    // rdtscp; mov esi, eax; rdtsc; sub eax, esi; add ebx, eax; inc edi; jmp back
    const code = [0x0f, 0x01, 0xf9, 0x89, 0xc6, 0x0f, 0x31, 0x29, 0xf0, 0x01, 0xc3, 0x47, 0xeb, 0xf2];
    const { vm, vcpu } = counting(code, { threshold: 1 });
    for (let i = 0; i < 20; i++) vcpu.run(100_000);
    expect(vm.counters()['regions']).toBeGreaterThan(0);
    const { gpr } = vcpu.getState();
    expect(gpr[7]).toBeGreaterThan(100n);
    expect(gpr[1]).toBe(0n);
  });

  it('ends after exactly as many instructions as fit into the budget', () => {
    // A loop of 61 instructions, longer than a block.
    const { vcpu } = counting([...new Array<number>(60).fill(0x43), 0xeb, 0xc2]);
    let want = 0;
    for (const n of [1, 2, 47, 48, 49, 50, 61, 96, 97, 1000, 12345, 100_000, 7]) {
      expect([n, vcpu.run(n).reason]).toEqual([n, Exit.Budget]);
      want += n;
      expect(vcpu.retired()).toBe(want);
      const jumps = Math.floor(want / 61);
      expect(vcpu.getState().gpr[3]).toBe(BigInt(want - jumps));
    }
  });
});

describe('time stamp counters', () => {
  it('agree after power-on, however long construction takes (SDM vol. 3B 18.17)', () => {
    let ns = 0;
    const clock = new TimerQueue(() => {
      ns += 1_000_000; // each look at the clock takes a millisecond
      return ns;
    });
    const { vm } = createMachine({ vcpus: 3, clock });
    const now = vm.vcpus.map((v) => v.tscNow());
    expect([now[1]! - now[0]!, now[2]! - now[1]!]).toEqual([1e6, 1e6]);
  });
});
