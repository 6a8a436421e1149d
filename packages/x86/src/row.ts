// The notation of opcode rows, and its reading. One row is one line of the manual's opcode tables.
//
// Encoding, blank-separated, in this order, all but the opcode optional:
//   NP 66 F3 F2   mandatory prefix (NP: none of the three; NFx: neither F2 nor F3); without one, any prefix fits
//   0F, 0F 38, 0F 3A   opcode map
//   VEX.128.66.0F38.W0   instead of prefix and map: length (128 256 LIG, absent: both), prefix, map, W0 W1 (absent: both)
//   8B            opcode; 50+r: register in the low three bits; 70+c: condition in the low four; D8: anything
//   /5            ModRM.reg
//   mem, reg      ModRM.mod is not, or is, 3
//   rm=2          ModRM.rm
//   W0 W1 B0      REX.W, REX.B
// Where several rows fit, the one with the tighter encoding wins (F3 0F BC over 0F BC).
//
// Operands: an addressing letter of SDM vol. 2 appendix A and a type. Letters: E G M R(register of rm) R!(the same, mod
// ignored) Z(register in opcode) I J A O X Y S C D, P Q N (MMX) V W U (XMM/YMM) H (VEX.vvvv) L (imm8[7:4]) B (vvvv, general).
// Types: b w d q dq qq; v (2/4/8) z (2/4/4) y (4/4/8); x ps pd (VEX.L: 16/32); hx qx ex (half, quarter, eighth of x);
// ss sd; p (far pointer) s (table register) a (BOUND) t (80 bits) e (x87 environment) n (x87 state) fx (FXSAVE).
// vm32x vm64y …: gather, index width and register kind; a further letter is the element when it has another width.
// Ibs is a byte sign-extended to the operand size. MwRv: word in memory, or a whole register.
import { HyveError } from '@hyve/core';
import type { OpName } from './ops.ts';

/** A row as written in the tables. */
export interface RowSpec {
  /** Encoding, in the notation above. */
  readonly encoding: string;
  /** Operation. */
  readonly mnemonic: OpName;
  /** Operands, comma-separated, destination first; may be empty. */
  readonly operands: string;
  /**
   * Blank-separated attributes: `lock` (LOCK allowed with a memory destination), `i64` (not in 64-bit mode), `o64` (only
   * there), `d64` (64-bit mode: operands are 64 bits, 66 makes them 16), `f64` (64-bit mode: always 64 bits), `native`
   * (32 bits, in 64-bit mode 64), `priv` (CPL 0 only), `rep`, `repe` (repeat prefixes: plain, or ending on ZF),
   * `+name` (CPUID feature that must be there).
   */
  readonly attributes: string;
}

/** Writes a table row; see the top of this file for the notation. */
export function row(encoding: string, mnemonic: OpName, operands: string, attributes = ''): RowSpec {
  return { encoding, mnemonic, operands, attributes };
}

/** Bits of {@link Encoding.prefixes}: no mandatory prefix, 66, F3, F2. */
export const PREFIX_NP: number = 1 << 0;
/** 66 as a mandatory prefix. */
export const PREFIX_66: number = 1 << 1;
/** F3 as a mandatory prefix. */
export const PREFIX_F3: number = 1 << 2;
/** F2 as a mandatory prefix. */
export const PREFIX_F2: number = 1 << 3;

/** An encoding, parsed. -1 means "either" or "any" throughout. */
export interface Encoding {
  /** 0 one-byte, 1 0F, 2 0F 38, 3 0F 3A. */
  readonly map: number;
  /** VEX-encoded. */
  readonly vex: boolean;
  /** Set of allowed mandatory prefixes, PREFIX_ bits; 15 when prefixes mean what they usually do. */
  readonly prefixes: number;
  /** Lowest opcode byte. */
  readonly opcode: number;
  /** Number of opcode bytes covered: 1, 8 (`+r`) or 16 (`+c`). */
  readonly span: number;
  /** ModRM.reg. */
  readonly reg: number;
  /** 1 for mod = 3, 0 for memory. */
  readonly mod3: number;
  /** ModRM.rm. */
  readonly rm: number;
  /** REX.W or VEX.W. */
  readonly w: number;
  /** REX.B. */
  readonly b: number;
  /** VEX.L. */
  readonly l: number;
  /** Has a ModRM byte. */
  readonly modrm: boolean;
}

const MAPS: Readonly<Record<string, number>> = { '0F': 1, '0F38': 2, '0F3A': 3 };
const PREFIXES: Readonly<Record<string, number>> = {
  NP: PREFIX_NP,
  NFx: PREFIX_NP | PREFIX_66,
  '66': PREFIX_66,
  F3: PREFIX_F3,
  F2: PREFIX_F2,
};

/** Whether an operand comes from a ModRM byte. */
function usesModrm(operand: string): boolean {
  return /^[EGMRSCDPQNVWU][!a-z]/.test(operand) || operand === 'M' || operand === 'STi' || operand.startsWith('vm');
}

/**
 * Parses the encoding of a row.
 * @throws HyveError X86_TABLE when the notation is wrong
 */
export function parseEncoding(spec: RowSpec): Encoding {
  const bad = (why: string): HyveError =>
    new HyveError('X86_TABLE', `row "${spec.encoding}" ${spec.mnemonic} ${spec.operands}: ${why}`);
  const tokens = spec.encoding.split(' ');
  let map = 0;
  let vex = false;
  let prefixes = 15;
  let w = -1;
  let l = -1;
  let at = 0;
  const first = tokens[0];
  if (first.startsWith('VEX.')) {
    vex = true;
    prefixes = PREFIX_NP;
    for (const part of first.split('.').slice(1)) {
      if (part === '128' || part === 'LZ') l = 0;
      else if (part === '256') l = 1;
      else if (part === 'W0') w = 0;
      else if (part === 'W1') w = 1;
      else if (part in MAPS) map = MAPS[part];
      else if (part in PREFIXES) prefixes = PREFIXES[part];
      else if (part !== 'LIG' && part !== 'WIG') throw bad(`"${part}" unknown`);
    }
    at = 1;
  } else {
    if (first in PREFIXES && tokens.length > 1 && /^[0-9A-F]{2}/.test(tokens[1])) {
      prefixes = PREFIXES[first];
      at = 1;
    }
    if (tokens[at] === '0F') {
      map = 1;
      at++;
      if (tokens[at] === '38' || (tokens[at] === '3A' && tokens.length > at + 1)) {
        map = tokens[at] === '38' ? 2 : 3;
        at++;
      }
    }
  }
  const code = /^([0-9A-F]{2})(\+[rc])?$/.exec(tokens[at++] ?? '');
  if (code === null) throw bad('opcode expected');
  const span = code[2] === '+r' ? 8 : code[2] === '+c' ? 16 : 1;
  let reg = -1;
  let mod3 = -1;
  let rm = -1;
  let b = -1;
  for (; at < tokens.length; at++) {
    const token = tokens[at];
    if (/^\/[0-7]$/.test(token)) reg = Number(token[1]);
    else if (/^rm=[0-7]$/.test(token)) rm = Number(token[3]);
    else if (token === 'mem') mod3 = 0;
    else if (token === 'reg') mod3 = 1;
    else if (token === 'W0' || token === 'W1') w = Number(token[1]);
    else if (token === 'B0') b = 0;
    else throw bad(`"${token}" unknown`);
  }
  const operands = operandList(spec);
  for (const operand of operands) {
    if (/^(M[a-z]*|vm.*)$/.test(operand)) mod3 = 0;
    else if (/^[RUN][a-z]/.test(operand)) mod3 = 1;
  }
  const modrm = reg >= 0 || mod3 >= 0 || rm >= 0 || operands.some(usesModrm);
  return { map, vex, prefixes, opcode: parseInt(code[1], 16), span, reg, mod3, rm, w, b, l, modrm };
}

/** The operands of a row as a list. */
export function operandList(spec: RowSpec): readonly string[] {
  return spec.operands === '' ? [] : spec.operands.split(',');
}
