// A second thread for large reads from the host's cache. All there is to them is copying, which it does beside the guest;
// the thread that has the reads takes part as soon as it has nothing else to do.

import { totalLength } from './buffers.ts';
import { loadHostCalls } from './libc.ts';
import { MAX_PARTS, PART, type ReadPart, ReadWords, readWhole } from './read-words.ts';

/** Reads below this are not worth a word to another thread. */
const LEAST = 512 << 10;
/** Bytes of large reads after which the thread is started: many machines never come to that. */
const START_AFTER = 32 << 20;
/** Memories that the thread knows, at most. */
const MAX_MEMORIES = 8;
/** How often reads are looked at while nobody polls, ms. */
const FALLBACK_MS = 2;

/** A thread as this package needs it. */
export interface ReadHelperThread {
  /** Sends a message, {@link ReadHelperMessage}. */
  post(message: ReadHelperMessage): void;
  /** Ends the thread. */
  close(): Promise<void>;
}

/** What the thread is told by {@link ReadHelperThread.post}. */
export type ReadHelperMessage = { readonly words: SharedArrayBuffer } | { readonly memory: SharedArrayBuffer };

/** Options of {@link ReadHelper}. */
export interface ReadHelperOptions {
  /** Starts a thread that runs `serveReads` of `@hyve/block-backends/read-worker`. Called once, when reads are large enough. */
  readonly start: () => ReadHelperThread;
}

/**
 * Takes part in large reads of files whose bytes are in the host's cache, for all disks that are opened with it on one
 * thread. Buffers must lie in shared memory, as a guest's do; other reads are not touched. Of no use on a host with a single
 * processor. It is the host's work of a machine (`HostWork` of `@hyve/vmm`): until something polls it, reads are over when
 * they return, and the two threads just share the copying.
 * @example
 * const helper = new ReadHelper({ start: () => thread(new Worker(new URL('./read-worker.js', import.meta.url))) });
 * const disk = await openBlock('disk.img', { helper });
 */
export class ReadHelper {
  private readonly start: () => ReadHelperThread;
  private readonly words: ReadWords = new ReadWords();
  private readonly memories: SharedArrayBuffer[] = [];
  private readonly memoryOf = (n: number): SharedArrayBuffer => this.memories[n] as SharedArrayBuffer;
  private readonly readPart: ReadPart = readPartHere();
  /** Of the reads under way, the oldest first. */
  private readonly waiting: ((ok: boolean) => void)[] = [];
  private readonly look = (): void => this.fallback();
  private looking = false;
  private thread: ReadHelperThread | null = null;
  private seen = 0;
  private off = false;
  private polled = false;
  private nReads = 0;
  private nOwn = 0;

  constructor(o: ReadHelperOptions) {
    this.start = o.start;
  }

  /** Large reads that were shared out, and parts of them (128 KiB) that were read on the thread that has the reads. */
  counters(): { readonly reads: number; readonly ownParts: number } {
    return { reads: this.nReads, ownParts: this.nOwn };
  }

  // ---- The host's work of a machine --------------------------------------------------------------------------------

  /** Reads under way. */
  get pending(): number {
    return this.waiting.length;
  }

  /** From now on somebody polls between the guest's slices: reads go on beside the guest. */
  attach(): void {
    this.polled = true;
  }

  /** Ends reads that are over. True if there were any: whoever waits for them is told once this thread's stack is empty. */
  poll(): boolean {
    let any = false;
    for (;;) {
      const ended = this.words.end();
      if (ended < 0) return any;
      any = true;
      (this.waiting.shift() as (ok: boolean) => void)(ended === 1);
    }
  }

  /** Reads a part, or sleeps until one is read elsewhere, at most `ns`. For a thread whose guest waits. */
  help(ns: number): void {
    if (this.waiting.length === 0) return;
    if (this.words.takePart(this.memoryOf, this.readPart)) this.nOwn++;
    else this.words.waitFor(ns / 1e6);
  }

  private fallback(): void {
    this.looking = false;
    if (this.waiting.length === 0) return;
    this.help(0);
    this.poll();
    this.keepLooking();
  }

  private keepLooking(): void {
    if (this.looking || this.waiting.length === 0) return;
    this.looking = true;
    setTimeout(this.look, FALLBACK_MS);
  }

  // ---- The files' side ---------------------------------------------------------------------------------------------

  /** @internal Whether a read of this length is begun by {@link ReadHelper.later} and not waited for. */
  takes(length: number): boolean {
    return this.polled && length >= LEAST && length <= PART * MAX_PARTS && !this.off && this.words.ready;
  }

  /**
   * @internal Reads on both threads; resolves to whether all of it was read. Null: nothing was done.
   */
  later(
    fd: number,
    cached: boolean,
    offset: number,
    buffers: readonly Uint8Array[],
    length: number,
  ): Promise<boolean> | null {
    if (!this.begin(fd, cached, offset, buffers, length)) return null;
    const p = new Promise<boolean>((resolve) => this.waiting.push(resolve));
    this.keepLooking();
    return p;
  }

  /** @internal The same, and returns when it is over. Null: nothing was done. */
  now(fd: number, cached: boolean, offset: number, buffers: readonly Uint8Array[], length: number): boolean | null {
    // Others may be under way, which have people waiting for them: not from within this call.
    if (this.waiting.length > 0 || !this.begin(fd, cached, offset, buffers, length)) return null;
    for (;;) {
      if (this.words.takePart(this.memoryOf, this.readPart)) this.nOwn++;
      else this.words.waitFor(1000);
      const ended = this.words.end();
      if (ended >= 0) return ended === 1;
    }
  }

  private begin(fd: number, cached: boolean, offset: number, buffers: readonly Uint8Array[], length: number): boolean {
    if (length < LEAST || length > PART * MAX_PARTS || this.off) return false;
    if (this.thread === null) {
      this.seen += length;
      if (this.seen >= START_AFTER) this.startThread();
      return false;
    }
    if (!this.words.ready) return false;
    const memory = (buffers[0] as Uint8Array).buffer;
    if (!(memory instanceof SharedArrayBuffer)) return false;
    for (const b of buffers) if (b.buffer !== memory) return false;
    const n = this.numberOf(memory);
    if (n < 0 || !this.words.begin(fd, cached, offset, buffers, length, n)) return false;
    this.nReads++;
    return true;
  }

  private startThread(): void {
    try {
      this.thread = this.start();
      this.thread.post({ words: this.words.shared });
    } catch {
      this.off = true; // there is no thread to be had: reads go on without
    }
  }

  private numberOf(memory: SharedArrayBuffer): number {
    const n = this.memories.indexOf(memory);
    if (n >= 0 || this.memories.length === MAX_MEMORIES) return n;
    (this.thread as ReadHelperThread).post({ memory });
    return this.memories.push(memory) - 1;
  }

  /** Ends what is under way, and the thread. Disks go on without it. */
  async close(): Promise<void> {
    this.off = true;
    while (this.waiting.length > 0) {
      this.help(1e6);
      this.poll();
    }
    this.words.quit();
    await this.thread?.close();
  }
}

/** @internal How a part is read on the thread that calls this. */
export function readPartHere(): ReadPart {
  const calls = loadHostCalls();
  return (fd, cached, offset, vectors) => {
    const length = totalLength(vectors);
    return cached
      ? calls !== null && calls.readCached(fd, offset, vectors) === length
      : readWhole(fd, offset, vectors, length);
  };
}
