// Accesses that share one look into the TLB: which ones do, and that what they do is what each would do alone.
import { Exit } from '@hyve/core';
import { Decoder, Insn, Status } from '@hyve/x86';
import { describe, expect, it } from 'vitest';
import { FEATURES } from '../src/features.ts';
import { windowsOf } from '../src/windows.ts';
import { DATA, Machine } from './float-rig.ts';
import { createMachine, flat32, numbers, runOn } from './machine.ts';

/** The windows of 64-bit code: for each instruction `slot:at/span`, with `w` if something is written, or `-`. */
function windows(...code: readonly number[]): string {
  const decoder = new Decoder(new Set(FEATURES));
  const bytes = Uint8Array.from(code);
  const insns: Insn[] = [];
  for (let at = 0; at < bytes.length; ) {
    const n = new Insn();
    expect(decoder.decode(n, bytes, at, bytes.length, 64)).toBe(Status.Ok);
    insns.push(n);
    at += n.length;
  }
  const uses = windowsOf(insns, 64, 0);
  return insns
    .map((_, i) => uses[i] ?? null)
    .map((u) =>
      u === null ? '-' : `${u.slot}:${u.at}/${u.span}${u.write ? 'w' : ''}${u.first ? '<' : ''}${u.last ? '>' : ''}`,
    )
    .join(' ');
}

describe('windowsOf', () => {
  it('takes together what one base register leads to', () => {
    // mov rax, [rdi+8]; mov ecx, [rdi]; mov [rdi+16], rcx
    expect(windows(0x48, 0x8b, 0x47, 8, 0x8b, 0x0f, 0x48, 0x89, 0x4f, 16)).toBe('0:8/24w< 0:0/24w 0:16/24w>');
    // mov rax, [rdi]: nothing to share
    expect(windows(0x48, 0x8b, 0x07, 0x90)).toBe('- -');
  });

  it('ends a window where its register changes', () => {
    // mov rax, [rdi]; mov rdi, [rdi+8]; mov rax, [rdi]; mov rax, [rdi+8]
    expect(windows(0x48, 0x8b, 0x07, 0x48, 0x8b, 0x7f, 8, 0x48, 0x8b, 0x07, 0x48, 0x8b, 0x47, 8)).toBe(
      '0:0/16< 0:8/16> 0:0/16< 0:8/16>',
    );
    // mov rcx, [rax]; div rcx; mov rcx, [rax+8]: RAX is a result
    expect(windows(0x48, 0x8b, 0x08, 0x48, 0xf7, 0xf1, 0x48, 0x8b, 0x48, 8)).toBe('- - -');
    // mov rcx, [rax]; mov ah, 1; mov rcx, [rax+8]
    expect(windows(0x48, 0x8b, 0x08, 0xb4, 1, 0x48, 0x8b, 0x48, 8)).toBe('- - -');
    // mov rcx, [rdi]; rep movsb; mov rcx, [rdi]
    expect(windows(0x48, 0x8b, 0x0f, 0xf3, 0xa4, 0x48, 0x8b, 0x0f)).toBe('- - -');
    // mov rcx, [rdi]; cmpxchg [rsi], rcx; mov rcx, [rdi]
    expect(windows(0x48, 0x8b, 0x0f, 0x48, 0x0f, 0xb1, 0x0e, 0x48, 0x8b, 0x0f)).toBe('- - -');
  });

  it('follows the stack pointer', () => {
    // push rbx; push rbp; sub rsp, 24; mov [rsp+8], rdi; add rsp, 24; pop rbp; pop rbx
    expect(windows(0x53, 0x55, 0x48, 0x83, 0xec, 24, 0x48, 0x89, 0x7c, 0x24, 8, 0x48, 0x83, 0xc4, 24, 0x5d, 0x5b)).toBe(
      '0:24/32w< 0:16/32w - 0:0/32w - 0:16/32w 0:24/32w>',
    );
    // push rbx; lea rsp, [rsp-8]; pop rax; mov rsp, rbp; pop rbx
    expect(windows(0x53, 0x48, 0x8d, 0x64, 0x24, 0xf8, 0x58, 0x48, 0x89, 0xec, 0x5b)).toBe('0:8/16w< - 0:0/16w> - -');
    // leave; ret: by the frame pointer, then by what it was
    expect(windows(0x48, 0x8b, 0x45, 0xf8, 0xc9, 0xc3)).toBe('0:0/16< 0:8/16> -');
  });

  it('takes in vectors of 32 bytes', () => {
    // vmovdqu ymm0, [rsi]; vmovdqu ymm1, [rsi+32]; vmovdqu [rdi], ymm0; vmovdqu [rdi+32], ymm1
    const load = [0xc5, 0xfe, 0x6f, 0x06, 0xc5, 0xfe, 0x6f, 0x4e, 32];
    const store = [0xc5, 0xfe, 0x7f, 0x07, 0xc5, 0xfe, 0x7f, 0x4f, 32];
    expect(windows(...load, ...store)).toBe('0:0/64< 0:32/64> 0:0/64w< 0:32/64w>');
  });

  it('keeps apart what is far apart, or addressed by another segment, width or index', () => {
    // mov eax, [rdi]; mov eax, [rdi+0x200]
    expect(windows(0x8b, 0x07, 0x8b, 0x87, 0, 2, 0, 0)).toBe('- -');
    // mov eax, [rdi]; mov eax, gs:[rdi]; mov eax, [edi]; mov eax, [rdi+rcx]; lock inc dword [rdi]
    expect(windows(0x8b, 0x07, 0x65, 0x8b, 0x07, 0x67, 0x8b, 0x07, 0x8b, 0x04, 0x0f, 0xf0, 0xff, 0x07)).toBe(
      '- - - - -',
    );
    // mov eax, [rip+16]; mov ecx, [rip+14]: eight and twelve bytes on
    expect(windows(0x8b, 0x05, 16, 0, 0, 0, 0x8b, 0x0d, 14, 0, 0, 0)).toBe('0:0/8< 0:4/8>');
  });

  it('has four windows at a time at most', () => {
    const one = (reg: number): number[] => [0x8b, 0x40 | reg, 0];
    const order = [0, 1, 2, 3, 6, 0, 1, 2, 3, 6];
    // mov eax, [reg] would change RAX: cmp [reg], al it is
    expect(windows(...order.flatMap((r) => [0x38, ...one(r).slice(1)]))).toBe(
      '0:0/1< 1:0/1< 2:0/1< 3:0/1< - 0:0/1> 1:0/1> 2:0/1> 3:0/1> -',
    );
  });
});

const CODE = 0x1000;
const RAM = 1 << 16;

/** Runs 32-bit code until HLT, with EBX at `ebx` and ESP at `esp`: registers, memory and what the bus saw. */
function run(threshold: number, code: readonly number[], ebx: number, esp: number) {
  const bus: string[] = [];
  const { vm, vcpu } = createMachine({
    cpu: { threshold },
    ram: RAM,
    bus: {
      mmioRead: (a, width) => {
        bus.push(`r${a.toString(16)}/${width}`);
        return (a * 0x01010101) & 0x7fffffff;
      },
      mmioWrite: (a, width, v) => {
        bus.push(`w${a.toString(16)}/${width}=${v.toString(16)}`);
        // A device that writes to memory while the instruction is under way.
        vm.memory.write8(0x3000, vm.memory.read8(0x3000) + 1);
      },
    },
  });
  vm.memory.load(CODE, Uint8Array.from(code));
  for (let a = 0x2000; a < RAM; a += 1) vm.memory.write8(a, (a * 7) & 0xff);
  const s = flat32(vcpu, CODE);
  const gpr = s.gpr.slice();
  gpr[3] = BigInt(ebx);
  gpr[4] = BigInt(esp);
  gpr[2] = 0n;
  gpr[5] = 40n;
  vcpu.setState({ ...s, gpr, cr4: 0x40600n, xcr0: 7n });
  expect(runOn(vcpu)).toBe(Exit.Halt);
  const memory = Array.from({ length: RAM - CODE }, (_, i) => vm.memory.read8(CODE + i));
  return { gpr: vcpu.getState().gpr.map(String), bus, memory };
}

/** `body` forty times, by EBP; then HLT. */
function loop(body: readonly number[]): number[] {
  return [...body, 0x4d, 0x75, 256 - body.length - 3, 0xf4];
}

describe('a window', () => {
  // push eax; push ecx; add [esp], edx; mov edx, [esp+4]; pop ecx; pop eax; add eax, edx; inc ecx
  const stack = [0x50, 0x51, 0x01, 0x14, 0x24, 0x8b, 0x54, 0x24, 4, 0x59, 0x58, 0x01, 0xd0, 0x41];
  // mov eax, [ebx]; add [ebx+4], eax; mov [ebx+8], cx; movzx ecx, byte [ebx+11]; inc dword [ebx+12]
  const record = [0x8b, 0x03, 0x01, 0x43, 4, 0x66, 0x89, 0x4b, 8, 0x0f, 0xb6, 0x4b, 11, 0xff, 0x43, 12];
  // vmovdqu ymm0, [ebx]; vmovdqu ymm1, [ebx+32]; vpaddb ymm0, ymm0, ymm1; vmovdqu [ebx+32], ymm0; vmovdqu [ebx], ymm1
  const vectors = [
    0xc5, 0xfe, 0x6f, 0x03, 0xc5, 0xfe, 0x6f, 0x4b, 32, 0xc5, 0xfd, 0xfc, 0xc1, 0xc5, 0xfe, 0x7f, 0x43, 32, 0xc5, 0xfe, 0x7f,
    0x0b,
  ]; // biome-ignore format: a list
  for (const [what, body, ebx, esp] of [
    ['on the stack', stack, 0x2000, 0x2800],
    ['on the stack across a page boundary', stack, 0x2000, 0x2004],
    ['of vectors', vectors, 0x2100, 0x2800],
    ['of vectors across a page boundary', vectors, 0x2fe4, 0x2800],
    ['in a page', record, 0x2100, 0x2800],
    ['across a page boundary', record, 0x2ff6, 0x2800],
    ['at an unaligned page boundary', record, 0x2ffe, 0x2800],
    ['at the end of memory, where devices begin', record, RAM - 6, 0x2800],
    ['of a device', record, RAM + 0x100, 0x2800],
    ['that wraps around at the end of the address space', record, 0xfffffff8, 0x2800],
  ] as const)
    it(`${what} comes to what its accesses come to one by one`, () => {
      const wanted = run(0, loop(body), ebx, esp);
      for (const threshold of [1, 20]) expect(run(threshold, loop(body), ebx, esp)).toEqual(wanted);
    });

  it('over the code that is running: what is written there runs next', () => {
    // mov byte [ebx+9], cl; mov al, [ebx+10]; inc ecx; add edx, imm8 (at ebx+9); nop
    const body = [0x88, 0x4b, 9, 0x8a, 0x43, 10, 0x41, 0x83, 0xc2, 0, 0x90];
    const wanted = run(0, loop(body), CODE, 0x2800);
    for (const threshold of [1, 20]) expect(run(threshold, loop(body), CODE, 0x2800)).toEqual(wanted);
    expect(wanted.gpr[2]).toBe(String((39 * 40) / 2));
  });

  it('that a store to a device comes in between: what the device wrote is seen', () => {
    // mov al, [ebx]; mov [0x10200], eax; add dl, [ebx]; add dl, [ebx+1]
    const body = [0x8a, 0x03, 0xa3, 0, 2, 1, 0, 0x02, 0x13, 0x02, 0x53, 1];
    const wanted = run(0, loop(body), 0x3000, 0x2800);
    for (const threshold of [1, 20]) expect(run(threshold, loop(body), 0x3000, 0x2800)).toEqual(wanted);
    expect(wanted.bus.length).toBe(40);
  });
});

describe('alignment within a window', () => {
  it('is as if looked at for each access', () => {
    const tiers = [new Machine(0), new Machine(1)];
    const r = numbers(7);
    let faults = 0;
    for (let program = 0; program < 80; program++) {
      // By EDI, which goes on by 16 bytes each time and by 8 once, five places at multiples of 8.
      const odd = r(2) * 8;
      const accesses = Array.from({ length: 5 }, () => {
        const aligned = r(3) > 0;
        const disp = (aligned ? odd + 16 * r(3) : 8 * r(6)) & 127;
        return aligned ? [0x0f, 0x28 + r(2), 0x47 | (r(4) << 3), disp] : [0x0f, 0x10 + r(2), 0x47 | (r(4) << 3), disp];
      });
      const data = new Uint8Array(512);
      const late = 4 + r(8);
      for (let n = 0; n < 12; n++) data[256 + 4 * n] = n === late ? 8 : 16;
      // add edi, [ebx]; add ebx, 4; …; dec ecx; jnz
      const body = [0x03, 0x3b, 0x83, 0xc3, 0x04, ...accesses.flat(), 0x49];
      const code = [...body, 0x75, 256 - body.length - 2];
      const [want, got] = tiers.map((m) => {
        const a = m.run((asm) => asm.db(...code), {
          gpr: { 1: 12, 3: DATA + 256, 7: DATA + 512 + odd, 4: 0x7000 },
          data,
        });
        return { vector: a.vector, eip: a.eip, edi: a.gpr(7), xmm: [0, 1, 2, 3].map((n) => a.xmm(n)) };
      });
      expect(got, `program ${program}`).toEqual(want);
      if (want?.vector === 13) faults++;
    }
    expect(faults).toBeGreaterThan(20);
  });

  it('is another at another distance', () => {
    const { vm, vcpu } = createMachine({ cpu: { threshold: 1 } });
    // movaps xmm0, [edi]; movaps xmm1, [edi+24]; hlt: the second address cannot be aligned when the first is.
    vm.memory.load(0x1000, Uint8Array.from([0x0f, 0x28, 0x07, 0x0f, 0x28, 0x4f, 24, 0xf4]));
    const s = {
      ...flat32(vcpu, 0x1000),
      cr4: 0x600n,
      gpr: vcpu.getState().gpr.map((_, n) => (n === 7 ? 0x8000n : 0n)),
    };
    for (let run = 0; run < 6; run++) {
      vcpu.setState(s);
      // Nobody handles #GP.
      expect(runOn(vcpu), `run ${run}`).toBe(Exit.Shutdown);
    }
  });

  it('is another once the register has changed', () => {
    const { vm, vcpu } = createMachine({ cpu: { threshold: 1 } });
    // movaps xmm0, [edi]; movaps xmm1, [edi+16]; add edi, edx; movaps xmm2, [edi]; movaps xmm3, [edi+16]; hlt
    const pair = (n: number): number[] => [0x0f, 0x28, 0x07 | (n << 3), 0x0f, 0x28, 0x4f | (n << 3), 16];
    vm.memory.load(0x1000, Uint8Array.from([...pair(0), 0x01, 0xd7, ...pair(2), 0xf4]));
    const s = { ...flat32(vcpu, 0x1000), cr4: 0x600n };
    for (const step of [16, 16, 16, 8, 32, 8]) {
      vcpu.setState({ ...s, gpr: s.gpr.map((_, n) => (n === 7 ? 0x8000n : n === 2 ? BigInt(step) : 0n)) });
      expect(runOn(vcpu)).toBe(step === 8 ? Exit.Shutdown : Exit.Halt);
    }
  });
});
