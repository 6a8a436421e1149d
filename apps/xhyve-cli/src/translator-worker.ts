// The program of the translator's thread.
import { setFlagsFromString } from 'node:v8';
import { parentPort, workerData } from 'node:worker_threads';
import { serveTranslator } from '@hyve/pc/translator-worker';
import { lowerThisThread } from './priority.ts';
import { TranslationFile, type TranslationPlace } from './translations.ts';

if (parentPort !== null) {
  // V8 would compile a region when the vCPU first calls it, on the vCPU's time: here it does so on threads of its own.
  setFlagsFromString('--no-wasm-lazy-compilation');
  lowerThisThread();
  const port = parentPort;
  const place = workerData as TranslationPlace | null;
  serveTranslator({ post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) }, (machine) =>
    place === null ? null : TranslationFile.open(place, machine),
  );
}
