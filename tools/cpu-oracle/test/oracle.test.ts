import { describe, expect, it } from 'vitest';
import { compare } from '../src/compare.ts';
import { Generator, type Program, rowsOf } from '../src/generate.ts';
import * as L from '../src/layout.ts';
import { whyNotNative } from '../src/native.ts';
import { Oracle } from '../src/oracle.ts';

const why = whyNotNative();

/** Runs a sample and fails with the first difference in full. */
function agree(o: ConstructorParameters<typeof Oracle>[0], instructions: number): Oracle {
  const oracle = new Oracle(o);
  try {
    oracle.run(instructions);
  } finally {
    oracle.close();
  }
  const texts = [...oracle.findings.values()].map((f) => `${f.kind} (${oracle.countOf(f.kind)} times)\n${f.text}`);
  expect(texts.slice(0, 5).join('\n\n')).toBe('');
  expect(oracle.differing).toBe(0);
  return oracle;
}

/** Rows that both sides have and no exclusion names, and that no program of the sample used. */
function missed(o: Oracle): string[] {
  const rows = o.uncovered().filter((r) => o.runnable(r));
  return rows.map((r) => `${r.spec.encoding} ${r.mnemonic}`);
}

describe.skipIf(why !== '')(`the software CPU against this processor${why === '' ? '' : ` (skipped: ${why})`}`, () => {
  it('agrees on integer instructions', { timeout: 60_000 }, () => {
    const o = agree({ seed: 1, families: ['int'] }, 100_000);
    console.log(o.coverageTable().join('\n'));
    expect(missed(o)).toEqual([]);
  });
  it('agrees on x87, MMX and SSE instructions', { timeout: 60_000 }, () => {
    const o = agree({ seed: 2, families: ['x87', 'mmx', 'sse'] }, 110_000);
    console.log(o.coverageTable().join('\n'));
    expect(missed(o)).toEqual([]);
  });
  it('agrees on AVX, AVX2 and FMA instructions', { timeout: 60_000 }, () => {
    const o = agree({ seed: 5, families: ['avx'] }, 80_000);
    expect(missed(o)).toEqual([]);
  });
  it('agrees when code is translated', { timeout: 60_000 }, () => {
    agree({ seed: 3, families: ['int', 'x87', 'mmx', 'sse', 'avx'], threshold: 1, batch: 1000 }, 12_000);
  });
  it('agrees when some of it is', { timeout: 60_000 }, () => {
    agree({ seed: 6, families: ['int', 'x87', 'mmx', 'sse', 'avx'], threshold: 'random', batch: 1000 }, 8_000);
  });
  it('finds a difference when there is one', { timeout: 60_000 }, () => {
    // SALC is given other bytes on the way to the processor: STC in its place.
    const oracle = new Oracle({ seed: 4, families: ['int'], op: 'SALC', longest: 1, batch: 50, tamper: [0xd6, 0xf9] });
    oracle.run(50);
    oracle.close();
    expect(oracle.differing).toBeGreaterThan(10);
    expect([...oracle.findings.values()][0]?.text).toMatch(/salc/);
  });
  it('knows a program that ends on one side only from one that ends on neither', { timeout: 60_000 }, () => {
    const rows = rowsOf(['int']).filter((r) => r.mnemonic === 'STC');
    const record = new Uint8Array(L.REC_SIZE);
    const program = new Generator({ rows, features: new Set(), vendor: 'Intel' }).make(
      1,
      record,
      rows[0] as (typeof rows)[0],
    ) as Program;
    record.set([0xeb, 0xfe], L.REC.code); // JMP to itself
    for (const tamper of [undefined, [0xeb, 0xcc] as const]) {
      const oracle = new Oracle({ seed: 1, families: ['int'], ...(tamper === undefined ? {} : { tamper }) });
      const { native, soft } = oracle.single(record);
      oracle.close();
      const differences = compare(program, native, soft).map((d) => d.what);
      expect(differences).toEqual(tamper === undefined ? [] : ['trap', 'rip']);
    }
  });
});
