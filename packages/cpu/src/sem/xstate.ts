// XSAVE, XSAVEOPT, XSAVEC and XRSTOR where nothing is wrong and the image lies within a page, as in every switch of tasks and
// every signal. Everything else about them, and every fault, is in system/xsave.ts, which has the layout of the image as well.
// Intel SDM volume 1 chapter 13.
import { OP } from '@hyve/x86';
import { orOfVectors, type Semantic } from '../ctx.ts';
import type { MemFns } from '../mem.ts';
import * as S from '../state.ts';
import {
  CR0_TS,
  CR4_OSXSAVE,
  MXCSR_MASK,
  MXCSR_RESET,
  XF_AVX,
  XF_SSE,
  XF_X87,
  XSAVE_AVX,
  XSAVE_HEADER,
  XSAVE_SIZE,
} from '../system/bits.ts';
import { FCW_INIT } from '../system/xsave.ts';
import {
  c32,
  c64,
  call,
  cV128,
  type Fn,
  type FnRef,
  I32,
  I64,
  i32,
  i64,
  type Local,
  ld,
  type Module,
  type Node,
  select,
} from '../wasm/builder.ts';
import { sys } from './integer.ts';
import { v } from './vec.ts';

/** Forms of the instructions: with REX.W; in 64-bit mode; without what is in its initial state; in the compacted format. */
const WIDE = 1;
const LONG = 2;
const OPTIMIZED = 4;
const COMPACT = 8;

/** In XCOMP_BV's upper half. */
const COMPACTED: number = 1 << 31;
/** First of the header's bytes that are zero, and past the last. */
const ZEROS = XSAVE_HEADER + 16;
/** Of these, such as the standard format wants. */
const ZEROS_STANDARD = 8;
/** TOP in the status word. */
const TOP_SHIFT = 11;
const TOP_MASK = 7 << TOP_SHIFT;
/** ES and B of the status word; exceptions and their masks. */
const ES_B = 0x8080;
const EXCEPTIONS = 0x3f;

/** The 80 bits of an x87 register. */
const bits80 = (x: Node): Node => v.and(x, cV128(-1, -1, 0xffff, 0));

/** Emits what the instructions call; each gives 0, and has done nothing, where system/xsave.ts must do it. */
export function emitXstate(m: Module, mem: MemFns): Record<string, FnRef> {
  return { xsave: emitSave(m, mem).ref, xrstor: emitRestore(m, mem).ref };
}

interface Frame {
  readonly base: Node;
  readonly la: Node;
  /** Whether the form has one of these bits. */
  form(bits: number): Node;
  /** Components asked for that are on. */
  readonly asked: Node;
}

/** What both begin with. Gives 0 from the function unless the instruction is allowed. */
function begin(f: Fn): Frame {
  const [base, la, form] = f.params.map((p) => (p as Local).get) as [Node, Node, Node];
  const off = i32.eqz(i32.and(ld.i32(base, S.CR4), c32(CR4_OSXSAVE)));
  const lazy = i32.and(ld.i32(base, S.CR0), c32(CR0_TS));
  const misaligned = i32.and(i32.wrap(la), c32(63));
  f.if(i32.or(i32.or(off, lazy), i32.or(misaligned, ld.i32(base, S.NOFILL))), () => f.ret(c32(0)));
  return {
    base,
    la,
    form: (bits) => i32.and(form, c32(bits)),
    asked: f.tmp(i32.and(ld.i32(base, S.GPR), ld.i32(base, S.XCR0))),
  };
}

/** Does something with the offset of each vector register that the form has from its first: sixteen in 64-bit mode, else eight. */
function eachVector(f: Fn, g: Frame, one: (off: number) => void): void {
  const some = (first: number): void => {
    for (let n = first; n < first + 8; n++) one(16 * n);
  };
  some(0);
  f.if(g.form(LONG), () => some(8));
}

function copyVectors(f: Fn, g: Frame, to: Node, toOff: number, from: Node, fromOff: number): void {
  eachVector(f, g, (off) => f.stV(to, ld.v128(from, fromOff + off), toOff + off));
}

/** Address, less the offset of FPR, of x87 register ST(n). */
const stackRegister = (base: Node, top: Node, n: number): Node =>
  i32.add(base, i32.shl(i32.and(i32.add(top, c32(n)), c32(7)), c32(4)));

/** (base, la, form) → whether it is done. */
function emitSave(m: Module, mem: MemFns): Fn {
  const f = m.fn([I32, I64, I32], I32, 'xsave');
  const g = begin(f);
  const { base, asked } = g;
  const size = select(i32.and(asked, c32(XF_AVX)), c32(XSAVE_SIZE), c32(XSAVE_AVX));
  const at = f.tmp(call(mem.tryPtr, base, g.la, size, c32(S.ACC_WRITE)));
  f.if(i32.eqz(at), () => f.ret(c32(0)));
  // XINUSE.
  const word = (off: number): Node => ld.i32(base, off);
  const control = i32.or(i32.xor(word(S.FCW), c32(FCW_INIT)), i32.or(word(S.FTOP), word(S.FSW)));
  const opcode = i32.or(i32.or(word(S.FTW), word(S.FOP)), i32.or(word(S.FCS), word(S.FDS)));
  const pointers = i64.ne(i64.or(ld.i64(base, S.FIP), ld.i64(base, S.FDP)), c64(0));
  const x87 = f.tmp(i32.or(i32.or(i32.or(control, opcode), pointers), v.anyTrue(orOfVectors(base, S.FPR, 8))));
  const used = f.local(I32);
  f.set(
    used,
    i32.or(
      i32.or(i32.ne(x87, c32(0)), i32.shl(v.anyTrue(orOfVectors(base, S.XMM, 16)), c32(1))),
      i32.shl(v.anyTrue(orOfVectors(base, S.YMMH, 16)), c32(2)),
    ),
  );
  // For the form that leaves it out, MXCSR is part of SSE state.
  f.if(i32.and(i32.shr_u(g.form(COMPACT), c32(3)), i32.ne(word(S.MXCSR), c32(MXCSR_RESET))), () =>
    f.set(used, i32.or(used.get, c32(XF_SSE))),
  );
  const save = f.tmp(select(g.form(OPTIMIZED), i32.and(asked, used.get), asked));
  f.if(i32.and(save, c32(XF_X87)), () => {
    const top = f.tmp(word(S.FTOP));
    const wide = f.tmp(g.form(WIDE));
    f.st16(at, word(S.FCW));
    f.st16(at, i32.or(i32.and(word(S.FSW), c32(~TOP_MASK)), i32.shl(top, c32(TOP_SHIFT))), 2);
    f.st16(at, i32.and(word(S.FTW), c32(0xff)), 4);
    f.st16(at, word(S.FOP), 6);
    f.st32(at, word(S.FIP), 8);
    f.st32(at, select(wide, word(S.FIP + 4), i32.and(word(S.FCS), c32(0xffff))), 12);
    f.st32(at, word(S.FDP), 16);
    f.st32(at, select(wide, word(S.FDP + 4), i32.and(word(S.FDS), c32(0xffff))), 20);
    for (let n = 0; n < 8; n++) f.stV(at, bits80(ld.v128(stackRegister(base, top, n), S.FPR)), 32 + 16 * n);
  });
  f.if(select(g.form(COMPACT), i32.and(save, c32(XF_SSE)), i32.and(asked, c32(XF_SSE | XF_AVX))), () => {
    f.st32(at, word(S.MXCSR), 24);
    f.st32(at, c32(MXCSR_MASK), 28);
  });
  f.if(i32.and(save, c32(XF_SSE)), () => copyVectors(f, g, at, 160, base, S.XMM));
  f.if(i32.and(save, c32(XF_AVX)), () => copyVectors(f, g, at, XSAVE_AVX, base, S.YMMH));
  const written = i32.and(asked, used.get);
  f.if(
    g.form(COMPACT),
    () => {
      f.st64(at, i64.extend_u(written), XSAVE_HEADER);
      f.st32(at, asked, XSAVE_HEADER + 8);
      f.st32(at, c32(COMPACTED), XSAVE_HEADER + 12);
    },
    () => {
      const others = i32.and(ld.i32(at, XSAVE_HEADER), i32.xor(asked, c32(-1)));
      f.st32(at, i32.or(others, written), XSAVE_HEADER);
    },
  );
  f.emit(c32(1));
  return f;
}

/** (base, la, form) → whether it is done. */
function emitRestore(m: Module, mem: MemFns): Fn {
  const f = m.fn([I32, I64, I32], I32, 'xrstor');
  const g = begin(f);
  const { base, asked } = g;
  const unless = (fine: Node): void => f.if(i32.eqz(fine), () => f.ret(c32(0)));
  const at = f.tmp(call(mem.tryPtr, base, g.la, c32(XSAVE_AVX), c32(0)));
  unless(at);
  const present = f.tmp(ld.i32(at, XSAVE_HEADER));
  const components = f.tmp(ld.i32(at, XSAVE_HEADER + 8));
  const format = f.tmp(ld.i32(at, XSAVE_HEADER + 12));
  const on = ld.i32(base, S.XCR0);
  const outside = (set: Node, of: Node): Node => i32.and(set, i32.xor(of, c32(-1)));
  let zeros = ld.i64(at, ZEROS);
  for (let off = ZEROS + ZEROS_STANDARD; off < XSAVE_AVX; off += 8) zeros = i64.or(zeros, ld.i64(at, off));
  const compact = f.tmp(i32.eq(format, c32(COMPACTED)));
  f.if(
    compact,
    () => {
      unless(ld.i32(base, S.HAS_XSAVEC));
      unless(i32.eqz(i32.or(outside(components, on), outside(present, components))));
      unless(i64.eqz(zeros));
    },
    () => {
      unless(i32.eqz(i32.or(i32.or(format, components), outside(present, on))));
      unless(i64.eqz(ld.i64(at, ZEROS)));
    },
  );
  unless(i32.eqz(ld.i32(at, XSAVE_HEADER + 4)));
  const load = f.tmp(i32.and(asked, present));
  f.if(i32.and(load, c32(XF_AVX)), () => unless(call(mem.tryPtr, base, g.la, c32(XSAVE_SIZE), c32(0))));
  const mxcsr = f.local(I32);
  f.set(mxcsr, ld.i32(base, S.MXCSR));
  f.if(i32.and(asked, select(compact, c32(XF_SSE), c32(XF_SSE | XF_AVX))), () =>
    f.set(mxcsr, select(i32.and(compact, i32.eqz(i32.and(load, c32(XF_SSE)))), c32(MXCSR_RESET), ld.i32(at, 24))),
  );
  unless(i32.eqz(i32.and(mxcsr.get, c32(~MXCSR_MASK))));
  // From here on nothing can go wrong.
  f.st32(base, mxcsr.get, S.MXCSR);
  f.if(
    i32.and(load, c32(XF_X87)),
    () => {
      const wide = f.tmp(g.form(WIDE));
      const control = f.tmp(i32.or(i32.and(ld.i32_16u(at), c32(0x1f7f)), c32(0x40)));
      // ES and B are worked out from what is unmasked, whatever the image says.
      const image = f.tmp(ld.i32_16u(at, 2));
      const open = i32.and(outside(image, control), c32(EXCEPTIONS));
      const status = f.tmp(i32.or(i32.and(image, c32(~ES_B)), select(open, c32(ES_B), c32(0))));
      const top = f.tmp(i32.and(i32.shr_u(status, c32(TOP_SHIFT)), c32(7)));
      f.st32(base, c32(0), S.IGNNE);
      f.st32(base, top, S.FTOP);
      f.st32(base, control, S.FCW);
      f.st32(base, i32.and(status, c32(~TOP_MASK)), S.FSW);
      f.st32(base, ld.i32_8u(at, 4), S.FTW);
      f.st32(base, i32.and(ld.i32_16u(at, 6), c32(0x7ff)), S.FOP);
      const pointer = (to: number, selector: number, from: number): void => {
        f.st32(base, ld.i32(at, from), to);
        f.st32(base, select(wide, ld.i32(at, from + 4), c32(0)), to + 4);
        f.st32(base, select(wide, c32(0), ld.i32_16u(at, from + 4)), selector);
      };
      pointer(S.FIP, S.FCS, 8);
      pointer(S.FDP, S.FDS, 16);
      for (let n = 0; n < 8; n++) f.stV(stackRegister(base, top, n), bits80(ld.v128(at, 32 + 16 * n)), S.FPR);
    },
    () =>
      f.if(i32.and(asked, c32(XF_X87)), () => {
        for (const off of [S.FTOP, S.FSW, S.IGNNE, S.FTW, S.FOP, S.FCS, S.FDS]) f.st32(base, c32(0), off);
        f.st32(base, c32(FCW_INIT), S.FCW);
        f.st64(base, c64(0), S.FIP);
        f.st64(base, c64(0), S.FDP);
        for (let n = 0; n < 8; n++) f.stV(base, v.zero(), S.FPR + 16 * n);
      }),
  );
  const vectors = (component: number, from: number, to: number): void =>
    f.if(
      i32.and(load, c32(component)),
      () => copyVectors(f, g, base, to, at, from),
      () => f.if(i32.and(asked, c32(component)), () => eachVector(f, g, (off) => f.stV(base, v.zero(), to + off))),
    );
  vectors(XF_SSE, 160, S.XMM);
  vectors(XF_AVX, XSAVE_AVX, S.YMMH);
  // Outside 64-bit mode the other eight stay as they are.
  f.if(
    i32.and(load, c32(XF_AVX)),
    () => f.st32(base, c32(0), S.UPPERS_ZERO),
    () => f.if(select(g.form(LONG), i32.and(asked, c32(XF_AVX)), c32(0)), () => f.st32(base, c32(1), S.UPPERS_ZERO)),
  );
  f.emit(c32(1));
  return f;
}

const instruction =
  (name: string, form: number): Semantic =>
  (c) => {
    const bits = (c.insn.opSize === 8 ? WIDE : 0) | (c.mode.bits === 64 ? LONG : 0) | form;
    c.f.if(i32.eqz(call(c.env.fn(name), c.base, c.ea(), c32(bits))), () => sys(c));
  };

/** By OP id. Translated code leaves them to the interpreter, which has the registers in memory as these want them. */
export const XSTATE: ReadonlyMap<number, Semantic> = new Map([
  [OP.XSAVE, instruction('xsave', 0)],
  [OP.XSAVEOPT, instruction('xsave', OPTIMIZED)],
  [OP.XSAVEC, instruction('xsave', OPTIMIZED | COMPACT)],
  [OP.XRSTOR, instruction('xrstor', 0)],
]);
