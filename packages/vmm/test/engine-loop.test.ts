// EngineLoop with threads that a test plays.
import { Exit, TimerQueue, type Vcpu, type VcpuThreads, type VmExit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { EngineLoop, type HostScheduler, type WakeSignal } from '../src/index.ts';

class Played implements VcpuThreads {
  readonly log: string[] = [];
  onExit: (vcpu: number, exit: VmExit) => void = () => {};
  start(onExit: (vcpu: number, exit: VmExit) => void): void {
    this.onExit = onExit;
    this.log.push('start');
  }
  pause(): boolean {
    this.log.push('pause');
    return true;
  }
  resume(): void {
    this.log.push('resume');
  }
}

function rig(o: { halted?: boolean; flags?: bigint } = {}) {
  let ns = 0;
  const clock = new TimerQueue(() => ns);
  const threads = new Played();
  const vcpu = { halted: o.halted ?? false, waitingForSipi: false, getState: () => ({ rflags: o.flags ?? 2n }) };
  const sleeps: number[] = [];
  let onSleep: (ns: number, signal: WakeSignal) => void = () => {};
  const host: HostScheduler = {
    yieldToHost: () => Promise.resolve(),
    sleep: (d, signal) => {
      sleeps.push(d);
      if (signal.woken) return Promise.resolve();
      return new Promise((resolve) => {
        signal.onWake = resolve;
        onSleep(d, signal);
        // Time goes on by itself unless somebody has woken the sleeper.
        if (signal.onWake !== null && Number.isFinite(d)) {
          ns += d;
          signal.onWake = null;
          resolve();
        }
      });
    },
  };
  const loop = new EngineLoop({ vcpus: [vcpu as unknown as Vcpu], threads, clock, host });
  return {
    loop,
    clock,
    threads,
    sleeps,
    pass: (d: number) => {
      ns += d;
    },
    sleeping: (f: (ns: number, signal: WakeSignal) => void) => {
      onSleep = f;
    },
  };
}

describe('EngineLoop', () => {
  it('starts the threads once, and fires timers while they run', async () => {
    const r = rig();
    const fired: number[] = [];
    const timer = r.clock.timer(() => {
      fired.push(r.clock.now());
      if (fired.length < 3) timer.arm(r.clock.now() + 1e6);
      else r.loop.requestPoweroff('done');
    });
    timer.arm(5e6);
    expect(await r.loop.run()).toEqual({ kind: 'poweroff', vcpu: -1, detail: 'done' });
    expect(fired).toEqual([5e6, 6e6, 7e6]);
    expect(r.threads.log).toEqual(['start', 'pause']);
  });

  it('ends by what ends a vCPU', async () => {
    for (const [reason, kind] of [
      [Exit.Shutdown, 'triple-fault'],
      [Exit.Error, 'error'],
      [Exit.Debug, 'error'],
    ] as const) {
      const r = rig();
      r.sleeping(() => r.threads.onExit(0, { reason, detail: reason === Exit.Error ? 'why' : '' }));
      const end = await r.loop.run();
      expect([end.kind, end.vcpu]).toEqual([kind, 0]);
      if (reason === Exit.Error) expect(end.detail).toBe('why');
    }
  });

  it('keeps the first outcome', async () => {
    const r = rig();
    r.sleeping(() => {
      r.loop.requestReset('first');
      r.loop.fail('second');
    });
    expect(await r.loop.run()).toMatchObject({ kind: 'reset', detail: 'first' });
  });

  it('a machine whose vCPUs all sleep with interrupts off has halted', async () => {
    const r = rig({ halted: true });
    expect(await r.loop.run()).toMatchObject({ kind: 'halt' });
    expect(r.sleeps).toEqual([100e6]);
    expect(r.threads.log).toEqual(['start', 'pause']);
  });

  it('looks less and less often at one that may still wake', async () => {
    const r = rig({ halted: true, flags: 0x202n });
    r.sleeping(() => {
      if (r.sleeps.length === 8) r.loop.stop();
    });
    expect((await r.loop.run()).kind).toBe('stopped');
    expect(r.sleeps.map((s) => s / 1e6)).toEqual([100, 200, 400, 800, 1600, 3200, 3200, 3200]);
  });

  it('pauses at once: no timer fires, nothing runs until it is resumed', async () => {
    const r = rig();
    let fired = 0;
    const timer = r.clock.timer(() => void fired++);
    expect(r.loop.runSlice().kind).toBe('idle');
    timer.arm(1e6);
    r.loop.pause();
    expect(r.threads.log).toEqual(['start', 'pause']);
    r.pass(1e9);
    expect(r.loop.runSlice().kind).toBe('paused');
    expect(fired).toBe(0);
    r.loop.resume();
    expect(r.loop.runSlice().kind).toBe('idle');
    expect(r.threads.log).toEqual(['start', 'pause', 'resume']);
    expect(fired).toBe(1);
  });

  it('a timer that throws ends the machine, with the reason', async () => {
    const r = rig();
    r.clock
      .timer(() => {
        throw new Error('device');
      })
      .arm(1e6);
    expect(await r.loop.run()).toEqual({ kind: 'error', vcpu: -1, detail: 'device' });
  });
});
