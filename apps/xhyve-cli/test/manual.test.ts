// The manual page and the completions belong to the option table: `vitest -u` writes them anew.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { OPTIONS } from '../src/help.ts';
import { manualFiles } from '../src/manual.ts';

const root = join(import.meta.dirname, '..');
const files = manualFiles();
const has = (program: string, ...args: string[]): boolean =>
  spawnSync(program, args, { input: '' }).error === undefined;

it.each(Object.entries(files))('%s is what the option table gives', async (path, text) => {
  await expect(text).toMatchFileSnapshot(join(root, path));
});

it('the package ships them', () => {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { files: string[]; man: string };
  expect(manifest.man).toBe('./man/xhyve.8');
  for (const path of Object.keys(files)) expect(manifest.files).toContain(path.split('/')[0]);
});

describe('man/xhyve.8', () => {
  it('is what mandoc and man take without a word', (t) => {
    if (!has('mandoc', '-h')) return t.skip('mandoc is missing');
    const lint = spawnSync('mandoc', ['-Tlint', join(root, 'man/xhyve.8')], { encoding: 'utf8' });
    expect(lint.stdout + lint.stderr).toBe('');
    const text = spawnSync('mandoc', ['-Tutf8', join(root, 'man/xhyve.8')], { encoding: 'utf8' }).stdout;
    const plain = text.replaceAll(/.\u0008/gu, '');
    for (const o of OPTIONS) expect(plain).toContain(o.option);
  });
});

describe('completions', () => {
  const complete = (line: string[]): string[] => {
    const words = line.map((w) => `'${w}'`).join(' ');
    const script = `. '${join(root, 'completions/xhyve.bash')}'; COMP_WORDS=(${words}); COMP_CWORD=${line.length - 1}; _xhyve; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const r = spawnSync('bash', ['--norc', '-c', script], { encoding: 'utf8' });
    expect(r.stderr).toBe('');
    return r.stdout.split('\n').filter((w) => w !== '');
  };
  it('bash: options, engines, devices, commands', (t) => {
    if (!has('bash', '--version')) return t.skip('bash is missing');
    expect(complete(['xhyve', '--pro'])).toEqual(['--profile']);
    expect(complete(['xhyve', '-'])).toEqual([...new Set(OPTIONS.map((o) => o.option))]);
    expect(complete(['xhyve', '--engine', 's'])).toEqual(['soft']);
    expect(complete(['xhyve', '-s', '3:0,virtio-b'])).toContain('3:0,virtio-blk');
    expect(complete(['xhyve', '-f', 'k'])).toEqual(['kexec,']);
    expect(complete(['xhyve', 'pu'])).toEqual(['pull']);
    expect(complete(['xhyve', '-m', ''])).toEqual([]);
  });
  it.each([
    ['zsh', ['-n', 'completions/_xhyve']],
    ['fish', ['--no-execute', 'completions/xhyve.fish']],
  ])('%s reads its file', (shell, args) => {
    if (!has(shell, '--version')) return;
    const r = spawnSync(shell, args, { cwd: root, encoding: 'utf8' });
    expect([r.status, r.stderr]).toEqual([0, '']);
  });
});
