// One vitest run over every package; each is a project named as in its package.json. Slow end-to-end tests
// (`*.slow.test.ts`) have a run of their own: vitest.slow.config.ts.
import { existsSync, globSync, readFileSync } from 'node:fs';
import { defineConfig } from 'vitest/config';

/** Folders with a package.json, as pnpm-workspace.yaml lists them. */
function packages(): { name: string; root: string }[] {
  const patterns = readFileSync(new URL('pnpm-workspace.yaml', import.meta.url), 'utf8').matchAll(
    /^ {2}- "([^"]+)"$/gm,
  );
  const cwd = import.meta.dirname;
  return [...patterns]
    .flatMap(([, pattern]) => globSync(`${pattern}/package.json`, { cwd }))
    .sort()
    .map((file) => ({ root: file.slice(0, -'/package.json'.length), manifest: `${cwd}/${file}` }))
    .filter(({ root }) => existsSync(`${cwd}/${root}/test`))
    .map(({ root, manifest }) => ({ root, name: JSON.parse(readFileSync(manifest, 'utf8')).name as string }));
}

/** The projects with tests whose names match `include` and none of `exclude`. */
export function projects(include: string, exclude: readonly string[]): object[] {
  return packages().map(({ name, root }) => ({
    extends: true,
    test: { name, root, include: [include], exclude: ['**/node_modules/**', '**/dist/**', ...exclude] },
  }));
}

export default defineConfig({
  test: {
    projects: projects('test/**/*.test.ts', ['**/*.slow.test.ts']),
    // The machines that run this may have two busy cores.
    testTimeout: 30_000,
    hookTimeout: 30_000,
    maxWorkers: 2,
  },
});
