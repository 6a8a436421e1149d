// The host's debugger, states with something under way, memory over 4 GiB. Intel SDM vol. 3B chapter 18.
import type { Vcpu } from '@hyve/core';
import { Bench, CODE, CODE2, DATA, HIGH, must, nameOf, PML4, same } from './bench.ts';
import type { ConformanceCase } from './case.ts';
import { AX, BX, Code, CX, DI } from './code.ts';

function debug(v: Vcpu, request: Parameters<NonNullable<Vcpu['setDebug']>>[0]): void {
  must(v.setDebug !== undefined, 'the engine has no debugger');
  v.setDebug?.(request);
}

export const DEBUG_CASES: readonly ConformanceCase[] = [
  {
    name: 'debugger: single steps in long mode, one instruction each, unseen by the guest',
    run(hv) {
      const b = new Bench(hv);
      b.long(new Code(CODE, 64).mov32(AX, 1).mov32(BX, 2).b(0x01, 0xd8).b(0x9c, 0x59).store32(DATA, AX).stop()); // pushfq; pop rcx
      debug(b.vcpu, { step: true, breakpoints: [] });
      const places: number[] = [];
      for (let i = 0; i < 5; i++) {
        same(nameOf(b.run()), 'Debug', `step ${i}`);
        same((b.vcpu.debugStatus ?? 0) & 0x400f, 0x4000, `why, step ${i}`);
        places.push(Number(b.vcpu.getState().rip) - CODE);
      }
      same(places, [5, 10, 12, 13, 14], 'where each step ended');
      same(b.vcpu.getState().gpr[CX]! & 0x100n, 0n, 'the trap flag that the guest pushed');
      debug(b.vcpu, null);
      b.halt();
      same(b.data(0), 3, 'the sum');
    },
  },
  {
    name: 'debugger: stops before an instruction, and goes on from there',
    run(hv) {
      const b = new Bench(hv);
      const c = new Code(CODE, 64)
        .mov32(CX, 3)
        .label('l')
        .inc32(DATA)
        .label('here')
        .b(0xff, 0xc9, 0x75)
        .rel(1, 'l')
        .stop(); // dec ecx; jnz
      b.long(c);
      const at = c.at('here');
      debug(b.vcpu, { step: false, breakpoints: [{ address: BigInt(at), on: 'execute', size: 1 }] });
      for (let i = 1; i <= 3; i++) {
        same(nameOf(b.run()), 'Debug', `stop ${i}`);
        same([Number(b.vcpu.getState().rip), b.data(0)], [at, i], 'where, and what has been done');
        same((b.vcpu.debugStatus ?? 0) & 15, 1, 'which breakpoint');
        debug(b.vcpu, { step: true, breakpoints: [] }); // past it
        same(nameOf(b.run()), 'Debug', 'step');
        debug(b.vcpu, { step: false, breakpoints: [{ address: BigInt(at), on: 'execute', size: 1 }] });
      }
      b.halt();
      same(b.data(0), 3, 'turns');
    },
  },
  {
    name: 'debugger: stops after a store to a watched address',
    run(hv) {
      const b = new Bench(hv);
      const c = new Code(CODE, 64)
        .mov32(AX, 7)
        .store32(DATA + 8, AX)
        .store32(DATA + 4, AX)
        .label('after')
        .inc32(DATA)
        .stop();
      b.long(c);
      debug(b.vcpu, { step: false, breakpoints: [{ address: BigInt(DATA + 4), on: 'write', size: 4 }] });
      same(nameOf(b.run()), 'Debug', 'run() came back with');
      same([Number(b.vcpu.getState().rip), b.data(1), b.data(0)], [c.at('after'), 7, 0], 'where, stored, not yet done');
      b.halt();
      same(b.data(0), 1, 'goes on');
    },
  },
  {
    name: 'state: an interrupt that was injected and not delivered is part of it',
    run(hv) {
      const b = new Bench(hv);
      b.ivt(0x33, new Code(CODE2, 16).inc32(DATA).b(0xcf));
      b.real(new Code(CODE, 16).b(0xfb, 0x90, 0xf4).stop()); // sti; nop; hlt
      b.halt();
      must(b.vcpu.inject(0x33), 'inject');
      const s = b.vcpu.getState();
      same([s.v, s.injected], [3, 0x33], 'version, vector');
      const other = new Bench(hv);
      other.ivt(0x33, new Code(CODE2, 16).inc32(DATA).b(0xcf));
      other.put(new Code(CODE, 16).b(0xfb, 0x90, 0xf4).stop());
      other.vcpu.setState(s);
      must(!other.vcpu.canInject(), 'no second one before it');
      other.halt();
      same([other.data(0), b.data(0)], [1, 0], 'handlers: there, and not here');
      const { injected: _, ...rest } = s;
      const old = new Bench(hv);
      old.put(new Code(CODE, 16).b(0xfb, 0x90, 0xf4).stop());
      old.vcpu.setState({ ...rest, v: 1 });
      old.halt();
      same(old.data(0), 0, 'a state of version 1 has none');
    },
  },
  {
    name: 'memory over 4 GiB: mapped, written and read in long mode, and seen by the host',
    run(hv) {
      const b = new Bench(hv, { high: 0x200000 });
      const at = HIGH + 0x1234;
      b.ram.write32(at + 4, 0xcafe);
      const c = new Code(CODE, 64).mov(DI, at).mov32(AX, 0x55aa1234).b(0x89, 0x07, 0x8b, 0x47, 0x04); // mov [rdi], eax; mov eax, [rdi+4]
      b.long(c.store32(DATA, AX).stop());
      // A second page directory for the fifth GiB, after the four that the bench has.
      const pd = 0x1a000;
      b.ram.fill(pd, 0x1000, 0);
      b.ram.write32(0x11000 + 8 * 4, pd | 7);
      b.ram.write32(pd, 0x87);
      b.ram.write32(pd + 4, 1);
      must((b.ram.read32(PML4) & 0xfffff000) === 0x11000, 'the bench’s page directory pointers');
      b.halt();
      same([b.data(0), b.ram.read32(at)], [0xcafe, 0x55aa1234], 'read, written');
    },
  },
];
