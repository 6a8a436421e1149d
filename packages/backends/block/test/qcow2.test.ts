// qcow2 images in memory: what the guest sees, what the tables say, errors of the host file, resizing, repairs.
import { isHyveError } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { RamDisk } from '../src/index.ts';
import { checkQcow2 } from '../src/qcow2/check.ts';
import { parseHeader } from '../src/qcow2/format.ts';
import type { Qcow2Image } from '../src/qcow2/image.ts';
import { maxCount, readCount, writeCount } from '../src/qcow2/refcounts.ts';
import { bytes, keepingLogger, newMemory, openMemory } from './helpers.ts';
import { MemoryFile, random } from './memory-file.ts';

async function check(file: MemoryFile): Promise<readonly [number, number, number]> {
  const r = await checkQcow2(file, parseHeader('x', file.image(), file.length), { repair: 'none' });
  return [r.corruptions, r.leaks, r.errors];
}

async function readAll(disk: { size: number; read: Qcow2Image['read'] }): Promise<Uint8Array> {
  const all = new Uint8Array(disk.size).fill(0x99);
  expect(await disk.read(0, [all])).toBe('ok');
  return all;
}

describe('refcounts', () => {
  it('of every width are read as they were written, and leave their neighbours alone', () => {
    for (let order = 0; order <= 6; order++) {
      const block = new Uint8Array(512);
      const n = (512 * 8) >> order;
      const value = (i: number): number => (i * 7) % Math.min(200, maxCount(order) + 1);
      for (let i = 0; i < n; i++) writeCount(block, order, i, value(i));
      for (let i = 0; i < n; i++) expect(readCount(block, order, i)).toBe(value(i));
    }
    expect([0, 1, 2, 3, 4, 5].map(maxCount)).toEqual([1, 3, 15, 255, 65535, 0xffffffff]);
  });

  it('tables grow with the image, over and over', async () => {
    // 64-bit counts in clusters of 512 bytes: one table cluster counts 2 MiB.
    const size = 12 << 20;
    const file = await newMemory({ size, clusterSize: 512, refcountBits: 64 });
    const disk = await openMemory(file);
    const data = bytes(1 << 20, 5);
    for (let at = 0; at < size; at += data.length) expect(await disk.write(at, [data])).toBe('ok');
    await disk.close();
    expect(await check(file)).toEqual([0, 0, 0]);
    const h = parseHeader('x', file.image(), file.length);
    expect(h.refcountTableClusters).toBeGreaterThan(4);
    const again = await openMemory(file);
    expect((await readAll(again)).every((b) => b === 5)).toBe(true);
  });
});

describe('reading and writing', () => {
  it('keeps a flush from ending before the writes that ended before it', async () => {
    const file = await newMemory({ size: 1 << 20, clusterSize: 4096 });
    const disk = await openMemory(file);
    await disk.write(0, [bytes(4096, 1)]);
    const before = file.image();
    expect(await disk.flush()).toBe('ok');
    expect(file.image()).not.toEqual(before); // tables went out
    const other = await openMemory(new MemoryFile(file.image()));
    const b = new Uint8Array(4096);
    await other.read(0, [b]);
    expect(b.every((x) => x === 1)).toBe(true);
  });

  it('writes that share a cluster and begin together both last', async () => {
    const backing = new RamDisk({ size: 1 << 20 });
    await backing.write(0, [bytes(1 << 20, 0xee)]);
    const file = await newMemory({ size: 1 << 20, clusterSize: 65536 });
    const disk = await openMemory(file, { backing });
    await Promise.all(Array.from({ length: 64 }, (_, i) => disk.write(i * 1024, [bytes(512, i + 1)])));
    const all = await readAll(disk);
    for (let i = 0; i < 64; i++) {
      expect(all[i * 1024]).toBe(i + 1);
      expect(all[i * 1024 + 512]).toBe(0xee);
    }
    expect(disk.counters()['allocatedClusters']).toBe(1);
    await disk.close();
    expect(await check(file)).toEqual([0, 0, 0]);
  });

  it('agrees with a plain array over a random run, with reopening', async () => {
    for (const [clusterSize, compat, withBacking] of [
      [512, '1.1', true],
      [65536, '1.1', true],
      [4096, '0.10', true],
      [4096, '0.10', false],
      [2 << 20, '1.1', false],
    ] as const) {
      const size = 4 << 20;
      const rnd = random(clusterSize + (withBacking ? 1 : 0));
      const want = new Uint8Array(size);
      const backing = (): RamDisk => {
        const d = new RamDisk({ size: size - 8192 });
        return d;
      };
      if (withBacking) want.fill(0xbb, 0, size - 8192);
      const below = async (): Promise<RamDisk | null> => {
        if (!withBacking) return null;
        const d = backing();
        await d.write(0, [bytes(size - 8192, 0xbb)]);
        return d;
      };
      const file = await newMemory({ size, clusterSize, compat });
      let disk = await openMemory(file, { backing: await below() });
      for (let i = 0; i < 250; i++) {
        const at = Math.floor((rnd() * size) / 512) * 512;
        const n = Math.min(size - at, 512 * (1 + Math.floor(rnd() * (rnd() < 0.2 ? 300 : 20))));
        const kind = rnd();
        if (kind < 0.5) {
          const data = new Uint8Array(n).map((_, k) => (k * 31 + i) & 0xff);
          want.set(data, at);
          expect(await disk.write(at, [data.subarray(0, 512), data.subarray(512)])).toBe('ok');
        } else if (kind < 0.7) {
          want.fill(0, at, at + n);
          expect(await disk.writeZeroes(at, n, rnd() < 0.5)).toBe('ok');
        } else if (kind < 0.8) {
          expect(await disk.discard(at, n)).toBe('ok');
          const now = new Uint8Array(n);
          await disk.read(at, [now]);
          // Zeros or what was there, cluster by cluster.
          for (let k = 0; k < n; k += 512) expect(now[k] === 0 || now[k] === want[at + k]).toBe(true);
          want.set(now, at);
        } else if (kind < 0.95) {
          const got = new Uint8Array(n);
          expect(await disk.read(at, [got])).toBe('ok');
          expect(Buffer.compare(got, want.subarray(at, at + n))).toBe(0);
        } else if (kind < 0.98) await disk.flush();
        else {
          await disk.close();
          disk = await openMemory(file, { backing: await below() });
        }
      }
      expect(Buffer.compare(await readAll(disk), want)).toBe(0);
      await disk.close();
      expect(await check(file)).toEqual([0, 0, 0]);
    }
  }, 15_000);

  it('refuses what is not on the disk', async () => {
    const disk = await openMemory(await newMemory({ size: 65536 }), { sectorSize: 4096 });
    const b = [new Uint8Array(4096)];
    expect(await disk.read(65536, b)).toBe('out-of-range');
    expect(await disk.read(-4096, b)).toBe('out-of-range');
    expect(await disk.read(512, b)).toBe('out-of-range');
    expect(await disk.write(Number.NaN, b)).toBe('out-of-range');
    expect(await disk.write(2 ** 60, b)).toBe('out-of-range');
    expect(await disk.discard(0, 2 ** 40)).toBe('out-of-range');
    expect(await disk.writeZeroes(0, 512, true)).toBe('out-of-range');
    expect(await disk.read(0, [])).toBe('ok');
  });

  it('with sync has nothing left to flush after a write', async () => {
    const file = await newMemory({ size: 1 << 20 });
    const disk = await openMemory(file, { sync: true });
    await disk.write(65536, [bytes(512, 9)]);
    const other = await openMemory(new MemoryFile(file.image()));
    const b = new Uint8Array(512);
    await other.read(65536, [b]);
    expect(b[0]).toBe(9);
  });

  it('without writing permission serves reads alone', async () => {
    const made = await newMemory({ size: 65536 });
    const file = new MemoryFile(made.image(), { writable: false });
    file.onWrite = () => {
      throw new Error('written');
    };
    const disk = await openMemory(file);
    expect(disk.readOnly).toBe(true);
    expect(await disk.write(0, [new Uint8Array(512)])).toBe('read-only');
    expect(await disk.discard(0, 512)).toBe('read-only');
    expect(await disk.flush()).toBe('ok');
    await disk.close();
  });
});

describe('space', () => {
  it('comes back after a discard, once a flush has made it certain', async () => {
    const file = await newMemory({ size: 1 << 20, clusterSize: 4096 });
    const disk = await openMemory(file);
    await disk.write(0, [bytes(1 << 19, 1)]);
    await disk.flush();
    const length = file.length;
    await disk.discard(0, 1 << 19);
    await disk.flush();
    await disk.write(1 << 19, [bytes(1 << 19, 2)]);
    await disk.flush();
    expect(file.length).toBe(length); // the same clusters again
    const all = await readAll(disk);
    expect(all.subarray(0, 1 << 19).every((b) => b === 0)).toBe(true);
    expect(all.subarray(1 << 19).every((b) => b === 2)).toBe(true);
    await disk.close();
    expect(await check(file)).toEqual([0, 0, 0]);
  });

  it('that is given up reads as zeros, also where only the backing file has something', async () => {
    for (const compat of ['1.1', '0.10'] as const) {
      const backing = new RamDisk({ size: 4 << 20 });
      await backing.write(0, [bytes(4 << 20, 0xbb)]);
      const file = await newMemory({ size: 4 << 20, clusterSize: 4096, compat });
      const disk = await openMemory(file, { backing });
      await disk.write(0, [bytes(4096, 1)]); // the first table exists, the second does not
      await disk.discard(0, 16384);
      await disk.discard((2 << 20) + 2048, 16384);
      const all = await readAll(disk);
      const seen = (from: number, to: number): number[] => [...new Set(all.subarray(from, to))];
      // Version 2 has no way to say zero: what is in the way of the backing file stays.
      expect(seen(0, 4096)).toEqual(compat === '1.1' ? [0] : [1]);
      expect(seen(4096, 16384)).toEqual(compat === '1.1' ? [0] : [0xbb]);
      expect(seen(16384, (2 << 20) + 4096)).toEqual([0xbb]);
      expect(seen((2 << 20) + 4096, (2 << 20) + 16384)).toEqual(compat === '1.1' ? [0] : [0xbb]);
      expect(seen((2 << 20) + 16384, 4 << 20)).toEqual([0xbb]);
      await disk.close();
      expect(await check(file)).toEqual([0, 0, 0]);
    }
  });

  it('that was in use before reads as zeros around a smaller write', async () => {
    const file = await newMemory({ size: 1 << 20, clusterSize: 65536 });
    file.onWrite = null;
    const disk = await openMemory(file);
    await disk.write(0, [bytes(65536, 0xff)]);
    await disk.flush();
    await disk.discard(0, 65536);
    await disk.flush();
    await disk.write(65536 * 3 + 4096, [bytes(512, 1)]);
    const b = new Uint8Array(65536);
    await disk.read(65536 * 3, [b]);
    expect(b.reduce((n, x) => n + (x === 0 ? 0 : 1), 0)).toBe(512);
  });

  it('that runs out in mid-write fails the write alone; what was flushed stays, and writes go on when it returns', async () => {
    const file = await newMemory({ size: 4 << 20, clusterSize: 4096 });
    const logger = keepingLogger();
    const disk = await openMemory(file, { logger });
    await disk.write(0, [bytes(65536, 1)]);
    expect(await disk.flush()).toBe('ok');
    file.room = file.length + 20_000;
    let failed = 0;
    for (let i = 0; i < 40; i++)
      if ((await disk.write((1 << 20) + i * 8192, [bytes(8192, 2)])) === 'no-space') failed++;
    expect(failed).toBeGreaterThan(30);
    expect(logger.lines.length).toBeLessThan(5); // told once
    const b = new Uint8Array(65536);
    expect(await disk.read(0, [b])).toBe('ok');
    expect(b.every((x) => x === 1)).toBe(true);
    expect(await disk.write(0, [bytes(512, 3)])).toBe('ok'); // in place
    expect(await disk.flush()).toBe('ok');
    const crashed = new MemoryFile(file.image());
    expect((await check(crashed))[0]).toBe(0);
    file.room = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 40; i++) expect(await disk.write((1 << 20) + i * 8192, [bytes(8192, 4)])).toBe('ok');
    expect(await disk.flush()).toBe('ok');
    await disk.close();
    expect(await check(file)).toEqual([0, 0, 0]);
    const again = await openMemory(file);
    const all = await readAll(again);
    expect(all[0]).toBe(3);
    expect(all.subarray(1 << 20, (1 << 20) + 40 * 8192).every((x) => x === 4)).toBe(true);
  });

  it('failing host reads and writes become I/O errors and nothing worse', async () => {
    const file = await newMemory({ size: 2 << 20, clusterSize: 4096 });
    const disk = await openMemory(file);
    const rnd = random(5);
    let bad = false;
    file.onWrite = () => {
      if (bad && rnd() < 0.4) throw Object.assign(new Error('bad block'), { code: 'EIO' });
    };
    const good = new Map<number, number>();
    for (let round = 0; round < 20; round++) {
      bad = round % 2 === 1;
      for (let i = 0; i < 20; i++) {
        const at = Math.floor(rnd() * 500) * 4096;
        const status = await disk.write(at, [bytes(4096, round + 1)]);
        if (status === 'ok') good.set(at, round + 1);
        else {
          expect(status).toBe('io-error');
          good.delete(at);
        }
      }
      const flushed = await disk.flush();
      if (!bad) expect(flushed).toBe('ok');
    }
    for (const [at, value] of good) {
      const b = new Uint8Array(4096);
      await disk.read(at, [b]);
      expect(b[0]).toBe(value);
    }
    await disk.close();
    const [corruptions, , errors] = await check(file);
    expect([corruptions, errors]).toEqual([0, 0]); // leaks may be
  });

  it('a sync that fails is not forgotten', async () => {
    const file = await newMemory({ size: 1 << 20 });
    const disk = await openMemory(file);
    await disk.write(0, [bytes(512, 1)]);
    file.onSync = () => {
      throw Object.assign(new Error('lost'), { code: 'EIO' });
    };
    expect(await disk.flush()).toBe('io-error');
    file.onSync = null;
    expect(await disk.flush()).toBe('ok'); // memory still holds the tables, so they go out again
    const other = await openMemory(new MemoryFile(file.image()));
    const b = new Uint8Array(512);
    await other.read(0, [b]);
    expect(b[0]).toBe(1);
  });
});

describe('resize', () => {
  it('grows, with new bytes zero even where the backing file is longer', async () => {
    const backing = new RamDisk({ size: 8 << 20 });
    await backing.write(0, [bytes(8 << 20, 0xbb)]);
    for (const compat of ['0.10', '1.1'] as const) {
      const file = await newMemory({ size: 1 << 20, clusterSize: 4096, compat });
      const disk = await openMemory(file, { backing });
      await disk.resize(16 << 20);
      expect(disk.size).toBe(16 << 20);
      const all = await readAll(disk);
      expect(all.subarray(0, 1 << 20).every((b) => b === 0xbb)).toBe(true);
      expect(all.subarray(1 << 20).every((b) => b === 0)).toBe(true);
      await disk.write((16 << 20) - 512, [bytes(512, 1)]);
      await disk.flush();
      expect(parseHeader('x', file.image(), file.length).size).toBe(16 << 20);
      expect(await check(file)).toEqual([0, 0, 0]);
    }
  });

  it('shrinks only when asked, and what was cut off stays gone', async () => {
    const file = await newMemory({ size: 4 << 20, clusterSize: 65536 });
    const disk = await openMemory(file);
    await disk.write(0, [bytes(4 << 20, 7)]);
    await expect(disk.resize(1 << 20)).rejects.toSatisfy((e) => isHyveError(e, 'BLOCK_RESIZE'));
    await disk.resize((1 << 20) + 512, { shrink: true });
    expect(disk.size).toBe((1 << 20) + 512);
    expect(await disk.read(1 << 21, [new Uint8Array(512)])).toBe('out-of-range');
    await disk.resize(4 << 20);
    const all = await readAll(disk);
    expect(all.subarray(0, (1 << 20) + 512).every((b) => b === 7)).toBe(true);
    expect(all.subarray((1 << 20) + 512).every((b) => b === 0)).toBe(true);
    await disk.close();
    expect(await check(file)).toEqual([0, 0, 0]);
  });

  it('refuses what cannot be', async () => {
    const disk = await openMemory(await newMemory({ size: 65536, clusterSize: 512 }));
    for (const size of [0, -512, 1000, 2 ** 53, 2 ** 50])
      await expect(disk.resize(size)).rejects.toSatisfy((e) => isHyveError(e, 'BLOCK_RESIZE'));
    expect(disk.size).toBe(65536);
  });
});

describe('check', () => {
  it('finds and repairs leaks, wrong counts and wrong flags', async () => {
    const file = await newMemory({ size: 1 << 20, clusterSize: 512 });
    const disk = await openMemory(file);
    await disk.write(0, [bytes(8192, 1)]);
    await disk.close();
    const image = file.image();
    const h = parseHeader('x', image, image.length);
    const v = new DataView(image.buffer);
    const block = v.getUint32(h.refcountTableOffset + 4);
    const run = async (
      change: (v: DataView, b: Uint8Array) => void,
      repair: 'none' | 'leaks' | 'all',
    ): Promise<{ now: readonly number[]; fixed: readonly number[]; after: readonly number[] }> => {
      const b = image.slice();
      change(new DataView(b.buffer), b);
      const f = new MemoryFile(b);
      const r = await checkQcow2(f, parseHeader('x', b, b.length), { repair });
      return {
        now: [r.corruptions, r.leaks],
        fixed: [r.corruptionsFixed, r.leaksFixed],
        after: (await check(f)).slice(0, 2),
      };
    };
    const leak = (w: DataView): void => w.setUint16(block + 2 * 200, 1);
    expect(await run(leak, 'none')).toEqual({ now: [0, 1], fixed: [0, 0], after: [0, 1] });
    expect(await run(leak, 'leaks')).toEqual({ now: [0, 0], fixed: [0, 1], after: [0, 0] });
    const lost = (w: DataView): void => w.setUint16(block + 2 * 8, 0);
    expect((await run(lost, 'none')).now[0]).toBeGreaterThan(0);
    expect((await run(lost, 'leaks')).after[0]).toBeGreaterThan(0);
    expect((await run(lost, 'all')).after).toEqual([0, 0]);
    const noTable = (w: DataView): void => w.setUint32(h.refcountTableOffset + 4, 0);
    expect((await run(noTable, 'all')).after).toEqual([0, 0]);
    const twice = (w: DataView): void => w.setUint16(block + 2 * 8, 2);
    expect((await run(twice, 'none')).now).toEqual([1, 1]); // the flag, and the leak
    expect((await run(twice, 'all')).after).toEqual([0, 0]);
    const l2 = v.getUint32(h.l1Offset + 4);
    const elsewhere = (w: DataView): void => w.setUint32(l2 + 4, 0x7ffffe00);
    expect((await run(elsewhere, 'all')).after[0]).toBeGreaterThan(0); // lost data cannot be made up
  });

  it('repairs an image that was left dirty when it is opened', async () => {
    const file = await newMemory({ size: 1 << 20, clusterSize: 512, lazyRefcounts: true });
    const disk = await openMemory(file);
    await disk.write(0, [bytes(65536, 1)]);
    await disk.flush();
    const crashed = new MemoryFile(file.image());
    const h = parseHeader('x', crashed.image(), crashed.length);
    expect(h.incompatible & 1).toBe(1);
    const r = await checkQcow2(crashed, h, { repair: 'all' });
    expect([r.corruptions, r.leaks, r.errors]).toEqual([0, 0, 0]);
    expect(r.corruptionsFixed).toBeGreaterThan(0);
    const again = parseHeader('x', crashed.image(), crashed.length);
    expect(again.incompatible & 1).toBe(0);
    const reopened = await openMemory(crashed);
    const b = new Uint8Array(65536);
    await reopened.read(0, [b]);
    expect(b.every((x) => x === 1)).toBe(true);
    await disk.close();
    expect(parseHeader('x', file.image(), file.length).incompatible & 1).toBe(0);
    expect(await check(file)).toEqual([0, 0, 0]);
  });

  it('walks a table once, however many entries name it', async () => {
    const file = await newMemory({ size: 2 ** 40, clusterSize: 2 << 20 });
    const image = file.image();
    const h = parseHeader('x', image, image.length);
    const w = new DataView(image.buffer);
    // Every L1 entry names the same cluster as its table.
    for (let i = 0; i < h.l1Size; i++) {
      w.setUint32(h.l1Offset + i * 8, 0x80000000);
      w.setUint32(h.l1Offset + i * 8 + 4, h.l1Offset);
    }
    const f = new MemoryFile(image);
    const r = await checkQcow2(f, h, { repair: 'none' });
    expect(r.corruptions).toBeGreaterThan(0);
    expect(f.reads).toBeLessThan(20);
    expect(r.findings.length).toBeLessThanOrEqual(100);
  });
});

describe('compressed clusters', () => {
  it('are read, shared in one host cluster, and given back when all are overwritten', async () => {
    for (const compression of ['zlib', 'zstd'] as const) {
      const file = await newMemory({ size: 1 << 20, clusterSize: 4096, compression });
      const disk = await openMemory(file);
      const pattern = (i: number): Uint8Array => new Uint8Array(4096).map((_, k) => (k % (i + 3)) & 0xff);
      for (let i = 0; i < 100; i++) expect(await disk.writeCompressed(i * 4096, pattern(i))).toBe(true);
      expect(
        await disk.writeCompressed(
          200 * 4096,
          new Uint8Array(4096).map(() => Math.random() * 256),
        ),
      ).toBe(false);
      await disk.close();
      expect(await check(file)).toEqual([0, 0, 0]);
      expect(file.length).toBeLessThan(100 * 1024);
      const again = await openMemory(file);
      for (let i = 99; i >= 0; i--) {
        const b = new Uint8Array(4096);
        expect(await again.read(i * 4096, [b])).toBe('ok');
        expect(b).toEqual(pattern(i));
      }
      const part = new Uint8Array(512);
      await again.read(50 * 4096 + 1024, [part]);
      expect(part).toEqual(pattern(50).subarray(1024, 1536));
      for (let i = 0; i < 100; i++) expect(await again.write(i * 4096 + 512, [bytes(512, 0xcc)])).toBe('ok');
      await again.close();
      expect(await check(file)).toEqual([0, 0, 0]);
      const last = await openMemory(file);
      const b = new Uint8Array(4096);
      await last.read(7 * 4096, [b]);
      const want = pattern(7);
      want.fill(0xcc, 512, 1024);
      expect(b).toEqual(want);
    }
  });

  it('that are damaged give I/O errors, and a bomb does not grow', async () => {
    const { deflateRawSync } = await import('node:zlib');
    const file = await newMemory({ size: 1 << 20, clusterSize: 4096 });
    const disk = await openMemory(file);
    await disk.writeCompressed(0, bytes(4096, 1));
    await disk.close();
    const image = new Uint8Array(file.length + 8192);
    image.set(file.image());
    const at = parseHeader('x', image, image.length).l1Offset + 4096; // L2 table, then the data
    const broken = image.slice();
    broken.fill(0xff, at + 4096, at + 4096 + 40);
    const b = [new Uint8Array(4096)];
    expect(await (await openMemory(new MemoryFile(broken))).read(0, b)).toBe('io-error');
    const bomb = image.slice();
    bomb.set(deflateRawSync(new Uint8Array(300_000)).subarray(0, 500), at + 4096);
    expect(await (await openMemory(new MemoryFile(bomb))).read(0, b)).toBe('io-error');
    const short = image.slice();
    short.set(deflateRawSync(new Uint8Array(100)), at + 4096);
    expect(await (await openMemory(new MemoryFile(short))).read(0, b)).toBe('io-error');
  });
});
