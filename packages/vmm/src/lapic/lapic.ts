// Local APIC of one vCPU: xAPIC page and x2APIC MSRs, priorities, local vector table, timer. Intel SDM vol. 3 chapter 11
// (mirrors bhyve's vlapic.c, plus TSC-deadline mode, error register and x2APIC checks).
import { type Clock, HyveError, type MsrValue, StateReader, type Timer, type Width } from '@hyve/core';
import { savedWords } from '../words.ts';
import type { ApicBus } from './apic-bus.ts';
import {
  APIC_APR,
  APIC_DFR,
  APIC_EOI,
  APIC_ESR,
  APIC_ICR_HI,
  APIC_ICR_LO,
  APIC_ID,
  APIC_IRR,
  APIC_ISR,
  APIC_LDR,
  APIC_LVT_CMCI,
  APIC_LVT_ERROR,
  APIC_LVT_TIMER,
  APIC_PPR,
  APIC_RRD,
  APIC_SELF_IPI,
  APIC_SVR,
  APIC_TIMER_CCR,
  APIC_TIMER_DCR,
  APIC_TIMER_ICR,
  APIC_TMR,
  APIC_TPR,
  APIC_VERSION,
  BASE_BSP,
  BASE_DEFAULT,
  BASE_ENABLE,
  BASE_X2APIC,
  DELIVERY_EXTINT,
  DELIVERY_FIXED,
  DELIVERY_INIT,
  DELIVERY_LOWEST,
  DELIVERY_NMI,
  DELIVERY_SMI,
  DELIVERY_STARTUP,
  ESR_ILLEGAL_REGISTER,
  ESR_RECEIVE_ILLEGAL_VECTOR,
  ESR_SEND_ILLEGAL_VECTOR,
  ICR_BUSY,
  ICR_LO_WRITABLE,
  LVT_CMCI,
  LVT_DELIVERY_MASK,
  LVT_DELIVERY_SHIFT,
  LVT_ERROR,
  LVT_LEVEL,
  LVT_LINT0,
  LVT_MASKED,
  LVT_REMOTE_IRR,
  LVT_TIMER,
  LVT_TIMER_MODE_MASK,
  LVT_TIMER_MODE_SHIFT,
  LVT_WRITABLE,
  SVR_ENABLE,
  SVR_WRITABLE,
  TIMER_PERIODIC,
  TIMER_TSC_DEADLINE,
  VERSION_VALUE,
} from './bits.ts';

/**
 * Input frequency of the APIC timer before its divider, Hz: 1 GHz, so that one undivided tick is one nanosecond. CPUID leaf
 * 0x15 reports it as the core crystal, which Linux takes for the APIC timer's frequency without measuring; OVMF and
 * SeaBIOS builds for KVM assume just this number.
 */
export const APIC_TIMER_HZ = 1_000_000_000;

/** The guest's time stamp counter as the TSC-deadline timer needs it. Counts are doubles. */
export interface TscSource {
  /** The TSC now, offsets included. */
  read(): number;
  /** When it reaches `tsc`, on the clock's scale, ns. */
  nsAt(tsc: number): number;
}

/** Whether x2APIC mode exists: not at all, for the guest to switch on, or switched on at reset (bhyve `-x`). */
export type X2ApicSupport = 'absent' | 'offered' | 'on';

/** Options of {@link LocalApic}. */
export interface LocalApicOptions {
  /** The fabric; the APIC registers itself there. */
  readonly bus: ApicBus;
  /** vCPU index, in order of construction. 0 is the boot processor. */
  readonly index: number;
  /** Initial APIC id, 0–0xFFFFFFFE; its low 8 bits are the xAPIC id. Default: the index. */
  readonly id?: number;
  /** Guest time. */
  readonly clock: Clock;
  /** TSC frequency, Hz. */
  readonly tscHz: number;
  /** The TSC, where the engine knows about guest writes to it; default: `clock` times `tscHz`. */
  readonly tsc?: TscSource;
  /** Default `offered`. */
  readonly x2apic?: X2ApicSupport;
  /** Whether the timer has TSC-deadline mode. Default true. */
  readonly tscDeadline?: boolean;
  /** Timer input, Hz. Default {@link APIC_TIMER_HZ}. */
  readonly timerHz?: number;
  /** Physical address bits, 32–52, for reserved bits of IA32_APIC_BASE. Default 40. */
  readonly physBits?: number;
  /** Told whenever what decides about destinations may have changed; the record is the APIC's own. */
  readonly onRouting?: (r: ApicRouting) => void;
  /** Told the arbitration priority whenever it may have changed. */
  readonly onPriority?: (priority: number) => void;
}

/** Saved state; times are relative to the moment of saving. */
export interface LocalApicStateV1 {
  v: 1;
  base: number;
  mode: 0 | 1 | 2;
  xapicId: number;
  tpr: number;
  ldr: number;
  dfr: number;
  svr: number;
  esr: number;
  esrPending: number;
  icr: [number, number];
  lvt: number[];
  irr: number[];
  isr: number[];
  tmr: number[];
  timerInit: number;
  timerDivide: number;
  /** ns until the next expiry, null when stopped. */
  timerDueInNs: number | null;
  owedTicks: number;
  tscDeadline: [number, number];
  lint: number;
  nmis: number;
  init: boolean;
  sipi: number;
  extInt: boolean;
}

const DISABLED = 0;
const XAPIC = 1;
const X2APIC = 2;

/** Ticks of a periodic timer kept for later when the guest does not take them in time; more are lost, and counted. */
const MAX_OWED_TICKS = 1000;
/** A periodic timer wakes the host no more often than this; faster ones get their ticks in bunches. ns */
const MIN_PERIOD_NS = 10_000;

/** Whether a message's destination names the local APIC with these registers, SDM 11.6.2 and 11.12.10. */
export function destinationNames(
  mode: number,
  id: number,
  xapicId: number,
  ldr: number,
  dfr: number,
  dest: number,
  logical: boolean,
  wide: boolean,
): boolean {
  if (mode === DISABLED) return false;
  if (dest === (wide ? 0xffffffff : 0xff)) return true;
  if (!logical) return dest === (mode === X2APIC ? id : xapicId);
  if (mode === X2APIC) return dest >>> 16 === ldr >>> 16 && (dest & ldr & 0xffff) !== 0;
  if (dest > 0xff) return false;
  const mine = ldr >>> 24;
  if (dfr >>> 28 === 0xf) return (dest & mine) !== 0;
  if (dfr >>> 28 !== 0) return false;
  return (dest >>> 4 === mine >>> 4 || dest >>> 4 === 0xf) && (dest & mine & 0xf) !== 0;
}

/** What senders on other threads need to know of a local APIC: see {@link LocalApicOptions.onRouting}. */
export interface ApicRouting {
  /** 0 off, 1 xAPIC, 2 x2APIC. */
  mode: number;
  /** xAPIC id. */
  xapicId: number;
  /** Logical destination register. */
  ldr: number;
  /** Destination format register. */
  dfr: number;
  /** Takes fixed interrupts. */
  enabled: boolean;
  /** Bit n: a signal on local pin n would do something. */
  lintOpen: number;
}

/** Highest set bit of a 256-bit set, or -1. */
function highest(set: Uint32Array): number {
  for (let i = 7; i >= 0; i--) {
    const w = set[i] as number;
    if (w !== 0) return i * 32 + 31 - Math.clz32(w);
  }
  return -1;
}

/**
 * One vCPU's local APIC. The vCPU's MMIO reaches {@link LocalApic.mmioRead} for the page at {@link LocalApic.mmioBase};
 * its MSRs 0x1B, 0x6E0 and 0x800–0x8FF reach the methods named after them. A run loop asks
 * {@link LocalApic.hasInterrupt}, then {@link LocalApic.acknowledge}, and takes NMI, INIT and SIPI with the `take` methods.
 *
 * A periodic timer keeps its phase however late it is served, and ticks that the guest had no chance to take are
 * delivered one by one later, up to a bound. In xAPIC mode the APIC id is writable, as on AMD and older Intel parts.
 *
 * Not modelled: SMI, focus processor, remote read, EOI-broadcast suppression, LVT delivery status (always idle),
 * input polarity (lines are given as asserted or not), sources of the thermal, performance and CMCI entries.
 */
export class LocalApic {
  /** vCPU index. */
  readonly index: number;
  /** Initial APIC id, the x2APIC id. */
  readonly id: number;
  /** First address of the register page; Infinity while it is not decoded (disabled, x2APIC). */
  mmioBase: number = BASE_DEFAULT;
  /** Periodic ticks lost because too many were owed already. */
  lostTicks = 0;

  private readonly bus: ApicBus;
  private readonly clock: Clock;
  private readonly tsc: TscSource;
  private readonly x2apic: X2ApicSupport;
  private readonly deadlineMode: boolean;
  private readonly timerHz: number;
  private readonly baseHiReserved: number;
  private readonly timer: Timer;

  private mode = XAPIC;
  private base: number = BASE_DEFAULT;
  private xapicId = 0;
  private tpr = 0;
  private ldr = 0;
  private dfr = 0xffffffff;
  private svr = 0xff;
  private esr = 0;
  private esrPending = 0;
  private icrLo = 0;
  private icrHi = 0;
  private readonly lvt: Uint32Array = new Uint32Array(7);
  private readonly irr: Uint32Array = new Uint32Array(8);
  private readonly isr: Uint32Array = new Uint32Array(8);
  private readonly tmr: Uint32Array = new Uint32Array(8);
  /** Highest bits of IRR and ISR, -1 for none. */
  private irrTop = -1;
  private isrTop = -1;

  private timerInit = 0;
  private dcr = 0;
  private tickNs = 2;
  private running = false;
  private dueNs = 0;
  private owed = 0;
  private deadlineLo = 0;
  private deadlineHi = 0;

  private readonly onRouting: ((r: ApicRouting) => void) | null;
  private readonly onPriority: ((priority: number) => void) | null;
  private readonly routing: ApicRouting = { mode: 0, xapicId: 0, ldr: 0, dfr: 0, enabled: false, lintOpen: 0 };

  private lint = 0;
  private nmis = 0;
  private initPending = false;
  private sipi = -1;
  private extInt = false;

  constructor(o: LocalApicOptions) {
    this.index = o.index;
    this.id = o.id ?? o.index;
    this.bus = o.bus;
    this.clock = o.clock;
    this.x2apic = o.x2apic ?? 'offered';
    this.deadlineMode = o.tscDeadline ?? true;
    this.timerHz = o.timerHz ?? APIC_TIMER_HZ;
    const physBits = o.physBits ?? 40;
    if (!(physBits >= 32 && physBits <= 52) || !(this.timerHz > 0) || !(o.tscHz > 0))
      throw new HyveError(
        'APIC_OPTIONS',
        `local APIC ${o.index}: physBits ${physBits}, timerHz ${this.timerHz}, tscHz ${o.tscHz}; expected 32–52 and positive rates`,
      );
    this.onRouting = o.onRouting ?? null;
    this.onPriority = o.onPriority ?? null;
    this.baseHiReserved = ~(2 ** (physBits - 32) - 1) >>> 0;
    const scale = o.tscHz / 1e9;
    const clock = o.clock;
    this.tsc = o.tsc ?? { read: () => Math.floor(clock.now() * scale), nsAt: (tsc) => tsc / scale };
    this.timer = o.clock.timer(() => this.sync());
    this.bus.attach(this);
    this.reset();
  }

  // --- Life -------------------------------------------------------------------------------------------------------

  /** Power-on reset, SDM 11.4.7.1. */
  reset(): void {
    this.mode = this.x2apic === 'on' ? X2APIC : XAPIC;
    this.base = BASE_DEFAULT;
    this.lint = 0;
    this.nmis = 0;
    this.initPending = false;
    this.sipi = -1;
    this.lostTicks = 0;
    this.xapicId = this.id & 0xff;
    this.clear();
  }

  private announce(): void {
    if (this.onRouting === null) return;
    const r = this.routing;
    r.mode = this.mode;
    r.xapicId = this.xapicId;
    r.ldr = this.ldr;
    r.dfr = this.dfr;
    r.enabled = this.softwareEnabled;
    const open = (n: number): number =>
      this.mode === DISABLED || ((this.lvt[LVT_LINT0 + n] as number) & LVT_MASKED) === 0 ? 1 << n : 0;
    r.lintOpen = open(0) | open(1);
    this.onRouting(r);
    this.priorityChanged();
  }

  private priorityChanged(): void {
    if (this.onPriority !== null) this.onPriority(this.arbitrationPriority());
  }

  /** What INIT does to the registers: all but id and IA32_APIC_BASE, SDM 11.4.7.3. */
  private clear(): void {
    this.tpr = 0;
    this.dfr = 0xffffffff;
    this.svr = 0xff;
    this.esr = 0;
    this.esrPending = 0;
    this.icrLo = 0;
    this.icrHi = 0;
    this.lvt.fill(LVT_MASKED);
    this.irr.fill(0);
    this.isr.fill(0);
    this.tmr.fill(0);
    this.irrTop = -1;
    this.isrTop = -1;
    this.timerInit = 0;
    this.dcr = 0;
    this.tickNs = this.tickOf(0);
    this.extInt = false;
    this.stopTimer();
    this.modeChanged();
  }

  private modeChanged(): void {
    this.mmioBase = this.mode === XAPIC ? this.base : Number.POSITIVE_INFINITY;
    this.ldr = this.mode === X2APIC ? (((this.id >>> 4) << 16) | (1 << (this.id & 15))) >>> 0 : 0;
    this.announce();
  }

  /**
   * The state PC firmware hands over in virtual-wire mode: enabled, LINT0 on the boot processor takes the 8259 (ExtINT),
   * LINT1 is NMI. For loaders that start an operating system without firmware; MP specification 1.4 §3.6.2.2.
   */
  enterVirtualWire(): void {
    this.svr = SVR_ENABLE | 0xff;
    this.lvt[LVT_LINT0] = this.index === 0 ? 0x700 : LVT_MASKED | 0x700;
    this.lvt[LVT_LINT0 + 1] = 0x400;
    this.announce();
    this.poke();
  }

  /** Saves everything; only while the vCPU does not run. */
  save(): LocalApicStateV1 {
    this.sync();
    return {
      v: 1,
      base: this.base,
      mode: this.mode as 0 | 1 | 2,
      xapicId: this.xapicId,
      tpr: this.tpr,
      ldr: this.ldr,
      dfr: this.dfr,
      svr: this.svr,
      esr: this.esr,
      esrPending: this.esrPending,
      icr: [this.icrLo, this.icrHi],
      lvt: [...this.lvt],
      irr: [...this.irr],
      isr: [...this.isr],
      tmr: [...this.tmr],
      timerInit: this.timerInit,
      timerDivide: this.dcr,
      timerDueInNs: this.running ? this.dueNs - this.clock.now() : null,
      owedTicks: this.owed,
      tscDeadline: [this.deadlineLo, this.deadlineHi],
      lint: this.lint,
      nmis: this.nmis,
      init: this.initPending,
      sipi: this.sipi,
      extInt: this.extInt,
    };
  }

  /** Restores what {@link LocalApic.save} gave; nothing is signalled. @throws HyveError `STATE_VERSION`, `STATE_FORMAT` */
  load(state: unknown): void {
    const name = `local APIC ${this.index}`;
    const r = new StateReader(name, state, 1);
    const s = state as LocalApicStateV1;
    const icr = savedWords(name, s, 'icr', 2);
    const lvt = savedWords(name, s, 'lvt', 7);
    const irr = savedWords(name, s, 'irr', 8);
    const isr = savedWords(name, s, 'isr', 8);
    const tmr = savedWords(name, s, 'tmr', 8);
    const tscDeadline = savedWords(name, s, 'tscDeadline', 2);
    const due = s.timerDueInNs;
    const timerInit = r.u32('timerInit');
    if (due !== null && !(Number.isFinite(due) && timerInit > 0))
      throw new HyveError('STATE_FORMAT', `${name}: timerDueInNs is ${String(due)} with a count of ${timerInit}`);
    this.stopTimer();
    this.base = r.int('base', 0, 2 ** 52 - 4096);
    this.mode = r.int('mode', DISABLED, X2APIC);
    this.xapicId = r.u8('xapicId');
    this.tpr = r.u8('tpr');
    this.modeChanged();
    this.ldr = r.u32('ldr');
    this.dfr = r.u32('dfr');
    this.svr = r.int('svr', 0, SVR_WRITABLE);
    this.esr = r.u8('esr');
    this.esrPending = r.u8('esrPending');
    this.icrLo = icr[0] as number;
    this.icrHi = icr[1] as number;
    this.lvt.set(lvt);
    this.irr.set(irr);
    this.isr.set(isr);
    this.tmr.set(tmr);
    this.irrTop = highest(this.irr);
    this.isrTop = highest(this.isr);
    this.timerInit = timerInit;
    this.dcr = r.int('timerDivide', 0, 0xb);
    this.tickNs = this.tickOf(this.dcr);
    this.deadlineLo = tscDeadline[0] as number;
    this.deadlineHi = tscDeadline[1] as number;
    this.lint = r.int('lint', 0, 3);
    this.nmis = r.int('nmis', 0, 2);
    this.initPending = r.bool('init');
    this.sipi = r.int('sipi', -1, 0xff);
    this.extInt = r.bool('extInt');
    this.running = due !== null;
    if (due !== null) this.dueNs = this.clock.now() + due;
    this.owed = r.int('owedTicks', 0, MAX_OWED_TICKS);
    this.announce();
    this.arm();
  }

  // --- The vCPU's side --------------------------------------------------------------------------------------------

  /** Whether a vector waits that the processor priority lets through. Independent of IF. */
  hasInterrupt(): boolean {
    return this.irrTop >= 16 && this.irrTop >> 4 > this.ppr() >> 4 && this.mode !== DISABLED;
  }

  /** INTA: moves the highest deliverable vector from IRR to ISR and returns it; the spurious vector if there is none. */
  acknowledge(): number {
    if (!this.hasInterrupt()) return this.svr & 0xff;
    const v = this.irrTop;
    const w = v >> 5;
    const bit = 1 << (v & 31);
    this.irr[w] = (this.irr[w] as number) & ~bit;
    this.isr[w] = (this.isr[w] as number) | bit;
    this.isrTop = v;
    if (this.owed > 0 && v === ((this.lvt[LVT_TIMER] as number) & 0xff)) {
      this.owed--;
      this.irr[w] = (this.irr[w] as number) | bit;
    }
    this.irrTop = highest(this.irr);
    this.priorityChanged();
    return v;
  }

  /** Whether the 8259's interrupt reaches this processor: through LINT0, an I/O APIC message, or past a disabled APIC. */
  takesExtInt(): boolean {
    if (this.mode === DISABLED) return this.index === 0;
    if (this.extInt) return true;
    const l = this.lvt[LVT_LINT0] as number;
    return (l & LVT_MASKED) === 0 && ((l >>> LVT_DELIVERY_SHIFT) & LVT_DELIVERY_MASK) === DELIVERY_EXTINT;
  }

  /** The run loop took the 8259's vector. `more`: the 8259 has another one. */
  extIntTaken(more: boolean): void {
    if (!more) this.extInt = false;
  }

  /** Whether NMI, INIT or SIPI waits. */
  get hasEvents(): boolean {
    return this.nmis > 0 || this.initPending || this.sipi >= 0;
  }

  /** Takes one waiting NMI. */
  takeNmi(): boolean {
    if (this.nmis === 0) return false;
    this.nmis--;
    return true;
  }

  /** Takes a waiting INIT, and puts the registers in their INIT state. */
  takeInit(): boolean {
    if (!this.initPending) return false;
    this.initPending = false;
    this.nmis = 0;
    this.clear();
    return true;
  }

  /** Takes a waiting SIPI's vector, or -1. */
  takeSipi(): number {
    const v = this.sipi;
    this.sipi = -1;
    return v;
  }

  /** CR8: TPR bits 7:4. */
  readCr8(): number {
    return this.tpr >>> 4;
  }

  /** MOV to CR8; bits above 3 are ignored. */
  writeCr8(value: number): void {
    this.setTpr((value & 15) << 4);
  }

  // --- Inputs -----------------------------------------------------------------------------------------------------

  /** An NMI from the host (`bhyvectl --inject-nmi`). At most two wait: one to take, one latched behind it. */
  nmi(): void {
    if (this.nmis < 2) this.nmis++;
    this.bus.attention(this.index);
  }

  /**
   * A fixed interrupt. Vectors below 16 set the error register instead.
   * @param level trigger mode, for the TMR
   * @returns false when the APIC is off or the vector illegal
   */
  accept(vector: number, level: boolean): boolean {
    if (!this.softwareEnabled) return false;
    if (vector < 16) {
      this.error(ESR_RECEIVE_ILLEGAL_VECTOR);
      return false;
    }
    const w = vector >> 5;
    const bit = 1 << (vector & 31);
    if (level) this.tmr[w] = (this.tmr[w] as number) | bit;
    else this.tmr[w] = (this.tmr[w] as number) & ~bit;
    // One that waits already has been announced: a serial port raises its line anew with every byte it sends.
    if (((this.irr[w] as number) & bit) !== 0) return true;
    this.irr[w] = (this.irr[w] as number) | bit;
    if (vector > this.irrTop) this.irrTop = vector;
    this.priorityChanged();
    this.poke();
    return true;
  }

  /** A message of any delivery mode that named this processor. @returns whether it was taken */
  receive(mode: number, vector: number, level: boolean): boolean {
    if (this.mode === DISABLED) return false;
    switch (mode) {
      case DELIVERY_FIXED:
      case DELIVERY_LOWEST:
        return this.accept(vector, level);
      case DELIVERY_SMI:
        return true;
      case DELIVERY_NMI:
        this.nmi();
        return true;
      case DELIVERY_INIT:
        this.initPending = true;
        this.sipi = -1;
        this.bus.attention(this.index);
        return true;
      case DELIVERY_STARTUP:
        this.sipi = vector;
        this.bus.attention(this.index);
        return true;
      case DELIVERY_EXTINT:
        this.extInt = true;
        this.bus.attention(this.index);
        return true;
      default:
        return false;
    }
  }

  /** Drives local interrupt pin 0 or 1. */
  setLint(n: 0 | 1, asserted: boolean): void {
    const bit = 1 << n;
    const was = (this.lint & bit) !== 0;
    if (asserted === was) return;
    this.lint ^= bit;
    if (!asserted) return;
    if (this.mode === DISABLED) {
      // The pins are INTR and NMI of the processor itself.
      if (n === 1) this.nmi();
      else if (this.index === 0) this.bus.attention(this.index);
      return;
    }
    this.lintAsserted(LVT_LINT0 + n);
  }

  private lintAsserted(entry: number): void {
    const l = this.lvt[entry] as number;
    if ((l & LVT_MASKED) !== 0) return;
    switch ((l >>> LVT_DELIVERY_SHIFT) & LVT_DELIVERY_MASK) {
      case DELIVERY_FIXED: {
        const level = (l & LVT_LEVEL) !== 0;
        if (level && (l & LVT_REMOTE_IRR) !== 0) return;
        if (this.accept(l & 0xff, level) && level) this.lvt[entry] = l | LVT_REMOTE_IRR;
        return;
      }
      case DELIVERY_NMI:
        this.nmi();
        return;
      case DELIVERY_INIT:
        this.receive(DELIVERY_INIT, 0, false);
        return;
      case DELIVERY_EXTINT:
        this.bus.attention(this.index);
        return;
    }
  }

  /** Whether a message's destination names this processor, SDM 11.6.2 and 11.12.10. */
  matches(dest: number, logical: boolean, wide: boolean): boolean {
    return destinationNames(this.mode, this.id, this.xapicId, this.ldr, this.dfr, dest, logical, wide);
  }

  /** Whether it is on in IA32_APIC_BASE and in the spurious-vector register, and takes fixed interrupts. */
  get softwareEnabled(): boolean {
    return this.mode !== DISABLED && (this.svr & SVR_ENABLE) !== 0;
  }

  /** Whether the guest has it in x2APIC mode. */
  get x2apicMode(): boolean {
    return this.mode === X2APIC;
  }

  /** Whether IA32_APIC_BASE has it switched off. */
  get disabled(): boolean {
    return this.mode === DISABLED;
  }

  /** Arbitration priority: the highest class among TPR, in-service and requested vectors. */
  arbitrationPriority(): number {
    return Math.max(
      this.tpr & 0xff,
      this.isrTop & 0xf0 & ~(this.isrTop >> 31),
      this.irrTop & 0xf0 & ~(this.irrTop >> 31),
    );
  }

  private ppr(): number {
    const isr = this.isrTop < 0 ? 0 : this.isrTop & 0xf0;
    return (this.tpr & 0xf0) >= isr ? this.tpr : isr;
  }

  private poke(): void {
    if (this.hasInterrupt()) this.bus.attention(this.index);
  }

  private setTpr(v: number): void {
    const lower = v < this.tpr;
    this.tpr = v;
    this.priorityChanged();
    if (lower) this.poke();
  }

  private eoi(): void {
    const v = this.isrTop;
    if (v < 0) return;
    const w = v >> 5;
    const bit = 1 << (v & 31);
    this.isr[w] = (this.isr[w] as number) & ~bit;
    this.isrTop = highest(this.isr);
    this.priorityChanged();
    if (((this.tmr[w] as number) & bit) !== 0) {
      this.bus.eoi(v);
      this.lintEoi(LVT_LINT0, v);
      this.lintEoi(LVT_LINT0 + 1, v);
    }
    this.poke();
  }

  private lintEoi(entry: number, vector: number): void {
    const l = this.lvt[entry] as number;
    if ((l & LVT_REMOTE_IRR) === 0 || (l & 0xff) !== vector) return;
    this.lvt[entry] = l & ~LVT_REMOTE_IRR;
    if ((this.lint & (1 << (entry - LVT_LINT0))) !== 0) this.lintAsserted(entry);
  }

  private error(bit: number): void {
    if ((this.esrPending & bit) !== 0) return; // also ends the recursion of an error entry with an illegal vector
    this.esrPending |= bit;
    const l = this.lvt[LVT_ERROR] as number;
    if ((l & LVT_MASKED) === 0) this.accept(l & 0xff, false);
  }

  // --- Timer ------------------------------------------------------------------------------------------------------

  private timerMode(): number {
    return ((this.lvt[LVT_TIMER] as number) >>> LVT_TIMER_MODE_SHIFT) & LVT_TIMER_MODE_MASK;
  }

  /** ns per count: divide value 2, 4, … 128, 1 from bits 0, 1, 3 of the divide configuration register. */
  private tickOf(dcr: number): number {
    const shift = (((dcr & 3) | ((dcr & 8) >> 1)) + 1) & 7;
    return ((1 << shift) * 1e9) / this.timerHz;
  }

  private stopTimer(): void {
    this.running = false;
    this.owed = 0;
    this.deadlineLo = 0;
    this.deadlineHi = 0;
    this.timer.disarm();
  }

  private deadlineTsc(): number {
    return this.deadlineHi * 0x1_0000_0000 + this.deadlineLo;
  }

  /** Sets the host timer for the next expiry that can interrupt. */
  private arm(): void {
    if (((this.lvt[LVT_TIMER] as number) & LVT_MASKED) !== 0) this.timer.disarm();
    else if (this.deadlineLo !== 0 || this.deadlineHi !== 0) this.timer.arm(this.tsc.nsAt(this.deadlineTsc()));
    else if (!this.running) this.timer.disarm();
    else if (this.timerMode() === TIMER_PERIODIC) {
      const period = this.timerInit * this.tickNs;
      this.timer.arm(period >= MIN_PERIOD_NS ? this.dueNs : this.dueNs + Math.floor(MIN_PERIOD_NS / period) * period);
    } else this.timer.arm(this.dueNs);
  }

  /** Brings the timer up to now: delivers what is due. Called by the host timer and before anything reprograms it. */
  private sync(): void {
    if (this.deadlineLo !== 0 || this.deadlineHi !== 0) {
      if (this.tsc.read() >= this.deadlineTsc()) {
        this.deadlineLo = 0;
        this.deadlineHi = 0;
        this.timer.disarm();
        this.ticks(1);
      } else if (!this.timer.armed) {
        // Rounding between ns and TSC, or the guest set its TSC back.
        const at = this.tsc.nsAt(this.deadlineTsc());
        const soon = this.clock.now() + 1;
        if (((this.lvt[LVT_TIMER] as number) & LVT_MASKED) === 0) this.timer.arm(Math.max(at, soon));
      }
      return;
    }
    if (!this.running) return;
    const late = this.clock.now() - this.dueNs;
    if (late < 0) return;
    if (this.timerMode() !== TIMER_PERIODIC) {
      this.running = false;
      this.timer.disarm();
      this.ticks(1);
      return;
    }
    const period = this.timerInit * this.tickNs;
    const n = Math.floor(late / period) + 1;
    this.dueNs += n * period;
    this.arm();
    this.ticks(n);
  }

  /** `n` expiries. What cannot be requested now because the last one still waits is owed. */
  private ticks(n: number): void {
    const l = this.lvt[LVT_TIMER] as number;
    if ((l & LVT_MASKED) !== 0) return;
    const v = l & 0xff;
    let extra = n;
    if (v < 16 || ((this.irr[v >> 5] as number) & (1 << (v & 31))) === 0) {
      if (!this.accept(v, false)) return;
      extra--;
    }
    if (this.timerMode() !== TIMER_PERIODIC) return;
    this.owed += extra;
    if (this.owed > MAX_OWED_TICKS) {
      this.lostTicks += this.owed - MAX_OWED_TICKS;
      this.owed = MAX_OWED_TICKS;
    }
  }

  private currentCount(): number {
    if (!this.running) return 0;
    const left = this.dueNs - this.clock.now();
    const period = this.timerInit * this.tickNs;
    if (left > 0) return Math.min(this.timerInit, Math.ceil(left / this.tickNs));
    if (this.timerMode() !== TIMER_PERIODIC) return 0;
    // Due, but the host has not come round to it.
    const into = -left - Math.floor(-left / period) * period;
    return this.timerInit - Math.floor(into / this.tickNs);
  }

  private startTimer(init: number): void {
    if (this.timerMode() === TIMER_TSC_DEADLINE) return;
    this.sync();
    this.stopTimer();
    this.timerInit = init;
    if (init === 0) return;
    this.running = true;
    this.dueNs = this.clock.now() + init * this.tickNs;
    this.arm();
  }

  private setDivide(v: number): void {
    this.sync();
    const count = this.currentCount();
    this.dcr = v & 0xb;
    this.tickNs = this.tickOf(this.dcr);
    if (!this.running) return;
    this.dueNs = this.clock.now() + count * this.tickNs;
    this.arm();
  }

  private setLvtTimer(v: number): void {
    this.sync();
    const before = this.timerMode();
    this.lvt[LVT_TIMER] = v;
    const after = this.timerMode();
    if (before !== after) {
      this.owed = 0;
      if (before === TIMER_TSC_DEADLINE || after === TIMER_TSC_DEADLINE) {
        this.stopTimer();
        this.timerInit = 0;
      }
    }
    if ((v & LVT_MASKED) !== 0) this.owed = 0;
    this.arm();
  }

  /** RDMSR IA32_TSC_DEADLINE (0x6E0). */
  readTscDeadline(out: MsrValue): void {
    this.sync();
    out.lo = this.deadlineLo;
    out.hi = this.deadlineHi;
  }

  /** WRMSR IA32_TSC_DEADLINE; ignored outside TSC-deadline mode, SDM 11.5.4.1. */
  writeTscDeadline(lo: number, hi: number): void {
    if (this.timerMode() !== TIMER_TSC_DEADLINE) return;
    this.sync();
    this.deadlineLo = lo;
    this.deadlineHi = hi;
    if ((lo !== 0 || hi !== 0) && this.tsc.read() >= this.deadlineTsc()) this.sync();
    else this.arm();
  }

  /** Whether the guest may use IA32_TSC_DEADLINE. */
  get hasTscDeadline(): boolean {
    return this.deadlineMode;
  }

  /** The guest's TSC was set: the deadline falls at another time now. */
  tscChanged(): void {
    this.arm();
    this.sync();
  }

  // --- Registers --------------------------------------------------------------------------------------------------

  /** Reads the register page. Only aligned 32-bit accesses are defined; narrower ones give the bytes they cover. */
  mmioRead(offset: number, width: Width): number {
    const part = offset & 15;
    if (part + width > 4) return 0;
    const v = this.readRegister(offset & 0xff0);
    if (width === 4) return v;
    return (v >>> (part * 8)) & (width === 1 ? 0xff : 0xffff);
  }

  /** Writes the register page; anything but an aligned 32-bit access is dropped. */
  mmioWrite(offset: number, width: Width, value: number): void {
    if (width !== 4 || (offset & 15) !== 0) return;
    this.writeRegister(offset, value);
  }

  private readRegister(offset: number): number {
    if (offset >= APIC_ISR && offset < APIC_ESR) {
      const i = (offset >>> 4) & 7;
      if (offset < APIC_TMR) return this.isr[i] as number;
      return (offset < APIC_IRR ? this.tmr[i] : this.irr[i]) as number;
    }
    if (offset >= APIC_LVT_TIMER && offset <= APIC_LVT_ERROR)
      return this.lvt[((offset - APIC_LVT_TIMER) >>> 4) + LVT_TIMER] as number;
    switch (offset) {
      case APIC_ID:
        return this.mode === X2APIC ? this.id : (this.xapicId << 24) >>> 0;
      case APIC_VERSION:
        return VERSION_VALUE;
      case APIC_TPR:
        return this.tpr;
      case APIC_APR:
        return this.arbitrationPriority();
      case APIC_PPR:
        return this.ppr();
      case APIC_EOI:
      case APIC_RRD:
        return 0;
      case APIC_LDR:
        return this.ldr;
      case APIC_DFR:
        return this.dfr;
      case APIC_SVR:
        return this.svr;
      case APIC_ESR:
        return this.esr;
      case APIC_LVT_CMCI:
        return this.lvt[LVT_CMCI] as number;
      case APIC_ICR_LO:
        return this.icrLo;
      case APIC_ICR_HI:
        return this.icrHi;
      case APIC_TIMER_ICR:
        return this.timerInit;
      case APIC_TIMER_CCR:
        return this.currentCount();
      case APIC_TIMER_DCR:
        return this.dcr;
      default:
        this.error(ESR_ILLEGAL_REGISTER);
        return 0;
    }
  }

  private writeRegister(offset: number, v: number): void {
    if (offset >= APIC_LVT_TIMER && offset <= APIC_LVT_ERROR) {
      this.writeLvt(((offset - APIC_LVT_TIMER) >>> 4) + LVT_TIMER, v);
      return;
    }
    switch (offset) {
      case APIC_ID:
        this.xapicId = v >>> 24;
        this.announce();
        break;
      case APIC_TPR:
        this.setTpr(v & 0xff);
        break;
      case APIC_EOI:
        this.eoi();
        break;
      case APIC_LDR:
        this.ldr = (v & 0xff000000) >>> 0;
        this.announce();
        break;
      case APIC_DFR:
        this.dfr = (v | 0x0fffffff) >>> 0;
        this.announce();
        break;
      case APIC_SVR:
        this.writeSvr(v & SVR_WRITABLE);
        break;
      case APIC_ESR:
        // Any write shows what has gathered and starts afresh, SDM 11.5.3.
        this.esr = this.esrPending;
        this.esrPending = 0;
        break;
      case APIC_LVT_CMCI:
        this.writeLvt(LVT_CMCI, v);
        break;
      case APIC_ICR_LO:
        this.icrLo = v & ICR_LO_WRITABLE;
        this.sendIpi(this.icrLo, this.icrHi >>> 24, false);
        break;
      case APIC_ICR_HI:
        this.icrHi = (v & 0xff000000) >>> 0;
        break;
      case APIC_TIMER_ICR:
        this.startTimer(v);
        break;
      case APIC_TIMER_DCR:
        this.setDivide(v);
        break;
      case APIC_VERSION:
      case APIC_APR:
      case APIC_PPR:
      case APIC_RRD:
      case APIC_TIMER_CCR:
        break; // read-only
      default:
        if (offset < APIC_ISR || offset >= APIC_ESR) this.error(ESR_ILLEGAL_REGISTER);
    }
  }

  private writeSvr(v: number): void {
    const wasOn = (this.svr & SVR_ENABLE) !== 0;
    this.svr = v;
    this.announce();
    if ((v & SVR_ENABLE) === 0) {
      // Switching off masks the whole table, SDM 11.4.7.2.
      for (let i = 0; i < this.lvt.length; i++) if (i !== LVT_TIMER) this.lvt[i] = (this.lvt[i] as number) | LVT_MASKED;
      this.setLvtTimer((this.lvt[LVT_TIMER] as number) | LVT_MASKED);
      this.announce();
    } else if (!wasOn) this.poke();
  }

  private writeLvt(entry: number, value: number): void {
    let v = value & (LVT_WRITABLE[entry] as number);
    if ((this.svr & SVR_ENABLE) === 0) v |= LVT_MASKED;
    if (entry === LVT_TIMER) {
      this.setLvtTimer(this.deadlineMode ? v : v & ~(1 << 18));
      return;
    }
    const old = this.lvt[entry] as number;
    if (entry !== LVT_LINT0 && entry !== LVT_LINT0 + 1) {
      this.lvt[entry] = v;
      return;
    }
    // Remote IRR survives as long as the entry stays level-triggered.
    this.lvt[entry] = v | ((v & LVT_LEVEL) !== 0 ? old & LVT_REMOTE_IRR : 0);
    this.announce();
    const mode = (v >>> LVT_DELIVERY_SHIFT) & LVT_DELIVERY_MASK;
    const levelMode = mode === DELIVERY_EXTINT || (mode === DELIVERY_FIXED && (v & LVT_LEVEL) !== 0);
    if (levelMode && (this.lint & (1 << (entry - LVT_LINT0))) !== 0) this.lintAsserted(entry);
  }

  private sendIpi(lo: number, dest: number, wide: boolean): void {
    const mode = (lo >>> 8) & 7;
    if ((mode === DELIVERY_FIXED || mode === DELIVERY_LOWEST) && (lo & 0xff) < 16) {
      this.error(ESR_SEND_ILLEGAL_VECTOR);
      return;
    }
    this.bus.ipi(this, lo, dest, wide);
  }

  // --- MSRs -------------------------------------------------------------------------------------------------------

  /** RDMSR IA32_APIC_BASE (0x1B). */
  readApicBase(out: MsrValue): void {
    const flags =
      (this.index === 0 ? BASE_BSP : 0) |
      (this.mode !== DISABLED ? BASE_ENABLE : 0) |
      (this.mode === X2APIC ? BASE_X2APIC : 0);
    out.lo = ((this.base >>> 0) | flags) >>> 0;
    out.hi = Math.floor(this.base / 0x1_0000_0000);
  }

  /**
   * WRMSR IA32_APIC_BASE. The BSP flag is read-only here.
   * @returns false, with no effect, for reserved bits and for transitions that do not exist, SDM figure 11-27
   */
  writeApicBase(lo: number, hi: number): boolean {
    if ((lo & 0x2ff) !== 0 || (hi & this.baseHiReserved) !== 0) return false;
    const enable = (lo & BASE_ENABLE) !== 0;
    const x2 = (lo & BASE_X2APIC) !== 0;
    if (x2 && (!enable || this.x2apic === 'absent' || this.mode === DISABLED)) return false;
    if (this.mode === X2APIC && enable && !x2) return false;
    const mode = !enable ? DISABLED : x2 ? X2APIC : XAPIC;
    this.base = hi * 0x1_0000_0000 + ((lo & 0xfffff000) >>> 0);
    if (mode === this.mode) {
      if (mode === XAPIC) this.mmioBase = this.base;
      return true;
    }
    this.mode = mode;
    if (mode === X2APIC) {
      this.icrHi = 0;
      this.modeChanged();
    } else {
      // To off, or from off to xAPIC: state is as after reset; CR8 keeps its value in between.
      const tpr = this.tpr;
      this.xapicId = this.id & 0xff;
      this.clear();
      this.tpr = tpr;
    }
    return true;
  }

  /** RDMSR 0x800–0x8FF. @returns false for #GP */
  readX2(index: number, out: MsrValue): boolean {
    if (this.mode !== X2APIC || index < 0x800 || index > 0x8ff) return false;
    const offset = (index - 0x800) << 4;
    out.hi = 0;
    switch (offset) {
      case APIC_APR:
      case APIC_EOI:
      case APIC_RRD:
      case APIC_DFR:
      case APIC_ICR_HI:
      case APIC_SELF_IPI:
        return false;
      case APIC_ICR_LO:
        out.hi = this.icrHi;
        out.lo = this.icrLo;
        return true;
    }
    if (!known(offset)) return false;
    out.lo = this.readRegister(offset);
    return true;
  }

  /** WRMSR 0x800–0x8FF. @returns false for #GP: no such register, read-only, or reserved bits set */
  writeX2(index: number, lo: number, hi: number): boolean {
    if (this.mode !== X2APIC || index < 0x800 || index > 0x8ff) return false;
    const offset = (index - 0x800) << 4;
    if (offset === APIC_ICR_LO) {
      // Bit 12 was delivery status; senders that copy it back do no harm.
      if ((lo & ~(ICR_LO_WRITABLE | ICR_BUSY)) !== 0) return false;
      this.icrLo = lo & ICR_LO_WRITABLE;
      this.icrHi = hi;
      this.sendIpi(this.icrLo, hi, true);
      return true;
    }
    if (hi !== 0) return false;
    let reserved: number;
    switch (offset) {
      case APIC_TPR:
        reserved = ~0xff;
        break;
      case APIC_EOI:
      case APIC_ESR:
        reserved = ~0;
        break;
      case APIC_SVR:
        reserved = ~SVR_WRITABLE;
        break;
      case APIC_TIMER_ICR:
        reserved = 0;
        break;
      case APIC_TIMER_DCR:
        reserved = ~0xb;
        break;
      case APIC_LVT_CMCI:
        reserved = ~((LVT_WRITABLE[LVT_CMCI] as number) | ICR_BUSY);
        break;
      case APIC_SELF_IPI:
        if ((lo & ~0xff) !== 0) return false;
        this.sendIpi(lo | (1 << 18), 0, true);
        return true;
      default: {
        if (offset < APIC_LVT_TIMER || offset > APIC_LVT_ERROR) return false;
        const entry = ((offset - APIC_LVT_TIMER) >>> 4) + LVT_TIMER;
        // Delivery status and remote IRR are read-only, not reserved.
        reserved = ~(
          (LVT_WRITABLE[entry] as number) |
          ICR_BUSY |
          (entry === LVT_LINT0 || entry === LVT_LINT0 + 1 ? LVT_REMOTE_IRR : 0)
        );
        if (entry === LVT_TIMER && !this.deadlineMode) reserved |= 1 << 18;
      }
    }
    if ((lo & reserved) !== 0) return false;
    this.writeRegister(offset, lo);
    return true;
  }
}

/** Whether x2APIC mode has a readable register at this offset, apart from the ones handled by name. */
function known(offset: number): boolean {
  if (offset >= APIC_ISR && offset <= APIC_ESR) return true;
  if (offset >= APIC_LVT_TIMER && offset <= APIC_TIMER_CCR) return true;
  switch (offset) {
    case APIC_ID:
    case APIC_VERSION:
    case APIC_TPR:
    case APIC_PPR:
    case APIC_LDR:
    case APIC_SVR:
    case APIC_LVT_CMCI:
    case APIC_TIMER_DCR:
      return true;
    default:
      return false;
  }
}
