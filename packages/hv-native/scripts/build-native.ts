// Builds the libraries for this machine with a C++ compiler: node scripts/build-native.ts [engine|compiled|thread] [--force] [--try].
// Needs no Python and no headers of Node itself. With --try a machine that cannot build them is no failure. Another way for
// the KVM engine: src/native/binding.gyp.
import { buildCompiled, buildNative, buildThread } from './native-build.ts';

const words = process.argv.slice(2);
const force = words.includes('--force');
const builds = { engine: buildNative, compiled: buildCompiled, thread: buildThread };
const named = Object.entries(builds).filter(([name]) => words.includes(name));
for (const [, build] of named.length > 0 ? named : Object.entries(builds)) {
  const result = build({ force });
  console.log(result.detail);
  if (!result.ok && (!words.includes('--try') || result.broken === true)) process.exitCode = 1;
}
