// Images that QEMU's tools and this package both write: each checks, compares and maps what the other made.
import { closeSync, copyFileSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { isHyveError } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import {
  checkDisk,
  checkJson,
  convertDisk,
  createDisk,
  diskInfo,
  infoJson,
  mapDisk,
  mapJson,
  resizeDisk,
} from '../src/disk/index.ts';
import { type DiskImage, openBlock } from '../src/index.ts';
import { loadHostCalls } from '../src/libc.ts';
import { bytes, have, run, scratch } from './helpers.ts';
import { random } from './memory-file.ts';

const qemu = have('qemu-img') && have('qemu-io');
const at = scratch();
const MIB = 1 << 20;

type Json = Record<string, unknown>;

function theirInfo(path: string): Json {
  return JSON.parse(run('qemu-img', 'info', '--output=json', path)) as Json;
}

/** Their map, without what differs by version: adjacent parts that are alike become one. */
function theirMap(path: string): Json[] {
  return merged(JSON.parse(run('qemu-img', 'map', '--output=json', path)) as Json[]);
}

function merged(rows: readonly Json[]): Json[] {
  const out: Json[] = [];
  for (const r of rows) {
    const { compressed: _c, present: _p, ...row } = r;
    // Where nothing is stored, the depth says nothing.
    if (r['present'] === false) row['depth'] = 0;
    // Whether holes within stored clusters are looked for is a heuristic of theirs.
    if (r['data'] === true && r['offset'] !== undefined) row['zero'] = false;
    const last = out.at(-1);
    const follows =
      last !== undefined &&
      last['zero'] === row['zero'] &&
      last['data'] === row['data'] &&
      last['depth'] === row['depth'] &&
      (last['offset'] === undefined
        ? row['offset'] === undefined
        : row['offset'] === (last['offset'] as number) + (last['length'] as number));
    if (follows) last['length'] = (last['length'] as number) + (row['length'] as number);
    else out.push({ ...row });
  }
  return out;
}

async function ourMap(path: string): Promise<Json[]> {
  const rows: Json[] = [];
  for await (const e of mapDisk(path)) rows.push(mapJson(e) as Json);
  return merged(rows);
}

/** Both check the image; their numbers agree with ours. */
async function bothCheck(path: string): Promise<void> {
  const theirs = JSON.parse(run('qemu-img', 'check', '--output=json', path)) as Json;
  const ours = checkJson(path, await checkDisk(path));
  expect({ ...ours, 'image-end-offset': 0 }).toEqual({ ...theirs, 'image-end-offset': 0 });
}

interface Op {
  readonly kind: 'write' | 'zero' | 'unmap' | 'discard';
  readonly at: number;
  readonly length: number;
  readonly value: number;
}

function randomOps(seed: number, size: number, count: number): Op[] {
  const rnd = random(seed);
  return Array.from({ length: count }, () => {
    const begin = Math.floor((rnd() * (size - 512)) / 512) * 512;
    const length = Math.min(size - begin, 512 * (1 + Math.floor(rnd() * (rnd() < 0.25 ? 400 : 24))));
    const k = rnd();
    const kind = k < 0.6 ? 'write' : k < 0.75 ? 'zero' : k < 0.88 ? 'unmap' : 'discard';
    return { kind, at: begin, length, value: 1 + Math.floor(rnd() * 254) };
  });
}

async function ourRun(disk: DiskImage, ops: readonly Op[]): Promise<void> {
  for (const o of ops) {
    const status =
      o.kind === 'write'
        ? await disk.write(o.at, [bytes(o.length, o.value)])
        : o.kind === 'discard'
          ? await disk.discard(o.at, o.length)
          : await disk.writeZeroes(o.at, o.length, o.kind === 'unmap');
    expect(status).toBe('ok');
  }
}

function theirRun(path: string, ops: readonly Op[]): void {
  const commands = ops.flatMap((o) => {
    const what =
      o.kind === 'write'
        ? `write -q -P ${o.value} ${o.at} ${o.length}`
        : o.kind === 'discard'
          ? `discard -q ${o.at} ${o.length}`
          : `write -q -z ${o.kind === 'unmap' ? '-u ' : ''}${o.at} ${o.length}`;
    return ['-c', what];
  });
  run('qemu-io', '-f', 'qcow2', '-d', 'unmap', ...commands, path);
}

const LAYOUTS = [
  'cluster_size=65536',
  'cluster_size=512,refcount_bits=1',
  'cluster_size=4096,refcount_bits=64,lazy_refcounts=on',
  'cluster_size=2M,refcount_bits=8',
  'cluster_size=4096,compat=0.10',
  'cluster_size=65536,compression_type=zstd',
];

describe.skipIf(!qemu)('with QEMU (needs qemu-utils)', () => {
  it('creates what QEMU creates', async () => {
    for (const options of LAYOUTS) {
      const theirs = at('theirs.qcow2');
      const ours = at('ours.qcow2');
      run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, theirs, '40M');
      const o = Object.fromEntries(options.split(',').map((x) => x.split('='))) as Record<string, string>;
      await createDisk(ours, {
        format: 'qcow2',
        size: 40 * MIB,
        overwrite: true,
        clusterSize: o['cluster_size'] === '2M' ? 2 * MIB : Number(o['cluster_size']),
        ...(o['refcount_bits'] === undefined ? {} : { refcountBits: Number(o['refcount_bits']) }),
        ...(o['compat'] === '0.10' ? { compat: '0.10' as const } : {}),
        ...(o['lazy_refcounts'] === 'on' ? { lazyRefcounts: true } : {}),
        ...(o['compression_type'] === 'zstd' ? { compression: 'zstd' as const } : {}),
      });
      const name = { filename: '', 'actual-size': 0 };
      expect({ ...theirInfo(ours), ...name }).toEqual({ ...theirInfo(theirs), ...name });
      expect({ ...infoJson(await diskInfo(theirs)), ...name }).toEqual({ ...theirInfo(theirs), ...name });
      await bothCheck(ours);
      run('qemu-img', 'compare', '-q', ours, theirs);
    }
  });

  it('runs random operations to the same end, on images of either, by turns', async () => {
    const size = 6 * MIB;
    for (const [n, options] of LAYOUTS.entries()) {
      const ours = at(`o${n}.qcow2`);
      const theirs = at(`t${n}.qcow2`);
      run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, ours, String(size));
      run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, theirs, String(size));
      // Discards may leave anything where clusters are covered in part; both zero whole ones here.
      for (let round = 0; round < (n < 2 ? 2 : 1); round++) {
        const ops = randomOps(n * 10 + round, size, 40).map((o) =>
          o.kind === 'discard' ? { ...o, kind: 'unmap' as const } : o,
        );
        // Turn about: what one wrote, the other goes on with.
        const disk = await openBlock(round === 0 ? ours : theirs);
        await ourRun(disk, ops);
        await disk.close();
        theirRun(round === 0 ? theirs : ours, ops);
        await bothCheck(ours);
        await bothCheck(theirs);
        run('qemu-img', 'compare', '-q', ours, theirs);
        expect(await ourMap(ours)).toEqual(theirMap(ours));
        expect(await ourMap(theirs)).toEqual(theirMap(theirs));
      }
      const raw = at('raw.img');
      await convertDisk(theirs, raw, { overwrite: true });
      run('qemu-img', 'compare', '-q', '-f', 'raw', '-F', 'qcow2', raw, ours);
    }
  }, 30_000);

  it('discards leave an image both find sound, and zeros where whole clusters were', async () => {
    const path = at('discard.qcow2');
    run('qemu-img', 'create', '-q', '-f', 'qcow2', path, '6M');
    const disk = await openBlock(path);
    await ourRun(disk, randomOps(3, 6 * MIB, 80));
    await disk.write(0, [bytes(MIB, 1)]);
    await disk.discard(65536, 65536);
    await disk.close();
    await bothCheck(path);
    run('qemu-io', '-c', 'read -q -P 0 64k 64k', '-c', 'read -q -P 1 0 64k', '-c', 'read -q -P 1 128k 64k', path);
  });

  it('reads through backing chains, writes over them, and maps them alike', async () => {
    const size = 4 * MIB;
    const base = at('base.raw');
    writeFileSync(base, bytes(size - 10_000, 0xb0)); // ends within a sector
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', at('mid.qcow2'), String(size));
    theirRun(
      at('mid.qcow2'),
      randomOps(1, size, 20).filter((o) => o.kind !== 'discard'),
    );
    await createDisk(at('top.qcow2'), { format: 'qcow2', size: size + MIB, backing: 'mid.qcow2', clusterSize: 4096 });
    expect((await diskInfo(at('top.qcow2'))).qcow2?.backingFormat).toBe('qcow2');
    copyFileSync(at('top.qcow2'), at('copy.qcow2'));
    const ops = randomOps(2, size, 60).filter((o) => o.kind !== 'discard');
    const disk = await openBlock(at('top.qcow2'));
    await ourRun(disk, ops);
    await disk.close();
    theirRun(at('copy.qcow2'), ops);
    run('qemu-img', 'compare', '-q', at('top.qcow2'), at('copy.qcow2'));
    await bothCheck(at('top.qcow2'));
    for (const f of ['top.qcow2', 'copy.qcow2', 'mid.qcow2']) {
      // Their names of files are relative where ours are not.
      expect(await ourMap(at(f))).toEqual(theirMap(at(f)));
    }
    await convertDisk(at('top.qcow2'), at('flat.qcow2'), { format: 'qcow2', compress: true });
    run('qemu-img', 'compare', '-q', at('flat.qcow2'), at('copy.qcow2'));
    await bothCheck(at('flat.qcow2'));
  });

  it('reads what QEMU compressed, and QEMU what we did', async () => {
    const raw = at('plain.raw');
    const data = new Uint8Array(3 * MIB);
    const rnd = random(9);
    for (let i = 0; i < data.length; i++) data[i] = i % 65536 < 40_000 ? (i >> 8) & 0xff : rnd() * 256;
    data.fill(0, MIB, MIB + 300_000);
    writeFileSync(raw, data);
    for (const type of ['zlib', 'zstd'] as const) {
      for (const cluster of type === 'zlib' ? [4096, 2 * MIB] : [65536]) {
        const theirs = at('theirs-c.qcow2');
        const o = `compression_type=${type},cluster_size=${cluster}`;
        run('qemu-img', 'convert', '-c', '-O', 'qcow2', '-o', o, raw, theirs);
        const ours = at('ours-c.qcow2');
        await convertDisk(raw, ours, {
          format: 'qcow2',
          compress: true,
          overwrite: true,
          create: { compression: type, clusterSize: cluster },
        });
        run('qemu-img', 'compare', '-q', ours, raw);
        await bothCheck(ours);
        await bothCheck(theirs);
        await convertDisk(theirs, at('back.raw'), { overwrite: true });
        expect(Buffer.compare(readFileSync(at('back.raw')), data)).toBe(0);
      }
    }
  }, 20_000);

  it('keeps internal snapshots whole while the disk goes on', async () => {
    for (const options of ['cluster_size=4096', 'cluster_size=65536,compat=0.10']) {
      const path = at('snap.qcow2');
      const size = 3 * MIB;
      run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', options, path, String(size));
      theirRun(
        path,
        randomOps(4, size, 25).filter((o) => o.kind !== 'discard'),
      );
      run('qemu-img', 'convert', '-O', 'raw', path, at('then.raw'));
      run('qemu-img', 'snapshot', '-c', 'before', path);
      const info = await diskInfo(path);
      expect(info.qcow2?.snapshots.map((s) => [s.id, s.name])).toEqual([['1', 'before']]);
      const theirs = theirInfo(path)['snapshots'] as Json[];
      expect((infoJson(info)['snapshots'] as Json[])[0]).toEqual({ ...theirs[0], icount: undefined });
      const disk = await openBlock(path);
      await ourRun(disk, randomOps(5, size, 60));
      await disk.close();
      await bothCheck(path);
      run('qemu-img', 'convert', '-l', 'before', '-O', 'raw', path, at('now.raw'));
      expect(Buffer.compare(readFileSync(at('now.raw')), readFileSync(at('then.raw')))).toBe(0);
      run('qemu-img', 'snapshot', '-a', 'before', path);
      await convertDisk(path, at('applied.raw'), { overwrite: true });
      expect(Buffer.compare(readFileSync(at('applied.raw')), readFileSync(at('then.raw')))).toBe(0);
      run('qemu-img', 'snapshot', '-d', 'before', path);
      await bothCheck(path);
    }
  });

  it.skipIf(loadHostCalls()?.linux !== true)(
    'takes space for tables that QEMU left as holes, so that a flush does not fail on a full disk (needs node:ffi on Linux)',
    async () => {
      const path = at('holes.qcow2');
      run('qemu-img', 'create', '-q', '-f', 'qcow2', path, '4M');
      const disk = await openBlock(path);
      await disk.close();
      const image = readFileSync(path);
      const l1 = Number(image.readBigUInt64BE(40));
      const fd = openSync(path, 'r');
      expect(loadHostCalls()?.nextData(fd, l1)).toBe(l1);
      closeSync(fd);
      await bothCheck(path);
    },
  );

  it('resizes to what QEMU reads', async () => {
    const path = at('resize.qcow2');
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path, '1M');
    run('qemu-io', '-c', 'write -q -P 7 0 1M', path);
    expect(await resizeDisk(path, { by: 200 * MIB })).toBe(201 * MIB);
    await bothCheck(path);
    run('qemu-io', '-c', 'read -q -P 7 0 1M', '-c', 'read -q -P 0 1M 1M', '-c', 'write -q -P 9 200M 1M', path);
    expect(await resizeDisk(path, MIB / 2, { shrink: true })).toBe(MIB / 2);
    await bothCheck(path);
    expect(theirInfo(path)['virtual-size']).toBe(MIB / 2);
    run('qemu-io', '-c', 'read -q -P 7 0 512k', path);
  });

  it('refuses what it does not know, by name', async () => {
    const refuse = async (...create: readonly string[]): Promise<string> => {
      const path = at('other.qcow2');
      run('qemu-img', 'create', '-q', '-f', 'qcow2', ...create, path, '4M');
      const e = await openBlock(path).catch((x: unknown) => x);
      return isHyveError(e) ? `${e.code}: ${e.message}` : String(e);
    };
    expect(await refuse('-o', 'extended_l2=on')).toMatch(/BLOCK_UNSUPPORTED.*extended L2/);
    expect(await refuse('-o', `data_file=${at('data.raw')}`)).toMatch(/BLOCK_UNSUPPORTED.*external data file/);
  });

  it('and QEMU respect each other while an image is in use', async () => {
    const path = at('locked.qcow2');
    run('qemu-img', 'create', '-q', '-f', 'qcow2', path, '4M');
    const disk = await openBlock(path);
    expect(() => run('qemu-img', 'info', path)).toThrow(/lock/);
    expect(() => run('qemu-io', '-c', 'write 0 512', path)).toThrow(/lock/);
    await disk.close();
    const reader = await openBlock(`${path},ro`);
    run('qemu-img', 'info', path);
    expect(() => run('qemu-io', '-c', 'write 0 512', path)).toThrow(/lock/);
    await reader.close();
    run('qemu-io', '-c', 'write -q 0 512', path);
  });

  it('leaves persistent bitmaps alone when it only reads, and drops what they promise when it writes', async () => {
    const path = at('bitmap.qcow2');
    run('qemu-img', 'create', '-q', '-f', 'qcow2', path, '4M');
    run('qemu-img', 'bitmap', '--add', path, 'b0');
    await bothCheck(path);
    const disk = await openBlock(path);
    await disk.write(0, [bytes(65536, 1)]);
    await disk.close();
    run('qemu-io', '-c', 'read -q -P 1 0 64k', path);
  });
});
