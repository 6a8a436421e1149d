// The guest as an enemy of the board: any value to any port and any MMIO page, in any order and width, with time going on.
// Nothing may throw, hang or answer with something that is no value of that width.
import type { VcpuBus, Width } from '@hyve/core';
import { type ScriptedVcpu, scriptedHypervisor } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createPc, type Pc } from '../src/index.ts';
import { disk, host, machine, multiboot, Screen, slot } from './kit.ts';

const WIDTHS: readonly Width[] = [1, 2, 4];

/** A board with every device, without a processor: the test is the guest. */
async function board(): Promise<{ pc: Pc; bus: VcpuBus; settle: () => void; screen: Screen }> {
  const screen = new Screen();
  const spec = machine({
    cpus: { count: 2, sockets: 1, cores: 2, threads: 1 },
    pci: [
      slot(0, 'hostbridge'),
      slot(1, 'virtio-blk', 'x'),
      slot(2, 'virtio-rnd'),
      slot(3, 'ahci', 'hd:x,cd:y'),
      slot(4, 'nvme', 'x'),
      slot(5, 'uart', 'console'),
      slot(6, 'dummy'),
      { ...slot(0, 'virtio-rnd'), bus: 3 },
      slot(31, 'lpc'),
    ],
    lpc: [
      { device: 'com1', backend: 'console' },
      { device: 'com3', backend: 'console' },
      { device: 'pc-testdev', settings: {} },
    ],
    tables: { ...machine().tables, mptable: false },
    fwcfg: { kind: 'qemu', items: [] },
    bvmcons: true,
  });
  const pc = await createPc(
    spec,
    host({ guest: multiboot([0xf4]) }, screen, {
      engines: { soft: () => scriptedHypervisor(() => []) },
      openDisk: async () => ({ backend: disk(1 << 20), extras: new Map() }),
    }),
  );
  const cpu = pc.vm.vcpus[0] as unknown as ScriptedVcpu;
  const bus = cpu.bus as VcpuBus;
  let n = 0;
  const settle = (): void => {
    // The guest asked for an end: a real one would be gone, this one goes on as after a reset that it survives.
    if (pc.loop.ended !== null) pc.loop.restart();
    cpu.waitingForSipi = false;
    cpu.interruptsOn = true;
    cpu.halted = (n++ & 1) === 0; // half the time sleep to the next timer
    for (let i = 0; i < 4 && pc.loop.runSlice().kind === 'busy'; i++);
    screen.bytes.length = 0;
  };
  return { pc, bus, settle, screen };
}

/** xorshift32: fast, and a seed says which run it was. */
function random(seed: number): () => number {
  let x = seed | 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}

/** Values that mean something to hardware more often than random ones do. */
function value(r: () => number, width: Width): number {
  const v = r();
  const pick = r() & 7;
  const w =
    pick === 0
      ? 0
      : pick === 1
        ? 0xffffffff
        : pick === 2
          ? 1 << (v & 31)
          : pick <= 4
            ? v & 0x1f
            : pick === 5
              ? v & 0x3f000 // an address of the RAM that is full of garbage
              : v;
  return width === 4 ? w >>> 0 : width === 2 ? w & 0xffff : w & 0xff;
}

function fits(v: number, width: Width): boolean {
  return Number.isInteger(v) && v >= 0 && v < 2 ** (8 * width);
}

/** A function's BARs as the board set them up. */
interface Target {
  /** Its configuration space in ECAM. */
  readonly config: number;
  /** Six registers of 32 bits. */
  readonly bars: readonly number[];
}

/** All functions of buses 0 and 3, found as a guest finds them. */
function targets(bus: VcpuBus): Target[] {
  const out: Target[] = [];
  for (const b of [0, 3])
    for (let slot = 0; slot < 32; slot++) {
      const config = 0xe0000000 + b * 2 ** 20 + slot * 2 ** 15;
      if (bus.mmioRead(config, 4) === 0xffffffff) continue;
      out.push({ config, bars: [0, 1, 2, 3, 4, 5].map((n) => bus.mmioRead(config + 0x10 + n * 4, 4)) });
    }
  return out;
}

/** Puts BARs and the command register back, so that devices can be reached again. */
function repair(bus: VcpuBus, all: readonly Target[]): void {
  for (const t of all) {
    t.bars.forEach((v, n) => {
      bus.mmioWrite(t.config + 0x10 + n * 4, 4, v);
    });
    bus.mmioWrite(t.config + 4, 2, 7);
  }
}

/** Ports of the fixed chips. */
const PORTS: readonly number[] = [
  0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0x92, 0xb2, 0xb3,
  0xcf8, 0xcf9, 0xcfc, 0xcfe, 0x220, 0x224, 0x2e8, 0x2f8, 0x3e8, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x400,
  0x402, 0x404, 0x408, 0x510, 0x511, 0x514, 0x518, 0x501, 0xf4, 0x2000, 0x2018,
]; // biome-ignore format: a list

/** A page of RAM's edge, of a chip, of configuration space, or of nothing. */
function page(r: () => number): number {
  switch (r() & 7) {
    case 0:
      return 0xfee00000;
    case 1:
      return 0xfec00000;
    case 2:
      return 0xfed00000;
    case 3:
      return 0xe0000000 + (r() % 65536) * 4096;
    case 4:
      return 2 ** 24 - 4096 + (r() & 1) * 4096;
    case 5:
      return (r() % 2 ** 20) * 4096;
    case 6:
      return r() * 2 ** 20;
    default:
      return 2 ** 52 - 4096;
  }
}

/** One access. @returns where it went, if what it read is no value of its width */
function access(r: () => number, bus: VcpuBus, all: readonly Target[]): string {
  const width = WIDTHS[r() % 3] as Width;
  const kind = r();
  const write = (kind & 1) !== 0;
  let v = 0;
  let addr: number;
  let port = false;
  const target = all[r() % all.length] as Target;
  switch ((kind >>> 1) & 15) {
    case 0: // any port
      addr = r() & 0xffff;
      port = true;
      break;
    case 1:
    case 2:
    case 3: // a chip's
      addr = (PORTS[r() % PORTS.length] as number) + (r() & 3);
      port = true;
      break;
    case 4: // configuration space
      addr = target.config + (r() & ((kind & 0x100) !== 0 ? 0xff : 0xfff));
      break;
    case 5:
    case 6: // anything
      addr = page(r) + ((kind & 0x100) !== 0 ? r() % (4097 - width) : (r() & 0xff) * 4);
      break;
    default: {
      // A device's registers, mostly its first ones.
      const n = r() % 6;
      const bar = target.bars[n] as number;
      if (bar === 0) return '';
      port = (bar & 1) !== 0;
      const at = (kind & 0x600) === 0 ? r() & 0x3fff : r() & 0x7f;
      const high = (bar & 6) === 4 ? (target.bars[n + 1] ?? 0) * 2 ** 32 : 0;
      addr = port ? ((bar & ~3) + (at & 0x3f)) & 0xffff : high + ((bar & ~15) >>> 0) + at;
    }
  }
  if (port) {
    if (write) bus.ioWrite(addr & 0xffff, width, value(r, width));
    else v = bus.ioRead(addr & 0xffff, width);
  } else if (write) bus.mmioWrite(addr, width, value(r, width));
  else v = bus.mmioRead(addr, width);
  return fits(v, width) ? '' : `${width} bytes at ${port ? 'port ' : ''}0x${addr.toString(16)} read ${v}`;
}

async function attack(seed: number, accesses: number): Promise<Readonly<Record<string, number>>> {
  const { pc, bus, settle } = await board();
  const r = random(seed);
  const all = targets(bus);
  // RAM full of what may look like rings and descriptors: random bytes, small numbers, addresses of RAM.
  for (let i = 0; i < 0x40000; i += 4) pc.vm.memory.write32(i, value(r, 4));
  for (let i = 0; i < accesses; i++) {
    let wrong = '';
    try {
      wrong = access(r, bus, all);
      if ((i & 1023) === 0) settle();
      if ((i & 511) === 0) repair(bus, all);
    } catch (e) {
      throw new Error(`access ${i} of seed ${seed} threw`, { cause: e });
    }
    if (wrong !== '') throw new Error(`seed ${seed}: ${wrong}`);
    if ((i & 16383) === 0) await new Promise((resolve) => setImmediate(resolve)); // disks answer
  }
  const stats = pc.stats();
  await pc.close();
  return stats;
}

describe('a hostile guest', () => {
  it('does no harm with four million random accesses', { timeout: 60_000 }, async () => {
    const total = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 0x7fffffff }), async (seed) => {
        const stats = await attack(seed, 500_000);
        for (const [k, v] of Object.entries(stats)) total.set(k, (total.get(k) ?? 0) + v);
      }),
      { numRuns: 8 },
    );
    // It did reach them: each of these counts something that only an access to that device causes.
    const reached = ['lpc.resets', 'i8042.resets', 'com1.txBytes', 'com3.txBytes', 'bvmcons.txBytes', 'fw_cfg.selects'];
    reached.push('pc-testdev.exits', 'loop.timersFired', 'loop.extInts', '0:1:0 virtio-blk.resets');
    reached.push(
      '0:2:0 virtio-rnd.notifications',
      '3:0:0 virtio-rnd.notifications',
      '0:3:0 ahci.hostResets',
      '0:4:0 nvme.resets',
    );
    expect(reached.filter((k) => !((total.get(k) ?? 0) > 0))).toEqual([]);
  });

  it('reads and writes every port in every width', async () => {
    const { pc, bus, settle } = await board();
    const r = random(7);
    for (const width of WIDTHS) {
      for (let i = 0; i < 65536; i++) {
        const port = (i * 40503) & 0xffff; // each once, in no order
        bus.ioWrite(port, width, value(r, width));
        const v = bus.ioRead(port, width);
        if (!fits(v, width)) expect([port, width, v]).toEqual('a value of that width');
        if ((i & 4095) === 0) settle();
      }
    }
    await pc.close();
  });

  it('reads and writes every page of ECAM and of the PCI windows, and every register of the fixed chips', async () => {
    const { pc, bus, settle } = await board();
    const r = random(9);
    const touch = (addr: number): void => {
      const width = WIDTHS[r() % 3] as Width;
      bus.mmioWrite(addr, width, value(r, width));
      const v = bus.mmioRead(addr, width);
      if (!fits(v, width)) expect([addr.toString(16), width, v]).toEqual('a value of that width');
    };
    for (let i = 0; i < 65536; i++) {
      touch(0xe0000000 + i * 4096 + (r() & 0xffc));
      if ((i & 4095) === 0) settle();
    }
    for (let i = 0; i < 0x20000; i++) {
      touch(0xc0000000 + i * 4096 + (r() & 0xffc));
      if ((i & 4095) === 0) settle();
    }
    for (const page of [0xfee00000, 0xfec00000, 0xfed00000])
      for (let round = 0; round < 4; round++) for (let at = 0; at < 4096; at += 4) touch(page + at);
    settle();
    await pc.close();
  });

  it('gets no value from a machine that it did not put there: unclaimed reads are all ones', async () => {
    const { pc, bus } = await board();
    expect([
      bus.ioRead(0x1f0, 4),
      bus.ioRead(0xffff, 1),
      bus.mmioRead(0xdffff000, 4),
      bus.mmioRead(2 ** 40, 2),
    ]).toEqual([0xffffffff, 0xff, 0xffffffff, 0xffff]);
    await pc.close();
  });
});
