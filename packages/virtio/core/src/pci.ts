// Virtio over PCI: legacy (0.9.5), transitional and modern (virtio 1.2 §4.1). Mirrors the PCI half of bhyve's virtio.c,
// which has the legacy interface only.
import {
  HyveError,
  type Logger,
  type PciBarSpec,
  type PciCapabilitySpec,
  type PciContext,
  type PciDevice,
  type PciSpec,
  silentLogger,
  type Width,
} from '@hyve/core';
import {
  CAP_BAR,
  CAP_EXTRA,
  CAP_LEN,
  CAP_LENGTH,
  CAP_OFFSET,
  CAP_TYPE,
  CAP_TYPE_COMMON,
  CAP_TYPE_DEVICE,
  CAP_TYPE_ISR,
  CAP_TYPE_NOTIFY,
  CAP_TYPE_PCI,
  CAP_VENDOR,
  COMMON_BYTES,
  COMMON_CONFIG_VECTOR,
  COMMON_DEVICE_FEATURE,
  COMMON_DEVICE_FEATURE_SELECT,
  COMMON_DRIVER_FEATURE,
  COMMON_DRIVER_FEATURE_SELECT,
  COMMON_QUEUE_DESC,
  COMMON_QUEUE_DEVICE,
  COMMON_QUEUE_DRIVER,
  COMMON_QUEUE_ENABLE,
  COMMON_QUEUE_NOTIFY_DATA,
  COMMON_QUEUE_RESET,
  COMMON_QUEUE_SELECT,
  COMMON_QUEUE_SIZE,
  COMMON_QUEUE_VECTOR,
  COMMON_STATUS,
  ISR_QUEUE,
  LEGACY_CONFIG,
  LEGACY_CONFIG_MSIX,
  LEGACY_CONFIG_VECTOR,
  LEGACY_DEVICE_FEATURES,
  LEGACY_DRIVER_FEATURES,
  LEGACY_ISR,
  LEGACY_PAGE,
  LEGACY_QUEUE_NOTIFY,
  LEGACY_QUEUE_PFN,
  LEGACY_QUEUE_SELECT,
  LEGACY_QUEUE_SIZE,
  LEGACY_QUEUE_VECTOR,
  LEGACY_STATUS,
  MODERN_BAR,
  MODERN_BAR_BYTES,
  MODERN_DEVICE,
  MODERN_ISR,
  MODERN_NOTIFY,
  NO_VECTOR,
  NOTIFY_MULTIPLIER,
  PCI_DEVICE_MODERN,
  PCI_VENDOR,
} from './bits.ts';
import { type TransportSink, VirtioCore, type VirtioRingOptions, type VirtioStateV1 } from './core.ts';
import type { VirtioDevice } from './device.ts';
import type { VirtQueue } from './queue.ts';

/** Options of {@link VirtioPci}. */
export interface VirtioPciOptions extends VirtioRingOptions {
  /** What sits behind the transport. */
  readonly device: VirtioDevice;
  /** For messages and saved state. Default the device's name. */
  readonly name?: string;
  /**
   * Which interfaces drivers find: `legacy` (0.9.5 in I/O BAR 0 only, as bhyve), `modern` (1.x in memory BAR 4 only),
   * `transitional` (both). Default `transitional`; `modern` for device types that have no transitional PCI id.
   */
  readonly transport?: 'legacy' | 'transitional' | 'modern';
  /** What the device offers besides INTx: MSI-X in BAR 1, one MSI message (bhyve's `-W`), or nothing. Default `msix`. */
  readonly interrupts?: 'msix' | 'msi' | 'intx';
  /** Default: silent. */
  readonly log?: Logger;
}

/** Transitional PCI device ids by device type, §4.1.2.1. */
const TRANSITIONAL: Readonly<Record<number, number>> = {
  1: 0x1000,
  2: 0x1001,
  3: 0x1003,
  4: 0x1005,
  5: 0x1002,
  8: 0x1004,
  9: 0x1009,
};

const MSIX_BAR = 1;
const INDEX_PCI_CAP = 4;

function nextPowerOfTwo(n: number): number {
  return 2 ** Math.ceil(Math.log2(n));
}

function capability(type: number, offset: number, length: number, extra: number | null): PciCapabilitySpec {
  const body = new Uint8Array(CAP_EXTRA + (extra === null ? 0 : 4));
  const view = new DataView(body.buffer);
  body[CAP_LEN] = body.length + 2;
  body[CAP_TYPE] = type;
  body[CAP_BAR] = type === CAP_TYPE_PCI ? 0 : MODERN_BAR;
  view.setUint32(CAP_OFFSET, offset, true);
  view.setUint32(CAP_LENGTH, length, true);
  if (extra !== null) view.setUint32(CAP_EXTRA, extra, true);
  if (type !== CAP_TYPE_PCI) return { id: CAP_VENDOR, body };
  const writable = new Uint8Array(body.length);
  writable[CAP_BAR] = 0xff;
  writable.fill(0xff, CAP_OFFSET);
  return { id: CAP_VENDOR, body, writable };
}

/**
 * A virtio device as a PCI function: 1AF4:1000–103F (legacy and transitional) or 1AF4:1040 and up (modern).
 * @example
 * pci.attach(new VirtioPci({ device: new VirtioRnd({ source }) }), { slot: 4 });
 *
 * Not modelled: shared memory capabilities, the administration queue, power management.
 */
export class VirtioPci implements PciDevice, TransportSink {
  readonly name: string;
  readonly spec: PciSpec;
  /** What sits behind the transport. */
  readonly device: VirtioDevice;

  private readonly options: VirtioPciOptions;
  private readonly log: Logger;
  private readonly vectors: number;
  private readonly legacyBytes: number;
  private readonly pciCapIndex: number;
  /** The PCI configuration access capability as the driver wrote it. */
  private readonly pciCfg: Uint8Array;
  private readonly pciCfgView: DataView;
  private ctx: PciContext | null = null;
  private coreOrNull: VirtioCore | null = null;

  constructor(o: VirtioPciOptions) {
    const d = o.device;
    this.options = o;
    this.device = d;
    this.name = o.name ?? d.name;
    this.log = o.log ?? silentLogger;
    const old = TRANSITIONAL[d.deviceId];
    const transport = o.transport ?? (old === undefined ? 'modern' : 'transitional');
    if (transport !== 'modern' && old === undefined)
      throw new HyveError('VIRTIO_TRANSPORT', `${this.name}: device type ${d.deviceId} exists as modern device only`);
    const interrupts = o.interrupts ?? 'msix';
    this.vectors = interrupts === 'msix' ? d.queueSizes.length + 1 : 0;
    const bars: PciBarSpec[] = [];
    const capabilities: PciCapabilitySpec[] = [];
    this.legacyBytes = 0;
    if (transport !== 'modern') {
      this.legacyBytes = nextPowerOfTwo((this.vectors > 0 ? LEGACY_CONFIG_MSIX : LEGACY_CONFIG) + d.configSize);
      if (this.legacyBytes > 256)
        throw new HyveError(
          'VIRTIO_TRANSPORT',
          `${this.name}: ${d.configSize} bytes of configuration, I/O BAR too small`,
        );
      const doorbells = d.queueSizes.map((_, q) => ({ offset: LEGACY_QUEUE_NOTIFY, width: 2 as const, value: q }));
      bars.push({ bar: 0, kind: 'io', size: this.legacyBytes, doorbells });
    }
    if (transport !== 'legacy') {
      const notifyBytes = d.queueSizes.length * NOTIFY_MULTIPLIER;
      const doorbells = d.queueSizes.map((_, q) => {
        return { offset: MODERN_NOTIFY + q * NOTIFY_MULTIPLIER, width: 2 as const, value: q, any: true };
      });
      bars.push({ bar: MODERN_BAR, kind: 'mem32', size: MODERN_BAR_BYTES, doorbells });
      capabilities.push(
        capability(CAP_TYPE_COMMON, 0, COMMON_BYTES, null),
        capability(CAP_TYPE_ISR, MODERN_ISR, 1, null),
        capability(CAP_TYPE_DEVICE, MODERN_DEVICE, Math.max(4, Math.ceil(d.configSize / 4) * 4), null),
        capability(CAP_TYPE_NOTIFY, MODERN_NOTIFY, notifyBytes, NOTIFY_MULTIPLIER),
        capability(CAP_TYPE_PCI, 0, 0, 0),
      );
    }
    this.pciCapIndex = transport === 'legacy' ? -1 : INDEX_PCI_CAP;
    this.pciCfg = new Uint8Array(transport === 'legacy' ? 0 : CAP_EXTRA + 4);
    this.pciCfgView = new DataView(this.pciCfg.buffer);
    this.spec = {
      vendor: PCI_VENDOR,
      device: transport === 'modern' ? PCI_DEVICE_MODERN + d.deviceId : (old as number),
      // §4.1.2.1: transitional devices have revision 0, others 1 or more, and a subsystem id a legacy driver ignores.
      revision: transport === 'modern' ? 1 : 0,
      classCode: d.classCode,
      subsystemVendor: PCI_VENDOR,
      subsystem: transport === 'modern' ? PCI_DEVICE_MODERN + d.deviceId : d.deviceId,
      bars,
      intx: true,
      ...(interrupts === 'msi' ? { msi: 1 } : {}),
      ...(interrupts === 'msix' ? { msix: { vectors: this.vectors, bar: MSIX_BAR } } : {}),
      capabilities,
    };
  }

  attach(ctx: PciContext): void {
    this.ctx = ctx;
    this.coreOrNull = new VirtioCore({
      device: this.device,
      dma: ctx.dma,
      sink: this,
      log: this.log,
      modern: this.pciCapIndex >= 0,
      rings: this.options,
    });
  }

  private get core(): VirtioCore {
    if (this.coreOrNull === null) throw new HyveError('VIRTIO_DETACHED', `${this.name}: not attached to a bus`);
    return this.coreOrNull;
  }

  // ---- Interrupts --------------------------------------------------------------------------------------------------

  /** @internal */
  queueInterrupt(queue: VirtQueue): void {
    const ctx = this.ctx as PciContext;
    if (ctx.interruptMode === 'msix') {
      if (queue.vector !== NO_VECTOR) ctx.msix(queue.vector);
      return;
    }
    this.core.isr |= ISR_QUEUE;
    if (!ctx.msi(0)) ctx.intx(true);
  }

  /** @internal */
  configInterrupt(): void {
    const ctx = this.ctx as PciContext;
    if (ctx.interruptMode === 'msix') {
      if (this.core.configVector !== NO_VECTOR) ctx.msix(this.core.configVector);
      return;
    }
    if (!ctx.msi(0)) ctx.intx(true);
  }

  /** @internal */
  interruptsCleared(): void {
    this.ctx?.intx(false);
  }

  private readIsr(): number {
    const v = this.core.isr;
    this.core.isr = 0;
    this.interruptsCleared();
    return v;
  }

  private vector(value: number): number {
    return value < this.vectors ? value : NO_VECTOR;
  }

  // ---- BARs --------------------------------------------------------------------------------------------------------

  barRead(bar: number, offset: number, width: Width): number {
    if (bar === 0) return this.legacyRead(offset, width);
    if (offset >= MODERN_NOTIFY) return 0;
    if (offset >= MODERN_DEVICE) return this.core.configRead(offset - MODERN_DEVICE, width);
    if (offset >= MODERN_ISR) return offset === MODERN_ISR ? this.readIsr() : 0;
    return this.commonRead(offset, width);
  }

  barWrite(bar: number, offset: number, width: Width, value: number): void {
    if (bar === 0) this.legacyWrite(offset, width, value);
    else if (offset >= MODERN_NOTIFY) {
      // The value names the queue too (§4.1.5.2); the address alone decides, so that both forms of data work.
      if ((offset & (NOTIFY_MULTIPLIER - 1)) === 0) this.core.notify((offset - MODERN_NOTIFY) / NOTIFY_MULTIPLIER);
    } else if (offset >= MODERN_DEVICE) this.core.configWrite(offset - MODERN_DEVICE, width, value);
    else if (offset < COMMON_BYTES) this.commonWrite(offset, width, value);
  }

  // ---- Common configuration structure ------------------------------------------------------------------------------

  private commonRead(offset: number, width: Width): number {
    if (offset >= COMMON_BYTES) return 0;
    const at = offset & 3;
    const word = this.commonWord(offset - at);
    if (width === 4 && at === 0) return word;
    // Accesses that straddle two words are no driver's; the upper part reads zero.
    return (word >>> (at * 8)) & (width === 1 ? 0xff : 0xffff);
  }

  private commonWord(offset: number): number {
    const c = this.core;
    const q = c.selected();
    switch (offset) {
      case COMMON_DEVICE_FEATURE_SELECT:
        return c.deviceFeatureSelect;
      case COMMON_DEVICE_FEATURE:
        return c.deviceFeatures(false);
      case COMMON_DRIVER_FEATURE_SELECT:
        return c.driverFeatureSelect;
      case COMMON_DRIVER_FEATURE:
        return c.driverFeatures();
      case COMMON_CONFIG_VECTOR:
        return (c.configVector | (c.queues.length << 16)) >>> 0;
      case COMMON_STATUS:
        return (c.status | (c.generation << 8) | (c.queueSelect << 16)) >>> 0;
      case COMMON_QUEUE_SIZE:
        return q === undefined ? NO_VECTOR * 0x1_0000 : (q.size | (q.vector << 16)) >>> 0;
      case COMMON_QUEUE_ENABLE:
        return q === undefined ? 0 : ((q.enabled ? 1 : 0) | (q.index << 16)) >>> 0;
      case COMMON_QUEUE_DESC:
        return q?.descLo ?? 0;
      case COMMON_QUEUE_DESC + 4:
        return q?.descHi ?? 0;
      case COMMON_QUEUE_DRIVER:
        return q?.driverLo ?? 0;
      case COMMON_QUEUE_DRIVER + 4:
        return q?.driverHi ?? 0;
      case COMMON_QUEUE_DEVICE:
        return q?.deviceLo ?? 0;
      case COMMON_QUEUE_DEVICE + 4:
        return q?.deviceHi ?? 0;
      case COMMON_QUEUE_NOTIFY_DATA:
        return ((q?.index ?? 0) | (c.queueResetting() << 16)) >>> 0;
      default:
        return 0;
    }
  }

  private commonWrite(offset: number, width: Width, value: number): void {
    if (offset === COMMON_STATUS && width === 1) {
      this.core.setStatus(value, false);
      return;
    }
    // §4.1.3.1: 64-bit fields as two 32-bit halves, others in their own width. Narrower writes change a part of a field,
    // for machines that split accesses to memory into bytes; wider ones are several fields.
    const dword = offset < COMMON_CONFIG_VECTOR || (offset >= COMMON_QUEUE_DESC && offset < COMMON_QUEUE_NOTIFY_DATA);
    if (dword && width < 4) {
      const at = offset & 3;
      const shift = at * 8;
      const mask = ((width === 1 ? 0xff : 0xffff) << shift) >>> 0;
      this.commonWrite32(offset - at, ((this.commonWord(offset - at) & ~mask) | ((value << shift) & mask)) >>> 0);
    } else if (dword) {
      if ((offset & 3) === 0) this.commonWrite32(offset, value);
    } else if (width === 1) {
      const at = offset & 1;
      const old = this.commonRead(offset - at, 2);
      // "No vector" is all ones: the low byte of a real one comes first and must not look like 0xFFxx.
      const high = old === NO_VECTOR ? 0 : old & 0xff00;
      this.commonWrite16(offset - at, at === 0 ? high | value : (old & 0xff) | (value << 8));
    } else if ((offset & 1) === 0) {
      this.commonWrite16(offset, value & 0xffff);
      if (width === 4) this.commonWrite16(offset + 2, value >>> 16);
    }
  }

  private commonWrite32(offset: number, value: number): void {
    const c = this.core;
    const q = c.selected();
    // Addresses of a queue in use stay (§4.1.4.3.2).
    const free = q !== undefined && !q.enabled ? q : null;
    switch (offset) {
      case COMMON_DEVICE_FEATURE_SELECT:
        c.deviceFeatureSelect = value;
        break;
      case COMMON_DRIVER_FEATURE_SELECT:
        c.driverFeatureSelect = value;
        break;
      case COMMON_DRIVER_FEATURE:
        c.setDriverFeatures(value);
        break;
      case COMMON_QUEUE_DESC:
        if (free !== null) free.descLo = value;
        break;
      case COMMON_QUEUE_DESC + 4:
        if (free !== null) free.descHi = value;
        break;
      case COMMON_QUEUE_DRIVER:
        if (free !== null) free.driverLo = value;
        break;
      case COMMON_QUEUE_DRIVER + 4:
        if (free !== null) free.driverHi = value;
        break;
      case COMMON_QUEUE_DEVICE:
        if (free !== null) free.deviceLo = value;
        break;
      case COMMON_QUEUE_DEVICE + 4:
        if (free !== null) free.deviceHi = value;
        break;
    }
  }

  private commonWrite16(offset: number, value: number): void {
    const c = this.core;
    switch (offset) {
      case COMMON_CONFIG_VECTOR:
        c.configVector = this.vector(value);
        break;
      case COMMON_QUEUE_SELECT:
        c.queueSelect = value;
        break;
      case COMMON_QUEUE_SIZE:
        c.setQueueSize(value);
        break;
      case COMMON_QUEUE_VECTOR: {
        const q = c.selected();
        if (q !== undefined) q.vector = this.vector(value);
        break;
      }
      case COMMON_QUEUE_ENABLE:
        // Writing 0 is forbidden to drivers; queues go away by reset only.
        if (value === 1) c.enableQueue();
        break;
      case COMMON_QUEUE_RESET:
        if (value === 1) c.resetQueue();
        break;
      case COMMON_STATUS:
        c.setStatus(value & 0xff, false);
        break;
    }
  }

  // ---- Legacy registers --------------------------------------------------------------------------------------------

  /** Where device configuration starts: two vector registers come before it while MSI-X is on. */
  private legacyConfig(): number {
    return (this.ctx as PciContext).interruptMode === 'msix' ? LEGACY_CONFIG_MSIX : LEGACY_CONFIG;
  }

  private legacyRead(offset: number, width: Width): number {
    const config = this.legacyConfig();
    if (offset >= config) return this.core.configRead(offset - config, width);
    let v = 0;
    for (let i = 0; i < width; i++) {
      const o = offset + i;
      v |= (o >= config ? this.core.configRead(o - config, 1) : this.legacyByte(o)) << (8 * i);
    }
    return v >>> 0;
  }

  private legacyByte(o: number): number {
    const c = this.core;
    const q = c.selected();
    if (o < LEGACY_DRIVER_FEATURES) return (c.deviceFeatures(true) >>> (8 * o)) & 0xff;
    if (o < LEGACY_QUEUE_PFN) return (c.driverFeaturesLo >>> (8 * (o - LEGACY_DRIVER_FEATURES))) & 0xff;
    if (o < LEGACY_QUEUE_SIZE) return ((q?.pfn ?? 0) >>> (8 * (o - LEGACY_QUEUE_PFN))) & 0xff;
    if (o < LEGACY_QUEUE_SELECT) return ((q?.maxSize ?? 0) >>> (8 * (o - LEGACY_QUEUE_SIZE))) & 0xff;
    if (o < LEGACY_QUEUE_NOTIFY) return (c.queueSelect >>> (8 * (o - LEGACY_QUEUE_SELECT))) & 0xff;
    if (o < LEGACY_STATUS) return 0;
    if (o === LEGACY_STATUS) return c.status;
    if (o === LEGACY_ISR) return this.readIsr();
    if (o < LEGACY_QUEUE_VECTOR) return (c.configVector >>> (8 * (o - LEGACY_CONFIG_VECTOR))) & 0xff;
    return ((q?.vector ?? NO_VECTOR) >>> (8 * (o - LEGACY_QUEUE_VECTOR))) & 0xff;
  }

  private legacyWrite(offset: number, width: Width, value: number): void {
    const c = this.core;
    const config = this.legacyConfig();
    if (offset >= config) {
      c.configWrite(offset - config, width, value);
      return;
    }
    switch (offset) {
      case LEGACY_DEVICE_FEATURES:
        return;
      case LEGACY_DRIVER_FEATURES:
        if (width === 4) c.setLegacyFeatures(value);
        return;
      case LEGACY_QUEUE_PFN:
        if (width === 4) c.setLegacyPage(value, LEGACY_PAGE);
        return;
      case LEGACY_STATUS:
        c.setStatus(value & 0xff, true);
        return;
      case LEGACY_QUEUE_SELECT:
        c.queueSelect = value & 0xffff;
        break;
      case LEGACY_QUEUE_NOTIFY:
        c.notify(value & 0xffff);
        break;
      case LEGACY_CONFIG_VECTOR:
        c.configVector = this.vector(value & 0xffff);
        break;
      case LEGACY_QUEUE_VECTOR: {
        const q = c.selected();
        if (q !== undefined) q.vector = this.vector(value & 0xffff);
        break;
      }
    }
    // Doubleword accesses cover two registers.
    if (width === 4 && offset >= LEGACY_QUEUE_SIZE && (offset & 1) === 0) this.legacyWrite(offset + 2, 2, value >>> 16);
  }

  // ---- PCI configuration access capability (§4.1.4.9) --------------------------------------------------------------

  /** The window's width if it names registers of ours, else 0. */
  private window(): Width | 0 {
    const length = this.pciCfgView.getUint32(CAP_LENGTH, true);
    const offset = this.pciCfgView.getUint32(CAP_OFFSET, true);
    const bar = this.pciCfg[CAP_BAR] as number;
    const size = bar === MODERN_BAR ? MODERN_BAR_BYTES : bar === 0 ? this.legacyBytes : 0;
    if ((length !== 1 && length !== 2 && length !== 4) || offset % length !== 0 || offset + length > size) return 0;
    return length;
  }

  /** A read of the capability's data reads the BAR behind it. */
  capabilityRead(index: number, offset: number, _width: Width): number | undefined {
    if (index !== this.pciCapIndex || offset !== CAP_EXTRA) return undefined;
    const width = this.window();
    if (width === 0) return undefined;
    const v = this.barRead(this.pciCfg[CAP_BAR] as number, this.pciCfgView.getUint32(CAP_OFFSET, true), width);
    for (let i = 0; i < width; i++) {
      this.pciCfg[CAP_EXTRA + i] = (v >>> (8 * i)) & 0xff;
      (this.ctx as PciContext).setCapabilityByte(index, CAP_EXTRA + i, (v >>> (8 * i)) & 0xff);
    }
    return undefined;
  }

  /** A write of the capability's data writes the BAR behind it, once the last byte of the access has come. */
  capabilityWritten(index: number, offset: number, value: number): void {
    if (index !== this.pciCapIndex) return;
    this.pciCfg[offset] = value;
    const width = this.window();
    if (width === 0 || offset !== CAP_EXTRA + width - 1) return;
    const data = this.pciCfgView.getUint32(CAP_EXTRA, true);
    const v = width === 4 ? data : data & (width === 2 ? 0xffff : 0xff);
    this.barWrite(this.pciCfg[CAP_BAR] as number, this.pciCfgView.getUint32(CAP_OFFSET, true), width, v);
  }

  // ---- Life --------------------------------------------------------------------------------------------------------

  /** Back to power-on state. Pause first when requests may be in flight: their data may land in memory later. */
  reset(): void {
    this.pciCfg.fill(0);
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
    return this.core.save([...this.pciCfg]);
  }

  load(state: unknown): void {
    // The bus restores the level of INTx itself.
    const s = this.core.load(state, this.pciCfg.length);
    this.pciCfg.set(s.pciCfg);
  }

  counters(): Readonly<Record<string, number>> {
    return this.core.counters();
  }

  async close(): Promise<void> {
    await this.device.close?.();
  }
}
