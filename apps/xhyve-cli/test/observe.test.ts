import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseArgs } from '../src/args.ts';
import { resolveMachine } from '../src/machine.ts';
import { Profile, ratesLine, Symbols, startProfile, TraceFile, watchRates } from '../src/observe.ts';
import type { RunnablePc } from '../src/run.ts';
import { EVERYTHING } from './helpers.ts';

let dir = '';
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'xhyve-observe-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const pc = (o: Partial<RunnablePc>): RunnablePc => ({
  run: () => new Promise(() => {}),
  powerButton: () => false,
  forceOff: () => {},
  close: async () => {},
  stats: () => ({}),
  ...o,
});
const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

describe('--stats=SECONDS', () => {
  it('gives rates between two readings', () => {
    const before = { 'cpu.instructions': 1e6, 'cpu.regions': 5, 'loop.exitHalt': 1, 'loop.exitBudget': 1 };
    const now = { 'cpu.instructions': 201e6, 'cpu.regions': 25, 'loop.exitHalt': 3, 'loop.exitBudget': 9 };
    expect(ratesLine(before, now, 2, 4)).toBe(
      'stats 4.0 s, 100.0 MIPS, decoded 0 blocks/s, regions 10/s (25, 0 ms/s), lookups 0/s, TLB fills 0/s, slow accesses 0/s, exits 5/s, interrupts 0/s',
    );
  });

  it('prints them until it is stopped', async () => {
    let n = 0;
    const lines: string[] = [];
    const watch = watchRates(pc({ stats: () => ({ 'cpu.instructions': n++ * 1e6 }) }), 0.01, (l) => lines.push(l));
    while (lines.length < 3) await wait(5);
    watch.stop();
    const seen = lines.length;
    await wait(30);
    expect(lines.length).toBe(seen);
    expect(lines[1]).toMatch(/^stats \d+\.\d s, [1-9]\d*\.\d MIPS/u);
  });
});

describe('--profile', () => {
  const map = Symbols.parse('ffffffff81000000 T _text\nffffffff81000100 t work\nnonsense\nffffffff81000200 D end\n');

  it('finds the symbol at or below an address, if it is near', () => {
    expect(map.size).toBe(3);
    expect(map.at(0xffffffff81000100n)).toEqual({ name: 'work', offset: 0 });
    expect(map.at(0xffffffff810001ffn)).toEqual({ name: 'work', offset: 0xff });
    expect(map.at(0xffffffff80ffffffn)).toBeNull();
    expect(map.at(0xffffffff82000000n)).toBeNull();
  });

  it('adds up functions and addresses; sleep is apart', () => {
    const p = new Profile();
    for (let i = 0; i < 6; i++) p.add([0xffffffff81000110n, null]);
    p.add([0xffffffff81000120n, 0x1000n]);
    expect(p.report(map).split('\n')).toEqual([
      '14 samples, 6 of them asleep; shares are of the other 8',
      '',
      'functions',
      ' 87.50 %       7  work',
      ' 12.50 %       1  (no symbol)',
      '',
      'addresses',
      ' 75.00 %       6  ffffffff81000110 work+0x10',
      ' 12.50 %       1  ffffffff81000120 work+0x20',
      ' 12.50 %       1  0000000000001000',
      '',
    ]);
  });

  it('samples a machine and writes its report when stopped', async () => {
    const file = join(dir, 'profile');
    const running = startProfile(pc({ positions: () => [0x1234n] }), file, null);
    await wait(60);
    running.stop();
    expect(readFileSync(file, 'utf8')).toMatch(/100\.00 % +\d+ {2}0000000000001234\n/u);
  });

  it('refuses symbol files that are none', () => {
    const file = join(dir, 'map');
    writeFileSync(file, 'hello\n');
    expect(() => startProfile(pc({}), join(dir, 'p'), file)).toThrow(/no line is 'address type name'/u);
    expect(() => startProfile(pc({}), join(dir, 'p'), join(dir, 'none'))).toThrow(/^--symbols .*none/u);
  });
});

it('--trace: all blocks are in the file, and a file that cannot be written is named', () => {
  const file = join(dir, 'trace');
  const t = new TraceFile(file);
  for (let i = 0; i < 100_000; i++) t.add(`block ${i}\n  nop`);
  t.close();
  const lines = readFileSync(file, 'utf8').split('\n');
  expect([lines.length, lines[0], lines.at(-3)]).toEqual([200_001, 'block 0', 'block 99999']);
  expect(() => new TraceFile(join(dir, 'no', 'file'))).toThrow(/^--trace /u);
});

describe('words', () => {
  const parse = (...words: string[]) => parseArgs([...words, '-f', 'kexec,k'], { readText: () => '' });
  it('are understood', () => {
    expect(parse('--stats')).toMatchObject({ stats: 0 });
    expect(parse('--stats=2.5')).toMatchObject({ stats: 2.5 });
    expect(parse('--trace', 't', '--profile=p', '--symbols', 's')).toMatchObject({
      trace: 't',
      profile: 'p',
      symbols: 's',
    });
    expect(parse()).toMatchObject({ stats: null, trace: null, profile: null, symbols: null });
  });
  it.each([['--stats='], ['--stats=x'], ['--stats=-1'], ['--trace=']])('%s is refused', (word) => {
    expect(() => parse(word)).toThrow(/^--/u);
  });
  it.each([
    ['on', undefined],
    ['off', 0],
    ['500', 500],
  ])('-o translator=%s', (text, threshold) => {
    const i = parse('-o', `translator=${text}`);
    if (i.kind !== 'run') throw new Error('no machine');
    expect(resolveMachine(i, EVERYTHING).translatorThreshold).toBe(threshold);
  });
  it('-o translator=maybe is refused', () => {
    const i = parse('-o', 'translator=maybe');
    if (i.kind !== 'run') throw new Error('no machine');
    expect(() => resolveMachine(i, EVERYTHING)).toThrow(/'maybe' is not on, off or a number of runs/u);
  });
});
