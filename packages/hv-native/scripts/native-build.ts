// Compiles src/native into npm/<platform>-<arch> when what is there is older than its sources.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const ROOT = dirname(import.meta.dirname);
const SOURCES = join(ROOT, 'src/native');
const WARNINGS = ['-Wall', '-Wextra', '-Werror'];

/** What became of a build. */
export interface BuildResult {
  /** The addon is there and no older than its sources. */
  readonly ok: boolean;
  /** One line; what the compiler said, if it was that. */
  readonly detail: string;
  /** The sources do not compile. */
  readonly broken?: boolean;
}

/** Compilers to try, in order. */
const COMPILERS = ['g++', 'clang++', 'c++'];

/** What there is to build. */
interface Library {
  readonly file: string;
  readonly sources: readonly string[];
  /** What else its sources include. */
  readonly headers: readonly string[];
  readonly flags: readonly string[];
}

/** The KVM engine. It stays loaded: its signal handler does. */
const ENGINE: Library = {
  file: 'hyve-native.node',
  sources: ['addon.cc', 'kvm.cc'],
  headers: ['backend.h', 'exchange.h'],
  flags: ['-Wl,-z,nodelete'],
};
/** V8's machine code of modules. */
const COMPILED: Library = { file: 'hyve-compiled.node', sources: ['compiled.cc'], headers: [], flags: ['-ldl'] };

/** The thread's processor time. */
const THREAD: Library = { file: 'hyve-thread.node', sources: ['thread.cc'], headers: [], flags: [] };

/** Builds the engine unless there is nothing to do. Says why where it cannot. */
export function buildNative(o: { force?: boolean; sanitize?: string; target?: string } = {}): BuildResult {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    return { ok: false, detail: `there is no engine for ${process.platform}-${process.arch} yet` };
  return build(ENGINE, o);
}

/** The same for the library behind `compiledCode`. */
export function buildCompiled(o: { force?: boolean; sanitize?: string; target?: string } = {}): BuildResult {
  if (process.platform !== 'linux')
    return { ok: false, detail: `machine code of modules is not kept on ${process.platform} yet` };
  return build(COMPILED, o);
}

/** The same for the library behind `threadClock`. */
export function buildThread(o: { force?: boolean; sanitize?: string; target?: string } = {}): BuildResult {
  if (process.platform !== 'linux') return { ok: false, detail: `stalls are not measured on ${process.platform} yet` };
  return build(THREAD, o);
}

function build(library: Library, o: { force?: boolean; sanitize?: string; target?: string }): BuildResult {
  const sources = library.sources.map((f) => join(SOURCES, f));
  const folder = join(ROOT, 'npm', `${process.platform}-${process.arch}`);
  const target = o.target ?? join(folder, library.file);
  const inputs = [...sources, ...library.headers.map((f) => join(SOURCES, f))];
  const newest = Math.max(...inputs.map((f) => statSync(f).mtimeMs));
  if (o.force !== true && o.sanitize === undefined && existsSync(target) && statSync(target).mtimeMs >= newest)
    return { ok: true, detail: `${target} is up to date` };
  const headers = headersFolder();
  if (headers === null) return { ok: false, detail: 'no headers of Node-API: install node-api-headers' };
  const compiler = COMPILERS.find((c) => spawnSync(c, ['--version']).status === 0);
  if (compiler === undefined) return { ok: false, detail: `no C++ compiler: ${COMPILERS.join(', ')} are missing` };
  mkdirSync(folder, { recursive: true });
  // Another process may load the file at this moment, or build it too.
  const fresh = `${target}.${process.pid}`;
  const flags = [
    '-std=c++17',
    '-O2',
    '-fPIC',
    '-shared',
    '-fno-exceptions',
    '-fno-rtti',
    '-fvisibility=hidden',
    ...WARNINGS,
  ];
  if (o.sanitize !== undefined) flags.push('-g', '-fno-omit-frame-pointer', `-fsanitize=${o.sanitize}`);
  const args = [...flags, `-I${headers}`, ...sources, '-o', fresh, ...library.flags];
  const { status, stderr } = spawnSync(compiler, args, { encoding: 'utf8' });
  if (status !== 0) {
    rmSync(fresh, { force: true });
    return { ok: false, broken: true, detail: `${compiler} failed: ${stderr.trim()}` };
  }
  renameSync(fresh, target);
  return { ok: true, detail: `${target} built with ${compiler}` };
}

/** Folder with node_api.h: the package of headers, or the running Node's own. */
function headersFolder(): string | null {
  const places: string[] = [];
  try {
    places.push(join(dirname(createRequire(import.meta.url).resolve('node-api-headers/package.json')), 'include'));
  } catch {
    // Not installed: a development dependency.
  }
  places.push(join(dirname(dirname(process.execPath)), 'include/node'));
  return places.find((p) => existsSync(join(p, 'node_api.h'))) ?? null;
}
