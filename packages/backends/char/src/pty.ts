// A pseudo-terminal that users attach to with screen, cu or picocom. Mirrors bhyve's and HyperKit's autopty. Node has no
// openpty of its own; where it has node:ffi (Node 26 and later) the C library is called, elsewhere opening fails by name.
import { closeSync, constants, openSync, readSync, unlinkSync, writeFileSync } from 'node:fs';
import process from 'node:process';
import { isatty, ReadStream } from 'node:tty';
import { HyveError } from '@hyve/core';
import type { Inbox, Input, Output } from './channel.ts';
import { errorCode, FdOutput } from './outputs.ts';

/** How often an unattached terminal is looked at. */
const ATTACH_POLL_MS = 100;
/** Larger than struct termios anywhere. */
const TERMIOS_BYTES = 256;

interface PtyCalls {
  posix_openpt(flags: number): number;
  grantpt(fd: number): number;
  unlockpt(fd: number): number;
  ptsname_r(fd: number, name: Uint8Array, size: bigint): number;
  tcgetattr(fd: number, termios: Uint8Array): number;
  tcsetattr(fd: number, actions: number, termios: Uint8Array): number;
  cfmakeraw(termios: Uint8Array): void;
  dup(fd: number): number;
  getpid(): number;
}

function signature(args: readonly string[], result: string): object {
  // The names of these properties changed between releases of Node 26.
  return { arguments: args, parameters: args, return: result, result };
}

function unsupported(why: string, cause?: unknown): HyveError {
  return new HyveError(
    'CHAR_UNSUPPORTED',
    `autopty needs a way to create a pseudo-terminal, and this Node has none (${why}); use tcp=PORT or unix:PATH`,
    cause,
  );
}

function loadCalls(): PtyCalls {
  const emitWarning = process.emitWarning;
  try {
    process.emitWarning = () => {}; // node:ffi announces itself on the terminal otherwise
    const ffi = process.getBuiltinModule('node:ffi') as
      | { dlopen(path: string | null, definitions: object): { functions: PtyCalls } }
      | undefined;
    if (ffi === undefined) throw unsupported('no node:ffi');
    const i = 'i32';
    const { functions } = ffi.dlopen(null, {
      posix_openpt: signature([i], i),
      grantpt: signature([i], i),
      unlockpt: signature([i], i),
      ptsname_r: signature([i, 'buffer', 'u64'], i),
      tcgetattr: signature([i, 'buffer'], i),
      tcsetattr: signature([i, i, 'buffer'], i),
      cfmakeraw: signature(['buffer'], 'void'),
      dup: signature([i], i),
      getpid: signature([], i),
    });
    if (functions.getpid() !== process.pid) throw unsupported('node:ffi does not answer as expected');
    return functions;
  } catch (e) {
    if (e instanceof Error && errorCode(e) === 'CHAR_UNSUPPORTED') throw e;
    throw unsupported(e instanceof Error ? e.message : String(e), e);
  } finally {
    process.emitWarning = emitWarning;
  }
}

/**
 * @internal The master side. While nobody has the slave open, output is dropped, so that a guest does not wait for a
 * reader; reading the master says EIO then, which is how attachment is seen.
 */
export class Pty implements Input, Output {
  onDrain: (() => void) | null = null;
  /** The terminal to attach to, such as `/dev/pts/7`. */
  readonly path: string;
  private readonly calls: PtyCalls;
  private readonly master: number;
  private readonly inbox: Inbox;
  private readonly linkFile: string | null;
  private stream: ReadStream | null = null;
  private output: FdOutput | null = null;
  private poll: ReturnType<typeof setTimeout> | null = null;
  private paused = false;
  private refused = false;
  private closing: Promise<void> | null = null;

  /** @param o.file file that gets the terminal's path, removed on close. @throws HyveError `CHAR_UNSUPPORTED`, `CHAR_FILE` */
  constructor(o: { inbox: Inbox; file: string | null }) {
    this.inbox = o.inbox;
    this.linkFile = o.file;
    this.calls = loadCalls();
    const c = this.calls;
    this.master = c.posix_openpt(constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);
    if (this.master < 0) throw unsupported('posix_openpt failed');
    const name = new Uint8Array(128);
    if (
      c.grantpt(this.master) !== 0 ||
      c.unlockpt(this.master) !== 0 ||
      c.ptsname_r(this.master, name, BigInt(name.length)) !== 0 ||
      !isatty(this.master)
    ) {
      closeSync(this.master);
      throw unsupported('the pseudo-terminal cannot be unlocked');
    }
    this.path = new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
    this.markDetached();
    if (this.linkFile !== null) {
      try {
        writeFileSync(this.linkFile, `${this.path}\n`);
      } catch (e) {
        closeSync(this.master);
        throw new HyveError('CHAR_FILE', `cannot write ${this.linkFile}: ${errorCode(e)}`, e);
      }
    }
    this.look();
  }

  /** Reading the master says EIO only once the slave has been open and closed again. */
  private markDetached(): void {
    try {
      closeSync(openSync(this.path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK));
    } catch {
      // Output then waits for the first one to attach.
    }
  }

  /** No echo, no line editing: what the guest prints must not come back as input. The modes do not outlive a detach. */
  private makeRaw(): void {
    const termios = new Uint8Array(TERMIOS_BYTES);
    if (this.calls.tcgetattr(this.master, termios) !== 0) return;
    this.calls.cfmakeraw(termios);
    this.calls.tcsetattr(this.master, 0, termios);
  }

  /** Looks whether somebody is attached. */
  private look(): void {
    this.poll = null;
    const scratch = new Uint8Array(256);
    try {
      const n = readSync(this.master, scratch, 0, scratch.length, null);
      if (n > 0) this.inbox.push(scratch.slice(0, n));
      this.attach();
    } catch (e) {
      if (errorCode(e) === 'EAGAIN') this.attach();
      else this.lookLater();
    }
  }

  private lookLater(): void {
    if (this.closing !== null) return;
    this.poll = setTimeout(() => this.look(), ATTACH_POLL_MS);
  }

  private attach(): void {
    // The stream closes its descriptor at the first hang-up, the pseudo-terminal must outlive it: hence a copy.
    const fd = this.calls.dup(this.master);
    if (fd < 0) {
      this.lookLater();
      return;
    }
    this.makeRaw();
    const stream = new ReadStream(fd);
    this.stream = stream;
    this.output = new FdOutput({ fd: this.master, owned: false });
    this.output.onDrain = () => this.drain();
    stream.on('data', (chunk) => this.inbox.push(Uint8Array.from(chunk as Uint8Array)));
    stream.on('error', () => {});
    stream.on('close', () => this.detach());
    stream.on('end', () => stream.destroy());
    if (this.paused) stream.pause();
  }

  private detach(): void {
    this.stream = null;
    const output = this.output;
    this.output = null;
    if (output !== null) {
      output.abandon();
      void output.close();
    }
    this.drain();
    this.lookLater();
  }

  private drain(): void {
    if (!this.refused) return;
    this.refused = false;
    this.onDrain?.();
  }

  write(bytes: Uint8Array): boolean {
    if (this.output === null) return true;
    this.refused = !this.output.write(bytes);
    return !this.refused;
  }

  setPaused(paused: boolean): void {
    this.paused = paused;
    if (paused) this.stream?.pause();
    else this.stream?.resume();
  }

  close(): Promise<void> {
    if (this.closing === null) this.closing = this.shutDown();
    return this.closing;
  }

  private async shutDown(): Promise<void> {
    if (this.poll !== null) clearTimeout(this.poll);
    await this.output?.close();
    this.output = null;
    const stream = this.stream;
    if (stream !== null) {
      await new Promise<void>((resolve) => {
        stream.once('close', () => resolve());
        stream.destroy();
      });
    }
    closeSync(this.master);
    if (this.linkFile !== null) {
      try {
        unlinkSync(this.linkFile);
      } catch {
        // somebody else removed it
      }
    }
  }
}
