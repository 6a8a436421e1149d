// Prints which handlers of the interpreter guests need, for packages/cpu/src/common-keys.ts:
// `node apps/xhyve-cli/bench/handler-keys.ts IMAGE[:SECONDS]…` boots each image and lists the keys that at least two of
// them used, in that file's own form.
import type { CharBackend } from '@hyve/core';
import { INLINE_KEYS } from '../../../packages/cpu/src/inline-keys.ts';
import { OP } from '../../../packages/x86/src/ops.ts';
import { parseArgs } from '../src/args.ts';
import { resolveMachine } from '../src/machine.ts';
import { loadBoard, processIo, runMachine } from '../src/run.ts';
import { bootArgs, image } from '../test/guest.ts';

interface WithInterpreter {
  readonly vm: { readonly interp: { keyOf(handler: number): string } };
}

const names = new Map(Object.entries(OP).map(([name, value]) => [String(value), name]));
const counts = new Map<string, number>();
const inline = new Set(INLINE_KEYS);
const board = await loadBoard();
const words = process.argv.slice(2);

for (const word of words) {
  const [name = '', seconds = '20'] = word.split(':');
  const found = await image(name);
  if (typeof found === 'string') throw new Error(found);
  const invocation = parseArgs(bootArgs(found), { readText: () => '' });
  if (invocation.kind !== 'run') throw new Error('not a machine');
  const silent: CharBackend = {
    write: () => true,
    onData: null,
    onDrain: null,
    setFlow: () => {},
    close: async () => {},
  };
  const machines: WithInterpreter[] = [];
  await runMachine(resolveMachine(invocation, board.support), {
    board,
    io: processIo(),
    openChar: () => silent,
    onPc: (pc) => {
      machines.push(pc as unknown as WithInterpreter);
      setTimeout(() => pc.forceOff(), Number(seconds) * 1000);
    },
  });
  let n = 0;
  for (const m of machines)
    for (let h = 0; h < 8192; h++) {
      const key = m.vm.interp.keyOf(h);
      if (key === '' || inline.has(key)) continue;
      counts.set(key, (counts.get(key) ?? 0) + 1);
      n++;
    }
  console.error(`${name}: ${n} handlers beside the inline ones`);
}
const wanted = [...counts].filter(([, n]) => n >= Math.min(2, words.length)).map(([key]) => key);
for (const key of wanted.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))) {
  const [op = '', ...rest] = key.split(',');
  console.log(`  ['${names.get(op)}', '${rest.join(',')}'],`);
}
console.error(`${wanted.length} keys`);
