// Large reads on two threads: the same bytes, and every read ends whatever the other thread does.
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { createDisk } from '../src/disk/index.ts';
import { openBlock, ReadHelper } from '../src/index.ts';
import { MAX_PARTS, MAX_VECTORS, PART, ReadWords, SLOTS } from '../src/read-words.ts';

const MIB = 1 << 20;
const SIZE = 8 * MIB;
const places = ['/dev/shm', tmpdir()].filter((d) => existsSync(d)).map((d) => mkdtempSync(join(d, 'hyve-reads-')));
afterAll(() => {
  for (const p of places) rmSync(p, { recursive: true, force: true });
});

const content = new Uint8Array(SIZE);
for (let i = 0; i < SIZE; i += 4) new DataView(content.buffer).setUint32(i, Math.imul(i + 1, 0x9e3779b1), true);

const helpers: ReadHelper[] = [];
afterEach(async () => {
  for (const h of helpers.splice(0)) await h.close();
});

function makeHelper(): ReadHelper {
  const helper = new ReadHelper({
    start: () => {
      const w = new Worker(new URL('./fixtures/read-thread.ts', import.meta.url));
      return { post: (m) => w.postMessage(m), close: async () => void (await w.terminate()) };
    },
  });
  helpers.push(helper);
  return helper;
}

/** A part of a guest's memory. */
class Guest {
  private readonly memory: SharedArrayBuffer;
  private readonly base: number;
  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(4 * MIB), base = 0) {
    this.memory = memory;
    this.base = base;
  }
  /** Views of `n` bytes in pieces of at most `piece`, in no order. */
  scattered(n: number, piece = 4096): Uint8Array[] {
    const stride = 2 ** Math.ceil(Math.log2(piece));
    const views: Uint8Array[] = [];
    for (let at = 0, i = 0; at < n; at += piece, i++) {
      const place = this.base + ((i * 1237) % ((4 * MIB) / stride)) * stride;
      views.push(new Uint8Array(this.memory, place, Math.min(piece, n - at)));
    }
    return views;
  }
}

const joined = (views: readonly Uint8Array[]): Buffer => Buffer.concat(views);
const rest = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Reads until the helper takes part. */
async function warm(helper: ReadHelper, disk: Awaited<ReturnType<typeof openBlock>>, guest: Guest): Promise<void> {
  for (let i = 0; i < 2000 && helper.counters().reads === 0; i++) {
    await disk.read(0, guest.scattered(MIB));
    if (i > 30) await rest(5);
  }
  expect(helper.counters().reads).toBeGreaterThan(0);
}

describe.each(places)('in %s', (dir) => {
  const path = join(dir, 'disk.img');
  writeFileSync(path, content);

  it('a read is over when it returns while nobody polls', async () => {
    const helper = makeHelper();
    const disk = await openBlock(path, { helper });
    const guest = new Guest();
    await warm(helper, disk, guest);
    const before = helper.counters().reads;
    for (const [offset, n, piece] of [
      [0, MIB, 4096],
      [512, MIB, 8192],
      [MIB + 4096, 2 * MIB, 2 * MIB],
      [SIZE - MIB, MIB, 65536],
      [4096, 512 << 10, 1536],
      [3 * PART - 512, MIB + 512, 4096],
    ] as const) {
      const into = guest.scattered(n, piece);
      expect(disk.readNow?.(offset, into)).toBe('ok');
      expect(joined(into).equals(content.subarray(offset, offset + n))).toBe(true);
    }
    expect(helper.counters().reads - before).toBe(6);
    expect(helper.pending).toBe(0);
    await disk.close();
  });

  it('many go on beside a guest that is polled for, and without a poll they end as well', async () => {
    const helper = makeHelper();
    const disk = await openBlock(path, { helper });
    const guest = new Guest();
    await warm(helper, disk, guest);
    helper.attach();
    const memory = new SharedArrayBuffer((SLOTS + 3) * 4 * MIB);
    for (const polls of [true, false]) {
      const guests = Array.from({ length: SLOTS + 3 }, (_, i) => new Guest(memory, i * 4 * MIB));
      const reads = guests.map((g, i) => {
        const into = g.scattered(MIB);
        expect(disk.readNow?.((i % 7) * MIB, into)).toBe(null);
        return disk.read((i % 7) * MIB, into).then((status) => ({ status, into }));
      });
      let over = 0;
      for (const r of reads) void r.then(() => over++);
      expect(helper.pending).toBeGreaterThan(0);
      while (polls && helper.pending > 0) if (!helper.poll()) helper.help(1e6);
      const results = await Promise.all(reads);
      expect(over).toBe(reads.length);
      results.forEach(({ status, into }, i) => {
        expect(status).toBe('ok');
        expect(joined(into).equals(content.subarray((i % 7) * MIB, (i % 7) * MIB + MIB))).toBe(true);
      });
      expect(helper.pending).toBe(0);
    }
    // It knows a few memories; of others it keeps its hands off.
    for (let i = 0; i < 12; i++) {
      const into = new Guest().scattered(MIB);
      expect(await disk.read(i * 4096, into)).toBe('ok');
      expect(joined(into).equals(content.subarray(i * 4096, i * 4096 + MIB))).toBe(true);
    }
    // Small ones are not worth it.
    expect(disk.readNow?.(0, guest.scattered(65536))).toBe('ok');
    await disk.close();
  });

  it('what a file has lost reads as zeros', async () => {
    const file = join(dir, 'shorter.img');
    writeFileSync(file, content);
    const helper = makeHelper();
    const disk = await openBlock(file, { helper });
    const guest = new Guest();
    await warm(helper, disk, guest);
    helper.attach();
    truncateSync(file, MIB + 700 * 1024);
    const into = guest.scattered(MIB);
    expect(await disk.read(MIB, into)).toBe('ok');
    const wanted = Buffer.from(content.subarray(MIB, 2 * MIB));
    wanted.fill(0, 700 * 1024);
    expect(joined(into).equals(wanted)).toBe(true);
    await disk.close();
  });

  it('closing a disk waits for its reads, closing the helper for all', async () => {
    const helper = makeHelper();
    const disk = await openBlock(path, { helper });
    const guest = new Guest();
    await warm(helper, disk, guest);
    helper.attach();
    const reads = [0, 1, 2, 3].map((i) => disk.read(i * MIB, guest.scattered(MIB)));
    await disk.close();
    expect(await Promise.all(reads)).toEqual(['ok', 'ok', 'ok', 'ok']);
    const again = await openBlock(path, { helper });
    const more = [0, 1, 2].map((i) => again.read(i * MIB, guest.scattered(MIB)));
    await helper.close();
    expect(helper.pending).toBe(0);
    expect(await Promise.all(more)).toEqual(['ok', 'ok', 'ok']);
    expect(await again.read(0, guest.scattered(MIB))).toBe('ok');
    await again.close();
  });

  it('qcow2 reads through it, and memory that is not shared goes without', async () => {
    const file = join(dir, 'a.qcow2');
    await createDisk(file, { format: 'qcow2', size: SIZE, clusterSize: 2 * MIB });
    const helper = makeHelper();
    const disk = await openBlock(file, { helper });
    for (let at = 0; at < SIZE; at += MIB) expect(await disk.write(at, [content.subarray(at, at + MIB)])).toBe('ok');
    const guest = new Guest();
    await warm(helper, disk, guest);
    helper.attach();
    const before = helper.counters().reads;
    const own = [new Uint8Array(MIB)];
    expect(await disk.read(MIB, own)).toBe('ok');
    expect(joined(own).equals(content.subarray(MIB, 2 * MIB))).toBe(true);
    expect(helper.counters().reads).toBe(before);
    const into = guest.scattered(MIB);
    expect(await disk.read(2 * MIB, into)).toBe('ok');
    expect(joined(into).equals(content.subarray(2 * MIB, 3 * MIB))).toBe(true);
    expect(helper.counters().reads).toBe(before + 1);
    await disk.close();
  });
});

it('reads go on where there is no thread to be had', async () => {
  const path = join(places[0] as string, 'disk.img');
  const helper = new ReadHelper({
    start: () => {
      throw new Error('no more threads');
    },
  });
  helper.attach();
  const disk = await openBlock(path, { helper });
  const guest = new Guest();
  for (let i = 0; i < 40; i++) {
    const into = guest.scattered(MIB);
    expect(await disk.read(0, into)).toBe('ok');
    expect(joined(into).equals(content.subarray(0, MIB))).toBe(true);
  }
  expect(helper.counters().reads).toBe(0);
  await disk.close();
  await helper.close();
});

describe('the words between the threads', () => {
  const memory = new SharedArrayBuffer(4 * MIB);

  it('hand out every byte of every read once, whoever takes the parts in whatever order', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.integer({ min: 1, max: 400_000 }), { minLength: 1, maxLength: 5 }), { maxLength: 12 }),
        fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 80 }),
        (reads, steps) => {
          const here = new ReadWords();
          const there = new ReadWords(here.shared);
          const left = reads.map((lengths, i) => ({ lengths, offset: i * 2 ** 33 + 512 }));
          /** Of the reads under way: bytes taken by file offset, and what to expect. */
          const seen = new Map<number, number>();
          const flying: { offset: number; length: number; starts: number[] }[] = [];
          const take = (offset: number, vectors: readonly Uint8Array[]): boolean => {
            let at = offset;
            for (const v of vectors) {
              expect(seen.has(at)).toBe(false);
              seen.set(at, v.length);
              at += v.length;
            }
            expect(at - offset).toBeLessThanOrEqual(PART);
            return true;
          };
          const end = (): void => {
            for (let e = here.end(); e >= 0; e = here.end()) {
              expect(e).toBe(1);
              const f = flying.shift() as (typeof flying)[0];
              let bytes = 0;
              for (const [at, n] of seen) if (at >= f.offset && at < f.offset + f.length) bytes += n;
              expect(bytes).toBe(f.length);
            }
          };
          const step = (s: number): void => {
            if (s === 0) {
              const next = left[0];
              if (next === undefined) return;
              const buffers = next.lengths.map((n, i) => new Uint8Array(memory, i * 400_000, n));
              const length = next.lengths.reduce((a, n) => a + n, 0);
              const fits = flying.length < SLOTS && length <= MAX_PARTS * PART;
              expect(here.begin(3, false, next.offset, buffers, length, 0)).toBe(fits);
              if (fits) flying.push({ offset: next.offset, length, starts: [] });
              if (fits || length > MAX_PARTS * PART) left.shift();
            } else if (s === 3) end();
            else
              (s === 1 ? here : there).takePart(
                () => memory,
                (fd, cached, offset, vectors) => fd === 3 && !cached && take(offset, vectors),
              );
          };
          for (const s of steps) step(s);
          while (left.length > 0 || here.pending > 0) for (const s of [0, 2, 1, 1, 3]) step(s);
          expect(there.pending).toBe(0);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('a part that fails fails its read, and no other', () => {
    const words = new ReadWords();
    const buffers = [new Uint8Array(memory, 0, 4 * PART)];
    for (const offset of [0, 1 << 30]) expect(words.begin(3, true, offset, buffers, 4 * PART, 0)).toBe(true);
    let tried = 0;
    const part = (_fd: number, _cached: boolean, offset: number): boolean => {
      tried++;
      if (offset === PART) throw new Error('a broken disk');
      return true;
    };
    while (words.takePart(() => memory, part));
    // Parts behind the broken one are not tried.
    expect(tried).toBe(2 + 4);
    expect([words.end(), words.end(), words.end()]).toEqual([0, 1, -1]);
  });

  it('refuse what they have no room for', () => {
    const words = new ReadWords();
    const crumbs = Array.from({ length: MAX_VECTORS + 1 }, (_, i) => new Uint8Array(memory, i * 16, 16));
    expect(words.begin(3, false, 0, crumbs, crumbs.length * 16, 0)).toBe(false);
    expect(words.begin(3, false, 0, [new Uint8Array(memory, 0, MAX_PARTS * PART + 1)], MAX_PARTS * PART + 1, 0)).toBe(
      false,
    );
    // A length that is not the buffers'.
    expect(words.begin(3, false, 0, [new Uint8Array(memory, 0, 4096)], 3 * PART, 0)).toBe(false);
    expect(words.pending).toBe(0);
    expect(
      words.takePart(
        () => memory,
        () => true,
      ),
    ).toBe(false);
  });
});
