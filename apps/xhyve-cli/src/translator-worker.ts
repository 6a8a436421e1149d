// The program of the translator's thread.
import { parentPort } from 'node:worker_threads';
import { serveTranslator } from '@hyve/pc/translator-worker';

if (parentPort !== null) {
  const port = parentPort;
  serveTranslator({ post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) });
}
