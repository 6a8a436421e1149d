// Instruction text in Intel syntax, for traces and test messages. Slow, allocates, uses bigint: not for hot paths.
import { type Insn, Kind } from './insn.ts';
import { OP, OP_NAMES } from './ops.ts';
import { ROWS } from './table.ts';

const CONDITIONS = ['o', 'no', 'b', 'ae', 'e', 'ne', 'be', 'a', 's', 'ns', 'p', 'np', 'l', 'ge', 'le', 'g'] as const;
const LOW = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'] as const;
const BYTE = ['al', 'cl', 'dl', 'bl', 'spl', 'bpl', 'sil', 'dil'] as const;
const HIGH = ['ah', 'ch', 'dh', 'bh'] as const;
const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const;
const WIDTHS: Readonly<Record<number, string>> = {
  1: 'byte ',
  2: 'word ',
  4: 'dword ',
  6: 'fword ',
  8: 'qword ',
  10: 'tbyte ',
  16: 'oword ',
  32: 'yword ',
};

function register(number: number, size: number): string {
  if (number < 8) {
    if (size === 1) return BYTE[number];
    return (size === 8 ? 'r' : size === 4 ? 'e' : '') + LOW[number];
  }
  return `r${number}${size === 1 ? 'b' : size === 2 ? 'w' : size === 4 ? 'd' : ''}`;
}

function hex(value: bigint): string {
  return value < 0n ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}

function join(lo: number, hi: number): bigint {
  return (BigInt(hi) << 32n) | BigInt(lo >>> 0);
}

const BY_SIZE = (w: string, d: string, q: string): Readonly<Record<number, string>> => ({ 2: w, 4: d, 8: q });
const SIZED: ReadonlyMap<number, Readonly<Record<number, string>>> = new Map([
  [OP.CBW, BY_SIZE('cbw', 'cwde', 'cdqe')],
  [OP.CWD, BY_SIZE('cwd', 'cdq', 'cqo')],
  [OP.PUSHA, BY_SIZE('pusha', 'pushad', '')],
  [OP.POPA, BY_SIZE('popa', 'popad', '')],
  [OP.PUSHF, BY_SIZE('pushf', 'pushfd', 'pushfq')],
  [OP.POPF, BY_SIZE('popf', 'popfd', 'popfq')],
  [OP.IRET, BY_SIZE('iret', 'iretd', 'iretq')],
]);
const STRINGS: ReadonlySet<number> = new Set([OP.MOVS, OP.CMPS, OP.STOS, OP.LODS, OP.SCAS, OP.INS, OP.OUTS]);

/** Mnemonic of an instruction as assemblers spell it: `jne`, `cdqe`, `movsq`. Lower case. */
export function mnemonic(insn: Insn): string {
  if (insn.op < 0) return '(bad)';
  const name = OP_NAMES[insn.op].toLowerCase();
  if (insn.cc >= 0) return name.replace(/cc$/, CONDITIONS[insn.cc]);
  const sized = SIZED.get(insn.op);
  if (sized !== undefined) return sized[insn.opSize];
  if (STRINGS.has(insn.op)) return name + ({ 1: 'b', 2: 'w', 4: 'd', 8: 'q' }[insn.opSize] ?? '');
  if (insn.op === OP.JCXZ) return { 2: 'jcxz', 4: 'jecxz', 8: 'jrcxz' }[insn.addrSize] ?? name;
  return name;
}

function memory(insn: Insn, rip: bigint): string {
  const parts: string[] = [];
  const disp = join(insn.dispLo, insn.dispHi);
  if (insn.ripRelative !== 0) parts.push(hex(BigInt.asUintN(insn.addrSize * 8, rip + BigInt(insn.length) + disp)));
  else {
    if (insn.base >= 0) parts.push(register(insn.base, insn.addrSize));
    if (insn.index >= 0) {
      const index =
        insn.vsib === 0 ? register(insn.index, insn.addrSize) : (insn.vsib === 16 ? 'xmm' : 'ymm') + insn.index;
      parts.push(insn.scale === 0 ? index : `${index}*${1 << insn.scale}`);
    }
    if (parts.length === 0) parts.push(hex(BigInt.asUintN(insn.addrSize * 8, disp)));
    else if (disp !== 0n) parts.push(hex(disp));
  }
  const defaultSeg = insn.base === 4 || insn.base === 5 ? 2 : 3;
  const seg = insn.seg === defaultSeg ? '' : `${SEGMENTS[insn.seg]}:`;
  return `[${seg}${parts.join('+').replace(/\+-/g, '-')}]`;
}

function operand(insn: Insn, kind: number, reg: number, size: number, rip: bigint): string {
  const width = WIDTHS[size] ?? '';
  switch (kind) {
    case Kind.Gpr:
      return register(reg, size);
    case Kind.GprHigh:
      return HIGH[reg];
    case Kind.Mem:
      return (insn.op === OP.LEA ? '' : width) + memory(insn, rip);
    case Kind.Imm: {
      if (insn.op === OP.ENTER && size === 1) return hex(BigInt(insn.imm2));
      return hex(BigInt.asUintN(size * 8, join(insn.immLo, insn.immHi)));
    }
    case Kind.Rel: {
      const target = rip + BigInt(insn.length) + join(insn.immLo, insn.immHi);
      return hex(BigInt.asUintN(size * 8, target));
    }
    case Kind.Far:
      return `${hex(BigInt(insn.imm2))}:${hex(BigInt(insn.immLo >>> 0))}`;
    case Kind.Seg:
      return SEGMENTS[reg];
    case Kind.Cr:
      return `cr${reg}`;
    case Kind.Dr:
      return `dr${reg}`;
    case Kind.Xmm:
      return `xmm${reg}`;
    case Kind.Ymm:
      return `ymm${reg}`;
    case Kind.Mmx:
      return `mm${reg}`;
    case Kind.St:
      return `st(${reg})`;
    case Kind.Const:
      return '1';
    case Kind.Src:
      return `${width}[${SEGMENTS[insn.seg]}:${register(6, insn.addrSize)}]`;
    case Kind.Dst:
      return `${width}[es:${register(7, insn.addrSize)}]`;
    default:
      return '';
  }
}

/**
 * Text of a decoded instruction, such as `mov rax, qword [rbx+rcx*4-0x10]`.
 * @param insn decoded with success
 * @param rip address of the instruction, for the targets of branches and rIP-relative operands
 */
export function format(insn: Insn, rip: bigint | number): string {
  if (insn.op < 0) return '(bad)';
  const at = BigInt(rip);
  const operands = [
    [insn.kind0, insn.reg0, insn.size0],
    [insn.kind1, insn.reg1, insn.size1],
    [insn.kind2, insn.reg2, insn.size2],
    [insn.kind3, insn.reg3, insn.size3],
  ]
    .slice(0, insn.operandCount)
    .map(([kind, reg, size]) => operand(insn, kind, reg, size, at));
  let prefix = insn.lock !== 0 ? 'lock ' : '';
  if (insn.rep !== 0) prefix += insn.rep === 0xf2 ? 'repne ' : ROWS[insn.row].rep === 'repe' ? 'repe ' : 'rep ';
  return `${prefix}${mnemonic(insn)} ${operands.join(', ')}`.trimEnd();
}
