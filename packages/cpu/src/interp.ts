// Generates the interpreter: a br_table loop over decoded records with the commonest instructions inline, and handlers
// of all others made on first use as small functions reached through a table.
import { Insn, Kind, OP, OP_NAMES } from '@hyve/x86';
import { tlbSlot } from './addresses.ts';
import { type CodeMode, type Env, is64Bit, type Semantic, SemCtx } from './ctx.ts';
import { emitDelivery } from './deliver.ts';
import { fusedMultiplyAdd } from './fused.ts';
import { emitMatFlags, emitMatState, hashHost, J_BUDGET, J_FAULT, J_INTERPRET, JC_ENTRIES } from './jit.ts';
import { emitMissed, emitNoteJump } from './jump-targets.ts';
import type { CompiledStore } from './kept.ts';
import type { Layout } from './layout.ts';
import { emitMemory, type MemFns } from './mem.ts';
import * as R from './record.ts';
import { emitArith } from './sem/helpers.ts';
import { sys } from './sem/integer.ts';
import { TRANSITIONS } from './sem/transitions.ts';
import { XSTATE } from './sem/xstate.ts';
import * as S from './state.ts';
import {
  c32,
  c64,
  call,
  callIndirect,
  F64,
  type Fn,
  type FnRef,
  I32,
  I64,
  i32,
  i64,
  type Label,
  type Local,
  ld,
  Module,
  type Node,
  select,
} from './wasm/builder.ts';
import { emitWindows } from './windows.ts';

const REG_FIELDS = [R.R_REG0, R.R_REG1, R.R_REG2, R.R_AUX];

/** How a handler's code leaves; differs between inline code and functions. */
interface Leave {
  fault(): void;
  /** RIP is set. */
  jump(): void;
  next(): void;
  status(st: Node): void;
  /** Direct jump whose target is RIP_BASE + distance, through link field `link`. */
  direct(target: Node, link: number): void;
}

/** Operands in record fields. */
class RecCtx extends SemCtx {
  private readonly rec: Node;
  private readonly eaNode: Node;
  private readonly leave: Leave;

  constructor(f: Fn, env: Env, base: Node, rec: Node, ea: Node, insn: Insn, mode: CodeMode, leave: Leave) {
    super(f, env, base, insn, mode);
    this.rec = rec;
    this.eaNode = ea;
    this.leave = leave;
    this.ea = () => this.eaNode;
  }

  override ea: () => Node;

  private at(i: number): Node {
    return i32.add(this.base, ld.i32_16u(this.rec, REG_FIELDS[i] as number));
  }
  getGpr64(n: number): Node {
    return ld.i64(this.base, S.GPR + 8 * n);
  }
  getGpr32(n: number): Node {
    return ld.i32(this.base, S.GPR + 8 * n);
  }
  setGpr64(n: number, v: Node): void {
    this.f.st64(this.base, v, S.GPR + 8 * n);
  }
  setGprLow(n: number, size: 1 | 2, v: Node): void {
    if (size === 1) this.f.st8(this.base, v, S.GPR + 8 * n);
    else this.f.st16(this.base, v, S.GPR + 8 * n);
  }
  readReg(i: number, size: number): Node {
    const a = this.at(i);
    return size === 8 ? ld.i64(a) : size === 4 ? ld.i32(a) : size === 2 ? ld.i32_16u(a) : ld.i32_8u(a);
  }
  writeReg(i: number, size: number, v: Node): void {
    const a = this.at(i);
    if (size === 8) this.f.st64(a, v);
    else if (size === 4) this.f.st64(a, i64.extend_u(v));
    else if (size === 2) this.f.st16(a, v);
    else this.f.st8(a, v);
  }
  regAddr(i: number): Node {
    return this.at(i);
  }
  regNum(i: number): Node {
    return ld.i32_16u(this.rec, REG_FIELDS[i] as number);
  }
  imm64(): Node {
    return ld.i64(this.rec, R.R_IMM);
  }
  imm32(): Node {
    return ld.i32(this.rec, R.R_IMM);
  }
  imm2(): Node {
    return ld.i32(this.rec, R.R_AUX);
  }
  rip(): Node {
    return i64.add(ld.i64(this.base, S.RIP_BASE), ld.i64_16u(this.rec, R.R_OFF));
  }
  nextRip(): Node {
    const v = i64.add(this.rip(), ld.i64_8u(this.rec, R.R_LEN));
    return this.mode.bits === 64 ? v : i64.and(v, c64(0xffffffff));
  }
  leaveFault(): void {
    this.leave.fault();
  }
  jumpIndirect(target: Node): void {
    const { op } = this.insn;
    if (op === OP.CALL || op === OP.JMP)
      this.f.do(call(this.env.fn('noteJump'), i32.wrap(this.rip()), i32.wrap(target)));
    this.f.st64(this.base, target, S.RIP);
    this.leave.jump();
  }
  private cut(v: Node): Node {
    return this.mode.bits === 64 ? v : i64.and(v, c64(this.size === 2 ? 0xffff : 0xffffffff));
  }
  jumpRelative(): void {
    this.leave.direct(this.cut(i64.add(ld.i64(this.base, S.RIP_BASE), this.imm64())), R.R_LINK0);
  }
  branch(cond: Node): void {
    this.f.if(
      cond,
      () => this.jumpRelative(),
      () => this.leave.direct(this.nextRip(), R.R_LINK1),
    );
  }
  leaveStatus(status: Node): void {
    this.leave.status(status);
  }
  next(): void {
    this.leave.next();
  }
  again(): void {
    this.f.st64(this.base, this.rip(), S.RIP);
    this.leave.jump();
  }
  record(): Node {
    return this.rec;
  }
  sync(): void {
    this.f.st32(this.base, this.rec, S.CUR_REC);
  }
  /** A store that made a device ask for attention: the rest of the block must wait. */
  protected override afterSlowStore(): void {
    this.f.if(i32.lt_s(ld.i32(this.base, S.BUDGET), c32(0)), () =>
      this.f.do(call(this.env.fn('leaveAfter'), this.base, this.rec)),
    );
  }
}

/** Operations whose code depends on the addressing mode of code and stack. */
const MODE_OPS: ReadonlySet<number> = new Set([
  OP.PUSH, OP.POP, OP.PUSHA, OP.POPA, OP.PUSHF, OP.POPF, OP.CALL, OP.JMP, OP.RET, OP.JCC, OP.LOOP, OP.LOOPE, OP.LOOPNE,
  OP.JCXZ, OP.LEAVE, OP.MOVS, OP.STOS, OP.LODS, OP.SCAS, OP.CMPS, OP.XLAT, OP.BT, OP.BTS, OP.BTR, OP.BTC, OP.SYSCALL,
  OP.SYSRET, OP.IRET, OP.INVLPG, OP.RDFSBASE, OP.RDGSBASE, OP.WRFSBASE, OP.WRGSBASE, OP.SYSENTER, OP.SYSEXIT, OP.INT,
  OP.XSAVE, OP.XSAVEOPT, OP.XSAVEC, OP.XRSTOR,
]); // biome-ignore format: a list
/** Operations whose code depends on address size and segment. */
const STRING_OPS: ReadonlySet<number> = new Set([
  OP.MOVS, OP.STOS, OP.LODS, OP.SCAS, OP.CMPS, OP.XLAT, OP.LOOP, OP.LOOPE, OP.LOOPNE, OP.JCXZ, OP.MASKMOVQ, OP.MASKMOVDQU,
]); // biome-ignore format: a list
/** Operations on which the mode class says nothing use this one. */
const MODE64 = 2 | S.MODE_FLAT;

/** In a key's last number: with LOCK prefix. */
const KEY_LOCK = 16;

/** The handler key of an instruction: all that its code depends on. `mode` is the low four bits of the mode key. */
export function handlerKey(n: Insn, mode: number): string {
  const m =
    (MODE_OPS.has(n.op) || STRING_OPS.has(n.op) || hasSystemOperand(n) ? mode & 15 : MODE64) |
    (n.lock === 0 ? 0 : KEY_LOCK);
  const str = STRING_OPS.has(n.op);
  return `${n.op},${n.opSize},${str ? n.addrSize : 0},${n.cc},${n.rep},${str ? n.seg : 0},${n.operandCount},${n.kind0},${n.size0},${n.kind1},${n.size1},${n.kind2},${n.size2},${n.kind3},${n.size3},${n.vex ? 1 + n.vexL : 0},${m}`;
}

function insnOfKey(key: string): { insn: Insn; mode: CodeMode } {
  const v = key.split(',').map(Number) as number[];
  const at = (i: number): number => v[i] as number;
  const n = new Insn();
  n.op = at(0);
  n.opSize = at(1);
  n.addrSize = at(2);
  n.cc = at(3);
  n.rep = at(4);
  n.seg = at(5);
  n.operandCount = at(6);
  n.kind0 = at(7);
  n.size0 = at(8);
  n.kind1 = at(9);
  n.size1 = at(10);
  n.kind2 = at(11);
  n.size2 = at(12);
  n.kind3 = at(13);
  n.size3 = at(14);
  n.vex = at(15) > 0 ? 1 : 0;
  n.vexL = Math.max(0, at(15) - 1);
  const m = at(16);
  n.lock = m & KEY_LOCK ? 1 : 0;
  return {
    insn: n,
    mode: {
      bits: (m & 3) === 2 ? 64 : (m & 3) === 1 ? 32 : 16,
      ss32: (m & S.MODE_SS32) !== 0,
      flat: (m & S.MODE_FLAT) !== 0,
    },
  };
}

/** Segment, control and debug registers. */
function hasSystemOperand(n: Insn): boolean {
  return isSystem(n.kind0) || isSystem(n.kind1);
}
/**
 * Whether translated code leaves the instruction to the interpreter: the XSAVE family, and, whatever the operation, all with
 * such operands but moves from them and loads of data segments.
 */
export function leftToInterpreter(n: Insn): boolean {
  if (XSTATE.has(n.op)) return true;
  if (!hasSystemOperand(n)) return false;
  if (n.op === OP.MOV && (n.kind1 === Kind.Seg || n.kind1 === Kind.Cr)) return false;
  const loads = n.kind0 === Kind.Seg && n.reg0 <= S.GS && n.reg0 !== S.CS && n.reg0 !== S.SS;
  return !(n.op === OP.PUSH ? n.kind0 === Kind.Seg : (n.op === OP.MOV || n.op === OP.POP) && loads);
}
function isSystem(kind: number): boolean {
  return kind === Kind.Seg || kind === Kind.Cr || kind === Kind.Dr;
}

/** Imports of the interpreter module, by name under `host`. */
export interface HostImports {
  mmioRead(base: number, addr: number, width: number): number;
  mmioWrite(base: number, addr: number, width: number, value: number): void;
  invalidate(host: number, size: number): void;
  translate(base: number, host: number): number;
  sys(base: number, rec: number): number;
  tsc(base: number): void;
  /** A locked access needs all other vCPUs to stand still; {@link HostImports.go} ends that. */
  stop(base: number): void;
  go(base: number): void;
  /** A block became hot, or has run another {@link REMINDER_RUNS} times. */
  hot(base: number, head: number): void;
  /**
   * The region entered at a host address leaves by indirect jumps whose targets it might have: it is to be made anew. `low`,
   * `high`: linear address of the page of entry.
   */
  again(base: number, host: number, low: number, high: number): void;
  /** Attention is wanted once the instruction of record `rec` is done. */
  leaveAfter(base: number, rec: number): void;
}

const IMPORTS: readonly [keyof HostImports, readonly (typeof I32 | typeof F64)[], typeof I32 | 0][] = [
  ['mmioRead', [I32, F64, I32], I32],
  ['mmioWrite', [I32, F64, I32, I32], 0],
  ['invalidate', [I32, I32], 0],
  ['translate', [I32, I32], I32],
  ['sys', [I32, I32], I32],
  ['tsc', [I32], 0],
  ['stop', [I32], 0],
  ['go', [I32], 0],
  ['hot', [I32, I32], 0],
  ['again', [I32, I32, I32, I32], 0],
  ['leaveAfter', [I32, I32], 0],
];

/** Entry points of the interpreter module. */
export interface InterpExports {
  /** Runs from RIP, or from record `rec` if it is not 0, until something needs the run loop: EX_ code. */
  main(base: number, rec: number): number;
  fetch(base: number, la: bigint): number;
  sysRead(base: number, addr: number, size: number, access: number): number;
  sysWrite(base: number, addr: number, size: number, value: number, access: number): void;
  sysProbe(base: number, addr: number, size: number, access: number): void;
  sysMask(base: number, addr: number, and: number, or: number): void;
  fetchAt(base: number, addr: number): number;
  flushTlb(base: number, all: number): void;
  flushPage(base: number, addr: number): void;
  protectPage(base: number, host: number): void;
  readonly table: WebAssembly.Table;
}

/** A block is reported again each time it has run so often, a power of two: nobody may have got to it yet. */
export const REMINDER_RUNS = 65536;

/** Slots of the handler table. */
export const TABLE_SLOTS = 65536;
/** Slots that one block may need at most. */
const HANDLER_RESERVE = 256;
/** Modules with handlers that are made before the common ones are: what starts a kernel is more than that, a test less. */
const FLUSHES_BEFORE_COMMON = 16;
/** First slot for translated regions. */
export const JIT_FIRST_SLOT = 8192;

function emitFlags(m: Module): { get: Fn; set: Fn } {
  const get = m.fn([I32], I32, 'getFlags');
  {
    const f = get;
    const b = (f.params[0] as Local).get;
    const fc = ld.i32(b, S.FC);
    const bit = (cond: Node, n: number): Node => i32.shl(cond, c32(n));
    f.emit(
      i32.or(
        i32.or(
          i32.or(ld.i32(b, S.EFL), i32.shr_u(fc, c32(31))),
          i32.or(bit(i32.shr_u(i32.xor(fc, i32.shl(fc, c32(1))), c32(31)), 11), bit(i64.eqz(ld.i64(b, S.FZ)), 6)),
        ),
        i32.or(
          i32.or(
            bit(i32.shr_u(ld.i32(b, S.FR + 4), c32(31)), 7),
            bit(i32.xor(i32.and(i32.popcnt(ld.i32_8u(b, S.FR)), c32(1)), c32(1)), 2),
          ),
          i32.or(i32.and(ld.i32(b, S.FX), c32(S.FLAG_AF)), c32(2)),
        ),
      ),
    );
  }
  const set = m.fn([I32, I32], 0, 'setFlags');
  {
    const f = set;
    const b = (f.params[0] as Local).get;
    const v = (f.params[1] as Local).get;
    const cf = i32.and(v, c32(1));
    const of = i32.and(i32.shr_u(v, c32(11)), c32(1));
    f.st32(b, i32.or(i32.shl(cf, c32(31)), i32.shl(i32.xor(cf, of), c32(30))), S.FC);
    f.st64(b, i64.extend_u(i32.xor(i32.and(i32.shr_u(v, c32(6)), c32(1)), c32(1))), S.FZ);
    f.st64(
      b,
      i64.or(
        i64.shl(i64.extend_u(i32.shr_u(v, c32(7))), c64(63)),
        i64.extend_u(i32.xor(i32.and(i32.shr_u(v, c32(2)), c32(1)), c32(1))),
      ),
      S.FR,
    );
    f.st32(b, i32.and(v, c32(S.FLAG_AF)), S.FX);
    f.st32(b, i32.or(i32.and(v, c32(~0x8d5 & 0x3f7fd7)), c32(2)), S.EFL);
  }
  return { get, set };
}

/** (base, segment offset, offset, size, write) → linear address. SDM volume 3A 5.3, 5.5. */
function emitSegLinear(m: Module, raise: FnRef): Fn {
  const f = m.fn([I32, I32, I64, I32, I32], I64, 'segLinear');
  const p = (n: number): Node => (f.params[n] as Local).get;
  const base = p(0);
  const segOff = p(1);
  const off = p(2);
  const size = p(3);
  const seg = f.local(I32);
  const attr = f.local(I32);
  const last = f.local(I64);
  const bad = f.local(I32);
  const top = f.local(I64);
  f.set(seg, i32.add(base, segOff));
  f.set(attr, ld.i32(seg.get, S.SEG_ATTR));
  f.set(last, i64.add(off, i64.extend_u(i32.sub(size, c32(1)))));
  // Unusable or not present; execute-only read; read-only or code written.
  f.set(bad, i32.or(i32.and(attr.get, c32(S.ATTR_UNUSABLE)), i32.eqz(i32.and(attr.get, c32(S.ATTR_P)))));
  // Real mode has no types: code may be written through CS.
  f.if(i32.and(ld.i32(base, S.CR0), c32(1)), () => {
    f.if(
      i32.and(attr.get, c32(8)),
      () => f.set(bad, i32.or(bad.get, i32.or(p(4), i32.eqz(i32.and(attr.get, c32(2)))))),
      () => f.set(bad, i32.or(bad.get, i32.and(p(4), i32.eqz(i32.and(attr.get, c32(2)))))),
    );
  });
  f.if(
    i32.eq(i32.and(attr.get, c32(0xc)), c32(4)),
    () => {
      // Expand-down: valid above the limit.
      f.set(top, select(i32.and(attr.get, c32(S.ATTR_DB)), c64(0xffffffff), c64(0xffff)));
      f.set(bad, i32.or(bad.get, i32.or(i64.le_u(off, ld.i64_32u(seg.get, S.SEG_LIMIT)), i64.gt_u(last.get, top.get))));
    },
    () => f.set(bad, i32.or(bad.get, i64.gt_u(last.get, ld.i64_32u(seg.get, S.SEG_LIMIT)))),
  );
  f.if(bad.get, () => {
    f.do(
      call(raise, base, select(i32.eq(segOff, c32(S.SEG + S.SS * S.SEG_STRIDE)), c32(S.EXC_SS), c32(S.EXC_GP)), c32(0)),
    );
    f.ret(c64(0));
  });
  f.emit(i64.and(i64.add(off, ld.i64(seg.get, S.SEG_BASE)), c64(0xffffffff)));
  return f;
}

/** Emits named functions for handlers on first use, in the main module, so that all are importable by handler modules. */
export type HelperEmitter = (m: Module, mem: MemFns) => Readonly<Record<string, FnRef>>;

/** A function that modules beside the main one may import. Plain data. */
export interface Signature {
  readonly name: string;
  readonly params: readonly number[];
  readonly result: number;
}

/** A module under construction that can call everything the main one exports. */
export function satelliteOf(L: Layout, functions: readonly Signature[], shared: boolean): { m: Module; env: Env } {
  const m = new Module({ min: L.wasmPages, max: L.wasmPages, shared: true });
  m.importTable(TABLE_SLOTS);
  const refs: Record<string, FnRef> = {};
  for (const s of functions) refs[s.name] = m.importOnUse('x', s.name, s.params as never, s.result as never);
  const get = (name: string): FnRef => {
    const r = refs[name];
    if (r === undefined) throw new Error(`no helper function ${name}`);
    return r;
  };
  const env: Env = {
    mem: refs as never,
    segLinear: get('segLinear'),
    getFlags: get('getFlags'),
    setFlags: get('setFlags'),
    sys: get('sys'),
    tsc: get('tsc'),
    shared,
    fused: fusedMultiplyAdd(),
    fn: get,
  };
  return { m, env };
}

/** Keeps generated WebAssembly between runs of one build of the program. It may forget, but not mix up. */
export interface CodeCache {
  /** What was put there by this build of the program, or null. */
  get(key: string): Uint8Array | null;
  /** Keeps a copy. Must not throw. */
  put(key: string, bytes: Uint8Array): void;
  /** Keeps machine code of the modules that a program with this key makes at each start; null where that cannot be. */
  compiled?(key: string): CompiledStore | null;
}

/** The main module, and what satellites may call in it. */
interface MainModule {
  readonly module: WebAssembly.Module;
  readonly bytes: Uint8Array;
  readonly functions: readonly Signature[];
}

const CACHE_MAGIC = 0x31435948;

/** Magic, length of the functions' names and signatures (ASCII), these, the module. */
function packMain(main: MainModule): Uint8Array {
  const text = JSON.stringify(main.functions);
  const out = new Uint8Array(8 + text.length + main.bytes.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, CACHE_MAGIC, true);
  view.setUint32(4, text.length, true);
  for (let i = 0; i < text.length; i++) out[8 + i] = text.charCodeAt(i);
  out.set(main.bytes, 8 + text.length);
  return out;
}

/** The reverse; null for what is cut short or spoilt. */
function unpackMain(packed: Uint8Array | null, compiled: CompiledStore | null): MainModule | null {
  if (packed === null || packed.length < 8) return null;
  const view = new DataView(packed.buffer, packed.byteOffset, packed.length);
  const end = 8 + view.getUint32(4, true);
  if (view.getUint32(0, true) !== CACHE_MAGIC || end > packed.length) return null;
  let text = '';
  for (let i = 8; i < end; i++) text += String.fromCharCode(packed[i] as number);
  try {
    const bytes = new Uint8Array(packed.subarray(end));
    return { module: moduleOf(bytes, compiled), bytes, functions: JSON.parse(text) as Signature[] };
  } catch {
    return null;
  }
}

/** The module of these bytes, with machine code that is kept, if there is some. */
function moduleOf(bytes: Uint8Array<ArrayBuffer>, compiled: CompiledStore | null): WebAssembly.Module {
  const module = compiled?.take(bytes) ?? new WebAssembly.Module(bytes);
  compiled?.add(bytes, module);
  return module;
}

/** The generated interpreter of one VM. */
export class Interpreter {
  readonly exports: InterpExports;
  private readonly semantics: ReadonlyMap<number, Semantic>;
  private readonly memory: WebAssembly.Memory;
  private readonly shared: boolean;
  private readonly L: Layout;
  private readonly byKey: Map<string, number> = new Map();
  private readonly names: string[];
  private readonly signatures: readonly Signature[];
  private readonly instanceExports: Record<string, unknown>;
  private readonly compiled: CompiledStore | null;
  private nextSlot: number;
  private readonly firstSlot: number;
  private readonly threshold: number;
  /** Handlers made so far, for statistics. */
  handlersMade = 0;
  private pending: string[] = [];
  private readonly commonKeys: readonly string[];
  /** Calls of {@link Interpreter.flushPending} with something to do, until the common handlers were made. */
  private flushes = 0;

  /**
   * @param threshold runs after which a block is reported as hot
   * @param inlineKeys handler keys to put into the main loop
   * @param helpers emits further functions (softfloat) into the main module
   * @param commonKeys handler keys to compile together once the guest turns out to be more than a few instructions
   * @param cache where the main module is looked up and kept
   */
  constructor(
    L: Layout,
    memory: WebAssembly.Memory,
    semantics: ReadonlyMap<number, Semantic>,
    host: HostImports,
    threshold: number,
    inlineKeys: readonly string[],
    helpers: HelperEmitter,
    commonKeys: readonly string[] = [],
    cache: CodeCache | null = null,
  ) {
    this.semantics = semantics;
    this.commonKeys = commonKeys;
    this.threshold = threshold;
    this.memory = memory;
    this.shared = L.threads > 1;
    this.L = L;
    this.firstSlot = H_INLINE_FIRST + inlineKeys.length;
    this.nextSlot = this.firstSlot;
    inlineKeys.forEach((k, i) => {
      this.byKey.set(k, H_INLINE_FIRST + i);
    });
    // All that the module depends on beside this program itself.
    const key = cache === null ? '' : JSON.stringify([L, threshold, inlineKeys]);
    this.compiled = cache?.compiled?.(key) ?? null;
    const kept = cache === null ? null : unpackMain(cache.get(key), this.compiled);
    const main = kept ?? this.generate(inlineKeys, helpers);
    if (cache !== null && kept === null) cache.put(key, packMain(main));
    this.signatures = main.functions;
    this.names = main.functions.map((f) => f.name);
    const table = new WebAssembly.Table({ initial: TABLE_SLOTS, maximum: TABLE_SLOTS, element: 'anyfunc' });
    const instance = new WebAssembly.Instance(main.module, {
      env: { memory, table },
      host: { ...host },
    });
    this.instanceExports = instance.exports as Record<string, unknown>;
    this.exports = { ...(instance.exports as unknown as InterpExports), table };
  }

  /** Makes the main module. */
  private generate(inlineKeys: readonly string[], helpers: HelperEmitter): MainModule {
    const { L } = this;
    const sigs: Signature[] = [];
    const m = new Module({ min: L.wasmPages, max: L.wasmPages, shared: true });
    const imported = new Map<string, FnRef>();
    for (const [name, params, result] of IMPORTS) imported.set(name, m.import('host', name, params, result));
    m.importTable(TABLE_SLOTS);
    const imp = (n: string): FnRef => imported.get(n) as FnRef;
    const mem = emitMemory(m, L, {
      mmioRead: imp('mmioRead'),
      mmioWrite: imp('mmioWrite'),
      invalidate: imp('invalidate'),
      stop: imp('stop'),
      go: imp('go'),
    });
    const flags = emitFlags(m);
    const segLinear = emitSegLinear(m, mem.raise);
    const arith = emitArith(m);
    const matFlags = emitMatFlags(m, arith.mulhiS);
    const noteJump = emitNoteJump(m, L);
    const delivery = emitDelivery(m, mem, flags.get.ref);
    const named: Record<string, FnRef> = {
      ...arith,
      ...helpers(m, mem),
      matFlags,
      matState: emitMatState(m, matFlags),
      ...emitWindows(m, mem),
      noteJump,
      missed: emitMissed(m, noteJump, imp('again')),
      leaveAfter: imp('leaveAfter'),
      flatSegment: delivery.flatSegment,
      dataSegment: delivery.dataSegment,
      softInterrupt: delivery.softInterrupt,
    };
    const shared: Record<string, FnRef> = {
      ...mem,
      segLinear: segLinear.ref,
      getFlags: flags.get.ref,
      setFlags: flags.set.ref,
      sys: imp('sys'),
      tsc: imp('tsc'),
      ...named,
    };
    for (const [name, ref] of Object.entries(shared)) {
      m.exportFn(`x_${name}`, ref);
      const t = m.signature(ref.type);
      sigs.push({ name, params: [...t.params], result: ref.result });
    }
    const env: Env = {
      mem,
      segLinear: segLinear.ref,
      getFlags: flags.get.ref,
      setFlags: flags.set.ref,
      sys: imp('sys'),
      tsc: imp('tsc'),
      shared: L.threads > 1,
      fused: fusedMultiplyAdd(),
      fn: (name) => {
        const r = named[name];
        if (r === undefined) throw new Error(`no helper function ${name}`);
        return r;
      },
    };
    {
      // fetchAt: fetch with a double address, for TypeScript.
      const f = m.fn([I32, F64], I32, 'fetchAt');
      const a = f.local(I64);
      f.set(a, i64.trunc_sat_f64_s((f.params[1] as Local).get));
      f.emit(call(mem.fetchMiss, (f.params[0] as Local).get, a.get));
    }
    this.emitMain(m, L, env, mem.fetchMiss, imp('translate'), imp('hot'), delivery.pageFault, inlineKeys);
    for (const [name, ref] of Object.entries(shared).sort((a, b) => a[1].index - b[1].index)) m.name(ref, name);
    const bytes = m.finish();
    return { module: moduleOf(bytes, this.compiled), bytes, functions: sigs };
  }

  /** Whether the instruction's handler may want the decoded instruction in TypeScript. */
  mayUseSys(n: Insn): boolean {
    const mixed = n.op === OP.POPF || TRANSITIONS.has(n.op) || XSTATE.has(n.op);
    return mixed || hasSystemOperand(n) || !this.semantics.has(n.op);
  }

  /** Whether the next block might not find room for its handlers: forget all blocks, then {@link Interpreter.resetHandlers}. */
  get crowded(): boolean {
    return this.nextSlot > JIT_FIRST_SLOT - HANDLER_RESERVE;
  }

  /** Forgets the handlers that are not inline. Nothing may refer to them any more. */
  resetHandlers(): void {
    for (const [k, v] of this.byKey) if (v >= this.firstSlot) this.byKey.delete(k);
    this.nextSlot = this.firstSlot;
    this.pending = [];
  }

  /** Key of each handler number, for profiles. */
  keyOf(handler: number): string {
    for (const [k, v] of this.byKey) if (v === handler) return k;
    return '';
  }

  /** Keys of the handlers made beside the inline ones, with the operation's name first, for common-keys.ts. */
  madeKeys(): string[] {
    const made = [...this.byKey].filter(([, slot]) => slot >= this.firstSlot);
    return made.map(([key]) => key.replace(/^\d+/u, (op) => OP_NAMES[Number(op)] ?? op));
  }

  /** Number of the handler for a key; a new one is usable after {@link Interpreter.flushPending}. */
  handler(key: string): number {
    const known = this.byKey.get(key);
    if (known !== undefined) return known;
    const slot = this.nextSlot++;
    this.byKey.set(key, slot);
    this.pending.push(key);
    return slot;
  }

  /** A module under construction that can call everything the main one exports. */
  satellite(): { m: Module; env: Env; importObject: WebAssembly.Imports } {
    return { ...satelliteOf(this.L, this.functions(), this.shared), importObject: this.importObject() };
  }

  /** What modules of their own may call, for {@link satelliteOf}. */
  functions(): readonly Signature[] {
    return this.signatures;
  }

  /** The imports of every such module. */
  importObject(): WebAssembly.Imports {
    if (this.imports === null) {
      const functions: Record<string, unknown> = {};
      for (const name of this.names) functions[name] = this.instanceExports[`x_${name}`];
      this.imports = {
        env: { memory: this.memory, table: this.exports.table },
        x: functions as WebAssembly.ModuleImports,
      };
    }
    return this.imports;
  }
  private imports: WebAssembly.Imports | null = null;

  /** Compiles the handlers asked for since the last call; do this before records that use them run. */
  flushPending(): void {
    if (this.pending.length === 0) return;
    const common = ++this.flushes === FLUSHES_BEFORE_COMMON;
    if (common) for (const key of this.commonKeys) this.handler(key);
    const keys = this.pending;
    this.pending = [];
    const { m, env, importObject } = this.satellite();
    keys.forEach((key, i) => {
      const f = m.fn([I32, I32, I64], I32, `h${i}`);
      m.name(f.ref, `handler_${key}`);
      const [base, rec, ea] = f.params as [Local, Local, Local];
      const leave: Leave = {
        fault: () => f.ret(c32(S.ST_FAULT)),
        jump: () => f.ret(c32(S.ST_JUMP)),
        next: () => f.ret(c32(S.ST_NEXT)),
        status: (st) => f.ret(st),
        direct: (target, _link) => {
          f.st64(base.get, target, S.RIP);
          f.ret(c32(S.ST_JUMP));
        },
      };
      this.emitSemantic(key, f, env, base.get, rec.get, ea.get, leave);
      f.emit(c32(S.ST_NEXT));
    });
    const instance = new WebAssembly.Instance(moduleOf(m.finish(), common ? this.compiled : null), importObject);
    keys.forEach((key, i) => {
      this.exports.table.set(this.byKey.get(key) as number, instance.exports[`h${i}`] as never);
    });
    this.handlersMade += keys.length;
  }

  private emitSemantic(key: string, f: Fn, env: Env, base: Node, rec: Node, ea: Node, leave: Leave): void {
    const { insn, mode } = insnOfKey(key);
    const c = new RecCtx(f, env, base, rec, ea, insn, mode, leave);
    (this.semantics.get(insn.op) ?? sys)(c);
  }

  private emitMain(
    m: Module,
    L: Layout,
    env: Env,
    fetchMiss: FnRef,
    translate: FnRef,
    hot: FnRef,
    pageFault: FnRef,
    inlineKeys: readonly string[],
  ): void {
    const f = m.fn([I32, I32], I32, 'main');
    m.name(f.ref, 'main');
    const base = (f.params[0] as Local).get;
    const rec = f.params[1] as Local;
    const ea = f.local(I64);
    const la = f.local(I64);
    const e = f.local(I32);
    const host = f.local(I32);
    const st = f.local(I32);
    const interpret = f.local(I32);
    const handlerType = m.type([I32, I32, I64], I32);
    const nHandlers = H_INLINE_FIRST + inlineKeys.length;
    const codeLa = (rip: Node): Node =>
      select(is64Bit(base), rip, i64.and(i64.add(rip, ld.i64(base, S.SEG + S.CS * S.SEG_STRIDE)), c64(0xffffffff)));
    // A link asked for before the last return would be patched with whatever runs next.
    f.st32(base, c32(0), S.LINK_SLOT);
    // Who names a record wants one block, and its exceptions.
    const deliver = f.local(I32);
    f.set(deliver, i32.eqz(rec.get));
    const restart = f.open('loop');
    /** Leaves for the exception in FAULT, unless it can be delivered here. RIP is set. */
    const except = (code: Node): void => {
      f.st32(base, c32(0), S.LINK_SLOT);
      f.if(deliver.get, () =>
        f.if(call(pageFault, base), () => {
          f.set(rec, c32(0));
          f.set(interpret, c32(0));
          f.br(restart);
        }),
      );
      f.ret(code);
    };
    const fault = f.open('block');
    const lookupEntry = f.open('block');
    f.brIf(lookupEntry, i32.eqz(rec.get));
    f.st64(base, ld.i64(base, S.RIP), S.RIP_BASE);
    f.close();
    const lookup = f.open('loop');
    f.if(i32.eqz(rec.get), () => {
      f.if(i32.le_s(ld.i32(base, S.BUDGET), ld.i32(base, S.ATTN)), () => f.ret(c32(S.EX_BUDGET)));
      f.st32(base, i32.add(ld.i32(base, S.N_LOOKUP), c32(1)), S.N_LOOKUP);
      f.st64(base, ld.i64(base, S.RIP), S.RIP_BASE);
      f.st32(base, c32(0), S.CUR_REC);
      f.set(la, codeLa(ld.i64(base, S.RIP)));
      f.set(e, tlbSlot(la.get, ld.i32(base, S.TLB_CODE)));
      f.if(
        i64.eq(ld.i64(e.get, 16), i64.and(la.get, c64(-4096))),
        () => f.set(host, i32.add(i32.wrap(la.get), ld.i32(e.get, 24))),
        () => {
          f.set(host, call(fetchMiss, base, la.get));
          f.if(i32.eqz(host.get), () => except(select(ld.i32(base, S.FAULT), c32(S.EX_FAULT), c32(S.EX_CAREFUL))));
        },
      );
      f.set(rec, ld.i32(i32.add(c32(L.hash), i32.shl(hashOf(host.get, L), c32(2)))));
      f.block((found) => {
        f.loop((again) => {
          f.brIf(found, i32.eqz(rec.get));
          f.brIf(
            found,
            i32.and(
              i32.eq(ld.i32(rec.get, R.B_HOST), host.get),
              i32.eq(ld.i32(rec.get, R.B_MODE), ld.i32(base, S.MODE)),
            ),
          );
          f.set(rec, ld.i32(rec.get, R.B_NEXT));
          f.br(again);
        });
      });
      f.if(i32.eqz(rec.get), () => {
        f.set(rec, call(translate, base, host.get));
        f.if(i32.eqz(rec.get), () => except(select(ld.i32(base, S.FAULT), c32(S.EX_FAULT), c32(S.EX_CAREFUL))));
      });
      f.if(
        i32.and(ld.i32(base, S.MODE), c32(S.MODE_CSFULL)),
        () => {
          const slot = f.tmp(ld.i32(base, S.LINK_SLOT));
          f.if(i32.eq(ld.i32_16u(rec.get, R.R_HANDLER), c32(R.H_JIT)), () => {
            // Translated code: fill the jump cache, and the cell of the region that wanted to come here.
            const jc = f.tmp(
              i32.add(c32(L.jumpCache), i32.shl(i32.and(hashHost(host.get), c32(JC_ENTRIES - 1)), c32(4))),
            );
            f.st32(jc, host.get);
            f.st32(jc, ld.i32(rec.get, R.B_MODE), 4);
            f.st32(jc, ld.i32(rec.get, R.B_RUNS), 8);
            f.if(i32.and(slot, c32(1)), () => {
              const cell = f.tmp(i32.and(slot, c32(-2)));
              f.st32(cell, ld.i32(rec.get, R.B_RUNS));
              f.st32(cell, host.get, 4);
            });
          });
          f.if(slot, () => {
            f.if(i32.eqz(i32.and(slot, c32(1))), () => f.st32(slot, rec.get));
            f.st32(base, c32(0), S.LINK_SLOT);
          });
        },
        () => {
          f.st32(base, c32(0), S.LINK_SLOT);
          f.if(
            i64.gt_u(
              i64.add(ld.i64(base, S.RIP), i64.sub(ld.i64_16u(rec.get, R.B_BYTES), c64(1))),
              ld.i64_32u(base, S.SEG + S.CS * S.SEG_STRIDE + S.SEG_LIMIT),
            ),
            () => f.ret(c32(S.EX_CAREFUL)),
          );
        },
      );
    });
    const next = f.open('loop');
    const toLookup = (): void => {
      f.set(rec, c32(0));
      f.br(lookup);
    };
    const advance = (): void => {
      f.set(rec, i32.add(rec.get, c32(R.REC)));
      f.br(next);
    };
    // One block per handler, innermost first.
    const generic = f.open('block');
    const labels: Label[] = [];
    for (let i = 0; i < nHandlers; i++) labels.push(f.open('block'));
    labels.reverse();
    f.brTable(ld.i32_16u(rec.get, R.R_HANDLER), labels, generic);
    const direct = (target: Node, link: number): void => {
      const t = f.tmp(target);
      const l = f.tmp(ld.i32(rec.get, link));
      f.if(i32.gt_s(l, c32(0)), () => {
        f.st64(base, t, S.RIP_BASE);
        f.set(rec, l);
        f.br(next);
      });
      f.st64(base, t, S.RIP);
      f.st32(base, select(l, c32(0), i32.add(rec.get, c32(link))), S.LINK_SLOT);
      toLookup();
    };
    /** Puts back what the head counted ahead: `self` also the running instruction. */
    const uncount = (self: boolean): void => {
      const left = f.tmp(self ? ld.i32_8u(rec.get, R.R_LEFT) : i32.sub(ld.i32_8u(rec.get, R.R_LEFT), c32(1)));
      f.st64(base, i64.sub(ld.i64(base, S.ICOUNT), i64.extend_s(left)), S.ICOUNT);
      f.st32(base, i32.add(ld.i32(base, S.BUDGET), left), S.BUDGET);
    };
    const ripOfRec = (): Node => i64.add(ld.i64(base, S.RIP_BASE), ld.i64_16u(rec.get, R.R_OFF));
    const handleStatus = (): void => {
      f.if(i32.eqz(st.get), advance);
      f.brIf(fault, i32.eq(st.get, c32(S.ST_FAULT)));
      uncount(false);
      f.if(i32.eq(st.get, c32(S.ST_EXIT)), () => f.ret(ld.i32(base, S.EXIT_CODE)));
      toLookup();
    };
    const reg = (field: number): Node => ld.i64(i32.add(base, ld.i32_16u(rec.get, field)));
    const bis = (): Node =>
      i64.add(i64.add(reg(R.R_REG0), i64.shl(reg(R.R_REG1), ld.i64_16u(rec.get, R.R_REG2))), ld.i64(rec.get, R.R_IMM));
    const head = (): void => {
      const budget = f.tmp(ld.i32(base, S.BUDGET));
      f.if(i32.le_s(budget, ld.i32(base, S.ATTN)), () => {
        f.st64(base, ld.i64(base, S.RIP_BASE), S.RIP);
        f.ret(c32(S.EX_BUDGET));
      });
      const n = f.tmp(ld.i32_16u(rec.get, R.B_COUNT));
      f.st32(base, i32.sub(budget, n), S.BUDGET);
      f.st64(base, i64.add(ld.i64(base, S.ICOUNT), i64.extend_u(n)), S.ICOUNT);
    };
    const inlineLeave: Leave = {
      fault: () => f.br(fault),
      jump: toLookup,
      next: advance,
      status: (v) => {
        f.set(st, v);
        handleStatus();
      },
      direct,
    };
    const bodies: (() => void)[] = [];
    bodies[R.H_HEAD] = () => {
      head();
      const runs = f.tmp(i32.add(ld.i32(rec.get, R.B_RUNS), c32(1)));
      f.st32(rec.get, runs, R.B_RUNS);
      const reminder = i32.eqz(i32.and(runs, c32(REMINDER_RUNS - 1)));
      f.if(this.threshold < 0 ? c32(0) : i32.or(i32.eq(runs, c32(this.threshold)), reminder), () =>
        f.do(call(hot, base, rec.get)),
      );
      advance();
    };
    bodies[R.H_CROSS] = () => {
      f.st32(base, c32(0), S.CUR_REC);
      f.set(la, i64.and(i64.add(codeLa(ld.i64(base, S.RIP_BASE)), c64(4096)), c64(-4096)));
      f.set(host, call(fetchMiss, base, la.get));
      f.if(i32.ne(host.get, ld.i32(i32.sub(rec.get, c32(R.REC)), R.B_PAGE2)), () => {
        f.st64(base, ld.i64(base, S.RIP_BASE), S.RIP);
        uncount(true);
        f.if(i32.eqz(host.get), () => except(select(ld.i32(base, S.FAULT), c32(S.EX_FAULT), c32(S.EX_CAREFUL))));
        f.ret(c32(S.EX_CAREFUL));
      });
      advance();
    };
    const jitType = m.type([I32], I32);
    bodies[R.H_JIT] = () => {
      f.if(interpret.get, () => {
        // The region left before an instruction that it could not do.
        f.set(interpret, c32(0));
        head();
        advance();
      });
      f.st64(base, ld.i64(base, S.RIP_BASE), S.RIP);
      f.set(st, callIndirect(jitType, I32, ld.i32(rec.get, R.B_RUNS), base));
      f.if(ld.i32(base, S.PEND_KIND), () => f.do(call(env.fn('matState'), base)));
      f.if(i32.eq(st.get, c32(J_FAULT)), () => except(c32(S.EX_FAULT)));
      f.if(i32.eq(st.get, c32(J_BUDGET)), () => f.ret(c32(S.EX_CROSSING)));
      f.set(interpret, i32.eq(st.get, c32(J_INTERPRET)));
      toLookup();
    };
    bodies[R.H_GOTO] = () => {
      const t = i64.add(ld.i64(base, S.RIP_BASE), ld.i64(rec.get, R.R_IMM));
      direct(select(is64Bit(base), t, i64.and(t, c64(0xffffffff))), R.R_LINK0);
    };
    bodies[R.H_STALE] = () => {
      f.st64(base, ripOfRec(), S.RIP);
      uncount(true);
      toLookup();
    };
    bodies[R.H_LEAVE] = bodies[R.H_STALE];
    bodies[R.H_EA_BD] = () => {
      f.set(ea, i64.add(reg(R.R_REG0), ld.i64(rec.get, R.R_IMM)));
      advance();
    };
    bodies[R.H_EA_BIS] = () => {
      f.set(ea, bis());
      advance();
    };
    bodies[R.H_EA_RIP] = () => {
      f.set(ea, i64.add(ld.i64(base, S.RIP_BASE), ld.i64(rec.get, R.R_IMM)));
      advance();
    };
    bodies[R.H_EA32_BD] = () => {
      f.set(ea, i64.and(i64.add(reg(R.R_REG0), ld.i64(rec.get, R.R_IMM)), c64(0xffffffff)));
      advance();
    };
    bodies[R.H_EA32_BIS] = () => {
      f.set(ea, i64.and(bis(), c64(0xffffffff)));
      advance();
    };
    bodies[R.H_EA_ANY] = () => {
      const aux = f.tmp(ld.i32(rec.get, R.R_AUX));
      const a = f.tmp(i32.and(aux, c32(0xff)));
      const rip = ld.i32_8u(rec.get, R.R_LINK1);
      f.set(ea, i64.add(bis(), select(rip, ld.i64(base, S.RIP_BASE), c64(0))));
      f.if(i32.ne(a, c32(8)), () =>
        f.set(ea, i64.and(ea.get, select(i32.eq(a, c32(2)), c64(0xffff), c64(0xffffffff)))),
      );
      const seg = f.tmp(ld.i32(rec.get, R.R_LINK0));
      f.if(seg, () => {
        f.if(
          is64Bit(base),
          () => f.set(ea, i64.add(ea.get, ld.i64(i32.add(base, seg)))),
          () => {
            f.set(
              ea,
              call(
                env.segLinear,
                base,
                seg,
                ea.get,
                i32.and(i32.shr_u(aux, c32(8)), c32(0xffff)),
                i32.shr_u(aux, c32(24)),
              ),
            );
            f.brIf(fault, ld.i32(base, S.FAULT));
          },
        );
      });
      advance();
    };
    inlineKeys.forEach((key, i) => {
      bodies[H_INLINE_FIRST + i] = () => {
        this.emitSemantic(key, f, env, base, rec.get, ea.get, inlineLeave);
        advance();
      };
    });
    for (let i = 0; i < nHandlers; i++) {
      f.close();
      const mark = f.mark();
      (bodies[i] as () => void)();
      f.release(mark);
    }
    f.close();
    f.set(st, callIndirect(handlerType, I32, ld.i32_16u(rec.get, R.R_HANDLER), base, rec.get, ea.get));
    handleStatus();
    f.close();
    f.close();
    f.unreachable();
    f.close();
    // Fault in the instruction of `rec`.
    f.st64(base, ripOfRec(), S.RIP);
    uncount(true);
    except(c32(S.EX_FAULT));
    f.close();
    f.unreachable();
  }
}

/** First handler number for instructions. */
export const H_INLINE_FIRST: number = R.H_FIRST;

/** Bucket of a host code address. */
export function hashOf(host: Node, L: Layout): Node {
  return i32.and(i32.xor(host, i32.shr_u(host, c32(L.hashBits - 4))), c32((1 << L.hashBits) - 1));
}
/** The same in TypeScript. */
export function hashIndex(host: number, L: Layout): number {
  return (host ^ (host >>> (L.hashBits - 4))) & ((1 << L.hashBits) - 1);
}
