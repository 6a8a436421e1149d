// The common cases of instructions that change privilege or what the guest may touch: SYSCALL and SYSRET in 64-bit mode,
// IRET from CPL 0, SWAPGS, STAC, CLAC, INVLPG, the bases of FS and GS, MOV with control and segment registers. Everything else about them, and every fault, is in system/. Intel SDM volume 2.
import { type Insn, Kind, OP } from '@hyve/x86';
import { isCanonical } from '../addresses.ts';
import type { Semantic, SemCtx } from '../ctx.ts';
import { CODE64_BITS, CODE64_MASK, DATA_BITS, DATA_MASK } from '../deliver.ts';
import * as S from '../state.ts';
import { ATTR_CODE64, ATTR_DATA32, ATTR_DPL3, DESC_DPL_SHIFT } from '../system/bits.ts';
import { c32, c64, c64hl, call, I32, i32, i64, ld, type Node, select } from '../wasm/builder.ts';
import { attention, sys } from './integer.ts';

const CX = 1;
const SP = 4;
const R11 = 11;
const CR4_SMAP = 1 << 21;
const EFER_SCE = 1;

const field = (c: SemCtx, off: number): Node => ld.i32(c.base, off);
const isZero = (v: Node): Node => i32.eqz(v);

/** Loads CS or SS with a flat segment. */
function setFlat(c: SemCtx, n: number, selector: Node, attr: number): void {
  const at = S.SEG + n * S.SEG_STRIDE;
  c.f.st64(c.base, c64(0), at + S.SEG_BASE);
  c.f.st32(c.base, c32(-1), at + S.SEG_LIMIT);
  c.f.st32(c.base, c32(attr), at + S.SEG_ATTR);
  c.f.st32(c.base, i32.and(selector, c32(0xffff)), at + S.SEG_SEL);
}

/** The data TLB of CPL 0, by SMAP and AC. */
function supervisorTlb(c: SemCtx): void {
  const open = i32.and(
    i32.ne(i32.and(field(c, S.CR4), c32(CR4_SMAP)), c32(0)),
    i32.ne(i32.and(field(c, S.EFL), c32(S.FLAG_AC)), c32(0)),
  );
  c.f.st32(c.base, i32.add(field(c, S.TLB_SYS), select(open, c32(2 * S.TLB_BANK), c32(0))), S.TLB_DATA);
}

/** Neither single step nor breakpoints nor alignment checks. */
const undisturbed = (c: SemCtx): Node =>
  i32.and(isZero(field(c, S.NOFILL)), isZero(i32.and(field(c, S.EFL), c32(S.FLAG_TF))));

const syscall: Semantic = (c) => {
  const f = c.f;
  if (c.mode.bits === 64) {
    f.if(i32.and(undisturbed(c), i32.and(field(c, S.EFER), c32(EFER_SCE))), () => {
      const flags = f.tmp(c.getFlags());
      const selector = f.tmp(i32.and(field(c, S.STAR + 4), c32(0xfffc)));
      c.setGpr64(CX, c.nextRip());
      c.setGpr64(R11, i64.extend_u(flags));
      c.setFlags(i32.and(flags, i32.xor(i32.or(field(c, S.FMASK), c32(S.FLAG_RF)), c32(-1))));
      setFlat(c, S.CS, selector, ATTR_CODE64);
      setFlat(c, S.SS, i32.add(selector, c32(8)), ATTR_DATA32);
      f.st32(c.base, c32(0), S.CPL);
      supervisorTlb(c);
      f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32(S.TLB_DATA_SETS * S.TLB_BANK)), S.TLB_CODE);
      c.jumpIndirect(f.tmp(ld.i64(c.base, S.LSTAR)));
    });
  }
  sys(c);
};

const sysret: Semantic = (c) => {
  const f = c.f;
  if (c.mode.bits === 64 && c.size === 8) {
    const target = f.tmp(c.getGpr64(CX));
    const flags = f.tmp(i32.and(c.getGpr32(R11), c32(0x3c7fd7)));
    const canonical = isCanonical(target);
    const plain = i32.and(isZero(i32.and(flags, c32(S.FLAG_TF | S.FLAG_AC))), canonical);
    const allowed = i32.and(isZero(field(c, S.CPL)), i32.and(field(c, S.EFER), c32(EFER_SCE)));
    f.if(i32.and(i32.and(undisturbed(c), plain), allowed), () => {
      const selector = f.tmp(i32.shr_u(field(c, S.STAR + 4), c32(16)));
      setFlat(c, S.CS, i32.or(i32.add(selector, c32(16)), c32(3)), ATTR_CODE64 | ATTR_DPL3);
      setFlat(c, S.SS, i32.or(i32.add(selector, c32(8)), c32(3)), ATTR_DATA32 | ATTR_DPL3);
      const opened = f.tmp(i32.and(i32.and(flags, i32.xor(field(c, S.EFL), c32(-1))), c32(S.FLAG_IF)));
      c.setFlags(flags);
      f.st32(c.base, c32(3), S.CPL);
      f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32(S.TLB_BANK)), S.TLB_DATA);
      f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32((S.TLB_DATA_SETS + 1) * S.TLB_BANK)), S.TLB_CODE);
      f.if(opened, () => attention(c));
      c.jumpIndirect(target);
    });
  }
  sys(c);
};

const FLAGS_IRET =
  0x8d5 |
  S.FLAG_DF |
  S.FLAG_NT |
  S.FLAG_AC |
  S.FLAG_ID |
  S.FLAG_IF |
  (3 << S.FLAG_IOPL_SHIFT) |
  S.FLAG_VIF |
  S.FLAG_VIP;

/** To flat 64-bit code at CPL 3 or 0, with its five words in one page. */
const iret: Semantic = (c) => {
  const f = c.f;
  if (c.mode.bits === 64 && c.size === 8) {
    const seg = (n: number): number => S.SEG + n * S.SEG_STRIDE;
    const allowed = isZero(
      i32.or(i32.or(field(c, S.CPL), field(c, S.NMI_BLOCKED)), i32.and(field(c, S.EFL), c32(S.FLAG_NT))),
    );
    f.if(i32.and(undisturbed(c), allowed), () => {
      const frame = f.tmp(call(c.env.mem.tryPtr, c.base, c.getGpr64(SP), c32(40), c32(0)));
      f.if(frame, () => {
        const target = f.tmp(ld.i64(frame));
        const cs = f.tmp(ld.i32_16u(frame, 8));
        const flags = f.tmp(ld.i32(frame, 16));
        const newSp = f.tmp(ld.i64(frame, 24));
        const ss = f.tmp(ld.i32_16u(frame, 32));
        const ring = f.tmp(i32.and(cs, c32(3)));
        const user = f.tmp(i32.eq(ring, c32(3)));
        const dpl = f.tmp(i32.shl(ring, c32(DESC_DPL_SHIFT)));
        const code = f.tmp(call(c.env.fn('flatSegment'), c.base, cs));
        const stack = f.tmp(call(c.env.fn('flatSegment'), c.base, ss));
        // No selector at all will do at CPL 0.
        const noStack = f.tmp(isZero(i32.or(ss, ring)));
        const stackFits = i32.and(
          i32.eq(i32.and(stack, c32(DATA_MASK)), i32.or(c32(DATA_BITS), dpl)),
          i32.eq(i32.and(ss, c32(3)), ring),
        );
        const fits = i32.and(
          i32.and(i32.or(user, isZero(ring)), isCanonical(target)),
          i32.and(i32.eq(i32.and(code, c32(CODE64_MASK)), i32.or(c32(CODE64_BITS), dpl)), i32.or(noStack, stackFits)),
        );
        // At CPL 3 alignment checks and what is left of inner segments are for others to look at.
        let quiet: Node = isZero(i32.and(flags, c32(S.FLAG_AC)));
        for (const n of [S.ES, S.DS, S.FS, S.GS]) {
          const attr = f.tmp(field(c, seg(n) + S.SEG_ATTR));
          quiet = i32.and(
            quiet,
            i32.or(
              i32.ne(i32.and(attr, c32(S.ATTR_UNUSABLE)), c32(0)),
              i32.eq(i32.and(attr, c32(ATTR_DPL3)), c32(ATTR_DPL3)),
            ),
          );
        }
        const calm = i32.and(isZero(i32.and(flags, c32(S.FLAG_TF))), i32.or(isZero(user), quiet));
        f.if(i32.and(fits, calm), () => {
          const attrOf = (d: Node): Node => i32.and(i32.shr_u(d, c32(8)), c32(0xf0ff));
          const load = (n: number, selector: Node, limit: Node, attr: Node): void => {
            f.st64(c.base, c64(0), seg(n) + S.SEG_BASE);
            f.st32(c.base, limit, seg(n) + S.SEG_LIMIT);
            f.st32(c.base, attr, seg(n) + S.SEG_ATTR);
            f.st32(c.base, selector, seg(n) + S.SEG_SEL);
          };
          load(S.CS, cs, c32(-1), attrOf(code));
          load(S.SS, ss, select(noStack, c32(0), c32(-1)), select(noStack, c32(S.ATTR_UNUSABLE), attrOf(stack)));
          const before = f.tmp(field(c, S.EFL));
          const opened = f.tmp(i32.and(i32.and(flags, i32.xor(before, c32(-1))), c32(S.FLAG_IF)));
          c.setFlags(i32.or(i32.and(before, c32(~FLAGS_IRET)), i32.and(flags, c32(FLAGS_IRET))));
          f.st32(c.base, ring, S.CPL);
          c.setGpr64(SP, newSp);
          f.if(
            user,
            () => {
              f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32(S.TLB_BANK)), S.TLB_DATA);
              f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32((S.TLB_DATA_SETS + 1) * S.TLB_BANK)), S.TLB_CODE);
            },
            () => {
              supervisorTlb(c);
              f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32(S.TLB_DATA_SETS * S.TLB_BANK)), S.TLB_CODE);
            },
          );
          f.if(opened, () => attention(c));
          c.jumpIndirect(target);
        });
      });
    });
  }
  sys(c);
};

const swapgs: Semantic = (c) => {
  const f = c.f;
  if (c.mode.bits !== 64) {
    sys(c);
    return;
  }
  f.if(field(c, S.CPL), () => sys(c));
  const at = S.SEG + S.GS * S.SEG_STRIDE + S.SEG_BASE;
  const old = f.tmp(ld.i64(c.base, at));
  f.st64(c.base, ld.i64(c.base, S.KERNEL_GS_BASE), at);
  f.st64(c.base, old, S.KERNEL_GS_BASE);
};

const alignCheck =
  (on: boolean): Semantic =>
  (c) => {
    const f = c.f;
    // CR4.SMAP can be set only where the instructions exist.
    f.if(i32.or(i32.or(field(c, S.CPL), field(c, S.NOFILL)), isZero(i32.and(field(c, S.CR4), c32(CR4_SMAP)))), () =>
      sys(c),
    );
    const efl = field(c, S.EFL);
    f.st32(c.base, on ? i32.or(efl, c32(S.FLAG_AC)) : i32.and(efl, c32(~S.FLAG_AC)), S.EFL);
    f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32(on ? 2 * S.TLB_BANK : 0)), S.TLB_DATA);
    c.dataTlbChanged();
  };

const CR4_FSGSBASE = 1 << 16;
const CR4_PCIDE = 1 << 17;
const EFER_LMA = 1 << 10;

/** RDFSBASE and RDGSBASE, WRFSBASE and WRGSBASE. In 64-bit mode nothing is derived from these bases. */
const segmentBase =
  (n: number, write: boolean): Semantic =>
  (c) => {
    const f = c.f;
    if (c.mode.bits !== 64) {
      sys(c);
      return;
    }
    const at = S.SEG + n * S.SEG_STRIDE + S.SEG_BASE;
    const size = c.sizeOf(0);
    f.if(isZero(i32.and(field(c, S.CR4), c32(CR4_FSGSBASE))), () => sys(c));
    if (!write) {
      c.write(0, size === 8 ? ld.i64(c.base, at) : ld.i32(c.base, at), size);
      return;
    }
    const v = c.read(0, size);
    const base = f.tmp(size === 8 ? v : i64.extend_u(v));
    f.if(isZero(isCanonical(base)), () => sys(c));
    f.st64(c.base, base, at);
  };

/** INVLPG ends regions and blocks: the page with the code itself may be elsewhere now. */
const invlpg: Semantic = (c) => {
  const f = c.f;
  if (c.mode.bits === 16) {
    sys(c);
    return;
  }
  // Worked out before anything is conditional: it is so once only.
  const at = c.ea();
  f.if(field(c, S.CPL), () => sys(c));
  const la = f.tmp(c.mode.bits === 64 ? at : i64.and(at, c64(0xffffffff)));
  f.if(isCanonical(la), () => f.do(call(c.env.mem.dropPage, c.base, la)));
  c.jumpIndirect(c.nextRip());
};

/** MOV from a segment register. */
const readSegment: Semantic = (c) => {
  const seg = i32.add(c.base, i32.mul(c.regNum(1), c32(S.SEG_STRIDE)));
  const v = ld.i32_16u(seg, S.SEG + S.SEG_SEL);
  if (c.isMem(0)) c.write(0, v, 2);
  else c.write(0, c.size === 8 ? i64.extend_u(v) : v, c.size);
};

/** MOV from CR0, CR2, CR3, CR4. */
const readControl: Semantic = (c) => {
  const f = c.f;
  const n = f.tmp(c.regNum(1));
  const fields = i32.or(i32.eqz(n), i32.lt_u(i32.sub(n, c32(2)), c32(3)));
  f.if(i32.or(field(c, S.CPL), isZero(fields)), () => sys(c));
  const at = i32.add(c.base, select(n, i32.shl(i32.sub(n, c32(1)), c32(3)), c32(0)));
  if (c.mode.bits === 64) c.write(0, ld.i64(at, S.CR0), 8);
  else c.write(0, ld.i32(at, S.CR0), 4);
};

/**
 * MOV to CR3 in 64-bit mode, to an address space that has a part of the TLB. All else about control registers is in
 * system/control.ts, and no region has such an instruction within.
 */
const writeControl: Semantic = (c) => {
  const f = c.f;
  if (c.mode.bits === 64) {
    const n = c.regNum(0);
    f.if(i32.and(i32.eq(n, c32(3)), isZero(i32.or(field(c, S.CPL), field(c, S.NOFILL)))), () => {
      const v = f.tmp(c.readReg(1, 8));
      const tagged = f.tmp(i32.ne(i32.and(field(c, S.CR4), c32(CR4_PCIDE)), c32(0)));
      const keep = f.tmp(i32.and(tagged, i64.lt_s(v, c64(0))));
      const next = f.tmp(select(keep, i64.and(v, c64hl(0x7fffffff, -1)), v));
      // Which of the TLB's spaces has the PCID; without PCIDs the first has everything.
      const pcid = f.tmp(i32.and(i32.wrap(next), c32(0xfff)));
      const space = f.temp(I32);
      f.set(space, select(tagged, c32(-1), c32(0)));
      for (let k = 0; k < S.TLB_SPACES; k++)
        f.if(i32.and(tagged, i32.eq(field(c, S.PCIDS + 4 * k), pcid)), () => f.set(space, c32(k)));
      const usual = i32.and(i32.ge_s(space.get, c32(0)), i64.eqz(i64.shr_u(next, c64(S.PHYS_BITS))));
      f.if(i32.and(usual, i32.ne(i32.and(field(c, S.EFER), c32(EFER_LMA)), c32(0))), () => {
        f.st64(c.base, next, S.CR3);
        const bank = f.tmp(i32.add(i32.add(c.base, c32(S.STATE_SIZE)), i32.mul(space.get, c32(S.TLB_SPACE))));
        f.st32(c.base, bank, S.TLB_SYS);
        f.st32(c.base, i32.add(bank, c32(S.TLB_DATA_SETS * S.TLB_BANK)), S.TLB_CODE);
        const log = i32.mul(space.get, c32(S.TLB_LOG_BYTES));
        f.st32(c.base, i32.add(i32.add(c.base, c32(S.STATE_SIZE + S.TLB_BANKS)), log), S.TLB_LOG);
        supervisorTlb(c);
        f.if(isZero(keep), () => f.do(call(c.env.mem.flushTlb, c.base, c32(0))));
        c.jumpIndirect(c.nextRip());
      });
    });
  }
  sys(c);
};

/** MOV between general, segment, control and debug registers; null: it has none of the latter. */
export function systemMove(insn: Insn): Semantic | null {
  if (insn.kind1 === Kind.Seg) return readSegment;
  if (insn.kind1 === Kind.Cr) return readControl;
  if (insn.kind0 === Kind.Cr) return writeControl;
  return insn.kind0 === Kind.Seg || insn.kind0 === Kind.Dr || insn.kind1 === Kind.Dr ? sys : null;
}

/** Operations here: each may end up in TypeScript too. */
export const TRANSITIONS: ReadonlyMap<number, Semantic> = new Map([
  [OP.SYSCALL, syscall],
  [OP.SYSRET, sysret],
  [OP.IRET, iret],
  [OP.SWAPGS, swapgs],
  [OP.INVLPG, invlpg],
  [OP.RDFSBASE, segmentBase(S.FS, false)],
  [OP.RDGSBASE, segmentBase(S.GS, false)],
  [OP.WRFSBASE, segmentBase(S.FS, true)],
  [OP.WRGSBASE, segmentBase(S.GS, true)],
  [OP.STAC, alignCheck(true)],
  [OP.CLAC, alignCheck(false)],
]);
