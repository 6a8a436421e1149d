import { describe, expect, it } from 'vitest';
import { Views } from '../src/index.ts';

describe('Views', () => {
  it('gives the same view for the same bytes, and another for others', () => {
    const memory = new Uint8Array(new ArrayBuffer(1 << 17), 4096, 1 << 16);
    for (let i = 0; i < memory.length; i++) memory[i] = i >> 8;
    const views = new Views(memory);
    const a = views.of(0x3000, 4096);
    expect(a.buffer).toBe(memory.buffer);
    expect([a.length, a[0], a[4095]]).toEqual([4096, 0x30, 0x3f]);
    expect(views.of(0x3000, 4096)).toBe(a);
    expect(views.of(0x3000, 512).length).toBe(512);
    expect(views.of(0x3000, 4096)).toEqual(a);
    expect(views.of(0x3001, 4096)[0]).toBe(0x30);
    expect(views.of(0x3001, 4096)[255]).toBe(0x31);
    expect(views.of(0, 0).length).toBe(0);
  });

  it('tells pages apart that share a place', () => {
    const memory = new Uint8Array(33 << 20);
    memory[16 << 20] = 1;
    memory[32 << 20] = 2;
    const views = new Views(memory);
    const at = [0, 16 << 20, 32 << 20, 0];
    expect(at.map((a) => views.of(a, 4096)[0])).toEqual([0, 1, 2, 0]);
  });
});
