// Disk strings: bhyve's block_if options (`path[,nocache][,direct|sync][,ro][,sectorsize=L[/P]][,nodelete]`) and ours.
import { HyveError } from '@hyve/core';
import type { RateLimits } from './throttle.ts';

/** Image formats that can be asked for. */
export type BlockFormat = 'raw' | 'qcow2';

/** A parsed disk string. */
export interface BlockSpec {
  /** Path, `nbd://…`, `nbds://…`, `nbd+unix://…`, or `ram:SIZE`. */
  readonly path: string;
  /** Null: by the name (`.qcow2`), else raw. Contents never decide, for a guest can write any contents; a file that is plainly
   * a container is refused until its format is said. */
  readonly format: BlockFormat | null;
  /** `nocache`: around the host's cache (O_DIRECT). */
  readonly noCache: boolean;
  /** `sync` or `direct`: a completed write is on stable storage (O_SYNC). */
  readonly sync: boolean;
  /** `ro`. */
  readonly readOnly: boolean;
  /** `nodelete`: no discards. */
  readonly noDelete: boolean;
  /** Logical sector size: 512 or 4096; null: the device's own, else 512. */
  readonly sectorSize: number | null;
  /** Physical sector size; null: the file system's block size. */
  readonly physicalSectorSize: number | null;
  /** `snapshot=on|memory`: writes are kept beside and forgotten at the end. */
  readonly snapshot: 'off' | 'file' | 'memory';
  /** Rates. */
  readonly limits: RateLimits;
  /** `lock=off` turns the guard against double use off. */
  readonly lock: boolean;
  /** NBD over TLS: certificate files. */
  readonly tls: {
    readonly ca: string | null;
    readonly cert: string | null;
    readonly key: string | null;
    readonly hostname: string | null;
  };
  /** NBD: seconds a lost server is waited for before requests fail. */
  readonly reconnectSeconds: number | null;
  /** Options of the device, as the caller named them. */
  readonly extras: ReadonlyMap<string, string>;
}

/** Options of {@link parseBlockSpec}. */
export interface ParseBlockOptions {
  /** Option names that belong to the device, such as `ser`; they end up in {@link BlockSpec.extras}. */
  readonly extras?: readonly string[];
}

function bad(text: string, why: string): HyveError {
  return new HyveError('BLOCK_SPEC', `disk "${text}": ${why}`);
}

const KNOWN =
  'nocache, direct, sync, ro, nodelete, sectorsize=L[/P], format=raw|qcow2, snapshot=on|memory|off, lock=off, ' +
  'bps[-rd|-wr|-burst]=N, iops[-rd|-wr|-burst]=N, and for NBD tls-ca=, tls-cert=, tls-key=, tls-hostname=, reconnect=';

/**
 * Bytes of `64M`, `1.5G`, `4096`: powers of 1024 with `k m g t p e`, either case, an optional `b` or `ib` behind.
 * @returns null for anything else, or beyond 2^53
 */
export function parseSize(text: string): number | null {
  const m = /^([0-9]+(?:\.[0-9]+)?)([kmgtpe]?)(?:i?b)?$/i.exec(text.trim());
  if (m === null) return null;
  const power = m[2] === '' ? 0 : 'kmgtpe'.indexOf((m[2] as string).toLowerCase()) + 1;
  const bytes = Number(m[1]) * 1024 ** power;
  return Number.isSafeInteger(bytes) ? bytes : null;
}

function sectorSizes(text: string, value: string): { logical: number; physical: number } {
  const m = /^([0-9]+)(?:\/([0-9]+))?$/.exec(value);
  const logical = Number(m?.[1]);
  const physical = m?.[2] === undefined ? logical : Number(m[2]);
  if (m === null || Number.isNaN(logical))
    throw bad(text, `sectorsize=${value} is not L or L/P in bytes, as in 512/4096`);
  if (logical !== 512 && logical !== 4096) throw bad(text, `logical sector size ${logical} is neither 512 nor 4096`);
  if (2 ** Math.round(Math.log2(physical)) !== physical || physical < logical || physical > 65536)
    throw bad(text, `physical sector size ${physical} is no power of two from ${logical} to 65536`);
  return { logical, physical };
}

const LIMITS: Readonly<Record<string, keyof RateLimits>> = {
  bps: 'bps',
  'bps-rd': 'bpsRead',
  'bps-wr': 'bpsWrite',
  'bps-burst': 'bpsBurst',
  iops: 'iops',
  'iops-rd': 'iopsRead',
  'iops-wr': 'iopsWrite',
  'iops-burst': 'iopsBurst',
};

/**
 * Parses a disk string. Opens nothing.
 * @throws HyveError `BLOCK_SPEC` naming the part that is wrong
 */
export function parseBlockSpec(text: string, o: ParseBlockOptions = {}): BlockSpec {
  const [path, ...parts] = text.split(',') as [string, ...string[]];
  const options = parts.map((part): [string, string | null] => {
    const eq = part.indexOf('=');
    return eq < 0 ? [part, null] : [part.slice(0, eq), part.slice(eq + 1)];
  });
  return blockSpec(text, path, options, o);
}

/**
 * Builds a spec from a path and options that are already apart, as bhyve's configuration has them
 * (`pci.0.4.0.path`, `pci.0.4.0.ro`): a null value or `true` switches a flag on, `false` leaves it off.
 * @throws HyveError `BLOCK_SPEC`
 */
export function blockSpec(
  text: string,
  path: string,
  options: Iterable<readonly [string, string | null]>,
  o: ParseBlockOptions = {},
): BlockSpec {
  if (path === '') throw bad(text, 'the path in front of the options is empty');
  let format: BlockFormat | null = null;
  let sectors: { logical: number; physical: number } | null = null;
  let snapshot: BlockSpec['snapshot'] = 'off';
  let lock = true;
  let reconnectSeconds: number | null = null;
  const flags = { nocache: false, direct: false, sync: false, ro: false, nodelete: false };
  const limits: Partial<Record<keyof RateLimits, number>> = {};
  const tls: { ca: string | null; cert: string | null; key: string | null; hostname: string | null } = {
    ca: null,
    cert: null,
    key: null,
    hostname: null,
  };
  const extras = new Map<string, string>();
  for (const [key, value] of options) {
    if (o.extras?.includes(key)) {
      extras.set(key, value ?? '');
      continue;
    }
    const some = (): string => {
      if (value === null || value === '') throw bad(text, `${key} needs a value`);
      return value;
    };
    const limit = LIMITS[key];
    if (limit !== undefined) {
      const n = parseSize(some());
      if (n === null || n <= 0) throw bad(text, `${key}=${value} is no rate; say 20M or 500`);
      limits[limit] = n;
      continue;
    }
    switch (key) {
      case 'nocache':
      case 'direct':
      case 'sync':
      case 'ro':
      case 'nodelete':
        if (value !== null && value !== 'true' && value !== 'false' && value !== 'on' && value !== 'off')
          throw bad(text, `${key} is a flag; it takes no value such as "${value}"`);
        flags[key] = value !== 'false' && value !== 'off';
        break;
      case 'sectorsize':
        sectors = sectorSizes(text, some());
        break;
      case 'format':
        format = formatOf(text, some());
        break;
      case 'snapshot': {
        const v = value ?? 'on';
        if (v !== 'on' && v !== 'off' && v !== 'memory') throw bad(text, `snapshot=${v} is not on, memory or off`);
        snapshot = v === 'on' ? 'file' : v;
        break;
      }
      case 'lock':
        if (value !== 'on' && value !== 'off') throw bad(text, `lock=${value} is not on or off`);
        lock = value === 'on';
        break;
      case 'reconnect': {
        const n = Number(some());
        if (!(n >= 0)) throw bad(text, `reconnect=${value} is no number of seconds`);
        reconnectSeconds = n;
        break;
      }
      case 'tls-ca':
        tls.ca = some();
        break;
      case 'tls-cert':
        tls.cert = some();
        break;
      case 'tls-key':
        tls.key = some();
        break;
      case 'tls-hostname':
        tls.hostname = some();
        break;
      case '':
        throw bad(text, 'there is an empty option between commas');
      default: {
        const device =
          o.extras === undefined || o.extras.length === 0 ? '' : `; the device takes ${o.extras.join(', ')}`;
        throw bad(text, `there is no option "${key}"; there are ${KNOWN}${device}`);
      }
    }
  }
  if (flags.direct && flags.sync) throw bad(text, 'direct and sync mean the same; give one of them');
  if (path.startsWith('ram:')) {
    const n = parseSize(path.slice(4));
    if (n === null || n <= 0 || n % (sectors?.logical ?? 512) !== 0)
      throw bad(text, `${path} is not ram:SIZE with whole sectors, as in ram:64M`);
  }
  if ((tls.cert === null) !== (tls.key === null)) throw bad(text, 'tls-cert and tls-key go together');
  return {
    path,
    format,
    noCache: flags.nocache,
    sync: flags.direct || flags.sync,
    readOnly: flags.ro,
    noDelete: flags.nodelete,
    sectorSize: sectors?.logical ?? null,
    physicalSectorSize: sectors?.physical ?? null,
    snapshot,
    limits,
    lock,
    tls,
    reconnectSeconds,
    extras,
  };
}

function formatOf(text: string, value: string): BlockFormat {
  if (value === 'raw' || value === 'qcow2') return value;
  if (value === 'qcow') return 'qcow2'; // HyperKit's name for it
  throw bad(text, `format=${value} is not known; there are raw and qcow2`);
}
