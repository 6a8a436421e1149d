// Generated code in the user's cache, so that a start need not make it again.
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CompiledCode, compiledCode } from '@hyve/hv-native/compiled';
import type { PcHost } from '@hyve/pc';
import { bundleDigest, digest } from './build.ts';
import { CompiledFile, type WithSettings } from './compiled-file.ts';
import { keepNewest, makePrivate, userCache } from './user-cache.ts';

/** What the board calls a cache of generated code. */
export type CodeCache = NonNullable<PcHost['code']>;

/** Most files that are kept: one for every memory size and number of processors in use. */
const MOST = 16;

/**
 * Code that one build of the program has generated, in files named by digests of the build and of what the code was made
 * for. A cache that cannot be written or read is an empty one.
 */
export class FileCodeCache implements CodeCache {
  private readonly directory: string;
  private readonly build: string;
  private readonly machineCode: { readonly engine: CompiledCode; readonly settings: WithSettings } | null;

  /**
   * @param build digest of the program's files: another build generates other code
   * @param machineCode what keeps V8's code for it as well, and under which settings
   */
  constructor(
    directory: string,
    build: string,
    machineCode: { readonly engine: CompiledCode; readonly settings: WithSettings } | null = null,
  ) {
    this.directory = directory;
    this.build = build;
    this.machineCode = machineCode;
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
      makePrivate(this.directory);
      writeFileSync(part, bytes, { mode: 0o600 });
      renameSync(part, file);
      keepNewest(this.directory, MOST);
    } catch {
      try {
        rmSync(part, { force: true });
      } catch {
        // Not there either.
      }
    }
  }

  compiled(key: string): CompiledFile | null {
    if (this.machineCode === null) return null;
    const { engine, settings } = this.machineCode;
    return new CompiledFile(`${this.file(key)}.code`, engine, settings);
  }

  private file(key: string): string {
    return join(this.directory, digest(`${this.build}\n${key}`));
  }
}

/** The cache of a program that was built into one piece; null when it runs from its modules, which change more often. */
export function codeCache(settings: WithSettings): CodeCache | null {
  const build = bundleDigest();
  if (build === null) return null;
  const engine = compiledCode();
  return new FileCodeCache(userCache('code'), build, engine === null ? null : { engine, settings });
}
