// Instruction decoder (SDM vol. 2 chapter 2, AMD APM vol. 3 chapter 1): bytes in, one Insn filled, nothing allocated.
// Mirrors the decoding half of vmm_instruction_emul.c, for all instructions instead of a few.
import {
  compileTables,
  type DecodeTables,
  DIM_B,
  DIM_L,
  DIM_MOD3,
  DIM_PREFIX,
  DIM_REG,
  DIM_W,
  INFO_ANY_MOD,
  INFO_BYTE,
  INFO_CC,
  INFO_COUNT_SHIFT,
  INFO_IGNORE_66,
  INFO_LOCK,
  INFO_MODRM,
  INFO_NO_QUAD,
  INFO_NO_VVVV,
  INFO_REP,
  INFO_RULE_MASK,
  INFO_RULE_SHIFT,
  INFO_VSIB,
  MAP_COUNT,
} from './compile.ts';
import { type Insn, Kind, type Mode, Status } from './insn.ts';
import { Method, SIZES } from './operand.ts';

/** Longest legal instruction, bytes. */
export const MAX_LENGTH = 15;
// A decode started at a legal prefix count never reads further than this.
const WINDOW = 40;

// Prefix classes. Segment overrides are SEGMENT + register number.
const NOT_PREFIX = 0;
const REX = 1;
const OPERAND_SIZE = 2;
const ADDRESS_SIZE = 3;
const LOCK = 4;
const REPEAT = 5;
const IGNORED = 6;
const SEGMENT = 8;

function prefixClasses(long: boolean): Uint8Array {
  const c = new Uint8Array(256);
  c[0x66] = OPERAND_SIZE;
  c[0x67] = ADDRESS_SIZE;
  c[0xf0] = LOCK;
  c[0xf2] = c[0xf3] = REPEAT;
  [0x26, 0x2e, 0x36, 0x3e].forEach((b, seg) => {
    c[b] = long ? IGNORED : SEGMENT + seg;
  });
  c[0x64] = SEGMENT + 4;
  c[0x65] = SEGMENT + 5;
  if (long) c.fill(REX, 0x40, 0x50);
  return c;
}

const CLASSES_LEGACY: Uint8Array = prefixClasses(false);
const CLASSES_LONG: Uint8Array = prefixClasses(true);

// 16-bit addressing forms by rm (SDM table 2-1): base, index, default segment.
const BASE16: Int8Array = Int8Array.of(3, 3, 5, 5, 6, 7, 5, 3);
const INDEX16: Int8Array = Int8Array.of(6, 7, 6, 7, -1, -1, -1, -1);
const SEG16: Int8Array = Int8Array.of(3, 3, 2, 2, 3, 3, 2, 3);

const INVALID = -1;
const SEG_CS = 1;
const SEG_SS = 2;
const SEG_DS = 3;

function pack(kind: number, reg: number, size: number): number {
  return kind | (reg << 8) | (size << 16);
}

/**
 * Decodes x86 instructions of all modes. Holds only tables and scratch space: decode any number of streams with one.
 *
 * Not modelled: EVEX, XOP, 3DNow! (all #UD); VEX in real and virtual-8086 mode is decoded although processors give #UD
 * there, since a decoder cannot tell these modes from 16-bit protected mode.
 *
 * @example
 * const decoder = new Decoder();
 * const insn = new Insn();
 * const bytes = Uint8Array.of(0x48, 0x01, 0xd8);
 * decoder.decode(insn, bytes, 0, bytes.length, 64); // Status.Ok; insn.op is OP.ADD, insn.length 3
 */
export class Decoder {
  private readonly tables: DecodeTables;
  private readonly scratch = new Uint8Array(WINDOW);
  private pos = 0;
  private rex = 0;
  private log2Size = 0;
  private vexL = 0;
  private seg = -1;
  private long = false;

  /** @param features CPUID features by the names in the table; without the argument, all of them */
  constructor(features?: ReadonlySet<string> | undefined) {
    this.tables = compileTables(features);
  }

  /**
   * Decodes the instruction at `bytes[offset]`.
   * @param insn filled in; on failure only `length` (bytes read), `row` and `op` (-1) mean anything
   * @param bytes code
   * @param offset where the instruction starts
   * @param limit first index that may not be read; bytes from there on are treated as not there yet
   * @param mode 16, 32 or 64
   * @returns a value of {@link Status}
   */
  decode(insn: Insn, bytes: Uint8Array, offset: number, limit: number, mode: Mode): number {
    if (limit - offset >= WINDOW && limit <= bytes.length) return this.run(insn, bytes, offset, WINDOW, mode);
    const end = Math.min(limit, bytes.length);
    const scratch = this.scratch;
    const available = end - offset;
    for (let i = 0; i < WINDOW; i++) scratch[i] = i < available ? bytes[offset + i] : 0;
    return this.run(insn, scratch, 0, Math.max(available, 0), mode);
  }

  // Ends an unsuccessful decode that has used `length` bytes. What lies beyond the available bytes was read as zeros,
  // so a verdict that depends on it does not count.
  private fail(insn: Insn, length: number, available: number): number {
    insn.row = -1;
    insn.op = -1;
    insn.length = Math.min(length, available);
    if (length > available) {
      if (available < MAX_LENGTH) return Status.NeedMore;
      insn.length = MAX_LENGTH;
      return Status.TooLong;
    }
    if (length > MAX_LENGTH) {
      insn.length = MAX_LENGTH;
      return Status.TooLong;
    }
    return Status.Undefined;
  }

  private run(insn: Insn, bytes: Uint8Array, start: number, available: number, mode: Mode): number {
    const t = this.tables;
    const long = mode === 64;
    const classes = long ? CLASSES_LONG : CLASSES_LEGACY;
    let pos = start;
    let rex = 0;
    let operandSizePrefix = 0;
    let addressSizePrefix = 0;
    let lock = 0;
    let repeat = 0;
    let seg = -1;
    let byte = bytes[pos++];
    let cls = classes[byte];
    while (cls !== NOT_PREFIX) {
      if (cls === REX) rex = byte;
      else {
        rex = 0; // only a REX directly before the opcode counts
        if (cls >= SEGMENT) seg = cls - SEGMENT;
        else if (cls === OPERAND_SIZE) operandSizePrefix = 1;
        else if (cls === ADDRESS_SIZE) addressSizePrefix = 1;
        else if (cls === LOCK) lock = 1;
        else if (cls === REPEAT) repeat = byte;
      }
      if (pos - start >= MAX_LENGTH) return this.fail(insn, MAX_LENGTH + 1, available);
      byte = bytes[pos++];
      cls = classes[byte];
    }

    let map = 0;
    let prefix = repeat !== 0 ? (repeat === 0xf3 ? 2 : 3) : operandSizePrefix;
    let vexV = 0;
    let vexL = 0;
    let vex = 0;
    if (byte === 0x0f) {
      map = 1;
      byte = bytes[pos++];
      if (byte === 0x38) {
        map = 2;
        byte = bytes[pos++];
      } else if (byte === 0x3a) {
        map = 3;
        byte = bytes[pos++];
      }
    } else if ((byte === 0xc4 || byte === 0xc5) && (long || bytes[pos] >= 0xc0)) {
      if ((rex | operandSizePrefix | repeat | lock) !== 0) return this.fail(insn, pos + 1 - start, available);
      vex = 1;
      let payload = bytes[pos++];
      rex = 0x40 | (((payload >> 7) ^ 1) << 2);
      map = 1;
      if (byte === 0xc4) {
        map = payload & 31;
        if (map === 0 || map > 3) return this.fail(insn, pos - start, available);
        rex |= ((payload >> 5) & 3) ^ 3;
        payload = bytes[pos++];
        rex |= (payload >> 4) & 8;
      }
      if (!long) rex &= 0x48;
      vexV = ((payload >> 3) & 15) ^ 15;
      vexL = (payload >> 2) & 1;
      prefix = payload & 3;
      map += 3;
      byte = bytes[pos++];
    }

    let node = t.roots[((long ? MAP_COUNT : 0) + map) * 256 + byte];
    let peeked = 0;
    while (node < 0) {
      const at = -node;
      switch (t.tree[at]) {
        case DIM_PREFIX:
          node = t.tree[at + 1 + prefix];
          break;
        case DIM_W:
          node = t.tree[at + 1 + ((rex >> 3) & 1)];
          break;
        case DIM_B:
          node = t.tree[at + 1 + (rex & 1)];
          break;
        case DIM_L:
          node = t.tree[at + 1 + vexL];
          break;
        case DIM_REG:
          node = t.tree[at + 1 + ((bytes[pos] >> 3) & 7)];
          peeked = 1;
          break;
        case DIM_MOD3:
          node = t.tree[at + 1 + (bytes[pos] >= 0xc0 ? 1 : 0)];
          peeked = 1;
          break;
        default:
          node = t.tree[at + 1 + (bytes[pos] & 7)];
          peeked = 1;
          break;
      }
    }
    if (node === 0) return this.fail(insn, pos + peeked - start, available);
    const row = node - 1;
    const info = t.info[row];

    // Operand and address size.
    const size66 = (info & INFO_IGNORE_66) !== 0 ? 0 : operandSizePrefix;
    const rule = (info >> INFO_RULE_SHIFT) & INFO_RULE_MASK;
    let log2Size: number;
    let addrSize: number;
    if (long) {
      addrSize = addressSizePrefix !== 0 ? 4 : 8;
      if ((rex & 8) !== 0 || rule >= 2) log2Size = 3;
      else if (size66 !== 0) log2Size = 1;
      else log2Size = rule === 1 ? 3 : 2;
      if (log2Size === 3 && (info & INFO_NO_QUAD) !== 0) log2Size = 2;
    } else {
      addrSize = (mode === 32) !== (addressSizePrefix !== 0) ? 4 : 2;
      log2Size = rule === 3 || vex !== 0 || (mode === 32) !== (size66 !== 0) ? 2 : 1;
    }

    insn.row = row;
    insn.op = t.op[row];
    insn.opSize = (info & INFO_BYTE) !== 0 ? 1 : 1 << log2Size;
    insn.addrSize = addrSize;
    insn.cc = (info & INFO_CC) !== 0 ? byte & 15 : -1;
    insn.lock = lock;
    insn.rep = (info & INFO_REP) !== 0 ? repeat : 0;
    insn.rexW = long ? (rex >> 3) & 1 : 0;
    insn.vex = vex;
    insn.vexL = vexL;
    insn.vexV = long ? vexV : vexV & 7;
    insn.seg = SEG_DS;
    insn.base = -1;
    insn.index = -1;
    insn.scale = 0;
    insn.dispLo = 0;
    insn.dispHi = 0;
    insn.ripRelative = 0;
    insn.vsib = 0;
    insn.immLo = 0;
    insn.immHi = 0;
    insn.imm2 = 0;
    // Which row it is may have taken a look at ModRM, which is then part of what must be there.
    if ((info & INFO_NO_VVVV) !== 0 && vexV !== 0) return this.fail(insn, pos + peeked - start, available);

    this.rex = rex;
    this.seg = seg;
    this.long = long;
    this.log2Size = log2Size;
    this.vexL = vexL;
    let modrm = 0;
    if ((info & INFO_MODRM) !== 0) {
      modrm = bytes[pos++];
      if ((info & INFO_ANY_MOD) !== 0) modrm |= 0xc0;
      if (lock !== 0 && ((info & INFO_LOCK) === 0 || modrm >= 0xc0)) return this.fail(insn, pos - start, available);
      if (modrm < 0xc0) {
        if (addrSize === 2) {
          if ((info & INFO_VSIB) !== 0) return this.fail(insn, pos - start, available);
          pos = this.memory16(insn, bytes, pos, modrm);
        } else {
          if ((info & INFO_VSIB) !== 0 && (modrm & 7) !== 4) return this.fail(insn, pos - start, available);
          pos = this.memory(insn, bytes, pos, modrm, (info & INFO_VSIB) !== 0);
        }
      }
    } else if (lock !== 0) return this.fail(insn, pos - start, available);
    insn.modrm = modrm;
    this.pos = pos;

    const count = (info >> INFO_COUNT_SHIFT) & 7;
    insn.operandCount = count;
    const slot = row * 4;
    let p = count > 0 ? this.operand(insn, bytes, slot, modrm, byte) : 0;
    if (p === INVALID) return this.fail(insn, this.pos - start, available);
    insn.kind0 = p & 0xff;
    insn.reg0 = (p >> 8) & 0xff;
    insn.size0 = p >> 16;
    p = count > 1 ? this.operand(insn, bytes, slot + 1, modrm, byte) : 0;
    if (p === INVALID) return this.fail(insn, this.pos - start, available);
    insn.kind1 = p & 0xff;
    insn.reg1 = (p >> 8) & 0xff;
    insn.size1 = p >> 16;
    p = count > 2 ? this.operand(insn, bytes, slot + 2, modrm, byte) : 0;
    insn.kind2 = p & 0xff;
    insn.reg2 = (p >> 8) & 0xff;
    insn.size2 = p >> 16;
    p = count > 3 ? this.operand(insn, bytes, slot + 3, modrm, byte) : 0;
    insn.kind3 = p & 0xff;
    insn.reg3 = (p >> 8) & 0xff;
    insn.size3 = p >> 16;

    const length = this.pos - start;
    if (length > MAX_LENGTH || length > available) return this.fail(insn, length, available);
    if ((info & INFO_VSIB) !== 0) {
      // Destination, index and mask must be three different registers (SDM vol. 2, VGATHER).
      const index = insn.index;
      if (insn.reg0 === index || insn.reg2 === index || insn.reg0 === insn.reg2)
        return this.fail(insn, length, available);
    }
    insn.length = length;
    return Status.Ok;
  }

  private memory16(insn: Insn, bytes: Uint8Array, at: number, modrm: number): number {
    let pos = at;
    const rm = modrm & 7;
    let seg = SEG16[rm];
    if (rm === 6 && modrm < 0x40) {
      insn.dispLo = ((bytes[pos] | (bytes[pos + 1] << 8)) << 16) >> 16;
      pos += 2;
      seg = SEG_DS;
    } else {
      insn.base = BASE16[rm];
      insn.index = INDEX16[rm];
      if (modrm >= 0x80) {
        insn.dispLo = ((bytes[pos] | (bytes[pos + 1] << 8)) << 16) >> 16;
        pos += 2;
      } else if (modrm >= 0x40) insn.dispLo = (bytes[pos++] << 24) >> 24;
    }
    insn.dispHi = insn.dispLo >> 31;
    insn.seg = this.seg >= 0 ? this.seg : seg;
    return pos;
  }

  private memory(insn: Insn, bytes: Uint8Array, at: number, modrm: number, vsib: boolean): number {
    let pos = at;
    const rex = this.rex;
    let base = modrm & 7;
    let disp32 = modrm >= 0x80;
    let seg = SEG_DS;
    if (base === 4) {
      const sib = bytes[pos++];
      base = sib & 7;
      const index = ((sib >> 3) & 7) | ((rex & 2) << 2);
      if (index !== 4 || vsib) {
        insn.index = index;
        insn.scale = sib >> 6;
      }
      if (base === 5 && modrm < 0x40) {
        base = -1;
        disp32 = true;
      }
    } else if (base === 5 && modrm < 0x40) {
      base = -1;
      disp32 = true;
      insn.ripRelative = this.long ? 1 : 0;
    }
    if (base >= 0) {
      base |= (rex & 1) << 3;
      insn.base = base;
      if (base === 4 || base === 5) seg = SEG_SS;
    }
    if (disp32) {
      insn.dispLo = bytes[pos] | (bytes[pos + 1] << 8) | (bytes[pos + 2] << 16) | (bytes[pos + 3] << 24);
      pos += 4;
    } else if (modrm >= 0x40) insn.dispLo = (bytes[pos++] << 24) >> 24;
    insn.dispHi = insn.dispLo >> 31;
    insn.seg = this.seg >= 0 ? this.seg : seg;
    return pos;
  }

  private general(reg: number, size: number): number {
    if (size === 1 && reg >= 4 && this.rex === 0) return pack(Kind.GprHigh, reg - 4, 1);
    return pack(Kind.Gpr, reg, size);
  }

  private vector(reg: number, size: number): number {
    return size === 32 ? pack(Kind.Ymm, reg, 32) : pack(Kind.Xmm, reg, 16);
  }

  private displacement(insn: Insn, value: number): number {
    insn.immLo = value;
    insn.immHi = value >> 31;
    return pack(Kind.Rel, 0, 1 << this.log2Size);
  }

  // Decodes one operand; returns kind, register and size packed together, or INVALID.
  private operand(insn: Insn, bytes: Uint8Array, slot: number, modrm: number, opcode: number): number {
    const t = this.tables;
    const rex = this.rex;
    const at = (this.vexL << 2) | this.log2Size;
    const regSize = SIZES[(t.regSize[slot] << 3) | at];
    const rm = (modrm & 7) | ((rex & 1) << 3);
    const reg = ((modrm >> 3) & 7) | ((rex & 4) << 1);
    const isMem = modrm < 0xc0;
    switch (t.method[slot]) {
      case Method.E:
        return isMem ? pack(Kind.Mem, 0, SIZES[(t.memSize[slot] << 3) | at]) : this.general(rm, regSize);
      case Method.G:
        return this.general(reg, regSize);
      case Method.M:
        return pack(Kind.Mem, 0, regSize);
      case Method.R:
        return this.general(rm, regSize);
      case Method.Z:
        return this.general((opcode & 7) | ((rex & 1) << 3), regSize);
      case Method.Ib:
        // Only ENTER has two immediates; the second is its nesting level.
        if ((slot & 3) === 1 && t.method[slot - 1] === Method.Iw) insn.imm2 = bytes[this.pos++];
        else insn.immLo = bytes[this.pos++];
        return pack(Kind.Imm, 0, 1);
      case Method.Ibs:
        insn.immLo = (bytes[this.pos++] << 24) >> 24;
        insn.immHi = insn.immLo >> 31;
        return pack(Kind.Imm, 0, regSize);
      case Method.Iw:
        insn.immLo = this.word(bytes);
        return pack(Kind.Imm, 0, 2);
      case Method.Iz:
        insn.immLo = this.log2Size === 1 ? (this.word(bytes) << 16) >> 16 : this.dword(bytes);
        insn.immHi = insn.immLo >> 31;
        return pack(Kind.Imm, 0, regSize);
      case Method.Iv:
        insn.immLo = this.log2Size === 1 ? (this.word(bytes) << 16) >> 16 : this.dword(bytes);
        insn.immHi = this.log2Size === 3 ? this.dword(bytes) : insn.immLo >> 31;
        return pack(Kind.Imm, 0, regSize);
      case Method.One:
        insn.immLo = 1;
        return pack(Kind.Const, 0, 1);
      case Method.Jb:
        return this.displacement(insn, (bytes[this.pos++] << 24) >> 24);
      case Method.Jz:
        return this.displacement(insn, this.log2Size === 1 ? (this.word(bytes) << 16) >> 16 : this.dword(bytes));
      case Method.A:
        insn.immLo = this.log2Size === 1 ? this.word(bytes) : this.dword(bytes);
        insn.imm2 = this.word(bytes);
        return pack(Kind.Far, 0, regSize);
      case Method.O:
        if (insn.addrSize === 2) insn.dispLo = this.word(bytes);
        else insn.dispLo = this.dword(bytes);
        if (insn.addrSize === 8) insn.dispHi = this.dword(bytes);
        insn.seg = this.seg >= 0 ? this.seg : SEG_DS;
        return pack(Kind.Mem, 0, regSize);
      case Method.X:
        insn.seg = this.seg >= 0 ? this.seg : SEG_DS;
        return pack(Kind.Src, 0, regSize);
      case Method.Y:
        return pack(Kind.Dst, 0, regSize);
      case Method.S: {
        const s = reg & 7; // REX.R is ignored
        if (s > 5 || (s === SEG_CS && (slot & 3) === 0)) return INVALID;
        return pack(Kind.Seg, s, 2);
      }
      case Method.C:
        if (reg !== 0 && reg !== 2 && reg !== 3 && reg !== 4 && reg !== 8) return INVALID;
        return pack(Kind.Cr, reg, regSize);
      case Method.D:
        return reg > 7 ? INVALID : pack(Kind.Dr, reg, regSize);
      case Method.V:
        return this.vector(reg, regSize);
      case Method.W:
        return isMem ? pack(Kind.Mem, 0, regSize) : this.vector(rm, regSize);
      case Method.P:
        return pack(Kind.Mmx, reg & 7, 8);
      case Method.Q:
        return isMem ? pack(Kind.Mem, 0, regSize) : pack(Kind.Mmx, rm & 7, 8);
      case Method.H:
        return this.vector(insn.vexV, regSize);
      case Method.L:
        insn.immLo = bytes[this.pos++];
        return this.vector((insn.immLo >> 4) & (this.long ? 15 : 7), regSize);
      case Method.B:
        return this.general(insn.vexV, regSize);
      case Method.Fixed:
        return pack(Kind.Gpr, t.fixed[slot], regSize);
      case Method.FixedSeg:
        return pack(Kind.Seg, t.fixed[slot], 2);
      case Method.St0:
        return pack(Kind.St, 0, 10);
      case Method.Sti:
        return pack(Kind.St, modrm & 7, 10);
      case Method.Xmm0:
        return pack(Kind.Xmm, 0, 16);
      case Method.MemBx:
        insn.base = 3;
        insn.seg = this.seg >= 0 ? this.seg : SEG_DS;
        return pack(Kind.Mem, 0, 1);
      case Method.MemDi:
        insn.base = 7;
        insn.seg = this.seg >= 0 ? this.seg : SEG_DS;
        return pack(Kind.Mem, 0, regSize);
      case Method.VsibX:
        insn.vsib = 16;
        return pack(Kind.Mem, 0, regSize);
      default:
        insn.vsib = 32;
        return pack(Kind.Mem, 0, regSize);
    }
  }

  private word(bytes: Uint8Array): number {
    const pos = this.pos;
    this.pos = pos + 2;
    return bytes[pos] | (bytes[pos + 1] << 8);
  }

  private dword(bytes: Uint8Array): number {
    const pos = this.pos;
    this.pos = pos + 4;
    return bytes[pos] | (bytes[pos + 1] << 8) | (bytes[pos + 2] << 16) | (bytes[pos + 3] << 24);
  }
}
