// 8042 keyboard and auxiliary device controller as PC chipsets implement it. Mirrors bhyve's atkbdc.c.
import type { Claim, Clock, Device, IoBus, IoHandler, IrqLine, Timer, Width } from '@hyve/core';
import { checkState } from '../state.ts';
import {
  CMD_A20_OFF,
  CMD_A20_ON,
  CMD_AUX_DISABLE,
  CMD_AUX_ENABLE,
  CMD_AUX_TEST,
  CMD_KBD_DISABLE,
  CMD_KBD_ENABLE,
  CMD_KBD_TEST,
  CMD_PULSE,
  CMD_READ_INPUT,
  CMD_READ_OUTPUT,
  CMD_SELF_TEST,
  CMD_TEST_INPUTS,
  CMD_WRITE_AUX,
  CMD_WRITE_AUX_OBF,
  CMD_WRITE_KBD_OBF,
  CMD_WRITE_OUTPUT,
  COMMAND,
  CTR_AUX_DISABLE,
  CTR_AUX_INT,
  CTR_KBD_DISABLE,
  CTR_KBD_INT,
  CTR_RESET,
  CTR_SYS,
  CTR_TRANSLATE,
  CTR_WRITABLE,
  DATA,
  OUT_A20,
  OUT_AUX_OBF,
  OUT_KBD_CLOCK,
  OUT_KBD_DATA,
  OUT_KBD_OBF,
  OUT_RESET_N,
  ST_AUX,
  ST_CMD,
  ST_OBF,
  ST_SYS,
  ST_UNLOCKED,
  STATUS,
} from './bits.ts';
import type { Ps2Device } from './port.ts';
import { SET2_TO_SET1 } from './translate.ts';

/**
 * From a guest's read of a device byte to the next one. On the wire it is about 1 ms; a gap at all keeps guests right
 * that read 0x60 twice per interrupt.
 */
const BYTE_GAP_NS = 100_000;

/** Where the byte in the output buffer came from. */
const FROM_CONTROLLER = 0;
const FROM_KEYBOARD = 1;
const FROM_AUX = 2;

/** Options of {@link I8042}. */
export interface I8042Options {
  /** For messages and saved state. Default `i8042`. */
  readonly name?: string;
  /** IRQ 1. */
  readonly kbdIrq: IrqLine;
  /** IRQ 12. */
  readonly auxIrq: IrqLine;
  /** Times the gap between two bytes of a device. */
  readonly clock: Clock;
  /** On the first port; null for none. */
  readonly keyboard: Ps2Device | null;
  /** On the second port; null for none. */
  readonly mouse: Ps2Device | null;
  /** The guest pulled the CPU's reset line (command FE, or output port bit 0 low). */
  readonly onReset: () => void;
  /** The guest drove the A20 gate. */
  readonly onA20?: (enabled: boolean) => void;
  /** Reads the A20 gate for the output port, which other means may change too; default: what was last driven here. */
  readonly a20?: () => boolean;
}

/** Saved state of an {@link I8042} and the devices on it. */
export interface I8042StateV1 {
  readonly v: 1;
  readonly ram: readonly number[];
  readonly status: number;
  readonly data: number;
  readonly source: number;
  readonly command: number;
  readonly a20: boolean;
  readonly breakSeen: boolean;
  readonly gap: boolean;
  readonly pushedOut: number;
  readonly pushedOutSource: number;
  readonly keyboard: unknown;
  readonly mouse: unknown;
}

/**
 * The controller behind ports 0x60 and 0x64, with translation of scancode set 2 to set 1. It comes up as firmware leaves
 * it: self-test passed, interrupts and translation on, A20 open.
 *
 * Not modelled: password commands (A4–A6), keyboard lock, pulses on output lines other than reset, parity and timeout
 * errors, the multiplexing (MUX) extension.
 * @example
 * const keyboard = new Ps2Keyboard();
 * const i8042 = new I8042({ kbdIrq, auxIrq, clock, keyboard, mouse: new Ps2Mouse(), onReset: () => vm.reset() });
 * claimI8042(pio, i8042);
 * keyboard.key('KeyA', true);
 */
export class I8042 implements IoHandler, Device {
  readonly name: string;
  private readonly kbdIrq: IrqLine;
  private readonly auxIrq: IrqLine;
  private readonly keyboard: Ps2Device | null;
  private readonly mouse: Ps2Device | null;
  private readonly onReset: () => void;
  private readonly onA20: ((enabled: boolean) => void) | null;
  private readonly readA20: (() => boolean) | null;
  private readonly clock: Clock;
  private readonly gapTimer: Timer;
  private readonly ram: Uint8Array = new Uint8Array(32);
  /** OBF and CMD bits of the status register; the rest is derived. */
  private status = 0;
  private data = 0;
  private source = FROM_CONTROLLER;
  /** Command whose data byte is awaited, or 0. */
  private command = 0;
  private a20 = true;
  /** The translator has eaten a break prefix (F0). */
  private breakSeen = false;
  /** Waiting for BYTE_GAP_NS before the next device byte. */
  private gap = false;
  /** A device byte that an answer of the controller pushed out of the buffer, or -1, and its source. */
  private pushedOut = -1;
  private pushedOutSource = FROM_KEYBOARD;
  private resets = 0;

  constructor(o: I8042Options) {
    this.name = o.name ?? 'i8042';
    this.kbdIrq = o.kbdIrq;
    this.auxIrq = o.auxIrq;
    this.keyboard = o.keyboard;
    this.mouse = o.mouse;
    this.onReset = o.onReset;
    this.onA20 = o.onA20 ?? null;
    this.readA20 = o.a20 ?? null;
    this.clock = o.clock;
    this.gapTimer = o.clock.timer(() => {
      this.gap = false;
      this.fill();
    });
    if (this.keyboard !== null) this.keyboard.onPending = () => this.fill();
    if (this.mouse !== null) this.mouse.onPending = () => this.fill();
    this.ram[0] = CTR_RESET;
  }

  /** Offset 0 is port 0x60, offset 4 is port 0x64. */
  read(offset: number, _width: Width): number {
    switch (offset) {
      case DATA:
        return this.readData();
      case STATUS: {
        let v = this.status | ST_UNLOCKED | (this.ctr & CTR_SYS ? ST_SYS : 0);
        if (this.source === FROM_AUX && (v & ST_OBF) !== 0) v |= ST_AUX;
        return v;
      }
      default:
        return 0xff;
    }
  }

  write(offset: number, _width: Width, value: number): void {
    switch (offset) {
      case DATA:
        this.status &= ~ST_CMD;
        this.writeData(value);
        break;
      case COMMAND:
        this.status |= ST_CMD;
        this.writeCommand(value);
        break;
    }
  }

  private get ctr(): number {
    return this.ram[0] as number;
  }

  private readData(): number {
    const byte = this.data; // stays in the buffer until the next one; fill() may load that below
    if ((this.status & ST_OBF) !== 0) {
      this.status &= ~ST_OBF;
      this.updateIrq();
      if (this.source === FROM_CONTROLLER) {
        this.fill();
      } else {
        this.gap = true;
        this.gapTimer.arm(this.clock.now() + BYTE_GAP_NS);
      }
    }
    return byte;
  }

  private writeCommand(value: number): void {
    this.command = 0;
    if (value >= 0x20 && value <= 0x3f) {
      this.put(this.ram[value & 0x1f] as number, FROM_CONTROLLER);
      return;
    }
    if (value >= 0x60 && value <= 0x7f) {
      this.command = value;
      return;
    }
    if (value >= CMD_PULSE) {
      if ((value & OUT_RESET_N) === 0) this.pulseReset(); // a zero bit is a line pulsed low
      return;
    }
    switch (value) {
      case CMD_AUX_DISABLE:
        this.setCtr(this.ctr | CTR_AUX_DISABLE);
        break;
      case CMD_AUX_ENABLE:
        this.setCtr(this.ctr & ~CTR_AUX_DISABLE);
        break;
      case CMD_AUX_TEST:
        this.put(this.mouse === null ? 0x01 : 0x00, FROM_CONTROLLER);
        break;
      case CMD_SELF_TEST:
        this.setCtr(this.ctr | CTR_SYS);
        this.put(0x55, FROM_CONTROLLER);
        break;
      case CMD_KBD_TEST:
        this.put(0x00, FROM_CONTROLLER);
        break;
      case CMD_KBD_DISABLE:
        this.setCtr(this.ctr | CTR_KBD_DISABLE);
        break;
      case CMD_KBD_ENABLE:
        this.setCtr(this.ctr & ~CTR_KBD_DISABLE);
        break;
      case CMD_READ_INPUT:
        this.put(0x80, FROM_CONTROLLER); // bit 7: not locked
        break;
      case CMD_READ_OUTPUT:
        this.put(this.outputPort(), FROM_CONTROLLER);
        break;
      case CMD_TEST_INPUTS:
        this.put(0x00, FROM_CONTROLLER);
        break;
      case CMD_A20_OFF:
        this.setA20(false);
        break;
      case CMD_A20_ON:
        this.setA20(true);
        break;
      case CMD_WRITE_OUTPUT:
      case CMD_WRITE_KBD_OBF:
      case CMD_WRITE_AUX_OBF:
      case CMD_WRITE_AUX:
        this.command = value;
        break;
      // Others, among them A1 (version) and A4 (password), get no answer; drivers take that for "not there".
    }
  }

  private writeData(value: number): void {
    const command = this.command;
    this.command = 0;
    if (command >= 0x60 && command <= 0x7f) {
      if (command === 0x60) this.setCtr(value & CTR_WRITABLE);
      else this.ram[command & 0x1f] = value;
      return;
    }
    switch (command) {
      case CMD_WRITE_OUTPUT:
        this.setA20((value & OUT_A20) !== 0);
        if ((value & OUT_RESET_N) === 0) this.pulseReset();
        break;
      case CMD_WRITE_KBD_OBF:
        this.put(value, FROM_KEYBOARD);
        break;
      case CMD_WRITE_AUX_OBF:
        this.put(value, FROM_AUX);
        break;
      case CMD_WRITE_AUX:
        this.ram[0] = this.ctr & ~CTR_AUX_DISABLE; // sending opens the clock line
        if (this.mouse !== null) this.mouse.send(value);
        this.fill();
        break;
      default:
        this.ram[0] = this.ctr & ~CTR_KBD_DISABLE;
        this.breakSeen = false;
        if (this.keyboard !== null) this.keyboard.send(value);
        this.fill();
    }
  }

  private setCtr(value: number): void {
    this.ram[0] = value;
    this.updateIrq();
    this.fill();
  }

  private outputPort(): number {
    let v = OUT_RESET_N | OUT_KBD_DATA;
    if (this.readA20 === null ? this.a20 : this.readA20()) v |= OUT_A20;
    if ((this.ctr & CTR_KBD_DISABLE) === 0) v |= OUT_KBD_CLOCK;
    if ((this.status & ST_OBF) !== 0) v |= this.source === FROM_AUX ? OUT_AUX_OBF : OUT_KBD_OBF;
    return v;
  }

  private setA20(on: boolean): void {
    this.a20 = on;
    if (this.onA20 !== null) this.onA20(on);
  }

  private pulseReset(): void {
    this.resets++;
    this.onReset();
  }

  /** Loads the output buffer. The controller's answers do not wait; a device byte in their way comes again afterwards. */
  private put(value: number, source: number): void {
    if ((this.status & ST_OBF) !== 0) {
      if (this.source !== FROM_CONTROLLER && this.pushedOut < 0) {
        this.pushedOut = this.data;
        this.pushedOutSource = this.source;
      }
      // A byte is waiting: let its interrupt fall first, so that the new one is an edge.
      this.status &= ~ST_OBF;
      this.updateIrq();
    }
    this.data = value;
    this.source = source;
    this.status |= ST_OBF;
    this.updateIrq();
  }

  /** Moves the next device byte into the output buffer, keyboard first. */
  private fill(): void {
    if ((this.status & ST_OBF) !== 0 || this.gap) return;
    if (this.pushedOut >= 0) {
      const b = this.pushedOut;
      this.pushedOut = -1;
      this.put(b, this.pushedOutSource);
      return;
    }
    const keyboard = this.keyboard;
    while (keyboard?.pending && (this.ctr & CTR_KBD_DISABLE) === 0) {
      let b = keyboard.next();
      if ((this.ctr & CTR_TRANSLATE) !== 0) {
        if (b === 0xf0) {
          this.breakSeen = true;
          continue;
        }
        b = SET2_TO_SET1[b] as number;
        if (this.breakSeen) b |= 0x80;
        this.breakSeen = false;
      }
      this.put(b, FROM_KEYBOARD);
      return;
    }
    const mouse = this.mouse;
    if (mouse?.pending && (this.ctr & CTR_AUX_DISABLE) === 0) this.put(mouse.next(), FROM_AUX);
  }

  private irqLevel(aux: boolean): boolean {
    if ((this.status & ST_OBF) === 0 || (this.source === FROM_AUX) !== aux) return false;
    return (this.ctr & (aux ? CTR_AUX_INT : CTR_KBD_INT)) !== 0;
  }

  private updateIrq(): void {
    this.kbdIrq.set(this.irqLevel(false));
    this.auxIrq.set(this.irqLevel(true));
  }

  reset(): void {
    this.gapTimer.disarm();
    this.ram.fill(0);
    this.ram[0] = CTR_RESET;
    this.status = 0;
    this.data = 0;
    this.source = FROM_CONTROLLER;
    this.command = 0;
    this.a20 = true;
    this.breakSeen = false;
    this.gap = false;
    this.pushedOut = -1;
    this.pushedOutSource = FROM_KEYBOARD;
    if (this.keyboard !== null) this.keyboard.reset();
    if (this.mouse !== null) this.mouse.reset();
    this.updateIrq();
  }

  save(): I8042StateV1 {
    return {
      v: 1,
      ram: [...this.ram],
      status: this.status,
      data: this.data,
      source: this.source,
      command: this.command,
      a20: this.a20,
      breakSeen: this.breakSeen,
      gap: this.gap,
      pushedOut: this.pushedOut,
      pushedOutSource: this.pushedOutSource,
      keyboard: this.keyboard === null ? null : this.keyboard.save(),
      mouse: this.mouse === null ? null : this.mouse.save(),
    };
  }

  load(state: unknown): void {
    checkState(this.name, state, 1);
    const s = state as I8042StateV1;
    this.ram.set(s.ram.slice(0, 32));
    this.status = s.status & (ST_OBF | ST_CMD);
    this.data = s.data & 0xff;
    this.source = s.source;
    this.command = s.command & 0xff;
    this.a20 = s.a20;
    this.breakSeen = s.breakSeen;
    this.gap = s.gap;
    this.pushedOut = s.pushedOut;
    this.pushedOutSource = s.pushedOutSource;
    if (this.keyboard !== null && s.keyboard !== null) this.keyboard.load(s.keyboard);
    if (this.mouse !== null && s.mouse !== null) this.mouse.load(s.mouse);
    this.gapTimer.disarm();
    if (this.gap) this.gapTimer.arm(this.clock.now() + BYTE_GAP_NS);
    this.kbdIrq.restore(this.irqLevel(false));
    this.auxIrq.restore(this.irqLevel(true));
  }

  counters(): Readonly<Record<string, number>> {
    return { resets: this.resets };
  }
}

/**
 * Puts the controller at ports 0x60 and 0x64, leaving 0x61–0x63 to others.
 * @throws HyveError `BUS_OVERLAP` when a port is taken
 */
export function claimI8042(pio: IoBus, chip: IoHandler): readonly Claim[] {
  const command: IoHandler = {
    read: (_offset, width) => chip.read(COMMAND, width),
    write: (_offset, width, value) => chip.write(COMMAND, width, value),
  };
  return [
    pio.claim(0x60, 1, chip, { name: 'i8042 data', widths: 1 }),
    pio.claim(0x64, 1, command, { name: 'i8042 command', widths: 1 }),
  ];
}
