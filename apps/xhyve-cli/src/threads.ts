// Node's worker threads for vCPUs and for the translator.
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { ThreadHost, VcpuWorker } from '@hyve/pc';
import type { TranslatorThread } from '@hyve/pc/translator-worker';
import { hasTranslations, type TranslationPlace } from './translations.ts';

/**
 * Threads of this process.
 * @param translations where translations are kept for the guest's next start; null: nowhere
 */
export function nodeThreads(translations: TranslationPlace | null = null): ThreadHost {
  return {
    cores: availableParallelism(),
    translatorAtOnce: translations !== null && hasTranslations(translations),
    x86Order: process.arch === 'x64' || process.arch === 'ia32',
    start(name: string): VcpuWorker {
      const file = import.meta.url.endsWith('.ts') ? './vcpu-worker.ts' : './vcpu-worker.js';
      const worker = new Worker(new URL(file, import.meta.url), { name });
      const out: VcpuWorker = {
        post: (m) => worker.postMessage(m),
        onMessage: null,
        onDeath: null,
        close: async () => {
          await worker.terminate();
        },
      };
      worker.on('message', (m) => out.onMessage?.(m));
      worker.on('error', (e) => out.onDeath?.(e instanceof Error ? e.message : String(e)));
      worker.on('exit', (code) => out.onDeath?.(`exit status ${code}`));
      return out;
    },
    translator(): TranslatorThread {
      const file = import.meta.url.endsWith('.ts') ? './translator-worker.ts' : './translator-worker.js';
      const worker = new Worker(new URL(file, import.meta.url), { name: 'translator', workerData: translations });
      // It has nothing to do once the machine has ended.
      worker.unref();
      const out: TranslatorThread = {
        post: (m) => worker.postMessage(m),
        onMessage: null,
        onDeath: null,
        close: () => void worker.terminate(),
      };
      worker.on('message', (m) => out.onMessage?.(m));
      worker.on('error', (e) => out.onDeath?.(e instanceof Error ? e.message : String(e)));
      worker.on('exit', (code) => out.onDeath?.(`exit status ${code}`));
      return out;
    },
  };
}
