// Checked reading of saved state, for load() of devices: state comes from files.
import { HyveError } from './errors.ts';

/** Reader over one saved object; every getter throws HyveError `STATE_FORMAT` on a missing or wrong value. */
export class StateReader {
  private readonly from: Readonly<Record<string, unknown>>;
  private readonly name: string;

  /**
   * @param name of the device, for messages
   * @param version the only version taken, compared with property `v`; null for a nested object without one
   * @throws HyveError `STATE_FORMAT`, `STATE_VERSION`
   */
  constructor(name: string, state: unknown, version: number | null) {
    if (typeof state !== 'object' || state === null)
      throw new HyveError('STATE_FORMAT', `${name}: state is ${state === null ? 'null' : typeof state}, not an object`);
    this.from = state as Readonly<Record<string, unknown>>;
    this.name = name;
    if (version !== null && this.from['v'] !== version)
      throw new HyveError('STATE_VERSION', `${name}: state version ${String(this.from['v'])}, expected ${version}`);
  }

  private bad(key: string, expected: string): never {
    throw new HyveError('STATE_FORMAT', `${this.name}: ${key} is ${String(this.from[key])}, expected ${expected}`);
  }

  /** An integer in `[min, max]`. */
  int(key: string, min: number, max: number): number {
    const x = this.from[key];
    if (typeof x !== 'number' || !Number.isInteger(x) || x < min || x > max)
      this.bad(key, `an integer from ${min} to ${max}`);
    return x;
  }

  /** An unsigned byte. */
  u8(key: string): number {
    return this.int(key, 0, 0xff);
  }

  /** An unsigned 32-bit value. */
  u32(key: string): number {
    return this.int(key, 0, 0xffffffff);
  }

  /** A whole number of ticks or nanoseconds, of either sign. */
  span(key: string): number {
    return this.int(key, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  }

  /** True or false. */
  bool(key: string): boolean {
    const x = this.from[key];
    if (typeof x !== 'boolean') this.bad(key, 'true or false');
    return x;
  }

  /** An array of exactly `length` bytes. */
  bytes(key: string, length: number): number[] {
    const x = this.from[key];
    if (
      !Array.isArray(x) ||
      x.length !== length ||
      !x.every((b) => typeof b === 'number' && Number.isInteger(b) && b >= 0 && b <= 0xff)
    )
      this.bad(key, `${length} bytes`);
    return x as number[];
  }

  /** An array of exactly `length` unsigned 32-bit values. */
  words(key: string, length: number): number[] {
    const x = this.from[key];
    if (!Array.isArray(x) || x.length !== length || !x.every((w) => Number.isInteger(w) && w >= 0 && w < 2 ** 32))
      this.bad(key, `${length} words`);
    return x as number[];
  }

  /** A time in nanoseconds that may be absent. */
  time(key: string): number | null {
    const x = this.from[key];
    if (x === null) return null;
    if (typeof x !== 'number' || !Number.isFinite(x)) this.bad(key, 'a time or null');
    return x;
  }

  /** An array of exactly `length` nested objects. */
  items(key: string, length: number): StateReader[] {
    const x = this.from[key];
    if (!Array.isArray(x) || x.length !== length) this.bad(key, `${length} objects`);
    return (x as unknown[]).map((item, i) => new StateReader(`${this.name} ${key}[${i}]`, item, null));
  }
}
