// State after power-on, INIT and SIPI. Intel SDM vol. 3A table 10-1.
import * as S from '../state.ts';
import * as B from './bits.ts';
import { type SysCtx, wrapLinear } from './context.ts';
import { writeTsc } from './msr.ts';

/** Power-on reset, or INIT, which keeps caches, FPU, XCR0, TSC and most MSRs. */
export type ResetKind = 'power-on' | 'init';

/** Puts the vCPU into the state after `kind`. */
export function reset(c: SysCtx, kind: ResetKind): void {
  const cpu = c.cpu;
  for (let n = 0; n < 16; n++) cpu.set64(S.GPR + n * 8, 0, 0);
  cpu.set64(S.ZERO, 0, 0);
  cpu.setR32(2, c.env.signature);
  cpu.setFlags(2);
  cpu.set64(S.RIP, 0xfff0, 0);
  cpu.set(S.CPL, 0);
  for (let n = S.ES; n <= S.GS; n++) cpu.setSeg(n, 0, 0, 0, 0xffff, 0x93);
  cpu.setSeg(S.CS, 0xf000, 0xffff0000, 0, 0xffff, 0x9b);
  cpu.setSeg(S.LDTR, 0, 0, 0, 0xffff, 0x82);
  cpu.setSeg(S.TR, 0, 0, 0, 0xffff, 0x8b);
  cpu.set64(S.GDT_BASE, 0, 0);
  cpu.set(S.GDT_LIMIT, 0xffff);
  cpu.set64(S.IDT_BASE, 0, 0);
  cpu.set(S.IDT_LIMIT, 0xffff);
  const cache = kind === 'init' ? cpu.get(S.CR0) & (B.CR0_CD | B.CR0_NW) : B.CR0_CD | B.CR0_NW;
  cpu.set64(S.CR0, cache | B.CR0_ET, 0);
  cpu.set64(S.CR2, 0, 0);
  cpu.set64(S.CR3, 0, 0);
  cpu.set64(S.CR4, 0, 0);
  cpu.set64(S.EFER, 0, 0);
  for (let n = 0; n < 6; n++) cpu.set64(S.DR + n * 8, 0, 0);
  cpu.set64(S.DR + 48, B.DR6_FIXED, 0);
  cpu.set64(S.DR + 56, B.DR7_FIXED, 0);
  cpu.set(S.FAULT, 0);
  cpu.set(S.IGNNE, 0);
  for (let n = 0; n < 4; n++) cpu.set64(S.PDPTE + n * 8, 0, 0);
  if (kind === 'power-on') {
    for (let o = S.STAR; o <= S.SYSENTER_EIP; o += 8) cpu.set64(o, 0, 0);
    cpu.set64(S.PAT, B.PAT_DEFAULT, B.PAT_DEFAULT);
    cpu.set64(S.TSC_AUX, 0, 0);
    writeTsc(c, 0, 0);
    c.adjustLo = c.adjustHi = 0;
    cpu.set64(S.XCR0, B.XF_X87, 0);
    for (let o = S.FPR; o < S.FPR + 128; o += 4) cpu.set(o, 0);
    cpu.set(S.FTOP, 0);
    cpu.set(S.FCW, 0x40);
    cpu.set(S.FSW, 0);
    cpu.set(S.FTW, 0xff);
    cpu.set(S.FOP, 0);
    cpu.set(S.FCS, 0);
    cpu.set(S.FDS, 0);
    cpu.set64(S.FIP, 0, 0);
    cpu.set64(S.FDP, 0, 0);
    cpu.set(S.MXCSR, B.MXCSR_RESET);
    for (let o = S.XMM; o < S.XMM + 256; o += 4) cpu.set(o, 0);
    for (let o = S.YMMH; o < S.YMMH + 256; o += 4) cpu.set(o, 0);
  }
  c.ext = 0;
  c.env.modeChanged();
  cpu.port.flushTlb(cpu.base, 1);
}

/** SIPI: CS:IP = vector << 8 : 0. */
export function startup(c: SysCtx, vector: number): void {
  const v = vector & 0xff;
  c.cpu.setSeg(S.CS, v << 8, wrapLinear(c, v << 12), 0, 0xffff, 0x9b);
  c.cpu.set64(S.RIP, 0, 0);
  c.env.modeChanged();
}
