// The software CPU beside QEMU's TCG and v86: the same guests on each, ratios of speed, and the bars they are to reach.
//
//   node bench/engine.ts [--quick] [--groups int,kernel,…] [--engines hyve,qemu,v86] [--rounds 3] [--json FILE] …
//
// README.md in this folder has the groups and all options. Run nothing else on the machine meanwhile.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type PulledImage, pullImage } from 'xhyve/images';
import { type EngineName, type EngineOptions, findEngines, type Guest, runGuest } from './src/engines.ts';
import { type Bits, guestInitrd } from './src/guests.ts';
import { BARS, disagreements, type Figure, median, report } from './src/report.ts';
import { startTimes } from './src/start.ts';

const WORKLOADS = ['int', 'call', 'float', 'rep', 'mem', 'kernel', 'rewrite'];
const ALL = ['boot64', 'boot32', ...WORKLOADS, 'start', 'memory'];
const MARK = 'Run /init as init process';
const MEMORY_MIB = 512;

const { values: o } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    groups: { type: 'string' },
    engines: { type: 'string' },
    rounds: { type: 'string' },
    reps: { type: 'string' },
    scale: { type: 'string' },
    bits: { type: 'string' },
    json: { type: 'string' },
    merge: { type: 'string', multiple: true },
    threshold: { type: 'string' },
    'hyve-flags': { type: 'string', default: '' },
    'qemu-cpu': { type: 'string', default: 'Nehalem' },
    tinycore: { type: 'string' },
    summary: { type: 'boolean', default: false },
    counters: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
  },
});

const quick = o.quick;
const rounds = Number(o.rounds ?? (quick ? 1 : 3));
const reps = Number(o.reps ?? (quick ? 2 : 3));
const wanted = (o.engines ?? (quick ? 'hyve,qemu' : 'hyve,qemu,v86')).split(',') as EngineName[];
// The published package has it built.
spawnSync(process.execPath, [
  join(import.meta.dirname, '../packages/hv-native/scripts/build-native.ts'),
  'compiled',
  'thread',
  '--try',
]);
const { found: engines, missing } = findEngines(wanted);
for (const m of missing) console.log(`not measured: ${m}`);
// Against QEMU 64-bit guests count; v86 has only 32-bit ones.
const bits = (o.bits?.split(',').map(Number) ?? (engines.includes('v86') ? [64, 32] : [64])) as Bits[];
const asked = o.groups?.split(',') ?? ALL;
const options: EngineOptions = {
  hyveFlags: o['hyve-flags'].split(' ').filter((f) => f !== ''),
  threshold: o.threshold === undefined ? null : Number(o.threshold),
  qemuCpu: o['qemu-cpu'],
  counters: o.counters,
};
const figures: Figure[] = [];
const problems: string[] = [];

/** Engines that run guests of this width; QEMU's part in 32-bit runs has to be asked for. */
function enginesFor(width: Bits, all = false): EngineName[] {
  if (width === 64) return engines.filter((e) => e !== 'v86');
  return engines.filter((e) => all || e !== 'qemu' || o.bits !== undefined);
}

/** A list that begins with another element each round, so that no engine is always first. */
function turned<T>(list: readonly T[], round: number): T[] {
  return list.map((_, i) => list[(i + round) % list.length] as T);
}

function files(image: PulledImage): { kernel: string; initrd: string | null } {
  return { kernel: image.paths.kernel ?? '', initrd: image.paths.initrd ?? null };
}

async function workloads(image: PulledImage, width: Bits, list: readonly string[], round: number): Promise<void> {
  // v86 is some ten times slower than the others: its guests do less, as Hyve's do beside it.
  const scale = Number(o.scale ?? (quick ? 30 : 100)) * (width === 32 ? 0.25 : 1);
  const guest: Guest = {
    bits: width,
    kernel: files(image).kernel,
    initrd: guestInitrd('bench', width),
    cmdline: `console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable cryptomgr.notests=1 bench=${list.join(',')} reps=${reps} scale=${Math.round(scale)}`,
    memoryMib: MEMORY_MIB,
  };
  for (const engine of turned(enginesFor(width), round)) {
    const t0 = performance.now();
    const r = await runGuest(engine, guest, { ...options, until: '@D', limitMs: 900_000 });
    const what = `${engine} ${width}-bit ${list.join(',')}`;
    if (o.verbose || r.problem !== '') console.log(r.log.tail.join('\n'));
    console.log(
      `round ${round + 1}: ${what}: ${((performance.now() - t0) / 1000).toFixed(1)} s (clock ${r.log.clockSource})`,
    );
    if (o.counters && engine === 'hyve') console.log(JSON.stringify(r.counters));
    if (r.problem !== '') problems.push(`${what}: ${r.problem}`);
    for (const f of r.log.failures) problems.push(`${what}: ${f.name} ended with status ${f.status}`);
    // Lines may arrive late by a turn of the engine.
    const { guestMs, hostMs } = r.log.elapsed();
    if (Math.abs(guestMs - hostMs) > 0.01 * hostMs + 150)
      problems.push(
        `${what}: ${guestMs.toFixed(0)} ms by the guest's clock were ${hostMs.toFixed(0)} ms by the host's`,
      );
    for (const name of new Set(r.log.samples.map((s) => s.name))) {
      const samples = r.log.samples.filter((s) => s.name === name);
      const [group = '', short = ''] = name.split('/');
      figures.push({
        engine,
        bits: width,
        round,
        group,
        name: short,
        value: median(samples.map((s) => s.guestNs)),
        first: samples[0]?.guestNs ?? Number.NaN,
        checksum: [...new Set(samples.map((s) => s.checksum))].join(' '),
      });
    }
  }
}

async function boots(group: string, kernel: string, initrd: string | null, width: Bits, round: number): Promise<void> {
  // The old kernel does not say when it runs /init; that is ours there, and says it itself.
  const until = group === 'boottiny' ? '@R' : MARK;
  const guest: Guest = {
    bits: width,
    kernel,
    initrd,
    cmdline: group === 'boottiny' ? 'console=ttyS0 bench=none' : 'console=ttyS0',
    memoryMib: MEMORY_MIB,
  };
  const first = `${group}-first`;
  for (const engine of turned(enginesFor(width, true), round)) {
    const limits = { until, limitMs: 300_000 };
    const add = (name: string, ns: number): void => {
      figures.push({ engine, bits: width, round, group: name, name: 'init', value: ns, first: ns, checksum: '' });
    };
    if (engine === 'hyve' && first in BARS) {
      const cache = mkdtempSync(join(tmpdir(), 'bench-cache-'));
      const cold = await runGuest(engine, guest, { ...options, ...limits, cache });
      rmSync(cache, { recursive: true, force: true });
      if (cold.markMs === null) problems.push(`${engine} ${first}: ${cold.problem}`);
      else {
        console.log(`round ${round + 1}: ${engine} ${first}: ${(cold.markMs / 1000).toFixed(2)} s`);
        add(first, cold.markMs * 1e6);
      }
      // What the other rounds find in the user's cache, the first is to find too.
      if (round === 0) await runGuest(engine, guest, { ...options, ...limits });
    }
    const r = await runGuest(engine, guest, { ...options, ...limits });
    if (r.markMs === null) {
      problems.push(`${engine} ${group}: ${r.problem}`);
      continue;
    }
    console.log(`round ${round + 1}: ${engine} ${group}: ${(r.markMs / 1000).toFixed(2)} s`);
    if (o.counters && engine === 'hyve') console.log(JSON.stringify(r.counters));
    const ns = r.markMs * 1e6;
    add(group, ns);
    if (engine !== 'hyve' && first in BARS) add(first, ns);
  }
}

/** Resident memory of Hyve and QEMU with the same guest at rest after its boot. */
async function memory(image: PulledImage, round: number): Promise<void> {
  const { kernel, initrd } = files(image);
  const guest: Guest = { bits: 64, kernel, initrd, cmdline: 'console=ttyS0 quiet', memoryMib: MEMORY_MIB };
  for (const engine of turned(enginesFor(64), round)) {
    const r = await runGuest(engine, guest, { ...options, until: '# ', linger: 3000, limitMs: 120_000 });
    if (r.markMs === null) {
      problems.push(`${engine} memory: ${r.problem}`);
      continue;
    }
    figures.push({
      engine,
      bits: 64,
      round,
      group: 'memory',
      name: 'resident',
      value: r.residentMib,
      first: r.residentMib,
      checksum: '',
    });
  }
}

async function measure(): Promise<void> {
  const list = asked.filter((g) => WORKLOADS.includes(g.split('/')[0] ?? ''));
  const image64 = await pullImage('debian-cloud', {});
  const image32 = bits.includes(32) || asked.includes('boot32') ? await pullImage('debian-i386', {}) : null;
  for (let round = 0; round < rounds; round++) {
    if (asked.includes('boot64')) {
      const { kernel, initrd } = files(image64);
      await boots('boot64', kernel, initrd, 64, round);
    }
    if (o.tinycore !== undefined) await boots('boottiny', o.tinycore, guestInitrd('bench', 64), 64, round);
    if (asked.includes('boot32') && image32 !== null && (!quick || o.groups !== undefined)) {
      const { kernel, initrd } = files(image32);
      await boots('boot32', kernel, initrd, 32, round);
    }
    // A quick run boots once for everything; else each group has a machine of its own, so that rounds interleave finely.
    const batches = quick
      ? [list]
      : [...new Set(list.map((g) => g.split('/')[0] ?? ''))].map((g) => list.filter((l) => l.split('/')[0] === g));
    for (const batch of batches)
      for (const width of bits) {
        const image = width === 64 ? image64 : image32;
        if (image !== null && batch.length > 0) await workloads(image, width, batch, round);
      }
    if (asked.includes('memory') && (!quick || o.groups !== undefined)) await memory(image64, round);
  }
  if (asked.includes('start')) for (const f of await startTimes(engines, quick ? 3 : 9, problems)) figures.push(f);
}

if (o.merge === undefined) await measure();
else
  for (const [i, file] of o.merge.entries()) {
    const saved = JSON.parse(readFileSync(file, 'utf8')) as { figures: Figure[]; problems: string[] };
    // Rounds of different files are different rounds.
    figures.push(...saved.figures.map((f) => ({ ...f, round: f.round + i * 1000 })));
    problems.push(...saved.problems);
  }
if (o.json !== undefined) writeFileSync(o.json, JSON.stringify({ figures, problems }));
console.log(report(figures, !o.summary));
for (const engine of ['hyve', 'qemu'] as const) {
  const of = (group: string): number[] =>
    figures.filter((f) => f.engine === engine && f.group === group).map((f) => f.value);
  if (of('start').length > 0)
    console.log(`start to first instruction, ${engine}: ${(median(of('start')) / 1e6).toFixed(0)} ms`);
  if (of('memory').length > 0) console.log(`resident after boot, ${engine}: ${median(of('memory')).toFixed(0)} MiB`);
}
for (const d of disagreements(figures)) problems.push(`checksums differ: ${d}`);
for (const p of problems) console.log(`PROBLEM ${p}`);
if (problems.length > 0) process.exitCode = 1;
