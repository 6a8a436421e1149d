// The program of a vCPU's thread.
import { parentPort, workerData } from 'node:worker_threads';
import { serveVcpu } from '@hyve/pc/vcpu-worker';
import { type HiddenFeature, TestEngine, type Vendor } from './machine.ts';

const { hide, vendor } = workerData as { hide: readonly HiddenFeature[]; vendor: Vendor };
if (parentPort !== null) {
  const port = parentPort;
  serveVcpu(
    { post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) },
    { soft: () => new TestEngine(hide, vendor, undefined) },
  );
}
