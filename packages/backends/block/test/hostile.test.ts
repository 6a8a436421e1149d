// Images made to harm: random damage, impossible headers, tables on top of each other. Opening may refuse with a
// HyveError; after that every request ends with a status, and so does a check.
import { isHyveError } from '@hyve/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RamDisk } from '../src/index.ts';
import { checkQcow2, readSnapshots } from '../src/qcow2/check.ts';
import { parseHeader } from '../src/qcow2/format.ts';
import { bytes, keepingLogger, newMemory, openMemory } from './helpers.ts';
import { MemoryFile, random } from './memory-file.ts';

/** More by hand: RUNS=20000. */
const RUNS = Number(process.env['RUNS'] ?? 150);
const SIZE = 256 * 1024;

/** An image with data, zero clusters, compressed clusters and holes. */
async function seedImage(clusterSize: number, compat: '0.10' | '1.1', refcountBits: number): Promise<Uint8Array> {
  const file = await newMemory({ size: SIZE, clusterSize, compat, ...(compat === '1.1' ? { refcountBits } : {}) });
  const disk = await openMemory(file);
  for (let at = 0; at < SIZE / 2; at += clusterSize * 3) await disk.write(at, [bytes(clusterSize, 1 + (at % 250))]);
  await disk.writeZeroes(0, clusterSize, false);
  await disk.writeCompressed(SIZE - clusterSize, bytes(clusterSize, 7));
  await disk.close();
  return file.image();
}

/** Does everything one can do with an image; nothing may throw but a HyveError at open. */
async function exercise(image: Uint8Array, seed: number): Promise<'refused' | 'used'> {
  const rnd = random(seed);
  const file = new MemoryFile(image);
  file.room = 64 << 20;
  let header: ReturnType<typeof parseHeader>;
  try {
    header = parseHeader(file.path, file.image().subarray(0, 2 << 20), file.length);
  } catch (e) {
    expect(isHyveError(e)).toBe(true);
    return 'refused';
  }
  await readSnapshots(file, header);
  if (header.refcountTableClusters * 2 ** header.clusterBits <= 1 << 20) {
    const copy = new MemoryFile(image.slice());
    const repair = rnd() < 0.5 ? 'all' : 'none';
    const r = await checkQcow2(copy, header, { repair });
    if (repair === 'all' && r.corruptions + r.errors + r.leaks === 0) {
      // What it calls repaired is.
      const again = await checkQcow2(copy, parseHeader('again', copy.image(), copy.length), { repair: 'none' });
      expect([again.corruptions, again.errors, again.leaks, ...again.findings]).toEqual([0, 0, 0]);
    }
  }
  const backing = rnd() < 0.5 ? new RamDisk({ size: SIZE }) : null;
  const disk = await openMemory(file, { backing });
  const jobs: Promise<unknown>[] = [];
  const size = Math.min(disk.size, SIZE * 2);
  if (size < 8192) return 'refused';
  for (let i = 0; i < 40; i++) {
    const at = Math.floor((rnd() * (size - 8192)) / 512) * 512;
    const n = 512 * (1 + Math.floor(rnd() * 16));
    const kind = rnd();
    const got =
      kind < 0.35
        ? disk.write(at, [bytes(n, 3)])
        : kind < 0.65
          ? disk.read(at, [new Uint8Array(n)])
          : kind < 0.75
            ? disk.discard(at, n)
            : kind < 0.85
              ? disk.writeZeroes(at, n, rnd() < 0.5)
              : kind < 0.93
                ? disk.flush()
                : disk.extentAt(at);
    jobs.push(got);
    if (rnd() < 0.3) await Promise.all(jobs);
  }
  for (const r of await Promise.all(jobs))
    if (typeof r === 'string') expect(r).toMatch(/^(ok|io-error|no-space|unsupported|read-only)$/);
  await disk.resize(size + SIZE).catch((e: unknown) => expect(isHyveError(e, 'BLOCK_RESIZE')).toBe(true));
  await disk.close();
  return 'used';
}

describe('damaged images', () => {
  for (const [clusterSize, compat, bits] of [
    [512, '1.1', 16],
    [512, '1.1', 1],
    [4096, '0.10', 16],
  ] as const) {
    it(
      `never throw, hang or grow without bound: clusters of ${clusterSize}, ${compat}, ${bits}-bit refcounts`,
      async () => {
        const seedBytes = await seedImage(clusterSize, compat, bits);
        let used = 0;
        await fc.assert(
          fc.asyncProperty(
            fc.array(
              fc.record({
                // Mostly tables: the first clusters.
                at: fc.oneof(fc.nat(127), fc.nat(8 * clusterSize - 1), fc.nat(seedBytes.length - 1)),
                value: fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 0x80, 0xc0, 0xff)),
              }),
              { minLength: 1, maxLength: 12 },
            ),
            fc.nat(),
            fc.option(fc.nat(seedBytes.length), { freq: 8 }),
            async (damage, seed, length) => {
              const image = seedBytes.slice(0, length ?? seedBytes.length);
              for (const d of damage) if (d.at < image.length) image[d.at] = d.value;
              if ((await exercise(image, seed)) === 'used') used++;
            },
          ),
          { numRuns: RUNS },
        );
        expect(used).toBeGreaterThan(20);
      },
      RUNS * 100,
    );
  }

  it('swaps of table entries end in errors, not in lost tables', async () => {
    const seedBytes = await seedImage(512, '1.1', 16);
    const h = parseHeader('x', seedBytes, seedBytes.length);
    const v = new DataView(seedBytes.buffer);
    const l2 = v.getUint32(h.l1Offset + 4) & ~511;
    // Guest data where each table is: writes must not go there.
    for (const target of [0, h.l1Offset, l2, h.refcountTableOffset, v.getUint32(h.refcountTableOffset + 4)]) {
      const image = seedBytes.slice();
      const w = new DataView(image.buffer);
      w.setUint32(l2, 0x80000000);
      w.setUint32(l2 + 4, target);
      const before = image.slice(target, target + 512);
      const file = new MemoryFile(image);
      const logger = keepingLogger();
      const disk = await openMemory(file, { logger });
      if (target === 0) {
        // Offset 0 means nothing is there.
        expect(await disk.write(0, [bytes(512, 0xaa)])).toBe('ok');
        continue;
      }
      expect(await disk.write(0, [bytes(512, 0xaa)])).toBe('io-error');
      expect(file.image().slice(target, target + 512)).toEqual(before);
      expect(logger.lines.join()).toContain('takes no more writes');
      expect(await disk.write(SIZE / 2, [bytes(512, 1)])).toBe('io-error');
      expect(await disk.read(SIZE / 2, [new Uint8Array(512)])).toBe('ok');
      await disk.close();
      // The header says so from now on.
      expect(new DataView(file.image().buffer).getUint32(76) & 2).toBe(2);
    }
  });

  it('does not follow an L1 entry onto another table', async () => {
    const seedBytes = await seedImage(512, '1.1', 16);
    const h = parseHeader('x', seedBytes, seedBytes.length);
    for (const target of [512, h.l1Offset, h.refcountTableOffset]) {
      const image = seedBytes.slice();
      const w = new DataView(image.buffer);
      w.setUint32(h.l1Offset, 0x80000000);
      w.setUint32(h.l1Offset + 4, target);
      const file = new MemoryFile(image.slice());
      const disk = await openMemory(file);
      expect(await disk.read(0, [new Uint8Array(512)])).toBe('io-error');
      expect(await disk.write(0, [bytes(512, 0xaa)])).toBe('io-error');
      expect(file.image().slice(target, target + 512)).toEqual(image.slice(target, target + 512));
      await disk.close();
    }
  });

  it('an allocator that is told a table is free does not hand it out', async () => {
    const seedBytes = await seedImage(512, '1.1', 16);
    const v = new DataView(seedBytes.buffer);
    const block = v.getUint32(512 + 4);
    seedBytes.fill(0, block, block + 512); // nothing is counted
    const file = new MemoryFile(seedBytes.slice());
    const disk = await openMemory(file);
    expect(await disk.write(SIZE - 8192, [bytes(512, 0xaa)])).toBe('io-error');
    await disk.close();
    expect(file.image().slice(0, 72)).toEqual(seedBytes.slice(0, 72));
  });
});

describe('headers', () => {
  const valid = async (): Promise<Uint8Array> => seedImage(512, '1.1', 16);
  const refused = async (change: (v: DataView, b: Uint8Array) => void): Promise<string> => {
    const b = await valid();
    change(new DataView(b.buffer), b);
    try {
      parseHeader('img', b, b.length);
    } catch (e) {
      if (isHyveError(e)) return `${e.code} ${e.message}`;
      throw e;
    }
    return 'accepted';
  };
  it('are refused by name', async () => {
    expect(await refused((v) => v.setUint32(0, 1))).toMatch(/BLOCK_FORMAT.*magic/);
    expect(await refused((v) => v.setUint32(4, 4))).toMatch(/BLOCK_UNSUPPORTED.*version 4/);
    expect(await refused((v) => v.setUint32(20, 8))).toMatch(/BLOCK_FORMAT.*2\^8/);
    expect(await refused((v) => v.setUint32(20, 40))).toMatch(/BLOCK_FORMAT.*2\^40/);
    expect(await refused((v) => v.setUint32(32, 1))).toMatch(/BLOCK_UNSUPPORTED.*encrypted \(AES\)/);
    expect(await refused((v) => v.setUint32(32, 2))).toMatch(/BLOCK_UNSUPPORTED.*encrypted \(LUKS\)/);
    expect(await refused((v) => v.setUint32(76, 4))).toMatch(/BLOCK_UNSUPPORTED.*external data file/);
    expect(await refused((v) => v.setUint32(76, 16))).toMatch(/BLOCK_UNSUPPORTED.*extended L2/);
    expect(await refused((v) => v.setUint32(76, 1 << 9))).toMatch(/BLOCK_UNSUPPORTED.*unnamed \(bit 9\)/);
    expect(await refused((v) => v.setUint32(72, 1))).toMatch(/BLOCK_UNSUPPORTED.*\(bit 32\)/);
    expect(await refused((v) => v.setUint32(24, 0xffffffff))).toMatch(/BLOCK_FORMAT.*2\^53/);
    expect(await refused((v) => v.setUint32(24, 1))).toMatch(/BLOCK_FORMAT.*too small/);
    expect(await refused((v) => v.setUint32(36, 0x7fffffff))).toMatch(/BLOCK_FORMAT.*L1 table/);
    expect(await refused((v) => v.setUint32(44, 0x201))).toMatch(/BLOCK_FORMAT.*L1 table.*not at a cluster/);
    expect(await refused((v) => v.setUint32(40, 0x100))).toMatch(/BLOCK_FORMAT.*L1 table.*beyond the end/);
    expect(await refused((v) => v.setUint32(52, 0x7fffe00))).toMatch(/BLOCK_FORMAT.*refcount table.*beyond/);
    expect(await refused((v) => v.setUint32(56, 0))).toMatch(/BLOCK_FORMAT.*no refcount table/);
    expect(await refused((v) => v.setUint32(56, 0xfffff))).toMatch(/BLOCK_FORMAT.*refcount table/);
    expect(await refused((v) => v.setUint32(60, 0xfffff))).toMatch(/BLOCK_FORMAT.*snapshots/);
    expect(await refused((v) => v.setUint32(96, 7))).toMatch(/BLOCK_FORMAT.*refcounts/);
    expect(await refused((v) => v.setUint32(100, 16))).toMatch(/BLOCK_FORMAT.*header of 16/);
    expect(await refused((v) => v.setUint32(100, 4096))).toMatch(/BLOCK_FORMAT.*header of 4096/);
    expect(await refused((v) => v.setUint8(104, 1))).toMatch(/BLOCK_FORMAT.*compression/);
    expect(await refused((v) => v.setUint8(104, 9))).toMatch(/BLOCK_UNSUPPORTED.*compression type 9/);
    expect(
      await refused((v, b) => {
        b.fill(0, 112, 512);
        v.setUint32(12, 500);
        v.setUint32(16, 100);
      }),
    ).toMatch(/BLOCK_FORMAT.*outside the first cluster/);
    expect(
      await refused((v) => {
        v.setUint32(112, 0x1234);
        v.setUint32(116, 0x7fffffff);
      }),
    ).toMatch(/BLOCK_FORMAT.*extension/);
  });

  it('name unknown features as the image itself does', async () => {
    const text = await refused((v, b) => {
      v.setUint32(76, 1 << 8);
      b.fill(0, 112, 512);
      v.setUint32(112, 0x6803f857);
      v.setUint32(116, 48);
      b[120] = 0;
      b[121] = 8;
      b.set(new TextEncoder().encode('time travel'), 122);
    });
    expect(text).toMatch(/time travel \(bit 8\)/);
  });

  it('that are cut off anywhere are refused', async () => {
    const b = await valid();
    for (let n = 0; n < 112; n++) expect(() => parseHeader('cut', b.slice(0, n), n)).toThrow(/cut/);
  });
});
