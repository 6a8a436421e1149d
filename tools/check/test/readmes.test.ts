// Every package's README has an example that runs, and prints what the comments after its console.log calls say.
import { spawnSync } from 'node:child_process';
import { globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '../../..');
const folders = globSync(['packages/*/README.md', 'packages/*/*/README.md'], { cwd: root })
  .map((f) => f.slice(0, -'/README.md'.length))
  .filter((f) => !f.includes('node_modules'))
  .sort();

// Examples run in a folder of their own, where every package of the repository can be imported by name.
const cwd = mkdtempSync(join(tmpdir(), 'hyve-readme-'));
for (const file of globSync(['packages/*/package.json', 'packages/*/*/package.json'], { cwd: root })) {
  if (file.includes('node_modules')) continue;
  const { name } = JSON.parse(readFileSync(join(root, file), 'utf8')) as { name: string };
  const link = join(cwd, 'node_modules', name);
  mkdirSync(dirname(link), { recursive: true });
  symlinkSync(join(root, dirname(file)), link);
}
afterAll(() => rmSync(cwd, { recursive: true, force: true }));

describe('the example in the README of', () => {
  it.each(folders)('%s', (folder) => {
    const readme = readFileSync(join(root, folder, 'README.md'), 'utf8');
    const section = readme.slice(readme.indexOf('## Example'));
    const code = /```ts\n([\s\S]*?)```/.exec(section)?.[1] ?? '';
    expect(code, 'an example').not.toBe('');
    const args = ['--no-warnings', '--input-type=module-typescript', '-e', code];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      cwd,
      encoding: 'utf8',
      input: '',
      timeout: 20_000,
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const said = stdout.split('\n');
    for (const [, text] of code.matchAll(/^console\.log\(.*\); \/\/ (.*)$/gm)) expect(said).toContain(text);
  });
});
