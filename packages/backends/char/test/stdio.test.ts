import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

const CHILD = join(import.meta.dirname, 'fixtures', 'child.ts');
const DRIVER = join(import.meta.dirname, 'fixtures', 'pty_driver.py');
const ICANON_ECHO_ISIG = 0x0002 | 0x0008 | 0x0001; // Linux <bits/termios-c_lflag.h>
const dir = mkdtempSync(join(tmpdir(), 'hyve-char-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const python = spawnSync('python3', ['-c', 'import pty, termios'], { stdio: 'ignore' }).status === 0;
const ptyReason = !python
  ? 'python3 with its pty module drives the terminal, and is missing'
  : process.platform !== 'linux'
    ? 'the terminal mode bits are those of Linux'
    : null;

interface PtyResult {
  output: string;
  status: number | null;
  before: number;
  after: number | null;
  during: number;
}

function onPty(steps: object[], args: string[] = ['stdio']): Promise<PtyResult> {
  return new Promise((resolve, reject) => {
    const p = spawn('python3', [DRIVER, process.execPath, CHILD, ...args]);
    let out = '';
    let err = '';
    p.stdout.on('data', (d) => {
      out += d;
    });
    p.stderr.on('data', (d) => {
      err += d;
    });
    p.on('close', () => {
      try {
        resolve(JSON.parse(out));
      } catch {
        reject(new Error(`pty driver: ${out} ${err}`));
      }
    });
    p.stdin.end(JSON.stringify(steps));
  });
}

describe.concurrent('stdio on a terminal', { timeout: 20_000 }, () => {
  const tty = it.skipIf(ptyReason !== null);
  const name = (s: string): string => (ptyReason === null ? s : `${s} (skipped: ${ptyReason})`);

  tty(
    name('is raw: Ctrl-C, Ctrl-Z and Ctrl-S reach the guest; the way out is told once; modes come back'),
    async () => {
      const r = await onPty([
        { wait: 'Press Ctrl-] then x to leave.' },
        { wait: 'ready' },
        { send: '\x03' },
        { wait: 'got 03' },
        { send: '\x1a\x13' },
        { wait: 'got 1a13' },
        { send: 'q' },
      ]);
      expect(r.status).toBe(7);
      expect(r.during & ICANON_ECHO_ISIG).toBe(0);
      expect(r.before & ICANON_ECHO_ISIG).toBe(ICANON_ECHO_ISIG);
      expect(r.after).toBe(r.before);
      expect(r.output.split('Press Ctrl-]').length).toBe(2);
    },
  );

  tty(name('leaves on Ctrl-] x, also when the guest does not read; other keys after Ctrl-] pass'), async () => {
    const r = await onPty([{ wait: 'ready' }, { send: '\x1da' }, { wait: 'got 61' }, { send: '\x1d' }, { send: 'x' }]);
    expect(r.output).toContain('got 1d');
    expect(r.output).toContain('escape');
    expect(r.status).toBe(7);
    expect(r.after).toBe(r.before);
    const deaf = await onPty([{ wait: 'ready' }, { send: 'lost keys\x1d\x1d' }], ['stdio', 'deaf']);
    expect(deaf.status).toBe(7);
  });

  tty(name('without a handler the escape sequence is SIGTERM'), async () => {
    const r = await onPty([{ wait: 'ready' }, { send: '\x1dx' }], ['stdio', 'default-escape']);
    expect(r.status).toBe(-15);
    expect(r.after).toBe(r.before);
  });

  tty(name('restores the terminal after process.exit, a crash, SIGTERM, SIGQUIT and SIGHUP'), async () => {
    const runs = await Promise.all([
      onPty([{ wait: 'ready' }, { send: '~' }]),
      onPty([{ wait: 'ready' }, { send: '!' }]),
      onPty([{ wait: 'ready' }, { signal: 15 }]),
      onPty([{ wait: 'ready' }, { signal: 3 }]),
      onPty([{ wait: 'ready' }, { signal: 1 }]),
    ]);
    expect(runs.map((r) => r.status)).toEqual([3, 1, -15, -3, -1]);
    for (const r of runs) {
      expect(r.during & ICANON_ECHO_ISIG).toBe(0);
      expect(r.after).toBe(r.before);
    }
  });

  tty(name('ends when the terminal goes away'), async () => {
    const r = await onPty([{ wait: 'ready' }, { hangup: true }]);
    expect(r.status).not.toBe(null);
  });
});

function child(args: string[], stdio?: 'pipe'): ChildProcessWithoutNullStreams {
  return spawn(process.execPath, [CHILD, ...args], { stdio: stdio ?? 'pipe' });
}

function collect(p: ChildProcessWithoutNullStreams): Promise<{ out: string; err: string; status: number | null }> {
  return new Promise((resolve) => {
    let out = '';
    let err = '';
    p.stdout.on('data', (d) => {
      out += d;
    });
    p.stderr.on('data', (d) => {
      err += d;
    });
    p.on('close', (status) => resolve({ out, err, status }));
  });
}

function shell(command: string): { out: string; err: string; status: number | null } {
  const r = spawnSync('/bin/sh', ['-c', command], {
    encoding: 'utf8',
    timeout: 15_000,
    env: { ...process.env, N: process.execPath, C: CHILD },
  });
  return { out: r.stdout, err: r.stderr, status: r.status };
}

describe.concurrent('stdio without a terminal', { timeout: 20_000 }, () => {
  it('passes every byte of a pipe, control keys too, and says when it ended', async () => {
    const p = child(['stdio']);
    const done = collect(p);
    p.stdin.end('a\x1dx\x03q');
    const r = await done;
    expect(r.out).toBe('ready\r\n');
    expect(r.err).toContain(`got ${Buffer.from('a\x1dx\x03q').toString('hex')}`);
    expect(r.err).not.toContain('Ctrl-]');
    expect(r.status).toBe(7);
  });

  it('works with real pipes, /dev/null and closed descriptors', () => {
    const piped = shell('printf "hi q" | "$N" "$C" stdio | cat');
    expect(piped.out).toBe('ready\r\n');
    expect(piped.err).toContain('got 68692071');
    const devNull = shell('"$N" "$C" stdio </dev/null');
    expect([devNull.out, devNull.err, devNull.status]).toEqual(['ready\r\n', 'end\n', 0]);
    const closed = shell('"$N" "$C" stdio <&-');
    expect([closed.out, closed.status]).toEqual(['ready\r\n', 0]);
    expect(shell('"$N" "$C" stdio <&- >&-').status).toBe(0);
    const file = join(dir, 'out.txt');
    expect(shell(`"$N" "$C" stdio </dev/null >${file}`).status).toBe(0);
    expect(readFileSync(file, 'utf8')).toBe('ready\r\n');
  });

  it('is honest about a reader that stands still, keeps the event loop alive, and loses nothing (socket)', async () => {
    const p = child(['stdio', 'flood']);
    let err = '';
    p.stderr.on('data', (d) => {
      err += d;
    });
    const until = async (s: string): Promise<void> => {
      for (let i = 0; !err.includes(s) && i < 500; i++) await new Promise((r) => setTimeout(r, 10));
      expect(err).toContain(s);
    };
    await until('refused');
    await until('alive');
    expect(err).not.toContain('done');
    let bytes = 0;
    p.stdout.on('data', (d) => {
      bytes += d.length;
    });
    const status = await new Promise((r) => p.on('close', r));
    expect([bytes, status]).toEqual([1 << 20, 0]);
    expect(err).toContain('done refusals=true');
  });

  it('likewise with a pipe, whose blocking mode it leaves to others as it was', () => {
    const r = shell('"$N" "$C" stdio flood </dev/null | (sleep 1; wc -c)');
    expect(r.out.trim()).toBe(String(1 << 20));
    expect(r.err).toContain('refused');
    expect(r.err).toContain('alive');
    expect(r.err).toContain('done refusals=true');
  });

  it('goes on without a word when the reader goes away', () => {
    const r = shell('"$N" "$C" stdio flood </dev/null | true');
    expect(r.err).toContain('done');
  });
});
