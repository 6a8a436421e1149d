// vCPU states at which guests begin: the reset vector, flat protected mode, identity-mapped long mode.
// Intel SDM vol. 3A §10.1 (reset), table 10-1; Linux Documentation/arch/x86/boot.rst; PVH and Multiboot ask for the same.
import type { GuestMemory, SegmentState, VcpuStateV1 } from '@hyve/core';

/** What a loader gives back: the boot processor's state and what lies where. */
export interface EntryState {
  /** Full state for `Vcpu.setState`. */
  readonly state: VcpuStateV1;
  /** Mode of the processor at entry. */
  readonly mode: 'real' | '32' | '64';
  /** Linear address of the first instruction. */
  readonly entry: number;
  /** Everything put into guest memory. */
  readonly placed: readonly { readonly name: string; readonly base: number; readonly size: number }[];
}

const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;
const CR0_NE = 1n << 5n;
const CR0_NW = 1n << 29n;
const CR0_CD = 1n << 30n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;

const MSR_SYSENTER = [0x174, 0x175, 0x176];
const MSR_PAT = 0x277;
const PAT_RESET = 0x0007040600070406n;
const MSR_SYSCALL = [0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102];

// Attributes in the layout of SegmentState.attr: type and presence low, AVL L D G in bits 12-15.
const CODE16 = 0x009b;
const DATA16 = 0x0093;
const CODE32 = 0xc09b;
const CODE64 = 0xa09b;
const DATA32 = 0xc093;
const LDT = 0x0082;
const BUSY_TSS = 0x008b;

function segment(selector: number, base: bigint, limit: number, attr: number): SegmentState {
  return { selector, base, limit, attr };
}

/** XSAVE area with x87 and SSE state: control word, abridged tags (1: in use), MXCSR 0x1F80; both components present. */
function xsaveArea(fcw: number, tags: number): Uint8Array {
  const a = new Uint8Array(576);
  const v = new DataView(a.buffer);
  v.setUint16(0, fcw, true);
  a[4] = tags;
  v.setUint32(24, 0x1f80, true);
  a[512] = 3;
  return a;
}

/**
 * The state after power-on reset: real mode at F000:FFF0 with the code base at 0xFFFF0000, caches off.
 * @param o.signature processor signature that EDX holds (CPUID leaf 1 EAX). Default 0x106A5
 */
export function powerOnState(o: { readonly signature?: number } = {}): VcpuStateV1 {
  const gpr = new Array<bigint>(16).fill(0n);
  gpr[2] = BigInt(o.signature ?? 0x106a5);
  const data = (): SegmentState => segment(0, 0n, 0xffff, DATA16);
  return {
    v: 1,
    gpr,
    rip: 0xfff0n,
    rflags: 2n,
    cr0: CR0_CD | CR0_NW | CR0_ET,
    cr2: 0n,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
    xcr0: 1n,
    dr: [0n, 0n, 0n, 0n, 0xffff0ff0n, 0x400n],
    segments: [
      data(),
      segment(0xf000, 0xffff0000n, 0xffff, CODE16),
      data(),
      data(),
      data(),
      data(),
      segment(0, 0n, 0xffff, LDT),
      segment(0, 0n, 0xffff, BUSY_TSS),
    ],
    gdtr: { base: 0n, limit: 0xffff },
    idtr: { base: 0n, limit: 0xffff },
    xsave: xsaveArea(0x40, 0xff),
    msrs: [...[...MSR_SYSENTER, ...MSR_SYSCALL].map((i): [number, bigint] => [i, 0n]), [MSR_PAT, PAT_RESET]],
    activity: 'running',
    interruptShadow: false,
    nmiBlocked: false,
    nmiPending: false,
  };
}

/** Selectors of the table {@link writeFlatGdt} makes: those of the Linux boot protocol. */
export const FLAT_CODE = 0x10;
/** Data selector likewise. */
export const FLAT_DATA = 0x18;
/** Bytes of the table: in long mode the TSS descriptor takes two slots. */
export const FLAT_GDT_BYTES = 48;
const FLAT_TSS = 0x20;

/** Null, null, code, data, TSS: flat segments in the given mode. */
export function writeFlatGdt(memory: GuestMemory, at: number, mode: '32' | '64'): void {
  const table = new Uint8Array(FLAT_GDT_BYTES);
  const v = new DataView(table.buffer);
  v.setUint32(FLAT_CODE, 0xffff, true);
  v.setUint32(FLAT_CODE + 4, mode === '64' ? 0x00af9b00 : 0x00cf9b00, true);
  v.setUint32(FLAT_DATA, 0xffff, true);
  v.setUint32(FLAT_DATA + 4, 0x00cf9300, true);
  v.setUint32(FLAT_TSS, 0x67, true);
  v.setUint32(FLAT_TSS + 4, 0x00008b00, true);
  memory.load(at, table);
}

/** What {@link protectedModeState} and {@link longModeState} take. */
export interface FlatEntry {
  /** Linear address of the first instruction. */
  readonly entry: number;
  /** Where the flat GDT lies. */
  readonly gdt: number;
  /** RAX. Default 0. */
  readonly rax?: number;
  /** RBX. Default 0. */
  readonly rbx?: number;
  /** RSI. Default 0. */
  readonly rsi?: number;
  /** RSP. Default 0: no stack. */
  readonly rsp?: number;
}

function flatState(o: FlatEntry, code: number): VcpuStateV1 {
  const s = powerOnState();
  const data = (): SegmentState => segment(FLAT_DATA, 0n, 0xffffffff, DATA32);
  s.gpr.fill(0n);
  s.gpr[0] = BigInt(o.rax ?? 0);
  s.gpr[3] = BigInt(o.rbx ?? 0);
  s.gpr[4] = BigInt(o.rsp ?? 0);
  s.gpr[6] = BigInt(o.rsi ?? 0);
  s.rip = BigInt(o.entry);
  s.cr0 = CR0_PE | CR0_ET | CR0_NE;
  s.segments = [
    data(),
    segment(FLAT_CODE, 0n, 0xffffffff, code),
    data(),
    data(),
    data(),
    data(),
    segment(0, 0n, 0xffff, LDT),
    segment(FLAT_TSS, 0n, 0x67, BUSY_TSS),
  ];
  s.gdtr = { base: BigInt(o.gdt), limit: FLAT_GDT_BYTES - 1 };
  s.idtr = { base: 0n, limit: 0 };
  s.xsave = xsaveArea(0x37f, 0);
  return s;
}

/** Flat 32-bit protected mode, no paging, interrupts off: Linux 32-bit boot protocol, PVH, Multiboot. */
export function protectedModeState(o: FlatEntry): VcpuStateV1 {
  return flatState(o, CODE32);
}

/** Long mode under the page tables at `cr3`, interrupts off: Linux 64-bit boot protocol. */
export function longModeState(o: FlatEntry & { readonly cr3: number }): VcpuStateV1 {
  const s = flatState(o, CODE64);
  s.cr0 |= CR0_PG;
  s.cr3 = BigInt(o.cr3);
  s.cr4 = CR4_PAE;
  s.efer = EFER_LME | EFER_LMA;
  return s;
}

/** Bytes {@link writeIdentityTables} fills: PML4, PDPT, four page directories. */
export const IDENTITY_TABLE_BYTES: number = 6 * 4096;

/** Page tables that map 0–4 GiB onto itself in 2 MiB pages, writable. */
export function writeIdentityTables(memory: GuestMemory, at: number): void {
  const t = new Uint8Array(IDENTITY_TABLE_BYTES);
  const v = new DataView(t.buffer);
  const PRESENT_WRITE = 3;
  const LARGE = 0x80;
  v.setUint32(0, (at + 0x1000) | PRESENT_WRITE, true);
  for (let i = 0; i < 4; i++) v.setUint32(0x1000 + 8 * i, (at + 0x2000 + 0x1000 * i) | PRESENT_WRITE, true);
  for (let i = 0; i < 2048; i++) v.setUint32(0x2000 + 8 * i, i * 0x200000 + (LARGE | PRESENT_WRITE), true);
  memory.load(at, t);
}
