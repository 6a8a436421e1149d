// Far transfers: JMP, CALL, RET between segments, call gates, task gates, IRET, INT and the fast system calls.
// Intel SDM vol. 2 (each instruction), vol. 3A chapters 5 and 6.
import { type Insn, Kind } from '@hyve/x86';
import * as S from '../state.ts';
import * as B from './bits.ts';
import {
  canonical,
  commitPushes,
  commitPushes64,
  goOn,
  inLimit,
  iopl,
  nextRip,
  operandAddr,
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
} from './context.ts';
import {
  checkStackSeg,
  dropInnerSegments,
  fetch,
  fetchUpper,
  isNull,
  markAccessed,
  setFromDesc,
  setNull,
  setReal,
  setV86,
} from './descriptors.ts';
import { type EventSource, interrupt } from './events.ts';
import { innerStack, innerStack64, TASK_CALL, TASK_IRET, TASK_JMP, taskSwitch } from './task.ts';

/** Raises #GP(0) unless an offset may be jumped to in the code segment in c.code. Returns it in its final width. */
function checkOffset(c: SysCtx, lo: number, hi: number): number {
  const d = c.code;
  if (c.cpu.longMode && d.hi & B.DESC_L) {
    const v = signed64(lo, hi);
    if (!canonical(v)) c.cpu.gp(0);
    return v;
  }
  // From 64-bit code the offset may have 64 bits, all of which count.
  if (hi !== 0 || lo >>> 0 > d.limit) c.cpu.gp(0);
  return lo >>> 0;
}

/** L and D together are reserved in long mode. */
function checkLongBits(c: SysCtx, cs: number): void {
  if (c.cpu.longMode && (c.code.hi & (B.DESC_L | B.DESC_D)) === (B.DESC_L | B.DESC_D)) c.cpu.gp(selErr(c, cs));
}

/** JMPF and CALLF, direct and through memory. */
export function farTransfer(c: SysCtx, i: Insn, call: boolean): number {
  const cpu = c.cpu;
  const size = i.opSize;
  let lo: number;
  let hi = 0;
  let sel: number;
  if (i.kind0 === Kind.Far) {
    lo = i.immLo;
    sel = i.imm2 & 0xffff;
  } else {
    lo = cpu.read(operandAddr(c, 0), size === 2 ? 2 : 4);
    if (size === 8) hi = cpu.read(operandAddr(c, 4), 4);
    sel = cpu.read(operandAddr(c, size), 2);
  }
  if (size === 2) lo &= 0xffff;
  const next = nextRip(c, i.length);
  if (realLike(c)) {
    if (lo >>> 0 > (cpu.v86 ? 0xffff : cpu.limit(S.CS))) cpu.gp(0);
    if (call) {
      c.push(cpu.sel(S.CS));
      c.pushAddr(next);
      setStackPointer(c, pushCurrent(c, size));
    }
    setReal(c, S.CS, sel);
    cpu.setAddr(S.RIP, lo >>> 0);
    c.env.modeChanged();
    return S.ST_JUMP;
  }
  const d = c.code;
  const cpl = cpu.cpl;
  if (isNull(sel)) cpu.gp(0);
  fetch(c, sel, S.EXC_GP, d);
  if (!(d.hi & B.DESC_S)) return systemTransfer(c, sel, call, next);
  if (!d.isCode) cpu.gp(selErr(c, sel));
  checkLongBits(c, sel);
  if (d.conforming ? d.dpl > cpl : (sel & 3) > cpl || d.dpl !== cpl) cpu.gp(selErr(c, sel));
  if (!d.present) cpu.fault(S.EXC_NP, selErr(c, sel));
  const target = checkOffset(c, lo, hi);
  if (call) {
    c.push(cpu.sel(S.CS));
    c.pushAddr(next);
  }
  finishSame(c, sel, target, call ? size : 0);
  return S.ST_JUMP;
}

/** Pushes what is staged, if anything, and enters the code segment in c.code at the current privilege. */
function finishSame(c: SysCtx, sel: number, target: number, size: number): void {
  const cpu = c.cpu;
  markAccessed(c, c.code);
  if (size !== 0) {
    const sp = pushCurrent(c, size);
    setStackPointer(c, sp);
  }
  setFromDesc(c, S.CS, (sel & ~3) | cpu.cpl, c.code);
  cpu.setAddr(S.RIP, target);
  c.env.modeChanged();
}

/** Far transfer to a system descriptor (in c.code): TSS, task gate or call gate. */
function systemTransfer(c: SysCtx, sel: number, call: boolean, next: number): number {
  const cpu = c.cpu;
  const d = c.code;
  const g = c.gate;
  const cpl = cpu.cpl;
  const long = cpu.longMode;
  const type = d.type;
  g.lo = d.lo;
  g.hi = d.hi;
  g.addr = d.addr;
  g.up = 0;
  const isTss = type === B.TYPE_TSS16 || type === B.TYPE_TSS32;
  const isCall = type === B.TYPE_CALL32 || (!long && type === B.TYPE_CALL16);
  if (!isCall && (long || (!isTss && type !== B.TYPE_TASK_GATE))) cpu.gp(selErr(c, sel));
  if (g.dpl < cpl || g.dpl < (sel & 3)) cpu.gp(selErr(c, sel));
  if (isTss) {
    if (sel & 4) cpu.gp(selErr(c, sel));
    taskSwitch(c, call ? TASK_CALL : TASK_JMP, sel, g, next, cpu.flags(), false, 0);
    return S.ST_JUMP;
  }
  if (long) fetchUpper(c, sel, S.EXC_GP, g);
  if (!g.present) cpu.fault(S.EXC_NP, selErr(c, sel));
  if (type === B.TYPE_TASK_GATE) {
    const tss = g.gateSelector;
    if (tss & 4) cpu.gp(selErr(c, tss));
    fetch(c, tss, S.EXC_GP, g);
    if (g.type !== B.TYPE_TSS32 && g.type !== B.TYPE_TSS16) cpu.gp(selErr(c, tss));
    taskSwitch(c, call ? TASK_CALL : TASK_JMP, tss, g, next, cpu.flags(), false, 0);
    return S.ST_JUMP;
  }
  const cs = g.gateSelector;
  const size = long ? 8 : type === B.TYPE_CALL32 ? 4 : 2;
  if (isNull(cs)) cpu.gp(0);
  fetch(c, cs, S.EXC_GP, d);
  if (!d.isCode || d.dpl > cpl) cpu.gp(selErr(c, cs));
  if (long && (d.hi & (B.DESC_L | B.DESC_D)) !== B.DESC_L) cpu.gp(selErr(c, cs));
  const inner = call && !d.conforming && d.dpl < cpl;
  if (!inner && !d.conforming && d.dpl !== cpl) cpu.gp(selErr(c, cs));
  if (!d.present) cpu.fault(S.EXC_NP, selErr(c, cs));
  const target = checkOffset(c, size === 2 ? g.lo & 0xffff : g.gateOffset, g.up);
  if (!inner) {
    if (call) {
      c.push(cpu.sel(S.CS));
      c.pushAddr(next);
    }
    if (call && long && !cpu.code64) {
      // From compatibility mode: the pushes are 64 bits wide and use RSP.
      markAccessed(c, d);
      const sp = commitPushes64(c, cpu.getAddr(S.GPR + 32), 8, 0, 0);
      setFromDesc(c, S.CS, (cs & ~3) | cpl, d);
      cpu.setAddr(S.GPR + 32, sp);
      cpu.setAddr(S.RIP, target);
      c.env.modeChanged();
    } else finishSame(c, cs, target, call ? size : 0);
    return S.ST_JUMP;
  }
  callInner(c, cs, target, size, next);
  return S.ST_JUMP;
}

/** CALL through a gate (in c.gate) to the more privileged code segment in c.code. */
function callInner(c: SysCtx, cs: number, target: number, size: number, next: number): void {
  const cpu = c.cpu;
  const d = c.code;
  const cpl = d.dpl;
  if (size === 8) {
    innerStack64(c, cpl);
    if (!canonical(c.newSp)) cpu.fault(S.EXC_SS, 0);
    markAccessed(c, d);
    c.push(cpu.sel(S.SS));
    c.push(cpu.get(S.GPR + 32), cpu.getHi(S.GPR + 32));
    c.push(cpu.sel(S.CS));
    c.pushAddr(next);
    const sp = commitPushes64(c, c.newSp, 8, S.ACC_IMPLICIT, 0);
    setNull(c, S.SS, cpl);
    cpu.setAddr(S.GPR + 32, sp);
  } else {
    innerStack(c, cpl);
    const ss = c.newSs;
    if (isNull(ss)) cpu.fault(S.EXC_TS, 0);
    checkStackSeg(c, ss, cpl, S.EXC_TS);
    const stack = c.stack;
    markAccessed(c, d);
    markAccessed(c, stack);
    c.push(cpu.sel(S.SS));
    c.push(cpu.r32(4));
    const params = c.gate.hi & 31;
    for (let n = params - 1; n >= 0; n--) {
      peek(c, n * size, size);
      c.push(c.lo);
    }
    c.push(cpu.sel(S.CS));
    c.pushAddr(next);
    const start = stack.hi & B.DESC_D ? c.newSp : c.newSp & 0xffff;
    const sp = commitPushes(c, stack.base, stack.limit, stack.attr, start, size, S.ACC_IMPLICIT, selErr(c, ss));
    setFromDesc(c, S.SS, ss, stack);
    setStackPointer(c, sp);
  }
  setFromDesc(c, S.CS, (cs & ~3) | cpl, d);
  cpu.set(S.CPL, cpl);
  cpu.setAddr(S.RIP, target);
  c.env.modeChanged();
}

/** Fetches and checks the code segment of a far RET or IRET into c.code. */
function checkReturnCs(c: SysCtx, cs: number): void {
  const cpu = c.cpu;
  const d = c.code;
  if (isNull(cs)) cpu.gp(0);
  fetch(c, cs, S.EXC_GP, d);
  const rpl = cs & 3;
  if (!d.isCode || rpl < cpu.cpl) cpu.gp(selErr(c, cs));
  checkLongBits(c, cs);
  if (d.conforming ? d.dpl > rpl : d.dpl !== rpl) cpu.gp(selErr(c, cs));
  if (!d.present) cpu.fault(S.EXC_NP, selErr(c, cs));
}

/** Checks a return's stack selector, leaving a null one with c.stack.hi = 0. */
function checkReturnSs(c: SysCtx, ss: number, rpl: number): void {
  if (isNull(ss)) {
    if (!c.cpu.longMode || !(c.code.hi & B.DESC_L) || rpl === 3 || (ss & 3) !== rpl) c.cpu.gp(0);
    c.stack.hi = 0;
    return;
  }
  checkStackSeg(c, ss, rpl, S.EXC_GP);
  markAccessed(c, c.stack);
}

/** Loads SS:rSP and CS:rIP after the checks above. */
function enterOuter(
  c: SysCtx,
  cs: number,
  target: number,
  ss: number,
  spLo: number,
  spHi: number,
  release: number,
): void {
  const cpu = c.cpu;
  const cpl = cs & 3;
  if (c.stack.hi === 0) setNull(c, S.SS, ss);
  else setFromDesc(c, S.SS, ss, c.stack);
  if (cpu.longMode && c.code.hi & B.DESC_L) {
    const sum = (spLo >>> 0) + release;
    cpu.set64(S.GPR + 32, sum, spHi + (sum > 0xffffffff ? 1 : 0));
  } else if (c.stack.hi & B.DESC_D) cpu.setR32(4, (spLo >>> 0) + release);
  else cpu.setR16(4, spLo + release);
  const outward = cpl > cpu.cpl;
  setFromDesc(c, S.CS, cs, c.code);
  cpu.set(S.CPL, cpl);
  cpu.setAddr(S.RIP, target);
  if (outward) dropInnerSegments(c, cpl);
}

/** Far RET. */
export function farReturn(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const size = i.opSize;
  const release = i.kind0 === Kind.Imm ? i.immLo & 0xffff : 0;
  peek(c, 0, size);
  const lo = c.lo;
  const hi = c.hi;
  peek(c, size, size);
  const cs = c.lo & 0xffff;
  if (realLike(c)) {
    if (lo > (cpu.v86 ? 0xffff : cpu.limit(S.CS))) cpu.gp(0);
    popBytes(c, size * 2 + release);
    setReal(c, S.CS, cs);
    cpu.setAddr(S.RIP, lo);
    c.env.modeChanged();
    return S.ST_JUMP;
  }
  checkReturnCs(c, cs);
  const target = checkOffset(c, lo, hi);
  markAccessed(c, c.code);
  if ((cs & 3) === cpu.cpl) {
    popBytes(c, size * 2 + release);
    setFromDesc(c, S.CS, cs, c.code);
    cpu.setAddr(S.RIP, target);
  } else {
    peek(c, size * 2 + release, size);
    const spLo = c.lo;
    const spHi = c.hi;
    peek(c, size * 3 + release, size);
    const ss = c.lo & 0xffff;
    checkReturnSs(c, ss, cs & 3);
    enterOuter(c, cs, target, ss, spLo, spHi, release);
  }
  c.env.modeChanged();
  return S.ST_JUMP;
}

/** Moves the stack pointer up, wrapping in its width. */
function popBytes(c: SysCtx, n: number): void {
  setStackPointer(c, stackPointer(c) + n);
}

const FLAGS_ARITH = 0x8d5;
const FLAGS_USER: number = FLAGS_ARITH | S.FLAG_TF | S.FLAG_DF | S.FLAG_NT;
const FLAGS_IOPL: number = 3 << S.FLAG_IOPL_SHIFT;

/** Sets flags from an image, only bits in `mask`; asks for attention where events may have become possible. */
function loadFlags(c: SysCtx, image: number, mask: number): void {
  const old = c.cpu.flags();
  const now = (old & ~mask) | (image & mask);
  c.cpu.setFlags(now);
  if ((now & ~old & S.FLAG_IF) !== 0 || now & S.FLAG_TF) c.env.attention();
  if ((now ^ old) & (S.FLAG_AC | S.FLAG_VM)) c.env.modeChanged();
}

/**
 * RF if IRET should load it. Every instruction clears it; code that is not stepped would not, so that it only gets set while
 * there are breakpoints for it to hold off.
 */
function resumeFlag(c: SysCtx): number {
  return c.cpu.get(S.DR + 7 * 8) & B.DR7_ENABLES ? S.FLAG_RF : 0;
}

/** Flag bits that IRET may load at privilege `cpl`. */
function iretMask(c: SysCtx, cpl: number, size: number): number {
  let mask = FLAGS_USER;
  if (size !== 2) mask |= resumeFlag(c) | S.FLAG_AC | S.FLAG_ID;
  if (cpl <= iopl(c)) mask |= S.FLAG_IF;
  if (cpl === 0) {
    mask |= FLAGS_IOPL;
    if (size !== 2) mask |= S.FLAG_VIF | S.FLAG_VIP;
  }
  return mask;
}

/** IRET, IRETD, IRETQ. */
export function iret(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const size = i.opSize;
  c.env.unblockNmi();
  if (cpu.protectedMode && !cpu.v86 && cpu.get(S.EFL) & S.FLAG_NT) return iretTask(c, i);
  if (cpu.v86 && iopl(c) < 3) cpu.gp(0);
  peek(c, 0, size);
  const lo = c.lo;
  const hi = c.hi;
  peek(c, size, size);
  const cs = c.lo & 0xffff;
  peek(c, size * 2, size);
  const fl = c.lo;
  if (realLike(c)) {
    if (lo > (cpu.v86 ? 0xffff : cpu.limit(S.CS))) cpu.gp(0);
    popBytes(c, size * 3);
    setReal(c, S.CS, cs);
    cpu.setAddr(S.RIP, lo);
    let mask = FLAGS_USER | S.FLAG_IF;
    if (size !== 2) mask |= resumeFlag(c) | S.FLAG_AC | S.FLAG_ID;
    if (!cpu.v86) mask |= FLAGS_IOPL;
    loadFlags(c, fl, mask);
    c.env.modeChanged();
    return S.ST_JUMP;
  }
  const cpl = cpu.cpl;
  const long = cpu.longMode;
  if (!long && size === 4 && fl & S.FLAG_VM && cpl === 0) return iretToV86(c, lo, cs, fl);
  checkReturnCs(c, cs);
  const target = checkOffset(c, lo, hi);
  const mask = iretMask(c, cpl, size);
  if ((cs & 3) === cpl && !cpu.code64) {
    markAccessed(c, c.code);
    popBytes(c, size * 3);
    setFromDesc(c, S.CS, cs, c.code);
    cpu.setAddr(S.RIP, target);
  } else {
    peek(c, size * 3, size);
    const spLo = c.lo;
    const spHi = c.hi;
    peek(c, size * 4, size);
    const ss = c.lo & 0xffff;
    checkReturnSs(c, ss, cs & 3);
    markAccessed(c, c.code);
    enterOuter(c, cs, target, ss, spLo, spHi, 0);
  }
  loadFlags(c, fl, mask);
  c.env.modeChanged();
  return S.ST_JUMP;
}

/** IRET from ring 0 to virtual-8086 mode. */
function iretToV86(c: SysCtx, ip: number, cs: number, fl: number): number {
  const cpu = c.cpu;
  const t = c.tss;
  for (let n = 0; n < 6; n++) {
    peek(c, 12 + n * 4, 4);
    t[n] = c.lo;
  }
  if (ip > 0xffff) cpu.gp(0);
  const hadIf = cpu.get(S.EFL) & S.FLAG_IF;
  cpu.setFlags(fl & (resumeFlag(c) | ~S.FLAG_RF));
  cpu.set(S.CPL, 3);
  cpu.setR32(4, t[0]);
  setV86(c, S.CS, cs);
  setV86(c, S.SS, t[1]);
  setV86(c, S.ES, t[2]);
  setV86(c, S.DS, t[3]);
  setV86(c, S.FS, t[4]);
  setV86(c, S.GS, t[5]);
  cpu.setAddr(S.RIP, ip);
  c.env.modeChanged();
  if ((!hadIf && fl & S.FLAG_IF) || fl & S.FLAG_TF) c.env.attention();
  return S.ST_JUMP;
}

/** IRET with NT set: back to the task that the current TSS links to. */
function iretTask(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  if (cpu.longMode) cpu.gp(0);
  const link = cpu.read(cpu.segBase(S.TR), 2, S.ACC_IMPLICIT);
  const g = c.gate;
  if (link & 4) cpu.fault(S.EXC_TS, selErr(c, link));
  fetch(c, link, S.EXC_TS, g);
  if (g.type !== B.TYPE_TSS32_BUSY && g.type !== B.TYPE_TSS16_BUSY) cpu.fault(S.EXC_TS, selErr(c, link));
  taskSwitch(c, TASK_IRET, link, g, nextRip(c, i.length), cpu.flags(), false, 0);
  return S.ST_JUMP;
}

/** INT n, INT3, INT1, INTO (which the caller found to be taken). */
export function softInterrupt(c: SysCtx, i: Insn, vector: number, source: EventSource): number {
  interrupt(c, vector, source, false, 0, nextRip(c, i.length), c.cpu.flags());
  return S.ST_JUMP;
}

/** BOUND. */
export function bound(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const wide = i.opSize !== 2;
  const size = wide ? 4 : 2;
  const shift = wide ? 0 : 16;
  const index = (cpu.r32(i.reg0) << shift) >> shift;
  const low = (cpu.read(operandAddr(c, 0), size) << shift) >> shift;
  const high = (cpu.read(operandAddr(c, size), size) << shift) >> shift;
  if (index < low || index > high) cpu.fault(S.EXC_BR);
  return S.ST_NEXT;
}

// ---- Flags as a whole ----

/** PUSHF. */
export function pushf(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  if (cpu.v86 && iopl(c) < 3) cpu.gp(0);
  c.push(cpu.flags() & ~(S.FLAG_VM | S.FLAG_RF));
  setStackPointer(c, pushCurrent(c, i.opSize));
  return S.ST_NEXT;
}

/** POPF. */
export function popf(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  if (cpu.v86 && iopl(c) < 3) cpu.gp(0);
  peek(c, 0, i.opSize);
  const image = c.lo & ~S.FLAG_RF;
  const cpl = cpu.get(S.CPL);
  let mask = FLAGS_USER;
  if (i.opSize !== 2) mask |= S.FLAG_AC | S.FLAG_ID | S.FLAG_RF;
  if (cpl <= iopl(c)) mask |= S.FLAG_IF;
  if (cpl === 0) mask |= FLAGS_IOPL;
  popBytes(c, i.opSize);
  loadFlags(c, image, mask);
  return goOn(c, i.length);
}

/** CLI and STI. */
export function setInterruptFlag(c: SysCtx, i: Insn, on: boolean): number {
  const cpu = c.cpu;
  if (cpu.protectedMode && (cpu.v86 ? 3 : cpu.cpl) > iopl(c)) cpu.gp(0);
  const old = cpu.get(S.EFL);
  if (!on) {
    cpu.set(S.EFL, old & ~S.FLAG_IF);
    return S.ST_NEXT;
  }
  cpu.set(S.EFL, old | S.FLAG_IF);
  if (old & S.FLAG_IF) return S.ST_NEXT;
  c.env.shadow(false);
  c.env.attention();
  return goOn(c, i.length);
}

/** CLAC and STAC. */
export function setAlignCheck(c: SysCtx, i: Insn, on: boolean): number {
  const cpu = c.cpu;
  c.features();
  if (cpu.get(S.CPL) !== 0 || !(c.f7b & B.F7B_SMAP)) cpu.ud();
  const old = cpu.get(S.EFL);
  cpu.set(S.EFL, on ? old | S.FLAG_AC : old & ~S.FLAG_AC);
  c.env.modeChanged();
  return goOn(c, i.length);
}

// ---- Fast system calls ----

/** Loads a flat code or stack segment as SYSCALL and its kin do: without looking at the tables. */
function setFlat(c: SysCtx, n: number, sel: number, attr: number): void {
  c.cpu.setSeg(n, sel, 0, 0, 0xffffffff, attr);
}

/** SYSCALL: 64-bit mode only on Intel processors; any protected mode on AMD ones (APM vol. 3). */
export function syscall(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  c.features();
  const long = cpu.longMode;
  if (!(cpu.get(S.EFER) & B.EFER_SCE) || (c.amd ? !cpu.protectedMode : !cpu.code64)) cpu.ud();
  const next = nextRip(c, i.length);
  const flags = cpu.flags();
  const cs = cpu.getHi(S.STAR) & 0xfffc;
  if (long) {
    cpu.setAddr(S.GPR + 8, next);
    cpu.set64(S.GPR + 11 * 8, flags, 0);
    const entry = cpu.code64 ? S.LSTAR : S.CSTAR;
    cpu.set64(S.RIP, cpu.get(entry), cpu.getHi(entry));
    cpu.setFlags(flags & ~(cpu.get(S.FMASK) | S.FLAG_RF));
  } else {
    cpu.setR32(1, next);
    cpu.set64(S.RIP, cpu.get(S.STAR), 0);
    cpu.setFlags(flags & ~(S.FLAG_VM | S.FLAG_IF | S.FLAG_RF));
  }
  setFlat(c, S.CS, cs, long ? B.ATTR_CODE64 : B.ATTR_CODE32);
  setFlat(c, S.SS, cs + 8, B.ATTR_DATA32);
  cpu.set(S.CPL, 0);
  c.env.modeChanged();
  return S.ST_JUMP;
}

/** SYSRET. Intel checks RCX before the privilege changes; AMD leaves that to the fetch, and has SYSRET in all modes. */
export function sysret(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  c.features();
  if (!(cpu.get(S.EFER) & B.EFER_SCE) || (!c.amd && !cpu.code64)) cpu.ud();
  if (!cpu.protectedMode) cpu.gp(0);
  requireCpl0(c);
  const sel = cpu.getHi(S.STAR) >>> 16;
  const from64 = cpu.code64;
  let target: number;
  if (from64 && i.opSize === 8) {
    target = cpu.getAddr(S.GPR + 8);
    if (!c.amd && !canonical(target)) cpu.gp(0);
    setFlat(c, S.CS, (sel + 16) | 3, B.ATTR_CODE64 | B.ATTR_DPL3);
  } else {
    target = cpu.r32(1);
    setFlat(c, S.CS, sel | 3, B.ATTR_CODE32 | B.ATTR_DPL3);
  }
  setFlat(c, S.SS, (sel + 8) | 3, B.ATTR_DATA32 | B.ATTR_DPL3);
  const old = cpu.get(S.EFL);
  const flags = from64 ? cpu.r32(11) & 0x3c7fd7 : cpu.flags() | S.FLAG_IF;
  cpu.setFlags(flags);
  cpu.set(S.CPL, 3);
  cpu.setAddr(S.RIP, target);
  c.env.modeChanged();
  if ((flags & ~old & S.FLAG_IF) !== 0) c.env.attention();
  // Unlike after IRET, the trap comes before the next instruction.
  if (flags & S.FLAG_TF) c.env.trap(B.DR6_BS);
  return S.ST_JUMP;
}

/** VMCALL and VMMCALL: the one that belongs to the processor's vendor, if somebody answers. */
export function hypercall(c: SysCtx, amd: boolean): number {
  const cpu = c.cpu;
  c.features();
  const answer = c.env.hypercall;
  if (answer === null || amd !== c.amd) return cpu.ud();
  requireCpl0(c);
  const v = answer(cpu.r32(0), cpu.r32(3), cpu.r32(1), cpu.r32(2), cpu.r32(6));
  if (cpu.code64) cpu.set64(S.GPR, v, v >> 31);
  else cpu.setR32(0, v);
  return S.ST_NEXT;
}

/** SYSENTER. */
export function sysenter(c: SysCtx): number {
  const cpu = c.cpu;
  const sel = cpu.get(S.SYSENTER_CS) & 0xfffc;
  if (!cpu.protectedMode || sel === 0) cpu.gp(0);
  const long = cpu.longMode;
  cpu.set(S.EFL, cpu.get(S.EFL) & ~(S.FLAG_VM | S.FLAG_IF | S.FLAG_RF));
  setFlat(c, S.CS, sel, long ? B.ATTR_CODE64 : B.ATTR_CODE32);
  setFlat(c, S.SS, sel + 8, B.ATTR_DATA32);
  cpu.set(S.CPL, 0);
  cpu.set64(S.GPR + 32, cpu.get(S.SYSENTER_ESP), long ? cpu.getHi(S.SYSENTER_ESP) : 0);
  cpu.set64(S.RIP, cpu.get(S.SYSENTER_EIP), long ? cpu.getHi(S.SYSENTER_EIP) : 0);
  c.env.modeChanged();
  return S.ST_JUMP;
}

/** SYSEXIT. */
export function sysexit(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const sel = cpu.get(S.SYSENTER_CS) & 0xffff;
  if (!cpu.protectedMode || (sel & 0xfffc) === 0 || cpu.get(S.CPL) !== 0) cpu.gp(0);
  let target: number;
  if (i.opSize === 8) {
    target = cpu.getAddr(S.GPR + 16);
    const sp = cpu.getAddr(S.GPR + 8);
    if (!canonical(target) || !canonical(sp)) cpu.gp(0);
    setFlat(c, S.CS, (sel + 32) | 3, B.ATTR_CODE64 | B.ATTR_DPL3);
    setFlat(c, S.SS, (sel + 40) | 3, B.ATTR_DATA32 | B.ATTR_DPL3);
    cpu.setAddr(S.GPR + 32, sp);
  } else {
    target = cpu.r32(2);
    setFlat(c, S.CS, (sel + 16) | 3, B.ATTR_CODE32 | B.ATTR_DPL3);
    setFlat(c, S.SS, (sel + 24) | 3, B.ATTR_DATA32 | B.ATTR_DPL3);
    cpu.setR32(4, cpu.r32(1));
  }
  cpu.set(S.CPL, 3);
  cpu.setAddr(S.RIP, target);
  c.env.modeChanged();
  return S.ST_JUMP;
}

/** ENTER. */
export function enter(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const size = i.opSize;
  const alloc = i.immLo & 0xffff;
  const level = i.imm2 & 31;
  const long = cpu.code64;
  const wide = long || (cpu.attr(S.SS) & S.ATTR_DB) !== 0;
  const wrap = wide ? 0x1_0000_0000 : 0x1_0000;
  const sp = stackPointer(c);
  const bp = long ? cpu.getAddr(S.GPR + 40) : wide ? cpu.r32(5) : cpu.r16(5);
  const pushed = (n: number): number => (long ? sp - n * size : (sp - n * size + 2 * wrap) % wrap);
  const outer = (n: number): number => (long ? bp - n * size : (bp - n * size + wrap) % wrap);
  const frame = pushed(1);
  const total = (level + 1) * size + alloc;
  const end = long ? sp - total : (sp - total + 2 * wrap) % wrap;
  // All faults before anything is written; the last of the new frame must be writable too.
  probeStack(c, frame, size, S.ACC_WRITE);
  for (let n = 1; n < level; n++) {
    probeStack(c, outer(n), size, 0);
    probeStack(c, pushed(n + 1), size, S.ACC_WRITE);
  }
  if (level > 0) probeStack(c, pushed(level + 1), size, S.ACC_WRITE);
  probeStack(c, end, size, S.ACC_WRITE);
  // Each element is written before the next is read: the frames may overlap.
  writeStack(c, frame, size, cpu.get(S.GPR + 40), cpu.getHi(S.GPR + 40));
  for (let n = 1; n < level; n++) {
    readStack(c, outer(n), size);
    writeStack(c, pushed(n + 1), size, c.lo, c.hi);
  }
  if (level > 0) {
    const lo = wide ? frame % 0x1_0000_0000 : frame | (cpu.r32(4) & 0xffff0000);
    writeStack(c, pushed(level + 1), size, lo, Math.floor(frame / 0x1_0000_0000));
  }
  setStackPointer(c, end);
  if (long && size === 8) cpu.setAddr(S.GPR + 40, frame);
  else if (size === 2 || !wide) cpu.setR16(5, frame);
  else cpu.setR32(5, frame);
  return S.ST_NEXT;
}

function stackAddr(c: SysCtx, off: number, size: number): number {
  const cpu = c.cpu;
  if (cpu.code64) {
    if (!canonical(off) || !canonical(off + size - 1)) cpu.fault(S.EXC_SS, 0);
    return off;
  }
  if (!inLimit(cpu.limit(S.SS), cpu.attr(S.SS), off, size)) cpu.fault(S.EXC_SS, 0);
  return wrapLinear(c, cpu.get(S.SEG + S.SS * S.SEG_STRIDE) + off);
}

function readStack(c: SysCtx, off: number, size: number): void {
  const at = stackAddr(c, off, size);
  c.lo = c.cpu.read(at, size === 2 ? 2 : 4);
  c.hi = size === 8 ? c.cpu.read(at + 4, 4) : 0;
}

function writeStack(c: SysCtx, off: number, size: number, lo: number, hi: number): void {
  const at = stackAddr(c, off, size);
  c.cpu.write(at, size === 2 ? 2 : 4, lo);
  if (size === 8) c.cpu.write(at + 4, 4, hi);
}

function probeStack(c: SysCtx, off: number, size: number, access: number): void {
  c.cpu.probe(stackAddr(c, off, size), size, access);
}
