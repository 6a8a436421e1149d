// L2 tables in memory: slices of them, loaded when needed, written back in the order that a crash survives.
import type { HostFile } from '../host-file.ts';
import { viewOf } from './format.ts';

/** Bytes of slices kept in memory when all are clean. */
const CACHE_BYTES = 32 << 20;
const MAX_SLICE_BYTES = 16384;

/** @internal A piece of an L2 table. */
export interface Slice {
  /** Where it is in the file. */
  readonly key: number;
  /** Where its table begins in the file. */
  readonly table: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Changed since it was last handed to a commit. */
  dirty: boolean;
  /** A commit is writing it. */
  writing: boolean;
  used: boolean;
}

/** @internal Slices by their place in the file. */
export class SliceCache {
  readonly sliceBytes: number;
  private readonly file: HostFile;
  private readonly most: number;
  private readonly slices = new Map<number, Slice>();
  private readonly loading = new Map<number, Promise<void>>();
  private readonly dirtySlices = new Set<Slice>();

  constructor(file: HostFile, clusterBytes: number) {
    this.file = file;
    this.sliceBytes = Math.min(clusterBytes, MAX_SLICE_BYTES);
    this.most = CACHE_BYTES / this.sliceBytes;
  }

  /** Changed slices. */
  get dirtyCount(): number {
    return this.dirtySlices.size;
  }

  /** Whether so many have changed that a commit is due. */
  get crowded(): boolean {
    return this.dirtySlices.size > this.most / 4;
  }

  /** The slice, if it is in memory. */
  peek(key: number): Slice | undefined {
    const s = this.slices.get(key);
    if (s !== undefined) s.used = true;
    return s;
  }

  /** Brings a slice into memory; peek again afterwards, for it may have gone meanwhile. */
  load(key: number, table: number): Promise<void> {
    if (this.slices.has(key)) return Promise.resolve();
    const under = this.loading.get(key);
    if (under !== undefined) return under;
    const job = this.bring(key, table);
    this.loading.set(key, job);
    const over = (): void => {
      if (this.loading.get(key) === job) this.loading.delete(key);
    };
    job.then(over, over);
    return job;
  }

  private async bring(key: number, table: number): Promise<void> {
    const bytes = new Uint8Array(this.sliceBytes);
    await this.file.read(key, [bytes]);
    // A table that has been forgotten meanwhile is no longer being loaded.
    if (this.loading.has(key) && !this.slices.has(key)) this.keep(key, table, bytes);
  }

  private keep(key: number, table: number, bytes: Uint8Array): void {
    if (this.slices.size >= this.most) this.evict();
    this.slices.set(key, { key, table, bytes, view: viewOf(bytes), dirty: false, writing: false, used: true });
  }

  private evict(): void {
    let looked = 0;
    for (const s of this.slices.values()) {
      if (++looked > 64) break; // dirty ones crowd the front: the cache grows a little until the commit
      this.slices.delete(s.key);
      if (s.dirty || s.writing || s.used) {
        s.used = false;
        this.slices.set(s.key, s); // a second chance, at the back
      } else return;
    }
  }

  /** Marks a slice as changed. */
  touch(s: Slice): void {
    if (s.dirty) return;
    s.dirty = true;
    this.dirtySlices.add(s);
  }

  /** Hands all changed slices to a commit, which calls {@link SliceCache.written} or {@link SliceCache.failed}. */
  take(): readonly Slice[] {
    const all = [...this.dirtySlices];
    this.dirtySlices.clear();
    for (const s of all) {
      s.dirty = false;
      s.writing = true;
    }
    return all;
  }

  /** They are on the disk. */
  written(slices: readonly Slice[]): void {
    for (const s of slices) s.writing = false;
  }

  /** They are not. */
  failed(slices: readonly Slice[]): void {
    for (const s of slices) {
      s.writing = false;
      this.touch(s);
    }
  }

  /** Forgets the slices of a table that is no longer in use. */
  forget(table: number, bytes: number): void {
    for (let key = table; key < table + bytes; key += this.sliceBytes) {
      const s = this.slices.get(key);
      if (s !== undefined) this.dirtySlices.delete(s);
      this.slices.delete(key);
      this.loading.delete(key);
    }
  }
}
