import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import * as testing from '../src/testing/index.ts';
import { enableMsix, LegacyGuest, ModernGuest, pciCapabilities, pciRead, pciWrite } from '../src/testing/index.ts';
import { type Bench, Echo, echoOnce, IRQ, MMIO, mmioBench, pciBench, SLOT, up } from './kit.ts';

const split = { packed: false, indirect: false, eventIdx: false };

const transports: [string, () => Bench][] = [
  ['mmio v2', () => mmioBench(2)],
  ['mmio v1', () => mmioBench(1)],
  ['pci legacy', () => pciBench({ transport: 'legacy' })],
  ['pci transitional, legacy driver', () => pciBench({ transport: 'transitional' }, true)],
  ['pci transitional, modern driver', () => pciBench({ transport: 'transitional' })],
  ['pci modern', () => pciBench({ transport: 'modern' })],
  ['pci modern, msi only', () => pciBench({ transport: 'modern', interrupts: 'msi' })],
];

describe.each(transports)('%s', (_name, make) => {
  it('carries chains and raises its line until acknowledged', () => {
    const b = make();
    const [ring] = up(b, split);
    expect(echoOnce(b, ring!, [1, 2, 3, 4, 5])).toEqual([5, 4, 3, 2, 1]);
    expect(b.line()).toBe(true);
    expect(b.edges()).toBe(1);
    expect(b.guest.ackInterrupt()).toBe(1);
    expect(b.line()).toBe(false);
    expect(b.guest.ackInterrupt()).toBe(0);
    expect(b.echo.starts).toBe(1);
  });

  it('reads all reset values before and after use', () => {
    const b = make();
    const look = (): unknown[] => [
      b.guest.status(),
      b.guest.queueMax(0),
      b.guest.queueMax(1),
      b.guest.queueEnabled(0),
      b.guest.generation(),
      b.guest.ackInterrupt(),
      b.guest.features(),
    ];
    const fresh = look();
    expect(fresh.slice(0, 5)).toEqual([0, 16, 16, false, 0]);
    up(b, split);
    expect(b.guest.queueEnabled(0)).toBe(true);
    b.guest.setStatus(0);
    expect(look()).toEqual(fresh);
    up(b, split);
    b.transport.reset();
    if (b.transport instanceof api.VirtioMmio) expect(look()).toEqual(fresh);
  });

  it('reads and writes device configuration in every width', () => {
    const b = make();
    b.guest.setConfig(4, 4, 0x4433_2211);
    b.guest.setConfig(8, 2, 0x6655);
    b.guest.setConfig(11, 1, 0x88);
    expect(b.guest.config(4, 4)).toBe(0x4433_2211);
    expect(b.guest.config(6, 2)).toBe(0x4433);
    expect(b.guest.config(8, 4)).toBe(0x8800_6655);
    expect(b.guest.config(5, 1)).toBe(0x22);
    expect(b.guest.config(12, 1)).toBe(0);
  });

  it('tells the driver of configuration changes, once it is up', () => {
    const b = make();
    b.echo.link.configChanged();
    expect(b.line()).toBe(false);
    up(b, split);
    const before = b.guest.generation();
    b.echo.link.configChanged();
    expect(b.line()).toBe(true);
    expect(b.guest.generation()).toBe(b.guest.legacy ? 0 : before + 1);
    expect(b.guest.ackInterrupt()).toBe(2);
    expect(b.line()).toBe(false);
  });

  it('asks for a reset when a ring breaks, and works after it', () => {
    const b = make();
    const [ring] = up(b, split);
    b.rig.ram.write16(ring!.driver + 2, 100);
    b.guest.notify(0);
    expect(b.guest.status() & 0x40).toBe(0x40);
    expect(b.guest.ackInterrupt()).toBe(2);
    expect(b.transport.counters().failures).toBe(1);
    b.guest.notify(0);
    expect(b.echo.popped).toBe(0);
    expect(echoOnce(b, up(b, split)[0]!, [7, 8])).toEqual([8, 7]);
  });

  it('keeps its old status after a reset until memory is left alone (§2.4.2)', () => {
    const b = make();
    up(b, split);
    b.echo.busyFlag = true;
    const was = b.guest.status();
    b.guest.setStatus(0);
    expect(b.guest.status()).toBe(was);
    b.echo.busyFlag = false;
    expect(b.guest.status()).toBe(0);
  });

  it('holds notifications back while paused', async () => {
    const b = make();
    const [ring] = up(b, split);
    await b.transport.pause();
    expect(echoOnce(b, ring!, [1, 2])).toBe(null);
    expect(b.echo.popped).toBe(0);
    b.transport.resume();
    expect(b.echo.popped).toBe(1);
  });

  it('goes on from saved state in the middle of a ring', async () => {
    const b = make();
    const [ring] = up(b, split);
    for (let i = 0; i < 21; i++) expect(echoOnce(b, ring!, [i, 1])).toEqual([1, i]);
    b.echo.mark = 77;
    await b.transport.pause();
    const saved = JSON.parse(JSON.stringify(b.transport.save()));
    const c = make();
    c.transport.load(saved);
    expect(c.echo.mark).toBe(77);
    expect(c.guest.status()).toBe(b.guest.status());
    expect(c.edges()).toBe(0);
    // The driver goes on with its ring; its memory is carried over and back.
    const carry = (from: Bench, to: Bench): void => to.rig.ram.load(0, from.rig.ram.readView(0, 1 << 20)!);
    expect(echoOnce(b, ring!, [9, 8])).toBe(null);
    carry(b, c);
    c.transport.resume();
    carry(c, b);
    expect(ring!.poll()?.len).toBe(2);
    expect(b.rig.ram.read16(0x48000)).toBe(0x0908);
    expect(c.transport.counters().chains).toBe(1);
  });

  it('refuses states of other versions, devices and ranges', () => {
    const b = make();
    up(b, split);
    const good = b.transport.save();
    const bad = (s: unknown, code: string): void =>
      expect(() => make().transport.load(s)).toThrow(expect.objectContaining({ code }));
    bad(null, 'STATE_VERSION');
    bad({ ...good, v: 2 }, 'STATE_VERSION');
    bad({ ...good, deviceId: 4 }, 'STATE_FORMAT');
    bad({ ...good, status: 256 }, 'STATE_FORMAT');
    bad({ ...good, queues: good.queues.slice(1) }, 'STATE_FORMAT');
    bad({ ...good, queues: good.queues.map((q) => ({ ...q, size: 3 })) }, 'STATE_FORMAT');
    bad({ ...good, queues: good.queues.map((q) => ({ ...q, areas: [1, 2] })) }, 'STATE_FORMAT');
    bad({ ...good, pciCfg: [1] }, 'STATE_FORMAT');
    expect(() => make().transport.load(good)).not.toThrow();
  });

  it('will not be saved with chains in flight', () => {
    const b = make();
    const rings = up(b, split);
    rings[1]!.add([], [{ addr: 0x40000, len: 4 }]);
    rings[1]!.kick();
    b.guest.notify(1);
    expect(() => b.transport.save()).toThrow(expect.objectContaining({ code: 'STATE_BUSY' }));
    b.echo.release([0]);
    expect(() => b.transport.save()).not.toThrow();
  });

  it('takes a queue away and gives it back', () => {
    const b = make();
    const rings = up(b, split);
    rings[1]!.add([], [{ addr: 0x40000, len: 4 }]);
    rings[1]!.kick();
    b.guest.notify(1);
    expect(b.echo.held.length).toBe(1);
    if (!b.guest.legacy) b.echo.busyFlag = true;
    b.guest.resetQueue(1);
    expect(b.guest.queueResetting(1)).toBe(!b.guest.legacy);
    b.echo.busyFlag = false;
    expect(b.guest.queueResetting(1)).toBe(false);
    expect(b.guest.queueEnabled(1)).toBe(false);
    expect(b.echo.queueResets).toEqual([1]);
    b.echo.release([0]);
    expect(rings[1]!.poll()).toBe(null);
    // The other queue never noticed.
    expect(echoOnce(b, rings[0]!, [3, 4])).toEqual([4, 3]);
    const fresh = new testing.SplitRing({ mem: b.rig.ram, base: 0x30000, size: 16 });
    b.guest.setQueue(1, fresh);
    fresh.add([], [{ addr: 0x40000, len: 4 }]);
    fresh.kick();
    b.guest.notify(1);
    b.echo.release([0]);
    expect(fresh.poll()).toEqual({ id: 0, len: 1 });
  });
});

describe('feature negotiation', () => {
  it('offers what was asked for', () => {
    expect(mmioBench(2).guest.features()).toEqual([0x3000_0005, 0x101]);
    expect(
      mmioBench(2, {
        packed: true,
        inOrder: true,
        notificationData: true,
        ringReset: false,
        indirect: false,
      }).guest.features(),
    ).toEqual([0x2000_0005, 0b100_1101]);
    expect(mmioBench(2, { eventIdx: false }).guest.features()).toEqual([0x1000_0005, 0x101]);
    // Legacy: any layout, nothing above bit 31.
    expect(mmioBench(1, { packed: true }).guest.features()).toEqual([0x3800_0005, 0]);
    expect(pciBench({ transport: 'legacy' }).guest.features()).toEqual([0x3800_0005, 0]);
  });

  it.each([
    ['without VERSION_1', 5, 0],
    ['with a low bit not offered', 2, 1],
    ['with a high bit not offered', 5, 3],
  ])('refuses FEATURES_OK %s (§3.1.1)', (_n, lo, hi) => {
    const { guest } = mmioBench(2);
    guest.setStatus(3);
    guest.accept(lo, hi);
    guest.setStatus(0xb);
    expect(guest.status()).toBe(3);
    guest.setStatus(0xf);
    expect(guest.status()).toBe(3);
  });

  it('freezes features once agreed', () => {
    const b = pciBench({ transport: 'transitional' });
    b.guest.setStatus(3);
    b.guest.accept(5, 1);
    b.guest.setStatus(0xb);
    b.guest.accept(0, 1);
    new LegacyGuest(b.fn).accept(0, 0);
    expect(b.echo.link.has(0)).toBe(true);
    expect(b.echo.link.has(32)).toBe(true);
    expect(b.echo.link.has(33)).toBe(false);
    b.guest.setStatus(3);
    expect(b.guest.status()).toBe(0xb);
  });

  it('drops bits a legacy driver was not offered', () => {
    const b = mmioBench(1);
    b.guest.accept(0xffff_ffff, 0);
    expect([0, 1, 2, 29, 31].map((n) => b.echo.link.has(n))).toEqual([true, false, true, true, false]);
  });
});

describe('pci identity', () => {
  const ids = (b: Bench): unknown => [
    pciRead(b.fn, 0, 2),
    pciRead(b.fn, 2, 2),
    pciRead(b.fn, 8, 1),
    pciRead(b.fn, 0x2c, 2),
    pciRead(b.fn, 0x2e, 2),
    pciRead(b.fn, 0x3d, 1),
  ];
  it.each([
    ['legacy', 0x1001, 0, 2],
    ['transitional', 0x1001, 0, 2],
    ['modern', 0x1042, 1, 0x1042],
  ] as const)('%s (§4.1.2)', (transport, device, revision, subsystem) => {
    expect(ids(pciBench({ transport }))).toEqual([0x1af4, device, revision, 0x1af4, subsystem, 1]);
  });

  it('has no transitional form of newer device types', () => {
    expect(new api.VirtioPci({ device: new Echo(26) }).spec.device).toBe(0x105a);
    expect(() => new api.VirtioPci({ device: new Echo(26), transport: 'transitional' })).toThrow(
      expect.objectContaining({ code: 'VIRTIO_TRANSPORT' }),
    );
  });

  it('shows five vendor capabilities, in order of preference', () => {
    const b = pciBench({ transport: 'modern' });
    const caps = pciCapabilities(b.fn, 9);
    expect(caps.map((c) => [pciRead(b.fn, c + 3, 1), pciRead(b.fn, c + 2, 1), pciRead(b.fn, c + 8, 4)])).toEqual([
      [1, 16, 0],
      [3, 16, 0x1000],
      [4, 16, 0x2000],
      [2, 20, 0x3000],
      [5, 20, 0],
    ]);
    expect(pciCapabilities(pciBench({ transport: 'legacy' }).fn, 9)).toEqual([]);
    expect(pciCapabilities(b.fn, 5)).toEqual([]);
    expect(pciCapabilities(pciBench({ interrupts: 'msi' }).fn, 5).length).toBe(1);
    expect(pciCapabilities(pciBench({ interrupts: 'msi' }).fn, 0x11).length).toBe(0);
  });
});

describe('modern common structure', () => {
  it('has reset values of its own (§4.1.4.3)', () => {
    const g = pciBench({ transport: 'modern' }).guest as ModernGuest;
    const words = Array.from({ length: 15 }, (_, i) => g.get(i * 4, 4));
    expect(words).toEqual([0, 0x3000_0005, 0, 0, 0x2_ffff, 0, 0xffff_0010, 0, 0, 0, 0, 0, 0, 0, 0]);
    g.set(0x16, 2, 1);
    expect(g.get(0x1e, 2)).toBe(1);
    expect(g.get(0x38, 2)).toBe(1);
    g.set(0x16, 2, 2);
    expect([g.get(0x18, 2), g.get(0x1c, 2), g.get(0x20, 4)]).toEqual([0, 0, 0]);
    expect([g.get(0x3c, 4), g.get(0x800, 4)]).toEqual([0, 0]);
  });

  it('takes addresses in halves and keeps them while the queue is in use', () => {
    const b = pciBench({ transport: 'modern' });
    const g = b.guest as ModernGuest;
    for (const r of [0x20, 0x28, 0x30]) {
      g.set(r, 4, 0x1000 + r);
      g.set(r + 4, 4, r);
      expect([g.get(r, 4), g.get(r + 4, 4), g.get(r + 2, 1)]).toEqual([0x1000 + r, r, 0]);
    }
    const [ring] = up(b, split);
    g.set(0x16, 2, 0);
    g.set(0x20, 4, 0);
    g.set(0x18, 2, 8);
    g.set(0x1c, 2, 0);
    expect([g.get(0x20, 4), g.get(0x18, 2), g.get(0x1c, 2)]).toEqual([ring!.desc, 16, 1]);
  });

  it('refuses queue sizes that do not exist', () => {
    const g = pciBench({ transport: 'modern' }).guest as ModernGuest;
    for (const n of [0, 17, 0xffff]) {
      g.set(0x18, 2, n);
      expect(g.get(0x18, 2)).toBe(16);
    }
    g.set(0x18, 2, 8);
    expect(g.get(0x18, 2)).toBe(8);
  });

  it('puts bytes together to registers', () => {
    const g = pciBench({ transport: 'modern' }).guest as ModernGuest;
    g.setStatus(3);
    const bytes = (offset: number, value: number, n: number): void => {
      for (let i = 0; i < n; i++) g.set(offset + i, 1, Math.floor(value / 256 ** i) & 0xff);
    };
    bytes(0x16, 1, 2);
    bytes(0x18, 8, 2);
    bytes(0x1a, 2, 2);
    bytes(0x20, 0x8765_4321, 4);
    g.set(0x24, 2, 0x10);
    g.set(0x26, 2, 0x20);
    expect([0x16, 0x18, 0x1a].map((o) => g.get(o, 2))).toEqual([1, 8, 2]);
    expect([g.get(0x20, 4), g.get(0x24, 4)]).toEqual([0x8765_4321, 0x20_0010]);
    bytes(0x1a, 0xffff, 2);
    expect(g.get(0x1a, 2)).toBe(0xffff);
    g.set(0x14, 2, 7);
    expect(g.status()).toBe(3);
    g.set(0x14, 4, 0x0001_0000);
    expect([g.status(), g.get(0x16, 2)]).toEqual([0, 1]);
  });

  it('wants a reset when a split queue is no power of two, and not before features are agreed', () => {
    const b = pciBench({ transport: 'modern' });
    const g = b.guest as ModernGuest;
    g.set(0x18, 2, 6);
    g.set(0x1c, 2, 1);
    expect([g.get(0x1c, 2), g.status()]).toEqual([0, 0]);
    g.setStatus(3);
    g.accept(0, 1);
    g.setStatus(0xb);
    g.set(0x1c, 2, 1);
    expect([g.get(0x1c, 2), g.status()]).toEqual([0, 0x4b]);
  });

  it('does nothing before DRIVER_OK, then looks into every queue', () => {
    const b = pciBench({ transport: 'modern' });
    const g = b.guest;
    g.setStatus(3);
    g.accept(0, 1);
    g.setStatus(0xb);
    const ring = new testing.SplitRing({ mem: b.rig.ram, base: 0x10000, size: 16 });
    g.setQueue(0, ring);
    ring.add([], [{ addr: 0x40000, len: 8 }]);
    ring.kick();
    g.notify(0);
    expect(b.echo.popped).toBe(0);
    g.setStatus(0xf);
    expect(b.echo.popped).toBe(1);
  });
});

describe('interrupts', () => {
  it.each(['modern', 'legacy'] as const)('MSI-X vectors of queues and configuration: %s', (transport) => {
    const b = pciBench({ transport });
    enableMsix(b.fn, 3, 0x40);
    if (b.guest instanceof ModernGuest) b.guest.set(0x10, 2, 2);
    else (b.guest as LegacyGuest).set(20, 2, 2);
    const configVector = (): number =>
      b.guest instanceof ModernGuest ? b.guest.get(0x10, 2) : (b.guest as LegacyGuest).get(20, 2);
    expect(configVector()).toBe(2);
    const rings = up(b, split, [0, 1]);
    // The reset at start took the vector away.
    expect(configVector()).toBe(0xffff);
    expect(echoOnce(b, rings[0]!, [1, 2])).toEqual([2, 1]);
    rings[1]!.add([], [{ addr: 0x40000, len: 4 }]);
    rings[1]!.kick();
    b.guest.notify(1);
    b.echo.release([0]);
    b.echo.link.configChanged();
    expect(b.rig.msis.map((m) => m.data)).toEqual([0x40, 0x41]);
    if (b.guest instanceof ModernGuest) b.guest.set(0x10, 2, 2);
    else (b.guest as LegacyGuest).set(20, 2, 2);
    b.echo.link.configChanged();
    expect(b.rig.msis.map((m) => m.data)).toEqual([0x40, 0x41, 0x42]);
    expect(b.edges()).toBe(0);
  });

  it('reads back "no vector" for one that does not exist', () => {
    const b = pciBench({ transport: 'modern' });
    const g = b.guest as ModernGuest;
    for (const r of [0x10, 0x1a]) {
      g.set(r, 2, 2);
      expect(g.get(r, 2)).toBe(2);
      g.set(r, 2, 3);
      expect(g.get(r, 2)).toBe(0xffff);
    }
  });

  it('sends the MSI message when that is what there is', () => {
    const b = pciBench({ transport: 'legacy', interrupts: 'msi' });
    const [cap] = pciCapabilities(b.fn, 5);
    pciWrite(b.fn, cap! + 4, 4, 0xfee0_1000);
    pciWrite(b.fn, cap! + 12, 2, 0x55);
    pciWrite(b.fn, cap! + 2, 2, 1);
    const [ring] = up(b, split);
    expect(echoOnce(b, ring!, [1, 2])).toEqual([2, 1]);
    expect(b.rig.msis).toEqual([{ address: 0xfee0_1000, data: 0x55 }]);
    expect(b.guest.ackInterrupt()).toBe(1);
    expect(b.edges()).toBe(0);
  });

  it('moves legacy configuration by four bytes while MSI-X is on (§4.1.4.8)', () => {
    const b = pciBench({ transport: 'legacy' });
    const g = b.guest as LegacyGuest;
    b.echo.config.set([0xaa, 0xbb, 0xcc, 0xdd]);
    expect(g.get(20, 4)).toBe(0xddcc_bbaa);
    enableMsix(b.fn, 3, 0);
    expect(g.get(20, 4)).toBe(0xffff_ffff);
    expect(g.get(24, 4)).toBe(0xddcc_bbaa);
    expect(g.get(22, 4)).toBe(0xbbaa_ffff);
  });
});

describe('legacy registers', () => {
  it('answer bytes, words and doublewords alike', () => {
    const g = pciBench({ transport: 'legacy' }).guest as LegacyGuest;
    expect([g.get(0, 4), g.get(0, 2), g.get(3, 1), g.get(12, 4), g.get(12, 2), g.get(16, 4)]).toEqual([
      0x3800_0005, 5, 0x38, 0x10, 0x10, 0,
    ]);
    g.set(12, 4, 0x0001_0000);
    expect(g.get(14, 2)).toBe(1);
    g.set(4, 4, 4);
    expect(g.get(4, 4)).toBe(4);
    g.set(8, 4, 0x123);
    expect(g.get(8, 4)).toBe(0x123);
    g.set(14, 2, 7);
    expect([g.get(12, 2), g.get(8, 4)]).toEqual([0, 0]);
    g.set(18, 1, 0);
    expect([g.get(4, 4), g.get(14, 2)]).toEqual([0, 0]);
  });
});

describe('PCI configuration access capability (§4.1.4.9)', () => {
  it('reaches every structure without the BAR', () => {
    const b = pciBench({ transport: 'transitional' });
    const cap = pciCapabilities(b.fn, 9)[4]!;
    const access = (bar: number, offset: number, length: number): void => {
      pciWrite(b.fn, cap + 4, 1, bar);
      pciWrite(b.fn, cap + 8, 4, offset);
      pciWrite(b.fn, cap + 12, 4, length);
    };
    access(4, 0x12, 2);
    expect(pciRead(b.fn, cap + 16, 2)).toBe(2);
    access(4, 0x14, 1);
    pciWrite(b.fn, cap + 16, 1, 3);
    expect(b.guest.status()).toBe(3);
    access(4, 0x08, 4);
    pciWrite(b.fn, cap + 16, 4, 1);
    expect((b.guest as ModernGuest).get(8, 4)).toBe(1);
    access(0, 18, 1);
    expect(pciRead(b.fn, cap + 16, 1)).toBe(3);
    // Windows that are no registers of ours do nothing.
    for (const [bar, offset, length] of [
      [4, 0x14, 3],
      [4, 0x15, 2],
      [4, 0x3ffe, 4],
      [4, 0xffff_fffc, 4],
      [1, 0, 4],
      [9, 0, 4],
    ] as const) {
      access(bar, offset, length);
      pciWrite(b.fn, cap + 16, 4, 0);
      pciRead(b.fn, cap + 16, 4);
      expect(b.guest.status()).toBe(3);
    }
  });
});

describe('mmio registers', () => {
  it('have the values of §4.2.2', () => {
    const { rig } = mmioBench(2);
    const get = (o: number): number => rig.cpu.read32(MMIO + o);
    expect([0x000, 0x004, 0x008, 0x00c].map(get)).toEqual([0x7472_6976, 2, 2, 0x4556_5948]);
    expect([0x0b0, 0x0b4, 0x0b8, 0x0bc].map(get)).toEqual([0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff]);
    expect([0x020, 0x030, 0x038, 0x044, 0x050, 0x060, 0x080, 0x0c0, 0x0fc].map(get)).toEqual(Array(9).fill(0));
    expect(rig.cpu.read(MMIO + 1, 1)).toBe(0x69);
    rig.cpu.write(MMIO + 0x70, 1, 3);
    expect(get(0x70)).toBe(0);
    expect(rig.irq(IRQ).edges).toBe(0);
  });

  it('take a ring away when QueueReady is cleared', () => {
    const b = mmioBench(2);
    up(b, split);
    b.rig.cpu.write32(MMIO + 0x30, 0);
    b.rig.cpu.write32(MMIO + 0x44, 0);
    expect(b.guest.queueEnabled(0)).toBe(false);
    expect(b.echo.queueResets).toEqual([0]);
  });
});

describe('host mistakes', () => {
  it('throw with a code', () => {
    const rig = mmioBench().rig;
    const echo = (o: Partial<Echo>): Echo => Object.assign(new Echo(), o);
    const make = (device: Echo): unknown => new api.VirtioMmio({ device, dma: rig.ram, irq: rig.irq(9) });
    expect(() => make(echo({ queueSizes: [12] }))).toThrow(expect.objectContaining({ code: 'VIRTIO_QUEUE' }));
    expect(() => make(echo({ queueSizes: Array(1025).fill(16) }))).toThrow(
      expect.objectContaining({ code: 'VIRTIO_QUEUE' }),
    );
    const e = new Echo();
    make(e);
    expect(() => e.link.queue(2)).toThrow(expect.objectContaining({ code: 'VIRTIO_QUEUE' }));
    expect(() => new api.VirtioPci({ device: new Echo() }).reset()).toThrow(
      expect.objectContaining({ code: 'VIRTIO_DETACHED' }),
    );
    expect(SLOT).toBe(3);
  });
});

describe('exports', () => {
  it('are these', () => {
    expect(Object.keys(api).sort()).toEqual(['DescriptorChain', 'VirtioMmio', 'VirtioPci']);
    expect(Object.keys(testing).sort()).toEqual([
      'LegacyGuest',
      'MmioGuest',
      'ModernGuest',
      'PackedRing',
      'SplitRing',
      'enableMsix',
      'pciCapabilities',
      'pciRead',
      'pciWrite',
      'ringBytes',
      'startDriver',
    ]);
  });
});
