// PS/2 mouse (IBM PS/2 Hardware Interface Technical Reference, Mouse, 1990) with Microsoft's IntelliMouse and IntelliMouse
// Explorer extensions. Mirrors bhyve's ps2mouse.c, which stops at three bytes.
import { ByteQueue } from '../byte-queue.ts';
import { checkState } from '../state.ts';
import {
  DEV_DEFAULTS,
  DEV_DISABLE,
  DEV_ENABLE,
  DEV_ID,
  DEV_RESEND,
  DEV_RESET,
  MOUSE_RATE,
  MOUSE_READ,
  MOUSE_REMOTE,
  MOUSE_RESOLUTION,
  MOUSE_SCALE_1,
  MOUSE_SCALE_2,
  MOUSE_STATUS,
  MOUSE_STREAM,
  MOUSE_UNWRAP,
  MOUSE_WRAP,
  REPLY_ACK,
  REPLY_BAT_OK,
  REPLY_RESEND,
} from './bits.ts';
import type { Ps2Device } from './port.ts';

/** Bytes of movement kept. Movement beyond it is added up instead. */
const MOVE_QUEUE = 64;
const REPLY_QUEUE = 16;
/** Movement added up while the guest does not read, in counts, either way. */
const MOVE_LIMIT = 4096;

const ID_PLAIN = 0;
const ID_WHEEL = 3;
const ID_FIVE_BUTTONS = 4;

/** Saved state of a {@link Ps2Mouse}. */
export interface MouseStateV1 {
  readonly v: 1;
  readonly id: number;
  readonly rate: number;
  readonly rates: readonly number[];
  readonly resolution: number;
  readonly scale2: boolean;
  readonly enabled: boolean;
  readonly remote: boolean;
  readonly wrap: boolean;
  readonly expecting: number;
  readonly lastSent: number;
  readonly buttons: number;
  readonly reported: number;
  readonly dx: number;
  readonly dy: number;
  readonly dz: number;
  readonly replies: readonly number[];
  readonly moves: readonly number[];
}

/**
 * A PS/2 mouse: three bytes a packet; four with a wheel after sample rates 200, 100, 80; four with wheel and five buttons
 * after 200, 200, 80.
 *
 * Not modelled: the sample rate's limit on packets per second, counts per millimetre.
 */
export class Ps2Mouse implements Ps2Device {
  onPending: (() => void) | null = null;
  private readonly replies: ByteQueue = new ByteQueue(REPLY_QUEUE, REPLY_QUEUE);
  private readonly moves: ByteQueue = new ByteQueue(MOVE_QUEUE, MOVE_QUEUE);
  private id: number = ID_PLAIN;
  private rate = 100;
  /** The last three sample rates, newest in the low byte. */
  private knock = 0;
  private resolution = 2;
  private scale2 = false;
  private enabled = false;
  private remote = false;
  private wrap = false;
  private expecting = 0;
  private lastSent = 0;
  private buttons = 0;
  private reported = 0;
  private dx = 0;
  private dy = 0;
  private dz = 0;
  /** Bytes left of the packet going out, which replies do not interrupt. */
  private packetLeft = 0;

  /**
   * The mouse moves. Screen directions: `dx` right, `dy` down, `dz` wheel towards the user, in counts. `buttons`: bit 0
   * left, 1 right, 2 middle, 3 and 4 the side buttons. Does nothing but add up while the guest has not enabled the mouse.
   */
  move(dx: number, dy: number, dz: number, buttons: number): void {
    this.buttons = buttons & 0x1f;
    if (!this.enabled && !this.remote) {
      this.reported = this.buttons;
      return;
    }
    this.dx = clamp(this.dx + (Math.trunc(dx) || 0), MOVE_LIMIT);
    this.dy = clamp(this.dy - (Math.trunc(dy) || 0), MOVE_LIMIT); // PS/2 counts up as positive
    this.dz = clamp(this.dz + (Math.trunc(dz) || 0), 127);
    this.stream();
    if (this.pending) this.onPending?.();
  }

  /** Whether the guest listens to movement. */
  get active(): boolean {
    return this.enabled && !this.remote && !this.wrap;
  }

  get pending(): boolean {
    return this.replies.length + this.moves.length > 0;
  }

  next(): number {
    let b = -1;
    if (this.packetLeft > 0) {
      b = this.moves.shift();
      this.packetLeft--;
    } else {
      b = this.replies.shift();
      if (b < 0) {
        b = this.moves.shift();
        this.packetLeft = this.packetSize() - 1;
      }
    }
    if (this.moves.length === 0) {
      this.packetLeft = 0;
      this.stream();
    }
    if (b !== REPLY_RESEND) this.lastSent = b & 0xff;
    return b & 0xff;
  }

  send(byte: number): void {
    const command = this.expecting;
    this.expecting = 0;
    if (this.wrap && byte !== DEV_RESET && byte !== MOUSE_UNWRAP) {
      this.reply(byte);
    } else if (command !== 0 && byte < MOUSE_SCALE_1) {
      this.argument(command, byte);
    } else {
      this.command(byte);
    }
    if (this.pending) this.onPending?.();
  }

  private argument(command: number, byte: number): void {
    if (command === MOUSE_RESOLUTION) {
      this.resolution = byte & 3;
    } else {
      this.rate = byte;
      this.knock = ((this.knock << 8) | byte) & 0xffffff;
      const id = this.knock === KNOCK_WHEEL ? ID_WHEEL : this.knock === KNOCK_FIVE_BUTTONS ? ID_FIVE_BUTTONS : this.id;
      if (id !== this.id) this.forgetMoves(); // queued packets have the old size
      this.id = id;
    }
    this.reply(REPLY_ACK);
  }

  private command(byte: number): void {
    switch (byte) {
      case MOUSE_RESOLUTION:
      case MOUSE_RATE:
        this.expecting = byte;
        this.reply(REPLY_ACK);
        break;
      case MOUSE_SCALE_1:
        this.scale2 = false;
        this.reply(REPLY_ACK);
        break;
      case MOUSE_SCALE_2:
        this.scale2 = true;
        this.reply(REPLY_ACK);
        break;
      case MOUSE_STATUS: {
        let v = (this.remote ? 0x40 : 0) | (this.enabled ? 0x20 : 0) | (this.scale2 ? 0x10 : 0);
        if ((this.buttons & 1) !== 0) v |= 4;
        if ((this.buttons & 2) !== 0) v |= 1;
        if ((this.buttons & 4) !== 0) v |= 2;
        this.reply(REPLY_ACK);
        this.reply(v);
        this.reply(this.resolution);
        this.reply(this.rate);
        break;
      }
      case MOUSE_STREAM:
        this.remote = false;
        this.forgetMoves();
        this.reply(REPLY_ACK);
        break;
      case MOUSE_REMOTE:
        this.remote = true;
        this.forgetMoves();
        this.reply(REPLY_ACK);
        break;
      case MOUSE_READ:
        this.reply(REPLY_ACK);
        this.packet(this.replies, REPLY_QUEUE, false);
        break;
      case MOUSE_UNWRAP:
        this.wrap = false;
        this.reply(REPLY_ACK);
        break;
      case MOUSE_WRAP:
        this.wrap = true;
        this.forgetMoves();
        this.reply(REPLY_ACK);
        break;
      case DEV_ID:
        this.reply(REPLY_ACK);
        this.reply(this.id);
        break;
      case DEV_ENABLE:
        this.enabled = true;
        this.forgetMoves();
        this.reply(REPLY_ACK);
        break;
      case DEV_DISABLE:
        this.enabled = false;
        this.forgetMoves();
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
        this.id = ID_PLAIN;
        this.wrap = false;
        this.reply(REPLY_ACK);
        this.reply(REPLY_BAT_OK);
        this.reply(ID_PLAIN);
        break;
      default:
        this.reply(REPLY_RESEND);
    }
  }

  private reply(byte: number): void {
    this.replies.push(byte);
  }

  private packetSize(): number {
    return this.id === ID_PLAIN ? 3 : 4;
  }

  /** Turns movement that was added up into packets, as many as fit. */
  private stream(): void {
    if (!this.active) return;
    const size = this.packetSize();
    while (this.moves.length + size <= MOVE_QUEUE) {
      const wheel = this.id !== ID_PLAIN && this.dz !== 0;
      if (this.dx === 0 && this.dy === 0 && !wheel && this.buttons === this.reported) return;
      this.packet(this.moves, MOVE_QUEUE, this.scale2);
    }
  }

  /** Appends one packet and takes what it says from the counters. */
  private packet(queue: ByteQueue, room: number, scale2: boolean): void {
    const size = this.packetSize();
    if (queue.length + size > room) return;
    const limit = scale2 ? 127 : 255;
    let x = clamp(this.dx, limit);
    let y = clamp(this.dy, limit);
    this.dx -= x;
    this.dy -= y;
    if (scale2) {
      x = doubled(x);
      y = doubled(y);
    }
    queue.push(8 | (this.buttons & 7) | (x < 0 ? 0x10 : 0) | (y < 0 ? 0x20 : 0));
    queue.push(x & 0xff);
    queue.push(y & 0xff);
    if (this.id === ID_WHEEL) {
      queue.push(this.dz & 0xff);
    } else if (this.id === ID_FIVE_BUTTONS) {
      const z = Math.min(Math.max(this.dz, -8), 7);
      queue.push((z & 0x0f) | ((this.buttons & 0x18) << 1));
      this.dz -= z;
    }
    if (this.id !== ID_FIVE_BUTTONS) this.dz = 0;
    this.reported = this.buttons;
  }

  private forgetMoves(): void {
    this.moves.clear();
    this.packetLeft = 0;
    this.dx = 0;
    this.dy = 0;
    this.dz = 0;
    this.reported = this.buttons;
  }

  private defaults(): void {
    this.rate = 100;
    this.knock = 0;
    this.resolution = 2;
    this.scale2 = false;
    this.enabled = false;
    this.remote = false;
    this.forgetMoves();
  }

  reset(): void {
    this.defaults();
    this.replies.clear();
    this.id = ID_PLAIN;
    this.wrap = false;
    this.expecting = 0;
    this.lastSent = 0;
    this.buttons = 0;
    this.reported = 0;
  }

  save(): MouseStateV1 {
    return {
      v: 1,
      id: this.id,
      rate: this.rate,
      rates: [(this.knock >> 16) & 0xff, (this.knock >> 8) & 0xff, this.knock & 0xff],
      resolution: this.resolution,
      scale2: this.scale2,
      enabled: this.enabled,
      remote: this.remote,
      wrap: this.wrap,
      expecting: this.expecting,
      lastSent: this.lastSent,
      buttons: this.buttons,
      reported: this.reported,
      dx: this.dx,
      dy: this.dy,
      dz: this.dz,
      replies: this.replies.toArray(),
      moves: this.moves.toArray(),
    };
  }

  load(state: unknown): void {
    checkState('ps2 mouse', state, 1);
    const s = state as MouseStateV1;
    this.id = s.id;
    this.rate = s.rate;
    this.knock = ((s.rates[0] ?? 0) << 16) | ((s.rates[1] ?? 0) << 8) | (s.rates[2] ?? 0);
    this.resolution = s.resolution;
    this.scale2 = s.scale2;
    this.enabled = s.enabled;
    this.remote = s.remote;
    this.wrap = s.wrap;
    this.expecting = s.expecting;
    this.lastSent = s.lastSent;
    this.buttons = s.buttons;
    this.reported = s.reported;
    this.dx = s.dx;
    this.dy = s.dy;
    this.dz = s.dz;
    this.replies.clear();
    this.moves.clear();
    for (const b of s.replies) this.replies.push(b);
    for (const b of s.moves) this.moves.push(b);
    // Packets are of one size since the last forgetMoves(), so what is left of a started one follows from the length.
    this.packetLeft = this.moves.length % this.packetSize();
  }
}

const KNOCK_WHEEL = (200 << 16) | (100 << 8) | 80;
const KNOCK_FIVE_BUTTONS = (200 << 16) | (200 << 8) | 80;

function clamp(v: number, limit: number): number {
  return Math.min(Math.max(v, -limit), limit);
}

/** 2:1 scaling of stream mode: 0, 1, 1, 3, 6, 9, then twice the count. */
function doubled(v: number): number {
  const a = Math.abs(v);
  const d = a > 5 ? 2 * a : ([0, 1, 1, 3, 6, 9][a] as number);
  return v < 0 ? -d : d;
}
