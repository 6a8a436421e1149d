// A vCPU's state between core's VcpuStateV1 and KVM's structures. For set-up, saving and debuggers; bigint is fine here.
import { type DebugRequest, HyveError, type SegmentState, type VcpuStateV1 } from '@hyve/core';
import * as K from './bits.ts';
import type { RawLocalApic } from './chips.ts';
import type { Native, VcpuHandle } from './native.ts';

const CR0_PE = 1n << 0n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;
const ATTR_UNUSABLE = 1 << 16;
/** Counts within which a TSC is what it was set to, and vCPUs that were set one after the other are taken for equal. */
const TSC_SLACK = 4_000_000n;
const XSAVE_HEADER = 512;
const XSAVE_LEGACY = 576;

/** The parts that the kernel does not keep without a local APIC of its own. */
export type Kept = Pick<VcpuStateV1, 'activity' | 'injected'>;

/** Reads and writes states of one vCPU. */
export class StateAccess {
  private readonly native: Native;
  private readonly vcpu: VcpuHandle;
  private readonly regs = part(K.SIZE_REGS);
  private readonly sregs = part(K.SIZE_SREGS);
  private readonly xsave = part(K.SIZE_XSAVE);
  private readonly xcrs = part(K.SIZE_XCRS);
  private readonly debug = part(K.SIZE_DEBUGREGS);
  private readonly events = part(K.SIZE_EVENTS);
  /** Bytes of the XSAVE area for each set of XCR0 bits that the guest's CPUID offers. */
  private readonly components: readonly XsaveComponent[];
  /** Of SAVED_MSRS, those that this kernel has. */
  private readonly msrs: readonly number[];

  /** @param components from CPUID leaf 0xD @param extra MSRs of the para-virtual interface, saved too */
  constructor(native: Native, vcpu: VcpuHandle, components: readonly XsaveComponent[], extra: readonly number[] = []) {
    this.native = native;
    this.vcpu = vcpu;
    this.components = components;
    this.msrs = [...extra, ...K.SAVED_MSRS].filter((i) => this.readMsr(i) !== null);
  }

  private take(kind: number, p: Part, what: string): DataView {
    const r = this.native.get(this.vcpu, kind, p.bytes);
    if (r < 0) throw new HyveError('KVM', `reading ${what} of a vCPU failed with error ${-r}`);
    return p.view;
  }

  private put(kind: number, p: Part, what: string): void {
    const r = this.native.set(this.vcpu, kind, p.bytes);
    if (r < 0) throw new HyveError('VCPU_STATE', `KVM does not take ${what} (error ${-r})`);
  }

  /** An MSR's value, or null if the kernel does not have it. */
  readMsr(index: number): bigint | null {
    const list = msrList([[index, 0n]]);
    const r = this.native.get(this.vcpu, K.PART_MSRS, list.bytes);
    return r === 1 ? list.view.getBigUint64(16, true) : null;
  }

  /** Where the next instruction is, and how its address is found. */
  position(): { rip: bigint; linear: bigint; bits: 16 | 32 | 64 } {
    const rip = this.take(K.PART_REGS, this.regs, 'registers').getBigUint64(K.REGS_RIP, true);
    const s = this.take(K.PART_SREGS, this.sregs, 'segments');
    const cs = readSegment(s, 0);
    const long = (s.getBigUint64(K.SREGS_EFER, true) & EFER_LMA) !== 0n && (cs.attr & (1 << 13)) !== 0;
    return {
      rip,
      linear: long ? rip : (cs.base + rip) & 0xffffffffn,
      bits: long ? 64 : cs.attr & (1 << 14) ? 32 : 16,
    };
  }

  /** Guest-physical address behind a linear one, or -1. */
  translate(linear: bigint): number {
    const p = part(K.SIZE_TRANSLATE);
    p.view.setBigUint64(0, linear, true);
    if (this.native.get(this.vcpu, K.PART_TRANSLATE, p.bytes) < 0 || p.view.getUint8(16) === 0) return -1;
    const at = p.view.getBigUint64(8, true);
    return at < 1n << 52n ? Number(at) : -1;
  }

  /** Whether an NMI waits in the kernel, and whether for the end of another one (`blocked`). */
  nmi(): 'none' | 'blocked' | 'due' {
    const e = this.take(K.PART_EVENTS, this.events, 'events');
    if ((e.getUint8(K.EVENTS_NMI_PENDING) | e.getUint8(K.EVENTS_NMI_INJECTED)) === 0) return 'none';
    return e.getUint8(K.EVENTS_NMI_MASKED) !== 0 ? 'blocked' : 'due';
  }

  /** KVM_MP_STATE_, where the kernel has the local APIC. */
  mpState(): number {
    const p = part(4);
    return this.take(K.PART_MP_STATE, p, 'the state of a processor').getUint32(0, true);
  }

  /** Sets it. */
  setMpState(state: number): void {
    const p = part(4);
    p.view.setUint32(0, state, true);
    this.put(K.PART_MP_STATE, p, `processor state ${state}`);
  }

  /** Writes an MSR. @throws HyveError `VCPU_STATE` */
  writeMsr(index: number, value: bigint): void {
    this.setMsrs([[index, value]], [index]);
  }

  /** How far the guest's TSC is ahead of the host's, modulo 2^64; null before Linux 5.16. */
  tscOffset(): bigint | null {
    const p = part(K.SIZE_TSC_OFFSET);
    return this.native.get(this.vcpu, K.PART_TSC_OFFSET, p.bytes) < 0 ? null : p.view.getBigUint64(0, true);
  }

  /**
   * Makes the guest's TSC `value`, and gives the offset that it has then (null: the kernel has none). With another vCPU's
   * `offset` it stays `behind` that one's by so much. The MSR is not the way where there is another: KVM takes values within
   * a second of its own for attempts to synchronize vCPUs, and changes nothing.
   */
  setTsc(value: bigint, offset: bigint | null = null, behind = 0n): bigint | null {
    const p = part(K.SIZE_TSC_OFFSET);
    const mine = this.tscOffset();
    if (mine === null) {
      this.writeMsr(K.MSR_TSC, value);
      return null;
    }
    const next = offset === null ? mine + value - (this.readMsr(K.MSR_TSC) ?? 0n) : offset - behind;
    p.view.setBigUint64(0, u64(next), true);
    this.put(K.PART_TSC_OFFSET, p, `TSC offset 0x${hex(u64(next))}`);
    return u64(next);
  }

  /** After the MSR was set: whether KVM took it at its word, within a millisecond or so; else the offset is set. */
  correctTsc(value: bigint): void {
    const off = (this.readMsr(K.MSR_TSC) ?? value) - value;
    if (off < -TSC_SLACK || off > TSC_SLACK) this.setTsc(value);
  }

  /** The kernel's local APIC. */
  localApic(): RawLocalApic {
    const page = part(K.SIZE_LAPIC);
    this.take(K.PART_LAPIC, page, 'the local APIC');
    const base = this.take(K.PART_SREGS, this.sregs, 'segments').getBigUint64(K.SREGS_APIC_BASE, true);
    return { page: page.bytes, base, deadline: this.readMsr(K.MSR_TSC_DEADLINE) ?? 0n };
  }

  /** Sets it. The base comes first: it says in which mode the page is; the deadline last, as the mode of the timer decides. */
  setLocalApic(raw: RawLocalApic): void {
    const sregs = this.take(K.PART_SREGS, this.sregs, 'segments');
    if (sregs.getBigUint64(K.SREGS_APIC_BASE, true) !== raw.base) {
      sregs.setBigUint64(K.SREGS_APIC_BASE, raw.base, true);
      this.put(K.PART_SREGS, this.sregs, `a local APIC at 0x${hex(raw.base)}`);
    }
    const page = part(K.SIZE_LAPIC);
    page.bytes.set(raw.page);
    this.put(K.PART_LAPIC, page, 'the local APIC');
    const timer = page.view.getUint32(K.APIC_LVT[1] as number, true);
    if (((timer >>> K.APIC_TIMER_MODE_SHIFT) & 3) === K.APIC_TIMER_DEADLINE)
      this.writeMsr(K.MSR_TSC_DEADLINE, raw.deadline);
  }

  /** The kernel's debugger registers. @throws HyveError `VCPU_DEBUG` */
  setGuestDebug(request: DebugRequest | null): void {
    const p = part(K.SIZE_GUEST_DEBUG);
    if (request !== null) {
      const { control, registers } = debugRegisters(request);
      p.view.setUint32(0, control, true);
      registers.forEach((v, i) => {
        p.view.setBigUint64(K.DEBUG_REGISTERS + 8 * i, v, true);
      });
    }
    const r = this.native.set(this.vcpu, K.PART_GUEST_DEBUG, p.bytes);
    if (r < 0) throw new HyveError('VCPU_DEBUG', `KVM does not take these breakpoints (error ${-r})`);
  }

  /** The vector of an interrupt that the kernel's own controllers gave and that was not delivered yet, or -1. */
  injected(): number {
    const e = this.take(K.PART_EVENTS, this.events, 'events');
    if (e.getUint8(K.EVENTS_INTERRUPT_INJECTED) === 0 || e.getUint8(K.EVENTS_INTERRUPT_SOFT) !== 0) return -1;
    return e.getUint8(K.EVENTS_INTERRUPT_NR);
  }

  /** Whether the last instruction holds interrupts off for one more, as of the last look at {@link StateAccess.injected}. */
  shadow(): boolean {
    return this.events.view.getUint8(K.EVENTS_INTERRUPT_SHADOW) !== 0;
  }

  /** Takes back an interrupt that was given to the kernel and not delivered: its vector, or -1. */
  takeBackInterrupt(): number {
    const vector = this.injected();
    if (vector < 0) return -1;
    const e = this.events.view;
    e.setUint8(K.EVENTS_INTERRUPT_INJECTED, 0);
    e.setUint32(K.EVENTS_FLAGS, K.EVENTS_FLAG_NMI_PENDING | K.EVENTS_FLAG_SHADOW, true);
    this.put(K.PART_EVENTS, this.events, 'events');
    return vector;
  }

  /** The whole state; what the kernel does not keep is passed in. */
  get(kept: Kept): VcpuStateV1 {
    const regs = this.take(K.PART_REGS, this.regs, 'registers');
    const s = this.take(K.PART_SREGS, this.sregs, 'segments');
    const debug = this.take(K.PART_DEBUGREGS, this.debug, 'debug registers');
    const events = this.take(K.PART_EVENTS, this.events, 'events');
    this.take(K.PART_XSAVE, this.xsave, 'the FPU');
    this.settleXsave();
    const xcr0 = this.take(K.PART_XCRS, this.xcrs, 'XCR0');
    const big = (at: number): bigint => s.getBigUint64(at, true);
    const table = (at: number) => ({ base: big(at), limit: s.getUint16(at + 8, true) });
    const list = msrList(this.msrs.map((i) => [i, 0n]));
    const r = this.native.get(this.vcpu, K.PART_MSRS, list.bytes);
    if (r !== this.msrs.length) throw new HyveError('KVM', `reading MSRs of a vCPU gave ${r} of ${this.msrs.length}`);
    const mask = xcr0.getUint32(0, true) > 0 ? xcr0.getBigUint64(16, true) : 1n;
    return {
      v: 3,
      gpr: K.REGS_ORDER.map((n) => regs.getBigUint64(8 * n, true)),
      rip: regs.getBigUint64(K.REGS_RIP, true),
      rflags: regs.getBigUint64(K.REGS_RFLAGS, true),
      cr0: big(K.SREGS_CR0),
      cr2: big(K.SREGS_CR2),
      cr3: big(K.SREGS_CR3),
      cr4: big(K.SREGS_CR4),
      efer: big(K.SREGS_EFER),
      xcr0: mask,
      dr: [0, 1, 2, 3, 4, 5].map((n) => debug.getBigUint64(8 * n, true)),
      segments: K.SREGS_ORDER.map((n) => readSegment(s, n)),
      gdtr: table(K.SREGS_GDT),
      idtr: table(K.SREGS_IDT),
      xsave: this.xsave.bytes.slice(0, this.xsaveSize(mask)),
      msrs: this.msrs.map((i, n) => [i, list.view.getBigUint64(16 + 16 * n, true)]),
      activity: kept.activity,
      interruptShadow: events.getUint8(K.EVENTS_INTERRUPT_SHADOW) !== 0,
      nmiBlocked: events.getUint8(K.EVENTS_NMI_MASKED) !== 0,
      nmiPending: (events.getUint8(K.EVENTS_NMI_PENDING) | events.getUint8(K.EVENTS_NMI_INJECTED)) !== 0,
      ...(kept.injected === undefined ? {} : { injected: kept.injected }),
      // Processors that KVM runs on have deprecated them (CPUID.7.EBX bit 13), and its XSAVE image has no room for them.
      x87Selectors: [0, 0],
    };
  }

  /**
   * Which components the processor tracks as in use depends on when the host last saved them. The kernel fills in the
   * initial values of those that are not: equal contents get equal headers.
   */
  private settleXsave(): void {
    const { bytes, view } = this.xsave;
    let used = 3n;
    for (const c of this.components)
      if (bytes.subarray(c.offset, c.offset + c.size).some((b) => b !== 0)) used |= 1n << BigInt(c.bit);
    view.setBigUint64(XSAVE_HEADER, used, true);
  }

  private xsaveSize(xcr0: bigint): number {
    let size = XSAVE_LEGACY;
    for (const c of this.components) if ((xcr0 >> BigInt(c.bit)) & 1n) size = Math.max(size, c.offset + c.size);
    return Math.min(size, K.SIZE_XSAVE);
  }

  /**
   * Writes everything but `activity`, and `injected` only where the kernel has the local APIC (`own` false).
   * @throws HyveError `VCPU_STATE`
   */
  set(s: VcpuStateV1, own: boolean): void {
    check(s);
    const { regs, sregs, debug, events } = this;
    K.REGS_ORDER.forEach((n, i) => {
      regs.view.setBigUint64(8 * n, u64(s.gpr[i]), true);
    });
    regs.view.setBigUint64(K.REGS_RIP, u64(s.rip), true);
    regs.view.setBigUint64(K.REGS_RFLAGS, u64(s.rflags) | 2n, true);

    // What is not in a state stays: the local APIC's address and CR8.
    const v = this.take(K.PART_SREGS, sregs, 'segments');
    K.SREGS_ORDER.forEach((n, i) => {
      writeSegment(v, n, s.segments[i] as SegmentState);
    });
    for (const [at, t] of [
      [K.SREGS_GDT, s.gdtr],
      [K.SREGS_IDT, s.idtr],
    ] as const) {
      v.setBigUint64(at, u64(t.base), true);
      v.setUint16(at + 8, t.limit, true);
    }
    v.setBigUint64(K.SREGS_CR0, u64(s.cr0) | 0x10n, true);
    v.setBigUint64(K.SREGS_CR2, u64(s.cr2), true);
    v.setBigUint64(K.SREGS_CR3, u64(s.cr3), true);
    v.setBigUint64(K.SREGS_CR4, u64(s.cr4), true);
    v.setBigUint64(K.SREGS_EFER, u64(s.efer), true);
    for (let i = 0; i < 4; i++) v.setBigUint64(K.SREGS_INTERRUPT_BITMAP + 8 * i, 0n, true);
    this.put(K.PART_SREGS, sregs, 'segments and control registers');
    // Some KVMs take paging modes that they cannot run, and leave paging off.
    const now = this.take(K.PART_SREGS, sregs, 'segments').getBigUint64(K.SREGS_CR0, true);
    if ((now & CR0_PG) !== (s.cr0 & CR0_PG))
      throw new HyveError('VCPU_STATE', `this KVM has no such paging mode: CR0 0x${hex(s.cr0)}, CR4 0x${hex(s.cr4)}`);

    const xcrs = this.xcrs.view;
    this.xcrs.bytes.fill(0);
    xcrs.setUint32(0, 1, true);
    xcrs.setBigUint64(16, u64(s.xcr0), true);
    this.put(K.PART_XCRS, this.xcrs, `XCR0 0x${hex(s.xcr0)}`);
    if (s.xsave.length !== 0) {
      this.xsave.bytes.fill(0);
      this.xsave.bytes.set(s.xsave.subarray(0, K.SIZE_XSAVE));
      // Compacted images and components that the guest does not have are not part of the format.
      const x = this.xsave.view;
      x.setBigUint64(XSAVE_HEADER, x.getBigUint64(XSAVE_HEADER, true) & u64(s.xcr0 | 3n), true);
      x.setBigUint64(XSAVE_HEADER + 8, 0n, true);
      x.setUint32(24, x.getUint32(24, true) & 0xffff, true);
      this.put(K.PART_XSAVE, this.xsave, 'the FPU');
    }
    this.put(K.PART_REGS, regs, 'registers');
    debug.bytes.fill(0);
    s.dr.forEach((d, i) => {
      debug.view.setBigUint64(8 * i, u64(d), true);
    });
    this.put(K.PART_DEBUGREGS, debug, 'debug registers');
    this.setMsrs(s.msrs);
    events.bytes.fill(0);
    const e = events.view;
    if (!own && s.injected !== undefined) {
      e.setUint8(K.EVENTS_INTERRUPT_INJECTED, 1);
      e.setUint8(K.EVENTS_INTERRUPT_NR, s.injected);
    }
    e.setUint8(K.EVENTS_INTERRUPT_SHADOW, s.interruptShadow ? 1 : 0);
    e.setUint8(K.EVENTS_NMI_PENDING, s.nmiPending ? 1 : 0);
    e.setUint8(K.EVENTS_NMI_MASKED, s.nmiBlocked ? 1 : 0);
    e.setUint32(K.EVENTS_FLAGS, K.EVENTS_FLAG_NMI_PENDING | K.EVENTS_FLAG_SHADOW, true);
    this.put(K.PART_EVENTS, events, 'events');
  }

  /** TSC_ADJUST goes before TSC, which must not move by it. MSRs that the engine does not hold are not its business. */
  private setMsrs(msrs: readonly (readonly [number, bigint])[], order: readonly number[] = this.msrs): void {
    const values = new Map(msrs);
    const rows = order.filter((i) => values.has(i)).map((i) => [i, values.get(i) as bigint] as const);
    const list = msrList(rows);
    const r = this.native.set(this.vcpu, K.PART_MSRS, list.bytes);
    if (r === rows.length) return;
    const [index, value] = rows[Math.max(0, r)] ?? [0, 0n];
    throw new HyveError('VCPU_STATE', `KVM does not take 0x${hex(value)} for MSR 0x${index.toString(16)}`);
  }
}

/** Where XSAVE puts a component: CPUID leaf 0xD, sub-leaf `bit`. */
export interface XsaveComponent {
  readonly bit: number;
  readonly offset: number;
  readonly size: number;
}

/**
 * The state after power-on or INIT, made from the present one. INIT keeps caches, FPU, XCR0, TSC and most MSRs.
 * Intel SDM vol. 3A table 10-1.
 * @param signature EDX: CPUID leaf 1, EAX
 */
export function resetState(now: VcpuStateV1, kind: 'power-on' | 'init', signature: number): VcpuStateV1 {
  const data = (): SegmentState => ({ selector: 0, base: 0n, limit: 0xffff, attr: 0x93 });
  const gpr = now.gpr.map(() => 0n);
  gpr[2] = BigInt(signature >>> 0);
  const segments = [0, 1, 2, 3, 4, 5].map(data);
  segments[1] = { selector: 0xf000, base: 0xffff0000n, limit: 0xffff, attr: 0x9b };
  segments.push(
    { selector: 0, base: 0n, limit: 0xffff, attr: 0x82 },
    { selector: 0, base: 0n, limit: 0xffff, attr: 0x8b },
  );
  const cache = 0x60000000n;
  const { injected: _gone, ...rest } = now;
  const fresh: VcpuStateV1 = {
    ...rest,
    gpr,
    rip: 0xfff0n,
    rflags: 2n,
    cr0: (kind === 'init' ? now.cr0 & cache : cache) | 0x10n,
    cr2: 0n,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
    dr: [0n, 0n, 0n, 0n, 0xffff0ff0n, 0x400n],
    segments,
    gdtr: { base: 0n, limit: 0xffff },
    idtr: { base: 0n, limit: 0xffff },
    activity: 'running',
    interruptShadow: false,
    nmiBlocked: false,
    nmiPending: false,
  };
  if (kind === 'init') return fresh;
  const xsave = new Uint8Array(XSAVE_LEGACY);
  const x = new DataView(xsave.buffer);
  x.setUint16(0, 0x40, true);
  x.setUint8(4, 0xff);
  x.setUint32(24, 0x1f80, true);
  x.setUint32(XSAVE_HEADER, 3, true);
  return { ...fresh, xcr0: 1n, xsave, msrs: now.msrs.map(([i]) => [i, i === K.MSR_PAT ? K.PAT_RESET : 0n]) };
}

/** DR7's fields, SDM vol. 3B §18.2.4. */
const DR7_TYPE = { execute: 0, write: 1, access: 3 } as const;
const DR7_LENGTH = { 1: 0, 2: 1, 4: 3, 8: 2 } as const;

function debugRegisters(request: DebugRequest): { control: number; registers: bigint[] } {
  const registers = [0n, 0n, 0n, 0n, 0n, 0n, 0xffff0ff0n, 0x400n];
  const { breakpoints, step } = request;
  if (breakpoints.length > 4) throw new HyveError('VCPU_DEBUG', `${breakpoints.length} breakpoints: at most 4`);
  breakpoints.forEach((b, i) => {
    const length = DR7_LENGTH[b.size];
    if (length === undefined || b.address % BigInt(b.size) !== 0n || (b.on === 'execute' && b.size !== 1))
      throw new HyveError('VCPU_DEBUG', `no breakpoint on ${b.on} of ${b.size} bytes at 0x${hex(b.address)}`);
    registers[i] = u64(b.address);
    registers[7] = (registers[7] as bigint) | BigInt((2 << (2 * i)) | (1 << 9));
    registers[7] |= BigInt(DR7_TYPE[b.on] | (length << 2)) << BigInt(16 + 4 * i);
  });
  const hardware = breakpoints.length > 0 ? K.DEBUG_HARDWARE : 0;
  return { control: K.DEBUG_ENABLE | hardware | (step ? K.DEBUG_SINGLE_STEP : 0), registers };
}

/** Throws for states that the processor cannot be in, which not every KVM notices. */
function check(s: VcpuStateV1): void {
  const bad = (why: string): never => {
    throw new HyveError('VCPU_STATE', `a vCPU cannot be in this state: ${why}`);
  };
  if (s.v !== 1 && s.v !== 2 && s.v !== 3) bad(`version ${s.v as number}, expected 1 to 3`);
  if (s.injected !== undefined && !(Number.isInteger(s.injected) && s.injected >= 0 && s.injected <= 255))
    bad(`interrupt ${s.injected} injected`);
  if (s.gpr.length !== 16) bad(`${s.gpr.length} general registers, expected 16`);
  if (s.segments.length !== 8) bad(`${s.segments.length} segments, expected 8`);
  if (s.dr.length !== 6) bad(`${s.dr.length} debug registers, expected 6`);
  if (s.xsave.length !== 0 && s.xsave.length < XSAVE_LEGACY)
    bad(`XSAVE area of ${s.xsave.length} bytes, expected 0 or at least ${XSAVE_LEGACY}`);
  const paging = (s.cr0 & CR0_PG) !== 0n;
  if (paging && (s.cr0 & CR0_PE) === 0n) bad(`CR0 0x${hex(s.cr0)}`);
  const lma = (s.efer & EFER_LMA) !== 0n;
  if (lma !== ((s.efer & EFER_LME) !== 0n && paging)) bad(`EFER 0x${hex(s.efer)} with CR0 0x${hex(s.cr0)}`);
  if (lma && (s.cr4 & CR4_PAE) === 0n) bad('long mode without CR4.PAE');
  if ((s.xcr0 & 1n) === 0n) bad(`XCR0 0x${hex(s.xcr0)}`);
}

interface Part {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

function part(size: number): Part {
  const bytes = new Uint8Array(size);
  return { bytes, view: new DataView(bytes.buffer) };
}

function msrList(rows: readonly (readonly [number, bigint])[]): Part {
  const p = part(8 + 16 * rows.length);
  p.view.setUint32(0, rows.length, true);
  rows.forEach(([index, value], i) => {
    p.view.setUint32(8 + 16 * i, index, true);
    p.view.setBigUint64(16 + 16 * i, u64(value), true);
  });
  return p;
}

function readSegment(v: DataView, n: number): SegmentState {
  const at = n * K.SEGMENT_SIZE;
  // u64 base, u32 limit, u16 selector, u8 type present dpl db s l g avl unusable
  const f = (i: number): number => v.getUint8(at + 14 + i);
  return {
    selector: v.getUint16(at + 12, true),
    base: v.getBigUint64(at, true),
    limit: v.getUint32(at + 8, true),
    attr:
      (f(0) & 15) |
      ((f(4) & 1) << 4) |
      ((f(2) & 3) << 5) |
      ((f(1) & 1) << 7) |
      ((f(7) & 1) << 12) |
      ((f(5) & 1) << 13) |
      ((f(3) & 1) << 14) |
      ((f(6) & 1) << 15) |
      (f(8) !== 0 ? ATTR_UNUSABLE : 0),
  };
}

function writeSegment(v: DataView, n: number, s: SegmentState): void {
  const at = n * K.SEGMENT_SIZE;
  const a = s.attr;
  v.setBigUint64(at, u64(s.base), true);
  v.setUint32(at + 8, s.limit, true);
  v.setUint16(at + 12, s.selector, true);
  const fields = [a & 15, (a >> 7) & 1, (a >> 5) & 3, (a >> 14) & 1, (a >> 4) & 1, (a >> 13) & 1, (a >> 15) & 1];
  fields.push((a >> 12) & 1, a & ATTR_UNUSABLE ? 1 : 0, 0);
  fields.forEach((x, i) => {
    v.setUint8(at + 14 + i, x);
  });
}

function u64(v: bigint | undefined): bigint {
  return BigInt.asUintN(64, v ?? 0n);
}

function hex(v: bigint): string {
  return v.toString(16);
}
