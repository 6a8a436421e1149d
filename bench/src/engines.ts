// Starts a guest on one of the engines and reads its console: the same kernel, initrd and amount of memory on each.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Bits } from './guests.ts';
import { GuestLog } from './protocol.ts';

/** Hyve, QEMU's TCG, v86. */
export type EngineName = 'hyve' | 'qemu' | 'v86';

/** A guest, the same for every engine. */
export interface Guest {
  readonly bits: Bits;
  readonly kernel: string;
  readonly initrd: string | null;
  readonly cmdline: string;
  readonly memoryMib: number;
}

/** How engines are set up. */
export interface EngineOptions {
  /** Flags of the Node that runs Hyve. With any, or for counters, @hyve/pc runs without the command line, on one thread. */
  readonly hyveFlags: readonly string[];
  /** Asks for Hyve's counters. */
  readonly counters?: boolean;
  /** An empty cache for Hyve: the guest's first start on a host. Else the user's own. */
  readonly cache?: string;
  /** Hyve's translation threshold, null for the default. */
  readonly threshold: number | null;
  /** QEMU's `-cpu`. */
  readonly qemuCpu: string;
}

/** One run's end. */
export interface RunResult {
  readonly log: GuestLog;
  /** From the process's start to the first console text with the mark, milliseconds; null if it never came. */
  readonly markMs: number | null;
  /** Resident MiB of the process at its mark, and what of it is not file-backed or shared. */
  readonly residentMib: number;
  /** Hyve's counters. */
  readonly counters: Readonly<Record<string, number>>;
  /** Why the run is not complete; empty if it is. */
  readonly problem: string;
}

const here = import.meta.dirname;
const SEABIOS = '/usr/share/seabios';
const CLI = join(here, '../../apps/xhyve-cli/bin/xhyve.js');

/** What Hyve runs with: the command line as it is published, if it has been built; from source it takes 0.1 s longer. */
export function environment(cache?: string): NodeJS.ProcessEnv {
  const built = existsSync(join(CLI, '../../bundle/main.js')) ? { XHYVE_FROM: 'bundle' } : {};
  return { ...process.env, ...built, ...(cache === undefined ? {} : { XDG_CACHE_HOME: cache }) };
}

/** Installs what Debian has of the peers, if it is missing. Gives the engines that can run, with reasons for the others. */
export function findEngines(wanted: readonly EngineName[]): { found: EngineName[]; missing: string[] } {
  const have = (): boolean =>
    spawnSync('qemu-system-x86_64', ['--version']).status === 0 && existsSync(join(SEABIOS, 'bios.bin'));
  const needsDebian = wanted.includes('qemu') || wanted.includes('v86');
  if (needsDebian && !have() && process.getuid?.() === 0)
    spawnSync('apt-get', ['install', '-y', '--no-install-recommends', 'qemu-system-x86', 'seabios'], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  const found: EngineName[] = [];
  const missing: string[] = [];
  for (const engine of wanted) {
    if (engine === 'hyve') found.push(engine);
    else if (engine === 'qemu') {
      if (spawnSync('qemu-system-x86_64', ['--version']).status === 0) found.push(engine);
      else missing.push('qemu: apt-get install qemu-system-x86');
    } else if (existsSync(join(SEABIOS, 'bios.bin'))) found.push(engine);
    else missing.push('v86: needs SeaBIOS, apt-get install seabios');
  }
  return { found, missing };
}

/** Program and arguments of Hyve's command line for a guest without disks. @param boot as `-f` takes it */
export function hyveCommand(memoryMib: number, boot: string): string[] {
  const machine = ['--engine', 'soft', '-m', `${memoryMib}M`, '-s', '0,hostbridge', '-s', '31,lpc'];
  return [process.execPath, CLI, ...machine, '-l', 'com1,stdio', '-f', boot];
}

/** Program and arguments of QEMU's TCG for a guest without disks. */
export function qemuCommand(bits: Bits, memoryMib: number, kernel: string): string[] {
  const program = bits === 64 ? 'qemu-system-x86_64' : 'qemu-system-i386';
  const none = ['-display', 'none', '-monitor', 'none', '-nic', 'none'];
  return [program, '-accel', 'tcg', '-m', String(memoryMib), ...none, '-serial', 'stdio', '-kernel', kernel];
}

/** Program and arguments that run `guest` on `engine`; the guest's COM1 is the process's standard output. */
function command(engine: EngineName, guest: Guest, o: EngineOptions, until: string, linger: number): string[] {
  const { kernel, initrd, cmdline, memoryMib } = guest;
  switch (engine) {
    case 'hyve': {
      if (o.counters !== true && o.hyveFlags.length === 0) {
        // The command line is the last field of -f, commas and all.
        const args = hyveCommand(memoryMib, `kexec,${kernel},${initrd ?? ''},${cmdline}`);
        if (o.threshold !== null) args.push('-o', `translator=${o.threshold === 0 ? 'off' : o.threshold}`);
        return args;
      }
      const run = { kernel, initrd, cmdline, memoryMib, threshold: o.threshold, until, linger };
      return [process.execPath, ...o.hyveFlags, join(here, 'hyve-child.ts'), JSON.stringify(run)];
    }
    case 'v86': {
      const bios = join(SEABIOS, 'bios.bin');
      const vgaBios = join(SEABIOS, 'vgabios-stdvga.bin');
      return [
        process.execPath,
        join(here, 'v86-child.ts'),
        JSON.stringify({ kernel, initrd, cmdline, memoryMib, bios, vgaBios }),
      ];
    }
    default: {
      const args = qemuCommand(guest.bits, memoryMib, kernel);
      args.push('-cpu', o.qemuCpu, '-no-reboot', '-append', cmdline);
      return initrd === null ? args : [...args, '-initrd', initrd];
    }
  }
}

/** Resident set of a process, MiB. */
export function residentMib(pid: number): number {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+)/.exec(text)?.[1] ?? 0) / 1024;
}

/** Options of {@link runGuest}. */
export interface RunOptions extends EngineOptions {
  /** Text on the console that ends the run. */
  readonly until: string;
  /** Milliseconds the guest goes on after that before its memory is looked at; default 0. */
  readonly linger?: number;
  /** Milliseconds after which the run is given up. */
  readonly limitMs: number;
}

/** Boots a guest and waits for the mark. */
export function runGuest(engine: EngineName, guest: Guest, o: RunOptions): Promise<RunResult> {
  const linger = o.linger ?? 0;
  // The child of Hyve goes on a second longer than we look, so that it is still there to be looked at.
  const [program = '', ...args] = command(engine, guest, o, o.until, linger === 0 ? 0 : linger + 1000);
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment(o.cache) });
  return watch(child, o.until, linger, o.limitMs);
}

/** Starts a guest whose console and process the caller watches. It runs until the process is ended. */
export function startGuest(engine: EngineName, guest: Guest, o: EngineOptions): ChildProcess {
  const [program = '', ...args] = command(engine, guest, o, '\0', 0);
  return spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'], env: environment(o.cache) });
}

/** How {@link followGuest} reads a console. */
export interface Following<T> {
  /** Milliseconds after which the run is given up; they begin again when `read` calls `again`. */
  readonly limitMs: number;
  /** Gets what the console says, piece by piece; gives the result once there is one, null before. */
  read(text: string, child: ChildProcess, again: () => void): T | null;
}

/** Runs a guest until its console has said enough. @throws if it ends before, or takes too long, with the console's last words */
export function followGuest<T>(engine: EngineName, guest: Guest, o: EngineOptions, follow: Following<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const child = startGuest(engine, guest, o);
    let last = '';
    const end = (why: string, result: T | null): void => {
      clearTimeout(timer);
      child.removeAllListeners('exit');
      child.stdout?.removeAllListeners('data');
      child.kill('SIGKILL');
      if (result !== null) resolve(result);
      else reject(new Error(`${engine} ${why}: ${last}`));
    };
    const start = (): NodeJS.Timeout =>
      setTimeout(() => end(`has not come to an end in ${follow.limitMs / 1000} s`, null), follow.limitMs);
    let timer = start();
    const again = (): void => {
      clearTimeout(timer);
      timer = start();
    };
    child.on('exit', (code, signal) => end(`ended: ${signal ?? code}`, null));
    child.stdout?.on('data', (d: Buffer) => {
      const text = d.toString();
      last = (last + text).slice(-300);
      const result = follow.read(text, child, again);
      if (result !== null) end('', result);
    });
  });
}

/** Reads a started engine's console until the mark, then ends it. */
export function watch(child: ChildProcess, until: string, linger: number, limitMs: number): Promise<RunResult> {
  const from = performance.now();
  return new Promise((resolve) => {
    const log = new GuestLog();
    const decoder = new TextDecoder();
    let seen = '';
    let errors = '';
    let markMs: number | null = null;
    let resident = 0;
    let problem = '';
    const look = (): void => {
      try {
        resident = residentMib(child.pid ?? 0);
      } catch {
        // It has ended already.
      }
    };
    const timer = setTimeout(() => {
      problem = `no end after ${limitMs / 1000} s${log.running === '' ? '' : `, in ${log.running}`}`;
      child.kill('SIGKILL');
    }, limitMs);
    const isOurs = child.spawnargs.some((a) => a.endsWith('hyve-child.ts'));
    child.stdout?.on('data', (bytes: Buffer) => {
      const now = performance.now();
      const text = decoder.decode(bytes, { stream: true });
      log.feed(text, now - from);
      if (markMs !== null) return;
      seen = (seen + text).slice(-4096);
      if (!seen.includes(until)) return;
      markMs = now - from;
      look();
      const end = (): void => {
        if (linger > 0) look();
        // Ours ends by itself, with its counters.
        if (!isOurs) child.kill('SIGKILL');
      };
      if (linger > 0) setTimeout(end, linger);
      else end();
    });
    child.stderr?.on('data', (bytes: Buffer) => {
      errors = (errors + bytes.toString()).slice(-8192);
    });
    child.on('error', (e) => {
      problem = e.message;
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (markMs === null && problem === '')
        problem = `ended (${signal ?? code}) before "${until}": ${errors.trim().split('\n').slice(-3).join(' | ')}`;
      let counters: Record<string, number> = {};
      const json = errors.split('\n').find((l) => l.startsWith('{"counters"'));
      if (json !== undefined) counters = (JSON.parse(json) as { counters: Record<string, number> }).counters;
      resolve({ log, markMs, residentMib: resident, counters, problem });
    });
  });
}
