// Prints which handlers of the interpreter guests need, for packages/cpu/src/common-keys.ts:
// `node apps/xhyve-cli/bench/handler-keys.ts IMAGE[:SECONDS]…` boots each image and lists the keys that at least two of
// them used, in that file's own form.
import type { CharBackend } from '@hyve/core';
import { parseArgs } from '../src/args.ts';
import { resolveMachine } from '../src/machine.ts';
import { loadBoard, processIo, runMachine } from '../src/run.ts';
import { bootArgs, image } from '../test/guest.ts';

interface WithInterpreter {
  readonly vm: { readonly interp: { madeKeys(): string[] } };
}

const counts = new Map<string, number>();
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
  const keys = machines.flatMap((m) => m.vm.interp.madeKeys());
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1);
  console.error(`${name}: ${keys.length} handlers beside the inline ones`);
}
const wanted = [...counts].filter(([, n]) => n >= Math.min(2, words.length)).map(([key]) => key);
for (const key of wanted.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))) {
  const [op = '', ...rest] = key.split(',');
  console.log(`  ['${op}', '${rest.join(',')}'],`);
}
console.error(`${wanted.length} keys`);
