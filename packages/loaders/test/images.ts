// Kernel files made by hand, and memory to load them into.
import { RegionMemory } from '@hyve/core';
import type { E820Entry, GuestRam } from '../src/index.ts';

const MIB = 1 << 20;

/** Low RAM of `lowMib` MiB, high RAM of `highMib`, and the usual map. */
export function ram(lowMib = 32, highMib = 0): GuestRam & { memory: RegionMemory } {
  const lowmem = lowMib * MIB;
  const highmem = highMib * MIB;
  const e820: E820Entry[] = [
    { base: 0, size: 0x9fc00, type: 1 },
    { base: 0x9fc00, size: 0x400, type: 2 },
    { base: 0xf0000, size: 0x10000, type: 2 },
    { base: MIB, size: lowmem - MIB, type: 1 },
  ];
  if (highmem > 0) e820.push({ base: 2 ** 32, size: highmem, type: 1 });
  const regions = [{ base: 0, size: lowmem, kind: 'ram' as const, name: 'lowmem' }];
  if (highmem > 0) regions.push({ base: 2 ** 32, size: highmem, kind: 'ram', name: 'highmem' });
  return { memory: RegionMemory.allocate(regions), lowmem, highmem, e820 };
}

export interface BzFields {
  setupSects?: number;
  bootFlag?: number;
  magic?: string;
  version?: number;
  loadflags?: number;
  alignment?: number;
  relocatable?: number;
  xloadflags?: number;
  initrdMax?: number;
  cmdlineSize?: number;
  pref?: number;
  initSize?: number;
  payload?: Uint8Array;
  syssize?: number;
}

/** A bzImage: setup sectors, then a payload of recognisable bytes. */
export function bzImage(f: BzFields = {}): Uint8Array {
  const sects = f.setupSects ?? 2;
  const payload = f.payload ?? Uint8Array.from({ length: 8192 }, (_, i) => (i * 7 + 1) & 0xff);
  const setup = ((sects || 4) + 1) * 512;
  const b = new Uint8Array(setup + payload.length);
  const v = new DataView(b.buffer);
  b[0x1f1] = sects;
  v.setUint32(0x1f4, f.syssize ?? Math.ceil(payload.length / 16), true);
  v.setUint16(0x1fe, f.bootFlag ?? 0xaa55, true);
  b[0x200] = 0xeb;
  b[0x201] = 0x6a;
  const magic = f.magic ?? 'HdrS';
  for (let i = 0; i < 4; i++) b[0x202 + i] = magic.charCodeAt(i);
  v.setUint16(0x206, f.version ?? 0x20f, true);
  b[0x211] = f.loadflags ?? 1;
  v.setUint32(0x22c, f.initrdMax ?? 0x7fffffff, true);
  v.setUint32(0x230, f.alignment ?? 0x200000, true);
  b[0x234] = f.relocatable ?? 1;
  v.setUint16(0x236, f.xloadflags ?? 0, true);
  v.setUint32(0x238, f.cmdlineSize ?? 2047, true);
  v.setUint32(0x258, f.pref ?? 0x1000000, true);
  v.setUint32(0x260, f.initSize ?? 0x100000, true);
  b.set(payload, setup);
  return b;
}

export interface Segment {
  type?: number;
  paddr: number;
  data: Uint8Array;
  mem?: number;
}

/** An ELF executable of either class. */
export function elf(bits: 32 | 64, entry: number, segments: readonly Segment[], machine?: number): Uint8Array {
  const eh = bits === 64 ? 64 : 52;
  const ph = bits === 64 ? 56 : 32;
  let at = eh + ph * segments.length;
  const b = new Uint8Array(at + segments.reduce((n, s) => n + s.data.length, 0));
  const v = new DataView(b.buffer);
  b.set([0x7f, 0x45, 0x4c, 0x46, bits === 64 ? 2 : 1, 1, 1]);
  v.setUint16(16, 2, true);
  v.setUint16(18, machine ?? (bits === 64 ? 62 : 3), true);
  if (bits === 64) {
    v.setBigUint64(24, BigInt(entry), true);
    v.setBigUint64(32, BigInt(eh), true);
    v.setUint16(54, ph, true);
    v.setUint16(56, segments.length, true);
  } else {
    v.setUint32(24, entry, true);
    v.setUint32(28, eh, true);
    v.setUint16(42, ph, true);
    v.setUint16(44, segments.length, true);
  }
  segments.forEach((s, i) => {
    const p = eh + ph * i;
    const mem = s.mem ?? s.data.length;
    v.setUint32(p, s.type ?? 1, true);
    if (bits === 64) {
      v.setBigUint64(p + 8, BigInt(at), true);
      v.setBigUint64(p + 24, BigInt(s.paddr), true);
      v.setBigUint64(p + 32, BigInt(s.data.length), true);
      v.setBigUint64(p + 40, BigInt(mem), true);
    } else {
      v.setUint32(p + 4, at, true);
      v.setUint32(p + 12, s.paddr, true);
      v.setUint32(p + 16, s.data.length, true);
      v.setUint32(p + 20, mem, true);
    }
    b.set(s.data, at);
    at += s.data.length;
  });
  return b;
}

/** A Xen PHYS32_ENTRY note of `bytes` 4 or 8. */
export function pvhNote(entry: number, bytes: 4 | 8 = 8): Uint8Array {
  const n = new Uint8Array(16 + bytes);
  const v = new DataView(n.buffer);
  v.setUint32(0, 4, true);
  v.setUint32(4, bytes, true);
  v.setUint32(8, 18, true);
  n.set([0x58, 0x65, 0x6e, 0], 12);
  v.setUint32(16, entry, true);
  return n;
}

/** A Multiboot header with these flags and, if given, address fields. */
export function mbHeader(flags: number, addresses: readonly number[] = []): Uint8Array {
  const b = new Uint8Array(12 + 4 * addresses.length);
  const v = new DataView(b.buffer);
  v.setUint32(0, 0x1badb002, true);
  v.setUint32(4, flags, true);
  v.setUint32(8, -(0x1badb002 + flags) >>> 0, true);
  addresses.forEach((a, i) => {
    v.setUint32(12 + 4 * i, a, true);
  });
  return b;
}
