// A disk in memory that checks its caller, keeps a log, can hold answers back and can fail.
import type { BlockBackend, BlockStatus } from '@hyve/core';

/** Options of {@link MemoryDisk}. */
export interface MemoryDiskOptions {
  /** Bytes. Default 1 MiB. */
  readonly size?: number;
  /** Logical sector, bytes. Default 512. */
  readonly sector?: number;
  /** Physical sector, bytes. Default as `sector`. */
  readonly physical?: number;
  /** Whether it says that it refuses writes. Default false. */
  readonly readOnly?: boolean;
  /** Whether it says that it can discard. Default true. */
  readonly discard?: boolean;
  /** Default `memory`. */
  readonly identity?: string;
}

/**
 * A disk image for tests of storage devices. Every sector begins with bytes of its own. Requests that are misaligned or
 * out of range break the contract of BlockBackend: they throw.
 * @example
 * const disk = new MemoryDisk({ sector: 4096 });
 * disk.hold = true; // answers wait for disk.release()
 */
export class MemoryDisk implements BlockBackend {
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  /** May be changed under way, as media are; so may `canDiscard`. */
  readOnly: boolean;
  canDiscard: boolean;
  readonly identity: string;
  /** The disk's contents. */
  readonly bytes: Uint8Array;
  /** Requests so far: `read 0+512`, `write 0+512`, `flush`, `discard 0+512`, `zero 0+512`, `zero 0+512 unmap`. */
  readonly log: string[] = [];
  /** While true, answers wait for {@link MemoryDisk.release}. */
  hold = false;
  /** What requests made from now on end with; other than `ok` they do nothing. */
  status: BlockStatus = 'ok';
  /** Requests without an answer, now and at most. */
  inFlight = 0;
  /** Most requests that were under way at once. */
  mostInFlight = 0;
  /** Whether it has been closed. */
  closed = false;
  private waiting: (() => void)[] = [];
  /** Answers reads and writes at once while true and nothing is held back; the log says `readNow`, `writeNow`. */
  atOnce = false;

  constructor(o: MemoryDiskOptions = {}) {
    this.sectorSize = o.sector ?? 512;
    this.physicalSectorSize = o.physical ?? this.sectorSize;
    this.readOnly = o.readOnly ?? false;
    this.canDiscard = o.discard ?? true;
    this.identity = o.identity ?? 'memory';
    this.bytes = new Uint8Array(o.size ?? 1 << 20);
    for (let i = 0; i < this.bytes.length; i++) this.bytes[i] = (i >>> 9) * 7 + i * 5;
  }

  get size(): number {
    return this.bytes.length;
  }

  /** Requests whose answers are held back. */
  get pending(): number {
    return this.waiting.length;
  }

  /** Answers requests that are held back: all, or the one at `index` (oldest 0). Resolves once that had its effects. */
  release(index = -1): Promise<void> {
    for (const answer of index < 0 ? this.waiting.splice(0) : this.waiting.splice(index, 1)) answer();
    return settle();
  }

  private run(what: string, offset: number, length: number, work: () => void): Promise<BlockStatus> {
    const name = length === 0 ? what : what.replace(/^\w+/, `$& ${offset}+${length}`);
    if (offset % this.sectorSize !== 0 || length % this.sectorSize !== 0 || offset < 0 || offset + length > this.size)
      throw new Error(`${name}: not whole sectors of a disk of ${this.size} bytes`);
    this.log.push(name);
    this.inFlight++;
    this.mostInFlight = Math.max(this.mostInFlight, this.inFlight);
    const { status } = this;
    const finish = (): BlockStatus => {
      this.inFlight--;
      if (status === 'ok') work();
      return status;
    };
    if (!this.hold) return Promise.resolve().then(finish);
    return new Promise((resolve) => this.waiting.push(() => resolve(finish())));
  }

  read(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    return this.run('read', offset, total(buffers), () => {
      let at = offset;
      for (const b of buffers) {
        b.set(this.bytes.subarray(at, at + b.length));
        at += b.length;
      }
    });
  }

  write(offset: number, buffers: readonly Uint8Array[]): Promise<BlockStatus> {
    return this.run('write', offset, total(buffers), () => {
      let at = offset;
      for (const b of buffers) {
        this.bytes.set(b, at);
        at += b.length;
      }
    });
  }

  readNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null {
    if (!this.atOnce || this.hold) return null;
    this.log.push(`readNow ${offset}+${total(buffers)}`);
    if (this.status !== 'ok') return this.status;
    let at = offset;
    for (const b of buffers) {
      b.set(this.bytes.subarray(at, at + b.length));
      at += b.length;
    }
    return 'ok';
  }

  writeNow(offset: number, buffers: readonly Uint8Array[]): BlockStatus | null {
    if (!this.atOnce || this.hold) return null;
    this.log.push(`writeNow ${offset}+${total(buffers)}`);
    if (this.status !== 'ok') return this.status;
    let at = offset;
    for (const b of buffers) {
      this.bytes.set(b, at);
      at += b.length;
    }
    return 'ok';
  }

  flush(): Promise<BlockStatus> {
    return this.run('flush', 0, 0, () => {});
  }

  discard(offset: number, length: number): Promise<BlockStatus> {
    return this.run('discard', offset, length, () => this.bytes.fill(0, offset, offset + length));
  }

  writeZeroes(offset: number, length: number, mayUnmap: boolean): Promise<BlockStatus> {
    return this.run(mayUnmap ? 'zero unmap' : 'zero', offset, length, () =>
      this.bytes.fill(0, offset, offset + length),
    );
  }

  async close(): Promise<void> {
    this.closed = true;
  }
}

/** A disk that does nothing and says that all went well, for benches of devices: by promises, or at once. */
export class NullDisk implements BlockBackend {
  readonly size: number = 2 ** 30;
  readonly sectorSize: number = 512;
  readonly physicalSectorSize: number = 512;
  readonly readOnly: boolean = false;
  readonly canDiscard: boolean = true;
  readonly identity: string = 'null';
  /** Whether reads and writes are over when they return. */
  atOnce = false;
  private readonly ok: Promise<BlockStatus> = Promise.resolve('ok');

  read(): Promise<BlockStatus> {
    return this.ok;
  }
  write(): Promise<BlockStatus> {
    return this.ok;
  }
  readNow(): BlockStatus | null {
    return this.atOnce ? 'ok' : null;
  }
  writeNow(): BlockStatus | null {
    return this.atOnce ? 'ok' : null;
  }
  flush(): Promise<BlockStatus> {
    return this.ok;
  }
  discard(): Promise<BlockStatus> {
    return this.ok;
  }
  writeZeroes(): Promise<BlockStatus> {
    return this.ok;
  }
  async close(): Promise<void> {}
}

function total(buffers: readonly Uint8Array[]): number {
  return buffers.reduce((n, b) => n + b.length, 0);
}

/** Lets every promise that can settle without the host's event loop do so. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 50; i++) await null;
}
