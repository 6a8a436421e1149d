// `xhyve disk`: create, info, check, convert, resize and map, with words and options as qemu-img has them.
import { HyveError, isHyveError, type Logger } from '@hyve/core';
import type { Extent } from '../image.ts';
import type { CheckResult } from '../qcow2/check.ts';
import { type BlockFormat, parseSize } from '../spec.ts';
import { convertDisk } from './convert.ts';
import { type CreateOptions, createDisk } from './create.ts';
import { checkDisk, type DiskInfo, diskChainInfo, diskInfo, mapDisk, resizeDisk } from './inspect.ts';

/** Where the command speaks. */
export interface DiskCommandHost {
  /** Prints text on standard output; a newline is added. */
  print(text: string): void;
  /** Prints a line on standard error. */
  complain(line: string): void;
  /** Shows progress, 0 to 1, on standard error; null ends the line. Absent: no progress. */
  progress?(done: number | null): void;
  /** Whether progress is shown without being asked for (standard error is a terminal). */
  readonly interactive?: boolean;
}

/** The text of `xhyve disk --help`. */
export const DISK_HELP = `usage: xhyve disk create  [-f raw|qcow2] [-o OPTIONS] [-b BACKING [-F FORMAT]] [--force] FILE [SIZE]
       xhyve disk info    [-f FORMAT] [--backing-chain] [--force-share] FILE
       xhyve disk check   [-f FORMAT] [--repair leaks|all] FILE
       xhyve disk convert [-f FORMAT] [-O FORMAT] [-o OPTIONS] [-c] [--force] SOURCE TARGET
       xhyve disk resize  [-f FORMAT] [--shrink] FILE [+|-]SIZE
       xhyve disk map     [-f FORMAT] [--force-share] FILE

Every command takes --json. Long work shows its progress on a terminal, or with --progress (-p).
Sizes take k, M, G, T. Options (-o) of qcow2: cluster_size=, compat=0.10|1.1, refcount_bits=, lazy_refcounts=on|off,
compression_type=zlib|zstd, backing_file=, backing_fmt=; of raw: preallocation=off|falloc|full.
Sources and targets may be files, block devices, and nbd:// addresses.
Status: 0 for success, 1 for wrong usage, 4 for failure; of check also 2 for corruption, 3 for leaked clusters.`;

function usage(why: string): HyveError {
  return new HyveError('DISK_USAGE', `disk ${why}; 'xhyve disk --help' tells more`);
}

interface Words {
  readonly flags: ReadonlySet<string>;
  readonly values: ReadonlyMap<string, string>;
  readonly rest: readonly string[];
}

const FLAG_NAMES: Readonly<Record<string, string>> = {
  '--json': 'json',
  '--progress': 'progress',
  '-p': 'progress',
  '--force': 'force',
  '--force-share': 'share',
  '-U': 'share',
  '--shrink': 'shrink',
  '--backing-chain': 'chain',
  '-c': 'compress',
  '-q': 'quiet',
};
const VALUE_NAMES: Readonly<Record<string, string>> = {
  '-f': 'format',
  '--format': 'format',
  '-O': 'output',
  '-o': 'options',
  '-b': 'backing',
  '-F': 'backingFormat',
  '--repair': 'repair',
  '-r': 'repair',
};
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  create: ['json', 'quiet', 'force', 'format', 'options', 'backing', 'backingFormat'],
  info: ['json', 'share', 'chain', 'format'],
  check: ['json', 'quiet', 'progress', 'share', 'format', 'repair'],
  convert: ['json', 'quiet', 'progress', 'share', 'force', 'compress', 'format', 'output', 'options'],
  resize: ['json', 'quiet', 'shrink', 'format'],
  map: ['json', 'share', 'format'],
};

function sortWords(command: string, argv: readonly string[]): Words {
  const flags = new Set<string>();
  const values = new Map<string, string>();
  const rest: string[] = [];
  const allowed = ALLOWED[command] as readonly string[];
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] as string;
    // `-1G` is a size; a lone dash is a name.
    if (!word.startsWith('-') || word === '-' || /^-[0-9]/.test(word)) {
      rest.push(word);
      continue;
    }
    if (word === '--') {
      rest.push(...argv.slice(i + 1));
      break;
    }
    const eq = word.startsWith('--') ? word.indexOf('=') : -1;
    const name = eq < 0 ? word : word.slice(0, eq);
    const flag = FLAG_NAMES[name];
    const value = VALUE_NAMES[name];
    const known = flag ?? value;
    if (known === undefined || !allowed.includes(known)) throw usage(`${command}: there is no option '${name}'`);
    if (flag !== undefined) {
      if (eq >= 0) throw usage(`${command}: ${name} takes no value`);
      flags.add(flag);
      continue;
    }
    const text = eq < 0 ? argv[++i] : word.slice(eq + 1);
    if (text === undefined) throw usage(`${command}: ${name} needs a value`);
    values.set(known, text);
  }
  return { flags, values, rest };
}

function format(text: string | undefined): BlockFormat | null {
  if (text === undefined) return null;
  if (text === 'raw' || text === 'qcow2') return text;
  throw usage(`format '${text}' is not known; there are raw and qcow2`);
}

function size(text: string): number {
  const n = parseSize(text);
  if (n === null) throw usage(`size '${text}' is not a number with k, M, G or T`);
  return n;
}

function onOff(key: string, value: string): boolean {
  if (value === 'on' || value === 'true') return true;
  if (value === 'off' || value === 'false') return false;
  throw usage(`option ${key}=${value} is neither on nor off`);
}

type Making = { -readonly [K in keyof CreateOptions]?: CreateOptions[K] };

function creation(text: string | undefined): Making {
  const out: Making = {};
  if (text === undefined) return out;
  for (const part of text.split(',')) {
    const eq = part.indexOf('=');
    const key = eq < 0 ? part : part.slice(0, eq);
    const value = eq < 0 ? 'on' : part.slice(eq + 1);
    switch (key) {
      case 'size':
        out.size = size(value);
        break;
      case 'cluster_size':
        out.clusterSize = size(value);
        break;
      case 'compat':
        if (value !== '0.10' && value !== '1.1' && value !== 'v2' && value !== 'v3')
          throw usage(`option compat=${value} is not 0.10 or 1.1`);
        out.compat = value === '0.10' || value === 'v2' ? '0.10' : '1.1';
        break;
      case 'refcount_bits':
        out.refcountBits = Number(value);
        break;
      case 'lazy_refcounts':
        out.lazyRefcounts = onOff(key, value);
        break;
      case 'compression_type':
        if (value !== 'zlib' && value !== 'zstd') throw usage(`option compression_type=${value} is not zlib or zstd`);
        out.compression = value;
        break;
      case 'backing_file':
        out.backing = value;
        break;
      case 'backing_fmt':
        out.backingFormat = format(value) as BlockFormat;
        break;
      case 'preallocation':
        if (value !== 'off' && value !== 'falloc' && value !== 'full')
          throw usage(`option preallocation=${value} is not off, falloc or full`);
        out.preallocation = value;
        break;
      default:
        throw usage(`option '${key}' is not known`);
    }
  }
  return out;
}

/**
 * Carries out `xhyve disk …`. Never rejects: failures are one line on standard error and a status.
 * @param argv the words after `disk`
 * @returns the exit status, see {@link DISK_HELP}
 */
export async function diskCommand(argv: readonly string[], host: DiskCommandHost): Promise<number> {
  try {
    const command = argv[0];
    if (command === undefined || argv.includes('--help') || command === 'help' || command === '-h') {
      host.print(DISK_HELP);
      return command === undefined ? 1 : 0;
    }
    if (ALLOWED[command] === undefined)
      throw usage(`has no command '${command}'; there are ${Object.keys(ALLOWED).join(', ')}`);
    return await carryOut(command, sortWords(command, argv.slice(1)), host);
  } catch (e) {
    host.complain(`xhyve: ${e instanceof Error ? e.message : String(e)}`);
    return isHyveError(e, 'DISK_USAGE') || isHyveError(e, 'BLOCK_SPEC') ? 1 : 4;
  }
}

function operands(w: Words, command: string, least: number, most: number, what: string): readonly string[] {
  if (w.rest.length < least || w.rest.length > most) throw usage(`${command} takes ${what}`);
  return w.rest;
}

async function carryOut(command: string, w: Words, host: DiskCommandHost): Promise<number> {
  const json = w.flags.has('json');
  const logger: Logger = {
    on: false,
    debug: () => {},
    info: (m) => host.complain(`xhyve: ${m}`),
    warn: (m) => host.complain(`xhyve: ${m}`),
  };
  const inspect = { format: format(w.values.get('format')), forceShare: w.flags.has('share'), logger };
  const shows = w.flags.has('progress') || (host.interactive === true && !json && !w.flags.has('quiet'));
  const onProgress = shows ? (done: number): void => host.progress?.(done) : (): void => {};
  const over = (): void => {
    if (shows) host.progress?.(null);
  };
  switch (command) {
    case 'create': {
      const [file, bytes] = operands(w, command, 1, 2, 'a file and a size') as [string, string?];
      const making = creation(w.values.get('options'));
      const backingFormat = format(w.values.get('backingFormat')) ?? making.backingFormat ?? null;
      const f = inspect.format ?? (/\.qcow2?$/i.test(file) ? 'qcow2' : 'raw');
      const n = await createDisk(file, {
        ...making,
        format: f,
        size: bytes === undefined ? (making.size ?? null) : size(bytes),
        backing: w.values.get('backing') ?? making.backing ?? null,
        backingFormat,
        overwrite: w.flags.has('force'),
        logger,
      });
      if (json) host.print(JSON.stringify({ filename: file, format: f, 'virtual-size': n }));
      else if (!w.flags.has('quiet')) host.print(`${file}: ${f}, ${sized(n)}`);
      return 0;
    }
    case 'info': {
      const [file] = operands(w, command, 1, 1, 'one file') as [string];
      if (w.flags.has('chain')) {
        const all = await diskChainInfo(file, inspect);
        host.print(json ? JSON.stringify(all.map(infoJson), null, 4) : all.map(infoText).join('\n\n'));
      } else {
        const info = await diskInfo(file, inspect);
        host.print(json ? JSON.stringify(infoJson(info), null, 4) : infoText(info));
      }
      return 0;
    }
    case 'check': {
      const [file] = operands(w, command, 1, 1, 'one file') as [string];
      const repair = w.values.get('repair') ?? 'none';
      if (repair !== 'none' && repair !== 'leaks' && repair !== 'all')
        throw usage(`check: --repair ${repair} is not leaks or all`);
      const r = await checkDisk(file, { ...inspect, repair, onProgress });
      over();
      if (json) host.print(JSON.stringify(checkJson(file, r), null, 4));
      else host.print(checkText(r));
      return r.errors > 0 ? 4 : r.corruptions > 0 ? 2 : r.leaks > 0 ? 3 : 0;
    }
    case 'convert': {
      const [source, target] = operands(w, command, 2, 2, 'a source and a target') as [string, string];
      const making = creation(w.values.get('options'));
      const out = format(w.values.get('output')) ?? (/\.qcow2?$/i.test(target) ? 'qcow2' : 'raw');
      const n = await convertDisk(source, target, {
        sourceFormat: inspect.format,
        format: out,
        create: making,
        compress: w.flags.has('compress'),
        overwrite: w.flags.has('force'),
        forceShare: inspect.forceShare,
        onProgress,
        logger,
      });
      over();
      if (json) host.print(JSON.stringify({ source, target, format: out, 'virtual-size': n }));
      else if (!w.flags.has('quiet')) host.print(`${target}: ${out}, ${sized(n)}`);
      return 0;
    }
    case 'resize': {
      const [file, text] = operands(w, command, 2, 2, 'a file and a size') as [string, string];
      const sign = text[0] === '+' ? 1 : text[0] === '-' ? -1 : 0;
      const bytes = size(sign === 0 ? text : text.slice(1));
      const n = await resizeDisk(file, sign === 0 ? bytes : { by: sign * bytes }, {
        ...inspect,
        shrink: w.flags.has('shrink'),
      });
      if (json) host.print(JSON.stringify({ filename: file, 'virtual-size': n }));
      else if (!w.flags.has('quiet')) host.print(`${file}: ${sized(n)}`);
      return 0;
    }
    default: {
      const [file] = operands(w, command, 1, 1, 'one file') as [string];
      await printMap(file, inspect, json, host);
      return 0;
    }
  }
}

async function printMap(
  file: string,
  o: Parameters<typeof mapDisk>[1],
  json: boolean,
  host: DiskCommandHost,
): Promise<void> {
  if (!json) host.print('Offset          Length          Mapped to       File');
  const hex = (n: number): string => (n === 0 ? '0' : `0x${n.toString(16)}`).padEnd(16);
  let open: string | null = null;
  for await (const e of mapDisk(file, o)) {
    if (json) {
      if (open !== null) host.print(`${open},`);
      open = `${open === null ? '[' : ''}${JSON.stringify(mapJson(e))}`;
    } else if (e.data && !e.zero)
      host.print(
        `${hex(e.offset)}${hex(e.length)}${e.compressed ? 'compressed'.padEnd(16) : hex(e.fileOffset ?? 0)}${e.file ?? ''}`,
      );
  }
  if (json) host.print(`${open ?? '['}]`);
}

/** One extent as `qemu-img map --output=json` names its parts. */
export function mapJson(e: Extent): Readonly<Record<string, unknown>> {
  return {
    start: e.offset,
    length: e.length,
    depth: e.depth,
    present: e.present,
    zero: e.zero,
    data: e.data,
    compressed: e.compressed,
    ...(e.fileOffset === null ? {} : { offset: e.fileOffset }),
  };
}

/** An image's description as `qemu-img info --output=json` names its parts. */
export function infoJson(i: DiskInfo): Readonly<Record<string, unknown>> {
  const q = i.qcow2;
  return {
    'virtual-size': i.virtualSize,
    filename: i.filename,
    ...(q === null ? {} : { 'cluster-size': q.clusterSize }),
    format: i.format,
    ...(i.actualSize === null ? {} : { 'actual-size': i.actualSize }),
    ...(q === null || q.snapshots.length === 0
      ? {}
      : {
          snapshots: q.snapshots.map((s) => ({
            id: s.id,
            name: s.name,
            'vm-state-size': s.stateBytes,
            'date-sec': s.dateSeconds,
            'date-nsec': s.dateNanoseconds,
            'vm-clock-sec': Math.floor(s.clockNanoseconds / 1e9),
            'vm-clock-nsec': s.clockNanoseconds % 1e9,
          })),
        }),
    ...(q === null
      ? {}
      : {
          'format-specific': {
            type: 'qcow2',
            data:
              q.compat === '0.10'
                ? { compat: q.compat, 'compression-type': q.compression, 'refcount-bits': q.refcountBits }
                : {
                    compat: q.compat,
                    'compression-type': q.compression,
                    'lazy-refcounts': q.lazyRefcounts,
                    'refcount-bits': q.refcountBits,
                    corrupt: q.corrupt,
                    'extended-l2': false,
                  },
          },
        }),
    ...(q === null || q.backingFile === null
      ? {}
      : {
          'backing-filename': q.backingFile,
          'full-backing-filename': q.fullBackingFile,
          ...(q.backingFormat === null ? {} : { 'backing-filename-format': q.backingFormat }),
        }),
    'dirty-flag': q?.dirty ?? false,
  };
}

/** What a check found as `qemu-img check --output=json` names its parts. */
export function checkJson(filename: string, r: CheckResult): Readonly<Record<string, unknown>> {
  const some = (name: string, n: number): Record<string, number> => (n === 0 ? {} : { [name]: n });
  return {
    'image-end-offset': r.imageEnd,
    'total-clusters': r.totalClusters,
    'check-errors': r.errors,
    ...some('corruptions', r.corruptions),
    ...some('leaks', r.leaks),
    ...some('corruptions-fixed', r.corruptionsFixed),
    ...some('leaks-fixed', r.leaksFixed),
    ...some('allocated-clusters', r.allocatedClusters),
    ...some('fragmented-clusters', r.fragmentedClusters),
    ...some('compressed-clusters', r.compressedClusters),
    filename,
    format: 'qcow2',
  };
}

function sized(n: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = n;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const short = Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 2 : 1);
  return unit === 0 ? `${n} bytes` : `${short} ${units[unit]} (${n} bytes)`;
}

function infoText(i: DiskInfo): string {
  const q = i.qcow2;
  const lines = [`image: ${i.filename}`, `file format: ${i.format}`, `virtual size: ${sized(i.virtualSize)}`];
  if (i.actualSize !== null) lines.push(`disk size: ${sized(i.actualSize)}`);
  if (q !== null) {
    lines.push(`cluster size: ${sized(q.clusterSize)}`);
    if (q.backingFile !== null) {
      const full = q.fullBackingFile === q.backingFile ? '' : ` (actual path: ${q.fullBackingFile})`;
      lines.push(`backing file: ${q.backingFile}${full}`, `backing file format: ${q.backingFormat ?? 'not said'}`);
    }
    lines.push(
      `compat: ${q.compat}`,
      `compression type: ${q.compression}`,
      `lazy refcounts: ${q.lazyRefcounts}`,
      `refcount bits: ${q.refcountBits}`,
      `corrupt: ${q.corrupt}`,
      `dirty: ${q.dirty}`,
    );
    for (const s of q.snapshots)
      lines.push(
        `snapshot ${s.id}: ${s.name}, ${new Date(s.dateSeconds * 1000).toISOString()}, ${sized(s.stateBytes)} of machine state`,
      );
  }
  return lines.join('\n');
}

function checkText(r: CheckResult): string {
  const lines = [...r.findings];
  if (r.corruptionsFixed > 0) lines.push(`${r.corruptionsFixed} corruptions were repaired.`);
  if (r.leaksFixed > 0) lines.push(`${r.leaksFixed} leaked clusters were given back.`);
  if (r.corruptions > 0)
    lines.push(`${r.corruptions} errors were found. Data may be corrupt or will be by further writes.`);
  if (r.leaks > 0) lines.push(`${r.leaks} leaked clusters were found. They waste space and do no other harm.`);
  if (r.errors > 0) lines.push(`${r.errors} places could not be read.`);
  if (r.corruptions + r.leaks + r.errors === 0) lines.push('No errors were found.');
  const part = (n: number, of: number): string => `${of === 0 ? '0.00' : ((n / of) * 100).toFixed(2)}%`;
  lines.push(
    `${r.allocatedClusters} of ${r.totalClusters} clusters are stored (${part(r.allocatedClusters, r.totalClusters)}), ` +
      `${part(r.fragmentedClusters, r.allocatedClusters)} of them fragmented, ` +
      `${part(r.compressedClusters, r.allocatedClusters)} compressed.`,
  );
  return lines.join('\n');
}
