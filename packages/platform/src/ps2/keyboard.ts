// PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference, Keyboards, 1990). Mirrors bhyve's ps2kbd.c.
import { ByteQueue } from '../byte-queue.ts';
import { checkState } from '../state.ts';
import {
  DEV_DEFAULTS,
  DEV_DISABLE,
  DEV_ENABLE,
  DEV_ID,
  DEV_RESEND,
  DEV_RESET,
  KBD_ALL_FIRST,
  KBD_ALL_LAST,
  KBD_ECHO,
  KBD_KEY_FIRST,
  KBD_KEY_LAST,
  KBD_LEDS,
  KBD_SCANCODE_SET,
  KBD_TYPEMATIC,
  REPLY_ACK,
  REPLY_BAT_OK,
  REPLY_ECHO,
  REPLY_RESEND,
} from './bits.ts';
import { type KeyName, set2Code, set3Code } from './keys.ts';
import { keysymToKey } from './keysyms.ts';
import type { Ps2Device } from './port.ts';
import { SET2_TO_SET1 } from './translate.ts';

/** Bytes of key codes kept; a real keyboard has 16, which a paste through VNC overruns. */
const KEY_QUEUE = 128;
const REPLY_QUEUE = 16;

/** LED bits as the guest sends them with ED. */
export interface KeyboardLeds {
  /** Scroll Lock is lit. */
  readonly scrollLock: boolean;
  /** Num Lock is lit. */
  readonly numLock: boolean;
  /** Caps Lock is lit. */
  readonly capsLock: boolean;
}

/** Options of {@link Ps2Keyboard}. */
export interface KeyboardOptions {
  /** Told of the LEDs whenever the guest sets them. */
  readonly onLeds?: (leds: KeyboardLeds) => void;
}

/** Saved state of a {@link Ps2Keyboard}. */
export interface KeyboardStateV1 {
  readonly v: 1;
  readonly set: number;
  readonly scanning: boolean;
  readonly leds: number;
  readonly typematic: number;
  readonly expecting: number;
  readonly lastSent: number;
  readonly midSequence: boolean;
  readonly overrun: boolean;
  readonly replies: readonly number[];
  readonly keys: readonly number[];
}

/**
 * A 105-key keyboard with multimedia keys, scancode sets 1, 2 and 3. It comes up scanning, in set 2.
 *
 * Not modelled: auto-repeat made by the keyboard itself (the host's key repeat comes through as repeated makes), the
 * shift states that real keyboards fake around grey keys, per-key make/break options (F7–FD are acknowledged).
 */
export class Ps2Keyboard implements Ps2Device {
  onPending: (() => void) | null = null;
  private readonly onLeds: ((leds: KeyboardLeds) => void) | null;
  private readonly replies: ByteQueue = new ByteQueue(REPLY_QUEUE, REPLY_QUEUE);
  private readonly keys: ByteQueue = new ByteQueue(KEY_QUEUE, KEY_QUEUE);
  private set = 2;
  private scanning = true;
  private leds = 0;
  private typematic = 0x2b;
  /** Command whose argument is awaited, or 0. */
  private expecting = 0;
  private lastSent = 0;
  /** A prefix byte went out; the rest of its sequence comes before any reply. */
  private midSequence = false;
  /** The overrun code stands at the end of the queue. */
  private overrun = false;
  private altDown = false;
  private controlDown = false;

  constructor(o: KeyboardOptions = {}) {
    this.onLeds = o.onLeds ?? null;
  }

  /**
   * A key goes down or up. Repeated downs are passed on as auto-repeat. False: scanning is off or the queue is full.
   */
  key(name: KeyName, down: boolean): boolean {
    if (name === 'AltLeft' || name === 'AltRight') this.altDown = down;
    if (name === 'ControlLeft' || name === 'ControlRight') this.controlDown = down;
    const code = set2Code(name);
    if (this.set === 3) {
      const c = set3Code(name);
      if (c === 0) return false;
      return down ? this.emit([c]) : this.emit([0xf0, c]);
    }
    if (name === 'Pause') {
      // No break code: the make sequence holds both. With Control it is the Break key.
      if (!down) return this.scanning;
      return this.controlDown
        ? this.emit([0xe0, 0x7e, 0xe0, 0xf0, 0x7e])
        : this.emit([0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]);
    }
    if (name === 'PrintScreen') {
      if (this.altDown) return down ? this.emit([0x84]) : this.emit([0xf0, 0x84]);
      return down ? this.emit([0xe0, 0x12, 0xe0, 0x7c]) : this.emit([0xe0, 0xf0, 0x7c, 0xe0, 0xf0, 0x12]);
    }
    if (code > 0xff) return down ? this.emit([0xe0, code & 0xff]) : this.emit([0xe0, 0xf0, code & 0xff]);
    if (name === 'Lang1' || name === 'Lang2') return down ? this.emit([code]) : this.scanning; // make only
    return down ? this.emit([code]) : this.emit([0xf0, code]);
  }

  /** A key by X11 keysym, see {@link keysymToKey}. False: no such key, scanning is off or the queue is full. */
  keysym(keysym: number, down: boolean): boolean {
    const name = keysymToKey(keysym);
    return name !== null && this.key(name, down);
  }

  /** Raw codes of one whole key sequence in set 2. In set 3 they pass as they are. False as for {@link Ps2Keyboard.key}. */
  scancodes(set2: readonly number[]): boolean {
    return this.emit(set2);
  }

  /** LEDs as last set by the guest. */
  get ledState(): KeyboardLeds {
    return {
      scrollLock: (this.leds & 1) !== 0,
      numLock: (this.leds & 2) !== 0,
      capsLock: (this.leds & 4) !== 0,
    };
  }

  /** Queues a whole sequence or, when it does not fit, the overrun code once. */
  private emit(set2: readonly number[]): boolean {
    if (!this.scanning) return false;
    if (this.keys.length + set2.length >= KEY_QUEUE) {
      if (!this.overrun) this.keys.push(this.set === 1 ? 0xff : 0x00);
      this.overrun = true;
      return false;
    }
    let broken = 0;
    for (const b of set2) {
      if (this.set !== 1) {
        this.keys.push(b & 0xff);
      } else if (b === 0xf0) {
        broken = 0x80;
      } else {
        this.keys.push((SET2_TO_SET1[b & 0xff] as number) | broken);
        broken = 0;
      }
    }
    this.onPending?.();
    return true;
  }

  get pending(): boolean {
    return this.replies.length + this.keys.length > 0;
  }

  next(): number {
    let b = this.midSequence ? this.keys.shift() : -1;
    if (b < 0) b = this.replies.shift();
    if (b < 0) b = this.keys.shift();
    this.midSequence = (b === 0xe0 || b === 0xe1 || b === 0xf0) && this.keys.length > 0;
    if (this.keys.length === 0) this.overrun = false;
    if (b !== REPLY_RESEND) this.lastSent = b & 0xff;
    return b & 0xff;
  }

  send(byte: number): void {
    const command = this.expecting;
    this.expecting = 0;
    if (command !== 0 && byte < KBD_LEDS) this.argument(command, byte);
    else this.command(byte);
    if (this.pending) this.onPending?.();
  }

  private argument(command: number, byte: number): void {
    switch (command) {
      case KBD_LEDS:
        this.leds = byte & 7;
        this.reply(REPLY_ACK);
        if (this.onLeds !== null) this.onLeds(this.ledState);
        break;
      case KBD_SCANCODE_SET:
        if (byte > 3) {
          this.reply(REPLY_RESEND);
          break;
        }
        this.reply(REPLY_ACK);
        if (byte === 0) {
          this.reply(this.set);
        } else {
          this.forgetKeys();
          this.set = byte;
        }
        break;
      case KBD_TYPEMATIC:
        this.typematic = byte & 0x7f;
        this.reply(REPLY_ACK);
        break;
      default:
        // A key of FB–FD; more keys may follow until a command comes.
        this.expecting = command;
        this.reply(REPLY_ACK);
    }
  }

  private command(byte: number): void {
    switch (byte) {
      case KBD_LEDS:
      case KBD_SCANCODE_SET:
      case KBD_TYPEMATIC:
        this.expecting = byte;
        this.reply(REPLY_ACK);
        break;
      case KBD_ECHO:
        this.reply(REPLY_ECHO);
        break;
      case DEV_ID:
        this.reply(REPLY_ACK);
        this.reply(0xab);
        this.reply(0x83);
        break;
      case DEV_ENABLE:
        this.forgetKeys();
        this.scanning = true;
        this.reply(REPLY_ACK);
        break;
      case DEV_DISABLE:
        this.defaults();
        this.scanning = false;
        this.reply(REPLY_ACK);
        break;
      case DEV_DEFAULTS:
        this.defaults();
        this.reply(REPLY_ACK);
        break;
      case DEV_RESEND:
        this.reply(this.lastSent);
        break;
      case DEV_RESET:
        this.defaults();
        this.replies.clear();
        this.scanning = true;
        this.leds = 0;
        this.reply(REPLY_ACK);
        this.reply(REPLY_BAT_OK);
        break;
      default:
        if (byte >= KBD_ALL_FIRST && byte <= KBD_ALL_LAST) this.reply(REPLY_ACK);
        else if (byte >= KBD_KEY_FIRST && byte <= KBD_KEY_LAST) {
          this.expecting = byte;
          this.reply(REPLY_ACK);
        } else this.reply(REPLY_RESEND);
    }
  }

  /** A guest that never reads replies loses the newest. */
  private reply(byte: number): void {
    this.replies.push(byte);
  }

  private forgetKeys(): void {
    this.keys.clear();
    this.midSequence = false;
    this.overrun = false;
  }

  private defaults(): void {
    this.forgetKeys();
    this.set = 2;
    this.typematic = 0x2b;
  }

  reset(): void {
    this.defaults();
    this.replies.clear();
    this.scanning = true;
    this.leds = 0;
    this.expecting = 0;
    this.lastSent = 0;
    this.altDown = false;
    this.controlDown = false;
  }

  save(): KeyboardStateV1 {
    return {
      v: 1,
      set: this.set,
      scanning: this.scanning,
      leds: this.leds,
      typematic: this.typematic,
      expecting: this.expecting,
      lastSent: this.lastSent,
      midSequence: this.midSequence,
      overrun: this.overrun,
      replies: this.replies.toArray(),
      keys: this.keys.toArray(),
    };
  }

  load(state: unknown): void {
    checkState('ps2 keyboard', state, 1);
    const s = state as KeyboardStateV1;
    this.set = s.set;
    this.scanning = s.scanning;
    this.leds = s.leds;
    this.typematic = s.typematic;
    this.expecting = s.expecting;
    this.lastSent = s.lastSent;
    this.midSequence = s.midSequence;
    this.overrun = s.overrun;
    this.replies.clear();
    this.keys.clear();
    for (const b of s.replies) this.replies.push(b);
    for (const b of s.keys) this.keys.push(b);
    this.altDown = false; // the host's keys are not part of the machine
    this.controlDown = false;
  }
}
