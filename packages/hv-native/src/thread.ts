// What the host's kernel knows of the calling thread.
import { loadLibrary } from './library.ts';

/**
 * Gives the function that tells how much processor time the thread that calls it has used, ns, exact to the moment of the
 * call; null where the library is not built for this machine. `process.threadCpuUsage` is up to a scheduler's tick late.
 */
export function threadClock(): (() => number) | null {
  const library = loadLibrary('hyve-thread.node') as { readonly cpuNs?: () => number } | null;
  return library?.cpuNs ?? null;
}
