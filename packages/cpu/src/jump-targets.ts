// Where indirect jumps and calls have gone, for the translator: the interpreter notes it, translation takes the targets into
// the jump's region. Only hints: what is read here is checked against the code TLB and the block counts.
import type { Layout } from './layout.ts';
import { c32, call, type FnRef, I32, i32, type Local, ld, type Module, type Node } from './wasm/builder.ts';

/** Sets and ways of the table; an entry is 8 bytes: low halves of the linear addresses of a jump and of a target of it. */
const SETS_LOG2 = 9;
const WAYS_LOG2 = 4;
/** Bytes of a table. */
export const JUMP_TARGETS_BYTES: number = 8 << (SETS_LOG2 + WAYS_LOG2);

/** 2^32 divided by the golden ratio (D. Knuth, The Art of Computer Programming 3, 6.4). */
const MULTIPLIER = 0x9e3779b1;
const SET_BYTES = 8 << WAYS_LOG2;

/** (jump, target): notes that the indirect jump, or call, at `jump` went to `target`, both the low halves of linear addresses. */
export function emitNoteJump(m: Module, L: Layout): FnRef {
  const f = m.fn([I32, I32], 0);
  const jump = (f.params[0] as Local).get;
  const target = (f.params[1] as Local).get;
  const set = f.local(I32);
  const way = f.local(I32);
  const tries = f.local(I32);
  const e = f.local(I32);
  const top = (v: typeof jump, bits: number): typeof jump => i32.shr_u(i32.mul(v, c32(MULTIPLIER)), c32(32 - bits));
  f.set(set, i32.add(c32(L.jumpTargets), i32.mul(top(jump, SETS_LOG2), c32(SET_BYTES))));
  f.set(way, top(target, WAYS_LOG2));
  f.loop((again) => {
    f.set(e, i32.add(set.get, i32.shl(i32.and(way.get, c32((1 << WAYS_LOG2) - 1)), c32(3))));
    f.if(i32.eq(ld.i32(e.get), jump), () => {
      f.if(i32.eq(ld.i32(e.get, 4), target), () => f.ret());
      // With more targets than ways, the last one looked at makes room.
      f.set(way, i32.add(way.get, c32(1)));
      f.set(tries, i32.add(tries.get, c32(1)));
      f.brIf(again, i32.lt_u(tries.get, c32(1 << WAYS_LOG2)));
    });
    f.st32(e.get, jump);
    f.st32(e.get, target, 4);
  });
  return f.ref;
}

/** Noted misses of a region after which it is made anew. */
const MISSES = 64;
/** Only every such miss is noted: a power of two. */
export const MISSES_NOTED = 16;
/** Jumps this far and farther leave the region in any case. */
export const FAR: number = 1 << 23;

/**
 * (base, cell, host, low, high, jump, target): an indirect jump of a region left it. The region is entered at `host`, in the
 * page at the linear address `low` and `high`; `cell` is the address of two i32 of its own, the second of which counts.
 */
export function emitMissed(m: Module, noteJump: FnRef, again: FnRef): FnRef {
  const f = m.fn([I32, I32, I32, I32, I32, I32, I32], 0);
  const [base, cell, host, low, high, jump, target] = f.params.map((p) => p.get) as [
    Node,
    Node,
    Node,
    Node,
    Node,
    Node,
    Node,
  ];
  const n = f.local(I32);
  f.if(i32.lt_u(i32.add(i32.sub(target, jump), c32(FAR)), c32(2 * FAR)), () => {
    f.do(call(noteJump, jump, target));
    f.set(n, i32.add(ld.i32(cell, 4), c32(1)));
    f.st32(cell, n.get, 4);
    f.if(i32.eq(n.get, c32(MISSES)), () => f.do(call(again, base, host, low, high)));
  });
  return f.ref;
}

/**
 * Distances from the indirect jump at `jump`, the low half of its linear address, to where it was seen to go. Other threads
 * may be writing to the table; any of the distances may be wrong.
 */
export function jumpTargets(words: Int32Array, L: Layout, jump: number): number[] {
  const set = (L.jumpTargets + (Math.imul(jump, MULTIPLIER) >>> (32 - SETS_LOG2)) * SET_BYTES) >> 2;
  const out: number[] = [];
  for (let way = 0; way < 1 << WAYS_LOG2; way++)
    if (words[set + 2 * way] === (jump | 0)) out.push(((words[set + 2 * way + 1] as number) - jump) | 0);
  return out;
}
