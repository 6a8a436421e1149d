import { expect, it } from 'vitest';
import { AREA, missingRecords, PLACES, RECORD, record } from '../src/records.ts';

function area(first: number, last: number): Uint8Array {
  const a = new Uint8Array(AREA);
  for (let n = first; n <= last; n++) a.set(new Uint8Array(record(n).buffer), (n % PLACES) * RECORD);
  return a;
}

it('accepts what was written, and the next record torn', () => {
  expect(missingRecords(area(2043, 4000), 2043, 4000)).toEqual([]);
  expect(missingRecords(area(2043, 2050), 2043, 2050)).toEqual([]);
  expect(missingRecords(area(2043, 4001), 2043, 4000)).toEqual([]);
  const torn = area(2043, 4000);
  torn.fill(0xee, (4001 % PLACES) * RECORD + 512, (4001 % PLACES) * RECORD + 1024);
  expect(missingRecords(torn, 2043, 4000)).toEqual([]);
});

it('sees a record that is old, a bit that is wrong, and the last one missing', () => {
  const old = area(2043, 4000);
  old.set(new Uint8Array(record(3500 - PLACES).buffer), (3500 % PLACES) * RECORD);
  expect(missingRecords(old, 2043, 4000)).toEqual([expect.stringContaining('record 3500')]);
  const bit = area(2043, 4000);
  bit[(3999 % PLACES) * RECORD + 4095]! ^= 1;
  expect(missingRecords(bit, 2043, 4000)).toEqual([expect.stringContaining('word 1023')]);
  expect(missingRecords(area(2043, 3999), 2043, 4000)).toEqual([expect.stringContaining('record 4000')]);
});
