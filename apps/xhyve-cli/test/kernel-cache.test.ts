import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { KernelCache } from '../src/kernel-cache.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'xhyve-kernels-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

async function put(cache: KernelCache, from: Uint8Array, to: Uint8Array): Promise<void> {
  cache.put(from, to);
  await cache.written;
}
const packed = (n: number): Uint8Array => new Uint8Array(2 << 20).fill(n);
const kernel = (n: number): Uint8Array => new Uint8Array(9 << 20).fill(n, 1000);

it('gives back what was unpacked, in memory of its own', async () => {
  const cache = new KernelCache(join(dir, 'made', 'when wanted'));
  expect(cache.get(packed(1))).toBeNull();
  await put(cache, packed(1), kernel(7));
  const got = cache.get(packed(1)) as Uint8Array;
  expect(Buffer.compare(got, kernel(7))).toBe(0);
  got.fill(0);
  expect(Buffer.compare(cache.get(packed(1)) as Uint8Array, kernel(7))).toBe(0);
  expect(cache.get(packed(2))).toBeNull();
});

it('does not give back what was damaged or cut', async () => {
  const cache = new KernelCache(dir);
  await put(cache, packed(1), kernel(7));
  const file = join(dir, readdirSync(dir)[0] as string);
  const whole = readFileSync(file);
  whole[5_000_000] = 6;
  writeFileSync(file, whole);
  expect(cache.get(packed(1))).toBeNull();
  writeFileSync(file, whole.subarray(0, 100));
  expect(cache.get(packed(1))).toBeNull();
  await put(cache, packed(1), kernel(8));
  expect(cache.get(packed(1))?.[2000]).toBe(8);
});

it('keeps four, and none that is small', async () => {
  const cache = new KernelCache(dir);
  for (let i = 0; i < 6; i++) await put(cache, packed(i), kernel(i));
  expect(readdirSync(dir).length).toBe(4);
  const other = new KernelCache(join(dir, 'small'));
  await put(other, packed(1), new Uint8Array(1000));
  expect(other.get(packed(1))).toBeNull();
});

it('is an empty cache where it cannot write', async () => {
  writeFileSync(join(dir, 'file'), '');
  const cache = new KernelCache(join(dir, 'file'));
  await put(cache, packed(1), kernel(1));
  expect(cache.get(packed(1))).toBeNull();
});
