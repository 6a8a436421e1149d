// MC146818A real-time clock with its battery-backed memory as a PC has it: ports 0x70-0x73, IRQ 8. Motorola data sheet
// ADI1164; memory-size bytes as SeaBIOS and edk2 read them. Mirrors bhyve's vrtc.c and the guest's view of rtc.c.
import {
  type Clock,
  type Device,
  HyveError,
  type IoBus,
  type IoHandler,
  type IrqLine,
  StateReader,
  type Timer,
  type Width,
} from '@hyve/core';
import { nsOfTick, ticksAt } from '../chip/ticks.ts';
import {
  A_DEFAULT,
  A_DV_RUN,
  A_DV_RUN_MASK,
  A_RS_MASK,
  A_UIP,
  ALARM_ANY,
  B_24H,
  B_AIE,
  B_DEFAULT,
  B_DM,
  B_PIE,
  B_SET,
  B_SQWE,
  B_UIE,
  C_AF,
  C_IRQF,
  C_PF,
  C_UF,
  CENTURY,
  CENTURY_PS2,
  CMOS_BASE_KIB,
  CMOS_EXT_KIB,
  CMOS_EXT_KIB2,
  CMOS_HIGHMEM,
  CMOS_MEM16M,
  CMOS_SUM,
  CMOS_SUM_FIRST,
  CMOS_SUM_LAST,
  CRYSTAL_HZ,
  D_VRT,
  DAY_OF_MONTH,
  DAY_OF_WEEK,
  HOURS,
  HOURS_ALARM,
  HOURS_PM,
  INDEX_MASK,
  INDEX_NMI_MASK,
  MINUTES,
  MINUTES_ALARM,
  MONTH,
  NVRAM,
  REG_A,
  REG_B,
  REG_C,
  REG_D,
  RTC_PORT,
  RTC_PORTS,
  SECONDS,
  SECONDS_ALARM,
  UIP_NS,
  YEAR,
} from './bits.ts';
import { daysFromDate, daysInMonth, yearOfDay } from './calendar.ts';

const NS_PER_S = 1_000_000_000;
const DAY_S = 86400;
const NEVER = Number.POSITIVE_INFINITY;
const INTERRUPTS = C_PF | C_AF | C_UF;
/** Seconds whose date has a four-digit year: 0000-01-01 to 9999-12-31. */
const FIRST_SECOND = -62_167_219_200;
const CYCLE_S = 315_569_520_000;

/** Saved state of {@link Rtc}. */
export interface RtcStateV1 {
  /** Version. */
  readonly v: 1;
  /** All 128 registers and memory bytes. */
  readonly ram: readonly number[];
  /** The extended bank. */
  readonly extended: readonly number[];
  /** Last value of port 0x70, bits 6-0. */
  readonly index: number;
  /** Last value of port 0x72, bits 6-0. */
  readonly extendedIndex: number;
  /** Bit 7 of port 0x70. */
  readonly nmiMasked: boolean;
  /** The guest's time, seconds since 1970 in the zone the clock keeps. */
  readonly second: number;
  /** Nanoseconds since the divider's last whole second. */
  readonly phaseNs: number;
  /** Days by which the guest's day of the week differs from the calendar's. */
  readonly weekdaySkew: number;
  /** The guest left a date that does not exist; the time stands still. */
  readonly broken: boolean;
  /** Whether the chip drives its line (off while the HPET replaces it). */
  readonly irqEnabled: boolean;
}

/** What {@link Rtc} needs. */
export interface RtcOptions {
  /** Guest time; the RTC advances with it. */
  readonly clock: Clock;
  /** IRQ 8. */
  readonly irq: IrqLine;
  /** Wall-clock time at `clock.now()` = 0, in milliseconds since 1970-01-01 UTC. Called once, at construction. */
  readonly wallClock: () => number;
  /** What the RTC shows: UTC, or the host's local time with the offset of that moment. Default `utc`. */
  readonly time?: 'utc' | 'local';
  /** RAM below 4 GiB, bytes. */
  readonly lowmem: number;
  /** RAM from 4 GiB, bytes. Default 0. */
  readonly highmem?: number;
  /** Bit 7 of port 0x70 changed: NMI is masked or not. */
  readonly onNmiMask?: (masked: boolean) => void;
  /** Name in messages and saved state. Default `rtc`. */
  readonly name?: string;
}

/**
 * The clock and 2 × 128 bytes of memory. Flags and time are computed at the moment of the access; a timer waits only for
 * interrupts that are enabled, and only while none is pending, so a guest that does not answer costs nothing.
 *
 * `reset()` is the chip's RESET pin: interrupts off, flags clear; time and memory are battery-backed and stay, except the
 * memory-size bytes, which firmware would write again. A date that does not exist stands still until the guest sets one
 * that does.
 *
 * Not modelled: dividers other than 32.768 kHz (they stop the clock), daylight saving (B bit 0 is stored), square wave,
 * sub-cycle garbage in the time registers during an update.
 * @example
 * const rtc = new Rtc({ clock, irq: irq8, wallClock: () => startMs, lowmem: 256 << 20 });
 * claimRtc(pio, rtc);
 */
export class Rtc implements Device, IoHandler {
  readonly name: string;
  private readonly clock: Clock;
  private readonly irq: IrqLine;
  private readonly onNmiMask: ((masked: boolean) => void) | null;
  private readonly timer: Timer;
  private readonly lowmem: number;
  private readonly highmem: number;
  private readonly ram: Uint8Array = new Uint8Array(128);
  private readonly extended: Uint8Array = new Uint8Array(128);
  private index = 0;
  private extendedIndex = 0;
  private masked = false;
  /** Clock time at which the divider chain was at a whole second. */
  private origin = 0;
  /** The second shown is `base` + whole seconds since origin, while running; `second` otherwise. */
  private base = 0;
  private second = 0;
  /** Crystal ticks since origin up to which the periodic flag is settled. */
  private ticked = 0;
  private weekdaySkew = 0;
  private broken = false;
  private irqEnabled = true;
  private level = false;

  /** @throws HyveError `RTC_MEMORY` for sizes that are not non-negative numbers */
  constructor(o: RtcOptions) {
    this.name = o.name ?? 'rtc';
    this.clock = o.clock;
    this.irq = o.irq;
    this.onNmiMask = o.onNmiMask ?? null;
    this.timer = o.clock.timer(() => this.fire());
    this.lowmem = o.lowmem;
    this.highmem = o.highmem ?? 0;
    if (!(this.lowmem >= 0) || !(this.highmem >= 0))
      throw new HyveError('RTC_MEMORY', `${this.name}: lowmem ${this.lowmem}, highmem ${this.highmem}, expected bytes`);
    let ms = o.wallClock();
    if (o.time === 'local') ms -= new Date(ms).getTimezoneOffset() * 60_000;
    const s = Math.floor(ms / 1000);
    this.origin = -Math.floor((ms - s * 1000) * 1e6);
    this.base = s;
    this.ram[REG_A] = A_DEFAULT;
    this.ram[REG_B] = B_DEFAULT;
    const now = this.now();
    this.second = s + this.wholeSeconds(now);
    this.ticked = ticksAt(now - this.origin, CRYSTAL_HZ);
    this.show();
    this.writeSizes();
  }

  /** Bit 7 of the guest's last write to port 0x70. */
  get nmiMasked(): boolean {
    return this.masked;
  }

  /** Sets a byte of plain memory (0x0E-0x7F), as firmware does before it starts a guest. The century byte is the clock's. */
  setNvram(offset: number, value: number): void {
    if (offset >= NVRAM && offset <= INDEX_MASK && offset !== CENTURY && offset !== CENTURY_PS2)
      this.ram[offset] = value;
  }

  private now(): number {
    return Math.floor(this.clock.now());
  }

  private wholeSeconds(now: number): number {
    return Math.floor((now - this.origin) / NS_PER_S);
  }

  private reg(index: number): number {
    return this.ram[index] as number;
  }

  private get dividing(): boolean {
    return (this.reg(REG_A) & A_DV_RUN_MASK) === A_DV_RUN;
  }

  /** Whether seconds pass. */
  private get running(): boolean {
    return this.dividing && (this.reg(REG_B) & B_SET) === 0 && !this.broken;
  }

  /** Crystal ticks in a period of the periodic interrupt, or 0. Rates 1 and 2 repeat 8 and 9 (data sheet, table 5). */
  private get periodTicks(): number {
    const rs = this.reg(REG_A) & A_RS_MASK;
    return rs === 0 ? 0 : 1 << (rs <= 2 ? rs + 6 : rs - 1);
  }

  // -- Time ------------------------------------------------------------------------------------------------------------

  /** Brings flags and time registers to `now`. */
  private sync(now: number): void {
    if (!this.dividing) return;
    const t = ticksAt(now - this.origin, CRYSTAL_HZ);
    const period = this.periodTicks;
    if (period !== 0 && Math.floor(t / period) > Math.floor(this.ticked / period)) this.raise(C_PF);
    this.ticked = t;
    if (!this.running) return;
    const s = this.base + this.wholeSeconds(now);
    if (s <= this.second) return;
    this.raise(C_UF);
    if (this.second + 1 + this.untilAlarm(this.second + 1) <= s) this.raise(C_AF);
    this.second = s;
    this.show();
  }

  private raise(flag: number): void {
    this.ram[REG_C] = this.reg(REG_C) | flag;
  }

  private encode(v: number): number {
    return (this.reg(REG_B) & B_DM) !== 0 ? v : (Math.floor(v / 10) << 4) | (v % 10);
  }

  /** The value of a register in today's format, or -1. */
  private decode(raw: number): number {
    if ((this.reg(REG_B) & B_DM) !== 0) return raw;
    const high = raw >>> 4;
    const low = raw & 15;
    return high > 9 || low > 9 ? -1 : high * 10 + low;
  }

  /** The hour 0-23 of an hours register, or -1. */
  private decodeHour(raw: number): number {
    if ((this.reg(REG_B) & B_24H) !== 0) {
      const h = this.decode(raw);
      return h > 23 ? -1 : h;
    }
    const h = this.decode(raw & ~HOURS_PM);
    return h < 1 || h > 12 ? -1 : (h % 12) + ((raw & HOURS_PM) !== 0 ? 12 : 0);
  }

  /** Writes the time registers from `second`. */
  private show(): void {
    // Time past 9999 starts over at 0000: the calendar repeats after 10,000 years.
    const s = FIRST_SECOND + ((((this.second - FIRST_SECOND) % CYCLE_S) + CYCLE_S) % CYCLE_S);
    const days = Math.floor(s / DAY_S);
    const sod = s - days * DAY_S;
    const year = yearOfDay(days);
    let day = days - daysFromDate(year, 1, 1);
    let month = 1;
    while (day >= daysInMonth(year, month)) {
      day -= daysInMonth(year, month);
      month++;
    }
    const hour = Math.floor(sod / 3600);
    const r = this.ram;
    r[SECONDS] = this.encode(sod % 60);
    r[MINUTES] = this.encode(Math.floor(sod / 60) % 60);
    if ((this.reg(REG_B) & B_24H) !== 0) r[HOURS] = this.encode(hour);
    else r[HOURS] = this.encode(hour % 12 === 0 ? 12 : hour % 12) | (hour >= 12 ? HOURS_PM : 0);
    r[DAY_OF_WEEK] = this.encode(((((days + 4 + this.weekdaySkew) % 7) + 7) % 7) + 1);
    r[DAY_OF_MONTH] = this.encode(day + 1);
    r[MONTH] = this.encode(month);
    r[YEAR] = this.encode(year % 100);
    r[CENTURY] = this.encode(Math.floor(year / 100));
    r[CENTURY_PS2] = r[CENTURY] as number;
  }

  /** The second that the time registers spell, or NaN. */
  private spelled(): number {
    const sec = this.decode(this.reg(SECONDS));
    const min = this.decode(this.reg(MINUTES));
    const hour = this.decodeHour(this.reg(HOURS));
    const day = this.decode(this.reg(DAY_OF_MONTH));
    const month = this.decode(this.reg(MONTH));
    const yy = this.decode(this.reg(YEAR));
    if (sec < 0 || sec > 59 || min < 0 || min > 59 || hour < 0 || yy < 0 || yy > 99) return Number.NaN;
    let century = this.decode(this.reg(CENTURY));
    if (century < 0 || century > 99) century = 20;
    const year = century * 100 + yy;
    if (month < 1 || month > 12 || day < 1 || day > daysInMonth(year, month)) return Number.NaN;
    return daysFromDate(year, month, day) * DAY_S + hour * 3600 + min * 60 + sec;
  }

  /** Takes the guest's time registers as the time at `now`; the divider goes on. */
  private adopt(now: number): void {
    const s = this.spelled();
    this.broken = Number.isNaN(s);
    if (this.broken) return;
    this.second = s;
    this.base = s - this.wholeSeconds(now);
    const weekday = this.decode(this.reg(DAY_OF_WEEK));
    const days = Math.floor(s / DAY_S);
    if (weekday >= 1 && weekday <= 7) this.weekdaySkew = (((weekday - 1 - (days + 4)) % 7) + 7) % 7;
    this.show();
  }

  // -- Alarm and interrupts --------------------------------------------------------------------------------------------

  private alarmMatches(raw: number, value: number, isHour: boolean): boolean {
    if ((raw & ALARM_ANY) === ALARM_ANY) return true;
    return (isHour ? this.decodeHour(raw) : this.decode(raw)) === value;
  }

  /** Seconds from `second` until the alarm registers next match (0: now), or Infinity. At most 25 + 60 + 60 steps. */
  private untilAlarm(second: number): number {
    const sod = ((second % DAY_S) + DAY_S) % DAY_S;
    const sec = this.firstMatch(SECONDS_ALARM, 0);
    const min = this.firstMatch(MINUTES_ALARM, 0);
    const hour = this.firstMatch(HOURS_ALARM, 0);
    if (sec < 0 || min < 0 || hour < 0) return NEVER;
    const h = Math.floor(sod / 3600);
    const m = Math.floor(sod / 60) % 60;
    const rest = sod % 60;
    if (this.alarmMatches(this.reg(HOURS_ALARM), h, true)) {
      if (this.alarmMatches(this.reg(MINUTES_ALARM), m, false)) {
        const s = this.firstMatch(SECONDS_ALARM, rest);
        if (s >= 0) return s - rest;
      }
      const later = m < 59 ? this.firstMatch(MINUTES_ALARM, m + 1) : -1;
      if (later >= 0) return (later - m) * 60 + sec - rest;
    }
    const laterHour = h < 23 ? this.firstMatch(HOURS_ALARM, h + 1) : -1;
    return (laterHour >= 0 ? laterHour : hour + 24) * 3600 + min * 60 + sec - sod;
  }

  /** The first value from `from` that an alarm register matches, or -1. */
  private firstMatch(register: number, from: number): number {
    const raw = this.reg(register);
    const isHour = register === HOURS_ALARM;
    const end = isHour ? 24 : 60;
    for (let v = from; v < end; v++) if (this.alarmMatches(raw, v, isHour)) return v;
    return -1;
  }

  private get pending(): boolean {
    return (this.reg(REG_C) & this.reg(REG_B) & INTERRUPTS) !== 0;
  }

  private updateIrq(): void {
    const level = this.pending && this.irqEnabled;
    if (level === this.level) return;
    this.level = level;
    this.irq.set(level);
  }

  /** Shows the interrupt state and waits for the next event that would change it. State is settled to `now`. */
  private settle(now: number): void {
    this.updateIrq();
    let next = NEVER;
    const b = this.reg(REG_B);
    if (!this.pending && this.dividing) {
      const period = this.periodTicks;
      if ((b & B_PIE) !== 0 && period !== 0)
        next = this.origin + nsOfTick((Math.floor(this.ticked / period) + 1) * period, CRYSTAL_HZ);
      if (this.running) {
        const following = this.origin + (this.wholeSeconds(now) + 1) * NS_PER_S;
        if ((b & B_UIE) !== 0) next = Math.min(next, following);
        if ((b & B_AIE) !== 0) next = Math.min(next, following + this.untilAlarm(this.second + 1) * NS_PER_S);
      }
    }
    if (next === NEVER) this.timer.disarm();
    else this.timer.arm(next);
  }

  private fire(): void {
    const now = this.now();
    this.sync(now);
    this.settle(now);
  }

  /** Connects or cuts the interrupt line: the HPET's legacy replacement route takes IRQ 8 over (HPET 1.0a §2.3.4). */
  setIrqEnabled(on: boolean): void {
    this.irqEnabled = on;
    const now = this.now();
    this.sync(now);
    this.settle(now);
  }

  // -- Ports -----------------------------------------------------------------------------------------------------------

  read(offset: number, _width: Width): number {
    switch (offset) {
      case 1:
        return this.readRegister(this.index);
      case 2:
        return this.extendedIndex;
      case 3:
        return this.extended[this.extendedIndex] as number;
      default:
        return 0xff; // port 0x70 is write-only
    }
  }

  write(offset: number, _width: Width, value: number): void {
    switch (offset) {
      case 0: {
        this.index = value & INDEX_MASK;
        const masked = (value & INDEX_NMI_MASK) !== 0;
        if (masked === this.masked) break;
        this.masked = masked;
        if (this.onNmiMask !== null) this.onNmiMask(masked);
        break;
      }
      case 1:
        this.writeRegister(this.index, value);
        break;
      case 2:
        this.extendedIndex = value & INDEX_MASK;
        break;
      default:
        this.extended[this.extendedIndex] = value;
    }
  }

  private readRegister(index: number): number {
    if (index >= NVRAM && index !== CENTURY && index !== CENTURY_PS2) return this.reg(index);
    const now = this.now();
    this.sync(now);
    switch (index) {
      case REG_A:
        return this.reg(REG_A) | (this.updating(now) ? A_UIP : 0);
      case REG_C: {
        const v = this.reg(REG_C) | (this.pending ? C_IRQF : 0);
        this.ram[REG_C] = 0;
        this.settle(now);
        return v;
      }
      case REG_D:
        return D_VRT;
      default:
        return this.reg(index);
    }
  }

  /** Whether an update cycle is about to begin or under way; the new second shows when it ends. */
  private updating(now: number): boolean {
    if (!this.running) return false;
    const phase = now - this.origin - this.wholeSeconds(now) * NS_PER_S;
    return phase >= NS_PER_S - UIP_NS;
  }

  private writeRegister(index: number, value: number): void {
    if (index >= NVRAM && index !== CENTURY && index !== CENTURY_PS2) {
      this.ram[index] = value;
      return;
    }
    const now = this.now();
    this.sync(now);
    switch (index) {
      case REG_A:
        this.writeA(now, value);
        break;
      case REG_B:
        this.writeB(now, value);
        break;
      case REG_C:
      case REG_D:
        return;
      case SECONDS_ALARM:
      case MINUTES_ALARM:
      case HOURS_ALARM:
        this.ram[index] = value;
        break;
      default:
        this.ram[index] = value;
        if (index === CENTURY || index === CENTURY_PS2) {
          this.ram[CENTURY] = value;
          this.ram[CENTURY_PS2] = value;
        }
        if (this.dividing && (this.reg(REG_B) & B_SET) === 0) this.adopt(now);
    }
    this.settle(now);
  }

  private writeA(now: number, value: number): void {
    const was = this.dividing;
    this.ram[REG_A] = value & ~A_UIP;
    if (was || !this.dividing) return;
    // Out of reset the first update comes half a second later (data sheet, "Divider control").
    this.origin = now - NS_PER_S / 2;
    this.ticked = CRYSTAL_HZ / 2;
    if ((this.reg(REG_B) & B_SET) === 0) this.adopt(now);
  }

  private writeB(now: number, value: number): void {
    const old = this.reg(REG_B);
    const set = (value & B_SET) !== 0;
    this.ram[REG_B] = set ? value & ~B_UIE : value;
    if (set || !this.dividing) return;
    if ((old & B_SET) !== 0) this.adopt(now);
    else if (((old ^ value) & (B_DM | B_24H)) !== 0) {
      if (this.broken) this.adopt(now);
      else this.show(); // the next update would show the new format
    }
  }

  // -- Life ------------------------------------------------------------------------------------------------------------

  /** The bytes that describe memory, with the checksum over the AT's configuration bytes. */
  private writeSizes(): void {
    const kib = Math.floor(this.lowmem / 1024);
    const ext = Math.min(Math.max(kib - 1024, 0), 0xffff);
    this.put(CMOS_BASE_KIB, Math.min(kib, 640), 2);
    this.put(CMOS_EXT_KIB, ext, 2);
    this.put(CMOS_EXT_KIB2, ext, 2);
    this.put(CMOS_MEM16M, Math.min(Math.max(Math.floor(kib / 64) - 256, 0), 0xffff), 2);
    this.put(CMOS_HIGHMEM, Math.min(Math.floor(this.highmem / 65536), 0xffffff), 3);
    let sum = 0;
    for (let i = CMOS_SUM_FIRST; i <= CMOS_SUM_LAST; i++) sum += this.reg(i);
    this.ram[CMOS_SUM] = sum >>> 8;
    this.ram[CMOS_SUM + 1] = sum & 0xff;
  }

  private put(index: number, value: number, bytes: number): void {
    for (let i = 0; i < bytes; i++) this.ram[index + i] = (value >>> (8 * i)) & 0xff;
  }

  reset(): void {
    const now = this.now();
    this.sync(now);
    this.ram[REG_B] = this.reg(REG_B) & ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    this.ram[REG_C] = 0;
    this.index = 0;
    this.extendedIndex = 0;
    this.irqEnabled = true;
    this.writeSizes();
    this.settle(now);
    if (!this.masked) return;
    this.masked = false;
    if (this.onNmiMask !== null) this.onNmiMask(false);
  }

  save(): RtcStateV1 {
    const now = this.now();
    this.sync(now);
    return {
      v: 1,
      ram: Array.from(this.ram),
      extended: Array.from(this.extended),
      index: this.index,
      extendedIndex: this.extendedIndex,
      nmiMasked: this.masked,
      second: this.second,
      phaseNs: now - this.origin - this.wholeSeconds(now) * NS_PER_S,
      weekdaySkew: this.weekdaySkew,
      broken: this.broken,
      irqEnabled: this.irqEnabled,
    };
  }

  load(state: unknown): void {
    const s = new StateReader(this.name, state, 1);
    const ram = s.bytes('ram', 128);
    const extended = s.bytes('extended', 128);
    const index = s.int('index', 0, INDEX_MASK);
    const extendedIndex = s.int('extendedIndex', 0, INDEX_MASK);
    const masked = s.bool('nmiMasked');
    const second = s.span('second');
    const phaseNs = s.int('phaseNs', 0, NS_PER_S - 1);
    const weekdaySkew = s.int('weekdaySkew', 0, 6);
    const broken = s.bool('broken');
    const irqEnabled = s.bool('irqEnabled');
    const now = this.now();
    this.ram.set(ram);
    this.extended.set(extended);
    this.index = index;
    this.extendedIndex = extendedIndex;
    this.masked = masked;
    this.second = second;
    this.base = second;
    this.origin = now - phaseNs;
    this.ticked = ticksAt(phaseNs, CRYSTAL_HZ);
    this.weekdaySkew = weekdaySkew;
    this.broken = broken;
    this.irqEnabled = irqEnabled;
    this.ram[REG_A] = this.reg(REG_A) & ~A_UIP;
    this.ram[REG_C] = this.reg(REG_C) & INTERRUPTS;
    this.level = this.pending && irqEnabled;
    this.irq.restore(this.level);
    this.settle(now);
  }
}

/** Claims the PC's ports for an RTC: 0x70-0x73. @throws HyveError `BUS_OVERLAP` */
export function claimRtc(pio: IoBus, rtc: Rtc): void {
  pio.claim(RTC_PORT, RTC_PORTS, rtc, { name: rtc.name, widths: 1 });
}
