// Protected mode: entry, segments, gates, privilege levels, 32-bit paging, MMIO. Intel SDM vol. 3 chapters 3–6, 9.9.
import { Exit } from '@hyve/core';
import {
  ABSENT,
  Bench,
  CODE,
  CODE2,
  CS32,
  DATA,
  DS,
  FRAMES,
  GDT,
  IDT,
  MMIO,
  must,
  nameOf,
  PAGED32,
  PD32,
  PT32,
  same,
  UCS,
  UDS,
  USER_STACK,
} from './bench.ts';
import type { ConformanceCase } from './case.ts';
import { AX, BX, Code, CX, DI, DX, SI } from './code.ts';

const code = (): Code => new Code(CODE, 32);

/** Goes to ring 3 at CODE2 with `flags`. */
function toUser(c: Code, flags: number): Code {
  return c.b(0x6a, UDS, 0x68).n(4, USER_STACK).b(0x68).n(4, flags).b(0x6a, UCS, 0x68).n(4, CODE2).b(0xcf); // iret
}

const user = (): Code => new Code(CODE2, 32);

export const PROTECTED_CASES: readonly ConformanceCase[] = [
  {
    name: 'protected mode: a real-mode program enters it with LGDT, MOV CR0 and a far jump, and goes back',
    run(hv) {
      const b = new Bench(hv);
      b.tables(false);
      // A descriptor for 16-bit code to return through, in the place of the user code.
      b.ram.write32(GDT + 0x28, 0x0000ffff);
      b.ram.write32(GDT + 0x2c, 0x00009a00);
      const c = new Code(CODE, 16).b(0x0f, 0x01, 0x16).n(2, 'gdtr'); // lgdt
      c.b(0x0f, 0x20, 0xc0, 0x66, 0x83, 0xc8, 0x01, 0x0f, 0x22, 0xc0); // or cr0, 1
      c.b(0x66, 0xea).n(4, 'in32').n(2, CS32); // jmp far
      c.label('gdtr').n(2, 0x3f).n(4, GDT);
      c.bits = 32;
      c.label('in32').mov(AX, DS).b(0x8e, 0xd8, 0x8e, 0xd0).mov(AX, 0x12345678).store32(DATA, AX);
      c.b(0xea).n(4, 'in16').n(2, 0x28);
      c.bits = 16;
      c.label('in16').b(0x0f, 0x20, 0xc0, 0x66, 0x83, 0xe0, 0xfe, 0x0f, 0x22, 0xc0); // and cr0, ~1
      c.b(0xea).n(2, 'real').n(2, 0).label('real');
      c.b(0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0)
        .mov32(AX, 0x9abcdef0)
        .store32(DATA + 4, AX)
        .stop();
      b.real(c);
      b.halt();
      same([b.data(0), b.data(1)], [0x12345678, 0x9abcdef0], 'written in protected and in real mode');
      const s = b.vcpu.getState();
      same(
        [s.cr0 & 1n, s.segments[1]?.selector, s.segments[3]?.limit],
        [0n, 0, 0xffffffff],
        'CR0.PE, CS, limit of DS (kept)',
      );
    },
  },
  {
    name: 'protected mode: #DE, #BP, #OF, #UD and #NM with the right address and no error code',
    run(hv) {
      const programs: [number, number[], number][] = [
        [0, [0x31, 0xdb, 0xf7, 0xf3], 2],
        [3, [0x90, 0xcc], 2], // a trap: the address after it
        [4, [0xb0, 0x7f, 0x04, 0x01, 0xce], 5], // mov al, 127; add al, 1; into
        [6, [0x0f, 0x0b], 0],
        [7, [0x0f, 0x06, 0x0f, 0x20, 0xc0, 0x83, 0xc8, 0x08, 0x0f, 0x22, 0xc0, 0xd9, 0xe8], 11], // clts; or cr0, TS; fld1
      ];
      for (const [vector, bytes, at] of programs) {
        const b = new Bench(hv);
        b.prot(
          code()
            .b(...bytes)
            .stop(),
        );
        const got = b.expectException({ vector, error: 0, ip: CODE + at, cs: CS32 });
        same(got.flags & 0x200, 0, 'IF');
      }
    },
  },
  {
    name: 'protected mode: #GP, #NP and #SS carry the selector; a null SS is #GP(0); limits are checked',
    run(hv) {
      const load = (sel: number, modrm: number): number[] => [0x66, 0xb8, sel & 0xff, sel >> 8, 0x8e, modrm]; // mov ax; mov seg, ax
      const programs: [string, number[], number, number, number][] = [
        ['DS beyond the GDT', load(0x48, 0xd8), 13, 0x48, 4],
        ['DS not present', load(ABSENT, 0xd8), 11, ABSENT, 4],
        ['SS not present', load(ABSENT, 0xd0), 12, ABSENT, 4],
        ['SS null', load(0, 0xd0), 13, 0, 4],
        ['SS with another RPL', load(DS | 3, 0xd0), 13, DS, 4],
        ['a TSS selector in ES', load(0x30, 0xc0), 13, 0x30, 4],
        ['access through a null ES', [...load(0, 0xc0), 0x26, 0xa1, 0, 0, 0, 0], 13, 0, 6],
        ['INT through an absent gate', [0xcd, 0x50], 13, 0x50 * 8 + 2, 0],
        ['a write to a code segment', [0x2e, 0xa3, 0, 0x60, 0, 0], 13, 0, 0],
        ['a far jump to data', [0xea, 0, 0x80, 0, 0, DS, 0], 13, DS, 0],
      ];
      for (const [what, bytes, vector, error, at] of programs) {
        const b = new Bench(hv);
        b.prot(
          code()
            .b(...bytes)
            .stop(),
        );
        try {
          b.expectException({ vector, error, ip: CODE + at });
        } catch (e) {
          throw new Error(`${what}: ${(e as Error).message}`);
        }
      }
    },
  },
  {
    name: 'protected mode: a segment limit is checked to the last byte',
    run(hv) {
      for (const [offset, faults] of [
        [0xffc, false],
        [0xffd, true],
        [0xffffffff, true],
      ] as const) {
        const b = new Bench(hv);
        const s = b.prot(code().b(0x26, 0xa1).n(4, offset).b(0x2e, 0x0f, 0xb6, 0x05).n(4, CODE).stop()); // mov eax, es:[offset]
        s.segments[0] = { selector: DS, base: BigInt(DATA), limit: 0xfff, attr: 0x4093 }; // ES
        b.vcpu.setState(s);
        b.halt();
        same(b.ram.read32(0x3040) > 0, faults, `#GP for four bytes at 0x${offset.toString(16)} of a 4 KiB segment`);
        if (faults) same(b.exception().vector, 13, 'vector');
      }
    },
  },
  {
    name: 'protected mode: IRET to ring 3, INT back through the TSS; ring 3 may not HLT, CLI or touch ports',
    run(hv) {
      const programs: [string, number[], Partial<{ vector: number; error: number; ip: number }>][] = [
        ['int 0x21', [0xcd, 0x21], { vector: 4, ip: CODE2 + 2 }],
        ['int 0x22, a gate for ring 0', [0xcd, 0x22], { vector: 13, error: 0x22 * 8 + 2, ip: CODE2 }],
        ['hlt', [0xf4], { vector: 13, error: 0, ip: CODE2 }],
        ['cli', [0xfa], { vector: 13, error: 0, ip: CODE2 }],
        ['out', [0xe6, 0x80], { vector: 13, error: 0, ip: CODE2 }],
        ['mov eax, cr0', [0x0f, 0x20, 0xc0], { vector: 13, error: 0, ip: CODE2 }],
        ['ud2', [0x0f, 0x0b], { vector: 6, error: 0, ip: CODE2 }],
      ];
      for (const [what, bytes, want] of programs) {
        const b = new Bench(hv);
        b.prot(toUser(code(), 0x202));
        b.put(user().b(...bytes));
        const handler = b.ram.read16(IDT + 4 * 8) + b.ram.read16(IDT + 4 * 8 + 6) * 0x10000; // that of vector 4: no error code
        b.gate(0x21, handler, { long: false, dpl: 3 });
        b.gate(0x22, handler, { long: false });
        try {
          const got = b.expectException({ ...want, cs: UCS, sp: USER_STACK });
          same(got.flags & 0x200, 0x200, 'IF as it was in ring 3');
          same(b.vcpu.getState().segments[2]?.selector, DS, 'SS from the TSS');
        } catch (e) {
          throw new Error(`${what}: ${(e as Error).message}`);
        }
      }
    },
  },
  {
    name: 'protected mode: an interrupt comes in ring 3 and IRET goes back to it',
    run(hv) {
      const b = new Bench(hv);
      b.put(user().label('l').b(0x36).inc32(DATA).b(0xeb).rel(1, 'l'));
      const handler = new Code(CODE2 + 0x100, 32)
        .b(0x36) // DS is null in ring 3, and so here
        .inc32(DATA + 4)
        .b(0x36, 0x83, 0x3d)
        .n(4, DATA + 4)
        .b(2, 0x74, 1, 0xcf)
        .stop();
      b.put(handler); // the second one stops
      b.prot(toUser(code(), 0x202));
      b.gate(0x40, CODE2 + 0x100, { long: false });
      for (let i = 0; i < 2; i++) {
        const before = b.data(0);
        while (b.data(0) < before + 10) same(nameOf(b.vcpu.run(20_000).reason), 'Budget', 'the loop in ring 3');
        must(b.vcpu.canInject() && b.vcpu.inject(0x40), 'inject');
        if (i === 0) while (b.data(1) === 0) b.vcpu.run(20_000);
      }
      b.halt();
      same(b.data(1), 2, 'interrupts');
    },
  },
  {
    name: 'protected mode: trap flag, hardware breakpoints on code and data, and DR6',
    run(hv) {
      const step = new Bench(hv);
      const c = code()
        .b(0x9c, 0x81, 0x0c, 0x24)
        .n(4, 0x100)
        .b(0x9d)
        .label('first')
        .b(0x90)
        .label('second')
        .b(0x90)
        .stop(); // pushf; or [esp], TF; popf
      step.prot(c);
      step.expectException({ vector: 1, ip: c.at('second') });
      same(step.vcpu.getState().dr[4]! & 0x400fn, 0x4000n, 'DR6: BS');
      const exec = new Bench(hv);
      const e = code().b(0x90).label('here').b(0x90).stop();
      const s = exec.prot(e);
      s.dr[0] = BigInt(e.at('here'));
      s.dr[5] = 0x402n; // G0, execute
      exec.vcpu.setState(s);
      exec.expectException({ vector: 1, ip: e.at('here') });
      same(exec.vcpu.getState().dr[4]! & 0x400fn, 1n, 'DR6: B0');
      const write = new Bench(hv);
      const w = code().load32(AX, DATA).store32(DATA, AX).label('after').stop();
      const t = write.prot(w);
      t.dr[1] = BigInt(DATA);
      t.dr[5] = 0x400n | 0x8n | (0xdn << 20n); // G1, 4 bytes, write
      write.vcpu.setState(t);
      write.expectException({ vector: 1, ip: w.at('after') });
      same(write.vcpu.getState().dr[4]! & 0x400fn, 2n, 'DR6: B1');
    },
  },
  {
    name: 'protected mode: a fault while delivering a fault is a double fault, the third ends it',
    run(hv) {
      const b = new Bench(hv);
      b.prot(code().b(0x66, 0xb8, 0x48, 0, 0x8e, 0xd8).stop()); // #GP, whose gate is gone: #NP inside it
      b.ram.write32(IDT + 13 * 8 + 4, 0);
      b.expectException({ vector: 8, error: 0 });
      const t = new Bench(hv);
      t.prot(code().b(0x66, 0xb8, 0x48, 0, 0x8e, 0xd8).stop());
      t.ram.write32(IDT + 13 * 8 + 4, 0);
      t.ram.write32(IDT + 8 * 8 + 4, 0);
      same(nameOf(t.run()), 'Shutdown', 'run() came back with');
    },
  },
  {
    name: 'MMIO: loads and stores of every width, read-modify-write, string instructions, order',
    run(hv) {
      const b = new Bench(hv);
      const c = code().mov(DI, MMIO).mov(AX, 0x99887766);
      c.b(0x88, 0x07).b(0x66, 0x89, 0x47, 0x04).b(0x89, 0x47, 0x08); // mov [edi], al; [edi+4], ax; [edi+8], eax
      c.b(0xc6, 0x07, 0x5a).b(0xc7, 0x47, 0x0c).n(4, 0x01020304); // mov byte [edi], 0x5a; mov dword [edi+12], imm
      c.b(0x8a, 0x07)
        .store32(DATA, AX)
        .b(0x66, 0x8b, 0x47, 0x04)
        .store32(DATA + 4, AX)
        .b(0x8b, 0x47, 0x08)
        .store32(DATA + 8, AX);
      c.b(0x0f, 0xb6, 0x1f)
        .store32(DATA + 12, BX)
        .b(0x0f, 0xbf, 0x5f, 0x02)
        .store32(DATA + 16, BX); // movzx, movsx
      c.b(0x81, 0x4f, 0x10).n(4, 0x80000000); // or dword [edi+16], imm
      c.b(0x87, 0x47, 0x14).store32(DATA + 20, AX); // xchg [edi+20], eax
      c.b(0xf6, 0x47, 0x18, 0x01, 0x0f, 0x94, 0x05).n(4, DATA + 24); // test byte [edi+24], 1; setz [DATA+24]
      c.b(0xa1)
        .n(4, MMIO + 0x1c)
        .b(0xa3)
        .n(4, MMIO + 0x20); // moffs forms
      c.b(0xff, 0x77, 0x24, 0x8f, 0x47, 0x28); // push [edi+36]; pop [edi+40]
      c.stop();
      b.prot(c);
      b.halt();
      const r = (o: number, w: number): string => `read 0x${(MMIO + o).toString(16)}/${w}`;
      const w = (o: number, n: number, v: number): string =>
        `write 0x${(MMIO + o).toString(16)}/${n} 0x${v.toString(16)}`;
      same(
        b.log,
        [
          ...[w(0, 1, 0x66), w(4, 2, 0x7766), w(8, 4, 0x99887766), w(0, 1, 0x5a), w(12, 4, 0x01020304)],
          ...[r(0, 1), r(4, 2), r(8, 4), r(0, 1), r(2, 2), r(16, 4), w(16, 4, 0xc4332211)],
          ...[r(20, 4), w(20, 4, 0x44332211), r(24, 1), r(28, 4), w(32, 4, 0x44332211), r(36, 4), w(40, 4, 0x44332211)],
        ],
        'bus',
      );
      const got = [0, 1, 2, 3, 4, 5].map((i) => b.data(i));
      same(got, [0x99887711, 0x99882211, 0x44332211, 0x11, 0x2211, 0x44332211], 'loaded');
      same(b.data(6) & 0xff, 0, 'SETZ');
    },
  },
  {
    name: 'MMIO: REP MOVS, STOS and LODS between memory and a device',
    run(hv) {
      const b = new Bench(hv);
      b.ram.load(DATA, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
      const c = code().b(0xfc).mov(SI, DATA).mov(DI, MMIO).mov(CX, 2).b(0xf3, 0xa5); // rep movsd to the device
      c.mov(SI, MMIO)
        .mov(DI, DATA + 16)
        .mov(CX, 3)
        .b(0xf3, 0xa4); // rep movsb from it
      c.mov(DI, MMIO + 0x40)
        .mov(CX, 2)
        .mov(AX, 0xabcd)
        .b(0xf3, 0x66, 0xab); // rep stosw
      c.mov(SI, MMIO + 0x80)
        .b(0xad)
        .store32(DATA + 24, AX)
        .stop(); // lodsd
      b.prot(c);
      b.halt();
      const m = (what: string, o: number, rest: string): string => `${what} 0x${(MMIO + o).toString(16)}/${rest}`;
      same(
        b.log,
        [
          ...[m('write', 0, '4 0x4030201'), m('write', 4, '4 0x8070605')],
          ...[m('read', 0, '1'), m('read', 1, '1'), m('read', 2, '1')],
          ...[m('write', 0x40, '2 0xabcd'), m('write', 0x42, '2 0xabcd'), m('read', 0x80, '4')],
        ],
        'bus',
      );
      same([b.data(4), b.data(6)], [0x111111, 0x44332211], 'copied');
    },
  },
  {
    name: '32-bit paging: error codes and CR2 of #PF, 4 MiB pages, accessed and dirty bits, WP',
    run(hv) {
      const at = PAGED32;
      const programs: [string, number, Code, number][] = [
        ['read, not present', 0, code().load32(AX, at + 0x1004), 0],
        ['write, not present', 0, code().store32(at + 0x1004, AX), 2],
        ['write, read-only', FRAMES | 5, code().store32(at + 0x1004, AX), 3],
      ];
      for (const [what, entry, c, error] of programs) {
        const b = new Bench(hv);
        b.prot(c.stop(), { paging: true });
        b.ram.write32(PT32 + 4, entry);
        try {
          b.expectException({ vector: 14, error, cr2: at + 0x1004, ip: CODE });
        } catch (e) {
          throw new Error(`${what}: ${(e as Error).message}`);
        }
      }
      for (const [what, bytes, entry, error] of [
        ['user read, supervisor page', [0x36, 0xa1], FRAMES | 3, 5],
        ['user write, supervisor page', [0x36, 0xa3], FRAMES | 3, 7],
        ['user read, not present', [0x36, 0xa1], 0, 4],
      ] as const) {
        const b = new Bench(hv);
        b.put(
          user()
            .b(...bytes)
            .n(4, at + 0x1008),
        );
        b.prot(toUser(code(), 2), { paging: true });
        b.ram.write32(PT32 + 4, entry);
        try {
          b.expectException({ vector: 14, error, cr2: at + 0x1008, ip: CODE2 });
        } catch (e) {
          throw new Error(`${what}: ${(e as Error).message}`);
        }
      }
      const b = new Bench(hv);
      b.ram.write32(FRAMES + 0x2010, 0x1234);
      b.prot(
        code()
          .load32(AX, at + 0x2010)
          .store32(DATA, AX)
          .store32(at + 0x3010, AX)
          .stop(),
        { paging: true },
      );
      b.halt();
      same([b.data(0), b.ram.read32(FRAMES + 0x3010)], [0x1234, 0x1234], 'data');
      const bits = (i: number): number => b.ram.read32(PT32 + 4 * i) & 0x60;
      same([bits(1), bits(2), bits(3)], [0, 0x20, 0x60], 'A and D of pages 1, 2, 3');
      same(
        [b.ram.read32(PD32) & 0x60, b.ram.read32(PD32 + 4) & 0x20],
        [0x60, 0x20],
        'A and D of the 4 MiB page, A of the table',
      );
      same(nameOf(b.run()), nameOf(Exit.Halt), 'and it stays halted');
    },
  },
  {
    name: 'x87 and SSE state is in getState, and comes back by setState',
    run(hv) {
      const b = new Bench(hv);
      b.ram.load(
        DATA,
        Uint8Array.from({ length: 16 }, (_, i) => i + 1),
      );
      const c = code().b(0x9b, 0xdb, 0xe3, 0xd9, 0xeb, 0xd9, 0xe8).b(0x0f, 0x10, 0x1d).n(4, DATA).stop(); // fninit; fldpi; fld1; movups xmm3
      const s = b.prot(c);
      s.cr4 |= 0x600n;
      b.vcpu.setState(s);
      b.halt();
      const x = b.vcpu.getState();
      const at = (o: number, n: number): number[] => [...x.xsave.subarray(o, o + n)];
      same(at(32, 10), [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f], 'ST0 = 1.0');
      same(at(48, 10), [0x35, 0xc2, 0x68, 0x21, 0xa2, 0xda, 0x0f, 0xc9, 0x00, 0x40], 'ST1 = π');
      same(
        at(160 + 48, 16),
        Array.from({ length: 16 }, (_, i) => i + 1),
        'XMM3',
      );
      const other = new Bench(hv);
      const d = new Code(CODE2, 32)
        .b(0xdd, 0x1d)
        .n(4, DATA)
        .b(0x0f, 0x11, 0x1d)
        .n(4, DATA + 16)
        .stop(); // fstp qword; movups [..], xmm3
      other.prot(d);
      other.vcpu.setState({ ...x, rip: BigInt(CODE2), activity: 'running' });
      other.halt();
      same([other.data(0), other.data(1), other.data(4)], [0, 0x3ff00000, 0x04030201], '1.0 and XMM3 in the other VM');
      same(other.vcpu.getState().gpr[DX], 0n, 'EDX');
    },
  },
];
