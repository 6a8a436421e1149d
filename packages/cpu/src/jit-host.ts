// What a translator sees of the machine: guest code, counts of blocks, the code TLB and the link cells, all in shared memory.
import type { Decoder } from '@hyve/x86';
import { modeForbids, runsOf, unitsOfRows } from './blocks.ts';
import type { Semantic } from './ctx.ts';
import { leftToInterpreter } from './interp.ts';
import { CELL, type JitHost } from './jit.ts';
import { jumpTargets } from './jump-targets.ts';
import type { Layout } from './layout.ts';
import * as S from './state.ts';

/** Page `page` (linear address >> 12, signed) in the code TLB of the vCPU at `base`: its host address, or 0. */
export function codePageOf(words: Int32Array, base: number, page: number): number {
  const tlb = words[(base + S.TLB_CODE) >> 2] as number;
  const index = ((page % S.TLB_ENTRIES) + S.TLB_ENTRIES) % S.TLB_ENTRIES;
  const e = (tlb + index * S.TLB_STRIDE) >> 2;
  const lo = ((page % 0x100000) * 4096) | 0;
  const hi = Math.floor(page / 0x100000) | 0;
  if (words[e + 4] !== lo || words[e + 5] !== hi) return 0;
  return (lo + (words[e + 6] as number)) >>> 0;
}

/** A sixteenth of the link cells belongs to a vCPU's thread that has a translator's thread beside it. */
const OWN_SHARE = 16;

/** The link cells of one translator; no two of its regions share one. */
export class LinkCells {
  private readonly words: Int32Array;
  private readonly layout: Layout;
  private first = 0;
  private end = 0;
  private next = 0;

  /** @param part whose they are: of one translator, or of the thread for it, or of the vCPU's thread beside that */
  constructor(words: Int32Array, L: Layout, part: 'all' | 'thread' | 'own') {
    this.words = words;
    this.layout = L;
    this.choose(part);
  }

  /** Hands out others from here on: nothing that was translated may run any more. */
  choose(part: 'all' | 'thread' | 'own'): void {
    const { cells, cellsEnd } = this.layout;
    const own = cellsEnd - Math.floor((cellsEnd - cells) / OWN_SHARE / CELL) * CELL;
    this.first = part === 'own' ? own : cells + CELL;
    this.end = part === 'thread' ? own : cellsEnd;
    this.next = this.first;
  }

  /** Address of a fresh cell, 0 when there are no more. */
  take(): number {
    if (this.left === 0) return 0;
    const c = this.next;
    this.next += CELL;
    this.words[c >> 2] = 0;
    this.words[(c >> 2) + 1] = 0;
    return c;
  }

  /** How many there still are. */
  get left(): number {
    return Math.max(0, Math.floor((this.end - this.next) / CELL));
  }

  /** Address of the next one. */
  get mark(): number {
    return this.next;
  }

  /** Sets those before `to` aside for regions that hold them already; false if some are taken, or there are not as many. */
  reserve(from: number, to: number): boolean {
    if (from < this.next || to > this.end || (to - this.first) % CELL !== 0) return false;
    this.next = to;
    return true;
  }

  /** Makes all of them fresh again: nothing that was translated may run any more. */
  clear(): void {
    this.next = this.first;
  }
}

/** What a translator needs, from the shared memory alone. */
export function jitHost(
  buffer: ArrayBufferLike,
  L: Layout,
  cells: LinkCells,
  semantics: ReadonlyMap<number, Semantic>,
  decoder: Decoder,
): JitHost {
  const words = new Int32Array(buffer);
  const halves = new Uint16Array(buffer);
  const units = unitsOfRows();
  return {
    u8: new Uint8Array(buffer),
    only: L.only,
    semantics,
    decoder,
    special: leftToInterpreter,
    unavailable: (n, mode) => modeForbids(units, n, mode),
    cell: () => cells.take(),
    place: (cell, host) => {
      words[cell >> 2] = host;
    },
    runs: (host, mode) => runsOf(words, halves, L, host, mode),
    codePage: (base, page) => codePageOf(words, base, page),
    jumpTargets: (jump) => jumpTargets(words, L, jump),
    jumpCache: L.jumpCache,
  };
}
