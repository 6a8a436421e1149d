// Software x86-64 CPU.
export type { CodeCache } from './interp.ts';
export type { CompiledStore } from './kept.ts';
export { SoftCpu, type SoftCpuOptions, SoftVcpu, SoftVm } from './soft.ts';
export { serveTranslator, type TranslatorPort, type TranslatorThread } from './translator.ts';
