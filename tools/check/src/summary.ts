// What the stages of a test run count, and the text at its end.

/** One test or check that did not simply pass. */
export interface Named {
  readonly name: string;
  /** Why: the reason of a skipped one, the message of a failed one. May be empty. */
  readonly note: string;
}

/** What one stage found. */
export interface Counts {
  readonly passed: number;
  readonly failed: readonly Named[];
  readonly skipped: readonly Named[];
}

/** Nothing counted. */
export const NONE: Counts = { passed: 0, failed: [], skipped: [] };

/** One check that passed. */
export const PASSED: Counts = { ...NONE, passed: 1 };

/** One check that failed. */
export function failure(name: string, note: string): Counts {
  return { ...NONE, failed: [{ name, note }] };
}

/** The sum of several counts. */
export function add(parts: readonly Counts[]): Counts {
  return {
    passed: parts.reduce((n, c) => n + c.passed, 0),
    failed: parts.flatMap((c) => c.failed),
    skipped: parts.flatMap((c) => c.skipped),
  };
}

function list(title: string, rows: readonly Named[], empty: string): string[] {
  if (rows.length === 0) return [];
  return [title, ...rows.map((r) => `  ${r.name}${r.note === '' ? empty : `: ${firstLine(r.note)}`}`)];
}

function firstLine(text: string): string {
  return text.split('\n')[0] as string;
}

/** The lines that end a run. The last is `N passed, N failed`, with `, N skipped` if any were. */
export function summary(c: Counts): string[] {
  const tail = `${c.passed} passed, ${c.failed.length} failed`;
  return [
    ...list('Skipped:', c.skipped, ' (no reason given)'),
    ...list('Failed:', c.failed, ''),
    '',
    c.skipped.length === 0 ? tail : `${tail}, ${c.skipped.length} skipped`,
  ];
}
