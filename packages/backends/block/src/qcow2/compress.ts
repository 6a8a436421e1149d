// Compressed clusters: raw deflate streams or zstd frames, one per cluster, off the main thread.
import * as zlib from 'node:zlib';
import { BlockFault } from '../fault.ts';

type Callback = (error: Error | null, result: Uint8Array) => void;
type ZstdCall = (input: Uint8Array, options: object, done: Callback) => void;

/**
 * Bytes of the zstd frame that `input` begins with (RFC 8878 §3.1.1), or 0 when it is none. The next cluster's frame may
 * follow at once, and decoders go on to it.
 */
function zstdFrameBytes(input: Uint8Array): number {
  if (input.length < 9) return 0;
  const v = new DataView(input.buffer, input.byteOffset, input.byteLength);
  if (v.getUint32(0, true) !== 0xfd2fb528) return 0;
  const descriptor = v.getUint8(4);
  const single = (descriptor & 0x20) !== 0;
  const sizeBytes = [single ? 1 : 0, 2, 4, 8][descriptor >>> 6] as number;
  let at = 5 + (single ? 0 : 1) + ([0, 1, 2, 4][descriptor & 3] as number) + sizeBytes;
  while (at + 3 <= input.length) {
    const block = v.getUint16(at, true) | (v.getUint8(at + 2) << 16);
    const repeated = ((block >>> 1) & 3) === 1;
    at += 3 + (repeated ? 1 : block >>> 3);
    if ((block & 1) === 0) continue;
    at += (descriptor & 4) !== 0 ? 4 : 0;
    return at <= input.length ? at : 0;
  }
  return 0;
}

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
    else {
      const n = zstdFrameBytes(input);
      if (n === 0) reject(new BlockFault('io-error', 'a compressed cluster is no zstd frame'));
      else call(input.subarray(0, n), { maxOutputLength: clusterBytes }, done);
    }
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
