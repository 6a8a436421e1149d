// The program of the translator's thread.
import { workerData } from 'node:worker_threads';
import { compiledCode } from '@hyve/hv-native/compiled';
import { serveTranslator, type TranslationStore } from '@hyve/pc/translator-worker';
import { CompiledFile } from './compiled-file.ts';
import { lowerThisThread } from './priority.ts';
import { TranslationFile, type TranslationPlace } from './translations.ts';
import { CompileSettings } from './v8-settings.ts';
import { workerPort } from './worker-port.ts';

const port = workerPort();
if (port !== null) {
  const settings = new CompileSettings();
  // V8 would compile a region when the vCPU first calls it, on the vCPU's time: here it does so on threads of its own.
  settings.set(true);
  lowerThisThread();
  const place = workerData as TranslationPlace | null;
  serveTranslator(port, (machine) => {
    const file = place === null ? null : TranslationFile.open(place, machine);
    if (file === null) return null;
    const store: TranslationStore = {
      load: () => lazily(file, settings),
      append: (record) => file.append(record),
    };
    const engine = compiledCode();
    if (engine === null) return store;
    return { ...store, compiled: new CompiledFile(`${file.path}.code`, engine, settings.lazily) };
  });
}

/** What was kept is thousands of regions, of which a run wants some hundreds, many of them at once: those, when they are called. */
function* lazily(file: TranslationFile, settings: CompileSettings): Generator<Uint8Array> {
  settings.set(false);
  try {
    yield* file.load();
  } finally {
    settings.set(true);
  }
}
