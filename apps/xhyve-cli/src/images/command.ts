// `xhyve pull` and `xhyve images`.
import { formatBytes } from '../sizes.ts';
import { ProgressDisplay, type ProgressSink } from './progress.ts';
import { listImages, type PulledImage, pullImage } from './pull.ts';

/** What the commands print to. */
export interface CommandHost {
  /** Prints text on stdout; a newline is added. */
  print(text: string): void;
}

/** stderr as a place for progress. */
export function stderrSink(): ProgressSink {
  return {
    isTTY: process.stderr.isTTY === true,
    columns: process.stderr.columns ?? 80,
    write: (text) => void process.stderr.write(text),
    now: () => performance.now(),
  };
}

/** Words for the shell; plain ones as they are. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/u.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A command line that boots the image, or null when it is no guest on its own. */
export function bootLine(image: PulledImage): string | null {
  const { kernel, initrd, code, vars, disk } = image.paths;
  const { cmdline, memory } = image.manifest;
  // The cache's copy stays as it is: what the guest writes goes to an overlay.
  const slot = disk === null ? '' : ` -s ${quoted(`3,virtio-blk,${disk},snapshot=on,format=qcow2`)}`;
  const base = `xhyve -m ${memory} -s 0,hostbridge${slot} -s 31,lpc -l com1,stdio`;
  if (kernel !== null) {
    const fields = ['kexec', kernel, initrd ?? '', cmdline ?? ''].join(',').replace(/,+$/u, '');
    return `${base} -f ${quoted(fields)}`;
  }
  return code === null ? null : `${base} -l ${quoted(`bootrom,${code}${vars === null ? '' : `,${vars}`}`)}`;
}

/** Carries out `xhyve pull`; returns the exit status. SIGINT and SIGTERM end it and leave the cache as it was. */
export async function pullCommand(
  o: { readonly name: string; readonly json: boolean; readonly force: boolean },
  host: CommandHost,
): Promise<number> {
  const display = new ProgressDisplay(stderrSink());
  const abort = new AbortController();
  const stop = (): void => abort.abort();
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  let image: PulledImage;
  try {
    image = await pullImage(o.name, { onProgress: (p) => display.report(p), signal: abort.signal, force: o.force });
  } finally {
    display.finish();
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
  if (o.json) {
    host.print(JSON.stringify({ ...image.manifest, paths: image.paths, cached: image.cached }, null, 2));
    return 0;
  }
  host.print(`${o.name} ${image.manifest.version}${image.cached ? ' (was in the cache)' : ''}`);
  for (const f of image.manifest.files)
    host.print(`  ${f.role.padEnd(7)} ${formatBytes(f.size).padStart(9)}  ${image.paths[f.role]}`);
  for (const n of image.manifest.notes) host.print(`  note: ${n}`);
  const line = bootLine(image);
  if (line !== null) host.print(`\nBoot it with:\n  ${line}`);
  const { disk } = image.paths;
  if (disk !== null)
    host.print(
      `\nWhat it writes is forgotten. To keep it, make a disk of your own and name that instead:\n  xhyve disk create -f qcow2 -b ${quoted(disk)} -F qcow2 ${o.name}.qcow2`,
    );
  return 0;
}

/** Carries out `xhyve images`; returns the exit status. */
export async function imagesCommand(o: { readonly json: boolean }, host: CommandHost): Promise<number> {
  const rows = await listImages();
  if (o.json) {
    host.print(
      JSON.stringify(
        rows.map((r) => ({ ...r, cached: r.manifest !== null })),
        null,
        2,
      ),
    );
    return 0;
  }
  for (const r of rows) {
    const state = r.manifest === null ? '-' : formatBytes(r.size);
    host.print(`${r.name.padEnd(20)} ${state.padStart(9)}  ${r.about} (${r.origin})`);
  }
  return 0;
}
