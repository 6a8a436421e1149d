// Checks an image's bookkeeping: every cluster that some table names must be counted as often as it is named, and flags
// must say what the counts say. Repairs leaks, counts and flags. Bounded for hostile images: a table is walked once however
// often it is named, and memory follows what is stored.
import { Jobs } from '../async.ts';
import { errorCode } from '../fault.ts';
import type { HostFile } from '../host-file.ts';
import {
  COMPRESSED_HI,
  COPIED_HI,
  compressedRun,
  entryOffset,
  getU64,
  type Header,
  INCOMPAT_CORRUPT,
  INCOMPAT_DIRTY,
  MAX_REFCOUNT_TABLE_BYTES,
  parseSnapshot,
  putU64,
  type Snapshot,
  snapshotEntryBytes,
  viewOf,
  ZERO_LO,
} from './format.ts';
import { maxCount, readCount, writeCount } from './refcounts.ts';

/** What a check found, in clusters. */
export interface CheckResult {
  /** Damage: going on writing may lose data. */
  readonly corruptions: number;
  /** Clusters that are counted and not used: lost space, no danger. */
  readonly leaks: number;
  /** Places that could not be read. */
  readonly errors: number;
  /** Damage that was repaired; no longer in `corruptions`. */
  readonly corruptionsFixed: number;
  /** Leaks that were given back; no longer in `leaks`. */
  readonly leaksFixed: number;
  /** Clusters of the disk. */
  readonly totalClusters: number;
  /** Clusters of the disk that are stored. */
  readonly allocatedClusters: number;
  /** Of these, those that do not follow the one before. */
  readonly fragmentedClusters: number;
  /** Of the stored ones, those that are compressed. */
  readonly compressedClusters: number;
  /** First byte behind all that is in use. */
  readonly imageEnd: number;
  /** The first hundred findings in words. */
  readonly findings: readonly string[];
}

/** @internal Options of {@link checkQcow2}. */
export interface CheckOptions {
  /** What to repair; `all` includes leaks. */
  readonly repair: 'none' | 'leaks' | 'all';
  /** Told of progress, 0 to 1. */
  readonly onProgress?: (done: number) => void;
}

const PAGE = 8192;
const MOST_FINDINGS = 100;
/** Snapshot tables may overlap in a hostile image: bytes of L1 tables read in all, beside the file's own length. */
const L1_SLACK = 64 << 20;

/** Counts by cluster; pages exist where something is. */
class CountMap {
  readonly pages = new Map<number, Uint32Array>();
  get(cluster: number): number {
    return this.pages.get(Math.floor(cluster / PAGE))?.[cluster % PAGE] ?? 0;
  }
  add(cluster: number, by: number): void {
    const index = Math.floor(cluster / PAGE);
    let page = this.pages.get(index);
    if (page === undefined) {
      page = new Uint32Array(PAGE);
      this.pages.set(index, page);
    }
    const i = cluster % PAGE;
    page[i] = Math.min(0xffffffff, page[i]! + by);
  }
  set(cluster: number, value: number): void {
    this.add(cluster, 0);
    (this.pages.get(Math.floor(cluster / PAGE)) as Uint32Array)[cluster % PAGE] = value;
  }
  /** One behind the last cluster that is not zero. */
  get end(): number {
    let end = 0;
    for (const [index, page] of this.pages)
      for (let i = PAGE - 1; i >= 0 && index * PAGE + i >= end; i--) if (page[i] !== 0) end = index * PAGE + i + 1;
    return end;
  }
}

/** @internal Reads the snapshot table. Stops where it is damaged. */
export async function readSnapshots(
  file: HostFile,
  h: Header,
): Promise<{ readonly list: readonly Snapshot[]; readonly bytes: number; readonly damaged: boolean }> {
  const list: Snapshot[] = [];
  if (h.snapshotCount === 0) return { list, bytes: 0, damaged: false };
  const most = Math.min(file.length - h.snapshotsOffset, 64 << 20);
  let window = new Uint8Array(Math.min(most, Math.max(65536, h.snapshotCount * 128)));
  await file.read(h.snapshotsOffset, [window]);
  let at = 0;
  for (let i = 0; i < h.snapshotCount; i++) {
    let n = snapshotEntryBytes(window, at);
    if ((n === 0 || at + n > window.length) && window.length < most) {
      window = new Uint8Array(most);
      await file.read(h.snapshotsOffset, [window]);
      n = snapshotEntryBytes(window, at);
    }
    // The last entry need not be padded in the file.
    if (n === 0 || at + n > window.length + 7) return { list, bytes: at, damaged: true };
    list.push(parseSnapshot(window, at));
    at += n;
  }
  return { list, bytes: at, damaged: false };
}

/** @internal Checks and repairs. The image must not be in use. */
export async function checkQcow2(file: HostFile, header: Header, o: CheckOptions): Promise<CheckResult> {
  const c = new Checker(file, header, o);
  return c.run();
}

interface L2Use {
  times: number;
  /** Entries of the active L1 table that name it. */
  active: number;
}

class Checker {
  private readonly file: HostFile;
  private readonly h: Header;
  private readonly o: CheckOptions;
  private readonly cluster: number;
  private readonly perBlock: number;
  private readonly end: number;
  private readonly expected = new CountMap();
  private readonly actual = new CountMap();
  private readonly findings: string[] = [];
  private readonly l2 = new Map<number, L2Use>();
  private blockOffsets: Float64Array = new Float64Array(0);
  private l1Bytes: Uint8Array = new Uint8Array(0);
  private corruptions = 0;
  private leaks = 0;
  private errors = 0;
  private corruptionsFixed = 0;
  private leaksFixed = 0;
  /** Corruptions that a rebuilt refcount structure mends. */
  private countCorruptions = 0;
  private flagCorruptions = 0;
  private allocated = 0;
  private fragmented = 0;
  private compressed = 0;

  constructor(file: HostFile, h: Header, o: CheckOptions) {
    this.file = file;
    this.h = h;
    this.o = o;
    this.cluster = 2 ** h.clusterBits;
    this.perBlock = (this.cluster * 8) / (1 << h.refcountOrder);
    this.end = Math.ceil(file.length / this.cluster) * this.cluster;
  }

  private say(text: string): void {
    if (this.findings.length < MOST_FINDINGS) this.findings.push(text);
  }

  private corrupt(text: string): void {
    this.corruptions++;
    this.say(`ERROR ${text}`);
  }

  private use(offset: number, length: number, times: number): void {
    const last = Math.floor((offset + length - 1) / this.cluster);
    for (let c = Math.floor(offset / this.cluster); c <= last; c++) this.expected.add(c, times);
  }

  /** Reads a table, or null when it cannot be; holes of the file are not read. */
  private async table(offset: number, length: number): Promise<Uint8Array | null> {
    const bytes = new Uint8Array(length);
    const r = this.file.region(offset, offset + length);
    if (!r.data && r.end >= offset + length) return bytes;
    try {
      await this.file.read(offset, [bytes]);
      return bytes;
    } catch (e) {
      this.errors++;
      this.say(`ERROR cannot read ${length} bytes at 0x${offset.toString(16)}: ${errorCode(e)}`);
      return null;
    }
  }

  async run(): Promise<CheckResult> {
    const { h } = this;
    this.expected.add(0, 1);
    await this.readCounts();
    this.l1Bytes = (await this.table(h.l1Offset, h.l1Size * 8)) ?? new Uint8Array(h.l1Size * 8);
    if (h.l1Size > 0) this.use(h.l1Offset, h.l1Size * 8, 1);
    this.noteL1(this.l1Bytes, 1, true);
    await this.readSnapshotTables();
    await this.readBitmaps();
    await this.walkTables();
    this.compareCounts();
    await this.checkFlags();
    if (this.o.repair !== 'none') await this.repair();
    return {
      corruptions: this.corruptions,
      leaks: this.leaks,
      errors: this.errors,
      corruptionsFixed: this.corruptionsFixed,
      leaksFixed: this.leaksFixed,
      totalClusters: Math.ceil(h.size / this.cluster),
      allocatedClusters: this.allocated,
      fragmentedClusters: this.fragmented,
      compressedClusters: this.compressed,
      imageEnd: Math.max(this.expected.end, this.actual.end) * this.cluster,
      findings: this.findings,
    };
  }

  private async readCounts(): Promise<void> {
    const { h, cluster } = this;
    const bytes = await this.table(h.refcountTableOffset, h.refcountTableClusters * cluster);
    this.use(h.refcountTableOffset, h.refcountTableClusters * cluster, 1);
    const entries = (h.refcountTableClusters * cluster) / 8;
    this.blockOffsets = new Float64Array(entries);
    if (bytes === null) return;
    const v = viewOf(bytes);
    const seen = new Set<number>();
    for (let i = 0; i < entries; i++) {
      const offset = getU64(v, i * 8);
      if (offset === 0) continue;
      if (offset % cluster !== 0 || offset >= this.end || seen.has(offset)) {
        this.corrupt(`refcount block ${i} is said to be at 0x${offset.toString(16)}`);
        this.countCorruptions++;
        continue;
      }
      seen.add(offset);
      this.blockOffsets[i] = offset;
      this.use(offset, cluster, 1);
      const block = await this.table(offset, cluster);
      if (block === null) continue;
      for (let k = 0; k < this.perBlock; k++) {
        const count = readCount(block, h.refcountOrder, k);
        if (count > 0) this.actual.set(i * this.perBlock + k, Math.min(count, 0xffffffff));
      }
    }
  }

  /** Counts the L2 tables that an L1 table names. */
  private noteL1(bytes: Uint8Array, times: number, active: boolean): void {
    const v = viewOf(bytes);
    for (let i = 0; i + 8 <= bytes.length; i += 8) {
      const offset = entryOffset(v.getUint32(i), v.getUint32(i + 4));
      if (offset === 0) continue;
      if (offset % this.cluster !== 0 || offset >= this.end) {
        this.corrupt(`L2 table is said to be at 0x${offset.toString(16)}`);
        continue;
      }
      this.expected.add(offset / this.cluster, times);
      const use = this.l2.get(offset);
      if (use === undefined) this.l2.set(offset, { times, active: active ? 1 : 0 });
      else {
        use.times += times;
        if (active && ++use.active === 2) this.corrupt(`L2 table at 0x${offset.toString(16)} is named twice`);
      }
    }
  }

  private async readSnapshotTables(): Promise<void> {
    const { h } = this;
    if (h.snapshotCount === 0) return;
    const s = await readSnapshots(this.file, h);
    if (s.damaged) this.corrupt('the snapshot table is damaged');
    if (s.bytes > 0) this.use(h.snapshotsOffset, s.bytes, 1);
    const tables = new Map<string, { offset: number; size: number; times: number }>();
    for (const snap of s.list) {
      const bytes = snap.l1Size * 8;
      if (bytes === 0) continue;
      if (snap.l1Offset % this.cluster !== 0 || !(snap.l1Offset + bytes <= this.end)) {
        this.corrupt(`the L1 table of snapshot ${snap.id} is said to be at 0x${snap.l1Offset.toString(16)}`);
        continue;
      }
      const key = `${snap.l1Offset} ${snap.l1Size}`;
      const t = tables.get(key);
      if (t !== undefined) t.times++;
      else tables.set(key, { offset: snap.l1Offset, size: snap.l1Size, times: 1 });
    }
    let budget = this.file.length + L1_SLACK;
    for (const t of tables.values()) {
      budget -= t.size * 8;
      if (budget < 0) {
        this.corrupt('the L1 tables of the snapshots overlap');
        return;
      }
      this.use(t.offset, t.size * 8, t.times);
      const bytes = await this.table(t.offset, t.size * 8);
      if (bytes !== null) this.noteL1(bytes, t.times, false);
    }
  }

  /** Dirty bitmaps that are valid keep their clusters. */
  private async readBitmaps(): Promise<void> {
    const b = this.h.bitmaps;
    if (b === null || !this.h.bitmapsValid || b.bytes === 0) return;
    if (b.offset % this.cluster !== 0 || !(b.offset + b.bytes <= this.end) || b.bytes > 65535 * 1024) {
      this.corrupt('the bitmap directory is not where it is said to be');
      return;
    }
    this.use(b.offset, b.bytes, 1);
    const directory = await this.table(b.offset, b.bytes);
    if (directory === null) return;
    const v = viewOf(directory);
    let at = 0;
    for (let i = 0; i < b.count && at + 24 <= directory.length; i++) {
      const offset = getU64(v, at);
      const bytes = v.getUint32(at + 8) * 8;
      at += Math.ceil((24 + v.getUint16(at + 18) + v.getUint32(at + 20)) / 8) * 8;
      if (bytes === 0) continue;
      if (offset % this.cluster !== 0 || !(offset + bytes <= this.end)) {
        this.corrupt('a bitmap table is not where it is said to be');
        continue;
      }
      this.use(offset, bytes, 1);
      const table = await this.table(offset, bytes);
      if (table === null) continue;
      const t = viewOf(table);
      for (let k = 0; k < bytes; k += 8) {
        const data = entryOffset(t.getUint32(k), t.getUint32(k + 4));
        if (data === 0) continue;
        if (data % this.cluster !== 0 || data >= this.end) this.corrupt('bitmap data is not where it is said to be');
        else this.expected.add(data / this.cluster, 1);
      }
    }
  }

  private async walkTables(): Promise<void> {
    // In the order of the disk, for the statistics; then those of snapshots alone.
    let done = 0;
    const order: number[] = [];
    const v = viewOf(this.l1Bytes);
    for (let i = 0; i + 8 <= this.l1Bytes.length; i += 8) {
      const offset = entryOffset(v.getUint32(i), v.getUint32(i + 4));
      if (this.l2.has(offset)) order.push(offset);
    }
    const walked = new Set<number>();
    for (const offset of [...order, ...this.l2.keys()]) {
      if (walked.has(offset)) continue;
      walked.add(offset);
      const use = this.l2.get(offset) as L2Use;
      const bytes = await this.table(offset, this.cluster);
      if (bytes !== null) this.walkL2(bytes, use);
      this.o.onProgress?.((++done / this.l2.size) * 0.8);
    }
  }

  private walkL2(bytes: Uint8Array, use: L2Use): void {
    const v = viewOf(bytes);
    const stats = use.active > 0;
    let nextOffset = 0;
    for (let at = 0; at < bytes.length; at += 8) {
      const hi = v.getUint32(at);
      const lo = v.getUint32(at + 4);
      if (hi === 0 && lo === 0) continue;
      if ((hi & COMPRESSED_HI) !== 0) {
        const run = compressedRun(hi, lo, this.h.clusterBits);
        if (run === null || run.offset >= this.file.length) {
          this.corrupt(`compressed cluster is said to be at 0x${(run?.offset ?? 2 ** 53).toString(16)}`);
          continue;
        }
        if (hi >>> 31 === 1) this.corrupt(`compressed cluster at 0x${run.offset.toString(16)} is flagged as copied`);
        // The length is in sectors and may reach into a cluster that does not exist.
        this.use(run.offset, Math.min(run.length, this.end - run.offset), use.times);
        if (stats) {
          this.compressed++;
          this.allocated++;
          this.fragmented++;
        }
        continue;
      }
      const offset = entryOffset(hi, lo);
      if (offset === 0) continue;
      if (offset % this.cluster !== 0 || offset >= this.end) {
        this.corrupt(`guest data is said to be at 0x${offset.toString(16)}`);
        continue;
      }
      this.expected.add(offset / this.cluster, use.times);
      if (stats) {
        this.allocated++;
        if (nextOffset !== 0 && offset !== nextOffset) this.fragmented++;
        nextOffset = offset + this.cluster;
      }
    }
  }

  private compareCounts(): void {
    const pages = new Set([...this.expected.pages.keys(), ...this.actual.pages.keys()]);
    for (const index of [...pages].sort((a, b) => a - b)) {
      const want = this.expected.pages.get(index);
      const have = this.actual.pages.get(index);
      for (let i = 0; i < PAGE; i++) {
        const w = want?.[i] ?? 0;
        const a = have?.[i] ?? 0;
        if (w === a) continue;
        const c = index * PAGE + i;
        if (a > w) {
          this.leaks++;
          this.say(`Leaked cluster ${c} refcount=${a} reference=${w}`);
        } else {
          this.corrupt(`cluster ${c} refcount=${a} reference=${w}`);
          this.countCorruptions++;
        }
      }
    }
  }

  /** Flags of the active tables; `fix` writes them anew from the counts expected. */
  private async checkFlags(fix = false): Promise<void> {
    const counts = fix ? this.expected : this.actual;
    const l1 = viewOf(this.l1Bytes);
    const walked = new Set<number>();
    let done = 0;
    for (let i = 0; i + 8 <= this.l1Bytes.length; i += 8) {
      const hi = l1.getUint32(i);
      const offset = entryOffset(hi, l1.getUint32(i + 4));
      const use = this.l2.get(offset);
      if (use === undefined || walked.has(offset)) continue;
      walked.add(offset);
      const one = counts.get(offset / this.cluster) === 1;
      if (one !== (hi >>> 31 === 1)) {
        if (fix) {
          l1.setUint32(i, (one ? hi | COPIED_HI : hi & ~COPIED_HI) >>> 0);
          await this.file.write(this.h.l1Offset + i, [this.l1Bytes.subarray(i, i + 8)]);
        } else this.badFlag(`L2 table at 0x${offset.toString(16)}`);
      }
      const bytes = await this.table(offset, this.cluster);
      if (bytes === null) continue;
      const v = viewOf(bytes);
      let changed = false;
      for (let at = 0; at < bytes.length; at += 8) {
        const h = v.getUint32(at);
        const l = v.getUint32(at + 4);
        if ((h & COMPRESSED_HI) !== 0) {
          if (fix && h >>> 31 === 1) {
            v.setUint32(at, (h & ~COPIED_HI) >>> 0);
            changed = true;
          }
          continue;
        }
        const data = entryOffset(h, l);
        // A zero flag alone, or nothing; one that is not where a cluster is has been reported.
        if (data === 0 || data % this.cluster !== 0 || data >= this.end) continue;
        const alone = counts.get(data / this.cluster) === 1;
        if (alone === (h >>> 31 === 1)) continue;
        if (fix) {
          v.setUint32(at, (alone ? h | COPIED_HI : h & ~COPIED_HI) >>> 0);
          changed = true;
        } else this.badFlag(`guest data at 0x${data.toString(16)}${(l & ZERO_LO) !== 0 ? ' (zero)' : ''}`);
      }
      if (changed) await this.file.write(offset, [bytes]);
      this.o.onProgress?.(0.8 + (++done / this.l2.size) * 0.2);
    }
  }

  private badFlag(what: string): void {
    this.flagCorruptions++;
    this.corrupt(`${what}: the copied flag contradicts the refcount`);
  }

  private async repair(): Promise<void> {
    const all = this.o.repair === 'all';
    const dirty = (this.h.incompatible & INCOMPAT_DIRTY) !== 0;
    // Counting with damaged tables left out would free what they name.
    const unknown = this.corruptions - this.countCorruptions - this.flagCorruptions + this.errors;
    if (all && (this.countCorruptions > 0 || (dirty && this.leaks > 0))) {
      if (unknown > 0) {
        this.say('refcounts were left alone, for other tables are damaged');
        return;
      }
      if (!(await this.rebuild())) return;
      this.leaksFixed += this.leaks;
      this.leaks = 0;
      this.corruptionsFixed += this.countCorruptions;
      this.corruptions -= this.countCorruptions;
      this.countCorruptions = 0;
    } else if (this.leaks > 0 && unknown === 0) await this.dropLeaks();
    if (!all) return;
    if (this.flagCorruptions > 0 && this.countCorruptions === 0) {
      await this.checkFlags(true);
      await this.file.sync();
      this.corruptionsFixed += this.flagCorruptions;
      this.corruptions -= this.flagCorruptions;
      this.flagCorruptions = 0;
    }
    const bits = INCOMPAT_DIRTY | INCOMPAT_CORRUPT;
    if (this.h.version === 3 && this.corruptions === 0 && this.errors === 0 && (this.h.incompatible & bits) !== 0) {
      const bytes = new Uint8Array(4);
      viewOf(bytes).setUint32(0, (this.h.incompatible & ~bits) >>> 0);
      await this.file.sync();
      await this.file.write(76, [bytes]);
      await this.file.sync();
    }
  }

  private async dropLeaks(): Promise<void> {
    for (let i = 0; i < this.blockOffsets.length; i++) {
      const offset = this.blockOffsets[i]!;
      if (offset === 0) continue;
      let block: Uint8Array | null = null;
      for (let k = 0; k < this.perBlock; k++) {
        const c = i * this.perBlock + k;
        const want = this.expected.get(c);
        if (this.actual.get(c) <= want) continue;
        block ??= await this.table(offset, this.cluster);
        if (block === null) break;
        writeCount(block, this.h.refcountOrder, k, want);
        this.actual.set(c, want);
        this.leaks--;
        this.leaksFixed++;
      }
      if (block !== null) await this.file.write(offset, [block]);
    }
    await this.file.sync();
  }

  /** Writes table and blocks anew behind everything, exactly as the tables ask. False when that cannot be. */
  private async rebuild(): Promise<boolean> {
    const { cluster, h } = this;
    // The old structure is not needed any more.
    for (let i = 0; i < h.refcountTableClusters; i++)
      this.expected.set(
        h.refcountTableOffset / cluster + i,
        this.expected.get(h.refcountTableOffset / cluster + i) - 1,
      );
    for (const offset of this.blockOffsets)
      if (offset > 0) this.expected.set(offset / cluster, this.expected.get(offset / cluster) - 1);
    const start = Math.max(Math.ceil(this.file.length / cluster), this.expected.end);
    const needed = new Set<number>();
    for (const [index, page] of this.expected.pages)
      page.forEach((n, i) => {
        if (n > 0) needed.add(Math.floor((index * PAGE + i) / this.perBlock));
        if (n > maxCount(h.refcountOrder)) needed.add(-1);
      });
    if (needed.has(-1)) {
      this.say('clusters are used more often than their counts can say');
      return false;
    }
    let tableClusters = 1;
    let total = 0;
    for (let before = -1; before !== total; ) {
      before = total;
      for (let b = Math.floor(start / this.perBlock); b * this.perBlock < start + total; b++) needed.add(b);
      let highest = 0;
      for (const b of needed) highest = Math.max(highest, b);
      tableClusters = Math.max(1, Math.ceil(((highest + 1) * 8) / cluster));
      total = needed.size + tableClusters;
    }
    if (tableClusters * cluster > MAX_REFCOUNT_TABLE_BYTES) {
      this.say('the refcount table would be too large');
      return false;
    }
    for (let i = 0; i < total; i++) this.expected.set(start + i, 1);
    const table = new Uint8Array(tableClusters * cluster);
    const v = viewOf(table);
    let at = start;
    let jobs = new Jobs();
    for (const b of [...needed].sort((x, y) => x - y)) {
      const block = new Uint8Array(cluster);
      for (let k = 0; k < this.perBlock; k++) {
        const n = this.expected.get(b * this.perBlock + k);
        if (n > 0) writeCount(block, h.refcountOrder, k, n);
      }
      putU64(v, b * 8, at * cluster);
      jobs.add(this.file.write(at * cluster, [block]));
      if (++at % 16 === 0) {
        await jobs.end();
        jobs = new Jobs();
      }
    }
    jobs.add(this.file.write(at * cluster, [table]));
    await jobs.end();
    await this.file.sync();
    const pointer = new Uint8Array(12);
    putU64(viewOf(pointer), 0, at * cluster);
    viewOf(pointer).setUint32(8, tableClusters);
    await this.file.write(48, [pointer]);
    await this.file.sync();
    return true;
  }
}
