import { PciBus, PirqRouter } from '@hyve/pci';
import { createRig, MemoryDisk, settle } from '@hyve/testkit';
import { VirtioPci } from '@hyve/virtio';
import { enableMsix, LegacyGuest, ModernGuest, SplitRing, startDriver } from '@hyve/virtio/testing';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { Bench, DISCARD, F, FLUSH, GET_ID, IN, join, OUT, range, ZEROES } from './kit.ts';

const OK = 0;
const IOERR = 1;
const UNSUPP = 2;

describe.each([
  ['split', { packed: false, indirect: false }],
  ['split indirect', { packed: false, indirect: true }],
  ['packed', { packed: true, indirect: false }],
  ['packed indirect', { packed: true, indirect: true }],
])('requests on %s rings', (_n, ring) => {
  it('read what the disk holds', async () => {
    const b = new Bench().up(ring);
    const r = await b.run(IN, 5, [512, 1024, 512]);
    expect([r.status, r.len]).toEqual([OK, 2049]);
    expect(r.data).toEqual([...b.disk.bytes.subarray(5 * 512, 9 * 512)]);
    expect(b.disk.log).toEqual(['read 2560+2048']);
  });

  it('write in buffers of any size', async () => {
    const b = new Bench().up(ring);
    const parts = [1, 510, 513].map((n, k) => new Uint8Array(n).map((_v, i) => i * 3 + k));
    expect(await b.run(OUT, 7, parts)).toMatchObject({ status: OK, len: 1 });
    expect([...b.disk.bytes.subarray(7 * 512, 9 * 512)]).toEqual([...join(...parts)]);
  });

  it('keep a verified mix right', async () => {
    const b = new Bench().up(ring);
    const model = b.disk.bytes.slice();
    let seed = 1;
    const rnd = (n: number): number => {
      seed = (seed * 1103515245 + 12345) >>> 0;
      return (seed >>> 8) % n;
    };
    for (let i = 0; i < 150; i++) {
      const n = (1 + rnd(4)) * 512;
      const sector = rnd(2040);
      if (rnd(2) === 0) {
        const bytes = new Uint8Array(n).map(() => rnd(256));
        expect((await b.run(OUT, sector, [bytes.subarray(0, 100), bytes.subarray(100)])).status).toBe(OK);
        model.set(bytes, sector * 512);
      } else expect((await b.run(IN, sector, [n])).data).toEqual([...model.subarray(sector * 512, sector * 512 + n)]);
    }
    expect(b.disk.bytes).toEqual(model);
  });
});

describe('configuration (§5.2.4)', () => {
  it('describes the disk', () => {
    const { guest } = new Bench(new MemoryDisk({ sector: 4096, physical: 16384 }), { queues: 3, queueSize: 64 });
    const u32 = (o: number): number => guest.config(o, 4);
    expect([u32(0), u32(4), u32(8), u32(12), u32(20)]).toEqual([2048, 0, 1 << 20, 62, 4096]);
    expect([guest.config(24, 1), guest.config(25, 1), guest.config(26, 2), u32(28)]).toEqual([2, 0, 4, 0]);
    expect([guest.config(32, 1), guest.config(34, 2)]).toEqual([1, 3]);
    expect([u32(36), u32(40), u32(44)]).toEqual([4194304, 32, 32]);
    expect([u32(48), u32(52), guest.config(56, 1)]).toEqual([131072, 1, 1]);
    expect([guest.config(16, 2), guest.config(18, 1), guest.config(19, 1)]).toEqual([2, 16, 63]);
    expect([guest.config(60, 4), guest.config(0xff, 1)]).toEqual([0, 0]);
  });

  it.each([{ indirect: true }, { indirect: false }, { packed: true, size: 256 }])(
    'takes 254 scattered pages as one request, with %o',
    async (o) => {
      const b = new Bench(new MemoryDisk({ size: 2 << 20 })).up({ size: 256, ...o });
      const pages = b.guest.config(12, 4);
      expect(pages).toBe(254);
      for (let i = 0; i < b.disk.bytes.length; i += 512) b.disk.bytes[i] = i >>> 9;
      const { status, len } = await b.run(
        IN,
        8,
        Array.from({ length: pages }, () => 4096),
      );
      expect([status, len]).toEqual([OK, pages * 4096 + 1]);
      const sent = await b.run(
        OUT,
        16,
        Array.from({ length: pages }, (_v, i) => new Uint8Array(4096).fill(i)),
      );
      expect(sent.status).toBe(OK);
      expect([...b.disk.bytes].filter((_v, i) => i % 4096 === 5).slice(2, 256)).toEqual(
        Array.from({ length: pages }, (_v, i) => i),
      );
    },
  );

  it('offers what the disk can do', () => {
    const lo = (disk: MemoryDisk, o = {}): number => new Bench(disk, o).guest.features()[0] & 0x00ff_ffff;
    const base = 0b1110_0101_0110;
    expect(lo(new MemoryDisk())).toBe((base | F.discard | F.zeroes) & ~F.ro);
    expect(lo(new MemoryDisk({ discard: false }))).toBe((base | F.zeroes) & ~F.ro);
    expect(lo(new MemoryDisk(), { discard: false })).toBe((base | F.zeroes) & ~F.ro);
    expect(lo(new MemoryDisk({ readOnly: true }))).toBe(base | F.ro);
    expect(lo(new MemoryDisk(), { readOnly: true })).toBe(base | F.ro);
    expect(lo(new MemoryDisk(), { queues: 2 })).toBe((base | F.mq | F.discard | F.zeroes) & ~F.ro);
  });

  it('knows disks over 2 TiB', () => {
    const disk = new MemoryDisk({ size: 512 });
    Object.defineProperty(disk, 'size', { value: 2 ** 42 });
    const { guest } = new Bench(disk);
    expect([guest.config(0, 4), guest.config(4, 4)]).toEqual([0, 2]);
    expect([guest.config(16, 2), guest.config(18, 1)]).toEqual([65535, 255]);
  });

  it('tells the guest when the disk has grown', () => {
    const disk = new MemoryDisk();
    const b = new Bench(disk).up();
    Object.defineProperty(disk, 'size', { value: 4096 * 512 });
    b.block.resized();
    expect([b.guest.generation(), b.guest.ackInterrupt(), b.guest.config(0, 4)]).toEqual([1, 2, 4096]);
  });
});

describe('write cache', () => {
  it('is on unless the driver cannot flush', async () => {
    const b = new Bench().up();
    await b.run(OUT, 0, [new Uint8Array(512)]);
    await b.run(FLUSH, 0, []);
    expect(b.disk.log).toEqual(['write 0+512', 'flush']);
    const c = new Bench().up({ lo: 0 });
    await c.run(OUT, 0, [new Uint8Array(512)]);
    expect(c.disk.log).toEqual(['write 0+512', 'flush']);
  });

  it('goes off and on by the writeback byte, after negotiation only', async () => {
    const b = new Bench().up({ lo: F.flush });
    b.guest.setConfig(32, 1, 0);
    expect(b.guest.config(32, 1)).toBe(1);
    b.up();
    b.guest.setConfig(32, 1, 0);
    expect(b.guest.config(32, 1)).toBe(0);
    await b.run(OUT, 0, [new Uint8Array(512)]);
    await b.run(ZEROES, 0, [range(0, 8)]);
    expect(b.disk.log).toEqual(['write 0+512', 'flush', 'zero 0+4096', 'flush']);
    b.guest.setConfig(32, 4, 1);
    await b.run(OUT, 0, [new Uint8Array(512)]);
    expect(b.disk.log.length).toBe(5);
    b.guest.setConfig(32, 1, 0);
    b.guest.setConfig(0, 4, 77);
    expect(b.guest.config(0, 4)).toBe(2048);
    b.guest.setStatus(0);
    expect(b.guest.config(32, 1)).toBe(1);
  });

  it('holds a write back until its flush is done', async () => {
    const b = new Bench().up({ lo: 0 });
    b.disk.hold = true;
    const p = b.submit(OUT, 0, [new Uint8Array(512)]);
    await b.disk.release(0);
    expect(b.status(p)).toBe(0xee);
    await b.disk.release(0);
    expect(b.status(p)).toBe(OK);
  });
});

describe('other requests', () => {
  it('give the identification, padded and cut', async () => {
    const b = new Bench(new MemoryDisk(), { serial: 'HYVE-42' }).up();
    const text = (d: number[]): string => String.fromCharCode(...d);
    expect(await b.run(GET_ID, 0, [20])).toMatchObject({ status: OK, len: 21 });
    expect(text((await b.run(GET_ID, 0, [20])).data)).toBe('HYVE-42'.padEnd(20, '\0'));
    expect(text((await b.run(GET_ID, 0, [2, 2])).data)).toBe('HYVE');
    expect((await b.run(GET_ID, 0, [512])).len).toBe(21);
    const c = new Bench(new MemoryDisk(), { serial: 'x'.repeat(20) }).up();
    expect(text((await c.run(GET_ID, 0, [20])).data)).toBe('x'.repeat(20));
  });

  it('has identities as bhyve makes them', () => {
    expect(api.blockIdentity(Uint8Array.of(1, 0x2a, 0xff, 4, 5, 6, 7))).toBe('BHYVE-012A-FF04-0506');
  });

  it('discard and zero ranges', async () => {
    const b = new Bench().up();
    expect((await b.run(DISCARD, 0, [join(range(8, 16), range(100, 4), range(3, 0))])).status).toBe(OK);
    expect((await b.run(ZEROES, 0, [range(4, 4, 1)])).status).toBe(OK);
    expect(b.disk.log).toEqual(['discard 4096+8192', 'discard 51200+2048', 'zero 2048+2048 unmap']);
    expect(b.disk.bytes.subarray(2048, 4096).every((v) => v === 0)).toBe(true);
    expect([b.disk.bytes[2047], b.disk.bytes[4096 + 8192]]).not.toContain(0);
  });

  it.each([
    ['discard with flags', DISCARD, range(0, 8, 1), UNSUPP],
    ['zeroes with unknown flags', ZEROES, range(0, 8, 2), UNSUPP],
    ['discard past the end', DISCARD, range(2047, 2), IOERR],
    ['discard far past the end', DISCARD, range(2 ** 60, 2), IOERR],
    ['discard of too much', DISCARD, range(0, 4194305), IOERR],
    ['zeroes of too much', ZEROES, range(0, 131073), IOERR],
    ['zeroes in two ranges', ZEROES, join(range(0, 1), range(1, 1)), IOERR],
    ['33 ranges', DISCARD, join(...Array.from({ length: 33 }, () => range(0, 1))), IOERR],
    ['no range', DISCARD, new Uint8Array(0), IOERR],
    ['half a range', DISCARD, new Uint8Array(24), IOERR],
    ['one bad range among good ones', DISCARD, join(range(0, 1), range(4000, 1)), IOERR],
  ])('refuses %s', async (_n, type, bytes, status) => {
    const b = new Bench().up();
    expect((await b.run(type, 0, bytes.length === 0 ? [] : [bytes])).status).toBe(status);
    expect(b.disk.log).toEqual([]);
  });

  it.each([2, 3, 7, 10, 14, 99, 0x7fff_ffff])('does not know type %i', async (type) => {
    const b = new Bench().up();
    expect((await b.run(type, 0, [])).status).toBe(UNSUPP);
    expect(b.mmio.counters().unsupported).toBe(1);
  });

  it('ignores the barrier bit of old drivers', async () => {
    const b = new Bench().up();
    expect((await b.run(OUT + 0x8000_0000, 1, [new Uint8Array(512)])).status).toBe(OK);
    expect(b.disk.log).toEqual(['write 512+512']);
  });
});

describe('refused', () => {
  it.each([
    ['a read past the end', IN, 2047, [1024]],
    ['a read far past the end', IN, 2 ** 60, [512]],
    ['a write past the end', OUT, 2048, [new Uint8Array(512)]],
    ['a read of part of a sector', IN, 0, [100]],
    ['a write of part of a sector', OUT, 0, [new Uint8Array(513)]],
  ])('%s', async (_n, type, sector, data) => {
    const b = new Bench().up();
    const r = await b.run(type, sector, data);
    expect([r.status, r.len]).toEqual([IOERR, 1]);
    expect(b.disk.log).toEqual([]);
    expect(b.mmio.counters().errors).toBe(1);
  });

  it('writes of any kind on a read-only disk', async () => {
    const b = new Bench(new MemoryDisk({ readOnly: true })).up();
    expect((await b.run(OUT, 0, [new Uint8Array(512)])).status).toBe(IOERR);
    expect((await b.run(ZEROES, 0, [range(0, 1)])).status).toBe(IOERR);
    expect((await b.run(DISCARD, 0, [range(0, 1)])).status).toBe(IOERR);
    expect((await b.run(FLUSH, 0, [])).status).toBe(OK);
    expect(b.disk.log).toEqual(['flush']);
    const c = new Bench(new MemoryDisk({ discard: false })).up();
    expect((await c.run(DISCARD, 0, [range(0, 1)])).status).toBe(UNSUPP);
  });

  it('data outside memory, without touching the disk', async () => {
    const b = new Bench().up();
    const { ram } = b.rig;
    const header = b.alloc(16);
    const status = b.alloc(1);
    for (const type of [IN, OUT]) {
      ram.write32(header, type);
      const bad = { addr: 2 ** 33, len: 512 };
      const good = { addr: b.alloc(512), len: 512 };
      b.rings[0]!.add(
        [{ addr: header, len: 16 }, ...(type === OUT ? [good, bad] : [])],
        [...(type === IN ? [good, bad] : []), { addr: status, len: 1 }],
      );
      b.rings[0]!.kick();
      b.guest.notify(0);
      await settle();
      expect(b.rings[0]!.poll()?.len).toBe(1);
      expect(ram.read8(status)).toBe(IOERR);
    }
    expect(b.disk.log).toEqual([]);
  });

  it.each([
    ['no header', [8], [1]],
    ['no status byte', [16, 512], []],
  ])('chains with %s: the device wants a reset', async (_n, readable, writable) => {
    const b = new Bench().up();
    const buf = (len: number): { addr: number; len: number } => ({ addr: b.alloc(len), len });
    b.rings[0]!.add(readable.map(buf), writable.map(buf));
    b.rings[0]!.kick();
    b.guest.notify(0);
    expect(b.guest.status()).toBe(0x4f);
    expect(b.mmio.counters().malformed).toBe(1);
    b.up();
    expect((await b.run(IN, 0, [512])).status).toBe(OK);
  });
});

describe('backends', () => {
  it.each([
    ['io-error', IOERR],
    ['no-space', IOERR],
    ['read-only', IOERR],
    ['out-of-range', IOERR],
    ['cancelled', IOERR],
    ['unsupported', UNSUPP],
  ] as const)('%s becomes status %i', async (status, want) => {
    const b = new Bench().up();
    b.disk.status = status;
    expect(await b.run(OUT, 0, [new Uint8Array(512)])).toMatchObject({ status: want, len: 1 });
    expect(await b.run(IN, 0, [512])).toMatchObject({ status: want, len: 1 });
    expect((await b.run(FLUSH, 0, [])).status).toBe(want);
    expect((await b.run(DISCARD, 0, [range(0, 8)])).status).toBe(want);
    b.disk.status = 'ok';
    expect((await b.run(IN, 0, [512])).status).toBe(OK);
  });

  it('that throw or reject are I/O errors too', async () => {
    const b = new Bench().up();
    b.disk.read = () => {
      throw new Error('broken');
    };
    b.disk.write = () => Promise.reject(new Error('broken'));
    expect((await b.run(IN, 0, [512])).status).toBe(IOERR);
    expect((await b.run(OUT, 0, [new Uint8Array(512)])).status).toBe(IOERR);
  });

  it('of 4096-byte sectors see whole ones: reads are widened, writes must fit', async () => {
    const b = new Bench(new MemoryDisk({ sector: 4096 })).up();
    for (const [sector, n] of [
      [8, 4096],
      [1, 512],
      [7, 1024],
      [15, 4096],
      [3, 10240],
    ] as const) {
      const r = await b.run(IN, sector, [n - 100, 100]);
      expect([r.status, r.len]).toEqual([OK, n + 1]);
      expect(r.data).toEqual([...b.disk.bytes.subarray(sector * 512, sector * 512 + n)]);
    }
    expect(b.disk.log).toEqual(['read 4096+4096', 'read 0+4096', 'read 0+8192', 'read 4096+8192', 'read 0+12288']);
    expect((await b.run(OUT, 8, [new Uint8Array(4096)])).status).toBe(OK);
    expect((await b.run(OUT, 1, [new Uint8Array(4096)])).status).toBe(IOERR);
    expect((await b.run(OUT, 8, [new Uint8Array(512)])).status).toBe(IOERR);
    expect((await b.run(DISCARD, 0, [range(1, 8)])).status).toBe(IOERR);
    expect((await b.run(ZEROES, 0, [range(8, 4)])).status).toBe(IOERR);
    expect((await b.run(ZEROES, 0, [range(8, 8)])).status).toBe(OK);
  });

  it('get large requests in pieces', async () => {
    const b = new Bench(new MemoryDisk({ size: 16777216 })).up({ indirect: true });
    const { ram } = b.rig;
    const header = b.alloc(16);
    const status = b.alloc(1);
    // 10.5 MiB, the same memory over and over.
    const data = Array.from({ length: 21 }, () => ({ addr: 0x30_0000, len: 512 << 10 }));
    ram.load(
      0x30_0000,
      new Uint8Array(512 << 10).map((_v, i) => i * 13),
    );
    ram.write32(header, OUT);
    ram.write32(header + 8, 0);
    b.rings[0]!.add([{ addr: header, len: 16 }, ...data], [{ addr: status, len: 1 }]);
    b.rings[0]!.kick();
    b.guest.notify(0);
    await settle();
    expect(ram.read8(status)).toBe(OK);
    expect(b.disk.log).toEqual(['write 0+4194304', 'write 4194304+4194304', 'write 8388608+2621440']);
    expect(b.disk.bytes[(10 << 20) + 5]).toBe(65);
    // Over 128 MiB is no request at all.
    ram.write32(header, IN);
    b.rings[0]!.poll();
    b.rings[0]!.add(
      [{ addr: header, len: 16 }],
      [...Array.from({ length: 30 }, () => ({ addr: 0x10_0000, len: 6 << 20 })), { addr: status, len: 1 }],
    );
    b.rings[0]!.kick();
    b.guest.notify(0);
    expect(ram.read8(status)).toBe(IOERR);
  });
});

describe('requests in flight', () => {
  it('finish in any order, with one interrupt for those that finish together', async () => {
    const b = new Bench().up();
    b.disk.hold = true;
    const p = [0, 1, 2, 3].map((i) => b.submit(IN, i, [512]));
    expect(b.disk.inFlight).toBe(4);
    await b.disk.release(2);
    expect(p.map((r) => b.status(r))).toEqual([0xee, 0xee, OK, 0xee]);
    expect(b.rings[0]!.poll()?.id).toBe(p[2]!.id);
    expect(b.mmio.counters().interrupts).toBe(1);
    void b.disk.release();
    await settle();
    expect(b.mmio.counters().interrupts).toBe(2);
    expect([0, 1, 2].map(() => b.rings[0]!.poll()?.id)).toEqual([p[0]!.id, p[1]!.id, p[3]!.id]);
  });

  it('are no more than allowed; the rest waits in the ring', async () => {
    const b = new Bench(new MemoryDisk(), { maxInFlight: 3 }).up();
    b.disk.hold = true;
    const p = Array.from({ length: 10 }, (_, i) => b.submit(IN, i, [512]));
    expect(b.disk.inFlight).toBe(3);
    for (let i = 0; i < 10; i++) {
      await b.disk.release(0);
      expect(b.disk.inFlight).toBe(Math.min(3, 9 - i));
    }
    expect(p.every((r) => b.status(r) === OK)).toBe(true);
    expect(b.disk.mostInFlight).toBe(3);
  });

  it('belong to nobody after a reset, and new ones go on when they end', async () => {
    const b = new Bench(new MemoryDisk(), { maxInFlight: 2 }).up();
    b.disk.hold = true;
    const old = [b.submit(IN, 1, [512]), b.submit(IN, 2, [512])];
    b.guest.setStatus(0);
    expect(b.guest.status()).not.toBe(0);
    b.guest.setStatus(1);
    // This driver does not wait. It finds no slot until the old requests have ended.
    const guest = b.guest;
    guest.setStatus(3);
    guest.accept(0, 1);
    guest.setStatus(0xb);
    const ring = new SplitRing({ mem: b.rig.ram, base: 0x8_0000, size: 64 });
    guest.setQueue(0, ring);
    guest.setStatus(0xf);
    b.rings = [ring];
    const p = b.submit(IN, 3, [512]);
    expect(b.disk.inFlight).toBe(2);
    await b.disk.release(0);
    await b.disk.release(0);
    expect(b.disk.inFlight).toBe(1);
    expect(old.map((r) => b.status(r))).toEqual([0xee, 0xee]);
    await b.disk.release(0);
    expect([b.status(p), ring.poll()?.id, ring.poll()]).toEqual([OK, p.id, null]);
    expect(b.mmio.counters().cancelled).toBe(2);
  });

  it('keep the status register from reading zero', async () => {
    const b = new Bench().up();
    b.disk.hold = true;
    b.submit(IN, 1, [512]);
    b.guest.setStatus(0);
    expect(b.guest.status()).toBe(0xf);
    await b.disk.release(0);
    expect(b.guest.status()).toBe(0);
  });

  it('hold up a ring reset', async () => {
    const b = new Bench(new MemoryDisk(), { queues: 2 }).up();
    b.disk.hold = true;
    const p = b.submit(IN, 1, [512], { queue: 1 });
    const q = b.submit(IN, 2, [512], { queue: 0 });
    b.guest.resetQueue(1);
    expect(b.guest.queueResetting(1)).toBe(true);
    await b.disk.release(0);
    expect(b.guest.queueResetting(1)).toBe(false);
    expect(b.status(p)).toBe(0xee);
    await b.disk.release(0);
    expect(b.status(q)).toBe(OK);
  });

  it('mark memory dirty when the data is there', async () => {
    const b = new Bench().up();
    const marked: [number, number][] = [];
    const { ram } = b.rig;
    ram.markDirty = (a, n) => void marked.push([a, n]);
    const p = b.submit(IN, 1, [512, 512]);
    expect(marked).toEqual([]);
    await settle();
    expect(marked).toEqual(p.buffers.map((x) => [x.addr, x.len]));
  });

  it('work on copies if asked to', async () => {
    const b = new Bench(new MemoryDisk({ sector: 4096 }), { copy: true }).up({ indirect: true });
    const { ram } = b.rig;
    expect([b.guest.config(8, 4), b.guest.config(12, 4)]).toEqual([65536, 126]);
    b.disk.hold = true;
    // What the guest writes after it has asked is not written to the disk.
    const bytes = new Uint8Array(4096).map((_v, i) => i * 5);
    const w = b.submit(OUT, 8, [bytes.subarray(0, 1000), bytes.subarray(1000)]);
    for (const d of w.buffers) ram.fill(d.addr, d.len, 0xcc);
    await b.disk.release(0);
    expect([...b.disk.bytes.subarray(4096, 8192)]).toEqual([...bytes]);
    // What is read arrives when the request is done, and not if the driver has forgotten it.
    const r = b.submit(IN, 9, [100, 412]);
    const lost = b.submit(IN, 8, [4096], { queue: 0 });
    await b.disk.release(0);
    expect(b.data(r)).toEqual([...bytes.subarray(512, 1024)]);
    b.guest.setStatus(0);
    await b.disk.release(0);
    expect(b.data(lost).every((v) => v === 0)).toBe(true);
    b.disk.hold = false;
    b.up();
    // Nothing larger than what drivers are told takes memory.
    expect((await b.run(IN, 0, [1 << 20])).status).toBe(OK);
    const c = new Bench(new MemoryDisk(), { copy: true, segMax: 2, sizeMax: 4096 }).up();
    expect((await c.run(IN, 0, [8192])).status).toBe(OK);
    expect((await c.run(IN, 0, [8704])).status).toBe(IOERR);
  });

  it('let pause wait, and resume take up what came meanwhile', async () => {
    const b = new Bench().up();
    b.disk.hold = true;
    const p = b.submit(IN, 1, [512]);
    let paused = false;
    const wait = Promise.resolve(b.mmio.pause()).then(() => {
      paused = true;
    });
    const late = b.submit(IN, 2, [512]);
    await settle();
    expect([paused, b.disk.inFlight]).toEqual([false, 1]);
    await b.disk.release(0);
    await wait;
    expect([paused, b.status(p), b.status(late), b.disk.inFlight]).toEqual([true, OK, 0xee, 0]);
    expect(b.rings[0]!.poll()?.id).toBe(p.id);
    const saved = JSON.parse(JSON.stringify(b.mmio.save()));
    expect(saved.device).toEqual({ v: 1, writeback: true, size: 1048576 });
    b.disk.hold = false;
    b.mmio.resume();
    await settle();
    expect(b.status(late)).toBe(OK);
  });

  it('use every queue', async () => {
    const b = new Bench(new MemoryDisk(), { queues: 4 }).up();
    const p = [0, 1, 2, 3].map((queue) => b.submit(IN, queue, [512], { queue }));
    await settle();
    for (const r of p) {
      expect(b.rings[r.queue]!.poll()?.id).toBe(r.id);
      expect(b.data(r)).toEqual([...b.disk.bytes.subarray(r.queue * 512, r.queue * 512 + 512)]);
    }
  });
});

describe('life', () => {
  it('saves and loads in the middle of work', async () => {
    const b = new Bench().up({ packed: true });
    for (let i = 0; i < 50; i++) await b.run(IN, i, [512]);
    b.guest.setConfig(32, 1, 0);
    await b.mmio.pause();
    const saved = JSON.parse(JSON.stringify(b.mmio.save()));
    const c = new Bench();
    c.rig.ram.load(0, b.rig.ram.readView(0, 8 << 20)!);
    c.mmio.load(saved);
    expect(c.guest.config(32, 1)).toBe(0);
    b.submit(IN, 9, [512], { notify: false });
    b.rings[0]!.kick();
    c.rig.ram.load(0, b.rig.ram.readView(0, 8 << 20)!);
    c.mmio.resume();
    await settle();
    b.rig.ram.load(0, c.rig.ram.readView(0, 8 << 20)!);
    expect(b.rings[0]!.poll()?.len).toBe(513);
    const bad = (device: unknown, code: string): void =>
      expect(() => new Bench().mmio.load({ ...saved, device })).toThrow(expect.objectContaining({ code }));
    bad(null, 'STATE_VERSION');
    bad({ v: 2 }, 'STATE_VERSION');
    bad({ v: 1, writeback: true, size: 5 }, 'STATE_FORMAT');
    bad({ v: 1, writeback: 1, size: 1048576 }, 'STATE_FORMAT');
  });

  it('closes the disk when nothing is in flight', async () => {
    const b = new Bench().up();
    b.disk.hold = true;
    b.submit(IN, 1, [512]);
    const done = b.mmio.close();
    await settle();
    expect(b.disk.closed).toBe(false);
    await b.disk.release(0);
    await done;
    expect(b.disk.closed).toBe(true);
  });

  it('counts', async () => {
    const b = new Bench().up();
    await b.run(IN, 0, [1024]);
    await b.run(OUT, 0, [new Uint8Array(512)]);
    await b.run(FLUSH, 0, []);
    expect(b.mmio.counters()).toMatchObject({
      reads: 1,
      bytesRead: 1024,
      writes: 1,
      bytesWritten: 512,
      flushes: 1,
      chains: 3,
    });
  });

  it.each([
    { queues: 0 },
    { queues: 65 },
    { queueSize: 2 },
    { segMax: 0 },
    { sizeMax: 512 },
    { maxInFlight: 0 },
    { serial: 'a serial that is too long' },
    { serial: 'ü' },
  ])('refuses options %o', (o) => {
    expect(() => new Bench(new MemoryDisk(), o)).toThrow(expect.objectContaining({ code: 'VIRTIO_BLOCK' }));
  });
});

describe('behind the PCI bus', () => {
  it.each(['legacy', 'transitional', 'modern'] as const)('%s, with MSI-X', async (transport) => {
    const rig = createRig({ ramBytes: 8 << 20 });
    const none = { connect: () => rig.irq(0) };
    const pci = new PciBus({
      pio: rig.pio,
      mmio: rig.mmio,
      dma: rig.ram,
      msi: rig.msiSink,
      router: new PirqRouter({ pic: none, ioapic: none, reserved: [] }),
    });
    const disk = new MemoryDisk();
    pci.attach(new VirtioPci({ device: new api.VirtioBlock({ backend: disk }), transport }), { slot: 4 });
    pci.assign();
    const fn = { pio: rig.pio, mmio: rig.mmio, slot: 4 };
    enableMsix(fn, 2, 0x60);
    const guest = transport === 'legacy' ? new LegacyGuest(fn) : new ModernGuest(fn);
    const ring = new SplitRing({ mem: rig.ram, base: 0x8_0000, size: 256 });
    startDriver(guest, [0, 1], [ring], [1]);
    expect(guest.config(0, 4)).toBe(2048);
    rig.ram.write32(0x1000, IN);
    rig.ram.write32(0x1008, 6);
    const chain = [
      { addr: 0x2000, len: 512 },
      { addr: 0x3000, len: 1 },
    ];
    ring.add([{ addr: 0x1000, len: 16 }], chain);
    ring.kick();
    guest.notify(0);
    await settle();
    expect(ring.poll()?.len).toBe(513);
    expect([...rig.ram.readView(0x2000, 512)!]).toEqual([...disk.bytes.subarray(3072, 3584)]);
    expect(rig.msis.map((m) => m.data)).toEqual([0x61]);
  });
});

describe('hostile guests', () => {
  it('with random requests neither throw nor hang nor leak, and a reset helps', async () => {
    const disk = new MemoryDisk();
    const b = new Bench(disk, { maxInFlight: 8, queues: 2 });
    const small = fc.integer({ min: 0, max: 40 });
    const addr = fc.oneof(
      fc.integer({ min: 0, max: 8 << 20 }),
      fc.constantFrom(0x8_0000, 0x8_0400, (8 << 20) - 8, 2 ** 32, 2 ** 52 - 16),
    );
    const buffer = fc.record({
      addr,
      len: fc.oneof(fc.constantFrom(0, 1, 16, 512, 4096, 1 << 20, 0xffff_ffff), fc.integer({ min: 0, max: 3000 })),
    });
    const request = fc.record({
      queue: fc.nat(1),
      type: fc.oneof(
        fc.constantFrom(IN, OUT, FLUSH, GET_ID, DISCARD, ZEROES),
        fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      ),
      sector: fc.oneof(fc.integer({ min: 0, max: 2100 }), fc.constantFrom(2 ** 32, 2 ** 52, 2 ** 60)),
      readable: fc.array(buffer, { maxLength: 4 }),
      writable: fc.array(buffer, { maxLength: 4 }),
      header: fc.constantFrom(16, 16, 16, 15, 0),
      status: fc.boolean(),
      finish: small,
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 1, maxLength: 12 }),
        fc.boolean(),
        fc.boolean(),
        async (list, packed, hold) => {
          disk.hold = hold;
          b.up({ packed, indirect: list.length % 2 === 0 });
          for (const r of list) {
            b.rig.ram.write32(0x1000, r.type);
            b.rig.ram.write32(0x1008, r.sector % 2 ** 32);
            b.rig.ram.write32(0x100c, Math.floor(r.sector / 2 ** 32));
            b.rings[r.queue]!.add(
              [...(r.header > 0 ? [{ addr: 0x1000, len: r.header }] : []), ...r.readable],
              [...r.writable, ...(r.status ? [{ addr: 0x1100, len: 1 }] : [])],
            );
            b.rings[r.queue]!.kick();
            b.guest.notify(r.queue);
            if (disk.pending > 0 && r.finish < 20) await disk.release(r.finish % disk.pending);
          }
          expect(disk.inFlight).toBeLessThanOrEqual(8);
          disk.hold = false;
          b.guest.setStatus(0);
          await settle();
          for (let n = 0; n < 1000 && disk.inFlight > 0; n++) {
            void disk.release();
            await settle();
          }
          expect([disk.inFlight, b.guest.status()]).toEqual([0, 0]);
          b.up({ packed });
          expect(await b.run(IN, 0, [512])).toMatchObject({ status: OK });
        },
      ),
      { numRuns: 120 },
    );
  });
});

describe('exports', () => {
  it('are these', () => {
    expect(Object.keys(api).sort()).toEqual(['VirtioBlock', 'blockIdentity']);
  });
});

describe('a backend that answers at once', () => {
  it('is done within the notification; write-through waits for its flush', async () => {
    const b = new Bench().up({ lo: 0xffff_ffff & ~F.wce });
    b.disk.atOnce = true;
    const p = b.submit(IN, 2, [512, 512]);
    expect([b.status(p), b.rings[0]!.poll()?.len, b.disk.inFlight]).toEqual([OK, 1025, 0]);
    expect(b.data(p)).toEqual([...b.disk.bytes.subarray(1024, 2048)]);
    const q = b.submit(OUT, 5, [new Uint8Array(512).fill(9)]);
    expect([b.status(q), b.disk.bytes[5 * 512]]).toEqual([OK, 9]);
    b.disk.status = 'io-error';
    expect(b.status(b.submit(IN, 0, [512]))).toBe(IOERR);
    expect(b.disk.log).toEqual(['readNow 1024+1024', 'writeNow 2560+512', 'readNow 0+512']);
    const c = new Bench().up({ lo: 0xffff_ffff & ~(F.wce | F.flush) });
    c.disk.atOnce = true;
    const r = c.submit(OUT, 0, [new Uint8Array(512)]);
    expect(c.status(r)).toBe(0xee);
    await settle();
    expect([c.status(r), c.disk.log]).toEqual([OK, ['write 0+512', 'flush']]);
  });
});
