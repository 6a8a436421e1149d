// Outputs: a file descriptor written without blocking, a socket, nothing, and several at once.
import { closeSync, writeSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { Output } from './channel.ts';

/** Above this many bytes waiting, `write` answers false. */
export const SOFT_LIMIT: number = 64 * 1024;
/** Above this many, bytes are dropped: the caller did not heed the answer. */
export const HARD_LIMIT: number = 256 * 1024;
/** How long `close` waits for a reader that does not read. */
const CLOSE_WAIT_MS = 500;
const RETRY_FIRST_MS = 1;
const RETRY_MAX_MS = 16;

/** @internal The `code` of a Node system error, or an empty string. */
export function errorCode(e: unknown): string {
  return typeof e === 'object' && e !== null && 'code' in e && typeof e.code === 'string' ? e.code : '';
}

/** @internal Takes everything, keeps nothing. */
export class DiscardOutput implements Output {
  onDrain: (() => void) | null = null;
  write(_bytes: Uint8Array): boolean {
    return true;
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

/**
 * @internal Writes straight to a descriptor. Where the descriptor would block (it is opened non-blocking), bytes wait in
 * a bounded buffer and a timer tries again: Node offers no write readiness on descriptors, and its thread pool would hang
 * the process's exit on a stopped terminal.
 */
export class FdOutput implements Output {
  onDrain: (() => void) | null = null;
  private readonly fd: number;
  private readonly owned: boolean;
  private buffer: Uint8Array | null = null;
  private used = 0;
  private refused = false;
  private broken = false;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private retryMs: number = RETRY_FIRST_MS;
  private emptied: (() => void) | null = null;
  /** Bytes lost to errors or to a caller that did not wait. */
  dropped = 0;
  /** Called once when the other end is gone for good. */
  onBroken: (() => void) | null = null;

  /** @param o.owned whether `close` closes the descriptor */
  constructor(o: { fd: number; owned: boolean }) {
    this.fd = o.fd;
    this.owned = o.owned;
  }

  write(bytes: Uint8Array): boolean {
    let from = 0;
    if (this.used === 0) from = this.tryWrite(bytes, bytes.length);
    if (this.broken) return true;
    if (from < bytes.length) this.keep(bytes.subarray(from));
    this.refused = this.used > SOFT_LIMIT;
    return !this.refused;
  }

  /** Writes from the start of `bytes`; returns how many bytes are done with. */
  private tryWrite(bytes: Uint8Array, length: number): number {
    let done = 0;
    try {
      while (done < length) {
        const n = writeSync(this.fd, bytes, done, length - done);
        if (n === 0) break;
        done += n;
      }
    } catch (e) {
      const code = errorCode(e);
      if (code === 'EAGAIN' || code === 'EWOULDBLOCK' || code === 'EINTR') return done;
      if (code !== 'ENOSPC' && code !== 'EDQUOT' && code !== 'EFBIG') this.breakOff();
      this.dropped += length - done;
      return length;
    }
    return done;
  }

  private breakOff(): void {
    if (this.broken) return;
    this.broken = true;
    this.onBroken?.();
  }

  private keep(bytes: Uint8Array): void {
    if (this.buffer === null) this.buffer = new Uint8Array(HARD_LIMIT);
    const n = Math.min(bytes.length, HARD_LIMIT - this.used);
    this.buffer.set(bytes.subarray(0, n), this.used);
    this.used += n;
    this.dropped += bytes.length - n;
    this.retryLater();
  }

  private retryLater(): void {
    if (this.timer === null) this.timer = setTimeout(() => this.retry(), this.retryMs);
  }

  private retry(): void {
    this.timer = null;
    const buffer = this.buffer;
    if (buffer === null) return;
    const n = this.tryWrite(buffer, this.used);
    if (this.broken) this.used = 0;
    else if (n > 0) {
      buffer.copyWithin(0, n, this.used);
      this.used -= n;
      this.retryMs = RETRY_FIRST_MS;
    } else this.retryMs = Math.min(2 * this.retryMs, RETRY_MAX_MS);
    if (this.used > 0) {
      this.retryLater();
      return;
    }
    this.emptied?.();
    if (this.refused) {
      this.refused = false;
      this.onDrain?.();
    }
  }

  /** Forgets what waits; nobody will read it. */
  abandon(): void {
    this.dropped += this.used;
    this.used = 0;
  }

  async close(): Promise<void> {
    if (this.used > 0) {
      await new Promise<void>((resolve) => {
        const limit = setTimeout(resolve, CLOSE_WAIT_MS);
        this.emptied = () => {
          clearTimeout(limit);
          resolve();
        };
      });
    }
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    this.broken = true;
    this.used = 0;
    if (this.owned) {
      try {
        closeSync(this.fd);
      } catch {
        // gone already
      }
    }
  }
}

/** @internal Writes to a socket, honouring the stream's own bound. */
export class SocketOutput implements Output {
  onDrain: (() => void) | null = null;
  private readonly socket: Socket;
  private refused = false;
  private broken = false;
  dropped = 0;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('drain', () => this.drain());
    const gone = (): void => {
      this.broken = true;
      this.drain();
    };
    socket.on('error', gone);
    socket.on('close', gone);
  }

  private drain(): void {
    if (!this.refused) return;
    this.refused = false;
    this.onDrain?.();
  }

  write(bytes: Uint8Array): boolean {
    if (this.broken || !this.socket.writable) return true;
    if (this.socket.writableLength > HARD_LIMIT) {
      this.dropped += bytes.length;
      return false;
    }
    this.refused = !this.socket.write(Uint8Array.from(bytes)) || this.refused;
    return !this.refused;
  }

  async close(): Promise<void> {
    if (!this.socket.destroyed) {
      await new Promise<void>((resolve) => {
        const limit = setTimeout(resolve, CLOSE_WAIT_MS);
        this.socket.once('close', () => resolve());
        this.socket.end(() => {
          clearTimeout(limit);
          resolve();
        });
      });
    }
    this.broken = true;
    this.socket.destroy();
  }
}

/** @internal Copies everything to `copies` as well; only the main output's pace counts. */
export class TeeOutput implements Output {
  private readonly main: Output;
  private readonly copies: readonly Output[];

  constructor(main: Output, copies: readonly Output[]) {
    this.main = main;
    this.copies = copies;
  }

  get onDrain(): (() => void) | null {
    return this.main.onDrain;
  }

  set onDrain(handler: (() => void) | null) {
    this.main.onDrain = handler;
  }

  write(bytes: Uint8Array): boolean {
    for (const c of this.copies) c.write(bytes);
    return this.main.write(bytes);
  }

  async close(): Promise<void> {
    await Promise.all([this.main.close(), ...this.copies.map((c) => c.close())]);
  }
}
