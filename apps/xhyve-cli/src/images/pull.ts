// Pulling an image: from the cache when it is whole there, else by its recipe.
import { isHyveError } from '@hyve/core';
import { runError, usageError } from '../errors.ts';
import { ImageCache, type ImageManifest, type ImageRole } from './cache.ts';
import { CATALOGUE, type CatalogueEntry, findImage } from './catalogue.ts';
import type { OnProgress } from './progress.ts';

/** Options of {@link pullImage}. */
export interface PullOptions {
  /** Told how it goes. */
  readonly onProgress?: OnProgress;
  /** Ends it; the cache stays as it was. */
  readonly signal?: AbortSignal;
  /** Cache directory; default {@link defaultCacheDir}. */
  readonly cacheDir?: string;
  /** Fetches even when the cache has it. */
  readonly force?: boolean;
  /** Replaces a project's site, for tests. */
  readonly sites?: Readonly<Record<string, string>>;
}

/** An image on disk. */
export interface PulledImage {
  /** What the cache knows about it. */
  readonly manifest: ImageManifest;
  /** Host paths by role; null for roles the image does not have. */
  readonly paths: Readonly<Record<ImageRole, string | null>>;
  /** Whether the cache had it already. */
  readonly cached: boolean;
}

/**
 * Makes an image available.
 * @param name a catalogue name
 * @throws CLI_USAGE for an unknown name or a missing apt; CLI_RUN when it cannot be fetched. The cache then is as before.
 */
export async function pullImage(name: string, options: PullOptions = {}): Promise<PulledImage> {
  const entry = findImage(name);
  if (entry === null)
    throw usageError(`pull ${name}: no such image; there are ${CATALOGUE.map((e) => e.name).join(', ')}`);
  return pullEntry(entry, options);
}

/** {@link pullImage} of an entry that need not be in the catalogue. @internal */
export async function pullEntry(entry: CatalogueEntry, options: PullOptions = {}): Promise<PulledImage> {
  const cache = new ImageCache(options.cacheDir);
  const { name } = entry;
  const recipe = entry.recipe ?? 1;
  const found = options.force === true ? null : await cache.find(name, true);
  if (found !== null && (found.recipe ?? 1) === recipe) return pulled(cache, found, true);
  const work = await cache.workDir();
  try {
    const result = await entry.make({
      work,
      onProgress: options.onProgress ?? (() => {}),
      signal: options.signal,
      sites: options.sites,
    });
    if (options.signal?.aborted === true) throw runError('interrupted');
    return pulled(cache, await cache.store(work, { name, recipe, ...result.about }, result.files), false);
  } catch (e) {
    // One made by an older recipe is better than none.
    if (found !== null && options.signal?.aborted !== true) return pulled(cache, found, true);
    if (isHyveError(e, 'CLI_USAGE')) throw usageError(`pull ${name}: ${e.message}`);
    throw runError(`pull ${name}: ${e instanceof Error ? e.message : String(e)}`, e);
  } finally {
    await cache.discard(work);
  }
}

function pulled(cache: ImageCache, manifest: ImageManifest, cached: boolean): PulledImage {
  const path = (role: ImageRole): string | null => {
    const f = manifest.files.find((x) => x.role === role);
    return f === undefined ? null : cache.pathOf(f.sha256);
  };
  return {
    manifest,
    paths: {
      kernel: path('kernel'),
      initrd: path('initrd'),
      code: path('code'),
      vars: path('vars'),
      iso: path('iso'),
      disk: path('disk'),
    },
    cached,
  };
}

/** One line of {@link listImages}. */
export interface ImageListing {
  /** Catalogue name. */
  readonly name: string;
  /** One line for people. */
  readonly about: string;
  /** Where it comes from. */
  readonly origin: string;
  /** Its manifest when the cache has it whole, else null. */
  readonly manifest: ImageManifest | null;
  /** Bytes on disk, 0 when not cached. */
  readonly size: number;
}

/** The catalogue with what the cache has of it. */
export async function listImages(cacheDir?: string): Promise<ImageListing[]> {
  const cache = new ImageCache(cacheDir);
  return Promise.all(
    CATALOGUE.map(async (e) => {
      const manifest = await cache.find(e.name, false);
      const size = manifest?.files.reduce((sum, f) => sum + f.size, 0) ?? 0;
      return { name: e.name, about: e.about, origin: e.origin, manifest, size };
    }),
  );
}
