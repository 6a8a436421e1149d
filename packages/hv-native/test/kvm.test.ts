// What is particular to this engine: slices in real time, errors with their place, freeing, states shared with @hyve/cpu.
import { readdirSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { Exit, type HyveError, isHyveError, RegionMemory, TimerQueue, type VmOptions } from '@hyve/core';
import { SoftCpu } from '@hyve/cpu';
import { describe, expect, it } from 'vitest';
import { KvmHypervisor } from '../src/index.ts';
import { CODE, Rig } from './rig.ts';
import { NEED, noKvm } from './setup.ts';

/** jmp to itself */
const FOREVER = [0xeb, 0xfe];
/** mov al, 1; out 0x80, al; cli; hlt */
const OUT = [0xb0, 0x01, 0xe6, 0x80, 0xfa, 0xf4];
const fds = (): number => readdirSync('/proc/self/fd').length;

describe.skipIf(noKvm !== null)(`KvmHypervisor${NEED}`, () => {
  it('ends an endless loop when its time is up', () => {
    const engine = new KvmHypervisor();
    const rig = new Rig(engine, FOREVER);
    for (const ms of [1, 5, 20]) {
      // Other programs may have the processor meanwhile, but hardly each time.
      let least = Number.POSITIVE_INFINITY;
      for (let i = 0; i < 5; i++) {
        const start = performance.now();
        expect(rig.vcpu.run(ms * 1e6).reason).toBe(Exit.Budget);
        const took = performance.now() - start;
        expect(took).toBeGreaterThan(ms * 0.9);
        least = Math.min(least, took);
      }
      expect(least).toBeLessThan(ms + 100);
    }
    expect(rig.vm.counters()['timeouts']).toBe(15);
    rig.vm.close();
    engine.close();
  });

  it('gives a loop of port writes its time and no more', () => {
    const engine = new KvmHypervisor();
    const rig = new Rig(engine, [0xe6, 0x80, 0xeb, 0xfc]); // out; jmp
    let least = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 20; i++) {
      const start = performance.now();
      expect(rig.vcpu.run(10e6).reason).toBe(Exit.Budget);
      least = Math.min(least, performance.now() - start);
    }
    expect(least).toBeLessThan(110);
    expect(rig.log.length).toBeGreaterThan(100);
    rig.vm.close();
    engine.close();
  });

  it('runs nothing for a budget of nothing', () => {
    const engine = new KvmHypervisor();
    const rig = new Rig(engine, OUT);
    for (const budget of [0, -1, Number.NaN]) expect(rig.vcpu.run(budget).reason).toBe(Exit.Budget);
    expect(rig.log).toEqual([]);
    expect(rig.vcpu.run(Number.POSITIVE_INFINITY).reason).toBe(Exit.Halt);
    rig.vm.close();
    engine.close();
  });

  it('names the address and the bytes of what it cannot run', () => {
    const engine = new KvmHypervisor();
    // jmp 0xF000:0x1234, where there is no memory
    const rig = new Rig(engine, [0xea, 0x34, 0x12, 0xff, 0xff]);
    let exit = rig.vcpu.run(2e6);
    for (let i = 0; exit.reason === Exit.Budget && i < 100; i++) exit = rig.vcpu.run(2e6);
    expect(exit.reason).toBe(Exit.Error);
    expect(exit.detail).toMatch(/at RIP 0x1234 \(16-bit code, linear 0x101224\): not in memory$/);
    rig.vm.close();
    engine.close();
  });

  it('closes while it runs', () => {
    const engine = new KvmHypervisor();
    const rig = new Rig(engine, OUT);
    rig.onWrite = () => rig.vm.close();
    const exit = rig.vcpu.run(1e9);
    expect([exit.reason, exit.detail]).toEqual([Exit.Error, 'the VM was closed while it ran']);
    expect(rig.vcpu.run(1e6).reason).toBe(Exit.Error);
    expect(() => rig.vcpu.getState()).toThrow(/closed/);
    rig.vm.close();
    engine.close();
  });

  it('refuses a run inside a run', () => {
    const engine = new KvmHypervisor();
    const one = new Rig(engine, OUT);
    const two = new Rig(engine, OUT);
    let error: unknown;
    one.onWrite = () => {
      try {
        two.vcpu.run(1e6);
      } catch (e) {
        error = e;
      }
    };
    expect(one.finish()).toBe(Exit.Halt);
    expect(isHyveError(error, 'VCPU_BUSY')).toBe(true);
    expect(two.finish()).toBe(Exit.Halt);
    one.vm.close();
    two.vm.close();
    engine.close();
  });

  it('goes on after a device that threw', () => {
    const engine = new KvmHypervisor();
    const rig = new Rig(engine, OUT);
    rig.onWrite = () => {
      rig.onWrite = () => {};
      throw new Error('device');
    };
    expect(() => rig.vcpu.run(1e9)).toThrow('device');
    expect(rig.finish()).toBe(Exit.Halt);
    rig.vm.close();
    engine.close();
  });

  it('leaves no file descriptor behind over 1000 VMs', { timeout: 180_000 }, () => {
    const engine = new KvmHypervisor();
    new Rig(engine, OUT).vm.close();
    const before = fds();
    for (let i = 0; i < 1000; i++) {
      const rig = new Rig(engine, OUT);
      if (i % 10 === 0) expect(rig.finish()).toBe(Exit.Halt);
      rig.vm.close();
    }
    expect(fds()).toBe(before);
    engine.close();
    expect(fds()).toBe(before - 1);
  });

  it('refuses what KVM has not', () => {
    const engine = new KvmHypervisor();
    const options: VmOptions = {
      memory: [{ base: 0, size: 4096, kind: 'ram', name: 'ram' }],
      vcpus: 1,
      bus: () => ({}) as never,
      cpuid: () => [],
      clock: new TimerQueue(() => 0),
      tscHz: 1e9,
    };
    const before = fds();
    const code = (change: object): string => {
      try {
        engine.createVm({ ...options, ...change }).close();
        return 'none';
      } catch (e) {
        return (e as HyveError).code;
      }
    };
    const ram = (base: number, size: number) => ({ base, size, kind: 'ram', name: 'ram' });
    expect(code({ vcpus: 0 })).toBe('VM_VCPUS');
    expect(code({ vcpus: 1e6 })).toBe('VM_VCPUS');
    expect(code({ memory: [] })).toBe('VM_MEMORY');
    expect(code({ memory: [ram(0, 4095)] })).toBe('VM_MEMORY');
    expect(code({ memory: [ram(0, 8192), ram(4096, 4096)] })).toBe('VM_MEMORY');
    expect(code({ memory: [ram(0, 2 ** 52)] })).toBe('VM_MEMORY');
    expect(code({ memory: [ram(2 ** 52, 4096)] })).toBe('VM_MEMORY');
    expect(code({ clock: Object.assign(new TimerQueue(() => 0), { nsPerInstruction: 1 }) })).toBe('ENGINE_UNAVAILABLE');
    expect(fds()).toBe(before);
    engine.close();
  });

  it('refuses states that the processor cannot be in, by VCPU_STATE', () => {
    const engine = new KvmHypervisor();
    const { vm, vcpu } = new Rig(engine, OUT);
    const s = vcpu.getState();
    for (const wrong of [
      { cr0: 0x80000010n },
      { efer: 0x500n },
      { xcr0: 0n },
      { xcr0: 1n << 60n },
      { gpr: [] },
      { segments: [] },
      { xsave: new Uint8Array(100) },
      { v: 4 as 3 },
      { injected: 256 },
    ])
      expect(() => vcpu.setState({ ...s, ...wrong })).toThrow(expect.objectContaining({ code: 'VCPU_STATE' }));
    vcpu.setState(s);
    vm.close();
    engine.close();
  });

  it('has the same state as the software CPU after power-on and INIT', () => {
    const kvm = new KvmHypervisor();
    const plain = (r: Rig, init: boolean): object => {
      if (init) r.vcpu.init();
      else r.vcpu.reset();
      const { msrs, xsave, gpr, ...rest } = r.vcpu.getState();
      const x87 = [...xsave.subarray(0, 28), ...xsave.subarray(32, 416)];
      return { ...rest, x87, msrs: msrs.filter(([i]) => i !== 0x10), gpr: gpr.filter((_, i) => i !== 2) };
    };
    const [a, b] = [new Rig(kvm, OUT), new Rig(new SoftCpu(), OUT)];
    expect(plain(a, false)).toEqual(plain(b, false));
    expect(plain(a, true)).toEqual(plain(b, true));
    a.vm.close();
    kvm.close();
  });

  it('takes over from the software CPU in the middle of a loop, and hands back', () => {
    const kvm = new KvmHypervisor();
    const soft = new SoftCpu();
    // mov ecx, 3000; l: imul ebx, ebx, 0x41C64E6D; add ebx, 0x3039; dec ecx; jnz l; cli; hlt
    const loop = [
      0x66, 0xb9, 0xb8, 0x0b, 0, 0, 0x66, 0x69, 0xdb, 0x6d, 0x4e, 0xc6, 0x41, 0x66, 0x81, 0xc3, 0x39, 0x30, 0, 0,
    ];
    loop.push(0x66, 0x49, 0x75, 0xee, 0xfa, 0xf4);
    const whole = new Rig(soft, loop);
    whole.finish();
    const rigs = [new Rig(soft, loop), new Rig(kvm, loop), new Rig(soft, loop)];
    let moves = 0;
    for (const [i, rig] of rigs.entries()) {
      const before = rigs[i - 1];
      // XSAVE images of both are in the standard format; each takes the other's.
      if (before !== undefined) {
        const s = before.vcpu.getState();
        rig.vcpu.setState({ ...s, xcr0: s.xcr0 & 3n });
        if (s.activity === 'running') moves++;
      }
      if (i < 2) rig.vcpu.run(i === 0 ? 2_000 : 1_000_000);
    }
    const last = rigs[2] as Rig;
    expect(last.finish()).toBe(Exit.Halt);
    const [got, want] = [last.vcpu.getState(), whole.vcpu.getState()];
    expect([got.gpr, got.rip, got.rflags]).toEqual([want.gpr, want.rip, want.rflags]);
    expect(moves).toBeGreaterThan(0);
    for (const r of rigs) r.vm.close();
    kvm.close();
  });

  it('shows memory over 4 GiB and regions by their kind', () => {
    const engine = new KvmHypervisor();
    const vm = engine.createVm({
      memory: [
        { base: 0, size: 1 << 20, kind: 'ram', name: 'low' },
        { base: 2 ** 32, size: 1 << 20, kind: 'ram', name: 'high' },
        { base: 0xffff0000, size: 0x10000, kind: 'rom', name: 'rom' },
      ],
      vcpus: 1,
      bus: () => ({ readCr8: () => 0, writeCr8: () => {} }) as never,
      cpuid: () => [],
      clock: new TimerQueue(() => 0),
      tscHz: 1e9,
    });
    expect(vm.memory).toBeInstanceOf(RegionMemory);
    vm.memory.write32(2 ** 32, 0x1234);
    expect(vm.memory.read32(2 ** 32)).toBe(0x1234);
    vm.close();
    engine.close();
  });

  it('has kvmclock where it is asked for, whose page is in the state and whose time goes on from what it is set to', () => {
    const engine = new KvmHypervisor({ paravirtual: 'kvm' });
    const features = engine.supportedCpuid().find((r) => r.leaf === 0x40000001)?.eax ?? 0;
    expect(features & 9).not.toBe(0);
    // mov ecx, 4B564D01h; mov eax, 1001h; xor edx, edx; wrmsr; cli; hlt
    const code = [0x66, 0xb9, 0x01, 0x4d, 0x56, 0x4b, 0x66, 0xb8, 0x01, 0x10, 0, 0, 0x66, 0x31, 0xd2, 0x0f, 0x30];
    code.push(0xfa, 0xf4);
    const ns = (r: Rig): number => r.vm.memory.read32(0x1014) * 2 ** 32 + r.vm.memory.read32(0x1010);
    const first = new Rig(engine, code);
    expect(first.finish()).toBe(Exit.Halt);
    const version = first.vm.memory.read32(0x1000);
    expect([version % 2, version > 0]).toEqual([0, true]);
    expect(ns(first)).toBeGreaterThan(0);
    expect(ns(first)).toBeLessThan(60e9);
    const state = first.vcpu.getState();
    expect(state.msrs).toContainEqual([0x4b564d01, 0x1001n]);
    const second = new Rig(engine, [0xfa, 0xf4]);
    second.vm.holdTime?.(true);
    second.vm.clockNs = 500e9;
    expect(second.vm.clockNs).toBe(500e9);
    second.vcpu.setState({ ...state, rip: BigInt(CODE), activity: 'running' });
    second.vm.holdTime?.(false);
    expect(second.finish()).toBe(Exit.Halt);
    // The page is filled in because the state has its place: this guest sets no MSR.
    expect(ns(second)).toBeGreaterThanOrEqual(500e9);
    expect(ns(second)).toBeLessThan(560e9);
    first.vm.close();
    second.vm.close();
    engine.close();
  });

  it('runs in a worker that is terminated in the middle', async () => {
    const source = new URL('./worker.ts', import.meta.url);
    const worker = new Worker(source);
    const ran = await new Promise((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    expect(ran).toBe('running');
    await worker.terminate();
    // The signal's handler outlives the worker.
    const engine = new KvmHypervisor();
    const rig = new Rig(engine, FOREVER);
    expect(rig.vcpu.run(2e6).reason).toBe(Exit.Budget);
    expect(CODE).toBe(0x8000);
    rig.vm.close();
    engine.close();
  });
});
