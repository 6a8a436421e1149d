// vCPUs on threads of their own, with local APICs in the kernel: exits, interrupts, doorbells, stopping, ending.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { Exit, type Vcpu, type VmExit } from '@hyve/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ROUTE_MESSAGE } from '../src/bits.ts';
import { KvmHypervisor } from '../src/index.ts';
import { Rig } from './rig.ts';
import { NEED, native, noKvm } from './setup.ts';

/** sti; again: hlt; jmp again */
const SLEEP = [0xfb, 0xf4, 0xeb, 0xfd];
/** again: out 0x80, al; inc al; jmp again */
const COUNT = [0xe6, 0x80, 0xfe, 0xc0, 0xeb, 0xfa];
/** Threads of the library. Others come and go with Node. */
const tasks = (): number =>
  readdirSync('/proc/self/task').filter((t) => {
    try {
      return readFileSync(`/proc/self/task/${t}/comm`, 'utf8').startsWith('hyve-');
    } catch {
      return false;
    }
  }).length;
const fds = (): number => readdirSync('/proc/self/fd').length;

async function until(done: () => boolean, what: string): Promise<void> {
  const limit = performance.now() + 20_000;
  while (!done()) {
    if (performance.now() > limit) throw new Error(`not in time: ${what}`);
    await new Promise((r) => setTimeout(r, 1));
  }
}

describe.skipIf(noKvm !== null)(`vCPUs on threads${NEED}`, () => {
  let engine: KvmHypervisor;
  let rigs: Rig[] = [];
  let ends: [number, number, string][] = [];
  beforeEach(() => {
    engine = new KvmHypervisor();
    rigs = [];
    ends = [];
  });
  afterEach(() => {
    for (const r of rigs) r.vm.close();
    engine.close();
  });
  const make = (code: readonly number[], vcpus = 1): Rig => {
    const rig = new Rig(engine, code, vcpus, 'local');
    rigs.push(rig);
    return rig;
  };
  const start = (rig: Rig): void => {
    rig.vm.engineThreads?.start((vcpu, exit: VmExit) => void ends.push([vcpu, exit.reason, exit.detail]));
  };
  /** Real-mode vector with a handler at 0x7000 + 16 × slot that writes `byte` to port 0x99. */
  const handler = (rig: Rig, vector: number, byte: number): void => {
    const at = 0x7000 + 16 * byte;
    rig.vm.memory.load(at, Uint8Array.of(0xb0, byte, 0xe6, 0x99, 0xcf)); // mov al; out 0x99, al; iret
    rig.vm.memory.write16(4 * vector, at);
    rig.vm.memory.write16(4 * vector + 2, 0);
  };

  it('answers the port writes of two processors on this thread, in order for each', async () => {
    const rig = make(COUNT, 2);
    rig.start(rig.vm.vcpus[1] as Vcpu);
    start(rig);
    await until(() => rig.log.length > 400, '400 writes');
    expect(rig.vm.engineThreads?.pause()).toBe(true);
    const n = rig.log.length;
    await new Promise((r) => setTimeout(r, 20));
    expect(rig.log.length).toBe(n);
    // Two counters from 0, interleaved: together each value comes twice.
    const seen = new Map<string, number>();
    for (const l of rig.log.slice(0, 200)) seen.set(l, (seen.get(l) ?? 0) + 1);
    expect(Math.max(...seen.values())).toBeLessThanOrEqual(2);
    rig.vm.engineThreads?.resume();
    await until(() => rig.log.length > n, 'more writes');
    expect(ends).toEqual([]);
  });

  it('sleeps in the kernel in HLT, without waking this thread', async () => {
    const rig = make(SLEEP);
    start(rig);
    // Its thread may begin late; a guest that keeps waking this one never is quiet for so long.
    const wakeUps = (): number => rig.vm.counters()['wakeUps'] as number;
    let before = -1;
    for (let i = 0; i < 20 && wakeUps() !== before; i++) {
      before = wakeUps();
      await new Promise((r) => setTimeout(r, 100));
    }
    expect(wakeUps()).toBe(before);
    const limit = performance.now() + 8000;
    while (performance.now() < limit) {
      expect(rig.vm.engineThreads?.pause()).toBe(true);
      if (rig.vcpu.halted) break;
      rig.vm.engineThreads?.resume();
      await new Promise((r) => setTimeout(r, 20));
    }
    expect(rig.vm.engineThreads?.pause()).toBe(true);
    expect(rig.vcpu.halted).toBe(true);
    expect(rig.vcpu.getState().activity).toBe('halted');
  });

  it('gives the interrupt of the 8259 pair to the boot processor, in HLT and in a loop', async () => {
    for (const code of [SLEEP, [0xfb, 0x90, 0xeb, 0xfd]]) {
      const rig = make(code);
      handler(rig, 0x31, 5);
      start(rig);
      await new Promise((r) => setTimeout(r, 20));
      for (let i = 1; i <= 3; i++) {
        rig.vm.interrupts?.setExtInt(true, () => {
          rig.vm.interrupts?.setExtInt(false, () => 0);
          return 0x31;
        });
        await until(() => rig.log.length === i, `interrupt ${i}`);
      }
      expect(rig.log).toEqual(['out 99/1 5', 'out 99/1 5', 'out 99/1 5']);
    }
  });

  it('rings doorbells of ports without an exit, and knows the value', async () => {
    const rig = make([...[0xb9, 0xe8, 0x03], ...[0xe6, 0x70, 0xe2, 0xfc], 0xb0, 1, 0xe6, 0x70, 0xf4]); // 1000 × out 0x70, 0; out 0x70, 1; hlt
    let rung = 0;
    const down = rig.vm.doorbells?.add('port', 0x70, 1, 0, () => void rung++);
    expect(down).toBeTypeOf('function');
    start(rig);
    await until(() => rung > 0 && rig.log.length > 0, 'the bell and the write of another value');
    expect(rig.log).toEqual(['out 70/1 1']);
    expect(rung).toBeLessThanOrEqual(1000);
    expect(rig.vm.counters()['io']).toBe(1);
    expect(rig.vm.engineThreads?.pause()).toBe(true);
    down?.();
    rig.start(rig.vcpu);
    rig.vm.engineThreads?.resume();
    await until(() => rig.log.length >= 1002, 'plain writes after the bell is down');
  });

  it('rings doorbells of memory whatever is written; places are free again when they are taken down', async () => {
    // mov ax, -1; mov ds, ax; mov word [0x10], 0x1234: at 0x100000
    const rig = make([0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xc7, 0x06, 0x10, 0x00, 0x34, 0x12, 0xf4]);
    let rung = 0;
    for (let i = 0; i < 20; i++) rig.vm.doorbells?.add('memory', 0x100000, 2, null, () => {})?.();
    expect(rig.vm.doorbells?.add('memory', 0x100000, 2, null, () => void rung++)).not.toBeNull();
    expect(rig.vm.doorbells?.add('memory', 0x100000, 2, null, () => {})).toBeNull(); // there is one
    start(rig);
    await until(() => rung > 0, 'the bell');
    expect([rig.log, rig.vm.counters()['mmio']]).toEqual([[], 0]);
  });

  it('raises interrupts by file descriptor', async () => {
    const rig = make(SLEEP);
    handler(rig, 0x40, 7);
    const vm = (rig.vm as unknown as { handle: never }).handle;
    // A route for gsi 30; in real mode with the APIC on, the message comes as vector 0x40.
    expect(native?.setRoutes(vm, Uint32Array.of(30, ROUTE_MESSAGE, 0, 0xfee00000, 0x4040))).toBe(0);
    const fd = native?.irqEvent(vm, 30) as number;
    expect(fd).toBeGreaterThan(2);
    // Software-enable the local APIC: SVR, by the state.
    const lapic = new Uint8Array(1024);
    const cpu = (rig.vcpu as unknown as { handle: never }).handle;
    expect(native?.get(cpu, 12, lapic)).toBe(0);
    new DataView(lapic.buffer).setUint32(0xf0, 0x1ff, true);
    expect(native?.set(cpu, 12, lapic)).toBe(0);
    start(rig);
    writeSync(fd, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
    await until(() => rig.log.length > 0, 'the interrupt');
    expect(rig.log).toEqual(['out 99/1 7']);
  });

  it('moves a processor that is stopped in the middle of a loop to another VM', async () => {
    const rig = make(COUNT);
    start(rig);
    await until(() => rig.log.length > 100, '100 writes');
    rig.vm.engineThreads?.pause();
    const last = Number(rig.log.at(-1)?.split(' ')[2]?.replace(/^/, '0x'));
    const other = make(COUNT);
    other.vcpu.setState(rig.vcpu.getState());
    start(other);
    await until(() => other.log.length > 10, 'it goes on');
    expect(Number(`0x${other.log[0]?.split(' ')[2]}`)).toBe((last + 1) & 0xff);
  });

  it('neither loses nor doubles an interrupt of the 8259 pair when it stops and moves at any moment', async () => {
    let moved = 0;
    for (let round = 0; round < 60; round++) {
      const loop = [0xfb, 0x90, 0xeb, 0xfd]; // sti; again: nop; jmp again
      const rig = make(loop);
      handler(rig, 0x31, 5);
      start(rig);
      await new Promise((r) => setTimeout(r, 3));
      let taken = 0;
      const acknowledge = (): number => {
        taken++;
        rig.vm.interrupts?.setExtInt(false, () => 0);
        // Every other time it is stopped before its thread can have begun with it.
        if (round % 2 === 1) queueMicrotask(() => rig.vm.engineThreads?.pause());
        return 0x31;
      };
      rig.vm.interrupts?.setExtInt(true, acknowledge);
      if (round % 2 === 1) await until(() => taken > 0, 'the acknowledgement');
      const end = performance.now() + (round % 10) / 50;
      while (performance.now() < end);
      expect(rig.vm.engineThreads?.pause()).toBe(true);
      const before = rig.log.length;
      expect(before).toBeLessThanOrEqual(taken);
      if (before < taken) moved++;
      const other = make(loop);
      handler(other, 0x31, 5);
      other.vcpu.setState(rig.vcpu.getState());
      other.vm.memory.load(0x6000, rig.vm.memory.readView(0x6000, 0x1000) as Uint8Array);
      start(other);
      if (taken > 0) await until(() => before + other.log.length >= taken, `the interrupt of round ${round}`);
      else await new Promise((r) => setTimeout(r, 3));
      expect(before + other.log.length).toBe(taken);
      rig.vm.close();
      other.vm.close();
    }
    expect(moved).toBeGreaterThan(0);
  });

  it('reports a triple fault, what it cannot run, and devices that throw', async () => {
    const bad = make([0xea, 0x34, 0x12, 0xff, 0xff]); // to where there is no memory
    start(bad);
    await until(() => ends.length > 0, 'the end');
    expect(ends[0]?.[1]).toBe(Exit.Error);
    expect(ends[0]?.[2]).toMatch(/0x101224|1234/);
    ends = [];
    const thrower = make(COUNT);
    thrower.onWrite = () => {
      throw new Error('device');
    };
    start(thrower);
    await until(() => ends.length > 0, 'the end');
    expect(ends[0]).toEqual([0, Exit.Error, 'vCPU 0: device']);
  });

  it('may be closed from inside a port write', async () => {
    const rig = make(COUNT, 3);
    rig.onWrite = () => rig.vm.close();
    start(rig);
    await until(() => rig.log.length > 0, 'the write');
    await new Promise((r) => setTimeout(r, 10));
    expect(rig.log.length).toBe(1);
  });

  it('leaves no file descriptor and no thread behind over 1000 machines', { timeout: 180_000 }, async () => {
    make(COUNT).vm.close();
    await until(() => tasks() === 0, 'no thread of others');
    const f = fds();
    for (let i = 0; i < 1000; i++) {
      const rig = new Rig(engine, COUNT, 2, 'local');
      if (i % 25 === 0) rig.vm.doorbells?.add('port', 0x80, 1, 255, () => {});
      start(rig);
      if (i % 25 === 0) await until(() => rig.log.length > 0, 'a write');
      rig.vm.close();
      if (i % 25 === 0) await new Promise((r) => setImmediate(r));
    }
    expect(fds()).toBe(f);
    await until(() => tasks() === 0, 'no thread');
  });

  it('ends with its worker, in the middle of everything', { timeout: 60_000 }, async () => {
    for (let i = 0; i < 3; i++) {
      const worker = new Worker(new URL('./threads-worker.ts', import.meta.url));
      await new Promise((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
      });
      await worker.terminate();
    }
    await until(() => tasks() === 0, 'no thread');
  });

  it('keeps no process from ending', { timeout: 60_000 }, () => {
    const script = join(import.meta.dirname, 'threads-worker.ts');
    for (const how of ['exit', 'end']) {
      const r = spawnSync(process.execPath, [script, how], {
        encoding: 'utf8',
        timeout: 25_000,
        killSignal: 'SIGKILL',
      });
      expect([r.status, r.signal, r.stderr]).toEqual([0, null, '']);
    }
  });
});
