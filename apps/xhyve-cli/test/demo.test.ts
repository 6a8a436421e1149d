import type { CharBackend } from '@hyve/core';
import type { MachineSpec, PcHost, StopReason } from '@hyve/pc';
import { describe, expect, it } from 'vitest';
import { type DemoHost, demo, demoArgs, PanicWatch, ScriptedConsole } from '../src/demo.ts';
import type { PulledImage } from '../src/images/index.ts';
import { SOFT_ONLY } from './helpers.ts';

const image: PulledImage = {
  cached: true,
  paths: { kernel: '/c/k', initrd: '/c/i', code: null, vars: null, iso: null, disk: null },
  manifest: {
    v: 1,
    name: 'debian-cloud',
    version: '6.1',
    files: [],
    cmdline: 'console=ttyS0',
    memory: '512M',
    sources: [],
    notes: [],
  },
};
const bytes = (s: string) => new TextEncoder().encode(s);

/** A guest with a serial console, a boot log and a shell. */
function host(o: {
  behave: boolean;
  panics?: boolean;
  interactive?: boolean;
  limitMs?: number;
}): DemoHost & { out: string[]; err: string[] } {
  const out: string[] = [];
  const err: string[] = [];
  const createPc = async (s: MachineSpec, h: PcHost) => {
    const tty: CharBackend = await h.openChar({
      name: 'com1',
      backend: 'backend' in s.lpc[0]! ? s.lpc[0].backend : '',
    });
    let end: (r: StopReason) => void = () => {};
    let line = '';
    const say = (t: string): void => {
      for (const b of bytes(t)) tty.write(Uint8Array.of(b)); // a UART sends one byte at a time
    };
    return {
      run: () =>
        new Promise<StopReason>((done) => {
          end = done;
          tty.onData = (typed) => {
            for (const b of typed) {
              const c = String.fromCharCode(b);
              if (c !== '\n') {
                say(c);
                line += c;
                continue;
              }
              say('\r\n');
              const command = line;
              line = '';
              if (command === 'uname -a') say('Linux hyve 6.1.0 x86_64 GNU/Linux\r\n\u001b[1m~ # \u001b[0m\u001b[6n');
              else if (command === 'poweroff') done('poweroff');
            }
          };
          say('[    0.000000] Linux version 6.1.0 # 1 SMP\r\n[    1.0] # # done\r\n');
          if (o.behave) say('\r\n~ # \u001b[6n');
          if (o.panics === true) {
            say('[    2.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n');
            done('reset');
          }
        }),
      powerButton: () => true,
      forceOff: () => end('poweroff'),
      close: () => tty.close(),
      stats: () => ({}),
    };
  };
  return {
    out,
    err,
    print: (l) => void out.push(l),
    io: { note: (l) => void err.push(l), isRaw: () => false, restoreTerminal: () => {} },
    interactive: o.interactive ?? false,
    size: null,
    loadBoard: async () => ({ support: SOFT_ONLY, createPc, hasTranslatorThread: () => false }),
    pull: async () => image,
    limitMs: o.limitMs ?? 5000,
  };
}

describe('the demo without a terminal', () => {
  it("prints the guest's answer to uname -a, powers it off and gives 0", async () => {
    const h = host({ behave: true });
    expect(await demo(h)).toBe(0);
    expect(h.out[1]).toBe('Linux hyve 6.1.0 x86_64 GNU/Linux');
    expect(h.err).toEqual([]);
  });
  it('gives 4 and the guest’s last words when no prompt comes in time', async () => {
    const h = host({ behave: false, limitMs: 50 });
    expect(await demo(h)).toBe(4);
    expect(h.err.at(-2)).toBe('guest: [    1.0] # # done');
    expect(h.err.at(-1)).toMatch(/^xhyve: demo: no shell prompt came in [\d.]+ s, the time limit$/u);
  });
  it('ends at once when the guest’s kernel panics', async () => {
    const h = host({ behave: false, panics: true });
    expect(await demo(h)).toBe(4);
    expect(h.err.at(-1)).toMatch(/^xhyve: demo: the guest’s kernel panicked in [\d.]+ s \(status 0\)$/u);
  });
  it('gives one line when the image cannot be had', async () => {
    const h = host({ behave: true });
    const offline = { ...h, pull: () => Promise.reject(new Error('pull debian-cloud: cannot reach the network')) };
    expect(await demo(offline)).toBe(4);
    expect(h.err).toEqual(['xhyve: pull debian-cloud: cannot reach the network']);
  });
});

describe('the demo’s machine', () => {
  it('tells the guest how large the terminal is', () => {
    expect(demoArgs(image, { rows: 50, columns: 132 }).join(' ')).toBe(
      '-A -u -m 512M -s 0:0,hostbridge -s 31,lpc -l com1,stdio -f kexec,/c/k,/c/i,console=ttyS0 panic=-1 LINES=50 COLUMNS=132 demo',
    );
  });
});

describe('PanicWatch', () => {
  it('finds a panic that comes in pieces, and nothing else', () => {
    const w = new PanicWatch();
    for (const c of '[ 1.0] Kernel panic - not synchronising') w.look(bytes(c));
    expect(w.seen).toBe(false);
    for (const c of '[ 1.0] Kernel panic - not syncing: Attempted to kill init!') w.look(bytes(c));
    expect(w.seen).toBe(true);
  });
});

describe('ScriptedConsole', () => {
  it('keeps its memory bounded', () => {
    const c = new ScriptedConsole(['x']);
    const line = bytes(`${'y'.repeat(999)}\n`);
    for (let i = 0; i < 3000; i++) c.write(line);
    expect(c.tail(1e9).join('\n').length).toBeLessThanOrEqual(1 << 16);
  });
});
