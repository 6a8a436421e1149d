// A bench for one device: real buses, a little RAM, a clock moved by hand, interrupt lines that count edges, and a mock
// vCPU that does IN, OUT and MMIO through the real bus while it checks the contract on every access.
import {
  Bus,
  type Clock,
  type IrqLine,
  type MsiSink,
  RegionMemory,
  type Timer,
  TimerQueue,
  type Width,
} from '@hyve/core';

/** A clock that stands still until {@link ManualClock.advance}. */
export class ManualClock implements Clock {
  private time = 0;
  private readonly queue: TimerQueue = new TimerQueue(() => this.time);

  now(): number {
    return this.time;
  }

  timer(fire: () => void): Timer {
    return this.queue.timer(fire);
  }

  /** When the earliest timer is due, or Infinity. */
  nextDeadline(): number {
    return this.queue.nextDeadline();
  }

  /** Moves time forward by `ns`, stopping at every deadline on the way to fire it at its own time. */
  advance(ns: number): void {
    const end = this.time + ns;
    for (let i = 0; ; i++) {
      const d = this.queue.nextDeadline();
      if (d > end) break;
      if (i > 10_000_000) throw new Error('ManualClock.advance: a timer re-arms itself without end');
      this.time = Math.max(this.time, d);
      this.queue.runDue();
    }
    this.time = end;
  }
}

/** An interrupt line that remembers what happened on it. */
export class RecordingIrq implements IrqLine {
  /** Current level. */
  high = false;
  /** Rising edges so far. */
  edges = 0;
  set(asserted: boolean): void {
    if (asserted && !this.high) this.edges++;
    this.high = asserted;
  }
  restore(asserted: boolean): void {
    this.high = asserted;
  }
}

/** The guest's side: accesses through the real buses, each checked for legal width and unsigned value. */
export class MockCpu {
  private readonly pio: Bus;
  private readonly mmio: Bus;
  /** @internal */
  constructor(pio: Bus, mmio: Bus) {
    this.pio = pio;
    this.mmio = mmio;
  }
  private static check(v: number, width: Width, what: string): number {
    if (!Number.isInteger(v) || v < 0 || v >= 2 ** (8 * width))
      throw new Error(`${what} gave ${v}, not an unsigned ${8 * width}-bit value`);
    return v;
  }
  /** IN of `width` bytes. */
  in(port: number, width: Width): number {
    return MockCpu.check(this.pio.read(port, width), width, `in(0x${port.toString(16)})`);
  }
  /** OUT of `width` bytes. */
  out(port: number, width: Width, value: number): void {
    this.pio.write(port, width, MockCpu.check(value, width, 'out value'));
  }
  /** IN AL. */
  in8(port: number): number {
    return this.in(port, 1);
  }
  /** IN AX. */
  in16(port: number): number {
    return this.in(port, 2);
  }
  /** IN EAX. */
  in32(port: number): number {
    return this.in(port, 4);
  }
  /** OUT AL. */
  out8(port: number, value: number): void {
    this.out(port, 1, value);
  }
  /** OUT AX. */
  out16(port: number, value: number): void {
    this.out(port, 2, value);
  }
  /** OUT EAX. */
  out32(port: number, value: number): void {
    this.out(port, 4, value);
  }
  /** MMIO load. */
  read(addr: number, width: Width): number {
    return MockCpu.check(this.mmio.read(addr, width), width, `read(0x${addr.toString(16)})`);
  }
  /** MMIO store. */
  write(addr: number, width: Width, value: number): void {
    this.mmio.write(addr, width, MockCpu.check(value, width, 'write value'));
  }
  /** 32-bit MMIO load. */
  read32(addr: number): number {
    return this.read(addr, 4);
  }
  /** 32-bit MMIO store. */
  write32(addr: number, value: number): void {
    this.write(addr, 4, value);
  }
}

/** What {@link createRig} gives. */
export interface Rig {
  /** The port bus. */
  readonly pio: Bus;
  /** The MMIO bus. */
  readonly mmio: Bus;
  /** Guest RAM from 0. */
  readonly ram: RegionMemory;
  /** Time. */
  readonly clock: ManualClock;
  /** The guest's side of the buses. */
  readonly cpu: MockCpu;
  /** The recording line with this number; the same object every time. */
  irq(n: number): RecordingIrq;
  /** MSI messages sent to {@link Rig.msiSink}, oldest first. */
  readonly msis: { address: number; data: number }[];
  /** An MSI sink that records. */
  readonly msiSink: MsiSink;
}

/**
 * A fresh bench.
 * @param o.ramBytes size of RAM at address 0, a multiple of 4096; default 1 MiB
 */
export function createRig(o: { ramBytes?: number } = {}): Rig {
  const pio = new Bus({ name: 'port', size: 0x10000 });
  const mmio = new Bus({ name: 'mmio', size: 2 ** 52 });
  const irqs = new Map<number, RecordingIrq>();
  const msis: { address: number; data: number }[] = [];
  return {
    pio,
    mmio,
    ram: RegionMemory.allocate([{ base: 0, size: o.ramBytes ?? 1 << 20, kind: 'ram', name: 'ram' }]),
    clock: new ManualClock(),
    cpu: new MockCpu(pio, mmio),
    irq: (n) => {
      let line = irqs.get(n);
      if (line === undefined) {
        line = new RecordingIrq();
        irqs.set(n, line);
      }
      return line;
    },
    msis,
    msiSink: { send: (address, data) => msis.push({ address, data }) },
  };
}
