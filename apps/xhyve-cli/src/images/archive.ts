// Reading what distributions ship: ar members by hand, xz by WebAssembly, gzip and zstd by Node, tar by tar-stream.

import { Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import { extract, type Header } from 'tar-stream';
import xz from 'xz-decompress';
import { runError } from '../errors.ts';
import type { FsNode } from './ext4.ts';

/** A member of an ar archive. */
export interface ArMember {
  /** Name without the trailing slash. */
  readonly name: string;
  /** Content, a view into the archive. */
  readonly data: Uint8Array;
}

const AR_MAGIC = '!<arch>\n';
const AR_HEADER = 60;

/**
 * Members of a common-format ar archive (deb(5)): 60-byte text headers, content padded to two bytes.
 * @throws CLI_RUN when the archive is damaged
 */
export function readAr(bytes: Uint8Array): ArMember[] {
  const text = (from: number, length: number): string =>
    String.fromCharCode(...bytes.subarray(from, from + length)).trimEnd();
  if (bytes.length < 8 || String.fromCharCode(...bytes.subarray(0, 8)) !== AR_MAGIC)
    throw runError('not an ar archive: it does not start with !<arch>');
  const out: ArMember[] = [];
  let at = 8;
  while (at + AR_HEADER <= bytes.length) {
    const sizeText = text(at + 48, 10);
    if (bytes[at + 58] !== 0x60 || bytes[at + 59] !== 0x0a || !/^\d+$/u.test(sizeText))
      throw runError(`damaged ar archive: bad member header at byte 0x${at.toString(16)}`);
    const size = Number(sizeText);
    const start = at + AR_HEADER;
    if (start + size > bytes.length) throw runError(`damaged ar archive: it ends inside '${text(at, 16)}'`);
    out.push({ name: text(at, 16).replace(/\/$/u, ''), data: bytes.subarray(start, start + size) });
    at = start + size + (size & 1);
  }
  return out;
}

/** Compressions by the first bytes of a file. */
export type Compression = 'xz' | 'zstd' | 'gzip' | 'none';

/** Tells the compression from the magic number. */
export function detectCompression(bytes: Uint8Array): Compression {
  const is = (...magic: number[]): boolean => magic.every((b, i) => bytes[i] === b);
  if (is(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) return 'xz';
  if (is(0x28, 0xb5, 0x2f, 0xfd)) return 'zstd';
  return is(0x1f, 0x8b) ? 'gzip' : 'none';
}

const CHUNK = 1 << 18;

function chunks(bytes: Uint8Array, onRead: (done: number) => void): Readable {
  function* slices(): Generator<Uint8Array> {
    for (let at = 0; at < bytes.length; at += CHUNK) {
      onRead(at);
      yield bytes.subarray(at, at + CHUNK);
    }
    onRead(bytes.length);
  }
  return Readable.from(slices(), { objectMode: false });
}

/** The bytes as a stream with the compression taken off. */
function plain(bytes: Uint8Array, onRead: (done: number) => void): Readable {
  const source = chunks(bytes, onRead);
  switch (detectCompression(bytes)) {
    case 'none':
      return source;
    case 'gzip':
      return passErrors(source, createGunzip());
    case 'zstd':
      return passErrors(source, createZstdDecompress());
    case 'xz': {
      const web = new xz.XzReadableStream(Readable.toWeb(source) as ReadableStream<Uint8Array>);
      return Readable.fromWeb(web as Parameters<typeof Readable.fromWeb>[0]);
    }
  }
}

function passErrors<T extends NodeJS.ReadWriteStream & Readable>(source: Readable, through: T): T {
  source.on('error', (e) => through.destroy(e));
  source.pipe(through);
  return through;
}

/** Decompresses a whole file held in memory; an uncompressed one comes back as it is. */
export async function decompress(bytes: Uint8Array): Promise<Uint8Array> {
  if (detectCompression(bytes) === 'none') return bytes;
  const parts: Uint8Array[] = [];
  for await (const part of plain(bytes, () => {})) parts.push(part as Uint8Array);
  return Buffer.concat(parts);
}

/** A file taken out of a tar archive. */
export interface TarFile {
  /** Path without a leading `./` or `/`. */
  readonly path: string;
  /** Permission bits. */
  readonly mode: number;
  /** Content; empty for links. */
  readonly data: Uint8Array;
  /** Where a symbolic or hard link points, else null. */
  readonly link: string | null;
}

/**
 * Takes files out of a (compressed) tar archive.
 * @param wanted called with each path; only files it accepts are kept in memory
 * @param onRead told how many compressed bytes have been read
 */
export async function readTar(
  bytes: Uint8Array,
  wanted: (path: string) => boolean,
  onRead: (done: number) => void = () => {},
): Promise<TarFile[]> {
  const out: TarFile[] = [];
  await walkTar(bytes, onRead, (header) => {
    const path = header.name.replace(/^(\.?\/)+/u, '');
    const link = header.type === 'symlink' || header.type === 'link' ? (header.linkname ?? '') : null;
    if ((header.type !== 'file' && link === null) || !wanted(path)) return null;
    return (data) => void out.push({ path, mode: header.mode ?? 0o644, data, link });
  });
  return out;
}

/** Goes through a tar archive. @param each called with each header; returns what takes the content, or null to skip it */
async function walkTar(
  bytes: Uint8Array,
  onRead: (done: number) => void,
  each: (header: Header) => ((data: Uint8Array) => void) | null,
): Promise<void> {
  const tar = extract();
  tar.on('entry', (header, stream, next) => {
    const take = each(header);
    if (take === null) {
      stream.on('end', next);
      stream.resume();
      return;
    }
    const parts: Uint8Array[] = [];
    stream.on('data', (part: unknown) => parts.push(part as Uint8Array));
    stream.on('end', () => {
      take(Buffer.concat(parts));
      next();
    });
  });
  // Not stream.pipeline: with a cut gzip file it lets go of the decompressor before that reports the cut.
  const ended = new Promise<void>((resolve, reject) => {
    tar.on('finish', resolve);
    tar.on('error', reject);
  });
  ended.catch(() => {});
  try {
    for await (const part of plain(bytes, onRead)) {
      if (!tar.write(part)) await Promise.race([new Promise<void>((go) => tar.once('drain', () => go())), ended]);
    }
    tar.end(null);
    await ended;
  } catch (e) {
    tar.destroy();
    throw e;
  }
}

/**
 * An entry of a tar archive with all that a file system keeps of it. No path leads out of the tree. What is neither file,
 * directory nor link, such as a device, does not occur in packages and is left out.
 */
export type TarEntry = FsNode;

/** A Debian package taken apart. */
export interface DebEntries {
  /** Files of the control archive by name: `control`, `postinst`, `conffiles`, … */
  readonly control: readonly TarEntry[];
  /** What it installs, in its own order: directories before what is in them. */
  readonly data: readonly TarEntry[];
}

/** Everything in a Debian package. @param wanted paths of the data archive to keep */
export async function readWholeDeb(bytes: Uint8Array, wanted: (path: string) => boolean): Promise<DebEntries> {
  const members = readAr(bytes);
  const of = (name: string): Uint8Array => {
    const m = members.find((x) => x.name.startsWith(name));
    if (m === undefined) throw runError(`not a Debian package: no ${name} inside`);
    return m.data;
  };
  return {
    control: await readTarEntries(of('control.tar'), () => true),
    data: await readTarEntries(of('data.tar'), wanted),
  };
}

/** All entries of a (compressed) tar archive whose paths are wanted. */
export async function readTarEntries(bytes: Uint8Array, wanted: (path: string) => boolean): Promise<TarEntry[]> {
  const out: TarEntry[] = [];
  const clean = (path: string): string => path.replace(/^(\.?\/)+/u, '').replace(/\/+$/u, '');
  await walkTar(
    bytes,
    () => {},
    (header) => {
      const { type } = header;
      const path = clean(header.name);
      if (type !== 'file' && type !== 'directory' && type !== 'symlink' && type !== 'link') return null;
      if (path === '' || path === '.' || path.split('/').includes('..') || !wanted(path)) return null;
      const target = header.linkname ?? '';
      const about = {
        path,
        type: type === 'link' ? ('hardlink' as const) : type,
        mode: (header.mode ?? 0o644) & 0o7777,
        uid: header.uid ?? 0,
        gid: header.gid ?? 0,
        mtime: Math.floor((header.mtime?.getTime() ?? 0) / 1000),
        link: type === 'link' ? clean(target) : target,
      };
      return (data) => void out.push({ ...about, data });
    },
  );
  return out;
}

/** Takes files out of a Debian package's data archive. */
export async function readDeb(
  bytes: Uint8Array,
  wanted: (path: string) => boolean,
  onRead: (done: number, total: number) => void = () => {},
): Promise<TarFile[]> {
  const data = readAr(bytes).find((m) => m.name.startsWith('data.tar'));
  if (data === undefined) throw runError('not a Debian package: no data.tar inside');
  return readTar(data.data, wanted, (done) => onRead(done, data.data.length));
}
