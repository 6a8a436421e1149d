// Operand notation to numbers: how an operand is addressed (method) and how wide it is (size code).
import { HyveError } from '@hyve/core';

/** Addressing methods. Names follow SDM vol. 2 appendix A.2.1 where it has them. */
export const Method = {
  None: 0,
  /** General register or memory, ModRM.rm. */
  E: 1,
  /** General register, ModRM.reg. */
  G: 2,
  /** Memory only, ModRM.rm. */
  M: 3,
  /** General register, ModRM.rm. */
  R: 4,
  /** Register in the low opcode bits. */
  Z: 5,
  /** Byte immediate. */
  Ib: 6,
  /** Byte immediate, sign-extended to the operand size. */
  Ibs: 7,
  /** Word immediate. */
  Iw: 8,
  /** Word or dword immediate, sign-extended to the operand size. */
  Iz: 9,
  /** Immediate as wide as the operand. */
  Iv: 10,
  /** The literal 1. */
  One: 11,
  /** Byte branch displacement. */
  Jb: 12,
  /** Word or dword branch displacement. */
  Jz: 13,
  /** Far pointer. */
  A: 14,
  /** Memory at an absolute offset. */
  O: 15,
  /** String source. */
  X: 16,
  /** String destination. */
  Y: 17,
  /** Segment register, ModRM.reg. */
  S: 18,
  /** Control register, ModRM.reg. */
  C: 19,
  /** Debug register, ModRM.reg. */
  D: 20,
  /** XMM or YMM register, ModRM.reg. */
  V: 21,
  /** XMM or YMM register or memory, ModRM.rm. */
  W: 22,
  /** MMX register, ModRM.reg. */
  P: 23,
  /** MMX register or memory, ModRM.rm. */
  Q: 24,
  /** XMM or YMM register in VEX.vvvv. */
  H: 25,
  /** XMM or YMM register in the immediate's upper half. */
  L: 26,
  /** General register in VEX.vvvv. */
  B: 27,
  /** Fixed general register. */
  Fixed: 28,
  /** Fixed segment register. */
  FixedSeg: 29,
  /** ST(0). */
  St0: 30,
  /** ST(i), ModRM.rm. */
  Sti: 31,
  /** XMM0, implied. */
  Xmm0: 32,
  /** Memory at seg:rBX (+AL), implied. */
  MemBx: 33,
  /** Memory at seg:rDI, implied. */
  MemDi: 34,
  /** Memory with an XMM index. */
  VsibX: 35,
  /** Memory with a YMM index. */
  VsibY: 36,
} as const;

// Widths by type letter for [VEX.L = 0, 1] and operand size 1, 2, 4, 8. One number: always that. Two: by VEX.L.
const WIDTHS: readonly (readonly [name: string, widths: readonly number[]])[] = [
  ['', [0]],
  ['b', [1]],
  ['w', [2]],
  ['d', [4]],
  ['q', [8]],
  ['dq', [16]],
  ['qq', [32]],
  ['v', [1, 2, 4, 8]],
  ['z', [1, 2, 4, 4]],
  ['y', [4, 4, 4, 8]],
  ['x', [16, 32]],
  ['ps', [16, 32]],
  ['pd', [16, 32]],
  ['hx', [8, 16]],
  ['qx', [4, 8]],
  ['ex', [2, 4]],
  ['ss', [4]],
  ['sd', [8]],
  ['p', [4, 4, 6, 10]],
  ['s', [6, 6, 6, 10]],
  ['a', [4, 4, 8, 8]],
  ['t', [10]],
  ['e', [14, 14, 28, 28]],
  ['n', [94, 94, 108, 108]],
  ['fx', [512]],
];

/** Width in bytes: `SIZES[code * 8 + VEX.L * 4 + log2(operand size)]`. */
export const SIZES: Uint16Array = Uint16Array.from(
  WIDTHS.flatMap(([, w]) => {
    if (w.length === 1) return Array<number>(8).fill(w[0]);
    if (w.length === 2) return [w[0], w[0], w[0], w[0], w[1], w[1], w[1], w[1]];
    return [...w, ...w];
  }),
);

function sizeCode(type: string): number {
  const at = WIDTHS.findIndex(([name]) => name === type);
  if (at < 0) throw new HyveError('X86_TABLE', `operand type "${type}" unknown`);
  return at;
}

/** A parsed operand. */
export interface OperandForm {
  /** A value of {@link Method}. */
  readonly method: number;
  /** Size code of the memory form, or of whatever the operand is. */
  readonly memSize: number;
  /** Size code of the register form. */
  readonly regSize: number;
  /** Register number of the fixed ones. */
  readonly reg: number;
  /** ModRM.mod is ignored and taken for 3. */
  readonly anyMod: boolean;
}

const FIXED: Readonly<Record<string, readonly [method: number, type: string, reg: number]>> = {
  AL: [Method.Fixed, 'b', 0],
  CL: [Method.Fixed, 'b', 1],
  AX: [Method.Fixed, 'w', 0],
  DX: [Method.Fixed, 'w', 2],
  rAX: [Method.Fixed, 'v', 0],
  eAX: [Method.Fixed, 'z', 0],
  ES: [Method.FixedSeg, 'v', 0],
  CS: [Method.FixedSeg, 'v', 1],
  SS: [Method.FixedSeg, 'v', 2],
  DS: [Method.FixedSeg, 'v', 3],
  FS: [Method.FixedSeg, 'v', 4],
  GS: [Method.FixedSeg, 'v', 5],
  '1': [Method.One, 'b', 0],
  ST0: [Method.St0, 't', 0],
  STi: [Method.Sti, 't', 0],
  XMM0: [Method.Xmm0, 'dq', 0],
  MBX: [Method.MemBx, 'b', 0],
  MDIq: [Method.MemDi, 'q', 0],
  MDIdq: [Method.MemDi, 'dq', 0],
  vm32x: [Method.VsibX, 'd', 0],
  vm32y: [Method.VsibY, 'd', 0],
  vm32xq: [Method.VsibX, 'q', 0],
  vm64xd: [Method.VsibX, 'd', 0],
  vm64yd: [Method.VsibY, 'd', 0],
  vm64x: [Method.VsibX, 'q', 0],
  vm64y: [Method.VsibY, 'q', 0],
  Ib: [Method.Ib, 'b', 0],
  Ibs: [Method.Ibs, 'v', 0],
  Iw: [Method.Iw, 'w', 0],
  Iz: [Method.Iz, 'v', 0],
  Iv: [Method.Iv, 'v', 0],
  Jb: [Method.Jb, 'v', 0],
  Jz: [Method.Jz, 'v', 0],
  Ap: [Method.A, 'p', 0],
};

const LETTERS: Readonly<Record<string, number>> = {
  E: Method.E,
  G: Method.G,
  M: Method.M,
  R: Method.R,
  Z: Method.Z,
  O: Method.O,
  X: Method.X,
  Y: Method.Y,
  S: Method.S,
  C: Method.C,
  D: Method.D,
  V: Method.V,
  W: Method.W,
  U: Method.W,
  P: Method.P,
  Q: Method.Q,
  N: Method.Q,
  H: Method.H,
  L: Method.L,
  B: Method.B,
};

/**
 * Parses one operand of a row.
 * @throws HyveError X86_TABLE when the notation is wrong
 */
export function parseOperand(text: string): OperandForm {
  if (Object.hasOwn(FIXED, text)) {
    const [method, type, reg] = FIXED[text];
    const size = sizeCode(type);
    return { method, memSize: size, regSize: size, reg, anyMod: false };
  }
  const split = /^M([a-z]+)R([a-z]+)$/.exec(text);
  if (split !== null) {
    return { method: Method.E, memSize: sizeCode(split[1]), regSize: sizeCode(split[2]), reg: 0, anyMod: false };
  }
  const plain = /^([A-Z])(!?)([a-z]*)$/.exec(text);
  if (plain === null || !Object.hasOwn(LETTERS, plain[1]))
    throw new HyveError('X86_TABLE', `operand "${text}" unknown`);
  const size = sizeCode(plain[3]);
  return { method: LETTERS[plain[1]], memSize: size, regSize: size, reg: 0, anyMod: plain[2] === '!' };
}
