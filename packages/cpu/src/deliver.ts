// Page faults delivered without leaving WebAssembly, in the one case that systems in 64-bit mode make by the thousand: from
// 64-bit code at CPL 3 or 0, through an interrupt or trap gate, to flat 64-bit code at CPL 0. Whatever is different (gates
// with IST, descriptors that are not flat or not accessed, stacks that are not at hand, single step, breakpoints) is left to
// system/events.ts, which does all of it. Intel SDM volume 3A 6.12, 6.14.
import { isCanonical } from './addresses.ts';
import type { MemFns } from './mem.ts';
import * as S from './state.ts';
import * as B from './system/bits.ts';
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
  type Local,
  ld,
  type Module,
  type Node,
  select,
} from './wasm/builder.ts';

const CR4_SMAP = 1 << 21;
const GATE_IDT_PF = S.EXC_PF * 16;
/** What a delivery costs of BUDGET: a guest that faults for ever without retiring an instruction must end its slice. */
const DELIVERY_COST = 8;
/** Bits of a descriptor's second word that decide about 64-bit code, and what they are at DPL 0. */
export const CODE64_MASK: number =
  B.DESC_S | B.DESC_CODE | B.DESC_CE | B.DESC_P | B.DESC_L | B.DESC_D | B.DESC_A | (3 << B.DESC_DPL_SHIFT);
export const CODE64_BITS: number = B.DESC_S | B.DESC_CODE | B.DESC_P | B.DESC_L | B.DESC_A;
/** The same for writable data. */
export const DATA_MASK: number = B.DESC_S | B.DESC_CODE | B.DESC_RW | B.DESC_P | B.DESC_A | (3 << B.DESC_DPL_SHIFT);
export const DATA_BITS: number = B.DESC_S | B.DESC_RW | B.DESC_P | B.DESC_A;

/** Functions that {@link emitDelivery} makes. */
export interface Delivery {
  /** (base) → 1 if the fault in FAULT has been delivered and RIP is the handler's, 0 if nothing happened. */
  readonly pageFault: FnRef;
  /** (base, selector) → second word of its descriptor in the GDT if that is flat, else 0. FAULT stays as it is. */
  readonly flatSegment: FnRef;
}

/** Emits the functions. */
export function emitDelivery(m: Module, mem: MemFns, getFlags: FnRef): Delivery {
  const p = (f: Fn, n: number): Node => (f.params[n] as Local).get;

  const implicit = (base: Node, la: Node, size: number, write: number): Node =>
    call(mem.pointer, base, la, c32(size), c32(write), ld.i32(base, S.TLB_SYS), c32(S.ACC_IMPLICIT | write));

  const flatSegment = m.fn([I32, I32], I32);
  {
    const f = flatSegment;
    const base = p(f, 0);
    const sel = p(f, 1);
    const at = f.local(I32);
    const hi = f.local(I32);
    // In the GDT, not null, within the limit.
    f.if(i32.or(i32.and(sel, c32(4)), i32.eqz(i32.and(sel, c32(0xfff8)))), () => f.ret(c32(0)));
    f.set(at, i32.and(sel, c32(0xfff8)));
    f.if(i32.gt_u(i32.add(at.get, c32(7)), ld.i32(base, S.GDT_LIMIT)), () => f.ret(c32(0)));
    f.set(at, implicit(base, i64.add(ld.i64(base, S.GDT_BASE), i64.extend_u(at.get)), 8, 0));
    f.if(i32.eqz(at.get), () => f.ret(c32(0)));
    f.set(hi, ld.i32(at.get, 4));
    f.if(
      i32.or(i32.ne(ld.i32(at.get), c32(0xffff)), i32.ne(i32.and(hi.get, c32(0xff8f00ff | 0)), c32(0x008f0000))),
      () => f.ret(c32(0)),
    );
    f.emit(hi.get);
  }

  const pageFault = m.fn([I32], I32);
  {
    const f = pageFault;
    const base = p(f, 0);
    const gate = f.local(I32);
    const type = f.local(I32);
    const cs = f.local(I32);
    const desc = f.local(I32);
    const target = f.local(I64);
    const user = f.local(I32);
    const sp = f.local(I64);
    const stack = f.local(I32);
    const efl = f.local(I32);
    const seg = (n: number): number => S.SEG + n * S.SEG_STRIDE;
    const giveUpIf = (cond: Node): void => f.if(cond, () => f.ret(c32(0)));
    const no = i32.eqz;
    giveUpIf(i32.ne(ld.i32(base, S.FAULT), c32(S.EXC_PF + 1)));
    giveUpIf(i32.or(ld.i32(base, S.NOFILL), ld.i32(base, S.NONCANON)));
    giveUpIf(i32.ne(i32.and(ld.i32(base, S.MODE), c32(S.MODE_SIZE)), c32(2)));
    f.set(efl, ld.i32(base, S.EFL));
    giveUpIf(i32.and(efl.get, c32(S.FLAG_TF)));
    f.set(user, i32.eq(ld.i32(base, S.CPL), c32(3)));
    giveUpIf(i32.and(no(user.get), i32.ne(ld.i32(base, S.CPL), c32(0))));
    // The gate: present, interrupt or trap, no IST.
    giveUpIf(i32.lt_u(ld.i32(base, S.IDT_LIMIT), c32(GATE_IDT_PF + 15)));
    f.set(gate, implicit(base, i64.add(ld.i64(base, S.IDT_BASE), c64(GATE_IDT_PF)), 16, 0));
    giveUpIf(no(gate.get));
    f.set(type, ld.i32(gate.get, 4));
    giveUpIf(i32.ne(i32.and(type.get, c32(0x9e07)), c32(0x8e00)));
    f.set(cs, ld.i32_16u(gate.get, 2));
    f.set(
      target,
      i64.or(
        i64.extend_u(i32.or(ld.i32_16u(gate.get), i32.and(type.get, c32(0xffff0000 | 0)))),
        i64.shl(ld.i64_32u(gate.get, 8), c64(32)),
      ),
    );
    giveUpIf(no(isCanonical(target.get)));
    f.set(desc, call(flatSegment.ref, base, cs.get));
    giveUpIf(i32.ne(i32.and(desc.get, c32(CODE64_MASK)), c32(CODE64_BITS)));
    // The stack: of the TSS, or the one in use.
    f.if(
      user.get,
      () => {
        giveUpIf(i32.lt_u(ld.i32(base, seg(S.TR) + S.SEG_LIMIT), c32(11)));
        f.set(stack, implicit(base, i64.add(ld.i64(base, seg(S.TR) + S.SEG_BASE), c64(4)), 8, 0));
        giveUpIf(no(stack.get));
        f.set(sp, i64.sub(i64.and(ld.i64(stack.get), c64(-16)), c64(48)));
        f.set(stack, implicit(base, sp.get, 48, 1));
      },
      () => {
        f.set(sp, i64.sub(i64.and(ld.i64(base, S.GPR + 4 * 8), c64(-16)), c64(48)));
        f.set(
          stack,
          call(
            mem.pointer,
            base,
            sp.get,
            c32(48),
            c32(1),
            ld.i32(base, S.TLB_DATA),
            i32.or(c32(S.ACC_WRITE), select(i32.and(efl.get, c32(S.FLAG_AC)), c32(0), c32(S.ACC_IMPLICIT))),
          ),
        );
      },
    );
    giveUpIf(no(stack.get));
    // Nothing can go wrong any more.
    f.st64(stack.get, ld.i64_32u(base, S.FAULT_CODE));
    f.st64(stack.get, ld.i64(base, S.RIP), 8);
    f.st64(stack.get, ld.i64_32u(base, seg(S.CS) + S.SEG_SEL), 16);
    f.st64(stack.get, i64.extend_u(i32.or(call(getFlags, base), c32(S.FLAG_RF))), 24);
    f.st64(stack.get, ld.i64(base, S.GPR + 4 * 8), 32);
    f.st64(stack.get, ld.i64_32u(base, seg(S.SS) + S.SEG_SEL), 40);
    f.st64(base, ld.i64(base, S.FAULT_ADDR), S.CR2);
    f.st32(base, c32(0), S.FAULT);
    f.if(user.get, () => {
      f.st64(base, c64(0), seg(S.SS) + S.SEG_BASE);
      f.st32(base, c32(0), seg(S.SS) + S.SEG_LIMIT);
      f.st32(base, c32(S.ATTR_UNUSABLE), seg(S.SS) + S.SEG_ATTR);
      f.st32(base, c32(0), seg(S.SS) + S.SEG_SEL);
      f.st32(base, c32(0), S.CPL);
    });
    f.st64(base, c64(0), seg(S.CS) + S.SEG_BASE);
    f.st32(base, c32(-1), seg(S.CS) + S.SEG_LIMIT);
    f.st32(base, i32.and(i32.shr_u(desc.get, c32(8)), c32(0xf0ff)), seg(S.CS) + S.SEG_ATTR);
    f.st32(base, i32.and(cs.get, c32(0xfffc)), seg(S.CS) + S.SEG_SEL);
    f.st64(base, sp.get, S.GPR + 4 * 8);
    f.st64(base, target.get, S.RIP);
    // A trap gate leaves IF alone.
    const cleared = S.FLAG_TF | S.FLAG_NT | S.FLAG_VM | S.FLAG_RF;
    f.set(efl, i32.and(efl.get, select(i32.and(type.get, c32(0x100)), c32(~cleared), c32(~(cleared | S.FLAG_IF)))));
    f.st32(base, efl.get, S.EFL);
    f.st32(base, i32.add(ld.i32(base, S.TLB_SYS), c32(S.TLB_DATA_SETS * S.TLB_BANK)), S.TLB_CODE);
    const open = i32.and(
      i32.ne(i32.and(ld.i32(base, S.CR4), c32(CR4_SMAP)), c32(0)),
      i32.ne(i32.and(efl.get, c32(S.FLAG_AC)), c32(0)),
    );
    f.st32(base, i32.add(ld.i32(base, S.TLB_SYS), select(open, c32(2 * S.TLB_BANK), c32(0))), S.TLB_DATA);
    f.st32(base, i32.sub(ld.i32(base, S.BUDGET), c32(DELIVERY_COST)), S.BUDGET);
    f.emit(c32(1));
  }
  return { pageFault: pageFault.ref, flatSegment: flatSegment.ref };
}
