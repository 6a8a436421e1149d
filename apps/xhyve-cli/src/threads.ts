// Node's worker threads for vCPUs, for the translator and for large reads of disks.
import { Worker, type WorkerOptions } from 'node:worker_threads';
import type { ReadHelperThread } from '@hyve/block-backends';
import type { ThreadHost, VcpuWorker } from '@hyve/pc';
import type { TranslatorThread } from '@hyve/pc/translator-worker';
import { hasTranslations, type TranslationPlace } from './translations.ts';
import type { CompileSettings } from './v8-settings.ts';

/**
 * Threads of this process.
 * @param cores how many the host can run at the same time
 * @param translations where translations are kept for the guest's next start; null: nowhere
 * @param settings told what the translator's thread sets
 */
export function nodeThreads(
  cores: number,
  translations: TranslationPlace | null,
  settings: CompileSettings,
): ThreadHost {
  return {
    cores,
    translatorAtOnce: translations !== null && hasTranslations(translations),
    x86Order: process.arch === 'x64' || process.arch === 'ia32',
    start: (name) => connect(start('vcpu-worker', { name })),
    translator(): TranslatorThread {
      settings.note(true);
      return connect(startHelper('translator-worker', { name: 'translator', workerData: translations }));
    },
    alarm: () => connect(startHelper('alarm-worker', { name: 'alarm' })),
  };
}

/** A thread that takes part in large reads of disks. */
export function readThread(): ReadHelperThread {
  const worker = startHelper('read-worker', { name: 'reads' });
  // Without it reads are no less right.
  worker.on('error', () => {});
  return { post: (m) => worker.postMessage(m), close: async () => void (await worker.terminate()) };
}

/** Starts one that has nothing to do once the machine has ended. */
function startHelper(program: string, options: WorkerOptions): Worker {
  const worker = start(program, options);
  worker.unref();
  return worker;
}

/** Starts a program of this package; built ones lie beside this file as this one does. */
function start(program: string, options: WorkerOptions): Worker {
  const suffix = import.meta.url.endsWith('.ts') ? '.ts' : '.js';
  return new Worker(new URL(`./${program}${suffix}`, import.meta.url), options);
}

/** A worker as the board sees its threads. */
export function connect(worker: Worker): VcpuWorker & TranslatorThread {
  const out: VcpuWorker & TranslatorThread = {
    post: (m) => worker.postMessage(m),
    onMessage: null,
    onDeath: null,
    close: async () => void (await worker.terminate()),
  };
  worker.on('message', (m) => out.onMessage?.(m));
  worker.on('error', (e) => out.onDeath?.(e instanceof Error ? e.message : String(e)));
  worker.on('exit', (code) => out.onDeath?.(`exit status ${code}`));
  return out;
}
