// The rules, over packages given as data, so that tests need no files.
import { isBuiltin } from 'node:module';
import { importsOf } from './imports.ts';
import { layerOf, matches, TEST_ONLY } from './layers.ts';

/** The parts of a package.json that the rules read. */
export interface Manifest {
  readonly name: string;
  readonly version?: string;
  readonly private?: boolean;
  readonly license?: string;
  readonly description?: string;
  readonly type?: string;
  readonly sideEffects?: boolean;
  readonly keywords?: readonly string[];
  readonly engines?: Readonly<Record<string, string>>;
  readonly files?: readonly string[];
  readonly scripts?: Readonly<Record<string, string>>;
  readonly exports?: Readonly<Record<string, unknown>>;
  readonly publishConfig?: { readonly access?: string; readonly exports?: Readonly<Record<string, unknown>> };
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly os?: readonly string[];
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

/** A package as the rules see it. */
export interface Package {
  /** Folder from the repository's root, such as `packages/core`. */
  readonly folder: string;
  readonly manifest: Manifest;
  /** Files in src, test, bench and bin, with `/` from the package's folder. */
  readonly sources: ReadonlyMap<string, string>;
  /** README.md, or null. */
  readonly readme: string | null;
}

/** One rule broken. */
export interface Finding {
  /** File, with line where there is one. */
  readonly where: string;
  readonly what: string;
}

/** Headings every package's README has (style guide, Docs). */
export const README_HEADINGS: readonly string[] = [
  'Mirrors',
  'Install',
  'Example',
  'What it needs from you',
  'Support',
  'Not modelled',
  'Testing alone',
  'Stability',
];

/** Name of the package a specifier belongs to: `@hyve/vmm` for `@hyve/vmm/lapic`. */
export function packageOf(specifier: string): string {
  const parts = specifier.split('/');
  return specifier.startsWith('@') ? parts.slice(0, 2).join('/') : (parts[0] as string);
}

/** Whether a folder holds what serves this repository, and is not published. */
function isTool(folder: string): boolean {
  return /^(tools\/|examples\/|bench$)/.test(folder);
}

/** Whether it is a package of one platform, which holds a build and no sources: known by name, bound by no other rule. */
function isBuild(p: Package): boolean {
  return p.manifest.os !== undefined;
}

/** Checks packages against every rule. */
export function check(packages: readonly Package[]): Finding[] {
  const findings: Finding[] = [];
  const byName = new Map(packages.map((p) => [p.manifest.name, p]));
  for (const p of packages) {
    if (isBuild(p)) continue;
    const tool = isTool(p.folder);
    checkManifest(p, tool, byName, findings);
    checkImports(p, tool, byName, findings);
    if (!tool) checkParts(p, findings);
  }
  checkCycles(packages, findings);
  return findings;
}

type Report = Finding[];

function checkManifest(p: Package, tool: boolean, byName: ReadonlyMap<string, Package>, out: Report): void {
  const where = `${p.folder}/package.json`;
  const m = p.manifest;
  const say = (what: string): void => {
    out.push({ where, what });
  };
  const kinds = {
    dependencies: m.dependencies,
    devDependencies: m.devDependencies,
    peerDependencies: m.peerDependencies,
    optionalDependencies: m.optionalDependencies,
  };
  for (const [kind, list] of Object.entries(kinds)) {
    for (const [name, range] of Object.entries(list ?? {})) {
      if (byName.has(name)) {
        if (!/^workspace:(\^|\*)$/.test(range))
          say(`${kind}.${name} is "${range}"; packages of this repository are "workspace:^"`);
      } else if (!/^[\^~]?\d+\.\d+\.\d+(-[\w.]+)?$/.test(range)) {
        say(`${kind}.${name} has the range "${range}"; give a version, with ^ or ~ at most`);
      }
      if (kind !== 'devDependencies' && TEST_ONLY.includes(name))
        say(`${kind}.${name}: for tests only, so in devDependencies`);
    }
  }
  if (tool) {
    if (m.private !== true) say('a tool is "private": true');
    return;
  }
  const layer = layerOf(m.name);
  if (layer === null) {
    say(`${m.name} has no place among the layers yet: give it one in tools/layer-check/src/layers.ts`);
    return;
  }
  for (const name of Object.keys({ ...m.dependencies, ...m.peerDependencies, ...m.optionalDependencies })) {
    if (byName.has(name) && !TEST_ONLY.includes(name) && !layer.may.some((x) => matches(x, name)))
      say(`${m.name} may not depend on ${name}`);
  }
  const wanted: [keyof Manifest, boolean][] = [
    ['version', /^\d+\.\d+\.\d+/.test(m.version ?? '')],
    ['license', m.license === 'BSD-2-Clause'],
    ['description', (m.description ?? '') !== ''],
    ['keywords', (m.keywords ?? []).length > 0],
    ['type', m.type === 'module'],
    ['sideEffects', m.sideEffects === false],
    ['engines', (m.engines?.['node'] ?? '') !== ''],
    ['files', ['dist', 'README.md'].every((f) => m.files?.includes(f) === true)],
    ['scripts', m.scripts?.['build'] !== undefined && m.scripts['test'] !== undefined],
  ];
  for (const [field, good] of wanted) if (!good) say(`"${field}" is missing or not as in the other packages`);
  const here = Object.keys(m.exports ?? {});
  const there = Object.keys(m.publishConfig?.exports ?? {});
  if (here.length === 0) say('"exports" is missing');
  if (here.join() !== there.join()) say(`"exports" lists ${here.join(' ')}, publishConfig.exports ${there.join(' ')}`);
}

function checkImports(p: Package, tool: boolean, byName: ReadonlyMap<string, Package>, out: Report): void {
  const m = p.manifest;
  const layer = layerOf(m.name);
  const shippedDeps = { ...m.dependencies, ...m.peerDependencies, ...m.optionalDependencies };
  for (const [file, text] of p.sources) {
    const shipped = /^(src|bin)\//.test(file);
    const declared = new Set(Object.keys(shipped && !tool ? shippedDeps : { ...shippedDeps, ...m.devDependencies }));
    for (const { specifier, line } of importsOf(text)) {
      const say = (what: string): void => {
        out.push({ where: `${p.folder}/${file}:${line}`, what });
      };
      if (specifier.startsWith('.')) {
        // Tools are never published and may look inside packages.
        if (leaves(file, specifier) && !tool) say(`${specifier} leaves the package: import it by name`);
        else if (shipped && /(^|\/)(test|bench)\//.test(resolve(file, specifier)))
          say(`${specifier}: shipped code imports a test`);
        continue;
      }
      if (isBuiltin(specifier)) {
        if (shipped && !tool && layer?.node !== true)
          say(`${specifier}: ${m.name} runs in browsers too and takes nothing from Node`);
        else if (!specifier.startsWith('node:')) say(`${specifier}: write node:${specifier}`);
        continue;
      }
      const name = packageOf(specifier);
      if (shipped && !tool && TEST_ONLY.includes(name)) {
        say(`${specifier} is for tests only`);
        continue;
      }
      const target = byName.get(name);
      if (target !== undefined && name !== m.name) {
        const subpath = `.${specifier.slice(name.length)}`;
        if (target.manifest.exports?.[subpath] === undefined) say(`${specifier}: ${name} does not export ${subpath}`);
        if (shipped && !tool && layer !== null && !layer.may.some((x) => matches(x, name)))
          say(`${m.name} may not import ${name}`);
      }
      // vitest, fast-check and typescript come from the root for every package's tests.
      const fromRoot = (!shipped || tool) && ['vitest', 'fast-check', 'vite', 'publint'].includes(name);
      if (name !== m.name && !declared.has(name) && !fromRoot)
        say(`${specifier}: ${name} is not in this package's ${shipped ? 'dependencies' : 'devDependencies'}`);
    }
  }
}

function resolve(file: string, specifier: string): string {
  const parts = file.split('/').slice(0, -1);
  for (const s of specifier.split('/')) {
    if (s === '..') parts.push('..');
    else if (s !== '.') parts.push(s);
  }
  const out: string[] = [];
  for (const s of parts) {
    if (s === '..' && out.length > 0 && out.at(-1) !== '..') out.pop();
    else out.push(s);
  }
  return out.join('/');
}

function leaves(file: string, specifier: string): boolean {
  return resolve(file, specifier).startsWith('..');
}

function checkParts(p: Package, out: Report): void {
  if (p.readme === null) out.push({ where: `${p.folder}/README.md`, what: 'is missing' });
  else {
    const headings = [...p.readme.matchAll(/^## +(.*)$/gm)].map((m) => (m[1] as string).trim());
    for (const h of README_HEADINGS)
      if (!headings.some((x) => x.startsWith(h)))
        out.push({ where: `${p.folder}/README.md`, what: `has no "## ${h}"` });
  }
  if (![...p.sources.keys()].some((f) => /^test\/.*(?<!\.slow)\.test\.ts$/.test(f)))
    out.push({ where: `${p.folder}/test`, what: 'has no test' });
}

/**
 * Checks the root's tsconfig.json: `tsc -b` and vitest's transformer follow its references, and stumble over one that
 * leads nowhere; a package that is missing from it is not type-checked by `tsc -b`.
 */
export function checkReferences(references: readonly string[], packages: readonly Package[]): Finding[] {
  const where = 'tsconfig.json';
  const folders = new Set(packages.map((p) => p.folder));
  const published = packages.filter((p) => !isTool(p.folder) && !isBuild(p)).map((p) => p.folder);
  return [
    ...references.filter((r) => !folders.has(r)).map((r) => ({ where, what: `references ${r}, which is no package` })),
    ...published.filter((f) => !references.includes(f)).map((f) => ({ where, what: `does not reference ${f}` })),
  ];
}

/** Dependencies that go round, dev dependencies on the testkit aside. */
function checkCycles(packages: readonly Package[], out: Report): void {
  const edges = new Map(packages.map((p) => [p.manifest.name, Object.keys(p.manifest.dependencies ?? {})]));
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (name: string): void => {
    const at = path.indexOf(name);
    if (at >= 0) {
      out.push({ where: 'package.json', what: `dependencies go round: ${[...path.slice(at), name].join(' → ')}` });
      return;
    }
    if (done.has(name)) return;
    path.push(name);
    for (const next of edges.get(name) ?? []) if (edges.has(next)) visit(next);
    path.pop();
    done.add(name);
  };
  for (const name of edges.keys()) visit(name);
}
