// Every package's README has an example that runs, and prints what it says: all of it in a comment that begins with
// "prints:", or a value in the comment after a console.log call. Links work.
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
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
    const all = /\/\* prints:\n([\s\S]*?)\n\*\//.exec(code)?.[1];
    if (all !== undefined) expect(stdout.trimEnd()).toBe(all);
    // A comment that begins with a value begins with what is printed; it may go on to explain.
    const said = stdout.split('\n').filter((line) => line !== '');
    for (const [, text] of code.matchAll(/^console\.log\(.*\); \/\/ ((?:\d|true\b|false\b|null\b|\[).*)$/gm))
      expect(
        said.some((line) => text?.startsWith(line)),
        `${text} in ${said.join(' | ')}`,
      ).toBe(true);
  });
});

describe('links in', () => {
  const documents = globSync(['*.md', 'docs/**/*.md', '{packages,apps,tools,examples}/**/*.md'], { cwd: root }).filter(
    (f) => !/node_modules|docs\/api/.test(f),
  );
  it.each(documents)('%s lead somewhere', (file) => {
    const text = readFileSync(join(root, file), 'utf8').replace(/```[\s\S]*?```/g, '');
    const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
      .map((m) => (m[1] as string).replace(/#.*$/, ''))
      .filter((t) => t !== '' && !/^[a-z]+:/.test(t));
    expect(targets.filter((t) => !existsSync(join(root, dirname(file), t)))).toEqual([]);
  });
});
