// The memory map a loader hands to its guest, in the form of INT 15h AX=E820h (ACPI 6.4 §15.1).
import { HyveError } from '@hyve/core';
import { hex } from './bytes.ts';

/** Types of memory in the map. */
export const E820 = { Ram: 1, Reserved: 2, AcpiReclaim: 3, AcpiNvs: 4 } as const;

/** One range of the map. */
export interface E820Entry {
  /** First byte, guest-physical. */
  readonly base: number;
  /** Length in bytes. */
  readonly size: number;
  /** One of {@link E820}. */
  readonly type: number;
}

/** What {@link buildE820} needs. */
export interface E820Options {
  /** RAM below 4 GiB in bytes, from 0. */
  readonly lowmem: number;
  /** RAM from 4 GiB up in bytes. Default 0. */
  readonly highmem?: number;
  /** Memory-mapped config space, reserved where present. */
  readonly ecam?: { readonly base: number; readonly size: number };
  /** More reserved ranges outside RAM: boot ROM, devices at fixed addresses. Default: I/O APIC, HPET, local APIC pages. */
  readonly reserved?: readonly { readonly base: number; readonly size: number }[];
}

const EBDA = 0x9fc00;
const CONVENTIONAL_END = 0xa0000;
const TABLES = 0xf0000;
const MIB = 0x100000;
const GIB4 = 2 ** 32;
const FIXED_MMIO = [
  { base: 0xfec00000, size: 0x1000 },
  { base: 0xfed00000, size: 0x1000 },
  { base: 0xfee00000, size: 0x1000 },
];

/**
 * RAM to 0x9FC00, EBDA, firmware tables at 0xF0000–0xFFFFF, RAM to `lowmem`, ECAM and fixed MMIO, RAM above 4 GiB; sorted.
 * The display window 0xA0000–0xEFFFF is left out, as on a PC.
 * @throws HyveError `E820` when ranges overlap or `lowmem` is not 1 MiB to 4 GiB
 */
export function buildE820(o: E820Options): E820Entry[] {
  if (!(o.lowmem >= MIB && o.lowmem <= GIB4))
    throw new HyveError('E820', `low memory of ${hex(o.lowmem)} bytes; between 1 MiB and 4 GiB expected`);
  const out: E820Entry[] = [
    { base: 0, size: EBDA, type: E820.Ram },
    { base: EBDA, size: CONVENTIONAL_END - EBDA, type: E820.Reserved },
    { base: TABLES, size: MIB - TABLES, type: E820.Reserved },
  ];
  if (o.lowmem > MIB) out.push({ base: MIB, size: o.lowmem - MIB, type: E820.Ram });
  if (o.ecam !== undefined) out.push({ ...o.ecam, type: E820.Reserved });
  for (const r of o.reserved ?? FIXED_MMIO) out.push({ ...r, type: E820.Reserved });
  if ((o.highmem ?? 0) > 0) out.push({ base: GIB4, size: o.highmem ?? 0, type: E820.Ram });
  out.sort((a, b) => a.base - b.base);
  for (let i = 1; i < out.length; i++) {
    const a = out[i - 1] as E820Entry;
    const b = out[i] as E820Entry;
    if (a.base + a.size > b.base)
      throw new HyveError(
        'E820',
        `ranges at ${hex(a.base)} and ${hex(b.base)} overlap: the first ends at ${hex(a.base + a.size)}`,
      );
  }
  return out;
}
