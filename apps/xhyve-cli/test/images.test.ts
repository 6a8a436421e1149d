import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { pack } from 'tar-stream';
import { afterAll, describe, expect, it } from 'vitest';
import { Apt } from '../src/images/apt.ts';
import { decompress, detectCompression, readAr, readDeb, readTar } from '../src/images/archive.ts';
import { ImageCache, sha256 } from '../src/images/cache.ts';
import { CATALOGUE, debianInitrd, findImage, parseAlpineReleases } from '../src/images/catalogue.ts';
import { bootLine } from '../src/images/command.ts';
import { CpioWriter } from '../src/images/cpio.ts';
import { buildInitrd } from '../src/images/initrd.ts';
import {
  closure,
  type ModuleFile,
  modinfoSection,
  moduleInfo,
  modulesAlias,
  modulesDep,
  nameOfPath,
} from '../src/images/modules.ts';
import { ProgressDisplay, progressLine } from '../src/images/progress.ts';
import { listImages, pullEntry, pullImage } from '../src/images/pull.ts';

const bytes = (s: string): Uint8Array => new TextEncoder().encode(s);
const text = (b: Uint8Array): string => new TextDecoder().decode(b);
const temporary = (): string => mkdtempSync(join(tmpdir(), 'xhyve-images-'));

/** Reads a newc archive as the kernel does. */
function readCpio(
  a: Uint8Array,
): { path: string; mode: number; data: Uint8Array; rdev: [number, number]; inode: number }[] {
  const out = [];
  for (let at = 0; ; ) {
    expect(at % 4).toBe(0);
    expect(text(a.subarray(at, at + 6))).toBe('070701');
    const f = (i: number): number => Number.parseInt(text(a.subarray(at + 6 + i * 8, at + 14 + i * 8)), 16);
    const [size, nameSize] = [f(6), f(11)];
    const path = text(a.subarray(at + 110, at + 110 + nameSize - 1));
    expect(a[at + 110 + nameSize - 1]).toBe(0);
    const start = Math.ceil((at + 110 + nameSize) / 4) * 4;
    if (path === 'TRAILER!!!') return out;
    out.push({
      path,
      mode: f(1),
      data: a.subarray(start, start + size),
      rdev: [f(9), f(10)] as [number, number],
      inode: f(0),
    });
    at = Math.ceil((start + size) / 4) * 4;
  }
}

async function tarOf(files: Record<string, string | { link: string }>): Promise<Uint8Array> {
  const p = pack();
  for (const [name, content] of Object.entries(files)) {
    if (typeof content === 'string') p.entry({ name, mode: 0o755 }, content);
    else p.entry({ name, type: 'symlink', linkname: content.link });
  }
  p.finalize();
  const parts: Uint8Array[] = [];
  for await (const c of p) parts.push(c as Uint8Array);
  return Buffer.concat(parts);
}

function arOf(members: [string, Uint8Array][]): Uint8Array {
  const parts = [bytes('!<arch>\n')];
  for (const [name, data] of members) {
    parts.push(
      bytes(
        `${name.padEnd(16)}${'0'.padEnd(12)}${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}${String(data.length).padEnd(10)}\`\n`,
      ),
    );
    parts.push(data);
    if (data.length % 2 === 1) parts.push(bytes('\n'));
  }
  return Buffer.concat(parts);
}

/** A relocatable ELF64 with a .modinfo section. */
function moduleElf(info: string[]): Uint8Array {
  const names = bytes('\0.modinfo\0.shstrtab\0');
  const data = bytes(info.map((l) => `${l}\0`).join(''));
  const out = new Uint8Array(64 + names.length + data.length + 3 * 64);
  const v = new DataView(out.buffer);
  out.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  out.set(names, 64);
  out.set(data, 64 + names.length);
  const table = 64 + names.length + data.length;
  v.setUint32(0x28, table, true);
  v.setUint16(0x3a, 64, true);
  v.setUint16(0x3c, 3, true);
  v.setUint16(0x3e, 2, true);
  const section = (i: number, name: number, offset: number, size: number): void => {
    v.setUint32(table + i * 64, name, true);
    v.setUint32(table + i * 64 + 0x18, offset, true);
    v.setUint32(table + i * 64 + 0x20, size, true);
  };
  section(1, 1, 64 + names.length, data.length);
  section(2, 10, 64, names.length);
  return out;
}

const mod = (path: string, lines: string[]): ModuleFile => {
  const data = moduleElf(lines);
  return { path, data, info: moduleInfo(path, data) };
};

describe('cpio (newc)', () => {
  it('writes files, directories with missing parents, links and devices', () => {
    const c = new CpioWriter();
    c.file('a/b/c.txt', 'hello', 0o640);
    c.dir('a');
    c.symlink('a/l', 'b/c.txt');
    c.charDevice('console', 5, 1);
    const archive = c.finish();
    expect(archive.length % 512).toBe(0);
    const rows = readCpio(archive);
    expect(rows.map((r) => [r.path, r.mode.toString(8)])).toEqual([
      ['a', '40755'],
      ['a/b', '40755'],
      ['a/b/c.txt', '100640'],
      ['a/l', '120777'],
      ['console', '20600'],
    ]);
    expect(text(rows[2]!.data)).toBe('hello');
    expect(text(rows[3]!.data)).toBe('b/c.txt');
    expect(rows[4]!.rdev).toEqual([5, 1]);
    expect(new Set(rows.map((r) => r.inode)).size).toBe(rows.length);
  });
  it('aligns any content', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(
            fc.string({ minLength: 1, maxLength: 9 }).filter((s) => !/[/\0]/u.test(s)),
            fc.uint8Array({ maxLength: 40 }),
          ),
        ),
        (files) => {
          const c = new CpioWriter();
          for (const [n, d] of files) c.file(n, d);
          expect(readCpio(c.finish()).map((r) => [r.path, [...r.data]])).toEqual(files.map(([n, d]) => [n, [...d]]));
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe('ar', () => {
  it('reads members and padding', () => {
    const a = arOf([
      ['debian-binary', bytes('2.0\n')],
      ['odd/', bytes('abc')],
      ['last', bytes('z')],
    ]);
    expect(readAr(a).map((m) => [m.name, text(m.data)])).toEqual([
      ['debian-binary', '2.0\n'],
      ['odd', 'abc'],
      ['last', 'z'],
    ]);
  });
  it('names the damage', () => {
    const a = arOf([['x', bytes('0123456789')]]);
    expect(() => readAr(bytes('MZ'))).toThrow('does not start with !<arch>');
    expect(() => readAr(a.subarray(0, a.length - 4))).toThrow("it ends inside 'x'");
    const bad = a.slice();
    bad[8 + 58] = 0;
    expect(() => readAr(bad)).toThrow('bad member header at byte 0x8');
  });
});

// "hello\n" by xz -9.
const HELLO_XZ = Buffer.from(
  '/Td6WFoAAATm1rRGAgAhARwAAAAQz1jMAQAFaGVsbG8KAAAApWCX8ZT2/eAAAR4GwS+kHR+2830BAAAAAARZWg==',
  'base64',
);

describe('compressions and tar', () => {
  it('tells them apart and takes them off', async () => {
    const plain = bytes('hello\n');
    for (const [kind, packed] of [
      ['gzip', gzipSync(plain)],
      ['zstd', zstdCompressSync(plain)],
      ['none', plain],
      ['xz', HELLO_XZ],
    ] as const) {
      expect(detectCompression(packed)).toBe(kind);
      expect(text(await decompress(packed))).toBe('hello\n');
    }
  });
  it('reads the files it is asked for, in a Debian package too', async () => {
    const tar = await tarOf({
      './usr/bin/tool': 'T'.repeat(5000),
      './usr/share/doc/x': 'no',
      './lib': { link: 'usr/lib' },
    });
    const seen: number[] = [];
    const deb = arOf([
      ['debian-binary', bytes('2.0\n')],
      ['control.tar.gz', gzipSync(await tarOf({ './control': 'Package: x' }))],
      ['data.tar.zst', zstdCompressSync(tar)],
    ]);
    const files = await readDeb(
      deb,
      (p) => p === 'usr/bin/tool' || p === 'lib',
      (done) => seen.push(done),
    );
    expect(files.map((f) => [f.path, f.mode.toString(8), f.data.length, f.link])).toEqual([
      ['usr/bin/tool', '755', 5000, null],
      ['lib', expect.any(String), 0, 'usr/lib'],
    ]);
    expect(seen.at(-1)).toBe(zstdCompressSync(tar).length);
  });
  it('rejects cut archives', async () => {
    const tar = gzipSync(await tarOf({ f: 'x'.repeat(1e5) }));
    await expect(readTar(tar.subarray(0, tar.length - 20), () => true)).rejects.toThrow();
    await expect(decompress(HELLO_XZ.subarray(0, 40))).rejects.toThrow();
    await expect(readDeb(arOf([['x', bytes('')]]), () => true)).rejects.toThrow('no data.tar');
  });
});

describe('kernel modules', () => {
  const all = new Map(
    [
      mod('kernel/ring.ko', ['name=ring', 'depends=']),
      mod('kernel/virtio.ko', ['name=virtio', 'depends=ring']),
      mod('kernel/virtio_pci.ko', [
        'name=virtio_pci',
        'depends=ring,virtio,legacy-dev',
        'alias=pci:v00001AF4d*sv*sd*bc*sc*i*',
      ]),
      mod('kernel/legacy-dev.ko', ['name=legacy_dev', 'depends=']),
      mod('kernel/crc.ko', ['name=libcrc', 'softdep=pre: crc32c post: late', 'depends=', 'alias=cpu:type:x86']),
      mod('kernel/crc32c_generic.ko', ['name=crc32c_generic', 'alias=crc32c', 'depends=']),
      mod('kernel/late.ko', ['depends=libcrc']),
    ].map((m) => [m.info.name, m]),
  );
  it('reads .modinfo', () => {
    expect(all.get('virtio_pci')!.info.depends).toEqual(['ring', 'virtio', 'legacy_dev']);
    expect(all.get('libcrc')!.info).toMatchObject({ softPre: ['crc32c'], softPost: ['late'] });
    expect(nameOfPath('a/b/snd-hda.ko.xz')).toBe('snd_hda');
    expect(modinfoSection(bytes('not an elf'))).toBeNull();
  });
  it('survives any bytes after an ELF magic', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 300 }), (junk) => {
        const elf = junk.slice();
        elf.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
        const s = modinfoSection(elf);
        expect(s === null || s.length <= elf.length).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
  it('closes over dependencies, soft ones by alias, dependencies first', () => {
    const c = closure(['virtio_pci', 'libcrc', 'ext4', 'nothing'], all, new Set(['ext4']));
    expect(c.modules.map((m) => m.info.name)).toEqual([
      'ring',
      'virtio',
      'legacy_dev',
      'virtio_pci',
      'crc32c_generic',
      'libcrc',
      'late',
    ]);
    expect(c.absent).toEqual(['nothing']);
  });
  it('writes modules.dep so that the last is loaded first', () => {
    const { modules } = closure(['virtio_pci'], all, new Set());
    expect(modulesDep(modules)).toBe(
      'kernel/ring.ko:\nkernel/virtio.ko: kernel/ring.ko\nkernel/legacy-dev.ko:\n' +
        'kernel/virtio_pci.ko: kernel/legacy-dev.ko kernel/virtio.ko kernel/ring.ko\n',
    );
    expect(modulesAlias([...all.values()])).toBe(
      'alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\nalias crc32c crc32c_generic\n',
    );
  });
  it('builds an initrd from a kernel package, compressed modules too', async () => {
    const base = 'lib/modules/6.1.0-1-amd64';
    const file = (path: string, data: Uint8Array) => ({ path: `${base}/${path}`, mode: 0o644, data, link: null });
    const { initrd, absent } = await debianInitrd(
      '6.1.0-1-amd64',
      [
        file(
          'kernel/drivers/virtio/virtio_pci.ko.zst',
          zstdCompressSync(moduleElf(['name=virtio_pci', 'depends=virtio'])),
        ),
        file('kernel/drivers/virtio/virtio.ko', moduleElf(['name=virtio', 'depends='])),
        file('kernel/sound/snd.ko', moduleElf(['name=snd', 'depends='])),
        file('modules.builtin', bytes('kernel/fs/ext4/ext4.ko\n')),
      ],
      bytes('BUSYBOX'),
    );
    const rows = new Map(readCpio(initrd).map((r) => [r.path, r]));
    expect(rows.get(`${base}/kernel/drivers/virtio/virtio_pci.ko`)!.data[0]).toBe(0x7f);
    expect(rows.has(`${base}/kernel/drivers/virtio/virtio.ko`)).toBe(true);
    expect(rows.has(`${base}/kernel/sound/snd.ko`)).toBe(false);
    expect(rows.get('init')!.mode & 0o111).toBe(0o111);
    expect(rows.get('bin/busybox')!.mode).toBe(0o100755);
    expect(rows.get('dev/console')!.rdev).toEqual([5, 1]);
    expect(absent).toContain('ahci');
    expect(absent).not.toContain('ext4');
    const again = buildInitrd({ busybox: bytes('B'), release: 'r', modules: [], indexes: new Map() });
    expect(again).toEqual(buildInitrd({ busybox: bytes('B'), release: 'r', modules: [], indexes: new Map() }));
  });
});

describe('progress', () => {
  it('is one line with bytes and percent', () => {
    expect(progressLine({ phase: 'download', what: 'x', done: 512, total: 2048 })).toBe(
      'fetching x: 512 bytes of 2 KiB (25%)',
    );
    expect(progressLine({ phase: 'download', what: 'x', done: 3 << 20, total: null })).toBe('fetching x: 3 MiB');
    expect(progressLine({ phase: 'index', what: '', done: 0, total: null })).toBe('reading the package index');
  });
  const play = (isTTY: boolean, steps: [ms: number, done: number][]): string => {
    let now = 0;
    let out = '';
    const write = (t: string): void => {
      out += t;
    };
    const d = new ProgressDisplay({ isTTY, columns: 60, write, now: () => now });
    for (const [ms, done] of steps) {
      now = ms;
      d.report({ phase: 'download', what: 'x', done, total: 1000 });
    }
    d.finish();
    return out;
  };
  it('rewrites one line on a terminal and leaves it clean', () => {
    expect(
      play(true, [
        [0, 0],
        [10, 5],
        [200, 500],
      ]),
    ).toBe(
      '\r\u001b[Kfetching x: 0 bytes of 1000 bytes (0%)\r\u001b[Kfetching x: 500 bytes of 1000 bytes (50%)\r\u001b[K',
    );
  });
  it('prints sparse plain lines elsewhere, none for quick work', () => {
    expect(
      play(false, [
        [0, 0],
        [500, 1000],
      ]),
    ).toBe('');
    expect(
      play(false, [
        [0, 0],
        [1500, 300],
        [2000, 350],
        [3600, 800],
        [3700, 1000],
      ]),
    ).toBe(
      'fetching x: 300 bytes of 1000 bytes (30%)\nfetching x: 800 bytes of 1000 bytes (80%)\nfetching x: 1000 bytes of 1000 bytes (100%)\n',
    );
  });
});

describe('cache', () => {
  const entry = (data: string | Error) => ({
    name: 'fake',
    about: '',
    origin: '',
    make: async (c: { work: string }) => {
      writeFileSync(join(c.work, 'half'), 'half made');
      if (data instanceof Error) throw data;
      return {
        about: { version: '1', cmdline: 'c', memory: '64M', sources: [], notes: [] },
        files: [{ role: 'kernel' as const, name: 'k', data: bytes(data) }],
      };
    },
  });
  it('keeps files by digest and needs no recipe the second time', async () => {
    const cacheDir = temporary();
    const first = await pullEntry(entry('one'), { cacheDir });
    expect(first.cached).toBe(false);
    expect(first.paths.kernel).toBe(join(cacheDir, 'sha256', sha256(bytes('one'))));
    expect(readFileSync(first.paths.kernel!, 'utf8')).toBe('one');
    expect((await pullEntry(entry(new Error('no network')), { cacheDir })).cached).toBe(true);
    expect(readdirSync(cacheDir).sort()).toEqual(['fake.json', 'sha256']);
  });
  it('keeps a file that is on disk already', async () => {
    const cacheDir = temporary();
    const make = async (c: { work: string }) => {
      writeFileSync(join(c.work, 'd'), 'a disk');
      return {
        about: { version: '1', cmdline: 'c', memory: '64M', sources: [], notes: [] },
        files: [
          { role: 'kernel' as const, name: 'k', data: bytes('k') },
          { role: 'disk' as const, name: 'd', data: join(c.work, 'd') },
        ],
      };
    };
    const found = await pullEntry({ name: 'fake', about: '', origin: '', make }, { cacheDir });
    expect(found.paths.disk).toBe(join(cacheDir, 'sha256', sha256(bytes('a disk'))));
    expect(found.manifest.files[1]).toMatchObject({ role: 'disk', size: 6 });
    expect(bootLine(found)).toContain(` -s 3,virtio-blk,${found.paths.disk},snapshot=on,format=qcow2 `);
  });
  it('leaves nothing half-made behind, and the old image in place', async () => {
    const cacheDir = temporary();
    await expect(pullEntry(entry(new Error('cut after 3 of 9 bytes')), { cacheDir })).rejects.toThrow(
      'pull fake: cut after 3 of 9 bytes',
    );
    expect(readdirSync(cacheDir)).toEqual(['sha256']);
    await pullEntry(entry('one'), { cacheDir });
    await expect(pullEntry(entry(new Error('x')), { cacheDir, force: true })).rejects.toThrow();
    expect((await pullEntry(entry(new Error('x')), { cacheDir })).cached).toBe(true);
  });
  it('notices a damaged file and fetches again', async () => {
    const cacheDir = temporary();
    const { paths } = await pullEntry(entry('one'), { cacheDir });
    writeFileSync(paths.kernel!, 'eno');
    expect((await pullEntry(entry('one'), { cacheDir })).cached).toBe(false);
    expect(readFileSync(paths.kernel!, 'utf8')).toBe('one');
  });
  it('drops files that a newer version no longer needs', async () => {
    const cacheDir = temporary();
    const old = await pullEntry(entry('one'), { cacheDir });
    await pullEntry(entry('two'), { cacheDir, force: true });
    expect(existsSync(old.paths.kernel!)).toBe(false);
  });
  it('clears away what dead processes left, and says when it cannot be written', async () => {
    const cacheDir = temporary();
    mkdirSync(join(cacheDir, '.work-4194305-abc'));
    const cache = new ImageCache(cacheDir);
    const mine = await cache.workDir();
    expect(existsSync(join(cacheDir, '.work-4194305-abc'))).toBe(false);
    await cache.discard(mine);
    await expect(pullEntry(entry('x'), { cacheDir: '/proc/nowhere/x' })).rejects.toThrow(
      'the image cache /proc/nowhere/x',
    );
  });
});

describe('catalogue', () => {
  it('has the guests of the documentation', async () => {
    expect(CATALOGUE.map((e) => e.name)).toEqual([
      'debian-cloud',
      'debian-full',
      'debian-i386',
      'debian-disk',
      'debian-netboot',
      'debian-netboot-i386',
      'memtest86',
      'ipxe',
      'ovmf',
      'seabios',
      'tinycore',
      'alpine',
    ]);
    expect(findImage('nothing')).toBeNull();
    await expect(pullImage('nothing')).rejects.toThrow('pull nothing: no such image; there are debian-cloud,');
    const rows = await listImages(temporary());
    expect(rows.every((r) => r.manifest === null && r.size === 0)).toBe(true);
  });
  it('reads the release list of Alpine', () => {
    const digest = 'ab'.repeat(32);
    const yaml = `---\n-\n  title: "Standard"\n  flavor: alpine-standard\n  file: x.iso\n-\n  flavor: alpine-netboot\n  version: 3.22.1\n  file: alpine-netboot-3.22.1-x86_64.tar.gz\n  sha256: ${digest}\n`;
    expect(parseAlpineReleases(yaml)).toEqual({
      file: 'alpine-netboot-3.22.1-x86_64.tar.gz',
      version: '3.22.1',
      sha256: digest,
    });
    expect(parseAlpineReleases(yaml.replace('alpine-netboot-3', '../../alpine-3'))).toBeNull();
    expect(parseAlpineReleases('')).toBeNull();
  });
});

describe('downloads', () => {
  const servers: Server[] = [];
  afterAll(() => {
    for (const s of servers) s.close();
  });
  const serve = async (handler: RequestListener): Promise<string> => {
    const server = createServer(handler);
    servers.push(server);
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  };
  const site =
    (files: Record<string, Uint8Array | string>): RequestListener =>
    (request, response) => {
      const body = files[request.url ?? ''];
      if (body === undefined) {
        response.statusCode = 404;
        response.end();
      } else response.end(body);
    };
  const md5 = (b: Uint8Array): string => createHash('md5').update(b).digest('hex');

  it('pulls tinycore and checks the digests its site publishes', async () => {
    const k = bytes('kernel');
    const i = bytes('initrd');
    const files = {
      '/vmlinuz64': k,
      '/vmlinuz64.md5.txt': `${md5(k)}  vmlinuz64\n`,
      '/corepure64.gz': i,
      '/corepure64.gz.md5.txt': `${md5(i)}  corepure64.gz\n`,
    };
    const cacheDir = temporary();
    const image = await pullImage('tinycore', { cacheDir, sites: { tinycore: await serve(site(files)) } });
    expect(readFileSync(image.paths.initrd!, 'utf8')).toBe('initrd');
    expect(bootLine(image)).toContain(
      `-f 'kexec,${image.paths.kernel},${image.paths.initrd},console=ttyS0 loglevel=4'`,
    );
    const wrong = { ...files, '/corepure64.gz': 'tampered' };
    const other = temporary();
    await expect(
      pullImage('tinycore', { cacheDir: other, sites: { tinycore: await serve(site(wrong)) } }),
    ).rejects.toThrow(/its md5 digest is/u);
    expect(readdirSync(other)).toEqual(['sha256']);
  });
  it('pulls alpine', async () => {
    const tar = gzipSync(
      await tarOf({ './boot/vmlinuz-virt': 'K', './boot/initramfs-virt': 'I', './boot/modloop-virt': 'M' }),
    );
    const list = `-\n  flavor: alpine-netboot\n  version: 9.9\n  file: n.tar.gz\n  sha256: ${sha256(tar)}\n`;
    const alpine = await serve(site({ '/latest-releases.yaml': list, '/n.tar.gz': tar }));
    const image = await pullImage('alpine', { cacheDir: temporary(), sites: { alpine } });
    expect(image.manifest.version).toBe('9.9');
    expect(readFileSync(image.paths.kernel!, 'utf8')).toBe('K');
  });
  it.each<[string, RequestListener, RegExp]>([
    ['a missing file', site({}), /the server answers 404/u],
    [
      'a cut transfer',
      (_q, r) => {
        r.setHeader('content-length', '1000');
        r.write('x'.repeat(10));
        setTimeout(() => r.destroy(), 20);
      },
      /cut after 10 of 1000 bytes/u,
    ],
  ])('says so about %s', async (_name, handler, message) => {
    const cacheDir = temporary();
    await expect(pullImage('alpine', { cacheDir, sites: { alpine: await serve(handler) } })).rejects.toThrow(message);
    expect(readdirSync(cacheDir)).toEqual(['sha256']);
  });
  it('says so when nobody is there, and when it is interrupted', async () => {
    await expect(
      pullImage('alpine', { cacheDir: temporary(), sites: { alpine: 'http://127.0.0.1:1' } }),
    ).rejects.toThrow(/pull alpine: cannot reach 127\.0\.0\.1:1/u);
    const abort = new AbortController();
    const slow = await serve(() => abort.abort());
    await expect(
      pullImage('alpine', { cacheDir: temporary(), sites: { alpine: slow }, signal: abort.signal }),
    ).rejects.toThrow('pull alpine: interrupted');
  });
});

describe('apt', () => {
  const deb = bytes('a package');
  /** Programs that behave as apt does, and misbehave as told. */
  const fake = async (o: { digest?: string; file?: string; fails?: string; update?: string }): Promise<Apt> => {
    const dir = temporary();
    const get = join(dir, 'get');
    const cache = join(dir, 'cache-program');
    const digest = o.digest ?? sha256(deb);
    writeFileSync(
      get,
      `#!/bin/sh
for w; do case $w in
update) ${o.update ?? ':'}; exit 0 ;;
--print-uris) print=1 ;;
--simulate | -s) case $* in *nothing*) ;; *) printf 'Inst base:amd64 (1 x [amd64])\\nInst tool (1 x [amd64])\\nConf base (1)\\n'; exit 0 ;; esac ;;
nothing) echo "E: Unable to locate package nothing" >&2; exit 100 ;;
esac; done
if [ -n "$print" ]; then echo "'x' tool_1%3a2.0_amd64.deb ${deb.length} SHA256:${digest}"; exit 0; fi
echo "dlstatus:1:50.0:half" >&3
${o.fails ?? `printf '%s' '${o.file ?? 'a package'}' > tool_1%3a2.0_amd64.deb`}
`,
      { mode: 0o755 },
    );
    writeFileSync(
      cache,
      `#!/bin/sh
for w; do case $w in
pkgnames) printf 'netboot-9\\nnetboot-12\\nother\\n' ;;
meta) printf 'Package: meta\\nDepends: base (>= 1) | x, linux-image-6.1-amd64 (= 1)\\n' ;;
esac; done
`,
      { mode: 0o755 },
    );
    return Apt.open({ dir, architecture: 'amd64', onProgress: (p) => seen.push(p.done), programs: { get, cache } });
  };
  let seen: number[] = [];
  it('fetches a package with progress and checks it', async () => {
    seen = [];
    const apt = await fake({});
    expect(await apt.names(/^netboot-\d+$/u)).toEqual(['netboot-9', 'netboot-12']);
    expect(await apt.dependency('meta', /^linux-image-/u)).toBe('linux-image-6.1-amd64');
    expect(await apt.closure(['tool'])).toEqual(['base', 'tool']);
    await expect(apt.closure(['nothing'])).rejects.toThrow('Unable to locate package nothing');
    expect(await apt.fetchAll(['tool'])).toEqual([await apt.fetch('tool')]);
    await expect(apt.fetchAll(['tool', 'other'])).rejects.toThrow("no package 'other'");
    seen = [];
    expect(await apt.fetch('tool')).toEqual({
      name: 'tool',
      version: '1:2.0',
      sha256: sha256(deb),
      data: Buffer.from(deb),
    });
    expect(seen).toEqual([0, 4, 9]);
  });
  it.each([
    ['a cut download', { file: 'a pack' }, 'fetching tool was cut: 6 of 9 bytes arrived'],
    ['a wrong digest', { digest: '00'.repeat(32) }, 'its SHA-256 is not the one in the signed index'],
    [
      'a failed download',
      { fails: 'echo "E: Failed to fetch x  Connection refused" >&2; exit 100' },
      'fetching tool failed: Failed to fetch x',
    ],
  ])('says so about %s', async (_name, o, message) => {
    const apt = await fake(o);
    await expect(apt.fetch('tool')).rejects.toThrow(message);
  });
  it('tells a missing package with what went wrong before', async () => {
    const apt = await fake({ update: 'echo "W: Failed to fetch http://x  Could not resolve" >&2' });
    await expect(apt.fetch('nothing')).rejects.toThrow(
      "no package 'nothing' in this system's apt sources (Failed to fetch http://x  Could not resolve)",
    );
  });
  it('says so when there is no apt', async () => {
    const programs = { get: '/nowhere/apt-get', cache: '/nowhere/apt-cache' };
    await expect(Apt.open({ dir: temporary(), architecture: 'amd64', onProgress: () => {}, programs })).rejects.toThrow(
      "'/nowhere/apt-get' is not on this system",
    );
  });
});
