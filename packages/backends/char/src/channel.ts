// A CharBackend put together from one output and one input. The parts know files and sockets; this knows the contract.
import type { CharBackend } from '@hyve/core';

/** @internal Where bytes from the guest go. */
export interface Output {
  /** Takes a copy of the bytes. False: the buffer is over its bound, wait for `onDrain`. */
  write(bytes: Uint8Array): boolean;
  /** Called once there is room again. */
  onDrain: (() => void) | null;
  /** Writes out what it can within a short while, then lets go of everything. */
  close(): Promise<void>;
}

/** @internal Where bytes for the guest come from; it pushes into an {@link Inbox}. */
export interface Input {
  /** Stops or restarts reading, so that nothing piles up. */
  setPaused(paused: boolean): void;
  /** Lets go of everything. */
  close(): Promise<void>;
}

/** Bytes handed to the guest in one call at most, so that a pause takes effect soon. */
const SLICE = 4096;

/** Bytes that wait before a source is told to stop. Reading on until then is how a client's hang-up is noticed. */
const STOP_ABOVE = 1 << 15;

/** @internal Holds input back while the guest does not take it. */
export class Inbox {
  private waiting: Uint8Array[] = [];
  private waitingBytes = 0;
  private paused = false;
  private handler: ((bytes: Uint8Array) => void) | null = null;
  private delivering = false;
  private stopped = false;
  private readonly limit: number;
  /** Stops or restarts the source. Set by the owner of the source. */
  onStop: ((stopped: boolean) => void) | null = null;
  /** Bytes dropped because a source did not stop. */
  dropped = 0;

  /** @param limit bytes kept at most from a source that goes on when told to stop */
  constructor(limit: number = 1 << 18) {
    this.limit = limit;
  }

  get onData(): ((bytes: Uint8Array) => void) | null {
    return this.handler;
  }

  set onData(handler: ((bytes: Uint8Array) => void) | null) {
    this.handler = handler;
    this.deliver();
  }

  setFlow(paused: boolean): void {
    this.paused = paused;
    if (!paused) this.deliver();
  }

  /** Bytes from the source. The array becomes the inbox's own. */
  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    if (this.waitingBytes + bytes.length > this.limit && this.waitingBytes > 0) {
      this.dropped += bytes.length;
      return;
    }
    this.waiting.push(bytes);
    this.waitingBytes += bytes.length;
    this.deliver();
  }

  private deliver(): void {
    if (this.delivering) return; // a handler that resumes from within is served by the loop below
    this.delivering = true;
    try {
      while (!this.paused && this.handler !== null) {
        const first = this.waiting[0];
        if (first === undefined) break;
        const slice = first.length > SLICE ? first.subarray(0, SLICE) : first;
        if (slice === first) this.waiting.shift();
        else this.waiting[0] = first.subarray(SLICE);
        this.waitingBytes -= slice.length;
        this.handler(slice);
      }
    } finally {
      this.delivering = false;
    }
    this.updateSource();
  }

  private updateSource(): void {
    const stop = this.waitingBytes > (this.stopped ? 0 : STOP_ABOVE);
    if (stop === this.stopped) return;
    this.stopped = stop;
    if (this.onStop !== null) this.onStop(stop);
  }
}

/** @internal The back end that all kinds share. */
export class Channel implements CharBackend {
  private readonly inbox: Inbox;
  private readonly output: Output;
  private readonly input: Input | null;
  private closing: Promise<void> | null = null;

  constructor(o: { inbox: Inbox; output: Output; input: Input | null }) {
    this.inbox = o.inbox;
    this.output = o.output;
    this.input = o.input;
    this.inbox.onStop = (stopped) => this.input?.setPaused(stopped);
  }

  write(bytes: Uint8Array): boolean {
    return this.closing !== null || this.output.write(bytes);
  }

  get onData(): ((bytes: Uint8Array) => void) | null {
    return this.inbox.onData;
  }

  set onData(handler: ((bytes: Uint8Array) => void) | null) {
    this.inbox.onData = handler;
  }

  get onDrain(): (() => void) | null {
    return this.output.onDrain;
  }

  set onDrain(handler: (() => void) | null) {
    this.output.onDrain = handler;
  }

  setFlow(paused: boolean): void {
    this.inbox.setFlow(paused);
  }

  close(): Promise<void> {
    if (this.closing === null) {
      const parts = [this.output.close()];
      if (this.input !== null) parts.push(this.input.close());
      this.closing = Promise.all(parts).then(() => {});
    }
    return this.closing;
  }
}
