import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import type { CharBackend } from '@hyve/core';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { EscapeFilter } from '../src/escape.ts';
import { RING_SIZE, RingLogOutput } from '../src/files.ts';
import * as api from '../src/index.ts';
import { openCharBackend, parseCharSpec, readRingLog } from '../src/index.ts';

const dir = mkdtempSync(join(tmpdir(), 'hyve-char-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let files = 0;
const fresh = (): string => join(dir, `f${files++}`);
const bytes = (s: string): Uint8Array => new TextEncoder().encode(s);
const code = (c: string): unknown => expect.objectContaining({ code: c });

async function until(what: () => boolean, name: string): Promise<void> {
  for (let i = 0; i < 400; i++) {
    if (what()) return;
    await new Promise((r) => setTimeout(r, 5));
  }
  throw new Error(`waited in vain for: ${name}`);
}

async function freePort(): Promise<number> {
  const s = createServer();
  await new Promise<void>((r) => s.listen(0, '127.0.0.1', r));
  const address = s.address();
  await new Promise((r) => s.close(r));
  return typeof address === 'object' && address !== null ? address.port : 0;
}

function text(socket: Socket): { text: string; closed: boolean } {
  const seen = { text: '', closed: false };
  socket.on('data', (d) => {
    seen.text += d;
  });
  socket.on('close', () => {
    seen.closed = true;
  });
  socket.on('error', () => {});
  return seen;
}

describe('console strings', () => {
  it.each([
    ['stdio', { kind: 'stdio' }],
    ['null', { kind: 'null' }],
    ['autopty', { kind: 'autopty', file: null }],
    ['autopty=/tmp/p', { kind: 'autopty', file: '/tmp/p' }],
    ['tcp=5000', { kind: 'tcp', host: '127.0.0.1', port: 5000 }],
    ['tcp=0.0.0.0:1', { kind: 'tcp', host: '0.0.0.0', port: 1 }],
    ['tcp=localhost:65535', { kind: 'tcp', host: 'localhost', port: 65535 }],
    ['tcp=[::1]:5000', { kind: 'tcp', host: '::1', port: 5000 }],
    ['unix:/tmp/s', { kind: 'unix', path: '/tmp/s' }],
    ['unix=/tmp/s', { kind: 'unix', path: '/tmp/s' }],
    ['/dev/ttys004', { kind: 'path', path: '/dev/ttys004' }],
    ['./tty', { kind: 'path', path: './tty' }],
  ])('parses %s', (spec, main) => {
    expect(parseCharSpec(spec)).toEqual({ main, copies: [] });
  });

  it('combines a console with copies, in any order', () => {
    expect(parseCharSpec('log=ring,autopty=p,file=all')).toEqual({
      main: { kind: 'autopty', file: 'p' },
      copies: [
        { kind: 'log', path: 'ring' },
        { kind: 'file', path: 'all' },
      ],
    });
    expect(parseCharSpec('log=ring').main).toEqual({ kind: 'null' });
  });

  it.each([
    ['', 'is empty'],
    ['stdio,', 'empty part'],
    ['stdio,null', 'two consoles'],
    ['stdin', 'is no back end'],
    ['stdio=1', 'takes no value'],
    ['autopty=', 'file name'],
    ['tcp', 'needs a port'],
    ['tcp=', 'not [ip:]port'],
    ['tcp=host', 'not [ip:]port'],
    ['tcp=0', 'not within'],
    ['tcp=65536', 'not within'],
    ['tcp=::1:5000', 'brackets'],
    ['tcp=[127.0.0.1]:5000', 'no IPv6'],
    ['tcp=1.2.3:5000', 'no IPv4'],
    ['tcp=:5000', 'empty'],
    ['unix:', 'needs a path'],
    ['log=', 'file name'],
  ])('refuses "%s" in one line that names the fault', (spec, part) => {
    try {
      parseCharSpec(spec);
      expect.unreachable();
    } catch (e) {
      expect(e).toEqual(code('CHAR_SPEC'));
      expect(String(e)).toContain(part);
      expect(String(e)).not.toContain('\n');
    }
  });

  it('parses or refuses by code whatever it is given (property)', () => {
    fc.assert(
      fc.property(fc.string(), (s) => {
        try {
          parseCharSpec(s);
        } catch (e) {
          expect(e).toEqual(code('CHAR_SPEC'));
        }
      }),
    );
  });
});

describe('escape sequence', () => {
  it('gives the same bytes and escapes however input is cut', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(0x1d, 0x78, 0x61, 0x62)), fc.array(fc.nat(5)), (input, cuts) => {
        const run = (pieces: number[][]): [number[], number] => {
          const got: number[] = [];
          let escapes = 0;
          const f = new EscapeFilter({ prefix: 0x1d, onEscape: () => escapes++, pass: (b) => got.push(...b) });
          for (const p of pieces) f.feed(Uint8Array.from(p));
          return [got, escapes];
        };
        const pieces: number[][] = [];
        let rest = input;
        for (const c of cuts) {
          pieces.push(rest.slice(0, c));
          rest = rest.slice(c);
        }
        pieces.push(rest);
        const whole = run([input]);
        expect(run(pieces)).toEqual(whole);
        let escapes = 0;
        for (let i = 0; i < input.length; i++) {
          if (input[i] !== 0x1d) continue;
          i++; // a prefix takes the next key along, whatever it is
          if (input[i] === 0x1d || input[i] === 0x78) escapes++;
        }
        expect(whole[1]).toBe(escapes);
      }),
    );
  });
});

describe('null and files', () => {
  it('null takes everything', async () => {
    const b = await openCharBackend('null');
    expect(b.write(bytes('x'))).toBe(true);
    await b.close();
    expect(b.write(bytes('x'))).toBe(true);
  });

  it('file= appends, log= starts anew; both copy what the console says', async () => {
    const file = fresh();
    const log = fresh();
    writeFileSync(file, 'old ');
    writeFileSync(log, 'old ');
    const b = await openCharBackend(`null,file=${file},log=${log}`);
    const reused = bytes('hello');
    b.write(reused);
    reused.fill(0x2a);
    await b.close();
    expect(readFileSync(file, 'utf8')).toBe('old hello');
    expect(readFileSync(log, 'utf8')).toBe('hello');
    expect(new TextDecoder().decode(readRingLog(log))).toBe('hello');
  });

  it('a ring log keeps the newest bytes, in order, in a file of bounded size', async () => {
    const log = fresh();
    const ring = new RingLogOutput(log);
    const line = (i: number): string => `line ${String(i).padStart(8, '0')}\n`;
    const n = Math.ceil((RING_SIZE * 2.5) / line(0).length);
    let batch = '';
    for (let i = 0; i < n; i++) {
      batch += line(i);
      if (batch.length > 60_000 || i === n - 1) {
        ring.write(bytes(batch));
        batch = '';
      }
    }
    await ring.close();
    expect(statSync(log).size).toBe(RING_SIZE);
    const back = new TextDecoder().decode(readRingLog(log));
    expect(back.length).toBe(RING_SIZE - 1);
    const lines = back.split('\n').slice(1, -1);
    lines.forEach((l, i) => {
      if (`${l}\n` !== line(n - lines.length + i)) throw new Error(`${l} at ${i}`);
    });
  });

  it('names files that cannot be opened', async () => {
    await expect(openCharBackend(`null,file=${dir}/no/such`)).rejects.toEqual(code('CHAR_FILE'));
    await expect(openCharBackend(`log=${dir}`)).rejects.toEqual(code('CHAR_FILE'));
  });
});

describe('tcp and unix', () => {
  async function exchange(b: CharBackend, dial: () => Socket): Promise<void> {
    expect(b.write(bytes('nobody hears\n'))).toBe(true);
    const one = dial();
    const heard = text(one);
    await until(() => one.readyState === 'open', 'connection');
    one.write('early ');
    let got = '';
    await new Promise((r) => setTimeout(r, 20));
    b.onData = (x) => {
      got += new TextDecoder().decode(x);
    };
    await until(() => got === 'early ', 'held-back input');
    b.write(bytes('hello\n'));
    await until(() => heard.text === 'hello\n', 'output');
    const two = dial();
    const refused = text(two);
    await until(() => refused.closed, 'refusal of a second client');
    expect(refused.text).toContain('busy');
    b.setFlow(true);
    one.write('paused');
    await new Promise((r) => setTimeout(r, 30));
    expect(got).toBe('early ');
    b.setFlow(false);
    await until(() => got === 'early paused', 'input after the pause');
    one.destroy();
    await until(() => heard.closed, 'hang-up');
    const three = dial();
    const again = text(three);
    await until(() => {
      b.write(bytes('.'));
      return again.text.length > 0;
    }, 'a new client');
    await b.close();
    await until(() => again.closed, 'close');
  }

  it('serves one client after the other over TCP', async () => {
    const port = await freePort();
    await exchange(await openCharBackend(`tcp=${port}`), () => connect(port, '127.0.0.1'));
  });

  it('serves over a UNIX socket, replaces a stale one, and refuses one in use', async () => {
    const path = fresh();
    const child = spawnSync(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(path)},()=>process.kill(process.pid,'SIGKILL'))`,
    ]);
    expect(child.signal).toBe('SIGKILL');
    expect(statSync(path).isSocket()).toBe(true);
    const b = await openCharBackend(`unix:${path}`);
    await expect(openCharBackend(`unix:${path}`)).rejects.toEqual(code('CHAR_LISTEN'));
    await new Promise((r) => setTimeout(r, 30)); // the second one's probe hangs up
    await exchange(b, () => connect(path));
    expect(existsSync(path)).toBe(false);
    writeFileSync(path, 'precious');
    await expect(openCharBackend(`unix:${path}`)).rejects.toEqual(code('CHAR_LISTEN'));
    expect(readFileSync(path, 'utf8')).toBe('precious');
  });

  it('listens on IPv6 in brackets', async (t) => {
    const port = await freePort();
    let b: CharBackend;
    try {
      b = await openCharBackend(`tcp=[::1]:${port}`);
    } catch {
      return t.skip('this host has no IPv6 loopback');
    }
    const c = connect(port, '::1');
    const heard = text(c);
    await until(() => {
      b.write(bytes('6'));
      return heard.text !== '';
    }, 'output over IPv6');
    c.destroy();
    await b.close();
  });

  it('names a port that is taken', async () => {
    const port = await freePort();
    const b = await openCharBackend(`tcp=${port}`);
    await expect(openCharBackend(`tcp=${port}`)).rejects.toEqual(code('CHAR_LISTEN'));
    await b.close();
  });

  it('refuses when a client does not read, bounds what it keeps, and drains when it reads or goes', async () => {
    const port = await freePort();
    const b = await openCharBackend(`tcp=${port}`);
    const c = connect(port, '127.0.0.1');
    c.pause();
    await until(() => c.readyState === 'open', 'connection');
    await new Promise((r) => setTimeout(r, 20));
    const chunk = new Uint8Array(65536);
    let drained = 0;
    b.onDrain = () => drained++;
    let sent = 0;
    while (b.write(chunk)) {
      sent += chunk.length;
      if (sent > 1 << 26) throw new Error('never refused');
      await new Promise((r) => setImmediate(r));
    }
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 1000; i++) b.write(chunk); // a caller that does not listen
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(4 << 20);
    expect(drained).toBe(0);
    c.on('data', () => {});
    c.resume();
    await until(() => drained === 1, 'drain');
    c.pause();
    while (b.write(chunk)) await new Promise((r) => setImmediate(r));
    c.destroy();
    await until(() => drained === 2, 'drain after the client left');
    expect(b.write(chunk)).toBe(true);
    await b.close();
  });
});

describe('paths', () => {
  it('refuses what no console can be on, and says what it is', async () => {
    const file = fresh();
    writeFileSync(file, '');
    for (const [path, what] of [
      [file, 'regular file'],
      [dir, 'directory'],
      [`${dir}/none`, 'ENOENT'],
      ['/dev/zero', 'no terminal'],
    ] as const) {
      const e: unknown = await openCharBackend(path).catch((x: unknown) => x);
      expect(e).toEqual(code('CHAR_PATH'));
      expect(String(e)).toContain(what);
    }
    await (await openCharBackend('/dev/null')).close();
  });

  it('writes into a FIFO when somebody reads, and does not wait when nobody does', async (t) => {
    const path = fresh();
    if (spawnSync('mkfifo', [path]).status !== 0) return t.skip('mkfifo is missing');
    const b = await openCharBackend(path);
    expect(b.write(new Uint8Array(1 << 20))).toBe(true);
    const reader = spawn('cat', [path]);
    let got = '';
    reader.stdout.on('data', (d) => {
      got += d;
    });
    await until(() => {
      b.write(bytes('.'));
      return got !== '';
    }, 'the reader');
    reader.kill();
    await new Promise((r) => reader.on('close', r));
    for (let i = 0; i < 100; i++) expect(b.write(new Uint8Array(4096))).toBe(true);
    await b.close();
  });

  it('talks over an existing terminal in raw mode and puts its modes back', async (t) => {
    const script = [
      'import json,os,pty,sys,termios',
      'm,s=pty.openpty()',
      'a=termios.tcgetattr(s)[3]',
      'print(os.ttyname(s),flush=True)',
      'sys.stdin.readline()',
      'b=termios.tcgetattr(s)[3]',
      'os.write(m,b"\\x03hi")',
      'print(json.dumps([b&11,os.read(m,100).decode()]),flush=True)',
      'sys.stdin.readline()',
      'print(termios.tcgetattr(s)[3]==a,flush=True)',
    ].join('\n');
    if (process.platform !== 'linux') return t.skip('the terminal mode bits are those of Linux');
    const py = spawn('python3', ['-c', script]);
    const ok = await new Promise<boolean>((r) => {
      py.on('error', () => r(false));
      py.on('spawn', () => r(true));
    });
    if (!ok) return t.skip('python3 drives the other end, and is missing');
    let out = '';
    py.stdout.on('data', (d) => {
      out += d;
    });
    await until(() => out.includes('\n'), 'terminal name');
    const b = await openCharBackend(out.trim());
    let got = '';
    b.onData = (x) => {
      got += Buffer.from(x).toString('latin1');
    };
    b.write(bytes('out'));
    py.stdin.write('\n');
    await until(() => got === '\x03hi', 'raw input');
    await until(() => out.includes(']'), 'output');
    expect(JSON.parse(out.split('\n')[1] as string)).toEqual([0, 'out']);
    await b.close();
    py.stdin.write('\n');
    await until(() => out.includes('True') || out.includes('False'), 'modes');
    expect(out).toContain('True');
  });
});

describe('autopty', () => {
  const hasFfi = process.getBuiltinModule('node:ffi') !== undefined && process.platform === 'linux';

  it.skipIf(hasFfi)('fails by name where Node cannot make a pseudo-terminal (only without node:ffi)', async () => {
    await expect(openCharBackend('autopty')).rejects.toEqual(code('CHAR_UNSUPPORTED'));
  });

  it.skipIf(!hasFfi)('without node:ffi fails by name (run with the module switched off)', () => {
    const r = spawnSync(
      process.execPath,
      [
        '--no-experimental-ffi',
        '-e',
        `import(${JSON.stringify(join(import.meta.dirname, '../src/index.ts'))}).then(m=>m.openCharBackend('autopty')).catch(e=>console.log(e.code,e.message))`,
      ],
      { encoding: 'utf8' },
    );
    expect(r.stdout).toMatch(/^CHAR_UNSUPPORTED autopty needs .*\n$/);
  });

  it.skipIf(!hasFfi)(
    'tells its path, talks to whoever attaches, again and again, and drops output meanwhile',
    async () => {
      const file = fresh();
      let path = '';
      const b = await openCharBackend(`autopty=${file}`, {
        onPty: (p) => {
          path = p;
        },
      });
      expect(readFileSync(file, 'utf8')).toBe(`${path}\n`);
      let got = '';
      b.onData = (x) => {
        got += new TextDecoder().decode(x);
      };
      for (let i = 0; i < 64; i++) expect(b.write(new Uint8Array(4096))).toBe(true);
      for (const word of ['one', 'two']) {
        const client = await openCharBackend(path);
        let heard = '';
        client.onData = (x) => {
          heard += new TextDecoder().decode(x);
        };
        await until(() => {
          b.write(bytes(`${word}.`));
          return heard.includes(`${word}.`);
        }, 'output on the terminal');
        got = '';
        client.write(bytes(`${word}\r`));
        await until(() => got === `${word}\r`, 'input from the terminal');
        await client.close();
        await new Promise((r) => setTimeout(r, 50));
      }
      await b.close();
      expect(existsSync(file)).toBe(false);
    },
  );
});

describe('api', () => {
  it('exports what it says', () => {
    expect(Object.keys(api).sort()).toEqual(['openCharBackend', 'parseCharSpec', 'readRingLog']);
  });
});
