import { codeOf } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import { bootRom, isMultiboot, loadMultiboot, loadVmlinux, powerOnState } from '../src/index.ts';
import { elf, mbHeader, pvhNote, ram } from './images.ts';

const code = Uint8Array.from({ length: 64 }, (_, i) => i + 1);

describe('power-on state', () => {
  it('is what the processor has after reset (SDM 3A table 10-1)', () => {
    const s = powerOnState({ signature: 0x306a9 });
    expect([s.rip, s.cr0, s.rflags, s.gpr[2], s.dr[4], s.dr[5]]).toEqual([
      0xfff0n,
      0x60000010n,
      2n,
      0x306a9n,
      0xffff0ff0n,
      0x400n,
    ]);
    expect(s.segments[1]).toEqual({ selector: 0xf000, base: 0xffff0000n, limit: 0xffff, attr: 0x9b });
    expect(s.segments.map((x) => x.attr)).toEqual([0x93, 0x9b, 0x93, 0x93, 0x93, 0x93, 0x82, 0x8b]);
    expect(s.msrs.find(([i]) => i === 0x277)).toEqual([0x277, 0x0007040600070406n]);
    expect(s.xsave.length).toBe(576);
    expect(new DataView(s.xsave.buffer).getUint32(24, true)).toBe(0x1f80);
  });

  it('is made afresh each time', () => {
    const a = powerOnState();
    a.gpr[0] = 5n;
    (a.segments[0] as { selector: number }).selector = 9;
    expect(powerOnState().gpr[0]).toBe(0n);
    expect(powerOnState().segments[0]?.selector).toBe(0);
  });
});

describe('boot ROM', () => {
  it('ends at 4 GiB and starts at the reset vector', () => {
    const r = bootRom(new Uint8Array(2 << 20));
    expect(r.region).toEqual({ base: 0xffe00000, size: 2 << 20, kind: 'rom', name: 'bootrom' });
    expect([r.mode, r.entry]).toEqual(['real', 0xfffffff0]);
  });
  it.each([0, 100, 4095, 4097, (16 << 20) + 4096])('refuses %i bytes', (n) => {
    expect(codeOf(() => bootRom(new Uint8Array(n)))).toBe('BOOTROM_SIZE');
  });
  it('takes 4 KiB and 16 MiB', () => {
    expect(bootRom(new Uint8Array(4096)).region.base).toBe(0xfffff000);
    expect(bootRom(new Uint8Array(16 << 20)).region.base).toBe(0xff000000);
  });
});

describe('vmlinux', () => {
  const segments = [{ paddr: 0x200000, data: code, mem: 8192 }];
  it('enters by PVH where a note offers it', () => {
    const r = ram();
    const kernel = elf(64, 0x200000, [...segments, { type: 4, paddr: 0, data: pvhNote(0x200040) }]);
    const initrd = Uint8Array.of(9, 8, 7);
    const e = loadVmlinux({ kernel, initrd, cmdline: 'quiet', rsdp: 0xf2400, ...r });
    const m = r.memory;
    expect([e.mode, e.state.rip, e.state.gpr[3], e.state.cr0]).toEqual(['32', 0x200040n, 0x3000n, 0x31n]);
    expect([m.read32(0x3000), m.read32(0x3004), m.read32(0x300c)]).toEqual([0x336ec578, 1, 1]);
    const module = m.read32(0x3010);
    expect([m.read32(module), m.read32(module + 8)]).toEqual([0x1fff000, 3]);
    expect([m.read32(0x3018), m.read8(m.read32(0x3018)), m.read32(0x3020)]).toEqual([0x4000, 0x71, 0xf2400]);
    const map = m.read32(0x3028);
    expect(m.read32(0x3030)).toBe(4);
    expect([m.read32(map + 72), m.read32(map + 80), m.read32(map + 88)]).toEqual([0x100000, 31 << 20, 1]);
    expect([m.read8(0x200000), m.read8(0x20003f), m.read8(0x200040)]).toEqual([1, 64, 0]);
  });

  it('reads four-byte notes and notes behind others', () => {
    const other = new Uint8Array([4, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0x47, 0x4e, 0x55, 0, 1, 2, 3, 0]);
    const notes = new Uint8Array([...other, ...pvhNote(0x200010, 4)]);
    const kernel = elf(32, 0, [...segments, { type: 4, paddr: 0, data: notes }]);
    expect(loadVmlinux({ kernel, ...ram() }).entry).toBe(0x200010);
  });

  it('enters by the 64-bit protocol otherwise, with a zero page', () => {
    const r = ram();
    const e = loadVmlinux({
      kernel: elf(64, 0x200000, segments),
      rsdp: 0xf2400,
      setupData: [{ type: 9, data: code }],
      ...r,
    });
    expect([e.mode, e.state.rip, e.state.gpr[6], e.state.efer]).toEqual(['64', 0x200000n, 0x3000n, 0x500n]);
    expect([
      r.memory.read16(0x31fe),
      r.memory.read32(0x3202),
      r.memory.read32(0x3070),
      r.memory.read32(0x3250),
    ]).toEqual([0xaa55, 0x53726448, 0xf2400, 0x16000]);
  });

  it('names what is wrong', () => {
    const kernel = elf(64, 0x200000, segments);
    expect(codeOf(() => loadVmlinux({ kernel, entry: 'pvh', ...ram() }))).toBe('LINUX_ENTRY');
    expect(codeOf(() => loadVmlinux({ kernel: elf(32, 0x200000, segments), ...ram() }))).toBe('LINUX_ENTRY');
    expect(codeOf(() => loadVmlinux({ kernel: elf(64, 2 ** 33, segments), ...ram() }))).toBe('LINUX_ENTRY');
    expect(codeOf(() => loadVmlinux({ kernel: elf(64, 0, segments, 40), ...ram() }))).toBe('ELF_IMAGE');
    expect(codeOf(() => loadVmlinux({ kernel: elf(64, 0, []), ...ram() }))).toBe('ELF_IMAGE');
    expect(codeOf(() => loadVmlinux({ kernel: elf(64, 0, [{ paddr: 0x8000000, data: code }]), ...ram() }))).toBe(
      'ELF_IMAGE',
    );
    expect(codeOf(() => loadVmlinux({ kernel: elf(64, 0, [{ paddr: 0x2000, data: code }]), ...ram() }))).toBe(
      'ELF_IMAGE',
    );
    expect(codeOf(() => loadVmlinux({ kernel: elf(64, 0, [{ paddr: 0x200000, data: code, mem: 8 }]), ...ram() }))).toBe(
      'ELF_IMAGE',
    );
    expect(codeOf(() => loadVmlinux({ kernel: kernel.slice(0, 80), ...ram() }))).toBe('ELF_IMAGE');
  });
});

describe('Multiboot 1', () => {
  const withHeader = new Uint8Array([...mbHeader(3), ...code]);
  const text = (m: { read8(a: number): number }, at: number): string => {
    let s = '';
    for (let c = m.read8(at); c !== 0; c = m.read8(++at)) s += String.fromCharCode(c);
    return s;
  };

  it('loads an ELF32 kernel with modules and the full information structure', () => {
    const r = ram();
    const kernel = elf(32, 0x100010, [{ paddr: 0x100000, data: withHeader, mem: 0x2345 }]);
    const modules = [{ data: Uint8Array.of(1, 2, 3), cmdline: 'env' }, { data: new Uint8Array(5000).fill(4) }];
    const e = loadMultiboot({ kernel, modules, cmdline: 'test arg', ...r });
    const m = r.memory;
    const info = Number(e.state.gpr[3]);
    expect([e.mode, e.state.gpr[0], e.state.rip, e.state.cr0]).toEqual(['32', 0x2badb002n, 0x100010n, 0x31n]);
    expect(info).toBe(0x10000);
    expect(m.read32(info)).toBe(0x24d);
    expect([m.read32(info + 4), m.read32(info + 8)]).toEqual([639, 31 * 1024]);
    expect(text(m, m.read32(info + 16))).toBe('test arg');
    expect(text(m, m.read32(info + 64))).toBe('Hyve');
    const list = m.read32(info + 24);
    expect(m.read32(info + 20)).toBe(2);
    expect([m.read32(list), m.read32(list + 4), text(m, m.read32(list + 8))]).toEqual([0x103000, 0x103003, 'env']);
    expect([m.read32(list + 16), m.read32(list + 20), m.read8(0x104000)]).toEqual([0x104000, 0x104000 + 5000, 4]);
    // Walk the memory map as a guest does.
    const seen: number[][] = [];
    for (let at = m.read32(info + 48), end = at + m.read32(info + 44); at < end; at += m.read32(at) + 4)
      seen.push([m.read32(at + 4), m.read32(at + 12), m.read32(at + 20)]);
    expect(seen).toEqual(r.e820.map((x) => [x.base, x.size, x.type]));
    const gdt = Number(e.state.gdtr.base);
    expect(m.read32(gdt + 0x14)).toBe(0x00cf9b00);
  });

  it('loads by the address fields of the header', () => {
    const r = ram();
    const body = new Uint8Array(100 + 32 + 64).fill(0x11);
    body.set(mbHeader(0x10003, [0x200064, 0x200000, 0x2000a0, 0x200200, 0x200080]), 100);
    r.memory.fill(0x200000, 0x400, 0xee);
    const e = loadMultiboot({ kernel: body, ...r });
    expect(e.entry).toBe(0x200080);
    expect(r.memory.read32(0x200064)).toBe(0x1badb002);
    expect([
      r.memory.read8(0x20009f),
      r.memory.read8(0x2000a0),
      r.memory.read8(0x2001ff),
      r.memory.read8(0x200200),
    ]).toEqual([0x11, 0, 0, 0xee]);
  });

  it('keeps the information structure clear of a kernel in low memory', () => {
    const e = loadMultiboot({ kernel: elf(32, 0x4000, [{ paddr: 0x4000, data: withHeader, mem: 0x20000 }]), ...ram() });
    expect(Number(e.state.gpr[3])).toBeGreaterThanOrEqual(0x24000);
  });

  it('knows a Multiboot file', () => {
    expect(isMultiboot(withHeader)).toBe(true);
    expect(isMultiboot(code)).toBe(false);
    const bad = withHeader.slice();
    bad[8] = (bad[8] as number) ^ 1;
    expect(isMultiboot(bad)).toBe(false);
    expect(isMultiboot(new Uint8Array([...new Uint8Array(8192), ...withHeader]))).toBe(false);
  });

  it('names what is wrong', () => {
    expect(codeOf(() => loadMultiboot({ kernel: code, ...ram() }))).toBe('MULTIBOOT');
    expect(codeOf(() => loadMultiboot({ kernel: mbHeader(8), ...ram() }))).toBe('MULTIBOOT');
    expect(codeOf(() => loadMultiboot({ kernel: withHeader, ...ram() }))).toBe('MULTIBOOT');
    const kernel = elf(32, 0x100010, [{ paddr: 0x100000, data: withHeader }]);
    expect(codeOf(() => loadMultiboot({ kernel, modules: [{ data: new Uint8Array(40 << 20) }], ...ram() }))).toBe(
      'MULTIBOOT',
    );
    expect(codeOf(() => loadMultiboot({ kernel: mbHeader(0x10000, [0x100000, 0x200000, 0, 0, 0]), ...ram() }))).toBe(
      'MULTIBOOT',
    );
  });
});
