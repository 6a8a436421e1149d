// AES-NI, PCLMULQDQ and the SHA extensions. FIPS 197 and 180-4; Intel SDM volume 2.
//
// The S-box is a table of 256 bytes looked up for all bytes of a register at once: sixteen swizzles, each of which gives
// 0 for bytes that are not in its row. No secret decides an address.
import { OP, type OpName } from '@hyve/x86';
import type { Semantic, SemCtx } from '../ctx.ts';
import {
  c32,
  c64,
  call,
  cV128,
  type Fn,
  type FnRef,
  I64,
  i32,
  i64,
  type Local,
  type Module,
  type Node,
  select,
  shuffle,
  V128,
} from '../wasm/builder.ts';
import { imm8 } from './simd-int.ts';
import { param } from './softfloat.ts';
import { bytes, lane, lanes, packed1, packed2, readLane, v, v8, v32, v64, withLane } from './vec.ts';

/** Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1. */
function gfMul(a: number, b: number): number {
  let r = 0;
  let x = a;
  for (let y = b; y !== 0; y >>= 1) {
    if (y & 1) r ^= x;
    x = (x << 1) ^ (x & 0x80 ? 0x11b : 0);
  }
  return r;
}
/** The S-box by its definition: inverse, then an affine map. */
const SBOX: readonly number[] = Array.from({ length: 256 }, (_, a) => {
  let inverse = 0;
  for (let b = 1; b < 256; b++) if (gfMul(a, b) === 1) inverse = b;
  let r = 0x63;
  for (let i = 0; i < 5; i++) r ^= ((inverse << i) | (inverse >> (8 - i))) & 0xff;
  return r;
});
const INVERSE: readonly number[] = SBOX.reduce<number[]>((t, s, i) => {
  t[s] = i;
  return t;
}, []);

function substitute(m: Module, box: readonly number[]): FnRef {
  const f = m.fn([V128], V128);
  const x = param(f, 0);
  const r = f.local(V128);
  for (let row = 0; row < 16; row++) {
    const table = bytes(...box.slice(16 * row, 16 * row + 16));
    const index = row === 0 ? x : v.xor(x, bytes(row << 4));
    f.set(r, row === 0 ? v.swizzle(table, index) : v.or(r.get, v.swizzle(table, index)));
  }
  f.emit(r.get);
  return f.ref;
}

const ROW_ORDER = [0, 5, 10, 15, 4, 9, 14, 3, 8, 13, 2, 7, 12, 1, 6, 11] as const;
const INVERSE_ORDER = ROW_ORDER.map((_, i) => ROW_ORDER.indexOf(i as 0));
const permute = (x: Node, order: readonly number[]): Node => shuffle(x, x, order);
/** Each column rotated up by `n` bytes. */
const turn = (x: Node, n: number): Node =>
  permute(
    x,
    Array.from({ length: 16 }, (_, i) => (i & ~3) | ((i + n) & 3)),
  );
/** Every byte times x. */
function double(f: Fn, x: Node): Node {
  return f.tmp(v.xor(v8.shl(x, c32(1)), v.and(v8.shr_s(x, c32(7)), bytes(0x1b))));
}
function mixColumns(f: Fn, x: Node): Node {
  // 2a + 3b + c + d = 2(a + b) + b + c + d
  const b = f.tmp(turn(x, 1));
  const sum = v.xor(v.xor(b, turn(x, 2)), turn(x, 3));
  return f.tmp(v.xor(double(f, f.tmp(v.xor(x, b))), sum));
}
function inverseMix(f: Fn, x: Node): Node {
  // The inverse matrix is the forward one times (4x^2 + 5): a + 4(a + c) in every byte first.
  const four = double(f, double(f, f.tmp(v.xor(x, turn(x, 2)))));
  return mixColumns(f, f.tmp(v.xor(x, four)));
}

/** (a, b) → low half of the carry-less product; the high half is that of the reversed operands. */
function emitClmul(m: Module): FnRef {
  const f = m.fn([I64, I64], V128);
  const a = param(f, 0);
  const b = f.params[1] as Local;
  const lo = f.local(I64);
  const hi = f.local(I64);
  const n = f.local(I64);
  f.loop((again) => {
    const mask = f.tmp(i64.sub(c64(0), i64.and(b.get, c64(1))));
    const x = f.tmp(i64.and(a, mask));
    f.set(lo, i64.xor(lo.get, i64.shl(x, n.get)));
    // A shift by 64 - 0 in two steps.
    f.set(hi, i64.xor(hi.get, i64.shr_u(i64.shr_u(x, c64(1)), i64.sub(c64(63), n.get))));
    f.set(b, i64.shr_u(b.get, c64(1)));
    f.set(n, i64.add(n.get, c64(1)));
    f.brIf(again, i64.lt_u(n.get, c64(64)));
  });
  f.emit(withLane(v64.splat(lo.get), 8, 1, hi.get));
  return f.ref;
}

/** Emits the functions that these semantics call. */
export function emitCrypto(m: Module): Record<string, FnRef> {
  return { aes_sub: substitute(m, SBOX), aes_unsub: substitute(m, INVERSE), clmul: emitClmul(m) };
}

// --- SHA ---------------------------------------------------------------------------------------------------------------

const word = (x: Node, n: number): Node => lane(x, 4, n);
function vec4(f: Fn, w: readonly [Node, Node, Node, Node]): Node {
  let r = v32.splat(w[0]);
  for (let n = 1; n < 4; n++) r = withLane(r, 4, n, w[n] as Node);
  return f.tmp(r);
}
const xor3 = (a: Node, b: Node, c: Node): Node => i32.xor(i32.xor(a, b), c);
const rot = (x: Node, n: number): Node => i32.rotr(x, c32(n));

/** Four rounds of SHA-1; the imm chooses function and constant. Words run from lane 3 down. */
const sha1rnds4 = packed2((c, s, w) => {
  const f = c.f;
  const imm = f.tmp(i32.and(imm8(c), c32(3)));
  const k = f.tmp(
    select(
      i32.eqz(imm),
      c32(0x5a827999),
      select(i32.eq(imm, c32(1)), c32(0x6ed9eba1), select(i32.eq(imm, c32(2)), c32(0x8f1bbcdc), c32(0xca62c1d6))),
    ),
  );
  let [A, B, C, D] = [3, 2, 1, 0].map((n) => f.tmp(word(s, n))) as [Node, Node, Node, Node];
  let E: Node = c32(0);
  for (let i = 0; i < 4; i++) {
    const choose = i32.xor(i32.and(B, i32.xor(C, D)), D);
    const parity = xor3(B, C, D);
    const majority = i32.or(i32.and(B, C), i32.and(D, i32.or(B, C)));
    const fn = select(i32.eqz(imm), choose, select(i32.eq(imm, c32(2)), majority, parity));
    const next = f.tmp(i32.add(i32.add(i32.add(i32.add(fn, i32.rotl(A, c32(5))), word(w, 3 - i)), E), k));
    [E, D, C, B, A] = [D, C, f.tmp(i32.rotl(B, c32(30))), A, next];
  }
  return vec4(f, [D, C, B, A]);
});
const sha1nexte = packed2((c, a, b) => {
  const f = c.f;
  return withLane(b, 4, 3, f.tmp(i32.add(word(b, 3), i32.rotl(word(a, 3), c32(30)))));
});
const sha1msg1 = packed2((_c, a, b) => v.xor(a, lanes(b, a, 8, [1, 2])));
const sha1msg2 = packed2((c, a, b) => {
  const f = c.f;
  const w16 = f.tmp(i32.rotl(i32.xor(word(a, 3), word(b, 2)), c32(1)));
  const w17 = f.tmp(i32.rotl(i32.xor(word(a, 2), word(b, 1)), c32(1)));
  const w18 = f.tmp(i32.rotl(i32.xor(word(a, 1), word(b, 0)), c32(1)));
  const w19 = f.tmp(i32.rotl(i32.xor(word(a, 0), w16), c32(1)));
  return vec4(f, [w19, w18, w17, w16]);
});
/** Two rounds of SHA-256: operand 0 has C, D, G, H, operand 1 A, B, E, F; XMM0 two words with their constants added. */
const sha256rnds2: Semantic = (c) => {
  packed2((cc, s, t) => {
    const f = cc.f;
    const k = readLane(cc, 2, 0, 16);
    let [A, B, E, F] = [3, 2, 1, 0].map((n) => f.tmp(word(t, n))) as [Node, Node, Node, Node];
    let [C, D, G, H] = [3, 2, 1, 0].map((n) => f.tmp(word(s, n))) as [Node, Node, Node, Node];
    for (let i = 0; i < 2; i++) {
      const ch = i32.xor(i32.and(E, i32.xor(F, G)), G);
      const maj = i32.or(i32.and(A, B), i32.and(C, i32.or(A, B)));
      const s1 = xor3(rot(E, 6), rot(E, 11), rot(E, 25));
      const s0 = xor3(rot(A, 2), rot(A, 13), rot(A, 22));
      const t1 = f.tmp(i32.add(i32.add(i32.add(ch, s1), word(k, i)), H));
      const a = f.tmp(i32.add(i32.add(t1, maj), s0));
      [H, G, F, E, D, C, B, A] = [G, F, E, f.tmp(i32.add(t1, D)), C, B, A, a];
    }
    return vec4(f, [F, E, B, A]);
  })(c);
};
const sha256msg1 = packed2((c, a, b) => {
  const f = c.f;
  const next = f.tmp(lanes(a, b, 4, [1, 2, 3, 4]));
  const r = (n: number): Node => v.or(v32.shr_u(next, c32(n)), v32.shl(next, c32(32 - n)));
  return v32.add(a, v.xor(v.xor(r(7), r(18)), v32.shr_u(next, c32(3))));
});
const sha256msg2 = packed2((c, a, b) => {
  const f = c.f;
  const s1 = (x: Node): Node => xor3(rot(x, 17), rot(x, 19), i32.shr_u(x, c32(10)));
  const w16 = f.tmp(i32.add(word(a, 0), s1(f.tmp(word(b, 2)))));
  const w17 = f.tmp(i32.add(word(a, 1), s1(f.tmp(word(b, 3)))));
  const w18 = f.tmp(i32.add(word(a, 2), s1(w16)));
  const w19 = f.tmp(i32.add(word(a, 3), s1(w17)));
  return vec4(f, [w16, w17, w18, w19]);
});

/** Semantics of AES-NI, PCLMULQDQ and SHA. */
export function cryptoSemantics(): Map<number, Semantic> {
  const m = new Map<number, Semantic>();
  const ops = OP as Readonly<Record<string, number>>;
  const def = (name: OpName, s: Semantic): void => {
    m.set(OP[name], s);
    const vex = ops[`V${name}`];
    if (vex !== undefined) m.set(vex, s);
  };
  const sub = (c: SemCtx, x: Node): Node => c.f.tmp(call(c.env.fn('aes_sub'), x));
  const unsub = (c: SemCtx, x: Node): Node => c.f.tmp(call(c.env.fn('aes_unsub'), x));
  def(
    'AESENC',
    packed2((c, a, b) => v.xor(mixColumns(c.f, sub(c, permute(a, ROW_ORDER))), b)),
  );
  def(
    'AESENCLAST',
    packed2((c, a, b) => v.xor(sub(c, permute(a, ROW_ORDER)), b)),
  );
  def(
    'AESDEC',
    packed2((c, a, b) => v.xor(inverseMix(c.f, unsub(c, permute(a, INVERSE_ORDER))), b)),
  );
  def(
    'AESDECLAST',
    packed2((c, a, b) => v.xor(unsub(c, permute(a, INVERSE_ORDER)), b)),
  );
  def(
    'AESIMC',
    packed1((c, a) => inverseMix(c.f, a)),
  );
  def(
    'AESKEYGENASSIST',
    packed1((c, a) => {
      const f = c.f;
      const s = sub(c, a);
      // SubWord(X1), RotWord(SubWord(X1)) ^ RCON, the same of X3.
      const r = permute(s, [4, 5, 6, 7, 5, 6, 7, 4, 12, 13, 14, 15, 13, 14, 15, 12]);
      return v.xor(r, v.and(v32.splat(imm8(c)), f.tmp(cV128(0, 0xff, 0, 0xff))));
    }),
  );
  def(
    'PCLMULQDQ',
    packed2((c, a, b) => {
      const imm = imm8(c);
      const half = (x: Node, bit: number): Node => select(i32.and(imm, c32(bit)), lane(x, 8, 1), lane(x, 8, 0));
      return call(c.env.fn('clmul'), half(a, 1), half(b, 16));
    }),
  );
  def('SHA1RNDS4', sha1rnds4);
  def('SHA1NEXTE', sha1nexte);
  def('SHA1MSG1', sha1msg1);
  def('SHA1MSG2', sha1msg2);
  def('SHA256RNDS2', sha256rnds2);
  def('SHA256MSG1', sha256msg1);
  def('SHA256MSG2', sha256msg2);
  return m;
}
