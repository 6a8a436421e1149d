// Hardware task switching with 16- and 32-bit TSSs, and inner-ring stacks from a TSS. Intel SDM vol. 3A chapter 8.
import * as S from '../state.ts';
import * as B from './bits.ts';
import { type Desc, iopl, pushCurrent, type SysCtx, selErr, setStackPointer, signed64, wrapLinear } from './context.ts';
import { loadPdptes, pdptesValid } from './control.ts';
import {
  checkDataSeg,
  checkStackSeg,
  fetch,
  isNull,
  markAccessed,
  setBusy,
  setFromDesc,
  setNull,
  setV86,
} from './descriptors.ts';

/** What causes a task switch. */
export const TASK_JMP = 0;
export const TASK_CALL = 1;
export const TASK_IRET = 2;
/** Interrupt or exception through a task gate. */
export const TASK_EVENT = 3;

// Slots of SysCtx.tss.
const T_CR3 = 0;
const T_EIP = 1;
const T_FLAGS = 2;
const T_GPR = 3;
const T_SEG = 11;
const T_LDT = 17;
const T_TRAP = 18;

/** The last byte of a TSS that must lie in its limit. */
const MIN_LIMIT_32 = 0x67;
const MIN_LIMIT_16 = 0x2b;

/** Whether TR holds a 32-bit (or 64-bit) TSS. */
export function tss32(c: SysCtx): boolean {
  return (c.cpu.attr(S.TR) & 8) !== 0;
}

/** Reads the stack for ring `dpl` from the current TSS into c.newSp and c.newSs. */
export function innerStack(c: SysCtx, dpl: number): void {
  const cpu = c.cpu;
  const wide = tss32(c);
  const at = wide ? 4 + dpl * 8 : 2 + dpl * 4;
  if (at + (wide ? 5 : 3) > cpu.limit(S.TR)) cpu.fault(S.EXC_TS, selErr(c, cpu.sel(S.TR)));
  const base = cpu.segBase(S.TR);
  c.newSp = cpu.read(wrapLinear(c, base + at), wide ? 4 : 2, S.ACC_IMPLICIT);
  c.newSs = cpu.read(wrapLinear(c, base + at + (wide ? 4 : 2)), 2, S.ACC_IMPLICIT);
}

/** Reads a 64-bit stack pointer from the TSS: `index` 0–2 for rings, 4–10 for IST1–IST7. Sets c.newSp. */
export function innerStack64(c: SysCtx, index: number): void {
  const cpu = c.cpu;
  const at = 4 + index * 8;
  if (at + 7 > cpu.limit(S.TR)) cpu.fault(S.EXC_TS, selErr(c, cpu.sel(S.TR)));
  const a = cpu.segBase(S.TR) + at;
  const lo = cpu.read(a, 4, S.ACC_IMPLICIT);
  c.newSp = signed64(lo, cpu.read(a + 4, 4, S.ACC_IMPLICIT));
}

function readTss(c: SysCtx, base: number, wide: boolean): void {
  const t = c.tss;
  const rd = (at: number, size: 2 | 4): number => c.cpu.read(wrapLinear(c, base + at), size, S.ACC_IMPLICIT);
  if (wide) {
    t[T_CR3] = rd(0x1c, 4);
    for (let n = 0; n < 10; n++) t[T_EIP + n] = rd(0x20 + n * 4, 4);
    for (let n = 0; n < 7; n++) t[T_SEG + n] = rd(0x48 + n * 4, 2);
    t[T_TRAP] = rd(0x64, 2) & 1;
  } else {
    t[T_CR3] = 0;
    for (let n = 0; n < 10; n++) t[T_EIP + n] = rd(0x0e + n * 2, 2);
    for (let n = 0; n < 4; n++) t[T_SEG + n] = rd(0x22 + n * 2, 2);
    t[T_SEG + S.FS] = t[T_SEG + S.GS] = 0;
    t[T_LDT] = rd(0x2a, 2);
    t[T_TRAP] = 0;
  }
}

function saveTss(c: SysCtx, base: number, wide: boolean, rip: number, flags: number): void {
  const cpu = c.cpu;
  const size = wide ? 4 : 2;
  const first = wide ? 0x20 : 0x0e;
  const wr = (at: number, s: 2 | 4, v: number): void =>
    cpu.write(wrapLinear(c, base + at), s, s === 2 ? v & 0xffff : v, S.ACC_IMPLICIT | S.ACC_WRITE);
  wr(first, size, rip);
  wr(first + size, size, flags);
  for (let n = 0; n < 8; n++) wr(first + (2 + n) * size, size, cpu.r32(n));
  const segs = wide ? 6 : 4;
  for (let n = 0; n < segs; n++) wr((wide ? 0x48 : 0x22) + n * size, 2, cpu.sel(n));
}

/**
 * Switches to the task whose TSS descriptor `d` (privilege and type checked by the caller) `sel` names. Returns with RIP,
 * CPL and all else of the new task; faults raised after the switch are raised in the new task, with RIP there.
 * @param rip where the old task goes on
 * @param flags EFLAGS to save in the old TSS
 * @param errorCode pushed on the new stack when `hasError`
 */
export function taskSwitch(
  c: SysCtx,
  cause: number,
  sel: number,
  d: Desc,
  rip: number,
  flags: number,
  hasError: boolean,
  errorCode: number,
): void {
  const cpu = c.cpu;
  const wide = (d.type & 8) !== 0;
  if (!d.present) cpu.fault(S.EXC_NP, selErr(c, sel));
  if (d.limit < (wide ? MIN_LIMIT_32 : MIN_LIMIT_16)) cpu.fault(S.EXC_TS, selErr(c, sel));
  const oldWide = tss32(c);
  const oldSel = cpu.sel(S.TR);
  const oldBase = cpu.segBase(S.TR);
  const nests = cause === TASK_CALL || cause === TASK_EVENT;
  if (cpu.limit(S.TR) < (oldWide ? 0x5f : 0x29)) cpu.fault(S.EXC_TS, selErr(c, oldSel));

  // Everything that can fault in the old task.
  const gdt = cpu.getAddr(S.GDT_BASE);
  const oldDesc = wrapLinear(c, gdt + (oldSel & 0xfff8));
  readTss(c, d.base, wide);
  cpu.probe(wrapLinear(c, oldBase + (oldWide ? 0x20 : 0x0e)), oldWide ? 0x40 : 0x1c, S.ACC_IMPLICIT | S.ACC_WRITE);
  if (nests) cpu.probe(d.base, 2, S.ACC_IMPLICIT | S.ACC_WRITE);
  else cpu.probe(wrapLinear(c, oldDesc + 5), 1, S.ACC_IMPLICIT | S.ACC_WRITE);
  cpu.probe(wrapLinear(c, d.addr + 5), 1, S.ACC_IMPLICIT | S.ACC_WRITE);

  saveTss(c, oldBase, oldWide, rip, cause === TASK_IRET ? flags & ~S.FLAG_NT : flags);
  if (!nests) setBusy(c, oldDesc, false);
  if (nests) cpu.write(d.base, 2, oldSel, S.ACC_IMPLICIT | S.ACC_WRITE);
  if (cause !== TASK_IRET) setBusy(c, d.addr, true);
  d.hi = (d.hi | B.DESC_BUSY) >>> 0;

  // From here on it is the new task.
  c.switched = true;
  const t = c.tss;
  setFromDesc(c, S.TR, sel, d);
  cpu.set(S.CR0, cpu.get(S.CR0) | B.CR0_TS);
  cpu.set64(S.DR + 7 * 8, cpu.get(S.DR + 7 * 8) & ~B.DR7_LOCAL, 0);
  const newCr3 = wide && (cpu.get(S.CR0) & B.CR0_PG) !== 0 && t[T_CR3] >>> 0 !== cpu.get(S.CR3);
  if (newCr3) cpu.set64(S.CR3, t[T_CR3], 0);
  let fl = wide ? t[T_FLAGS] : t[T_FLAGS] & 0xffff;
  if (nests) fl |= S.FLAG_NT;
  const hadIf = cpu.get(S.EFL) & S.FLAG_IF;
  cpu.setFlags(fl);
  cpu.setAddr(S.RIP, t[T_EIP] >>> 0);
  for (let n = 0; n < 8; n++) {
    if (wide) cpu.setR32(n, t[T_GPR + n]);
    else cpu.setR32(n, (0xffff0000 | t[T_GPR + n]) >>> 0);
  }
  // Selectors first; hidden parts are unusable until each is checked.
  const vm = (fl & S.FLAG_VM) !== 0;
  const cpl = vm ? 3 : t[T_SEG + S.CS] & 3;
  for (let n = S.ES; n <= S.GS; n++) {
    if (vm) setV86(c, n, t[T_SEG + n]);
    else cpu.setSeg(n, t[T_SEG + n], 0, 0, 0, S.ATTR_UNUSABLE | (n === S.SS ? cpl << 5 : 0));
  }
  setNull(c, S.LDTR, t[T_LDT]);
  cpu.set(S.CPL, cpl);
  c.env.modeChanged();
  if (newCr3) {
    cpu.port.flushTlb(cpu.base, 0);
    if (cpu.get(S.CR4) & B.CR4_PAE) {
      if (!pdptesValid(c, t[T_CR3] >>> 0)) cpu.fault(S.EXC_TS, selErr(c, sel));
      loadPdptes(c, t[T_CR3] >>> 0);
    }
  }
  if (!hadIf && fl & S.FLAG_IF) c.env.attention();

  const ldt = t[T_LDT] & 0xffff;
  if (!isNull(ldt)) {
    const l = c.gate;
    if (ldt & 4) cpu.fault(S.EXC_TS, selErr(c, ldt));
    fetch(c, ldt, S.EXC_TS, l);
    if (l.type !== B.TYPE_LDT || !l.present) cpu.fault(S.EXC_TS, selErr(c, ldt));
    setFromDesc(c, S.LDTR, ldt, l);
  }
  if (!vm) loadTaskSegments(c, cpl);
  c.env.modeChanged();
  if (cpu.get(S.RIP) >>> 0 > cpu.limit(S.CS)) cpu.gp(c.ext);
  if (hasError) {
    c.pushCount = 0;
    c.push(errorCode);
    setStackPointer(c, pushCurrent(c, wide ? 4 : 2));
  }
  if (fl & S.FLAG_TF) c.env.attention();
  if (t[T_TRAP]) cpu.fault(S.EXC_DB, B.DR6_BT);
}

/** Loads and checks the segment registers of a new task outside virtual-8086 mode. */
function loadTaskSegments(c: SysCtx, cpl: number): void {
  const cpu = c.cpu;
  const t = c.tss;
  const cs = t[T_SEG + S.CS] & 0xffff;
  const code = c.code;
  if (isNull(cs)) cpu.fault(S.EXC_TS, selErr(c, cs));
  fetch(c, cs, S.EXC_TS, code);
  if (!code.isCode || (code.conforming ? code.dpl > cpl : code.dpl !== cpl)) cpu.fault(S.EXC_TS, selErr(c, cs));
  if (!code.present) cpu.fault(S.EXC_NP, selErr(c, cs));
  markAccessed(c, code);
  setFromDesc(c, S.CS, cs, code);

  const ss = t[T_SEG + S.SS] & 0xffff;
  if (isNull(ss)) cpu.fault(S.EXC_TS, selErr(c, ss));
  checkStackSeg(c, ss, cpl, S.EXC_TS);
  markAccessed(c, c.stack);
  setFromDesc(c, S.SS, ss, c.stack);

  for (let n = S.ES; n <= S.GS; n++) {
    if (n === S.CS || n === S.SS) continue;
    const sel = t[T_SEG + n] & 0xffff;
    if (isNull(sel)) continue;
    checkDataSeg(c, sel, cpl, S.EXC_TS, c.stack);
    markAccessed(c, c.stack);
    setFromDesc(c, n, sel, c.stack);
  }
}

/**
 * Whether the running program may use `width` ports from `port` on: IOPL, then the permission bitmap of the TSS.
 * Raises #GP(0) if not. SDM vol. 1 §19.5.
 */
export function checkPorts(c: SysCtx, port: number, width: number): void {
  const cpu = c.cpu;
  if (!cpu.protectedMode) return;
  if (!cpu.v86 && cpu.cpl <= iopl(c)) return;
  const limit = cpu.limit(S.TR);
  if (!tss32(c) || cpu.attr(S.TR) & S.ATTR_UNUSABLE || limit < MIN_LIMIT_32) cpu.gp(0);
  const base = cpu.segBase(S.TR);
  const map = cpu.read(wrapLinear(c, base + 0x66), 2, S.ACC_IMPLICIT);
  const at = map + (port >> 3);
  if (at + 1 > limit) cpu.gp(0);
  const bits = cpu.read(wrapLinear(c, base + at), 2, S.ACC_IMPLICIT) >>> (port & 7);
  if (bits & ((1 << width) - 1)) cpu.gp(0);
}
