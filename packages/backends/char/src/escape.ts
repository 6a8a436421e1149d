// The way out of a raw terminal: a prefix key, then x or the prefix again.

/** @internal Watches input for the escape sequence and passes the rest on. */
export class EscapeFilter {
  private readonly prefix: number;
  private readonly onEscape: () => void;
  private readonly pass: (bytes: Uint8Array) => void;
  private armed = false;

  /** @param o.prefix the prefix key as a byte, such as 0x1d for Ctrl-] */
  constructor(o: { prefix: number; onEscape: () => void; pass: (bytes: Uint8Array) => void }) {
    this.prefix = o.prefix;
    this.onEscape = o.onEscape;
    this.pass = o.pass;
  }

  /** Input from the terminal. A prefix followed by any other key passes both on. */
  feed(bytes: Uint8Array): void {
    let start = 0;
    for (let i = 0; i < bytes.length; i++) {
      const b = bytes[i] as number;
      if (this.armed) {
        this.armed = false;
        if (b === this.prefix || b === 0x78 || b === 0x58) {
          start = i + 1;
          this.onEscape();
        } else {
          this.pass(Uint8Array.of(this.prefix));
          start = i;
        }
      } else if (b === this.prefix) {
        if (i > start) this.pass(bytes.slice(start, i));
        start = i + 1;
        this.armed = true;
      }
    }
    if (start < bytes.length && !this.armed) this.pass(bytes.slice(start));
  }
}

/** @internal How a user reads a control byte: 0x1d is `Ctrl-]`. */
export function keyName(byte: number): string {
  return byte < 0x20 ? `Ctrl-${String.fromCharCode(byte + 0x40)}` : String.fromCharCode(byte);
}
