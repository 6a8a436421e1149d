// LZMA, the core of xz and of the older .lzma files, into one array that is output and dictionary at once. The format is
// as the LZMA specification (lzma-specification.txt of the LZMA SDK) and the xz file format 1.1.0 describe it. Internal.

// Where each group of probabilities begins.
const POS_STATES = 16;
const STATES = 12;
const IS_MATCH = 0;
const IS_REP = IS_MATCH + STATES * POS_STATES;
const IS_REP_G0 = IS_REP + STATES;
const IS_REP_G1 = IS_REP_G0 + STATES;
const IS_REP_G2 = IS_REP_G1 + STATES;
const IS_REP0_LONG = IS_REP_G2 + STATES;
const SLOTS = IS_REP0_LONG + STATES * POS_STATES;
const SPECIAL = SLOTS + 4 * 64;
const ALIGN = SPECIAL + 128;
const LENGTH_SIZE = 2 + POS_STATES * 16 + 256;
const MATCH_LENGTH = ALIGN + 16;
const REP_LENGTH = MATCH_LENGTH + LENGTH_SIZE;
const LITERALS = REP_LENGTH + LENGTH_SIZE;

const BITS = 11;
const EVEN = 1 << (BITS - 1);
const MOVE = 5;

/** An LZMA decoder that keeps its state between the chunks of LZMA2. All its 32-bit values are kept signed. */
export class LzmaDecoder {
  private readonly src: Uint8Array;
  private readonly out: Uint8Array;
  private probs: Uint16Array = new Uint16Array(LITERALS);
  private lc = 0;
  private lpMask = 0;
  private pbMask = 0;
  private state = 0;
  private rep0 = 0;
  private rep1 = 0;
  private rep2 = 0;
  private rep3 = 0;
  private range = 0;
  private code = 0;
  private at = 0;
  private end = 0;
  /** Position behind the last output. */
  private ended = 0;

  constructor(src: Uint8Array, out: Uint8Array) {
    this.src = src;
    this.out = out;
  }

  /** Takes the properties byte and resets. False if there is no such byte. */
  setProperties(byte: number): boolean {
    if (byte >= 225) return false;
    this.lc = byte % 9;
    const rest = Math.floor(byte / 9);
    this.lpMask = (1 << (rest % 5)) - 1;
    this.pbMask = (1 << Math.floor(rest / 5)) - 1;
    this.probs = new Uint16Array(LITERALS + (0x300 << (this.lc + (rest % 5))));
    this.resetState();
    return true;
  }

  /** Probabilities and history as at the beginning. */
  resetState(): void {
    this.probs.fill(EVEN);
    this.state = 0;
    this.rep0 = 0;
    this.rep1 = 0;
    this.rep2 = 0;
    this.rep3 = 0;
  }

  private more(): void {
    if ((this.range & 0xff000000) === 0) {
      this.range <<= 8;
      this.code = (this.code << 8) | (this.at < this.end ? (this.src[this.at] as number) : 0);
      this.at++;
    }
  }

  private bit(p: number): number {
    this.more();
    const probs = this.probs;
    const v = probs[p] as number;
    const bound = Math.imul(this.range >>> BITS, v);
    if (this.code >>> 0 < bound >>> 0) {
      this.range = bound;
      probs[p] = v + (((1 << BITS) - v) >> MOVE);
      return 0;
    }
    this.range = (this.range - bound) | 0;
    this.code = (this.code - bound) | 0;
    probs[p] = v - (v >> MOVE);
    return 1;
  }

  private tree(base: number, bits: number): number {
    let m = 1;
    for (let i = 0; i < bits; i++) m = (m << 1) | this.bit(base + m);
    return m - (1 << bits);
  }

  private reverse(base: number, bits: number): number {
    let m = 1;
    let v = 0;
    for (let i = 0; i < bits; i++) {
      const b = this.bit(base + m);
      m = (m << 1) | b;
      v |= b << i;
    }
    return v;
  }

  private length(base: number, posState: number): number {
    if (this.bit(base) === 0) return 2 + this.tree(base + 2 + posState * 8, 3);
    if (this.bit(base + 1) === 0) return 10 + this.tree(base + 2 + POS_STATES * 8 + posState * 8, 3);
    return 18 + this.tree(base + 2 + POS_STATES * 16, 8);
  }

  private distance(length: number): number {
    const slot = this.tree(SLOTS + Math.min(length - 2, 3) * 64, 6);
    if (slot < 4) return slot;
    const bits = (slot >> 1) - 1;
    let v = (2 | (slot & 1)) << bits;
    if (slot < 14) return v + this.reverse(SPECIAL + v - slot, bits);
    let direct = 0;
    for (let i = 0; i < bits - 4; i++) {
      this.more();
      this.range >>>= 1;
      const below = this.code >>> 0 < this.range >>> 0;
      if (!below) this.code = (this.code - this.range) | 0;
      direct = (direct << 1) | (below ? 0 : 1);
    }
    v = (v + (direct << 4)) | 0;
    return (v + this.reverse(ALIGN, 4)) | 0;
  }

  /**
   * Decodes `src[at…end)` to `out[from…to)`; matches reach back to `dictionary` at most.
   * @returns false for broken input
   */
  run(at: number, end: number, from: number, to: number, dictionary: number): boolean {
    const { src, out } = this;
    if (end - at < 5 || to > out.length) return false;
    this.at = at + 5;
    this.end = end;
    this.range = -1;
    this.code =
      ((src[at + 1] as number) << 24) |
      ((src[at + 2] as number) << 16) |
      ((src[at + 3] as number) << 8) |
      (src[at + 4] as number);
    let d = from;
    while (d < to) {
      if (this.at > end + 4) return false; // it reads on behind its end
      const pos = d - dictionary;
      const posState = pos & this.pbMask;
      const state = this.state;
      if (this.bit(IS_MATCH + state * POS_STATES + posState) === 0) {
        const before = pos === 0 ? 0 : (out[d - 1] as number);
        const which = ((pos & this.lpMask) << this.lc) + (before >> (8 - this.lc));
        const base = LITERALS + 0x300 * which;
        let symbol = 1;
        if (state >= 7) {
          if (this.rep0 >= pos) return false;
          let match = out[d - this.rep0 - 1] as number;
          while (symbol < 0x100) {
            match <<= 1;
            const want = match & 0x100;
            const b = this.bit(base + 0x100 + want + symbol);
            symbol = (symbol << 1) | b;
            if (want >> 8 !== b) break;
          }
        }
        while (symbol < 0x100) symbol = (symbol << 1) | this.bit(base + symbol);
        out[d++] = symbol;
        this.state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
        continue;
      }
      let length: number;
      if (this.bit(IS_REP + state) === 0) {
        this.rep3 = this.rep2;
        this.rep2 = this.rep1;
        this.rep1 = this.rep0;
        length = this.length(MATCH_LENGTH, posState);
        this.rep0 = this.distance(length);
        this.state = state < 7 ? 7 : 10;
        if (this.rep0 === -1) return false; // an end mark, which has no place where sizes are known
      } else {
        if (this.bit(IS_REP_G0 + state) === 0) {
          if (this.bit(IS_REP0_LONG + state * POS_STATES + posState) === 0) {
            if (this.rep0 >>> 0 >= pos) return false;
            out[d] = out[d - this.rep0 - 1] as number;
            d++;
            this.state = state < 7 ? 9 : 11;
            continue;
          }
        } else {
          let again = this.rep1;
          if (this.bit(IS_REP_G1 + state) !== 0) {
            again = this.rep2;
            if (this.bit(IS_REP_G2 + state) !== 0) {
              again = this.rep3;
              this.rep3 = this.rep2;
            }
            this.rep2 = this.rep1;
          }
          this.rep1 = this.rep0;
          this.rep0 = again;
        }
        length = this.length(REP_LENGTH, posState);
        this.state = state < 7 ? 8 : 11;
      }
      if (this.rep0 >>> 0 >= pos || length > to - d) return false;
      let s = d - this.rep0 - 1;
      for (let i = 0; i < length; i++) out[d++] = out[s++] as number;
    }
    this.ended = to - dictionary;
    return true;
  }

  /** Whether an end mark follows what {@link LzmaDecoder.run} decoded last. */
  endMark(): boolean {
    const posState = this.ended & this.pbMask;
    if (this.bit(IS_MATCH + this.state * POS_STATES + posState) === 0 || this.bit(IS_REP + this.state) !== 0)
      return false;
    return this.distance(this.length(MATCH_LENGTH, posState)) === -1;
  }
}

/** Unpacks a .lzma file (properties, dictionary size, size or -1 for an end mark) to exactly `size` bytes, or null. */
export function unpackLzma(src: Uint8Array, size: number): Uint8Array | null {
  if (src.length < 18) return null;
  const v = new DataView(src.buffer, src.byteOffset);
  const marked = v.getUint32(5, true) === 0xffffffff && v.getUint32(9, true) === 0xffffffff;
  if (!marked && (v.getUint32(5, true) !== size || v.getUint32(9, true) !== 0)) return null;
  const out = new Uint8Array(size);
  const decoder = new LzmaDecoder(src, out);
  if (!decoder.setProperties(src[0] as number) || !decoder.run(13, src.length, 0, size, 0)) return null;
  return marked && !decoder.endMark() ? null : out;
}
