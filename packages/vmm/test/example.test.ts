import { readFileSync } from 'node:fs';
import { expect, it, vi } from 'vitest';

it('the README shows the example that runs, and it prints what it says', async () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const example = readFileSync(new URL('./example.ts', import.meta.url), 'utf8');
  expect(readme.match(/```ts\n([\s\S]*?)```/)?.[1]).toBe(example);
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    await import('./example.ts');
    expect(log.mock.calls).toEqual([[true, '34'], ['41']]);
  } finally {
    log.mockRestore();
  }
});
