// A guest as its user sees it: the program in a process of its own, keys in, screen out, exit status at the end.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { join } from 'node:path';

const PROGRAM = join(import.meta.dirname, '../../bin/xhyve.js');

/** The prompt of our initrd's shell; a line editor follows it with a question for the cursor's place. */
export const PROMPT: RegExp = /(?:~|\/\S*) # (?:\u001b\[6n)?$/u;

/** One running program. */
export class Guest {
  /** Everything it printed on stdout so far. */
  text = '';
  /** Everything it printed on stderr so far. */
  errors = '';
  /** Exit status, or the signal's name. */
  readonly ended: Promise<number | string>;
  private readonly child: ChildProcessWithoutNullStreams;
  private seen = 0;
  private changed: () => void = () => {};
  private over = false;

  constructor(command: string, args: readonly string[]) {
    const child = spawn(command, args, { stdio: 'pipe' });
    this.child = child;
    const take = (into: 'text' | 'errors') => (chunk: string) => {
      this[into] += chunk;
      this.changed();
    };
    child.stdout.setEncoding('latin1').on('data', take('text'));
    child.stderr.setEncoding('latin1').on('data', take('errors'));
    child.stdin.on('error', () => {}); // it may be gone before it reads
    this.ended = new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) => {
        this.over = true;
        this.changed();
        resolve(signal ?? code ?? -1);
      });
    });
    this.ended.catch(() => {});
  }

  /** Runs `xhyve` with these words. */
  static start(args: readonly string[]): Guest {
    return new Guest(process.execPath, [PROGRAM, ...args]);
  }

  /** Runs `xhyve` on a terminal of its own, that `script` keeps; `around` may wrap the shell line. */
  static onTerminal(args: readonly string[], around: (line: string) => string = (l) => l): Guest {
    const quoted = [process.execPath, PROGRAM, ...args].map((a) => `'${a.replaceAll("'", "'\\''")}'`).join(' ');
    return new Guest('script', ['-qefc', around(quoted), '/dev/null']);
  }

  /** Process id. */
  get pid(): number {
    return this.child.pid ?? -1;
  }

  /**
   * Waits for text that has not been waited for yet. @returns the match
   * @throws when the program ends first, or after `seconds`, with the screen's last lines
   */
  async expect(what: RegExp, seconds = 30): Promise<RegExpExecArray> {
    const until = performance.now() + seconds * 1000;
    for (;;) {
      const m = what.exec(this.text.slice(this.seen));
      if (m !== null) {
        this.seen += m.index + m[0].length;
        return m;
      }
      const left = until - performance.now();
      if (this.over || left <= 0) {
        const why = this.over ? 'the program ended' : `nothing in ${seconds} s`;
        throw new Error(`${why} waiting for ${what}; the screen:\n${this.tail(30)}\n${this.errors}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** Types. */
  send(keys: string): void {
    this.child.stdin.write(keys);
  }

  /** Types a line at the shell prompt. @returns what it printed, without echo */
  async run(line: string, seconds = 30): Promise<string> {
    this.send(`${line}\n`);
    const before = this.seen;
    await this.expect(new RegExp(PROMPT.source, 'u'), seconds);
    return plain(this.text.slice(before, this.seen)).split('\n').slice(1, -1).join('\n').trim();
  }

  /** Waits for the shell. */
  async prompt(seconds = 60): Promise<void> {
    await this.expect(PROMPT, seconds);
  }

  /** Closes its standard input. */
  hangUp(): void {
    this.child.stdin.end();
  }

  /** Sends a signal. */
  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Waits for the end. @throws after `seconds` */
  async status(seconds = 30): Promise<number | string> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`runs on after ${seconds} s:\n${this.tail(20)}`)), seconds * 1000);
    });
    try {
      return await Promise.race([this.ended, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends it for certain; for `finally`. */
  async end(): Promise<void> {
    if (!this.over) this.child.kill('SIGKILL');
    await this.ended;
  }

  /** The last lines on the screen. */
  tail(lines: number): string {
    return plain(this.text).split('\n').slice(-lines).join('\n');
  }
}

/** Text without escape sequences and carriage returns. */
export function plain(text: string): string {
  return text.replace(/\u001b\[[0-9;?]*[ -/]*[@-~]|\u001b[@-Z\\-_a-z]/gu, '').replaceAll('\r', '');
}
