// @hyve/firmware-tables/smbios: SMBIOS structures from plain data.
export {
  type BiosStrings,
  type BoardStrings,
  buildSmbios,
  type ChassisStrings,
  type SmbiosConfig,
  type SystemStrings,
} from './table.ts';
