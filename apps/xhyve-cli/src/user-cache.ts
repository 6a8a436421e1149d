// Directories of the user's cache: where they are, and how they are kept small.
import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';

/** Where files of one kind are kept: `$XDG_CACHE_HOME/xhyve/KIND` if that is absolute, else `~/.cache/xhyve/KIND`. */
export function userCache(
  kind: 'code' | 'images' | 'kernels' | 'translations',
  env: Readonly<Record<string, string | undefined>> = process.env,
): string {
  const xdg = env['XDG_CACHE_HOME'];
  return join(xdg !== undefined && isAbsolute(xdg) ? xdg : join(homedir(), '.cache'), 'xhyve', kind);
}

/** Makes a directory, and those above it, for the user alone. @throws what Node's file system throws */
export function makePrivate(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
}

/**
 * Removes files until at most `most` are left: those that were written last.
 * @param ending of the names that count; default all
 * @throws what Node's file system throws
 */
export function keepNewest(dir: string, most: number, ending = ''): void {
  const names = readdirSync(dir).filter((name) => name.endsWith(ending));
  if (names.length <= most) return;
  const files = names.map((name) => {
    const path = join(dir, name);
    // Another process may have removed it by now.
    return { path, writtenMs: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 };
  });
  files.sort((a, b) => b.writtenMs - a.writtenMs);
  for (const { path } of files.slice(most)) rmSync(path, { force: true });
}
