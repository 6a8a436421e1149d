import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DoorbellHost } from '../src/index.ts';
import { allOnes, Bus, type IoHandler, type Width } from '../src/index.ts';
import { code } from './helpers.ts';

const WIDTHS: readonly Width[] = [1, 2, 4];

/** Remembers accesses; reads give the byte offsets of what is read: 0x03020100 at offset 0. */
class Recorder implements IoHandler {
  readonly log: string[] = [];
  read(offset: number, width: Width): number {
    this.log.push(`r${offset}/${width}`);
    let v = 0;
    for (let i = width - 1; i >= 0; i--) v = v * 256 + ((offset + i) & 0xff);
    return v;
  }
  write(offset: number, width: Width, value: number): void {
    this.log.push(`w${offset}/${width}=${value.toString(16)}`);
  }
}

const bus = (): Bus => new Bus({ name: 'port', size: 0x10000 });

describe('decoding', () => {
  it('gives handlers offsets from their base', () => {
    const b = bus();
    const r = new Recorder();
    b.claim(0x3f8, 8, r, { name: 'com1' });
    expect(b.read(0x3fa, 1)).toBe(2);
    b.write(0x3ff, 1, 0xab);
    expect(r.log).toEqual(['r2/1', 'w7/1=ab']);
    expect([b.claimedBy(0x3f8), b.claimedBy(0x3ff), b.claimedBy(0x400)]).toEqual(['com1', 'com1', null]);
  });

  it.each(WIDTHS)('reads all ones of %d bytes where nothing is, and ignores writes', (width) => {
    const b = bus();
    expect(b.read(0x1234, width)).toBe(allOnes(width));
    expect(() => b.write(0x1234, width, 1)).not.toThrow();
  });

  it('tells of unclaimed accesses', () => {
    const seen: unknown[] = [];
    const b = new Bus({ name: 'port', size: 0x10000, onUnclaimed: (...a) => seen.push(a) });
    b.claim(0, 1, new Recorder(), { name: 'x' });
    b.read(0, 1);
    b.read(1, 1);
    b.write(2, 2, 7);
    expect(seen).toEqual([
      [1, 1, null],
      [2, 2, 7],
    ]);
  });
});

describe('widths', () => {
  it('splits what the handler does not take, low bytes first', () => {
    const b = bus();
    const r = new Recorder();
    b.claim(0x100, 8, r, { name: 'bytes', widths: 1 });
    expect(b.read(0x102, 4)).toBe(0x05040302);
    b.write(0x100, 2, 0xbbaa);
    expect(r.log).toEqual(['r2/1', 'r3/1', 'r4/1', 'r5/1', 'w0/1=aa', 'w1/1=bb']);
  });

  it('splits by the widest width that is taken', () => {
    const b = bus();
    const r = new Recorder();
    b.claim(0x100, 8, r, { name: 'words', widths: 1 | 2 });
    b.read(0x100, 4);
    expect(r.log).toEqual(['r0/2', 'r2/2']);
  });

  it('reads the enclosing unit for less than the handler takes, and drops such writes', () => {
    const b = bus();
    const r = new Recorder();
    b.claim(0x100, 8, r, { name: 'dwords', widths: 4 });
    expect(b.read(0x105, 1)).toBe(5);
    expect(b.read(0x106, 2)).toBe(0x0706);
    b.write(0x104, 1, 1);
    expect(r.log).toEqual(['r4/4', 'r4/4']);
  });

  it('splits accesses that run over the end, into the next claim or into nothing', () => {
    const b = bus();
    const x = new Recorder();
    const y = new Recorder();
    b.claim(0x100, 2, x, { name: 'x' });
    b.claim(0x102, 1, y, { name: 'y' });
    expect(b.read(0x100, 4)).toBe(0xff000100);
    expect([x.log, y.log]).toEqual([['r0/2'], ['r0/1']]);
  });
});

describe('claims', () => {
  it('refuses overlap, and names both', () => {
    const b = bus();
    b.claim(0x3f8, 8, new Recorder(), { name: 'com1' });
    expect(() => b.claim(0x3ff, 1, new Recorder(), { name: 'com2' })).toThrow(/com2 at 0x3ff overlaps com1 at 0x3f8/);
    expect(code(() => b.claim(0x3f0, 9, new Recorder(), { name: 'x' }))).toBe('BUS_OVERLAP');
    expect(code(() => b.claim(0x3f0, 8, new Recorder(), { name: 'x' }))).toBe('none');
  });

  it.each([
    [0x10000, 1],
    [0xffff, 2],
    [-1, 1],
    [0.5, 1],
    [0, 0],
    [0, -1],
    [0, 1.5],
  ])('refuses base %d length %d', (base, length) => {
    expect(code(() => bus().claim(base, length, new Recorder(), { name: 'x' }))).toBe('BUS_RANGE');
  });

  it('move, leave and come back; a move that fails changes nothing', () => {
    const b = bus();
    const r = new Recorder();
    const claim = b.claim(null, 4, r, { name: 'bar' });
    expect(b.claimedBy(0)).toBeNull();
    claim.moveTo(0xc000);
    expect(b.claimedBy(0xc003)).toBe('bar');
    b.claim(0xd000, 4, new Recorder(), { name: 'other' });
    expect(code(() => claim.moveTo(0xd002))).toBe('BUS_OVERLAP');
    expect(b.claimedBy(0xc000)).toBe('bar');
    claim.moveTo(0xc002);
    expect([b.claimedBy(0xc000), b.claimedBy(0xc005)]).toEqual([null, 'bar']);
    claim.moveTo(null);
    expect(b.read(0xc002, 1)).toBe(0xff);
    claim.release();
    expect(b.isFree(0xc000, 16)).toBe(true);
  });

  it('isFree looks at the whole range, the bus, and except()', () => {
    const b = bus();
    const c = b.claim(0x100, 0x10, new Recorder(), { name: 'x' });
    expect([b.isFree(0xf0, 0x10), b.isFree(0xf1, 0x10), b.isFree(0x110, 1), b.isFree(0x108, 1)]).toEqual([
      true,
      false,
      true,
      false,
    ]);
    expect([b.isFree(0x108, 8, c), b.isFree(0xffff, 2), b.isFree(-1, 1), b.isFree(Number.NaN, 1)]).toEqual([
      true,
      false,
      false,
      false,
    ]);
  });
});

describe('doorbells', () => {
  /** A host with room for `most`. */
  const host = (most = 9) => {
    const hung = new Map<string, () => void>();
    const add: DoorbellHost['add'] = (space, addr, width, value, ring) => {
      if (hung.size >= most) return null;
      const key = `${space} ${addr.toString(16)}/${width} ${value}`;
      hung.set(key, ring);
      return () => void hung.delete(key);
    };
    return { hung, add };
  };
  const bells = [
    { offset: 2, width: 2, value: 7 },
    { offset: 4, width: 4, value: 1, any: true },
  ] as const;

  it('hang where their claim is, move with it, and ring its handler with their value', () => {
    const b = bus();
    const r = new Recorder();
    const h = host();
    const claim = b.claim(0x100, 8, r, { name: 'bar', doorbells: bells });
    b.useDoorbells(h, 'port');
    expect([...h.hung.keys()]).toEqual(['port 102/2 7', 'port 104/4 null']);
    for (const ring of h.hung.values()) ring();
    expect(r.log).toEqual(['w2/2=7', 'w4/4=1']);
    claim.moveTo(0x200);
    expect([...h.hung.keys()]).toEqual(['port 202/2 7', 'port 204/4 null']);
    claim.moveTo(null);
    expect(h.hung.size).toBe(0);
    b.claim(0x300, 8, r, { name: 'later', doorbells: bells }).release();
    expect(h.hung.size).toBe(0);
  });

  it('are plain registers where there is no room, or no engine', () => {
    const b = bus();
    const r = new Recorder();
    b.claim(0x100, 8, r, { name: 'bar', doorbells: bells });
    b.write(0x102, 2, 7);
    const h = host(1);
    b.useDoorbells(h, 'memory');
    expect([...h.hung.keys()]).toEqual(['memory 102/2 7']);
    b.write(0x104, 4, 9);
    expect(r.log).toEqual(['w2/2=7', 'w4/4=9']);
  });
});

describe('any set of claims', () => {
  it('decodes like a plain map of addresses, and stays unsigned', () => {
    const claims = fc.array(
      fc.record({
        base: fc.integer({ min: 0, max: 250 }),
        length: fc.integer({ min: 1, max: 12 }),
        widths: fc.constantFrom(1, 3, 4, 5, 6, 7),
      }),
      { maxLength: 12 },
    );
    const accesses = fc.array(
      fc.tuple(fc.integer({ min: 0, max: 255 }), fc.constantFrom(...WIDTHS), fc.option(fc.nat(0xffffffff))),
      { maxLength: 40 },
    );
    fc.assert(
      fc.property(claims, accesses, (wanted, script) => {
        const b = new Bus({ name: 'test', size: 0x200 });
        const owner = new Map<number, string>();
        for (const [i, { base, length, widths }] of wanted.entries()) {
          const cells = Array.from({ length }, (_, k) => base + k);
          const taken = cells.some((a) => owner.has(a));
          expect(b.isFree(base, length)).toBe(!taken);
          expect(code(() => b.claim(base, length, new Recorder(), { name: `${i}`, widths }))).toBe(
            taken ? 'BUS_OVERLAP' : 'none',
          );
          if (!taken) for (const a of cells) owner.set(a, `${i}`);
        }
        for (const [addr, width, value] of script) {
          expect(b.claimedBy(addr)).toBe(owner.get(addr) ?? null);
          if (value === null) {
            const v = b.read(addr, width);
            expect(Number.isInteger(v) && v >= 0 && v <= allOnes(width)).toBe(true);
          } else b.write(addr, width, (value & allOnes(width)) >>> 0);
        }
      }),
      { numRuns: 150 },
    );
  });
});
