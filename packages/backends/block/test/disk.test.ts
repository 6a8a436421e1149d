// `xhyve disk`, as a user types it.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { convertDisk, DISK_HELP, diskCommand } from '../src/disk/index.ts';
import { openBlock } from '../src/index.ts';
import { bytes, scratch } from './helpers.ts';

const at = scratch();

async function type(
  ...words: readonly string[]
): Promise<{ status: number; out: string; err: string; progress: number[] }> {
  const out: string[] = [];
  const err: string[] = [];
  const progress: number[] = [];
  const status = await diskCommand(words, {
    print: (t) => void out.push(t),
    complain: (t) => void err.push(t),
    progress: (d) => void progress.push(d ?? -1),
  });
  return { status, out: out.join('\n'), err: err.join('\n'), progress };
}

describe('xhyve disk', () => {
  it('create, info, resize', async () => {
    const file = at('a.qcow2');
    expect(await type('create', file, '64M', '-o', 'cluster_size=4k,lazy_refcounts=on')).toMatchObject({
      status: 0,
      err: '',
    });
    expect(await type('create', file, '1M')).toMatchObject({ status: 4, out: '' });
    expect((await type('create', file, '1M')).err).toMatch(/exists already/);
    const info = await type('info', file);
    expect(info.out).toContain('virtual size: 64 MiB (67108864 bytes)');
    expect(info.out).toContain('cluster size: 4 KiB');
    expect(JSON.parse((await type('info', '--json', file)).out)).toMatchObject({
      'virtual-size': 64 << 20,
      'cluster-size': 4096,
      format: 'qcow2',
      'dirty-flag': false,
      'format-specific': {
        type: 'qcow2',
        data: { compat: '1.1', 'lazy-refcounts': true, 'refcount-bits': 16, corrupt: false },
      },
    });
    expect(JSON.parse((await type('resize', file, '+64M', '--json')).out)['virtual-size']).toBe(128 << 20);
    expect((await type('resize', file, '32M')).err).toMatch(/asked for/);
    expect((await type('resize', file, '-96M', '--shrink')).status).toBe(0);
    expect(JSON.parse((await type('info', '--json', file)).out)['virtual-size']).toBe(32 << 20);
    const top = at('top.qcow2');
    expect((await type('create', '-b', 'a.qcow2', top)).status).toBe(0);
    const chain = JSON.parse((await type('info', '--backing-chain', '--json', top)).out) as { filename: string }[];
    expect(chain.map((i) => i.filename)).toEqual([top, file]);
    expect((await type('create', '-b', 'none.qcow2', at('x.qcow2'))).err).toMatch(/no such file/);
    expect(existsSync(at('x.qcow2'))).toBe(false);
    const raw = at('a.img');
    expect((await type('create', '-f', 'raw', raw, '100k')).out).toContain('102400 bytes');
    expect((await type('create', '--force', '-o', 'preallocation=full', raw, '200k')).status).toBe(0);
    expect(readFileSync(raw).length).toBe(204800);
  });

  it('convert, map and check, with progress', async () => {
    const raw = at('c.img');
    const data = new Uint8Array(5 << 20);
    data.fill(1, 1 << 20, 2 << 20);
    data.fill(2, (5 << 20) - 512);
    writeFileSync(raw, data);
    const file = at('c.qcow2');
    const done = await type('convert', '-p', raw, file);
    expect(done).toMatchObject({ status: 0, err: '' });
    expect(done.progress.at(-1)).toBe(-1);
    expect(done.progress.at(-2)).toBe(1);
    expect(done.progress.slice(0, -1)).toEqual([...done.progress.slice(0, -1)].sort((a, b) => a - b));
    const rows = JSON.parse((await type('map', '--json', file)).out) as Record<string, unknown>[];
    expect(rows.filter((r) => r['data'] === true && r['zero'] === false)).toMatchObject([
      { start: 1 << 20, length: 1 << 20, depth: 0, present: true, compressed: false },
      { length: 65536 },
    ]);
    expect(rows.reduce((n, r) => n + (r['length'] as number), 0)).toBe(5 << 20);
    expect((await type('map', file)).out.split('\n').length).toBe(3);
    expect(await type('check', file)).toMatchObject({ status: 0 });
    for (const words of [['-c'], ['-c', '-o', 'compression_type=zstd'], ['-o', 'compat=0.10']]) {
      expect((await type('convert', '--force', '-O', 'qcow2', ...words, file, at('d.qcow2'))).status).toBe(0);
      expect((await type('check', at('d.qcow2'))).status).toBe(0);
      expect((await type('convert', '--force', at('d.qcow2'), at('back.img'))).status).toBe(0);
      expect(Buffer.compare(readFileSync(at('back.img')), data)).toBe(0);
    }
    expect((await type('convert', raw, file)).err).toMatch(/exists already/);
    expect((await type('convert', at('none'), at('new.img'))).status).toBe(4);
    expect(existsSync(at('new.img'))).toBe(false);
  });

  it('check tells leaks and corruption by its status, and repairs', async () => {
    const file = at('broken.qcow2');
    await type('create', file, '1M');
    const disk = await openBlock(file);
    await disk.write(0, [bytes(65536, 1)]);
    await disk.close();
    const image = readFileSync(file);
    const block = Number(image.readBigUInt64BE(65536));
    const leaky = Buffer.from(image);
    leaky.writeUInt16BE(1, block + 2 * 50);
    writeFileSync(file, leaky);
    expect((await type('check', file)).status).toBe(3);
    expect(JSON.parse((await type('check', '--json', file)).out)).toMatchObject({ leaks: 1, 'check-errors': 0 });
    expect((await type('check', '--repair', 'leaks', file)).out).toContain('1 leaked clusters were given back');
    expect((await type('check', file)).status).toBe(0);
    const bad = Buffer.from(image);
    bad.writeUInt16BE(0, block + 2 * 3);
    bad.writeUInt32BE(2, 76); // and marked as such
    writeFileSync(file, bad);
    expect((await type('check', file)).status).toBe(2);
    await expect(openBlock(file)).rejects.toThrow(/corrupt/);
    expect((await type('check', '--repair', 'all', file)).status).toBe(0);
    await (await openBlock(file)).close();
  });

  it('a full target is reported, and an unfinished new file removed', async () => {
    const raw = at('src.img');
    writeFileSync(raw, bytes(1 << 20, 1));
    await expect(convertDisk(raw, '/dev/full', { overwrite: true })).rejects.toThrow();
  });

  it('usage mistakes have status 1 and one line', async () => {
    for (const words of [
      ['frob'],
      ['create'],
      ['create', 'a', '1M', '2M'],
      ['create', at('z'), 'lots'],
      ['create', '-o', 'color=red', at('z'), '1M'],
      ['create', '-f', 'vmdk', at('z'), '1M'],
      ['info', '-x', 'a'],
      ['info'],
      ['info', '--json=yes', 'a'],
      ['check', '--repair'],
      ['check', '--repair', 'magic', 'a'],
      ['convert', 'a'],
      ['resize', 'a'],
      ['map', '-c', 'a'],
    ]) {
      const r = await type(...words);
      expect([words, r.status, r.out, r.err.split('\n').length]).toEqual([words, 1, '', 1]);
      expect(r.err).toMatch(/^xhyve: disk /);
    }
    expect(await type('--help')).toMatchObject({ status: 0, out: DISK_HELP });
    expect((await type()).status).toBe(1);
    expect((await type('info', at('none'))).status).toBe(4);
  });
});
