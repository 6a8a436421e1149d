// Disks for the lab's guests: one of each kind of back end, and what they hold afterwards.
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkDisk, createDisk } from '../../../packages/backends/block/src/disk/index.ts';
import { openBlock } from '../../../packages/backends/block/src/index.ts';

/** Kinds of back ends. */
export const DISK_KINDS = ['raw', 'qcow2', 'qcow2-backing', 'overlay', 'nbd-qemu', 'nbd-nbdkit'] as const;

/** One of {@link DISK_KINDS}. */
export type DiskKind = (typeof DISK_KINDS)[number];

/** A disk that a guest may use. */
export interface LabDisk {
  /** What goes after the device's name. */
  readonly conf: string;
  /** After the guest has gone: what is wrong with the disk, given the SHA-256 the guest has read; empty if nothing. */
  inspect(sum: string): Promise<string>;
  /** Lets go of servers. */
  close(): Promise<void>;
}

/** Why a kind cannot be had here, or null. */
export function missing(kind: DiskKind): string | null {
  const program = kind === 'nbd-qemu' ? 'qemu-nbd' : kind === 'nbd-nbdkit' ? 'nbdkit' : null;
  if (program === null || spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0) return null;
  return `${program} is not installed`;
}

/** A server process that is ended when its disk is closed. */
export class Server {
  private readonly child: ChildProcess;
  private readonly gone: Promise<void>;
  private said = '';

  private constructor(program: string, args: readonly string[]) {
    this.child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.child.stderr?.setEncoding('utf8').on('data', (t: string) => {
      this.said += t;
    });
    this.gone = new Promise((resolve) => this.child.on('close', () => resolve()));
  }

  /** Starts one and waits for its socket. */
  static async start(socket: string, program: string, args: readonly string[]): Promise<Server> {
    const s = new Server(program, args);
    for (let n = 0; !existsSync(socket); n++) {
      if (n > 100 || s.child.exitCode !== null) throw new Error(`${program} does not serve ${socket}: ${s.said}`);
      await new Promise((r) => setTimeout(r, 50));
    }
    return s;
  }

  /** Ends it. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.child.kill(signal);
    await this.gone;
  }
}

/** Words that make a program serve a raw file on a UNIX socket. */
export function nbdServer(kind: 'nbd-qemu' | 'nbd-nbdkit', socket: string, file: string): [string, string[]] {
  return kind === 'nbd-qemu'
    ? ['qemu-nbd', ['-t', '-k', socket, '-f', 'raw', '-e', '4', '--discard=unmap', '--detect-zeroes=unmap', file]]
    : ['nbdkit', ['-f', '-U', socket, 'file', file]];
}

/** Makes a disk. @param name must be new in `dir` @param size bytes */
export async function makeDisk(kind: DiskKind, dir: string, name: string, size: number): Promise<LabDisk> {
  const at = (suffix: string): string => join(dir, `${name}${suffix}`);
  const closed = async (): Promise<void> => {};
  switch (kind) {
    case 'raw': {
      writeFileSync(at('.img'), '');
      truncateSync(at('.img'), size);
      return { conf: at('.img'), inspect: (sum) => compare(at('.img'), sum), close: closed };
    }
    case 'qcow2':
    case 'qcow2-backing': {
      const backing = kind === 'qcow2' ? null : `${name}-base.qcow2`;
      if (backing !== null) {
        await createDisk(at('-base.qcow2'), { format: 'qcow2', size });
        await scribble(at('-base.qcow2'), size);
      }
      const path = at('.qcow2');
      await createDisk(path, { format: 'qcow2', size, backing });
      return { conf: path, inspect: async (sum) => (await compare(path, sum)) || (await check(path)), close: closed };
    }
    case 'overlay': {
      writeFileSync(at('.img'), '');
      truncateSync(at('.img'), size);
      await scribble(at('.img'), size);
      const before = await sumOf(at('.img'));
      const inspect = async (): Promise<string> =>
        (await sumOf(at('.img'))) === before ? '' : 'the file below the overlay was written';
      return { conf: `${at('.img')},snapshot=on`, inspect, close: closed };
    }
    case 'nbd-qemu':
    case 'nbd-nbdkit': {
      writeFileSync(at('.img'), '');
      truncateSync(at('.img'), size);
      const server = await Server.start(at('.sock'), ...nbdServer(kind, at('.sock'), at('.img')));
      const inspect = async (sum: string): Promise<string> => {
        await server.stop();
        return compare(at('.img'), sum);
      };
      return { conf: `nbd+unix:///?socket=${at('.sock')}`, inspect, close: () => server.stop() };
    }
  }
}

/** Puts a pattern all over an image, so that what shows through is not zeros. */
async function scribble(path: string, size: number): Promise<void> {
  const disk = await openBlock(path);
  const block = new Uint8Array(1 << 20);
  for (let at = 0; at < size; at += block.length * 4) {
    block.fill(1 + ((at / block.length) % 255));
    await disk.write(at, [block]);
  }
  await disk.flush();
  await disk.close();
}

/** SHA-256 of what an image holds. */
export async function sumOf(path: string): Promise<string> {
  const disk = await openBlock(`${path},ro`);
  const hash = createHash('sha256');
  const block = new Uint8Array(1 << 20);
  for (let at = 0; at < disk.size; at += block.length) {
    const part = block.subarray(0, Math.min(block.length, disk.size - at));
    const status = await disk.read(at, [part]);
    if (status !== 'ok') throw new Error(`${path}: ${status} at ${at}`);
    hash.update(part);
  }
  await disk.close();
  return hash.digest('hex');
}

async function compare(path: string, sum: string): Promise<string> {
  return (await sumOf(path)) === sum ? '' : 'the host reads something else than the guest';
}

async function check(path: string): Promise<string> {
  const r = await checkDisk(path);
  if (r.corruptions > 0 || r.leaks > 0) return `${r.corruptions} corruptions, ${r.leaks} leaks`;
  if (spawnSync('qemu-img', ['--version'], { stdio: 'ignore' }).status !== 0) return '';
  try {
    execFileSync('qemu-img', ['check', '-q', '-f', 'qcow2', path], { stdio: 'pipe' });
    return '';
  } catch (e) {
    return `qemu-img check: ${e instanceof Error ? e.message : String(e)}`;
  }
}
