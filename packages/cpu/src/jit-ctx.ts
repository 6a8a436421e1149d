// The translator's operands: guest registers in locals, flags as the operands of the last operation, constants wherever
// the interpreter reads a record. Semantics are the interpreter's own (sem/*.ts).
import { type Insn, Kind, OP, ROWS } from '@hyve/x86';
import { tlbSlot } from './addresses.ts';
import { type CodeMode, type Env, NUM, type Num, SemCtx, type SlowWays } from './ctx.ts';
import { lane, laneF, lanes, withLane, withLaneF } from './sem/vec.ts';
import * as S from './state.ts';
import {
  c32,
  c64,
  c64hl,
  call,
  cV128,
  type Fn,
  type FnRef,
  I32,
  I64,
  i32,
  i64,
  type Label,
  type Local,
  ld,
  type Node,
  simd,
  V128,
} from './wasm/builder.ts';
import type { WindowUse } from './windows.ts';
import { imm2Of, immLoOf } from './x87-fields.ts';

/** Kinds of pending flags; in {@link Pending}'s kind, times 16, plus log2 of the operand size. 0: flags are in memory. */
export const FK_ADD = 1;
export const FK_ADC = 2;
export const FK_SUB = 3;
export const FK_SBB = 4;
export const FK_LOGIC = 5;
/** Result with CF in bit 0 and OF in bit 1 of `b`. */
export const FK_SHIFT = 6;
/** INC and DEC: `b` is CF. */
export const FK_INC = 7;
export const FK_DEC = 8;
/** Signed product cut to the operand size; factors in `a` and `b`. */
export const FK_IMUL = 9;
/** Floats compared: `b` has CF in bit 0, ZF in bit 1, PF in bit 2. */
export const FK_COMPARED = 10;
/**
 * Bits of a pending kind, above it: CF, OF, ZF are not what the operation says but have been set since, by rotates, bit tests
 * and the like; their values are 3 bits further up.
 */
export const FO_CF: number = 1 << 8;
export const FO_OF: number = 1 << 9;
export const FO_ZF: number = 1 << 10;
/** All of them. */
export const FO_ALL: number = FO_CF | FO_OF | FO_ZF;
/** Bit number of CF's value. */
export const FO_VALUE = 11;
/** Of these flags, those that a condition depends on, by half its code: O, C, Z, C or Z, S, P, S≠O, Z or S≠O. */
const CONDITION_FLAGS: readonly number[] = [FO_OF, FO_CF, FO_ZF, FO_CF | FO_ZF, 0, 0, FO_OF, FO_OF | FO_ZF];

const LOG2: Readonly<Record<number, number>> = { 1: 0, 2: 1, 4: 2, 8: 3 };

/** Bits of a place for the instructions of the block that did not run; the others are for the offset. */
export const LEFT_BITS = 8;
/** Most instructions of a block. */
export const LEFT_MASK: number = (1 << LEFT_BITS) - 1;

/** Where a region is left to: offset of the RIP, less than FAR either way, and instructions of the block that did not run. */
export function placeOf(off: number, left: number): Node {
  return c32(off * (1 << LEFT_BITS) + left);
}

/** What all instructions of one region share. */
export interface RegionState {
  readonly f: Fn;
  readonly env: Env;
  readonly base: Node;
  readonly mode: CodeMode;
  /** Guest registers; made when first used. */
  readonly regs: (Local | null)[];
  /**
   * Bit per register: written in a loop, so that its writes stay in the local until the region is left. Writes of the others
   * go to memory at once: as many stores, but nothing to carry to each of the many places where a region may be left.
   */
  readonly lazy: number;
  /** Bit per register: lazy, and written somewhere. */
  dirty: number;
  /** Linear-independent part of RIP: RIP minus the offset of the entry within its page. */
  readonly pageRip: Local;
  /** XMM registers; made when first used. */
  readonly xmms: (Local | null)[];
  /** As {@link lazy} and {@link dirty}, for them. */
  readonly lazyXmm: number;
  dirtyXmm: number;
  /** Bit per register whose upper half some instruction reads, or writes with something that may not be 0. */
  readonly wide: number;
  /** Their upper halves; made when first used. All writes stay there until the region is left. The others' are in memory. */
  readonly uppers: (Local | null)[];
  /**
   * Not 0: all of {@link uppers} are 0, and in memory too, so that none has to be stored when the region is left. Made with the
   * first of them.
   */
  noUppers: Local | null;
  /** Bit per XMM register whose low float, or double, is not denormal, at the place that is being translated. */
  normal4: number;
  normal8: number;
  /** {@link SemCtx.fastFloat}; made when first used. */
  fast: Local | null;
  /** Pending flags: operands and result as i64, kind. */
  readonly fa: Local;
  readonly fb: Local;
  readonly fr: Local;
  readonly fk: Local;
  /** (base, kind, a, b, result): writes flags to memory. */
  readonly matFlags: FnRef;
  /** (base): writes flags that an earlier region left pending to memory. */
  readonly matState: FnRef;
  /** Where a fault, or a need to leave before or after an instruction, goes. */
  readonly faultLabel: Label;
  readonly leaveLabel: Label;
  /** For those: {@link placeOf}. */
  readonly out: Local;
  /** Not 0: a store wants the region to be left, after the next instruction that stores and does not jump. */
  readonly attention: Local;
  /** Not 0: the instruction there is for the interpreter. */
  readonly before: Local;
  /** The data TLB. */
  readonly tlb: Local;
  /** Host addresses of windows, 0 for none; see windows.ts. Made when first used. */
  readonly windows: Local[];
  /** By window: an access whose alignment has been checked. */
  readonly aligned: ({ readonly at: number; readonly to: number } | null)[];
  /** Bit per window: some access may still come. */
  live: number;
  /** Budget when the region was entered, and now, less the whole running block. */
  readonly bud0: Local;
  readonly bud: Local;
}

const vz = (): Node => cV128(0, 0, 0, 0);

/** Operations that do nothing more once they have stored operand 0. */
const MOVES: ReadonlySet<number> = new Set([
  OP.MOV, OP.SETCC, OP.MOVNTI, OP.MOVAPS, OP.MOVAPD, OP.MOVUPS, OP.MOVUPD, OP.MOVDQA, OP.MOVDQU, OP.MOVD, OP.MOVQ, OP.MOVSS,
  OP.MOVSD, OP.VMOVAPS, OP.VMOVAPD, OP.VMOVUPS, OP.VMOVUPD, OP.VMOVDQA, OP.VMOVDQU, OP.VMOVD, OP.VMOVQ, OP.VMOVSS, OP.VMOVSD,
]); // biome-ignore format: a list

/** One instruction of a region. */
export class JitCtx extends SemCtx {
  private readonly s: RegionState;
  /** Page offset of the instruction. */
  private readonly off: number;
  /** Instructions of the block from this one on. */
  private readonly left: number;
  /** What is known of the pending flags: kind, 0 for none, or -1 for "look at fk, then at PEND_KIND". */
  private kind0: number;
  /** With a known kind: which of {@link FO_CF}, {@link FO_OF}, {@link FO_ZF} fk has apart. */
  private apart: number;
  private readonly onJump: (kind: 'relative' | 'indirect' | 'branch', node: Node | null) => void;

  constructor(
    s: RegionState,
    insn: Insn,
    off: number,
    left: number,
    pending: number,
    use: WindowUse | null,
    onJump: (kind: 'relative' | 'indirect' | 'branch', node: Node | null) => void,
  ) {
    super(s.f, s.env, s.base, insn, s.mode);
    this.use = use;
    if (use?.first === true) s.aligned[use.slot] = null;
    this.depth = s.f.depth;
    // MMX moves set the state of the x87 after the store.
    if (insn.kind0 === Kind.Mem && insn.kind1 !== Kind.Mmx && MOVES.has(insn.op)) this.rest = () => {};
    this.s = s;
    this.off = off;
    this.left = left;
    this.kind0 = pending < 0 ? -1 : pending & 0xff;
    this.apart = pending < 0 ? 0 : pending & FO_ALL;
    this.onJump = onJump;
  }

  /** What is known of the pending flags now, for the instruction that follows: kind and flags apart, or -1. */
  get pending(): number {
    return this.kind0 < 0 ? -1 : this.kind0 | this.apart;
  }
  /** Nothing is known of the pending flags. */
  forgetFlags(): void {
    this.kind0 = -1;
    this.apart = 0;
  }

  // --- registers -----------------------------------------------------------------------------------------------------
  private reg(n: number): Local {
    let l = this.s.regs[n] ?? null;
    if (l === null) {
      l = this.f.local(this.narrow ? I32 : I64);
      this.s.regs[n] = l;
    }
    return l;
  }
  /** 32-bit code has its registers in locals of 32 bits. */
  private get narrow(): boolean {
    return this.s.mode.bits === 32;
  }
  getGpr64(n: number): Node {
    const l = this.reg(n).get;
    return this.narrow ? i64.extend_u(l) : l;
  }
  getGpr32(n: number): Node {
    const l = this.reg(n).get;
    return this.narrow ? l : i32.wrap(l);
  }
  override setGpr(n: number, size: number, v: Node): void {
    if (size === 4 && this.narrow) this.setReg(n, v);
    else super.setGpr(n, size, v);
  }
  setGpr64(n: number, v: Node): void {
    this.setReg(n, this.narrow ? i32.wrap(v) : v);
  }
  /** Writes a register, of the size of its local. */
  private setReg(n: number, v: Node): void {
    const l = this.reg(n);
    if (this.s.lazy & (1 << n)) {
      this.f.set(l, v);
      this.s.dirty |= 1 << n;
    } else {
      const kept = l.tee(v);
      this.f.st64(this.base, this.narrow ? i64.extend_u(kept) : kept, S.GPR + 8 * n);
    }
  }
  /** Replaces the bits of `mask`, which are of the lower half. */
  private setBits(n: number, mask: number, v: Node): void {
    const l = this.reg(n).get;
    const bits = i32.and(v, c32(mask));
    if (this.narrow) this.setReg(n, i32.or(i32.and(l, c32(~mask)), bits));
    else this.setReg(n, i64.or(i64.and(l, c64(-1 - mask)), i64.extend_u(bits)));
  }
  setGprLow(n: number, size: 1 | 2, v: Node): void {
    this.setBits(n, size === 1 ? 0xff : 0xffff, v);
  }
  private regOf(i: number): number {
    const n = this.insn;
    return i === 0 ? n.reg0 : i === 1 ? n.reg1 : i === 2 ? n.reg2 : n.reg3;
  }
  readReg(i: number, size: number): Node {
    const n = this.regOf(i);
    if (this.kind(i) === Kind.GprHigh) {
      const l = this.reg(n).get;
      return i32.and(this.narrow ? i32.shr_u(l, c32(8)) : i32.wrap(i64.shr_u(l, c64(8))), c32(0xff));
    }
    return this.gpr(n, size);
  }
  writeReg(i: number, size: number, v: Node): void {
    const n = this.regOf(i);
    if (this.kind(i) === Kind.GprHigh) this.setBits(n, 0xff00, i32.shl(v, c32(8)));
    else this.setGpr(n, size, v);
  }
  regAddr(i: number): Node {
    // XMM registers are in locals.
    if (!this.isMmx(i)) throw new Error('address of a register that has none');
    return i32.add(this.base, c32(S.FPR + this.regOf(i) * 16));
  }
  // --- vector registers ----------------------------------------------------------------------------------------------
  private isMmx(i: number): boolean {
    return this.kind(i) === Kind.Mmx;
  }
  private xmm(n: number): Local {
    let l = this.s.xmms[n] ?? null;
    if (l === null) {
      l = this.f.local(V128);
      this.s.xmms[n] = l;
    }
    return l;
  }
  override getX(i: number): Node {
    return this.isMmx(i) ? super.getX(i) : this.xmm(this.regOf(i)).get;
  }
  override setX(i: number, v: Node): void {
    this.setXmm(this.regOf(i), v);
  }
  override setXmm(n: number, v: Node): void {
    const l = this.xmm(n);
    this.forget(n);
    if (this.s.lazyXmm & (1 << n)) {
      this.f.set(l, v);
      this.s.dirtyXmm |= 1 << n;
    } else this.f.stV(this.base, l.tee(v), S.XMM + 16 * n);
  }
  private upper(n: number): Local {
    let l = this.s.uppers[n] ?? null;
    if (l === null) {
      l = this.f.local(V128);
      this.s.uppers[n] = l;
      this.noUppers();
    }
    return l;
  }
  private noUppers(): Local {
    this.s.noUppers ??= this.f.local(I32);
    return this.s.noUppers;
  }
  private isWide(n: number): boolean {
    return (this.s.wide & (1 << n)) !== 0;
  }
  override getUpper(i: number): Node {
    const n = this.regOf(i);
    return this.isWide(n) ? this.upper(n).get : ld.v128(this.base, S.YMMH + 16 * n);
  }
  override setUpper(i: number, v: Node): void {
    const n = this.regOf(i);
    if (this.isWide(n)) this.f.set(this.upper(n), v);
    else {
      this.f.stV(this.base, v, S.YMMH + 16 * n);
      this.f.st32(this.base, c32(0), S.UPPERS_ZERO);
    }
    this.f.set(this.noUppers(), c32(0));
  }
  override clearUpper(i: number): void {
    this.zeroUpper(this.regOf(i));
  }
  override clearUpper0(): void {
    this.zeroUpper(0);
  }
  private zeroUpper(n: number): void {
    if (this.isWide(n)) this.f.set(this.upper(n), vz());
    else this.f.stV(this.base, vz(), S.YMMH + 16 * n);
  }
  override clearUppers(): void {
    const f = this.f;
    const count = this.mode.bits === 64 ? 16 : 8;
    f.unlikely(i32.eqz(ld.i32(this.base, S.UPPERS_ZERO)), () => this.clearUppersInState(count));
    if (this.s.wide === 0) return;
    for (let n = 0; n < count; n++) if (this.isWide(n)) f.set(this.upper(n), vz());
    f.set(this.noUppers(), c32(1));
  }
  override getXLow(i: number, size: number, at = 0): Node {
    if (this.isMmx(i)) return super.getXLow(i, size, at);
    return lane(this.xmm(this.regOf(i)).get, size as 4 | 8, at / size);
  }
  override setXLow(i: number, size: number, v: Node, at = 0): void {
    if (this.isMmx(i)) super.setXLow(i, size, v, at);
    else this.setLane(this.regOf(i), size as 4 | 8, at, v);
  }
  override getXZero(i: number, size: number): Node {
    if (this.isMmx(i)) return super.getXZero(i, size);
    const x = this.xmm(this.regOf(i)).get;
    return size === 8 ? lanes(x, vz(), 8, [0, 2]) : simd(78, [x, cV128(-1, 0, 0, 0)]);
  }
  override getElement(i: number, size: number, at: Node): Node {
    if (this.isMmx(i)) return super.getElement(i, size, at);
    return lane(this.xmm(this.regOf(i)).get, size as 1 | 2 | 4 | 8, this.constant(at) / size);
  }
  override setElement(i: number, size: number, at: Node, v: Node): void {
    if (this.isMmx(i)) super.setElement(i, size, at, v);
    else this.setLane(this.regOf(i), size as 1 | 2 | 4 | 8, this.constant(at), v);
  }
  private constant(n: Node): number {
    if (!n.isConst) throw new Error('element of a vector chosen at run time');
    return n.lo;
  }
  override getXFloat(i: number, size: number): Node {
    return laneF(this.xmm(this.regOf(i)).get, size as 4 | 8, 0);
  }
  override setXFloat(i: number, size: number, v: Node): void {
    const n = this.regOf(i);
    const l = this.xmm(n);
    this.f.set(l, withLaneF(l.get, size as 4 | 8, 0, v));
    this.forget(n);
    if (this.s.lazyXmm & (1 << n)) this.s.dirtyXmm |= 1 << n;
    else if (size === 4) this.f.stF32(this.base, v, S.XMM + 16 * n);
    else this.f.stF64(this.base, v, S.XMM + 16 * n);
  }
  private forget(n: number): void {
    this.s.normal4 &= ~(1 << n);
    this.s.normal8 &= ~(1 << n);
  }
  override notDenormal(i: number, size: number): boolean {
    return (((size === 4 ? this.s.normal4 : this.s.normal8) >> this.regOf(i)) & 1) !== 0;
  }
  override setNotDenormal(i: number, size: number): void {
    if (size === 4) this.s.normal4 |= 1 << this.regOf(i);
    else this.s.normal8 |= 1 << this.regOf(i);
  }
  override copied(i: number): void {
    const size4 = this.notDenormal(i, 4);
    const size8 = this.notDenormal(i, 8);
    this.forget(this.regOf(0));
    if (size4) this.setNotDenormal(0, 4);
    if (size8) this.setNotDenormal(0, 8);
  }
  private fastLocal(): Local {
    this.s.fast ??= this.f.local(I32);
    return this.s.fast;
  }
  override fastFloat(): Node {
    return this.fastLocal().get;
  }
  override mxcsrChanged(): void {
    this.f.set(this.fastLocal(), super.fastFloat());
  }
  override readonly leaveAfter = (): void => {
    this.f.set(this.s.out, placeOf(this.off + this.insn.length, this.left - 1));
    this.f.br(this.s.leaveLabel);
  };
  private setLane(n: number, size: 1 | 2 | 4 | 8, at: number, v: Node): void {
    const l = this.xmm(n);
    this.forget(n);
    if (this.s.lazyXmm & (1 << n)) {
      this.f.set(l, withLane(l.get, size, at / size, v));
      this.s.dirtyXmm |= 1 << n;
      return;
    }
    const x = this.f.tmp(v);
    this.f.set(l, withLane(l.get, size, at / size, x));
    this.storeHost(i32.add(this.base, c32(S.XMM + 16 * n + at)), size, x);
  }
  regNum(i: number): Node {
    return c32(this.regOf(i));
  }
  imm64(): Node {
    return c64hl(this.insn.immHi, this.insn.immLo);
  }
  imm32(): Node {
    return c32(immLoOf(this.insn));
  }
  imm2(): Node {
    return c32(imm2Of(this.insn));
  }

  private eaNode: Node | null = null;
  ea(): Node {
    if (this.eaNode !== null) return this.eaNode;
    const n = this.insn;
    // POP to memory addresses with the stack pointer after the pop.
    const popped = n.op === OP.POP && n.base === 4 ? n.opSize : 0;
    let v: Node;
    if (n.addrSize === 4 && n.ripRelative === 0) {
      // 32-bit arithmetic needs no cutting.
      const terms: Node[] = [];
      if (n.base >= 0) terms.push(this.getGpr32(n.base));
      if (n.index >= 0) terms.push(i32.shl(this.getGpr32(n.index), c32(n.scale)));
      const disp = (n.dispLo + popped) | 0;
      if (disp !== 0 || terms.length === 0) terms.push(c32(disp));
      v = i64.extend_u(terms.reduce(i32.add));
    } else {
      v = c64hl(n.dispHi, n.dispLo);
      if (popped !== 0) v = i64.add(v, c64(popped));
      if (n.ripRelative !== 0) v = i64.add(this.s.pageRip.get, i64.add(v, c64(this.off + n.length)));
      if (n.base >= 0) v = i64.add(this.getGpr64(n.base), v);
      if (n.index >= 0) v = i64.add(i64.shl(this.getGpr64(n.index), c64(n.scale)), v);
      if (n.addrSize === 4) v = i64.and(v, c64(0xffffffff));
      else if (n.addrSize === 2) v = i64.and(v, c64(0xffff));
    }
    if (this.needsSegment()) {
      if (this.mode.bits === 64) v = i64.add(v, ld.i64(this.base, S.SEG + n.seg * S.SEG_STRIDE));
      else v = this.checked(this.f.tmp(v));
    }
    // Within a window the address is hardly ever looked at.
    if (this.use !== null && !this.use.stack) {
      this.eaNode = v;
      this.useAt = v;
    } else this.eaNode = this.f.tmp(v);
    return this.eaNode;
  }
  /** Outside 64-bit mode FS and GS have limits, and what is written must not be in CS. */
  private checked(off: Node): Node {
    const n = this.insn;
    const i = this.memIndex();
    const write = i === 0 && /w/.test(ROWS[n.row]?.access0 ?? '');
    if (n.seg >= 4) return this.linear(n.seg, off, Math.max(1, this.sizeOf(i)), write);
    if (write) this.f.if(c32(1), () => this.raise(S.EXC_GP));
    return off;
  }
  /** Set for LEA, which takes no segment. */
  lea = false;
  private needsSegment(): boolean {
    const seg = this.insn.seg;
    return !this.lea && (seg >= 4 || (seg === S.CS && this.mode.bits !== 64));
  }

  // --- places --------------------------------------------------------------------------------------------------------
  rip(): Node {
    return i64.add(this.s.pageRip.get, c64(this.off));
  }
  nextRip(): Node {
    const v = i64.add(this.s.pageRip.get, c64(this.off + this.insn.length));
    return this.mode.bits === 64 ? v : i64.and(v, c64(0xffffffff));
  }
  override countHere(): Node {
    const done = i32.sub(i32.sub(this.s.bud0.get, this.s.bud.get), c32(this.left - 1));
    return i64.add(ld.i64(this.base, S.ICOUNT), i64.extend_s(done));
  }
  override dataTlbChanged(): void {
    this.f.set(this.s.tlb, ld.i32(this.base, S.TLB_DATA));
  }
  /** What an instruction may let through is waiting: the interpreter has to do it. */
  leaveIfWaiting(): void {
    this.f.unlikely(ld.i32(this.base, S.IRQ_WINDOW), () => this.leaveBefore());
  }
  leaveFault(): void {
    this.f.set(this.s.out, placeOf(this.off, this.left));
    this.f.br(this.s.faultLabel);
  }
  override checkFault(): void {
    this.f.set(this.s.out, placeOf(this.off, this.left));
    this.f.brUnlikely(this.s.faultLabel, ld.i32(this.base, S.FAULT));
  }
  /** Leaves to the interpreter before this instruction. */
  leaveBefore(): void {
    this.f.set(this.s.before, c32(1));
    this.f.set(this.s.out, placeOf(this.off, this.left));
    this.f.br(this.s.leaveLabel);
  }
  /** Leaves after this instruction if somebody asked for attention (stores that hit devices or code). */
  checkAttention(): void {
    this.f.set(this.s.out, placeOf(this.off + this.insn.length, this.left - 1));
    this.f.brUnlikely(this.s.leaveLabel, this.s.attention.get);
  }
  override tlbEntry(la: Node): Node {
    return this.f.tmp(tlbSlot(la, this.s.tlb.get));
  }
  /** Whether the instruction stores to memory in a way that may need {@link checkAttention}. */
  stores = false;
  /** What is left to do after the instruction's store: little enough to be done twice, so that the slow path may leave. */
  private rest: (() => void) | null = null;
  protected override storeThen(la: Node, size: number, v: Node, then: () => void): void {
    // A call goes on elsewhere.
    if (this.insn.op === OP.PUSH) this.rest = then;
    super.storeThen(la, size, v, then);
  }

  jumpIndirect(target: Node): void {
    this.onJump('indirect', target);
  }
  jumpRelative(): void {
    this.onJump('relative', null);
  }
  branch(cond: Node): void {
    this.onJump('branch', cond);
  }
  leaveStatus(_status: Node): void {
    // Not evaluated: the interpreter runs the instruction from the start.
    this.leaveBefore();
  }
  next(): void {
    throw new Error('next() inside a translated instruction');
  }
  again(): void {
    this.leaveBefore();
  }
  record(): Node {
    return c32(0);
  }
  sync(): void {
    // What the slow path does may change what is mapped, or what may be written.
    for (let w = 0; w < this.s.windows.length; w++)
      if (this.s.live & (1 << w)) this.f.set(this.s.windows[w] as Local, c32(0));
  }

  // --- memory by windows ---------------------------------------------------------------------------------------------
  /** What the instruction's one access has of a window; null once it has been made. */
  private use: WindowUse | null;
  /** The address of that access. */
  private useAt: Node | null = null;
  /** Nesting depth at which the instruction begins. */
  private readonly depth: number;

  override linear(seg: number, off: Node, size: number, write: boolean): Node {
    const la = super.linear(seg, off, size, write);
    if (this.use?.stack === true && seg === S.SS) this.useAt = la;
    return la;
  }
  /** The window of the access of `size` bytes at `la`, if it has one. */
  private take(la: Node, size: number): WindowUse | null {
    const u = this.use;
    // What may not run at all cannot open a window for others.
    if (u === null || la !== this.useAt || size > u.size || (u.first && this.f.depth !== this.depth)) return null;
    this.use = null;
    return u;
  }
  /** After the instruction: a window that it should have opened is none. */
  finish(): void {
    if (this.use?.first === true) this.f.set(this.window(this.use.slot), c32(0));
  }
  private window(slot: number): Local {
    this.s.windows[slot] ??= this.f.local(I32);
    return this.s.windows[slot];
  }
  protected override access(
    la: Node,
    size: number,
    write: boolean,
    hot: (ptr: Node, offset: number) => void,
    cold: (la: Node, ways: SlowWays) => void,
  ): void {
    const u = this.take(la, size);
    if (u === null) {
      super.access(la, size, write, hot, cold);
      return;
    }
    const { env } = this;
    const slowly = (at: Node): void => {
      this.sync();
      cold(at, { read: env.fn('loadAgain'), write: env.fn('storeAgain'), rmw: env.fn('rmwAgain') });
    };
    const f = this.f;
    const p = this.window(u.slot);
    if (u.first) {
      const at = f.tmp(la);
      const start = f.tmp(u.at === 0 ? at : i64.sub(at, c64(u.at)));
      const e = this.tlbEntry(start);
      f.likely(
        i64.eq(ld.i64(e, u.write ? 8 : 0), this.tagOf(start, u.span)),
        () => {
          f.set(p, i32.add(i32.wrap(start), ld.i32(e, 24)));
          hot(p.settled, u.at);
        },
        () => {
          slowly(at);
          f.set(p, call(this.env.fn('window'), this.base, start, c32(u.span), c32(u.write ? 8 : 0)));
        },
      );
      this.s.live |= 1 << u.slot;
    } else
      f.likely(
        p.get,
        () => hot(p.settled, u.at),
        () => slowly(f.tmp(la)),
      );
    if (u.last) this.s.live &= ~(1 << u.slot);
  }
  override requireAligned(n: number): void {
    const { use } = this;
    const known = use === null ? null : (this.s.aligned[use.slot] ?? null);
    if (use !== null && known !== null && known.to >= n && (use.at - known.at) % n === 0) return;
    super.requireAligned(n);
    if (use !== null && this.f.depth === this.depth) this.s.aligned[use.slot] = { at: use.at, to: n };
  }
  // --- memory: stores remember that attention may be wanted -----------------------------------------------------------
  override store(la: Node, size: number, v: Node): void {
    super.store(la, size, v);
    this.stores ||= this.rest === null;
  }
  override storePair(la: Node, lo: Node, hi: Node): void {
    super.storePair(la, lo, hi);
    this.stores ||= this.rest === null;
  }
  override rmwWrite(i: number, v: Node, size: number = this.sizeOf(i)): void {
    super.rmwWrite(i, v, size);
    if (this.isMem(i)) this.stores = true;
  }
  /** After a slow store, within its cold path. */
  protected override afterSlowStore(): void {
    this.sync();
    const { rest } = this;
    if (rest !== null) {
      this.f.unlikely(i32.le_s(ld.i32(this.base, S.BUDGET), c32(0)), () => {
        rest();
        this.leaveAfter();
      });
      return;
    }
    this.f.if(i32.le_s(ld.i32(this.base, S.BUDGET), c32(0)), () => this.f.set(this.s.attention, c32(1)));
  }

  // --- flags ---------------------------------------------------------------------------------------------------------
  private num(size: number): Num {
    return NUM[size] as Num;
  }
  private pend(kind: number, size: number, a: Node | null, b: Node | null, r: Node): void {
    const f = this.f;
    const s = this.s;
    const n = this.num(size);
    const k = kind * 16 + (LOG2[size] as number);
    if (a !== null) f.set(s.fa, n.zext64(a));
    if (b !== null) f.set(s.fb, b.ty === I64 ? b : n.zext64(b));
    f.set(s.fr, n.zext64(r));
    f.set(s.fk, c32(k));
    this.kind0 = k;
    this.apart = 0;
  }
  override flagsAdd(size: number, a: Node, b: Node, r: Node, carry = false): void {
    this.pend(carry ? FK_ADC : FK_ADD, size, a, b, r);
  }
  override flagsSub(size: number, a: Node, b: Node, r: Node, borrow = false): void {
    this.pend(borrow ? FK_SBB : FK_SUB, size, a, b, r);
  }
  override flagsImul(size: number, a: Node, b: Node, r: Node): void {
    this.pend(FK_IMUL, size, a, b, r);
  }
  override flagsLogic(size: number, r: Node): void {
    this.pend(FK_LOGIC, size, null, null, r);
  }
  override flagsIncDec(size: number, _a: Node, r: Node, sub: boolean): void {
    const cf = this.f.tmp(this.cf());
    this.pend(sub ? FK_DEC : FK_INC, size, null, i64.extend_u(cf), r);
  }
  override flagsCompared(v: Node): void {
    const f = this.f;
    const s = this.s;
    f.set(s.fb, i64.extend_u(v));
    f.set(s.fk, c32(FK_COMPARED * 16));
    this.kind0 = FK_COMPARED * 16;
    this.apart = 0;
  }
  override flagsShift(size: number, r: Node, cf: Node, of: Node): void {
    if (this.partial) {
      super.flagsShift(size, r, cf, of);
      return;
    }
    this.pend(FK_SHIFT, size, null, i64.extend_u(i32.or(cf, i32.shl(of, c32(1)))), r);
  }
  /** Between flagsInMemory and the end of the instruction, flags are written in memory. */
  private partial = false;
  override flagsInMemory(): void {
    if (this.partial) return;
    this.partial = true;
    const f = this.f;
    const s = this.s;
    if (this.kind0 !== 0) {
      const mat = (): void => {
        f.do(call(s.matFlags, this.base, s.fk.get, s.fa.get, s.fb.get, s.fr.get));
        f.st32(this.base, c32(0), S.PEND_KIND);
      };
      if (this.kind0 < 0) f.if(s.fk.get, mat, () => f.do(call(s.matState, this.base)));
      else mat();
      f.set(s.fk, c32(0));
    }
    this.kind0 = 0;
    this.apart = 0;
  }
  override flagsReplaced(): void {
    this.partial = true;
    this.f.set(this.s.fk, c32(0));
    this.f.st32(this.base, c32(0), S.PEND_KIND);
    this.kind0 = 0;
    this.apart = 0;
  }
  override flagsWhen(cond: Node, write: () => void): void {
    if (cond.isConst) {
      if (cond.lo !== 0) write();
      return;
    }
    const { kind0, apart } = this;
    this.f.if(cond, write);
    if (this.kind0 !== kind0 || this.apart !== apart) this.forgetFlags();
  }
  /**
   * Sets some flags apart from the pending operation, which goes on to stand for the others. `which`: FO_ bits; `values`: the
   * flags, i32 0 or 1, in the order of these bits. `inMemory` does it where the flags are in memory.
   */
  private setApart(which: number, values: readonly Node[], inMemory: () => void): void {
    const f = this.f;
    const s = this.s;
    if (this.partial || this.kind0 === 0) {
      this.flagsInMemory();
      inMemory();
      return;
    }
    let bits: Node = c32(which);
    let n = 0;
    for (let k = 0; k < 3; k++)
      if (which & (FO_CF << k)) bits = i32.or(bits, i32.shl(values[n++] as Node, c32(FO_VALUE + k)));
    const cleared = (from: Node): Node => i32.and(from, c32(~((which << 3) | which)));
    if (this.kind0 > 0) {
      f.set(s.fk, i32.or(this.apart === 0 ? c32(this.kind0) : cleared(s.fk.get), bits));
      this.apart |= which;
      return;
    }
    f.if(
      s.fk.get,
      () => f.set(s.fk, i32.or(cleared(s.fk.get), bits)),
      () => {
        f.do(call(s.matState, this.base));
        this.partial = true;
        this.kind0 = 0;
        inMemory();
        this.partial = false;
        this.kind0 = -1;
      },
    );
  }
  /** A flag that is apart: `k` 0 CF, 1 OF, 2 ZF. */
  private apartFlag(k: number): Node {
    return i32.and(i32.shr_u(this.s.fk.get, c32(FO_VALUE + k)), c32(1));
  }
  override flagsSzp(size: number, r: Node): void {
    this.flagsInMemory();
    super.flagsSzp(size, r);
  }
  override setCfOf(cf: Node, of: Node): void {
    const c = this.f.tmp(cf);
    const o = this.f.tmp(of);
    this.setApart(FO_CF | FO_OF, [c, o], () => super.setCfOf(c, o));
  }
  override setCf(cf: Node): void {
    const c = this.f.tmp(cf);
    this.setApart(FO_CF, [c], () => super.setCf(c));
  }
  override setAf(af: Node): void {
    const a = this.f.tmp(af);
    this.flagsInMemory();
    super.setAf(a);
  }
  override setZf(zf: Node): void {
    const z = this.f.tmp(zf);
    this.setApart(FO_ZF, [z], () => super.setZf(z));
  }
  override getFlags(): Node {
    this.flagsInMemory();
    return super.getFlags();
  }
  override setFlags(v: Node): void {
    const t = this.f.tmp(v);
    this.flagsReplaced();
    super.setFlags(t);
  }

  /** Operand of the pending operation cut to its size: i32 for up to 4 bytes. */
  private val(l: Local, size: number): Node {
    return size === 8 ? l.get : i32.wrap(l.get);
  }
  override cf(): Node {
    if (this.apart & FO_CF) return this.apartFlag(0);
    if (this.kind0 < 0 || this.kind0 >> 4 === FK_IMUL) this.flagsInMemory();
    const k = this.kind0;
    if (k === 0) return super.cf();
    const s = this.s;
    const size = 1 << (k & 3);
    const n = this.num(size);
    const a = this.val(s.fa, size);
    const b = this.val(s.fb, size);
    const r = this.val(s.fr, size);
    switch (k >> 4) {
      case FK_ADD:
        return n.lt_u(r, a);
      case FK_SUB:
        return n.lt_u(a, b);
      case FK_ADC:
        return this.topBit(n, n.or(n.and(a, b), n.and(n.or(a, b), n.not(r))));
      case FK_SBB:
        return this.topBit(n, n.or(n.and(n.not(a), b), n.and(n.not(n.xor(a, b)), r)));
      case FK_LOGIC:
        return c32(0);
      default:
        return i32.and(i32.wrap(s.fb.get), c32(1));
    }
  }
  private topBit(n: Num, v: Node): Node {
    return n.bits === 64 ? i32.wrap(i64.shr_u(v, c64(63))) : i32.and(i32.shr_u(v, c32(n.bits - 1)), c32(1));
  }
  override of(): Node {
    if (this.apart & FO_OF) return this.apartFlag(1);
    if (this.kind0 < 0 || this.kind0 >> 4 === FK_IMUL) this.flagsInMemory();
    const k = this.kind0;
    if (k === 0) return super.of();
    const s = this.s;
    const size = 1 << (k & 3);
    const n = this.num(size);
    const a = this.val(s.fa, size);
    const b = this.val(s.fb, size);
    const r = this.val(s.fr, size);
    switch (k >> 4) {
      case FK_ADD:
      case FK_ADC:
        return this.topBit(n, n.and(n.xor(a, r), n.xor(b, r)));
      case FK_SUB:
      case FK_SBB:
        return this.topBit(n, n.and(n.xor(a, b), n.xor(a, r)));
      case FK_LOGIC:
      case FK_COMPARED:
        return c32(0);
      case FK_SHIFT:
        return i32.and(i32.wrap(i64.shr_u(s.fb.get, c64(1))), c32(1));
      case FK_INC:
        return n.eq(r, this.minInt(size));
      default:
        return n.eq(r, this.maxInt(size));
    }
  }
  private minInt(size: number): Node {
    return size === 8 ? c64hl(-0x80000000, 0) : c32(size === 4 ? -0x80000000 : size === 2 ? 0x8000 : 0x80);
  }
  private maxInt(size: number): Node {
    return size === 8 ? c64hl(0x7fffffff, -1) : c32(size === 4 ? 0x7fffffff : size === 2 ? 0x7fff : 0x7f);
  }
  override cond(cc: number): Node {
    // Of a product, only the conditions on the result alone are cheap.
    const result = cc >> 1 === 2 || cc >> 1 === 4 || cc >> 1 === 5;
    const wants = CONDITION_FLAGS[cc >> 1] as number;
    if (this.apart & wants) {
      const alone = wants === FO_CF ? 0 : wants === FO_OF ? 1 : wants === FO_ZF ? 2 : -1;
      if (alone >= 0) return cc & 1 ? i32.eqz(this.apartFlag(alone)) : this.apartFlag(alone);
      this.flagsInMemory();
    } else if (this.kind0 < 0 || (this.kind0 >> 4 === FK_IMUL && !result)) this.flagsInMemory();
    const k = this.kind0;
    if (k === 0) return super.cond(cc);
    const s = this.s;
    const size = 1 << (k & 3);
    const n = this.num(size);
    const r = this.val(s.fr, size);
    const kind = k >> 4;
    const flip = (v: Node): Node => (cc & 1 ? i32.eqz(v) : v);
    if (kind === FK_COMPARED) {
      // Of CF, ZF and PF, those that the condition wants; O, S and L are never true.
      const bits = [0, 1, 2, 3, 0, 4, 0, 2][cc >> 1] as number;
      const wanted = i32.and(i32.wrap(s.fb.get), c32(bits));
      return cc & 1 ? i32.eqz(wanted) : i32.ne(wanted, c32(0));
    }
    const sub = kind === FK_SUB;
    const a = sub ? this.val(s.fa, size) : r;
    const b = sub ? this.val(s.fb, size) : r;
    const signed = (v: Node): Node => n.sext(v);
    const sf = (): Node => n.lt_s(signed(r), n.c(0));
    switch (cc >> 1) {
      case 0:
        return flip(this.of());
      case 1:
        return flip(this.cf());
      case 2:
        return cc & 1 ? n.ne(r, n.c(0)) : n.eqz(r);
      case 3:
        if (sub) return flip(i32.eqz(n.lt_u(b, a)));
        if (kind === FK_LOGIC) return cc & 1 ? n.ne(r, n.c(0)) : n.eqz(r);
        return flip(i32.or(this.cf(), n.eqz(r)));
      case 4:
        return flip(sf());
      case 5:
        return cc & 1
          ? i32.and(i32.popcnt(i32.and(n.to32(r), c32(0xff))), c32(1))
          : i32.eqz(i32.and(i32.popcnt(i32.and(n.to32(r), c32(0xff))), c32(1)));
      case 6:
        if (sub) return flip(n.lt_s(signed(a), signed(b)));
        if (kind === FK_LOGIC) return flip(sf());
        return flip(i32.xor(sf(), this.of()));
      default:
        if (sub) return flip(i32.eqz(n.lt_s(signed(b), signed(a))));
        if (kind === FK_LOGIC) return flip(i32.or(sf(), n.eqz(r)));
        return flip(i32.or(i32.xor(sf(), this.of()), n.eqz(r)));
    }
  }
}
