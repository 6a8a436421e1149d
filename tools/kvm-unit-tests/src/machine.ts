// One test program on one board: Multiboot, COM1, test device, QEMU's fw_cfg; output and exit value come back.
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type {
  AttachOptions,
  CharBackend,
  CpuidEntry,
  Hypervisor,
  MsrValue,
  VcpuBus,
  Vm,
  VmOptions,
  VmShare,
  Width,
} from '@hyve/core';
import { SoftCpu } from '@hyve/cpu';
import { createPc, type MachineSpec, machineSpec, type PcHost, type ThreadHost } from '@hyve/pc';
import { connect } from '../../../apps/xhyve-cli/src/threads.ts';

/** Features that an entry takes away from the processor, by QEMU's names. */
export type HiddenFeature = 'x2apic' | 'pcid' | 'invpcid' | 'umip' | 'smep' | 'smap';

/** Processors that differ in details, such as SYSCALL. */
export type Vendor = 'intel' | 'amd';

/** What {@link runTest} needs to know. */
export interface TestRun {
  /** The program: an ELF file with a Multiboot header. */
  readonly path: string;
  /** Its arguments. */
  readonly args?: string;
  /** vCPUs. Default 1. */
  readonly cpus?: number;
  /** RAM, MiB. Default 128, QEMU's. */
  readonly memoryMiB?: number;
  /** Features to hide. */
  readonly hide?: readonly HiddenFeature[];
  /** Whose processor CPUID says it is. Default Intel's. */
  readonly vendor?: Vendor;
  /** Whether vCPUs have threads of their own. Default false. */
  readonly threads?: boolean;
  /** Ends the machine after this many seconds. Default 60. */
  readonly limitSeconds?: number;
  /** Executions before a block is translated, as `SoftCpuOptions.threshold`. Default: the processor's own. */
  readonly threshold?: number;
  /** Sees output as it comes. */
  readonly onOutput?: (text: string) => void;
}

/** How a run ended. */
export interface RunEnd {
  /** Value written to the exit port, or -1. */
  readonly exit: number;
  /** Why the machine stopped, as the board says it, or `timeout`. */
  readonly reason: string;
  /** What the board says about it. */
  readonly detail: string;
  /** All of COM1. */
  readonly output: string;
  /** Wall time. */
  readonly seconds: number;
  /** Instructions retired. */
  readonly instructions: number;
}

// CPUID leaf, subleaf, register, bit.
const FEATURE_BITS: Readonly<Record<HiddenFeature, readonly [number, number, 'ebx' | 'ecx', number]>> = {
  x2apic: [1, 0, 'ecx', 21],
  pcid: [1, 0, 'ecx', 17],
  invpcid: [7, 0, 'ebx', 10],
  smep: [7, 0, 'ebx', 7],
  smap: [7, 0, 'ebx', 20],
  umip: [7, 0, 'ecx', 2],
};

/** Clears the bits of `hide` in a CPUID table. */
export function hideFeatures(rows: readonly CpuidEntry[], hide: readonly HiddenFeature[]): CpuidEntry[] {
  return rows.map((row) => {
    const out = { ...row };
    for (const f of hide) {
      const [leaf, subleaf, reg, bit] = FEATURE_BITS[f];
      if (row.leaf === leaf && (row.subleaf ?? 0) === subleaf) out[reg] = (out[reg] & ~(1 << bit)) >>> 0;
    }
    return out;
  });
}

/** One vCPU's bus without x2APIC: its MSRs are absent and it cannot be switched on. */
class XapicBus implements VcpuBus {
  private readonly inner: VcpuBus;
  constructor(inner: VcpuBus) {
    this.inner = inner;
  }
  ioRead(port: number, width: Width): number {
    return this.inner.ioRead(port, width);
  }
  ioWrite(port: number, width: Width, value: number): void {
    this.inner.ioWrite(port, width, value);
  }
  mmioRead(addr: number, width: Width): number {
    return this.inner.mmioRead(addr, width);
  }
  mmioWrite(addr: number, width: Width, value: number): void {
    this.inner.mmioWrite(addr, width, value);
  }
  rdmsr(index: number, out: MsrValue): boolean {
    return !isX2apic(index) && this.inner.rdmsr(index, out);
  }
  wrmsr(index: number, lo: number, hi: number): boolean {
    if (isX2apic(index) || (index === APIC_BASE && (lo & APIC_BASE_EXTD) !== 0)) return false;
    return this.inner.wrmsr(index, lo, hi);
  }
  readCr8(): number {
    return this.inner.readCr8();
  }
  writeCr8(value: number): void {
    this.inner.writeCr8(value);
  }
}

const APIC_BASE = 0x1b;
const APIC_BASE_EXTD = 1 << 10;
const isX2apic = (index: number): boolean => index >= 0x800 && index <= 0x8ff;

// KVM's hypercalls, Linux Documentation/virt/kvm/x86/hypercalls.rst.
const HC_SEND_IPI = 10;
const ENOSYS = -1000;
/** xAPIC registers. */
const ICR_LOW = 0xfee00300;
const ICR_HIGH = 0xfee00310;

/**
 * The software CPU as the tests want to see it: some features hidden, the vendor chosen, hypercalls answered as KVM does
 * (all unknown but "send IPI"), because a few tests make them without looking whether there is anybody to answer.
 */
export class TestEngine implements Hypervisor {
  readonly name = 'soft';
  private readonly inner: SoftCpu;
  private readonly hide: readonly HiddenFeature[];
  private readonly vendor: Vendor;
  private readonly buses: VcpuBus[] = [];

  constructor(hide: readonly HiddenFeature[], vendor: Vendor, threshold: number | undefined) {
    this.hide = hide;
    this.vendor = vendor;
    this.inner = new SoftCpu({
      hypercall: (vcpu, nr, a0, a1, a2, a3) => this.hypercall(vcpu, nr, a0, a1, a2, a3),
      ...(threshold === undefined ? {} : { threshold }),
    });
  }

  supportedCpuid(): readonly CpuidEntry[] {
    const rows = this.inner.supportedCpuid();
    if (this.vendor === 'intel') return rows;
    // "AuthenticAMD" in EBX, EDX, ECX.
    return rows.map((r) => (r.leaf === 0 ? { ...r, ebx: 0x68747541, edx: 0x69746e65, ecx: 0x444d4163 } : r));
  }

  createVm(o: VmOptions): Vm {
    const bus = (i: number): VcpuBus => {
      const plain = o.bus(i);
      const b = this.hide.includes('x2apic') ? new XapicBus(plain) : plain;
      this.buses[i] = b;
      return b;
    };
    this.buses.length = o.vcpus;
    return this.inner.createVm({ ...o, bus, cpuid: (i) => hideFeatures(o.cpuid(i), this.hide) });
  }

  attach(share: VmShare, index: number, o: AttachOptions): Vm {
    const b = this.hide.includes('x2apic') ? new XapicBus(o.bus) : o.bus;
    // Only its own bus counts here: the others' are as many as there are.
    this.buses.length = (share.data as { layout: { threads: number } }).layout.threads;
    this.buses[index] = b;
    return this.inner.attach(share, index, { ...o, bus: b, cpuid: hideFeatures(o.cpuid, this.hide) });
  }

  /** @returns for "send IPI", to how many vCPUs; else that the call does not exist */
  private hypercall(vcpu: number, nr: number, lowMask: number, highMask: number, firstId: number, icr: number): number {
    if (nr !== HC_SEND_IPI) return ENOSYS;
    const bus = this.buses[vcpu] as VcpuBus;
    const cpus = this.buses.length;
    let sent = 0;
    for (let bit = 0; bit < 64; bit++) {
      if ((((bit < 32 ? lowMask : highMask) >>> (bit & 31)) & 1) === 0 || firstId + bit >= cpus) continue;
      bus.mmioWrite(ICR_HIGH, 4, ((firstId + bit) << 24) >>> 0);
      bus.mmioWrite(ICR_LOW, 4, icr);
      sent++;
    }
    return sent;
  }
}

function specOf(run: TestRun): MachineSpec {
  const cpus = run.cpus ?? 1;
  // The first word is the program's name, as with QEMU.
  const name = run.path.slice(run.path.lastIndexOf('/') + 1);
  return machineSpec({
    name: 'kvm-unit-tests',
    memoryBytes: (run.memoryMiB ?? 128) * 2 ** 20,
    cpus: { count: cpus, sockets: 1, cores: cpus, threads: 1 },
    boot: { loader: 'multiboot', kernel: run.path, modules: [], cmdline: run.args ? `${name} ${run.args}` : name },
    lpc: [
      { device: 'com1', backend: 'stdio' },
      { device: 'pc-testdev', settings: {} },
    ],
    fwcfg: { kind: 'qemu', items: [] },
    tables: { acpi: true, acpiInMemory: true, mptable: false, smbios: false, smbiosStrings: {} },
    engine: 'soft',
    vcpuThreads: run.threads === true ? 'on' : 'off',
  });
}

/** Threads that know what the run hides. */
function threads(hide: readonly HiddenFeature[], vendor: Vendor): ThreadHost {
  return {
    cores: availableParallelism(),
    x86Order: true,
    start(name) {
      return connect(new Worker(new URL('./vcpu-worker.ts', import.meta.url), { name, workerData: { hide, vendor } }));
    },
  };
}

/** Runs one test program to its end. @throws HyveError if the machine cannot be built or the file cannot be read */
export async function runTest(run: TestRun): Promise<RunEnd> {
  let output = '';
  const decoder = new TextDecoder();
  const serial: CharBackend = {
    write(bytes) {
      const text = decoder.decode(bytes, { stream: true });
      output += text;
      run.onOutput?.(text);
      return true;
    },
    onData: null,
    onDrain: null,
    setFlow() {},
    close: async () => {},
  };
  const host: PcHost = {
    openChar: async () => serial,
    readFile: (path) => readFile(path),
    log: { on: false, debug: () => {}, info: () => {}, warn: () => {} },
    wallClock: { nowMs: () => Date.now(), offsetMinutes: () => 0 },
    engines: { soft: () => new TestEngine(run.hide ?? [], run.vendor ?? 'intel', run.threshold) },
    threads: threads(run.hide ?? [], run.vendor ?? 'intel'),
  };
  const pc = await createPc(specOf(run), host);
  const start = performance.now();
  let timedOut = false;
  const timer = setTimeout(
    () => {
      timedOut = true;
      pc.forceOff();
    },
    (run.limitSeconds ?? 60) * 1000,
  );
  try {
    const reason = await pc.run();
    return {
      exit: pc.testExit,
      reason: timedOut ? 'timeout' : reason,
      detail: pc.detail,
      output,
      seconds: (performance.now() - start) / 1000,
      instructions: pc.vm.counters()['instructions'] ?? 0,
    };
  } finally {
    clearTimeout(timer);
    await pc.close();
  }
}
