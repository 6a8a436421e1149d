import { expect, it } from 'vitest';
import { MemoryDisk, settle } from '../src/index.ts';

it('answers in any order, keeps a log, and does nothing where it is told to fail', async () => {
  const disk = new MemoryDisk({ size: 4096 });
  disk.hold = true;
  const ends: string[] = [];
  const bytes = new Uint8Array(512).fill(7);
  void disk.write(512, [bytes]).then((s) => ends.push(`write ${s}`));
  disk.status = 'io-error';
  void disk.writeZeroes(0, 1024, true).then((s) => ends.push(`zero ${s}`));
  disk.status = 'ok';
  void disk.flush().then((s) => ends.push(`flush ${s}`));
  await settle();
  expect([ends, disk.pending, disk.inFlight]).toEqual([[], 3, 3]);
  disk.release(2);
  await settle();
  disk.release();
  await settle();
  expect(ends).toEqual(['flush ok', 'write ok', 'zero io-error']);
  expect(disk.log).toEqual(['write 512+512', 'zero 0+1024 unmap', 'flush']);
  expect([disk.bytes[512], disk.bytes[1], disk.inFlight, disk.mostInFlight]).toEqual([7, 5, 0, 3]);
});

it('refuses what breaks the contract', () => {
  const disk = new MemoryDisk({ size: 8192, sector: 4096 });
  const call = (offset: number, n: number) => () => disk.read(offset, [new Uint8Array(n)]);
  expect(call(512, 4096)).toThrow('whole sectors');
  expect(call(0, 512)).toThrow('whole sectors');
  expect(call(4096, 8192)).toThrow('whole sectors');
  expect(disk.log).toEqual([]);
});
