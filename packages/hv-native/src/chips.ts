// The kernel's interrupt controllers and timer at rest: between KVM's structures and the states that @hyve/vmm's chips of the
// same name save, so that a machine moves between engines. Linux api.rst, KVM_GET_LAPIC, KVM_GET_IRQCHIP, KVM_GET_PIT2.
import { StateReader } from '@hyve/core';
import * as K from './bits.ts';

// --- Local APIC -------------------------------------------------------------------------------------------------------

/** What KVM keeps of a local APIC, in three places. */
export interface RawLocalApic {
  /** The register page's first KiB. */
  readonly page: Uint8Array;
  /** IA32_APIC_BASE. */
  base: bigint;
  /** IA32_TSC_DEADLINE. */
  deadline: bigint;
}

const APIC_FLAGS = BigInt(K.APIC_BASE_ENABLE | K.APIC_BASE_X2APIC | (1 << 8));
const PAGE_BITS = 0xfffn;

/** Ticks of the APIC timer, of 1 ns, that one count takes with this divide register. SDM vol. 3 figure 11-10. */
function divider(dcr: number): number {
  return 1 << ((((dcr & 3) | ((dcr & 8) >> 1)) + 1) & 7);
}

/** LocalApicStateV1 of @hyve/vmm. */
export function saveLocalApic(raw: RawLocalApic): object {
  const view = viewOf(raw.page);
  const word = (at: number): number => view.getUint32(at, true);
  const words = (at: number): number[] => Array.from({ length: 8 }, (_, i) => word(at + 16 * i));
  const flags = Number(raw.base & APIC_FLAGS);
  const left = word(K.APIC_TIMER_NOW);
  const divide = word(K.APIC_TIMER_DIVIDE) & 0xb;
  return {
    v: 1,
    base: Number(raw.base & ~PAGE_BITS),
    mode: (flags & K.APIC_BASE_ENABLE) === 0 ? 0 : (flags & K.APIC_BASE_X2APIC) === 0 ? 1 : 2,
    xapicId: word(K.APIC_ID) >>> 24,
    tpr: word(K.APIC_TPR) & 0xff,
    ldr: word(K.APIC_LDR),
    dfr: word(K.APIC_DFR),
    svr: word(K.APIC_SVR) & 0x3ff,
    esr: word(K.APIC_ESR) & 0xff,
    esrPending: 0,
    icr: [word(K.APIC_ICR_LO), word(K.APIC_ICR_HI)],
    lvt: K.APIC_LVT.map(word),
    irr: words(K.APIC_IRR),
    isr: words(K.APIC_ISR),
    tmr: words(K.APIC_TMR),
    timerInit: word(K.APIC_TIMER_INIT),
    timerDivide: divide,
    timerDueInNs: left === 0 || word(K.APIC_TIMER_INIT) === 0 ? null : left * divider(divide),
    owedTicks: 0,
    tscDeadline: [Number(raw.deadline & 0xffffffffn), Number(raw.deadline >> 32n)],
    lint: 0,
    nmis: 0,
    init: false,
    sipi: -1,
    extInt: false,
  };
}

/** Puts a LocalApicStateV1 over what a kernel's local APIC has now. @throws HyveError `STATE_FORMAT`, `STATE_VERSION` */
export function loadLocalApic(state: unknown, index: number, raw: RawLocalApic): void {
  const s = new StateReader(`local APIC ${index}`, state, 1);
  const view = viewOf(raw.page);
  const put = (at: number, v: number): void => view.setUint32(at, v, true);
  const put8 = (at: number, v: readonly number[]): void => {
    v.forEach((w, i) => {
      put(at + 16 * i, w);
    });
  };
  const mode = s.int('mode', 0, 2);
  const base = BigInt(s.int('base', 0, 2 ** 52 - 4096)) & ~PAGE_BITS;
  const flags = (mode === 0 ? 0 : K.APIC_BASE_ENABLE) | (mode === 2 ? K.APIC_BASE_X2APIC : 0);
  raw.base = base | (raw.base & 0x100n) | BigInt(flags);
  put(K.APIC_ID, (s.int('xapicId', 0, 0xff) << 24) >>> 0);
  put(K.APIC_TPR, s.int('tpr', 0, 0xff));
  put(K.APIC_LDR, s.int('ldr', 0, 0xffffffff));
  put(K.APIC_DFR, s.int('dfr', 0, 0xffffffff));
  put(K.APIC_SVR, s.int('svr', 0, 0x3ff));
  put(K.APIC_ESR, s.int('esr', 0, 0xff));
  const [icrLo = 0, icrHi = 0] = s.words('icr', 2);
  put(K.APIC_ICR_LO, icrLo);
  put(K.APIC_ICR_HI, icrHi);
  s.words('lvt', 7).forEach((w, i) => {
    put(K.APIC_LVT[i] as number, w);
  });
  put8(K.APIC_IRR, s.words('irr', 8));
  put8(K.APIC_ISR, s.words('isr', 8));
  put8(K.APIC_TMR, s.words('tmr', 8));
  const divide = s.int('timerDivide', 0, 0xb);
  const init = s.int('timerInit', 0, 0xffffffff);
  const due = s.time('timerDueInNs');
  put(K.APIC_TIMER_DIVIDE, divide);
  put(K.APIC_TIMER_INIT, init);
  // Late ticks are one that is due at once.
  const left = due === null ? 0 : Math.min(init, Math.max(1, Math.round(due / divider(divide))));
  put(K.APIC_TIMER_NOW, left);
  const [lo = 0, hi = 0] = s.words('tscDeadline', 2);
  raw.deadline = (BigInt(hi) << 32n) | BigInt(lo);
}

// --- 8259 pair --------------------------------------------------------------------------------------------------------

/** PicStateV1 of @hyve/vmm. @param pair the kernel's structures of master and slave */
export function savePic(pair: readonly Uint8Array[]): object {
  const chips = pair.map((bytes) => {
    const r = (at: number): number => bytes[K.CHIP_REGISTERS + at] as number;
    const init = r(K.PIC_INIT_STATE);
    return {
      latch: r(K.PIC_IRR) & ~r(K.PIC_ELCR) & 0xff,
      imr: r(K.PIC_IMR),
      isr: r(K.PIC_ISR),
      elcr: r(K.PIC_ELCR),
      base: r(K.PIC_BASE) & 0xf8,
      lowest: (r(K.PIC_PRIORITY_ADD) - 1) & 7,
      step: init === 0 ? 0 : init + 1,
      icw1: 0x10 | (r(K.PIC_INIT4) & 1),
      icw4: 1 | (r(K.PIC_AUTO_EOI) !== 0 ? 2 : 0) | (r(K.PIC_SFNM) !== 0 ? 0x10 : 0),
      readIsr: r(K.PIC_READ_ISR) !== 0,
      poll: r(K.PIC_POLL) !== 0,
      specialMask: r(K.PIC_SPECIAL_MASK) !== 0,
      rotateAeoi: r(K.PIC_ROTATE_AEOI) !== 0,
    };
  });
  return { v: 1, chips, slaveOut: ((chips[0] as { latch: number }).latch & 4) !== 0 };
}

/** Puts a PicStateV1 into the kernel's structures. @param lines levels of the 16 inputs, a bit each */
export function loadPic(state: unknown, lines: number, pair: readonly Uint8Array[]): void {
  const chips = new StateReader('pic', state, 1).items('chips', 2);
  pair.forEach((bytes, i) => {
    const s = chips[i] as StateReader;
    const w = (at: number, v: number | boolean): void => {
      bytes[K.CHIP_REGISTERS + at] = Number(v);
    };
    const level = (lines >>> (8 * i)) & 0xff;
    const elcr = s.int('elcr', 0, 0xff);
    const step = s.int('step', 0, 4);
    const icw4 = s.int('icw4', 0, 0xff);
    w(K.PIC_LAST_IRR, level);
    w(K.PIC_IRR, (s.int('latch', 0, 0xff) & ~elcr) | (level & elcr));
    w(K.PIC_IMR, s.int('imr', 0, 0xff));
    w(K.PIC_ISR, s.int('isr', 0, 0xff));
    w(K.PIC_ELCR, elcr);
    w(K.PIC_BASE, s.int('base', 0, 0xff) & 0xf8);
    w(K.PIC_PRIORITY_ADD, (s.int('lowest', 0, 7) + 1) & 7);
    w(K.PIC_INIT_STATE, Math.max(0, step - 1));
    w(K.PIC_INIT4, s.int('icw1', 0, 0xff) & 1);
    w(K.PIC_AUTO_EOI, (icw4 & 2) !== 0);
    w(K.PIC_SFNM, (icw4 & 0x10) !== 0);
    w(K.PIC_READ_ISR, s.bool('readIsr'));
    w(K.PIC_POLL, s.bool('poll'));
    w(K.PIC_SPECIAL_MASK, s.bool('specialMask'));
    w(K.PIC_ROTATE_AEOI, s.bool('rotateAeoi'));
  });
}

// --- I/O APIC ---------------------------------------------------------------------------------------------------------

const PINS = 24;
const RTE_STATUS = 1 << 12;
const RTE_REMOTE_IRR = 1 << 14;
const RTE_LEVEL = 1 << 15;

/** IoApicStateV1 of @hyve/vmm. */
export function saveIoApic(bytes: Uint8Array): object {
  const view = viewOf(bytes.subarray(K.CHIP_REGISTERS));
  const half = (n: number, hi: number): number => view.getUint32(K.IOAPIC_ENTRIES + 8 * n + 4 * hi, true);
  const pins = Array.from({ length: PINS }, (_, n) => n);
  return {
    v: 1,
    index: view.getUint32(K.IOAPIC_INDEX, true) & 0xff,
    id: ((view.getUint32(K.IOAPIC_ID, true) & 15) << 24) >>> 0,
    lo: pins.map((n) => (half(n, 0) & ~RTE_STATUS) >>> 0),
    hi: pins.map((n) => half(n, 1)),
  };
}

/** Puts an IoApicStateV1 into the kernel's structure. @param lines levels of the 24 inputs, a bit each */
export function loadIoApic(state: unknown, lines: number, bytes: Uint8Array): void {
  const s = new StateReader('ioapic', state, 1);
  const view = viewOf(bytes.subarray(K.CHIP_REGISTERS));
  const lo = s.words('lo', PINS);
  const hi = s.words('hi', PINS);
  view.setUint32(K.IOAPIC_INDEX, s.int('index', 0, 0xff), true);
  view.setUint32(K.IOAPIC_ID, s.int('id', 0, 0x0fffffff) >>> 24, true);
  // An input that is up sends again if its entry is level-triggered and nobody works on it; edges have been sent.
  let irr = 0;
  for (let n = 0; n < PINS; n++) {
    const low = lo[n] as number;
    if ((low & RTE_LEVEL) !== 0 && ((lines >>> n) & 1) !== 0) irr |= 1 << n;
    const keep = (low & RTE_LEVEL) === 0 ? ~RTE_REMOTE_IRR : -1;
    view.setUint32(K.IOAPIC_ENTRIES + 8 * n, (low & keep) >>> 0, true);
    view.setUint32(K.IOAPIC_ENTRIES + 8 * n + 4, hi[n] as number, true);
  }
  view.setUint32(K.IOAPIC_IRR, irr >>> 0, true);
}

/** All entries masked: levels can be told without a message going out. */
export function maskIoApic(bytes: Uint8Array): void {
  const view = viewOf(bytes.subarray(K.CHIP_REGISTERS));
  view.setUint32(K.IOAPIC_IRR, 0, true);
  for (let n = 0; n < PINS; n++) view.setUint32(K.IOAPIC_ENTRIES + 8 * n, 1 << 16, true);
}

// --- PIT --------------------------------------------------------------------------------------------------------------

/** Input clock of the counters, Hz. */
const PIT_HZ = 1193182;
/** The kernel's counter after power-on: it does not count. */
const NO_MODE = 0xff;
const RW_BOTH = 3;
const FAR = Number.MAX_SAFE_INTEGER;

/** PitStateV1 of @hyve/vmm. @param nowNs CLOCK_MONOTONIC of the host */
export function savePit(bytes: Uint8Array, nowNs: bigint): object {
  const view = viewOf(bytes);
  const flags = view.getUint32(K.PIT_FLAGS, true);
  const counters = [0, 1, 2].map((n) => {
    const at = n * K.PIT_CHANNEL_SIZE;
    const u8 = (f: number): number => view.getUint8(at + f);
    const mode = u8(K.PIT_MODE);
    const rw = u8(K.PIT_RW_MODE) & 3 || RW_BOTH;
    const known = mode !== NO_MODE;
    const latched = u8(K.PIT_COUNT_LATCHED);
    const since = Number(view.getBigInt64(at + K.PIT_LOAD_TIME, true) - nowNs) * (PIT_HZ / 1e9);
    const gate = u8(K.PIT_GATE) !== 0;
    const count = Math.min(0x10000, view.getUint32(at + K.PIT_COUNT, true) || 0x10000);
    return {
      control: (rw << 4) | ((known ? mode & 7 : 0) << 1) | (u8(K.PIT_BCD) & 1),
      gate,
      running: known,
      count: known ? count : 0,
      start: known ? Math.round(since) : 0,
      held: -1,
      nextCount: 0,
      switchAt: FAR,
      nextStart: 0,
      idle: 0,
      outBefore: true,
      writeLow: u8(K.PIT_WRITE_STATE) === K.PIT_WORD1 ? u8(K.PIT_WRITE_LATCH) : -1,
      readHigh: latched !== 0 ? rw === RW_BOTH && latched === 2 : u8(K.PIT_READ_STATE) === K.PIT_WORD1,
      latched: latched !== 0 ? view.getUint16(at + K.PIT_LATCHED_COUNT, true) : -1,
      status: u8(K.PIT_STATUS_LATCHED) !== 0 ? u8(K.PIT_STATUS) : -1,
    };
  });
  const gate2 = (counters[2] as { gate: boolean }).gate ? 1 : 0;
  const speaker = (flags & K.PIT_FLAG_SPEAKER) !== 0 ? 2 : 0;
  return { v: 1, counters, nmisc: gate2 | speaker, owed: 0, irqEnabled: (flags & K.PIT_FLAG_HPET) === 0 };
}

/** Puts a PitStateV1 into the kernel's structure. The kernel begins each count anew. */
export function loadPit(state: unknown, bytes: Uint8Array): void {
  const s = new StateReader('pit', state, 1);
  const counters = s.items('counters', 3);
  const nmisc = s.int('nmisc', 0, 15);
  const view = viewOf(bytes);
  counters.forEach((c, n) => {
    const at = n * K.PIT_CHANNEL_SIZE;
    const w = (f: number, v: number | boolean): void => view.setUint8(at + f, Number(v));
    const control = c.int('control', 0, 0x3f);
    const rw = (control >> 4) & 3 || RW_BOTH;
    const running = c.bool('running');
    const writeLow = c.int('writeLow', -1, 0xff);
    const readHigh = c.bool('readHigh');
    const latched = c.int('latched', -1, 0xffff);
    const status = c.int('status', -1, 0xff);
    const fresh = !running && control === RW_BOTH << 4;
    view.setUint32(at + K.PIT_COUNT, running ? c.int('count', 0, 0x10000) : 0, true);
    view.setUint16(at + K.PIT_LATCHED_COUNT, Math.max(0, latched), true);
    w(K.PIT_COUNT_LATCHED, latched < 0 ? 0 : rw === RW_BOTH ? (readHigh ? 2 : K.PIT_WORD0) : rw);
    w(K.PIT_STATUS_LATCHED, status >= 0);
    w(K.PIT_STATUS, Math.max(0, status));
    w(K.PIT_READ_STATE, rw !== RW_BOTH ? rw : readHigh && latched < 0 ? K.PIT_WORD1 : K.PIT_WORD0);
    w(K.PIT_WRITE_STATE, rw !== RW_BOTH ? rw : writeLow >= 0 ? K.PIT_WORD1 : K.PIT_WORD0);
    w(K.PIT_WRITE_LATCH, Math.max(0, writeLow));
    w(K.PIT_RW_MODE, rw);
    w(K.PIT_MODE, fresh ? NO_MODE : (control >> 1) & 7);
    w(K.PIT_BCD, control & 1);
    w(K.PIT_GATE, c.bool('gate'));
  });
  const flags = (s.bool('irqEnabled') ? 0 : K.PIT_FLAG_HPET) | ((nmisc & 2) !== 0 ? K.PIT_FLAG_SPEAKER : 0);
  view.setUint32(K.PIT_FLAGS, flags, true);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
