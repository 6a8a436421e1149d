// An instruction that lies in two pages, and begins a block: both pages may be mapped elsewhere at any time.
import { Exit } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import { createMachine, flat32, runOn } from './machine.ts';

const DIRECTORY = 0x2000;
const TABLE = 0x3000;
/** Linear addresses of the second page, and of the instruction. */
const SECOND = 0x402000;
const ENTRY = 0x401ffe;
/** Where the first page is, and two second pages. */
const FIRST_AT = 0x5000;
const SECOND_AT = [0x6000, 0x7000] as const;
const PRESENT = 3;
const RUNS = 5000;

/** mov eax, imm32 with two bytes in each page; inc edx or inc ebx; dec ecx; jnz back; hlt */
function machine(threshold: number) {
  const { vm, vcpu } = createMachine({ cpu: { threshold }, ram: 1 << 16 });
  const m = vm.memory;
  m.write32(DIRECTORY + 4, TABLE | PRESENT);
  m.write32(TABLE + 4, FIRST_AT | PRESENT);
  m.load(FIRST_AT + 0xffe, Uint8Array.of(0xb8, 0x11));
  for (const [n, at] of SECOND_AT.entries())
    m.load(at, Uint8Array.of(0x22 + n, 0x33, 0x44, n === 0 ? 0x42 : 0x43, 0x49, 0x75, 0xf7, 0xf4));
  const start = flat32(vcpu, ENTRY);
  /** Runs the loop with the second page there (0: nowhere). */
  const run = (second: number) => {
    m.write32(TABLE + 8, second === 0 ? 0 : second | PRESENT);
    vcpu.setState({
      ...start,
      cr0: 0x80000011n,
      cr3: BigInt(DIRECTORY),
      idtr: { base: 0n, limit: 0 },
      gpr: start.gpr.map((_, n) => (n === 1 ? BigInt(RUNS) : 0n)),
    });
    const lookups = vm.counters()['blockLookups'] as number;
    const why = runOn(vcpu);
    const { gpr, rip, cr2 } = vcpu.getState();
    const [eax, , edx, ebx] = gpr.map(Number);
    return {
      why,
      eax,
      edx,
      ebx,
      rip: Number(rip),
      cr2: Number(cr2),
      lookups: (vm.counters()['blockLookups'] as number) - lookups,
    };
  };
  return { vm, m, run };
}

describe.each([
  ['interpreted', 0],
  ['translated at once', 1],
  ['translated when hot', 100],
])('an instruction in two pages, %s', (_name, threshold) => {
  it('is what the two pages say that are mapped', () => {
    const { run } = machine(threshold);
    const end = { why: Exit.Halt, rip: SECOND + 8, cr2: 0 };
    for (const n of [0, 1, 0, 0, 1]) {
      const [edx, ebx] = n === 0 ? [RUNS, 0] : [0, RUNS];
      expect(run(SECOND_AT[n])).toMatchObject({
        ...end,
        eax: 0x44332211 + n * 256 * 256 - (n === 0 ? 0 : 0xff00),
        edx,
        ebx,
      });
    }
  });

  it('faults where the second is not there, and goes on when it is', () => {
    const { run } = machine(threshold);
    for (const at of [SECOND_AT[0], 0, SECOND_AT[0], 0]) {
      const end =
        at === 0 ? { why: Exit.Shutdown, eax: 0, edx: 0, rip: ENTRY, cr2: SECOND } : { why: Exit.Halt, edx: RUNS };
      expect(run(at)).toMatchObject(end);
    }
  });

  it('is another when a byte of either page changes', () => {
    const { m, run } = machine(threshold);
    expect(run(SECOND_AT[0]).eax).toBe(0x44332211);
    m.write8(FIRST_AT + 0xfff, 0x99);
    expect(run(SECOND_AT[0]).eax).toBe(0x44332299);
    m.write8(SECOND_AT[0] + 2, 0x55);
    expect(run(SECOND_AT[0])).toMatchObject({ eax: 0x55332299, edx: RUNS });
  });

  if (threshold > 0)
    it('is entered in translated code', () => {
      const { vm, run } = machine(threshold);
      for (let n = 0; n < 1000 && vm.counters()['regions'] === 0; n++) run(SECOND_AT[0]);
      expect(run(SECOND_AT[0]).lookups).toBeLessThan(100);
    });
});
