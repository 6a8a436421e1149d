// What each operation does to the status flags and to its first operand, as far as the mnemonic alone says it.
// Source: SDM vol. 2 instruction pages and vol. 1 appendix A. For the liveness pass of translators and for tests that
// compare processors and must leave undefined flags out.
import type { OpName } from './ops.ts';

/** CF, at its place in EFLAGS; the other FLAG_ constants likewise. */
export const FLAG_CF: number = 1 << 0;
/** PF. */
export const FLAG_PF: number = 1 << 2;
/** AF. */
export const FLAG_AF: number = 1 << 4;
/** ZF. */
export const FLAG_ZF: number = 1 << 6;
/** SF. */
export const FLAG_SF: number = 1 << 7;
/** OF. */
export const FLAG_OF: number = 1 << 11;
/** The six status flags. */
export const FLAGS_STATUS: number = FLAG_OF | FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF;

const LETTER: Readonly<Record<string, number>> = {
  O: FLAG_OF,
  S: FLAG_SF,
  Z: FLAG_ZF,
  A: FLAG_AF,
  P: FLAG_PF,
  C: FLAG_CF,
};

/** Status flags touched by a row; masks of FLAG_ bits. */
export interface FlagEffects {
  /** Read (or passed through). For JCC, SETCC and CMOVCC all five that conditions use; see {@link ccFlags}. */
  readonly read: number;
  /** Given a defined value; includes cleared and set. */
  readonly written: number;
  /** Undefined afterwards. A flag also in `written` is defined in some cases (OF of one-bit shifts). */
  readonly undefined: number;
  /** Always cleared. */
  readonly cleared: number;
  /** Always set. */
  readonly set: number;
  /** The flags may also stay as they are (shift count or repeat count of zero), so nothing is killed. */
  readonly conditional: boolean;
}

/** Flags read by condition codes 0–15 (O NO B AE E NE BE A S NS P NP L GE LE G). */
export const ccFlags: readonly number[] = [
  FLAG_OF,
  FLAG_CF,
  FLAG_ZF,
  FLAG_CF | FLAG_ZF,
  FLAG_SF,
  FLAG_PF,
  FLAG_SF | FLAG_OF,
  FLAG_ZF | FLAG_SF | FLAG_OF,
].flatMap((f) => [f, f]);

// r: read, w: written, u: undefined, 0: cleared, 1: set, ?: conditional.
const FLAGS: readonly (readonly [effects: string, names: string])[] = [
  ['w=OSZAPC', 'ADD SUB CMP NEG CMPXCHG XADD POPF IRET SYSCALL SYSRET RSM'],
  ['w=OSZAPC ?', 'CMPS SCAS'],
  ['w=OSZAPC', 'VMCALL VMLAUNCH VMRESUME VMXOFF VMREAD VMWRITE VMPTRLD VMPTRST VMCLEAR VMXON INVEPT INVVPID'],
  ['r=C w=OSZAPC', 'ADC SBB'],
  ['w=SZP 0=OC u=A', 'AND OR XOR TEST'],
  ['w=OSZAP', 'INC DEC'],
  ['w=OC u=SZAP', 'MUL IMUL'],
  ['u=OSZAPC', 'DIV IDIV'],
  ['w=OSZPC u=OA ?', 'SHL SHR SAR SHLD SHRD'],
  ['w=OC u=O ?', 'ROL ROR'],
  ['r=C w=OC u=O ?', 'RCL RCR'],
  ['w=C u=OSAP', 'BT BTS BTR BTC'],
  ['w=Z u=OSAPC', 'BSF BSR'],
  ['w=ZC u=OSAP', 'TZCNT LZCNT'],
  ['w=Z 0=OSAPC', 'POPCNT'],
  ['r=AC w=SZAPC u=O', 'DAA DAS'],
  ['r=A w=AC u=OSZP', 'AAA AAS'],
  ['w=SZP u=OAC', 'AAM AAD'],
  ['0=C', 'CLC'],
  ['1=C', 'STC'],
  ['r=C w=C', 'CMC'],
  ['w=SZAPC', 'SAHF'],
  ['r=SZAPC', 'LAHF'],
  ['r=OSZAPC', 'PUSHF INT INT3 INT1'],
  ['r=OSZAPC', 'INTO'],
  ['r=OSZPC', 'JCC SETCC CMOVCC'],
  ['r=Z', 'LOOPE LOOPNE'],
  ['r=C', 'SALC'],
  ['w=Z', 'ARPL LAR LSL VERR VERW CMPXCHG8B CMPXCHG16B'],
  ['r=C w=C', 'ADCX'],
  ['r=O w=O', 'ADOX'],
  ['w=C 0=OSZAP', 'RDRAND RDSEED'],
  ['w=SZ 0=OC u=AP', 'ANDN'],
  ['w=SZC 0=O u=AP', 'BLSI BLSMSK BLSR BZHI'],
  ['w=Z 0=OC u=SAP', 'BEXTR'],
  ['w=ZC 0=OSAP', 'PTEST VPTEST VTESTPS VTESTPD'],
  ['w=ZPC 0=OSA', 'COMISS COMISD UCOMISS UCOMISD VCOMISS VCOMISD VUCOMISS VUCOMISD FCOMI FCOMIP FUCOMI FUCOMIP'],
  ['w=OSZC 0=AP', 'PCMPESTRI PCMPESTRM PCMPISTRI PCMPISTRM VPCMPESTRI VPCMPESTRM VPCMPISTRI VPCMPISTRM'],
  ['r=C', 'FCMOVB FCMOVNB'],
  ['r=Z', 'FCMOVE FCMOVNE'],
  ['r=ZC', 'FCMOVBE FCMOVNBE'],
  ['r=P', 'FCMOVU FCMOVNU'],
];

const NO_FLAGS: FlagEffects = { read: 0, written: 0, undefined: 0, cleared: 0, set: 0, conditional: false };

function parse(text: string): FlagEffects {
  const out = { r: 0, w: 0, u: 0, '0': 0, '1': 0 };
  let conditional = false;
  for (const part of text.split(' ')) {
    if (part === '?') conditional = true;
    else
      out[part[0] as keyof typeof out] = part
        .slice(2)
        .split('')
        .reduce((mask, c) => mask | LETTER[c], 0);
  }
  return {
    read: out.r,
    written: out.w | out['0'] | out['1'],
    undefined: out.u,
    cleared: out['0'],
    set: out['1'],
    conditional,
  };
}

const byName: ReadonlyMap<string, FlagEffects> = new Map(
  FLAGS.flatMap(([effects, names]) => {
    const parsed = parse(effects);
    return names.split(' ').map((name): [string, FlagEffects] => [name, parsed]);
  }),
);

const SHIFT_BY_ONE = parse('w=OSZPC u=A');
const ROTATE_BY_ONE = parse('w=OC');
const ROTATE_CARRY_BY_ONE = parse('r=C w=OC');

/** Flag effects of an operation; the D0/D1 forms of shifts, whose count is known, are told apart by `byOne`. */
export function flagEffects(op: OpName, byOne: boolean): FlagEffects {
  const found = byName.get(op) ?? NO_FLAGS;
  if (!byOne) return found;
  if (op === 'RCL' || op === 'RCR') return ROTATE_CARRY_BY_ONE;
  return op === 'ROL' || op === 'ROR' ? ROTATE_BY_ONE : SHIFT_BY_ONE;
}

/** Names that have flag effects; a test checks that all of them exist. @internal */
export const flagNames: Iterable<string> = byName.keys();

/** What an instruction does to operand 0: read it, write it without reading, both, or only use its address. */
export type Access = 'r' | 'w' | 'rw' | '-';

const words = (text: string): ReadonlySet<string> => new Set(text.trim().split(/\s+/));

const WRITES: ReadonlySet<string> = words(`
  MOV MOVZX MOVSX MOVSXD LEA POP SETCC STOS LODS MOVS IN INS SLDT STR SMSW SGDT SIDT LAR LSL MOVBE MOVNTI
  LES LDS LSS LFS LGS TZCNT LZCNT POPCNT RDRAND RDSEED RDPID RDFSBASE RDGSBASE VMREAD VMPTRST
  FXSAVE STMXCSR XSAVE XSAVEOPT XSAVEC XSAVES
  FLD FILD FBLD FST FSTP FIST FISTP FISTTP FBSTP FNSTCW FNSTSW FNSTENV FNSAVE
  MOVAPS MOVAPD MOVUPS MOVUPD MOVDQA MOVDQU MOVD MOVQ MOVNTPS MOVNTPD MOVNTDQ MOVNTDQA MOVNTQ MASKMOVQ MASKMOVDQU
  MOVDDUP MOVSLDUP MOVSHDUP LDDQU MOVQ2DQ MOVDQ2Q MOVMSKPS MOVMSKPD PMOVMSKB
  PEXTRB PEXTRW PEXTRD PEXTRQ EXTRACTPS PSHUFD PSHUFHW PSHUFLW PSHUFW
  CVTTPS2PI CVTPS2PI CVTTPD2PI CVTPD2PI CVTTSS2SI CVTSS2SI CVTTSD2SI CVTSD2SI CVTDQ2PD CVTDQ2PS CVTPD2DQ CVTTPD2DQ
  CVTPS2DQ CVTTPS2DQ CVTPD2PS CVTPS2PD CVTPI2PD SQRTPS SQRTPD RSQRTPS RCPPS ROUNDPS ROUNDPD
  PABSB PABSW PABSD PMOVSXBW PMOVSXBD PMOVSXBQ PMOVSXWD PMOVSXWQ PMOVSXDQ PMOVZXBW PMOVZXBD PMOVZXBQ PMOVZXWD
  PMOVZXWQ PMOVZXDQ PHMINPOSUW AESIMC AESKEYGENASSIST
  ANDN BEXTR BLSI BLSMSK BLSR BZHI MULX PDEP PEXT RORX SARX SHLX SHRX
`);
const READS: ReadonlySet<string> = words(`
  CMP TEST PUSH CALL CALLF JMP JMPF RET RETF MUL DIV IDIV BT CMPS SCAS OUTS OUT LTR LLDT LMSW VERR VERW LGDT LIDT BOUND
  XLAT ENTER INT AAM AAD WRFSBASE WRGSBASE VMPTRLD VMCLEAR VMXON INVEPT INVVPID INVPCID UD0 UD1 VMWRITE
  FXRSTOR LDMXCSR XRSTOR XRSTORS FLDCW FLDENV FRSTOR
  FCOM FCOMP FCOMI FCOMIP FUCOM FUCOMP FUCOMI FUCOMIP FICOM FICOMP
  PTEST COMISS COMISD UCOMISS UCOMISD PCMPESTRI PCMPESTRM PCMPISTRI PCMPISTRM
  VPTEST VTESTPS VTESTPD VCOMISS VCOMISD VUCOMISS VUCOMISD VPCMPESTRI VPCMPESTRM VPCMPISTRI VPCMPISTRM VLDMXCSR
`);
const NEITHER: ReadonlySet<string> = words(`
  NOP PREFETCH PREFETCHW PREFETCHNTA PREFETCHT0 PREFETCHT1 PREFETCHT2 INVLPG CLFLUSH CLFLUSHOPT CLWB JCC LOOP LOOPE
  LOOPNE JCXZ
`);

/** Access to operand 0, given the operation and its operands. */
export function access0(op: OpName, operands: readonly string[]): Access {
  if (operands.length === 0 || NEITHER.has(op)) return '-';
  if (op === 'IMUL') return operands.length === 1 ? 'r' : operands.length === 2 ? 'rw' : 'w';
  if (READS.has(op)) return 'r';
  if (WRITES.has(op)) return 'w';
  // Scalar and half-register loads merge into a register, but their stores only write.
  if (/^M/.test(operands[0]) && /^V?MOV/.test(op)) return 'w';
  if (/^W/.test(operands[0]) && /^V?MOV/.test(op)) return 'w';
  // VEX forms name their sources apart from the destination; the FMA group alone adds into it.
  if (op.startsWith('V') && !/^VF(N?M|M)(ADD|SUB)|^VPGATHER|^VGATHER/.test(op) && op !== 'VERR') return 'w';
  return 'rw';
}
