// The program of a vCPU's thread.
import { serveVcpu } from '@hyve/pc/vcpu-worker';
import { workerPort } from './worker-port.ts';

const port = workerPort();
if (port !== null) serveVcpu(port);
