// Runs this package's tests with the library built for a sanitizer: node scripts/sanitize.ts address|thread|undefined.
// Wants GCC's runtime (libasan, libtsan, libubsan). Node itself is not instrumented: what the sanitizers see is the library,
// its threads and everything it calls. The exit status is that of the tests; a report of a sanitizer is a failure.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { buildNative } from './native-build.ts';

const KINDS = {
  // Leaks are V8's business: it lets go of nothing at the end. WebAssembly handles its own segmentation faults.
  address: ['libasan.so', 'ASAN_OPTIONS', 'detect_leaks=0:handle_segv=0:allow_user_segv_handler=1'],
  // Calls from Node's own code are not looked at: its atomics are invisible. There are no suppressions for the library.
  thread: ['libtsan.so', 'TSAN_OPTIONS', 'ignore_noninstrumented_modules=1:report_signal_unsafe=0:history_size=4'],
  undefined: ['libubsan.so', 'UBSAN_OPTIONS', 'print_stacktrace=1'],
} as const;

const kind = process.argv[2] as keyof typeof KINDS;
const row = KINDS[kind];
if (row === undefined) throw new Error(`node scripts/sanitize.ts ${Object.keys(KINDS).join('|')}`);
const [library, variable, options] = row;
const found = spawnSync('gcc', [`-print-file-name=${library}`], { encoding: 'utf8' }).stdout.trim();
if (!found.includes('/')) throw new Error(`no ${library}: install GCC's sanitizers`);

const folder = mkdtempSync(join(tmpdir(), 'hyve-sanitize-'));
try {
  const target = join(folder, 'hyve-native.node');
  const built = buildNative({ sanitize: kind, target });
  console.log(built.detail);
  if (!built.ok) process.exit(1);
  const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
  const log = join(folder, 'report');
  const env = {
    ...process.env,
    HYVE_NATIVE_LIBRARY: target,
    LD_PRELOAD: found,
    [variable]: `${options}:log_path=${log}`,
  };
  const root = dirname(import.meta.dirname);
  const args = [vitest, 'run', '--pool=forks', '--testTimeout=120000', ...process.argv.slice(3)];
  const r = spawnSync(process.execPath, args, { cwd: root, env, stdio: 'inherit' });
  const reports = readdirSync(folder).filter((f) => f.startsWith('report'));
  for (const f of reports) console.log(readFileSync(join(folder, f), 'utf8'));
  console.log(`${kind}: ${reports.length} reports`);
  process.exitCode = r.status === 0 && reports.length === 0 ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
