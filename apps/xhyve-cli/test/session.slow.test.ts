// A user at the keyboard of a real guest: how fast it answers, whose Ctrl-C it is, and every way out with its exit status.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, type TestContext } from 'vitest';
import type { PulledImage } from '../src/images/index.ts';
import { bootArgs, Guest, image, noTerminal, plain } from './guest.ts';

const SECONDS = 120;
const TIMEOUT = { timeout: 2 * SECONDS * 1000 };
const noTty = noTerminal();
let cloud: PulledImage | string = '';
beforeAll(async () => {
  cloud = await image('debian-cloud');
});

function guest(context: TestContext): PulledImage {
  if (typeof cloud === 'string') return context.skip(cloud);
  return cloud;
}

/** Boots, types `line` at the prompt and says how the program ended. */
async function after(context: TestContext, act: (g: Guest) => Promise<void> | void): Promise<number | string> {
  const g = Guest.start(bootArgs(guest(context), { append: 'quiet' }));
  try {
    await g.prompt(SECONDS);
    await act(g);
    return await g.status();
  } finally {
    await g.end();
  }
}

describe('ways out', () => {
  it('poweroff exits 1', TIMEOUT, async (context) => {
    expect(await after(context, (g) => g.send('poweroff\n'))).toBe(1);
  });
  it('reboot exits 0', TIMEOUT, async (context) => {
    expect(await after(context, (g) => g.send('reboot\n'))).toBe(0);
  });
  it('sysrq-b exits 0', TIMEOUT, async (context) => {
    expect(await after(context, (g) => g.send('echo b >/proc/sysrq-trigger\n'))).toBe(0);
  });
  it('halt exits 2', TIMEOUT, async (context) => {
    expect(await after(context, (g) => g.send('halt\n'))).toBe(2);
  });
  it('SIGTERM makes the guest shut down, which exits 1', TIMEOUT, async (context) => {
    expect(await after(context, (g) => g.kill('SIGTERM'))).toBe(1);
  });
  it(
    'a guest that has crashed ignores the first SIGTERM, and the second ends the process',
    TIMEOUT,
    async (context) => {
      const status = await after(context, async (g) => {
        g.send('echo c >/proc/sysrq-trigger\n');
        await g.expect(/Kernel panic - not syncing: sysrq triggered crash/u);
        g.kill('SIGTERM');
        await new Promise((resolve) => setTimeout(resolve, 1000));
        g.kill('SIGTERM');
      });
      expect(status).toBe('SIGTERM');
    },
  );
  it('a guest that panics resets when told to, which exits 0', TIMEOUT, async (context) => {
    const status = await after(context, (g) => g.send('echo 1 >/proc/sys/kernel/panic; echo c >/proc/sysrq-trigger\n'));
    expect(status).toBe(0);
  });
});

describe.skipIf(noTty !== null)(`on a terminal${noTty === null ? '' : ` (skipped: ${noTty})`}`, () => {
  it('answers keys within 100 ms, leaves Ctrl-C to the guest, restores the terminal', TIMEOUT, async (context) => {
    const args = bootArgs(guest(context), { append: 'quiet' });
    const g = Guest.onTerminal(args, (line) => `stty -g; ${line}; echo "status $?"; stty -g`);
    try {
      const before = (await g.expect(/^[0-9a-f:]+$/mu)).at(0);
      await g.expect(/Ctrl-\] then x/u, SECONDS);
      await g.prompt(SECONDS);

      // Echo of each key, and the answer to a line.
      const echo: number[] = [];
      for (const key of 'echo $((6*7))') {
        const at = performance.now();
        g.send(key);
        await g.expect(new RegExp(key.replace(/[$()*]/u, '\\$&'), 'u'));
        echo.push(performance.now() - at);
      }
      const at = performance.now();
      g.send('\r');
      await g.expect(/\n42\r/u);
      const answer = performance.now() - at;
      await g.prompt();
      echo.sort((a, b) => a - b);
      // The median: a busy test machine may miss a beat.
      expect([echo[echo.length >> 1]! < 100, answer < 200], `echo ${echo}, answer ${answer} ms`).toEqual([true, true]);

      g.send('echo begin; sleep 1000\r');
      await g.expect(/\nbegin\r/u);
      g.send('\x03');
      await g.prompt();
      expect(await g.run('echo $?')).toBe('130');
      g.send('echo wrg\x1b[Don\x7f\x1b[C\x1b[D\r'); // left, o n, rubout, right, left
      await g.expect(/\nwrog\r/u);
      await g.prompt();
      g.send('sleep 1000\r');
      await new Promise((resolve) => setTimeout(resolve, 500));
      g.send('\x1a'); // job control
      await g.expect(/Stopped/u);
      await g.prompt();
      expect(await g.run('kill %1; echo gone')).toContain('gone');
      g.send('poweroff\r');
      await g.expect(/status 1/u);
      const modes = (await g.expect(/[0-9a-f]+:[0-9a-f:]+/u)).at(0);
      expect(modes).toBe(before);
      expect(await g.status()).toBe(0); // of script's shell
    } finally {
      await g.end();
    }
  });

  it('Ctrl-] x leaves, with the terminal restored', TIMEOUT, async (context) => {
    const args = bootArgs(guest(context), { append: 'quiet' });
    const g = Guest.onTerminal(args, (line) => `stty -g; ${line}; echo "status $?"; stty -g`);
    try {
      const before = (await g.expect(/^[0-9a-f:]+$/mu)).at(0);
      await g.prompt(SECONDS);
      g.send('\x1dx');
      await g.expect(/status 1/u);
      expect((await g.expect(/[0-9a-f]+:[0-9a-f:]+/u)).at(0)).toBe(before);
    } finally {
      await g.end();
    }
  });

  it('a terminal that goes away shuts the guest down', TIMEOUT, async (context) => {
    const dir = mkdtempSync(join(tmpdir(), 'xhyve-hangup-'));
    const pidFile = join(dir, 'pid');
    const g = Guest.onTerminal(['-F', pidFile, ...bootArgs(guest(context), { append: 'quiet' })]);
    try {
      await g.prompt(SECONDS);
      const pid = Number(readFileSync(pidFile, 'utf8'));
      await g.end(); // script holds the terminal's other end
      const until = performance.now() + 20_000;
      const alive = (): boolean => spawnSync('kill', ['-0', String(pid)]).status === 0;
      while (alive() && performance.now() < until) await new Promise((resolve) => setTimeout(resolve, 100));
      expect(alive()).toBe(false);
      expect(() => readFileSync(pidFile)).toThrow('ENOENT');
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

describe("xhyve's own script", () => {
  const dir = mkdtempSync(join(tmpdir(), 'xhyve-script-'));
  afterAll(() => rmSync(dir, { recursive: true }));

  it('works as it stands', TIMEOUT, async (context) => {
    const { kernel, initrd } = guest(context).paths;
    symlinkSync(kernel!, join(dir, 'vmlinuz'));
    symlinkSync(initrd!, join(dir, 'initrd.gz'));
    const program = join(import.meta.dirname, '../bin/xhyve.js');
    const line =
      'xhyve -A -m 1G -s 0:0,hostbridge -s 31,lpc -l com1,stdio -f kexec,vmlinuz,initrd.gz,"earlyprintk=serial console=ttyS0"';
    const shell = `cd '${dir}' && xhyve() { exec '${process.execPath}' '${program}' "$@"; }; ${line}`;
    const g = new Guest('sh', ['-c', shell]);
    try {
      await g.prompt(SECONDS);
      expect(plain(g.text)).toContain('earlyprintk=serial console=ttyS0');
      expect(await g.run('grep -c MemTotal /proc/meminfo')).toBe('1');
      g.send('poweroff\n');
      expect(await g.status()).toBe(1);
    } finally {
      await g.end();
    }
  });
});
