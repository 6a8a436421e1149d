// Debug exceptions end to end: when they come, with what in DR6. Intel SDM volume 3B 18.2 and 18.3. Programs run in real mode,
// where handlers are short.
import { describe, expect, it } from 'vitest';
import { createMachine, realMode } from './machine.ts';

const CODE = 0x1000;
const DB_HANDLER = 0x2000;
const BP_HANDLER = 0x2100;
const LOG = 0x3000;

/** Runs `code` until it writes a port; gives [vector, address, DR6 bits 0–15] of each #DB and #BP. */
function run(code: readonly number[], vendor = 'GenuineIntel'): [vector: number, ip: number, dr6: number][] {
  let done = false;
  const word = (s: string): number => s.split('').reduceRight((v, c) => v * 256 + c.charCodeAt(0), 0);
  const [ebx, edx, ecx] = [0, 4, 8].map((at) => word(vendor.slice(at, at + 4))) as [number, number, number];
  const { vm, vcpu } = createMachine({
    bus: {
      ioWrite: () => {
        done = true;
        vcpu.kick();
      },
    },
    cpuid: (r) => (r.leaf === 0 ? { ...r, ebx, ecx, edx } : r),
  });
  const put = (at: number, ...bytes: number[]): void => vm.memory.load(at, Uint8Array.from(bytes));
  put(1 * 4, DB_HANDLER & 0xff, DB_HANDLER >> 8, 0, 0);
  put(3 * 4, BP_HANDLER & 0xff, BP_HANDLER >> 8, 0, 0);
  // mov al, vector; stosw; pop ax; push ax; stosw; mov eax, dr6; stosw; xor eax, eax; mov dr6, eax; mov dr7, eax; iret
  for (const [at, vector] of [
    [DB_HANDLER, 1],
    [BP_HANDLER, 3],
  ] as const)
    put(at, 0xb8, vector, 0, 0xab, 0x58, 0x50, 0xab, 0x0f, 0x21, 0xf0, 0xab, 0x66, 0x31, 0xc0, 0x0f, 0x23, 0xf0, 0x0f, 0x23, 0xf8, 0xcf); // biome-ignore format: code
  put(CODE, ...code, 0xe6, 0x80);
  const s = realMode(vcpu, CODE);
  vcpu.setState({ ...s, gpr: s.gpr.map((v, n) => (n === 7 ? BigInt(LOG) : v)) });
  for (let n = 0; n < 100 && !done; n++) vcpu.run(1e7);
  if (!done) throw new Error(`no end, RIP ${vcpu.getState().rip}`);
  const out: [number, number, number][] = [];
  const end = Number(vcpu.getState().gpr[7]);
  for (let at = LOG; at < end; at += 6)
    out.push([vm.memory.read16(at), vm.memory.read16(at + 2) - CODE, vm.memory.read16(at + 4)]);
  return out;
}

const moveEax = (v: number): number[] => [0x66, 0xb8, v & 255, (v >> 8) & 255, (v >> 16) & 255, v >>> 24];
/** mov eax, address; mov dr0, eax; mov eax, dr7; mov dr7, eax: 18 bytes. */
const breakpoint = (address: number, dr7: number): number[] => [
  ...moveEax(address), 0x0f, 0x23, 0xc0, ...moveEax(dr7), 0x0f, 0x23, 0xf8,
]; // biome-ignore format: code
/** pushf; pop ax; or ah, 1; push ax; popf: 7 bytes. */
const SET_TF = [0x9c, 0x58, 0x80, 0xcc, 0x01, 0x50, 0x9d];
const NOP = 0x90;
const EXECUTE = 0x0002;
/** Reads and writes of two bytes. */
const WATCH = 0x70002;
const VALUE = 0x4000;
/** mov ss, [VALUE]: 4 bytes. */
const MOV_SS = [0x8e, 0x16, VALUE & 255, VALUE >> 8];

describe('debug exceptions', () => {
  it('a breakpoint on the very next instruction counts', () => {
    expect(run([...breakpoint(CODE + 18, EXECUTE), NOP])).toEqual([[1, 18, 0x0ff1]]);
  });

  it('a data breakpoint traps after the access', () => {
    // mov [VALUE], ax
    expect(run([...breakpoint(VALUE, WATCH), 0xa3, 0x00, 0x40, NOP])).toEqual([[1, 21, 0x0ff1]]);
  });

  it('conditions are those of the last hit; BS stays as software left it', () => {
    const dr6 = [...moveEax(0x4002), 0x0f, 0x23, 0xf0]; // mov dr6, eax
    expect(run([...dr6, ...breakpoint(CODE + 27, EXECUTE), NOP])).toEqual([[1, 27, 0x4ff1]]);
  });

  it('single steps begin after the instruction that follows POPF, and STI does not hold them back', () => {
    const steps = run([...SET_TF, 0xfb, NOP, NOP]);
    expect(steps.slice(0, 3)).toEqual([
      [1, 8, 0x4ff0],
      [1, 9, 0x4ff0],
      [1, 10, 0x4ff0],
    ]);
  });

  it('MOV SS holds a single step back', () => {
    const steps = run([...SET_TF, ...MOV_SS, NOP, NOP]);
    expect(steps.slice(0, 2)).toEqual([
      [1, 12, 0x4ff0],
      [1, 13, 0x4ff0],
    ]);
  });

  it('MOV SS holds its own data breakpoint back until after the next instruction', () => {
    expect(run([...breakpoint(VALUE, WATCH), ...MOV_SS, NOP, NOP])).toEqual([[1, 23, 0x0ff1]]);
  });

  it('… which may be INT3: its handler is entered first', () => {
    const events = run([...breakpoint(VALUE, WATCH), ...MOV_SS, 0xcc, NOP]);
    expect(events).toEqual([
      [1, BP_HANDLER - CODE, 0x0ff1],
      [3, 23, 0x0ff0],
    ]);
  });

  it('INT1 takes the place of what MOV SS held back', () => {
    expect(run([...breakpoint(VALUE, WATCH), ...MOV_SS, 0xf1, NOP]).map((e) => e.slice(0, 2))).toEqual([[1, 23]]);
  });

  it('a code breakpoint behind MOV SS counts for AMD only', () => {
    const code = [...breakpoint(CODE + 22, EXECUTE), ...MOV_SS, NOP, NOP];
    expect(run(code)).toEqual([]);
    expect(run(code, 'AuthenticAMD')).toEqual([[1, 22, 0x0ff1]]);
  });
});
