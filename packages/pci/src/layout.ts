// From a function's spec to its configuration space: bytes at reset, which bits the guest may write, and what each byte
// is. Built once per function; every host mistake in a spec is found here.
import { HyveError, type PciBarSpec } from '@hyve/core';
import {
  BAR_IO,
  BAR_MEM64,
  BAR_PREFETCH,
  BRIDGE_CTL_WRITABLE,
  CAP_EXPRESS,
  CAP_MSI,
  CAP_MSIX,
  CAP_PM,
  CMD_WRITABLE,
  CONFIG_SIZE,
  EXP_CAPABILITIES,
  EXP_DEVCAP_FLR,
  EXP_DEVCAP_RBER,
  EXP_DEVCTL_RESET_VALUE,
  EXP_DEVCTL_WRITABLE,
  EXP_DEVICE_CAP,
  EXP_DEVICE_CTL,
  EXP_DEVICE_STATUS,
  EXP_DEVSTA_W1C,
  EXP_LENGTH,
  EXP_LINK_CAP,
  EXP_LINK_CAP2,
  EXP_LINK_CTL,
  EXP_LINK_CTL2,
  EXP_LINK_STATUS,
  EXP_LINKCAP_VALUE,
  EXP_LINKCAP2_VALUE,
  EXP_LINKCTL_WRITABLE,
  EXP_LINKCTL2_VALUE,
  EXP_LINKSTA_VALUE,
  EXP_ROOT_CTL,
  EXP_ROOTCTL_WRITABLE,
  EXP_TYPE_ENDPOINT,
  EXP_TYPE_INTEGRATED,
  EXP_TYPE_ROOT_PORT,
  EXP_TYPE_SHIFT,
  EXP_VERSION,
  HEADER_BRIDGE,
  MSI_ADDR_HI,
  MSI_ADDR_LO,
  MSI_CONTROL,
  MSI_CTL_64BIT,
  MSI_CTL_ENABLE,
  MSI_CTL_MASKABLE,
  MSI_CTL_MM_MASK,
  MSI_CTL_MMC_SHIFT,
  MSI_CTL_MME_SHIFT,
  MSI_DATA,
  MSI_LENGTH,
  MSI_LENGTH_MASKABLE,
  MSI_MASK_BITS,
  MSIX_CONTROL,
  MSIX_CTL_ENABLE,
  MSIX_CTL_FUNCTION_MASK,
  MSIX_LENGTH,
  MSIX_MAX_VECTORS,
  MSIX_PBA,
  MSIX_TABLE,
  PM_CAPABILITIES,
  PM_CAPABILITIES_VALUE,
  PM_CONTROL,
  PM_CTL_NO_SOFT_RESET,
  PM_LENGTH,
  REG_BAR0,
  REG_BRIDGE_CONTROL,
  REG_CACHE_LINE,
  REG_CAP_POINTER,
  REG_CLASS,
  REG_COMMAND,
  REG_DEVICE,
  REG_FIRST_FREE,
  REG_HEADER_TYPE,
  REG_INT_LINE,
  REG_IO_BASE,
  REG_IO_LIMIT,
  REG_LATENCY,
  REG_MEM_BASE,
  REG_MEM_LIMIT,
  REG_PREF_BASE,
  REG_PREF_BASE_HI,
  REG_PREF_LIMIT,
  REG_PREF_LIMIT_HI,
  REG_PRIMARY_BUS,
  REG_REVISION,
  REG_SECONDARY_LATENCY,
  REG_SECONDARY_STATUS,
  REG_STATUS,
  REG_SUBSYSTEM,
  REG_SUBSYSTEM_VENDOR,
  REG_VENDOR,
  STATUS_CAP_LIST,
  STATUS_W1C,
} from './bits.ts';
import { msixSpan, pbaOffset } from './msix.ts';
import type { PciFunctionSpec } from './spec.ts';

/** What a byte of configuration space is; {@link Layout.kind} holds one of these for each byte. */
export const KIND_OWN = 0;
export const KIND_PLAIN = 1;
export const KIND_COMMAND = 2;
export const KIND_BAR = 3;
export const KIND_MSI = 4;
export const KIND_MSIX = 5;
export const KIND_CAP = 6;
export const KIND_DEVCTL = 7;
export const KIND_BUS_NUMBERS = 8;
export const KIND_WINDOW = 9;
export const KIND_BRIDGE_CTL = 10;

/** A function's configuration space, ready to run. */
export interface Layout {
  /** Bytes at reset (BAR addresses and Command come later, with resource assignment). */
  readonly data: Uint8Array;
  /** Guest-writable bits. */
  readonly writable: Uint8Array;
  /** Bits that a written 1 clears. */
  readonly w1c: Uint8Array;
  /** One of the `KIND_` constants for each byte. */
  readonly kind: Uint8Array;
  /** For `KIND_CAP` bytes: index into the spec's capabilities. */
  readonly capIndex: Uint8Array;
  /** Offset of each of the spec's capabilities. */
  readonly capOffset: readonly number[];
  /** Offsets of the bus's own capabilities, 0 for none. */
  readonly msi: number;
  readonly msix: number;
  readonly express: number;
  /** All BARs, the one made for MSI-X included. */
  readonly bars: readonly PciBarSpec[];
}

function powerOfTwo(n: number): boolean {
  return Number.isInteger(n) && n > 0 && Number.isInteger(Math.log2(n));
}

/**
 * Checks a spec and lays it out.
 * @throws HyveError `PCI_SPEC`, `PCI_CAP_SPACE`
 */
export function layOut(name: string, spec: PciFunctionSpec): Layout {
  const bad = (what: string): HyveError => new HyveError('PCI_SPEC', `${name}: ${what}`);
  const data = new Uint8Array(CONFIG_SIZE);
  const writable = new Uint8Array(CONFIG_SIZE);
  const w1c = new Uint8Array(CONFIG_SIZE);
  const kind = new Uint8Array(CONFIG_SIZE);
  const capIndex = new Uint8Array(CONFIG_SIZE);
  const put = (into: Uint8Array, offset: number, width: number, value: number): void => {
    for (let i = 0; i < width; i++) into[offset + i] = Math.floor(value / 2 ** (8 * i)) & 0xff;
  };
  const mark = (offset: number, length: number, k: number): void => {
    kind.fill(k, offset, offset + length);
  };
  const bridge = spec.bridge;

  // Header.
  mark(0, REG_FIRST_FREE, KIND_PLAIN);
  put(data, REG_VENDOR, 2, spec.vendor);
  put(data, REG_DEVICE, 2, spec.device);
  put(writable, REG_COMMAND, 2, CMD_WRITABLE);
  mark(REG_COMMAND, 2, KIND_COMMAND);
  put(w1c, REG_STATUS, 2, STATUS_W1C);
  put(data, REG_REVISION, 1, spec.revision ?? 0);
  put(data, REG_CLASS, 3, spec.classCode);
  put(writable, REG_CACHE_LINE, 1, 0xff);
  // A PCI Express function has no latency timer (PCIe §7.5.1.4).
  if (spec.express === undefined) put(writable, REG_LATENCY, 1, 0xff);
  put(data, REG_INT_LINE, 1, 0xff);
  put(writable, REG_INT_LINE, 1, 0xff);
  if (bridge === undefined) {
    put(data, REG_SUBSYSTEM_VENDOR, 2, spec.subsystemVendor ?? 0);
    put(data, REG_SUBSYSTEM, 2, spec.subsystem ?? 0);
  } else {
    if (!(Number.isInteger(bridge.secondary) && bridge.secondary >= 1 && bridge.secondary <= 255))
      throw bad(`secondary bus ${bridge.secondary}, expected 1-255`);
    put(data, REG_HEADER_TYPE, 1, HEADER_BRIDGE);
    put(writable, REG_PRIMARY_BUS, 4, 0xffff_ffff);
    mark(REG_PRIMARY_BUS, 3, KIND_BUS_NUMBERS);
    if (spec.express !== undefined) writable[REG_SECONDARY_LATENCY] = 0;
    put(writable, REG_IO_BASE, 1, 0xf0);
    put(writable, REG_IO_LIMIT, 1, 0xf0);
    mark(REG_IO_BASE, 2, KIND_WINDOW);
    put(w1c, REG_SECONDARY_STATUS, 2, STATUS_W1C);
    for (const r of [REG_MEM_BASE, REG_MEM_LIMIT, REG_PREF_BASE, REG_PREF_LIMIT]) put(writable, r, 2, 0xfff0);
    put(data, REG_PREF_BASE, 2, 1);
    put(data, REG_PREF_LIMIT, 2, 1);
    put(writable, REG_PREF_BASE_HI, 4, 0xffff_ffff);
    put(writable, REG_PREF_LIMIT_HI, 4, 0xffff_ffff);
    mark(REG_MEM_BASE, 16, KIND_WINDOW);
    put(writable, REG_BRIDGE_CONTROL, 2, BRIDGE_CTL_WRITABLE);
    mark(REG_BRIDGE_CONTROL, 2, KIND_BRIDGE_CTL);
  }

  // BARs.
  const bars = [...spec.bars];
  if (spec.msix !== undefined) {
    const { vectors, bar } = spec.msix;
    const start = spec.msixOffset ?? 0;
    if (!(Number.isInteger(vectors) && vectors >= 1 && vectors <= MSIX_MAX_VECTORS))
      throw bad(`${vectors} MSI-X vectors, expected 1-${MSIX_MAX_VECTORS}`);
    if (!(Number.isInteger(start) && start >= 0 && start % 4096 === 0))
      throw bad(`MSI-X table at 0x${start.toString(16)}, expected a multiple of 0x1000`);
    const end = start + msixSpan(vectors);
    const home = bars.find((b) => b.bar === bar);
    if (home === undefined) bars.push({ bar, kind: 'mem32', size: 2 ** Math.ceil(Math.log2(end)) });
    else if (home.kind === 'io' || home.size < end)
      throw bad(`MSI-X table and pending bits need 0x${end.toString(16)} bytes of memory in BAR ${bar}`);
  }
  bars.sort((x, y) => x.bar - y.bar);
  const count = bridge === undefined ? 6 : 2;
  let next = 0;
  for (const b of bars) {
    const wide = b.kind === 'mem64';
    if (!Number.isInteger(b.bar) || b.bar < 0 || b.bar + (wide ? 2 : 1) > count)
      throw bad(`BAR ${b.bar} (${b.kind}) does not exist, the header has ${count}`);
    if (b.bar < next) throw bad(`BAR ${b.bar} is taken twice`);
    next = b.bar + (wide ? 2 : 1);
    const [least, most] = b.kind === 'io' ? [4, 256] : [16, wide ? 2 ** 39 : 2 ** 31];
    if (!powerOfTwo(b.size) || b.size < least || b.size > most)
      throw bad(`BAR ${b.bar} of 0x${b.size.toString(16)} bytes, expected a power of two from ${least} to ${most}`);
    if (b.widths !== undefined && (b.widths & 7) === 0) throw bad(`BAR ${b.bar} takes no access width`);
    const reg = REG_BAR0 + b.bar * 4;
    mark(reg, wide ? 8 : 4, KIND_BAR);
    const io = b.kind === 'io';
    put(data, reg, 4, io ? BAR_IO : (wide ? BAR_MEM64 : 0) | (b.prefetchable === true ? BAR_PREFETCH : 0));
    // Address bits below the size are hardwired to zero. PCI §6.2.5.1 allows it for the upper half of an I/O BAR too (bhyve),
    // but SeaBIOS negates all 32 bits to get the size, and stops for want of ports.
    const low = Math.log2(b.size);
    for (let i = 0; i < (wide ? 8 : 4); i++)
      writable[reg + i] = low <= 8 * i ? 0xff : low >= 8 * i + 8 ? 0 : (0xff << (low - 8 * i)) & 0xff;
  }

  // Capabilities, from 0x40 up, doubleword-aligned, around what the device keeps for itself.
  const reserved = spec.reserved ?? [];
  for (const r of reserved)
    if (!(r.offset >= REG_FIRST_FREE && r.length > 0 && r.offset + r.length <= CONFIG_SIZE))
      throw bad(`reserved range 0x${r.offset.toString(16)}+${r.length} is not in 0x40-0xff`);
  let cursor = REG_FIRST_FREE;
  let link = REG_CAP_POINTER;
  const addCap = (id: number, length: number, k: number): number => {
    let at = cursor;
    for (let moved = true; moved; ) {
      moved = false;
      for (const r of reserved)
        if (at < r.offset + r.length && r.offset < at + length) {
          at = Math.ceil((r.offset + r.length) / 4) * 4;
          moved = true;
        }
    }
    if (at + length > CONFIG_SIZE)
      throw new HyveError('PCI_CAP_SPACE', `${name}: capability 0x${id.toString(16)} of ${length} bytes does not fit`);
    cursor = Math.ceil((at + length) / 4) * 4;
    mark(at, Math.min(cursor, CONFIG_SIZE) - at, KIND_PLAIN);
    mark(at + 2, length - 2, k);
    data[link] = at;
    data[at] = id;
    link = at + 1;
    return at;
  };
  if (spec.powerManagement === true) {
    const c = addCap(CAP_PM, PM_LENGTH, KIND_PLAIN);
    put(data, c + PM_CAPABILITIES, 2, PM_CAPABILITIES_VALUE);
    put(data, c + PM_CONTROL, 2, PM_CTL_NO_SOFT_RESET);
  }
  let msix = 0;
  if (spec.msix !== undefined) {
    const { vectors, bar } = spec.msix;
    msix = addCap(CAP_MSIX, MSIX_LENGTH, KIND_MSIX);
    const start = spec.msixOffset ?? 0;
    put(data, msix + MSIX_CONTROL, 2, vectors - 1);
    put(writable, msix + MSIX_CONTROL, 2, MSIX_CTL_ENABLE | MSIX_CTL_FUNCTION_MASK);
    put(data, msix + MSIX_TABLE, 4, start + bar);
    put(data, msix + MSIX_PBA, 4, start + pbaOffset(vectors) + bar);
  }
  let msi = 0;
  const messages = spec.msi ?? 0;
  if (messages !== 0) {
    if (!powerOfTwo(messages) || messages > 32) throw bad(`${messages} MSI messages, expected 1, 2, 4, 8, 16 or 32`);
    const maskable = spec.msiMaskable === true;
    msi = addCap(CAP_MSI, maskable ? MSI_LENGTH_MASKABLE : MSI_LENGTH, KIND_MSI);
    const capable = Math.log2(messages) << MSI_CTL_MMC_SHIFT;
    put(data, msi + MSI_CONTROL, 2, capable | MSI_CTL_64BIT | (maskable ? MSI_CTL_MASKABLE : 0));
    put(writable, msi + MSI_CONTROL, 2, MSI_CTL_ENABLE | (MSI_CTL_MM_MASK << MSI_CTL_MME_SHIFT));
    put(writable, msi + MSI_ADDR_LO, 4, 0xffff_fffc);
    put(writable, msi + MSI_ADDR_HI, 4, 0xffff_ffff);
    put(writable, msi + MSI_DATA, 2, 0xffff);
    if (maskable) put(writable, msi + MSI_MASK_BITS, 4, 2 ** messages - 1);
  }
  let express = 0;
  if (spec.express !== undefined) {
    express = addCap(CAP_EXPRESS, EXP_LENGTH, KIND_PLAIN);
    const root = spec.express === 'root-port';
    const integrated = spec.express === 'root-complex-integrated';
    const type = root ? EXP_TYPE_ROOT_PORT : integrated ? EXP_TYPE_INTEGRATED : EXP_TYPE_ENDPOINT;
    put(data, express + EXP_CAPABILITIES, 2, EXP_VERSION | (type << EXP_TYPE_SHIFT));
    put(data, express + EXP_DEVICE_CAP, 4, EXP_DEVCAP_RBER | (root ? 0 : EXP_DEVCAP_FLR));
    put(data, express + EXP_DEVICE_CTL, 2, EXP_DEVCTL_RESET_VALUE);
    put(writable, express + EXP_DEVICE_CTL, 2, EXP_DEVCTL_WRITABLE);
    if (!root) mark(express + EXP_DEVICE_CTL, 2, KIND_DEVCTL);
    put(w1c, express + EXP_DEVICE_STATUS, 2, EXP_DEVSTA_W1C);
    if (!integrated) {
      // Link registers of an integrated endpoint are all zero: it has no link (PCIe §7.8).
      put(data, express + EXP_LINK_CAP, 4, EXP_LINKCAP_VALUE);
      put(writable, express + EXP_LINK_CTL, 2, EXP_LINKCTL_WRITABLE);
      put(data, express + EXP_LINK_STATUS, 2, EXP_LINKSTA_VALUE);
      put(data, express + EXP_LINK_CAP2, 4, EXP_LINKCAP2_VALUE);
      put(data, express + EXP_LINK_CTL2, 2, EXP_LINKCTL2_VALUE);
      put(writable, express + EXP_LINK_CTL2, 2, 0xf);
    }
    if (root) put(writable, express + EXP_ROOT_CTL, 2, EXP_ROOTCTL_WRITABLE);
  }
  const capOffset = (spec.capabilities ?? []).map((c, index) => {
    const at = addCap(c.id, 2 + c.body.length, KIND_CAP);
    data.set(c.body, at + 2);
    if (c.writable !== undefined) writable.set(c.writable.subarray(0, c.body.length), at + 2);
    capIndex.fill(index, at + 2, at + 2 + c.body.length);
    return at;
  });
  if (data[REG_CAP_POINTER] !== 0) put(data, REG_STATUS, 2, STATUS_CAP_LIST);
  return { data, writable, w1c, kind, capIndex, capOffset, msi, msix, express, bars };
}
