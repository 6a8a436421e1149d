// From a disk string to a disk: files and their formats, backing chains, NBD, RAM, and the layers on top.
import { statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { performance } from 'node:perf_hooks';
import { type Clock, HyveError, type Logger, silentLogger, type Timer } from '@hyve/core';
import { type HostFile, type NodeFile, openHostFile } from './host-file.ts';
import type { DiskImage } from './image.ts';
import { loadTls, NbdDisk } from './nbd.ts';
import { isNbdAddress, parseNbdAddress } from './nbd-protocol.ts';
import { OverlayDisk } from './overlay.ts';
import { checkQcow2 } from './qcow2/check.ts';
import { type Header, INCOMPAT_CORRUPT, INCOMPAT_DIRTY, looksLikeQcow2, parseHeader } from './qcow2/format.ts';
import { Qcow2Image } from './qcow2/image.ts';
import { RamDisk } from './ram.ts';
import { RawImage } from './raw.ts';
import type { ReadHelper } from './read-helper.ts';
import { type ImageKind, imageKind } from './signature.ts';
import { type BlockFormat, type BlockSpec, parseBlockSpec, parseSize } from './spec.ts';
import { ThrottledDisk } from './throttle.ts';

/** Images in a backing chain at most. */
const MAX_CHAIN = 64;
/** A header's bytes: the largest cluster. */
const MAX_HEADER = 2 << 20;

/** Names that say the format. */
const QCOW2_NAME = /\.qcow2?$/i;

/** Options of {@link openBlock}. */
export interface OpenBlockOptions {
  /** Where warnings go: a disk that became read-only, the first failure of each kind. */
  readonly logger?: Logger;
  /** Measures rate limits. Default: the host's monotonic clock. */
  readonly clock?: Clock;
  /** With a disk string: option names that belong to the device. */
  readonly extras?: readonly string[];
  /** Takes part in large reads of files; the caller closes it, after the disks. */
  readonly helper?: ReadHelper;
}

/** @internal How to open one image file. */
export interface ImageOptions {
  readonly format: BlockFormat | null;
  /** Whether nobody said that it is raw: a file that is plainly a container is refused then. */
  readonly rawByDefault?: boolean;
  readonly readOnly: boolean;
  readonly mustWrite?: boolean;
  readonly sync?: boolean;
  readonly noCache?: boolean;
  readonly noDelete?: boolean;
  readonly lock?: boolean;
  readonly sectorSize?: number | null;
  readonly physicalSectorSize?: number | null;
  /** Leave the backing file alone. */
  readonly noBacking?: boolean;
  readonly helper?: ReadHelper | null;
  readonly logger: Logger;
}

/**
 * Opens the disk that a string describes, such as `disk.img,nocache,ro`, `system.qcow2,snapshot=on`,
 * `nbd://host/export`, `ram:64M`. A file that cannot be written is opened read-only with a warning.
 * @throws HyveError `BLOCK_SPEC`, `BLOCK_FILE`, `BLOCK_LOCKED`, `BLOCK_FORMAT`, `BLOCK_UNSUPPORTED`, `BLOCK_BACKING`,
 * `BLOCK_NBD`
 * @example
 * const disk = await openBlock('disk.qcow2,sectorsize=512/4096');
 * const sector = new Uint8Array(512);
 * if ((await disk.read(0, [sector])) === 'ok') console.log(sector[510] === 0x55);
 * await disk.close();
 */
export async function openBlock(spec: string | BlockSpec, o: OpenBlockOptions = {}): Promise<DiskImage> {
  const s = typeof spec === 'string' ? parseBlockSpec(spec, o.extras === undefined ? {} : { extras: o.extras }) : spec;
  const logger = o.logger ?? silentLogger;
  let disk = await openBase(s, logger, o.helper ?? null);
  try {
    if (s.snapshot !== 'off') disk = new OverlayDisk({ base: disk, store: s.snapshot, logger });
    if (Object.values(s.limits).some((n) => n > 0))
      disk = new ThrottledDisk({ disk, limits: s.limits, clock: o.clock ?? new HostClock() });
    return disk;
  } catch (e) {
    await disk.close();
    throw e;
  }
}

async function openBase(s: BlockSpec, logger: Logger, helper: ReadHelper | null): Promise<DiskImage> {
  const readOnly = s.readOnly || s.snapshot !== 'off';
  if (s.path.startsWith('ram:'))
    return new RamDisk({
      size: parseSize(s.path.slice(4)) ?? 0,
      sectorSize: s.sectorSize ?? 512,
      readOnly,
      identity: s.path,
    });
  if (isNbdAddress(s.path))
    return NbdDisk.open({
      address: parseNbdAddress(s.path),
      tls: loadTls(s.tls),
      readOnly,
      noDelete: s.noDelete,
      sync: s.sync,
      sectorSize: s.sectorSize,
      physicalSectorSize: s.physicalSectorSize,
      reconnectSeconds: s.reconnectSeconds,
      logger,
    });
  return openImage(s.path, {
    format: s.format ?? (QCOW2_NAME.test(s.path) ? 'qcow2' : 'raw'),
    rawByDefault: s.format === null,
    readOnly,
    sync: s.sync,
    noCache: s.noCache,
    noDelete: s.noDelete,
    lock: s.lock,
    sectorSize: s.sectorSize,
    physicalSectorSize: s.physicalSectorSize,
    helper,
    logger,
  });
}

/** @internal Opens an image file and what is behind it. A null format is told by the contents. */
export async function openImage(path: string, o: ImageOptions): Promise<DiskImage> {
  return openInChain(path, o, []);
}

/** @internal Reads as much of a header as there can be. */
export async function readHeaderBytes(file: HostFile): Promise<Uint8Array> {
  // The first sector says how large a cluster is; a header is within the first cluster.
  const first = new Uint8Array(Math.min(file.length, 65536));
  await file.read(0, [first]);
  if (!looksLikeQcow2(first) || first.length < 24) return first;
  const bits = new DataView(first.buffer).getUint32(20);
  const want = Math.min(file.length, MAX_HEADER, bits <= 21 ? 2 ** bits : 65536);
  if (want <= first.length) return first;
  const all = new Uint8Array(want);
  await file.read(0, [all]);
  return all;
}

/** @param above the image whose backing file this is; null for the one that was asked for */
async function openInChain(
  path: string,
  o: ImageOptions,
  chain: readonly string[],
  above: string | null = null,
): Promise<DiskImage> {
  const isBacking = chain.length > 0;
  if (isBacking && isInChain(path, chain))
    throw new HyveError('BLOCK_BACKING', `${path} is its own backing file: the chain is a loop`);
  let file: NodeFile;
  try {
    file = await openHostFile(path, {
      readOnly: o.readOnly,
      sync: o.sync ?? false,
      noCache: o.noCache ?? false,
      lock: o.lock ?? true,
      mustWrite: o.mustWrite ?? false,
      helper: o.helper ?? null,
      logger: o.logger,
    });
  } catch (e) {
    throw above === null ? e : backingError(above, e);
  }
  try {
    if (chain.length >= MAX_CHAIN)
      throw new HyveError('BLOCK_BACKING', `${path}: more than ${MAX_CHAIN} images in the backing chain`);
    const first = await readHeaderBytes(file);
    const isQcow2 = looksLikeQcow2(first);
    const format = o.format ?? (isQcow2 ? 'qcow2' : 'raw');
    const sectorSize = o.sectorSize ?? file.facts.logicalSector;
    const physical = o.physicalSectorSize ?? naturalSector(file.facts.blockSize, sectorSize);
    if (format === 'raw') {
      const kind = o.rawByDefault === true && !isBacking ? imageKind(first) : null;
      if (kind !== null) throw notRaw(path, kind);
      // What a backing file lacks to a whole sector reads as zeros; a disk of its own ends with its last whole sector.
      const size = isBacking
        ? Math.ceil(file.length / sectorSize) * sectorSize
        : wholeSectors(file, sectorSize, o.logger);
      return new RawImage({
        file,
        size,
        sectorSize,
        physicalSectorSize: physical,
        noDelete: o.noDelete ?? false,
        logger: o.logger,
      });
    }
    if (o.format === null && !isBacking && o.noBacking !== true)
      mayNameFiles(path, parseHeader(path, first, file.length));
    const header = await readyHeader(file, first, o.logger);
    const backing =
      header.backingFile === null || o.noBacking === true
        ? null
        : await openBacking(path, header, o, [...chain, file.identity]);
    try {
      return await Qcow2Image.open({
        file,
        header,
        backing,
        sectorSize,
        physicalSectorSize: physical,
        noDelete: o.noDelete ?? false,
        sync: o.sync ?? false,
        logger: o.logger,
      });
    } catch (e) {
      await backing?.close();
      throw e;
    }
  } catch (e) {
    await file.close();
    if (e instanceof Error && 'code' in e && typeof e.code === 'string' && e.code.startsWith('BLOCK_')) throw e;
    throw new HyveError('BLOCK_FILE', `${path}: ${e instanceof Error ? e.message : String(e)}`, e);
  }
}

/**
 * Neither way would be right to take without a word: as raw, the guest destroys the container; by its contents, a guest
 * that can write its first sector chooses how the host opens the file next time, and which other files of the host it names
 * as backing files.
 */
function notRaw(path: string, kind: ImageKind): HyveError {
  const open = kind.known
    ? `say format=${kind.name} to use the disk in it`
    : 'that format is not supported, qemu-img convert makes a qcow2 image of it';
  return new HyveError(
    'BLOCK_FORMAT',
    `${path} begins like a ${kind.name} image, and its name does not say so; ${open}, or format=raw to give the guest these very bytes`,
  );
}

/**
 * An image that is qcow2 by its contents alone may be a raw disk whose guest wrote them: a conversion must not carry files of
 * the host into its result because a guest named them as backing files.
 */
function mayNameFiles(path: string, header: Header): void {
  if (header.backingFile === null || QCOW2_NAME.test(path)) return;
  throw new HyveError(
    'BLOCK_FORMAT',
    `${path} is qcow2 by its contents alone, and they name ${JSON.stringify(header.backingFile)} as its backing file; say that its format is qcow2 if they can be trusted, or raw`,
  );
}

/** Looked at before opening, for the lock of the image above would be in the way. */
function isInChain(path: string, chain: readonly string[]): boolean {
  try {
    const stat = statSync(path);
    return chain.includes(`${stat.dev}:${stat.ino}`);
  } catch {
    return false;
  }
}

function backingError(above: string, e: unknown): HyveError {
  const why = e instanceof Error ? e.message : String(e);
  return new HyveError('BLOCK_BACKING', `the backing file of ${above}: ${why}`, e);
}

function naturalSector(blockSize: number, logical: number): number {
  const power = 2 ** Math.round(Math.log2(blockSize));
  return power === blockSize && power >= logical && power <= 65536 ? power : logical;
}

function wholeSectors(file: NodeFile, sectorSize: number, logger: Logger): number {
  const size = file.length - (file.length % sectorSize);
  if (size === 0) throw new HyveError('BLOCK_FILE', `${file.path} is empty; a disk needs at least one sector`);
  if (size !== file.length)
    logger.warn(`${file.path}: the last ${file.length % sectorSize} bytes are no whole sector and are left out`);
  return size;
}

/** Checks the header; repairs refcounts that a crash left behind when they may be. */
async function readyHeader(file: NodeFile, first: Uint8Array, logger: Logger): Promise<Header> {
  const header = parseHeader(file.path, first, file.length);
  if (!file.writable) return header;
  if ((header.incompatible & INCOMPAT_CORRUPT) !== 0)
    throw new HyveError('BLOCK_FORMAT', `${file.path} is marked as corrupt; open it with ro, or repair it first`);
  if ((header.incompatible & INCOMPAT_DIRTY) === 0) return header;
  logger.info(`${file.path} was not closed properly; its refcounts are being repaired`);
  const r = await checkQcow2(file, header, { repair: 'all' });
  if (r.corruptions + r.errors > 0)
    throw new HyveError('BLOCK_FORMAT', `${file.path} is damaged: ${r.findings[0] ?? 'it cannot be read'}`);
  return parseHeader(file.path, await readHeaderBytes(file), file.length);
}

/** @internal Where a backing file is, seen from the image that names it. */
export function backingPath(image: string, name: string): string {
  if (isNbdAddress(name)) return name;
  if (name.startsWith('file:')) return resolve(dirname(image), name.slice('file:'.length));
  const colon = name.indexOf(':');
  if (name.startsWith('json:') || (colon > 0 && !name.slice(0, colon).includes('/')))
    throw new HyveError('BLOCK_UNSUPPORTED', `${image}: backing file "${name}": only files and NBD are known`);
  return resolve(dirname(image), name);
}

async function openBacking(
  path: string,
  header: Header,
  o: ImageOptions,
  chain: readonly string[],
): Promise<DiskImage> {
  const name = header.backingFile as string;
  const target = backingPath(path, name);
  const format = header.backingFormat;
  if (isNbdAddress(target))
    return NbdDisk.open({
      address: parseNbdAddress(target),
      tls: { ca: null, cert: null, key: null, hostname: null },
      readOnly: true,
      noDelete: true,
      sync: false,
      sectorSize: 512,
      physicalSectorSize: null,
      logger: o.logger,
    });
  if (format !== null && format !== 'raw' && format !== 'qcow2')
    throw new HyveError(
      'BLOCK_UNSUPPORTED',
      `${path}: backing file "${name}" of format "${format}"; raw and qcow2 are known`,
    );
  if (format === null) o.logger.warn(`${path} does not say the format of its backing file ${name}; it is guessed`);
  return openInChain(
    target,
    {
      format,
      readOnly: true,
      sectorSize: 512,
      physicalSectorSize: null,
      lock: o.lock ?? true,
      noCache: o.noCache ?? false,
      helper: o.helper ?? null,
      logger: o.logger,
    },
    chain,
    path,
  );
}

/** Timers and time of the host. */
class HostClock implements Clock {
  now(): number {
    return performance.now() * 1e6;
  }
  timer(fire: () => void): Timer {
    return new HostTimer(this, fire);
  }
}

class HostTimer implements Timer {
  private readonly clock: Clock;
  private readonly fire: () => void;
  private handle: ReturnType<typeof setTimeout> | null = null;
  constructor(clock: Clock, fire: () => void) {
    this.clock = clock;
    this.fire = fire;
  }
  get armed(): boolean {
    return this.handle !== null;
  }
  arm(atNs: number): void {
    this.disarm();
    const ms = Math.max(0, Math.ceil((atNs - this.clock.now()) / 1e6));
    this.handle = setTimeout(() => {
      this.handle = null;
      this.fire();
    }, ms);
  }
  disarm(): void {
    if (this.handle !== null) clearTimeout(this.handle);
    this.handle = null;
  }
}
