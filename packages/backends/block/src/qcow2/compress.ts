// Compressed clusters: raw deflate streams or zstd frames, one per cluster, off the main thread.
import * as zlib from 'node:zlib';
import { BlockFault } from '../fault.ts';

type Callback = (error: Error | null, result: Uint8Array) => void;
type ZstdCall = (input: Uint8Array, options: object, done: Callback) => void;

/** @internal Expands a cluster. What follows the stream in `input` does not matter. */
export function expand(input: Uint8Array, kind: 'zlib' | 'zstd', clusterBytes: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const done: Callback = (error, result) => {
      if (error !== null)
        reject(new BlockFault('io-error', `a compressed cluster is damaged: ${error.message}`, error));
      else if (result.length !== clusterBytes)
        reject(new BlockFault('io-error', `a compressed cluster holds ${result.length} bytes, not ${clusterBytes}`));
      else resolve(result);
    };
    if (kind === 'zlib') {
      // Streams need not say that they end.
      zlib.inflateRaw(input, { maxOutputLength: clusterBytes, finishFlush: zlib.constants.Z_SYNC_FLUSH }, done);
      return;
    }
    const call = (zlib as unknown as { zstdDecompress?: ZstdCall }).zstdDecompress;
    if (call === undefined) reject(new BlockFault('unsupported', 'this Node has no zstd'));
    else call(input, { maxOutputLength: clusterBytes }, done);
  });
}

/** @internal Compresses a cluster; null when it does not get smaller. */
export function compress(input: Uint8Array, kind: 'zlib' | 'zstd'): Promise<Uint8Array | null> {
  return new Promise((resolve, reject) => {
    const done: Callback = (error, result) => {
      if (error !== null) reject(error);
      else resolve(result.length < input.length ? result : null);
    };
    if (kind === 'zlib') {
      // A window of 4 KiB: what readers of these images are promised.
      zlib.deflateRaw(input, { windowBits: 12 }, done);
      return;
    }
    const call = (zlib as unknown as { zstdCompress?: ZstdCall }).zstdCompress;
    if (call === undefined) reject(new BlockFault('unsupported', 'this Node has no zstd'));
    else call(input, {}, done);
  });
}
