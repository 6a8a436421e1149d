import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FileCodeCache } from '../src/code-cache.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'xhyve-code-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

it('gives back what the same build put there, and nothing of another', () => {
  const path = join(dir, 'made', 'when wanted');
  const cache = new FileCodeCache(path, 'one');
  expect(cache.get('key')).toBe(null);
  cache.put('key', Uint8Array.of(1, 2, 3));
  expect([...(cache.get('key') as Uint8Array)]).toEqual([1, 2, 3]);
  expect(cache.get('other key')).toBe(null);
  expect([...(new FileCodeCache(path, 'one').get('key') as Uint8Array)]).toEqual([1, 2, 3]);
  expect(new FileCodeCache(path, 'two').get('key')).toBe(null);
});

it('keeps no more than 16 files', () => {
  const cache = new FileCodeCache(dir, 'b');
  for (let i = 0; i < 20; i++) cache.put(`key ${i}`, Uint8Array.of(i));
  expect(readdirSync(dir).length).toBe(16);
});

it('is an empty cache where it cannot write', () => {
  const file = join(dir, 'a file');
  writeFileSync(file, '');
  const cache = new FileCodeCache(join(file, 'below'), 'b');
  cache.put('key', Uint8Array.of(1));
  expect(cache.get('key')).toBe(null);
});
