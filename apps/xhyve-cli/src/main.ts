// The program: words in, exit status out. Only bin/xhyve.js calls it with the real process.
import { readFileSync } from 'node:fs';
import type { BoardSupport } from '@hyve/pc';
import { type Invocation, parseArgs, type RunInvocation } from './args.ts';
import { LPC_EMULATIONS, PCI_EMULATIONS } from './devices.ts';
import { errorLine, exitStatusOf } from './errors.ts';
import { helpText } from './help.ts';
import { describeMachine, machineJson, resolveMachine } from './machine.ts';
import { type Board, loadBoard, processIo, type RunIo, runMachine } from './run.ts';

/** Everything {@link main} touches outside. */
export interface MainHost {
  /** Prints text on stdout; a newline is added. */
  print(text: string): void;
  /** Prints one line on stderr. */
  complain(line: string): void;
  /** Reads a `-k` file. */
  readText(path: string): string;
  /** Loads the board. */
  loadBoard(): Promise<Board>;
  /** Streams of a running guest. */
  readonly io: RunIo;
}

/** The real process as {@link MainHost}. */
export function processHost(): MainHost {
  // A reader that has seen enough (`| head`) is no error.
  process.stdout.on('error', () => {});
  process.stderr.on('error', () => {});
  return {
    print: (text) => void process.stdout.write(`${text}\n`),
    complain: (line) => void process.stderr.write(`${line}\n`),
    readText: (path) => readFileSync(path, 'utf8'),
    loadBoard,
    io: processIo(),
  };
}

/** This package's version, from its package.json. */
export function version(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/**
 * Carries out a command line. Never rejects: every failure is one line on stderr and a status.
 * @param argv the words after the program's name
 * @returns exit status, as bhyve(8) gives it
 */
export async function main(argv: readonly string[], host: MainHost = processHost()): Promise<number> {
  try {
    if (argv[0] === 'disk') return (await import('./disk.ts')).disk(argv.slice(1), host);
    if (argv[0] === 'ctl') return await (await import('./ctl.ts')).ctl(argv.slice(1), host);
    const invocation = parseArgs(argv, host);
    return await carryOut(invocation, host);
  } catch (e) {
    host.complain(errorLine(e));
    return exitStatusOf(e);
  }
}

async function carryOut(invocation: Invocation, host: MainHost): Promise<number> {
  switch (invocation.kind) {
    case 'help':
      host.print(helpText(invocation.topic));
      return 0;
    case 'version':
      host.print(invocation.json ? JSON.stringify({ name: 'xhyve', version: version() }) : `xhyve ${version()}`);
      return 0;
    case 'list':
      list(invocation.what, invocation.json, host, (await host.loadBoard()).support);
      return 0;
    case 'pull': {
      const { pullCommand } = await import('./images/command.ts');
      return pullCommand(invocation, host);
    }
    case 'images': {
      const { imagesCommand } = await import('./images/command.ts');
      return imagesCommand(invocation, host);
    }
    case 'run':
      return run(invocation, host);
  }
}

function list(what: 'pci' | 'lpc', json: boolean, host: MainHost, support: BoardSupport): void {
  // A boot ROM is a loader to the board and a device to the command line.
  const rom = support.boot.includes('bootrom') ? ['bootrom'] : [];
  const names = what === 'pci' ? support.pci : [...rom, ...support.lpc];
  const rows = (what === 'pci' ? PCI_EMULATIONS : LPC_EMULATIONS).map((e) => ({
    name: e.name,
    about: e.about,
    supported: names.includes(e.name),
  }));
  if (json) {
    host.print(JSON.stringify(rows, null, 2));
    return;
  }
  for (const r of rows) if (r.supported) host.print(r.name);
  const later = rows.filter((r) => !r.supported).map((r) => r.name);
  if (later.length > 0) host.complain(`not built yet: ${later.join(' ')}`);
}

async function run(invocation: RunInvocation, host: MainHost): Promise<number> {
  if (invocation.config.bool('config.dump', false)) {
    const rows = invocation.config.entries();
    if (invocation.json) host.print(JSON.stringify(Object.fromEntries(rows), null, 2));
    else for (const [name, value] of rows) host.print(`${name}=${value}`);
    return 0;
  }
  const board = await host.loadBoard();
  const spec = resolveMachine(invocation, board.support);
  if (invocation.dryRun) {
    host.print(invocation.json ? machineJson(spec) : describeMachine(spec));
    return 0;
  }
  return runMachine(spec, {
    board,
    io: host.io,
    stats: invocation.stats,
    trace: invocation.trace,
    profile: invocation.profile,
    symbols: invocation.symbols,
    control: invocation.control,
  });
}
