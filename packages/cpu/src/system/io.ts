// IN, OUT, INS, OUTS. Intel SDM vol. 1 chapter 19, vol. 2.
import type { Width } from '@hyve/core';
import { type Insn, Kind } from '@hyve/x86';
import * as S from '../state.ts';
import { type SysCtx, segmentedAccess } from './context.ts';
import { checkPorts } from './task.ts';

const PORT_IGNNE = 0xf0;
const FSW_ES = 0x80;
/** Iterations of a repeated INS or OUTS before events get a look in. */
export const STRING_BATCH = 128;

/** IN. */
export function input(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const port = i.kind1 === Kind.Imm ? i.immLo & 0xff : cpu.r16(2);
  const width = i.size0 as Width;
  checkPorts(c, port, width);
  const v = c.env.bus.ioRead(port, width);
  if (width === 4) cpu.setR32(0, v);
  else if (width === 2) cpu.setR16(0, v);
  else cpu.set(S.GPR, (cpu.get(S.GPR) & 0xffffff00) | (v & 0xff));
  return S.ST_NEXT;
}

/** OUT. */
export function output(c: SysCtx, i: Insn): number {
  const cpu = c.cpu;
  const port = i.kind0 === Kind.Imm ? i.immLo & 0xff : cpu.r16(2);
  const width = i.size1 as Width;
  checkPorts(c, port, width);
  const v = cpu.r32(0);
  c.env.bus.ioWrite(port, width, width === 4 ? v : width === 2 ? v & 0xffff : v & 0xff);
  // On a PC this puts IGNNE# up for as long as FERR# is up.
  if (port === PORT_IGNNE && (cpu.get(S.FSW) & FSW_ES) !== 0) cpu.set(S.IGNNE, 1);
  return S.ST_NEXT;
}

/** Adds `by` to a register in the width of the address size. */
function step(c: SysCtx, n: number, addrSize: number, by: number): void {
  const cpu = c.cpu;
  if (addrSize === 2) cpu.setR16(n, cpu.r16(n) + by);
  else if (addrSize === 4) cpu.setR32(n, cpu.r32(n) + by);
  else {
    const o = S.GPR + n * 8;
    const lo = cpu.get(o) + by;
    cpu.set64(o, lo, cpu.getHi(o) + (lo > 0xffffffff ? 1 : lo < 0 ? -1 : 0));
  }
}

/** Whether the repeat count has run out. */
function exhausted(c: SysCtx, addrSize: number): boolean {
  const cpu = c.cpu;
  if (addrSize === 2) return cpu.r16(1) === 0;
  return cpu.r32(1) === 0 && (addrSize === 4 || cpu.getHi(S.GPR + 8) === 0);
}

/** INS and OUTS, with or without REP. A long repetition returns to itself, so that it can be interrupted. */
export function stringIo(c: SysCtx, i: Insn, out: boolean): number {
  const cpu = c.cpu;
  const width = (out ? i.size1 : i.size0) as Width;
  const port = cpu.r16(2);
  const index = out ? 6 : 7;
  const size = i.addrSize;
  const by = cpu.get(S.EFL) & S.FLAG_DF ? -width : width;
  // The port is looked at even if there is nothing to do.
  checkPorts(c, port, width);
  if (i.rep !== 0 && exhausted(c, size)) return S.ST_NEXT;
  for (let n = 0; n < STRING_BATCH; n++) {
    const lo = size === 2 ? cpu.r16(index) : cpu.r32(index);
    const hi = size === 8 ? cpu.getHi(S.GPR + index * 8) | 0 : 0;
    const at = segmentedAccess(c, out ? i.seg : S.ES, lo, hi, width, !out);
    if (out) c.env.bus.ioWrite(port, width, cpu.read(at, width));
    else {
      cpu.probe(at, width, S.ACC_WRITE);
      cpu.write(at, width, c.env.bus.ioRead(port, width), S.ACC_WRITE);
    }
    step(c, index, size, by);
    if (i.rep === 0) return S.ST_NEXT;
    step(c, 1, size, -1);
    if (exhausted(c, size)) return S.ST_NEXT;
  }
  return S.ST_JUMP;
}
