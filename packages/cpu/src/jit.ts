// The translator: regions of hot code within one page become WebAssembly functions with guest registers in locals and
// structured control flow (N. Ramsey, "Beyond Relooper", 2022). Semantics are the interpreter's, through JitCtx.
import { type Decoder, Insn, Kind, OP, Status } from '@hyve/x86';
import type { CodeMode, Env, Semantic } from './ctx.ts';
import { FK_ADC, FK_ADD, FK_INC, FK_LOGIC, FK_SBB, FK_SHIFT, FK_SUB, JitCtx, type RegionState } from './jit-ctx.ts';
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

/** Most return sites that a RET looks for within its region. */
const MAX_RETURNS = 4;
/** Most basic blocks and instructions of a region. */
const MAX_BLOCKS = 40;
const MAX_INSNS = 220;

/** Results of a region: look RIP up, a fault is in FAULT, the budget is used up. */
export const J_LOOKUP = 0;
export const J_FAULT = 1;
export const J_BUDGET = 2;

/** Bytes of a link cell: table slot (0: none), host address of the target. */
export const CELL = 8;
/** Jump cache: entries of 16 bytes: host address, mode, slot. */
export const JC_ENTRIES = 4096;

/** Operations that stay with the interpreter: they end a region before them. */
const DENY: ReadonlySet<number> = new Set([OP.STI, OP.POPF, OP.RDTSC]);
const JUMPS: ReadonlySet<number> = new Set([
  OP.CALL, OP.JMP, OP.RET, OP.JCC, OP.LOOP, OP.LOOPE, OP.LOOPNE, OP.JCXZ,
]); // biome-ignore format: a list
const CONDITIONAL: ReadonlySet<number> = new Set([OP.JCC, OP.LOOP, OP.LOOPE, OP.LOOPNE, OP.JCXZ]);

/** (base, kind, a, b, result): brings pending flags to memory. See FK_ in jit-ctx.ts. */
export function emitMatFlags(m: Module): FnRef {
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

interface Block {
  /** Page offset of the first instruction. */
  readonly off: number;
  readonly insns: Insn[];
  /** Page offset after the last instruction. */
  end: number;
  /** How it goes on: a jump instruction, straight into the next block, or back to the interpreter. */
  exit: 'jump' | 'fall' | 'stop';
  /** Page offset of the taken target, or -1 if it has none within the region. */
  taken: number;
  /** Same for the fall-through. */
  fall: number;
  /** For RET: page offsets of the return sites of calls made within the region. */
  returns: number[];
  // Graph.
  index: number;
  idom: number;
  preds: number[];
  /** Has more than one forward predecessor. */
  merge: boolean;
  loopHead: boolean;
}

/** Page offsets of the blocks that may follow within the region; return sites first, so that they come late in order. */
function successors(b: Block): number[] {
  const out = b.returns.slice().reverse();
  if (b.fall >= 0) out.push(b.fall);
  if (b.taken >= 0) out.push(b.taken);
  return out;
}

/** Whether a jump of known distance stays within its page; `after` is the page offset behind it. */
function inPage(n: Insn, after: number, target: number): boolean {
  return (
    n.kind0 === Kind.Rel && n.opSize !== 2 && n.immHi === n.immLo >> 31 && target >= 0 && target < 4096 && after <= 4096
  );
}

/** A translated region. */
export interface Region {
  /** Head record in the block cache. */
  readonly head: number;
  /** Host address of the page. */
  readonly page: number;
  /** Byte ranges of its code within the page, as [from, to) offsets. */
  readonly ranges: readonly (readonly [number, number])[];
  /** Table slot. */
  slot: number;
  alive: boolean;
}

/** What the translator needs of its surroundings. */
export interface JitHost {
  readonly u8: Uint8Array;
  readonly semantics: ReadonlyMap<number, Semantic>;
  readonly decoder: Decoder;
  /** Whether the instruction runs in TypeScript whatever its operation. */
  special(n: Insn): boolean;
  /** Non-zero if the instruction's unit is off in this mode. */
  unavailable(n: Insn, mode: number): number;
  /** How often the block at a host address ran under a mode; 0 if it never did. */
  runs(host: number, mode: number): number;
  /** A fresh link cell, 0 when there are no more. */
  cell(): number;
  /** Jump cache address. */
  readonly jumpCache: number;
}

/** Decodes a region and writes its function. */
export class RegionTranslator {
  private readonly h: JitHost;
  private readonly scratch = new Insn();
  private readonly warm: number;

  /** @param warm runs from which a block next to a hot one joins its region */
  constructor(h: JitHost, warm: number) {
    this.h = h;
    this.warm = warm;
  }

  /** Whether the translator has code for the decoded instruction. */
  private can(n: Insn, mode: number): boolean {
    if (n.rep !== 0 || DENY.has(n.op) || this.h.special(n)) return false;
    if (!this.h.semantics.has(n.op)) return false;
    if (n.vex !== 0 && n.vsib !== 0) return false;
    return this.h.unavailable(n, mode) === 0;
  }

  /** Finds the region's blocks; null if there is nothing to translate. */
  discover(host: number, mode: number): Block[] | null {
    const bits = (mode & 3) === 2 ? 64 : 32;
    const page = host - (host & 4095);
    const insns = new Map<number, Insn>();
    const leaders = new Set<number>([host & 4095]);
    const work = [host & 4095];
    const stops = new Set<number>();
    const sites: number[] = [];
    let total = 0;
    while (work.length > 0 && leaders.size <= MAX_BLOCKS) {
      let off = work.shift() as number;
      for (;;) {
        if (insns.has(off) || stops.has(off)) break;
        if (off >= 4096 || total >= MAX_INSNS) {
          stops.add(off);
          break;
        }
        const st = this.h.decoder.decode(this.scratch, this.h.u8, page + off, page + 4096, bits);
        if (st !== Status.Ok || !this.can(this.scratch, mode)) {
          stops.add(off);
          break;
        }
        const n = Object.assign(new Insn(), this.scratch);
        insns.set(off, n);
        total++;
        off += n.length;
        if (JUMPS.has(n.op)) {
          const target = off + n.immLo;
          const near = inPage(n, off, target);
          // Only where the guest has been often: the rest would cost compile time and registers.
          const add = (o: number): void => {
            if (!leaders.has(o) && o < 4096 && this.h.runs(page + o, mode) >= this.warm) {
              leaders.add(o);
              work.push(o);
            }
          };
          if (near) add(target);
          if (CONDITIONAL.has(n.op)) add(off);
          else if (n.op === OP.CALL && near && leaders.has(target) && sites.length < MAX_RETURNS) {
            add(off);
            if (leaders.has(off)) sites.push(off);
          }
          break;
        }
      }
    }
    const first = insns.get(host & 4095);
    if (first === undefined) return null;
    // Blocks: from each leader to the next leader, jump or stop.
    const blocks: Block[] = [];
    for (const start of leaders) {
      if (!insns.has(start)) continue;
      const b: Block = {
        off: start,
        insns: [],
        end: start,
        exit: 'stop',
        taken: -1,
        fall: -1,
        returns: [],
        index: -1,
        idom: -1,
        preds: [],
        merge: false,
        loopHead: false,
      };
      let off = start;
      for (;;) {
        const n = insns.get(off);
        if (n === undefined) {
          b.exit = 'stop';
          break;
        }
        if (off !== start && leaders.has(off)) {
          b.exit = 'fall';
          b.fall = off;
          break;
        }
        b.insns.push(n);
        off += n.length;
        if (JUMPS.has(n.op)) {
          b.exit = 'jump';
          const target = off + n.immLo;
          if (inPage(n, off, target) && leaders.has(target) && insns.has(target)) b.taken = target;
          if (CONDITIONAL.has(n.op) && leaders.has(off) && insns.has(off)) b.fall = off;
          if (n.op === OP.RET) b.returns = sites.filter((x) => insns.has(x));
          break;
        }
      }
      b.end = off;
      blocks.push(b);
    }
    return this.order(blocks, host & 4095);
  }

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
        if (t < 0) return false;
        const s = byOff.get(t) as Block;
        return s.index <= b.index && !dominates(s.index, b.index);
      };
      b.returns = b.returns.filter((t) => !bad(t));
      if (bad(b.taken)) b.taken = -1;
      if (bad(b.fall)) {
        b.fall = -1;
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

  /** Writes the region's function. Returns its code ranges, or null if link cells ran out. */
  emit(
    m: Module,
    name: string,
    env: Env,
    matFlags: FnRef,
    jitType: number,
    blocks: Block[],
    mode: number,
  ): [number, number][] | null {
    const entry = blocks[0] as Block;
    const f = m.fn([I32], I32, name);
    const base = (f.params[0] as Local).get;
    const codeMode: CodeMode = { bits: (mode & 3) === 2 ? 64 : 32, ss32: (mode & S.MODE_SS32) !== 0, flat: true };
    const bud = f.local(I32);
    const bud0 = f.local(I32);
    const xrip = f.local(I64);
    const xcell = f.local(I32);
    const near = f.local(I32);
    const code = f.local(I32);
    const attention = f.local(I32);
    const t32 = f.local(I32);
    const e = f.local(I32);
    let outOfCells = false;
    const byOff = new Map(blocks.map((b) => [b.off, b]));
    const tail = f.open('block');
    const leaveLabel = f.open('block');
    const faultLabel = f.open('block');
    const s: RegionState = {
      f,
      env,
      base,
      mode: codeMode,
      regs: new Array(16).fill(null),
      dirty: 0,
      pageRip: f.local(I64),
      fa: f.local(I64),
      fb: f.local(I64),
      fr: f.local(I64),
      fk: f.local(I32),
      matFlags,
      faultLabel,
      leaveLabel,
      outOff: f.local(I32),
      outLeft: f.local(I32),
    };
    const cut = (v: Node, size = 8): Node =>
      codeMode.bits === 64 ? v : i64.and(v, c64(size === 2 ? 0xffff : 0xffffffff));
    const exitTo = (off: number, size = 8, linkable = true): void => {
      f.set(xrip, cut(i64.add(s.pageRip.get, c64(off)), size));
      let cell = 0;
      if (linkable && size !== 2) {
        cell = this.h.cell();
        if (cell === 0) outOfCells = true;
      }
      f.set(xcell, c32(cell));
      f.set(near, c32(off >= 0 && off < 4096 ? 1 : 0));
      f.br(tail);
    };
    const labels = new Map<Block, Label>();
    const loops = new Map<Block, Label>();
    const children: Block[][] = blocks.map(() => []);
    for (const b of blocks) if (b.index > 0) (children[b.idom] as Block[]).push(b);

    const goTo = (from: Block, off: number, pending: number): void => {
      const to = byOff.get(off) as Block;
      if (to.index <= from.index) {
        // Back edge: the way out for timers and interrupts.
        f.if(i32.gt_s(bud.get, ld.i32(base, S.ATTN)), () => f.br(loops.get(to) as Label));
        f.set(s.outOff, c32(off));
        f.br(leaveLabel);
        return;
      }
      if (to.merge) f.br(labels.get(to) as Label);
      else tree(to, pending);
    };
    const body = (b: Block, pendingIn: number): void => {
      f.set(bud, i32.sub(bud.get, c32(b.insns.length)));
      let pending = pendingIn;
      let off = b.off;
      b.insns.forEach((n, i) => {
        const mark = f.mark();
        const left = b.insns.length - i;
        const after = off + n.length;
        const c: JitCtx = new JitCtx(s, n, off, left, pending, (kind, node) => {
          switch (kind) {
            case 'indirect':
              for (const site of b.returns)
                f.if(i64.eq(node as Node, cut(i64.add(s.pageRip.get, c64(site)))), () => goTo(b, site, c.kind0));
              f.set(xrip, node as Node);
              f.set(xcell, c32(0));
              f.br(tail);
              return;
            case 'relative':
              if (b.taken >= 0) goTo(b, b.taken, c.kind0);
              else exitTo(after + n.immLo, n.opSize);
              return;
            default:
              f.if(
                node as Node,
                () => {
                  if (b.taken >= 0) goTo(b, b.taken, c.kind0);
                  else exitTo(after + n.immLo, n.opSize);
                },
                () => {
                  if (b.fall >= 0) goTo(b, b.fall, c.kind0);
                  else exitTo(after);
                },
              );
          }
        });
        c.attention = attention;
        c.lea = n.op === OP.LEA;
        (this.h.semantics.get(n.op) as Semantic)(c);
        if (c.stores && !JUMPS.has(n.op)) c.checkAttention();
        pending = c.kind0;
        f.release(mark);
        off = after;
      });
      if (b.exit === 'fall') goTo(b, b.fall, pending);
      else if (b.exit === 'stop') exitTo(b.end);
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
      tree(y, -1);
    };
    const tree = (b: Block, pending: number): void => {
      const merges = (children[b.index] as Block[]).filter((x) => x.merge).sort((x, y) => y.index - x.index);
      if (b.loopHead) {
        loops.set(b, f.open('loop'));
        within(b, merges, -1);
        f.close();
      } else within(b, merges, pending);
    };
    tree(entry, 0);
    f.unreachable();
    f.close();
    // Fault: FAULT is set, the instruction did not happen.
    const ripOut = (): Node => cut(i64.add(s.pageRip.get, i64.extend_s(s.outOff.get)));
    f.set(code, c32(J_FAULT));
    f.set(xrip, ripOut());
    f.br(tail);
    f.close();
    f.set(code, c32(3));
    f.set(xrip, ripOut());
    f.close();
    // Tail: registers, flags, counters.
    for (let n = 0; n < 16; n++) {
      const l = s.regs[n];
      if (l !== null && l !== undefined && s.dirty & (1 << n)) f.st64(base, l.get, S.GPR + 8 * n);
    }
    f.if(s.fk.get, () => f.do(call(matFlags, base, s.fk.get, s.fa.get, s.fb.get, s.fr.get)));
    f.st64(base, xrip.get, S.RIP);
    f.set(t32, i32.sub(i32.sub(bud0.get, bud.get), s.outLeft.get));
    f.st64(base, i64.add(ld.i64(base, S.ICOUNT), i64.extend_s(t32.get)), S.ICOUNT);
    f.st32(base, i32.sub(ld.i32(base, S.BUDGET), t32.get), S.BUDGET);
    f.if(i32.eq(code.get, c32(J_FAULT)), () => f.ret(c32(J_FAULT)));
    f.if(i32.eq(code.get, c32(3)), () => {
      f.st32(base, c32(0), S.LINK_SLOT);
      f.ret(c32(J_LOOKUP));
    });
    // On to the next region: within this page at once, else if its page is still where it was when the link was made.
    f.if(near.get, () => f.if(ld.i32(xcell.get), () => f.returnCallIndirect(jitType, ld.i32(xcell.get), [base])));
    f.set(
      e,
      i32.add(i32.and(i32.wrap(i64.shr_u(xrip.get, c64(7))), c32((S.TLB_ENTRIES - 1) << 5)), ld.i32(base, S.TLB_CODE)),
    );
    f.if(i64.eq(ld.i64(e.get, 16), i64.and(xrip.get, c64(-4096))), () => {
      f.set(t32, i32.add(i32.wrap(xrip.get), ld.i32(e.get, 24)));
      f.if(
        xcell.get,
        () => {
          f.if(i32.eq(ld.i32(xcell.get, 4), t32.get), () => {
            f.returnCallIndirect(jitType, ld.i32(xcell.get), [base]);
          });
        },
        () => {
          f.set(e, i32.add(c32(this.h.jumpCache), i32.shl(i32.and(hashHost(t32.get), c32(JC_ENTRIES - 1)), c32(4))));
          f.if(i32.and(i32.eq(ld.i32(e.get), t32.get), i32.eq(ld.i32(e.get, 4), c32(mode))), () => {
            f.returnCallIndirect(jitType, ld.i32(e.get, 8), [base]);
          });
        },
      );
    });
    f.st32(base, select(xcell.get, i32.or(xcell.get, c32(1)), c32(0)), S.LINK_SLOT);
    f.emit(c32(J_LOOKUP));
    // Entry, now that the registers in use are known.
    const pro = new Fn(f.ref, [I32]);
    pro.set(bud0, ld.i32(base, S.BUDGET));
    pro.if(i32.le_s(bud0.get, ld.i32(base, S.ATTN)), () => pro.ret(c32(J_BUDGET)));
    pro.set(bud, bud0.get);
    pro.set(s.pageRip, i64.sub(ld.i64(base, S.RIP), c64(entry.off)));
    for (let n = 0; n < 16; n++) {
      const l = s.regs[n];
      if (l !== null && l !== undefined) pro.set(l, ld.i64(base, S.GPR + 8 * n));
    }
    f.prepend(pro);
    if (outOfCells) return null;
    return blocks.map((b) => [b.off, b.end]);
  }
}

/** Jump cache hash of a host code address. */
export function hashHost(host: Node): Node {
  return i32.xor(host, i32.shr_u(host, c32(12)));
}
