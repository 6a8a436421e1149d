import type { IoHandler } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { checkRegisters, createRig, type RegisterRow } from '../src/index.ts';

/** Two 32-bit registers: 0 has a read-only high half, 4 has write-one-to-clear bits and read-only ones. */
class Part implements IoHandler {
  readonly fault: string;
  private control = 0xabcd0000;
  private status = 0x000000f3;
  constructor(fault = '') {
    this.fault = fault;
  }
  reset(): void {
    this.control = this.fault === 'reset' ? 0xabcd0001 : 0xabcd0000;
    this.status = 0xf3;
  }
  read(offset: number): number {
    return offset === 0 ? this.control : this.status;
  }
  write(offset: number, _width: number, value: number): void {
    if (offset === 0) {
      const mask = this.fault === 'read-only' ? 0xffffffff : this.fault === 'stuck' ? 0xfffe : 0xffff;
      this.control = ((this.control & ~mask) | (value & mask)) >>> 0;
    } else this.status = this.fault === 'w1c' ? value : (this.status & ~(value & 0xf0)) >>> 0;
  }
}

const ROWS: readonly RegisterRow[] = [
  [0, 'CONTROL', 0xabcd0000, 0xffff],
  [4, 'STATUS', 0xf3, 0, 0xf0],
];

function run(fault: string, rows = ROWS): void {
  const rig = createRig();
  const part = new Part(fault);
  rig.mmio.claim(0x1000, 8, part, { name: 'part', widths: 4 });
  checkRegisters(rig, rows, { space: 'mmio', base: 0x1000, width: 4, reset: () => part.reset() });
}

describe('checkRegisters', () => {
  it('has nothing against a part that does what its table says', () => {
    expect(() => run('')).not.toThrow();
  });

  it.each([
    ['reset', /CONTROL \(0x0\) is 0xabcd0001 after reset, not 0xabcd0000/],
    ['read-only', /CONTROL \(0x0\) is 0xffffffff after writing 0xffffffff/],
    ['stuck', /CONTROL/],
    ['w1c', /STATUS \(0x4\)/],
  ])('finds a wrong %s', (fault, message) => {
    expect(() => run(fault)).toThrow(message);
  });

  it('names every register that differs', () => {
    const wrong: RegisterRow[] = [
      [0, 'A', 1, 0xffff],
      [4, 'B', 2, 0, 0xf0],
    ];
    expect(() => run('', wrong)).toThrow(/A[\s\S]*B/);
  });

  it('works on bytes and ports', () => {
    const rig = createRig();
    let v = 0x60;
    rig.pio.claim(
      0x10,
      1,
      { read: () => v, write: (_o, _w, x) => (v = 0x60 | (x & 0x0f)) },
      { name: 'byte', widths: 1 },
    );
    const bank = { space: 'port', base: 0x10, width: 1, reset: () => (v = 0x60) } as const;
    checkRegisters(rig, [[0, 'X', 0x60, 0x0f]], bank);
    expect(() => checkRegisters(rig, [[0, 'X', 0x60, 0x1f]], bank)).toThrow(/X/);
  });

  it('refuses a table that contradicts itself', () => {
    expect(() => run('', [[0, 'A', 0, 1, 1]])).toThrow(/both masks/);
  });
});
