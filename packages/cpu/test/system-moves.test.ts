// Moves between address spaces, and what else of control, segment and base registers does not leave WebAssembly. Intel SDM
// volume 3A 4.10, volume 2 MOV and RDFSBASE.
import { Exit } from '@hyve/core';
import { describe, expect, it, vi } from 'vitest';
import { createMachine, le32, numbers, runOn } from './machine.ts';

const CODE = 0x8000;
const LIST = 0x10000;
const OUT = 0x18000;
const SPACES = 0x40000;
/** Mapped to another frame in each address space. */
const SHARED = 0x100000;
const FRAMES = 0x120000;

/** A machine in 64-bit mode at CPL 0 with `spaces` address spaces: number n has PCID n + 1 and reads 0x1000 + n at SHARED. */
function bench(threshold: number, spaces: number, cr4: number) {
  const { vm, vcpu } = createMachine({ cpu: { threshold }, ram: 2 << 20 });
  const m = vm.memory;
  for (let n = 0; n < spaces; n++) {
    const at = SPACES + n * 0x4000;
    for (let level = 0; level < 3; level++) m.write32(at + level * 0x1000, (at + (level + 1) * 0x1000) | 3);
    for (let page = 0; page < 512; page++) m.write32(at + 0x3000 + page * 8, (page << 12) | 3);
    m.write32(at + 0x3000 + (SHARED >> 12) * 8, (FRAMES + n * 0x1000) | 3);
    m.write32(FRAMES + n * 0x1000, 0x1000 + n);
  }
  const s = vcpu.getState();
  const flat = { base: 0n, limit: 0xffffffff };
  function run(code: readonly number[], gpr: Readonly<Record<number, number>>): ReturnType<typeof vcpu.getState> {
    m.load(CODE, Uint8Array.from(code));
    vcpu.setState({
      ...s,
      gpr: s.gpr.map((_, n) => BigInt(gpr[n] ?? 0)),
      rip: BigInt(CODE),
      rflags: 2n,
      cr0: 0x80050033n,
      cr3: BigInt(SPACES | (cr4 & 0x20000 ? 1 : 0)),
      cr4: BigInt(0x620 | cr4),
      efer: 0xd01n,
      segments: s.segments.map((g, n) =>
        n >= 6 ? g : { ...g, ...flat, selector: n === 1 ? 0x10 : 0x20 + n * 8, attr: n === 1 ? 0xa09b : 0xc093 },
      ),
    });
    expect(runOn(vcpu)).toBe(Exit.Halt);
    return vcpu.getState();
  }
  return { vm, vcpu, run };
}

/** mov rax, [rsi]; mov cr3, rax; mov rbx, cr3; mov eax, [SHARED]; mov [rdi], eax; mov [rdi + 4], ebx; next; dec ecx; hlt. */
const SWITCHES = [
  0x48, 0x8b, 0x06, 0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xdb, 0x8b, 0x04, 0x25, ...le32(SHARED), 0x89, 0x07, 0x89, 0x5f, 0x04,
  0x48, 0x83, 0xc6, 0x08, 0x48, 0x83, 0xc7, 0x08, 0xff, 0xc9, 0x75, 0xdd, 0xf4,
]; // biome-ignore format: code

describe('moves of 64-bit systems', () => {
  for (const [name, threshold] of [
    ['interpreted', 0],
    ['translated', 1],
  ] as const) {
    for (const [what, spaces, cr4, calls] of [
      ['without PCIDs', 3, 0, 0],
      ['with as many PCIDs as the TLB has parts', 8, 0x20000, 8],
      ['with more PCIDs', 12, 0x20000, 400],
    ] as const)
      it(`to CR3 ${what} lead to the right address space, ${name}`, () => {
        const { vm, vcpu, run } = bench(threshold, spaces, cr4);
        const exec = vi.spyOn(vcpu.system, 'exec');
        const wanted: number[] = [];
        const below = numbers(77);
        for (let n = 0; n < 400; n++) {
          const k = below(spaces);
          const cr3 = (SPACES + k * 0x4000) | (cr4 === 0 ? 0 : k + 1);
          vm.memory.write32(LIST + n * 8, cr3);
          vm.memory.write32(LIST + n * 8 + 4, cr4 !== 0 && below(2) === 1 ? 0x80000000 : 0);
          wanted.push(0x1000 + k, cr3);
        }
        run(SWITCHES, { 1: 400, 6: LIST, 7: OUT });
        expect(wanted.map((_, n) => vm.memory.read32(OUT + n * 4))).toEqual(wanted);
        // One for HLT.
        expect(exec.mock.calls.length).toBeLessThanOrEqual(calls + 1);
      });

    it(`from segment and control registers, and of bases, give what is there, ${name}`, () => {
      const { vcpu, run } = bench(threshold, 1, 0x10000);
      const exec = vi.spyOn(vcpu.system, 'exec');
      const code = [
        0x48, 0xb8, ...le32(0x89abcdef), ...le32(0x00001234), // mov rax, imm64
        0xf3, 0x48, 0x0f, 0xae, 0xd0, 0xf3, 0x48, 0x0f, 0xae, 0xd8, // wrfsbase rax; wrgsbase rax
        0xf3, 0x0f, 0xae, 0xd3, // wrfsbase ebx (upper half of RBX is not zero)
        0xf3, 0x48, 0x0f, 0xae, 0xc1, 0xf3, 0x0f, 0xae, 0xca, // rdfsbase rcx; rdgsbase edx
        0x8c, 0xde, 0x66, 0x8c, 0xe7, // mov esi, ds; mov di, fs
        0x41, 0x0f, 0x20, 0xc0, 0x41, 0x0f, 0x20, 0xe1, // mov r8, cr0; mov r9, cr4
        0xf4,
      ]; // biome-ignore format: code
      const { gpr } = run(code, { 3: 0x1_0000_0000_0000 - 5, 7: 0x7fff0000 });
      expect(gpr[1]).toBe(0xfffffffbn);
      expect(gpr[2]).toBe(0x89abcdefn);
      expect(gpr[6]).toBe(0x38n);
      expect(gpr[7]).toBe(0x7fff0040n);
      expect([gpr[8], gpr[9]]).toEqual([0x80050033n, 0x10620n]);
      expect(exec.mock.calls.length).toBe(1);
    });

    it(`INVLPG ends what the TLB knew, and what was decoded of the old page, ${name}`, () => {
      const { vm, run } = bench(threshold, 1, 0);
      // The code moves its own page to a copy that counts in steps of two, and comes back to it.
      const at = SHARED + 0x20;
      const pte = SPACES + 0x3000 + (SHARED >> 12) * 8;
      // inc rbx (or add by 2); xchg [pte], rdx; invlpg [rsi]; dec ecx; jnz at; hlt
      const body = (first: number[]): Uint8Array =>
        Uint8Array.from([
          ...first, 0x48, 0x87, 0x14, 0x25, ...le32(pte), 0x0f, 0x01, 0x3e, 0xff, 0xc9, 0x75, 0xed, 0xf4,
        ]); // biome-ignore format: code
      vm.memory.load(FRAMES + 0x20, body([0x48, 0x83, 0xc3, 0x01]));
      vm.memory.load(FRAMES + 0x1020, body([0x48, 0x83, 0xc3, 0x02]));
      const { gpr } = run([0x48, 0xc7, 0xc0, ...le32(at), 0xff, 0xe0], {
        1: 40,
        2: (FRAMES + 0x1000) | 0x23,
        6: SHARED,
      });
      expect(gpr[3]).toBe(60n);
    });

    it(`INVLPG ends all pieces of a large page and nothing else, ${name}`, () => {
      const { vm, run } = bench(threshold, 1, 0);
      // A second 2 MiB of addresses: one large page at first, then by the table of the first, whose page 1 is frame 2.
      const pde = SPACES + 0x2000 + 8;
      vm.memory.write32(pde, 0x83);
      vm.memory.write32(0x1000, 0x11);
      vm.memory.write32(0x2000, 0x22);
      vm.memory.write32(SPACES + 0x3000 + 1 * 8, 0x2003);
      // Piece 1 of the window is read, the window becomes what the low pages are, INVLPG of its piece 5, piece 1 again.
      const code = [
        0x8b, 0x04, 0x25, ...le32(0x201000), // mov eax, [0x201000]
        0x8b, 0x0c, 0x25, ...le32(SHARED), // mov ecx, [SHARED]
        0xc7, 0x04, 0x25, ...le32(pde), ...le32((SPACES + 0x3000) | 3), // mov dword [pde], table
        0x0f, 0x01, 0x3c, 0x25, ...le32(0x205000), // invlpg [0x205000]
        0x8b, 0x14, 0x25, ...le32(0x201000), // mov edx, [0x201000]
        // An ordinary page beside it: what it was changed to is seen only after its own INVLPG.
        0x8b, 0x1c, 0x25, ...le32(SHARED), // mov ebx, [SHARED]
        0xc7, 0x04, 0x25, ...le32(SPACES + 0x3000 + (SHARED >> 12) * 8), ...le32((FRAMES + 0x1000) | 0x63),
        0x0f, 0x01, 0x3c, 0x25, ...le32(SHARED + 0x1000), // invlpg [SHARED + 4096]
        0x8b, 0x34, 0x25, ...le32(SHARED), // mov esi, [SHARED]
        0x0f, 0x01, 0x3c, 0x25, ...le32(SHARED), // invlpg [SHARED]
        0x8b, 0x3c, 0x25, ...le32(SHARED), // mov edi, [SHARED]
        0xf4,
      ]; // biome-ignore format: code
      vm.memory.write32(FRAMES + 0x1000, 0x2000);
      const { gpr } = run(code, {});
      expect([gpr[0], gpr[1], gpr[2]]).toEqual([0x11n, 0x1000n, 0x22n]);
      expect([gpr[3], gpr[6], gpr[7]]).toEqual([0x1000n, 0x1000n, 0x2000n]);
    });
  }
});
