import { describe, expect, it } from 'vitest';
import { supportedCpuid } from '../src/features.ts';

describe('CPUID of caches', () => {
  const rows = supportedCpuid();
  it('sends readers of leaf 2 to leaf 4 (SDM volume 2, CPUID, descriptor FF)', () => {
    const row = rows.find((r) => r.leaf === 2);
    // One round of CPUID, then the descriptor; bit 31 clear says that the bytes count.
    expect((row?.eax ?? 0) & 0xff).toBe(1);
    expect(((row?.eax ?? 0) >>> 8) & 0xff).toBe(0xff);
    for (const v of [row?.eax, row?.ebx, row?.ecx, row?.edx]) expect((v ?? -1) >>> 31).toBe(0);
  });
  it('has 32 KiB, 1 MiB and 16 MiB of data cache, one level each', () => {
    const caches = rows.filter((r) => r.leaf === 4 && (r.eax & 0x1f) !== 2);
    const size = (r: { ebx: number; ecx: number }): number =>
      ((r.ebx >>> 22) + 1) * (((r.ebx >>> 12) & 0x3ff) + 1) * ((r.ebx & 0xfff) + 1) * (r.ecx + 1);
    expect(caches.map((r) => [(r.eax >>> 5) & 7, size(r)])).toEqual([
      [1, 32 << 10],
      [2, 1 << 20],
      [3, 16 << 20],
    ]);
  });
});
