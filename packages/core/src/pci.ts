// PCI devices as the bus sees them. @hyve/pci owns config space, BAR sizing and decoding, capability lists, MSI-X tables
// and INTx routing; a device declares what it has and handles its BARs.
import type { DoorbellSpec } from './bus.ts';
import type { Device } from './device.ts';
import type { DmaMemory } from './memory.ts';
import type { Width } from './types.ts';

/** One base address register. */
export interface PciBarSpec {
  /** BAR number, 0–5; a 64-bit BAR takes the next one too. */
  readonly bar: number;
  /** `io`: ports; `mem32`; `mem64`. */
  readonly kind: 'io' | 'mem32' | 'mem64';
  /** Bytes, a power of two; io at least 4 and at most 256, memory at least 16. */
  readonly size: number;
  /** Prefetchable memory. */
  readonly prefetchable?: boolean;
  /** Accesses the device takes, ORed widths 1, 2, 4; others are split or widened by the bus. Default 7. */
  readonly widths?: number;
  /** Registers that are doorbells, by offset in the BAR. */
  readonly doorbells?: readonly DoorbellSpec[];
}

/** A vendor-specific or other capability whose bytes the device lays down itself. */
export interface PciCapabilitySpec {
  /** Capability id, as in the PCI Code and ID Assignment Specification. */
  readonly id: number;
  /** The bytes after id and next pointer. */
  readonly body: Uint8Array;
  /** One mask bit per body bit: 1 = guest-writable. Default none. */
  readonly writable?: Uint8Array;
}

/** A device function's identity and resources, as data. */
export interface PciSpec {
  /** Vendor id. */
  readonly vendor: number;
  /** Device id. */
  readonly device: number;
  /** Revision id. Default 0. */
  readonly revision?: number;
  /** Base class, sub-class, programming interface: `0xCCSSPP`. */
  readonly classCode: number;
  /** Subsystem vendor id. Default 0. */
  readonly subsystemVendor?: number;
  /** Subsystem id. Default 0. */
  readonly subsystem?: number;
  /** Base address registers. */
  readonly bars: readonly PciBarSpec[];
  /** Number of MSI messages, a power of two up to 32; 0 or absent: no MSI capability. */
  readonly msi?: number;
  /** MSI-X: vectors (1–2048) and the BAR that holds table (offset 0) and pending bits, which the bus serves itself. */
  readonly msix?: { readonly vectors: number; readonly bar: number };
  /** Whether the function has an INTx pin. */
  readonly intx: boolean;
  /** PCI Express capability: device/port type; absent: a conventional PCI function. */
  readonly express?: 'endpoint' | 'root-port' | 'root-complex-integrated';
  /** Further capabilities, in list order. */
  readonly capabilities?: readonly PciCapabilitySpec[];
}

/** What the bus hands a device: its way to interrupt and to reach memory. */
export interface PciContext {
  /** Guest memory; reads give all ones and writes vanish while bus mastering is off. */
  readonly dma: DmaMemory;
  /** `bus:slot.function`, decimal, for names. */
  readonly address: string;
  /** Drives INTx; held back while MSI or MSI-X is on or INTx is disabled, visible in the Status register regardless. */
  intx(asserted: boolean): void;
  /** Sends MSI message `n` if MSI is on; true if it was. With fewer granted messages than asked, `n` wraps. */
  msi(n: number): boolean;
  /** Sends MSI-X vector `n` if MSI-X is on (kept pending while masked); true if MSI-X is on. */
  msix(n: number): boolean;
  /** Which of the three the guest has switched on. */
  readonly interruptMode: 'intx' | 'msi' | 'msix';
  /** Writes into the device's own capability body (by index into the spec), for registers the device changes. */
  setCapabilityByte(index: number, offset: number, value: number): void;
}

/** A PCI function. */
export interface PciDevice extends Device {
  /** Identity and resources; read once, at attachment. */
  readonly spec: PciSpec;
  /** Called once, before any access. */
  attach(ctx: PciContext): void;
  /** Reads a BAR at `offset`. */
  barRead(bar: number, offset: number, width: Width): number;
  /** Writes a BAR. */
  barWrite(bar: number, offset: number, width: Width, value: number): void;
  /** The guest wrote a byte of a capability body (by index into the spec). */
  capabilityWritten?(index: number, offset: number, value: number): void;
  /** Reads config space the bus does not define (0x40–0xFF outside capabilities, or legacy registers of bridges); undefined: all zeros. */
  configRead?(offset: number, width: Width): number | undefined;
  /** Writes likewise; true if the device took it. */
  configWrite?(offset: number, width: Width, value: number): boolean;
}
