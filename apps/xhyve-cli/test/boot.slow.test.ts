// Kernels that others built, booted through the program to their shells, menus and screens, with one processor and with
// four; and no warning of theirs that they do not give under QEMU too.
import { spawnSync } from 'node:child_process';
import { describe, expect, it, type TestContext } from 'vitest';
import type { PulledImage } from '../src/images/index.ts';
import { bootArgs, Guest, image, tinycoreKernel } from './guest.ts';

const SECONDS = 180;
const TIMEOUT = { timeout: 2 * SECONDS * 1000 };

async function need(context: TestContext, name: string): Promise<PulledImage> {
  const found = await image(name);
  if (typeof found === 'string') return context.skip(found);
  return found;
}

/** xhyve's own kernel has no user space of its own at hand: it gets our initrd, whose BusyBox is static. */
async function tinycore(context: TestContext): Promise<PulledImage> {
  const kernel = tinycoreKernel();
  if (typeof kernel === 'string') return context.skip(kernel);
  const other = await need(context, 'debian-cloud');
  return { ...other, paths: { ...other.paths, kernel: kernel.path } };
}

const qemu = spawnSync('qemu-system-x86_64', ['--version'], { stdio: 'ignore' }).status === 0;

/**
 * A warning without its time and its numbers: "hrtimer: interrupt took N ns". The names of power states go too: QEMU can
 * leave out S3 and S4, as bhyve does, and its kernels then miss them in the same words as S1 and S2.
 */
function kind(line: string): string {
  return line
    .replace(/^(<\d>)?(\[ *[\d.]+\] )?/u, '')
    .replace(/\\_S\d_/gu, '\\_Sx_')
    .replace(/^ACPI: [A-Z]{4} 0x.*/u, 'ACPI: a table')
    .replace(/0x[0-9a-f]+|\b[0-9a-f]*\d[0-9a-f]*\b|\d+/giu, 'N');
}

/** Lines of `dmesg -r` at level warn and worse. */
function warnings(dmesg: string): string[] {
  return dmesg.split('\n').filter((l) => /^<[0-4]>/u.test(l));
}

/** Kernel messages at level warn and worse under QEMU, by kind. */
async function underQemu(i: PulledImage, cpus: number): Promise<Set<string>> {
  const machine = ['-M', 'q35', '-cpu', 'max', '-m', i.manifest.memory, '-smp', String(cpus)];
  const quiet = ['-nodefaults', '-nographic', '-no-reboot', '-serial', 'stdio'];
  const args = ['-kernel', i.paths.kernel ?? '', '-initrd', i.paths.initrd ?? ''];
  const g = new Guest('qemu-system-x86_64', [...machine, ...quiet, ...args, '-append', 'console=ttyS0 quiet']);
  try {
    await g.prompt(SECONDS);
    return new Set(warnings(await g.run('dmesg -r')).map(kind));
  } finally {
    await g.end();
  }
}

/**
 * Messages that say how the host was loaded, not what the machine is: somebody else had the processor for longer than the
 * kernel allows a timer interrupt, or for the 0.2 ms in which its calibration against the 8254 wants to look again.
 */
const OF_THE_HOST =
  /hrtimer: interrupt took N ns$|^clocksource: timekeeping watchdog|^tsc: Fast TSC calibration failed|^tsc: Unable to calibrate against PIT/u;

describe.each([
  ['debian-cloud', (c: TestContext) => need(c, 'debian-cloud')],
  ['debian-full', (c: TestContext) => need(c, 'debian-full')],
  ['debian-i386', (c: TestContext) => need(c, 'debian-i386')],
  ['tinycore', tinycore],
] as const)('%s', (_name, get) => {
  it.for([1, 4])(
    'boots to a shell on %d processors, warns of nothing that it does not under QEMU',
    TIMEOUT,
    async (cpus, context) => {
      const i = await get(context);
      const g = Guest.start(bootArgs(i, { cpus }));
      try {
        await g.prompt(SECONDS);
        // Kernel messages may come in between.
        const last = async (line: string): Promise<string | undefined> => (await g.run(line)).split('\n').at(-1);
        expect(await last('nproc')).toBe(String(cpus));
        const clock = '/sys/devices/system/clocksource/clocksource0/current_clocksource';
        // The first reading may come before the kernel has refined its calibration.
        expect(await last(`until grep tsc ${clock} || [ $((n++)) -gt 50 ]; do usleep 100000; done; cat ${clock}`)).toBe(
          'tsc',
        );
        const ours = warnings(await g.run('dmesg -r'));
        g.send('poweroff\n');
        expect(await g.status()).toBe(1);
        expect(g.errors).toBe('');
        const unexplained = ours.filter((l) => !OF_THE_HOST.test(kind(l)));
        if (unexplained.length > 0) {
          if (!qemu) context.skip(`qemu-system-x86_64 is missing; boots, and warns of\n${unexplained.join('\n')}`);
          const theirs = await underQemu(i, cpus);
          expect(unexplained.filter((l) => !theirs.has(kind(l)))).toEqual([]);
        }
      } finally {
        await g.end();
      }
    },
  );
});

describe.each(['debian-netboot', 'debian-netboot-i386'])('%s', (name) => {
  // Once more where it fails: on one processor the kernel counts the ticks of ten periods of its timer in real time, and a
  // host that takes the processor away meanwhile looks to it like a timer that is not connected.
  it.for([1, 4])('boots to its first menu on %d processors', { ...TIMEOUT, retry: 1 }, async (cpus, context) => {
    const i = await need(context, name);
    // On one processor the console shows warnings alone.
    const g = Guest.start(bootArgs(i, { cpus, append: cpus === 1 ? 'loglevel=5' : '' }));
    try {
      if (cpus === 1) {
        await g.expect(/\u001b/u, SECONDS); // the first thing on the screen that is no kernel message
        const shown = g.text.slice(0, g.text.indexOf('\u001b'));
        const ours = shown.split(/\r?\n/u).filter((l) => /^\[ *\d+\.\d+\]/u.test(l));
        // A 32-bit kernel without PAE says so of any window above 4 GiB, under QEMU too.
        const known = /acpi resource window .* ignored, not CPU addressable/u;
        expect(ours.filter((l) => !known.test(l) && !OF_THE_HOST.test(kind(l)))).toEqual([]);
      } else await g.expect(new RegExp(`Brought up 1 node, ${cpus} CPUs`, 'u'), SECONDS);
      await g.expect(/Select a language/u, SECONDS);
      await g.expect(/English/u);
    } finally {
      await g.end();
    }
  });
});

describe('memtest86', () => {
  it('runs its tests on the serial console', TIMEOUT, async (context) => {
    const i = await need(context, 'memtest86');
    const g = Guest.start(bootArgs(i));
    try {
      await g.expect(/Memtest86\+ v\d/u, SECONDS);
      await g.expect(/#0 {2}\[Address test/u, SECONDS);
      await g.expect(/#[1-9] {2}\[/u, SECONDS); // a first test has passed
      await g.expect(/Errors: 0/u, SECONDS);
      expect(g.text).not.toMatch(/Errors: [1-9]/u);
      g.kill('SIGTERM');
      while (!g.errors.includes('does not listen to the power button')) await g.expect(/[\s\S]/u);
      g.kill('SIGTERM'); // the second one ends the process
      expect(await g.status()).toBe('SIGTERM');
    } finally {
      await g.end();
    }
  });
});
