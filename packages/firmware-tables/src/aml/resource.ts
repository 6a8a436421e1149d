// Resource descriptors and templates, ACPI 6.4 §6.4: what _CRS and _PRS return.
import { HyveError } from '@hyve/core';
import { ByteWriter, checksum, hex } from '../bytes.ts';
import { type AmlTerm, buffer, concat } from './term.ts';

/** One encoded resource descriptor. */
export type Resource = Uint8Array;

/** A Buffer holding the descriptors and an end tag with its checksum (§6.4.2.9). */
export function resourceTemplate(resources: readonly Resource[]): AmlTerm {
  const body = concat([...resources, [0x79]]);
  return buffer(concat([body, [checksum(body)]]));
}

/**
 * IO (Decode16, …): a fixed run of ports, §6.4.2.5.
 * @throws HyveError `AML_RESOURCE` unless it lies below 0x10000 and is 1–255 ports long
 */
export function ioPorts(base: number, count: number): Resource {
  if (count < 1 || count > 255 || base < 0 || base + count > 0x10000)
    throw new HyveError(
      'AML_RESOURCE',
      `${count} ports at ${hex(base)}: 1-255 ports below 0x10000 fit an IO descriptor`,
    );
  return new ByteWriter().u8(0x47).u8(1).u16(base).u16(base).u8(1).u8(count).finish();
}

/**
 * Memory32Fixed (ReadWrite, …), §6.4.3.4.
 * @throws HyveError `AML_RESOURCE` unless it ends at or below 4 GiB
 */
export function memory32Fixed(base: number, size: number): Resource {
  if (base < 0 || size < 1 || base + size > 2 ** 32)
    throw new HyveError('AML_RESOURCE', `memory at ${hex(base)}, ${hex(size)} bytes, does not lie below 4 GiB`);
  return new ByteWriter().u8(0x86).u16(9).u8(1).u32(base).u32(size).finish();
}

function irqMask(irqs: readonly number[]): number {
  let mask = 0;
  for (const i of irqs) {
    if (!Number.isInteger(i) || i < 0 || i > 15) throw new HyveError('AML_RESOURCE', `IRQ ${i} is not 0-15`);
    mask |= 1 << i;
  }
  return mask;
}

/** IRQNoFlags: edge-triggered, active high, exclusive ISA interrupts, §6.4.2.1. @throws HyveError `AML_RESOURCE` */
export function irqNoFlags(irqs: readonly number[]): Resource {
  return new ByteWriter().u8(0x22).u16(irqMask(irqs)).finish();
}

/** Trigger, polarity and sharing of an interrupt. */
export interface InterruptFlags {
  /** Level-triggered; otherwise edge. */
  readonly level: boolean;
  /** Active low; otherwise high. */
  readonly low: boolean;
  /** May be shared. */
  readonly shared: boolean;
}

/** IRQ with flags, §6.4.2.1. An empty list leaves the mask for the method that fills it in. @throws HyveError `AML_RESOURCE` */
export function irq(irqs: readonly number[], f: InterruptFlags): Resource {
  const flags = (f.level ? 0 : 1) | (f.low ? 8 : 0) | (f.shared ? 0x10 : 0);
  return new ByteWriter().u8(0x23).u16(irqMask(irqs)).u8(flags).finish();
}

/** Interrupt (ResourceConsumer, …): extended, any GSI, §6.4.3.6. @throws HyveError `AML_RESOURCE` unless 1–255 of them */
export function interrupt(gsis: readonly number[], f: InterruptFlags): Resource {
  if (gsis.length < 1 || gsis.length > 255) throw new HyveError('AML_RESOURCE', `${gsis.length} interrupts; 1-255 fit`);
  const w = new ByteWriter().u8(0x89).u16(2 + 4 * gsis.length);
  w.u8(1 | (f.level ? 0 : 2) | (f.low ? 4 : 0) | (f.shared ? 8 : 0)).u8(gsis.length);
  for (const g of gsis) w.u32(g);
  return w.finish();
}

const TYPE_MEMORY = 0;
const TYPE_IO = 1;
const TYPE_BUS = 2;
/** General flags: minimum and maximum fixed, positive decode, produced for children (§6.4.3.5.1). */
const PRODUCER_FIXED = 0x0c;

/** Word (2), DWord (4) or QWord (8) address space descriptor, §6.4.3.5. */
function addressSpace(bytes: 2 | 4 | 8, type: number, typeFlags: number, base: number, size: number): Resource {
  const limit = bytes === 8 ? Number.MAX_SAFE_INTEGER : 2 ** (8 * bytes);
  if (base < 0 || size < 1 || base + size > limit)
    throw new HyveError('AML_RESOURCE', `window at ${hex(base)}, ${hex(size)} long, does not fit ${8 * bytes} bits`);
  const w = new ByteWriter();
  const word = (v: number): unknown => (bytes === 2 ? w.u16(v) : bytes === 4 ? w.u32(v) : w.u64(v));
  w.u8(bytes === 2 ? 0x88 : bytes === 4 ? 0x87 : 0x8a).u16(3 + 5 * bytes);
  w.u8(type).u8(PRODUCER_FIXED).u8(typeFlags);
  word(0); // granularity
  word(base);
  word(base + size - 1);
  word(0); // translation
  word(size % limit); // a full 16- or 32-bit space has length 0, which only a bus of 65,536 would need
  return w.finish();
}

/** WordBusNumber (ResourceProducer, MinFixed, MaxFixed): buses `first` to `last`. @throws HyveError `AML_RESOURCE` */
export function wordBus(first: number, last: number): Resource {
  return addressSpace(2, TYPE_BUS, 0, first, last - first + 1);
}

/** WordIO (ResourceProducer, …, EntireRange): ports passed on to children. @throws HyveError `AML_RESOURCE` */
export function wordIo(base: number, count: number): Resource {
  return addressSpace(2, TYPE_IO, 3, base, count);
}

/** DWordMemory (ResourceProducer, …, NonCacheable, ReadWrite). @throws HyveError `AML_RESOURCE` */
export function dwordMemory(base: number, size: number): Resource {
  return addressSpace(4, TYPE_MEMORY, 1, base, size);
}

/** QWordMemory likewise; anywhere below 2^53. @throws HyveError `AML_RESOURCE` */
export function qwordMemory(base: number, size: number): Resource {
  return addressSpace(8, TYPE_MEMORY, 1, base, size);
}
