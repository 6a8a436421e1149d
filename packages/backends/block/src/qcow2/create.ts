// Lays out an empty image: header, refcount table, refcount blocks, L1 table, in this order.
import { HyveError } from '@hyve/core';
import type { HostFile } from '../host-file.ts';
import { buildHeader, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, putU64, viewOf } from './format.ts';
import { writeCount } from './refcounts.ts';

/** How a new image is to be. */
export interface Qcow2Layout {
  /** Bytes of the disk, whole sectors. */
  readonly size: number;
  /** 512 to 2 MiB, a power of two. Default 64 KiB. */
  readonly clusterSize?: number;
  /** `1.1` (version 3, default) or `0.10` (version 2). */
  readonly compat?: '0.10' | '1.1';
  /** 1, 2, 4, 8, 16 (default), 32 or 64. */
  readonly refcountBits?: number;
  /** Refcounts are written late, and repaired after a crash. */
  readonly lazyRefcounts?: boolean;
  /** Default `zlib`. */
  readonly compression?: 'zlib' | 'zstd';
  /** Name of the backing file, as the image will say it. */
  readonly backingFile?: string | null;
  /** Its format. */
  readonly backingFormat?: string | null;
}

/**
 * @internal Writes an empty image into an empty file.
 * @throws HyveError `BLOCK_CREATE`
 */
export async function createQcow2(file: HostFile, o: Qcow2Layout): Promise<void> {
  const fail = (why: string): HyveError => new HyveError('BLOCK_CREATE', `${file.path}: ${why}`);
  const cluster = o.clusterSize ?? 65536;
  const clusterBits = Math.round(Math.log2(cluster));
  if (2 ** clusterBits !== cluster || clusterBits < 9 || clusterBits > 21)
    throw fail(`a cluster size of ${cluster} is no power of two from 512 to 2 MiB`);
  const version = o.compat === '0.10' ? 2 : 3;
  const bits = o.refcountBits ?? 16;
  const order = Math.round(Math.log2(bits));
  if (2 ** order !== bits || order < 0 || order > 6) throw fail(`refcounts of ${bits} bits; 1, 2, 4, 8, 16, 32 or 64`);
  if (version === 2 && bits !== 16) throw fail(`version 0.10 has refcounts of 16 bits, not ${bits}`);
  if (version === 2 && o.lazyRefcounts === true) throw fail('version 0.10 has no lazy refcounts');
  if (version === 2 && o.compression === 'zstd') throw fail('version 0.10 has no zstd');
  if (!Number.isSafeInteger(o.size) || o.size < 0 || o.size % 512 !== 0)
    throw fail(`a disk of ${o.size} bytes is not made of whole sectors of 512`);
  const l1Size = Math.ceil(o.size / ((cluster / 8) * cluster));
  if (l1Size * 8 > MAX_L1_BYTES)
    throw fail(
      `clusters of ${cluster} bytes allow ${(MAX_L1_BYTES / 8) * (cluster / 8) * cluster} bytes of disk at most`,
    );
  const perBlock = (cluster * 8) / bits;
  const l1Clusters = Math.ceil((l1Size * 8) / cluster);
  let blocks = 1;
  let tables = 1;
  for (;;) {
    const total = 1 + tables + blocks + l1Clusters;
    const needBlocks = Math.ceil(total / perBlock);
    const needTables = Math.ceil((needBlocks * 8) / cluster);
    if (needBlocks <= blocks && needTables <= tables) break;
    blocks = Math.max(blocks, needBlocks);
    tables = Math.max(tables, needTables);
  }
  if (tables * cluster > MAX_REFCOUNT_TABLE_BYTES) throw fail('the refcount table would be too large');
  const blocksAt = 1 + tables;
  const l1At = blocksAt + blocks;
  const total = l1At + l1Clusters;
  const header = buildHeader(file.path, {
    version,
    clusterBits,
    size: o.size,
    l1Size,
    l1Offset: l1At * cluster,
    refcountTableOffset: cluster,
    refcountTableClusters: tables,
    refcountOrder: order,
    lazyRefcounts: o.lazyRefcounts ?? false,
    compression: o.compression ?? 'zlib',
    backingFile: o.backingFile ?? null,
    backingFormat: o.backingFormat ?? null,
  });
  const table = new Uint8Array(tables * cluster);
  for (let b = 0; b < blocks; b++) putU64(viewOf(table), b * 8, (blocksAt + b) * cluster);
  await file.write(cluster, [table]);
  for (let b = 0; b < blocks; b++) {
    const block = new Uint8Array(cluster);
    const n = Math.min(perBlock, total - b * perBlock);
    for (let i = 0; i < n; i++) writeCount(block, order, i, 1);
    await file.write((blocksAt + b) * cluster, [block]);
  }
  if (l1Clusters > 0) await file.write(l1At * cluster, [new Uint8Array(l1Clusters * cluster)]);
  await file.sync();
  await file.write(0, [header]); // last: an image that is cut off here is none
  await file.sync();
}
