// How the command fails: one line on stderr and an exit status. bhyve(8): 1 for usage, 4 for errors.
import { HyveError, isHyveError } from '@hyve/core';

/** The command line asks for something impossible. @returns an error that ends the process with status 1 */
export function usageError(message: string): HyveError {
  return new HyveError('CLI_USAGE', message);
}

/** The command line asks for something Hyve does not have yet. Ends the process with status 1. */
export function notBuilt(what: string): HyveError {
  return new HyveError('CLI_NOT_BUILT', `${what} is not built yet`);
}

/** The machine or a download could not be carried out. Ends the process with status 4. */
export function runError(message: string, cause?: unknown): HyveError {
  return new HyveError('CLI_RUN', message, cause);
}

/** The exit status an error ends the process with: 1 when the command line is at fault, 4 otherwise. */
export function exitStatusOf(e: unknown): number {
  return isHyveError(e, 'CLI_USAGE') || isHyveError(e, 'CLI_NOT_BUILT') ? 1 : 4;
}

const CONTROLS = /[\u0000-\u001f\u007f-\u009f]+/g;

/** Any thrown value as the one line `xhyve: …`, control characters made visible as spaces. */
export function errorLine(e: unknown): string {
  const text = e instanceof Error ? e.message : String(e);
  return `xhyve: ${text.replace(CONTROLS, ' ').trim()}`;
}
