// Start-up: from the start of the process to the first character of a kernel whose first instructions write it to COM1.
import { spawn } from 'node:child_process';
import { type EngineName, environment, hyveCommand, qemuCommand, watch } from './engines.ts';
import { startPayload } from './guests.ts';
import type { Figure } from './report.ts';

/** Figures of the group `start`, nanoseconds: the command line as users start it, and QEMU. What fails goes to `problems`. */
export async function startTimes(
  engines: readonly EngineName[],
  rounds: number,
  problems: string[],
): Promise<Figure[]> {
  const payload = startPayload();
  const commands: [EngineName, string[]][] = [
    ['hyve', hyveCommand(64, `multiboot,${payload}`)],
    ['qemu', qemuCommand(32, 64, payload)],
  ];
  const env = environment();
  const figures: Figure[] = [];
  // The first run of all warms the file cache and Node's cache of compiled code, and does not count.
  for (let round = -1; round < rounds; round++)
    for (const [engine, [program = '', ...args]] of commands) {
      if (!engines.includes(engine)) continue;
      const r = await watch(spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] }), '!', 0, 20_000);
      if (r.markMs === null) {
        problems.push(`${engine} start: ${r.problem}`);
        continue;
      }
      const ns = r.markMs * 1e6;
      if (round >= 0)
        figures.push({ engine, bits: 32, round, group: 'start', name: 'first', value: ns, first: ns, checksum: '' });
    }
  return figures;
}
