// Bytes of guest programs, written out by hand: this is what engines are compared with, so it shares no table with them.
// Encodings from the Intel SDM volume 2.

/** Where a label's address is to be filled in. */
interface Fixup {
  readonly at: number;
  readonly label: string;
  readonly size: number;
  readonly relative: boolean;
}

/** Register numbers as instructions encode them. */
export const AX = 0;
/** CX, ECX, RCX. */
export const CX = 1;
/** DX, EDX, RDX. */
export const DX = 2;
/** BX, EBX, RBX. */
export const BX = 3;
/** SI, ESI, RSI. */
export const SI = 6;
/** DI, EDI, RDI. */
export const DI = 7;

/**
 * A growing piece of machine code with labels. Methods return the code, so that a program reads as one expression; `b`
 * takes the bytes of an instruction as they are.
 */
export class Code {
  /** Address of the first byte. */
  readonly origin: number;
  /** Code size: 16, 32 or 64. */
  bits: 16 | 32 | 64;
  private readonly out: number[] = [];
  private readonly labels: Map<string, number> = new Map();
  private readonly fixups: Fixup[] = [];

  constructor(origin: number, bits: 16 | 32 | 64) {
    this.origin = origin;
    this.bits = bits;
  }

  /** Address of the next byte. */
  get here(): number {
    return this.origin + this.out.length;
  }

  /** Bytes as they are. */
  b(...bytes: number[]): this {
    this.out.push(...bytes);
    return this;
  }

  /** A little-endian number of `size` bytes, or a label's address. */
  n(size: number, value: number | bigint | string): this {
    if (typeof value === 'string') {
      this.fixups.push({ at: this.out.length, label: value, size, relative: false });
      for (let i = 0; i < size; i++) this.out.push(0);
    } else {
      let v = BigInt.asUintN(size * 8, BigInt(value));
      for (let i = 0; i < size; i++, v >>= 8n) this.out.push(Number(v & 0xffn));
    }
    return this;
  }

  /** Distance from the end of this field to a label. */
  rel(size: number, label: string): this {
    this.fixups.push({ at: this.out.length, label, size, relative: true });
    for (let i = 0; i < size; i++) this.out.push(0);
    return this;
  }

  /** Names the next byte's address. */
  label(name: string): this {
    this.labels.set(name, this.here);
    return this;
  }

  /** Address of a label. */
  at(name: string): number {
    const v = this.labels.get(name);
    if (v === undefined) throw new Error(`no label ${name}`);
    return v;
  }

  /** The bytes, labels filled in. */
  bytes(): Uint8Array {
    const bytes = Uint8Array.from(this.out);
    for (const f of this.fixups) {
      let v = this.at(f.label);
      if (f.relative) v -= this.origin + f.at + f.size;
      let w = BigInt.asUintN(f.size * 8, BigInt(v));
      for (let i = 0; i < f.size; i++, w >>= 8n) bytes[f.at + i] = Number(w & 0xffn);
    }
    return bytes;
  }

  // --- instructions that most programs need --------------------------------------------------------------------------

  /** MOV register, 32-bit immediate (zero-extended in 64-bit code). */
  mov32(reg: number, value: number | string): this {
    if (this.bits === 16) this.b(0x66);
    return this.b(0xb8 + reg).n(4, value);
  }

  /** MOV register, immediate of the code's own size. */
  mov(reg: number, value: number | bigint | string): this {
    if (this.bits === 64) return this.b(0x48, 0xb8 + reg).n(8, value);
    return this.b(0xb8 + reg).n(this.bits / 8, value);
  }

  /** ModRM (and SIB) with a bare displacement: DS:[address], register field `reg`. */
  abs(reg: number, address: number | string): this {
    if (this.bits === 16) return this.b((reg << 3) | 6).n(2, address);
    if (this.bits === 32) return this.b((reg << 3) | 5).n(4, address);
    return this.b((reg << 3) | 4, 0x25).n(4, address);
  }

  /** MOV [address], EAX and its like: stores the low 32 bits of a register. */
  store32(address: number | string, reg: number): this {
    if (this.bits === 16) this.b(0x66);
    return this.b(0x89).abs(reg, address);
  }

  /** MOV EAX, [address] and its like. */
  load32(reg: number, address: number | string): this {
    if (this.bits === 16) this.b(0x66);
    return this.b(0x8b).abs(reg, address);
  }

  /** INC dword [address]. */
  inc32(address: number | string): this {
    if (this.bits === 16) this.b(0x66);
    return this.b(0xff).abs(0, address);
  }

  /** CLI, HLT, and again if something wakes it. */
  stop(): this {
    return this.b(0xfa, 0xf4, 0xeb, 0xfd);
  }
}
