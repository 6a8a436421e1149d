// A console on something that exists in the file system: a terminal device or a FIFO. Mirrors bhyve's tty back end.
import { closeSync, constants, fstatSync, openSync, type Stats, statSync } from 'node:fs';
import { isatty, ReadStream } from 'node:tty';
import { HyveError } from '@hyve/core';
import type { Inbox, Input, Output } from './channel.ts';
import { DiscardOutput, errorCode, FdOutput } from './outputs.ts';

/** How often a FIFO without a reader is tried again. */
const FIFO_RETRY_MS = 100;

class TtyInput implements Input {
  private readonly stream: ReadStream;
  constructor(stream: ReadStream, inbox: Inbox) {
    this.stream = stream;
    stream.on('data', (chunk) => inbox.push(Uint8Array.from(chunk as Uint8Array)));
    stream.on('error', () => {}); // hung up: no more input
    stream.setRawMode(true);
  }
  setPaused(paused: boolean): void {
    if (paused) this.stream.pause();
    else this.stream.resume();
  }
  close(): Promise<void> {
    if (this.stream.destroyed) return Promise.resolve();
    return new Promise((resolve) => {
      this.stream.once('close', () => resolve());
      try {
        this.stream.setRawMode(false);
      } catch {
        // gone
      }
      this.stream.destroy();
    });
  }
}

/** Output to a FIFO: dropped while nobody reads. */
class FifoOutput implements Output {
  onDrain: (() => void) | null = null;
  private readonly path: string;
  private out: FdOutput | null = null;
  private nextTry = 0;
  private closed = false;

  constructor(path: string) {
    this.path = path;
    this.open();
  }

  private open(): void {
    this.nextTry = Date.now() + FIFO_RETRY_MS;
    try {
      const out = new FdOutput({
        fd: openSync(this.path, constants.O_WRONLY | constants.O_NONBLOCK),
        owned: true,
      });
      out.onDrain = () => this.onDrain?.();
      out.onBroken = () => {
        this.out = null;
        void out.close();
      };
      this.out = out;
    } catch {
      // ENXIO: no reader yet
    }
  }

  write(bytes: Uint8Array): boolean {
    if (this.closed) return true;
    if (this.out === null && Date.now() >= this.nextTry) this.open();
    return this.out === null || this.out.write(bytes);
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.out?.close();
  }
}

/** @internal Opens `path`. @throws HyveError `CHAR_PATH` when it is nothing a console can be on */
export function openPath(path: string, inbox: Inbox): { output: Output; input: Input | null } {
  let stat: Stats;
  try {
    stat = statSync(path);
  } catch (e) {
    throw new HyveError('CHAR_PATH', `cannot open ${path} as a console: ${errorCode(e) || String(e)}`, e);
  }
  if (stat.isFIFO()) return { output: new FifoOutput(path), input: null };
  if (!stat.isCharacterDevice()) {
    const what = stat.isFile()
      ? `a regular file; write file=${path} or log=${path} to record into it`
      : stat.isSocket()
        ? `a socket; write unix:PATH for a socket of the console's own`
        : stat.isDirectory()
          ? 'a directory'
          : 'no terminal';
    throw new HyveError('CHAR_PATH', `${path} is ${what}`);
  }
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
  } catch (e) {
    throw new HyveError('CHAR_PATH', `cannot open ${path} as a console: ${errorCode(e) || String(e)}`, e);
  }
  if (!isatty(fd)) {
    const isNull = fstatSync(fd).rdev === nullDevice();
    if (!isNull) {
      closeSync(fd);
      throw new HyveError('CHAR_PATH', `${path} is a device but no terminal`);
    }
    closeSync(fd);
    return { output: new DiscardOutput(), input: null };
  }
  const stream = new ReadStream(fd);
  return { output: new FdOutput({ fd, owned: false }), input: new TtyInput(stream, inbox) };
}

function nullDevice(): number {
  try {
    return statSync('/dev/null').rdev;
  } catch {
    return -1;
  }
}
