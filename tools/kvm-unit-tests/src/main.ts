// Command line: node src/main.ts [--quick] [--list] [--verbose] [--threshold N|random] [NAME…]
import { existsSync } from 'node:fs';
import { ENTRIES, type Entry } from './list.ts';
import { type Builds, line, type Outcome, runEntry } from './suite.ts';

const USAGE = `Usage: node src/main.ts [OPTION]… [NAME]…
Runs kvm-unit-tests, built elsewhere, on the board in this process, and compares the results with src/list.ts.

  --dir DIR     .flat files of the x86_64 build; default $HYVE_KVM_UNIT_TESTS
  --dir32 DIR   .flat files of the i386 build; default $HYVE_KVM_UNIT_TESTS_I386
  --quick       leave out what takes long
  --threads     give each vCPU a thread of its own
  --verbose     show the programs' output
  --threshold N executions after which the processor translates code; 0 never, "random" another one for each entry
  --seed N      of the random ones; default 1
  --list        show the entries and what is expected of them
  NAME          run these entries only

Exit status: 0 all as expected, 1 something is not, 2 nothing could be run.`;

interface Options {
  dir: string | null;
  dir32: string | null;
  quick: boolean;
  verbose: boolean;
  threads: boolean;
  list: boolean;
  help: boolean;
  threshold: number | 'random' | null;
  seed: number;
  names: string[];
}

function parse(argv: readonly string[], env: Readonly<Record<string, string | undefined>>): Options {
  const o: Options = {
    dir: env['HYVE_KVM_UNIT_TESTS'] ?? null,
    dir32: env['HYVE_KVM_UNIT_TESTS_I386'] ?? null,
    quick: false,
    verbose: false,
    threads: false,
    list: false,
    help: false,
    threshold: null,
    seed: 1,
    names: [],
  };
  for (let i = 0; i < argv.length; i++) {
    const a = argv[i] as string;
    if (a === '--dir') o.dir = argv[++i] ?? null;
    else if (a === '--dir32') o.dir32 = argv[++i] ?? null;
    else if (a === '--quick') o.quick = true;
    else if (a === '--verbose') o.verbose = true;
    else if (a === '--threads') o.threads = true;
    else if (a === '--list') o.list = true;
    else if (a === '--help') o.help = true;
    else if (a === '--threshold') o.threshold = thresholdOf(argv[++i]);
    else if (a === '--seed') o.seed = Number(argv[++i]);
    else if (a.startsWith('-')) throw new Error(`unknown option ${a}`);
    else o.names.push(a);
  }
  return o;
}

function thresholdOf(text: string | undefined): number | 'random' {
  if (text === 'random') return text;
  const n = Number(text);
  if (!Number.isInteger(n) || n < 0) throw new Error(`--threshold ${text ?? ''}: expected a number or "random"`);
  return n;
}

/** Thresholds from 1 to 4096, small ones as often as large ones. */
function* thresholds(seed: number): Generator<number> {
  for (let s = seed >>> 0; ; ) {
    s = (Math.imul(s, 0x19660d) + 0x3c6ef35f) >>> 0;
    yield Math.floor(2 ** ((s / 2 ** 32) * 12));
  }
}

function describe(e: Entry): string {
  const how = [e.bits === 32 ? 'i386' : '', (e.cpus ?? 1) > 1 ? `${e.cpus} CPUs` : '', e.args ?? ''].filter(
    (s) => s !== '',
  );
  return `${e.name.padEnd(44)} ${(e.expect ?? 'pass').padEnd(8)} ${how.join(', ').padEnd(24)} ${e.reason ?? ''}`.trimEnd();
}

async function main(argv: readonly string[]): Promise<number> {
  const o = parse(argv, process.env);
  if (o.help) {
    console.log(USAGE);
    return 0;
  }
  for (const n of o.names) if (!ENTRIES.some((e) => e.name === n)) throw new Error(`no entry ${n}; --list shows them`);
  const chosen = ENTRIES.filter((e) =>
    o.names.length === 0 ? !(o.quick && e.slow === true) : o.names.includes(e.name),
  );
  if (o.list) {
    for (const e of chosen) console.log(describe(e));
    return 0;
  }
  const builds: Builds = { x86_64: o.dir, i386: o.dir32 };
  for (const d of [o.dir, o.dir32]) if (d !== null && !existsSync(d)) throw new Error(`no directory ${d}`);
  if (o.dir === null && o.dir32 === null) throw new Error('no directory: set HYVE_KVM_UNIT_TESTS or use --dir');
  console.log(
    `${'entry'.padEnd(44)} ${'state'.padEnd(9)} ${'result'.padEnd(8)} ${'p/f/s'.padEnd(10)} ${'time'.padStart(6)}`,
  );
  const drawn = thresholds(o.seed);
  const outcomes: Outcome[] = [];
  for (const e of chosen) {
    const threshold = o.threshold === 'random' ? (drawn.next().value as number) : o.threshold;
    const show = o.verbose ? (t: string): boolean => process.stdout.write(t) : undefined;
    const r = await runEntry(e, builds, show, threshold ?? undefined, o.threads);
    outcomes.push(r);
    console.log(o.threshold === 'random' ? `${line(r)}  (threshold ${threshold})` : line(r));
  }
  const ran = outcomes.filter((r) => r.result !== null);
  const wrong = ran.filter((r) => r.surprises.length > 0);
  const count = (result: string): number => ran.filter((r) => r.result === result).length;
  for (const r of wrong) console.log(`\n--- ${r.entry.name}: ${r.surprises.join('; ')}\n${r.tail}`);
  console.log(
    `\n${ran.length} run: ${count('pass')} pass, ${count('fail')} fail, ${count('skip')} skip themselves, ` +
      `${ran.length - count('pass') - count('fail') - count('skip')} other; ${wrong.length} not as expected; ` +
      `${outcomes.length - ran.length} not run`,
  );
  if (ran.length === 0) return 2;
  return wrong.length > 0 ? 1 : 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (e) {
  console.error(e instanceof Error ? e.message : e);
  process.exitCode = 2;
}
