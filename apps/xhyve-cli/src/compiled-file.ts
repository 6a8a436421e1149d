// Machine code of WebAssembly modules in the user's cache: what V8's optimising compiler made in one run is there when the
// next begins. A file holds the code of the modules that were in use together, and is written anew as a whole, a second
// after the first module came into use, two seconds after that, then four, and so on.
import { hash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname, extname } from 'node:path';
import { crc32 } from 'node:zlib';
import type { CompiledCode } from '@hyve/hv-native/compiled';
import type { CompiledStore } from '@hyve/pc/translator-worker';
import { keepNewest, makePrivate } from './user-cache.ts';

/** Largest file, bytes: modules that do not find room are compiled anew. */
export const MOST_COMPILED: number = 32 << 20;
/** Files of a kind that are kept; the ones not written for longest go. */
const MAX_FILES = 12;
/** Before the entries: "HYVEMC1\0", 8 bytes of the digest of the host's name. */
const HEADER = 16;
const MAGIC = 'HYVEMC1\0';
/** Before each entry: 16 bytes of the SHA-256 of the module's WebAssembly, length and CRC-32 of its code (little-endian). */
const FRAME = 24;
/** First wait before the file is written, ms, and the longest. */
const FIRST_MS = 1000;
const LAST_MS = 300_000;
/** A file is left as it is if the new one would differ in size by less than one part of this. */
const CHANGE = 64;

/** What {@link CompiledFile} needs to know of V8's settings: they are part of its code. */
export type WithSettings = <T>(f: () => T) => T;

interface Entry {
  /** Where its code is in the file, and how long. */
  readonly at: number;
  readonly length: number;
  readonly crc: number;
}

/** A WebAssembly.Module. */
type Module = Parameters<CompiledStore['add']>[1];

/** The code of the modules of one file. Whatever is wrong with the file: it is an empty one. */
export class CompiledFile implements CompiledStore {
  private readonly path: string;
  private readonly engine: CompiledCode;
  private readonly settings: WithSettings;
  private readonly most: number;
  /** The file that the entries are in. */
  private fd: number | null = null;
  private entries: Map<string, Entry> | null = null;
  private readonly modules: Map<string, Module> = new Map();
  private timer: NodeJS.Timeout | null = null;
  private waitMs = FIRST_MS;
  /** Bytes of the file as it is. */
  private size = 0;
  /** Modules that were taken from the file, and such as V8 or a checksum refused. */
  taken = 0;
  refused = 0;

  /**
   * @param settings runs a function with the settings of V8 that are the same in each run whenever code is read or made
   * @param most bytes of the file
   */
  constructor(path: string, engine: CompiledCode, settings: WithSettings, most: number = MOST_COMPILED) {
    this.path = path;
    this.engine = engine;
    this.settings = settings;
    this.most = most;
  }

  take(wasm: Uint8Array): Module | null {
    this.entries ??= this.open();
    if (this.fd === null) return null;
    const key = keyOf(wasm);
    const entry = this.entries.get(key);
    if (entry === undefined) return null;
    this.entries.delete(key);
    try {
      const code = new Uint8Array(entry.length);
      const whole = readSync(this.fd, code, 0, entry.length, entry.at) === entry.length && crc32(code) === entry.crc;
      const module = whole ? this.settings(() => this.engine.deserialize(wasm, code)) : null;
      if (module !== null) {
        this.taken++;
        return module;
      }
    } catch {
      // As if it were not there.
    }
    // What refused one refuses all: another processor, other settings.
    this.refused++;
    this.release();
    return null;
  }

  add(wasm: Uint8Array, module: Module): void {
    this.modules.set(keyOf(wasm), module);
    this.schedule();
  }

  clear(): void {
    this.save();
    this.modules.clear();
    this.release();
  }

  /** Writes the file now, if there is more than is in it. */
  save(): void {
    let part: string | null = null;
    let out: number | null = null;
    try {
      const made = this.settings(() => this.serialize());
      const size = made.reduce((n, [, code]) => n + FRAME + code.length, HEADER);
      if (made.length === 0 || Math.abs(size - this.size) * CHANGE < size) return;
      makePrivate(dirname(this.path));
      keepNewest(dirname(this.path), MAX_FILES, extname(this.path));
      part = `${this.path}.${process.pid}`;
      out = openSync(part, 'w', 0o600);
      write(out, this.header());
      for (const [key, code] of made) {
        const frame = Buffer.alloc(FRAME);
        frame.write(key, 0, 16, 'latin1');
        frame.writeUInt32LE(code.length, 16);
        frame.writeUInt32LE(crc32(code), 20);
        write(out, frame);
        write(out, code);
      }
      renameSync(part, this.path);
      part = null;
      this.size = size;
    } catch {
      // A full disk, a directory that is not ours: what cannot be kept is made again.
    } finally {
      if (out !== null) closeSync(out);
      if (part !== null) rmSync(part, { force: true });
    }
  }

  /** The code there is, in the order the modules came, as much as there is room for. */
  private serialize(): [string, Uint8Array][] {
    const made: [string, Uint8Array][] = [];
    let left = this.most - HEADER;
    for (const [key, module] of this.modules) {
      const code = this.engine.serialize(module);
      if (code === null || code.length + FRAME > left) continue;
      left -= code.length + FRAME;
      made.push([key, code]);
    }
    return made;
  }

  private schedule(): void {
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.save();
      if (this.modules.size > 0) this.schedule();
    }, this.waitMs);
    this.timer.unref();
    this.waitMs = Math.min(2 * this.waitMs, LAST_MS);
  }

  /** Finds what is in the file. It may be run as this user's program: it must be this user's alone. */
  private open(): Map<string, Entry> {
    const entries = new Map<string, Entry>();
    try {
      this.fd = openSync(this.path, 'r');
      const { size, uid, mode } = fstatSync(this.fd);
      const frame = Buffer.alloc(FRAME);
      const own = uid === process.getuid?.() && (mode & 0o022) === 0;
      if (
        !own ||
        readSync(this.fd, frame, 0, HEADER, 0) !== HEADER ||
        frame.compare(this.header(), 0, 16, 0, 16) !== 0
      ) {
        this.release();
        return entries;
      }
      let at = HEADER;
      while (at + FRAME <= size && readSync(this.fd, frame, 0, FRAME, at) === FRAME) {
        const length = frame.readUInt32LE(16);
        if (length > size - at - FRAME) break;
        entries.set(frame.toString('latin1', 0, 16), { at: at + FRAME, length, crc: frame.readUInt32LE(20) });
        at += FRAME + length;
      }
      this.size = at;
    } catch {
      this.release();
    }
    return entries;
  }

  private release(): void {
    if (this.fd !== null) closeSync(this.fd);
    this.fd = null;
  }

  private header(): Buffer {
    return Buffer.concat([Buffer.from(MAGIC, 'latin1'), hash('sha256', this.engine.host, 'buffer').subarray(0, 8)]);
  }
}

/** 128 bits of a digest: another module's code must not pass for this one's. */
function keyOf(wasm: Uint8Array): string {
  return hash('sha256', wasm, 'buffer').toString('latin1', 0, 16);
}

function write(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
}
