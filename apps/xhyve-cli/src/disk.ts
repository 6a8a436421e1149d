// `xhyve disk`: the words go to @hyve/block-backends; here is only the terminal.
import { diskCommand } from '@hyve/block-backends/disk';

/** What the command prints to. */
export interface DiskHost {
  /** Prints text on stdout; a newline is added. */
  print(text: string): void;
  /** Prints one line on stderr. */
  complain(line: string): void;
}

/** Carries out `xhyve disk …`; progress of long work is shown on stderr. @returns the exit status */
export async function disk(words: readonly string[], host: DiskHost): Promise<number> {
  let shown = '';
  let open = false;
  return diskCommand(words, {
    print: host.print,
    complain: (line) => {
      if (open) process.stderr.write('\n');
      open = false;
      host.complain(line);
    },
    interactive: process.stderr.isTTY === true,
    progress: (done) => {
      if (done === null) {
        if (open) process.stderr.write('\n');
        open = false;
        return;
      }
      const text = `${(done * 100).toFixed(1)}%`;
      if (text === shown) return;
      shown = text;
      open = true;
      process.stderr.write(`\r${text.padStart(7)}`);
    },
  });
}
