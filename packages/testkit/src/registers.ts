// Checks a register table against a device on a rig: reset values, read-only bits, write-one-to-clear bits, access of
// every bit. One table then documents a device and tests it.
import type { Width } from '@hyve/core';
import type { Rig } from './rig.ts';

/**
 * One register: offset, name, value after reset, bits the guest may write, bits it clears by writing ones.
 * Bits in neither mask are read-only.
 */
export type RegisterRow = readonly [offset: number, name: string, reset: number, writable: number, w1c?: number];

/** Where the registers are, and how to get back to their reset values. */
export interface RegisterBank {
  /** Which bus. */
  readonly space: 'port' | 'mmio';
  /** Address of offset 0. */
  readonly base: number;
  /** Width of every access. */
  readonly width: Width;
  /** Back to power-on; called before each row and pattern. */
  readonly reset: () => void;
}

const hex = (v: number): string => `0x${v.toString(16)}`;

/**
 * Checks every row: the reset value; all ones, zeros, alternating bits and each single bit written give
 * `(reset & read-only) | (written & writable)`; ones written to write-one-to-clear bits leave them clear, zeros as they
 * are. Registers whose reads or writes do more than that do not belong in the table. Throws one Error that lists what
 * differs.
 */
export function checkRegisters(rig: Rig, rows: readonly RegisterRow[], bank: RegisterBank): void {
  const wrong: string[] = [];
  const ones = 2 ** (8 * bank.width) - 1;
  const read = (at: number): number =>
    bank.space === 'port' ? rig.cpu.in(at, bank.width) : rig.cpu.read(at, bank.width);
  const write = (at: number, v: number): void =>
    bank.space === 'port' ? rig.cpu.out(at, bank.width, v) : rig.cpu.write(at, bank.width, v);
  for (const [offset, name, reset, writable, w1c = 0] of rows) {
    const at = bank.base + offset;
    if ((writable & w1c) !== 0) throw new Error(`${name}: bits ${hex(writable & w1c)} are in both masks`);
    bank.reset();
    const first = read(at);
    if (first !== reset) wrong.push(`${name} (${hex(offset)}) is ${hex(first)} after reset, not ${hex(reset)}`);
    const patterns = [ones, 0, 0xaaaaaaaa, 0x55555555];
    for (let bit = 0; bit < 8 * bank.width; bit++) patterns.push(2 ** bit);
    for (const pattern of patterns) {
      bank.reset();
      const value = (pattern & ones) >>> 0;
      const before = read(at);
      write(at, value);
      const got = read(at);
      const want = ((before & ~writable & ~(w1c & value)) | (value & writable)) >>> 0;
      if (got !== want) {
        wrong.push(
          `${name} (${hex(offset)}) is ${hex(got)} after writing ${hex(value)} to ${hex(before)}, not ${hex(want)}`,
        );
        break;
      }
    }
  }
  bank.reset();
  if (wrong.length > 0) throw new Error(wrong.join('\n'));
}
