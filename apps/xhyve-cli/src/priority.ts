// Which threads of this process the host's scheduler prefers. The guest runs on the main thread; on a host with few
// processors it would share one with V8's compilers and with the translator, whose work can wait.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setPriority } from 'node:os';
import { basename } from 'node:path';

/** Nice value of V8's compilers, which make faster what runs already. */
const COMPILERS = 10;
/**
 * And of the translator. With few processors it would otherwise make regions faster than V8 optimises them, and a guest's
 * programs would run in baseline code for longer: first runs of eight programs took 13 to 20 % more, and half as much again
 * with the translator before the compilers.
 */
const TRANSLATOR = 19;

/** Puts the threads of V8's pool behind the others. Linux has priorities per thread; elsewhere nothing changes. */
export function lowerCompilers(): void {
  if (process.platform !== 'linux') return;
  try {
    for (const id of readdirSync('/proc/self/task'))
      if (readFileSync(`/proc/self/task/${id}/comm`, 'utf8').includes('V8Worker')) setPriority(Number(id), COMPILERS);
  } catch {
    // Not allowed, or no /proc: it works all the same.
  }
}

/** Puts the calling thread, the translator's, behind all others. */
export function lowerThisThread(): void {
  if (process.platform !== 'linux') return;
  try {
    setPriority(Number(basename(readlinkSync('/proc/thread-self'))), TRANSLATOR);
  } catch {
    // As above.
  }
}
