// The configuration tree: dotted names to strings, as in bhyve_config(5). Every option of the command line becomes an
// entry here first, so that options, `-o` and `-k` files override each other in the order they are given.
import { usageError } from './errors.ts';

const MAX_EXPANSIONS = 32;
const TRUE_WORDS = ['true', 'on', 'yes', '1'];
const FALSE_WORDS = ['false', 'off', 'no', '0'];

/** Dotted names to string values. A name has either a value or children, never both. */
export class ConfigTree {
  private readonly values = new Map<string, string>();
  /** Every proper prefix of a name that has a value, with the number of names below it. */
  private readonly inner = new Map<string, number>();

  /**
   * Gives `name` a value, replacing the one it had.
   * @param where how the user said it, for messages (`-o pci.0.3.0.device=…`)
   * @throws CLI_USAGE when the name is malformed, is a node with children, or runs through a name with a value
   */
  set(name: string, value: string, where: string): void {
    if (!isConfigName(name)) throw usageError(`${where}: '${name}' is not a configuration name`);
    if (this.inner.has(name)) throw usageError(`${where}: '${name}' already has settings below it`);
    const prefixes = prefixesOf(name);
    for (const p of prefixes) {
      if (this.values.has(p)) throw usageError(`${where}: '${p}' already has a value, so '${name}' cannot be below it`);
    }
    if (!this.values.has(name)) for (const p of prefixes) this.inner.set(p, (this.inner.get(p) ?? 0) + 1);
    this.values.set(name, value);
  }

  /** Takes a value away; a name without one is left alone. */
  delete(name: string): void {
    if (!this.values.delete(name)) return;
    for (const p of prefixesOf(name)) {
      const n = (this.inner.get(p) ?? 1) - 1;
      if (n === 0) this.inner.delete(p);
      else this.inner.set(p, n);
    }
  }

  /** Whether `name` has a value. */
  has(name: string): boolean {
    return this.values.has(name);
  }

  /** Whether `name` has a value or children. */
  hasNode(name: string): boolean {
    return this.values.has(name) || this.inner.has(name);
  }

  /**
   * The value with `%(name)` replaced by other values and `%%` by `%`, or undefined.
   * @throws CLI_USAGE on an unknown or endless reference
   */
  get(name: string): string | undefined {
    const raw = this.values.get(name);
    return raw === undefined ? undefined : this.expand(raw, name, 0);
  }

  private expand(text: string, name: string, depth: number): string {
    if (!text.includes('%')) return text;
    if (depth >= MAX_EXPANSIONS) throw usageError(`${name}: references go deeper than ${MAX_EXPANSIONS} levels`);
    let out = '';
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if (c !== '%') out += c;
      else if (text[i + 1] === '%') {
        out += '%';
        i++;
      } else if (text[i + 1] === '(') {
        const end = text.indexOf(')', i);
        if (end < 0) throw usageError(`${name}: '${text}' has '%(' without ')'`);
        const other = text.slice(i + 2, end);
        const raw = this.values.get(other);
        if (raw === undefined) throw usageError(`${name}: '%(${other})' names no configuration variable`);
        out += this.expand(raw, other, depth + 1);
        if (out.length > 1 << 20) throw usageError(`${name}: its references expand to more than 1 MiB`);
        i = end;
      } else out += c;
    }
    return out;
  }

  /** A boolean in any of bhyve's spellings, or `fallback` when there is none. */
  bool(name: string, fallback: boolean): boolean {
    const text = this.get(name);
    if (text === undefined) return fallback;
    const b = parseBool(text);
    if (b === null) throw usageError(`${name}: '${text}' is neither true nor false`);
    return b;
  }

  /** An integer in C's notations within [min, max], or null when there is none. */
  int(name: string, min: number, max: number): number | null {
    const text = this.get(name);
    if (text === undefined) return null;
    const n = parseCInteger(text);
    if (n === null) throw usageError(`${name}: '${text}' is not a number`);
    if (n < min || n > max) throw usageError(`${name}: ${text} is outside ${min} to ${max}`);
    return n;
  }

  /** Names directly below `node`, in natural order (2 before 10). */
  children(node: string): string[] {
    const prefix = node === '' ? '' : `${node}.`;
    const found = new Set<string>();
    for (const key of this.values.keys()) {
      if (key.startsWith(prefix)) found.add(key.slice(prefix.length).split('.', 1)[0] as string);
    }
    return [...found].sort(naturalOrder);
  }

  /** Every value below `node` by the rest of its name, expanded, in natural order. */
  below(node: string): Record<string, string> {
    const prefix = `${node}.`;
    const rows: [string, string][] = [];
    for (const key of this.values.keys()) {
      if (key.startsWith(prefix)) rows.push([key.slice(prefix.length), this.get(key) as string]);
    }
    rows.sort((a, b) => naturalOrder(a[0], b[0]));
    return Object.fromEntries(rows);
  }

  /** All names with their raw values in natural order, for `-o config.dump=1`. */
  entries(): [string, string][] {
    return [...this.values].sort((a, b) => naturalOrder(a[0], b[0]));
  }
}

function prefixesOf(name: string): string[] {
  const out: string[] = [];
  for (let i = name.indexOf('.'); i >= 0; i = name.indexOf('.', i + 1)) out.push(name.slice(0, i));
  return out;
}

/** Whether a text can name a variable: parts without blanks, `=`, `%` or brackets, joined by single dots. */
export function isConfigName(name: string): boolean {
  return name.length <= 256 && /^[^\s.=%()]+(\.[^\s.=%()]+)*$/u.test(name) && !name.includes('__proto__');
}

/** Numbers in names by value, all else by code unit; not by locale, whose tables take Node 7 ms to load. */
function naturalOrder(a: string, b: string): number {
  const x = a.match(/\d+|\D+/gu) ?? [];
  const y = b.match(/\d+|\D+/gu) ?? [];
  for (let i = 0; i < x.length && i < y.length; i++) {
    const [p, q] = [x[i] as string, y[i] as string];
    const byValue = /^\d/u.test(p) && /^\d/u.test(q) ? Number(p) - Number(q) : 0;
    if (byValue !== 0) return byValue;
    if (p !== q) return p < q ? -1 : 1;
  }
  return x.length - y.length;
}

/** bhyve's booleans: true/on/yes/1, false/off/no/0, in any case; null for anything else. */
export function parseBool(text: string): boolean | null {
  const t = text.toLowerCase();
  if (TRUE_WORDS.includes(t)) return true;
  return FALSE_WORDS.includes(t) ? false : null;
}

/** An integer as strtol base 0 reads it (0x hexadecimal, leading 0 octal, sign), whole text or null; at most 2^53. */
export function parseCInteger(text: string): number | null {
  const m = /^\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)$/u.exec(text);
  if (m === null) return null;
  const digits = m[2] as string;
  const n =
    digits.length > 1 && digits[0] === '0' && !/^0[xX]/u.test(digits) ? Number.parseInt(digits, 8) : Number(digits);
  if (!Number.isSafeInteger(n)) return null;
  return m[1] === '-' ? -n : n;
}

/** Splits `name=value` at the first `=`; null when there is none or the name is empty. */
export function splitAssignment(text: string): { name: string; value: string } | null {
  const at = text.indexOf('=');
  return at < 1 ? null : { name: text.slice(0, at), value: text.slice(at + 1) };
}

/**
 * Reads a `-k` file into the tree: one `name=value` a line; empty lines and lines starting with `#` are skipped.
 * @param path for messages
 */
export function applyConfigText(tree: ConfigTree, text: string, path: string): void {
  let number = 0;
  for (const raw of text.split('\n')) {
    number++;
    const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
    const trimmed = line.trimStart();
    if (trimmed === '' || trimmed.startsWith('#')) continue;
    const pair = splitAssignment(trimmed);
    if (pair === null) throw usageError(`-k ${path}: line ${number}: '${trimmed}' is not name=value`);
    tree.set(pair.name.trimEnd(), pair.value, `-k ${path}: line ${number}`);
  }
}
