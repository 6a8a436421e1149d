// Starts the programs that stages are made of.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The repository. */
export const ROOT: string = join(import.meta.dirname, '../../..');

/** The pinned package manager, as a command. */
export function pnpm(): string[] {
  const { packageManager } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { packageManager: string };
  return ['npx', '-y', packageManager];
}

/** How a program ended. */
export interface Ended {
  /** Exit status, or 128 plus the signal's number; 124 when its time was up. */
  readonly status: number;
  /** What it printed, both streams, when it was captured; else empty. */
  readonly output: string;
}

/** Options of {@link run}. */
export interface RunOptions {
  /** Minutes until it is killed. */
  readonly minutes: number;
  /** Keeps the output instead of showing it. */
  readonly capture?: boolean;
  readonly env?: Readonly<Record<string, string>>;
}

/** Runs a program from node_modules/.bin or PATH, without stdin, and everything it starts in a group of its own. */
export function run(words: readonly string[], o: RunOptions): Promise<Ended> {
  const [program, ...args] = words as [string, ...string[]];
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      cwd: ROOT,
      stdio: ['ignore', o.capture === true ? 'pipe' : 'inherit', o.capture === true ? 'pipe' : 'inherit'],
      env: { ...process.env, ...o.env },
      detached: true,
    });
    let output = '';
    let late = false;
    for (const s of [child.stdout, child.stderr]) s?.on('data', (d) => (output += d));
    const kill = (): void => {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      } catch {
        // Gone already.
      }
    };
    const onSignal = (): void => {
      kill();
      process.exit(130);
    };
    for (const s of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(s, onSignal);
    const timer = setTimeout(() => {
      late = true;
      console.error(`${words.join(' ')}: still running after ${o.minutes} minutes; stopped`);
      kill();
    }, o.minutes * 60_000);
    const end = (status: number): void => {
      clearTimeout(timer);
      for (const s of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(s, onSignal);
      resolve({ status: late ? 124 : status, output });
    };
    child.on('error', (e) => {
      output += e.message;
      if (o.capture !== true) console.error(`${program}: ${e.message}`);
      end(127);
    });
    child.on('close', (code, signal) => end(signal === null ? (code ?? 1) : 137));
  });
}
