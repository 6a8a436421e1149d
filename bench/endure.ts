// What has to hold for long: memory in a run that keeps writing new code, and a 1 kHz timer in a busy guest.
//
//   node bench/endure.ts growth [SECONDS] [ENGINE]     resident memory every second, and whether it settled
//   node bench/endure.ts ticks [SECONDS] [ENGINE]      missed periods, for each kind of load
import { pullImage } from 'xhyve/images';
import type { EngineName, EngineOptions } from './src/engines.ts';
import { growth } from './src/growth.ts';
import { median } from './src/report.ts';
import { ticks } from './src/ticks.ts';

const [what = '', seconds = '', engine = 'hyve'] = process.argv.slice(2);
const { paths } = await pullImage('debian-cloud', {});
const kernel = paths.kernel ?? '';
const options: EngineOptions = { hyveFlags: [], threshold: null, qemuCpu: 'Nehalem' };

switch (what) {
  case 'growth': {
    const all = await growth(engine as EngineName, kernel, Number(seconds || 120), options, (functions, resident) =>
      console.log(`${functions} functions, ${resident.toFixed(0)} MiB`),
    );
    const third = Math.floor(all.residentMib.length / 3);
    const early = median(all.residentMib.slice(third, 2 * third));
    const late = median(all.residentMib.slice(-third));
    console.log(
      `middle third ${early.toFixed(0)} MiB, last third ${late.toFixed(0)} MiB, most ${Math.max(...all.residentMib).toFixed(0)} MiB`,
    );
    if (late > early * 1.1) {
      console.log('FAILED: memory still grows');
      process.exitCode = 1;
    }
    break;
  }
  case 'ticks':
    for (const loads of ['', '0', '1', '2', '3', '0123']) {
      const t = await ticks(engine as EngineName, kernel, Number(seconds || 10), loads === '' ? '-' : loads, options);
      console.log(
        `load ${loads === '' ? 'none' : loads}: ${t.expirations} periods in ${t.hostMs.toFixed(0)} ms, ${t.missed} missed, latest by ${t.worstMs.toFixed(2)} ms`,
      );
      if (t.missed > 0) process.exitCode = 1;
    }
    break;
  default:
    console.log('usage: node bench/endure.ts growth|ticks [SECONDS] [ENGINE]');
    process.exitCode = 1;
}
