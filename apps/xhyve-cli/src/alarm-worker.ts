// The program of the thread that wakes the machine's own.
import { serveAlarm } from '@hyve/pc/alarm-worker';
import { workerPort } from './worker-port.ts';

const port = workerPort();
if (port !== null) serveAlarm(port);
