// What the thread of the software CPU's translator runs; loads no more of the CPU than it needs.
export {
  type CompiledStore,
  serveTranslator,
  type TranslationStore,
  type TranslatorPort,
  type TranslatorThread,
} from '@hyve/cpu/translator';
