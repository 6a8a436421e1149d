// What devices ask of the host. Devices import these; @hyve/char-backends, @hyve/block-backends and @hyve/net-backends
// implement them; an embedder may bring its own.

/** A byte stream in both directions: a terminal, a pty, a socket. */
export interface CharBackend {
  /** Sends bytes to the host side. The array may be reused after the call. False asks the caller to wait for `onDrain`. */
  write(bytes: Uint8Array): boolean;
  /** Called by the host side with bytes for the guest. Set by the device; the backend holds bytes back while it is null. */
  onData: ((bytes: Uint8Array) => void) | null;
  /** Called when a backend that refused more takes bytes again. */
  onDrain: (() => void) | null;
  /** Pauses or resumes delivery through `onData` (the guest's FIFO is full). */
  setFlow(paused: boolean): void;
  /** Restores terminals, closes files. */
  close(): Promise<void>;
}

/** Errors a block request can end with. */
export type BlockStatus = 'ok' | 'io-error' | 'read-only' | 'no-space' | 'unsupported' | 'out-of-range' | 'cancelled';

/** A disk image. All offsets and lengths are bytes and multiples of `sectorSize`. */
export interface BlockBackend {
  /** Bytes. */
  readonly size: number;
  /** Logical sector size: 512 or 4096. */
  readonly sectorSize: number;
  /** Physical sector size, a power-of-two multiple of `sectorSize`. */
  readonly physicalSectorSize: number;
  /** Whether writes are refused. */
  readonly readOnly: boolean;
  /** Whether discard does something. */
  readonly canDiscard: boolean;
  /** Where the image came from, for identification strings and messages. */
  readonly identity: string;
  /** Reads into the buffers in order. Many requests may be in flight; each resolves once, never rejects. */
  read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus>;
  /** Writes the buffers in order. Buffers must stay untouched until it resolves. */
  write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus>;
  /**
   * {@link BlockBackend.read} of what need not be waited for (memory, the host's cache): over when it returns. Null:
   * nothing was done, use `read`. Devices try it first, so that a guest that reads what the host holds gets its answer
   * before it goes on. Copies at most what takes the host a fraction of a millisecond.
   */
  readNow?(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null;
  /** The same for {@link BlockBackend.write}. The buffers may be reused after it, unless it gave null. */
  writeNow?(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null;
  /** Everything written and completed before this call is on stable storage once it resolves `ok`. */
  flush(): Promise<BlockStatus>;
  /** Gives the range back; it may read as anything afterwards unless the backend says zeros. */
  discard(offset: number, length: number): Promise<BlockStatus>;
  /** Makes the range read as zeros. */
  writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<BlockStatus>;
  /** Flushes and closes. */
  close(): Promise<void>;
}

/** A network port: whole Ethernet frames without FCS. */
export interface NetBackend {
  /** Sends one frame to the network. The array may be reused after the call. */
  send(frame: Uint8Array): void;
  /** Called with each frame for the guest; the array is valid during the call only. False: no room, it may be dropped. */
  onFrame: ((frame: Uint8Array) => boolean) | null;
  /** The MAC address the network wants the guest to have, or null for no opinion. */
  readonly mac: Uint8Array | null;
  /** Maximum transmission unit, bytes of payload. */
  readonly mtu: number;
  /** Leaves the network. */
  close(): Promise<void>;
}

/** A source of random bytes. */
export interface EntropySource {
  /** Fills the array, and returns when it is full. */
  fill(bytes: Uint8Array): void;
}
