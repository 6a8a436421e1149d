// Power cuts: the writes and syncs of a random run are recorded, and the image is rebuilt as a cut at any moment could
// leave it: what was synced is there, of the rest any sectors.
import { describe, expect, it } from 'vitest';
import { RamDisk } from '../src/index.ts';
import { checkQcow2 } from '../src/qcow2/check.ts';
import type { Qcow2Layout } from '../src/qcow2/create.ts';
import { parseHeader } from '../src/qcow2/format.ts';
import { newMemory, openMemory } from './helpers.ts';
import { MemoryFile, random } from './memory-file.ts';

const SECTOR = 512;

interface Change {
  readonly begun: number;
  ended: number;
  readonly sector: number;
  readonly count: number;
  /** Null: anything (a discard). */
  readonly value: number | null;
}

/** A random run on a recorded image, and what the guest did when. */
async function record(
  layout: Qcow2Layout,
  seed: number,
  o: { operations: number; withBacking: boolean },
): Promise<{ start: Uint8Array; file: MemoryFile; changes: Change[]; flushes: { begun: number; ended: number }[] }> {
  const file = await newMemory(layout);
  const backing = o.withBacking ? new RamDisk({ size: layout.size }) : null;
  if (backing !== null) await backing.write(0, [new Uint8Array(layout.size).fill(0xee)]);
  const start = file.image();
  const disk = await openMemory(file, { backing });
  file.record = true;
  const rnd = random(seed);
  const sectors = layout.size / SECTOR;
  const changes: Change[] = [];
  const flushes: { begun: number; ended: number }[] = [];
  for (let i = 0; i < o.operations; i++) {
    const jobs: Promise<unknown>[] = [];
    // Three zones, so that requests under way at the same time do not overlap.
    for (let zone = 0; zone < 3; zone++) {
      const size = Math.floor(sectors / 3);
      const sector = zone * size + Math.floor(rnd() * (size - 40));
      const count = 1 + Math.floor(rnd() * (rnd() < 0.2 ? 40 : 6));
      const kind = rnd();
      const value = 1 + Math.floor(rnd() * 250);
      const change = (v: number | null): Change => {
        const c = { begun: ++file.moment, ended: Number.POSITIVE_INFINITY, sector, count, value: v };
        changes.push(c);
        return c;
      };
      const after = (c: Change, p: Promise<string>): Promise<unknown> =>
        p.then((s) => {
          expect(s).toBe('ok');
          c.ended = ++file.moment;
        });
      if (kind < 0.6) {
        const data = new Uint8Array(count * SECTOR).fill(value);
        jobs.push(after(change(value), disk.write(sector * SECTOR, [data])));
      } else if (kind < 0.75)
        jobs.push(after(change(0), disk.writeZeroes(sector * SECTOR, count * SECTOR, rnd() < 0.5)));
      else if (kind < 0.87) jobs.push(after(change(null), disk.discard(sector * SECTOR, count * SECTOR)));
      else {
        const begun = ++file.moment;
        jobs.push(
          disk.flush().then((s) => {
            expect(s).toBe('ok');
            flushes.push({ begun, ended: ++file.moment });
          }),
        );
      }
    }
    if (rnd() < 0.7) await Promise.all(jobs);
    else await jobs[0];
    await Promise.all(jobs);
  }
  await disk.close();
  return { start, file, changes, flushes };
}

async function verify(
  image: Uint8Array,
  moment: number,
  run: { changes: Change[]; flushes: { begun: number; ended: number }[] },
  size: number,
  o: { lazy: boolean; withBacking: boolean; data: boolean },
): Promise<void> {
  const file = new MemoryFile(image.slice());
  let header = parseHeader('cut', file.image(), file.length);
  let r = await checkQcow2(file, header, { repair: 'none' });
  if (o.lazy && (header.incompatible & 1) !== 0) {
    r = await checkQcow2(file, header, { repair: 'all' });
    header = parseHeader('cut', file.image(), file.length);
    expect(header.incompatible & 1).toBe(0);
    r = await checkQcow2(file, header, { repair: 'none' });
  }
  expect({
    moment,
    corruptions: r.corruptions,
    errors: r.errors,
    findings: r.corruptions > 0 ? r.findings : [],
  }).toEqual({
    moment,
    corruptions: 0,
    errors: 0,
    findings: [],
  });
  if (!o.data) return;
  const backing = o.withBacking ? new RamDisk({ size }) : null;
  if (backing !== null) await backing.write(0, [new Uint8Array(size).fill(0xee)]);
  const disk = await openMemory(file, { backing });
  const all = new Uint8Array(size);
  expect(await disk.read(0, [all])).toBe('ok');
  let flushed = 0;
  for (const f of run.flushes) if (f.ended <= moment) flushed = Math.max(flushed, f.begun);
  // For each sector: the last value that was complete before the flush, and everything that began later.
  const sectors = size / SECTOR;
  const allowed: (Set<number> | null)[] = Array.from({ length: sectors }, () => new Set([o.withBacking ? 0xee : 0]));
  for (const c of run.changes) {
    if (c.begun > moment) continue;
    for (let s = c.sector; s < c.sector + c.count; s++) {
      if (c.ended <= flushed) allowed[s] = c.value === null ? null : new Set([c.value]);
      else if (c.value === null) allowed[s] = null;
      else allowed[s]?.add(c.value);
    }
  }
  for (let s = 0; s < sectors; s++) {
    const may = allowed[s];
    if (may === null || may === undefined) continue;
    const first = all[s * SECTOR] as number;
    if (!may.has(first))
      throw new Error(`cut at ${moment}: sector ${s} holds ${first}, not one of ${[...may].join(' ')}`);
  }
}

const CASES: readonly (readonly [string, Qcow2Layout, boolean])[] = [
  ['version 3, small clusters', { size: 96 * 4096, clusterSize: 512 }, false],
  ['version 3, 4 KiB clusters, backing file', { size: 96 * 4096, clusterSize: 4096 }, true],
  ['version 2 with a backing file', { size: 48 * 4096, clusterSize: 1024, compat: '0.10' }, true],
  ['1-bit refcounts', { size: 96 * 4096, clusterSize: 512, refcountBits: 1 }, false],
  ['64-bit refcounts', { size: 192 * 4096, clusterSize: 512, refcountBits: 64 }, true],
  ['lazy refcounts', { size: 96 * 4096, clusterSize: 512, lazyRefcounts: true }, true],
];

describe('power cuts', () => {
  for (const [name, layout, withBacking] of CASES) {
    const lazy = layout.lazyRefcounts ?? false;
    it(`leaves no corruption and what was flushed, whatever unsynced sectors made it: ${name}`, async () => {
      for (const seed of [1, 2]) {
        const run = await record(layout, seed, { operations: 40, withBacking });
        const rnd = random(seed + 100);
        const end = run.file.moment;
        const step = Math.max(1, Math.floor(end / 60));
        for (let moment = 1 + Math.floor(rnd() * step); moment <= end; moment += step) {
          const p = rnd();
          const image = run.file.cut(run.start, moment, () => rnd() < p);
          await verify(image, moment, run, layout.size, { lazy, withBacking, data: true });
        }
      }
    });
  }

  it('leaves no corruption when the process is killed after any write', async () => {
    const layout = { size: 48 * 4096, clusterSize: 512 };
    const run = await record(layout, 7, { operations: 25, withBacking: true });
    for (let moment = 1; moment <= run.file.moment; moment++) {
      // The host goes on: every write that began is there in full.
      const image = run.file.cut(run.start, moment, () => true);
      await verify(image, moment, run, layout.size, { lazy: false, withBacking: true, data: moment % 10 === 0 });
    }
  });
});
