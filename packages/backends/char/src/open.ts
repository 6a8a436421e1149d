// From a back end string to a back end.
import type { CharBackend } from '@hyve/core';
import { Channel, Inbox, type Input, type Output } from './channel.ts';
import { openAppend, RingLogOutput } from './files.ts';
import { listenTcp, listenUnix } from './listen.ts';
import { DiscardOutput, TeeOutput } from './outputs.ts';
import { openPath } from './paths.ts';
import { Pty } from './pty.ts';
import { type CharSpec, parseCharSpec } from './spec.ts';
import { openStdioParts, type StdioOptions } from './stdio.ts';

/** Options of {@link openCharBackend}. */
export interface OpenCharOptions extends StdioOptions {
  /** Told where an `autopty` console can be attached to, such as `/dev/pts/7`. */
  readonly onPty?: (path: string) => void;
}

/**
 * Opens a console by its bhyve string: `stdio`, `null`, `autopty[=file]`, `tcp=[ip:]port`, `unix:path`, a terminal's or
 * FIFO's path, `file=path`, `log=path`, joined by commas (one console, any number of copies).
 * @throws HyveError `CHAR_SPEC`, `CHAR_FILE`, `CHAR_PATH`, `CHAR_LISTEN`, `CHAR_STDIO_TAKEN`, `CHAR_UNSUPPORTED`
 */
export async function openCharBackend(spec: string | CharSpec, o: OpenCharOptions = {}): Promise<CharBackend> {
  const { main, copies } = typeof spec === 'string' ? parseCharSpec(spec) : spec;
  const opened: Output[] = [];
  try {
    for (const c of copies) opened.push(c.kind === 'file' ? openAppend(c.path) : new RingLogOutput(c.path));
    const { inbox, output, input } = await openMain(main, o);
    return new Channel({ inbox, output: opened.length === 0 ? output : new TeeOutput(output, opened), input });
  } catch (e) {
    for (const c of opened) await c.close();
    throw e;
  }
}

async function openMain(
  main: CharSpec['main'],
  o: OpenCharOptions,
): Promise<{ inbox: Inbox; output: Output; input: Input | null }> {
  switch (main.kind) {
    case 'null':
      return { inbox: new Inbox(), output: new DiscardOutput(), input: null };
    case 'stdio':
      return openStdioParts(o);
    case 'tcp': {
      const inbox = new Inbox();
      const both = await listenTcp(main.host, main.port, inbox);
      return { inbox, output: both, input: both };
    }
    case 'unix': {
      const inbox = new Inbox();
      const both = await listenUnix(main.path, inbox);
      return { inbox, output: both, input: both };
    }
    case 'autopty': {
      const inbox = new Inbox();
      const both = new Pty({ inbox, file: main.file });
      o.onPty?.(both.path);
      return { inbox, output: both, input: both };
    }
    case 'path': {
      const inbox = new Inbox();
      return { inbox, ...openPath(main.path, inbox) };
    }
  }
}
