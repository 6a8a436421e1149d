// Memory sizes as xhyve's -m and bhyve's memory.size take them, and sizes for people.
import { parseCInteger } from './config.ts';

const SUFFIXES = 'kmgtpe';

/**
 * Bytes of a memory size. A bare number below 1 MiB counts megabytes, a larger one bytes; `k m g t p e` (either case,
 * an optional `b` behind) multiply by powers of 1024. Numbers may be decimal, 0x hexadecimal or 0 octal.
 * @returns null for anything else, or beyond 2^53
 */
export function parseMemorySize(text: string): number | null {
  const plain = parseCInteger(text);
  if (plain !== null) {
    if (plain < 0) return null;
    return plain < 2 ** 20 ? plain * 2 ** 20 : plain;
  }
  // The number itself never ends in a suffix letter except hexadecimal digits, which the plain case has taken.
  const m = /^(.*?)([kmgtpe]?)(b?)$/iu.exec(text);
  if (m === null || (m[2] === '' && m[3] === '')) return null;
  const n = parseCInteger(m[1] as string);
  if (n === null || n < 0) return null;
  const power = m[2] === '' ? 0 : SUFFIXES.indexOf((m[2] as string).toLowerCase()) + 1;
  const bytes = n * 1024 ** power;
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** Bytes in the largest unit that keeps the number short: `512 MiB`, `1.5 GiB`, `640 bytes`. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const text = unit === 0 || Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 2 : 1);
  return `${text} ${units[unit]}`;
}
