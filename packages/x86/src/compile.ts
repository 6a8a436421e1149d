// From table rows to the arrays the decoder walks: for each mode, map and opcode byte a leaf or a small decision tree.
import { HyveError } from '@hyve/core';
import { Method, parseOperand } from './operand.ts';
import { PREFIX_66 } from './row.ts';
import { ROWS, type Row } from './table.ts';

/** Row has a ModRM byte. Bits of `DecodeTables.info`. */
export const INFO_MODRM: number = 1 << 0;
/** LOCK allowed with memory. */
export const INFO_LOCK: number = 1 << 1;
/** Repeat prefixes count. */
export const INFO_REP: number = 1 << 2;
/** Operand size rule: 0 normal, 1 d64, 2 f64, 3 native. */
export const INFO_RULE_SHIFT: number = 3;
/** Mask of the rule, unshifted. */
export const INFO_RULE_MASK: number = 3;
/** Operand size 1. */
export const INFO_BYTE: number = 1 << 5;
/** Operand size at most 4. */
export const INFO_NO_QUAD: number = 1 << 6;
/** Prefix 66 selects the row and does not set the operand size. */
export const INFO_IGNORE_66: number = 1 << 7;
/** Low opcode bits are a condition. */
export const INFO_CC: number = 1 << 8;
/** Operand count, three bits. */
export const INFO_COUNT_SHIFT: number = 9;
/** ModRM.mod is taken for 3. */
export const INFO_ANY_MOD: number = 1 << 12;
/** VEX.vvvv must be 1111. */
export const INFO_NO_VVVV: number = 1 << 13;
/** Gather: needs a SIB byte and three different vector registers. */
export const INFO_VSIB: number = 1 << 14;

/** Decision: mandatory prefix. First word of a tree node; the children follow. */
export const DIM_PREFIX = 0;
/** Decision: REX.W or VEX.W. */
export const DIM_W = 1;
/** Decision: REX.B. */
export const DIM_B = 2;
/** Decision: VEX.L. */
export const DIM_L = 3;
/** Decision: ModRM.reg. */
export const DIM_REG = 4;
/** Decision: ModRM.mod is 3. */
export const DIM_MOD3 = 5;
/** Decision: ModRM.rm. */
export const DIM_RM = 6;
const BRANCHES = [4, 2, 2, 2, 8, 2, 8] as const;

/** Number of maps: one-byte, 0F, 0F38, 0F3A, and the last three again under VEX. */
export const MAP_COUNT = 7;

/** Everything the decoder looks up; read-only after construction, so that decoders may share it. */
export interface DecodeTables {
  /** `[64-bit mode][map][opcode]`: 0 none, n > 0 row n - 1, n < 0 tree node at -n. */
  readonly roots: Int32Array;
  /** Nodes: dimension, then one child per value, coded as in `roots`. */
  readonly tree: Int32Array;
  /** INFO_ bits by row. */
  readonly info: Int32Array;
  /** Operation by row. */
  readonly op: Uint16Array;
  /** Methods, four per row. */
  readonly method: Uint8Array;
  /** Memory size codes, four per row. */
  readonly memSize: Uint8Array;
  /** Register size codes, four per row. */
  readonly regSize: Uint8Array;
  /** Fixed register numbers, four per row. */
  readonly fixed: Uint8Array;
}

function constraint(row: Row, dim: number): number {
  const e = row.encoding;
  switch (dim) {
    case DIM_PREFIX:
      return e.prefixes;
    case DIM_W:
      return e.w < 0 ? 3 : 1 << e.w;
    case DIM_B:
      return e.b < 0 ? 3 : 1 << e.b;
    case DIM_L:
      return e.l < 0 ? 3 : 1 << e.l;
    case DIM_REG:
      return e.reg < 0 ? 0xff : 1 << e.reg;
    case DIM_MOD3:
      return e.mod3 < 0 ? 3 : 1 << e.mod3;
    default:
      return e.rm < 0 ? 0xff : 1 << e.rm;
  }
}

// Prefixes weigh more than the rest: F3 90 is PAUSE although 90 with REX.B = 0 is also spelled out.
function tightness(row: Row): number {
  let sum = 0;
  for (let dim = 0; dim < BRANCHES.length; dim++) {
    if (constraint(row, dim) !== (1 << BRANCHES[dim]) - 1) sum += dim === DIM_PREFIX ? 16 : 1;
  }
  return sum;
}

class TreeBuilder {
  readonly words: number[] = [0];
  private readonly known = new Map<string, number>();

  build(rows: readonly Row[], from: number): number {
    if (rows.length === 0) return 0;
    for (let dim = from; dim < BRANCHES.length; dim++) {
      const count = BRANCHES[dim];
      if (rows.every((r) => constraint(r, dim) === (1 << count) - 1)) continue;
      const children: number[] = [];
      for (let v = 0; v < count; v++) {
        children.push(
          this.build(
            rows.filter((r) => ((constraint(r, dim) >> v) & 1) !== 0),
            dim + 1,
          ),
        );
      }
      if (children.every((c) => c === children[0])) return children[0];
      const key = `${dim},${children.join()}`;
      let at = this.known.get(key);
      if (at === undefined) {
        at = this.words.length;
        this.words.push(dim, ...children);
        this.known.set(key, at);
      }
      return -at;
    }
    const sorted = [...rows].sort((a, b) => tightness(b) - tightness(a));
    if (sorted.length > 1 && tightness(sorted[0]) === tightness(sorted[1])) {
      throw new HyveError(
        'X86_TABLE',
        `rows "${sorted[0].spec.encoding}" ${sorted[0].mnemonic} and "${sorted[1].spec.encoding}" ${sorted[1].mnemonic} overlap`,
      );
    }
    return sorted[0].id + 1;
  }
}

const RULES = ['normal', 'd64', 'f64', 'native'] as const;

function rowInfo(row: Row, methods: readonly number[], anyMod: boolean): number {
  let info = row.operands.length << INFO_COUNT_SHIFT;
  if (row.encoding.modrm) info |= INFO_MODRM;
  if (row.lock) info |= INFO_LOCK;
  if (row.rep !== '') info |= INFO_REP;
  info |= RULES.indexOf(row.sizeRule) << INFO_RULE_SHIFT;
  if (row.byte) info |= INFO_BYTE;
  if (row.noQuad) info |= INFO_NO_QUAD;
  if (row.encoding.prefixes === PREFIX_66 && !row.encoding.vex) info |= INFO_IGNORE_66;
  if (row.encoding.span === 16) info |= INFO_CC;
  if (anyMod) info |= INFO_ANY_MOD;
  if (row.encoding.vex && !methods.includes(Method.H) && !methods.includes(Method.B)) info |= INFO_NO_VVVV;
  if (methods.includes(Method.VsibX) || methods.includes(Method.VsibY)) info |= INFO_VSIB;
  return info;
}

/**
 * Compiles the table.
 * @param features CPUID features present; rows that need another one are left out, so that their bytes mean what they
 *   mean on a processor without it. undefined: all
 * @throws HyveError X86_TABLE when two rows claim the same bytes
 */
export function compileTables(features: ReadonlySet<string> | undefined): DecodeTables {
  const rows = ROWS.filter((r) => r.feature === '' || features === undefined || features.has(r.feature));
  const tables: DecodeTables = {
    roots: new Int32Array(2 * MAP_COUNT * 256),
    tree: new Int32Array(0),
    info: new Int32Array(ROWS.length),
    op: new Uint16Array(ROWS.length),
    method: new Uint8Array(ROWS.length * 4),
    memSize: new Uint8Array(ROWS.length * 4),
    regSize: new Uint8Array(ROWS.length * 4),
    fixed: new Uint8Array(ROWS.length * 4),
  };
  const cells: Row[][] = Array.from(tables.roots, () => []);
  for (const row of rows) {
    const e = row.encoding;
    const forms = row.operands.map(parseOperand);
    forms.forEach((form, i) => {
      tables.method[row.id * 4 + i] = form.method;
      tables.memSize[row.id * 4 + i] = form.memSize;
      tables.regSize[row.id * 4 + i] = form.regSize;
      tables.fixed[row.id * 4 + i] = form.reg;
    });
    tables.op[row.id] = row.op;
    tables.info[row.id] = rowInfo(
      row,
      forms.map((f) => f.method),
      forms.some((f) => f.anyMod),
    );
    const map = e.vex ? 3 + e.map : e.map;
    for (let long = 0; long < 2; long++) {
      if (row.modes === (long === 1 ? 'i64' : 'o64')) continue;
      for (let i = 0; i < e.span; i++) cells[(long * MAP_COUNT + map) * 256 + e.opcode + i].push(row);
    }
  }
  const builder = new TreeBuilder();
  cells.forEach((cell, i) => {
    tables.roots[i] = builder.build(cell, 0);
  });
  return { ...tables, tree: Int32Array.from(builder.words) };
}
