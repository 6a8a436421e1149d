// Handlers are shared by all instructions with the same key: what their code depends on must be in it.
import { Decoder, Insn, OP, Status } from '@hyve/x86';
import { describe, expect, it } from 'vitest';
import { FEATURES } from '../src/features.ts';
import { handlerKey } from '../src/interp.ts';
import * as S from '../src/state.ts';

const LONG = 2 | S.MODE_FLAT;
const COMPATIBILITY = 1 | S.MODE_FLAT | S.MODE_SS32;

/** Decodes bytes; null where they are no instruction. */
function decoded(bytes: readonly number[], bits: 32 | 64): Insn | null {
  const n = new Insn();
  const st = new Decoder(new Set(FEATURES)).decode(n, Uint8Array.from(bytes), 0, bytes.length, bits);
  return st === Status.Ok ? n : null;
}

describe('handler keys', () => {
  for (const [name, op, bytes] of [
    ['SYSCALL', OP.SYSCALL, [0x0f, 0x05]],
    ['SYSRET', OP.SYSRET, [0x0f, 0x07]],
    ['SWAPGS', OP.SWAPGS, [0x0f, 0x01, 0xf8]],
    ['INVLPG', OP.INVLPG, [0x0f, 0x01, 0x38]],
    ['WRFSBASE', OP.WRFSBASE, [0xf3, 0x0f, 0xae, 0xd0]],
    ['MOV to CR3', OP.MOV, [0x0f, 0x22, 0xd8]],
  ] as const)
    it(`${name} has another handler in compatibility mode than in 64-bit mode, or none`, () => {
      const wide = decoded(bytes, 64);
      const narrow = decoded(bytes, 32);
      expect(wide?.op).toBe(op);
      if (wide === null || narrow === null) return;
      expect(handlerKey(narrow, COMPATIBILITY)).not.toBe(handlerKey(wide, LONG));
    });
});
