// Numbers of the system architecture: control registers, MSRs, descriptors, XSAVE. Intel SDM vol. 3A chapters 2–8, vol. 4.

/** CR0, 32 bit, SDM vol. 3A §2.5. */
export const CR0_PE: number = 1 << 0;
export const CR0_MP: number = 1 << 1;
export const CR0_EM: number = 1 << 2;
export const CR0_TS: number = 1 << 3;
export const CR0_ET: number = 1 << 4;
export const CR0_NE: number = 1 << 5;
export const CR0_WP: number = 1 << 16;
export const CR0_AM: number = 1 << 18;
export const CR0_NW: number = 1 << 29;
export const CR0_CD: number = 1 << 30;
export const CR0_PG: number = 1 << 31;
/** Bits that exist; writes to others have no effect. */
export const CR0_DEFINED: number =
  CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;

/** CR4, 32 bit, SDM vol. 3A §2.5. */
export const CR4_TSD: number = 1 << 2;
export const CR4_DE: number = 1 << 3;
export const CR4_PSE: number = 1 << 4;
export const CR4_PAE: number = 1 << 5;
export const CR4_MCE: number = 1 << 6;
export const CR4_PGE: number = 1 << 7;
export const CR4_PCE: number = 1 << 8;
export const CR4_OSFXSR: number = 1 << 9;
export const CR4_OSXMMEXCPT: number = 1 << 10;
export const CR4_UMIP: number = 1 << 11;
export const CR4_FSGSBASE: number = 1 << 16;
export const CR4_PCIDE: number = 1 << 17;
export const CR4_OSXSAVE: number = 1 << 18;
export const CR4_SMEP: number = 1 << 20;
export const CR4_SMAP: number = 1 << 21;

/** EFER, SDM vol. 4 table 2-2. */
export const EFER_SCE: number = 1 << 0;
export const EFER_LME: number = 1 << 8;
export const EFER_LMA: number = 1 << 10;
export const EFER_NXE: number = 1 << 11;

/** DR6, SDM vol. 3B §18.2.3. */
export const DR6_BD: number = 1 << 13;
export const DR6_BS: number = 1 << 14;
export const DR6_BT: number = 1 << 15;
/** Bits of DR6 that software can set; the rest read as in {@link DR6_FIXED}. */
export const DR6_WRITABLE = 0xe00f;
export const DR6_FIXED = 0xffff0ff0;
/** Breakpoint conditions: each #DB that reports any replaces them. */
export const DR6_HITS = 0xf;
/** DR7. */
export const DR7_GD: number = 1 << 13;
export const DR7_WRITABLE = 0xffff23ff;
export const DR7_FIXED = 0x400;
/** L0–L3 and G0–G3. */
export const DR7_ENABLES = 0xff;
/** L0–L3 and LE: cleared by a task switch. */
export const DR7_LOCAL = 0x155;

/** MSRs that the engine holds, SDM vol. 4. */
export const MSR_TSC = 0x10;
export const MSR_TSC_ADJUST = 0x3b;
export const MSR_SYSENTER_CS = 0x174;
export const MSR_SYSENTER_ESP = 0x175;
export const MSR_SYSENTER_EIP = 0x176;
export const MSR_PAT = 0x277;
export const MSR_EFER = 0xc0000080;
export const MSR_STAR = 0xc0000081;
export const MSR_LSTAR = 0xc0000082;
export const MSR_CSTAR = 0xc0000083;
export const MSR_FMASK = 0xc0000084;
export const MSR_FS_BASE = 0xc0000100;
export const MSR_GS_BASE = 0xc0000101;
export const MSR_KERNEL_GS_BASE = 0xc0000102;
export const MSR_TSC_AUX = 0xc0000103;
/** PAT after reset: WB WT UC- UC, twice. */
export const PAT_DEFAULT = 0x00070406;

/** Second word of a descriptor, SDM vol. 3A §3.4.5. */
export const DESC_A: number = 1 << 8;
export const DESC_RW: number = 1 << 9;
/** Conforming (code) or expand-down (data). */
export const DESC_CE: number = 1 << 10;
export const DESC_CODE: number = 1 << 11;
export const DESC_S: number = 1 << 12;
export const DESC_DPL_SHIFT = 13;
export const DESC_P: number = 1 << 15;
export const DESC_L: number = 1 << 21;
export const DESC_D: number = 1 << 22;
export const DESC_G: number = 1 << 23;
/** Busy bit of a TSS descriptor. */
export const DESC_BUSY: number = 1 << 9;

/** System descriptor types, SDM vol. 3A table 3-2. */
export const TYPE_TSS16 = 1;
export const TYPE_LDT = 2;
export const TYPE_TSS16_BUSY = 3;
export const TYPE_CALL16 = 4;
export const TYPE_TASK_GATE = 5;
export const TYPE_INT16 = 6;
export const TYPE_TRAP16 = 7;
export const TYPE_TSS32 = 9;
export const TYPE_TSS32_BUSY = 11;
export const TYPE_CALL32 = 12;
export const TYPE_INT32 = 14;
export const TYPE_TRAP32 = 15;

/** Access-right bits in the cached form (SEG_ATTR). */
export const ATTR_RW: number = 1 << 1;
export const ATTR_EXPAND_DOWN: number = 1 << 2;
export const ATTR_CODE: number = 1 << 3;
/** Flat code segments that SYSCALL and its kin load: 64-bit and 32-bit, DPL 0. */
export const ATTR_CODE64 = 0xa09b;
export const ATTR_CODE32 = 0xc09b;
/** Flat data segment, 32 bit, DPL 0. */
export const ATTR_DATA32 = 0xc093;
/** Bits to add for DPL 3. */
export const ATTR_DPL3 = 0x60;

/** XSAVE components, SDM vol. 1 §13.1. */
export const XF_X87: number = 1 << 0;
export const XF_SSE: number = 1 << 1;
export const XF_AVX: number = 1 << 2;
/** Offset and size of the AVX component, both formats, bytes. */
export const XSAVE_HEADER = 512;
export const XSAVE_AVX = 576;
export const XSAVE_SIZE = 832;
/** MXCSR bits that exist. */
export const MXCSR_MASK = 0xffff;
export const MXCSR_RESET = 0x1f80;

/** CPUID.1:ECX. */
export const F1C_PCID: number = 1 << 17;
export const F1C_XSAVE: number = 1 << 26;
/** CPUID.1:EDX. */
export const F1D_DE: number = 1 << 2;
export const F1D_PSE: number = 1 << 3;
export const F1D_TSC: number = 1 << 4;
export const F1D_PAE: number = 1 << 6;
export const F1D_MCE: number = 1 << 7;
export const F1D_PGE: number = 1 << 13;
export const F1D_FXSR: number = 1 << 24;
/** CPUID.0:EBX of processors that follow AMD where the two differ: AuthenticAMD, HygonGenuine. */
export const VENDOR_AMD = 0x68747541;
export const VENDOR_HYGON = 0x6f677948;

/** CPUID.7.0:EBX. */
export const F7B_FSGSBASE: number = 1 << 0;
export const F7B_TSC_ADJUST: number = 1 << 1;
export const F7B_SMEP: number = 1 << 7;
export const F7B_INVPCID: number = 1 << 10;
export const F7B_SMAP: number = 1 << 20;
/** CPUID.7.0:ECX. */
export const F7C_UMIP: number = 1 << 2;
export const F7C_RDPID: number = 1 << 22;
/** CPUID.80000001:EDX. */
export const F81D_SYSCALL: number = 1 << 11;
export const F81D_NX: number = 1 << 20;
export const F81D_RDTSCP: number = 1 << 27;
export const F81D_LM: number = 1 << 29;
/** CPUID.D.1:EAX. */
export const FD1A_XSAVEC: number = 1 << 1;
export const FD1A_XGETBV1: number = 1 << 2;
