import { describe, expect, it } from 'vitest';
import * as asm from '../src/asm.ts';
import { flagNames } from '../src/effects.ts';
import * as api from '../src/index.ts';
import { ccFlags, Decoder, encodeRandom, Insn, OP, OP_NAMES, ROWS, Status } from '../src/index.ts';
import { generator } from './random.ts';

const row = (encoding: string, operands: string): (typeof ROWS)[number] => {
  const found = ROWS.find((r) => r.spec.encoding === encoding && r.spec.operands === operands);
  if (found === undefined) throw new Error(`no row ${encoding} ${operands}`);
  return found;
};
const C = 0x001;
const P = 0x004;
const A = 0x010;
const Z = 0x040;
const S = 0x080;
const O = 0x800;

describe('table', () => {
  it('numbers operations densely and uses each', () => {
    expect(Object.values(OP)).toEqual(OP_NAMES.map((_, i) => i));
    expect(new Set(ROWS.map((r) => r.op)).size).toBe(OP_NAMES.length);
    expect(ROWS.every((r) => r.op === OP[r.mnemonic])).toBe(true);
    expect(ROWS.map((r) => r.id)).toEqual(ROWS.map((_, i) => i));
  });

  it('has flag effects only for operations that exist', () => {
    expect([...flagNames].filter((n) => !(n in OP))).toEqual([]);
  });

  it('knows flag effects', () => {
    expect(row('01', 'Ev,Gv').flags).toMatchObject({ read: 0, written: O | S | Z | A | P | C, undefined: 0 });
    expect(row('21', 'Ev,Gv').flags).toMatchObject({ written: O | S | Z | P | C, undefined: A, cleared: O | C });
    expect(row('40+r', 'Zv').flags.written).toBe(O | S | Z | A | P);
    expect(row('11', 'Ev,Gv').flags.read).toBe(C);
    expect(row('D3 /4', 'Ev,CL').flags).toMatchObject({ conditional: true, undefined: O | A });
    expect(row('D1 /4', 'Ev,1').flags).toMatchObject({ conditional: false, written: O | S | Z | P | C, undefined: A });
    expect(row('D1 /2', 'Ev,1').flags).toMatchObject({ read: C, written: O | C, undefined: 0 });
    expect(row('89', 'Ev,Gv').flags).toMatchObject({ read: 0, written: 0, undefined: 0 });
    expect(row('F9', '').flags.set).toBe(C);
    expect(ccFlags[0x7]).toBe(C | Z);
    expect(ccFlags[0xf]).toBe(Z | S | O);
    for (const r of ROWS) {
      expect(r.flags.cleared & r.flags.set).toBe(0);
      expect((r.flags.cleared | r.flags.set) & ~r.flags.written).toBe(0);
    }
  });

  it.each([
    ['01', 'Ev,Gv', 'rw'],
    ['39', 'Ev,Gv', 'r'],
    ['89', 'Ev,Gv', 'w'],
    ['85', 'Ev,Gv', 'r'],
    ['AB', 'Yv,rAX', 'w'],
    ['A7', 'Xv,Yv', 'r'],
    ['8F /0', 'Ev', 'w'],
    ['FF /6', 'Ev', 'r'],
    ['F7 /4', 'Ev', 'r'],
    ['F7 /5', 'Ev', 'r'],
    ['0F AF', 'Gv,Ev', 'rw'],
    ['0F B1', 'Ev,Gv', 'rw'],
    ['0F A3', 'Ev,Gv', 'r'],
    ['0F AB', 'Ev,Gv', 'rw'],
    ['0F 90+c', 'Eb', 'w'],
    ['0F 01 /7 mem', 'M', '-'],
    ['0F 1F', 'Ev', '-'],
    ['NP 0F 29', 'Wdq,Vdq', 'w'],
    ['F3 0F 11', 'Wss,Vdq', 'w'],
    ['66 0F D6', 'Wq,Vdq', 'w'],
    ['D9 /3 mem', 'Md,ST0', 'w'],
    ['D9 /5 mem', 'Mw', 'r'],
    ['D9 /7 mem', 'Mw', 'w'],
    ['0F 00 /1', 'MwRv', 'w'],
    ['0F 00 /3', 'Ew', 'r'],
    ['VEX.NP.0F 58', 'Vx,Hx,Wx', 'w'],
    ['VEX.66.0F38.W1 B8', 'Vx,Hx,Wx', 'rw'],
    ['VEX.66.0F38.W0 2E', 'Mx,Hx,Vx', 'w'],
  ])('access to operand 0 of %s %s is %s', (encoding, operands, access) => {
    expect(row(encoding, operands).access0).toBe(access);
  });

  // Rows with a memory destination that the instruction must not read first (a write-only page may fault otherwise).
  it('has no lockable row that does not both read and write', () => {
    expect(ROWS.filter((r) => r.lock && r.access0 !== 'rw').map((r) => r.spec.encoding)).toEqual([]);
  });
});

describe('encodeRandom', () => {
  it('keeps to the bounds it is given', () => {
    const rng = generator(3);
    const decoder = new Decoder();
    const insn = new Insn();
    let memory = 0;
    for (const r of ROWS) {
      for (let n = 0; n < 4; n++) {
        const o = {
          mode: 64,
          memBase: 3,
          memSpan: 4096,
          registers: [0, 1, 2, 8, 9],
          repeat: false,
          lock: false,
        } as const;
        const bytes = encodeRandom(r, rng, o);
        if (bytes === null) continue;
        expect(decoder.decode(insn, bytes, 0, bytes.length, 64)).toBe(Status.Ok);
        expect([r.id, insn.row, insn.lock, insn.rep]).toEqual([r.id, r.id, 0, 0]);
        if (!r.encoding.modrm || insn.modrm >= 0xc0) continue;
        memory++;
        expect([insn.base, insn.index, insn.addrSize]).toEqual([3, -1, 8]);
        expect(insn.dispLo).toBeGreaterThanOrEqual(0);
        expect(insn.dispLo).toBeLessThan(4096);
      }
    }
    expect(memory).toBeGreaterThan(1000);
  });
});

describe('exports', () => {
  it('lists them', () => {
    expect(Object.keys(api).sort()).toEqual([
      'Decoder',
      'FEATURES',
      'Insn',
      'Kind',
      'MAX_LENGTH',
      'OP',
      'OP_NAMES',
      'ROWS',
      'Seg',
      'Status',
      'ccFlags',
      'encodeRandom',
      'format',
      'mnemonic',
    ]);
    expect(Object.keys(asm).sort()).toEqual(['Asm', 'mem', 'mem128', 'mem16', 'mem32', 'mem64', 'mem8', 'ref']);
  });
});
