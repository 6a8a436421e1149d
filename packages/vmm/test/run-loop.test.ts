import { Bus, Exit, TimerQueue, type VcpuBus } from '@hyve/core';
import { ScriptedVcpu, type Step } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { type ExtIntSource, MsrPolicy, RunLoop, type RunLoopOptions, VirtualClock, vcpuBus } from '../src/index.ts';
import { claimIoApic, IoApic } from '../src/ioapic/index.ts';
import { ApicBus, LocalApic } from '../src/lapic/index.ts';
import { claimPic, Pic8259 } from '../src/pic/index.ts';
import { cli, hlt, jump, nop, pause, sti, store } from './scripted-vcpu.ts';

const APIC = 0xfee00000;
const EOI = APIC + 0xb0;

function setup(programs: Step[][], o: { virtual?: boolean; loop?: Partial<RunLoopOptions> } = {}) {
  let real = 0;
  const virtual = new VirtualClock({ nsPerInstruction: 1000 });
  const clock = o.virtual === true ? virtual : new TimerQueue(() => real);
  const apics = new ApicBus();
  const pio = new Bus({ name: 'port', size: 0x10000 });
  const mmio = new Bus({ name: 'mmio', size: 2 ** 52 });
  const vcpus = programs.map((p, i) => {
    const v = new ScriptedVcpu(p, {
      index: i,
      onTime: (ns) => {
        real += ns;
      },
    });
    const lapic = new LocalApic({ bus: apics, index: i, clock, tscHz: 1e9 });
    lapic.enterVirtualWire();
    v.bus = vcpuBus({ pio, mmio, lapic, msrs: new MsrPolicy({ lapic, vendor: 'intel', tscHz: 1e9 }) });
    v.handler = (_n, c) => c.write(EOI, 0);
    return v;
  });
  const host = {
    yields: 0,
    sleeps: [] as number[],
    /** Runs while the loop is with the host; may wake it. */
    work: [] as (() => void)[],
    yieldToHost: async (): Promise<void> => {
      host.yields++;
      host.work.shift()?.();
    },
    sleep: (ns: number, signal: { onWake: (() => void) | null }): Promise<void> => {
      host.sleeps.push(ns);
      return new Promise((resolve) => {
        signal.onWake = resolve;
        const w = host.work.shift();
        if (w !== undefined) {
          real += 500;
          w();
        } else if (Number.isFinite(ns)) {
          real += ns;
          resolve();
        }
      });
    },
  };
  const loop = new RunLoop({ vcpus, apics, clock, host, ...o.loop });
  /** Slices until it is no longer busy, at most `n`. */
  const settle = (n = 1000) => {
    let r = loop.runSlice();
    for (let i = 1; i < n && r.kind === 'busy'; i++) r = loop.runSlice();
    return r;
  };
  const cpu = (i: number): ScriptedVcpu => vcpus[i] as ScriptedVcpu;
  return {
    loop,
    apics,
    lapic: (i: number) => apics.lapics[i] as LocalApic,
    clock,
    virtual,
    pio,
    mmio,
    cpu,
    host,
    settle,
    time: (ns: number) => {
      real += ns;
    },
  };
}
const irqs = (c: ScriptedVcpu): string[] => c.log.filter((l) => l.startsWith('irq'));

describe('package', () => {
  it('exports what the README lists', () => {
    expect(Object.keys(api).sort()).toEqual([
      'EngineLoop',
      'MsrPolicy',
      'RunLoop',
      'VirtualClock',
      'apicIdOf',
      'buildCpuid',
      'cpuVendor',
      'packageOf',
      'physBitsOf',
      'tscRatio',
      'vcpuBus',
    ]);
  });
});

describe('vcpuBus', () => {
  it('routes the APIC page where IA32_APIC_BASE has it, CR8, MSRs and the rest', () => {
    const s = setup([[]]);
    const b = s.cpu(0).bus as VcpuBus;
    s.mmio.claim(0x1000, 16, { read: () => 0x55, write: () => {} }, { name: 'dev' });
    s.pio.claim(0x80, 1, { read: () => 0x66, write: () => {} }, { name: 'post' });
    expect([b.mmioRead(0x1000, 1), b.ioRead(0x80, 1), b.ioRead(0x81, 1)]).toEqual([0x55, 0x66, 0xff]);
    b.mmioWrite(APIC + 0x80, 4, 0x50);
    expect([b.readCr8(), b.mmioRead(APIC + 0x80, 4), b.mmioRead(APIC + 0x1000, 4)]).toEqual([5, 0x50, 0xffffffff]);
    b.writeCr8(2);
    expect(b.mmioRead(APIC + 0x80, 4)).toBe(0x20);
    expect(s.cpu(0).wrmsr(0x1b, 0xfed40800)).toBe(true);
    expect([b.mmioRead(APIC + 0x80, 4), b.mmioRead(0xfed40080, 4)]).toEqual([0xffffffff, 0x20]);
    b.mmioWrite(0x2000, 4, 1);
    b.ioWrite(0x81, 1, 1);
  });
});

describe('one vCPU', () => {
  it('runs in slices of its own length while nothing is due', () => {
    const s = setup([[]]);
    for (let i = 0; i < 3; i++) expect(s.loop.runSlice().kind).toBe('busy');
    expect(s.cpu(0).budgets).toEqual([1e6, 1e6, 1e6]);
  });

  it('bounds a slice by the next timer, and fires it', () => {
    const s = setup([[]]);
    const at: number[] = [];
    const t = s.clock.timer(() => at.push(s.clock.now()));
    t.arm(300_000);
    s.settle(2);
    expect(s.cpu(0).budgets).toEqual([300_000, 1e6]);
    expect(at).toEqual([300_000]);
  });

  it('cuts the slice when the guest sets an earlier timer', () => {
    const s = setup([
      [
        store(APIC + 0xf0, 0x1ff),
        store(APIC + 0x3e0, 0xb),
        store(APIC + 0x320, 0x40),
        store(APIC + 0x380, 50_000),
        sti,
      ],
    ]);
    s.settle(3);
    expect(s.cpu(0).budgets.length).toBe(3);
    expect(irqs(s.cpu(0))).toEqual(['irq 0x40']);
    expect(s.cpu(0).budgets[1]).toBe(50_000);
  });

  it('takes an interrupt at the next step when interrupts are on', () => {
    let after = -1;
    const s = setup([[sti, (c) => c.write(APIC + 0x300, 0x44041), nop, nop]]);
    s.cpu(0).handler = (_v, c) => {
      after = c.pc;
      c.write(EOI, 0);
    };
    s.settle(2);
    expect(after).toBe(2);
  });

  it('asks for a window while interrupts are off', () => {
    const s = setup([[nop, nop, sti, nop]]);
    s.lapic(0).accept(0x61, false);
    s.settle(2);
    expect(irqs(s.cpu(0))).toEqual(['irq 0x61']);
    expect(s.loop.counters()).toMatchObject({ irqWindows: 1, injected: 1, exitIrqWindow: 1 });
  });

  it('injects by priority, one behind the other', () => {
    const s = setup([[sti, hlt]]);
    for (const v of [0x31, 0x91, 0x51]) s.lapic(0).accept(v, false);
    expect(s.settle().kind).toBe('idle');
    expect(irqs(s.cpu(0))).toEqual(['irq 0x91', 'irq 0x51', 'irq 0x31']);
  });

  it('takes the 8259 through LINT0 after the local APIC', () => {
    const pending = [0x20, 0x21];
    const pic: ExtIntSource = {
      get hasInterrupt() {
        return pending.length > 0;
      },
      acknowledge: () => pending.shift() as number,
    };
    const s = setup([[sti, hlt]], { loop: { pic } });
    s.apics.setExtInt(true);
    s.lapic(0).accept(0x30, false);
    s.settle();
    expect(irqs(s.cpu(0))).toEqual(['irq 0x30', 'irq 0x20', 'irq 0x21']);
    pending.push(0x22);
    s.cpu(0).write(APIC + 0x350, 0x10700);
    expect(s.settle().kind).toBe('idle');
    s.cpu(0).wrmsr(0x1b, APIC); // APIC off: INTR goes straight in
    s.settle();
    expect(irqs(s.cpu(0)).at(-1)).toBe('irq 0x22');
  });

  it('is idle until the next timer while halted, and wakes by it', () => {
    const s = setup([[sti, hlt, nop, hlt]]);
    s.cpu(0).write(APIC + 0x3e0, 0xb);
    s.cpu(0).write(APIC + 0x320, 0x40);
    s.cpu(0).write(APIC + 0x380, 7_000_000);
    const r = s.settle();
    expect(r).toMatchObject({ kind: 'idle', idleUntilNs: 7_000_000 });
    s.time(7_000_000);
    expect(s.settle()).toMatchObject({ kind: 'idle', idleUntilNs: Number.POSITIVE_INFINITY });
    expect(s.cpu(0).pc).toBe(4);
  });

  it('wakes a halted vCPU by NMI with interrupts off, twice if two came', () => {
    const s = setup([[cli, hlt, hlt, hlt]], { loop: { nmiPossible: () => true } });
    expect(s.settle().kind).toBe('idle');
    s.lapic(0).nmi();
    s.lapic(0).nmi();
    expect(s.settle().kind).toBe('idle');
    expect(s.cpu(0).log).toEqual(['nmi', 'nmi']);
  });
});

describe('with the real 8259 pair and I/O APIC', () => {
  const board = () => {
    let intr = (_on: boolean): void => {};
    const pic = new Pic8259({ onIntr: (on) => intr(on) });
    const s = setup([[sti, hlt, jump(1)]], { loop: { pic } });
    const ioapic = new IoApic({ bus: s.apics });
    const pin0 = ioapic.connect(0, '8259');
    intr = (on) => {
      s.apics.setExtInt(on);
      pin0.set(on);
    };
    claimIoApic(s.mmio, ioapic);
    claimPic(s.pio, pic);
    for (const [port, v] of [
      [0x20, 0x11],
      [0x21, 0x20],
      [0x21, 4],
      [0x21, 3], // automatic EOI
      [0x21, 0],
    ] as const)
      s.pio.write(port, 1, v);
    const route = (pin: number, rte: number): void => {
      s.mmio.write(0xfec00000, 1, 0x10 + 2 * pin);
      s.mmio.write(0xfec00010, 4, rte);
    };
    return { ...s, pic, ioapic, route };
  };

  it('takes IRQ 4 and IRQ 1 through LINT0, in the 8259’s order', () => {
    const s = board();
    s.settle();
    s.pic.connect(4, 'com1').set(true);
    s.pic.connect(1, 'kbd').set(true);
    expect(s.settle().kind).toBe('idle');
    expect(irqs(s.cpu(0)).sort()).toEqual(['irq 0x21', 'irq 0x24']);
  });

  it('takes the 8259 through I/O APIC pin 0 as ExtINT, with LINT0 masked', () => {
    const s = board();
    s.cpu(0).write(APIC + 0x350, 0x10700);
    s.route(0, 0x700);
    s.settle();
    const line = s.pic.connect(3, 'com2');
    for (let i = 0; i < 3; i++) {
      line.set(true);
      s.settle();
      line.set(false);
    }
    expect(irqs(s.cpu(0))).toEqual(['irq 0x23', 'irq 0x23', 'irq 0x23']);
    s.route(0, 0x10700);
    line.set(true);
    expect(s.settle().kind).toBe('idle');
    expect(irqs(s.cpu(0)).length).toBe(3);
  });

  it('gives the I/O APIC’s vector first when both have one', () => {
    const s = board();
    s.route(16, 0x8050);
    s.settle();
    const nic = s.ioapic.connect(16, 'nic');
    s.cpu(0).handler = (v, c) => {
      if (v === 0x50) nic.set(false);
      c.write(EOI, 0);
    };
    s.pic.connect(4, 'com1').set(true);
    nic.set(true);
    expect(s.settle().kind).toBe('idle');
    expect(irqs(s.cpu(0))).toEqual(['irq 0x50', 'irq 0x24']);
  });
});

describe('outcomes', () => {
  it.each([
    ['triple fault', (c: ScriptedVcpu) => c.stopWith(Exit.Shutdown), { kind: 'triple-fault', vcpu: 0, detail: '' }],
    [
      'engine error',
      (c: ScriptedVcpu) => c.stopWith(Exit.Error, 'at 0x7c00: 0f ff'),
      { kind: 'error', vcpu: 0, detail: 'at 0x7c00: 0f ff' },
    ],
    [
      'stray debug exit',
      (c: ScriptedVcpu) => c.stopWith(Exit.Debug),
      { kind: 'error', vcpu: 0, detail: 'debug exit that nobody asked for' },
    ],
    [
      'broken invariant of a device',
      () => {
        throw new Error('e1000: ring base above 2^53');
      },
      { kind: 'error', vcpu: 0, detail: 'vCPU 0: e1000: ring base above 2^53' },
    ],
  ] as [string, Step, object][])('%s', (_name, step, outcome) => {
    const s = setup([[step]]);
    expect(s.settle()).toMatchObject({ kind: 'ended', outcome });
    expect(s.loop.runSlice().kind).toBe('ended');
    s.loop.restart();
    expect(s.loop.ended).toBe(null);
  });

  it('halt: all halted with interrupts off, application processors not started', () => {
    const s = setup([[cli, hlt], [], []]);
    expect(s.settle()).toMatchObject({ kind: 'ended', outcome: { kind: 'halt', vcpu: -1 } });
    const t = setup([[cli, hlt]], { loop: { nmiPossible: () => true } });
    expect(t.settle().kind).toBe('idle');
  });

  it('does not call a guest halted while a pending interrupt only lacks IF, or another vCPU runs', () => {
    const s = setup([[cli, hlt], [jump(0)]]);
    s.cpu(1).waitingForSipi = false;
    expect(s.settle(20).kind).toBe('busy');
  });

  it('ends by request of a device, the first one counts, the slice stops there', () => {
    const s = setup([[(c) => c.out(0xcf9 & 0xffff, 6), nop, nop]]);
    s.pio.claim(0xcf9, 1, { read: () => 0, write: () => s.loop.requestReset('0xCF9') }, { name: 'reset' });
    expect(s.settle()).toMatchObject({ kind: 'ended', outcome: { kind: 'reset', vcpu: 0, detail: '0xCF9' } });
    expect(s.cpu(0).pc).toBe(1);
    s.loop.requestPoweroff();
    expect(s.loop.ended?.kind).toBe('reset');
    for (const [f, kind] of [
      ['requestPoweroff', 'poweroff'],
      ['requestHalt', 'halt'],
      ['stop', 'stopped'],
    ] as const) {
      const t = setup([[]]);
      t.loop[f]();
      expect(t.loop.runSlice().outcome).toMatchObject({ kind, vcpu: -1 });
    }
  });

  it('ends when a timer throws', () => {
    const s = setup([[]]);
    s.clock
      .timer(() => {
        throw new Error('pit: count 0');
      })
      .arm(0);
    expect(s.settle()).toMatchObject({ kind: 'ended', outcome: { kind: 'error', detail: 'a timer: pit: count 0' } });
  });

  it('hands debug exits to their hook', () => {
    const seen: number[] = [];
    const s = setup([[(c) => c.stopWith(Exit.Debug), hlt]], {
      loop: {
        onDebug: (i) => {
          seen.push(i);
          s.loop.pause();
        },
        nmiPossible: () => true,
      },
    });
    expect(s.settle().kind).toBe('paused');
    s.loop.resume();
    expect(s.settle().kind).toBe('idle');
    expect(seen).toEqual([0]);
  });

  it('refuses wrong wiring', async () => {
    const code = expect.objectContaining({ code: 'RUN_LOOP' });
    const s = setup([[]]);
    expect(() => new RunLoop({ vcpus: [], apics: s.apics, clock: s.clock })).toThrow(code);
    expect(() => new RunLoop({ vcpus: [s.cpu(0)], apics: s.apics, clock: s.clock, sliceNs: 0 })).toThrow(code);
    await expect(new RunLoop({ vcpus: [s.cpu(0)], apics: s.apics, clock: s.clock }).run()).rejects.toEqual(code);
  });
});

describe('several vCPUs', () => {
  it('starts application processors by INIT and SIPI', () => {
    const ap: Step[] = [sti, hlt];
    const s = setup([
      [
        sti,
        store(APIC + 0x310, 1 << 24),
        store(APIC + 0x300, 0x4500),
        store(APIC + 0x300, 0x4608),
        store(APIC + 0x300, 0x4608),
        hlt,
      ],
      ap,
      ap,
    ]);
    s.settle();
    expect(s.cpu(1).log).toEqual(['init', 'sipi 0x8']);
    expect(s.cpu(1).halted).toBe(true);
    expect(s.cpu(2).budgets.length).toBe(0);
  });

  it('ignores a SIPI that nobody waits for', () => {
    const s = setup([
      [sti, store(APIC + 0x310, 1 << 24), store(APIC + 0x300, 0x4608), hlt],
      [sti, hlt],
    ]);
    s.cpu(1).waitingForSipi = false;
    s.settle();
    expect(s.cpu(1).log).toEqual([]);
  });

  it('shares time fairly among spinners, pausing or not', () => {
    const spin: Step[] = [jump(0)];
    const s = setup([spin, spin, [pause, jump(0)]]);
    for (let i = 0; i < 3; i++) s.cpu(i).waitingForSipi = false;
    s.settle(30);
    expect([0, 1, 2].map((i) => s.cpu(i).budgets.length)).toEqual([10, 10, 10]);
    expect(Math.max(...s.cpu(0).budgets)).toBe(200_000);
    expect(s.loop.counters()).toMatchObject({ exitPause: 10 });
  });

  it('lets a vCPU answer an IPI before the sender spins its slice away', () => {
    let answered = false;
    // CPU 2 sends to CPU 0 and spins until it has answered; CPU 1 spins.
    const s = setup([
      [sti, hlt, jump(1)],
      [jump(0)],
      [
        sti,
        store(APIC + 0x310, 0),
        store(APIC + 0x300, 0x4050),
        (c) => {
          if (!answered) c.pc--;
        },
        hlt,
      ],
    ]);
    for (let i = 0; i < 3; i++) s.cpu(i).waitingForSipi = false;
    s.cpu(0).handler = (_v, c) => {
      answered = true;
      c.write(EOI, 0);
    };
    const order: number[] = [];
    for (let i = 0; i < 3; i++) {
      const v = s.cpu(i);
      const run = v.run.bind(v);
      v.run = (b) => {
        order.push(i);
        return run(b);
      };
    }
    s.settle(6);
    expect(order.slice(0, 4)).toEqual([0, 1, 2, 0]);
    expect(answered).toBe(true);
    expect(s.loop.counters()['kicks']).toBeGreaterThan(0);
  });

  it('does not starve a third while two ping each other without end', () => {
    const ping = (to: number): Step[] => [sti, store(APIC + 0x310, to << 24), store(APIC + 0x300, 0x4050), jump(1)];
    const s = setup([ping(1), ping(0), [jump(0)]]);
    for (let i = 0; i < 3; i++) s.cpu(i).waitingForSipi = false;
    s.settle(300);
    expect(s.cpu(2).budgets.length).toBeGreaterThan(10);
  });

  it('delivers both of two NMIs that came together', () => {
    const s = setup([[sti, hlt]]);
    s.settle();
    s.lapic(0).nmi();
    s.lapic(0).nmi();
    s.settle();
    expect(s.cpu(0).log).toEqual(['nmi', 'nmi']);
  });
});

describe('run()', () => {
  it('yields about every slice, sleeps exactly to the next deadline, ends with the outcome', async () => {
    const s = setup([[sti, hlt, hlt, (c) => c.out(0x404, 0)]]);
    s.pio.claim(0x404, 1, { read: () => 0, write: () => s.loop.requestPoweroff() }, { name: 'pm' });
    s.cpu(0).write(APIC + 0x3e0, 0xb);
    s.cpu(0).write(APIC + 0x320, 0x20040);
    s.cpu(0).write(APIC + 0x380, 4_000_000);
    expect(await s.loop.run()).toMatchObject({ kind: 'poweroff' });
    // The two first steps take 2 µs; then 4 ms ticks on the dot, one step after each.
    expect(s.host.sleeps).toEqual([3_998_000, 3_999_000]);
    expect(s.loop.counters()).toMatchObject({ sleeps: 2, sleptNs: 7_997_000 });
    const t = setup([[]]);
    t.host.work.push(nop as () => void, () => t.loop.stop());
    expect(await t.loop.run()).toMatchObject({ kind: 'stopped' });
    expect(t.host.yields).toBe(2);
    expect(t.cpu(0).budgets.length).toBe(2);
  });

  it('wakes early when a backend raises an interrupt, sets a timer, or stops it', async () => {
    const s = setup([[sti, hlt, hlt, hlt, hlt]]);
    const timer = s.clock.timer(() => s.loop.requestReset());
    s.host.work.push(
      () => s.lapic(0).accept(0x40, false),
      () => timer.arm(s.clock.now() + 1000),
    );
    expect(await s.loop.run()).toMatchObject({ kind: 'reset' });
    expect(s.host.sleeps).toEqual([Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 1000]);
    expect(irqs(s.cpu(0))).toEqual(['irq 0x40']);
    const t = setup([[sti, hlt]]);
    t.host.work.push(() => t.loop.requestPoweroff('button'));
    expect(await t.loop.run()).toMatchObject({ kind: 'poweroff', detail: 'button' });
  });

  it('stands still while paused', async () => {
    const s = setup([[]]);
    let runs = -1;
    s.host.work.push(
      () => s.loop.pause(),
      () => {
        runs = s.cpu(0).budgets.length;
        s.loop.resume();
      },
      () => s.loop.stop(),
    );
    await s.loop.run();
    expect(runs).toBe(1);
    expect(s.cpu(0).budgets.length).toBe(2);
    expect(s.host.sleeps).toEqual([Number.POSITIVE_INFINITY]);
    expect(s.loop.paused).toBe(false);
  });

  it('lets the host run although a timer is always overdue', async () => {
    for (const program of [[], [sti, hlt]]) {
      const s = setup([program]);
      const t = s.clock.timer(() => t.arm(-1));
      t.arm(-1);
      s.host.work.push(nop as () => void, nop as () => void, () => s.loop.stop());
      await s.loop.run();
      expect(s.host.yields).toBe(3);
    }
  });

  it('does not run twice at once', async () => {
    const s = setup([[sti, hlt]]);
    const first = s.loop.run();
    await expect(s.loop.run()).rejects.toEqual(expect.objectContaining({ code: 'RUN_LOOP' }));
    s.loop.stop();
    await first;
  });
});

describe('work of the host', () => {
  /** Work that is over once it was helped with `n` times. */
  const work = (s: () => { time(ns: number): void }, log: string[]) => {
    const w = {
      left: 0,
      pending: 0,
      attach: () => log.push('attach'),
      poll: () => {
        if (w.pending === 0 || w.left > 0) return false;
        w.pending = 0;
        log.push('ended');
        return true;
      },
      help: (ns: number) => {
        log.push(ns <= 500_000 ? 'help' : `help for ${ns}`);
        w.left--;
        s().time(10_000);
      },
    };
    return w;
  };

  it('shortens slices while there is some, and nothing without', () => {
    const log: string[] = [];
    const w = work(() => s, log);
    const s = setup([[]], { loop: { work: w } });
    expect(log).toEqual(['attach']);
    s.loop.runSlice();
    w.pending = 1;
    s.loop.runSlice();
    w.pending = 0;
    s.loop.runSlice();
    expect(s.cpu(0).budgets).toEqual([1e6, 50_000, 1e6]);
  });

  it('gives the event loop a turn when some ended, before the slices are used up', async () => {
    const log: string[] = [];
    const w = work(() => s, log);
    const s = setup([[]], { loop: { work: w } });
    w.pending = 1;
    s.host.work.push(() => log.push('turn'));
    s.host.work.push(() => s.loop.stop());
    await s.loop.run();
    expect(log).toEqual(['attach', 'ended', 'turn']);
    expect(s.cpu(0).budgets[0]).toBe(50_000);
  });

  it('is what a waiting guest waits for, then the event loop, then sleep', async () => {
    const log: string[] = [];
    const w = work(() => s, log);
    const s = setup([[sti, hlt]], { loop: { work: w } });
    w.pending = 1;
    w.left = 3;
    s.host.work.push(
      () => log.push('turn'),
      () => s.loop.stop(),
    );
    const run = s.loop.run();
    await run;
    expect(log).toEqual(['attach', 'help', 'help', 'help', 'ended', 'turn']);
    expect(s.host.sleeps).toEqual([Number.POSITIVE_INFINITY]);
  });

  it('tells the clock of its sleeps, and of the time that it gives to the host’s work', async () => {
    const log: string[] = [];
    const resting = {
      rest: (ns: number): number => {
        log.push(`rest ${ns}`);
        return ns / 2;
      },
      wake: () => void log.push('wake'),
    };
    const w = work(() => s, log);
    const s = setup([[sti, hlt]], { loop: { work: w, resting } });
    w.pending = 1;
    w.left = 1;
    s.host.work.push(nop as () => void, () => s.loop.stop());
    await s.loop.run();
    expect(log).toEqual(['attach', 'rest 500000', 'help', 'ended', 'wake', 'rest Infinity', 'wake']);
  });

  it('ends while the machine is paused too', async () => {
    const log: string[] = [];
    const w = work(() => s, log);
    const s = setup([[]], { loop: { work: w } });
    w.pending = 1;
    w.left = 60;
    s.loop.pause();
    s.host.work.push(
      () => log.push('turn'),
      () => log.push('turn'),
      () => s.loop.stop(),
    );
    await s.loop.run();
    // 500 µs at a time.
    expect(log.filter((l) => l === 'help').length).toBe(60);
    expect(log.indexOf('turn')).toBe(51);
    expect(log.at(-2)).toBe('ended');
  });

  it('is left alone in virtual time', async () => {
    const log: string[] = [];
    const w = work(() => s, log);
    const s = setup([[]], { virtual: true, loop: { work: w } });
    w.pending = 1;
    s.settle(3);
    expect(log).toEqual([]);
  });
});

describe('virtual time', () => {
  const ticker: Step[] = [
    store(APIC + 0x3e0, 0xb),
    store(APIC + 0x320, 0x20040),
    store(APIC + 0x380, 1_000_000),
    sti,
    hlt,
    jump(4),
  ];

  it('moves with instructions, skips while everybody sleeps', () => {
    const s = setup([ticker], { virtual: true });
    let end = 0;
    let n = 0;
    s.cpu(0).handler = (_v, c) => {
      c.write(EOI, 0);
      if (++n === 1000) {
        end = s.virtual.now();
        s.loop.stop();
      }
    };
    expect(s.settle(10_000)).toMatchObject({ kind: 'ended' });
    // The timer was started by the third instruction, retired at 3 µs.
    expect(end).toBe(1000 * 1_000_000 + 3000);
    expect(s.cpu(0).retired()).toBe(5 + 2 * 999);
  });

  it('is bounded by the exact deadline', () => {
    const s = setup([[]], { virtual: true });
    const at: number[] = [];
    const t = s.virtual.timer(() => at.push(s.virtual.now()));
    t.arm(12_000);
    s.settle(2);
    expect(at).toEqual([12_000]);
    expect(s.cpu(0).budgets[0]).toBe(12_000);
    t.arm(s.virtual.now() + 500); // less than an instruction
    s.settle(2);
    expect(at[1]).toBe(1_012_000 + 1000 - (1_012_000 % 1000)); // the slice that ended at 1,012 µs, and one instruction
  });

  it('gives the same run twice, with several vCPUs', () => {
    const trace = (): string[] => {
      const out: string[] = [];
      const s = setup(
        [
          [...ticker.slice(0, 4), store(APIC + 0x310, 1 << 24), store(APIC + 0x300, 0x4061), hlt, jump(4)],
          [sti, nop, hlt, jump(1)],
          [jump(0)],
        ],
        { virtual: true },
      );
      for (let i = 0; i < 3; i++) {
        s.cpu(i).waitingForSipi = false;
        s.cpu(i).handler = (v, c) => {
          out.push(`${s.virtual.now()} ${i} ${v} ${c.pc}`);
          c.write(EOI, 0);
        };
      }
      s.settle(500);
      return out;
    };
    const a = trace();
    expect(a.length).toBeGreaterThan(50);
    expect(trace()).toEqual(a);
  });

  it('stands still while host work is held', async () => {
    const s = setup([[sti, hlt, nop, hlt]], { virtual: true });
    const far = s.virtual.timer(() => s.loop.stop());
    far.arm(30e9);
    s.loop.hold();
    s.host.work.push(() => {
      expect(s.virtual.now()).toBe(0);
      s.lapic(0).accept(0x70, false);
      s.loop.release();
    });
    await s.loop.run();
    expect(s.cpu(0).log).toEqual(['irq 0x70']);
    expect(s.virtual.now()).toBe(30e9);
  });

  it('holds after the turn without ending it: the guest cannot see when host work began', () => {
    const run = (hold: boolean): [number[], number] => {
      const s = setup([[() => hold && s.loop.hold('after-this-turn'), ...Array.from({ length: 50 }, () => nop), hlt]], {
        virtual: true,
      });
      s.loop.runSlice();
      const at = s.virtual.now();
      expect(s.loop.runSlice().kind).toBe(hold ? 'idle' : 'ended');
      expect(s.virtual.now()).toBe(at);
      return [s.cpu(0).budgets, at];
    };
    expect(run(true)).toEqual(run(false));
  });

  it('never goes back: fractions, a vCPU reset, a continued position', () => {
    const c = new VirtualClock({ nsPerInstruction: 0.3 });
    let n = 10;
    const v = { retired: () => n };
    let last = 0;
    for (let i = 0; i < 1000; i++) {
      c.enter(v);
      n = i % 7 === 0 ? 3 : n + i;
      expect(c.now()).toBeGreaterThanOrEqual(last);
      last = c.now();
      c.leave();
      expect(c.now()).toBe(last);
      const to = last + 0.1 * i;
      c.skipTo(to);
      expect(c.now()).toBeGreaterThanOrEqual(to);
      last = c.now();
    }
    c.skipTo(0);
    expect(c.now()).toBe(last);
    const p = c.position();
    const d = new VirtualClock({ nsPerInstruction: 0.3, start: { ...p } });
    expect(d.now()).toBeCloseTo(last, 3);
    expect(() => new VirtualClock({ nsPerInstruction: 0 })).toThrow(expect.objectContaining({ code: 'CLOCK_OPTIONS' }));
  });
});
