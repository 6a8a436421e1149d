// Paravirtual debug channels: bhyve's console at port 0x220 and debug relay at 0x224 (consport.c, dbgport.c), and the
// one-way debug console of Bochs and QEMU at 0xE9 or 0x402.
import { allOnes, type CharBackend, type Claim, type Device, type IoBus, type IoHandler, type Width } from '@hyve/core';
import { afterThisTurn, ByteQueue, Outbox } from '../byte-queue.ts';
import { checkState } from '../state.ts';

/** `bv`, what FreeBSD's bvm console driver looks for with a 2-byte IN at 0x220. */
const SIGNATURE_CONSOLE = 0x6276;
/** `BV`, for the debug relay at 0x224. */
const SIGNATURE_DEBUG = 0x4256;
/** Output bytes gathered before one call to the host; also what is kept while the host asks for a pause. */
const BATCH = 4096;
const INPUT_LIMIT = 1 << 20;
const INPUT_PAUSE = 256;

/** Options of the debug ports. */
export interface DebugPortOptions {
  /** For messages and saved state. */
  readonly name?: string;
  /** Takes output in batches; the array is reused. False asks for a pause until `drained()`. */
  readonly onTransmit?: (bytes: Uint8Array) => boolean;
  /** Asked to pause (true) when the guest does not read, and to go on (false) later. */
  readonly onFlow?: (paused: boolean) => void;
  /** Runs a task after the current run-loop turn; default a microtask. */
  readonly defer?: (task: () => void) => void;
}

/** Saved state of a debug port. */
export interface DebugPortStateV1 {
  readonly v: 1;
  readonly input: readonly number[];
  readonly outbox: readonly number[];
}

/**
 * bhyve's 4-byte port. A 2-byte IN gives the signature, a 4-byte IN the next input byte or all ones, a 4-byte OUT sends
 * the low byte, a 1-byte IN gives 0xFF. The guest gets no flow control: output over 4 KiB that the host does not take is
 * lost and counted.
 * @example
 * const cons = new BvmPort({ kind: 'console', onTransmit: (bytes) => tty.write(bytes) });
 * claimBvmPort(pio, cons);
 */
export class BvmPort implements IoHandler, Device {
  readonly name: string;
  /** `console` at 0x220, or `debug` at 0x224. */
  readonly kind: 'console' | 'debug';
  private readonly signature: number;
  private readonly out: Outbox;
  private readonly input: ByteQueue = new ByteQueue(1024, INPUT_LIMIT);
  private transmit: ((bytes: Uint8Array) => boolean) | null;
  private flow: ((paused: boolean) => void) | null;
  private flowPaused = false;
  private txLost = 0;
  private rxLost = 0;

  constructor(o: DebugPortOptions & { readonly kind: 'console' | 'debug' }) {
    this.kind = o.kind;
    this.name = o.name ?? (o.kind === 'console' ? 'bvmcons' : 'bvmdebug');
    this.signature = o.kind === 'console' ? SIGNATURE_CONSOLE : SIGNATURE_DEBUG;
    this.transmit = o.onTransmit ?? null;
    this.flow = o.onFlow ?? null;
    this.out = new Outbox(BATCH, o.defer ?? afterThisTurn, (bytes) => this.transmit === null || this.transmit(bytes));
  }

  /** Puts a back end at the other end, or takes it away. */
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
    this.updateFlow();
  }

  /** Bytes for the guest. Returns how many there was room for. */
  receiveAll(bytes: Uint8Array): number {
    const n = this.input.pushAll(bytes);
    this.rxLost += bytes.length - n;
    this.updateFlow();
    return n;
  }

  /** Hands gathered output to the host now. */
  flush(): void {
    if (!this.out.held) this.out.flush();
  }

  /** The host takes bytes again. */
  drained(): void {
    if (!this.out.held) return;
    this.out.held = false;
    this.out.flush();
  }

  read(offset: number, width: Width): number {
    if (offset !== 0 || width === 1) return allOnes(width);
    if (width === 2) return this.signature;
    const b = this.input.shift();
    if (b < 0) return 0xffffffff;
    this.updateFlow();
    return b;
  }

  write(offset: number, width: Width, value: number): void {
    if (offset !== 0 || width !== 4 || this.transmit === null) return;
    if (this.out.held && this.out.length === BATCH) this.txLost++;
    else this.out.push(value & 0xff);
  }

  private updateFlow(): void {
    const pause = this.flowPaused ? this.input.length > 0 : this.input.length > INPUT_PAUSE;
    if (pause === this.flowPaused) return;
    this.flowPaused = pause;
    if (this.flow !== null) this.flow(pause);
  }

  /** Nothing to put back: the port has no registers. Output on its way goes out. */
  reset(): void {
    this.flush();
  }

  save(): DebugPortStateV1 {
    return { v: 1, input: this.input.toArray(), outbox: this.out.toArray() };
  }

  load(state: unknown): void {
    checkState(this.name, state, 1);
    const s = state as DebugPortStateV1;
    this.input.clear();
    this.input.pushAll(Uint8Array.from(s.input));
    this.out.clear();
    for (const b of s.outbox) this.out.push(b);
    this.updateFlow();
  }

  counters(): Readonly<Record<string, number>> {
    return { txBytes: this.out.sent, txLost: this.txLost, rxLost: this.rxLost };
  }
}

/**
 * Puts a {@link BvmPort} where its kind lives: 0x220 or 0x224, four bytes.
 * @throws HyveError `BUS_OVERLAP` when the port is taken
 */
export function claimBvmPort(pio: IoBus, port: BvmPort): Claim {
  return pio.claim(port.kind === 'console' ? 0x220 : 0x224, 4, port, { name: port.name });
}

/**
 * A write-only console: each byte written goes to the host; a read gives 0xE9,
 * by which guests find it.
 */
export class DebugCon implements IoHandler, Device {
  readonly name: string;
  private readonly out: Outbox;
  private readonly transmit: (bytes: Uint8Array) => boolean;
  private readonly readback: number;
  private txLost = 0;

  /** @param o.readback what a read gives; default 0xE9 at any port */
  constructor(o: {
    readonly name?: string;
    readonly onTransmit: (bytes: Uint8Array) => boolean;
    readonly readback?: number;
    readonly defer?: (task: () => void) => void;
  }) {
    this.name = o.name ?? 'debugcon';
    this.transmit = o.onTransmit;
    this.readback = o.readback ?? 0xe9;
    this.out = new Outbox(BATCH, o.defer ?? afterThisTurn, (bytes) => this.transmit(bytes));
  }

  read(_offset: number, _width: Width): number {
    return this.readback;
  }

  write(_offset: number, _width: Width, value: number): void {
    if (this.out.held && this.out.length === BATCH) this.txLost++;
    else this.out.push(value);
  }

  /** Hands gathered output to the host now. */
  flush(): void {
    if (!this.out.held) this.out.flush();
  }

  /** The host takes bytes again after `onTransmit` answered false. */
  drained(): void {
    if (!this.out.held) return;
    this.out.held = false;
    this.out.flush();
  }

  reset(): void {
    this.flush();
  }

  counters(): Readonly<Record<string, number>> {
    return { txBytes: this.out.sent, txLost: this.txLost };
  }
}

/**
 * Puts a {@link DebugCon} at one port: 0xE9 unless said. At 0x402 it excludes the ACPI PM1 block.
 * @throws HyveError `BUS_OVERLAP` when the port is taken
 */
export function claimDebugCon(pio: IoBus, con: DebugCon, port = 0xe9): Claim {
  return pio.claim(port, 1, con, { name: con.name, widths: 1 });
}
