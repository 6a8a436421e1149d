// Decoded records: 32 bytes each, consecutive within a block. A block is a head, the micro-operations of its
// instructions, and a closing jump where the last instruction is none. A block whose one instruction lies in two pages has a
// second record after the head, H_CROSS.
//
//  0 u16 handler    2 4 6 u16 register fields (state offsets) of operands 0 1 2    8 i32 operand 3's, or imm2
// 12 u16 offset of the instruction from the block's first    14 u8 its length    15 u8 instructions left, itself included
// 16 i64 immediate; displacement of an address; distance from RIP_BASE of a jump's target
// 24 i32 link to the taken block (0: none yet, -1: never)    28 i32 link to the fall-through block, or index of a decoded Insn
/** Bytes per record. */
export const REC = 32;
export const R_HANDLER = 0;
export const R_REG0 = 2;
export const R_REG1 = 4;
export const R_REG2 = 6;
export const R_AUX = 8;
export const R_OFF = 12;
export const R_LEN = 14;
export const R_LEFT = 15;
export const R_IMM = 16;
export const R_LINK0 = 24;
export const R_LINK1 = 28;

// Block head.
/** u16: instructions in the block. */
export const B_COUNT = 2;
/** u16: records in the block, head included. */
export const B_RECORDS = 4;
/** u16: bytes of code. */
export const B_BYTES = 6;
/** i32: host address of the first byte. */
export const B_HOST = 8;
/** i32: mode key. */
export const B_MODE = 12;
/** i32: next block in the hash bucket. */
export const B_NEXT = 16;
/** i32: next block of the same page (bit 0 set: link through B_PAGE2_NEXT). */
export const B_PAGE_NEXT = 20;
/** i32: host address of the second page, if the one instruction crosses; else 0. */
export const B_PAGE2 = 24;
/** i32: execution count; where a region is entered, its table slot. */
export const B_RUNS = 28;
/** i32, in the second record of a block whose instruction crosses: next block of the second page. */
export const B_PAGE2_NEXT: number = REC + 28;

/** Handlers that are not instructions; all are inline. */
export const H_HEAD = 0;
/** Second record of a block whose only instruction crosses a page: goes on if that page still is where it was. */
export const H_CROSS = 1;
/** Jump to RIP_BASE + immediate (end of a block). */
export const H_GOTO = 2;
/** The block is stale: look up again at this instruction. */
export const H_STALE = 3;
/** Addresses: base + displacement. */
export const H_EA_BD = 4;
/** base + (index << scale) + displacement. */
export const H_EA_BIS = 5;
/** RIP-relative. */
export const H_EA_RIP = 6;
/** The first two cut to 32 bits. */
export const H_EA32_BD = 7;
export const H_EA32_BIS = 8;
/** Any other: address size in AUX bits 0–7, access size bits 8–23, write bit 24, segment offset in LINK0. */
export const H_EA_ANY = 9;
/** Head of a block whose region is translated. */
export const H_JIT = 10;
/** Stands in for the next instruction while a kick waits: leave before it. */
export const H_LEAVE = 11;
/** First number for instruction handlers. */
export const H_FIRST = 12;
