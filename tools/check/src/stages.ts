// The stages of a test run, in order.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkPacks } from './pack.ts';
import { pnpm, ROOT, run } from './run.ts';
import { add, type Counts, failure, PASSED } from './summary.ts';

/** One stage. */
export interface Stage {
  readonly name: string;
  readonly about: string;
  run(extra: readonly string[]): Promise<Counts>;
}

function program(name: string, about: string, minutes: number, words: () => readonly string[]): Stage {
  return {
    name,
    about,
    run: async () => {
      const { status } = await run(words(), { minutes });
      return status === 0 ? PASSED : failure(name, status === 124 ? 'ran out of time' : `exit ${status}`);
    },
  };
}

function vitest(name: string, about: string, minutes: number, config: readonly string[]): Stage {
  return {
    name,
    about,
    run: async (extra) => {
      const folder = mkdtempSync(join(tmpdir(), 'hyve-test-'));
      const report = join(folder, 'report.json');
      try {
        const reporters = ['--reporter=default', `--reporter=${join(ROOT, 'tools/check/src/reporter.ts')}`];
        const { status } = await run(['vitest', 'run', ...config, ...reporters, ...extra], {
          minutes,
          env: { HYVE_TEST_REPORT: report },
        });
        const counts = readReport(report);
        if (counts === null) return failure(name, status === 124 ? 'ran out of time' : `vitest ended with ${status}`);
        // A run that fails without a failed test (a threshold, a crash after the report) must not look good.
        return status !== 0 && counts.failed.length === 0
          ? add([counts, failure(name, `vitest ended with ${status}`)])
          : counts;
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  };
}

function readReport(file: string): Counts | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Counts;
  } catch {
    return null;
  }
}

const tsc = ['node', 'node_modules/typescript/bin/tsc'];

/** In the order in which they run. */
export const STAGES: readonly Stage[] = [
  program('build', 'types of the sources, and dist', 5, () => [...pnpm(), 'exec', 'turbo', 'run', 'build']),
  program('types', 'types of the tests', 5, () => [...tsc, '-p', 'tsconfig.tests.json']),
  program('lint', 'formatting and lint', 2, () => ['biome', 'check', '.']),
  program('layers', 'who imports whom', 1, () => ['node', 'tools/layer-check/src/main.ts']),
  program('docs', 'API reference; undocumented exports fail', 5, () => ['node', 'tools/docs/build.ts']),
  { name: 'pack', about: 'packages as they would be published', run: checkPacks },
  vitest('unit', 'unit tests of every package', 12, []),
  vitest('slow', 'end-to-end tests, one after the other', 18, ['--config', 'vitest.slow.config.ts']),
];
