// What the KVM engine does on this machine, as text to send in: node src/main.ts [--seconds=N] [--suite] [--guests].
// Without --suite or --guests both are run. Exit status 0: all that a machine with VT-x or SVM should do was done.
import { readFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { probeKvm } from '@hyve/hv-native';
import { guests, type Report } from './guests.ts';
import { conformance, type Row } from './suite.ts';

const only = process.argv.filter((a) => a === '--suite' || a === '--guests');
const { usable, reason } = probeKvm();
const given = process.argv.find((a) => a.startsWith('--seconds='));
// Where KVM cannot run an operating system, how far one gets is soon seen.
const limit = given === undefined ? (usable ? 120 : 20) : Number(given.slice('--seconds='.length));

const commit = ((): string => {
  try {
    return (
      JSON.parse(readFileSync(new URL('../../../apps/xhyve-cli/package.json', import.meta.url), 'utf8')) as {
        version: string;
      }
    ).version;
  } catch {
    return 'unknown';
  }
})();

console.log(`## Hyve ${commit} on KVM`);
console.log('');
console.log(`- processor: ${cpus()[0]?.model ?? 'unknown'} × ${cpus().length}`);
console.log(`- Linux ${release()}, Node ${process.version}`);
console.log(`- KVM: ${usable ? 'usable' : 'not usable for operating systems'}: ${reason}`);

const cell = (text: string): string => text.replaceAll('|', '\\|');
let failures = 0;
if (only.length === 0 || only.includes('--suite')) {
  console.log('\n| Case | software CPU | KVM |\n|---|---|---|');
  const rows: Row[] = conformance((r) => console.log(`| ${cell(r.name)} | ${cell(r.soft)} | ${cell(r.kvm)} |`));
  const passed = (of: 'soft' | 'kvm'): number => rows.filter((r) => r[of] === 'passes').length;
  console.log(`\n${rows.length} cases: ${passed('soft')} pass on the software CPU, ${passed('kvm')} on KVM`);
  // KVM has no exit on PAUSE; nothing else may fail on hardware.
  failures += rows.filter((r) => r.kvm !== 'passes' && !r.name.startsWith('PAUSE')).length;
}
if (only.length === 0 || only.includes('--guests')) {
  console.log('\n| Guest | | seconds | |\n|---|---|---|---|');
  const told = (r: Report): void =>
    console.log(`| ${r.name} | ${r.ok ? 'runs' : 'fails'} | ${r.seconds.toFixed(1)} | ${cell(r.detail)} |`);
  failures += (await guests(limit, told)).filter((r) => !r.ok).length;
}
console.log(
  `\n${failures === 0 ? 'everything works' : `${failures} do not work${usable ? '' : ', on a machine without VT-x or SVM'}`}`,
);
process.exitCode = failures === 0 ? 0 : 1;
