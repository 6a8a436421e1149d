// Character back ends for Node: where a guest's serial console goes.
export { readRingLog } from './files.ts';
export { type OpenCharOptions, openCharBackend } from './open.ts';
export { type CharSpec, parseCharSpec } from './spec.ts';
export type { StdioOptions } from './stdio.ts';
