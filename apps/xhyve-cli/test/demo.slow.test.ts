// The demo with a real guest: without a terminal, on one, and with a guest that panics.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { type DemoHost, demo, demoProcessHost } from '../src/demo.ts';
import { Guest, image, noTerminal } from './guest.ts';

const PROGRAM = join(import.meta.dirname, '../src/demo.ts');
const TIMEOUT = { timeout: 240_000 };
const noTty = noTerminal();

it('without a terminal: boots, prints uname -a, powers off, exits 0', TIMEOUT, async (context) => {
  const found = await image('debian-cloud');
  if (typeof found === 'string') return context.skip(found);
  const started = performance.now();
  const g = new Guest(process.execPath, [PROGRAM]);
  try {
    g.hangUp(); // nobody is there
    expect(await g.status(200)).toBe(0);
    expect(g.text).toMatch(/^Linux hyve \S+-cloud-amd64 .* x86_64 GNU\/Linux$/mu);
    expect(g.text).toMatch(/booted, answered and powered off in [\d.]+ s/u);
    const seconds = (performance.now() - started) / 1000;
    expect(seconds, 'a busy machine gets four times the 15 s of a quiet one').toBeLessThan(60);
  } finally {
    await g.end();
  }
});

it.skipIf(noTty !== null)(
  `on a terminal${noTty === null ? '' : ` (skipped: ${noTty})`}: a shell with line editing, and 0 after poweroff`,
  TIMEOUT,
  async (context) => {
    const found = await image('debian-cloud');
    if (typeof found === 'string') return context.skip(found);
    const g = new Guest('script', ['-qefc', `stty rows 33 cols 111; '${process.execPath}' '${PROGRAM}'`, '/dev/null']);
    try {
      await g.expect(/way out: type poweroff, or press Ctrl-\] and then x/u, 60);
      await g.prompt(120);
      expect(await g.run('echo $LINES $COLUMNS')).toBe('33 111');
      g.send('unamx\x7fe -s\r');
      await g.expect(/\nLinux\r/u);
      g.send('poweroff\r');
      expect(await g.status()).toBe(0);
    } finally {
      await g.end();
    }
  },
);

it('says so when the guest’s kernel panics, and ends', TIMEOUT, async (context) => {
  const found = await image('debian-cloud');
  if (typeof found === 'string') return context.skip(found);
  const out: string[] = [];
  const rootless: DemoHost = {
    ...demoProcessHost(),
    print: (l) => void out.push(l),
    io: { note: (l) => void out.push(l), isRaw: () => false, restoreTerminal: () => {} },
    interactive: false,
    pull: async () => ({ ...found, paths: { ...found.paths, initrd: null } }),
  };
  expect(await demo(rootless)).toBe(4);
  expect(out.some((l) => /guest: .*Kernel panic - not syncing: VFS/u.test(l))).toBe(true);
  expect(out.at(-1)).toMatch(/^xhyve: demo: the guest’s kernel panicked in/u);
});
