// Layout of one vCPU's state in linear memory: plain numbers, shared by the WebAssembly code and TypeScript.
// Intel SDM volume 3A chapter 2 for the registers. All offsets are bytes from the vCPU's base, which is 4 KiB aligned.

/** Bytes set aside per vCPU for the state proper. */
export const STATE_SIZE = 4096;

/** RAX RCX RDX RBX RSP RBP RSI RDI R8–R15, 64 bit each. */
export const GPR = 0;
/** Always zero: stands for an absent base or index register. */
export const ZERO = 128;
/** RIP, 64 bit; current only between blocks, see RIP_BASE. */
export const RIP = 136;

// Arithmetic flags, kept lazily. ZF = (FZ == 0), SF = bit 63 of FR, PF = even parity of FR's low byte,
// CF = bit 31 of FC, OF = bit 31 of FC xor bit 30 of FC, AF = bit 4 of FX.
/** 64 bit: zero exactly when ZF is set. */
export const FZ = 144;
/** 64 bit: the last result, sign-extended. */
export const FR = 152;
/** 32 bit: carries out of the top two bits. */
export const FC = 160;
/** 32 bit: bit 4 is AF. */
export const FX = 164;
/** 32 bit: all other EFLAGS bits (TF IF DF IOPL NT RF VM AC VIF VIP ID); bit 1 set; arithmetic bits zero. */
export const EFL = 168;
/** 32 bit: current privilege level 0–3 (kept apart from CS.RPL; 3 in virtual-8086 mode, 0 in real mode). */
export const CPL = 172;

/** Segments ES CS SS DS FS GS LDTR TR, {@link SEG_STRIDE} bytes each. */
export const SEG = 192;
/** Bytes per segment register. */
export const SEG_STRIDE = 24;
/** 64 bit base. */
export const SEG_BASE = 0;
/** 32 bit limit in bytes, granularity applied. */
export const SEG_LIMIT = 8;
/** 32 bit access rights: descriptor bits 40–47 in 0–7, 52–55 in 12–15, bit 16 = unusable (null). */
export const SEG_ATTR = 12;
/** 16 bit selector, stored in 32. */
export const SEG_SEL = 16;
/** Segment numbers. */
export const ES = 0;
export const CS = 1;
export const SS = 2;
export const DS = 3;
export const FS = 4;
export const GS = 5;
export const LDTR = 6;
export const TR = 7;

/** Access-right bits in SEG_ATTR. */
export const ATTR_P: number = 1 << 7;
export const ATTR_S: number = 1 << 4;
export const ATTR_L: number = 1 << 13;
export const ATTR_DB: number = 1 << 14;
export const ATTR_G: number = 1 << 15;
export const ATTR_UNUSABLE: number = 1 << 16;

/** GDTR: 64 bit base, 32 bit limit. */
export const GDT_BASE = 384;
export const GDT_LIMIT = 392;
/** IDTR: 64 bit base, 32 bit limit. */
export const IDT_BASE = 400;
export const IDT_LIMIT = 408;

/** Control registers, 64 bit. */
export const CR0 = 416;
export const CR2 = 424;
export const CR3 = 432;
export const CR4 = 440;
export const EFER = 448;
export const XCR0 = 456;
/** DR0–DR7, 64 bit each. */
export const DR = 464;
/** MSRs the engine holds, 64 bit each. */
export const STAR = 528;
export const LSTAR = 536;
export const CSTAR = 544;
export const FMASK = 552;
export const KERNEL_GS_BASE = 560;
export const SYSENTER_CS = 568;
export const SYSENTER_ESP = 576;
export const SYSENTER_EIP = 584;
export const PAT = 592;
export const TSC_OFFSET = 600;
export const TSC_AUX = 608;

/** 64 bit: instructions retired, counted ahead to the end of the running block. */
export const ICOUNT = 616;
/** 32 bit: instructions left before the run loop wants control; {@link ATTENTION} asks for attention at the next block. */
export const BUDGET = 624;
/** A BUDGET that stays negative when the unused part of a block is given back to it. */
export const ATTENTION: number = -(1 << 30);
/** 32 bit: mode key of the running code, see MODE_ bits. */
export const MODE = 628;
/** 32 bit: address of the TLB bank for data accesses at the current privilege. */
export const TLB_DATA = 632;
/** 32 bit: address of the TLB bank for instruction fetch. */
export const TLB_CODE = 636;
/** 32 bit: address of the TLB bank for implicit supervisor accesses (descriptor tables, stacks of inner rings). */
export const TLB_SYS = 640;
/** 32 bit: 0, or 1 + vector of the fault raised by the running instruction. */
export const FAULT = 644;
/** 32 bit: its error code (0 where it has none). */
export const FAULT_CODE = 648;
/** 32 bit: non-zero if CPUID has RDTSCP. */
export const HAS_RDTSCP = 652;
/** 64 bit: its linear address, for page faults. */
export const FAULT_ADDR = 656;
/** 32 bit: non-zero if CPUID has XSAVEC. */
export const HAS_XSAVEC = 708;
/** 64 bit: RIP of the first instruction of the running block. */
export const RIP_BASE = 664;
/** 32 bit: record of the running instruction, while a helper runs. */
export const CUR_REC = 672;
/** 32 bit: exit reason set by a helper, see exits.ts. */
export const EXIT_CODE = 676;
/** 64 bit: value of ICOUNT at which an STI or MOV SS shadow holds. */
export const SHADOW_AT = 680;
/** 64 bit float: linear address of a memory operand handed to a TypeScript helper, signed. */
export const EA_F64 = 688;
/** 64 bit: the same as an integer. */
export const EA = 696;
/** 32 bit: link field to patch after the next block lookup, or 0. */
export const LINK_SLOT = 704;
/** 32 bit: guest-physical address result of a translation, low; high at +4. */
export const PHYS = 712;
/** 32 bit: read-modify-write scratch: non-zero size while a commit is due. */
export const RMW_SIZE = 720;
/** 64 bit: its linear address. */
export const RMW_ADDR = 728;
/** 16 bytes: the scratch value. */
export const RMW_DATA = 736;

/** x87 physical registers R0–R7 (not relative to TOP), 16 bytes each: 64-bit significand, then 16-bit sign and exponent. */
export const FPR = 768;
/** 32 bit: TOP of stack, 0–7. */
export const FTOP = 896;
/** 32 bit: control word. */
export const FCW = 900;
/** 32 bit: status word without TOP (bits 11–13 zero). */
export const FSW = 904;
/** 32 bit: one bit per physical register, set when it is NOT empty. */
export const FTW = 908;
/** 32 bit: last opcode, 11 bits. */
export const FOP = 912;
/** 32 bit each: last instruction's and operand's selectors. */
export const FCS = 916;
export const FDS = 920;
/** 64 bit: last instruction pointer and operand pointer. */
export const FIP = 928;
export const FDP = 936;
/** 32 bit: MXCSR. */
export const MXCSR = 944;
/**
 * 32 bit: not 0 if all of {@link YMMH} is 0, so that VZEROUPPER has nothing to do. Whatever writes there something that is
 * not 0, or may not be, clears it.
 */
export const UPPERS_ZERO = 948;
/** XMM0–XMM15, 16 bytes each. */
export const XMM = 1024;
/** Upper halves of YMM0–YMM15, 16 bytes each. */
export const YMMH = 1280;
/** 512 bytes of scratch for helpers (softfloat results, m80 staging and the like). */
export const SCRATCH = 1536;
/** 4 × 64 bit: cached PDPTEs of PAE paging. */
export const PDPTE = 2048;

/** EFLAGS bits. */
export const FLAG_CF: number = 1 << 0;
export const FLAG_PF: number = 1 << 2;
export const FLAG_AF: number = 1 << 4;
export const FLAG_ZF: number = 1 << 6;
export const FLAG_SF: number = 1 << 7;
export const FLAG_TF: number = 1 << 8;
export const FLAG_IF: number = 1 << 9;
export const FLAG_DF: number = 1 << 10;
export const FLAG_OF: number = 1 << 11;
export const FLAG_IOPL_SHIFT = 12;
export const FLAG_NT: number = 1 << 14;
export const FLAG_RF: number = 1 << 16;
export const FLAG_VM: number = 1 << 17;
export const FLAG_AC: number = 1 << 18;
export const FLAG_VIF: number = 1 << 19;
export const FLAG_VIP: number = 1 << 20;
export const FLAG_ID: number = 1 << 21;

/** MODE bits: bits 0–1 code size (0: 16, 1: 32, 2: 64). Code decoded under one mode key is valid for that key only. */
export const MODE_SIZE = 3;
/** Stack addressing uses ESP (else SP); meaningless in 64-bit mode. */
export const MODE_SS32: number = 1 << 2;
/** ES, CS, SS, DS are flat: base 0, limit 4 GiB, present, writable where used. Always set in 64-bit mode. */
export const MODE_FLAT: number = 1 << 3;
/** CR0.TS: x87, MMX and SSE raise #NM. */
export const MODE_TS: number = 1 << 4;
/** CR0.EM. */
export const MODE_EM: number = 1 << 5;
/** CR4.OSFXSR: SSE is on. */
export const MODE_SSE: number = 1 << 6;
/** CR4.OSXSAVE and XCR0 has SSE and AVX: AVX is on. */
export const MODE_AVX: number = 1 << 7;
/** Protected mode and not virtual-8086: VEX prefixes are there, SDM vol. 2 §2.8. */
export const MODE_VEX: number = 1 << 9;
/** CS limit is 4 GiB - 1 or the mode is 64-bit: no fetch limit checks. */
export const MODE_CSFULL: number = 1 << 8;

/** Helper results: go on with the next instruction. */
export const ST_NEXT = 0;
/** A fault is in FAULT: deliver it; the instruction did not complete. */
export const ST_FAULT = 1;
/** RIP holds the next instruction's address: look the block up. */
export const ST_JUMP = 2;
/** RIP holds where to go on; leave to the run loop with EXIT_CODE. */
export const ST_EXIT = 3;

/** EXIT_CODE: budget used up or attention wanted. */
export const EX_BUDGET = 0;
/** The same, at the entry of translated code. */
export const EX_CROSSING = 7;
/** EXIT_CODE: fault to deliver. */
export const EX_FAULT = 1;
/** EXIT_CODE: HLT retired. */
export const EX_HLT = 2;
/** EXIT_CODE: code must be run one instruction at a time (fetch from MMIO, near a segment limit). */
export const EX_CAREFUL = 3;
/** EXIT_CODE: PAUSE retired and the host wants to know. */
export const EX_PAUSE = 4;
/** EXIT_CODE: a triple fault. */
export const EX_SHUTDOWN = 5;
/** EXIT_CODE: mode or interrupt state changed; look at events again. */
export const EX_EVENT = 6;

/** Access bits for translations: write, execute (else read), user, implicit supervisor (SMAP applies whatever AC is). */
export const ACC_WRITE = 1;
export const ACC_EXEC = 2;
export const ACC_USER = 4;
export const ACC_IMPLICIT = 8;

/** Exception vectors. */
export const EXC_DE = 0;
export const EXC_DB = 1;
export const EXC_NMI = 2;
export const EXC_BP = 3;
export const EXC_OF = 4;
export const EXC_BR = 5;
export const EXC_UD = 6;
export const EXC_NM = 7;
export const EXC_DF = 8;
export const EXC_TS = 10;
export const EXC_NP = 11;
export const EXC_SS = 12;
export const EXC_GP = 13;
export const EXC_PF = 14;
export const EXC_MF = 16;
export const EXC_AC = 17;
export const EXC_MC = 18;
export const EXC_XM = 19;

/** 32 bit: non-zero while a fault came from a non-canonical address, so that it becomes #SS for stack references. */
export const NONCANON = 2080;
/** 32 bit: non-zero keeps data translations out of the TLB (data breakpoints, alignment checks, watched pages). */
export const NOFILL = 2084;
/** 32 bit: alignment checks are on (CR0.AM, EFLAGS.AC, CPL 3). */
export const ALIGN_CHECK = 2088;
/** 32 bit: data breakpoints hit by the running instruction, DR6 bits 0–3. */
export const DATA_BREAK = 2092;
/** 32 bit: TLB refills so far. */
export const N_TLB_FILL = 2128;
/** 32 bit: accesses that took the slow path. */
export const N_SLOW = 2132;
/** 32 bit: block lookups. */
export const N_LOOKUP = 2136;

/**
 * 32 bit: address of the running address space's log: a count (32 bit), then the addresses of the TLB entries written since
 * its last flush. A flush after few fills need not touch all of the TLB. Past {@link TLB_LOG_SIZE} they are only counted. At
 * {@link TLB_GLOBAL_LOG} from there is the same for entries of global pages, which MOV to CR3 leaves.
 */
export const TLB_LOG = 2220;
/** Entries of a log. */
export const TLB_LOG_SIZE = 1000;
/** Distance from a log to that of global pages. */
export const TLB_GLOBAL_LOG = 4096;
/** Bytes of both logs of an address space. */
export const TLB_LOG_BYTES = 8192;

/** TLB entries per bank. */
export const TLB_ENTRIES = 2048;
/** Bytes per TLB entry: read, write and execute tags (64 bit: page address, or -1), host addend, 1 for a global page. */
export const TLB_STRIDE = 32;
/** Bytes of a bank's direct-mapped part. */
export const TLB_DIRECT: number = TLB_ENTRIES * TLB_STRIDE;
/** Entries that keep what was displaced from the direct-mapped part, found by another hash. */
export const TLB_VICTIMS = 512;
/** Bytes per bank. */
export const TLB_BANK: number = TLB_DIRECT + TLB_VICTIMS * TLB_STRIDE;
/** Banks of one address space, data: 0 supervisor with SMAP enforced, 1 user, 2 supervisor with AC set. */
export const TLB_DATA_SETS = 3;
/** All banks of one address space; after those for data two for code: 3 supervisor, 4 user. */
export const TLB_SETS = 5;
/** Address spaces (PCIDs) kept at once. */
export const TLB_SPACES = 8;
/** Bytes of one address space's banks. */
export const TLB_SPACE: number = TLB_BANK * TLB_SETS;
/** Bytes of all banks of one vCPU; the logs follow, then the filter of large pages. */
export const TLB_BANKS: number = TLB_SPACE * TLB_SPACES;
/**
 * Offset from a vCPU's base of a Bloom filter with one hash: the pages above 4 KiB that any of its TLBs holds pieces of since
 * the last flush of all. INVLPG on one of them must drop all of its pieces, on anything else one entry in each bank.
 */
export const LARGE_PAGES: number = STATE_SIZE + TLB_BANKS + TLB_LOG_BYTES * TLB_SPACES;
/** Base-2 logarithm of that filter's bits. */
export const LARGE_PAGES_LOG2 = 14;
/** Bytes of all TLBs of one vCPU: banks, logs and the filter. */
export const TLB_SIZE: number = TLB_BANKS + TLB_LOG_BYTES * TLB_SPACES + (1 << (LARGE_PAGES_LOG2 - 3));

/** Physical address width, CPUID 80000008h EAX bits 0–7. */
export const PHYS_BITS = 40;

/** PAGE_FLAGS bits: page holds decoded code; the host watches writes; read-only memory. */
export const PF_CODE = 1;
export const PF_WATCH = 2;
/** With PF_CODE: no vCPU has fast write access left. Only with several threads. */
export const PF_SETTLED = 4;
export const PF_ROM = 128;
/**
 * 32 bit: what BUDGET is compared with. 0; other threads write 0x7fffffff, so that the vCPU leaves at its next block or
 * back edge.
 */
export const ATTN = 2200;
/** 32 bit: this thread's bit in the masks of pages. */
export const THREAD_BIT = 2204;
/** 32 bit: host address that {@link RMW_SIZE} bytes were changed at in place, in a page with flags; 0: none. */
export const RMW_HOST = 2208;
/** 32 bit: a locked access holds all other vCPUs. */
export const RMW_STOPPED = 2212;

/** 32 bit: IGNNE# is active: the handler of an x87 error (CR0.NE clear) has written to port 0xF0, and ES is still set. */
export const IGNNE = 2216;
/** FAULT only, not a vector: an x87 error to report by FERR#. */
export const EXC_FERR = 0x100;

/** 32 bit: an NMI is being handled; IRET ends that. */
export const NMI_BLOCKED = 2144;

/** 32 bit each, {@link TLB_SPACES}: the PCID whose translations a part of the TLB holds, or -1. */
export const PCIDS = 2272;

/** 32 bit: the run loop waits for interrupts to become deliverable. */
export const IRQ_WINDOW = 2140;

/**
 * 32 bit: not 0 while translated code has left the flags of its last operation as operands (kind times 16 plus log2 of the
 * size, see FK_ in jit-ctx.ts): then FZ, FR, FC and FX are stale. Always 0 outside translated code.
 */
export const PEND_KIND = 2240;
/** 64 bit each: the operands and the result of that operation. */
export const PEND_A = 2248;
export const PEND_B = 2256;
export const PEND_R = 2264;
