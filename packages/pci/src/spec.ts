// What this bus understands beyond core's PciSpec and PciDevice. A device that wants none of it needs only core's types.
import type { PciDevice, PciSpec, Width } from '@hyve/core';

/** A forwarding function: what makes a type 1 header. */
export interface PciBridgeSpec {
  /** Secondary bus number at reset, 1–255. Functions attached to this bus sit behind the bridge. */
  readonly secondary: number;
}

/** {@link PciSpec} with what only some functions need. A device may declare its `spec` as this type. */
export interface PciFunctionSpec extends PciSpec {
  /** Per-vector masking in the MSI capability (PCI 3.0 §6.8.1.7). Default false. */
  readonly msiMaskable?: boolean;
  /** Where the MSI-X table starts in its BAR, bytes, a multiple of 4096; the pending bits follow at the next 4 KiB. Default 0. */
  readonly msixOffset?: number;
  /** A power management capability that knows D0 only. Default false. */
  readonly powerManagement?: boolean;
  /** Bytes in 0x40–0xFF that the device serves itself; capabilities are laid around them. */
  readonly reserved?: readonly { readonly offset: number; readonly length: number }[];
  /** Makes the function a PCI-to-PCI bridge (type 1 header; BARs 0 and 1 only). */
  readonly bridge?: PciBridgeSpec;
}

/** {@link PciDevice} with hooks that only some devices need. */
export interface PciFunctionDevice extends PciDevice {
  readonly spec: PciFunctionSpec;
  /** The guest reads bytes of a capability body (by index into the spec); undefined: the stored bytes. */
  capabilityRead?(index: number, offset: number, width: Width): number | undefined;
}

/** Where a function sits. All three are numbers as in `bus:slot:func`. */
export interface PciLocation {
  /** Bus number at reset, 0–255: a root bus, or the secondary bus of a bridge attached before. Default 0. */
  readonly bus?: number;
  /** 0–31. */
  readonly slot: number;
  /** 0–7. Default 0. */
  readonly func?: number;
}
