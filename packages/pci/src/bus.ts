// The PCI bus of a machine: configuration mechanism 1 and ECAM, root buses and bridges, BAR assignment, INTx wiring
// (PCI 3.0 §3.2.2.3.2, PCI Express Base 3.0 §7.2.2; bhyve: pci_emul.c).
import {
  allOnes,
  type Device,
  type DmaMemory,
  HyveError,
  hi32,
  type IoBus,
  type IoHandler,
  type Logger,
  type MsiSink,
  type PciBarSpec,
  type PhysAddr,
  silentLogger,
  type Width,
} from '@hyve/core';
import { maxAlign, type PciRange, pack, packedEnd, type Request, roundUp, splitWindow } from './assign.ts';
import {
  CMD_IO,
  CMD_MASTER,
  CMD_MEM,
  CONFIG_ADDRESS,
  CONFIG_ADDRESS_ENABLE,
  CONFIG_ADDRESS_MASK,
  CONFIG_DATA,
  CONFIG_SIZE,
  CONFIG_SIZE_EXPRESS,
  REG_IO_BASE,
  REG_IO_LIMIT,
  REG_MEM_BASE,
  REG_MEM_LIMIT,
  REG_PREF_BASE,
  REG_PREF_BASE_HI,
  REG_PREF_LIMIT,
  REG_PREF_LIMIT_HI,
  REG_PRIMARY_BUS,
  REG_SECONDARY_BUS,
  REG_SUBORDINATE_BUS,
} from './bits.ts';
import { type FunctionHost, PciFunction, type PciFunctionStateV1 } from './function.ts';
import type { PirqRouter } from './router.ts';
import type { PciFunctionDevice, PciLocation } from './spec.ts';

/** 64-bit BARs above this go into the 64-bit window; smaller ones stay below 4 GiB for guests that cannot reach further. */
const LARGE_BAR = 32 << 20;
const IO_GRANULE = 0x20;
const MEM_GRANULE = 0x10_0000;
const BRIDGE_IO_GRANULE = 0x1000;

/** Options of {@link PciBus}. */
export interface PciBusOptions {
  /** Port bus: 0xCF8–0xCFF and I/O BARs. */
  readonly pio: IoBus;
  /** MMIO bus: ECAM and memory BARs. */
  readonly mmio: IoBus;
  /** Guest memory, handed to devices behind their bus master enable bits. */
  readonly dma: DmaMemory;
  /** Where MSI and MSI-X messages go. */
  readonly msi: MsiSink;
  /** Where INTx goes. */
  readonly router: PirqRouter;
  /** Byte accesses to port 0xCF9, which lies among the configuration ports (offset 0, width 1). Default: all ones. */
  readonly resetControl?: IoHandler;
  /** Default: silent. */
  readonly log?: Logger;
  /** ECAM base, 256 MiB for buses 0–255. Default 0xE0000000; null for none. */
  readonly ecam?: PhysAddr | null;
  /** I/O window for BARs. Default 0x2000–0xFFFF. */
  readonly ioWindow?: PciRange;
  /** Window below 4 GiB. Default 0xC0000000–0xDFFFFFFF. */
  readonly mem32Window?: PciRange;
  /** Window for 64-bit BARs over 32 MiB. Default 0xD000000000–0xFCFFFFFFFF. */
  readonly mem64Window?: PciRange;
}

/** What one root bus decodes: the ground for `_CRS`. */
export interface PciRootWindows {
  /** Root bus number. */
  readonly bus: number;
  /** Last bus number that may appear behind its bridges. */
  readonly lastBus: number;
  /** Ports; on bus 0 the legacy ports below come on top (0–0xCF7, 0xD00–). */
  readonly io: PciRange;
  /** Memory below 4 GiB. */
  readonly mem32: PciRange;
  /** Memory above. */
  readonly mem64: PciRange;
}

/** Where one INTx pin in use goes: the ground for `_PRT` and MP table. */
export interface PciRoute {
  /** Root bus number. */
  readonly bus: number;
  /** 0–31. */
  readonly slot: number;
  /** 0–3 for INTA#–INTD#. */
  readonly pin: number;
  /** 0–7 for PIRQ A–H. */
  readonly pirq: number;
  /** Global system interrupt: IO-APIC input. Level, active low. */
  readonly gsi: number;
  /** 8259 IRQ at reset. */
  readonly irq: number;
}

/** One function, for listings. */
export interface PciFunctionInfo {
  /** Bus number at reset. */
  readonly bus: number;
  /** 0–31. */
  readonly slot: number;
  /** 0–7. */
  readonly func: number;
  /** The device. */
  readonly device: PciFunctionDevice;
  /** BARs with their addresses at reset, and now (null: not decoded). */
  readonly bars: readonly (PciBarSpec & { readonly base: PhysAddr; readonly current: PhysAddr | null })[];
  /** INTx pin 0–3, or null. */
  readonly pin: number | null;
}

/** Saved state of {@link PciBus}. */
export interface PciBusStateV1 {
  /** Version of this format. */
  readonly v: 1;
  /** The latch at port 0xCF8. */
  readonly configAddress: number;
  /** PIRQ route registers A–H. */
  readonly pirq: readonly number[];
  /** Functions by address. */
  readonly functions: readonly PciFunctionStateV1[];
}

/** Functions of one bus by `slot * 8 + func`. */
type Table = (PciFunction | null)[];

interface Level {
  /** Bus number at reset. */
  readonly number: number;
  readonly bridge: PciFunction | null;
  readonly table: Table;
  /** In attachment order. */
  readonly functions: PciFunction[];
}

/**
 * The PCI bus: attach devices, then {@link PciBus.assign} once, then run.
 * Not modelled: hot plug, expansion ROMs, VGA and ISA enable bits of bridges, extended capabilities, error reporting.
 * @example
 * const pci = new PciBus({ pio, mmio, dma: ram, msi, router });
 * pci.attach(new HostBridge(), { slot: 0 });
 * pci.attach(new DummyDevice(), { slot: 3 });
 * pci.assign();
 */
export class PciBus implements Device {
  readonly name: string = 'pci';
  private readonly router: PirqRouter;
  private readonly log: Logger;
  private readonly host: FunctionHost;
  private readonly ioWindow: PciRange;
  private readonly mem32Window: PciRange;
  private readonly mem64Window: PciRange;
  private readonly resetControl: IoHandler | null;
  /** All functions in attachment order: bridges come before what is behind them. */
  private readonly all: PciFunction[] = [];
  /** Buses by their number at reset. */
  private readonly levels: (Level | null)[] = new Array<Level | null>(256).fill(null);
  /** Tables by the bus number that the guest sees now. */
  private readonly visible: (Table | null)[] = new Array<Table | null>(256).fill(null);
  private readonly roots: PciRootWindows[] = [];
  private readonly routes: PciRoute[] = [];
  private assigned = false;
  private configAddress = 0;
  private blocked = 0;
  private dropped = 0;
  private retrying = false;

  /** @throws HyveError `BUS_OVERLAP` when the configuration ports or the ECAM range are taken */
  constructor(o: PciBusOptions) {
    this.router = o.router;
    this.log = o.log ?? silentLogger;
    this.ioWindow = o.ioWindow ?? { base: 0x2000, size: 0xe000 };
    this.mem32Window = o.mem32Window ?? { base: 0xc000_0000, size: 0x2000_0000 };
    this.mem64Window = o.mem64Window ?? { base: 0xd0_0000_0000, size: 0x2d_0000_0000 };
    this.resetControl = o.resetControl ?? null;
    this.host = {
      pio: o.pio,
      mmio: o.mmio,
      dma: o.dma,
      msi: o.msi,
      log: this.log,
      behind: (bridge) => this.behind(bridge),
      freed: () => this.retry(),
      conflict: () => {
        this.blocked++;
      },
      msiDropped: () => {
        this.dropped++;
      },
      renumbered: () => this.renumber(),
    };
    o.pio.claim(
      CONFIG_ADDRESS,
      4,
      { read: (a, w) => this.readAddress(a, w), write: (a, w, v) => this.writeAddress(a, w, v) },
      { name: 'pci config address' },
    );
    o.pio.claim(
      CONFIG_DATA,
      4,
      { read: (a, w) => this.readData(a, w), write: (a, w, v) => this.writeData(a, w, v) },
      { name: 'pci config data' },
    );
    const ecam = o.ecam === undefined ? 0xe000_0000 : o.ecam;
    if (ecam !== null)
      o.mmio.claim(
        ecam,
        256 << 20,
        { read: (a, w) => this.readEcam(a, w), write: (a, w, v) => this.writeEcam(a, w, v) },
        { name: 'pci ecam' },
      );
  }

  // ---- Building ----------------------------------------------------------------------------------------------------

  /**
   * Puts a device on the bus and calls its `attach`. The bus number is a root bus, or what an attached bridge has as its
   * secondary bus.
   * @throws HyveError `PCI_ADDRESS`, `PCI_OCCUPIED`, `PCI_SPEC`, `PCI_CAP_SPACE`, `PCI_ASSIGNED`
   */
  attach(device: PciFunctionDevice, at: PciLocation): void {
    const { bus = 0, slot, func = 0 } = at;
    const where = `${bus}:${slot}:${func} ${device.name}`;
    if (this.assigned) throw new HyveError('PCI_ASSIGNED', `${where}: attach devices before resources are assigned`);
    const within = (v: number, limit: number): boolean => Number.isInteger(v) && v >= 0 && v < limit;
    if (!within(bus, 256) || !within(slot, 32) || !within(func, 8))
      throw new HyveError('PCI_ADDRESS', `${where}: expected bus 0-255, slot 0-31, function 0-7`);
    let level = this.levels[bus] as Level | null;
    const taken = level?.table[slot * 8 + func];
    if (taken) throw new HyveError('PCI_OCCUPIED', `${where}: ${taken.device.name} is there already`);
    if (
      level?.bridge &&
      device.spec.bridge === undefined &&
      level.bridge.device.spec.express === 'root-port' &&
      slot !== 0
    )
      throw new HyveError('PCI_ADDRESS', `${where}: behind a PCI Express root port only slot 0 exists`);
    const secondary = device.spec.bridge?.secondary;
    if (secondary !== undefined && (this.levels[secondary] || secondary <= bus))
      throw new HyveError('PCI_ADDRESS', `${where}: secondary bus ${secondary} is taken or not above bus ${bus}`);
    const fn = new PciFunction({ host: this.host, device, bus, slot, func, parent: level?.bridge ?? null });
    if (level === null) level = this.addLevel(bus, null);
    level.table[slot * 8 + func] = fn;
    level.functions.push(fn);
    this.all.push(fn);
    if (secondary !== undefined) this.addLevel(secondary, fn);
    device.attach(fn);
  }

  private addLevel(number: number, bridge: PciFunction | null): Level {
    const level: Level = { number, bridge, table: new Array<PciFunction | null>(256).fill(null), functions: [] };
    this.levels[number] = level;
    if (bridge === null) this.visible[number] = level.table;
    return level;
  }

  private levelBehind(bridge: PciFunction): Level {
    return this.levels[bridge.device.spec.bridge?.secondary ?? 0] as Level;
  }

  private behind(bridge: PciFunction): readonly PciFunction[] {
    return bridge.isBridge ? this.levelBehind(bridge).functions : [];
  }

  /**
   * Chooses BAR addresses, interrupt pins and lines, bridge windows and bus numbers, and presets Command: I/O and memory
   * decoding for the kinds of BAR there are, and bus mastering. Call it once, after the last {@link PciBus.attach}.
   * @throws HyveError `PCI_NO_SPACE`, `PCI_NO_IRQ`, `PCI_ASSIGNED`
   */
  assign(): void {
    if (this.assigned) throw new HyveError('PCI_ASSIGNED', 'pci: resources are assigned already');
    this.assigned = true;
    const levels = this.levels.filter((l) => l !== null);
    for (const level of levels) this.markSlots(level);
    // From the deepest bus up, so that a bridge knows the last bus behind it.
    for (const level of [...levels].reverse()) {
      if (level.bridge === null) continue;
      level.bridge.setInitial(REG_PRIMARY_BUS, 1, level.bridge.bus);
      level.bridge.setInitial(REG_SECONDARY_BUS, 1, level.number);
      level.bridge.setInitial(REG_SUBORDINATE_BUS, 1, this.lastBehind(level));
    }
    const roots = levels.filter((l) => l.bridge === null);
    if (roots.length > 0) {
      const io = splitWindow(
        roots.map((l) => this.requests(l, 'io')),
        this.ioWindow,
        IO_GRANULE,
        'I/O',
      );
      const mem32 = splitWindow(
        roots.map((l) => this.requests(l, 'mem32')),
        this.mem32Window,
        MEM_GRANULE,
        '32-bit memory',
      );
      const mem64 = splitWindow(
        roots.map((l) => this.requests(l, 'mem64')),
        this.mem64Window,
        MEM_GRANULE,
        '64-bit memory',
      );
      roots.forEach((l, i) => {
        const next = roots[i + 1];
        const lastBus = next === undefined ? 255 : next.number - 1;
        if (this.lastBehind(l) > lastBus)
          throw new HyveError(
            'PCI_ADDRESS',
            `pci: root bus ${(next as Level).number} lies among the buses behind root bus ${l.number}`,
          );
        this.roots.push({
          bus: l.number,
          lastBus,
          io: io[i] as PciRange,
          mem32: mem32[i] as PciRange,
          mem64: mem64[i] as PciRange,
        });
      });
    }
    this.wireIntx(levels);
    for (const fn of this.all) {
      const has = (io: boolean): boolean => fn.bars.some((b) => (b.spec.kind === 'io') === io);
      fn.start(CMD_MASTER | (fn.isBridge || has(true) ? CMD_IO : 0) | (fn.isBridge || has(false) ? CMD_MEM : 0));
    }
    this.renumber();
  }

  private markSlots(level: Level): void {
    for (let slot = 0; slot < 32; slot++) {
      const present = level.functions.filter((f) => f.slot === slot);
      if (present.length > 0 && !level.table[slot * 8])
        this.log.warn(`pci ${level.number}:${slot}: without function 0 guests will not find the others`);
      if (present.some((f) => f.func > 0)) for (const f of present) f.setMultiFunction();
    }
  }

  private lastBehind(level: Level): number {
    let last = level.number;
    for (const f of level.functions) if (f.isBridge) last = Math.max(last, this.lastBehind(this.levelBehind(f)));
    return last;
  }

  /** What a bus asks of one kind of window; `mem64` is for 64-bit BARs over 32 MiB (behind bridges: prefetchable ones). */
  private requests(level: Level, window: 'io' | 'mem32' | 'mem64'): Request[] {
    const list: Request[] = [];
    for (const fn of level.functions) {
      for (const bar of fn.bars) {
        const { kind, size, prefetchable } = bar.spec;
        // A bridge's only 64-bit window is the prefetchable one.
        const high = kind === 'mem64' && size > LARGE_BAR && (level.bridge === null || prefetchable === true);
        if ((kind === 'io' ? 'io' : high ? 'mem64' : 'mem32') !== window) continue;
        const name = `${fn.address} ${fn.device.name} BAR ${bar.spec.bar}`;
        list.push({ name, size, align: size, place: (base) => fn.setInitialBar(bar, base) });
      }
      if (fn.isBridge) list.push(this.bridgeRequest(fn, window));
    }
    return list;
  }

  private bridgeRequest(bridge: PciFunction, window: 'io' | 'mem32' | 'mem64'): Request {
    const inner = this.requests(this.levelBehind(bridge), window);
    const granule = window === 'io' ? BRIDGE_IO_GRANULE : MEM_GRANULE;
    const align = maxAlign(inner, granule);
    const size = roundUp(packedEnd(inner, 0), granule);
    const name = `${bridge.address} ${bridge.device.name} window`;
    const place = (base: number): void => {
      pack(inner, base, base + size, window);
      // An empty window has its limit below its base.
      const limit = size === 0 ? 0 : base + size - 1;
      const first = size === 0 ? 0xffff_ffff : base;
      if (window === 'io') {
        bridge.setInitial(REG_IO_BASE, 1, (first >>> 8) & 0xf0);
        bridge.setInitial(REG_IO_LIMIT, 1, (limit >>> 8) & 0xf0);
      } else if (window === 'mem32') {
        bridge.setInitial(REG_MEM_BASE, 2, (first >>> 16) & 0xfff0);
        bridge.setInitial(REG_MEM_LIMIT, 2, (limit >>> 16) & 0xfff0);
      } else {
        bridge.setInitial(REG_PREF_BASE, 2, ((first >>> 16) & 0xfff0) | 1);
        bridge.setInitial(REG_PREF_LIMIT, 2, ((limit >>> 16) & 0xfff0) | 1);
        bridge.setInitial(REG_PREF_BASE_HI, 4, size === 0 ? 0 : hi32(base));
        bridge.setInitial(REG_PREF_LIMIT_HI, 4, hi32(limit));
      }
    };
    return { name, size, align, place };
  }

  /** Gives every INTx user the least used pin of its slot and wires it, swizzled through bridges (Bridge 1.2 §9.1). */
  private wireIntx(levels: readonly Level[]): void {
    for (const level of levels) {
      const uses = new Uint8Array(32 * 4);
      const inOrder = [...level.functions].sort((x, y) => x.slot * 8 + x.func - (y.slot * 8 + y.func));
      for (const fn of inOrder) {
        if (!fn.device.spec.intx) continue;
        let pin = 0;
        for (let p = 1; p < 4; p++)
          if ((uses[fn.slot * 4 + p] as number) < (uses[fn.slot * 4 + pin] as number)) pin = p;
        uses[fn.slot * 4 + pin] = (uses[fn.slot * 4 + pin] as number) + 1;
        let at = fn;
        let rootPin = pin;
        for (let p = fn.parent; p !== null; p = p.parent) {
          rootPin = (rootPin + at.slot) & 3;
          at = p;
        }
        const line = this.router.connect(at.slot, rootPin, `${fn.address} ${fn.device.name}`);
        const pirq = this.router.pirqOf(at.slot, rootPin);
        const irq = this.router.irq(pirq) ?? 0xff;
        fn.connect(pin, line, irq);
        if (!this.routes.some((r) => r.bus === at.bus && r.slot === at.slot && r.pin === rootPin))
          this.routes.push({ bus: at.bus, slot: at.slot, pin: rootPin, pirq, gsi: this.router.gsi(pirq), irq });
      }
    }
    this.routes.sort((x, y) => x.bus - y.bus || x.slot - y.slot || x.pin - y.pin);
  }

  // ---- What tables and listings need -------------------------------------------------------------------------------

  /** What each root bus decodes, by bus number; empty before {@link PciBus.assign}. */
  windows(): readonly PciRootWindows[] {
    return this.roots;
  }

  /** Every INTx pin of a root-bus slot that something uses, sorted; empty before {@link PciBus.assign}. */
  routing(): readonly PciRoute[] {
    return this.routes;
  }

  /** All functions in attachment order. */
  functions(): PciFunctionInfo[] {
    return this.all.map((f) => ({
      bus: f.bus,
      slot: f.slot,
      func: f.func,
      device: f.device,
      bars: f.bars.map((b) => ({ ...b.spec, base: b.initial, current: f.barBase(b) })),
      pin: f.pin < 0 ? null : f.pin,
    }));
  }

  // ---- Configuration accesses --------------------------------------------------------------------------------------

  private find(bus: number, devfn: number): PciFunction | null {
    const table = this.visible[bus] as Table | null;
    return table === null ? null : (table[devfn] as PciFunction | null);
  }

  private readAddress(offset: number, width: Width): number {
    if (width === 4) return this.configAddress;
    // Anything but a doubleword passes by the latch (§3.2.2.3.2); only the reset control byte at 0xCF9 lives here.
    if (this.resetControl === null || offset > 1 || offset + width < 2) return allOnes(width);
    const v = this.resetControl.read(0, 1) & 0xff;
    return width === 1 ? v : offset === 0 ? (v << 8) | 0xff : 0xff00 | v;
  }

  private writeAddress(offset: number, width: Width, value: number): void {
    if (width === 4) this.configAddress = (value & CONFIG_ADDRESS_MASK) >>> 0;
    else if (this.resetControl !== null && offset <= 1 && offset + width >= 2)
      this.resetControl.write(0, 1, (offset === 0 ? value >>> 8 : value) & 0xff);
  }

  private selected(): PciFunction | null {
    const a = this.configAddress;
    return a < CONFIG_ADDRESS_ENABLE ? null : this.find((a >>> 16) & 0xff, (a >>> 8) & 0xff);
  }

  private readData(offset: number, width: Width): number {
    const f = this.selected();
    return f === null ? allOnes(width) : f.read((this.configAddress & 0xfc) + offset, width);
  }

  private writeData(offset: number, width: Width, value: number): void {
    const f = this.selected();
    if (f !== null) f.write((this.configAddress & 0xfc) + offset, width, value);
  }

  private readEcam(offset: number, width: Width): number {
    const f = this.find(offset >>> 20, (offset >>> 12) & 0xff);
    return f === null ? allOnes(width) : f.read(offset & (CONFIG_SIZE_EXPRESS - 1), width);
  }

  private writeEcam(offset: number, width: Width, value: number): void {
    const f = this.find(offset >>> 20, (offset >>> 12) & 0xff);
    const reg = offset & (CONFIG_SIZE_EXPRESS - 1);
    if (f !== null && reg < CONFIG_SIZE) f.write(reg, width, value);
  }

  /** Bus numbers to tables, as bridges forward them now. */
  private renumber(): void {
    for (let n = 0; n < 256; n++) {
      const level = this.levels[n] as Level | null;
      this.visible[n] = level !== null && level.bridge === null ? level.table : null;
    }
    for (let n = 0; n < 256; n++) {
      const level = this.levels[n] as Level | null;
      if (level !== null && level.bridge === null) this.forward(level, n, 255);
    }
  }

  /** Makes the buses behind `level`'s bridges visible within `(above, last]`; where two bridges claim one, the first has it. */
  private forward(level: Level, above: number, last: number): void {
    for (const f of level.functions) {
      if (!f.isBridge) continue;
      const from = f.secondaryBus;
      const to = Math.min(f.subordinateBus, last);
      if (from <= above || from > to || this.visible[from] !== null) continue;
      const inner = this.levelBehind(f);
      this.visible[from] = inner.table;
      this.forward(inner, from, to);
    }
  }

  private retry(): void {
    if (this.retrying) return;
    this.retrying = true;
    for (const f of this.all) f.retryDecode();
    this.retrying = false;
  }

  // ---- Life --------------------------------------------------------------------------------------------------------

  /**
   * RST#: every function back to its assigned resources, route registers too, then every device's own reset. Reset the
   * interrupt controllers first.
   */
  reset(): void {
    this.configAddress = 0;
    this.router.reset();
    for (const f of this.all) f.resetRegisters();
    this.renumber();
    for (const f of this.all) f.resetFinish();
  }

  /** Configuration space, MSI-X tables, INTx levels and route registers; devices save their own part. */
  save(): PciBusStateV1 {
    return {
      v: 1,
      configAddress: this.configAddress,
      pirq: this.router.save(),
      functions: this.all.map((f) => f.save()),
    };
  }

  /**
   * Restores {@link PciBus.save} into a bus with the same devices at the same places, before the devices load theirs.
   * @throws HyveError `STATE_VERSION`, `STATE_FORMAT`
   */
  load(state: unknown): void {
    const s = state as PciBusStateV1 | null;
    if (typeof s !== 'object' || s === null || s.v !== 1)
      throw new HyveError('STATE_VERSION', 'pci: expected state version 1');
    const saved = new Map<string, PciFunctionStateV1>();
    if (!Array.isArray(s.functions) || !Number.isInteger(s.configAddress))
      throw new HyveError('STATE_FORMAT', 'pci: expected functions and configAddress');
    for (const f of s.functions as readonly PciFunctionStateV1[]) saved.set(f.at, f);
    if (saved.size !== this.all.length)
      throw new HyveError('STATE_FORMAT', `pci: state of ${saved.size} functions for a bus with ${this.all.length}`);
    for (const f of this.all) {
      const fs = saved.get(f.address);
      if (fs === undefined) throw new HyveError('STATE_FORMAT', `pci: no state for ${f.address} ${f.device.name}`);
      f.check(fs);
    }
    this.router.load(s.pirq);
    this.configAddress = (s.configAddress & CONFIG_ADDRESS_MASK) >>> 0;
    for (const f of this.all) f.loadRegisters(saved.get(f.address) as PciFunctionStateV1);
    this.renumber();
    for (const f of this.all) f.loadFinish(saved.get(f.address) as PciFunctionStateV1);
    this.retry();
  }

  /** `barConflicts`: BARs the guest put over something else; `msiDropped`: messages without bus mastering. */
  counters(): Readonly<Record<string, number>> {
    return { barConflicts: this.blocked, msiDropped: this.dropped };
  }
}
