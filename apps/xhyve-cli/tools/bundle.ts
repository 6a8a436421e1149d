// Puts the program and what it uses of the workspace into a few files below bundle/, which load in a third of the time of
// some two hundred modules: `node apps/xhyve-cli/tools/bundle.ts`, part of the package's build.
import { createHash } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { rolldown } from 'rolldown';

const cwd = join(import.meta.dirname, '..');
const dir = join(cwd, 'bundle');
rmSync(dir, { recursive: true, force: true });
const bundle = await rolldown({
  cwd,
  input: {
    main: 'src/main.ts',
    'vcpu-worker': 'src/vcpu-worker.ts',
    'translator-worker': 'src/translator-worker.ts',
    'read-worker': 'src/read-worker.ts',
    'alarm-worker': 'src/alarm-worker.ts',
  },
  platform: 'node',
  // Packages of others, and the one that looks for its native libraries beside itself.
  external: [/^node:/u, /^@hyve\/hv-native/u, 'tar-stream', 'xz-decompress'],
});
const { output } = await bundle.write({
  dir,
  format: 'esm',
  entryFileNames: '[name].js',
  chunkFileNames: '[name]-[hash].js',
});
await bundle.close();
const digest = createHash('sha256');
for (const o of [...output].sort((a, b) => (a.fileName < b.fileName ? -1 : 1)))
  digest.update(`${o.fileName}\n`).update(o.type === 'chunk' ? o.code : o.source);
writeFileSync(join(dir, 'build-id'), digest.digest('hex'));
console.log(
  `${output.length} files, ${Math.round(output.reduce((n, o) => n + (o.type === 'chunk' ? o.code.length : 0), 0) / 1024)} KiB`,
);
