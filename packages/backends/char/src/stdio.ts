// The process's own terminal or pipes. Mirrors the stdio half of bhyve's uart_backend.c.
import { constants, fstatSync, openSync } from 'node:fs';
import { Socket } from 'node:net';
import process from 'node:process';
import { isatty } from 'node:tty';
import { HyveError } from '@hyve/core';
import { Inbox, type Input, type Output } from './channel.ts';
import { EscapeFilter, keyName } from './escape.ts';
import { FdOutput, SocketOutput } from './outputs.ts';

/** Ctrl-] */
const DEFAULT_ESCAPE = 0x1d;
/** Marks standard input as taken; on the stream, so that two copies of this package see each other. */
const TAKEN = Symbol.for('@hyve/char-backends/stdio');

/** Options of a `stdio` console. */
export interface StdioOptions {
  /**
   * Called when the user leaves with the escape sequence (terminals only). Default: the terminal is restored and the
   * process sends itself SIGTERM.
   */
  readonly onEscape?: () => void;
  /** Prefix key of the escape sequence as a control byte; default 0x1D, Ctrl-]. Zero: no escape sequence. */
  readonly escape?: number;
  /** Gets the one line that tells the user the way out; default standard error. Null: not told. */
  readonly notice?: ((line: string) => void) | null;
  /** Standard input ended or the terminal went away. The guest merely gets no more input. */
  readonly onEnd?: () => void;
}

/** @internal Picks a way to write to a standard descriptor that cannot block the process. */
export function openDescriptor(fd: number): Output {
  let kind: 'file' | 'pipe' | 'socket' | 'tty';
  try {
    const s = fstatSync(fd);
    kind = s.isFIFO() ? 'pipe' : s.isSocket() ? 'socket' : isatty(fd) ? 'tty' : 'file';
  } catch {
    kind = 'file'; // closed: writes fail once and are dropped from then on
  }
  if (kind === 'socket') return new SocketOutput(new Socket({ fd, readable: false, writable: true }));
  if (kind === 'pipe' || kind === 'tty') {
    // A description of our own, so that O_NONBLOCK does not leak to others that share this terminal or pipe.
    for (const path of [`/proc/self/fd/${fd}`, kind === 'tty' ? '/dev/tty' : '']) {
      if (path === '') continue;
      try {
        const own = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
        return new FdOutput({ fd: own, owned: true });
      } catch {
        // not this way
      }
    }
    if (kind === 'pipe') return new SocketOutput(new Socket({ fd, readable: false, writable: true }));
  }
  return new FdOutput({ fd, owned: false });
}

class StdinInput implements Input {
  private readonly inbox: Inbox;
  private readonly onEnd: (() => void) | null;
  private readonly tty: boolean;
  private readonly filter: EscapeFilter | null;
  private paused = false;
  private ended = false;
  private raw = false;
  private readonly data = (chunk: Uint8Array | string): void => {
    const bytes = typeof chunk === 'string' ? new TextEncoder().encode(chunk) : Uint8Array.from(chunk);
    if (this.filter === null) this.inbox.push(bytes);
    else this.filter.feed(bytes);
  };
  private readonly end = (): void => {
    if (this.ended) return;
    this.ended = true;
    this.onEnd?.();
  };
  private readonly restore = (): void => {
    if (!this.raw) return;
    this.raw = false;
    try {
      process.stdin.setRawMode(false);
    } catch {
      // the terminal is gone
    }
  };
  private readonly again = (): void => {
    // Continued after a stop: the shell has put its own modes back meanwhile.
    if (!this.tty || this.ended) return;
    this.raw = false;
    this.makeRaw();
  };
  private readonly fatal = (signal: NodeJS.Signals): void => {
    this.restore();
    // Somebody else handles it, or the default action is done by hand, since listening has replaced it.
    if (process.listenerCount(signal) > 1) return;
    process.removeListener(signal, this.fatal);
    process.kill(process.pid, signal);
  };

  constructor(inbox: Inbox, o: StdioOptions) {
    this.inbox = inbox;
    this.onEnd = o.onEnd ?? null;
    this.tty = process.stdin.isTTY === true;
    const prefix = o.escape ?? DEFAULT_ESCAPE;
    this.filter =
      this.tty && prefix !== 0
        ? new EscapeFilter({
            prefix,
            pass: (b) => this.inbox.push(b),
            onEscape: () => {
              if (o.onEscape !== undefined) o.onEscape();
              else {
                this.restore();
                process.kill(process.pid, 'SIGTERM');
              }
            },
          })
        : null;
    if (this.filter !== null && o.notice !== null) {
      const line = `Press ${keyName(prefix)} then x to leave.`;
      if (o.notice !== undefined) o.notice(line);
      else process.stderr.write(`${line}\n`);
    }
    process.stdin.on('data', this.data);
    process.stdin.on('end', this.end);
    process.stdin.on('close', this.end);
    process.stdin.on('error', this.end);
    if (this.tty) {
      this.makeRaw();
      process.on('exit', this.restore);
      process.on('SIGCONT', this.again);
      process.on('SIGHUP', this.fatal);
      process.on('SIGQUIT', this.fatal);
    }
  }

  private makeRaw(): void {
    try {
      process.stdin.setRawMode(true);
      this.raw = true;
    } catch {
      // not a terminal any more
    }
  }

  setPaused(paused: boolean): void {
    // A terminal is read even while the guest does not listen: the way out must work. The inbox bounds what is kept.
    const stop = paused && !this.tty;
    if (stop === this.paused || this.ended) return;
    this.paused = stop;
    if (stop) process.stdin.pause();
    else process.stdin.resume();
  }

  close(): Promise<void> {
    this.ended = true;
    this.restore();
    process.removeListener('exit', this.restore);
    process.removeListener('SIGCONT', this.again);
    process.removeListener('SIGHUP', this.fatal);
    process.removeListener('SIGQUIT', this.fatal);
    process.stdin.removeListener('data', this.data);
    process.stdin.removeListener('end', this.end);
    process.stdin.removeListener('close', this.end);
    process.stdin.removeListener('error', this.end);
    process.stdin.pause();
    process.stdin.unref?.();
    Reflect.set(process.stdin, TAKEN, false);
    return Promise.resolve();
  }
}

/**
 * @internal The process's standard input and output. A terminal goes to raw mode, so that every key, Ctrl-C too, reaches
 * the guest; it is restored on close, exit, crash and signals. Pipes, files and closed descriptors work as they are.
 * @throws HyveError `CHAR_STDIO_TAKEN` while another back end has it
 */
export function openStdioParts(o: StdioOptions): { inbox: Inbox; output: Output; input: Input } {
  if (Reflect.get(process.stdin, TAKEN) === true)
    throw new HyveError('CHAR_STDIO_TAKEN', 'stdio is the console of another device already; only one can have it');
  Reflect.set(process.stdin, TAKEN, true);
  const inbox = new Inbox(1 << 16);
  return { inbox, output: openDescriptor(1), input: new StdinInput(inbox, o) };
}
