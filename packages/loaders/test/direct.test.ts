// Kernels unpacked by the host: the compressed forms, and the start of what was in them.
import { describe, expect, it } from 'vitest';
import { loadLinux, unpackKernel } from '../src/index.ts';
import { unpackLz4 } from '../src/unpack/lz4.ts';
import { unpackLzma } from '../src/unpack/lzma.ts';
import { crc32, unpackXz } from '../src/unpack/xz.ts';
import { codeSample } from './code-sample.ts';
import { bzImage, ram } from './images.ts';
import * as packed from './packed.ts';

const bytes = (base64: string): Uint8Array => Uint8Array.from(Buffer.from(base64, 'base64'));
const sample = codeSample(3000);

describe('compressed forms', () => {
  const forms: [string, (b: Uint8Array, size: number) => Uint8Array | null, string][] = [
    ['xz with the x86 filter and CRC-32', unpackXz, packed.xz],
    ['xz without filter and check', unpackXz, packed.xzPlain],
    ['LZMA', unpackLzma, packed.lzma],
    ['LZ4, legacy frame', unpackLz4, packed.lz4],
  ];
  it.each(forms)('%s', (_, unpack, base64) => {
    expect(unpack(bytes(base64), 3000)).toEqual(sample);
  });

  it.each(forms)('%s: another size, a cut file and any changed byte end well', (_, unpack, base64) => {
    const good = bytes(base64);
    expect(unpack(good, 2999)).toBeNull();
    expect(unpack(good, 3001)).toBeNull();
    for (let n = 0; n < good.length; n += 7) {
      const out = unpack(good.subarray(0, n), 3000);
      if (out !== null) expect(out.length).toBe(3000);
    }
    for (let i = 0; i < good.length; i++) {
      const bad = good.slice();
      bad[i] = (bad[i] as number) ^ (1 << (i & 7));
      const out = unpack(bad, 3000);
      if (out !== null) expect(out.length).toBe(3000);
    }
  });

  it('CRC-32 of "123456789" is 0xcbf43926', () => {
    expect(crc32(new TextEncoder().encode('123456789'), 0, 9)).toBe(0xcbf43926);
  });

  it('a changed byte does not pass the check', () => {
    const bad = bytes(packed.xz);
    bad[bad.length >> 1] = (bad[bad.length >> 1] as number) ^ 1;
    expect(unpackXz(bad, 3000)).toBeNull();
  });
});

const MIB = 1 << 20;
const PREF = 16 * MIB;

/** A vmlinux: 64 KiB at 16 MiB, with three places to relocate; `groups` as the relocs tool writes them. */
function vmlinux(bits: 32 | 64, groups: number[][], entry = PREF + 0x40): Uint8Array {
  const size = 0x10000;
  const file = 0x200 + size;
  const words = groups.flatMap((g) => [0, ...g]);
  const b = new Uint8Array(file + 4 * words.length);
  const v = new DataView(b.buffer);
  b.set([0x7f, 0x45, 0x4c, 0x46, bits / 32, 1, 1]);
  v.setUint16(16, 2, true);
  v.setUint16(18, bits === 64 ? 62 : 3, true);
  if (bits === 64) {
    v.setUint32(24, entry, true);
    v.setUint32(32, 64, true);
    v.setUint32(40, file, true); // section headers: none, at the end
    v.setUint16(54, 56, true);
    v.setUint16(56, 1, true);
    v.setUint32(64, 1, true);
    v.setUint32(72, 0x200, true);
    v.setUint32(80, 0x81000000, true);
    v.setUint32(84, 0xffffffff, true);
    v.setUint32(88, PREF, true);
    v.setUint32(96, size, true);
    v.setUint32(104, size + 0x1000, true);
  } else {
    v.setUint32(24, entry, true);
    v.setUint32(28, 64, true);
    v.setUint32(32, file, true);
    v.setUint16(42, 32, true);
    v.setUint16(44, 1, true);
    v.setUint32(64, 1, true);
    v.setUint32(68, 0x200, true);
    v.setUint32(72, 0xc1000000, true);
    v.setUint32(76, PREF, true);
    v.setUint32(80, size, true);
    v.setUint32(84, size + 0x1000, true);
  }
  v.setUint32(0x200 + 0x100, 0x81000100, true);
  v.setUint32(0x200 + 0x104, 0xffffffff, true);
  v.setInt32(0x200 + 0x203, -0x7f000000, true);
  v.setUint32(0x200 + 0x301, 0x81000300, true);
  words.forEach((w, i) => {
    v.setUint32(file + 4 * i, w, true);
  });
  return b;
}

const groups64 = [[0x81000100], [0x81000203], [0x81000301]];
const kernel = (xloadflags: number): Uint8Array =>
  bzImage({ xloadflags, pref: PREF, initSize: 0x20000, alignment: 0x200000 });

describe('a kernel unpacked by the host', () => {
  it('begins at its entry where it was linked, with the same boot_params', () => {
    const r = ram(64);
    const plain = loadLinux({ kernel: kernel(1), cmdline: 'x', ...ram(64) });
    const e = loadLinux({ kernel: kernel(1), cmdline: 'x', vmlinux: vmlinux(64, groups64), ...r });
    expect(plain.entry).toBe(PREF + 0x200);
    expect([e.mode, e.entry]).toEqual(['64', PREF + 0x40]);
    expect(e.placed.find((p) => p.name === 'vmlinux')).toEqual({ name: 'vmlinux', base: PREF, size: 0x20000 });
    expect(r.memory.read32(PREF + 0x100)).toBe(0x81000100);
    expect(r.memory.read8(0x3211)).toBe(1);
  });

  it('moves at random, and everything that names an address moves with it', () => {
    for (const groups of [groups64, [groups64[0], groups64[2]] as number[][]]) {
      const bases = new Set<number>();
      const shifts = new Set<number>();
      let word = 1;
      for (let i = 0; i < 40; i++) {
        const r = ram(64);
        const random = (): number => {
          word = (Math.imul(word, 1664525) + 1013904223) >>> 0;
          return word >>> 4;
        };
        const e = loadLinux({ kernel: kernel(1), vmlinux: vmlinux(64, groups), random, ...r });
        const base = e.entry - 0x40;
        expect(base % 0x200000).toBe(0);
        const shift = r.memory.read32(base + 0x100) - 0x81000100;
        expect(shift % 0x200000).toBe(0);
        expect(shift).toBeLessThan(2 ** 30 - PREF);
        expect(r.memory.read32(base + 0x104)).toBe(0xffffffff);
        expect(r.memory.read32(base + 0x301)).toBe(0x81000300 + shift);
        expect(r.memory.read32(base + 0x203)).toBe((0x81000000 - (groups.length === 3 ? shift : 0)) >>> 0);
        expect(r.memory.read8(0x3211)).toBe(3); // KASLR_FLAG
        bases.add(base);
        shifts.add(shift);
      }
      expect(bases.size).toBeGreaterThan(5);
      expect(shifts.size).toBeGreaterThan(20);
    }
  });

  it('stays where it is with nokaslr', () => {
    const random = (): number => 12345;
    const e = loadLinux({
      kernel: kernel(1),
      cmdline: 'a nokaslr b',
      vmlinux: vmlinux(64, groups64),
      random,
      ...ram(64),
    });
    expect(e.entry).toBe(PREF + 0x40);
  });

  it('32-bit: what is virtual moves as far as what is physical', () => {
    const r = ram(64);
    const image = vmlinux(32, [[0xc1000100, 0xc1000301]]);
    const e = loadLinux({ kernel: kernel(0), vmlinux: image, random: () => 3, ...r });
    const shift = e.entry - 0x40 - PREF;
    expect(e.mode).toBe('32');
    expect(shift).toBe(3 * 0x200000);
    expect(r.memory.read32(e.entry - 0x40 + 0x301)).toBe(0x81000300 + shift);
  });

  it('goes out of the way of an initrd', () => {
    const e = loadLinux({
      kernel: kernel(1),
      vmlinux: vmlinux(64, groups64),
      initrd: new Uint8Array(30 * MIB),
      random: () => 1 << 20,
      ...ram(64),
    });
    const place = (name: string): { base: number; size: number } =>
      e.placed.find((p) => p.name === name) ?? { base: -1, size: 0 };
    const a = place('vmlinux');
    const b = place('initrd');
    expect(Math.min(a.base, b.base)).toBeGreaterThan(0);
    expect(a.base + a.size <= b.base || b.base + b.size <= a.base).toBe(true);
  });

  it.each([
    ['no ELF file', new Uint8Array(4096)],
    ['a 32-bit kernel for a 64-bit entry', vmlinux(32, [[]])],
    ['an entry outside', vmlinux(64, groups64, 0x100)],
    ['cut short', vmlinux(64, groups64).subarray(0, 0x300)],
    ['a relocation outside, when it moves', vmlinux(64, [[0x91000100], [], []])],
  ])('the guest unpacks for itself: %s', (_, image) => {
    const e = loadLinux({ kernel: kernel(1), vmlinux: image, random: () => 777, ...ram(64) });
    expect(e.entry).toBe(PREF + 0x200);
  });
});

describe('unpackKernel', () => {
  /** A bzImage whose payload, from offset 16, is `body` and its size. */
  const around = (body: Uint8Array, size: number): Uint8Array => {
    const payload = new Uint8Array(Math.ceil((16 + body.length + 4) / 16) * 16);
    payload.set(body, 16);
    new DataView(payload.buffer).setUint32(16 + body.length, size, true);
    const b = bzImage({ payload });
    const v = new DataView(b.buffer);
    v.setUint32(0x248, 16, true);
    v.setUint32(0x24c, body.length + 4, true);
    return b;
  };
  it('unpacks xz and LZ4 itself and asks the host for other forms', () => {
    expect(unpackKernel(around(bytes(packed.xz), 3000))).toEqual(sample);
    expect(unpackKernel(around(bytes(packed.lz4), 3000))).toEqual(sample);
    const zstd = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3, 4);
    expect(unpackKernel(around(zstd, 3000))).toBeNull();
    expect(
      unpackKernel(around(zstd, 3000), (b, f, n) => (f === 'zstd' && b.length === 8 ? new Uint8Array(n) : null)),
    ).toEqual(new Uint8Array(3000));
    expect(unpackKernel(around(zstd, 3000), () => new Uint8Array(5))).toBeNull();
    expect(
      unpackKernel(around(zstd, 3000), () => {
        throw new Error('broken');
      }),
    ).toBeNull();
  });
  it('asks for what was unpacked before, and hands over what was not', () => {
    const store = new Map<string, Uint8Array>();
    const kept = {
      get: (p: Uint8Array) => store.get(p.join()) ?? null,
      put: (p: Uint8Array, u: Uint8Array) => void store.set(p.join(), u.slice()),
    };
    const kernel = around(bytes(packed.lz4), 3000);
    expect(unpackKernel(kernel, undefined, kept)).toEqual(sample);
    expect([...store.values()]).toEqual([sample]);
    for (const key of store.keys()) store.set(key, Uint8Array.of(1, 2, 3));
    expect(unpackKernel(kernel, undefined, kept)).toEqual(Uint8Array.of(1, 2, 3));
    expect(unpackKernel(around(Uint8Array.of(0x02, 0x21, 0x4c, 0x18, 9), 3000), undefined, kept)).toBeNull();
    expect(store.size).toBe(1);
  });
});
