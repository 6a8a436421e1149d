// Descriptor tables and segment registers: fetching and checking descriptors, MOV/POP/LxS to segment registers, LDTR, TR,
// GDTR, IDTR, and the instructions that ask about descriptors. Intel SDM vol. 3A chapters 3, 5 and 7.
import { type Insn, Kind } from '@hyve/x86';
import * as S from '../state.ts';
import * as B from './bits.ts';
import {
  canonical,
  type Desc,
  goOn,
  operandAddr,
  patchFlags,
  peek,
  pushCurrent,
  realLike,
  requireCpl0,
  type SysCtx,
  selErr,
  setStackPointer,
  signed64,
  stackPointer,
  wrapLinear,
  writeReg,
} from './context.ts';

/** Whether `sel` is one of the four null selectors. */
export function isNull(sel: number): boolean {
  return (sel & 0xfffc) === 0;
}

/** Reads an 8-byte descriptor from GDT or LDT; false, and nothing read, when it lies beyond the table. */
export function tryFetch(c: SysCtx, sel: number, out: Desc): boolean {
  const cpu = c.cpu;
  const index = sel & 0xfff8;
  let base: number;
  if (sel & 4) {
    if (cpu.attr(S.LDTR) & S.ATTR_UNUSABLE || index + 7 > cpu.limit(S.LDTR)) return false;
    base = cpu.segBase(S.LDTR);
  } else {
    if (index + 7 > cpu.get(S.GDT_LIMIT)) return false;
    base = cpu.getAddr(S.GDT_BASE);
  }
  const addr = wrapLinear(c, base + index);
  out.addr = addr;
  out.lo = cpu.read(addr, 4, S.ACC_IMPLICIT);
  out.hi = cpu.read(wrapLinear(c, addr + 4), 4, S.ACC_IMPLICIT);
  out.up = 0;
  return true;
}

/** Reads a descriptor; beyond the table raises `vector` with the selector. */
export function fetch(c: SysCtx, sel: number, vector: number, out: Desc): void {
  if (!tryFetch(c, sel, out)) c.cpu.fault(vector, selErr(c, sel));
}

/** Reads the upper half of a 16-byte system descriptor (long mode). */
export function fetchUpper(c: SysCtx, sel: number, vector: number, d: Desc): void {
  const limit = sel & 4 ? c.cpu.limit(S.LDTR) : c.cpu.get(S.GDT_LIMIT);
  if ((sel & 0xfff8) + 15 > limit) c.cpu.fault(vector, selErr(c, sel));
  d.up = c.cpu.read(d.addr + 8, 4, S.ACC_IMPLICIT);
  if (c.cpu.read(d.addr + 12, 4, S.ACC_IMPLICIT) & 0x1f00) c.cpu.fault(vector, selErr(c, sel));
}

/** Sets the accessed bit of a code or data descriptor, in the table and in `d`. */
export function markAccessed(c: SysCtx, d: Desc): void {
  if (d.hi & B.DESC_A) return;
  d.hi = (d.hi | B.DESC_A) >>> 0;
  c.cpu.maskByte(wrapLinear(c, d.addr + 5), 0xff, B.DESC_A >>> 8);
}

/** Sets or clears the busy bit of the TSS descriptor at linear address `addr` of the GDT. */
export function setBusy(c: SysCtx, addr: number, busy: boolean): void {
  c.cpu.maskByte(wrapLinear(c, addr + 5), busy ? 0xff : 0xfd, busy ? 2 : 0);
}

/** Loads a segment register from a checked descriptor. */
export function setFromDesc(c: SysCtx, n: number, sel: number, d: Desc): void {
  c.cpu.setSeg(n, sel, d.base, d.up, d.limit, d.attr);
}

/** Loads a null selector. SS keeps the privilege level in its DPL. */
export function setNull(c: SysCtx, n: number, sel: number): void {
  c.cpu.setSeg(n, sel, 0, 0, 0, S.ATTR_UNUSABLE | (n === S.SS ? (sel & 3) << 5 : 0));
}

/** Loads a segment register as real mode (hidden limit and size stay) and virtual-8086 mode (all fixed) do. */
export function setReal(c: SysCtx, n: number, sel: number): void {
  const cpu = c.cpu;
  if (cpu.v86) {
    setV86(c, n, sel);
    return;
  }
  const old = cpu.attr(n);
  const unusable = (old & S.ATTR_UNUSABLE) !== 0;
  const access = n === S.CS ? 0x9b : 0x93;
  cpu.setSeg(
    n,
    sel,
    (sel & 0xffff) << 4,
    0,
    unusable ? 0xffff : cpu.limit(n),
    unusable ? access : (old & (S.ATTR_DB | S.ATTR_G)) | access,
  );
}

/** Loads a segment register for virtual-8086 mode. */
export function setV86(c: SysCtx, n: number, sel: number): void {
  c.cpu.setSeg(n, sel, (sel & 0xffff) << 4, 0, 0xffff, 0xf3);
}

/** Checks a stack segment for privilege `cpl`, leaving its descriptor in c.stack; `vector` for the wrong kind. */
export function checkStackSeg(c: SysCtx, sel: number, cpl: number, vector: number): void {
  const d = c.stack;
  fetch(c, sel, vector, d);
  if ((sel & 3) !== cpl || !d.isWritableData || d.dpl !== cpl) c.cpu.fault(vector, selErr(c, sel));
  if (!d.present) c.cpu.fault(S.EXC_SS, selErr(c, sel));
}

/** Checks a data segment for DS, ES, FS, GS into `d`. */
export function checkDataSeg(c: SysCtx, sel: number, cpl: number, vector: number, d: Desc): void {
  fetch(c, sel, vector, d);
  const code = d.isCode;
  if (!(d.hi & B.DESC_S) || (code && !(d.hi & B.DESC_RW))) c.cpu.fault(vector, selErr(c, sel));
  if (!(code && d.conforming) && (d.dpl < (sel & 3) || d.dpl < cpl)) c.cpu.fault(vector, selErr(c, sel));
  if (!d.present) c.cpu.fault(S.EXC_NP, selErr(c, sel));
}

/** Loads ES, SS, DS, FS or GS (MOV, POP, LxS) with all checks; no state changes before they are passed. */
export function loadSegment(c: SysCtx, n: number, sel: number): void {
  const cpu = c.cpu;
  if (realLike(c)) {
    setReal(c, n, sel);
    c.env.modeChanged();
    return;
  }
  const cpl = cpu.cpl;
  if (n === S.SS) {
    if (isNull(sel)) {
      if (!cpu.code64 || cpl === 3 || (sel & 3) !== cpl) cpu.gp(0);
      setNull(c, n, sel);
    } else {
      checkStackSeg(c, sel, cpl, S.EXC_GP);
      markAccessed(c, c.stack);
      setFromDesc(c, n, sel, c.stack);
    }
  } else if (isNull(sel)) setNull(c, n, sel);
  else {
    checkDataSeg(c, sel, cpl, S.EXC_GP, c.stack);
    markAccessed(c, c.stack);
    setFromDesc(c, n, sel, c.stack);
  }
  c.env.modeChanged();
}

/** On a return to an outer ring, takes away data segments that the outer ring may not use. */
export function dropInnerSegments(c: SysCtx, cpl: number): void {
  for (let n = S.ES; n <= S.GS; n++) {
    if (n === S.CS || n === S.SS) continue;
    const attr = c.cpu.attr(n);
    if (attr & S.ATTR_UNUSABLE) continue;
    const conforming = (attr & (B.ATTR_CODE | B.ATTR_EXPAND_DOWN)) === (B.ATTR_CODE | B.ATTR_EXPAND_DOWN);
    if (!conforming && ((attr >> 5) & 3) < cpl) {
      const o = S.SEG + n * S.SEG_STRIDE;
      c.cpu.set(o + S.SEG_SEL, 0);
      c.cpu.set(o + S.SEG_ATTR, S.ATTR_UNUSABLE);
    }
  }
}

// ---- Instructions ----

/** Reads a 16-bit register or memory operand 0 or 1. */
function source16(c: SysCtx, kind: number, reg: number): number {
  return kind === Kind.Mem ? c.cpu.read(operandAddr(c, 0), 2) : c.cpu.r16(reg);
}

/** Stores a selector-like value to operand 0: 16 bits to memory, the operand size to a register. */
function storeSelector(c: SysCtx, i: Insn, lo: number): number {
  if (i.kind0 === Kind.Mem) c.cpu.write(operandAddr(c, 0), 2, lo & 0xffff, S.ACC_WRITE);
  else writeReg(c, i.reg0, i.opSize, lo, 0);
  return S.ST_NEXT;
}

/** MOV between segment registers and registers or memory. */
export function movSegment(c: SysCtx, i: Insn): number {
  if (i.kind1 === Kind.Seg) return storeSelector(c, i, c.cpu.sel(i.reg1));
  if (i.reg0 === S.CS || i.reg0 > S.GS) c.cpu.ud();
  loadSegment(c, i.reg0, source16(c, i.kind1, i.reg1));
  if (i.reg0 === S.SS) c.env.shadow(true);
  return goOn(c, i.length);
}

/** PUSH of a segment register. */
export function pushSegment(c: SysCtx, i: Insn): number {
  c.push(c.cpu.sel(i.reg0));
  setStackPointer(c, pushCurrent(c, i.opSize));
  return S.ST_NEXT;
}

/** POP to a segment register. */
export function popSegment(c: SysCtx, i: Insn): number {
  peek(c, 0, i.opSize);
  const long = c.cpu.code64;
  const wide = (c.cpu.attr(S.SS) & S.ATTR_DB) !== 0;
  const sp = stackPointer(c) + i.opSize;
  loadSegment(c, i.reg0, c.lo & 0xffff);
  if (long) c.cpu.setAddr(S.GPR + 32, sp);
  else if (wide) c.cpu.setR32(4, sp);
  else c.cpu.setR16(4, sp);
  if (i.reg0 === S.SS) c.env.shadow(true);
  return goOn(c, i.length);
}

/** LES, LDS, LSS, LFS, LGS. */
export function loadFarPointer(c: SysCtx, i: Insn, seg: number): number {
  if (i.kind1 !== Kind.Mem) c.cpu.ud();
  const size = i.opSize;
  const lo = c.cpu.read(operandAddr(c, 0), size === 2 ? 2 : 4);
  const hi = size === 8 ? c.cpu.read(operandAddr(c, 4), 4) : 0;
  const sel = c.cpu.read(operandAddr(c, size), 2);
  loadSegment(c, seg, sel);
  writeReg(c, i.reg0, size, lo, hi);
  return goOn(c, i.length);
}

/** #UD outside protected mode. */
function requireProtected(c: SysCtx): void {
  if (realLike(c)) c.cpu.ud();
}

/** CR4.UMIP keeps table registers from programs. */
function checkUmip(c: SysCtx): void {
  if (c.cpu.get(S.CR4) & B.CR4_UMIP && c.cpu.get(S.CPL) !== 0) c.cpu.gp(0);
}

/** SLDT. */
export function sldt(c: SysCtx, i: Insn): number {
  requireProtected(c);
  checkUmip(c);
  return storeSelector(c, i, c.cpu.sel(S.LDTR));
}

/** STR. */
export function str(c: SysCtx, i: Insn): number {
  requireProtected(c);
  checkUmip(c);
  return storeSelector(c, i, c.cpu.sel(S.TR));
}

/** LLDT. */
export function lldt(c: SysCtx, i: Insn): number {
  requireProtected(c);
  requireCpl0(c);
  const sel = source16(c, i.kind0, i.reg0);
  if (isNull(sel)) {
    setNull(c, S.LDTR, sel);
    return S.ST_NEXT;
  }
  const d = c.gate;
  if (sel & 4) c.cpu.gp(selErr(c, sel));
  fetch(c, sel, S.EXC_GP, d);
  if (d.type !== B.TYPE_LDT) c.cpu.gp(selErr(c, sel));
  if (c.cpu.longMode) fetchUpper(c, sel, S.EXC_GP, d);
  if (!d.present) c.cpu.fault(S.EXC_NP, selErr(c, sel));
  if (!canonical(signed64(d.base, d.up))) c.cpu.gp(selErr(c, sel));
  setFromDesc(c, S.LDTR, sel, d);
  return S.ST_NEXT;
}

/** LTR. */
export function ltr(c: SysCtx, i: Insn): number {
  requireProtected(c);
  requireCpl0(c);
  const sel = source16(c, i.kind0, i.reg0);
  const d = c.gate;
  if (isNull(sel)) c.cpu.gp(0);
  if (sel & 4) c.cpu.gp(selErr(c, sel));
  fetch(c, sel, S.EXC_GP, d);
  const long = c.cpu.longMode;
  if (d.type !== B.TYPE_TSS32 && (long || d.type !== B.TYPE_TSS16)) c.cpu.gp(selErr(c, sel));
  if (long) fetchUpper(c, sel, S.EXC_GP, d);
  if (!d.present) c.cpu.fault(S.EXC_NP, selErr(c, sel));
  if (!canonical(signed64(d.base, d.up))) c.cpu.gp(selErr(c, sel));
  setBusy(c, d.addr, true);
  d.hi = (d.hi | B.DESC_BUSY) >>> 0;
  setFromDesc(c, S.TR, sel, d);
  return S.ST_NEXT;
}

/** SGDT, SIDT. */
export function storeTable(c: SysCtx, base: number, limit: number): number {
  const cpu = c.cpu;
  checkUmip(c);
  const long = cpu.code64;
  cpu.probe(operandAddr(c, 0), long ? 10 : 6, S.ACC_WRITE);
  cpu.write(operandAddr(c, 0), 2, cpu.get(limit) & 0xffff, S.ACC_WRITE);
  cpu.write(operandAddr(c, 2), 4, cpu.get(base), S.ACC_WRITE);
  if (long) cpu.write(operandAddr(c, 6), 4, cpu.getHi(base), S.ACC_WRITE);
  return S.ST_NEXT;
}

/** LGDT, LIDT. */
export function loadTable(c: SysCtx, i: Insn, base: number, limit: number): number {
  const cpu = c.cpu;
  requireCpl0(c);
  const l = cpu.read(operandAddr(c, 0), 2);
  let lo = cpu.read(operandAddr(c, 2), 4);
  let hi = 0;
  if (cpu.code64) {
    hi = cpu.read(operandAddr(c, 6), 4);
    if (!canonical(signed64(lo, hi))) cpu.gp(0);
  } else if (i.opSize === 2) lo &= 0xffffff;
  cpu.set64(base, lo, hi);
  cpu.set(limit, l);
  return S.ST_NEXT;
}

// Types that LAR and LSL know, one bit per system type: outside and inside long mode.
const LAR_LEGACY = 0x1a3e;
const LAR_LONG = 0x1a04;
const LSL_LEGACY = 0x0a0e;
const LSL_LONG = 0x0a04;

/** Whether a selector may be looked at with LAR or LSL; its descriptor is left in c.gate. */
function visible(c: SysCtx, sel: number, types: number): boolean {
  const d = c.gate;
  if (isNull(sel) || !tryFetch(c, sel, d)) return false;
  if (!(d.hi & B.DESC_S) && ((types >>> (d.type & 15)) & 1) === 0) return false;
  if (d.isCode && d.conforming) return true;
  return d.dpl >= c.cpu.cpl && d.dpl >= (sel & 3);
}

/** LAR. */
export function lar(c: SysCtx, i: Insn): number {
  requireProtected(c);
  const ok = visible(c, source16(c, i.kind1, i.reg1), c.cpu.longMode ? LAR_LONG : LAR_LEGACY);
  if (ok) writeReg(c, i.reg0, i.opSize, i.opSize === 2 ? c.gate.hi & 0xff00 : c.gate.hi & 0xffff00, 0);
  patchFlags(c, S.FLAG_ZF, ok ? S.FLAG_ZF : 0);
  return S.ST_NEXT;
}

/** LSL. */
export function lsl(c: SysCtx, i: Insn): number {
  requireProtected(c);
  const ok = visible(c, source16(c, i.kind1, i.reg1), c.cpu.longMode ? LSL_LONG : LSL_LEGACY);
  if (ok) writeReg(c, i.reg0, i.opSize, c.gate.limit, 0);
  patchFlags(c, S.FLAG_ZF, ok ? S.FLAG_ZF : 0);
  return S.ST_NEXT;
}

/** VERR and VERW. */
export function verify(c: SysCtx, i: Insn, write: boolean): number {
  requireProtected(c);
  const sel = source16(c, i.kind0, i.reg0);
  const d = c.gate;
  let ok = visible(c, sel, 0);
  if (ok) ok = write ? d.isWritableData : !d.isCode || (d.hi & B.DESC_RW) !== 0;
  patchFlags(c, S.FLAG_ZF, ok ? S.FLAG_ZF : 0);
  return S.ST_NEXT;
}

/** ARPL. */
export function arpl(c: SysCtx, i: Insn): number {
  requireProtected(c);
  const dest = source16(c, i.kind0, i.reg0);
  const rpl = c.cpu.r16(i.reg1) & 3;
  const raise = (dest & 3) < rpl;
  if (raise) {
    const v = (dest & ~3) | rpl;
    if (i.kind0 === Kind.Mem) c.cpu.write(operandAddr(c, 0), 2, v, S.ACC_WRITE);
    else c.cpu.setR16(i.reg0, v);
  }
  patchFlags(c, S.FLAG_ZF, raise ? S.FLAG_ZF : 0);
  return S.ST_NEXT;
}
