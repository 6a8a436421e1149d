// node tools/kill-test/src/main.ts [KILLS] [SEED] [FIRST SET OF DISKS]: kills machines and says what it found; status 1 if anything was lost.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DEVICES, FORMATS, type Format, lacking, Victim } from './kill.ts';

/** Kills of one machine before the next one gets other disks. */
const LIVES = 4;

const kills = Number(process.argv[2] ?? 100);
let seed = Number(process.argv[3] ?? Date.now() % 100_000) | 1;
const missing = lacking();
if (missing !== null) throw new Error(`${missing} is needed`);
console.log(`${kills} kills, seed ${seed}`);
const totals = new Map<string, { lives: number; safe: number }>();
let lost = 0;
let done = 0;
for (let m = Number(process.argv[4] ?? 0); done < kills; m++) {
  const dir = mkdtempSync(join(process.env['HYVE_LAB_DIR'] ?? tmpdir(), 'hyve-kill-'));
  try {
    // Every device comes to have every format.
    const formats = DEVICES.map((_d, i) => FORMATS[(m + i * 2) % FORMATS.length]) as [Format, Format, Format];
    const victim = await Victim.create(dir, formats);
    for (let i = 0; i < LIVES && done < kills; i++) {
      seed ^= seed << 13;
      seed ^= seed >>> 17;
      seed ^= seed << 5;
      const ms = (seed >>> 0) % 1200;
      const results = await victim.life(ms);
      done++;
      for (const r of results) {
        const t = totals.get(r.disk) ?? { lives: 0, safe: 0 };
        t.lives++;
        t.safe += r.safe;
        totals.set(r.disk, t);
        lost += r.wrong.length;
        for (const w of r.wrong.slice(0, 5)) console.log(`LOST ${r.disk}: ${w}`);
      }
      console.log(
        `${done}: after ${ms} ms, ${results.map((r) => `${r.disk} ${r.safe}`).join(', ')}${lost > 0 ? ` ${lost} wrong` : ''}`,
      );
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}
for (const [disk, t] of [...totals].sort(([a], [b]) => (a < b ? -1 : 1)))
  console.log(`${disk.padEnd(24)} ${t.lives} kills, ${t.safe} safe records, all read back`);
console.log(lost === 0 ? 'nothing that was flushed is missing' : `${lost} things are wrong`);
process.exitCode = lost === 0 ? 0 : 1;
