// The user's cache of guests: files by their SHA-256, one manifest per image. Nothing becomes visible before it is whole:
// work happens in a directory of its own inside the cache, then files are renamed into place, the manifest last.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { runError } from '../errors.ts';
import { userCache } from '../user-cache.ts';

/** A file of an image. */
export interface ImageFile {
  /** What it is for: `kernel`, `initrd`, `code`, `vars`, `iso`, `disk`. */
  readonly role: ImageRole;
  /** Its name where it came from. */
  readonly name: string;
  /** Hexadecimal. */
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
}

/** Roles of image files. */
export type ImageRole = 'kernel' | 'initrd' | 'code' | 'vars' | 'iso' | 'disk';

/** Where a file of an image came from. */
export interface ImageSource {
  /** Package and version, or address. */
  readonly name: string;
  /** Digest of what was downloaded, hexadecimal. */
  readonly sha256: string;
}

/** What the cache keeps about an image. */
export interface ImageManifest {
  /** Version of this shape. */
  readonly v: 1;
  /** Catalogue name. */
  readonly name: string;
  /** Version of the guest, such as the kernel's. */
  readonly version: string;
  /** Version of the recipe that made it; 1 when missing. */
  readonly recipe?: number;
  /** Its files. */
  readonly files: readonly ImageFile[];
  /** Kernel command line for the serial console, or null. */
  readonly cmdline: string | null;
  /** Memory it needs, as -m takes it. */
  readonly memory: string;
  /** Downloads it was made from. */
  readonly sources: readonly ImageSource[];
  /** Remarks, such as drivers its kernel lacks. */
  readonly notes: readonly string[];
}

/** A file to be kept. */
export interface NewFile {
  /** What it is for. */
  readonly role: ImageRole;
  /** Its name where it came from. */
  readonly name: string;
  /** Content, or the path of a file inside the work directory that holds it. */
  readonly data: Uint8Array | string;
}

const WORK_PREFIX = '.work-';

/** The default place: `$XDG_CACHE_HOME/xhyve/images`, or below `~/.cache`. */
export function defaultCacheDir(env: Readonly<Record<string, string | undefined>> = process.env): string {
  return userCache('images', env);
}

/** SHA-256 of bytes, hexadecimal. */
export function sha256(data: Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

/** SHA-256 of a file, hexadecimal. */
export async function sha256File(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const part of createReadStream(path)) hash.update(part as Uint8Array);
  return hash.digest('hex');
}

/** Guests on disk. Several processes may use one cache. */
export class ImageCache {
  /** Where it lives. */
  readonly dir: string;

  constructor(dir: string = defaultCacheDir()) {
    this.dir = dir;
  }

  /** Host path of a file. */
  pathOf(sha: string): string {
    return join(this.dir, 'sha256', sha);
  }

  private manifestPath(name: string): string {
    return join(this.dir, `${name}.json`);
  }

  /**
   * The manifest of an image that is whole, or null.
   * @param verify also reads every file and compares its digest; otherwise sizes are compared
   */
  async find(name: string, verify: boolean): Promise<ImageManifest | null> {
    const manifest = await this.read(name);
    if (manifest === null) return null;
    for (const f of manifest.files) {
      const path = this.pathOf(f.sha256);
      const size = await stat(path).then(
        (s) => s.size,
        () => -1,
      );
      if (size !== f.size) return null;
      if (verify && (await sha256File(path)) !== f.sha256) return null;
    }
    return manifest;
  }

  /**
   * A directory to work in, removed by the caller with {@link ImageCache.discard}. Leftovers of processes that are gone
   * are cleared away first.
   */
  async workDir(): Promise<string> {
    try {
      await makeDirs(join(this.dir, 'sha256'));
      for (const name of await readdir(this.dir)) {
        const m = new RegExp(`^\\${WORK_PREFIX}(\\d+)-`, 'u').exec(name);
        if (m !== null && !isAlive(Number(m[1]))) await rm(join(this.dir, name), { recursive: true, force: true });
      }
      return await mkdtemp(join(this.dir, `${WORK_PREFIX}${process.pid}-`));
    } catch (e) {
      throw runError(`the image cache ${this.dir}: ${e instanceof Error ? e.message : String(e)}`, e);
    }
  }

  /** Removes a work directory. */
  async discard(work: string): Promise<void> {
    await rm(work, { recursive: true, force: true });
  }

  /** Keeps an image: its files first, then the manifest, each by a rename inside the cache. */
  async store(
    work: string,
    about: Omit<ImageManifest, 'v' | 'files'>,
    files: readonly NewFile[],
  ): Promise<ImageManifest> {
    const before = await this.read(about.name);
    const kept: ImageFile[] = [];
    for (const f of files) {
      const sha = typeof f.data === 'string' ? await sha256File(f.data) : sha256(f.data);
      const temporary = typeof f.data === 'string' ? f.data : join(work, `keep-${sha}`);
      if (typeof f.data !== 'string') await writeWhole(temporary, f.data);
      const { size } = await stat(temporary);
      await rename(temporary, this.pathOf(sha));
      kept.push({ role: f.role, name: f.name, sha256: sha, size });
    }
    const manifest: ImageManifest = { v: 1, ...about, files: kept };
    const temporary = join(work, 'manifest');
    await writeFile(temporary, `${JSON.stringify(manifest, null, 2)}\n`);
    await rename(temporary, this.manifestPath(about.name));
    await this.forget(before?.files ?? []);
    return manifest;
  }

  /** Removes files that no manifest names any more. */
  private async forget(files: readonly ImageFile[]): Promise<void> {
    const named = new Set<string>();
    for (const entry of await readdir(this.dir)) {
      if (!entry.endsWith('.json')) continue;
      for (const f of (await this.read(entry.slice(0, -'.json'.length)))?.files ?? []) named.add(f.sha256);
    }
    for (const f of files) if (!named.has(f.sha256)) await rm(this.pathOf(f.sha256), { force: true });
  }

  private async read(name: string): Promise<ImageManifest | null> {
    try {
      const manifest = JSON.parse(await readFile(this.manifestPath(name), 'utf8')) as ImageManifest;
      const sound = manifest.v === 1 && Array.isArray(manifest.files);
      return sound && manifest.files.every((f) => /^[0-9a-f]{64}$/u.test(f.sha256)) ? manifest : null;
    } catch {
      return null;
    }
  }
}

/** mkdir -p. Node's own recursive mkdir never returns where parents answer ENOENT to everything, as /proc does. */
async function makeDirs(path: string): Promise<void> {
  const missing: string[] = [];
  for (let p = path; ; p = dirname(p)) {
    const there = await stat(p).catch(() => null);
    if (there !== null) break;
    missing.push(p);
    if (dirname(p) === p) break;
  }
  for (const p of missing.reverse()) {
    await mkdir(p).catch((e: unknown) => {
      if (!(typeof e === 'object' && e !== null && 'code' in e && e.code === 'EEXIST')) throw e;
    });
  }
}

async function writeWhole(path: string, data: Uint8Array): Promise<void> {
  const file = await open(path, 'w', 0o644);
  try {
    await file.writeFile(data);
    await file.sync();
  } finally {
    await file.close();
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (e) {
    return typeof e === 'object' && e !== null && 'code' in e && e.code === 'EPERM';
  }
}
