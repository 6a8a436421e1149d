// INTx routing: eight PIRQ pins, as the ICH10 LPC bridge has them (ICH10 datasheet §5.8.6, §13.1.14). Each pin drives its
// own IO-APIC input always, and one 8259 input as its route register says. Mirrors bhyve's pci_irq.c, with bhyve's
// boot-ROM mapping (fixed by slot and pin) for every guest: then one rule serves _PRT, MP table and firmware's own tables.
import { HyveError, type InterruptController, type IrqLine } from '@hyve/core';
import { PIRQ_DISABLED, PIRQ_IRQ_MASK, PIRQ_PERMITTED } from './bits.ts';

const PIRQS = 8;

/** Options of {@link PirqRouter}. */
export interface PirqRouterOptions {
  /** The 8259 pair: pins 0–15 by IRQ number. It must not drive the IO-APIC too. */
  readonly pic: InterruptController;
  /** The IO-APIC: PIRQ n drives input 16 + n. */
  readonly ioapic: InterruptController;
  /** IRQs that something else owns (COM ports, SCI, mouse) and that PIRQs must keep off at reset. Default none. */
  readonly reserved?: readonly number[];
}

/**
 * The eight PIRQ pins A–H and their route registers.
 * Not modelled: least-used choice of a PIRQ (the mapping is fixed); registers' reset value is the host's choice, as after firmware.
 * @example
 * const router = new PirqRouter({ pic, ioapic, reserved: [3, 4, 9, 12] });
 * const line = router.connect(3, 0, 'net');  // slot 3 INTA#: PIRQ A, GSI 16
 */
export class PirqRouter {
  private readonly regs: Uint8Array = new Uint8Array(PIRQS).fill(PIRQ_DISABLED);
  private readonly initial: Uint8Array = new Uint8Array(PIRQS).fill(PIRQ_DISABLED);
  private readonly asserters: Uint16Array = new Uint16Array(PIRQS);
  private readonly picLines: (IrqLine | null)[] = new Array<IrqLine | null>(16).fill(null);
  private readonly ioapicLines: IrqLine[] = [];
  private readonly uses: number[] = new Array<number>(16).fill(0);
  private readonly reserved: Set<number>;

  /** @throws HyveError `IRQ_PIN` from a controller without the pins */
  constructor(o: PirqRouterOptions) {
    this.reserved = new Set(o.reserved ?? []);
    for (let irq = 0; irq < 16; irq++)
      if (((PIRQ_PERMITTED >> irq) & 1) !== 0) this.picLines[irq] = o.pic.connect(irq, 'pirq');
    for (let p = 0; p < PIRQS; p++) this.ioapicLines.push(o.ioapic.connect(16 + p, `pirq${'ABCDEFGH'[p]}`));
  }

  /** PIRQ (0–7 for A–H) of a slot's pin (0–3 for INTA#–INTD#), the same on every root bus: `(5 + slot + pin) mod 8`. */
  pirqOf(slot: number, pin: number): number {
    return (5 + slot + pin) & 7;
  }

  /** Global system interrupt of a PIRQ: IO-APIC input 16 + pirq. */
  gsi(pirq: number): number {
    return 16 + pirq;
  }

  /** 8259 IRQ a PIRQ has at reset, or null for a PIRQ nobody uses. */
  irq(pirq: number): number | null {
    const r = this.initial[pirq] as number;
    return (r & PIRQ_DISABLED) !== 0 ? null : r & PIRQ_IRQ_MASK;
  }

  /** The IRQs that PIRQs have at reset, as a 16-bit mask: what firmware would set in the 8259's ELCR. */
  get levelIrqs(): number {
    let m = 0;
    for (let p = 0; p < PIRQS; p++) {
      const irq = this.irq(p);
      if (irq !== null) m |= 1 << irq;
    }
    return m;
  }

  /**
   * Wires one user to a slot's pin; users of one PIRQ are ORed. The PIRQ's first user gets it the least used permitted IRQ.
   * @throws HyveError `PCI_NO_IRQ` when every permitted IRQ is reserved
   */
  connect(slot: number, pin: number, name: string): IrqLine {
    const pirq = this.pirqOf(slot, pin);
    if (this.irq(pirq) === null) {
      let best = -1;
      for (let i = 0; i < 16; i++) {
        if (this.picLines[i] === null || this.reserved.has(i)) continue;
        if (best < 0 || (this.uses[i] as number) < (this.uses[best] as number)) best = i;
      }
      if (best < 0) throw new HyveError('PCI_NO_IRQ', `${name}: every IRQ of 3-7, 9-12, 14, 15 is reserved`);
      this.initial[pirq] = best;
      this.writeRegister(pirq, best);
    }
    const irq = this.irq(pirq) as number;
    this.uses[irq] = (this.uses[irq] as number) + 1;
    let mine = false;
    const drive = (v: boolean, edge: boolean): void => {
      if (v === mine) return;
      mine = v;
      this.asserters[pirq] = (this.asserters[pirq] as number) + (v ? 1 : -1);
      this.update(pirq, edge);
    };
    return { set: (v) => drive(v, true), restore: (v) => drive(v, false) };
  }

  /** Route register of a PIRQ (0–7), 8 bit: bit 7 disables, bits 3:0 are the IRQ. */
  readRegister(pirq: number): number {
    return this.regs[pirq & 7] as number;
  }

  /** Writes a route register; the 8259 inputs follow at once. IRQs that are not permitted route nowhere. */
  writeRegister(pirq: number, value: number): void {
    const p = pirq & 7;
    const before = this.regs[p] as number;
    const after = value & (PIRQ_DISABLED | PIRQ_IRQ_MASK);
    if (before === after) return;
    this.regs[p] = after;
    this.updatePic(before, true);
    this.updatePic(after, true);
  }

  /** Route registers back to what the host chose. */
  reset(): void {
    for (let p = 0; p < PIRQS; p++) this.writeRegister(p, this.initial[p] as number);
  }

  /** The route registers; the lines' levels belong to the functions that drive them. */
  save(): number[] {
    return [...this.regs];
  }

  /** Restores {@link PirqRouter.save} without making edges. @throws HyveError `STATE_FORMAT` */
  load(state: unknown): void {
    if (
      !Array.isArray(state) ||
      state.length !== PIRQS ||
      !state.every((r) => Number.isInteger(r) && r >= 0 && r < 256)
    )
      throw new HyveError('STATE_FORMAT', 'pirq: expected 8 route registers');
    for (let p = 0; p < PIRQS; p++) {
      const before = this.regs[p] as number;
      this.regs[p] = (state[p] as number) & (PIRQ_DISABLED | PIRQ_IRQ_MASK);
      this.updatePic(before, false);
      this.updatePic(this.regs[p] as number, false);
    }
  }

  private update(pirq: number, edge: boolean): void {
    const level = (this.asserters[pirq] as number) > 0;
    const line = this.ioapicLines[pirq] as IrqLine;
    if (edge) line.set(level);
    else line.restore(level);
    this.updatePic(this.regs[pirq] as number, edge);
  }

  /** Drives the 8259 input that route register value `reg` names: the OR of all PIRQs routed there. */
  private updatePic(reg: number, edge: boolean): void {
    if ((reg & PIRQ_DISABLED) !== 0) return;
    const line = this.picLines[reg & PIRQ_IRQ_MASK] as IrqLine | null;
    if (line === null) return;
    let level = false;
    for (let p = 0; p < PIRQS; p++) if (this.regs[p] === reg && (this.asserters[p] as number) > 0) level = true;
    if (edge) line.set(level);
    else line.restore(level);
  }
}
