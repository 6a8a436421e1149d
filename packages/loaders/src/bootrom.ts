// Boot ROM images: mapped so that they end at 4 GiB, started at the reset vector. Mirrors bhyve's bootrom.c.
import { HyveError, type RegionSpec } from '@hyve/core';
import { hex } from './image.ts';
import { type EntryState, powerOnState } from './state.ts';

const PAGE = 4096;
const LARGEST = 16 << 20;
const TOP = 2 ** 32;
const RESET_VECTOR = 0xfffffff0;

/** A boot ROM's place in memory, and how to start it. */
export interface BootRom extends EntryState {
  /** Region to make before the VM is created; `memory.load(region.base, image)` then fills it. */
  readonly region: RegionSpec;
}

/**
 * Checks a boot ROM image and says where it goes.
 * @param image whole pages, 4 KiB to 16 MiB
 * @throws HyveError `BOOTROM_SIZE`
 */
export function bootRom(image: Uint8Array): BootRom {
  const n = image.length;
  if (n < PAGE || n > LARGEST || n % PAGE !== 0)
    throw new HyveError('BOOTROM_SIZE', `a boot ROM of ${hex(n)} bytes; whole 4 KiB pages up to 16 MiB expected`);
  const base = TOP - n;
  return {
    region: { base, size: n, kind: 'rom', name: 'bootrom' },
    state: powerOnState(),
    mode: 'real',
    entry: RESET_VECTOR,
    placed: [{ name: 'bootrom', base, size: n }],
  };
}
