// File systems written without root, as e2fsprogs see them.
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { type FsNode, writeExt4 } from '../src/images/ext4.ts';

const GROUP = 128 * 2 ** 20;
const dir = mkdtempSync(join(tmpdir(), 'hyve-ext4-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const tools = spawnSync('e2fsck', ['-V'], { stdio: 'ignore' }).status === 0;
const node = (path: string, type: FsNode['type'], more: Partial<FsNode> = {}): FsNode => ({
  ...{ path, type, mode: type === 'directory' ? 0o755 : 0o644, uid: 0, gid: 0, mtime: 1_700_000_000 },
  ...{ data: new Uint8Array(0), link: '', ...more },
});

async function image(name: string, nodes: readonly FsNode[], groups = 1): Promise<string> {
  const path = join(dir, name);
  const fd = openSync(path, 'w');
  try {
    ftruncateSync(fd, groups * GROUP);
    await writeExt4(nodes, {
      size: groups * GROUP,
      label: 'test',
      uuid: new Uint8Array(16).fill(0x5a),
      journal: 8 * 2 ** 20,
      write: async (offset, data) => void writeSync(fd, data, 0, data.length, offset),
    });
  } finally {
    closeSync(fd);
  }
  return path;
}

function debugfs(path: string, command: string): string {
  return execFileSync('debugfs', ['-R', command, path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

describe.skipIf(!tools)('ext4 (needs e2fsprogs)', () => {
  const random = (size: number, seed: number): Uint8Array =>
    Uint8Array.from({ length: size }, (_, i) => (i * 31 + seed * 17 + (i >> 8) * 7) & 0xff);
  // Directories of many blocks, files that end inside a block, at its end, and in the next group.
  const nodes: FsNode[] = [
    node('usr/bin', 'directory', { mode: 0o755 }),
    ...Array.from({ length: 2000 }, (_, i) =>
      node(`many/file-${i}-with-a-name`, 'file', {
        data: random(i % 9000, i),
        uid: i % 3 === 0 ? 100_000 : 1,
        gid: 42,
      }),
    ),
    node('usr/bin/su', 'file', { mode: 0o4755, data: random(4096, 1) }),
    node('big', 'file', { data: random(100 * 2 ** 20 + 1, 2) }),
    node('bin', 'symlink', { link: 'usr/bin' }),
    node('long', 'symlink', { link: 'x'.repeat(300) }),
    node('tmp', 'directory', { mode: 0o1777 }),
    node('also', 'hardlink', { link: 'usr/bin/su' }),
  ];

  it('is clean, and holds what was put in', async () => {
    const path = await image('tree', nodes, 3);
    const check = spawnSync('e2fsck', ['-fn', path], { encoding: 'utf8' });
    expect(check.stdout + check.stderr).toMatch(/test: \d+\/24576 files/u);
    expect(check.status).toBe(0);
    for (const name of ['many/file-1999-with-a-name', 'usr/bin/su', 'also', 'big']) {
      debugfs(path, `dump /${name} ${dir}/out`);
      const wanted = nodes.find((n) => n.path === (name === 'also' ? 'usr/bin/su' : name));
      expect(readFileSync(join(dir, 'out')).equals(wanted?.data ?? Buffer.of())).toBe(true);
    }
    expect(debugfs(path, 'stat /usr/bin/su')).toMatch(/Mode: {2}04755[\s\S]*Links: 2/u);
    expect(debugfs(path, 'stat /many/file-3-with-a-name')).toMatch(/User: 100000 +Group: +42/u);
    expect(debugfs(path, 'stat /bin')).toContain('Fast link dest: "usr/bin"');
    expect(debugfs(path, 'cat /long')).toBe('x'.repeat(300));
    expect(debugfs(path, 'stat /tmp')).toMatch(/Mode: {2}01777/u);
  });

  it('equal trees are equal bytes', async () => {
    const few = nodes.slice(0, 50);
    expect(readFileSync(await image('a', few)).equals(readFileSync(await image('b', few)))).toBe(true);
  });
});

describe('ext4 refuses', () => {
  it.each<[string, readonly FsNode[], RegExp]>([
    ['what does not fit', [node('f', 'file', { data: new Uint8Array(GROUP) })], /does not fit/u],
    ['a file below a file', [node('a', 'file'), node('a/b', 'file')], /a is not a directory/u],
    ['a link to nothing', [node('a', 'hardlink', { link: 'b' })], /link to b, which is not there/u],
    ['two kinds under one name', [node('a', 'file'), node('a', 'symlink', { link: 'b' })], /two things/u],
    ['a name that is too long', [node('n'.repeat(256), 'file')], /too long/u],
  ])('%s', async (name, nodes, message) => {
    await expect(image(name, nodes)).rejects.toThrow(message);
  });
});
