// A vitest reporter that writes what it counted to the file that HYVE_TEST_REPORT names, beside whatever else reports.
import { writeFileSync } from 'node:fs';
import type { Reporter, TestCase, TestModule } from 'vitest/node';
import type { Counts, Named } from './summary.ts';

/** Counts tests, broken files and errors outside tests. */
export default class CountingReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly { message: string }[]): void {
    const file = process.env['HYVE_TEST_REPORT'];
    if (file !== undefined) writeFileSync(file, JSON.stringify(count(modules, unhandled)));
  }
}

function nameOf(module: TestModule, test: TestCase | null): string {
  const where = `${module.project.name} ${module.relativeModuleId.replace(/^.*?(test\/)/, '$1')}`;
  return test === null ? where : `${where} > ${test.fullName}`;
}

/** Counts of a finished run. */
export function count(modules: readonly TestModule[], unhandled: readonly { message: string }[]): Counts {
  let passed = 0;
  const failed: Named[] = unhandled.map((e) => ({ name: 'error outside any test', note: e.message }));
  const skipped: Named[] = [];
  for (const module of modules) {
    const errors = [...module.errors(), ...[...module.children.allSuites()].flatMap((s) => s.errors())];
    for (const e of errors) failed.push({ name: nameOf(module, null), note: e.message });
    for (const test of module.children.allTests()) {
      const result = test.result();
      if (result.state === 'passed') passed++;
      else if (result.state === 'failed') {
        failed.push({ name: nameOf(module, test), note: result.errors[0]?.message ?? '' });
      } else if (result.state === 'skipped') {
        skipped.push({ name: nameOf(module, test), note: result.note ?? reasonIn(test.fullName) });
      } else failed.push({ name: nameOf(module, test), note: 'never ended' });
    }
  }
  return { passed, failed, skipped };
}

/** Tests chosen before they run (`skipIf`) have no note; they give their reason in brackets, `(needs iasl)`. */
export function reasonIn(name: string): string {
  return /\(((?:needs|skipped|only|where|without)\b[^)]*)\)/.exec(name)?.[1] ?? '';
}
