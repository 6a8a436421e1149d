// Command lines and files that cannot work, through the whole program and the real board: one clear line each, and the
// documented status.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { main } from '../src/main.ts';
import { loadBoard } from '../src/run.ts';
import { words } from './helpers.ts';

const dir = mkdtempSync(join(tmpdir(), 'xhyve-bad-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** A bzImage header with 8 KiB of kernel behind it. */
function bzImage(change: (v: DataView) => void = () => {}): Uint8Array {
  const b = new Uint8Array(1024 + 8192);
  const v = new DataView(b.buffer);
  b[0x1f1] = 1;
  v.setUint32(0x1f4, 512, true);
  v.setUint16(0x1fe, 0xaa55, true);
  b.set([0xeb, 0x6a, 0x48, 0x64, 0x72, 0x53, 0x0f, 0x02], 0x200);
  b[0x211] = 1;
  v.setUint32(0x22c, 0x7fffffff, true);
  v.setUint32(0x230, 0x200000, true);
  b[0x234] = 1;
  v.setUint32(0x238, 2047, true);
  v.setUint32(0x258, 0x1000000, true);
  v.setUint32(0x260, 0x100000, true);
  change(v);
  return b;
}

const FILES: Record<string, Uint8Array | string> = {
  good: bzImage(),
  text: 'no kernel at all',
  empty: '',
  cut: bzImage().subarray(0, 4000),
  'cut-setup': bzImage().subarray(0, 700),
  old: bzImage((v) => v.setUint16(0x206, 0x204, true)),
  'low-kernel': bzImage((v) => v.setUint8(0x211, 0)),
  large: bzImage((v) => v.setUint32(0x260, 0x20000000, true)),
  initrd: new Uint8Array(48 << 20),
  pid: '1\n',
};
for (const [name, data] of Object.entries(FILES)) writeFileSync(join(dir, name), data);
mkdirSync(join(dir, 'folder'));

/** What the program says and how it ends. `@` stands for the directory with the files. */
async function run(line: string): Promise<[status: number, ...lines: string[]]> {
  const lines: string[] = [];
  const status = await main(words(line.replaceAll('@', `${dir}/`)), {
    print: (text) => void lines.push(`out: ${text}`),
    complain: (l) => void lines.push(l),
    readText: () => '',
    loadBoard,
    io: { note: (l) => void lines.push(l), isRaw: () => false, restoreTerminal: () => {} },
  });
  return [status, ...lines.map((l) => l.replaceAll(`${dir}/`, '@'))];
}

const PC = '--engine soft -s 0,hostbridge -s 31,lpc';

describe('kernels and initrds', () => {
  it.each([
    ['-f kexec,@missing', '@missing: no such file'],
    ['-f kexec,@folder', '@folder: is a directory'],
    ['-f kexec,@text', '@text: not a bzImage: 16 bytes are too few for a setup header'],
    ['-f kexec,@empty', '@empty: not a bzImage: 0 bytes are too few for a setup header'],
    ['-f kexec,@initrd', '@initrd: not a bzImage: boot flag 0x0 at offset 0x1fe; 0xaa55 expected'],
    ['-f kexec,@cut', '@cut: truncated: syssize at offset 0x1f4 says 0x2000 bytes of kernel, the file has 0xba0'],
    [
      '-f kexec,@cut-setup',
      '@cut-setup: truncated: the kernel begins at 0x400 behind 1 setup sectors, the file ends at 0x2bc',
    ],
    ['-f kexec,@old', '@old: boot protocol 2.04 at offset 0x206; 2.06 or later is needed'],
    ['-f kexec,@low-kernel', '@low-kernel: loadflags at offset 0x211 lack LOADED_HIGH: a zImage; a bzImage is needed'],
    [
      '-m 64M -f kexec,@large',
      '@large: the kernel needs 0x20000000 bytes (init_size) of RAM from 0x1000000 up; the guest has too little there',
    ],
    [
      '-m 64M -f kexec,@good,@initrd',
      "@initrd: an initrd of 0x3000000 bytes does not fit the guest's memory beside the kernel",
    ],
    ['-f kexec,@good,@missing', '@missing: no such file'],
    ['-l bootrom,@text', expect.stringMatching(/^@text: /u)],
    ['-f multiboot,@text', expect.stringMatching(/^@text: /u)],
  ])('%s', async (line, message) => {
    const want = typeof message === 'string' ? `xhyve: ${message}` : expect.stringMatching(/^xhyve: @text: /u);
    expect(await run(`${PC} ${line}`)).toEqual([4, want]);
  });
});

describe('memory, processors, slots', () => {
  it.each([
    [1, '-m 0 -f kexec,@good', '-m 0: 0 bytes is too little; a PC needs at least 1 MiB'],
    [1, '-m 1K -f kexec,@good', '-m 1K: 1 KiB is too little; a PC needs at least 1 MiB'],
    [1, '-m lots -f kexec,@good', '-m lots: not a memory size; write 512M, 2G or a number of megabytes'],
    [4, '-m 1000000G -f kexec,@good', expect.stringMatching(/^xhyve: -m: .* is more than this host has \(.*\)$/u)],
    [1, '-c 0 -f kexec,@good', '-c 0: cpus must be 1 to 64'],
    [1, '-c 1000 -f kexec,@good', '-c 1000: cpus must be 1 to 64'],
    [1, '-s 0,dummy -f kexec,@good', "-s 0,dummy: slot 0:0:0 is already taken by 'hostbridge'"],
    [1, '-s 32,dummy -f kexec,@good', '-s 32,dummy: slot 32 is outside 0 to 31'],
    [
      1,
      '-s 3,frobnicator -f kexec,@good',
      "-s 3,frobnicator: unknown device 'frobnicator'; 'xhyve -s help' lists them",
    ],
    [4, '-F @pid -f kexec,@good', '-F @pid: the pid file exists already (process 1)'],
    [4, '-s 3,virtio-blk,@missing -f kexec,@good', expect.stringMatching(/^xhyve: cannot open @missing: /u)],
    [
      4,
      '-l com1,@missing/tty -f kexec,@good',
      expect.stringMatching(/^xhyve: cannot open @missing\/tty as a console/u),
    ],
    [1, '', 'nothing to boot; give -f kexec,KERNEL[,INITRD[,CMDLINE]] or -l bootrom,ROM'],
  ] as const)('%d: %s', async (status, line, message) => {
    expect(await run(`${PC} ${line}`)).toEqual([status, typeof message === 'string' ? `xhyve: ${message}` : message]);
  });
  it('a serial port without an LPC bridge', async () => {
    expect(await run('-s 0,hostbridge -l com1,stdio -f kexec,@good')).toEqual([
      1,
      'xhyve: -l com1: it needs the LPC bridge; add -s 31,lpc',
    ]);
  });
});

describe('guests that go wrong', () => {
  const guest = (name: string, code: readonly number[]): string => {
    const image = bzImage((v) => v.setUint32(0x260, 0x10000, true));
    image.set(code, 1024);
    writeFileSync(join(dir, name), image);
    return `${PC} -m 64M -f kexec,@${name}`;
  };
  it('a triple fault gives 3 and says where', async () => {
    const [status, line] = await run(guest('triple', [0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0xcc]));
    expect([status, line]).toEqual([3, 'xhyve: triple fault: vCPU 0 at 10:1000008']);
  });
  it('HLT with interrupts off gives 2', async () => {
    expect(await run(guest('halt', [0xfa, 0xf4]))).toEqual([2]);
  });
  it('a jump to unmapped memory does what hardware does: all ones is no instruction, which triple-faults here', async () => {
    const lidt = [0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24];
    expect((await run(guest('unmapped', [...lidt, 0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0])))[0]).toBe(3);
  });
  it('a reset gives 0, a power-off 1', async () => {
    expect(await run(guest('reset', [0xb0, 0xfe, 0xe6, 0x64, 0xf4]))).toEqual([0]);
    expect(await run(guest('off', [0x66, 0xba, 0x04, 0x04, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4]))).toEqual([1]);
  });
  it('-e: an access nobody answers gives 4 and names the port', async () => {
    const [status, line] = await run(`-e ${guest('port', [0x66, 0xba, 0xf0, 0x01, 0xec, 0xf4])}`);
    expect([status, line]).toEqual([4, 'xhyve: unhandled 1-byte read of port 0x1f0 (-e)']);
  });
});
