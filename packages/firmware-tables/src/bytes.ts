// A growable little-endian byte writer and the byte-sum checksum that ACPI, MP and SMBIOS structures share. Internal.
import { HyveError, hi32, lo32 } from '@hyve/core';

/** Some bytes and the guest-physical address they belong at. */
export interface TableImage {
  /** What it is, for messages and maps: `acpi`, `mptable`, `smbios`. */
  readonly name: string;
  /** First guest-physical address, bytes. */
  readonly addr: number;
  /** What goes there. */
  readonly bytes: Uint8Array;
}

/** The byte that makes the 8-bit sum of `bytes` and itself zero. */
export function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (const b of bytes) sum += b;
  return -sum & 0xff;
}

/** Lower-case hexadecimal with 0x, for messages. */
export function hex(n: number): string {
  return `0x${n.toString(16)}`;
}

/** Appends integers, text and bytes; little-endian. */
export class ByteWriter {
  private buf: Uint8Array = new Uint8Array(128);
  private len = 0;

  /** Bytes written so far. */
  get length(): number {
    return this.len;
  }

  private room(n: number): number {
    const at = this.len;
    if (at + n > this.buf.length) {
      const bigger = new Uint8Array(Math.max(this.buf.length * 2, at + n));
      bigger.set(this.buf);
      this.buf = bigger;
    }
    this.len = at + n;
    return at;
  }

  /** One byte; upper bits are dropped. */
  u8(v: number): this {
    const at = this.room(1);
    this.buf[at] = v;
    return this;
  }

  /** Two bytes. */
  u16(v: number): this {
    return this.u8(v).u8(v >>> 8);
  }

  /** Four bytes. */
  u32(v: number): this {
    return this.u16(v).u16(v >>> 16);
  }

  /** Eight bytes of an integer below 2^53. */
  u64(v: number): this {
    return this.u32(lo32(v)).u32(hi32(v));
  }

  /** Bytes as they are. */
  raw(b: Uint8Array | readonly number[]): this {
    const at = this.room(b.length);
    this.buf.set(b, at);
    return this;
  }

  /** `n` zero bytes. */
  zeros(n: number): this {
    this.room(n);
    return this;
  }

  /**
   * ASCII in a field of exactly `width` bytes, cut or filled with `pad`.
   * @throws HyveError `TABLE_TEXT` for characters outside ASCII
   */
  ascii(text: string, width: number, pad = 0x20): this {
    for (let i = 0; i < width; i++) this.u8(i < text.length ? asciiCode(text, i) : pad);
    return this;
  }

  /** Zeros up to a multiple of `n`. */
  align(n: number): this {
    return this.zeros((n - (this.len % n)) % n);
  }

  /** A copy of what was written. */
  finish(): Uint8Array {
    return this.buf.slice(0, this.len);
  }
}

/** The code of an ASCII character. @throws HyveError `TABLE_TEXT` for anything else */
export function asciiCode(text: string, i: number): number {
  const c = text.charCodeAt(i);
  if (c > 0x7e || c < 0x20)
    throw new HyveError('TABLE_TEXT', `${JSON.stringify(text)}: only printable ASCII fits here`);
  return c;
}
