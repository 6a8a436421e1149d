// Where a PC's four serial ports live. Mirrors the COM part of bhyve's pci_lpc.c.
import { type Claim, HyveError, type IoBus, type IoHandler } from '@hyve/core';

/** COM1–COM4: first port and ISA interrupt, index 0 is COM1. COM1/COM3 and COM2/COM4 share an interrupt. */
export const COM_PORTS: readonly { readonly base: number; readonly irq: number }[] = [
  { base: 0x3f8, irq: 4 },
  { base: 0x2f8, irq: 3 },
  { base: 0x3e8, irq: 4 },
  { base: 0x2e8, irq: 3 },
];

/**
 * Puts a UART at the ports of COM`n` (1–4); wider accesses are split into bytes.
 * @throws HyveError `COM_NUMBER` for another number, `BUS_OVERLAP` when the ports are taken
 */
export function claimCom(pio: IoBus, n: number, uart: IoHandler): Claim {
  const com = COM_PORTS[n - 1];
  if (com === undefined) throw new HyveError('COM_NUMBER', `com${n} does not exist; there are com1 to com4`);
  return pio.claim(com.base, 8, uart, { name: `com${n}`, widths: 1 });
}
