// The program of the thread that wakes the machine's own.
import { parentPort } from 'node:worker_threads';
import { serveAlarm } from '@hyve/pc/alarm-worker';

if (parentPort !== null) {
  const port = parentPort;
  serveAlarm({ post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) });
}
