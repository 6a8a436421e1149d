import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RegionMemory, Segments } from '../src/index.ts';

const memory = (): RegionMemory =>
  RegionMemory.allocate([
    { base: 0, size: 0x3000, kind: 'ram', name: 'low' },
    { base: 0x3000, size: 0x5000, kind: 'ram', name: 'high' },
    { base: 0x8000, size: 0x1000, kind: 'rom', name: 'rom' },
  ]);

describe('Segments', () => {
  it('joins neighbours and cuts where one region ends', () => {
    const ram = memory();
    const s = new Segments();
    s.begin(true);
    const put = (a: number, n: number): boolean => s.add(ram, a, n);
    expect([put(0x1000, 512), put(0x1200, 512), put(0x2f00, 0x100), put(0x3000, 0x4800), s.end(ram)]).not.toContain(
      false,
    );
    expect(s.addrs).toEqual([0x1000, 0x2f00, 0x3000]);
    expect(s.views.map((v) => v.length)).toEqual([1024, 0x100, 0x4800]);
    expect(s.bytes).toBe(1024 + 0x4900);
  });

  it('finds what is not memory, at the piece or at the one after it', () => {
    const ram = memory();
    const s = new Segments();
    const ends = (toGuest: boolean, ...pieces: [number, number][]): boolean => {
      s.begin(toGuest);
      return pieces.every(([a, n]) => s.add(ram, a, n)) && s.end(ram);
    };
    expect(ends(true, [0x7f00, 0x200])).toBe(false); // the end of it is read-only
    expect(ends(false, [0x7f00, 0x200])).toBe(true);
    expect(ends(false, [0x8f00, 0x200])).toBe(false);
    expect(ends(false, [2 ** 51, 16], [0, 16])).toBe(false);
    expect(ends(false, [0, 2 ** 40])).toBe(false);
    expect(ends(true)).toBe(true);
    expect(s.views).toEqual([]);
  });

  it("marks guest bytes dirty when the data has arrived, and the host's not", () => {
    const seen: [number, number][] = [];
    const ram = new RegionMemory(
      new ArrayBuffer(0x4000),
      [{ base: 0, size: 0x4000, kind: 'ram', name: 'ram', offset: 0 }],
      {
        flags: new Uint8Array(4).fill(1),
        written: (a, n) => seen.push([a, n]),
      },
    );
    const s = new Segments();
    for (const toGuest of [true, false]) {
      s.begin(toGuest);
      s.add(ram, 0x1000, 16);
      s.addHost(ram, new Uint8Array(8));
      s.add(ram, 0x2000, 16);
      s.end(ram);
      seen.length = 0;
      s.dirty(ram);
      expect(seen).toEqual(
        toGuest
          ? [
              [0x1000, 16],
              [0x2000, 16],
            ]
          : [],
      );
    }
  });

  it('copies in and out what is there, whatever the pieces', () => {
    const pieces = fc.array(fc.record({ a: fc.nat(0x7f00), n: fc.integer({ min: 1, max: 0x90 }) }), { maxLength: 6 });
    fc.assert(
      fc.property(pieces, fc.nat(600), (list, length) => {
        const ram = memory();
        // Each piece in 0x100 bytes of its own, so that none overwrites another.
        const places = list.map((p, i) => ({ a: 0x2e00 + i * 0x100 + (p.a & 0x6f), n: p.n }));
        const s = new Segments();
        s.begin(true);
        for (const p of places) expect(s.add(ram, p.a, p.n)).toBe(true);
        expect(s.end(ram)).toBe(true);
        const source = Uint8Array.from({ length }, (_, i) => i * 7 + 3);
        const room = places.reduce((n, p) => n + p.n, 0);
        const moved = Math.min(room, length);
        expect(s.fill(source, length)).toBe(moved);
        const back = new Uint8Array(length);
        expect(s.copyOut(back)).toBe(moved);
        expect([...back.subarray(0, moved)]).toEqual([...source.subarray(0, moved)]);
        const guest = places.flatMap((p) => Array.from({ length: p.n }, (_, i) => ram.read8(p.a + i)));
        expect(guest.slice(0, moved)).toEqual([...source.subarray(0, moved)]);
        const from = Math.floor(moved / 3);
        expect(s.equals(from, source.subarray(from), moved - from)).toBe(true);
        if (moved > from) {
          const other = source.slice(from);
          other[moved - from - 1] = (other[moved - from - 1] as number) ^ 1;
          expect(s.equals(from, other, moved - from)).toBe(false);
        }
      }),
      { numRuns: 100 },
    );
  });
});
