// What a virtio device implements, and what it gets from whatever transport carries it. The device knows nothing of
// registers, rings' layouts or interrupts.
import type { DmaMemory, Width } from '@hyve/core';
import type { VirtQueue } from './queue.ts';

/** What the transport gives a device. */
export interface VirtioLink {
  /** Guest memory. */
  readonly dma: DmaMemory;
  /** Queue `n`, the same object for the device's whole life. */
  queue(n: number): VirtQueue;
  /** Whether the driver accepted feature bit `bit` (0–63). */
  has(bit: number): boolean;
  /** The device changed its configuration: the generation goes up and the driver is told. */
  configChanged(): void;
  /**
   * The driver broke the protocol in a way no status can answer: the device stops and asks to be reset (§2.1.2).
   * @param reason for the log
   */
  fail(reason: string): void;
}

/** A virtio device, whatever transport it sits behind. Nothing here throws on what a guest did. */
export interface VirtioDevice {
  /** For messages, such as `virtio-blk`. */
  readonly name: string;
  /** Device type, §5: 2 block, 4 entropy, … */
  readonly deviceId: number;
  /** PCI class code `0xCCSSPP` for PCI transports. */
  readonly classCode: number;
  /** Most descriptors of each queue, powers of two up to 32768; its length is the number of queues. */
  readonly queueSizes: readonly number[];
  /** Feature bits 0–31 the device offers; only its own (0–23). Rings and transport add theirs. */
  readonly features: number;
  /** Feature bits 32–63 the device offers; only its own (50–63). Default 0. */
  readonly featuresHigh?: number;
  /** Bytes of device-specific configuration. */
  readonly configSize: number;
  /** Called once, before anything else. */
  attach(link: VirtioLink): void;
  /** Reads configuration; `offset + width` may lie past the end: those bytes are zero. */
  configRead(offset: number, width: Width): number;
  /** Writes configuration; read-only fields ignore it. */
  configWrite(offset: number, width: Width, value: number): void;
  /** The driver is ready (DRIVER_OK, or for legacy drivers the first queue): features are final. */
  started?(): void;
  /** There may be new chains in `queue`. Pop until there are none, or call again later. Not called while paused. */
  queueNotify(queue: VirtQueue): void;
  /** Forget every request; completions that arrive later belong to nobody. The queues are reset already. */
  reset(): void;
  /** Forget requests of one queue (ring reset, §2.6.1). Default: nothing is held. */
  queueReset?(queue: VirtQueue): void;
  /** Whether memory of requests taken from this queue (any, without argument) may still be read or written. Default never. */
  busy?(queue?: VirtQueue): boolean;
  /** As in core's Device; resolves once every popped chain was pushed. */
  pause?(): void | Promise<void>;
  /** Goes on; the transport then notifies every queue. */
  resume?(): void;
  /** Plain versioned data. */
  save?(): unknown;
  /** Restores it. @throws HyveError `STATE_VERSION`, `STATE_FORMAT` */
  load?(state: unknown): void;
  /** Counters by name. */
  counters?(): Readonly<Record<string, number>>;
  /** Lets go of host resources. */
  close?(): Promise<void>;
}
