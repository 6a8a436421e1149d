// Shared scalar types and 64-bit helpers. Addresses are plain numbers (x86 caps physical addresses at 52 bits, a double
// holds 53), never touched by bit operators; 64-bit data crosses interfaces as two unsigned 32-bit halves.
import { HyveError } from './errors.ts';

/** A guest-physical address in bytes, an integer below 2^52. Use arithmetic on it, never bit operators. */
export type PhysAddr = number;

/** Width of one bus access in bytes. Eight-byte accesses are two four-byte ones, low half first. */
export type Width = 1 | 2 | 4;

/** All ones for an access of `width` bytes: what an undecoded bus reads. Unsigned. */
export function allOnes(width: Width): number {
  return width === 4 ? 0xffffffff : width === 2 ? 0xffff : 0xff;
}

/**
 * Joins two unsigned 32-bit halves into a number.
 * @throws HyveError `RANGE` when the value does not fit 2^53 - 1.
 */
export function join64(lo: number, hi: number): number {
  if (hi > 0x1fffff) throw new HyveError('RANGE', `0x${hi.toString(16)}:${lo.toString(16)} is over 2^53`);
  return hi * 0x1_0000_0000 + lo;
}

/** Low 32 bits of a non-negative integer below 2^53, unsigned. */
export function lo32(value: number): number {
  return value >>> 0;
}

/** Bits 32 and up of a non-negative integer below 2^53. */
export function hi32(value: number): number {
  return Math.floor(value / 0x1_0000_0000);
}
