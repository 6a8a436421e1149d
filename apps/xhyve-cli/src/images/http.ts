// Downloads from a project's own site, with progress, a limit and a digest.
import { createHash } from 'node:crypto';
import { runError } from '../errors.ts';
import type { OnProgress } from './progress.ts';

const STALL_MS = 30_000;
const LIMIT = 2 ** 31;

/** Options of {@link download}. */
export interface DownloadOptions {
  /** Name for people. */
  readonly what: string;
  /** Told how it goes. */
  readonly onProgress: OnProgress;
  /** Ends it. */
  readonly signal?: AbortSignal | undefined;
  /** Digest the bytes must have: algorithm and hexadecimal value. */
  readonly digest?: { readonly algorithm: 'sha256' | 'sha512' | 'md5'; readonly hex: string };
}

/** The whole of an address. @throws CLI_RUN when unreachable, refused, cut or not the digest's */
export async function download(url: string, o: DownloadOptions): Promise<Uint8Array> {
  const stall = new AbortController();
  let timer = setTimeout(() => stall.abort(), STALL_MS);
  const alive = (): void => {
    clearTimeout(timer);
    timer = setTimeout(() => stall.abort(), STALL_MS);
  };
  const signal = o.signal === undefined ? stall.signal : AbortSignal.any([stall.signal, o.signal]);
  const where = new URL(url).host;
  let done = 0;
  let total: number | null = null;
  try {
    const response = await fetch(url, { signal, redirect: 'follow' });
    if (!response.ok || response.body === null) throw runError(`${url}: the server answers ${response.status}`);
    const length = response.headers.get('content-length');
    // A length is of what travels; with a content encoding it says nothing about what arrives here.
    total = length !== null && response.headers.get('content-encoding') === null ? Number(length) : null;
    const parts: Uint8Array[] = [];
    for await (const part of response.body) {
      alive();
      parts.push(part);
      done += part.length;
      if (done > LIMIT) throw runError(`${url}: more than 2 GiB`);
      o.onProgress({ phase: 'download', what: o.what, done, total });
    }
    if (total !== null && done !== total) throw runError(`${url}: cut after ${done} of ${total} bytes`);
    const bytes = Buffer.concat(parts);
    if (o.digest !== undefined) {
      const got = createHash(o.digest.algorithm).update(bytes).digest('hex');
      if (got !== o.digest.hex)
        throw runError(`${url}: its ${o.digest.algorithm} digest is ${got}, not ${o.digest.hex}`);
    }
    return bytes;
  } catch (e) {
    if (o.signal?.aborted === true) throw runError('interrupted');
    if (stall.signal.aborted) throw runError(`${where} sent nothing for ${STALL_MS / 1000} seconds`);
    if (e instanceof TypeError) {
      const cause = e.cause instanceof Error ? e.cause.message : e.message;
      throw runError(
        done > 0
          ? `${url}: cut after ${done}${total === null ? '' : ` of ${total}`} bytes (${cause})`
          : `cannot reach ${where}: ${cause}`,
        e,
      );
    }
    throw e;
  } finally {
    clearTimeout(timer);
  }
}
