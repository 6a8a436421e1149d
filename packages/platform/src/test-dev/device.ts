// The device that bare-metal test programs talk to: interrupt lines driven from ports, latches, memory behind MMIO, and an
// exit port. Mirrors QEMU's pc-testdev and isa-debug-exit, and bhyve's pctestdev.c.
import {
  allOnes,
  type Claim,
  type Device,
  HyveError,
  type IoBus,
  type IoHandler,
  type IrqLine,
  type Width,
} from '@hyve/core';
import { checkState } from '../state.ts';
import { EXIT, FLUSH, IRQ, IRQ_LINES, LATCH, LATCH_BYTES, MEMORY, MEMORY_BYTES } from './bits.ts';

/** Options of {@link PcTestDev}. */
export interface PcTestDevOptions {
  /** For messages and saved state. Default `pc-testdev`. */
  readonly name?: string;
  /** Interrupt lines by number, up to 24. Missing ones go nowhere. */
  readonly irqs?: readonly (IrqLine | null)[];
  /** The guest wrote `value` to the exit port, `width` bytes wide. */
  readonly onExit?: (value: number, width: Width) => void;
}

/** Saved state of {@link PcTestDev}. */
export interface PcTestDevStateV1 {
  readonly v: 1;
  /** The latch, 32 bit. */
  readonly latch: number;
  /** Levels, bit n for line n. */
  readonly lines: number;
  /** The memory, shortened after its last byte that is not zero. */
  readonly memory: readonly number[];
}

/**
 * A test device. Its parts are handlers of their own, which {@link claimPcTestDev} puts on the buses.
 *
 * Not modelled: the page flush (accepted), failures injected into DMA.
 * @example
 * const dev = new PcTestDev({ irqs: lines, onExit: (code) => stop(code) });
 * claimPcTestDev(pio, mmio, dev);
 */
export class PcTestDev implements Device {
  readonly name: string;
  /** The 32-bit latch. */
  readonly latchPort: IoHandler;
  /** Swallows flush requests. */
  readonly flushPort: IoHandler;
  /** One byte per interrupt line. */
  readonly irqPort: IoHandler;
  /** The exit port. */
  readonly exitPort: IoHandler;
  /** 64 KiB of memory. */
  readonly memory: IoHandler;
  private readonly irqs: readonly (IrqLine | null)[];
  private readonly bytes = new Uint8Array(MEMORY_BYTES);
  private latch = 0;
  private lines = 0;
  private exits = 0;

  /** @throws HyveError `TESTDEV_OPTIONS` for more than 24 lines */
  constructor(o: PcTestDevOptions = {}) {
    this.name = o.name ?? 'pc-testdev';
    this.irqs = o.irqs ?? [];
    if (this.irqs.length > IRQ_LINES)
      throw new HyveError(
        'TESTDEV_OPTIONS',
        `${this.name}: ${this.irqs.length} interrupt lines, there are ${IRQ_LINES}`,
      );
    this.latchPort = {
      read: (offset, width) => ((this.latch >>> ((offset & 3) * 8)) & allOnes(width)) >>> 0,
      write: (offset, width, value) => {
        const shift = (offset & 3) * 8;
        const mask = (allOnes(width) << shift) >>> 0;
        this.latch = ((this.latch & ~mask) | ((value << shift) & mask)) >>> 0;
      },
    };
    this.flushPort = { read: (_offset, width) => allOnes(width), write: () => {} };
    this.irqPort = {
      read: () => 0xff,
      write: (offset, _width, value) => this.drive(offset, value !== 0),
    };
    this.exitPort = {
      read: (_offset, width) => allOnes(width),
      write: (_offset, width, value) => {
        this.exits++;
        o.onExit?.(value, width);
      },
    };
    const b = this.bytes;
    this.memory = {
      read: (offset, width) => {
        let v = 0;
        for (let i = width - 1; i >= 0; i--) v = v * 256 + (b[(offset + i) % MEMORY_BYTES] as number);
        return v;
      },
      write: (offset, width, value) => {
        for (let i = 0; i < width; i++) b[(offset + i) % MEMORY_BYTES] = value >>> (8 * i);
      },
    };
  }

  private drive(n: number, high: boolean): void {
    const line = this.irqs[n];
    if (line === null || line === undefined) return;
    this.lines = high ? this.lines | (1 << n) : this.lines & ~(1 << n);
    line.set(high);
  }

  /** Lines low, latch and memory zero. */
  reset(): void {
    for (let n = 0; n < this.irqs.length; n++) this.drive(n, false);
    this.latch = 0;
    this.bytes.fill(0);
  }

  save(): PcTestDevStateV1 {
    let end = this.bytes.length;
    while (end > 0 && this.bytes[end - 1] === 0) end--;
    return { v: 1, latch: this.latch, lines: this.lines >>> 0, memory: [...this.bytes.subarray(0, end)] };
  }

  load(state: unknown): void {
    checkState(this.name, state, 1);
    const s = state as PcTestDevStateV1;
    this.latch = s.latch >>> 0;
    this.lines = s.lines & 0xffffff;
    this.bytes.fill(0);
    this.bytes.set(s.memory.slice(0, MEMORY_BYTES));
    for (let n = 0; n < this.irqs.length; n++) this.irqs[n]?.restore(((this.lines >> n) & 1) !== 0);
  }

  counters(): Readonly<Record<string, number>> {
    return { exits: this.exits };
  }
}

/**
 * Puts a {@link PcTestDev} at ports 0xE0–0xEB, 0xF4–0xF7 and 0x2000–0x2017, and at 0xFF000000 in memory.
 * @throws HyveError `BUS_OVERLAP` when one of them is taken
 */
export function claimPcTestDev(pio: IoBus, mmio: IoBus, dev: PcTestDev): Claim[] {
  const at = (part: string): string => `${dev.name} ${part}`;
  return [
    pio.claim(LATCH, 4, dev.latchPort, { name: at('latch') }),
    pio.claim(FLUSH, 4, dev.flushPort, { name: at('flush') }),
    pio.claim(LATCH_BYTES, 4, dev.latchPort, { name: at('byte latch'), widths: 1 }),
    pio.claim(EXIT, 4, dev.exitPort, { name: at('exit') }),
    pio.claim(IRQ, IRQ_LINES, dev.irqPort, { name: at('interrupts'), widths: 1 }),
    mmio.claim(MEMORY, MEMORY_BYTES, dev.memory, { name: at('memory') }),
  ];
}
