// The entries: which program runs how, and what is expected of it. One row per entry of the tests' own configuration for
// x86 (without those for EFI), at commit 1da1819e; i386 entries are those built for 32 bits only, and a few of both.
import type { HiddenFeature, Vendor } from './machine.ts';

/** How a program reports: exit values 0, 1, 38 and 63 through the test device; otherwise what stopped it. */
export type Result = 'pass' | 'fail' | 'skip' | 'abort' | 'timeout' | 'died';

/** One entry. */
export interface Entry {
  /** Name in the tests' configuration; entries of the 32-bit build that exist in both end in `-i386`. */
  readonly name: string;
  /** File in the directory of its build. */
  readonly file: string;
  /** Which build. Default 64. */
  readonly bits?: 32 | 64;
  /** Arguments. */
  readonly args?: string;
  /** vCPUs. Default 1. */
  readonly cpus?: number;
  /** Features to hide. */
  readonly hide?: readonly HiddenFeature[];
  /** Vendor by CPUID. Default Intel. */
  readonly vendor?: Vendor;
  /** Seconds before it counts as hanging. Default 60. */
  readonly limit?: number;
  /** Takes more than about five seconds: left out of quick runs. */
  readonly slow?: boolean;
  /** Measures time against a host that may be busy: runs once more before a surprise counts. */
  readonly timing?: boolean;
  /** Expected result. Default pass. */
  readonly expect?: Result;
  /** Least number of subtests that pass. */
  readonly passes?: number;
  /** Beginnings of the names of all subtests that fail. */
  readonly fails?: readonly string[];
  /** Why it does not pass, or is not run. */
  readonly reason?: string;
  /** Not run at all. */
  readonly omit?: boolean;
}

const NO_VMX = 'no VMX: nested virtualization is not offered';
const NO_SVM = 'no SVM: nested virtualization is not offered';
const NO_KVM = 'tests an interface of KVM that is not offered';
const NO_HYPERV = 'tests an interface of Hyper-V that is not offered';

/** An entry of a feature that CPUID does not have: the program finds that out and skips itself. */
function absent(name: string, file: string, reason: string, more: Partial<Entry> = {}): Entry {
  return { name, file, expect: 'skip', reason, ...more };
}

/** A subset of the nested virtualization tests. */
function vmx(name: string, cpus = 1): Entry {
  return absent(name, 'vmx.flat', NO_VMX, { args: name, cpus });
}

/** All entries. */
export const ENTRIES: readonly Entry[] = [
  { name: 'x2apic', file: 'apic.flat', cpus: 2, passes: 56, limit: 120, slow: true, timing: true },
  { name: 'xapic', file: 'apic.flat', cpus: 2, hide: ['x2apic'], passes: 44, limit: 120, slow: true, timing: true },
  { name: 'ioapic', file: 'ioapic.flat', cpus: 4, passes: 30 },
  { name: 'cmpxchg8b', file: 'cmpxchg8b.flat', bits: 32, passes: 1 },
  { name: 'smptest', file: 'smptest.flat', cpus: 2, passes: 1 },
  { name: 'smptest3', file: 'smptest.flat', cpus: 3, passes: 1 },
  { name: 'vmexit_cpuid', file: 'vmexit.flat', args: 'cpuid' },
  { name: 'vmexit_vmcall', file: 'vmexit.flat', args: 'vmcall' },
  { name: 'vmexit_mov_from_cr8', file: 'vmexit.flat', args: 'mov_from_cr8' },
  { name: 'vmexit_mov_to_cr8', file: 'vmexit.flat', args: 'mov_to_cr8' },
  { name: 'vmexit_inl_pmtimer', file: 'vmexit.flat', args: 'inl_from_pmtimer' },
  { name: 'vmexit_ipi', file: 'vmexit.flat', args: 'ipi', cpus: 2 },
  { name: 'vmexit_ipi_halt', file: 'vmexit.flat', args: 'ipi_halt', cpus: 2 },
  { name: 'vmexit_ple_round_robin', file: 'vmexit.flat', args: 'ple_round_robin' },
  { name: 'vmexit_tscdeadline', file: 'vmexit.flat', args: 'tscdeadline' },
  { name: 'vmexit_tscdeadline_immed', file: 'vmexit.flat', args: 'tscdeadline_immed' },
  { name: 'vmexit_cr0_wp', file: 'vmexit.flat', args: 'toggle_cr0_wp', cpus: 2 },
  { name: 'vmexit_cr4_pge', file: 'vmexit.flat', args: 'toggle_cr4_pge', cpus: 2 },
  { name: 'access', file: 'access_test.flat', passes: 1, limit: 300, slow: true },
  absent('access_fep', 'access_test.flat', "needs KVM's forced emulation prefix", { args: 'force_emulation' }),
  {
    name: 'access-reduced-maxphyaddr',
    file: 'access_test.flat',
    omit: true,
    reason: 'wants 36 physical address bits; the software CPU has 40, always',
  },
  { name: 'smap', file: 'smap.flat', passes: 18 },
  absent('pku', 'pku.flat', 'no protection keys'),
  absent('pks', 'pks.flat', 'no protection keys'),
  absent('asyncpf', 'asyncpf.flat', NO_KVM),
  { name: 'emulator', file: 'emulator.flat', passes: 150 },
  { name: 'eventinj', file: 'eventinj.flat', passes: 13 },
  { name: 'hypercall', file: 'hypercall.flat', passes: 4 },
  { name: 'idt_test', file: 'idt_test.flat', passes: 4 },
  { name: 'memory', file: 'memory.flat', passes: 5 },
  { name: 'msr', file: 'msr.flat', passes: 1807 },
  { name: 'msr64', file: 'msr.flat', hide: ['pcid', 'invpcid', 'umip', 'smep', 'smap'], passes: 1807 },
  { name: 'pmu', file: 'pmu.flat', passes: 1 },
  absent('pmu_lbr', 'pmu_lbr.flat', 'no performance counters'),
  absent('pmu_pebs', 'pmu_pebs.flat', 'no performance counters'),
  {
    name: 'vmware_backdoors',
    file: 'vmware_backdoors.flat',
    expect: 'fail',
    fails: [
      'vmware_backdoors: port_test: CMD_GETVERSION user',
      'vmware_backdoors: port_test: CMD_GETVERSION kernel',
      'vmware_backdoors: port_test: CMD_ILLEGAL user',
    ],
    reason: "no VMware backdoor port; the tests ask KVM's module for it before they run",
  },
  { name: 'realmode', file: 'realmode.flat', passes: 127 },
  {
    name: 's3',
    file: 's3.flat',
    limit: 10,
    expect: 'timeout',
    reason: 'no suspend to RAM: S5 is the only sleep state',
  },
  { name: 'setjmp', file: 'setjmp.flat', passes: 10 },
  { name: 'sieve', file: 'sieve.flat', limit: 300, slow: true },
  { name: 'syscall', file: 'syscall.flat', vendor: 'amd', passes: 2 },
  { name: 'tsc', file: 'tsc.flat', passes: 3 },
  { name: 'tsc_adjust', file: 'tsc_adjust.flat', passes: 6 },
  { name: 'xsave', file: 'xsave.flat', passes: 299 },
  { name: 'rmap_chain', file: 'rmap_chain.flat' },
  absent('svm', 'svm.flat', NO_SVM, { cpus: 2 }),
  absent('svm_unsupported_instruction_intercept_test', 'svm.flat', NO_SVM),
  absent('svm_no_npt', 'svm.flat', NO_SVM, { cpus: 2 }),
  absent('svm_pause_filter', 'svm.flat', NO_SVM, { args: 'pause_filter_test' }),
  absent('svm_npt', 'svm_npt.flat', NO_SVM, { cpus: 2 }),
  { name: 'taskswitch', file: 'taskswitch.flat', bits: 32 },
  { name: 'taskswitch2', file: 'taskswitch2.flat', bits: 32, passes: 13 },
  absent('kvmclock_test', 'kvmclock_test.flat', NO_KVM, { cpus: 2, args: '10000000 1' }),
  { name: 'pcid-enabled', file: 'pcid.flat', passes: 2 },
  { name: 'pcid-disabled', file: 'pcid.flat', hide: ['pcid', 'invpcid'], passes: 2 },
  { name: 'pcid-asymmetric', file: 'pcid.flat', hide: ['pcid'], passes: 2 },
  { name: 'rdpru', file: 'rdpru.flat', passes: 1 },
  { name: 'umip', file: 'umip.flat', passes: 21 },
  { name: 'la57', file: 'la57.flat', passes: 52 },
  vmx('vmx'),
  vmx('ept'),
  vmx('ept-mbec'),
  vmx('vmx_eoi_bitmap_ioapic_scan', 2),
  vmx('vmx_hlt_with_rvi_test'),
  vmx('vmx_apicv_test'),
  vmx('vmx_posted_intr_test', 2),
  vmx('vmx_apic_passthrough_thread', 2),
  vmx('vmx_init_signal_test', 2),
  vmx('vmx_sipi_signal_test', 2),
  vmx('vmx_apic_passthrough_tpr_threshold_test'),
  vmx('vmx_vmcs_shadow_test'),
  vmx('vmx_pf_exception_test'),
  vmx('vmx_pf_exception_test_fep'),
  vmx('vmx_pf_vpid_test'),
  vmx('vmx_pf_invvpid_test'),
  vmx('vmx_pf_no_vpid_test'),
  vmx('vmx_pf_exception_test_reduced_maxphyaddr'),
  { name: 'debug', file: 'debug.flat', passes: 25 },
  absent('hyperv_synic', 'hyperv_synic.flat', NO_HYPERV, { cpus: 2 }),
  absent('hyperv_connections', 'hyperv_connections.flat', NO_HYPERV, { cpus: 2 }),
  absent('hyperv_stimer', 'hyperv_stimer.flat', NO_HYPERV, { cpus: 2 }),
  absent('hyperv_stimer_direct', 'hyperv_stimer.flat', NO_HYPERV, { cpus: 2, args: 'direct' }),
  absent('hyperv_clock', 'hyperv_clock.flat', NO_HYPERV, { cpus: 2 }),
  {
    name: 'intel_iommu',
    file: 'intel-iommu.flat',
    cpus: 4,
    expect: 'fail',
    fails: ['vtd_init: fault status check'],
    reason: 'no IOMMU; the registers it looks for read as all ones',
  },
  absent('tsx-ctrl', 'tsx-ctrl.flat', 'no transactional memory'),
  absent('cet', 'cet.flat', 'no control-flow enforcement', { cpus: 2 }),
  { name: 'lam', file: 'lam.flat', passes: 19 },

  { name: 'smptest-i386', file: 'smptest.flat', bits: 32, cpus: 2, passes: 1 },
  { name: 'smap-i386', file: 'smap.flat', bits: 32, passes: 18 },
  { name: 'emulator-i386', file: 'emulator.flat', bits: 32, passes: 85 },
  { name: 'eventinj-i386', file: 'eventinj.flat', bits: 32, passes: 15 },
  { name: 'hypercall-i386', file: 'hypercall.flat', bits: 32, passes: 2 },
  { name: 'la57-i386', file: 'la57.flat', bits: 32, passes: 1 },
  { name: 'msr-i386', file: 'msr.flat', bits: 32, passes: 1807 },
  { name: 'realmode-i386', file: 'realmode.flat', bits: 32, passes: 127 },
  { name: 'setjmp-i386', file: 'setjmp.flat', bits: 32, passes: 10 },
  { name: 'sieve-i386', file: 'sieve.flat', bits: 32, limit: 300, slow: true },
  { name: 'tsc-i386', file: 'tsc.flat', bits: 32, passes: 3 },
  { name: 'umip-i386', file: 'umip.flat', bits: 32, passes: 21 },
];
