// Command line: node tools/cpu-oracle/src/main.ts [--count N] [--seed N] [--op NAME] [--families int,x87,…] [--show N]
import { parseArgs } from 'node:util';
import { whyNotNative } from './native.ts';
import { Oracle } from './oracle.ts';

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '200000' },
    seed: { type: 'string', default: '1' },
    op: { type: 'string' },
    families: { type: 'string', default: 'int,x87,mmx,sse' },
    skip: { type: 'string', default: '' },
    longest: { type: 'string' },
    show: { type: 'string', default: '20' },
    threshold: { type: 'string', default: '0' },
    coverage: { type: 'boolean', default: false },
  },
});

const why = whyNotNative();
if (why !== '') {
  console.error(why);
  process.exit(2);
}
const oracle = new Oracle({
  seed: Number(values.seed),
  families: values.families.split(','),
  skip: values.skip.split(','),
  threshold: Number(values.threshold),
  ...(values.op === undefined ? {} : { op: values.op }),
  ...(values.longest === undefined ? {} : { longest: Number(values.longest) }),
});
const t = performance.now();
oracle.run(Number(values.count));
const seconds = (performance.now() - t) / 1000;
const found = [...oracle.findings.values()].sort((a, b) => oracle.countOf(b.kind) - oracle.countOf(a.kind));
for (const f of found.slice(0, Number(values.show)))
  console.log(`--- ${f.kind} (${oracle.countOf(f.kind)} times)\n${f.text}`);
if (found.length > 0) console.log(`=== ${found.length} kinds of differences`);
for (const f of found) console.log(`${String(oracle.countOf(f.kind)).padStart(6)} ${f.kind}`);
console.log(
  `${oracle.instructions} instructions in ${oracle.programs} programs, ${seconds.toFixed(1)} s (${Math.round(oracle.programs / seconds)}/s; ` +
    `generating ${oracle.times
      .map((x) => (x / 1000).toFixed(1))
      .join(', native ')
      .replace(', native', ', native')
      .replace(/(, native [\d.]+), native ([\d.]+), native/, '$1, soft $2, comparing')} s), ${oracle.differing} differ`,
);
console.log(
  `traps: ${[...oracle.traps]
    .sort((a, b) => b[1] - a[1])
    .map(([v, c]) => `${v}: ${c}`)
    .join(', ')}`,
);
const missing = oracle.uncovered();
console.log(`rows: ${oracle.rowCount - missing.length} of ${oracle.rowCount} run`);
if (values.coverage) {
  for (const r of missing) console.log(`  never: ${r.spec.encoding} ${r.mnemonic} ${r.spec.operands} ${r.feature}`);
  for (const [k, c] of oracle.exclusions) console.log(`  excluded ${c} times: ${k}`);
}
oracle.close();
process.exit(found.length > 0 ? 1 : 0);
