// The decoded form of one instruction: a flat record of small integers that a decoder fills again and again.
// Notation and operand order are those of Intel SDM volume 2.

/** Result of one call of the decoder. */
export const Status = {
  /** The instruction is complete and valid. */
  Ok: 0,
  /** The bytes ended before the instruction did, and before 15 bytes; fetch more and decode again. */
  NeedMore: 1,
  /** #UD: no such instruction, a feature that is not there, or a LOCK prefix that is not allowed. */
  Undefined: 2,
  /** #GP(0): longer than 15 bytes. */
  TooLong: 3,
} as const;

/** What an operand is; the value of `Insn.kind0` to `Insn.kind3`. */
export const Kind = {
  /** No operand. */
  None: 0,
  /** General register 0–15 (AX CX DX BX SP BP SI DI R8…); its low `size` bytes. */
  Gpr: 1,
  /** AH, CH, DH or BH; `reg` is 0–3, the register whose bits 15:8 are meant. */
  GprHigh: 2,
  /** Memory at the address in `seg`, `base`, `index`, `scale`, `dispLo/Hi`, `ripRelative`. XLAT adds AL to it. */
  Mem: 3,
  /** Immediate in `immLo/immHi`; the level of ENTER is in `imm2`. */
  Imm: 4,
  /** Branch displacement in `immLo/immHi`, relative to the next instruction. */
  Rel: 5,
  /** Far pointer: offset in `immLo`, selector in `imm2`. */
  Far: 6,
  /** Segment register 0–5 (ES CS SS DS FS GS). */
  Seg: 7,
  /** Control register 0, 2, 3, 4 or 8. */
  Cr: 8,
  /** Debug register 0–7. */
  Dr: 9,
  /** SSE register 0–15. */
  Xmm: 10,
  /** MMX register 0–7. */
  Mmx: 11,
  /** x87 stack register ST(0)–ST(7). */
  St: 12,
  /** 256-bit AVX register 0–15. */
  Ymm: 13,
  /** The literal 1 of the D0/D1 shifts (also found in `immLo`). */
  Const: 14,
  /** String source: `seg`:rSI, width of rSI `addrSize`. */
  Src: 15,
  /** String destination: ES:rDI (never overridden), width of rDI `addrSize`. */
  Dst: 16,
} as const;

/** Segment register numbers as encoded by the instruction set. */
export const Seg = { Es: 0, Cs: 1, Ss: 2, Ds: 3, Fs: 4, Gs: 5 } as const;

/** CPU mode for decoding: the default operand and address size of the code segment, or 64-bit mode. */
export type Mode = 16 | 32 | 64;

/**
 * One decoded instruction. Make one and pass it to `Decoder.decode` again and again; decode fills every field.
 *
 * Operands are numbered as in the manual, destination first. An operand of `Kind.Mem` uses the one set of address
 * fields; two memory operands occur only in string instructions, where `Kind.Src` and `Kind.Dst` say it all.
 */
export class Insn {
  /** Index into `ROWS`; -1 after an error. */
  row = -1;
  /** Operation, a value of `OP`; -1 after an error. */
  op = -1;
  /** Length in bytes; after an error, the bytes read so far. */
  length = 0;
  /** Effective operand size in bytes: 1, 2, 4 or 8. 1 for the byte forms. */
  opSize = 0;
  /** Effective address size in bytes: 2, 4 or 8. */
  addrSize = 0;
  /** Condition code 0–15 of JCC, SETCC and CMOVCC; -1 otherwise. */
  cc = -1;
  /** 1 if the instruction has a (legal) LOCK prefix. XCHG with memory locks without it. */
  lock = 0;
  /** 0xF2 or 0xF3 on string instructions with a repeat prefix, otherwise 0. */
  rep = 0;
  /** REX.W, or VEX.W in 64-bit mode (elsewhere VEX.W selects rows only). */
  rexW = 0;
  /** VEX.L: 0 for 128 bits, 1 for 256. */
  vexL = 0;
  /** Register number in VEX.vvvv (already inverted); 0 when unused. */
  vexV = 0;
  /** 1 for a VEX encoding. */
  vex = 0;
  /** ModRM byte, or 0 when there is none. */
  modrm = 0;
  /** Number of operands, 0–4. */
  operandCount = 0;
  /** Kind of operand 0, a value of `Kind`. */
  kind0 = 0;
  /** Kind of operand 1. */
  kind1 = 0;
  /** Kind of operand 2. */
  kind2 = 0;
  /** Kind of operand 3. */
  kind3 = 0;
  /** Register number of operand 0; 0 when it is no register. */
  reg0 = 0;
  /** Register number of operand 1. */
  reg1 = 0;
  /** Register number of operand 2. */
  reg2 = 0;
  /** Register number of operand 3. */
  reg3 = 0;
  /** Size of operand 0 in bytes. Memory: what is accessed (0: depends on state, as with XSAVE, or no access). */
  size0 = 0;
  /** Size of operand 1 in bytes. */
  size1 = 0;
  /** Size of operand 2 in bytes. */
  size2 = 0;
  /** Size of operand 3 in bytes. */
  size3 = 0;
  /** Segment of the memory operand or of a string source, 0–5, overrides and defaults applied. */
  seg = 3;
  /** Base register 0–15, or -1. */
  base = -1;
  /** Index register 0–15, or -1. An XMM or YMM register when `vsib` is not 0. */
  index = -1;
  /** Log2 of the index factor, 0–3. */
  scale = 0;
  /** Low half of the displacement, int32. Addresses are to be cut to `addrSize` after adding everything up. */
  dispLo = 0;
  /** High half of the sign-extended displacement, int32. */
  dispHi = 0;
  /** 1 if the address is relative to the next instruction. */
  ripRelative = 0;
  /** Index vector width in bytes for gathers: 16 or 32; otherwise 0. */
  vsib = 0;
  /**
   * Low half of the immediate or branch displacement, int32. Immediates of the operand's own byte or word width
   * (Ib, Iw) are zero-extended; all others (Ibs, Iz, Iv, J) are sign-extended to 64 bits, to be cut to the size used.
   */
  immLo = 0;
  /** High half of the immediate, int32. */
  immHi = 0;
  /** Second immediate: nesting level of ENTER, selector of a far pointer. */
  imm2 = 0;
}
