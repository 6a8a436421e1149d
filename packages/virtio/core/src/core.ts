// What every transport shares: status machine (virtio 1.2 §2.1, §3.1), feature negotiation (§2.2), queue registers,
// configuration generation (§2.5) and interrupt causes. Mirrors the softc half of bhyve's virtio.c.
import { type DmaMemory, HyveError, type Logger, type Width } from '@hyve/core';
import {
  F_ANY_LAYOUT,
  F_IN_ORDER,
  F_NOTIFICATION_DATA,
  F_RING_EVENT_IDX,
  F_RING_INDIRECT_DESC,
  F_RING_PACKED,
  F_RING_RESET,
  F_VERSION_1,
  ISR_CONFIG,
  NO_VECTOR,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_DRIVER_OK,
  STATUS_FAILED,
  STATUS_FEATURES_OK,
  STATUS_NEEDS_RESET,
} from './bits.ts';
import type { VirtioDevice, VirtioLink } from './device.ts';
import { type QueueHost, type RingMode, VirtQueue, type VirtQueueStateV1 } from './queue.ts';

/** Ring and transport features on offer, for every transport. */
export interface VirtioRingOptions {
  /** Packed rings, to drivers of modern transports that want them. Default false. */
  readonly packed?: boolean;
  /** Indirect descriptors. Default true. */
  readonly indirect?: boolean;
  /** Event index instead of on/off notification flags. Default true. */
  readonly eventIdx?: boolean;
  /** Buffers are used in the order they were made available. Default false. */
  readonly inOrder?: boolean;
  /** Notifications carry the driver's ring position. Default false. */
  readonly notificationData?: boolean;
  /** Single queues can be reset. Default true. */
  readonly ringReset?: boolean;
}

/** Saved state of a transport and its device. */
export interface VirtioStateV1 {
  /** Version of this format. */
  readonly v: 1;
  /** Device type, to notice a state of another device. */
  readonly deviceId: number;
  /** Device status register. */
  readonly status: number;
  /** Interrupt causes. */
  readonly isr: number;
  /** Accepted features, bits 31:0. */
  readonly featuresLo: number;
  /** Accepted features, bits 63:32. */
  readonly featuresHi: number;
  /** Select registers: device features, driver features, queue. */
  readonly selects: readonly number[];
  /** MSI-X vector of configuration changes. */
  readonly configVector: number;
  /** Configuration generation. */
  readonly generation: number;
  /** Guest page size of MMIO version 1. */
  readonly pageSize: number;
  /** The queues. */
  readonly queues: readonly VirtQueueStateV1[];
  /** Bytes of the PCI configuration access capability; empty on other transports. */
  readonly pciCfg: readonly number[];
  /** What the device saved. */
  readonly device: unknown;
}

/** How a transport tells the driver. @internal */
export interface TransportSink {
  /** A queue has used buffers. */
  queueInterrupt(queue: VirtQueue): void;
  /** Configuration or NEEDS_RESET changed; the cause bit is set already. */
  configInterrupt(): void;
  /** Interrupt causes were cleared. */
  interruptsCleared(): void;
}

/** Registers and life of one virtio device. @internal */
export class VirtioCore implements VirtioLink, QueueHost {
  readonly dma: DmaMemory;
  readonly device: VirtioDevice;
  readonly queues: readonly VirtQueue[];
  /** Which interface offers what: legacy interfaces see only the low 32 bits and no VERSION_1. */
  readonly deviceFeaturesLo: number;
  readonly deviceFeaturesHi: number;

  isr = 0;
  deviceFeatureSelect = 0;
  driverFeatureSelect = 0;
  driverFeaturesLo = 0;
  driverFeaturesHi = 0;
  queueSelect = 0;
  configVector: number = NO_VECTOR;
  generation = 0;
  pageSize = 0;

  private readonly sink: TransportSink;
  private readonly log: Logger;
  private statusBits = 0;
  /** What status reads give after a reset until the device left all memory alone; 0: nothing to wait for. */
  private drainingStatus = 0;
  private started = false;
  private paused = false;

  private notifications = 0;
  private interrupts = 0;
  private configChanges = 0;
  private resets = 0;
  private failures = 0;

  constructor(o: {
    device: VirtioDevice;
    dma: DmaMemory;
    sink: TransportSink;
    log: Logger;
    /** Whether a modern interface exists at all. */
    modern: boolean;
    rings: VirtioRingOptions;
  }) {
    const d = o.device;
    this.device = d;
    this.dma = o.dma;
    this.sink = o.sink;
    this.log = o.log;
    const r = o.rings;
    const bit = (on: boolean, n: number): number => (on ? 2 ** (n % 32) : 0);
    this.deviceFeaturesLo =
      (d.features | bit(r.indirect !== false, F_RING_INDIRECT_DESC) | bit(r.eventIdx !== false, F_RING_EVENT_IDX)) >>>
      0;
    this.deviceFeaturesHi = o.modern
      ? ((d.featuresHigh ?? 0) |
          bit(true, F_VERSION_1) |
          bit(r.packed === true, F_RING_PACKED) |
          bit(r.inOrder === true, F_IN_ORDER) |
          bit(r.notificationData === true, F_NOTIFICATION_DATA) |
          bit(r.ringReset !== false, F_RING_RESET)) >>>
        0
      : 0;
    if (d.queueSizes.length > 1024)
      throw new HyveError('VIRTIO_QUEUE', `${d.name}: ${d.queueSizes.length} queues, expected at most 1024`);
    this.queues = d.queueSizes.map((size, i) => new VirtQueue(this, i, size));
    d.attach(this);
  }

  // ---- The device's side -------------------------------------------------------------------------------------------

  queue(n: number): VirtQueue {
    const q = this.queues[n];
    if (q === undefined) throw new HyveError('VIRTIO_QUEUE', `${this.device.name}: no queue ${n}`);
    return q;
  }

  has(bit: number): boolean {
    return (((bit < 32 ? this.driverFeaturesLo : this.driverFeaturesHi) >>> (bit & 31)) & 1) !== 0;
  }

  configChanged(): void {
    this.generation = (this.generation + 1) & 0xff;
    this.configChanges++;
    if (this.started) this.raiseConfig();
  }

  fail(reason: string): void {
    if ((this.statusBits & STATUS_NEEDS_RESET) !== 0) return;
    this.failures++;
    if (this.log.on) this.log.debug(`${this.device.name}: ${reason}; needs reset`);
    this.statusBits |= STATUS_NEEDS_RESET;
    this.updateReady();
    if ((this.statusBits & STATUS_DRIVER_OK) !== 0) this.raiseConfig();
  }

  queueInterrupt(queue: VirtQueue): void {
    this.interrupts++;
    this.sink.queueInterrupt(queue);
  }

  private raiseConfig(): void {
    this.isr |= ISR_CONFIG;
    this.interrupts++;
    this.sink.configInterrupt();
  }

  // ---- Status ------------------------------------------------------------------------------------------------------

  /** The status register. After a reset it keeps its old value until no request touches guest memory (§2.4.2). */
  get status(): number {
    if (this.drainingStatus !== 0 && this.statusBits === 0) {
      if (this.device.busy?.() === true) return this.drainingStatus;
      this.drainingStatus = 0;
    }
    return this.statusBits;
  }

  /** Writes the status register. @param legacy through an interface that knows no FEATURES_OK */
  setStatus(value: number, legacy: boolean): void {
    if (value === 0) {
      const was = this.status;
      this.reset();
      this.drainingStatus = this.device.busy?.() === true ? was : 0;
      return;
    }
    const before = this.statusBits;
    const own = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FAILED;
    // What was agreed on stays so until reset; legacy drivers know no agreement.
    let next = (before & (STATUS_NEEDS_RESET | STATUS_FEATURES_OK)) | (value & own);
    if (!legacy) {
      next |= value & STATUS_FEATURES_OK;
      if ((next & ~before & STATUS_FEATURES_OK) !== 0 && !this.featuresAcceptable()) next &= ~STATUS_FEATURES_OK;
      // Without agreement on features nothing starts.
      if ((next & STATUS_FEATURES_OK) === 0) next &= ~STATUS_DRIVER_OK;
    }
    this.statusBits = next;
    this.drainingStatus = 0;
    this.updateReady();
    if ((next & ~before & STATUS_DRIVER_OK) !== 0) {
      this.start();
      this.kickAll();
    }
  }

  private featuresAcceptable(): boolean {
    return (
      this.has(F_VERSION_1) &&
      (this.driverFeaturesLo & ~this.deviceFeaturesLo) === 0 &&
      (this.driverFeaturesHi & ~this.deviceFeaturesHi) === 0
    );
  }

  private start(): void {
    if (this.started) return;
    this.started = true;
    this.device.started?.();
  }

  private updateReady(): void {
    const ok = (this.statusBits & (STATUS_NEEDS_RESET | STATUS_FAILED)) === 0;
    const running = ok && (this.statusBits & STATUS_DRIVER_OK) !== 0;
    for (const q of this.queues) q.ready = q.enabled && (running || (ok && q.legacy));
  }

  /** Everything to its reset value. */
  reset(): void {
    this.resets++;
    this.statusBits = 0;
    this.drainingStatus = 0;
    this.started = false;
    this.isr = 0;
    this.deviceFeatureSelect = 0;
    this.driverFeatureSelect = 0;
    this.driverFeaturesLo = 0;
    this.driverFeaturesHi = 0;
    this.queueSelect = 0;
    this.configVector = NO_VECTOR;
    this.pageSize = 0;
    for (const q of this.queues) q.reset();
    this.device.reset();
    this.sink.interruptsCleared();
  }

  // ---- Features ----------------------------------------------------------------------------------------------------

  /** Device features behind the select register; legacy drivers are told that any buffer layout will do. */
  deviceFeatures(legacy: boolean): number {
    if (legacy) return (this.deviceFeaturesLo | (1 << F_ANY_LAYOUT)) >>> 0;
    return this.deviceFeatureSelect === 0
      ? this.deviceFeaturesLo
      : this.deviceFeatureSelect === 1
        ? this.deviceFeaturesHi
        : 0;
  }

  /** Driver features behind the select register. */
  driverFeatures(): number {
    return this.driverFeatureSelect === 0
      ? this.driverFeaturesLo
      : this.driverFeatureSelect === 1
        ? this.driverFeaturesHi
        : 0;
  }

  /** Writes accepted features; too late once they were agreed on. */
  setDriverFeatures(value: number): void {
    if ((this.statusBits & STATUS_FEATURES_OK) !== 0) return;
    if (this.driverFeatureSelect === 0) this.driverFeaturesLo = value;
    else if (this.driverFeatureSelect === 1) this.driverFeaturesHi = value;
  }

  /** Writes accepted features through a legacy interface: bits that were not offered vanish. */
  setLegacyFeatures(value: number): void {
    if ((this.statusBits & STATUS_FEATURES_OK) !== 0) return;
    this.driverFeaturesLo = (value & this.deviceFeatures(true)) >>> 0;
    this.driverFeaturesHi = 0;
    const mode = this.mode();
    for (const q of this.queues) if (q.enabled) q.setMode(mode);
  }

  private mode(): RingMode {
    return {
      packed: this.has(F_RING_PACKED),
      indirect: this.has(F_RING_INDIRECT_DESC),
      eventIdx: this.has(F_RING_EVENT_IDX),
      inOrder: this.has(F_IN_ORDER),
    };
  }

  // ---- Queues ------------------------------------------------------------------------------------------------------

  /** The queue behind the select register, or undefined. */
  selected(): VirtQueue | undefined {
    return this.queues[this.queueSelect];
  }

  /** Sets the size of the selected queue; sizes that do not exist are ignored. */
  setQueueSize(size: number): void {
    const q = this.selected();
    if (q !== undefined && !q.enabled && size >= 1 && size <= q.maxSize) q.size = size;
  }

  /** Enables the selected queue at its address registers; before features are agreed on it has no layout. */
  enableQueue(): void {
    const q = this.selected();
    if (q === undefined || q.enabled || q.resetting || (this.statusBits & STATUS_FEATURES_OK) === 0) return;
    const wrong = q.enable(this.mode());
    if (wrong !== null) this.fail(`queue ${q.index}: ${wrong}`);
    this.updateReady();
  }

  /** Enables the selected queue in the legacy layout; page 0 takes it away. */
  setLegacyPage(pfn: number, pageSize: number): void {
    const q = this.selected();
    if (q === undefined) return;
    if (pfn === 0) {
      this.dropQueue(q);
      return;
    }
    if (q.enabled) return;
    const wrong = q.enableLegacy(pfn, pageSize, this.mode());
    if (wrong !== null) this.fail(`queue ${q.index}: ${wrong}`);
    this.updateReady();
    this.start();
  }

  /** Resets one queue, as ring reset and legacy drivers ask. Keeps its interrupt vector for legacy drivers. */
  dropQueue(q: VirtQueue): void {
    const vector = q.vector;
    const legacy = q.legacy;
    q.reset();
    if (legacy) q.vector = vector;
    this.device.queueReset?.(q);
  }

  /** The queue_reset register: write 1. */
  resetQueue(): void {
    const q = this.selected();
    if (q === undefined || !this.has(F_RING_RESET) || !q.enabled) return;
    this.dropQueue(q);
    q.resetting = this.device.busy?.(q) === true;
  }

  /** The queue_reset register: 1 while requests still touch memory. */
  queueResetting(): number {
    const q = this.selected();
    if (q === undefined) return 0;
    if (q.resetting && this.device.busy?.(q) !== true) q.resetting = false;
    return q.resetting ? 1 : 0;
  }

  /** The driver says that queue `n` has new buffers. */
  notify(n: number): void {
    const q = this.queues[n];
    if (q === undefined) return;
    this.notifications++;
    if (q.ready && !this.paused) this.device.queueNotify(q);
  }

  private kickAll(): void {
    if (this.paused) return;
    for (const q of this.queues) if (q.ready) this.device.queueNotify(q);
  }

  // ---- Configuration -----------------------------------------------------------------------------------------------

  configRead(offset: number, width: Width): number {
    return offset >= this.device.configSize ? 0 : this.device.configRead(offset, width);
  }

  configWrite(offset: number, width: Width, value: number): void {
    if (offset < this.device.configSize) this.device.configWrite(offset, width, value);
  }

  // ---- Life --------------------------------------------------------------------------------------------------------

  pause(): void | Promise<void> {
    this.paused = true;
    return this.device.pause?.();
  }

  resume(): void {
    this.paused = false;
    this.device.resume?.();
    // Notifications that came while paused were not passed on.
    this.kickAll();
  }

  save(pciCfg: readonly number[]): VirtioStateV1 {
    return {
      v: 1,
      deviceId: this.device.deviceId,
      status: this.statusBits,
      isr: this.isr,
      featuresLo: this.driverFeaturesLo,
      featuresHi: this.driverFeaturesHi,
      selects: [this.deviceFeatureSelect, this.driverFeatureSelect, this.queueSelect],
      configVector: this.configVector,
      generation: this.generation,
      pageSize: this.pageSize,
      queues: this.queues.map((q) => q.save()),
      pciCfg,
      device: this.device.save?.() ?? null,
    };
  }

  /** Restores all but the transport's own part. @throws HyveError `STATE_VERSION`, `STATE_FORMAT` */
  load(state: unknown, pciCfgBytes: number): VirtioStateV1 {
    const name = this.device.name;
    const s = state as VirtioStateV1 | null;
    if (typeof s !== 'object' || s === null || s.v !== 1)
      throw new HyveError('STATE_VERSION', `${name}: expected virtio state version 1`);
    const whole = (v: unknown, limit: number): boolean =>
      typeof v === 'number' && Number.isInteger(v) && v >= 0 && v < limit;
    const list = (v: unknown, n: number, limit: number): boolean =>
      Array.isArray(v) && v.length === n && v.every((x) => whole(x, limit));
    if (s.deviceId !== this.device.deviceId || !Array.isArray(s.queues) || s.queues.length !== this.queues.length)
      throw new HyveError('STATE_FORMAT', `${name}: state of another device`);
    if (
      !whole(s.status, 256) ||
      !whole(s.isr, 4) ||
      !whole(s.featuresLo, 2 ** 32) ||
      !whole(s.featuresHi, 2 ** 32) ||
      !list(s.selects, 3, 2 ** 32) ||
      !whole(s.configVector, 0x1_0000) ||
      !whole(s.generation, 256) ||
      !whole(s.pageSize, 2 ** 32) ||
      !list(s.pciCfg, pciCfgBytes, 256)
    )
      throw new HyveError('STATE_FORMAT', `${name}: state out of range`);
    this.driverFeaturesLo = s.featuresLo;
    this.driverFeaturesHi = s.featuresHi;
    const mode = this.mode();
    this.queues.forEach((q, i) => {
      q.load(s.queues[i] as VirtQueueStateV1, mode);
    });
    this.statusBits = s.status;
    this.drainingStatus = 0;
    this.isr = s.isr;
    const [deviceSelect, driverSelect, queueSelect] = s.selects as [number, number, number];
    this.deviceFeatureSelect = deviceSelect;
    this.driverFeatureSelect = driverSelect;
    this.queueSelect = queueSelect;
    this.configVector = s.configVector;
    this.generation = s.generation;
    this.pageSize = s.pageSize;
    this.started = (s.status & STATUS_DRIVER_OK) !== 0 || this.queues.some((q) => q.enabled && q.legacy);
    this.updateReady();
    this.device.load?.(s.device);
    return s;
  }

  counters(): Readonly<Record<string, number>> {
    let chains = 0;
    let suppressed = 0;
    for (const q of this.queues) {
      chains += q.chains;
      suppressed += q.suppressed;
    }
    return {
      notifications: this.notifications,
      interrupts: this.interrupts,
      interruptsSuppressed: suppressed,
      chains,
      configChanges: this.configChanges,
      resets: this.resets,
      failures: this.failures,
      ...this.device.counters?.(),
    };
  }
}
