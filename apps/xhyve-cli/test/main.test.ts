import { describe, expect, it } from 'vitest';
import { helpText, OPTIONS } from '../src/help.ts';
import * as images from '../src/images/index.ts';
import * as api from '../src/index.ts';
import { type MainHost, main, version } from '../src/main.ts';
import { words } from './helpers.ts';

const support = {
  pci: ['hostbridge', 'lpc'],
  lpc: ['com1', 'com2'],
  boot: ['kexec' as const, 'bootrom' as const],
  engines: ['soft' as const],
  features: [],
};

async function call(line: string): Promise<{ status: number; out: string; err: string[] }> {
  const out: string[] = [];
  const err: string[] = [];
  const host: MainHost = {
    print: (t) => void out.push(t),
    complain: (l) => void err.push(l),
    readText: () => 'name=filed\nmemory.size=64M\n',
    loadBoard: async () => ({
      support,
      hasTranslatorThread: () => false,
      createPc: async () => ({
        run: async () => 'halt' as const,
        powerButton: () => false,
        forceOff: () => {},
        close: async () => {},
        stats: () => ({}),
      }),
    }),
    io: { note: (l) => void err.push(l), isRaw: () => false, restoreTerminal: () => {} },
  };
  const status = await main(words(line), host);
  return { status, out: out.join('\n'), err };
}

describe('main', () => {
  it('prints help and version with status 0', async () => {
    expect(await call('-h')).toEqual({ status: 0, out: helpText('xhyve'), err: [] });
    expect((await call('--help')).out).toContain('Usage: xhyve');
    expect((await call('pull --help')).out).toContain('xhyve pull');
    expect((await call('images -h')).out).toContain('xhyve images');
    expect((await call('-v')).out).toBe(`xhyve ${version()}`);
    expect(JSON.parse((await call('--version --json')).out)).toEqual({ name: 'xhyve', version: version() });
  });
  it('help covers every option and fits 100 columns', () => {
    const text = helpText('xhyve');
    for (const c of 'AbcCefFghHlmMpPsSuUvwWxYaDGkKnor')
      expect(
        OPTIONS.some((o) => o.option === `-${c}`),
        c,
      ).toBe(true);
    for (const l of text.split('\n')) expect(l.length, l).toBeLessThanOrEqual(100);
  });
  it('lists what the board builds, one name a line, and names the rest on stderr', async () => {
    const pci = await call('-s help');
    expect(pci).toMatchObject({ status: 0, out: 'hostbridge\nlpc' });
    expect(pci.err[0]).toMatch(/^not built yet: .*virtio-blk/u);
    expect((await call('-l help')).out).toBe('bootrom\ncom1\ncom2');
    const rows = JSON.parse((await call('-s help --json')).out) as { name: string; supported: boolean }[];
    expect(rows.find((r) => r.name === 'lpc')?.supported).toBe(true);
    expect(rows.find((r) => r.name === 'e1000')?.supported).toBe(false);
  });
  it('prints the resolved machine for --dry-run', async () => {
    const line =
      '-A -m 1G -c 4 -s 0:0,hostbridge -s 31,lpc -l com1,stdio -f kexec,vmlinuz,initrd.gz,"console=ttyS0 quiet" -u --dry-run box';
    expect(await call(line)).toEqual({
      status: 0,
      err: [],
      out: [
        'machine box',
        '  engine    auto',
        '  memory    1 GiB (1073741824 bytes)',
        '  cpus      4 (1 socket × 4 cores × 1 thread)',
        '  boot      kexec vmlinuz',
        '  initrd    initrd.gz',
        '  cmdline   console=ttyS0 quiet',
        '  pci       0:0:0 hostbridge',
        '  pci       0:31:0 lpc',
        '  lpc       com1 stdio',
        '  tables    ACPI, MP table, SMBIOS',
        '  uuid      (from the name)',
        '  clock     real, RTC in UTC',
      ].join('\n'),
    });
    const json = JSON.parse((await call(line.replace(' box', ' --json box'))).out) as Record<string, unknown>;
    expect(json).toMatchObject({ v: 1, name: 'box', memoryBytes: 2 ** 30, strictMsr: true });
  });
  it('dumps the configuration tree and stops', async () => {
    expect((await call('-k f -m 1G -w -o config.dump=1')).out).toBe(
      'config.dump=1\nmemory.size=1G\nname=filed\nx86.strictmsr=false',
    );
  });
  it('runs a machine', async () => {
    expect(await call('-f kexec,k')).toEqual({ status: 2, out: '', err: [] });
  });
  it.each([
    ['-s 3,floppy -f kexec,k', "xhyve: -s 3,floppy: unknown device 'floppy'; 'xhyve -s help' lists them"],
    ['-s 3,virtio-blk,d -f kexec,k', "xhyve: -s 0:3:0: the device 'virtio-blk' is not built yet"],
    ['-s 31,lpc -l com1,modem -f kexec,k', 'xhyve: -l com1: console "modem": "modem" is no back end'],
    ['', 'xhyve: nothing to boot'],
  ])('%s ends with one line and status 1', async (line, message) => {
    const r = await call(line);
    expect(r.status).toBe(1);
    expect(r.err).toHaveLength(1);
    expect(r.err[0]).toContain(message);
  });
});

describe('exports', () => {
  it('are these', () => {
    expect(Object.keys(api).sort()).toEqual([
      'demo',
      'describeMachine',
      'main',
      'parseArgs',
      'resolveMachine',
      'runMachine',
      'version',
    ]);
    expect(Object.keys(images).sort()).toEqual([
      'ProgressDisplay',
      'bootLine',
      'defaultCacheDir',
      'listImages',
      'progressLine',
      'pullImage',
    ]);
  });
});
