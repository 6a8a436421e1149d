// Builds the addon for this machine with a C++ compiler: node scripts/build-native.ts [--force].
// Needs no Python and no headers of Node itself. Another way: src/native/binding.gyp.
import { buildNative } from './native-build.ts';

const result = buildNative({ force: process.argv.includes('--force') });
console.log(result.detail);
process.exitCode = result.ok ? 0 : 1;
