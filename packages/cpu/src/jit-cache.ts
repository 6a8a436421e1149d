// Keeps translated regions: what is hot waits in a queue, is compiled in batches, and goes when its bytes change.
import type { Decoder } from '@hyve/x86';
import type { BlockCache, RegionIndex } from './blocks.ts';
import type { Semantic } from './ctx.ts';
import { type Interpreter, JIT_FIRST_SLOT, TABLE_SLOTS } from './interp.ts';
import { type Found, J_LOOKUP, JC_ENTRIES, RegionTranslator, rangesOf } from './jit.ts';
import { codePageOf, jitHost, LinkCells } from './jit-host.ts';
import type { KeptRegion } from './kept.ts';
import type { Layout } from './layout.ts';
import * as R from './record.ts';
import * as S from './state.ts';
import type {
  HotBlock,
  TranslateReply,
  TranslateRequest,
  TranslatorKept,
  TranslatorPlan,
  TranslatorThread,
} from './translator.ts';
import { c32, I32 } from './wasm/builder.ts';

/** Regions compiled together. */
const BATCH = 128;
/** Fewer link cells may not do for what is compiled together. */
const MIN_CELLS = 4096;
/** Most blocks that wait for the translator's thread. */
const MAX_WAITING = 32768;
/**
 * Slices of time that end at a region's entry: so many are passed over, the first number where the code is new and the host's
 * compiler yet to optimise it, and then so many are averaged.
 */
const SAMPLES_UNUSED_NEW = 256;
const SAMPLES_UNUSED = 32;
const SAMPLES = 32;
/** What a wider region must be faster by to be kept. */
const WORTH = 1.05;
/** How often a region is made anew at most. */
const MAX_ROUNDS = 3;
/** A shorter queue is compiled once its oldest member has waited this many calls of {@link JitCache.pump}. */
const PATIENCE = 48;

/** A module of an earlier run; it is instantiated for its first region that is wanted. */
interface KeptCode {
  readonly module: WebAssembly.Module;
  exports: WebAssembly.Exports | null;
}

/** A region of an earlier run. */
interface KeptEntry {
  readonly region: KeptRegion;
  readonly shared: KeptCode;
  /** Its function in the module. */
  readonly name: string;
  /** For each of its ranges, which of its pages it is in; null if that cannot be told: it is good where it was alone. */
  readonly places: readonly number[] | null;
  /** Where its pages were when it came into use: its links are good for these alone. Null: it has not. */
  hosts: readonly number[] | null;
}

/** Bytes at its entry by which a region is found that may lie elsewhere than it did. */
const KEY_BYTES = 8;
/** Runs after which a block is looked at again whose kept region has pages that nobody has run yet. */
const SOON = 64;

/** How a region came about: its block was hot, its indirect jumps missed, or time was seen to go by in entering it. */
type Cause = 'hot' | 'missed' | 'entered';

/** A translated region. */
interface Region {
  /** Head record in the block cache. */
  readonly head: number;
  /** Its code: host addresses [from, to), each within one page. */
  readonly ranges: readonly (readonly [number, number])[];
  /** Table slot. */
  slot: number;
  alive: boolean;
  readonly cause: Cause;
  /** How often it has been made anew for indirect jumps. */
  readonly rounds: number;
  /** The bytes it was made from, in the order of its ranges. */
  readonly bytes: Uint8Array;
  /** Its function. */
  code: unknown;
  /** Slices of time that ended at its entry; sum of the guest's speeds in those that count, instructions a nanosecond. */
  samples: number;
  speeds: number;
  /** Whether a wider one is not to be tried again. */
  settled: boolean;
  /** What it takes the place of, and how fast that was. */
  old: { readonly region: Region; readonly speed: number } | null;
}

/** A block that the translator's thread was asked for. */
interface Waiting {
  readonly head: number;
  readonly block: HotBlock;
  readonly cause: Cause;
  readonly rounds: number;
}

function newRegion(
  head: number,
  from: { readonly ranges: Region['ranges']; readonly bytes: Uint8Array },
  cause: Cause,
  rounds: number,
): Region {
  const fresh = { slot: 0, alive: true, code: null, samples: 0, speeds: 0, settled: false, old: null };
  return { head, ranges: from.ranges, bytes: from.bytes, cause, rounds, ...fresh };
}

/** The translated code of one VM. */
export class JitCache implements RegionIndex {
  private readonly L: Layout;
  private readonly i32: Int32Array;
  private readonly u8: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly interp: Interpreter;
  private readonly blocks: BlockCache;
  private readonly translator: RegionTranslator;
  private readonly attention: () => void;
  private thread: TranslatorThread | null = null;
  /** Gets {@link JitCache.thread}; null where there is to be none, or no more. */
  private start: (() => void) | null = null;
  private generation = 0;
  private nextId = 1;
  /** Blocks that the thread is to be asked for, and all it has not answered for. */
  private asked: HotBlock[] = [];
  private readonly waiting: Map<number, Waiting> = new Map();
  /** Regions of earlier runs by the host address of their entry. */
  private readonly kept: Map<number, KeptEntry[]> = new Map();
  /** The same by what they begin with. */
  private readonly byStart: Map<number, KeptEntry[]> = new Map();
  /** Regions of earlier runs that came into use. */
  reused = 0;
  private queue: { region: Region; found: Found }[] = [];
  private waited = 0;
  private readonly patience: number;
  private readonly threshold: number;
  private readonly patienceMs: number;
  /** When the thread was asked for the block at a head that it has not answered for. */
  private readonly askedMs: Map<number, number> = new Map();
  private nextSlot = JIT_FIRST_SLOT;
  /** Slots by host address and mode of their region, of such as have gone too: links and jump caches still lead there. */
  private readonly slots: Map<number, number> = new Map();
  private readonly cells: LinkCells;
  private readonly byPage: Map<number, Region[]> = new Map();
  private readonly byHead: Map<number, Region> = new Map();
  private stale: WebAssembly.ExportValue | null = null;
  /** Regions compiled, instructions in them, bytes of WebAssembly, milliseconds spent, regions dropped, modules made. */
  compiled = 0;
  instructions = 0;
  bytes = 0;
  ms = 0;
  /** Milliseconds that the translator's thread spent. */
  backgroundMs = 0;
  dropped = 0;
  /** Regions made anew. */
  renewed = 0;
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
    memory: WebAssembly.Memory;
    /** Starts the thread that translates once there is something to translate; null: this thread does. */
    translator: (() => TranslatorThread) | null;
    /** Starts it here and now: it has translations of an earlier run. */
    translatorAtOnce: boolean;
    /** How long a hot block that goes on running waits for that thread, milliseconds. */
    patienceMs: number;
  }) {
    this.u8 = new Uint8Array(o.buffer);
    this.L = o.layout;
    this.i32 = new Int32Array(o.buffer);
    this.u16 = new Uint16Array(o.buffer);
    this.interp = o.interp;
    this.blocks = o.blocks;
    this.attention = o.attention;
    this.patience = o.threshold < PATIENCE ? 0 : PATIENCE;
    const { translator } = o;
    this.threshold = o.threshold;
    this.patienceMs = o.patienceMs;
    this.cells = new LinkCells(this.i32, this.L, translator === null ? 'all' : 'own');
    this.translator = new RegionTranslator(jitHost(o.buffer, this.L, this.cells, o.semantics, o.decoder), o.threshold);
    if (translator === null) return;
    const plan: TranslatorPlan = {
      kind: 'plan',
      layout: this.L,
      memory: o.memory,
      functions: o.interp.functions(),
      shared: this.L.threads > 1,
      threshold: o.threshold,
    };
    this.start = () => this.connect(translator(), plan);
    if (o.translatorAtOnce) this.start();
  }

  private connect(thread: TranslatorThread, plan: TranslatorPlan): void {
    this.start = null;
    thread.onMessage = (message) => {
      const m = message as TranslateReply | TranslatorKept;
      if (m.kind === 'kept') this.keep(m);
      else this.answer(m);
    };
    thread.onDeath = () => {
      if (this.thread === null) return;
      this.thread = null;
      // Its regions hold link cells that are handed out again from here on.
      this.blocks.flush();
      this.cells.choose('all');
    };
    thread.post(plan);
    this.thread = thread;
  }

  /** The block that the vCPU at `base` is about to run reached the threshold, or goes on running after that. */
  hot(base: number, head: number): void {
    const mode = this.i32[(head + R.B_MODE) >> 2] as number;
    const bits = mode & 3;
    const suited =
      (mode & S.MODE_CSFULL) !== 0 &&
      (mode & S.MODE_FLAT) !== 0 &&
      (bits === 2 || (bits === 1 && (mode & S.MODE_SS32) !== 0));
    if (!suited) return;
    const host = this.i32[(head + R.B_HOST) >> 2] as number;
    const low = this.i32[(base + S.RIP_BASE) >> 2] as number;
    const high = this.i32[(base + S.RIP_BASE + 4) >> 2] as number;
    const page = pageOf(low, high);
    if (this.i32[(head + R.B_RUNS) >> 2] !== this.threshold) {
      const since = this.askedMs.get(head);
      if (since !== undefined && now() - since > this.patienceMs) this.atOnce(base, head, host, page, mode);
    } else if (this.takeKept(head, host, mode, base, page) !== 'taken')
      this.ask(base, head, host, page, mode, 'hot', 0);
  }

  /** Translates a block here: the thread has been asked for it and does not get to it, on a host that has much else to do. */
  private atOnce(base: number, head: number, host: number, page: number, mode: number): void {
    this.askedMs.delete(head);
    if (this.thread === null || !this.hasRoom(1)) return;
    this.find(base, host, page, mode, head, 'hot', 0);
    const t0 = now();
    this.compile(this.queue.splice(0));
    this.ms += now() - t0;
  }

  /** Has the region that is entered at `host` made anew: its indirect jumps have gone where it does not lead. */
  again(base: number, host: number, low: number, high: number): void {
    const mode = this.i32[(base + S.MODE) >> 2] as number;
    const region = this.byHead.get(this.blocks.find(host, mode));
    if (region === undefined || region.rounds === MAX_ROUNDS) return;
    this.ask(base, region.head, host, pageOf(low, high), mode, 'missed', region.rounds + 1);
  }

  /**
   * A slice of time ended as the vCPU at `base` was about to enter a region, in which it ran at `speed` instructions a
   * nanosecond. Where that is often so, regions are left and entered all the time: this one is made anew with more of what is
   * hot around it. If that is not faster, what was there before comes back.
   */
  sample(base: number, speed: number): void {
    const low = this.i32[(base + S.RIP) >> 2] as number;
    const high = this.i32[(base + S.RIP + 4) >> 2] as number;
    const page = pageOf(low, high);
    const at = codePageOf(this.i32, base, page);
    if (at === 0) return;
    const host = (at + (low & 4095)) | 0;
    const mode = this.i32[(base + S.MODE) >> 2] as number;
    const region = this.byHead.get(this.blocks.find(host, mode));
    if (region === undefined || region.settled) return;
    const unused = region.old === null ? SAMPLES_UNUSED : SAMPLES_UNUSED_NEW;
    if (++region.samples <= unused) return;
    region.speeds += speed;
    if (region.samples < unused + SAMPLES) return;
    region.settled = true;
    const { old } = region;
    if (old === null) this.ask(base, region.head, host, page, mode, 'entered', region.rounds);
    else {
      region.old = null;
      if (region.speeds < old.speed * WORTH) this.bringBack(old.region);
    }
  }

  /** Puts a region in the place of the one that took its own. */
  private bringBack(old: Region): void {
    const region = newRegion(old.head, old, old.cause, MAX_ROUNDS);
    region.settled = true;
    if (this.enlist(region)) this.install(region, old.code);
  }

  private ask(
    base: number,
    head: number,
    host: number,
    page: number,
    mode: number,
    cause: Cause,
    rounds: number,
  ): void {
    if (this.thread === null && this.start === null) {
      this.find(base, host, page, mode, head, cause, rounds);
      return;
    }
    if (this.waiting.size >= MAX_WAITING) return;
    const block = { id: this.nextId++, base, host, page, mode, wide: cause !== 'hot', trial: cause === 'entered' };
    this.asked.push(block);
    this.waiting.set(block.id, { head, block, cause, rounds });
    if (cause === 'hot') this.askedMs.set(head, now());
  }

  /** Whether the block still is what a region was asked for: not translated yet, or to be translated anew. */
  private wants(head: number, cause: Cause): boolean {
    const h = this.u16[head >> 1];
    return h === R.H_HEAD || (cause !== 'hot' && h === R.H_JIT);
  }

  /** Finds the region of a hot block. Other pages are looked up while the address space that ran it is the current one. */
  private find(
    base: number,
    host: number,
    page: number,
    mode: number,
    head: number,
    cause: Cause,
    rounds: number,
  ): void {
    const t0 = now();
    const found = this.translator.discover(base, host, page, mode, cause !== 'hot');
    if (found !== null) {
      const region = newRegion(head, { ranges: rangesOf(found), bytes: found.code }, cause, rounds);
      if (this.enlist(region)) this.queue.push({ region, found });
    }
    this.ms += now() - t0;
  }

  /** From here on a change of the region's bytes drops it. False if it has happened already. */
  private enlist(region: Region): boolean {
    for (const [from, to] of region.ranges) {
      this.blocks.markCode(from, to - from);
      const page = (from - this.L.ram) >>> 12;
      const list = this.byPage.get(page);
      if (list === undefined) this.byPage.set(page, [region]);
      else if (list[list.length - 1] !== region && !list.includes(region)) list.push(region);
    }
    // Another thread may have written to a page before writes to it were heard of.
    if (this.holds(region.ranges, region.bytes)) return true;
    this.drop(region);
    return false;
  }

  /** Whether these bytes are in memory at these ranges. */
  private holds(ranges: Region['ranges'], code: Uint8Array): boolean {
    let at = 0;
    for (const [from, to] of ranges) {
      for (let a = from; a < to; a++, at++) if (this.u8[a] !== code[at]) return false;
    }
    return true;
  }

  /** Takes in what earlier runs translated: each region waits for its block. Runs while no vCPU of this thread does. */
  private keep(m: TranslatorKept): void {
    if (this.generation !== 0) return;
    for (const { module, regions } of m.modules) {
      const shared: KeptCode = { module, exports: null };
      regions.forEach((region, i) => {
        const entry: KeptEntry = { region, shared, name: `r${i}`, places: placesOf(region), hosts: null };
        listIn(this.kept, region.host).push(entry);
        const start = startOf(region);
        if (start !== null && entry.places !== null) listIn(this.byStart, start).push(entry);
        // Its block may have been decoded before this came.
        const head = this.blocks.find(region.host, region.mode);
        if (head !== 0 && this.u16[head >> 1] === R.H_HEAD) this.takeKept(head, region.host, region.mode, -1, 0);
      });
    }
  }

  /**
   * Gives the block the region that an earlier run made of it, if its bytes are the same now. `later`: there may be one once
   * more of its pages have run. `base`: the vCPU whose page number `page` the block is in; -1 where none is about to run it.
   */
  private takeKept(head: number, host: number, mode: number, base: number, page: number): 'taken' | 'later' | 'none' {
    if (this.nextSlot >= TABLE_SLOTS) return 'none';
    // What was made last knows most.
    const there = this.kept.get(host) ?? [];
    for (let n = there.length - 1; n >= 0; n--) {
      const k = there[n] as KeptEntry;
      if (k.region.mode !== mode) continue;
      const hosts = k.region.pages.map((p) => p[1]);
      if (this.use(k, head, k.region.ranges, hosts)) return 'taken';
    }
    if (base < 0 || (host & 4095) > 4096 - KEY_BYTES) return 'none';
    const alike = this.byStart.get(startKey(this.u8, host, host & 4095, mode)) ?? [];
    let later = false;
    for (let n = alike.length - 1; n >= 0; n--) {
      const k = alike[n] as KeptEntry;
      const { region } = k;
      if (region.mode !== mode || ((region.host ^ host) & 4095) !== 0) continue;
      const hosts = region.pages.map(([d]) => (d === 0 ? host - (host & 4095) : codePageOf(this.i32, base, page + d)));
      if (hosts.includes(0)) {
        later = true;
        continue;
      }
      const places = k.places as readonly number[];
      const ranges = region.ranges.map(([from, to], i): readonly [number, number] => {
        const at = (hosts[places[i] as number] as number) + (from & 4095);
        return [at, at + to - from];
      });
      if (this.use(k, head, ranges, hosts)) return 'taken';
    }
    return later ? 'later' : 'none';
  }

  /** Brings a kept region into use with its pages at `hosts`, if its bytes are there. */
  private use(k: KeptEntry, head: number, ranges: Region['ranges'], hosts: readonly number[]): boolean {
    if (k.hosts?.some((h, i) => h !== hosts[i])) return false;
    if (!this.holds(ranges, k.region.code)) return false;
    if (this.stale === null) this.makeStale();
    try {
      k.shared.exports ??= new WebAssembly.Instance(k.shared.module, this.interp.importObject()).exports;
    } catch {
      return false;
    }
    const region = newRegion(head, { ranges, bytes: k.region.code }, 'hot', 0);
    if (!this.enlist(region)) return false;
    k.hosts = hosts;
    k.region.pages.forEach(([, , cell], i) => {
      if (cell !== 0) this.i32[cell >> 2] = hosts[i] as number;
    });
    this.install(region, k.shared.exports[k.name]);
    this.reused++;
    return true;
  }

  fresh(head: number, base: number): void {
    if (this.kept.size === 0) return;
    const host = this.i32[(head + R.B_HOST) >> 2] as number;
    const mode = this.i32[(head + R.B_MODE) >> 2] as number;
    const page = pageOf(this.i32[(base + S.RIP) >> 2] as number, this.i32[(base + S.RIP + 4) >> 2] as number);
    if (this.takeKept(head, host, mode, base, page) === 'later' && this.threshold > SOON)
      this.i32[(head + R.B_RUNS) >> 2] = this.threshold - SOON;
  }

  /** Compiles what has gathered; call it often, outside the guest. */
  pump(): void {
    if (this.asked.length > 0) this.start?.();
    if (this.asked.length > 0 && this.thread !== null) {
      const request: TranslateRequest = { kind: 'translate', generation: this.generation, blocks: this.asked };
      this.asked = [];
      this.thread.post(request);
    }
    if (this.queue.length === 0) return;
    if (this.queue.length < BATCH && ++this.waited < this.patience) return;
    this.waited = 0;
    const t0 = now();
    while (this.queue.length > 0) this.compile(this.queue.splice(0, BATCH));
    this.ms += now() - t0;
  }

  /** Whether there are slots and link cells for some more regions. */
  private hasRoom(regions: number): boolean {
    return this.nextSlot + regions + 1 <= TABLE_SLOTS && this.cells.left >= MIN_CELLS;
  }

  private compile(batch: { region: Region; found: Found }[]): void {
    if (!this.hasRoom(batch.length)) {
      this.blocks.flush();
      return;
    }
    const { m, env, importObject } = this.interp.satellite();
    const jitType = m.type([I32], I32);
    const made: { region: Region; name: string }[] = [];
    if (this.stale === null) this.makeStale();
    for (const { region, found } of batch) {
      // Its bytes may have changed, or its block gone, since it was queued.
      if (!region.alive) continue;
      if (!this.wants(region.head, region.cause)) {
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
    if (made.length === 0) return;
    const bytes = m.finish();
    this.modules++;
    this.bytes += bytes.length;
    const exports = new WebAssembly.Instance(new WebAssembly.Module(bytes), importObject).exports;
    for (const { region, name } of made) this.install(region, exports[name]);
  }

  private install(region: Region, code: unknown): void {
    const head = region.head;
    const old = this.byHead.get(head);
    if (old !== undefined) {
      old.alive = false;
      this.unlist(old);
      this.renewed++;
      if (region.cause === 'entered' && !region.settled) region.old = { region: old, speed: old.speeds };
    }
    region.code = code;
    const key = (this.i32[(head + R.B_HOST) >> 2] as number) + (this.i32[(head + R.B_MODE) >> 2] as number) * 2 ** 32;
    const slot = this.slots.get(key) ?? this.nextSlot++;
    this.slots.set(key, slot);
    this.interp.exports.table.set(slot, code as never);
    region.slot = slot;
    this.byHead.set(head, region);
    this.u16[head >> 1] = R.H_JIT;
    this.i32[(head + R.B_RUNS) >> 2] = slot;
    this.compiled++;
  }

  /** Takes what was asked for off the list. */
  private settle(id: number): Waiting | undefined {
    const w = this.waiting.get(id);
    this.waiting.delete(id);
    if (w?.cause === 'hot') this.askedMs.delete(w.head);
    return w;
  }

  /** Takes in what the translator's thread made. Runs while no vCPU of this thread does. */
  private answer(m: TranslateReply): void {
    if (m.generation !== this.generation) return;
    for (const id of m.without) this.settle(id);
    this.modules++;
    this.bytes += m.bytes;
    this.instructions += m.instructions;
    this.backgroundMs += m.ms;
    if (m.full || this.nextSlot + m.regions.length + 1 > TABLE_SLOTS) {
      this.blocks.flush();
      return;
    }
    if (m.module === null) return;
    const t0 = now();
    if (this.stale === null) this.makeStale();
    const exports = new WebAssembly.Instance(m.module, this.interp.importObject()).exports;
    m.regions.forEach((r, i) => {
      const w = this.settle(r.id);
      if (w === undefined) return;
      const { head, block, cause, rounds } = w;
      // The block may have gone, and its records be another's.
      if (
        !this.wants(head, cause) ||
        this.i32[(head + R.B_HOST) >> 2] !== block.host ||
        this.i32[(head + R.B_MODE) >> 2] !== block.mode
      )
        return;
      const region = newRegion(head, { ranges: r.ranges, bytes: r.code }, cause, rounds);
      if (this.enlist(region)) this.install(region, exports[`r${i}`]);
    });
    this.ms += now() - t0;
  }

  private makeStale(): void {
    const { m, importObject } = this.interp.satellite();
    m.fn([I32], I32, 'stale').emit(c32(J_LOOKUP));
    this.stale = new WebAssembly.Instance(new WebAssembly.Module(m.finish()), importObject).exports[
      'stale'
    ] as WebAssembly.ExportValue;
  }

  /** Ends the translator's thread. */
  close(): void {
    this.thread?.close();
    this.thread = null;
    this.start = null;
    this.waiting.clear();
    this.asked = [];
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
        this.i32[(r.head + R.B_RUNS) >> 2] = 0;
      }
    }
    this.unlist(r);
    this.attention();
  }

  /** Its bytes may change from here on. */
  private unlist(r: Region): void {
    for (const [from] of r.ranges) {
      const page = (from - this.L.ram) >>> 12;
      const list = this.byPage.get(page);
      const at = list?.indexOf(r) ?? -1;
      if (list === undefined || at < 0) continue;
      list.splice(at, 1);
      if (list.length === 0) this.byPage.delete(page);
    }
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
    this.asked = [];
    this.waiting.clear();
    this.askedMs.clear();
    this.kept.clear();
    this.byStart.clear();
    this.generation++;
    this.nextSlot = JIT_FIRST_SLOT;
    this.slots.clear();
    this.cells.clear();
    this.i32.fill(0, this.L.jumpCache >> 2, (this.L.jumpCache >> 2) + JC_ENTRIES * 4);
    this.attention();
  }
}

/** The list that a map has under a key, made if there is none. */
function listIn<T>(map: Map<number, T[]>, key: number): T[] {
  const known = map.get(key);
  if (known !== undefined) return known;
  const list: T[] = [];
  map.set(key, list);
  return list;
}

/** Which of a region's pages each of its ranges is in, null if two of them were one, or one is none of them. */
function placesOf({ pages, ranges }: KeptRegion): readonly number[] | null {
  const hosts = pages.map((p) => p[1]);
  if (new Set(hosts).size !== hosts.length) return null;
  const places = ranges.map(([from]) => hosts.indexOf(from - (from & 4095)));
  return places.includes(-1) ? null : places;
}

/** {@link startKey} of a region; null if too little of it is there. */
function startOf({ host, mode, ranges, code }: KeptRegion): number | null {
  let at = 0;
  for (const [from, to] of ranges) {
    if (from <= host && host + KEY_BYTES <= to) return startKey(code, at + host - from, host & 4095, mode);
    at += to - from;
  }
  return null;
}

/** A number for the bytes at `at`, where they lie in their page, and a mode (FNV-1a). */
function startKey(bytes: Uint8Array, at: number, offset: number, mode: number): number {
  let h = Math.imul(0x811c9dc5 ^ offset, 0x01000193) ^ mode;
  for (let n = 0; n < KEY_BYTES; n++) h = Math.imul(h ^ (bytes[at + n] as number), 0x01000193);
  return h;
}

/** Number of the page of a linear address, signed, from its halves. */
function pageOf(low: number, high: number): number {
  return high * 0x100000 + (low >>> 12);
}

const clock = (globalThis as unknown as { performance: { now(): number } }).performance;
function now(): number {
  return clock.now();
}
