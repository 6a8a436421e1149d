// String instructions. Intel SDM volume 2, MOVS, STOS, LODS, SCAS, CMPS and REP.
//
// Repeated ones go by runs: as many elements as lie within one page of each operand are moved, filled or compared at once,
// by functions of the main module. What those cannot do (device memory, elements across pages, overlaps shorter than an
// element) is done element by element, and then they are asked again.
import { OP } from '@hyve/x86';
import { tlbSlot } from '../addresses.ts';
import { NUM, type Num, type Semantic, type SemCtx } from '../ctx.ts';
import type { MemFns } from '../mem.ts';
import * as S from '../state.ts';
import {
  c32,
  c64,
  call,
  type Fn,
  type FnRef,
  I32,
  I64,
  i32,
  i64,
  type Label,
  type Local,
  ld,
  type Module,
  type Node,
  select,
  V128,
} from '../wasm/builder.ts';
import { lane, v8, v16, v32, v64 } from './vec.ts';

const AX = 0;
const CX = 1;
const SI = 6;
const DI = 7;

const N = (size: number): Num => NUM[size] as Num;
type Size = 1 | 2 | 4 | 8;
const SIZES: readonly Size[] = [1, 2, 4, 8];
const VEC = { 1: v8, 2: v16, 4: v32, 8: v64 } as const;

/** Most elements done one by one before interrupts get a chance. */
const CHUNK = 1024;
/** Elements done one by one before the rest is tried as a run again. */
const FEW = 16;
/** Bytes that are moved or stored by a few vectors in the place of the instruction. */
const SHORT_MIN = 16;
const SHORT_MAX = 64;
/** Up to here a loop of vectors is quicker than a call of memory.copy or memory.fill. */
const SMALL = 256;

// --- functions of the main module --------------------------------------------------------------------------------------

/** Emits what repeated string instructions call; the names start with `str_`. */
export function emitString(m: Module, mem: MemFns): Record<string, FnRef> {
  const out: Record<string, FnRef> = {};
  const p = (f: Fn, n: number): Node => (f.params[n] as Local).get;
  const min = (f: Fn, a: Node, b: Node): Node => f.tmp(select(i32.lt_u(a, b), a, b));
  /** Bytes of `count` elements that lie in the page of each address, from it upwards or (`down`) downwards. */
  const run = (f: Fn, count: Node, size: Node, down: Node, addrs: readonly Node[]): Node => {
    const n = f.local(I32);
    const ats = addrs.map((a) => f.tmp(i32.and(i32.wrap(a), c32(4095))));
    f.set(n, i32.mul(i32.wrap(count), size));
    // Most runs are short and go upwards: the host foresees that, and does not wait for what follows.
    let whole = i32.and(i64.le_u(count, c64(4096)), i32.eqz(down));
    for (const at of ats) whole = i32.and(whole, i32.le_u(i32.add(at, n.get), c32(4096)));
    f.likely(
      whole,
      () => {},
      () => {
        f.set(n, i32.mul(select(i64.gt_u(count, c64(4096)), c32(4096), i32.wrap(count)), size));
        for (const at of ats) {
          const below = f.tmp(i32.add(at, size));
          f.set(
            n,
            min(f, n.get, select(down, select(i32.gt_u(below, c32(4096)), c32(0), below), i32.sub(c32(4096), at))),
          );
        }
        f.set(n, i32.and(n.get, i32.sub(c32(0), size)));
      },
    );
    return f.tmp(n.get);
  };
  /** Host address of `n` bytes at `la`, within a page; gives 0 from the function where there is none. */
  const host = (f: Fn, la: Node, n: Node, write: 0 | 1): Node => {
    const base = p(f, 0);
    const r = f.local(I32);
    const e = f.tmp(tlbSlot(la, ld.i32(base, S.TLB_DATA)));
    f.likely(
      i64.eq(ld.i64(e, 8 * write), i64.and(la, c64(-4096))),
      () => f.set(r, i32.add(i32.wrap(la), ld.i32(e, 24))),
      () => {
        f.set(r, call(mem.tryPtr, base, la, n, c32(write)));
        f.if(i32.eqz(r.get), () => f.ret(c32(0)));
      },
    );
    return r.get;
  };
  /** Takes the time of `n` bytes from the budget, in instructions. */
  const charge = (f: Fn, n: Node): void =>
    f.st32(p(f, 0), i32.sub(ld.i32(p(f, 0), S.BUDGET), i32.shr_u(n, c32(6))), S.BUDGET);
  /** The lower end of a run that goes downwards from `la`. */
  const lowEnd = (f: Fn, la: Node, n: Node, size: Node, down: Node): Node =>
    f.tmp(i64.sub(la, i64.extend_u(select(down, i32.sub(n, size), c32(0)))));

  {
    // (base, source, destination, count, element size, downwards) → bytes moved.
    const f = m.fn([I32, I64, I64, I64, I32, I32], I32);
    const [src, dst, size, down] = [p(f, 1), p(f, 2), p(f, 4), p(f, 5)] as const;
    const n = run(f, p(f, 3), size, down, [src, dst]);
    f.if(i32.eqz(n), () => f.ret(c32(0)));
    const from = host(f, lowEnd(f, src, n, size, down), n, 0);
    const to = host(f, lowEnd(f, dst, n, size, down), n, 1);
    const ahead = f.tmp(i32.sub(to, from));
    const behind = f.tmp(i32.sub(from, to));
    const ends = (ld1: (a: Node) => Node, st: (a: Node, v: Node) => void, width: number): void => {
      // Two accesses that may overlap each other, both loaded first.
      const last = f.tmp(i32.sub(n, c32(width)));
      const x = f.tmp(ld1(from));
      const y = f.tmp(ld1(i32.add(from, last)));
      st(to, x);
      st(i32.add(to, last), y);
    };
    f.block((moved) => {
      f.if(i32.and(i32.ge_u(ahead, n), i32.ge_u(behind, n)), () => {
        f.if(i32.gt_u(n, c32(SMALL)), () => {
          f.copy(to, from, n);
          f.br(moved);
        });
        f.if(i32.ge_u(n, c32(16)), () => {
          const i = f.local(I32);
          const stop = f.tmp(i32.sub(n, c32(16)));
          const last = f.tmp(ld.v128(i32.add(from, stop)));
          f.set(i, c32(0));
          f.loop((again) => {
            f.stV(i32.add(to, i.get), ld.v128(i32.add(from, i.get)));
            f.set(i, i32.add(i.get, c32(16)));
            f.brIf(again, i32.lt_u(i.get, stop));
          });
          f.stV(i32.add(to, stop), last);
          f.br(moved);
        });
        f.if(i32.ge_u(n, c32(8)), () => {
          ends(ld.i64, (a, v) => f.st64(a, v), 8);
          f.br(moved);
        });
        f.if(i32.ge_u(n, c32(4)), () => {
          ends(ld.i32, (a, v) => f.st32(a, v), 4);
          f.br(moved);
        });
        f.if(i32.ge_u(n, c32(2)), () => {
          // Two or three bytes.
          const middle = f.tmp(ld.i32_8u(i32.add(from, c32(1))));
          ends(ld.i32_8u, (a, v) => f.st8(a, v), 1);
          f.st8(to, middle, 1);
          f.br(moved);
        });
        f.st8(to, ld.i32_8u(from));
        f.br(moved);
      });
      f.if(down, () => {
        f.if(i32.lt_u(behind, n), () => f.ret(c32(0)));
        f.copy(to, from, n);
        f.br(moved);
      });
      f.if(i32.ge_u(ahead, n), () => {
        f.copy(to, from, n);
        f.br(moved);
      });
      // A destination just above the source: what lies between them is repeated. Each copy doubles it.
      f.if(i32.lt_u(ahead, size), () => f.ret(c32(0)));
      const done = f.local(I32);
      f.set(done, c32(0));
      f.loop((again) => {
        const part = min(f, i32.add(ahead, done.get), i32.sub(n, done.get));
        f.copy(i32.add(to, done.get), from, part);
        f.set(done, i32.add(done.get, part));
        f.brIf(again, i32.lt_u(done.get, n));
      });
    });
    charge(f, n);
    f.emit(n);
    out['str_movs'] = f.ref;
  }
  {
    // (base, destination, count, element size, downwards, value in every element) → bytes filled.
    const f = m.fn([I32, I64, I64, I32, I32, V128], I32);
    const [dst, size, down, v] = [p(f, 1), p(f, 3), p(f, 4), p(f, 5)] as const;
    const n = run(f, p(f, 2), size, down, [dst]);
    f.if(i32.lt_u(n, c32(16)), () => f.ret(c32(0)));
    const to = host(f, lowEnd(f, dst, n, size, down), n, 1);
    f.block((filled) => {
      f.if(i32.gt_u(n, c32(SMALL)), () => {
        const byte = f.tmp(lane(v, 1, 0));
        f.if(v8.allTrue(v8.eq(v, v8.splat(byte))), () => {
          f.fill(to, byte, n);
          f.br(filled);
        });
      });
      const i = f.local(I32);
      const stop = f.tmp(i32.sub(n, c32(16)));
      f.set(i, c32(0));
      const wide = f.tmp(i32.sub(n, c32(63)));
      f.if(i32.gt_s(wide, c32(0)), () =>
        f.loop((again) => {
          const at = f.tmp(i32.add(to, i.get));
          for (let k = 0; k < 64; k += 16) f.stV(at, v, k);
          f.set(i, i32.add(i.get, c32(64)));
          f.brIf(again, i32.lt_s(i.get, wide));
        }),
      );
      f.block((enough) =>
        f.loop((again) => {
          f.brIf(enough, i32.ge_u(i.get, stop));
          f.stV(i32.add(to, i.get), v);
          f.set(i, i32.add(i.get, c32(16)));
          f.br(again);
        }),
      );
      // Elements divide 16, and so does what is left: the last vector may overlap the one before.
      f.stV(i32.add(to, stop), v);
    });
    charge(f, n);
    f.emit(n);
    out['str_stos'] = f.ref;
  }
  for (const size of SIZES) {
    /** Bytes before the first vector with an element that ends the scan, and those of its elements before that one. */
    const scan = (f: Fn, n: Node, flip: Node, equal: (at: Node) => Node): void => {
      const i = f.local(I32);
      const hit = f.local(I32);
      // Not the last element of the run: if what follows faults, flags are those of an element before it.
      const stop = f.tmp(i32.sub(n, c32(16 + size)));
      f.if(i32.lt_s(stop, c32(0)), () => f.ret(c32(0)));
      f.set(i, c32(0));
      f.loop((again) => {
        f.set(hit, i32.xor(v8.bitmask(equal(i.get)), flip));
        f.if(hit.get, () => {
          f.set(i, i32.add(i.get, i32.ctz(hit.get)));
          charge(f, i.get);
          f.ret(i.get);
        });
        f.set(i, i32.add(i.get, c32(16)));
        f.brIf(again, i32.le_s(i.get, stop));
      });
      charge(f, i.get);
      f.emit(i.get);
    };
    const V = VEC[size];
    {
      // (base, destination, count, value in every element, 0xffff to stop at a difference or 0 at an equal) → bytes passed.
      const f = m.fn([I32, I64, I64, V128, I32], I32);
      const n = run(f, p(f, 2), c32(size), c32(0), [p(f, 1)]);
      const at = host(f, p(f, 1), n, 0);
      scan(f, n, p(f, 4), (i) => V.eq(ld.v128(i32.add(at, i)), p(f, 3)));
      out[`str_scas${size}`] = f.ref;
    }
    {
      // (base, source, destination, count, as above) → bytes passed.
      const f = m.fn([I32, I64, I64, I64, I32], I32);
      const n = run(f, p(f, 3), c32(size), c32(0), [p(f, 1), p(f, 2)]);
      const src = host(f, p(f, 1), n, 0);
      const dst = host(f, p(f, 2), n, 0);
      scan(f, n, p(f, 4), (i) => V.eq(ld.v128(i32.add(src, i)), ld.v128(i32.add(dst, i))));
      out[`str_cmps${size}`] = f.ref;
    }
  }
  return out;
}

// --- semantics ---------------------------------------------------------------------------------------------------------

/** EFLAGS outside the arithmetic flags. */
function efl(c: SemCtx): Node {
  return ld.i32(c.base, S.EFL);
}
/** Register `n` at the address size, as i64. */
export function strReg(c: SemCtx, n: number): Node {
  const a = c.insn.addrSize;
  return a === 8 ? c.getGpr64(n) : i64.extend_u(c.gpr(n, a));
}
function setStrReg(c: SemCtx, n: number, v: Node): void {
  const a = c.insn.addrSize;
  if (a === 8) c.setGpr64(n, v);
  else c.setGpr(n, a, N(a).trunc(i32.wrap(v)));
}
function step(c: SemCtx, size: number): Node {
  return c.f.tmp(select(i32.and(efl(c), c32(S.FLAG_DF)), c64(-size), c64(size)));
}

/** Whether nobody wants attention and the slice is not over. */
function mayGoOn(c: SemCtx): Node {
  return i32.gt_s(ld.i32(c.base, S.BUDGET), ld.i32(c.base, S.ATTN));
}

/** What moves a run at once: how, and which registers it moves along. */
interface Bulk {
  /** Bytes done, upwards from the registers' addresses, or downwards if `down`; 0 if nothing could be. */
  run(down: Node): Node;
  readonly pointers: readonly number[];
  /** Only upwards. */
  readonly up?: boolean;
  /** Does the whole of a short one. */
  readonly short?: Short;
}

/** How {@link SHORT_MIN} to {@link SHORT_MAX} bytes are done that lie in one page of memory. */
interface Short {
  /** Linear addresses, in the order of `pointers`; the last is written, one before it is read. */
  addresses(): readonly Node[];
  /** Given host addresses and the number of bytes, all i32: stores by means of vectors at these offsets. */
  move(hosts: readonly Node[], at: readonly Node[]): void;
}

/** Does a short repetition and goes to `done`, if it is one whose operands the TLB knows. */
function tryShort(c: SemCtx, bulk: Bulk, short: Short, done: Label): void {
  const f = c.f;
  const m = f.mark();
  const log2 = Math.log2(c.size);
  const count = strReg(c, CX);
  const bytes = f.tmp(i64.shl(count, c64(log2)));
  const n = f.tmp(i32.wrap(bytes));
  let ok = i32.and(
    i64.le_u(i64.sub(count, c64(SHORT_MIN >> log2)), c64((SHORT_MAX - SHORT_MIN) >> log2)),
    i32.eqz(i32.and(efl(c), c32(S.FLAG_DF | S.FLAG_TF))),
  );
  const addresses = short.addresses();
  const hosts = addresses.map((la, i) => {
    const e = c.tlbEntry(la);
    const last = i64.and(i64.add(la, i64.sub(bytes, c64(1))), c64(-4096));
    ok = i32.and(ok, i64.eq(ld.i64(e, i === addresses.length - 1 ? 8 : 0), last));
    return f.tmp(i32.add(i32.wrap(la), ld.i32(e, 24)));
  });
  // All loads come before the first store: right unless a destination just above the source is to repeat what is between.
  const [from, to] = hosts;
  if (from !== undefined && to !== undefined) ok = i32.and(ok, i32.ge_u(i32.sub(to, from), n));
  // Not likely, whatever it is: out of the way of a region's other code, where it costs the same (`sieve` 39 ms, otherwise
  // 43; `trees` 33 and 44).
  f.unlikely(ok, () => {
    const last = f.tmp(i32.sub(n, c32(16)));
    f.if(
      i32.ge_u(n, c32(32)),
      () => short.move(hosts, [c32(0), c32(16), f.tmp(i32.sub(n, c32(32))), last]),
      () => short.move(hosts, [c32(0), last]),
    );
    for (const r of bulk.pointers) setStrReg(c, r, i64.add(strReg(c, r), bytes));
    setStrReg(c, CX, c64(0));
    f.br(done);
  });
  f.release(m);
}

/** Wraps one element's work in the REP loop. */
function repeat(c: SemCtx, one: (d: Node) => void, stopOn: (() => Node) | null, bulk: Bulk | null): void {
  const f = c.f;
  const size = c.size;
  if (c.insn.rep === 0) {
    one(step(c, size));
    return;
  }
  const useBulk = bulk !== null && plainSegments(c) && c.insn.addrSize !== 2 ? bulk : null;
  const left = f.temp(I32);
  const few = f.temp(I32);
  f.block((done) => {
    if (useBulk?.short !== undefined) tryShort(c, useBulk, useBulk.short, done);
    f.brIf(done, i64.eqz(strReg(c, CX)));
    const d = step(c, size);
    // With the trap flag there is a trap after every element.
    const tf = f.tmp(i32.and(efl(c), c32(S.FLAG_TF)));
    const down = f.tmp(i64.lt_s(d, c64(0)));
    f.set(left, select(tf, c32(1), c32(CHUNK)));
    f.loop((more) => {
      f.set(few, c32(FEW));
      if (useBulk !== null)
        f.block((single) => {
          const m = f.mark();
          f.brIf(single, useBulk.up === true ? i32.or(tf, down) : tf);
          const n = f.tmp(useBulk.run(down));
          f.brIf(single, i32.eqz(n));
          const bytes = f.tmp(i64.extend_u(n));
          const way = useBulk.up === true ? bytes : f.tmp(select(down, i64.sub(c64(0), bytes), bytes));
          for (const r of useBulk.pointers) setStrReg(c, r, i64.add(strReg(c, r), way));
          setStrReg(c, CX, i64.sub(strReg(c, CX), i64.shr_u(bytes, c64(Math.log2(size)))));
          if (stopOn === null) {
            f.brIf(done, i64.eqz(strReg(c, CX)));
            f.brIf(more, mayGoOn(c));
            c.again();
          } else f.set(few, c32(1));
          f.release(m);
        });
      f.loop((next) => {
        const m = f.mark();
        one(d);
        setStrReg(c, CX, i64.sub(strReg(c, CX), c64(1)));
        if (stopOn !== null) f.brIf(done, stopOn());
        f.release(m);
        f.brIf(done, i64.eqz(strReg(c, CX)));
        f.set(left, i32.sub(left.get, c32(1)));
        f.if(i32.eqz(left.get), () => c.again());
        f.set(few, i32.sub(few.get, c32(1)));
        f.brIf(next, few.get);
      });
      f.brIf(more, mayGoOn(c));
      c.again();
    });
  });
}

/** Whether no segment has a limit to look at. */
const plainSegments = (c: SemCtx): boolean => c.mode.bits === 64 || (c.mode.flat && c.insn.seg < S.FS);
/** Linear addresses of the two operands. */
const source = (c: SemCtx): Node => c.f.tmp(c.linear(c.insn.seg, strReg(c, SI), 1, false));
const target = (c: SemCtx): Node => strReg(c, DI);
const fn = (c: SemCtx, name: string): FnRef => c.env.fn(`str_${name}`);
/** The accumulator in every element of a vector. */
const splat = (c: SemCtx): Node => VEC[c.size as Size].splat(c.gpr(AX, c.size));

const movs: Semantic = (c) => {
  const f = c.f;
  const size = c.size;
  repeat(
    c,
    (d) => {
      const si = f.tmp(strReg(c, SI));
      const di = f.tmp(strReg(c, DI));
      const v = c.load(c.linear(c.insn.seg, si, size, false), size);
      c.store(c.linear(S.ES, di, size, true), size, v);
      setStrReg(c, SI, i64.add(si, d));
      setStrReg(c, DI, i64.add(di, d));
    },
    null,
    {
      run: (down) => call(fn(c, 'movs'), c.base, source(c), target(c), strReg(c, CX), c32(size), down),
      pointers: [SI, DI],
      short: {
        addresses: () => [source(c), target(c)],
        move([from, to], at) {
          const x = at.map((o) => f.tmp(ld.v128(i32.add(from as Node, o))));
          at.forEach((o, k) => {
            f.stV(i32.add(to as Node, o), x[k] as Node);
          });
        },
      },
    },
  );
};
const stos: Semantic = (c) => {
  const f = c.f;
  const size = c.size;
  repeat(
    c,
    (d) => {
      const di = f.tmp(strReg(c, DI));
      c.store(c.linear(S.ES, di, size, true), size, c.gpr(AX, size));
      setStrReg(c, DI, i64.add(di, d));
    },
    null,
    {
      run: (down) => call(fn(c, 'stos'), c.base, target(c), strReg(c, CX), c32(size), down, splat(c)),
      pointers: [DI],
      short: {
        addresses: () => [target(c)],
        move([to], at) {
          const x = f.tmp(splat(c));
          for (const o of at) f.stV(i32.add(to as Node, o), x);
        },
      },
    },
  );
};
const lods: Semantic = (c) => {
  const f = c.f;
  const size = c.size;
  repeat(
    c,
    (d) => {
      const si = f.tmp(strReg(c, SI));
      const v = c.load(c.linear(c.insn.seg, si, size, false), size);
      c.setGpr(AX, size, v);
      setStrReg(c, SI, i64.add(si, d));
    },
    null,
    null,
  );
};
/** Stops REPE when ZF is clear, REPNE when it is set. */
const stopZf = (c: SemCtx) => (): Node => (c.insn.rep === 0xf3 ? c.cond(5) : c.cond(4));
/** The same for the functions that scan. */
const flip = (c: SemCtx): Node => c32(c.insn.rep === 0xf3 ? 0xffff : 0);
/** Elements that scans may pass: the last one of all is compared by itself, for the flags. */
const butLast = (c: SemCtx): Node => i64.sub(strReg(c, CX), c64(1));
const scas: Semantic = (c) => {
  const f = c.f;
  const size = c.size;
  const n = N(size);
  repeat(
    c,
    (d) => {
      const di = f.tmp(strReg(c, DI));
      const b = c.load(c.linear(S.ES, di, size, false), size);
      const a = f.tmp(c.gpr(AX, size));
      setStrReg(c, DI, i64.add(di, d));
      c.flagsSub(size, a, b, f.tmp(n.trunc(n.sub(a, b))));
    },
    stopZf(c),
    {
      run: () => call(fn(c, `scas${size}`), c.base, target(c), butLast(c), splat(c), flip(c)),
      pointers: [DI],
      up: true,
    },
  );
};
const cmps: Semantic = (c) => {
  const f = c.f;
  const size = c.size;
  const n = N(size);
  repeat(
    c,
    (d) => {
      const si = f.tmp(strReg(c, SI));
      const di = f.tmp(strReg(c, DI));
      const a = c.load(c.linear(c.insn.seg, si, size, false), size);
      const b = c.load(c.linear(S.ES, di, size, false), size);
      setStrReg(c, SI, i64.add(si, d));
      setStrReg(c, DI, i64.add(di, d));
      c.flagsSub(size, a, b, f.tmp(n.trunc(n.sub(a, b))));
    },
    stopZf(c),
    {
      run: () => call(fn(c, `cmps${size}`), c.base, source(c), target(c), butLast(c), flip(c)),
      pointers: [SI, DI],
      up: true,
    },
  );
};

/** MOVS, STOS, LODS, SCAS and CMPS by OP id. */
export function stringSemantics(): Map<number, Semantic> {
  return new Map<number, Semantic>([
    [OP.MOVS, movs],
    [OP.STOS, stos],
    [OP.LODS, lods],
    [OP.SCAS, scas],
    [OP.CMPS, cmps],
  ]);
}
