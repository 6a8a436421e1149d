// The board: a machine specification in, a wired machine out. Mirrors bhyverun.c minus argument parsing and exit().

import { AhciController, type AhciPortSpec } from '@hyve/ahci';
import {
  type BlockBackend,
  Bus,
  type CharBackend,
  type Clock,
  type Device,
  type EngineInterruptKind,
  type EngineInterrupts,
  type EntropySource,
  type Hypervisor,
  HyveError,
  type IrqLine,
  isHyveError,
  type Logger,
  type RegionSpec,
  TimerQueue,
  type UnclaimedAccess,
  type VcpuThreads as VcpuThreadsOfEngine,
  type Vm,
  type VmShare,
} from '@hyve/core';
import { type CodeCache, SoftCpu } from '@hyve/cpu';
import { FORCED } from '@hyve/cpu/translator';
import { buildAcpi, buildE820, buildMpTable, buildSmbios, type TableImage } from '@hyve/firmware-tables';
import {
  bootRom,
  type DecompressKernel,
  type EntryState,
  loadLinux,
  loadMultiboot,
  loadVmlinux,
  type UnpackedKernels,
  unpackKernel,
} from '@hyve/loaders';
import { NvmeController } from '@hyve/nvme';
import { DummyDevice, HostBridge, LpcBridge, PciBus, PciUart, PirqRouter } from '@hyve/pci';
import { AcpiPm, claimAcpiPm } from '@hyve/platform/acpi-pm';
import { BvmPort, claimBvmPort } from '@hyve/platform/debug-ports';
import { claimFwCfg, FwCfg } from '@hyve/platform/fw-cfg';
import { claimLpcPorts, LpcPorts } from '@hyve/platform/lpc';
import { claimI8042, I8042, Ps2Keyboard, Ps2Mouse } from '@hyve/platform/ps2';
import { claimPcTestDev, PcTestDev } from '@hyve/platform/test-dev';
import { COM_PORTS, claimCom, Uart16550 } from '@hyve/platform/uart';
import { VirtioPci } from '@hyve/virtio';
import { blockIdentity, VirtioBlock } from '@hyve/virtio-block';
import { VirtioRnd } from '@hyve/virtio-rnd';
import {
  apicIdOf,
  buildCpuid,
  cpuVendor,
  EngineLoop,
  type HostScheduler,
  type HostWork,
  MsrPolicy,
  physBitsOf,
  type RunClock,
  RunLoop,
  VirtualClock,
  vcpuBus,
} from '@hyve/vmm';
import { claimHpet, HPET_BASE, Hpet } from '@hyve/vmm/hpet';
import { claimIoApic, IoApic } from '@hyve/vmm/ioapic';
import { ApicBus, LocalApic } from '@hyve/vmm/lapic';
import { claimPic, Pic8259 } from '@hyve/vmm/pic';
import { claimPit, Pit8254 } from '@hyve/vmm/pit';
import { claimPmTimer, PmTimer } from '@hyve/vmm/pmtimer';
import { claimRtc, Rtc } from '@hyve/vmm/rtc';
import { Switchboard } from '@hyve/vmm/threads';
import { Alarm } from './alarm.ts';
import { placeBiosVectors, startBiosInterrupts } from './bios.ts';
import { Drives, type OpenImage } from './drives.ts';
import { EngineChips } from './engine-chips.ts';
import { hostScheduler } from './scheduler.ts';
import type { BoardSupport, MachineSpec, PciSlotSpec } from './spec.ts';
import {
  HostTime,
  loadParts,
  type MachineParts,
  type MachineStateV1,
  MemoryLoader,
  type MemoryPiece,
  memoryPieces,
  saveParts,
} from './state.ts';
import { SteadyTime } from './steady-time.ts';
import { type ThreadHost, VcpuThreads, withBell } from './threads.ts';
import { heldDisk, patientConsole, repeatableEntropy, repeatableWords } from './virtual.ts';

/** A character device that the board asks its host for. */
export interface CharRequest {
  /** Who asks: `com1`, `0:4:0 uart`. */
  readonly name: string;
  /** Back end as written: `stdio`, `null`, a path; empty for not connected. */
  readonly backend: string;
}

/** A disk that the board asks its host for. */
export interface DiskRequest {
  /** Who asks: `0:3:0 virtio-blk`. */
  readonly name: string;
  /** Image and options as written: `disk.img,ro,sectorsize=512/4096`. */
  readonly conf: string;
  /** Options in `conf` that belong to the device and not to the image. */
  readonly extras: readonly string[];
}

/** An opened disk. */
export interface OpenedDisk {
  /** The image. */
  readonly backend: BlockBackend;
  /** The device's own options, by name. */
  readonly extras: ReadonlyMap<string, string>;
  /** Makes the image larger while it is in use; absent: it cannot be. */
  readonly grow?: (bytes: number) => Promise<void>;
}

/** What the board asks of the program it runs in. */
export interface PcHost {
  /** Opens the host's end of a character device. */
  openChar(request: CharRequest): Promise<CharBackend>;
  /** Opens a disk image; absent: this host has none. */
  openDisk?(request: DiskRequest): Promise<OpenedDisk>;
  /** Random bytes for virtio-rnd; default the platform's `crypto`. */
  readonly entropy?: EntropySource;
  /** The whole of a file. Rejects with a HyveError naming it. */
  readFile(path: string): Promise<Uint8Array>;
  /** Unpacks kernels in forms that the loader does not know itself, such as gzip and Zstandard; absent: the guest does. */
  readonly decompressKernel?: DecompressKernel;
  /** Keeps unpacked kernels from one start to the next; absent: each start unpacks anew. */
  readonly unpackedKernels?: UnpackedKernels;
  /** Random words for the place of a kernel that the loader unpacks; default the platform's `crypto`. */
  readonly placement?: () => number;
  /** Gets the text of guest blocks as the software CPU decodes them. */
  readonly trace?: (text: string) => void;
  /** Keeps the software CPU's generated code between runs of the same build of the program; absent: it is made each time. */
  readonly code?: CodeCache;
  /** Where the board reports to. */
  readonly log: Logger;
  /** Host time for the RTC. */
  readonly wallClock: {
    /** Milliseconds since 1970 in UTC. */
    nowMs(): number;
    /** Minutes that local time is ahead of UTC now. */
    offsetMinutes(): number;
  };
  /**
   * Processor time that the calling thread has used, ns, to the moment; absent: unknown. With it, time for which the host had no processor
   * for the machine does not go by for a guest on the software CPU at once, but little by little.
   */
  threadCpuNs?(): number;
  /** The host's event loop; default setTimeout and MessageChannel, as browsers and Node have them. */
  readonly scheduler?: HostScheduler;
  /** What this host does beside the guest, such as large reads of disks; engines with threads of their own do not need it. */
  readonly work?: HostWork;
  /** Threads for vCPUs; absent: all take turns on this one. */
  readonly threads?: ThreadHost;
  /** Engines to choose from, by name; default the software CPU alone. */
  readonly engines?: Readonly<Record<string, () => Hypervisor>>;
}

/** Why a machine stopped. */
export type StopReason = 'reset' | 'poweroff' | 'halt' | 'triple-fault' | 'error';

/** What {@link createPc} can build. */
export const boardSupport: BoardSupport = {
  pci: [
    'hostbridge',
    'amd_hostbridge',
    'lpc',
    'uart',
    'dummy',
    'virtio-blk',
    'virtio-rnd',
    'ahci',
    'ahci-hd',
    'ahci-cd',
    'nvme',
  ],
  lpc: ['com1', 'com2', 'com3', 'com4', 'pc-testdev'],
  boot: ['kexec', 'multiboot', 'bootrom'],
  engines: ['kvm', 'soft'],
  features: ['fwcfg-items'],
};

/** RAM below the 32-bit PCI window. */
const LOWMEM_LIMIT = 3 * 2 ** 30;
const GIB4 = 2 ** 32;
const ECAM_BASE = 0xe0000000;
const ECAM_SIZE = 0x10000000;
/** The end of a boot ROM shows below 1 MiB as well: this much, but all of a PC BIOS, which is no larger than the other. */
const BIOS_SHADOW_END = 0x100000;
const BIOS_SHADOW = 0x20000;
const BIOS_LARGEST = 0x40000;
const SCI_IRQ = 9;
const TSC_HZ = 2_000_000_000;
/** Most vCPUs with threads of their own. */
const MAX_THREADS = 31;
/** Where the random numbers of a machine on virtual time begin. */
const CPU_SEED = 1;
const VIRTIO_SEED = 2;
const KASLR_SEED = 3;

/** A machine, built and ready to run. Create with {@link createPc}. */
export class Pc {
  /** Guest memory, vCPUs and engine counters. */
  readonly vm: Vm;
  /** The run loop, for embedders that drive it themselves. */
  readonly loop: RunLoop | EngineLoop;
  /** The PS/2 keyboard. */
  readonly keyboard: Ps2Keyboard;
  /** The PS/2 mouse. */
  readonly mouse: Ps2Mouse;
  /** Disks and CD drives, whose media may change while the machine runs. */
  readonly drives: Drives;
  private readonly pm: AcpiPm;
  private readonly chars: readonly CharBackend[];
  private readonly owned: readonly BlockBackend[];
  private readonly devices: readonly Device[];
  private readonly parts: MachineParts;
  private readonly scheduler: HostScheduler;
  private readonly powerOn: () => Promise<void>;
  private readonly exitValue: () => number;
  private readonly closeAlarm: () => Promise<void>;
  private readonly threads: VcpuThreads | null;
  /** Ends when the pause that is under way, or was made, is complete. */
  private pausing: Promise<void> | null = null;

  /** @internal */
  constructor(o: {
    vm: Vm;
    loop: RunLoop | EngineLoop;
    keyboard: Ps2Keyboard;
    mouse: Ps2Mouse;
    pm: AcpiPm;
    chars: readonly CharBackend[];
    owned: readonly BlockBackend[];
    drives: Drives;
    parts: MachineParts;
    scheduler: HostScheduler;
    powerOn: () => Promise<void>;
    testExit: () => number;
    threads: VcpuThreads | null;
    closeAlarm: () => Promise<void>;
  }) {
    this.threads = o.threads;
    this.vm = o.vm;
    this.loop = o.loop;
    this.keyboard = o.keyboard;
    this.mouse = o.mouse;
    this.pm = o.pm;
    this.chars = o.chars;
    this.owned = o.owned;
    this.drives = o.drives;
    this.devices = o.parts.devices;
    this.parts = o.parts;
    this.scheduler = o.scheduler;
    this.powerOn = o.powerOn;
    this.exitValue = o.testExit;
    this.closeAlarm = o.closeAlarm;
  }

  /** First value that the guest wrote to the exit port of `pc-testdev`, or -1. */
  get testExit(): number {
    return this.exitValue();
  }

  /** What went wrong, after {@link Pc.run} gave `error` or `triple-fault`; otherwise empty. */
  detail = '';

  /** Runs until the guest stops. */
  async run(): Promise<StopReason> {
    if (this.pausing === null) this.threads?.go();
    const end = await this.loop.run();
    this.detail = end.detail;
    try {
      await this.threads?.pause();
    } catch (e) {
      if (!isHyveError(e)) throw e;
      this.detail = e.message;
      return 'error';
    }
    if (end.kind === 'triple-fault' && end.detail === '' && end.vcpu >= 0) {
      const { rip, segments } = (this.vm.vcpus[end.vcpu] as Vm['vcpus'][number]).getState();
      this.detail = `vCPU ${end.vcpu} at ${segments[1].selector.toString(16)}:${rip.toString(16)}`;
    }
    return end.kind === 'stopped' ? 'poweroff' : end.kind;
  }

  /** Presses the ACPI power button. False: the guest does not listen to it. */
  powerButton(): boolean {
    const taken = this.pm.pressPowerButton();
    this.loop.wake();
    return taken;
  }

  /** Ends {@link Pc.run} soon with `poweroff`. */
  forceOff(): void {
    this.loop.requestPoweroff('forced');
    this.loop.wake();
  }

  /**
   * Stops vCPUs, guest time and devices. Resolves once no request of the guest is with the host any more: its memory and
   * disks do not change until {@link Pc.resume}.
   */
  pause(): Promise<void> {
    this.pausing ??= this.stand();
    return this.pausing;
  }

  private async stand(): Promise<void> {
    this.loop.pause();
    // The slice that may be running now is over.
    await this.scheduler.yieldToHost();
    await this.threads?.pause();
    this.parts.time.stop();
    this.vm.holdTime?.(true);
    await Promise.all(this.devices.map((d) => d.pause?.()));
  }

  /** Goes on after {@link Pc.pause}, where guest time stood. */
  resume(): void {
    if (this.pausing === null) return;
    this.pausing = null;
    this.parts.time.go();
    this.vm.holdTime?.(false);
    for (const d of this.devices) d.resume?.();
    this.threads?.go();
    this.loop.resume();
  }

  /**
   * The reset button: all requests of the guest end, then processors and devices are as at power-on and the loader's files
   * are read and loaded again. Memory that the loader leaves alone keeps its contents. A machine whose run has ended can run
   * again.
   * @throws HyveError as {@link createPc}; the machine stays paused then
   */
  async reset(): Promise<void> {
    const paused = this.loop.paused;
    await this.pause();
    await this.powerOn();
    this.detail = '';
    this.loop.restart();
    if (!paused) this.resume();
  }

  /**
   * The machine's state without its memory ({@link Pc.memoryPieces}) and its disks, which are flushed.
   * @throws HyveError `STATE_BUSY` unless paused; `STATE_DISK` when a disk cannot be flushed
   */
  async save(): Promise<MachineStateV1> {
    await this.paused('saved');
    for (const d of this.parts.disks) {
      const status = await d.flush();
      if (status !== 'ok') throw new HyveError('STATE_DISK', `${d.identity}: cannot be flushed: ${status}`);
    }
    return saveParts(this.parts);
  }

  /** RAM that is not all zeros, in order of address. Views are live: take them while the machine is paused. */
  memoryPieces(): Generator<MemoryPiece> {
    return memoryPieces(this.vm.memory);
  }

  /**
   * Restores what {@link Pc.save} and {@link Pc.memoryPieces} gave into a machine of the same specification over the same
   * disks, paused. Firmware in ROM stays this machine's own.
   * @throws HyveError `STATE_BUSY`, `STATE_VERSION`, `STATE_FORMAT`; the machine is of no use then but for another load or reset
   */
  async load(state: unknown, memory: Iterable<MemoryPiece> | AsyncIterable<MemoryPiece>): Promise<void> {
    await this.paused('loaded');
    const loader = new MemoryLoader(this.vm.memory);
    for await (const piece of memory) loader.put(piece);
    loader.end();
    loadParts(this.parts, state);
    this.detail = '';
    this.loop.restart();
  }

  private async paused(what: string): Promise<void> {
    if (this.pausing === null) throw new HyveError('STATE_BUSY', `a machine is ${what} while it is paused`);
    await this.pausing;
  }

  /** Lets go of everything, character back ends too. */
  async close(): Promise<void> {
    await this.threads?.end();
    for (const d of this.devices) await d.close?.();
    for (const b of this.owned) await b.close();
    await this.closeAlarm();
    await Promise.all(this.chars.map((c) => c.close()));
    this.vm.close();
  }

  /** Where each processor is: RIP as a linear address, or null for one that is halted or was not started. */
  positions(): (bigint | null)[] {
    return this.vm.vcpus.map((v) => {
      if (v.halted || v.waitingForSipi) return null;
      const { rip, segments, efer } = v.getState();
      const long = (efer & (1n << 10n)) !== 0n && (segments[1].attr & (1 << 13)) !== 0;
      return long ? rip : rip + segments[1].base;
    });
  }

  /** Counters of the engine, the run loop and the devices. */
  stats(): Readonly<Record<string, number>> {
    const out: Record<string, number> = {};
    const add = (prefix: string, c: Readonly<Record<string, number>> | undefined): void => {
      for (const [k, v] of Object.entries(c ?? {})) out[`${prefix}.${k}`] = v;
    };
    add('cpu', this.vm.counters());
    add('loop', this.loop.counters());
    this.threads?.processors.forEach((p, i) => {
      add(`vcpu${i + 1}`, p.counters);
    });
    for (const d of this.devices) add(d.name, d.counters?.());
    return out;
  }
}

/** Joins several handles to one line, for interrupts that reach two controllers. */
function fanOut(...lines: readonly IrqLine[]): IrqLine {
  return {
    set: (v) => {
      for (const l of lines) l.set(v);
    },
    restore: (v) => {
      for (const l of lines) l.restore(v);
    },
  };
}

const utf8 = new (globalThis as unknown as { TextEncoder: new () => { encode(s: string): Uint8Array } }).TextEncoder();
const monotonicMs = (globalThis as unknown as { performance: { now(): number; readonly timeOrigin: number } })
  .performance;

/** Splits RAM around the PCI window. */
function memoryOf(spec: MachineSpec): { low: number; high: number; regions: RegionSpec[] } {
  const low = Math.min(spec.memoryBytes, LOWMEM_LIMIT);
  const high = spec.memoryBytes - low;
  const regions: RegionSpec[] = [{ base: 0, size: low, kind: 'ram', name: 'lowmem' }];
  if (high > 0) regions.push({ base: GIB4, size: high, kind: 'ram', name: 'highmem' });
  return { low, high, regions };
}

/**
 * Builds a machine.
 * @throws HyveError for files that cannot be read, kernels that cannot be loaded, machines that do not fit; the code
 * says which, the message names the option's value
 */
export async function createPc(spec: MachineSpec, host: PcHost): Promise<Pc> {
  const undo: (() => unknown)[] = [];
  try {
    return await assemble(spec, host, undo);
  } catch (e) {
    // Threads of the engine, terminals and disks would keep the host's program alive, and images locked.
    for (const close of undo.reverse()) {
      try {
        await close();
      } catch {
        // What went wrong first is what the caller hears.
      }
    }
    throw e;
  }
}

/** @param undo gets what has to be closed if building ends early */
async function assemble(spec: MachineSpec, host: PcHost, undo: (() => unknown)[]): Promise<Pc> {
  const refuse = (what: string): never => {
    throw new HyveError('PC_UNSUPPORTED', `${what} is not built yet`);
  };
  const files = await readBootFiles(spec, host);
  const { low, high, regions } = memoryOf(spec);
  const rom = spec.boot.loader === 'bootrom' ? naming(spec, bootRom, files.kernel) : null;
  if (rom !== null) regions.push(rom.region);

  // Time.
  const virtual =
    spec.clock.mode === 'virtual'
      ? new VirtualClock({ nsPerInstruction: 1e9 / spec.clock.instructionsPerSecond })
      : null;
  const start = monotonicMs.now();
  const cpuCount = spec.cpus.count;
  const engine = pickEngine(spec, host);
  const engineKind = engineControllers(spec, engine);
  const threadHost = engineKind !== null ? null : threadsFor(spec, host, engine);
  const hostNs = (): number => monotonicMs.now() * 1e6;
  // Processors of the host, and threads of vCPUs, have clocks of their own, which go on.
  const steady =
    virtual !== null || threadHost !== null || engineKind !== null || engine.fixedTscHz !== undefined
      ? null
      : new SteadyTime(hostNs, host.threadCpuNs ?? null);
  const time = new HostTime(steady === null ? hostNs : () => steady.now(), start * 1e6, () => steady?.settle());
  const clock: RunClock & Clock = virtual ?? new TimerQueue(() => time.now());
  const wallStart = spec.clock.startSeconds === null ? host.wallClock.nowMs() : spec.clock.startSeconds * 1000;
  const localMs = spec.clock.rtc === 'local' ? host.wallClock.offsetMinutes() * 60_000 : 0;

  // Buses. A device that ends the machine does so through the loop, which exists only later.
  let loop: RunLoop | EngineLoop | null = null;
  const strict: UnclaimedAccess | null = spec.strictIo
    ? (port, width, value) => {
        const what = value === null ? 'read of' : `write of 0x${value.toString(16)} to`;
        loop?.fail(`unhandled ${width}-byte ${what} port 0x${port.toString(16)} (-e)`);
      }
    : null;
  const pio = new Bus({ name: 'port', size: 0x10000, ...(strict === null ? {} : { onUnclaimed: strict }) });
  const mmio = new Bus({ name: 'mmio', size: 2 ** 52 });

  // Processors and interrupt controllers.
  const topology = { sockets: spec.cpus.sockets, cores: spec.cpus.cores, threads: spec.cpus.threads };
  const supported = engine.supportedCpuid();
  const physBits = physBitsOf(supported);
  const tscHz = engine.fixedTscHz ?? TSC_HZ;
  const apics = new ApicBus();
  const x2apic = spec.x2apic ? 'on' : 'offered';
  const apicIds = Array.from({ length: cpuCount }, (_, i) => apicIdOf(i, topology));
  const switchboard: Switchboard | null =
    threadHost === null ? null : new Switchboard(Switchboard.allocate(cpuCount), 0, (i) => vm.kick?.(i));
  const lapics: LocalApic[] = [];
  const msrs: MsrPolicy[] = [];
  const vcpuOf = (i: number): Vm['vcpus'][number] => vm.vcpus[i] as Vm['vcpus'][number];
  for (let i = 0; i < cpuCount; i++) {
    if (switchboard !== null && i > 0) {
      switchboard.publishReset(i, apicIds[i] as number, spec.x2apic);
      apics.attachRemote(switchboard.target(i));
      continue;
    }
    const lapic = new LocalApic({
      bus: apics,
      index: i,
      id: apicIds[i] as number,
      ...(switchboard === null
        ? {}
        : {
            onRouting: (r) => switchboard.publishRouting(r),
            onPriority: (p) => switchboard.publishPriority(p),
          }),
      clock,
      tscHz,
      x2apic,
      physBits,
      tsc: {
        read: () => tscOf(i),
        nsAt: (tsc) => clock.now() + ((tsc - tscOf(i)) * 1e9) / tscHz,
      },
    });
    lapics.push(lapic);
    msrs.push(
      new MsrPolicy({
        lapic,
        vendor: cpuVendor(supported),
        tscHz,
        physBits,
        ignoreUnknown: !spec.strictMsr,
        log: host.log,
      }),
    );
  }
  const tscOf = (i: number): number => {
    const v = vcpuOf(i) as Vm['vcpus'][number] & { tscNow?(): number };
    return v.tscNow?.() ?? Math.floor((clock.now() * tscHz) / 1e9);
  };
  const vm: Vm = engine.createVm({
    memory: regions,
    vcpus: cpuCount,
    ...(switchboard === null ? {} : { threads: true }),
    bus: (i) =>
      vcpuBus({
        pio,
        mmio,
        lapic: lapics[i] as LocalApic,
        msrs: msrs[i] as MsrPolicy,
        ferr: () => coprocessor.set(true),
      }),
    cpuid: (i) => buildCpuid({ supported, vcpu: i, topology, tscHz, x2apic }),
    clock,
    tscHz,
    exitOnPause: spec.pauseExit || (threadHost === null ? cpuCount > 1 : cpuCount > threadHost.cores),
    ...(engineKind === null ? {} : { interrupts: { kind: engineKind, apicId: (i: number) => apicIds[i] as number } }),
  });
  undo.push(() => vm.close());
  // With local APICs of the engine's, the board's own only answer for their place in the MSR policy: nothing reaches them.
  const fabric: ApicBus | EngineInterrupts = vm.interrupts ?? apics;
  if (vm.doorbells !== undefined) {
    pio.useDoorbells(vm.doorbells, 'port');
    mmio.useDoorbells(vm.doorbells, 'memory');
  }
  const theirs = engineKind === 'all' && vm.interrupts !== undefined ? new EngineChips(vm.interrupts) : null;
  const ownPic: Pic8259 | null =
    theirs !== null
      ? null
      : new Pic8259({
          onIntr: (v) => (fabric === apics ? apics.setExtInt(v) : vm.interrupts?.setExtInt(v, acknowledgePic)),
        });
  const acknowledgePic = (): number => (ownPic as Pic8259).acknowledge();
  const pic = theirs?.pic ?? (ownPic as Pic8259);
  const ownIoapic = theirs !== null ? null : new IoApic({ bus: fabric });
  const ioapic = theirs?.ioapic ?? (ownIoapic as IoApic);
  if (ownPic !== null) claimPic(pio, ownPic);
  if (ownIoapic !== null) claimIoApic(mmio, ownIoapic);
  const isa = (irq: number, name: string): IrqLine =>
    fanOut(pic.connect(irq, name), ioapic.connect(irq === 0 ? 2 : irq, name));

  // Errors of the x87 with CR0.NE clear, until the handler writes to port 0xF0 (or 0xF1, the old reset of the chip).
  const coprocessor = isa(13, 'x87');
  pio.claim(0xf0, 2, { read: () => 0xff, write: () => coprocessor.set(false) }, { name: 'x87 error', widths: 1 });

  // The reset line: what a guest's reset request does is the run loop's outcome.
  const reset = (): void => {
    loop?.requestReset();
  };

  // Timers.
  const ownPit = theirs !== null ? null : new Pit8254({ clock, irq: isa(0, 'pit') });
  const pit = theirs?.pit ?? (ownPit as Pit8254);
  if (ownPit !== null) claimPit(pio, ownPit);
  const rtc = new Rtc({
    clock,
    irq: isa(8, 'rtc'),
    wallClock: () => wallStart + localMs,
    lowmem: low,
    highmem: high,
  });
  claimRtc(pio, rtc);
  const hpet = new Hpet({
    clock,
    msi: fabric,
    interrupts: ioapic,
    legacy: {
      irq0: isa(0, 'hpet0'),
      irq8: isa(8, 'hpet1'),
      onRoute: (on) => {
        if (ownPit !== null) ownPit.setIrqEnabled(!on);
        else vm.interrupts?.setPitIrq(!on);
        rtc.setIrqEnabled(!on);
      },
    },
  });
  claimHpet(mmio, hpet);
  const pmTimer = new PmTimer({ clock });
  claimPmTimer(pio, pmTimer);

  // Power and legacy ports.
  const pm = new AcpiPm({ sci: isa(SCI_IRQ, 'sci'), onPowerOff: () => loop?.requestPoweroff() });
  claimAcpiPm(pio, pm);
  const lpcPorts = new LpcPorts({ onReset: reset, onSmiCommand: (c) => pm.smiCommand(c) });
  const keyboard = new Ps2Keyboard();
  const mouse = new Ps2Mouse();
  const i8042 = new I8042({
    kbdIrq: isa(1, 'keyboard'),
    auxIrq: isa(12, 'mouse'),
    clock,
    keyboard,
    mouse,
    onReset: reset,
    onA20: (on) => lpcPorts.setA20(on),
    a20: () => lpcPorts.a20,
  });
  claimI8042(pio, i8042);

  // PCI.
  const serials = spec.lpc.filter((d) => d.device.startsWith('com'));
  const router = new PirqRouter({
    pic,
    ioapic,
    reserved: [SCI_IRQ, 12, ...serials.map((d) => (COM_PORTS[Number(d.device.slice(3)) - 1] as { irq: number }).irq)],
  });
  const pci = new PciBus({
    pio,
    mmio,
    dma: vm.memory,
    msi: fabric,
    router,
    log: host.log,
    resetControl: {
      read: () => lpcPorts.readPort(0xcf9),
      write: (_offset, _width, value) => lpcPorts.writePort(0xcf9, value),
    },
  });
  claimLpcPorts(pio, lpcPorts, { except: [0xcf9] });
  const chips: Device[] = [pic, ioapic, pit, rtc, hpet, pmTimer, pm, lpcPorts, i8042];
  /** Functions on the bus, which resets them. */
  const functions: Device[] = [];
  const disks: BlockBackend[] = [];
  const chars: CharBackend[] = [];
  const wire = async (name: string, backend: string, uart: Uart16550 | BvmPort): Promise<void> => {
    const c = await host.openChar({ name, backend });
    chars.push(c);
    undo.push(() => c.close());
    uart.connect(virtual === null ? c : patientConsole(c, () => loop));
  };
  // Disks whose devices leave closing to the board.
  const owned: BlockBackend[] = [];
  const openDisk = async (name: string, conf: string, extras: readonly string[]): Promise<OpenedDisk> => {
    if (host.openDisk === undefined) throw new HyveError('PC_UNSUPPORTED', `${name}: this host opens no disks`);
    const opened = await host.openDisk({ name, conf, extras });
    disks.push(opened.backend);
    undo.push(() => opened.backend.close());
    // Virtual time stands still while the host works, so that equal runs stay equal.
    return virtual === null ? opened : { ...opened, backend: heldDisk(opened.backend, () => loop) };
  };
  const drives = new Drives({
    openMedium: (name, image) => {
      if (host.openDisk === undefined) throw new HyveError('PC_UNSUPPORTED', `${name}: this host opens no disks`);
      return host.openDisk({ name, conf: `${image},ro`, extras: AHCI_OPTIONS });
    },
    onMedium: (backend, came) => {
      for (const list of [owned, disks]) {
        const at = list.indexOf(backend);
        if (at >= 0) list.splice(at, 1);
        if (came) list.push(backend);
      }
    },
    frozen: virtual === null ? null : 'in virtual time a run depends on nothing from outside',
  });
  const ahciPort = async (
    name: string,
    kind: 'hd' | 'cd',
    conf: string,
    opened: (image: OpenImage) => void,
  ): Promise<AhciPortSpec> => {
    if (conf === '') return { kind, backend: null };
    // Discs are not written; bhyve opens them read-only too.
    const disk = await openDisk(name, kind === 'cd' ? `${conf},ro` : conf, AHCI_OPTIONS);
    owned.push(disk.backend);
    opened(disk);
    const text = (key: string): string | undefined => disk.extras.get(key);
    const nmrr = text('nmrr');
    return {
      kind,
      backend: disk.backend,
      serial: text('ser') ?? (await defaultSerial(conf)),
      ...(text('rev') === undefined ? {} : { revision: text('rev') as string }),
      ...(text('model') === undefined ? {} : { model: text('model') as string }),
      ...(nmrr === undefined ? {} : { nmrr: Number(nmrr) }),
    };
  };
  const attachVirtio = (
    device: ConstructorParameters<typeof VirtioPci>[0]['device'],
    at: { bus: number; slot: number; func: number },
    options: ReadonlyMap<string, string>,
  ): void => {
    const transport = options.get('transport');
    if (transport !== undefined && transport !== 'legacy' && transport !== 'modern' && transport !== 'transitional')
      throw new HyveError('PC_OPTION', `transport=${transport}: legacy, transitional or modern expected`);
    const packed = options.get('packed') ?? 'off';
    if (packed !== 'on' && packed !== 'off') throw new HyveError('PC_OPTION', `packed=${packed}: on or off expected`);
    const pciDevice = new VirtioPci({
      device,
      interrupts: spec.virtioMsi ? 'msi' : 'msix',
      ...(transport === undefined ? {} : { transport }),
      ...(packed === 'on' ? { packed: true } : {}),
      log: host.log,
    });
    pci.attach(pciDevice, at);
    functions.push(pciDevice);
  };
  const entropy = (): EntropySource =>
    host.entropy ?? (virtual === null ? platformEntropy() : repeatableEntropy(VIRTIO_SEED));
  let lpcSlot = -1;
  for (const s of spec.pci) {
    const at = { bus: s.bus, slot: s.slot, func: s.func };
    const address = `${s.bus}:${s.slot}:${s.func}`;
    const label = `${address} ${s.device}`;
    switch (s.device) {
      case 'hostbridge':
      case 'amd_hostbridge':
        pci.attach(new HostBridge({ model: s.device }), at);
        break;
      case 'lpc':
        lpcSlot = s.slot;
        pci.attach(new LpcBridge({ router }), at);
        break;
      case 'uart': {
        let uart: Uart16550 | null = null;
        const device = new PciUart({
          name: label,
          chip: (irq) => {
            uart = new Uart16550({ name: label, irq, clock });
            return uart;
          },
        });
        pci.attach(device, at);
        functions.push(device);
        if (uart !== null) await wire(label, s.conf ?? backendOf(s), uart);
        break;
      }
      case 'dummy': {
        const dummy = new DummyDevice();
        pci.attach(dummy, at);
        functions.push(dummy);
        break;
      }
      case 'virtio-blk': {
        const disk = await openDisk(label, confOf(s), VIRTIO_OPTIONS);
        const serial = disk.extras.get('serial') ?? disk.extras.get('ser') ?? (await defaultSerial(confOf(s)));
        const queues = Number(disk.extras.get('queues') ?? 1);
        const device = new VirtioBlock({ backend: disk.backend, name: label, serial, queues });
        attachVirtio(device, at, disk.extras);
        drives.add(address, s.device, confOf(s), disk, { resized: () => device.resized() });
        break;
      }
      case 'ahci':
      case 'ahci-hd':
      case 'ahci-cd': {
        const ports: AhciPortSpec[] = [];
        const images: (OpenImage | null)[] = [];
        for (const [kind, conf] of ahciPorts(s)) {
          const port = ports.length;
          images.push(null);
          ports.push(
            await ahciPort(`${label} port ${port}`, kind, conf, (image) => {
              images[port] = image;
            }),
          );
        }
        const controller = new AhciController({ name: label, ports });
        ahciPorts(s).forEach(([kind, conf], port) => {
          const image = images[port] ?? null;
          const name = `${address}.${port}`;
          if (kind === 'hd') drives.add(name, 'ahci-hd', conf, image, {});
          else
            drives.add(name, 'ahci-cd', conf === '' ? null : conf, image, {
              eject: (force) => controller.eject(port, { force }),
              insert: (medium) => controller.insert(port, medium),
            });
        });
        pci.attach(controller, at);
        functions.push(controller);
        break;
      }
      case 'nvme': {
        const conf = confOf(s);
        const ram = /(?:^|,)ram=(\d+)/.exec(conf);
        const disk = await openDisk(label, ram === null ? conf : conf.replace(/ram=(\d+)/, 'ram:$1M'), NVME_OPTIONS);
        owned.push(disk.backend);
        const number = (key: string): number | undefined => {
          const v = disk.extras.get(key);
          if (v !== undefined && !/^(0x)?[0-9a-f]+$/i.test(v))
            throw new HyveError('PC_OPTION', `nvme: ${key}=${v}: a number expected`);
          return v === undefined ? undefined : Number(v);
        };
        const eui64 = disk.extras.get('eui64');
        const dsm = disk.extras.get('dsm');
        if (dsm !== undefined && dsm !== 'auto' && dsm !== 'enable' && dsm !== 'disable')
          throw new HyveError('PC_OPTION', `nvme: dsm=${dsm}: auto, enable or disable expected`);
        const maxQueues = number('maxq');
        const queueSize = number('qsz');
        const ioSlots = number('ioslots');
        const blockSize = number('sectsz');
        const serial = disk.extras.get('ser');
        const controller = new NvmeController({
          name: label,
          backend: disk.backend,
          ...(maxQueues === undefined ? {} : { maxQueues }),
          ...(queueSize === undefined ? {} : { queueSize }),
          ...(ioSlots === undefined ? {} : { ioSlots }),
          ...(blockSize === undefined ? {} : { blockSize }),
          ...(serial === undefined ? {} : { serial }),
          ...(eui64 === undefined ? {} : { eui64: BigInt(/^0x/i.test(eui64) ? eui64 : `0x${eui64}`) }),
          ...(dsm === undefined ? {} : { dsm }),
        });
        pci.attach(controller, at);
        functions.push(controller);
        drives.add(address, 'nvme', conf, disk, { resized: () => controller.resized() });
        break;
      }
      case 'virtio-rnd':
        for (const key of Object.keys(s.options))
          if (key !== 'transport' && key !== 'packed')
            throw new HyveError('PC_OPTION', `virtio-rnd: no option '${key}'; there are transport and packed`);
        attachVirtio(new VirtioRnd({ source: entropy(), name: label }), at, new Map(Object.entries(s.options)));
        break;
      default:
        refuse(`PCI device ${s.device} (-s ${s.bus}:${s.slot}:${s.func})`);
    }
  }
  if (spec.lpc.length > 0 && lpcSlot < 0)
    throw new HyveError('PC_NO_LPC', `-l ${spec.lpc[0]?.device} needs an lpc device in some slot (-s 31,lpc)`);
  // COM1 and COM2 exist wherever an LPC bridge does; others only when asked for.
  const coms = new Map<number, string>();
  if (lpcSlot >= 0) {
    coms.set(1, '');
    coms.set(2, '');
  }
  for (const d of spec.lpc) {
    if (!('backend' in d)) {
      if (d.device === 'pc-testdev') continue;
      refuse(`LPC device ${d.device}`);
    } else coms.set(Number(d.device.slice(3)), d.backend);
  }
  for (const [n, backend] of coms) {
    const irq = (COM_PORTS[n - 1] as { irq: number }).irq;
    const uart = new Uart16550({ name: `com${n}`, irq: isa(irq, `com${n}`), clock });
    claimCom(pio, n, uart);
    chips.push(uart);
    if (backend !== '') await wire(`com${n}`, backend, uart);
  }
  if (spec.bvmcons) {
    const port = new BvmPort({ kind: 'console' });
    claimBvmPort(pio, port);
    chips.push(port);
    await wire('bvmcons', 'stdio', port);
  }
  if (spec.fwcfg.kind === 'qemu') {
    const fwCfg = new FwCfg({
      cpus: spec.cpus.count,
      maxCpus: Math.max(...apicIds) + 1,
      ramBytes: spec.memoryBytes,
      files: files.fwcfg,
    });
    claimFwCfg(pio, fwCfg);
    chips.push(fwCfg);
  } else if (spec.fwcfg.items.length > 0) refuse('a fw_cfg item with the bhyve interface');
  let testExit = -1;
  if (spec.lpc.some((d) => d.device === 'pc-testdev')) {
    const dev = new PcTestDev({
      irqs: Array.from({ length: 24 }, (_, n) => {
        const name = `pc-testdev ${n}`;
        return n < 16 && n !== 2 ? isa(n, name) : ioapic.connect(n, name);
      }),
      onExit: (value) => {
        if (testExit < 0) testExit = value;
        loop?.requestPoweroff('test device');
      },
    });
    claimPcTestDev(pio, mmio, dev);
    chips.push(dev);
  }
  pci.assign();

  let alarm: Alarm | null = null;
  const newAlarm = host.threads?.alarm;
  const scheduler =
    host.scheduler ??
    hostScheduler(
      newAlarm === undefined
        ? null
        : () => {
            alarm = new Alarm(newAlarm());
            return alarm;
          },
    );
  const wake = (): void => loop?.wake();
  const turns =
    vm.engineThreads !== undefined
      ? null
      : new RunLoop({
          vcpus: vm.vcpus,
          apics,
          clock,
          ...(steady === null ? {} : { resting: steady }),
          ...(ownPic === null ? {} : { pic: ownPic }),
          host: switchboard === null ? scheduler : withBell(scheduler, switchboard, wake),
          ...(host.work === undefined ? {} : { work: host.work }),
          log: host.log,
          ...(switchboard === null
            ? {}
            : {
                poll: () => threads?.poll(),
                peersStuck: () => switchboard.othersStuck(),
                onPause: () => switchboard.sleep(0.02),
              }),
        });
  const runLoop =
    turns ??
    new EngineLoop({
      vcpus: vm.vcpus,
      threads: vm.engineThreads as VcpuThreadsOfEngine,
      clock,
      host: scheduler,
      log: host.log,
    });
  loop = runLoop;
  const threads =
    switchboard === null || threadHost === null || turns === null
      ? null
      : new VcpuThreads({
          host: threadHost,
          board: switchboard,
          lapic: lapics[0] as LocalApic,
          loop: turns,
          log: host.log,
          devices: {
            ioRead: (a, w) => pio.read(a, w),
            ioWrite: (a, w, v) => pio.write(a, w, v),
            mmioRead: (a, w) => mmio.read(a, w),
            mmioWrite: (a, w, v) => mmio.write(a, w, v),
            acknowledgePic,
            eoi: (v) => apics.eoi(v),
            ferr: () => coprocessor.set(true),
          },
          startMs: () => time.origin / 1e6,
          plan: (i) => ({
            share: (vm.share as () => VmShare)(),
            index: i,
            words: switchboard.words,
            cpuid: buildCpuid({ supported, vcpu: i, topology, tscHz, x2apic }),
            apicIds,
            x2apic,
            virtualWire: rom === null,
            physBits,
            tscHz,
            timeOrigin: monotonicMs.timeOrigin,
            startMs: start,
            vendor: cpuVendor(supported),
            ignoreUnknownMsrs: !spec.strictMsr,
            crowded: spec.pauseExit || cpuCount > threadHost.cores,
          }),
        });
  if (threads !== null) undo.push(() => threads.end());
  // Tables and the guest itself.
  const e820 = buildE820({ lowmem: low, highmem: high, ecam: { base: ECAM_BASE, size: ECAM_SIZE } });
  const tables = rom === null ? buildTables() : { images: [], rsdp: null };
  boot(files);
  threads?.go();
  return new Pc({
    vm,
    loop: runLoop,
    keyboard,
    mouse,
    pm,
    chars,
    owned,
    drives,
    parts: {
      memory: vm.memory,
      memoryBytes: spec.memoryBytes,
      vcpus: [...vm.vcpus, ...(threads?.processors.map((p) => p.vcpu) ?? [])],
      lapics: [
        ...(vm.interrupts === undefined ? lapics : lapicsOf(vm.interrupts, cpuCount)),
        ...(threads?.processors.map((p) => p.lapic) ?? []),
      ],
      msrs: [...msrs, ...(threads?.processors.map((p) => p.msrs) ?? [])],
      devices: [...chips, pci, ...functions],
      disks,
      time,
      virtual,
      now: () => clock.now(),
      engine: vm,
      settle: () => theirs?.settle(),
    },
    scheduler,
    powerOn: async () => {
      const again = await readBootFiles(spec, host);
      for (const v of vm.vcpus) v.reset();
      threads?.reset();
      for (const m of msrs) m.reset();
      for (const l of lapics) l.reset();
      vm.interrupts?.reset();
      for (const c of chips) c.reset();
      pci.reset();
      testExit = -1;
      boot(again);
    },
    testExit: () => testExit,
    threads,
    closeAlarm: async () => alarm?.close(),
  });

  /** From power-on to the guest's first instruction. */
  function boot(files: BootFiles): void {
    const levelIrqs = router.levelIrqs | (1 << SCI_IRQ);
    if (ownPic !== null) setElcr(ownPic, levelIrqs);
    else theirs?.setElcr(levelIrqs);
    if (spec.x2apic && vm.interrupts !== undefined)
      for (const l of lapicsOf(vm.interrupts, cpuCount)) l.load({ ...(l.save() as object), mode: 2 });
    for (const t of tables.images) vm.memory.load(t.addr, t.bytes);
    if (spec.boot.loader === 'multiboot') {
      placeBiosVectors(vm.memory);
      startBiosInterrupts(pio);
    }
    const entry = naming(spec, load, files);
    (vm.vcpus[0] as Vm['vcpus'][number]).setState(entry.state);
    if (rom === null) for (const l of lapics) l.enterVirtualWire();
  }

  function buildTables(): { images: TableImage[]; rsdp: number | null } {
    const images: TableImage[] = [];
    const cpuIds = apicIds;
    const routes = pci.routing();
    const leaf1 = buildCpuid({ supported, vcpu: 0, topology, tscHz, x2apic }).find((r) => r.leaf === 1);
    const signature = { cpuSignature: leaf1?.eax ?? 0, cpuFeatures: leaf1?.edx ?? 0 };
    const buses = [...new Set(pci.windows().map((w) => w.bus))];
    if (spec.tables.mptable)
      images.push(
        buildMpTable({
          apicIds: cpuIds,
          ioApic: { id: 0, address: 0xfec00000 },
          pciBuses: buses,
          routes: routes.filter((r) => r.bus === 0),
          ...signature,
        }),
      );
    if (spec.tables.smbios)
      images.push(
        buildSmbios({
          lowmem: low,
          highmem: high,
          ...topology,
          ...signature,
          cpuMhz: Math.round(tscHz / 1e6),
          ...(spec.uuid === null ? {} : { uuid: spec.uuid }),
          ...smbiosStrings(spec),
        }),
      );
    let rsdp: number | null = null;
    if (spec.tables.acpi) {
      const acpi = buildAcpi({
        cpus: cpuIds.map((apicId) => ({ apicId })),
        ioApics: [{ id: 0, address: 0xfec00000, gsiBase: 0 }],
        hpet: { address: HPET_BASE, id: 0x8086a701 },
        ecam: { address: ECAM_BASE, firstBus: 0, lastBus: 255 },
        roots: pci.windows().map((w) => ({
          bus: w.bus,
          lastBus: w.lastBus,
          io:
            w.bus === 0
              ? [{ base: 0, size: 0xcf8 }, { base: 0xd00, size: 0x1300 }, w.io].filter((r) => r.size > 0)
              : [w.io].filter((r) => r.size > 0),
          memory: [w.mem32, w.mem64].filter((r) => r.size > 0),
          routes: routes
            .filter((r) => r.bus === w.bus)
            .map((r) => ({ slot: r.slot, pin: r.pin, gsi: r.gsi, link: r.pirq })),
        })),
        ...(lpcSlot < 0
          ? {}
          : {
              isa: {
                slot: lpcSlot,
                keyboard: true,
                mouse: true,
                serial: [...coms.keys()].map((n) => ({
                  com: n as 1 | 2 | 3 | 4,
                  port: (COM_PORTS[n - 1] as { base: number }).base,
                  irq: (COM_PORTS[n - 1] as { irq: number }).irq,
                })),
              },
            }),
      });
      images.push(acpi);
      rsdp = acpi.rsdp;
    }
    return { images, rsdp };
  }

  // Takes the files as an argument, as its callers do: all closures here share what any of them mentions, and a machine
  // that runs must not keep what it was loaded from.
  function load(files: BootFiles): EntryState {
    const ram = { memory: vm.memory, lowmem: low, highmem: high, e820 };
    switch (spec.boot.loader) {
      case 'bootrom': {
        if (rom === null) throw new HyveError('PC_UNSUPPORTED', 'no boot ROM');
        vm.memory.load(rom.region.base, files.kernel);
        // A PC BIOS goes on below 1 MiB, where the chip set shows the end of the ROM too; here it is shadowed from the start.
        const shadow = files.kernel.length > BIOS_LARGEST ? files.kernel.subarray(-BIOS_SHADOW) : files.kernel;
        vm.memory.load(BIOS_SHADOW_END - shadow.length, shadow);
        return rom;
      }
      case 'kexec': {
        const isElf = files.kernel[0] === 0x7f && files.kernel[1] === 0x45;
        const handover = {
          ...ram,
          cmdline: spec.boot.cmdline ?? 'auto',
          ...(files.initrd === null ? {} : { initrd: files.initrd }),
          ...(tables.rsdp === null ? {} : { rsdp: tables.rsdp }),
        };
        if (isElf) return loadVmlinux({ ...handover, kernel: files.kernel });
        const vmlinux =
          spec.boot.decompress === 'guest'
            ? null
            : unpackKernel(files.kernel, host.decompressKernel, host.unpackedKernels);
        const words = new Uint32Array(1);
        const state = loadLinux({
          ...handover,
          kernel: files.kernel,
          vmlinux,
          random:
            virtual !== null
              ? repeatableWords(KASLR_SEED)
              : (host.placement ?? (() => webCrypto().getRandomValues(words)[0] as number)),
        });
        // Tens of megabytes that need not wait for the garbage collector.
        if (vmlinux?.buffer instanceof ArrayBuffer) vmlinux.buffer.transfer(0);
        return state;
      }
      case 'multiboot':
        return loadMultiboot({
          ...ram,
          kernel: files.kernel,
          cmdline: spec.boot.cmdline ?? '',
          modules: files.modules,
        });
      default:
        return refuse(`the ${spec.boot.loader} loader`);
    }
  }
}

/** Loaders see bytes; whoever reads their complaint wants to know of which file. */
function naming<A, T>(spec: MachineSpec, work: (bytes: A) => T, bytes: A): T {
  try {
    return work(bytes);
  } catch (e) {
    if (!isHyveError(e) || e.code === 'PC_UNSUPPORTED') throw e;
    const b = spec.boot;
    const kernel = b.loader === 'bootrom' ? b.code : b.loader === 'userboot' ? b.library : b.kernel;
    const file = e.code === 'LINUX_INITRD' && b.loader === 'kexec' ? (b.initrd ?? kernel) : kernel;
    throw new HyveError(e.code, `${file}: ${e.message}`, e);
  }
}

/** Options of virtio devices in a disk's option list. */
const VIRTIO_OPTIONS: readonly string[] = ['serial', 'ser', 'queues', 'transport', 'packed', 'bootindex'];

/** Options of NVMe controllers in a disk's option list. */
const NVME_OPTIONS: readonly string[] = ['maxq', 'qsz', 'ioslots', 'sectsz', 'ser', 'eui64', 'dsm', 'bootindex'];

/** Options of AHCI drives in a disk's option list. */
const AHCI_OPTIONS: readonly string[] = ['nmrr', 'ser', 'rev', 'model', 'bootindex'];

/** Ports of an AHCI slot: `ahci-hd,PATH…`, `ahci-cd,PATH…`, or `ahci,hd:PATH…,cd:PATH…`; options follow their port. */
function ahciPorts(s: PciSlotSpec): ['hd' | 'cd', string][] {
  if (s.device !== 'ahci') return [[s.device === 'ahci-cd' ? 'cd' : 'hd', confOf(s)]];
  if (s.conf === null) {
    const ports: ['hd' | 'cd', string][] = [];
    for (let n = 0; n < 6; n++) {
      const path = s.options[`port.${n}.path`];
      if (path !== undefined) ports.push([s.options[`port.${n}.type`] === 'cd' ? 'cd' : 'hd', path]);
    }
    return ports;
  }
  const ports: ['hd' | 'cd', string][] = [];
  for (const part of s.conf.split(',')) {
    const m = /^(hd|cd):(.*)$/.exec(part);
    const last = ports.at(-1);
    if (m !== null) ports.push([m[1] as 'hd' | 'cd', m[2] as string]);
    else if (last !== undefined) last[1] += `,${part}`;
    else throw new HyveError('PC_OPTION', `ahci,${s.conf}: hd:PATH or cd:PATH expected, not ${part}`);
  }
  if (ports.length > 6) throw new HyveError('PC_OPTION', `ahci: ${ports.length} ports; the controller has 6`);
  return ports;
}

/** What followed the device name, as text; settings from a configuration tree are put together again. */
function confOf(s: PciSlotSpec): string {
  if (s.conf !== null) return s.conf;
  const { path, ...rest } = s.options;
  return [path ?? '', ...Object.entries(rest).map(([k, v]) => (v === 'true' ? k : `${k}=${v}`))].join(',');
}

interface WebCrypto {
  getRandomValues<T extends Uint8Array | Uint32Array>(a: T): T;
  readonly subtle: { digest(algorithm: string, data: Uint8Array): Promise<ArrayBuffer> };
}
/** Looked up when it is wanted: Node loads 7 ms of code for it. */
function webCrypto(): WebCrypto {
  return (globalThis as unknown as { crypto: WebCrypto }).crypto;
}
const Utf8 = (globalThis as unknown as { TextEncoder: new () => { encode(s: string): Uint8Array } }).TextEncoder;

/** bhyve's serial number: a hash of how the disk was given. */
async function defaultSerial(conf: string): Promise<string> {
  return blockIdentity(new Uint8Array(await webCrypto().subtle.digest('SHA-256', new Utf8().encode(conf))));
}

/** Most bytes that getRandomValues gives at once. */
const RANDOM_MAX = 65536;

function platformEntropy(): EntropySource {
  return {
    fill(bytes) {
      // Some platforms refuse views of shared memory.
      const own = new Uint8Array(Math.min(bytes.length, RANDOM_MAX));
      for (let at = 0; at < bytes.length; at += RANDOM_MAX) {
        const part = own.subarray(0, Math.min(RANDOM_MAX, bytes.length - at));
        webCrypto().getRandomValues(part);
        bytes.set(part, at);
      }
    },
  };
}

function setElcr(pic: Pic8259, mask: number): void {
  pic.elcr.write(0, 1, mask & 0xff);
  pic.elcr.write(1, 1, (mask >> 8) & 0xff);
}

function backendOf(s: PciSlotSpec): string {
  return s.options['path'] ?? s.options['backend'] ?? '';
}

/** Settable strings by table, from bhyve's dotted names. */
function smbiosStrings(spec: MachineSpec): Record<string, Record<string, string>> {
  const out: Record<string, Record<string, string>> = {};
  for (const [k, v] of Object.entries(spec.tables.smbiosStrings)) {
    const dot = k.indexOf('.');
    const table = k.slice(0, dot);
    const field = k.slice(dot + 1).replace(/_([a-z])/g, (_m, c: string) => c.toUpperCase());
    const group = out[table] ?? {};
    group[field] = v;
    out[table] = group;
  }
  return out;
}

/** Where vCPUs get threads of their own: the host's, or null for all on this one. */
function threadsFor(spec: MachineSpec, host: PcHost, engine: Hypervisor): ThreadHost | null {
  const wish = spec.vcpuThreads ?? 'off';
  if (wish === 'off' || spec.cpus.count < 2) return null;
  const t = host.threads;
  const why =
    t === undefined
      ? 'this host has none'
      : spec.clock.mode === 'virtual'
        ? 'virtual time needs all vCPUs on one'
        : engine.attach === undefined
          ? `engine ${engine.name} cannot`
          : spec.cpus.count > MAX_THREADS
            ? `at most ${MAX_THREADS} vCPUs can have their own`
            : '';
  if (t !== undefined && why === '') {
    if (wish === 'auto') return t.cores > spec.cpus.count && t.x86Order ? t : null;
    if (!t.x86Order) host.log.warn('threads for vCPUs: this host orders memory more loosely than x86; guests may fail');
    return t;
  }
  if (wish === 'on') throw new HyveError('PC_THREADS', `threads for vCPUs: ${why}`);
  return null;
}

/** Which interrupt controllers the engine runs, and with them the vCPUs; null: none. */
function engineControllers(spec: MachineSpec, engine: Hypervisor): EngineInterruptKind | null {
  const wish = spec.localApics ?? 'auto';
  const kind = wish === 'all' ? 'all' : 'local';
  const can = (engine.interruptKinds ?? []).includes(kind);
  const what = kind === 'all' ? 'interrupt controllers' : 'local APICs';
  if ((wish === 'engine' || wish === 'all') && !can)
    throw new HyveError('PC_UNSUPPORTED', `engine ${engine.name} has no ${what} of its own here`);
  return can && (wish === 'engine' || wish === 'all' || (wish === 'auto' && spec.cpus.count > 1)) ? kind : null;
}

/** The engine's local APICs, for saving. */
function lapicsOf(engine: EngineInterrupts, count: number): { save(): unknown; load(state: unknown): void }[] {
  return Array.from({ length: count }, (_, i) => ({
    save: () => engine.saveLocalApic(i),
    load: (state: unknown) => engine.loadLocalApic(i, state),
  }));
}

/**
 * Whether a machine gets a translator's thread from a host that has one to give ({@link ThreadHost.translator}).
 * @param spec the machine; its engine counts as the software CPU if it is `auto`
 * @param cores the host's {@link ThreadHost.cores}: with one core a thread would make translation no faster, and later
 */
export function hasTranslatorThread(spec: MachineSpec, cores: number): boolean {
  const { engine, clock, translatorThreshold = FORCED } = spec;
  return engine !== 'kvm' && clock.mode !== 'virtual' && translatorThreshold >= FORCED && cores > 1;
}

function pickEngine(spec: MachineSpec, host: PcHost): Hypervisor {
  if (spec.engine === 'auto' || spec.engine === 'soft') {
    const soft = host.engines?.['soft'];
    if (soft !== undefined) return soft();
    const observed = {
      ...(spec.translatorThreshold === undefined ? {} : { threshold: spec.translatorThreshold }),
      ...(host.trace === undefined ? {} : { trace: host.trace }),
      ...(host.code === undefined ? {} : { code: host.code }),
    };
    if (spec.clock.mode === 'virtual') return new SoftCpu({ ...observed, random: repeatableWords(CPU_SEED) });
    const { threads } = host;
    if (threads?.translator === undefined || !hasTranslatorThread(spec, threads.cores)) return new SoftCpu(observed);
    const { translator, translatorAtOnce = false } = threads;
    return new SoftCpu({ ...observed, translator, translatorAtOnce });
  }
  if (spec.clock.mode === 'virtual')
    throw new HyveError('ENGINE_UNAVAILABLE', `virtual time needs the software CPU, not engine ${spec.engine}`);
  const make = host.engines?.[spec.engine];
  if (make === undefined) throw new HyveError('ENGINE_UNAVAILABLE', `this host has no engine ${spec.engine}`);
  return make();
}

interface BootFiles {
  readonly kernel: Uint8Array;
  readonly initrd: Uint8Array | null;
  readonly modules: { data: Uint8Array; cmdline: string }[];
  readonly fwcfg: { name: string; data: Uint8Array }[];
}

async function readBootFiles(spec: MachineSpec, host: PcHost): Promise<BootFiles> {
  const b = spec.boot;
  const fwcfg: { name: string; data: Uint8Array }[] = [];
  for (const i of spec.fwcfg.items)
    fwcfg.push({ name: i.name, data: i.source === 'file' ? await host.readFile(i.data) : utf8.encode(i.data) });
  switch (b.loader) {
    case 'kexec':
      return {
        kernel: await host.readFile(b.kernel),
        initrd: b.initrd === null ? null : await host.readFile(b.initrd),
        modules: [],
        fwcfg,
      };
    case 'multiboot': {
      const modules: { data: Uint8Array; cmdline: string }[] = [];
      for (const m of b.modules) modules.push({ data: await host.readFile(m.path), cmdline: m.cmdline });
      return { kernel: await host.readFile(b.kernel), initrd: null, modules, fwcfg };
    }
    case 'bootrom':
      if (b.vars !== null)
        throw new HyveError('PC_UNSUPPORTED', 'a variable store (-l bootrom,CODE,VARS) is not built yet');
      return { kernel: await host.readFile(b.code), initrd: null, modules: [], fwcfg };
    default:
      throw new HyveError('PC_UNSUPPORTED', `the ${b.loader} loader is not built yet`);
  }
}
