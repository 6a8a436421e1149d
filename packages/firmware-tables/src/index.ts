// What firmware leaves in a PC's memory, from plain data to bytes: ACPI, MP table, SMBIOS and the memory map.
// The AML vocabulary is in @hyve/firmware-tables/aml; configuration types are in the subpath of their table.
export { type AcpiConfig, type AcpiTables, buildAcpi } from './acpi/index.ts';
export type { TableImage } from './bytes.ts';
export { buildE820, E820, type E820Entry, type E820Options } from './e820.ts';
export { buildMpTable, type MpTableConfig } from './mptable/index.ts';
export { buildSmbios, type SmbiosConfig } from './smbios/index.ts';
