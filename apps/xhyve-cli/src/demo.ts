// `npm run demo`: a real Linux in this terminal, or, without a terminal, the proof that one boots.
import type { CharBackend } from '@hyve/core';
import { parseArgs } from './args.ts';
import { errorLine, exitStatusOf, runError } from './errors.ts';
import { stderrSink } from './images/command.ts';
import { ProgressDisplay, type PulledImage, pullImage } from './images/index.ts';
import { resolveMachine } from './machine.ts';
import { type Board, loadBoard, processIo, type RunIo, runMachine } from './run.ts';

/** What {@link demo} touches outside. */
export interface DemoHost {
  /** Prints a line on stdout. */
  print(line: string): void;
  /** Streams and terminal. */
  readonly io: RunIo;
  /** Whether somebody sits at the keyboard. */
  readonly interactive: boolean;
  /** Rows and columns of the terminal; null when unknown. */
  readonly size: { readonly rows: number; readonly columns: number } | null;
  /** Loads the board. */
  loadBoard(): Promise<Board>;
  /** Brings the guest. */
  pull(): Promise<PulledImage>;
  /** Milliseconds the guest gets from start to power-off when nobody watches. */
  readonly limitMs: number;
}

/** The real process. */
export function demoProcessHost(): DemoHost {
  const rows = process.stdout.rows;
  const columns = process.stdout.columns;
  return {
    print: (line) => void process.stdout.write(`${line}\n`),
    io: processIo(),
    interactive: process.stdin.isTTY === true,
    size: rows > 0 && columns > 0 ? { rows, columns } : null,
    loadBoard,
    pull: async () => {
      const display = new ProgressDisplay(stderrSink());
      try {
        return await pullImage('debian-cloud', { onProgress: (p) => display.report(p) });
      } finally {
        display.finish();
      }
    },
    limitMs: 180_000,
  };
}

/** The command line of the demo's machine, without the program's name. */
export function demoArgs(image: PulledImage, size: DemoHost['size']): string[] {
  const { kernel, initrd } = image.paths;
  // A kernel that panics has nothing more to say: it resets at once instead of waiting for somebody to look.
  // Words the kernel does not know become the first process's environment; that is how the shell learns the size.
  const window = size === null ? '' : ` LINES=${size.rows} COLUMNS=${size.columns}`;
  return [
    ...['-A', '-u', '-m', image.manifest.memory, '-s', '0:0,hostbridge', '-s', '31,lpc', '-l', 'com1,stdio'],
    ...['-f', `kexec,${kernel},${initrd ?? ''},${image.manifest.cmdline ?? ''} panic=-1${window}`],
    'demo',
  ];
}

/** Runs the demo. @returns 0 when the guest booted and went down in order, else a failure's status after one line */
export async function demo(host: DemoHost = demoProcessHost()): Promise<number> {
  try {
    const image = await host.pull();
    const board = await host.loadBoard();
    const invocation = parseArgs(demoArgs(image, host.size), { readText: () => '' });
    if (invocation.kind !== 'run') throw runError('the demo has no machine');
    const spec = resolveMachine(invocation, board.support);
    return await (host.interactive ? attended(host, board, spec) : unattended(host, board, spec));
  } catch (e) {
    host.io.note(errorLine(e));
    return exitStatusOf(e);
  }
}

type Spec = ReturnType<typeof resolveMachine>;

async function attended(host: DemoHost, board: Board, spec: Spec): Promise<number> {
  host.print('Starting Linux. The way out: type poweroff, or press Ctrl-] and then x.');
  const panic = new PanicWatch();
  const status = await runMachine(spec, { board, io: host.io, notice: null, watch: (b) => panic.look(b) });
  if (panic.seen) {
    host.io.note('xhyve: demo: the guest’s kernel panicked; its last words are above');
    return 4;
  }
  // Powered off or rebooted: both are what the user asked for.
  return status <= 1 ? 0 : status;
}

async function unattended(host: DemoHost, board: Board, spec: Spec): Promise<number> {
  const guest = new ScriptedConsole(['uname -a', 'poweroff']);
  let stop: () => void = () => {};
  let late = false;
  const limit = setTimeout(() => {
    late = true;
    stop();
  }, host.limitMs);
  host.print('Starting Linux; nobody is at the keyboard, so it will say who it is and power off.');
  const started = performance.now();
  const status = await runMachine(spec, {
    board,
    io: host.io,
    openChar: (request) => (request.backend === 'stdio' ? guest : null),
    onPc: (pc) => {
      stop = () => pc.forceOff();
    },
  });
  clearTimeout(limit);
  const answer = guest.answers[0];
  if (answer !== undefined) host.print(answer);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  if (!late && status === 1 && answer !== undefined && answer !== '') {
    host.print(`The guest booted, answered and powered off in ${seconds} s.`);
    return 0;
  }
  for (const line of guest.tail(15)) host.io.note(`guest: ${line}`);
  const what = guest.panicked
    ? 'the guest’s kernel panicked'
    : answer === undefined
      ? 'no shell prompt came'
      : 'the guest did not power off';
  host.io.note(`xhyve: demo: ${what} in ${seconds} s${late ? ', the time limit' : ` (status ${status})`}`);
  return status === 0 || status === 1 ? 4 : status;
}

/** How much of the guest's output is kept, characters. */
const KEPT = 1 << 16;
/** The prompt of our guests: the directory and a hash sign, alone on the last line. */
const PROMPT = /(^|\n)(~|\/\S*) # $/u;

/** Colours, cursor movement and the terminal's queries, which say nothing in plain text. */
const ESCAPES = /\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b[@-Z\\-_a-z]/gu;

/** Finds a Linux kernel's last words in a stream of output. */
export class PanicWatch {
  /** Whether they have come. */
  seen = false;
  private readonly decoder: InstanceType<typeof TextDecoder> = new TextDecoder('latin1');
  private tail = '';

  /** Looks at the next piece. */
  look(bytes: Uint8Array): void {
    if (this.seen) return;
    const text = this.tail + this.decoder.decode(bytes);
    this.seen = text.includes(PANIC);
    this.tail = text.slice(-PANIC.length);
  }
}

const PANIC = 'Kernel panic - not syncing';

/** A console with a script at the keyboard: each line is typed when the guest shows a shell prompt. */
export class ScriptedConsole implements CharBackend {
  /** What the guest printed in answer to each line so far, without echo and prompt. */
  readonly answers: string[] = [];
  onData: ((bytes: Uint8Array) => void) | null = null;
  onDrain: (() => void) | null = null;
  private readonly panic: PanicWatch = new PanicWatch();
  private readonly script: readonly string[];
  private readonly decoder: InstanceType<typeof TextDecoder> = new TextDecoder();
  private typed = 0;
  private text = '';
  /** Where the answer to the line typed last begins in `text`, or -1. */
  private answerAt = -1;

  /** @param script lines without newline */
  constructor(script: readonly string[]) {
    this.script = script;
  }

  /** Whether the guest's kernel has panicked. */
  get panicked(): boolean {
    return this.panic.seen;
  }

  write(bytes: Uint8Array): boolean {
    this.panic.look(bytes);
    this.text += this.decoder.decode(bytes, { stream: true });
    // A UART sends byte by byte and mostly the kernel's log: only what may end a prompt is worth a look. A line editor
    // follows its prompt with a question for the cursor's place, which ends in n.
    const last = bytes[bytes.length - 1];
    if ((last === 0x20 || last === 0x6e) && /(# |\[6n)$/u.test(this.text.slice(-8))) this.look();
    if (this.text.length > KEPT) {
      const cut = this.text.length - KEPT / 2;
      this.text = this.text.slice(cut);
      if (this.answerAt >= 0) this.answerAt = Math.max(0, this.answerAt - cut);
    }
    return true;
  }

  setFlow(_paused: boolean): void {}

  async close(): Promise<void> {}

  /** The last lines the guest printed. */
  tail(lines: number): string[] {
    return plainText(this.text)
      .split('\n')
      .filter((l) => l.trim() !== '')
      .slice(-lines);
  }

  private look(): void {
    const since = this.answerAt < 0 ? Math.max(0, this.text.length - 1000) : this.answerAt;
    const plain = plainText(this.text.slice(since));
    if (!PROMPT.test(plain)) return;
    if (this.answerAt >= 0) {
      const rows = plain.split('\n');
      // The first row is the echo of what was typed, the last is the prompt. A prompt alone is the echo to come.
      if (rows.length < 2) return;
      this.answers.push(rows.slice(1, -1).join('\n').trim());
    }
    const line = this.script[this.typed];
    this.answerAt = this.text.length;
    if (line === undefined) return;
    this.typed++;
    // Not from within write(): the guest's output register is being written right now.
    setTimeout(() => this.onData?.(new TextEncoder().encode(`${line}\n`)), 0);
  }
}

function plainText(text: string): string {
  return text.replace(ESCAPES, '').replaceAll('\r', '');
}

if (import.meta.main) {
  const status = await demo();
  process.exitCode = status;
  // Nothing should keep the process now; whatever does gets two seconds.
  setTimeout(() => process.exit(status), 2000).unref();
}
