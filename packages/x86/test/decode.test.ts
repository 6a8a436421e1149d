import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  Decoder,
  encodeRandom,
  FEATURES,
  format,
  Insn,
  Kind,
  type Mode,
  OP,
  OP_NAMES,
  ROWS,
  Seg,
  Status,
} from '../src/index.ts';
import { fromHex, hex } from './random.ts';

const decoder = new Decoder();
const insn = new Insn();

function decode(code: string, mode: Mode, by: Decoder = decoder): number {
  const bytes = fromHex(code);
  return by.decode(insn, bytes, 0, bytes.length, mode);
}

function text(code: string, mode: Mode, by: Decoder = decoder): string {
  const status = decode(code, mode, by);
  return status === Status.Ok ? format(insn, 0x1000) : `status ${status}`;
}

describe('prefixes (SDM vol. 2 §2.1, §2.2)', () => {
  it.each<[string, Mode, string]>([
    ['f2 f3 0f 10 c1', 64, 'movss xmm0, xmm1'], // the last of F2 and F3 counts
    ['f3 f2 0f 10 c1', 64, 'movsd xmm0, xmm1'],
    ['f2 66 0f 10 c1', 64, 'movsd xmm0, xmm1'], // F2 and F3 beat 66 in any order
    ['66 f3 0f 10 c1', 64, 'movss xmm0, xmm1'],
    ['66 f3 0f b8 c1', 64, 'popcnt ax, cx'], // …but 66 still sets the operand size
    ['66 f2 0f 38 f1 c1', 64, 'crc32 eax, cx'],
    ['66 0f 38 f0 00', 64, 'movbe ax, word [rax]'],
    ['48 66 01 c0', 64, 'add ax, ax'], // a REX that is not next to the opcode is void
    ['66 48 01 c0', 64, 'add rax, rax'],
    ['40 48 01 c0', 64, 'add rax, rax'],
    ['48 40 01 c0', 64, 'add eax, eax'],
    ['2e 64 65 8b 00', 32, 'mov eax, dword [gs:eax]'], // the last override counts
    ['64 3e 8b 00', 64, 'mov eax, dword [fs:rax]'], // DS does nothing in 64-bit mode, not even undo FS
    ['3e 8b 45 00', 32, 'mov eax, dword [ds:ebp]'],
    ['3e 8b 45 00', 64, 'mov eax, dword [rbp]'],
    ['67 8b 00', 16, 'mov ax, word [eax]'],
    ['67 8b 07', 32, 'mov eax, dword [bx]'],
    ['67 8b 00', 64, 'mov eax, dword [eax]'],
    ['66 e9 00 00 00 00', 64, 'jmp 0x1006'], // 66 does not cut near branches (Intel)
    ['66 e9 00 00', 32, 'jmp 0x1004'],
    ['f3 c3', 64, 'ret'],
    ['f3 48 ab', 64, 'rep stosq qword [es:rdi], rax'],
    ['f2 ae', 64, 'repne scasb al, byte [es:rdi]'],
    ['f3 a6', 32, 'repe cmpsb byte [ds:esi], byte [es:edi]'],
    ['65 a4', 32, 'movsb byte [es:edi], byte [gs:esi]'],
    ['f3 90', 64, 'pause'],
    ['90', 64, 'nop'],
    ['66 90', 64, 'nop'],
    ['48 90', 64, 'nop'],
    ['41 90', 64, 'xchg r8d, eax'],
    ['f3 0f 1e fa', 64, 'endbr64'],
  ])('%s in %i-bit mode is %s', (code, mode, expected) => {
    expect(text(code, mode)).toBe(expected);
  });

  it('allows LOCK only with a memory destination of the listed instructions', () => {
    expect(text('f0 01 00', 64)).toBe('lock add dword [rax], eax');
    expect(insn.lock).toBe(1);
    for (const code of ['f0 01 c0', 'f0 03 00', 'f0 39 00', 'f0 8b 00', 'f0 90', 'f0 0f a3 00', 'f0 ff 20', 'f0 a5']) {
      expect([code, decode(code, 64)]).toEqual([code, Status.Undefined]);
    }
    for (const code of [
      'f0 87 00',
      'f0 0f ab 00',
      'f0 0f ba 28 01',
      'f0 0f c7 08',
      'f0 48 0f c7 08',
      'f0 fe 00',
      'f0 f7 18',
    ]) {
      expect([code, decode(code, 64)]).toEqual([code, Status.Ok]);
    }
  });

  it('rejects VEX after 66, F2, F3, LOCK or REX (SDM vol. 2 §2.3.2)', () => {
    expect(text('c5 f4 58 c2', 64)).toBe('vaddps ymm0, ymm1, ymm2');
    for (const prefix of ['66', 'f2', 'f3', 'f0', '48'])
      expect(decode(`${prefix} c5 f4 58 c2`, 64)).toBe(Status.Undefined);
    expect(text('64 c5 f8 58 00', 64)).toBe('vaddps xmm0, xmm0, oword [fs:rax]');
  });
});

describe('modes', () => {
  it.each<[string, string, string, string]>([
    ['63 c1', 'arpl cx, ax', 'arpl cx, ax', 'movsxd eax, ecx'],
    ['40', 'inc ax', 'inc eax', 'status 1'],
    ['06', 'push es', 'push es', 'status 2'],
    ['98', 'cbw', 'cwde', 'cwde'],
    ['c5 00', 'lds ax, dword [bx+si]', 'lds eax, fword [eax]', 'status 1'],
    ['50', 'push ax', 'push eax', 'push rax'],
    ['e3 fe', 'jcxz 0x1000', 'jecxz 0x1000', 'jrcxz 0x1000'],
    ['0f 20 c0', 'mov eax, cr0', 'mov eax, cr0', 'mov rax, cr0'],
    ['0f 01 f8', 'status 2', 'status 2', 'swapgs'],
    ['0f 01 10', 'lgdt fword [bx+si]', 'lgdt fword [eax]', 'lgdt tbyte [rax]'],
    ['ff 20', 'jmp word [bx+si]', 'jmp dword [eax]', 'jmp qword [rax]'],
    ['ff 28', 'jmpf dword [bx+si]', 'jmpf fword [eax]', 'jmpf fword [rax]'],
    ['d5 0a', 'aad 0xa', 'aad 0xa', 'status 2'],
    ['82 c0 01', 'add al, 0x1', 'add al, 0x1', 'status 2'],
    ['cf', 'iret', 'iretd', 'iretd'],
  ])('%s: %s, %s, %s', (code, in16, in32, in64) => {
    expect([text(code, 16), text(code, 32), text(code, 64)]).toEqual([in16, in32, in64]);
  });

  it('reads absolute offsets and 64-bit immediates whole', () => {
    expect(text('a0 88 77 66 55 44 33 22 11', 64)).toBe('mov al, byte [0x1122334455667788]');
    expect(text('67 a0 44 33 22 f1', 64)).toBe('mov al, byte [0xf1223344]');
    expect(text('a1 34 f2', 16)).toBe('mov ax, word [0xf234]');
    expect(text('48 b8 88 77 66 55 44 33 22 f1', 64)).toBe('mov rax, 0xf122334455667788');
    expect(text('66 ea 78 56 34 12 10 00', 16)).toBe('jmpf 0x10:0x12345678');
    expect(text('c8 34 12 05', 64)).toBe('enter 0x1234, 0x5');
  });
});

describe('memory operands (SDM vol. 2 §2.1.5, §2.2.1)', () => {
  it.each<[string, Mode, string]>([
    ['8b 40 fe', 16, 'mov ax, word [bx+si-0x2]'],
    ['8b 82 00 80', 16, 'mov ax, word [bp+si-0x8000]'],
    ['8b 06 34 12', 16, 'mov ax, word [0x1234]'],
    ['8b 46 00', 16, 'mov ax, word [bp]'],
    ['8b 04 24', 32, 'mov eax, dword [esp]'],
    ['8b 04 25 00 00 00 80', 32, 'mov eax, dword [0x80000000]'],
    ['8b 04 25 00 00 00 80', 64, 'mov eax, dword [0xffffffff80000000]'],
    ['8b 05 00 00 00 00', 32, 'mov eax, dword [0x0]'],
    ['8b 05 00 00 00 00', 64, 'mov eax, dword [0x1006]'],
    ['c7 05 00 00 00 00 01 00 00 00', 64, 'mov dword [0x100a], 0x1'], // relative to the end, immediate included
    ['42 8b 04 20', 64, 'mov eax, dword [rax+r12]'],
    ['8b 04 20', 64, 'mov eax, dword [rax]'],
    ['41 8b 04 24', 64, 'mov eax, dword [r12]'],
    ['41 8b 45 00', 64, 'mov eax, dword [r13]'],
    ['43 8b 44 fd 10', 64, 'mov eax, dword [r13+r15*8+0x10]'],
    ['c4 e2 e9 92 04 48', 64, 'vgatherdpd xmm0, qword [rax+xmm1*2], xmm2'],
    ['d7', 64, 'xlat byte [rbx]'],
    ['0f ae 38', 64, 'clflush byte [rax]'],
  ])('%s in %i-bit mode is %s', (code, mode, expected) => {
    expect(text(code, mode)).toBe(expected);
  });

  it('resolves the default segment', () => {
    const seg = (code: string, mode: Mode): number => {
      expect(decode(code, mode)).toBe(Status.Ok);
      return insn.seg;
    };
    expect(seg('8b 00', 32)).toBe(Seg.Ds);
    expect(seg('8b 45 00', 32)).toBe(Seg.Ss);
    expect(seg('8b 04 24', 64)).toBe(Seg.Ss);
    expect(seg('8b 04 65 00 00 00 00', 32)).toBe(Seg.Ds); // no base: index rSP does not exist, rBP would not count
    expect(seg('8b 04 28', 32)).toBe(Seg.Ds); // rBP as an index
    expect(seg('8b 02', 16)).toBe(Seg.Ss);
    expect(seg('8b 06 00 00', 16)).toBe(Seg.Ds);
    expect(seg('41 8b 45 00', 64)).toBe(Seg.Ds); // R13 is not rBP
    expect(seg('26 8b 45 00', 32)).toBe(Seg.Es);
    expect(seg('26 8b 45 00', 64)).toBe(Seg.Ss);
    expect(seg('2e ac', 32)).toBe(Seg.Cs);
  });
});

describe('operands', () => {
  it('tells high byte registers from the REX ones', () => {
    decode('88 e1', 64);
    expect([insn.kind1, insn.reg1]).toEqual([Kind.GprHigh, 0]);
    decode('40 88 e1', 64);
    expect([insn.kind1, insn.reg1]).toEqual([Kind.Gpr, 4]);
  });

  it('gives condition codes, sizes and branch displacements', () => {
    decode('0f 85 fc ff ff ff', 64);
    expect([OP_NAMES[insn.op], insn.cc, insn.immLo, insn.immHi, insn.kind0]).toEqual(['JCC', 5, -4, -1, Kind.Rel]);
    decode('0f b6 00', 64);
    expect([insn.size0, insn.size1, insn.opSize, insn.cc]).toEqual([4, 1, 4, -1]);
    decode('48 83 c0 80', 64);
    expect([insn.immLo, insn.immHi, insn.size1]).toEqual([-128, -1, 8]);
    decode('04 80', 64);
    expect([insn.immLo, insn.immHi, insn.size1, insn.opSize]).toEqual([128, 0, 1, 1]);
    decode('d1 e0', 32);
    expect([insn.kind1, insn.immLo]).toEqual([Kind.Const, 1]);
    decode('0f ae 00', 64);
    expect([insn.op, insn.size0]).toEqual([OP.FXSAVE, 512]);
    decode('66 d9 30', 32);
    expect([insn.op, insn.size0]).toEqual([OP.FNSTENV, 14]);
    decode('dd 30', 32);
    expect([insn.op, insn.size0]).toEqual([OP.FNSAVE, 108]);
  });

  it.each([
    ['0f 20 c8', Status.Undefined], // CR1
    ['44 0f 20 c0', Status.Ok], // CR8
    ['44 0f 20 c8', Status.Undefined], // CR9
    ['0f 21 f8', Status.Ok],
    ['44 0f 21 c0', Status.Undefined], // DR8
    ['8e c8', Status.Undefined], // MOV CS
    ['8c c8', Status.Ok],
    ['8c f0', Status.Undefined], // segment register 6
    ['8d c0', Status.Undefined], // LEA of a register
    ['0f 0b', Status.Ok], // UD2 is decoded; it faults when executed
    ['62 f1 7c 48 58 c0', Status.Undefined], // EVEX
    ['8f e9 78 01 c8', Status.Undefined], // XOP
    ['c4 e1 00', Status.NeedMore],
    ['c4 e0 78 58 c0', Status.Undefined], // map 0
    ['c4 e2 f9 92 04 48', Status.Undefined], // gather with destination = mask
    ['c5 f0 10 c0', Status.Undefined], // vvvv must be 1111
  ])('%s gives status %i', (code, status) => {
    expect(decode(code, 64)).toBe(status);
  });
});

describe('features', () => {
  const old = new Decoder(new Set(['sse', 'sse2']));
  it('leaves out what the processor lacks, with the meaning the bytes had before', () => {
    expect(text('f3 0f bc c1', 64)).toBe('tzcnt eax, ecx');
    expect(text('f3 0f bc c1', 64, old)).toBe('bsf eax, ecx');
    expect(text('f3 0f bd c1', 64, old)).toBe('bsr eax, ecx');
    expect(text('f3 0f b8 c1', 64, old)).toBe('status 2');
    expect(text('c5 f4 58 c2', 64, old)).toBe('status 2');
    expect(text('c5 00', 32, old)).toBe('lds eax, fword [eax]');
    expect(text('0f 01 d0', 64, old)).toBe('status 2');
    expect(text('66 0f 58 c1', 64, old)).toBe('addpd xmm0, xmm1');
  });
});

describe('ends', () => {
  it('asks for more bytes at every cut of an instruction', () => {
    for (const code of [
      '48 b8 88 77 66 55 44 33 22 11',
      '66 0f 38 f6 84 c8 00 01 00 00',
      'c4 e3 75 4a 84 88 11 22 33 44 50',
    ]) {
      const bytes = fromHex(code);
      for (let n = 0; n < bytes.length; n++) {
        expect(decoder.decode(insn, bytes, 0, n, 64)).toBe(Status.NeedMore);
        expect(insn.length).toBe(n);
        expect(insn.op).toBe(-1);
      }
      expect(decoder.decode(insn, bytes, 0, bytes.length, 64)).toBe(Status.Ok);
      expect(insn.length).toBe(bytes.length);
    }
  });

  it('asks for more bytes at every cut of any valid encoding', () => {
    const all = new Decoder(new Set(FEATURES));
    const one = new Insn();
    let seed = 1;
    const random = (): number => {
      seed = (Math.imul(seed, 0x19660d) + 0x3c6ef35f) >>> 0;
      return (seed ^ (seed >>> 13)) >>> 0;
    };
    const wrong: string[] = [];
    for (const row of ROWS)
      for (const mode of [16, 32, 64] as const)
        for (let i = 0; i < 6; i++) {
          const bytes = encodeRandom(row, random, { mode });
          if (bytes === null || all.decode(one, bytes, 0, bytes.length, mode) !== Status.Ok) continue;
          const { length } = one;
          for (let n = 0; n < length; n++)
            if (all.decode(one, bytes, 0, n, mode) !== Status.NeedMore)
              wrong.push(`${mode}: ${hex(bytes)} cut to ${n}`);
        }
    expect(wrong).toEqual([]);
    expect(decode('c5 cf 10', 64, all)).toBe(Status.NeedMore); // VMOVSS, or #UD: ModRM tells
  });

  it('allows 15 bytes and no more (#GP), whatever the padding', () => {
    const add = '81 84 98 00 00 00 00 01 00 00 00';
    expect(decode(`${'2e'.repeat(4)} ${add}`, 64)).toBe(Status.Ok);
    expect(insn.length).toBe(15);
    expect(decode(`${'2e'.repeat(5)} ${add}`, 64)).toBe(Status.TooLong);
    expect(decode('66'.repeat(15), 64)).toBe(Status.TooLong);
    expect(decode('66'.repeat(14), 64)).toBe(Status.NeedMore);
    expect(decode(`${'66'.repeat(14)} 90`, 64)).toBe(Status.Ok);
    expect(decode('66'.repeat(60), 64)).toBe(Status.TooLong);
    expect(insn.length).toBe(15);
  });

  it('gives the same answer from the middle of a large buffer as from a short one', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 0, maxLength: 18 }), fc.constantFrom<Mode>(16, 32, 64), (bytes, mode) => {
        const other = new Insn();
        const large = new Uint8Array(128).fill(0xcc);
        large.set(bytes, 7);
        const status = decoder.decode(insn, bytes, 0, bytes.length, mode);
        const again = decoder.decode(other, large, 7, large.length, mode);
        if (status === Status.NeedMore) return;
        expect(again).toBe(status);
        expect(other.length).toBe(insn.length);
        if (status === Status.Ok) expect(other).toEqual(insn);
      }),
      { numRuns: 3000, seed: 5 },
    );
  });

  it('survives any bytes: integer fields, bounded length, no exception', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 0, maxLength: 40 }),
        fc.integer({ min: 0, max: 40 }),
        fc.integer({ min: 0, max: 80 }),
        fc.constantFrom<Mode>(16, 32, 64),
        (bytes, offset, limit, mode) => {
          const status = decoder.decode(insn, bytes, offset, limit, mode);
          expect([0, 1, 2, 3]).toContain(status);
          expect(insn.length).toBeGreaterThanOrEqual(0);
          expect(insn.length).toBeLessThanOrEqual(15);
          for (const [name, value] of Object.entries(insn)) {
            if (!Number.isInteger(value)) throw new Error(`${name} is ${value} for ${hex(bytes)}`);
          }
          if (status === Status.Ok) expect(format(insn, 0).length).toBeGreaterThan(1);
          else expect(insn.op).toBe(-1);
        },
      ),
      { numRuns: 3000, seed: 6 },
    );
  });
});
