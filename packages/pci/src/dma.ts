// Guest memory behind the bus master enable bit.
import type { DmaMemory, PhysAddr } from '@hyve/core';

/** {@link DmaMemory} that a function sees: reads give all ones and writes vanish while `on` is false. */
export class MasterDma implements DmaMemory {
  /** Whether this function and every bridge above it may master the bus. */
  on = false;
  private readonly mem: DmaMemory;

  constructor(mem: DmaMemory) {
    this.mem = mem;
  }
  read8(a: PhysAddr): number {
    return this.on ? this.mem.read8(a) : 0xff;
  }
  read16(a: PhysAddr): number {
    return this.on ? this.mem.read16(a) : 0xffff;
  }
  read32(a: PhysAddr): number {
    return this.on ? this.mem.read32(a) : 0xffff_ffff;
  }
  write8(a: PhysAddr, v: number): void {
    if (this.on) this.mem.write8(a, v);
  }
  write16(a: PhysAddr, v: number): void {
    if (this.on) this.mem.write16(a, v);
  }
  write32(a: PhysAddr, v: number): void {
    if (this.on) this.mem.write32(a, v);
  }
  readView(a: PhysAddr, n: number): Uint8Array | null {
    return this.on ? this.mem.readView(a, n) : null;
  }
  writeView(a: PhysAddr, n: number): Uint8Array | null {
    return this.on ? this.mem.writeView(a, n) : null;
  }
  markDirty(a: PhysAddr, n: number): void {
    // Not gated: it says what has happened already, perhaps before bus mastering went off.
    this.mem.markDirty(a, n);
  }
}
