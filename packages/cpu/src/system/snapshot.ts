// The vCPU's state as plain data (core's VcpuStateV1), both ways. For set-up, saving and debuggers; bigint is fine here.
import { HyveError, type SegmentState, type VcpuStateV1 } from '@hyve/core';
import type { CpuAccess } from '../access.ts';
import * as S from '../state.ts';
import * as B from './bits.ts';
import type { SysCtx } from './context.ts';
import { loadPdptes } from './control.ts';
import { readTsc, writeTsc } from './msr.ts';
import { inUse } from './xsave.ts';

/** The part of a state that the run loop keeps. */
export type RunState = Pick<VcpuStateV1, 'activity' | 'interruptShadow' | 'nmiBlocked' | 'nmiPending' | 'injected'>;

const MASK64 = (1n << 64n) - 1n;

function big(cpu: CpuAccess, o: number): bigint {
  return (BigInt(cpu.getHi(o)) << 32n) | BigInt(cpu.get(o));
}

function setBig(cpu: CpuAccess, o: number, v: bigint): void {
  const u = v & MASK64;
  cpu.set64(o, Number(u & 0xffffffffn), Number(u >> 32n));
}

/** MSRs in a saved state that are plain state fields. */
const PLAIN: readonly (readonly [index: number, offset: number])[] = [
  [B.MSR_STAR, S.STAR],
  [B.MSR_LSTAR, S.LSTAR],
  [B.MSR_CSTAR, S.CSTAR],
  [B.MSR_FMASK, S.FMASK],
  [B.MSR_KERNEL_GS_BASE, S.KERNEL_GS_BASE],
  [B.MSR_SYSENTER_CS, S.SYSENTER_CS],
  [B.MSR_SYSENTER_ESP, S.SYSENTER_ESP],
  [B.MSR_SYSENTER_EIP, S.SYSENTER_EIP],
  [B.MSR_PAT, S.PAT],
  [B.MSR_TSC_AUX, S.TSC_AUX],
];

function saveXsave(cpu: CpuAccess): Uint8Array {
  const image = new Uint8Array(B.XSAVE_SIZE);
  const v = new DataView(image.buffer);
  const top = cpu.get(S.FTOP);
  v.setUint16(0, cpu.get(S.FCW), true);
  v.setUint16(2, (cpu.get(S.FSW) & ~0x3800) | (top << 11), true);
  v.setUint8(4, cpu.get(S.FTW));
  v.setUint16(6, cpu.get(S.FOP), true);
  v.setBigUint64(8, big(cpu, S.FIP), true);
  v.setBigUint64(16, big(cpu, S.FDP), true);
  v.setUint32(24, cpu.get(S.MXCSR), true);
  v.setUint32(28, B.MXCSR_MASK, true);
  for (let n = 0; n < 8; n++) {
    const from = cpu.base + S.FPR + ((top + n) & 7) * 16;
    image.set(cpu.u8.subarray(from, from + 10), 32 + n * 16);
  }
  image.set(cpu.u8.subarray(cpu.base + S.XMM, cpu.base + S.XMM + 256), 160);
  image.set(cpu.u8.subarray(cpu.base + S.YMMH, cpu.base + S.YMMH + 256), B.XSAVE_AVX);
  v.setUint32(B.XSAVE_HEADER, inUse(cpu) | (cpu.get(S.MXCSR) === B.MXCSR_RESET ? 0 : B.XF_SSE), true);
  return image;
}

function loadXsave(cpu: CpuAccess, image: Uint8Array): void {
  const v = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const bv = v.getUint32(B.XSAVE_HEADER, true);
  const x87 = (bv & B.XF_X87) !== 0;
  const fsw = x87 ? v.getUint16(2, true) : 0;
  const top = (fsw >> 11) & 7;
  cpu.set(S.FTOP, top);
  cpu.set(S.FCW, x87 ? v.getUint16(0, true) : 0x37f);
  cpu.set(S.FSW, fsw & ~0x3800);
  cpu.set(S.FTW, x87 ? v.getUint8(4) : 0);
  cpu.set(S.FOP, x87 ? v.getUint16(6, true) & 0x7ff : 0);
  cpu.set(S.FCS, 0);
  cpu.set(S.FDS, 0);
  setBig(cpu, S.FIP, x87 ? v.getBigUint64(8, true) : 0n);
  setBig(cpu, S.FDP, x87 ? v.getBigUint64(16, true) : 0n);
  for (let n = 0; n < 8; n++) {
    const o = S.FPR + ((top + n) & 7) * 16;
    setBig(cpu, o, x87 ? v.getBigUint64(32 + n * 16, true) : 0n);
    cpu.set64(o + 8, x87 ? v.getUint16(40 + n * 16, true) : 0, 0);
  }
  cpu.set(S.MXCSR, bv & (B.XF_SSE | B.XF_AVX) ? v.getUint32(24, true) & B.MXCSR_MASK : B.MXCSR_RESET);
  cpu.set(S.UPPERS_ZERO, 0);
  for (let o = 0; o < 256; o += 4) {
    cpu.set(S.XMM + o, bv & B.XF_SSE ? v.getUint32(160 + o, true) : 0);
    cpu.set(S.YMMH + o, bv & B.XF_AVX && image.length >= B.XSAVE_SIZE ? v.getUint32(B.XSAVE_AVX + o, true) : 0);
  }
}

function segment(cpu: CpuAccess, n: number): SegmentState {
  return {
    selector: cpu.sel(n),
    base: big(cpu, S.SEG + n * S.SEG_STRIDE + S.SEG_BASE),
    limit: cpu.limit(n),
    attr: cpu.attr(n),
  };
}

/** The whole state; what the run loop keeps is passed in. */
export function getState(c: SysCtx, run: RunState): VcpuStateV1 {
  const cpu = c.cpu;
  const gpr: bigint[] = [];
  for (let n = 0; n < 16; n++) gpr.push(big(cpu, S.GPR + n * 8));
  const msrs: [number, bigint][] = PLAIN.map(([index, o]) => [index, big(cpu, o)]);
  readTsc(c);
  msrs.push([B.MSR_TSC, (BigInt(c.hi) << 32n) | BigInt(c.lo)]);
  msrs.push([B.MSR_TSC_ADJUST, (BigInt(c.adjustHi) << 32n) | BigInt(c.adjustLo)]);
  return {
    v: 3,
    gpr,
    rip: big(cpu, S.RIP),
    rflags: BigInt(cpu.flags()),
    cr0: big(cpu, S.CR0),
    cr2: big(cpu, S.CR2),
    cr3: big(cpu, S.CR3),
    cr4: big(cpu, S.CR4),
    efer: big(cpu, S.EFER),
    xcr0: big(cpu, S.XCR0),
    dr: [0, 1, 2, 3, 6, 7].map((n) => big(cpu, S.DR + n * 8)),
    segments: [0, 1, 2, 3, 4, 5, 6, 7].map((n) => segment(cpu, n)),
    gdtr: { base: big(cpu, S.GDT_BASE), limit: cpu.get(S.GDT_LIMIT) },
    idtr: { base: big(cpu, S.IDT_BASE), limit: cpu.get(S.IDT_LIMIT) },
    xsave: saveXsave(cpu),
    msrs,
    activity: run.activity,
    interruptShadow: run.interruptShadow,
    nmiBlocked: run.nmiBlocked,
    nmiPending: run.nmiPending,
    ...(run.injected === undefined ? {} : { injected: run.injected }),
    x87Selectors: [cpu.get(S.FCS) & 0xffff, cpu.get(S.FDS) & 0xffff],
  };
}

function isCanonical(v: bigint): boolean {
  return BigInt.asUintN(64, BigInt.asIntN(48, v)) === BigInt.asUintN(64, v);
}

/** Throws for states that the processor cannot be in. */
function check(c: SysCtx, s: VcpuStateV1): void {
  const bad = (why: string): never => {
    throw new HyveError('VCPU_STATE', `a vCPU cannot be in this state: ${why}`);
  };
  c.features();
  if (s.v !== 1 && s.v !== 2 && s.v !== 3) bad(`version ${s.v as number}, expected 1 to 3`);
  const selectors = s.x87Selectors ?? [];
  if (selectors.some((v) => !Number.isInteger(v) || v < 0 || v > 0xffff)) bad(`x87 selectors ${selectors.join(', ')}`);
  if (s.injected !== undefined && !(Number.isInteger(s.injected) && s.injected >= 0 && s.injected <= 255))
    bad(`interrupt ${s.injected} injected`);
  if (s.gpr.length !== 16) bad(`${s.gpr.length} general registers, expected 16`);
  if (s.segments.length !== 8) bad(`${s.segments.length} segments, expected 8`);
  if (s.dr.length !== 6) bad(`${s.dr.length} debug registers, expected 6`);
  if (s.xsave.length !== 0 && s.xsave.length < B.XSAVE_AVX)
    bad(`XSAVE area of ${s.xsave.length} bytes, expected 0 or 576`);
  const cr0 = Number(s.cr0 & 0xffffffffn);
  if (s.cr0 >> 32n !== 0n || (cr0 & B.CR0_PG && !(cr0 & B.CR0_PE))) bad(`CR0 0x${s.cr0.toString(16)}`);
  if (s.cr4 >> 32n !== 0n || Number(s.cr4) & ~c.cr4Mask) bad(`CR4 0x${s.cr4.toString(16)}`);
  const lme = (s.efer & BigInt(B.EFER_LME)) !== 0n;
  const lma = (s.efer & BigInt(B.EFER_LMA)) !== 0n;
  if (lma !== (lme && (cr0 & B.CR0_PG) !== 0)) bad(`EFER 0x${s.efer.toString(16)} with CR0 0x${s.cr0.toString(16)}`);
  if (lma && !(Number(s.cr4) & B.CR4_PAE)) bad('long mode without CR4.PAE');
  if ((s.xcr0 & 1n) === 0n || s.xcr0 & ~BigInt(c.xcr0Mask | B.XF_X87)) bad(`XCR0 0x${s.xcr0.toString(16)}`);
  if (lma && s.segments[S.CS].attr & S.ATTR_L && !isCanonical(s.rip)) bad(`RIP 0x${s.rip.toString(16)}`);
}

/**
 * Writes the whole state, except what {@link RunState} names.
 * @throws HyveError `VCPU_STATE` for what the processor cannot be in; nothing is changed then
 */
export function setState(c: SysCtx, s: VcpuStateV1): void {
  const cpu = c.cpu;
  check(c, s);
  for (let n = 0; n < 16; n++) setBig(cpu, S.GPR + n * 8, s.gpr[n]);
  cpu.set64(S.ZERO, 0, 0);
  setBig(cpu, S.RIP, s.rip);
  cpu.setFlags(Number(s.rflags & 0xffffffffn));
  setBig(cpu, S.CR0, s.cr0 | BigInt(B.CR0_ET));
  setBig(cpu, S.CR2, s.cr2);
  setBig(cpu, S.CR3, s.cr3);
  setBig(cpu, S.CR4, s.cr4);
  setBig(cpu, S.EFER, s.efer);
  setBig(cpu, S.XCR0, s.xcr0);
  [0, 1, 2, 3, 6, 7].forEach((n, at) => {
    setBig(cpu, S.DR + n * 8, s.dr[at]);
  });
  s.segments.forEach((g, n) => {
    const u = g.base & MASK64;
    cpu.setSeg(n, g.selector, Number(u & 0xffffffffn), Number(u >> 32n), g.limit, g.attr & 0x1f0ff);
  });
  setBig(cpu, S.GDT_BASE, s.gdtr.base);
  cpu.set(S.GDT_LIMIT, s.gdtr.limit & 0xffff);
  setBig(cpu, S.IDT_BASE, s.idtr.base);
  cpu.set(S.IDT_LIMIT, s.idtr.limit & 0xffff);
  if (s.xsave.length !== 0) {
    loadXsave(cpu, s.xsave);
    if ((s.xsave[B.XSAVE_HEADER] ?? 0) & B.XF_X87) {
      cpu.set(S.FCS, s.x87Selectors?.[0] ?? 0);
      cpu.set(S.FDS, s.x87Selectors?.[1] ?? 0);
    }
  }
  c.adjustLo = c.adjustHi = 0;
  for (const [index, v] of s.msrs) {
    const u = v & MASK64;
    const lo = Number(u & 0xffffffffn);
    const hi = Number(u >> 32n);
    const row = PLAIN.find(([i]) => i === index);
    if (row !== undefined) cpu.set64(row[1], lo, hi);
    else if (index === B.MSR_TSC) writeTsc(c, lo, hi);
    else if (index === B.MSR_TSC_ADJUST) {
      c.adjustLo = lo;
      c.adjustHi = hi;
    } else if (index === B.MSR_FS_BASE) cpu.set64(S.SEG + S.FS * S.SEG_STRIDE, lo, hi);
    else if (index === B.MSR_GS_BASE) cpu.set64(S.SEG + S.GS * S.SEG_STRIDE, lo, hi);
  }
  const protectedMode = cpu.protectedMode;
  cpu.set(S.CPL, !protectedMode ? 0 : cpu.v86 ? 3 : (cpu.attr(S.SS) >> 5) & 3);
  if (cpu.get(S.CR0) & B.CR0_PG && cpu.get(S.CR4) & B.CR4_PAE && !cpu.longMode) loadPdptes(c, cpu.get(S.CR3));
  cpu.set(S.FAULT, 0);
  c.env.modeChanged();
  cpu.port.flushTlb(cpu.base, 1);
}
