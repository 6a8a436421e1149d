// One PCI function at run time: configuration registers, BAR decoding, INTx, MSI, MSI-X and bus mastering (PCI 3.0 §6;
// bhyve: the pci_devinst half of pci_emul.c).
import {
  type Claim,
  type DmaMemory,
  HyveError,
  hi32,
  type IoBus,
  type IoHandler,
  type IrqLine,
  type Logger,
  lo32,
  type MsiSink,
  type PciBarSpec,
  type PciContext,
  type PhysAddr,
  unconnectedLine,
  type Width,
} from '@hyve/core';
import {
  BRIDGE_CTL_RESET,
  CMD_INTX_DISABLE,
  CMD_IO,
  CMD_MASTER,
  CMD_MEM,
  CONFIG_SIZE,
  EXP_DEVCTL_FLR_HIGH_BYTE,
  EXP_DEVICE_CTL,
  HEADER_MULTI_FUNCTION,
  MSI_ADDR_HI,
  MSI_ADDR_LO,
  MSI_CONTROL,
  MSI_CTL_ENABLE,
  MSI_CTL_MM_MASK,
  MSI_CTL_MMC_SHIFT,
  MSI_CTL_MME_SHIFT,
  MSI_DATA,
  MSI_MASK_BITS,
  MSI_PENDING_BITS,
  MSIX_CONTROL,
  MSIX_CTL_ENABLE,
  MSIX_CTL_FUNCTION_MASK,
  REG_BAR0,
  REG_BRIDGE_CONTROL,
  REG_COMMAND,
  REG_HEADER_TYPE,
  REG_INT_LINE,
  REG_INT_PIN,
  REG_IO_BASE,
  REG_IO_LIMIT,
  REG_MEM_BASE,
  REG_MEM_LIMIT,
  REG_PREF_BASE,
  REG_PREF_BASE_HI,
  REG_PREF_LIMIT,
  REG_PREF_LIMIT_HI,
  REG_SECONDARY_BUS,
  REG_STATUS,
  REG_SUBORDINATE_BUS,
  STATUS_INTX,
} from './bits.ts';
import { MasterDma } from './dma.ts';
import {
  KIND_BAR,
  KIND_BRIDGE_CTL,
  KIND_BUS_NUMBERS,
  KIND_CAP,
  KIND_COMMAND,
  KIND_DEVCTL,
  KIND_MSI,
  KIND_MSIX,
  KIND_OWN,
  KIND_WINDOW,
  type Layout,
  layOut,
} from './layout.ts';
import { MsixTable, msixSpan } from './msix.ts';
import type { PciFunctionDevice } from './spec.ts';

const TWO_32 = 0x1_0000_0000;
/** Memory BARs at or above this are not decoded: x86 has no such address. */
const ADDRESS_LIMIT = 2 ** 52;
/** Nor a port at or above this. */
const IO_LIMIT = 0x1_0000;

/** What a function needs of its bus. @internal */
export interface FunctionHost {
  readonly pio: IoBus;
  readonly mmio: IoBus;
  readonly dma: DmaMemory;
  readonly msi: MsiSink;
  readonly log: Logger;
  /** Functions directly behind a bridge. */
  behind(bridge: PciFunction): readonly PciFunction[];
  /** A BAR left the bus, so that another one may fit now. */
  freed(): void;
  /** A BAR could not be placed. */
  conflict(fn: PciFunction, bar: number, base: number): void;
  /** A message was dropped because bus mastering is off. */
  msiDropped(): void;
  /** Bus numbers of a bridge changed. */
  renumbered(): void;
}

/** State of one function in {@link PciBusStateV1}. */
export interface PciFunctionStateV1 {
  /** `bus:slot.function` at reset. */
  readonly at: string;
  /** The 256 bytes of configuration space. */
  readonly config: readonly number[];
  /** Whether the device asserts INTx. */
  readonly intx: boolean;
  /** BARs that were decoded: where two lie over each other, which one has the addresses. */
  readonly decoded: readonly number[];
  /** MSI-X table doublewords; empty without MSI-X. */
  readonly msixTable: readonly number[];
  /** MSI-X pending words of 32 bits; empty without MSI-X. */
  readonly msixPending: readonly number[];
}

/** A part of a BAR with one handler. */
interface Segment {
  readonly offset: number;
  readonly claim: Claim;
}

/** A BAR at run time. @internal */
export class Bar {
  readonly spec: PciBarSpec;
  readonly reg: number;
  readonly bus: IoBus;
  readonly segments: Segment[] = [];
  /** Address at reset, chosen by resource assignment. */
  initial = 0;
  /** Where the guest wants it decoded, or -1. */
  want = -1;
  /** Whether the bus decodes it at `want`. */
  mapped = false;

  constructor(spec: PciBarSpec, bus: IoBus) {
    this.spec = spec;
    this.reg = REG_BAR0 + spec.bar * 4;
    this.bus = bus;
  }
}

/** Bus handler for a part of a BAR that the device serves. */
class BarWindow implements IoHandler {
  private readonly device: PciFunctionDevice;
  private readonly bar: number;
  private readonly start: number;
  constructor(device: PciFunctionDevice, bar: number, start: number) {
    this.device = device;
    this.bar = bar;
    this.start = start;
  }
  read(offset: number, width: Width): number {
    return this.device.barRead(this.bar, this.start + offset, width);
  }
  write(offset: number, width: Width, value: number): void {
    this.device.barWrite(this.bar, this.start + offset, width, value);
  }
}

/** One function on the bus. @internal */
export class PciFunction implements PciContext {
  readonly device: PciFunctionDevice;
  readonly bus: number;
  readonly slot: number;
  readonly func: number;
  readonly address: string;
  /** The bridge this function sits behind, or null on a root bus. */
  readonly parent: PciFunction | null;
  readonly dma: MasterDma;
  readonly bars: readonly Bar[];
  readonly isBridge: boolean;
  /** INTx pin 0–3 for A–D, or -1. */
  pin = -1;

  private readonly host: FunctionHost;
  private readonly layout: Layout;
  private readonly config: Uint8Array;
  private readonly initial: Uint8Array;
  private readonly msixTable: MsixTable | null;
  private line: IrqLine = unconnectedLine;
  private intxLevel = false;
  private conflictLogged = false;
  private inReset = false;

  constructor(o: {
    host: FunctionHost;
    device: PciFunctionDevice;
    bus: number;
    slot: number;
    func: number;
    parent: PciFunction | null;
  }) {
    const { host, device } = o;
    this.host = host;
    this.device = device;
    this.bus = o.bus;
    this.slot = o.slot;
    this.func = o.func;
    this.parent = o.parent;
    this.address = `${o.bus}:${o.slot}.${o.func}`;
    this.layout = layOut(`${this.address} ${device.name}`, device.spec);
    this.config = this.layout.data.slice();
    this.initial = this.layout.data.slice();
    this.dma = new MasterDma(host.dma);
    this.isBridge = device.spec.bridge !== undefined;
    const msix = device.spec.msix;
    this.msixTable =
      msix === undefined ? null : new MsixTable(msix.vectors, (lo, hi, data) => this.sendMessage(lo, hi, data));
    this.bars = this.layout.bars.map((spec) => this.makeBar(spec));
  }

  private makeBar(spec: PciBarSpec): Bar {
    const bar = new Bar(spec, spec.kind === 'io' ? this.host.pio : this.host.mmio);
    const name = `${this.address} ${this.device.name} bar${spec.bar}`;
    const addOwn = (from: number, to: number): void => {
      if (from >= to) return;
      const handler = new BarWindow(this.device, spec.bar, from);
      const bells = (spec.doorbells ?? [])
        .filter((d) => d.offset >= from && d.offset + d.width <= to)
        .map((d) => ({ ...d, offset: d.offset - from }));
      const own = {
        name,
        ...(spec.widths === undefined ? {} : { widths: spec.widths }),
        ...(bells.length === 0 ? {} : { doorbells: bells }),
      };
      bar.segments.push({ offset: from, claim: bar.bus.claim(null, to - from, handler, own) });
    };
    const msix = this.device.spec.msix;
    if (this.msixTable !== null && msix !== undefined && msix.bar === spec.bar) {
      const start = this.device.spec.msixOffset ?? 0;
      const length = msixSpan(msix.vectors);
      addOwn(0, start);
      const claim = bar.bus.claim(null, length, this.msixTable, { name: `${name} msix` });
      bar.segments.push({ offset: start, claim });
      addOwn(start + length, spec.size);
    } else addOwn(0, spec.size);
    return bar;
  }

  // ---- What assignment decides -------------------------------------------------------------------------------------

  /** Sets `width` bytes of the reset image, and of the present state. */
  setInitial(offset: number, width: number, value: number): void {
    for (let i = 0; i < width; i++) this.initial[offset + i] = Math.floor(value / 2 ** (8 * i)) & 0xff;
    this.config.set(this.initial.subarray(offset, offset + width), offset);
  }

  /** Gives a BAR its address at reset. */
  setInitialBar(bar: Bar, base: number): void {
    bar.initial = base;
    this.setInitial(bar.reg, 4, base + (lo32(this.layout.data[bar.reg] as number) & 0xf));
    if (bar.spec.kind === 'mem64') this.setInitial(bar.reg + 4, 4, hi32(base));
  }

  /** Wires INTx. */
  connect(pin: number, line: IrqLine, irq: number): void {
    this.pin = pin;
    this.line = line;
    this.setInitial(REG_INT_PIN, 1, pin + 1);
    this.setInitial(REG_INT_LINE, 1, irq);
    this.updateIntx(true);
  }

  /** Marks the slot as having several functions. */
  setMultiFunction(): void {
    this.setInitial(REG_HEADER_TYPE, 1, (this.initial[REG_HEADER_TYPE] as number) | HEADER_MULTI_FUNCTION);
  }

  /** Present register bytes, for the bus and its tests. */
  get16(offset: number): number {
    return (this.config[offset] as number) | ((this.config[offset + 1] as number) << 8);
  }

  private get32(offset: number): number {
    return (this.get16(offset) | (this.get16(offset + 2) << 16)) >>> 0;
  }

  private put32(offset: number, value: number): void {
    for (let i = 0; i < 4; i++) this.config[offset + i] = (value >>> (8 * i)) & 0xff;
  }

  // ---- Configuration space -----------------------------------------------------------------------------------------

  /** Reads 1, 2 or 4 bytes at any offset below 4096; past 0xFF there is nothing but zeros. */
  read(offset: number, width: Width): number {
    if (offset + width > CONFIG_SIZE) {
      if (offset >= CONFIG_SIZE) return 0;
      let v = 0;
      for (let i = 0; offset + i < CONFIG_SIZE; i++) v |= this.read(offset + i, 1) << (8 * i);
      return v >>> 0;
    }
    const kind = this.layout.kind;
    const k = kind[offset] as number;
    if (k === KIND_OWN || k === KIND_CAP) {
      let same = true;
      for (let i = 1; i < width; i++) if (kind[offset + i] !== k) same = false;
      if (!same) {
        const half = (width >> 1) as Width;
        return (this.read(offset, half) | (this.read(offset + half, half) << (8 * half))) >>> 0;
      }
      const d = this.device;
      const v =
        k === KIND_OWN
          ? d.configRead?.(offset, width)
          : d.capabilityRead?.(this.capIndexAt(offset), offset - this.capBody(offset), width);
      if (v !== undefined) return width === 4 ? v >>> 0 : v & (width === 2 ? 0xffff : 0xff);
    }
    let v = 0;
    for (let i = 0; i < width; i++) v |= (this.config[offset + i] as number) << (8 * i);
    return v >>> 0;
  }

  /** Writes 1, 2 or 4 bytes at any offset below 4096. */
  write(offset: number, width: Width, value: number): void {
    if (offset + width > CONFIG_SIZE) {
      for (let i = 0; offset + i < CONFIG_SIZE; i++) this.write(offset + i, 1, (value >>> (8 * i)) & 0xff);
      return;
    }
    const { kind, writable, w1c } = this.layout;
    let touched = 0;
    for (let i = 0; i < width; i++) touched |= 1 << (kind[offset + i] as number);
    if ((touched & (1 << KIND_OWN)) !== 0) {
      if (touched !== 1 << KIND_OWN && width > 1) {
        const half = (width >> 1) as Width;
        this.write(offset, half, value & (half === 2 ? 0xffff : 0xff));
        this.write(offset + half, half, value >>> (8 * half));
      } else this.device.configWrite?.(offset, width, value);
      return;
    }
    const commandBefore = this.get16(REG_COMMAND);
    const bridgeBefore = this.isBridge ? this.get16(REG_BRIDGE_CONTROL) : 0;
    for (let i = 0; i < width; i++) {
      const o = offset + i;
      const b = (value >>> (8 * i)) & 0xff;
      const w = writable[o] as number;
      this.config[o] = (((this.config[o] as number) & ~w) | (b & w)) & ~(b & (w1c[o] as number));
    }
    if ((touched & ((1 << KIND_COMMAND) | (1 << KIND_BAR))) !== 0) this.commandWritten(commandBefore);
    if ((touched & (1 << KIND_MSI)) !== 0) this.msiWritten();
    if ((touched & (1 << KIND_MSIX)) !== 0) this.msixWritten();
    if ((touched & (1 << KIND_CAP)) !== 0) this.capabilityWritten(offset, width);
    if ((touched & (1 << KIND_DEVCTL)) !== 0) {
      const high = this.layout.express + EXP_DEVICE_CTL + 1;
      const i = high - offset;
      if (i >= 0 && i < width && ((value >>> (8 * i)) & EXP_DEVCTL_FLR_HIGH_BYTE) !== 0) this.functionReset();
    }
    if ((touched & (1 << KIND_BUS_NUMBERS)) !== 0) this.host.renumbered();
    if ((touched & (1 << KIND_WINDOW)) !== 0) this.updateBehind();
    if ((touched & (1 << KIND_BRIDGE_CTL)) !== 0) {
      if ((this.get16(REG_BRIDGE_CONTROL) & ~bridgeBefore & BRIDGE_CTL_RESET) !== 0)
        for (const f of this.host.behind(this)) f.functionReset();
    }
  }

  private capIndexAt(offset: number): number {
    return this.layout.capIndex[offset] as number;
  }

  /** Offset of the body of the capability that byte `offset` belongs to. */
  private capBody(offset: number): number {
    return (this.layout.capOffset[this.capIndexAt(offset)] as number) + 2;
  }

  private capabilityWritten(offset: number, width: Width): void {
    const d = this.device;
    if (d.capabilityWritten === undefined) return;
    for (let o = offset; o < offset + width; o++) {
      if (this.layout.kind[o] === KIND_CAP)
        d.capabilityWritten(this.capIndexAt(o), o - this.capBody(o), this.config[o] as number);
    }
  }

  private commandWritten(before: number): void {
    const changed = before ^ this.get16(REG_COMMAND);
    this.updateDecode();
    if ((changed & CMD_MASTER) !== 0) this.updateMaster();
    if ((changed & CMD_INTX_DISABLE) !== 0) this.updateIntx(true);
    if (this.isBridge && (changed & (CMD_IO | CMD_MEM)) !== 0) this.updateBehind();
  }

  // ---- Decoding ----------------------------------------------------------------------------------------------------

  /** Where the registers say a BAR is decoded, or -1. */
  private wanted(bar: Bar): number {
    const command = this.get16(REG_COMMAND);
    const { kind, size } = bar.spec;
    if ((command & (kind === 'io' ? CMD_IO : CMD_MEM)) === 0) return -1;
    const low = this.get32(bar.reg);
    let base = (low & (kind === 'io' ? ~3 : ~0xf)) >>> 0;
    if (kind === 'mem64') base += this.get32(bar.reg + 4) * TWO_32;
    // Address zero means unassigned to every guest, and holds RAM or the DMA controller.
    if (base === 0 || base + size > (kind === 'io' ? IO_LIMIT : ADDRESS_LIMIT)) return -1;
    for (let p = this.parent; p !== null; p = p.parent) if (!p.forwards(kind === 'io', base, size)) return -1;
    return base;
  }

  /** Whether this bridge passes the whole range down (PCI-to-PCI Bridge 1.2 §4). */
  private forwards(io: boolean, base: number, size: number): boolean {
    const command = this.get16(REG_COMMAND);
    if (io) {
      const from = ((this.config[REG_IO_BASE] as number) & 0xf0) << 8;
      const to = (((this.config[REG_IO_LIMIT] as number) & 0xf0) << 8) + 0x1000;
      return (command & CMD_IO) !== 0 && base >= from && base + size <= to;
    }
    if ((command & CMD_MEM) === 0) return false;
    const from = (this.get16(REG_MEM_BASE) & 0xfff0) * 0x1_0000;
    const to = (this.get16(REG_MEM_LIMIT) & 0xfff0) * 0x1_0000 + 0x10_0000;
    if (base >= from && base + size <= to) return true;
    const prefFrom = this.get32(REG_PREF_BASE_HI) * TWO_32 + (this.get16(REG_PREF_BASE) & 0xfff0) * 0x1_0000;
    const prefTo =
      this.get32(REG_PREF_LIMIT_HI) * TWO_32 + (this.get16(REG_PREF_LIMIT) & 0xfff0) * 0x1_0000 + 0x10_0000;
    return base >= prefFrom && base + size <= prefTo;
  }

  /** Moves BARs to where the registers say. */
  updateDecode(): void {
    let freed = false;
    for (const bar of this.bars) {
      const want = this.wanted(bar);
      if (want === bar.want) continue;
      if (bar.mapped) {
        for (const s of bar.segments) s.claim.moveTo(null);
        bar.mapped = false;
        freed = true;
      }
      bar.want = want;
      if (want >= 0 && !this.place(bar)) {
        this.host.conflict(this, bar.spec.bar, want);
        if (!this.conflictLogged) {
          this.conflictLogged = true;
          this.host.log.warn(
            `pci ${this.address} ${this.device.name}: guest put BAR ${bar.spec.bar} at 0x${want.toString(16)} over something else; not decoded`,
          );
        }
      }
    }
    if (freed) this.host.freed();
  }

  /** Tries BARs that lie over something else again. */
  retryDecode(): void {
    for (const bar of this.bars) if (bar.want >= 0 && !bar.mapped) this.place(bar);
  }

  private place(bar: Bar): boolean {
    if (!bar.bus.isFree(bar.want, bar.spec.size)) return false;
    for (const s of bar.segments) s.claim.moveTo(bar.want + s.offset);
    bar.mapped = true;
    return true;
  }

  /** Re-evaluates everything behind this bridge. */
  private updateBehind(): void {
    for (const f of this.host.behind(this)) {
      f.updateDecode();
      f.updateBehind();
    }
  }

  private updateMaster(): void {
    this.dma.on = (this.get16(REG_COMMAND) & CMD_MASTER) !== 0 && (this.parent === null || this.parent.dma.on);
    if (this.isBridge) for (const f of this.host.behind(this)) f.updateMaster();
  }

  // ---- Interrupts --------------------------------------------------------------------------------------------------

  get interruptMode(): 'intx' | 'msi' | 'msix' {
    if (this.msixTable?.enabled) return 'msix';
    const msi = this.layout.msi;
    return msi !== 0 && ((this.config[msi + MSI_CONTROL] as number) & MSI_CTL_ENABLE) !== 0 ? 'msi' : 'intx';
  }

  intx(asserted: boolean): void {
    if (asserted === this.intxLevel || !this.device.spec.intx) return;
    this.intxLevel = asserted;
    this.updateIntx(true);
  }

  private updateIntx(edge: boolean): void {
    const status = this.config[REG_STATUS] as number;
    this.config[REG_STATUS] = this.intxLevel ? status | STATUS_INTX : status & ~STATUS_INTX;
    const out = this.intxLevel && (this.get16(REG_COMMAND) & CMD_INTX_DISABLE) === 0 && this.interruptMode === 'intx';
    if (edge) this.line.set(out);
    else this.line.restore(out);
  }

  private sendMessage(addressLo: number, addressHi: number, data: number): void {
    // A message is a memory write: without bus mastering it does not leave the function.
    if (this.dma.on) this.host.msi.send(addressHi * TWO_32 + addressLo, data);
    else this.host.msiDropped();
  }

  msi(n: number): boolean {
    if (this.interruptMode !== 'msi') return false;
    const c = this.layout.msi;
    const control = this.get16(c + MSI_CONTROL);
    const asked = (control >> MSI_CTL_MMC_SHIFT) & MSI_CTL_MM_MASK;
    const granted = 1 << Math.min(asked, (control >> MSI_CTL_MME_SHIFT) & MSI_CTL_MM_MASK);
    const message = n & (granted - 1);
    if (this.device.spec.msiMaskable === true && ((this.get32(c + MSI_MASK_BITS) >>> message) & 1) !== 0)
      this.put32(c + MSI_PENDING_BITS, this.get32(c + MSI_PENDING_BITS) | (1 << message));
    else this.sendMsi(message, granted);
    return true;
  }

  private sendMsi(message: number, granted: number): void {
    const c = this.layout.msi;
    const data = (this.get16(c + MSI_DATA) & ~(granted - 1)) | message;
    this.sendMessage(this.get32(c + MSI_ADDR_LO), this.get32(c + MSI_ADDR_HI), data);
  }

  private msiWritten(): void {
    this.updateIntx(true);
    if (this.device.spec.msiMaskable !== true || this.interruptMode !== 'msi') return;
    const c = this.layout.msi;
    const ready = this.get32(c + MSI_PENDING_BITS) & ~this.get32(c + MSI_MASK_BITS);
    if (ready === 0) return;
    this.put32(c + MSI_PENDING_BITS, this.get32(c + MSI_PENDING_BITS) & ~ready);
    for (let n = 0; n < 32; n++) if (((ready >>> n) & 1) !== 0) this.msi(n);
  }

  msix(n: number): boolean {
    const t = this.msixTable;
    if (t === null || !t.enabled) return false;
    t.raise(n);
    return true;
  }

  private msixWritten(): void {
    const control = this.get16(this.layout.msix + MSIX_CONTROL);
    this.msixTable?.control((control & MSIX_CTL_ENABLE) !== 0, (control & MSIX_CTL_FUNCTION_MASK) !== 0);
    this.updateIntx(true);
  }

  setCapabilityByte(index: number, offset: number, value: number): void {
    const cap = this.device.spec.capabilities?.[index];
    if (cap === undefined || !(offset >= 0 && offset < cap.body.length))
      throw new HyveError('PCI_SPEC', `${this.address} ${this.device.name}: no byte ${offset} in capability ${index}`);
    this.config[(this.layout.capOffset[index] as number) + 2 + offset] = value;
  }

  // ---- Reset and state ---------------------------------------------------------------------------------------------

  /** Registers to their reset values, nothing decoded. The first half of a bus reset. */
  resetRegisters(): void {
    this.config.set(this.initial);
    this.msixTable?.reset();
    this.intxLevel = false;
    this.updateIntx(true);
    for (const bar of this.bars) {
      if (bar.mapped) for (const s of bar.segments) s.claim.moveTo(null);
      bar.mapped = false;
      bar.want = -1;
    }
  }

  /** Decoding and bus mastering as the reset registers say, then the device. The second half of a bus reset. */
  resetFinish(): void {
    this.updateMaster();
    this.updateDecode();
    this.device.reset();
  }

  /** What an FLR or a bridge's secondary bus reset does: the reset values with Command clear, and the device's reset. */
  functionReset(): void {
    if (this.inReset) return;
    this.inReset = true;
    this.resetRegisters();
    this.config.fill(0, REG_COMMAND, REG_COMMAND + 2);
    this.updateMaster();
    this.updateDecode();
    this.host.freed();
    this.device.reset();
    if (this.isBridge) {
      this.host.renumbered();
      for (const f of this.host.behind(this)) f.functionReset();
    }
    this.inReset = false;
  }

  /** Bus numbers a bridge forwards, as the guest set them. */
  get secondaryBus(): number {
    return this.config[REG_SECONDARY_BUS] as number;
  }
  /** Last bus number a bridge forwards. */
  get subordinateBus(): number {
    return this.config[REG_SUBORDINATE_BUS] as number;
  }

  save(): PciFunctionStateV1 {
    return {
      at: this.address,
      config: [...this.config],
      intx: this.intxLevel,
      decoded: this.bars.filter((b) => b.mapped).map((b) => b.spec.bar),
      msixTable: this.msixTable === null ? [] : [...this.msixTable.entries],
      msixPending: this.msixTable === null ? [] : [...this.msixTable.pending],
    };
  }

  /** Checks that a state is one of this very function. @throws HyveError `STATE_FORMAT` */
  check(s: PciFunctionStateV1): void {
    const bad = (what: string): HyveError => new HyveError('STATE_FORMAT', `pci ${this.address}: ${what}`);
    const bytes = (a: readonly number[], n: number, limit: number): boolean =>
      Array.isArray(a) && a.length === n && a.every((v) => Number.isInteger(v) && v >= 0 && v < limit);
    if (!bytes(s.config, CONFIG_SIZE, 256)) throw bad('expected 256 bytes of configuration space');
    for (let i = 0; i < REG_COMMAND; i++)
      if (s.config[i] !== this.layout.data[i]) throw bad('state of another kind of device');
    if (!bytes(s.msixTable, this.msixTable?.entries.length ?? 0, TWO_32)) throw bad('MSI-X table of another size');
    if (!bytes(s.msixPending, this.msixTable?.pending.length ?? 0, TWO_32))
      throw bad('MSI-X pending bits of another size');
    if (!Array.isArray(s.decoded)) throw bad('expected a list of decoded BARs');
    if (typeof s.intx !== 'boolean') throw bad('expected intx true or false');
  }

  /** Takes a checked state's registers; nothing is decoded and no line moves yet. */
  loadRegisters(s: PciFunctionStateV1): void {
    const { writable, w1c, kind, msi } = this.layout;
    for (const bar of this.bars) {
      if (bar.mapped) for (const seg of bar.segments) seg.claim.moveTo(null);
      bar.mapped = false;
      bar.want = -1;
    }
    for (let i = 0; i < CONFIG_SIZE; i++) {
      // What neither guest nor device can change stays as this build lays it out.
      const mine = kind[i] === KIND_CAP ? 0xff : (writable[i] as number) | (w1c[i] as number);
      this.config[i] = ((this.initial[i] as number) & ~mine) | ((s.config[i] as number) & mine);
    }
    const messages = this.device.spec.msi ?? 0;
    if (this.device.spec.msiMaskable === true && messages > 0)
      for (let i = 0; i < 4; i++) {
        const o = msi + MSI_PENDING_BITS + i;
        this.config[o] = (s.config[o] as number) & (writable[msi + MSI_MASK_BITS + i] as number);
      }
    const t = this.msixTable;
    if (t !== null) {
      t.entries.set(s.msixTable);
      t.pending.set(s.msixPending);
      const control = this.get16(this.layout.msix + MSIX_CONTROL);
      t.enabled = (control & MSIX_CTL_ENABLE) !== 0;
      t.functionMasked = (control & MSIX_CTL_FUNCTION_MASK) !== 0;
    }
    this.intxLevel = s.intx && this.device.spec.intx;
  }

  /**
   * Bus mastering, the interrupt line and decoding as the loaded registers say, without edges. BARs that were not decoded
   * wait for {@link PciFunction.retryDecode}, so that they take nothing from those that were.
   */
  loadFinish(s: PciFunctionStateV1): void {
    this.updateMaster();
    for (const bar of this.bars) {
      bar.want = this.wanted(bar);
      if (bar.want >= 0 && s.decoded.includes(bar.spec.bar)) this.place(bar);
    }
    this.updateIntx(false);
  }

  /** Turns on decoding and mastering after assignment. */
  start(command: number): void {
    this.setInitial(REG_COMMAND, 2, command);
    this.updateMaster();
    this.updateDecode();
  }

  /** Present address of a BAR as decoded, or null. */
  barBase(bar: Bar): PhysAddr | null {
    return bar.mapped ? bar.want : null;
  }
}
