// Debian packages without root: apt with a state directory of its own and the system's sources and keys, so that apt's
// signatures vouch for every package; the digest apt names is checked once more on what arrived.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { runError, usageError } from '../errors.ts';
import { sha256 } from './cache.ts';
import type { OnProgress } from './progress.ts';

/** A package apt has fetched and checked. */
export interface FetchedPackage {
  /** Its name. */
  readonly name: string;
  /** Its version. */
  readonly version: string;
  /** SHA-256 of the .deb, hexadecimal. */
  readonly sha256: string;
  /** The .deb. */
  readonly data: Uint8Array;
}

/** Options of {@link Apt.open}. */
export interface AptOptions {
  /** Directory for everything apt keeps; must exist. */
  readonly dir: string;
  /** Debian architecture of the packages, whatever the host's is. */
  readonly architecture: 'amd64' | 'i386';
  /** Told how it goes. */
  readonly onProgress: OnProgress;
  /** Ends apt. */
  readonly signal?: AbortSignal | undefined;
  /** The program, for tests; default `apt-get` and its sibling `apt-cache` from PATH. */
  readonly programs?: { readonly get: string; readonly cache: string };
}

interface Finished {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** apt-get in a private directory. */
export class Apt {
  private readonly dir: string;
  private readonly flags: readonly string[];
  private readonly options: AptOptions;
  private updateTrouble = '';

  private constructor(options: AptOptions, flags: readonly string[]) {
    this.dir = options.dir;
    this.options = options;
    this.flags = flags;
  }

  /** Prepares the directory and reads the package index. @throws CLI_RUN without apt or network */
  static async open(options: AptOptions): Promise<Apt> {
    const { dir, architecture } = options;
    for (const d of ['lists/partial', 'cache/archives/partial', 'debs', 'log'])
      await mkdir(join(dir, d), { recursive: true });
    await writeFile(join(dir, 'status'), '');
    // Hooks of the host's configuration are for the host's own package state.
    await writeFile(
      join(dir, 'apt.conf'),
      [
        '#clear APT::Update;',
        '#clear DPkg;',
        '#clear APT::Architectures;',
        '#clear Acquire::IndexTargets::deb::DEP-11;',
        '',
      ].join('\n'),
    );
    const set: Record<string, string> = {
      'Dir::State': dir,
      'Dir::State::lists': join(dir, 'lists'),
      'Dir::State::status': join(dir, 'status'),
      'Dir::Cache': join(dir, 'cache'),
      'Dir::Log': join(dir, 'log'),
      'APT::Architecture': architecture,
      'APT::Architectures::': architecture,
      'APT::Sandbox::User': 'root',
      'Acquire::Languages': 'none',
      'Acquire::Retries': '2',
      'Acquire::http::Timeout': '30',
      'Acquire::https::Timeout': '30',
      'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled': 'false',
      'Acquire::IndexTargets::deb::CNF::DefaultEnabled': 'false',
    };
    const flags = ['-c', join(dir, 'apt.conf'), ...Object.entries(set).flatMap(([k, v]) => ['-o', `${k}=${v}`])];
    const apt = new Apt(options, flags);
    options.onProgress({ phase: 'index', what: '', done: 0, total: null });
    const r = await apt.get(['update', '-q']);
    // A half-failed update may do; what failed is told once a package turns out to be missing.
    apt.updateTrouble = trouble(r.stderr);
    if (r.status !== 0 && (await apt.names(/./u)).length === 0)
      throw runError(`apt could not read the package index: ${apt.updateTrouble || `status ${r.status}`}`);
    return apt;
  }

  /** Package names that match, sorted. */
  async names(pattern: RegExp): Promise<string[]> {
    const r = await this.cache(['pkgnames']);
    return r.stdout
      .split('\n')
      .filter((n) => pattern.test(n))
      .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  }

  /** The first dependency of a package's candidate version that matches. @throws CLI_RUN when there is none */
  async dependency(name: string, pattern: RegExp): Promise<string> {
    const r = await this.cache(['show', '--no-all-versions', name]);
    const line = /^Depends: (.*)$/mu.exec(r.stdout)?.[1];
    if (r.status !== 0 || line === undefined) throw this.missing(name);
    for (const d of line.split(/[,|]/u)) {
      const dep = d.trim().split(' ', 1)[0] as string;
      if (pattern.test(dep)) return dep;
    }
    throw runError(`the package ${name} depends on nothing that looks like ${pattern.source}`);
  }

  /**
   * Packages with everything that they need, in the order in which apt would unpack them.
   * @param names packages, or apt's patterns such as `?essential`
   * @throws CLI_RUN when one is missing or they cannot be installed together
   */
  async closure(names: readonly string[]): Promise<string[]> {
    const r = await this.get(['-s', '-y', '--no-install-recommends', 'install', ...names]);
    const found = [...r.stdout.matchAll(/^Inst (\S+)/gmu)].map((m) => (m[1] as string).replace(/:\w+$/u, ''));
    if (r.status !== 0 || found.length === 0)
      throw runError(`apt cannot put ${names.join(', ')} together: ${trouble(r.stderr) || `status ${r.status}`}`);
    return found;
  }

  /** Fetches packages by one call of apt, several at a time. @throws as {@link Apt.fetch} */
  async fetchAll(names: readonly string[]): Promise<FetchedPackage[]> {
    const debs = join(this.dir, 'debs');
    const plan = await this.get(['--print-uris', 'download', ...names], debs);
    const total = [...plan.stdout.matchAll(/^'[^']*' \S+ (\d+) /gmu)].reduce((sum, m) => sum + Number(m[1]), 0);
    const what = `${names.length} packages`;
    this.options.onProgress({ phase: 'download', what, done: 0, total });
    const r = await this.get(['-q', 'download', ...names], debs, (line) => {
      const status = /^dlstatus:\d+:([\d.]+):/u.exec(line);
      const done = Math.floor((Number(status?.[1] ?? 0) / 100) * total);
      if (status !== null) this.options.onProgress({ phase: 'download', what, done, total });
    });
    if (r.status !== 0) throw runError(`fetching ${what} failed: ${trouble(r.stderr) || `apt status ${r.status}`}`);
    this.options.onProgress({ phase: 'download', what, done: total, total });
    const planned = new Map(
      [...plan.stdout.matchAll(/^'[^']*' ((\S+?)_\S+) (\d+) SHA256:([0-9a-f]{64})/gmu)].map((m) => [m[2], m]),
    );
    const out: FetchedPackage[] = [];
    for (const name of names) {
      const m = planned.get(name);
      if (m === undefined) throw this.missing(name);
      out.push(await this.read(name, m[1] as string, Number(m[3]), m[4] as string));
    }
    return out;
  }

  /** Fetches a package. @throws CLI_RUN when it is missing, the network fails or a digest is wrong */
  async fetch(name: string): Promise<FetchedPackage> {
    const debs = join(this.dir, 'debs');
    const plan = await this.get(['--print-uris', 'download', name], debs);
    const m = /^'[^']*' (\S+) (\d+) SHA256:([0-9a-f]{64})/mu.exec(plan.stdout);
    if (plan.status !== 0 || m === null) throw this.missing(name);
    const [, file, sizeText, digest] = m as unknown as [string, string, string, string];
    const total = Number(sizeText);
    const report = (done: number): void => this.options.onProgress({ phase: 'download', what: name, done, total });
    report(0);
    const r = await this.get(['-q', 'download', name], debs, (line) => {
      const status = /^dlstatus:\d+:([\d.]+):/u.exec(line);
      if (status !== null) report(Math.floor((Number(status[1]) / 100) * total));
    });
    if (r.status !== 0) throw runError(`fetching ${name} failed: ${trouble(r.stderr) || `apt status ${r.status}`}`);
    const p = await this.read(name, file, total, digest);
    report(total);
    return p;
  }

  private async read(name: string, file: string, total: number, digest: string): Promise<FetchedPackage> {
    const debs = join(this.dir, 'debs');
    const data = await readFile(join(debs, file)).catch(async () => {
      // The name on disk quotes the version's colon; print-uris of some releases does not.
      return readFile(join(debs, file.replaceAll(':', '%3a')));
    });
    if (data.length !== total) throw runError(`fetching ${name} was cut: ${data.length} of ${total} bytes arrived`);
    if (sha256(data) !== digest) throw runError(`${name}: its SHA-256 is not the one in the signed index`);
    return { name, version: decodeURIComponent(file.split('_')[1] ?? '?'), sha256: digest, data };
  }

  private missing(name: string): Error {
    const why = this.updateTrouble === '' ? '' : ` (${this.updateTrouble})`;
    return runError(`no package '${name}' in this system's apt sources${why}`);
  }

  private get(words: readonly string[], cwd: string = this.dir, onStatus?: (line: string) => void): Promise<Finished> {
    const status = onStatus === undefined ? [] : ['-o', 'APT::Status-Fd=3'];
    return this.run(this.options.programs?.get ?? 'apt-get', [...this.flags, ...status, ...words], cwd, onStatus);
  }

  private cache(words: readonly string[]): Promise<Finished> {
    return this.run(this.options.programs?.cache ?? 'apt-cache', [...this.flags, ...words], this.dir);
  }

  private run(
    program: string,
    args: readonly string[],
    cwd: string,
    onStatus?: (line: string) => void,
  ): Promise<Finished> {
    const { signal } = this.options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(runError('interrupted'));
      const child: ChildProcess = spawn(program, args, {
        cwd,
        stdio: ['ignore', 'pipe', 'pipe', onStatus === undefined ? 'ignore' : 'pipe'],
        env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
      });
      const stop = (): void => void child.kill('SIGTERM');
      signal?.addEventListener('abort', stop, { once: true });
      let stdout = '';
      let stderr = '';
      child.stdout?.setEncoding('utf8').on('data', (t: string) => {
        stdout += t;
      });
      child.stderr?.setEncoding('utf8').on('data', (t: string) => {
        stderr += t;
      });
      if (onStatus !== undefined) lines(child.stdio[3] as Readable, onStatus);
      child.on('error', (e) => {
        signal?.removeEventListener('abort', stop);
        const missing = 'code' in e && e.code === 'ENOENT';
        reject(
          missing
            ? usageError(`this image is made from Debian packages and '${program}' is not on this system`)
            : runError(`${program}: ${e.message}`, e),
        );
      });
      child.on('close', (code) => {
        signal?.removeEventListener('abort', stop);
        if (signal?.aborted === true) reject(runError('interrupted'));
        else resolve({ status: code ?? -1, stdout, stderr });
      });
    });
  }
}

function lines(stream: Readable, each: (line: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8').on('data', (text: string) => {
    const parts = (rest + text).split('\n');
    rest = parts.pop() ?? '';
    for (const p of parts) each(p);
  });
}

/** The last complaints of apt in one line. */
function trouble(stderr: string): string {
  const found = stderr
    .split('\n')
    .filter((l) => /^[EW]:/u.test(l))
    .map((l) => l.slice(2).trim());
  return found.slice(-2).join('; ');
}
