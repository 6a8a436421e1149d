import { HyveError } from '@hyve/core';
import { expect, it } from 'vitest';
import { codeOf } from '../src/index.ts';

it('gives the code of a HyveError, says if there is none, and passes on other errors', () => {
  expect(
    codeOf(() => {
      throw new HyveError('SOME_CODE', 'why');
    }),
  ).toBe('SOME_CODE');
  expect(codeOf(() => 1)).toBe('no error');
  expect(() =>
    codeOf(() => {
      throw new RangeError('other');
    }),
  ).toThrow(RangeError);
});
