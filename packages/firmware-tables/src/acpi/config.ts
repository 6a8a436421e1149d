// What the ACPI tables are made from: plain data that the board fills in from what it really built.
import type { AmlTerm } from '../aml/index.ts';

/** A run of ports or memory. */
export interface AddressRange {
  /** First port, or first guest-physical address in bytes. */
  readonly base: number;
  /** Ports, or bytes. */
  readonly size: number;
}

/** Where one INTx pin of one slot ends up. */
export interface IntxRoute {
  /** Device number on the root bus, 0–31. */
  readonly slot: number;
  /** 0–3 for INTA–INTD. */
  readonly pin: number;
  /** APIC mode: global system interrupt. */
  readonly gsi: number;
  /** PIC mode: PIRQ router input, 0–7 for LNKA–LNKH. Left out: the pin has no route in PIC mode. */
  readonly link?: number;
}

/** One PCI root bus. */
export interface PciRootConfig {
  /** Bus number of the root. */
  readonly bus: number;
  /** Last bus behind it. Default: `bus`. */
  readonly lastBus?: number;
  /** Port windows. Ports 0xCF8–0xCFF are taken out of them where they overlap. */
  readonly io: readonly AddressRange[];
  /** Memory windows; a QWord descriptor is used for those that end above 4 GiB. */
  readonly memory: readonly AddressRange[];
  /** Every INTx pin in use. */
  readonly routes: readonly IntxRoute[];
  /** PNP0A08 with _OSC (a PCI Express hierarchy); otherwise PNP0A03 as bhyve has. Default false. */
  readonly express?: boolean;
}

/** One 16550 on the ISA bridge. */
export interface SerialConfig {
  /** COM port number, 1–4: the device name and _UID. */
  readonly com: 1 | 2 | 3 | 4;
  /** First of 8 ports. */
  readonly port: number;
  /** ISA interrupt. */
  readonly irq: number;
}

/** The ISA (LPC) bridge and what sits on it. */
export interface IsaBridgeConfig {
  /** Root bus it is on. Default 0. */
  readonly bus?: number;
  /** Slot. */
  readonly slot: number;
  /** Function. Default 0. */
  readonly func?: number;
  /** IRQs the PIRQ router may use, a 16-bit mask. Default 0xDEF8 (3–7, 9–12, 14, 15). */
  readonly pirqIrqs?: number;
  /** Serial ports that exist. */
  readonly serial?: readonly SerialConfig[];
  /** i8042 keyboard (PNP0303, IRQ 1). Default false. */
  readonly keyboard?: boolean;
  /** i8042 mouse (PNP0F13, IRQ 12). Default false. */
  readonly mouse?: boolean;
  /** Ports of parts without a device of their own, told to the OS as taken. Default: SMI command, 0x61, ELCR, power block. */
  readonly reservedPorts?: readonly AddressRange[];
  /** More AML inside the bridge's scope. */
  readonly extra?: readonly AmlTerm[];
}

/** One processor. */
export interface AcpiCpu {
  /** Local APIC id; above 254 the x2APIC forms are used. */
  readonly apicId: number;
}

/** One I/O APIC. */
export interface AcpiIoApic {
  /** APIC id. */
  readonly id: number;
  /** Register page. */
  readonly address: number;
  /** First global system interrupt. */
  readonly gsiBase: number;
}

/** The fixed hardware of ACPI 6.4 §4.8, all in ports. */
export interface AcpiPmConfig {
  /** PM1a event block, 4 ports: status and enable. Default 0x400. */
  readonly event?: number;
  /** PM1a control block, 2 ports. Default 0x404. */
  readonly control?: number;
  /** Power management timer, 4 ports, 32 bits wide. Default 0x408. */
  readonly timer?: number;
  /** SMI command port and its values; null: no SMI, always in ACPI mode. Default 0xB2 with 0xA0, 0xA1. */
  readonly smi?: { readonly port: number; readonly enable: number; readonly disable: number } | null;
  /** ISA number of the SCI, level-triggered active low. Default 9. */
  readonly sci?: number;
  /** Reset register port and the value that resets. Default 0xCF9 with 6. */
  readonly reset?: { readonly port: number; readonly value: number };
}

/** Everything {@link buildAcpi} needs. */
export interface AcpiConfig {
  /** Where the RSDP goes: a multiple of 64 in 0xE0000–0xFFFFF. Default 0xF2400. */
  readonly base?: number;
  /** First address the tables must stay below. Default 0x100000. */
  readonly limit?: number;
  /** Processors, the boot processor first. */
  readonly cpus: readonly AcpiCpu[];
  /** I/O APICs, at least one. */
  readonly ioApics: readonly AcpiIoApic[];
  /** Local APIC registers. Default 0xFEE00000. */
  readonly localApic?: number;
  /** Fixed hardware. */
  readonly pm?: AcpiPmConfig;
  /** HPET, if there is one: registers, and bits 31:0 of its capability register. */
  readonly hpet?: { readonly address: number; readonly id: number };
  /** Memory-mapped config space, if there is any: base of bus 0, and buses decoded. */
  readonly ecam?: { readonly address: number; readonly firstBus: number; readonly lastBus: number };
  /** PCI root buses. */
  readonly roots: readonly PciRootConfig[];
  /** ISA bridge, if there is one. */
  readonly isa?: IsaBridgeConfig;
  /** Whether a VGA-compatible display answers; if not, FADT says so. Default false. */
  readonly vga?: boolean;
  /** Whether the real-time clock (ports 0x70–0x71, IRQ 8, century in 0x32) exists. Default true. */
  readonly rtc?: boolean;
  /** More AML inside \_SB. */
  readonly extra?: readonly AmlTerm[];
}

/** {@link AcpiConfig.pm} with every default filled in. */
export type ResolvedPm = Required<AcpiPmConfig>;

/** Fills in the defaults of the fixed hardware. */
export function resolvePm(pm: AcpiPmConfig | undefined): ResolvedPm {
  return {
    event: 0x400,
    control: 0x404,
    timer: 0x408,
    smi: { port: 0xb2, enable: 0xa0, disable: 0xa1 },
    sci: 9,
    reset: { port: 0xcf9, value: 6 },
    ...pm,
  };
}
