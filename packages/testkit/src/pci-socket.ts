// A PCI function on a rig without a PCI bus: one BAR at a fixed address, interrupts recorded.
import type { PciContext, PciDevice } from '@hyve/core';
import type { RecordingIrq, Rig } from './rig.ts';

/** Where a function is plugged in. */
export interface PciSocketOptions {
  /** The rig that is the rest of the machine. */
  readonly rig: Rig;
  /** The function under test. */
  readonly device: PciDevice;
  /** Number of the BAR, as the device's `barRead` gets it. */
  readonly bar: number;
  /** Its address on the rig's MMIO bus. */
  readonly base: number;
  /** Bytes it decodes there. */
  readonly size: number;
  /** The rig's interrupt line for INTx. */
  readonly irq: number;
}

/**
 * Attaches a PCI function to a rig, for tests of the function alone. Accesses to the BAR are of 1 to 4 bytes; the guest's
 * choice of INTx, MSI or MSI-X is {@link PciSocket.mode}.
 */
export class PciSocket {
  /** What the guest has switched on; `intx` at first. */
  mode: PciContext['interruptMode'] = 'intx';
  /** Numbers of the messages sent in the present mode, oldest first. */
  readonly messages: number[] = [];
  /** The line of INTx. */
  readonly irq: RecordingIrq;

  constructor(o: PciSocketOptions) {
    const { rig, device, bar } = o;
    this.irq = rig.irq(o.irq);
    const socket = this;
    const send = (mode: PciContext['interruptMode'], n: number): boolean => {
      if (this.mode !== mode) return false;
      this.messages.push(n);
      return true;
    };
    device.attach({
      dma: rig.ram,
      address: '0:3.0',
      intx: (asserted) => this.irq.set(asserted),
      msi: (n) => send('msi', n),
      msix: (n) => send('msix', n),
      get interruptMode() {
        return socket.mode;
      },
      setCapabilityByte: () => {},
    });
    rig.mmio.claim(
      o.base,
      o.size,
      {
        read: (offset, width) => device.barRead(bar, offset, width),
        write: (offset, width, value) => device.barWrite(bar, offset, width, value),
      },
      { name: device.name, widths: 4 },
    );
  }
}
