// The program of a vCPU's thread.
import { parentPort } from 'node:worker_threads';
import { serveVcpu } from '@hyve/pc/vcpu-worker';

if (parentPort !== null) {
  const port = parentPort;
  serveVcpu({ post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) });
}
