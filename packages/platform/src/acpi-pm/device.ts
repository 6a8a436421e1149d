// ACPI PM1 registers, power button and SCI (ACPI 6.5 §4.8.3). Mirrors bhyve's pm.c.
import type { Claim, Device, IoBus, IoHandler, IrqLine, Width } from '@hyve/core';
import { checkState } from '../state.ts';
import {
  ACPI_DISABLE,
  ACPI_ENABLE,
  GUEST_NOTIFY,
  PM1_BASE,
  PM1_CNT,
  PM1_CNT_STORED,
  PM1_EN,
  PM1_EVENTS,
  PM1_GBL,
  PM1_LENGTH,
  PM1_PWRBTN,
  PM1_RTC,
  PM1_SCI_EN,
  PM1_SLP_EN,
  PM1_SLP_TYP_MASK,
  PM1_SLP_TYP_SHIFT,
  PM1_STS,
  PM1_TMR,
  SLP_TYP_S5,
} from './bits.ts';

/** General-purpose events the optional GPE0 block has. */
const GPE_COUNT = 32;
/** GPE0 block: four status bytes, four enable bytes. */
const GPE_LENGTH = 8;

/** Options of {@link AcpiPm}. */
export interface AcpiPmOptions {
  /** For messages and saved state. Default `acpi-pm`. */
  readonly name?: string;
  /** The SCI: IRQ 9, level. */
  readonly sci: IrqLine;
  /** The guest entered S5: power off. Called from within the guest's port write; stop the VM after this access. */
  readonly onPowerOff: () => void;
}

/** Saved state of an {@link AcpiPm}. */
export interface AcpiPmStateV1 {
  readonly v: 1;
  readonly status: number;
  readonly enable: number;
  readonly control: number;
  readonly gpeStatus: number;
  readonly gpeEnable: number;
}

/**
 * PM1 event and control registers and an optional block of 32 general-purpose events. ACPI mode is off at reset; the
 * guest turns it on through the SMI command port (see {@link AcpiPm.smiCommand}) or by writing SCI_EN, as UEFI does.
 *
 * Not modelled: sleep states other than S5 (SLP_EN with another type does nothing), wake status, the global lock's SMI,
 * PM1b, processor power registers; the PM timer lives elsewhere.
 * @example
 * const pm = new AcpiPm({ sci: pic.connect(9, 'sci'), onPowerOff: () => vm.stop('power-off') });
 * claimAcpiPm(pio, pm);
 * process.on('SIGTERM', () => pm.pressPowerButton() || process.exit(143));
 */
export class AcpiPm implements IoHandler, Device {
  readonly name: string;
  private readonly sci: IrqLine;
  private readonly onPowerOff: () => void;
  private status = 0;
  private enable = 0;
  private control = 0;
  private gpeStatus = 0;
  private gpeEnable = 0;
  private presses = 0;
  /** Registers of the GPE0 block: status at 0–3, enable at 4–7, byte accesses. For {@link claimAcpiPm}. */
  readonly gpe0: IoHandler;

  constructor(o: AcpiPmOptions) {
    this.name = o.name ?? 'acpi-pm';
    this.sci = o.sci;
    this.onPowerOff = o.onPowerOff;
    this.gpe0 = {
      read: (offset) => this.readGpe(offset),
      write: (offset, _width, value) => this.writeGpe(offset, value),
    };
  }

  /** Whether the guest has taken over power management (SCI_EN). */
  get acpiEnabled(): boolean {
    return (this.control & PM1_SCI_EN) !== 0;
  }

  /**
   * Presses the power button. True if the guest gets an interrupt for it (or has one pending); false if the guest is not
   * in ACPI mode or does not listen to the button, so that the caller may turn to other means.
   */
  pressPowerButton(): boolean {
    this.presses++;
    if (!this.acpiEnabled) return false;
    this.raise(PM1_PWRBTN);
    return (this.enable & PM1_PWRBTN) !== 0;
  }

  /** The RTC's alarm went off: sets RTC_STS. */
  rtcAlarm(): void {
    this.raise(PM1_RTC);
  }

  /** The PM timer's top bit changed: sets TMR_STS. */
  timerCarry(): void {
    this.raise(PM1_TMR);
  }

  /** Firmware released the global lock: sets GBL_STS. */
  globalLockReleased(): void {
    this.raise(PM1_GBL);
  }

  /** Raises general-purpose event `n`, 0–31. Others are ignored. */
  raiseGpe(n: number): void {
    if (!(n >= 0 && n < GPE_COUNT)) return;
    this.gpeStatus = (this.gpeStatus | (1 << n)) >>> 0;
    this.updateSci();
  }

  /** The guest wrote the SMI command port: 0xA0 turns ACPI mode on, 0xA1 off; others do nothing. True if it was one of them. */
  smiCommand(command: number): boolean {
    if (command === ACPI_ENABLE) this.control |= PM1_SCI_EN;
    else if (command === ACPI_DISABLE) this.control &= ~PM1_SCI_EN;
    else return false;
    this.updateSci();
    return true;
  }

  /** Offset 0 status, 2 enable, 4 control; bytes or aligned words (the bus splits others). */
  read(offset: number, width: Width): number {
    const reg = offset & ~1;
    const v = reg === PM1_STS ? this.status : reg === PM1_EN ? this.enable : reg === PM1_CNT ? this.control : 0xffff;
    if (width === 1) return (offset & 1) !== 0 ? v >> 8 : v & 0xff;
    if ((offset & 1) === 0) return v;
    return this.read(offset, 1) | (this.read(offset + 1, 1) << 8);
  }

  write(offset: number, width: Width, value: number): void {
    const odd = (offset & 1) !== 0;
    if (width !== 1 && odd) {
      this.write(offset, 1, value & 0xff);
      this.write(offset + 1, 1, value >> 8);
      return;
    }
    const bits = odd ? value << 8 : value;
    const kept = width !== 1 ? 0 : odd ? 0x00ff : 0xff00;
    switch (offset & ~1) {
      case PM1_STS:
        this.status &= ~bits;
        break;
      case PM1_EN:
        this.enable = ((this.enable & kept) | bits) & PM1_EVENTS;
        break;
      case PM1_CNT: {
        const v = (this.control & kept) | bits;
        this.control = v & PM1_CNT_STORED;
        // SLP_EN is in the high byte; the type counts as it stands with this write.
        if ((bits & PM1_SLP_EN) !== 0 && ((v >> PM1_SLP_TYP_SHIFT) & PM1_SLP_TYP_MASK) === SLP_TYP_S5) {
          this.updateSci();
          this.onPowerOff();
          return;
        }
        break;
      }
    }
    this.updateSci();
  }

  private readGpe(offset: number): number {
    if (offset < 4) return (this.gpeStatus >>> (8 * offset)) & 0xff;
    return (this.gpeEnable >>> (8 * (offset - 4))) & 0xff;
  }

  private writeGpe(offset: number, value: number): void {
    if (offset < 4) {
      this.gpeStatus = (this.gpeStatus & ~(value << (8 * offset))) >>> 0;
    } else {
      const shift = 8 * (offset - 4);
      this.gpeEnable = ((this.gpeEnable & ~(0xff << shift)) | (value << shift)) >>> 0;
    }
    this.updateSci();
  }

  private raise(event: number): void {
    this.status |= event;
    this.updateSci();
  }

  private get sciLevel(): boolean {
    return this.acpiEnabled && ((this.status & this.enable) !== 0 || (this.gpeStatus & this.gpeEnable) !== 0);
  }

  private updateSci(): void {
    this.sci.set(this.sciLevel);
  }

  reset(): void {
    this.status = 0;
    this.enable = 0;
    this.control = 0;
    this.gpeStatus = 0;
    this.gpeEnable = 0;
    this.updateSci();
  }

  save(): AcpiPmStateV1 {
    return {
      v: 1,
      status: this.status,
      enable: this.enable,
      control: this.control,
      gpeStatus: this.gpeStatus,
      gpeEnable: this.gpeEnable,
    };
  }

  load(state: unknown): void {
    checkState(this.name, state, 1);
    const s = state as AcpiPmStateV1;
    this.status = s.status & 0xffff;
    this.enable = s.enable & PM1_EVENTS;
    this.control = s.control & PM1_CNT_STORED;
    this.gpeStatus = s.gpeStatus >>> 0;
    this.gpeEnable = s.gpeEnable >>> 0;
    this.sci.restore(this.sciLevel);
  }

  counters(): Readonly<Record<string, number>> {
    return { powerButtonPresses: this.presses };
  }
}

/**
 * Puts the PM1 block at 0x400–0x405 and the guest-notify port at 0x488, which takes anything and answers nothing.
 * @param o.gpe0 first port of the GPE0 block (8 bytes); absent: no block. The PM timer's 0x408–0x40B is not free for it.
 * @throws HyveError `BUS_OVERLAP` when a port is taken
 */
export function claimAcpiPm(pio: IoBus, pm: AcpiPm, o: { gpe0?: number } = {}): readonly Claim[] {
  const notify: IoHandler = { read: () => 0xff, write: () => {} };
  const claims = [
    pio.claim(PM1_BASE, PM1_LENGTH, pm, { name: 'acpi-pm1', widths: 3 }),
    pio.claim(GUEST_NOTIFY, 1, notify, { name: 'guest-notify', widths: 1 }),
  ];
  if (o.gpe0 !== undefined) claims.push(pio.claim(o.gpe0, GPE_LENGTH, pm.gpe0, { name: 'acpi-gpe0', widths: 1 }));
  return claims;
}
