// The engine interface that KVM, Hypervisor.framework and the software CPU implement (bhyve: vmm.h, libvmmapi).
// Exits that need an answer (ports, MMIO, MSRs) are calls from inside run() into the VM's buses, so that nothing is
// allocated and no instruction has to be restarted; run() returns only when the vCPU stops. See docs/decisions/0001.
import type { DoorbellHost } from './bus.ts';
import type { Clock } from './clock.ts';
import type { MsiSink } from './irq.ts';
import type { GuestMemory, RegionSpec } from './memory.ts';
import type { PhysAddr, Width } from './types.ts';

/** One CPUID leaf's answer; registers are unsigned 32-bit. */
export interface CpuidResult {
  /** EAX coming out. */
  eax: number;
  /** EBX coming out. */
  ebx: number;
  /** ECX coming out. */
  ecx: number;
  /** EDX coming out. */
  edx: number;
}

/** A CPUID table row. A row without `subleaf` answers every value of ECX. */
export interface CpuidEntry extends Readonly<CpuidResult> {
  /** EAX going in. */
  readonly leaf: number;
  /** ECX going in, where the leaf has sub-leaves. */
  readonly subleaf?: number;
}

/** A 64-bit MSR value as two unsigned halves, reused between calls. */
export interface MsrValue {
  /** Bits 0–31. */
  lo: number;
  /** Bits 32–63. */
  hi: number;
}

/**
 * What one vCPU reaches outside itself. Called synchronously while it runs; must not throw for anything a guest does.
 * Eight-byte MMIO arrives as two four-byte accesses, low half first.
 */
export interface VcpuBus {
  /** IN. */
  ioRead(port: number, width: Width): number;
  /** OUT. */
  ioWrite(port: number, width: Width, value: number): void;
  /** Load from an address that is not RAM or ROM. */
  mmioRead(addr: PhysAddr, width: Width): number;
  /** Store to an address that is not RAM (stores to ROM come here too). */
  mmioWrite(addr: PhysAddr, width: Width, value: number): void;
  /** RDMSR of an MSR that is not the engine's own ({@link Vcpu} lists those). False means #GP(0). */
  rdmsr(index: number, out: MsrValue): boolean;
  /** WRMSR likewise. */
  wrmsr(index: number, lo: number, hi: number): boolean;
  /** CR8 (TPR bits 7:4), 0–15. */
  readCr8(): number;
  /** MOV to CR8. */
  writeCr8(value: number): void;
  /**
   * FERR#: an x87 instruction found an unmasked error while CR0.NE is clear. On a PC this is IRQ 13. The vCPU waits for an
   * interrupt, as in HLT; the handler's write to port 0xF0 lets it go on (IGNNE#). SDM vol. 1 §8.7.2. Absent: nothing is
   * connected to the line.
   */
  ferr?(): void;
}

/** Why {@link Vcpu.run} came back. */
export const Exit = {
  /** The time budget is used up. */
  Budget: 0,
  /** {@link Vcpu.kick} was called, or a bus call asked for attention. */
  Kicked: 1,
  /** HLT with nothing to deliver; the vCPU stays halted until an interrupt is injected. */
  Halt: 2,
  /** The window asked for by {@link Vcpu.requestIrqWindow} is open. */
  IrqWindow: 3,
  /** Triple fault. */
  Shutdown: 4,
  /** A debug event that the host asked for (breakpoint, single step). */
  Debug: 5,
  /** PAUSE, where the host asked to see it (`-P`). */
  Pause: 6,
  /** The engine cannot go on; `detail` says why. */
  Error: 7,
} as const;

/** One of {@link Exit}'s values. */
export type ExitReason = (typeof Exit)[keyof typeof Exit];

/** The record {@link Vcpu.run} returns: the vCPU's own, valid until its next run. */
export interface VmExit {
  /** Why. */
  reason: ExitReason;
  /** For `Error`: what happened, with address and instruction bytes. Empty otherwise. */
  detail: string;
}

/** One segment register. */
export interface SegmentState {
  /** Visible selector. */
  selector: number;
  /** Base, linear. */
  base: bigint;
  /** Limit in bytes, granularity already applied: 0–0xFFFFFFFF. */
  limit: number;
  /** Access rights: descriptor bits 40–47 in bits 0–7 and 52–55 in bits 12–15 (the VMX layout); bit 16: unusable. */
  attr: number;
}

/** GDTR or IDTR. */
export interface TableRegister {
  /** Linear base. */
  base: bigint;
  /** Limit, 0–0xFFFF. */
  limit: number;
}

/** A vCPU's whole architectural state, the same for every engine. Plain data: for set-up, saving and debuggers only. */
export interface VcpuStateV1 {
  /** Format version; 2 since {@link VcpuStateV1.injected}, 3 since {@link VcpuStateV1.x87Selectors}. Engines read all of them. */
  v: 1 | 2 | 3;
  /** RAX RCX RDX RBX RSP RBP RSI RDI R8–R15. */
  gpr: bigint[];
  /** Instruction pointer. */
  rip: bigint;
  /** Flags. */
  rflags: bigint;
  /** Control registers. */
  cr0: bigint;
  /** Page-fault linear address. */
  cr2: bigint;
  /** Page-table base with PCID. */
  cr3: bigint;
  /** Feature enables. */
  cr4: bigint;
  /** Extended features. */
  efer: bigint;
  /** XCR0. */
  xcr0: bigint;
  /** DR0–DR3, DR6, DR7. */
  dr: bigint[];
  /** ES CS SS DS FS GS LDTR TR. */
  segments: SegmentState[];
  /** GDTR. */
  gdtr: TableRegister;
  /** IDTR. */
  idtr: TableRegister;
  /** XSAVE area, standard format: 512-byte legacy region, 64-byte header, then components in XCR0 order. */
  xsave: Uint8Array;
  /** Engine-held MSRs: index, value. */
  msrs: [number, bigint][];
  /** `running`, `halted` (HLT), or `wait-for-sipi` (an application processor after INIT). */
  activity: 'running' | 'halted' | 'wait-for-sipi';
  /** Interrupts blocked for one instruction by STI or MOV SS. */
  interruptShadow: boolean;
  /** NMIs blocked until IRET. */
  nmiBlocked: boolean;
  /** NMI waiting. */
  nmiPending: boolean;
  /** Vector of a maskable interrupt that the vCPU was given and has not delivered yet, 0–255; absent: none. */
  injected?: number;
  /**
   * Selectors of the last x87 instruction and of its operand (FCS, FDS), 16 bit each, for which `xsave` has no room beside
   * 64-bit addresses; absent: zeros, or an engine that does not know them.
   */
  x87Selectors?: readonly [code: number, data: number];
}

/** One hardware breakpoint of the host's debugger. */
export interface DebugBreakpoint {
  /** Linear address; aligned to `size`. */
  readonly address: bigint;
  /** What stops the vCPU: before the instruction there, after a store, after a load or store. */
  readonly on: 'execute' | 'write' | 'access';
  /** Bytes watched; 1 for `execute`. */
  readonly size: 1 | 2 | 4 | 8;
}

/** What the host's debugger asks of a vCPU; see {@link Vcpu.setDebug}. */
export interface DebugRequest {
  /** Leave after every instruction. */
  readonly step: boolean;
  /** At most four. */
  readonly breakpoints: readonly DebugBreakpoint[];
}

/**
 * One virtual CPU. The engine itself holds these MSRs: EFER STAR LSTAR CSTAR FMASK FS_BASE GS_BASE KERNEL_GS_BASE
 * SYSENTER_CS/ESP/EIP PAT TSC TSC_ADJUST TSC_AUX; all others go to {@link VcpuBus.rdmsr}.
 */
export interface Vcpu {
  /** 0 is the boot processor. */
  readonly index: number;
  /** Runs for about `budgetNs` of guest time; synchronous. */
  run(budgetNs: number): VmExit;
  /** Makes a running or later {@link Vcpu.run} return soon. Callable from bus calls. */
  kick(): void;
  /** Whether {@link Vcpu.inject} would be taken now: IF set, no shadow, nothing injected before. */
  canInject(): boolean;
  /** Delivers a maskable interrupt before the next instruction; wakes from HLT. False, and no effect, unless it can. */
  inject(vector: number): boolean;
  /** Asks for an {@link Exit.IrqWindow} exit as soon as {@link Vcpu.canInject} is true. */
  requestIrqWindow(): void;
  /** Latches an NMI. */
  injectNmi(): void;
  /** INIT: the state after INIT#, waiting for SIPI (the boot processor starts at the reset vector instead). */
  init(): void;
  /** SIPI: starts at `vector << 12` in real mode if the vCPU waits for it, else nothing. */
  startup(vector: number): void;
  /** Power-on reset. */
  reset(): void;
  /**
   * With {@link VmOptions.threads}, within a bus call: the thread is about to block until another answers. The others may
   * wait for this vCPU to come to a safe point, which it now is at, until {@link Vcpu.unpark}.
   */
  park?(): void;
  /** Ends {@link Vcpu.park}; may wait. */
  unpark?(): void;
  /**
   * Sets what the host's debugger wants: such events come back as {@link Exit.Debug} and the guest sees nothing of them.
   * While there is a request the guest's own debug registers may be out of force. Null: nothing. Absent where the engine
   * cannot. @throws HyveError `VCPU_DEBUG` for what the processor's debug registers cannot express
   */
  setDebug?(request: DebugRequest | null): void;
  /** Why the last {@link Exit.Debug} came, as DR6 has it: bits 0–3 by breakpoint, bit 14 for a step. */
  readonly debugStatus?: number;
  /** Whether it waits in HLT. */
  readonly halted: boolean;
  /** Whether it waits for a SIPI. */
  readonly waitingForSipi: boolean;
  /** Instructions retired since reset; 0 where the engine cannot tell. */
  retired(): number;
  /** Reads the whole state. */
  getState(): VcpuStateV1;
  /** Writes the whole state. @throws HyveError `VCPU_STATE` for what the processor cannot be in */
  setState(s: VcpuStateV1): void;
}

/** Interrupt controllers that an engine can run itself: the local APICs, or also the I/O APIC, the 8259 pair and the PIT. */
export type EngineInterruptKind = 'local' | 'all';

/** What an engine has beside local APICs with `all`. */
export type EngineChip = 'pic' | 'ioapic' | 'pit';

/** Asks for interrupt controllers of the engine's own. */
export interface EngineInterruptOptions {
  /** Which. */
  readonly kind: EngineInterruptKind;
  /** APIC id of each vCPU, 0–254, as its CPUID table says. */
  readonly apicId: (vcpu: number) => number;
}

/**
 * Interrupt controllers that the engine runs beside its vCPUs. The vCPU's bus then sees neither the APIC page, nor CR8, nor
 * the APIC's MSRs; interrupts are delivered by the engine, and `Vcpu.inject`, `init` and `startup` are not called.
 */
export interface EngineInterrupts extends MsiSink {
  /** What was asked for. */
  readonly kind: EngineInterruptKind;
  /**
   * A message of the I/O APIC: destination, logical or physical, `wide` (32-bit) destination, delivery mode 0–7, vector,
   * trigger mode. Gives whether anybody took it.
   */
  deliver(dest: number, logical: boolean, wide: boolean, mode: number, vector: number, level: boolean): boolean;
  /** The I/O APIC's redirection entry of a pin is now this; the engine has to know whose EOI to report. */
  route(pin: number, lo: number, hi: number): void;
  /** Is told of each EOI of a level-triggered vector that {@link EngineInterrupts.route} has named. */
  addEoiListener(listener: { eoi(vector: number): void }): void;
  /** The INTR output of the board's 8259 pair, and how its vector is fetched (`kind` `local`). */
  setExtInt(asserted: boolean, acknowledge: () => number): void;
  /**
   * Drives an input of the engine's own controllers (`kind` `all`): of the 8259 pair, 0–15 but 2, or of the I/O APIC, 0–23.
   * The engine's PIT is on input 0 of the one and 2 of the other, which are one line.
   */
  setPin(chip: 'pic' | 'ioapic', pin: number, asserted: boolean): void;
  /** Takes the PIT's interrupt off its line, or puts it back (`kind` `all`), as the HPET's legacy routing does. */
  setPitIrq(on: boolean): void;
  /** All of them as after power-on; the inputs keep their levels. While the vCPUs stand. */
  reset(): void;
  /** A vCPU's local APIC, in the form that @hyve/vmm's has for saving, so that machines move between engines. */
  saveLocalApic(vcpu: number): unknown;
  /** Restores one. @throws HyveError `STATE_FORMAT`, `STATE_VERSION` */
  loadLocalApic(vcpu: number, state: unknown): void;
  /** Another controller, or the PIT (`kind` `all`), in the form that @hyve/vmm's chip of that name has. */
  saveChip(chip: EngineChip): unknown;
  /**
   * Restores one. `lines` has the levels of its inputs, a bit each: they are restored with it and make no edge.
   * @throws HyveError `STATE_FORMAT`, `STATE_VERSION`
   */
  loadChip(chip: EngineChip, state: unknown, lines: number): void;
}

/**
 * vCPUs on threads of the engine's own. Calls of their buses still come on the thread that made the VM, from its event
 * loop; meanwhile that vCPU waits and the others run.
 */
export interface VcpuThreads {
  /** Sets all going. `onExit` gets what ends a vCPU's run (shutdown, debug, error); that vCPU stays stopped. */
  start(onExit: (vcpu: number, exit: VmExit) => void): void;
  /** Stops all; their states can be read and written then. False: one did not come back in time and may still run. */
  pause(): boolean;
  /** Goes on, those whose run had ended too. */
  resume(): void;
}

/** What was written to guest memory since somebody last looked, a bit per 4 KiB page. */
export interface DirtyLog {
  /** Begins to log, or ends. */
  enable(on: boolean): void;
  /** Takes the bits of region `index` of {@link VmOptions.memory} into `out` (lowest page in bit 0); gives how many are set. */
  take(index: number, out: Uint32Array): number;
}

/** What {@link Hypervisor.createVm} needs. */
export interface VmOptions {
  /** Guest memory; see {@link RegionSpec}. */
  readonly memory: readonly RegionSpec[];
  /** How many vCPUs, at least 1. */
  readonly vcpus: number;
  /** The bus of each vCPU; called once per vCPU at creation. */
  readonly bus: (vcpu: number) => VcpuBus;
  /** CPUID table of each vCPU. The engine fills in what depends on its state (OSXSAVE, XSAVE sizes). */
  readonly cpuid: (vcpu: number) => readonly CpuidEntry[];
  /** Source of the TSC. */
  readonly clock: Clock;
  /** TSC frequency in Hz. */
  readonly tscHz: number;
  /** Return {@link Exit.Pause} for PAUSE. */
  readonly exitOnPause?: boolean;
  /** vCPUs from 1 on run on threads of their own, see {@link Hypervisor.attach}: the VM's `vcpus` is vCPU 0 alone. */
  readonly threads?: boolean;
  /** Interrupt controllers of the engine's own; absent: the board brings them all. */
  readonly interrupts?: EngineInterruptOptions;
}

/** A VM for {@link Hypervisor.attach} on another thread of the process: data that can be posted (structured clone). */
export interface VmShare {
  /** The engine's name. */
  readonly engine: string;
  /** The engine's own. */
  readonly data: unknown;
}

/** What {@link Hypervisor.attach} needs; as in {@link VmOptions}. */
export interface AttachOptions {
  /** The vCPU's bus. */
  readonly bus: VcpuBus;
  /** The vCPU's CPUID table. */
  readonly cpuid: readonly CpuidEntry[];
  /** Source of the TSC, on the same scale as the VM's. */
  readonly clock: Clock;
  /** TSC frequency in Hz. */
  readonly tscHz: number;
  /** Return {@link Exit.Pause} for PAUSE. */
  readonly exitOnPause?: boolean;
}

/** A virtual machine of one engine. */
export interface Vm {
  /** Guest memory. */
  readonly memory: GuestMemory;
  /** The vCPUs of this thread, by index. Only the boot processor runs after creation; others wait for SIPI. */
  readonly vcpus: readonly Vcpu[];
  /** With {@link VmOptions.threads}: what other threads attach to. */
  share?(): VmShare;
  /** With {@link VmOptions.threads}: {@link Vcpu.kick} for a vCPU on whatever thread. */
  kick?(index: number): void;
  /** The engine's interrupt controllers, where {@link VmOptions.interrupts} asked for them. */
  readonly interrupts?: EngineInterrupts;
  /** Runs the vCPUs beside this thread; then {@link Vcpu.run} is not called. Where there are {@link Vm.interrupts}. */
  readonly engineThreads?: VcpuThreads;
  /** Stores that need no exit. Comes with {@link Vm.engineThreads}. */
  readonly doorbells?: DoorbellHost;
  /** Log of written pages, where the engine keeps one. Stores of devices are not in it. */
  readonly dirtyLog?: DirtyLog;
  /**
   * Stops the clocks that the engine's processor keeps itself (TSC, timers of the engine's local APICs, kvmclock), or lets
   * them go on from there. While the vCPUs stand; absent where the engine has none.
   */
  holdTime?(stopped: boolean): void;
  /** What the engine's para-virtual clock shows, ns, as part of a machine's state; to be set while time is held. */
  clockNs?: number;
  /** Engine counters by name. */
  counters(): Readonly<Record<string, number>>;
  /** Frees everything. The VM is unusable afterwards. */
  close(): void;
}

/** An engine. */
export interface Hypervisor {
  /** `soft`, `kvm`, `hvf`. */
  readonly name: string;
  /** What the engine's processor can do at most, as CPUID rows; policy (@hyve/vmm) takes away from it. */
  supportedCpuid(): readonly CpuidEntry[];
  /** The interrupt controllers that it can run itself; absent: none. */
  readonly interruptKinds?: readonly EngineInterruptKind[];
  /** The frequency that guests' TSC has whatever {@link VmOptions.tscHz} says, Hz; absent or null: any. */
  readonly fixedTscHz?: number | null;
  /** @throws HyveError `VM_MEMORY`, `VM_VCPUS`, `ENGINE_UNAVAILABLE` */
  createVm(options: VmOptions): Vm;
  /**
   * On another thread: the VM that {@link Vm.share} described, with vCPU `index` (1 or more) alone. Absent: this engine
   * runs all vCPUs on one thread. @throws HyveError `VM_SHARE`
   */
  attach?(share: VmShare, index: number, options: AttachOptions): Vm;
}
