import { beforeAll, describe, expect, it } from 'vitest';
import { pullImage } from 'xhyve/images';
import type { EngineOptions } from '../src/engines.ts';
import { growth } from '../src/growth.ts';
import { guestInitrd } from '../src/guests.ts';
import { ticks } from '../src/ticks.ts';

const options: EngineOptions = { hyveFlags: [], threshold: null, qemuCpu: 'Nehalem' };
let kernel = '';
let missing = '';

beforeAll(async () => {
  try {
    kernel = (await pullImage('debian-cloud', {})).paths.kernel ?? '';
    guestInitrd('grow', 64);
  } catch (e) {
    missing = `no kernel or no compiler for this guest: ${(e as Error).message.split('\n')[0]}`;
  }
});

describe('what has to hold for long, in short', () => {
  it('memory settles in a guest that never stops writing new code', { timeout: 180_000 }, async (t) => {
    t.skip(missing !== '', missing);
    const g = await growth('hyve', kernel, 45, options);
    expect(g.functions.at(-1)).toBeGreaterThan(500);
    // 256 MiB are the guest's. It settles at 0.7 GiB, after growing by 20 MiB a second.
    expect(Math.max(...g.residentMib)).toBeLessThan(1000);
  });

  it('a 1 kHz timer runs out as often as the host’s clock says while the guest is busy', {
    timeout: 180_000,
  }, async (t) => {
    t.skip(missing !== '', missing);
    const seen = await ticks('hyve', kernel, 3, '01', options);
    expect(seen.expirations).toBeGreaterThanOrEqual(3000);
    // The guest reports when it has the last of them, and its lines take their time.
    expect(Math.abs(seen.hostMs - seen.expirations)).toBeLessThan(400);
  });
});
