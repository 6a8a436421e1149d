// A lab guest in a process of its own, and what its tests ask of it.

import type { PulledImage } from '../../../apps/xhyve-cli/src/images/index.ts';
import { Guest } from '../../../apps/xhyve-cli/src/testing/guest.ts';

/** How a lab guest is started. */
export interface LabOptions {
  /** Slots besides host bridge and LPC, as after `-s`. */
  readonly slots: readonly string[];
  /** Processors; default 2. */
  readonly cpus?: number;
  /** Memory as after `-m`; default 768M, of which the initrd takes 200. */
  readonly memory?: string;
  /** More for the kernel's command line. */
  readonly append?: string;
  /** More options, such as `-W`. */
  readonly flags?: readonly string[];
}

/** Starts the lab's guest and waits for its shell. @throws with the screen when it does not come */
export async function startLab(image: PulledImage, o: LabOptions): Promise<Guest> {
  const g = Guest.start(labArgs(image, o));
  try {
    await g.prompt(300);
    return g;
  } catch (e) {
    await g.end();
    throw e;
  }
}

/** The words {@link startLab} gives the program. */
export function labArgs(image: PulledImage, o: LabOptions): string[] {
  const { kernel, initrd } = image.paths;
  const slots = ['0:0,hostbridge', '31,lpc', ...o.slots].flatMap((s) => ['-s', s]);
  return [
    ...['--engine', 'soft', '-A', '-u', '-m', o.memory ?? '768M', '-c', String(o.cpus ?? 2), ...slots],
    ...['-l', 'com1,stdio', ...(o.flags ?? [])],
    ...['-f', `kexec,${kernel},${initrd},console=ttyS0 quiet LINES=25 COLUMNS=999 ${o.append ?? ''}`.trimEnd()],
  ];
}

/** Runs a line and wants its success. @returns what it printed @throws with that when it fails */
export async function must(g: Guest, line: string, seconds = 120): Promise<string> {
  const out = await g.run(`${line}; echo "[$?]"`, seconds);
  const m = /\n?\[(\d+)\]$/u.exec(out);
  if (m === null || m[1] !== '0') throw new Error(`${line}: status ${m?.[1] ?? '?'}\n${out}`);
  return out.slice(0, m.index);
}

/** Kernel messages about trouble with disks and interrupts. */
export async function trouble(g: Guest): Promise<string> {
  return g.run('lab-trouble');
}

/** Ends the guest. @throws unless it powers off */
export async function powerOff(g: Guest): Promise<void> {
  g.send('poweroff\n');
  const status = await g.status(60);
  if (status !== 1) throw new Error(`ended with ${status} instead of 1, power off: ${g.errors}`);
}
