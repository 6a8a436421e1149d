// Real mode, reset, port I/O, HLT and interrupts. Intel SDM vol. 3 §9.1 (reset), §20.1 (real mode), §6.8 (masking).
import { Exit, type Vcpu } from '@hyve/core';
import { Bench, CODE, CODE2, DATA, must, nameOf, same } from './bench.ts';
import type { ConformanceCase } from './case.ts';
import { AX, BX, Code, CX, DX } from './code.ts';

const real = (): Code => new Code(CODE, 16);

/** A real-mode handler that counts in DATA and returns. */
const counter = (origin: number, index: number): Code => new Code(origin, 16).inc32(DATA + 4 * index).b(0xcf);

export const REAL_CASES: readonly ConformanceCase[] = [
  {
    name: 'reset: the boot processor starts at F000:FFF0, the others wait for SIPI',
    run(hv) {
      const b = new Bench(hv, { vcpus: 2 });
      const s = b.vcpu.getState();
      const cs = s.segments[1];
      same([s.rip, cs?.selector, cs?.base, cs?.limit], [0xfff0n, 0xf000, 0xffff0000n, 0xffff], 'RIP, CS');
      same(
        [s.rflags, s.cr0 & 0x80000001n, s.efer, s.cr3, s.cr4],
        [2n, 0n, 0n, 0n, 0n],
        'RFLAGS, CR0.PG/PE, EFER, CR3, CR4',
      );
      same([s.idtr.base, s.idtr.limit], [0n, 0xffff], 'IDTR');
      same(s.dr[4], 0xffff0ff0n, 'DR6');
      same([b.vcpu.waitingForSipi, b.vm.vcpus[1]?.waitingForSipi], [false, true], 'waiting for SIPI');
    },
  },
  {
    name: 'reset: runs ROM at the reset vector; stores to ROM go to the bus and change nothing',
    run(hv) {
      const rom = new Uint8Array(0x10000);
      rom.set([0xe9, 0x0d, 0x00], 0xfff0); // jmp to offset 0
      const c = new Code(0, 16)
        .b(0x26, 0xc6, 0x06, 0x00, 0x01, 0x01) // mov byte es:[0x100], 1
        .b(0x26, 0xa0, 0x00, 0x01) // mov al, es:[0x100]
        .b(0xa2)
        .n(2, DATA) // mov [DATA], al
        .stop();
      rom.set(c.bytes());
      rom[0x100] = 0x5a;
      const b = new Bench(hv, { rom });
      const s = b.vcpu.getState();
      s.segments[0] = { selector: 0xf000, base: 0xffff0000n, limit: 0xffff, attr: 0x93 };
      b.vcpu.setState(s);
      b.halt();
      same(b.data(0) & 0xff, 0x5a, 'the ROM byte afterwards');
      same(b.log, ['write 0xffff0100/1 0x1'], 'bus');
    },
  },
  {
    name: 'real mode: code may write through CS',
    run(hv) {
      const b = new Bench(hv);
      b.real(real().b(0x2e, 0xc6, 0x06).n(2, DATA).b(0x77).stop()); // mov byte cs:[DATA], 0x77
      b.halt();
      same(b.data(0) & 0xff, 0x77, 'the byte');
    },
  },
  {
    name: 'real mode: INT pushes FLAGS, CS, IP and clears IF and TF; IRET brings them back',
    run(hv) {
      const b = new Bench(hv);
      const c = real().b(0xfb, 0xf9); // sti; stc
      c.b(0xcd, 0x42).label('next'); // int 0x42
      c.b(0x9c, 0x58)
        .store32(DATA + 4, AX)
        .b(0x89, 0x26)
        .n(2, DATA + 8)
        .stop(); // pushf; pop ax; mov [DATA+8], sp
      b.ivt(0x42, new Code(CODE2, 16).b(0x9c, 0x58).store32(DATA, AX).b(0xcf)); // pushf; pop ax; iret
      b.real(c);
      b.halt();
      same(b.data(0) & 0xffff, 0x0003, 'FLAGS in the handler');
      same(b.data(1) & 0xffff, 0x0203, 'FLAGS after IRET');
      same(b.data(2) & 0xffff, 0x7000, 'SP after IRET');
      same(
        [b.ram.read16(0x6ffa), b.ram.read16(0x6ffc), b.ram.read16(0x6ffe)],
        [c.at('next'), 0, 0x0203],
        'stack: IP, CS, FLAGS',
      );
    },
  },
  {
    name: 'real mode: #DE, #UD and #GP push the address of the instruction that failed, and no error code',
    run(hv) {
      const programs: [number, number[]][] = [
        [0, [0x31, 0xdb, 0xf7, 0xf3]], // xor bx, bx; div bx
        [6, [0x90, 0x90, 0x0f, 0x0b]], // ud2
        [13, [0x90, 0xa1, 0xff, 0xff]], // mov ax, [0xffff]: over the segment limit
      ];
      for (const [vector, bytes] of programs) {
        const b = new Bench(hv);
        b.ivt(
          vector,
          new Code(CODE2, 16)
            .b(0x58)
            .store32(DATA, AX)
            .b(0x89, 0x26)
            .n(2, DATA + 4)
            .stop(),
        ); // pop ax
        b.real(
          real()
            .b(...bytes)
            .stop(),
        );
        b.halt();
        const at = vector === 13 ? CODE + 1 : CODE + 2;
        same([b.data(0) & 0xffff, b.data(1) & 0xffff], [at, 0x6ffc], `vector ${vector}: IP and SP after popping it`);
      }
    },
  },
  {
    name: 'real mode: 16-bit address arithmetic wraps, A20 is on',
    run(hv) {
      const b = new Bench(hv);
      b.ram.write8(0x0010, 0x77);
      // mov bx, 0xfff0; mov al, [bx+0x20] → [0x10]; mov [DATA], al; segment FFFF:0010 is 0x100000, past RAM
      b.real(
        real()
          .mov(BX, 0xfff0)
          .b(0x8a, 0x47, 0x20)
          .b(0xa2)
          .n(2, DATA)
          .b(0xb8, 0xff, 0xff, 0x8e, 0xd8) // mov ax, 0xffff; mov ds, ax
          .b(0xa0, 0x10, 0x00) // mov al, [0x10]
          .stop(),
      );
      b.halt();
      same(b.data(0) & 0xff, 0x77, 'byte at 0x10');
      same(b.log, ['read 0x100000/1'], 'bus');
    },
  },
  {
    name: 'ports: IN and OUT of every width, by immediate and DX; narrow INs keep the rest of EAX',
    run(hv) {
      const b = new Bench(hv);
      const c = real();
      c.mov32(AX, 0x99887766).b(0xe6, 0x80).b(0xe7, 0x82).b(0x66, 0xe7, 0x84); // out 0x80, al; ax; eax
      c.mov(DX, 0x1234).b(0xee).b(0xef).b(0x66, 0xef); // out dx, al; ax; eax
      c.b(0xe4, 0x10).store32(DATA, AX); // in al, 0x10
      c.mov32(AX, 0x99887766)
        .b(0xe5, 0x12)
        .store32(DATA + 4, AX); // in ax
      c.mov32(AX, 0x99887766)
        .b(0x66, 0xe5, 0x14)
        .store32(DATA + 8, AX); // in eax
      c.mov32(AX, 0x99887766)
        .b(0xec)
        .store32(DATA + 12, AX); // in al, dx
      c.b(0xed)
        .store32(DATA + 16, AX)
        .b(0x66, 0xed)
        .store32(DATA + 20, AX)
        .stop();
      b.real(c);
      b.halt();
      const outs = ['out 0x80/1 0x66', 'out 0x82/2 0x7766', 'out 0x84/4 0x99887766'];
      const outsDx = ['out 0x1234/1 0x66', 'out 0x1234/2 0x7766', 'out 0x1234/4 0x99887766'];
      const ins = ['in 0x10/1', 'in 0x12/2', 'in 0x14/4', 'in 0x1234/1', 'in 0x1234/2', 'in 0x1234/4'];
      same(b.log, [...outs, ...outsDx, ...ins], 'bus');
      const got = [0, 1, 2, 3, 4, 5].map((i) => b.data(i));
      same(got, [0x99887711, 0x99882211, 0x44332211, 0x99887711, 0x99882211, 0x44332211], 'EAX after each IN');
    },
  },
  {
    name: 'ports: REP INS and REP OUTS of every width move CX elements, up and down',
    run(hv) {
      const b = new Bench(hv);
      b.ram.load(0x6800, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
      const c = real().mov(DX, 0x300).b(0xfc); // cld
      for (const [width, op] of [
        [1, [0xf3, 0x6e]],
        [2, [0xf3, 0x6f]],
        [4, [0xf3, 0x66, 0x6f]],
      ] as const)
        c.mov(6, 0x6800)
          .mov(CX, 8 / width)
          .b(...op);
      c.b(0xfd).mov(6, 0x6806).mov(CX, 2).b(0xf3, 0x6f).b(0xfc); // std; words from 0x6806 down; cld
      c.mov(7, DATA).mov(CX, 3).b(0xf3, 0x6c); // rep insb
      c.mov(7, DATA + 4)
        .mov(CX, 2)
        .b(0xf3, 0x66, 0x6d); // rep insd
      c.mov(CX, 0).b(0xf3, 0x6c, 0xf3, 0x6e); // nothing
      c.b(0x89, 0x3e)
        .n(2, DATA + 16)
        .b(0x89, 0x0e)
        .n(2, DATA + 18)
        .stop(); // mov [..], di; cx
      b.real(c);
      b.halt();
      const o = (w: number, ...v: number[]): string[] => v.map((x) => `out 0x300/${w} 0x${x.toString(16)}`);
      const outs = [
        ...o(1, 1, 2, 3, 4, 5, 6, 7, 8),
        ...o(2, 0x201, 0x403, 0x605, 0x807),
        ...o(4, 0x4030201, 0x8070605),
        ...o(2, 0x807, 0x605),
      ];
      const ins = ['in 0x300/1', 'in 0x300/1', 'in 0x300/1', 'in 0x300/4', 'in 0x300/4'];
      same(b.log, [...outs, ...ins], 'bus');
      same([b.data(0) & 0xffffff, b.data(1), b.data(2)], [0x111111, 0x44332211, 0x44332211], 'memory after INS');
      same([b.ram.read16(DATA + 16), b.ram.read16(DATA + 18)], [DATA + 12, 0], 'DI, CX');
    },
  },
  {
    name: 'HLT: comes back, stays halted, and an injected interrupt wakes it',
    run(hv) {
      const b = new Bench(hv);
      b.ivt(0x30, counter(CODE2, 0));
      b.real(
        real()
          .b(0xfb, 0xf4)
          .inc32(DATA + 4)
          .stop(),
      ); // sti; hlt; inc; stop
      b.halt();
      must(b.vcpu.halted, 'halted');
      b.halt();
      same([b.data(0), b.data(1)], [0, 0], 'counts while halted');
      must(b.vcpu.canInject(), 'a halted vCPU with IF set takes an interrupt');
      must(b.vcpu.inject(0x30), 'inject');
      b.halt();
      same([b.data(0), b.data(1)], [1, 1], 'handler and the code after HLT');
    },
  },
  {
    name: 'interrupts: refused while IF is clear; the window opens once it is set',
    run(hv) {
      const b = new Bench(hv);
      b.ivt(0x31, counter(CODE2, 0));
      const c = real().mov(CX, 1000).label('a').b(0xe2).rel(1, 'a').b(0xfb, 0x90).label('open'); // loop; sti; nop
      c.mov(CX, 1000).label('b').b(0xe2).rel(1, 'b').stop();
      b.real(c);
      must(!b.vcpu.canInject(), 'canInject with IF clear');
      must(!b.vcpu.inject(0x31), 'inject with IF clear');
      b.vcpu.requestIrqWindow();
      same(nameOf(b.run()), 'IrqWindow', 'run() came back with');
      must(b.vcpu.canInject(), 'canInject at the window');
      must(b.vcpu.getState().rip >= BigInt(c.at('open')), 'the window opened inside the shadow of STI');
      must(b.vcpu.inject(0x31), 'inject at the window');
      must(!b.vcpu.inject(0x31), 'a second one at once');
      b.halt();
      same(b.data(0), 1, 'handler ran');
    },
  },
  {
    name: 'interrupts: STI holds them back for one instruction, so that STI; HLT does not lose one',
    run(hv) {
      const b = new Bench(hv);
      b.ivt(0x31, counter(CODE2, 0));
      b.real(
        real()
          .b(0xfb, 0xf4)
          .label('after')
          .inc32(DATA + 4)
          .stop(),
      );
      b.vcpu.requestIrqWindow();
      let reason = b.run();
      if (reason === Exit.IrqWindow || reason === Exit.Halt) {
        same(b.vcpu.getState().rip, BigInt(CODE + 2), 'RIP at the window: after HLT');
        must(b.vcpu.inject(0x31), 'inject');
      }
      reason = b.run();
      if (reason === Exit.IrqWindow) reason = b.run();
      same(nameOf(reason), 'Halt', 'run() came back with');
      same([b.data(0), b.data(1)], [1, 1], 'handler, code after HLT');
    },
  },
  {
    name: 'NMI: taken with IF clear, wakes HLT, and waits while another is handled until IRET',
    run(hv) {
      const b = new Bench(hv);
      // The handler tells the bus, which sends a second NMI; it must come after IRET.
      const handler = new Code(CODE2, 16)
        .inc32(DATA)
        .b(0xe6, 0x80)
        .load32(BX, DATA)
        .store32(DATA + 8, BX)
        .b(0xcf);
      b.ivt(2, handler);
      b.real(
        real()
          .b(0xf4)
          .inc32(DATA + 4)
          .b(0xf4)
          .inc32(DATA + 4)
          .stop(),
      );
      let sent = false;
      b.onWrite = () => {
        if (!sent) b.vcpu.injectNmi();
        sent = true;
      };
      b.halt();
      b.vcpu.injectNmi();
      b.halt();
      same(b.data(0), 2, 'NMIs taken');
      same(b.data(2), 2, 'count the second handler saw at its end');
      must(!b.vcpu.getState().nmiBlocked, 'NMIs are open again');
      b.vcpu.injectNmi();
      b.halt();
      same(b.data(0), 3, 'NMIs taken');
    },
  },
  {
    name: 'triple fault: Shutdown, again on every run, until reset',
    run(hv) {
      const b = new Bench(hv);
      const s = b.real(real().b(0x0f, 0x0b)); // ud2
      s.idtr = { base: 0n, limit: 0 };
      b.vcpu.setState(s);
      same(nameOf(b.run()), 'Shutdown', 'run() came back with');
      same(nameOf(b.run()), 'Shutdown', 'run() came back with');
      b.vcpu.reset();
      b.real(real().inc32(DATA).stop());
      b.halt();
      same(b.data(0), 1, 'runs after reset');
    },
  },
  {
    name: 'kick: before a run and from inside a bus call; the access completes and nothing is lost',
    run(hv) {
      const b = new Bench(hv);
      b.real(real().b(0xb0, 0x07, 0xe6, 0x80).inc32(DATA).b(0xe4, 0x81).inc32(DATA).stop());
      b.vcpu.kick();
      same(nameOf(b.run()), 'Kicked', 'first run');
      same(b.log, [], 'bus before the first instruction');
      b.onWrite = () => b.vcpu.kick();
      same(nameOf(b.run()), 'Kicked', 'run with OUT');
      same(b.log, ['out 0x80/1 0x7'], 'bus');
      must(b.vcpu.getState().rip >= BigInt(CODE + 4), 'OUT has completed');
      b.onRead = () => {
        b.vcpu.kick();
        return 0x42;
      };
      same(nameOf(b.run()), 'Kicked', 'run with IN');
      b.halt();
      same([b.data(0), Number(b.vcpu.getState().gpr[0]) & 0xff], [2, 0x42], 'count, AL');
      same(b.log, ['out 0x80/1 0x7', 'in 0x81/1'], 'each access once');
    },
  },
  {
    name: 'INIT and SIPI: an application processor starts at vector × 4 KiB; SIPI without INIT does nothing',
    run(hv) {
      const b = new Bench(hv, { vcpus: 2 });
      const ap = b.vm.vcpus[1] as Vcpu;
      // mov ax, cs; mov [DATA], ax; inc [DATA+4]; stop. DS is 0 after INIT.
      b.put(
        new Code(CODE, 16)
          .b(0x8c, 0xc8, 0xa3)
          .n(2, DATA)
          .inc32(DATA + 4)
          .stop(),
      );
      ap.startup(CODE >> 12);
      must(!ap.waitingForSipi, 'started');
      same([ap.getState().rip, ap.getState().segments[1]?.base], [0n, BigInt(CODE)], 'RIP, CS base');
      b.halt(ap);
      same([b.data(0) & 0xffff, b.data(1)], [CODE >> 4, 1], 'CS, count');
      ap.startup(CODE2 >> 12);
      b.halt(ap);
      same(b.data(1), 1, 'count after a SIPI that nobody waits for');
      ap.init();
      must(ap.waitingForSipi, 'waits after INIT');
      must(!ap.canInject(), 'takes no interrupt while it waits');
      ap.startup(CODE >> 12);
      b.halt(ap);
      same(b.data(1), 2, 'count after INIT and SIPI');
      b.vcpu.init();
      same(
        [b.vcpu.waitingForSipi, b.vcpu.getState().rip],
        [false, 0xfff0n],
        'the boot processor goes to the reset vector',
      );
    },
  },
  {
    name: 'state: taken in the middle of a loop and put into another VM, it goes on to the same end',
    run(hv) {
      // 200,000 turns of: imul ebx, ebx, 0x41C64E6D; add ebx, 0x3039; mov [DATA], ebx
      const c = real()
        .mov32(CX, 200_000)
        .label('l')
        .b(0x66, 0x69, 0xdb)
        .n(4, 0x41c64e6d)
        .b(0x66, 0x81, 0xc3)
        .n(4, 0x3039);
      c.store32(DATA, BX).b(0x66, 0x49, 0x75).rel(1, 'l').stop(); // dec ecx; jnz
      const whole = new Bench(hv);
      whole.real(c);
      whole.halt();
      const first = new Bench(hv);
      first.real(c);
      let steps = 0;
      while (first.vcpu.run(20_000).reason === Exit.Budget && first.ram.read32(DATA) === 0)
        must(++steps < 1e5, 'the loop does not start');
      const second = new Bench(hv);
      second.put(c);
      second.ram.write32(DATA, first.ram.read32(DATA));
      second.vcpu.setState(first.vcpu.getState());
      second.halt();
      // All but the time stamp counter.
      const end = (b: Bench): object => {
        const s = b.vcpu.getState();
        return { ...s, msrs: s.msrs.filter(([index]) => index !== 0x10) };
      };
      same(end(second), end(whole), 'state at the end');
      same(second.data(0), whole.data(0), 'memory at the end');
    },
  },
  {
    name: 'code: a program may change the instruction that follows, and the host may change code between runs',
    run(hv) {
      const b = new Bench(hv);
      const c = real().mov(CX, 3).label('again');
      c.b(0xc6, 0x06).n(2, 'imm').b(0x55); // mov byte [imm], 0x55
      c.b(0xb0).label('imm').b(0x11).b(0xa2).n(2, DATA); // mov al, 0x11; mov [DATA], al
      c.b(0xfe, 0x06).n(2, 'imm').b(0xe2).rel(1, 'again').stop(); // inc byte [imm]; loop
      b.real(c);
      b.halt();
      same(b.data(0) & 0xff, 0x55, 'the changed immediate');
      const before = new Code(CODE2, 16).b(0xb0, 0x01, 0xa2).n(2, DATA).stop();
      b.real(before);
      b.halt();
      b.ram.write8(CODE2 + 1, 0x02);
      b.real(new Code(CODE2, 16).b(0xb0, 0x02, 0xa2).n(2, DATA).stop());
      b.halt();
      same(b.data(0) & 0xff, 0x02, 'after the host wrote by write8 and load');
      b.ram.write8(CODE2 + 1, 0x03);
      const s = b.vcpu.getState();
      s.rip = BigInt(CODE2);
      s.activity = 'running';
      b.vcpu.setState(s);
      b.halt();
      same(b.data(0) & 0xff, 0x03, 'after the host wrote by write8 alone');
    },
  },
  {
    name: 'two VMs of one engine know nothing of each other',
    run(hv) {
      const a = new Bench(hv);
      const b = new Bench(hv);
      a.real(real().mov32(AX, 0x1111).store32(DATA, AX).b(0xe6, 0x80).stop());
      b.real(real().mov32(AX, 0x2222).store32(DATA, AX).b(0xe6, 0x81).stop());
      a.halt();
      b.halt();
      same([a.data(0), b.data(0)], [0x1111, 0x2222], 'memory');
      same([a.log, b.log], [['out 0x80/1 0x11'], ['out 0x81/1 0x22']], 'buses');
      a.vm.close();
      b.real(real().mov32(CX, 0x3333).store32(DATA, CX).stop());
      b.halt();
      same(b.data(0), 0x3333, 'the other one after close()');
    },
  },
  {
    name: 'PAUSE: an exit where it was asked for, nothing otherwise',
    run(hv) {
      const a = new Bench(hv, { exitOnPause: true });
      a.real(real().b(0xf3, 0x90).inc32(DATA).stop());
      same(nameOf(a.run()), 'Pause', 'run() came back with');
      same(a.vcpu.getState().rip, BigInt(CODE + 2), 'RIP');
      a.halt();
      const b = new Bench(hv);
      b.real(real().b(0xf3, 0x90).inc32(DATA).stop());
      b.halt();
      same([a.data(0), b.data(0)], [1, 1], 'counts');
    },
  },
  {
    name: 'CPUID: gives the rows of the table',
    run(hv) {
      const b = new Bench(hv);
      const row = hv.supportedCpuid().find((r) => r.leaf === 0);
      b.real(
        real()
          .mov32(AX, 0)
          .b(0x0f, 0xa2)
          .store32(DATA, AX)
          .store32(DATA + 4, BX)
          .store32(DATA + 8, CX)
          .store32(DATA + 12, DX)
          .stop(),
      );
      b.halt();
      same(
        [0, 1, 2, 3].map((i) => b.data(i)),
        [row?.eax, row?.ebx, row?.ecx, row?.edx],
        'leaf 0',
      );
    },
  },
  {
    name: 'TSC: goes forward, at the frequency asked for',
    run(hv) {
      const b = new Bench(hv);
      const c = real()
        .b(0x0f, 0x31)
        .store32(DATA, AX)
        .store32(DATA + 4, DX)
        .b(0xf4); // rdtsc; hlt
      b.real(
        c
          .b(0x0f, 0x31)
          .store32(DATA + 8, AX)
          .store32(DATA + 12, DX)
          .stop(),
      );
      const clock = (globalThis as unknown as { performance: { now(): number } }).performance;
      const before = clock.now();
      b.halt();
      const middle = clock.now();
      while (clock.now() < middle + 5);
      b.vcpu.injectNmi(); // wakes HLT; vector 2 of the table goes to 0000:0000, so point it at an IRET
      b.ivt(2, new Code(CODE2, 16).b(0xcf));
      b.halt();
      const after = clock.now();
      const ticks = b.data(2) + b.data(3) * 2 ** 32 - (b.data(0) + b.data(1) * 2 ** 32);
      must(
        ticks >= 5 * 2e6 * 0.99 && ticks <= (after - before) * 2e6 * 1.01,
        `${ticks} ticks in 5 to ${after - before} ms at 2 GHz`,
      );
    },
  },
];
