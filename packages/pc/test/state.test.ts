// A whole machine paused, saved, restored into another, and reset.
import { describe, expect, it } from 'vitest';
import { createPc, type MachineSpec, type MachineStateV1, type MemoryPiece, type Pc } from '../src/index.ts';
import { HostTime } from '../src/state.ts';
import { code, host, machine, multiboot, Screen, slot } from './kit.ts';

const REPEATS = 20_000;
const BYTES = REPEATS * 14;
/** Prints the time as the TSC, the 8254, the PM timer and the HPET tell it, again and again; a counter is in memory. */
const guest = multiboot([
  0xbe, REPEATS & 0xff, REPEATS >> 8, 0, 0, // mov esi, n
  ...loop([
    0xff, 0x05, 0, 0, 0x20, 0, // inc dword [200000h]
    0x0f, 0x31, ...code.printEax(), // rdtsc
    ...code.out8(0x43, 0), ...code.in8(0x40), 0x66, 0xba, 0xf8, 3, 0xee, ...code.in8(0x40), 0x66, 0xba, 0xf8, 3, 0xee,
    ...code.in32(0x408), ...code.printEax(),
    0xa1, 0xf0, 0x00, 0xd0, 0xfe, ...code.printEax(), // mov eax, [fed000f0]
  ]),
  ...code.powerOff(),
]); // biome-ignore format: code
function loop(body: readonly number[]): number[] {
  const d = -(body.length + 7);
  return [...body, 0x4e, 0x0f, 0x85, d & 0xff, (d >> 8) & 0xff, 0xff, 0xff]; // dec esi; jnz body
}

const spec = (o: Partial<MachineSpec> = {}): MachineSpec =>
  machine({
    memoryBytes: 64 << 20,
    pci: [
      slot(0, 'hostbridge'),
      slot(2, 'virtio-rnd'),
      slot(3, 'virtio-blk', 'disk'),
      slot(4, 'ahci-hd', 'disk'),
      slot(5, 'nvme', 'disk'),
      slot(6, 'uart'),
      slot(7, 'dummy'),
      slot(31, 'lpc'),
    ],
    ...o,
  });

/** Acts once so many bytes have been printed. */
class Trap extends Screen {
  at = 0;
  act: () => void = () => {};
  override write(b: Uint8Array): boolean {
    const before = this.bytes.length;
    for (const v of b) this.bytes.push(v);
    if (before < this.at && this.bytes.length >= this.at) this.act();
    return true;
  }
}

/** Runs until about `at` bytes are on the screen, then pauses. */
async function paused(pc: Pc, screen: Trap, at: number): Promise<void> {
  const reached = new Promise<void>((resolve) => {
    screen.at = at;
    screen.act = () => void pc.pause().then(resolve);
  });
  void pc.run();
  await reached;
}

/** The state as a file would keep it. */
function copy(state: MachineStateV1, pieces: Iterable<MemoryPiece>): { state: unknown; memory: MemoryPiece[] } {
  return { state: structuredClone(state), memory: [...pieces].map((p) => ({ addr: p.addr, bytes: p.bytes.slice() })) };
}

async function machineWith(screen: Screen, o: Partial<MachineSpec> = {}): Promise<Pc> {
  return createPc(spec(o), host({ guest }, screen));
}

describe('a machine on virtual time', () => {
  it('goes on in another machine as if nothing had been, to the last bit', async () => {
    const whole = new Trap();
    const a = await machineWith(whole);
    expect(await a.run()).toBe('poweroff');
    expect(whole.bytes.length).toBe(BYTES);
    await a.close();

    const first = new Trap();
    const b = await machineWith(first);
    await paused(b, first, BYTES / 3);
    expect(first.bytes.length).toBeLessThan(BYTES);
    const kept = copy(await b.save(), b.memoryPieces());
    const bytes = kept.memory.reduce((n, p) => n + p.bytes.length, 0);
    expect(bytes).toBeLessThan(1 << 20);
    await b.close();

    const second = new Trap();
    const c = await machineWith(second);
    await c.pause();
    c.vm.memory.fill(0x30_0000, 4096, 0xee); // what the saved machine had as zeros
    await c.load(kept.state, kept.memory);
    expect(c.vm.memory.read32(0x30_0000)).toBe(0);
    c.resume();
    expect(await c.run()).toBe('poweroff');
    await c.close();
    expect([...first.bytes, ...second.bytes]).toEqual(whole.bytes);
  });

  it('is not saved or loaded while it runs, and takes no state of another machine', async () => {
    const pc = await machineWith(new Trap());
    await expect(pc.save()).rejects.toMatchObject({ code: 'STATE_BUSY' });
    await pc.pause();
    const { state, memory } = copy(await pc.save(), pc.memoryPieces());
    const s = state as MachineStateV1;
    const refused = async (other: unknown, code: string): Promise<void> =>
      expect(pc.load(other, memory)).rejects.toMatchObject({ code });
    await refused(null, 'STATE_VERSION');
    await refused({ ...s, v: 2 }, 'STATE_VERSION');
    await refused({ ...s, memoryBytes: 1 << 20 }, 'STATE_FORMAT');
    await refused({ ...s, processors: [] }, 'STATE_FORMAT');
    await refused({ ...s, devices: s.devices.slice(1) }, 'STATE_FORMAT');
    await refused({ ...s, timeNs: Number.NaN }, 'STATE_FORMAT');
    await refused({ ...s, virtual: null }, 'STATE_FORMAT');
    for (const piece of [
      { addr: 1 << 30, bytes: new Uint8Array(4096) },
      { addr: 100, bytes: new Uint8Array(4096) },
    ])
      await expect(pc.load(s, [piece])).rejects.toMatchObject({ code: 'STATE_FORMAT' });
    const twice = { addr: 4096, bytes: new Uint8Array(4096) };
    await expect(pc.load(s, [twice, twice])).rejects.toMatchObject({ code: 'STATE_FORMAT' });
    await pc.load(s, memory);
    pc.resume();
    expect(await pc.run()).toBe('poweroff');
    await pc.close();
  });
});

describe('pause and resume', () => {
  it('stops guest time and goes on where it stood', async () => {
    const screen = new Trap();
    const real = { ...machine().clock, mode: 'real' } as const;
    const pc = await machineWith(screen, { clock: real });
    await paused(pc, screen, BYTES / 4);
    const before = (await pc.save()).timeNs;
    const printed = screen.bytes.length;
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect([screen.bytes.length, (await pc.save()).timeNs]).toEqual([printed, before]);
    pc.resume();
    pc.resume();
    await new Promise<void>((resolve) => {
      screen.at = BYTES;
      screen.act = resolve;
    });
    await pc.close();
  });

  it('host time stands still, goes on, and can be set while it stands', () => {
    let ns = 500;
    const t = new HostTime(() => ns);
    ns += 100;
    expect(t.now()).toBe(100);
    t.set(7); // not while it runs
    t.stop();
    ns += 1000;
    t.stop();
    expect(t.now()).toBe(100);
    t.go();
    ns += 5;
    t.go();
    expect(t.now()).toBe(105);
    t.stop();
    t.set(9000);
    ns += 1000;
    t.go();
    ns += 1;
    expect(t.now()).toBe(9001);
  });

  it('host time says when what went by was no stall', () => {
    let settled = 0;
    const t = new HostTime(
      () => 0,
      0,
      () => settled++,
    );
    t.go();
    expect(settled).toBe(0);
    t.stop();
    t.go();
    expect(settled).toBe(1);
  });
});

describe('reset', () => {
  it('starts the guest again, from the middle and after its end', async () => {
    const screen = new Trap();
    const pc = await machineWith(screen);
    await paused(pc, screen, BYTES / 3);
    await pc.reset();
    screen.bytes.length = 0;
    const whole = new Promise<void>((resolve) => {
      screen.at = BYTES;
      screen.act = resolve;
    });
    pc.resume();
    await whole;
    await new Promise((resolve) => setTimeout(resolve, 20));
    const first = [...screen.bytes];
    expect(first.length).toBe(BYTES);
    await pc.reset();
    screen.bytes.length = 0;
    expect(await pc.run()).toBe('poweroff');
    expect(screen.bytes.length).toBe(BYTES);
    await pc.close();
  });

  it('waits for what the disks are still doing', async () => {
    const waiting: (() => void)[] = [];
    const screen = new Trap();
    const pc = await createPc(spec(), host({ guest }, screen));
    const order: string[] = [];
    const device = (pc as unknown as { devices: { pause?(): Promise<void>; reset(): void }[] }).devices.at(-1)!;
    const reset = device.reset.bind(device);
    device.pause = () => new Promise<void>((resolve) => waiting.push(resolve));
    device.reset = () => {
      order.push('reset');
      reset();
    };
    const over = pc.reset().then(() => order.push('over'));
    await new Promise((resolve) => setTimeout(resolve, 20));
    order.push('answered');
    waiting[0]?.();
    await over;
    expect(order).toEqual(['answered', 'reset', 'over']);
    await pc.close();
  });
});
