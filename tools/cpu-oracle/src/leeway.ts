// Where processors go different ways and the manuals promise neither: what of an outcome is not compared then. What is known
// before a program runs is in exclusions.ts.
import { ROWS } from '@hyve/x86';
import type { Program, Step } from './generate.ts';

/** Parts of an outcome. */
export type Part = 'flags' | 'memory' | 'x87' | 'mxcsr' | 'xmm' | 'cr2' | 'error code';

interface Fault {
  readonly ops: RegExp;
  readonly parts: readonly Part[];
  readonly why: string;
}

/** What is not compared when one of these instructions faults. */
export const FAULTS: readonly Fault[] = [
  { ops: /^ENTER$/, parts: ['memory'], why: 'how much of the frame is in memory is up to the processor' },
  {
    ops: /^CALLF?$/,
    parts: ['memory'],
    why: 'where the target is not allowed, Intel has pushed the return address already, AMD has not',
  },
  {
    ops: /^(CMPS|SCAS)$/,
    parts: ['flags'],
    why: 'with a repeat prefix, Intel has the flags from before the instruction, AMD of the last comparison',
  },
  {
    ops: /^(FSTP|FBSTP)$/,
    parts: ['memory'],
    why: 'of ten bytes over the end of a page, Intel writes those before it',
  },
  {
    ops: /^(MOVD|MOVQ|MOVNTQ|MASKMOVQ)$/,
    parts: ['x87'],
    why: 'Intel has switched the x87 state to MMX already, AMD only for MASKMOVQ',
  },
  { ops: /^VCVTPS2PH$/, parts: ['mxcsr'], why: 'Intel has set the flags of the conversion already, AMD has not' },
  {
    ops: /^V?P?MASKMOV/,
    parts: ['cr2'],
    why: 'the address is that of the operand, of the element or of the page, as it comes',
  },
  { ops: /^IRET$/, parts: ['error code'], why: 'which of several wrong things is found first is up to the processor' },
  { ops: /^XRSTOR$/, parts: ['x87', 'mxcsr', 'xmm'], why: 'what has been loaded by then is up to the processor' },
];

/** Two outcomes that end in different ways. */
export interface Ends {
  /** Operation that faulted on one side at least. */
  readonly op: string;
  readonly bits: 32 | 64;
  /** Vectors: 3 is the INT3 at the program's end. */
  readonly native: number;
  readonly soft: number;
  /** Whether an unmasked x87 exception is pending on the processor, or may have been until something took it away. */
  readonly pending: boolean;
  /** Whether the processor ended in 32-bit code. */
  readonly narrow: boolean;
}

/** #GP, #PF, #AC. */
const isFault = (vector: number): boolean => vector === 13 || vector === 14 || vector === 17;

/** Cases in which programs may end in different ways. */
export const ENDS: readonly { readonly why: string; readonly applies: (e: Ends) => boolean }[] = [
  {
    why: 'stores of x87 that make an unmasked exception: Intel makes it pending and does not look at the operand, AMD does',
    applies: (e) => /^F(IST|ISTP|ISTTP|ST|STP|BSTP)$/.test(e.op) && e.pending,
  },
  {
    why: 'far transfers to 32-bit code beyond 4 GiB: Intel cuts the address, AMD raises #GP',
    applies: (e) => e.bits === 64 && /^(RETF|IRET|CALLF|JMPF)$/.test(e.op) && e.soft === 13 && e.narrow,
  },
  {
    why: 'POP of a segment register over the end of a page: Intel reads two bytes, AMD all of the operand',
    applies: (e) => e.op === 'POP' && e.soft >= 12,
  },
  {
    why: 'VCVTPS2PH to where it may not write: Intel raises #XM before it looks, AMD after',
    applies: (e) => e.op === 'VCVTPS2PH' && e.native === 19,
  },
  {
    why: 'CMPS with two operands that fault: which is first is up to the processor',
    applies: (e) => e.op === 'CMPS' && isFault(e.native) && isFault(e.soft),
  },
  {
    why: 'a misaligned operand with something else wrong: which is seen first is up to the processor',
    applies: (e) => isFault(e.native) && isFault(e.soft) && (e.native === 17 || e.soft === 17),
  },
  {
    why: 'far pointers: Intel checks the alignment of the whole, AMD of its parts',
    applies: (e) => /^(CALLF|JMPF|L[SFGDE]S)$/.test(e.op) && e.native === 17,
  },
  {
    why: 'BOUND with an upper bound on a page that is not there: Intel has compared with the lower one by then',
    applies: (e) => e.op === 'BOUND' && e.native === 5 && isFault(e.soft),
  },
  {
    why: 'XRSTOR of components that only the host has',
    applies: (e) => e.op === 'XRSTOR' && e.soft === 13,
  },
];

/** The instruction of the program at an address; the code is in memory twice, 4 GiB times some number apart. */
export function stepAt(p: Program, rip: number): Step | null {
  let at = p.start % 2 ** 32;
  for (const s of p.steps) {
    at += s.skip ?? 0;
    if (at === rip % 2 ** 32) return s;
    at += s.bytes.length;
  }
  return null;
}

/** Name of a step's operation. */
export const operationOf = (s: Step | null): string => (s === null ? '' : (ROWS[s.row]?.mnemonic ?? ''));

/** What is not compared when this operation has faulted. */
export function unsettled(op: string): ReadonlySet<Part> {
  return new Set(FAULTS.filter((f) => f.ops.test(op)).flatMap((f) => f.parts));
}
