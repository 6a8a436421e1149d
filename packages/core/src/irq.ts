// Interrupt lines and message-signalled interrupts.
import type { PhysAddr } from './types.ts';

/** One device's handle on an interrupt line. Polarity belongs to the controller: true means asserted. */
export interface IrqLine {
  /** Drives the line. Repeating a level does nothing. */
  set(asserted: boolean): void;
  /** Restores a level from saved state without making an edge. */
  restore(asserted: boolean): void;
}

/** Something with numbered interrupt inputs. Handles on one pin are wired-OR. */
export interface InterruptController {
  /** A new handle on `pin`. @throws HyveError `IRQ_PIN` for a pin that does not exist */
  connect(pin: number, name: string): IrqLine;
}

/** Where message-signalled interrupts go: a 32-bit write of `data` to `address` (0xFEExxxxx on x86). */
export interface MsiSink {
  /** Delivers one message. Malformed messages are dropped, as hardware does. */
  send(address: PhysAddr, data: number): void;
}

/** A pin that several handles share: asserted while any of them is. For controllers to build `connect` from. */
export class SharedPin {
  private asserters = 0;
  private readonly changed: (asserted: boolean, edge: boolean) => void;

  /** @param changed called when the OR of all handles changes; `edge` is false when the change comes from restored state */
  constructor(changed: (asserted: boolean, edge: boolean) => void) {
    this.changed = changed;
  }

  /** Whether any handle asserts the pin. */
  get asserted(): boolean {
    return this.asserters > 0;
  }

  /** A new handle, not asserted. */
  connect(): IrqLine {
    let mine = false;
    const drive = (v: boolean, edge: boolean): void => {
      if (v === mine) return;
      mine = v;
      const before = this.asserters > 0;
      this.asserters += v ? 1 : -1;
      const after = this.asserters > 0;
      if (before !== after) this.changed(after, edge);
    };
    return { set: (v) => drive(v, true), restore: (v) => drive(v, false) };
  }
}

/** A line that goes nowhere. */
export const unconnectedLine: IrqLine = { set: () => {}, restore: () => {} };
