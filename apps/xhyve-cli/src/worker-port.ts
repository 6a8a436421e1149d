// A thread's end of its connection to the one that started it.
import { parentPort } from 'node:worker_threads';
import type { VcpuPort } from '@hyve/pc/vcpu-worker';

/** The connection of this thread; null on the process's first. */
export function workerPort(): VcpuPort | null {
  const port = parentPort;
  return port && { post: (m) => port.postMessage(m), listen: (f) => void port.on('message', f) };
}
