// Whole machines on KVM with no, some and all interrupt controllers in the kernel: a small ROM counts ticks of the PIT and of
// the local APIC, and echoes what COM1 receives; it is paused, reset, and moved in the middle from engine to engine.
import { readFileSync } from 'node:fs';
import { type CharBackend, silentLogger } from '@hyve/core';
import { KvmHypervisor } from '@hyve/hv-native';
import { createPc, type MachineSpec, machineSpec, type Pc } from '@hyve/pc';
import { Code } from '@hyve/testkit/code';
import { afterEach, describe, expect, it } from 'vitest';

function kvmFault(): string | null {
  try {
    const e = new KvmHypervisor();
    const kinds = e.interruptKinds;
    e.close();
    return kinds.includes('all') && kinds.includes('local') ? null : 'no interrupt controllers in the kernel';
  } catch (e) {
    return (e as Error).message;
  }
}

const hardware =
  process.platform === 'linux' && /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));
const fault = kvmFault();
const need = fault === null ? '' : ` (needs KVM: ${fault.replaceAll(/[()]/g, '')})`;

/** What a byte on the screen says: 0x00 + n % 64 PIT, 0x40 + c % 64 echo, 0x80 + n % 128 local APIC. */
const ECHO = 0x40;
const APIC = 0x80;

function program(): Uint8Array {
  const c = new Code(0, 16);
  const out = (port: number, v: number): Code => c.b(0xba).n(2, port).b(0xb0, v, 0xee); // mov dx; mov al; out dx, al
  const vector = (n: number, label: string): Code =>
    c.b(0xc7, 6).n(2, 4 * n).n(2, label).b(0xc7, 6).n(2, 4 * n + 2).n(2, 0xf000); // mov word [4n], label; mov word [4n + 2], F000h
  const wrmsr = (index: number, v: number): Code =>
    c.b(0x66, 0xb9).n(4, index).b(0x66, 0xb8).n(4, v).b(0x66, 0x31, 0xd2, 0x0f, 0x30); // mov ecx; mov eax; xor edx, edx; wrmsr
  c.b(0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70); // cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 7000h
  c.b(0xa3).n(2, 0x500).b(0xa3).n(2, 0x502); // mov [500h], ax; mov [502h], ax
  vector(0x20, 'pit');
  vector(0x24, 'serial');
  vector(0x50, 'apic');
  for (const [port, v] of [[0x20, 0x11], [0x21, 0x20], [0x21, 4], [0x21, 1], [0xa0, 0x11], [0xa1, 0x28], [0xa1, 2], [0xa1, 1], [0x21, 0xee], [0xa1, 0xff]] as const)
    out(port, v); // vectors from 20h and 28h; IRQ 0 and 4
  out(0x3f9, 1);
  out(0x3fc, 0x0b);
  out(0x43, 0x34);
  out(0x40, 0x9c);
  out(0x40, 0x2e); // mode 2, 11932: 10 ms
  c.b(0x66, 0xb9).n(4, 0x1b).b(0x0f, 0x32, 0x0d).n(2, 0xc00).b(0x0f, 0x30); // x2APIC on
  wrmsr(0x80f, 0x1ff);
  wrmsr(0x835, 0x700); // LINT0: the 8259
  wrmsr(0x83e, 0x0b);
  wrmsr(0x832, 0x20050); // periodic
  wrmsr(0x838, 7_000_000);
  c.b(0xfb).label('again').b(0xf4, 0xeb, 0xfd); // sti; again: hlt; jmp again
  c.label('pit').b(0x50, 0x52, 0xff, 6).n(2, 0x500).b(0xa0).n(2, 0x500); // push ax; push dx; inc word [500h]; mov al, [500h]
  c.b(0x24, 0x3f, 0xba).n(2, 0x3f8).b(0xee, 0xb0, 0x20, 0xe6, 0x20, 0x5a, 0x58, 0xcf); // and al, 3fh; out; EOI; pop; pop; iret
  c.label('serial').b(0x50, 0x52, 0xba).n(2, 0x3f8).b(0xec, 0x24, 0x3f, 0x0c, ECHO, 0xee); // in; and al, 3fh; or al, 40h; out
  c.b(0xb0, 0x20, 0xe6, 0x20, 0x5a, 0x58, 0xcf);
  c.label('apic').b(0x66, 0x50, 0x66, 0x51, 0x66, 0x52, 0xff, 6).n(2, 0x502).b(0xa0).n(2, 0x502, ); // push eax, ecx, edx; inc word [502h]; mov al, [502h]
  c.b(0x0c, APIC, 0xba).n(2, 0x3f8).b(0xee); // or al, 80h; out
  wrmsr(0x80b, 0);
  c.b(0x66, 0x5a, 0x66, 0x59, 0x66, 0x58, 0xcf);
  const rom = new Uint8Array(0x10000);
  rom.set(c.bytes());
  rom.set([0xea, 0, 0, 0, 0xf0], 0xfff0); // jmp f000:0
  return rom;
} // biome-ignore format: code

const ROM = program();

class Screen implements CharBackend {
  bytes: number[] = [];
  onData: ((bytes: Uint8Array) => void) | null = null;
  onDrain: (() => void) | null = null;
  write(b: Uint8Array): boolean {
    this.bytes.push(...b);
    return true;
  }
  setFlow(): void {}
  async close(): Promise<void> {}
  /** The last values of a kind, and whether each followed from the one before. */
  kind(from: number, modulus: number): number[] {
    return this.bytes.filter((b) => b >= from && b < from + modulus).map((b) => b - from);
  }
  get pit(): number[] {
    return this.kind(0, 64);
  }
  get apic(): number[] {
    return this.kind(APIC, 128);
  }
  get echoes(): string {
    return String.fromCharCode(...this.kind(ECHO, 64).map((v) => v + 0x40));
  }
}

type Where = 'soft' | 'none' | 'split' | 'all';
const CONTROLLERS = { soft: 'auto', none: 'board', split: 'engine', all: 'all' } as const;

describe.skipIf(fault !== null)(`a machine on KVM${need}`, { timeout: 30_000 }, () => {
  const open: Pc[] = [];
  const engines: KvmHypervisor[] = [];
  afterEach(async () => {
    for (const pc of open.splice(0)) await pc.close();
    for (const e of engines.splice(0)) e.close();
  });
  const machine = async (where: Where, screen: Screen, o: Partial<MachineSpec> = {}): Promise<Pc> => {
    const kvm = (): KvmHypervisor => {
      const e = new KvmHypervisor();
      engines.push(e);
      return e;
    };
    const pc = await createPc(
      machineSpec({
        memoryBytes: 2 ** 21,
        boot: { loader: 'bootrom', code: 'rom', vars: null },
        lpc: [{ device: 'com1', backend: 'console' }],
        engine: where === 'soft' ? 'soft' : 'kvm',
        localApics: CONTROLLERS[where],
        ...o,
      }),
      {
        openChar: async () => screen,
        readFile: async () => ROM,
        log: silentLogger,
        wallClock: { nowMs: () => 0, offsetMinutes: () => 0 },
        engines: { kvm },
      },
    );
    open.push(pc);
    return pc;
  };
  const until = async (done: () => boolean, what: string): Promise<void> => {
    const limit = performance.now() + 15_000;
    while (!done()) {
      if (performance.now() > limit) throw new Error(`not in time: ${what}`);
      await new Promise((r) => setTimeout(r, 2));
    }
  };
  /** Each value one more than that before it. */
  const counts = (values: readonly number[], modulus: number): void => {
    const first = values[0] as number;
    expect(values).toEqual(values.map((_, i) => (first + i) % modulus));
  };

  for (const where of ['none', 'split', 'all'] as const) {
    it(`interrupts from the PIT, the local APIC and COM1, and is reset (irqchip ${where})`, async () => {
      const screen = new Screen();
      const pc = await machine(where, screen);
      const run = pc.run();
      await until(() => screen.pit.length >= 8 && screen.apic.length >= 8, 'eight ticks of both');
      for (const c of 'ABC') {
        const n = screen.echoes.length;
        screen.onData?.(Uint8Array.of(c.charCodeAt(0)));
        await until(() => screen.echoes.length > n, `the echo of ${c}`);
      }
      expect(screen.echoes).toBe('ABC');
      counts(screen.pit, 64);
      counts(screen.apic, 128);
      expect([screen.pit[0], screen.apic[0]]).toEqual([1, 1]);
      await pc.reset();
      screen.bytes = [];
      await until(() => screen.pit.length >= 3 && screen.apic.length >= 3, 'ticks after the reset');
      expect(screen.pit.slice(0, 3)).toEqual([1, 2, 3]);
      expect(screen.apic.slice(0, 3)).toEqual([1, 2, 3]);
      pc.forceOff();
      expect(await run).toBe('poweroff');
      expect(pc.detail).toBe('forced');
    });

    it(`stands still while paused, its clocks too (irqchip ${where})`, async () => {
      const screen = new Screen();
      const pc = await machine(where, screen);
      const run = pc.run();
      await until(() => screen.pit.length >= 2, 'ticks');
      await pc.pause();
      const tsc = (): bigint => pc.vm.vcpus[0]?.getState().msrs.find(([i]) => i === 0x10)?.[1] ?? 0n;
      const before = tsc();
      const n = screen.bytes.length;
      await new Promise((r) => setTimeout(r, 400));
      expect([tsc(), screen.bytes.length]).toEqual([before, n]);
      pc.resume();
      const resumed = performance.now();
      await pc.pause();
      const ms = performance.now() - resumed;
      const hz = (pc.vm.counters()['tscKhz'] as number) * 1000;
      // What passed between the two, and not the 400 ms before. A KVM that emulates takes no other TSC than the host's.
      if (hardware) expect(Number(tsc() - before) / hz).toBeLessThan((ms + 200) / 1000);
      pc.resume();
      await until(() => screen.pit.length >= 10 && screen.apic.length >= 10, 'more ticks');
      counts(screen.pit, 64);
      counts(screen.apic, 128);
      pc.forceOff();
      await run;
    });
  }

  it('goes on where it stood on another engine, whoever has the interrupt controllers', {
    timeout: 60_000,
  }, async () => {
    const stations: readonly Where[] = ['all', 'split', 'all', 'none', 'all', 'soft', 'split', 'soft', 'all'];
    const screen = new Screen();
    let pc = await machine(stations[0] as Where, screen);
    for (let leg = 0; ; leg++) {
      const run = pc.run();
      const [pit, apic, echoes] = [screen.pit.length, screen.apic.length, screen.echoes.length];
      await until(() => screen.pit.length >= pit + 4 && screen.apic.length >= apic + 4, `ticks on leg ${leg}`);
      screen.onData?.(Uint8Array.of(0x41 + leg));
      await until(() => screen.echoes.length > echoes, `the echo on leg ${leg}`);
      await pc.pause();
      const next = stations[leg + 1];
      if (next === undefined) {
        pc.forceOff();
        pc.resume();
        await run;
        break;
      }
      const state = structuredClone(await pc.save());
      const memory = [...pc.memoryPieces()].map((p) => ({ addr: p.addr, bytes: p.bytes.slice() }));
      const other = await machine(next, screen);
      await other.pause();
      await other.load(state, memory);
      pc.forceOff();
      await pc.close();
      open.splice(open.indexOf(pc), 1);
      other.resume();
      pc = other;
    }
    expect(screen.echoes).toBe('ABCDEFGHI');
    counts(screen.pit, 64);
    counts(screen.apic, 128);
  });

  it('leaves the line of the PIT to the HPET when its legacy routing is on', async () => {
    const screen = new Screen();
    const pc = await machine('all', screen);
    const run = pc.run();
    await until(() => screen.pit.length >= 3, 'ticks');
    pc.vm.interrupts?.setPitIrq(false);
    await new Promise((r) => setTimeout(r, 30)); // one may be under way
    const n = screen.pit.length;
    await new Promise((r) => setTimeout(r, 100));
    expect(screen.pit.length).toBe(n);
    pc.vm.interrupts?.setPitIrq(true);
    await until(() => screen.pit.length >= n + 3, 'ticks again');
    pc.forceOff();
    await run;
  });

  it('starts in x2APIC mode with -x, wherever the local APICs are', async () => {
    for (const where of ['none', 'split', 'all'] as const) {
      const pc = await machine(where, new Screen(), { x2apic: true });
      await pc.pause();
      const lapic = (await pc.save()).processors[0]?.lapic as { mode: number };
      expect(lapic.mode).toBe(2);
    }
  });

  it('takes no states of interrupt controllers that are none', async () => {
    const pc = await machine('all', new Screen());
    await pc.pause();
    const state = await pc.save();
    const wrong = (name: string, change: object): object => ({
      ...state,
      devices: state.devices.map((d) => (d.name === name ? { ...d, state: { ...(d.state as object), ...change } } : d)),
    });
    for (const [name, change, code] of [
      ['pic', { chips: [] }, 'STATE_FORMAT'],
      ['pic', { v: 2 }, 'STATE_VERSION'],
      ['ioapic', { lo: [1] }, 'STATE_FORMAT'],
      ['pit', { counters: [{}, {}, {}] }, 'STATE_FORMAT'],
    ] as const)
      await expect(pc.load(wrong(name, change), pc.memoryPieces()), name).rejects.toMatchObject({ code });
    const lapic = { ...state, processors: state.processors.map((p) => ({ ...p, lapic: { v: 1 } })) };
    await expect(pc.load(lapic, pc.memoryPieces())).rejects.toMatchObject({ code: 'STATE_FORMAT' });
    await pc.load(state, pc.memoryPieces());
  });
});
