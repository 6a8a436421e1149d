// How failures travel inside this package: as exceptions with a BlockStatus, turned into that status at the surface.
import type { BlockStatus, Logger } from '@hyve/core';

/** @internal A failed request. */
export class BlockFault extends Error {
  readonly status: BlockStatus;
  /** Whether the image must not be written any more. */
  readonly fatal: boolean;
  constructor(status: BlockStatus, message: string, cause?: unknown, fatal = false) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'BlockFault';
    this.status = status;
    this.fatal = fatal;
  }
}

/** @internal A table of an image is damaged. */
export function damage(message: string): BlockFault {
  return new BlockFault('io-error', message, undefined, true);
}

/** @internal The `code` of a Node error such as `ENOSPC`, or its message. */
export function errorCode(e: unknown): string {
  if (typeof e === 'object' && e !== null && 'code' in e && typeof e.code === 'string') return e.code;
  return e instanceof Error ? e.message : String(e);
}

/** @internal The status a failure ends a request with. */
export function statusOf(e: unknown): BlockStatus {
  if (e instanceof BlockFault) return e.status;
  switch (errorCode(e)) {
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return 'no-space';
    case 'EROFS':
    case 'EBADF':
    case 'EPERM':
      return 'read-only';
    default:
      return 'io-error';
  }
}

/** @internal Logs the first failure of each kind, so that a guest that retries does not fill the log. */
export class FaultLog {
  private readonly seen = new Set<string>();
  private readonly logger: Logger;
  private readonly who: string;
  constructor(logger: Logger, who: string) {
    this.logger = logger;
    this.who = who;
  }
  /** Notes a failure and gives its status. */
  note(what: string, e: unknown): BlockStatus {
    const status = statusOf(e);
    const key = `${what} ${errorCode(e)}`;
    if (this.seen.size < 64 && !this.seen.has(key)) {
      this.seen.add(key);
      this.logger.warn(
        `${this.who}: ${what} failed: ${e instanceof Error ? e.message : String(e)} (further ones go unreported)`,
      );
    }
    return status;
  }
}
