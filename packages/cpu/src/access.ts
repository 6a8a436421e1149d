// How TypeScript code (system instructions, event delivery) reaches a vCPU's state and its memory. 64-bit linear
// addresses are signed doubles here: canonical addresses are below 2^47 in magnitude, so they are exact, and an inexact
// value is always non-canonical. 64-bit data travels as two unsigned halves.
import * as S from './state.ts';

/** Thrown, preallocated, by everything below that raises a guest fault; FAULT, FAULT_CODE, FAULT_ADDR hold which. */
export const GUEST_FAULT: unique symbol = Symbol('guest fault');

/** WebAssembly entry points for memory accesses by linear address. They set FAULT instead of returning a value. */
export interface MemoryPort {
  /** Reads 1, 2 or 4 bytes; result as int32. `access` is ACC_ bits (none: as the current privilege). */
  sysRead(base: number, addr: number, size: number, access: number): number;
  /** Writes 1, 2 or 4 bytes. */
  sysWrite(base: number, addr: number, size: number, value: number, access: number): void;
  /** Makes the byte at `addr` `old & and | or`, atomically, with the supervisor's rights. */
  sysMask(base: number, addr: number, and: number, or: number): void;
  /** Checks that `size` (up to 4096) bytes can be accessed, faulting if not. */
  sysProbe(base: number, addr: number, size: number, access: number): void;
  /** Drops all cached translations of this vCPU's current address space, or all of them. */
  flushTlb(base: number, all: number): void;
  /** Drops translations of one page in every address space. */
  flushPage(base: number, addr: number): void;
}

/** A vCPU's state for TypeScript. */
export class CpuAccess {
  /** Byte offset of the state in memory. */
  readonly base: number;
  /** 32-bit view of all memory. */
  readonly i32: Int32Array;
  /** Byte view. */
  readonly u8: Uint8Array;
  /** 64-bit float view. */
  readonly f64: Float64Array;
  private readonly w: number;
  /** Memory entry points; set once the module exists. */
  port!: MemoryPort;

  constructor(buffer: ArrayBufferLike, base: number) {
    this.base = base;
    this.i32 = new Int32Array(buffer);
    this.u8 = new Uint8Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.w = base >> 2;
  }

  /** Unsigned 32-bit field. */
  get(off: number): number {
    return (this.i32[this.w + (off >> 2)] as number) >>> 0;
  }
  /** Writes a 32-bit field. */
  set(off: number, v: number): void {
    this.i32[this.w + (off >> 2)] = v;
  }
  /** Writes both halves of a 64-bit field. */
  set64(off: number, lo: number, hi: number): void {
    this.i32[this.w + (off >> 2)] = lo;
    this.i32[this.w + (off >> 2) + 1] = hi;
  }
  /** High half of a 64-bit field, unsigned. */
  getHi(off: number): number {
    return (this.i32[this.w + (off >> 2) + 1] as number) >>> 0;
  }
  /** A 64-bit field as a signed double; exact for canonical addresses. */
  getAddr(off: number): number {
    return (
      (this.i32[this.w + (off >> 2) + 1] as number) * 0x1_0000_0000 + ((this.i32[this.w + (off >> 2)] as number) >>> 0)
    );
  }
  /** Writes a 64-bit field from a signed double below 2^63 in magnitude. */
  setAddr(off: number, v: number): void {
    this.i32[this.w + (off >> 2)] = v % 0x1_0000_0000;
    this.i32[this.w + (off >> 2) + 1] = Math.floor(v / 0x1_0000_0000);
  }

  // General registers.
  /** Low 32 bits of a register, unsigned. */
  r32(n: number): number {
    return this.get(S.GPR + n * 8);
  }
  /** Low 16 bits. */
  r16(n: number): number {
    return this.get(S.GPR + n * 8) & 0xffff;
  }
  /** Writes 32 bits and clears the upper half, as a 32-bit destination does. */
  setR32(n: number, v: number): void {
    this.set64(S.GPR + n * 8, v, 0);
  }
  /** Writes the low 16 bits only. */
  setR16(n: number, v: number): void {
    const o = S.GPR + n * 8;
    this.set(o, (this.get(o) & 0xffff0000) | (v & 0xffff));
  }

  // Flags.
  /** RFLAGS bits 0–31, arithmetic flags made real. */
  flags(): number {
    const fc = this.get(S.FC) | 0;
    const frLo = this.get(S.FR);
    let f = this.get(S.EFL) | 2;
    if (fc < 0) f |= S.FLAG_CF;
    if ((fc ^ (fc << 1)) < 0) f |= S.FLAG_OF;
    if (this.get(S.FZ) === 0 && this.getHi(S.FZ) === 0) f |= S.FLAG_ZF;
    if ((this.getHi(S.FR) | 0) < 0) f |= S.FLAG_SF;
    let p = frLo & 0xff;
    p ^= p >> 4;
    if (((0x6996 >> (p & 15)) & 1) === 0) f |= S.FLAG_PF;
    return (f | (this.get(S.FX) & S.FLAG_AF)) >>> 0;
  }
  /** Writes RFLAGS bits 0–31. Call {@link CpuAccess.flags} first to keep bits. */
  setFlags(f: number): void {
    const cf = f & S.FLAG_CF;
    const of = (f >> 11) & 1;
    this.set(S.FC, (cf << 31) | ((cf ^ of) << 30));
    this.set64(S.FZ, f & S.FLAG_ZF ? 0 : 1, 0);
    this.set64(S.FR, f & S.FLAG_PF ? 0 : 1, f & S.FLAG_SF ? -1 : 0);
    this.set(S.FX, f & S.FLAG_AF);
    this.set(S.EFL, (f & ~0x8d5 & 0x3f7fd7) | 2);
  }

  // Segments.
  /** Selector of segment register `n`. */
  sel(n: number): number {
    return this.get(S.SEG + n * S.SEG_STRIDE + S.SEG_SEL);
  }
  /** Access rights. */
  attr(n: number): number {
    return this.get(S.SEG + n * S.SEG_STRIDE + S.SEG_ATTR);
  }
  /** Limit. */
  limit(n: number): number {
    return this.get(S.SEG + n * S.SEG_STRIDE + S.SEG_LIMIT);
  }
  /** Base, as a signed double. */
  segBase(n: number): number {
    return this.getAddr(S.SEG + n * S.SEG_STRIDE + S.SEG_BASE);
  }
  /** Loads a segment register's visible and hidden parts. */
  setSeg(n: number, selector: number, baseLo: number, baseHi: number, limit: number, attr: number): void {
    const o = S.SEG + n * S.SEG_STRIDE;
    this.set64(o + S.SEG_BASE, baseLo, baseHi);
    this.set(o + S.SEG_LIMIT, limit);
    this.set(o + S.SEG_ATTR, attr);
    this.set(o + S.SEG_SEL, selector & 0xffff);
  }

  // Modes.
  /** CR0.PE. */
  get protectedMode(): boolean {
    return (this.get(S.CR0) & 1) !== 0;
  }
  /** Virtual-8086 mode. */
  get v86(): boolean {
    return (this.get(S.EFL) & S.FLAG_VM) !== 0;
  }
  /** EFER.LMA: long mode is active (64-bit or compatibility). */
  get longMode(): boolean {
    return (this.get(S.EFER) & 0x400) !== 0;
  }
  /** Running 64-bit code. */
  get code64(): boolean {
    return (this.get(S.MODE) & S.MODE_SIZE) === 2;
  }
  /** Current privilege level. */
  get cpl(): number {
    return this.get(S.CPL);
  }

  // Faults and memory.
  /** Raises an exception for the running instruction; never returns. */
  fault(vector: number, errorCode = 0): never {
    this.set(S.FAULT, vector + 1);
    this.set(S.FAULT_CODE, errorCode);
    throw GUEST_FAULT;
  }
  /** #GP. */
  gp(errorCode = 0): never {
    return this.fault(S.EXC_GP, errorCode);
  }
  /** #UD. */
  ud(): never {
    return this.fault(S.EXC_UD);
  }
  /**
   * Host address of `size` bytes at a linear address that the TLB knows to be accessible, within one page; else 0, and the
   * caller goes the long way. `access` is ACC_WRITE, ACC_IMPLICIT, both or neither.
   */
  pointer(addr: number, size: number, access: number): number {
    const lo = addr | 0;
    if ((lo & 4095) + size > 4096) return 0;
    const bank = this.i32[this.w + ((access & S.ACC_IMPLICIT ? S.TLB_SYS : S.TLB_DATA) >> 2)] as number;
    const e = (bank + (((lo >>> 12) & (S.TLB_ENTRIES - 1)) << 5)) >> 2;
    const tag = e + (access & S.ACC_WRITE) * 2;
    if (this.i32[tag] !== (lo & -4096) || this.i32[tag + 1] !== (Math.floor(addr / 0x1_0000_0000) | 0)) return 0;
    return (lo + (this.i32[e + 6] as number)) >>> 0;
  }
  /** Reads 1, 2 or 4 bytes at a linear address, unsigned. */
  read(addr: number, size: 1 | 2 | 4, access = 0): number {
    const at = this.pointer(addr, size, access & S.ACC_IMPLICIT);
    if (at !== 0 && (at & 3) === 0) {
      const word = this.i32[at >> 2] as number;
      return size === 4 ? word >>> 0 : size === 2 ? word & 0xffff : word & 0xff;
    }
    const v = this.port.sysRead(this.base, addr, size, access) >>> 0;
    if (this.get(S.FAULT) !== 0) throw GUEST_FAULT;
    return v;
  }
  /** Writes 1, 2 or 4 bytes. */
  write(addr: number, size: 1 | 2 | 4, v: number, access = 0): void {
    if (size === 4) {
      const at = this.pointer(addr, 4, S.ACC_WRITE | (access & S.ACC_IMPLICIT));
      if (at !== 0 && (at & 3) === 0) {
        this.i32[at >> 2] = v;
        return;
      }
    }
    this.port.sysWrite(this.base, addr, size, v, access);
    if (this.get(S.FAULT) !== 0) throw GUEST_FAULT;
  }
  /** Changes one byte of a descriptor table as a locked access does: `old & and | or`. */
  maskByte(addr: number, and: number, or: number): void {
    this.port.sysMask(this.base, addr, and, or);
    if (this.get(S.FAULT) !== 0) throw GUEST_FAULT;
  }
  /** Checks access to a range beforehand. */
  probe(addr: number, size: number, access: number): void {
    this.port.sysProbe(this.base, addr, size, access);
    if (this.get(S.FAULT) !== 0) throw GUEST_FAULT;
  }
}
