// Unpacked kernels in the user's cache: reading 50 MB takes a tenth of the time that unpacking them takes.
import { hash } from 'node:crypto';
import { readFileSync, utimesSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import type { PcHost } from '@hyve/pc';
import { keepNewest, makePrivate } from './user-cache.ts';

/** Most kernels that are kept, some 60 MB each; the ones not used for longest go. */
const MOST = 4;
/** Smaller ones are unpacked in no time. Bytes. */
const WORTH = 8 << 20;
/** CRC-32 of the kernel, little-endian, behind it. */
const TRAILER = 4;

/** Kernels in files named by digests of their packed form. A cache that cannot be written or read is an empty one. */
export class KernelCache implements NonNullable<PcHost['unpackedKernels']> {
  private readonly directory: string;
  private readonly names: WeakMap<Uint8Array, string> = new WeakMap();

  constructor(directory: string) {
    this.directory = directory;
  }

  get(packed: Uint8Array): Uint8Array | null {
    if (packed.length < WORTH / 8) return null;
    try {
      const file = this.file(packed);
      const bytes = readFileSync(file);
      const kernel = bytes.subarray(0, -TRAILER);
      if (bytes.length < WORTH || crc32(kernel) !== bytes.readUInt32LE(kernel.length)) return null;
      const now = new Date();
      utimesSync(file, now, now);
      return kernel;
    } catch {
      return null;
    }
  }

  /** Keeps a copy; it is written while the guest runs, see {@link KernelCache.written}. */
  put(packed: Uint8Array, unpacked: Uint8Array): void {
    if (unpacked.length < WORTH) return;
    const copy = Buffer.allocUnsafe(unpacked.length + TRAILER);
    copy.set(unpacked);
    copy.writeUInt32LE(crc32(unpacked), unpacked.length);
    this.written = this.write(this.file(packed), copy);
  }

  /** Settles when the last kernel has been written, or could not be. */
  written: Promise<void> = Promise.resolve();

  private async write(file: string, bytes: Uint8Array): Promise<void> {
    const part = `${file}.${process.pid}`;
    try {
      makePrivate(this.directory);
      await writeFile(part, bytes, { mode: 0o600 });
      await rename(part, file);
      keepNewest(this.directory, MOST);
    } catch {
      await rm(part, { force: true }).catch(() => {});
    }
  }

  /** Where a kernel is kept. What is not found is put soon: 14 MB are not hashed twice. */
  private file(packed: Uint8Array): string {
    const name = this.names.get(packed) ?? hash('sha256', packed);
    this.names.set(packed, name);
    return join(this.directory, name);
  }
}
