// Virtual time: two runs with the same input are the same run, whatever the host does meanwhile.
import { describe, expect, it } from 'vitest';
import { createPc, type MachineSpec } from '../src/index.ts';
import { type Holder, heldDisk, patientConsole, repeatableEntropy, repeatableWords } from '../src/virtual.ts';
import { code, disk, host, machine, multiboot, Screen } from './kit.ts';

/** Everything a guest can tell of a run. */
async function trace(spec: MachineSpec, guest: Uint8Array, screen: Screen): Promise<unknown> {
  const pc = await createPc(spec, host({ guest }, screen));
  const reason = await pc.run();
  const out = {
    reason,
    screen: screen.bytes,
    states: pc.vm.vcpus.map((v) => v.getState()),
    retired: pc.vm.vcpus.map((v) => v.retired()),
    // Of the loop, what guests cause: sleeps for the host's sake do not count.
    injected: pc.loop.counters()['injected'],
  };
  await pc.close();
  return out;
}

const REPEAT = (n: number, body: readonly number[]): number[] => [
  0xbe, n & 0xff, n >> 8, 0, 0, ...body, 0x4e, 0x0f, 0x85, ...back(-(body.length + 7)),
]; // biome-ignore format: mov esi, n; body; dec esi; jnz body
function back(d: number): number[] {
  return [d & 0xff, (d >> 8) & 0xff, (d >> 16) & 0xff, (d >> 24) & 0xff];
}

/** Prints what differs from run to run on real machines: TSC, random numbers, the 8254, the PM timer, the HPET. */
const curious = multiboot([
  ...REPEAT(200, [
    0x0f, 0x31, ...code.printEax(), // rdtsc
    0x0f, 0xc7, 0xf0, ...code.printEax(), // rdrand eax
    ...code.out8(0x43, 0), ...code.in8(0x40), 0x66, 0xba, 0xf8, 3, 0xee, ...code.in8(0x40), 0x66, 0xba, 0xf8, 3, 0xee,
    ...code.in32(0x408), ...code.printEax(),
    0xa1, 0xf0, 0x00, 0xd0, 0xfe, ...code.printEax(), // mov eax, [fed000f0]
  ]),
  ...code.powerOff(),
]); // biome-ignore format: code

describe('virtual time', () => {
  it('gives the same bytes and the same registers in every run', async () => {
    const first = new Screen();
    const a = await trace(machine(), curious, first);
    expect(first.bytes.length).toBe(200 * 18);
    expect(new Set(first.bytes).size).toBeGreaterThan(100);
    expect(await trace(machine(), curious, new Screen())).toEqual(a);
  });

  it('does not let the guest see that the console is slow', async () => {
    const a = await trace(machine(), curious, new Screen());
    const slow = new Screen();
    slow.slow = 2;
    expect(await trace(machine(), curious, slow)).toEqual(a);
    const real: MachineSpec = { ...machine(), clock: { ...machine().clock, mode: 'real' } };
    expect(await trace(real, curious, new Screen())).not.toEqual(a); // or this test shows nothing
  });

  it('counts an instruction as asked: 1000 of them take a microsecond at 10^9 a second', async () => {
    // rdtsc; mov edi, eax; mov ecx, 999; loop $; rdtsc; sub eax, edi
    const guest = multiboot([0x0f, 0x31, 0x89, 0xc7, 0xb9, 0xe7, 3, 0, 0, 0xe2, 0xfe, 0x0f, 0x31, 0x29, 0xf8, ...code.printEax(), ...code.powerOff()]); // biome-ignore format: code
    for (const [ips, want] of [
      [1e9, 2004],
      [5e8, 4008],
    ] as const) {
      const screen = new Screen();
      await trace(machine({ clock: { ...machine().clock, instructionsPerSecond: ips } }), guest, screen);
      expect(new DataView(Uint8Array.from(screen.bytes).buffer).getUint32(0, true)).toBe(want); // 2 GHz; 1002 instructions
    }
  });
});

describe('what takes the host’s time out of a run', () => {
  class Counter implements Holder {
    readonly log: string[] = [];
    hold(when: 'now' | 'after-this-turn' = 'now'): void {
      this.log.push(`hold ${when}`);
    }
    release(): void {
      this.log.push('release');
    }
  }

  it('a patient console takes everything, and holds the guest until the host has', () => {
    const loop = new Counter();
    const screen = new Screen();
    const c = patientConsole(screen, () => loop);
    let got = '';
    c.onData = (b) => {
      got += String.fromCharCode(...b);
    };
    expect(c.write(Uint8Array.of(65))).toBe(true);
    expect(loop.log).toEqual([]);
    screen.write = (b) => {
      screen.bytes.push(...b);
      return false;
    };
    expect(c.write(Uint8Array.of(66))).toBe(true);
    expect(c.write(Uint8Array.of(67))).toBe(true);
    expect(loop.log).toEqual(['hold after-this-turn']);
    screen.onDrain?.();
    screen.onDrain?.();
    expect(loop.log).toEqual(['hold after-this-turn', 'release']);
    expect(screen.text).toBe('ABC');
    screen.onData?.(Uint8Array.of(0x78));
    expect(got).toBe('x');
  });

  it('a held disk ends requests in the order they were made', async () => {
    const loop = new Counter();
    const d = heldDisk(
      disk(4096, (n) => [20, 0, 10][n]!),
      () => loop,
    );
    const order: number[] = [];
    const buffer = new Uint8Array(512);
    await Promise.all([0, 1, 2].map((n) => d.read(0, [buffer]).then(() => order.push(n))));
    expect(order).toEqual([0, 1, 2]);
    expect(loop.log.filter((l) => l === 'hold now').length).toBe(3);
    expect(loop.log.filter((l) => l === 'release').length).toBe(3);
  });

  it('repeatable words repeat, and look random', () => {
    const a = repeatableWords(1);
    const b = repeatableWords(1);
    const words = Array.from({ length: 4096 }, () => a());
    expect(words).toEqual(Array.from({ length: 4096 }, () => b()));
    expect(new Set(words).size).toBe(4096);
    for (let bit = 0; bit < 32; bit++) {
      const ones = words.filter((w) => (w >>> bit) & 1).length;
      expect(Math.abs(ones - 2048)).toBeLessThan(200); // six sigma
    }
    expect(words.every((w) => w >= 0 && w < 2 ** 32)).toBe(true);
    const bytes = new Uint8Array(8);
    repeatableEntropy(1).fill(bytes);
    expect([...bytes]).toEqual(words.slice(0, 8).map((w) => w & 0xff));
  });
});
