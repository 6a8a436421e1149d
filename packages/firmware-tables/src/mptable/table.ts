// The MultiProcessor table, Intel MultiProcessor Specification 1.4 §4. Mirrors bhyve's mptbl.c: floating pointer at
// 0xF0000 with the configuration table behind it; here the PCI interrupt entries come from the board's real routing.
import { HyveError } from '@hyve/core';
import { ByteWriter, checksum, hex, type TableImage } from '../bytes.ts';

/** Where one INTx pin of bus 0 arrives. */
export interface MpIntxRoute {
  /** Device number, 0–31. */
  readonly slot: number;
  /** 0–3 for INTA–INTD. */
  readonly pin: number;
  /** I/O APIC input (with one I/O APIC: the global system interrupt). */
  readonly gsi: number;
}

/** What {@link buildMpTable} needs. */
export interface MpTableConfig {
  /** Where the floating pointer goes, a multiple of 16. Default 0xF0000. */
  readonly base?: number;
  /** First address the table must stay below. Default `base` + 0x1000, where SMBIOS begins. */
  readonly limit?: number;
  /** Local APIC ids, the boot processor first; each at most 254. */
  readonly apicIds: readonly number[];
  /** The I/O APIC: id, register page. */
  readonly ioApic: { readonly id: number; readonly address: number };
  /** Local APIC registers. Default 0xFEE00000. */
  readonly localApic?: number;
  /** PCI buses in the machine. Only bus 0 can be described. */
  readonly pciBuses: readonly number[];
  /** INTx pins in use on bus 0. */
  readonly routes: readonly MpIntxRoute[];
  /** ISA IRQ that is level-triggered and active low for ACPI. Default 9; null: none. */
  readonly sci?: number | null;
  /** Processor signature (CPUID leaf 1 EAX). Default family 6, model 0x1A, stepping 5. */
  readonly cpuSignature?: number;
  /** Processor features (CPUID leaf 1 EDX). Default 0xBFEBFBFF. */
  readonly cpuFeatures?: number;
}

const BASE = 0xf0000;
const FLOATING_BYTES = 16;
const HEADER_BYTES = 44;

const ENTRY_PROCESSOR = 0;
const ENTRY_BUS = 1;
const ENTRY_IOAPIC = 2;
const ENTRY_IOINT = 3;
const ENTRY_LINT = 4;

const INT_INT = 0;
const INT_NMI = 1;
const INT_EXTINT = 3;

/** Polarity bits 1:0, trigger bits 3:2; 0 is what the bus says (ISA edge high, PCI level low). */
const BY_BUS = 0;
const LEVEL_LOW = 0xf;

const BUS_PCI = 0;
const BUS_ISA = 1;
const ALL_APICS = 0xff;
const LAPIC_VERSION = 0x10;
const IOAPIC_VERSION = 0x11;

/**
 * Builds the floating pointer and the configuration table.
 * @throws HyveError `MPTABLE_BUS` for any PCI bus but 0, `MPTABLE_CPU` for APIC ids above 254, `MPTABLE_SPACE` when the
 * table passes `limit`, `MPTABLE_ROUTE` for a slot or pin that does not exist
 */
export function buildMpTable(c: MpTableConfig): TableImage {
  const base = c.base ?? BASE;
  const limit = c.limit ?? base + 0x1000;
  for (const bus of c.pciBuses)
    if (bus !== 0)
      throw new HyveError(
        'MPTABLE_BUS',
        `the MP table describes PCI bus 0 only, and there is a bus ${bus}; leave it out (-Y)`,
      );
  const w = new ByteWriter();
  let entries = 0;
  const entry = (type: number): ByteWriter => {
    entries++;
    return w.u8(type);
  };
  c.apicIds.forEach((id, i) => {
    if (!(id >= 0 && id <= 254)) throw new HyveError('MPTABLE_CPU', `APIC id ${id}: the MP table holds ids up to 254`);
    entry(ENTRY_PROCESSOR)
      .u8(id)
      .u8(LAPIC_VERSION)
      .u8(i === 0 ? 3 : 1); // enabled; boot processor
    w.u32(c.cpuSignature ?? 0x106a5)
      .u32(c.cpuFeatures ?? 0xbfebfbff)
      .zeros(8);
  });
  entry(ENTRY_BUS).u8(BUS_PCI).ascii('PCI', 6);
  entry(ENTRY_BUS).u8(BUS_ISA).ascii('ISA', 6);
  entry(ENTRY_IOAPIC).u8(c.ioApic.id).u8(IOAPIC_VERSION).u8(1).u32(c.ioApic.address);
  const io = (kind: number, flags: number, bus: number, irq: number, pin: number): void => {
    entry(ENTRY_IOINT).u8(kind).u16(flags).u8(bus).u8(irq).u8(c.ioApic.id).u8(pin);
  };
  const sci = c.sci === undefined ? 9 : c.sci;
  io(INT_EXTINT, BY_BUS, BUS_ISA, 0, 0); // the 8259s
  for (let irq = 0; irq < 16; irq++) {
    if (irq === 2) continue; // the cascade; pin 2 belongs to the timer
    io(INT_INT, irq === sci ? LEVEL_LOW : BY_BUS, BUS_ISA, irq, irq === 0 ? 2 : irq);
  }
  for (const r of c.routes) {
    if (!(r.slot >= 0 && r.slot < 32 && r.pin >= 0 && r.pin < 4))
      throw new HyveError('MPTABLE_ROUTE', `slot ${r.slot} pin ${r.pin}: slots are 0-31, pins 0-3`);
    io(INT_INT, BY_BUS, BUS_PCI, (r.slot << 2) | r.pin, r.gsi);
  }
  entry(ENTRY_LINT).u8(INT_EXTINT).u16(BY_BUS).u8(BUS_ISA).u8(0).u8(ALL_APICS).u8(0);
  entry(ENTRY_LINT).u8(INT_NMI).u16(BY_BUS).u8(BUS_ISA).u8(0).u8(ALL_APICS).u8(1);

  const body = w.finish();
  const end = base + FLOATING_BYTES + HEADER_BYTES + body.length;
  if (end > limit)
    throw new HyveError(
      'MPTABLE_SPACE',
      `the MP table for ${c.apicIds.length} processors ends at ${hex(end)}, past ${hex(limit)}; leave it out (-Y)`,
    );
  const head = new ByteWriter()
    .ascii('PCMP', 4)
    .u16(HEADER_BYTES + body.length)
    .u8(4)
    .u8(0);
  head
    .ascii('HYVE', 8)
    .ascii('Hypervisor', 12)
    .u32(0)
    .u16(0)
    .u16(entries)
    .u32(c.localApic ?? 0xfee00000)
    .u32(0);
  const table = head.raw(body).finish();
  table[7] = checksum(table);
  const floating = new ByteWriter()
    .ascii('_MP_', 4)
    .u32(base + FLOATING_BYTES)
    .u8(1)
    .u8(4)
    .zeros(6)
    .finish();
  floating[10] = checksum(floating);
  return { name: 'mptable', addr: base, bytes: new ByteWriter().raw(floating).raw(table).finish() };
}
