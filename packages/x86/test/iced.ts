// Brings our decoder and iced-x86 to one textual form, so that a difference shows as two unequal strings.
import * as iced from 'iced-x86';
import { type Insn, Kind, type Mode, mnemonic, OP, ROWS } from '../src/index.ts';

function gprName(n: number, size: number): string {
  return `g${n}.${size}`;
}

function classify(names: string[], make: (n: number) => string, into: Map<number, string>): void {
  names.forEach((name, i) => {
    const value = (iced.Register as unknown as Record<string, number>)[name];
    if (value !== undefined) into.set(value, make(i));
  });
}

const REGISTERS = new Map<number, string>();
const numbered = (f: (i: number) => string, n: number): string[] => Array.from({ length: n }, (_, i) => f(i));
classify(
  ['AL', 'CL', 'DL', 'BL', 'SPL', 'BPL', 'SIL', 'DIL', ...numbered((i) => `R${i + 8}L`, 8)],
  (n) => gprName(n, 1),
  REGISTERS,
);
classify(['AH', 'CH', 'DH', 'BH'], (n) => `h${n}`, REGISTERS);
classify(
  ['AX', 'CX', 'DX', 'BX', 'SP', 'BP', 'SI', 'DI', ...numbered((i) => `R${i + 8}W`, 8)],
  (n) => gprName(n, 2),
  REGISTERS,
);
classify(
  ['EAX', 'ECX', 'EDX', 'EBX', 'ESP', 'EBP', 'ESI', 'EDI', ...numbered((i) => `R${i + 8}D`, 8)],
  (n) => gprName(n, 4),
  REGISTERS,
);
classify(
  ['RAX', 'RCX', 'RDX', 'RBX', 'RSP', 'RBP', 'RSI', 'RDI', ...numbered((i) => `R${i + 8}`, 8)],
  (n) => gprName(n, 8),
  REGISTERS,
);
classify(['ES', 'CS', 'SS', 'DS', 'FS', 'GS'], (n) => `s${n}`, REGISTERS);
classify(
  numbered((i) => `CR${i}`, 16),
  (n) => `cr${n}`,
  REGISTERS,
);
classify(
  numbered((i) => `DR${i}`, 16),
  (n) => `dr${n}`,
  REGISTERS,
);
classify(
  numbered((i) => `XMM${i}`, 16),
  (n) => `x${n}`,
  REGISTERS,
);
classify(
  numbered((i) => `YMM${i}`, 16),
  (n) => `y${n}`,
  REGISTERS,
);
classify(
  numbered((i) => `MM${i}`, 8),
  (n) => `m${n}`,
  REGISTERS,
);
classify(
  numbered((i) => `ST${i}`, 8),
  (n) => `st${n}`,
  REGISTERS,
);

// In 64-bit mode iced names the ES, CS, SS or DS of an ignored override; all four mean the same there.
function segmentName(seg: string, mode: Mode): string {
  return mode === 64 && /^s[0-3]$/.test(seg) ? 's' : seg;
}

function registerName(r: number): string {
  return REGISTERS.get(r) ?? `?${iced.Register[r]}`;
}

const K = iced.OpKind;
const STRING_SIZE = new Map<number, [string, number]>([
  [K.MemorySegSI, ['src', 2]],
  [K.MemorySegESI, ['src', 4]],
  [K.MemorySegRSI, ['src', 8]],
  [K.MemoryESDI, ['dst', 2]],
  [K.MemoryESEDI, ['dst', 4]],
  [K.MemoryESRDI, ['dst', 8]],
  [K.MemorySegDI, ['maskmov', 2]],
  [K.MemorySegEDI, ['maskmov', 4]],
  [K.MemorySegRDI, ['maskmov', 8]],
]);

const IMM_SIZE = new Map<number, number>([
  [K.Immediate8, 1],
  [K.Immediate8_2nd, 1],
  [K.Immediate16, 2],
  [K.Immediate32, 4],
  [K.Immediate64, 8],
  [K.Immediate8to16, 2],
  [K.Immediate8to32, 4],
  [K.Immediate8to64, 8],
  [K.Immediate32to64, 8],
]);

const sizeCache = new Map<number, number>();
function memorySize(code: number): number {
  let size = sizeCache.get(code);
  if (size === undefined) {
    size = iced.MemorySizeExt.size(code);
    sizeCache.set(code, size);
  }
  return size;
}

// Address size of a memory operand follows from its registers, or from the displacement of absolute ones.
function icedAddress(i: iced.Instruction, addrSize: number, mode: Mode): string {
  const seg = segmentName(registerName(i.memorySegment), mode);
  const mask = (1n << BigInt(addrSize * 8)) - 1n;
  const base = i.memoryBase;
  const disp = i.memoryDisplacement & mask;
  if (base === iced.Register.RIP || base === iced.Register.EIP) return `${seg}:rip+${disp.toString(16)}`;
  const b = base === iced.Register.None ? '-' : registerName(base);
  const x = i.memoryIndex === iced.Register.None ? '-' : `${registerName(i.memoryIndex)}*${i.memoryIndexScale}`;
  return `${seg}:${b}+${x}+${disp.toString(16)}`;
}

/** Operands of an iced instruction, in our textual form. */
export function icedOperands(i: iced.Instruction, addrSize: number, mode: Mode): string[] {
  const out: string[] = [];
  for (let n = 0; n < i.opCount; n++) {
    const kind = i.opKind(n);
    const string = STRING_SIZE.get(kind);
    const imm = IMM_SIZE.get(kind);
    if (kind === K.Register) out.push(registerName(i.opRegister(n)));
    else if (kind === K.NearBranch16 || kind === K.NearBranch32 || kind === K.NearBranch64) {
      out.push(`rel${i.nearBranchTarget.toString(16)}`);
    } else if (kind === K.FarBranch16) out.push(`far${i.farBranchSelector.toString(16)}:${i.farBranch16.toString(16)}`);
    else if (kind === K.FarBranch32) out.push(`far${i.farBranchSelector.toString(16)}:${i.farBranch32.toString(16)}`);
    else if (kind === K.Memory) out.push(`[${memorySize(i.memorySize)} ${icedAddress(i, addrSize, mode)}]`);
    else if (string !== undefined) {
      const [what, size] = string;
      if (what === 'dst') out.push(`dst${size}.${memorySize(i.memorySize)}`);
      else if (what === 'src')
        out.push(`src${size}.${memorySize(i.memorySize)} ${segmentName(registerName(i.memorySegment), mode)}`);
      else out.push(`[${memorySize(i.memorySize)} ${segmentName(registerName(i.memorySegment), mode)}:g7.${size}+-+0]`);
    } else if (imm !== undefined) out.push(`i${imm}:${BigInt.asUintN(imm * 8, i.immediate(n)).toString(16)}`);
    else out.push(`?${iced.OpKind[kind]}`);
  }
  return out;
}

function big(lo: number, hi: number): bigint {
  return (BigInt(hi) << 32n) | BigInt(lo >>> 0);
}

function ourAddress(i: Insn, mode: Mode): string {
  const bits = i.addrSize * 8;
  const seg = segmentName(`s${i.seg}`, mode);
  if (i.ripRelative !== 0) {
    const target = BigInt.asUintN(bits, big(i.dispLo, i.dispHi) + BigInt(i.length));
    return `${seg}:rip+${target.toString(16)}`;
  }
  const b = i.base < 0 ? '-' : gprName(i.base, i.addrSize);
  const index = i.vsib === 0 ? gprName(i.index, i.addrSize) : `${i.vsib === 16 ? 'x' : 'y'}${i.index}`;
  const x = i.index < 0 ? '-' : `${index}*${1 << i.scale}`;
  return `${seg}:${b}+${x}+${BigInt.asUintN(bits, big(i.dispLo, i.dispHi)).toString(16)}`;
}

function ourOperand(i: Insn, kind: number, reg: number, size: number, mode: Mode): string {
  switch (kind) {
    case Kind.Gpr:
      return gprName(reg, size);
    case Kind.GprHigh:
      return `h${reg}`;
    case Kind.Mem:
      // iced writes the implied AL of XLAT as an index.
      return i.op === OP.XLAT
        ? `[1 ${segmentName(`s${i.seg}`, mode)}:${gprName(3, i.addrSize)}+g0.1*1+0]`
        : `[${size} ${ourAddress(i, mode)}]`;
    case Kind.Imm: {
      const second = i.op === OP.ENTER && size === 1;
      const value = second ? BigInt(i.imm2) : big(i.immLo, i.immHi);
      return `i${size}:${BigInt.asUintN(size * 8, value).toString(16)}`;
    }
    case Kind.Rel:
      return `rel${BigInt.asUintN(size * 8, big(i.immLo, i.immHi) + BigInt(i.length)).toString(16)}`;
    case Kind.Far:
      return `far${i.imm2.toString(16)}:${(i.immLo >>> 0).toString(16)}`;
    case Kind.Seg:
      return `s${reg}`;
    case Kind.Cr:
      return `cr${reg}`;
    case Kind.Dr:
      return `dr${reg}`;
    case Kind.Xmm:
      return `x${reg}`;
    case Kind.Ymm:
      return `y${reg}`;
    case Kind.Mmx:
      return `m${reg}`;
    case Kind.St:
      return `st${reg}`;
    case Kind.Const:
      return 'i1:1';
    case Kind.Src:
      return `src${i.addrSize}.${size} ${segmentName(`s${i.seg}`, mode)}`;
    case Kind.Dst:
      return `dst${i.addrSize}.${size}`;
    default:
      return `?${kind}`;
  }
}

/** Operands of our instruction in the same textual form. */
export function ourOperands(i: Insn, mode: Mode): string[] {
  return [
    ourOperand(i, i.kind0, i.reg0, i.size0, mode),
    ourOperand(i, i.kind1, i.reg1, i.size1, mode),
    ourOperand(i, i.kind2, i.reg2, i.size2, mode),
    ourOperand(i, i.kind3, i.reg3, i.size3, mode),
  ].slice(0, i.operandCount);
}

const OURS_TO_ICED: Readonly<Record<string, string>> = {
  callf: 'call',
  jmpf: 'jmp',
  fwait: 'wait',
  xlat: 'xlatb',
};

const QUAD_NAMES = /^(fxsave|fxrstor|xsave|xrstor|xsaveopt|xsavec|xsaves|xrstors)$/;

/** Name of our instruction as iced spells it. */
export function ourMnemonic(i: Insn): string {
  const name = mnemonic(i);
  if (OURS_TO_ICED[name] !== undefined) return OURS_TO_ICED[name];
  if (QUAD_NAMES.test(name) && i.rexW !== 0) return `${name}64`;
  if (i.rexW !== 0 && /^v?pcmpestr[im]$/.test(name)) return `${name}64`;
  if (i.rexW !== 0 && /^(sysret|sysexit)$/.test(name)) return `${name}q`;
  const { reg, opcode, map } = ROWS[i.row].encoding;
  if (name === 'shl' && reg === 6 && map === 0) return 'sal';
  if (name === 'fstp' && opcode === 0xd9 && i.modrm >= 0xc0) return 'fstpnce';
  return name;
}

/** Decodes with iced; the caller frees both. */
export function icedDecode(bytes: Uint8Array, mode: Mode): iced.Instruction {
  const decoder = new iced.Decoder(mode, bytes, iced.DecoderOptions.None);
  const instruction = decoder.decode();
  decoder.free();
  return instruction;
}

/** The reason iced gives for an invalid instruction: true when bytes are missing. */
export function icedNeedsMore(bytes: Uint8Array, mode: Mode): boolean {
  const decoder = new iced.Decoder(mode, bytes, iced.DecoderOptions.None);
  const i = decoder.decode();
  const answer = decoder.lastError === iced.DecoderError.NoMoreBytes;
  i.free();
  decoder.free();
  return answer;
}
