import * as iced from 'iced-x86';
import { describe, expect, it } from 'vitest';
import { Decoder, encodeRandom, Insn, type Mode, OP_NAMES, ROWS, type Row, Status } from '../src/index.ts';
import { icedOperands, ourMnemonic, ourOperands } from './iced.ts';
import { generator, hex } from './random.ts';

// What we decode differently from iced-x86 1.21, on purpose:
// - Features we have no rows for (below) are #UD to us. iced decodes all of them.
// - 0F 0D, 0F 18–1F: where iced knows a hint of a recent processor (CLDEMOTE, PREFETCHIT0, PREFETCHWT1…), all processors
//   without it execute a NOP or a plain PREFETCH; so do we.
// - A byte string that is cut off: we may know that it is invalid before iced does.
// - Where only 16 bits of a register count whatever the operand size (LLDT, LTR, VERR, VERW, LMSW, ARPL, MOV Sreg), iced
//   names the 32- or 64-bit register.
// - iced leaves out the implied ST(0) of memory and one-operand x87 forms and the implied XMM0 of blends and SHA256RNDS2.
// - In 64-bit mode iced names the segment of ES, CS, SS and DS overrides, which do nothing; see segmentName in iced.ts.
const ABSENT = new Set(
  `AVX512F AVX512BW AVX512DQ AVX512VL AVX512_VBMI AVX512_FP16 AVX_IFMA AVX_NE_CONVERT AVX_VNNI AVX_VNNI_INT8
    AVX_VNNI_INT16 AMX_TILE AMX_INT8 AMX_BF16 AMX_FP16 AMX_COMPLEX CET_IBT CET_SS CMPCCXADD CLDEMOTE CLZERO D3NOW
    D3NOWEXT ENQCMD FMA4 XOP TBM LWP GFNI HRESET INVLPGB KL AESKLE WIDE_KL MCOMMIT MONITORX MOVDIR64B MOVDIRI MPX
    PADLOCK_ACE PADLOCK_PHE PADLOCK_PMM PADLOCK_RNG PADLOCK_GMI PADLOCK_UNDOC PCONFIG PREFETCHITI PREFETCHWT1
    PTWRITE RAO_INT RDPRU RMPQUERY RTM TSXLDTRK SEV_ES SEV_SNP SGX1 SHA512 SKINIT SM3 SM4 SMX SSE4A TDX UDBG UINTR
    VAES VPCLMULQDQ WAITPKG WRMSRNS CL1INVMB CYRIX_D3NOW CYRIX_EMMI CYRIX_FPU CYRIX_SMM CYRIX_SMINT CYRIX_SHR
    CYRIX_DDI KNC MSRLIST FRED LKGS`.split(/\s+/),
);
const HINTS = /^(nop|prefetch|prefetchw)$/;
const HINT_NAMES = /^(reservednop|nop|prefetch.*|cldemote|bnd.*|endbr.*|rdssp.*)$/;
const WORD_REGISTER = /^(lldt|ltr|verr|verw|lmsw|arpl|mov)$/;

const decoder = new Decoder();
const insn = new Insn();

/** Decodes with both; a description of the first difference, or ''. */
function difference(bytes: Uint8Array, mode: Mode, expected?: Row): string {
  const status = decoder.decode(insn, bytes, 0, bytes.length, mode);
  const other = new iced.Decoder(mode, bytes, iced.DecoderOptions.None);
  const i = other.decode();
  const error = other.lastError;
  try {
    if (i.code === iced.Code.INVALID) {
      if (status === Status.Ok) return `accepted as ${OP_NAMES[insn.op]}`;
      const missing = error === iced.DecoderError.NoMoreBytes;
      if (bytes.length < 15 && status === Status.NeedMore && !missing) return 'asks for more bytes';
      // iced calls everything beyond 15 bytes missing, too.
      return bytes.length < 15 && status === Status.TooLong ? 'too long' : '';
    }
    if (status !== Status.Ok) {
      const features = i.cpuidFeatures();
      const names = Array.from(features, (f) => iced.CpuidFeature[f]);
      return names.some((n) => ABSENT.has(n)) ? '' : `status ${status}, iced has ${iced.Code[i.code]} (${names})`;
    }
    if (expected !== undefined && insn.row !== expected.id) {
      return `decoded as row ${ROWS[insn.row].spec.encoding}`;
    }
    const ours = ourMnemonic(insn);
    const theirs = iced.Mnemonic[i.mnemonic].toLowerCase();
    if (insn.length !== i.length) return `length ${insn.length}, iced has ${i.length} for ${theirs}`;
    if (HINTS.test(ours) && HINT_NAMES.test(theirs) && ours !== theirs) return '';
    if (ours !== theirs) return `${ours}, iced has ${theirs}`;
    const a = ourOperands(insn, mode);
    const b = icedOperands(i, insn.addrSize, mode);
    if (a.length === b.length + 1) {
      const top = a.indexOf('st0');
      if (top >= 0) a.splice(top, 1);
      else if (a.at(-1) === 'x0') a.pop();
    }
    const same = (x: string, n: number): boolean =>
      x === b[n] || (WORD_REGISTER.test(ours) && /^g\d+\.2$/.test(x) && b[n].startsWith(x.slice(0, -1)));
    if (a.length !== b.length || !a.every(same)) return `${ours} ${a.join(' , ')}, iced has ${b.join(' , ')}`;
    if ((insn.lock !== 0) !== i.hasLockPrefix) return `lock ${insn.lock}`;
    if (insn.rep !== 0 && (insn.rep === 0xf3 ? !i.hasRepPrefix : !i.hasRepnePrefix)) return `rep ${insn.rep}`;
    if (insn.cc >= 0 && insn.cc !== conditionNumber(i)) return `cc ${insn.cc}`;
    return '';
  } finally {
    i.free();
    other.free();
  }
}

// iced numbers conditions from 1, in the order of the encoding.
function conditionNumber(i: iced.Instruction): number {
  return i.conditionCode - 1;
}

describe('decoder against iced-x86', () => {
  it('agrees on random encodings of every row in every mode', () => {
    const rng = generator(2024);
    const wrong: string[] = [];
    const unreached: string[] = [];
    let compared = 0;
    for (const row of ROWS) {
      let tried = 0;
      for (const mode of [16, 32, 64] as const) {
        for (let n = 0; n < 12; n++) {
          const bytes = encodeRandom(row, rng, { mode });
          if (bytes === null) continue;
          tried++;
          const d = difference(bytes, mode, row);
          if (d !== '' && wrong.length < 20) wrong.push(`${row.spec.encoding} ${mode} ${hex(bytes)}: ${d}`);
        }
      }
      compared += tried;
      if (tried === 0) unreached.push(`${row.spec.encoding} ${row.mnemonic}`);
    }
    console.log(
      `${ROWS.length - unreached.length} of ${ROWS.length} rows, ${compared} encodings compared with iced-x86`,
    );
    expect(wrong).toEqual([]);
    expect(unreached).toEqual([]);
  });

  it('agrees on validity, length and meaning of random bytes', () => {
    const rng = generator(99);
    const prefixes = [0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x26, 0x3e, 0x64, 0x65, 0x40, 0x48, 0x4f, 0x45];
    const starts = [[], [], [0x0f], [0x0f], [0x0f, 0x38], [0x0f, 0x3a], [0xc5], [0xc4]];
    const wrong: string[] = [];
    for (let n = 0; n < 60_000; n++) {
      const mode = ([16, 32, 64] as const)[n % 3];
      const bytes: number[] = [];
      for (let k = rng() % 5; k > 0; k--) if ((rng() & 1) !== 0) bytes.push(prefixes[rng() % prefixes.length]);
      const start = starts[rng() % starts.length];
      bytes.push(...start);
      if (start[0] === 0xc4) bytes.push((rng() & 0xe0) | (1 + (rng() % 3)));
      while (bytes.length < 20) bytes.push(rng() & 0xff);
      const length = rng() % 5 === 0 ? 1 + (rng() % 16) : 20;
      const code = Uint8Array.from(bytes.slice(0, length));
      const d = difference(code, mode);
      if (d !== '' && wrong.length < 20) wrong.push(`${mode} ${hex(code)}: ${d}`);
    }
    expect(wrong).toEqual([]);
  });

  it('agrees on every opcode byte of every map with every mandatory prefix', () => {
    const wrong: string[] = [];
    const code = new Uint8Array(16);
    for (const mode of [16, 32, 64] as const) {
      for (const prefix of [[], [0x66], [0xf3], [0xf2], [0xf0], [0x66, 0xf2]]) {
        for (const map of [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]]) {
          for (let opcode = 0; opcode < 256; opcode++) {
            for (const modrm of map.length < 2
              ? [0x00, 0x08, 0x11, 0x1a, 0x24, 0x2d, 0x36, 0x3f, 0xc1, 0xd3, 0xe8, 0xff]
              : [0x0d, 0xd1]) {
              code.fill(0);
              code.set([...prefix, ...map, opcode, modrm]);
              const d = difference(code, mode);
              if (d !== '' && wrong.length < 20) wrong.push(`${mode} ${hex(code)}: ${d}`);
            }
          }
        }
      }
    }
    expect(wrong).toEqual([]);
  });
});
