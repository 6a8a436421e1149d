// The translator as a service: translation runs on a thread of its own, beside the vCPU that asked for it. The thread reads
// guest code, block counts and the TLB from the shared memory without locks; the thread of the vCPU checks the bytes that
// were translated against memory, once writes to them are heard of, before it takes a region in. See docs/decisions/0007.
import { Decoder } from '@hyve/x86';
import { FEATURES } from './features.ts';
import { type Signature, satelliteOf } from './interp.ts';
import { RegionTranslator, rangesOf } from './jit.ts';
import { jitHost, LinkCells } from './jit-host.ts';
import type { Layout } from './layout.ts';
import { allSemantics } from './sem/index.ts';
import { I32 } from './wasm/builder.ts';

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
}

/** @internal Blocks to translate. A new generation begins when everything has been forgotten. */
export interface TranslateRequest {
  readonly kind: 'translate';
  readonly generation: number;
  readonly blocks: readonly HotBlock[];
}

/** @internal Translated blocks: function `r<n>` of the module is that of `regions[n]`. */
export interface TranslateReply {
  readonly generation: number;
  readonly module: WebAssembly.Module | null;
  readonly regions: readonly {
    readonly id: number;
    /** Host addresses [from, to), each within one page. */
    readonly ranges: readonly (readonly [number, number])[];
    /** The bytes in them that were translated. */
    readonly code: Uint8Array;
  }[];
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
/** Most regions of one module. */
const BATCH = 64;

const timers = globalThis as unknown as { setTimeout(f: () => void, ms: number): unknown };
const clock = (globalThis as unknown as { performance: { now(): number } }).performance;

/** The bytes in some ranges. */
export function bytesIn(u8: Uint8Array, ranges: readonly (readonly [number, number])[]): Uint8Array {
  const out = new Uint8Array(ranges.reduce((n, [a, b]) => n + b - a, 0));
  let at = 0;
  for (const [a, b] of ranges) {
    out.set(u8.subarray(a, b), at);
    at += b - a;
  }
  return out;
}

/** The program of a translator's thread: answers requests until the thread ends. */
export function serveTranslator(port: TranslatorPort): void {
  let service: Service | null = null;
  port.listen((message) => {
    const m = message as TranslatorPlan | TranslateRequest;
    if (m.kind === 'plan') service = new Service(m, port);
    else service?.take(m);
  });
}

class Service {
  private readonly plan: TranslatorPlan;
  private readonly port: TranslatorPort;
  private readonly i32: Int32Array;
  private readonly translator: RegionTranslator;
  private readonly cells: LinkCells;
  private generation = 0;
  private queue: HotBlock[] = [];
  private scheduled = false;

  constructor(plan: TranslatorPlan, port: TranslatorPort) {
    this.plan = plan;
    this.port = port;
    const L = plan.layout;
    const buffer = plan.memory.buffer;
    this.i32 = new Int32Array(buffer);
    this.cells = new LinkCells(this.i32, L);
    this.translator = new RegionTranslator(
      jitHost(buffer, L, this.cells, allSemantics(), new Decoder(new Set(FEATURES))),
      Math.max(1, plan.threshold >> 4),
    );
  }

  take(m: TranslateRequest): void {
    if (m.generation !== this.generation) {
      this.generation = m.generation;
      this.queue = [];
      this.cells.clear();
    }
    this.queue.push(...m.blocks);
    this.schedule(GATHER_MS);
  }

  private schedule(ms: number): void {
    if (this.scheduled) return;
    this.scheduled = true;
    timers.setTimeout(() => {
      this.scheduled = false;
      this.work();
      if (this.queue.length > 0) this.schedule(0);
    }, ms);
  }

  private work(): void {
    const blocks = this.queue.splice(0, BATCH);
    if (blocks.length === 0) return;
    const t0 = clock.now();
    const { m, env } = satelliteOf(this.plan.layout, this.plan.functions, this.plan.shared);
    const jitType = m.type([I32], I32);
    const regions: TranslateReply['regions'][number][] = [];
    const without: number[] = [];
    let instructions = 0;
    let full = false;
    for (const b of blocks) {
      const found = full ? null : this.translator.discover(b.base, b.host, b.page, b.mode);
      if (found === null) {
        without.push(b.id);
        continue;
      }
      const ranges = rangesOf(found);
      if (!this.translator.emit(m, `r${regions.length}`, env, jitType, found, b.mode)) {
        full = true;
        break;
      }
      m.name(m.lastRef, `region_${b.host.toString(16)}`);
      for (const x of found.blocks) instructions += x.insns.length;
      regions.push({ id: b.id, ranges, code: found.code });
    }
    let module: WebAssembly.Module | null = null;
    let bytes = 0;
    if (regions.length > 0 && !full) {
      const wasm = m.finish();
      bytes = wasm.length;
      module = new WebAssembly.Module(wasm);
    }
    const reply: TranslateReply = {
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
  }
}
