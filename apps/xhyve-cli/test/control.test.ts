// The control socket and `xhyve ctl`: what they take, what they refuse, and what a client may not do to a machine.
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HyveError } from '@hyve/core';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { ControlServer } from '../src/control.ts';
import { ctl, ctlRequest } from '../src/ctl.ts';
import type { RunnablePc } from '../src/run.ts';

const dir = mkdtempSync(join(tmpdir(), 'xhyve-ctl-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let names = 0;
const open: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const f of open.splice(0).reverse()) await f();
});

/** A machine that says what it is told. */
function fake(): RunnablePc & { log: string[] } {
  const log: string[] = [];
  return {
    log,
    run: () => new Promise(() => {}),
    powerButton: () => log.push('button') < 0,
    forceOff: () => void log.push('off'),
    close: async () => {},
    stats: () => ({}),
    pause: async () => void log.push('pause'),
    resume: () => void log.push('resume'),
    reset: async () => void log.push('reset'),
    drives: {
      list: () => [
        { name: '0:4:0.0', device: 'ahci-cd', image: 'a.iso', bytes: 700 << 20, readOnly: true },
        { name: '0:5:0.0', device: 'ahci-cd', image: null, bytes: 0, readOnly: true },
      ],
      eject: async (name, o) => {
        if (o?.force !== true) throw new HyveError('AHCI_LOCKED', 'the guest has locked the drive\non port 0');
        log.push(`eject ${name}`);
      },
      change: async (name, image, o) => void log.push(`change ${name} ${image} ${o?.force}`),
      resize: async (name, bytes) => void log.push(`resize ${name} ${bytes}`),
    },
  };
}

async function serve(pc: RunnablePc, path = join(dir, `s${names++}`)): Promise<string> {
  const server = await ControlServer.listen(path, pc);
  open.push(() => server.close());
  return path;
}

/** What the machine sends until it closes the connection or `n` lines are there. */
function talk(path: string, n: number, send: (s: Socket) => void): Promise<string[]> {
  return new Promise((resolve) => {
    const s = connect(path);
    let text = '';
    s.setEncoding('utf8');
    s.on('error', () => {});
    s.on('connect', () => send(s));
    s.on('data', (d: string) => {
      text += d;
      if (text.split('\n').length > n) s.destroy();
    });
    s.on('close', () => resolve(text.split('\n').slice(0, -1)));
  });
}

async function run(path: string, ...words: string[]): Promise<{ status: number; out: string[]; err: string[] }> {
  const out: string[] = [];
  const err: string[] = [];
  const status = await ctl([path, ...words], { print: (t) => void out.push(t), complain: (l) => void err.push(l) });
  return { status, out, err };
}

describe('xhyve ctl', () => {
  it('tells a machine what it was told', async () => {
    const pc = fake();
    const path = await serve(pc);
    for (const words of [
      ['eject', '4', '--force'],
      ['change', '4', 'b.iso'],
      ['change', '--force', '4', 'c d.iso'],
      ['resize', '3', '20G'],
      ['pause'],
      ['resume'],
      ['reset'],
      ['quit'],
    ])
      expect(await run(path, ...words)).toEqual({ status: 0, out: [], err: [] });
    expect(pc.log).toEqual([
      'eject 4',
      'change 4 b.iso false',
      'change 4 c d.iso true',
      `resize 3 ${20 * 2 ** 30}`,
      'pause',
      'resume',
      'reset',
      'off',
    ]);
    expect(await run(path, 'powerdown')).toEqual({
      status: 0,
      out: [],
      err: ['xhyve: the guest does not listen to the power button'],
    });
  });

  it('prints drives, for people and for programs', async () => {
    const path = await serve(fake());
    expect((await run(path, 'info')).out).toEqual([
      'running\n0:4:0.0  ahci-cd  700 MiB  ro  a.iso\n0:5:0.0  ahci-cd  -        ro  empty',
    ]);
    await run(path, 'pause');
    const info = JSON.parse((await run(path, 'info', '--json')).out[0] as string) as { paused: boolean };
    expect(info.paused).toBe(true);
  });

  it('says in one line why something was not done', async () => {
    const path = await serve(fake());
    expect(await run(path, 'eject', '4')).toEqual({
      status: 1,
      out: [],
      err: ['xhyve: the guest has locked the drive on port 0'],
    });
    expect((await run(path, 'resize', '3', 'much')).err[0]).toContain('"size" is no size');
    await expect(run(join(dir, 'nothing'), 'info')).rejects.toThrow('no machine listens there');
  });

  it.each([
    [[], 'a command is missing'],
    [['explode'], "no command 'explode'"],
    [['eject'], 'eject: DRIVE expected'],
    [['eject', '4', '5'], 'eject: DRIVE expected'],
    [['change', '4'], 'change: DRIVE IMAGE expected'],
    [['change', '4', ''], 'change: DRIVE IMAGE expected'],
    [['resize', '4', '1G', '--force'], "resize: unknown option '--force'"],
    [['pause', 'now'], 'pause: it takes nothing'],
  ])('refuses %j', (words, why) => {
    expect(() => ctlRequest(words)).toThrow(why);
  });

  it('has help', async () => {
    expect((await run(join(dir, 'x'), '--help')).out[0]).toContain('Usage: xhyve ctl PATH COMMAND');
    await expect(ctl([], { print: () => {}, complain: () => {} })).rejects.toThrow('the path of a socket is missing');
  });
});

describe('the socket', () => {
  it('belongs to its owner alone, goes with the machine, and takes the place of one left behind', async () => {
    const path = join(dir, 'mine');
    const mask = process.umask();
    const server = await ControlServer.listen(path, fake());
    expect([statSync(path).mode & 0o777, process.umask()]).toEqual([0o600, mask]);
    await expect(ControlServer.listen(path, fake())).rejects.toThrow('another machine uses it');
    expect((await run(path, 'info')).status).toBe(0);
    await server.close();
    expect(existsSync(path)).toBe(false);

    const file = join(dir, 'file');
    writeFileSync(file, 'mine too');
    await expect(ControlServer.listen(file, fake())).rejects.toThrow('there is a file of that name');
    expect(existsSync(file)).toBe(true);
    await expect(ControlServer.listen(join(dir, 'no/such/folder'), fake())).rejects.toThrow('--control');
  });

  it('answers every line in order, whatever it is', async () => {
    const pc = fake();
    const path = await serve(pc);
    const lines = [
      '{"command":"pause"}',
      'what?',
      '[]',
      'null',
      '{}',
      '{"command":"eject"}',
      '{"command":"eject","drive":7}',
      '{"command":"change","drive":"4","image":"a\\u0000b"}',
      '{"command":"resize","drive":"4","size":-1}',
      '{"command":"__proto__"}',
      '{"command":"resume"}',
    ];
    // A client that closes its side at once gets its answers too.
    const answers = await talk(path, lines.length, (s) => s.end(`${lines.join('\n')}\n\n`));
    expect(answers.length).toBe(lines.length);
    const parsed = answers.map((a) => JSON.parse(a) as { ok: boolean; code?: string });
    expect(parsed.map((a) => a.ok)).toEqual([true, ...lines.slice(2).map(() => false), true]);
    for (const a of parsed.slice(1, -1)) expect(a.code).toBe('CONTROL');
    expect(pc.log).toEqual(['pause', 'resume']);
  });

  it('bounds lines, connections and answers that nobody reads', async () => {
    const pc = fake();
    const path = await serve(pc);
    const flood = await talk(path, 5, (s) => s.write('x'.repeat(1 << 20)));
    expect(flood.map((a) => JSON.parse(a).message)).toEqual(['a line of more than 16384 characters']);

    const idle = await Promise.all(
      Array.from(
        { length: 8 },
        () =>
          new Promise<Socket>((resolve) => {
            const s = connect(path, () => resolve(s));
            s.on('error', () => {});
          }),
      ),
    );
    open.push(() => {
      for (const s of idle) s.destroy();
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await talk(path, 1, (s) => s.write('{"command":"info"}\n'))).toEqual([]);
    for (const s of idle.splice(1)) s.destroy();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect((await run(path, 'info')).status).toBe(0);

    // Answers are about 300 bytes each: the connection is dropped when too many wait.
    const deaf = idle[0] as Socket;
    deaf.pause();
    const gone = new Promise<void>((resolve) => deaf.once('close', () => resolve()));
    for (let i = 0; i < 30_000 && !deaf.destroyed; i++) deaf.write('{"command":"info"}\n');
    setTimeout(() => deaf.resume(), 1000);
    await gone;
    expect((await run(path, 'info')).status).toBe(0);
  });

  it('is no machine’s: an answer without end or sense ends the client', async () => {
    for (const [text, why] of [
      ['nonsense\n', 'no JSON'],
      ['x'.repeat(5 << 20), 'without end'],
      ['', 'closed the connection'],
    ] as const) {
      const path = join(dir, `odd${names++}`);
      const odd = createServer((s) => {
        s.on('error', () => {});
        s.resume();
        s.end(text);
      }).listen(path);
      await expect(run(path, 'info')).rejects.toThrow(why);
      await new Promise((resolve) => odd.close(resolve));
    }
  });
});
