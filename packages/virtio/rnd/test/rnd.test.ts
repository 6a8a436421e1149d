import type { EntropySource } from '@hyve/core';
import { PciBus, PirqRouter } from '@hyve/pci';
import { createRig, type Rig } from '@hyve/testkit';
import { VirtioMmio, VirtioPci } from '@hyve/virtio';
import { LegacyGuest, MmioGuest, PackedRing, type RingDriver, SplitRing, startDriver } from '@hyve/virtio/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { VirtioRnd, type VirtioRndOptions } from '../src/index.ts';

/** Bytes 1, 2, 3 … over and over, never 0. */
class Counting implements EntropySource {
  next = 0;
  calls = 0;
  broken = false;
  fill(bytes: Uint8Array): void {
    if (this.broken) throw new Error('no entropy');
    this.calls++;
    for (let i = 0; i < bytes.length; i++) bytes[i] = (this.next++ % 255) + 1;
  }
}

const MMIO = 0xd000_0000;
const DATA = 0x8_0000;

interface Bench {
  rig: Rig;
  source: Counting;
  rnd: VirtioRnd;
  mmio: VirtioMmio;
  guest: MmioGuest;
}

function bench(make: (rig: Rig) => Partial<VirtioRndOptions> = () => ({})): Bench {
  const rig = createRig();
  const source = new Counting();
  const rnd = new VirtioRnd({ source, ...make(rig) });
  const mmio = new VirtioMmio({ device: rnd, dma: rig.ram, irq: rig.irq(1), packed: true });
  rig.mmio.claim(MMIO, 0x200, mmio, { name: 'virtio0' });
  return { rig, source, rnd, mmio, guest: new MmioGuest(rig.mmio, MMIO) };
}

function up(b: Bench, packed = false): RingDriver {
  const o = { mem: b.rig.ram, base: 0x1_0000, size: 64 };
  const ring = packed ? new PackedRing(o) : new SplitRing(o);
  startDriver(b.guest, [0, packed ? 5 : 1], [ring]);
  return ring;
}

function ask(b: Bench, ring: RingDriver, ...lens: number[]): void {
  ring.add(
    [],
    lens.map((len, i) => ({ addr: DATA + i * 0x1_0000, len })),
  );
  ring.kick();
  b.guest.notify(0);
}

describe('virtio-rnd (§5.4)', () => {
  it('has the identity of an entropy device', () => {
    const { rnd, guest } = bench();
    expect([rnd.deviceId, rnd.queueSizes, guest.features()[0] & 0xff_ffff, guest.config(0, 4)]).toEqual([
      4,
      [64],
      0,
      0,
    ]);
    expect(guest.get(8)).toBe(4);
    expect(new VirtioPci({ device: bench().rnd }).spec).toMatchObject({
      vendor: 0x1af4,
      device: 0x1005,
      subsystem: 4,
      classCode: 0x10_00_00,
    });
  });

  it.each([false, true])('fills buffers (packed: %s)', (packed) => {
    const b = bench();
    const ring = up(b, packed);
    for (let i = 0; i < 100; i++) {
      b.rig.ram.fill(DATA, 80, 0);
      ask(b, ring, 64);
      expect(ring.poll()?.len).toBe(64);
      expect(b.rig.ram.readView(DATA, 64)!.every((v) => v !== 0)).toBe(true);
      expect(b.rig.ram.read8(DATA + 64)).toBe(0);
    }
    expect(b.mmio.counters()).toMatchObject({ requests: 100, bytes: 6400 });
    expect(b.rig.irq(1).edges).toBe(1);
  });

  it('fills several buffers of one request, larger than its scratch', () => {
    const b = bench();
    const ring = up(b);
    ask(b, ring, 1, 10000, 7);
    expect(ring.poll()?.len).toBe(10008);
    expect([b.rig.ram.read8(DATA), b.rig.ram.read8(DATA + 0x1_0000), b.rig.ram.read8(DATA + 0x2_0000)]).toEqual([
      1,
      2,
      (10001 % 255) + 1,
    ]);
  });

  it('gives no request more than its most', () => {
    const b = bench(() => ({ maxBytes: 100 }));
    const ring = up(b);
    ask(b, ring, 64, 64);
    expect(ring.poll()?.len).toBe(100);
    const c = bench();
    const other = up(c);
    other.add([], [{ addr: 0, len: 0xffff_ffff }]);
    other.kick();
    c.guest.notify(0);
    // Where memory ends, so does the answer.
    expect(other.poll()?.len ?? 0).toBeLessThanOrEqual(65536);
  });

  it.each([
    ['nothing to write into', [{ addr: DATA, len: 8 }], []],
    ['no memory there', [], [{ addr: 2 ** 33, len: 8 }]],
  ])('answers a request with %s by nothing', (_n, readable, writable) => {
    const b = bench();
    const ring = up(b);
    ring.add(readable, writable);
    ring.kick();
    b.guest.notify(0);
    expect(ring.poll()).toEqual({ id: 0, len: 0 });
    expect(b.mmio.counters().malformed).toBe(1);
    ask(b, ring, 4);
    expect(ring.poll()?.len).toBe(4);
  });

  it('answers nothing while its source is broken', () => {
    const b = bench();
    const ring = up(b);
    b.source.broken = true;
    ask(b, ring, 8);
    expect(ring.poll()?.len).toBe(0);
    expect(b.mmio.counters().sourceErrors).toBe(1);
    b.source.broken = false;
    ask(b, ring, 8);
    expect(ring.poll()?.len).toBe(8);
  });

  it('takes a full ring, and goes on in the next turn', async () => {
    const b = bench();
    const ring = up(b);
    for (let i = 0; i < 64; i++) ring.add([], [{ addr: DATA, len: 8 }]);
    ring.kick();
    b.guest.notify(0);
    let n = 0;
    while (ring.poll() !== null) n++;
    expect(n).toBe(64);
    // A driver that does not notify because the device looked busy.
    ring.add([], [{ addr: DATA, len: 8 }]);
    ring.kick();
    await Promise.resolve();
    expect(ring.poll()?.len).toBe(8);
  });
});

describe('rate limit', () => {
  const SECOND = 1e9;
  const limited = (burst = 128): Bench => bench((rig) => ({ rate: { bytesPerSecond: 1000, burst, clock: rig.clock } }));

  it('lets a burst through, then so many bytes a second', () => {
    const b = limited();
    const ring = up(b);
    ask(b, ring, 100);
    expect(ring.poll()?.len).toBe(100);
    // 28 bytes are left, less than anybody is fed with.
    ask(b, ring, 100);
    expect(ring.poll()).toBe(null);
    b.rig.clock.advance(0.035 * SECOND);
    expect(ring.poll()).toBe(null);
    b.rig.clock.advance(0.002 * SECOND);
    expect(ring.poll()?.len).toBe(64);
    let got = 0;
    for (let i = 0; i < 100; i++) {
      ask(b, ring, 64);
      b.rig.clock.advance(0.1 * SECOND);
      for (let u = ring.poll(); u !== null; u = ring.poll()) got += u.len;
    }
    expect(got).toBeGreaterThan(5000);
    expect(got).toBeLessThanOrEqual(10_128);
    expect(b.mmio.counters().throttled).toBeGreaterThan(0);
  });

  it('gives one byte at a time if the burst is one byte', () => {
    const b = limited(1);
    const ring = up(b);
    ask(b, ring, 100);
    expect(ring.poll()?.len).toBe(1);
    ask(b, ring, 100);
    b.rig.clock.advance(0.001 * SECOND);
    expect(ring.poll()?.len).toBe(1);
  });

  it('is not got around by resets', () => {
    const b = limited();
    ask(b, up(b), 128);
    const ring = up(b);
    ask(b, ring, 128);
    expect(ring.poll()).toBe(null);
    b.mmio.reset();
    expect(b.rig.clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
  });

  it('sleeps while paused, and is saved', async () => {
    const b = limited();
    const ring = up(b);
    ask(b, ring, 128);
    ring.poll();
    ask(b, ring, 128);
    await b.mmio.pause();
    b.rig.clock.advance(SECOND);
    expect(ring.poll()).toBe(null);
    expect((b.mmio.save().device as { tokens: number }).tokens).toBe(0);
    b.mmio.resume();
    expect(ring.poll()?.len).toBe(128);
    const c = limited();
    c.mmio.load({ ...c.mmio.save(), device: { v: 1, tokens: 1000 } });
    expect((c.mmio.save().device as { tokens: number }).tokens).toBe(128);
    for (const [device, code] of [
      [null, 'STATE_VERSION'],
      [{ v: 1, tokens: -1 }, 'STATE_FORMAT'],
    ] as const)
      expect(() => c.mmio.load({ ...c.mmio.save(), device })).toThrow(expect.objectContaining({ code }));
  });

  it('keeps no account where there is no limit: what it saves, it loads', () => {
    const b = bench();
    ask(b, up(b), 64, 64);
    const state = b.mmio.save();
    expect((state.device as { tokens: number }).tokens).toBe(0);
    bench().mmio.load(state);
  });

  it('must let something through', () => {
    const clock = createRig().clock;
    for (const o of [
      { maxBytes: 0 },
      { rate: { bytesPerSecond: 0, clock } },
      { rate: { bytesPerSecond: 10, burst: 0, clock } },
    ])
      expect(() => bench(() => o)).toThrow(expect.objectContaining({ code: 'VIRTIO_RND' }));
  });
});

describe('behind the PCI bus', () => {
  it('works for a legacy driver on INTx', () => {
    const rig = createRig();
    const ioapic = { connect: () => rig.irq(7) };
    const router = new PirqRouter({ pic: { connect: () => rig.irq(0) }, ioapic, reserved: [] });
    const pci = new PciBus({ pio: rig.pio, mmio: rig.mmio, dma: rig.ram, msi: rig.msiSink, router });
    pci.attach(new VirtioPci({ device: new VirtioRnd({ source: new Counting() }), transport: 'legacy' }), { slot: 5 });
    pci.assign();
    const guest = new LegacyGuest({ pio: rig.pio, mmio: rig.mmio, slot: 5 });
    const ring = new SplitRing({ mem: rig.ram, base: 0x1_0000, size: 64 });
    startDriver(guest, [0, 0], [ring]);
    ring.add([], [{ addr: DATA, len: 32 }]);
    ring.kick();
    guest.notify(0);
    expect([ring.poll()?.len, rig.irq(7).high, guest.ackInterrupt(), rig.irq(7).high]).toEqual([32, true, 1, false]);
  });
});

describe('hostile guests', () => {
  it('neither throw nor hang, and a reset helps', () => {
    const b = bench((rig) => ({ rate: { bytesPerSecond: 1e6, burst: 1e6, clock: rig.clock } }));
    const buffer = fc.record({
      addr: fc.oneof(fc.integer({ min: 0, max: 1 << 20 }), fc.constantFrom(2 ** 33, 2 ** 51, 2 ** 52)),
      len: fc.oneof(fc.integer({ min: 0, max: 5000 }), fc.constantFrom(0xffff_ffff, 1 << 20)),
    });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.array(buffer, { maxLength: 2 }), fc.array(buffer, { maxLength: 4 })), { maxLength: 10 }),
        fc.boolean(),
        fc.nat(1000),
        (list, packed, ms) => {
          const ring = up(b, packed);
          for (const [readable, writable] of list) {
            ring.add(readable, writable);
            ring.kick();
            b.guest.notify(0);
          }
          b.rig.clock.advance(ms * 1e6 + 2e9);
          const again = up(b, packed);
          ask(b, again, 16);
          expect(again.poll()?.len).toBe(16);
        },
      ),
      { numRuns: 100 },
    );
  });
});

describe('exports', () => {
  it('are these', () => {
    expect(Object.keys(api)).toEqual(['VirtioRnd']);
  });
});
