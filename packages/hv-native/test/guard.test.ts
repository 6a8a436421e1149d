// Signals that end a process whose event loop does not turn.
import { type ChildProcess, spawn } from 'node:child_process';
import { afterEach, describe, expect, it } from 'vitest';
import { guardSignal } from '../src/index.ts';
import { native } from './setup.ts';

const source = new URL('../src/index.ts', import.meta.url).href;

const started: ChildProcess[] = [];
afterEach(() => {
  for (const child of started.splice(0)) child.kill('SIGKILL');
});

function run(body: string): { child: ChildProcess; line: () => Promise<string>; end: Promise<unknown> } {
  const script = `const { guardSignal } = await import(${JSON.stringify(source)});
    let n = 0; process.on('SIGTERM', () => { answer(); console.log('signal ' + ++n); if (n === 3) process.exit(7); });
    const answer = guardSignal('SIGTERM'); ${body}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  started.push(child);
  const end = new Promise((resolve) => child.on('close', (code, signal) => resolve(signal ?? code)));
  const line = (): Promise<string> =>
    new Promise((resolve) => child.stdout?.once('data', (b: Buffer) => resolve(b.toString().trim())));
  return { child, line, end };
}

describe.skipIf(native === null)('guardSignal', () => {
  it('ends a process that hangs at the second signal', async (context) => {
    if (process.env['TSAN_OPTIONS'] !== undefined)
      context.skip('the thread sanitizer keeps signals from a thread that waits outside of instrumented code');
    const { child, line, end } = run(
      "const { writeSync } = await import('node:fs'); setTimeout(() => { writeSync(1, 'hangs'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0); }, 50);",
    );
    expect(await line()).toBe('hangs');
    child.kill('SIGTERM');
    await new Promise((r) => setTimeout(r, 200));
    expect(child.exitCode ?? child.signalCode).toBeNull();
    // Two that arrive before the first is taken are one: on a busy machine it may need another.
    const again = setInterval(() => child.kill('SIGTERM'), 500);
    child.kill('SIGTERM');
    expect(await end).toBe('SIGKILL');
    clearInterval(again);
  });

  it('leaves signals that are answered to their handler', async () => {
    const { child, line, end } = run("console.log('ready'); setInterval(() => {}, 1000);");
    expect(await line()).toBe('ready');
    for (let i = 1; i <= 3; i++) {
      const next = line();
      child.kill('SIGTERM');
      expect(await next).toBe(`signal ${i}`);
    }
    expect(await end).toBe(7);
  });

  it('wants a handler first', () => {
    expect(() => guardSignal('SIGHUP')).toThrow(expect.objectContaining({ code: 'SIGNAL' }));
  });
});
