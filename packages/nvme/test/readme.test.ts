import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

it('the example of the README runs and prints what it says', () => {
  const folder = join(import.meta.dirname, '..');
  const code = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(folder, 'README.md'), 'utf8'))?.[1] ?? '';
  const said = /\/\* prints:\n([\s\S]*?)\n\*\//.exec(code)?.[1]?.split('\n');
  const args = ['--no-warnings', '--input-type=module-typescript', '-e', code];
  const out = execFileSync(process.execPath, args, { cwd: folder, encoding: 'utf8' });
  expect(out.trim().split('\n')).toEqual(said);
});
