// What the thread of a ReadHelper runs.
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { type ReadHelperMessage, readPartHere } from './read-helper.ts';
import { ReadWords } from './read-words.ts';

/**
 * Serves a ReadHelper on this thread and does not return to the event loop before its `close`.
 * @param port where its messages arrive
 */
export function serveReads(port: MessagePort): void {
  const memories: SharedArrayBuffer[] = [];
  const memoryOf = (n: number): SharedArrayBuffer => {
    while (memories.length <= n) {
      // It was sent before the read that names it.
      const got = receiveMessageOnPort(port) as { message: ReadHelperMessage } | undefined;
      if (got === undefined) throw new Error(`memory ${n} was not sent`);
      if ('memory' in got.message) memories.push(got.message.memory);
    }
    return memories[n] as SharedArrayBuffer;
  };
  port.once('message', (first: ReadHelperMessage) => {
    if ('words' in first) new ReadWords(first.words).serve(memoryOf, readPartHere());
    port.close();
  });
}
