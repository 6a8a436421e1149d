// What the program's tests with real guests share. The guest itself is in src/testing, for others to use.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { type PulledImage, pullImage } from '../src/images/index.ts';

export { Guest, PROMPT, plain } from '../src/testing/guest.ts';

/** The words that boot an image: everything a machine needs, a serial console on stdio. */
export function bootArgs(
  image: PulledImage,
  o: { cpus?: number; append?: string; more?: readonly string[] } = {},
): string[] {
  const { kernel, initrd } = image.paths;
  const cmdline = `${image.manifest.cmdline ?? ''} ${o.append ?? ''}`.trim();
  return [
    ...['--engine', 'soft', '-A', '-u', '-m', image.manifest.memory, '-c', String(o.cpus ?? 1)],
    ...['-s', '0:0,hostbridge', '-s', '31,lpc', '-l', 'com1,stdio', ...(o.more ?? [])],
    ...['-f', `kexec,${kernel},${initrd ?? ''},${cmdline}`],
  ];
}

/** An image from the cache or from Debian; a string says why there is none here. */
export async function image(name: string): Promise<PulledImage | string> {
  try {
    return await pullImage(name);
  } catch (e) {
    return `${name} is not to be had here: ${e instanceof Error ? e.message : String(e)}`;
  }
}

/** Why tests on a terminal cannot run here, or null. */
export function noTerminal(): string | null {
  return spawnSync('script', ['-qec', 'true', '/dev/null']).status === 0 ? null : 'script (util-linux) is missing';
}

/** The kernel of the environment variable HYVE_TINYCORE: xhyve's own `test/vmlinuz`; a string says why there is none. */
export function tinycoreKernel(): { path: string } | string {
  const path = process.env['HYVE_TINYCORE'];
  if (path === undefined || path === '') return 'HYVE_TINYCORE does not name xhyve’s test/vmlinuz';
  return existsSync(path) ? { path } : `HYVE_TINYCORE=${path}: no such file`;
}
