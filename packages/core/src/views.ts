/** log2 of the views that {@link Views} keeps. */
const KEPT_LOG2 = 12;

/**
 * Views of a memory that does not move. The last ones are kept, one for each of 4096 page numbers: a driver's buffers are
 * the same pages again and again, and a view costs as much as copying some hundred bytes.
 */
export class Views {
  private readonly bytes: Uint8Array;
  private readonly kept: (Uint8Array | undefined)[] = new Array<undefined>(1 << KEPT_LOG2).fill(undefined);

  /** @param bytes the memory; must not be detached or resized */
  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** The `n` bytes from `at` on, both in bytes, in range. Others may hold the same view. */
  of(at: number, n: number): Uint8Array {
    const slot = Math.floor(at / 4096) & ((1 << KEPT_LOG2) - 1);
    const known = this.kept[slot];
    if (known !== undefined && known.length === n && known.byteOffset - this.bytes.byteOffset === at) return known;
    const view = this.bytes.subarray(at, at + n);
    this.kept[slot] = view;
    return view;
  }
}
