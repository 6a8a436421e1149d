// Programs of this host's Debian in a guest, on Hyve and on QEMU's TCG: each runs once after boot, or several times.
//
//   node bench/programs.ts [--runs 1] [--rounds 1] [--only git,sqlite,…] [--no-qemu] [--cold] [--timeout 600]
//
// README.md in this folder says what is measured. Run nothing else on the machine meanwhile.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { pullImage } from 'xhyve/images';
import { type EngineName, type EngineOptions, findEngines, followGuest, type Guest } from './src/engines.ts';
import { loads, programsArchive } from './src/host-programs.ts';
import { geomean, median } from './src/report.ts';

const { values: o } = parseArgs({
  options: {
    runs: { type: 'string', default: '1' },
    rounds: { type: 'string', default: '1' },
    only: { type: 'string' },
    'no-qemu': { type: 'boolean', default: false },
    cold: { type: 'boolean', default: false },
    timeout: { type: 'string', default: '600' },
  },
});
const MEMORY_MIB = 1536;
const runs = Number(o.runs);
const options: EngineOptions = { hyveFlags: [], threshold: null, qemuCpu: 'Nehalem' };
const { found: engines, missing } = findEngines(o['no-qemu'] ? ['hyve'] : ['hyve', 'qemu']);
for (const m of missing) console.log(`not measured: ${m}`);

const { chosen, left } = loads(o.only?.split(',') ?? null);
for (const l of left) console.log(`not measured: ${l}`);
if (chosen.length === 0) throw new Error('none of these programs is on this host');

/** Milliseconds of each run of each program, by the guest's clock. @throws if the guest does not come to an end */
function measure(engine: EngineName, guest: Guest, cache: string | null): Promise<Map<string, number[]>> {
  let said = '';
  return followGuest(engine, guest, cache === null ? options : { ...options, cache }, {
    limitMs: Number(o.timeout) * 1000,
    read(text) {
      said += text;
      if (!said.includes('@D')) return null;
      const times = new Map<string, number[]>();
      for (const [, name = '', us, status] of said.matchAll(/@W (\S+) (\d+) (\d+)/g)) {
        if (status !== '0') console.log(`${engine}: ${name} ended with status ${status}`);
        times.set(name, [...(times.get(name) ?? []), Number(us) / 1000]);
      }
      return times;
    },
  });
}

const work = mkdtempSync(join(tmpdir(), 'bench-programs-'));
try {
  const initrd = join(work, 'programs.cpio');
  const archive = programsArchive(chosen, runs);
  writeFileSync(initrd, archive);
  console.log(`${chosen.length} programs, ${(archive.length / 2 ** 20).toFixed(0)} MiB of files`);
  const image = await pullImage('debian-cloud', {});
  const guest: Guest = {
    bits: 64,
    kernel: image.paths.kernel ?? '',
    initrd,
    cmdline: 'console=ttyS0 quiet panic=-1 mitigations=off',
    memoryMib: MEMORY_MIB,
  };
  const all = new Map<EngineName, Map<string, number[]>[]>(engines.map((e) => [e, []]));
  for (let round = 0; round < Number(o.rounds); round++)
    for (const engine of engines) {
      const cache = o.cold && engine === 'hyve' ? mkdtempSync(join(work, 'cache-')) : null;
      all.get(engine)?.push(await measure(engine, guest, cache));
    }
  print(all);
} finally {
  rmSync(work, { recursive: true, force: true });
}

function print(all: ReadonlyMap<EngineName, readonly Map<string, number[]>[]>): void {
  for (let run = 0; run < runs; run++) {
    if (runs > 1) console.log(`\nrun ${run + 1} after boot`);
    const ratios: number[] = [];
    for (const { name } of chosen) {
      const ms = engines.map((e) => median((all.get(e) ?? []).map((m) => m.get(name)?.[run] ?? Number.NaN)));
      const [hyve = Number.NaN, qemu] = ms;
      const ratio = qemu === undefined ? '' : (qemu / hyve).toFixed(2);
      if (qemu !== undefined && qemu / hyve > 0) ratios.push(qemu / hyve);
      console.log(
        `  ${name.padEnd(14)} ${ratio.padStart(6)}  ${ms.map((x) => `${x.toFixed(0)} ms`.padStart(9)).join(' ')}`,
      );
    }
    if (ratios.length > 0)
      console.log(
        `  geometric mean of ${ratios.length}: ${geomean(ratios).toFixed(2)} (speed of Hyve / speed of QEMU)`,
      );
  }
}
