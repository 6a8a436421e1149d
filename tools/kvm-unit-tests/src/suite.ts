// Runs entries one after the other and compares.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Entry, Result } from './list.ts';
import { type RunEnd, runTest } from './machine.ts';

/** Where the built programs are; null: not there. */
export interface Builds {
  /** Directory of the 64-bit build's `.flat` files. */
  readonly x86_64: string | null;
  /** Directory of the 32-bit build's. */
  readonly i386: string | null;
}

/** What came of one entry. */
export interface Outcome {
  readonly entry: Entry;
  /** Null: not run. */
  readonly result: Result | null;
  /** Subtests by their own report. */
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** Wall time of the last run. */
  readonly seconds: number;
  /** What is not as expected; empty if all is. Also says why an entry was not run. */
  readonly surprises: readonly string[];
  /** End of the output, for reports. */
  readonly tail: string;
}

/** Exit values: 0 pass, 1 fail, 38 skip (77 as QEMU's exit status), 63 abort (127). */
export function resultOf(end: RunEnd): Result {
  switch (end.exit) {
    case 0:
      return 'pass';
    case 1:
      return 'fail';
    case 38:
      return 'skip';
    case 63:
      return 'abort';
    default:
      return end.reason === 'timeout' ? 'timeout' : 'died';
  }
}

/** Subtests whose lines begin with `word`. */
function subtests(output: string, word: string): string[] {
  return [...output.matchAll(new RegExp(`^\\s*${word}: (.*)$`, 'gm'))].map((m) => (m[1] as string).trim());
}

/** What is not as the entry says. */
export function compare(entry: Entry, end: RunEnd): string[] {
  const out: string[] = [];
  const want = entry.expect ?? 'pass';
  const result = resultOf(end);
  if (result !== want) out.push(`${result}, expected ${want}${end.detail === '' ? '' : ` (${end.detail})`}`);
  const passed = subtests(end.output, 'PASS').length;
  if (passed < (entry.passes ?? 0)) out.push(`${passed} subtests passed, expected ${entry.passes}`);
  const failed = subtests(end.output, 'FAIL');
  const known = entry.fails ?? [];
  for (const f of failed) if (!known.some((k) => f.startsWith(k))) out.push(`FAIL: ${f}`);
  for (const k of known) if (!failed.some((f) => f.startsWith(k))) out.push(`now passes: ${k}`);
  return out;
}

/** File of an entry; null: its build is not there. Programs may come as `.flat` or `.elf`. */
export function fileOf(entry: Entry, builds: Builds): string | null {
  const dir = entry.bits === 32 ? builds.i386 : builds.x86_64;
  if (dir === null) return null;
  for (const file of [entry.file, entry.file.replace(/\.flat$/, '.elf')]) {
    const path = join(dir, file);
    if (existsSync(path)) return path;
  }
  return null;
}

/**
 * Runs one entry.
 * @param onOutput sees the console as it comes
 * @param threshold of the processor's translator; default its own
 * @param threads vCPUs get threads of their own
 */
export async function runEntry(
  entry: Entry,
  builds: Builds,
  onOutput?: (text: string) => void,
  threshold?: number,
  threads = false,
): Promise<Outcome> {
  const path = fileOf(entry, builds);
  if (path === null || entry.omit === true) {
    const why = path === null ? `no ${entry.file} of the ${entry.bits === 32 ? 'i386' : 'x86_64'} build` : entry.reason;
    return { entry, result: null, passed: 0, failed: 0, skipped: 0, seconds: 0, surprises: [why ?? ''], tail: '' };
  }
  for (let attempt = 1; ; attempt++) {
    const end = await runTest({
      path,
      args: entry.args ?? '',
      cpus: entry.cpus ?? 1,
      hide: entry.hide ?? [],
      vendor: entry.vendor ?? 'intel',
      limitSeconds: entry.limit ?? 60,
      ...(threshold === undefined ? {} : { threshold }),
      threads: threads && (entry.cpus ?? 1) > 1,
      ...(onOutput === undefined ? {} : { onOutput }),
    });
    const surprises = compare(entry, end);
    if (surprises.length > 0 && entry.timing === true && attempt < 3) continue;
    return {
      entry,
      result: resultOf(end),
      passed: subtests(end.output, 'PASS').length,
      failed: subtests(end.output, 'FAIL').length,
      skipped: subtests(end.output, 'SKIP').length,
      seconds: end.seconds,
      surprises,
      tail: end.output.split('\n').slice(-12).join('\n'),
    };
  }
}

/** One line of the table. */
export function line(o: Outcome): string {
  const state = o.result === null ? 'NOT RUN' : o.surprises.length > 0 ? 'SURPRISE' : 'ok';
  const counts = o.result === null ? '' : `${o.passed}/${o.failed}/${o.skipped}`;
  const note = o.surprises.length > 0 ? o.surprises.slice(0, 3).join('; ') : (o.entry.reason ?? '');
  return `${o.entry.name.padEnd(44)} ${state.padEnd(9)} ${(o.result ?? '').padEnd(8)} ${counts.padEnd(10)} ${o.seconds.toFixed(1).padStart(6)}  ${note}`.trimEnd();
}
