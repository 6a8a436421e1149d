// Delivery of interrupts and exceptions in every mode, double and triple faults. Intel SDM vol. 3A chapter 6, §20.3.
import { GUEST_FAULT } from '../access.ts';
import * as S from '../state.ts';
import * as B from './bits.ts';
import {
  canonical,
  commitPushes,
  commitPushes64,
  iopl,
  pushCurrent,
  type SysCtx,
  selErr,
  setStackPointer,
  signed64,
  wrapLinear,
} from './context.ts';
import { checkStackSeg, fetch, isNull, markAccessed, setFromDesc, setNull, setReal } from './descriptors.ts';
import { innerStack, innerStack64, TASK_EVENT, taskSwitch } from './task.ts';

/** Where an event comes from; decides on DPL checks, the EXT bit and RF. */
export const EventSource = {
  /** Processor-detected exception. */
  Exception: 0,
  /** Maskable interrupt from outside. */
  External: 1,
  /** INT n. */
  Software: 2,
  /** INT3 and INTO. */
  Int3: 3,
  /** INT1. */
  Int1: 4,
  /** Non-maskable interrupt. */
  Nmi: 5,
} as const;
/** One of {@link EventSource}'s values. */
export type EventSource = (typeof EventSource)[keyof typeof EventSource];

/** Result of `deliver`: RIP is the handler's. */
export const DELIVERED = 0;
/** Result of `deliver`: triple fault. */
export const SHUTDOWN = 1;

/** For #DB: in the error code beside the DR6 bits, says that it is a fault (instruction breakpoint): RF gets pushed. */
export const DEBUG_FAULT: number = 1 << 16;

// Exceptions with an error code, and contributory ones, one bit per vector. SDM vol. 3A tables 6-1 and 6-4.
const WITH_ERROR = 0x227d00;
const CONTRIBUTORY = 0x203c01;

/** Whether the exception `vector` pushes an error code. */
export function hasErrorCode(vector: number): boolean {
  return vector < 32 && ((WITH_ERROR >>> vector) & 1) !== 0;
}

/** Error code that names an IDT entry. */
function idtErr(c: SysCtx, vector: number): number {
  return (vector << 3) | 2 | c.ext;
}

/** Whether RF is set in the flags pushed: for faults, not for traps and interrupts. */
function pushesRf(vector: number, source: EventSource, code: number): boolean {
  if (source !== EventSource.Exception) return false;
  if (vector === S.EXC_DB) return (code & (DEBUG_FAULT | B.DR6_BD)) !== 0;
  return (
    vector !== S.EXC_BP && vector !== S.EXC_OF && vector !== S.EXC_DF && vector !== S.EXC_MC && vector !== S.EXC_NMI
  );
}

/**
 * One attempt at delivery: faults are thrown, with no state changed (other than by a completed task switch).
 * @param rip pushed as return address
 * @param flags pushed
 */
export function interrupt(
  c: SysCtx,
  vector: number,
  source: EventSource,
  hasError: boolean,
  errorCode: number,
  rip: number,
  flags: number,
): void {
  c.ext = source === EventSource.Software || source === EventSource.Int3 ? 0 : 1;
  c.pushCount = 0;
  if (!c.cpu.protectedMode) realInterrupt(c, vector, rip, flags);
  else if (c.cpu.longMode) longInterrupt(c, vector, source, hasError, errorCode, rip, flags);
  else protectedInterrupt(c, vector, source, hasError, errorCode, rip, flags);
}

function realInterrupt(c: SysCtx, vector: number, rip: number, flags: number): void {
  const cpu = c.cpu;
  if (vector * 4 + 3 > cpu.get(S.IDT_LIMIT)) cpu.gp(idtErr(c, vector));
  const entry = cpu.read(wrapLinear(c, cpu.getAddr(S.IDT_BASE) + vector * 4), 4, S.ACC_IMPLICIT);
  const ip = entry & 0xffff;
  const cs = entry >>> 16;
  c.push(flags);
  c.push(cpu.sel(S.CS));
  c.push(rip);
  const sp = pushCurrent(c, 2);
  setStackPointer(c, sp);
  setReal(c, S.CS, cs);
  cpu.setAddr(S.RIP, ip);
  cpu.setFlags(cpu.flags() & ~(S.FLAG_IF | S.FLAG_TF | S.FLAG_AC | S.FLAG_RF));
  c.env.modeChanged();
}

/** Common gate checks; the gate is in c.gate. */
function checkGate(c: SysCtx, vector: number, source: EventSource, types: number): void {
  const g = c.gate;
  if (g.hi & B.DESC_S || ((types >>> (g.type & 15)) & 1) === 0) c.cpu.gp(idtErr(c, vector));
  if ((source === EventSource.Software || source === EventSource.Int3) && g.dpl < c.cpu.cpl)
    c.cpu.gp(idtErr(c, vector));
  if (!g.present) c.cpu.fault(S.EXC_NP, idtErr(c, vector));
}

/** Fetches the handler's code segment into c.code and checks what all modes check. */
function checkHandler(c: SysCtx, cs: number): void {
  const d = c.code;
  if (isNull(cs)) c.cpu.gp(c.ext);
  fetch(c, cs, S.EXC_GP, d);
  if (!d.isCode || d.dpl > c.cpu.cpl) c.cpu.gp(selErr(c, cs));
}

function flagsAfter(c: SysCtx, trap: boolean): void {
  let clear = S.FLAG_TF | S.FLAG_NT | S.FLAG_VM | S.FLAG_RF;
  if (!trap) clear |= S.FLAG_IF;
  c.cpu.setFlags(c.cpu.flags() & ~clear);
}

// Gate types an IDT may hold: task, 16- and 32-bit interrupt and trap gates; in long mode the latter two only.
const IDT_LEGACY = 0xc0e0;
const IDT_LONG = 0xc000;

function protectedInterrupt(
  c: SysCtx,
  vector: number,
  source: EventSource,
  hasError: boolean,
  errorCode: number,
  rip: number,
  flags: number,
): void {
  const cpu = c.cpu;
  const g = c.gate;
  const v86 = cpu.v86;
  if (v86 && source === EventSource.Software && iopl(c) < 3) cpu.gp(0);
  if (vector * 8 + 7 > cpu.get(S.IDT_LIMIT)) cpu.gp(idtErr(c, vector));
  const at = wrapLinear(c, cpu.getAddr(S.IDT_BASE) + vector * 8);
  g.lo = cpu.read(at, 4, S.ACC_IMPLICIT);
  g.hi = cpu.read(wrapLinear(c, at + 4), 4, S.ACC_IMPLICIT);
  checkGate(c, vector, source, IDT_LEGACY);
  const type = g.type & 15;
  if (type === B.TYPE_TASK_GATE) {
    const sel = g.gateSelector;
    if (sel & 4) cpu.gp(selErr(c, sel));
    fetch(c, sel, S.EXC_GP, g);
    if (g.type !== B.TYPE_TSS32 && g.type !== B.TYPE_TSS16) cpu.gp(selErr(c, sel));
    taskSwitch(c, TASK_EVENT, sel, g, rip, flags, hasError, errorCode);
    return;
  }
  const wide = type >= B.TYPE_INT32;
  const size = wide ? 4 : 2;
  const trap = (type & 1) !== 0;
  const cs = g.gateSelector;
  const offset = wide ? g.gateOffset : g.lo & 0xffff;
  checkHandler(c, cs);
  const code = c.code;
  const oldCpl = cpu.cpl;
  const inner = !code.conforming && code.dpl < oldCpl;
  if (v86 ? !inner || code.dpl !== 0 : !inner && !code.conforming && code.dpl !== oldCpl) cpu.gp(selErr(c, cs));
  if (!code.present) cpu.fault(S.EXC_NP, selErr(c, cs));
  if (!inner) {
    if (offset > code.limit) cpu.gp(c.ext);
    markAccessed(c, code);
    c.push(flags);
    c.push(cpu.sel(S.CS));
    c.push(rip);
    if (hasError) c.push(errorCode);
    setStackPointer(c, pushCurrent(c, size));
    setFromDesc(c, S.CS, (cs & ~3) | oldCpl, code);
  } else {
    const cpl = code.dpl;
    innerStack(c, cpl);
    const ss = c.newSs;
    if (isNull(ss)) cpu.fault(S.EXC_TS, c.ext);
    checkStackSeg(c, ss, cpl, S.EXC_TS);
    if (offset > code.limit) cpu.gp(c.ext);
    const stack = c.stack;
    markAccessed(c, code);
    markAccessed(c, stack);
    if (v86) {
      c.push(cpu.sel(S.GS));
      c.push(cpu.sel(S.FS));
      c.push(cpu.sel(S.DS));
      c.push(cpu.sel(S.ES));
    }
    c.push(cpu.sel(S.SS));
    c.push(cpu.r32(4));
    c.push(flags);
    c.push(cpu.sel(S.CS));
    c.push(rip);
    if (hasError) c.push(errorCode);
    const start = stack.hi & B.DESC_D ? c.newSp : c.newSp & 0xffff;
    const sp = commitPushes(c, stack.base, stack.limit, stack.attr, start, size, S.ACC_IMPLICIT, selErr(c, ss));
    setFromDesc(c, S.SS, ss, stack);
    setStackPointer(c, sp);
    setFromDesc(c, S.CS, (cs & ~3) | cpl, code);
    cpu.set(S.CPL, cpl);
    if (v86) for (let n = S.ES; n <= S.GS; n++) if (n !== S.CS && n !== S.SS) setNull(c, n, 0);
  }
  cpu.setAddr(S.RIP, offset);
  flagsAfter(c, trap);
  c.env.modeChanged();
}

function longInterrupt(
  c: SysCtx,
  vector: number,
  source: EventSource,
  hasError: boolean,
  errorCode: number,
  rip: number,
  flags: number,
): void {
  const cpu = c.cpu;
  const g = c.gate;
  if (vector * 16 + 15 > cpu.get(S.IDT_LIMIT)) cpu.gp(idtErr(c, vector));
  const at = cpu.getAddr(S.IDT_BASE) + vector * 16;
  g.lo = cpu.read(at, 4, S.ACC_IMPLICIT);
  g.hi = cpu.read(at + 4, 4, S.ACC_IMPLICIT);
  g.up = cpu.read(at + 8, 4, S.ACC_IMPLICIT);
  checkGate(c, vector, source, IDT_LONG);
  const cs = g.gateSelector;
  checkHandler(c, cs);
  const code = c.code;
  if ((code.hi & (B.DESC_L | B.DESC_D)) !== B.DESC_L) cpu.gp(selErr(c, cs));
  if (!code.present) cpu.fault(S.EXC_NP, selErr(c, cs));
  const oldCpl = cpu.cpl;
  const cpl = code.conforming ? oldCpl : code.dpl;
  const ist = g.hi & 7;
  const offset = signed64(g.gateOffset, g.up);
  // In compatibility mode the stack of the same ring is SS:ESP, but delivery uses RSP as it stands (bases are ignored).
  let sp = cpu.getAddr(S.GPR + 4 * 8);
  let access = 0;
  if (cpl !== oldCpl || ist !== 0) {
    innerStack64(c, ist !== 0 ? 3 + ist : cpl);
    sp = c.newSp;
    if (cpl !== oldCpl) access = S.ACC_IMPLICIT;
  }
  if (!canonical(offset)) cpu.gp(c.ext);
  if (!canonical(sp)) cpu.fault(S.EXC_SS, c.ext);
  sp = Math.floor(sp / 16) * 16;
  markAccessed(c, code);
  c.push(cpu.sel(S.SS));
  c.push(cpu.get(S.GPR + 4 * 8), cpu.getHi(S.GPR + 4 * 8));
  c.push(flags);
  c.push(cpu.sel(S.CS));
  c.pushAddr(rip);
  if (hasError) c.push(errorCode);
  sp = commitPushes64(c, sp, 8, access, c.ext);
  if (cpl !== oldCpl) {
    setNull(c, S.SS, cpl);
    cpu.set(S.CPL, cpl);
  }
  setFromDesc(c, S.CS, (cs & ~3) | cpl, code);
  cpu.setAddr(S.GPR + 4 * 8, sp);
  cpu.setAddr(S.RIP, offset);
  flagsAfter(c, (g.type & 1) !== 0);
  c.env.modeChanged();
}

const MAX_ROUNDS = 64;

// Classes of SDM vol. 3A table 6-4.
const BENIGN = 0;
const CONTRIB = 1;
const PAGE = 2;
const DOUBLE = 3;

function classOf(vector: number, source: EventSource): number {
  if (source !== EventSource.Exception || vector > 31) return BENIGN;
  if (vector === S.EXC_DF) return DOUBLE;
  if (vector === S.EXC_PF) return PAGE;
  return (CONTRIBUTORY >>> vector) & 1 ? CONTRIB : BENIGN;
}

/**
 * Delivers an event, and whatever exceptions its delivery raises, until a handler is entered or the processor shuts down.
 * The return address is RIP as it stands. For #PF, CR2 becomes FAULT_ADDR; for #DB (source Exception), `errorCode` holds
 * the DR6 bits to set, with {@link DEBUG_FAULT} for an instruction breakpoint. Clears FAULT.
 */
export function deliver(c: SysCtx, vector: number, source: EventSource, hasError: boolean, errorCode: number): number {
  const cpu = c.cpu;
  let v = vector;
  let s = source;
  let has = hasError;
  let code = errorCode;
  // Bounded: a misaligned ring 3 stack can make #AC raise #AC for ever (real processors hang there, CVE-2015-5307).
  for (let round = 0; round < MAX_ROUNDS; round++) {
    let flags = cpu.flags();
    if (s === EventSource.Exception) {
      if (v === S.EXC_PF) cpu.set64(S.CR2, cpu.get(S.FAULT_ADDR), cpu.getHi(S.FAULT_ADDR));
      else if (v === S.EXC_DB) {
        const dr6 = S.DR + 6 * 8;
        cpu.set(dr6, (cpu.get(dr6) & ~B.DR6_HITS) | (code & B.DR6_WRITABLE));
        cpu.set(S.DR + 7 * 8, cpu.get(S.DR + 7 * 8) & ~B.DR7_GD);
      }
      if (pushesRf(v, s, code)) flags |= S.FLAG_RF;
    }
    cpu.set(S.FAULT, 0);
    try {
      interrupt(c, v, s, has, code, cpu.getAddr(S.RIP), flags);
      c.ext = 0;
      return DELIVERED;
    } catch (e) {
      c.ext = 0;
      if (e !== GUEST_FAULT) throw e;
    }
    const second = cpu.get(S.FAULT) - 1;
    const secondCode = cpu.get(S.FAULT_CODE);
    cpu.set(S.FAULT, 0);
    cpu.set(S.NONCANON, 0);
    if (second === S.EXC_PF) cpu.set64(S.CR2, cpu.get(S.FAULT_ADDR), cpu.getHi(S.FAULT_ADDR));
    const first = classOf(v, s);
    const then = classOf(second, EventSource.Exception);
    if (first === DOUBLE && then !== BENIGN) return SHUTDOWN;
    if ((first === CONTRIB && then === CONTRIB) || (first === PAGE && then !== BENIGN)) {
      v = S.EXC_DF;
      code = 0;
    } else {
      v = second;
      code = secondCode;
    }
    s = EventSource.Exception;
    has = hasErrorCode(v);
  }
  return SHUTDOWN;
}
