// Command line: node tools/cpu-oracle/src/main.ts [options]
//   --count N       instructions to run; default 200000
//   --seed N        default 1; the same seed runs the same programs
//   --families a,b  int, x87, mmx, sse, avx; default all
//   --op NAME       rows of one operation only
//   --longest N     most instructions per program; default 8
//   --threshold N   executions before the software CPU translates a block; default 0: interpreter only. With 1 every
//                   program is run once by the interpreter and once translated, and the second run is compared.
//                   `random`: 1 to 4, and programs run up to so often before the run that counts
//   --skip A,B      operations to leave out
//   --show N        differences to print in full; default 20
//   --threads N     processes to spread the work over; default 1
//   --coverage      print how often each row ran, and what was excluded
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';
import { AVOIDED, EXCLUDED_OPS, EXCLUSIONS } from './exclusions.ts';
import { ENDS, FAULTS } from './leeway.ts';
import { whyNotNative } from './native.ts';
import { Oracle } from './oracle.ts';

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '200000' },
    seed: { type: 'string', default: '1' },
    op: { type: 'string' },
    families: { type: 'string', default: 'int,x87,mmx,sse,avx' },
    skip: { type: 'string', default: '' },
    longest: { type: 'string' },
    show: { type: 'string', default: '20' },
    threshold: { type: 'string', default: '0' },
    threads: { type: 'string', default: '1' },
    coverage: { type: 'boolean', default: false },
  },
});

/** Starts this program again `n` times, each with a seed of its own and its share of the count. */
async function spread(n: number): Promise<number> {
  const script = process.argv[1] as string;
  const codes = Array.from({ length: n }, (_, i) => {
    const share = [`--seed=${Number(values.seed) * n + i}`, `--count=${Math.ceil(Number(values.count) / n)}`];
    const args = [...process.execArgv, script, ...process.argv.slice(2), '--threads=1', ...share];
    return new Promise<number>((done) => {
      spawn(process.execPath, args, { stdio: 'inherit' }).on('close', (code) => done(code ?? 1));
    });
  });
  return Math.max(...(await Promise.all(codes)));
}

function compareCpus(): number {
  const oracle = new Oracle({
    seed: Number(values.seed),
    families: values.families.split(','),
    skip: values.skip.split(','),
    threshold: values.threshold === 'random' ? 'random' : Number(values.threshold),
    ...(values.op === undefined ? {} : { op: values.op }),
    ...(values.longest === undefined ? {} : { longest: Number(values.longest) }),
  });
  const start = performance.now();
  oracle.run(Number(values.count));
  const seconds = (performance.now() - start) / 1000;
  oracle.close();
  const found = [...oracle.findings.values()].sort((a, b) => oracle.countOf(b.kind) - oracle.countOf(a.kind));
  for (const f of found.slice(0, Number(values.show)))
    console.log(`--- ${f.kind} (${oracle.countOf(f.kind)} times)\n${f.text}`);
  if (found.length > 0) console.log(`=== ${found.length} kinds of differences`);
  for (const f of found) console.log(`${String(oracle.countOf(f.kind)).padStart(6)} ${f.kind}`);
  if (values.coverage) {
    for (const line of oracle.coverageTable()) console.log(line);
    console.log('Left out:');
    for (const e of EXCLUSIONS) console.log(`  ${e.name} (${oracle.exclusions.get(e.name) ?? 0} times): ${e.why}`);
    for (const [name, why] of Object.entries(EXCLUDED_OPS)) console.log(`  ${name}: ${why}`);
    for (const text of AVOIDED) console.log(`  ${text}`);
    console.log('Not compared:');
    for (const f of FAULTS) console.log(`  ${f.parts.join(', ')} where ${f.ops.source} faults: ${f.why}`);
    for (const e of ENDS) console.log(`  ${e.why}`);
  }
  const [generating, native, soft, comparing] = oracle.times.map((ms) => `${(ms / 1000).toFixed(1)} s`);
  const traps = [...oracle.traps].sort((a, b) => b[1] - a[1]).map(([v, c]) => `${v}: ${c}`);
  console.log(
    `seed ${values.seed}: ${oracle.instructions} instructions in ${oracle.programs} programs, ${seconds.toFixed(1)} s: ` +
      `generating ${generating}, processor ${native}, software ${soft}, comparing ${comparing}; ${oracle.differing} programs differ`,
  );
  console.log(`traps: ${traps.join(', ')}`);
  console.log(`rows: ${oracle.rowCount - oracle.uncovered().length} of ${oracle.rowCount} run; not run:`);
  for (const text of oracle.notRun()) console.log(text);
  return found.length > 0 ? 1 : 0;
}

const why = whyNotNative();
if (why !== '') {
  console.error(why);
  process.exitCode = 2;
} else process.exitCode = Number(values.threads) > 1 ? await spread(Number(values.threads)) : compareCpus();
