// Advisory locks against double use of an image. With node:ffi on Linux these are the byte locks that QEMU takes, so that
// qemu-img and a running VM respect each other too; they end with the process, however it ends. Without, small files
// beside the image name the process that uses it; those of dead processes are recognised and removed.
import { readFileSync } from 'node:fs';
import { readdir, readFile, unlink, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import process from 'node:process';
import { HyveError } from '@hyve/core';
import { errorCode } from './fault.ts';
import type { HostCalls } from './libc.ts';

// QEMU's block permissions; byte 100 + n says "I do this", byte 200 + n says "nobody else may".
const DOES = 100;
const FORBIDS = 200;
const PERM_READ = 0;
const PERM_WRITE = 1;
const PERM_RESIZE = 3;

interface Wish {
  readonly does: readonly number[];
  readonly forbids: readonly number[];
}
const WRITER: Wish = { does: [PERM_READ, PERM_WRITE, PERM_RESIZE], forbids: [PERM_WRITE, PERM_RESIZE] };
const READER: Wish = { does: [PERM_READ], forbids: [PERM_WRITE, PERM_RESIZE] };

/** @internal A lock that is held. */
export interface FileLock {
  /** Lets others in. */
  release(): Promise<void>;
}

/** @internal What to lock. */
export interface LockTarget {
  readonly fd: number;
  /** Resolved path. */
  readonly path: string;
  readonly dev: number;
  readonly ino: number;
  readonly rdev: number;
  readonly isDevice: boolean;
}

function locked(path: string, by: string): HyveError {
  return new HyveError(
    'BLOCK_LOCKED',
    `${path} is in use by ${by}; two users would destroy it (ro shares it for reading)`,
  );
}

/**
 * @internal Locks an image: one writer, or any number of readers.
 * @throws HyveError `BLOCK_LOCKED`
 */
export async function lockImage(t: LockTarget, exclusive: boolean, calls: HostCalls | null): Promise<FileLock> {
  const wish = exclusive ? WRITER : READER;
  if (calls?.linux === true) {
    const state = lockBytes(t, wish, calls);
    if (state === 'taken') {
      const rival = await rivalFile(t, exclusive, null);
      if (rival === null)
        return {
          release: async () => {
            unlockBytes(t.fd, wish, calls);
          },
        };
      unlockBytes(t.fd, wish, calls);
      throw locked(t.path, rival);
    }
    if (state === 'busy') throw locked(t.path, 'another program');
  } else if (calls !== null) {
    if (!calls.flock(t.fd, exclusive)) throw locked(t.path, 'another program');
    return { release: async () => {} }; // closing the file ends it
  }
  if (bytesLockedByOthers(t, wish)) throw locked(t.path, 'another program');
  return lockByFile(t, exclusive);
}

function unlockBytes(fd: number, wish: Wish, calls: HostCalls): void {
  for (const p of wish.does) calls.unlockByte(fd, DOES + p);
  for (const p of wish.forbids) calls.unlockByte(fd, FORBIDS + p);
}

function lockBytes(t: LockTarget, wish: Wish, calls: HostCalls): 'taken' | 'busy' | 'unsupported' {
  const all = [...wish.does.map((p) => DOES + p), ...wish.forbids.map((p) => FORBIDS + p)];
  for (const at of all) {
    const r = calls.lockByte(t.fd, at);
    if (r !== 'taken') {
      unlockBytes(t.fd, wish, calls);
      return r;
    }
  }
  const busy =
    wish.does.some((p) => calls.byteIsLocked(t.fd, FORBIDS + p)) ||
    wish.forbids.some((p) => calls.byteIsLocked(t.fd, DOES + p));
  if (busy) unlockBytes(t.fd, wish, calls);
  return busy ? 'busy' : 'taken';
}

/** Without node:ffi the kernel's list of locks tells what QEMU or another Hyve holds. */
function bytesLockedByOthers(t: LockTarget, wish: Wish): boolean {
  let text: string;
  try {
    text = readFileSync('/proc/locks', 'utf8');
  } catch {
    return false;
  }
  const hex = (n: number): string => n.toString(16).padStart(2, '0');
  const major = ((t.dev >>> 8) & 0xfff) >>> 0;
  const minor = (t.dev & 0xff) | (Math.floor(t.dev / 0x100000) << 8);
  const file = `${hex(major)}:${hex(minor)}:${t.ino}`;
  const rivals = [...wish.does.map((p) => FORBIDS + p), ...wish.forbids.map((p) => DOES + p)];
  for (const line of text.split('\n')) {
    const w = line.trim().split(/\s+/);
    if (w[1] !== 'OFDLCK' || w[5] !== file) continue;
    const from = Number(w[6]);
    const to = w[7] === 'EOF' ? Number.POSITIVE_INFINITY : Number(w[7]);
    if (rivals.some((at) => at >= from && at <= to)) return true;
  }
  return false;
}

/** Where the lock files of an image go and how their names begin. */
function lockPlace(t: LockTarget): { readonly dir: string; readonly prefix: string } {
  if (t.isDevice) return { dir: tmpdir(), prefix: `hyve-device-${t.rdev.toString(16)}.hyve-lock.` };
  return { dir: dirname(t.path), prefix: `.${basename(t.path)}.hyve-lock.` };
}

/** When a process began, in the kernel's own words; tells a process from a later one with its number. */
function startOf(pid: number | 'self'): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

function isAlive(pid: number, start: string): boolean {
  try {
    process.kill(pid, 0);
  } catch (e) {
    if (errorCode(e) !== 'EPERM') return false;
  }
  return start === '' || startOf(pid) === start;
}

/** Who else holds a lock file that conflicts; files of dead processes are removed on the way. */
async function rivalFile(t: LockTarget, exclusive: boolean, own: string | null): Promise<string | null> {
  const { dir, prefix } = lockPlace(t);
  let names: string[];
  try {
    names = await readdir(dir);
  } catch {
    return null;
  }
  for (const name of names) {
    if (!name.startsWith(prefix) || name === own) continue;
    if (!exclusive && name[prefix.length] !== 'w') continue;
    const file = join(dir, name);
    const text = await readFile(file, 'utf8').catch(() => null);
    if (text === null) continue;
    const [pid, start, host] = text.trim().split('\n');
    const id = Number(pid);
    if (!Number.isInteger(id) || id <= 0) continue;
    if (host === hostname() && !isAlive(id, start ?? '')) {
      await unlink(file).catch(() => {});
      continue;
    }
    return host === hostname() ? `process ${id}` : `process ${id} on ${host}, says ${file}`;
  }
  return null;
}

async function lockByFile(t: LockTarget, exclusive: boolean): Promise<FileLock> {
  const { dir, prefix } = lockPlace(t);
  const tag = Math.floor(Math.random() * 2 ** 40).toString(36);
  const own = `${prefix}${exclusive ? 'w' : 'r'}.${process.pid}.${tag}`;
  const file = join(dir, own);
  let written = true;
  try {
    await writeFile(file, `${process.pid}\n${startOf('self')}\n${hostname()}\n`, { flag: 'wx', mode: 0o644 });
  } catch {
    written = false; // a read-only place: others' files still count
  }
  const release = async (): Promise<void> => {
    if (written) await unlink(file).catch(() => {});
  };
  // Written first, looked second: of two that come at once at least one sees the other.
  const rival = await rivalFile(t, exclusive, own);
  if (rival === null) return { release };
  await release();
  throw locked(t.path, rival);
}
