// Output into files: an append log, and a ring of bounded size that keeps the newest bytes (HyperKit's `log=`).
import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { HyveError } from '@hyve/core';
import type { Output } from './channel.ts';
import { errorCode, FdOutput } from './outputs.ts';

/** Size of a ring log in bytes. */
export const RING_SIZE: number = 1 << 20;

function open(path: string, flags: string): number {
  try {
    return openSync(path, flags, 0o644);
  } catch (e) {
    throw new HyveError('CHAR_FILE', `cannot open ${path} for console output: ${errorCode(e) || String(e)}`, e);
  }
}

/** @internal Appends to a file. @throws HyveError `CHAR_FILE` */
export function openAppend(path: string): Output {
  return new FdOutput({ fd: open(path, 'a'), owned: true });
}

/**
 * @internal A file that grows to a fixed size and then goes round. Once it has gone round, a NUL byte follows the newest
 * byte and the oldest one follows the NUL.
 */
export class RingLogOutput implements Output {
  onDrain: (() => void) | null = null;
  private readonly fd: number;
  private readonly size: number;
  private position = 0;
  private wrapped = false;
  private closed = false;
  private readonly seam: Uint8Array = new Uint8Array(1);

  /** Starts an empty log. @throws HyveError `CHAR_FILE` */
  constructor(path: string, size: number = RING_SIZE) {
    this.fd = open(path, 'w');
    this.size = size;
    if (fstatSync(this.fd).isFile()) ftruncateSync(this.fd, 0);
  }

  write(bytes: Uint8Array): boolean {
    if (this.closed) return true;
    try {
      let from = Math.max(0, bytes.length - (this.size - 1));
      while (from < bytes.length) {
        const n = Math.min(bytes.length - from, this.size - this.position);
        writeSync(this.fd, bytes, from, n, this.position);
        from += n;
        this.position += n;
        if (this.position === this.size) {
          this.position = 0;
          this.wrapped = true;
        }
      }
      if (this.wrapped) writeSync(this.fd, this.seam, 0, 1, this.position);
    } catch {
      // A full disk loses the log, not the guest.
    }
    return true;
  }

  close(): Promise<void> {
    if (!this.closed) closeSync(this.fd);
    this.closed = true;
    return Promise.resolve();
  }
}

/** Reads a ring log (`log=`) in order, oldest byte first. @throws the error of reading the file */
export function readRingLog(path: string): Uint8Array {
  const bytes = readFileSync(path);
  const seam = bytes.length < RING_SIZE ? -1 : bytes.indexOf(0);
  if (seam < 0) return new Uint8Array(bytes);
  const out = new Uint8Array(bytes.length - 1);
  out.set(bytes.subarray(seam + 1), 0);
  out.set(bytes.subarray(0, seam), bytes.length - seam - 1);
  return out;
}
