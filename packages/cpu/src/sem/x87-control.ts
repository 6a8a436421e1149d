// x87 control instructions: initialisation, control and status word, environment, whole state. Intel SDM volume 1
// chapter 8, volume 2 for the formats.
import { OP } from '@hyve/x86';
import type { Semantic, SemCtx } from '../ctx.ts';
import * as S from '../state.ts';
import { c32, c64, I32, i32, i64, ld, type Node, select } from '../wasm/builder.ts';
import { probeWrite } from './simd-int.ts';
import { checkPending } from './vec.ts';

/** ES and B of the status word. */
export const FSW_ES_B = 0x8080;
/** Status word bits. */
export const FSW_C0: number = 1 << 8;
export const FSW_C1: number = 1 << 9;
export const FSW_C2: number = 1 << 10;
export const FSW_C3: number = 1 << 14;
/** CR0.PE. */
const CR0_PE = 1;

/** State after FNINIT, as (field, value) pairs. */
const INIT: readonly (readonly [number, number])[] = [
  [S.FCW, 0x37f],
  [S.FSW, 0],
  [S.FTW, 0],
  [S.FTOP, 0],
  [S.FOP, 0],
  [S.FCS, 0],
  [S.FDS, 0],
];

function init(c: SemCtx): void {
  for (const [field, value] of INIT) c.f.st32(c.base, c32(value), field);
  c.f.st64(c.base, c64(0), S.FIP);
  c.f.st64(c.base, c64(0), S.FDP);
  c.f.st32(c.base, c32(0), S.IGNNE);
}

/** The status word with TOP, as i32. */
function statusWord(c: SemCtx): Node {
  return i32.or(ld.i32(c.base, S.FSW), i32.shl(ld.i32(c.base, S.FTOP), c32(11)));
}

/** Sets ES and B according to the flags and masks as they are. */
function updateSummary(c: SemCtx): void {
  const b = c.base;
  const open = c.f.tmp(i32.and(i32.and(ld.i32(b, S.FSW), i32.xor(ld.i32(b, S.FCW), c32(-1))), c32(0x3f)));
  c.f.st32(b, i32.or(i32.and(ld.i32(b, S.FSW), c32(~FSW_ES_B)), select(open, c32(FSW_ES_B), c32(0))), S.FSW);
  c.f.if(i32.eqz(open), () => c.f.st32(b, c32(0), S.IGNNE));
}

function setControl(c: SemCtx, v: Node): void {
  // Bit 6 reads as 1; bits 7 and 13–15 as 0.
  c.f.st32(c.base, i32.or(i32.and(v, c32(0x1f3f)), c32(0x40)), S.FCW);
}

/** Where the image of an environment or state is put together. */
const IMAGE: number = S.SCRATCH + 256;

/** Whether the protected-mode format applies, as an i32 truth value: CR0.PE set and not virtual-8086. */
function protectedFormat(c: SemCtx): Node {
  return i32.and(i32.and(ld.i32(c.base, S.CR0), c32(CR0_PE)), i32.eqz(i32.and(ld.i32(c.base, S.EFL), c32(S.FLAG_VM))));
}

/** The full tag word: 00 valid, 01 zero, 10 special, 11 empty, by the registers' contents. */
function fullTags(c: SemCtx): Node {
  const f = c.f;
  let tags: Node = c32(0);
  for (let r = 0; r < 8; r++) {
    const exponent = f.tmp(i32.and(ld.i32_16u(c.base, S.FPR + 16 * r + 8), c32(0x7fff)));
    const sig = f.tmp(ld.i64(c.base, S.FPR + 16 * r));
    const zero = i32.and(i32.eqz(exponent), i64.eqz(sig));
    const special = i32.or(i32.or(i32.eqz(exponent), i32.eq(exponent, c32(0x7fff))), i64.ge_s(sig, c64(0)));
    const tag = select(
      i32.and(ld.i32(c.base, S.FTW), c32(1 << r)),
      select(zero, c32(1), i32.shl(special, c32(1))),
      c32(3),
    );
    tags = f.tmp(i32.or(tags, i32.shl(tag, c32(2 * r))));
  }
  return tags;
}

/** Writes the environment image and returns its size: 14 or 28 bytes. */
function makeEnvironment(c: SemCtx): number {
  const f = c.f;
  const b = c.base;
  const wide = c.size !== 2;
  const step = wide ? 4 : 2;
  const put = (n: number, v: Node): void => {
    if (wide) f.st32(b, v, IMAGE + step * n);
    else f.st16(b, v, IMAGE + step * n);
  };
  const high = wide ? c32(0xffff0000) : c32(0);
  const tags = fullTags(c);
  const fip = f.tmp(i32.wrap(ld.i64(b, S.FIP)));
  const fdp = f.tmp(i32.wrap(ld.i64(b, S.FDP)));
  const fop = ld.i32(b, S.FOP);
  put(0, i32.or(ld.i32(b, S.FCW), high));
  put(1, i32.or(statusWord(c), high));
  put(2, i32.or(tags, high));
  f.if(
    protectedFormat(c),
    () => {
      put(3, fip);
      put(4, wide ? i32.or(ld.i32(b, S.FCS), i32.shl(fop, c32(16))) : ld.i32(b, S.FCS));
      put(5, fdp);
      put(6, wide ? i32.or(ld.i32(b, S.FDS), c32(0xffff0000)) : ld.i32(b, S.FDS));
    },
    () => {
      // Real mode: 20-bit (16-bit form) or 32-bit linear pointers, split.
      const ip = f.tmp(i32.add(fip, i32.shl(ld.i32(b, S.FCS), c32(4))));
      const dp = f.tmp(i32.add(fdp, i32.shl(ld.i32(b, S.FDS), c32(4))));
      const high16 = (p: Node): Node =>
        wide ? i32.shl(i32.shr_u(p, c32(16)), c32(12)) : i32.shl(i32.and(i32.shr_u(p, c32(16)), c32(15)), c32(12));
      const low = (p: Node): Node => (wide ? i32.or(i32.and(p, c32(0xffff)), c32(0xffff0000)) : p);
      put(3, low(ip));
      put(4, i32.or(high16(ip), fop));
      put(5, low(dp));
      put(6, high16(dp));
    },
  );
  return 7 * step;
}

/** Copies the image to memory at the operand; checks all of it first. */
function storeImage(c: SemCtx, size: number): void {
  const f = c.f;
  const la = f.tmp(c.ea());
  probeWrite(c, la, size);
  const n = f.temp(I32);
  f.set(n, c32(0));
  f.loop((again) => {
    const at = f.tmp(i64.add(la, i64.extend_u(n.get)));
    c.store(at, 2, ld.i32_16u(i32.add(c.base, n.get), IMAGE));
    f.set(n, i32.add(n.get, c32(2)));
    f.brIf(again, i32.lt_u(n.get, c32(size)));
  });
}

/** Copies the operand into the image. Leaves on a fault, with nothing changed. */
function loadImage(c: SemCtx, size: number): void {
  const f = c.f;
  const la = f.tmp(c.ea());
  c.sync();
  const n = f.temp(I32);
  f.set(n, c32(0));
  f.loop((again) => {
    const at = f.tmp(i64.add(la, i64.extend_u(n.get)));
    f.st16(i32.add(c.base, n.get), c.load(at, 2), IMAGE);
    f.set(n, i32.add(n.get, c32(2)));
    f.brIf(again, i32.lt_u(n.get, c32(size)));
  });
}

/** Takes the environment from the image. */
function takeEnvironment(c: SemCtx): void {
  const f = c.f;
  const b = c.base;
  const wide = c.size !== 2;
  const step = wide ? 4 : 2;
  const get = (n: number): Node => (wide ? ld.i32(b, IMAGE + step * n) : ld.i32_16u(b, IMAGE + step * n));
  const word = (n: number): Node => ld.i32_16u(b, IMAGE + step * n);
  setControl(c, word(0));
  const sw = f.tmp(word(1));
  f.st32(b, i32.and(sw, c32(0x477f)), S.FSW);
  f.st32(b, i32.and(i32.shr_u(sw, c32(11)), c32(7)), S.FTOP);
  const tags = f.tmp(word(2));
  let full: Node = c32(0);
  for (let r = 0; r < 8; r++)
    full = f.tmp(i32.or(full, i32.shl(i32.ne(i32.and(tags, c32(3 << (2 * r))), c32(3 << (2 * r))), c32(r))));
  f.st32(b, full, S.FTW);
  f.if(
    protectedFormat(c),
    () => {
      f.st64(b, i64.extend_u(get(3)), S.FIP);
      if (wide) f.st32(b, i32.and(i32.shr_u(get(4), c32(16)), c32(0x7ff)), S.FOP);
      f.st64(b, i64.extend_u(get(5)), S.FDP);
    },
    () => {
      const pointer = (n: number): Node => {
        const top = i32.shr_u(get(n + 1), c32(12));
        return i64.extend_u(
          i32.or(word(n), i32.shl(wide ? i32.and(top, c32(0xffff)) : i32.and(top, c32(15)), c32(16))),
        );
      };
      f.st64(b, pointer(3), S.FIP);
      f.st32(b, i32.and(get(4), c32(0x7ff)), S.FOP);
      f.st64(b, pointer(5), S.FDP);
    },
  );
  f.st32(b, c32(0), S.FCS);
  f.st32(b, c32(0), S.FDS);
  updateSummary(c);
}

/** Address of ST(`i`) for a constant i: base of the physical register, as i32. */
function st(c: SemCtx, i: number): Node {
  return i32.add(c.base, i32.shl(i32.and(i32.add(ld.i32(c.base, S.FTOP), c32(i)), c32(7)), c32(4)));
}

const fnstenv: Semantic = (c) => {
  storeImage(c, makeEnvironment(c));
  // All exceptions are masked afterwards.
  c.f.st32(c.base, i32.or(ld.i32(c.base, S.FCW), c32(0x3f)), S.FCW);
  updateSummary(c);
};
const fldenv: Semantic = (c) => {
  checkPending(c);
  loadImage(c, c.size === 2 ? 14 : 28);
  takeEnvironment(c);
};
const fnsave: Semantic = (c) => {
  const f = c.f;
  const at = makeEnvironment(c);
  for (let i = 0; i < 8; i++) {
    const r = f.tmp(st(c, i));
    f.st64(c.base, ld.i64(r, S.FPR), IMAGE + at + 10 * i);
    f.st16(c.base, ld.i32_16u(r, S.FPR + 8), IMAGE + at + 10 * i + 8);
  }
  storeImage(c, at + 80);
  init(c);
};
const frstor: Semantic = (c) => {
  const f = c.f;
  checkPending(c);
  const at = c.size === 2 ? 14 : 28;
  loadImage(c, at + 80);
  takeEnvironment(c);
  for (let i = 0; i < 8; i++) {
    const r = f.tmp(st(c, i));
    f.st64(r, ld.i64(c.base, IMAGE + at + 10 * i), S.FPR);
    f.st16(r, ld.i32_16u(c.base, IMAGE + at + 10 * i + 8), S.FPR + 8);
  }
};

/** Semantics of the x87 control instructions. */
export function x87ControlSemantics(): Map<number, Semantic> {
  const m = new Map<number, Semantic>();
  m.set(OP.FNINIT, init);
  m.set(OP.FNCLEX, (c) => {
    c.f.st32(c.base, i32.and(ld.i32(c.base, S.FSW), c32(0x7f00)), S.FSW);
    c.f.st32(c.base, c32(0), S.IGNNE);
  });
  m.set(OP.FNSTCW, (c) => c.write(0, ld.i32(c.base, S.FCW), 2));
  m.set(OP.FLDCW, (c) => {
    checkPending(c);
    setControl(c, c.read(0, 2));
    updateSummary(c);
  });
  m.set(OP.FNSTSW, (c) => c.write(0, c.f.tmp(statusWord(c)), 2));
  m.set(OP.FNSTENV, fnstenv);
  m.set(OP.FLDENV, fldenv);
  m.set(OP.FNSAVE, fnsave);
  m.set(OP.FRSTOR, frstor);
  m.set(OP.FWAIT, (c) => {
    // CR0.MP and CR0.TS together make FWAIT raise #NM.
    c.f.if(i32.eq(i32.and(ld.i32(c.base, S.CR0), c32(0xa)), c32(0xa)), () => c.raise(S.EXC_NM));
    checkPending(c);
  });
  m.set(OP.FNOP, checkPending);
  for (const op of [OP.FNENI, OP.FNDISI, OP.FNSETPM]) m.set(op, () => undefined);
  return m;
}
