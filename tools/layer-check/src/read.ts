// Reads the workspace into what the rules look at.
import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Manifest, Package } from './check.ts';

const SOURCES = '{src,test,bench,bin}/**/*.{ts,mts,js,mjs}';

/** Every package that pnpm-workspace.yaml lists. */
export function readWorkspace(root: string): Package[] {
  const yaml = readFileSync(join(root, 'pnpm-workspace.yaml'), 'utf8');
  const folders = [...yaml.matchAll(/^ {2}- "([^"]+)"$/gm)]
    .flatMap(([, pattern]) => globSync(`${pattern}/package.json`, { cwd: root }))
    .map((f) => f.slice(0, -'/package.json'.length))
    .sort();
  return folders.map((folder) => readPackage(root, folder));
}

function readPackage(root: string, folder: string): Package {
  const at = join(root, folder);
  const sources = new Map<string, string>();
  for (const file of globSync(SOURCES, { cwd: at }).sort()) sources.set(file, readFileSync(join(at, file), 'utf8'));
  const readme = join(at, 'README.md');
  return {
    folder,
    manifest: JSON.parse(readFileSync(join(at, 'package.json'), 'utf8')) as Manifest,
    sources,
    readme: existsSync(readme) ? readFileSync(readme, 'utf8') : null,
  };
}

/** Folders that the root's tsconfig.json references. */
export function readReferences(root: string): string[] {
  const { references } = JSON.parse(readFileSync(join(root, 'tsconfig.json'), 'utf8')) as {
    references: { path: string }[];
  };
  return references.map((r) => r.path);
}
