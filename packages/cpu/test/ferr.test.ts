// x87 errors with CR0.NE clear: FERR#, IGNNE# and the wait for an interrupt. Intel SDM vol. 1 §8.7.2 and appendix D.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, realMode } from './machine.ts';

const CODE = 0x1000;
const HANDLER = 0x600;
const VECTOR = 0x75;
const FLDCW = [0xdb, 0xe3, 0xd9, 0x2e, 0x00, 0x20]; // fninit; fldcw [0x2000]
const DIVIDE = [0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9]; // fld1; fldz; fdivp: 1 / 0
const FWAIT = 0x9b;
const HLT = 0xf4;
const FNCLEX = [0xdb, 0xe2];
const OUT_F0 = [0xe6, 0xf0];
const IRET = 0xcf;

/** A machine in real mode whose FERR# is counted. */
function counting(threshold: number, code: readonly number[], handler: readonly number[]) {
  let ferr = 0;
  const written: number[] = [];
  const { vm, vcpu } = createMachine({
    cpu: { threshold },
    bus: { ioWrite: (port) => void written.push(port), ferr: () => void ferr++ },
  });
  vm.memory.write32(4 * VECTOR, HANDLER);
  vm.memory.write16(0x2000, 0x37b); // division by zero is not masked
  vm.memory.load(HANDLER, Uint8Array.from(handler));
  vm.memory.load(CODE, Uint8Array.from(code));
  vcpu.setState({ ...realMode(vcpu, CODE), cr0: 0x10n, rflags: 0x202n });
  return {
    vcpu,
    run: () => vcpu.run(1e9).reason,
    rip: () => Number(vcpu.getState().rip),
    ferr: () => ferr,
    written,
  };
}

describe.each([
  ['interpreter', 0],
  ['translator', 1],
])('x87 errors without CR0.NE, %s', (_, threshold) => {
  const code = [...FLDCW, ...DIVIDE, FWAIT, HLT];
  const atWait = CODE + FLDCW.length + DIVIDE.length;

  it('raise FERR# at the next waiting instruction, which waits for an interrupt', () => {
    const m = counting(threshold, code, [...OUT_F0, ...FNCLEX, IRET]);
    expect(m.run()).toBe(Exit.Halt);
    expect([m.rip(), m.ferr()]).toEqual([atWait, 1]);
    // Nothing came: it waits on.
    expect(m.run()).toBe(Exit.Halt);
    expect(m.rip()).toBe(atWait);
    expect(m.vcpu.inject(VECTOR)).toBe(true);
    expect(m.run()).toBe(Exit.Halt);
    expect([m.rip(), m.ferr()]).toEqual([atWait + 2, 1]);
    expect(m.written).toEqual([0xf0]);
  });

  it('are ignored after a write to port 0xF0, until they are cleared', () => {
    // The handler and what it interrupted go on computing; then the error is cleared and comes up anew.
    const again = [...FNCLEX, ...DIVIDE, FWAIT, HLT];
    const m = counting(threshold, [...FLDCW, ...DIVIDE, FWAIT, ...again], [...OUT_F0, 0xd9, 0xe8, IRET]);
    expect(m.run()).toBe(Exit.Halt);
    expect([m.rip(), m.ferr()]).toEqual([atWait, 1]);
    m.vcpu.inject(VECTOR);
    expect(m.run()).toBe(Exit.Halt);
    expect([m.rip(), m.ferr()]).toEqual([atWait + 1 + FNCLEX.length + DIVIDE.length, 2]);
  });

  it('come again when the handler did nothing about them', () => {
    const m = counting(threshold, code, [IRET]);
    m.run();
    m.vcpu.inject(VECTOR);
    expect(m.run()).toBe(Exit.Halt);
    expect([m.rip(), m.ferr()]).toEqual([atWait, 2]);
  });

  it('a write to port 0xF0 without an error is no licence for later', () => {
    const m = counting(threshold, [...OUT_F0, ...code], [IRET]);
    expect(m.run()).toBe(Exit.Halt);
    expect([m.rip(), m.ferr()]).toEqual([atWait + OUT_F0.length, 1]);
  });
});
