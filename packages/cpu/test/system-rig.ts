// A vCPU without an engine: state and memory in one flat buffer, linear = physical, page faults injectable. Instructions
// are real bytes, decoded by @hyve/x86.
import type { CpuidResult, MsrValue, VcpuBus } from '@hyve/core';
import { Decoder, Insn, Kind, Status } from '@hyve/x86';
import { CpuAccess, GUEST_FAULT, type MemoryPort } from '../src/access.ts';
import * as S from '../src/state.ts';
import type { SystemEnv } from '../src/system/context.ts';
import { SystemUnit } from '../src/system/system.ts';

export const RAM = 0x20000;
export const RAM_SIZE = 0x40000;

/** Where things lie in the test machine's memory. */
export const GDT = 0x1000;
export const IDT = 0x2000;
export const TSS = 0x3000;
export const TSS2 = 0x3200;
export const LDT = 0x3800;
export const CODE = 0x4000;
export const STACK0 = 0x9000;
export const STACK3 = 0xa000;
export const HANDLER = 0x5000;
export const DATA = 0x6000;

/** GDT selectors of the protected-mode machine. */
export const SEL = {
  code32: 0x08,
  data32: 0x10,
  ucode32: 0x1b,
  udata32: 0x23,
  code16: 0x28,
  data16: 0x30,
  code64: 0x38,
  conf32: 0x40,
  ucode64: 0x4b,
  tss: 0x50, // 16 bytes long in long mode: 0x50 and 0x58
  tss2: 0x60,
  ldt: 0x70, // 16 bytes in long mode
  gate: 0x80, // 16 bytes in long mode
  ro: 0x90,
  np: 0x98,
  taskGate: 0xa0,
  execOnly: 0xa8,
  down: 0xb0,
} as const;

export interface Outcome {
  /** ST_ value, or -1 for a fault. */
  status: number;
  /** Vector of the fault, or -1. */
  vector: number;
  code: number;
}

export class Rig implements MemoryPort, SystemEnv {
  readonly cpu: CpuAccess;
  readonly unit: SystemUnit;
  readonly mem: Uint8Array;
  readonly view: DataView;
  readonly bus: VcpuBus;
  readonly signature = 0x000306c1;
  readonly physBits = 40;
  exitOnPause = false;
  /** Linear pages that fault on any access, and on writes. */
  readonly absent = new Set<number>();
  readonly readOnly = new Set<number>();
  readonly io: string[] = [];
  readonly flushes: number[] = [];
  readonly pages: number[] = [];
  /** CPUID.0:EBX. */
  vendor = 0x756e6547;
  /** Features taken away: `leaf.reg.bit`. */
  readonly without = new Set<string>();
  tsc = 0n;
  attentions = 0;
  shadows = 0;
  nmis = 0;
  modes = 0;
  cr8 = 0;
  ioValue = 0;
  readonly msrs = new Map<number, [number, number]>();
  private readonly decoder = new Decoder();
  readonly insn: Insn = new Insn();

  constructor() {
    // A TLB behind the memory that knows nothing, so that every access takes the port.
    const buffer = new ArrayBuffer(RAM + RAM_SIZE + S.TLB_BANK);
    new Uint8Array(buffer, RAM + RAM_SIZE).fill(0xff);
    this.cpu = new CpuAccess(buffer, 0x10000);
    this.cpu.set(S.TLB_DATA, RAM + RAM_SIZE);
    this.cpu.set(S.TLB_SYS, RAM + RAM_SIZE);
    this.cpu.port = this;
    this.mem = new Uint8Array(buffer, RAM, RAM_SIZE);
    this.view = new DataView(buffer, RAM, RAM_SIZE);
    this.bus = {
      ioRead: (port, width) => {
        this.io.push(`in${width * 8} ${port.toString(16)}`);
        return this.ioValue;
      },
      ioWrite: (port, width, v) => {
        this.io.push(`out${width * 8} ${port.toString(16)} ${v.toString(16)}`);
      },
      mmioRead: () => 0,
      mmioWrite: () => {},
      rdmsr: (index, out) => {
        const v = this.msrs.get(index);
        if (v === undefined) return false;
        [out.lo, out.hi] = v;
        return true;
      },
      wrmsr: (index, lo, hi) => {
        if (!this.msrs.has(index)) return false;
        this.msrs.set(index, [lo, hi]);
        return true;
      },
      readCr8: () => this.cr8,
      writeCr8: (v) => {
        this.cr8 = v;
      },
    };
    this.unit = new SystemUnit(this.cpu, this);
    this.unit.reset('power-on');
  }

  // ---- MemoryPort ----
  private at(addr: number, write: boolean, access: number): number {
    const long = this.cpu.longMode;
    let a = addr;
    if (!long) a = ((a % 2 ** 32) + 2 ** 32) % 2 ** 32;
    else if (a < -(2 ** 47) || a >= 2 ** 47) {
      this.raise(S.EXC_GP, 0, 0);
      return -1;
    }
    const page = Math.floor(a / 4096);
    if (this.absent.has(page) || (write && this.readOnly.has(page))) {
      const user = this.cpu.cpl === 3 && !(access & S.ACC_IMPLICIT) ? 4 : 0;
      this.raise(S.EXC_PF, (this.absent.has(page) ? 0 : 1) | (write ? 2 : 0) | user, a);
      return -1;
    }
    return ((a % RAM_SIZE) + RAM_SIZE) % RAM_SIZE;
  }
  private raise(vector: number, code: number, addr: number): void {
    this.cpu.set(S.FAULT, vector + 1);
    this.cpu.set(S.FAULT_CODE, code);
    this.cpu.setAddr(S.FAULT_ADDR, addr);
  }
  sysRead(_base: number, addr: number, size: number, access: number): number {
    let v = 0;
    for (let i = 0; i < size; i++) {
      const p = this.at(addr + i, false, access);
      if (p < 0) return 0;
      v |= this.mem[p] << (8 * i);
    }
    return v;
  }
  sysWrite(_base: number, addr: number, size: number, value: number, access: number): void {
    for (let i = 0; i < size; i++) if (this.at(addr + i, true, access) < 0) return;
    for (let i = 0; i < size; i++) this.mem[this.at(addr + i, true, access)] = value >>> (8 * i);
  }
  sysMask(base: number, addr: number, and: number, or: number): void {
    const access = S.ACC_IMPLICIT | S.ACC_WRITE;
    const p = this.at(addr, true, access);
    if (p >= 0) this.sysWrite(base, addr, 1, (this.mem[p] & and) | or, access);
  }
  sysProbe(_base: number, addr: number, size: number, access: number): void {
    if (size > 4096) throw new Error(`probe of ${size} bytes`);
    if (this.at(addr, (access & S.ACC_WRITE) !== 0, access) >= 0) {
      this.at(addr + size - 1, (access & S.ACC_WRITE) !== 0, access);
    }
  }
  flushTlb(_base: number, all: number): void {
    this.flushes.push(all);
  }
  flushPage(_base: number, addr: number): void {
    this.pages.push(addr);
  }

  // ---- SystemEnv ----
  cpuid(leaf: number, subleaf: number, out: CpuidResult): void {
    out.eax = out.ebx = out.ecx = out.edx = 0;
    const on = (reg: 'eax' | 'ebx' | 'ecx' | 'edx', ...bits: number[]): void => {
      for (const b of bits) {
        if (!this.without.has(`${leaf.toString(16)}.${reg}.${b}`)) out[reg] = (out[reg] | (1 << b)) >>> 0;
      }
    };
    if (leaf === 0) {
      out.eax = 13;
      out.ebx = this.vendor;
    } else if (leaf === 1) {
      on('edx', 0, 2, 3, 4, 5, 6, 7, 8, 11, 13, 15, 24, 25, 26);
      on('ecx', 17, 26, 28);
      out.eax = this.signature;
    } else if (leaf === 7 && subleaf === 0) {
      on('ebx', 0, 1, 7, 10, 20);
      on('ecx', 2, 22);
    } else if (leaf === 13) {
      if (subleaf === 0) out.eax = 7;
      else if (subleaf === 1) on('eax', 0, 1, 2);
    } else if (leaf === 0x80000000) out.eax = 0x80000008;
    else if (leaf === 0x80000001) on('edx', 11, 20, 27, 29);
  }
  tscNow(out: MsrValue): void {
    out.lo = Number(this.tsc & 0xffffffffn);
    out.hi = Number((this.tsc >> 32n) & 0xffffffffn);
  }
  readPhys32(addr: number): number {
    return this.view.getUint32(addr % RAM_SIZE, true);
  }
  random32(): number {
    return 0xdeadbeef;
  }
  modeChanged(): void {
    this.modes++;
    const cs = this.cpu.attr(S.CS);
    const size = this.cpu.longMode && cs & S.ATTR_L ? 2 : cs & S.ATTR_DB && !this.cpu.v86 ? 1 : 0;
    this.cpu.set(S.MODE, size | (this.cpu.attr(S.SS) & S.ATTR_DB ? S.MODE_SS32 : 0));
  }
  attention(): void {
    this.attentions++;
  }
  readonly traps: number[] = [];
  hypercall: SystemEnv['hypercall'] = null;
  shadow(): void {
    this.shadows++;
  }
  trap(dr6: number): void {
    this.traps.push(dr6);
  }
  unblockNmi(): void {
    this.nmis++;
  }

  // ---- Driving ----
  /** Decodes `code` at RIP in the current mode and runs it; a fault leaves FAULT clear again. */
  run(...code: number[]): Outcome {
    const size = this.cpu.get(S.MODE) & 3;
    const status = this.decoder.decode(
      this.insn,
      Uint8Array.from(code),
      0,
      code.length,
      size === 2 ? 64 : size ? 32 : 16,
    );
    if (status !== Status.Ok) throw new Error(`test bytes do not decode: status ${status}`);
    return this.exec();
  }
  /** Runs this.insn. */
  exec(): Outcome {
    this.cpu.f64[(this.cpu.base + S.EA_F64) >> 3] = this.address();
    try {
      const status = this.unit.exec(this.insn);
      if (this.cpu.get(S.FAULT) !== 0) throw new Error('fault left behind');
      return { status, vector: -1, code: 0 };
    } catch (e) {
      if (e !== GUEST_FAULT) throw e;
      const vector = this.cpu.get(S.FAULT) - 1;
      this.cpu.set(S.FAULT, 0);
      return { status: -1, vector, code: this.cpu.get(S.FAULT_CODE) };
    }
  }
  private address(): number {
    const i = this.insn;
    if (![i.kind0, i.kind1].includes(Kind.Mem)) return 0;
    const reg = (n: number): number => (n < 0 ? 0 : this.cpu.getAddr(S.GPR + n * 8));
    let a = reg(i.base) + reg(i.index) * 2 ** i.scale + i.dispLo;
    if (i.addrSize === 2) a &= 0xffff;
    if (i.addrSize === 4) a >>>= 0;
    if (!this.cpu.code64 || i.seg >= 4) a += this.cpu.segBase(i.seg);
    return this.cpu.longMode ? a : a % 2 ** 32;
  }

  /** 16-, 32- and 64-bit values in memory. */
  r16(a: number): number {
    return this.view.getUint16(a, true);
  }
  r32(a: number): number {
    return this.view.getUint32(a, true);
  }
  r64(a: number): bigint {
    return this.view.getBigUint64(a, true);
  }
  w16(a: number, v: number): void {
    this.view.setUint16(a, v, true);
  }
  w32(a: number, v: number): void {
    this.view.setUint32(a, v, true);
  }
  w64(a: number, v: bigint): void {
    this.view.setBigUint64(a, BigInt.asUintN(64, v), true);
  }
  get rip(): number {
    return this.cpu.getAddr(S.RIP);
  }
  set rip(v: number) {
    this.cpu.setAddr(S.RIP, v);
  }
  get sp(): number {
    return this.cpu.getAddr(S.GPR + 32);
  }
  set sp(v: number) {
    this.cpu.setAddr(S.GPR + 32, v);
  }
  reg(n: number): bigint {
    return (BigInt(this.cpu.getHi(S.GPR + n * 8)) << 32n) | BigInt(this.cpu.get(S.GPR + n * 8));
  }
  setReg(n: number, v: bigint): void {
    const u = BigInt.asUintN(64, v);
    this.cpu.set64(S.GPR + n * 8, Number(u & 0xffffffffn), Number(u >> 32n));
  }

  /** Writes an 8-byte descriptor. `type` is bits 40–47, `flags` bits 52–55. */
  desc(sel: number, base: number, limit: number, type: number, flags: number, table = GDT): void {
    const a = table + (sel & 0xfff8);
    this.w32(a, ((base & 0xffff) << 16) | (limit & 0xffff));
    this.w32(a + 4, (base & 0xff000000) | (flags << 20) | (limit & 0xf0000) | (type << 8) | ((base >>> 16) & 0xff));
  }
  /** Writes a gate. */
  gate(at: number, sel: number, offset: number, type: number, low = 0): void {
    this.w32(at, (sel << 16) | (offset & 0xffff));
    this.w32(at + 4, (offset & 0xffff0000) | (type << 8) | low);
  }
  /** Writes a 16-byte gate. */
  gate64(at: number, sel: number, offset: bigint, type: number, ist = 0): void {
    this.gate(at, sel, Number(offset & 0xffffffffn), type, ist);
    this.w32(at + 8, Number((offset >> 32n) & 0xffffffffn));
    this.w32(at + 12, 0);
  }
  seg(n: number, sel: number): void {
    const a = GDT + (sel & 0xfff8);
    const hi = this.r32(a + 4);
    const lo = this.r32(a);
    const base = ((lo >>> 16) | ((hi & 0xff) << 16) | (hi & 0xff000000)) >>> 0;
    const raw = (lo & 0xffff) | (hi & 0xf0000);
    this.cpu.setSeg(n, sel, base, 0, hi & (1 << 23) ? (raw << 12) | 0xfff : raw, (hi >>> 8) & 0xf0ff);
  }

  /** Fills GDT, IDT and TSS; all IDT entries are 32-bit interrupt gates with DPL 0 to HANDLER + vector * 16. */
  tables(): void {
    this.desc(SEL.code32, 0, 0xfffff, 0x9b, 0xc);
    this.desc(SEL.data32, 0, 0xfffff, 0x93, 0xc);
    this.desc(SEL.ucode32, 0, 0xfffff, 0xfb, 0xc);
    this.desc(SEL.udata32, 0, 0xfffff, 0xf3, 0xc);
    this.desc(SEL.code16, 0, 0xffff, 0x9b, 0);
    this.desc(SEL.data16, 0, 0xffff, 0x93, 0);
    this.desc(SEL.code64, 0, 0xfffff, 0x9b, 0xa);
    this.desc(SEL.conf32, 0, 0xfffff, 0x9f, 0xc);
    this.desc(SEL.ucode64, 0, 0xfffff, 0xfb, 0xa);
    this.desc(SEL.tss, TSS, 0x1ff, 0x89, 0);
    this.desc(SEL.tss2, TSS2, 0x67, 0x89, 0);
    this.desc(SEL.ldt, LDT, 0xff, 0x82, 0);
    this.desc(SEL.ro, 0, 0xfffff, 0x91, 0xc);
    this.desc(SEL.np, 0, 0xfffff, 0x13, 0xc);
    this.desc(SEL.execOnly, 0, 0xfffff, 0x99, 0xc);
    this.desc(SEL.down, 0, 0xfff, 0x97, 0x4);
    this.gate(GDT + SEL.taskGate, SEL.tss2, 0, 0xe5);
    this.cpu.set64(S.GDT_BASE, GDT, 0);
    this.cpu.set(S.GDT_LIMIT, 0xff);
    this.cpu.set64(S.IDT_BASE, IDT, 0);
    this.cpu.set(S.IDT_LIMIT, 0x7ff);
    for (let v = 0; v < 256; v++) this.gate(IDT + v * 8, SEL.code32, HANDLER + v * 16, 0x8e);
    this.w32(TSS + 4, STACK0);
    this.w32(TSS + 8, SEL.data32);
    this.w16(TSS + 0x66, 0x68);
  }

  /** 32-bit protected mode at privilege `cpl`, paging off, flat segments. */
  protected(cpl = 0): this {
    this.tables();
    const cpu = this.cpu;
    cpu.set(S.CR0, 0x11);
    for (const n of [S.ES, S.SS, S.DS, S.FS, S.GS]) this.seg(n, cpl === 3 ? SEL.udata32 : SEL.data32);
    this.seg(S.CS, cpl === 3 ? SEL.ucode32 : SEL.code32);
    cpu.setSeg(S.TR, SEL.tss, TSS, 0, 0x1ff, 0x8b);
    this.mem[GDT + SEL.tss + 5] = 0x8b;
    return this.begin(cpl);
  }

  /** What all protected modes begin with: no LDT, flags clear, code and stack in their places. */
  private begin(cpl: number): this {
    const { cpu } = this;
    cpu.setSeg(S.LDTR, 0, 0, 0, 0, S.ATTR_UNUSABLE);
    cpu.set(S.CPL, cpl);
    cpu.setFlags(2);
    this.rip = CODE;
    this.sp = cpl === 3 ? STACK3 : STACK0 - 0x100;
    this.modeChanged();
    return this;
  }

  /** 64-bit mode at privilege `cpl`; `compat` runs 32-bit code instead. */
  long(cpl = 0, compat = false): this {
    this.tables();
    const cpu = this.cpu;
    cpu.set(S.CR0, 0x80000011);
    cpu.set(S.CR4, 0x20);
    cpu.set(S.EFER, 0xd01);
    for (const n of [S.ES, S.SS, S.DS, S.FS, S.GS]) this.seg(n, cpl === 3 ? SEL.udata32 : SEL.data32);
    if (compat) this.seg(S.CS, cpl === 3 ? SEL.ucode32 : SEL.code32);
    else this.seg(S.CS, cpl === 3 ? SEL.ucode64 : SEL.code64);
    cpu.setSeg(S.TR, SEL.tss, TSS, 0, 0x1ff, 0x8b);
    for (let o = 0; o < 0x68; o += 4) this.w32(TSS + o, 0);
    this.w64(TSS + 4, BigInt(STACK0));
    for (let n = 1; n < 8; n++) this.w64(TSS + 0x1c + n * 8, BigInt(0xb000 + n * 0x1000));
    this.w16(TSS + 0x66, 0x68);
    for (let v = 0; v < 64; v++) this.gate64(IDT + v * 16, SEL.code64, BigInt(HANDLER + v * 16), 0x8e);
    cpu.set(S.IDT_LIMIT, 0x3ff);
    return this.begin(cpl);
  }

  /** Real mode at 0000:CODE with a stack at 0000:8000. */
  real(): this {
    const cpu = this.cpu;
    for (let n = 0; n < 6; n++) cpu.setSeg(n, 0, 0, 0, 0xffff, n === S.CS ? 0x9b : 0x93);
    cpu.set(S.IDT_LIMIT, 0x3ff);
    for (let v = 0; v < 256; v++) this.w32(v * 4, (0x0100 << 16) | (v * 4));
    this.rip = CODE;
    this.sp = 0x8000;
    this.modeChanged();
    return this;
  }

  /** Virtual-8086 mode at 0400:0000 with a stack at 0900:0100. */
  v86(ioplValue = 0): this {
    this.protected(3);
    const cpu = this.cpu;
    cpu.setFlags(2 | S.FLAG_VM | (ioplValue << 12) | S.FLAG_IF);
    for (let n = 0; n < 6; n++) cpu.setSeg(n, 0x600 + n, (0x600 + n) << 4, 0, 0xffff, 0xf3);
    cpu.setSeg(S.CS, CODE >> 4, CODE, 0, 0xffff, 0xf3);
    cpu.setSeg(S.SS, 0x900, 0x9000, 0, 0xffff, 0xf3);
    this.rip = 0;
    this.sp = 0x100;
    this.modeChanged();
    return this;
  }

  /** A digest of registers, segments and tables: equal when nothing changed. */
  digest(): string {
    const parts: number[] = [];
    for (let o = 0; o < 616; o += 4) parts.push(this.cpu.get(o));
    return parts.join(' ');
  }
}

export const NEXT: Outcome = { status: S.ST_NEXT, vector: -1, code: 0 };
export const JUMP: Outcome = { status: S.ST_JUMP, vector: -1, code: 0 };
export function fault(vector: number, code = 0): Outcome {
  return { status: -1, vector, code };
}
