// 16550A UART (National Semiconductor PC16550D, June 1995). Mirrors bhyve's uart_emul.c. The chip alone: no ports, no
// terminal; see claim.ts for the ISA addresses.
import type { CharBackend, Clock, Device, IoHandler, IrqLine, Timer, Width } from '@hyve/core';
import { afterThisTurn, ByteQueue, Outbox } from '../byte-queue.ts';
import { checkState } from '../state.ts';
import {
  DLL,
  DLM,
  FCR,
  FCR_DMA,
  FCR_ENABLE,
  FCR_RX_RESET,
  FCR_TRIGGER_MASK,
  FCR_TRIGGER_SHIFT,
  FCR_TX_RESET,
  FIFO_SIZE,
  IER,
  IER_EDSSI,
  IER_ELSI,
  IER_ERBFI,
  IER_ETBEI,
  IER_WRITABLE,
  IIR,
  IIR_FIFO,
  IIR_LINE,
  IIR_MODEM,
  IIR_NONE,
  IIR_RX,
  IIR_THRE,
  IIR_TIMEOUT,
  LCR,
  LCR_DLAB,
  LCR_PEN,
  LCR_STB,
  LCR_WLS_MASK,
  LSR,
  LSR_DR,
  LSR_OE,
  LSR_TEMT,
  LSR_THRE,
  MCR,
  MCR_DTR,
  MCR_LOOP,
  MCR_OUT1,
  MCR_OUT2,
  MCR_RTS,
  MCR_WRITABLE,
  MSR,
  MSR_CTS,
  MSR_DCD,
  MSR_DCTS,
  MSR_DDCD,
  MSR_DDSR,
  MSR_DELTAS,
  MSR_DSR,
  MSR_LINES,
  MSR_RI,
  MSR_TERI,
  RBR,
  SCR,
} from './bits.ts';

/** Bytes gathered before they go to the host in one call. */
const BATCH = 4096;
/** Host bytes kept for a guest that is slow to read. A backend that heeds `setFlow` never comes near. */
const BACKLOG_LIMIT = 1 << 20;
/** With more than this many bytes waiting behind the FIFO, the backend is asked to pause. */
const BACKLOG_PAUSE = 256;
/** Clock input of a PC's UART divided by 16, in Hz: divisor 1 is 115,200 baud. */
const BASE_BAUD = 115_200;
/** Shortest and longest character timeout, so that silly divisors neither flood nor stall. */
const TIMEOUT_MIN_NS = 10_000;
const TIMEOUT_MAX_NS = 20_000_000;

/** Options of {@link Uart16550}. */
export interface UartOptions {
  /** For messages and saved state. Default `uart`. */
  readonly name?: string;
  /** Driven as a level; an edge-triggered controller sees a new edge for each THRE interrupt. */
  readonly irq: IrqLine;
  /** Times the receive FIFO's character timeout, and nothing else. */
  readonly clock: Clock;
  /**
   * Takes transmitted bytes in batches; the array is reused. False means "taken, but wait": the transmitter stays busy
   * until {@link Uart16550.drained}. Without it bytes vanish. {@link Uart16550.connect} replaces it.
   */
  readonly onTransmit?: (bytes: Uint8Array) => boolean;
  /** Asked to pause (true) when the guest does not read what was received, and to go on (false) later. */
  readonly onFlow?: (paused: boolean) => void;
  /** Told of the modem outputs after they change, outside loopback. */
  readonly onModemControl?: (lines: { readonly dtr: boolean; readonly rts: boolean }) => void;
  /** Runs a task after the current run-loop turn; default a microtask. Used once per batch. */
  readonly defer?: (task: () => void) => void;
}

/** Saved state of a {@link Uart16550}. Registers as bytes. */
export interface UartStateV1 {
  readonly v: 1;
  readonly ier: number;
  readonly fcr: number;
  readonly lcr: number;
  readonly mcr: number;
  readonly msr: number;
  readonly scr: number;
  readonly divisor: number;
  readonly lines: number;
  readonly last: number;
  readonly overrun: boolean;
  readonly threPending: boolean;
  readonly timedOut: boolean;
  /** Receive FIFO, oldest first. */
  readonly fifo: readonly number[];
  /** Host bytes behind the FIFO. */
  readonly backlog: readonly number[];
  /** Bytes the host has not taken. */
  readonly outbox: readonly number[];
  readonly held: boolean;
}

/**
 * A 16550A with 16-byte FIFOs. Output has no baud timing: the holding register empties at once and bytes leave in
 * batches, so a guest is limited by its own speed only. When the host side asks for a pause, THRE and TEMT stay clear and
 * nothing is lost that a real transmitter would keep.
 *
 * Not modelled: baud rate on the wire, parity, framing, break (LCR bit 6 is kept, nothing is sent), DMA handshake pins,
 * OUT2 as interrupt gate (as in bhyve and QEMU).
 * @example
 * const uart = new Uart16550({ irq, clock, onTransmit: (bytes) => tty.write(bytes) });
 * claimCom(pio, 1, uart);
 * uart.receive(0x41);
 */
export class Uart16550 implements IoHandler, Device {
  readonly name: string;
  private readonly irq: IrqLine;
  private readonly clock: Clock;
  private readonly timeout: Timer;
  private readonly onModemControl: ((lines: { readonly dtr: boolean; readonly rts: boolean }) => void) | null;
  private transmit: ((bytes: Uint8Array) => boolean) | null;
  private flow: ((paused: boolean) => void) | null;
  private readonly out: Outbox;
  private readonly backlog: ByteQueue = new ByteQueue(1024, BACKLOG_LIMIT);
  private readonly fifo: Uint8Array = new Uint8Array(FIFO_SIZE);
  private fifoHead = 0;
  private fifoCount = 0;
  private ier = 0;
  private fcr = 0;
  private lcr = 0;
  private mcr = 0;
  /** Modem inputs as the guest sees them, with the delta bits. */
  private msr = 0;
  /** Modem inputs of the outside, MSR_CTS… bits. */
  private lines = 0;
  private scr = 0;
  private divisor = 0;
  /** What RBR reads when nothing new is there. */
  private last = 0;
  private overrun = false;
  private threPending = false;
  private timedOut = false;
  private flowPaused = false;
  private received = 0;
  private rxLost = 0;
  private txLost = 0;

  constructor(o: UartOptions) {
    this.name = o.name ?? 'uart';
    this.irq = o.irq;
    this.clock = o.clock;
    this.timeout = o.clock.timer(() => this.characterTimeout());
    this.transmit = o.onTransmit ?? null;
    this.flow = o.onFlow ?? null;
    this.onModemControl = o.onModemControl ?? null;
    this.out = new Outbox(BATCH, o.defer ?? afterThisTurn, (bytes) => this.deliver(bytes));
    if (this.transmit !== null) this.lines = MSR_CTS | MSR_DSR | MSR_DCD;
    this.msr = this.lines;
  }

  /**
   * Puts a back end at the other end of the line: output goes to it, its data comes in, CTS, DSR and DCD are on. Null
   * disconnects: output vanishes and the modem inputs drop.
   */
  connect(backend: CharBackend | null): void {
    this.flush();
    this.flow = null;
    this.flowPaused = false;
    if (backend === null) {
      this.transmit = null;
    } else {
      this.transmit = (bytes) => backend.write(bytes);
      this.flow = (paused) => backend.setFlow(paused);
      backend.onDrain = () => this.drained();
      backend.onData = (bytes) => this.receiveAll(bytes);
    }
    this.drained();
    this.setModemInputs(
      backend === null ? { cts: false, dsr: false, dcd: false } : { cts: true, dsr: true, dcd: true },
    );
    this.updateFlow();
  }

  /** A byte arrives on the line. False: neither the FIFO nor the backlog had room; the byte is lost and OE is set. */
  receive(byte: number): boolean {
    const taken = this.backlog.push(byte & 0xff);
    if (taken) this.received++;
    else this.lostInput(1);
    this.refill();
    this.updateFlow();
    this.updateIrq();
    return taken;
  }

  /** Bytes arrive on the line. Returns how many there was room for; asks for a pause through `onFlow` long before that. */
  receiveAll(bytes: Uint8Array): number {
    const n = this.backlog.pushAll(bytes);
    this.received += n;
    if (n < bytes.length) this.lostInput(bytes.length - n);
    this.refill();
    this.updateFlow();
    this.updateIrq();
    return n;
  }

  /** Hands gathered output to the host now. The run loop calls it between turns; otherwise a microtask does. */
  flush(): void {
    if (!this.out.held) this.out.flush();
  }

  /** The host takes bytes again after `onTransmit` answered false. */
  drained(): void {
    if (!this.out.held) return;
    this.out.held = false;
    this.out.flush();
    if (this.out.held) return;
    this.threPending = true;
    this.updateIrq();
  }

  /** Sets modem inputs from outside; absent ones stay. Changes set the delta bits (RI: its falling edge), §8.9. */
  setModemInputs(o: { cts?: boolean; dsr?: boolean; ri?: boolean; dcd?: boolean }): void {
    let lines = this.lines;
    if (o.cts !== undefined) lines = o.cts ? lines | MSR_CTS : lines & ~MSR_CTS;
    if (o.dsr !== undefined) lines = o.dsr ? lines | MSR_DSR : lines & ~MSR_DSR;
    if (o.ri !== undefined) lines = o.ri ? lines | MSR_RI : lines & ~MSR_RI;
    if (o.dcd !== undefined) lines = o.dcd ? lines | MSR_DCD : lines & ~MSR_DCD;
    this.lines = lines;
    this.updateModem();
    this.updateIrq();
  }

  /** Baud rate that the guest programmed, or 0 while the divisor is 0. For display. */
  get baud(): number {
    return this.divisor === 0 ? 0 : Math.floor(BASE_BAUD / this.divisor);
  }

  read(offset: number, _width: Width): number {
    switch (offset) {
      case RBR:
        if ((this.lcr & LCR_DLAB) !== 0) return this.divisor & 0xff;
        return this.readData();
      case IER:
        if ((this.lcr & LCR_DLAB) !== 0) return this.divisor >> 8;
        return this.ier;
      case IIR: {
        const id = this.pendingId();
        if (id === IIR_THRE) {
          this.threPending = false;
          this.updateIrq();
        }
        return (this.fcr & FCR_ENABLE) !== 0 ? id | IIR_FIFO : id;
      }
      case LCR:
        return this.lcr;
      case MCR:
        return this.mcr;
      case LSR: {
        let v = this.out.held && (this.mcr & MCR_LOOP) === 0 ? 0 : LSR_THRE | LSR_TEMT;
        if (this.fifoCount > 0) v |= LSR_DR;
        if (this.overrun) {
          v |= LSR_OE;
          this.overrun = false;
          this.updateIrq();
        }
        return v;
      }
      case MSR: {
        const v = this.msr;
        if ((v & MSR_DELTAS) !== 0) {
          this.msr = v & MSR_LINES;
          this.updateIrq();
        }
        return v;
      }
      case SCR:
        return this.scr;
      default:
        return 0xff;
    }
  }

  write(offset: number, _width: Width, value: number): void {
    switch (offset) {
      case DLL:
        if ((this.lcr & LCR_DLAB) !== 0) this.divisor = (this.divisor & 0xff00) | value;
        else this.writeData(value);
        break;
      case DLM:
        if ((this.lcr & LCR_DLAB) !== 0) this.divisor = (this.divisor & 0x00ff) | (value << 8);
        else this.writeEnable(value & IER_WRITABLE);
        break;
      case FCR:
        this.writeFifoControl(value);
        break;
      case LCR:
        this.lcr = value;
        break;
      case MCR:
        this.writeModemControl(value & MCR_WRITABLE);
        break;
      case SCR:
        this.scr = value;
        break;
      // LSR and MSR: "intended for factory testing"; writes do nothing.
    }
  }

  private readData(): number {
    if (this.fifoCount > 0) {
      this.last = this.fifo[this.fifoHead] as number;
      this.fifoHead = (this.fifoHead + 1) & (FIFO_SIZE - 1);
      this.fifoCount--;
    }
    this.timedOut = false;
    if (this.backlog.length > 0) {
      this.refill();
      this.updateFlow();
    }
    this.armTimeout();
    this.updateIrq();
    return this.last;
  }

  private writeData(value: number): void {
    if ((this.mcr & MCR_LOOP) !== 0) {
      this.loopBack(value);
    } else if (this.out.held) {
      if (this.out.length < ((this.fcr & FCR_ENABLE) !== 0 ? FIFO_SIZE : 1)) this.out.push(value);
      else this.txLost++;
      return; // THRE comes with drained()
    } else if (this.transmit !== null) {
      this.out.push(value);
      if (this.out.held) return;
    }
    if ((this.ier & IER_ETBEI) === 0) {
      this.threPending = true;
      return;
    }
    // The write clears the THRE interrupt, the byte leaves at once, and the interrupt is there again: an edge.
    this.threPending = false;
    this.updateIrq();
    this.threPending = true;
    this.updateIrq();
  }

  /** Hands a batch to the host. Refused, the transmitter is busy: no THRE interrupt until it is empty again. */
  private deliver(bytes: Uint8Array): boolean {
    if (this.transmit === null || this.transmit(bytes)) return true;
    this.threPending = false;
    this.updateIrq();
    return false;
  }

  private writeEnable(value: number): void {
    const turnedOn = value & ~this.ier;
    this.ier = value;
    // Linux's startup tests for UARTs that do not raise THRE when ETBEI is set over an idle transmitter.
    if ((turnedOn & IER_ETBEI) !== 0 && !this.out.held) this.threPending = true;
    if ((turnedOn & IER_ERBFI) !== 0) this.armTimeout();
    this.updateIrq();
  }

  private writeFifoControl(value: number): void {
    const enabled = (value & FCR_ENABLE) !== 0;
    const toggled = ((value ^ this.fcr) & FCR_ENABLE) !== 0;
    if (toggled || (value & FCR_RX_RESET) !== 0) {
      this.fifoCount = 0;
      this.fifoHead = 0;
      this.timedOut = false;
      this.timeout.disarm();
    }
    // What waits for the end of this turn has left the chip; only a held transmitter has bytes of its own to drop.
    if ((toggled || (value & FCR_TX_RESET) !== 0) && this.out.held) this.out.clear();
    this.fcr = enabled ? value & (FCR_ENABLE | FCR_DMA | (FCR_TRIGGER_MASK << FCR_TRIGGER_SHIFT)) : 0;
    this.refill();
    this.updateFlow();
    this.updateIrq();
  }

  private writeModemControl(value: number): void {
    const changed = this.mcr ^ value;
    this.mcr = value;
    this.updateModem();
    if ((changed & MCR_LOOP) !== 0) this.refill();
    this.updateIrq();
    if (this.onModemControl !== null && (changed & (MCR_DTR | MCR_RTS | MCR_LOOP)) !== 0) {
      const out = (value & MCR_LOOP) === 0; // loopback drives the pins inactive
      this.onModemControl({ dtr: out && (value & MCR_DTR) !== 0, rts: out && (value & MCR_RTS) !== 0 });
    }
  }

  /** A transmitted byte comes back, §8.8 bit 4. */
  private loopBack(value: number): void {
    if (this.fifoCount >= this.capacity()) {
      this.overrun = true;
      if ((this.fcr & FCR_ENABLE) === 0) this.fifo[this.fifoHead] = value;
    } else {
      this.store(value);
      this.armTimeout();
    }
    this.updateIrq();
  }

  private capacity(): number {
    return (this.fcr & FCR_ENABLE) !== 0 ? FIFO_SIZE : 1;
  }

  private store(value: number): void {
    this.fifo[(this.fifoHead + this.fifoCount) & (FIFO_SIZE - 1)] = value;
    this.fifoCount++;
  }

  /** Moves waiting host bytes into the FIFO. In loopback the receiver is cut off the line. */
  private refill(): void {
    if (this.backlog.length === 0 || (this.mcr & MCR_LOOP) !== 0) return;
    const capacity = this.capacity();
    let moved = false;
    while (this.fifoCount < capacity) {
      const b = this.backlog.shift();
      if (b < 0) break;
      this.store(b);
      moved = true;
    }
    if (moved) {
      this.timedOut = false;
      this.armTimeout();
    }
  }

  private lostInput(n: number): void {
    this.rxLost += n;
    this.overrun = true;
  }

  private updateFlow(): void {
    const pause = this.flowPaused ? this.backlog.length > 0 : this.backlog.length > BACKLOG_PAUSE;
    if (pause === this.flowPaused) return;
    this.flowPaused = pause;
    if (this.flow !== null) this.flow(pause);
  }

  private trigger(): number {
    switch ((this.fcr >> FCR_TRIGGER_SHIFT) & FCR_TRIGGER_MASK) {
      case 0:
        return 1;
      case 1:
        return 4;
      case 2:
        return 8;
      default:
        return 14;
    }
  }

  /** Starts the four character times after which bytes below the trigger level interrupt, §8.11. */
  private armTimeout(): void {
    if ((this.fcr & FCR_ENABLE) === 0 || this.fifoCount === 0 || (this.ier & IER_ERBFI) === 0) {
      this.timeout.disarm();
    } else if (this.fifoCount < this.trigger()) {
      const stop = (this.lcr & LCR_STB) !== 0 ? 2 : 1;
      const bits = 1 + 5 + (this.lcr & LCR_WLS_MASK) + ((this.lcr & LCR_PEN) !== 0 ? 1 : 0) + stop;
      const ns = (4 * bits * this.divisor * 1e9) / BASE_BAUD;
      this.timeout.arm(this.clock.now() + Math.min(Math.max(ns, TIMEOUT_MIN_NS), TIMEOUT_MAX_NS));
    }
  }

  private characterTimeout(): void {
    this.timedOut = this.fifoCount > 0 && (this.fcr & FCR_ENABLE) !== 0;
    this.updateIrq();
  }

  private updateModem(): void {
    let now = this.lines;
    const mcr = this.mcr;
    if ((mcr & MCR_LOOP) !== 0) {
      now = (mcr & MCR_RTS) !== 0 ? MSR_CTS : 0;
      if ((mcr & MCR_DTR) !== 0) now |= MSR_DSR;
      if ((mcr & MCR_OUT1) !== 0) now |= MSR_RI;
      if ((mcr & MCR_OUT2) !== 0) now |= MSR_DCD;
    }
    const changed = this.msr ^ now;
    let deltas = this.msr & MSR_DELTAS;
    if ((changed & MSR_CTS) !== 0) deltas |= MSR_DCTS;
    if ((changed & MSR_DSR) !== 0) deltas |= MSR_DDSR;
    if ((changed & MSR_RI) !== 0 && (now & MSR_RI) === 0) deltas |= MSR_TERI;
    if ((changed & MSR_DCD) !== 0) deltas |= MSR_DDCD;
    this.msr = now | deltas;
  }

  /** What IIR says, without the FIFO bits; priorities of §8.6 table IV. */
  private pendingId(): number {
    const ier = this.ier;
    if ((ier & IER_ELSI) !== 0 && this.overrun) return IIR_LINE;
    if ((ier & IER_ERBFI) !== 0 && this.fifoCount > 0) {
      if (this.fifoCount >= this.trigger()) return IIR_RX;
      if (this.timedOut) return IIR_TIMEOUT;
    }
    if ((ier & IER_ETBEI) !== 0 && this.threPending) return IIR_THRE;
    if ((ier & IER_EDSSI) !== 0 && (this.msr & MSR_DELTAS) !== 0) return IIR_MODEM;
    return IIR_NONE;
  }

  private updateIrq(): void {
    this.irq.set(this.pendingId() !== IIR_NONE);
  }

  reset(): void {
    this.timeout.disarm();
    this.flush();
    this.out.clear();
    this.fifoCount = 0;
    this.fifoHead = 0;
    this.ier = 0;
    this.fcr = 0;
    this.lcr = 0;
    this.mcr = 0;
    this.scr = 0;
    this.divisor = 0;
    this.last = 0;
    this.overrun = false;
    this.threPending = false;
    this.timedOut = false;
    this.msr = this.lines;
    this.refill(); // bytes that the host sent meanwhile are still on the line
    this.updateFlow();
    this.updateIrq();
  }

  /** Offers held output again: after {@link Uart16550.load} the back end may be another one with room. */
  resume(): void {
    this.drained();
    this.flush();
  }

  save(): UartStateV1 {
    const fifo: number[] = [];
    for (let i = 0; i < this.fifoCount; i++) fifo.push(this.fifo[(this.fifoHead + i) & (FIFO_SIZE - 1)] as number);
    return {
      v: 1,
      ier: this.ier,
      fcr: this.fcr,
      lcr: this.lcr,
      mcr: this.mcr,
      msr: this.msr,
      scr: this.scr,
      divisor: this.divisor,
      lines: this.lines,
      last: this.last,
      overrun: this.overrun,
      threPending: this.threPending,
      timedOut: this.timedOut,
      fifo,
      backlog: this.backlog.toArray(),
      outbox: this.out.toArray(),
      held: this.out.held,
    };
  }

  load(state: unknown): void {
    checkState(this.name, state, 1);
    const s = state as UartStateV1;
    this.timeout.disarm();
    this.ier = s.ier & IER_WRITABLE;
    this.fcr = s.fcr & 0xff;
    this.lcr = s.lcr & 0xff;
    this.mcr = s.mcr & MCR_WRITABLE;
    this.msr = s.msr & 0xff;
    this.scr = s.scr & 0xff;
    this.divisor = s.divisor & 0xffff;
    this.lines = s.lines & MSR_LINES;
    this.last = s.last & 0xff;
    this.overrun = s.overrun;
    this.threPending = s.threPending;
    this.timedOut = s.timedOut;
    this.fifoHead = 0;
    this.fifoCount = 0;
    for (const b of s.fifo.slice(0, FIFO_SIZE)) this.store(b);
    this.backlog.clear();
    this.backlog.pushAll(Uint8Array.from(s.backlog));
    this.out.clear();
    this.out.held = s.held;
    for (const b of s.outbox) this.out.push(b);
    if (!this.timedOut) this.armTimeout();
    this.updateFlow();
    this.irq.restore(this.pendingId() !== IIR_NONE);
  }

  counters(): Readonly<Record<string, number>> {
    return { rxBytes: this.received, txBytes: this.out.sent, rxLost: this.rxLost, txLost: this.txLost };
  }
}
