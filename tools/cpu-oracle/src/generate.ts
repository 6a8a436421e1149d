// Random test programs: one to eight instructions whose memory operands hit the test pages, with registers, flags and
// memory set to values that find bugs. Every program is straight-line but for jumps ahead.
import { ccFlags, Decoder, encodeRandom, Insn, Kind, OP_NAMES, ROWS, type Row, Status } from '@hyve/x86';
import { excluded, type Vendor } from './exclusions.ts';
import * as L from './layout.ts';
import { double, extended, integer, Random, single } from './random.ts';

/** One instruction of a program. */
export interface Step {
  readonly bytes: Uint8Array;
  /** Row of the opcode table. */
  readonly row: number;
  /** Operand size in bytes. */
  readonly opSize: number;
  /** Whether an operand is in memory. */
  readonly memory: boolean;
  /** Bytes of NOPs before it, where shrinking took instructions away. */
  readonly skip?: number;
}

/** A program besides its record. */
export interface Program {
  readonly mode: 32 | 64;
  readonly steps: readonly Step[];
  /** Address of the first instruction. */
  readonly start: number;
  /** Status flags with undefined values at some point, FLAG_ bits: not compared. */
  readonly undefinedFlags: number;
  /** The last instruction approximates: `estimate` (RCPPS and the like), `x87` (transcendental), `nan` (which NaN a sum gives). */
  readonly approximate: '' | 'estimate' | 'x87' | 'nan';
  /** Parts of the record that are not compared: offset and length, in pairs. */
  readonly ignored: readonly number[];
  /** Whether the address of a page fault is compared. */
  readonly faultAddress: boolean;
}

/** Bounds of the choice. */
export interface Choice {
  /** Rows to choose from. */
  readonly rows: readonly Row[];
  /** Features both sides have. */
  readonly features: ReadonlySet<string>;
  /** Maker of the processor. */
  readonly vendor: Vendor;
  /** Most instructions per program; default 8. */
  readonly longest?: number;
}

const FREE = 0;
const FIXED = 1;
const LOST = 2;

const M64 = (1n << 64n) - 1n;
const END = 0xcc;
/** End of the lower half of canonical addresses. */
const LOWER_HALF = 1n << 47n;

const AX = 1 << 0;
const CX = 1 << 1;
const DX = 1 << 2;
const BX = 1 << 3;
const SP = 1 << 4;
const BP = 1 << 5;
const SI = 1 << 6;
const DI = 1 << 7;
/** General registers that operations write besides their first operand. */
const IMPLICIT_WRITES: Readonly<Record<string, number>> = {
  MUL: AX | DX, DIV: AX | DX, IDIV: AX | DX, IMUL: AX | DX, CWD: DX, CBW: AX, CMPXCHG: AX, CMPXCHG8B: AX | DX,
  CMPXCHG16B: AX | DX, MOVS: CX | SI | DI, CMPS: CX | SI | DI, STOS: CX | DI, SCAS: CX | DI, LODS: AX | CX | SI,
  INS: CX | DI, OUTS: CX | SI, LOOP: CX, LOOPE: CX, LOOPNE: CX, LAHF: AX, XLAT: AX, AAA: AX, AAS: AX, AAM: AX, AAD: AX,
  DAA: AX, DAS: AX, SALC: AX, POPA: 0xff, ENTER: BP, LEAVE: BP, PCMPESTRI: CX, PCMPISTRI: CX, VPCMPESTRI: CX,
  VPCMPISTRI: CX, RDTSC: AX | DX, RDTSCP: AX | CX | DX, CPUID: AX | CX | DX | BX, RDMSR: AX | DX, XGETBV: AX | DX, IN: AX, FNSTSW: 0,
}; // biome-ignore format: a list
/** Operations whose second operand is written too. */
const WRITES_SECOND: ReadonlySet<string> = new Set(['XCHG', 'XADD', 'MULX']);
const STACK_OPS: ReadonlySet<string> = new Set([
  'PUSH', 'POP', 'PUSHA', 'POPA', 'PUSHF', 'POPF', 'CALL', 'RET', 'ENTER', 'LEAVE',
]); // biome-ignore format: a list
const RELATIVE: ReadonlySet<string> = new Set(['JCC', 'JMP', 'CALL', 'LOOP', 'LOOPE', 'LOOPNE', 'JCXZ']);
const SELECTORS: readonly number[] = [0, 3, 0x08, 0x10, 0x18, 0x23, 0x2b, 0x33, 0x22, 0x28, 0x30, 0x38, 0xfff8];
/** Results within 1.5 × 2^-12. */
const ESTIMATES: ReadonlySet<string> = new Set([
  'RCPPS', 'RCPSS', 'RSQRTPS', 'RSQRTSS', 'VRCPPS', 'VRCPSS', 'VRSQRTPS', 'VRSQRTSS',
]); // biome-ignore format: a list
/** Results within one unit in the last place. */
const TRANSCENDENTAL: ReadonlySet<string> = new Set([
  'F2XM1', 'FYL2X', 'FYL2XP1', 'FPTAN', 'FPATAN', 'FSIN', 'FCOS', 'FSINCOS',
]); // biome-ignore format: a list
/** Instructions that store much: which end is touched first is up to the processor. */
const LARGE: ReadonlySet<string> = new Set([
  'FXSAVE', 'FXRSTOR', 'FNSAVE', 'FNSTENV', 'FRSTOR', 'FLDENV', 'XSAVE', 'XSAVEOPT', 'XSAVEC', 'XRSTOR',
]); // biome-ignore format: a list
/** Those of the XSAVE family, whose components EDX:EAX picks. */
const BY_COMPONENT: ReadonlySet<string> = new Set(['XSAVE', 'XSAVEOPT', 'XSAVEC', 'XRSTOR']);
/** Those that read an image, which is made for them. */
const IMAGE_READERS: ReadonlySet<string> = new Set(['FXRSTOR', 'FRSTOR', 'FLDENV', 'XRSTOR']);
/** Clocks, random numbers and identities: what comes out is not compared, only that something does, and where. */
const UNPREDICTABLE: ReadonlySet<string> = new Set(['RDTSC', 'RDTSCP', 'CPUID', 'RDRAND', 'RDSEED', 'XGETBV']);
/** Far transfers, and loads of far pointers. */
const FAR: ReadonlySet<string> = new Set(['CALLF', 'JMPF', 'RETF', 'IRET', 'LDS', 'LES', 'LSS', 'LFS', 'LGS']);
const STRING_OPS: ReadonlySet<string> = new Set(['MOVS', 'CMPS', 'STOS', 'SCAS', 'LODS', 'INS', 'OUTS']);
const BIT_OPS: ReadonlySet<string> = new Set(['BT', 'BTS', 'BTR', 'BTC']);

/** Where the displacement lies in an encoding, and its length. */
function findDisplacement(bytes: Uint8Array, mode: 32 | 64): { at: number; size: number; modrm: number } {
  let i = 0;
  let addr16 = false;
  while ([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3].includes(bytes[i] as number)) {
    if (bytes[i] === 0x67 && mode === 32) addr16 = true;
    i++;
  }
  const vex = (bytes[i] === 0xc4 || bytes[i] === 0xc5) && (mode === 64 || ((bytes[i + 1] as number) & 0xc0) === 0xc0);
  if (vex) i += bytes[i] === 0xc5 ? 3 : 4;
  else {
    if (mode === 64 && ((bytes[i] as number) & 0xf0) === 0x40) i++;
    if (bytes[i] === 0x0f) {
      i++;
      if (bytes[i] === 0x38 || bytes[i] === 0x3a) i++;
    }
    i++;
  }
  const modrm = bytes[i] as number;
  const at = i;
  const mod = modrm >> 6;
  const rm = modrm & 7;
  i++;
  if (addr16) {
    const size = mod === 1 ? 1 : mod === 2 || (mod === 0 && rm === 6) ? 2 : 0;
    return { at: i, size, modrm: at };
  }
  let base = rm;
  if (rm === 4) base = (bytes[i++] as number) & 7;
  const size = mod === 1 ? 1 : mod === 2 || (mod === 0 && base === 5) ? 4 : 0;
  return { at: i, size, modrm: at };
}

/** Makes programs. */
export class Generator {
  private readonly random = new Random(0);
  private readonly decoder: Decoder;
  private readonly insn = new Insn();
  private readonly byMode: Readonly<Record<32 | 64, readonly Row[]>>;
  private readonly longest: number;
  /** How often each exclusion applied. */
  readonly excluded: Map<string, number> = new Map();
  private readonly vendor: Vendor;
  private readonly pool: Uint8Array;

  // The program under construction.
  private mode: 32 | 64 = 64;
  private high = false;
  private readonly state = new Uint8Array(16);
  private readonly value: bigint[] = Array<bigint>(16).fill(0n);
  private record: Uint8Array = new Uint8Array(L.REC_SIZE);
  private view: DataView = new DataView(this.record.buffer);
  private undefinedNow = 0;
  private undefinedEver = 0;
  private jumped = false;
  /** Exact stack pointer, or -1n once it is not known. */
  private rsp = 0n;
  private start = 0;
  private approximate: Program['approximate'] = '';
  private ignored: number[] = [];
  private faultAddress = true;
  private floating = false;
  /** FS or GS has a base: what goes through them may hit anything that is mapped. */
  private stray = false;
  /** A segment register was loaded, maybe with a read-only segment. */
  private loaded = false;
  /** A state component was set to zeros: whether it counts as in use is up to the processor. */
  private initial = false;
  /** No instruction may follow: it would read what is not compared. */
  private last = false;
  /** Vector registers with settled values, 32 bytes each. */
  private readonly vectors: Map<number, Uint8Array> = new Map();
  /** Bytes of the record that are settled. */
  private readonly kept: Set<number> = new Set();
  /** Bytes of the record that earlier instructions may write. */
  private readonly touched: Set<number> = new Set();
  private fixups: { at: number; size: number; next: number }[] = [];

  constructor(choice: Choice) {
    this.decoder = new Decoder(choice.features);
    this.vendor = choice.vendor;
    this.longest = choice.longest ?? 8;
    const usable = choice.rows.filter((r) => r.feature === '' || choice.features.has(r.feature));
    this.byMode = {
      64: usable.filter((r) => r.modes !== 'i64'),
      32: usable.filter((r) => r.modes !== 'o64'),
    };
    // Vector register values are dear to make: a pool of them is made once.
    const r = new Random(12345);
    this.pool = new Uint8Array(16 * 2048);
    const v = new DataView(this.pool.buffer);
    for (let i = 0; i < this.pool.length; i += 16) this.fillVector(r, v, i);
  }

  private fillVector(r: Random, v: DataView, at: number): void {
    switch (r.int(5)) {
      case 0:
        for (let j = 0; j < 16; j += 8) v.setBigUint64(at + j, double(r), true);
        break;
      case 1:
        for (let j = 0; j < 16; j += 4) v.setUint32(at + j, single(r), true);
        break;
      case 2:
        for (let j = 0; j < 16; j += 8) v.setBigUint64(at + j, integer(r), true);
        break;
      case 3: {
        const base = r.int(256);
        for (let j = 0; j < 16; j++) v.setUint8(at + j, r.chance(30) ? r.int(256) : r.chance(20) ? 0 : base);
        break;
      }
      default:
        for (let j = 0; j < 16; j += 2)
          v.setUint16(at + j, r.pick([0, 1, 0x7fff, 0x8000, 0xffff, r.int(0x10000)]), true);
    }
  }

  /** Name of an exclusion, when no encoding of a row escapes the exclusions; else ''. */
  alwaysExcluded(row: Row): string {
    let why = '';
    const r = new Random(row.id);
    for (const mode of [32, 64] as const)
      for (let i = 0; i < 200; i++) {
        const bytes = encodeRandom(row, () => r.u32(), { mode });
        if (bytes === null || this.decoder.decode(this.insn, bytes, 0, bytes.length, mode) !== Status.Ok) continue;
        if (this.insn.row !== row.id) continue;
        why = excluded(this.insn, mode, bytes, this.vendor);
        if (why === '') return '';
      }
    return why;
  }

  /** Rows that may come up in a mode. */
  rows(mode: 32 | 64): readonly Row[] {
    return this.byMode[mode];
  }

  /**
   * Makes one program and its initial record.
   * @param seed determines everything
   * @param record receives the initial state, REC_SIZE bytes
   * @param row row of the first instruction, if it exists in the mode picked; default any
   * @returns null when no encoding was found
   */
  make(seed: number, record: Uint8Array, row?: Row): Program | null {
    const r = this.random;
    r.seed(seed);
    this.record = record;
    this.view = new DataView(record.buffer, record.byteOffset, L.REC_SIZE);
    this.mode = row?.modes === 'i64' ? 32 : row?.modes === 'o64' ? 64 : r.chance(65) ? 64 : 32;
    const mode = this.mode;
    this.high = mode === 64 && r.chance(50);
    this.state.fill(FREE);
    this.value.fill(0n);
    this.undefinedNow = 0;
    this.undefinedEver = 0;
    this.jumped = false;
    this.fixups = [];
    this.approximate = '';
    this.ignored = [];
    this.faultAddress = true;
    this.floating = false;
    this.last = false;
    this.initial = false;
    this.stray = false;
    this.loaded = false;
    this.vectors.clear();
    this.kept.clear();
    this.touched.clear();
    this.fillMemory();
    this.placeStack();
    const want = r.chance(50) ? 1 : 1 + r.int(this.longest);
    // Where the code lies: mostly somewhere in a page; across the boundary; at the end, before an unmapped page.
    const codePage = this.high ? L.CODE_HIGH : L.CODE_LOW;
    const where = r.int(20);
    const room = L.CODE_BYTES;
    let codeAt = codePage + 0x100 + r.int(16) * 64;
    if (where === 0) codeAt = codePage + 0x1000 - 1 - r.int(40);
    const atEnd = where === 1;
    if (atEnd) {
      codeAt = codePage + 0x2000 - room;
    }
    const steps: Step[] = [];
    const code = new Uint8Array(room).fill(END);
    let length = 0;
    // At the end of the page the code is shifted up when its length is known, so addresses must not depend on it.
    this.start = codeAt;
    const limit = atEnd ? 24 : room - 1;
    const shift = atEnd ? room - limit - (r.chance(50) ? 1 : 0) : 0;
    this.start += shift;
    const rows = this.byMode[mode];
    if (rows.length === 0) return null;
    for (let n = 0; n < want; n++) {
      let step: Step | null = null;
      const tries = n === 0 ? 60 : 6;
      for (let t = 0; t < tries && step === null; t++) {
        const which = n === 0 && row !== undefined && t < 50 ? row : r.pick(rows);
        step = this.step(which, length, limit);
      }
      if (step === null) break;
      code.set(step.bytes, shift + length);
      length += step.bytes.length;
      steps.push(step);
      // What follows would read results that are not compared.
      if (this.approximate !== '' || !this.faultAddress || this.last) break;
    }
    if (steps.length === 0) return null;
    if (atEnd) {
      // Fill up to the end of the page with NOPs and perhaps one INT3.
      for (let i = shift + length; i < room; i++) code[i] = 0x90;
      if (shift + limit < room) code[room - 1] = END;
    }
    const ends: number[] = [0];
    for (const s of steps) ends.push((ends[ends.length - 1] as number) + s.bytes.length);
    for (const f of this.fixups) {
      const later = ends.filter((e) => e >= f.next);
      const disp = r.pick(later) - f.next;
      code[shift + f.at] = disp;
      for (let i = 1; i < f.size; i++) code[shift + f.at + i] = 0;
    }
    // Programs that are shown and shrunk later keep what the fix-ups made of them.
    let at = 0;
    const final = steps.map((s) => {
      const bytes = code.slice(shift + at, shift + at + s.bytes.length);
      at += s.bytes.length;
      return { ...s, bytes };
    });
    const v = this.view;
    for (let i = 0; i < 16; i++) {
      if (this.state[i] === FREE) this.value[i] = integer(r);
      v.setBigUint64(
        L.GPR_AT[i] as number,
        mode === 32 ? (this.value[i] as bigint) & 0xffffffffn : (this.value[i] as bigint),
        true,
      );
    }
    v.setBigUint64(L.REC.rip, BigInt(this.start), true);
    let flags = 0x202 | (r.u32() & 0x8d5);
    if (r.chance(12)) flags |= 0x400;
    // Which vector accesses are checked for alignment under AC is up to the processor.
    if (r.chance(3) && !this.floating) flags |= 0x40000;
    v.setBigUint64(L.REC.flags, BigInt(flags), true);
    v.setUint16(L.REC.cs, mode === 64 ? L.CS64 : L.CS32, true);
    v.setUint16(L.REC.cs + 2, 0, true);
    v.setUint16(L.REC.cs + 4, 0, true);
    v.setUint16(L.REC.cs + 6, L.USER_DS, true);
    v.setBigUint64(L.REC.codeAt, BigInt(codeAt), true);
    record.set(code, L.REC.code);
    this.fillFloating();
    return {
      mode,
      steps: final,
      start: this.start,
      undefinedFlags: this.undefinedEver,
      approximate: this.approximate,
      ignored: this.ignored,
      faultAddress: this.faultAddress,
    };
  }

  private fillMemory(): void {
    const r = this.random;
    const { record, view } = this;
    record.fill(0, 0, L.REC.fx);
    const fill = (at: number, length: number): void => {
      // A few repeated values, so that string comparisons run for a while; or anything.
      if (r.chance(25)) record.fill(r.int(256), at, at + length);
      else {
        for (let i = 0; i < length; i += 16) {
          const from = r.int(2048) * 16;
          record.set(this.pool.subarray(from, from + 16), at + i);
        }
      }
    };
    fill(L.REC.data, L.DATA_LENGTH);
    fill(L.REC.tail, L.TAIL_LENGTH);
    fill(L.REC.stack, L.STACK_LENGTH);
    // Flags that POPF may find: no single-stepping.
    for (let i = 1; i < L.STACK_LENGTH; i += 2) {
      const at = L.REC.stack + i;
      view.setUint8(at, view.getUint8(at) & ~1);
    }
  }

  private placeStack(): void {
    const r = this.random;
    const page = this.high ? L.STACK_HIGH : L.STACK_LOW;
    let at = page + 0x1000 + (r.int(9) - 6) * 8;
    const where = r.int(100);
    if (where < 6) at = page + 0x1000 + r.int(64) - 48;
    else if (where < 8) at = page + r.int(24);
    else if (where < 10) at = page + 0x2000 - r.int(24);
    else if (where === 10) at = L.NOWHERE + r.int(64);
    this.value[4] = BigInt(at);
    if (where === 11 && this.mode === 64) this.value[4] = 0x7fff_ffff_fff0n + BigInt(r.int(3) * 8);
    if (where === 12 && this.mode === 64) this.value[4] = 0x8000_0000_0000_0000n + BigInt(r.int(64));
    this.state[4] = FIXED;
    this.rsp = this.value[4];
  }

  private fillFloating(): void {
    const { record } = this;
    this.floatingImage(record, this.view, L.REC.fx);
    for (let i = 0; i < 16; i++) {
      const from = this.random.int(2048) * 16;
      record.set(this.pool.subarray(from, from + 16), L.REC.ymmh + i * 16);
    }
    for (const [n, v] of this.vectors) {
      record.set(v.subarray(0, 16), L.REC.fx + 160 + n * 16);
      record.set(v.subarray(16), L.REC.ymmh + n * 16);
    }
  }

  /** Makes an FXSAVE image. */
  private floatingImage(record: Uint8Array, view: DataView, fx: number): void {
    const r = this.random;
    record.fill(0, fx, fx + 512);
    const masks = r.chance(75) ? 0x3f : r.int(64);
    view.setUint16(fx, 0x40 | masks | (r.pick([0, 2, 3, 3, 3]) << 8) | (r.int(4) << 10), true);
    const raised = r.chance(60) ? 0 : r.int(128);
    const pending = (raised & ~masks & 0x3f) !== 0 && r.chance(90) ? raised & ~(~masks & 0x3f) : raised;
    let fsw = pending | (r.int(8) << 11) | (r.int(16) << 8);
    fsw = (fsw & 0x3fff & ~0x3c00) | (r.int(8) << 11) | (r.chance(50) ? 0x4000 : 0);
    if ((pending & ~masks & 0x3f) !== 0) fsw |= 0x8080;
    view.setUint16(fx + 2, fsw, true);
    view.setUint8(fx + 4, r.chance(50) ? 0xff : r.int(256));
    const mxMasks = r.chance(75) ? 0x1f80 : r.u32() & 0x1f80;
    const mx =
      mxMasks |
      (r.int(4) << 13) |
      (r.chance(20) ? 0x8000 : 0) |
      (r.chance(20) ? 0x40 : 0) |
      (r.chance(60) ? 0 : r.int(64));
    view.setUint32(fx + 24, mx, true);
    for (let i = 0; i < 8; i++) {
      const [significand, top] = extended(r);
      view.setBigUint64(fx + 32 + i * 16, significand, true);
      view.setUint16(fx + 40 + i * 16, top, true);
    }
    for (let i = 0; i < 16; i++) {
      const from = r.int(2048) * 16;
      record.set(this.pool.subarray(from, from + 16), fx + 160 + i * 16);
    }
  }

  /** Tries to add one instruction of a row at `offset`. */
  private step(row: Row, offset: number, limit: number): Step | null {
    const r = this.random;
    const mode = this.mode;
    const bytes = encodeRandom(row, () => r.u32(), {
      mode,
      ...(r.chance(12) && row.operands.length > 0 ? { rm: 'mem' as const } : {}),
    });
    if (bytes === null || offset + bytes.length > limit) return null;
    const insn = this.insn;
    if (this.decoder.decode(insn, bytes, 0, bytes.length, mode) !== Status.Ok || insn.row !== row.id) return null;
    const why = excluded(insn, mode, bytes, this.vendor);
    if (why !== '') {
      this.excluded.set(why, (this.excluded.get(why) ?? 0) + 1);
      return null;
    }
    const name = OP_NAMES[insn.op] as string;
    const reads = insn.cc >= 0 ? (ccFlags[insn.cc] as number) : row.flags.read;
    if ((reads & this.undefinedNow) !== 0) return null;
    this.settled = false;
    const savedState = this.state.slice();
    const savedValue = this.value.slice();
    const savedRsp = this.rsp;
    if (!this.place(row, name, insn, bytes, offset)) {
      this.state.set(savedState);
      for (let i = 0; i < 16; i++) this.value[i] = savedValue[i] as bigint;
      this.rsp = savedRsp;
      return null;
    }
    // Flags.
    let undefinedHere = row.flags.undefined;
    if (insn.kind1 === Kind.Imm && (insn.immLo & (insn.opSize === 8 ? 63 : 31)) === 1 && row.flags.conditional) {
      undefinedHere &= ~row.flags.written;
    }
    if (!this.jumped && !row.flags.conditional) this.undefinedNow &= ~row.flags.written;
    this.undefinedNow |= undefinedHere;
    this.undefinedEver |= undefinedHere;
    this.clobber(row, name, insn);
    if (ESTIMATES.has(name)) this.approximate = 'estimate';
    else if (TRANSCENDENTAL.has(name)) this.approximate = 'x87';
    // Intel adds the products in another order for each element, AMD in one for all.
    else if (/^V?DPP[SD]$/.test(name)) this.approximate = 'nan';
    if (LARGE.has(name) && !this.settled) this.faultAddress = false;
    if (family(row) !== 'int') this.floating = true;
    if (name === 'WRFSBASE' || name === 'WRGSBASE') this.stray = true;
    if (insn.kind0 === Kind.Seg || FAR.has(name)) this.loaded = true;
    if (name === 'VZEROALL' || name === 'VZEROUPPER') this.initial = true;
    return {
      bytes,
      row: row.id,
      opSize: insn.opSize,
      memory: insn.kind0 === Kind.Mem || insn.kind1 === Kind.Mem || insn.kind2 === Kind.Mem,
    };
  }

  /** The large operand lies whole in pages that are there. */
  private settled = false;

  private lose(mask: number): void {
    for (let i = 0; i < 16; i++) {
      if ((mask >> i) & 1) {
        if (this.state[i] === FREE) this.value[i] = integer(this.random);
        this.state[i] = LOST;
      }
    }
  }

  private clobber(row: Row, name: string, insn: Insn): void {
    let lost = IMPLICIT_WRITES[name] ?? 0;
    if (name === 'IMUL' && insn.operandCount > 1) lost = 0;
    if (row.access0 !== 'r' && (insn.kind0 === Kind.Gpr || insn.kind0 === Kind.GprHigh)) lost |= 1 << insn.reg0;
    if (WRITES_SECOND.has(name) && (insn.kind1 === Kind.Gpr || insn.kind1 === Kind.GprHigh)) lost |= 1 << insn.reg1;
    const size = BigInt(insn.opSize);
    const rspKnown = this.rsp >= 0n;
    switch (name) {
      case 'PUSH':
      case 'PUSHF':
      case 'CALL':
        if (rspKnown) this.rsp -= size;
        break;
      case 'POP':
      case 'POPF':
        if (rspKnown) this.rsp += size;
        break;
      case 'RET':
      case 'RETF':
      case 'CALLF':
        this.rsp = -1n;
        break;
      case 'PUSHA':
        if (rspKnown) this.rsp -= 8n * size;
        break;
      case 'POPA':
        if (rspKnown) this.rsp += 8n * size;
        lost &= ~SP;
        break;
      case 'IRET':
        this.rsp = -1n;
        lost |= SP;
        break;
      case 'ENTER':
      case 'LEAVE':
        this.rsp = -1n;
        break;
      case 'JCC':
      case 'JMP':
      case 'LOOP':
      case 'LOOPE':
      case 'LOOPNE':
      case 'JCXZ':
        this.rsp = -1n;
        this.jumped = true;
        break;
    }
    if (name === 'CALL' || FAR.has(name)) this.jumped = true;
    if (lost & SP) this.rsp = -1n;
    this.lose(lost);
  }

  private free(n: number): boolean {
    return this.state[n] === FREE;
  }

  private fix(n: number, v: bigint): void {
    this.value[n] = v & M64;
    this.state[n] = FIXED;
  }

  /** Puts junk above an address of fewer bytes than the register has. */
  private dirty(v: bigint, addrSize: number): bigint {
    const bits = BigInt(addrSize * 8);
    const low = v & ((1n << bits) - 1n);
    if (addrSize === 8 || this.random.chance(40)) return low;
    const junk = this.random.u64() << bits;
    return (low | junk) & (this.mode === 32 ? 0xffffffffn : M64);
  }

  /** An address for `size` bytes; aligned to `align` when all goes well. */
  private target(addrSize: number, size: number, align: number, high: boolean): bigint {
    const r = this.random;
    const page = addrSize === 2 ? L.DATA_TINY : high ? L.DATA_HIGH : L.DATA_LOW;
    const roll = r.int(100);
    const room = L.DATA_LENGTH - size;
    const aligned = (v: number): number => v - (v % Math.max(1, align));
    let at = page + L.DATA_WINDOW + aligned(r.int(Math.max(1, room + 1)));
    if (roll < 58) return BigInt(at);
    if (roll < 76) return BigInt(page + L.DATA_WINDOW + r.int(Math.max(1, room + 1)));
    if (roll < 85) return BigInt(page + L.PAGE - 1 - r.int(Math.max(1, Math.min(size - 1, 480))));
    if (roll < 89) return BigInt(page + 2 * L.PAGE - size);
    if (roll < 91) return BigInt(page + 2 * L.PAGE - 1 - r.int(Math.max(1, size - 1)));
    if (roll < 92) return BigInt(page - 1 - r.int(Math.max(1, size)));
    if (roll < 95) {
      if (addrSize !== 2) at += L.TO_READ_ONLY;
      return BigInt(at);
    }
    if (roll < 96) return BigInt(addrSize === 2 ? at : L.NOWHERE + r.int(64));
    if (roll < 98 && addrSize === 8 && high) {
      // Large and misaligned operands would have two faults at once.
      if (size >= 16) return 0x8000_0000_0000n + BigInt(r.int(16) * 16);
      return (
        r.pick([
          0x8000_0000_0000n,
          0x7fff_ffff_fffcn,
          0x0100_0000_0000_0000n,
          0xffff_7fff_ffff_fff8n,
          0x8000_0000_0000_0000n,
        ]) + BigInt(r.int(16))
      );
    }
    return BigInt(at);
  }

  /** The record's byte for an address, or -1 when it is in no window. */
  private recordAt(a: bigint): number {
    const at = Number(a);
    for (const page of [
      L.DATA_LOW,
      L.DATA_TINY,
      L.DATA_HIGH,
      L.DATA_LOW + L.TO_READ_ONLY,
      L.DATA_HIGH + L.TO_READ_ONLY,
    ]) {
      const off = at - page;
      if (off >= L.DATA_WINDOW && off < L.DATA_WINDOW + L.DATA_LENGTH) return L.REC.data + off - L.DATA_WINDOW;
      if (off >= L.TAIL_WINDOW && off < L.TAIL_WINDOW + L.TAIL_LENGTH) return L.REC.tail + off - L.TAIL_WINDOW;
    }
    for (const page of [L.STACK_LOW, L.STACK_HIGH]) {
      const off = at - page;
      if (off >= L.STACK_WINDOW && off < L.STACK_WINDOW + L.STACK_LENGTH) return L.REC.stack + off - L.STACK_WINDOW;
    }
    return -1;
  }

  private store(a: bigint, size: number, v: bigint): void {
    for (let i = 0; i < size; i++) {
      const at = this.recordAt(a + BigInt(i));
      if (at >= 0 && !this.kept.has(at)) this.view.setUint8(at, Number((v >> BigInt(8 * i)) & 0xffn));
    }
  }

  /** Likewise for values that later instructions must not replace: jump targets, selectors, MXCSR. */
  private keep(a: bigint, size: number, v: bigint): void {
    this.store(a, size, v);
    for (let i = 0; i < size; i++) this.kept.add(this.recordAt(a + BigInt(i)));
  }

  /** Whether an earlier instruction's value lies there: jumping to that one's target might never end. */
  private anyKept(a: bigint, size: number): boolean {
    for (let i = 0; i < size; i++) if (this.kept.has(this.recordAt(a + BigInt(i)))) return true;
    return false;
  }

  private anyTouched(a: bigint, size: number): boolean {
    for (let i = 0; i < size; i++) {
      const at = this.recordAt(a + BigInt(i));
      if (at >= 0 && this.touched.has(at)) return true;
    }
    return false;
  }

  /** Puts an interesting value where an operand will be read. */
  private fillOperand(a: bigint, size: number): void {
    const r = this.random;
    switch (size) {
      case 1:
      case 2:
        if (r.chance(70)) this.store(a, size, integer(r));
        break;
      case 4:
        this.store(a, 4, r.chance(50) ? integer(r) : BigInt(single(r)));
        break;
      case 8:
        this.store(a, 8, r.chance(50) ? integer(r) : double(r));
        break;
      case 10: {
        const [significand, top] = extended(r);
        if (r.chance(60)) this.store(a, 10, significand | (BigInt(top) << 64n));
        else {
          // Decimal digits for FBLD.
          let v = 0n;
          for (let i = 0; i < 18; i++) v |= BigInt(r.int(10)) << BigInt(4 * i);
          this.store(a, 10, v | (r.chance(50) ? 1n << 79n : 0n));
        }
        break;
      }
      case 16: {
        const from = r.int(2048) * 16;
        for (let i = 0; i < 16; i++) this.store(a + BigInt(i), 1, BigInt(this.pool[from + i] as number));
        break;
      }
    }
  }

  /** Makes the memory operand hit `t`; returns the address it got, or -1n. */
  private solve(insn: Insn, bytes: Uint8Array, next: number, t: bigint): bigint {
    const mask = (1n << BigInt(insn.addrSize * 8)) - 1n;
    const d = insn.kind0 === Kind.Mem || insn.kind1 === Kind.Mem || insn.kind2 === Kind.Mem;
    if (!d) return -1n;
    const r = this.random;
    const name = OP_NAMES[insn.op];
    const disp = (BigInt(insn.dispHi) << 32n) | BigInt(insn.dispLo >>> 0);
    const absolute = name === 'MOV' && insn.base < 0 && insn.index < 0 && this.isOffset(insn, bytes);
    const field = absolute
      ? { at: insn.length - insn.addrSize, size: insn.addrSize }
      : findDisplacement(bytes, this.mode);
    const patch = (v: bigint): boolean => {
      if (field.size === 0) return v === disp;
      const bits = BigInt(field.size * 8);
      const cut = BigInt.asIntN(Number(bits), v);
      const wide = BigInt(insn.addrSize * 8);
      if (BigInt.asUintN(Number(wide), cut) !== BigInt.asUintN(Number(wide), v)) return false;
      for (let i = 0; i < field.size; i++) bytes[field.at + i] = Number((cut >> BigInt(8 * i)) & 0xffn);
      return true;
    };
    if (insn.ripRelative !== 0) return patch(BigInt.asIntN(64, t - BigInt(next))) ? t : -1n;
    const b = insn.base;
    const x = insn.index;
    const s = BigInt(insn.scale);
    if (b < 0 && x < 0) return patch(t) ? t : -1n;
    if ((b >= 0 && this.state[b] === LOST) || (x >= 0 && this.state[x] === LOST)) return -1n;
    if (b === 4 && this.rsp < 0n) return -1n;
    const val = (n: number): bigint => (n < 0 ? 0n : n === 4 ? this.rsp : (this.value[n] as bigint));
    if (b >= 0 && b === x && this.free(b)) {
      const sum = t - disp;
      if (sum < 0n) return -1n;
      this.fix(b, this.dirty(sum / (1n + (1n << s)), insn.addrSize));
    } else if (b >= 0 && b !== x && this.free(b)) {
      if (x >= 0 && this.free(x))
        this.fix(x, r.chance(60) ? BigInt(r.int(64)) : r.u64() & (this.mode === 32 ? 0xffffffffn : M64));
      this.fix(b, this.dirty((t - disp - (val(x) << s)) & mask, insn.addrSize));
    } else if (x >= 0 && this.free(x)) {
      const rest = (t - disp - val(b)) & mask;
      const odd = rest & ((1n << s) - 1n);
      if (odd !== 0n && field.size === 4) patch(BigInt.asIntN(32, disp + odd));
      this.fix(x, this.dirty(rest >> s, insn.addrSize));
    } else if (!patch(BigInt.asIntN(insn.addrSize * 8, t - val(b) - (val(x) << s)))) return -1n;
    // What it came to.
    if (this.decoder.decode(insn, bytes, 0, bytes.length, this.mode) !== Status.Ok) return -1n;
    const now = (BigInt(insn.dispHi) << 32n) | BigInt(insn.dispLo >>> 0);
    const ea = (val(b) + (x < 0 ? 0n : val(x) << s) + now) & mask;
    const off = ea - t;
    return off >= -16n && off <= 16n ? ea : -1n;
  }

  private isOffset(insn: Insn, bytes: Uint8Array): boolean {
    let i = 0;
    while ([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3].includes(bytes[i] as number)) i++;
    if (this.mode === 64 && ((bytes[i] as number) & 0xf0) === 0x40) i++;
    return ((bytes[i] as number) & 0xfc) === 0xa0 && insn.length - i - 1 === insn.addrSize;
  }

  /** Settles registers, memory and displacement fields so that the instruction does something sensible. */
  private place(row: Row, name: string, insn: Insn, bytes: Uint8Array, offset: number): boolean {
    const r = this.random;
    const next = this.start + offset + bytes.length;
    const opSize = insn.opSize;
    const high = this.high && r.chance(80);
    if (STACK_OPS.has(name) && this.state[4] !== FIXED) return false;
    const toMemory = insn.kind0 === Kind.Mem || insn.kind0 === Kind.Gpr;
    if (this.stray && insn.seg >= 4) return false;
    if (this.loaded && (name === 'ARPL' || /^VP?MASKMOV/.test(name))) return false;
    if ((name === 'POPA' || ((name === 'POP' || name === 'CALL') && toMemory)) && !this.plainStack()) return false;
    // String instructions.
    if (STRING_OPS.has(name)) return this.placeString(name, insn, high);
    if (name === 'XLAT') {
      if (!this.free(3)) return false;
      const page = insn.addrSize === 2 ? L.DATA_TINY : insn.addrSize === 8 && high ? L.DATA_HIGH : L.DATA_LOW;
      this.fix(3, this.dirty(BigInt(page + L.DATA_WINDOW + r.int(L.DATA_LENGTH - 256)), insn.addrSize));
      return true;
    }
    if (name === 'MASKMOVQ' || name === 'MASKMOVDQU') {
      if (!this.free(7)) return false;
      this.fix(7, this.dirty(this.target(insn.addrSize, 16, 8, insn.addrSize === 8 && high), insn.addrSize));
      return true;
    }
    if (name === 'ENTER') {
      const at = bytes.length - 3;
      const level = r.chance(60) ? 0 : r.int(6);
      bytes[at + 2] = level | (r.chance(10) ? 0xe0 : 0);
      bytes[at + 1] = r.chance(95) ? 0 : r.int(0x20);
      bytes[at] = (bytes[at] as number) & 0x7f;
      if (level > 1) {
        if (!this.free(5)) return false;
        this.fix(5, BigInt((this.high ? L.STACK_HIGH : L.STACK_LOW) + 0x1000 + r.int(40) * 4 - 64));
      }
      return true;
    }
    if (name === 'LEAVE') {
      if (!this.free(5)) return false;
      this.fix(5, BigInt((this.high ? L.STACK_HIGH : L.STACK_LOW) + 0x1000 + r.int(40) * 4 - 64));
      return true;
    }
    if (name === 'RET') {
      if (this.rsp < 0n) return false;
      this.keep(this.rsp, opSize, this.landing(next));
      return true;
    }
    if (name === 'POPF' && this.rsp < 0n) return false;
    if (RELATIVE.has(name) && insn.kind0 === Kind.Rel) {
      const size = row.operands[0] === 'Jb' ? 1 : opSize === 2 ? 2 : 4;
      this.fixups.push({ at: offset + bytes.length - size, size, next: offset + bytes.length });
      return true;
    }
    if ((name === 'JMP' || name === 'CALL') && insn.kind0 === Kind.Gpr) {
      if (!this.free(insn.reg0)) return false;
      this.fix(insn.reg0, this.landing(next));
      return true;
    }
    if (name === 'DIV' || name === 'IDIV') {
      // Quotients that fit, more often than chance has it.
      if (this.free(2) && opSize > 1 && r.chance(60)) this.fix(2, r.pick([0n, M64, 1n, 3n]));
      if (this.free(0) && opSize === 1 && r.chance(60)) this.fix(0, BigInt(r.int(600)));
    }
    if (name === 'LAR' || name === 'LSL' || name === 'VERR' || name === 'VERW') {
      const kind = insn.operandCount === 2 ? insn.kind1 : insn.kind0;
      const reg = insn.operandCount === 2 ? insn.reg1 : insn.reg0;
      if (kind === Kind.Gpr) {
        if (!this.free(reg)) return false;
        this.fix(reg, BigInt(r.pick(SELECTORS)) | (r.u64() << 16n));
        return true;
      }
    }
    if (UNPREDICTABLE.has(name)) return this.placeUnpredictable(name, insn);
    if ((insn.kind0 === Kind.Seg && name !== 'PUSH') || FAR.has(name))
      return this.placeSegment(name, insn, bytes, next, high);
    // A memory operand.
    const sizes = [insn.size0, insn.size1, insn.size2];
    const kinds = [insn.kind0, insn.kind1, insn.kind2];
    const which = kinds.indexOf(Kind.Mem);
    if (which < 0) return true;
    if (insn.vsib !== 0) return this.placeGather(row, insn, offset, high);
    if (BY_COMPONENT.has(name) || IMAGE_READERS.has(name)) return this.placeImage(name, insn, bytes, next, high);
    if (insn.base === 4 && this.state[4] !== FIXED) return false;
    const size = Math.max(1, sizes[which] as number);
    const natural = size === 512 ? 16 : (size & (size - 1)) === 0 ? size : 4;
    const rip32 = insn.ripRelative !== 0 && !this.high;
    const bank = insn.addrSize === 8 && high && !rip32 && (insn.ripRelative === 0 || this.high);
    if (insn.ripRelative !== 0 && insn.addrSize === 4 && this.high) return false;
    const bit = BIT_OPS.has(name) && insn.kind1 === Kind.Gpr;
    let t = this.target(insn.addrSize, size, natural, bank || (insn.ripRelative !== 0 && this.high));
    if (bit)
      t = BigInt(
        (insn.addrSize === 2 ? L.DATA_TINY : bank || (insn.ripRelative !== 0 && this.high) ? L.DATA_HIGH : L.DATA_LOW) +
          L.PAGE +
          r.int(64) -
          32,
      );
    const ea = this.solve(insn, bytes, next, t);
    if (ea < 0n) return false;
    if (bit && !this.placeBitOffset(insn)) return false;
    // Written in parts: whether the part before the end of the lower half faults first is up to the processor.
    if ((name === 'FNSTENV' || name === 'FNSAVE') && ea < LOWER_HALF && ea + BigInt(size) > LOWER_HALF) return false;
    for (let i = 0; i < size; i++) this.touched.add(this.recordAt(ea + BigInt(i)));
    this.ignore(name, insn, ea);
    if (name === 'LDMXCSR' || name === 'VLDMXCSR') {
      // Bit 17 means something on AMD only.
      const bad = r.chance(10) ? 1 << (18 + r.int(13)) : 0;
      this.keep(ea, 4, BigInt(((r.u32() & 0xffff) | bad) >>> 0));
    } else if (name === 'LAR' || name === 'LSL' || name === 'VERR' || name === 'VERW') {
      this.keep(ea, 2, BigInt(r.pick(SELECTORS)));
    } else if ((name === 'JMP' || name === 'CALL') && r.chance(80)) {
      if (this.anyKept(ea, opSize)) return false;
      this.keep(ea, opSize, this.landing(next));
    } else if (name === 'FLDCW')
      this.store(ea, 2, BigInt(0x40 | (r.chance(75) ? 0x3f : r.int(64)) | (r.pick([0, 2, 3]) << 8) | (r.int(4) << 10)));
    else if (name === 'CMPXCHG16B' || name === 'CMPXCHG8B') this.fillOperand(ea, size);
    else if (r.chance(85)) this.fillOperand(ea, size);
    return true;
  }

  /** A selector for CS: mostly the one in use. What follows in the other mode could not be told apart. */
  private codeSelector(): bigint {
    const r = this.random;
    if (r.chance(65)) return BigInt(this.mode === 64 ? L.CS64 : L.CS32);
    this.last = true;
    return BigInt(r.pick([L.CS64, L.CS32, r.pick(SELECTORS)]));
  }

  /** Segment register loads and far transfers. */
  private placeSegment(name: string, insn: Insn, bytes: Uint8Array, next: number, high: boolean): boolean {
    const r = this.random;
    const { opSize } = insn;
    const size = BigInt(opSize);
    if (name === 'MOV' && insn.kind1 === Kind.Gpr) {
      if (!this.free(insn.reg1)) return false;
      this.fix(insn.reg1, BigInt(r.pick(SELECTORS)) | (r.u64() << 16n));
      return true;
    }
    if (name === 'POP') {
      if (this.rsp < 0n) return false;
      this.keep(this.rsp, opSize, BigInt(r.pick(SELECTORS)) | (r.u64() << 16n));
      return true;
    }
    if (name === 'RETF' || name === 'IRET') {
      if (this.rsp < 0n || !this.plainStack()) return false;
      // A selector of another privilege level makes some processors read the stack behind the parameters first.
      if (insn.kind0 === Kind.Imm) {
        bytes[bytes.length - 1] = 0;
        bytes[bytes.length - 2] = (bytes[bytes.length - 2] as number) & 0xf8;
      }
      this.keep(this.rsp, opSize, this.landing(next));
      this.keep(this.rsp + size, opSize, this.codeSelector() | (r.u64() << 16n));
      if (name === 'RETF') return true;
      this.keep(this.rsp + 2n * size, opSize, BigInt(0x202 | (r.u32() & 0x8d5)));
      if (this.mode === 64) {
        this.keep(this.rsp + 3n * size, opSize, this.rsp + BigInt(r.int(8) * 8));
        this.keep(
          this.rsp + 4n * size,
          opSize,
          BigInt(r.chance(85) ? L.USER_DS : r.pick(SELECTORS)) | (r.u64() << 16n),
        );
      }
      return true;
    }
    if (name === 'CALLF' && !this.plainStack()) return false;
    if (insn.kind0 === Kind.Far) {
      const target = this.landing(next);
      const at = bytes.length - 2 - opSize;
      for (let i = 0; i < opSize; i++) bytes[at + i] = Number((target >> BigInt(8 * i)) & 0xffn);
      const selector = Number(this.codeSelector());
      bytes[at + opSize] = selector & 0xff;
      bytes[at + opSize + 1] = selector >> 8;
      return true;
    }
    if (insn.ripRelative !== 0 && insn.addrSize === 4 && this.high) return false;
    if (insn.base === 4 && this.state[4] !== FIXED) return false;
    const bank = insn.addrSize === 8 && (insn.ripRelative !== 0 ? this.high : high);
    const length = name === 'MOV' ? 2 : opSize + 2;
    const ea = this.solve(insn, bytes, next, this.target(insn.addrSize, length, 2, bank));
    if (ea < 0n) return false;
    if (name === 'MOV') {
      this.keep(ea, 2, BigInt(r.pick(SELECTORS)));
      return true;
    }
    const jump = name === 'CALLF' || name === 'JMPF';
    if (jump && this.anyKept(ea, opSize + 2)) return false;
    if (jump) this.keep(ea, opSize, this.landing(next));
    this.keep(ea + size, 2, jump ? this.codeSelector() : BigInt(r.pick(SELECTORS)));
    return true;
  }

  /** Leaves out of the comparison what nobody can foretell. */
  private placeUnpredictable(name: string, insn: Insn): boolean {
    const r = this.random;
    const skip = (n: number, bytes: number): void => {
      this.ignored.push(L.GPR_AT[n] as number, bytes);
    };
    this.last = true;
    if (name === 'RDRAND' || name === 'RDSEED') {
      skip(insn.reg0, insn.opSize);
      // There may be no number just now.
      this.undefinedEver |= 1;
      return true;
    }
    if (name === 'XGETBV') {
      // 1 is another feature.
      if (!this.free(1)) return false;
      this.fix(1, r.chance(60) ? 0n : BigInt(2 + r.int(1000)));
    }
    skip(0, 4);
    skip(2, 4);
    if (name !== 'RDTSC' && name !== 'XGETBV') skip(1, 4);
    if (name === 'CPUID') skip(3, 4);
    return true;
  }

  /** XSAVE, XRSTOR and their like: an operand of up to 832 bytes, aligned, with a sensible image where it is read. */
  private placeImage(name: string, insn: Insn, bytes: Uint8Array, next: number, high: boolean): boolean {
    const r = this.random;
    const rip = insn.ripRelative !== 0;
    if (rip && this.high && insn.addrSize === 4) return false;
    if (insn.base === 4 && this.state[4] !== FIXED) return false;
    const bank = insn.addrSize === 8 && (rip ? this.high : high);
    const page = insn.addrSize === 2 ? L.DATA_TINY : bank ? L.DATA_HIGH : L.DATA_LOW;
    let t = BigInt(page + L.DATA_WINDOW + 64 * r.int(4));
    const roll = r.int(100);
    this.settled = roll < 88;
    if (roll >= 96 && insn.addrSize !== 2) t = BigInt(L.NOWHERE + 64 * r.int(4));
    else if (roll >= 92) t += BigInt(1 + r.int(63));
    else if (roll >= 88 && insn.addrSize !== 2) t += BigInt(L.TO_READ_ONLY);
    else if (!BY_COMPONENT.has(name)) t += BigInt(name === 'FXRSTOR' ? 16 * r.int(8) : r.int(64));
    if (BY_COMPONENT.has(name)) {
      // Components that both have: x87, SSE, AVX.
      if (this.initial || !this.free(0)) return false;
      this.fix(0, BigInt(r.chance(40) ? 7 : r.int(8)));
    }
    const ea = this.solve(insn, bytes, next, t);
    if (ea < 0n || (this.settled && ea !== t)) return false;
    // A header that was written over may name components that the host has and the software CPU has not.
    if (name === 'XRSTOR' && this.anyTouched(ea, 576)) return false;
    if (roll < 92) this.fillImage(name, insn.opSize, ea);
    if (name.startsWith('XSAVE')) {
      this.ignore('FXSAVE', insn, ea);
      this.last = true;
    }
    return true;
  }

  private fillImage(name: string, opSize: number, ea: bigint): void {
    const r = this.random;
    const image = new Uint8Array(576);
    const v = new DataView(image.buffer);
    this.floatingImage(image, v, 0);
    const put = (from: number, length: number): void => {
      for (let i = 0; i < length; i++) this.keep(ea + BigInt(i), 1, BigInt(image[from + i] as number));
    };
    if (name === 'FLDENV' || name === 'FRSTOR') {
      const wide = opSize !== 2;
      const env = wide ? 28 : 14;
      const out = new Uint8Array(108);
      const o = new DataView(out.buffer);
      const step = wide ? 4 : 2;
      o.setUint16(0, v.getUint16(0, true), true);
      o.setUint16(step, v.getUint16(2, true), true);
      o.setUint16(2 * step, r.chance(50) ? 0 : r.int(0x10000), true);
      for (let i = 0; i < 8; i++) out.set(image.subarray(32 + i * 16, 42 + i * 16), env + i * 10);
      image.set(out);
      put(0, name === 'FLDENV' ? env : env + 80);
      return;
    }
    if (r.chance(8)) v.setUint32(24, (v.getUint32(24, true) | (1 << (18 + r.int(14)))) >>> 0, true);
    if (name === 'FXRSTOR') {
      put(0, 512);
      return;
    }
    const components = r.int(8);
    v.setUint32(512, components, true);
    if (name === 'XRSTOR' && r.chance(25)) {
      v.setUint32(520, r.int(8) | (r.chance(90) ? components : 0), true);
      v.setUint32(524, 0x80000000, true);
    }
    // Reserved bits of the header.
    if (name === 'XRSTOR' && r.chance(8)) v.setUint8(r.pick([514, 517, 522, 525, 528, 540, 575]), 1 << r.int(8));
    put(0, 576);
  }

  /** A gather: base register, index and mask registers such that elements lie in the test pages. */
  private placeGather(row: Row, insn: Insn, offset: number, high: boolean): boolean {
    const r = this.random;
    // The first instruction finds the registers as they were set.
    if (offset !== 0 || insn.base < 0 || !this.free(insn.base)) return false;
    const index = (row.operands[1] as string).startsWith('vm32') ? 4 : 8;
    const element = row.encoding.w === 1 ? 8 : 4;
    const page = insn.addrSize === 8 && high ? L.DATA_HIGH : L.DATA_LOW;
    const disp = (BigInt(insn.dispHi) << 32n) | BigInt(insn.dispLo >>> 0);
    const t = BigInt(page + L.PAGE + r.int(256) - 128);
    this.fix(insn.base, this.dirty((t - disp) & ((1n << BigInt(insn.addrSize * 8)) - 1n), insn.addrSize));
    const indices = new Uint8Array(32);
    const masks = new Uint8Array(32);
    const iv = new DataView(indices.buffer);
    const mv = new DataView(masks.buffer);
    const faults = r.chance(10);
    if (faults) {
      // What of the destination and the mask has changed by then, and in which order elements come, is up to the processor.
      this.faultAddress = false;
      for (const n of [insn.reg0, insn.reg2]) this.ignored.push(L.REC.fx + 160 + n * 16, 16, L.REC.ymmh + n * 16, 16);
    }
    for (let i = 0; i < 32; i += index) {
      let x = BigInt((r.int(640) - 320) >> insn.scale);
      if (faults && r.chance(30)) x = BigInt.asIntN(32, r.u64());
      if (index === 4) iv.setInt32(i, Number(x), true);
      else iv.setBigInt64(i, x, true);
    }
    for (let i = 0; i < 32; i += element) {
      const x = r.u64() >> 1n;
      mv.setUint8(i + element - 1, r.chance(70) ? 0x80 : 0);
      mv.setUint8(i, Number(x & 0xffn));
    }
    this.vectors.set(insn.index, indices);
    this.vectors.set(insn.reg2, masks);
    return true;
  }

  /** Notes what an instruction stores that processors disagree about: pointers to the last x87 instruction, the MXCSR mask. */
  private ignore(name: string, insn: Insn, ea: bigint): void {
    const skip = (offset: number, length: number): void => {
      for (let i = 0; i < length; i++) {
        const at = this.recordAt(ea + BigInt(offset + i));
        if (at >= 0) this.ignored.push(at, 1);
      }
    };
    if (name === 'FXSAVE') {
      skip(6, 18);
      skip(28, 4);
    } else if (name === 'FNSTENV' || name === 'FNSAVE') {
      if (insn.opSize === 2) skip(6, 8);
      else skip(12, 16);
    }
  }

  /** Whether the stack pointer is known and has mapped pages around it. */
  private plainStack(): boolean {
    const off = Number(this.rsp) - (this.high ? L.STACK_HIGH : L.STACK_LOW);
    return off >= 0x200 && off < 0x1e00 && off % 8 === 0;
  }

  private placeBitOffset(insn: Insn): boolean {
    const r = this.random;
    const n = insn.reg1;
    const bits = insn.opSize * 8;
    if (this.state[n] === LOST) return false;
    if (this.free(n)) {
      this.fix(n, this.dirty(BigInt(r.int(3000) - 1500), insn.opSize));
      return true;
    }
    const v = BigInt.asIntN(bits, this.value[n] as bigint);
    return v > -4000n && v < 4000n;
  }

  /** Where indirect jumps go: mostly to the next instruction. */
  private landing(next: number): bigint {
    const r = this.random;
    const roll = r.int(100);
    if (roll < 80) return BigInt(next);
    if (roll < 88) return BigInt(this.high ? L.DATA_HIGH : L.DATA_LOW) + BigInt(r.int(0x2000));
    if (roll < 95 || this.mode === 32) return BigInt(L.NOWHERE + r.int(0x1000));
    return r.pick([0x8000_0000_0000n, 0x1234_0000_0000_0000n, 0xffff_0000_0000_0000n]);
  }

  private placeString(name: string, insn: Insn, high: boolean): boolean {
    const r = this.random;
    const a = insn.addrSize;
    const size = insn.opSize;
    const place = (n: number): boolean => {
      if (!this.free(n)) return false;
      const page = a === 2 ? L.DATA_TINY : a === 8 && high ? L.DATA_HIGH : L.DATA_LOW;
      let at = page + L.PAGE + r.int(128) - 64;
      const roll = r.int(20);
      if (roll < 8) at -= at % size;
      else if (roll === 8) at = page + 2 * L.PAGE - r.int(5) * size;
      else if (roll === 9) at = page + 2 * L.PAGE - r.int(24);
      else if (roll === 10 && a !== 2 && n === 7) at += L.TO_READ_ONLY;
      // MOVS: the processor looks for overlap in whole registers even when addresses have 16 bits.
      this.fix(n, a === 2 && name === 'MOVS' ? BigInt(at) : this.dirty(BigInt(at), a));
      return true;
    };
    if (name !== 'STOS' && name !== 'SCAS' && name !== 'INS' && !place(6)) return false;
    if (name !== 'LODS' && name !== 'OUTS' && !place(7)) return false;
    if (insn.rep !== 0) {
      if (!this.free(1)) return false;
      this.fix(1, this.dirty(BigInt(r.chance(12) ? 0 : r.int(Math.min(40, Math.floor(320 / size)))), a));
    }
    return true;
  }
}

/** Rows by family name: int, x87, mmx, sse, avx. */
export function family(row: Row): string {
  if (row.encoding.vex)
    return row.operands.some((o) => /^[VWH][a-z]/.test(o)) || row.mnemonic.startsWith('V') ? 'avx' : 'int';
  if (row.encoding.map === 0 && row.encoding.opcode >= 0xd8 && row.encoding.opcode <= 0xdf) return 'x87';
  if (row.mnemonic === 'FWAIT') return 'x87';
  if (row.mnemonic === 'EMMS' || row.operands.some((o) => /^[PQN][a-z]/.test(o))) return 'mmx';
  if (row.operands.some((o) => /^[VWU][a-z]/.test(o)) || /MXCSR|^FX/.test(row.mnemonic)) return 'sse';
  return 'int';
}

/** All rows of some families. */
export function rowsOf(families: readonly string[]): Row[] {
  return ROWS.filter((r) => families.includes(family(r)));
}
