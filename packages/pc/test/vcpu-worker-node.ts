// A vCPU's thread for tests.
import { parentPort } from 'node:worker_threads';
import { serveVcpu } from '../src/vcpu-worker.ts';

const port = parentPort;
if (port !== null) serveVcpu({ post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) });
