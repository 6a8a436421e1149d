// Arrays of 32-bit words in saved state, which comes from files.
import { HyveError } from '@hyve/core';

/** Property `key` of `state`: exactly `length` unsigned 32-bit integers. @throws HyveError `STATE_FORMAT` */
export function savedWords(name: string, state: unknown, key: string, length: number): number[] {
  const x = (state as Readonly<Record<string, unknown>>)[key];
  if (!Array.isArray(x) || x.length !== length || !x.every((w) => typeof w === 'number' && w >>> 0 === w))
    throw new HyveError('STATE_FORMAT', `${name}: ${key} is ${String(x)}, expected ${length} unsigned 32-bit integers`);
  return x as number[];
}
