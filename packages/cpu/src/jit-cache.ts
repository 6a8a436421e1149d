// Keeps translated regions: what is hot waits in a queue, is compiled in batches, and goes when its bytes change.
import type { Decoder } from '@hyve/x86';
import type { BlockCache, RegionIndex } from './blocks.ts';
import type { Semantic } from './ctx.ts';
import { type Interpreter, inTypeScript, JIT_FIRST_SLOT, TABLE_SLOTS } from './interp.ts';
import { CELL, type Found, J_LOOKUP, JC_ENTRIES, type Region, RegionTranslator, rangesOf } from './jit.ts';
import type { Layout } from './layout.ts';
import * as R from './record.ts';
import * as S from './state.ts';
import { c32, I32 } from './wasm/builder.ts';

/** Regions compiled together. */
const BATCH = 128;
/** A shorter queue is compiled once its oldest member has waited this many calls of {@link JitCache.pump}. */
const PATIENCE = 48;

/** The translated code of one VM. */
export class JitCache implements RegionIndex {
  private readonly L: Layout;
  private readonly i32: Int32Array;
  private readonly u16: Uint16Array;
  private readonly interp: Interpreter;
  private readonly blocks: BlockCache;
  private readonly translator: RegionTranslator;
  private readonly attention: () => void;
  private queue: { region: Region; found: Found }[] = [];
  private waited = 0;
  private readonly patience: number;
  private nextSlot = JIT_FIRST_SLOT;
  private nextCell: number;
  private readonly byPage: Map<number, Region[]> = new Map();
  private readonly byHead: Map<number, Region> = new Map();
  private stale: WebAssembly.ExportValue | null = null;
  /** Regions compiled, instructions in them, bytes of WebAssembly, milliseconds spent, regions dropped, modules made. */
  compiled = 0;
  instructions = 0;
  bytes = 0;
  ms = 0;
  dropped = 0;
  modules = 0;

  /** @param o.attention makes every vCPU leave its translated code soon */
  constructor(o: {
    layout: Layout;
    buffer: ArrayBufferLike;
    interp: Interpreter;
    blocks: BlockCache;
    decoder: Decoder;
    semantics: ReadonlyMap<number, Semantic>;
    threshold: number;
    attention: () => void;
  }) {
    this.L = o.layout;
    this.i32 = new Int32Array(o.buffer);
    this.u16 = new Uint16Array(o.buffer);
    this.interp = o.interp;
    this.blocks = o.blocks;
    this.attention = o.attention;
    this.nextCell = this.L.cells + CELL;
    this.patience = o.threshold < PATIENCE ? 0 : PATIENCE;
    this.translator = new RegionTranslator(
      {
        u8: new Uint8Array(o.buffer),
        semantics: o.semantics,
        decoder: o.decoder,
        special: inTypeScript,
        unavailable: (n, mode) => o.blocks.unavailable(n, mode),
        cell: () => {
          if (this.nextCell + CELL > this.L.cellsEnd) return 0;
          const c = this.nextCell;
          this.nextCell += CELL;
          this.i32[c >> 2] = 0;
          this.i32[(c >> 2) + 1] = 0;
          return c;
        },
        runs: (host, mode) => o.blocks.runs(host, mode),
        codePage: (base, page) => this.codePage(base, page),
        jumpCache: this.L.jumpCache,
      },
      Math.max(1, o.threshold >> 4),
    );
  }

  /** Page `page` in the code TLB of the vCPU at `base`: its host address, or 0. */
  private codePage(base: number, page: number): number {
    const tlb = this.i32[(base + S.TLB_CODE) >> 2] as number;
    const index = ((page % S.TLB_ENTRIES) + S.TLB_ENTRIES) % S.TLB_ENTRIES;
    const e = (tlb + index * S.TLB_STRIDE) >> 2;
    const lo = ((page % 0x100000) * 4096) | 0;
    const hi = Math.floor(page / 0x100000) | 0;
    if (this.i32[e + 4] !== lo || this.i32[e + 5] !== hi) return 0;
    const host = (lo + (this.i32[e + 6] as number)) >>> 0;
    return host;
  }

  /** The block that the vCPU at `base` is about to run reached the threshold. */
  hot(base: number, head: number): void {
    const mode = this.i32[(head + R.B_MODE) >> 2] as number;
    const bits = mode & 3;
    const suited =
      (mode & S.MODE_CSFULL) !== 0 &&
      (mode & S.MODE_FLAT) !== 0 &&
      (bits === 2 || (bits === 1 && (mode & S.MODE_SS32) !== 0));
    if (!suited) return;
    const t0 = now();
    const host = this.i32[(head + R.B_HOST) >> 2] as number;
    const lo = this.i32[(base + S.RIP_BASE) >> 2] as number;
    const hi = this.i32[(base + S.RIP_BASE + 4) >> 2] as number;
    // Other pages are looked up while the address space that ran the code is the current one.
    const found = this.translator.discover(base, host, hi * 0x100000 + (lo >>> 12), mode);
    if (found !== null) {
      const region: Region = { head, ranges: rangesOf(found), slot: 0, alive: true };
      this.enlist(region);
      this.queue.push({ region, found });
    }
    this.ms += now() - t0;
  }

  /** From here on a change of the region's bytes drops it. */
  private enlist(region: Region): void {
    for (const [from, to] of region.ranges) {
      this.blocks.markCode(from, to - from);
      const page = (from - this.L.ram) >>> 12;
      const list = this.byPage.get(page);
      if (list === undefined) this.byPage.set(page, [region]);
      else if (list[list.length - 1] !== region && !list.includes(region)) list.push(region);
    }
  }

  /** Compiles what has gathered; call it often, outside the guest. */
  pump(): void {
    if (this.queue.length === 0) return;
    if (this.queue.length < BATCH && ++this.waited < this.patience) return;
    this.waited = 0;
    const t0 = now();
    while (this.queue.length > 0) this.compile(this.queue.splice(0, BATCH));
    this.ms += now() - t0;
  }

  private compile(batch: { region: Region; found: Found }[]): void {
    if (this.nextSlot + batch.length + 1 > TABLE_SLOTS || this.nextCell + CELL * 4096 > this.L.cellsEnd) {
      this.blocks.flush();
      return;
    }
    const { m, env, importObject } = this.interp.satellite();
    const jitType = m.type([I32], I32);
    const made: { region: Region; name: string }[] = [];
    if (this.stale === null) m.fn([I32], I32, 'stale').emit(c32(J_LOOKUP));
    for (const { region, found } of batch) {
      // Its bytes may have changed, or its block gone, since it was queued.
      if (!region.alive) continue;
      if (this.u16[region.head >> 1] !== R.H_HEAD) {
        this.drop(region);
        continue;
      }
      const mode = this.i32[(region.head + R.B_MODE) >> 2] as number;
      const name = `r${made.length}`;
      if (!this.translator.emit(m, name, env, jitType, found, mode)) {
        this.blocks.flush();
        return;
      }
      for (const b of found.blocks) this.instructions += b.insns.length;
      m.name(m.lastRef, `region_${(this.i32[(region.head + R.B_HOST) >> 2] as number).toString(16)}`);
      made.push({ region, name });
    }
    if (made.length === 0 && this.stale !== null) return;
    const bytes = m.finish();
    this.modules++;
    this.bytes += bytes.length;
    const exports = new WebAssembly.Instance(new WebAssembly.Module(bytes), importObject).exports;
    this.stale ??= exports['stale'] as WebAssembly.ExportValue;
    for (const { region, name } of made) {
      const head = region.head;
      const slot = this.nextSlot++;
      this.interp.exports.table.set(slot, exports[name] as never);
      region.slot = slot;
      this.byHead.set(head, region);
      this.u16[head >> 1] = R.H_JIT;
      this.i32[(head + R.B_PAGE2_NEXT) >> 2] = slot;
      this.compiled++;
    }
  }

  private drop(r: Region): void {
    if (!r.alive) return;
    r.alive = false;
    this.dropped++;
    // Links and jump cache entries still lead to the slot: it now says "look it up".
    if (r.slot !== 0) this.interp.exports.table.set(r.slot, this.stale as never);
    if (this.byHead.get(r.head) === r) {
      this.byHead.delete(r.head);
      if (this.u16[r.head >> 1] === R.H_JIT) {
        this.u16[r.head >> 1] = R.H_HEAD;
        this.i32[(r.head + R.B_PAGE2_NEXT) >> 2] = 0;
      }
    }
    for (const [from] of r.ranges) {
      const page = (from - this.L.ram) >>> 12;
      const list = this.byPage.get(page);
      const at = list?.indexOf(r) ?? -1;
      if (list === undefined || at < 0) continue;
      list.splice(at, 1);
      if (list.length === 0) this.byPage.delete(page);
    }
    this.attention();
  }

  invalidate(page: number, from: number, to: number): boolean {
    const list = this.byPage.get(page);
    if (list === undefined) return false;
    const pageHost = this.L.ram + page * 4096;
    const hit = (r: Region): boolean => r.ranges.some(([a, b]) => a < pageHost + to && pageHost + from < b);
    const doomed = list.filter(hit);
    for (const r of doomed) this.drop(r);
    return doomed.length > 0;
  }

  eachRange(page: number, each: (from: number, to: number) => void): void {
    const pageHost = this.L.ram + page * 4096;
    for (const r of this.byPage.get(page) ?? [])
      for (const [a, b] of r.ranges) if (a >= pageHost && a < pageHost + 4096) each(a - pageHost, b - pageHost);
  }

  headKilled(head: number): void {
    const r = this.byHead.get(head);
    if (r !== undefined) this.drop(r);
  }

  flush(): void {
    for (let s = JIT_FIRST_SLOT; s < this.nextSlot; s++) this.interp.exports.table.set(s, this.stale as never);
    this.byPage.clear();
    this.byHead.clear();
    this.queue = [];
    this.nextSlot = JIT_FIRST_SLOT;
    this.nextCell = this.L.cells + CELL;
    this.i32.fill(0, this.L.jumpCache >> 2, (this.L.jumpCache >> 2) + JC_ENTRIES * 4);
    this.attention();
  }
}

const clock = (globalThis as unknown as { performance: { now(): number } }).performance;
function now(): number {
  return clock.now();
}
