import { RegionMemory } from '@hyve/core';
import { PciBus, PirqRouter } from '@hyve/pci';
import { MemoryDisk, settle } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { AhciController } from '../src/index.ts';
import { DATA, Guest } from './kit.ts';

function make(): { g: Guest; disk: MemoryDisk } {
  const disk = new MemoryDisk();
  return { g: new Guest({ ports: [{ kind: 'hd', backend: disk }, null, { kind: 'cd', backend: null }] }), disk };
}

const CAP = 0xff30_ff25;

describe('reset values (AHCI §3)', () => {
  const host: [string, number, number][] = [
    ['CAP', 0x00, CAP],
    ['GHC', 0x04, 0x8000_0000],
    ['IS', 0x08, 0],
    ['PI', 0x0c, 0b101],
    ['VS', 0x10, 0x0001_0300],
    ['CCC_CTL', 0x14, 0],
    ['EM_LOC', 0x1c, 0],
    ['CAP2', 0x24, 4],
    ['BOHC', 0x28, 0],
  ];
  const port: [string, number, number][] = [
    ['CLB', 0x00, 0],
    ['CLBU', 0x04, 0],
    ['FB', 0x08, 0],
    ['FBU', 0x0c, 0],
    ['IS', 0x10, 0],
    ['IE', 0x14, 0],
    ['CMD', 0x18, 6],
    ['TFD', 0x20, 0x150],
    ['SIG', 0x24, 0x101],
    ['SSTS', 0x28, 0x133],
    ['SCTL', 0x2c, 0],
    ['SERR', 0x30, 0],
    ['SACT', 0x34, 0],
    ['CI', 0x38, 0],
    ['SNTF', 0x3c, 0],
    ['FBS', 0x40, 0],
  ];
  it.each(host)('%s', (_name, offset, value) => {
    expect(make().g.r(offset)).toBe(value);
  });
  it.each(port)('Px%s', (_name, offset, value) => {
    expect(make().g.pr(0, offset)).toBe(value);
  });
  it('come back after a host reset by the guest and after reset()', async () => {
    for (const how of ['guest', 'host']) {
      const { g } = make();
      g.start();
      await g.run(0, { command: 0xec, pieces: [[DATA, 512]] });
      if (how === 'guest') g.w(0x04, 1);
      else g.dev.reset();
      for (const [, offset, value] of host) expect(g.r(offset)).toBe(value);
      for (const [, offset, value] of port) expect(g.pr(0, offset)).toBe(value);
      expect(g.socket.irq.high).toBe(false);
    }
  });
  it('a port without drive reads zero and ignores writes; a CD drive has its own signature', () => {
    const { g } = make();
    g.pw(1, 0x00, 0x1000);
    expect([g.pr(1, 0x00), g.pr(1, 0x28)]).toEqual([0, 0]);
    expect([g.pr(2, 0x24), g.pr(2, 0x20)]).toEqual([0xeb14_0101, 0x100]);
  });
});

describe('registers', () => {
  it('keep writable bits only', () => {
    const { g } = make();
    for (const [reg, want] of [
      [0x00, 0xffff_fc00],
      [0x04, 0xffff_ffff],
      [0x08, 0xffff_ff00],
      [0x14, 0xfdc0_00ff],
      [0x24, 0x101],
      [0x20, 0x150],
      [0x28, 0x133],
    ] as const) {
      g.pw(0, reg, 0xffff_ffff);
      expect(g.pr(0, reg)).toBe(want);
    }
    g.w(0x00, 0);
    g.w(0x0c, 0);
    expect([g.r(0x00), g.r(0x0c)]).toEqual([CAP, 0b101]);
  });
  it('are read in bytes and words, and written whole only', () => {
    const { g } = make();
    expect(g.rig.cpu.read(0xc000_0002, 1)).toBe((CAP >>> 16) & 0xff);
    expect(g.rig.cpu.read(0xc000_0002, 2)).toBe(CAP >>> 16);
    g.rig.cpu.write(0xc000_0114, 1, 0xff);
    expect(g.pr(0, 0x14)).toBe(0);
  });
  it('PxCMD shows FR and CR at once and clears ICC', () => {
    const { g } = make();
    g.pw(0, 0x18, 0x1000_0017);
    expect(g.pr(0, 0x18)).toBe(0xc017);
    g.pw(0, 0x18, 0x06);
    expect(g.pr(0, 0x18)).toBe(6);
  });
  it('CI and SACT take bits only while ST is set', () => {
    const { g } = make();
    g.pw(0, 0x34, 1);
    g.pw(0, 0x38, 1);
    expect([g.pr(0, 0x34), g.pr(0, 0x38)]).toEqual([0, 0]);
  });
});

describe('interrupts (AHCI §5.6.2, §10.7)', () => {
  it('follow PxIE, IS and GHC.IE', async () => {
    const { g } = make();
    g.start();
    g.pw(0, 0x14, 0);
    await g.run(0, { command: 0xe5 });
    expect([g.pr(0, 0x10), g.r(0x08), g.socket.irq.high]).toEqual([1, 0, false]);
    g.pw(0, 0x14, 1);
    expect([g.r(0x08), g.socket.irq.high]).toEqual([1, true]);
    g.w(0x04, 0x8000_0000);
    expect(g.socket.irq.high).toBe(false);
    g.w(0x04, 0x8000_0002);
    expect(g.socket.irq.high).toBe(true);
    // IS comes back while the port still asks.
    g.w(0x08, 1);
    expect([g.r(0x08), g.socket.irq.high]).toEqual([1, true]);
    g.pw(0, 0x10, 1);
    expect(g.socket.irq.high).toBe(true);
    g.w(0x08, 1);
    expect([g.r(0x08), g.socket.irq.high]).toEqual([0, false]);
  });
  it('one message for each news, and one more for what was left standing', async () => {
    const { g } = make();
    g.socket.mode = 'msi';
    g.start();
    await g.run(0, { command: 0xe5 });
    expect(g.socket.messages.length).toBe(1);
    await g.run(0, { command: 0xe5 });
    expect(g.socket.messages.length).toBe(1); // IS still set: the driver has not answered the first
    g.w(0x08, 1);
    expect(g.socket.messages.length).toBe(2);
    g.pw(0, 0x10, 1);
    g.w(0x08, 1);
    expect(g.socket.messages.length).toBe(2);
    await g.run(0, { command: 0xe5 });
    expect(g.socket.messages.length).toBe(3);
  });
  it('DPS when a PRD with its interrupt bit is done', async () => {
    const { g } = make();
    g.start();
    g.lay(0, { command: 0x25, count: 1, pieces: [[DATA, 512]] });
    g.rig.ram.write32(g.area(0) + 0x1000 + 0x8c, 0x8000_01ff);
    g.pw(0, 0x38, 1);
    await settle();
    expect(g.pr(0, 0x10) & 0x20).toBe(0x20);
  });
});

describe('resets', () => {
  it('COMRESET: link down while DET is 1, signature FIS after', async () => {
    const { g } = make();
    g.start();
    g.pw(0, 0x18, 0x16);
    g.pw(0, 0x2c, 0x301);
    expect([g.pr(0, 0x28), g.pr(0, 0x20)]).toEqual([0, 0x80]);
    g.pw(0, 0x2c, 0x300);
    expect([g.pr(0, 0x28), g.pr(0, 0x20), g.pr(0, 0x24)]).toEqual([0x133, 0x150, 0x101]);
    expect(g.fis(0, 0x40).slice(0, 13)).toEqual([0x34, 0, 0x50, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    // A slower link on request.
    g.pw(0, 0x2c, 0x311);
    g.pw(0, 0x2c, 0x310);
    expect(g.pr(0, 0x28)).toBe(0x113);
    g.pw(0, 0x2c, 4);
    expect([g.pr(0, 0x28), g.pr(0, 0x20)]).toEqual([4, 0x7f]);
  });

  it('the signature FIS waits for FRE', () => {
    const { g } = make();
    g.pw(0, 0x08, 0x1_0400);
    expect(g.fis(0, 0x40)[0]).toBe(0);
    g.pw(0, 0x18, 0x16);
    expect(g.fis(0, 0x40)[0]).toBe(0x34);
  });

  it('software reset by two control FISes', async () => {
    const { g } = make();
    g.start();
    for (const control of [4, 0]) {
      g.lay(0, { command: 0 });
      g.rig.ram.write8(g.area(0) + 0x1001, 0); // C clear
      g.rig.ram.write8(g.area(0) + 0x100f, control);
      g.pw(0, 0x38, 1);
      expect(g.pr(0, 0x38)).toBe(0);
    }
    expect([g.pr(0, 0x20), g.fis(0, 0x40)[0]]).toEqual([0x150, 0x34]);
    expect(await g.run(0, { command: 0xec, pieces: [[DATA, 512]] })).toBe(0x50);
  });

  it('takes commands away; a late back end neither completes them nor holds the next ones up for ever', async () => {
    const { g, disk } = make();
    g.start();
    disk.hold = true;
    for (let tag = 0; tag < 4; tag++) g.queue(0, { tag, lba: tag, count: 1, pieces: [[DATA, 512]] });
    g.pw(0, 0x18, 0x16);
    expect([g.pr(0, 0x34), g.pr(0, 0x18) & 0x8000]).toEqual([0, 0x8000]);
    g.pw(0, 0x2c, 1);
    g.pw(0, 0x2c, 0);
    expect(g.pr(0, 0x20)).toBe(0x80); // busy until the old requests are over
    g.pw(0, 0x10, 0xffff_ffff);
    g.pw(0, 0x18, 0x17);
    g.lay(0, { command: 0xec, pieces: [[DATA + 4096, 512]] });
    g.pw(0, 0x38, 1);
    expect(g.pr(0, 0x38)).toBe(1);
    disk.release();
    await settle();
    expect([g.pr(0, 0x38), g.pr(0, 0x20), g.pr(0, 0x10) & 8]).toEqual([0, 0x50, 0]);
    expect(g.rig.ram.read16(DATA + 4096)).toBe(0x40);
  });

  it('CLO clears BSY of a command that was taken away', () => {
    const { g, disk } = make();
    g.start();
    disk.hold = true;
    g.issue(0, { command: 0xea });
    expect(g.pr(0, 0x20) & 0x80).toBe(0x80);
    g.pw(0, 0x18, 0x16);
    expect(g.pr(0, 0x20) & 0x80).toBe(0x80);
    g.pw(0, 0x18, 0x1e);
    expect([g.pr(0, 0x20) & 0x80, g.pr(0, 0x18) & 8]).toEqual([0, 0]);
  });
});

describe('pause, save and load', () => {
  it('pause waits for what is in flight and starts nothing new', async () => {
    const { g, disk } = make();
    g.start();
    disk.hold = true;
    g.queue(0, { tag: 0, lba: 0, count: 1, pieces: [[DATA, 512]] });
    let paused = false;
    const p = g.dev.pause().then(() => {
      paused = true;
    });
    g.queue(0, { tag: 1, lba: 1, count: 1, pieces: [[DATA, 512]] });
    await settle();
    expect([paused, disk.pending]).toEqual([false, 1]);
    expect(() => g.dev.save()).toThrow(/in flight/);
    disk.release();
    await p;
    expect(disk.log.length).toBe(1);
    g.dev.resume();
    expect(disk.log.length).toBe(2);
    disk.release();
    await settle();
    expect(g.pr(0, 0x34)).toBe(0);
  });

  it('a fresh controller goes on where the saved one stopped, with commands that had not started', async () => {
    const { g } = make();
    g.start();
    await g.run(0, { command: 0xef, features: 0x82 });
    await g.run(0, { command: 0x2f, lba: 0x99, count: 1 }); // leaves an error behind
    await g.dev.pause();
    const state = JSON.parse(JSON.stringify(g.dev.save()));
    const other = make();
    await other.g.dev.pause();
    other.g.dev.load(state);
    expect(other.g.dev.save()).toEqual(state);
    const regs = (x: Guest) => Array.from({ length: 0x100 }, (_, i) => x.r(i * 4));
    expect(regs(other.g)).toEqual(regs(g));
    g.recover();
    other.g.recover();
    // Issued while paused, started by the one that loads it.
    g.lay(0, { command: 0x35, write: true, lba: 3, count: 1, pieces: [[DATA, 512]] });
    g.pw(0, 0x38, 1);
    const third = make();
    await third.g.dev.pause();
    third.g.rig.ram.load(0, g.rig.ram.readView(0, 1 << 20) as Uint8Array);
    third.g.dev.load(g.dev.save());
    third.g.dev.resume();
    await settle();
    expect(third.disk.log).toEqual(['write 1536+512', 'flush']); // with the write cache still off
    expect(third.g.pr(0, 0x38)).toBe(0);
  });

  it('refuses states it cannot read', async () => {
    const { g } = make();
    const good = g.dev.save();
    expect(() => g.dev.load({ ...good, v: 2 })).toThrow(/version/);
    expect(() => g.dev.load(null)).toThrow(/version/);
    expect(() => g.dev.load({ ...good, ports: [] })).toThrow(/ports/);
    expect(() => g.dev.load({ ...good, ports: good.ports.map((p) => ({ ...p, ci: -1 })) })).toThrow(/ci/);
    expect(() => g.dev.load({ ...good, ports: good.ports.map((p) => ({ ...p, ncqError: [] })) })).toThrow(/ncqError/);
    expect(() => g.dev.load({ ...good, ports: good.ports.map((p) => ({ ...p, drive: {} })) })).toThrow(/disk/);
  });
});

describe('construction', () => {
  const backend = new MemoryDisk();
  it.each([
    ['AHCI_PORTS', () => new AhciController({ ports: [] })],
    ['AHCI_PORTS', () => new AhciController({ ports: Array.from({ length: 33 }, () => null) })],
    ['AHCI_BACKEND', () => new AhciController({ ports: [{ kind: 'hd', backend: null }] })],
    ['AHCI_BACKEND', () => new AhciController({ ports: [{ kind: 'cd', backend: new MemoryDisk({ sector: 4096 }) }] })],
    ['AHCI_IDENTITY', () => new AhciController({ ports: [{ kind: 'hd', backend, serial: 'x'.repeat(21) }] })],
    ['AHCI_IDENTITY', () => new AhciController({ ports: [{ kind: 'hd', backend, model: 'ä' }] })],
    ['AHCI_IDENTITY', () => new AhciController({ ports: [{ kind: 'hd', backend, nmrr: 70000 }] })],
  ])('%s', (code, build) => {
    expect(build).toThrow(expect.objectContaining({ code }));
  });
  it('takes up to 32 ports', () => {
    const g = new Guest({ ports: Array.from({ length: 32 }, () => ({ kind: 'hd' as const, backend })) });
    expect([g.r(0x0c), g.r(0x00) & 0x1f, g.pr(31, 0x28)]).toEqual([0xffff_ffff, 31, 0x133]);
  });
});

it('works on the PCI bus, where bus mastering gates its memory and a function reset resets it', async () => {
  const disk = new MemoryDisk();
  const { rig } = new Guest({ ports: [{ kind: 'hd', backend: disk }] });
  const controller = { connect: () => ({ set: () => {}, restore: () => {} }) };
  const router = new PirqRouter({ pic: controller, ioapic: controller, reserved: [] });
  const { Bus } = await import('@hyve/core');
  const mmio = new Bus({ name: 'mmio', size: 2 ** 52 });
  const ram = RegionMemory.allocate([{ base: 0, size: 1 << 20, kind: 'ram', name: 'ram' }]);
  const pci = new PciBus({ pio: rig.pio, mmio, dma: ram, msi: rig.msiSink, router });
  const dev = new AhciController({ ports: [{ kind: 'hd', backend: disk }] });
  pci.attach(dev, { slot: 3 });
  pci.assign();
  rig.cpu.out32(0xcf8, 0x8000_1800);
  expect(rig.cpu.in32(0xcfc)).toBe(0x2821_8086);
  rig.cpu.out32(0xcf8, 0x8000_1808);
  expect(rig.cpu.in32(0xcfc) >>> 8).toBe(0x01_06_01);
  rig.cpu.out32(0xcf8, 0x8000_1824);
  const base = rig.cpu.in32(0xcfc) & ~0xf;
  expect(mmio.read(base >>> 0, 4)).toBe(CAP);
  rig.cpu.out32(0xcf8, 0x8000_1804);
  rig.cpu.out16(0xcfc, 0x0002);
  const w = (reg: number, v: number): void => mmio.write((base >>> 0) + 0x100 + reg, 4, v);
  w(0x00, 0x1000);
  w(0x18, 0x17);
  w(0x38, 1);
  // No bus mastering: the header reads all ones, which is no FIS.
  expect(mmio.read((base >>> 0) + 0x110, 4) & (1 << 27)).not.toBe(0);
});

it('exports', () => {
  expect(Object.keys(api).sort()).toEqual(['AhciController']);
});
