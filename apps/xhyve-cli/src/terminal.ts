// The user's terminal as a CharBackend: raw mode while the guest has it, put back whatever happens. Also `null`, for a
// port with nothing behind it, and files or devices by path.
import { open } from 'node:fs/promises';
import type { Readable, Writable } from 'node:stream';
import type { CharBackend } from '@hyve/core';
import { notBuilt, runError } from './errors.ts';

const ESCAPE = 0x1d; // Ctrl-]
const LEAVE = 0x78; // x
const HOLD_LIMIT = 65536;

/** What {@link EscapeFilter.feed} found. */
export interface Escaped {
  /** Bytes for the guest. */
  readonly bytes: Uint8Array;
  /** Whether the user asked to leave. */
  readonly leave: boolean;
}

/** Finds Ctrl-] x in typed bytes. Ctrl-] twice sends one Ctrl-]; before any other key both bytes go to the guest. */
export class EscapeFilter {
  private armed = false;

  /** Filters what was typed; what follows the leave sequence is dropped. */
  feed(typed: Uint8Array): Escaped {
    const out: number[] = [];
    for (const b of typed) {
      if (!this.armed) {
        if (b === ESCAPE) this.armed = true;
        else out.push(b);
        continue;
      }
      this.armed = false;
      if (b === LEAVE) return { bytes: Uint8Array.from(out), leave: true };
      out.push(ESCAPE);
      if (b !== ESCAPE) out.push(b);
    }
    return { bytes: Uint8Array.from(out), leave: false };
  }
}

/** The part of a TTY input stream that raw mode needs. */
export interface TerminalInput extends Readable {
  readonly isTTY?: boolean;
  setRawMode?(on: boolean): unknown;
}

/** Bytes from a stream for a device that may not be ready: held back in order, source paused beyond 64 KiB. */
class Inbox {
  private readonly held: Uint8Array[] = [];
  private size = 0;
  private blocked = false;
  private sink: ((bytes: Uint8Array) => void) | null = null;
  private readonly throttle: (stop: boolean) => void;

  constructor(throttle: (stop: boolean) => void) {
    this.throttle = throttle;
  }
  get target(): ((bytes: Uint8Array) => void) | null {
    return this.sink;
  }
  set target(f: ((bytes: Uint8Array) => void) | null) {
    this.sink = f;
    this.flush();
  }
  setBlocked(blocked: boolean): void {
    this.blocked = blocked;
    this.flush();
  }
  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.held.push(bytes);
    this.size += bytes.length;
    if (this.size > HOLD_LIMIT) this.throttle(true);
    this.flush();
  }
  private flush(): void {
    while (!this.blocked && this.sink !== null) {
      const next = this.held.shift();
      if (next === undefined) break;
      this.size -= next.length;
      this.sink(next);
    }
    if (this.size <= HOLD_LIMIT) this.throttle(false);
  }
}

/**
 * Standard input and output as a serial port. On a terminal it takes raw mode, so that Ctrl-C and friends reach the
 * guest, and Ctrl-] x leaves; {@link Terminal.restore} puts the terminal back and may be called from an exit handler.
 */
export class Terminal implements CharBackend {
  private readonly input: TerminalInput;
  private readonly output: Writable;
  private readonly onLeave: () => void;
  private readonly onGone: () => void;
  private readonly filter: EscapeFilter = new EscapeFilter();
  private readonly inbox: Inbox;
  private gone = false;
  private closed = false;
  private rawNow = false;
  onDrain: (() => void) | null = null;

  /**
   * @param o.onLeave the user typed Ctrl-] x
   * @param o.onGone the terminal went away; output is dropped from here on
   */
  constructor(o: { input: TerminalInput; output: Writable; onLeave: () => void; onGone: () => void }) {
    this.input = o.input;
    this.output = o.output;
    this.onLeave = o.onLeave;
    this.onGone = o.onGone;
    this.inbox = new Inbox((stop) => {
      if (this.closed) return;
      if (stop) this.input.pause();
      else if (this.input.isPaused()) this.input.resume();
    });
    this.output.on('drain', this.drained);
    this.output.on('error', this.lost);
    this.input.on('error', this.lost);
    this.input.on('end', this.ended);
    this.input.on('data', this.typed);
    this.takeRaw();
  }

  /** Whether the terminal is in raw mode: Ctrl-C belongs to the guest. */
  get raw(): boolean {
    return this.rawNow;
  }

  get onData(): ((bytes: Uint8Array) => void) | null {
    return this.inbox.target;
  }
  set onData(f: ((bytes: Uint8Array) => void) | null) {
    this.inbox.target = f;
  }

  setFlow(paused: boolean): void {
    this.inbox.setBlocked(paused);
  }

  write(bytes: Uint8Array): boolean {
    if (this.gone || this.closed) return true;
    return this.output.write(bytes.slice());
  }

  /** Gives the guest bytes as if they were typed, past the escape filter. */
  inject(bytes: Uint8Array): void {
    this.inbox.push(bytes);
  }

  /** Takes raw mode (again, after the process was stopped and continued). */
  takeRaw(): void {
    if (this.input.isTTY !== true || this.input.setRawMode === undefined || this.closed) return;
    try {
      this.input.setRawMode(true);
      this.rawNow = true;
    } catch {
      this.lost();
    }
  }

  /** Puts the terminal back. Synchronous, harmless twice. */
  restore(): void {
    if (!this.rawNow) return;
    this.rawNow = false;
    try {
      this.input.setRawMode?.(false);
    } catch {
      // The terminal is gone: nothing to put back.
    }
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.restore();
    this.input.off('data', this.typed);
    this.input.off('end', this.ended);
    this.output.off('drain', this.drained);
    this.input.pause();
    // The error handlers stay: a terminal that goes away now must not end the process with a stack trace.
    if (!this.gone && this.output.writableLength > 0) {
      await new Promise<void>((done) => {
        const finish = (): void => {
          clearTimeout(limit);
          done();
        };
        const limit = setTimeout(finish, 1000);
        this.output.write('', finish);
      });
    }
  }

  private readonly typed = (chunk: Uint8Array): void => {
    if (!this.rawNow) {
      this.inbox.push(chunk);
      return;
    }
    const { bytes, leave } = this.filter.feed(chunk);
    this.inbox.push(bytes);
    if (leave) this.onLeave();
  };
  private readonly drained = (): void => this.onDrain?.();
  private readonly ended = (): void => {
    if (this.rawNow) this.lost();
  };
  private readonly lost = (): void => {
    if (this.gone) return;
    this.gone = true;
    this.restore();
    this.onGone();
    this.onDrain?.();
  };
}

/** A serial port with nothing on its line: output vanishes, nothing arrives. */
export class NullChar implements CharBackend {
  onData: ((bytes: Uint8Array) => void) | null = null;
  onDrain: (() => void) | null = null;
  write(_bytes: Uint8Array): boolean {
    return true;
  }
  setFlow(_paused: boolean): void {}
  async close(): Promise<void> {}
}

/**
 * Opens a character device or file for both directions. A regular file receives what the guest writes (it is emptied
 * first and must exist or be creatable); it sends nothing.
 */
export async function openPath(path: string): Promise<CharBackend> {
  const handle = await open(path, 'a+').catch((e: unknown) => {
    throw runError(`serial port back end '${path}': ${e instanceof Error ? e.message : String(e)}`, e);
  });
  const stat = await handle.stat();
  if (stat.isFile()) {
    await handle.truncate(0);
    const stream = handle.createWriteStream();
    const backend: CharBackend = {
      onData: null,
      onDrain: null,
      write: (bytes) => stream.write(bytes.slice()),
      setFlow: () => {},
      close: () => new Promise((done) => stream.end(() => done())),
    };
    stream.on('drain', () => backend.onDrain?.());
    stream.on('error', () => {});
    return backend;
  }
  await handle.close();
  throw notBuilt(`the serial port back end '${path}' (a device)`);
}
