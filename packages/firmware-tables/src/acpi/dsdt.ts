// The DSDT's AML: PCI roots with _CRS and _PRT from the board's real routing, PIRQ link devices on the LPC bridge's
// registers 0x60-0x63 and 0x68-0x6B, ISA devices, processors, \_S5. Mirrors bhyve's acpi.c, pci_emul.c and pci_lpc.c.
import { HyveError } from '@hyve/core';
import * as aml from '../aml/index.ts';
import {
  type AcpiConfig,
  type AddressRange,
  type IntxRoute,
  type IsaBridgeConfig,
  type PciRootConfig,
  resolvePm,
} from './config.ts';

const LINKS = 'ABCDEFGH';
const PIRQ_DISABLED = 0x80;
const PIRQ_IRQ_MASK = 0x0f;
const PIRQ_IRQS_DEFAULT = 0xdef8;
const CONFIG_PORTS: AddressRange = { base: 0xcf8, size: 8 };

function hexName(prefix: string, n: number, digits: number): string {
  return prefix + n.toString(16).toUpperCase().padStart(digits, '0');
}

/** \_SB name of the root bus `bus`: PC00 to PCFF. */
export function rootName(bus: number): string {
  return hexName('PC', bus, 2);
}

function namedId(key: '_HID' | '_CID', id: string): aml.AmlTerm {
  return aml.name(key, aml.eisaId(id));
}

function crs(resources: readonly aml.Resource[]): aml.AmlTerm {
  return aml.name('_CRS', aml.resourceTemplate(resources));
}

/** Cuts `hole` out of `r`. */
function without(r: AddressRange, hole: AddressRange): AddressRange[] {
  const end = r.base + r.size;
  const holeEnd = hole.base + hole.size;
  if (end <= hole.base || r.base >= holeEnd) return [r];
  const left = { base: r.base, size: hole.base - r.base };
  const right = { base: holeEnd, size: end - holeEnd };
  return [left, right].filter((x) => x.size > 0);
}

/** One row of a _PRT. Address: device number high, function 0xFFFF for all functions (ACPI 6.4 §6.2.13). */
function prtRow(r: IntxRoute, source: aml.AmlArg, index: number): aml.AmlTerm {
  return aml.pkg([r.slot * 0x10000 + 0xffff, r.pin, source, index]);
}

/** _PRT from the routes: by link device in PIC mode, by global system interrupt in APIC mode. */
function routing(c: AcpiConfig, root: PciRootConfig): aml.AmlTerm[] {
  if (root.routes.length === 0) return [];
  const apic = aml.pkg(root.routes.map((r) => prtRow(r, 0, r.gsi)));
  const links = `\\_SB.${rootName(c.isa?.bus ?? 0)}.ISA.LNK`;
  const pic: aml.AmlTerm[] = [];
  if (c.isa !== undefined)
    for (const r of root.routes) if (r.link !== undefined) pic.push(prtRow(r, aml.path(links + LINKS[r.link]), 0));
  // Without a PIRQ router no interrupt reaches the 8259s, and there is nothing better to say in PIC mode.
  if (pic.length === 0) return [aml.name('_PRT', apic)];
  return [
    aml.name('PPRT', aml.pkg(pic)),
    aml.name('APRT', apic),
    aml.method('_PRT', {}, [aml.cond(aml.path('\\PICM'), [aml.ret(aml.path('APRT'))], [aml.ret(aml.path('PPRT'))])]),
  ];
}

/** _OSC for a PCI Express root: grants native hot-plug, PME, AER and the capability structure; PCI Firmware 3.3 §4.5. */
function osc(): aml.AmlTerm[] {
  const granted = 0x1d;
  return [
    aml.method('_OSC', { args: 4, serialized: true }, [
      aml.createField(4, aml.argument(3), 0, 'CDW1'),
      aml.cond(
        aml.compare('eq', aml.argument(0), aml.uuid('33db4d5b-1ff7-401c-9657-7441c03dd766')),
        [
          aml.createField(4, aml.argument(3), 8, 'CDW3'),
          aml.cond(aml.lnot(aml.compare('eq', aml.argument(1), 1)), [
            aml.binary('or', aml.path('CDW1'), 8, aml.path('CDW1')), // unknown revision
          ]),
          aml.binary('and', aml.path('CDW3'), granted, aml.local(0)),
          aml.cond(aml.lnot(aml.compare('eq', aml.path('CDW3'), aml.local(0))), [
            aml.binary('or', aml.path('CDW1'), 0x10, aml.path('CDW1')), // some bits masked
          ]),
          aml.store(aml.local(0), aml.path('CDW3')),
        ],
        [aml.binary('or', aml.path('CDW1'), 4, aml.path('CDW1'))], // unknown UUID
      ),
      aml.ret(aml.argument(3)),
    ]),
  ];
}

/** What every access to PIRQ register PIRx needs, per link device. */
function linkDevice(i: number, irqs: readonly number[]): aml.AmlTerm {
  const letter = LINKS[i] as string;
  const reg = aml.path(`PIR${letter}`);
  const flags = { level: true, low: true, shared: true };
  return aml.device(`LNK${letter}`, [
    namedId('_HID', 'PNP0C0F'),
    aml.name('_UID', i + 1),
    aml.name('_PRS', aml.resourceTemplate([aml.irq(irqs, flags)])),
    aml.name('RBUF', aml.resourceTemplate([aml.irq([], flags)])),
    aml.createField(2, aml.path('RBUF'), 1, 'RIRQ'),
    aml.method('_STA', {}, [aml.cond(aml.call('PIRM', [reg]), [aml.ret(0x0b)], [aml.ret(0x09)])]),
    aml.method('_CRS', {}, [aml.store(aml.call('PIRM', [reg]), aml.path('RIRQ')), aml.ret(aml.path('RBUF'))]),
    aml.method('_SRS', { args: 1, serialized: true }, [
      aml.createField(2, aml.argument(0), 1, 'SIRQ'),
      aml.unary('findSetRightBit', aml.path('SIRQ'), aml.local(0)),
      aml.cond(aml.local(0), [aml.step('down', aml.local(0)), aml.store(aml.local(0), reg)]),
    ]),
    aml.method('_DIS', {}, [aml.store(PIRQ_DISABLED, reg)]),
  ]);
}

function defaultReserved(c: AcpiConfig): AddressRange[] {
  const pm = resolvePm(c.pm);
  const list = [
    { base: 0x61, size: 1 },
    { base: 0x4d0, size: 2 },
    { base: pm.event, size: 4 },
    { base: pm.control, size: 2 },
    { base: pm.timer, size: 4 },
  ];
  if (pm.smi !== null) list.push({ base: pm.smi.port, size: 1 });
  return list;
}

function isaBridge(c: AcpiConfig, isa: IsaBridgeConfig): aml.AmlTerm {
  const irqs: number[] = [];
  const mask = isa.pirqIrqs ?? PIRQ_IRQS_DEFAULT;
  for (let i = 0; i < 16; i++) if ((mask >> i) & 1) irqs.push(i);
  const reserved = isa.reservedPorts ?? defaultReserved(c);
  const body: aml.AmlTerm[] = [
    aml.name('_ADR', isa.slot * 0x10000 + (isa.func ?? 0)),
    aml.operationRegion('PIRR', aml.RegionSpace.PciConfig, 0x60, 12),
    aml.field('PIRR', 'byte', [
      ['PIRA', 8],
      ['PIRB', 8],
      ['PIRC', 8],
      ['PIRD', 8],
      ['', 32],
      ['PIRE', 8],
      ['PIRF', 8],
      ['PIRG', 8],
      ['PIRH', 8],
    ]),
    // PIRM(register): the interrupt mask it routes to; nothing while disabled or set to an IRQ the router refuses.
    aml.method('PIRM', { args: 1 }, [
      aml.cond(aml.binary('and', aml.argument(0), PIRQ_DISABLED), [aml.ret(0)]),
      aml.ret(aml.binary('and', aml.binary('shl', 1, aml.binary('and', aml.argument(0), PIRQ_IRQ_MASK)), mask)),
    ]),
    ...Array.from(LINKS, (_, i) => linkDevice(i, irqs)),
    aml.device('SIO', [
      namedId('_HID', 'PNP0C02'),
      aml.name('_UID', 1),
      crs(reserved.map((r) => aml.ioPorts(r.base, r.size))),
    ]),
    aml.device('PIC', [
      namedId('_HID', 'PNP0000'),
      crs([aml.ioPorts(0x20, 2), aml.ioPorts(0xa0, 2), aml.irqNoFlags([2])]),
    ]),
    aml.device('TIMR', [namedId('_HID', 'PNP0100'), crs([aml.ioPorts(0x40, 4), aml.irqNoFlags([0])])]),
  ];
  if (c.rtc !== false)
    body.push(aml.device('RTC', [namedId('_HID', 'PNP0B00'), crs([aml.ioPorts(0x70, 2), aml.irqNoFlags([8])])]));
  if (isa.keyboard === true)
    body.push(
      aml.device('KBD', [
        namedId('_HID', 'PNP0303'),
        crs([aml.ioPorts(0x60, 1), aml.ioPorts(0x64, 1), aml.irqNoFlags([1])]),
      ]),
    );
  if (isa.mouse === true) body.push(aml.device('MOU', [namedId('_HID', 'PNP0F13'), crs([aml.irqNoFlags([12])])]));
  for (const s of isa.serial ?? [])
    body.push(
      aml.device(`COM${s.com}`, [
        namedId('_HID', 'PNP0501'),
        aml.name('_UID', s.com),
        crs([aml.ioPorts(s.port, 8), aml.irqNoFlags([s.irq])]),
      ]),
    );
  return aml.device('ISA', [...body, ...(isa.extra ?? [])]);
}

function pciRoot(c: AcpiConfig, root: PciRootConfig): aml.AmlTerm {
  const isa = c.isa !== undefined && (c.isa.bus ?? 0) === root.bus ? c.isa : undefined;
  const ports = root.io.flatMap((r) => without(r, CONFIG_PORTS));
  const resources = [aml.wordBus(root.bus, root.lastBus ?? root.bus)];
  // The configuration ports belong to whichever root is bus 0; they are one set for all roots.
  if (root.bus === 0) resources.push(aml.ioPorts(CONFIG_PORTS.base, CONFIG_PORTS.size));
  for (const r of ports) resources.push(aml.wordIo(r.base, r.size));
  for (const r of root.memory)
    resources.push(r.base + r.size <= 2 ** 32 ? aml.dwordMemory(r.base, r.size) : aml.qwordMemory(r.base, r.size));
  return aml.device(rootName(root.bus), [
    namedId('_HID', root.express === true ? 'PNP0A08' : 'PNP0A03'),
    ...(root.express === true ? [namedId('_CID', 'PNP0A03')] : []),
    aml.name('_BBN', root.bus),
    aml.name('_UID', root.bus),
    aml.name('_SEG', 0),
    crs(resources),
    ...routing(c, root),
    ...(root.express === true ? osc() : []),
    ...(isa === undefined ? [] : [isaBridge(c, isa)]),
  ]);
}

function checkRoutes(root: PciRootConfig): void {
  for (const r of root.routes) {
    const where = `INTx route of bus ${root.bus} slot ${r.slot} pin ${r.pin}`;
    if (!(r.slot >= 0 && r.slot < 32 && r.pin >= 0 && r.pin < 4))
      throw new HyveError('ACPI_CONFIG', `${where}: slots are 0-31, pins 0-3`);
    if (r.link !== undefined && LINKS[r.link] === undefined)
      throw new HyveError('ACPI_CONFIG', `${where}: link ${r.link} is not 0-7`);
  }
}

/**
 * The DSDT's terms, without the table header.
 * @throws HyveError `ACPI_CONFIG`, or what the AML writer finds wrong
 */
export function dsdtTerms(c: AcpiConfig): aml.AmlTerm {
  const seen = new Set<number>();
  for (const root of c.roots) {
    checkRoutes(root);
    if (seen.has(root.bus)) throw new HyveError('ACPI_CONFIG', `two PCI roots for bus ${root.bus}`);
    seen.add(root.bus);
  }
  if (c.isa !== undefined && !seen.has(c.isa.bus ?? 0))
    throw new HyveError('ACPI_CONFIG', `the ISA bridge is on bus ${c.isa.bus ?? 0}, which is not a PCI root`);
  const sb: aml.AmlTerm[] = c.cpus.map((_, i) =>
    aml.device(hexName('C', i, 3), [aml.name('_HID', aml.string('ACPI0007')), aml.name('_UID', i)]),
  );
  sb.push(...c.roots.map((root) => pciRoot(c, root)));
  if (c.ecam !== undefined) {
    const base = c.ecam.address + c.ecam.firstBus * 0x100000;
    const size = (c.ecam.lastBus - c.ecam.firstBus + 1) * 0x100000;
    sb.push(
      aml.device('MRES', [
        namedId('_HID', 'PNP0C02'),
        aml.name('_UID', 0),
        crs([base + size <= 2 ** 32 ? aml.memory32Fixed(base, size) : aml.qwordMemory(base, size)]),
      ]),
    );
  }
  if (c.hpet !== undefined)
    sb.push(
      aml.device('HPET', [
        namedId('_HID', 'PNP0103'),
        aml.name('_UID', 0),
        crs([aml.memory32Fixed(c.hpet.address, 0x400)]),
      ]),
    );
  return aml.concat([
    aml.name('\\_S5', aml.pkg([5, 5, 0, 0])),
    aml.name('\\PICM', 0),
    aml.method('\\_PIC', { args: 1 }, [aml.store(aml.argument(0), aml.path('\\PICM'))]),
    aml.scope('\\_SB', [...sb, ...(c.extra ?? [])]),
  ]);
}
