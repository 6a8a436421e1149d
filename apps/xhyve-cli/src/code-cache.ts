// Generated code in the user's cache, so that a start need not make it again.
import { hash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { PcHost } from '@hyve/pc';

/** What the board calls a cache of generated code. */
export type CodeCache = NonNullable<PcHost['code']>;

/** Most files that are kept: one for every memory size and number of processors in use. */
const MOST = 16;

/** Default place: `$XDG_CACHE_HOME/xhyve/code`, or below `~/.cache`. */
function defaultDirectory(): string {
  const xdg = process.env['XDG_CACHE_HOME'];
  return join(xdg !== undefined && xdg !== '' ? xdg : join(homedir(), '.cache'), 'xhyve', 'code');
}

/**
 * Code that one build of the program has generated, in files named by digests of the build and of what the code was made
 * for. A cache that cannot be written or read is an empty one.
 */
export class FileCodeCache implements CodeCache {
  private readonly directory: string;
  private readonly build: string;

  /** @param build digest of the program's files: another build generates other code */
  constructor(directory: string, build: string) {
    this.directory = directory;
    this.build = build;
  }

  get(key: string): Uint8Array | null {
    try {
      return readFileSync(this.file(key));
    } catch {
      return null;
    }
  }

  put(key: string, bytes: Uint8Array): void {
    const file = this.file(key);
    const part = `${file}.${process.pid}`;
    try {
      mkdirSync(this.directory, { recursive: true, mode: 0o700 });
      writeFileSync(part, bytes, { mode: 0o600 });
      renameSync(part, file);
      this.prune();
    } catch {
      try {
        rmSync(part, { force: true });
      } catch {
        // Not there either.
      }
    }
  }

  private file(key: string): string {
    return join(this.directory, hash('sha256', `${this.build}\n${key}`));
  }

  /** Removes the oldest files over {@link MOST}. */
  private prune(): void {
    const files = readdirSync(this.directory).map((name) => join(this.directory, name));
    if (files.length <= MOST) return;
    const byAge = files.map((path) => ({ path, at: statSync(path).mtimeMs })).sort((a, b) => b.at - a.at);
    for (const { path } of byAge.slice(MOST)) rmSync(path, { force: true });
  }
}

/** The cache of a program that was built into one piece, which leaves its digest beside it; null when it runs from source. */
export function codeCache(): CodeCache | null {
  try {
    return new FileCodeCache(defaultDirectory(), readFileSync(new URL('./build-id', import.meta.url), 'utf8'));
  } catch {
    return null;
  }
}
