// Packs every package as it would be published and looks into the tarballs: everything that exports name is there with
// its types, README and LICENSE too, no test or build state is, and publint has nothing to say.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { pnpm, run } from './run.ts';
import { add, type Counts, failure, PASSED } from './summary.ts';

/** Files of a gzipped tar archive, by name without the leading `package/`. */
export function untar(gzipped: Uint8Array): Map<string, Uint8Array> {
  const tar = gunzipSync(gzipped);
  const files = new Map<string, Uint8Array>();
  const text = (at: number, n: number): string => {
    const end = tar.subarray(at, at + n).indexOf(0);
    return tar.toString('utf8', at, end < 0 ? at + n : at + end);
  };
  let longName = '';
  for (let at = 0; at + 512 <= tar.length && tar[at] !== 0; ) {
    const size = Number.parseInt(text(at + 124, 12), 8) || 0;
    const type = text(at + 156, 1) || '0';
    const prefix = text(at + 345, 155);
    const body = tar.subarray(at + 512, at + 512 + size);
    if (type === 'L') longName = body.toString('utf8').replace(/\0.*$/, '');
    else if (type === 'x') longName = /\d+ path=([^\n]*)\n/.exec(body.toString('utf8'))?.[1] ?? longName;
    else {
      const name = longName || (prefix === '' ? text(at, 100) : `${prefix}/${text(at, 100)}`);
      longName = '';
      if (type === '0' || type === '\0') files.set(name.replace(/^package\//, ''), body);
    }
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}

function targets(node: unknown): string[] {
  if (typeof node === 'string') return [node];
  if (typeof node !== 'object' || node === null) return [];
  return Object.values(node).flatMap(targets);
}

/** What is wrong with a packed package. */
export function faults(files: ReadonlyMap<string, Uint8Array>): string[] {
  const out: string[] = [];
  const text = files.get('package.json');
  if (text === undefined) return ['no package.json'];
  const manifest = JSON.parse(Buffer.from(text).toString('utf8')) as Record<string, unknown>;
  for (const name of ['README.md', 'LICENSE']) if (!files.has(name)) out.push(`no ${name}`);
  const named = [...targets(manifest['exports']), ...targets(manifest['bin'])];
  if (named.length === 0) out.push('exports nothing');
  for (const path of named) {
    const file = path.replace(/^\.\//, '');
    if (!files.has(file)) out.push(`${path} is named but not packed`);
    if (file.endsWith('.ts') && !file.endsWith('.d.ts')) out.push(`exports the source ${path}`);
  }
  // A folder that its build has not made is left out without a word.
  for (const name of (manifest['files'] ?? []) as string[])
    if (!name.startsWith('!') && ![...files.keys()].some((f) => f === name || f.startsWith(`${name}/`)))
      out.push(`${name} is to be packed and is not there`);
  const exported = manifest['exports'];
  for (const [key, conditions] of Object.entries((exported ?? {}) as Record<string, unknown>)) {
    if (typeof conditions !== 'object' || conditions === null || !('types' in conditions))
      out.push(`${key} has no types`);
  }
  for (const name of files.keys())
    if (/(^|\/)(test|bench|node_modules)\/|tsbuildinfo|\.test\./.test(name)) out.push(`packs ${name}`);
  for (const kind of ['dependencies', 'peerDependencies', 'optionalDependencies']) {
    for (const [name, range] of Object.entries((manifest[kind] ?? {}) as Record<string, string>))
      if (!/^[\^~]?\d/.test(range)) out.push(`${kind}.${name} was packed as "${range}"`);
  }
  return out;
}

/** Packs and checks everything that is published. Needs a build. */
export async function checkPacks(): Promise<Counts> {
  const folder = mkdtempSync(join(tmpdir(), 'hyve-pack-'));
  try {
    // Packages of one platform hold a build, for which not every machine has a compiler.
    const filters = ['--filter', './packages/**', '--filter', './apps/**', '--filter', '!@hyve/hv-native-*'];
    const { status, output } = await run([...pnpm(), '-r', ...filters, 'pack', '--pack-destination', folder], {
      minutes: 3,
      capture: true,
    });
    if (status !== 0) {
      console.error(output);
      return failure('pnpm pack', `exit ${status}`);
    }
    const counts: Counts[] = [];
    for (const file of readdirSync(folder).sort()) {
      const bytes = readFileSync(join(folder, file));
      const wrong = faults(untar(bytes));
      const tarball = new Uint8Array(bytes).buffer;
      const { messages, pkg } = await publint({ pack: { tarball }, level: 'suggestion' });
      for (const m of messages) wrong.push(`publint: ${formatMessage(m, pkg, { color: false }) ?? m.code}`);
      for (const w of wrong) console.log(`${file}: ${w}`);
      counts.push(wrong.length === 0 ? PASSED : failure(`package ${file}`, wrong.join('; ')));
    }
    console.log(`${counts.length} packages packed`);
    return counts.length === 0 ? failure('pnpm pack', 'packed nothing') : add(counts);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
