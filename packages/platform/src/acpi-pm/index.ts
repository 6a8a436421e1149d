// ACPI PM1 registers and the power button.
export { AcpiPm, type AcpiPmOptions, type AcpiPmStateV1, claimAcpiPm } from './device.ts';
