// Random encodings of table rows, for tests that compare decoders or processors. Not an assembler: see asm.ts.
import type { Mode } from './insn.ts';
import { Method, type OperandForm, parseOperand } from './operand.ts';
import { PREFIX_66, PREFIX_F2, PREFIX_F3 } from './row.ts';
import type { Row } from './table.ts';

/** What {@link encodeRandom} may choose from. */
export interface EncodeOptions {
  /** Mode the bytes are for. */
  readonly mode: Mode;
  /**
   * Address memory only as [this general register + 0…memSpan-1], with no segment override and no address size prefix
   * (implied operands of string instructions excepted). Without it every addressing form is used.
   */
  readonly memBase?: number;
  /** Exclusive bound of displacements with `memBase`, bytes; default 128. */
  readonly memSpan?: number;
  /** General registers that may be operands; default all of the mode. `memBase` is left out when it is given. */
  readonly registers?: readonly number[];
  /** Force operand 0 or its like in ModRM.rm to be a register or memory; default either. */
  readonly rm?: 'reg' | 'mem';
  /** Use a repeat prefix on string instructions now and then; default true. */
  readonly repeat?: boolean;
  /** Use LOCK now and then; default true. */
  readonly lock?: boolean;
}

const MOVABLE_CR = [0, 2, 3, 4, 8] as const;
const ADDRESSABLE_16 = [-1, -1, -1, 7, -1, 6, 4, 5] as const; // rm of [BX], [BP], [SI], [DI] by register

class Encoding {
  readonly prefixes: number[] = [];
  readonly tail: number[] = [];
  w = 0;
  r = 0;
  x = 0;
  b = 0;
  rex = false;

  immediate(bytes: number, rng: () => number): void {
    const word = rng();
    // Small and extreme values are where the bugs are.
    const fill = (word & 7) === 0 ? 0 : (word & 7) === 1 ? 0xff : -1;
    for (let i = 0; i < bytes; i++) this.tail.push(fill >= 0 && i > 0 ? fill : rng() & 0xff);
  }
}

/**
 * Makes one random valid encoding of a row.
 * @param row form to encode
 * @param rng returns random uint32 values
 * @param o bounds of the choice
 * @returns the bytes, or null when the row does not exist in that mode or cannot meet the options
 */
export function encodeRandom(row: Row, rng: () => number, o: EncodeOptions): Uint8Array | null {
  const e = row.encoding;
  const long = o.mode === 64;
  if (long ? row.modes === 'i64' : row.modes === 'o64') return null;
  if (!long && !e.vex && e.w === 1) return null;
  const int = (n: number): number => rng() % n;
  const chance = (percent: number): boolean => int(100) < percent;
  const count = long ? 16 : 8;
  const out = new Encoding();
  const forms = row.operands.map(parseOperand);
  const has = (...methods: number[]): OperandForm | undefined => forms.find((f) => methods.includes(f.method));

  // Sizes first: registers, immediates and addressing depend on them.
  const only66 = e.prefixes === PREFIX_66;
  const size66 =
    !e.vex && !only66 && ((e.prefixes & PREFIX_66) !== 0 || e.prefixes === PREFIX_F3 || e.prefixes === PREFIX_F2);
  const use66 = size66 && chance(25);
  out.w = e.w >= 0 ? e.w : (long || e.vex) && chance(30) ? 1 : 0;
  const bounded = o.memBase !== undefined;
  const use67 = !bounded && chance(15) && !(has(Method.VsibX, Method.VsibY) && o.mode !== 64);
  const addrSize = long ? (use67 ? 4 : 8) : (o.mode === 32) !== use67 ? 4 : 2;
  if (addrSize === 2 && has(Method.VsibX, Method.VsibY)) return null;
  let opSize: number;
  if (long) {
    const forced = row.sizeRule === 'f64' || row.sizeRule === 'native';
    opSize = out.w === 1 || forced ? 8 : use66 ? 2 : row.sizeRule === 'd64' ? 8 : 4;
  } else opSize = row.sizeRule === 'native' || e.vex || (o.mode === 32) !== use66 ? 4 : 2;

  const general = (o.registers ?? Array.from({ length: count }, (_, i) => i)).filter(
    (r) => r !== o.memBase && r < count,
  );
  const pickGeneral = (form: OperandForm): number => {
    if (parseByte(form)) {
      // In byte registers 4–7 are AH…BH without REX; with it SPL…DIL.
      const low = general.filter((r) => r < 4 || (long && r >= 4));
      const high = [0, 1, 2, 3].filter((r) => general.includes(r)).map((r) => r + 4);
      if (high.length > 0 && chance(25) && !out.rex && out.w === 0) {
        highByte = true;
        return high[int(high.length)];
      }
      const r = low[int(low.length)];
      if (r >= 4 && r < 8) out.rex = true;
      return r;
    }
    return general[int(general.length)];
  };
  let highByte = false;
  if (general.length === 0) return null;
  const vector = (): number => int(count);

  let opcode = e.opcode;
  if (has(Method.Z)) {
    const reg = pickGeneral(has(Method.Z)!);
    if (opcode === 0x90 && reg === 0) return null;
    opcode += reg & 7;
    out.b = reg >> 3;
  } else if (e.span > 1) opcode += int(e.span);

  let vvvv = 0;
  if (has(Method.H)) vvvv = vector();
  else if (has(Method.B)) vvvv = general[int(general.length)];

  const head: number[] = [];
  let isMem = false;
  if (e.modrm) {
    let reg = e.reg >= 0 ? e.reg : int(8);
    if (e.reg < 0) {
      if (has(Method.G)) reg = pickGeneral(has(Method.G)!);
      else if (has(Method.V)) reg = vector();
      else if (has(Method.S)) {
        reg = int(6);
        if (forms[0].method === Method.S && reg === 1) reg = 3;
      } else if (has(Method.C)) reg = MOVABLE_CR[int(long ? 5 : 4)];
    }
    out.r = reg >> 3;
    const vsib = has(Method.VsibX, Method.VsibY);
    const rmForm = has(Method.E, Method.R, Method.W, Method.Q, Method.Sti);
    if (vsib !== undefined && bounded) return null; // an index vector cannot be kept in bounds
    isMem = e.mod3 === 0 || vsib !== undefined || (e.mod3 < 0 && rmForm !== undefined && !rmForm.anyMod && chance(60));
    if (e.mod3 < 0 && o.rm !== undefined && rmForm !== undefined && !rmForm.anyMod) isMem = o.rm === 'mem';
    if (!isMem) {
      let rm = e.rm >= 0 ? e.rm : int(8);
      if (e.rm < 0 && rmForm !== undefined) {
        if (rmForm.method === Method.E || rmForm.method === Method.R) rm = pickGeneral(rmForm);
        else if (rmForm.method === Method.W) rm = vector();
      }
      out.b = rm >> 3;
      head.push(0xc0 | ((reg & 7) << 3) | (rm & 7));
    } else if (o.memBase !== undefined) {
      const disp = int(o.memSpan ?? 128);
      const wide = disp > 127 || chance(20);
      const mod = wide ? 0x80 : 0x40;
      if (addrSize === 2) {
        const rm = ADDRESSABLE_16[o.memBase] ?? -1;
        if (rm < 0) return null;
        head.push(mod | ((reg & 7) << 3) | rm, disp & 0xff);
        if (wide) head.push(disp >> 8);
      } else {
        head.push(mod | ((reg & 7) << 3) | (o.memBase & 7));
        if ((o.memBase & 7) === 4) head.push(0x24);
        head.push(disp & 0xff);
        if (wide) head.push((disp >> 8) & 0xff, (disp >> 16) & 0xff, disp >> 24);
        out.b = o.memBase >> 3;
      }
    } else {
      const mod = int(3);
      const rm = vsib !== undefined ? 4 : int(8);
      head.push((mod << 6) | ((reg & 7) << 3) | rm);
      let dispBytes = mod === 1 ? 1 : mod === 2 ? (addrSize === 2 ? 2 : 4) : 0;
      if (addrSize === 2) {
        if (mod === 0 && rm === 6) dispBytes = 2;
      } else {
        let base = rm;
        if (rm === 4) {
          let index = int(count);
          // Destination, index and mask of a gather must differ.
          while (vsib !== undefined && (index === reg || index === vvvv)) index = (index + 1) % count;
          out.x = index >> 3;
          base = int(8);
          head.push((int(4) << 6) | ((index & 7) << 3) | base);
        }
        if (mod === 0 && base === 5) dispBytes = 4;
        out.b = long ? int(2) : 0;
      }
      for (let i = 0; i < dispBytes; i++) head.push(rng() & 0xff);
      if (vsib !== undefined)
        while (vvvv === reg || vvvv === (((head[1] >> 3) & 7) | (out.x << 3))) vvvv = (vvvv + 1) % count;
    }
    if (vsib !== undefined && !isMem) return null;
  }

  out.tail.push(...head);
  for (const form of forms) {
    switch (form.method) {
      case Method.Ib:
      case Method.Ibs:
      case Method.Jb:
      case Method.L:
        out.immediate(1, rng);
        break;
      case Method.Iw:
        out.immediate(2, rng);
        break;
      case Method.Iz:
      case Method.Jz:
        out.immediate(opSize === 2 ? 2 : 4, rng);
        break;
      case Method.Iv:
        out.immediate(opSize, rng);
        break;
      case Method.A:
        out.immediate(opSize === 2 ? 4 : 6, rng);
        break;
      case Method.O:
        out.immediate(addrSize, rng);
        break;
    }
  }

  if (e.vex) {
    const l = e.l >= 0 ? e.l : int(2);
    const pp = Math.log2(e.prefixes);
    const last = (((vvvv & 15) ^ 15) << 3) | (l << 2) | pp;
    const bytes: number[] = [];
    if (use67) bytes.push(0x67);
    if (!bounded && chance(10)) bytes.push(0x64);
    if (e.map === 1 && out.w === 0 && out.x === 0 && out.b === 0 && chance(60)) {
      bytes.push(0xc5, ((out.r ^ 1) << 7) | last);
    } else bytes.push(0xc4, ((out.r ^ 1) << 7) | ((out.x ^ 1) << 6) | ((out.b ^ 1) << 5) | e.map, (out.w << 7) | last);
    return checked([...bytes, opcode, ...out.tail]);
  }

  if (use66) out.prefixes.push(0x66);
  if (use67) out.prefixes.push(0x67);
  if (!bounded && chance(15)) out.prefixes.push([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65][int(6)]);
  if (row.lock && isMem && o.lock !== false && chance(25)) out.prefixes.push(0xf0);
  if (row.rep !== '' && o.repeat !== false && chance(40)) out.prefixes.push(chance(50) ? 0xf2 : 0xf3);
  if (e.prefixes === PREFIX_66) out.prefixes.push(0x66);
  else if (e.prefixes === PREFIX_F3) out.prefixes.push(0xf3);
  else if (e.prefixes === PREFIX_F2) out.prefixes.push(0xf2);
  // Any order of the legacy prefixes means the same.
  for (let i = out.prefixes.length - 1; i > 0; i--) {
    const j = int(i + 1);
    [out.prefixes[i], out.prefixes[j]] = [out.prefixes[j], out.prefixes[i]];
  }
  const rex = (out.w << 3) | (out.r << 2) | (out.x << 1) | out.b;
  if (rex !== 0 || out.rex) {
    if (!long || highByte) return null;
    out.prefixes.push(0x40 | rex);
  } else if (long && !highByte && chance(5)) out.prefixes.push(0x40);
  const map = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]][e.map];
  return checked([...out.prefixes, ...map, opcode, ...out.tail]);
}

function checked(bytes: readonly number[]): Uint8Array | null {
  return bytes.length <= 15 ? Uint8Array.from(bytes) : null;
}

const BYTE_CODE = parseOperand('Gb').regSize;

function parseByte(form: OperandForm): boolean {
  return form.regSize === BYTE_CODE;
}
