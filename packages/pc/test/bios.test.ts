import { silentLogger } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createPc, machineSpec, type PcHost } from '../src/index.ts';

/** Waits for the BIOS tick count to be 2. */
const TICKS: readonly number[] = [
  0xfb, 0xf4, // sti; hlt
  0x66, 0x83, 0x3e, 0x6c, 0x04, 0x02, 0x72, 0xf7, // cmp dword [0x46c], 2; jb hlt
  0xa0, 0x6c, 0x04, 0xe6, 0xf4, 0xf4, // mov al, [0x46c]; out 0xf4, al; hlt
]; // biome-ignore format: code

/** Divides by zero on the x87; the handler of IRQ 13 counts in BL. */
const DIVIDES: readonly number[] = [
  0xc7, 0x06, 0xd4, 0x01, 0xdc, 0x80, // mov word [4 * 0x75], 0x80dc (the handler)
  0xc7, 0x06, 0xd6, 0x01, 0x00, 0x00, // mov word [4 * 0x75 + 2], 0
  0xb0, 0xfb, 0xe6, 0x21, // mov al, 0xfb; out 0x21, al: the cascade alone
  0xb0, 0xdf, 0xe6, 0xa1, // mov al, 0xdf; out 0xa1, al: IRQ 13 alone
  0x0f, 0x20, 0xc0, 0x24, 0xdf, 0x0f, 0x22, 0xc0, // mov eax, cr0; and al, 0xdf; mov cr0, eax
  0x30, 0xdb, 0xfb, // xor bl, bl; sti
  0xdb, 0xe3, // fninit
  0xc7, 0x06, 0x00, 0x06, 0x7b, 0x03, 0xd9, 0x2e, 0x00, 0x06, // fldcw 0x37b
  0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b, // fld1; fldz; fdivp; fwait
  0x88, 0xd8, 0x04, 0x10, 0xe6, 0xf4, 0xf4, // mov al, bl; add al, 0x10; out 0xf4, al; hlt
  0xe6, 0xf0, 0xdb, 0xe2, 0xfe, 0xc3, // 0x80dc: out 0xf0, al; fnclex; inc bl
  0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0xcf, // both EOIs; iret
]; // biome-ignore format: code

/** A Multiboot program at 0x8000 (address fields, no ELF) that goes to real mode with the vectors and 8259 of a BIOS. */
function program(body: readonly number[]): Uint8Array {
  const image = new Uint8Array(0x120);
  const v = new DataView(image.buffer);
  const header = [0x1badb002, 0x10000, -(0x1badb002 + 0x10000), 0x8000, 0x8000, 0x8120, 0x8120, 0x8020];
  header.forEach((w, i) => {
    v.setUint32(i * 4, w >>> 0, true);
  });
  image.set(
    [
      0x0f, 0x01, 0x15, 0x80, 0x80, 0x00, 0x00, // lgdt [0x8080]
      0xea, 0x2e, 0x80, 0x00, 0x00, 0x08, 0x00, // jmp 8:0x802e
      0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0, // mov eax, cr0; and al, 0xfe; mov cr0, eax
      0xea, 0x3b, 0x80, 0x00, 0x00, // jmp 0:0x803b
      0x31, 0xc0, 0x8e, 0xd0, 0x8e, 0xd8, // xor ax, ax; mov ss, ax; mov ds, ax
      0xbc, 0x00, 0x70, // mov sp, 0x7000
      0x0f, 0x01, 0x1e, 0x90, 0x80, // lidt [0x8090]
      0xe9, 0x57, 0x00, // jmp 0x80a3
    ], // biome-ignore format: code
    0x20,
  );
  image.set([0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0x00, 0x00], 0x78);
  image.set([0x0f, 0x00, 0x70, 0x80], 0x80);
  image.set([0xff, 0x03], 0x90);
  image.set(body, 0xa3);
  return image;
}

const spec = machineSpec({
  memoryBytes: 2 ** 24,
  boot: { loader: 'multiboot', kernel: 'program', modules: [], cmdline: '' },
  lpc: [{ device: 'pc-testdev', settings: {} }],
  clock: { rtc: 'utc', mode: 'virtual', startSeconds: 0, instructionsPerSecond: 1e9 },
});

const host = (body: readonly number[]): PcHost => ({
  openChar: async () => Promise.reject(new Error('no character device')),
  readFile: async () => program(body),
  log: silentLogger,
  wallClock: { nowMs: () => 0, offsetMinutes: () => 0 },
});

describe('what firmware leaves behind', () => {
  it('serves the timer tick of a Multiboot program in real mode', async () => {
    const pc = await createPc(spec, host(TICKS));
    expect(await pc.run()).toBe('poweroff');
    expect(pc.testExit).toBe(2);
    // 65536 counts at 1.193182 MHz; programming the counter makes the first edge.
    expect(pc.loop.counters()['sleptNs']).toBeGreaterThan(54.9e6);
    await pc.close();
  });

  it('gets the errors of an x87 with CR0.NE clear as IRQ 13, which port 0xF0 takes back', async () => {
    const pc = await createPc(spec, host(DIVIDES));
    expect(await pc.run()).toBe('poweroff');
    expect(pc.testExit).toBe(0x11);
    await pc.close();
  });

  it('points every other vector at code that returns', async () => {
    const pc = await createPc(spec, host(TICKS));
    const byte = (a: number): number => pc.vm.memory.read8(a);
    for (let v = 0; v < 256; v++) {
      const at = pc.vm.memory.read16(v * 4 + 2) * 16 + pc.vm.memory.read16(v * 4);
      let end = at;
      while (byte(end) !== 0xcf && end < at + 64) end++;
      expect([v, byte(end)]).toEqual([v, 0xcf]);
    }
    await pc.close();
  });
});
