// The program as it is published, in a few files.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { bootArgs, Guest, image } from './guest.ts';

const ROOT = join(import.meta.dirname, '..');
const cache = mkdtempSync(join(tmpdir(), 'xhyve-bundle-'));
beforeAll(() => {
  const made = spawnSync(process.execPath, [join(ROOT, 'tools/bundle.ts')], { encoding: 'utf8' });
  if (made.status !== 0) throw new Error(made.stderr);
});
afterAll(() => rmSync(cache, { recursive: true }));

it('says its version and what it can build', () => {
  const xhyve = (...args: string[]): string =>
    spawnSync(process.execPath, [join(ROOT, 'bin/xhyve.js'), ...args], {
      encoding: 'utf8',
      env: { ...process.env, XHYVE_FROM: 'bundle' },
    }).stdout;
  expect(xhyve('--version')).toMatch(/^xhyve \d+\.\d+\.\d+\n$/u);
  expect(xhyve('-s', 'help').split('\n')).toContain('virtio-blk');
});

it('boots a guest with its translator, and keeps the generated interpreter', { timeout: 240_000 }, async (context) => {
  const found = await image('debian-cloud');
  if (typeof found === 'string') return context.skip(found);
  const words = [process.execPath, join(ROOT, 'bin/xhyve.js'), '--stats', ...bootArgs(found, { append: 'quiet' })];
  const env = ['XHYVE_FROM=bundle', `XDG_CACHE_HOME=${cache}`];
  const g = new Guest('env', [...env, ...words]);
  try {
    await g.prompt(120);
    g.send('poweroff\n');
    expect(await g.status()).toBe(1);
    expect(Number(/^cpu\.regions (\d+)$/mu.exec(g.errors)?.[1])).toBeGreaterThan(100);
    // Beside it, where the library that reads it is built, the machine code that V8 made of it.
    const kept = readdirSync(join(cache, 'xhyve/code')).filter((name) => !name.endsWith('.code'));
    expect(kept).toEqual([expect.stringMatching(/^[0-9a-f]{64}$/u)]);
  } finally {
    await g.end();
  }
});
