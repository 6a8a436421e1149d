// Files and devices of the host: raw images, locks, falling back to reading; RAM disks, overlays, rate limits.
import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import process from 'node:process';
import { type BlockStatus, isHyveError } from '@hyve/core';
import { ManualClock } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type DiskImage, OverlayDisk, openBlock, RamDisk, ThrottledDisk } from '../src/index.ts';
import { loadHostCalls } from '../src/libc.ts';
import { lockImage } from '../src/lock.ts';
import { RawImage } from '../src/raw.ts';
import { bytes, keepingLogger, scratch } from './helpers.ts';
import { MemoryFile } from './memory-file.ts';

const at = scratch();
const calls = loadHostCalls();

async function codeOf(p: Promise<unknown>): Promise<string> {
  try {
    await p;
    return 'none';
  } catch (e) {
    return isHyveError(e) ? e.code : String(e);
  }
}

describe('raw files', () => {
  it('read and write many requests at once, in parts', async () => {
    const path = at('a.img');
    writeFileSync(path, new Uint8Array(1 << 20));
    const disk = await openBlock(path);
    expect([disk.size, disk.sectorSize, disk.format, disk.identity]).toEqual([1 << 20, 512, 'raw', path]);
    const jobs: Promise<BlockStatus>[] = [];
    for (let i = 0; i < 200; i++)
      jobs.push(disk.write(i * 4096, [bytes(1000, i + 1), bytes(0, 0), bytes(2000, i + 2), bytes(1096, i + 3)]));
    expect(new Set(await Promise.all(jobs))).toEqual(new Set(['ok']));
    const shared = new Uint8Array(new SharedArrayBuffer(4096));
    expect(await disk.read(7 * 4096, [shared.subarray(0, 100), shared.subarray(100)])).toBe('ok');
    expect([shared[0], shared[999], shared[1000], shared[2999], shared[3000]]).toEqual([8, 8, 9, 9, 10]);
    expect(await disk.flush()).toBe('ok');
    await disk.close();
    expect(readFileSync(path)[199 * 4096]).toBe(200);
    expect(await disk.read(0, [shared])).not.toBe('ok');
  });

  it('more buffers than one system call takes', async () => {
    const path = at('many.img');
    writeFileSync(path, new Uint8Array(1 << 20));
    const disk = await openBlock(path);
    const parts = Array.from({ length: 2048 }, (_, i) => bytes(512, i & 0xff));
    expect(await disk.write(0, parts)).toBe('ok');
    const back = Array.from({ length: 2048 }, () => new Uint8Array(512));
    expect(await disk.read(0, back)).toBe('ok');
    expect(back.every((b, i) => b[511] === (i & 0xff))).toBe(true);
    await disk.close();
  });

  it('that end early read as zeros there, and leave out half a sector', async () => {
    const path = at('odd.img');
    writeFileSync(path, bytes(10_000, 5));
    const logger = keepingLogger();
    const disk = await openBlock(`${path},sectorsize=4096`, { logger });
    expect(disk.size).toBe(8192);
    expect(logger.lines.join()).toContain('no whole sector');
    truncateSync(path, 5000); // behind our back
    const b = bytes(8192, 0xff);
    expect(await disk.read(0, [b])).toBe('ok');
    expect([b[4999], b[5000], b[8191]]).toEqual([5, 0, 0]);
    await disk.close();
  });

  it('have 4096-byte sectors when asked', async () => {
    const path = at('4k.img');
    writeFileSync(path, new Uint8Array(65536));
    const disk = await openBlock(`${path},sectorsize=4096/65536`);
    expect([disk.sectorSize, disk.physicalSectorSize]).toEqual([4096, 65536]);
    expect(await disk.read(512, [new Uint8Array(4096)])).toBe('out-of-range');
    expect(await disk.read(4096, [new Uint8Array(512)])).toBe('out-of-range');
    expect(await disk.read(61440, [new Uint8Array(8192)])).toBe('out-of-range');
    await disk.close();
  });

  it.skipIf(calls?.linux !== true)('give discarded space back (needs node:ffi on Linux)', async () => {
    const path = at('sparse.img');
    writeFileSync(path, bytes(4 << 20, 1));
    const disk = await openBlock(path);
    expect([disk.canDiscard, disk.discardZeroes]).toEqual([true, true]);
    const before = statSync(path).blocks;
    expect(await disk.discard(1 << 20, 1 << 20)).toBe('ok');
    expect(statSync(path).blocks).toBeLessThanOrEqual(before - (1 << 20) / 512);
    expect(await disk.writeZeroes(2 << 20, 1 << 20, true)).toBe('ok');
    expect(statSync(path).blocks).toBeLessThanOrEqual(before - (2 << 20) / 512);
    expect(await disk.writeZeroes(3 << 20, 1 << 19, false)).toBe('ok');
    const b = new Uint8Array(4 << 20);
    await disk.read(0, [b]);
    const want = bytes(4 << 20, 1);
    want.fill(0, 1 << 20, (3 << 20) + (1 << 19));
    expect(Buffer.compare(b, want)).toBe(0);
    expect(await disk.extentAt(1 << 20)).toMatchObject({ length: 2 << 20, zero: true, data: false });
    await disk.close();
    const kept = await openBlock(`${path},nodelete`);
    expect([kept.canDiscard, await kept.discard(0, 512)]).toEqual([false, 'unsupported']);
    const blocks = statSync(path).blocks;
    expect(await kept.writeZeroes(0, 65536, true)).toBe('ok');
    expect(statSync(path).blocks).toBe(blocks);
    await kept.close();
  });

  it('zeros are written where the host cannot make holes', async () => {
    const file = new MemoryFile(bytes(3 << 20, 9), { canPunch: false });
    const disk = new RawImage({
      file,
      size: 3 << 20,
      sectorSize: 512,
      physicalSectorSize: 512,
      noDelete: false,
      logger: keepingLogger(),
    });
    expect([disk.canDiscard, await disk.discard(0, 512)]).toEqual([false, 'unsupported']);
    expect(await disk.writeZeroes(512, (2 << 20) + 512, true)).toBe('ok');
    const now = file.image();
    expect([now[511], now[512], now[(2 << 20) + 1023], now[(2 << 20) + 1024]]).toEqual([9, 0, 0, 9]);
  });

  it('a full host fails the write alone', async () => {
    const file = new MemoryFile(new Uint8Array(8192));
    file.room = 8192;
    const disk = new RawImage({
      file,
      size: 1 << 20,
      sectorSize: 512,
      physicalSectorSize: 512,
      noDelete: false,
      logger: keepingLogger(),
    });
    expect(await disk.write(4096, [bytes(8192, 1)])).toBe('no-space');
    expect(await disk.write(0, [bytes(4096, 2)])).toBe('ok');
    expect(await disk.flush()).toBe('ok');
    file.room = 1 << 20;
    expect(await disk.write(4096, [bytes(8192, 3)])).toBe('ok');
    expect(disk.counters()['failures']).toBe(1);
  });

  it('sync and nocache change nothing that can be read', async () => {
    for (const o of ['sync', 'direct', 'nocache', 'nocache,sync']) {
      const path = at(`o-${o.replace(',', '-')}.img`);
      writeFileSync(path, new Uint8Array(65536));
      const disk = await openBlock(`${path},${o}`);
      expect(await disk.write(4096, [bytes(4096, 7), bytes(512, 8)])).toBe('ok');
      expect(await disk.write(512, [bytes(512, 9)])).toBe('ok');
      const b = new Uint8Array(65536);
      for (let i = 0; i < 20; i++) expect(await disk.read(0, [b])).toBe('ok');
      expect([b[0], b[512], b[4096], b[8192], b[8704]]).toEqual([0, 9, 7, 8, 0]);
      expect(await disk.flush()).toBe('ok');
      await disk.close();
      expect(Buffer.compare(readFileSync(path), b)).toBe(0);
    }
  });
});

describe('opening', () => {
  it('says what is wrong', async () => {
    expect(await codeOf(openBlock(at('none.img')))).toBe('BLOCK_FILE');
    expect(await codeOf(openBlock('/'))).toBe('BLOCK_FILE');
    expect(await codeOf(openBlock('/dev/null'))).toBe('BLOCK_FILE');
    writeFileSync(at('empty.img'), '');
    expect(await codeOf(openBlock(at('empty.img')))).toBe('BLOCK_FILE');
    writeFileSync(at('text.qcow2'), 'hello');
    expect(await codeOf(openBlock(at('text.qcow2')))).toBe('BLOCK_FORMAT');
    spawnSync('mkfifo', [at('fifo')]);
    if (existsSync(at('fifo'))) expect(await codeOf(openBlock(at('fifo')))).toBe('BLOCK_FILE');
  });

  it('what cannot be written is read-only, with a warning, as in bhyve', async () => {
    const path = at('busy');
    copyFileSync(spawnSync('which', ['sleep'], { encoding: 'utf8' }).stdout.trim(), path);
    chmodSync(path, 0o755);
    const child = spawn(path, ['20'], { stdio: 'ignore' }); // a running program cannot be written, not even by root
    try {
      await new Promise((r) => child.once('spawn', r));
      const logger = keepingLogger();
      const disk = await openBlock(path, { logger });
      expect(disk.readOnly).toBe(true);
      expect(logger.lines.join()).toContain('read-only');
      expect(await disk.write(0, [new Uint8Array(512)])).toBe('read-only');
      expect(await disk.writeZeroes(0, 512, true)).toBe('read-only');
      await disk.close();
    } finally {
      child.kill('SIGKILL');
    }
  });

  it('contents never decide the format; what is plainly a container is refused until somebody says what it is', async () => {
    const { createDisk } = await import('../src/disk/index.ts');
    await createDisk(at('real.qcow2'), { format: 'qcow2', size: 1 << 20 });
    copyFileSync(at('real.qcow2'), at('real.img'));
    const before = readFileSync(at('real.img'));
    await expect(openBlock(at('real.img'))).rejects.toThrow(/real\.img begins like a qcow2.*format=qcow2.*format=raw/u);
    expect(await codeOf(openBlock(`${at('real.img')},ro,snapshot=on`))).toBe('BLOCK_FORMAT');
    expect(readFileSync(at('real.img'))).toEqual(before);
    const raw = await openBlock(`${at('real.img')},format=raw`);
    expect([raw.format, raw.size]).toEqual(['raw', statSync(at('real.img')).size]);
    await raw.close();
    const disk = await openBlock(`${at('real.img')},format=qcow2`);
    expect([disk.format, disk.size]).toEqual(['qcow2', 1 << 20]);
    await disk.close();
  });

  it('a guest that writes a header onto its raw disk gets no file of the host, then or later', async () => {
    const { createDisk } = await import('../src/disk/index.ts');
    writeFileSync(at('secret'), new Uint8Array(65536).fill(0x53));
    await createDisk(at('evil.qcow2'), { format: 'qcow2', size: 65536, backing: at('secret'), backingFormat: 'raw' });
    writeFileSync(at('guest.img'), new Uint8Array(1 << 20));
    const first = await openBlock(at('guest.img'));
    expect(await first.write(0, [readFileSync(at('evil.qcow2')).subarray(0, 65536)])).toBe('ok');
    await first.close();
    expect(await codeOf(openBlock(at('guest.img')))).toBe('BLOCK_FORMAT');
    const again = await openBlock(`${at('guest.img')},format=raw`);
    const got = new Uint8Array(65536);
    expect(await again.read(0, [got])).toBe('ok');
    expect(got.includes(0x53, 4096)).toBe(false);
    await again.close();
    // Nor by way of a tool that goes by contents.
    const { convertDisk, diskInfo, mapDisk } = await import('../src/disk/index.ts');
    expect((await diskInfo(at('guest.img'))).qcow2?.backingFile).toBe(at('secret'));
    expect(await codeOf(convertDisk(at('guest.img'), at('out.img')))).toBe('BLOCK_FORMAT');
    expect(existsSync(at('out.img'))).toBe(false);
    expect(await codeOf(mapDisk(at('guest.img')).next())).toBe('BLOCK_FORMAT');
    await convertDisk(at('guest.img'), at('out.img'), { sourceFormat: 'raw' });
    expect(readFileSync(at('out.img')).includes(0x53, 4096)).toBe(false);
    await convertDisk(at('guest.img'), at('out2.img'), { sourceFormat: 'qcow2' });
    expect(readFileSync(at('out2.img')).every((b) => b === 0x53)).toBe(true);
  });

  it.each([
    ['QED', 0, 'QED\0'],
    ['VMDK', 0, 'KDMV'],
    ['VMDK', 0, '# Disk DescriptorFile\n'],
    ['VHDX', 0, 'vhdxfile'],
    ['VHD', 0, 'conectix'],
    ['VDI', 64, '\x7f\x10\xda\xbe'],
    ['qcow \\(version 1\\)', 0, 'QFI\xfb\0\0\0\x01'],
  ])('a %s image is not taken for a raw disk', async (name, offset, text) => {
    const image = new Uint8Array(4096);
    image.set(Buffer.from(text, 'latin1'), offset);
    writeFileSync(at('other.img'), image);
    await expect(openBlock(at('other.img'))).rejects.toThrow(new RegExp(`like a ${name} image.*qemu-img convert`, 'u'));
    const raw = await openBlock(`${at('other.img')},format=raw`);
    expect(raw.size).toBe(4096);
    await raw.close();
  });

  it('backing files: missing, looping, unknown', async () => {
    const { createDisk } = await import('../src/disk/index.ts');
    writeFileSync(at('b0.img'), new Uint8Array(65536));
    await createDisk(at('b1.qcow2'), { format: 'qcow2', size: null, backing: 'b0.img' });
    await createDisk(at('b2.qcow2'), { format: 'qcow2', size: null, backing: 'b1.qcow2' });
    const both = await Promise.all([openBlock(`${at('b2.qcow2')},ro`), openBlock(`${at('b1.qcow2')},ro`)]);
    for (const d of both) await d.close();
    // b1's backing file becomes b2.
    const image = readFileSync(at('b1.qcow2'));
    const swap = (name: string): void => {
      const b = Buffer.from(image);
      b.write(name, Number(b.readBigUInt64BE(8)), 'latin1');
      const format = b.indexOf('raw', 112);
      b.fill(0, 112, 128); // no word of the format
      expect(format).toBeGreaterThan(0);
      b.writeUInt32BE(name.length, 16);
      writeFileSync(at('b1.qcow2'), b);
    };
    swap('b2.qcow2');
    const looping = openBlock(at('b2.qcow2'));
    await expect(looping).rejects.toThrow(/loop/);
    swap('b9.img');
    await expect(openBlock(at('b2.qcow2'))).rejects.toSatisfy((e) => isHyveError(e, 'BLOCK_BACKING'));
    await expect(openBlock(at('b2.qcow2'))).rejects.toThrow(
      /^the backing file of .*b1\.qcow2: cannot open .*b9\.img: there is no such file/,
    );
    swap('rbd:x/y');
    expect(await codeOf(openBlock(at('b2.qcow2')))).toBe('BLOCK_UNSUPPORTED');
    // Everything was closed again on the way.
    const disk = await openBlock(`${at('b0.img')}`);
    await disk.close();
  });
});

describe('locks', () => {
  it('let one writer or many readers use an image, by whatever name', async () => {
    const path = at('lock.img');
    writeFileSync(path, new Uint8Array(65536));
    symlinkSync(path, at('alias.img'));
    const writer = await openBlock(path);
    expect(await codeOf(openBlock(path))).toBe('BLOCK_LOCKED');
    expect(await codeOf(openBlock(at('alias.img')))).toBe('BLOCK_LOCKED');
    expect(await codeOf(openBlock(`${path},ro`))).toBe('BLOCK_LOCKED');
    expect(await codeOf(openBlock(`${path},snapshot=on`))).toBe('BLOCK_LOCKED');
    const anyway = await openBlock(`${path},lock=off`);
    await anyway.close();
    await writer.close();
    const readers = await Promise.all([
      openBlock(`${path},ro`),
      openBlock(`${path},ro`),
      openBlock(`${path},snapshot=on`),
    ]);
    expect(await codeOf(openBlock(path))).toBe('BLOCK_LOCKED');
    for (const r of readers) await r.close();
    await (await openBlock(path)).close();
  });

  it('hold between processes and end with them', async () => {
    const path = at('other.img');
    writeFileSync(path, new Uint8Array(65536));
    const script = `import { openBlock } from '${new URL('../src/index.ts', import.meta.url).pathname}';
      await openBlock('${path}'); console.log('open'); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await new Promise((r) => child.stdout.once('data', r));
      expect(await codeOf(openBlock(path))).toBe('BLOCK_LOCKED');
    } finally {
      child.kill('SIGKILL');
    }
    await new Promise((r) => child.once('exit', r));
    await (await openBlock(path)).close();
  });

  it('work without node:ffi by files that name their process; stale ones are recognised', async () => {
    const path = at('plain.img');
    writeFileSync(path, new Uint8Array(512));
    const stat = statSync(path);
    const target = { fd: -1, path, dev: stat.dev, ino: stat.ino, rdev: 0, isDevice: false };
    const names = (): string[] => readdirSync(at('.')).filter((n) => n.startsWith('.plain.img.hyve-lock.'));
    const writer = await lockImage(target, true, null);
    expect(names().length).toBe(1);
    expect(await codeOf(lockImage(target, true, null))).toBe('BLOCK_LOCKED');
    expect(await codeOf(lockImage(target, false, null))).toBe('BLOCK_LOCKED');
    await writer.release();
    const readers = [await lockImage(target, false, null), await lockImage(target, false, null)];
    expect(await codeOf(lockImage(target, true, null))).toBe('BLOCK_LOCKED');
    for (const r of readers) await r.release();
    expect(names()).toEqual([]);
    // A process that is gone; one whose number lives on in another.
    const dead = spawnSync('true').pid;
    writeFileSync(at(`.plain.img.hyve-lock.w.${dead}.x`), `${dead}\n1\n${hostname()}\n`);
    writeFileSync(at('.plain.img.hyve-lock.w.1.y'), `${process.pid}\n1\n${hostname()}\n`);
    const again = await lockImage(target, true, null);
    expect(names().length).toBe(1);
    await again.release();
    // Another machine's cannot be judged.
    writeFileSync(at('.plain.img.hyve-lock.w.1.z'), '1\n1\nelsewhere.example\n');
    await expect(lockImage(target, true, null)).rejects.toThrow(/elsewhere/);
  });

  it.skipIf(calls?.linux !== true)('of both kinds see each other (needs node:ffi on Linux)', async () => {
    const path = at('mixed.img');
    writeFileSync(path, new Uint8Array(512));
    const stat = statSync(path);
    const target = { fd: -1, path, dev: stat.dev, ino: stat.ino, rdev: 0, isDevice: false };
    const disk = await openBlock(path);
    expect(await codeOf(lockImage(target, true, null))).toBe('BLOCK_LOCKED');
    expect(await codeOf(lockImage(target, false, null))).toBe('BLOCK_LOCKED');
    await disk.close();
    const plain = await lockImage(target, true, null);
    expect(await codeOf(openBlock(path))).toBe('BLOCK_LOCKED');
    await plain.release();
    await (await openBlock(path)).close();
  });
});

/** Random operations on a disk and on a plain array. */
async function mirror(disk: DiskImage, want: Uint8Array, sector: number): Promise<void> {
  const sectors = want.length / sector;
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.tuple(fc.nat(sectors - 1), fc.integer({ min: 1, max: 300 }), fc.nat(3), fc.integer({ min: 1, max: 255 })),
        {
          maxLength: 20,
        },
      ),
      async (ops) => {
        for (const [s, n, kind, value] of ops) {
          const offset = s * sector;
          const length = Math.min(n * sector, want.length - offset);
          if (kind <= 1) {
            want.fill(value, offset, offset + length);
            expect(await disk.write(offset, [bytes(length, value)])).toBe('ok');
          } else if (kind === 2) {
            want.fill(0, offset, offset + length);
            expect(await disk.discard(offset, length)).toBe('ok');
          } else {
            want.fill(0, offset, offset + length);
            expect(await disk.writeZeroes(offset, length, true)).toBe('ok');
          }
        }
        const got = bytes(want.length, 0xdd);
        expect(await disk.read(0, [got.subarray(0, 1000), got.subarray(1000)])).toBe('ok');
        expect(Buffer.compare(got, want)).toBe(0);
      },
    ),
    { numRuns: 25 },
  );
}

describe('RAM disks', () => {
  it('hold what was written and give discarded memory back', async () => {
    const disk = await openBlock('ram:1M');
    expect([disk.size, disk.format]).toEqual([1 << 20, 'ram']);
    await mirror(disk, new Uint8Array(1 << 20), 512);
    await disk.discard(0, 1 << 20);
    expect(disk.counters()['heldBytes']).toBe(0);
    expect(await disk.write(1 << 20, [bytes(512, 1)])).toBe('out-of-range');
    await disk.close();
    const huge = await openBlock('ram:1P,sectorsize=4096');
    expect(await huge.write(2 ** 49, [bytes(4096, 1)])).toBe('ok');
    expect(await huge.discard(0, 2 ** 50)).toBe('ok');
    expect(huge.counters()['heldBytes']).toBe(0);
  });
});

describe('overlays', () => {
  it('keep writes to themselves, in a file or in memory', async () => {
    for (const store of ['on', 'memory']) {
      const path = at(`under-${store}.img`);
      writeFileSync(path, bytes(1 << 20, 0xaa));
      const disk = await openBlock(`${path},snapshot=${store}`);
      expect([disk.readOnly, disk.format]).toEqual([false, 'overlay']);
      await mirror(disk, bytes(1 << 20, 0xaa), 512);
      expect(await disk.flush()).toBe('ok');
      await disk.close();
      expect(readFileSync(path).every((b) => b === 0xaa)).toBe(true);
      expect(readdirSync(at('.')).filter((n) => n.includes('overlay'))).toEqual([]);
    }
  });

  it('small writes to one block that begin together all last', async () => {
    const base = new RamDisk({ size: 65536 });
    await base.write(0, [bytes(65536, 0xaa)]);
    const disk = new OverlayDisk({ base, store: 'memory', logger: keepingLogger() });
    await Promise.all([
      ...Array.from({ length: 8 }, (_, i) => disk.write(i * 512, [bytes(512, i + 1)])),
      disk.write(4096, [bytes(4096, 0x50)]),
      disk.write(8192 - 512, [bytes(1024, 0x51)]),
    ]);
    const b = new Uint8Array(12288);
    await disk.read(0, [b]);
    expect(Array.from({ length: 8 }, (_, i) => b[i * 512])).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect([b[4096], b[7679], b[7680], b[8703], b[8704]]).toEqual([0x50, 0x50, 0x51, 0x51, 0xaa]);
  });

  it('in memory have a limit, which the guest sees as a full disk', async () => {
    const base = new RamDisk({ size: 1 << 22 });
    const disk = new OverlayDisk({ base, store: 'memory', memoryLimit: 1 << 18, logger: keepingLogger() });
    const got = new Set<BlockStatus>();
    for (let i = 0; i < 64; i++) got.add(await disk.write(i * 65536, [bytes(65536, 1)]));
    expect(got).toEqual(new Set(['ok', 'no-space']));
    const b = new Uint8Array(65536);
    await disk.read(0, [b]);
    expect(b[0]).toBe(1);
  });
});

describe('rate limits', () => {
  const setUp = (limits: ConstructorParameters<typeof ThrottledDisk>[0]['limits']) => {
    const clock = new ManualClock();
    const disk = new ThrottledDisk({ disk: new RamDisk({ size: 64 << 20 }), limits, clock });
    const ends: number[] = [];
    const watch = (p: Promise<BlockStatus>): void => void p.then(() => ends.push(clock.now() / 1e6));
    const settle = async (ms: number): Promise<void> => {
      for (let i = 0; i < ms; i++) {
        clock.advance(1e6);
        await new Promise((r) => setImmediate(r));
      }
    };
    return { disk, ends, watch, settle };
  };

  it('let operations pass at their rate, after a burst', async () => {
    const { disk, ends, watch, settle } = setUp({ iops: 100, iopsBurst: 5 });
    for (let i = 0; i < 15; i++) watch(disk.read(0, [new Uint8Array(512)]));
    await settle(150);
    expect(ends.length).toBe(15);
    expect(ends.slice(0, 5).every((t) => t <= 1)).toBe(true);
    for (let i = 5; i < 15; i++) expect(ends[i]).toBeCloseTo((i - 4) * 10, 0);
    expect(disk.counters()['delayed']).toBe(10);
  });

  it('count bytes, and let a request larger than the bucket through when it is full', async () => {
    const { disk, ends, watch, settle } = setUp({ bps: 1 << 20, bpsBurst: 65536 });
    watch(disk.write(0, [new Uint8Array(1 << 19)])); // at once, into debt
    watch(disk.write(0, [new Uint8Array(512)]));
    await settle(600);
    expect(ends[0]).toBeLessThanOrEqual(1);
    expect(ends[1]).toBeGreaterThan(430);
    expect(ends[1]).toBeLessThan(520);
  });

  it('keep reads and writes apart when told so, in order', async () => {
    const { disk, ends, watch, settle } = setUp({ iopsWrite: 10, iopsBurst: 1 });
    watch(disk.write(0, [new Uint8Array(512)]));
    for (let i = 0; i < 5; i++) watch(disk.read(0, [new Uint8Array(512)]));
    await settle(5);
    expect(ends.length).toBe(6);
  });

  it('closing lets waiting requests go', async () => {
    const { disk, ends, watch } = setUp({ iops: 1, iopsBurst: 1 });
    for (let i = 0; i < 10; i++) watch(disk.flush());
    await disk.close();
    await new Promise((r) => setImmediate(r));
    expect(ends.length).toBe(10);
  });

  it('come from the disk string', async () => {
    const clock = new ManualClock();
    const disk = await openBlock('ram:1M,iops=10,iops-burst=1', { clock });
    let done = 0;
    for (let i = 0; i < 3; i++) void disk.flush().then(() => done++);
    await new Promise((r) => setImmediate(r));
    expect(done).toBe(1);
    clock.advance(250e6);
    await new Promise((r) => setImmediate(r));
    expect(done).toBe(3);
  });
});
