import { describe, expect, it } from 'vitest';
import { StateReader } from '../src/index.ts';
import { code } from './helpers.ts';

describe('StateReader', () => {
  const state = { v: 1, n: 5, on: true, w: [0, 0xffffffff], due: 1.5, none: null, inner: [{ n: 1 }, { n: 2 }] };
  const s = new StateReader('chip', state, 1);
  it('gives what is there', () => {
    expect([s.int('n', 0, 5), s.bool('on'), s.words('w', 2), s.time('due'), s.time('none')]).toEqual([
      5,
      true,
      [0, 0xffffffff],
      1.5,
      null,
    ]);
    expect(s.items('inner', 2).map((x) => x.int('n', 0, 9))).toEqual([1, 2]);
  });
  it('names what is not', () => {
    const format = 'STATE_FORMAT';
    for (const read of [
      () => s.int('n', 0, 4),
      () => s.bool('n'),
      () => s.words('w', 3),
      () => new StateReader('chip', { w: [2 ** 32] }, null).words('w', 1),
      () => s.time('on'),
      () => s.time('absent'),
      () => s.items('inner', 1),
      () => new StateReader('chip', null, 1),
    ])
      expect(code(read)).toBe(format);
    expect(() => s.items('inner', 2)[1]?.bool('n')).toThrow('chip inner[1]: n is 2, expected true or false');
    expect(code(() => new StateReader('chip', state, 2))).toBe('STATE_VERSION');
  });
});
