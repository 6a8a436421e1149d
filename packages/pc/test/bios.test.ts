import { silentLogger } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createPc, type MachineSpec, type PcHost } from '../src/index.ts';

/** A Multiboot program at 0x8000 (address fields, no ELF) that goes to real mode and waits for the BIOS tick count to be 2. */
function program(): Uint8Array {
  const image = new Uint8Array(0xa0);
  const v = new DataView(image.buffer);
  const header = [0x1badb002, 0x10000, -(0x1badb002 + 0x10000), 0x8000, 0x8000, 0x80a0, 0x80a0, 0x8020];
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
      0xfb, 0xf4, // sti; hlt
      0x66, 0x83, 0x3e, 0x6c, 0x04, 0x02, 0x72, 0xf7, // cmp dword [0x46c], 2; jb hlt
      0xa0, 0x6c, 0x04, 0xe6, 0xf4, 0xf4, // mov al, [0x46c]; out 0xf4, al; hlt
    ], // biome-ignore format: code
    0x20,
  );
  image.set([0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0x00, 0x00], 0x78);
  image.set([0x0f, 0x00, 0x70, 0x80], 0x80);
  image.set([0xff, 0x03], 0x90);
  return image;
}

const spec: MachineSpec = {
  v: 1,
  name: 'bios',
  memoryBytes: 2 ** 24,
  memoryWired: false,
  cpus: { count: 1, sockets: 1, cores: 1, threads: 1 },
  numa: [],
  boot: { loader: 'multiboot', kernel: 'program', modules: [], cmdline: '' },
  pci: [
    { bus: 0, slot: 0, func: 0, device: 'hostbridge', options: {}, conf: null },
    { bus: 0, slot: 31, func: 0, device: 'lpc', options: {}, conf: null },
  ],
  lpc: [{ device: 'pc-testdev', settings: {} }],
  fwcfg: { kind: 'bhyve', items: [] },
  tables: { acpi: true, acpiInMemory: true, mptable: true, smbios: true, smbiosStrings: {} },
  uuid: null,
  clock: { rtc: 'utc', mode: 'virtual', startSeconds: 0, instructionsPerSecond: 1e9 },
  x2apic: false,
  strictIo: false,
  strictMsr: true,
  verboseMsr: false,
  hltExit: true,
  pauseExit: false,
  bvmcons: false,
  bvmDebugPort: null,
  gdb: null,
  virtioMsi: false,
  pciEnableBars: null,
  keyboardLayout: null,
  engine: 'auto',
  pidfile: null,
};

const host: PcHost = {
  openChar: async () => Promise.reject(new Error('no character device')),
  readFile: async () => program(),
  log: silentLogger,
  wallClock: { nowMs: () => 0, offsetMinutes: () => 0 },
};

describe('what firmware leaves behind', () => {
  it('serves the timer tick of a Multiboot program in real mode', async () => {
    const pc = await createPc(spec, host);
    expect(await pc.run()).toBe('poweroff');
    expect(pc.testExit).toBe(2);
    // 65536 counts at 1.193182 MHz; programming the counter makes the first edge.
    expect(pc.loop.counters()['sleptNs']).toBeGreaterThan(54.9e6);
    await pc.close();
  });

  it('points every other vector at code that returns', async () => {
    const pc = await createPc(spec, host);
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
