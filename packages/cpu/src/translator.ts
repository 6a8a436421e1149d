// The translator as a service: translation runs on a thread of its own, beside the vCPU that asked for it. The thread reads
// guest code, block counts and the TLB from the shared memory without locks; the thread of the vCPU checks the bytes that
// were translated against memory, once writes to them are heard of, before it takes a region in. See docs/decisions/0007.
import { Decoder } from '@hyve/x86';
import { TRANSLATED } from './blocks.ts';
import { FEATURES } from './features.ts';
import { fusedMultiplyAdd } from './fused.ts';
import { type Signature, satelliteOf } from './interp.ts';
import { type Found, type JitHost, pagesOf, RegionTranslator, rangesOf } from './jit.ts';
import { jitHost, LinkCells } from './jit-host.ts';
import { type CompiledStore, type KeptRegion, packKept, type TranslationStore, unpackKept } from './kept.ts';
import type { Layout } from './layout.ts';
import { allSemantics } from './sem/index.ts';
import { I32 } from './wasm/builder.ts';

export type { CompiledStore, TranslationStore } from './kept.ts';

/** Thresholds below this (executions of a block) translate at once, on the vCPU's own thread: for tests. */
export const FORCED = 16;

/** A thread that runs {@link serveTranslator}, as the thread of the vCPU sees it. */
export interface TranslatorThread {
  /** Sends it a message (structured clone). */
  post(message: unknown): void;
  /** Gets its messages. */
  onMessage: ((message: unknown) => void) | null;
  /** It has failed or ended by itself: translation goes on on the asking thread. */
  onDeath: ((reason: string) => void) | null;
  /** Ends it. */
  close(): void;
}

/** @internal The first message. */
export interface TranslatorPlan {
  readonly kind: 'plan';
  readonly layout: Layout;
  readonly memory: WebAssembly.Memory;
  readonly functions: readonly Signature[];
  readonly shared: boolean;
  readonly threshold: number;
}

/** @internal A block that got hot. */
export interface HotBlock {
  readonly id: number;
  /** State of the vCPU that ran it. */
  readonly base: number;
  /** Host address of its first byte, number of its page in the address space, mode key. */
  readonly host: number;
  readonly page: number;
  readonly mode: number;
  /** Whether the region is to hold all that is hot, as far as it has room. */
  readonly wide: boolean;
  /** Whether it is yet to be seen if the region is worth it: it is not kept. */
  readonly trial: boolean;
}

/** @internal Blocks to translate. A new generation begins when everything has been forgotten. */
export interface TranslateRequest {
  readonly kind: 'translate';
  readonly generation: number;
  readonly blocks: readonly HotBlock[];
}

/** @internal Translations of earlier runs: function `r<n>` of a module is that of its `regions[n]`. */
export interface TranslatorKept {
  readonly kind: 'kept';
  readonly modules: readonly { readonly module: WebAssembly.Module; readonly regions: readonly KeptRegion[] }[];
}

/** @internal Translated blocks: function `r<n>` of the module is that of `regions[n]`. */
export interface TranslateReply {
  readonly kind: 'translated';
  readonly generation: number;
  readonly module: WebAssembly.Module | null;
  readonly regions: readonly ({
    readonly id: number;
  } & KeptRegion)[];
  /** Blocks there is no code for. */
  readonly without: readonly number[];
  readonly instructions: number;
  readonly bytes: number;
  readonly ms: number;
  /** No link cells are left. */
  readonly full: boolean;
}

/** The thread's side of a connection. */
export interface TranslatorPort {
  /** Sends a message. */
  post(message: unknown): void;
  /** Sets what gets messages. */
  listen(f: (message: unknown) => void): void;
}

/** Requests are gathered this long, ms: modules are cheaper by the dozen. */
const GATHER_MS = 2;
/** Most regions of one module. Small: what has just become hot waits for the module that is being made. */
const BATCH = 24;
/** Between looks at blocks that wait and are not wanted for now. */
const IDLE_MS = 20;
/** Modules of earlier runs that are handed over together. */
const KEPT_AT_ONCE = 8;

const timers = globalThis as unknown as { setTimeout(f: () => void, ms: number): unknown };
const clock = (globalThis as unknown as { performance: { now(): number } }).performance;

/**
 * The program of a translator's thread: answers requests until the thread ends.
 * @param open gives the store for a machine of this description (any text; two machines that differ in what translations
 *   depend on differ in it), or null. What the store must tell apart besides is the build of this package.
 */
export function serveTranslator(
  port: TranslatorPort,
  open: (machine: string) => TranslationStore | null = () => null,
): void {
  let service: Service | null = null;
  port.listen((message) => {
    const m = message as TranslatorPlan | TranslateRequest;
    if (m.kind === 'plan') service = new Service(m, port, open);
    else service?.take(m);
  });
}

/** A block that waits. */
interface Waiting {
  readonly block: HotBlock;
  /** How often it had run when it was last looked at. */
  seen: number;
  /** How much it has run lately. */
  heat: number;
  /** A region that was made since goes over it: it wants one of its own only if it goes on running. */
  covered: boolean;
  /** Until when its runs do not count, ms: the region has to be in use first. */
  hold: number;
}

/** Time after which a region that was handed over is in use, ms. */
const HOLD_MS = 15;
/** Recent runs that a covered block needs. */
const COVERED_RUNS = 64;

class Service {
  private readonly plan: TranslatorPlan;
  private readonly port: TranslatorPort;
  private readonly i32: Int32Array;
  private readonly host: JitHost;
  private readonly translator: RegionTranslator;
  private readonly cells: LinkCells;
  private generation = 0;
  private readonly queue: Map<number, Waiting> = new Map();
  /** Blocks asked for that wait no more. */
  private replaced: number[] = [];
  private scheduled = false;
  private readonly store: TranslationStore | null;
  private readonly compiled: CompiledStore | null;

  constructor(plan: TranslatorPlan, port: TranslatorPort, open: (machine: string) => TranslationStore | null) {
    this.plan = plan;
    this.port = port;
    const L = plan.layout;
    const buffer = plan.memory.buffer;
    this.i32 = new Int32Array(buffer);
    this.cells = new LinkCells(this.i32, L, 'thread');
    this.host = jitHost(buffer, L, this.cells, allSemantics(), new Decoder(new Set(FEATURES)));
    this.translator = new RegionTranslator(this.host, plan.threshold);
    const { functions, shared } = plan;
    this.store = open(JSON.stringify([L, functions, shared, FEATURES, fusedMultiplyAdd()]));
    this.compiled = this.store?.compiled ?? null;
    if (this.store !== null) this.offer(this.store.load());
  }

  /** Compiles and hands over what was kept. */
  private offer(records: Iterable<Uint8Array>): void {
    let modules: TranslatorKept['modules'][number][] = [];
    const post = (): void => {
      if (modules.length > 0) this.port.post({ kind: 'kept', modules } satisfies TranslatorKept);
      modules = [];
    };
    for (const record of records) {
      const kept = unpackKept(record);
      // Another process may have kept code with the same cells.
      if (kept === null || !this.cells.reserve(...kept.cells)) continue;
      try {
        const module = this.compiled?.take(kept.wasm) ?? new WebAssembly.Module(kept.wasm as Uint8Array<ArrayBuffer>);
        this.compiled?.add(kept.wasm, module);
        // As a copy: a message carries all of the buffer that its arrays look at.
        const code = new Uint8Array(kept.regions.reduce((n, r) => n + r.code.length, 0));
        let at = 0;
        const regions = kept.regions.map((r) => {
          code.set(r.code, at);
          at += r.code.length;
          return { ...r, code: code.subarray(at - r.code.length, at) };
        });
        modules.push({ module, regions });
      } catch {
        continue;
      }
      if (modules.length === KEPT_AT_ONCE) post();
    }
    post();
  }

  take(m: TranslateRequest): void {
    if (m.generation !== this.generation) {
      this.generation = m.generation;
      this.queue.clear();
      this.replaced = [];
      this.cells.clear();
      this.compiled?.clear();
    }
    for (const block of m.blocks) {
      const key = keyOf(block.host, block.mode);
      const old = this.queue.get(key);
      // Its code has changed, and is hot again.
      if (old !== undefined) this.replaced.push(old.block.id);
      this.queue.set(key, {
        block,
        seen: this.plan.threshold,
        heat: 0,
        covered: false,
        hold: 0,
      });
    }
    this.schedule(GATHER_MS);
  }

  private schedule(ms: number): void {
    if (this.scheduled) return;
    this.scheduled = true;
    timers.setTimeout(() => {
      this.scheduled = false;
      const made = this.work();
      if (this.queue.size > 0) this.schedule(made ? 0 : IDLE_MS);
    }, ms);
  }

  /**
   * The waiting blocks that may be translated, those that run most now first: thousands may have become hot in a boot that
   * is over, and the guest interprets what it runs instead.
   */
  private order(): Waiting[] {
    const ready: Waiting[] = [];
    const now = clock.now();
    for (const w of this.queue.values()) {
      const runs = this.host.runs(w.block.host, w.block.mode);
      // The entry of a region that is to be made anew has no count.
      const more = runs === TRANSLATED ? this.plan.threshold : Math.max(0, runs - w.seen);
      if (runs !== TRANSLATED) w.seen = runs;
      if (w.hold > now) continue;
      w.heat = (w.heat >> 1) + more;
      if (!w.covered || w.heat >= COVERED_RUNS) ready.push(w);
    }
    // Those on trial come last, so that the functions that are kept have the first numbers of the module.
    return ready.sort((a, b) => Number(a.block.trial) - Number(b.block.trial) || b.heat - a.heat);
  }

  /** A region goes over these blocks too: those that begin at one of its instructions. They are held. */
  private cover(found: Found, mode: number, held: Set<Waiting>): void {
    for (const b of found.blocks) {
      let { off } = b;
      for (const n of b.insns) {
        const host = (found.pages.get(off >> 12) as number) + (off & 4095);
        off += n.length;
        const w = this.queue.get(keyOf(host, mode));
        if (w === undefined) continue;
        w.covered = true;
        w.heat = 0;
        w.hold = Number.POSITIVE_INFINITY;
        held.add(w);
      }
    }
  }

  /** Makes one module; false if there was nothing to make it of. */
  private work(): boolean {
    const waiting = this.order();
    if (waiting.length === 0) return false;
    const t0 = clock.now();
    const { m, env } = satelliteOf(this.plan.layout, this.plan.functions, this.plan.shared);
    const jitType = m.type([I32], I32);
    const cells = this.cells.mark;
    const regions: TranslateReply['regions'][number][] = [];
    const without: number[] = this.replaced;
    this.replaced = [];
    const held = new Set<Waiting>();
    let instructions = 0;
    let full = false;
    /** Regions that are not on trial. */
    let proven = 0;
    let tried = 0;
    for (const w of waiting) {
      if (regions.length >= BATCH || tried >= 2 * BATCH) break;
      // One that was made a moment ago may go over it.
      if (w.hold > t0) continue;
      tried++;
      const b = w.block;
      this.queue.delete(keyOf(b.host, b.mode));
      const found = full ? null : this.translator.discover(b.base, b.host, b.page, b.mode, b.wide);
      if (found === null) {
        without.push(b.id);
        continue;
      }
      if (!this.translator.emit(m, `r${regions.length}`, env, jitType, found, b.mode)) {
        full = true;
        break;
      }
      this.cover(found, b.mode, held);
      m.name(m.lastRef, `region_${b.host.toString(16)}`);
      for (const x of found.blocks) instructions += x.insns.length;
      if (!b.trial) proven++;
      regions.push({
        id: b.id,
        host: b.host,
        mode: b.mode,
        ranges: rangesOf(found),
        code: found.code,
        pages: pagesOf(found),
      });
    }
    let module: WebAssembly.Module | null = null;
    let bytes = 0;
    if (regions.length > 0 && !full) {
      const wasm = m.finish();
      bytes = wasm.length;
      module = new WebAssembly.Module(wasm);
      // Once everything has been forgotten, link cells are handed out a second time.
      if (this.generation === 0 && proven > 0) {
        this.store?.append(packKept({ cells: [cells, this.cells.mark], wasm, regions: regions.slice(0, proven) }));
        this.compiled?.add(wasm, module);
      }
    }
    const reply: TranslateReply = {
      kind: 'translated',
      generation: this.generation,
      module,
      regions,
      without,
      instructions,
      bytes,
      ms: clock.now() - t0,
      full,
    };
    this.port.post(reply);
    const until = clock.now() + HOLD_MS;
    for (const w of held) w.hold = until;
    return true;
  }
}

/** One number for a block: its host address and mode key, which has less than 20 bits. */
function keyOf(host: number, mode: number): number {
  return mode * 0x1_0000_0000 + host;
}
