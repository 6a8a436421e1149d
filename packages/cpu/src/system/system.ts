// The system unit of a vCPU: everything that is too involved for WebAssembly. Intel SDM vol. 3A.
import type { VcpuStateV1 } from '@hyve/core';
import { type Insn, Kind, OP, OP_NAMES } from '@hyve/x86';
import { type CpuAccess, GUEST_FAULT } from '../access.ts';
import * as S from '../state.ts';
import { SysCtx, type SystemEnv } from './context.ts';
import * as control from './control.ts';
import * as desc from './descriptors.ts';
import * as events from './events.ts';
import * as far from './far.ts';
import * as io from './io.ts';
import * as msr from './msr.ts';
import { type ResetKind, reset, startup } from './reset.ts';
import { getState, type RunState, setState } from './snapshot.ts';
import * as xs from './xsave.ts';

type Handler = (c: SysCtx, i: Insn) => number;

const undefinedOp: Handler = (c) => c.cpu.ud();

/** One method per operation; all others are #UD. */
const ROWS: readonly (readonly [op: number, handler: Handler])[] = [
  [OP.JMPF, (c, i) => far.farTransfer(c, i, false)],
  [OP.CALLF, (c, i) => far.farTransfer(c, i, true)],
  [OP.RETF, far.farReturn],
  [OP.IRET, far.iret],
  [OP.INT, (c, i) => far.softInterrupt(c, i, i.immLo & 0xff, events.EventSource.Software)],
  [OP.INT3, (c, i) => far.softInterrupt(c, i, S.EXC_BP, events.EventSource.Int3)],
  [OP.INT1, (c, i) => far.softInterrupt(c, i, S.EXC_DB, events.EventSource.Int1)],
  [
    OP.INTO,
    (c, i) => (c.cpu.flags() & S.FLAG_OF ? far.softInterrupt(c, i, S.EXC_OF, events.EventSource.Int3) : S.ST_NEXT),
  ],
  [OP.BOUND, far.bound],
  [OP.ENTER, far.enter],
  [OP.PUSHF, far.pushf],
  [OP.POPF, far.popf],
  [OP.CLI, (c, i) => far.setInterruptFlag(c, i, false)],
  [OP.STI, (c, i) => far.setInterruptFlag(c, i, true)],
  [OP.CLAC, (c, i) => far.setAlignCheck(c, i, false)],
  [OP.STAC, (c, i) => far.setAlignCheck(c, i, true)],
  [OP.SYSCALL, far.syscall],
  [OP.SYSRET, far.sysret],
  [OP.SYSENTER, far.sysenter],
  [OP.SYSEXIT, far.sysexit],
  [OP.VMCALL, (c) => far.hypercall(c, false)],
  [OP.VMMCALL, (c) => far.hypercall(c, true)],

  [
    OP.MOV,
    (c, i) =>
      i.kind0 === Kind.Seg || i.kind1 === Kind.Seg
        ? desc.movSegment(c, i)
        : i.kind0 === Kind.Cr || i.kind1 === Kind.Cr
          ? control.movControl(c, i)
          : i.kind0 === Kind.Dr || i.kind1 === Kind.Dr
            ? control.movDebug(c, i)
            : c.cpu.ud(),
  ],
  [OP.PUSH, (c, i) => (i.kind0 === Kind.Seg ? desc.pushSegment(c, i) : c.cpu.ud())],
  [OP.POP, (c, i) => (i.kind0 === Kind.Seg ? desc.popSegment(c, i) : c.cpu.ud())],
  [OP.LES, (c, i) => desc.loadFarPointer(c, i, S.ES)],
  [OP.LDS, (c, i) => desc.loadFarPointer(c, i, S.DS)],
  [OP.LSS, (c, i) => desc.loadFarPointer(c, i, S.SS)],
  [OP.LFS, (c, i) => desc.loadFarPointer(c, i, S.FS)],
  [OP.LGS, (c, i) => desc.loadFarPointer(c, i, S.GS)],
  [OP.LAR, desc.lar],
  [OP.LSL, desc.lsl],
  [OP.VERR, (c, i) => desc.verify(c, i, false)],
  [OP.VERW, (c, i) => desc.verify(c, i, true)],
  [OP.ARPL, desc.arpl],
  [OP.SGDT, (c) => desc.storeTable(c, S.GDT_BASE, S.GDT_LIMIT)],
  [OP.SIDT, (c) => desc.storeTable(c, S.IDT_BASE, S.IDT_LIMIT)],
  [OP.LGDT, (c, i) => desc.loadTable(c, i, S.GDT_BASE, S.GDT_LIMIT)],
  [OP.LIDT, (c, i) => desc.loadTable(c, i, S.IDT_BASE, S.IDT_LIMIT)],
  [OP.SLDT, desc.sldt],
  [OP.LLDT, desc.lldt],
  [OP.STR, desc.str],
  [OP.LTR, desc.ltr],

  [OP.SMSW, control.smsw],
  [OP.LMSW, control.lmsw],
  [OP.CLTS, control.clts],
  [OP.INVLPG, control.invlpg],
  [OP.INVPCID, control.invpcid],
  [OP.INVD, control.writeBack],
  [OP.WBINVD, control.writeBack],
  [OP.WBNOINVD, control.writeBack],
  [OP.CLFLUSH, control.flushLine],
  [OP.CLFLUSHOPT, control.flushLine],
  [OP.CLWB, control.flushLine],
  [OP.HLT, control.halt],
  [OP.PAUSE, control.pause],
  [OP.SERIALIZE, () => S.ST_NEXT],

  [OP.RDMSR, msr.rdmsr],
  [OP.WRMSR, msr.wrmsr],
  [OP.CPUID, msr.cpuid],
  [OP.RDTSC, (c) => msr.rdtsc(c, false)],
  [OP.RDTSCP, (c) => msr.rdtsc(c, true)],
  [OP.RDPID, msr.rdpid],
  [OP.RDPMC, msr.rdpmc],
  [OP.RDRAND, msr.random],
  [OP.RDSEED, msr.random],
  [OP.SWAPGS, msr.swapgs],
  [OP.RDFSBASE, (c, i) => msr.segmentBase(c, i, S.FS, false)],
  [OP.RDGSBASE, (c, i) => msr.segmentBase(c, i, S.GS, false)],
  [OP.WRFSBASE, (c, i) => msr.segmentBase(c, i, S.FS, true)],
  [OP.WRGSBASE, (c, i) => msr.segmentBase(c, i, S.GS, true)],

  [OP.IN, io.input],
  [OP.OUT, io.output],
  [OP.INS, (c, i) => io.stringIo(c, i, false)],
  [OP.OUTS, (c, i) => io.stringIo(c, i, true)],

  [OP.FXSAVE, xs.fxsave],
  [OP.FXRSTOR, xs.fxrstor],
  [OP.XSAVE, (c, i) => xs.xsave(c, i, false, false)],
  [OP.XSAVEOPT, (c, i) => xs.xsave(c, i, true, false)],
  [OP.XSAVEC, (c, i) => xs.xsave(c, i, true, true)],
  [OP.XRSTOR, xs.xrstor],
  [OP.XGETBV, xs.xgetbv],
  [OP.XSETBV, xs.xsetbv],
];

function buildTable(): readonly Handler[] {
  const table: Handler[] = new Array<Handler>(OP_NAMES.length).fill(undefinedOp);
  for (const [op, handler] of ROWS) table[op] = handler;
  return table;
}

const TABLE: readonly Handler[] = buildTable();

/**
 * Runs system instructions, delivers events, and converts state for one vCPU.
 *
 * Not modelled: VME and PVI, CET, protection keys, LA57, VMX, SMM, performance counters, MONITOR/MWAIT, XSAVES; parameters
 * in gate calls are read before the new stack is written, even where the two overlap.
 *
 * @example
 * const unit = new SystemUnit(cpu, env);
 * unit.reset('power-on');
 * cpu.setAddr(S.RIP, rip); // of the running instruction
 * const status = unit.exec(insn); // ST_NEXT, ST_JUMP, ST_EXIT, or GUEST_FAULT is thrown
 */
export class SystemUnit {
  private readonly c: SysCtx;

  /** @param cpu state and memory; its port is needed from the first call on */
  constructor(cpu: CpuAccess, env: SystemEnv) {
    this.c = new SysCtx(cpu, env);
  }

  /**
   * Runs one instruction. RIP must be its address; after ST_NEXT it still is, after ST_JUMP and ST_EXIT it is where to go
   * on. Throws GUEST_FAULT with FAULT set when the instruction faults; RIP is unchanged then. Faults that a task switch
   * raises in the new task are delivered here.
   */
  exec(insn: Insn): number {
    const c = this.c;
    c.ext = 0;
    c.pushCount = 0;
    c.switched = false;
    try {
      return TABLE[insn.op](c, insn);
    } catch (e) {
      if (e !== GUEST_FAULT || !c.switched) throw e;
      return this.faultInNewTask();
    }
  }

  private faultInNewTask(): number {
    const cpu = this.c.cpu;
    const vector = cpu.get(S.FAULT) - 1;
    const code = cpu.get(S.FAULT_CODE);
    const result = this.deliver(vector, events.EventSource.Exception, events.hasErrorCode(vector), code);
    if (result === events.DELIVERED) return S.ST_JUMP;
    cpu.set(S.EXIT_CODE, S.EX_SHUTDOWN);
    return S.ST_EXIT;
  }

  /** Whether {@link SystemUnit.exec} does more for `op` than raise #UD. */
  static handles(op: number): boolean {
    return op >= 0 && op < TABLE.length && TABLE[op] !== undefinedOp;
  }

  /**
   * Delivers an event with RIP as the return address, and the exceptions that come of it. #PF takes CR2 from FAULT_ADDR;
   * #DB takes the DR6 bits to set from `errorCode`, with DEBUG_FAULT added for an instruction breakpoint.
   * @param hasError whether an error code is pushed; see {@link hasErrorCode}
   * @returns DELIVERED or SHUTDOWN
   */
  deliver(vector: number, source: events.EventSource, hasError: boolean, errorCode: number): number {
    return events.deliver(this.c, vector, source, hasError, errorCode);
  }

  /** Power-on reset or INIT. */
  reset(kind: ResetKind): void {
    reset(this.c, kind);
  }

  /** SIPI, after INIT. */
  startup(vector: number): void {
    startup(this.c, vector);
  }

  /** The whole state; `run` is what the run loop keeps. */
  getState(run: RunState): VcpuStateV1 {
    return getState(this.c, run);
  }

  /**
   * Writes the whole state but for what {@link RunState} names.
   * @throws HyveError `VCPU_STATE` for what the processor cannot be in
   */
  setState(s: VcpuStateV1): void {
    setState(this.c, s);
  }
}
