// Control and debug registers, modes, TLB invalidation. Intel SDM vol. 3A §2.5, §4.4.1, §4.10, §10.8.5; vol. 3B §18.2.
import { type Insn, Kind } from '@hyve/x86';
import * as S from '../state.ts';
import * as B from './bits.ts';
import { canonical, goOn, operandAddr, requireCpl0, type SysCtx, signed64, writeReg } from './context.ts';

/** Whether a CR3 value has reserved bits above MAXPHYADDR set in its upper half. */
function highBitsReserved(c: SysCtx, hi: number): boolean {
  return hi >>> 0 >= 2 ** (c.env.physBits - 32);
}

/** Whether the four PDPTEs at `cr3` (32 bits) have no reserved bit set. */
export function pdptesValid(c: SysCtx, cr3: number): boolean {
  const at = (cr3 & ~31) >>> 0;
  for (let n = 0; n < 4; n++) {
    const lo = c.env.readPhys32(at + n * 8);
    if ((lo & 1) === 0) continue;
    if (lo & 0x1e6 || highBitsReserved(c, c.env.readPhys32(at + n * 8 + 4))) return false;
  }
  return true;
}

/** Loads the PDPTEs of PAE paging into the state. */
export function loadPdptes(c: SysCtx, cr3: number): void {
  const at = (cr3 & ~31) >>> 0;
  for (let n = 0; n < 4; n++) {
    c.cpu.set64(S.PDPTE + n * 8, c.env.readPhys32(at + n * 8), c.env.readPhys32(at + n * 8 + 4));
  }
}

/** Checks and loads PDPTEs if `cr0` and `cr4` mean PAE paging outside long mode. */
function refreshPdptes(c: SysCtx, cr0: number, cr4: number, efer: number, cr3: number): void {
  if (!(cr0 & B.CR0_PG) || !(cr4 & B.CR4_PAE) || efer & B.EFER_LME) return;
  if (!pdptesValid(c, cr3)) c.cpu.gp(0);
  loadPdptes(c, cr3);
}

/** Writes CR0 with all checks of MOV to CR0. */
export function writeCr0(c: SysCtx, lo: number, hi: number): void {
  const cpu = c.cpu;
  const old = cpu.get(S.CR0);
  const cr4 = cpu.get(S.CR4);
  let efer = cpu.get(S.EFER);
  const v = ((lo & B.CR0_DEFINED) | B.CR0_ET) >>> 0;
  const changed = v ^ old;
  if (hi !== 0 || (v & B.CR0_PG && !(v & B.CR0_PE)) || (v & B.CR0_NW && !(v & B.CR0_CD))) cpu.gp(0);
  if (changed & B.CR0_PG) {
    if (v & B.CR0_PG) {
      if (efer & B.EFER_LME) {
        const tr = cpu.attr(S.TR);
        if (!(cr4 & B.CR4_PAE) || cpu.attr(S.CS) & S.ATTR_L) cpu.gp(0);
        if ((tr & 15) === B.TYPE_TSS16_BUSY) cpu.gp(0);
        efer |= B.EFER_LMA;
      }
    } else {
      if (cpu.code64 || cr4 & B.CR4_PCIDE) cpu.gp(0);
      efer &= ~B.EFER_LMA;
    }
  }
  if (changed & (B.CR0_PG | B.CR0_CD | B.CR0_NW)) refreshPdptes(c, v, cr4, efer, cpu.get(S.CR3));
  cpu.set64(S.CR0, v, 0);
  cpu.set(S.EFER, efer);
  c.env.modeChanged();
  if (changed & (B.CR0_PG | B.CR0_PE | B.CR0_WP)) cpu.port.flushTlb(cpu.base, 1);
}

/** Writes CR3. */
export function writeCr3(c: SysCtx, lo: number, hi: number): void {
  const cpu = c.cpu;
  const cr4 = cpu.get(S.CR4);
  const keep = (cr4 & B.CR4_PCIDE) !== 0 && hi < 0;
  let up = hi;
  if (keep) up &= 0x7fffffff;
  if (highBitsReserved(c, up)) cpu.gp(0);
  if (!(cpu.get(S.EFER) & B.EFER_LMA)) refreshPdptes(c, cpu.get(S.CR0), cr4, 0, lo);
  cpu.set64(S.CR3, lo, up);
  c.env.modeChanged();
  if (!keep) cpu.port.flushTlb(cpu.base, 0);
}

/** Writes CR4. */
export function writeCr4(c: SysCtx, lo: number, hi: number): void {
  const cpu = c.cpu;
  c.features();
  const old = cpu.get(S.CR4);
  const v = lo >>> 0;
  const changed = v ^ old;
  const efer = cpu.get(S.EFER);
  if (hi !== 0 || v & ~c.cr4Mask) cpu.gp(0);
  if (efer & B.EFER_LMA && !(v & B.CR4_PAE)) cpu.gp(0);
  if (changed & v & B.CR4_PCIDE && (!(efer & B.EFER_LMA) || cpu.get(S.CR3) & 0xfff)) cpu.gp(0);
  if (changed & (B.CR4_PAE | B.CR4_PGE | B.CR4_PSE | B.CR4_SMEP)) {
    refreshPdptes(c, cpu.get(S.CR0), v, efer, cpu.get(S.CR3));
  }
  cpu.set64(S.CR4, v, 0);
  c.env.modeChanged();
  if (changed & (B.CR4_PAE | B.CR4_PGE | B.CR4_PSE | B.CR4_SMEP | B.CR4_SMAP | B.CR4_PCIDE)) {
    cpu.port.flushTlb(cpu.base, 1);
  }
}

/** MOV to and from control registers. */
export function movControl(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const long = cpu.code64;
  requireCpl0(c);
  if (i.kind1 === Kind.Cr) {
    let lo = 0;
    let hi = 0;
    if (i.reg1 === 8) lo = c.env.bus.readCr8();
    else {
      const o = i.reg1 === 0 ? S.CR0 : i.reg1 === 2 ? S.CR2 : i.reg1 === 3 ? S.CR3 : i.reg1 === 4 ? S.CR4 : -1;
      if (o < 0) cpu.ud();
      lo = cpu.get(o);
      hi = cpu.getHi(o);
    }
    writeReg(c, i.reg0, long ? 8 : 4, lo, hi);
    return S.ST_NEXT;
  }
  const lo = cpu.r32(i.reg1);
  const hi = long ? cpu.getHi(S.GPR + i.reg1 * 8) | 0 : 0;
  switch (i.reg0) {
    case 0:
      writeCr0(c, lo, hi);
      break;
    case 2:
      cpu.set64(S.CR2, lo, hi);
      return S.ST_NEXT;
    case 3:
      writeCr3(c, lo, hi);
      break;
    case 4:
      writeCr4(c, lo, hi);
      break;
    case 8:
      if (hi !== 0 || lo > 15) cpu.gp(0);
      c.env.bus.writeCr8(lo);
      break;
    default:
      cpu.ud();
  }
  return goOn(c, i.length);
}

/** MOV to and from debug registers. */
export function movDebug(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const long = cpu.code64;
  const read = i.kind1 === Kind.Dr;
  let n = read ? i.reg1 : i.reg0;
  if (n > 7) cpu.ud();
  if (n === 4 || n === 5) {
    if (cpu.get(S.CR4) & B.CR4_DE) cpu.ud();
    n += 2;
  }
  requireCpl0(c);
  const o = S.DR + n * 8;
  if (cpu.get(S.DR + 7 * 8) & B.DR7_GD) cpu.fault(S.EXC_DB, B.DR6_BD);
  if (read) {
    writeReg(c, i.reg0, long ? 8 : 4, cpu.get(o), cpu.getHi(o));
    return S.ST_NEXT;
  }
  const lo = cpu.r32(i.reg1);
  const hi = long ? cpu.getHi(S.GPR + i.reg1 * 8) : 0;
  if (n < 4) cpu.set64(o, lo, hi);
  else {
    if (hi !== 0) cpu.gp(0);
    if (n === 6) cpu.set64(o, (lo & B.DR6_WRITABLE) | B.DR6_FIXED, 0);
    else cpu.set64(o, (lo & B.DR7_WRITABLE) | B.DR7_FIXED, 0);
  }
  c.env.modeChanged();
  return goOn(c, i.length);
}

/** LMSW: bits 0–3 of CR0; PE can only be set. */
export function lmsw(c: SysCtx, i: Insn): number {
  requireCpl0(c);
  const v = i.kind0 === Kind.Mem ? c.cpu.read(operandAddr(c, 0), 2) : c.cpu.r16(i.reg0);
  const old = c.cpu.get(S.CR0);
  writeCr0(c, (old & ~0xe) | (v & 0xf), 0);
  return goOn(c, i.length);
}

/** SMSW. */
export function smsw(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  if (cpu.get(S.CR4) & B.CR4_UMIP && cpu.get(S.CPL) !== 0) cpu.gp(0);
  const v = cpu.get(S.CR0);
  if (i.kind0 === Kind.Mem) cpu.write(operandAddr(c, 0), 2, v & 0xffff, S.ACC_WRITE);
  else writeReg(c, i.reg0, i.opSize, v, 0);
  return S.ST_NEXT;
}

/** CLTS. */
export function clts(c: SysCtx, i: Insn): number {
  requireCpl0(c);
  c.cpu.set(S.CR0, c.cpu.get(S.CR0) & ~B.CR0_TS);
  c.env.modeChanged();
  return goOn(c, i.length);
}

/** INVLPG. */
export function invlpg(c: SysCtx, i: Insn): number {
  requireCpl0(c);
  const at = operandAddr(c, 0);
  if (canonical(at)) c.cpu.port.flushPage(c.cpu.base, at);
  return goOn(c, i.length);
}

/** INVPCID, SDM vol. 2A. Whatever the type, at least what it asks for is dropped. */
export function invpcid(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  c.features();
  if (!(c.f7b & B.F7B_INVPCID)) cpu.ud();
  if (cpu.v86) cpu.gp(0);
  requireCpl0(c);
  const type = cpu.r32(i.reg0);
  if (type > 3 || (cpu.code64 && cpu.getHi(S.GPR + i.reg0 * 8) !== 0)) cpu.gp(0);
  const pcid = cpu.read(operandAddr(c, 0), 4);
  const reserved = cpu.read(operandAddr(c, 4), 4);
  const lo = cpu.read(operandAddr(c, 8), 4);
  const hi = cpu.read(operandAddr(c, 12), 4);
  if (reserved !== 0 || pcid > 0xfff) cpu.gp(0);
  const addr = signed64(lo, hi);
  if (type < 2 && pcid !== 0 && !(cpu.get(S.CR4) & B.CR4_PCIDE)) cpu.gp(0);
  if (type === 0) {
    if (!canonical(addr)) cpu.gp(0);
    cpu.port.flushPage(cpu.base, addr);
  } else cpu.port.flushTlb(cpu.base, 1);
  return goOn(c, i.length);
}

/** INVD, WBINVD, WBNOINVD: privileged, and nothing to do. */
export function writeBack(c: SysCtx): number {
  requireCpl0(c);
  return S.ST_NEXT;
}

/** CLFLUSH, CLFLUSHOPT, CLWB: checked as a byte load, and nothing to do. */
export function flushLine(c: SysCtx): number {
  c.cpu.probe(operandAddr(c, 0), 1, 0);
  return S.ST_NEXT;
}

/** HLT. */
export function halt(c: SysCtx, i: Insn): number {
  requireCpl0(c);
  goOn(c, i.length);
  c.cpu.set(S.EXIT_CODE, S.EX_HLT);
  return S.ST_EXIT;
}

/** PAUSE, where it takes more than nothing. */
export function pause(c: SysCtx, i: Insn): number {
  if (!c.env.exitOnPause) return S.ST_NEXT;
  goOn(c, i.length);
  c.cpu.set(S.EXIT_CODE, S.EX_PAUSE);
  return S.ST_EXIT;
}
