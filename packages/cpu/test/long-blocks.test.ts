// Straight code of more instructions than a place in a region can count: where it faults, RIP and the number of instructions
// that were done must be the same as in the interpreter.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, flat32, runOn } from './machine.ts';

const CODE = 0x1000;
const TABLES = 0x10000;
/** INC DWORD [EDI], INC DWORD [ESI]. */
const BY_EDI = [0xff, 0x07];
const BY_ESI = [0xff, 0x06];

/** 300 increments through ESI, but number `odd` through EDI: the last run has nothing at EDI. Where it ends, after how many. */
function faults(threshold: number, odd: number): readonly [bigint, number] {
  const { vm, vcpu } = createMachine({ cpu: { threshold } });
  vm.memory.write32(TABLES, 0x87);
  const code = Array.from({ length: 300 }, (_, n) => (n === odd ? BY_EDI : BY_ESI));
  vm.memory.load(CODE, Uint8Array.from([...code.flat(), 0xf4]));
  const state = { ...flat32(vcpu, CODE), cr0: 0x80000011n, cr3: BigInt(TABLES), cr4: 0x10n };
  const run = (edi: bigint): number => {
    vcpu.setState({ ...state, gpr: state.gpr.map((_, n) => (n === 7 ? edi : n === 6 ? 0x8000n : 0n)) });
    const before = vcpu.retired();
    expect(runOn(vcpu)).toBe(edi === 0x8000n ? Exit.Halt : Exit.Shutdown);
    return vcpu.retired() - before;
  };
  for (let n = 0; n < 4; n++) expect(run(0x8000n)).toBe(301);
  const done = run(0x800000n);
  if (threshold > 0) expect(vm.counters()['regions']).toBeGreaterThan(0);
  return [vcpu.getState().rip, done];
}

describe('long straight code', () => {
  for (const odd of [0, 1, 43, 44, 45, 254, 255, 256, 283, 284, 299])
    it(`faults where it does, at instruction ${odd}`, () => {
      const wanted = faults(0, odd);
      expect(wanted).toEqual([BigInt(CODE + 2 * odd), odd]);
      expect(faults(1, odd)).toEqual(wanted);
    });
});
