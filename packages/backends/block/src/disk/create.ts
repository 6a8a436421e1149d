// New image files.
import { closeSync, constants, existsSync, openSync, unlinkSync } from 'node:fs';
import { HyveError, isHyveError, type Logger, silentLogger } from '@hyve/core';
import { errorCode } from '../fault.ts';
import { type NodeFile, openHostFile } from '../host-file.ts';
import { backingPath, openImage } from '../open.ts';
import { createQcow2, type Qcow2Layout } from '../qcow2/create.ts';
import { writeZeros } from '../raw.ts';
import type { BlockFormat } from '../spec.ts';

/** How to make an image. */
export interface CreateOptions extends Omit<Qcow2Layout, 'size' | 'backingFile' | 'backingFormat'> {
  /** Of the new image. */
  readonly format: BlockFormat;
  /** Bytes; null: as large as the backing file. */
  readonly size: number | null;
  /** qcow2: the image whose contents show through, as the new image is to name it (relative to itself). */
  readonly backing?: string | null;
  /** Its format; null: looked up now, and written down. */
  readonly backingFormat?: BlockFormat | null;
  /** Raw: whether blocks are set aside (`falloc`) or written (`full`). Default `off`. */
  readonly preallocation?: 'off' | 'falloc' | 'full';
  /** Replace an existing file. */
  readonly overwrite?: boolean;
  /** Where warnings go. Default: nowhere. */
  readonly logger?: Logger;
}

/** @internal Opens a file that is to be filled from scratch; others must not be using it. */
export async function freshFile(path: string, overwrite: boolean, logger: Logger): Promise<NodeFile> {
  if (!overwrite) {
    try {
      closeSync(openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o644));
    } catch (e) {
      const why = errorCode(e) === 'EEXIST' ? 'it exists already' : errorCode(e);
      throw new HyveError('BLOCK_CREATE', `cannot create ${path}: ${why}`, e);
    }
  } else if (!existsSync(path)) return freshFile(path, false, logger);
  // Locked before it is emptied.
  const file = await openHostFile(path, {
    readOnly: false,
    sync: false,
    noCache: false,
    lock: true,
    mustWrite: true,
    logger,
  });
  try {
    if (!file.facts.isDevice) await file.truncate(0);
    return file;
  } catch (e) {
    await file.close();
    throw new HyveError('BLOCK_CREATE', `cannot empty ${path}: ${errorCode(e)}`, e);
  }
}

/**
 * Creates an image file.
 * @returns its size in bytes
 * @throws HyveError `BLOCK_CREATE`, `BLOCK_BACKING`, `BLOCK_LOCKED`
 */
export async function createDisk(path: string, o: CreateOptions): Promise<number> {
  const logger = o.logger ?? silentLogger;
  const backing = o.backing ?? null;
  if (backing !== null && o.format !== 'qcow2')
    throw new HyveError('BLOCK_CREATE', `${path}: a ${o.format} image has no backing file; qcow2 has`);
  let size = o.size;
  let backingFormat = o.backingFormat ?? null;
  if (backing !== null) {
    const below = await openImage(backingPath(path, backing), {
      format: backingFormat,
      readOnly: true,
      lock: false,
      logger,
    }).catch((e: unknown) => {
      throw new HyveError('BLOCK_BACKING', `${path}: ${e instanceof Error ? e.message : String(e)}`, e);
    });
    size ??= below.size;
    backingFormat = below.format === 'qcow2' ? 'qcow2' : 'raw';
    await below.close();
  }
  if (size === null) throw new HyveError('BLOCK_CREATE', `${path}: the size is missing`);
  if (!Number.isSafeInteger(size) || size < 0) throw new HyveError('BLOCK_CREATE', `${path}: ${size} is no size`);
  size = Math.ceil(size / 512) * 512;
  if (size === 0) throw new HyveError('BLOCK_CREATE', `${path}: a disk needs at least one sector`);
  const existed = existsSync(path);
  const file = await freshFile(path, o.overwrite ?? false, logger);
  try {
    if (o.format === 'raw') await fillRaw(file, size, o.preallocation ?? 'off');
    else {
      if ((o.preallocation ?? 'off') !== 'off')
        throw new HyveError('BLOCK_CREATE', `${path}: preallocation is for raw images only`);
      await createQcow2(file, { ...o, size, backingFile: backing, backingFormat });
    }
    await file.close();
    return size;
  } catch (e) {
    await file.close();
    if (!existed) unlinkSync(path);
    if (isHyveError(e)) throw e;
    throw new HyveError('BLOCK_CREATE', `cannot create ${path}: ${errorCode(e)}`, e);
  }
}

async function fillRaw(file: NodeFile, size: number, preallocation: 'off' | 'falloc' | 'full'): Promise<void> {
  if (preallocation === 'full') await writeZeros(file, 0, size);
  else if (preallocation === 'falloc' && !(await file.allocate(0, size)))
    throw new HyveError('BLOCK_CREATE', `${file.path}: space cannot be set aside here`);
  if (!file.facts.isDevice) await file.truncate(size);
  await file.sync();
}
