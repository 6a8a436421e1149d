// Reference counts of host clusters: a table of blocks of counters, 1 to 64 bits each, and the allocator on top.
// Everything that changes something runs under the image's mutex. Counts may be written before what needs them: a crash
// then leaves a leak. They are never lowered before what they counted is gone from the disk.
import { Jobs } from '../async.ts';
import { BlockFault, damage } from '../fault.ts';
import type { HostFile } from '../host-file.ts';
import { getU64, type Header, MAX_REFCOUNT_TABLE_BYTES, putU64, viewOf } from './format.ts';

/** Bytes of blocks kept in memory; at least four blocks. */
const CACHE_BYTES = 4 << 20;

/** A block that is not where the table says; like any offset that is no cluster's. */
const NO_BLOCK = 1;

interface Block {
  readonly index: number;
  readonly bytes: Uint8Array;
  dirty: boolean;
  used: boolean;
}

/** @internal Reads counter `i` of a block. Counts beyond 2^53 come back as Infinity. */
export function readCount(bytes: Uint8Array, order: number, i: number): number {
  switch (order) {
    case 3:
      return bytes[i]!;
    case 4:
      return (bytes[i * 2]! << 8) | bytes[i * 2 + 1]!;
    case 5:
      return viewOf(bytes).getUint32(i * 4);
    case 6:
      return getU64(viewOf(bytes), i * 8);
    default: {
      const bits = 1 << order;
      const at = i * bits;
      return (bytes[at >>> 3]! >>> (at & 7)) & ((1 << bits) - 1);
    }
  }
}

/** @internal Writes counter `i` of a block; the value fits. */
export function writeCount(bytes: Uint8Array, order: number, i: number, value: number): void {
  switch (order) {
    case 3:
      bytes[i] = value;
      break;
    case 4:
      bytes[i * 2] = value >>> 8;
      bytes[i * 2 + 1] = value;
      break;
    case 5:
      viewOf(bytes).setUint32(i * 4, value);
      break;
    case 6:
      putU64(viewOf(bytes), i * 8, value);
      break;
    default: {
      const bits = 1 << order;
      const at = i * bits;
      const shift = at & 7;
      const mask = ((1 << bits) - 1) << shift;
      bytes[at >>> 3] = (bytes[at >>> 3]! & ~mask) | (value << shift);
    }
  }
}

/** @internal The largest count of 2^order bits that we write. */
export function maxCount(order: number): number {
  return order >= 5 ? (order === 5 ? 0xffffffff : Number.MAX_SAFE_INTEGER) : 2 ** (1 << order) - 1;
}

/** @internal What {@link Refcounts} needs to know of the image. */
export interface RefcountOwner {
  /** Clusters that hold tables in use. */
  readonly meta: Set<number>;
}

/** @internal The refcounts of one image. */
export class Refcounts {
  private readonly file: HostFile;
  private readonly owner: RefcountOwner;
  private readonly clusterBytes: number;
  private readonly order: number;
  private readonly perBlock: number;
  private readonly cacheBlocks: number;
  private readonly blocks = new Map<number, Block>();
  /** Host offsets of blocks, 0 for none. */
  private table: Float64Array;
  private tableOffset: number;
  private tableClusters: number;
  /** Blocks that the table on disk does not know yet. */
  private readonly unlinked = new Set<number>();
  /** No free cluster is below. */
  private hint = 0;
  /** Clusters from here on have never been allocated. */
  private highWater: number;

  private constructor(file: HostFile, h: Header, table: Float64Array, owner: RefcountOwner) {
    this.file = file;
    this.owner = owner;
    this.clusterBytes = 2 ** h.clusterBits;
    this.order = h.refcountOrder;
    this.perBlock = (this.clusterBytes * 8) / (1 << h.refcountOrder);
    this.cacheBlocks = Math.max(4, Math.floor(CACHE_BYTES / this.clusterBytes));
    this.table = table;
    this.tableOffset = h.refcountTableOffset;
    this.tableClusters = h.refcountTableClusters;
    this.highWater = Math.ceil(file.length / this.clusterBytes);
    this.noteTable();
  }

  /** Reads the table. */
  static async load(file: HostFile, h: Header, owner: RefcountOwner): Promise<Refcounts> {
    const bytes = new Uint8Array(h.refcountTableClusters * 2 ** h.clusterBits);
    await file.read(h.refcountTableOffset, [bytes]);
    const v = viewOf(bytes);
    const table = new Float64Array(bytes.length / 8);
    for (let i = 0; i < table.length; i++) table[i] = getU64(v, i * 8);
    return new Refcounts(file, h, table, owner);
  }

  private noteTable(): void {
    const first = this.tableOffset / this.clusterBytes;
    for (let i = 0; i < this.tableClusters; i++) this.owner.meta.add(first + i);
    this.table.forEach((offset, i) => {
      if (offset === 0) return;
      const cluster = offset / this.clusterBytes;
      // Two tables in one place: neither can be trusted, and writing one would destroy the other.
      if (!Number.isInteger(cluster) || this.owner.meta.has(cluster)) this.table[i] = NO_BLOCK;
      else this.owner.meta.add(cluster);
    });
  }

  /** Whether counts wait to be written. */
  get dirty(): boolean {
    if (this.unlinked.size > 0) return true;
    for (const b of this.blocks.values()) if (b.dirty) return true;
    return false;
  }

  private async room(): Promise<void> {
    if (this.blocks.size < this.cacheBlocks) return;
    for (const pass of [0, 1]) {
      for (const b of this.blocks.values()) {
        if (b.dirty) continue;
        if (b.used && pass === 0) b.used = false;
        else {
          this.blocks.delete(b.index);
          return;
        }
      }
    }
    await this.writeBack();
    const oldest = this.blocks.keys().next();
    if (!oldest.done) this.blocks.delete(oldest.value);
  }

  /** The block, or null when there is none. */
  private async block(index: number): Promise<Block | null> {
    const known = this.blocks.get(index);
    if (known !== undefined) {
      known.used = true;
      return known;
    }
    const offset = index < this.table.length ? this.table[index]! : 0;
    if (offset === 0) return null;
    if (offset % this.clusterBytes !== 0 || offset >= this.file.length)
      throw damage(`${this.file.path}: refcount block ${index} is said to be at 0x${offset.toString(16)}`);
    await this.room();
    const bytes = new Uint8Array(this.clusterBytes);
    await this.file.read(offset, [bytes]);
    const b: Block = { index, bytes, dirty: false, used: true };
    this.blocks.set(index, b);
    return b;
  }

  /** Makes the missing block `index` in the first cluster that it counts itself, which is free as all others there. */
  private async makeBlock(index: number): Promise<Block> {
    const cluster = index * this.perBlock;
    if (this.owner.meta.has(cluster)) throw damage(`${this.file.path}: table at cluster ${cluster} is not counted`);
    await this.room();
    const bytes = new Uint8Array(this.clusterBytes);
    await this.file.write(cluster * this.clusterBytes, [bytes]); // takes its space now, so that a flush need not
    writeCount(bytes, this.order, 0, 1);
    const b: Block = { index, bytes, dirty: true, used: true };
    this.table[index] = cluster * this.clusterBytes;
    this.owner.meta.add(cluster);
    this.unlinked.add(index);
    this.blocks.set(index, b);
    this.highWater = Math.max(this.highWater, cluster + 1);
    return b;
  }

  /** The count of a cluster. */
  async get(cluster: number): Promise<number> {
    const b = await this.block(Math.floor(cluster / this.perBlock));
    return b === null ? 0 : readCount(b.bytes, this.order, cluster % this.perBlock);
  }

  /** Lowers a count by one. @returns the new count */
  async drop(cluster: number): Promise<number> {
    const b = await this.block(Math.floor(cluster / this.perBlock));
    const i = cluster % this.perBlock;
    const count = b === null ? 0 : readCount(b.bytes, this.order, i);
    if (b === null || count === 0) throw damage(`${this.file.path}: cluster ${cluster} was in use and not counted`);
    if (count === Number.POSITIVE_INFINITY) return count;
    writeCount(b.bytes, this.order, i, count - 1);
    b.dirty = true;
    if (count === 1) this.hint = Math.min(this.hint, cluster);
    return count - 1;
  }

  /** Raises a count by one; false when it is at its maximum. */
  async raise(cluster: number): Promise<boolean> {
    const index = Math.floor(cluster / this.perBlock);
    while (index >= this.table.length) await this.growTable();
    const b = (await this.block(index)) ?? (await this.makeBlock(index));
    const i = cluster % this.perBlock;
    const count = readCount(b.bytes, this.order, i);
    if (count >= maxCount(this.order)) return false;
    writeCount(b.bytes, this.order, i, count + 1);
    b.dirty = true;
    return true;
  }

  /** Sets a count whose block exists; false otherwise. For repairs. */
  async set(cluster: number, count: number): Promise<boolean> {
    const b = await this.block(Math.floor(cluster / this.perBlock));
    if (b === null || count > maxCount(this.order)) return false;
    writeCount(b.bytes, this.order, cluster % this.perBlock, count);
    b.dirty = true;
    this.hint = 0;
    return true;
  }

  private checkReach(cluster: number): void {
    if (cluster * this.clusterBytes >= 2 ** 52)
      throw new BlockFault('no-space', `${this.file.path}: the image file cannot grow further`);
  }

  /**
   * Allocates up to `most` clusters in a row, at least one, each with count 1.
   * `fresh` says that they were never in use since the image was opened and lie beyond the file's end then.
   */
  async allocate(most: number): Promise<{ readonly first: number; readonly count: number; readonly fresh: boolean }> {
    let at = this.hint;
    for (;;) {
      const index = Math.floor(at / this.perBlock);
      this.checkReach(at);
      if (index >= this.table.length) {
        await this.growTable();
        at = Math.min(at, this.hint);
        continue;
      }
      const b = (await this.block(index)) ?? (await this.makeBlock(index));
      const end = this.perBlock;
      let i = at % this.perBlock;
      while (i < end && readCount(b.bytes, this.order, i) !== 0) i++;
      if (i === end) {
        at = (index + 1) * this.perBlock;
        this.hint = Math.max(this.hint, at);
        continue;
      }
      const first = index * this.perBlock + i;
      const fresh = first >= this.highWater;
      let count = 0;
      while (
        count < most &&
        i + count < end &&
        readCount(b.bytes, this.order, i + count) === 0 &&
        first + count >= this.highWater === fresh
      ) {
        if (this.owner.meta.has(first + count))
          throw damage(`${this.file.path}: cluster ${first + count} holds a table and is not counted`);
        count++;
      }
      for (let k = 0; k < count; k++) writeCount(b.bytes, this.order, i + k, 1);
      b.dirty = true;
      this.hint = first + count;
      if (fresh) this.highWater = first + count;
      return { first, count, fresh };
    }
  }

  /** Allocates `count` clusters in a row behind everything else. */
  async allocateAtEnd(count: number): Promise<number> {
    let first = Math.max(this.highWater, Math.ceil(this.file.length / this.clusterBytes));
    for (let n = 0; n < count; ) {
      this.checkReach(first + count);
      const index = Math.floor((first + n) / this.perBlock);
      while (index >= this.table.length) await this.growTable();
      const b = (await this.block(index)) ?? (await this.makeBlock(index));
      if (readCount(b.bytes, this.order, (first + n) % this.perBlock) === 0) n++;
      else {
        first += n + 1;
        n = 0;
      }
    }
    for (let n = 0; n < count; n++) await this.raise(first + n);
    this.highWater = Math.max(this.highWater, first + count);
    return first;
  }

  /** Puts a larger table, and the blocks that count it, behind all that the present one covers. */
  private async growTable(): Promise<void> {
    const entries = this.clusterBytes / 8;
    const clusters = this.tableClusters * 2;
    if (clusters * this.clusterBytes > MAX_REFCOUNT_TABLE_BYTES)
      throw new BlockFault('no-space', `${this.file.path}: the refcount table cannot grow further`);
    const first = this.table.length * this.perBlock;
    let blocks = 1;
    while (blocks * this.perBlock < blocks + clusters) blocks++;
    this.checkReach(first + blocks + clusters);
    for (let i = 0; i < blocks + clusters; i++)
      if (this.owner.meta.has(first + i))
        throw damage(`${this.file.path}: table at cluster ${first + i} is not counted`);
    await this.writeBack();
    const table = new Float64Array(clusters * entries);
    table.set(this.table);
    const jobs = new Jobs();
    const total = blocks + clusters;
    for (let b = 0; b < blocks; b++) {
      const bytes = new Uint8Array(this.clusterBytes);
      const n = Math.min(this.perBlock, total - b * this.perBlock);
      for (let i = 0; i < n; i++) writeCount(bytes, this.order, i, 1);
      const offset = (first + b) * this.clusterBytes;
      table[this.table.length + b] = offset;
      jobs.add(this.file.write(offset, [bytes]));
    }
    const bytes = new Uint8Array(table.length * 8);
    const v = viewOf(bytes);
    for (let i = 0; i < table.length; i++) putU64(v, i * 8, table[i]!);
    const offset = (first + blocks) * this.clusterBytes;
    jobs.add(this.file.write(offset, [bytes]));
    await jobs.end();
    await this.file.sync();
    const pointer = new Uint8Array(12);
    putU64(viewOf(pointer), 0, offset);
    viewOf(pointer).setUint32(8, clusters);
    try {
      await this.file.write(48, [pointer]);
      await this.file.sync();
    } catch (e) {
      // Which of the two tables the header names is not known now.
      throw new BlockFault('io-error', `${this.file.path}: the header could not be written`, e, true);
    }
    const oldFirst = this.tableOffset / this.clusterBytes;
    const oldClusters = this.tableClusters;
    this.table = table;
    this.tableOffset = offset;
    this.tableClusters = clusters;
    for (let i = 0; i < oldClusters; i++) this.owner.meta.delete(oldFirst + i);
    for (let i = 0; i < total; i++) this.owner.meta.add(first + i);
    this.highWater = Math.max(this.highWater, first + total);
    for (let i = 0; i < oldClusters; i++) await this.drop(oldFirst + i);
  }

  /** Writes dirty blocks, then the table's entries for new ones. Not synced. */
  async writeBack(): Promise<void> {
    const dirty: Block[] = [];
    for (const b of this.blocks.values()) if (b.dirty) dirty.push(b);
    if (dirty.length > 0) {
      const jobs = new Jobs();
      for (const b of dirty) {
        b.dirty = false;
        jobs.add(this.file.write(this.table[b.index]!, [b.bytes]));
      }
      try {
        await jobs.end();
      } catch (e) {
        for (const b of dirty) b.dirty = true;
        throw e;
      }
    }
    if (this.unlinked.size === 0) return;
    await this.file.sync(); // a table must not lead to a block that is not there
    for (const index of [...this.unlinked]) {
      const entry = new Uint8Array(8);
      putU64(viewOf(entry), 0, this.table[index]!);
      await this.file.write(this.tableOffset + index * 8, [entry]);
      this.unlinked.delete(index);
    }
  }
}
