// Runs a machine in this process: files and terminal in, exit status out. The board is @hyve/pc, loaded on demand; this
// file sees it only through the interfaces below, so that tests bring their own.
import { closeSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { type CharBackend, isHyveError, type Logger } from '@hyve/core';
import type { BoardSupport, MachineSpec } from '@hyve/pc';
import { DEFAULT_SUPPORT } from './devices.ts';
import { errorLine, exitStatusOf, notBuilt, runError } from './errors.ts';
import { formatBytes } from './sizes.ts';
import { NullChar, openPath, Terminal, type TerminalInput } from './terminal.ts';

/** A character device the board asks for. */
export interface CharRequest {
  /** Who asks: `com1`, `0:4:0 uart`. */
  readonly name: string;
  /** Back end as written: `stdio`, `null`, `autopty`, a path; empty for not connected. */
  readonly backend: string;
}

/** What the board asks of the process it runs in. */
export interface PcHost {
  /** Opens the host's end of a character device. */
  openChar(request: CharRequest): Promise<CharBackend>;
  /** The whole of a file. Rejects with a HyveError naming it. */
  readFile(path: string): Promise<Uint8Array>;
  /** Where the board reports to. */
  readonly log: Logger;
  /** Host time for the RTC. */
  readonly wallClock: {
    /** Milliseconds since 1970 in UTC. */
    nowMs(): number;
    /** Minutes that local time is ahead of UTC now. */
    offsetMinutes(): number;
  };
}

/** Why a machine stopped. */
export type StopReason = 'reset' | 'poweroff' | 'halt' | 'triple-fault' | 'error';

/** A machine that is built and has not run yet. */
export interface Pc {
  /** Runs until the guest stops; never rejects for anything the guest does. */
  run(): Promise<StopReason>;
  /** Presses the ACPI power button. False: the guest does not listen to it. */
  powerButton(): boolean;
  /** Ends {@link Pc.run} soon with `poweroff`. */
  forceOff(): void;
  /** Lets go of everything; also closes character back ends. */
  close(): Promise<void>;
  /** Counters for --stats. */
  stats(): Readonly<Record<string, number>>;
}

/** The board's constructor. */
export type CreatePc = (spec: MachineSpec, host: PcHost) => Promise<Pc>;

/** What this program uses of `@hyve/pc`. */
export interface Board {
  /** Builds a machine. */
  readonly createPc: CreatePc;
  /** What it can build. */
  readonly support: BoardSupport;
}

/** Loads the board. @throws CLI_NOT_BUILT when this installation has none */
export async function loadBoard(): Promise<Board> {
  const module = (await import('@hyve/pc')) as { createPc?: CreatePc; boardSupport?: BoardSupport };
  const support = module.boardSupport ?? DEFAULT_SUPPORT;
  const createPc: CreatePc =
    module.createPc ??
    (() => {
      throw notBuilt('the board (@hyve/pc createPc)');
    });
  return { createPc, support };
}

/** bhyve(8)'s exit status of a stopped machine: 0 reset, 1 power-off, 2 halt, 3 triple fault, 4 error. */
export function exitStatus(reason: StopReason): number {
  switch (reason) {
    case 'reset':
      return 0;
    case 'poweroff':
      return 1;
    case 'halt':
      return 2;
    case 'triple-fault':
      return 3;
    case 'error':
      return 4;
  }
}

/** What a signal should do. */
export type SignalAction = 'power-button' | 'kill' | 'type-ctrl-c';

/**
 * Decides what signals mean. SIGTERM and SIGHUP press the power button, the second of either ends the process. SIGINT
 * is the guest's Ctrl-C while the terminal is raw, else it counts like SIGTERM.
 */
export class SignalPolicy {
  private pressed = false;

  /** @param raw whether the terminal belongs to the guest */
  decide(signal: 'SIGTERM' | 'SIGHUP' | 'SIGINT', raw: boolean): SignalAction {
    if (signal === 'SIGINT' && raw) return 'type-ctrl-c';
    if (this.pressed) return 'kill';
    this.pressed = true;
    return 'power-button';
  }
}

/** A pid file that exists while the machine runs. */
export class PidFile {
  private readonly path: string;
  private held = true;

  private constructor(path: string) {
    this.path = path;
  }

  /** Creates it. @throws CLI_RUN when it exists or cannot be written */
  static create(path: string, pid: number): PidFile {
    let fd: number;
    try {
      fd = openSync(path, 'wx', 0o644);
    } catch (e) {
      if (isErrno(e, 'EEXIST')) {
        throw runError(`-F ${path}: the pid file exists already${heldBy(path)}`);
      }
      throw runError(`-F ${path}: ${fileReason(e)}`, e);
    }
    try {
      writeSync(fd, `${pid}\n`);
    } finally {
      closeSync(fd);
    }
    return new PidFile(path);
  }

  /** Removes it, once. */
  remove(): void {
    if (!this.held) return;
    this.held = false;
    try {
      unlinkSync(this.path);
    } catch {
      // Somebody else has removed it.
    }
  }
}

function heldBy(path: string): string {
  try {
    const text = readFileSync(path, 'utf8').slice(0, 20).trim();
    return /^\d+$/u.test(text) ? ` (process ${text})` : '';
  } catch {
    return '';
  }
}

function isErrno(e: unknown, code: string): boolean {
  return typeof e === 'object' && e !== null && 'code' in e && e.code === code;
}

/** What is wrong with a file, in words. */
export function fileReason(e: unknown): string {
  if (isErrno(e, 'ENOENT')) return 'no such file';
  if (isErrno(e, 'EACCES')) return 'permission denied';
  if (isErrno(e, 'EISDIR')) return 'is a directory';
  return e instanceof Error ? e.message : String(e);
}

/** @throws CLI_RUN when the machine wants more memory than the host has */
export function checkHostMemory(spec: MachineSpec, hostBytes: number): void {
  if (spec.memoryBytes > hostBytes)
    throw runError(`-m: ${formatBytes(spec.memoryBytes)} is more than this host has (${formatBytes(hostBytes)})`);
}

/** Memory this process may use at most, bytes: the host's, or a container's limit below it. */
export function hostMemoryBytes(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

/** Process-wide things a run touches; tests bring their own. */
export interface RunIo {
  /** The terminal or pipe the guest's `stdio` port reads. */
  readonly input: TerminalInput;
  /** Where the `stdio` port writes. */
  readonly output: NodeJS.WritableStream & import('node:stream').Writable;
  /** Prints one line for the user on stderr. */
  note(line: string): void;
}

/** The process's own standard streams. */
export function processIo(): RunIo {
  return {
    input: process.stdin,
    output: process.stdout,
    note: (line) => void process.stderr.write(`${line}\r\n`.replace('\r\n', process.stdin.isRaw ? '\r\n' : '\n')),
  };
}

/** Options of {@link runMachine}. */
export interface RunOptions {
  /** The board. */
  readonly board: Board;
  /** Streams. */
  readonly io: RunIo;
  /** Prints counters at the end. */
  readonly stats?: boolean;
  /** Opens character devices in place of the terminal; null result falls through to the usual ones. */
  readonly openChar?: (request: CharRequest) => CharBackend | null;
  /** Bytes the host can give; default the host's memory. */
  readonly hostBytes?: number;
  /** Told the machine once it is built. */
  readonly onPc?: (pc: Pc) => void;
}

const SIGNALS = ['SIGTERM', 'SIGHUP', 'SIGINT'] as const;

/**
 * Builds the machine, runs it and cleans up: terminal restored, pid file removed, signal handlers gone.
 * @returns the process's exit status; errors are printed as one line and give 4 (1 for what is not built)
 */
export async function runMachine(spec: MachineSpec, options: RunOptions): Promise<number> {
  const { io } = options;
  const policy = new SignalPolicy();
  let terminal: Terminal | null = null;
  let pid: PidFile | null = null;
  let pc: Pc | null = null;
  let status = 4;
  let stopAsked = false;
  let reportFatal: (e: unknown) => void = () => {};
  const fatal = new Promise<never>((_, reject) => {
    reportFatal = reject;
  });
  fatal.catch(() => {});

  const putBack = (): void => {
    terminal?.restore();
    pid?.remove();
  };
  const act = (signal: (typeof SIGNALS)[number]): void => {
    switch (policy.decide(signal, terminal?.raw === true)) {
      case 'type-ctrl-c':
        terminal?.inject(Uint8Array.of(3));
        return;
      case 'power-button':
        stopAsked = true;
        if (pc !== null && !pc.powerButton())
          io.note('xhyve: the guest does not listen to the power button; a second signal ends it');
        return;
      case 'kill':
        putBack();
        // The default action of SIGTERM ends every thread at once, whatever they are blocked in.
        for (const s of SIGNALS) process.removeAllListeners(s);
        process.kill(process.pid, 'SIGTERM');
        setTimeout(() => process.kill(process.pid, 'SIGKILL'), 500);
    }
  };
  const onSignal = Object.fromEntries(SIGNALS.map((s) => [s, () => act(s)])) as Record<string, () => void>;
  const onContinue = (): void => terminal?.takeRaw();
  const onUncaught = (e: unknown): void => reportFatal(e);

  const openChar = async (request: CharRequest): Promise<CharBackend> => {
    const own = options.openChar?.(request) ?? null;
    if (own !== null) return own;
    const parts = request.backend.split(',').filter((p) => p !== '');
    if (parts.length > 1) throw notBuilt(`${request.name}: the back end '${request.backend}'`);
    const backend = parts[0] ?? 'null';
    if (backend === 'null') return new NullChar();
    if (backend === 'stdio') {
      terminal = new Terminal({
        input: io.input,
        output: io.output,
        onLeave: () => pc?.forceOff(),
        onGone: () => act('SIGHUP'),
      });
      return terminal;
    }
    if (/^(autopty|tcp=|log=|asl$)/u.test(backend)) throw notBuilt(`${request.name}: the back end '${backend}'`);
    return openPath(backend);
  };

  for (const s of SIGNALS) process.on(s, onSignal[s] as () => void);
  process.on('SIGCONT', onContinue);
  process.on('exit', putBack);
  process.on('uncaughtException', onUncaught);
  process.on('unhandledRejection', onUncaught);
  try {
    checkHostMemory(spec, options.hostBytes ?? hostMemoryBytes());
    if (spec.pidfile !== null) pid = PidFile.create(spec.pidfile, process.pid);
    const built = await options.board.createPc(spec, {
      openChar,
      readFile: async (path) => {
        try {
          return await readFile(path);
        } catch (e) {
          throw runError(`${path}: ${fileReason(e)}`, e);
        }
      },
      log: {
        on: false,
        debug: () => {},
        info: (m) => io.note(`xhyve: ${m}`),
        warn: (m) => io.note(`xhyve: warning: ${m}`),
      },
      wallClock: { nowMs: () => Date.now(), offsetMinutes: () => -new Date().getTimezoneOffset() },
    });
    pc = built;
    options.onPc?.(built);
    if (stopAsked) built.forceOff(); // a signal came while the machine was being built
    status = exitStatus(await Promise.race([built.run(), fatal]));
    if (options.stats === true) {
      putBack();
      for (const [name, value] of Object.entries(built.stats())) io.note(`${name} ${value}`);
    }
  } catch (e) {
    putBack();
    io.note(errorLine(e));
    status = isHyveError(e) ? exitStatusOf(e) : 4;
  } finally {
    await pc?.close().catch((e: unknown) => io.note(errorLine(e)));
    await (terminal as Terminal | null)?.close();
    putBack();
    for (const s of SIGNALS) process.off(s, onSignal[s] as () => void);
    process.off('SIGCONT', onContinue);
    process.off('exit', putBack);
    process.off('uncaughtException', onUncaught);
    process.off('unhandledRejection', onUncaught);
  }
  return status;
}
