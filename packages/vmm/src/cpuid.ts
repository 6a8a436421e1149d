// CPUID policy: what an engine's processor can do, minus what a guest must not see, plus topology, frequencies and the
// hypervisor leaves. Intel SDM vol. 2 "CPUID"; AMD APM vol. 3 appendix E (bhyve: x86.c). Pure functions.
import { type CpuidEntry, type CpuidResult, HyveError } from '@hyve/core';
import { APIC_TIMER_HZ, type X2ApicSupport } from './lapic/lapic.ts';

/** How vCPUs are arranged: bhyve's `-c cpus=,sockets=,cores=,threads=`. */
export interface CpuTopology {
  /** Packages. */
  readonly sockets: number;
  /** Cores in each package. */
  readonly cores: number;
  /** Threads in each core. */
  readonly threads: number;
}

/** Options of {@link buildCpuid}. */
export interface CpuidOptions {
  /** The engine's rows: `hypervisor.supportedCpuid()`. */
  readonly supported: readonly CpuidEntry[];
  /** Whose table. */
  readonly vcpu: number;
  /** Arrangement; see {@link packageOf} for the default. */
  readonly topology: CpuTopology;
  /** TSC frequency, Hz. A multiple of 1 MHz below 4.2 GHz is reported exactly. */
  readonly tscHz: number;
  /** APIC timer input, Hz. Default 1 GHz, as the local APIC's. */
  readonly apicTimerHz?: number;
  /** As the local APIC has it. Default `offered`. */
  readonly x2apic?: X2ApicSupport;
  /** As the local APIC has it. Default true. */
  readonly tscDeadline?: boolean;
  /** Clears the hypervisor bit and leaf 0x40000000. Default false. */
  readonly hideHypervisor?: boolean;
  /** Shows SPEC_CTRL and PRED_CMD (as the MSR policy must then offer). Default false. */
  readonly specCtrl?: boolean;
}

/** `intel` (and everybody like it) or `amd` (and Hygon). */
export type CpuVendor = 'intel' | 'amd';

/** The default arrangement: one package of `vcpus` single-threaded cores. */
export function packageOf(vcpus: number): CpuTopology {
  return { sockets: 1, cores: vcpus, threads: 1 };
}

/** Bits to number `n` things. */
function bitsFor(n: number): number {
  return n <= 1 ? 0 : 32 - Math.clz32(n - 1);
}

/**
 * APIC id of a vCPU: package, core and thread in bit fields of their own, so that counts that are no powers of two leave
 * gaps. SDM vol. 3 §9.9.1.
 */
export function apicIdOf(vcpu: number, t: CpuTopology): number {
  const threadBits = bitsFor(t.threads);
  const coreBits = bitsFor(t.cores);
  const thread = vcpu % t.threads;
  const core = Math.floor(vcpu / t.threads) % t.cores;
  const socket = Math.floor(vcpu / (t.threads * t.cores));
  return (socket << (coreBits + threadBits)) | (core << threadBits) | thread;
}

/** Vendor by leaf 0's string. */
export function cpuVendor(rows: readonly CpuidEntry[]): CpuVendor {
  const r = rows.find((x) => x.leaf === 0);
  if (r === undefined) return 'intel';
  const auth = r.ebx === 0x68747541; // "Auth" of AuthenticAMD
  const hygon = r.ebx === 0x6f677948; // "Hygo" of HygonGenuine
  return auth || hygon ? 'amd' : 'intel';
}

/** Physical address bits by leaf 0x80000008; 36 where it is absent. */
export function physBitsOf(rows: readonly CpuidEntry[]): number {
  const r = rows.find((x) => x.leaf === 0x80000008);
  const bits = r === undefined ? 36 : r.eax & 0xff;
  return Math.min(52, Math.max(32, bits));
}

/**
 * Leaf 0x15's ratio: `numerator / denominator` of TSC to crystal, the best one whose numerator is at most `limit`.
 * Exact whenever such a fraction exists. By continued fractions.
 */
export function tscRatio(tscHz: number, crystalHz: number, limit: number): { numerator: number; denominator: number } {
  let [p0, q0, p1, q1] = [0, 1, 1, 0];
  let a = Math.round(tscHz);
  let b = Math.round(crystalHz);
  while (b !== 0) {
    const k = Math.floor(a / b);
    const p2 = k * p1 + p0;
    const q2 = k * q1 + q0;
    if (p2 > limit || q2 > 0xffffffff) {
      // Between the last two convergents: as far as the limit lets us go, if that is nearer.
      const m = p1 === 0 ? 0 : Math.floor((limit - p0) / p1);
      const [p, q] = [m * p1 + p0, m * q1 + q0];
      const x = tscHz / crystalHz;
      if (m > 0 && q > 0 && Math.abs(p / q - x) < Math.abs(p1 / q1 - x)) [p1, q1] = [p, q];
      break;
    }
    [p0, q0, p1, q1] = [p1, q1, p2, q2];
    [a, b] = [b, a - k * b];
  }
  // A first quotient of 0 (TSC slower than the crystal) leaves 0/1 for a moment; it is never the answer for tscHz > 0.
  if (q1 === 0) return { numerator: limit, denominator: 1 };
  return p1 === 0
    ? { numerator: 1, denominator: Math.max(1, Math.round(crystalHz / tscHz)) }
    : { numerator: p1, denominator: q1 };
}

// Features to hide. A bit here is one whose MSRs, instructions or events nothing in a VM stands behind.
// Leaf 1 ECX: DTES64, DS-CPL, VMX, SMX, EST, TM2, SDBG, xTPR, PDCM, DCA, and OSXSAVE, which the engine sets.
const L1_ECX_HIDE =
  (1 << 2) |
  (1 << 4) |
  (1 << 5) |
  (1 << 6) |
  (1 << 7) |
  (1 << 8) |
  (1 << 11) |
  (1 << 14) |
  (1 << 15) |
  (1 << 18) |
  (1 << 27);
const L1_ECX_X2APIC = 1 << 21;
const L1_ECX_TSC_DEADLINE = 1 << 24;
const L1_ECX_HYPERVISOR = 1 << 31;
const L1_ECX_MONITOR = 1 << 3;
// Leaf 1 EDX: PSN, DS, ACPI, TM, IA64, PBE.
const L1_EDX_HIDE = (1 << 18) | (1 << 21) | (1 << 22) | (1 << 29) | (1 << 30) | (1 << 31);
const EDX_MCE = 1 << 7;
const EDX_APIC = 1 << 9;
const EDX_MTRR = 1 << 12;
const EDX_MCA = 1 << 14;
const L1_EDX_HTT = 1 << 28;
// Leaf 7.0 EBX: SGX, HLE, PQM, RTM, MPX, PQE, Intel PT.
const L7_EBX_HIDE = (1 << 2) | (1 << 4) | (1 << 11) | (1 << 12) | (1 << 14) | (1 << 15) | (1 << 25);
// Leaf 7.0 ECX: WAITPKG, CET_SS, TME, KL, bus-lock detect, ENQCMD, SGX_LC.
const L7_ECX_HIDE = (1 << 5) | (1 << 7) | (1 << 13) | (1 << 23) | (1 << 24) | (1 << 29) | (1 << 30);
// Leaf 7.0 EDX kept: AVX512_4VNNIW, 4FMAPS, FSRM, VP2INTERSECT, MD_CLEAR, SERIALIZE, AVX512_FP16.
const L7_EDX_KEEP = (1 << 2) | (1 << 3) | (1 << 4) | (1 << 8) | (1 << 10) | (1 << 14) | (1 << 23);
const L7_EDX_SPEC_CTRL = 1 << 26;
// Leaf 7.1 EAX kept: SHA512, SM3, SM4, AVX-VNNI, AVX512_BF16, FZRM, FSRS, FSRC, AVX-IFMA.
const L7_1_EAX_KEEP = 0x7 | (1 << 4) | (1 << 5) | (1 << 10) | (1 << 11) | (1 << 12) | (1 << 23);
// Leaf 0xD.1 EAX kept: XSAVEOPT, XSAVEC, XGETBV with ECX 1. XSAVES needs IA32_XSS.
const LD_1_EAX_KEEP = 7;
// Leaf 0x80000001 ECX: SVM, extended APIC space, OSVW, IBS, SKINIT, WDT, LWP, NODEID, PERFCTR core and NB, BPEXT, PERFTSC, PERFCTR LLC,
// MWAITX.
const X1_ECX_HIDE =
  (1 << 2) |
  (1 << 3) |
  (1 << 9) |
  (1 << 10) |
  (1 << 12) |
  (1 << 13) |
  (1 << 15) |
  (1 << 19) |
  (1 << 23) |
  (1 << 24) |
  (1 << 26) |
  (1 << 27) |
  (1 << 28) |
  (1 << 29);
const X1_ECX_CMP_LEGACY = 1 << 1;
const X1_ECX_TOPOEXT = 1 << 22;
// Leaf 0x80000008 EBX kept: CLZERO, XSAVEERPTR, WBNOINVD.
const X8_EBX_KEEP = (1 << 0) | (1 << 2) | (1 << 9);
const X8_EBX_IBPB_IBRS = (1 << 12) | (1 << 14);

const HYPERVISOR_LEAF = 0x40000000;
const HYPERVISOR_MAX = 0x40000010;
const HYPERVISOR_NAME = 'bhyve bhyve ';
/** Leaf 0x40000001 EAX of Hyper-V's interface: "Hv#1". */
const HYPERV_INTERFACE = 0x31237648;
/** Leaves the policy answers itself, up to which the basic range always reaches. */
const BASIC_MAX = 0x16;

const ZERO: CpuidResult = { eax: 0, ebx: 0, ecx: 0, edx: 0 };

function u32(r: CpuidResult): CpuidResult {
  return { eax: r.eax >>> 0, ebx: r.ebx >>> 0, ecx: r.ecx >>> 0, edx: r.edx >>> 0 };
}

/** The four bytes of `s` at `i`, little-endian. */
function chars(s: string, i: number): number {
  return (
    (s.charCodeAt(i) | (s.charCodeAt(i + 1) << 8) | (s.charCodeAt(i + 2) << 16) | (s.charCodeAt(i + 3) << 24)) >>> 0
  );
}

/**
 * One vCPU's CPUID table, sorted, with a row for every leaf of each range up to its maximum.
 * @throws HyveError `CPU_TOPOLOGY` for an arrangement that does not hold the vCPU or whose APIC ids do not fit
 */
export function buildCpuid(o: CpuidOptions): CpuidEntry[] {
  const t = o.topology;
  const total = t.sockets * t.cores * t.threads;
  if (![t.sockets, t.cores, t.threads].every((n) => Number.isInteger(n) && n >= 1) || o.vcpu < 0 || o.vcpu >= total)
    throw new HyveError(
      'CPU_TOPOLOGY',
      `vCPU ${o.vcpu} is not in ${t.sockets} sockets × ${t.cores} cores × ${t.threads} threads`,
    );
  if (apicIdOf(total - 1, t) > 0xfe)
    throw new HyveError('CPU_TOPOLOGY', `APIC id 0x${apicIdOf(total - 1, t).toString(16)}, expected at most 0xfe`);
  const vendor = cpuVendor(o.supported);
  const amd = vendor === 'amd';
  const id = apicIdOf(o.vcpu, t);
  const perPackage = t.cores * t.threads;
  const threadBits = bitsFor(t.threads);
  const packageBits = threadBits + bitsFor(t.cores);
  const x2apic = (o.x2apic ?? 'offered') !== 'absent';
  const crystalHz = o.apicTimerHz ?? APIC_TIMER_HZ;

  const rows: CpuidEntry[] = [];
  const out = (leaf: number, r: CpuidResult, subleaf?: number): void => {
    rows.push(subleaf === undefined ? { leaf, ...u32(r) } : { leaf, subleaf, ...u32(r) });
  };
  const byLeaf = new Map<number, CpuidEntry[]>();
  for (const r of o.supported) {
    const list = byLeaf.get(r.leaf);
    if (list === undefined) byLeaf.set(r.leaf, [r]);
    else list.push(r);
  }
  const first = (leaf: number): CpuidResult => byLeaf.get(leaf)?.[0] ?? ZERO;

  const engineBasicMax = first(0).eax;
  const basicMax = Math.min(Math.max(engineBasicMax, BASIC_MAX), 0x1f);
  const engineExtMax = first(0x80000000).eax;
  const extMax = Math.min(Math.max(engineExtMax, 0x80000008), 0x80000021);
  const invariant = 1 << 8;
  const engineHas = (leaf: number): boolean => byLeaf.has(leaf);

  /** Leaf 4 and 0x8000001D: who shares each cache. Level 3 and up: the package; below: one core. */
  const cacheRow = (r: CpuidEntry, intel: boolean): CpuidResult => {
    if ((r.eax & 0x1f) === 0) return r;
    const level = (r.eax >>> 5) & 7;
    const sharing = (1 << (level >= 3 ? packageBits : threadBits)) - 1;
    let eax = (r.eax & ~(0xfff << 14)) | (sharing << 14);
    if (intel) eax = (eax & 0x03ffffff) | (Math.min(63, (1 << bitsFor(t.cores)) - 1) << 26);
    return { ...r, eax };
  };
  const topology = (leaf: number): void => {
    out(leaf, { eax: threadBits, ebx: t.threads, ecx: 0x100, edx: id }, 0);
    out(leaf, { eax: packageBits, ebx: perPackage, ecx: 0x201, edx: id }, 1);
    out(leaf, { eax: 0, ebx: 0, ecx: 2, edx: id }, 2);
  };
  const monitor = (first(1).ecx & L1_ECX_MONITOR) !== 0;

  for (let leaf = 0; leaf <= basicMax; leaf++) {
    const e = first(leaf);
    switch (leaf) {
      case 0:
        out(leaf, { ...e, eax: basicMax });
        break;
      case 1: {
        let ecx = e.ecx & ~(L1_ECX_HIDE | L1_ECX_X2APIC | L1_ECX_TSC_DEADLINE | L1_ECX_HYPERVISOR);
        if (x2apic) ecx |= L1_ECX_X2APIC;
        if (o.tscDeadline ?? true) ecx |= L1_ECX_TSC_DEADLINE;
        if (!(o.hideHypervisor ?? false)) ecx |= L1_ECX_HYPERVISOR;
        let edx = (e.edx & ~(L1_EDX_HIDE | L1_EDX_HTT | EDX_MCA)) | EDX_APIC | EDX_MTRR;
        if ((edx & EDX_MCE) !== 0) edx |= EDX_MCA;
        if (perPackage > 1) edx |= L1_EDX_HTT;
        // Intel counts the ids that a package can hold, AMD the processors it has.
        const count = amd ? perPackage : 1 << packageBits;
        out(leaf, { eax: e.eax, ebx: (e.ebx & 0xffff) | (Math.min(255, count) << 16) | (id << 24), ecx, edx });
        break;
      }
      case 2:
        out(leaf, e);
        break;
      case 4: {
        if (amd || !engineHas(4)) {
          out(leaf, ZERO);
          break;
        }
        for (const r of byLeaf.get(4) ?? []) out(leaf, cacheRow(r, true), r.subleaf ?? 0);
        break;
      }
      case 5:
        out(leaf, monitor ? e : ZERO);
        break;
      case 6:
        out(leaf, { ...ZERO, eax: 1 << 2 }); // ARAT: the APIC timer never stops
        break;
      case 7:
        for (const r of byLeaf.get(7) ?? [{ leaf, ...ZERO }]) {
          const sub = r.subleaf ?? 0;
          if (sub === 0) {
            let edx = r.edx & L7_EDX_KEEP;
            if (o.specCtrl === true && !amd) edx |= L7_EDX_SPEC_CTRL;
            const max = Math.min(r.eax, 1);
            out(leaf, { eax: max, ebx: r.ebx & ~L7_EBX_HIDE, ecx: r.ecx & ~L7_ECX_HIDE, edx }, 0);
          } else if (sub === 1) out(leaf, { ...ZERO, eax: r.eax & L7_1_EAX_KEEP }, 1);
        }
        break;
      case 0xb:
        topology(leaf);
        break;
      case 0xd:
        if (!engineHas(leaf)) out(leaf, ZERO);
        for (const r of byLeaf.get(leaf) ?? []) {
          if (r.subleaf === undefined) out(leaf, r);
          else if (r.subleaf === 1) out(leaf, { ...ZERO, eax: r.eax & LD_1_EAX_KEEP, ebx: r.ebx }, 1);
          // Supervisor components (ECX bit 0) belong to XSAVES.
          else if (r.subleaf === 0 || (r.ecx & 1) === 0) out(leaf, r, r.subleaf);
        }
        break;
      case 0x15: {
        // Linux multiplies kHz by the numerator in 32 bits. Where that leaves no exact fraction the crystal takes up the
        // difference (up to 0.02 %): better a timer than a clock that is off.
        const limit = Math.floor(0xfff00000 / (crystalHz / 1000));
        const { numerator, denominator } = tscRatio(o.tscHz, crystalHz, limit);
        const crystal = Math.round((o.tscHz * denominator) / numerator);
        out(leaf, { eax: denominator, ebx: numerator, ecx: crystal, edx: 0 });
        break;
      }
      case 0x16: {
        const mhz = Math.min(0xffff, Math.round(o.tscHz / 1e6));
        out(leaf, { eax: mhz, ebx: mhz, ecx: 100, edx: 0 });
        break;
      }
      case 0x19: // key locker: hidden with its bit
        out(leaf, ZERO);
        break;
      case 0x1f:
        topology(leaf);
        break;
      default:
        // 9 DCA, 0xA performance monitoring, 0xF/0x10 resource director, 0x12 SGX, 0x14 trace, 0x17–0x1E.
        out(leaf, ZERO);
    }
  }

  const frequencies = { ...ZERO, eax: Math.round(o.tscHz / 1000), ebx: Math.round(crystalHz / 1000) };
  if (!(o.hideHypervisor ?? false)) {
    // An engine that has such leaves was asked to show them: its guests know that interface.
    const own = o.supported.filter((r) => r.leaf >= HYPERVISOR_LEAF && r.leaf < HYPERVISOR_MAX);
    const bhyve = {
      eax: 0,
      ebx: chars(HYPERVISOR_NAME, 0),
      ecx: chars(HYPERVISOR_NAME, 4),
      edx: chars(HYPERVISOR_NAME, 8),
    };
    const first = own.find((r) => r.leaf === HYPERVISOR_LEAF) ?? bhyve;
    // Hyper-V's end with their own; others get the frequencies in kHz where VMware puts them: TSC, APIC timer.
    const hyperv = own.some((r) => r.leaf === HYPERVISOR_LEAF + 1 && r.eax === HYPERV_INTERFACE);
    const top = hyperv ? Math.max(...own.map((r) => r.leaf)) : HYPERVISOR_MAX;
    out(HYPERVISOR_LEAF, { ...first, eax: top });
    for (let leaf = HYPERVISOR_LEAF + 1; leaf <= top; leaf++)
      out(leaf, leaf === HYPERVISOR_MAX ? frequencies : (own.find((r) => r.leaf === leaf) ?? ZERO));
  }

  for (let leaf = 0x80000000; leaf <= extMax; leaf++) {
    const e = first(leaf);
    switch (leaf) {
      case 0x80000000:
        out(leaf, { ...e, eax: extMax });
        break;
      case 0x80000001: {
        let ecx = e.ecx & ~(X1_ECX_HIDE | X1_ECX_CMP_LEGACY);
        if (!engineHas(0x8000001e)) ecx &= ~X1_ECX_TOPOEXT;
        let edx = e.edx;
        if (amd) {
          if (perPackage > 1) ecx |= X1_ECX_CMP_LEGACY;
          // AMD repeats leaf 1's low bits here.
          edx = (edx & ~EDX_MCA) | EDX_APIC | EDX_MTRR;
          if ((edx & EDX_MCE) !== 0) edx |= EDX_MCA;
        }
        out(leaf, { ...e, ecx, edx });
        break;
      }
      case 0x80000002:
      case 0x80000003:
      case 0x80000004:
      case 0x80000005:
      case 0x80000006:
      case 0x80000019:
      case 0x8000001a:
        out(leaf, e);
        break;
      case 0x80000007:
        out(leaf, { ...ZERO, edx: invariant });
        break;
      case 0x80000008: {
        const eax = engineHas(leaf) ? e.eax & 0xffff : 0x3024;
        let ebx = e.ebx & X8_EBX_KEEP;
        if (amd && o.specCtrl === true) ebx |= X8_EBX_IBPB_IBRS;
        const ecx = amd ? (perPackage - 1) | (packageBits << 12) : 0;
        out(leaf, { eax, ebx, ecx, edx: 0 });
        break;
      }
      case 0x8000001d: {
        if (!engineHas(leaf)) out(leaf, ZERO);
        for (const r of byLeaf.get(leaf) ?? []) out(leaf, cacheRow(r, false), r.subleaf ?? 0);
        break;
      }
      case 0x8000001e:
        if (!engineHas(leaf)) out(leaf, ZERO);
        else
          out(leaf, {
            eax: id,
            ebx: ((id & ((1 << packageBits) - 1)) >>> threadBits) | ((t.threads - 1) << 8),
            ecx: id >>> packageBits,
            edx: 0,
          });
        break;
      case 0x80000021:
        // LFENCE always serializes, no nested data breakpoints, null selector clears base.
        out(leaf, { ...ZERO, eax: e.eax & ((1 << 0) | (1 << 2) | (1 << 6)) });
        break;
      default:
        // 0x8000000A SVM, 0x8000001B IBS, 0x8000001C LWP, 0x8000001F SEV, 0x80000020 QoS, and gaps.
        out(leaf, ZERO);
    }
  }
  return rows;
}
