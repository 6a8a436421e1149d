// I/O APIC with 24 pins, Intel 82093AA datasheet §3 (mirrors bhyve's vioapic.c).
import {
  type Claim,
  type Device,
  HyveError,
  type InterruptController,
  type IoBus,
  type IoHandler,
  type IrqLine,
  SharedPin,
  StateReader,
  type Width,
} from '@hyve/core';
import type { EoiListener } from '../lapic/apic-bus.ts';
import { savedWords } from '../words.ts';
import {
  ID_MASK,
  IOAPIC_BASE,
  IOAPICARB,
  IOAPICID,
  IOAPICVER,
  IOEOI,
  IOREDTBL,
  IOREGSEL,
  IOWIN,
  PINS,
  RTE_DELIVERY_SHIFT,
  RTE_HI_WRITABLE,
  RTE_LEVEL,
  RTE_LO_WRITABLE,
  RTE_LOGICAL,
  RTE_MASKED,
  RTE_REMOTE_IRR,
} from './bits.ts';

const FIXED = 0;
const LOWEST = 1;

/** What the I/O APIC needs of the interrupt fabric; `ApicBus` has it. */
export interface IoApicBus {
  /** Delivers a message; see ApicBus.deliver. Returns whether anybody took it. */
  deliver(dest: number, logical: boolean, wide: boolean, mode: number, vector: number, level: boolean): boolean;
  /** Registers for EOI broadcasts. */
  addEoiListener(listener: EoiListener): void;
  /** Told of each redirection entry's words as they change, where local APICs must know whose end to report. */
  route?(pin: number, lo: number, hi: number): void;
}

/** Options of {@link IoApic}. */
export interface IoApicOptions {
  /** The fabric that carries its messages. */
  readonly bus: IoApicBus;
  /** Id after reset, 0–15. Default 0. */
  readonly id?: number;
  /** 0x11 as in bhyve, or 0x20, which adds the EOI register. Default 0x11. */
  readonly version?: 0x11 | 0x20;
}

/** Saved state. Pin levels are saved so that they agree with the devices' own. */
export interface IoApicStateV1 {
  v: 1;
  index: number;
  id: number;
  lo: number[];
  hi: number[];
}

/**
 * I/O APIC. Devices drive its pins through {@link IoApic.connect}; true means asserted, whatever polarity the guest
 * programs. Level-triggered entries deliver while the pin is asserted and the last message has been ended; an edge on a
 * masked entry is lost, as on the chip.
 *
 * Not modelled: delivery status (always idle), SMI delivery.
 * @example
 * const ioapic = new IoApic({ bus: apicBus });
 * claimIoApic(mmio, ioapic);
 * const com1 = ioapic.connect(4, 'com1');
 */
export class IoApic implements IoHandler, InterruptController, EoiListener, Device {
  readonly name: string = 'ioapic';
  private readonly bus: IoApicBus;
  private readonly resetId: number;
  private readonly version: number;
  private readonly pins: SharedPin[] = [];
  private readonly lo: Uint32Array = new Uint32Array(PINS);
  private readonly hi: Uint32Array = new Uint32Array(PINS);
  private index = 0;
  private id = 0;

  constructor(o: IoApicOptions) {
    this.bus = o.bus;
    this.resetId = ((o.id ?? 0) << 24) & ID_MASK;
    this.version = o.version ?? 0x11;
    for (let pin = 0; pin < PINS; pin++)
      this.pins.push(new SharedPin((asserted, edge) => this.pinChanged(pin, asserted, edge)));
    this.bus.addEoiListener(this);
    this.reset();
  }

  /** Back to power-on state; pins keep the levels their devices drive. */
  reset(): void {
    this.index = 0;
    this.id = this.resetId;
    this.lo.fill(RTE_MASKED);
    this.hi.fill(0);
    this.tell();
  }

  private tell(): void {
    for (let pin = 0; pin < PINS; pin++) this.bus.route?.(pin, this.lo[pin] as number, this.hi[pin] as number);
  }

  save(): IoApicStateV1 {
    return { v: 1, index: this.index, id: this.id, lo: [...this.lo], hi: [...this.hi] };
  }

  load(state: unknown): void {
    const r = new StateReader(this.name, state, 1);
    const lo = savedWords(this.name, state, 'lo', PINS);
    const hi = savedWords(this.name, state, 'hi', PINS);
    this.index = r.u8('index');
    this.id = r.int('id', 0, ID_MASK);
    this.lo.set(lo);
    this.hi.set(hi);
    this.tell();
  }

  /** A handle on pin 0–23. @throws HyveError `IRQ_PIN` */
  connect(pin: number, name: string): IrqLine {
    const p = this.pins[pin];
    if (p === undefined) throw new HyveError('IRQ_PIN', `${name}: I/O APIC pin ${pin}, expected 0–${PINS - 1}`);
    return p.connect();
  }

  private pinChanged(pin: number, asserted: boolean, edge: boolean): void {
    if (asserted && edge) this.fire(pin);
  }

  private fire(pin: number): void {
    const lo = this.lo[pin] as number;
    if ((lo & RTE_MASKED) !== 0) return;
    const mode = (lo >>> RTE_DELIVERY_SHIFT) & 7;
    // Only vectored modes can be level-triggered; the others are edges however they are programmed.
    const level = (lo & RTE_LEVEL) !== 0 && (mode === FIXED || mode === LOWEST);
    if (level && (lo & RTE_REMOTE_IRR) !== 0) return;
    const dest = (this.hi[pin] as number) >>> 24;
    // Set first: a receiver may end the interrupt from inside the delivery.
    if (level) this.lo[pin] = lo | RTE_REMOTE_IRR;
    if (!this.bus.deliver(dest, (lo & RTE_LOGICAL) !== 0, false, mode, lo & 0xff, level) && level) this.lo[pin] = lo;
  }

  /** EOI broadcast, or a write of the EOI register: ends level-triggered interrupts with this vector. */
  eoi(vector: number): void {
    for (let pin = 0; pin < PINS; pin++) {
      const lo = this.lo[pin] as number;
      if ((lo & RTE_REMOTE_IRR) === 0 || (lo & 0xff) !== vector) continue;
      this.lo[pin] = lo & ~RTE_REMOTE_IRR;
      if ((this.pins[pin] as SharedPin).asserted) this.fire(pin);
    }
  }

  read(offset: number, width: Width): number {
    const part = offset & 3;
    let v = 0;
    if ((offset & ~3) === IOREGSEL) v = this.index;
    else if ((offset & ~3) === IOWIN) v = this.readIndirect(this.index);
    if (width === 4) return v;
    return (v >>> (part * 8)) & (width === 1 ? 0xff : 0xffff);
  }

  write(offset: number, width: Width, value: number): void {
    switch (offset) {
      case IOREGSEL:
        this.index = value & 0xff;
        break;
      case IOWIN:
        if (width === 4) this.writeIndirect(this.index, value);
        break;
      case IOEOI:
        if (this.version >= 0x20) this.eoi(value & 0xff);
        break;
    }
  }

  private readIndirect(index: number): number {
    if (index >= IOREDTBL && index < IOREDTBL + 2 * PINS) {
      const pin = (index - IOREDTBL) >> 1;
      return (index & 1) === 0 ? (this.lo[pin] as number) : (this.hi[pin] as number);
    }
    switch (index) {
      case IOAPICID:
      case IOAPICARB:
        return this.id;
      case IOAPICVER:
        return this.version | ((PINS - 1) << 16);
      default:
        return 0;
    }
  }

  private writeIndirect(index: number, v: number): void {
    if (index === IOAPICID) {
      this.id = v & ID_MASK;
      return;
    }
    if (index < IOREDTBL || index >= IOREDTBL + 2 * PINS) return;
    const pin = (index - IOREDTBL) >> 1;
    if ((index & 1) !== 0) {
      this.hi[pin] = v & RTE_HI_WRITABLE;
      this.bus.route?.(pin, this.lo[pin] as number, this.hi[pin] as number);
      return;
    }
    let lo = v & RTE_LO_WRITABLE;
    // Linux ends stuck level interrupts on version 0x11 parts by going to edge and back: that clears remote IRR.
    if ((lo & RTE_LEVEL) !== 0) lo |= (this.lo[pin] as number) & RTE_REMOTE_IRR;
    this.lo[pin] = lo;
    this.bus.route?.(pin, lo, this.hi[pin] as number);
    if ((lo & RTE_LEVEL) !== 0 && (this.pins[pin] as SharedPin).asserted) {
      const mode = (lo >>> RTE_DELIVERY_SHIFT) & 7;
      if (mode === FIXED || mode === LOWEST) this.fire(pin);
    }
  }
}

/** Puts the register page on the MMIO bus. @throws HyveError `BUS_OVERLAP` */
export function claimIoApic(mmio: IoBus, ioapic: IoApic, base: number = IOAPIC_BASE): Claim {
  return mmio.claim(base, 0x1000, ioapic, { name: 'ioapic' });
}
