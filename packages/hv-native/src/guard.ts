// The way out when the thread that handles signals does not come back from the kernel.
import { constants } from 'node:os';
import { HyveError } from '@hyve/core';
import { loadNative } from './native.ts';

/**
 * Makes a signal that the process handles (`process.on`, called before) end it for certain: the second one that the event
 * loop has not answered by calling the function that this returns ends the process at once, whatever its threads do.
 * @throws HyveError `ENGINE_UNAVAILABLE` without the library, `SIGNAL` if nobody handles the signal
 */
export function guardSignal(name: 'SIGTERM' | 'SIGINT' | 'SIGHUP'): () => void {
  const native = loadNative();
  try {
    const r = native.guard(constants.signals[name]);
    if (r < 0) throw new Error(`error ${-r}`);
  } catch (e) {
    throw new HyveError('SIGNAL', `${name} cannot be guarded: ${e instanceof Error ? e.message : String(e)}`, e);
  }
  return () => native.answered();
}
