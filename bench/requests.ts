// What one request costs in each storage device's package, without a VM: the driver's side, rings and registers, and a back
// end that does nothing, by promise and at once. Usage, from the repository's root:
//
//   pnpm exec node bench/requests.ts
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const BENCHES = [
  'packages/virtio/block/bench/block.bench.ts',
  'packages/ahci/bench/request.bench.ts',
  'packages/nvme/bench/request.bench.ts',
];

let failed = false;
for (const file of BENCHES) {
  console.log(file);
  const r = spawnSync(process.execPath, ['--expose-gc', join(import.meta.dirname, '..', file)], { stdio: 'inherit' });
  failed ||= r.status !== 0;
}
process.exitCode = failed ? 1 : 0;
