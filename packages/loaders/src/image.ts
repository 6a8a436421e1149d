// Bounded little-endian reading of files somebody hands us, and text in the form guests take it. Internal.
import { HyveError, join64 } from '@hyve/core';

/** Lower-case hexadecimal with 0x, for messages. */
export function hex(n: number): string {
  return `0x${n.toString(16)}`;
}

/** Next multiple of `align` (a power of two, but plain arithmetic: addresses pass 2^32). */
export function alignUp(n: number, align: number): number {
  return Math.ceil(n / align) * align;
}

/** Multiple of `align` at or below `n`. */
export function alignDown(n: number, align: number): number {
  return Math.floor(n / align) * align;
}

/** A file under inspection: every read is checked, and a read past the end throws with the loader's own code. */
export class Image {
  readonly bytes: Uint8Array;
  private readonly view: DataView;
  private readonly code: string;
  private readonly what: string;

  /**
   * @param bytes the file
   * @param code error code for reads past the end
   * @param what what the file should be, for messages
   */
  constructor(bytes: Uint8Array, code: string, what: string) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.code = code;
    this.what = what;
  }

  /** File length in bytes. */
  get length(): number {
    return this.bytes.length;
  }

  private need(at: number, n: number): void {
    if (at + n > this.bytes.length)
      throw new HyveError(
        this.code,
        `${this.what}: truncated: ${n} bytes wanted at offset ${hex(at)}, the file ends at ${hex(this.bytes.length)}`,
      );
  }

  /** One byte. */
  u8(at: number): number {
    this.need(at, 1);
    return this.view.getUint8(at);
  }

  /** Two bytes. */
  u16(at: number): number {
    this.need(at, 2);
    return this.view.getUint16(at, true);
  }

  /** Four bytes, unsigned. */
  u32(at: number): number {
    this.need(at, 4);
    return this.view.getUint32(at, true);
  }

  /** Eight bytes; values from 2^53 up come out as 2^53, which no check lets through. */
  u64(at: number): number {
    const hi = this.u32(at + 4);
    return hi > 0x1fffff ? 2 ** 53 : join64(this.u32(at), hi);
  }

  /** A run of bytes, not copied. */
  slice(at: number, n: number): Uint8Array {
    this.need(at, n);
    return this.bytes.subarray(at, at + n);
  }

  /** Whether ASCII `text` stands at `at`; false past the end. */
  has(at: number, text: string): boolean {
    if (at + text.length > this.bytes.length) return false;
    for (let i = 0; i < text.length; i++) if (this.bytes[at + i] !== text.charCodeAt(i)) return false;
    return true;
  }
}

/**
 * UTF-8 with a terminating NUL.
 * @throws HyveError with `code` when the text holds a NUL itself
 */
export function cString(text: string, code: string, what: string): Uint8Array {
  const out: number[] = [];
  for (const ch of text) {
    const c = ch.codePointAt(0) as number;
    if (c === 0) throw new HyveError(code, `${what} holds a NUL character`);
    if (c < 0x80) out.push(c);
    else if (c < 0x800) out.push(0xc0 | (c >> 6), 0x80 | (c & 0x3f));
    else if (c < 0x10000) out.push(0xe0 | (c >> 12), 0x80 | ((c >> 6) & 0x3f), 0x80 | (c & 0x3f));
    else out.push(0xf0 | (c >> 18), 0x80 | ((c >> 12) & 0x3f), 0x80 | ((c >> 6) & 0x3f), 0x80 | (c & 0x3f));
  }
  out.push(0);
  return Uint8Array.from(out);
}
