// @hyve/firmware-tables/acpi: ACPI tables from plain data.
export type {
  AcpiConfig,
  AcpiCpu,
  AcpiIoApic,
  AcpiPmConfig,
  AddressRange,
  IntxRoute,
  IsaBridgeConfig,
  PciRootConfig,
  SerialConfig,
} from './config.ts';
export { type AcpiTables, buildAcpi } from './tables.ts';
