// Accesses of a basic block that lie close together by one base register share one look into the TLB. The first one checks
// that all bytes between the lowest and the highest of them, the window, are in one page that the vCPU may access so, or in
// two that are neighbours in the host's memory as well, and keeps the window's host address in a local; the others only ask
// whether there is one.
import { type Insn, Kind, OP, OP_NAMES, ROWS } from '@hyve/x86';
import { tlbSlot } from './addresses.ts';
import type { MemFns } from './mem.ts';
import * as S from './state.ts';
import {
  c32,
  c64,
  call,
  type Fn,
  type FnRef,
  I32,
  I64,
  i32,
  i64,
  type Local,
  ld,
  type Module,
  type Node,
  simd,
  simdLane,
  V128,
} from './wasm/builder.ts';

/** What one instruction does with a window. */
export interface WindowUse {
  /** Number of the local with the window's host address; free again after the last use. */
  readonly slot: number;
  /** Bytes from the window's start to the access, and of the access at most. */
  readonly at: number;
  readonly size: number;
  /** Bytes of the window. */
  readonly span: number;
  /** Whether one of its accesses writes. */
  readonly write: boolean;
  readonly first: boolean;
  readonly last: boolean;
  /** The access is to the stack, by a stack operation. */
  readonly stack: boolean;
}

/** Most bytes of a window: two pages that are not neighbours in the host's memory too are looked up access by access. */
const MAX_SPAN = 256;
/** Most windows at a time. */
export const MAX_WINDOWS = 4;

const codes = (names: string): ReadonlySet<number> => {
  const wanted = new Set(names.trim().split(/\s+/));
  return new Set(Array.from(OP_NAMES, (n, op) => (wanted.has(n) ? op : -1)).filter((op) => op >= 0));
};

/**
 * Operations that change no register but operand 0 and what {@link IMPLICIT} says, and neither the TLB nor what may be
 * accessed, unless they take the slow path of an access.
 */
const KNOWN: ReadonlySet<number> = codes(`
  MOV ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT ROL ROR SHL SHR SAR SHLD SHRD LEA MOVZX MOVSX MOVSXD CMOVCC SETCC
  IMUL MUL DIV IDIV CBW CWD BSWAP NOP ENDBR64 ENDBR32 BSF BSR TZCNT LZCNT POPCNT PUSH POP CALL RET LEAVE JCC JMP
  MOVAPS MOVAPD MOVUPS MOVUPD MOVDQA MOVDQU MOVD MOVQ MOVSS MOVSD MOVLPS MOVHPS MOVLPD MOVHPD
  ADDSS ADDSD SUBSS SUBSD MULSS MULSD DIVSS DIVSD MINSS MINSD MAXSS MAXSD SQRTSS SQRTSD
  ADDPS ADDPD SUBPS SUBPD MULPS MULPD DIVPS DIVPD UCOMISS UCOMISD COMISS COMISD
  CVTSI2SS CVTSI2SD CVTTSS2SI CVTTSD2SI CVTSS2SD CVTSD2SS ANDPS ANDPD ORPS ORPD XORPS XORPD PAND PANDN POR PXOR
  PADDB PADDW PADDD PADDQ PSUBB PSUBW PSUBD PSUBQ PSHUFD UNPCKLPS UNPCKLPD UNPCKHPD SHUFPS SHUFPD PUNPCKLBW PUNPCKLWD
  PUNPCKLDQ PUNPCKLQDQ PCMPEQB PCMPEQW PCMPEQD PMOVMSKB PMINUB
  VMOVAPS VMOVAPD VMOVUPS VMOVUPD VMOVDQA VMOVDQU VMOVD VMOVQ VPAND VPANDN VPOR VPXOR VPCMPEQB VPCMPEQW VPCMPEQD VPMINUB
  VPMOVMSKB VPTEST VPSUBB VPBROADCASTB VZEROUPPER ANDN BLSR BLSMSK BLSI BZHI BEXTR SHLX SARX SHRX RORX
`);
/** Registers that change besides operand 0, one bit each. */
const IMPLICIT: ReadonlyMap<number, number> = new Map([
  [OP.MUL, 0b101],
  [OP.DIV, 0b101],
  [OP.IDIV, 0b101],
  [OP.CBW, 0b001],
  [OP.CWD, 0b100],
]);
/** Of {@link KNOWN}: those whose memory operand is not read or written as it stands, and such as have none. */
const NO_OPERAND: ReadonlySet<number> = new Set([OP.LEA, OP.NOP]);
const KINDS: ReadonlySet<number> = new Set([
  Kind.None, Kind.Gpr, Kind.GprHigh, Kind.Mem, Kind.Imm, Kind.Const, Kind.Rel, Kind.Xmm, Kind.Ymm,
]); // biome-ignore format: a list

const STACK: ReadonlySet<number> = new Set([OP.PUSH, OP.POP, OP.CALL, OP.RET, OP.LEAVE]);
/** No windows. */
const NONE: (WindowUse | null)[] = [];

const SP = 4;
const BP = 5;

interface Window {
  readonly key: number;
  readonly registers: number;
  readonly uses: { readonly insn: number; readonly disp: number; readonly size: number; readonly stack: boolean }[];
  min: number;
  max: number;
  write: boolean;
}

/**
 * The windows of a block: for each of its instructions what it does with one, or null; past the end of the list none does.
 *
 * @param bits 64, or 32 with flat segments
 * @param off offset of the first instruction, which addresses relative to RIP are relative to in turn
 */
export function windowsOf(insns: readonly Insn[], bits: 32 | 64, off: number): (WindowUse | null)[] {
  let accesses = 0;
  for (const n of insns) if (STACK.has(n.op) || memoryOperand(n) >= 0) accesses++;
  if (accesses < 2) return NONE;
  const native = bits / 8;
  let open: Window[] = [];
  const done: Window[] = [];
  /** What the stack pointer has moved by. */
  let moved = 0;
  const close = (registers: number): void => {
    if (open.some((w) => w.registers & registers)) open = open.filter((w) => (w.registers & registers) === 0);
  };
  const access = (
    insn: number,
    key: number,
    registers: number,
    disp: number,
    size: number,
    write: boolean,
    stack: boolean,
  ): void => {
    let w = open.find((x) => x.key === key);
    if (w === undefined || Math.max(w.max, disp + size) - Math.min(w.min, disp) > MAX_SPAN) {
      if (w !== undefined) open.splice(open.indexOf(w), 1);
      w = { key, registers, uses: [], min: disp, max: disp + size, write: false };
      open.push(w);
      done.push(w);
    }
    w.min = Math.min(w.min, disp);
    w.max = Math.max(w.max, disp + size);
    w.write ||= write;
    w.uses.push({ insn, disp, size, stack });
  };
  /** Key of what is addressed by the base register alone. */
  const by = (base: number): number => base + 1;
  let end = off;
  for (let i = 0; i < insns.length; i++) {
    const n = insns[i] as Insn;
    end += n.length;
    if (!KNOWN.has(n.op) || !known(n)) {
      open = [];
      continue;
    }
    const access0 = ROWS[n.row]?.access0 ?? 'rw';
    const m = memoryOperand(n);
    const stackOp = STACK.has(n.op);
    if (m >= 0 && !stackOp && !NO_OPERAND.has(n.op) && n.op !== OP.JMP) {
      const size = m === 0 ? n.size0 : m === 1 ? n.size1 : n.size2;
      const plain =
        n.addrSize === native &&
        n.seg < 4 &&
        (n.seg !== 1 || bits === 64) &&
        n.dispHi === n.dispLo >> 31 &&
        n.lock === 0;
      if (plain && size > 0 && size <= 32) {
        let disp = n.dispLo + (n.ripRelative !== 0 ? end : 0);
        if (n.base === SP) disp += moved;
        const key = by(n.base) | ((n.index + 1) << 5) | (n.scale << 10) | (n.ripRelative << 12);
        const registers = (n.base >= 0 ? 1 << n.base : 0) | (n.index >= 0 ? 1 << n.index : 0);
        // With an index, the stack pointer's moves would have to be told apart: no compiler does that.
        if (n.base !== SP || n.index < 0) access(i, key, registers, disp, size, m === 0 && access0 !== 'r', false);
      }
    }
    if (stackOp) {
      const size = n.opSize;
      // With an operand in memory there are two accesses; none of them is taken in.
      if (n.op === OP.PUSH || n.op === OP.CALL) {
        moved -= size;
        if (m < 0) access(i, by(SP), 1 << SP, moved, size, true, true);
      } else if (n.op === OP.LEAVE) {
        access(i, by(BP), 1 << BP, 0, size, false, true);
        close((1 << SP) | (1 << BP));
      } else if (n.op === OP.RET) access(i, by(SP), 1 << SP, moved, size, false, true);
      else if (m >= 0) open = [];
      else {
        access(i, by(SP), 1 << SP, moved, size, false, true);
        moved += size;
      }
    }
    let written = IMPLICIT.get(n.op) ?? 0;
    if (n.op === OP.IMUL && n.operandCount === 1) written = 0b101;
    if (n.kind0 === Kind.Gpr && access0 !== 'r' && access0 !== '-') written |= 1 << n.reg0;
    if (n.kind0 === Kind.GprHigh && access0 !== 'r') written |= 1 << n.reg0;
    if (written & (1 << SP)) {
      const by1 = stackStep(n, native);
      if (by1 !== 0) {
        moved += by1;
        written &= ~(1 << SP);
      }
    }
    if (written !== 0) close(written);
  }
  return assign(done, insns.length);
}

/** What translated code calls where there is no window. */
export interface WindowFns {
  /** (base, start, span, 0 to read and 8 to write) → host address of the window, or 0. */
  readonly window: FnRef;
  /** (base, la, size) → value: from the TLB's page, or the slow way. */
  readonly loadAgain: FnRef;
  /** (base, la, value, size): likewise. */
  readonly storeAgain: FnRef;
  /** (base, la, size) → host address to modify, as rmwMiss gives. */
  readonly rmwAgain: FnRef;
  /** (base, la) → 16 bytes as v128, likewise. */
  readonly loadVector: FnRef;
  /** (base, la, value of 16 bytes): likewise; nothing is stored if any byte faults. */
  readonly storeVector: FnRef;
}

/** Emits the functions into a module. */
export function emitWindows(m: Module, mem: MemFns): Record<keyof WindowFns, FnRef> {
  const p = (f: Fn, n: number): Node => (f.params[n] as Local).get;
  /** Host address of `size` bytes at `la`, given to `found` if the TLB has it. */
  const look = (f: Fn, size: Node, tag: Node, found: (ptr: Node) => void): void => {
    const la = p(f, 1);
    const e = f.local(I32);
    f.set(e, tlbSlot(la, ld.i32(p(f, 0), S.TLB_DATA)));
    f.if(
      i64.eq(ld.i64(i32.add(e.get, tag)), i64.and(i64.add(la, i64.sub(i64.extend_u(size), c64(1))), c64(-4096))),
      () => found(i32.add(i32.wrap(la), ld.i32(e.get, 24))),
    );
  };
  /** The same where they may be in two pages, if these are neighbours in the host's memory. */
  const lookAcross = (f: Fn, size: Node, tag: Node, found: (ptr: Node) => void): void => {
    const la = p(f, 1);
    const end = f.local(I64);
    const e = f.local(I32);
    const e2 = f.local(I32);
    const has = (entry: Local, at: Node): Node => i64.eq(ld.i64(i32.add(entry.get, tag)), i64.and(at, c64(-4096)));
    f.set(end, i64.add(la, i64.sub(i64.extend_u(size), c64(1))));
    f.set(e, tlbSlot(la, ld.i32(p(f, 0), S.TLB_DATA)));
    f.set(e2, tlbSlot(end.get, ld.i32(p(f, 0), S.TLB_DATA)));
    f.if(i32.and(i32.and(has(e, la), has(e2, end.get)), i32.eq(ld.i32(e.get, 24), ld.i32(e2.get, 24))), () =>
      found(i32.add(i32.wrap(la), ld.i32(e.get, 24))),
    );
  };
  const window = m.fn([I32, I64, I32, I32], I32, 'window');
  lookAcross(window, p(window, 2), p(window, 3), (ptr) => window.ret(ptr));
  window.emit(c32(0));
  const loadAgain = m.fn([I32, I64, I32], I64, 'loadAgain');
  {
    const f = loadAgain;
    const size = p(f, 2);
    const h = f.local(I32);
    look(f, size, c32(0), (ptr) => {
      f.set(h, ptr);
      f.if(i32.eq(size, c32(8)), () => f.ret(ld.i64(h.get)));
      f.if(i32.eq(size, c32(4)), () => f.ret(ld.i64_32u(h.get)));
      f.if(i32.eq(size, c32(2)), () => f.ret(ld.i64_16u(h.get)));
      f.ret(ld.i64_8u(h.get));
    });
    f.emit(call(mem.readMiss, p(f, 0), p(f, 1), size));
  }
  const storeAgain = m.fn([I32, I64, I64, I32], 0, 'storeAgain');
  {
    const f = storeAgain;
    const v = p(f, 2);
    const size = p(f, 3);
    const h = f.local(I32);
    look(f, size, c32(8), (ptr) => {
      f.set(h, ptr);
      f.if(i32.eq(size, c32(8)), () => f.st64(h.get, v));
      f.if(i32.eq(size, c32(4)), () => f.st32of64(h.get, v));
      f.if(i32.eq(size, c32(2)), () => f.st16(h.get, i32.wrap(v)));
      f.if(i32.eq(size, c32(1)), () => f.st8(h.get, i32.wrap(v)));
      f.ret();
    });
    f.do(call(mem.writeMiss, p(f, 0), p(f, 1), v, size));
  }
  const rmwAgain = m.fn([I32, I64, I32], I32, 'rmwAgain');
  {
    const f = rmwAgain;
    look(f, p(f, 2), c32(8), (ptr) => f.ret(ptr));
    f.emit(call(mem.rmwMiss, p(f, 0), p(f, 1), p(f, 2)));
  }
  const loadVector = m.fn([I32, I64], V128, 'loadVector');
  {
    const f = loadVector;
    const lo = f.local(I64);
    lookAcross(f, c32(16), c32(0), (ptr) => f.ret(ld.v128(ptr)));
    f.set(lo, call(loadAgain.ref, p(f, 0), p(f, 1), c32(8)));
    f.if(ld.i32(p(f, 0), S.FAULT), () => f.ret(simd(0x12, [lo.get])));
    const hi = call(loadAgain.ref, p(f, 0), i64.add(p(f, 1), c64(8)), c32(8));
    f.emit(simdLane(0x1e, 1, [simd(0x12, [lo.get]), hi], V128));
  }
  const storeVector = m.fn([I32, I64, V128], 0, 'storeVector');
  {
    const f = storeVector;
    const v = p(f, 2);
    lookAcross(f, c32(16), c32(8), (ptr) => {
      f.stV(ptr, v);
      f.ret();
    });
    f.do(call(mem.probe, p(f, 0), p(f, 1), c32(16), c32(S.ACC_WRITE)));
    f.if(ld.i32(p(f, 0), S.FAULT), () => f.ret());
    for (const half of [0, 1])
      f.do(call(storeAgain.ref, p(f, 0), i64.add(p(f, 1), c64(8 * half)), simdLane(0x1d, half, [v], I64), c32(8)));
  }
  return {
    window: window.ref,
    loadAgain: loadAgain.ref,
    storeAgain: storeAgain.ref,
    rmwAgain: rmwAgain.ref,
    loadVector: loadVector.ref,
    storeVector: storeVector.ref,
  };
}

/** What ADD, SUB and LEA move the stack pointer by; 0 if that is not known. */
function stackStep(n: Insn, native: number): number {
  if (n.opSize !== native || Math.abs(n.immLo) > 1 << 20) return 0;
  if ((n.op === OP.ADD || n.op === OP.SUB) && n.kind1 === Kind.Imm) return n.op === OP.ADD ? n.immLo : -n.immLo;
  const lea =
    n.op === OP.LEA && n.base === SP && n.index < 0 && n.ripRelative === 0 && n.addrSize === native && n.seg < 4;
  return lea && Math.abs(n.dispLo) < 1 << 20 && n.dispHi === n.dispLo >> 31 ? n.dispLo : 0;
}

/** Number of the operand in memory, or -1. */
function memoryOperand(n: Insn): number {
  return n.kind0 === Kind.Mem ? 0 : n.kind1 === Kind.Mem ? 1 : n.kind2 === Kind.Mem ? 2 : -1;
}

/** Whether all there is of the operands is of a known kind. */
function known(n: Insn): boolean {
  return (
    n.vsib === 0 && n.rep === 0 && KINDS.has(n.kind0) && KINDS.has(n.kind1) && KINDS.has(n.kind2) && KINDS.has(n.kind3)
  );
}

/** Gives windows with two uses and more a local from first to last use, as long as there are some. */
function assign(windows: readonly Window[], insns: number): (WindowUse | null)[] {
  let out = NONE;
  const until = new Array<number>(MAX_WINDOWS).fill(-1);
  for (const w of windows) {
    if (w.uses.length < 2) continue;
    if (out === NONE) out = new Array<WindowUse | null>(insns).fill(null);
    const first = w.uses[0]?.insn ?? 0;
    const last = w.uses[w.uses.length - 1]?.insn ?? 0;
    const slot = until.findIndex((end) => end < first);
    if (slot < 0) continue;
    until[slot] = last;
    const span = w.max - w.min;
    for (const { insn, disp, size, stack } of w.uses)
      out[insn] = {
        slot,
        at: disp - w.min,
        size,
        span,
        write: w.write,
        first: insn === first,
        last: insn === last,
        stack,
      };
  }
  return out;
}
