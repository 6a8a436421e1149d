import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { faults, untar } from '../src/pack.ts';
import { count, reasonIn } from '../src/reporter.ts';
import { add, failure, NONE, PASSED, summary } from '../src/summary.ts';

describe('the summary', () => {
  it('ends with the counts, alone on their line', () => {
    expect(summary({ passed: 3, failed: [], skipped: [] }).at(-1)).toBe('3 passed, 0 failed');
    expect(summary(add([PASSED, failure('lint', 'exit 1'), NONE])).at(-1)).toBe('1 passed, 1 failed');
  });

  it('lists what was skipped, with reasons, and what failed', () => {
    const skipped = [
      { name: 'a', note: 'no python3' },
      { name: 'b', note: '' },
    ];
    expect(summary({ passed: 1, failed: [{ name: 'c', note: 'expected 1\nto be 2' }], skipped })).toEqual([
      'Skipped:',
      '  a: no python3',
      '  b (no reason given)',
      'Failed:',
      '  c: expected 1',
      '',
      '1 passed, 1 failed, 2 skipped',
    ]);
  });
});

describe('the reporter', () => {
  const test = (fullName: string, result: object): object => ({ fullName, result: () => result });
  const module = (tests: object[], errors: object[] = []): never =>
    ({
      project: { name: '@hyve/x' },
      relativeModuleId: 'packages/x/test/a.test.ts',
      errors: () => errors,
      children: { allTests: () => tests, allSuites: () => [] },
    }) as never;

  it('counts tests by how they ended', () => {
    const m = module([
      test('a', { state: 'passed' }),
      test('b', { state: 'failed', errors: [{ message: 'no' }] }),
      test('c', { state: 'skipped', note: 'no iasl' }),
      test('d (needs iasl)', { state: 'skipped' }),
      test('e', { state: 'pending' }),
    ]);
    expect(count([m], [])).toEqual({
      passed: 1,
      failed: [
        { name: '@hyve/x test/a.test.ts > b', note: 'no' },
        { name: '@hyve/x test/a.test.ts > e', note: 'never ended' },
      ],
      skipped: [
        { name: '@hyve/x test/a.test.ts > c', note: 'no iasl' },
        { name: '@hyve/x test/a.test.ts > d (needs iasl)', note: 'needs iasl' },
      ],
    });
  });

  it('counts files that do not load and errors outside tests as failures', () => {
    expect(
      count([module([], [{ message: 'cannot import' }])], [{ message: 'late' }]).failed.map((f) => f.note),
    ).toEqual(['late', 'cannot import']);
  });

  it('finds reasons in names', () => {
    expect(reasonIn('x (skipped without dmidecode)')).toBe('skipped without dmidecode');
    expect(reasonIn('x (16550D §8.6)')).toBe('');
  });
});

/** A tar header and body. */
function entry(name: string, body: string, type = '0'): Buffer {
  const head = Buffer.alloc(512);
  head.write(name, 0);
  head.write(Buffer.byteLength(body).toString(8).padStart(11, '0'), 124);
  head.write(type, 156);
  return Buffer.concat([head, Buffer.from(body.padEnd(Math.ceil(body.length / 512) * 512, '\0'))]);
}

describe('packed packages', () => {
  const manifest = {
    exports: { '.': { types: './dist/index.d.ts', default: './dist/index.js' } },
    dependencies: { a: '^1.0.0' },
  };
  const pack = (files: Record<string, string>): Map<string, Uint8Array> =>
    untar(
      gzipSync(Buffer.concat([...Object.entries(files).map(([n, b]) => entry(`package/${n}`, b)), Buffer.alloc(1024)])),
    );
  const good = {
    'package.json': JSON.stringify(manifest),
    'README.md': '#',
    LICENSE: 'BSD',
    'dist/index.js': 'export {};',
    'dist/index.d.ts': 'export {};',
  };

  it('are read from tarballs, long names too', () => {
    const long = `package/${'x'.repeat(120)}`;
    const tar = gzipSync(
      Buffer.concat([entry('././@LongLink', `${long}\0`, 'L'), entry('cut', 'body'), Buffer.alloc(1024)]),
    );
    expect([...untar(tar)].map(([n, b]) => [n, Buffer.from(b).toString()])).toEqual([['x'.repeat(120), 'body']]);
  });

  it('pass when everything is there', () => {
    expect(faults(pack(good))).toEqual([]);
  });

  it.each([
    ['no README.md', { 'README.md': undefined }],
    ['no LICENSE', { LICENSE: undefined }],
    ['./dist/index.js is named but not packed', { 'dist/index.js': undefined }],
    ['packs dist/.tsbuildinfo', { 'dist/.tsbuildinfo': '' }],
    ['packs test/a.test.ts', { 'test/a.test.ts': '' }],
    ['. has no types', { 'package.json': JSON.stringify({ exports: { '.': './dist/index.js' } }) }],
    [
      'dependencies.a was packed as "workspace:^"',
      { 'package.json': JSON.stringify({ ...manifest, dependencies: { a: 'workspace:^' } }) },
    ],
    ['exports nothing', { 'package.json': '{}' }],
    [
      'bundle is to be packed and is not there',
      { 'package.json': JSON.stringify({ ...manifest, files: ['bundle', 'dist', '!dist/.tsbuildinfo'] }) },
    ],
    ['no package.json', { 'package.json': undefined }],
  ])('fail: %s', (what, change) => {
    const files = Object.fromEntries(
      Object.entries({ ...good, ...change }).filter(([, b]) => b !== undefined),
    ) as Record<string, string>;
    expect(faults(pack(files))).toEqual([what]);
  });
});
