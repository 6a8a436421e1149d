// The static tables (ACPI 6.4 §5.2, IA-PC HPET 1.0a §3.2.4, PCI Firmware 3.3 §4.1.2) and their place in memory.
// Mirrors bhyve's acpi.c: RSDP at 0xF2400, the others behind it at bhyve's offsets for as long as they fit there.
import { HyveError } from '@hyve/core';
import { ByteWriter, checksum, hex, type TableImage } from '../bytes.ts';
import { type AcpiConfig, type ResolvedPm, resolvePm } from './config.ts';
import { dsdtTerms } from './dsdt.ts';

const OEM_ID = 'HYVE';
const CREATOR = 'HYVE';
const RSDP_BASE = 0xf2400;
const AREA_LIMIT = 0x100000;
const HEADER_BYTES = 36;
const LOCAL_APIC = 0xfee00000;
/** Highest id the 8-bit MADT forms can name; 255 is the broadcast id. */
const XAPIC_MAX = 254;

/** Interrupt flags of MADT and MP table entries: polarity in bits 1:0, trigger in 3:2. */
const INTI_EDGE_HIGH = 0x5;
const INTI_LEVEL_LOW = 0xf;

// FADT flags, ACPI 6.4 §5.2.9 table 5.10.
const FADT_WBINVD = 1 << 0;
const FADT_PROC_C1 = 1 << 2;
const FADT_NO_SLEEP_BUTTON = 1 << 5;
const FADT_NO_FIXED_RTC = 1 << 6;
const FADT_TMR_32BIT = 1 << 8;
const FADT_RESET_REG = 1 << 10;
const FADT_HEADLESS = 1 << 12;
const FADT_APIC_PHYSICAL = 1 << 19;

// IA-PC boot architecture flags, table 5.11.
const BOOT_LEGACY_DEVICES = 1 << 0;
const BOOT_8042 = 1 << 1;
const BOOT_NO_VGA = 1 << 2;
const BOOT_NO_ASPM = 1 << 4;
const BOOT_NO_CMOS_RTC = 1 << 5;

function sdt(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const w = new ByteWriter();
  w.ascii(signature, 4)
    .u32(HEADER_BYTES + body.length)
    .u8(revision)
    .u8(0);
  w.ascii(OEM_ID, 6).ascii(`HYVE${signature}`, 8).u32(1).ascii(CREATOR, 4).u32(1).raw(body);
  const t = w.finish();
  t[9] = checksum(t);
  return t;
}

/** Generic address structure for ports, §5.2.3.2: width in bits, access size 1 byte, 2 word, 3 dword. */
function gas(w: ByteWriter, port: number, bits: number, access: number): void {
  w.u8(1).u8(bits).u8(0).u8(access).u64(port);
}

function madt(c: AcpiConfig, pm: ResolvedPm): Uint8Array {
  const w = new ByteWriter();
  w.u32(c.localApic ?? LOCAL_APIC).u32(1); // flags: dual 8259s are there too
  let wide = false;
  c.cpus.forEach((cpu, uid) => {
    if (cpu.apicId <= XAPIC_MAX && uid <= XAPIC_MAX) w.u8(0).u8(8).u8(uid).u8(cpu.apicId).u32(1);
    else {
      wide = true;
      w.u8(9).u8(16).u16(0).u32(cpu.apicId).u32(1).u32(uid);
    }
  });
  for (const io of c.ioApics) w.u8(1).u8(12).u8(io.id).u8(0).u32(io.address).u32(io.gsiBase);
  w.u8(2).u8(10).u8(0).u8(0).u32(2).u16(0); // ISA IRQ 0 arrives at pin 2
  w.u8(2).u8(10).u8(0).u8(pm.sci).u32(pm.sci).u16(INTI_LEVEL_LOW);
  w.u8(4).u8(6).u8(0xff).u16(INTI_EDGE_HIGH).u8(1); // NMI at LINT1 of all processors
  if (wide) w.u8(10).u8(12).u16(INTI_EDGE_HIGH).u32(0xffffffff).u8(1).zeros(3);
  return sdt('APIC', 4, w.finish());
}

function fadt(c: AcpiConfig, pm: ResolvedPm, facs: number, dsdt: number): Uint8Array {
  const keyboard = c.isa?.keyboard === true || c.isa?.mouse === true;
  const legacy = keyboard || (c.isa?.serial?.length ?? 0) > 0;
  const headless = c.vga !== true && !keyboard;
  const boot =
    (legacy ? BOOT_LEGACY_DEVICES : 0) |
    (keyboard ? BOOT_8042 : 0) |
    (c.vga === true ? 0 : BOOT_NO_VGA) |
    (c.rtc === false ? BOOT_NO_CMOS_RTC : 0) |
    BOOT_NO_ASPM;
  const flags =
    FADT_WBINVD |
    FADT_PROC_C1 |
    FADT_NO_SLEEP_BUTTON |
    FADT_NO_FIXED_RTC |
    FADT_TMR_32BIT |
    FADT_RESET_REG |
    (headless ? FADT_HEADLESS : 0) |
    // Logical destinations reach at most 8 or 60 processors; bhyve asks for physical ones likewise.
    FADT_APIC_PHYSICAL;
  const w = new ByteWriter();
  w.u32(facs).u32(dsdt).u8(0).u8(0).u16(pm.sci);
  w.u32(pm.smi?.port ?? 0)
    .u8(pm.smi?.enable ?? 0)
    .u8(pm.smi?.disable ?? 0)
    .u8(0)
    .u8(0);
  w.u32(pm.event).u32(0).u32(pm.control).u32(0).u32(0).u32(pm.timer).u32(0).u32(0); // no PM1b, PM2, GPE
  w.u8(4).u8(2).u8(0).u8(4).u8(0).u8(0).u8(0).u8(0); // lengths; GPE1 base; _CST
  w.u16(101).u16(1001); // C2 and C3 latencies above 100 and 1000 us: not supported
  w.u16(0).u16(0).u8(0).u8(0).u8(0).u8(0); // flush size and stride, duty cycle, day and month alarm
  w.u8(c.rtc === false ? 0 : 0x32)
    .u16(boot)
    .u8(0)
    .u32(flags);
  gas(w, pm.reset.port, 8, 1);
  w.u8(pm.reset.value).u16(0).u8(1); // ARM flags; minor revision 1
  w.u64(0).u64(dsdt); // X_FIRMWARE_CTRL stays 0: the 32-bit field is the one in use
  gas(w, pm.event, 32, 2);
  w.zeros(12);
  gas(w, pm.control, 16, 2);
  w.zeros(12 + 12);
  gas(w, pm.timer, 32, 3);
  w.zeros(12 + 12 + 12 + 12); // GPE0, GPE1, sleep control, sleep status
  return sdt('FACP', 5, w.finish());
}

function hpet(address: number, id: number): Uint8Array {
  const w = new ByteWriter().u32(id).u8(0).u8(64).u8(0).u8(0).u64(address);
  return sdt('HPET', 1, w.u8(0).u16(0).u8(0).finish()); // number 0, minimum tick 0, no page protection
}

function mcfg(e: NonNullable<AcpiConfig['ecam']>): Uint8Array {
  return sdt('MCFG', 1, new ByteWriter().zeros(8).u64(e.address).u16(0).u8(e.firstBus).u8(e.lastBus).zeros(4).finish());
}

function facsTable(): Uint8Array {
  return new ByteWriter().ascii('FACS', 4).u32(64).zeros(24).u8(2).zeros(31).finish();
}

function rsdp(rsdt: number, xsdt: number): Uint8Array {
  const w = new ByteWriter().ascii('RSD PTR ', 8).u8(0).ascii(OEM_ID, 6).u8(2).u32(rsdt).u32(36).u64(xsdt).zeros(4);
  const t = w.finish();
  t[8] = checksum(t.subarray(0, 20));
  t[32] = checksum(t);
  return t;
}

/** The tables as they lie in memory. */
export interface AcpiTables extends TableImage {
  /** Address of the RSDP: the image's own address. */
  readonly rsdp: number;
  /** Each table by signature (the RSDP as `RSD PTR `), at its address. */
  readonly tables: readonly TableImage[];
}

/** Offsets from the RSDP that bhyve uses, and what must lie there; a table that does not fit moves everything behind it. */
const RSDT_AT = 0x40;
const XSDT_AT = 0x80;
const MADT_AT = 0x100;
const FADT_AT = 0x200;
const HPET_AT = 0x340;
const MCFG_AT = 0x380;
const FACS_AT = 0x3c0;
const DSDT_AT = 0x400;

function checkConfig(c: AcpiConfig, base: number): void {
  if (base % 64 !== 0 || base < 0xe0000 || base >= AREA_LIMIT)
    throw new HyveError(
      'ACPI_CONFIG',
      `RSDP at ${hex(base)}: guests look at multiples of 16 in 0xe0000-0xfffff; 64 needed`,
    );
  if (c.cpus.length < 1 || c.cpus.length > 0x1000)
    throw new HyveError('ACPI_CONFIG', `${c.cpus.length} processors; 1-4096 can be described`);
  if (c.ioApics.length < 1) throw new HyveError('ACPI_CONFIG', 'at least one I/O APIC is needed');
}

/**
 * Builds RSDP (revision 2), RSDT, XSDT, MADT, FADT (revision 5.1), HPET, MCFG, FACS and DSDT.
 * @throws HyveError `ACPI_CONFIG` for impossible data, `ACPI_SPACE` when the tables pass `limit`
 * @example
 * const { addr, bytes, rsdp } = buildAcpi({ cpus: [{ apicId: 0 }], ioApics: [ioApic], roots: [bus0] });
 * memory.load(addr, bytes);
 */
export function buildAcpi(c: AcpiConfig): AcpiTables {
  const base = c.base ?? RSDP_BASE;
  checkConfig(c, base);
  const pm = resolvePm(c.pm);
  const out: TableImage[] = [];
  let free = base + 36; // behind the RSDP
  const place = (name: string, offset: number, bytes: Uint8Array): number => {
    const addr = Math.max(base + offset, Math.ceil(free / 64) * 64);
    free = addr + bytes.length;
    out.push({ name, addr, bytes });
    return addr;
  };
  // RSDT and XSDT hold addresses not yet known; their sizes are.
  const count = 2 + (c.hpet === undefined ? 0 : 1) + (c.ecam === undefined ? 0 : 1);
  const rsdt = place('RSDT', RSDT_AT, new Uint8Array(HEADER_BYTES + 4 * count));
  const xsdt = place('XSDT', XSDT_AT, new Uint8Array(HEADER_BYTES + 8 * count));
  const listed = [place('APIC', MADT_AT, madt(c, pm))];
  const fadtAt = place('FACP', FADT_AT, new Uint8Array(268));
  listed.push(fadtAt);
  if (c.hpet !== undefined) listed.push(place('HPET', HPET_AT, hpet(c.hpet.address, c.hpet.id)));
  if (c.ecam !== undefined) listed.push(place('MCFG', MCFG_AT, mcfg(c.ecam)));
  const facs = place('FACS', FACS_AT, facsTable());
  const dsdt = place('DSDT', DSDT_AT, sdt('DSDT', 2, dsdtTerms(c)));
  const limit = c.limit ?? AREA_LIMIT;
  if (free > limit) throw new HyveError('ACPI_SPACE', `ACPI tables end at ${hex(free)}, past ${hex(limit)}`);

  const xs = new ByteWriter();
  const rs = new ByteWriter();
  // FADT first: some guests look no further for it.
  for (const a of [fadtAt, ...listed.filter((x) => x !== fadtAt)]) {
    rs.u32(a);
    xs.u64(a);
  }
  const final = new Map<string, Uint8Array>([
    ['RSDT', sdt('RSDT', 1, rs.finish())],
    ['XSDT', sdt('XSDT', 1, xs.finish())],
    ['FACP', fadt(c, pm, facs, dsdt)],
  ]);
  const tables: TableImage[] = [
    { name: 'RSD PTR ', addr: base, bytes: rsdp(rsdt, xsdt) },
    ...out.map((t) => ({ ...t, bytes: final.get(t.name) ?? t.bytes })),
  ];
  const bytes = new Uint8Array(free - base);
  for (const t of tables) bytes.set(t.bytes, t.addr - base);
  return { name: 'acpi', addr: base, bytes, rsdp: base, tables };
}
