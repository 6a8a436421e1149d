// The opcode table: every row of the part tables, parsed and numbered.
import { type Access, access0, type FlagEffects, flagEffects } from './effects.ts';
import { OP, type OpName } from './ops.ts';
import { type Encoding, operandList, parseEncoding, type RowSpec } from './row.ts';
import { AVX } from './table-avx.ts';
import { INTEGER } from './table-integer.ts';
import { SSE } from './table-sse.ts';
import { X87 } from './table-x87.ts';

/** How the operand size of a row is found in 64-bit mode; see `RowSpec.attributes`. */
export type OperandSizeRule = 'normal' | 'd64' | 'f64' | 'native';

/** One form of one instruction. */
export interface Row {
  /** Index in {@link ROWS}. */
  readonly id: number;
  /** Value of `OP`. */
  readonly op: number;
  /** Name of the operation. */
  readonly mnemonic: OpName;
  /** The row as written. */
  readonly spec: RowSpec;
  /** Encoding, parsed. */
  readonly encoding: Encoding;
  /** Operands in the manual's letters, e.g. `['Ev', 'Gv']`. */
  readonly operands: readonly string[];
  /** LOCK is allowed when operand 0 is memory. */
  readonly lock: boolean;
  /** Modes in which the row exists: 64-bit only, all but 64-bit, or all. */
  readonly modes: 'all' | 'i64' | 'o64';
  /** Operand size rule. */
  readonly sizeRule: OperandSizeRule;
  /** The row works on bytes: `Insn.opSize` is 1. */
  readonly byte: boolean;
  /** Operands are at most 32 bits even with REX.W (port I/O). */
  readonly noQuad: boolean;
  /** CPUID feature it needs, or '' for what every x86-64 processor has. */
  readonly feature: string;
  /** Faults outside CPL 0 (more conditions may apply). */
  readonly privileged: boolean;
  /** Repeat prefixes: none, plain, or ending on ZF. */
  readonly rep: '' | 'rep' | 'repe';
  /** Status flag effects. */
  readonly flags: FlagEffects;
  /** Access to operand 0. */
  readonly access0: Access;
}

function build(spec: RowSpec, id: number): Row {
  const operands = operandList(spec);
  const attributes = new Set(spec.attributes.split(' ').filter((a) => a !== ''));
  const feature = [...attributes].find((a) => a.startsWith('+'))?.slice(1) ?? '';
  const [first, second] = operands;
  const byteFirst = /^([EGZMOXY]b|AL)$/.test(first ?? '');
  const byteSecond = (first === 'DX' && second === 'Xb') || ((first === 'Ib' || first === 'DX') && second === 'AL');
  return {
    id,
    op: OP[spec.mnemonic],
    mnemonic: spec.mnemonic,
    spec,
    encoding: parseEncoding(spec),
    operands,
    lock: attributes.has('lock'),
    modes: attributes.has('i64') ? 'i64' : attributes.has('o64') ? 'o64' : 'all',
    sizeRule: attributes.has('d64')
      ? 'd64'
      : attributes.has('f64')
        ? 'f64'
        : attributes.has('native')
          ? 'native'
          : 'normal',
    byte: byteFirst || byteSecond,
    noQuad: operands.some((o) => o === 'eAX' || o === 'Xz' || o === 'Yz'),
    feature,
    privileged: attributes.has('priv'),
    rep: attributes.has('repe') ? 'repe' : attributes.has('rep') ? 'rep' : '',
    flags: flagEffects(spec.mnemonic, operands[1] === '1'),
    access0: access0(spec.mnemonic, operands),
  };
}

/** Every form of every instruction. The position of a row may change between versions. */
export const ROWS: readonly Row[] = [...INTEGER, ...X87, ...SSE, ...AVX].map(build);

/** Names of the CPUID features that rows ask for; what a decoder may be given. */
export const FEATURES: readonly string[] = [...new Set(ROWS.map((r) => r.feature))].filter((f) => f !== '').sort();
