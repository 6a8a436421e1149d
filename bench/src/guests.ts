// Builds the bench's guests: static programs by the host's gcc, packed as /init into an initial RAM file system.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CpioWriter } from '../../apps/xhyve-cli/src/images/cpio.ts';

/** Width of a guest's programs and kernel. */
export type Bits = 32 | 64;

const sources = join(import.meta.dirname, '../guests');
const cache = join(import.meta.dirname, '../node_modules/.cache/guests');

/** Flags of one file, besides the common ones. */
const FLAGS: Readonly<Record<string, readonly string[]>> = {
  'float.c': ['-msse2', '-mfpmath=sse'],
  'x87.c': ['-mfpmath=387'],
};

/** The C files of one program, and what comes after them on the linker's command line. */
const PROGRAMS: Readonly<Record<string, { readonly files: readonly string[]; readonly link: readonly string[] }>> = {
  bench: {
    files: ['main.c', 'int.c', 'call.c', 'float.c', 'x87.c', 'rep.c', 'mem.c', 'kernel.c', 'rewrite.c'],
    link: ['-lm'],
  },
  grow: { files: ['grow.c'], link: [] },
  tick: { files: ['tick.c'], link: [] },
};

/** Programs of {@link guestInitrd}. */
export type ProgramName = 'bench' | 'grow' | 'tick';

/** Compiles into `name` inside the cache unless the same sources were compiled already; gives the path. */
function made(name: string, build: (folder: string, out: string) => void): string {
  const hash = createHash('sha256').update(name);
  for (const file of readdirSync(sources).sort()) hash.update(file).update(readFileSync(join(sources, file)));
  hash.update(readFileSync(import.meta.filename));
  const path = join(cache, hash.digest('hex').slice(0, 16), name);
  if (existsSync(path)) return path;
  const work = `${path}.${process.pid}.d`;
  mkdirSync(work, { recursive: true });
  try {
    build(work, join(work, name));
    renameSync(join(work, name), path);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return path;
}

function gcc(args: readonly string[]): void {
  try {
    execFileSync('gcc', args, { cwd: sources, encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (e) {
    const text = (e as { stderr?: string }).stderr ?? (e as Error).message;
    throw new Error(`gcc ${args.join(' ')}: ${text.trim()}\n32-bit guests need gcc-multilib.`);
  }
}

/** Path of a static Linux program. */
export function guestProgram(name: ProgramName, bits: Bits): string {
  return made(`${name}-${bits}`, (work, out) => {
    const { files, link } = PROGRAMS[name] as (typeof PROGRAMS)[string];
    const objects = files.map((file) => {
      const object = join(work, `${file}.o`);
      gcc([`-m${bits}`, '-O2', '-Wall', '-Wextra', ...(FLAGS[file] ?? []), '-c', file, '-o', object]);
      return object;
    });
    gcc([`-m${bits}`, '-static', '-s', ...objects, '-o', out, ...link]);
  });
}

/** Path of the Multiboot kernel that says `!` on COM1 at once. */
export function startPayload(): string {
  return made('start.elf', (_work, out) =>
    gcc(['-m32', '-nostdlib', '-static', '-Wl,-N', '-Wl,-Ttext=0x100000', '-Wl,--build-id=none', 'start.S', '-o', out]),
  );
}

/** An archive that holds `program` as /init, and /dev/console. */
function archive(program: Uint8Array): Uint8Array {
  const cpio = new CpioWriter();
  // Without it /init has no output.
  cpio.charDevice('dev/console', 5, 1);
  cpio.file('init', program, 0o755);
  return cpio.finish();
}

/** Path of an initial RAM file system whose /init is a program of ours. */
export function guestInitrd(name: ProgramName, bits: Bits): string {
  const program = guestProgram(name, bits);
  return made(`${name}-${bits}.cpio`, (_work, out) => writeFileSync(out, archive(readFileSync(program))));
}
