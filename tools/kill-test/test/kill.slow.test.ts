// A few kills of the real program; `node tools/kill-test/src/main.ts 100` does more.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { lacking, Victim } from '../src/kill.ts';

const missing = lacking();

it.skipIf(missing !== null)(
  `keeps what guests saw flushed when it is killed${missing === null ? '' : ` (needs ${missing})`}`,
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'hyve-kill-'));
    try {
      const victim = await Victim.create(dir, ['qcow2', 'ext4-raw', 'qcow2-lazy']);
      for (const ms of [150, 700])
        for (const r of await victim.life(ms)) {
          expect(r.wrong).toEqual([]);
          expect(r.safe).toBeGreaterThan(0);
        }
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  },
);
