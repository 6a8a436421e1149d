// Resource assignment at creation: every BAR gets an address before the guest runs, because neither a directly booted
// kernel nor bhyve's UEFI firmware assigns any. Windows are bhyve's: I/O from 0x2000, memory from 3 GiB, big 64-bit BARs
// high. Largest first, each aligned to its own size.
import { HyveError } from '@hyve/core';

/** A range of addresses. */
export interface PciRange {
  /** First address. */
  readonly base: number;
  /** Bytes. */
  readonly size: number;
}

/** Something to place: a BAR, or a bridge's window over what is behind it. @internal */
export interface Request {
  readonly name: string;
  readonly size: number;
  readonly align: number;
  place(base: number): void;
}

/** Places with the largest alignment first; equal ones stay in order. @internal */
export function sorted(requests: readonly Request[]): Request[] {
  return [...requests].sort((x, y) => y.align - x.align || y.size - x.size);
}

/** End of the last request when packed from `base`. @internal */
export function packedEnd(requests: readonly Request[], base: number): number {
  let at = base;
  for (const r of sorted(requests)) at = roundUp(at, r.align) + r.size;
  return at;
}

/** Gives each request its place from `base` up. @throws HyveError `PCI_NO_SPACE` past `limit` @internal */
export function pack(requests: readonly Request[], base: number, limit: number, what: string): void {
  let at = base;
  for (const r of sorted(requests)) {
    at = roundUp(at, r.align);
    if (at + r.size > limit)
      throw new HyveError(
        'PCI_NO_SPACE',
        `${r.name}: no room for 0x${r.size.toString(16)} bytes in the ${what} window below 0x${limit.toString(16)}`,
      );
    r.place(at);
    at += r.size;
  }
}

/** Largest alignment asked for, at least `least`. @internal */
export function maxAlign(requests: readonly Request[], least: number): number {
  return requests.reduce((a, r) => Math.max(a, r.align), least);
}

/** Next multiple of `to`, a power of two. @internal */
export function roundUp(v: number, to: number): number {
  return Math.ceil(v / to) * to;
}

/** Multiple of `to` at or below. @internal */
export function roundDown(v: number, to: number): number {
  return Math.floor(v / to) * to;
}

/** Splits one window among the root buses: bus 0 (the first) from the bottom, the others from the top; the first keeps the rest. */
export function splitWindow(
  perBus: readonly (readonly Request[])[],
  window: PciRange,
  granule: number,
  what: string,
): PciRange[] {
  const ranges: PciRange[] = new Array<PciRange>(perBus.length);
  let top = window.base + window.size;
  for (let i = perBus.length - 1; i >= 1; i--) {
    const requests = perBus[i] as readonly Request[];
    const align = maxAlign(requests, granule);
    // One granule of slop, so that the guest may rearrange a little.
    const need = roundUp(packedEnd(requests, 0) + granule, granule);
    const base = roundDown(top - need, align);
    if (base < window.base)
      throw new HyveError('PCI_NO_SPACE', `the ${what} window has no room for 0x${need.toString(16)} bytes`);
    pack(requests, base, top, what);
    ranges[i] = { base, size: top - base };
    top = base;
  }
  pack(perBus[0] as readonly Request[], window.base, top, what);
  ranges[0] = { base: window.base, size: top - window.base };
  return ranges;
}
