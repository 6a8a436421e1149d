// `npm test [-- STAGE… [-- vitest arguments]]`: runs every stage, or those named, and ends with the line
// `N passed, N failed`. A stage that fails does not stop the others.
import { STAGES, type Stage } from './stages.ts';
import { add, type Counts, failure, NONE, summary } from './summary.ts';

function chosen(words: readonly string[]): readonly Stage[] | null {
  const unknown = words.filter((w) => !STAGES.some((s) => s.name === w));
  if (unknown.length === 0) return words.length === 0 ? STAGES : STAGES.filter((s) => words.includes(s.name));
  console.error(`no stage ${unknown.join(', ')}. Stages:`);
  for (const s of STAGES) console.error(`  ${s.name.padEnd(8)}${s.about}`);
  return null;
}

async function main(argv: readonly string[]): Promise<number> {
  const split = argv.indexOf('--');
  const stages = chosen(split < 0 ? argv : argv.slice(0, split));
  if (stages === null) return 2;
  const extra = split < 0 ? [] : argv.slice(split + 1);
  const counts: Counts[] = [NONE];
  for (const stage of stages) {
    console.log(`\n== ${stage.name}: ${stage.about}`);
    const started = Date.now();
    let c: Counts;
    try {
      c = await stage.run(extra);
    } catch (e) {
      c = failure(stage.name, e instanceof Error ? e.message : String(e));
      console.error(e);
    }
    counts.push(c);
    const seconds = ((Date.now() - started) / 1000).toFixed(1);
    console.log(`== ${stage.name}: ${c.failed.length === 0 ? 'ok' : `${c.failed.length} failed`}, ${seconds} s`);
  }
  const total = add(counts);
  console.log('');
  for (const line of summary(total)) console.log(line);
  return total.failed.length === 0 && total.passed > 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
