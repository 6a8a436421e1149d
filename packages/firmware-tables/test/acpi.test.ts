import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf } from '@hyve/testkit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type AcpiConfig, type AcpiTables, buildAcpi } from '../src/acpi/index.ts';
import * as aml from '../src/aml/index.ts';

const present = (tool: string): boolean => spawnSync(tool, ['-v']).error === undefined;
const iasl = present('iasl');
const acpiexec = present('acpiexec');

// Routing with no pattern, so that a table made from a formula would not pass.
const routes = [
  { slot: 1, pin: 0, gsi: 23, link: 5 },
  { slot: 3, pin: 2, gsi: 16, link: 0 },
  { slot: 9, pin: 0, gsi: 18, link: 7 },
  { slot: 9, pin: 3, gsi: 17 },
  { slot: 31, pin: 1, gsi: 21, link: 2 },
];

const full: AcpiConfig = {
  cpus: [0, 2, 4, 6].map((apicId) => ({ apicId })),
  ioApics: [{ id: 9, address: 0xfec00000, gsiBase: 0 }],
  hpet: { address: 0xfed00000, id: 0x80860701 },
  ecam: { address: 0xe0000000, firstBus: 0, lastBus: 255 },
  roots: [
    {
      bus: 0,
      lastBus: 4,
      io: [{ base: 0, size: 0x10000 }],
      memory: [
        { base: 0xa0000, size: 0x20000 },
        { base: 0xc0000000, size: 0x20000000 },
        { base: 0xd000000000, size: 0x2d00000000 },
      ],
      routes,
    },
    { bus: 5, io: [], memory: [{ base: 0xf0000000, size: 0x800000 }], routes: routes.slice(0, 2), express: true },
  ],
  isa: {
    slot: 31,
    serial: [
      { com: 1, port: 0x3f8, irq: 4 },
      { com: 2, port: 0x2f8, irq: 3 },
      { com: 3, port: 0x3e8, irq: 4 },
      { com: 4, port: 0x2e8, irq: 3 },
    ],
    keyboard: true,
    mouse: true,
    extra: [aml.device('PVP', [aml.name('_HID', aml.string('QEMU0001'))])],
  },
  vga: true,
  extra: [aml.device('EXT', [aml.name('_HID', aml.string('HYVE0001'))])],
};

const least: AcpiConfig = {
  cpus: [{ apicId: 0 }],
  ioApics: [{ id: 0, address: 0xfec00000, gsiBase: 0 }],
  roots: [{ bus: 0, io: [], memory: [], routes: routes.slice(0, 1) }],
  rtc: false,
  pm: { smi: null },
};

const sum = (b: Uint8Array): number => b.reduce((a, x) => (a + x) & 0xff, 0);
const view = (b: Uint8Array): DataView => new DataView(b.buffer, b.byteOffset, b.byteLength);
const text = (b: Uint8Array, at: number, n: number): string => String.fromCharCode(...b.subarray(at, at + n));
function table(t: AcpiTables, name: string): Uint8Array {
  const found = t.tables.find((x) => x.name === name);
  if (found === undefined) throw new Error(`no ${name}`);
  return found.bytes;
}
describe('layout', () => {
  it("has bhyve's addresses while everything fits", () => {
    const t = buildAcpi(least);
    expect(t.tables.map((x) => [x.name, x.addr.toString(16)])).toEqual([
      ['RSD PTR ', 'f2400'],
      ['RSDT', 'f2440'],
      ['XSDT', 'f2480'],
      ['APIC', 'f2500'],
      ['FACP', 'f2600'],
      ['FACS', 'f27c0'],
      ['DSDT', 'f2800'],
    ]);
  });

  it.each([
    ['full', full],
    ['least', least],
    ['300 processors', { ...full, cpus: Array.from({ length: 300 }, (_, apicId) => ({ apicId })) }],
  ])('%s: pointers lead to tables with good checksums and no overlap', (_, config) => {
    const t = buildAcpi(config);
    const at = (addr: number): Uint8Array => {
      const o = addr - t.addr;
      return t.bytes.subarray(o, o + view(t.bytes).getUint32(o + 4, true));
    };
    expect(text(t.bytes, 0, 8)).toBe('RSD PTR ');
    expect(sum(t.bytes.subarray(0, 20))).toBe(0);
    expect(sum(t.bytes.subarray(0, 36))).toBe(0);
    const rsdt = at(view(t.bytes).getUint32(16, true));
    const xsdt = at(view(t.bytes).getUint32(24, true));
    expect([text(rsdt, 0, 4), sum(rsdt), text(xsdt, 0, 4), sum(xsdt)]).toEqual(['RSDT', 0, 'XSDT', 0]);
    const listed: string[] = [];
    for (let i = 0; i < (xsdt.length - 36) / 8; i++) {
      const a = view(xsdt).getUint32(36 + 8 * i, true);
      expect(view(rsdt).getUint32(36 + 4 * i, true)).toBe(a);
      expect(sum(at(a))).toBe(0);
      listed.push(text(at(a), 0, 4));
    }
    expect(listed).toEqual(['FACP', 'APIC', ...(config.hpet ? ['HPET'] : []), ...(config.ecam ? ['MCFG'] : [])]);
    const fadt = view(table(t, 'FACP'));
    expect(text(at(fadt.getUint32(36, true)), 0, 4)).toBe('FACS');
    expect(fadt.getUint32(36, true) % 64).toBe(0);
    expect([text(at(fadt.getUint32(40, true)), 0, 4), sum(at(fadt.getUint32(40, true)))]).toEqual(['DSDT', 0]);
    expect(fadt.getUint32(140, true)).toBe(fadt.getUint32(40, true));
    t.tables.slice(1).forEach((x, i) => {
      const before = t.tables[i] as AcpiTables['tables'][number];
      expect(before.addr + before.bytes.length).toBeLessThanOrEqual(x.addr);
    });
  });

  it('refuses tables past the limit and impossible data', () => {
    const cpu = { apicId: 0 };
    expect(codeOf(() => buildAcpi({ ...full, limit: 0xf3000 }))).toBe('ACPI_SPACE');
    expect(codeOf(() => buildAcpi({ ...full, base: 0xf2410 }))).toBe('ACPI_CONFIG');
    expect(codeOf(() => buildAcpi({ ...full, base: 0x100000 }))).toBe('ACPI_CONFIG');
    expect(codeOf(() => buildAcpi({ ...full, cpus: [] }))).toBe('ACPI_CONFIG');
    expect(codeOf(() => buildAcpi({ ...full, ioApics: [] }))).toBe('ACPI_CONFIG');
    expect(codeOf(() => buildAcpi({ ...full, roots: [] }))).toBe('ACPI_CONFIG');
    const root = { bus: 0, io: [], memory: [] };
    expect(codeOf(() => buildAcpi({ ...least, roots: [{ ...root, routes: [{ slot: 32, pin: 0, gsi: 16 }] }] }))).toBe(
      'ACPI_CONFIG',
    );
    expect(
      codeOf(() => buildAcpi({ ...least, roots: [{ ...root, routes: [{ slot: 1, pin: 0, gsi: 16, link: 8 }] }] })),
    ).toBe('ACPI_CONFIG');
    expect(codeOf(() => buildAcpi({ ...least, cpus: new Array(5000).fill(cpu) }))).toBe('ACPI_CONFIG');
  });
});

describe('FADT', () => {
  it('describes the fixed hardware', () => {
    const f = view(table(buildAcpi(full), 'FACP'));
    expect([f.byteLength, f.getUint8(8), f.getUint8(131), f.getUint16(46, true)]).toEqual([268, 5, 1, 9]);
    expect([f.getUint32(48, true), f.getUint8(52), f.getUint8(53)]).toEqual([0xb2, 0xa0, 0xa1]);
    expect([f.getUint32(56, true), f.getUint32(64, true), f.getUint32(76, true)]).toEqual([0x400, 0x404, 0x408]);
    expect([f.getUint8(108), f.getUint8(128)]).toEqual([0x32, 6]);
    expect([f.getUint8(116), f.getUint8(117), f.getUint32(120, true)]).toEqual([1, 8, 0xcf9]);
  });
  it('claims only what is there', () => {
    const some = view(table(buildAcpi(full), 'FACP'));
    const none = view(table(buildAcpi(least), 'FACP'));
    expect(some.getUint16(109, true)).toBe(0x13); // legacy devices, 8042, no ASPM
    expect(none.getUint16(109, true)).toBe(0x34); // no VGA, no ASPM, no CMOS RTC
    expect(some.getUint32(112, true)).toBe(0x80565);
    expect(none.getUint32(112, true)).toBe(0x81565); // headless
    expect([none.getUint32(48, true), none.getUint8(108)]).toEqual([0, 0]);
  });
});

describe('MADT', () => {
  const entries = (config: AcpiConfig): Uint8Array[] => {
    const m = table(buildAcpi(config), 'APIC');
    const out: Uint8Array[] = [];
    for (let at = 44; at < m.length; at += m[at + 1] as number) out.push(m.subarray(at, at + (m[at + 1] as number)));
    return out;
  };
  it('lists processors, I/O APIC, overrides and NMI', () => {
    expect(entries(full).map((e) => Array.from(e).join())).toEqual([
      '0,8,0,0,1,0,0,0',
      '0,8,1,2,1,0,0,0',
      '0,8,2,4,1,0,0,0',
      '0,8,3,6,1,0,0,0',
      '1,12,9,0,0,0,192,254,0,0,0,0',
      '2,10,0,0,2,0,0,0,0,0',
      '2,10,0,9,9,0,0,0,15,0',
      '4,6,255,5,0,1',
    ]);
  });
  it('uses x2APIC entries above id 254', () => {
    const e = entries({ ...least, cpus: Array.from({ length: 257 }, (_, apicId) => ({ apicId })) });
    expect(e.filter((x) => x[0] === 0)).toHaveLength(255);
    const wide = e.filter((x) => x[0] === 9).map(view);
    expect(wide.map((x) => [x.getUint32(4, true), x.getUint32(12, true)])).toEqual([
      [255, 255],
      [256, 256],
    ]);
    expect(Array.from(e.at(-1) ?? []).join()).toBe('10,12,5,0,255,255,255,255,1,0,0,0');
  });
});

describe.each([
  ['full', full],
  ['least', least],
])('%s, read by ACPICA', (name, config) => {
  let dir = '';
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'hyve-acpi-'));
    for (const t of buildAcpi(config).tables)
      writeFileSync(join(dir, `${t.name.trim().replace(' ', '')}.dat`), t.bytes);
  });
  afterAll(() => rmSync(dir, { recursive: true }));
  const run = (tool: string, ...args: string[]): string => {
    const r = spawnSync(tool, args, { cwd: dir, encoding: 'utf8' });
    return `${r.stdout}\n${r.stderr}`;
  };
  /** Runs acpiexec commands and gives what they print. It may idle for a second at its end, so it runs beside others. */
  const exec = (commands: string): Promise<string> =>
    new Promise((resolve) => {
      execFile('acpiexec', ['-b', commands, 'DSDT.dat'], { cwd: dir }, (_, out, err) =>
        resolve(`${out}
${err}`),
      );
    });

  it.skipIf(!iasl)('iasl disassembles and compiles every table without a remark (skipped without iasl)', () => {
    const files = ['DSDT', 'APIC', 'FACP', 'FACS', ...(config.hpet ? ['HPET', 'MCFG'] : [])];
    for (const f of files) {
      expect(run('iasl', '-d', `${f}.dat`), f).not.toMatch(/error|warning|invalid|incorrect/i);
      expect(run('iasl', `${f}.dsl`), f).toMatch(/0 Errors, 0 Warnings, 0 Remarks/);
    }
  });

  it.skipIf(!acpiexec).concurrent('acpiexec loads it and finds every device (skipped without acpiexec)', async () => {
    const out = await exec('namespace');
    expect(out).not.toMatch(/error|warning|exception|AE_/i);
    for (const d of ['PC00', 'C000']) expect(out).toContain(d);
    for (const d of ['PC05', 'C003', 'COM1', 'COM4', 'KBD_', 'MOU_', 'HPET', 'MRES', 'RTC_', 'LNKH', 'PVP_', 'EXT_'])
      expect(out.includes(d), d).toBe(name === 'full');
    expect(out).not.toContain('_S3');
  });

  it.skipIf(!acpiexec).concurrent('_S5 gives sleep type 5', async () => {
    expect(await exec('execute \\_S5')).toMatch(/Elements:\s+\[Integer\] = 0{15}5\s+\[Integer\] = 0{15}5/);
  });

  it.skipIf(!acpiexec).concurrent.each(config.roots.map((r) => [r.bus, r] as const))(
    '_PRT of bus %i gives the routing data in both interrupt modes',
    async (bus, root) => {
      const path = `\\_SB.PC0${bus}._PRT`;
      const out = (await exec(`execute \\_PIC 1;execute ${path};execute \\_PIC 0;execute ${path}`)).split(
        `Evaluating ${path}`,
      );
      const rows = (o: string | undefined): string[][] =>
        [...(o ?? '').matchAll(/ {4}\[Package\] Contains 4 Elements:((?:\s+\[(?:Integer|Object).*)+)/g)].map((row) =>
          [...(row[1] ?? '').matchAll(/\[Integer\] = ([0-9A-F]+)|Name (LNK[A-H])/g)].map(
            (m) => m[2] ?? String(Number.parseInt(m[1] ?? '', 16)),
          ),
        );
      const address = (slot: number): string => String(slot * 0x10000 + 0xffff);
      const apic = root.routes.map((r) => [address(r.slot), String(r.pin), '0', String(r.gsi)]);
      const pic = root.routes
        .filter((r) => r.link !== undefined)
        .map((r) => [address(r.slot), String(r.pin), `LNK${'ABCDEFGH'[r.link ?? 0]}`, '0']);
      expect(rows(out[1])).toEqual(apic);
      expect(rows(out[2])).toEqual(config.isa === undefined ? apic : pic);
    },
  );

  it.skipIf(!acpiexec || config.isa === undefined).concurrent(
    'link devices read and write their PIRQ register (needs acpiexec and an ISA bridge)',
    async () => {
      const link = '\\_SB.PC00.ISA.LNKF';
      const set = (mask: string): string => `${link}._SRS (23 ${mask} 18 79 00)`;
      const steps: [string, RegExp][] = [
        // acpiexec's simulated config space is zero at first: IRQ 0, which the router refuses.
        [`${link}._STA`, /0{15}9/],
        [set('20 00'), /No object/],
        [`${link}._STA`, /0{15}B/],
        [`${link}._CRS`, /23 20 00 18/],
        [set('00 08'), /No object/],
        [`${link}._CRS`, /23 00 08 18/],
        // One link's register is not another's.
        ['\\_SB.PC00.ISA.LNKE._CRS', /23 00 00 18/],
        [`${link}._DIS`, /No object/],
        [`${link}._STA`, /0{15}9/],
        [`${link}._CRS`, /23 00 00 18/],
        [`${link}._PRS`, /23 F8 DE 18/],
      ];
      const out = (await exec(steps.map(([c]) => `execute ${c}`).join(';'))).split(/^Evaluating /m).slice(1);
      expect(out).toHaveLength(steps.length);
      steps.forEach(([c, want], i) => {
        expect(out[i], `step ${i}: ${c}`).toMatch(want);
      });
    },
  );

  it.skipIf(!acpiexec || config.roots.length < 2).concurrent(
    '_OSC grants what it can and marks the rest (needs acpiexec and two roots)',
    async () => {
      const osc = (uuid: string, request: string): string =>
        `execute \\_SB.PC05._OSC (${uuid}) 1 3 (00 00 00 00 00 00 00 00 ${request})`;
      const pci = '5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66';
      const commands = [osc(pci, '1D 00 00 00'), osc(pci, '1F 00 00 00'), osc(pci.replace('5B', '00'), '1F 00 00 00')];
      const out = (await exec(commands.join(';'))).split(/^Evaluating /m);
      expect(out[1]).toMatch(/0000: 00 00 00 00 00 00 00 00 1D 00 00 00/);
      expect(out[2]).toMatch(/0000: 10 00 00 00 00 00 00 00 1D 00 00 00/);
      expect(out[3]).toMatch(/0000: 04 00 00 00/);
    },
  );

  it.skipIf(!iasl)('_CRS of the root splits the ports around the configuration ports', () => {
    if (config.isa === undefined) return;
    execFileSync('iasl', ['-d', 'DSDT.dat'], { cwd: dir, stdio: 'ignore' });
    const asl = readFileSync(join(dir, 'DSDT.dsl'), 'utf8');
    const root = asl.slice(asl.indexOf('Device (PC00)'), asl.indexOf('Name (PPRT'));
    const values = [...root.matchAll(/(0x[0-9A-F]+), +\/\/ (?:Range Minimum|Range Maximum|Length)/g)].map((m) =>
      Number(m[1]),
    );
    const ranges: number[][] = [];
    for (let i = 0; i < values.length; i += 3) ranges.push(values.slice(i, i + 3));
    expect(ranges).toEqual([
      [0, 4, 5],
      // IO (0xCF8, 0xCF8) has its values in the same order, then alignment and length.
      ...(ranges[1]?.[0] === 0xcf8 ? [ranges[1]] : []),
      [0, 0xcf7, 0xcf8],
      [0xd00, 0xffff, 0xf300],
      [0xa0000, 0xbffff, 0x20000],
      [0xc0000000, 0xdfffffff, 0x20000000],
      [0xd000000000, 0xfcffffffff, 0x2d00000000],
    ]);
  });
});
