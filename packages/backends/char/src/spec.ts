// bhyve's TTY back end strings: what stands after `com1,` on the command line.
import { isIP } from 'node:net';
import { HyveError } from '@hyve/core';

/** A parsed back end string: the console proper and where copies of its output go. */
export interface CharSpec {
  /** The console. With copies alone (`log=ring`) it is `null`. */
  readonly main:
    | { readonly kind: 'null' }
    | { readonly kind: 'stdio' }
    | { readonly kind: 'autopty'; readonly file: string | null }
    | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
    | { readonly kind: 'unix'; readonly path: string }
    | { readonly kind: 'path'; readonly path: string };
  /** Files that record the output: `file` appends, `log` keeps the newest megabyte. */
  readonly copies: readonly { readonly kind: 'file' | 'log'; readonly path: string }[];
}

function bad(spec: string, why: string): HyveError {
  return new HyveError('CHAR_SPEC', `console "${spec}": ${why}`);
}

/** Where consoles listen when no address is given: this machine only. */
const DEFAULT_HOST = '127.0.0.1';

function parseTcp(spec: string, value: string): { kind: 'tcp'; host: string; port: number } {
  const m = /^(?:\[([^\]]*)\]:|([^:[\]]*):)?([0-9]+)$/.exec(value);
  if (m === null) throw bad(spec, `tcp=${value} is not [ip:]port; IPv6 addresses go in brackets, as in tcp=[::1]:5000`);
  const v6 = m[1];
  const host = v6 ?? m[2] ?? DEFAULT_HOST;
  const port = Number(m[3]);
  if (v6 !== undefined && isIP(v6) !== 6) throw bad(spec, `${v6} is no IPv6 address`);
  if (host === '') throw bad(spec, 'the address before the port is empty');
  if (v6 === undefined && /^[0-9.]+$/.test(host) && isIP(host) !== 4) throw bad(spec, `${host} is no IPv4 address`);
  if (port < 1 || port > 65535) throw bad(spec, `port ${m[3]} is not within 1 to 65535`);
  return { kind: 'tcp', host, port };
}

function parseMain(spec: string, part: string): CharSpec['main'] {
  const eq = part.indexOf('=');
  const key = eq < 0 ? part : part.slice(0, eq);
  const value = eq < 0 ? null : part.slice(eq + 1);
  switch (key) {
    case 'stdio':
    case 'null':
      if (value !== null) throw bad(spec, `${key} takes no value`);
      return { kind: key };
    case 'autopty':
      if (value === '') throw bad(spec, 'autopty= needs a file name');
      return { kind: 'autopty', file: value };
    case 'tcp':
      if (value === null) throw bad(spec, 'tcp needs a port: tcp=[ip:]port');
      return parseTcp(spec, value);
    case 'unix':
      if (value === null || value === '') throw bad(spec, 'unix needs a path: unix:PATH');
      return { kind: 'unix', path: value };
  }
  if (part.startsWith('unix:')) {
    const path = part.slice('unix:'.length);
    if (path === '') throw bad(spec, 'unix needs a path: unix:PATH');
    return { kind: 'unix', path };
  }
  if (part.startsWith('/') || part.startsWith('./') || part.startsWith('../')) return { kind: 'path', path: part };
  throw bad(
    spec,
    `"${part}" is no back end; there are stdio, null, autopty[=FILE], tcp=[IP:]PORT, unix:PATH, file=FILE, log=FILE, ` +
      'and the path of a terminal or FIFO',
  );
}

/**
 * Parses a back end string such as `stdio`, `tcp=[::1]:5000`, `/dev/ttys004` or `autopty=pty.txt,log=ring`. Opens nothing.
 * @throws HyveError `CHAR_SPEC` naming the part that is wrong
 */
export function parseCharSpec(spec: string): CharSpec {
  if (spec === '') throw bad(spec, 'is empty');
  let main: CharSpec['main'] | null = null;
  const copies: { kind: 'file' | 'log'; path: string }[] = [];
  for (const part of spec.split(',')) {
    if (part === '') throw bad(spec, 'has an empty part between commas');
    if (part.startsWith('file=') || part.startsWith('log=')) {
      const kind = part.startsWith('file=') ? 'file' : 'log';
      const path = part.slice(kind.length + 1);
      if (path === '') throw bad(spec, `${kind}= needs a file name`);
      copies.push({ kind, path });
      continue;
    }
    const parsed = parseMain(spec, part);
    if (main !== null) throw bad(spec, 'names two consoles; a device has one');
    main = parsed;
  }
  return { main: main ?? { kind: 'null' }, copies };
}
