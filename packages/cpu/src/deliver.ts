// Events delivered and segments loaded without leaving WebAssembly, in the cases that systems make by the thousand: page
// faults and INT n, from 64-bit code or flat 32-bit code at CPL 3 or 0, through an interrupt or trap gate, to flat code of the
// same width at CPL 0; data segments whose descriptors are at hand and marked accessed. Whatever is different (gates with IST,
// task gates, descriptors that are not flat or not accessed, stacks that are not at hand, single step, breakpoints) is left to
// system/, which does all of it. Intel SDM volume 3A 3.4, 5.5, 6.12, 6.14.
import { isCanonical } from './addresses.ts';
import { is64Bit } from './ctx.ts';
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
const EFER_LMA = 1 << 10;
/** What a delivery costs of BUDGET: a guest that faults for ever without retiring an instruction must end its slice. */
const DELIVERY_COST = 8;
/** Bits of a descriptor's second word that decide about 64-bit code, and what they are at DPL 0. */
export const CODE64_MASK: number =
  B.DESC_S | B.DESC_CODE | B.DESC_CE | B.DESC_P | B.DESC_L | B.DESC_D | B.DESC_A | (3 << B.DESC_DPL_SHIFT);
export const CODE64_BITS: number = B.DESC_S | B.DESC_CODE | B.DESC_P | B.DESC_L | B.DESC_A;
/** The same for flat 32-bit code, which must be readable: code is data too where all segments are flat. */
export const CODE32_MASK: number =
  B.DESC_S | B.DESC_CODE | B.DESC_CE | B.DESC_RW | B.DESC_P | B.DESC_D | B.DESC_A | (3 << B.DESC_DPL_SHIFT);
export const CODE32_BITS: number = B.DESC_S | B.DESC_CODE | B.DESC_RW | B.DESC_P | B.DESC_D | B.DESC_A;
/** The same for writable data. */
export const DATA_MASK: number = B.DESC_S | B.DESC_CODE | B.DESC_RW | B.DESC_P | B.DESC_A | (3 << B.DESC_DPL_SHIFT);
export const DATA_BITS: number = B.DESC_S | B.DESC_RW | B.DESC_P | B.DESC_A;

/** The same for the stack of 32-bit code. */
export const STACK32_MASK: number = DATA_MASK | B.DESC_CE | B.DESC_D;
export const STACK32_BITS: number = DATA_BITS | B.DESC_D;
/** MODE bits that say 32-bit protected mode, all segments flat, and what they are. */
export const FLAT32_MASK: number = S.MODE_SIZE | S.MODE_SS32 | S.MODE_FLAT | S.MODE_VEX;
export const FLAT32_BITS: number = 1 | S.MODE_SS32 | S.MODE_FLAT | S.MODE_VEX;

/** Whether flat 32-bit code runs outside long mode: then loading flat segments leaves MODE as it is. */
export function isFlat32(base: Node): Node {
  return i32.and(
    i32.eq(i32.and(ld.i32(base, S.MODE), c32(FLAT32_MASK)), c32(FLAT32_BITS)),
    i32.eqz(i32.and(ld.i32(base, S.EFER), c32(EFER_LMA))),
  );
}

/** Functions that {@link emitDelivery} makes. */
export interface Delivery {
  /** (base) → 1 if the fault in FAULT has been delivered and RIP is the handler's, 0 if nothing happened. */
  readonly pageFault: FnRef;
  /** (base, vector, return address as i64, EFLAGS to push) → 1 if INT n has entered its handler, 0 if nothing happened. */
  readonly softInterrupt: FnRef;
  /** (base, selector) → second word of its descriptor if that is flat, else 0. FAULT stays as it is. */
  readonly flatSegment: FnRef;
  /** (base, segment number, selector) → 1 if ES, DS, FS or GS has been loaded and MODE stays, 0 if nothing happened. */
  readonly dataSegment: FnRef;
}

/** Emits the functions. */
export function emitDelivery(m: Module, mem: MemFns, getFlags: FnRef): Delivery {
  const p = (f: Fn, n: number): Node => (f.params[n] as Local).get;

  const implicit = (base: Node, la: Node, size: number, write: number): Node =>
    call(mem.pointer, base, la, c32(size), c32(write), ld.i32(base, S.TLB_SYS), c32(S.ACC_IMPLICIT | write));
  const seg = (n: number): number => S.SEG + n * S.SEG_STRIDE;

  // (base, selector) → host address of its descriptor, or 0.
  const descriptor = m.fn([I32, I32], I32);
  {
    const f = descriptor;
    const base = p(f, 0);
    const sel = p(f, 1);
    const at = f.local(I32);
    f.set(at, i32.and(sel, c32(0xfff8)));
    const last = i32.add(at.get, c32(7));
    f.if(i32.and(sel, c32(4)), () => {
      f.if(
        i32.or(
          i32.and(ld.i32(base, seg(S.LDTR) + S.SEG_ATTR), c32(S.ATTR_UNUSABLE)),
          i32.gt_u(last, ld.i32(base, seg(S.LDTR) + S.SEG_LIMIT)),
        ),
        () => f.ret(c32(0)),
      );
      f.ret(implicit(base, i64.add(ld.i64(base, seg(S.LDTR) + S.SEG_BASE), i64.extend_u(at.get)), 8, 0));
    });
    f.if(i32.or(i32.eqz(at.get), i32.gt_u(last, ld.i32(base, S.GDT_LIMIT))), () => f.ret(c32(0)));
    f.emit(implicit(base, i64.add(ld.i64(base, S.GDT_BASE), i64.extend_u(at.get)), 8, 0));
  }

  const flatSegment = m.fn([I32, I32], I32);
  {
    const f = flatSegment;
    const at = f.tmp(call(descriptor.ref, p(f, 0), p(f, 1)));
    f.if(i32.eqz(at), () => f.ret(c32(0)));
    const hi = f.tmp(ld.i32(at, 4));
    f.if(i32.or(i32.ne(ld.i32(at), c32(0xffff)), i32.ne(i32.and(hi, c32(0xff8f00ff | 0)), c32(0x008f0000))), () =>
      f.ret(c32(0)),
    );
    f.emit(hi);
  }

  const dataSegment = m.fn([I32, I32, I32], I32);
  {
    const f = dataSegment;
    const base = p(f, 0);
    const n = p(f, 1);
    const sel = p(f, 2);
    const giveUpIf = (cond: Node): void => f.if(cond, () => f.ret(c32(0)));
    // MODE knows nothing of FS and GS.
    const outer = f.tmp(i32.ge_u(n, c32(S.FS)));
    giveUpIf(i32.or(i32.gt_u(n, c32(S.GS)), i32.or(i32.eq(n, c32(S.CS)), i32.eq(n, c32(S.SS)))));
    giveUpIf(i32.eqz(i32.and(ld.i32(base, S.MODE), c32(S.MODE_VEX))));
    const to = f.tmp(i32.add(base, i32.mul(n, c32(S.SEG_STRIDE))));
    f.if(i32.eqz(i32.and(sel, c32(0xfffc))), () => {
      giveUpIf(i32.eqz(outer));
      f.st64(to, c64(0), S.SEG + S.SEG_BASE);
      f.st32(to, c32(0), S.SEG + S.SEG_LIMIT);
      f.st32(to, c32(S.ATTR_UNUSABLE), S.SEG + S.SEG_ATTR);
      f.st32(to, sel, S.SEG + S.SEG_SEL);
      f.ret(c32(1));
    });
    const at = f.tmp(call(descriptor.ref, base, sel));
    giveUpIf(i32.eqz(at));
    const lo = f.tmp(ld.i32(at));
    const hi = f.tmp(ld.i32(at, 4));
    const kind = B.DESC_S | B.DESC_CODE | B.DESC_P | B.DESC_A;
    giveUpIf(i32.ne(i32.and(hi, c32(kind)), c32(B.DESC_S | B.DESC_P | B.DESC_A)));
    const dpl = f.tmp(i32.and(i32.shr_u(hi, c32(B.DESC_DPL_SHIFT)), c32(3)));
    giveUpIf(i32.or(i32.lt_u(dpl, i32.and(sel, c32(3))), i32.lt_u(dpl, ld.i32(base, S.CPL))));
    const start = f.tmp(
      i32.or(
        i32.or(i32.shr_u(lo, c32(16)), i32.shl(i32.and(hi, c32(0xff)), c32(16))),
        i32.and(hi, c32(0xff000000 | 0)),
      ),
    );
    const limit = f.local(I32);
    f.set(limit, i32.or(i32.and(lo, c32(0xffff)), i32.and(hi, c32(0xf0000))));
    f.if(i32.and(hi, c32(B.DESC_G)), () => f.set(limit, i32.or(i32.shl(limit.get, c32(12)), c32(0xfff))));
    const flat = i32.and(
      i32.and(i32.eqz(start), i32.eq(limit.get, c32(-1))),
      i32.eq(i32.and(hi, c32(B.DESC_RW | B.DESC_CE)), c32(B.DESC_RW)),
    );
    giveUpIf(i32.eqz(i32.or(outer, i32.and(flat, i32.ne(i32.and(ld.i32(base, S.MODE), c32(S.MODE_FLAT)), c32(0))))));
    f.st64(to, i64.extend_u(start), S.SEG + S.SEG_BASE);
    f.st32(to, limit.get, S.SEG + S.SEG_LIMIT);
    f.st32(to, i32.and(i32.shr_u(hi, c32(8)), c32(0xf0ff)), S.SEG + S.SEG_ATTR);
    f.st32(to, sel, S.SEG + S.SEG_SEL);
    f.emit(c32(1));
  }

  // (base, vector, return address, EFLAGS to push, error code or -1 for INT n) → 1: entered, 0: nothing happened. MODE stays.
  const enterHandler = (long: boolean): FnRef => {
    const f = m.fn([I32, I32, I64, I32, I32], I32);
    const base = p(f, 0);
    const vector = p(f, 1);
    const rip = p(f, 2);
    const error = p(f, 4);
    const gate = f.local(I32);
    const type = f.local(I32);
    const cs = f.local(I32);
    const desc = f.local(I32);
    const target = f.local(I64);
    const user = f.local(I32);
    const sp = f.local(I64);
    const stack = f.local(I32);
    const efl = f.local(I32);
    const bytes = f.local(I32);
    const newSs = f.local(I32);
    const ssDesc = f.local(I32);
    const giveUpIf = (cond: Node): void => f.if(cond, () => f.ret(c32(0)));
    const no = i32.eqz;
    const word = long ? 8 : 4;
    const gateSize = 2 * word;
    giveUpIf(long ? i32.eqz(is64Bit(base)) : no(isFlat32(base)));
    f.set(efl, ld.i32(base, S.EFL));
    giveUpIf(i32.or(ld.i32(base, S.NOFILL), i32.and(efl.get, c32(S.FLAG_TF))));
    f.set(user, i32.eq(ld.i32(base, S.CPL), c32(3)));
    giveUpIf(i32.and(no(user.get), i32.ne(ld.i32(base, S.CPL), c32(0))));
    // The gate: present, interrupt or trap, no IST, open to the program that asks for it.
    const at = f.tmp(i32.mul(vector, c32(gateSize)));
    giveUpIf(i32.lt_u(ld.i32(base, S.IDT_LIMIT), i32.add(at, c32(gateSize - 1))));
    f.set(gate, implicit(base, i64.add(ld.i64(base, S.IDT_BASE), i64.extend_u(at)), gateSize, 0));
    giveUpIf(no(gate.get));
    f.set(type, ld.i32(gate.get, 4));
    giveUpIf(i32.ne(i32.and(type.get, c32(long ? 0x9e07 : 0x9e00)), c32(0x8e00)));
    giveUpIf(
      i32.and(
        i32.lt_s(error, c32(0)),
        i32.and(user.get, i32.ne(i32.and(type.get, c32(3 << B.DESC_DPL_SHIFT)), c32(3 << B.DESC_DPL_SHIFT))),
      ),
    );
    f.set(cs, ld.i32_16u(gate.get, 2));
    const low = i64.extend_u(i32.or(ld.i32_16u(gate.get), i32.and(type.get, c32(0xffff0000 | 0))));
    f.set(target, long ? i64.or(low, i64.shl(ld.i64_32u(gate.get, 8), c64(32))) : low);
    if (long) giveUpIf(no(isCanonical(target.get)));
    f.set(desc, call(flatSegment.ref, base, cs.get));
    giveUpIf(i32.ne(i32.and(desc.get, c32(long ? CODE64_MASK : CODE32_MASK)), c32(long ? CODE64_BITS : CODE32_BITS)));
    // 64-bit code pushes SS and RSP always, and aligns.
    f.set(
      bytes,
      i32.mul(i32.add(i32.ge_s(error, c32(0)), long ? c32(5) : select(user.get, c32(5), c32(3))), c32(word)),
    );
    const below = (v: Node): Node =>
      long ? i64.sub(i64.and(v, c64(-16)), i64.extend_u(bytes.get)) : i64.extend_u(i32.sub(i32.wrap(v), bytes.get));
    const old = f.tmp(ld.i64(base, S.GPR + 4 * 8));
    const frame = (bank: Node, acc: Node): Node => call(mem.pointer, base, sp.get, bytes.get, c32(1), bank, acc);
    // The stack: of the TSS, or the one in use.
    f.if(
      user.get,
      () => {
        const tr = seg(S.TR);
        const size = long ? 8 : 6;
        giveUpIf(i32.lt_u(ld.i32(base, tr + S.SEG_LIMIT), c32(3 + size)));
        if (!long) giveUpIf(i32.ne(i32.and(ld.i32(base, tr + S.SEG_ATTR), c32(0x1d)), c32(B.TYPE_TSS32)));
        f.set(stack, implicit(base, i64.add(ld.i64(base, tr + S.SEG_BASE), c64(4)), size, 0));
        giveUpIf(no(stack.get));
        f.set(sp, below(long ? ld.i64(stack.get) : ld.i64_32u(stack.get)));
        if (!long) {
          f.set(newSs, ld.i32_16u(stack.get, 4));
          giveUpIf(i32.and(newSs.get, c32(3)));
          f.set(ssDesc, call(flatSegment.ref, base, newSs.get));
          giveUpIf(i32.ne(i32.and(ssDesc.get, c32(STACK32_MASK)), c32(STACK32_BITS)));
        }
        f.set(stack, frame(ld.i32(base, S.TLB_SYS), c32(S.ACC_IMPLICIT | S.ACC_WRITE)));
      },
      () => {
        f.set(sp, below(old));
        f.set(
          stack,
          frame(
            ld.i32(base, S.TLB_DATA),
            i32.or(c32(S.ACC_WRITE), select(i32.and(efl.get, c32(S.FLAG_AC)), c32(0), c32(S.ACC_IMPLICIT))),
          ),
        );
      },
    );
    giveUpIf(no(stack.get));
    // Nothing can go wrong any more.
    const put = (v: Node, n: number): void => {
      if (long) f.st64(stack.get, v, n * word);
      else f.st32(stack.get, i32.wrap(v), n * word);
    };
    f.if(i32.ge_s(error, c32(0)), () => {
      put(i64.extend_u(error), 0);
      f.set(stack, i32.add(stack.get, c32(word)));
    });
    put(rip, 0);
    put(ld.i64_32u(base, seg(S.CS) + S.SEG_SEL), 1);
    put(i64.extend_u(p(f, 3)), 2);
    const outer = (): void => {
      put(old, 3);
      put(ld.i64_32u(base, seg(S.SS) + S.SEG_SEL), 4);
    };
    if (long) outer();
    f.if(user.get, () => {
      if (!long) outer();
      f.st64(base, c64(0), seg(S.SS) + S.SEG_BASE);
      f.st32(base, c32(long ? 0 : -1), seg(S.SS) + S.SEG_LIMIT);
      f.st32(
        base,
        long ? c32(S.ATTR_UNUSABLE) : i32.and(i32.shr_u(ssDesc.get, c32(8)), c32(0xf0ff)),
        seg(S.SS) + S.SEG_ATTR,
      );
      f.st32(base, newSs.get, seg(S.SS) + S.SEG_SEL);
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
    return f.ref;
  };
  const enter64 = enterHandler(true);
  const enter32 = enterHandler(false);
  const softInterrupt = m.fn([I32, I32, I64, I32], I32);
  {
    const f = softInterrupt;
    const args = (): Node[] => [p(f, 0), p(f, 1), p(f, 2), p(f, 3), c32(-1)];
    f.if(is64Bit(p(f, 0)), () => f.returnCall(enter64, ...args()));
    f.returnCall(enter32, ...args());
  }

  const pageFault = m.fn([I32], I32);
  {
    const f = pageFault;
    const base = p(f, 0);
    const giveUpIf = (cond: Node): void => f.if(cond, () => f.ret(c32(0)));
    giveUpIf(i32.ne(ld.i32(base, S.FAULT), c32(S.EXC_PF + 1)));
    giveUpIf(ld.i32(base, S.NONCANON));
    const flags = f.tmp(i32.or(call(getFlags, base), c32(S.FLAG_RF)));
    const by = (enter: FnRef): Node =>
      call(enter, base, c32(S.EXC_PF), ld.i64(base, S.RIP), flags, ld.i32(base, S.FAULT_CODE));
    f.if(
      is64Bit(base),
      () => giveUpIf(i32.eqz(by(enter64))),
      () => giveUpIf(i32.eqz(by(enter32))),
    );
    f.st64(base, ld.i64(base, S.FAULT_ADDR), S.CR2);
    f.st32(base, c32(0), S.FAULT);
    f.emit(c32(1));
  }
  return {
    pageFault: pageFault.ref,
    softInterrupt: softInterrupt.ref,
    flatSegment: flatSegment.ref,
    dataSegment: dataSegment.ref,
  };
}
