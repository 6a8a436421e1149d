import { describe, expect, it } from 'vitest';
import { GuestLog } from '../src/protocol.ts';
import { disagreements, type Figure, geomean, median, ratios, report } from '../src/report.ts';

function figure(engine: Figure['engine'], round: number, value: number, more: Partial<Figure> = {}): Figure {
  return { engine, bits: 64, round, group: 'int', name: 'a', value, first: value * 2, checksum: '1', ...more };
}

describe('the console of a guest', () => {
  it('gives samples whatever the pieces it arrives in, with or without carriage returns', () => {
    const text =
      '@R\r\n@K tsc\r\n@S int/a 0 1000000\r\n@E int/a 0 00ff 5000\r\nnoise\n@S int/a 1 3000000\n@F int/a b\n@D\n';
    for (const size of [1, 3, 1000]) {
      const log = new GuestLog();
      for (let i = 0; i < text.length; i += size) log.feed(text.slice(i, i + size), 10 + i);
      expect(log.samples).toEqual([{ name: 'int/a', repetition: 0, checksum: '00ff', guestNs: 5000 }]);
      expect(log.failures).toEqual([{ name: 'int/a', status: 'b' }]);
      expect(log.clockSource).toBe('tsc');
      expect(log.done).toBe(true);
      expect(log.elapsed().guestMs).toBe(2);
    }
  });

  it('knows what was running when nothing more came', () => {
    const log = new GuestLog();
    log.feed('@S mem/b 0 5\n', 1);
    expect(log.running).toBe('mem/b');
    expect(log.done).toBe(false);
  });
});

describe('ratios', () => {
  it('pairs engines by round and takes the median of the ratios', () => {
    const all = [figure('hyve', 0, 10), figure('qemu', 0, 20), figure('hyve', 1, 10), figure('qemu', 1, 50)];
    all.push(figure('hyve', 2, 10), figure('qemu', 2, 30), figure('qemu', 3, 1000));
    const [r] = ratios(all);
    expect(r).toMatchObject({ group: 'int', name: 'a', peer: 'qemu', ratio: 3, firstRatio: 3 });
    expect(ratios([figure('hyve', 0, 1)])).toEqual([]);
  });

  it('says which workloads have results that differ, between engines or repetitions', () => {
    expect(disagreements([figure('hyve', 0, 1), figure('qemu', 0, 1)])).toEqual([]);
    const differ = [figure('hyve', 0, 1, { checksum: '2' }), figure('qemu', 0, 1)];
    expect(disagreements(differ)).toEqual(['int/a (64-bit): 2 by hyve; 1 by qemu']);
    expect(disagreements([figure('hyve', 0, 1, { checksum: '1 2' })])).toHaveLength(1);
  });

  it('prints groups beside their bars and marks what is missed', () => {
    const text = report([figure('hyve', 0, 20), figure('qemu', 0, 10)], true);
    expect(text).toMatch(/0\.50 {2}\(first 0\.50\) {2}integer loops {2}bar 1 {2}MISSED/);
    expect(report([figure('hyve', 0, 10), figure('qemu', 0, 10)], true)).not.toContain('MISSED');
  });

  it('averages', () => {
    expect(median([5, 1, 3])).toBe(3);
    expect(median([1, 2])).toBe(1);
    expect(geomean([1, 4])).toBeCloseTo(2);
    expect(median([])).toBeNaN();
  });
});
