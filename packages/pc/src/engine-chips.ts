// The interrupt controllers and the PIT of an engine that has them all (core's EngineInterrupts, kind `all`), with the face of
// the board's own: devices connect lines, states are saved and restored under the same names and in the same form.
import {
  type Device,
  type EngineChip,
  type EngineInterrupts,
  HyveError,
  type InterruptController,
  type IrqLine,
  SharedPin,
} from '@hyve/core';

const PIC_INPUTS = 16;
const CASCADE = 2;
const IOAPIC_INPUTS = 24;

/** One controller's inputs. Its registers are the engine's: the guest's accesses do not come here. */
class Controller implements Device, InterruptController {
  readonly name: 'pic' | 'ioapic';
  private readonly engine: EngineInterrupts;
  private readonly pins: SharedPin[] = [];
  /** Levels, a bit each. */
  private lines = 0;
  /** A state that waits for the levels that devices restore after it; undefined for none. */
  private waiting: unknown;

  constructor(name: 'pic' | 'ioapic', inputs: number, engine: EngineInterrupts) {
    this.name = name;
    this.engine = engine;
    for (let n = 0; n < inputs; n++) this.pins.push(new SharedPin((asserted, edge) => this.drive(n, asserted, edge)));
  }

  private drive(pin: number, asserted: boolean, edge: boolean): void {
    const bit = 1 << pin;
    this.lines = asserted ? this.lines | bit : this.lines & ~bit;
    // Restored levels are told together with the state.
    if (edge) this.engine.setPin(this.name, pin, asserted);
  }

  connect(pin: number, name: string): IrqLine {
    const shared = this.pins[pin];
    if (shared === undefined || (this.name === 'pic' && pin === CASCADE))
      throw new HyveError('IRQ_PIN', `${name}: ${this.name} has no free input ${pin}`);
    return shared.connect();
  }

  /** The engine's controllers are reset together. */
  reset(): void {}

  save(): unknown {
    return this.engine.saveChip(this.name);
  }

  load(state: unknown): void {
    this.waiting = state;
  }

  settle(): void {
    const state = this.waiting;
    if (state === undefined) return;
    this.waiting = undefined;
    this.engine.loadChip(this.name, state, this.lines);
  }

  /** Changes the saved form and loads it again. */
  change(edit: (state: unknown) => unknown): void {
    this.engine.loadChip(this.name, edit(this.save()), this.lines);
  }
}

/** @internal The engine's controllers and PIT as the board's parts. */
export class EngineChips {
  /** The 8259 pair. */
  readonly pic: Device & InterruptController;
  /** The I/O APIC. */
  readonly ioapic: Device & InterruptController;
  /** The PIT, whose ports are the engine's too. */
  readonly pit: Device;
  private readonly controllers: readonly Controller[];

  constructor(engine: EngineInterrupts) {
    const pic = new Controller('pic', PIC_INPUTS, engine);
    const ioapic = new Controller('ioapic', IOAPIC_INPUTS, engine);
    this.pic = pic;
    this.ioapic = ioapic;
    this.controllers = [pic, ioapic];
    const name: EngineChip = 'pit';
    this.pit = { name, reset: () => {}, save: () => engine.saveChip(name), load: (s) => engine.loadChip(name, s, 0) };
  }

  /** All devices have restored the levels of their lines. */
  settle(): void {
    for (const c of this.controllers) c.settle();
  }

  /** Makes IRQs level-triggered, a bit each, as firmware does. */
  setElcr(mask: number): void {
    (this.pic as Controller).change((state) => {
      const s = state as { chips: readonly object[] };
      return { ...s, chips: s.chips.map((chip, i) => ({ ...chip, elcr: (mask >>> (8 * i)) & 0xff })) };
    });
  }
}
