// The conformance suite for CPU engines: the same cases for every implementation of core's Hypervisor.
import type { Hypervisor } from '@hyve/core';
import type { ConformanceCase } from './case.ts';
import { DEBUG_CASES } from './debug.ts';
import { INTERRUPT_CASES } from './interrupts.ts';
import { LONG_CASES } from './long.ts';
import { PROTECTED_CASES } from './protected.ts';
import { REAL_CASES } from './real.ts';

export { INTERRUPT_CASE_NAMES } from './interrupts.ts';

/** Every case, in an order that goes from simple to complex. */
export const CONFORMANCE_CASES: readonly ConformanceCase[] = [
  ...REAL_CASES,
  ...PROTECTED_CASES,
  ...LONG_CASES,
  ...DEBUG_CASES,
  ...INTERRUPT_CASES,
];

/** What the suite needs of a test framework; vitest, node:test and mocha have it. */
export interface TestFramework {
  /** Opens a group. */
  describe(name: string, body: () => void): unknown;
  /** Declares a test. */
  it(name: string, body: () => void): unknown;
}

/** Options of {@link vcpuConformance}. */
export interface ConformanceOptions {
  /**
   * Cases that this engine cannot pass, by name, with the reason. They are run nevertheless and must still fail, so
   * that the list cannot grow stale.
   */
  readonly knownGaps?: Readonly<Record<string, string>>;
}

/**
 * Declares one test per case.
 * @param makeHypervisor gives an engine; called once per case
 * @example
 * import { describe, it } from 'vitest';
 * vcpuConformance(() => new SoftCpu(), { describe, it });
 */
export function vcpuConformance(
  makeHypervisor: () => Hypervisor,
  framework: TestFramework,
  options: ConformanceOptions = {},
): void {
  const gaps = options.knownGaps ?? {};
  for (const name of Object.keys(gaps))
    if (!CONFORMANCE_CASES.some((c) => c.name === name)) throw new Error(`knownGaps names no case: ${name}`);
  framework.describe('vCPU conformance', () => {
    for (const c of CONFORMANCE_CASES) {
      const reason = gaps[c.name];
      if (reason === undefined) framework.it(c.name, () => c.run(makeHypervisor()));
      else
        framework.it(`${c.name} (known gap: ${reason})`, () => {
          try {
            c.run(makeHypervisor());
          } catch {
            return;
          }
          throw new Error('passes now: take it out of knownGaps');
        });
    }
  });
}
