// Virtual time with a real kernel: two boots are the same boot, to the last byte of memory and the last register bit,
// though the second one has a slow console and a busy host.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { CharBackend } from '@hyve/core';
import { boardSupport, createPc, type Pc } from '@hyve/pc';
import { expect, it, type TestContext } from 'vitest';
import { parseArgs } from '../src/args.ts';
import type { PulledImage } from '../src/images/index.ts';
import { resolveMachine } from '../src/machine.ts';
import { bootArgs, image, tinycoreKernel } from './guest.ts';

const TIMEOUT = { timeout: 240_000 };

interface Run {
  readonly lines: string[];
  readonly retired: number[];
  readonly registers: string[];
  readonly memory: string;
}

/** Boots until the console shows `mark`, and takes everything down. */
async function boot(i: PulledImage, cpus: number, mark: string, disturbed: boolean): Promise<Run> {
  const words = bootArgs(
    { ...i, manifest: { ...i.manifest, memory: '256M' } },
    { cpus, more: ['-o', 'clock=virtual'] },
  );
  const invocation = parseArgs(words, { readText: () => '' });
  if (invocation.kind !== 'run') throw new Error('no machine');
  let pc: Pc | null = null;
  let text = '';
  let writes = 0;
  const console1: CharBackend = {
    onData: null,
    onDrain: null,
    setFlow: () => {},
    close: async () => {},
    write(bytes) {
      text += String.fromCharCode(...bytes);
      if (text.includes(mark)) pc?.forceOff();
      if (!disturbed || ++writes % 7 !== 0) return true;
      setTimeout(() => console1.onDrain?.(), 2);
      return false;
    },
  };
  let busy: NodeJS.Timeout | undefined;
  const disturb = (): void => {
    const until = performance.now() + Math.random() * 4;
    while (performance.now() < until);
    busy = setTimeout(disturb, Math.random() * 20);
  };
  if (disturbed) disturb();
  pc = await createPc(resolveMachine(invocation, boardSupport), {
    openChar: async () => console1,
    readFile,
    log: { on: false, debug() {}, info() {}, warn() {} },
    wallClock: { nowMs: () => Date.now(), offsetMinutes: () => 0 },
  });
  expect(await pc.run()).toBe('poweroff');
  clearTimeout(busy);
  expect(text).toContain(mark);
  const memory = createHash('sha256');
  for (let at = 0; at < 2 ** 28; at += 2 ** 20) memory.update(pc.vm.memory.readView(at, 2 ** 20) ?? '');
  const run = {
    lines: text.split('\r\n'),
    retired: pc.vm.vcpus.map((v) => v.retired()),
    registers: pc.vm.vcpus.map((v) =>
      JSON.stringify(v.getState(), (_k, value: unknown) => (typeof value === 'bigint' ? value.toString(16) : value)),
    ),
    memory: memory.digest('hex'),
  };
  await pc.close();
  return run;
}

async function cloud(context: TestContext): Promise<PulledImage> {
  const i = await image('debian-cloud');
  return typeof i === 'string' ? context.skip(i) : i;
}

it('two boots of Debian’s cloud kernel up to /init are equal to the last bit', TIMEOUT, async (context) => {
  const i = await cloud(context);
  const a = await boot(i, 1, 'Run /init', false);
  expect(a.retired[0]).toBeGreaterThan(5e8);
  expect(await boot(i, 1, 'Run /init', true)).toEqual(a);
});

it('two boots of Tiny Core’s kernel on two processors are equal to the last bit', TIMEOUT, async (context) => {
  const kernel = tinycoreKernel();
  if (typeof kernel === 'string') return context.skip(kernel);
  const i = await cloud(context);
  const tiny = { ...i, paths: { ...i.paths, kernel: kernel.path } };
  const a = await boot(tiny, 2, 'Freeing unused kernel memory', false);
  expect(Math.min(...a.retired)).toBeGreaterThan(1e7);
  expect(await boot(tiny, 2, 'Freeing unused kernel memory', true)).toEqual(a);
});
