import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import {
  allOnes,
  HyveError,
  hi32,
  isHyveError,
  join64,
  lo32,
  SharedPin,
  silentLogger,
  unconnectedLine,
} from '../src/index.ts';

describe('SharedPin', () => {
  it('is asserted while any handle is, and reports changes of the whole alone', () => {
    const seen: [boolean, boolean][] = [];
    const pin = new SharedPin((asserted, edge) => seen.push([asserted, edge]));
    const [a, b] = [pin.connect(), pin.connect()];
    a.set(true);
    a.set(true);
    b.set(true);
    a.set(false);
    expect(pin.asserted).toBe(true);
    b.set(false);
    expect([pin.asserted, seen]).toEqual([
      false,
      [
        [true, true],
        [false, true],
      ],
    ]);
  });

  it('makes no edge from restored levels', () => {
    const seen: [boolean, boolean][] = [];
    const pin = new SharedPin((asserted, edge) => seen.push([asserted, edge]));
    const a = pin.connect();
    a.restore(true);
    a.set(true);
    a.restore(false);
    expect(seen).toEqual([
      [true, false],
      [false, false],
    ]);
  });

  it('counts right whatever the handles do', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(4), fc.boolean(), fc.boolean())), (script) => {
        let level = false;
        const pin = new SharedPin((v) => {
          expect(v).not.toBe(level);
          level = v;
        });
        const handles = Array.from({ length: 5 }, () => pin.connect());
        const model = handles.map(() => false);
        for (const [i, v, quiet] of script) {
          if (quiet) handles[i]?.restore(v);
          else handles[i]?.set(v);
          model[i] = v;
          expect([pin.asserted, level]).toEqual([model.includes(true), model.includes(true)]);
        }
      }),
      { numRuns: 100 },
    );
  });

  it('has a line that goes nowhere', () => {
    expect(() => unconnectedLine.set(true)).not.toThrow();
    expect(() => unconnectedLine.restore(true)).not.toThrow();
  });
});

describe('64-bit numbers', () => {
  it('split and join, up to 2^53 - 1', () => {
    for (const v of [0, 1, 0xffffffff, 2 ** 32, 0x12_3456_789a, Number.MAX_SAFE_INTEGER])
      expect(join64(lo32(v), hi32(v))).toBe(v);
    fc.assert(fc.property(fc.maxSafeNat(), (v) => join64(lo32(v), hi32(v)) === v));
  });

  it('say so above', () => {
    expect(() => join64(0, 0x200000)).toThrow(/over 2\^53/);
  });

  it('have all ones for each width', () => {
    expect([allOnes(1), allOnes(2), allOnes(4)]).toEqual([0xff, 0xffff, 0xffffffff]);
  });
});

describe('HyveError', () => {
  it('is recognised by its mark and code, not by its class', () => {
    const e = new HyveError('BUS_OVERLAP', 'text', new Error('why'));
    expect([e.code, e.message, (e.cause as Error).message, e.name]).toEqual([
      'BUS_OVERLAP',
      'text',
      'why',
      'HyveError',
    ]);
    expect([isHyveError(e), isHyveError(e, 'BUS_OVERLAP'), isHyveError(e, 'X')]).toEqual([true, true, false]);
    // As another copy of this package makes them.
    const foreign = Object.assign(new Error('x'), { code: 'C', [Symbol.for('@hyve/error')]: true });
    expect(isHyveError(foreign, 'C')).toBe(true);
    for (const v of [null, undefined, 1, 'x', new Error('x'), {}]) expect(isHyveError(v)).toBe(false);
  });

  it('has no cause when none is given', () => {
    expect('cause' in new HyveError('A', 'b')).toBe(false);
  });
});

describe('exports', () => {
  it('are these', () => {
    expect(Object.keys(api).sort()).toEqual([
      ...[
        'Bus',
        'Exit',
        'HyveError',
        'RegionMemory',
        'Segments',
        'SharedPin',
        'StateReader',
        'TimerQueue',
        'Views',
        'allOnes',
        'hi32',
        'isHyveError',
      ],
      ...['join64', 'lo32', 'silentLogger', 'unconnectedLine'],
    ]);
  });

  it('have a logger that says nothing', () => {
    expect(silentLogger.on).toBe(false);
    for (const level of ['debug', 'info', 'warn'] as const) expect(silentLogger[level]('x')).toBeUndefined();
  });
});
