import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { buildE820, buildMpTable, buildSmbios, E820, type MpTableConfig, type SmbiosConfig } from '../src/index.ts';

const GIB = 2 ** 30;
const sum = (b: Uint8Array): number => b.reduce((a, x) => (a + x) & 0xff, 0);
const view = (b: Uint8Array): DataView => new DataView(b.buffer, b.byteOffset, b.byteLength);
/** Runs a tool on a 1 MiB image that holds the tables at their addresses. */
function onImage(tables: readonly api.TableImage[], tool: string, args: readonly string[]): string {
  const dir = mkdtempSync(join(tmpdir(), 'hyve-tables-'));
  try {
    const image = new Uint8Array(1 << 20);
    for (const t of tables) image.set(t.bytes, t.addr);
    const file = join(dir, 'mem.bin');
    writeFileSync(file, image);
    const r = spawnSync(tool, [...args, file], { encoding: 'utf8' });
    return `${r.stdout}${r.stderr}`;
  } finally {
    rmSync(dir, { recursive: true });
  }
}
const dmidecode = spawnSync('dmidecode', ['-V']).error === undefined;
const biosdecode = spawnSync('biosdecode', ['-V']).error === undefined;

const mp: MpTableConfig = {
  apicIds: [0, 1],
  ioApic: { id: 2, address: 0xfec00000 },
  pciBuses: [0],
  routes: [
    { slot: 3, pin: 0, gsi: 17 },
    { slot: 31, pin: 3, gsi: 23 },
  ],
};

describe('MP table (MP 1.4 §4)', () => {
  it('has a floating pointer that leads to the table, both with good checksums', () => {
    const t = buildMpTable(mp);
    const v = view(t.bytes);
    expect(t.addr).toBe(0xf0000);
    expect([v.getUint32(0, false), v.getUint32(4, true), v.getUint8(8), v.getUint8(9)]).toEqual([
      0x5f4d505f, 0xf0010, 1, 4,
    ]);
    expect(sum(t.bytes.subarray(0, 16))).toBe(0);
    const length = v.getUint16(16 + 4, true);
    expect(16 + length).toBe(t.bytes.length);
    expect(sum(t.bytes.subarray(16))).toBe(0);
    expect(v.getUint32(16 + 36, true)).toBe(0xfee00000);
  });

  it('counts its entries, sorted by type, and routes what the data says', () => {
    const t = buildMpTable(mp).bytes;
    const rows: number[][] = [];
    for (let at = 60; at < t.length; at += t[at] === 0 ? 20 : 8)
      rows.push(Array.from(t.subarray(at, at + (t[at] === 0 ? 20 : 8))));
    expect(rows).toHaveLength(view(t).getUint16(16 + 34, true));
    const types = rows.map((r) => r[0] as number);
    expect(types).toEqual([...types].sort((a, b) => a - b));
    expect(rows.slice(0, 2).map((r) => [r[1], r[3]])).toEqual([
      [0, 3],
      [1, 1],
    ]);
    const io = rows.filter((r) => r[0] === 3);
    expect(io.slice(0, 3)).toEqual([
      [3, 3, 0, 0, 1, 0, 2, 0], // ExtINT
      [3, 0, 0, 0, 1, 0, 2, 2], // the timer at pin 2
      [3, 0, 0, 0, 1, 1, 2, 1],
    ]);
    expect(io.find((r) => r[4] === 1 && r[5] === 9)).toEqual([3, 0, 15, 0, 1, 9, 2, 9]);
    expect(io.filter((r) => r[4] === 0)).toEqual([
      [3, 0, 0, 0, 0, 3 << 2, 2, 17],
      [3, 0, 0, 0, 0, (31 << 2) | 3, 2, 23],
    ]);
    expect(rows.slice(-2)).toEqual([
      [4, 3, 0, 0, 1, 0, 255, 0],
      [4, 1, 0, 0, 1, 0, 255, 1],
    ]);
  });

  it('refuses other buses, too many processors and impossible routes', () => {
    expect(codeOf(() => buildMpTable({ ...mp, pciBuses: [0, 3] }))).toBe('MPTABLE_BUS');
    expect(codeOf(() => buildMpTable({ ...mp, apicIds: [255] }))).toBe('MPTABLE_CPU');
    expect(codeOf(() => buildMpTable({ ...mp, apicIds: Array.from({ length: 250 }, (_, i) => i) }))).toBe(
      'MPTABLE_SPACE',
    );
    expect(codeOf(() => buildMpTable({ ...mp, routes: [{ slot: 1, pin: 4, gsi: 16 }] }))).toBe('MPTABLE_ROUTE');
  });

  it.skipIf(!biosdecode)('biosdecode reads it (skipped without biosdecode)', () => {
    expect(onImage([buildMpTable(mp)], 'biosdecode', ['-d'])).toMatch(
      /Intel Multiprocessor present\.\s+Specification Revision: 1\.4/,
    );
  });
});

const smbios: SmbiosConfig = {
  lowmem: 3 * GIB,
  highmem: 5 * GIB,
  sockets: 2,
  cores: 4,
  threads: 2,
  uuid: '00112233-4455-6677-8899-aabbccddeeff',
  bios: { vendor: 'Vend', version: 'V9', releaseDate: '02/03/2025' },
  system: {
    manufacturer: 'SysMan',
    productName: 'Prod',
    version: 'SV',
    serialNumber: 'SSN',
    sku: 'SSKU',
    familyName: 'Fam',
  },
  board: {
    manufacturer: 'BMan',
    productName: 'BProd',
    version: 'BV',
    serialNumber: 'BSN',
    assetTag: 'BTag',
    location: 'BLoc',
  },
  chassis: { manufacturer: 'CMan', version: 'CV', serialNumber: 'CSN', assetTag: 'CTag', sku: 'CSKU' },
};

describe('SMBIOS (DSP0134 2.8)', () => {
  it('has an entry point with both checksums and right totals', () => {
    const t = buildSmbios(smbios);
    const v = view(t.bytes);
    expect(t.addr).toBe(0xf1000);
    expect([sum(t.bytes.subarray(0, 31)), sum(t.bytes.subarray(16, 31))]).toEqual([0, 0]);
    expect([v.getUint8(6), v.getUint8(7), v.getUint8(30)]).toEqual([2, 8, 0x28]);
    // Walk the structures as a guest does.
    const types: number[] = [];
    let largest = 0;
    let at = v.getUint32(24, true) - t.addr;
    const end = at + v.getUint16(22, true);
    while (at < end) {
      const begin = at;
      types.push(t.bytes[at] as number);
      at += t.bytes[at + 1] as number;
      while (t.bytes[at] !== 0 || t.bytes[at + 1] !== 0) at++;
      at += 2;
      largest = Math.max(largest, at - begin);
    }
    expect(at).toBe(t.bytes.length);
    expect(types).toEqual([0, 1, 2, 3, 4, 4, 16, 17, 19, 19, 32, 127]);
    expect([v.getUint16(28, true), v.getUint16(8, true)]).toEqual([12, largest]);
  });

  it.skipIf(!dmidecode)(
    'dmidecode shows every string, the UUID, the topology and the memory (skipped without dmidecode)',
    () => {
      const out = onImage([buildSmbios(smbios)], 'dmidecode', ['-d']);
      expect(out).not.toMatch(/wrong|broken|truncated|invalid|out of spec/i);
      const shown = [
        'SMBIOS 2.8 present',
        'Vendor: Vend',
        'Version: V9',
        'Release Date: 02/03/2025',
        'Manufacturer: SysMan',
        'Product Name: Prod',
        'Serial Number: SSN',
        'SKU Number: SSKU',
        'Family: Fam',
        'UUID: 00112233-4455-6677-8899-aabbccddeeff',
        'Manufacturer: BMan',
        'Product Name: BProd',
        'Asset Tag: BTag',
        'Location In Chassis: BLoc',
        'Manufacturer: CMan',
        'SKU Number: CSKU',
        'Core Count: 4',
        'Thread Count: 8',
        'Maximum Capacity: 8 GB',
        'Size: 8 GB',
        'Ending Address: 0x000BFFFFFFF',
        'Starting Address: 0x00100000000',
        'Ending Address: 0x0023FFFFFFF',
        'Range Size: 5 GB',
      ];
      for (const s of shown) expect(out).toContain(s);
      expect(out.match(/Processor Information/g)).toHaveLength(2);
    },
  );

  it.skipIf(!dmidecode)('dmidecode reads terabytes and an empty string', () => {
    const out = onImage(
      [buildSmbios({ lowmem: 3 * GIB, highmem: 5 * 2 ** 40, board: { location: '' } })],
      'dmidecode',
      ['-d'],
    );
    expect(out).toContain('Location In Chassis: Not Specified');
    expect(out).toContain('Range Size: 5 TB');
    expect(out).toMatch(/Ending Address: 0x0*500FFFFFFFF/i);
    expect(out).toMatch(/Size: 5123 GB/);
  });

  it('refuses to pass its area, bad UUIDs and text outside ASCII', () => {
    const bare = { lowmem: GIB };
    expect(codeOf(() => buildSmbios({ ...bare, sockets: 200 }))).toBe('SMBIOS_SPACE');
    expect(codeOf(() => buildSmbios({ ...bare, sockets: 60 }))).toBe('no error');
    expect(codeOf(() => buildSmbios({ ...bare, uuid: 'nope' }))).toBe('SMBIOS_UUID');
    expect(codeOf(() => buildSmbios({ ...bare, bios: { vendor: 'é' } }))).toBe('TABLE_TEXT');
    expect(codeOf(() => buildSmbios({ ...bare, base: 0xf1001 }))).toBe('SMBIOS_CONFIG');
    expect(codeOf(() => buildSmbios({ lowmem: 100 }))).toBe('SMBIOS_CONFIG');
  });
});

describe('memory map', () => {
  it('has RAM, EBDA, tables, ECAM and fixed devices in order', () => {
    const map = buildE820({ lowmem: 3 * GIB, highmem: GIB, ecam: { base: 0xe0000000, size: 0x10000000 } });
    expect(map.map((e) => [e.base, e.base + e.size, e.type])).toEqual([
      [0, 0x9fc00, E820.Ram],
      [0x9fc00, 0xa0000, E820.Reserved],
      [0xf0000, 0x100000, E820.Reserved],
      [0x100000, 0xc0000000, E820.Ram],
      [0xe0000000, 0xf0000000, E820.Reserved],
      [0xfec00000, 0xfec01000, E820.Reserved],
      [0xfed00000, 0xfed01000, E820.Reserved],
      [0xfee00000, 0xfee01000, E820.Reserved],
      [0x100000000, 0x140000000, E820.Ram],
    ]);
  });
  it('refuses overlaps and impossible RAM', () => {
    expect(codeOf(() => buildE820({ lowmem: 0xf8000000, ecam: { base: 0xe0000000, size: 0x1000 } }))).toBe('E820');
    expect(codeOf(() => buildE820({ lowmem: 4096 }))).toBe('E820');
    expect(buildE820({ lowmem: 1 << 20, reserved: [] })).toHaveLength(3);
  });
});

it('exports these names', () => {
  expect(Object.keys(api).sort()).toEqual(['E820', 'buildAcpi', 'buildE820', 'buildMpTable', 'buildSmbios']);
});
