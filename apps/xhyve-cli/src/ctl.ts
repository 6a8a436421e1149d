// `xhyve ctl`: words in, a command to a machine's control socket, its answer out.
import { connect } from 'node:net';
import type { DriveInfo } from '@hyve/pc';
import type { ControlAnswer } from './control.ts';
import { runError, usageError } from './errors.ts';
import { formatBytes } from './sizes.ts';

const HELP = `Usage: xhyve ctl PATH COMMAND [ARGUMENTS]

Tells a machine that was started with --control PATH:
  info [--json]                  what drives it has, and whether it is paused
  eject DRIVE [--force]          take the medium out of a CD drive
  change DRIVE IMAGE [--force]   put another one in; IMAGE as in -s SLOT,ahci-cd,IMAGE
  resize DRIVE SIZE              make a disk's image larger: virtio-blk and nvme
  pause, resume                  stop and go on; guest time stands still meanwhile
  reset                          the reset button
  powerdown                      the power button
  quit                           end the machine at once
DRIVE is the slot of -s, such as 4 or 0:4:0, with .PORT behind it for the ports
of an ahci device. --force takes a medium from a guest that has locked the drive;
without it the guest is asked. Exit status: 0, or 1 and a line that says why not.`;

/** How long a machine may take for an answer, ms. */
const PATIENCE_MS = 30_000;
/** Characters of an answer at most. */
const MAX_ANSWER = 4 << 20;

/** What the command prints to. */
export interface CtlHost {
  /** Prints text on stdout; a newline is added. */
  print(text: string): void;
  /** Prints one line on stderr. */
  complain(line: string): void;
}

/** The command that words ask for, as the socket takes it. @throws CLI_USAGE */
export function ctlRequest(words: readonly string[]): Readonly<Record<string, unknown>> {
  const [command, ...more] = words;
  const flags = more.filter((w) => w.startsWith('--'));
  const args = more.filter((w) => !w.startsWith('--'));
  const takes = (usage: string, flag = ''): void => {
    const wanted = usage === '' ? 0 : usage.split(' ').length;
    const odd = flags.find((f) => f !== flag);
    if (odd !== undefined) throw usageError(`ctl ${command}: unknown option '${odd}'`);
    if (args.length !== wanted || args.includes(''))
      throw usageError(`ctl ${command}: ${usage === '' ? 'it takes nothing' : `${usage} expected`}`);
  };
  const force = flags.includes('--force') ? { force: true } : {};
  switch (command) {
    case 'info':
      takes('', '--json');
      return { command };
    case 'eject':
      takes('DRIVE', '--force');
      return { command, drive: args[0], ...force };
    case 'change':
      takes('DRIVE IMAGE', '--force');
      return { command, drive: args[0], image: args[1], ...force };
    case 'resize':
      takes('DRIVE SIZE');
      return { command, drive: args[0], size: args[1] };
    case 'pause':
    case 'resume':
    case 'reset':
    case 'powerdown':
    case 'quit':
      takes('');
      return { command };
    default:
      throw usageError(
        `ctl: ${command === undefined ? 'a command is missing' : `no command '${command}'`}; see xhyve ctl --help`,
      );
  }
}

/** Sends one command. @throws CLI_RUN when nobody answers */
export function askMachine(path: string, request: Readonly<Record<string, unknown>>): Promise<ControlAnswer> {
  return new Promise((resolve, reject) => {
    const s = connect(path);
    let text = '';
    const fail = (why: string): void => {
      s.destroy();
      reject(runError(`ctl ${path}: ${why}`));
    };
    s.setTimeout(PATIENCE_MS, () => fail('no answer'));
    s.on('connect', () => s.write(`${JSON.stringify(request)}\n`));
    s.on('error', (e: NodeJS.ErrnoException) =>
      fail(e.code === 'ENOENT' || e.code === 'ECONNREFUSED' ? 'no machine listens there' : e.message),
    );
    s.setEncoding('utf8');
    s.on('data', (d: string) => {
      text += d;
      const end = text.indexOf('\n');
      if (end < 0) {
        if (text.length > MAX_ANSWER) fail('an answer without end');
        return;
      }
      s.destroy();
      try {
        resolve(JSON.parse(text.slice(0, end)) as ControlAnswer);
      } catch {
        fail('an answer that is no JSON');
      }
    });
    s.on('close', () => fail('it closed the connection'));
  });
}

function table(drives: readonly DriveInfo[]): string[] {
  const rows = drives.map((d) => [
    d.name,
    d.device,
    d.image === null ? '-' : formatBytes(d.bytes),
    d.readOnly ? 'ro' : 'rw',
    d.image ?? 'empty',
  ]);
  const widths = [0, 1, 2, 3].map((i) => Math.max(0, ...rows.map((r) => (r[i] as string).length)));
  return rows.map((r) => r.map((c, i) => (i < 4 ? c.padEnd(widths[i] as number) : c)).join('  '));
}

/** Carries out `xhyve ctl …`. @returns the exit status @throws CLI_USAGE, CLI_RUN */
export async function ctl(words: readonly string[], host: CtlHost): Promise<number> {
  const [path, ...more] = words;
  if (words.includes('--help') || words.includes('-h')) {
    host.print(HELP);
    return 0;
  }
  if (path === undefined || path === '') throw usageError('ctl: the path of a socket is missing; see xhyve ctl --help');
  const request = ctlRequest(more);
  const answer = await askMachine(path, request);
  if (!answer.ok) {
    host.complain(`xhyve: ${answer.message.replace(/[\u0000-\u001f\u007f-\u009f]+/gu, ' ')}`);
    return 1;
  }
  if (more.includes('--json')) host.print(JSON.stringify(answer.result ?? null, null, 2));
  else if (request['command'] === 'info') {
    const info = answer.result as { readonly paused: boolean; readonly drives: readonly DriveInfo[] };
    host.print([info.paused ? 'paused' : 'running', ...table(info.drives)].join('\n'));
  } else if (request['command'] === 'powerdown' && !(answer.result as { readonly listens: boolean }).listens)
    host.complain('xhyve: the guest does not listen to the power button');
  return 0;
}
