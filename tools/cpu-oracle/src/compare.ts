// Whether two outcomes of a program are the same, as far as the manuals promise.
import { Decoder, format, Insn, OP_NAMES, ROWS, type Row, Status } from '@hyve/x86';
import { family, type Program } from './generate.ts';
import * as L from './layout.ts';
import { ENDS, operationOf, stepAt, unsettled } from './leeway.ts';

/** Flags compared: status, TF, DF, NT, AC, ID. */
const FLAGS = 0x8d5 | 0x100 | 0x400 | 0x4000 | 0x40000 | 0x200000;
const REGISTERS = [
  'rax',
  'rcx',
  'rdx',
  'rbx',
  'rsp',
  'rbp',
  'rsi',
  'rdi',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
];

/** What to leave out of the floating-point part. */
export interface FloatRules {
  /** Compare x87, MMX and SSE state at all. */
  readonly compare: boolean;
}

const hex = (v: number | bigint): string => `0x${v.toString(16)}`;

/** One difference. */
export interface Difference {
  readonly what: string;
  readonly native: string;
  readonly soft: string;
}

/** Bits of the x87 status word that are compared after a program. */
export type StatusMask = (p: Program) => number;

/** What takes a pending x87 exception away without raising it. */
const FORGETS = /^(F?XRSTOR|FNINIT|FNCLEX|FNSAVE|FNSTENV)$/;

/** Compares two records of a program. Empty: the same. */
export function compare(p: Program, native: Uint8Array, soft: Uint8Array, all = true): Difference[] {
  const out: Difference[] = [];
  for (let i = 0; i < p.ignored.length; i += 2) {
    const at = p.ignored[i] as number;
    for (let k = 0; k < (p.ignored[i + 1] as number); k++) soft[at + k] = native[at + k] as number;
  }
  const n = new DataView(native.buffer, native.byteOffset, L.REC_SIZE);
  const s = new DataView(soft.buffer, soft.byteOffset, L.REC_SIZE);
  const differ = (what: string, a: number | bigint, b: number | bigint): void => {
    if (a !== b) out.push({ what, native: hex(a), soft: hex(b) });
  };
  const u64 = (v: DataView, at: number): bigint => v.getBigUint64(at, true);
  // A program that does not end is given up on both sides; where each was by then is chance.
  const endless = n.getBigUint64(L.REC.signal, true) === L.SIGALRM;
  const trap = endless ? L.TRAP_HANG : n.getUint32(L.REC.trap, true);
  if (endless && s.getUint32(L.REC.trap, true) === L.TRAP_HANG) return out;
  const softTrap = s.getUint32(L.REC.trap, true);
  // No outcome: a stack pointer that by chance lay in the runner took it down. And which vector accesses are checked for
  // alignment is up to the processor (POPF may have set AC).
  if (n.getUint16(L.REC.cs, true) === 0 || ((trap === 17 || softTrap === 17) && floating(p))) return out;
  const faulted = (v: DataView): string => operationOf(stepAt(p, Number(u64(v, L.REC.rip))));
  if (trap !== softTrap || u64(n, L.REC.rip) !== u64(s, L.REC.rip)) {
    const ends = {
      op: softTrap === 3 ? faulted(n) : faulted(s),
      bits: p.mode,
      native: trap,
      soft: softTrap,
      pending: (n.getUint16(L.REC.fx + 2, true) & 0x80) !== 0 || p.steps.some((x) => FORGETS.test(operationOf(x))),
      narrow: n.getUint16(L.REC.cs, true) === L.CS32,
    };
    if (ENDS.some((e) => e.applies(ends))) return out;
  }
  differ('trap', trap, softTrap);
  if (trap !== softTrap) {
    differ('rip', u64(n, L.REC.rip), u64(s, L.REC.rip));
    return out;
  }
  const open = unsettled(trap === 3 ? '' : faulted(n));
  differ('rip', u64(n, L.REC.rip), u64(s, L.REC.rip));
  // The kernel says "present" of every address of its own, so as not to tell which are.
  const kernel = trap === 14 && u64(n, L.REC.cr2) >= 0x7fff_ffff_f000n;
  const errMask = kernel ? ~1 : ~0;
  if (!open.has('error code'))
    differ('error code', n.getUint32(L.REC.err, true) & errMask, s.getUint32(L.REC.err, true) & errMask);
  if (trap === 14 && p.faultAddress && !open.has('cr2')) differ('cr2', u64(n, L.REC.cr2), u64(s, L.REC.cr2));
  for (let r = 0; r < (p.mode === 64 ? 16 : 8); r++) {
    const at = L.GPR_AT[r] as number;
    // In 32-bit code the upper halves are undefined; the stack pointer's is gone on some processors.
    const narrow = r === 4 && n.getUint16(L.REC.cs, true) === L.CS32;
    if (p.mode === 64 && !narrow) {
      if (n.getInt32(at, true) !== s.getInt32(at, true) || n.getInt32(at + 4, true) !== s.getInt32(at + 4, true))
        differ(REGISTERS[r] as string, u64(n, at), u64(s, at));
    } else differ(`e${(REGISTERS[r] as string).slice(1)}`, n.getUint32(at, true), s.getUint32(at, true));
  }
  const mask = open.has('flags') ? 0 : FLAGS & ~p.undefinedFlags;
  const nf = n.getUint32(L.REC.flags, true) & mask;
  const sf = s.getUint32(L.REC.flags, true) & mask;
  if (nf !== sf) out.push({ what: 'flags', native: flagText(nf), soft: flagText(sf) });
  differ('cs', n.getUint16(L.REC.cs, true), s.getUint16(L.REC.cs, true));
  ['ds', 'es', 'fs', 'gs'].forEach((name, i) => {
    const at = L.REC.selectors + 2 * i;
    // Null selectors lose their RPL on the way to the signal handler.
    const value = (v: DataView): number => (v.getUint16(at, true) < 4 ? 0 : v.getUint16(at, true));
    differ(name, value(n), value(s));
  });
  differ('fs base', u64(n, L.REC.fsBase), u64(s, L.REC.fsBase));
  differ('gs base', u64(n, L.REC.gsBase), u64(s, L.REC.gsBase));
  differ('ss', n.getUint16(L.REC.cs + 6, true), s.getUint16(L.REC.cs + 6, true));
  const memory = (what: string, from: number, length: number): void => {
    for (let i = 0; i < length; i += 4) {
      if (n.getInt32(from + i, true) !== s.getInt32(from + i, true)) {
        let last = i;
        while (last + 4 < length && n.getInt32(from + last + 4, true) !== s.getInt32(from + last + 4, true)) last += 4;
        const text = (r: Uint8Array): string =>
          Array.from(r.subarray(from + i, Math.min(from + last + 4, from + i + 64)), (b) =>
            b.toString(16).padStart(2, '0'),
          ).join(' ');
        out.push({ what: `${what}+${hex(i)}`, native: text(native), soft: text(soft) });
        i = last;
      }
    }
  };
  if (!open.has('memory')) {
    memory('data', L.REC.data, L.DATA_LENGTH);
    memory('tail', L.REC.tail, L.TAIL_LENGTH);
    memory('stack', L.REC.stack, L.STACK_LENGTH);
  }
  if (!all) return out;
  const fx = L.REC.fx;
  const x87 = !open.has('x87');
  if (x87) differ('fcw', n.getUint16(fx, true), s.getUint16(fx, true));
  // C1 tells which way the last place was rounded; PE may be set for results that happen to be exact, and UE for such
  // results that are tiny. Unmasked, either makes an exception pending.
  let status = p.approximate === 'x87' ? ~0x230 : ~0;
  if (p.approximate === 'x87' && (n.getUint16(fx, true) & 0x30) !== 0x30) status &= ~0x8080;
  if (x87) differ('fsw', n.getUint16(fx + 2, true) & status, s.getUint16(fx + 2, true) & status);
  if (x87) differ('ftw', n.getUint8(fx + 4), s.getUint8(fx + 4));
  if (!open.has('mxcsr')) differ('mxcsr', n.getUint32(fx + 24, true), s.getUint32(fx + 24, true));
  // Where underflow is unmasked, a result counts as tiny, and is scaled, or as exact, as it comes.
  const inexact = p.approximate === 'x87' || p.steps.some((x) => /^FPREM/.test(operationOf(x)));
  const scaled = inexact && (n.getUint16(fx, true) & 0x10) === 0;
  for (let i = 0; x87 && !scaled && i < 8; i++) {
    const at = fx + 32 + i * 16;
    const value = (v: DataView): bigint => u64(v, at) | (BigInt(v.getUint16(at + 8, true)) << 64n);
    if (
      n.getInt32(at, true) !== s.getInt32(at, true) ||
      n.getInt32(at + 4, true) !== s.getInt32(at + 4, true) ||
      n.getUint16(at + 8, true) !== s.getUint16(at + 8, true)
    )
      if (p.approximate !== 'x87' || !within(value(n), value(s), 1n)) differ(`st${i}`, value(n), value(s));
  }
  const near = (a: DataView, b: DataView, at: number): boolean =>
    open.has('xmm') ||
    (p.approximate === 'estimate' && estimates(a, b, at)) ||
    (p.approximate === 'nan' && nans(a, b, at));
  for (let i = 0; i < (p.mode === 64 ? 16 : 8); i++) {
    const at = fx + 160 + i * 16;
    for (let w = 0; w < 16; w += 4) {
      if (n.getInt32(at + w, true) !== s.getInt32(at + w, true)) {
        const value = (v: DataView): bigint => u64(v, at) | (u64(v, at + 8) << 64n);
        if (!near(n, s, at)) differ(`xmm${i}`, value(n), value(s));
        break;
      }
    }
  }
  for (let i = 0; i < (p.mode === 64 ? 16 : 8); i++) {
    const at = L.REC.ymmh + i * 16;
    const value = (v: DataView): bigint => u64(v, at) | (u64(v, at + 8) << 64n);
    const same = value(n) === value(s) || near(n, s, at);
    if (!same) differ(`ymmh${i}`, value(n), value(s));
  }
  return out;
}

/** Whether two 80-bit values of one sign are at most so many units in the last place apart. */
function within(a: bigint, b: bigint, ulps: bigint): boolean {
  // As one number, the integer bit left out: steps across a power of two count once.
  const line = (v: bigint): bigint => ((v >> 64n) << 63n) | (v & 0x7fff_ffff_ffff_ffffn);
  const d = line(a) - line(b);
  return d <= ulps && -d <= ulps;
}

/** Whether the singles of two vectors are equal but for twice the error that RCPPS may make. */
function estimates(n: DataView, s: DataView, at: number): boolean {
  for (let w = 0; w < 16; w += 4) {
    if (n.getInt32(at + w, true) === s.getInt32(at + w, true)) continue;
    const a = n.getFloat32(at + w, true);
    const b = s.getFloat32(at + w, true);
    // Tiny results are flushed to zero: of two estimates of the least normal number one may be.
    const least = 2 ** -126;
    const flushed = (x: number, y: number): boolean => x === 0 && Math.abs(y) <= least * (1 + 3 * 2 ** -12);
    if (Math.sign(1 / a) === Math.sign(1 / b) && (flushed(a, b) || flushed(b, a))) continue;
    if (!(Math.abs(a - b) <= Math.abs(a) * 3 * 2 ** -12)) return false;
  }
  return true;
}

/** Whether the singles or the doubles of two vectors are equal but for which NaN they are. */
function nans(n: DataView, s: DataView, at: number): boolean {
  const same = (size: number, value: (v: DataView, at: number) => number): boolean => {
    for (let w = at; w < at + 16; w += size) {
      const [a, b] = [value(n, w), value(s, w)];
      if (!Object.is(a, b) && !(Number.isNaN(a) && Number.isNaN(b))) return false;
    }
    return true;
  };
  return same(4, (v, w) => v.getFloat32(w, true)) || same(8, (v, w) => v.getFloat64(w, true));
}

/** Flags by letter. */
export function flagText(f: number): string {
  const names: readonly (readonly [number, string])[] = [
    [0, 'CF'],
    [2, 'PF'],
    [4, 'AF'],
    [6, 'ZF'],
    [7, 'SF'],
    [8, 'TF'],
    [10, 'DF'],
    [11, 'OF'],
    [14, 'NT'],
    [18, 'AC'],
    [21, 'ID'],
  ];
  const set = names.filter(([bit]) => (f >> bit) & 1).map(([, name]) => name);
  return `${set.join(' ')}${set.length > 0 ? ' ' : ''}(${hex(f >>> 0)})`;
}

/** The program as text, an instruction a line. */
export function listing(p: Program): string[] {
  const decoder = new Decoder();
  const insn = new Insn();
  let at = p.start;
  return p.steps.map((s) => {
    at += s.skip ?? 0;
    const ok = decoder.decode(insn, s.bytes, 0, s.bytes.length, p.mode) === Status.Ok;
    const bytes = Array.from(s.bytes, (b) => b.toString(16).padStart(2, '0')).join(' ');
    const line = `  ${hex(at)}: ${bytes.padEnd(36)} ${ok ? format(insn, at) : '(bad)'}`;
    at += s.bytes.length;
    return line;
  });
}

/** Everything about a difference: program, initial state, both results. */
export function report(
  p: Program,
  input: Uint8Array,
  native: Uint8Array,
  soft: Uint8Array,
  seed: number,
  all = true,
): string {
  const v = new DataView(input.buffer, input.byteOffset, L.REC_SIZE);
  const n = new DataView(native.buffer, native.byteOffset, L.REC_SIZE);
  const s = new DataView(soft.buffer, soft.byteOffset, L.REC_SIZE);
  const lines = [`seed ${seed}, ${p.mode}-bit:`, ...listing(p)];
  lines.push(
    `  flags ${flagText(v.getUint32(L.REC.flags, true) & FLAGS)}${p.undefinedFlags ? `, undefined after: ${flagText(p.undefinedFlags)}` : ''}`,
  );
  let row = '';
  for (let r = 0; r < (p.mode === 64 ? 16 : 8); r++) {
    row += ` ${(REGISTERS[r] as string).padStart(4)}=${v
      .getBigUint64(L.GPR_AT[r] as number, true)
      .toString(16)
      .padStart(p.mode === 64 ? 16 : 8, '0')}`;
    if (r % 4 === 3) {
      lines.push(` ${row}`);
      row = '';
    }
  }
  if (all && floating(p)) {
    const fx = L.REC.fx;
    lines.push(
      `  fcw=${hex(v.getUint16(fx, true))} fsw=${hex(v.getUint16(fx + 2, true))} ftw=${hex(v.getUint8(fx + 4))} mxcsr=${hex(v.getUint32(fx + 24, true))}`,
    );
    for (let i = 0; i < 8; i++)
      lines.push(
        `  st${i}=${v
          .getUint16(fx + 40 + i * 16, true)
          .toString(16)
          .padStart(4, '0')}:${v
          .getBigUint64(fx + 32 + i * 16, true)
          .toString(16)
          .padStart(16, '0')}` +
          `  ${[i, i + 8].map((x) => `xmm${x}=${(v.getBigUint64(fx + 160 + x * 16, true) | (v.getBigUint64(fx + 168 + x * 16, true) << 64n)).toString(16).padStart(32, '0')}`).join(' ')}`,
      );
  }
  lines.push(
    `  native: trap ${n.getUint32(L.REC.trap, true)} rip ${hex(n.getBigUint64(L.REC.rip, true))}   soft: trap ${s.getUint32(L.REC.trap, true)} rip ${hex(s.getBigUint64(L.REC.rip, true))}`,
  );
  for (const d of compare(p, native, soft, all)) lines.push(`  ${d.what}: native ${d.native}, soft ${d.soft}`);
  return lines.join('\n');
}

/** Whether a program has a floating-point or vector instruction. */
export function floating(p: Program): boolean {
  return p.steps.some((s) => family(ROWS[s.row] as Row) !== 'int');
}

/** Name of the operation of a step. */
export function operation(bytes: Uint8Array, mode: 32 | 64): string {
  const insn = new Insn();
  return new Decoder().decode(insn, bytes, 0, bytes.length, mode) === Status.Ok ? (OP_NAMES[insn.op] as string) : '?';
}
