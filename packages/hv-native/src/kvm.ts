// The Linux KVM engine: exits are decoded in the page that the kernel shares with us and become calls of the vCPU's bus.
// Linux Documentation/virt/kvm/api.rst; takes the place of bhyve's vmm.ko and libvmmapi.
import {
  type BackedRegion,
  type CpuidEntry,
  type DebugRequest,
  type DirtyLog,
  type DoorbellHost,
  type EngineInterruptKind,
  type EngineInterrupts,
  Exit,
  type ExitReason,
  type GuestMemory,
  type Hypervisor,
  HyveError,
  type MsrValue,
  RegionMemory,
  type Vcpu,
  type VcpuBus,
  type VcpuStateV1,
  type VcpuThreads,
  type Vm,
  type VmExit,
  type VmOptions,
  type Width,
} from '@hyve/core';
import * as K from './bits.ts';
import { loadLocalApic, type RawLocalApic, saveLocalApic } from './chips.ts';
import { type ApicOwner, KvmInterrupts } from './interrupts.ts';
import {
  loadNative,
  type Native,
  READ_ONLY_SLOT,
  type SystemHandle,
  type VcpuHandle,
  type VmHandle,
} from './native.ts';
import { resetState, StateAccess, type XsaveComponent } from './state.ts';
import { KvmDoorbells, KvmThreads, type ThreadedVcpu } from './threads.ts';

/** Options of {@link KvmHypervisor}. */
export interface KvmOptions {
  /** The device; default `/dev/kvm`. */
  readonly device?: string;
  /**
   * The interface that guests are shown beside the processor: none, KVM's own (kvmclock) or Hyper-V's (reference time,
   * relaxed timing). {@link KvmHypervisor.supportedCpuid} then has its leaves, from 0x40000000, and its MSRs stay in the
   * kernel. Default none.
   */
  readonly paravirtual?: 'none' | 'kvm' | 'hyperv';
}

/** What the kernel must offer, with the names that api.rst gives. */
const NEEDED: readonly (readonly [cap: number, name: string])[] = [
  [K.CAP_USER_MEMORY, 'KVM_CAP_USER_MEMORY'],
  [K.CAP_EXT_CPUID, 'KVM_CAP_EXT_CPUID'],
  [K.CAP_USER_NMI, 'KVM_CAP_USER_NMI'],
  [K.CAP_VCPU_EVENTS, 'KVM_CAP_VCPU_EVENTS'],
  [K.CAP_DEBUGREGS, 'KVM_CAP_DEBUGREGS'],
  [K.CAP_XSAVE, 'KVM_CAP_XSAVE'],
  [K.CAP_XCRS, 'KVM_CAP_XCRS'],
  [K.CAP_READONLY_MEM, 'KVM_CAP_READONLY_MEM'],
  [K.CAP_IMMEDIATE_EXIT, 'KVM_CAP_IMMEDIATE_EXIT'],
  [K.CAP_X86_USER_SPACE_MSR, 'KVM_CAP_X86_USER_SPACE_MSR'],
  [K.CAP_X86_MSR_FILTER, 'KVM_CAP_X86_MSR_FILTER'],
];

const WASM_PAGE = 65536;
const MOST_SLOTS = 64;
const MOST_VCPUS = 255;
const MOST_CPUID = 256;
/** Exits of one instruction: the pieces of a 64-byte store on two pages, and the rows of a string instruction. */
const MOST_FRAGMENTS = 64;
/** Longest budget that a timer is set for, ns. */
const LONGEST_NS = 1e12;

/**
 * The engine for Linux hosts with hardware virtualization. Runs vCPUs on the calling thread with the interrupt controllers
 * and timers of @hyve/vmm; or, with local APICs of the kernel's (`VmOptions.interrupts`), each on a thread of its own.
 *
 * Not modelled: exits on PAUSE (KVM reports none); virtual time.
 * @example
 * const { usable, reason } = probeKvm();
 * const engine = usable ? new KvmHypervisor() : null;
 */
export class KvmHypervisor implements Hypervisor {
  readonly name = 'kvm';
  private readonly native: Native;
  private readonly system: SystemHandle;
  private cpuid: readonly CpuidEntry[] | null = null;
  private fixedHz: number | null | undefined = undefined;
  private readonly paravirtual: 'none' | 'kvm' | 'hyperv';

  /** @throws HyveError `ENGINE_UNAVAILABLE` without the addon, the device, or what it must offer */
  constructor(options: KvmOptions = {}) {
    const device = options.device ?? '/dev/kvm';
    this.native = loadNative();
    this.paravirtual = options.paravirtual ?? 'none';
    try {
      this.system = this.native.open(device);
    } catch (e) {
      throw new HyveError('ENGINE_UNAVAILABLE', `KVM cannot be opened: ${textOf(e)}`, e);
    }
    const missing = NEEDED.filter(([cap]) => this.native.checkExtension(this.system, cap) <= 0).map(([, name]) => name);
    if (missing.length > 0) {
      this.native.closeSystem(this.system);
      throw new HyveError('ENGINE_UNAVAILABLE', `this kernel's KVM lacks ${missing.join(', ')}`);
    }
  }

  supportedCpuid(): readonly CpuidEntry[] {
    if (this.cpuid !== null) return this.cpuid;
    const all = this.rows(false);
    const own = (r: CpuidEntry): boolean => r.leaf >= FIRST_HYPERVISOR_LEAF && r.leaf <= LAST_HYPERVISOR_LEAF;
    if (this.paravirtual === 'kvm')
      this.cpuid = all.map((r) => (r.leaf === 0x40000001 ? { ...r, eax: r.eax & KVM_FEATURES, edx: 0 } : r));
    else {
      const processor = all.filter((r) => !own(r));
      this.cpuid = this.paravirtual === 'none' ? processor : [...processor, ...hypervRows(this.rows(true))];
    }
    return this.cpuid;
  }

  private rows(hyperv: boolean): CpuidEntry[] {
    if (hyperv && this.native.checkExtension(this.system, K.CAP_SYS_HYPERV_CPUID) <= 0)
      throw new HyveError('ENGINE_UNAVAILABLE', "this kernel's KVM lacks KVM_CAP_SYS_HYPERV_CPUID");
    const words = new Uint32Array(MOST_CPUID * K.CPUID_WORDS);
    const n = this.native.supportedCpuid(this.system, words, hyperv);
    const rows: CpuidEntry[] = [];
    for (let i = 0; i < n; i++) {
      const [leaf = 0, index = 0, flags = 0, eax = 0, ebx = 0, ecx = 0, edx = 0] = words.subarray(i * K.CPUID_WORDS);
      const subleaf = flags & K.CPUID_FLAG_INDEX ? { subleaf: index } : {};
      rows.push({ leaf, ...subleaf, eax, ebx, ecx, edx });
    }
    return rows;
  }

  get interruptKinds(): readonly EngineInterruptKind[] {
    const kinds: EngineInterruptKind[] = [];
    if (this.native.checkExtension(this.system, K.CAP_SPLIT_IRQCHIP) > 0) kinds.push('local');
    if (this.native.checkExtension(this.system, K.CAP_IRQCHIP) > 0) kinds.push('all');
    return kinds;
  }

  get fixedTscHz(): number | null {
    if (this.fixedHz !== undefined) return this.fixedHz;
    this.fixedHz = null;
    if (this.native.checkExtension(this.system, K.CAP_TSC_CONTROL) > 0) return null;
    const vm = this.native.createVm(this.system);
    const khz = new Uint32Array(1);
    const r = this.native.get(this.native.createVcpu(this.system, vm, 0), K.PART_TSC_KHZ, new Uint8Array(khz.buffer));
    this.native.closeVm(vm);
    if (r >= 0 && khz[0] !== 0) this.fixedHz = (khz[0] as number) * 1000;
    return this.fixedHz;
  }

  createVm(options: VmOptions): Vm {
    const kinds = this.interruptKinds;
    if (options.interrupts !== undefined && !kinds.includes(options.interrupts.kind))
      throw new HyveError(
        'ENGINE_UNAVAILABLE',
        `this kernel's KVM has no interrupt controllers (${options.interrupts.kind})`,
      );
    const extra = this.paravirtual === 'kvm' ? K.KVM_MSRS : this.paravirtual === 'hyperv' ? K.HYPERV_MSRS : [];
    return new KvmVm(this.native, this.system, options, extra);
  }

  /** Lets go of the device. VMs that exist go on; no more can be made. */
  close(): void {
    this.native.closeSystem(this.system);
  }
}

const FIRST_HYPERVISOR_LEAF = 0x40000000;
const LAST_HYPERVISOR_LEAF = 0x4fffffff;
/** KVM's features kept (leaf 0x40000001 EAX): both clocks, no delay after port writes, time stolen, clock stable. */
const KVM_FEATURES = (1 << 0) | (1 << 1) | (1 << 3) | (1 << 5) | (1 << 24);
/** Hyper-V privileges kept (TLFS, leaf 0x40000003 EAX): reference counter, APIC MSRs, hypercall page, vCPU index, reference TSC, frequencies. */
const HYPERV_PRIVILEGES = (1 << 1) | (1 << 4) | (1 << 5) | (1 << 6) | (1 << 9) | (1 << 11);
/** Its recommendations kept (0x40000004 EAX): relaxed timing. */
const HYPERV_RELAXED = 1 << 5;

/** What the kernel offers of Hyper-V, less what needs its synthetic interrupt controller or nested virtualization. */
function hypervRows(all: readonly CpuidEntry[]): CpuidEntry[] {
  const rows: CpuidEntry[] = [];
  for (const r of all) {
    if (r.leaf === 0x40000000) rows.push({ ...r, eax: 0x40000005 });
    else if (r.leaf === 0x40000003)
      rows.push({ ...r, eax: r.eax & HYPERV_PRIVILEGES, ebx: 0, ecx: 0, edx: r.edx & (1 << 8) });
    else if (r.leaf === 0x40000004) rows.push({ ...r, eax: HYPERV_RELAXED, ebx: 0xffffffff, ecx: 0, edx: 0 });
    else if (r.leaf > 0x40000000 && r.leaf <= 0x40000005) rows.push(r);
  }
  return rows;
}

/** A vCPU's TSC at one moment, and how far it is ahead of the host's where the kernel says so. */
interface HeldTsc {
  readonly tsc: bigint;
  readonly offset: bigint | null;
}

/** Counters of a VM, by what {@link KvmVm.counters} calls them. */
class Counts {
  exits = 0;
  io = 0;
  mmio = 0;
  msrs = 0;
  halts = 0;
  irqWindows = 0;
  interrupts = 0;
  nmis = 0;
  timeouts = 0;
  signals = 0;
  eois = 0;
  externals = 0;
  /** Of the guest's time stamp counter. */
  tscKhz = 0;
}

/** One virtual machine of KVM. */
class KvmVm implements Vm {
  readonly memory: GuestMemory;
  readonly vcpus: readonly Vcpu[];
  private readonly native: Native;
  private readonly handle: VmHandle;
  readonly interrupts?: EngineInterrupts;
  readonly engineThreads?: VcpuThreads;
  readonly doorbells?: DoorbellHost;
  readonly dirtyLog: DirtyLog;
  private readonly own: KvmVcpu[] = [];
  private readonly counts = new Counts();
  private readonly running: KvmThreads | null = null;
  /** kvmclock while time is held, else -1. */
  private heldClockNs = -1;

  constructor(native: Native, system: SystemHandle, o: VmOptions, extraMsrs: readonly number[]) {
    this.native = native;
    if (!Number.isInteger(o.vcpus) || o.vcpus < 1 || o.vcpus > MOST_VCPUS)
      throw new HyveError('VM_VCPUS', `${o.vcpus} vCPUs: KVM has 1 to ${MOST_VCPUS}`);
    if ('nsPerInstruction' in o.clock)
      throw new HyveError('ENGINE_UNAVAILABLE', 'KVM cannot count instructions: virtual time needs the software CPU');
    const { memory, bytes } = allocate(o, native);
    this.memory = memory;
    try {
      this.handle = native.createVm(system);
    } catch (e) {
      throw new HyveError('ENGINE_UNAVAILABLE', `KVM gives no VM: ${textOf(e)}`, e);
    }
    try {
      this.need(
        native.enableCap(
          this.handle,
          K.CAP_X86_USER_SPACE_MSR,
          K.MSR_EXIT_INVAL | K.MSR_EXIT_UNKNOWN | K.MSR_EXIT_FILTER,
        ),
        'MSR exits',
      );
      const kind = o.interrupts?.kind ?? null;
      if (kind === 'local') this.need(native.enableCap(this.handle, K.CAP_SPLIT_IRQCHIP, 24), 'KVM_CAP_SPLIT_IRQCHIP');
      else if (kind === 'all') this.need(native.createIrqchip(this.handle), 'KVM_CREATE_IRQCHIP');
      const kept = [...K.ENGINE_MSRS, ...(kind === null ? [] : K.APIC_MSRS), ...extraMsrs];
      this.need(native.keepMsrs(this.handle, Uint32Array.from(kept)), 'the MSR filter');
      const vcpu = (i: number): KvmVcpu => this.own[i] as KvmVcpu;
      const interrupts = kind === null ? null : new KvmInterrupts(native, this.handle, kind, o.vcpus, vcpu);
      memory.regions.forEach((r, slot) => {
        const n = native.setMemory(
          this.handle,
          slot + (r.kind === 'rom' ? READ_ONLY_SLOT : 0),
          r.base,
          bytes.subarray(r.offset, r.offset + r.size),
        );
        if (n < 0) throw new HyveError('VM_MEMORY', `KVM does not take ${r.name} at 0x${r.base.toString(16)} (${-n})`);
      });
      for (let i = 0; i < o.vcpus; i++) {
        const handle = native.createVcpu(system, this.handle, o.interrupts?.apicId(i) ?? i);
        this.own.push(
          new KvmVcpu(
            native,
            handle,
            i,
            o,
            this.memory,
            this.counts,
            interrupts,
            extraMsrs.filter((m) => !K.DERIVED_MSRS.includes(m)),
          ),
        );
      }
      this.dirtyLog = new KvmDirtyLog(native, this.handle, memory.regions);
      if (interrupts !== null) {
        this.interrupts = interrupts;
        const bells = new KvmDoorbells(native, this.handle);
        const byId = new Map(this.own.map((v, i) => [o.interrupts?.apicId(i) ?? i, v]));
        this.running = new KvmThreads(native, this.handle, byId, bells);
        this.engineThreads = this.running;
        this.doorbells = bells;
      }
    } catch (e) {
      this.close();
      if (e instanceof HyveError) throw e;
      throw new HyveError('ENGINE_UNAVAILABLE', `KVM gives no VM: ${textOf(e)}`, e);
    }
    this.vcpus = this.own;
  }

  private need(r: number, what: string): void {
    if (r < 0) throw new HyveError('ENGINE_UNAVAILABLE', `KVM does not take ${what} (error ${-r})`);
  }

  holdTime(stopped: boolean): void {
    if (stopped === this.heldClockNs >= 0) return;
    if (stopped) {
      this.heldClockNs = this.clock();
      let boot: HeldTsc | null = null;
      for (const v of this.own) {
        const held: HeldTsc = v.holdTime(boot);
        boot ??= held;
      }
      return;
    }
    // All counters begin again together, with the differences that they had.
    let boot: HeldTsc | null = null;
    for (const v of this.own) {
      const going: HeldTsc = v.letTimeGo(boot);
      boot ??= going;
    }
    this.native.setClock(this.handle, this.heldClockNs);
    this.heldClockNs = -1;
  }

  get clockNs(): number {
    return this.heldClockNs >= 0 ? this.heldClockNs : this.clock();
  }

  set clockNs(ns: number) {
    if (this.heldClockNs >= 0) this.heldClockNs = ns;
  }

  private clock(): number {
    const bytes = new Uint8Array(K.SIZE_CLOCK);
    return this.native.getVm(this.handle, K.VM_PART_CLOCK, bytes) < 0
      ? 0
      : Number(new DataView(bytes.buffer).getBigUint64(0, true));
  }

  counters(): Readonly<Record<string, number>> {
    const t = this.running;
    return t === null ? { ...this.counts } : { ...this.counts, wakeUps: t.wakeUps, doorbells: t.rung };
  }

  close(): void {
    this.running?.close();
    // First all of them: threads end side by side, and nothing may be freed while one runs.
    this.native.closeVm(this.handle);
    for (const v of this.own) v.close();
  }
}

/** KVM_GET_DIRTY_LOG. */
class KvmDirtyLog implements DirtyLog {
  private readonly native: Native;
  private readonly vm: VmHandle;
  private readonly regions: readonly BackedRegion[];

  constructor(native: Native, vm: VmHandle, regions: readonly BackedRegion[]) {
    this.native = native;
    this.vm = vm;
    this.regions = regions;
  }

  enable(on: boolean): void {
    this.regions.forEach((r, slot) => {
      const e = r.kind === 'rom' ? 0 : this.native.logDirty(this.vm, slot, on);
      if (e < 0) throw new HyveError('KVM', `logging the pages of ${r.name} failed with error ${-e}`);
    });
  }

  take(index: number, out: Uint32Array): number {
    const r = this.regions[index];
    const pages = r === undefined ? 0 : r.size / 4096;
    if (r === undefined || out.length * 32 < pages)
      throw new HyveError('KVM', `no log of region ${index} in ${out.length} words`);
    if (r.kind === 'rom') return 0;
    const words = new Uint32Array(2 * Math.ceil(pages / 64));
    const e = this.native.dirtyLog(this.vm, index, new Uint8Array(words.buffer), pages);
    if (e < 0) throw new HyveError('KVM', `reading the log of ${r.name} failed with error ${-e}`);
    out.set(words.subarray(0, Math.ceil(pages / 32)));
    let n = 0;
    for (let w of words) for (; w !== 0; w &= w - 1) n++;
    return n;
  }
}

/** Pages that one entry of the second-level tables can map, if guest and host agree on their start. */
const LARGE_PAGE = 0x200000;

/** Lays the regions out in one shared WebAssembly memory, whose pages are the kernel's too. */
function allocate(
  o: VmOptions,
  native: Native,
): {
  memory: RegionMemory & { readonly regions: readonly BackedRegion[] };
  bytes: Uint8Array;
} {
  if (o.memory.length > MOST_SLOTS)
    throw new HyveError('VM_MEMORY', `${o.memory.length} memory regions: at most ${MOST_SLOTS}`);
  let size = 0;
  let slack = 0;
  for (const r of o.memory) {
    size += r.size;
    // Room to move: nobody touches it.
    if (r.size >= LARGE_PAGE) slack += LARGE_PAGE;
  }
  if (!Number.isSafeInteger(size) || size <= 0) throw new HyveError('VM_MEMORY', `${size} bytes of guest memory`);
  const pages = Math.ceil((size + slack) / WASM_PAGE);
  let buffer: ArrayBufferLike;
  try {
    buffer = sharedMemory(pages);
  } catch (e) {
    throw new HyveError('VM_MEMORY', `the host cannot give ${Math.ceil(size / 2 ** 20)} MiB of memory`, e);
  }
  const misaligned = slack === 0 ? 0 : native.misalignment(new Uint8Array(buffer));
  const regions: BackedRegion[] = [];
  let offset = 0;
  for (const r of o.memory) {
    if (r.size >= LARGE_PAGE) {
      const off = (misaligned + offset - (r.base % LARGE_PAGE)) % LARGE_PAGE;
      offset += off > 0 ? LARGE_PAGE - off : -off;
    }
    regions.push({ ...r, offset });
    offset += r.size;
  }
  try {
    return { memory: new RegionMemory(buffer, regions), bytes: new Uint8Array(buffer) };
  } catch (e) {
    throw new HyveError('VM_MEMORY', textOf(e), e);
  }
}

function sharedMemory(pages: number): ArrayBufferLike {
  // Over 4 GiB takes 64-bit addresses, whose sizes are bigint.
  const descriptor =
    pages <= 65536
      ? { initial: pages, maximum: pages, shared: true }
      : { initial: BigInt(pages), maximum: BigInt(pages), shared: true, address: 'i64' };
  return new WebAssembly.Memory(descriptor as unknown as WebAssembly.MemoryDescriptor).buffer;
}

const ENGINE_MSRS: ReadonlySet<number> = new Set(K.ENGINE_MSRS);

/** One virtual CPU of KVM. */
class KvmVcpu implements Vcpu, ThreadedVcpu, ApicOwner {
  readonly index: number;
  /** @internal */
  readonly handle: VcpuHandle;
  private readonly native: Native;
  /** Null: the board has the local APICs. */
  private readonly interrupts: KvmInterrupts | null;
  private readonly bus: VcpuBus;
  private readonly memory: GuestMemory;
  private readonly counts: Counts;
  private readonly state: StateAccess;
  private readonly signature: number;
  /** struct kvm_run, and the same in wider elements. All empty once closed: stores vanish. */
  private readonly u8: Uint8Array;
  private readonly u16: Uint16Array;
  private readonly u32: Uint32Array;
  private readonly exit: VmExit = { reason: Exit.Budget, detail: '' };
  private readonly msr: MsrValue = { lo: 0, hi: 0 };
  private open = true;
  private isHalted = false;
  private waitsForSipi = false;
  private shutdown = false;
  private kicked = false;
  /** Whether an exit for the open window was asked for. */
  private windowWanted = false;
  /** To be given to the kernel at the next run, or -1. */
  private pendingVector = -1;
  /** Whether the kernel would deliver an interrupt before the next instruction. */
  private ready = false;
  /** Whether it was given one that it may not have delivered. */
  private given = false;
  /** Whether it may hold an NMI that it has not delivered. */
  private nmiLatched = false;
  /** The 8259's vector that was given to the kernel, until the guest has run. */
  private external = K.EXTERNAL_NONE;
  /** Of the last debug exit. */
  private dr6 = 0;
  /** While time is held: the TSC, and the kernel's local APIC as it was then; else null. */
  private heldTsc: bigint | null = null;
  private heldApic: RawLocalApic | null = null;
  /** The kernel's local APIC as it was made. */
  private readonly freshApic: RawLocalApic | null;

  constructor(
    native: Native,
    handle: VcpuHandle,
    index: number,
    o: VmOptions,
    memory: GuestMemory,
    counts: Counts,
    interrupts: KvmInterrupts | null,
    extraMsrs: readonly number[],
  ) {
    this.interrupts = interrupts;
    this.native = native;
    this.handle = handle;
    this.index = index;
    this.bus = o.bus(index);
    this.memory = memory;
    this.counts = counts;
    const page = native.runPage(handle);
    this.u8 = new Uint8Array(page);
    this.u16 = new Uint16Array(page);
    this.u32 = new Uint32Array(page);
    const rows = o.cpuid(index);
    this.signature = rows.find((r) => r.leaf === 1)?.eax ?? 0;
    this.setCpuid(rows);
    this.setFrequency(o.tscHz);
    this.state = new StateAccess(native, handle, xsaveComponents(rows), extraMsrs);
    this.freshApic = interrupts === null ? null : this.state.localApic();
    this.reset();
  }

  private setCpuid(rows: readonly CpuidEntry[]): void {
    if (rows.length > MOST_CPUID) throw new HyveError('VM_VCPUS', `${rows.length} CPUID rows: at most ${MOST_CPUID}`);
    const words = new Uint32Array(2 + rows.length * K.CPUID_WORDS);
    words[0] = rows.length;
    rows.forEach((r, i) => {
      const flags = r.subleaf === undefined ? 0 : K.CPUID_FLAG_INDEX;
      words.set([r.leaf, r.subleaf ?? 0, flags, r.eax, r.ebx, r.ecx, r.edx], 2 + i * K.CPUID_WORDS);
    });
    const r = this.native.set(this.handle, K.PART_CPUID, new Uint8Array(words.buffer));
    if (r < 0) throw new HyveError('VM_VCPUS', `KVM does not take the CPUID table of vCPU ${this.index} (error ${-r})`);
  }

  /** Processors that cannot scale the counter keep their own frequency: the counter `tscKhz` says which it is. */
  private setFrequency(hz: number): void {
    const khz = Uint32Array.of(Math.round(hz / 1000));
    const bytes = new Uint8Array(khz.buffer);
    this.native.set(this.handle, K.PART_TSC_KHZ, bytes);
    if (this.native.get(this.handle, K.PART_TSC_KHZ, bytes) >= 0) this.counts.tscKhz = khz[0] as number;
  }

  get halted(): boolean {
    return this.interrupts === null ? this.isHalted : this.activity() === 'halted';
  }

  get waitingForSipi(): boolean {
    return this.interrupts === null ? this.waitsForSipi : this.activity() === 'wait-for-sipi';
  }

  private activity(): VcpuStateV1['activity'] {
    if (this.interrupts === null) return this.waitsForSipi ? 'wait-for-sipi' : this.isHalted ? 'halted' : 'running';
    switch (this.open ? this.state.mpState() : K.MP_RUNNABLE) {
      case K.MP_UNINITIALIZED:
      case K.MP_INIT_RECEIVED:
        return 'wait-for-sipi';
      case K.MP_HALTED:
        return 'halted';
      default:
        return 'running';
    }
  }

  setDebug(request: DebugRequest | null): void {
    this.mustBeOpen();
    this.state.setGuestDebug(request);
  }

  get debugStatus(): number {
    return this.dr6;
  }

  retired(): number {
    return 0;
  }

  /** The guest's TSC now, as a double. */
  tscNow(): number {
    return this.open ? Number(this.heldTsc ?? this.state.readMsr(K.MSR_TSC) ?? 0n) : 0;
  }

  kick(): void {
    this.kicked = true;
    this.u8[K.RUN_IMMEDIATE_EXIT] = 1;
  }

  canInject(): boolean {
    return this.pendingVector < 0 && !this.waitsForSipi && this.ready;
  }

  inject(vector: number): boolean {
    if (!this.canInject()) return false;
    this.pendingVector = vector & 0xff;
    return true;
  }

  requestIrqWindow(): void {
    this.windowWanted = true;
  }

  injectNmi(): void {
    if (!this.open || this.waitsForSipi) return;
    this.native.nmi(this.handle);
    this.counts.nmis++;
    this.nmiLatched = true;
    if (this.isHalted && this.nmiDue()) this.isHalted = false;
  }

  /** Whether the kernel would deliver an NMI before the next instruction. */
  private nmiDue(): boolean {
    if (!this.nmiLatched) return false;
    const nmi = this.state.nmi();
    this.nmiLatched = nmi !== 'none';
    return nmi === 'due';
  }

  reset(): void {
    this.restart('power-on');
  }

  init(): void {
    this.restart('init');
  }

  private restart(kind: 'power-on' | 'init'): void {
    const fresh = resetState(this.state.get({ activity: 'running' }), kind, this.signature);
    this.setState(this.index === 0 ? fresh : { ...fresh, activity: 'wait-for-sipi' });
    this.windowWanted = false;
  }

  startup(vector: number): void {
    if (!this.waitsForSipi) return;
    const s = this.state.get({ activity: 'running' });
    s.segments[1] = { selector: (vector & 0xff) << 8, base: BigInt((vector & 0xff) << 12), limit: 0xffff, attr: 0x9b };
    this.setState({ ...s, rip: 0n });
  }

  getState(): VcpuStateV1 {
    this.mustBeOpen();
    if (this.given) {
      // Delivered when the vCPU goes on, here or wherever the state goes.
      this.given = false;
      const vector = this.state.takeBackInterrupt();
      if (vector >= 0) this.pendingVector = vector;
    }
    const vector = this.interrupts === null ? this.pendingVector : this.undelivered();
    const s = this.state.get({ activity: this.activity(), ...(vector < 0 ? {} : { injected: vector }) });
    const { heldTsc } = this;
    if (heldTsc === null) return s;
    return { ...s, msrs: s.msrs.map(([i, v]) => [i, i === K.MSR_TSC ? heldTsc : v]) };
  }

  /** An interrupt that the guest has been given and has not begun to handle, with a local APIC of the kernel's; or -1. */
  private undelivered(): number {
    const vector = this.state.injected();
    if (vector >= 0 || this.external === K.EXTERNAL_NONE) return vector;
    // The 8259's waits in a place of its own that cannot be read. It was given when the guest could take it: if the guest still
    // could and the kernel has no room for another, it is there.
    const open = this.u8[K.RUN_IF_FLAG] !== 0 && !this.state.shadow();
    return open && this.u8[K.RUN_READY_FOR_INTERRUPT] === 0 ? this.external : vector;
  }

  /** @internal */
  holdTime(boot: HeldTsc | null): HeldTsc {
    const offset = this.state.tscOffset();
    const between = boot === null || offset === null ? null : boot.offset;
    // Counters are read one after the other: the offsets say what is between them.
    const tsc =
      boot !== null && offset !== null && between !== null
        ? BigInt.asUintN(64, boot.tsc + offset - between)
        : (this.state.readMsr(K.MSR_TSC) ?? 0n);
    this.heldTsc = tsc;
    if (this.interrupts !== null) this.heldApic = this.state.localApic();
    return { tsc, offset };
  }

  /** @internal What was sent to the local APIC meanwhile stays there. */
  letTimeGo(boot: HeldTsc | null): HeldTsc {
    const tsc = this.heldTsc ?? 0n;
    if (!this.open || this.heldTsc === null) return { tsc, offset: null };
    const offset =
      boot === null ? this.state.setTsc(tsc) : this.state.setTsc(tsc, boot.offset, BigInt.asIntN(64, boot.tsc - tsc));
    this.heldTsc = null;
    if (this.heldApic !== null) this.state.setLocalApic(this.timeOf(this.heldApic));
    this.heldApic = null;
    return { tsc, offset };
  }

  /** The local APIC as it is, with the time left on its timer that `held` has. */
  private timeOf(held: RawLocalApic): RawLocalApic {
    const now = this.state.localApic();
    now.page.set(held.page.subarray(K.APIC_TIMER_NOW, K.APIC_TIMER_NOW + 4), K.APIC_TIMER_NOW);
    now.deadline = held.deadline;
    return now;
  }

  /** @internal */
  saveLocalApic(): unknown {
    this.mustBeOpen();
    return saveLocalApic(this.heldApic === null ? this.state.localApic() : this.timeOf(this.heldApic));
  }

  /** @internal */
  loadLocalApic(state: unknown): void {
    this.mustBeOpen();
    const raw = this.state.localApic();
    loadLocalApic(state, this.index, raw);
    this.state.setLocalApic(raw);
    if (this.heldApic !== null) this.heldApic = raw;
  }

  /** @internal */
  resetLocalApic(): void {
    if (this.freshApic === null) return;
    this.state.setLocalApic(this.freshApic);
    if (this.heldApic !== null) this.heldApic = this.freshApic;
  }

  setState(s: VcpuStateV1): void {
    this.mustBeOpen();
    this.state.set(s, this.interrupts === null);
    const tsc = s.msrs.find(([i]) => i === K.MSR_TSC)?.[1];
    if (tsc !== undefined && this.heldTsc !== null) this.heldTsc = tsc;
    else if (tsc !== undefined && tsc !== 0n) this.state.correctTsc(tsc);
    this.waitsForSipi = s.activity === 'wait-for-sipi';
    this.isHalted = s.activity === 'halted';
    if (this.interrupts !== null) {
      const wait = s.activity === 'wait-for-sipi' ? K.MP_UNINITIALIZED : K.MP_RUNNABLE;
      this.state.setMpState(s.activity === 'halted' ? K.MP_HALTED : wait);
    }
    this.shutdown = false;
    this.pendingVector = this.interrupts === null ? (s.injected ?? -1) : -1;
    this.given = false;
    this.nmiLatched = s.nmiPending;
    this.ready = (s.rflags & 0x200n) !== 0n && !s.interruptShadow;
  }

  private mustBeOpen(): void {
    if (!this.open) throw new HyveError('VM_CLOSED', 'the VM is closed');
  }

  /** @internal */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.native.closeVcpu(this.handle);
  }

  private leave(reason: ExitReason, detail = ''): VmExit {
    this.exit.reason = reason;
    this.exit.detail = detail;
    return this.exit;
  }

  run(budgetNs: number): VmExit {
    if (!this.open) return this.leave(Exit.Error, 'the VM is closed');
    if (this.waitsForSipi && this.interrupts === null) return this.leave(Exit.Halt);
    if (this.shutdown) return this.leave(Exit.Shutdown);
    if (this.pendingVector >= 0) this.isHalted = false;
    if (this.isHalted && this.interrupts === null) return this.leave(Exit.Halt);
    if (this.kicked) {
      this.kicked = false;
      return this.leave(Exit.Kicked);
    }
    if (this.windowWanted && this.canInject()) {
      this.windowWanted = false;
      return this.leave(Exit.IrqWindow);
    }
    if (!(budgetNs > 0)) return this.leave(Exit.Budget);
    if (this.pendingVector >= 0) {
      const r = this.native.interrupt(this.handle, this.pendingVector);
      if (r < 0) return this.leave(Exit.Error, `KVM does not take interrupt ${this.pendingVector} (error ${-r})`);
      this.pendingVector = -1;
      this.given = true;
      this.ready = false;
      this.counts.interrupts++;
    }
    this.u8[K.RUN_IMMEDIATE_EXIT] = 0;
    try {
      return this.loop(Math.ceil(Math.min(budgetNs, LONGEST_NS)));
    } finally {
      if (this.open) this.native.disarm(this.handle);
    }
  }

  private loop(budgetNs: number): VmExit {
    const { native, handle, bus, u8, counts } = this;
    const ownApic = this.interrupts === null;
    let arm = budgetNs;
    for (;;) {
      const cr8 = ownApic ? bus.readCr8() & 15 : 0;
      if (ownApic) u8[K.RUN_CR8] = cr8;
      u8[K.RUN_REQUEST_INTERRUPT_WINDOW] = this.windowWanted ? 1 : 0;
      const r = native.run(handle, arm);
      arm = 0;
      this.ready = u8[K.RUN_READY_FOR_INTERRUPT] !== 0 && u8[K.RUN_IF_FLAG] !== 0;
      const after = (u8[K.RUN_CR8] as number) & 15;
      if (ownApic && after !== cr8) bus.writeCr8(after);
      if (r !== 0) {
        if (r === -K.EINTR) {
          if (u8[K.RUN_IMMEDIATE_EXIT] !== 0) {
            if (this.kicked) {
              this.kicked = false;
              return this.leave(Exit.Kicked);
            }
            counts.timeouts++;
            // The kernel waits for interrupts itself where it has the local APIC.
            return this.leave(ownApic || this.activity() === 'running' ? Exit.Budget : Exit.Halt);
          }
          counts.signals++;
          continue;
        }
        if (r === -K.EAGAIN) continue;
        if (r === -K.EBUSY) throw new HyveError('VCPU_BUSY', 'run() was called from inside another run()');
        return this.leave(Exit.Error, `KVM_RUN failed with error ${-r} ${this.where()}`);
      }
      const end = this.dispatch();
      if (end !== null) return end;
      if (!this.open) return this.leave(Exit.Error, 'the VM was closed while it ran');
    }
  }

  /** Answers the exit in the run page: null, or what ends the run. */
  private dispatch(): VmExit | null {
    const { u8, u32, counts } = this;
    counts.exits++;
    switch (u32[K.RUN_EXIT_REASON >> 2]) {
      case K.EXIT_IO:
        counts.io++;
        this.io();
        return null;
      case K.EXIT_MMIO:
        counts.mmio++;
        this.mmio();
        return null;
      case K.EXIT_X86_RDMSR:
        counts.msrs++;
        this.rdmsr();
        return null;
      case K.EXIT_X86_WRMSR:
        counts.msrs++;
        this.wrmsr();
        return null;
      case K.EXIT_IOAPIC_EOI:
        counts.eois++;
        this.interrupts?.eoi(u8[K.EOI_VECTOR] as number);
        return null;
      case K.EXIT_SET_TPR: // the caller has told the bus
      case K.EXIT_INTR:
        return null;
      case K.EXIT_HLT:
        counts.halts++;
        // KVM leaves this to whoever has the local APIC.
        if (this.nmiDue()) return null;
        this.isHalted = true;
        return this.leave(Exit.Halt);
      case K.EXIT_IRQ_WINDOW_OPEN:
        counts.irqWindows++;
        if (!this.windowWanted || !this.ready) return null;
        this.windowWanted = false;
        return this.leave(Exit.IrqWindow);
      case K.EXIT_SHUTDOWN:
        this.shutdown = true;
        return this.leave(Exit.Shutdown);
      case K.EXIT_DEBUG:
        this.dr6 = u32[K.DEBUG_DR6 >> 2] as number;
        return this.leave(Exit.Debug);
      default:
        return this.leave(Exit.Error, this.explain());
    }
  }

  // --- With a thread of its own -------------------------------------------------------------------------------------

  startThread(): void {
    const r = this.native.startThread(this.handle);
    if (r < 0)
      throw new HyveError('ENGINE_UNAVAILABLE', `the host gives no thread for vCPU ${this.index} (error ${-r})`);
  }

  resume(): void {
    if (this.open && !this.shutdown) this.native.resume(this.handle);
  }

  answer(going: boolean): VmExit | null {
    if (!this.open) return null;
    const r = this.native.result(this.handle);
    if (r !== K.TURN_STOPPED) this.external = K.EXTERNAL_NONE;
    try {
      if (r === 0) return this.dispatch();
      // One that stands takes no interrupt of the 8259: it is asked for again.
      if (r === K.TURN_EXTERNAL) {
        if (going) this.giveExternal();
      } else if (r !== K.TURN_STOPPED) return this.leave(Exit.Error, `KVM_RUN failed with error ${-r} ${this.where()}`);
      return null;
    } catch (e) {
      return this.leave(Exit.Error, `vCPU ${this.index}: ${textOf(e)}`);
    }
  }

  settle(): VmExit | null {
    for (let i = 0; i < MOST_FRAGMENTS && this.open; i++) {
      this.u8[K.RUN_IMMEDIATE_EXIT] = 1;
      const r = this.native.run(this.handle, 0);
      if (r !== 0) return null;
      const end = this.dispatch();
      if (end !== null) return end;
    }
    return null;
  }

  private giveExternal(): void {
    const vector = this.interrupts?.takeExternal() ?? K.EXTERNAL_NONE;
    if (vector === K.EXTERNAL_NONE) return;
    this.native.interrupt(this.handle, vector);
    this.external = vector;
    this.counts.externals++;
  }

  // --- Exits that are calls -----------------------------------------------------------------------------------------

  private io(): void {
    const { bus, u8, u16, u32 } = this;
    const out = u8[K.IO_DIRECTION] !== 0;
    const width = u8[K.IO_SIZE] as Width;
    const port = u16[K.IO_PORT >> 1] as number;
    const count = u32[K.IO_COUNT >> 2] as number;
    let at = u32[K.IO_DATA_OFFSET >> 2] as number;
    for (let i = 0; i < count; i++, at += width) {
      if (out) bus.ioWrite(port, width, this.load(at, width));
      else this.store(at, width, bus.ioRead(port, width));
    }
  }

  private mmio(): void {
    const { bus, u8, u32 } = this;
    let addr = (u32[(K.MMIO_ADDR >> 2) + 1] as number) * 0x1_0000_0000 + (u32[K.MMIO_ADDR >> 2] as number);
    let left = u32[K.MMIO_LEN >> 2] as number;
    const write = u8[K.MMIO_IS_WRITE] !== 0;
    let at = K.MMIO_DATA;
    while (left > 0) {
      const width: Width = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      if (write) bus.mmioWrite(addr, width, this.load(at, width));
      else this.store(at, width, bus.mmioRead(addr, width));
      addr += width;
      at += width;
      left -= width;
    }
  }

  private load(at: number, width: Width): number {
    const { u8 } = this;
    const lo = u8[at] as number;
    if (width === 1) return lo;
    const word = lo | ((u8[at + 1] as number) << 8);
    if (width === 2) return word;
    return (word | ((u8[at + 2] as number) << 16) | ((u8[at + 3] as number) << 24)) >>> 0;
  }

  private store(at: number, width: Width, value: number): void {
    const { u8 } = this;
    u8[at] = value;
    if (width === 1) return;
    u8[at + 1] = value >>> 8;
    if (width === 2) return;
    u8[at + 2] = value >>> 16;
    u8[at + 3] = value >>> 24;
  }

  /** An MSR of the engine's own comes here when the access is wrong: that is #GP. */
  private rdmsr(): void {
    const { u8, u32, msr } = this;
    const index = u32[K.MSR_INDEX >> 2] as number;
    const ok = !ENGINE_MSRS.has(index) && this.bus.rdmsr(index, msr);
    u8[K.MSR_ERROR] = ok ? 0 : 1;
    u32[K.MSR_DATA >> 2] = ok ? msr.lo : 0;
    u32[(K.MSR_DATA >> 2) + 1] = ok ? msr.hi : 0;
  }

  private wrmsr(): void {
    const { u8, u32 } = this;
    const index = u32[K.MSR_INDEX >> 2] as number;
    const lo = u32[K.MSR_DATA >> 2] as number;
    const hi = u32[(K.MSR_DATA >> 2) + 1] as number;
    u8[K.MSR_ERROR] = !ENGINE_MSRS.has(index) && this.bus.wrmsr(index, lo, hi) ? 0 : 1;
  }

  // --- Exits that end the run, in words -----------------------------------------------------------------------------

  private explain(): string {
    const { u8, u32 } = this;
    const reason = u32[K.RUN_EXIT_REASON >> 2] as number;
    const word = (at: number): number => u32[at >> 2] as number;
    switch (reason) {
      case K.EXIT_INTERNAL_ERROR: {
        const suberror = word(K.INTERNAL_SUBERROR);
        if (suberror !== K.INTERNAL_EMULATION)
          return `KVM internal error ${suberror} ${this.where()}; data ${this.internalData()}`;
        const said = word(K.INTERNAL_NDATA) >= 4 && (word(K.INTERNAL_FLAGS) & K.INTERNAL_HAS_INSN) !== 0;
        const n = Math.min(15, u8[K.INTERNAL_INSN_SIZE] as number);
        const bytes = said && n > 0 ? hexBytes(u8.subarray(K.INTERNAL_INSN, K.INTERNAL_INSN + n)) : '';
        return `KVM cannot emulate the instruction ${this.where(bytes)}`;
      }
      case K.EXIT_FAIL_ENTRY:
        return `the processor refused to enter the guest, reason 0x${hex64(word(K.FAIL_ENTRY_REASON + 4), word(K.FAIL_ENTRY_REASON))} ${this.where()}`;
      case K.EXIT_EXCEPTION:
        return `exception ${word(K.RUN_EXIT)}, error code 0x${word(K.RUN_EXIT + 4).toString(16)}, left the guest ${this.where()}`;
      case K.EXIT_UNKNOWN:
        return `unknown hardware exit 0x${hex64(word(K.RUN_EXIT + 4), word(K.RUN_EXIT))} ${this.where()}`;
      default:
        return `KVM exit ${reason}, which nobody asked for, ${this.where()}`;
    }
  }

  private internalData(): string {
    const n = Math.min(16, this.u32[K.INTERNAL_NDATA >> 2] as number);
    const at = K.INTERNAL_FLAGS >> 2;
    const words: string[] = [];
    for (let i = 0; i < n; i++) words.push(hex64(this.u32[at + 2 * i + 1] as number, this.u32[at + 2 * i] as number));
    return words.join(' ');
  }

  /** `at RIP … (16-bit code): bytes`. */
  private where(known = ''): string {
    try {
      const { rip, linear, bits } = this.state.position();
      const bytes: number[] = [];
      for (let i = 0n; known === '' && i < 15n; i++) {
        const at = this.state.translate(linear + i);
        const view = at < 0 ? null : this.memory.readView(at, 1);
        if (view === null) break;
        bytes.push(view[0] as number);
      }
      const code = known !== '' ? known : bytes.length > 0 ? hexBytes(bytes) : 'not in memory';
      return `at RIP 0x${rip.toString(16)} (${bits}-bit code, linear 0x${linear.toString(16)}): ${code}`;
    } catch (e) {
      return `at an unknown address (${textOf(e)})`;
    }
  }
}

function xsaveComponents(rows: readonly CpuidEntry[]): XsaveComponent[] {
  const out: XsaveComponent[] = [];
  for (const r of rows)
    if (r.leaf === 0xd && r.subleaf !== undefined && r.subleaf >= 2 && r.eax > 0 && (r.ecx & 1) === 0)
      out.push({ bit: r.subleaf, offset: r.ebx, size: r.eax });
  return out;
}

function hexBytes(bytes: Iterable<number>): string {
  return [...bytes].map((b) => b.toString(16).padStart(2, '0')).join(' ');
}

function hex64(hi: number, lo: number): string {
  return hi === 0 ? lo.toString(16) : hi.toString(16) + lo.toString(16).padStart(8, '0');
}

function textOf(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}
