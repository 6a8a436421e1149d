// Translations of guest code on disk, so that a guest's second start finds the code it is about to run translated. One file
// per guest, machine and build of the translator, below $XDG_CACHE_HOME/xhyve/translations; it can be deleted at any time.
import { createHmac, randomBytes } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { crc32 } from 'node:zlib';
import type { BootSpec, MachineSpec } from '@hyve/pc';
import { digest, translatorDigest } from './build.ts';
import { keepNewest, makePrivate, userCache } from './user-cache.ts';

/** Largest file, bytes. A file that is full is begun anew at the next start: what is in it may be of no use any more. */
export const MAX_FILE: number = 24 << 20;
/** Most files kept; the ones not used for longest go. */
export const MAX_FILES = 16;
const SUFFIX = '.translations';
/** Before each record: its length, its CRC-32 (little-endian). */
const FRAME = 8;

/** What a guest's translations are found by, besides the machine. */
export interface TranslationPlace {
  /** Directory of the files. */
  readonly dir: string;
  /** Names the guest: what it boots from. */
  readonly guest: string;
}

/** A part of a file's name. */
const named = (text: string): string => digest(text).slice(0, 24);

/** Whether there are translations of a guest, of this build or another. */
export function hasTranslations(place: TranslationPlace): boolean {
  const first = `${named(place.guest)}-`;
  try {
    return readdirSync(place.dir).some((name) => name.startsWith(first));
  } catch {
    return false;
  }
}

/** Files that hold the first code a guest runs. */
const PROGRAMS: ReadonlySet<string> = new Set(['kernel', 'code', 'library']);

/** What a guest boots from, for {@link TranslationPlace.guest}: a program and what tells its versions apart, else the disks. */
export function guestIdentity(boot: BootSpec, disks: readonly string[]): string {
  const programs = Object.entries(boot)
    .filter((e): e is [string, string] => PROGRAMS.has(e[0]) && typeof e[1] === 'string')
    .map(([, path]) => {
      const s = statSync(path, { throwIfNoEntry: false });
      return [resolve(path), s?.size ?? 0, s?.mtimeMs ?? 0];
    });
  return JSON.stringify([boot.loader, programs, disks.map((path) => resolve(path))]);
}

/** Where the translations of a machine that has a translator's thread are kept; null if they are not. */
export function translationPlace(spec: MachineSpec): TranslationPlace | null {
  if (spec.translationCache === false) return null;
  const disks = spec.pci.flatMap((p) => (p.conf === null ? [] : [p.conf]));
  try {
    return { dir: userCache('translations'), guest: guestIdentity(spec.boot, disks) };
  } catch {
    return null;
  }
}

/**
 * Random words that are the same at each start of one guest on this host, and nobody else's guess: a kernel that chooses its
 * place by them has the code of its last start. They come from a secret beside the translations.
 */
export function guestWords(place: TranslationPlace): (() => number) | null {
  const secret = hostSecret(place.dir);
  if (secret === null) return null;
  let n = 0;
  return () => createHmac('sha256', secret).update(`${n++} ${place.guest}`).digest().readUInt32LE(0);
}

/** The secret in a directory, made at its first use; null where there is none to be had. */
function hostSecret(dir: string): Buffer | null {
  const path = join(dir, 'secret');
  const read = (): Buffer | null => {
    const secret = readFileSync(path);
    return secret.length === 32 ? secret : null;
  };
  try {
    return read();
  } catch {
    // There is none yet.
  }
  try {
    makePrivate(dir);
    writeFileSync(path, randomBytes(32), { mode: 0o600, flag: 'wx' });
  } catch {
    // Another process may have been faster.
  }
  try {
    return read();
  } catch {
    return null;
  }
}

/** The translations of one guest on one machine. Whatever goes wrong with the file: there is none, and nothing is kept. */
export class TranslationFile {
  /** Where it is. */
  readonly path: string;
  private readonly dir: string;
  private fd: number | null = null;
  private size = 0;
  private broken = false;

  private constructor(dir: string, path: string) {
    this.dir = dir;
    this.path = path;
  }

  /**
   * The file for a guest and a machine.
   * @param machine what translations depend on, as the translator gives it
   * @param build digest of the translator
   * @returns null without such a digest: translations could not be told from another build's
   */
  static open(
    place: TranslationPlace,
    machine: string,
    build: string | null = translatorDigest(),
  ): TranslationFile | null {
    if (build === null) return null;
    const rest = named(JSON.stringify([machine, build]));
    return new TranslationFile(place.dir, join(place.dir, `${named(place.guest)}-${rest}${SUFFIX}`));
  }

  /** What earlier runs kept, one after the other in the same memory. A file that breaks off is cut to what is whole. */
  *load(): Generator<Uint8Array> {
    let fd: number;
    try {
      fd = openSync(this.path, 'r+');
    } catch {
      return;
    }
    let end = 0;
    try {
      const { size } = fstatSync(fd);
      const frame = new Uint8Array(FRAME);
      const fields = new DataView(frame.buffer);
      let room = new Uint8Array(1 << 20);
      while (end + FRAME <= size && readSync(fd, frame, 0, FRAME, end) === FRAME) {
        const length = fields.getUint32(0, true);
        if (length > size - end - FRAME) break;
        if (length > room.length) room = new Uint8Array(length);
        const record = room.subarray(0, length);
        if (readSync(fd, record, 0, length, end + FRAME) !== length || crc32(record) !== fields.getUint32(4, true))
          break;
        end += FRAME + length;
        yield record;
      }
      if (end >= MAX_FILE) {
        rmSync(this.path);
        end = 0;
      } else if (end < size) ftruncateSync(fd, end);
      this.size = end;
    } catch {
      this.broken = true;
    } finally {
      closeSync(fd);
    }
  }

  /** Adds a record, in one write. */
  append(record: Uint8Array): void {
    if (this.broken || this.size + FRAME + record.length > MAX_FILE) return;
    try {
      if (this.fd === null) {
        makePrivate(this.dir);
        if (this.size === 0) keepNewest(this.dir, MAX_FILES - 1, SUFFIX);
        this.fd = openSync(this.path, 'a', 0o600);
      }
      const out = Buffer.allocUnsafe(FRAME + record.length);
      out.writeUInt32LE(record.length, 0);
      out.writeUInt32LE(crc32(record), 4);
      out.set(record, FRAME);
      if (writeSync(this.fd, out) !== out.length) throw new Error('disk full');
      this.size += out.length;
    } catch {
      this.broken = true;
      this.close();
    }
  }

  /** Ends its use. */
  close(): void {
    if (this.fd !== null) closeSync(this.fd);
    this.fd = null;
  }
}
