// What the system instructions share: the vCPU, its surroundings, and scratch space, so that nothing is allocated while
// the guest runs. Also the stack: values are staged, checked as a whole, and only then written (precise faults).
import type { CpuidResult, MsrValue, VcpuBus } from '@hyve/core';
import type { CpuAccess } from '../access.ts';
import * as S from '../state.ts';
import * as B from './bits.ts';

/** What a vCPU's system unit needs from the engine. All calls are synchronous. */
export interface SystemEnv {
  /** Ports, MSRs and CR8. */
  readonly bus: VcpuBus;
  /** Family, model and stepping as CPUID.1:EAX gives them; EDX after reset. */
  readonly signature: number;
  /** MAXPHYADDR, 36–52. */
  readonly physBits: number;
  /** PAUSE leaves the run loop with EX_PAUSE. */
  readonly exitOnPause: boolean;
  /** CPUID, with what depends on state (OSXSAVE, XSAVE sizes) filled in. */
  cpuid(leaf: number, subleaf: number, out: CpuidResult): void;
  /** The time stamp counter before TSC_OFFSET is added. */
  tscNow(out: MsrValue): void;
  /** 32 bits of guest-physical memory; PDPTEs are loaded with it. `addr` is a multiple of 4 below 2^52. */
  readPhys32(addr: number): number;
  /** 32 random bits, unsigned. */
  random32(): number;
  /**
   * CR0, CR3, CR4, EFER, XCR0, CPL, a segment register's hidden part, EFLAGS.AC, EFLAGS.VM or DR7 may have changed:
   * derive MODE and the TLB pointers anew. TLB flushes that the architecture asks for are made through cpu.port.
   */
  modeChanged(): void;
  /** EFLAGS.IF or TF became set, or a trap is due: look at events before the next instruction. */
  attention(): void;
  /**
   * Blocks interrupts for one instruction (STI, MOV SS, POP SS).
   * @param stack by MOV SS or POP SS, which hold back debug traps too
   */
  shadow(stack: boolean): void;
  /** A debug trap is due after this instruction; `dr6` holds its DR6 bits. */
  trap(dr6: number): void;
  /**
   * VMCALL (VMMCALL on processors of AMD's kind) at CPL 0: the result for RAX, a signed 32-bit number. Arguments are the low
   * halves of RAX, RBX, RCX, RDX and RSI. Null: the instruction is #UD, as without a hypervisor.
   */
  readonly hypercall: ((nr: number, a0: number, a1: number, a2: number, a3: number) => number) | null;
  /** IRET ends the blocking of NMIs. */
  unblockNmi(): void;
}

/** One descriptor as fetched from a table. */
export class Desc {
  /** First word. */
  lo = 0;
  /** Second word, unsigned. */
  hi = 0;
  /** Third word of a 16-byte descriptor, otherwise 0: base or offset bits 63–32. */
  up = 0;
  /** Linear address it came from. */
  addr = 0;

  /** Type field with the S bit as bit 4. */
  get type(): number {
    return (this.hi >>> 8) & 0x1f;
  }
  /** Descriptor privilege level. */
  get dpl(): number {
    return (this.hi >>> B.DESC_DPL_SHIFT) & 3;
  }
  /** Segment base bits 0–31, unsigned. */
  get base(): number {
    return ((this.lo >>> 16) | ((this.hi & 0xff) << 16) | (this.hi & 0xff000000)) >>> 0;
  }
  /** Limit in bytes. */
  get limit(): number {
    const raw = (this.lo & 0xffff) | (this.hi & 0xf0000);
    return (this.hi & B.DESC_G ? (raw << 12) | 0xfff : raw) >>> 0;
  }
  /** Access rights in the cached form. */
  get attr(): number {
    return (this.hi >>> 8) & 0xf0ff;
  }
  /** Code segment, conforming or not. */
  get isCode(): boolean {
    return (this.hi & (B.DESC_S | B.DESC_CODE)) === (B.DESC_S | B.DESC_CODE);
  }
  /** Conforming code segment (only meaningful if {@link Desc.isCode}). */
  get conforming(): boolean {
    return (this.hi & B.DESC_CE) !== 0;
  }
  /** Writable data segment. */
  get isWritableData(): boolean {
    return (this.hi & (B.DESC_S | B.DESC_CODE | B.DESC_RW)) === (B.DESC_S | B.DESC_RW);
  }
  /** Present. */
  get present(): boolean {
    return (this.hi & B.DESC_P) !== 0;
  }
  /** Selector of a gate. */
  get gateSelector(): number {
    return this.lo >>> 16;
  }
  /** Offset of a gate, bits 0–31, unsigned. */
  get gateOffset(): number {
    return ((this.lo & 0xffff) | (this.hi & 0xffff0000)) >>> 0;
  }
}

const MAX_PUSHES = 80;

/** Shared state of one vCPU's system unit. @internal */
export class SysCtx {
  readonly cpu: CpuAccess;
  readonly env: SystemEnv;
  /** EXT bit for error codes: 1 while an event external to the program is being delivered. */
  ext = 0;
  /** A task switch got past the point of no return: faults now belong to the new task. */
  switched = false;
  /** Descriptor or gate that a transfer starts from. */
  readonly gate: Desc = new Desc();
  /** Code segment. */
  readonly code: Desc = new Desc();
  /** Stack segment. */
  readonly stack: Desc = new Desc();
  /** Stack pointer from a TSS. */
  newSp = 0;
  /** Stack selector from a TSS. */
  newSs = 0;
  /** Result of {@link peek} and other 64-bit reads. */
  lo = 0;
  hi = 0;
  /** Values to push. */
  readonly pushLo: Int32Array = new Int32Array(MAX_PUSHES);
  readonly pushHi: Int32Array = new Int32Array(MAX_PUSHES);
  pushCount = 0;
  /** A TSS being loaded: CR3, EIP, EFLAGS, eight registers, six segments, LDT, T flag. */
  readonly tss: Int32Array = new Int32Array(20);
  readonly msr: MsrValue = { lo: 0, hi: 0 };
  readonly leaf: CpuidResult = { eax: 0, ebx: 0, ecx: 0, edx: 0 };
  /** Host address of the image that a state-saving instruction is working on, or 0: each word goes the long way. */
  image = 0;
  /** IA32_TSC_ADJUST. */
  adjustLo = 0;
  adjustHi = 0;
  /** CR4 bits that can be set, and EFER bits; worked out from CPUID on first use. */
  cr4Mask = 0;
  eferMask = 0;
  /** XCR0 bits that can be set. */
  xcr0Mask = 0;
  /** CPUID.7.0 EBX and ECX, 80000001 EDX, D.1 EAX. */
  f7b = 0;
  f7c = 0;
  f81d = 0;
  fd1a = 0;
  /** Follows AMD where the two vendors differ (SYSCALL). */
  amd = false;
  private probed = false;

  constructor(cpu: CpuAccess, env: SystemEnv) {
    this.cpu = cpu;
    this.env = env;
  }

  /** Reads CPUID once, before the masks are used. */
  features(): void {
    if (this.probed) return;
    this.probed = true;
    const l = this.leaf;
    this.env.cpuid(0, 0, l);
    const top = l.eax;
    this.amd = l.ebx === B.VENDOR_AMD || l.ebx === B.VENDOR_HYGON;
    this.env.cpuid(1, 0, l);
    const d = l.edx;
    const c = l.ecx;
    if (top >= 7) {
      this.env.cpuid(7, 0, l);
      this.f7b = l.ebx;
      this.f7c = l.ecx;
    }
    if (top >= 13 && c & B.F1C_XSAVE) {
      this.env.cpuid(13, 1, l);
      this.fd1a = l.eax;
      this.env.cpuid(13, 0, l);
      this.xcr0Mask = l.eax & (B.XF_X87 | B.XF_SSE | B.XF_AVX);
    }
    this.env.cpuid(0x80000000, 0, l);
    if (l.eax >= 0x80000001) {
      this.env.cpuid(0x80000001, 0, l);
      this.f81d = l.edx;
    }
    let m = B.CR4_PCE;
    if (d & B.F1D_TSC) m |= B.CR4_TSD;
    if (d & B.F1D_DE) m |= B.CR4_DE;
    if (d & B.F1D_PSE) m |= B.CR4_PSE;
    if (d & B.F1D_PAE) m |= B.CR4_PAE;
    if (d & B.F1D_MCE) m |= B.CR4_MCE;
    if (d & B.F1D_PGE) m |= B.CR4_PGE;
    if (d & B.F1D_FXSR) m |= B.CR4_OSFXSR | B.CR4_OSXMMEXCPT;
    if (c & B.F1C_PCID) m |= B.CR4_PCIDE;
    if (c & B.F1C_XSAVE) m |= B.CR4_OSXSAVE;
    if (this.f7b & B.F7B_FSGSBASE) m |= B.CR4_FSGSBASE;
    if (this.f7b & B.F7B_SMEP) m |= B.CR4_SMEP;
    if (this.f7b & B.F7B_SMAP) m |= B.CR4_SMAP;
    if (this.f7c & B.F7C_UMIP) m |= B.CR4_UMIP;
    this.cr4Mask = m;
    this.eferMask =
      (this.f81d & B.F81D_SYSCALL ? B.EFER_SCE : 0) |
      (this.f81d & B.F81D_LM ? B.EFER_LME | B.EFER_SCE : 0) |
      (this.f81d & B.F81D_NX ? B.EFER_NXE : 0);
  }

  /** Stages a value for {@link commitPushes}. */
  push(lo: number, hi = 0): void {
    this.pushLo[this.pushCount] = lo;
    this.pushHi[this.pushCount++] = hi;
  }
  /** Stages a signed double. */
  pushAddr(v: number): void {
    this.push(v % 0x1_0000_0000, Math.floor(v / 0x1_0000_0000));
  }
}

/** Whether a signed double is a canonical 48-bit address. */
export function canonical(v: number): boolean {
  return v >= -0x8000_0000_0000 && v < 0x8000_0000_0000;
}

/** Two halves as a signed double; inexact only where the value is not canonical. */
export function signed64(lo: number, hi: number): number {
  return (hi | 0) * 0x1_0000_0000 + (lo >>> 0);
}

/** Error code for a selector. */
export function selErr(c: SysCtx, sel: number): number {
  return (sel & 0xfffc) | c.ext;
}

/** Current privilege as far as IOPL-like rules go: 0 in real mode, 3 in virtual-8086 mode. */
export function requireCpl0(c: SysCtx): void {
  if (c.cpu.get(S.CPL) !== 0) c.cpu.gp(0);
}

/** IOPL. */
export function iopl(c: SysCtx): number {
  return (c.cpu.get(S.EFL) >>> S.FLAG_IOPL_SHIFT) & 3;
}

/** Real mode or virtual-8086 mode: selectors are paragraph numbers. */
export function realLike(c: SysCtx): boolean {
  return !c.cpu.protectedMode || c.cpu.v86;
}

/** Address of the instruction after one of `length` bytes, cut to the code size. */
export function nextRip(c: SysCtx, length: number): number {
  const n = c.cpu.getAddr(S.RIP) + length;
  const mode = c.cpu.get(S.MODE) & S.MODE_SIZE;
  return mode === 2 ? n : mode === 1 ? n % 0x1_0000_0000 : n % 0x1_0000;
}

/** Sets RIP to the next instruction and asks for a block look-up. */
export function goOn(c: SysCtx, length: number): number {
  c.cpu.setAddr(S.RIP, nextRip(c, length));
  return S.ST_JUMP;
}

/** Whether `size` bytes at `off` lie inside a segment's limit (expand-down included). */
export function inLimit(limit: number, attr: number, off: number, size: number): boolean {
  if ((attr & (S.ATTR_S | B.ATTR_CODE | B.ATTR_EXPAND_DOWN)) === (S.ATTR_S | B.ATTR_EXPAND_DOWN)) {
    return off > limit && off + size - 1 <= (attr & S.ATTR_DB ? 0xffffffff : 0xffff);
  }
  return off + size - 1 <= limit || limit === 0xffffffff;
}

/**
 * Linear address of `size` bytes at segment:offset, checked for type, limit and canonical form.
 * @param hi upper half of the offset; only used in 64-bit mode
 */
export function segmentedAccess(c: SysCtx, seg: number, lo: number, hi: number, size: number, write: boolean): number {
  const cpu = c.cpu;
  const o = S.SEG + seg * S.SEG_STRIDE;
  const vector = seg === S.SS ? S.EXC_SS : S.EXC_GP;
  if (cpu.code64) {
    let at = signed64(lo, hi);
    if (seg >= S.FS) {
      const sum = (lo >>> 0) + cpu.get(o);
      at = signed64(sum, hi + cpu.getHi(o) + (sum > 0xffffffff ? 1 : 0));
    }
    if (!canonical(at) || !canonical(at + size - 1)) cpu.fault(vector, 0);
    return at;
  }
  const attr = cpu.get(o + S.SEG_ATTR);
  const off = lo >>> 0;
  if (attr & S.ATTR_UNUSABLE || !(attr & S.ATTR_P)) cpu.fault(vector, 0);
  if (!realLike(c)) {
    if (attr & B.ATTR_CODE ? write || !(attr & B.ATTR_RW) : write && !(attr & B.ATTR_RW)) cpu.fault(vector, 0);
  }
  if (!inLimit(cpu.get(o + S.SEG_LIMIT), attr, off, size)) cpu.fault(vector, 0);
  return (cpu.get(o) + off) % 0x1_0000_0000;
}

/** Linear address of byte `at` of the memory operand. */
export function operandAddr(c: SysCtx, at: number): number {
  const ea = c.cpu.f64[(c.cpu.base + S.EA_F64) >> 3] as number;
  const v = ea + at;
  return c.cpu.longMode || v < 0x1_0000_0000 ? v : v - 0x1_0000_0000;
}

/** Cuts a legacy linear address to 32 bits. */
export function wrapLinear(c: SysCtx, v: number): number {
  return c.cpu.longMode || v < 0x1_0000_0000 ? v : v % 0x1_0000_0000;
}

/** The stack pointer as the current stack's offset: 16 or 32 bits, unsigned, or a signed double in 64-bit mode. */
export function stackPointer(c: SysCtx): number {
  if (c.cpu.code64) return c.cpu.getAddr(S.GPR + 4 * 8);
  return c.cpu.attr(S.SS) & S.ATTR_DB ? c.cpu.r32(4) : c.cpu.r16(4);
}

/** Writes the stack pointer in the width of the current SS. */
export function setStackPointer(c: SysCtx, v: number): void {
  if (c.cpu.code64) c.cpu.setAddr(S.GPR + 4 * 8, v);
  else if (c.cpu.attr(S.SS) & S.ATTR_DB) c.cpu.setR32(4, v);
  else c.cpu.setR16(4, v);
}

/** Reads `size` bytes at stack pointer + `at` into c.lo and c.hi. */
export function peek(c: SysCtx, at: number, size: number): void {
  const cpu = c.cpu;
  let addr: number;
  if (cpu.code64) {
    addr = cpu.getAddr(S.GPR + 4 * 8) + at;
    if (!canonical(addr) || !canonical(addr + size - 1)) cpu.fault(S.EXC_SS, 0);
  } else {
    const attr = cpu.attr(S.SS);
    const off = attr & S.ATTR_DB ? (cpu.r32(4) + at) % 0x1_0000_0000 : (cpu.r16(4) + at) & 0xffff;
    if (attr & S.ATTR_UNUSABLE || !inLimit(cpu.limit(S.SS), attr, off, size)) cpu.fault(S.EXC_SS, 0);
    addr = wrapLinear(c, cpu.get(S.SEG + S.SS * S.SEG_STRIDE) + off);
  }
  if (size === 8) checkAlign8(c, addr);
  c.lo = cpu.read(addr, size === 2 ? 2 : 4);
  c.hi = size === 8 ? cpu.read(addr + 4, 4) : 0;
}

/** #AC for the eight bytes that are about to be read or written as two words. */
function checkAlign8(c: SysCtx, addr: number): void {
  if (c.cpu.get(S.ALIGN_CHECK) !== 0 && addr % 8 !== 0) c.cpu.fault(S.EXC_AC, 0);
}

function writeSlot(c: SysCtx, addr: number, size: number, i: number, access: number): void {
  if (size === 2) c.cpu.write(addr, 2, c.pushLo[i] & 0xffff, access);
  else {
    c.cpu.write(addr, 4, c.pushLo[i], access);
    if (size === 8) c.cpu.write(addr + 4, 4, c.pushHi[i], access);
  }
}

/**
 * Checks and writes the staged values below `sp` on a stack segment given by its parts; returns the new offset.
 * @param size bytes per value: 2, 4, or 8 (compatibility mode never pushes 8 on such a stack)
 * @param access ACC_ bits: ACC_IMPLICIT for the stack of an inner ring
 * @param err error code of the #SS for a limit violation
 */
export function commitPushes(
  c: SysCtx,
  base: number,
  limit: number,
  attr: number,
  sp: number,
  size: number,
  access: number,
  err: number,
): number {
  const n = c.pushCount;
  const bytes = n * size;
  const low = sp - bytes;
  const wrap = attr & S.ATTR_DB ? 0x1_0000_0000 : 0x1_0000;
  c.pushCount = 0;
  if (low >= 0 && base + sp <= 0x1_0000_0000) {
    if (!inLimit(limit, attr, low, bytes)) c.cpu.fault(S.EXC_SS, err);
    c.cpu.probe(base + low, bytes, access | S.ACC_WRITE);
    for (let i = 0; i < n; i++) writeSlot(c, base + sp - (i + 1) * size, size, i, access);
    return low;
  }
  for (let pass = 0; pass < 2; pass++) {
    for (let i = 0; i < n; i++) {
      const off = (sp - (i + 1) * size + wrap) % wrap;
      if (!inLimit(limit, attr, off, size)) c.cpu.fault(S.EXC_SS, err);
      const addr = (base + off) % 0x1_0000_0000;
      if (pass === 0) c.cpu.probe(addr, size, access | S.ACC_WRITE);
      else writeSlot(c, addr, size, i, access);
    }
  }
  return (low + wrap) % wrap;
}

/** The same on a 64-bit stack; `sp` is a signed double. */
export function commitPushes64(c: SysCtx, sp: number, size: number, access: number, err: number): number {
  const n = c.pushCount;
  const low = sp - n * size;
  c.pushCount = 0;
  if (!canonical(low) || !canonical(sp - 1)) c.cpu.fault(S.EXC_SS, err);
  c.cpu.probe(low, n * size, access | S.ACC_WRITE);
  for (let i = 0; i < n; i++) writeSlot(c, sp - (i + 1) * size, size, i, access);
  return low;
}

/** Pushes the staged values on the current stack; returns the new stack pointer, which the caller sets. */
export function pushCurrent(c: SysCtx, size: number): number {
  const cpu = c.cpu;
  if (cpu.code64) return commitPushes64(c, cpu.getAddr(S.GPR + 4 * 8), size, 0, c.ext);
  const attr = cpu.attr(S.SS);
  if (attr & S.ATTR_UNUSABLE) cpu.fault(S.EXC_SS, c.ext);
  return commitPushes(c, cpu.get(S.SEG + S.SS * S.SEG_STRIDE), cpu.limit(S.SS), attr, stackPointer(c), size, 0, c.ext);
}

/** Writes a register of 2, 4 or 8 bytes by the rules of its width. */
export function writeReg(c: SysCtx, n: number, size: number, lo: number, hi: number): void {
  if (size === 8) c.cpu.set64(S.GPR + n * 8, lo, hi);
  else if (size === 4) c.cpu.setR32(n, lo);
  else c.cpu.setR16(n, lo);
}

/** Sets arithmetic flags among the others: `mask` bits become those of `value`. */
export function patchFlags(c: SysCtx, mask: number, value: number): void {
  c.cpu.setFlags((c.cpu.flags() & ~mask) | (value & mask));
}
