// FXSAVE, FXRSTOR and the XSAVE family for x87, SSE and AVX state; XCR0. Intel SDM vol. 1 chapter 13 and §10.5.
//
// Legacy region, 512 bytes:
//   0 FCW  2 FSW  4 FTW (abridged, 1 = not empty)  6 FOP  8 FIP/FCS  16 FDP/FDS  24 MXCSR  28 MXCSR_MASK
//   32 ST(0)–ST(7), 16 bytes each   160 XMM0–XMM15, 16 bytes each
// then the header: 512 XSTATE_BV, 520 XCOMP_BV, zeros to 576; then AVX (upper halves of YMM0–YMM15).
import type { Insn } from '@hyve/x86';
import type { CpuAccess } from '../access.ts';
import * as S from '../state.ts';
import * as B from './bits.ts';
import { goOn, operandAddr, requireCpl0, type SysCtx } from './context.ts';

/** FCW after FNINIT. */
export const FCW_INIT = 0x37f;

/** x87 state as after FNINIT with registers zeroed: its XSAVE initial configuration. */
export function initX87(cpu: CpuAccess): void {
  zero(cpu, S.FPR, 128);
  cpu.set(S.FTOP, 0);
  cpu.set(S.FCW, FCW_INIT);
  cpu.set(S.FSW, 0);
  cpu.set(S.IGNNE, 0);
  cpu.set(S.FTW, 0);
  cpu.set(S.FOP, 0);
  cpu.set(S.FCS, 0);
  cpu.set(S.FDS, 0);
  cpu.set64(S.FIP, 0, 0);
  cpu.set64(S.FDP, 0, 0);
}

/** Clears whole words of the state. */
function zero(cpu: CpuAccess, from: number, bytes: number): void {
  const words = cpu.i32;
  const end = (cpu.base + from + bytes) >> 2;
  for (let i = (cpu.base + from) >> 2; i < end; i++) words[i] = 0;
}

/** Whether so many bytes of the state, a multiple of 4, are zero. */
function allZero(cpu: CpuAccess, from: number, bytes: number): boolean {
  const words = cpu.i32;
  const end = (cpu.base + from + bytes) >> 2;
  for (let i = (cpu.base + from) >> 2; i < end; i++) if (words[i] !== 0) return false;
  return true;
}

/** XINUSE: which components differ from their initial configuration. */
export function inUse(cpu: CpuAccess): number {
  let v = 0;
  if (
    cpu.get(S.FCW) !== FCW_INIT ||
    cpu.get(S.FTOP) !== 0 ||
    cpu.get(S.FSW) !== 0 ||
    cpu.get(S.FTW) !== 0 ||
    cpu.get(S.FOP) !== 0 ||
    !allZero(cpu, S.FCS, S.MXCSR - S.FCS) ||
    !allZero(cpu, S.FPR, 128)
  )
    v |= B.XF_X87;
  if (!allZero(cpu, S.XMM, 256)) v |= B.XF_SSE;
  if (cpu.get(S.UPPERS_ZERO) === 0 && !allZero(cpu, S.YMMH, 256)) v |= B.XF_AVX;
  return v;
}

/** Bytes of legacy region and header. */
const HEAD_BYTES = 576;

/** Looks for legacy region and header, 16-byte aligned, in memory: what follows need not ask the TLB for every word. */
function locate(c: SysCtx, bytes: number, access: number): void {
  c.image = c.cpu.pointer(operandAddr(c, 0), bytes, access);
}

function wr(c: SysCtx, at: number, size: 1 | 2 | 4, v: number): void {
  const h = c.image + at;
  if (c.image === 0 || at + size > HEAD_BYTES) c.cpu.write(operandAddr(c, at), size, v, S.ACC_WRITE);
  else if (size === 4) c.cpu.i32[h >> 2] = v;
  else {
    c.cpu.u8[h] = v;
    if (size === 2) c.cpu.u8[h + 1] = v >>> 8;
  }
}
function rd(c: SysCtx, at: number, size: 1 | 2 | 4): number {
  if (c.image === 0 || at + size > HEAD_BYTES) return c.cpu.read(operandAddr(c, at), size);
  const h = c.image + at;
  const word = (c.cpu.i32[h >> 2] as number) >>> ((h & 3) * 8);
  return size === 4 ? word : word & (size === 2 ? 0xffff : 0xff);
}

function saveX87(c: SysCtx, wide: boolean): void {
  const cpu = c.cpu;
  const top = cpu.get(S.FTOP);
  wr(c, 0, 2, cpu.get(S.FCW));
  wr(c, 2, 2, (cpu.get(S.FSW) & ~0x3800) | (top << 11));
  wr(c, 4, 2, cpu.get(S.FTW) & 0xff);
  wr(c, 6, 2, cpu.get(S.FOP));
  wr(c, 8, 4, cpu.get(S.FIP));
  wr(c, 12, 4, wide ? cpu.getHi(S.FIP) : cpu.get(S.FCS) & 0xffff);
  wr(c, 16, 4, cpu.get(S.FDP));
  wr(c, 20, 4, wide ? cpu.getHi(S.FDP) : cpu.get(S.FDS) & 0xffff);
  if (c.image !== 0) {
    const words = cpu.i32;
    for (let n = 0; n < 8; n++) {
      const from = (cpu.base + S.FPR + ((top + n) & 7) * 16) >> 2;
      const to = (c.image + 32 + n * 16) >> 2;
      words[to] = words[from] as number;
      words[to + 1] = words[from + 1] as number;
      words[to + 2] = (words[from + 2] as number) & 0xffff;
      words[to + 3] = 0;
    }
    return;
  }
  for (let n = 0; n < 8; n++) {
    const o = S.FPR + ((top + n) & 7) * 16;
    wr(c, 32 + n * 16, 4, cpu.get(o));
    wr(c, 36 + n * 16, 4, cpu.getHi(o));
    wr(c, 40 + n * 16, 4, cpu.get(o + 8) & 0xffff);
    wr(c, 44 + n * 16, 4, 0);
  }
}

function loadX87(c: SysCtx, wide: boolean): void {
  const cpu = c.cpu;
  const fcw = (rd(c, 0, 2) & 0x1f7f) | 0x40;
  // ES and B are worked out from what is unmasked, whatever the image says.
  const image = rd(c, 2, 2);
  const fsw = (image & ~0x8080) | (image & ~fcw & 0x3f ? 0x8080 : 0);
  const top = (fsw >> 11) & 7;
  cpu.set(S.IGNNE, 0);
  cpu.set(S.FTOP, top);
  cpu.set(S.FCW, fcw);
  cpu.set(S.FSW, fsw & ~0x3800);
  cpu.set(S.FTW, rd(c, 4, 1));
  cpu.set(S.FOP, rd(c, 6, 2) & 0x7ff);
  cpu.set64(S.FIP, rd(c, 8, 4), wide ? rd(c, 12, 4) : 0);
  cpu.set(S.FCS, wide ? 0 : rd(c, 12, 2));
  cpu.set64(S.FDP, rd(c, 16, 4), wide ? rd(c, 20, 4) : 0);
  cpu.set(S.FDS, wide ? 0 : rd(c, 20, 2));
  if (c.image !== 0) {
    const words = cpu.i32;
    for (let n = 0; n < 8; n++) {
      const to = (cpu.base + S.FPR + ((top + n) & 7) * 16) >> 2;
      const from = (c.image + 32 + n * 16) >> 2;
      words[to] = words[from] as number;
      words[to + 1] = words[from + 1] as number;
      words[to + 2] = (words[from + 2] as number) & 0xffff;
      words[to + 3] = 0;
    }
    return;
  }
  for (let n = 0; n < 8; n++) {
    const o = S.FPR + ((top + n) & 7) * 16;
    cpu.set64(o, rd(c, 32 + n * 16, 4), rd(c, 36 + n * 16, 4));
    cpu.set64(o + 8, rd(c, 40 + n * 16, 2), 0);
  }
}

/** Number of XMM registers the mode has. */
function xmmCount(c: SysCtx): number {
  return c.cpu.code64 ? 16 : 8;
}

function saveVectors(c: SysCtx, at: number, from: number): void {
  const cpu = c.cpu;
  const bytes = xmmCount(c) * 16;
  const host = cpu.pointer(operandAddr(c, at), bytes, S.ACC_WRITE);
  if (host !== 0) cpu.u8.copyWithin(host, cpu.base + from, cpu.base + from + bytes);
  else for (let o = 0; o < bytes; o += 4) wr(c, at + o, 4, c.cpu.get(from + o));
}

function loadVectors(c: SysCtx, at: number, to: number): void {
  const cpu = c.cpu;
  const bytes = xmmCount(c) * 16;
  const host = cpu.pointer(operandAddr(c, at), bytes, 0);
  if (host !== 0) cpu.u8.copyWithin(cpu.base + to, host, host + bytes);
  else for (let o = 0; o < bytes; o += 4) cpu.set(to + o, rd(c, at + o, 4));
}

function zeroVectors(c: SysCtx, to: number): void {
  zero(c.cpu, to, xmmCount(c) * 16);
}

function saveMxcsr(c: SysCtx): void {
  wr(c, 24, 4, c.cpu.get(S.MXCSR));
  wr(c, 28, 4, B.MXCSR_MASK);
}

function checkAligned(c: SysCtx, to: number): void {
  // Exact: canonical addresses fit a double, and `to` is a power of two.
  const at = operandAddr(c, 0);
  if (Math.floor(at / to) * to !== at) c.cpu.gp(0);
}

function checkFx(c: SysCtx): void {
  if (c.cpu.get(S.CR0) & (B.CR0_EM | B.CR0_TS)) c.cpu.fault(S.EXC_NM);
  checkAligned(c, 16);
}

/** FXSAVE. */
export function fxsave(c: SysCtx, i: Insn): number {
  checkFx(c);
  c.cpu.probe(operandAddr(c, 0), 512, S.ACC_WRITE);
  locate(c, 512, S.ACC_WRITE);
  saveX87(c, i.opSize === 8);
  saveMxcsr(c);
  if (c.cpu.get(S.CR4) & B.CR4_OSFXSR) saveVectors(c, 160, S.XMM);
  return S.ST_NEXT;
}

/** FXRSTOR. */
export function fxrstor(c: SysCtx, i: Insn): number {
  checkFx(c);
  c.cpu.probe(operandAddr(c, 0), 512, 0);
  locate(c, 512, 0);
  const sse = (c.cpu.get(S.CR4) & B.CR4_OSFXSR) !== 0;
  const mxcsr = rd(c, 24, 4);
  if (sse && mxcsr & ~B.MXCSR_MASK) c.cpu.gp(0);
  loadX87(c, i.opSize === 8);
  if (sse) {
    c.cpu.set(S.MXCSR, mxcsr);
    loadVectors(c, 160, S.XMM);
  }
  return goOn(c, i.length);
}

/** Checks common to the XSAVE family; returns the requested-feature bitmap. */
function checkX(c: SysCtx): number {
  const cpu = c.cpu;
  if (!(cpu.get(S.CR4) & B.CR4_OSXSAVE)) cpu.ud();
  if (cpu.get(S.CR0) & B.CR0_TS) cpu.fault(S.EXC_NM);
  checkAligned(c, 64);
  return cpu.r32(0) & cpu.get(S.XCR0);
}

/**
 * XSAVE, XSAVEOPT, XSAVEC.
 * @param optimize leave out components in their initial configuration
 * @param compact write the compacted format
 */
export function xsave(c: SysCtx, i: Insn, optimize: boolean, compact: boolean): number {
  const cpu = c.cpu;
  const rfbm = checkX(c);
  cpu.probe(operandAddr(c, 0), rfbm & B.XF_AVX ? B.XSAVE_SIZE : B.XSAVE_AVX, S.ACC_WRITE);
  locate(c, HEAD_BYTES, S.ACC_WRITE);
  let used = inUse(cpu);
  // For the forms that leave out initial state, MXCSR counts as part of the SSE component.
  if (compact && cpu.get(S.MXCSR) !== B.MXCSR_RESET) used |= B.XF_SSE;
  const save = optimize ? rfbm & used : rfbm;
  if (save & B.XF_X87) saveX87(c, i.opSize === 8);
  if (compact ? save & B.XF_SSE : rfbm & (B.XF_SSE | B.XF_AVX)) saveMxcsr(c);
  if (save & B.XF_SSE) saveVectors(c, 160, S.XMM);
  if (save & B.XF_AVX) saveVectors(c, B.XSAVE_AVX, S.YMMH);
  if (compact) {
    wr(c, 512, 4, rfbm & used);
    wr(c, 516, 4, 0);
    wr(c, 520, 4, rfbm);
    wr(c, 524, 4, 0x80000000);
  } else {
    wr(c, 512, 4, (rd(c, 512, 4) & ~rfbm) | (rfbm & used));
  }
  return S.ST_NEXT;
}

/** XRSTOR, both formats. */
export function xrstor(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const rfbm = checkX(c);
  c.features();
  const xcr0 = cpu.get(S.XCR0);
  cpu.probe(operandAddr(c, 0), B.XSAVE_AVX, 0);
  locate(c, HEAD_BYTES, 0);
  const bv = rd(c, 512, 4);
  const comp = rd(c, 520, 4);
  const compHi = rd(c, 524, 4);
  const compact = compHi >>> 31 !== 0;
  if (rd(c, 516, 4) !== 0) cpu.gp(0);
  if (compact) {
    if (!(c.fd1a & B.FD1A_XSAVEC) || compHi !== 0x80000000 || comp & ~xcr0 || bv & ~comp) cpu.gp(0);
    for (let at = 528; at < 576; at += 4) if (rd(c, at, 4) !== 0) cpu.gp(0);
  } else {
    if (bv & ~xcr0 || comp !== 0 || compHi !== 0 || rd(c, 528, 4) !== 0 || rd(c, 532, 4) !== 0) cpu.gp(0);
  }
  const load = rfbm & bv;
  if (load & B.XF_AVX) cpu.probe(operandAddr(c, B.XSAVE_AVX), 256, 0);
  let mxcsr = cpu.get(S.MXCSR);
  if (compact) {
    if (rfbm & B.XF_SSE) mxcsr = load & B.XF_SSE ? rd(c, 24, 4) : B.MXCSR_RESET;
  } else if (rfbm & (B.XF_SSE | B.XF_AVX)) mxcsr = rd(c, 24, 4);
  if (mxcsr & ~B.MXCSR_MASK) cpu.gp(0);
  cpu.set(S.MXCSR, mxcsr);
  if (load & B.XF_X87) loadX87(c, i.opSize === 8);
  else if (rfbm & B.XF_X87) initX87(cpu);
  if (load & B.XF_SSE) loadVectors(c, 160, S.XMM);
  else if (rfbm & B.XF_SSE) zeroVectors(c, S.XMM);
  if (load & B.XF_AVX) {
    loadVectors(c, B.XSAVE_AVX, S.YMMH);
    cpu.set(S.UPPERS_ZERO, 0);
  } else if (rfbm & B.XF_AVX) {
    zeroVectors(c, S.YMMH);
    if (xmmCount(c) === 16) cpu.set(S.UPPERS_ZERO, 1);
  }
  return goOn(c, i.length);
}

/** XGETBV. */
export function xgetbv(c: SysCtx): number {
  const cpu = c.cpu;
  if (!(cpu.get(S.CR4) & B.CR4_OSXSAVE)) cpu.ud();
  c.features();
  const index = cpu.r32(1);
  if (index > 1 || (index === 1 && !(c.fd1a & B.FD1A_XGETBV1))) cpu.gp(0);
  const v = cpu.get(S.XCR0);
  cpu.setR32(0, index === 0 ? v : v & inUse(cpu));
  cpu.setR32(2, 0);
  return S.ST_NEXT;
}

/** XSETBV. */
export function xsetbv(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  if (!(cpu.get(S.CR4) & B.CR4_OSXSAVE)) cpu.ud();
  requireCpl0(c);
  c.features();
  const v = cpu.r32(0);
  if (cpu.r32(1) !== 0 || cpu.r32(2) !== 0 || v & ~c.xcr0Mask || !(v & B.XF_X87)) cpu.gp(0);
  if (v & B.XF_AVX && !(v & B.XF_SSE)) cpu.gp(0);
  cpu.set64(S.XCR0, v, 0);
  c.env.modeChanged();
  return goOn(c, i.length);
}
