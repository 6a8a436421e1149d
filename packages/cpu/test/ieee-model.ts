// Reference arithmetic for the floating-point tests: exact integers, then one rounding. Written from IEEE 754-2008 and
// SDM volume 1 4.8, 4.9, 8.5 and 11.5, independently of the code under test.

export const IE = 1;
export const DE = 2;
export const ZE = 4;
export const OE = 8;
export const UE = 16;
export const PE = 32;
export const C1 = 0x200;

/** A binary format. `p` counts the leading one. */
export interface Format {
  readonly p: number;
  readonly bias: number;
  readonly expBits: number;
  /** The leading one is stored (80-bit format). */
  readonly explicit: boolean;
}
export const F32: Format = { p: 24, bias: 127, expBits: 8, explicit: false };
export const F64: Format = { p: 53, bias: 1023, expBits: 11, explicit: false };
export const F80: Format = { p: 64, bias: 16383, expBits: 15, explicit: true };

export type Mode = 0 | 1 | 2 | 3;

/** A decoded operand; numbers are m·2^e. */
export interface Operand {
  readonly kind: 'zero' | 'number' | 'inf' | 'nan' | 'unsupported';
  readonly s: bigint;
  readonly m: bigint;
  readonly e: number;
  readonly denormal: boolean;
  readonly signaling: boolean;
  readonly bits: bigint;
}

export interface Result {
  readonly bits: bigint;
  readonly flags: number;
}

const width = (f: Format): number => 1 + f.expBits + (f.explicit ? f.p : f.p - 1);
const fieldBits = (f: Format): bigint => BigInt(f.explicit ? f.p : f.p - 1);
const signBit = (f: Format): bigint => 1n << BigInt(width(f) - 1);
const maxExp = (f: Format): number => (1 << f.expBits) - 1;
const quiet = (f: Format): bigint => 1n << BigInt(f.p - 2);

export function decode(f: Format, bits: bigint, daz = false): Operand {
  const s = bits >> BigInt(width(f) - 1);
  const field = bits & ((1n << fieldBits(f)) - 1n);
  const exp = Number((bits >> fieldBits(f)) & BigInt(maxExp(f)));
  const none = { s, m: 0n, e: 0, denormal: false, signaling: false, bits };
  const top = 1n << BigInt(f.p - 1);
  if (exp === maxExp(f)) {
    if (f.explicit && (field & top) === 0n) return { ...none, kind: 'unsupported' };
    const frac = field & (top - 1n);
    if (frac === 0n) return { ...none, kind: 'inf' };
    return { ...none, kind: 'nan', signaling: (field & quiet(f)) === 0n };
  }
  const e = Math.max(exp, 1) - f.bias - (f.p - 1);
  if (exp === 0) {
    if (field === 0n) return { ...none, kind: 'zero' };
    if (daz) return { ...none, kind: 'zero', bits: bits & signBit(f) };
    return { ...none, kind: 'number', m: field, e, denormal: true };
  }
  if (f.explicit && (field & top) === 0n) return { ...none, kind: 'unsupported' };
  return { ...none, kind: 'number', m: f.explicit ? field : field | top, e };
}

const bitLength = (v: bigint): number => (v === 0n ? 0 : v.toString(2).length);

/** Rounds num·2^exp (plus a little if `sticky`) to an integer multiple of 2^at. */
function roundTo(
  num: bigint,
  exp: number,
  sticky: boolean,
  at: number,
  s: bigint,
  mode: Mode,
): { q: bigint; inexact: boolean; up: boolean } {
  const shift = at - exp;
  let q: bigint;
  let rest: bigint;
  let half: bigint;
  if (shift <= 0) {
    q = num << BigInt(-shift);
    rest = 0n;
    half = 1n;
  } else {
    q = num >> BigInt(shift);
    rest = num & ((1n << BigInt(shift)) - 1n);
    half = 1n << BigInt(shift - 1);
  }
  const inexact = rest !== 0n || sticky;
  // Twice the remainder against one unit, the sticky part breaking ties.
  const cmp = shift <= 0 ? -1 : rest > half || (rest === half && sticky) ? 1 : rest === half ? 0 : -1;
  let up = false;
  if (inexact) {
    if (mode === 0) up = cmp > 0 || (cmp === 0 && (q & 1n) === 1n);
    else if (mode === 1) up = s === 1n;
    else if (mode === 2) up = s === 0n;
  }
  return { q: up ? q + 1n : q, inexact, up };
}

export interface Rounding {
  readonly mode: Mode;
  /** Masked exceptions. */
  readonly masks: number;
  readonly ftz?: boolean;
  /** Significand bits kept (x87 precision control); default the format's. */
  readonly precision?: number;
}

function pack(f: Format, s: bigint, biased: number, field: bigint): bigint {
  return (s << BigInt(width(f) - 1)) | (BigInt(biased) << fieldBits(f)) | field;
}
export function infinity(f: Format, s: bigint): bigint {
  return pack(f, s, maxExp(f), f.explicit ? 1n << 63n : 0n);
}
export function zero(f: Format, s: bigint): bigint {
  return pack(f, s, 0, 0n);
}
export function defaultNan(f: Format): bigint {
  return pack(f, 1n, maxExp(f), (f.explicit ? 1n << 63n : 0n) | quiet(f));
}

/** Rounds a non-zero value to a format. For formats without explicit bit, unmasked OE and UE give an unspecified result. */
export function round(f: Format, s: bigint, num: bigint, exp: number, sticky: boolean, r: Rounding): Result {
  const p = r.precision ?? f.p;
  const minExp = 1 - f.bias;
  // As if the exponent had no bounds.
  let e = exp + bitLength(num) - 1;
  const first = roundTo(num, exp, sticky, e - p + 1, s, r.mode);
  let q = first.q;
  if (bitLength(q) > p) {
    q >>= 1n;
    e++;
  }
  const field = (v: bigint): bigint => {
    const full = v << BigInt(f.p - p);
    return f.explicit ? full : full & ((1n << BigInt(f.p - 1)) - 1n);
  };
  const pe = (x: { inexact: boolean; up: boolean }): number => (x.inexact ? PE | (x.up ? C1 : 0) : 0);
  if (e > f.bias) {
    if ((r.masks & OE) === 0)
      return { bits: f.explicit ? pack(f, s, e + f.bias - 24576, field(q)) : 0n, flags: OE | pe(first) };
    const toInf = r.mode === 0 || (r.mode === 1 && s === 1n) || (r.mode === 2 && s === 0n);
    if (toInf) return { bits: infinity(f, s), flags: OE | PE | C1 };
    return { bits: pack(f, s, maxExp(f) - 1, field((1n << BigInt(p)) - 1n)), flags: OE | PE };
  }
  if (e >= minExp) return { bits: pack(f, s, e + f.bias, field(q)), flags: pe(first) };
  if ((r.masks & UE) === 0)
    return { bits: f.explicit ? pack(f, s, e + f.bias + 24576, field(q)) : 0n, flags: UE | pe(first) };
  if (r.ftz === true) return { bits: zero(f, s), flags: UE | PE };
  const tiny = roundTo(num, exp, sticky, minExp - p + 1, s, r.mode);
  const up = bitLength(tiny.q) === p;
  return {
    bits: pack(f, s, up ? 1 : 0, up ? field(tiny.q) : tiny.q << BigInt(f.p - p)),
    flags: tiny.inexact ? UE | pe(tiny) : 0,
  };
}

/** NaN result of SSE: the first NaN, quiet. */
function sseNan(f: Format, ops: readonly Operand[]): Result {
  const n = ops.find((o) => o.kind === 'nan') as Operand;
  return { bits: n.bits | quiet(f), flags: ops.some((o) => o.signaling) ? IE : 0 };
}
/** NaN result of the x87. */
function x87Nan(ops: readonly Operand[]): Result {
  const nans = ops.filter((o) => o.kind === 'nan');
  const quietOnes = nans.filter((o) => !o.signaling);
  const pool = quietOnes.length > 0 ? quietOnes : nans;
  const sig = (o: Operand): bigint => o.bits & ((1n << 64n) - 1n);
  const best = [...pool].sort((a, b) =>
    sig(a) === sig(b) ? Number(a.s - b.s) : sig(a) > sig(b) ? -1 : 1,
  )[0] as Operand;
  return { bits: best.bits | quiet(F80), flags: nans.some((o) => o.signaling) ? IE : 0 };
}
export function nanOf(f: Format, ops: readonly Operand[]): Result {
  return f.explicit ? x87Nan(ops) : sseNan(f, ops);
}

export function isqrt(v: bigint): bigint {
  if (v < 2n) return v;
  let x = 1n << BigInt((bitLength(v) + 1) >> 1);
  for (;;) {
    const y = (x + v / x) >> 1n;
    if (y >= x) return x;
    x = y;
  }
}

export type Op = 'add' | 'sub' | 'mul' | 'div' | 'sqrt';

/** One operation. */
export function arith(f: Format, op: Op, ab: bigint, bb: bigint, r: Rounding, daz = false): Result {
  const a = decode(f, ab, daz);
  const b = decode(f, bb, daz);
  const ops = op === 'sqrt' ? [a] : [a, b];
  const invalid: Result = { bits: defaultNan(f), flags: IE };
  if (ops.some((o) => o.kind === 'unsupported')) return invalid;
  if (ops.some((o) => o.kind === 'nan')) return nanOf(f, ops);
  const de = ops.some((o) => o.denormal) ? DE : 0;
  const fin = (x: Result): Result => ({ bits: x.bits, flags: x.flags | de });
  const bs = op === 'sub' ? 1n - b.s : b.s;
  const sx = a.s ^ b.s;
  switch (op) {
    case 'sqrt': {
      if (a.kind === 'zero') return { bits: zero(f, a.s), flags: 0 };
      if (a.s === 1n) return invalid;
      if (a.kind === 'inf') return { bits: infinity(f, 0n), flags: 0 };
      // 2·140 more bits than needed, an even exponent.
      let m = a.m << 280n;
      let e = a.e - 280;
      if (e % 2 !== 0) {
        m <<= 1n;
        e--;
      }
      const root = isqrt(m);
      return fin(round(f, 0n, root, e / 2, root * root !== m, r));
    }
    case 'mul':
      if ((a.kind === 'inf' && b.kind === 'zero') || (a.kind === 'zero' && b.kind === 'inf')) return invalid;
      if (a.kind === 'inf' || b.kind === 'inf') return fin({ bits: infinity(f, sx), flags: 0 });
      if (a.kind === 'zero' || b.kind === 'zero') return fin({ bits: zero(f, sx), flags: 0 });
      return fin(round(f, sx, a.m * b.m, a.e + b.e, false, r));
    case 'div': {
      if (a.kind === b.kind && a.kind !== 'number') return invalid;
      if (a.kind === 'inf') return fin({ bits: infinity(f, sx), flags: 0 });
      if (b.kind === 'inf') return fin({ bits: zero(f, sx), flags: 0 });
      if (b.kind === 'zero') return { bits: infinity(f, sx), flags: ZE };
      if (a.kind === 'zero') return fin({ bits: zero(f, sx), flags: 0 });
      const num = a.m << 200n;
      return fin(round(f, sx, num / b.m, a.e - b.e - 200, num % b.m !== 0n, r));
    }
    default: {
      if (a.kind === 'inf' && b.kind === 'inf' && a.s !== bs) return invalid;
      if (a.kind === 'inf') return fin({ bits: infinity(f, a.s), flags: 0 });
      if (b.kind === 'inf') return fin({ bits: infinity(f, bs), flags: 0 });
      if (a.kind === 'zero' && b.kind === 'zero')
        return { bits: zero(f, a.s === bs ? a.s : r.mode === 1 ? 1n : 0n), flags: 0 };
      const e = Math.min(a.kind === 'zero' ? b.e : a.e, b.kind === 'zero' ? a.e : b.e);
      const value = (o: Operand, s: bigint): bigint =>
        o.kind === 'zero' ? 0n : (s === 1n ? -1n : 1n) * (o.m << BigInt(o.e - e));
      const sum = value(a, a.s) + value(b, bs);
      if (sum === 0n) return fin({ bits: zero(f, r.mode === 1 ? 1n : 0n), flags: 0 });
      return fin(round(f, sum < 0n ? 1n : 0n, sum < 0n ? -sum : sum, e, false, r));
    }
  }
}

/** Rounds an operand to an integer of `bits` bits; out of range: the smallest one and IE. */
export function toInt(o: Operand, bits: number, mode: Mode): Result {
  const worst: Result = { bits: -(1n << BigInt(bits - 1)), flags: IE };
  if (o.kind === 'zero') return { bits: 0n, flags: 0 };
  if (o.kind !== 'number') return worst;
  if (o.e > 70) return worst;
  const x = roundTo(o.m, o.e, false, 0, o.s, mode);
  const v = o.s === 1n ? -x.q : x.q;
  if (v < -(1n << BigInt(bits - 1)) || v >= 1n << BigInt(bits - 1)) return worst;
  return { bits: v, flags: x.inexact ? PE | (x.up ? C1 : 0) : 0 };
}

/** Rounds an operand to an integral value of its format. */
export function rint(f: Format, o: Operand, mode: Mode): Result {
  if (o.kind === 'unsupported') return { bits: defaultNan(f), flags: IE };
  if (o.kind === 'nan') return nanOf(f, [o]);
  if (o.kind !== 'number') return { bits: o.bits, flags: 0 };
  const x = roundTo(o.m, o.e, false, 0, o.s, mode);
  const flags = x.inexact ? PE | (x.up ? C1 : 0) : 0;
  if (x.q === 0n) return { bits: zero(f, o.s), flags };
  return { bits: round(f, o.s, x.q, 0, false, { mode, masks: 63 }).bits, flags };
}

/** 1 less, 2 equal, 4 greater, 8 unordered. */
export function relation(a: Operand, b: Operand): number {
  if (a.kind === 'nan' || b.kind === 'nan' || a.kind === 'unsupported' || b.kind === 'unsupported') return 8;
  const rank = (o: Operand): bigint => {
    const sign = o.s === 1n ? -1n : 1n;
    if (o.kind === 'zero') return 0n;
    if (o.kind === 'inf') return sign << 40000n;
    return sign * (o.m << BigInt(o.e + 17000));
  };
  const [x, y] = [rank(a), rank(b)];
  return x < y ? 1 : x === y ? 2 : 4;
}
