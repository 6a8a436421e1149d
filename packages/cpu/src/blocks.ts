// Decoding of guest code into blocks of records, and their exact invalidation.
import { type Decoder, Insn, Kind, OP, ROWS, Status } from '@hyve/x86';
import { handlerKey, hashIndex, type Interpreter } from './interp.ts';
import type { Layout } from './layout.ts';
import * as R from './record.ts';
import { READING_ANY } from './smp.ts';
import * as S from './state.ts';
import { imm2Of, immLoOf } from './x87-fields.ts';

/** Most instructions per block. */
export const MAX_INSNS = 48;
/** Records set aside for single-stepped instructions: one block, never found by lookup. */
const STEP_RECORDS = 8;

/** What the cache needs of its vCPU while it decodes. */
export interface FetchPort {
  /** Host address of the code byte at linear address `la`, or 0: a fault was raised or it is not memory. */
  fetchAt(base: number, la: number): number;
  /**
   * Code is about to be read from the page at `host` (its first byte): from now on every write to it is heard of. `known`:
   * this cache has code there already.
   */
  claim(host: number): void;
  /** There is no code in the page any more. */
  release(host: number): void;
  /** The decoder is reading the page, any page (READING_ANY), or has stopped to (-1): writes matter though nothing is marked yet. */
  reading(host: number): void;
  /** Marks of code are visible to other threads before bytes are read again. */
  fence(): void;
}

/** What the cache tells the translator. */
export interface RegionIndex {
  /** Bytes [from, to) of a page change: drops regions made from them; whether there were any. */
  invalidate(page: number, from: number, to: number): boolean;
  /** Calls back for every range of bytes of a page that regions were made from. */
  eachRange(page: number, each: (from: number, to: number) => void): void;
  /** Everything goes. */
  flush(): void;
  /** A head record with translated code is no longer found. */
  headKilled(head: number): void;
  /** There is a new head record, whose block the vCPU at `base` is about to run for the first time. */
  fresh(head: number, base: number): void;
}

/** Instructions after which a block ends, besides jumps. */
const ENDS: ReadonlySet<number> = new Set([
  OP.STI, OP.POPF, OP.CLI, OP.HLT, OP.INT, OP.INT3, OP.INT1, OP.INTO, OP.IRET, OP.CALLF, OP.JMPF, OP.RETF, OP.SYSCALL,
  OP.SYSRET, OP.SYSENTER, OP.SYSEXIT, OP.WRMSR, OP.INVLPG, OP.INVPCID, OP.LMSW, OP.CLTS, OP.STAC, OP.CLAC, OP.XSETBV,
  OP.INVD, OP.WBINVD, OP.LGDT, OP.LIDT, OP.LLDT, OP.LTR, OP.PAUSE, OP.UD2, OP.XRSTOR, OP.OUT, OP.IN, OP.INS, OP.OUTS,
  OP.LSS, OP.LDS, OP.LES, OP.LFS, OP.LGS, OP.WRFSBASE, OP.WRGSBASE, OP.SWAPGS, OP.VMCALL, OP.VMMCALL,
]); // biome-ignore format: a list
const JUMPS: ReadonlySet<number> = new Set([
  OP.CALL, OP.JMP, OP.RET, OP.JCC, OP.LOOP, OP.LOOPE, OP.LOOPNE, OP.JCXZ,
]); // biome-ignore format: a list

// Units that CR0.EM, CR0.TS and CR4.OSFXSR switch off.
const UNIT_NONE = 0;
const UNIT_X87 = 1;
const UNIT_SSE = 2;
const UNIT_AVX = 3;
/** VEX prefix, general registers: nothing switches it off. */
const UNIT_VEX = 4;
/** Integer-register or memory-hint instructions of the SSE sets, which work without OSFXSR. */
const NOT_VECTOR: ReadonlySet<string> = new Set([
  'PREFETCH', 'PREFETCHW', 'PREFETCHNTA', 'PREFETCHT0', 'PREFETCHT1', 'PREFETCHT2', 'SFENCE', 'LFENCE', 'MFENCE', 'CLFLUSH',
  'MOVNTI', 'PAUSE', 'CRC32', 'POPCNT', 'FXSAVE', 'FXRSTOR', 'MONITOR', 'MWAIT',
]); // biome-ignore format: a list

/** Which unit a row uses. */
function unitOfRow(id: number): number {
  const r = ROWS[id];
  if (r === undefined || NOT_VECTOR.has(r.mnemonic)) return UNIT_NONE;
  const vector = r.operands.some((o) => /^[VWUHLX][a-z]/.test(o) && !/^X[bwzvq]$/.test(o));
  // VZEROUPPER and VLDMXCSR have no vector operand and are AVX nevertheless.
  if (r.encoding.vex) return vector || r.mnemonic.startsWith('V') ? UNIT_AVX : UNIT_VEX;
  if (vector) return UNIT_SSE;
  if (r.operands.some((o) => /^[PQN][a-z]/.test(o)) || r.mnemonic === 'EMMS') return UNIT_X87;
  if (r.encoding.map === 0 && r.encoding.opcode >= 0xd8 && r.encoding.opcode <= 0xdf) return UNIT_X87;
  if (r.mnemonic === 'FXSAVE' || r.mnemonic === 'FXRSTOR') return UNIT_X87;
  if (r.mnemonic === 'LDMXCSR' || r.mnemonic === 'STMXCSR') return UNIT_SSE;
  return UNIT_NONE;
}

/** The unit of every row of the opcode table, for {@link modeForbids}. */
export function unitsOfRows(): Uint8Array {
  return Uint8Array.from(ROWS, (r) => unitOfRow(r.id));
}

/** Vector of the exception that a decoded instruction raises because its unit is off in a mode, or 0. */
export function modeForbids(units: Uint8Array, n: Insn, mode: number): number {
  if (n.row < 0) return 0;
  const unit = units[n.row] as number;
  if (unit === UNIT_NONE) return 0;
  if (unit === UNIT_X87) {
    const mmx = n.kind0 === Kind.Mmx || n.kind1 === Kind.Mmx || n.op === OP.EMMS;
    if (mode & S.MODE_EM) return mmx ? S.EXC_UD : S.EXC_NM;
    return mode & S.MODE_TS ? S.EXC_NM : 0;
  }
  if (unit >= UNIT_AVX) {
    if ((mode & S.MODE_VEX) === 0) return S.EXC_UD;
    if (unit === UNIT_VEX) return 0;
    if ((mode & S.MODE_AVX) === 0) return S.EXC_UD;
  } else if ((mode & S.MODE_EM) !== 0 || (mode & S.MODE_SSE) === 0) return S.EXC_UD;
  return mode & S.MODE_TS ? S.EXC_NM : 0;
}

/** Blocks in one bucket that a look without locks goes through at most. */
const LONGEST_CHAIN = 4096;

/** For {@link runsOf}: the block has become the entry of a region. */
export const TRANSLATED = 0x7fffffff;

/** How often the block at a host address ran under a mode key; 0 if there is none. */
export function runsOf(words: Int32Array, halves: Uint16Array, L: Layout, host: number, mode: number): number {
  let head = words[(L.hash >> 2) + hashIndex(host, L)] as number;
  for (let i = 0; head !== 0 && i < LONGEST_CHAIN; i++) {
    if (words[(head + R.B_HOST) >> 2] === host && words[(head + R.B_MODE) >> 2] === mode) {
      const h = halves[head >> 1];
      if (h === R.H_JIT) return TRANSLATED;
      return h === R.H_HEAD ? (words[(head + R.B_RUNS) >> 2] as number) : 0;
    }
    head = words[(head + R.B_NEXT) >> 2] as number;
  }
  return 0;
}

/** The block cache of one VM. */
export class BlockCache {
  private readonly L: Layout;
  private readonly u8: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly i32: Int32Array;
  private readonly decoder: Decoder;
  private readonly interp: () => Interpreter;
  private readonly fetch: FetchPort;
  /** Translated code, which goes stale with the blocks. */
  regions: RegionIndex = {
    invalidate: () => false,
    eachRange: () => {},
    flush: () => {},
    headKilled: () => {},
    fresh: () => {},
  };
  private readonly insn = new Insn();
  private readonly buf = new Uint8Array(16);
  private readonly units: Uint8Array;
  /** FNOP, which only looks at pending errors. */
  private readonly fnop = new Insn();
  private next: number;
  private readonly first: number;
  private sysInsns: Insn[] = [];
  /** Where the next record of the block under construction goes, and the block's first byte. */
  private at = 0;
  private host0 = 0;
  /** First record of each of its instructions. */
  private readonly starts: Int32Array = new Int32Array(MAX_INSNS);
  private readonly keyIds: Map<number, Map<number, number>> = new Map();
  /** Blocks decoded, instructions decoded, blocks dropped for changed code, whole flushes. */
  decoded = 0;
  decodedInsns = 0;
  invalidated = 0;
  flushes = 0;

  constructor(o: {
    layout: Layout;
    buffer: ArrayBufferLike;
    decoder: Decoder;
    interp: () => Interpreter;
    fetch: FetchPort;
  }) {
    this.L = o.layout;
    this.u8 = new Uint8Array(o.buffer);
    this.u16 = new Uint16Array(o.buffer);
    this.i32 = new Int32Array(o.buffer);
    this.decoder = o.decoder;
    this.interp = o.interp;
    this.fetch = o.fetch;
    this.first = this.L.arena + STEP_RECORDS * R.REC * 2;
    this.next = this.first;
    this.units = unitsOfRows();
    this.decoder.decode(this.fnop, Uint8Array.of(0xd9, 0xd0), 0, 2, 32);
  }

  /** The decoded instruction of a record whose handler runs in TypeScript. */
  sysInsn(rec: number): Insn {
    return this.sysInsns[this.i32[(rec + R.R_LINK1) >> 2] as number] as Insn;
  }

  /** Operation of the instruction decoded last. */
  get lastOp(): number {
    return this.insn.op;
  }

  /** Gives a record another handler; returns the old one. */
  swapHandler(rec: number, handler: number): number {
    const w = (rec + R.R_HANDLER) >> 1;
    const old = this.u16[w] as number;
    this.u16[w] = handler;
    return old;
  }

  /** Bytes of records in use. */
  get arenaUsed(): number {
    return this.next - this.L.arena;
  }

  private raise(base: number, vector: number): number {
    this.i32[(base + S.FAULT) >> 2] = vector + 1;
    this.i32[(base + S.FAULT_CODE) >> 2] = 0;
    return 0;
  }

  /**
   * Decodes the block at host address `host` for the vCPU at `base`, whose RIP is its start.
   * Returns its head, or 0 with FAULT set.
   */
  translate(base: number, host: number): number {
    const head = this.decodeBlock(base, host);
    this.fetch.reading(-1);
    // Nothing came of it: the page may have no code at all.
    if (head === 0) this.remask((host - this.L.ram) >>> 12);
    return head;
  }

  private decodeBlock(base: number, host: number): number {
    const L = this.L;
    if (this.next + (MAX_INSNS * 3 + 2) * R.REC > L.arenaEnd || this.interp().crowded) this.flush();
    const mode = this.i32[(base + S.MODE) >> 2] as number;
    const head = this.next;
    const pageEnd = host - (host % 4096) + 4096;
    const bits = (mode & 3) === 2 ? 64 : (mode & 3) === 1 ? 32 : 16;
    this.at = head + R.REC;
    this.host0 = host;
    const linkable = (mode & S.MODE_CSFULL) !== 0;
    this.claim(host);
    this.fetch.reading(host - (host & 4095));
    let pc = host;
    let count = 0;
    let page2 = 0;
    let ended = false;
    const { starts } = this;
    while (count < MAX_INSNS) {
      const st = this.decoder.decode(this.insn, this.u8, pc, pageEnd, bits);
      if (st === Status.NeedMore) {
        if (count > 0) break;
        const got = this.decodeCrossing(base, host, pageEnd, bits);
        if (got === 0) return 0;
        page2 = got;
        this.u8[this.begin(R.H_CROSS, 0, 0) + R.R_LEFT] = 1;
      } else if (st === Status.TooLong) {
        if (count > 0) break;
        return this.raise(base, S.EXC_GP);
      } else if (st === Status.Undefined) {
        if (count > 0) break;
        return this.raise(base, S.EXC_UD);
      }
      const bad = modeForbids(this.units, this.insn, mode);
      if (bad !== 0) {
        if (count > 0) break;
        return this.raise(base, bad);
      }
      starts[count] = this.at;
      ended = this.lower(pc - host, mode, linkable);
      count++;
      pc += this.insn.length;
      if (ended || pc >= pageEnd) break;
    }
    if (!ended) this.goto(pc - host, linkable);
    this.number(count);
    this.interp().flushPending();
    // Head.
    const records = (this.at - head) / R.REC;
    const h16 = head >> 1;
    const h32 = head >> 2;
    this.u16[h16] = R.H_HEAD;
    this.u16[h16 + R.B_COUNT / 2] = count;
    this.u16[h16 + R.B_RECORDS / 2] = records;
    this.u16[h16 + R.B_BYTES / 2] = pc - host;
    this.i32[h32 + R.B_HOST / 4] = host;
    this.i32[h32 + R.B_MODE / 4] = mode;
    this.i32[h32 + R.B_PAGE2 / 4] = page2;
    this.i32[h32 + R.B_RUNS / 4] = 0;
    this.next = this.at;
    this.decoded++;
    this.decodedInsns += count;
    const bucket = (L.hash >> 2) + hashIndex(host, L);
    this.i32[h32 + R.B_NEXT / 4] = this.i32[bucket] as number;
    this.i32[bucket] = head;
    const firstBytes = page2 !== 0 ? pageEnd - host : pc - host;
    this.own(host, firstBytes, head, R.B_PAGE_NEXT, 0);
    if (page2 !== 0) this.own(page2, pc - host - firstBytes, head, R.B_PAGE2_NEXT, 1);
    this.regions.fresh(head, base);
    return head;
  }

  /** Puts the block on its page's list and marks the bytes as code. */
  private own(host: number, bytes: number, head: number, linkField: number, tag: number): void {
    const L = this.L;
    const page = (host - L.ram) >>> 12;
    const info = (L.pageInfo >> 2) + page * 4;
    this.i32[(head + linkField) >> 2] = this.i32[info] as number;
    this.i32[info] = head | tag;
    this.setMask(host, bytes);
  }

  private setMask(host: number, bytes: number): void {
    const L = this.L;
    const page = (host - L.ram) >>> 12;
    const info = (L.pageInfo >> 2) + page * 4;
    for (let c = (host & 4095) >> 6; c <= ((host & 4095) + bytes - 1) >> 6; c++)
      this.i32[info + 2 + (c >> 5)] = (this.i32[info + 2 + (c >> 5)] as number) | (1 << (c & 31));
  }

  /** Before the first code of a page is read: writes to it must not go unnoticed. */
  private claim(host: number): void {
    if (this.claimed(host)) return;
    this.i32[(this.L.pageInfo >> 2) + ((host - this.L.ram) >>> 12) * 4 + 1] = 1;
    this.fetch.claim(host - (host & 4095));
  }

  private claimed(host: number): boolean {
    return this.i32[(this.L.pageInfo >> 2) + ((host - this.L.ram) >>> 12) * 4 + 1] !== 0;
  }

  /** Decodes one instruction whose bytes run into the next page. Returns that page's host address, 0 on a fault. */
  private decodeCrossing(base: number, host: number, pageEnd: number, bits: 16 | 32 | 64): number {
    const n = pageEnd - host;
    const nextPage = this.fetch.fetchAt(base, this.nextPageLinear(base, n));
    if (nextPage === 0) {
      // A fault, or code that runs from memory into a device: the caller takes it one byte at a time.
      return 0;
    }
    // A claim may read messages of other threads, and these may end the claim to the other page with the last code in it.
    do {
      this.claim(nextPage);
      this.claim(host);
    } while (!this.claimed(nextPage));
    this.fetch.reading(READING_ANY);
    this.buf.set(this.u8.subarray(host, pageEnd));
    this.buf.set(this.u8.subarray(nextPage, nextPage + 15 - n), n);
    const st = this.decoder.decode(this.insn, this.buf, 0, 15, bits);
    if (st === Status.Undefined) return this.raise(base, S.EXC_UD);
    if (st !== Status.Ok) return this.raise(base, S.EXC_GP);
    return nextPage;
  }

  private nextPageLinear(base: number, n: number): number {
    const rip =
      (this.i32[(base + S.RIP + 4) >> 2] as number) * 0x1_0000_0000 + ((this.i32[(base + S.RIP) >> 2] as number) >>> 0);
    if (((this.i32[(base + S.MODE) >> 2] as number) & 3) === 2) return rip + n;
    const cs = (this.i32[(base + S.SEG + S.CS * S.SEG_STRIDE) >> 2] as number) >>> 0;
    return (rip + n + cs) % 0x1_0000_0000;
  }

  private begin(handler: number, off: number, len: number): number {
    const r = this.at;
    this.at += R.REC;
    const w = r >> 2;
    for (let i = 0; i < 8; i++) this.i32[w + i] = 0;
    this.u16[(r + R.R_HANDLER) >> 1] = handler;
    this.u16[(r + R.R_OFF) >> 1] = off;
    this.u8[r + R.R_LEN] = len;
    return r;
  }

  private setImm(r: number, lo: number, hi: number): void {
    this.i32[(r + R.R_IMM) >> 2] = lo;
    this.i32[(r + R.R_IMM + 4) >> 2] = hi;
  }

  /** Adds `n` (small) to a 64-bit immediate. */
  private addImm(r: number, n: number): void {
    const w = (r + R.R_IMM) >> 2;
    const lo = (this.i32[w] as number) >>> 0;
    const sum = lo + n;
    this.i32[w] = sum | 0;
    this.i32[w + 1] = (this.i32[w + 1] as number) + Math.floor(sum / 0x1_0000_0000);
  }

  private goto(delta: number, linkable: boolean): void {
    const r = this.begin(R.H_GOTO, delta, 0);
    this.setImm(r, delta, 0);
    // Another page may be mapped elsewhere by the time the link is used.
    this.i32[(r + R.R_LINK0) >> 2] = linkable && (this.host0 & 4095) + delta < 4096 ? 0 : -1;
  }

  /** Fills in how many instructions are left in the block, for each record. */
  private number(count: number): void {
    for (let i = 0; i < count; i++) {
      const end = i + 1 < count ? (this.starts[i + 1] as number) : this.at;
      for (let r = this.starts[i] as number; r < end; r += R.REC)
        this.u8[r + R.R_LEFT] = this.u16[(r + R.R_HANDLER) >> 1] === R.H_GOTO ? 0 : count - i;
    }
  }

  /** State offset of a register operand. */
  private static field(kind: number, reg: number): number {
    switch (kind) {
      case Kind.Gpr:
        return S.GPR + reg * 8;
      case Kind.GprHigh:
        return S.GPR + reg * 8 + 1;
      case Kind.Xmm:
      case Kind.Ymm:
        return S.XMM + reg * 16;
      case Kind.Mmx:
        return S.FPR + reg * 16;
      default:
        return reg;
    }
  }

  /** Writes the records of the decoded instruction. Returns whether it ends the block. */
  private lower(off: number, mode: number, linkable: boolean): boolean {
    const n = this.insn;
    const memory =
      n.kind0 === Kind.Mem ? 0 : n.kind1 === Kind.Mem ? 1 : n.kind2 === Kind.Mem ? 2 : n.kind3 === Kind.Mem ? 3 : -1;
    if (memory >= 0 && n.op !== OP.XLAT) {
      this.pendingFirst(off, mode);
      this.address(off, mode, memory);
    }
    const handler = this.handlerOf(mode);
    const r = this.begin(handler, off, n.length);
    this.u16[(r + R.R_REG0) >> 1] = BlockCache.field(n.kind0, n.reg0);
    this.u16[(r + R.R_REG1) >> 1] = n.vsib !== 0 ? S.XMM + n.index * 16 : BlockCache.field(n.kind1, n.reg1);
    this.u16[(r + R.R_REG2) >> 1] = BlockCache.field(n.kind2, n.reg2);
    this.i32[(r + R.R_AUX) >> 2] = n.operandCount > 3 ? BlockCache.field(n.kind3, n.reg3) : imm2Of(n);
    this.setImm(r, immLoOf(n), n.immHi);
    const jump = JUMPS.has(n.op);
    if (jump) {
      const rel = n.kind0 === Kind.Rel;
      const after = off + n.length;
      if (rel) this.addImm(r, after);
      // Link only within the page: elsewhere the mapping may have changed by the time the link is followed.
      const pageOff = (this.host0 + off) & 4095;
      const target = pageOff + n.length + n.immLo;
      const near = n.immHi === n.immLo >> 31 && target >= 0 && target < 4096 && n.opSize !== 2;
      this.i32[(r + R.R_LINK0) >> 2] = linkable && rel && near ? 0 : -1;
      this.i32[(r + R.R_LINK1) >> 2] = linkable && pageOff + n.length < 4096 ? 0 : -1;
      return true;
    }
    // For the handlers that end up in TypeScript: the decoded instruction itself.
    if (this.interp().mayUseSys(n)) {
      this.i32[(r + R.R_LINK1) >> 2] = this.sysInsns.length;
      this.sysInsns.push(Object.assign(new Insn(), n));
    }
    if (ENDS.has(n.op) || n.kind0 === Kind.Seg || n.kind0 === Kind.Cr || n.kind0 === Kind.Dr) {
      if (!ENDS_WITHOUT_NEXT.has(n.op)) this.goto(off + n.length, linkable);
      return true;
    }
    return false;
  }

  /** A pending x87 error comes before what is wrong with a segment: it is looked at before the address is computed. */
  private pendingFirst(off: number, mode: number): void {
    const n = this.insn;
    const x87 = this.units[n.row] === UNIT_X87 || n.kind0 === Kind.Mmx;
    if (!x87 || (mode & 3) === 2 || NOT_WAITING.has(n.op)) return;
    if ((mode & S.MODE_FLAT) !== 0 && n.seg < 4 && n.seg !== S.CS) return;
    this.begin(this.interp().handler(handlerKey(this.fnop, mode)), off, n.length);
  }

  private handlerOf(mode: number): number {
    // Cached by row and everything else the key depends on, packed into one number.
    const n = this.insn;
    const packed =
      ((((((n.opSize * 16 + n.addrSize) * 17 + n.cc + 1) * 3 + (n.rep === 0 ? 0 : n.rep - 0xf1)) * 8 + n.seg) * 16 +
        (mode & 15)) *
        1024 +
        ((n.kind0 * 20 + n.kind1) * 2 + n.vexL)) *
        32 +
      n.kind2;
    const row = n.lock === 0 ? n.row : -1 - n.row;
    let byRow = this.keyIds.get(row);
    if (byRow === undefined) {
      byRow = new Map();
      this.keyIds.set(row, byRow);
    }
    let id = byRow.get(packed);
    if (id === undefined) {
      id = this.interp().handler(handlerKey(n, mode));
      byRow.set(packed, id);
    }
    return id;
  }

  /** The micro-operation that computes the memory operand's address. */
  private address(off: number, mode: number, memory: number): void {
    const n = this.insn;
    const bits64 = (mode & 3) === 2;
    const base = n.base < 0 ? S.ZERO : S.GPR + n.base * 8;
    const index = n.index < 0 || n.vsib !== 0 ? S.ZERO : S.GPR + n.index * 8;
    const lea = n.op === OP.LEA;
    const fsgs = n.seg >= 4;
    const flat = (mode & S.MODE_FLAT) !== 0;
    // Outside 64-bit mode even a flat code segment is not writable.
    const writesCode = n.seg === S.CS && !bits64 && memory === 0 && /w/.test(ROWS[n.row]?.access0 ?? '');
    const noSegment = lea || NO_ACCESS.has(n.op) || (!fsgs && (bits64 || (flat && !writesCode)));
    let handler: number = R.H_EA_ANY;
    if (noSegment && n.addrSize === 8) handler = n.ripRelative ? R.H_EA_RIP : index === S.ZERO ? R.H_EA_BD : R.H_EA_BIS;
    else if (noSegment && n.addrSize === 4 && !n.ripRelative) handler = index === S.ZERO ? R.H_EA32_BD : R.H_EA32_BIS;
    const r = this.begin(handler, off, n.length);
    this.u16[(r + R.R_REG0) >> 1] = base;
    this.u16[(r + R.R_REG1) >> 1] = index;
    this.u16[(r + R.R_REG2) >> 1] = n.scale;
    this.setImm(r, n.dispLo, n.dispHi);
    if (n.ripRelative) this.addImm(r, off + n.length);
    // POP to memory: the address uses the stack pointer after the pop.
    if (n.op === OP.POP && n.base === 4) this.addImm(r, n.opSize);
    if (handler === R.H_EA_ANY) {
      const size = memory === 0 ? n.size0 : memory === 1 ? n.size1 : memory === 2 ? n.size2 : n.size3;
      const row = ROWS[n.row];
      const write = memory === 0 && row !== undefined && row.access0 !== 'r' && row.access0 !== '-';
      this.i32[(r + R.R_AUX) >> 2] = n.addrSize | (Math.max(1, size) << 8) | (write ? 1 << 24 : 0);
      this.i32[(r + R.R_LINK0) >> 2] = noSegment ? 0 : S.SEG + n.seg * S.SEG_STRIDE;
      this.i32[(r + R.R_LINK1) >> 2] = n.ripRelative ? 1 : 0;
    }
  }

  /** Whether the last {@link BlockCache.step} ran out of bytes. */
  wantedMore = false;

  /** Decodes one instruction into `insn`; a Status. */
  decodeAt(insn: Insn, bytes: Uint8Array, length: number, bits: 16 | 32 | 64): number {
    return this.decoder.decode(insn, bytes, 0, length, bits);
  }

  /**
   * Builds a block of one instruction from bytes, outside the cache, for single-stepping. The bytes are those at RIP.
   * Returns its head, or 0 with FAULT set.
   */
  step(base: number, bytes: Uint8Array, length: number): number {
    const mode = this.i32[(base + S.MODE) >> 2] as number;
    const bits = (mode & 3) === 2 ? 64 : (mode & 3) === 1 ? 32 : 16;
    const st = this.decoder.decode(this.insn, bytes, 0, length, bits);
    this.wantedMore = st === Status.NeedMore;
    if (st === Status.Undefined) return this.raise(base, S.EXC_UD);
    if (st !== Status.Ok) return this.raise(base, S.EXC_GP);
    const bad = modeForbids(this.units, this.insn, mode);
    if (bad !== 0) return this.raise(base, bad);
    if (this.interp().crowded) this.flush();
    const head = this.L.arena + R.REC;
    this.at = head + R.REC;
    this.host0 = 0;
    const start = this.at;
    if (!this.lower(0, mode, false)) this.goto(this.insn.length, false);
    this.starts[0] = start;
    this.number(1);
    this.interp().flushPending();
    this.u16[head >> 1] = R.H_HEAD;
    this.u16[(head + R.B_COUNT) >> 1] = 1;
    return head;
  }

  /** Head of the block at a host address in a mode, 0 if there is none. */
  find(host: number, mode: number): number {
    let head = this.i32[(this.L.hash >> 2) + hashIndex(host, this.L)] as number;
    while (head !== 0) {
      if (this.i32[(head + R.B_HOST) >> 2] === host && this.i32[(head + R.B_MODE) >> 2] === mode) break;
      head = this.i32[(head + R.B_NEXT) >> 2] as number;
    }
    return head;
  }

  /** Bytes at a host address are changing: drops the blocks made from them. */
  invalidate(host: number, size: number): void {
    let from = host;
    const end = host + size;
    while (from < end) {
      const pageEnd = from - (from % 4096) + 4096;
      this.invalidateInPage(from, Math.min(end, pageEnd));
      from = pageEnd;
    }
  }

  private invalidateInPage(from: number, end: number): void {
    const L = this.L;
    const page = (from - L.ram) >>> 12;
    const info = (L.pageInfo >> 2) + page * 4;
    const pageHost = from - (from % 4096);
    let killed = false;
    let entry = this.i32[info] as number;
    while (entry !== 0) {
      const head = entry & ~1;
      const second = entry & 1;
      entry = this.i32[(head + (second ? R.B_PAGE2_NEXT : R.B_PAGE_NEXT)) >> 2] as number;
      if (this.startIn(head, second, pageHost) >= end || from >= this.endIn(head, second, pageHost)) continue;
      // A block whose two pages are one is on its list twice.
      if (this.u16[head >> 1] !== R.H_STALE) this.kill(head);
      killed = true;
    }
    const regions = this.regions.invalidate(page, from - pageHost, end - pageHost);
    if (killed || regions) this.remask(page);
  }

  // The bytes of a block within a page, as host addresses: in the first page of its two, or the second.
  private startIn(head: number, second: number, pageHost: number): number {
    return second === 0 ? (this.i32[(head + R.B_HOST) >> 2] as number) : pageHost;
  }
  private endIn(head: number, second: number, pageHost: number): number {
    const host = this.i32[(head + R.B_HOST) >> 2] as number;
    const bytes = this.u16[(head + R.B_BYTES) >> 1] as number;
    return second === 0 ? Math.min(host + bytes, pageHost + 4096) : pageHost + bytes - (4096 - (host & 4095));
  }

  /** Marks of 64 bytes each that {@link BlockCache.mark} collects. */
  private marksLo = 0;
  private marksHi = 0;
  private readonly mark = (from: number, to: number): void => {
    for (let c = from >> 6; c <= (to - 1) >> 6; c++) {
      if (c < 32) this.marksLo |= 1 << c;
      else this.marksHi |= 1 << (c - 32);
    }
  };

  private remask(page: number): void {
    const L = this.L;
    const info = (L.pageInfo >> 2) + page * 4;
    this.marksLo = 0;
    this.marksHi = 0;
    const pageHost = L.ram + page * 4096;
    let entry = this.i32[info] as number;
    while (entry !== 0) {
      const head = entry & ~1;
      const second = entry & 1;
      this.mark(this.startIn(head, second, pageHost) - pageHost, this.endIn(head, second, pageHost) - pageHost);
      entry = this.i32[(head + (second ? R.B_PAGE2_NEXT : R.B_PAGE_NEXT)) >> 2] as number;
    }
    this.regions.eachRange(page, this.mark);
    this.i32[info + 2] = this.marksLo;
    this.i32[info + 3] = this.marksHi;
    if (this.marksLo === 0 && this.marksHi === 0 && this.i32[info + 1] !== 0) {
      this.i32[info + 1] = 0;
      this.fetch.release(pageHost);
    }
  }

  /** Takes a block out of everything; its records lead back to the lookup. */
  private kill(head: number): void {
    const L = this.L;
    this.invalidated++;
    const host = this.i32[(head + R.B_HOST) >> 2] as number;
    let link = L.hash + hashIndex(host, L) * 4;
    while (this.i32[link >> 2] !== head) {
      const b = this.i32[link >> 2] as number;
      if (b === 0) break;
      link = b + R.B_NEXT;
    }
    if (this.i32[link >> 2] === head) this.i32[link >> 2] = this.i32[(head + R.B_NEXT) >> 2] as number;
    this.unlist((host - L.ram) >>> 12, head);
    const page2 = this.i32[(head + R.B_PAGE2) >> 2] as number;
    if (page2 !== 0) {
      const p2 = (page2 - L.ram) >>> 12;
      this.unlist(p2, head | 1);
      this.remask(p2);
      this.remask((host - L.ram) >>> 12);
    }
    if (this.u16[head >> 1] === R.H_JIT) this.regions.headKilled(head);
    const records = this.u16[(head + R.B_RECORDS) >> 1] as number;
    // Offset, length and count stay: a running block leaves at its next instruction.
    for (let i = 0; i < records; i++) this.u16[(head + i * R.REC) >> 1] = R.H_STALE;
    // The head itself has no instruction: at offset 0, nothing counted yet.
    this.u16[(head + R.R_OFF) >> 1] = 0;
    this.u8[head + R.R_LEFT] = 0;
  }

  private unlist(page: number, entry: number): void {
    const L = this.L;
    let link = L.pageInfo + page * 16;
    for (;;) {
      const e = this.i32[link >> 2] as number;
      if (e === 0) return;
      const next = (e & ~1) + (e & 1 ? R.B_PAGE2_NEXT : R.B_PAGE_NEXT);
      if (e === entry) {
        this.i32[link >> 2] = this.i32[next >> 2] as number;
        return;
      }
      link = next;
    }
  }

  /** Marks bytes of a page as code on behalf of a region: changes of what is read from now on are heard of. */
  markCode(host: number, bytes: number): void {
    this.claim(host);
    this.setMask(host, bytes);
    this.fetch.fence();
  }

  /** Forgets every block. Not while a block runs. */
  flush(): void {
    const L = this.L;
    this.flushes++;
    this.regions.flush();
    this.i32.fill(0, L.hash >> 2, (L.hash >> 2) + (1 << L.hashBits));
    const info = L.pageInfo >> 2;
    for (let p = 0; p < L.pages; p++) if (this.i32[info + p * 4 + 1] !== 0) this.fetch.release(L.ram + p * 4096);
    this.u8.fill(0, L.pageInfo, L.pageInfo + L.pages * 16);
    this.next = this.first;
    this.sysInsns = [];
    if (this.interp().crowded) {
      this.interp().resetHandlers();
      this.keyIds.clear();
    }
  }
}

/** Operations whose memory operand is not accessed, so that no segment check applies. */
const NO_ACCESS: ReadonlySet<number> = new Set([
  OP.NOP, OP.PREFETCH, OP.PREFETCHW, OP.PREFETCHNTA, OP.PREFETCHT0, OP.PREFETCHT1, OP.PREFETCHT2, OP.UD0, OP.UD1,
]); // biome-ignore format: a list

/** x87 instructions that run whatever error is pending. */
const NOT_WAITING: ReadonlySet<number> = new Set([
  OP.FNSTCW, OP.FNSTSW, OP.FNSTENV, OP.FNSAVE, OP.FXSAVE, OP.FXRSTOR,
]); // biome-ignore format: a list

/** Jumps in TypeScript that never fall through. */
const ENDS_WITHOUT_NEXT: ReadonlySet<number> = new Set([OP.IRET, OP.CALLF, OP.JMPF, OP.RETF, OP.SYSRET, OP.SYSEXIT]);
