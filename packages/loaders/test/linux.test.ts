import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { isHyveError, type VcpuStateV1 } from '@hyve/core';
import { codeOf } from '@hyve/testkit';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import * as api from '../src/index.ts';
import { kernelPayload, loadLinux, loadMultiboot, loadVmlinux } from '../src/index.ts';
import { type BzFields, bzImage, elf, mbHeader, pvhNote, ram } from './images.ts';

function messageOf(f: () => unknown): string {
  try {
    f();
  } catch (e) {
    return (e as Error).message;
  }
  return 'no error';
}

const load = (f: BzFields, more: object = {}, low = 32): api.EntryState =>
  loadLinux({ kernel: bzImage(f), ...ram(low), ...more });
const placed = (e: api.EntryState, name: string): api.Placement | undefined => e.placed.find((p) => p.name === name);
const seg = (s: VcpuStateV1, i: number): VcpuStateV1['segments'][number] => s.segments[i] as never;

describe('header errors', () => {
  const rows: [string, BzFields, string, RegExp][] = [
    ['no boot flag', { bootFlag: 0 }, 'LINUX_NOT_BZIMAGE', /boot flag 0x0 at offset 0x1fe/],
    ['no magic', { magic: 'XXXX' }, 'LINUX_NOT_BZIMAGE', /no "HdrS" at offset 0x202/],
    [
      'old protocol',
      { version: 0x204 },
      'LINUX_PROTOCOL',
      /^boot protocol 2\.04 at offset 0x206; 2\.06 or later is needed$/,
    ],
    ['not loaded high', { loadflags: 0 }, 'LINUX_NOT_HIGH', /LOADED_HIGH/],
    ['setup past the end', { setupSects: 64, payload: new Uint8Array(0) }, 'LINUX_TRUNCATED', /64 setup sectors/],
    ['payload cut off', { syssize: 0x10000 }, 'LINUX_TRUNCATED', /0x100000 bytes of kernel, the file has 0x2000/],
    ['odd alignment', { alignment: 3 }, 'LINUX_ALIGNMENT', /0x3 at offset 0x230/],
    ['too large', { initSize: 0x2000000 }, 'LINUX_TOO_LARGE', /0x2000000 bytes \(init_size\) of RAM from 0x1000000/],
  ];
  it.each(rows)('names: %s', (_, fields, code, message) => {
    expect(codeOf(() => load(fields))).toBe(code);
    expect(messageOf(() => load(fields))).toMatch(message);
  });

  it('refuses a short file, an empty file and a file cut inside the header', () => {
    for (const n of [0, 1, 0x1ff, 0x202])
      expect(codeOf(() => loadLinux({ kernel: bzImage().slice(0, n), ...ram() }))).toMatch(/^LINUX_/);
    expect(codeOf(() => loadLinux({ kernel: bzImage().slice(0, 0x230), ...ram() }))).toBe('LINUX_TRUNCATED');
  });

  it('refuses a command line longer than the kernel takes, and takes the longest', () => {
    expect(codeOf(() => load({ cmdlineSize: 10 }, { cmdline: 'x'.repeat(11) }))).toBe('LINUX_CMDLINE');
    expect(codeOf(() => load({ cmdlineSize: 10 }, { cmdline: 'x'.repeat(10) }))).toBe('no error');
    expect(codeOf(() => load({}, { cmdline: 'a\0b' }))).toBe('LINUX_CMDLINE');
  });

  it('takes the last paragraph of syssize unfilled, as memtest86+ has it', () => {
    expect(codeOf(() => load({ payload: new Uint8Array(8184), syssize: 512 }))).toBe('no error');
  });

  it('refuses 64-bit entry where the kernel has none', () => {
    expect(codeOf(() => load({}, { entry: '64' }))).toBe('LINUX_ENTRY');
    expect(codeOf(() => load({ version: 0x20b, xloadflags: 1 }, { entry: '64' }))).toBe('LINUX_ENTRY');
  });
});

describe('placement', () => {
  it('puts the kernel at its preferred address and clears the rest of init_size', () => {
    const r = ram();
    r.memory.fill(0x1000000, 0x100000, 0xaa);
    const e = loadLinux({ kernel: bzImage(), ...r });
    expect(e.entry).toBe(0x1000000);
    expect(r.memory.read32(0x1000000)).toBe(0x160f0801);
    expect(r.memory.read8(0x1000000 + 8192)).toBe(0);
    expect(r.memory.read8(0x10fffff)).toBe(0);
    expect(r.memory.read32(0x3214)).toBe(0x1000000); // code32_start
  });

  it('moves a relocatable kernel up when something is in the way', () => {
    const r = ram(64);
    const e820 = [
      ...r.e820.slice(0, 3),
      { base: 0x100000, size: 0xf00000, type: 1 },
      { base: 0x1000000, size: 0x10000, type: 2 },
      { base: 0x1010000, size: 0x2ff0000, type: 1 },
    ];
    expect(loadLinux({ kernel: bzImage(), ...r, e820 }).entry).toBe(0x1200000);
    expect(codeOf(() => loadLinux({ kernel: bzImage({ relocatable: 0 }), ...r, e820 }))).toBe('LINUX_TOO_LARGE');
  });

  it('puts kernels before 2.10 at 1 MiB, or the alignment above it', () => {
    expect(load({ version: 0x206, relocatable: 0 }).entry).toBe(0x100000);
    expect(load({ version: 0x206 }).entry).toBe(0x200000);
  });

  it('puts the initrd page-aligned at the top below initrd_addr_max', () => {
    const initrd = Uint8Array.of(1, 2, 3, 4, 5);
    const r = ram();
    loadLinux({ kernel: bzImage(), initrd, ...r });
    expect([r.memory.read32(0x3218), r.memory.read32(0x321c)]).toEqual([0x1fff000, 5]);
    expect(r.memory.read32(0x1fff000)).toBe(0x04030201);
    const low = load({ initrdMax: 0x17fffff }, { initrd });
    expect(placed(low, 'initrd')?.base).toBe(0x17ff000);
  });

  it('refuses an initrd above initrd_addr_max unless the kernel takes one anywhere', () => {
    const initrd = new Uint8Array(20 << 20);
    expect(messageOf(() => load({ initrdMax: 0x1ffffff }, { initrd }, 64))).toMatch(
      /only above this kernel's initrd_addr_max, 0x1ffffff/,
    );
    expect(placed(load({ initrdMax: 0x1ffffff, xloadflags: 2 }, { initrd }, 64), 'initrd')?.base).toBe(0x2c00000);
    expect(messageOf(() => load({}, { initrd: new Uint8Array(40 << 20) }))).toMatch(/does not fit the guest's memory/);
  });

  it('puts an initrd above 4 GiB with the high halves set where the kernel allows it', () => {
    const r = ram(32, 32);
    const initrd = new Uint8Array(20 << 20).fill(0x5a);
    loadLinux({ kernel: bzImage({ xloadflags: 3 }), initrd, ...r });
    expect([r.memory.read32(0x3218), r.memory.read32(0x30c0), r.memory.read32(0x30c4)]).toEqual([12 << 20, 1, 0]);
    expect(r.memory.read8(2 ** 32 + (12 << 20))).toBe(0x5a);
    expect(codeOf(() => loadLinux({ kernel: bzImage({ xloadflags: 1 }), initrd, ...ram(32, 32) }))).toBe(
      'LINUX_INITRD',
    );
  });

  it('never lets two things overlap', () => {
    const e = load(
      { xloadflags: 1 },
      { initrd: new Uint8Array(5000), cmdline: 'x', setupData: [{ type: 9, data: new Uint8Array(32) }] },
    );
    const sorted = [...e.placed].sort((a, b) => a.base - b.base);
    sorted.slice(1).forEach((p, i) => {
      const before = sorted[i] as api.Placement;
      expect(before.base + before.size).toBeLessThanOrEqual(p.base);
    });
    expect(sorted.map((p) => p.name)).toEqual([
      'gdt',
      'zero page',
      'cmdline',
      'page tables',
      'setup_data',
      'kernel',
      'initrd',
    ]);
  });
});

describe('zero page', () => {
  it('copies the setup header and fills in the loader fields', () => {
    const r = ram();
    loadLinux({ kernel: bzImage(), cmdline: 'console=ttyS0 é', rsdp: 0xf2400, ...r });
    const m = r.memory;
    expect(m.read32(0x3202)).toBe(0x53726448);
    expect(m.read8(0x3210)).toBe(0xff);
    expect(m.read32(0x3228)).toBe(0x4000);
    expect([m.read8(0x4000), m.read8(0x400e), m.read8(0x400f), m.read8(0x4010)]).toEqual([0x63, 0xc3, 0xa9, 0]);
    expect(m.read32(0x3070)).toBe(0xf2400);
    expect(m.read32(0x31e0)).toBe(31 * 1024);
    expect(m.read8(0x31ef)).toBe(0); // sentinel
    expect(m.read8(0x31e8)).toBe(4);
    expect([m.read32(0x32d0 + 60), m.read32(0x32d0 + 68), m.read32(0x32d0 + 76)]).toEqual([0x100000, 31 << 20, 1]);
  });

  it('gives the RSDP only to protocol 2.14 and later', () => {
    const r = ram();
    loadLinux({ kernel: bzImage({ version: 0x20d }), rsdp: 0xf2400, ...r });
    expect(r.memory.read32(0x3070)).toBe(0);
  });

  it('chains setup_data nodes', () => {
    const r = ram();
    const setupData = [
      { type: 9, data: Uint8Array.of(1, 2, 3) },
      { type: 2, data: new Uint8Array(17).fill(7) },
    ];
    loadLinux({ kernel: bzImage(), setupData, ...r });
    const first = r.memory.read32(0x3250);
    expect(first).toBe(0x16000);
    const second = r.memory.read32(first);
    expect([r.memory.read32(first + 8), r.memory.read32(first + 12), r.memory.read8(first + 18)]).toEqual([9, 3, 3]);
    expect([r.memory.read32(second), r.memory.read32(second + 8), r.memory.read32(second + 12)]).toEqual([0, 2, 17]);
    expect(codeOf(() => load({}, { setupData: [{ type: 9, data: new Uint8Array(1 << 20) }] }))).toBe(
      'LINUX_SETUP_DATA',
    );
  });

  it('refuses a memory map over 128 ranges', () => {
    const e820 = Array.from({ length: 129 }, (_, i) => ({ base: i * 4096, size: 4096, type: 2 }));
    expect(codeOf(() => load({}, { e820: [...ram().e820, ...e820] }))).toBe('LINUX_E820');
  });
});

describe('entry state', () => {
  it('is flat protected mode for the 32-bit protocol', () => {
    const r = ram();
    const e = loadLinux({ kernel: bzImage(), ...r });
    expect([e.mode, e.state.rip, e.state.gpr[6], e.state.cr0, e.state.efer]).toEqual([
      '32',
      0x1000000n,
      0x3000n,
      0x31n,
      0n,
    ]);
    expect([e.state.gpr[3], e.state.gpr[5], e.state.gpr[7], e.state.rflags]).toEqual([0n, 0n, 0n, 2n]);
    expect(seg(e.state, 1)).toEqual({ selector: 0x10, base: 0n, limit: 0xffffffff, attr: 0xc09b });
    for (const i of [0, 2, 3])
      expect(seg(e.state, i)).toEqual({ selector: 0x18, base: 0n, limit: 0xffffffff, attr: 0xc093 });
    expect(e.state.gdtr).toEqual({ base: 0x2000n, limit: 47 });
    expect([r.memory.read32(0x2010), r.memory.read32(0x2014), r.memory.read32(0x201c)]).toEqual([
      0xffff, 0x00cf9b00, 0x00cf9300,
    ]);
  });

  it('is identity-mapped long mode for the 64-bit protocol', () => {
    const r = ram();
    const e = loadLinux({ kernel: bzImage({ xloadflags: 1 }), ...r });
    expect([e.mode, e.state.rip, e.state.gpr[6]]).toEqual(['64', 0x1000200n, 0x3000n]);
    expect([e.state.cr0, e.state.cr4, e.state.efer, e.state.cr3]).toEqual([0x80000031n, 0x20n, 0x500n, 0x10000n]);
    expect(seg(e.state, 1).attr).toBe(0xa09b);
    expect(r.memory.read32(0x2014)).toBe(0x00af9b00);
    // Walk the tables for a few addresses.
    for (const a of [0, 0x1000000, 0x7fe00000, 0xffe00000]) {
      const pdpt = r.memory.read32(0x10000) & ~0xfff;
      const pd = r.memory.read32(pdpt + 8 * Math.floor(a / 2 ** 30)) & ~0xfff;
      expect(r.memory.read32(pd + 8 * (Math.floor(a / 2 ** 21) % 512))).toBe(a + 0x83);
    }
    expect(loadLinux({ kernel: bzImage({ xloadflags: 1 }), entry: '32', ...ram() }).mode).toBe('32');
  });
});

describe('payload', () => {
  it('is found and its packing recognised', () => {
    const payload = new Uint8Array(256);
    payload.set([0x28, 0xb5, 0x2f, 0xfd, 9, 9], 64);
    const k = bzImage({ payload });
    const v = new DataView(k.buffer);
    v.setUint32(0x248, 64, true);
    v.setUint32(0x24c, 6, true);
    expect(kernelPayload(k)).toEqual({ format: 'zstd', bytes: Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 9, 9) });
    v.setUint32(0x24c, 0x7fffffff, true);
    expect(codeOf(() => kernelPayload(k))).toBe('LINUX_TRUNCATED');
    v.setUint32(0x24c, 0, true);
    expect(kernelPayload(k)).toBeNull();
  });
});

describe('broken files', () => {
  const code = new Uint8Array(64).fill(0x90);
  const seeds: [string, Uint8Array, (kernel: Uint8Array, r: ReturnType<typeof ram>) => unknown][] = [
    [
      'bzImage',
      bzImage({ xloadflags: 3 }),
      (kernel, r) => [loadLinux({ kernel, initrd: code, cmdline: 'x', ...r }), kernelPayload(kernel)],
    ],
    [
      'vmlinux',
      elf(64, 0x200000, [
        { paddr: 0x200000, data: code, mem: 4096 },
        { type: 4, paddr: 0, data: pvhNote(0x200000) },
      ]),
      (kernel, r) => loadVmlinux({ kernel, initrd: code, ...r }),
    ],
    [
      'multiboot ELF',
      elf(32, 0x100000, [{ paddr: 0x100000, data: new Uint8Array([...mbHeader(3), ...code]) }]),
      (kernel, r) => loadMultiboot({ kernel, modules: [{ data: code }], ...r }),
    ],
    [
      'multiboot flat',
      new Uint8Array([...mbHeader(0x10003, [0x100000, 0x100000, 0, 0, 0x100020]), ...code]),
      (kernel, r) => loadMultiboot({ kernel, ...r }),
    ],
  ];
  it.each(seeds)('%s: random bytes and cuts give a HyveError or load', (_, seed, run) => {
    const r = ram(20);
    let good = 0;
    const byte = fc.oneof(fc.constantFrom(0, 1, 0x7f, 0x80, 0xff), fc.nat(255));
    const where = fc.oneof(fc.nat(255), fc.integer({ min: 0x1f0, max: 0x270 }), fc.nat(seed.length - 1));
    fc.assert(
      fc.property(fc.array(fc.tuple(where, byte), { maxLength: 8 }), fc.option(fc.nat(seed.length)), (edits, cut) => {
        const kernel = seed.slice(0, cut ?? seed.length);
        for (const [at, b] of edits) if (at < kernel.length) kernel[at] = b;
        try {
          run(kernel, r);
          good++;
        } catch (e) {
          if (!isHyveError(e)) throw e;
        }
      }),
      { numRuns: 400 },
    );
    expect(good).toBeGreaterThan(0);
  });
});

describe('real kernels', () => {
  const named = (process.env['HYVE_TEST_KERNEL'] ?? '').split(':').filter((f) => f !== '');
  const found = existsSync('/boot')
    ? readdirSync('/boot')
        .filter((f) => f.startsWith('vmlinuz-'))
        .map((f) => `/boot/${f}`)
    : [];
  const files = [...named, ...found];
  it.skipIf(files.length === 0)(
    'load (skipped unless /boot or HYVE_TEST_KERNEL, a colon-separated list, has one)',
    () => {
      for (const f of files) {
        const kernel = new Uint8Array(readFileSync(f));
        const e = loadLinux({ kernel, initrd: new Uint8Array(8192), cmdline: 'console=ttyS0', ...ram(160) });
        expect(e.entry, f).toBeGreaterThanOrEqual(0x100000);
      }
    },
  );
});

describe('api', () => {
  it('exports these names', () => {
    expect(Object.keys(api).sort()).toEqual([
      'bootRom',
      'isMultiboot',
      'kernelPayload',
      'loadLinux',
      'loadMultiboot',
      'loadVmlinux',
      'longModeState',
      'powerOnState',
      'protectedModeState',
      'unpackKernel',
    ]);
  });
});
