// Virtio over MMIO (virtio 1.2 §4.2): 0x200 bytes of registers and one interrupt line, for machines without PCI.
// Version 2, and version 1 for legacy drivers. bhyve has no such transport.
import {
  type Device,
  type DmaMemory,
  HyveError,
  type IoHandler,
  type IrqLine,
  type Logger,
  silentLogger,
  type Width,
} from '@hyve/core';
import {
  F_RING_RESET,
  ISR_QUEUE,
  LEGACY_PAGE,
  MMIO_CONFIG,
  MMIO_CONFIG_GENERATION,
  MMIO_DEVICE_FEATURES,
  MMIO_DEVICE_FEATURES_SEL,
  MMIO_DEVICE_ID,
  MMIO_DRIVER_FEATURES,
  MMIO_DRIVER_FEATURES_SEL,
  MMIO_GUEST_PAGE_SIZE,
  MMIO_INTERRUPT_ACK,
  MMIO_INTERRUPT_STATUS,
  MMIO_MAGIC,
  MMIO_MAGIC_VALUE,
  MMIO_QUEUE_ALIGN,
  MMIO_QUEUE_DESC,
  MMIO_QUEUE_DEVICE,
  MMIO_QUEUE_DRIVER,
  MMIO_QUEUE_NOTIFY,
  MMIO_QUEUE_NUM,
  MMIO_QUEUE_NUM_MAX,
  MMIO_QUEUE_PFN,
  MMIO_QUEUE_READY,
  MMIO_QUEUE_RESET,
  MMIO_QUEUE_SEL,
  MMIO_SHM_BASE,
  MMIO_SHM_LEN,
  MMIO_STATUS,
  MMIO_VENDOR_ID,
  MMIO_VENDOR_VALUE,
  MMIO_VERSION,
} from './bits.ts';
import { type TransportSink, VirtioCore, type VirtioRingOptions, type VirtioStateV1 } from './core.ts';
import type { VirtioDevice } from './device.ts';
import type { VirtQueue } from './queue.ts';

/** Options of {@link VirtioMmio}. */
export interface VirtioMmioOptions extends VirtioRingOptions {
  /** What sits behind the transport. */
  readonly device: VirtioDevice;
  /** Guest memory. */
  readonly dma: DmaMemory;
  /** Level-triggered: asserted while an interrupt cause is not acknowledged. */
  readonly irq: IrqLine;
  /** 2: virtio 1.x drivers; 1: legacy drivers. Default 2. */
  readonly version?: 1 | 2;
  /** For messages and saved state. Default the device's name. */
  readonly name?: string;
  /** Default: silent. */
  readonly log?: Logger;
}

/**
 * A virtio device as a register block of 0x200 bytes; configuration beyond 0x100 of its bytes needs a larger claim.
 * @example
 * const disk = new VirtioMmio({ device: new VirtioBlock({ backend }), dma: ram, irq });
 * bus.claim(0xd000_0000, 0x200, disk, { name: 'virtio0' });
 *
 * Not modelled: shared memory regions.
 */
export class VirtioMmio implements IoHandler, Device, TransportSink {
  readonly name: string;
  /** What sits behind the transport. */
  readonly device: VirtioDevice;
  private readonly core: VirtioCore;
  private readonly irq: IrqLine;
  private readonly legacy: boolean;

  constructor(o: VirtioMmioOptions) {
    const version = o.version ?? 2;
    if (version !== 1 && version !== 2)
      throw new HyveError('VIRTIO_TRANSPORT', `virtio MMIO version ${version}, expected 1 or 2`);
    this.device = o.device;
    this.name = o.name ?? o.device.name;
    this.irq = o.irq;
    this.legacy = version === 1;
    this.core = new VirtioCore({
      device: o.device,
      dma: o.dma,
      sink: this,
      log: o.log ?? silentLogger,
      modern: !this.legacy,
      rings: o,
    });
  }

  // ---- Interrupts --------------------------------------------------------------------------------------------------

  /** @internal */
  queueInterrupt(_queue: VirtQueue): void {
    this.core.isr |= ISR_QUEUE;
    this.updateIrq();
  }

  /** @internal */
  configInterrupt(): void {
    this.updateIrq();
  }

  /** @internal */
  interruptsCleared(): void {
    this.updateIrq();
  }

  private updateIrq(): void {
    this.irq.set(this.core.isr !== 0);
  }

  // ---- Registers ---------------------------------------------------------------------------------------------------

  read(offset: number, width: Width): number {
    if (offset >= MMIO_CONFIG) return this.core.configRead(offset - MMIO_CONFIG, width);
    const at = offset & 3;
    const word = this.register(offset - at);
    if (width === 4 && at === 0) return word;
    // §4.2.2.2: registers are for 32-bit accesses; narrower ones see their part of the word.
    return (word >>> (at * 8)) & (width === 1 ? 0xff : 0xffff);
  }

  private register(offset: number): number {
    const c = this.core;
    const q = c.selected();
    switch (offset) {
      case MMIO_MAGIC:
        return MMIO_MAGIC_VALUE;
      case MMIO_VERSION:
        return this.legacy ? 1 : 2;
      case MMIO_DEVICE_ID:
        return c.device.deviceId;
      case MMIO_VENDOR_ID:
        return MMIO_VENDOR_VALUE;
      case MMIO_DEVICE_FEATURES:
        return this.legacy ? (c.deviceFeatureSelect === 0 ? c.deviceFeatures(true) : 0) : c.deviceFeatures(false);
      case MMIO_QUEUE_NUM_MAX:
        return q?.maxSize ?? 0;
      case MMIO_QUEUE_PFN:
        return this.legacy ? (q?.pfn ?? 0) : 0;
      case MMIO_QUEUE_READY:
        return !this.legacy && q?.enabled === true ? 1 : 0;
      case MMIO_INTERRUPT_STATUS:
        return c.isr;
      case MMIO_STATUS:
        return c.status;
      case MMIO_SHM_LEN:
      case MMIO_SHM_LEN + 4:
      case MMIO_SHM_BASE:
      case MMIO_SHM_BASE + 4:
        // No shared memory region has this id (§4.2.2).
        return 0xffff_ffff;
      case MMIO_QUEUE_RESET:
        return this.legacy ? 0 : c.queueResetting();
      case MMIO_CONFIG_GENERATION:
        return this.legacy ? 0 : c.generation;
      default:
        return 0;
    }
  }

  write(offset: number, width: Width, value: number): void {
    const c = this.core;
    if (offset >= MMIO_CONFIG) {
      c.configWrite(offset - MMIO_CONFIG, width, value);
      return;
    }
    if (width !== 4) return;
    switch (offset) {
      case MMIO_DEVICE_FEATURES_SEL:
        c.deviceFeatureSelect = value;
        break;
      case MMIO_DRIVER_FEATURES:
        if (!this.legacy) c.setDriverFeatures(value);
        else if (c.driverFeatureSelect === 0) c.setLegacyFeatures(value);
        break;
      case MMIO_DRIVER_FEATURES_SEL:
        c.driverFeatureSelect = value;
        break;
      case MMIO_QUEUE_SEL:
        c.queueSelect = value;
        break;
      case MMIO_QUEUE_NUM:
        // A legacy driver's ring must be a power of two; there is no later point at which to refuse.
        if (!this.legacy || (value & (value - 1)) === 0) c.setQueueSize(value);
        break;
      case MMIO_QUEUE_NOTIFY:
        c.notify(value & 0xffff);
        break;
      case MMIO_INTERRUPT_ACK:
        c.isr &= ~value;
        this.updateIrq();
        break;
      case MMIO_STATUS:
        c.setStatus(value & 0xff, this.legacy);
        break;
      default:
        if (this.legacy) this.writeLegacy(offset, value);
        else this.writeQueue(offset, value);
    }
  }

  private writeQueue(offset: number, value: number): void {
    const c = this.core;
    const q = c.selected();
    if (q === undefined) return;
    if (offset === MMIO_QUEUE_READY) {
      if (value === 1) c.enableQueue();
      else if (value === 0 && q.enabled) c.dropQueue(q);
      return;
    }
    if (offset === MMIO_QUEUE_RESET) {
      if (value === 1 && c.has(F_RING_RESET)) c.resetQueue();
      return;
    }
    if (q.enabled) return;
    switch (offset) {
      case MMIO_QUEUE_DESC:
        q.descLo = value;
        break;
      case MMIO_QUEUE_DESC + 4:
        q.descHi = value;
        break;
      case MMIO_QUEUE_DRIVER:
        q.driverLo = value;
        break;
      case MMIO_QUEUE_DRIVER + 4:
        q.driverHi = value;
        break;
      case MMIO_QUEUE_DEVICE:
        q.deviceLo = value;
        break;
      case MMIO_QUEUE_DEVICE + 4:
        q.deviceHi = value;
        break;
    }
  }

  private writeLegacy(offset: number, value: number): void {
    const c = this.core;
    const q = c.selected();
    const powerOfTwo = value !== 0 && (value & (value - 1)) === 0;
    switch (offset) {
      case MMIO_GUEST_PAGE_SIZE:
        if (powerOfTwo) c.pageSize = value;
        break;
      case MMIO_QUEUE_ALIGN:
        if (q !== undefined && !q.enabled && powerOfTwo) q.align = value;
        break;
      case MMIO_QUEUE_PFN:
        c.setLegacyPage(value, c.pageSize === 0 ? LEGACY_PAGE : c.pageSize);
        break;
    }
  }

  // ---- Life --------------------------------------------------------------------------------------------------------

  /** Back to power-on state. Pause first when requests may be in flight: their data may land in memory later. */
  reset(): void {
    this.core.generation = 0;
    this.core.reset();
  }

  pause(): void | Promise<void> {
    return this.core.pause();
  }

  resume(): void {
    this.core.resume();
  }

  save(): VirtioStateV1 {
    return this.core.save([]);
  }

  load(state: unknown): void {
    this.core.load(state, 0);
    this.irq.restore(this.core.isr !== 0);
  }

  counters(): Readonly<Record<string, number>> {
    return this.core.counters();
  }

  async close(): Promise<void> {
    await this.device.close?.();
  }
}
