export { Decoder, MAX_LENGTH } from './decode.ts';
export { ccFlags, type FlagEffects } from './effects.ts';
export { type EncodeOptions, encodeRandom } from './encode.ts';
export { format, mnemonic } from './format.ts';
export { Insn, Kind, type Mode, Seg, Status } from './insn.ts';
export { OP, OP_NAMES, type OpName } from './ops.ts';
export type { Encoding, RowSpec } from './row.ts';
export { FEATURES, ROWS, type Row } from './table.ts';
