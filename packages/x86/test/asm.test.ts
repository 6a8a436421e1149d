import { isHyveError } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { Asm, type Memory, mem, mem8, mem32, mem64, type Operand, type Register, ref } from '../src/asm.ts';
import { Decoder, encodeRandom, format, Insn, Kind, type Mode, OP, ROWS, Status } from '../src/index.ts';
import { generator, hex } from './random.ts';

const decoder = new Decoder();

function bytes(mode: Mode, build: (a: Asm) => Asm): string {
  return hex(build(new Asm({ mode })).assemble());
}

describe('Asm', () => {
  const known: [Mode, string, (a: Asm) => Asm][] = [
    [16, 'b83412', (a) => a.mov('ax', 0x1234)],
    [16, '66b878563412', (a) => a.mov('eax', 0x12345678)],
    [16, '8ed8', (a) => a.mov('ds', 'ax')],
    [16, '0f22c0', (a) => a.mov('cr0', 'eax')],
    [16, '0f0116007c', (a) => a.lgdt(mem(0x7c00))],
    [16, '66ea000000800800', (a) => a.jmpFar(8, 0x80000000, 4)],
    [16, 'ea00800800', (a) => a.jmpFar(8, 0x8000)],
    [16, 'f3a4', (a) => a.rep().movs(1)],
    [16, 'f366ab', (a) => a.rep().stos(4)],
    [16, '26c6060100ff', (a) => a.mov(mem8({ seg: 'es', disp: 1 }), 0xff)],
    [16, '8b00', (a) => a.mov('ax', mem({ base: 'bx', index: 'si' }))],
    [16, '8b4600', (a) => a.mov('ax', mem('bp'))],
    [16, '678b0418', (a) => a.mov('ax', mem({ base: 'eax', index: 'ebx' }))],
    [16, 'cd10', (a) => a.int(0x10)],
    [16, 'cf', (a) => a.iret()],
    [16, '66cf', (a) => a.iret(4)],
    [32, '83c005', (a) => a.add('eax', 5)],
    [32, '0500010000', (a) => a.add('eax', 0x100)],
    [32, '83c8ff', (a) => a.or('eax', 0xffffffff)],
    [32, 'e460', (a) => a.in('al', 0x60)],
    [32, '66ef', (a) => a.out('dx', 'ax')],
    [32, '8b849800010000', (a) => a.mov('eax', mem({ base: 'eax', index: 'ebx', scale: 4, disp: 0x100 }))],
    [32, '668ed8', (a) => a.sized(2, 'MOV', 'ds', 'ax')],
    [64, '48b88877665544332211', (a) => a.mov('rax', 0x1122334455667788n)],
    [64, '48c7c0ffffffff', (a) => a.mov('rax', -1)],
    [64, '50', (a) => a.push('rax')],
    [64, '4157', (a) => a.push('r15')],
    [64, '6a10', (a) => a.push(0x10)],
    [64, '40b601', (a) => a.mov('sil', 1)],
    [64, 'b601', (a) => a.mov('dh', 1)],
    [64, '48cf', (a) => a.iret(8)],
    [64, '48cb', (a) => a.retf(8)],
    [64, '0f30', (a) => a.wrmsr()],
    [64, '4c8b44240c', (a) => a.mov('r8', mem('rsp', 12))],
    [64, '488b042500100000', (a) => a.mov('rax', mem(0x1000))],
    [64, '8807', (a) => a.mov(mem('rdi'), 'al')],
    [64, '0fb7c8', (a) => a.movzx('ecx', 'ax')],
    [64, '0f94c1', (a) => a.set('z', 'cl')],
    [64, '480f4ed8', (a) => a.cmov('le', 'rbx', 'rax')],
    [64, 'f20f58c1', (a) => a.op('ADDSD', 'xmm0', 'xmm1')],
    [64, 'c5f458c2', (a) => a.op('VADDPS', 'ymm0', 'ymm1', 'ymm2')],
    [64, 'dd4010', (a) => a.op('FLD', 'st0', mem64('rax', 16))],
    [64, 'f0480fc70e', (a) => a.lock().op('CMPXCHG16B', { size: 16, base: 'rsi' })],
  ];
  it.each(known)('%i-bit %s', (mode, expected, build) => {
    // `mov ds, ax` with an explicit size takes the prefix; all others are the shortest form.
    expect(bytes(mode, build)).toBe(expected);
  });

  it('makes branches short where they reach and long where they do not', () => {
    const near = new Asm({ mode: 32 }).label('a').jmp('b').j('ne', 'a').label('b').nop();
    expect(hex(near.assemble())).toBe('eb0275fc90');
    const far = new Asm({ mode: 32 })
      .jmp('b')
      .j('ne', 'b')
      .db(...Array<number>(200).fill(0x90))
      .label('b')
      .jmp('b');
    const code = far.assemble();
    expect(hex(code.subarray(0, 11))).toBe('e9ce0000000f85c8000000');
    expect(hex(code.subarray(-2))).toBe('ebfe');
    expect(far.addressOf('b')).toBe(211);
  });

  it('resolves labels in data, immediates, displacements and rIP-relative addresses', () => {
    const a = new Asm({ mode: 64, origin: 0x100000 })
      .lea('rsi', mem(ref('data')))
      .mov('eax', ref('data', 4))
      .mov('edx', mem32({ base: 'rbx', disp: ref('data') }))
      .align(16)
      .label('data')
      .dd(ref('data'))
      .dq(0x1122334455667788n)
      .dw(0xaa55);
    expect(hex(a.assemble())).toBe(
      `488d3519000000b8240010008b9320001000${'00'.repeat(14)}20001000887766554433221155aa`,
    );
  });

  it('builds a boot sector that changes modes', () => {
    const code = new Asm({ mode: 16, origin: 0x7c00 })
      .cli()
      .lgdt(mem(ref('gdtr')))
      .mov('eax', 'cr0')
      .or('al', 1)
      .mov('cr0', 'eax')
      .jmpFar(8, 'protected')
      .mode(32)
      .label('protected')
      .mov('ax', 16)
      .mov('ds', 'ax')
      .hlt()
      .align(8)
      .label('gdt')
      .dq(0n, 0x00cf9a000000ffffn, 0x00cf92000000ffffn)
      .label('gdtr')
      .dw(23)
      .dd(ref('gdt'))
      .padTo(510)
      .dw(0xaa55)
      .assemble();
    expect(code).toHaveLength(512);
    const insn = new Insn();
    const lines: string[] = [];
    for (let at = 0, mode: Mode = 16; ; at += insn.length) {
      expect(decoder.decode(insn, code, at, code.length, mode)).toBe(Status.Ok);
      lines.push(format(insn, 0x7c00 + at));
      if (insn.op === OP.JMPF) mode = 32;
      if (insn.op === OP.HLT) break;
    }
    expect(lines).toEqual([
      'cli',
      'lgdt fword [0x7c38]',
      'mov eax, cr0',
      'or al, 0x1',
      'mov cr0, eax',
      'jmpf 0x8:0x7c13',
      'mov ax, 0x10',
      'mov ds, ax',
      'hlt',
    ]);
  });

  it.each([
    ['ASM_OPERANDS', (): Asm => new Asm({ mode: 16 }).mov('rax', 1)],
    ['ASM_OPERANDS', (): Asm => new Asm().mov(mem('rax'), 5)],
    ['ASM_OPERANDS', (): Asm => new Asm().mov('al', 0x100)],
    ['ASM_OPERANDS', (): Asm => new Asm().mov('ah', 'sil')],
    ['ASM_LABEL', (): Asm => new Asm().jmp('nowhere')],
    ['ASM_LABEL', (): Asm => new Asm().label('a').label('a')],
    ['ASM_SIZE', (): Asm => new Asm().dq(0, 0).padTo(8)],
    ['ASM_SIZE', (): Asm => new Asm().dq(0).padTo(4)],
  ])('reports %s', (code, build) => {
    let caught: unknown;
    try {
      build().assemble();
    } catch (e) {
      caught = e;
    }
    expect(isHyveError(caught, code)).toBe(true);
  });

  // Any decoded instruction, written back, must decode to the same operands (the encoding may be a shorter one).
  it('takes back what the decoder reads, for every row', () => {
    const rng = generator(7);
    const insn = new Insn();
    const again = new Insn();
    const untried: string[] = [];
    for (const row of ROWS) {
      // A0–A3 are never chosen; branches and conditions have tests of their own.
      if (row.operands.some((o) => /^[OJ]/.test(o)) || row.encoding.span === 16) continue;
      let tried = 0;
      for (const mode of [16, 32, 64] as const) {
        for (let n = 0; n < 2; n++) {
          const code = encodeRandom(row, rng, { mode, repeat: false, lock: false });
          if (code === null || decoder.decode(insn, code, 0, code.length, mode) !== Status.Ok) continue;
          const operands = operandsOf(insn, mode);
          if (operands === null) continue;
          const a = new Asm({ mode }).sized(sizeOf(insn), ROWS[insn.row].mnemonic, ...operands);
          const written = a.assemble();
          expect(decoder.decode(again, written, 0, written.length, mode)).toBe(Status.Ok);
          expect(normal(format(again, -again.length))).toBe(normal(format(insn, -insn.length)));
          tried++;
        }
      }
      if (tried === 0) untried.push(`${row.spec.encoding} ${row.mnemonic}`);
    }
    expect(untried).toEqual([]);
  });
});

function normal(text: string): string {
  return text.replace(/\[(es|cs|ss|ds):/, '[');
}

function sizeOf(i: Insn): 0 | 1 | 2 | 4 | 8 {
  return ROWS[i.row].encoding.vex ? 0 : (i.opSize as 1 | 2 | 4 | 8);
}

const WORDS = ['ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'];
const BYTES = ['al', 'cl', 'dl', 'bl', 'spl', 'bpl', 'sil', 'dil'];

function general(n: number, size: number): Register {
  if (n >= 8) return `r${n}${size === 1 ? 'b' : size === 2 ? 'w' : size === 4 ? 'd' : ''}` as Register;
  return (size === 1 ? BYTES[n] : (size === 8 ? 'r' : size === 4 ? 'e' : '') + WORDS[n]) as Register;
}

function memoryOf(i: Insn, size: number): Memory | null {
  // Only what sums up without wrapping, and no rIP-relative forms: those are covered above.
  if (i.ripRelative !== 0 || (i.addrSize !== 8 && i.base < 0 && (i.index < 0 || i.vsib !== 0))) return null;
  if (i.addrSize === 2 && i.index >= 0 && i.scale !== 0) return null;
  const scale = ([1, 2, 4, 8] as const)[i.scale];
  const vector = i.vsib === 16 ? 'xmm' : 'ymm';
  const index = i.vsib === 0 ? general(i.index, i.addrSize) : (`${vector}${i.index}` as Register);
  return {
    size,
    ...(i.seg > 3 ? { seg: (['fs', 'gs'] as const)[i.seg - 4] } : {}),
    ...(i.base >= 0 ? { base: general(i.base, i.addrSize) } : {}),
    ...(i.index >= 0 ? { index, scale } : {}),
    disp: i.dispLo,
  };
}

function operandsOf(i: Insn, mode: Mode): Operand[] | null {
  const out: Operand[] = [];
  const kinds = [i.kind0, i.kind1, i.kind2, i.kind3];
  const regs = [i.reg0, i.reg1, i.reg2, i.reg3];
  const sizes = [i.size0, i.size1, i.size2, i.size3];
  const row = ROWS[i.row];
  // Implied addresses have the width of the mode; the assembler offers no other.
  const implied = (o: string): boolean => /^([XY].|MBX|MDI.*)$/.test(o);
  if (row.operands.some(implied) && (i.addrSize * 8 !== mode || i.seg !== 3)) return null;
  if (row.operands.some((o) => /^[XY].$/.test(o))) return [];
  for (let n = 0; n < i.operandCount; n++) {
    const [kind, reg, size] = [kinds[n], regs[n], sizes[n]];
    if (implied(row.operands[n])) continue;
    const value = (BigInt(i.immHi) << 32n) | BigInt(i.immLo >>> 0);
    switch (kind) {
      case Kind.Gpr:
        out.push(general(reg, size));
        break;
      case Kind.GprHigh:
        out.push((['ah', 'ch', 'dh', 'bh'] as const)[reg]);
        break;
      case Kind.Mem: {
        const m = memoryOf(i, size);
        if (m === null) return null;
        out.push(m);
        break;
      }
      case Kind.Imm:
        if (i.op === OP.ENTER && n === 1) out.push(i.imm2);
        else out.push(BigInt.asUintN(size * 8, value));
        break;
      case Kind.Const:
        out.push(1);
        break;
      case Kind.Far:
        out.push({ selector: i.imm2, offset: i.immLo >>> 0 });
        break;
      default: {
        const prefix: Readonly<Record<number, string>> = {
          [Kind.Cr]: 'cr',
          [Kind.Dr]: 'dr',
          [Kind.Xmm]: 'xmm',
          [Kind.Ymm]: 'ymm',
          [Kind.Mmx]: 'mm',
          [Kind.St]: 'st',
        };
        if (kind === Kind.Seg) out.push((['es', 'cs', 'ss', 'ds', 'fs', 'gs'] as const)[reg]);
        else out.push(`${prefix[kind]}${reg}` as Register);
      }
    }
  }
  return out;
}
