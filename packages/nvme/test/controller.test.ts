import { Bus, RegionMemory } from '@hyve/core';
import { PciBus, PirqRouter } from '@hyve/pci';
import { MemoryDisk, settle } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { NvmeController } from '../src/index.ts';
import { BAR, DATA, Guest } from './kit.ts';

function make(): { g: Guest; disk: MemoryDisk } {
  const disk = new MemoryDisk();
  return { g: new Guest({ backend: disk, maxQueues: 4, queueSize: 256 }), disk };
}

const RESET: [string, number, number][] = [
  ['CAP low', 0x00, 0x3c01_00ff],
  ['CAP high', 0x04, 0x30],
  ['VS', 0x08, 0x0001_0400],
  ['INTMS', 0x0c, 0],
  ['INTMC', 0x10, 0],
  ['CC', 0x14, 0],
  ['CSTS', 0x1c, 0],
  ['NSSR', 0x20, 0],
  ['AQA', 0x24, 0],
  ['ASQ low', 0x28, 0],
  ['ASQ high', 0x2c, 0],
  ['ACQ low', 0x30, 0],
  ['ACQ high', 0x34, 0],
  ['CMBLOC', 0x38, 0],
  ['doorbell', 0x1000, 0],
];

describe('reset values (NVMe 1.4 §3.1)', () => {
  it.each(RESET)('%s', (_name, offset, value) => {
    expect(make().g.r(offset)).toBe(value);
  });
  it('come back after reset()', async () => {
    const { g } = make();
    g.enable();
    await g.pair();
    g.w(0x0c, 5);
    g.dev.reset();
    for (const [, offset, value] of RESET) expect(g.r(offset)).toBe(value);
    expect(g.socket.irq.high).toBe(false);
  });
});

describe('registers', () => {
  it('keep writable bits only, doublewords only', () => {
    const { g } = make();
    for (const [reg, want] of [
      [0x24, 0x0fff_0fff],
      [0x28, 0xffff_f000],
      [0x2c, 0xffff_ffff],
      [0x30, 0xffff_f000],
      [0x34, 0xffff_ffff],
      [0x08, 0x0001_0400],
    ] as const) {
      g.w(reg, 0xffff_ffff);
      expect(g.r(reg)).toBe(want);
    }
    g.rig.cpu.write(BAR + 0x24, 1, 0);
    expect(g.r(0x24)).toBe(0x0fff_0fff);
    expect(g.rig.cpu.read(BAR + 0x0a, 2)).toBe(1);
  });
  it('INTMS sets and INTMC clears', () => {
    const { g } = make();
    g.w(0x0c, 0xf0);
    g.w(0x10, 0x30);
    expect([g.r(0x0c), g.r(0x10)]).toEqual([0xc0, 0xc0]);
  });
});

describe('enabling, disabling, shutting down', () => {
  it('becomes ready, and not ready again', async () => {
    const { g } = make();
    g.enable();
    expect(g.r(0x1c)).toBe(1);
    expect((await g.admin({ opcode: 0x0a, dw10: 7 })).result).toBe(0x0003_0003);
    g.disable();
    expect(g.r(0x1c)).toBe(0);
    expect([g.r(0x24), g.r(0x28)]).toEqual([0x000f_000f, 0x1_0000]); // these survive (§7.3.2)
    g.enable();
    expect((await g.admin({ opcode: 0x0a, dw10: 7 })).status).toBe(0);
  });
  it.each([
    ['a page size it has not', 0x0046_0081],
    ['a command set it has not', 0x0046_0011],
    ['arbitration it has not', 0x0046_0801],
  ])('a fatal status for %s', (_what, cc) => {
    const { g } = make();
    g.enable(cc);
    expect(g.r(0x1c)).toBe(2);
    g.disable();
    g.enable();
    expect(g.r(0x1c)).toBe(1);
  });
  it('a fatal status for admin queues of one entry', () => {
    const { g } = make();
    g.w(0x14, 1);
    expect(g.r(0x1c)).toBe(2);
  });
  it('flushes on shutdown, after what is in flight', async () => {
    const { g, disk } = make();
    g.enable();
    await g.pair();
    disk.hold = true;
    g.submit(1, g.rw(false, 0, 1, DATA));
    g.w(0x14, 0x0046_4001);
    expect(g.r(0x1c)).toBe(5);
    expect(disk.log).toEqual(['read 0+512']);
    disk.release();
    await settle();
    expect([disk.log[1], g.r(0x1c)]).toEqual(['flush', 5]);
    disk.release();
    await settle();
    expect(g.r(0x1c)).toBe(9);
    g.disable();
    expect(g.r(0x1c)).toBe(0);
  });
  it('stays ready until a disabled controller is out of the back end, then starts anew', async () => {
    const { g, disk } = make();
    g.enable();
    await g.pair();
    disk.hold = true;
    g.submit(1, g.rw(false, 0, 1, DATA));
    g.disable();
    expect(g.r(0x1c)).toBe(1);
    g.enable();
    g.w(0x1000, 1); // a doorbell rung too early is lost
    disk.release();
    await settle();
    expect([g.r(0x1c), g.poll(0)]).toEqual([1, null]);
    expect((await g.admin({ opcode: 0x0a, dw10: 7 })).status).toBe(0);
    g.disable();
    expect(g.r(0x1c)).toBe(0);
  });
  it('after reset() a controller gets ready once the old requests are over', async () => {
    const { g, disk } = make();
    g.enable();
    await g.pair();
    disk.hold = true;
    g.submit(1, g.rw(false, 0, 1, DATA));
    g.dev.reset();
    g.enable();
    expect(g.r(0x1c)).toBe(0);
    disk.release();
    await settle();
    expect(g.r(0x1c)).toBe(1);
    await g.pair();
    disk.hold = false;
    expect(await g.status(1, g.rw(false, 0, 1, DATA))).toBe(0);
  });
  it('a subsystem reset wants its word and says that it happened', () => {
    const { g } = make();
    g.enable();
    g.w(0x20, 1);
    expect(g.r(0x1c)).toBe(1);
    g.w(0x20, 0x4e56_4d65);
    expect([g.r(0x14), g.r(0x1c)]).toEqual([0, 0x10]);
    g.w(0x1c, 0x10);
    expect(g.r(0x1c)).toBe(0);
  });
});

describe('queues (§5.3-5.6)', () => {
  const cq = (id: number, entries: number, vector = 0, flags = 3) => ({
    opcode: 5,
    prp1: DATA,
    dw10: (((entries - 1) << 16) | id) >>> 0,
    dw11: ((vector << 16) | flags) >>> 0,
  });
  const sq = (id: number, entries: number, cqid: number, flags = 1) => ({
    opcode: 1,
    prp1: DATA,
    dw10: (((entries - 1) << 16) | id) >>> 0,
    dw11: ((cqid << 16) | flags) >>> 0,
  });
  it('are checked', async () => {
    const { g } = make();
    g.enable();
    expect(await g.status(0, cq(0, 16))).toBe(0x101);
    expect(await g.status(0, cq(5, 16))).toBe(0x101);
    expect(await g.status(0, cq(1, 1))).toBe(0x102);
    expect(await g.status(0, cq(1, 257))).toBe(0x102);
    expect(await g.status(0, cq(1, 16, 5))).toBe(0x108);
    expect(await g.status(0, cq(1, 16, 0, 2))).toBe(0x002);
    expect(await g.status(0, { ...cq(1, 16), prp1: DATA + 4 })).toBe(0x013);
    expect(await g.status(0, sq(1, 16, 1))).toBe(0x100);
    expect(await g.status(0, cq(1, 16))).toBe(0);
    expect(await g.status(0, cq(1, 16))).toBe(0x101);
    expect(await g.status(0, sq(1, 16, 1))).toBe(0);
    expect(await g.status(0, sq(2, 16, 1, 0))).toBe(0x002);
    expect(await g.status(0, sq(2, 16, 1))).toBe(0);
    expect(await g.status(0, { opcode: 4, dw10: 1 })).toBe(0x10c);
    expect(await g.status(0, { opcode: 0, dw10: 1 })).toBe(0);
    expect(await g.status(0, { opcode: 0, dw10: 2 })).toBe(0);
    expect(await g.status(0, { opcode: 0, dw10: 2 })).toBe(0x101);
    expect(await g.status(0, { opcode: 4, dw10: 1 })).toBe(0);
    expect(await g.status(0, { opcode: 4, dw10: 1 })).toBe(0x101);
  });
  it('need the entry sizes in CC', async () => {
    const { g } = make();
    g.enable(1);
    expect(await g.status(0, cq(1, 16))).toBe(0x102);
  });
  it('a submission queue is deleted when its commands are over', async () => {
    const { g, disk } = make();
    g.enable();
    await g.pair();
    disk.hold = true;
    g.submit(1, g.rw(false, 0, 1, DATA));
    const cid = g.submit(0, { opcode: 0, dw10: 1 });
    await settle();
    expect(g.poll(0)).toBe(null);
    disk.release();
    await settle();
    expect(g.poll(1)?.status).toBe(0);
    expect(g.poll(0)).toMatchObject({ cid, status: 0 });
  });
  it('wrap with the phase tag, many times', async () => {
    const { g } = make();
    g.enable();
    await g.pair(1, 4);
    for (let i = 0; i < 30; i++)
      expect(await g.run(1, g.rw(false, i, 1, DATA))).toMatchObject({ status: 0, sqid: 1, sqHead: (i + 1) % 4 });
  });
  it('commands wait while their completion queue has no room', async () => {
    const { g, disk } = make();
    g.enable();
    await g.pair(1, 4);
    for (let i = 0; i < 3; i++) g.submit(1, g.rw(false, i, 1, DATA), false);
    g.ring(1);
    await settle();
    g.submit(1, g.rw(false, 3, 1, DATA), false);
    g.submit(1, g.rw(false, 4, 1, DATA));
    await settle();
    expect(disk.log.length).toBe(3);
    expect(g.poll(1, false)?.cid).toBe(0);
    expect(g.poll(1, false)?.cid).toBe(1);
    g.ack(1);
    await settle();
    expect(disk.log.length).toBe(5);
    for (const cid of [2, 3, 4]) expect(g.poll(1)?.cid).toBe(cid);
  });
  it('share a completion queue and take turns for the slots', async () => {
    const disk = new MemoryDisk();
    const g = new Guest({ backend: disk, ioSlots: 1 });
    g.enable();
    await g.pair(1);
    await g.pair(2);
    disk.hold = true;
    for (let i = 0; i < 2; i++) for (const q of [1, 2]) g.submit(q, g.rw(false, q * 10 + i, 1, DATA), false);
    g.ring(1);
    g.ring(2);
    for (let i = 0; i < 4; i++) {
      disk.release();
      await settle();
    }
    expect(disk.log).toEqual([10, 20, 11, 21].map((lba) => `read ${lba * 512}+512`));
  });
});

describe('doorbells', () => {
  it('are checked; mistakes become asynchronous events until the error log is read (§5.2)', async () => {
    const { g } = make();
    g.enable();
    await g.pair();
    const a = g.submit(0, { opcode: 0x0c });
    const b = g.submit(0, { opcode: 0x0c });
    g.w(0x1000 + 3 * 8, 1); // no such queue
    expect(g.poll(0)).toMatchObject({ cid: a, status: 0, result: 0x0001_0000 });
    g.w(0x1000 + 8, 64); // past the end
    expect(g.poll(0)).toBe(null); // masked
    expect(await g.status(0, { opcode: 2, nsid: 0xffff_ffff, prp1: DATA, dw10: 0x01 | (15 << 16) })).toBe(0);
    g.w(0x1000 + 8 + 4, 1); // completion head past the tail
    expect(g.poll(0)).toMatchObject({ cid: b, result: 0x0001_0100 });
    expect(g.dev.counters()['invalidDoorbells']).toBe(3);
    g.w(0x3000, 1);
    g.w(0x1000 + 8, 0xffff_0000);
  });
  it('do nothing while the controller is not ready', () => {
    const { g } = make();
    g.w(0x1000, 1);
    expect(g.dev.counters()['invalidDoorbells']).toBe(0);
  });
});

describe('interrupts', () => {
  it('INTx stays up while entries wait, unless masked', async () => {
    const { g } = make();
    g.enable();
    g.submit(0, { opcode: 0x0a, dw10: 7 });
    expect(g.socket.irq.high).toBe(true);
    g.w(0x0c, 1);
    expect(g.socket.irq.high).toBe(false);
    g.w(0x10, 1);
    expect(g.socket.irq.high).toBe(true);
    g.poll(0);
    expect(g.socket.irq.high).toBe(false);
  });
  it('MSI-X vectors by completion queue', async () => {
    const { g } = make();
    g.socket.mode = 'msix';
    g.enable();
    await g.pair(1, 64, 3);
    await g.run(1, g.rw(false, 0, 1, DATA));
    expect(g.socket.messages).toEqual([0, 0, 3]);
    expect(g.socket.irq.edges).toBe(0);
  });
  it('none from a queue without them', async () => {
    const { g } = make();
    g.enable();
    expect(await g.status(0, { opcode: 5, prp1: 0x3_8000, dw10: (15 << 16) | 1, dw11: 1 })).toBe(0);
    expect(await g.status(0, { opcode: 1, prp1: 0x3_0000, dw10: (15 << 16) | 1, dw11: (1 << 16) | 1 })).toBe(0);
    const before = g.socket.irq.edges;
    g.rig.ram.write32(0x3_0000, 2);
    g.w(0x1008, 1);
    await settle();
    expect(g.rig.ram.read32(0x3_800c) >>> 16).not.toBe(0);
    expect(g.socket.irq.edges).toBe(before);
  });
});

describe('pause, save and load', () => {
  it('pause waits for what is in flight and starts nothing new', async () => {
    const { g, disk } = make();
    g.enable();
    await g.pair();
    disk.hold = true;
    g.submit(1, g.rw(false, 0, 1, DATA));
    let paused = false;
    const p = g.dev.pause().then(() => {
      paused = true;
    });
    g.submit(1, g.rw(false, 1, 1, DATA));
    g.w(0x14, 0x0046_4001);
    await settle();
    expect([paused, disk.log.length]).toEqual([false, 1]);
    expect(() => g.dev.save()).toThrow(/in flight/);
    disk.release();
    await p;
    await settle();
    expect(disk.log.length).toBe(1);
    g.dev.resume();
    await settle();
    expect(disk.log[1]).toBe('read 512+512');
    disk.release();
    await settle();
    disk.release();
    await settle();
    expect(g.r(0x1c)).toBe(9);
  });

  it('a fresh controller goes on where the saved one stopped', async () => {
    const { g } = make();
    g.enable();
    await g.pair(1, 8);
    for (let i = 0; i < 11; i++) await g.run(1, g.rw(false, i, 1, DATA));
    await g.run(1, g.rw(false, 1e6, 1, DATA)); // an entry in the error log
    g.submit(0, { opcode: 0x0c });
    await g.admin({ opcode: 9, dw10: 6, dw11: 0 });
    await g.dev.pause();
    g.submit(1, g.rw(true, 5, 1, DATA));
    const state = JSON.parse(JSON.stringify(g.dev.save()));
    const other = make();
    await other.g.dev.pause();
    other.g.rig.ram.load(0, g.rig.ram.readView(0, 8 << 20) as Uint8Array);
    other.g.dev.load(state);
    expect(other.g.dev.save()).toEqual(state);
    expect(Array.from({ length: 16 }, (_, i) => other.g.r(i * 4))).toEqual(
      Array.from({ length: 16 }, (_, i) => g.r(i * 4)),
    );
    other.g.dev.resume();
    await settle();
    expect(other.disk.log).toEqual(['write 2560+512', 'flush']); // with the write cache off
    // And the phase tag is right: the original's driver finds it at its place.
    g.rig.ram.load(0, other.g.rig.ram.readView(0, 8 << 20) as Uint8Array);
    expect(g.poll(1)).toMatchObject({ status: 0, sqid: 1 });
    other.g.w(0x1000 + 3 * 8, 1);
    g.rig.ram.load(0, other.g.rig.ram.readView(0, 8 << 20) as Uint8Array);
    expect(g.poll(0)).toMatchObject({ result: 0x0001_0000 });
  });

  it('refuses states it cannot read', async () => {
    const { g } = make();
    g.enable();
    await g.pair();
    const good = JSON.parse(JSON.stringify(g.dev.save()));
    const without = (change: object): (() => void) => {
      const other = make().g;
      return () => other.dev.load({ ...good, ...change });
    };
    expect(without({ v: 2 })).toThrow(/version/);
    expect(without({ cc: -1 })).toThrow(/cc/);
    expect(without({ grantedQueues: 99 })).toThrow(/granted/);
    expect(without({ completion: [] })).toThrow(/nowhere/);
    expect(without({ submission: [] })).toThrow(/ready/);
    expect(without({ submission: 5 })).toThrow(/lists/);
    expect(without({ completion: [{ ...good.completion[0], head: 99 }] })).toThrow(/fit/);
    expect(without({ admin: { ...good.admin, requests: [1, 2, 3, 4, 5] } })).toThrow(/requests/);
    expect(without({ admin: null })).toThrow(/admin/);
  });
});

describe('construction', () => {
  const backend = new MemoryDisk();
  it.each([
    ['NVME_OPTIONS', { maxQueues: 0 }],
    ['NVME_OPTIONS', { maxQueues: 2048 }],
    ['NVME_OPTIONS', { queueSize: 1 }],
    ['NVME_OPTIONS', { ioSlots: 0 }],
    ['NVME_BACKEND', { blockSize: 1024 }],
    ['NVME_BACKEND', { backend: new MemoryDisk({ sector: 4096 }), blockSize: 512 }],
    ['NVME_BACKEND', { backend: new MemoryDisk({ size: 512 }), blockSize: 4096 }],
    ['NVME_IDENTITY', { serial: 'x'.repeat(21) }],
    ['NVME_IDENTITY', { model: 'ü' }],
    ['NVME_IDENTITY', { eui64: 1n << 64n }],
  ] as const)('%s', (code, o) => {
    expect(() => new NvmeController({ backend, ...o })).toThrow(expect.objectContaining({ code }));
  });
});

it('works on the PCI bus: 64-bit BAR, MSI-X in a BAR of its own, PCI Express', () => {
  const pio = new Bus({ name: 'port', size: 0x1_0000 });
  const mmio = new Bus({ name: 'mmio', size: 2 ** 52 });
  const ram = RegionMemory.allocate([{ base: 0, size: 1 << 20, kind: 'ram', name: 'ram' }]);
  const controller = { connect: () => ({ set: () => {}, restore: () => {} }) };
  const router = new PirqRouter({ pic: controller, ioapic: controller, reserved: [] });
  const sent: number[] = [];
  const pci = new PciBus({ pio, mmio, dma: ram, msi: { send: (_a, data) => sent.push(data) }, router });
  pci.attach(new NvmeController({ backend: new MemoryDisk() }), { slot: 4 });
  pci.assign();
  const cfg = (reg: number): number => {
    pio.write(0xcf8, 4, 0x8000_2000 + reg);
    return pio.read(0xcfc, 4);
  };
  expect(cfg(0)).toBe(0x0a0a_fb5d);
  expect(cfg(8) >>> 8).toBe(0x01_08_02);
  expect(cfg(0x10) & 0xf).toBe(4);
  const base = (cfg(0x10) & ~0xf) >>> 0;
  const table = (cfg(0x20) & ~0xf) >>> 0;
  expect(mmio.read(base + 8, 4)).toBe(0x0001_0400);
  // Vector 0 to somewhere, MSI-X on, one admin command.
  mmio.write(table, 4, 0xfee0_0000);
  mmio.write(table + 8, 4, 0x4321);
  mmio.write(table + 12, 4, 0);
  let cap = cfg(0x34) & 0xff;
  while ((cfg(cap) & 0xff) !== 0x11) cap = (cfg(cap) >>> 8) & 0xff;
  expect(cfg(cap) >>> 16).toBe(16);
  pio.write(0xcf8, 4, 0x8000_2000 + cap);
  pio.write(0xcfe, 2, 0x8000);
  for (const [reg, v] of [
    [0x24, 0x000f_000f],
    [0x28, 0x1000],
    [0x30, 0x2000],
    [0x14, 0x0046_0001],
  ] as const)
    mmio.write(base + reg, 4, v);
  ram.write32(0x1000, 0x0a);
  ram.write32(0x1028, 7);
  mmio.write(base + 0x1000, 4, 1);
  expect([ram.read32(0x2000), sent]).toEqual([0x000f_000f, [0x4321]]);
});

it('exports', () => {
  expect(Object.keys(api).sort()).toEqual(['NvmeController']);
});
