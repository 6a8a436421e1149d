// Where everything lies in the one linear memory: vCPU states and TLBs, decoded code, page tables of our own, guest RAM.
import { type BackedRegion, HyveError, type RegionSpec } from '@hyve/core';
import { STATE_SIZE, TLB_SIZE } from './state.ts';

/** Addresses of one VM's areas in its linear memory; all i32. */
export interface Layout {
  /** First vCPU's state; the others follow at {@link Layout.vcpuStride}. */
  readonly vcpu0: number;
  /** Bytes from one vCPU to the next: state, then TLB banks. */
  readonly vcpuStride: number;
  /** Block hash: one i32 per bucket. */
  readonly hash: number;
  /** log2 of the number of buckets. */
  readonly hashBits: number;
  /** Per guest page, 16 bytes: first block (i32), spare, mask of 64-byte pieces that hold code (i64). */
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
  /** First byte of guest memory. */
  readonly ram: number;
  /** Number of 4 KiB pages of guest memory. */
  readonly pages: number;
  /** Regions with their offsets, in base order. */
  readonly regions: readonly BackedRegion[];
  /** WebAssembly pages (64 KiB) in all. */
  readonly wasmPages: number;
}

const ARENA_BYTES = 40 << 20;
const CELL_BYTES = 2 << 20;

const up = (v: number, to: number): number => Math.ceil(v / to) * to;

/**
 * Lays out a VM.
 * @throws HyveError `VM_MEMORY` when it does not fit the 4 GiB that one 32-bit linear memory has
 */
export function layOut(specs: readonly RegionSpec[], vcpus: number): Layout {
  const vcpu0 = 0x10000;
  const vcpuStride = up(STATE_SIZE + TLB_SIZE, 4096);
  const hashBits = 16;
  const pages = specs.reduce((n, r) => n + r.size / 4096, 0);
  const hash = up(vcpu0 + vcpus * vcpuStride, 65536);
  const pageInfo = hash + (4 << hashBits);
  const pageFlags = pageInfo + pages * 16;
  const jumpCache = up(pageFlags + pages, 4096);
  const cells = jumpCache + 65536;
  const cellsEnd = cells + CELL_BYTES;
  const arena = cellsEnd;
  const arenaEnd = arena + ARENA_BYTES;
  const ram = up(arenaEnd, 1 << 16);
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
  return {
    vcpu0,
    vcpuStride,
    hash,
    hashBits,
    pageInfo,
    pageFlags,
    arena,
    arenaEnd,
    cells,
    cellsEnd,
    jumpCache,
    ram,
    pages,
    regions,
    wasmPages,
  };
}
