// What it takes to give v86 a PCI device of ours: its guest memory as DmaMemory, and a PciContext over its PCI bus.
// v86 keeps configuration space, moves I/O BARs and routes INTx; a memory BAR stays where it was put.
import type { DmaMemory, PciContext, PciDevice, Width } from '@hyve/core';

/** The parts of v86's CPU object that devices use. v86 documents none of them; its own devices use the same. */
export interface V86Cpu {
  /** Guest memory. */
  readonly mem8: Uint8Array;
  /** Guest code in the range changed: translated code is dropped. */
  jit_dirty_cache(from: number, to: number): void;
  readonly io: {
    register_read(port: number, device: object, r8: () => number, r16: () => number, r32: () => number): void;
    register_write(
      port: number,
      device: object,
      w8: (v: number) => void,
      w16: (v: number) => void,
      w32: (v: number) => void,
    ): void;
    mmap_register(
      address: number,
      size: number,
      r8: (address: number) => number,
      w8: (address: number, value: number) => void,
      r32: (address: number) => number,
      w32: (address: number, value: number) => void,
    ): void;
  };
  readonly devices: {
    readonly pci: {
      register_device(device: object): Int32Array;
      raise_irq(id: number): void;
      lower_irq(id: number): void;
    };
  };
}

const VGA_START = 0xa_0000;
const VGA_END = 0xc_0000;
/** v86 maps memory-mapped registers in units of this. */
const MMIO_UNIT = 0x2_0000;

/** v86's guest memory: one piece of RAM from 0, with a hole for VGA and ROMs. */
export class V86Memory implements DmaMemory {
  private readonly cpu: V86Cpu;
  constructor(cpu: V86Cpu) {
    this.cpu = cpu;
  }
  private has(a: number, n: number): boolean {
    return a >= 0 && a + n <= this.cpu.mem8.length && (a + n <= VGA_START || a >= VGA_END);
  }
  read8(a: number): number {
    return this.has(a, 1) ? (this.cpu.mem8[a] as number) : 0xff;
  }
  read16(a: number): number {
    return this.read8(a) | (this.read8(a + 1) << 8);
  }
  read32(a: number): number {
    return (this.read16(a) | (this.read16(a + 2) << 16)) >>> 0;
  }
  write8(a: number, v: number): void {
    const view = this.writeView(a, 1);
    if (view !== null) view[0] = v;
  }
  write16(a: number, v: number): void {
    this.write8(a, v);
    this.write8(a + 1, v >>> 8);
  }
  write32(a: number, v: number): void {
    this.write16(a, v);
    this.write16(a + 2, v >>> 16);
  }
  readView(a: number, n: number): Uint8Array | null {
    return this.has(a, n) ? this.cpu.mem8.subarray(a, a + n) : null;
  }
  writeView(a: number, n: number): Uint8Array | null {
    if (!this.has(a, n)) return null;
    this.markDirty(a, n);
    return this.cpu.mem8.subarray(a, a + n);
  }
  markDirty(a: number, n: number): void {
    if (n > 0 && this.has(a, n)) this.cpu.jit_dirty_cache(a, a + n);
  }
}

/** Where a device goes. */
export interface V86Place {
  /** 0–31; v86 itself uses 0, 1, 5–12, 18, 30 and 31. */
  readonly slot: number;
  /** First port of I/O BAR 0 until the firmware moves it; needed if there is such a BAR. */
  readonly port?: number;
  /** Address of the memory BAR, a multiple of 128 KiB; needed if there is one. */
  readonly address?: number;
}

/** Puts `device` on v86's PCI bus. It must offer INTx and neither MSI nor MSI-X, which v86 does not have. */
export function attachToV86(cpu: V86Cpu, device: PciDevice, place: V86Place): void {
  const { spec } = device;
  const id = place.slot << 3;
  const space = new Uint8Array(256);
  const view = new DataView(space.buffer);
  view.setUint16(0x00, spec.vendor, true);
  view.setUint16(0x02, spec.device, true);
  view.setUint16(0x04, 0x0007, true);
  view.setUint32(0x08, spec.classCode * 256 + (spec.revision ?? 0), true);
  view.setUint16(0x2c, spec.subsystemVendor ?? 0, true);
  view.setUint16(0x2e, spec.subsystem ?? 0, true);
  view.setUint8(0x3d, spec.intx ? 1 : 0);
  let link = 0x34;
  let at = 0x40;
  for (const c of spec.capabilities ?? []) {
    view.setUint16(0x06, 0x0010, true);
    space[link] = at;
    space[at] = c.id;
    space.set(c.body, at + 2);
    link = at + 1;
    at += Math.ceil((c.body.length + 2) / 4) * 4;
  }

  const bars: ({ size: number } | undefined)[] = [];
  for (const { bar, kind, size } of spec.bars) {
    const register = 0x10 + bar * 4;
    const read = (offset: number, width: Width): number => device.barRead(bar, offset, width);
    if (kind === 'io') {
      const base = place.port as number;
      view.setUint32(register, base + 1, true);
      bars[bar] = { size };
      // v86 moves these entries when the BAR moves, so that each knows its offset and not its port.
      for (let o = 0; o < size; o++) {
        const write = (width: Width, mask: number) => (v: number) => device.barWrite(bar, o, width, (v & mask) >>> 0);
        cpu.io.register_read(
          base + o,
          device,
          () => read(o, 1),
          () => read(o, 2),
          () => read(o, 4) | 0,
        );
        cpu.io.register_write(base + o, device, write(1, 0xff), write(2, 0xffff), write(4, -1));
      }
    } else {
      const base = place.address as number;
      view.setUint32(register, base, true);
      bars[bar] = { size: MMIO_UNIT };
      const inside = (a: number): number => (a >>> 0) - base;
      cpu.io.mmap_register(
        base,
        MMIO_UNIT,
        (a) => (inside(a) < size ? read(inside(a), 1) : 0xff),
        (a, v) => inside(a) < size && device.barWrite(bar, inside(a), 1, v & 0xff),
        (a) => (inside(a) < size ? read(inside(a), 4) | 0 : -1),
        (a, v) => inside(a) < size && device.barWrite(bar, inside(a), 4, v >>> 0),
      );
    }
  }

  const { pci } = cpu.devices;
  const words = pci.register_device({ pci_id: id, pci_space: [...space], pci_bars: bars, name: device.name });
  const context: PciContext = {
    dma: new V86Memory(cpu),
    address: `0:${place.slot}.0`,
    intx: (on) => (on ? pci.raise_irq(id) : pci.lower_irq(id)),
    msi: () => false,
    msix: () => false,
    interruptMode: 'intx',
    setCapabilityByte: (index, offset, value) => {
      let start = 0x40;
      for (const c of (spec.capabilities ?? []).slice(0, index)) start += Math.ceil((c.body.length + 2) / 4) * 4;
      new Uint8Array(words.buffer)[start + 2 + offset] = value;
    },
  };
  device.attach(context);
}
