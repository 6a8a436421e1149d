// @hyve/firmware-tables/mptable: the MP table from plain data.
export { buildMpTable, type MpIntxRoute, type MpTableConfig } from './table.ts';
