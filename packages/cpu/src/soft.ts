// The software CPU as a Hypervisor: virtual machines whose vCPUs take turns on the calling thread.
import {
  type AttachOptions,
  type Clock,
  type CpuidEntry,
  type CpuidResult,
  type DebugRequest,
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
  type Vm,
  type VmExit,
  type VmOptions,
  type VmShare,
  type Width,
} from '@hyve/core';
import { Decoder, Insn, Kind, OP } from '@hyve/x86';
import { CpuAccess, GUEST_FAULT, type MemoryPort } from './access.ts';
import { BlockCache, MAX_INSNS } from './blocks.ts';
import { COMMON_KEYS } from './common-keys.ts';
import { FEATURES, SIGNATURE, supportedCpuid } from './features.ts';
import { HostDebug } from './host-debug.ts';
import { INLINE_KEYS } from './inline-keys.ts';
import { type CodeCache, type HostImports, Interpreter } from './interp.ts';
import { JitCache } from './jit-cache.ts';
import { type Layout, layOut, MAX_THREADS, threadLayout } from './layout.ts';
import * as R from './record.ts';
import { allSemantics, emitHelpers } from './sem/index.ts';
import { Peers, READING_ANY } from './smp.ts';
import * as S from './state.ts';
import { F81D_RDTSCP, FD1A_XSAVEC, VENDOR_AMD, VENDOR_HYGON } from './system/bits.ts';
import { DEBUG_FAULT, DELIVERED, EventSource, hasErrorCode } from './system/events.ts';
import { SystemUnit } from './system/system.ts';
import { blockText } from './trace.ts';
import { FORCED, type TranslatorThread } from './translator.ts';

/** Whether an instruction's bytes are MOV to or from a debug register: 0F 21 or 0F 23 behind prefixes. */
function aboutDebugRegisters(bytes: Uint8Array): boolean {
  let i = 0;
  while (i < 13 && PREFIXES.has(bytes[i] as number)) i++;
  if (((bytes[i] as number) & 0xf0) === 0x40) i++;
  return bytes[i] === 0x0f && (bytes[i + 1] === 0x21 || bytes[i + 1] === 0x23);
}

const PREFIXES: ReadonlySet<number> = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);

/** Options of {@link SoftCpu}. */
export interface SoftCpuOptions {
  /** 32 random bits for RDRAND and RDSEED. Default: the platform's `crypto.getRandomValues`. */
  readonly random?: () => number;
  /**
   * Answers VMCALL (VMMCALL if CPUID says AMD) at CPL 0: low halves of RAX and of RBX, RCX, RDX, RSI in, signed 32 bits for
   * RAX out. Default: the instruction is #UD.
   */
  readonly hypercall?: (vcpu: number, nr: number, a0: number, a1: number, a2: number, a3: number) => number;
  /** Runs after which a block is translated; 0 never translates. Default 2000; virtual time never translates. */
  readonly threshold?: number;
  /**
   * Starts a thread that runs `serveTranslator` of `@hyve/cpu/translator`; called when the first block is hot. Default:
   * translation happens on the thread that runs the guest.
   */
  readonly translator?: () => TranslatorThread;
  /** Calls {@link SoftCpuOptions.translator} when the VM is made: it has translations of an earlier run. Default false. */
  readonly translatorAtOnce?: boolean;
  /**
   * How long a hot block that goes on running waits for that thread, milliseconds, before it is translated where it runs: on
   * a host that is busy with other things the thread may get no time. Default 20.
   */
  readonly translatorPatienceMs?: number;
  /** Keeps the generated interpreter between runs: making it takes some 60 ms of a start. Default: it is made each time. */
  readonly code?: CodeCache;
  /** Handler keys to compile into the main loop; default those found hot in Linux boots. */
  readonly inlineKeys?: readonly string[];
  /**
   * Gets the text of every block of instructions when it is decoded: its first line says `vCPU, mode, linear address of the
   * first instruction, host offset`, then comes one line an instruction. A block that runs again is not decoded again.
   */
  readonly trace?: (text: string) => void;
}

/** The engine for machines without hardware virtualization, and for browsers. Needs shared WebAssembly memory. */
export class SoftCpu implements Hypervisor {
  readonly name = 'soft';
  private readonly options: SoftCpuOptions;

  constructor(options: SoftCpuOptions = {}) {
    this.options = options;
  }

  supportedCpuid(): readonly CpuidEntry[] {
    return supportedCpuid();
  }

  createVm(options: VmOptions): SoftVm {
    return new SoftVm(options, this.options);
  }

  /** @throws HyveError `VM_SHARE` for what is not a share of this engine */
  attach(share: VmShare, index: number, o: AttachOptions): SoftVm {
    const plan = share.data as SharedPlan;
    if (share.engine !== 'soft' || !(index > 0 && index < plan.layout.threads))
      throw new HyveError('VM_SHARE', `vCPU ${index} of a shared ${share.engine} VM is not for this engine`);
    const threshold = plan.threshold ?? this.options.threshold;
    return new SoftVm(
      {
        ...o,
        memory: plan.layout.regions,
        vcpus: plan.layout.threads,
        bus: () => o.bus,
        cpuid: () => o.cpuid,
        threads: true,
      },
      { ...this.options, ...(threshold === undefined ? {} : { threshold }) },
      { plan, thread: index },
    );
  }
}

/** What threads that run one VM's vCPUs have in common. */
interface SharedPlan {
  readonly layout: Layout;
  readonly memory: WebAssembly.Memory;
  readonly threshold?: number;
}

function defaultRandom(): () => number {
  const pool = new Uint32Array(64);
  let at = pool.length;
  return () => {
    if (at === pool.length) {
      (globalThis as unknown as { crypto: { getRandomValues(a: Uint32Array): void } }).crypto.getRandomValues(pool);
      at = 0;
    }
    return pool[at++] as number;
  };
}

/** One virtual machine on the software CPU. */
export class SoftVm implements Vm {
  readonly memory: GuestMemory;
  readonly vcpus: readonly SoftVcpu[];
  /** @internal */
  readonly layout: Layout;
  /** @internal */
  readonly interp: Interpreter;
  /** @internal */
  readonly blocks: BlockCache;
  /** @internal */
  readonly wasmMemory: WebAssembly.Memory;
  /** @internal */
  readonly jit: JitCache | null = null;
  /** @internal Null while one thread runs all vCPUs. */
  readonly peers: Peers | null = null;
  private readonly plan: SharedPlan;

  /** @internal `from`: what another thread shared, and which of its threads this is */
  constructor(o: VmOptions, cpu: SoftCpuOptions, from: { plan: SharedPlan; thread: number } | null = null) {
    if (!Number.isInteger(o.vcpus) || o.vcpus < 1 || o.vcpus > 255)
      throw new HyveError('VM_VCPUS', `${o.vcpus} vCPUs: the software CPU has 1 to 255`);
    const threads = o.threads === true ? o.vcpus : 1;
    if (threads > MAX_THREADS)
      throw new HyveError(
        'VM_VCPUS',
        `${threads} vCPUs: the software CPU has at most ${MAX_THREADS} with threads of their own`,
      );
    const thread = from?.thread ?? 0;
    const whole = from?.plan.layout ?? layOut(o.memory, o.vcpus, threads);
    const L = threadLayout(whole, thread);
    this.layout = L;
    try {
      this.wasmMemory =
        from?.plan.memory ?? new WebAssembly.Memory({ initial: L.wasmPages, maximum: L.wasmPages, shared: true });
    } catch (e) {
      throw new HyveError('VM_MEMORY', `the host cannot give ${Math.ceil(L.wasmPages / 16)} MiB of memory`, e);
    }
    this.plan = {
      layout: whole,
      memory: this.wasmMemory,
      ...(cpu.threshold === undefined ? {} : { threshold: cpu.threshold }),
    };
    const buffer = this.wasmMemory.buffer;
    const flags = new Uint8Array(buffer, L.pageFlags, L.pages);
    let page = 0;
    for (const r of L.regions) {
      const n = r.size / 4096;
      if (r.kind === 'rom' && from === null) flags.fill(S.PF_ROM, page, page + n);
      page += n;
    }
    const ram = new RegionMemory(buffer, L.regions, {
      flags,
      written: (a, n) => {
        const host = this.hostOf(a);
        if (host < 0) return;
        this.blocks.invalidate(host, n);
        this.peers?.written(host, n);
      },
    });
    this.memory = ram;
    const vcpus: SoftVcpu[] = [];
    const first = L.vcpu0 + thread * L.vcpuStride;
    const of = (base: number): SoftVcpu => vcpus[(base - first) / L.vcpuStride] as SoftVcpu;
    if (threads > 1)
      this.peers = new Peers(whole, buffer, thread, {
        invalidate: (at, size) => this.blocks.invalidate(at, size),
        protect: (at) => this.interp.exports.protectPage(first, at),
        protectAll: () => this.interp.exports.flushTlb(first, 1),
      });
    const host: HostImports = {
      mmioRead: (base, addr, width) => of(base).bus.mmioRead(addr, width as Width) | 0,
      mmioWrite: (base, addr, width, value) => of(base).bus.mmioWrite(addr, width as Width, cut(value, width)),
      invalidate: (at, size) => {
        this.blocks.invalidate(at, size);
        this.peers?.written(at, size);
      },
      translate:
        cpu.trace === undefined
          ? (base, at) => this.blocks.translate(base, at)
          : (base, at) => {
              const head = this.blocks.translate(base, at);
              if (head !== 0) cpu.trace?.(blockText(new Uint8Array(buffer), L, decoder, base, head));
              return head;
            },
      sys: (base, rec) => of(base).sys(rec),
      tsc: (base) => of(base).tsc(),
      stop: () => this.peers?.stop(),
      go: () => this.peers?.go(),
      again: (base, host, low, high) => this.jit?.again(base, host, low, high),
      leaveAfter: (base, rec) => of(base).leaveAfter(rec),
      hot: (base, head) => {
        this.jit?.hot(base, head);
        // Forced translation does not wait for the end of the slice.
        if (threshold < FORCED) of(base).access.set(S.BUDGET, -1);
      },
    };
    // Translated code counts instructions per region only: time derived from them needs the interpreter.
    const virtual = 'nsPerInstruction' in o.clock;
    const threshold = virtual ? 0 : (cpu.threshold ?? DEFAULT_THRESHOLD);
    const semantics = allSemantics();
    this.interp = new Interpreter(
      L,
      this.wasmMemory,
      semantics,
      host,
      threshold === 0 ? -1 : threshold,
      cpu.inlineKeys ?? INLINE_KEYS,
      emitHelpers,
      COMMON_KEYS,
      cpu.code ?? null,
    );
    const x = this.interp.exports;
    const decoder = new Decoder(new Set(FEATURES));
    this.blocks = new BlockCache({
      layout: L,
      buffer,
      decoder,
      interp: () => this.interp,
      fetch: {
        fetchAt: (base, la) => x.fetchAt(base, la) >>> 0,
        claim: (at) => {
          if (this.peers !== null) {
            this.peers.claim(at);
            return;
          }
          const p = (at - L.ram) >>> 12;
          flags[p] = (flags[p] as number) | S.PF_CODE;
          for (const v of vcpus) x.protectPage(v.base, at);
        },
        release: (at) => {
          if (this.peers !== null) {
            this.peers.release(at);
            return;
          }
          const p = (at - L.ram) >>> 12;
          flags[p] = (flags[p] as number) & ~S.PF_CODE;
        },
        reading: (at) => this.peers?.reading(at),
        fence: () => this.peers?.fence(),
      },
    });
    if (threshold !== 0) {
      this.jit = new JitCache({
        layout: L,
        buffer,
        interp: this.interp,
        blocks: this.blocks,
        decoder,
        semantics,
        threshold,
        memory: this.wasmMemory,
        translator: thread === 0 && threshold >= FORCED ? (cpu.translator ?? null) : null,
        translatorAtOnce: cpu.translatorAtOnce ?? false,
        patienceMs: cpu.translatorPatienceMs ?? 20,
        attention: () => {
          for (const v of vcpus) v.access.set(S.BUDGET, S.ATTENTION);
        },
      });
      this.blocks.regions = this.jit;
    }
    const random = cpu.random ?? defaultRandom();
    const mine = threads > 1 ? 1 : o.vcpus;
    for (let i = 0; i < mine; i++) vcpus.push(new SoftVcpu(this, thread + i, o, random, cpu.hypercall ?? null));
    this.vcpus = vcpus;
    for (const v of vcpus) v.reset();
  }

  /** For {@link SoftCpu.attach} on another thread. */
  share(): VmShare {
    return { engine: 'soft', data: this.plan };
  }

  /** Makes a vCPU return from run(), whatever thread it is on. */
  kick(index: number): void {
    const own = this.vcpus.find((v) => v.index === index);
    if (own !== undefined) own.kick();
    else this.peers?.kick(index);
  }

  /** Address in the linear memory of a guest-physical address, or -1. */
  hostOf(a: number): number {
    for (const r of this.layout.regions) if (a >= r.base && a < r.base + r.size) return a - r.base + r.offset;
    return -1;
  }

  counters(): Readonly<Record<string, number>> {
    const sum = (off: number): number => this.vcpus.reduce((n, v) => n + v.access.get(off), 0);
    return {
      instructions: this.vcpus.reduce((n, v) => n + v.retired(), 0),
      blocksDecoded: this.blocks.decoded,
      instructionsDecoded: this.blocks.decodedInsns,
      blocksInvalidated: this.blocks.invalidated,
      blockFlushes: this.blocks.flushes,
      recordBytes: this.blocks.arenaUsed,
      handlersMade: this.interp.handlersMade,
      tlbFills: sum(S.N_TLB_FILL),
      slowAccesses: sum(S.N_SLOW),
      blockLookups: sum(S.N_LOOKUP),
      regions: this.jit?.compiled ?? 0,
      regionInstructions: this.jit?.instructions ?? 0,
      regionBytes: this.jit?.bytes ?? 0,
      regionMs: Math.round(this.jit?.ms ?? 0),
      regionBackgroundMs: Math.round(this.jit?.backgroundMs ?? 0),
      regionsDropped: this.jit?.dropped ?? 0,
      regionsReused: this.jit?.reused ?? 0,
      regionsRenewed: this.jit?.renewed ?? 0,
      regionModules: this.jit?.modules ?? 0,
      ...(this.peers === null
        ? {}
        : { peerMessages: this.peers.posts, peerHandshakes: this.peers.handshakes, peerStops: this.peers.stops }),
    };
  }

  close(): void {
    this.jit?.close();
  }
}

function cut(value: number, width: number): number {
  return width === 4 ? value >>> 0 : width === 2 ? value & 0xffff : value & 0xff;
}

/** Instructions per chunk in virtual time. */
const LONGEST_CHUNK = 1 << 30;
/**
 * Nanoseconds per chunk between looks at the clock, by what the last ones ran at. A chunk of other code may take fifteen times as
 * long. So when a run is shorter than a usual slice, which says that a timer waits at its end, its chunks are shorter too.
 */
const CHUNK_NS = 200_000;
const SHORT_CHUNK_NS = 50_000;
const USUAL_SLICE_NS = 1_000_000;
const DR6_BS = 1 << 14;
const MSR_APIC_BASE = 0x1b;
/** See {@link SoftCpuOptions.threshold}. */
const DEFAULT_THRESHOLD = 2000;

/** One vCPU of the software CPU. */
export class SoftVcpu implements Vcpu {
  readonly index: number;
  /** @internal */
  readonly base: number;
  /** @internal */
  readonly access: CpuAccess;
  /** @internal */
  readonly bus: VcpuBus;
  /** @internal */
  readonly system: SystemUnit;
  private readonly vm: SoftVm;
  private readonly clock: Clock;
  private readonly tscPerNs: number;
  /** Of a virtual clock; 0 in real time. */
  private readonly nsPerInstruction: number;
  private readonly exit: VmExit = { reason: Exit.Budget, detail: '' };
  private readonly cpuidRows: readonly CpuidEntry[];
  private readonly amd: boolean;
  private readonly stepBytes = new Uint8Array(16);
  private readonly apicBase: MsrValue = { lo: 0, hi: 0 };
  private isHalted = false;
  private waitsForSipi = false;
  private nmiPending = false;
  /** DR6 bits of a debug trap that is due before the next instruction, or after it behind MOV SS. */
  private pendingTrap = 0;
  /** Instructions retired when MOV SS or POP SS last put up its shadow. */
  private stackShadowAt = -1;
  private pendingVector = -1;
  private kicked = false;
  private shutdown = false;
  /** Instructions per nanosecond of the clock, measured. */
  private rate = 0.02;
  /** Instructions per nanosecond that a chunk counts on: near the slowest of late, so that timers are not kept waiting. */
  private pace = 0.02;
  private readonly pcids: Int32Array;
  private nextSpace = 0;
  private noFill = false;

  /** @internal */
  constructor(
    vm: SoftVm,
    index: number,
    o: VmOptions,
    random: () => number,
    answer: SoftCpuOptions['hypercall'] | null,
  ) {
    const L = vm.layout;
    this.vm = vm;
    this.index = index;
    this.base = L.vcpu0 + index * L.vcpuStride;
    this.bus = o.bus(index);
    this.clock = o.clock;
    this.tscPerNs = o.tscHz / 1e9;
    this.nsPerInstruction = (o.clock as Clock & { readonly nsPerInstruction?: number }).nsPerInstruction ?? 0;
    this.cpuidRows = o.cpuid(index);
    const vendor = this.cpuidRows.find((r) => r.leaf === 0)?.ebx;
    this.amd = vendor === VENDOR_AMD || vendor === VENDOR_HYGON;
    this.access = new CpuAccess(vm.wasmMemory.buffer, this.base);
    this.pcids = new Int32Array(vm.wasmMemory.buffer, this.base + S.PCIDS, S.TLB_SPACES).fill(-1);
    // No log tells what the banks hold: the first flush must fill all of them.
    for (let space = 0; space < S.TLB_SPACES; space++)
      this.access.set(S.STATE_SIZE + S.TLB_BANKS + space * S.TLB_LOG_BYTES, S.TLB_LOG_SIZE + 1);
    const x = vm.interp.exports;
    const port: MemoryPort = {
      sysRead: x.sysRead,
      sysWrite: x.sysWrite,
      sysProbe: x.sysProbe,
      sysMask: x.sysMask,
      flushTlb: (base, all) => {
        if (all !== 0) this.pcids.fill(-1);
        this.selectSpace();
        x.flushTlb(base, all);
      },
      flushPage: x.flushPage,
    };
    this.access.port = port;
    this.system = new SystemUnit(this.access, {
      bus: this.bus,
      signature: SIGNATURE,
      physBits: S.PHYS_BITS,
      exitOnPause: o.exitOnPause ?? false,
      cpuid: (leaf, subleaf, out) => this.cpuid(leaf, subleaf, out),
      tscNow: (out) => {
        const t = this.rawTsc();
        out.lo = t >>> 0;
        out.hi = Math.floor(t / 0x1_0000_0000) >>> 0;
      },
      readPhys32: (addr) => vm.memory.read32(addr),
      random32: random,
      modeChanged: () => this.modeChanged(),
      attention: () => {
        const a = this.access;
        if (this.nmiPending || a.get(S.IRQ_WINDOW) !== 0 || a.get(S.EFL) & S.FLAG_TF) a.set(S.BUDGET, S.ATTENTION);
      },
      shadow: (stack) => {
        this.access.set64(S.SHADOW_AT, this.access.get(S.ICOUNT), this.access.getHi(S.ICOUNT));
        if (stack) this.stackShadowAt = this.counted();
      },
      trap: (dr6) => {
        this.pendingTrap |= dr6;
        this.access.set(S.BUDGET, S.ATTENTION);
      },
      hypercall: answer == null ? null : (nr, a0, a1, a2, a3) => answer(index, nr, a0, a1, a2, a3),
      unblockNmi: () => {
        this.nmiBlocked = false;
        if (this.nmiPending) this.access.set(S.BUDGET, S.ATTENTION);
      },
    });
  }

  get halted(): boolean {
    return this.isHalted;
  }

  get waitingForSipi(): boolean {
    return this.waitsForSipi;
  }

  /** Instructions retired; exact while an instruction runs too, which it does not count. */
  retired(): number {
    const rec = this.access.get(S.CUR_REC);
    const ahead = rec === 0 ? 0 : (this.access.u8[rec + R.R_LEFT] as number);
    return this.counted() - ahead;
  }

  /** ICOUNT: the head of a block counts all of it. */
  private counted(): number {
    return this.access.getHi(S.ICOUNT) * 0x1_0000_0000 + this.access.get(S.ICOUNT);
  }

  /** The guest's TSC now, as a double. */
  tscNow(): number {
    const a = this.access;
    return this.rawTsc() + (a.getHi(S.TSC_OFFSET) | 0) * 0x1_0000_0000 + a.get(S.TSC_OFFSET);
  }

  private rawTsc(): number {
    return Math.floor(this.clock.now() * this.tscPerNs);
  }

  /** @internal RDTSC: SCRATCH receives the counter with its offset. */
  tsc(): void {
    const a = this.access;
    const t = this.rawTsc();
    const lo = (t >>> 0) + a.get(S.TSC_OFFSET);
    a.set(S.SCRATCH, lo | 0);
    a.set(S.SCRATCH + 4, (Math.floor(t / 0x1_0000_0000) + a.getHi(S.TSC_OFFSET) + (lo >= 0x1_0000_0000 ? 1 : 0)) | 0);
  }

  private cpuid(leaf: number, subleaf: number, out: CpuidResult): void {
    let best: CpuidEntry | null = null;
    let max = 0;
    let maxExt = 0x80000000;
    for (const r of this.cpuidRows) {
      if (r.leaf === 0) max = r.eax;
      if (r.leaf === 0x80000000) maxExt = r.eax;
      if (r.leaf === leaf && (r.subleaf === undefined || r.subleaf === subleaf)) best = r;
    }
    // Past the highest basic leaf, processors give the data of that leaf; hypervisor leaves are their own range.
    if (
      best === null &&
      leaf > max &&
      (leaf < 0x40000000 || leaf > maxExt || (leaf > 0x4fffffff && leaf < 0x80000000))
    ) {
      for (const r of this.cpuidRows)
        if (r.leaf === max && (r.subleaf === undefined || r.subleaf === subleaf)) best = r;
    }
    out.eax = best?.eax ?? 0;
    out.ebx = best?.ebx ?? 0;
    out.ecx = best?.ecx ?? 0;
    out.edx = best?.edx ?? 0;
    if (leaf === 1) {
      // The local APIC that IA32_APIC_BASE has switched off is not there.
      if (this.bus.rdmsr(MSR_APIC_BASE, this.apicBase) && (this.apicBase.lo & (1 << 11)) === 0)
        out.edx = (out.edx & ~(1 << 9)) >>> 0;
      const osxsave = (this.access.get(S.CR4) & (1 << 18)) !== 0;
      out.ecx = (osxsave ? out.ecx | (1 << 27) : out.ecx & ~(1 << 27)) >>> 0;
    }
    if (leaf === 0xd && subleaf <= 1 && best !== null) out.ebx = (this.access.get(S.XCR0) & 4) !== 0 ? 832 : 576;
  }

  /** Picks the TLB space of the current CR3 (PCID), taking one over if needed. */
  private selectSpace(): void {
    const a = this.access;
    let space = 0;
    let taken = false;
    if (a.get(S.CR4) & (1 << 17)) {
      const pcid = a.get(S.CR3) & 0xfff;
      space = this.pcids.indexOf(pcid);
      if (space < 0) {
        space = this.nextSpace;
        this.nextSpace = (this.nextSpace + 1) % S.TLB_SPACES;
        this.pcids[space] = pcid;
        taken = true;
      }
    }
    const bank0 = this.base + S.STATE_SIZE + space * S.TLB_SPACE;
    const user = a.get(S.CPL) === 3;
    const smap = (a.get(S.CR4) & (1 << 21)) !== 0;
    const set = user ? 1 : smap && (a.get(S.EFL) & S.FLAG_AC) !== 0 ? 2 : 0;
    a.set(S.TLB_DATA, bank0 + set * S.TLB_BANK);
    a.set(S.TLB_CODE, bank0 + (S.TLB_DATA_SETS + (user ? 1 : 0)) * S.TLB_BANK);
    a.set(S.TLB_LOG, this.base + S.STATE_SIZE + S.TLB_BANKS + space * S.TLB_LOG_BYTES);
    a.set(S.TLB_SYS, bank0);
    if (taken) this.vm.interp.exports.flushTlb(this.base, 0);
  }

  /** Derives MODE and the TLB pointers from the registers. */
  private modeChanged(): void {
    const a = this.access;
    const cr0 = a.get(S.CR0);
    const cr4 = a.get(S.CR4);
    const cs = a.attr(S.CS);
    let mode = 0;
    if (a.longMode && cs & S.ATTR_L) mode = 2 | S.MODE_FLAT | S.MODE_CSFULL;
    else {
      if (cs & S.ATTR_DB) mode = 1;
      if (a.attr(S.SS) & S.ATTR_DB) mode |= S.MODE_SS32;
      if (a.limit(S.CS) === 0xffffffff) mode |= S.MODE_CSFULL;
      let flat = a.segBase(S.CS) === 0 && a.limit(S.CS) === 0xffffffff && (cs & 0x9a) === 0x9a;
      for (const s of [S.ES, S.SS, S.DS]) {
        const t = a.attr(s);
        flat &&= a.segBase(s) === 0 && a.limit(s) === 0xffffffff && (t & (0x9e | S.ATTR_UNUSABLE)) === 0x92;
      }
      if (flat) mode |= S.MODE_FLAT;
    }
    if (cr0 & 8) mode |= S.MODE_TS;
    if (cr0 & 4) mode |= S.MODE_EM;
    if (cr4 & (1 << 9)) mode |= S.MODE_SSE;
    if (a.protectedMode && !a.v86) mode |= S.MODE_VEX;
    if (cr4 & (1 << 18) && (a.get(S.XCR0) & 6) === 6) mode |= S.MODE_AVX;
    a.set(S.MODE, mode);
    // Breakpoints on data and alignment checks need every access to take the slow path.
    const dr7 = a.get(S.DR + 56);
    const align = (cr0 & (1 << 18)) !== 0 && (a.get(S.EFL) & S.FLAG_AC) !== 0 && a.get(S.CPL) === 3;
    a.set(S.ALIGN_CHECK, align ? 1 : 0);
    const noFill = align || (dr7 & 0xff) !== 0 || this.debug.watches;
    // From the next instruction on they are taken one at a time.
    if (dr7 & 0xff) a.set(S.BUDGET, S.ATTENTION);
    a.set(S.NOFILL, noFill ? 1 : 0);
    this.selectSpace();
    if (noFill && !this.noFill) this.vm.interp.exports.flushTlb(this.base, 1);
    this.noFill = noFill;
  }

  /** @internal An instruction that TypeScript runs. */
  sys(rec: number): number {
    const a = this.access;
    this.vm.peers?.instruction();
    const n = this.vm.blocks.sysInsn(rec);
    const off = a.u8[rec + R.R_OFF] as number;
    const offHi = a.u8[rec + R.R_OFF + 1] as number;
    a.setAddr(S.RIP, a.getAddr(S.RIP_BASE) + off + offHi * 256);
    a.f64[(this.base + S.EA_F64) >> 3] = a.getAddr(S.EA);
    try {
      const st = this.system.exec(n);
      a.set(S.CUR_REC, 0);
      return st;
    } catch (e) {
      a.set(S.CUR_REC, 0);
      if (e === GUEST_FAULT) return S.ST_FAULT;
      throw e;
    }
  }

  private readonly debug = new HostDebug();
  /** Watchpoints of the host that the last instruction hit; why the last debug exit came. */
  private debugHits = 0;
  private debugWhy = 0;

  /** Record whose handler is {@link R.H_LEAVE} for now, and what it was. */
  private leaveRec = 0;
  private leaveHandler = 0;

  /**
   * @internal The instruction of record `rec` kicked (it wrote a device's register) in the middle of a block: the next one
   * must not run before events have been looked at. The last of a block needs nothing: each head looks at the budget.
   */
  leaveAfter(rec: number): void {
    const a = this.access;
    const left = a.u8[rec + R.R_LEFT] as number;
    if (this.leaveRec !== 0 || left < 2) return;
    let next = rec + R.REC;
    while (a.u8[next + R.R_LEFT] === left) next += R.REC;
    this.leaveRec = next;
    this.leaveHandler = this.vm.blocks.swapHandler(next, R.H_LEAVE);
  }

  private undoLeave(): void {
    const now = this.vm.blocks.swapHandler(this.leaveRec, this.leaveHandler);
    // It is something else if the block has been dropped meanwhile.
    if (now !== R.H_LEAVE) this.vm.blocks.swapHandler(this.leaveRec, now);
    this.leaveRec = 0;
  }

  kick(): void {
    this.kicked = true;
    this.access.set(S.BUDGET, S.ATTENTION);
  }

  private get nmiBlocked(): boolean {
    return this.access.get(S.NMI_BLOCKED) !== 0;
  }
  private set nmiBlocked(on: boolean) {
    this.access.set(S.NMI_BLOCKED, on ? 1 : 0);
  }

  /** Whether the last instruction was a MOV SS or POP SS. */
  private get stackShadowed(): boolean {
    return this.stackShadowAt === this.counted() && this.shadowed;
  }

  private get shadowed(): boolean {
    const a = this.access;
    return a.get(S.SHADOW_AT) === a.get(S.ICOUNT) && a.getHi(S.SHADOW_AT) === a.getHi(S.ICOUNT);
  }

  canInject(): boolean {
    return this.pendingVector < 0 && !this.waitsForSipi && (this.access.get(S.EFL) & S.FLAG_IF) !== 0 && !this.shadowed;
  }

  inject(vector: number): boolean {
    if (!this.canInject()) return false;
    this.pendingVector = vector;
    return true;
  }

  requestIrqWindow(): void {
    this.access.set(S.IRQ_WINDOW, 1);
  }

  injectNmi(): void {
    this.nmiPending = true;
    this.access.set(S.BUDGET, S.ATTENTION);
  }

  reset(): void {
    this.isHalted = false;
    this.pendingTrap = 0;
    this.waitsForSipi = this.index !== 0;
    this.nmiPending = false;
    this.nmiBlocked = false;
    this.pendingVector = -1;
    this.shutdown = false;
    this.access.set(S.IRQ_WINDOW, 0);
    this.access.set64(S.SHADOW_AT, -1, -1);
    this.pcids.fill(-1);
    this.system.reset('power-on');
    const extended = this.cpuidRows.find((r) => r.leaf === 0x80000001)?.edx ?? 0;
    this.access.set(S.HAS_RDTSCP, extended & F81D_RDTSCP);
    const xsave = this.cpuidRows.find((r) => r.leaf === 0xd && r.subleaf === 1)?.eax ?? 0;
    this.access.set(S.HAS_XSAVEC, xsave & FD1A_XSAVEC);
    // Power comes to all processors at once, whenever each one's turn is here: their counters agree.
    if (this.index !== 0) {
      const first = (this.vm.layout.vcpu0 + S.TSC_OFFSET) >> 2;
      this.access.set64(S.TSC_OFFSET, this.access.i32[first] as number, this.access.i32[first + 1] as number);
    }
    this.access.port.flushTlb(this.base, 1);
    this.modeChanged();
  }

  init(): void {
    this.isHalted = false;
    this.pendingTrap = 0;
    this.waitsForSipi = this.index !== 0;
    this.nmiPending = false;
    this.nmiBlocked = false;
    this.pendingVector = -1;
    this.system.reset('init');
    this.access.port.flushTlb(this.base, 1);
    this.modeChanged();
    this.access.set(S.BUDGET, S.ATTENTION);
  }

  startup(vector: number): void {
    if (!this.waitsForSipi) return;
    this.waitsForSipi = false;
    this.system.startup(vector);
    this.modeChanged();
  }

  getState(): VcpuStateV1 {
    return this.system.getState({
      activity: this.waitsForSipi ? 'wait-for-sipi' : this.isHalted ? 'halted' : 'running',
      interruptShadow: this.shadowed,
      nmiBlocked: this.nmiBlocked,
      nmiPending: this.nmiPending,
      ...(this.pendingVector < 0 ? {} : { injected: this.pendingVector }),
    });
  }

  setState(s: VcpuStateV1): void {
    this.system.setState(s);
    this.waitsForSipi = s.activity === 'wait-for-sipi';
    this.isHalted = s.activity === 'halted';
    this.nmiBlocked = s.nmiBlocked;
    this.nmiPending = s.nmiPending;
    this.pendingVector = s.injected ?? -1;
    this.pendingTrap = 0;
    this.shutdown = false;
    const a = this.access;
    if (s.interruptShadow) a.set64(S.SHADOW_AT, a.get(S.ICOUNT), a.getHi(S.ICOUNT));
    else a.set64(S.SHADOW_AT, -1, -1);
    a.set(S.FAULT, 0);
    this.pcids.fill(-1);
    this.access.port.flushTlb(this.base, 1);
    this.modeChanged();
  }

  private leave(reason: ExitReason, detail = ''): VmExit {
    this.exit.reason = reason;
    this.exit.detail = detail;
    return this.exit;
  }

  park(): void {
    this.vm.peers?.park();
  }

  unpark(): void {
    this.vm.peers?.unpark();
  }

  run(budgetNs: number): VmExit {
    const peers = this.vm.peers;
    if (peers === null) return this.runHere(budgetNs, null);
    peers.unpark();
    try {
      return this.runHere(budgetNs, peers);
    } finally {
      peers.park();
    }
  }

  private runHere(budgetNs: number, peers: Peers | null): VmExit {
    const a = this.access;
    const end = this.clock.now() + budgetNs;
    if (this.waitsForSipi) return this.leave(Exit.Halt);
    if (this.shutdown) return this.leave(Exit.Shutdown);
    for (;;) {
      if (peers?.attend()) this.kicked = true;
      // Events, highest priority first.
      if (this.pendingTrap !== 0 && !this.stackShadowed) {
        const dr6 = this.pendingTrap;
        this.pendingTrap = 0;
        if (!this.deliver(S.EXC_DB, EventSource.Exception, dr6)) return this.leave(Exit.Shutdown);
      }
      if (this.nmiPending && !this.nmiBlocked && !this.shadowed) {
        this.nmiPending = false;
        this.nmiBlocked = true;
        this.isHalted = false;
        if (!this.deliver(S.EXC_NMI, EventSource.Nmi, 0)) return this.leave(Exit.Shutdown);
      } else if (this.pendingVector >= 0) {
        const v = this.pendingVector;
        this.pendingVector = -1;
        this.isHalted = false;
        if (!this.deliver(v, EventSource.External, 0)) return this.leave(Exit.Shutdown);
      }
      if (this.isHalted) return this.leave(Exit.Halt);
      if (this.kicked) {
        this.kicked = false;
        return this.leave(Exit.Kicked);
      }
      if (a.get(S.IRQ_WINDOW) !== 0 && this.canInject()) {
        a.set(S.IRQ_WINDOW, 0);
        return this.leave(Exit.IrqWindow);
      }
      const now = this.clock.now();
      if (now >= end) return this.leave(Exit.Budget);
      const before = this.counted();
      let code: number;
      if (this.debug.on) {
        const hit = this.debug.codeHits(this.linearRip());
        if (hit !== 0) return this.leaveDebug(hit);
      }
      if (this.mustStep()) code = this.stepOne();
      else if (this.nsPerInstruction > 0) {
        // Virtual time: the run ends after exactly as many instructions as fit. Blocks run whole, so the last few of them
        // are taken one by one.
        const left = Math.ceil((end - now) / this.nsPerInstruction);
        if (left <= MAX_INSNS) code = this.stepOne();
        else {
          a.set(S.BUDGET, Math.min(left - MAX_INSNS, LONGEST_CHUNK));
          code = this.vm.interp.exports.main(this.base, 0);
        }
      } else {
        const jit = this.vm.jit;
        if (jit !== null) {
          peers?.reading(READING_ANY);
          jit.pump();
          peers?.reading(-1);
        }
        const ns = Math.min(end - now, budgetNs < USUAL_SLICE_NS ? SHORT_CHUNK_NS : CHUNK_NS);
        a.set(S.BUDGET, Math.max(1, Math.min(1e6, Math.ceil(ns * this.pace))));
        code = this.vm.interp.exports.main(this.base, 0);
        const spent = this.clock.now() - now;
        const done = this.counted() - before;
        if (spent > 0) {
          const measured = Math.min(2, Math.max(0.0005, done / spent));
          if (done > 500) this.rate = this.rate * 0.75 + measured * 0.25;
          if (measured > this.pace) this.pace += (measured - this.pace) * 0.25;
          // What leaves early for another reason tells little.
          else if (spent > SHORT_CHUNK_NS / 2) this.pace += (measured - this.pace) * 0.5;
        }
      }
      a.set(S.CUR_REC, 0);
      if (this.leaveRec !== 0) this.undoLeave();
      if (code === S.EX_CAREFUL) code = this.stepOne();
      switch (code) {
        case S.EX_CROSSING:
          this.vm.jit?.sample(this.base, this.rate);
          break;
        case S.EX_BUDGET:
        case S.EX_EVENT:
          break;
        case S.EX_FAULT:
          if (!this.fault()) return this.leave(Exit.Shutdown);
          break;
        case S.EX_HLT:
          this.isHalted = true;
          break;
        case S.EX_PAUSE:
          return this.leave(Exit.Pause);
        case S.EX_SHUTDOWN:
          this.shutdown = true;
          return this.leave(Exit.Shutdown);
        default:
          return this.leave(Exit.Error, `the interpreter left with code ${code} at RIP 0x${this.ripText()}`);
      }
      if (this.debug.on) {
        const why = this.debugHits | (this.debug.step && !this.isHalted ? DR6_BS : 0);
        this.debugHits = 0;
        if (why !== 0) return this.leaveDebug(why);
      }
    }
  }

  private ripText(): string {
    return (
      this.access.getHi(S.RIP).toString(16).padStart(8, '0') + this.access.get(S.RIP).toString(16).padStart(8, '0')
    );
  }

  private deliver(vector: number, source: EventSource, code: number): boolean {
    this.access.set(S.FAULT, 0);
    const hasError = source === EventSource.Exception && hasErrorCode(vector);
    const ok = this.system.deliver(vector, source, hasError, code) === DELIVERED;
    this.access.set(S.FAULT, 0);
    if (!ok) this.shutdown = true;
    return ok;
  }

  /** Delivers the exception in FAULT; false on a triple fault. */
  private fault(): boolean {
    const a = this.access;
    let vector = a.get(S.FAULT) - 1;
    const code = a.get(S.FAULT_CODE);
    a.set(S.FAULT, 0);
    if (vector === S.EXC_FERR) {
      // The instruction waits for an interrupt and is run again after it.
      this.bus.ferr?.();
      this.isHalted = true;
      return true;
    }
    if (vector === S.EXC_PF) a.set64(S.CR2, a.get(S.FAULT_ADDR), a.getHi(S.FAULT_ADDR));
    if (a.get(S.NONCANON) !== 0) {
      a.set(S.NONCANON, 0);
      if (vector === S.EXC_GP && this.refersToStack()) vector = S.EXC_SS;
    }
    return this.deliver(vector, EventSource.Exception, code);
  }

  /** Whether the instruction at RIP addresses memory through SS: its non-canonical addresses give #SS. */
  private refersToStack(): boolean {
    const n = new Insn();
    const len = this.fetchBytes();
    this.access.set(S.FAULT, 0);
    if (len === 0 || this.vm.blocks.decodeAt(n, this.stepBytes, len, 64) !== 0) return false;
    const mem = n.kind0 === Kind.Mem || n.kind1 === Kind.Mem || n.kind2 === Kind.Mem;
    if (!mem || n.seg === S.SS) return true;
    // Instructions with an operand in memory that use the stack besides.
    if (n.op !== OP.PUSH && n.op !== OP.POP && n.op !== OP.CALL) return false;
    const a = this.access;
    const sp = S.GPR + 4 * 8;
    const above = (a.getHi(S.FAULT_ADDR) - a.getHi(sp)) | 0;
    return Math.abs(above * 0x1_0000_0000 + a.get(S.FAULT_ADDR) - a.get(sp)) <= 16;
  }

  /** Whether instructions must be taken one at a time: single-step, breakpoints, or an event behind a shadow. */
  private mustStep(): boolean {
    const a = this.access;
    if (this.debug.on || a.get(S.EFL) & S.FLAG_TF) return true;
    if (a.get(S.DR + 56) & 0xff) return true;
    return this.shadowed && (a.get(S.IRQ_WINDOW) !== 0 || this.nmiPending);
  }

  /** Fills stepBytes with code at RIP; returns how many bytes there are before a fault (0: FAULT is set). */
  private fetchBytes(): number {
    const a = this.access;
    const rip = a.getAddr(S.RIP);
    const is64 = a.code64;
    const csBase = is64 ? 0 : a.get(S.SEG + S.CS * S.SEG_STRIDE);
    const limit = a.limit(S.CS);
    let n = 0;
    while (n < 15) {
      if (!is64 && rip + n > limit) {
        if (n === 0) {
          a.set(S.FAULT, S.EXC_GP + 1);
          a.set(S.FAULT_CODE, 0);
        }
        return n;
      }
      const la = is64 ? rip + n : (csBase + rip + n) % 0x1_0000_0000;
      const host = this.vm.interp.exports.fetchAt(this.base, la) >>> 0;
      if (host === 0) {
        if (a.get(S.FAULT) !== 0) return n;
        const phys = a.get(S.PHYS) + a.getHi(S.PHYS) * 0x1_0000_0000;
        this.stepBytes[n++] = this.bus.mmioRead(phys, 1);
        continue;
      }
      const run = Math.min(15 - n, 4096 - (host % 4096), is64 ? 15 : limit - rip - n + 1);
      this.stepBytes.set(a.u8.subarray(host, host + run), n);
      n += run;
    }
    return n;
  }

  /** Runs one instruction with all debug events. Returns an EX_ code. */
  private stepOne(): number {
    const a = this.access;
    const tf = (a.get(S.EFL) & S.FLAG_TF) !== 0;
    const rf = (a.get(S.EFL) & S.FLAG_RF) !== 0;
    const dr7 = a.get(S.DR + 56);
    // Intel's processors look for no breakpoint behind MOV SS, AMD's do.
    if (dr7 & 0xff && !rf && (this.amd || !this.stackShadowed)) {
      const hit = this.codeBreakpoints(dr7);
      if (hit !== 0) {
        return this.deliver(S.EXC_DB, EventSource.Exception, hit | DEBUG_FAULT) ? S.EX_EVENT : S.EX_SHUTDOWN;
      }
    }
    const n = this.fetchBytes();
    const fetchFault = a.get(S.FAULT);
    let head = 0;
    if (n > 0) {
      a.set(S.FAULT, 0);
      head = this.vm.blocks.step(this.base, this.stepBytes, n);
      // The decoder wants bytes that could not be fetched: that fault is the one to raise.
      if (head === 0 && n < 15 && this.vm.blocks.wantedMore) {
        a.set(S.FAULT, fetchFault === 0 ? S.EXC_GP + 1 : fetchFault);
        if (fetchFault === 0) a.set(S.FAULT_CODE, 0);
      }
    }
    if (head === 0) return S.EX_FAULT;
    a.set(S.DATA_BREAK, 0);
    a.set(S.BUDGET, 1);
    // The host's watchpoints take the place of the guest's, unless the instruction is about these.
    const swap = this.debug.watches && !aboutDebugRegisters(this.stepBytes);
    if (swap) this.debug.swap(a);
    const code = this.vm.interp.exports.main(this.base, head);
    if (swap) {
      this.debug.swap(a);
      this.debugHits = a.get(S.DATA_BREAK) & 15;
      a.set(S.DATA_BREAK, 0);
    }
    if (code === S.EX_FAULT) return code;
    if (rf) a.set(S.EFL, a.get(S.EFL) & ~S.FLAG_RF);
    const op = this.vm.blocks.lastOp;
    // INT1 is a debug exception itself, which what MOV SS held back becomes part of.
    let dr6 = a.get(S.DATA_BREAK) | (op === OP.INT1 ? 0 : this.pendingTrap);
    this.pendingTrap = 0;
    if (this.stackShadowed) {
      this.pendingTrap = dr6;
      return code;
    }
    // A delivery that the instruction itself asked for has cleared TF: its handler is not stepped into. SYSCALL and SYSRET
    // trap by the TF that they leave.
    const soft = op === OP.INT || op === OP.INT3 || op === OP.INTO || op === OP.INT1 || op === OP.SYSCALL;
    const delivered = soft && (a.get(S.EFL) & S.FLAG_TF) === 0;
    if (tf && !delivered) dr6 |= DR6_BS;
    if (dr6 !== 0 && code !== S.EX_SHUTDOWN) {
      return this.deliver(S.EXC_DB, EventSource.Exception, dr6) ? S.EX_EVENT : S.EX_SHUTDOWN;
    }
    return code;
  }

  /** Linear address of the next instruction, as far as a double holds it. */
  private linearRip(): number {
    const a = this.access;
    const rip = a.getAddr(S.RIP);
    return a.code64 ? rip : (rip + a.get(S.SEG + S.CS * S.SEG_STRIDE)) % 0x1_0000_0000;
  }

  setDebug(request: DebugRequest | null): void {
    this.debug.set(request);
    this.debugHits = 0;
    this.modeChanged();
    this.access.set(S.BUDGET, S.ATTENTION);
  }

  get debugStatus(): number {
    return this.debugWhy;
  }

  private leaveDebug(why: number): VmExit {
    this.debugWhy = why;
    return this.leave(Exit.Debug);
  }

  private codeBreakpoints(dr7: number): number {
    const a = this.access;
    const la = this.linearRip();
    let hit = 0;
    for (let i = 0; i < 4; i++) {
      const enabled = (dr7 >> (2 * i)) & 3;
      const kind = (dr7 >> (16 + 4 * i)) & 3;
      if (enabled !== 0 && kind === 0 && a.getAddr(S.DR + 8 * i) === la) hit |= 1 << i;
    }
    return hit;
  }
}
