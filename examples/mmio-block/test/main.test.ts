import { readFileSync } from 'node:fs';
import type { BlockBackend } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { readSector } from '../src/main.ts';

const bytes = new Uint8Array(64 * 512).map((_v, i) => (i >> 9) + i);
const no = async () => 'unsupported' as const;
const disk: BlockBackend = {
  size: bytes.length,
  sectorSize: 512,
  physicalSectorSize: 512,
  readOnly: true,
  canDiscard: false,
  identity: 'bytes',
  read: async (offset, buffers) => {
    let at = offset;
    for (const b of buffers) {
      b.set(bytes.subarray(at, at + b.length));
      at += b.length;
    }
    return 'ok';
  },
  write: no,
  flush: no,
  discard: no,
  writeZeroes: no,
  close: async () => {},
};

describe('mmio-block', () => {
  it('reads sectors without a VM', async () => {
    for (const n of [0, 5, 63]) expect(await readSector(disk, n)).toEqual(bytes.slice(n * 512, n * 512 + 512));
  });
  it('sees an error past the end', async () => {
    await expect(readSector(disk, 64)).rejects.toThrow('status 1');
  });
  it('is no longer than it says', () => {
    expect(readFileSync(new URL('../src/main.ts', import.meta.url), 'utf8').split('\n').length).toBeLessThanOrEqual(61);
  });
});
