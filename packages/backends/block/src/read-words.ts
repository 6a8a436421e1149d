// The words that large reads are shared out in between the thread of the devices and its helper's: who has which part, and
// what to read. Both sides map the same memory. What a read is made of is written before its ticket is given out, and read
// after a part was taken from that ticket; all else goes through Atomics.
import { readSync, readvSync } from 'node:fs';
import { Views } from '@hyve/core';

/** Bytes of one part: some 15 µs of copying, so that neither side waits long for the other's last. @internal */
export const PART: number = 128 << 10;
/** Parts of a read at most: of the largest read that is done from the host's cache. @internal */
export const MAX_PARTS = 16;
/** Buffers of a read at most; one that ends in another part than it begins counts for each. @internal */
export const MAX_VECTORS: number = 1024 + MAX_PARTS;
/** Reads under way at most. @internal */
export const SLOTS = 8;

/** The helper is there. */
const READY = 0;
/** Goes up with each read and wakes the helper. */
const BELL = 1;
/** The helper sleeps, so that the bell has to be rung. */
const ASLEEP = 2;
/** The helper shall end. */
const QUIT = 3;
/** Number of the oldest read that is under way, and of the next one; read n has slot n mod SLOTS. */
const HEAD = 4;
const TAIL = 5;
const SLOT_0 = 8;

/** In a slot: parts that nobody has taken; they are taken from the first to the last. */
const LEFT = 0;
/** Parts that are over. */
const DONE = 1;
/** One of them could not be read as a whole. */
const FAILED = 2;
/** What is read: number of parts, file descriptor, 1 for what is in the host's cache alone, number of the buffers' memory. */
const PARTS = 3;
const FD = 4;
const CACHED = 5;
const MEMORY = 6;
/** Where in the file, in halves. */
const OFFSET_LO = 7;
const OFFSET_HI = 8;
/** First vector of each part, and the one behind the last. */
const FIRST = 9;
const SLOT_WORDS = FIRST + MAX_PARTS + 1;
const WORDS = SLOT_0 + SLOTS * SLOT_WORDS;
const LENGTHS = WORDS * 4;
const STARTS = Math.ceil((LENGTHS + SLOTS * MAX_VECTORS * 4) / 8) * 8;
const BYTES = STARTS + SLOTS * MAX_VECTORS * 8;

/** How long the helper looks for another read before it sleeps, ms: waking it takes as long as two parts. */
const LOOK_MS = 0.05;

/** Reads all of the vectors at `offset`, from the host's cache alone if `cached`. False: not all of it. @internal */
export type ReadPart = (fd: number, cached: boolean, offset: number, vectors: readonly Uint8Array[]) => boolean;

/** A read on this thread; true if all of it could be read. @internal */
export function readWhole(fd: number, offset: number, vectors: readonly Uint8Array[], length: number): boolean {
  try {
    const one = vectors.length === 1 ? (vectors[0] as Uint8Array) : null;
    return length === (one === null ? readvSync(fd, vectors, offset) : readSync(fd, one, 0, length, offset));
  } catch {
    return false;
  }
}

/** Both sides' view of the words. @internal */
export class ReadWords {
  /** For the other side. */
  readonly shared: SharedArrayBuffer;
  private readonly words: Int32Array;
  private readonly lengths: Uint32Array;
  private readonly starts: Float64Array;
  private readonly views: Map<SharedArrayBuffer, Views> = new Map();

  constructor(shared: SharedArrayBuffer = new SharedArrayBuffer(BYTES)) {
    this.shared = shared;
    this.words = new Int32Array(shared, 0, WORDS);
    this.lengths = new Uint32Array(shared, LENGTHS, SLOTS * MAX_VECTORS);
    this.starts = new Float64Array(shared, STARTS, SLOTS * MAX_VECTORS);
  }

  private slotOf(read: number): number {
    return SLOT_0 + (read & (SLOTS - 1)) * SLOT_WORDS;
  }

  /** Reads the next part that nobody has taken, of the oldest read that has one. False: there is none. */
  takePart(memoryOf: (n: number) => SharedArrayBuffer, readPart: ReadPart): boolean {
    const { words } = this;
    const tail = Atomics.load(words, TAIL);
    for (let read = Atomics.load(words, HEAD); read !== tail; read = (read + 1) | 0) {
      const s = this.slotOf(read);
      // Whatever read has the slot by the time that a part of it is taken: it stays until that part is done.
      const left = Atomics.load(words, s + LEFT);
      if (left === 0 || Atomics.compareExchange(words, s + LEFT, left, left - 1) !== left) continue;
      const part = (words[s + PARTS] as number) - left;
      let ok = false;
      try {
        ok =
          Atomics.load(words, s + FAILED) === 0 &&
          readPart(
            words[s + FD] as number,
            words[s + CACHED] === 1,
            (words[s + OFFSET_HI] as number) * 0x1_0000_0000 + ((words[s + OFFSET_LO] as number) >>> 0) + part * PART,
            this.vectors(read, s, part, memoryOf(words[s + MEMORY] as number)),
          );
      } catch {
        // The file's owner reads it again in a way that says what is wrong.
      }
      if (!ok) Atomics.store(words, s + FAILED, 1);
      Atomics.add(words, s + DONE, 1);
      Atomics.notify(words, s + DONE);
      return true;
    }
    return false;
  }

  private vectors(read: number, s: number, part: number, memory: SharedArrayBuffer): Uint8Array[] {
    const list: Uint8Array[] = [];
    let views = this.views.get(memory);
    if (views === undefined) {
      views = new Views(new Uint8Array(memory));
      this.views.set(memory, views);
    }
    const base = (read & (SLOTS - 1)) * MAX_VECTORS;
    const end = base + (this.words[s + FIRST + part + 1] as number);
    for (let i = base + (this.words[s + FIRST + part] as number); i < end; i++)
      list.push(views.of(this.starts[i] as number, this.lengths[i] as number));
    return list;
  }

  // ---- The side that has the reads ---------------------------------------------------------------------------------

  /** Whether the helper has begun to serve. */
  get ready(): boolean {
    return Atomics.load(this.words, READY) === 1;
  }

  /** Reads under way. */
  get pending(): number {
    return ((this.words[TAIL] as number) - (this.words[HEAD] as number)) | 0;
  }

  /**
   * Gives a read out. False: it has too many buffers, or there are too many reads.
   * @param memory number of the memory in which all buffers lie, as the helper knows it
   */
  begin(
    fd: number,
    cached: boolean,
    offset: number,
    buffers: readonly Uint8Array[],
    length: number,
    memory: number,
  ): boolean {
    const { words } = this;
    if (this.pending === SLOTS) return false;
    const read = words[TAIL] as number;
    const s = this.slotOf(read);
    const parts = this.cut(read, s, buffers);
    if (parts === 0 || parts !== Math.ceil(length / PART)) return false;
    words[s + PARTS] = parts;
    words[s + FD] = fd;
    words[s + CACHED] = cached ? 1 : 0;
    words[s + MEMORY] = memory;
    words[s + OFFSET_LO] = offset | 0;
    words[s + OFFSET_HI] = Math.floor(offset / 0x1_0000_0000);
    Atomics.store(words, s + DONE, 0);
    Atomics.store(words, s + FAILED, 0);
    Atomics.store(words, s + LEFT, parts);
    Atomics.store(words, TAIL, (read + 1) | 0);
    Atomics.add(words, BELL, 1);
    if (Atomics.load(words, ASLEEP) === 1) Atomics.notify(words, BELL);
    return true;
  }

  /** Cuts a read into parts. Their number, or 0 for more buffers or bytes than there is room for. */
  private cut(read: number, s: number, buffers: readonly Uint8Array[]): number {
    const { words, lengths, starts } = this;
    const base = (read & (SLOTS - 1)) * MAX_VECTORS;
    let part = 0;
    let room = PART;
    let n = 0;
    words[s + FIRST] = 0;
    for (const b of buffers) {
      let at = 0;
      while (at < b.length) {
        if (n === MAX_VECTORS || part === MAX_PARTS) return 0;
        const take = Math.min(room, b.length - at);
        starts[base + n] = b.byteOffset + at;
        lengths[base + n++] = take;
        at += take;
        room -= take;
        if (room > 0) continue;
        words[s + FIRST + ++part] = n;
        room = PART;
      }
    }
    if (room < PART) words[s + FIRST + ++part] = n;
    return part;
  }

  /** Ends the oldest read if all its parts are over: 1 all of it was read, 0 not all, -1 it is still under way. */
  end(): number {
    const { words } = this;
    if (this.pending === 0) return -1;
    const read = words[HEAD] as number;
    const s = this.slotOf(read);
    if (Atomics.load(words, s + DONE) !== words[s + PARTS]) return -1;
    const ok = Atomics.load(words, s + FAILED) === 0;
    Atomics.store(words, HEAD, (read + 1) | 0);
    return ok ? 1 : 0;
  }

  /** Sleeps until something of the oldest read is over, at most `ms`. */
  waitFor(ms: number): void {
    const { words } = this;
    const s = this.slotOf(words[HEAD] as number);
    const done = Atomics.load(words, s + DONE);
    if (this.pending > 0 && done !== words[s + PARTS]) Atomics.wait(words, s + DONE, done, ms);
  }

  /** Tells the helper to end. */
  quit(): void {
    Atomics.store(this.words, QUIT, 1);
    Atomics.add(this.words, BELL, 1);
    Atomics.notify(this.words, BELL);
  }

  // ---- The helper's side -------------------------------------------------------------------------------------------

  /**
   * Takes parts of reads until it is told to end.
   * @param memoryOf memory by its number
   */
  serve(memoryOf: (n: number) => SharedArrayBuffer, readPart: ReadPart): void {
    const { words } = this;
    Atomics.store(words, READY, 1);
    while (Atomics.load(words, QUIT) === 0) {
      const bell = Atomics.load(words, BELL);
      while (this.takePart(memoryOf, readPart));
      const until = performance.now() + LOOK_MS;
      while (Atomics.load(words, BELL) === bell && performance.now() < until);
      if (Atomics.load(words, BELL) !== bell) continue;
      Atomics.store(words, ASLEEP, 1);
      Atomics.wait(words, BELL, bell);
      Atomics.store(words, ASLEEP, 0);
    }
    Atomics.store(words, READY, 0);
  }
}
