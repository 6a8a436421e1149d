// What is left out of the comparison, and why. Nothing is skipped silently: every rule has its reason here.
import { type Insn, Kind, OP_NAMES } from '@hyve/x86';

const emulated = 'Linux catches the #GP of UMIP and emulates the instruction';
const enters = 'enters the kernel';
const guest = 'the hypervisor under the host answers it';

/** Operations that are never generated. */
export const EXCLUDED_OPS: Readonly<Record<string, string>> = {
  SYSCALL: enters,
  SYSENTER: enters,
  SGDT: emulated,
  SIDT: emulated,
  SLDT: emulated,
  STR: emulated,
  SMSW: emulated,
  INT1: 'the hypervisor under the host passes #DB on with the address of the instruction, not of the next',
  VMCALL: guest,
  VMMCALL: guest,
  VMFUNC: guest,
};

/** Makers whose processors do some things differently. */
export type Vendor = 'AMD' | 'Intel';

/** A condition under which one instruction is left out. */
export interface Exclusion {
  /** Short name for the report. */
  readonly name: string;
  /** Why. */
  readonly why: string;
  /** On whose processors it is left out; on others it is compared. Default everybody's. */
  readonly on?: Vendor;
  /** Whether it applies. `mode` is 32 or 64. */
  readonly applies: (insn: Insn, name: string, mode: number, bytes: Uint8Array) => boolean;
}

const BRANCHES: ReadonlySet<string> = new Set(['JCC', 'JMP', 'CALL', 'RET', 'LOOP', 'LOOPE', 'LOOPNE', 'JCXZ']);
const STRINGS: ReadonlySet<string> = new Set(['MOVS', 'STOS', 'LODS', 'CMPS', 'SCAS', 'INS', 'OUTS']);
const FAR_POINTERS: ReadonlySet<string> = new Set(['CALLF', 'JMPF', 'LSS', 'LFS', 'LGS']);
const LEGACY_PREFIX: ReadonlySet<number> = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);

/** Whether a legacy prefix is among the prefixes of the instruction. */
export function hasPrefix(bytes: Uint8Array, prefix: number): boolean {
  for (const b of bytes) {
    if (b === prefix) return true;
    if (!LEGACY_PREFIX.has(b)) return false;
  }
  return false;
}

/** VEX.W of a three-byte VEX prefix. */
function vexW(bytes: Uint8Array, insn: Insn): boolean {
  const at = bytes.findIndex((b) => !LEGACY_PREFIX.has(b));
  return insn.vex !== 0 && bytes[at] === 0xc4 && ((bytes[at + 2] as number) & 0x80) !== 0;
}

/** Conditional exclusions. */
export const EXCLUSIONS: readonly Exclusion[] = [
  {
    name: 'SHA with a misaligned operand',
    why: 'AMD does not look at the alignment, Intel raises #GP as for all of SSE; the software CPU follows Intel',
    on: 'AMD',
    applies: (insn, name) => name.startsWith('SHA') && insn.kind1 === Kind.Mem,
  },
  {
    name: 'VPEXTRD, VPINSRD with VEX.W outside 64-bit mode',
    why: 'AMD raises #UD, Intel ignores W; the software CPU follows Intel',
    on: 'AMD',
    applies: (insn, name, mode, bytes) =>
      mode === 32 && (name === 'VPEXTRD' || name === 'VPINSRD') && vexW(bytes, insn),
  },
  {
    name: 'near branch with 66 in 64-bit mode',
    why: 'AMD cuts the target to 16 bits, Intel ignores the prefix; the software CPU follows Intel',
    on: 'AMD',
    applies: (_, name, mode, bytes) => mode === 64 && BRANCHES.has(name) && hasPrefix(bytes, 0x66),
  },
  {
    name: 'SYSRET outside 64-bit mode',
    why: 'AMD has it there and raises #GP, Intel #UD',
    on: 'AMD',
    applies: (_, name, mode) => name === 'SYSRET' && mode === 32,
  },
  {
    name: 'ARPL through CS',
    why: 'the processor faults only if the selector is written; the software CPU checks the segment beforehand',
    applies: (_, name, _mode, bytes) => name === 'ARPL' && hasPrefix(bytes, 0x2e),
  },
  {
    name: 'MOVSXD of words',
    why: 'AMD reads four bytes for it, Intel two',
    on: 'AMD',
    applies: (insn, name) => name === 'MOVSXD' && insn.opSize === 2,
  },
  {
    name: 'gathers and masked moves through FS, GS or CS outside 64-bit mode',
    why: 'elements that the mask leaves out are no reason for #GP; the software CPU checks the segment whatever the mask',
    applies: (_, name, mode, bytes) =>
      mode === 32 && /GATHER|MASKMOV[PDQ]/.test(name) && [0x64, 0x65, 0x2e].some((p) => hasPrefix(bytes, p)),
  },
  {
    name: 'MASKMOVQ',
    why: 'when it faults, AMD has switched the x87 state to MMX already',
    on: 'AMD',
    applies: (_, name, mode) => name === 'MASKMOVQ' && mode === 32,
  },
  {
    name: 'INT 80h',
    why: enters,
    applies: (insn, name) => name === 'INT' && (insn.immLo & 0xff) === 0x80,
  },
  {
    name: 'SHLD, SHRD of words by more than 16',
    why: 'result and flags are undefined',
    applies: (insn, name) =>
      (name === 'SHLD' || name === 'SHRD') && insn.opSize === 2 && (insn.kind2 !== Kind.Imm || (insn.immLo & 31) > 16),
  },
  {
    name: 'BSWAP of words',
    why: 'the result is undefined',
    applies: (insn, name) => name === 'BSWAP' && insn.opSize === 2,
  },
  {
    name: 'far pointers with 64-bit offsets',
    why: 'AMD ignores REX.W there, Intel does not; the software CPU follows Intel',
    on: 'AMD',
    applies: (insn, name) => FAR_POINTERS.has(name) && insn.opSize === 8,
  },
  {
    name: '0F 0D with a register',
    why: 'a reserved NOP of Intel; AMD raises #UD',
    on: 'AMD',
    applies: (insn, name, _mode, bytes) =>
      name === 'NOP' && insn.kind0 === Kind.Gpr && bytes[bytes.length - 2] === 0x0d && bytes[bytes.length - 3] === 0x0f,
  },
  {
    name: 'PUSH of segment registers as more than a word',
    why: 'Intel leaves the upper bytes on the stack as they are, AMD clears them, and so does the software CPU',
    on: 'Intel',
    applies: (insn, name) => name === 'PUSH' && insn.kind0 === Kind.Seg && insn.opSize > 2,
  },
  {
    name: 'repeated string instructions with 32-bit addresses in 64-bit mode',
    why: 'where no iteration completes, Intel clears the upper halves of the registers, AMD and the software CPU do not',
    on: 'Intel',
    applies: (insn, name, mode) => mode === 64 && insn.rep !== 0 && insn.addrSize === 4 && STRINGS.has(name),
  },
];

/** What the generator itself avoids. */
export const AVOIDED: readonly string[] = [
  'POPA, POP to memory and CALL where the stack faults: which registers are changed by then, and which of two faults comes first, is up to the processor',
  'FS and GS after WRFSBASE and WRGSBASE: operands would hit what else is mapped in the runner',
  'ARPL and VMASKMOV after segment loads: the processor faults for a read-only segment only if something is written',
  'XSAVE and its like after VZEROALL and VZEROUPPER: whether registers of zeros are in use (XINUSE) is up to the processor',
  'string moves between two addresses of the same page: fast-string microcode tells overlap by linear addresses',
  'REP MOVS with 16-bit addresses and junk above them: the host looks for overlap in the whole registers (seen on family 1Ah)',
  'AC set in programs with x87, MMX or SSE: which vector accesses are checked, and whether at 8 (as here and with Intel), 16 or 32 bytes, is up to the processor',
  'FIP, FDP, FOP and the selectors in FXSAVE, FNSTENV and FNSAVE images: AMD and Intel fill them at different times',
  'PE and UE after transcendental x87 instructions, and ES where one of them is unmasked: the host has them for exact results too',
  'XRSTOR from a header that an earlier instruction may have written: it may name components that only the host has',
  'FNSTENV and FNSAVE across the end of the lower half of addresses: which part faults first is up to the processor',
  'MXCSR bit 17: misaligned SSE mode, AMD only',
];

/** Reason to leave an instruction out, or ''. */
export function excluded(insn: Insn, mode: number, bytes: Uint8Array, vendor: Vendor): string {
  const name = OP_NAMES[insn.op] as string;
  if (Object.hasOwn(EXCLUDED_OPS, name)) return name;
  for (const e of EXCLUSIONS) if ((e.on ?? vendor) === vendor && e.applies(insn, name, mode, bytes)) return e.name;
  return '';
}
