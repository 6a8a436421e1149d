// The writing process is killed with SIGKILL under load: every flushed write is there, and nothing is corrupt.
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import process from 'node:process';
import { describe, expect, it } from 'vitest';
import { checkDisk, createDisk } from '../src/disk/index.ts';
import { openBlock } from '../src/index.ts';
import { have, run, scratch } from './helpers.ts';

const at = scratch();
/** More by hand: KILLS=100. */
const KILLS = Number(process.env['KILLS'] ?? 2);
const SLOTS = 1021;

/** Lets the writer work for a while and kills it. @returns the last number that it called safe */
async function killed(path: string, first: number, ms: number): Promise<number> {
  const writer = new URL('./fixtures/writer.ts', import.meta.url).pathname;
  const child = spawn(process.execPath, ['--no-warnings', writer, path, String(first), String(SLOTS)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  await new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (b: Buffer) => {
      if (text === '') setTimeout(() => child.kill('SIGKILL'), ms);
      text += b.toString();
    });
    child.once('close', () => (text === '' ? reject(new Error('the writer did not begin')) : resolve()));
  });
  const lines = text.split('\n').slice(0, -1); // the last line may be cut off
  return Number(lines.at(-1) ?? first);
}

describe('killed under load', () => {
  it.each([
    ['qcow2', { clusterSize: 65536 }],
    ['qcow2 with lazy refcounts and small clusters', { clusterSize: 4096, lazyRefcounts: true }],
  ])(
    '%s keeps what was flushed',
    async (_name, layout) => {
      const path = at('disk.qcow2');
      rmSync(path, { force: true });
      await createDisk(path, { format: 'qcow2', size: 16 << 20, ...layout });
      let first = 1;
      for (let i = 0; i < KILLS; i++) {
        const safe = await killed(path, first, 20 + ((i * 37) % 150));
        expect(safe).toBeGreaterThan(first);
        if (!('lazyRefcounts' in layout)) {
          expect((await checkDisk(path)).corruptions).toBe(0);
          if (have('qemu-img')) run('qemu-img', 'check', '-q', '-r', 'leaks', path);
        }
        const disk = await openBlock(path);
        for (let n = Math.max(first, safe - SLOTS); n < safe; n++) {
          const sector = new Uint32Array(128);
          await disk.read(((n * 7919) % SLOTS) * 4096, [new Uint8Array(sector.buffer)]);
          // That number, or a later one of the same place that was under way.
          if (sector[0] !== n && !((sector[0] as number) > n && ((sector[0] as number) - n) % SLOTS === 0))
            throw new Error(`kill ${i}: place of ${n} holds ${sector[0]}; ${safe} was safe`);
          expect(sector[127]).toBe(sector[0]);
        }
        await disk.close();
        const r = await checkDisk(path);
        expect([r.corruptions, r.errors]).toEqual([0, 0]);
        first = safe + SLOTS * 2; // higher than any number that may be on the disk
      }
    },
    KILLS * 5000 + 5000,
  );
});
