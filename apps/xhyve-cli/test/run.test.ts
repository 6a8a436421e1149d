import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HyveError } from '@hyve/core';
import { hasTranslatorThread, type MachineSpec, type PcHost, type StopReason } from '@hyve/pc';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { notBuilt } from '../src/errors.ts';
import { resolveMachine } from '../src/machine.ts';
import { type Board, exitStatus, type RunIo, type RunnablePc, runMachine, SignalPolicy } from '../src/run.ts';
import { EVERYTHING, parseRun, SOFT_ONLY } from './helpers.ts';

const dir = mkdtempSync(join(tmpdir(), 'xhyve-run-'));
afterEach(() => {
  rmSync(dir, { recursive: true, force: true });
});

const spec = (line = ''): MachineSpec => resolveMachine(parseRun(`${line} -f kexec,k`), EVERYTHING);

function io(raw = false): RunIo & { lines: string[]; restored: number } {
  const me = {
    lines: [] as string[],
    restored: 0,
    note: (l: string) => void me.lines.push(l),
    isRaw: () => raw,
    restoreTerminal: () => void me.restored++,
  };
  return me;
}

/** A board whose machine stops with `reason`, or when told to. */
function board(o: {
  reason?: StopReason;
  listens?: boolean;
  onBuild?: (spec: MachineSpec, host: PcHost) => void | Promise<void>;
  detail?: string;
}): Board & { presses: number; forced: number; closed: number } {
  let finish: (r: StopReason) => void = () => {};
  const me = {
    presses: 0,
    forced: 0,
    closed: 0,
    support: SOFT_ONLY,
    hasTranslatorThread,
    createPc: async (s: MachineSpec, host: PcHost): Promise<RunnablePc> => {
      await o.onBuild?.(s, host);
      return {
        run: () =>
          new Promise((done) => {
            finish = done;
            if (o.reason !== undefined) done(o.reason);
            else if (me.forced > 0) done('poweroff');
          }),
        powerButton: () => {
          me.presses++;
          if (o.listens === true) finish('poweroff');
          return o.listens === true;
        },
        forceOff: () => {
          me.forced++;
          finish('poweroff');
        },
        close: async () => void me.closed++,
        stats: () => ({ 'cpu.instructions': 42 }),
        detail: o.detail ?? '',
      };
    },
  };
  return me;
}

describe('exit status', () => {
  it.each([
    ['reset', 0],
    ['poweroff', 1],
    ['halt', 2],
    ['triple-fault', 3],
    ['error', 4],
  ] as const)('%s is %i (bhyve(8), EXIT STATUS)', async (reason, status) => {
    expect(exitStatus(reason)).toBe(status);
    const b = board({ reason });
    expect(await runMachine(spec(), { board: b, io: io() })).toBe(status);
    expect(b.closed).toBe(1);
  });
  it('says what went wrong', async () => {
    const i = io();
    await runMachine(spec(), { board: board({ reason: 'triple-fault', detail: 'vcpu 0 at 0x7c00' }), io: i });
    expect(i.lines).toEqual(['xhyve: triple fault: vcpu 0 at 0x7c00']);
  });
  it('prints counters with --stats', async () => {
    const i = io();
    await runMachine(spec(), { board: board({ reason: 'reset' }), io: i, stats: 0 });
    expect(i.lines).toEqual(['cpu.instructions 42']);
  });
});

describe('failures give one line and a status', () => {
  const failing = async (e: unknown): Promise<[number, string[]]> => {
    const i = io();
    const b = board({
      onBuild: () => {
        throw e;
      },
    });
    return [await runMachine(spec(), { board: b, io: i }), i.lines];
  };
  it('a loader error is 4', async () => {
    expect(await failing(new HyveError('KERNEL_MAGIC', 'vmlinuz: not a\nbzImage'))).toEqual([
      4,
      ['xhyve: vmlinuz: not a bzImage'],
    ]);
  });
  it('something not built is 1', async () => {
    expect(await failing(notBuilt('x'))).toEqual([1, ['xhyve: x is not built yet']]);
  });
  it('anything else is 4', async () => {
    expect(await failing('odd')).toEqual([4, ['xhyve: odd']]);
  });
  it('a missing kernel is named', async () => {
    const i = io();
    const b = board({ onBuild: async (_s, host) => void (await host.readFile('/nowhere/vmlinuz')) });
    expect(await runMachine(spec(), { board: b, io: i })).toBe(4);
    expect(i.lines).toEqual(['xhyve: /nowhere/vmlinuz: no such file']);
  });
  it('more memory than the host has', async () => {
    const i = io();
    expect(await runMachine(spec('-m 4G'), { board: board({}), io: i, hostBytes: 2 ** 31 })).toBe(4);
    expect(i.lines).toEqual(['xhyve: -m: 4 GiB is more than this host has (2 GiB)']);
  });
  it('an uncaught error ends the machine with 4', async () => {
    const i = io();
    const b = board({});
    const done = runMachine(spec(), {
      board: b,
      io: i,
      onPc: () => setTimeout(() => process.emit('uncaughtException', new Error('boom')), 1),
    });
    expect(await done).toBe(4);
    expect(i.lines).toEqual(['xhyve: boom']);
    expect(b.closed).toBe(1);
    expect(i.restored).toBeGreaterThan(0);
  });
});

describe('what is kept for the next start', () => {
  let before: string | undefined;
  beforeEach(() => {
    before = process.env['XDG_CACHE_HOME'];
    process.env['XDG_CACHE_HOME'] = mkdtempSync(join(tmpdir(), 'xhyve-kept-'));
  });
  afterEach(() => {
    rmSync(process.env['XDG_CACHE_HOME'] as string, { recursive: true, force: true });
    if (before === undefined) delete process.env['XDG_CACHE_HOME'];
    else process.env['XDG_CACHE_HOME'] = before;
  });

  /** The first random words for the kernel's place in two starts of one machine; undefined where the board has its own. */
  const places = async (line: string, cores = 2): Promise<(number | undefined)[]> => {
    const out: (number | undefined)[] = [];
    for (let i = 0; i < 2; i++) {
      const b = board({ reason: 'reset', onBuild: (_s, host) => void out.push(host.placement?.()) });
      await runMachine(spec(line), { board: b, io: io(), cores });
    }
    return out;
  };
  it('fixes the place of a kernel whose translations are kept, threads of vCPUs or not', async () => {
    for (const line of ['', '-c 2 -o vcpu_threads=on']) {
      const [first, second] = await places(line);
      expect(first).toBeTypeOf('number');
      expect(second).toBe(first);
    }
  });
  it.each(['--engine kvm', '-o translator=off', '-o translator=1', '-o translation_cache=off', '-o clock=virtual'])(
    'leaves the place to chance with %s, where nothing is kept',
    async (line) => {
      expect(await places(line)).toEqual([undefined, undefined]);
      expect(readdirSync(process.env['XDG_CACHE_HOME'] as string)).toEqual([]);
    },
  );
  it('leaves the place to chance on a host with one core, where there is no thread to keep anything', async () => {
    expect(await places('', 1)).toEqual([undefined, undefined]);
  });
});

describe('pid file', () => {
  it('exists while the machine runs and is removed', async () => {
    const path = join(mkdtempSync(join(tmpdir(), 'xhyve-pid-')), 'pid');
    let seen = '';
    const b = board({
      reason: 'reset',
      onBuild: () => {
        seen = readFileSync(path, 'utf8');
      },
    });
    expect(await runMachine(spec(`-F ${path}`), { board: b, io: io() })).toBe(0);
    expect(seen).toBe(`${process.pid}\n`);
    expect(existsSync(path)).toBe(false);
  });
  it('is refused when it exists, and left alone', async () => {
    const path = join(mkdtempSync(join(tmpdir(), 'xhyve-pid-')), 'pid');
    writeFileSync(path, '77\n');
    const i = io();
    expect(await runMachine(spec(`-F ${path}`), { board: board({}), io: i })).toBe(4);
    expect(i.lines).toEqual([`xhyve: -F ${path}: the pid file exists already (process 77)`]);
    expect(readFileSync(path, 'utf8')).toBe('77\n');
  });
});

describe('signals', () => {
  it('decides by what came before', () => {
    const decide = (...what: [Parameters<SignalPolicy['decide']>[0], boolean][]) => {
      const p = new SignalPolicy();
      return what.map(([w, raw]) => p.decide(w, raw));
    };
    expect(decide(['SIGTERM', false], ['SIGTERM', false])).toEqual(['power-button', 'kill']);
    expect(decide(['SIGHUP', true], ['SIGTERM', true])).toEqual(['hang-up', 'kill']);
    expect(decide(['SIGINT', true], ['SIGINT', true])).toEqual(['type-ctrl-c', 'type-ctrl-c']);
    expect(decide(['SIGINT', false], ['SIGINT', false])).toEqual(['power-button', 'kill']);
    expect(decide(['gone', true], ['SIGHUP', false], ['SIGHUP', false])).toEqual(['hang-up', 'nothing', 'kill']);
    expect(decide(['SIGHUP', false], ['gone', false], ['gone', false])).toEqual(['hang-up', 'nothing', 'nothing']);
  });
  it('SIGTERM presses the power button', async () => {
    const b = board({ listens: true });
    const done = runMachine(spec(), { board: b, io: io(), onPc: () => setTimeout(() => process.emit('SIGTERM'), 1) });
    expect(await done).toBe(1);
    expect([b.presses, b.forced]).toEqual([1, 0]);
    expect(process.listenerCount('SIGTERM')).toBe(0);
  });
  it('SIGHUP forces a guest that does not listen', async () => {
    const b = board({ listens: false });
    const done = runMachine(spec(), { board: b, io: io(), onPc: () => setTimeout(() => process.emit('SIGHUP'), 1) });
    expect(await done).toBe(1);
    expect([b.presses, b.forced]).toEqual([1, 1]);
  });
  it('SIGTERM during building stops the machine before it runs', async () => {
    const b = board({ onBuild: () => void process.emit('SIGTERM') });
    expect(await runMachine(spec(), { board: b, io: io() })).toBe(1);
    expect(b.forced).toBe(1);
  });

  const root = fileURLToPath(new URL('../../..', import.meta.url));
  const bundled = join(root, 'node_modules/.bin/node');
  const node = existsSync(bundled) ? bundled : process.execPath;
  const major = Number(spawnSync(node, ['-p', 'process.versions.node.split(".")[0]']).stdout.toString());
  it.skipIf(major < 24)('a second SIGTERM ends the process, with the pid file gone', async () => {
    const path = join(mkdtempSync(join(tmpdir(), 'xhyve-kill-')), 'pid');
    const child = spawn(node, [fileURLToPath(new URL('./fixtures/deaf-guest.ts', import.meta.url)), path]);
    let text = '';
    child.stderr.on('data', (d) => {
      text += d;
      if (text.includes('running') && !text.includes('listen')) child.kill('SIGTERM');
      if (text.includes('a second signal ends it')) child.kill('SIGTERM');
    });
    const [code, signal] = await new Promise<[number | null, string | null]>((done) =>
      child.on('exit', (c, s) => done([c, s])),
    );
    expect([code, signal]).toEqual([null, 'SIGTERM']);
    expect(existsSync(path)).toBe(false);
  });
  it.skipIf(major < 24)('the program answers --version and refuses nonsense with status 1', () => {
    const bin = fileURLToPath(new URL('../bin/xhyve.js', import.meta.url));
    const v = spawnSync(node, [bin, '--version']);
    expect([v.status, v.stdout.toString()]).toEqual([0, 'xhyve 0.1.0\n']);
    const bad = spawnSync(node, [bin, '-m', '0', '-f', 'kexec,k']);
    expect(bad.status).toBe(1);
    expect(bad.stderr.toString()).toMatch(/^xhyve: -m 0: [^\n]*\n$/u);
  });
});
