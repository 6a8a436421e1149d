// The controller: an ICH8 in AHCI mode on PCI, 8086:2821 (AHCI 1.3.1; bhyve: pci_ahci.c). Generic host control, interrupts and
// the ports' common life are here; port.ts has the ports, disk.ts and cdrom.ts the drives.
import {
  type BlockBackend,
  type DmaMemory,
  HyveError,
  type PciContext,
  type PciDevice,
  type PciSpec,
  type Width,
} from '@hyve/core';
import {
  CAP_ISS_SHIFT,
  CAP_NCS_SHIFT,
  CAP_PMD,
  CAP_PSC,
  CAP_S64A,
  CAP_SAL,
  CAP_SALP,
  CAP_SCLO,
  CAP_SMPS,
  CAP_SNCQ,
  CAP_SSC,
  CAP_SSNTF,
  CAP_SSS,
  CAP_SXS,
  CAP2_APST,
  CD_SECTOR,
  GHC_AE,
  GHC_HR,
  GHC_IE,
  PORT_BASE,
  PORT_STRIDE,
  REG_CAP,
  REG_CAP2,
  REG_GHC,
  REG_IS,
  REG_PI,
  REG_VS,
  SPEED_GEN3,
  VS_VALUE,
} from './bits.ts';
import { AtapiDrive } from './cdrom.ts';
import { AtaDisk } from './disk.ts';
import { serialFrom } from './identify.ts';
import { AhciPort, type AhciPortStateV1, checkPortState, type PortHost } from './port.ts';

/** What is plugged into one port. */
export interface AhciPortSpec {
  /** A disk, or a CD/DVD-ROM drive. */
  readonly kind: 'hd' | 'cd';
  /** The disk's image (never null for a disk), or the medium in the drive, null for none. */
  readonly backend: BlockBackend | null;
  /** Serial number, at most 20 ASCII characters. Default: `BHYVE-XXXX-XXXX-XXXX` made from the back end's identity. */
  readonly serial?: string;
  /** Firmware revision, at most 8 characters. Default `001`. */
  readonly revision?: string;
  /** Model, at most 40 characters. Default `BHYVE SATA DISK` or `BHYVE SATA DVD ROM`. */
  readonly model?: string;
  /** Nominal media rotation rate: 0 not reported (default), 1 solid state, 1025–65534 revolutions per minute. */
  readonly nmrr?: number;
  /** The guest opened or closed the drive's tray (CD only). The medium stays the drive's until `eject`. */
  readonly onTray?: (open: boolean) => void;
}

/** Options of {@link AhciController}. */
export interface AhciOptions {
  /** For messages and saved state. Default `ahci`. */
  readonly name?: string;
  /** Ports from 0; null for one with nothing plugged in. At most 32; the controller always has at least 6. */
  readonly ports: readonly (AhciPortSpec | null)[];
}

/** Saved state of {@link AhciController}. */
export interface AhciStateV1 {
  /** Version of this format. */
  readonly v: 1;
  /** Global Host Control. */
  readonly ghc: number;
  /** Interrupt Status. */
  readonly is: number;
  /** Ports in order. */
  readonly ports: readonly AhciPortStateV1[];
}

const MIN_PORTS = 6;
const MAX_PORTS = 32;
const MODEL_DISK = 'BHYVE SATA DISK';
const MODEL_CD = 'BHYVE SATA DVD ROM';
const PRODUCT_CD = 'BHYVE DVD-ROM';
const REVISION = '001';

/**
 * An AHCI controller with disks and CD drives: a function for core's PCI bus interface.
 *
 * Not modelled: port multipliers, FIS-based switching, command completion coalescing, enclosure management, device sleep,
 * hot plug of disks, legacy IDE mode, BIOS/OS handoff.
 *
 * @example
 * const disk = new AhciController({ ports: [{ kind: 'hd', backend }, { kind: 'cd', backend: null }] });
 * pci.attach(disk, { slot: 3 });
 */
export class AhciController implements PciDevice, PortHost {
  readonly name: string;
  readonly spec: PciSpec;
  /** Set by `pause`: requests wait. @internal */
  paused = false;
  private readonly ports: readonly AhciPort[];
  private readonly drives: readonly (AtaDisk | AtapiDrive | null)[];
  private readonly implemented: number;
  private context: PciContext | null = null;
  private ghc = GHC_AE;
  private is = 0;
  private interrupts = 0;
  private hostResets = 0;
  private idleWaiters: (() => void)[] = [];

  /**
   * @throws HyveError `AHCI_PORTS` for none or too many, `AHCI_BACKEND` for a disk without image or an image whose sectors
   * do not fit, `AHCI_IDENTITY` for strings that are too long or not ASCII
   */
  constructor(o: AhciOptions) {
    this.name = o.name ?? 'ahci';
    const bad = (code: string, what: string): HyveError => new HyveError(code, `${this.name}: ${what}`);
    if (o.ports.length > MAX_PORTS) throw bad('AHCI_PORTS', `${o.ports.length} ports, expected at most ${MAX_PORTS}`);
    const count = Math.max(o.ports.length, MIN_PORTS);
    this.ports = Array.from({ length: count }, (_, i) => new AhciPort(this, i));
    this.drives = this.ports.map((port, i) => {
      const p = o.ports[i];
      if (p === undefined || p === null) return null;
      const text = (what: string, value: string, limit: number): string => {
        if (value.length > limit || !/^[\x20-\x7e]*$/.test(value))
          throw bad('AHCI_IDENTITY', `port ${i}: ${what} "${value}", expected at most ${limit} ASCII characters`);
        return value;
      };
      const identity = p.backend?.identity ?? `${p.kind}${i}`;
      const serial = text('serial', p.serial ?? serialFrom(identity), 20);
      const revision = text('revision', p.revision ?? REVISION, 8);
      const model = text('model', p.model ?? (p.kind === 'cd' ? MODEL_CD : MODEL_DISK), 40);
      if (p.kind === 'cd') {
        if (p.backend !== null) this.checkMedium(i, p.backend);
        const product = p.model ?? PRODUCT_CD;
        return new AtapiDrive({ port, medium: p.backend, serial, revision, model, product, onTray: p.onTray ?? null });
      }
      const backend = p.backend;
      if (backend === null) throw bad('AHCI_BACKEND', `port ${i}: a disk needs an image`);
      const ratio = Math.log2(backend.physicalSectorSize / backend.sectorSize);
      if (![512, 4096].includes(backend.sectorSize) || !Number.isInteger(ratio) || ratio < 0 || ratio > 15)
        throw bad(
          'AHCI_BACKEND',
          `port ${i}: sectors of ${backend.sectorSize}/${backend.physicalSectorSize} bytes, expected 512 or 4096`,
        );
      if (backend.size < backend.sectorSize) throw bad('AHCI_BACKEND', `port ${i}: the image has not even one sector`);
      const nmrr = p.nmrr ?? 0;
      if (!Number.isInteger(nmrr) || nmrr < 0 || nmrr > 0xffff)
        throw bad('AHCI_IDENTITY', `port ${i}: rotation rate ${nmrr}, expected 0-65535`);
      return new AtaDisk({ port, backend, serial, revision, model, nmrr });
    });
    let implemented = 0;
    this.drives.forEach((d, i) => {
      (this.ports[i] as AhciPort).drive = d;
      if (d !== null) implemented = (implemented | (1 << i)) >>> 0;
    });
    if (implemented === 0) throw bad('AHCI_PORTS', 'no port has a drive');
    this.implemented = implemented;
    this.spec = {
      vendor: 0x8086,
      device: 0x2821,
      classCode: 0x01_06_01,
      bars: [{ bar: 5, kind: 'mem32', size: 2 ** Math.ceil(Math.log2(PORT_BASE + count * PORT_STRIDE)), widths: 4 }],
      msi: 1,
      intx: true,
    };
    for (const p of this.ports) p.reset();
  }

  private checkMedium(port: number, backend: BlockBackend): void {
    if (CD_SECTOR % backend.sectorSize !== 0)
      throw new HyveError(
        'AHCI_BACKEND',
        `${this.name}: port ${port}: sectors of ${backend.sectorSize} bytes do not fit a CD's 2048`,
      );
  }

  // ---- PCI ---------------------------------------------------------------------------------------------------------

  attach(ctx: PciContext): void {
    this.context = ctx;
  }

  /** Guest memory. @internal */
  get dma(): DmaMemory {
    if (this.context === null) throw new HyveError('AHCI_DETACHED', `${this.name}: used before it is on a bus`);
    return this.context.dma;
  }

  barRead(_bar: number, offset: number, width: Width): number {
    const at = offset & ~3;
    const v = at >= PORT_BASE ? this.readPort(at - PORT_BASE) : this.readHost(at);
    if (width === 4) return v;
    return (v >>> ((offset & 3) * 8)) & (width === 2 ? 0xffff : 0xff);
  }

  barWrite(_bar: number, offset: number, width: Width, value: number): void {
    // Registers are doublewords; software writes them whole (AHCI 1.3.1 §3).
    if (width !== 4 || (offset & 3) !== 0) return;
    if (offset >= PORT_BASE) {
      const i = (offset - PORT_BASE) >> 7;
      if (((this.implemented >>> i) & 1) !== 0) (this.ports[i] as AhciPort).write(offset & 0x7f, value);
      return;
    }
    switch (offset) {
      case REG_GHC:
        if ((value & GHC_HR) !== 0) {
          this.hostResets++;
          this.resetAll();
        } else {
          this.ghc = (GHC_AE | (value & GHC_IE)) >>> 0;
          this.updateIrq(this.is !== 0);
        }
        break;
      case REG_IS:
        this.is = (this.is & ~value) >>> 0;
        for (const p of this.ports) if (p.pending) this.is = (this.is | (1 << p.index)) >>> 0;
        // Whatever is still set needs a message of its own (§10.7.2.1).
        this.updateIrq(this.is !== 0);
        break;
    }
  }

  private readHost(offset: number): number {
    switch (offset) {
      case REG_CAP:
        return (
          (CAP_S64A |
            CAP_SNCQ |
            CAP_SSNTF |
            CAP_SMPS |
            CAP_SSS |
            CAP_SALP |
            CAP_SAL |
            CAP_SCLO |
            (SPEED_GEN3 << CAP_ISS_SHIFT) |
            CAP_PMD |
            CAP_SSC |
            CAP_PSC |
            (31 << CAP_NCS_SHIFT) |
            CAP_SXS |
            (this.ports.length - 1)) >>>
          0
        );
      case REG_GHC:
        return this.ghc;
      case REG_IS:
        return this.is;
      case REG_PI:
        return this.implemented;
      case REG_VS:
        return VS_VALUE;
      case REG_CAP2:
        return CAP2_APST;
      default:
        return 0;
    }
  }

  private readPort(offset: number): number {
    const i = offset >> 7;
    return ((this.implemented >>> i) & 1) !== 0 ? (this.ports[i] as AhciPort).read(offset & 0x7f) : 0;
  }

  // ---- Interrupts --------------------------------------------------------------------------------------------------

  /** @internal */
  portInterrupt(index: number): void {
    const port = this.ports[index] as AhciPort;
    if (!port.pending) return;
    const bit = (1 << index) >>> 0;
    const fresh = (this.is & bit) === 0;
    this.is = (this.is | bit) >>> 0;
    if (fresh) this.updateIrq(true);
  }

  /** @param message whether something new is pending, which a message-signalled interrupt has to say */
  private updateIrq(message: boolean): void {
    const on = this.is !== 0 && (this.ghc & GHC_IE) !== 0;
    const ctx = this.context;
    if (ctx === null) return;
    ctx.intx(on);
    if (on && message) {
      this.interrupts++;
      ctx.msi(0);
    }
  }

  // ---- Life --------------------------------------------------------------------------------------------------------

  private resetAll(): void {
    this.ghc = GHC_AE;
    for (const p of this.ports) p.reset();
    this.is = 0;
    this.updateIrq(false);
  }

  /**
   * Power-on state at once. Requests still in back ends lose their effect on registers, not on memory: await `pause` first
   * when guest memory is about to be reused.
   */
  reset(): void {
    this.resetAll();
  }

  /** @internal */
  portIdle(): void {
    if (this.idleWaiters.length === 0) return;
    const waiters = this.idleWaiters;
    this.idleWaiters = [];
    for (const w of waiters) w();
  }

  private idle(): boolean {
    return this.ports.every((p) => p.inFlight === 0);
  }

  private async whenIdle(): Promise<void> {
    while (!this.idle()) await new Promise<void>((resolve) => this.idleWaiters.push(resolve));
  }

  /** Starts no command from now on; resolves once those already started are over. */
  pause(): Promise<void> {
    this.paused = true;
    return this.whenIdle();
  }

  /** Goes on with the commands that wait. */
  resume(): void {
    this.paused = false;
    for (const p of this.ports) p.run();
  }

  /** Plain data. @throws HyveError `STATE_BUSY` unless paused and idle */
  save(): AhciStateV1 {
    this.needIdle('saved');
    return { v: 1, ghc: this.ghc, is: this.is, ports: this.ports.map((p) => p.save()) };
  }

  /**
   * Restores registers and drives; the interrupt line is the bus's to restore. Commands that wait start on `resume`, or at
   * the next write of PxCI.
   * @throws HyveError `STATE_BUSY`, `STATE_VERSION`, `STATE_FORMAT`
   */
  load(state: unknown): void {
    this.needIdle('loaded');
    const s = state as AhciStateV1 | null;
    if (typeof s !== 'object' || s === null || s.v !== 1)
      throw new HyveError('STATE_VERSION', `${this.name}: expected state version 1`);
    if (!Array.isArray(s.ports) || s.ports.length !== this.ports.length)
      throw new HyveError('STATE_FORMAT', `${this.name}: expected the state of ${this.ports.length} ports`);
    if (!Number.isInteger(s.ghc) || !Number.isInteger(s.is) || s.is < 0 || s.is > 0xffff_ffff)
      throw new HyveError('STATE_FORMAT', `${this.name}: ghc and is are not numbers of 32 bits`);
    const checked = s.ports.map((p, i) => checkPortState(p, i));
    checked.forEach((p, i) => {
      (this.ports[i] as AhciPort).load(p);
    });
    this.ghc = (GHC_AE | (s.ghc & GHC_IE)) >>> 0;
    this.is = s.is;
  }

  private needIdle(what: string): void {
    if (!this.idle())
      throw new HyveError('STATE_BUSY', `${this.name}: ${what} with requests in flight, pause it first`);
  }

  /** Counters, summed over the ports. */
  counters(): Readonly<Record<string, number>> {
    const sum = (of: (p: AhciPort) => number): number => this.ports.reduce((n, p) => n + of(p), 0);
    const disks = this.drives.filter((d) => d !== null && 'trims' in d);
    return {
      commands: sum((p) => p.commands),
      queued: sum((p) => p.queued),
      bytesRead: sum((p) => p.bytesRead),
      bytesWritten: sum((p) => p.bytesWritten),
      flushes: disks.reduce((n, d) => n + d.flushes, 0),
      trims: disks.reduce((n, d) => n + d.trims, 0),
      errors: sum((p) => p.errors),
      portResets: sum((p) => p.resets),
      hostResets: this.hostResets,
      interrupts: this.interrupts,
    };
  }

  // ---- Media -------------------------------------------------------------------------------------------------------

  /**
   * Puts a medium into a CD drive and closes its tray; the guest gets a unit attention.
   * @throws HyveError `AHCI_MEDIA` for a port without CD drive, `AHCI_BACKEND` for sectors that do not fit
   */
  insert(port: number, backend: BlockBackend): void {
    this.checkMedium(port, backend);
    this.cd(port).insert(backend);
  }

  /**
   * Opens a CD drive's tray and takes the medium out; resolves with it once no request uses it any more, null if there was
   * none. A drive the guest has locked posts an eject request for the guest instead, unless forced.
   * @throws HyveError `AHCI_MEDIA` for a port without CD drive, `AHCI_LOCKED` for a locked one
   */
  async eject(port: number, o: { readonly force?: boolean } = {}): Promise<BlockBackend | null> {
    const drive = this.cd(port);
    if (drive.prevented && o.force !== true) {
      drive.requestEject();
      throw new HyveError('AHCI_LOCKED', `${this.name}: the guest has locked the drive on port ${port}`);
    }
    const medium = drive.eject();
    const p = this.ports[port] as AhciPort;
    while (p.inFlight > 0) await new Promise<void>((resolve) => this.idleWaiters.push(resolve));
    return medium;
  }

  private cd(port: number): AtapiDrive {
    const drive = this.drives[port];
    if (drive === undefined || drive === null || !('insert' in drive))
      throw new HyveError('AHCI_MEDIA', `${this.name}: no CD drive on port ${port}`);
    return drive;
  }

  /** Closes nothing: back ends belong to whoever opened them. Resolves once none of them is in use. */
  async close(): Promise<void> {
    await this.pause();
  }
}
