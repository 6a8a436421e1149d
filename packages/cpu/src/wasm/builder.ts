// A WebAssembly module writer: expressions are small trees, statements go straight into a byte buffer.
// WebAssembly Core Specification 2.0 with threads, tail calls and fixed-width SIMD.

/** A value type as its binary code. */
export type Ty = 0x7f | 0x7e | 0x7d | 0x7c | 0x7b;
/** 32-bit integer. */
export const I32 = 0x7f;
/** 64-bit integer. */
export const I64 = 0x7e;
/** 32-bit float. */
export const F32 = 0x7d;
/** 64-bit float. */
export const F64 = 0x7c;
/** 128-bit vector. */
export const V128 = 0x7b;

const K_CONST = 0;
const K_LOCAL = 1;
const K_OP = 2;
const K_LOAD = 3;
const K_CALL = 4;
const K_SELECT = 5;
const K_TEE = 6;
const K_LANE = 7;
const K_VCONST = 8;
const K_SHUFFLE = 9;
const K_ATOMIC = 10;
const K_CALLIND = 11;
const K_FCONST = 12;
/** In `lo` of a K_LOCAL: see {@link Local.settled}. */
const SETTLED = 1;

/** One expression. Trees are built by the functions below and written out when a statement uses them. */
export class Node {
  readonly kind: number;
  readonly ty: Ty | 0;
  /** Opcode (0xFDxx for SIMD, 0xFExx for atomics), local or function index, by kind. */
  readonly op: number;
  readonly a: Node | null;
  readonly b: Node | null;
  readonly c: Node | null;
  /** Constant low half, load offset or lane. */
  readonly lo: number;
  /** Constant high half, or alignment exponent. */
  readonly hi: number;
  readonly args: readonly Node[] | null;
  constructor(
    kind: number,
    ty: Ty | 0,
    op: number,
    a: Node | null,
    b: Node | null,
    c: Node | null,
    lo: number,
    hi: number,
    args: readonly Node[] | null,
  ) {
    this.kind = kind;
    this.ty = ty;
    this.op = op;
    this.a = a;
    this.b = b;
    this.c = c;
    this.lo = lo;
    this.hi = hi;
    this.args = args;
  }
  /** Whether this is an integer constant. */
  get isConst(): boolean {
    return this.kind === K_CONST;
  }
}

const op1 = (ty: Ty, op: number, a: Node): Node => new Node(K_OP, ty, op, a, null, null, 0, 0, null);
const op2 = (ty: Ty, op: number, a: Node, b: Node): Node => new Node(K_OP, ty, op, a, b, null, 0, 0, null);
const op3 = (ty: Ty, op: number, a: Node, b: Node, c: Node): Node => new Node(K_OP, ty, op, a, b, c, 0, 0, null);
const zero32 = (n: Node): boolean => n.kind === K_CONST && n.lo === 0 && n.hi === 0;

/** i32 constant; any number, taken modulo 2^32. */
export function c32(v: number): Node {
  return new Node(K_CONST, I32, 0, null, null, null, v | 0, 0, null);
}
/** i64 constant from an integer between -2^53 and 2^53. */
export function c64(v: number): Node {
  return new Node(K_CONST, I64, 0, null, null, null, v | 0, Math.floor(v / 0x1_0000_0000) | 0, null);
}
/** i64 constant from halves. */
export function c64hl(hi: number, lo: number): Node {
  return new Node(K_CONST, I64, 0, null, null, null, lo | 0, hi | 0, null);
}
/** f64 constant given by its bits. */
export function cF64(hi: number, lo: number): Node {
  return new Node(K_FCONST, F64, 0x44, null, null, null, lo | 0, hi | 0, null);
}
/** f32 constant given by its bits. */
export function cF32(bits: number): Node {
  return new Node(K_FCONST, F32, 0x43, null, null, null, bits | 0, 0, null);
}
/** v128 constant from four 32-bit words, lowest first. */
export function cV128(w0: number, w1: number, w2: number, w3: number): Node {
  return new Node(K_VCONST, V128, 0, null, null, null, 0, 0, [c32(w0), c32(w1), c32(w2), c32(w3)]);
}
/** `cond != 0 ? a : b`; both sides are evaluated. */
export function select(cond: Node, a: Node, b: Node): Node {
  if (cond.isConst) return cond.lo !== 0 ? a : b;
  return new Node(K_SELECT, a.ty, 0, a, b, cond, 0, 0, null);
}
/** Calls function `fn` (a {@link FnRef}) for its one result. */
export function call(fn: FnRef, ...args: Node[]): Node {
  return new Node(K_CALL, fn.result, fn.index, null, null, null, 0, 0, args);
}

type Bin = (a: Node, b: Node) => Node;
type Un = (a: Node) => Node;

/** Operations on i32 nodes. */
export const i32 = {
  eqz: ((a) => op1(I32, 0x45, a)) as Un,
  eq: ((a, b) => op2(I32, 0x46, a, b)) as Bin,
  ne: ((a, b) => op2(I32, 0x47, a, b)) as Bin,
  lt_s: ((a, b) => op2(I32, 0x48, a, b)) as Bin,
  lt_u: ((a, b) => op2(I32, 0x49, a, b)) as Bin,
  gt_s: ((a, b) => op2(I32, 0x4a, a, b)) as Bin,
  gt_u: ((a, b) => op2(I32, 0x4b, a, b)) as Bin,
  le_s: ((a, b) => op2(I32, 0x4c, a, b)) as Bin,
  le_u: ((a, b) => op2(I32, 0x4d, a, b)) as Bin,
  ge_s: ((a, b) => op2(I32, 0x4e, a, b)) as Bin,
  ge_u: ((a, b) => op2(I32, 0x4f, a, b)) as Bin,
  clz: ((a) => op1(I32, 0x67, a)) as Un,
  ctz: ((a) => op1(I32, 0x68, a)) as Un,
  popcnt: ((a) => op1(I32, 0x69, a)) as Un,
  add: ((a, b) =>
    zero32(b) ? a : zero32(a) ? b : a.isConst && b.isConst ? c32(a.lo + b.lo) : op2(I32, 0x6a, a, b)) as Bin,
  sub: ((a, b) => (zero32(b) ? a : a.isConst && b.isConst ? c32(a.lo - b.lo) : op2(I32, 0x6b, a, b))) as Bin,
  mul: ((a, b) => op2(I32, 0x6c, a, b)) as Bin,
  div_s: ((a, b) => op2(I32, 0x6d, a, b)) as Bin,
  div_u: ((a, b) => op2(I32, 0x6e, a, b)) as Bin,
  rem_s: ((a, b) => op2(I32, 0x6f, a, b)) as Bin,
  rem_u: ((a, b) => op2(I32, 0x70, a, b)) as Bin,
  and: ((a, b) => (a.isConst && b.isConst ? c32(a.lo & b.lo) : op2(I32, 0x71, a, b))) as Bin,
  or: ((a, b) => (zero32(b) ? a : zero32(a) ? b : op2(I32, 0x72, a, b))) as Bin,
  xor: ((a, b) => (zero32(b) ? a : op2(I32, 0x73, a, b))) as Bin,
  shl: ((a, b) => (zero32(b) ? a : a.isConst && b.isConst ? c32(a.lo << b.lo) : op2(I32, 0x74, a, b))) as Bin,
  shr_s: ((a, b) => (zero32(b) ? a : op2(I32, 0x75, a, b))) as Bin,
  shr_u: ((a, b) => (zero32(b) ? a : a.isConst && b.isConst ? c32(a.lo >>> b.lo) : op2(I32, 0x76, a, b))) as Bin,
  rotl: ((a, b) => op2(I32, 0x77, a, b)) as Bin,
  rotr: ((a, b) => op2(I32, 0x78, a, b)) as Bin,
  /** Low half of an i64. */
  wrap: ((a) => (a.isConst ? c32(a.lo) : op1(I32, 0xa7, a))) as Un,
  extend8_s: ((a) => op1(I32, 0xc0, a)) as Un,
  extend16_s: ((a) => op1(I32, 0xc1, a)) as Un,
  /** Bits of an f32. */
  reinterpret: ((a) => op1(I32, 0xbc, a)) as Un,
  trunc_sat_f64_s: ((a) => op1(I32, 0xfc02, a)) as Un,
  trunc_sat_f64_u: ((a) => op1(I32, 0xfc03, a)) as Un,
};

/** Operations on i64 nodes. */
export const i64 = {
  eqz: ((a) => op1(I32, 0x50, a)) as Un,
  eq: ((a, b) => op2(I32, 0x51, a, b)) as Bin,
  ne: ((a, b) => op2(I32, 0x52, a, b)) as Bin,
  lt_s: ((a, b) => op2(I32, 0x53, a, b)) as Bin,
  lt_u: ((a, b) => op2(I32, 0x54, a, b)) as Bin,
  gt_s: ((a, b) => op2(I32, 0x55, a, b)) as Bin,
  gt_u: ((a, b) => op2(I32, 0x56, a, b)) as Bin,
  le_s: ((a, b) => op2(I32, 0x57, a, b)) as Bin,
  le_u: ((a, b) => op2(I32, 0x58, a, b)) as Bin,
  ge_s: ((a, b) => op2(I32, 0x59, a, b)) as Bin,
  ge_u: ((a, b) => op2(I32, 0x5a, a, b)) as Bin,
  clz: ((a) => op1(I64, 0x79, a)) as Un,
  ctz: ((a) => op1(I64, 0x7a, a)) as Un,
  popcnt: ((a) => op1(I64, 0x7b, a)) as Un,
  add: ((a, b) => (zero32(b) ? a : zero32(a) ? b : op2(I64, 0x7c, a, b))) as Bin,
  sub: ((a, b) => (zero32(b) ? a : op2(I64, 0x7d, a, b))) as Bin,
  mul: ((a, b) => op2(I64, 0x7e, a, b)) as Bin,
  div_s: ((a, b) => op2(I64, 0x7f, a, b)) as Bin,
  div_u: ((a, b) => op2(I64, 0x80, a, b)) as Bin,
  rem_s: ((a, b) => op2(I64, 0x81, a, b)) as Bin,
  rem_u: ((a, b) => op2(I64, 0x82, a, b)) as Bin,
  and: ((a, b) => (a.isConst && b.isConst ? c64hl(a.hi & b.hi, a.lo & b.lo) : op2(I64, 0x83, a, b))) as Bin,
  or: ((a, b) => (zero32(b) ? a : zero32(a) ? b : op2(I64, 0x84, a, b))) as Bin,
  xor: ((a, b) => (zero32(b) ? a : op2(I64, 0x85, a, b))) as Bin,
  shl: ((a, b) => (zero32(b) || zero32(a) ? a : op2(I64, 0x86, a, b))) as Bin,
  shr_s: ((a, b) => (zero32(b) ? a : op2(I64, 0x87, a, b))) as Bin,
  shr_u: ((a, b) => (zero32(b) ? a : op2(I64, 0x88, a, b))) as Bin,
  rotl: ((a, b) => op2(I64, 0x89, a, b)) as Bin,
  rotr: ((a, b) => op2(I64, 0x8a, a, b)) as Bin,
  extend_s: ((a) => (a.isConst ? c64hl(a.lo >> 31, a.lo) : op1(I64, 0xac, a))) as Un,
  extend_u: ((a) => (a.isConst ? c64hl(0, a.lo) : op1(I64, 0xad, a))) as Un,
  extend8_s: ((a) => op1(I64, 0xc2, a)) as Un,
  extend16_s: ((a) => op1(I64, 0xc3, a)) as Un,
  extend32_s: ((a) => op1(I64, 0xc4, a)) as Un,
  /** Bits of an f64. */
  reinterpret: ((a) => op1(I64, 0xbd, a)) as Un,
  trunc_sat_f64_s: ((a) => op1(I64, 0xfc06, a)) as Un,
  trunc_sat_f64_u: ((a) => op1(I64, 0xfc07, a)) as Un,
  trunc_sat_f32_s: ((a) => op1(I64, 0xfc04, a)) as Un,
};

/** Operations on f64 nodes. */
export const f64 = {
  eq: ((a, b) => op2(I32, 0x61, a, b)) as Bin,
  ne: ((a, b) => op2(I32, 0x62, a, b)) as Bin,
  lt: ((a, b) => op2(I32, 0x63, a, b)) as Bin,
  gt: ((a, b) => op2(I32, 0x64, a, b)) as Bin,
  le: ((a, b) => op2(I32, 0x65, a, b)) as Bin,
  ge: ((a, b) => op2(I32, 0x66, a, b)) as Bin,
  abs: ((a) => op1(F64, 0x99, a)) as Un,
  neg: ((a) => op1(F64, 0x9a, a)) as Un,
  ceil: ((a) => op1(F64, 0x9b, a)) as Un,
  floor: ((a) => op1(F64, 0x9c, a)) as Un,
  trunc: ((a) => op1(F64, 0x9d, a)) as Un,
  nearest: ((a) => op1(F64, 0x9e, a)) as Un,
  sqrt: ((a) => op1(F64, 0x9f, a)) as Un,
  add: ((a, b) => op2(F64, 0xa0, a, b)) as Bin,
  sub: ((a, b) => op2(F64, 0xa1, a, b)) as Bin,
  mul: ((a, b) => op2(F64, 0xa2, a, b)) as Bin,
  div: ((a, b) => op2(F64, 0xa3, a, b)) as Bin,
  copysign: ((a, b) => op2(F64, 0xa6, a, b)) as Bin,
  convert_i32_s: ((a) => op1(F64, 0xb7, a)) as Un,
  convert_i32_u: ((a) => op1(F64, 0xb8, a)) as Un,
  convert_i64_s: ((a) => op1(F64, 0xb9, a)) as Un,
  convert_i64_u: ((a) => op1(F64, 0xba, a)) as Un,
  promote: ((a) => op1(F64, 0xbb, a)) as Un,
  /** The f64 with these bits. */
  reinterpret: ((a) => op1(F64, 0xbf, a)) as Un,
};

/** Operations on f32 nodes. */
export const f32 = {
  eq: ((a, b) => op2(I32, 0x5b, a, b)) as Bin,
  ne: ((a, b) => op2(I32, 0x5c, a, b)) as Bin,
  lt: ((a, b) => op2(I32, 0x5d, a, b)) as Bin,
  gt: ((a, b) => op2(I32, 0x5e, a, b)) as Bin,
  le: ((a, b) => op2(I32, 0x5f, a, b)) as Bin,
  ge: ((a, b) => op2(I32, 0x60, a, b)) as Bin,
  abs: ((a) => op1(F32, 0x8b, a)) as Un,
  neg: ((a) => op1(F32, 0x8c, a)) as Un,
  ceil: ((a) => op1(F32, 0x8d, a)) as Un,
  floor: ((a) => op1(F32, 0x8e, a)) as Un,
  trunc: ((a) => op1(F32, 0x8f, a)) as Un,
  nearest: ((a) => op1(F32, 0x90, a)) as Un,
  sqrt: ((a) => op1(F32, 0x91, a)) as Un,
  add: ((a, b) => op2(F32, 0x92, a, b)) as Bin,
  sub: ((a, b) => op2(F32, 0x93, a, b)) as Bin,
  mul: ((a, b) => op2(F32, 0x94, a, b)) as Bin,
  div: ((a, b) => op2(F32, 0x95, a, b)) as Bin,
  convert_i32_s: ((a) => op1(F32, 0xb2, a)) as Un,
  convert_i64_s: ((a) => op1(F32, 0xb4, a)) as Un,
  demote: ((a) => op1(F32, 0xb6, a)) as Un,
  /** The f32 with these bits. */
  reinterpret: ((a) => op1(F32, 0xbe, a)) as Un,
};

/** A SIMD operation by its opcode after 0xFD: all operands on the stack, result `ty` (default v128). */
export function simd(op: number, args: readonly Node[], ty: Ty = V128): Node {
  const [a, b, c] = args;
  if (c !== undefined && b !== undefined && a !== undefined)
    return op3(ty, 0xfd00 | (0x10000 * (op >> 8)) | (op & 0xff), a, b, c);
  if (b !== undefined && a !== undefined) return op2(ty, 0xfd00 | (0x10000 * (op >> 8)) | (op & 0xff), a, b);
  return op1(ty, 0xfd00 | (0x10000 * (op >> 8)) | (op & 0xff), a as Node);
}
/** A SIMD operation with a lane immediate (extract_lane, replace_lane). */
export function simdLane(op: number, lane: number, args: readonly Node[], ty: Ty): Node {
  return new Node(K_LANE, ty, op, args[0] ?? null, args[1] ?? null, null, lane, 0, null);
}
/** i8x16.shuffle with 16 lane numbers 0–31. */
export function shuffle(a: Node, b: Node, lanes: readonly number[]): Node {
  return new Node(K_SHUFFLE, V128, 0, a, b, null, 0, 0, lanes.map(c32));
}

/** A load from `addr + offset`. Alignment hints are 0 except for atomics. */
function load(op: number, ty: Ty, addr: Node, offset: number): Node {
  return new Node(K_LOAD, ty, op, addr, null, null, offset, 0, null);
}
type Ld = (addr: Node, offset?: number) => Node;
/** Loads. The address is an i32 node, the offset an unsigned constant. */
export const ld = {
  i32: ((a, o = 0) => load(0x28, I32, a, o)) as Ld,
  i64: ((a, o = 0) => load(0x29, I64, a, o)) as Ld,
  f32: ((a, o = 0) => load(0x2a, F32, a, o)) as Ld,
  f64: ((a, o = 0) => load(0x2b, F64, a, o)) as Ld,
  i32_8s: ((a, o = 0) => load(0x2c, I32, a, o)) as Ld,
  i32_8u: ((a, o = 0) => load(0x2d, I32, a, o)) as Ld,
  i32_16s: ((a, o = 0) => load(0x2e, I32, a, o)) as Ld,
  i32_16u: ((a, o = 0) => load(0x2f, I32, a, o)) as Ld,
  i64_8s: ((a, o = 0) => load(0x30, I64, a, o)) as Ld,
  i64_8u: ((a, o = 0) => load(0x31, I64, a, o)) as Ld,
  i64_16s: ((a, o = 0) => load(0x32, I64, a, o)) as Ld,
  i64_16u: ((a, o = 0) => load(0x33, I64, a, o)) as Ld,
  i64_32s: ((a, o = 0) => load(0x34, I64, a, o)) as Ld,
  i64_32u: ((a, o = 0) => load(0x35, I64, a, o)) as Ld,
  v128: ((a, o = 0) => load(0xfd00, V128, a, o)) as Ld,
  v32_zero: ((a, o = 0) => load(0xfd5c, V128, a, o)) as Ld,
  v64_zero: ((a, o = 0) => load(0xfd5d, V128, a, o)) as Ld,
};

/** Atomic load or read-modify-write by opcode after 0xFE; `size` in bytes gives the (natural) alignment. */
export function atomic(op: number, size: number, ty: Ty, addr: Node, offset: number, ...args: Node[]): Node {
  return new Node(K_ATOMIC, ty, op, addr, null, null, offset, Math.log2(size), args);
}

const CMPXCHG: Readonly<Record<number, number>> = { 1: 0x4a, 2: 0x4b, 4: 0x48, 8: 0x49 };
/**
 * Atomic compare-and-exchange of 1, 2, 4 (i32, zero-extended) or 8 bytes (i64) at a naturally aligned address: gives what
 * was there, and stores `next` if that was `old`.
 */
export function cmpxchg(size: number, addr: Node, old: Node, next: Node): Node {
  return atomic(CMPXCHG[size] as number, size, size === 8 ? I64 : I32, addr, 0, old, next);
}

/** A reference to a function of the module under construction. */
export interface FnRef {
  /** Function index. */
  readonly index: number;
  /** Result type, or 0 for none. */
  readonly result: Ty | 0;
  /** Type index. */
  readonly type: number;
}

/** A local variable; use it as an expression through {@link Local.get}. */
export class Local {
  readonly index: number;
  readonly ty: Ty;
  /** Reads the variable. */
  readonly get: Node;
  /** As {@link Local.get} of a variable that is not set again while the node is in use: {@link Fn.tmp} need not copy it. */
  readonly settled: Node;
  constructor(index: number, ty: Ty) {
    this.index = index;
    this.ty = ty;
    this.get = new Node(K_LOCAL, ty, index, null, null, null, 0, 0, null);
    this.settled = new Node(K_LOCAL, ty, index, null, null, null, SETTLED, 0, null);
  }
  /** Sets the variable and gives the value. */
  tee(v: Node): Node {
    return new Node(K_TEE, this.ty, this.index, v, null, null, 0, 0, null);
  }
}

/** A branch target. */
export interface Label {
  /** Nesting depth at which its block was opened. */
  readonly depth: number;
}

const utf8 = new TextEncoder();

/** A growing byte buffer with LEB128. */
export class Bytes {
  buf: Uint8Array;
  len = 0;
  constructor(size = 1024) {
    this.buf = new Uint8Array(size);
  }
  private grow(n: number): void {
    const bigger = new Uint8Array(Math.max(this.buf.length * 2, this.len + n + 1024));
    bigger.set(this.buf.subarray(0, this.len));
    this.buf = bigger;
  }
  u8(v: number): void {
    if (this.len + 16 > this.buf.length) this.grow(16);
    this.buf[this.len++] = v;
  }
  u32(value: number): void {
    let v = value >>> 0;
    if (this.len + 16 > this.buf.length) this.grow(16);
    while (v >= 0x80) {
      this.buf[this.len++] = (v & 0x7f) | 0x80;
      v >>>= 7;
    }
    this.buf[this.len++] = v;
  }
  s32(value: number): void {
    let v = value | 0;
    if (this.len + 16 > this.buf.length) this.grow(16);
    for (;;) {
      const b = v & 0x7f;
      v >>= 7;
      if ((v === 0 && (b & 0x40) === 0) || (v === -1 && (b & 0x40) !== 0)) {
        this.buf[this.len++] = b;
        return;
      }
      this.buf[this.len++] = b | 0x80;
    }
  }
  s64(lowHalf: number, highHalf: number): void {
    let lo = lowHalf | 0;
    let hi = highHalf | 0;
    if (hi === lo >> 31) {
      this.s32(lo);
      return;
    }
    if (this.len + 16 > this.buf.length) this.grow(16);
    for (;;) {
      const b = lo & 0x7f;
      lo = (lo >>> 7) | (hi << 25);
      hi >>= 7;
      if ((lo === 0 && hi === 0 && (b & 0x40) === 0) || (lo === -1 && hi === -1 && (b & 0x40) !== 0)) {
        this.buf[this.len++] = b;
        return;
      }
      this.buf[this.len++] = b | 0x80;
    }
  }
  bytes(src: Uint8Array, n: number = src.length): void {
    if (this.len + n + 16 > this.buf.length) this.grow(n + 16);
    this.buf.set(n === src.length ? src : src.subarray(0, n), this.len);
    this.len += n;
  }
  str(s: string): void {
    const e = utf8.encode(s);
    this.u32(e.length);
    this.bytes(e);
  }
}

/** Writes one function's body. */
export class Fn {
  readonly ref: FnRef;
  /** The parameters, in order. */
  readonly params: readonly Local[];
  /** @internal */
  readonly code: Bytes = new Bytes();
  /** @internal Types of the locals after the parameters. */
  readonly extra: Ty[] = [];
  depth = 0;
  private readonly free: Map<Ty, Local[]> = new Map();
  private readonly inUse: Local[] = [];
  /** The last local.set: where it starts and ends, and what it sets. */
  private setStart = 0;
  private setEnd = -1;
  private setIndex = 0;

  /** @internal */
  constructor(ref: FnRef, params: readonly Ty[]) {
    this.ref = ref;
    this.params = params.map((t, i) => new Local(i, t));
  }

  /** A new variable for the whole function, zero at entry. */
  local(ty: Ty): Local {
    const l = new Local(this.params.length + this.extra.length, ty);
    this.extra.push(ty);
    return l;
  }

  /** A variable that {@link Fn.release} gives back. Not zeroed. */
  temp(ty: Ty): Local {
    const l = this.free.get(ty)?.pop() ?? this.local(ty);
    this.inUse.push(l);
    return l;
  }

  /** Stores a value in a temporary and reads it from there: for values used more than once. */
  tmp(v: Node): Node {
    if (v.kind === K_CONST || (v.kind === K_LOCAL && v.lo === SETTLED)) return v;
    const l = this.temp(v.ty as Ty);
    this.set(l, v);
    return l.settled;
  }

  /** How many temporaries are taken; pass to {@link Fn.release}. */
  mark(): number {
    return this.inUse.length;
  }

  /** Gives back the temporaries taken since `mark`. */
  release(mark: number): void {
    while (this.inUse.length > mark) {
      const l = this.inUse.pop() as Local;
      const list = this.free.get(l.ty);
      if (list === undefined) this.free.set(l.ty, [l]);
      else list.push(l);
    }
  }

  /** Writes an expression. */
  emit(n: Node): void {
    const w = this.code;
    switch (n.kind) {
      case K_CONST:
        if (n.ty === I32) {
          w.u8(0x41);
          w.s32(n.lo);
        } else {
          w.u8(0x42);
          w.s64(n.lo, n.hi);
        }
        return;
      case K_FCONST:
        w.u8(n.op);
        for (let s = 0; s < 32; s += 8) w.u8((n.lo >>> s) & 0xff);
        if (n.ty === F64) for (let s = 0; s < 32; s += 8) w.u8((n.hi >>> s) & 0xff);
        return;
      case K_LOCAL:
        if (w.len === this.setEnd && n.op === this.setIndex) {
          // Set and read at once: local.tee.
          w.buf[this.setStart] = 0x22;
          this.setEnd = -1;
          return;
        }
        w.u8(0x20);
        w.u32(n.op);
        return;
      case K_OP:
        if (n.a !== null) this.emit(n.a);
        if (n.b !== null) this.emit(n.b);
        if (n.c !== null) this.emit(n.c);
        this.opcode(n.op);
        return;
      case K_LOAD:
        this.emit(n.a as Node);
        this.opcode(n.op);
        w.u32(0);
        w.u32(n.lo);
        return;
      case K_CALL:
        for (const a of n.args as readonly Node[]) this.emit(a);
        w.u8(0x10);
        w.u32(n.op);
        return;
      case K_SELECT:
        this.emit(n.a as Node);
        this.emit(n.b as Node);
        this.emit(n.c as Node);
        if (n.ty === V128) {
          w.u8(0x1c);
          w.u8(1);
          w.u8(V128);
        } else w.u8(0x1b);
        return;
      case K_TEE:
        this.emit(n.a as Node);
        w.u8(0x22);
        w.u32(n.op);
        return;
      case K_LANE:
        this.emit(n.a as Node);
        if (n.b !== null) this.emit(n.b);
        w.u8(0xfd);
        w.u32(n.op);
        w.u8(n.lo);
        return;
      case K_VCONST:
        w.u8(0xfd);
        w.u8(12);
        for (const x of n.args as readonly Node[]) for (let s = 0; s < 32; s += 8) w.u8((x.lo >>> s) & 0xff);
        return;
      case K_SHUFFLE:
        this.emit(n.a as Node);
        this.emit(n.b as Node);
        w.u8(0xfd);
        w.u8(13);
        for (const x of n.args as readonly Node[]) w.u8(x.lo);
        return;
      case K_ATOMIC:
        this.emit(n.a as Node);
        for (const a of n.args as readonly Node[]) this.emit(a);
        w.u8(0xfe);
        w.u32(n.op);
        w.u32(n.hi);
        w.u32(n.lo);
        return;
      case K_CALLIND:
        for (const a of n.args as readonly Node[]) this.emit(a);
        this.emit(n.a as Node);
        w.u8(0x11);
        w.u32(n.op);
        w.u32(0);
        return;
    }
  }

  private opcode(op: number): void {
    const w = this.code;
    if (op < 0x100) w.u8(op);
    else {
      w.u8((op >> 8) & 0xff);
      w.u32((op & 0xff) | ((op >> 16) << 8));
    }
  }

  /** `local = v` */
  set(l: Local, v: Node): void {
    this.emit(v);
    this.setStart = this.code.len;
    this.setIndex = l.index;
    this.code.u8(0x21);
    this.code.u32(l.index);
    this.setEnd = this.code.len;
  }

  /** Evaluates for effect, dropping a result if there is one. */
  do(n: Node): void {
    this.emit(n);
    if (n.ty !== 0) this.code.u8(0x1a);
  }

  private st(op: number, addr: Node, v: Node, offset: number): void {
    this.emit(addr);
    this.emit(v);
    this.opcode(op);
    this.code.u32(0);
    this.code.u32(offset);
  }
  /** Code written before everything else, kept apart so that it can be made last. */
  prepend(other: Fn): void {
    const body = this.code.buf.slice(0, this.code.len);
    this.code.len = 0;
    this.code.bytes(other.code.buf, other.code.len);
    this.code.bytes(body);
    for (let i = 0; i < this.hints.length; i += 2) this.hints[i] = (this.hints[i] as number) + other.code.len;
    this.hints.unshift(...other.hints);
  }

  /** @internal Offsets in `code` of branches with a known bias, each followed by 1 (likely taken) or 0. */
  readonly hints: number[] = [];

  /** As {@link Fn.if} where `then` hardly ever runs: its code is kept out of the way. */
  unlikely(cond: Node, then: () => void, otherwise?: () => void): void {
    this.branchIf(cond, then, otherwise, 0);
  }

  /** As {@link Fn.if} where `otherwise` hardly ever runs. */
  likely(cond: Node, then: () => void, otherwise?: () => void): void {
    this.branchIf(cond, then, otherwise, 1);
  }

  /** Stores an i32. */
  st32(addr: Node, v: Node, offset = 0): void {
    this.st(0x36, addr, v, offset);
  }
  /** Stores an i64. */
  st64(addr: Node, v: Node, offset = 0): void {
    this.st(0x37, addr, v, offset);
  }
  /** Stores an f32. */
  stF32(addr: Node, v: Node, offset = 0): void {
    this.st(0x38, addr, v, offset);
  }
  /** Stores an f64. */
  stF64(addr: Node, v: Node, offset = 0): void {
    this.st(0x39, addr, v, offset);
  }
  /** Stores the low byte of an i32 or i64. */
  st8(addr: Node, v: Node, offset = 0): void {
    this.st(v.ty === I64 ? 0x3c : 0x3a, addr, v, offset);
  }
  /** Stores the low two bytes of an i32 or i64. */
  st16(addr: Node, v: Node, offset = 0): void {
    this.st(v.ty === I64 ? 0x3d : 0x3b, addr, v, offset);
  }
  /** Stores the low four bytes of an i64. */
  st32of64(addr: Node, v: Node, offset = 0): void {
    this.st(0x3e, addr, v, offset);
  }
  /** Stores a v128. */
  stV(addr: Node, v: Node, offset = 0): void {
    this.st(0xfd0b, addr, v, offset);
  }

  /** memory.copy */
  copy(dst: Node, src: Node, n: Node): void {
    this.emit(dst);
    this.emit(src);
    this.emit(n);
    this.code.u8(0xfc);
    this.code.u8(10);
    this.code.u8(0);
    this.code.u8(0);
  }
  /** memory.fill */
  fill(dst: Node, byte: Node, n: Node): void {
    this.emit(dst);
    this.emit(byte);
    this.emit(n);
    this.code.u8(0xfc);
    this.code.u8(11);
    this.code.u8(0);
  }

  /** `if (cond) { then } else { otherwise }` */
  if(cond: Node, then: () => void, otherwise?: () => void): void {
    this.branchIf(cond, then, otherwise, -1);
  }

  private branchIf(cond: Node, then: () => void, otherwise: (() => void) | undefined, hint: number): void {
    if (cond.isConst) {
      if (cond.lo !== 0) then();
      else otherwise?.();
      return;
    }
    this.emit(cond);
    if (hint >= 0) this.hints.push(this.code.len, hint);
    this.code.u8(0x04);
    this.code.u8(0x40);
    this.depth++;
    then();
    if (otherwise !== undefined) {
      this.code.u8(0x05);
      otherwise();
    }
    this.depth--;
    this.code.u8(0x0b);
  }

  /** A block; branching to its label leaves it. */
  block(body: (end: Label) => void): void {
    this.code.u8(0x02);
    this.code.u8(0x40);
    this.depth++;
    body({ depth: this.depth });
    this.depth--;
    this.code.u8(0x0b);
  }

  /** Opens a block by hand; for br_table ladders. */
  open(kind: 'block' | 'loop'): Label {
    this.code.u8(kind === 'block' ? 0x02 : 0x03);
    this.code.u8(0x40);
    this.depth++;
    return { depth: this.depth };
  }

  /** Closes what {@link Fn.open} opened. */
  close(): void {
    this.depth--;
    this.code.u8(0x0b);
  }

  /** A loop; branching to its label starts it again, falling out of the body leaves it. */
  loop(body: (again: Label) => void): void {
    this.code.u8(0x03);
    this.code.u8(0x40);
    this.depth++;
    body({ depth: this.depth });
    this.depth--;
    this.code.u8(0x0b);
  }

  /** Jumps. */
  br(l: Label): void {
    this.code.u8(0x0c);
    this.code.u32(this.depth - l.depth);
  }

  /** Jumps if the condition is not zero, which it hardly ever is. */
  brUnlikely(l: Label, cond: Node): void {
    this.emit(cond);
    this.hints.push(this.code.len, 0);
    this.code.u8(0x0d);
    this.code.u32(this.depth - l.depth);
  }

  /** Jumps if the condition is not zero. */
  brIf(l: Label, cond: Node): void {
    this.emit(cond);
    this.code.u8(0x0d);
    this.code.u32(this.depth - l.depth);
  }

  /** Jumps to `labels[index]`, or `fallback` past the end. */
  brTable(index: Node, labels: readonly Label[], fallback: Label): void {
    this.emit(index);
    this.code.u8(0x0e);
    this.code.u32(labels.length);
    for (const l of labels) this.code.u32(this.depth - l.depth);
    this.code.u32(this.depth - fallback.depth);
  }

  /** Returns, with a value if the function has a result. */
  ret(v?: Node): void {
    if (v !== undefined) this.emit(v);
    this.code.u8(0x0f);
  }

  /** Tail-calls through the table. */
  returnCallIndirect(type: number, index: Node, args: readonly Node[]): void {
    for (const a of args) this.emit(a);
    this.emit(index);
    this.code.u8(0x13);
    this.code.u32(type);
    this.code.u32(0);
  }

  /** atomic.fence: no access moves across it. */
  fence(): void {
    this.code.u8(0xfe);
    this.code.u8(3);
    this.code.u8(0);
  }

  /** Tail-calls a function. */
  returnCall(fn: FnRef, ...args: Node[]): void {
    for (const a of args) this.emit(a);
    this.code.u8(0x12);
    this.code.u32(fn.index);
  }

  /** Traps: for places that cannot be reached. */
  unreachable(): void {
    this.code.u8(0x00);
  }
}

/** Calls through table 0 with the given type. */
export function callIndirect(type: number, result: Ty | 0, index: Node, ...args: Node[]): Node {
  return new Node(K_CALLIND, result, type, index, null, null, 0, 0, args);
}

/** An import that enters the module, with its type, when the first call of it is built. */
class ImportOnUse implements FnRef {
  readonly result: Ty | 0;
  private readonly into: Module;
  private readonly module: string;
  private readonly name: string;
  private readonly params: readonly Ty[];
  private at = -1;

  constructor(into: Module, module: string, name: string, params: readonly Ty[], result: Ty | 0) {
    this.into = into;
    this.module = module;
    this.name = name;
    this.params = params;
    this.result = result;
  }

  get type(): number {
    return this.into.type(this.params, this.result);
  }

  get index(): number {
    if (this.at < 0) this.at = this.into.take(this.module, this.name, this.type);
    return this.at;
  }
}

/** A function of a module whose imports are still being taken: it can be exported, not called by index. */
class FnAfterImports implements FnRef {
  readonly result: Ty | 0;
  readonly type: number;
  private readonly ordinal: number;
  private readonly before: () => number;

  constructor(type: number, result: Ty | 0, ordinal: number, before: () => number) {
    this.type = type;
    this.result = result;
    this.ordinal = ordinal;
    this.before = before;
  }

  get index(): number {
    return this.before() + this.ordinal;
  }
}

/** Builds a module: imports first, then functions. */
export class Module {
  private readonly types: Map<string, number> = new Map();
  private readonly typeBytes: [readonly Ty[], readonly Ty[]][] = [];
  private readonly imports: { module: string; name: string; type: number }[] = [];
  private readonly fns: Fn[] = [];
  private readonly exports: { name: string; ref: FnRef }[] = [];
  private declared = 0;
  /** Whether there are imports that count only once they are used. */
  private onUse = false;
  private finishing = false;
  private elements: readonly FnRef[] | null = null;
  private tableImport: { size: number } | null = null;
  private readonly memory: { min: number; max: number; shared: boolean };

  /** @param memory limits of the imported memory `env.memory`, in pages */
  constructor(memory: { min: number; max: number; shared: boolean }) {
    this.memory = memory;
  }

  /** Index of a function type. */
  type(params: readonly Ty[], result: Ty | 0): number {
    let key = '';
    for (const p of params) key += String.fromCharCode(p);
    key += String.fromCharCode(result);
    let i = this.types.get(key);
    if (i === undefined) {
      i = this.types.size;
      this.types.set(key, i);
      this.typeBytes.push([params, result === 0 ? [] : [result]]);
    }
    return i;
  }

  /** Imports a function. All imports come before the first {@link Module.fn}. */
  import(module: string, name: string, params: readonly Ty[], result: Ty | 0): FnRef {
    if (this.fns.length > 0) throw new Error('imports come first');
    const type = this.type(params, result);
    this.imports.push({ module, name, type });
    return { index: this.declared++, result, type };
  }

  /**
   * Offers a function: it is imported if a call of it is built. V8 keeps some 200 bytes for every import of every module. In
   * a module with such imports, functions of its own have no index until the end: they can be exported, not called.
   */
  importOnUse(module: string, name: string, params: readonly Ty[], result: Ty | 0): FnRef {
    if (this.fns.length > 0) throw new Error('imports come first');
    this.onUse = true;
    return new ImportOnUse(this, module, name, params, result);
  }

  /** @internal Adds an import that {@link Module.importOnUse} offered; gives its index. */
  take(module: string, name: string, type: number): number {
    this.imports.push({ module, name, type });
    return this.declared++;
  }

  /** Declares a function; fill its body any time before {@link Module.finish}. */
  fn(params: readonly Ty[], result: Ty | 0, exportName?: string): Fn {
    const type = this.type(params, result);
    const ref: FnRef = this.onUse
      ? new FnAfterImports(type, result, this.fns.length, () => {
          if (!this.finishing) throw new Error('a function of a module with imports on use has no index yet');
          return this.imports.length;
        })
      : { index: this.declared++, result, type };
    const f = new Fn(ref, params);
    this.fns.push(f);
    if (exportName !== undefined) this.exports.push({ name: exportName, ref });
    return f;
  }

  /** The function declared last. */
  get lastRef(): FnRef {
    return (this.fns[this.fns.length - 1] as Fn).ref;
  }

  private readonly names: [FnRef, string][] = [];
  /** Names a function in stack traces and profiles; ascending order of functions. */
  name(ref: FnRef, name: string): void {
    this.names.push([ref, name]);
  }

  /** Exports a function under another name, imported ones too. */
  exportFn(name: string, ref: FnRef): void {
    this.exports.push({ name, ref });
  }

  /** Parameter types of a function type. */
  signature(type: number): { params: readonly Ty[] } {
    return { params: (this.typeBytes[type] as [readonly Ty[], readonly Ty[]])[0] };
  }

  /** Gives the module a table of its own, exported as `table`, holding these functions from slot 0. */
  table(fns: readonly FnRef[]): void {
    this.elements = fns;
  }

  /** Imports table `env.table`, of exactly `size` slots, instead. */
  importTable(size: number): void {
    this.tableImport = { size };
  }

  private writeImports(s: Bytes): void {
    s.u32(this.imports.length + 1 + (this.tableImport === null ? 0 : 1));
    s.str('env');
    s.str('memory');
    s.u8(2);
    s.u8(this.memory.shared ? 3 : 1);
    s.u32(this.memory.min);
    s.u32(this.memory.max);
    if (this.tableImport !== null) {
      s.str('env');
      s.str('table');
      s.u8(1);
      s.u8(0x70);
      // A table that cannot grow: calls through it compare with a constant.
      s.u8(1);
      s.u32(this.tableImport.size);
      s.u32(this.tableImport.size);
    }
    for (const i of this.imports) {
      s.str(i.module);
      s.str(i.name);
      s.u8(0);
      s.u32(i.type);
    }
  }

  /** The module's bytes. */
  finish(): Uint8Array<ArrayBuffer> {
    this.finishing = true;
    const w = new Bytes();
    for (const b of [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]) w.u8(b);
    const scratch = new Bytes();
    const section = (id: number, body: (s: Bytes) => void): void => {
      scratch.len = 0;
      body(scratch);
      w.u8(id);
      w.u32(scratch.len);
      w.bytes(scratch.buf, scratch.len);
    };
    section(1, (s) => {
      s.u32(this.typeBytes.length);
      for (const [p, r] of this.typeBytes) {
        s.u8(0x60);
        s.u32(p.length);
        for (const t of p) s.u8(t);
        s.u32(r.length);
        for (const t of r) s.u8(t);
      }
    });
    section(2, (s) => {
      this.writeImports(s);
    });
    section(3, (s) => {
      s.u32(this.fns.length);
      for (const f of this.fns) s.u32(f.ref.type);
    });
    if (this.elements !== null) {
      const n = this.elements.length;
      section(4, (s) => {
        s.u32(1);
        s.u8(0x70);
        s.u8(1);
        s.u32(n);
        s.u32(n);
      });
    }
    section(7, (s) => {
      s.u32(this.exports.length + (this.elements === null ? 0 : 1));
      for (const e of this.exports) {
        s.str(e.name);
        s.u8(0);
        s.u32(e.ref.index);
      }
      if (this.elements !== null) {
        s.str('table');
        s.u8(1);
        s.u32(0);
      }
    });
    if (this.elements !== null) {
      const els = this.elements;
      section(9, (s) => {
        s.u32(1);
        s.u32(0);
        s.u8(0x41);
        s.s32(0);
        s.u8(0x0b);
        s.u32(els.length);
        for (const e of els) s.u32(e.index);
      });
    }
    const heads = this.fns.map((f) => {
      const head = new Bytes(64);
      const runs: [number, Ty][] = [];
      for (const t of f.extra) {
        const last = runs[runs.length - 1];
        if (last !== undefined && last[1] === t) last[0]++;
        else runs.push([1, t]);
      }
      head.u32(runs.length);
      for (const [n, t] of runs) {
        head.u32(n);
        head.u8(t);
      }
      return head;
    });
    // Branch Hinting proposal: a custom section before the code.
    const hinted = this.fns.reduce((n, f) => n + (f.hints.length > 0 ? 1 : 0), 0);
    if (hinted > 0) {
      section(0, (s) => {
        s.str('metadata.code.branch_hint');
        s.u32(hinted);
        this.fns.forEach((f, i) => {
          if (f.hints.length === 0) return;
          s.u32(f.ref.index);
          s.u32(f.hints.length / 2);
          for (let k = 0; k < f.hints.length; k += 2) {
            s.u32((f.hints[k] as number) + (heads[i] as Bytes).len);
            s.u8(1);
            s.u8(f.hints[k + 1] as number);
          }
        });
      });
    }
    section(10, (s) => {
      s.u32(this.fns.length);
      for (const [i, f] of this.fns.entries()) {
        const head = heads[i] as Bytes;
        s.u32(head.len + f.code.len + 1);
        s.bytes(head.buf, head.len);
        s.bytes(f.code.buf, f.code.len);
        s.u8(0x0b);
      }
    });
    if (this.names.length > 0) {
      // Function names, for profilers.
      section(0, (s) => {
        s.str('name');
        const body = new Bytes();
        body.u32(this.names.length);
        for (const [ref, name] of this.names) {
          body.u32(ref.index);
          body.str(name);
        }
        s.u8(1);
        s.u32(body.len);
        s.bytes(body.buf, body.len);
      });
    }
    return w.buf.slice(0, w.len) as Uint8Array<ArrayBuffer>;
  }
}
