// The translator: regions of hot code become WebAssembly functions with guest registers in locals and
// structured control flow (N. Ramsey, "Beyond Relooper", 2022). Semantics are the interpreter's, through JitCtx.
import { type Decoder, Insn, Kind, OP, ROWS, Status } from '@hyve/x86';
import { tlbSlot } from './addresses.ts';
import { TRANSLATED } from './blocks.ts';
import type { CodeMode, Env, Semantic } from './ctx.ts';
import {
  FK_ADC,
  FK_ADD,
  FK_COMPARED,
  FK_IMUL,
  FK_INC,
  FK_LOGIC,
  FK_SBB,
  FK_SHIFT,
  FK_SUB,
  FO_CF,
  FO_OF,
  FO_VALUE,
  FO_ZF,
  JitCtx,
  LEFT_BITS,
  LEFT_MASK,
  placeOf,
  type RegionState,
} from './jit-ctx.ts';
import { FAR, MISSES_NOTED } from './jump-targets.ts';
import * as S from './state.ts';
import {
  c32,
  c64,
  c64hl,
  call,
  Fn,
  type FnRef,
  I32,
  I64,
  i32,
  i64,
  type Label,
  type Local,
  ld,
  type Module,
  type Node,
  select,
} from './wasm/builder.ts';
import { windowsOf } from './windows.ts';

/** Most return sites that a RET looks for within its region. */
const MAX_RETURNS = 4;
/** Most targets that an indirect jump compares with, one after the other. */
const FEW_TARGETS = 2;
/**
 * Basic blocks of a region: only such as are as hot as its entry come on top of the first ones. What large regions gain in
 * loops, they lose where code is flat: V8 compiles them later, and much of them for nothing.
 */
const FEW_BLOCKS = 24;
/**
 * In a loop the first blocks may be such as have a region of their own. Elsewhere none may: a copy would save one call of that
 * region each time this one is entered.
 */
const FIRST_BLOCKS = 16;
/** Most basic blocks and instructions of a region. */
const MAX_BLOCKS = 16;
const MAX_INSNS = 110;
/** And of one that is made anew, as time goes by in entering it. */
const WIDE_BLOCKS = 40;
const WIDE_INSNS = 220;
/** Instructions on top of them until the head of a block comes that there is already: what follows begins there. */
const MORE_INSNS = 64;

/** Results of a region: look RIP up, a fault is in FAULT, the budget is used up. */
export const J_LOOKUP = 0;
export const J_FAULT = 1;
export const J_BUDGET = 2;
/** Within a region: it is left for the run loop, as J_LOOKUP or J_INTERPRET. */
const J_LEFT = 4;
/** As J_LOOKUP, and the interpreter must run what is there, even if it is translated. */
export const J_INTERPRET = 3;

/** Bytes of a link cell: table slot (0: none), host address of the target. */
export const CELL = 8;
/** Jump cache: entries of 16 bytes: host address, mode, slot. */
export const JC_ENTRIES = 4096;

/** Operations that may let an interrupt through. */
const OPENERS: ReadonlySet<number> = new Set([OP.STI, OP.POPF, OP.SYSRET, OP.IRET]);
/** Repeated operations that are worth being part of a region. */
const REPEATED: ReadonlySet<number> = new Set([OP.MOVS, OP.STOS, OP.LODS, OP.SCAS, OP.CMPS]);
const JUMPS: ReadonlySet<number> = new Set([
  OP.CALL, OP.JMP, OP.RET, OP.JCC, OP.LOOP, OP.LOOPE, OP.LOOPNE, OP.JCXZ, OP.SYSCALL, OP.SYSRET,
  OP.IRET, OP.INVLPG, OP.SYSENTER, OP.SYSEXIT,
]); // biome-ignore format: a list
const CONDITIONAL: ReadonlySet<number> = new Set([OP.JCC, OP.LOOP, OP.LOOPE, OP.LOOPNE, OP.JCXZ]);

/** (base, kind, a, b, result): brings pending flags to memory. See FK_ and FO_ in jit-ctx.ts. */
export function emitMatFlags(m: Module, mulhiS: FnRef): FnRef {
  const operation = emitMatOperation(m, mulhiS);
  const f = m.fn([I32, I32, I64, I64, I64], 0);
  const p = (n: number): Node => (f.params[n] as Local).get;
  const base = p(0);
  const kind = p(1);
  f.do(call(operation, base, i32.and(kind, c32(0xff)), p(2), p(3), p(4)));
  const apart = (k: number): Node => i32.and(i32.shr_u(kind, c32(FO_VALUE + k)), c32(1));
  f.if(i32.and(kind, c32(FO_CF | FO_OF)), () => {
    // Bit 31 is CF, bit 30 whether OF is different.
    const cf = f.tmp(i32.shr_u(ld.i32(base, S.FC), c32(31)));
    const of = f.tmp(i32.xor(cf, i32.and(i32.shr_u(ld.i32(base, S.FC), c32(30)), c32(1))));
    const newCf = f.tmp(select(i32.and(kind, c32(FO_CF)), apart(0), cf));
    const newOf = select(i32.and(kind, c32(FO_OF)), apart(1), of);
    f.st32(base, i32.or(i32.shl(newCf, c32(31)), i32.shl(i32.xor(newCf, newOf), c32(30))), S.FC);
  });
  f.if(i32.and(kind, c32(FO_ZF)), () => f.st64(base, i64.extend_u(i32.eqz(apart(2))), S.FZ));
  return f.ref;
}

/** (base, kind without FO_ bits, a, b, result): the flags that the operation alone has. */
function emitMatOperation(m: Module, mulhiS: FnRef): FnRef {
  const f = m.fn([I32, I32, I64, I64, I64], 0);
  const p = (n: number): Node => (f.params[n] as Local).get;
  const base = p(0);
  const a = p(2);
  const b = p(3);
  const r = p(4);
  const kind = f.local(I32);
  const sh = f.local(I64);
  const top = f.local(I64);
  const cv = f.local(I64);
  const fx = f.local(I32);
  const not = (v: Node): Node => i64.xor(v, c64(-1));
  f.set(kind, i32.shr_u(p(1), c32(4)));
  f.set(sh, i64.sub(c64(64), i64.shl(c64(8), i64.extend_u(i32.and(p(1), c32(3))))));
  f.set(top, i64.shl(r, sh.get));
  f.st64(base, i64.shr_s(top.get, sh.get), S.FZ);
  f.st64(base, i64.shr_s(top.get, sh.get), S.FR);
  const is = (...k: number[]): Node => k.map((x) => i32.eq(kind.get, c32(x))).reduce((x, y) => i32.or(x, y));
  const finish = (): void => {
    f.st32(base, i32.wrap(i64.shr_u(i64.shl(cv.get, sh.get), c64(32))), S.FC);
    f.st32(base, i32.wrap(i64.xor(i64.xor(a, b), r)), S.FX);
    f.ret();
  };
  f.if(is(FK_SUB, FK_SBB), () => {
    f.set(cv, i64.or(i64.and(not(a), b), i64.and(not(i64.xor(a, b)), r)));
    finish();
  });
  f.if(is(FK_ADD, FK_ADC), () => {
    f.set(cv, i64.or(i64.and(a, b), i64.and(i64.or(a, b), not(r))));
    finish();
  });
  f.if(is(FK_LOGIC), () => {
    f.st32(base, c32(0), S.FC);
    f.st32(base, c32(0), S.FX);
    f.ret();
  });
  const cfOf = (cf: Node, of: Node): void =>
    f.st32(base, i32.or(i32.shl(cf, c32(31)), i32.shl(i32.xor(cf, of), c32(30))), S.FC);
  const b0 = i32.and(i32.wrap(b), c32(1));
  f.if(is(FK_IMUL), () => {
    const signed = (v: Node): Node => i64.shr_s(i64.shl(v, sh.get), sh.get);
    const over = f.local(I32);
    f.if(
      i64.eqz(sh.get),
      () => f.set(over, i64.ne(call(mulhiS, a, b), i64.shr_s(r, c64(63)))),
      () => f.set(over, i64.ne(i64.mul(signed(a), signed(b)), signed(r))),
    );
    cfOf(over.get, over.get);
    f.st32(base, c32(0), S.FX);
    f.ret();
  });
  f.if(is(FK_COMPARED), () => {
    const bit = (n: number): Node => i64.and(i64.shr_u(b, c64(n)), c64(1));
    f.st64(base, i64.xor(bit(1), c64(1)), S.FZ);
    f.st64(base, i64.xor(bit(2), c64(1)), S.FR);
    cfOf(b0, c32(0));
    f.st32(base, c32(0), S.FX);
    f.ret();
  });
  f.if(is(FK_SHIFT), () => {
    cfOf(b0, i32.and(i32.shr_u(i32.wrap(b), c32(1)), c32(1)));
    f.st32(base, c32(0), S.FX);
    f.ret();
  });
  const min = c64hl(-0x80000000, 0);
  f.if(
    is(FK_INC),
    () => {
      cfOf(b0, i64.eq(top.get, min));
      f.set(fx, i32.eqz(i32.and(i32.wrap(r), c32(15))));
    },
    () => {
      cfOf(b0, i64.eq(top.get, i64.shl(i64.shr_u(c64hl(0x7fffffff, -1), sh.get), sh.get)));
      f.set(fx, i32.eq(i32.and(i32.wrap(r), c32(15)), c32(15)));
    },
  );
  f.st32(base, i32.shl(fx.get, c32(4)), S.FX);
  return f.ref;
}

/** (base): the same for flags that a region left in the vCPU's state, if there are any. */
export function emitMatState(m: Module, matFlags: FnRef): FnRef {
  const f = m.fn([I32], 0);
  const base = (f.params[0] as Local).get;
  f.if(ld.i32(base, S.PEND_KIND), () => {
    f.do(
      call(
        matFlags,
        base,
        ld.i32(base, S.PEND_KIND),
        ld.i64(base, S.PEND_A),
        ld.i64(base, S.PEND_B),
        ld.i64(base, S.PEND_R),
      ),
    );
    f.st32(base, c32(0), S.PEND_KIND);
  });
  return f.ref;
}

/**
 * A basic block of a region. Offsets are virtual and relative to the start of the page that the region is entered in:
 * `offset >> 12` is the page's distance from that page.
 */
interface Block {
  /** Offset of the first instruction. */
  readonly off: number;
  readonly insns: Insn[];
  /** Offset after the last instruction. */
  end: number;
  /** How it goes on: a jump instruction, straight into the next block, or back to the interpreter. */
  exit: 'jump' | 'fall' | 'stop';
  /** Offset of the taken target, or {@link NOWHERE} if it has none within the region. */
  taken: number;
  /** Same for the fall-through. */
  fall: number;
  /** For an indirect jump: offsets that its target is compared with. For {@link DISPATCH}: all that it leads to. */
  sites: number[];
  /** An indirect jump that goes on in the block at {@link DISPATCH} then, not out of the region. */
  fan: boolean;
  // Graph.
  index: number;
  idom: number;
  preds: number[];
  /** Has more than one forward predecessor. */
  merge: boolean;
  loopHead: boolean;
}

/** No offset. */
const NOWHERE = -0x80000000;
/**
 * Offset of a block without instructions that leads to all targets of indirect jumps with many. One for the region: blocks
 * that each lead to each, as those of an interpreter do, would make an irreducible graph.
 */
const DISPATCH = NOWHERE + 1;
/** Offsets of the blocks that may follow within the region; return sites first, so that they come late in order. */
function successors(b: Block): number[] {
  const out = b.sites.slice().reverse();
  if (b.fan) out.push(DISPATCH);
  if (b.fall !== NOWHERE) out.push(b.fall);
  if (b.taken !== NOWHERE) out.push(b.taken);
  return out;
}

/** Whether a jump has a known distance and its target can be an offset. */
function direct(n: Insn, target: number): boolean {
  return n.kind0 === Kind.Rel && n.opSize !== 2 && n.immHi === n.immLo >> 31 && Math.abs(target) < FAR;
}

/** The blocks of a region to be, and where its pages lie. */
export interface Found {
  readonly blocks: Block[];
  /** Host address by distance from the page of entry; 0 where nothing is mapped. */
  readonly pages: ReadonlyMap<number, number>;
  /** Link cells that hold such host addresses, by distance: the code has them from there, so that it can be used elsewhere. */
  readonly cells: Map<number, number>;
  /** The bytes that the blocks were decoded from, in the order of {@link rangesOf}. Memory may have changed meanwhile. */
  readonly code: Uint8Array;
  /** Whether blocks besides the entry have regions of their own. */
  readonly shares: boolean;
  /** Offsets outside that jumps lead to, where the guest has hardly been. */
  readonly rare: ReadonlySet<number>;
}

/** What the translator needs of its surroundings. */
export interface JitHost {
  readonly u8: Uint8Array;
  /** State of the only vCPU that runs the code; -1 if several do. */
  readonly only: number;
  readonly semantics: ReadonlyMap<number, Semantic>;
  readonly decoder: Decoder;
  /** Whether the instruction runs in TypeScript whatever its operation. */
  special(n: Insn): boolean;
  /** Non-zero if the instruction's unit is off in this mode. */
  unavailable(n: Insn, mode: number): number;
  /** How often the block at a host address ran under a mode; 0 if it never did, {@link TRANSLATED} for the entry of a region. */
  runs(host: number, mode: number): number;
  /** A fresh link cell, 0 when there are no more. */
  cell(): number;
  /** Writes what a cell is to hold. */
  place(cell: number, host: number): void;
  /**
   * Host address of the page that the vCPU at `base` has as number `page` (linear address >> 12, signed), if its code TLB
   * knows; else 0.
   */
  codePage(base: number, page: number): number;
  /** Distances from the indirect jump with this low half of its linear address to where it went: hints. */
  jumpTargets(jump: number): number[];
  /** Jump cache address. */
  readonly jumpCache: number;
}

/** Decodes a region and writes its function. */
export class RegionTranslator {
  private readonly h: JitHost;
  private scratch = new Insn();
  private readonly warm: number;
  private readonly hot: number;
  /** Room for copies of the pages that a region is decoded from. */
  private readonly room: Uint8Array[] = [];

  /** @param threshold runs that made the entries of regions hot: a block next to one joins its region with fewer */
  constructor(h: JitHost, threshold: number) {
    this.h = h;
    this.warm = Math.max(1, threshold >> 4);
    this.hot = threshold >> 1;
  }

  /** Whether the translator has code for the decoded instruction. */
  private can(n: Insn, mode: number): boolean {
    if ((n.rep !== 0 && !REPEATED.has(n.op)) || this.h.special(n)) return false;
    if (!this.h.semantics.has(n.op)) return false;
    // Only IRET of the mode's own width has more to it than a call of TypeScript.
    if (n.op === OP.IRET && n.opSize !== ((mode & 3) === 2 ? 8 : 4)) return false;
    // It changes registers that a region has in locals.
    if (n.op === OP.INT) return false;
    if (n.vex !== 0 && n.vsib !== 0) return false;
    return this.h.unavailable(n, mode) === 0;
  }

  /**
   * Finds the region's blocks; null if there is nothing to translate. `page` is the number of the page of entry in the
   * running address space of the vCPU at `base`. `wide`: many hot blocks are taken in even if they have regions of their own.
   */
  discover(base: number, host: number, page: number, mode: number, wide = false): Found | null {
    const found = this.gather(base, host, page, mode, wide ? WIDE_BLOCKS : FIRST_BLOCKS, wide);
    if (wide || found === null || !found.shares || found.blocks[0]?.loopHead === true) return found;
    return this.gather(base, host, page, mode, 0, false);
  }

  /** What a region has whose first `first` blocks may have regions of their own. */
  private gather(base: number, host: number, page: number, mode: number, first: number, wide: boolean): Found | null {
    const [mostBlocks, mostInsns] = wide ? [WIDE_BLOCKS, WIDE_INSNS] : [MAX_BLOCKS, MAX_INSNS];
    const bits = (mode & 3) === 2 ? 64 : 32;
    const pages = new Map<number, number>([[0, host - (host & 4095)]]);
    const hostAt = (off: number): number => {
      const d = off >> 12;
      let h = pages.get(d);
      if (h === undefined) {
        const n = page + d;
        h = bits === 32 && (n < 0 || n >= 0x100000) ? 0 : this.h.codePage(base, n);
        pages.set(d, h);
      }
      return h === 0 ? 0 : h + (off & 4095);
    };
    // Others may be writing to the pages just now: what is compared with memory later must be what was decoded.
    const copies = new Map<number, Uint8Array>();
    const copyOf = (off: number): Uint8Array | null => {
      const at = hostAt(off - (off & 4095));
      if (at === 0) return null;
      let c = copies.get(off >> 12);
      if (c === undefined) {
        c = this.room[copies.size] ??= new Uint8Array(4096);
        c.set(this.h.u8.subarray(at, at + 4096));
        copies.set(off >> 12, c);
      }
      return c;
    };
    const insns = new Map<number, Insn>();
    const leaders = new Set<number>([host & 4095]);
    const work = [host & 4095];
    const stops = new Set<number>();
    const sites: number[] = [];
    /** Offsets of indirect jumps' targets by the offset behind the jump. */
    const fans = new Map<number, number[]>();
    let total = 0;
    let shares = false;
    const rare = new Set<number>();
    // Only where the guest has been often: the rest would cost compile time and registers.
    const add = (o: number): void => {
      if (leaders.has(o) || leaders.size >= mostBlocks) return;
      const h = hostAt(o);
      if (h === 0) return;
      const runs = this.h.runs(h, mode);
      if (runs < this.warm) {
        rare.add(o);
        return;
      }
      if (runs === TRANSLATED && leaders.size >= first) return;
      if (leaders.size >= FEW_BLOCKS && runs < this.hot) return;
      if (runs === TRANSLATED) shares = true;
      leaders.add(o);
      work.push(o);
    };
    /** A region that ended between the heads of blocks would make new ones, and other regions that overlap with it and each other. */
    const full = (off: number): boolean =>
      total >= mostInsns && (total >= mostInsns + MORE_INSNS || this.h.runs(hostAt(off), mode) > 0);
    for (let w = 0; w < work.length; w++) {
      const start = work[w] as number;
      let off = start;
      for (;;) {
        if (insns.has(off) || stops.has(off)) break;
        if (off !== start && (off & 4095) === 0) {
          // The next page may be mapped elsewhere another time: its code is a block of its own.
          add(off);
          if (!leaders.has(off)) stops.add(off);
          break;
        }
        if (full(off) || !this.decode(off, copyOf, bits) || !this.can(this.scratch, mode)) {
          stops.add(off);
          break;
        }
        const n = this.scratch;
        this.scratch = new Insn();
        insns.set(off, n);
        total++;
        off += n.length;
        if (JUMPS.has(n.op)) {
          const target = off + n.immLo;
          const targets = direct(n, target) ? [target] : this.seen(n, page, off);
          for (const t of targets) add(t);
          if (n.kind0 !== Kind.Rel) fans.set(off, targets);
          if (CONDITIONAL.has(n.op)) add(off);
          else if (n.op === OP.CALL && sites.length < MAX_RETURNS && targets.some((t) => leaders.has(t))) {
            add(off);
            if (leaders.has(off)) sites.push(off);
          }
          break;
        }
      }
    }
    if (!insns.has(host & 4095)) return null;
    // Blocks: from each leader to the next leader, jump or stop.
    const blocks: Block[] = [];
    const within = (x: number): boolean => leaders.has(x) && insns.has(x);
    const dispatch = emptyBlock(DISPATCH);
    for (const start of leaders) {
      if (!insns.has(start)) continue;
      const b = emptyBlock(start);
      let off = start;
      for (;;) {
        if (b.insns.length === LEFT_MASK) leaders.add(off);
        if (off !== start && within(off)) {
          b.exit = 'fall';
          b.fall = off;
          break;
        }
        const n = insns.get(off);
        if (n === undefined || stops.has(off)) {
          b.exit = 'stop';
          break;
        }
        b.insns.push(n);
        off += n.length;
        if (JUMPS.has(n.op)) {
          b.exit = 'jump';
          const target = off + n.immLo;
          if (direct(n, target) && within(target)) b.taken = target;
          if (CONDITIONAL.has(n.op) && within(off)) b.fall = off;
          if (n.op === OP.RET) b.sites = sites.filter((x) => insns.has(x));
          const targets = (fans.get(off) ?? []).filter(within);
          if (targets.length <= FEW_TARGETS) b.sites.push(...targets);
          else {
            b.fan = true;
            for (const t of targets) if (!dispatch.sites.includes(t)) dispatch.sites.push(t);
          }
          break;
        }
      }
      b.end = off;
      blocks.push(b);
    }
    if (dispatch.sites.length > 0) blocks.push(dispatch);
    const ordered = this.order(blocks, host & 4095);
    const pieces = piecesOf(ordered);
    const code = new Uint8Array(pieces.reduce((n, [a, b]) => n + b - a, 0));
    let at = 0;
    for (const [from, to] of pieces) {
      code.set((copies.get(from >> 12) as Uint8Array).subarray(from & 4095, (from & 4095) + to - from), at);
      at += to - from;
    }
    return { blocks: ordered, pages, cells: new Map(), code, shares, rare };
  }

  /** Offsets that the indirect jump before `off` was seen to go to; none if it is none. */
  private seen(n: Insn, page: number, off: number): number[] {
    if (n.kind0 === Kind.Rel || n.opSize === 2 || (n.op !== OP.CALL && n.op !== OP.JMP)) return [];
    const at = off - n.length;
    const jump = ((page % 0x100000) * 4096 + at) | 0;
    return this.h
      .jumpTargets(jump)
      .map((distance) => at + distance)
      .filter((x) => Math.abs(x) < FAR);
  }

  /** Decodes the instruction at an offset into `scratch`, across a page boundary if the next page is known. */
  private decode(off: number, copyOf: (off: number) => Uint8Array | null, bits: 32 | 64): boolean {
    const page = copyOf(off);
    if (page === null) return false;
    const at = off & 4095;
    const left = 4096 - at;
    const st = this.h.decoder.decode(this.scratch, page, at, 4096, bits);
    if (st !== Status.NeedMore || left >= 15) return st === Status.Ok;
    const next = copyOf(off + left);
    if (next === null) return false;
    this.buf.set(page.subarray(at));
    this.buf.set(next.subarray(0, 15 - left), left);
    return this.h.decoder.decode(this.scratch, this.buf, 0, 15, bits) === Status.Ok;
  }
  private readonly buf = new Uint8Array(16);

  /** Reverse postorder, dominators, loops; edges that would make the graph irreducible become exits. */
  private order(blocks: Block[], entry: number): Block[] {
    const byOff = new Map(blocks.map((b) => [b.off, b]));
    const post: Block[] = [];
    const seen = new Set<Block>();
    const visit = (b: Block): void => {
      seen.add(b);
      for (const t of successors(b)) {
        const s = byOff.get(t) as Block;
        if (!seen.has(s)) visit(s);
      }
      post.push(b);
    };
    visit(byOff.get(entry) as Block);
    const rpo = post.reverse();
    rpo.forEach((b, i) => {
      b.index = i;
    });
    for (const b of rpo) for (const t of successors(b)) (byOff.get(t) as Block).preds.push(b.index);
    // Cooper, Harvey, Kennedy.
    (rpo[0] as Block).idom = 0;
    const intersect = (x: number, y: number): number => {
      let a = x;
      let b = y;
      while (a !== b) {
        while (a > b) a = (rpo[a] as Block).idom;
        while (b > a) b = (rpo[b] as Block).idom;
      }
      return a;
    };
    for (let changed = true; changed; ) {
      changed = false;
      for (const b of rpo.slice(1)) {
        let d = -1;
        for (const q of b.preds) if ((rpo[q] as Block).idom >= 0) d = d < 0 ? q : intersect(d, q);
        if (d !== b.idom) {
          b.idom = d;
          changed = true;
        }
      }
    }
    const dominates = (x: number, y: number): boolean => {
      let i = y;
      while (i > x) i = (rpo[i] as Block).idom;
      return i === x;
    };
    // A retreating edge to a block that does not dominate its source: leave the region there.
    for (const b of rpo) {
      const bad = (t: number): boolean => {
        if (t === NOWHERE) return false;
        const s = byOff.get(t) as Block;
        return s.index <= b.index && !dominates(s.index, b.index);
      };
      b.sites = b.sites.filter((t) => !bad(t));
      if (b.fan && bad(DISPATCH)) b.fan = false;
      if (bad(b.taken)) b.taken = NOWHERE;
      if (bad(b.fall)) {
        b.fall = NOWHERE;
        if (b.exit === 'fall') b.exit = 'stop';
      }
    }
    for (const b of rpo) b.preds = [];
    for (const b of rpo)
      for (const t of successors(b)) {
        const s = byOff.get(t) as Block;
        if (s.index <= b.index) s.loopHead = true;
        else s.preds.push(b.index);
      }
    for (const b of rpo) b.merge = b.preds.length > 1;
    return rpo;
  }

  /** Writes the region's function. False if link cells ran out. */
  emit(m: Module, name: string, env: Env, jitType: number, found: Found, mode: number): boolean {
    const blocks = found.blocks;
    const entry = blocks[0] as Block;
    const f = m.fn([I32], I32, name);
    // As a constant it leaves the host's processor one more register.
    const base = this.h.only < 0 ? (f.params[0] as Local).get : c32(this.h.only);
    const codeMode: CodeMode = { bits: (mode & 3) === 2 ? 64 : 32, ss32: (mode & S.MODE_SS32) !== 0, flat: true };
    const bud = f.local(I32);
    const bud0 = f.local(I32);
    const xrip = f.local(I64);
    const xcell = f.local(I32);
    const near = f.local(I32);
    const code = f.local(I32);
    /** Instructions that were counted but did not run. */
    const left = f.local(I32);
    const t32 = f.local(I32);
    const e = f.local(I32);
    const dest = f.local(I64);
    let outOfCells = false;
    const byOff = new Map(blocks.map((b) => [b.off, b]));
    const tail = f.open('block');
    const leaveLabel = f.open('block');
    const faultLabel = f.open('block');
    const lazy = writtenInLoops(blocks);
    const s: RegionState = {
      f,
      env,
      base,
      mode: codeMode,
      regs: new Array(16).fill(null),
      lazy: lazy.gpr,
      dirty: 0,
      xmms: new Array(16).fill(null),
      lazyXmm: lazy.xmm,
      dirtyXmm: 0,
      wide: wideRegisters(blocks),
      uppers: new Array(16).fill(null),
      noUppers: null,
      normal4: 0,
      normal8: 0,
      fast: null,
      pageRip: f.local(I64),
      fa: f.local(I64),
      fb: f.local(I64),
      fr: f.local(I64),
      fk: f.local(I32),
      matFlags: env.fn('matFlags'),
      matState: env.fn('matState'),
      faultLabel,
      leaveLabel,
      attention: f.local(I32),
      out: f.local(I32),
      before: f.local(I32),
      tlb: f.local(I32),
      windows: [],
      aligned: [],
      live: 0,
      bud0,
      bud,
    };
    /** Host address of the page at a distance, which has one. */
    const pageAt = (distance: number): Node => {
      let cell = found.cells.get(distance);
      if (cell === undefined) {
        cell = this.h.cell();
        if (cell === 0) outOfCells = true;
        else this.h.place(cell, found.pages.get(distance) as number);
        found.cells.set(distance, cell);
      }
      return ld.i32(c32(cell));
    };
    const cut = (v: Node, size = 8): Node =>
      codeMode.bits === 64 ? v : i64.and(v, c64(size === 2 ? 0xffff : 0xffffffff));
    /** Leaves for `off`; `from` is the page that the code is in. */
    const exitTo = (off: number, from: number, size = 8): void => {
      f.set(xrip, cut(i64.add(s.pageRip.get, c64(off)), size));
      let cell = 0;
      if (size !== 2) {
        cell = this.h.cell();
        if (cell === 0) outOfCells = true;
      }
      f.set(xcell, c32(cell));
      f.set(near, c32(cell !== 0 && off >> 12 === from ? 1 : 0));
      f.br(tail);
    };
    let misses = 0;
    /** `jump`: offset of an indirect jump that might have led on within the region. */
    const exitIndirect = (target: Node, jump = NOWHERE): void => {
      if (jump !== NOWHERE) {
        if (misses === 0) misses = this.h.cell();
        if (misses === 0) outOfCells = true;
        const n = f.tmp(i32.add(ld.i32(c32(misses)), c32(1)));
        f.st32(c32(misses), n);
        f.unlikely(i32.eqz(i32.and(n, c32(MISSES_NOTED - 1))), () => {
          const low = i32.wrap(s.pageRip.get);
          f.do(
            call(
              env.fn('missed'),
              base,
              c32(misses),
              i32.add(pageAt(0), c32(entry.off)),
              low,
              i32.wrap(i64.shr_u(s.pageRip.get, c64(32))),
              i32.add(low, c32(jump)),
              i32.wrap(target),
            ),
          );
        });
      }
      f.set(xrip, target);
      f.set(xcell, c32(0));
      f.br(tail);
    };
    const labels = new Map<Block, Label>();
    const loops = new Map<Block, Label>();
    const children: Block[][] = blocks.map(() => []);
    for (const b of blocks) if (b.index > 0) (children[b.idom] as Block[]).push(b);

    const seen = new Map<number, Local>();
    /** Whether the page of `off` is still where it was at translation: looked at once, since nothing in a region can change it. */
    const mapped = (off: number): Node => {
      let known = seen.get(off >> 12);
      if (known === undefined) {
        known = f.local(I32);
        seen.set(off >> 12, known);
      }
      const l = known;
      f.unlikely(i32.eqz(l.get), () => f.set(l, isThere(off)));
      return l.get;
    };
    const isThere = (off: number): Node => {
      const la = f.tmp(cut(i64.add(s.pageRip.get, c64(off))));
      const t = f.tmp(tlbSlot(la, ld.i32(base, S.TLB_CODE)));
      return i32.and(
        i64.eq(ld.i64(t, 16), i64.and(la, c64(-4096))),
        i32.eq(i32.add(i32.wrap(la), ld.i32(t, 24)), i32.add(pageAt(off >> 12), c32(off & 4095))),
      );
    };
    const goTo = (from: Block, off: number, pending: number): void => {
      // Within a page, and back to the one of entry, nothing can have changed.
      const page = off >> 12;
      const here = (from.end - 1) >> 12;
      if (page === 0 || page === here) {
        edge(from, off, pending);
        return;
      }
      f.likely(mapped(off), () => edge(from, off, pending));
      exitTo(off, here);
    };
    /** What is known of floats on every way to a block that several lead to, of those that have been written. */
    const known = new Map<Block, { normal4: number; normal8: number }>();
    const edge = (from: Block, off: number, pending: number): void => {
      const to = byOff.get(off) as Block;
      const { normal4, normal8 } = s;
      if (to.index > from.index && to.merge) {
        const k = known.get(to) ?? { normal4: -1, normal8: -1 };
        known.set(to, { normal4: k.normal4 & normal4, normal8: k.normal8 & normal8 });
      }
      follow(from, to, off, pending);
      // The other ways on from here know what was known here.
      s.normal4 = normal4;
      s.normal8 = normal8;
    };
    const follow = (from: Block, to: Block, off: number, pending: number): void => {
      if (to.index <= from.index) {
        // Back edge: the way out for timers and interrupts.
        f.likely(i32.gt_s(bud.get, ld.i32(base, S.ATTN)), () => f.br(loops.get(to) as Label));
        if (off === DISPATCH) {
          exitIndirect(dest.get);
          return;
        }
        f.set(s.out, placeOf(off, 0));
        f.br(leaveLabel);
        return;
      }
      if (to.merge) f.br(labels.get(to) as Label);
      else tree(to, pending);
    };
    /** Goes on at `to` if that is what `dest` holds. */
    const compared = (b: Block, to: number, pending: number): void =>
      f.if(i64.eq(dest.get, cut(i64.add(s.pageRip.get, c64(to)))), () => goTo(b, to, pending));
    const dispatch = (b: Block): void => {
      const { multiplier, shift, places } = spread(b.sites);
      const miss = f.open('block');
      const leaves = b.sites.map(() => f.open('block'));
      f.brTable(
        i32.shr_u(i32.mul(i32.wrap(i64.sub(dest.get, s.pageRip.get)), c32(multiplier)), c32(shift)),
        places.map((n) => (n < 0 ? miss : (leaves[n] as Label))),
        miss,
      );
      for (let n = b.sites.length - 1; n >= 0; n--) {
        f.close();
        compared(b, b.sites[n] as number, -1);
        f.br(miss);
      }
      f.close();
      const fan = blocks[b.preds[0] as number] as Block;
      exitIndirect(dest.get, fan.end - (fan.insns[fan.insns.length - 1] as Insn).length);
    };
    const body = (b: Block, pendingIn: number): void => {
      if (b.off === DISPATCH) {
        dispatch(b);
        return;
      }
      f.set(bud, i32.sub(bud.get, c32(b.insns.length)));
      let pending = pendingIn;
      let off = b.off;
      s.live = 0;
      const uses = windowsOf(b.insns, codeMode.bits as 32 | 64, b.off);
      b.insns.forEach((n, i) => {
        const mark = f.mark();
        const left = b.insns.length - i;
        const after = off + n.length;
        const here = (after - 1) >> 12;
        if (here !== off >> 12 && here !== 0) {
          // Its last bytes are in the next page.
          const start = off;
          f.unlikely(i32.eqz(mapped(here << 12)), () => {
            f.set(s.out, placeOf(start, left));
            f.set(s.before, c32(1));
            f.br(leaveLabel);
          });
        }
        const c: JitCtx = new JitCtx(s, n, off, left, pending, uses[i] ?? null, (kind, node) => {
          switch (kind) {
            case 'indirect':
              if (b.sites.length > 0 || b.fan) {
                f.set(dest, node as Node);
                if (c.stores) f.unlikely(s.attention.get, () => exitIndirect(dest.get));
              }
              for (const site of b.sites) compared(b, site, c.pending);
              if (b.fan) edge(b, DISPATCH, c.pending);
              else exitIndirect(node as Node, (n.op === OP.CALL || n.op === OP.JMP) && n.opSize !== 2 ? off : NOWHERE);
              return;
            case 'relative':
              if (b.taken !== NOWHERE) {
                if (c.stores) {
                  f.set(s.out, placeOf(b.taken, 0));
                  f.brUnlikely(leaveLabel, s.attention.get);
                }
                goTo(b, b.taken, c.pending);
              } else exitTo(after + n.immLo, here, n.opSize);
              return;
            default: {
              const unlikely = (to: number, off: number): boolean => to === NOWHERE && found.rare.has(off);
              const taken = unlikely(b.taken, after + n.immLo);
              const fall = unlikely(b.fall, after);
              const on = (): void => {
                if (b.taken !== NOWHERE) goTo(b, b.taken, c.pending);
                else exitTo(after + n.immLo, here, n.opSize);
              };
              const past = (): void => {
                if (b.fall !== NOWHERE) goTo(b, b.fall, c.pending);
                else exitTo(after, here);
              };
              if (taken === fall) f.if(node as Node, on, past);
              else if (taken) f.unlikely(node as Node, on, past);
              else f.likely(node as Node, on, past);
            }
          }
        });
        c.lea = n.op === OP.LEA;
        if (OPENERS.has(n.op)) c.leaveIfWaiting();
        (this.h.semantics.get(n.op) as Semantic)(c);
        if (!JUMPS.has(n.op)) c.finish();
        // Whether a repeated comparison compared at all shows only when it runs.
        if (n.rep !== 0) c.forgetFlags();
        if (c.stores && !JUMPS.has(n.op)) c.checkAttention();
        pending = c.pending;
        f.release(mark);
        off = after;
      });
      if (b.exit === 'fall') goTo(b, b.fall, pending);
      else if (b.exit === 'stop') exitTo(b.end, (b.end - 1) >> 12);
    };
    const within = (b: Block, merges: Block[], pending: number): void => {
      const y = merges[0];
      if (y === undefined) {
        body(b, pending);
        return;
      }
      labels.set(y, f.open('block'));
      within(b, merges.slice(1), pending);
      f.close();
      s.normal4 = known.get(y)?.normal4 ?? 0;
      s.normal8 = known.get(y)?.normal8 ?? 0;
      tree(y, -1);
    };
    const tree = (b: Block, pending: number): void => {
      const merges = (children[b.index] as Block[]).filter((x) => x.merge).sort((x, y) => y.index - x.index);
      if (b.loopHead) {
        s.normal4 = 0;
        s.normal8 = 0;
        loops.set(b, f.open('loop'));
        within(b, merges, -1);
        f.close();
      } else within(b, merges, pending);
    };
    tree(entry, -1);
    f.unreachable();
    f.close();
    // Fault: FAULT is set, the instruction did not happen.
    const ripOut = (): Node => cut(i64.add(s.pageRip.get, i64.extend_s(i32.shr_s(s.out.get, c32(LEFT_BITS)))));
    f.set(code, c32(J_FAULT));
    f.set(left, i32.and(s.out.get, c32(LEFT_MASK)));
    f.set(xrip, ripOut());
    f.br(tail);
    f.close();
    f.set(code, c32(J_LEFT));
    f.set(left, i32.and(s.out.get, c32(LEFT_MASK)));
    f.set(xrip, ripOut());
    f.close();
    // Tail: registers, flags, counters.
    const narrow = codeMode.bits === 32;
    for (let n = 0; n < 16; n++) {
      const l = s.regs[n];
      if (l !== null && l !== undefined && s.dirty & (1 << n))
        f.st64(base, narrow ? i64.extend_u(l.get) : l.get, S.GPR + 8 * n);
    }
    for (let n = 0; n < 16; n++) {
      const l = s.xmms[n];
      if (l !== null && l !== undefined && s.dirtyXmm & (1 << n)) f.stV(base, l.get, S.XMM + 16 * n);
    }
    if (s.noUppers !== null)
      f.if(i32.eqz(s.noUppers.get), () => {
        s.uppers.forEach((l, n) => {
          if (l !== null) f.stV(base, l.get, S.YMMH + 16 * n);
        });
        f.st32(base, c32(0), S.UPPERS_ZERO);
      });
    // Flags stay operands: the next region may not want them.
    f.if(s.fk.get, () => {
      f.st32(base, s.fk.get, S.PEND_KIND);
      f.st64(base, s.fa.get, S.PEND_A);
      f.st64(base, s.fb.get, S.PEND_B);
      f.st64(base, s.fr.get, S.PEND_R);
    });
    f.st64(base, xrip.get, S.RIP);
    f.set(t32, i32.sub(i32.sub(bud0.get, bud.get), left.get));
    f.st64(base, i64.add(ld.i64(base, S.ICOUNT), i64.extend_u(t32.get)), S.ICOUNT);
    f.st32(base, i32.sub(ld.i32(base, S.BUDGET), t32.get), S.BUDGET);
    f.unlikely(code.get, () => {
      f.if(i32.eq(code.get, c32(J_FAULT)), () => f.ret(c32(J_FAULT)));
      f.st32(base, c32(0), S.LINK_SLOT);
      f.ret(select(s.before.get, c32(J_INTERPRET), c32(J_LOOKUP)));
    });
    // On to the next region: within this page at once, else if its page is still where it was when the link was made.
    f.if(near.get, () => f.if(ld.i32(xcell.get), () => f.returnCallIndirect(jitType, ld.i32(xcell.get), [base])));
    f.set(e, tlbSlot(xrip.get, ld.i32(base, S.TLB_CODE)));
    f.likely(i64.eq(ld.i64(e.get, 16), i64.and(xrip.get, c64(-4096))), () => {
      f.set(t32, i32.add(i32.wrap(xrip.get), ld.i32(e.get, 24)));
      f.if(
        xcell.get,
        () => {
          f.if(i32.eq(ld.i32(xcell.get, 4), t32.get), () => {
            f.returnCallIndirect(jitType, ld.i32(xcell.get), [base]);
          });
        },
        () => {
          const cache = this.h.jumpCache;
          f.set(e, i32.shl(i32.and(hashHost(t32.get), c32(JC_ENTRIES - 1)), c32(4)));
          f.if(i32.eq(ld.i32(e.get, cache), t32.get), () =>
            f.if(i32.eq(ld.i32(e.get, cache + 4), c32(mode)), () =>
              f.returnCallIndirect(jitType, ld.i32(e.get, cache + 8), [base]),
            ),
          );
        },
      );
    });
    f.st32(base, select(xcell.get, i32.or(xcell.get, c32(1)), c32(0)), S.LINK_SLOT);
    f.emit(c32(J_LOOKUP));
    // Entry, now that the registers in use are known.
    const pro = new Fn(f.ref, [I32]);
    pro.set(bud0, ld.i32(base, S.BUDGET));
    pro.unlikely(i32.le_s(bud0.get, ld.i32(base, S.ATTN)), () => pro.ret(c32(J_BUDGET)));
    pro.set(bud, bud0.get);
    pro.set(s.tlb, ld.i32(base, S.TLB_DATA));
    pro.set(s.pageRip, i64.sub(ld.i64(base, S.RIP), c64(entry.off)));
    for (let n = 0; n < 16; n++) {
      const l = s.regs[n];
      if (l !== null && l !== undefined) pro.set(l, (narrow ? ld.i32 : ld.i64)(base, S.GPR + 8 * n));
      const x = s.xmms[n];
      if (x !== null && x !== undefined) pro.set(x, ld.v128(base, S.XMM + 16 * n));
      const y = s.uppers[n];
      if (y !== null && y !== undefined) pro.set(y, ld.v128(base, S.YMMH + 16 * n));
    }
    if (s.noUppers !== null) pro.set(s.noUppers, ld.i32(base, S.UPPERS_ZERO));
    if (s.fast !== null) pro.set(s.fast, i32.eq(i32.and(ld.i32(base, S.MXCSR), c32(0x7020)), c32(0x1020)));
    f.prepend(pro);
    return !outOfCells;
  }
}

/** A block that nothing is known of yet. */
function emptyBlock(off: number): Block {
  return {
    off,
    insns: [],
    end: off,
    exit: 'stop',
    taken: NOWHERE,
    fall: NOWHERE,
    sites: [],
    fan: false,
    index: -1,
    idom: -1,
    preds: [],
    merge: false,
    loopHead: false,
  };
}

/** Multipliers that {@link spread} tries for a size of table. */
const SPREAD_TRIES = 64;

/**
 * A hash that gives each of these i32 values a place of its own: `(v * multiplier) >>> shift` is an index into `places`,
 * which has the number of the value that may be there, or -1.
 */
export function spread(values: readonly number[]): {
  readonly multiplier: number;
  readonly shift: number;
  readonly places: readonly number[];
} {
  let multiplier = 0x9e3779b1 | 0;
  for (let bits = Math.max(1, Math.ceil(Math.log2(values.length))); ; bits++) {
    for (let i = 0; i < SPREAD_TRIES; i++) {
      // Odd, as it stays; the low bits of an odd number's multiples tell all values apart at 32 bits.
      multiplier = Math.imul(multiplier, 0x2c9277b5);
      const places = new Array<number>(1 << bits).fill(-1);
      const free = values.every((v, n) => {
        const at = Math.imul(v, multiplier) >>> (32 - bits);
        if (places[at] !== -1) return false;
        places[at] = n;
        return true;
      });
      if (free) return { multiplier, shift: 32 - bits, places };
    }
  }
}

/** Bit per general and per XMM register that instructions in loops write, as far as operands tell. */
function writtenInLoops(blocks: readonly Block[]): { readonly gpr: number; readonly xmm: number } {
  const byOff = new Map(blocks.map((b) => [b.off, b]));
  const inLoop = new Set<Block>();
  const preds: Block[][] = blocks.map(() => []);
  const back: [Block, Block][] = [];
  for (const b of blocks)
    for (const t of successors(b)) {
      const to = byOff.get(t) as Block;
      (preds[to.index] as Block[]).push(b);
      if (to.index <= b.index) back.push([b, to]);
    }
  for (const [b, head] of back) {
    // The natural loop of this back edge: all that reach its source without passing its head.
    const loop = new Set<Block>([head]);
    const work = [b];
    for (let x = work.pop(); x !== undefined; x = work.pop()) {
      if (loop.has(x)) continue;
      loop.add(x);
      work.push(...(preds[x.index] as Block[]));
    }
    for (const x of loop) inLoop.add(x);
  }
  let gpr = 0;
  let xmm = 0;
  for (const b of inLoop)
    for (const n of b.insns) {
      const row = ROWS[n.row];
      if (n.kind0 === Kind.Gpr && row !== undefined && row.access0 !== 'r') gpr |= 1 << n.reg0;
      if ((n.kind0 === Kind.Xmm || n.kind0 === Kind.Ymm) && row !== undefined && row.access0 !== 'r')
        xmm |= 1 << n.reg0;
      if (STACK.has(n.op)) gpr |= 1 << 4;
    }
  return { gpr, xmm };
}

/** Bit per register that some instruction has as a YMM register. */
function wideRegisters(blocks: readonly Block[]): number {
  let wide = 0;
  for (const b of blocks)
    for (const n of b.insns) {
      if (n.kind0 === Kind.Ymm) wide |= 1 << n.reg0;
      if (n.kind1 === Kind.Ymm) wide |= 1 << n.reg1;
      if (n.kind2 === Kind.Ymm) wide |= 1 << n.reg2;
      if (n.kind3 === Kind.Ymm) wide |= 1 << n.reg3;
    }
  return wide;
}

/** Operations that move the stack pointer. */
const STACK: ReadonlySet<number> = new Set([OP.PUSH, OP.POP, OP.CALL, OP.RET, OP.LEAVE]);

/** The code of blocks: offsets [from, to), split at pages. */
function piecesOf(blocks: readonly Block[]): [number, number][] {
  const out: [number, number][] = [];
  for (const b of blocks) {
    let from = b.off;
    while (from < b.end) {
      const to = Math.min(b.end, from - (from & 4095) + 4096);
      out.push([from, to]);
      from = to;
    }
  }
  return out;
}

/** The code of a region: host addresses [from, to), split at pages. */
export function rangesOf(found: Found): [number, number][] {
  return piecesOf(found.blocks).map(([from, to]) => {
    const host = (found.pages.get(from >> 12) as number) + (from & 4095);
    return [host, host + to - from];
  });
}

/** The pages that a region needs: distance from that of entry, host address, the cell that holds it or 0. */
export function pagesOf(found: Found): [number, number, number][] {
  const distances = new Set([0, ...found.cells.keys(), ...piecesOf(found.blocks).map(([from]) => from >> 12)]);
  return [...distances].map((d) => [d, found.pages.get(d) as number, found.cells.get(d) ?? 0]);
}

/** Jump cache hash of a host code address. */
export function hashHost(host: Node): Node {
  return i32.xor(host, i32.shr_u(host, c32(12)));
}
