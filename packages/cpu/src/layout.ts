// Where everything lies in the one linear memory: vCPU states and TLBs, decoded code, page tables of our own, guest RAM.
// Each thread that runs vCPUs has decoded code of its own; the rest is shared.
import { type BackedRegion, HyveError, type RegionSpec } from '@hyve/core';
import { JUMP_TARGETS_BYTES } from './jump-targets.ts';
import { STATE_SIZE, TLB_SIZE } from './state.ts';

/** Addresses of one VM's areas in its linear memory; all i32. */
export interface Layout {
  /**
   * First vCPU's state; the others follow at {@link Layout.vcpuStride}. It is at 0: translated code has addresses in it as
   * constants, and small ones make short instructions.
   */
  readonly vcpu0: number;
  /** Bytes from one vCPU to the next: state, then TLB banks. */
  readonly vcpuStride: number;
  /** Threads that run vCPUs. With more than one, thread n runs vCPU n. */
  readonly threads: number;
  /** State of the only vCPU that this thread runs; -1 if several take turns. */
  readonly only: number;
  /** Whose areas those are that each thread has for itself: hash, pageInfo, jump cache, cells, arena. */
  readonly thread: number;
  /** What threads tell each other; see smp.ts. */
  readonly smp: number;
  /** Per guest page, one i32: bit for each thread that has code there. */
  readonly owners: number;
  /** Per guest page, one i32: bit for each thread whose TLBs may let it write there. */
  readonly writers: number;
  /** Block hash: one i32 per bucket. */
  readonly hash: number;
  /** log2 of the number of buckets. */
  readonly hashBits: number;
  /** Per guest page, 16 bytes: first block (i32), whether the page is claimed (i32), mask of 64-byte pieces that hold code (i64). */
  readonly pageInfo: number;
  /** Per guest page, one byte: PF_ bits. */
  readonly pageFlags: number;
  /** Decoded records. */
  readonly arena: number;
  /** First byte past the records. */
  readonly arenaEnd: number;
  /** Link cells of translated code; the first is never used. */
  readonly cells: number;
  /** First byte past the cells. */
  readonly cellsEnd: number;
  /** Jump cache of translated code. */
  readonly jumpCache: number;
  /** Where indirect jumps went; see jump-targets.ts. */
  readonly jumpTargets: number;
  /** First byte of guest memory. */
  readonly ram: number;
  /** Number of 4 KiB pages of guest memory. */
  readonly pages: number;
  /** Regions with their offsets, in base order. */
  readonly regions: readonly BackedRegion[];
  /** WebAssembly pages (64 KiB) in all. */
  readonly wasmPages: number;
}

const up = (v: number, to: number): number => Math.ceil(v / to) * to;

const ARENA_BYTES = 40 << 20;
/** Records of each thread after the first. */
const ARENA_BYTES_MORE = 24 << 20;
const CELL_BYTES = 2 << 20;
const HASH_BITS = 16;
const JUMP_CACHE_BYTES = 65536;
/** Bytes per thread, and before the first one's, for smp.ts. */
export const SMP_STRIDE = 16384;
/** Masks of threads have 32 bits, of which JavaScript should not see the sign. */
export const MAX_THREADS = 31;

/** Areas that each thread has for itself. */
type OwnAreas = Pick<
  Layout,
  'hash' | 'pageInfo' | 'jumpCache' | 'jumpTargets' | 'cells' | 'cellsEnd' | 'arena' | 'arenaEnd'
>;

function ownAreas(at: number, pages: number, arenaBytes: number): OwnAreas {
  const hash = at;
  const pageInfo = hash + (4 << HASH_BITS);
  const jumpCache = up(pageInfo + pages * 16, 4096);
  const jumpTargets = jumpCache + JUMP_CACHE_BYTES;
  const cells = jumpTargets + JUMP_TARGETS_BYTES;
  const cellsEnd = cells + CELL_BYTES;
  return { hash, pageInfo, jumpCache, jumpTargets, cells, cellsEnd, arena: cellsEnd, arenaEnd: cellsEnd + arenaBytes };
}

/**
 * The layout as thread `n` sees it; `L` as thread 0 does.
 * @throws HyveError `VM_LAYOUT` for another thread's layout, from which nothing can be told of the others
 */
export function threadLayout(L: Layout, n: number): Layout {
  if (L.thread !== 0) throw new HyveError('VM_LAYOUT', `thread ${n} asked for by the layout of thread ${L.thread}`);
  if (n === 0) return L;
  const size = up(ownAreas(0, L.pages, ARENA_BYTES_MORE).arenaEnd, 65536);
  return {
    ...L,
    only: L.vcpu0 + n * L.vcpuStride,
    thread: n,
    ...ownAreas(L.arenaEnd + (n - 1) * size, L.pages, ARENA_BYTES_MORE),
  };
}

/**
 * Lays out a VM.
 * @throws HyveError `VM_MEMORY` when it does not fit the 4 GiB that one 32-bit linear memory has
 */
export function layOut(specs: readonly RegionSpec[], vcpus: number, threads = 1): Layout {
  const vcpu0 = 0;
  const vcpuStride = up(STATE_SIZE + TLB_SIZE, 4096);
  const pages = specs.reduce((n, r) => n + r.size / 4096, 0);
  const smp = up(vcpu0 + vcpus * vcpuStride, 65536);
  const owners = threads > 1 ? smp + (threads + 1) * SMP_STRIDE : smp;
  const writers = threads > 1 ? owners + pages * 4 : smp;
  const pageFlags = threads > 1 ? writers + pages * 4 : smp;
  const own = ownAreas(up(pageFlags + pages, 65536), pages, up(ARENA_BYTES, 65536));
  const base = {
    vcpu0,
    vcpuStride,
    threads,
    only: vcpus === threads ? vcpu0 : -1,
    thread: 0,
    smp,
    owners,
    writers,
    pageFlags,
    hashBits: HASH_BITS,
    pages,
    ...own,
  };
  const arenaEnd = up(own.arenaEnd, 65536);
  const last = threadLayout({ ...base, arenaEnd, ram: 0, regions: [], wasmPages: 0 }, threads - 1);
  const ram = up(last.arenaEnd, 1 << 16);
  let at = ram;
  const regions: BackedRegion[] = [];
  for (const r of [...specs].sort((x, y) => x.base - y.base)) {
    regions.push({ ...r, offset: at });
    at += r.size;
  }
  const wasmPages = up(at, 65536) / 65536;
  if (wasmPages > 65536)
    throw new HyveError(
      'VM_MEMORY',
      `the software CPU can give a guest at most ${Math.floor((65536 * 65536 - ram) / 1048576)} MiB of memory, not ${Math.ceil((at - ram) / 1048576)} MiB`,
    );
  return { ...base, arenaEnd, ram, regions, wasmPages };
}
