// The common cases of instructions that change privilege or what the guest may touch: SYSCALL and SYSRET in 64-bit mode,
// SYSENTER and SYSEXIT between flat 32-bit segments, IRET from CPL 0, INT n, SWAPGS, STAC, CLAC, INVLPG, the bases of FS and
// GS, MOV, PUSH and POP with control and segment registers. Everything else about them, and every fault, is in system/. Intel
// SDM volume 2.
import { type Insn, Kind, OP } from '@hyve/x86';
import { isCanonical } from '../addresses.ts';
import type { Semantic, SemCtx } from '../ctx.ts';
import {
  CODE32_BITS,
  CODE32_MASK,
  CODE64_BITS,
  CODE64_MASK,
  DATA_BITS,
  DATA_MASK,
  isFlat32,
  STACK32_BITS,
  STACK32_MASK,
} from '../deliver.ts';
import * as S from '../state.ts';
import { ATTR_CODE32, ATTR_CODE64, ATTR_DATA32, ATTR_DPL3, DESC_DPL_SHIFT } from '../system/bits.ts';
import { c32, c64, c64hl, call, I32, I64, i32, i64, ld, type Node, select } from '../wasm/builder.ts';
import { attention, sys } from './integer.ts';

const CX = 1;
const DX = 2;
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

/** Code and data TLBs of CPL 0. */
function supervisorTlbs(c: SemCtx): void {
  supervisorTlb(c);
  c.f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32(S.TLB_DATA_SETS * S.TLB_BANK)), S.TLB_CODE);
}

/** Code and data TLBs of CPL 3. */
function userTlbs(c: SemCtx): void {
  c.f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32(S.TLB_BANK)), S.TLB_DATA);
  c.f.st32(c.base, i32.add(field(c, S.TLB_SYS), c32((S.TLB_DATA_SETS + 1) * S.TLB_BANK)), S.TLB_CODE);
}

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
      supervisorTlbs(c);
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
      userTlbs(c);
      f.if(opened, () => attention(c));
      c.jumpIndirect(target);
    });
  }
  sys(c);
};

/** Whether the code that is written here is of the mode in which {@link isFlat32} can be true. */
const mayBeFlat32 = (c: SemCtx): boolean => c.mode.bits === 32 && c.mode.ss32 && c.mode.flat;

const sysenter: Semantic = (c) => {
  const f = c.f;
  if (mayBeFlat32(c)) {
    const selector = f.tmp(i32.and(field(c, S.SYSENTER_CS), c32(0xfffc)));
    f.if(i32.and(i32.and(undisturbed(c), isFlat32(c.base)), i32.ne(selector, c32(0))), () => {
      f.st32(c.base, i32.and(field(c, S.EFL), c32(~(S.FLAG_VM | S.FLAG_IF | S.FLAG_RF))), S.EFL);
      setFlat(c, S.CS, selector, ATTR_CODE32);
      setFlat(c, S.SS, i32.add(selector, c32(8)), ATTR_DATA32);
      f.st32(c.base, c32(0), S.CPL);
      supervisorTlbs(c);
      c.setGpr64(SP, ld.i64_32u(c.base, S.SYSENTER_ESP));
      c.jumpIndirect(f.tmp(ld.i64_32u(c.base, S.SYSENTER_EIP)));
    });
  }
  sys(c);
};

const sysexit: Semantic = (c) => {
  const f = c.f;
  if (mayBeFlat32(c) && c.size === 4) {
    const selector = f.tmp(i32.and(field(c, S.SYSENTER_CS), c32(0xffff)));
    const allowed = i32.and(isZero(field(c, S.CPL)), i32.ne(i32.and(selector, c32(0xfffc)), c32(0)));
    const quiet = isZero(i32.and(field(c, S.EFL), c32(S.FLAG_AC)));
    f.if(i32.and(i32.and(undisturbed(c), isFlat32(c.base)), i32.and(allowed, quiet)), () => {
      setFlat(c, S.CS, i32.or(i32.add(selector, c32(16)), c32(3)), ATTR_CODE32 | ATTR_DPL3);
      setFlat(c, S.SS, i32.or(i32.add(selector, c32(24)), c32(3)), ATTR_DATA32 | ATTR_DPL3);
      f.st32(c.base, c32(3), S.CPL);
      userTlbs(c);
      const target = f.tmp(i64.extend_u(c.getGpr32(DX)));
      c.setGpr64(SP, i64.extend_u(c.getGpr32(CX)));
      c.jumpIndirect(target);
    });
  }
  sys(c);
};

/** INT n, where the interpreter keeps all registers in the state. */
const int: Semantic = (c) => {
  const f = c.f;
  if (c.mode.bits !== 16) {
    const vector = i32.and(c.imm32(), c32(0xff));
    f.if(call(c.env.fn('softInterrupt'), c.base, vector, c.nextRip(), c.getFlags()), () =>
      c.leaveStatus(c32(S.ST_JUMP)),
    );
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

/**
 * To flat code of the same width at CPL 3 or 0, with its five words in one page; three words from 32-bit code at CPL 0 to CPL
 * 0, which keeps its stack.
 */
const iret: Semantic = (c) => {
  const f = c.f;
  const long = c.mode.bits === 64;
  const word = long ? 8 : 4;
  if (c.size === word && (long || mayBeFlat32(c))) {
    const seg = (n: number): number => S.SEG + n * S.SEG_STRIDE;
    const nt = i32.and(field(c, S.EFL), c32(S.FLAG_NT));
    const allowed = isZero(i32.or(i32.or(field(c, S.CPL), field(c, S.NMI_BLOCKED)), nt));
    f.if(i32.and(i32.and(undisturbed(c), allowed), long ? c32(1) : isFlat32(c.base)), () => {
      const at = (n: number): Node => (long ? ld.i64(frame, n * 8) : ld.i64_32u(frame, n * 4));
      // The frame's part below the stack pointer first, which tells whether there is more.
      const sp = c.sp();
      const frame = f.tmp(call(c.env.mem.tryPtr, c.base, sp, c32(long ? 40 : 12), c32(0)));
      f.if(frame, () => {
        const target = f.tmp(at(0));
        const cs = f.tmp(ld.i32_16u(frame, word));
        const flags = f.tmp(ld.i32(frame, 2 * word));
        const ring = f.tmp(i32.and(cs, c32(3)));
        const user = f.tmp(i32.eq(ring, c32(3)));
        const whole = f.temp(I32);
        f.set(whole, c32(1));
        if (!long) f.if(user, () => f.set(whole, call(c.env.mem.tryPtr, c.base, sp, c32(20), c32(0))));
        const dpl = f.tmp(i32.shl(ring, c32(DESC_DPL_SHIFT)));
        const code = f.tmp(call(c.env.fn('flatSegment'), c.base, cs));
        const ss = f.temp(I32);
        const stack = f.temp(I32);
        const newSp = f.temp(I64);
        const popStack = (): void => {
          f.set(newSp, at(3));
          f.set(ss, ld.i32_16u(frame, 4 * word));
          f.set(stack, call(c.env.fn('flatSegment'), c.base, ss.get));
        };
        if (long) popStack();
        else
          f.if(i32.and(user, i32.ne(whole.get, c32(0))), popStack, () =>
            f.set(newSp, i64.and(i64.add(sp, c64(12)), c64(0xffffffff))),
          );
        // No selector at all will do at CPL 0 of 64-bit code; 32-bit code keeps SS there.
        const noStack = f.tmp(long ? isZero(i32.or(ss.get, ring)) : isZero(user));
        const stackFits = i32.and(
          i32.eq(
            i32.and(stack.get, c32(long ? DATA_MASK : STACK32_MASK)),
            i32.or(c32(long ? DATA_BITS : STACK32_BITS), dpl),
          ),
          i32.eq(i32.and(ss.get, c32(3)), ring),
        );
        const codeFits = i32.eq(
          i32.and(code, c32(long ? CODE64_MASK : CODE32_MASK)),
          i32.or(c32(long ? CODE64_BITS : CODE32_BITS), dpl),
        );
        const known = long
          ? i32.and(i32.or(user, isZero(ring)), isCanonical(target))
          : i32.and(i32.or(user, isZero(ring)), isZero(i32.and(flags, c32(S.FLAG_VM))));
        const fits = i32.and(i32.and(known, i32.ne(whole.get, c32(0))), i32.and(codeFits, i32.or(noStack, stackFits)));
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
          if (long)
            load(
              S.SS,
              ss.get,
              select(noStack, c32(0), c32(-1)),
              select(noStack, c32(S.ATTR_UNUSABLE), attrOf(stack.get)),
            );
          else f.if(user, () => load(S.SS, ss.get, c32(-1), attrOf(stack.get)));
          const before = f.tmp(field(c, S.EFL));
          const opened = f.tmp(i32.and(i32.and(flags, i32.xor(before, c32(-1))), c32(S.FLAG_IF)));
          c.setFlags(i32.or(i32.and(before, c32(~FLAGS_IRET)), i32.and(flags, c32(FLAGS_IRET))));
          f.st32(c.base, ring, S.CPL);
          c.setGpr64(SP, newSp.get);
          f.if(
            user,
            () => userTlbs(c),
            () => supervisorTlbs(c),
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
const CR4_PAE = 1 << 5;
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

/** MOV to ES, DS, FS and GS. */
const writeSegment: Semantic = (c) => {
  const f = c.f;
  const n = f.tmp(c.regNum(0));
  // Worked out before anything is conditional: it is so once only.
  if (c.isMem(1)) c.ea();
  // CS is #UD before anything is read.
  f.if(i32.or(i32.or(i32.eq(n, c32(S.CS)), i32.eq(n, c32(S.SS))), i32.gt_u(n, c32(S.GS))), () => sys(c));
  const selector = c.read(1, 2);
  f.if(isZero(call(c.env.fn('dataSegment'), c.base, n, selector)), () => sys(c));
};

/** POP to them. */
const popSegment: Semantic = (c) => {
  const f = c.f;
  const n = f.tmp(c.regNum(0));
  const size = c.size;
  f.if(i32.eq(n, c32(S.SS)), () => sys(c));
  const v = c.peek(size);
  const selector = i32.and(size === 8 ? i32.wrap(v) : v, c32(0xffff));
  f.if(isZero(call(c.env.fn('dataSegment'), c.base, n, selector)), () => sys(c));
  c.addSp(size);
};

/** PUSH of a segment register. */
const pushSegment: Semantic = (c) => {
  const seg = i32.add(c.base, i32.mul(c.regNum(0), c32(S.SEG_STRIDE)));
  const v = ld.i32_16u(seg, S.SEG + S.SEG_SEL);
  c.push(c.size, c.size === 8 ? i64.extend_u(v) : v);
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

/** What a PDPTE that is present must not have set: bits 1, 2 and 5 to 8, and those above the physical address. */
const PDPTE_RESERVED_LOW = 0x1e6;

/**
 * MOV to CR3 in 64-bit mode, to an address space that has a part of the TLB, and in flat 32-bit code with paging. All else
 * about control registers is in system/control.ts, and no region has such an instruction within.
 */
const writeControl: Semantic = (c) => {
  const f = c.f;
  const long = c.mode.bits === 64;
  if (long || mayBeFlat32(c)) {
    const n = c.regNum(0);
    f.if(i32.and(i32.eq(n, c32(3)), isZero(i32.or(field(c, S.CPL), field(c, S.NOFILL)))), () => {
      if (!long) {
        const to = f.tmp(i64.extend_u(c.readReg(1, 4)));
        // PDPTEs are looked at only where PAE paging is on. Then there is paging, which is all that this is for.
        const paged = i32.lt_s(field(c, S.CR0), c32(0));
        const pae = f.tmp(i32.and(field(c, S.CR4), c32(CR4_PAE)));
        const table = f.temp(I32);
        f.set(table, call(c.env.mem.physical, i64.and(to, c64(0xffffffe0))));
        const good = f.temp(I32);
        f.set(good, i32.and(i32.and(paged, isFlat32(c.base)), i32.ne(table.get, c32(0))));
        f.if(i32.and(good.get, i32.ne(pae, c32(0))), () => {
          for (let k = 0; k < 4; k++) {
            const e = f.tmp(ld.i64(table.get, 8 * k));
            const bad = i64.or(i64.and(e, c64(PDPTE_RESERVED_LOW)), i64.shr_u(e, c64(S.PHYS_BITS)));
            f.if(i32.and(i32.wrap(e), c32(1)), () => f.if(i64.ne(bad, c64(0)), () => f.set(good, c32(0))));
          }
        });
        f.if(good.get, () => {
          f.if(pae, () => {
            for (let k = 0; k < 4; k++) f.st64(c.base, ld.i64(table.get, 8 * k), S.PDPTE + 8 * k);
          });
          f.st64(c.base, to, S.CR3);
          f.do(call(c.env.mem.flushTlb, c.base, c32(0)));
          c.jumpIndirect(c.nextRip());
        });
        sys(c);
        return;
      }
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

/** MOV, PUSH and POP with segment, control and debug registers; null: it has none of these. */
export function systemMove(insn: Insn): Semantic | null {
  if (insn.op === OP.PUSH) return insn.kind0 === Kind.Seg ? pushSegment : null;
  if (insn.op === OP.POP) return insn.kind0 === Kind.Seg ? popSegment : null;
  if (insn.kind1 === Kind.Seg) return readSegment;
  if (insn.kind1 === Kind.Cr) return readControl;
  if (insn.kind0 === Kind.Cr) return writeControl;
  if (insn.kind0 === Kind.Seg) return writeSegment;
  return insn.kind0 === Kind.Dr || insn.kind1 === Kind.Dr ? sys : null;
}

/** Operations here: each may end up in TypeScript too. */
export const TRANSITIONS: ReadonlyMap<number, Semantic> = new Map([
  [OP.SYSCALL, syscall],
  [OP.SYSRET, sysret],
  [OP.SYSENTER, sysenter],
  [OP.SYSEXIT, sysexit],
  [OP.IRET, iret],
  [OP.INT, int],
  [OP.SWAPGS, swapgs],
  [OP.INVLPG, invlpg],
  [OP.RDFSBASE, segmentBase(S.FS, false)],
  [OP.RDGSBASE, segmentBase(S.GS, false)],
  [OP.WRFSBASE, segmentBase(S.FS, true)],
  [OP.WRGSBASE, segmentBase(S.GS, true)],
  [OP.STAC, alignCheck(true)],
  [OP.CLAC, alignCheck(false)],
]);
