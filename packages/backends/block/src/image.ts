// What this package's disks have beyond core's BlockBackend: a map of what is stored, a way to grow, counters.
import type { BlockBackend } from '@hyve/core';

/** A run of bytes of a disk that are stored alike. */
export interface Extent {
  /** First byte on the disk. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** Whether some image of the chain stores anything here; what is not present reads as zeros. */
  readonly present: boolean;
  /** Whether it reads as zeros for certain. */
  readonly zero: boolean;
  /** Whether bytes are stored. */
  readonly data: boolean;
  /** Whether they are stored compressed. */
  readonly compressed: boolean;
  /** 0: in this image; 1: in its backing image, and so on. */
  readonly depth: number;
  /** Where in `file` the bytes are, or null when they are nowhere as such. */
  readonly fileOffset: number | null;
  /** The host file, or null. */
  readonly file: string | null;
}

/** Events of one disk since it was opened, by name. */
export type BlockCounters = Readonly<Record<string, number>>;

/** A disk of this package. */
export interface DiskImage extends BlockBackend {
  /** `raw`, `qcow2`, `nbd`, `ram` or `overlay`. */
  readonly format: string;
  /** Whether a discarded range reads as zeros afterwards. */
  readonly discardZeroes: boolean;
  /** The extent that starts at `offset`; it may end before the next change. Null when the image cannot be read there. */
  extentAt(offset: number): Promise<Extent | null>;
  /**
   * Makes the disk `size` bytes long; new bytes are zeros.
   * @param o.shrink allows a smaller size, which loses what is beyond it
   * @throws HyveError `BLOCK_RESIZE`
   */
  resize(size: number, o?: { readonly shrink?: boolean }): Promise<void>;
  /** Counters by name. */
  counters(): BlockCounters;
}

/** @internal Counts requests. */
export class Counters {
  reads = 0;
  readBytes = 0;
  writes = 0;
  writtenBytes = 0;
  flushes = 0;
  discards = 0;
  zeroes = 0;
  failures = 0;
  /** As plain data, with what the disk adds. */
  list(more: Readonly<Record<string, number>> = {}): BlockCounters {
    return {
      reads: this.reads,
      readBytes: this.readBytes,
      writes: this.writes,
      writtenBytes: this.writtenBytes,
      flushes: this.flushes,
      discards: this.discards,
      writeZeroes: this.zeroes,
      failures: this.failures,
      ...more,
    };
  }
}
