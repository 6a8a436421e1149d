import { codeOf } from '@hyve/testkit';
import { describe, expect, it } from 'vitest';
import * as aml from '../src/aml/index.ts';

const hex = (t: Uint8Array): string => Array.from(t, (b) => b.toString(16).padStart(2, '0')).join(' ');
describe('integers (ACPI §20.2.3)', () => {
  it.each([
    [0, '00'],
    [1, '01'],
    [2, '0a 02'],
    [0xff, '0a ff'],
    [0x100, '0b 00 01'],
    [0xffff, '0b ff ff'],
    [0x10000, '0c 00 00 01 00'],
    [0xffffffff, '0c ff ff ff ff'],
    [2 ** 32, '0e 00 00 00 00 01 00 00 00'],
    [0xffff_ffff_ffff_ffffn, '0e ff ff ff ff ff ff ff ff'],
  ])('%s', (v, bytes) => expect(hex(aml.integer(v))).toBe(bytes));
  it('refuses what is not 64 bits unsigned', () => {
    for (const v of [-1, 1.5, Number.NaN, 2 ** 64, -1n, 2n ** 64n])
      expect(codeOf(() => aml.integer(v))).toBe('AML_INTEGER');
  });
});

describe('PkgLength (ACPI §20.2.4)', () => {
  it.each([
    [0, '01'],
    [62, '3f'],
    [63, '41 04'],
    [0xffd, '4f ff'],
    [0xffe, '81 00 01'],
    [0xffffc, '8f ff ff'],
    [0xffffd, 'c1 00 00 01'],
    [0xffffffb, 'cf ff ff ff'],
  ])('%i bytes', (n, bytes) => expect(hex(Uint8Array.from(aml.pkgLength(n)))).toBe(bytes));
  it('refuses more than 28 bits', () => expect(codeOf(() => aml.pkgLength(0xffffffc))).toBe('AML_LENGTH'));
});

describe('names (ACPI §20.2.2)', () => {
  it.each([
    ['FOO', '46 4f 4f 5f'],
    ['\\', '5c 00'],
    ['^', '5e 00'],
    ['\\_SB', '5c 5f 53 42 5f'],
    ['^^A', '5e 5e 41 5f 5f 5f'],
    ['\\_SB.PC00', '5c 2e 5f 53 42 5f 50 43 30 30'],
    ['A.B.C', '2f 03 41 5f 5f 5f 42 5f 5f 5f 43 5f 5f 5f'],
  ])('%s', (p, bytes) => expect(hex(aml.path(p))).toBe(bytes));
  it.each(['', 'foo', '0AB', 'ABCDE', 'A..B', 'A.', '\\^A', 'A-B'])('refuses %j', (p) => {
    expect(codeOf(() => aml.path(p))).toBe('AML_NAME');
  });
});

describe('terms', () => {
  it.each([
    ['eisaId', aml.eisaId('PNP0A03'), '0c 41 d0 0a 03'],
    ['string', aml.string('AB'), '0d 41 42 00'],
    ['buffer', aml.buffer(Uint8Array.of(1, 2)), '11 05 0a 02 01 02'],
    ['name', aml.name('A', 0), '08 41 5f 5f 5f 00'],
    ['package', aml.pkg([0, aml.string('')]), '12 05 02 00 0d 00'],
    ['scope', aml.scope('\\', []), '10 03 5c 00'],
    ['device', aml.device('D', []), '5b 82 05 44 5f 5f 5f'],
    [
      'serialized method of two',
      aml.method('M', { args: 2, serialized: true }, [aml.ret(aml.argument(1))]),
      '14 08 4d 5f 5f 5f 0a a4 69',
    ],
    ['If and Else', aml.cond(1, [aml.ret(0)], [aml.ret(1)]), 'a0 04 01 a4 00 a1 03 a4 01'],
    ['While', aml.loop(1, [aml.store(0, aml.local(7))]), 'a2 05 01 70 00 67'],
    ['And without target', aml.binary('and', aml.local(0), 2), '7b 60 0a 02 00'],
    ['ShiftLeft', aml.binary('shl', 1, aml.argument(0), aml.local(1)), '79 01 68 61'],
    ['LNot LEqual', aml.lnot(aml.compare('eq', 0, 1)), '92 93 00 01'],
    ['FindSetRightBit', aml.unary('findSetRightBit', aml.local(0), aml.local(1)), '82 60 61'],
    ['CreateDWordField', aml.createField(4, aml.path('B'), 8, 'F'), '8a 42 5f 5f 5f 0a 08 46 5f 5f 5f'],
    [
      'OperationRegion',
      aml.operationRegion('R', aml.RegionSpace.PciConfig, 0x60, 4),
      '5b 80 52 5f 5f 5f 02 0a 60 0a 04',
    ],
    [
      'Field',
      aml.field('R', 'byte', [
        ['A', 8],
        ['', 72],
      ]),
      '5b 81 0e 52 5f 5f 5f 01 41 5f 5f 5f 08 00 48 04',
    ],
    ['IndexField', aml.indexField('I', 'D', 'any', [['A', 1]]), '5b 86 0f 49 5f 5f 5f 44 5f 5f 5f 00 41 5f 5f 5f 01'],
    ['Notify', aml.notify('D', 0x80), '86 44 5f 5f 5f 0a 80'],
    ['Decrement', aml.step('down', aml.local(0)), '76 60'],
    ['call', aml.call('M', [1]), '4d 5f 5f 5f 01'],
    [
      'uuid',
      aml.uuid('33db4d5b-1ff7-401c-9657-7441c03dd766'),
      '11 13 0a 10 5b 4d db 33 f7 1f 1c 40 96 57 74 41 c0 3d d7 66',
    ],
  ])('%s', (_, term, bytes) => expect(hex(term)).toBe(bytes));

  it('refuses what cannot be encoded', () => {
    expect(codeOf(() => aml.eisaId('pnp0a03'))).toBe('AML_EISAID');
    expect(codeOf(() => aml.string('é'))).toBe('TABLE_TEXT');
    expect(codeOf(() => aml.uuid('x'))).toBe('AML_UUID');
    expect(codeOf(() => aml.pkg(new Array<number>(256).fill(0)))).toBe('AML_LENGTH');
  });
});

describe('resources (ACPI §6.4)', () => {
  it.each([
    ['IO', aml.ioPorts(0x3f8, 8), '47 01 f8 03 f8 03 01 08'],
    ['IRQNoFlags', aml.irqNoFlags([4]), '22 10 00'],
    ['IRQ', aml.irq([3, 15], { level: true, low: true, shared: true }), '23 08 80 18'],
    ['Interrupt', aml.interrupt([20], { level: true, low: false, shared: true }), '89 06 00 09 01 14 00 00 00'],
    ['Memory32Fixed', aml.memory32Fixed(0xfed00000, 0x400), '86 09 00 01 00 00 d0 fe 00 04 00 00'],
    ['WordBusNumber', aml.wordBus(0, 255), '88 0d 00 02 0c 00 00 00 00 00 ff 00 00 00 00 01'],
    ['WordIO', aml.wordIo(0xd00, 0xf300), '88 0d 00 01 0c 03 00 00 00 0d ff ff 00 00 00 f3'],
    [
      'DWordMemory',
      aml.dwordMemory(0xc0000000, 0x20000000),
      '87 17 00 00 0c 01 00 00 00 00 00 00 00 c0 ff ff ff df 00 00 00 00 00 00 00 20',
    ],
    [
      'QWordMemory',
      aml.qwordMemory(0xd000000000, 0x1000),
      '8a 2b 00 00 0c 01 00 00 00 00 00 00 00 00 00 00 00 00 d0 00 00 00 ff 0f 00 00 d0 00 00 00 00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00',
    ],
  ])('%s', (_, r, bytes) => expect(hex(r)).toBe(bytes));

  it('ends a template with a tag that makes the sum zero', () => {
    const t = aml.resourceTemplate([aml.irqNoFlags([1]), aml.ioPorts(0x60, 1)]);
    const body = t.subarray(4); // BufferOp, PkgLength, byte prefix, size
    expect(body.at(-2)).toBe(0x79);
    expect(body.reduce((a, b) => a + b, 0) & 0xff).toBe(0);
  });

  it('refuses what does not fit', () => {
    const f = { level: true, low: true, shared: true };
    for (const bad of [
      () => aml.ioPorts(0xffff, 2),
      () => aml.ioPorts(0, 256),
      () => aml.irqNoFlags([16]),
      () => aml.interrupt([], f),
      () => aml.memory32Fixed(0xffffffff, 2),
      () => aml.wordIo(0xffff, 2),
      () => aml.dwordMemory(0, 0),
    ])
      expect(codeOf(bad)).toBe('AML_RESOURCE');
  });
});
