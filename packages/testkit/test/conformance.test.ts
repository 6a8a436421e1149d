// The suite itself, without an engine: that it is well formed, and that an engine that does nothing right fails it.
import { describe, expect, it } from 'vitest';
import { Code } from '../src/conformance/code.ts';
import { CONFORMANCE_CASES, vcpuConformance } from '../src/conformance/index.ts';
import * as api from '../src/index.ts';
import { hlt, scriptedHypervisor } from '../src/index.ts';

describe('the conformance suite', () => {
  it('has a name of its own for every case', () => {
    const names = CONFORMANCE_CASES.map((c) => c.name);
    expect(new Set(names).size).toBe(names.length);
    expect(names.length).toBeGreaterThan(40);
  });

  it('fails for an engine that only halts', () => {
    for (const c of CONFORMANCE_CASES) expect(() => c.run(scriptedHypervisor(() => [hlt()])), c.name).toThrow();
  });

  it('wants known gaps to exist and to fail', () => {
    const ran: [string, () => void][] = [];
    const framework = {
      describe: (_: string, f: () => void) => f(),
      it: (n: string, f: () => void) => ran.push([n, f]),
    };
    const engine = () => scriptedHypervisor(() => [hlt()]);
    expect(() => vcpuConformance(engine, framework, { knownGaps: { nothing: 'x' } })).toThrow(/names no case/);
    const name = CONFORMANCE_CASES[0]?.name as string;
    vcpuConformance(engine, framework, { knownGaps: { [name]: 'it only halts' } });
    const [title, body] = ran[0] as [string, () => void];
    expect(title).toContain('known gap: it only halts');
    expect(body).not.toThrow();
    expect(ran).toHaveLength(CONFORMANCE_CASES.length);
  });
});

describe('Code', () => {
  it('fills in labels, near and far, both ways', () => {
    const c = new Code(0x1000, 32).label('a').b(0xeb).rel(1, 'b').n(4, 'b').label('b').b(0xe9).rel(4, 'a');
    expect([...c.bytes()]).toEqual([0xeb, 4, 6, 0x10, 0, 0, 0xe9, 0xf5, 0xff, 0xff, 0xff]);
    expect(() => new Code(0, 16).b(0xe9).rel(2, 'x').bytes()).toThrow(/no label x/);
  });

  it('encodes absolute addresses for each code size', () => {
    const of = (bits: 16 | 32 | 64): number[] => [...new Code(0, bits).store32(0x6000, 3).bytes()];
    expect(of(16)).toEqual([0x66, 0x89, 0x1e, 0x00, 0x60]);
    expect(of(32)).toEqual([0x89, 0x1d, 0x00, 0x60, 0, 0]);
    expect(of(64)).toEqual([0x89, 0x1c, 0x25, 0x00, 0x60, 0, 0]);
  });
});

describe('exports', () => {
  it('are these', () => {
    expect(Object.keys(api).sort()).toEqual([
      ...[
        'DESC_INDIRECT',
        'DESC_NEXT',
        'DESC_WRITE',
        'ManualClock',
        'MemoryDisk',
        'MockCpu',
        'NullDisk',
        'PciSocket',
        'RecordingIrq',
        'RingDriver',
        'ScriptedVcpu',
      ],
      ...[
        'checkRegisters',
        'cli',
        'codeOf',
        'createRig',
        'hlt',
        'input',
        'jump',
        'mmioRead',
        'mmioWrite',
        'out',
        'pause',
      ],
      ...['scriptedHypervisor', 'settle', 'sti', 'tripleFault'],
    ]);
  });
});
