import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { elfNeeds } from '../src/elf.ts';

/** An ELF64 program that asks for two libraries and an interpreter: three program headers, strings mapped at 0x1000. */
function program(): Uint8Array {
  const out = new Uint8Array(0x200);
  const v = new DataView(out.buffer);
  out.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  v.setUint32(0x20, 0x40, true);
  v.setUint16(0x36, 56, true);
  v.setUint16(0x38, 3, true);
  const header = (n: number, type: number, offset: number, address: number, size: number): void => {
    const at = 0x40 + n * 56;
    v.setUint32(at, type, true);
    v.setUint32(at + 8, offset, true);
    v.setUint32(at + 16, address, true);
    v.setUint32(at + 32, size, true);
  };
  header(0, 1, 0x100, 0x1000, 0x100);
  header(1, 2, 0x180, 0x1080, 0x60);
  header(2, 3, 0x140, 0x1040, 0x10);
  out.set(new TextEncoder().encode('\0libb.so.2\0libc.so.6\0'), 0x100);
  out.set(new TextEncoder().encode('/lib64/ld.so\0'), 0x140);
  const dynamic = [
    [1, 1],
    [1, 11],
    [5, 0x1000],
    [0, 0],
  ];
  for (const [n, [tag, value]] of dynamic.entries()) {
    v.setUint32(0x180 + n * 16, tag as number, true);
    v.setUint32(0x188 + n * 16, value as number, true);
  }
  return out;
}

describe('what a program needs', () => {
  it('names its libraries and interpreter', () => {
    expect(elfNeeds(program())).toEqual({ libraries: ['libb.so.2', 'libc.so.6'], interpreter: '/lib64/ld.so' });
  });
  it('is nothing for a script, half a file, or a table outside the file', () => {
    expect(elfNeeds(new TextEncoder().encode(`#!/bin/sh\n${' '.repeat(100)}`))).toBeNull();
    expect(elfNeeds(program().subarray(0, 40))).toBeNull();
    expect(elfNeeds(program().subarray(0, 0x80))).toBeNull();
  });
  it.skipIf(process.platform !== 'linux' || process.arch !== 'x64')('agrees with the C library about Node', () => {
    expect(elfNeeds(readFileSync(process.execPath))?.libraries).toContain('libc.so.6');
  });
});
