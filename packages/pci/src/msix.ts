// MSI-X table and pending bit array of one function (PCI 3.0 §6.8.2), served from its BAR. bhyve's pci_emul.c has the
// table in software too but never sets a pending bit; here masked messages wait and go out on unmask.
import { allOnes, type IoHandler, type Width } from '@hyve/core';
import { MSIX_ENTRY_BYTES, MSIX_VECTOR_MASKED } from './bits.ts';

/** Bytes of the table, rounded up to whole 4 KiB: where the pending bits start, from the table's start. */
export function pbaOffset(vectors: number): number {
  return Math.ceil((vectors * MSIX_ENTRY_BYTES) / 4096) * 4096;
}

/** Bytes from the table's start to the end of the page with the pending bits. */
export function msixSpan(vectors: number): number {
  return pbaOffset(vectors) + 4096;
}

/**
 * The table, a handler for the BAR range that holds it (offset 0: table; next 4 KiB: pending bits, read-only).
 * An entry is four doublewords: address low, address high, data, control.
 */
export class MsixTable implements IoHandler {
  /** Entries, four doublewords each. */
  readonly entries: Uint32Array;
  /** Pending bits, bit n of word n/32. */
  readonly pending: Uint32Array;
  /** MSI-X Enable of the capability. */
  enabled = false;
  /** Function Mask of the capability. */
  functionMasked = false;
  private readonly vectors: number;
  private readonly pba: number;
  private readonly send: (addressLo: number, addressHi: number, data: number) => void;

  /** @param send sends one message; addresses and data as the guest wrote them */
  constructor(vectors: number, send: (addressLo: number, addressHi: number, data: number) => void) {
    this.vectors = vectors;
    this.entries = new Uint32Array(vectors * 4);
    // The architecture's array is made of 64-bit words.
    this.pending = new Uint32Array(Math.ceil(vectors / 64) * 2);
    this.pba = pbaOffset(vectors);
    this.send = send;
    this.reset();
  }

  /** All vectors masked, nothing pending, MSI-X off. */
  reset(): void {
    this.entries.fill(0);
    for (let v = 0; v < this.vectors; v++) this.entries[v * 4 + 3] = MSIX_VECTOR_MASKED;
    this.pending.fill(0);
    this.enabled = false;
    this.functionMasked = false;
  }

  /** Sends vector `n`, or makes it pending while masked. Nothing for a vector that does not exist. */
  raise(n: number): void {
    if (!(n >= 0 && n < this.vectors)) return;
    const e = n * 4;
    if (this.functionMasked || ((this.entries[e + 3] as number) & MSIX_VECTOR_MASKED) !== 0) {
      this.pending[n >>> 5] = (this.pending[n >>> 5] as number) | (1 << (n & 31));
      return;
    }
    this.send(this.entries[e] as number, this.entries[e + 1] as number, this.entries[e + 2] as number);
  }

  /** The capability's control bits changed: messages that waited for the function mask go out. */
  control(enabled: boolean, functionMasked: boolean): void {
    this.enabled = enabled;
    this.functionMasked = functionMasked;
    if (!enabled || functionMasked) return;
    for (let w = 0; w < this.pending.length; w++) {
      if (this.pending[w] === 0) continue;
      for (let b = 0; b < 32; b++) this.deliver(w * 32 + b);
    }
  }

  /** Sends vector `n` if it is pending and may go. */
  private deliver(n: number): void {
    if (!this.enabled || this.functionMasked || n >= this.vectors) return;
    const bit = 1 << (n & 31);
    if (((this.pending[n >>> 5] as number) & bit) === 0) return;
    if (((this.entries[n * 4 + 3] as number) & MSIX_VECTOR_MASKED) !== 0) return;
    this.pending[n >>> 5] = (this.pending[n >>> 5] as number) & ~bit;
    this.raise(n);
  }

  private dword(offset: number): number {
    const i = offset >>> 2;
    if (i < this.entries.length) return this.entries[i] as number;
    const p = (offset - this.pba) >> 2;
    return p >= 0 && p < this.pending.length ? (this.pending[p] as number) : 0;
  }

  read(offset: number, width: Width): number {
    const at = offset & 3;
    if (at + width > 4) {
      // Straddles two doublewords: undefined by the architecture, bytes here.
      let v = 0;
      for (let i = 0; i < width; i++) v |= this.read(offset + i, 1) << (i * 8);
      return v >>> 0;
    }
    return ((this.dword(offset) >>> (at * 8)) & allOnes(width)) >>> 0;
  }

  write(offset: number, width: Width, value: number): void {
    const at = offset & 3;
    if (at + width > 4) {
      for (let i = 0; i < width; i++) this.write(offset + i, 1, (value >>> (i * 8)) & 0xff);
      return;
    }
    const i = offset >>> 2;
    if (i >= this.entries.length) return;
    const mask = (allOnes(width) << (at * 8)) >>> 0;
    const merged = (((this.entries[i] as number) & ~mask) | ((value << (at * 8)) & mask)) >>> 0;
    const field = i & 3;
    // Address bits 1:0 are zero and control has one bit (§6.8.2.7, 6.8.2.10).
    this.entries[i] = field === 0 ? merged & ~3 : field === 3 ? merged & MSIX_VECTOR_MASKED : merged;
    if (field === 3) this.deliver(i >>> 2);
  }
}
