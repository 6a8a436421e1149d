// Deterministic random numbers and the values that find bugs.

/** A 32-bit generator (sfc32) with a few conveniences; no state is shared. */
export class Random {
  private a = 0;
  private b = 0;
  private c = 0;
  private counter = 1;

  /** @param seed any number; the same seed gives the same sequence */
  constructor(seed: number) {
    this.seed(seed);
  }

  /** Starts over. */
  seed(seed: number): void {
    this.a = seed | 0;
    this.b = Math.floor(seed / 0x1_0000_0000) | 0;
    this.c = 0x9e3779b9 | 0;
    this.counter = 1;
    for (let i = 0; i < 12; i++) this.u32();
  }

  /** Uniform uint32. */
  u32(): number {
    const t = (((this.a + this.b) | 0) + this.counter) | 0;
    this.counter = (this.counter + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = ((this.c << 21) | (this.c >>> 11)) + t;
    this.c |= 0;
    return t >>> 0;
  }

  /** Uniform in 0…n-1. */
  int(n: number): number {
    return this.u32() % n;
  }

  /** True in so many percent. */
  chance(percent: number): boolean {
    return this.int(100) < percent;
  }

  /** One of the elements. */
  pick<T>(from: readonly T[]): T {
    return from[this.int(from.length)] as T;
  }

  /** Uniform 64-bit value. */
  u64(): bigint {
    return (BigInt(this.u32()) << 32n) | BigInt(this.u32());
  }
}

const M64 = (1n << 64n) - 1n;

/** A 64-bit integer that likely is at some edge. */
export function integer(r: Random): bigint {
  switch (r.int(12)) {
    case 0:
      return 0n;
    case 1:
      return (BigInt(r.int(3)) - 1n) & M64;
    case 2: {
      // Around a power of two, of either sign.
      const v = (1n << BigInt(r.pick([7, 8, 15, 16, 31, 32, 63, r.int(64)]))) + BigInt(r.int(3) - 1);
      return (r.chance(50) ? v : -v) & M64;
    }
    case 3:
      return BigInt(r.int(70));
    case 4:
      return -BigInt(r.int(70)) & M64;
    case 5:
      return BigInt(r.int(0x1_0000));
    case 6:
      return BigInt(r.u32());
    case 7:
      return BigInt(r.u32() | 0) & M64;
    case 8: {
      const b = BigInt(r.int(256));
      return b * 0x0101010101010101n;
    }
    case 9:
      // Decimal digits, for the BCD instructions.
      return BigInt(`0x${Array.from({ length: 16 }, () => r.int(10)).join('')}`);
    default:
      return r.u64();
  }
}

/** Bits of an interesting single. */
export function single(r: Random): number {
  const sign = r.chance(50) ? 0x80000000 : 0;
  switch (r.int(14)) {
    case 0:
      return sign;
    case 1:
      return (sign | 0x3f800000) >>> 0;
    case 2:
      return (sign | 0x7f800000) >>> 0;
    case 3:
      return (sign | 0x7fc00000 | r.int(0x400000)) >>> 0;
    case 4:
      return (sign | 0x7f800001 | r.int(0x3fffff)) >>> 0;
    case 5:
      return (sign | (1 + r.int(0x7fffff))) >>> 0;
    case 6:
      return (sign | r.pick([1, 0x7fffff, 0x800000, 0x800001, 0x7f7fffff, 0x00ffffff])) >>> 0;
    case 7:
      return (sign | ((127 + r.int(66) - 2) << 23) | (r.chance(50) ? 0 : r.int(0x800000))) >>> 0;
    case 8: {
      // Small integers and halves, where rounding shows.
      const f = new Float32Array([r.int(400) / 4]);
      return (sign | (new Uint32Array(f.buffer)[0] as number)) >>> 0;
    }
    case 9:
      return (
        (sign |
          ((127 + r.pick([7, 8, 15, 16, 30, 31, 32, 62, 63, 64]) - r.int(2)) << 23) |
          r.pick([0, 1, 0x7fffff])) >>>
        0
      );
    case 10:
      return (sign | (r.int(0x40) << 23) | r.int(0x800000)) >>> 0;
    case 11:
      return (sign | ((0xc0 + r.int(0x3f)) << 23) | r.int(0x800000)) >>> 0;
    default:
      return r.u32();
  }
}

/** Bits of an interesting double. */
export function double(r: Random): bigint {
  const sign = r.chance(50) ? 1n << 63n : 0n;
  const fraction = (): bigint => r.u64() & 0xfffffffffffffn;
  const edge = (): bigint =>
    r.pick([0n, 1n, 0xfffffffffffffn, 0x8000000000000n, 0xfffffe0000000n, 0x10000000n, 0x0fffffffn, fraction()]);
  switch (r.int(13)) {
    case 0:
      return sign;
    case 1:
      return sign | 0x3ff0000000000000n;
    case 2:
      return sign | 0x7ff0000000000000n;
    case 3:
      return sign | 0x7ff8000000000000n | (fraction() >> 1n);
    case 4:
      return sign | 0x7ff0000000000000n | (fraction() >> 1n) | 1n;
    case 5:
      return sign | fraction();
    case 6:
      return sign | r.pick([1n, 0xfffffffffffffn, 0x10000000000000n, 0x10000000000001n, 0x7fefffffffffffffn]);
    case 7:
      return sign | (BigInt(1023 + r.int(70) - 3) << 52n) | edge();
    case 8: {
      const f = new Float64Array([r.int(400) / 4]);
      return sign | (new BigUint64Array(f.buffer)[0] as bigint);
    }
    case 9:
      // Near the limits of singles.
      return (
        sign |
        (BigInt(r.pick([1023 + 127, 1023 + 128, 1023 - 126, 1023 - 127, 1023 - 149, 1023 - 150])) << 52n) |
        edge()
      );
    case 10:
      return sign | (BigInt(r.int(2046) + 1) << 52n) | edge();
    case 11:
      return sign | (BigInt(r.pick([1023 + 31, 1023 + 30, 1023 + 63, 1023 + 62, 1023 + 64])) << 52n) | edge();
    default:
      return r.u64();
  }
}

/** An interesting 80-bit value: significand and sign with exponent. */
export function extended(r: Random): readonly [significand: bigint, top: number] {
  const sign = r.chance(50) ? 0x8000 : 0;
  const J = 1n << 63n;
  const edge = (): bigint =>
    r.pick([
      0n,
      1n,
      J - 1n,
      0x400n,
      0x3ffn,
      0x7ffn,
      0x8000000000n,
      0x7fffffffffn,
      r.u64() & (J - 1n),
      r.u64() & (J - 1n),
    ]);
  switch (r.int(16)) {
    case 0:
      return [0n, sign];
    case 1:
      return [J, sign | 0x3fff];
    case 2:
      return [J, sign | 0x7fff];
    case 3:
      return [J | (J >> 1n) | (r.u64() >> 2n), sign | 0x7fff];
    case 4:
      return [J | (r.u64() >> 2n) | 1n, sign | 0x7fff];
    case 5:
      return [r.u64() >> BigInt(1 + r.int(40)), sign];
    case 6:
      return [J | edge(), sign | r.pick([1, 2, 0x7ffe, 0x3ffe, 0x3fff])];
    case 7:
      return [J | edge(), sign | (0x3fff + r.int(70) - 3)];
    case 8: {
      const n = BigInt(1 + r.int(400));
      const length = n.toString(2).length;
      return [n << BigInt(64 - length), sign | (0x3fff + length - 1 - 2)];
    }
    case 9:
      return [J | edge(), sign | (0x3fff + r.pick([15, 16, 31, 32, 62, 63, 64, -1, -2]))];
    case 10:
      // Limits of singles and doubles.
      return [
        J | edge(),
        sign | (0x3fff + r.pick([127, 128, -126, -127, -149, -150, 1023, 1024, -1022, -1023, -1074, -1075])),
      ];
    case 11:
      // Encodings no arithmetic makes: pseudo-denormals, unnormals, pseudo-infinities.
      return [r.pick([J, J | 1n, 0n, 1n, r.u64() >> 1n]), sign | r.pick([0, 1, 0x3fff, 0x7ffe, 0x7fff])];
    case 12:
      return [r.u64(), r.int(0x10000)];
    default:
      return [J | r.u64(), sign | (0x3fff + r.int(200) - 100)];
  }
}
