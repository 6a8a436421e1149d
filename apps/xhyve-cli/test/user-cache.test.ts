import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { programDigest, translatorDigest } from '../src/build.ts';
import { keepNewest, userCache } from '../src/user-cache.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'xhyve-cache-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it('is below XDG_CACHE_HOME if that is an absolute path, as the specification has it', () => {
  expect(userCache('code', { XDG_CACHE_HOME: '/c' })).toBe('/c/xhyve/code');
  for (const env of [{}, { XDG_CACHE_HOME: '' }, { XDG_CACHE_HOME: 'relative' }])
    expect(userCache('translations', env)).toBe(join(homedir(), '.cache/xhyve/translations'));
});

it('keeps the newest files of one kind, and all others', () => {
  for (let i = 0; i < 5; i++) {
    writeFileSync(join(dir, `${i}.x`), '');
    utimesSync(join(dir, `${i}.x`), 1000 + i, 1000 + i);
  }
  writeFileSync(join(dir, 'other'), '');
  utimesSync(join(dir, 'other'), 1, 1);
  keepNewest(dir, 5, '.x');
  expect(readdirSync(dir).length).toBe(6);
  keepNewest(dir, 2, '.x');
  expect(readdirSync(dir)).toEqual(['3.x', '4.x', 'other']);
});

it("tells builds apart by their programs' text and names", () => {
  const digest = (files: Readonly<Record<string, string>>): string => {
    const program = mkdtempSync(join(dir, 'program-'));
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(join(program, name, '..'), { recursive: true });
      writeFileSync(join(program, name), text);
    }
    return programDigest([program]);
  };
  const one = digest({ 'jit.js': 'one', 'sem/add.ts': 'two', 'README.md': 'three' });
  expect(digest({ 'jit.js': 'one', 'sem/add.ts': 'two' })).toBe(one);
  expect(digest({ 'jit.js': 'one', 'sem/add.ts': 'other' })).not.toBe(one);
  expect(digest({ 'jit.js': 'one', 'sem/sub.ts': 'two' })).not.toBe(one);
  expect(() => programDigest([join(dir, 'nowhere')])).toThrow();
});

it('has a digest of the translator, of its own or of the modules it runs from', () => {
  expect(translatorDigest()).toMatch(/^[0-9a-f]{64}$/u);
});
