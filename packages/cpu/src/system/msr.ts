// Model-specific registers, time stamp counter, CPUID, random numbers, segment bases. Intel SDM vol. 4, vol. 2.
import type { Insn } from '@hyve/x86';
import * as S from '../state.ts';
import * as B from './bits.ts';
import { canonical, goOn, patchFlags, requireCpl0, type SysCtx, signed64, writeReg } from './context.ts';

/** c.hi:c.lo = a + b, 64 bit. */
function add(c: SysCtx, aLo: number, aHi: number, bLo: number, bHi: number): void {
  const lo = (aLo >>> 0) + (bLo >>> 0);
  c.lo = lo >>> 0;
  c.hi = (aHi + bHi + (lo > 0xffffffff ? 1 : 0)) >>> 0;
}

/** c.hi:c.lo = a - b, 64 bit. */
function sub(c: SysCtx, aLo: number, aHi: number, bLo: number, bHi: number): void {
  const lo = (aLo >>> 0) - (bLo >>> 0);
  c.lo = lo >>> 0;
  c.hi = (aHi - bHi - (lo < 0 ? 1 : 0)) >>> 0;
}

/** Reads the guest's TSC into c.lo and c.hi. */
export function readTsc(c: SysCtx): void {
  c.env.tscNow(c.msr);
  add(c, c.msr.lo, c.msr.hi, c.cpu.get(S.TSC_OFFSET), c.cpu.getHi(S.TSC_OFFSET));
}

/** Makes the guest's TSC read `hi:lo` now. */
export function writeTsc(c: SysCtx, lo: number, hi: number): void {
  c.env.tscNow(c.msr);
  sub(c, lo, hi, c.msr.lo, c.msr.hi);
  c.cpu.set64(S.TSC_OFFSET, c.lo, c.hi);
}

/** Where an MSR that is a plain 64-bit value is kept, or -1. */
function plain(index: number): number {
  switch (index) {
    case B.MSR_SYSENTER_CS:
      return S.SYSENTER_CS;
    case B.MSR_SYSENTER_ESP:
      return S.SYSENTER_ESP;
    case B.MSR_SYSENTER_EIP:
      return S.SYSENTER_EIP;
    case B.MSR_PAT:
      return S.PAT;
    case B.MSR_EFER:
      return S.EFER;
    case B.MSR_STAR:
      return S.STAR;
    case B.MSR_LSTAR:
      return S.LSTAR;
    case B.MSR_CSTAR:
      return S.CSTAR;
    case B.MSR_FMASK:
      return S.FMASK;
    case B.MSR_FS_BASE:
      return S.SEG + S.FS * S.SEG_STRIDE + S.SEG_BASE;
    case B.MSR_GS_BASE:
      return S.SEG + S.GS * S.SEG_STRIDE + S.SEG_BASE;
    case B.MSR_KERNEL_GS_BASE:
      return S.KERNEL_GS_BASE;
    case B.MSR_TSC_AUX:
      return S.TSC_AUX;
    default:
      return -1;
  }
}

/** Whether CPUID offers an MSR at all. */
function offered(c: SysCtx, index: number): boolean {
  c.features();
  if (index === B.MSR_TSC_ADJUST) return (c.f7b & B.F7B_TSC_ADJUST) !== 0;
  if (index === B.MSR_TSC_AUX) return (c.f81d & B.F81D_RDTSCP) !== 0 || (c.f7c & B.F7C_RDPID) !== 0;
  return true;
}

/** Reads an MSR into c.msr; false means #GP. */
export function readMsr(c: SysCtx, index: number): boolean {
  const out = c.msr;
  if (!offered(c, index)) return false;
  if (index === B.MSR_TSC) {
    readTsc(c);
    out.lo = c.lo;
    out.hi = c.hi;
    return true;
  }
  if (index === B.MSR_TSC_ADJUST) {
    out.lo = c.adjustLo;
    out.hi = c.adjustHi;
    return true;
  }
  const o = plain(index);
  if (o < 0) return c.env.bus.rdmsr(index, out);
  out.lo = c.cpu.get(o);
  out.hi = c.cpu.getHi(o);
  return true;
}

/** Whether all eight entries of a PAT value are memory types (0, 1, 4–7). */
function patValid(v: number): boolean {
  return (v & 0xf8f8f8f8) === 0 && (v & ~((v & 0x04040404) >>> 1) & 0x02020202) === 0;
}

/** Writes EFER; false means #GP. */
function writeEfer(c: SysCtx, lo: number, hi: number): boolean {
  const cpu = c.cpu;
  c.features();
  const old = cpu.get(S.EFER);
  if (hi !== 0 || lo & ~(c.eferMask | B.EFER_LMA)) return false;
  const v = (lo & ~B.EFER_LMA) | (old & B.EFER_LMA);
  const changed = v ^ old;
  if (changed & B.EFER_LME && cpu.get(S.CR0) & B.CR0_PG) return false;
  cpu.set64(S.EFER, v, 0);
  c.env.modeChanged();
  if (changed & B.EFER_NXE) cpu.port.flushTlb(cpu.base, 1);
  return true;
}

/** Writes an MSR; false means #GP. */
export function writeMsr(c: SysCtx, index: number, lo: number, hi: number): boolean {
  const cpu = c.cpu;
  if (!offered(c, index)) return false;
  switch (index) {
    case B.MSR_TSC: {
      const oldLo = cpu.get(S.TSC_OFFSET);
      const oldHi = cpu.getHi(S.TSC_OFFSET);
      writeTsc(c, lo, hi);
      sub(c, cpu.get(S.TSC_OFFSET), cpu.getHi(S.TSC_OFFSET), oldLo, oldHi);
      add(c, c.lo, c.hi, c.adjustLo, c.adjustHi);
      c.adjustLo = c.lo;
      c.adjustHi = c.hi;
      return true;
    }
    case B.MSR_TSC_ADJUST:
      sub(c, lo, hi, c.adjustLo, c.adjustHi);
      add(c, c.lo, c.hi, cpu.get(S.TSC_OFFSET), cpu.getHi(S.TSC_OFFSET));
      cpu.set64(S.TSC_OFFSET, c.lo, c.hi);
      c.adjustLo = lo >>> 0;
      c.adjustHi = hi >>> 0;
      return true;
    case B.MSR_EFER:
      return writeEfer(c, lo, hi);
    case B.MSR_PAT:
      if (!patValid(lo) || !patValid(hi)) return false;
      cpu.set64(S.PAT, lo, hi);
      return true;
    case B.MSR_SYSENTER_CS:
      cpu.set64(S.SYSENTER_CS, lo, 0);
      return true;
    case B.MSR_FMASK:
      cpu.set64(S.FMASK, lo, 0);
      return true;
    case B.MSR_STAR:
      cpu.set64(S.STAR, lo, hi);
      return true;
    case B.MSR_TSC_AUX:
      if (hi !== 0) return false;
      cpu.set64(S.TSC_AUX, lo, 0);
      return true;
    case B.MSR_SYSENTER_ESP:
    case B.MSR_SYSENTER_EIP:
    case B.MSR_LSTAR:
    case B.MSR_CSTAR:
    case B.MSR_KERNEL_GS_BASE:
    case B.MSR_FS_BASE:
    case B.MSR_GS_BASE:
      if (!canonical(signed64(lo, hi))) return false;
      cpu.set64(plain(index), lo, hi);
      if (index === B.MSR_FS_BASE || index === B.MSR_GS_BASE) c.env.modeChanged();
      return true;
    default:
      return c.env.bus.wrmsr(index, lo >>> 0, hi >>> 0);
  }
}

/** RDMSR. */
export function rdmsr(c: SysCtx): number {
  requireCpl0(c);
  if (!readMsr(c, c.cpu.r32(1))) c.cpu.gp(0);
  c.cpu.setR32(0, c.msr.lo);
  c.cpu.setR32(2, c.msr.hi);
  return S.ST_NEXT;
}

/** WRMSR. */
export function wrmsr(c: SysCtx, i: Insn): number {
  requireCpl0(c);
  if (!writeMsr(c, c.cpu.r32(1), c.cpu.r32(0), c.cpu.r32(2))) c.cpu.gp(0);
  return goOn(c, i.length);
}

/** CPUID. */
export function cpuid(c: SysCtx): number {
  const l = c.leaf;
  c.env.cpuid(c.cpu.r32(0), c.cpu.r32(1), l);
  c.cpu.setR32(0, l.eax);
  c.cpu.setR32(3, l.ebx);
  c.cpu.setR32(1, l.ecx);
  c.cpu.setR32(2, l.edx);
  return S.ST_NEXT;
}

/** RDTSC and RDTSCP. */
export function rdtsc(c: SysCtx, aux: boolean): number {
  const cpu = c.cpu;
  if (aux) {
    c.features();
    if (!(c.f81d & B.F81D_RDTSCP)) cpu.ud();
  }
  if (cpu.get(S.CR4) & B.CR4_TSD && cpu.get(S.CPL) !== 0) cpu.gp(0);
  readTsc(c);
  cpu.setR32(0, c.lo);
  cpu.setR32(2, c.hi);
  if (aux) cpu.setR32(1, cpu.get(S.TSC_AUX));
  return S.ST_NEXT;
}

/** RDPID. */
export function rdpid(c: SysCtx, i: Insn): number {
  c.cpu.set64(S.GPR + i.reg0 * 8, c.cpu.get(S.TSC_AUX), 0);
  return S.ST_NEXT;
}

/** RDPMC: there are no counters, so that every index is wrong. */
export function rdpmc(c: SysCtx): number {
  c.cpu.gp(0);
}

/** RDRAND and RDSEED: always succeed. */
export function random(c: SysCtx, i: Insn): number {
  const lo = c.env.random32();
  writeReg(c, i.reg0, i.opSize, lo, i.opSize === 8 ? c.env.random32() : 0);
  patchFlags(c, 0x8d5, S.FLAG_CF);
  return S.ST_NEXT;
}

/** SWAPGS. */
export function swapgs(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  if (!cpu.code64) cpu.ud();
  requireCpl0(c);
  const o = S.SEG + S.GS * S.SEG_STRIDE + S.SEG_BASE;
  const lo = cpu.get(o);
  const hi = cpu.getHi(o);
  cpu.set64(o, cpu.get(S.KERNEL_GS_BASE), cpu.getHi(S.KERNEL_GS_BASE));
  cpu.set64(S.KERNEL_GS_BASE, lo, hi);
  c.env.modeChanged();
  return goOn(c, i.length);
}

/** RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE. */
export function segmentBase(c: SysCtx, i: Insn, seg: number, write: boolean): number {
  const cpu = c.cpu;
  if (!cpu.code64 || !(cpu.get(S.CR4) & B.CR4_FSGSBASE)) cpu.ud();
  const o = S.SEG + seg * S.SEG_STRIDE + S.SEG_BASE;
  if (!write) {
    writeReg(c, i.reg0, i.size0, cpu.get(o), cpu.getHi(o));
    return S.ST_NEXT;
  }
  const lo = cpu.r32(i.reg0);
  const hi = i.size0 === 8 ? cpu.getHi(S.GPR + i.reg0 * 8) : 0;
  if (!canonical(signed64(lo, hi))) cpu.gp(0);
  cpu.set64(o, lo, hi);
  c.env.modeChanged();
  return goOn(c, i.length);
}
