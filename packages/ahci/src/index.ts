// An AHCI controller with SATA disks and ATAPI drives.
export { AhciController, type AhciOptions, type AhciPortSpec, type AhciStateV1 } from './ahci.ts';
export type { AhciPortStateV1 } from './port.ts';
