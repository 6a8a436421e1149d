// The program of the translator's thread.
import { setFlagsFromString } from 'node:v8';
import { parentPort, workerData } from 'node:worker_threads';
import { serveTranslator, type TranslationStore } from '@hyve/pc/translator-worker';
import { lowerThisThread } from './priority.ts';
import { TranslationFile, type TranslationPlace } from './translations.ts';

if (parentPort !== null) {
  // V8 would compile a region when the vCPU first calls it, on the vCPU's time: here it does so on threads of its own.
  compileLazily(false);
  lowerThisThread();
  const port = parentPort;
  const place = workerData as TranslationPlace | null;
  serveTranslator({ post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) }, (machine) => {
    const file = place === null ? null : TranslationFile.open(place, machine);
    return file === null ? null : { load: () => lazily(file), append: (record) => file.append(record) };
  });
}

/** What was kept is thousands of regions, of which a run wants some hundreds, many of them at once: those, when they are called. */
function* lazily(store: TranslationStore): Generator<Uint8Array> {
  compileLazily(true);
  try {
    yield* store.load();
  } finally {
    compileLazily(false);
  }
}

function compileLazily(on: boolean): void {
  setFlagsFromString(on ? '--wasm-lazy-compilation' : '--no-wasm-lazy-compilation');
}
