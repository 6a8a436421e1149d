// Two Intel 8259A interrupt controllers as a PC wires them, with the edge/level control registers of PCI chipsets.
// Intel 8259A datasheet 231468-003; ELCR as in Intel 82378 and ICH. Mirrors bhyve's vatpic.c.
import {
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
import {
  CASCADE,
  CMD,
  ELCR_PORT,
  ELCR_WRITABLE,
  ICW1_IC4,
  ICW1_INIT,
  ICW1_SNGL,
  ICW2_BASE_MASK,
  ICW4_AEOI,
  ICW4_SFNM,
  OCW2_EOI,
  OCW2_LEVEL_MASK,
  OCW2_R,
  OCW2_SL,
  OCW3_ESMM,
  OCW3_POLL,
  OCW3_READ_MASK,
  OCW3_SELECT,
  OCW3_SMM,
  PIC_MASTER_PORT,
  PIC_SLAVE_PORT,
  POLL_PENDING,
  SPURIOUS_LEVEL,
} from './bits.ts';

/** Saved state of one 8259A. */
export interface PicChipStateV1 {
  /** Edge requests latched and not yet acknowledged. */
  readonly latch: number;
  /** Interrupt mask register. */
  readonly imr: number;
  /** In-service register. */
  readonly isr: number;
  /** Edge/level control: 1 = level. */
  readonly elcr: number;
  /** Vector base. */
  readonly base: number;
  /** Level with the lowest priority. */
  readonly lowest: number;
  /** Next initialization word expected (2-4), 0 when initialized, 1 before the first ICW1. */
  readonly step: number;
  /** ICW1 of the sequence in progress. */
  readonly icw1: number;
  /** ICW4. */
  readonly icw4: number;
  /** Reads of A0 = 0 give the ISR. */
  readonly readIsr: boolean;
  /** The next read is a poll. */
  readonly poll: boolean;
  /** Special mask mode. */
  readonly specialMask: boolean;
  /** Rotate on automatic end of interrupt. */
  readonly rotateAeoi: boolean;
}

/** Saved state of {@link Pic8259}. Input levels are not in it: devices restore their own lines. */
export interface PicStateV1 {
  /** Version. */
  readonly v: 1;
  /** Master, then slave. */
  readonly chips: readonly PicChipStateV1[];
  /** Level the slave last showed to the master. */
  readonly slaveOut: boolean;
}

/** One 8259A without the cascade. `changed` is called after each access that may change the request output. */
class Chip implements IoHandler {
  lines = 0;
  latch = 0;
  imr = 0;
  isr = 0;
  elcr = 0;
  base = 0;
  lowest = 7;
  step = 1;
  icw1 = 0;
  icw4 = 0;
  readIsr = false;
  poll = false;
  specialMask = false;
  rotateAeoi = false;
  private readonly sfnmLevel: number;
  private readonly changed: (acknowledged: boolean) => void;

  /** @param sfnmLevel the input with a slave on it, or -1 */
  constructor(sfnmLevel: number, changed: (acknowledged: boolean) => void) {
    this.sfnmLevel = sfnmLevel;
    this.changed = changed;
  }

  reset(): void {
    this.latch = 0;
    this.imr = 0;
    this.isr = 0;
    this.elcr = 0;
    this.base = 0;
    this.lowest = 7;
    this.step = 1;
    this.icw1 = 0;
    this.icw4 = 0;
    this.readIsr = false;
    this.poll = false;
    this.specialMask = false;
    this.rotateAeoi = false;
  }

  /** Interrupt request register. */
  get irr(): number {
    return (this.latch & ~this.elcr) | (this.lines & this.elcr);
  }

  /** The level that the chip asks to have acknowledged now, or -1. */
  pending(): number {
    const req = this.irr & ~this.imr;
    if (req === 0 || this.step !== 0) return -1;
    // In special mask mode a masked level that is in service holds nobody back.
    const holding = this.specialMask ? this.isr & ~this.imr : this.isr;
    for (let i = 1; i <= 8; i++) {
      const level = (this.lowest + i) & 7;
      const bit = 1 << level;
      if ((holding & bit) !== 0) {
        const nested = level === this.sfnmLevel && (this.icw4 & ICW4_SFNM) !== 0;
        return nested && (req & bit) !== 0 ? level : -1;
      }
      if ((req & bit) !== 0) return level;
    }
    return -1;
  }

  /** What INTA does to the chip for a level that {@link Chip.pending} gave. */
  take(level: number): void {
    this.latch &= ~(1 << level);
    if ((this.icw4 & ICW4_AEOI) === 0) this.isr |= 1 << level;
    else if (this.rotateAeoi) this.lowest = level;
  }

  setLine(level: number, asserted: boolean, edge: boolean): void {
    const bit = 1 << level;
    if (asserted) {
      this.lines |= bit;
      if (edge && (this.elcr & bit) === 0) this.latch |= bit;
    } else this.lines &= ~bit;
    this.changed(false);
  }

  read(offset: number, _width: Width): number {
    if (this.poll) {
      this.poll = false;
      const level = this.pending();
      if (level < 0) return 0;
      this.take(level);
      this.changed(true);
      return POLL_PENDING | level;
    }
    if (offset !== CMD) return this.imr;
    return this.readIsr ? this.isr : this.irr;
  }

  write(offset: number, _width: Width, value: number): void {
    if (offset !== CMD) this.writeData(value);
    else if ((value & ICW1_INIT) !== 0) this.writeIcw1(value);
    else if ((value & OCW3_SELECT) !== 0) this.writeOcw3(value);
    else this.writeOcw2(value);
    this.changed(false);
  }

  private writeIcw1(value: number): void {
    this.latch = 0;
    this.imr = 0;
    this.isr = 0;
    this.lowest = 7;
    this.icw1 = value;
    this.icw4 = 0;
    this.readIsr = false;
    this.poll = false;
    this.specialMask = false;
    this.rotateAeoi = false;
    this.step = 2;
  }

  private writeData(value: number): void {
    const more = (this.icw1 & ICW1_IC4) !== 0 ? 4 : 0;
    switch (this.step) {
      case 2:
        this.base = value & ICW2_BASE_MASK;
        this.step = (this.icw1 & ICW1_SNGL) !== 0 ? more : 3;
        break;
      case 3: // The cascade is wired: ICW3 cannot change it.
        this.step = more;
        break;
      case 4:
        this.icw4 = value;
        this.step = 0;
        break;
      default:
        this.imr = value;
    }
  }

  private writeOcw3(value: number): void {
    if ((value & OCW3_ESMM) !== 0) this.specialMask = (value & OCW3_SMM) !== 0;
    if ((value & OCW3_POLL) !== 0) {
      this.poll = true;
      return;
    }
    const which = value & OCW3_READ_MASK;
    if (which >= 2) this.readIsr = which === 3;
  }

  private writeOcw2(value: number): void {
    let level = value & OCW2_LEVEL_MASK;
    const rotate = (value & OCW2_R) !== 0;
    if ((value & OCW2_EOI) !== 0) {
      if ((value & OCW2_SL) === 0) {
        level = this.highestInService();
        if (level < 0) return;
      }
      this.isr &= ~(1 << level);
      if (rotate) this.lowest = level;
    } else if ((value & OCW2_SL) === 0) this.rotateAeoi = rotate;
    else if (rotate) this.lowest = level;
  }

  private highestInService(): number {
    // A non-specific EOI leaves masked levels alone in special mask mode (datasheet, "End of interrupt").
    const served = this.specialMask ? this.isr & ~this.imr : this.isr;
    for (let i = 1; i <= 8; i++) {
      const level = (this.lowest + i) & 7;
      if ((served & (1 << level)) !== 0) return level;
    }
    return -1;
  }

  save(): PicChipStateV1 {
    return {
      latch: this.latch,
      imr: this.imr,
      isr: this.isr,
      elcr: this.elcr,
      base: this.base,
      lowest: this.lowest,
      step: this.step,
      icw1: this.icw1,
      icw4: this.icw4,
      readIsr: this.readIsr,
      poll: this.poll,
      specialMask: this.specialMask,
      rotateAeoi: this.rotateAeoi,
    };
  }

  load(s: StateReader): void {
    this.latch = s.u8('latch');
    this.imr = s.u8('imr');
    this.isr = s.u8('isr');
    this.elcr = s.u8('elcr');
    this.base = s.u8('base') & ICW2_BASE_MASK;
    this.lowest = s.int('lowest', 0, 7);
    this.step = s.int('step', 0, 4);
    this.icw1 = s.u8('icw1');
    this.icw4 = s.u8('icw4');
    this.readIsr = s.bool('readIsr');
    this.poll = s.bool('poll');
    this.specialMask = s.bool('specialMask');
    this.rotateAeoi = s.bool('rotateAeoi');
  }
}

/** What {@link Pic8259} needs. */
export interface PicOptions {
  /**
   * The master's INTR output changed. It drops during each INTA cycle, so an edge-triggered ExtINT input sees one edge per
   * interrupt.
   */
  readonly onIntr: (asserted: boolean) => void;
  /** Name in messages and saved state. Default `pic`. */
  readonly name?: string;
}

/**
 * The 8259A pair: IRQ 0-7 on the master, 8-15 on the slave, the slave's output on the master's input 2.
 *
 * Edge requests stay latched when the line drops before the acknowledge (as bhyve, KVM and QEMU have it, and as devices
 * that pulse their line need it); level requests (ELCR) go away with the line, and then INTA gives a spurious IRQ 7.
 *
 * Not modelled: MCS-80/85 mode (vectors are always 8086 style), buffered mode, LTIM (the ELCRs replace it), ICW3 wiring
 * other than the PC's.
 * @example
 * const pic = new Pic8259({ onIntr: (high) => lapic0.setLint0(high) });
 * claimPic(pio, pic);
 * const com1 = pic.connect(4, 'com1');
 */
export class Pic8259 implements Device, InterruptController {
  readonly name: string;
  /** The master's two registers. */
  readonly master: IoHandler;
  /** The slave's two registers. */
  readonly slave: IoHandler;
  /** Both edge/level control registers, one byte each. */
  readonly elcr: IoHandler;
  private readonly chip0: Chip;
  private readonly chip1: Chip;
  private readonly pins: readonly SharedPin[];
  private readonly onIntr: (asserted: boolean) => void;
  private slaveOut = false;
  private intr = false;

  constructor(o: PicOptions) {
    this.name = o.name ?? 'pic';
    this.onIntr = o.onIntr;
    const chip0 = new Chip(CASCADE, () => this.update());
    const chip1 = new Chip(-1, (acknowledged) => {
      // Polling the slave takes its request back from the master too.
      if (acknowledged) this.dropSlaveRequest();
      this.update();
    });
    this.chip0 = chip0;
    this.chip1 = chip1;
    this.master = chip0;
    this.slave = chip1;
    this.elcr = {
      read: (offset) => (offset === 0 ? chip0.elcr : chip1.elcr),
      write: (offset, _width, value) => {
        const chip = offset === 0 ? chip0 : chip1;
        chip.elcr = value & (offset === 0 ? ELCR_WRITABLE & 0xff : ELCR_WRITABLE >>> 8);
        chip.latch &= ~chip.elcr;
        this.update();
      },
    };
    const pins: SharedPin[] = [];
    for (let pin = 0; pin < 16; pin++) {
      const chip = pin < 8 ? chip0 : chip1;
      pins.push(new SharedPin((asserted, edge) => chip.setLine(pin & 7, asserted, edge)));
    }
    this.pins = pins;
  }

  /**
   * A new handle on IRQ `pin`, 0-15 except the cascade, 2.
   * @throws HyveError `IRQ_PIN`
   */
  connect(pin: number, name: string): IrqLine {
    const shared = this.pins[pin];
    if (shared === undefined || pin === CASCADE)
      throw new HyveError('IRQ_PIN', `${name}: ${this.name} has no free input ${pin}, expected 0-15 except 2`);
    return shared.connect();
  }

  /** Level of the master's INTR output. */
  get hasInterrupt(): boolean {
    return this.intr;
  }

  /** Whether the guest made IRQ `pin` level-triggered. */
  isLevel(pin: number): boolean {
    return (((this.chip1.elcr << 8) | this.chip0.elcr) & (1 << pin)) !== 0;
  }

  /**
   * The CPU's INTA cycle: takes the highest-priority request and returns its vector. Without one it returns the spurious
   * vector (level 7) and leaves the in-service register alone (8259A datasheet, "Interrupt request").
   */
  acknowledge(): number {
    const level = this.chip0.pending();
    if (level < 0) return this.chip0.base | SPURIOUS_LEVEL;
    this.chip0.take(level);
    let vector = this.chip0.base | level;
    if (level === CASCADE) {
      const inner = this.chip1.pending();
      if (inner >= 0) this.chip1.take(inner);
      vector = this.chip1.base | (inner >= 0 ? inner : SPURIOUS_LEVEL);
      this.dropSlaveRequest();
    }
    if (this.intr) {
      this.intr = false;
      this.onIntr(false);
    }
    this.update();
    return vector;
  }

  private dropSlaveRequest(): void {
    this.slaveOut = false;
    this.chip0.latch &= ~(1 << CASCADE);
  }

  /** Carries the slave's output to the master and the master's to the CPU. The only caller of onIntr but INTA. */
  private update(): void {
    const out = this.chip1.pending() >= 0;
    if (out && !this.slaveOut) this.chip0.latch |= 1 << CASCADE;
    this.slaveOut = out;
    const intr = this.chip0.pending() >= 0;
    if (intr === this.intr) return;
    this.intr = intr;
    this.onIntr(intr);
  }

  reset(): void {
    this.chip0.reset();
    this.chip1.reset();
    this.slaveOut = false;
    this.update();
  }

  save(): PicStateV1 {
    return { v: 1, chips: [this.chip0.save(), this.chip1.save()], slaveOut: this.slaveOut };
  }

  load(state: unknown): void {
    const s = new StateReader(this.name, state, 1);
    const [first, second] = s.items('chips', 2);
    const slaveOut = s.bool('slaveOut');
    this.chip0.load(first as StateReader);
    this.chip1.load(second as StateReader);
    this.chip0.elcr &= ELCR_WRITABLE & 0xff;
    this.chip1.elcr &= ELCR_WRITABLE >>> 8;
    this.slaveOut = slaveOut;
    // Level lines may not be restored yet; each restore comes through setLine and updates again.
    this.update();
  }
}

/** Claims the PC's ports for a PIC pair: 0x20-0x21, 0xA0-0xA1, 0x4D0-0x4D1. @throws HyveError `BUS_OVERLAP` */
export function claimPic(pio: IoBus, pic: Pic8259): void {
  pio.claim(PIC_MASTER_PORT, 2, pic.master, { name: `${pic.name} master`, widths: 1 });
  pio.claim(PIC_SLAVE_PORT, 2, pic.slave, { name: `${pic.name} slave`, widths: 1 });
  pio.claim(ELCR_PORT, 2, pic.elcr, { name: `${pic.name} elcr`, widths: 1 });
}
