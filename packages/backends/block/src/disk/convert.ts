// Copies a disk into another format: what reads as zeros stays unstored, several pieces are under way at a time.
import { existsSync, statSync, unlinkSync } from 'node:fs';
import { HyveError, isHyveError, type Logger, silentLogger } from '@hyve/core';
import { isZero } from '../buffers.ts';
import { BlockFault } from '../fault.ts';
import type { DiskImage } from '../image.ts';
import { isNbdAddress } from '../nbd-protocol.ts';
import { Qcow2Image } from '../qcow2/image.ts';
import type { BlockFormat } from '../spec.ts';
import { type CreateOptions, createDisk } from './create.ts';
import { extentsOf, openForTool } from './inspect.ts';

/** How to convert. */
export interface ConvertOptions {
  /** Format of the source; null: told by its contents. */
  readonly sourceFormat?: BlockFormat | null;
  /** Format of the target. Default raw. */
  readonly format?: BlockFormat;
  /** How the target is made. */
  readonly create?: Omit<CreateOptions, 'format' | 'size' | 'backing' | 'backingFormat' | 'overwrite' | 'logger'>;
  /** qcow2: store compressed. */
  readonly compress?: boolean;
  /** Replace an existing file, or fill a block device. */
  readonly overwrite?: boolean;
  /** Read even though somebody is writing. */
  readonly forceShare?: boolean;
  /** Told of progress, 0 to 1. */
  readonly onProgress?: (done: number) => void;
  /** Where warnings go. Default: nowhere. */
  readonly logger?: Logger;
}

const PIECE = 1 << 20;
const UNDER_WAY = 8;

/**
 * Copies `source` to `target`: files, block devices, NBD addresses.
 * @returns bytes of the disk
 * @throws HyveError `BLOCK_CONVERT` and what opening throws
 */
export async function convertDisk(source: string, target: string, o: ConvertOptions = {}): Promise<number> {
  const logger = o.logger ?? silentLogger;
  const format = o.format ?? 'raw';
  if (o.compress === true && format !== 'qcow2')
    throw new HyveError('BLOCK_CONVERT', `${target}: only qcow2 images can be compressed`);
  const from = await openForTool(source, {
    format: o.sourceFormat ?? null,
    readOnly: true,
    forceShare: o.forceShare ?? false,
    logger,
  });
  let made = false;
  try {
    const ready = isNbdAddress(target) || (existsSync(target) && statSync(target).isBlockDevice());
    if (ready && o.overwrite !== true && !isNbdAddress(target))
      throw new HyveError('BLOCK_CONVERT', `${target} is a device; overwriting it must be asked for`);
    if (!ready) {
      const existed = existsSync(target);
      await createDisk(target, {
        ...o.create,
        format,
        size: from.size,
        overwrite: o.overwrite ?? false,
        logger,
      });
      made = !existed;
    }
    const to = await openForTool(target, {
      format: ready && isNbdAddress(target) ? null : format,
      readOnly: false,
      logger,
    });
    try {
      if (to.size < from.size)
        throw new HyveError('BLOCK_CONVERT', `${target} has ${to.size} bytes, ${source} ${from.size}`);
      await new Copy(from, to, !ready, o).run();
      const status = await to.flush();
      if (status !== 'ok') throw new BlockFault(status, `flushing ${target}: ${status}`);
    } finally {
      await to.close();
    }
    return from.size;
  } catch (e) {
    if (made) unlinkSync(target);
    if (isHyveError(e)) throw e;
    throw new HyveError('BLOCK_CONVERT', e instanceof Error ? e.message : String(e), e);
  } finally {
    await from.close();
  }
}

class Copy {
  private readonly from: DiskImage;
  private readonly to: DiskImage;
  /** The target reads as zeros where nothing is written. */
  private readonly blank: boolean;
  private readonly o: ConvertOptions;
  private readonly piece: number;
  private readonly grain: number;
  private readonly compressor: Qcow2Image | null;
  private done = 0;
  private failure: unknown = null;

  constructor(from: DiskImage, to: DiskImage, blank: boolean, o: ConvertOptions) {
    this.from = from;
    this.to = to;
    this.blank = blank;
    this.o = o;
    const cluster = to instanceof Qcow2Image ? 2 ** to.header.clusterBits : 4096;
    this.grain = cluster;
    this.piece = Math.max(PIECE, cluster);
    this.compressor = o.compress === true && to instanceof Qcow2Image ? to : null;
  }

  async run(): Promise<void> {
    const running = new Set<Promise<void>>();
    // Pieces are cut at multiples of the piece size: a cluster is never in two of them.
    let zeroFrom = 0;
    const start = async (at: number, n: number): Promise<void> => {
      while (running.size >= UNDER_WAY) await Promise.race(running);
      if (this.failure !== null) throw this.failure;
      const job: Promise<void> = this.copy(at, n)
        .catch((e: unknown) => {
          this.failure ??= e;
        })
        .finally(() => {
          running.delete(job);
        });
      running.add(job);
    };
    try {
      let next = 0;
      for await (const e of extentsOf(this.from)) {
        if (e.zero) continue;
        let at = Math.max(next, Math.floor(e.offset / this.piece) * this.piece);
        const end = Math.min(this.from.size, Math.ceil((e.offset + e.length) / this.piece) * this.piece);
        for (; at < end; at += this.piece) {
          if (!this.blank && at > zeroFrom) await this.zero(zeroFrom, at);
          if (at > zeroFrom) this.progress(at - zeroFrom);
          await start(at, Math.min(this.piece, end - at));
          zeroFrom = Math.min(end, at + this.piece);
        }
        next = Math.max(next, at);
      }
      if (!this.blank && zeroFrom < this.from.size) await this.zero(zeroFrom, this.from.size);
    } finally {
      await Promise.all(running);
    }
    if (this.failure !== null) throw this.failure;
    this.o.onProgress?.(1);
  }

  private progress(bytes: number): void {
    this.done += bytes;
    this.o.onProgress?.(Math.min(1, this.done / this.from.size));
  }

  private check(status: string, what: string): void {
    if (status !== 'ok') throw new HyveError('BLOCK_CONVERT', `${what}: ${status}`);
  }

  private async zero(from: number, to: number): Promise<void> {
    this.check(await this.to.writeZeroes(from, to - from, true), `zeroing ${this.to.identity} at ${from}`);
  }

  private async copy(at: number, n: number): Promise<void> {
    const bytes = new Uint8Array(n);
    this.check(await this.from.read(at, [bytes]), `reading ${this.from.identity} at ${at}`);
    for (let i = 0; i < n; ) {
      const zero = isZero(bytes.subarray(i, Math.min(n, i + this.grain)));
      let end = Math.min(n, i + this.grain);
      if (this.compressor !== null && !zero) {
        await this.pack(at + i, bytes.subarray(i, end));
        i = end;
        continue;
      }
      while (end < n && isZero(bytes.subarray(end, Math.min(n, end + this.grain))) === zero)
        end = Math.min(n, end + this.grain);
      if (!zero)
        this.check(await this.to.write(at + i, [bytes.subarray(i, end)]), `writing ${this.to.identity} at ${at + i}`);
      else if (!this.blank) await this.zero(at + i, at + end);
      i = end;
    }
    this.progress(n);
  }

  private async pack(at: number, bytes: Uint8Array): Promise<void> {
    let whole = bytes;
    if (bytes.length < this.grain) {
      whole = new Uint8Array(this.grain); // the last cluster, beyond the end of the disk
      whole.set(bytes);
    }
    if (await (this.compressor as Qcow2Image).writeCompressed(at, whole)) return;
    this.check(await this.to.write(at, [bytes]), `writing ${this.to.identity} at ${at}`);
  }
}
