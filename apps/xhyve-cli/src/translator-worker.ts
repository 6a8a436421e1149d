// The program of the translator's thread.
import { parentPort, workerData } from 'node:worker_threads';
import { serveTranslator } from '@hyve/pc/translator-worker';
import { TranslationFile, type TranslationPlace } from './translations.ts';

if (parentPort !== null) {
  const port = parentPort;
  const place = workerData as TranslationPlace | null;
  serveTranslator({ post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) }, (machine) =>
    place === null ? null : TranslationFile.open(place, machine),
  );
}
