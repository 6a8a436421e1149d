// What an instruction's meaning is written against. A semantic function takes a SemCtx and describes the instruction
// once; the interpreter generator and the translator give it different operands (fields of a decoded record, or
// constants and locals) and different ends (next record, or the next block of a region).
//
// Values: operands of 1, 2 and 4 bytes are i32 nodes, zero-extended; 8 bytes are i64; 16 bytes are v128.
import { type Insn, Kind, OP } from '@hyve/x86';
import { tlbSlot } from './addresses.ts';
import type { MemFns } from './mem.ts';
import * as S from './state.ts';
import {
  c32,
  c64,
  c64hl,
  call,
  cmpxchg,
  F32,
  F64,
  type Fn,
  type FnRef,
  f32,
  f64,
  I32,
  I64,
  i32,
  i64,
  type Label,
  type Local,
  ld,
  type Node,
  select,
  simd,
  simdLane,
  type Ty,
  V128,
} from './wasm/builder.ts';

/** Access rights that count for data in FS and GS, and what they are where it may be read and written up to its limit. */
const PLAIN_MASK: number = S.ATTR_UNUSABLE | S.ATTR_P | S.ATTR_S | 0xe;
const PLAIN: number = S.ATTR_P | S.ATTR_S | 2;

/** Whether the processor runs 64-bit code. */
export function is64Bit(base: Node): Node {
  return i32.eq(i32.and(ld.i32(base, S.MODE), c32(S.MODE_SIZE)), c32(2));
}

/** The bits that `count` vectors of the state have between them, from an offset on. */
export function orOfVectors(base: Node, from: number, count: number): Node {
  let all = ld.v128(base, from);
  for (let n = 1; n < count; n++) all = simd(80, [all, ld.v128(base, from + 16 * n)]);
  return all;
}

/** How code and stack are addressed; part of what a handler or block is specialised for. */
export interface CodeMode {
  /** Code size: 16, 32 or 64. */
  readonly bits: 16 | 32 | 64;
  /** Stack pointer size outside 64-bit mode: ESP rather than SP. */
  readonly ss32: boolean;
  /** ES CS SS DS are flat. */
  readonly flat: boolean;
}

/** Functions for accesses that the TLB does not answer. */
export interface SlowWays {
  /** (base, la, size) → value as i64. */
  readonly read: FnRef;
  /** (base, la, value, size) */
  readonly write: FnRef;
  /** (base, la, size) → host address of what is to be modified. */
  readonly rmw: FnRef;
}

/** Functions outside the instruction that its code may call. */
export interface Env {
  readonly mem: MemFns;
  /** (base, segment offset in state, offset i64, size, write) → linear address; FAULT on violation. */
  readonly segLinear: FnRef;
  /** (base) → EFLAGS bits 0–31. */
  readonly getFlags: FnRef;
  /** (base, flags): writes EFLAGS bits 0–31. */
  readonly setFlags: FnRef;
  /** (base, record) → ST_ status: runs the instruction in TypeScript. */
  readonly sys: FnRef;
  /** (base) sets SCRATCH to the time stamp counter, 64 bit. */
  readonly tsc: FnRef;
  /** Several threads run vCPUs on this memory: locked instructions must be atomic, fences must fence. */
  readonly shared: boolean;
  /** Whether the host's relaxed multiply-add rounds once. */
  readonly fused: boolean;
  /** Further functions by name, made on first use by their owner (softfloat). */
  fn(name: string): FnRef;
}

type Bin = (a: Node, b: Node) => Node;

/** Integer operations of one operand size: i32 for 1, 2, 4 bytes, i64 for 8. */
export interface Num {
  readonly ty: Ty;
  readonly bits: number;
  c(v: number): Node;
  add: Bin;
  sub: Bin;
  mul: Bin;
  and: Bin;
  or: Bin;
  xor: Bin;
  shl: Bin;
  shr_u: Bin;
  shr_s: Bin;
  eq: Bin;
  ne: Bin;
  lt_u: Bin;
  lt_s: Bin;
  eqz(a: Node): Node;
  /** Bitwise not (all bits of the type; mask where it matters). */
  not(a: Node): Node;
  /** Cuts to the operand size, zero-extended. */
  trunc(a: Node): Node;
  /** Sign-extends from the operand size to the type. */
  sext(a: Node): Node;
  /** Sign-extends from the operand size to i64. */
  sext64(a: Node): Node;
  /** Zero-extends to i64. */
  zext64(a: Node): Node;
  /** From i64, cut. */
  from64(a: Node): Node;
  /** From i32 (zero-extended value). */
  from32(a: Node): Node;
  /** Low 32 bits as i32. */
  to32(a: Node): Node;
}

function num(size: number): Num {
  const wide = size === 8;
  const o = wide ? i64 : i32;
  const mask = size === 1 ? 0xff : size === 2 ? 0xffff : 0;
  const c = wide ? c64 : c32;
  const trunc = (a: Node): Node => (mask === 0 ? a : i32.and(a, c32(mask)));
  const sext = (a: Node): Node => (size === 1 ? i32.extend8_s(a) : size === 2 ? i32.extend16_s(a) : a);
  return {
    ty: wide ? I64 : I32,
    bits: size * 8,
    c,
    add: o.add,
    sub: o.sub,
    mul: o.mul,
    and: o.and,
    or: o.or,
    xor: o.xor,
    shl: o.shl,
    shr_u: o.shr_u,
    shr_s: o.shr_s,
    eq: o.eq,
    ne: o.ne,
    lt_u: o.lt_u,
    lt_s: o.lt_s,
    eqz: o.eqz,
    not: (a) => o.xor(a, c(-1)),
    trunc,
    sext,
    sext64: (a) => (wide ? a : i64.extend_s(sext(a))),
    zext64: (a) => (wide ? a : i64.extend_u(a)),
    from64: (a) => (wide ? a : trunc(i32.wrap(a))),
    from32: (a) => (wide ? i64.extend_u(a) : a),
    to32: (a) => (wide ? i32.wrap(a) : a),
  };
}

/** {@link Num} by size in bytes. */
export const NUM: Readonly<Record<number, Num>> = { 1: num(1), 2: num(2), 4: num(4), 8: num(8) };

/** Base class of both backends: everything that does not depend on where operands live. */
export abstract class SemCtx {
  readonly f: Fn;
  readonly env: Env;
  /** The vCPU's state address. */
  readonly base: Node;
  /** The instruction. The interpreter's handlers are shared: only `op`, sizes, kinds, `cc`, `addrSize`, `rep`, `lock`, `modrm` bits the key holds are the same for all its users. */
  readonly insn: Insn;
  readonly mode: CodeMode;
  /** Upper lane of a 32-byte memory operand, once its lower one has been read. */
  upperLane: Node | null = null;
  /** Host address of the read-modify-write operand, between rmwRead and rmwWrite. */
  private rmwPtr: Local | null = null;

  constructor(f: Fn, env: Env, base: Node, insn: Insn, mode: CodeMode) {
    this.f = f;
    this.env = env;
    this.base = base;
    this.insn = insn;
    this.mode = mode;
  }

  // --- what a backend provides -------------------------------------------------------------------------------------
  /** Reads a general register by number; 8-byte value. */
  abstract getGpr64(n: number): Node;
  /** Low 32 bits as i32. */
  abstract getGpr32(n: number): Node;
  /** Writes a whole general register. */
  abstract setGpr64(n: number, v: Node): void;
  /** Writes the low 1 or 2 bytes of a register, keeping the rest. */
  abstract setGprLow(n: number, size: 1 | 2, v: Node): void;
  /** Reads a register operand (kind Gpr or GprHigh). */
  abstract readReg(i: number, size: number): Node;
  /** Writes a register operand; 4-byte writes clear the upper half. */
  abstract writeReg(i: number, size: number, v: Node): void;
  /** Address (i32 node) of operand `i`'s register in state, plus a constant offset to use with it: for XMM, MMX. */
  abstract regAddr(i: number): Node;
  /** Value of an St, Seg, Cr or Dr operand's register number, or any small per-instruction number, as i32. */
  abstract regNum(i: number): Node;
  /** The immediate, as i64. */
  abstract imm64(): Node;
  /** The immediate, as i32. */
  abstract imm32(): Node;
  /** insn.imm2 as i32. */
  abstract imm2(): Node;
  /** Linear address of the memory operand (for LEA: the offset), i64. */
  abstract ea(): Node;
  /** RIP of this instruction, i64. */
  abstract rip(): Node;
  /** RIP of the next instruction, i64, wrapped to the code size. */
  abstract nextRip(): Node;
  /** Leaves because FAULT is set. */
  abstract leaveFault(): void;
  /** Ends the instruction: goes on at RIP = `target` (i64, already cut to size). */
  abstract jumpIndirect(target: Node): void;
  /** Ends the instruction: jumps to next + immediate, cut to the operand size. */
  abstract jumpRelative(): void;
  /** Ends the instruction: as {@link jumpRelative} if `cond`, else the next instruction. */
  abstract branch(cond: Node): void;
  /** Ends the instruction with a status from TypeScript (ST_…). */
  abstract leaveStatus(status: Node): void;
  /** Ends the instruction normally; needed only to leave from the middle. */
  abstract next(): void;
  /** Ends the instruction by doing it again (REP, interrupted). */
  abstract again(): void;
  /** The record for helpers, i32 (0 where there is none). */
  abstract record(): Node;
  /** The value of ICOUNT that counts exactly up to this instruction, i64. */
  countHere(): Node {
    // The instructions that ask end their block.
    return ld.i64(this.base, S.ICOUNT);
  }
  /** TLB_DATA has changed in the middle of a block. */
  dataTlbChanged(): void {}
  /** Stores what helpers need to find the instruction (RIP_BASE, CUR_REC), before calls that may look. */
  abstract sync(): void;

  // --- sizes ---------------------------------------------------------------------------------------------------------
  /** Operand size in bytes. */
  get size(): number {
    return this.insn.opSize;
  }
  kind(i: number): number {
    const n = this.insn;
    return i === 0 ? n.kind0 : i === 1 ? n.kind1 : i === 2 ? n.kind2 : n.kind3;
  }
  sizeOf(i: number): number {
    const n = this.insn;
    return i === 0 ? n.size0 : i === 1 ? n.size1 : i === 2 ? n.size2 : n.size3;
  }
  isMem(i: number): boolean {
    return this.kind(i) === Kind.Mem;
  }
  /** Number of the operand that is memory, or -1. */
  memIndex(): number {
    for (let i = 0; i < this.insn.operandCount; i++) if (this.kind(i) === Kind.Mem) return i;
    return -1;
  }

  // --- operands ------------------------------------------------------------------------------------------------------
  /** Reads integer operand `i` at its own size (or the one given). Loads may fault and leave. The value is a temporary. */
  read(i: number, size: number = this.sizeOf(i)): Node {
    switch (this.kind(i)) {
      case Kind.Gpr:
      case Kind.GprHigh:
        return this.f.tmp(this.readReg(i, size));
      case Kind.Mem:
        return this.load(this.ea(), size);
      case Kind.Imm:
      case Kind.Const:
      case Kind.Rel:
        return size === 8 ? this.imm64() : (NUM[size] as Num).trunc(this.imm32());
      default:
        throw new Error(`read of operand kind ${this.kind(i)}`);
    }
  }
  /** Writes integer operand `i`. Stores may fault and leave: write memory before registers and flags. */
  write(i: number, v: Node, size: number = this.sizeOf(i)): void {
    if (this.kind(i) === Kind.Mem) this.store(this.ea(), size, v);
    else this.writeReg(i, size, v);
  }
  /** Whether the instruction's change of memory must be atomic for other vCPUs. XCHG is without a prefix. */
  get locked(): boolean {
    return this.env.shared && this.memIndex() >= 0 && (this.insn.lock !== 0 || this.insn.op === OP.XCHG);
  }
  /** What is compared and exchanged, and where to begin again when somebody else was quicker. */
  private lockedOld: Node | null = null;
  private lockedAgain: Label | null = null;
  /**
   * {@link rmwRead} of a locked instruction: what follows up to {@link rmwWrite} is repeated until nobody has changed the
   * operand in between. It must have no effects besides temporaries.
   */
  private lockedRead(size: number): Node {
    const f = this.f;
    const ea = this.ea();
    const ptr = f.temp(I32);
    const e = this.tlbEntry(ea);
    f.if(
      i32.and(
        i64.eq(ld.i64(e, 8), i64.and(ea, c64(-4096))),
        size === 1 ? c32(1) : i32.eqz(i32.and(i32.wrap(ea), c32(size - 1))),
      ),
      () => f.set(ptr, i32.add(i32.wrap(ea), ld.i32(e, 24))),
      () => {
        this.sync();
        f.set(ptr, call(this.env.mem.lockMiss, this.base, ea, c32(size)));
        this.checkFault();
      },
    );
    this.rmwPtr = ptr;
    this.lockedAgain = f.open('loop');
    this.lockedOld = f.tmp(this.loadHost(ptr.get, size));
    return this.lockedOld;
  }
  private lockedWrite(v: Node, size: number): void {
    const f = this.f;
    const n = NUM[size] as Num;
    const old = this.lockedOld as Node;
    f.brIf(this.lockedAgain as Label, n.ne(cmpxchg(size, (this.rmwPtr as Local).get, old, n.trunc(v)), old));
    f.close();
    this.lockedAgain = null;
  }
  /** Reads operand `i` for modification; follow with {@link rmwWrite}. */
  rmwRead(i: number, size: number = this.sizeOf(i)): Node {
    if (this.kind(i) !== Kind.Mem) return this.read(i, size);
    if (this.locked) return this.lockedRead(size);
    const f = this.f;
    const ptr = f.temp(I32);
    this.access(
      this.ea(),
      size,
      true,
      (p, offset) => f.set(ptr, offset === 0 ? p : i32.add(p, c32(offset))),
      (la, ways) => {
        f.set(ptr, call(ways.rmw, this.base, la, c32(size)));
        this.checkFault();
      },
    );
    this.rmwPtr = ptr;
    return f.tmp(this.loadHost(ptr.get, size));
  }
  /** Writes what {@link rmwRead} read. */
  rmwWrite(i: number, v: Node, size: number = this.sizeOf(i)): void {
    if (this.kind(i) !== Kind.Mem) {
      this.writeReg(i, size, v);
      return;
    }
    const f = this.f;
    if (this.lockedAgain !== null) this.lockedWrite(v, size);
    else this.storeHost((this.rmwPtr as Local).get, size, v);
    f.unlikely(ld.i32(this.base, S.RMW_SIZE), () => {
      f.do(call(this.env.mem.rmwCommit, this.base));
      this.checkFault();
      this.afterSlowStore();
    });
  }

  // --- general registers ---------------------------------------------------------------------------------------------
  /** Reads register `n` at a size. */
  gpr(n: number, size: number): Node {
    if (size === 8) return this.getGpr64(n);
    const v = this.getGpr32(n);
    return size === 4 ? v : (NUM[size] as Num).trunc(v);
  }
  /** Writes register `n`; 4 bytes clear the upper half, 1 and 2 keep the rest. */
  setGpr(n: number, size: number, v: Node): void {
    if (size === 8) this.setGpr64(n, v);
    else if (size === 4) this.setGpr64(n, i64.extend_u(v));
    else this.setGprLow(n, size as 1 | 2, v);
  }

  // --- memory by linear address --------------------------------------------------------------------------------------
  /** Address of the data TLB's entry for a linear address, an i32 temporary. */
  tlbEntry(la: Node): Node {
    return this.f.tmp(tlbSlot(la, ld.i32(this.base, S.TLB_DATA)));
  }
  protected tagOf(la: Node, size: number): Node {
    return i64.and(i64.add(la, c64(size - 1)), c64(-4096));
  }
  /** Loads from a host address and an offset. */
  loadHost(ptr: Node, size: number, offset = 0): Node {
    switch (size) {
      case 1:
        return ld.i32_8u(ptr, offset);
      case 2:
        return ld.i32_16u(ptr, offset);
      case 4:
        return ld.i32(ptr, offset);
      case 8:
        return ld.i64(ptr, offset);
      default:
        return ld.v128(ptr, offset);
    }
  }
  /** Stores to a host address and an offset. */
  storeHost(ptr: Node, size: number, v: Node, offset = 0): void {
    const f = this.f;
    switch (size) {
      case 1:
        f.st8(ptr, v, offset);
        return;
      case 2:
        f.st16(ptr, v, offset);
        return;
      case 4:
        f.st32(ptr, v, offset);
        return;
      case 8:
        f.st64(ptr, v, offset);
        return;
      default:
        f.stV(ptr, v, offset);
    }
  }
  /**
   * Accesses `size` bytes at a linear address: `hot` by a host address and an offset from it, or `cold` by the functions for
   * what the TLB does not say, given the address as an i64 temporary.
   */
  protected access(
    la: Node,
    size: number,
    write: boolean,
    hot: (ptr: Node, offset: number) => void,
    cold: (la: Node, ways: SlowWays) => void,
  ): void {
    const { mem } = this.env;
    const e = this.tlbEntry(la);
    this.f.likely(
      i64.eq(ld.i64(e, write ? 8 : 0), this.tagOf(la, size)),
      () => hot(i32.add(i32.wrap(la), ld.i32(e, 24)), 0),
      () => {
        this.sync();
        cold(la, { read: mem.readMiss, write: mem.writeMiss, rmw: mem.rmwMiss });
      },
    );
  }
  /** Loads 1, 2, 4, 8 or 16 bytes at a linear address (an i64 temporary, used several times). Leaves on a fault. */
  load(la: Node, size: number): Node {
    const f = this.f;
    const v = f.temp(size === 16 ? V128 : size === 8 ? I64 : I32);
    this.access(
      la,
      size,
      false,
      (p, offset) => f.set(v, this.loadHost(p, size, offset)),
      (at, ways) => {
        if (size === 16) this.loadVectorCold(at, v);
        else {
          const r = call(ways.read, this.base, at, c32(size));
          f.set(v, size === 8 ? r : i32.wrap(r));
          this.checkFault();
        }
      },
    );
    return v.settled;
  }
  /** Loads 16 bytes the slow way. */
  private loadVectorCold(la: Node, v: Local): void {
    this.f.set(v, call(this.env.fn('loadVector'), this.base, la));
    this.checkFault();
  }
  /** Stores likewise. `v` is evaluated once. */
  store(la: Node, size: number, v: Node): void {
    const f = this.f;
    const value = v.isConst ? v : f.tmp(v);
    this.access(
      la,
      size,
      true,
      (p, offset) => this.storeHost(p, size, value, offset),
      (at, ways) => {
        if (size === 16) this.storeVectorCold(at, value);
        else {
          const x = size === 8 ? value : i64.extend_u((NUM[size] as Num).trunc(value));
          f.do(call(ways.write, this.base, at, x, c32(size)));
          this.checkFault();
          this.afterSlowStore();
        }
      },
    );
  }
  /** Stores 16 bytes the slow way. */
  private storeVectorCold(la: Node, v: Node): void {
    this.f.do(call(this.env.fn('storeVector'), this.base, la, v));
    this.checkFault();
    this.afterSlowStore();
  }
  /** Stores, and then does what is left of the instruction. */
  protected storeThen(la: Node, size: number, v: Node, then: () => void): void {
    this.store(la, size, v);
    then();
  }
  /** Loads 32 bytes at a linear address (an i64 temporary) as two v128. Leaves on a fault. */
  loadPair(la: Node): [Node, Node] {
    const f = this.f;
    const lo = f.temp(V128);
    const hi = f.temp(V128);
    this.access(
      la,
      32,
      false,
      (ptr, offset) => {
        const p = f.tmp(ptr);
        f.set(lo, ld.v128(p, offset));
        f.set(hi, ld.v128(p, offset + 16));
      },
      (at) => {
        this.loadVectorCold(at, lo);
        this.loadVectorCold(i64.add(at, c64(16)), hi);
      },
    );
    return [lo.settled, hi.settled];
  }
  /** Stores 32 bytes likewise; both values must be temporaries. Nothing is stored if any of it faults. */
  storePair(la: Node, lo: Node, hi: Node): void {
    const f = this.f;
    this.access(
      la,
      32,
      true,
      (ptr, offset) => {
        const p = f.tmp(ptr);
        f.stV(p, lo, offset);
        f.stV(p, hi, offset + 16);
      },
      (at) => {
        // Nothing of the first half if the second one faults.
        this.f.do(call(this.env.mem.probe, this.base, at, c32(32), c32(S.ACC_WRITE)));
        this.checkFault();
        this.f.do(call(this.env.fn('storeVector'), this.base, at, lo));
        this.storeVectorCold(i64.add(at, c64(16)), hi);
      },
    );
  }
  /** Code for the cold path of a store, after it: a backend may look whether somebody wants attention. */
  protected afterSlowStore(): void {}
  /** Leaves if FAULT is set. */
  checkFault(): void {
    this.f.unlikely(ld.i32(this.base, S.FAULT), () => this.leaveFault());
  }
  /** Raises an exception and leaves. */
  raise(vector: number, code: Node = c32(0)): void {
    this.f.do(call(this.env.mem.raise, this.base, c32(vector), code));
    this.leaveFault();
  }

  // --- segments ------------------------------------------------------------------------------------------------------
  /** Linear address of `off` (i64, cut to address size) in segment `seg`, checked for `size` bytes. */
  linear(seg: number, off: Node, size: number, write: boolean): Node {
    const f = this.f;
    if (this.mode.bits === 64) {
      if (seg !== S.FS && seg !== S.GS) return off;
      return f.tmp(i64.add(off, ld.i64(this.base, S.SEG + seg * S.SEG_STRIDE)));
    }
    const fixed = this.mode.flat && (seg === S.FS || seg === S.GS);
    if (this.mode.flat && !fixed) return off;
    const at = S.SEG + seg * S.SEG_STRIDE;
    const checked = (): Node => call(this.env.segLinear, this.base, c32(at), off, c32(size), c32(write ? 1 : 0));
    if (!fixed) {
      this.sync();
      const la = f.tmp(checked());
      this.checkFault();
      return la;
    }
    // What systems keep there is data that may be written, without a limit: one comparison tells both.
    const la = f.temp(I64);
    f.set(la, i64.and(i64.add(off, ld.i64(this.base, at)), c64(0xffffffff)));
    const unlimited = i64.eq(i64.and(ld.i64(this.base, at + S.SEG_LIMIT), c64hl(PLAIN_MASK, -1)), c64hl(PLAIN, -1));
    f.unlikely(i32.eqz(unlimited), () => {
      this.sync();
      f.set(la, checked());
      this.checkFault();
    });
    return la.get;
  }

  // --- stack ---------------------------------------------------------------------------------------------------------
  /** Size of the stack pointer in bytes. */
  get stackSize(): number {
    return this.mode.bits === 64 ? 8 : this.mode.ss32 ? 4 : 2;
  }
  /** The stack pointer as i64. */
  sp(): Node {
    const s = this.stackSize;
    return s === 8 ? this.getGpr64(4) : i64.extend_u(this.gpr(4, s));
  }
  /** Cuts an i64 to stack size. */
  spCut(v: Node): Node {
    const s = this.stackSize;
    return s === 8 ? v : i64.and(v, c64(s === 4 ? 0xffffffff : 0xffff));
  }
  /** Writes the stack pointer from an i64, or what of it there is from an i32. */
  setSp(v: Node): void {
    const s = this.stackSize;
    if (s === 8) this.setGpr64(4, v);
    else this.setGpr(4, s, v.ty === I32 ? v : i32.wrap(v));
  }
  /** The stack pointer and a distance, cut to stack size: as it is set, and as an address. Temporaries. */
  private spAt(distance: number): { sp: Node; at: Node } {
    const f = this.f;
    if (this.stackSize === 4) {
      // 32-bit arithmetic needs no cutting.
      const sp = f.tmp(i32.add(this.gpr(4, 4), c32(distance)));
      return { sp, at: f.tmp(i64.extend_u(sp)) };
    }
    const sp = f.tmp(this.spCut(distance === 0 ? this.sp() : i64.add(this.sp(), c64(distance))));
    return { sp, at: sp };
  }
  /** Pushes a value of `size` bytes; the stack pointer changes only if the store succeeds. */
  push(size: number, v: Node): void {
    const f = this.f;
    const m = f.mark();
    const value = v.isConst ? v : f.tmp(v);
    const { sp, at } = this.spAt(-size);
    this.storeThen(this.linear(S.SS, at, size, true), size, value, () => this.setSp(sp));
    f.release(m);
  }
  /** Reads `size` bytes at SP + `offset` without popping. */
  peek(size: number, offset = 0): Node {
    return this.load(this.linear(S.SS, this.spAt(offset).at, size, false), size);
  }
  /** Adds to the stack pointer. */
  addSp(n: number): void {
    if (this.stackSize === 4) this.setGpr(4, 4, i32.add(this.gpr(4, 4), c32(n)));
    else this.setSp(this.spCut(i64.add(this.sp(), c64(n))));
  }

  // --- flags ---------------------------------------------------------------------------------------------------------
  private setResult(size: number, r: Node): void {
    const s = this.f.tmp((NUM[size] as Num).sext64(r));
    this.f.st64(this.base, s, S.FZ);
    this.f.st64(this.base, s, S.FR);
  }
  /** Stores the carry vector of a size, top-aligned in 32 bits. */
  private setCarries(size: number, cv: Node): void {
    this.f.st32(
      this.base,
      size === 8 ? i32.wrap(i64.shr_u(cv, c64(32))) : size === 4 ? cv : i32.shl(cv, c32(32 - size * 8)),
      S.FC,
    );
  }
  /**
   * Says that flags are about to change piece by piece, or under a condition (but see flagsWhen): a backend that keeps them
   * elsewhere brings them to memory now.
   */
  flagsInMemory(): void {}
  /** Flags change only if `cond`, an i32, is not 0: `write` writes them. */
  flagsWhen(cond: Node, write: () => void): void {
    this.f.if(cond, write);
  }
  /** Says that all arithmetic flags are about to be written piece by piece: what they were does not matter. */
  flagsReplaced(): void {}
  /** All flags of `r = a + b`, or with `carry` of `a + b + 1 or 0`. The nodes must be temporaries or constants. */
  flagsAdd(size: number, a: Node, b: Node, r: Node, _carry = false): void {
    const n = NUM[size] as Num;
    this.setResult(size, r);
    this.setCarries(size, n.or(n.and(a, b), n.and(n.or(a, b), n.not(r))));
    this.f.st32(this.base, i32.xor(n.to32(n.xor(a, b)), n.to32(r)), S.FX);
  }
  /** All flags of `r = a - b`, or with `borrow` of `a - b - 1 or 0`. */
  flagsSub(size: number, a: Node, b: Node, r: Node, _borrow = false): void {
    const n = NUM[size] as Num;
    this.setResult(size, r);
    // Borrow out of each bit: (~a & b) | (~(a ^ b) & r).
    this.setCarries(size, n.or(n.and(n.not(a), b), n.and(n.not(n.xor(a, b)), r)));
    this.f.st32(this.base, i32.xor(n.to32(n.xor(a, b)), n.to32(r)), S.FX);
  }
  /** Flags of a signed product `r`, cut to its size, of `a` and `b`: CF and OF tell whether it did not fit. AF is clear. */
  flagsImul(size: number, a: Node, b: Node, r: Node): void {
    const n = NUM[size] as Num;
    const over =
      size === 8
        ? i64.ne(call(this.env.fn('mulhiS'), a, b), i64.shr_s(r, c64(63)))
        : i64.ne(i64.mul(n.sext64(a), n.sext64(b)), n.sext64(r));
    const o = this.f.tmp(over);
    this.flagsReplaced();
    this.flagsSzp(size, r);
    this.setAf(c32(0));
    this.setCfOf(o, o);
  }
  /** Flags of AND, OR, XOR, TEST: CF = OF = 0; AF cleared (undefined). */
  flagsLogic(size: number, r: Node): void {
    this.setResult(size, r);
    this.f.st32(this.base, c32(0), S.FC);
    this.f.st32(this.base, c32(0), S.FX);
  }
  /** Flags of INC (`sub` false) and DEC: CF stays. */
  flagsIncDec(size: number, a: Node, r: Node, sub: boolean): void {
    const cf = this.f.tmp(this.cf());
    const one = (NUM[size] as Num).c(1);
    if (sub) this.flagsSub(size, a, one, r);
    else this.flagsAdd(size, a, one, r);
    this.setCfOf(cf, this.f.tmp(this.of()));
  }
  /** SF, ZF, PF of a result, given CF and OF (0 or 1), AF clear: shifts. */
  flagsShift(size: number, r: Node, cf: Node, of: Node): void {
    this.flagsSzp(size, r);
    this.setAf(c32(0));
    this.setCfOf(cf, of);
  }
  /** SF, ZF, PF of a result. */
  flagsSzp(size: number, r: Node): void {
    this.setResult(size, r);
  }
  /** All flags after a comparison of floats: `v` has CF in bit 0, ZF in bit 1, PF in bit 2; the others are clear. */
  flagsCompared(v: Node): void {
    const bit = (n: number): Node => i32.and(i32.shr_u(v, c32(n)), c32(1));
    this.flagsReplaced();
    // ZF is set when FZ is 0; PF when FR's low byte has an even number of ones, its sign is SF.
    this.f.st64(this.base, i64.extend_u(i32.xor(bit(1), c32(1))), S.FZ);
    this.f.st64(this.base, i64.extend_u(i32.xor(bit(2), c32(1))), S.FR);
    this.setCfOf(bit(0), c32(0));
    this.f.st32(this.base, c32(0), S.FX);
  }
  /** CF and OF from i32 values 0 or 1. */
  setCfOf(cf: Node, of: Node): void {
    const c = this.f.tmp(cf);
    this.f.st32(this.base, i32.or(i32.shl(c, c32(31)), i32.shl(i32.xor(c, of), c32(30))), S.FC);
  }
  /** CF alone. */
  setCf(cf: Node): void {
    const of = this.f.tmp(this.of());
    this.setCfOf(cf, of);
  }
  /** AF from 0 or 1. */
  setAf(af: Node): void {
    this.f.st32(this.base, i32.shl(af, c32(4)), S.FX);
  }
  /** ZF from 0 or 1; SF and PF stay. */
  setZf(zf: Node): void {
    this.f.st64(this.base, i64.extend_u(i32.xor(zf, c32(1))), S.FZ);
  }
  /** CF as 0 or 1. */
  cf(): Node {
    return i32.shr_u(ld.i32(this.base, S.FC), c32(31));
  }
  /** OF as 0 or 1. */
  of(): Node {
    const fc = ld.i32(this.base, S.FC);
    return i32.shr_u(i32.xor(fc, i32.shl(fc, c32(1))), c32(31));
  }
  /** Condition code 0–15 as an i32 truth value (not always 0 or 1). */
  cond(cc: number): Node {
    const b = this.base;
    const fc = ld.i32(b, S.FC);
    const neg = (v: Node): Node => i32.eqz(v);
    switch (cc >> 1) {
      case 0:
        return cc & 1
          ? i32.ge_s(i32.xor(fc, i32.shl(fc, c32(1))), c32(0))
          : i32.lt_s(i32.xor(fc, i32.shl(fc, c32(1))), c32(0));
      case 1:
        return cc & 1 ? i32.ge_s(fc, c32(0)) : i32.lt_s(fc, c32(0));
      case 2:
        return cc & 1 ? i64.ne(ld.i64(b, S.FZ), c64(0)) : i64.eqz(ld.i64(b, S.FZ));
      case 3: {
        const be = i32.or(i32.shr_u(fc, c32(31)), i64.eqz(ld.i64(b, S.FZ)));
        return cc & 1 ? neg(be) : be;
      }
      case 4:
        return cc & 1 ? i32.ge_s(ld.i32(b, S.FR + 4), c32(0)) : i32.lt_s(ld.i32(b, S.FR + 4), c32(0));
      case 5: {
        const odd = i32.and(i32.popcnt(ld.i32_8u(b, S.FR)), c32(1));
        return cc & 1 ? odd : neg(odd);
      }
      case 6: {
        const l = i32.xor(ld.i32(b, S.FR + 4), i32.xor(fc, i32.shl(fc, c32(1))));
        return cc & 1 ? i32.ge_s(l, c32(0)) : i32.lt_s(l, c32(0));
      }
      default: {
        const l = i32.xor(ld.i32(b, S.FR + 4), i32.xor(fc, i32.shl(fc, c32(1))));
        const le = i32.or(i32.shr_u(l, c32(31)), i64.eqz(ld.i64(b, S.FZ)));
        return cc & 1 ? neg(le) : le;
      }
    }
  }
  /** All of EFLAGS, as i32. */
  getFlags(): Node {
    return call(this.env.getFlags, this.base);
  }
  /** Writes all of EFLAGS. */
  setFlags(v: Node): void {
    this.f.do(call(this.env.setFlags, this.base, v));
  }

  // --- vectors -------------------------------------------------------------------------------------------------------
  // Registers XMM and YMM; a backend may keep them elsewhere than in state. MMX registers are always there.
  /** Low 16 bytes of register operand `i`. Not a temporary. */
  getX(i: number): Node {
    return ld.v128(this.regAddr(i));
  }
  /** Writes them. */
  setX(i: number, v: Node): void {
    this.f.stV(this.regAddr(i), v);
  }
  /** Writes XMM register `n` by number. */
  setXmm(n: number, v: Node): void {
    this.f.stV(this.base, v, S.XMM + 16 * n);
  }
  /** Bytes 16 to 31 of operand `i`. */
  getUpper(i: number): Node {
    return ld.v128(this.regAddr(i), S.YMMH - S.XMM);
  }
  /** Writes them. */
  setUpper(i: number, v: Node): void {
    this.f.stV(this.regAddr(i), v, S.YMMH - S.XMM);
    this.f.st32(this.base, c32(0), S.UPPERS_ZERO);
  }
  /** Clears bytes 16 to 31 of operand `i`. */
  clearUpper(i: number): void {
    this.f.stV(this.regAddr(i), cZeroV(), S.YMMH - S.XMM);
  }
  /** Clears bytes 16 to 31 of XMM register 0. */
  clearUpper0(): void {
    this.f.stV(this.base, cZeroV(), S.YMMH);
  }
  /** Clears bytes 16 to 31 of all registers that the mode has: eight outside 64-bit mode. */
  clearUppers(): void {
    const f = this.f;
    f.unlikely(i32.eqz(ld.i32(this.base, S.UPPERS_ZERO)), () =>
      f.if(
        is64Bit(this.base),
        () => this.clearUppersInState(16),
        () => this.clearUppersInState(8),
      ),
    );
  }
  /** Clears bytes 16 to 31 of the first `count` registers, 8 or 16, in state. */
  protected clearUppersInState(count: number): void {
    const f = this.f;
    for (let n = 0; n < count; n++) f.stV(this.base, cZeroV(), S.YMMH + 16 * n);
    const others = (): Node => simd(83, [orOfVectors(this.base, S.YMMH + 16 * count, 16 - count)], I32);
    f.st32(this.base, count === 16 ? c32(1) : i32.eqz(others()), S.UPPERS_ZERO);
  }
  /** 4 or 8 bytes from byte `at` (0 or 8) of operand `i`, an integer. */
  getXLow(i: number, size: number, at = 0): Node {
    return size === 4 ? ld.i32(this.regAddr(i), at) : ld.i64(this.regAddr(i), at);
  }
  /** Writes 4 or 8 bytes of operand `i`; the others stay. */
  setXLow(i: number, size: number, v: Node, at = 0): void {
    if (size === 4) this.f.st32(this.regAddr(i), v, at);
    else this.f.st64(this.regAddr(i), v, at);
  }
  /** The low 4 or 8 bytes as f32 or f64, with the same bits. */
  getXFloat(i: number, size: number): Node {
    return size === 4 ? ld.f32(this.regAddr(i)) : ld.f64(this.regAddr(i));
  }
  /** Writes them; the others stay. */
  setXFloat(i: number, size: number, v: Node): void {
    if (size === 4) this.f.stF32(this.regAddr(i), v);
    else this.f.stF64(this.regAddr(i), v);
  }
  /** Loads an f32 or f64 at a linear address as {@link load} does, with the same bits. */
  loadFloat(la: Node, size: number): Node {
    const f = this.f;
    const x = f.temp(size === 4 ? F32 : F64);
    this.access(
      la,
      size,
      false,
      (p, offset) => f.set(x, size === 4 ? ld.f32(p, offset) : ld.f64(p, offset)),
      (at, ways) => {
        const r = call(ways.read, this.base, at, c32(size));
        f.set(x, size === 4 ? f32.reinterpret(i32.wrap(r)) : f64.reinterpret(r));
        this.checkFault();
      },
    );
    return x.get;
  }

  /** Loads 4 or 8 bytes at a linear address as {@link load} does, into a vector whose other bytes are 0. */
  loadZero(la: Node, size: 4 | 8): Node {
    const f = this.f;
    const x = f.temp(V128);
    this.access(
      la,
      size,
      false,
      (p, offset) => f.set(x, size === 4 ? ld.v32_zero(p, offset) : ld.v64_zero(p, offset)),
      (at, ways) => {
        const r = call(ways.read, this.base, at, c32(size));
        f.set(x, simdLane(size === 4 ? 0x1c : 0x1e, 0, [cZeroV(), size === 4 ? i32.wrap(r) : r], V128));
        this.checkFault();
      },
    );
    return x.settled;
  }

  // What a backend may know of floating-point numbers.
  /** Whether the host's rounding is MXCSR's and inexact results change nothing, as i32. */
  fastFloat(): Node {
    // PE set and masked, rounding to nearest.
    return i32.eq(i32.and(ld.i32(this.base, S.MXCSR), c32(0x7020)), c32(0x1020));
  }
  /** MXCSR may have changed. */
  mxcsrChanged(): void {}
  /** Whether the low float of register operand `i` is known not to be denormal. */
  notDenormal(_i: number, _size: number): boolean {
    return false;
  }
  /** Says that it is not. */
  setNotDenormal(_i: number, _size: number): void {}
  /** Operand 0 was copied from operand `i`. */
  copied(_i: number): void {}
  /** Where the backend can leave between instructions: leaves after this one, which is done. */
  readonly leaveAfter: (() => void) | null = null;

  /** The element of 1, 2, 4 or 8 bytes at byte `at` of operand `i`, zero-extended. */
  getElement(i: number, size: number, at: Node): Node {
    return this.loadHost(i32.add(this.regAddr(i), at), size);
  }
  /** Writes it. */
  setElement(i: number, size: number, at: Node, v: Node): void {
    this.storeHost(i32.add(this.regAddr(i), at), size, v);
  }

  /** Reads operand `i` (Xmm, Mmx or Mem) as a v128; shorter operands are zero-extended. */
  readV(i: number, size: number = this.sizeOf(i)): Node {
    const f = this.f;
    if (this.kind(i) === Kind.Mem) {
      if (size === 16) return this.load(this.ea(), 16);
      if (size === 8 || size === 4) return this.loadZero(this.ea(), size);
      if (size === 2) return f.tmp(simdLane(0x1a, 0, [cZeroV(), this.load(this.ea(), 2)], V128));
      return f.tmp(simdLane(0x17, 0, [cZeroV(), this.load(this.ea(), 1)], V128));
    }
    if (size === 16) return f.tmp(this.getX(i));
    return f.tmp(this.getXZero(i, size));
  }
  /** The low 4 or 8 bytes of register operand `i`, zero-extended to a v128. */
  getXZero(i: number, size: number): Node {
    return size === 8 ? ld.v64_zero(this.regAddr(i)) : ld.v32_zero(this.regAddr(i));
  }
  /** Writes the low `size` bytes of operand `i` (Xmm, Mmx or Mem) from a v128, keeping a register's other bytes. */
  writeV(i: number, v: Node, size: number = this.sizeOf(i)): void {
    if (this.kind(i) === Kind.Mem) {
      if (size === 16) this.store(this.ea(), 16, v);
      else if (size === 8) this.store(this.ea(), 8, simdLane(0x1d, 0, [v], I64));
      else this.store(this.ea(), 4, simdLane(0x1b, 0, [v], I32));
      return;
    }
    if (size === 16) this.setX(i, v);
    else if (size === 8) this.setXLow(i, 8, simdLane(0x1d, 0, [v], I64));
    else this.setXLow(i, 4, simdLane(0x1b, 0, [v], I32));
  }
  /** Raises #GP(0) unless the memory operand is aligned to `n` bytes (legacy SSE). */
  requireAligned(n: number): void {
    if (this.memIndex() < 0) return;
    this.f.if(i32.and(i32.wrap(this.ea()), c32(n - 1)), () => this.raise(S.EXC_GP));
  }

  /** `cond ? a : b` on any type. */
  select(cond: Node, a: Node, b: Node): Node {
    return select(cond, a, b);
  }
}

function cZeroV(): Node {
  return simd(0x11, [c32(0)]);
}

/** Describes one instruction. */
export type Semantic = (c: SemCtx) => void;
