// A small assembler for test programs and boot stubs, driven by the opcode table. It knows every row except absolute
// 64-bit offsets (A0–A3); operands are written as the table lists them, destination first.
import { HyveError } from '@hyve/core';
import { Kind, type Mode } from './insn.ts';
import { Method, type OperandForm, parseOperand, SIZES } from './operand.ts';
import { OP, type OpName } from './ops.ts';
import { PREFIX_66, PREFIX_F2, PREFIX_F3 } from './row.ts';
import { ROWS, type Row } from './table.ts';

type High = 'ah' | 'ch' | 'dh' | 'bh';
type Byte = 'al' | 'cl' | 'dl' | 'bl' | 'spl' | 'bpl' | 'sil' | 'dil';
type Word = 'ax' | 'cx' | 'dx' | 'bx' | 'sp' | 'bp' | 'si' | 'di';
type Upper = 'r8' | 'r9' | 'r10' | 'r11' | 'r12' | 'r13' | 'r14' | 'r15';
type Digit = '0' | '1' | '2' | '3' | '4' | '5' | '6' | '7';
type Number16 = Digit | '8' | '9' | '10' | '11' | '12' | '13' | '14' | '15';

/** A register by its usual name. */
export type Register =
  | Byte
  | High
  | Word
  | `e${Word}`
  | `r${Word}`
  | Upper
  | `${Upper}${'b' | 'w' | 'd'}`
  | 'es'
  | 'cs'
  | 'ss'
  | 'ds'
  | 'fs'
  | 'gs'
  | 'cr0'
  | 'cr2'
  | 'cr3'
  | 'cr4'
  | 'cr8'
  | `dr${Digit}`
  | `mm${Digit}`
  | `st${Digit}`
  | `xmm${Number16}`
  | `ymm${Number16}`;

/** Condition of a jump, SETcc or CMOVcc. */
export type Condition = (typeof CONDITIONS)[number][number];

/** The address of a label, plus a constant; made by {@link ref}. */
export interface Ref {
  /** The label's name. */
  readonly label: string;
  /** Bytes added to its address. */
  readonly add: number;
}

/** A memory operand; made by {@link mem} and its sized sisters. */
export interface Memory {
  /** Bytes accessed; 0 leaves it to the other operand. */
  readonly size: number;
  /** Segment override. */
  readonly seg?: 'es' | 'cs' | 'ss' | 'ds' | 'fs' | 'gs';
  /** Base register. */
  readonly base?: Register;
  /** Index register. */
  readonly index?: Register;
  /** What the index is multiplied by; default 1. */
  readonly scale?: 1 | 2 | 4 | 8;
  /** Displacement. A label without base and index becomes rIP-relative in 64-bit mode. */
  readonly disp?: number | Ref;
}

/** A far pointer: selector and offset. */
export interface Far {
  /** Segment selector, 16 bits. */
  readonly selector: number;
  /** Offset in the segment. */
  readonly offset: number | Ref;
}

/** Anything an instruction may take. A string that is no register is an error: labels are written `ref('name')`. */
export type Operand = Register | Memory | Ref | Far | number | bigint;

/** Parts of an address, or just a base register, a number or a label. */
export type Address = Omit<Memory, 'size'> | Register | number | Ref;

const CONDITIONS = [
  ['o'],
  ['no'],
  ['b', 'c', 'nae'],
  ['ae', 'nc', 'nb'],
  ['e', 'z'],
  ['ne', 'nz'],
  ['be', 'na'],
  ['a', 'nbe'],
  ['s'],
  ['ns'],
  ['p', 'pe'],
  ['np', 'po'],
  ['l', 'nge'],
  ['ge', 'nl'],
  ['le', 'ng'],
  ['g', 'nle'],
] as const;

interface RegisterInfo {
  readonly kind: number;
  readonly number: number;
  readonly size: number;
}

const REGISTERS: ReadonlyMap<string, RegisterInfo> = buildRegisters();

function buildRegisters(): Map<string, RegisterInfo> {
  const out = new Map<string, RegisterInfo>();
  const add = (kind: number, size: number, names: readonly string[]): void => {
    names.forEach((name, number) => {
      out.set(name, { kind, number, size });
    });
  };
  const count = (n: number, name: (i: number) => string): string[] => Array.from({ length: n }, (_, i) => name(i));
  const upper = (suffix: string): string[] => count(8, (i) => `r${i + 8}${suffix}`);
  const words = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'];
  add(Kind.Gpr, 1, ['al', 'cl', 'dl', 'bl', 'spl', 'bpl', 'sil', 'dil', ...upper('b')]);
  add(Kind.GprHigh, 1, ['ah', 'ch', 'dh', 'bh']);
  add(Kind.Gpr, 2, [...words, ...upper('w')]);
  add(Kind.Gpr, 4, [...words.map((w) => `e${w}`), ...upper('d')]);
  add(Kind.Gpr, 8, [...words.map((w) => `r${w}`), ...upper('')]);
  add(Kind.Seg, 2, ['es', 'cs', 'ss', 'ds', 'fs', 'gs']);
  add(
    Kind.Cr,
    0,
    count(9, (i) => `cr${i}`),
  );
  add(
    Kind.Dr,
    0,
    count(8, (i) => `dr${i}`),
  );
  add(
    Kind.Mmx,
    8,
    count(8, (i) => `mm${i}`),
  );
  add(
    Kind.St,
    10,
    count(8, (i) => `st${i}`),
  );
  add(
    Kind.Xmm,
    16,
    count(16, (i) => `xmm${i}`),
  );
  add(
    Kind.Ymm,
    32,
    count(16, (i) => `ymm${i}`),
  );
  return out;
}

/** The address of a label, plus `add` bytes, as an immediate, a displacement or data. */
export function ref(label: string, add = 0): Ref {
  return { label, add };
}

function memory(size: number, address: Address, disp: number | Ref | undefined): Memory {
  if (typeof address === 'string') return { size, base: address, disp: disp ?? 0 };
  if (typeof address === 'number' || 'label' in address) return { size, disp: address };
  return { ...address, size };
}

/** Memory of the width that the other operand asks for. */
export function mem(address: Address, disp?: number | Ref): Memory {
  return memory(0, address, disp);
}

/** A byte in memory. */
export function mem8(address: Address, disp?: number | Ref): Memory {
  return memory(1, address, disp);
}

/** A word in memory. */
export function mem16(address: Address, disp?: number | Ref): Memory {
  return memory(2, address, disp);
}

/** A doubleword in memory. */
export function mem32(address: Address, disp?: number | Ref): Memory {
  return memory(4, address, disp);
}

/** A quadword in memory. */
export function mem64(address: Address, disp?: number | Ref): Memory {
  return memory(8, address, disp);
}

/** 16 bytes in memory. */
export function mem128(address: Address, disp?: number | Ref): Memory {
  return memory(16, address, disp);
}

const isMemory = (o: Operand): o is Memory => typeof o === 'object' && 'size' in o;
const isFar = (o: Operand): o is Far => typeof o === 'object' && 'selector' in o;
const isRef = (o: unknown): o is Ref => typeof o === 'object' && o !== null && 'label' in o;

interface Form {
  readonly row: Row;
  /** Operands that are written; string instructions and the like imply theirs. */
  readonly written: readonly OperandForm[];
}

const STRINGS: readonly number[] = [Method.X, Method.Y];
const IMPLIED: readonly number[] = [Method.MemBx, Method.MemDi];
const FORMS: ReadonlyMap<number, readonly Form[]> = Map.groupBy(
  ROWS.map((row): Form => {
    const operands = row.operands.map(parseOperand);
    const isString = operands.some((o) => STRINGS.includes(o.method));
    return { row, written: isString ? [] : operands.filter((o) => !IMPLIED.includes(o.method)) };
  }),
  (form) => form.row.op,
);

/** What the encoder of one instruction needs to know about its place. */
interface Place {
  readonly mode: Mode;
  readonly address: number;
  readonly resolve: (r: Ref) => bigint;
  /** Short branches are allowed. */
  readonly short: boolean;
}

class Draft {
  rex = 0;
  needsRex = false;
  forbidsRex = false;
  vvvv = 0;
  modrm = -1;
  opcodeReg = 0;
  addressPrefix = false;
  seg = -1;
  readonly address: number[] = [];
  readonly immediates: number[] = [];
  /** A displacement to be made relative to the end of the instruction. */
  relative: { from: 'address' | 'immediate'; target: bigint; width: number } | null = null;
}

function little(value: bigint, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, i) => Number(BigInt.asUintN(8, value >> BigInt(8 * i))));
}

function fits(value: bigint, bytes: number): boolean {
  const bits = BigInt(bytes * 8);
  return value >= -(1n << (bits - 1n)) && value < 1n << bits;
}

function fitsSigned(value: bigint, bytes: number, within: number): boolean {
  const wrapped = BigInt.asIntN(within * 8, value);
  return fits(value, within) && BigInt.asIntN(bytes * 8, wrapped) === wrapped;
}

const UNSIZED: readonly string[] = ['M', 'Ms', 'Mp', 'Ma', 'Mfx', 'Me', 'Mn'];

function encodeAddress(d: Draft, m: Memory, place: Place): boolean {
  const base = m.base === undefined ? undefined : REGISTERS.get(m.base);
  const index = m.index === undefined ? undefined : REGISTERS.get(m.index);
  const widths = [base, index].filter((r) => r?.kind === Kind.Gpr).map((r) => r?.size);
  const addrSize = widths[0] ?? (place.mode === 64 ? 8 : place.mode === 32 ? 4 : 2);
  if (widths.some((w) => w !== addrSize) || addrSize === 1) return false;
  if ((base !== undefined && base.kind !== Kind.Gpr) || (addrSize === 8 && place.mode !== 64)) return false;
  if (place.mode === 64 && addrSize === 2) return false;
  d.addressPrefix = addrSize !== (place.mode === 64 ? 8 : place.mode === 32 ? 4 : 2);
  if (m.seg !== undefined)
    d.seg = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65][['es', 'cs', 'ss', 'ds', 'fs', 'gs'].indexOf(m.seg)];
  const labelled = isRef(m.disp);
  const disp = isRef(m.disp) ? place.resolve(m.disp) : BigInt(m.disp ?? 0);
  if (addrSize === 2) {
    const pair = [m.base, m.index]
      .filter((r) => r !== undefined)
      .sort()
      .join('+');
    const rm = ['bx+si', 'bx+di', 'bp+si', 'bp+di', 'si', 'di', 'bp', 'bx'].indexOf(pair);
    if (pair === '') {
      d.modrm = 6;
      d.address.push(...little(disp, 2));
      return fits(disp, 2);
    }
    if (rm < 0 || (m.scale ?? 1) !== 1) return false;
    if (disp === 0n && !labelled && rm !== 6) d.modrm = rm;
    else if (fitsSigned(disp, 1, 2) && !labelled) {
      d.modrm = 0x40 | rm;
      d.address.push(...little(disp, 1));
    } else {
      d.modrm = 0x80 | rm;
      d.address.push(...little(disp, 2));
    }
    return fits(disp, 2);
  }
  const scale = [1, 2, 4, 8].indexOf(m.scale ?? 1);
  if (index !== undefined && index.kind === Kind.Gpr && index.number === 4) return false;
  if (base === undefined && index === undefined) {
    if (place.mode !== 64) {
      d.modrm = 5;
      d.address.push(...little(disp, 4));
      return fits(disp, 4);
    }
    if (labelled) {
      d.modrm = 5;
      d.relative = { from: 'address', target: disp, width: 4 };
      return true;
    }
    d.modrm = 4;
    d.address.push(0x25, ...little(disp, 4));
    return fitsSigned(disp, 4, 8);
  }
  if (!fitsSigned(disp, 4, addrSize)) return false;
  const small = fitsSigned(disp, 1, addrSize) && !labelled;
  const b = base === undefined ? 5 : base.number & 7;
  const none = disp === 0n && !labelled && b !== 5;
  const mod = base === undefined || none ? 0 : small ? 0x40 : 0x80;
  const size = base === undefined ? 4 : none ? 0 : small ? 1 : 4;
  if (index !== undefined || b === 4) {
    const x = index?.number ?? 4;
    d.modrm = mod | 4;
    d.address.push((scale << 6) | ((x & 7) << 3) | b);
    d.rex |= (x >> 3) << 1;
  } else d.modrm = mod | b;
  if (base !== undefined) d.rex |= base.number >> 3;
  d.address.push(...little(disp, size));
  return true;
}

/** Fits one operand to one form; false when it does not. */
function match(
  d: Draft,
  form: Form,
  n: number,
  operands: readonly Operand[],
  opSize: number,
  l: number,
  place: Place,
): boolean {
  const o = form.written[n];
  const operand = operands[n];
  const at = (l << 2) | Math.log2(opSize);
  const regSize = SIZES[(o.regSize << 3) | at];
  const memSize = SIZES[(o.memSize << 3) | at];
  const r = typeof operand === 'string' ? REGISTERS.get(operand) : undefined;
  const general = r !== undefined && (r.kind === Kind.Gpr || r.kind === Kind.GprHigh) && r.size === regSize;
  // 32-byte types are YMM registers, all other vector types XMM.
  const vector = r !== undefined && r.kind === (regSize === 32 ? Kind.Ymm : Kind.Xmm);
  const take = (info: RegisterInfo): number => {
    if (info.kind === Kind.GprHigh) {
      d.forbidsRex = true;
      return info.number + 4;
    }
    if (info.size === 1 && info.number >= 4 && info.number < 8) d.needsRex = true;
    return info.number;
  };
  const setReg = (number: number): true => {
    d.rex |= (number >> 3) << 2;
    d.modrm = Math.max(d.modrm, 0) | ((number & 7) << 3);
    return true;
  };
  const setRm = (number: number): true => {
    d.rex |= number >> 3;
    d.modrm = Math.max(d.modrm, 0) | 0xc0 | (number & 7);
    return true;
  };
  const address = (): boolean => {
    if (!isMemory(operand)) return false;
    const isGather = o.method === Method.VsibX || o.method === Method.VsibY;
    if (!isGather && operand.index !== undefined && REGISTERS.get(operand.index)?.kind !== Kind.Gpr) return false;
    const sizedByRegister = operands.some((other) => typeof other === 'string');
    const loose = UNSIZED.includes(form.row.operands[n]) || sizedByRegister;
    if (operand.size === 0 ? !loose : operand.size !== memSize && !UNSIZED.includes(form.row.operands[n])) return false;
    const reg = d.modrm < 0 ? 0 : d.modrm & 0x38;
    if (!encodeAddress(d, operand, place)) return false;
    d.modrm |= reg;
    return true;
  };
  const immediate = (bytes: number, ok: (v: bigint) => boolean, allowRef: boolean): boolean => {
    if (isRef(operand)) {
      if (!allowRef) return false;
      d.immediates.push(...little(place.resolve(operand), bytes));
      return true;
    }
    if (typeof operand !== 'number' && typeof operand !== 'bigint') return false;
    const value = BigInt(operand);
    d.immediates.push(...little(value, bytes));
    return ok(value);
  };
  const immBytes = Math.min(opSize, 4);
  switch (o.method) {
    case Method.E:
      return general && r !== undefined ? setRm(take(r)) : address();
    case Method.G:
      return general && r !== undefined && setReg(take(r));
    case Method.M:
      return address();
    case Method.VsibX:
    case Method.VsibY: {
      const index = isMemory(operand) && operand.index !== undefined ? REGISTERS.get(operand.index)?.kind : Kind.None;
      return index === (o.method === Method.VsibX ? Kind.Xmm : Kind.Ymm) && address();
    }
    case Method.R:
      return general && r !== undefined && setRm(take(r));
    case Method.Z:
      if (!general || r === undefined) return false;
      d.opcodeReg = take(r);
      d.rex |= d.opcodeReg >> 3;
      return true;
    case Method.Ib:
      return immediate(1, (v) => fits(v, 1), false);
    case Method.Ibs:
      return immediate(1, (v) => fitsSigned(v, 1, opSize), false);
    case Method.Iw:
      return immediate(2, (v) => fits(v, 2), true);
    case Method.Iz:
      return immediate(immBytes, (v) => fits(v, opSize) && (opSize < 8 || fitsSigned(v, 4, 8)), opSize < 8);
    case Method.Iv:
      return immediate(opSize, (v) => fits(v, opSize), true);
    case Method.One:
      return operand === 1;
    case Method.Jb:
    case Method.Jz: {
      const hasLong = form.row.op === OP.JMP || form.row.op === OP.JCC;
      if (o.method === Method.Jb && hasLong && !place.short) return false;
      if (!isRef(operand) && typeof operand !== 'number' && typeof operand !== 'bigint') return false;
      const target = isRef(operand) ? place.resolve(operand) : BigInt(operand);
      d.relative = { from: 'immediate', target, width: o.method === Method.Jb ? 1 : immBytes };
      return true;
    }
    case Method.A: {
      if (!isFar(operand)) return false;
      const offset = isRef(operand.offset) ? place.resolve(operand.offset) : BigInt(operand.offset);
      d.immediates.push(...little(offset, immBytes), ...little(BigInt(operand.selector), 2));
      return fits(offset, immBytes);
    }
    case Method.S:
      return r?.kind === Kind.Seg && setReg(r.number);
    case Method.FixedSeg:
      return r?.kind === Kind.Seg && r.number === o.reg;
    case Method.C:
      return r?.kind === Kind.Cr && setReg(r.number);
    case Method.D:
      return r?.kind === Kind.Dr && setReg(r.number);
    case Method.V:
      return vector && r !== undefined && setReg(r.number);
    case Method.W:
      return vector && r !== undefined ? setRm(r.number) : address();
    case Method.P:
      return r?.kind === Kind.Mmx && setReg(r.number);
    case Method.Q:
      return r?.kind === Kind.Mmx ? setRm(r.number) : address();
    case Method.H:
      d.vvvv = r?.number ?? 0;
      return vector;
    case Method.B:
      d.vvvv = r?.number ?? 0;
      return general;
    case Method.L:
      d.immediates.push((r?.number ?? 0) << 4);
      return vector;
    case Method.Fixed:
      return general && r?.kind === Kind.Gpr && r.number === o.reg;
    case Method.St0:
      return operand === 'st0';
    case Method.Sti:
      return r?.kind === Kind.St && setRm(r.number);
    case Method.Xmm0:
      return operand === 'xmm0';
    default:
      return false;
  }
}

interface SizeChoice {
  readonly size: number;
  readonly use66: boolean;
  readonly w: number;
}

/** Operand sizes a row can have in a mode, with what it takes to get them. */
function sizeChoices(row: Row, mode: Mode): SizeChoice[] {
  const { w, vex, prefixes } = row.encoding;
  const plain = (size: number): SizeChoice => ({ size, use66: false, w: Math.max(w, 0) });
  if (vex) {
    if (mode !== 64) return [plain(4)];
    return [
      { size: 4, use66: false, w: 0 },
      { size: 8, use66: false, w: 1 },
    ].filter((c) => w < 0 || c.w === w);
  }
  const fixed66 = prefixes === PREFIX_66;
  if (mode !== 64) {
    if (w === 1) return [];
    const normal = mode === 32 ? 4 : 2;
    if (row.sizeRule === 'native') return [plain(4)];
    return fixed66 ? [plain(normal)] : [plain(normal), { size: 6 - normal, use66: true, w: 0 }];
  }
  if (row.sizeRule === 'native' || row.sizeRule === 'f64') return [plain(8)];
  const wide = { size: 8, use66: false, w: 1 };
  const half = { size: 2, use66: true, w: 0 };
  const all = row.sizeRule === 'd64' ? [plain(8), half] : w === 1 ? [wide] : [plain(4), half, wide];
  return all.filter((c) => (w !== 0 || c.w === 0) && !(fixed66 && c.use66));
}

function finish(d: Draft, form: Form, choice: SizeChoice, l: number, cc: number, place: Place): number[] | null {
  const { row } = form;
  const e = row.encoding;
  const long = place.mode === 64;
  let modrm = d.modrm;
  if (e.modrm) {
    if (modrm < 0) modrm = 0;
    if (e.reg >= 0) modrm |= e.reg << 3;
    if (e.rm >= 0) modrm |= e.rm;
    if (e.mod3 === 1) modrm |= 0xc0;
    if (e.mod3 === 0 && modrm >= 0xc0) return null;
    if (row.operands.some((o) => o.includes('!'))) modrm |= 0xc0;
  }
  const rex = d.rex | (choice.w << 3);
  const head: number[] = [];
  if (d.seg >= 0) head.push(d.seg);
  if (d.addressPrefix) head.push(0x67);
  const opcode = e.opcode + (e.span === 8 ? d.opcodeReg & 7 : e.span === 16 ? cc : 0);
  if (e.vex) {
    if (!long && ((rex & 7) !== 0 || d.vvvv > 7)) return null;
    const last = ((d.vvvv ^ 15) << 3) | (l << 2) | Math.log2(e.prefixes);
    if (e.map === 1 && (rex & 0xb) === 0) head.push(0xc5, ((rex & 4) === 0 ? 0x80 : 0) | last);
    else head.push(0xc4, (((rex & 7) ^ 7) << 5) | e.map, ((rex & 8) << 4) | last);
    head.push(opcode);
  } else {
    if (choice.use66 && !row.byte) head.push(0x66);
    if (e.prefixes === PREFIX_66) head.push(0x66);
    else if (e.prefixes === PREFIX_F3) head.push(0xf3);
    else if (e.prefixes === PREFIX_F2) head.push(0xf2);
    if (rex !== 0 || d.needsRex) {
      if (!long || d.forbidsRex) return null;
      head.push(0x40 | rex);
    }
    head.push(...[[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]][e.map], opcode);
  }
  if (e.modrm) head.push(modrm);
  const r = d.relative;
  if (r === null) return [...head, ...d.address, ...d.immediates];
  const length = head.length + d.address.length + d.immediates.length + r.width;
  let distance = r.target - BigInt(place.address + length);
  if (r.from === 'immediate') distance = BigInt.asIntN(choice.size * 8, distance);
  if (!fits(distance, r.width) || distance >= 1n << BigInt(r.width * 8 - 1)) return null;
  const field = little(distance, r.width);
  return r.from === 'address'
    ? [...head, ...d.address, ...field, ...d.immediates]
    : [...head, ...field, ...d.immediates];
}

/** Shortest encoding of an instruction, or null when no row takes these operands. */
function encode(op: number, operands: readonly Operand[], size: number, cc: number, place: Place): number[] | null {
  let best: number[] | null = null;
  for (const form of FORMS.get(op) ?? []) {
    const { row } = form;
    if (form.written.length !== operands.length || row.modes === (place.mode === 64 ? 'i64' : 'o64')) continue;
    if (size !== 0 && row.byte !== (size === 1)) continue;
    if (size === 0 && row.rep !== '') continue;
    // Without a register or sized memory to tell the size, and none asked for, it is that of the mode.
    const choices = sizeChoices(row, place.mode);
    for (const choice of size === 0 && !operands.some(pinsSize) ? choices.slice(0, 1) : choices) {
      if (row.byte ? choice.use66 || choice.w === 1 : size !== 0 && choice.size !== size) continue;
      for (const l of row.encoding.vex && row.encoding.l < 0 ? [0, 1] : [Math.max(row.encoding.l, 0)]) {
        const d = new Draft();
        if (!operands.every((_, n) => match(d, form, n, operands, choice.size, l, place))) continue;
        const bytes = finish(d, form, choice, l, cc, place);
        if (bytes !== null && (best === null || bytes.length < best.length)) best = bytes;
      }
    }
  }
  return best;
}

function pinsSize(o: Operand): boolean {
  return typeof o === 'string' ? REGISTERS.get(o)?.kind !== Kind.Seg : isMemory(o) && o.size !== 0;
}

interface Item {
  /** Bytes at an address; called once per pass. */
  readonly emit: (address: number, resolve: (r: Ref) => bigint) => readonly number[];
  readonly label: string;
}

/**
 * Assembles small programs. Every method appends and returns the assembler itself; `assemble` gives the bytes.
 * Branches to labels are short where they reach.
 *
 * @example
 * const code = new Asm({ mode: 16, origin: 0x7c00 })
 *   .mov('dx', 0x3f8).mov('si', ref('text'))
 *   .label('next').lods(1).test('al', 'al').j('z', 'stop').out('dx', 'al').jmp('next')
 *   .label('stop').hlt()
 *   .label('text').text('hello').db(0)
 *   .padTo(510).dw(0xaa55)
 *   .assemble();
 */
export class Asm {
  private current: Mode;
  private readonly origin: number;
  private readonly items: Item[] = [];
  private readonly labels = new Map<string, number>();

  /** @param o mode of the first instruction (default 64) and address of the first byte (default 0) */
  constructor(o: { readonly mode?: Mode; readonly origin?: number } = {}) {
    this.current = o.mode ?? 64;
    this.origin = o.origin ?? 0;
  }

  /** Mode of the instructions that follow. */
  mode(mode: Mode): this {
    this.current = mode;
    return this;
  }

  /** Names the current address. @throws HyveError ASM_LABEL when the name is taken */
  label(name: string): this {
    if (this.items.some((i) => i.label === name)) throw new HyveError('ASM_LABEL', `label "${name}" is defined twice`);
    this.items.push({ label: name, emit: () => [] });
    return this;
  }

  /** An instruction by its name in the table, default operand size. */
  op(name: OpName, ...operands: readonly Operand[]): this {
    return this.sized(0, name, ...operands);
  }

  /** An instruction of a given operand size in bytes, where operands do not tell: IRET, RETF, PUSHF, MOVS… */
  sized(size: 0 | 1 | 2 | 4 | 8, name: OpName, ...operands: readonly Operand[]): this {
    return this.instruction(name, -1, size, operands);
  }

  private instruction(name: OpName, cc: number, size: number, operands: readonly Operand[]): this {
    const mode = this.current;
    let short = true;
    return this.item((address, resolve) => {
      const attempt = (): number[] | null => encode(OP[name], operands, size, cc, { mode, address, resolve, short });
      let bytes = attempt();
      // Once a branch has grown it stays long, so that the passes come to an end.
      if (short && bytes !== null && (name === 'JMP' || name === 'JCC') && bytes.length > 2 && isRef(operands[0])) {
        short = false;
        bytes = attempt();
      }
      if (bytes === null) {
        throw new HyveError(
          'ASM_OPERANDS',
          `${name} does not take these operands in ${mode}-bit mode: ${operands.map(text)}`,
        );
      }
      return bytes;
    });
  }

  private item(emit: Item['emit']): this {
    this.items.push({ label: '', emit });
    return this;
  }

  /** Bytes as they are. */
  db(...bytes: readonly number[]): this {
    return this.item(() => bytes);
  }

  /** Words: numbers or label addresses. */
  dw(...values: readonly (number | Ref)[]): this {
    return this.data(2, values);
  }

  /** Doublewords. */
  dd(...values: readonly (number | Ref)[]): this {
    return this.data(4, values);
  }

  /** Quadwords. */
  dq(...values: readonly (number | bigint | Ref)[]): this {
    return this.data(8, values);
  }

  private data(size: number, values: readonly (number | bigint | Ref)[]): this {
    return this.item((_, resolve) => values.flatMap((v) => little(isRef(v) ? resolve(v) : BigInt(v), size)));
  }

  /** Characters, one byte each. */
  text(value: string): this {
    return this.db(...Array.from(value, (c) => c.charCodeAt(0) & 0xff));
  }

  /** Zero bytes up to a multiple of `n`. */
  align(n: number): this {
    return this.item((address) => Array<number>((n - (address % n)) % n).fill(0));
  }

  /** Filler up to an offset from the origin. @throws HyveError ASM_SIZE from `assemble` when it lies behind */
  padTo(offset: number, filler = 0): this {
    return this.item((address) => {
      const missing = this.origin + offset - address;
      if (missing < 0)
        throw new HyveError('ASM_SIZE', `code is ${-missing} bytes longer than 0x${offset.toString(16)}`);
      return Array<number>(missing).fill(filler);
    });
  }

  /**
   * The program.
   * @throws HyveError ASM_LABEL for an unknown label, ASM_OPERANDS for operands no row takes, ASM_SIZE from padTo
   */
  assemble(): Uint8Array {
    const known = new Set(this.items.map((i) => i.label));
    const lookUp = (r: Ref): bigint => {
      if (!known.has(r.label)) throw new HyveError('ASM_LABEL', `label "${r.label}" is not defined`);
      return BigInt((this.labels.get(r.label) ?? this.origin) + r.add);
    };
    for (let pass = 0; ; pass++) {
      const out: number[] = [];
      let moved = false;
      for (const item of this.items) {
        const address = this.origin + out.length;
        if (item.label !== '') {
          moved ||= this.labels.get(item.label) !== address;
          this.labels.set(item.label, address);
        }
        // On the first pass labels ahead are unknown; taking them to be here keeps branches short for now.
        const resolve = (r: Ref): bigint =>
          this.labels.has(r.label) || !known.has(r.label) ? lookUp(r) : BigInt(address);
        for (const byte of item.emit(address, resolve)) out.push(byte);
      }
      if (!moved && pass > 0) return Uint8Array.from(out);
    }
  }

  /** Address of a label after {@link assemble}. @throws HyveError ASM_LABEL when there is none */
  addressOf(label: string): number {
    const address = this.labels.get(label);
    if (address === undefined) throw new HyveError('ASM_LABEL', `label "${label}" is not defined`);
    return address;
  }

  // The common instructions by name. Branch targets that are no register names are labels.

  /** MOV, including segment, control and debug registers. */
  mov(to: Operand, from: Operand): this {
    return this.op('MOV', to, from);
  }
  /** ADD. */
  add(to: Operand, from: Operand): this {
    return this.op('ADD', to, from);
  }
  /** OR. */
  or(to: Operand, from: Operand): this {
    return this.op('OR', to, from);
  }
  /** ADC. */
  adc(to: Operand, from: Operand): this {
    return this.op('ADC', to, from);
  }
  /** SBB. */
  sbb(to: Operand, from: Operand): this {
    return this.op('SBB', to, from);
  }
  /** AND. */
  and(to: Operand, from: Operand): this {
    return this.op('AND', to, from);
  }
  /** SUB. */
  sub(to: Operand, from: Operand): this {
    return this.op('SUB', to, from);
  }
  /** XOR. */
  xor(to: Operand, from: Operand): this {
    return this.op('XOR', to, from);
  }
  /** CMP. */
  cmp(to: Operand, from: Operand): this {
    return this.op('CMP', to, from);
  }
  /** TEST. */
  test(a: Operand, b: Operand): this {
    return this.op('TEST', a, b);
  }
  /** XCHG. */
  xchg(a: Operand, b: Operand): this {
    return this.op('XCHG', a, b);
  }
  /** LEA. */
  lea(to: Register, from: Memory): this {
    return this.op('LEA', to, from);
  }
  /** MOVZX. */
  movzx(to: Register, from: Operand): this {
    return this.op('MOVZX', to, from);
  }
  /** MOVSX. */
  movsx(to: Register, from: Operand): this {
    return this.op('MOVSX', to, from);
  }
  /** INC. */
  inc(operand: Operand): this {
    return this.op('INC', operand);
  }
  /** DEC. */
  dec(operand: Operand): this {
    return this.op('DEC', operand);
  }
  /** NOT. */
  not(operand: Operand): this {
    return this.op('NOT', operand);
  }
  /** NEG. */
  neg(operand: Operand): this {
    return this.op('NEG', operand);
  }
  /** SHL by a constant or CL. */
  shl(operand: Operand, count: number | 'cl'): this {
    return this.op('SHL', operand, count);
  }
  /** SHR by a constant or CL. */
  shr(operand: Operand, count: number | 'cl'): this {
    return this.op('SHR', operand, count);
  }
  /** SAR by a constant or CL. */
  sar(operand: Operand, count: number | 'cl'): this {
    return this.op('SAR', operand, count);
  }
  /** PUSH. */
  push(operand: Operand): this {
    return this.op('PUSH', operand);
  }
  /** POP. */
  pop(operand: Operand): this {
    return this.op('POP', operand);
  }
  /** JMP, near. */
  jmp(target: string | Operand): this {
    return this.op('JMP', near(target));
  }
  /** Jcc. */
  j(condition: Condition, target: string | Operand): this {
    return this.instruction('JCC', conditionCode(condition), 0, [near(target)]);
  }
  /** SETcc. */
  set(condition: Condition, operand: Operand): this {
    return this.instruction('SETCC', conditionCode(condition), 0, [operand]);
  }
  /** CMOVcc. */
  cmov(condition: Condition, to: Register, from: Operand): this {
    return this.instruction('CMOVCC', conditionCode(condition), 0, [to, from]);
  }
  /** LOOP. */
  loop(target: string | Operand): this {
    return this.op('LOOP', near(target));
  }
  /** CALL, near. */
  call(target: string | Operand): this {
    return this.op('CALL', near(target));
  }
  /** RET, near. */
  ret(): this {
    return this.op('RET');
  }
  /** JMP to a far pointer in the instruction (not in 64-bit mode); `size` of the offset: 2 or 4 bytes. */
  jmpFar(selector: number, target: string | number, size: 0 | 2 | 4 = 0): this {
    return this.sized(size, 'JMPF', { selector, offset: typeof target === 'string' ? ref(target) : target });
  }
  /** CALL of a far pointer in the instruction. */
  callFar(selector: number, target: string | number, size: 0 | 2 | 4 = 0): this {
    return this.sized(size, 'CALLF', { selector, offset: typeof target === 'string' ? ref(target) : target });
  }
  /** RETF; `size` of what is popped, default that of the mode (in 64-bit mode 4). */
  retf(size: 0 | 2 | 4 | 8 = 0): this {
    return this.sized(size, 'RETF');
  }
  /** IRET; `size` as for RETF. */
  iret(size: 0 | 2 | 4 | 8 = 0): this {
    return this.sized(size, 'IRET');
  }
  /** INT n. */
  int(vector: number): this {
    return this.op('INT', vector);
  }
  /** IN: `al`, `ax` or `eax` from a port number or `dx`. */
  in(to: 'al' | 'ax' | 'eax', port: number | 'dx'): this {
    return this.op('IN', to, port);
  }
  /** OUT: to a port number or `dx` from `al`, `ax` or `eax`. */
  out(port: number | 'dx', from: 'al' | 'ax' | 'eax'): this {
    return this.op('OUT', port, from);
  }
  /** REP or REPE prefix for the string instruction that follows. */
  rep(): this {
    return this.db(0xf3);
  }
  /** REPNE prefix for the string instruction that follows. */
  repne(): this {
    return this.db(0xf2);
  }
  /** LOCK prefix for the instruction that follows. */
  lock(): this {
    return this.db(0xf0);
  }
  /** MOVSB, W, D or Q by element size. */
  movs(size: 1 | 2 | 4 | 8): this {
    return this.sized(size, 'MOVS');
  }
  /** STOS. */
  stos(size: 1 | 2 | 4 | 8): this {
    return this.sized(size, 'STOS');
  }
  /** LODS. */
  lods(size: 1 | 2 | 4 | 8): this {
    return this.sized(size, 'LODS');
  }
  /** CMPS. */
  cmps(size: 1 | 2 | 4 | 8): this {
    return this.sized(size, 'CMPS');
  }
  /** SCAS. */
  scas(size: 1 | 2 | 4 | 8): this {
    return this.sized(size, 'SCAS');
  }
  /** INS. */
  ins(size: 1 | 2 | 4): this {
    return this.sized(size, 'INS');
  }
  /** OUTS. */
  outs(size: 1 | 2 | 4): this {
    return this.sized(size, 'OUTS');
  }
  /** LGDT. */
  lgdt(table: Memory): this {
    return this.op('LGDT', table);
  }
  /** LIDT. */
  lidt(table: Memory): this {
    return this.op('LIDT', table);
  }
  /** LTR. */
  ltr(operand: Operand): this {
    return this.op('LTR', operand);
  }
  /** WRMSR. */
  wrmsr(): this {
    return this.op('WRMSR');
  }
  /** RDMSR. */
  rdmsr(): this {
    return this.op('RDMSR');
  }
  /** CPUID. */
  cpuid(): this {
    return this.op('CPUID');
  }
  /** HLT. */
  hlt(): this {
    return this.op('HLT');
  }
  /** CLI. */
  cli(): this {
    return this.op('CLI');
  }
  /** STI. */
  sti(): this {
    return this.op('STI');
  }
  /** CLD. */
  cld(): this {
    return this.op('CLD');
  }
  /** STD. */
  std(): this {
    return this.op('STD');
  }
  /** NOP. */
  nop(): this {
    return this.op('NOP');
  }
}

function near(target: string | Operand): Operand {
  return typeof target === 'string' && !REGISTERS.has(target) ? ref(target) : (target as Operand);
}

function conditionCode(condition: Condition): number {
  return CONDITIONS.findIndex((names) => (names as readonly string[]).includes(condition));
}

function text(o: Operand): string {
  return typeof o === 'object' ? JSON.stringify(o) : typeof o === 'string' ? o : `0x${o.toString(16)}`;
}
