// Runs a machine in this process: files and consoles in, exit status out. The board is @hyve/pc, loaded on demand; this
// file sees it through a few interfaces, so that tests bring their own.
import { closeSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { flushCompileCache } from 'node:module';
import { availableParallelism, totalmem } from 'node:os';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { openCharBackend } from '@hyve/char-backends';
import { type CharBackend, type Hypervisor, isHyveError, type Logger } from '@hyve/core';
import { threadClock } from '@hyve/hv-native/thread';
import type { KernelCompression } from '@hyve/loaders';
import type { BoardSupport, CharRequest, Drives, MachineSpec, PcHost, StopReason } from '@hyve/pc';
import { codeCache } from './code-cache.ts';
import { ControlServer } from './control.ts';
import { DiskReads } from './disk-reads.ts';
import { errorLine, exitStatusOf, runError } from './errors.ts';
import { KernelCache } from './kernel-cache.ts';
import { startProfile, TraceFile, watchRates } from './observe.ts';
import { lowerCompilers } from './priority.ts';
import { formatBytes } from './sizes.ts';
import { nodeThreads } from './threads.ts';
import { guestWords, translationPlace } from './translations.ts';
import { userCache } from './user-cache.ts';
import { CompileSettings } from './v8-settings.ts';

/** A machine that is built and has not run yet: what this program uses of `@hyve/pc`'s Pc. */
export interface RunnablePc {
  /** Runs until the guest stops. */
  run(): Promise<StopReason>;
  /** Presses the ACPI power button. False: the guest does not listen to it. */
  powerButton(): boolean;
  /** Ends {@link RunnablePc.run} soon with `poweroff`. */
  forceOff(): void;
  /** Lets go of everything; also closes character back ends. */
  close(): Promise<void>;
  /** Counters for --stats. */
  stats(): Readonly<Record<string, number>>;
  /** Linear addresses where the processors are, null for one that sleeps; for --profile. */
  positions?(): readonly (bigint | null)[];
  /** What went wrong after `error` or `triple-fault`. */
  readonly detail?: string;
  /** Stops processors, time and devices; for --control, as the rest. */
  pause?(): Promise<void>;
  /** Goes on. */
  resume?(): void;
  /** The reset button. */
  reset?(): Promise<void>;
  /** Disks and CD drives. */
  readonly drives?: Pick<Drives, 'list' | 'eject' | 'change' | 'resize'>;
}

/** What this program uses of the `@hyve/pc` module. */
export interface Board {
  /** Builds a machine. */
  readonly createPc: (spec: MachineSpec, host: PcHost) => Promise<RunnablePc>;
  /** What it can build. */
  readonly support: BoardSupport;
  /** Whether a machine gets a translator's thread on a host that runs so many threads at the same time. */
  readonly hasTranslatorThread: (spec: MachineSpec, cores: number) => boolean;
}

/** Loads the board. */
export async function loadBoard(): Promise<Board> {
  const { boardSupport, createPc, hasTranslatorThread } = await import('@hyve/pc');
  // bin/xhyve.js keeps compiled code between runs; a run that is killed should leave it too.
  setTimeout(flushCompileCache, 3000).unref();
  return { createPc, support: boardSupport, hasTranslatorThread };
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

/** What runs the processors: the spec with `auto` decided, and the engines that the board gets. */
export interface EngineChoice {
  readonly spec: MachineSpec;
  readonly engines: Readonly<Record<string, () => Hypervisor>>;
  /** Why `auto` took the software CPU and how to change that; one line, or empty. */
  readonly note: string;
  /** For engines that run in the kernel on this thread: makes the second SIGTERM that nobody answers end the process. */
  readonly guard?: () => () => void;
}

/** Decides `--engine auto`: KVM where it can run an operating system, else the software CPU. */
export async function chooseEngine(spec: MachineSpec, support: BoardSupport): Promise<EngineChoice> {
  const plain = { spec, engines: {}, note: '' };
  if (spec.engine === 'soft' || !support.engines.includes('kvm')) return plain;
  // Only the software CPU counts instructions.
  if (spec.engine === 'auto' && spec.clock.mode === 'virtual') return plain;
  const { guardSignal, KvmHypervisor, probeKvm } = await import('@hyve/hv-native');
  const guard = (): (() => void) => guardSignal('SIGTERM');
  const engines = { kvm: () => new KvmHypervisor({ paravirtual: spec.paravirtual ?? 'none' }) };
  if (spec.engine === 'kvm') return { spec, engines, note: '', guard };
  const { usable, reason } = probeKvm();
  if (usable) return { spec: { ...spec, engine: 'kvm' }, engines, note: '', guard };
  return { ...plain, note: `running on the software CPU: ${reason} (--engine soft leaves this line out)` };
}

/** Something outside that wants the machine's attention. `gone`: the terminal went away. */
export type Interruption = 'SIGTERM' | 'SIGHUP' | 'SIGINT' | 'gone';

/** What an interruption should do. `hang-up` presses the power button and does not take no for an answer. */
export type SignalAction = 'power-button' | 'hang-up' | 'kill' | 'type-ctrl-c' | 'nothing';

/**
 * Decides what interruptions mean. SIGTERM and SIGHUP press the power button, the second one ends the process. SIGINT is
 * the guest's Ctrl-C while the terminal is raw, else it counts like SIGTERM. A terminal that goes away hangs up; the
 * SIGHUP that usually comes with it does not count as a second signal.
 */
export class SignalPolicy {
  private pressed = false;
  private gone = false;

  /** @param raw whether the terminal belongs to the guest */
  decide(what: Interruption, raw: boolean): SignalAction {
    if (what === 'gone') {
      const first = !this.pressed;
      this.gone = true;
      return first ? 'hang-up' : 'nothing';
    }
    if (what === 'SIGINT' && raw) return 'type-ctrl-c';
    if (this.pressed) return 'kill';
    this.pressed = true;
    if (what !== 'SIGHUP') return 'power-button';
    return this.gone ? 'nothing' : 'hang-up';
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
      if (isErrno(e, 'EEXIST')) throw runError(`-F ${path}: the pid file exists already${heldBy(path)}`);
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
  /** Prints one line for the user on stderr. */
  note(line: string): void;
  /** Whether the terminal is raw: Ctrl-C belongs to the guest. */
  isRaw(): boolean;
  /** Puts the terminal back. Synchronous, harmless twice, never throws. */
  restoreTerminal(): void;
}

/** The process's own terminal and stderr. */
export function processIo(): RunIo {
  return {
    // In raw mode a newline alone does not return the carriage.
    note: (line) => void process.stderr.write(`${line}${process.stdin.isRaw === true ? '\r' : ''}\n`),
    isRaw: () => process.stdin.isRaw === true,
    restoreTerminal: () => {
      try {
        if (process.stdin.isRaw === true) process.stdin.setRawMode(false);
      } catch {
        // The terminal is gone: nothing to put back.
      }
    },
  };
}

/** Options of {@link runMachine}. */
export interface RunOptions {
  /** The board. */
  readonly board: Board;
  /** The process. */
  readonly io: RunIo;
  /** Prints counters at the end, and rates every so many seconds unless that is 0. Null: neither. */
  readonly stats?: number | null;
  /** File for the text of guest blocks. */
  readonly trace?: string | null;
  /** File for a profile of the guest. */
  readonly profile?: string | null;
  /** File with names for the profile. */
  readonly symbols?: string | null;
  /** Path of a socket that takes commands while the machine runs. */
  readonly control?: string | null;
  /** Opens character devices in place of the usual ones; null falls through to those. */
  readonly openChar?: (request: CharRequest) => CharBackend | null;
  /** Says the way out when the terminal goes raw; default a line on stderr, null for none. */
  readonly notice?: ((line: string) => void) | null;
  /** Bytes the host can give; default the host's memory. */
  readonly hostBytes?: number;
  /** Threads the host can run at the same time; default what Node says. */
  readonly cores?: number;
  /** Told the machine once it is built. */
  readonly onPc?: (pc: RunnablePc) => void;
  /** Told what the guest prints on the console that is stdio; the bytes are valid during the call. */
  readonly watch?: (bytes: Uint8Array) => void;
  /** Milliseconds a guest gets to shut down after a hang-up before it is forced; default 30 s. */
  readonly hangUpMs?: number;
}

const SIGNALS = ['SIGTERM', 'SIGHUP', 'SIGINT'] as const;

/** Ends the process for certain: the default action of SIGTERM takes every thread, whatever it is blocked in. */
function endProcess(): void {
  for (const s of SIGNALS) process.removeAllListeners(s);
  process.kill(process.pid, 'SIGTERM');
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), 500);
}

/**
 * Builds the machine, runs it and cleans up: terminal restored, pid file removed, signal handlers gone.
 * @returns the process's exit status; errors are printed as one line and give 4 (1 for what is not built)
 */
export async function runMachine(spec: MachineSpec, options: RunOptions): Promise<number> {
  const { io } = options;
  const policy = new SignalPolicy();
  const run: {
    pid: PidFile | null;
    pc: RunnablePc | null;
    console: CharBackend | null;
    reads: DiskReads | null;
    stop: boolean;
  } = {
    reads: null,
    pid: null,
    pc: null,
    console: null,
    stop: false,
  };
  let grace: NodeJS.Timeout | undefined;
  let reportFatal: (e: unknown) => void = () => {};
  const fatal = new Promise<never>((_, reject) => {
    reportFatal = reject;
  });
  fatal.catch(() => {});

  const putBack = (): void => {
    io.restoreTerminal();
    run.pid?.remove();
  };
  let answered: () => void = () => {};
  const act = (what: Interruption): void => {
    answered();
    const action = policy.decide(what, io.isRaw());
    switch (action) {
      case 'nothing':
        return;
      case 'type-ctrl-c':
        run.console?.onData?.(Uint8Array.of(3));
        return;
      case 'kill':
        putBack();
        endProcess();
        return;
      case 'power-button':
      case 'hang-up': {
        run.stop = true;
        if (run.pc === null) return;
        const heard = run.pc.powerButton();
        if (action === 'hang-up') {
          if (heard) grace = setTimeout(() => run.pc?.forceOff(), options.hangUpMs ?? 30_000);
          else run.pc.forceOff();
        } else if (!heard) io.note('xhyve: the guest does not listen to the power button; a second signal ends it');
      }
    }
  };
  const handlers = SIGNALS.map((s) => [s, () => act(s)] as const);
  const onUncaught = (e: unknown): void => reportFatal(e);

  const openChar = async (request: CharRequest): Promise<CharBackend> => {
    const own = options.openChar?.(request) ?? null;
    if (own !== null) return own;
    const isConsole = request.backend.split(',').includes('stdio');
    const backend = await openCharBackend(request.backend === '' ? 'null' : request.backend, {
      onEscape: () => run.pc?.forceOff(),
      notice: options.notice === undefined ? (line) => io.note(`xhyve: ${line}`) : options.notice,
      // Input that ends is a fact of life for a pipe; for a terminal it means that nobody is there any more.
      onEnd: () => {
        if (process.stdin.isTTY === true) act('gone');
      },
      onPty: (path) => io.note(`xhyve: ${request.name} connected to ${path}`),
    });
    if (isConsole) {
      run.console = backend;
      const { watch } = options;
      if (watch !== undefined) {
        const write = backend.write.bind(backend);
        backend.write = (bytes) => {
          watch(bytes);
          return write(bytes);
        };
      }
    }
    return backend;
  };

  for (const [s, h] of handlers) process.on(s, h);
  process.on('exit', putBack);
  process.on('uncaughtException', onUncaught);
  process.on('unhandledRejection', onUncaught);
  let status = 4;
  const observers: { stop(): void }[] = [];
  let control: ControlServer | null = null;
  try {
    checkHostMemory(spec, options.hostBytes ?? hostMemoryBytes());
    if (spec.pidfile !== null) run.pid = PidFile.create(spec.pidfile, process.pid);
    const trace = options.trace == null ? null : new TraceFile(options.trace);
    if (trace !== null) observers.push({ stop: () => trace.close() });
    const choice = await chooseEngine(spec, options.board.support);
    if (choice.note !== '') io.note(`xhyve: ${choice.note}`);
    try {
      answered = choice.guard?.() ?? answered;
    } catch {
      // Without the library the engine itself says why there is none.
    }
    lowerCompilers();
    const used = threadClock();
    const cores = options.cores ?? availableParallelism();
    // Without a translator's thread nothing is kept, and the kernel's place is new at each start.
    const keeps = options.board.hasTranslatorThread(choice.spec, cores);
    const translations = keeps ? translationPlace(choice.spec) : null;
    const placement = translations === null ? null : guestWords(translations);
    const settings = new CompileSettings();
    const code = codeCache(settings.lazily);
    const kernels = choice.spec.kernelCache === false ? null : new KernelCache(userCache('kernels'));
    const reads = cores > 1 ? new DiskReads() : null;
    run.reads = reads;
    const pc = await options.board.createPc(choice.spec, {
      engines: choice.engines,
      threads: nodeThreads(cores, translations, settings),
      ...(used === null ? {} : { threadCpuNs: used }),
      ...(reads === null ? {} : { work: reads }),
      ...(placement === null ? {} : { placement }),
      ...(code === null ? {} : { code }),
      openChar,
      openDisk: async ({ conf, extras }) => {
        const { openBlock, parseBlockSpec } = await import('@hyve/block-backends');
        const parsed = parseBlockSpec(conf, { extras });
        const helper = reads === null ? {} : { helper: await reads.forDisk() };
        const backend = await openBlock(parsed, { logger: logger(io), ...helper });
        return { backend, extras: parsed.extras, grow: (bytes) => backend.resize(bytes) };
      },
      readFile: async (path) => {
        try {
          return await readFile(path);
        } catch (e) {
          throw runError(`${path}: ${fileReason(e)}`, e);
        }
      },
      decompressKernel,
      ...(kernels === null ? {} : { unpackedKernels: kernels }),
      ...(trace === null ? {} : { trace: (text: string) => trace.add(text) }),
      log: logger(io),
      wallClock: { nowMs: () => Date.now(), offsetMinutes: () => -new Date().getTimezoneOffset() },
    });
    run.pc = pc;
    options.onPc?.(pc);
    if (run.stop) pc.forceOff(); // a signal came while the machine was being built
    if (options.control != null) control = await ControlServer.listen(options.control, pc);
    if (options.stats != null) observers.push(watchRates(pc, options.stats, (line) => io.note(line)));
    if (options.profile != null) observers.push(startProfile(pc, options.profile, options.symbols ?? null));
    const reason = await Promise.race([pc.run(), fatal]);
    status = exitStatus(reason);
    if ((reason === 'error' || reason === 'triple-fault') && pc.detail !== undefined && pc.detail !== '') {
      io.restoreTerminal();
      io.note(`xhyve: ${reason === 'error' ? '' : 'triple fault: '}${pc.detail}`);
    }
    if (options.stats != null) {
      io.restoreTerminal();
      for (const [name, value] of Object.entries(pc.stats())) io.note(`${name} ${value}`);
    }
  } catch (e) {
    putBack();
    io.note(errorLine(e));
    status = isHyveError(e) ? exitStatusOf(e) : 4;
  } finally {
    clearTimeout(grace);
    await control?.close();
    for (const o of observers) {
      try {
        o.stop();
      } catch (e) {
        io.note(errorLine(e));
      }
    }
    await (run.pc?.close() ?? run.console?.close())?.catch((e: unknown) => io.note(errorLine(e)));
    await run.reads?.close();
    putBack();
    for (const [s, h] of handlers) process.off(s, h);
    process.off('exit', putBack);
    process.off('uncaughtException', onUncaught);
    process.off('unhandledRejection', onUncaught);
  }
  return status;
}

/** What node:zlib adds to the forms that the loader unpacks itself. */
function decompressKernel(payload: Uint8Array, format: KernelCompression, size: number): Uint8Array | null {
  const options = { maxOutputLength: Math.max(1, size) };
  if (format === 'gzip') return gunzipSync(payload, options);
  if (format === 'zstd') return zstdDecompressSync(payload, options);
  return null;
}

function logger(io: RunIo): Logger {
  return {
    on: false,
    debug: () => {},
    info: (m) => io.note(`xhyve: ${m}`),
    warn: (m) => io.note(`xhyve: warning: ${m}`),
  };
}
