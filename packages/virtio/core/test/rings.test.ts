import { RegionMemory, Segments } from '@hyve/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DescriptorChain, VirtioMmio } from '../src/index.ts';
import { MmioGuest, PackedRing, type RingDriver, ringBytes, SplitRing, startDriver } from '../src/testing/index.ts';
import {
  type Bench,
  DATA,
  Echo,
  EVENT_IDX,
  echoOnce,
  INDIRECT,
  MMIO,
  mmioBench,
  PACKED,
  pciBench,
  RING0,
  type RingKind,
  up,
  VERSION_1,
} from './kit.ts';

const kinds: [string, RingKind][] = [false, true].flatMap((packed) =>
  [false, true].flatMap((indirect) =>
    [false, true].map((eventIdx): [string, RingKind] => [
      `${packed ? 'packed' : 'split'}${indirect ? ' indirect' : ''}${eventIdx ? ' event-idx' : ''}`,
      { packed, indirect, eventIdx },
    ]),
  ),
);

describe.each(kinds)('%s', (_name, kind) => {
  const fresh = (): [Bench, RingDriver[]] => {
    const b = mmioBench(2, { packed: true });
    return [b, up(b, kind)];
  };

  it('carries every chain over many laps', () => {
    const [b, rings] = fresh();
    for (let i = 0; i < 200; i++) {
      const bytes = Array.from({ length: 2 + (i % 9) }, (_, k) => (i + k) & 0xff);
      expect(echoOnce(b, rings[0]!, bytes)).toEqual([...bytes].reverse());
    }
    expect(b.transport.counters().chains).toBe(200);
  });

  it('takes a full ring at once, with one interrupt for the batch', () => {
    const [b, rings] = fresh();
    const ring = rings[0]!;
    let n = 0;
    while (ring.add([{ addr: DATA, len: 4 }], [{ addr: DATA + 0x100 + n * 16, len: 4 }]) >= 0) n++;
    expect(n).toBe(kind.indirect ? 16 : 8);
    if (ring.kick()) b.guest.notify(0);
    let used = 0;
    while (ring.poll() !== null) used++;
    expect(used).toBe(n);
    expect(b.transport.counters().interrupts).toBe(1);
  });

  it('gives chains back in any order', () => {
    const [b, rings] = fresh();
    const ring = rings[1]!;
    for (let lap = 0; lap < 30; lap++) {
      const ids = [0, 1, 2, 3, 4].map((i) => ring.add([{ addr: DATA, len: 1 + i }], [{ addr: DATA, len: 8 }]));
      ring.kick();
      b.guest.notify(1);
      expect(b.echo.held.length).toBe(5);
      b.echo.release([3, 0, 4, 2, 1]);
      b.echo.held = [];
      expect([0, 1, 2, 3, 4].map(() => ring.poll())).toEqual([3, 0, 4, 2, 1].map((i) => ({ id: ids[i], len: i + 1 })));
    }
  });

  it('interrupts only when the driver wants it', () => {
    const [b, rings] = fresh();
    const ring = rings[0]!;
    ring.wantInterrupts(false);
    for (let i = 0; i < 3; i++) expect(echoOnce(b, ring, [1, 2])).toEqual([2, 1]);
    expect(b.edges()).toBe(0);
    expect(b.transport.counters().interruptsSuppressed).toBe(3);
    ring.wantInterrupts(true);
    expect(echoOnce(b, ring, [1, 2])).toEqual([2, 1]);
    expect(b.edges()).toBe(1);
  });

  it('interrupts at the very chain the driver named, over many laps', () => {
    if (!kind.eventIdx) return;
    const [b, rings] = fresh();
    const ring = rings[0]!;
    for (let i = 0; i < 100; i++) {
      ring.wantInterrupts(true);
      expect(echoOnce(b, ring, [1, 2])).toEqual([2, 1]);
      expect(b.guest.ackInterrupt()).toBe(1);
      expect(b.line()).toBe(false);
    }
    expect(b.transport.counters().interruptsSuppressed).toBe(0);
  });

  it('is told of new chains only when it asked', () => {
    const [b, rings] = fresh();
    const ring = rings[0]!;
    for (let i = 0; i < 50; i++) {
      ring.add([{ addr: DATA, len: 1 }], [{ addr: DATA + 0x100, len: 1 }]);
      expect(ring.kick()).toBe(true);
      ring.add([{ addr: DATA, len: 1 }], [{ addr: DATA + 0x200, len: 1 }]);
      expect(ring.kick()).toBe(!kind.eventIdx);
      b.guest.notify(0);
      expect([ring.poll()?.len, ring.poll()?.len]).toEqual([1, 1]);
    }
  });

  it('leaves out buffers of no length', () => {
    const [b, rings] = fresh();
    b.rig.ram.write16(DATA, 0x0201);
    rings[0]!.add(
      [
        { addr: 2 ** 51, len: 0 },
        { addr: DATA, len: 2 },
      ],
      [
        { addr: 0, len: 0 },
        { addr: DATA + 16, len: 2 },
        { addr: 0, len: 0 },
      ],
    );
    rings[0]!.kick();
    b.guest.notify(0);
    expect(rings[0]!.poll()?.len).toBe(2);
    expect(b.rig.ram.read16(DATA + 16)).toBe(0x0102);
  });

  it('puts answers in order when that was agreed (VIRTIO_F_IN_ORDER)', () => {
    const b = mmioBench(2, { packed: true, inOrder: true });
    const ring = up(b, kind)[1]!;
    const ids = [0, 1, 2].map((i) => ring.add([{ addr: DATA, len: 1 + i }], [{ addr: DATA, len: 8 }]));
    ring.kick();
    b.guest.notify(1);
    b.echo.release([2]);
    expect(ring.poll()).toBe(null);
    b.echo.release([0]);
    expect(ring.poll()).toEqual({ id: ids[0], len: 1 });
    expect(ring.poll()).toBe(null);
    b.echo.release([1]);
    expect([ring.poll(), ring.poll()]).toEqual([
      { id: ids[1], len: 2 },
      { id: ids[2], len: 3 },
    ]);
  });

  it.each([
    ['ends where memory ends', [{ addr: (1 << 20) - 2, len: 4 }], [{ addr: DATA, len: 4 }]],
    ['lies over 2^32', [{ addr: 2 ** 40, len: 4 }], [{ addr: DATA, len: 4 }]],
    ['goes into nothing', [{ addr: DATA, len: 4 }], [{ addr: 2 ** 33, len: 4 }]],
  ])('survives a buffer that %s', (_n, readable, writable) => {
    const [b, rings] = fresh();
    rings[0]!.add(readable, writable);
    rings[0]!.kick();
    b.guest.notify(0);
    expect(rings[0]!.poll()).not.toBe(null);
    expect(b.guest.status() & 0x40).toBe(0);
    expect(echoOnce(b, rings[0]!, [1, 2])).toEqual([2, 1]);
  });

  it.each([
    ['address over 2^52', [{ addr: 2 ** 52, len: 4 }], [{ addr: DATA, len: 4 }]],
    [
      'too many buffers',
      Array.from({ length: 40 }, () => ({ addr: DATA, len: 1 })),
      Array.from({ length: 24 + 1 }, () => ({ addr: DATA, len: 1 })),
    ],
  ])('stops at an %s', (_n, readable, writable) => {
    if (readable.length > 16 && !kind.indirect) return;
    const [b, rings] = fresh();
    rings[0]!.add(readable, writable);
    rings[0]!.kick();
    b.guest.notify(0);
    expect(b.guest.status() & 0x40).toBe(0x40);
    expect(b.echo.popped).toBe(0);
    expect(b.guest.ackInterrupt()).toBe(2);
    expect(echoOnce(b, up(b, kind)[0]!, [1, 2])).toEqual([2, 1]);
  });
});

describe('split rings', () => {
  it('go on when indices wrap at 65535', () => {
    const b = mmioBench(2);
    const ring = up(b, { packed: false, indirect: false, eventIdx: true })[1]!;
    for (let i = 0; i < 65536 / 4 + 10; i++) {
      for (let k = 0; k < 4; k++) ring.add([], [{ addr: DATA, len: 4 }]);
      if (ring.kick()) b.guest.notify(1);
      b.echo.release([1, 0, 3, 2]);
      b.echo.held = [];
      for (let k = 0; k < 4; k++) if (ring.poll() === null) throw new Error(`lost at ${i}`);
    }
    expect(b.transport.counters().chains).toBe(65536 + 40);
    expect(b.guest.status() & 0x40).toBe(0);
  });

  /** Writes a descriptor by hand. */
  const desc = (b: Bench, at: number, addr: number, len: number, flags: number, next: number): void => {
    b.rig.ram.write32(at, addr);
    b.rig.ram.write32(at + 4, 0);
    b.rig.ram.write32(at + 8, len);
    b.rig.ram.write16(at + 12, flags);
    b.rig.ram.write16(at + 14, next);
  };
  const TABLE = 0x60000;
  const cases: [string, (b: Bench) => void][] = [
    ['a loop of one', (b) => desc(b, RING0, DATA, 4, 1, 0)],
    [
      'a loop of two',
      (b) => {
        desc(b, RING0, DATA, 4, 1, 1);
        desc(b, RING0 + 16, DATA, 4, 1, 0);
      },
    ],
    ['a loop of empty buffers', (b) => desc(b, RING0, DATA, 0, 1, 0)],
    ['a next index outside the queue', (b) => desc(b, RING0, DATA, 4, 1, 16)],
    ['a head outside the queue', (b) => b.rig.ram.write16(RING0 + 16 * 16 + 4, 16)],
    [
      'readable after writable',
      (b) => {
        desc(b, RING0, DATA, 4, 3, 1);
        desc(b, RING0 + 16, DATA, 4, 0, 0);
      },
    ],
    [
      'an indirect table in an indirect table',
      (b) => {
        desc(b, RING0, TABLE, 32, 4, 0);
        desc(b, TABLE, TABLE, 32, 4, 0);
      },
    ],
    [
      'a loop in an indirect table',
      (b) => {
        desc(b, RING0, TABLE, 32, 4, 0);
        desc(b, TABLE, DATA, 4, 1, 1);
        desc(b, TABLE + 16, DATA, 4, 1, 0);
      },
    ],
    [
      'an index outside an indirect table',
      (b) => {
        desc(b, RING0, TABLE, 32, 4, 0);
        desc(b, TABLE, DATA, 4, 1, 2);
      },
    ],
    ['an indirect table of no length', (b) => desc(b, RING0, TABLE, 0, 4, 0)],
    ['an indirect table of 17 bytes', (b) => desc(b, RING0, TABLE, 17, 4, 0)],
    ['an indirect table of 4 GiB', (b) => desc(b, RING0, TABLE, 0xffff_fff0, 4, 0)],
    ['an indirect descriptor with a successor', (b) => desc(b, RING0, TABLE, 16, 5, 0)],
    ['an index that jumped', (b) => b.rig.ram.write16(RING0 + 16 * 16 + 2, 17)],
    ['an index that went back', (b) => b.rig.ram.write16(RING0 + 16 * 16 + 2, 0xffff)],
  ];
  it.each(cases)('ask for a reset at %s', (_n, spoil) => {
    const b = mmioBench(2);
    const ring = up(b, { packed: false, indirect: true, eventIdx: false })[0]!;
    b.rig.ram.write16(ring.driver + 2, 1);
    spoil(b);
    b.guest.notify(0);
    expect([b.guest.status(), b.echo.popped, b.guest.ackInterrupt()]).toEqual([0x4f, 0, 2]);
    expect(echoOnce(b, up(b, { packed: false, indirect: false, eventIdx: false })[0]!, [1, 2])).toEqual([2, 1]);
  });

  it('refuse indirect tables that were not agreed on', () => {
    const b = mmioBench(2);
    const ring = up(b, { packed: false, indirect: false, eventIdx: false })[0]!;
    desc(b, RING0, TABLE, 16, 4, 0);
    b.rig.ram.write16(ring.driver + 2, 1);
    b.guest.notify(0);
    expect(b.guest.status()).toBe(0x4f);
  });

  it('take an indirect table after direct descriptors (§2.7.5.3.2)', () => {
    const b = mmioBench(2);
    const ring = up(b, { packed: false, indirect: true, eventIdx: false })[0]!;
    b.rig.ram.write16(DATA, 0x0201);
    desc(b, RING0, DATA, 1, 1, 1);
    desc(b, RING0 + 16, TABLE, 32, 4, 0);
    desc(b, TABLE, DATA + 1, 1, 1, 1);
    desc(b, TABLE + 16, DATA + 16, 2, 2, 0);
    b.rig.ram.write16(ring.driver + 2, 1);
    b.guest.notify(0);
    expect(b.rig.ram.read32(DATA + 16)).toBe(0x0102);
    expect(b.rig.ram.read32(ring.device + 8)).toBe(2);
  });
});

describe('packed rings', () => {
  const desc = (b: Bench, at: number, addr: number, len: number, id: number, flags: number): void => {
    b.rig.ram.write32(at, addr);
    b.rig.ram.write32(at + 4, 0);
    b.rig.ram.write32(at + 8, len);
    b.rig.ram.write16(at + 12, id);
    b.rig.ram.write16(at + 14, flags);
  };
  const TABLE = 0x60000;
  const AVAIL = 0x80;
  const cases: [string, (b: Bench) => void][] = [
    [
      'a chain that never ends',
      (b) => {
        for (let i = 0; i < 16; i++) desc(b, RING0 + i * 16, DATA, 4, 0, AVAIL | 1);
      },
    ],
    [
      'an indirect descriptor inside a chain',
      (b) => {
        desc(b, RING0, DATA, 4, 0, AVAIL | 1);
        desc(b, RING0 + 16, TABLE, 16, 0, AVAIL | 4);
      },
    ],
    ['an indirect descriptor with a successor', (b) => desc(b, RING0, TABLE, 16, 0, AVAIL | 5)],
    [
      'an indirect table in an indirect table',
      (b) => {
        desc(b, RING0, TABLE, 16, 0, AVAIL | 4);
        desc(b, TABLE, TABLE, 16, 0, 4);
      },
    ],
    ['an indirect table of 24 bytes', (b) => desc(b, RING0, TABLE, 24, 0, AVAIL | 4)],
    ['an indirect table of 4 GiB', (b) => desc(b, RING0, TABLE, 0xffff_fff0, 0, AVAIL | 4)],
    [
      'readable after writable',
      (b) => {
        desc(b, RING0, DATA, 4, 0, AVAIL | 3);
        desc(b, RING0 + 16, DATA, 4, 0, AVAIL);
      },
    ],
  ];
  it.each(cases)('ask for a reset at %s', (_n, spoil) => {
    const b = mmioBench(2, { packed: true });
    up(b, { packed: true, indirect: true, eventIdx: false });
    spoil(b);
    b.guest.notify(0);
    expect([b.guest.status(), b.echo.popped]).toEqual([0x4f, 0]);
    expect(echoOnce(b, up(b, { packed: true, indirect: false, eventIdx: false })[0]!, [1, 2])).toEqual([2, 1]);
  });

  it('do not take more descriptors than they have', () => {
    const b = mmioBench(2, { packed: true });
    up(b, { packed: true, indirect: false, eventIdx: false });
    // The whole queue is with the device; the driver pretends to have given more.
    for (let i = 0; i < 16; i++) desc(b, RING0 + 0x10000 + i * 16, DATA, 4, i, AVAIL);
    b.guest.notify(1);
    expect(b.echo.held.length).toBe(16);
    for (let i = 0; i < 16; i++) desc(b, RING0 + 0x10000 + i * 16, DATA, 4, i, 0x8000);
    b.guest.notify(1);
    expect(b.echo.held.length).toBe(16);
    expect(b.guest.status()).toBe(0x4f);
  });

  it('may have a size that is no power of two', () => {
    const b = mmioBench(2, { packed: true });
    for (const eventIdx of [false, true]) {
      const rings = up(b, { packed: true, indirect: false, eventIdx }, undefined, 13);
      for (let i = 0; i < 60; i++) expect(echoOnce(b, rings[0]!, [i, 3])).toEqual([3, i]);
    }
  });
});

describe('chains', () => {
  const chain = (segments: [number, number, boolean][]): DescriptorChain => {
    const c = new DescriptorChain(8);
    c.begin();
    for (const [a, n, w] of segments) expect(c.append(a, 0, n, w)).toBe(null);
    return c;
  };
  const two = RegionMemory.allocate([
    { base: 0, size: 0x3000, kind: 'ram', name: 'low' },
    { base: 0x3000, size: 0x5000, kind: 'ram', name: 'high' },
    { base: 0x8000, size: 0x1000, kind: 'rom', name: 'rom' },
  ]);

  it('give views that cross from one region into the next', () => {
    const list = new Segments();
    list.begin(true);
    const c = chain([
      [0x2ff0, 0x20, true],
      [0x1004, 0x6ff0, true],
    ]);
    expect(c.writeViews(two, 8, 0x7008, list)).toBe(true);
    expect(list.views.map((v) => v.length)).toEqual([8, 0x10, 0x1ffc, 0x4ff4]);
    expect(list.addrs).toEqual([0x2ff8, 0x3000, 0x1004, 0x3000]);
    expect(list.bytes).toBe(0x7008);
    list.begin(true);
    expect(c.writeViews(two, 8, 0x7009, list)).toBe(false);
  });

  it('do not write into what is read-only, nor read past the end', () => {
    const list = new Segments();
    list.begin(true);
    expect(chain([[0x7ff0, 0x20, true]]).writeViews(two, 0, 0x20, list)).toBe(false);
    list.begin(false);
    expect(chain([[0x7ff0, 0x20, false]]).readViews(two, 0, 0x20, list)).toBe(true);
    list.begin(false);
    expect(chain([[0x8ff0, 0x20, false]]).readViews(two, 0, 0x20, list)).toBe(false);
    expect(chain([[0x8ff0, 0x20, false]]).copyOut(two, 0, new Uint8Array(0x20))).toBe(-1);
    expect(chain([[0x7ff8, 0x20, true]]).copyIn(two, 0, new Uint8Array(0x20))).toBe(-1);
  });

  it('copy at any offset, as views do', () => {
    const parts = fc.array(fc.record({ a: fc.integer({ min: 0, max: 0x7f00 }), n: fc.integer({ min: 1, max: 90 }) }), {
      minLength: 1,
      maxLength: 6,
    });
    fc.assert(
      fc.property(parts, fc.nat(300), fc.nat(300), (segments, offset, n) => {
        const read = chain(segments.map((s) => [s.a, s.n, false]));
        const bytes = segments.flatMap((s) => Array.from({ length: s.n }, (_, i) => (s.a + i) * 7 + 1));
        for (const s of segments) for (let i = 0; i < s.n; i++) two.write8(s.a + i, (s.a + i) * 7 + 1);
        const want = bytes.slice(offset, offset + n).map((v) => v & 0xff);
        const into = new Uint8Array(n);
        expect(read.copyOut(two, offset, into)).toBe(want.length);
        expect([...into.subarray(0, want.length)]).toEqual(want);
        const list = new Segments();
        list.begin(false);
        expect(read.readViews(two, offset, n, list)).toBe(want.length === n);
        // A list that came out short is of no use.
        if (want.length === n) expect(list.views.flatMap((v) => [...v])).toEqual(want);
        const word = [0, 1, 2, 3].map((i) => (bytes[offset + i] ?? 0) & 0xff);
        expect(read.readable32(two, offset)).toBe(new DataView(new Uint8Array(word).buffer).getUint32(0, true));
        const write = chain(segments.map((s) => [s.a, s.n, true]));
        expect(write.copyIn(two, offset, new Uint8Array(n))).toBe(want.length);
        expect(write.writableAddress(bytes.length)).toBe(-1);
        expect(write.writableAddress(0)).toBe(segments[0]!.a);
      }),
      { numRuns: 60 },
    );
  });
});

describe('hostile guests', () => {
  const word = fc.integer({ min: 0, max: 0xffff });
  /** Descriptor words that are likely to be followed. */
  const hostileDesc = fc.record({
    addr: fc.oneof(fc.integer({ min: 0, max: 0x10_0000 }), fc.constantFrom(RING0, RING0 + 0x1000, 0xffff_fff0)),
    hi: fc.oneof(
      { weight: 8, arbitrary: fc.constant(0) },
      { weight: 1, arbitrary: fc.constantFrom(1, 0xf_ffff, 0xffff_ffff) },
    ),
    len: fc.oneof(fc.integer({ min: 0, max: 64 }), fc.constantFrom(16, 32, 160, 0x1000, 0xffff_ffff)),
    low: fc.oneof(fc.integer({ min: 0, max: 20 }), word),
    high: fc.oneof(fc.integer({ min: 0, max: 20 }), fc.constantFrom(0x80, 0x81, 0x82, 0x84, 0x8000, 0x8001), word),
  });

  it.each([false, true])('with random rings neither throw nor hang, and a reset helps (packed: %s)', (packed) => {
    const b = mmioBench(2, { packed: true });
    const kind = { packed, indirect: true, eventIdx: true };
    fc.assert(
      fc.property(
        fc.array(hostileDesc, { minLength: 16, maxLength: 32 }),
        fc.array(word, { minLength: 20, maxLength: 20 }),
        fc.array(fc.oneof(fc.integer({ min: 0, max: 16 }), word), { minLength: 1, maxLength: 6 }),
        (descs, heads, indices) => {
          const ring = up(b, kind)[0]!;
          const before = b.echo.popped;
          descs.forEach((d, i) => {
            const at = RING0 + i * 16;
            b.rig.ram.write32(at, d.addr);
            b.rig.ram.write32(at + 4, d.hi);
            b.rig.ram.write32(at + 8, d.len);
            // Flags come first in split descriptors and last in packed ones.
            b.rig.ram.write16(at + 12, packed ? d.low : d.high & 0xff7f);
            b.rig.ram.write16(at + 14, packed ? d.high : d.low);
          });
          if (!packed)
            heads.forEach((h, i) => {
              b.rig.ram.write16(ring.driver + 4 + i * 2, i % 3 === 0 ? h : h & 15);
            });
          for (const idx of indices) {
            if (!packed) b.rig.ram.write16(ring.driver + 2, idx);
            b.guest.notify(0);
          }
          expect(b.echo.popped - before).toBeLessThan(16 * 8);
          expect(echoOnce(b, up(b, { ...kind, indirect: false })[0]!, [1, 2, 3])).toEqual([3, 2, 1]);
        },
      ),
      { numRuns: 150 },
    );
  });

  it.each([
    ['mmio v2', (): Bench => mmioBench(2, { packed: true, inOrder: true })],
    ['mmio v1', (): Bench => mmioBench(1)],
    ['pci', (): Bench => pciBench({ transport: 'transitional', packed: true })],
  ])('with random register writes: %s', (name, make) => {
    const width = fc.constantFrom(1 as const, 2 as const, 4 as const);
    const access = fc.record({
      area: fc.nat(4),
      offset: fc.nat(0x1ff),
      width,
      value: fc.oneof(fc.constantFrom(0, 1, 3, 0xb, 0xf, 4096), fc.integer({ min: 0, max: 0xffff_ffff })),
    });
    const b = make();
    const bar0 = name === 'pci' ? b.fn.pio : null;
    fc.assert(
      fc.property(fc.array(access, { maxLength: 60 }), (list) => {
        for (const { area, offset, width: w, value } of list) {
          const v = w === 4 ? value : value % 2 ** (8 * w);
          if (bar0 === null) {
            b.rig.cpu.write(MMIO + offset, w, v);
            b.rig.cpu.read(MMIO + ((offset * 7) & 0x1ff), w);
            continue;
          }
          const slot = b.transport as import('../src/index.ts').VirtioPci;
          const base = [0, 0, 0x1000, 0x2000, 0x3000][area]!;
          if (area === 0) slot.barWrite(0, offset & 0x3f, w, v);
          else slot.barWrite(4, base + (offset & 0x7f), w, v);
          for (const r of [slot.barRead(0, offset & 0x3f, w), slot.barRead(4, base + (offset & 0x7f), w)])
            if (!(Number.isInteger(r) && r >= 0 && r < 2 ** (8 * w))) throw new Error(`read ${r}`);
        }
        const saved = b.transport.save();
        b.transport.load(saved);
        expect(b.transport.save()).toEqual(saved);
        b.transport.reset();
        const kind = { packed: false, indirect: false, eventIdx: false };
        expect(echoOnce(b, up(b, kind)[0]!, [1, 2, 3])).toEqual([3, 2, 1]);
      }),
      { numRuns: 150 },
    );
  });

  it('sees all ones while bus mastering is off, and lives', () => {
    const b = pciBench({ transport: 'modern' });
    const [ring] = up(b, { packed: false, indirect: false, eventIdx: false });
    const { pio } = b.fn;
    pio.write(0xcf8, 4, 0x8000_1804);
    pio.write(0xcfc, 2, 3);
    expect(echoOnce(b, ring!, [1, 2])).toBe(null);
    pio.write(0xcf8, 4, 0x8000_1804);
    pio.write(0xcfc, 2, 7);
    expect(echoOnce(b, up(b, { packed: false, indirect: false, eventIdx: false })[0]!, [1, 2])).toEqual([2, 1]);
  });
});

describe('sizes', () => {
  it('up to 32768 descriptors work', () => {
    const ram = RegionMemory.allocate([{ base: 0, size: 64 << 20, kind: 'ram', name: 'ram' }]);
    const b = mmioBench(2);
    const echo = new Echo();
    Object.assign(echo, { queueSizes: [32768] });
    b.rig.mmio.claim(
      MMIO + 0x1000,
      0x200,
      new VirtioMmio({ device: echo, dma: ram, irq: b.rig.irq(7), packed: true }),
      { name: 'big' },
    );
    const guest = new MmioGuest(b.rig.mmio, MMIO + 0x1000);
    for (const packed of [false, true]) {
      const o = { mem: ram, base: 0, size: 32768, eventIdx: true };
      expect(ringBytes(32768)).toBeLessThan(48 << 20);
      const ring = packed ? new PackedRing(o) : new SplitRing(o);
      startDriver(guest, [INDIRECT + EVENT_IDX, VERSION_1 + (packed ? PACKED : 0)], [ring]);
      for (let i = 0; i < 10; i++) {
        for (let k = 0; k < 8000; k++) ring.add([], [{ addr: 50 << 20, len: 4 }]);
        ring.kick();
        guest.notify(0);
        for (let k = 0; k < 8000; k++) if (ring.poll() === null) throw new Error(`lost ${k}`);
      }
    }
    expect(echo.popped).toBe(160000);
  });
});
