// A machine for one conformance case: an engine's VM with a little RAM, a recording bus, and the tables and states that
// programs in real, protected and long mode start with.
import {
  allOnes,
  type EngineInterruptKind,
  type EngineInterrupts,
  Exit,
  type ExitReason,
  type GuestMemory,
  type Hypervisor,
  type MsrValue,
  type RegionSpec,
  type SegmentState,
  TimerQueue,
  type Vcpu,
  type VcpuBus,
  type VcpuStateV1,
  type Vm,
  type Width,
} from '@hyve/core';
import { Code } from './code.ts';

/** Where things lie in guest memory. All of it is RAM of {@link RAM_SIZE} bytes from 0. */
export const RAM_SIZE = 0x100000;
/** GDT, eight entries; see the selectors. */
export const GDT = 0x1000;
/** IDT, 256 entries of 8 or 16 bytes. */
export const IDT = 0x2000;
/** What the exception handlers record; see {@link Bench.exception}. */
export const RECORD = 0x3000;
/** TSS, 104 bytes. */
export const TSS = 0x4000;
/** Exception handlers. */
export const STUBS = 0x5000;
/** Free for programs' results. */
export const DATA = 0x6000;
/** Stack for user code; grows down from here. */
export const USER_STACK = 0x8000;
/** Programs start here. */
export const CODE = 0x8000;
/** More room for code: user programs, code of other modes. */
export const CODE2 = 0xa000;
/** Stack; grows down from here. */
export const STACK = 0x9f000;
/** Page tables. */
export const PML4 = 0x10000;
const PDPT = 0x11000;
const PD = 0x12000;
/** 512 entries of 8 bytes that map {@link PAGED} page by page, in long mode. */
export const PT = 0x16000;
/** Page directory of 32-bit paging. */
export const PD32 = 0x17000;
/** 1024 entries of 4 bytes that map {@link PAGED32} page by page. */
export const PT32 = 0x18000;
/** Virtual address mapped page by page in long mode, to physical {@link FRAMES}. */
export const PAGED = 0x200000;
/** Virtual address mapped page by page with 32-bit paging, to physical {@link FRAMES}. */
export const PAGED32 = 0x400000;
/** Physical pages behind the paged ranges. */
export const FRAMES = 0x20000;
/** An address without memory, below 4 GiB, where the bus answers. */
export const MMIO = 0xd0000000;

/** RAM over 4 GiB, where a case asks for it. */
export const HIGH: number = 2 ** 32;

/** Selectors of the GDT. */
export const CS32 = 0x08;
/** Data, base 0, limit 4 GiB. */
export const DS = 0x10;
/** 64-bit code. */
export const CS64 = 0x18;
/** User data (RPL 3). */
export const UDS: number = 0x20 | 3;
/** User code, 32-bit in protected mode and 64-bit in long mode (RPL 3). */
export const UCS: number = 0x28 | 3;
/** TSS, two entries in long mode. */
export const TR = 0x30;
/** A data segment that is not present. Protected mode only: the place is the TSS's upper half in long mode. */
export const ABSENT = 0x38;

/** What an exception handler of the bench saw. Numbers are the low 53 bits of what was pushed. */
export interface Caught {
  readonly vector: number;
  readonly error: number;
  readonly ip: number;
  readonly cs: number;
  readonly flags: number;
  readonly cr2: number;
  readonly sp: number;
}

/** Long, for machines that are busy with other things. */
const LIMIT_MS = 10_000;

/** Vectors that push an error code (SDM vol. 3 table 6-1). */
const WITH_ERROR: ReadonlySet<number> = new Set([8, 10, 11, 12, 13, 14, 17, 21, 29, 30]);

/** Throws unless two values are the same. */
export function same(actual: unknown, expected: unknown, what: string): void {
  const [got, want] = [show(actual), show(expected)];
  if (got === want) return;
  // Of long values, what surrounds the first difference.
  let at = 0;
  while (got[at] === want[at]) at++;
  const cut = (text: string): string => (text.length <= 400 ? text : `…${text.slice(Math.max(0, at - 60), at + 200)}…`);
  throw new Error(`${what}: ${cut(got)}, expected ${cut(want)}`);
}

function show(v: unknown): string {
  if (typeof v === 'number' && Number.isInteger(v) && v > 9) return `0x${v.toString(16)}`;
  const plain = (_: string, x: unknown): unknown =>
    typeof x === 'bigint' ? `0x${x.toString(16)}` : x instanceof Uint8Array ? [...x] : x;
  return JSON.stringify(v, plain) ?? String(v);
}

/** Throws unless it holds. */
export function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

/** One VM for one case. */
export class Bench {
  readonly vm: Vm;
  readonly vcpu: Vcpu;
  readonly ram: GuestMemory;
  /** Bus accesses, oldest first: `out 0x80/1 0x3`, `in 0x80/1`, `write 0xd0000000/4 0x1`, `read 0xd0000000/4`. */
  readonly log: string[] = [];
  /** MSRs that the bus has: index to value. Others answer #GP. */
  readonly msrs: Map<number, MsrValue> = new Map();
  /** CR8. */
  tpr = 0;
  /** What reads give; default: the lowest bytes of 0x44332211. */
  onRead: (addr: number, width: Width) => number = (_, width) => (0x44332211 & allOnes(width)) >>> 0;
  /** Told of each write, from inside run(). */
  onWrite: (addr: number, width: Width, value: number) => void = () => {};

  constructor(
    hypervisor: Hypervisor,
    o: {
      vcpus?: number;
      exitOnPause?: boolean;
      rom?: Uint8Array;
      interrupts?: EngineInterruptKind;
      high?: number;
    } = {},
  ) {
    const kind = o.interrupts;
    must(
      kind === undefined || (hypervisor.interruptKinds ?? []).includes(kind),
      'the engine has no interrupt controllers of its own',
    );
    const memory: RegionSpec[] = [{ base: 0, size: RAM_SIZE, kind: 'ram', name: 'ram' }];
    if (o.high !== undefined) memory.push({ base: HIGH, size: o.high, kind: 'ram', name: 'high' });
    const rom = o.rom;
    this.vm = hypervisor.createVm({
      memory:
        rom === undefined
          ? memory
          : [...memory, { base: 2 ** 32 - rom.length, size: rom.length, kind: 'rom' as const, name: 'rom' }],
      vcpus: o.vcpus ?? 1,
      bus: () => this.bus(),
      // The timer's TSC deadline is the local APIC's, which says so itself.
      cpuid: () =>
        kind === undefined
          ? hypervisor.supportedCpuid()
          : hypervisor
              .supportedCpuid()
              .map((r) => (r.leaf === 1 ? { ...r, ecx: (r.ecx | (1 << 24) | (1 << 21)) >>> 0 } : r)),
      clock: new TimerQueue(() => now() * 1e6),
      tscHz: 2_000_000_000,
      exitOnPause: o.exitOnPause ?? false,
      ...(kind === undefined ? {} : { interrupts: { kind, apicId: (i: number) => i } }),
    });
    this.vcpu = this.vm.vcpus[0] as Vcpu;
    this.ram = this.vm.memory;
    if (rom !== undefined) this.ram.load(2 ** 32 - rom.length, rom);
  }

  /** The engine's interrupt controllers. */
  get interrupts(): EngineInterrupts {
    const i = this.vm.interrupts;
    if (i === undefined) throw new Error('the VM has no interrupt controllers of the engine');
    return i;
  }

  /** Runs the vCPUs in turn until `done`. Throws after ten seconds, and for `Exit.Error`. */
  until(done: () => boolean, what: string): void {
    const limit = now() + LIMIT_MS;
    while (!done()) {
      for (const v of this.vm.vcpus) {
        const { reason, detail } = v.run(1_000_000);
        if (reason === Exit.Error) throw new Error(`the engine gave up: ${detail}`);
      }
      if (now() > limit) throw new Error(`after 10 s still not: ${what}`);
    }
  }

  private bus(): VcpuBus {
    const log = (what: string, addr: number, width: Width, value: number | null): void => {
      if (value !== null)
        must(
          Number.isInteger(value) && value >= 0 && value <= allOnes(width),
          `${what} of ${value}, not an unsigned ${8 * width}-bit value`,
        );
      this.log.push(`${what} 0x${addr.toString(16)}/${width}${value === null ? '' : ` 0x${value.toString(16)}`}`);
    };
    return {
      ioRead: (port, width) => {
        log('in', port, width, null);
        return this.onRead(port, width);
      },
      ioWrite: (port, width, value) => {
        log('out', port, width, value);
        this.onWrite(port, width, value);
      },
      mmioRead: (addr, width) => {
        log('read', addr, width, null);
        return this.onRead(addr, width);
      },
      mmioWrite: (addr, width, value) => {
        log('write', addr, width, value);
        this.onWrite(addr, width, value);
      },
      rdmsr: (index, out) => {
        const v = this.msrs.get(index);
        if (v === undefined) return false;
        out.lo = v.lo;
        out.hi = v.hi;
        return true;
      },
      wrmsr: (index, lo, hi) => {
        if (!this.msrs.has(index)) return false;
        this.msrs.set(index, { lo, hi });
        return true;
      },
      readCr8: () => this.tpr,
      writeCr8: (v) => {
        this.tpr = v;
      },
    };
  }

  /** Puts code into RAM. */
  put(code: Code): this {
    this.ram.load(code.origin, code.bytes());
    return this;
  }

  /** Runs until something other than the end of a budget. Throws after ten seconds, and for `Exit.Error`. */
  run(vcpu: Vcpu = this.vcpu): ExitReason {
    const limit = now() + LIMIT_MS;
    for (;;) {
      const { reason, detail } = vcpu.run(1_000_000);
      if (reason === Exit.Error) throw new Error(`the engine gave up: ${detail}`);
      if (reason !== Exit.Budget) return reason;
      if (now() > limit) throw new Error(`still running after 10 s at 0x${vcpu.getState().rip.toString(16)}`);
    }
  }

  /** Runs until HLT. */
  halt(vcpu: Vcpu = this.vcpu): void {
    const reason = this.run(vcpu);
    same(nameOf(reason), 'Halt', 'run() came back with');
  }

  /** 32 bits of {@link DATA}, by index. */
  data(index: number): number {
    return this.ram.read32(DATA + 4 * index);
  }

  /** Starts in real mode at CODE, interrupts off, stack at 0x7000. */
  real(code: Code, vcpu: Vcpu = this.vcpu): VcpuStateV1 {
    this.put(code);
    const s = vcpu.getState();
    const flat = (selector: number, attr: number): SegmentState => ({ selector, base: 0n, limit: 0xffff, attr });
    for (let i = 0; i < 6; i++) s.segments[i] = flat(0, i === 1 ? 0x9b : 0x93);
    s.rip = BigInt(code.origin);
    s.gpr = s.gpr.map(() => 0n);
    s.gpr[4] = 0x7000n;
    s.rflags = 2n;
    s.idtr = { base: 0n, limit: 0x3ff };
    s.activity = 'running';
    vcpu.setState(s);
    return s;
  }

  /** Real-mode vector. */
  ivt(vector: number, code: Code): void {
    this.put(code);
    this.ram.write16(4 * vector, code.origin);
    this.ram.write16(4 * vector + 2, 0);
  }

  private descriptor(at: number, base: number, limit: number, access: number, flags: number): void {
    this.ram.write32(at, ((base & 0xffff) << 16) | (limit & 0xffff));
    this.ram.write32(
      at + 4,
      (base & 0xff000000) | (flags << 20) | (limit & 0xf0000) | (access << 8) | ((base >>> 16) & 0xff),
    );
  }

  /** GDT, IDT, TSS and handlers for 32-bit or 64-bit code. */
  tables(long: boolean): void {
    this.ram.fill(GDT, 0x80, 0);
    this.descriptor(GDT + CS32, 0, 0xfffff, 0x9b, 0xc);
    this.descriptor(GDT + DS, 0, 0xfffff, 0x93, 0xc);
    this.descriptor(GDT + CS64, 0, 0xfffff, 0x9b, 0xa);
    this.descriptor(GDT + 0x20, 0, 0xfffff, 0xf3, 0xc);
    this.descriptor(GDT + 0x28, 0, 0xfffff, 0xfb, long ? 0xa : 0xc);
    this.descriptor(GDT + TR, TSS, 0x67, 0x8b, 0);
    if (!long) this.descriptor(GDT + ABSENT, 0, 0xfffff, 0x13, 0xc);
    this.ram.fill(TSS, 0x68, 0);
    if (long) {
      this.ram.write32(TSS + 4, STACK - 0x1000);
      this.ram.write32(TSS + 0x24, STACK - 0x2000); // IST1
    } else {
      this.ram.write32(TSS + 4, STACK - 0x1000);
      this.ram.write32(TSS + 8, DS);
      this.ram.write16(TSS + 0x66, 0x68);
    }
    const stubs = new Code(STUBS, long ? 64 : 32);
    for (let v = 0; v < 32; v++) {
      stubs.label(`v${v}`);
      if (!WITH_ERROR.has(v)) stubs.b(0x6a, 0x00); // push 0
      stubs.b(0x6a, v).b(0xe9).rel(4, 'common'); // push vector; jmp
    }
    // Slots 0–6: vector, error, IP, CS, FLAGS, SP, SS; 7: CR2; 8: how many; 10: the register it uses.
    // In 32-bit code DS may be null after a fault in ring 3, so go through SS.
    const slot = (opcode: number, i: number): Code => stubs.b(long ? 0x48 : 0x36, opcode).abs(0, RECORD + 8 * i);
    stubs.label('common');
    slot(0x89, 10);
    for (let i = 0; i < 7; i++) slot(0x8f, i); // pop
    stubs.b(0x0f, 0x20, 0xd0); // mov eax, cr2
    slot(0x89, 7);
    slot(0xff, 8); // inc
    slot(0x8b, 10).stop();
    this.put(stubs);
    this.ram.fill(RECORD, 0x60, 0);
    this.ram.fill(IDT, 0x1000, 0);
    for (let v = 0; v < 32; v++) this.gate(v, stubs.at(`v${v}`), { long });
  }

  /** An IDT entry: interrupt gate, unless `type` says otherwise. */
  gate(vector: number, handler: number, o: { long: boolean; type?: number; dpl?: number; ist?: number }): void {
    const access = 0x80 | ((o.dpl ?? 0) << 5) | (o.type ?? 0xe);
    const at = IDT + vector * (o.long ? 16 : 8);
    this.ram.write32(at, ((o.long ? CS64 : CS32) << 16) | (handler & 0xffff));
    this.ram.write32(at + 4, (handler & 0xffff0000) | (access << 8) | (o.ist ?? 0));
  }

  /** What the exception handlers saw last. */
  exception(): Caught {
    must(this.ram.read32(RECORD + 0x40) > 0, 'no exception was taken');
    const at = (i: number): number =>
      this.ram.read32(RECORD + 8 * i) + (this.ram.read32(RECORD + 8 * i + 4) % 0x200000) * 2 ** 32;
    return { vector: at(0), error: at(1), ip: at(2), cs: at(3), flags: at(4), sp: at(5), cr2: at(7) };
  }

  /** Runs into an exception and compares what is given. */
  expectException(want: Partial<Caught>): Caught {
    this.halt();
    const got = this.exception();
    for (const [k, v] of Object.entries(want))
      same(
        got[k as keyof Caught],
        v,
        `exception ${got.vector}, error 0x${got.error.toString(16)} at 0x${got.ip.toString(16)}: ${k}`,
      );
    return got;
  }

  /** Starts in 32-bit protected mode, flat, at the code's origin. Paging is on with `paging`. */
  prot(code: Code, o: { paging?: boolean } = {}): VcpuStateV1 {
    this.tables(false);
    this.put(code);
    const s = this.vcpu.getState();
    flatSegments(s, CS32, 0xc09b);
    s.rip = BigInt(code.origin);
    s.gpr = s.gpr.map(() => 0n);
    s.gpr[4] = BigInt(STACK);
    s.rflags = 2n;
    s.cr0 = 0x31n; // PE, ET, NE
    if (o.paging === true) {
      this.ram.fill(PD32, 0x2000, 0);
      for (let i = 0; i < 1024; i++) this.ram.write32(PD32 + 4 * i, (i * 0x400000 + 0x83) >>> 0); // 4 MiB, writable
      this.ram.write32(PD32, 0x87); // user too
      this.ram.write32(PD32 + 4, PT32 | 7);
      for (let i = 0; i < 8; i++) this.ram.write32(PT32 + 4 * i, (FRAMES + 4096 * i) | 7);
      s.cr3 = BigInt(PD32);
      s.cr4 = 0x10n; // PSE
      s.cr0 |= 0x80010000n; // PG, WP
    }
    this.vcpu.setState(s);
    return s;
  }

  /** Page tables of long mode: 4 GiB mapped to itself for supervisor and user, PAGED page by page. */
  longTables(): void {
    this.ram.fill(PML4, 0x7000, 0);
    const entry = (at: number, v: number): void => {
      this.ram.write32(at, v % 2 ** 32);
      this.ram.write32(at + 4, Math.floor(v / 2 ** 32));
    };
    entry(PML4, PDPT | 7);
    for (let i = 0; i < 4; i++) entry(PDPT + 8 * i, (PD + 4096 * i) | 7);
    for (let i = 0; i < 2048; i++) entry(PD + 8 * i, i * 0x200000 + 0x87); // 2 MiB, writable, user
    entry(PD + 8, PT | 7);
    for (let i = 0; i < 8; i++) entry(PT + 8 * i, (FRAMES + 4096 * i) | 7);
  }

  /** Changes the long-mode entry of page `i` of PAGED: low and high word. */
  page(i: number, lo: number, hi: number = 0): void {
    this.ram.write32(PT + 8 * i, lo);
    this.ram.write32(PT + 8 * i + 4, hi);
  }

  /** Starts in 64-bit mode at the code's origin. */
  long(code: Code): VcpuStateV1 {
    this.tables(true);
    this.longTables();
    this.put(code);
    const s = this.vcpu.getState();
    flatSegments(s, CS64, 0xa09b);
    s.rip = BigInt(code.origin);
    s.gpr = s.gpr.map(() => 0n);
    s.gpr[4] = BigInt(STACK);
    s.rflags = 2n;
    s.cr0 = 0x80010031n; // PG, WP, NE, ET, PE
    s.cr3 = BigInt(PML4);
    s.cr4 = 0x620n; // OSXMMEXCPT, OSFXSR, PAE
    s.efer = 0xd01n; // NXE, LMA, LME, SCE
    this.vcpu.setState(s);
    return s;
  }
}

function flatSegments(s: VcpuStateV1, cs: number, csAttr: number): void {
  for (let i = 0; i < 6; i++) s.segments[i] = { selector: DS, base: 0n, limit: 0xffffffff, attr: 0xc093 };
  s.segments[1] = { selector: cs, base: 0n, limit: 0xffffffff, attr: csAttr };
  s.segments[6] = { selector: 0, base: 0n, limit: 0, attr: 0x10082 };
  s.segments[7] = { selector: TR, base: BigInt(TSS), limit: 0x67, attr: 0x8b };
  s.gdtr = { base: BigInt(GDT), limit: 0x3f };
  s.idtr = { base: BigInt(IDT), limit: 0xfff };
}

/** Milliseconds. */
function now(): number {
  return (globalThis as unknown as { performance: { now(): number } }).performance.now();
}

/** Name of an exit reason. */
export function nameOf(reason: ExitReason): string {
  return Object.entries(Exit).find(([, v]) => v === reason)?.[0] ?? `reason ${reason}`;
}
