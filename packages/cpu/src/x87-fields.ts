// x87 instructions and gathers have no immediates: their place holds what FOP and FDP need, or the scale, which handlers
// could not know otherwise.
import { type Insn, ROWS } from '@hyve/x86';

/** Whether an instruction is D8–DF. */
function isX87(n: Insn): boolean {
  const e = ROWS[n.row]?.encoding;
  return e !== undefined && e.map === 0 && !e.vex && (e.opcode & 0xf8) === 0xd8;
}
/** `imm2`, or for the x87 the last opcode as FOP has it: low 3 bits of the first byte, then ModRM. */
export function imm2Of(n: Insn): number {
  return isX87(n) ? (((ROWS[n.row]?.encoding.opcode ?? 0) & 7) << 8) | n.modrm : n.imm2;
}
/** Low half of the immediate, or for the x87 the segment of the memory operand, for gathers the scale (log2). */
export function immLoOf(n: Insn): number {
  return n.vsib !== 0 ? n.scale : isX87(n) ? n.seg : n.immLo;
}
