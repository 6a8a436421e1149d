// Requests that are over when they return: what the host's cache takes and gives without waiting.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlockBackend } from '@hyve/core';
import { afterAll, describe, expect, it } from 'vitest';
import { createDisk } from '../src/disk/index.ts';
import { openBlock, RamDisk } from '../src/index.ts';

const places = ['/dev/shm', tmpdir()].filter((d) => existsSync(d)).map((d) => mkdtempSync(join(d, 'hyve-now-')));
afterAll(() => {
  for (const p of places) rmSync(p, { recursive: true, force: true });
});
const bytes = (n: number, v: number): Uint8Array => new Uint8Array(n).fill(v);

/** Reads at once if that is possible, else the other way. */
async function both(disk: BlockBackend, offset: number, n: number): Promise<Uint8Array> {
  const into = [new Uint8Array(n - 512), new Uint8Array(512)];
  const status = disk.readNow?.(offset, into) ?? (await disk.read(offset, into));
  expect(status).toBe('ok');
  return Buffer.concat(into);
}

describe.each(places)('in %s', (dir) => {
  it('a raw file takes writes at once, and reads see them', async () => {
    const path = join(dir, 'raw.img');
    writeFileSync(path, bytes(4 << 20, 1));
    const disk = await openBlock(path);
    expect(disk.writeNow?.(4096, [bytes(512, 7), bytes(512, 8)])).toBe('ok');
    expect(await both(disk, 4096, 2048)).toEqual(Buffer.concat([bytes(512, 7), bytes(512, 8), bytes(1024, 1)]));
    expect(disk.writeNow?.((4 << 20) - 512, [bytes(1024, 7)])).toBe(null); // beyond the end: `write` says so
    expect(disk.writeNow?.(1, [bytes(512, 7)])).toBe(null);
    expect(disk.writeNow?.(0, [bytes(3 << 20, 7)])).toBe(null); // too much to wait for
    // As large as a guest's largest requests, in as many pieces as those come in.
    const pages = Array.from({ length: 256 }, (_, i) => bytes(4096, i));
    expect(disk.writeNow?.(1 << 20, pages)).toBe('ok');
    const back = pages.map(() => bytes(4096, 0));
    expect(disk.readNow?.(1 << 20, back)).toBe('ok');
    expect(back).toEqual(pages);
    expect(await disk.flush()).toBe('ok');
    await disk.close();
    expect(disk.writeNow?.(0, [bytes(512, 3)])).toBe(null);
    expect(readFileSync(path).subarray(4096, 4608)).toEqual(Buffer.from(bytes(512, 7)));
  });

  it.each([
    ['ro', 0],
    ['sync', 0],
    ['nocache', 0],
  ])('never with %s', async (option) => {
    const path = join(dir, `${option}.img`);
    writeFileSync(path, bytes(65536, 1));
    const disk = await openBlock(`${path},${option}`);
    expect(disk.writeNow?.(0, [bytes(512, 7)]) ?? null).toBe(null);
    await disk.close();
    expect(readFileSync(path)[0]).toBe(1);
  });

  it('qcow2 writes at once only where a cluster of its own is', async () => {
    const path = join(dir, 'a.qcow2');
    await createDisk(path, { format: 'qcow2', size: 4 << 20, clusterSize: 65536 });
    const disk = await openBlock(path);
    expect(disk.writeNow?.(0, [bytes(512, 7)])).toBe(null);
    expect(await disk.write(0, [bytes(512, 7)])).toBe('ok');
    expect(disk.writeNow?.(512, [bytes(512, 8)])).toBe('ok');
    expect(disk.writeNow?.(65536 - 512, [bytes(1024, 8)])).toBe(null); // half of it is not there yet
    expect(await both(disk, 0, 2048)).toEqual(Buffer.concat([bytes(512, 7), bytes(512, 8), bytes(1024, 0)]));
    expect(disk.readNow?.(1 << 20, [bytes(512, 9)])).toBe('ok'); // nothing is there: zeros
    await disk.close();
    const again = await openBlock(`${path},ro`);
    expect(await both(again, 0, 1024)).toEqual(Buffer.concat([bytes(512, 7), bytes(512, 8)]));
    expect(again.writeNow?.(0, [bytes(512, 9)])).toBe(null);
    await again.close();
  });

  it('not into a cluster that an image below shares', async () => {
    const base = join(dir, 'base.img');
    writeFileSync(base, bytes(1 << 20, 5));
    const path = join(dir, 'top.qcow2');
    await createDisk(path, { format: 'qcow2', size: 1 << 20, backing: base, backingFormat: 'raw' });
    const disk = await openBlock(path);
    expect(disk.writeNow?.(0, [bytes(512, 7)])).toBe(null);
    expect(disk.readNow?.(0, [bytes(512, 0)])).toBe(null);
    await disk.close();
    expect(readFileSync(base)[0]).toBe(5);
  });
});

it('a RAM disk always; a rate limit as far as it goes', async () => {
  const ram = new RamDisk({ size: 1 << 20 });
  expect([ram.writeNow(0, [bytes(512, 7)]), (await both(ram, 0, 1024))[0]]).toEqual(['ok', 7]);
  const slow = await openBlock('ram:1M,iops=10,iops-burst=2');
  expect([1, 2, 3].map(() => slow.writeNow?.(0, [bytes(512, 1)]))).toEqual(['ok', 'ok', null]);
  await slow.close();
});
