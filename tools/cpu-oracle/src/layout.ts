// Where test programs live and what travels between the three parties: generator, native runner, software CPU.
// Linux x86-64 user address space; uapi/asm/sigcontext.h for the register order.

/** log2 of nothing here: plain 4 KiB pages. */
export const PAGE = 4096;

/**
 * The pages of a test program, each two pages long with unmapped ones before and after. One memory file of six pages
 * (0–1 data, 2–3 code, 4–5 stack) shows up at several addresses.
 */
export interface Alias {
  /** First address. */
  readonly at: number;
  /** First page of the memory file. */
  readonly page: number;
  /** Writable. */
  readonly write: boolean;
  /** Executable. */
  readonly exec: boolean;
}

/** Data below 4 GiB. */
export const DATA_LOW = 0x2000_0000;
/** Data for 16-bit addresses. */
export const DATA_TINY = 0x8000;
/** Data above 4 GiB, within 2 GiB of {@link CODE_HIGH}. */
export const DATA_HIGH = 0x3456_2000_0000;
/** Distance from data to its read-only alias. */
export const TO_READ_ONLY = 0x10_0000;
/** Code below 4 GiB. */
export const CODE_LOW = 0x1000_0000;
/** Code above. */
export const CODE_HIGH = 0x3456_1000_0000;
/** Stack below 4 GiB. */
export const STACK_LOW = 0x3000_0000;
/** Stack above. */
export const STACK_HIGH = 0x3456_3000_0000;
/** Nothing is ever mapped here. */
export const NOWHERE = 0x4000_0000;

/** All mappings of test programs. */
export const ALIASES: readonly Alias[] = [
  { at: DATA_LOW, page: 0, write: true, exec: false },
  { at: DATA_TINY, page: 0, write: true, exec: false },
  { at: DATA_HIGH, page: 0, write: true, exec: false },
  { at: DATA_LOW + TO_READ_ONLY, page: 0, write: false, exec: false },
  { at: DATA_HIGH + TO_READ_ONLY, page: 0, write: false, exec: false },
  { at: CODE_LOW, page: 2, write: true, exec: true },
  { at: CODE_HIGH, page: 2, write: true, exec: true },
  { at: STACK_LOW, page: 4, write: true, exec: false },
  { at: STACK_HIGH, page: 4, write: true, exec: false },
];
/** Pages of the memory file. */
export const FILE_PAGES = 6;

// Records: what goes in and what comes out have the same shape.
//    0  r8–r15 rdi rsi rbp rbx rdx rax rcx rsp rip eflags cs:gs:fs:ss err trapno oldmask cr2     23 × 8 bytes
//  152  in: address the code goes to       160  in: 64 bytes of code
//  168  out: selectors of DS ES FS GS       200  out: bases of FS and GS
//  184  out: signal number                 192  out: si_code
//  224  FXSAVE image, 512   736  upper halves of YMM0–15, 256   992  data, 1024   2016  end of data, 64   2080  stack, 768
/** Field offsets of a record. */
export const REC = {
  rdi: 64,
  rsi: 72,
  rbp: 80,
  rbx: 88,
  rdx: 96,
  rax: 104,
  rcx: 112,
  rsp: 120,
  rip: 128,
  flags: 136,
  cs: 144,
  err: 152,
  trap: 160,
  oldmask: 168,
  cr2: 176,
  codeAt: 152,
  code: 160,
  selectors: 168,
  signal: 184,
  siCode: 192,
  fsBase: 200,
  gsBase: 208,
  fx: 224,
  ymmh: 736,
  data: 992,
  tail: 2016,
  stack: 2080,
} as const;
/** Bytes per record. */
export const REC_SIZE = 2848;
/** Bytes of code per record. */
export const CODE_BYTES = 64;
/** Offset of each general register (machine numbering) in a record. */
export const GPR_AT: readonly number[] = [104, 112, 96, 88, 120, 80, 72, 64, 0, 8, 16, 24, 32, 40, 48, 56];

/** Offset in the data pages of what is set and compared, and its length: around the page boundary. */
export const DATA_WINDOW = 0xe00;
export const DATA_LENGTH = 1024;
/** Likewise the end of the data, followed by an unmapped page. */
export const TAIL_WINDOW = 0x1fc0;
export const TAIL_LENGTH = 64;
/** Likewise the stack. */
export const STACK_WINDOW = 0xe00;
export const STACK_LENGTH = 768;

/**
 * Pages that are zero outside the windows when a program starts: what the one before it left there, where nobody compares,
 * may differ (part of a frame, pointers of the x87). Low addresses.
 */
export const CLEARED: readonly number[] = [DATA_LOW, STACK_LOW];
/** Bytes of each. */
export const CLEARED_LENGTH: number = 2 * PAGE;

/** Selectors of Linux: 64-bit code, 32-bit code, data. */
export const CS64 = 0x33;
export const CS32 = 0x23;
export const USER_DS = 0x2b;

/** Trap number that the harness gives a case that did not end, or that crashed the software CPU. */
export const TRAP_HANG = 200;
export const TRAP_CRASH = 201;
/** The signal of the runner's timer, by which it gives up what does not end (signal(7)). */
export const SIGALRM = 14n;
