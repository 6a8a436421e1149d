import { Exit, type VcpuBus } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import {
  cli,
  hlt,
  input,
  jump,
  mmioRead,
  mmioWrite,
  out,
  pause,
  ScriptedVcpu,
  type Step,
  scriptedHypervisor,
  sti,
  tripleFault,
} from '../src/index.ts';

function busOf(log: string[], answer = 7): VcpuBus {
  const said = (what: string): number => {
    log.push(what);
    return answer;
  };
  return {
    ioRead: (p, w) => said(`in ${p} ${w}`),
    ioWrite: (p, w, v) => void log.push(`out ${p} ${w} ${v}`),
    mmioRead: (a, w) => said(`read ${a} ${w}`),
    mmioWrite: (a, w, v) => void log.push(`write ${a} ${w} ${v}`),
    rdmsr: (i, o) => {
      o.lo = i;
      o.hi = 0;
      return i < 10;
    },
    wrmsr: (i) => i < 10,
    readCr8: () => 0,
    writeCr8: () => {},
  };
}

function make(steps: Step[], answer?: number): { cpu: ScriptedVcpu; log: string[] } {
  const log: string[] = [];
  return { cpu: new ScriptedVcpu(steps, { bus: busOf(log, answer) }), log };
}

describe('ScriptedVcpu', () => {
  it('runs its steps through the bus and stops at HLT', () => {
    const { cpu, log } = make([
      out(0x80, 1, 3),
      input(0x61, 1),
      mmioWrite(0x1000, 2, 9),
      mmioRead(0xfee00030, 4),
      hlt(),
    ]);
    expect(cpu.run(1e9).reason).toBe(Exit.Halt);
    expect(log).toEqual(['out 128 1 3', 'in 97 1', 'write 4096 2 9', 'read 4276092976 4']);
    expect([cpu.acc, cpu.retired(), cpu.halted]).toEqual([7, 5, true]);
  });

  it('spends its budget', () => {
    const { cpu } = make([jump(0)]);
    expect(cpu.run(10_000).reason).toBe(Exit.Budget);
    expect(cpu.retired()).toBe(10);
    expect(cpu.budgets).toEqual([10_000]);
  });

  it('takes an interrupt when IF is set, through the window', () => {
    const { cpu } = make([cli(), jump(1)]);
    cpu.requestIrqWindow();
    cpu.run(5000);
    expect(cpu.inject(0x30)).toBe(false);
    cpu.program = [sti(), hlt()];
    cpu.pc = 0;
    expect(cpu.run(1e6).reason).toBe(Exit.IrqWindow);
    expect([cpu.inject(0x30), cpu.inject(0x31)]).toEqual([true, false]);
    const seen: boolean[] = [];
    cpu.handler = (_, c) => seen.push(c.interruptsOn);
    cpu.run(1e6);
    expect([cpu.log, seen]).toEqual([['irq 0x30'], [false]]);
  });

  it('takes one NMI at a time', () => {
    const { cpu } = make([hlt(), hlt()]);
    let depth = 0;
    cpu.nmiHandler = (c) => {
      expect(++depth).toBe(1);
      if (c.log.length < 2) c.injectNmi();
      depth--;
    };
    cpu.run(1e6);
    cpu.injectNmi();
    expect(cpu.run(1e6).reason).toBe(Exit.Halt);
    expect(cpu.log).toEqual(['nmi', 'nmi']);
  });

  it('comes back for kicks, PAUSE and triple faults', () => {
    const { cpu } = make([(c) => c.kick(), pause(), tripleFault(), hlt()]);
    const reasons = [1, 2, 3, 4].map(() => cpu.run(1e6).reason);
    expect(reasons).toEqual([Exit.Kicked, Exit.Pause, Exit.Shutdown, Exit.Shutdown]);
    cpu.reset();
    expect(cpu.run(1e6).reason).toBe(Exit.Kicked);
  });

  it('waits for SIPI as an application processor', () => {
    const cpu = new ScriptedVcpu([hlt()], { index: 1 });
    expect(() => cpu.run(1)).toThrow(/waits for SIPI/);
    cpu.startup(0x9f);
    cpu.startup(0x10);
    expect(cpu.run(1e6).reason).toBe(Exit.Halt);
    cpu.init();
    expect([cpu.waitingForSipi, cpu.log]).toEqual([true, ['sipi 0x9f', 'init']]);
  });

  it.each([256, -1, 1.5, Number.NaN])('finds a bus that answers a byte with %d', (answer) => {
    expect(() => make([input(0x61, 1)], answer).cpu.run(1e6)).toThrow(/not an unsigned 8-bit value/);
  });

  it('finds misuse: nested runs, empty budgets, vectors of nine bits, no bus', () => {
    const { cpu } = make([(c) => c.run(1)]);
    expect(() => cpu.run(1e6)).toThrow(/inside run/);
    expect(() => cpu.run(0)).toThrow(/budget/);
    expect(() => cpu.inject(256)).toThrow(/inject/);
    expect(() => new ScriptedVcpu([out(1, 1, 1)]).run(1)).toThrow(/no bus/);
  });

  it('reads MSRs', () => {
    const { cpu } = make([]);
    expect([cpu.rdmsr(3), cpu.rdmsr(10), cpu.wrmsr(3, 0), cpu.wrmsr(10, 0)]).toEqual([
      { lo: 3, hi: 0 },
      null,
      true,
      false,
    ]);
  });
});

describe('scriptedHypervisor', () => {
  it('makes VMs with memory and one vCPU per program', () => {
    const log: string[] = [];
    const vm = scriptedHypervisor((i) => [out(0x80, 1, i), hlt()]).createVm({
      memory: [{ base: 0, size: 4096, kind: 'ram', name: 'ram' }],
      vcpus: 2,
      bus: () => busOf(log),
      cpuid: () => [],
      clock: { now: () => 0, timer: () => ({ arm: () => {}, disarm: () => {}, armed: false }) },
      tscHz: 1e9,
    });
    vm.vcpus[1]?.startup(0);
    for (const v of vm.vcpus) v.run(1e6);
    expect(log).toEqual(['out 128 1 0', 'out 128 1 1']);
    expect(vm.counters()).toEqual({ instructions: 4 });
    vm.memory.write8(0, 5);
    expect(vm.memory.read8(0)).toBe(5);
  });
});
