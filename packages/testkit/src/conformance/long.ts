// 64-bit mode: entry, paging, exceptions, privilege, system calls, MSRs, CR8. Intel SDM vol. 3 chapters 4–6, 9.8.5.
import {
  Bench,
  CODE,
  CODE2,
  CS32,
  CS64,
  DATA,
  DS,
  FRAMES,
  GDT,
  IDT,
  MMIO,
  must,
  nameOf,
  PAGED,
  PML4,
  PT,
  STACK,
  same,
  UCS,
  UDS,
  USER_STACK,
} from './bench.ts';
import type { ConformanceCase } from './case.ts';
import { AX, Code, CX, DI, DX, SI } from './code.ts';

const code = (): Code => new Code(CODE, 64);
const user = (): Code => new Code(CODE2, 64);
const PML4_LINK = 0x11000;

/** Goes to ring 3 at CODE2 with `flags`. */
function toUser(c: Code, flags: number): Code {
  return c.b(0x6a, UDS, 0x68).n(4, USER_STACK).b(0x68).n(4, flags).b(0x6a, UCS, 0x68).n(4, CODE2).b(0x48, 0xcf); // iretq
}

/** Names the program in the message of a mismatch. */
function naming(what: string, f: () => void): void {
  try {
    f();
  } catch (e) {
    throw new Error(`${what}: ${(e as Error).message}`);
  }
}

/** MOV RAX, [address]. */
const loadAt = (address: number): Code => code().mov(DI, address).b(0x48, 0x8b, 0x07);
/** MOV [address], RAX. */
const storeAt = (address: number): Code => code().mov(DI, address).b(0x48, 0x89, 0x07);

export const LONG_CASES: readonly ConformanceCase[] = [
  {
    name: 'long mode: a protected-mode program enters it (PAE, EFER.LME, PG, far jump) and goes back',
    run(hv) {
      const b = new Bench(hv);
      const c = new Code(CODE, 32).b(0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0); // or cr4, PAE
      c.mov(AX, PML4).b(0x0f, 0x22, 0xd8); // mov cr3, eax
      c.mov(CX, 0xc0000080).b(0x0f, 0x32, 0x0d).n(4, 0x100).b(0x0f, 0x30); // EFER |= LME
      c.b(0x0f, 0x20, 0xc0, 0x0d).n(4, 0x80000000).b(0x0f, 0x22, 0xc0); // or cr0, PG
      c.b(0x0f, 0x32).store32(DATA + 8, AX); // EFER, still in compatibility mode
      c.b(0xea).n(4, 'in64').n(2, CS64);
      c.bits = 64;
      c.label('in64').mov(AX, 0x123456789).b(0x48, 0x89).abs(AX, DATA);
      c.b(0xff, 0x2c, 0x25).n(4, 'far'); // jmp far m16:32
      c.label('far').n(4, 'in32').n(2, CS32);
      c.bits = 32;
      c.label('in32').b(0x0f, 0x20, 0xc0, 0x25).n(4, 0x7fffffff).b(0x0f, 0x22, 0xc0); // and cr0, ~PG
      c.mov(CX, 0xc0000080)
        .b(0x0f, 0x32)
        .store32(DATA + 12, AX)
        .stop();
      const s = b.prot(c);
      b.longTables();
      b.vcpu.setState({ ...s, rip: BigInt(CODE) });
      b.halt();
      same([b.data(0), b.data(1)], [0x23456789, 1], 'written by 64-bit code');
      same([b.data(2) & 0x500, b.data(3) & 0x500], [0x500, 0x100], 'EFER.LMA and LME with and without paging');
    },
  },
  {
    name: 'long mode: error codes and CR2 of #PF for every cause',
    run(hv) {
      const at = PAGED + 0x1ff8;
      const run = (c: Code, lo: number, hi: number, error: number, what: string): void => {
        naming(what, () => {
          const b = new Bench(hv);
          b.long(c.stop());
          b.page(1, lo, hi);
          b.expectException({ vector: 14, error, cr2: at });
        });
      };
      run(loadAt(at), 0, 0, 0, 'read, not present');
      run(storeAt(at), 0, 0, 2, 'write, not present');
      run(storeAt(at), FRAMES | 5, 0, 3, 'write, read-only (CR0.WP)');
      run(loadAt(at), FRAMES | 7, 0x80000 >>> 0, 9, 'read, reserved bit 51');
      run(storeAt(at), FRAMES | 7, 0x80000 >>> 0, 11, 'write, reserved bit 51');
      run(code().mov(DI, at).b(0xff, 0xe7), FRAMES | 7, 0x80000000, 0x11, 'fetch, NX');
      run(code().mov(DI, at).b(0xff, 0xe7), 0, 0, 0x10, 'fetch, not present');
      const inUser = (bytes: number[], lo: number, hi: number, error: number, what: string): void => {
        naming(what, () => {
          const b = new Bench(hv);
          b.put(
            user()
              .mov(DI, at)
              .b(...bytes),
          );
          b.long(toUser(code(), 2));
          b.page(1, lo, hi);
          b.expectException({ vector: 14, error, cr2: at, cs: UCS });
        });
      };
      inUser([0x48, 0x8b, 0x07], FRAMES | 3, 0, 5, 'user read, supervisor page');
      inUser([0x48, 0x89, 0x07], FRAMES | 3, 0, 7, 'user write, supervisor page');
      inUser([0x48, 0x8b, 0x07], 0, 0, 4, 'user read, not present');
      inUser([0xff, 0xe7], FRAMES | 7, 0x80000000, 0x15, 'user fetch, NX');
    },
  },
  {
    name: 'long mode: an access over a page boundary faults on the page that is missing, and changes nothing',
    run(hv) {
      const b = new Bench(hv);
      b.long(
        code()
          .mov(DI, PAGED + 0xffe)
          .mov(AX, 0x1122334455667788n)
          .b(0x48, 0x89, 0x07)
          .stop(),
      );
      b.page(1, 0);
      b.expectException({ vector: 14, error: 2, cr2: PAGED + 0x1000 });
      same(b.ram.read16(FRAMES + 0xffe), 0, 'bytes on the first page');
      const c = new Bench(hv);
      c.ram.write32(FRAMES + 0xffe, 0x44332211);
      c.ram.write16(FRAMES + 0x5002, 0x6655);
      c.long(
        code()
          .mov(DI, PAGED + 0xffe)
          .b(0x48, 0x8b, 0x07, 0x48, 0x89)
          .abs(AX, DATA)
          .stop(),
      );
      c.page(1, (FRAMES + 0x5000) | 7); // not adjacent in physical memory
      c.ram.write32(FRAMES + 0x5000, 0x88774433);
      c.ram.write32(FRAMES + 0x5004, 0x0000aa99);
      c.halt();
      same([c.data(0), c.data(1)], [0x44332211, 0xaa998877], 'loaded across the boundary');
    },
  },
  {
    name: 'long mode: accessed and dirty bits, INVLPG and CR3 loads',
    run(hv) {
      const b = new Bench(hv);
      b.ram.write32(FRAMES, 0x1111);
      b.ram.write32(FRAMES + 0x4000, 0x2222);
      const load = (c: Code, i: number): Code => c.b(0x8b, 0x07).store32(DATA + 4 * i, AX);
      const c = load(code().mov(DI, PAGED), 0).b(0xc6, 0x47, 0x08, 0x01); // mov eax, [rdi]; mov byte [rdi+8], 1
      c.mov32(DX, (FRAMES + 0x4000) | 7)
        .store32(PT, DX)
        .b(0x0f, 0x01, 0x3f); // new frame; invlpg [rdi]
      load(c, 1)
        .mov32(DX, FRAMES | 7)
        .store32(PT, DX)
        .b(0x0f, 0x20, 0xda, 0x0f, 0x22, 0xda); // old frame; mov cr3, cr3
      b.long(load(c, 2).stop());
      b.halt();
      same([b.data(0), b.data(1), b.data(2)], [0x1111, 0x2222, 0x1111], 'loaded before INVLPG, after it, after CR3');
      same(b.ram.read32(PT) & 0x60, 0x20, 'A and D of the page that was read again');
      same(b.ram.read32(PT + 8) & 0x60, 0, 'A and D of a page not touched');
      same(b.ram.read32(PML4) & 0x20, 0x20, 'A of the PML4 entry');
      const d = new Bench(hv);
      d.long(code().mov(DI, PAGED).b(0x8b, 0x07, 0x89, 0x07).stop()); // read first, then write
      d.halt();
      same(d.ram.read32(PT) & 0x60, 0x60, 'A and D after a read and a write');
      must(PML4_LINK === (d.ram.read32(PML4) & 0xfffff000), 'the PML4 entry still points to its table');
    },
  },
  {
    name: 'long mode: #GP and #SS for non-canonical addresses, #UD, #DE, #AC off, and 64-bit frames',
    run(hv) {
      const bad = 0x0000_8000_0000_0000;
      const programs: [string, Code, number, number, number][] = [
        ['load', code().mov(DI, bad).b(0x8b, 0x07), 13, 0, 10],
        [
          'push',
          code()
            .mov(4, bad + 0x1000)
            .b(0x50),
          12,
          0,
          10,
        ],
        ['jump', code().mov(AX, bad).b(0xff, 0xe0), 13, 0, 10],
        ['division by zero', code().b(0x31, 0xc9, 0x48, 0xf7, 0xf1), 0, 0, 2],
        ['quotient too large', code().b(0xb2, 0x01, 0xb9).n(4, 1).b(0x48, 0xf7, 0xf1), 0, 0, 7],
        ['PUSH ES does not exist', code().b(0x06), 6, 0, 0],
        ['LOCK on a register', code().b(0xf0, 0x01, 0xc0), 6, 0, 0],
        [
          'misaligned MOVAPS',
          code()
            .mov(DI, DATA + 4)
            .b(0x0f, 0x28, 0x07),
          13,
          0,
          10,
        ],
      ];
      for (const [what, c, vector, error, at] of programs) {
        naming(what, () => {
          const b = new Bench(hv);
          if (what === 'push') {
            b.long(c.stop());
            b.gate(12, handlerOf(b, 12), { long: true, ist: 1 });
          } else b.long(c.stop());
          b.expectException({ vector, error, ip: CODE + at, cs: CS64 });
        });
      }
      const b = new Bench(hv);
      b.long(
        code()
          .mov(DI, DATA + 1)
          .b(0x48, 0x89, 0x07, 0xcc),
      );
      b.expectException({ vector: 3, sp: STACK });
      same(Number(b.vcpu.getState().gpr[4]! & 0xfn), 0, 'the frame is aligned to 16 bytes');
    },
  },
  {
    name: 'long mode: interrupts from ring 3 take RSP0; IST switches stacks in ring 0 too',
    run(hv) {
      const b = new Bench(hv);
      b.put(user().b(0x0f, 0x0b));
      b.long(toUser(code(), 0x202));
      const got = b.expectException({ vector: 6, cs: UCS, sp: USER_STACK, ip: CODE2 });
      same(got.flags & 0x200, 0x200, 'IF in ring 3');
      same(b.vcpu.getState().segments[2]?.selector, 0, 'SS is null in ring 0');
      must(
        Number(b.vcpu.getState().gpr[4]) <= STACK - 0x1000 && Number(b.vcpu.getState().gpr[4]) > STACK - 0x1100,
        'RSP is at RSP0',
      );
      const i = new Bench(hv);
      i.long(code().b(0x0f, 0x0b));
      i.gate(6, handlerOf(i, 6), { long: true, ist: 1 });
      i.expectException({ vector: 6, sp: STACK });
      must(
        Number(i.vcpu.getState().gpr[4]) <= STACK - 0x2000 && Number(i.vcpu.getState().gpr[4]) > STACK - 0x2100,
        'RSP is at IST1',
      );
    },
  },
  {
    name: 'long mode: SYSCALL, SYSRET and SWAPGS; these MSRs stay in the engine',
    run(hv) {
      const b = new Bench(hv);
      const wrmsr = (c: Code, index: number, lo: number | string, hi: number): Code =>
        c.mov32(CX, index).mov32(AX, lo).mov32(DX, hi).b(0x0f, 0x30);
      const c = code();
      wrmsr(c, 0xc0000081, 0, ((0x18 | 3) << 16) | CS32); // STAR: SYSRET to 0x2B/0x23, SYSCALL to 8/0x10
      wrmsr(c, 0xc0000082, 'entry', 0); // LSTAR
      wrmsr(c, 0xc0000084, 0x200, 0); // FMASK: IF
      wrmsr(c, 0xc0000101, 0x1000, 0); // GS_BASE
      wrmsr(c, 0xc0000102, 0x2000, 7); // KERNEL_GS_BASE
      c.mov(CX, CODE2).b(0x49, 0xc7, 0xc3).n(4, 0x202).mov(4, USER_STACK).b(0x48, 0x0f, 0x07); // mov r11, flags; sysretq
      c.label('entry')
        .b(0x48, 0x89)
        .abs(CX, DATA)
        .b(0x4c, 0x89)
        .abs(3, DATA + 8); // rcx, r11
      c.b(0x9c, 0x58)
        .store32(DATA + 16, AX)
        .b(0x8c, 0xc8)
        .store32(DATA + 20, AX)
        .b(0x8c, 0xd0)
        .store32(DATA + 24, AX);
      c.b(0x0f, 0x01, 0xf8)
        .mov32(CX, 0xc0000101)
        .b(0x0f, 0x32)
        .store32(DATA + 28, AX)
        .store32(DATA + 32, DX)
        .stop(); // swapgs; rdmsr
      b.put(user().b(0xf9, 0x0f, 0x05)); // stc; syscall
      b.long(c);
      b.halt();
      same([b.data(0), b.data(2)], [CODE2 + 3, 0x203], 'RCX, R11');
      same(b.data(4) & 0x201, 1, 'IF masked, CF kept');
      same([b.data(5) & 0xffff, b.data(6) & 0xffff], [CS32, DS], 'CS, SS');
      same([b.data(7), b.data(8)], [0x2000, 7], 'GS base after SWAPGS');
      same(b.log, [], 'bus');
    },
  },
  {
    name: 'MSRs: others go to the bus with both halves; one that it refuses is #GP(0)',
    run(hv) {
      const b = new Bench(hv);
      b.msrs.set(0x8b, { lo: 0x89abcdef, hi: 0x01234567 });
      const c = code()
        .mov32(CX, 0x8b)
        .b(0x0f, 0x32)
        .store32(DATA, AX)
        .store32(DATA + 4, DX);
      c.mov32(AX, 0xfedcba98).mov32(DX, 0x80000001).b(0x0f, 0x30);
      c.mov32(CX, 0x1234567).label('bad').b(0x0f, 0x32).stop();
      b.long(c);
      b.expectException({ vector: 13, error: 0, ip: c.at('bad') });
      same([b.data(0), b.data(1)], [0x89abcdef, 0x01234567], 'read');
      same(b.msrs.get(0x8b), { lo: 0xfedcba98, hi: 0x80000001 }, 'written');
      const w = new Bench(hv);
      w.long(code().mov32(CX, 0x1234567).b(0x0f, 0x30).stop());
      w.expectException({ vector: 13, error: 0, ip: CODE + 5 });
    },
  },
  {
    name: 'CR8: goes to the bus; bits over 3 are #GP(0)',
    run(hv) {
      const b = new Bench(hv);
      b.tpr = 9;
      const c = code().b(0x44, 0x0f, 0x20, 0xc0).store32(DATA, AX).mov32(AX, 5).b(0x44, 0x0f, 0x22, 0xc0); // mov rax, cr8; mov cr8, 5
      c.mov32(AX, 0x10).label('bad').b(0x44, 0x0f, 0x22, 0xc0).stop();
      b.long(c);
      b.expectException({ vector: 13, error: 0, ip: c.at('bad') });
      same([b.data(0), b.tpr], [9, 5], 'read, written');
    },
  },
  {
    name: 'MMIO: 64-bit accesses are two of 32 bits, low half first; RIP-relative and SIB forms reach it',
    run(hv) {
      const b = new Bench(hv);
      const c = code().mov(DI, MMIO).mov(AX, 0x1122334455667788n).b(0x48, 0x89, 0x07).b(0x48, 0x8b, 0x47, 0x08); // mov [rdi], rax; mov rax, [rdi+8]
      c.b(0x48, 0x89)
        .abs(AX, DATA)
        .mov(SI, 4)
        .b(0x8b, 0x44, 0xb7, 0x10)
        .store32(DATA + 8, AX)
        .stop(); // mov eax, [rdi+rsi*4+16]
      b.long(c);
      let n = 0;
      b.onRead = (_, width) => (++n * (width === 4 ? 0x01010101 : 1)) >>> 0;
      b.halt();
      const hex = (o: number): string => `0x${(MMIO + o).toString(16)}/4`;
      same(
        b.log,
        [
          `write ${hex(0)} 0x55667788`,
          `write ${hex(4)} 0x11223344`,
          `read ${hex(8)}`,
          `read ${hex(12)}`,
          `read ${hex(32)}`,
        ],
        'bus',
      );
      same([b.data(0), b.data(1), b.data(2)], [0x01010101, 0x02020202, 0x03030303], 'loaded');
    },
  },
  {
    name: 'long mode: a fault in a REP string instruction keeps its progress in RCX, RSI and RDI',
    run(hv) {
      const b = new Bench(hv);
      b.long(
        code()
          .mov(SI, FRAMES + 0x4000)
          .mov(DI, PAGED + 0xff0)
          .mov(CX, 0x40)
          .label('rep')
          .b(0xf3, 0xa4)
          .stop(),
      );
      b.page(1, 0);
      b.expectException({ vector: 14, error: 2, cr2: PAGED + 0x1000, ip: CODE + 30 });
      const s = b.vcpu.getState();
      same(
        [s.gpr[CX], s.gpr[SI], s.gpr[DI]],
        [0x30n, BigInt(FRAMES + 0x4010), BigInt(PAGED + 0x1000)],
        'RCX, RSI, RDI',
      );
    },
  },
  {
    name: 'long mode: atomic instructions on memory, aligned and not',
    run(hv) {
      const b = new Bench(hv);
      const c = code()
        .mov(DI, DATA)
        .mov32(AX, 5)
        .b(0xf0, 0x0f, 0xc1, 0x07)
        .store32(DATA + 0x20, AX); // lock xadd [rdi], eax
      c.mov32(AX, 5)
        .mov32(CX, 9)
        .b(0xf0, 0x0f, 0xb1, 0x0f)
        .b(0x0f, 0x94, 0x04, 0x25)
        .n(4, DATA + 0x24); // lock cmpxchg [rdi], ecx; setz
      c.b(0xf0, 0x48, 0xff, 0x47, 0x03).b(0xf0, 0x0f, 0xba, 0x6f, 0x10, 0x1f); // lock inc qword [rdi+3]; lock bts dword [rdi+16], 31
      b.long(c.stop());
      b.halt();
      same([b.data(8), b.data(9) & 0xff], [0, 1], 'XADD gave, CMPXCHG ZF');
      same([b.data(0), b.data(1), b.data(4)], [9 + 2 ** 24, 0, 0x80000000], 'memory');
    },
  },
  {
    name: 'long mode: HLT in 64-bit code wakes by an interrupt whose handler ends in IRETQ',
    run(hv) {
      const b = new Bench(hv);
      b.put(new Code(CODE2, 64).inc32(DATA).b(0x48, 0xcf));
      b.long(
        code()
          .label('l')
          .b(0xfb, 0xf4)
          .inc32(DATA + 4)
          .b(0xeb)
          .rel(1, 'l'),
      );
      b.gate(0xef, CODE2, { long: true });
      for (let i = 0; i < 50; i++) {
        b.halt();
        must(b.vcpu.inject(0xef), `inject ${i}`);
      }
      b.halt();
      same([b.data(0), b.data(1)], [50, 50], 'interrupts, times round');
      must(b.vcpu.retired() === 0 || b.vcpu.retired() > 250, 'retired instructions are counted');
    },
  },
  {
    name: 'long mode: a triple fault is Shutdown; without an IDT the first exception is one',
    run(hv) {
      const b = new Bench(hv);
      const s = b.long(code().b(0x0f, 0x0b));
      s.idtr = { base: BigInt(IDT), limit: 0 };
      s.gdtr = { base: BigInt(GDT), limit: 0x3f };
      b.vcpu.setState(s);
      same(nameOf(b.run()), 'Shutdown', 'run() came back with');
    },
  },
];

/** Address of the bench's handler for a vector. */
function handlerOf(b: Bench, vector: number): number {
  const at = IDT + vector * 16;
  return b.ram.read16(at) + b.ram.read16(at + 6) * 0x10000;
}
