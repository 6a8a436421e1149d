// Numbers of the Linux KVM interface, x86-64 (include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h; api.rst).

/** Capabilities, api.rst §8 and KVM_CHECK_EXTENSION. */
export const CAP_USER_MEMORY = 3;
export const CAP_EXT_CPUID = 7;
export const CAP_USER_NMI = 22;
export const CAP_VCPU_EVENTS = 41;
export const CAP_DEBUGREGS = 50;
export const CAP_XSAVE = 55;
export const CAP_XCRS = 56;
export const CAP_IRQCHIP = 0;
export const CAP_TSC_CONTROL = 60;
export const CAP_SPLIT_IRQCHIP = 121;
export const CAP_SYS_HYPERV_CPUID = 191;
export const CAP_READONLY_MEM = 81;
export const CAP_IMMEDIATE_EXIT = 136;
export const CAP_X86_USER_SPACE_MSR = 188;
export const CAP_X86_MSR_FILTER = 189;

/** Argument of CAP_X86_USER_SPACE_MSR: which refused accesses leave the engine. */
export const MSR_EXIT_INVAL: number = 1 << 0;
export const MSR_EXIT_UNKNOWN: number = 1 << 1;
export const MSR_EXIT_FILTER: number = 1 << 2;

/** struct kvm_run: what we write. Offsets in bytes. */
export const RUN_REQUEST_INTERRUPT_WINDOW = 0;
export const RUN_IMMEDIATE_EXIT = 1;
/** What the kernel writes. */
export const RUN_EXIT_REASON = 8;
export const RUN_READY_FOR_INTERRUPT = 12;
export const RUN_IF_FLAG = 13;
/** Both ways: 64 bit, the low four count. */
export const RUN_CR8 = 16;
/** The union of the exits' own fields. */
export const RUN_EXIT = 32;

/** Exit reasons. */
export const EXIT_UNKNOWN = 0;
export const EXIT_EXCEPTION = 1;
export const EXIT_IO = 2;
export const EXIT_DEBUG = 4;
export const EXIT_HLT = 5;
export const EXIT_MMIO = 6;
export const EXIT_IRQ_WINDOW_OPEN = 7;
export const EXIT_SHUTDOWN = 8;
export const EXIT_FAIL_ENTRY = 9;
export const EXIT_INTR = 10;
export const EXIT_SET_TPR = 11;
export const EXIT_INTERNAL_ERROR = 17;
export const EXIT_SYSTEM_EVENT = 24;
export const EXIT_IOAPIC_EOI = 26;
export const EXIT_X86_RDMSR = 29;
export const EXIT_X86_WRMSR = 30;

/** EXIT_IO: u8 direction (1: out), u8 size, u16 port, u32 count, u64 offset of the data in the run page. */
export const IO_DIRECTION: number = RUN_EXIT;
export const IO_SIZE: number = RUN_EXIT + 1;
export const IO_PORT: number = RUN_EXIT + 2;
export const IO_COUNT: number = RUN_EXIT + 4;
export const IO_DATA_OFFSET: number = RUN_EXIT + 8;

/** EXIT_MMIO: u64 address, u8 data[8], u32 length, u8 is_write. */
export const MMIO_ADDR: number = RUN_EXIT;
export const MMIO_DATA: number = RUN_EXIT + 8;
export const MMIO_LEN: number = RUN_EXIT + 16;
export const MMIO_IS_WRITE: number = RUN_EXIT + 20;

/** EXIT_X86_RDMSR, EXIT_X86_WRMSR: u8 error (we write; 1: #GP), u32 reason, u32 index, u64 data. */
export const MSR_ERROR: number = RUN_EXIT;
export const MSR_INDEX: number = RUN_EXIT + 12;
export const MSR_DATA: number = RUN_EXIT + 16;

/** EXIT_INTERNAL_ERROR: u32 suberror, u32 ndata, then for suberror 1 u64 flags, u8 size, u8 instruction[15]. */
export const INTERNAL_SUBERROR: number = RUN_EXIT;
export const INTERNAL_NDATA: number = RUN_EXIT + 4;
export const INTERNAL_FLAGS: number = RUN_EXIT + 8;
export const INTERNAL_INSN_SIZE: number = RUN_EXIT + 16;
export const INTERNAL_INSN: number = RUN_EXIT + 17;
export const INTERNAL_EMULATION = 1;
export const INTERNAL_HAS_INSN: number = 1 << 0;

/** EXIT_DEBUG: u32 exception, then u64 PC, DR6, DR7. */
export const DEBUG_DR6: number = RUN_EXIT + 16;

/** EXIT_IOAPIC_EOI: u8 vector. */
export const EOI_VECTOR: number = RUN_EXIT;

/** EXIT_FAIL_ENTRY: u64 reason, u32 CPU. */
export const FAIL_ENTRY_REASON: number = RUN_EXIT;

/** Parts of the state, as src/native/backend.h counts them, with their sizes; 0: by count. */
export const PART_REGS = 0;
export const PART_SREGS = 1;
export const PART_XSAVE = 2;
export const PART_XCRS = 3;
export const PART_DEBUGREGS = 4;
export const PART_EVENTS = 5;
export const PART_MSRS = 6;
export const PART_CPUID = 7;
export const PART_TRANSLATE = 8;
export const PART_TSC_KHZ = 9;
export const PART_GUEST_DEBUG = 10;
export const PART_MP_STATE = 11;
export const PART_LAPIC = 12;
export const PART_TSC_OFFSET = 13;
export const SIZE_TSC_OFFSET = 8;
export const SIZE_GUEST_DEBUG = 72;
export const SIZE_LAPIC = 1024;
export const SIZE_REGS = 144;
export const SIZE_SREGS = 312;
export const SIZE_XSAVE = 4096;
export const SIZE_XCRS = 392;
export const SIZE_DEBUGREGS = 128;
export const SIZE_EVENTS = 64;
export const SIZE_TRANSLATE = 24;
/** struct kvm_cpuid_entry2, in 32-bit words; its flag that the index counts. */
export const CPUID_WORDS = 10;
export const CPUID_FLAG_INDEX = 1;

/** struct kvm_regs: RAX RBX RCX RDX RSI RDI RSP RBP R8–R15 RIP RFLAGS. Where RAX RCX RDX RBX RSP RBP RSI RDI are. */
export const REGS_ORDER: readonly number[] = [0, 2, 3, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];
export const REGS_RIP = 128;
export const REGS_RFLAGS = 136;

/** struct kvm_sregs: CS DS ES FS GS SS TR LDT of 24 bytes, GDT, IDT of 16, then control registers. Where ES CS SS … TR are. */
export const SREGS_ORDER: readonly number[] = [2, 0, 5, 1, 3, 4, 7, 6];
export const SEGMENT_SIZE = 24;
export const SREGS_GDT = 192;
export const SREGS_IDT = 208;
export const SREGS_CR0 = 224;
export const SREGS_CR2 = 232;
export const SREGS_CR3 = 240;
export const SREGS_CR4 = 248;
export const SREGS_CR8 = 256;
export const SREGS_EFER = 264;
export const SREGS_APIC_BASE = 272;
export const SREGS_INTERRUPT_BITMAP = 280;

/** struct kvm_vcpu_events. */
export const EVENTS_INTERRUPT_INJECTED = 8;
export const EVENTS_INTERRUPT_NR = 9;
export const EVENTS_INTERRUPT_SOFT = 10;
export const EVENTS_INTERRUPT_SHADOW = 11;
export const EVENTS_NMI_INJECTED = 12;
export const EVENTS_NMI_PENDING = 13;
export const EVENTS_NMI_MASKED = 14;
export const EVENTS_FLAGS = 20;
export const EVENTS_FLAG_NMI_PENDING: number = 1 << 0;
export const EVENTS_FLAG_SHADOW: number = 1 << 2;

/** struct kvm_guest_debug: u32 control, then from 8 eight debug registers. */
export const DEBUG_ENABLE: number = 1 << 0;
export const DEBUG_SINGLE_STEP: number = 1 << 1;
export const DEBUG_HARDWARE: number = 1 << 17;
export const DEBUG_REGISTERS = 8;

/** enum of KVM_GET_MP_STATE. */
export const MP_RUNNABLE = 0;
export const MP_UNINITIALIZED = 1;
export const MP_INIT_RECEIVED = 2;
export const MP_HALTED = 3;

/** Numbers that Native.next gives: vCPUs below, doorbells from here. */
export const BELLS_FROM = 256;
export const MOST_BELLS = 256;
/** What Native.result gives besides errors: a stop that was asked for; the 8259's interrupt can be given. */
export const TURN_STOPPED = -4;
export const TURN_EXTERNAL = -512;
/** There is no external interrupt after all. */
export const EXTERNAL_NONE = -1;

/** MSRs of local APICs: they stay in the kernel when those do. (No filter applies to 0x800–0x8FF, those of x2APIC.) */
export const APIC_MSRS: readonly number[] = [0x1b, 0x6e0];
/** MSRs of kvmclock (both numbers of both) and of stolen time. */
export const KVM_MSRS: readonly number[] = [0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x4b564d03];
/** Hyper-V's: guest id, hypercall page, vCPU index, reset, reference counter, reference TSC, frequencies, EOI, ICR, TPR, assist page. */
export const HYPERV_MSRS: readonly number[] = [
  0x40000000, 0x40000001, 0x40000002, 0x40000003, 0x40000020, 0x40000021, 0x40000022, 0x40000023, 0x40000070,
  0x40000071, 0x40000072, 0x40000073,
];

/** Of the para-virtual ones, those whose value follows from others: the clocks' older numbers, counters, APIC registers. */
export const DERIVED_MSRS: readonly number[] = [
  0x11, 0x12, 0x40000002, 0x40000003, 0x40000020, 0x40000022, 0x40000023, 0x40000070, 0x40000071, 0x40000072,
];

/** MSRs that the engine holds; see core's Vcpu. */
export const MSR_TSC = 0x10;
export const MSR_TSC_ADJUST = 0x3b;
export const MSR_EFER = 0xc0000080;
export const MSR_FS_BASE = 0xc0000100;
export const MSR_GS_BASE = 0xc0000101;
export const MSR_PAT = 0x277;
/** In a state: STAR LSTAR CSTAR FMASK KERNEL_GS_BASE SYSENTER_CS/ESP/EIP PAT TSC_AUX, then TSC_ADJUST and TSC. */
export const SAVED_MSRS: readonly number[] = [
  0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0x174, 0x175, 0x176, 0x277, 0xc0000103, 0x3b, 0x10,
];
/** All of them. */
export const ENGINE_MSRS: readonly number[] = [...SAVED_MSRS, MSR_EFER, MSR_FS_BASE, MSR_GS_BASE];
/** IA32_PAT after power-on, SDM vol. 3 §12.12.4. */
export const PAT_RESET = 0x0007040600070406n;

/** Kinds of routes, KVM_SET_GSI_ROUTING: an input of the kernel's own controllers, or a message. */
export const ROUTE_INPUT = 1;
export const ROUTE_MESSAGE = 2;
/** Controllers of KVM_GET_IRQCHIP, the first word of {@link VM_PART_IRQCHIP}. */
export const CHIP_MASTER = 0;
export const CHIP_SLAVE = 1;
export const CHIP_IOAPIC = 2;

/** Parts of a VM's state, as src/native/backend.h counts them: kvm_irqchip, kvm_pit_state2, kvm_clock_data. */
export const VM_PART_IRQCHIP = 0;
export const VM_PART_PIT = 1;
export const VM_PART_CLOCK = 2;
export const SIZE_IRQCHIP = 520;
export const SIZE_PIT = 112;
export const SIZE_CLOCK = 48;

/** struct kvm_irqchip: u32 controller, u32 0, then its registers from here. */
export const CHIP_REGISTERS = 8;
/** struct kvm_pic_state, all bytes: offsets from CHIP_REGISTERS. */
export const PIC_LAST_IRR = 0;
export const PIC_IRR = 1;
export const PIC_IMR = 2;
export const PIC_ISR = 3;
export const PIC_PRIORITY_ADD = 4;
export const PIC_BASE = 5;
export const PIC_READ_ISR = 6;
export const PIC_POLL = 7;
export const PIC_SPECIAL_MASK = 8;
export const PIC_INIT_STATE = 9;
export const PIC_AUTO_EOI = 10;
export const PIC_ROTATE_AEOI = 11;
export const PIC_SFNM = 12;
export const PIC_INIT4 = 13;
export const PIC_ELCR = 14;
/** struct kvm_ioapic_state: u64 base, u32 index register, u32 id, u32 IRR, u32 0, u64 entries[24]; from CHIP_REGISTERS. */
export const IOAPIC_BASE = 0;
export const IOAPIC_INDEX = 8;
export const IOAPIC_ID = 12;
export const IOAPIC_IRR = 16;
export const IOAPIC_ENTRIES = 24;

/** struct kvm_pit_channel_state, three of them, then u32 flags. u32 count, u16 latched count, then bytes, then s64 load time. */
export const PIT_CHANNEL_SIZE = 24;
export const PIT_COUNT = 0;
export const PIT_LATCHED_COUNT = 4;
export const PIT_COUNT_LATCHED = 6;
export const PIT_STATUS_LATCHED = 7;
export const PIT_STATUS = 8;
export const PIT_READ_STATE = 9;
export const PIT_WRITE_STATE = 10;
export const PIT_WRITE_LATCH = 11;
export const PIT_RW_MODE = 12;
export const PIT_MODE = 13;
export const PIT_BCD = 14;
export const PIT_GATE = 15;
/** CLOCK_MONOTONIC of the host, ns. */
export const PIT_LOAD_TIME = 16;
export const PIT_FLAGS: number = 3 * PIT_CHANNEL_SIZE;
/** The HPET has taken counter 0's interrupt over. */
export const PIT_FLAG_HPET: number = 1 << 0;
/** Bit 1 of port 0x61. */
export const PIT_FLAG_SPEAKER: number = 1 << 1;
/** PIT_READ_STATE and PIT_WRITE_STATE: a two-byte access is at its first or its second byte. */
export const PIT_WORD0 = 3;
export const PIT_WORD1 = 4;

/** struct kvm_clock_data: u64 clock, u32 flags. */
export const CLOCK_FLAGS = 8;

/** The local APIC's page in KVM_GET_LAPIC, as SDM vol. 3 table 11-1 has it. */
export const APIC_ID = 0x20;
export const APIC_TPR = 0x80;
export const APIC_LDR = 0xd0;
export const APIC_DFR = 0xe0;
export const APIC_SVR = 0xf0;
export const APIC_ISR = 0x100;
export const APIC_TMR = 0x180;
export const APIC_IRR = 0x200;
export const APIC_ESR = 0x280;
export const APIC_ICR_LO = 0x300;
export const APIC_ICR_HI = 0x310;
export const APIC_TIMER_INIT = 0x380;
export const APIC_TIMER_NOW = 0x390;
export const APIC_TIMER_DIVIDE = 0x3e0;
/** CMCI, timer, thermal, performance, LINT0, LINT1, error. */
export const APIC_LVT: readonly number[] = [0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370];
/** Timer modes in bits 18:17 of the timer's entry. */
export const APIC_TIMER_MODE_SHIFT = 17;
export const APIC_TIMER_DEADLINE = 2;
/** IA32_APIC_BASE. */
export const APIC_BASE_X2APIC: number = 1 << 10;
export const APIC_BASE_ENABLE: number = 1 << 11;
export const MSR_TSC_DEADLINE = 0x6e0;

/** Errors that {@link Native} gives back as negative numbers. */
export const EINTR = 4;
export const EAGAIN = 11;
export const EBUSY = 16;
